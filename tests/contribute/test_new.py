"""`make new`: what it writes runs and obeys the rules, what it refuses leaves no trace."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hooks import ROOT
from tests.contribute.conftest import Run, finished, folders, tree

FILES = {
    "docs/en/basics/shuffle_units.md",
    "docs/zh/basics/shuffle_units.md",
    "snippets/basics/shuffle_units.py",
    "tests/snippets/basics/test_shuffle_units.py",
    "docs/figures/basics/shuffle_units.py",
    "docs/assets/figures/basics/shuffle_units.en.svg",
    "docs/assets/figures/basics/shuffle_units.zh.svg",
}
SHARED = {"docs/glossary.yml", "tests/site/queries.yml"}


@pytest.mark.slow
def test_what_is_written_runs_and_lacks_only_what_is_named(project: Path, run: Run) -> None:
    before = tree(project)
    result = run("new", "basics", "shuffle_units", "Shuffle units", "通道混洗unit")
    assert result.returncode == 0, result.stderr
    after = tree(project)
    assert after.keys() - before.keys() == FILES
    assert {name for name in before if before[name] != after[name]} == SHARED
    for name in [*FILES, "make check", "make figures", "basics/shuffle_units/"]:
        assert name in result.stdout

    # Only what is still to be written is wrong, and all of that is named.
    check = run("check")
    marks = {
        f"{name}:{number}: still to be written: "
        for name, content in after.items()
        if not name.startswith("hooks/")
        for number, line in enumerate(content.decode().splitlines(), 1)
        if "TODO(new):" in line
    }
    *lines, last = check.stdout.splitlines()
    found = {match[0] for line in lines if (match := re.match(r".*?:\d+: still to.*?: ", line))}
    assert check.returncode == 1 and found == marks and len(marks) > 40
    assert last == f"{len(lines)} things still to be written"
    assert {name.split(":")[0] for name in marks} == (FILES | SHARED) - {
        name for name in FILES if name.endswith(".svg")
    }

    # Once it is written, nothing is.
    for name in sorted(marks):
        file = project / name.split(":")[0]
        file.write_text(finished(file.read_text("utf-8")), "utf-8")
    check = run("check")
    assert check.returncode == 0, check.stdout
    assert check.stdout == "6 pages, 1 snippet: nothing to mend\n"
    fix = run("fix")
    assert fix.stdout == "Pages and glossary: nothing to mend\n"

    # The code is formatted; it prints what the page shows; its tests pass and its figure stays.
    python = [name for name in FILES if name.endswith(".py")]
    for arguments in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, *python], cwd=project, check=True)
    demo = [sys.executable, "-B", "-W", "error", "-m", "snippets.basics.shuffle_units"]
    printed = subprocess.run(demo, cwd=project, capture_output=True, text=True, check=True).stdout
    for lang in ("en", "zh"):
        page = (project / f"docs/{lang}/basics/shuffle_units.md").read_text("utf-8")
        assert f"\n{printed}```\n" in page
        assert "通道混洗 unit" in page or lang == "en"
    tests = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"]
    tests += ["--hypothesis-profile", "ci", "tests/snippets/basics/test_shuffle_units.py"]
    result = subprocess.run(tests, cwd=project, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and re.search(r"\d\d passed", result.stdout), result.stdout
    assert run("figures", "shuffle_units").returncode == 0
    assert all((project / name).read_bytes() == after[name] for name in FILES if "svg" in name)
    english, chinese = (after[name] for name in sorted(FILES) if name.endswith(".svg"))
    assert b"currentColor" in english and "原来的一行".encode() in chinese


def test_without_titles_they_are_named_as_missing(project: Path) -> None:
    code = (
        "from hooks.contribute import new\n"
        "new.refuse('basics', 'a' * 60, 'A', '')\n"
        "for path, text in new.texts('basics', 'a' * 60, 'A: b', '').items():\n"
        "    print(text)\n"
        "    lines = text.splitlines() if path.suffix == '.py' else []\n"
        "    assert all(len(line) <= 100 for line in lines), text\n"
    )
    command = [sys.executable, "-B", "-c", code]
    text = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    assert 'title: "A: b"\n' in text and 'tags: ["A: b"] # TODO' in text
    assert 'title: "TODO(new): the Chinese name of A: b"\n' in text
    assert 'zh: "TODO(new): the Chinese name of A: b"\n' in text
    assert not re.search(r"_[A-Z]+_", text), "nothing is left of the templates"


REFUSED = {
    "../x": "cannot be the name of a concept; use lower-case letters",
    "Shuffle": "cannot be the name of a concept; use lower-case letters",
    "a-b": "cannot be the name of a concept",
    "_x": "cannot be the name of a concept",
    "a__b": "cannot be the name of a concept",
    "a\nb": "cannot be the name of a concept",
    "a" * 61: "at most 60",
    "": "a section and a name are needed, as in make new SECTION=",
    "lambda": "'lambda' is a word or module of Python; choose another name",
    "match": "is a word or module of Python",
    "random": "is a word or module of Python",
    "con": "cannot be the name of a file on Windows",
    "torch": "is a word or module of Python",
    "index": "'index' exists: docs/en/basics/index.md",
    "centring": r"'centring' exists: .*centring.*; choose another name",
    "elsewhere": "'elsewhere' exists: snippets/other/elsewhere.py",
}


def test_a_bad_name_is_refused(concepts: Path) -> None:
    (concepts / "snippets/other").mkdir()
    (concepts / "snippets/other/elsewhere.py").write_text("", "utf-8")
    before = tree(concepts)
    code = (
        "import sys\nfrom hooks.contribute import new\n"
        "for name in sys.argv[1:]:\n"
        "    try: new.main('basics', name)\n"
        "    except new.PluginError as error: print(repr(str(error)))\n"
    )
    command = [sys.executable, "-B", "-c", code, *REFUSED]
    result = subprocess.run(command, cwd=concepts, capture_output=True, text=True, check=True)
    for (name, message), line in zip(REFUSED.items(), result.stdout.splitlines(), strict=True):
        assert re.search(message, line), (name, line)
    assert tree(concepts) == before


def test_a_bad_section_or_title_is_refused(project: Path, run: Run) -> None:
    before = tree(project)
    for arguments, message in {
        ("basic", "x"): "no section 'basic'; did you mean 'basics'? A new one needs its index.md",
        ("../docs", "x"): "no section '../docs'; known: basics",
        ("labs", "x"): "no concept can be made in 'labs'; a lab is one file",
        ("basics", "x", "<b>"): "'<b>' cannot be a title; write plain text",
        ("basics", "x", "X", "$x$"): "'$x$' cannot be a title; write plain text",
    }.items():
        result = run("new", *arguments)
        assert result.returncode == 1 and message in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
    assert tree(project) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["the figure fails", "a file stands in the way", "SIGINT", "SIGTERM"]
)
def test_nothing_is_left_behind(project: Path, run: Run, what: str) -> None:
    script = project / "hooks/contribute/templates/figure.py"
    if what == "the figure fails":
        script.write_text(script.read_text("utf-8") + "\n\n1 / 0\n", "utf-8")
    elif what.startswith("SIG"):
        script.write_text("import time\n\ntime.sleep(600)\n", "utf-8")
    else:
        (project / "docs/assets/figures").mkdir(parents=True)
        (project / "docs/assets/figures/basics").write_text("", "utf-8")
    before = tree(project), folders(project)
    if what.startswith("SIG"):
        command = [sys.executable, "-B", "-m", "hooks", "new", "basics", "shuffle_units"]
        process = subprocess.Popen(command, cwd=project, env=os.environ, stderr=subprocess.DEVNULL)
        while not (project / "docs/zh/basics/shuffle_units.md").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.Signals[what])
        assert process.wait() != 0
    else:
        assert run("new", "basics", "shuffle_units").returncode != 0
    now = tree(project), folders(project)
    assert now[1] ^ before[1] == set() and now[0] == before[0]


def test_make_passes_the_values_on() -> None:
    """As they are: a value is never taken for a command."""
    title = 'It\'s "a" & `b`'
    command = ["make", "-n", "-o", ".venv/tests.done", "new", "SECTION=a", "NAME=b"]
    command.append(f"TITLE={title}")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert '"$SECTION" "$NAME" "$TITLE" "$ZH"' in result.stdout
