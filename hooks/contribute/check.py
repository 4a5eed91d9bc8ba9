"""Holds the rules of the house, and says all that is wrong (`make check`)."""

import re
import sys
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path

from mkdocs.exceptions import PluginError

from hooks import DOCS, ROOT, SNIPPETS, content, glossary, svg
from hooks.contribute.rules import QUERIES, TESTS, apply, cases, pages, snippets, written
from hooks.errors import did_you_mean
from hooks.text import read


def main(*names: str) -> None:
    """`python -m hooks check [PATH…]`: everything, or what the paths belong to."""
    found = problems()
    if names:
        files, concepts = belonging(map(Path, names))
        found = [e for e in found if _file(e) in files or _shared(e) & concepts]
    for error in found:
        print(error)
    if found:
        todo = sum(where(error)[2].strip().startswith("still to be written") for error in found)
        counts = [_count(len(found) - todo, "problem")] if len(found) > todo else []
        counts += [f"{_count(todo, 'thing')} still to be written"] if todo else []
        print(", ".join(counts))
        sys.exit(1)
    print(f"{_count(len(pages()), 'page')}, {_count(len(snippets()), 'snippet')}: nothing to mend")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def problems() -> list[PluginError]:
    """All problems, each once, by file and line."""
    found = chain.from_iterable(apply(rule, *thing) for rule, thing in cases())
    return sorted({str(error): error for error in found}.values(), key=where)


def where(error: PluginError) -> tuple[str, int, str]:
    """File, line and message."""
    file, line, message = (*str(error).split(":", 2), "", "")[:3]
    return (file, int(line), message) if line.isdecimal() else ("", 0, str(error))


def belonging(paths: Iterable[Path]) -> tuple[set[Path], set[str]]:
    """The concepts to which the paths belong, as section/name, and all files of them."""
    files = [*written(), *svg.OUTPUT.rglob("*.svg")]
    found: set[Path] = set()
    for path in (path.resolve() for path in paths):
        inside = {file for file in files if file.is_relative_to(path)}
        if not inside and not path.exists():
            raise PluginError(f"no file or folder '{path}'; {did_you_mean(path.name, _names())}")
        found |= inside
    concepts = {name for file in found for name in _concepts(file)}
    return found | {file for file in files if _concepts(file) & concepts}, concepts


def _file(error: PluginError) -> Path:
    return (ROOT / where(error)[0]).resolve()


def _shared(error: PluginError) -> set[str]:
    """The pages that an entry of a file that all concepts share is about."""
    if _file(error) not in (glossary.FILE, QUERIES):
        return set()
    lines = read(_file(error)).splitlines()
    entry = lines[where(error)[1] - 1 :]  # and what follows it
    ends = (n for n, line in enumerate(entry) if n and (not line or line.startswith("- ")))
    entry = entry[: next(ends, len(entry))]
    return set(re.findall(r"(?:page: |want: \[)([\w/]+)", "\n".join(entry)))


def _names() -> set[str]:
    return {path.name for path in written()}


def _concepts(file: Path) -> set[str]:
    """The pages that a file is about, as section/name; none for what all of them share."""
    name = f"{file.parent.name}/{file.stem.removeprefix('test_')}"
    if file in (glossary.FILE, QUERIES):
        return set()
    if file.is_relative_to(DOCS / "assets"):
        return _shown_on().get(file.name, set())
    if file.is_relative_to(SNIPPETS) or file.is_relative_to(TESTS):
        return _shown_on().get(f"{name}.py", {name})
    if file.suffix == ".md":
        return {"/".join(file.relative_to(DOCS).with_suffix("").parts[1:])}
    return {name}


@cache
def _shown_on() -> dict[str, set[str]]:
    """The pages that show a snippet, as section/name.py, or a figure, by its name."""
    found: dict[str, set[str]] = {}
    for path in pages():
        shown = [snippet.relative_to(SNIPPETS).as_posix() for snippet in content.embeds(path)]
        shown += re.findall(r"assets/figures/[\w/]*?([\w.]+\.svg)", read(path))
        for name in shown:
            found.setdefault(name, set()).update(_concepts(path))
    return found
