"""Writes the files of a new concept from `templates/`: all of them, or none (`make new`).

They run as they are, on a small example. What is still to be written says `TODO(new): …`, which
`make check` and the tests refuse.
"""

import json
import keyword
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from mkdocs.exceptions import PluginError

from hooks import DOCS, LANGUAGES, ROOT, SNIPPETS, glossary, labs, svg
from hooks.contribute import mend, rules, safety
from hooks.contribute.mend import TEMPLATES
from hooks.errors import did_you_mean
from hooks.text import plain, read
from snippets._cli import copies

EXAMPLE = "make new SECTION=convolution NAME=shuffle_units"
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MODULES = {*keyword.kwlist, *keyword.softkwlist, *sys.stdlib_module_names, "torch", "triton"}
# Sections whose pages are not concepts with a snippet.
APART = {
    "labs": "a lab is one file, docs/labs/<name>.py",
    "benchmarks": "its pages report measurements; write them by hand",
}
LONGEST = 60  # signs of a name or title; they stand in lines of 100


def main(section: str = "", name: str = "", title: str = "", chinese: str = "") -> None:
    """`python -m hooks new SECTION NAME [TITLE] [TITLE IN CHINESE]`."""
    title = title.strip() or name.replace("_", " ").capitalize()
    chinese = mend.typography(chinese.strip())[0]
    refuse(section, name, title, chinese)
    written = write(section, name, texts(section, name, title, chinese))
    print(*(path.relative_to(ROOT) for path in written), sep="\n")
    test = ROOT / "tests" / "snippets" / section / f"test_{name}.py"
    print(
        f"""
Everything runs, on a small example; put {name} in its place: code, test, pages, figure. Then
  make check     says what is still to be written, and what is wrong, with file and line
  make fix       mends what a machine can
  make figures NAME={name}
                 draws the figure
  make serve     shows the page on http://127.0.0.1:8000/{section}/{name}/
  .venv/bin/python -m pytest {test.relative_to(ROOT)}"""
    )


def refuse(section: str, name: str, title: str, chinese: str) -> None:
    """Raise for what cannot be the name or the title of a new concept."""
    if not section or not name:
        raise PluginError(f"a section and a name are needed, as in {EXAMPLE}")
    found = rules.entries()
    sections = found["index"].meta["en"].get("sections", []) if "index" in found else []
    if section in APART:
        raise PluginError(f"no concept can be made in '{section}'; {APART[section]}")
    if section not in sections:
        hint = did_you_mean(section, set(sections) - set(APART))
        more = "A new one needs its index.md in docs/en and in docs/zh, as others have, and its "
        more += "place in `sections` of docs/en/index.md"
        raise PluginError(f"no section '{section}'; {hint} {more}")
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        message = f"lower-case letters, digits and _, at most {LONGEST}, as in shuffle_units"
        raise PluginError(f"'{name}' cannot be the name of a concept; use {message}")
    if name in MODULES:
        raise PluginError(f"'{name}' is a word or module of Python; choose another name")
    if safety.RESERVED.match(name):
        raise PluginError(f"'{name}' cannot be the name of a file on Windows; choose another name")
    pages = [path for entry in found.values() for path in entry.files.values()]
    files = [*rules.pages(), *rules.snippets(), *rules.tests(), *rules.scripts()]
    for path in [*pages, *files, *labs.sources(), *svg.OUTPUT.rglob("*.svg")]:
        if path.name.split(".")[0].removeprefix("test_") == name:
            raise PluginError(f"'{name}' exists: {path.relative_to(ROOT)}; choose another name")
    for text in (title, chinese):
        markup = re.search(r"[*_|#\[\]]", text) or (text and not plain(text))
        if markup or len(text) > LONGEST:
            message = f"plain text of at most {LONGEST} signs, without markup"
            raise PluginError(f"{text!r} cannot be a title; write {message}")


def texts(section: str, name: str, title: str, chinese: str) -> dict[Path, str]:
    """What is to stand where, the figure left out."""
    ours = chinese or f"{rules.MARKER} the Chinese name of {title}"
    lower = title[1:].partition(" ")[0].islower()  # "Shuffle units", but not "IoU of boxes"
    words = {
        "SECTION": section,
        "NAME": name,
        "TITLE": title,
        "ZH": ours,
        "TAG": _quoted(title),
        "ID": name.replace("_", "-"),
        "TERM": title[0].lower() + title[1:] if lower else title,
    }

    def fill(template: str) -> str:
        text = read(TEMPLATES / template)
        if not chinese:
            text = text.replace("[_ZH_TAG_, ", "[")
        text = re.sub(r"(?m)^(\s*(?:title|en|zh): )_(\w+)_$", _value, text)
        text = text.replace("_ZH_TAG_", _quoted(ours))
        return re.sub(r"_(SECTION|NAME|TITLE|ZH|TAG|ID|TERM)_", lambda m: words[m[1]], text)

    def _value(line: re.Match[str]) -> str:
        return line[1] + _quoted(words[line[2]])

    files = {DOCS / lang / section / f"{name}.md": fill(f"page.{lang}.md") for lang in LANGUAGES}
    for template, path in {
        "snippet.py": SNIPPETS / section / f"{name}.py",
        "test.py": rules.TESTS / section / f"test_{name}.py",
        "figure.py": DOCS / "figures" / section / f"{name}.py",
    }.items():
        files[path] = _formatted(fill(template))
    names = {
        str(word).lower()
        for term in glossary.load()
        for word in (term["id"], term["en"], term["zh"], *term.get("also", []))
    }
    if not names & {words["ID"], words["TERM"].lower(), ours.lower()}:
        files[glossary.FILE] = mend.in_order(read(glossary.FILE).rstrip() + "\n" + fill("term.yml"))
    if rules.QUERIES.is_file():
        files[rules.QUERIES] = read(rules.QUERIES) + fill("queries.yml")
    return files


def _quoted(value: str) -> str:
    """Text as a value in YAML, also within a list."""
    try:
        same = yaml.safe_load(f"[{value}]") == [value]
    except yaml.YAMLError:
        same = False
    return value if same else json.dumps(value, ensure_ascii=False)


def _formatted(code: str) -> str:
    """By ruff: where lines break depends on the length of the name."""
    command = [sys.executable, "-m", "ruff", "format", "--config", ROOT / "pyproject.toml", "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout


def write(section: str, name: str, files: dict[Path, str]) -> list[Path]:
    """Write the files and draw the figure; on any error, Ctrl+C too, all is as it was."""
    from hooks import figures  # here, for matplotlib takes a third of a second

    before = {path: path.read_bytes() if path.exists() else None for path in files}
    made = [p for path in files for p in path.parents if not p.exists()]
    drawn: list[Path] = []

    def stop(*_: Any) -> None:
        sys.exit(143)

    terminated = signal.signal(signal.SIGTERM, stop)
    try:
        copies.write({path: text.encode() for path, text in files.items()}, ROOT, before)
        for path, drawing in figures.draw(DOCS / "figures" / section / f"{name}.py"):
            made += [p for p in path.parents if not p.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.append(path)
            path.write_text(drawing, "utf-8", newline="\n")
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                copies.write({path: content}, ROOT, {})
        for path in drawn:
            path.unlink(missing_ok=True)
        for folder in sorted(made, reverse=True):
            if folder.is_dir() and not any(p.name != "__pycache__" for p in folder.iterdir()):
                _remove(folder)
        raise
    finally:
        signal.signal(signal.SIGTERM, terminated)
    return [*files, *drawn]


def _remove(folder: Path) -> None:
    for path in folder.rglob("*.pyc"):
        path.unlink()
    for path in [*folder.iterdir(), folder]:
        path.rmdir()
