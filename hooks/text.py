"""Reading what people write: Markdown by lines, YAML with messages."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hooks.errors import problem

HEAD = re.compile(r"---\n(.*?)\n---(?:\n|\Z)", re.DOTALL)  # the front matter of a page
FENCE = re.compile(r"^\s*(`{3,}|~{3,})(.*)$")


def lines_outside_code(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that does not stand in a fenced block."""
    return ((number, line) for number, line, mark, _ in _fences(text) if not mark)


def openings(text: str) -> Iterator[tuple[int, str, str]]:
    """Number, mark and what follows it, of each line that opens a fenced block."""
    return ((number, mark, info) for number, _, mark, info in _fences(text) if info is not None)


def _fences(text: str) -> Iterator[tuple[int, str, str, str | None]]:
    """Number and text of each line, the mark of the block it stands in, what its opening says."""
    fenced = ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if fence and not fenced:
            fenced = fence[1]
            yield number, line, fenced, fence[2]
            continue
        yield number, line, fenced, None
        if fence and fence[1].startswith(fenced) and not fence[2].strip():
            fenced = ""


# What the rules search for can take the square of a line's length; none has 1,000 signs so far.
LONGEST = 5_000  # signs of a line
MOST = 300_000  # signs of a file


def read(path: Path) -> str:
    """The text of a file that people write; raises for one that no rule could read in time."""
    try:
        text = path.read_text("utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"not in UTF-8 (byte {error.start}); save it as UTF-8"
        raise problem(path, line, message) from None
    except OSError as error:  # a folder, or a link that leads nowhere
        raise problem(path, 1, f"cannot be read: {error.strerror}; put a file here") from None
    if len(text) > MOST:
        raise problem(path, 1, f"{len(text)} signs; a file has {MOST} at most; divide it")
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST:
            message = f"{len(line)} signs on one line; it has {LONGEST} at most; break it"
            raise problem(path, number, message)
    return text


def parse(path: Path) -> ast.Module:
    """A Python file."""
    try:
        return ast.parse(read(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", 0) or 1
        what = getattr(error, "msg", "") or str(error) or "nested too deeply"
        raise problem(path, line, f"not Python: {what}; mend it") from None


def load_yaml(text: str, path: Path, first_line: int = 1) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a fast one, where PyYAML has it
    try:
        depth = 0
        for event in yaml.parse(text, loader):
            line = first_line + event.start_mark.line
            if getattr(event, "anchor", None):  # such values may hold each other without end
                raise problem(path, line, "no & and * before values; put the text into quotes")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > 10:
                raise problem(path, line, "lists within lists within lists; write them flat")
        return yaml.load(text, loader)
    # What looks like a number or a day and is none, as 2024-99-99, fails in Python.
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or error
        line = first_line + (mark.line if mark else 0)
        raise problem(path, line, f"not YAML: {what}") from None


# Templates and scripts set titles, tags and terms into pages as they are.
MARKUP = re.compile(r'[<>"$`{}\\\n]|\][(\[:]|&#?\w+;')

PLAIN = 'one line of plain text, without < > " $ ` { } \\ and links'


def plain(text: object) -> bool:
    """Whether a title, a tag or a term is one line that nothing can take for markup."""
    if not isinstance(text, str) or not text.strip():
        return False
    return text.isprintable() and not MARKUP.search(text)  # YAML can hide signs, as in "\\u202e"


def strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True)
class Section:
    """What both languages share between one `##` heading and the next."""

    anchors: list[str]
    code: list[str]
    formulas: list[str]
    figures: list[str]
    widgets: list[str]
    links: set[str]
    numbers: set[str]


def sections(path: Path) -> dict[str, Section]:
    """The sections of a page by anchor; what stands before the first is called ''."""
    text = re.sub(r"\A---\n.*?\n---\n", "", read(path), flags=re.DOTALL)
    lines: list[str] = []
    codes: list[list[str]] = []
    for _, line, mark, info in _fences(text):
        if info is not None:
            codes.append([info.split(" ")[0]])
            lines.append("\0code")
        elif mark:
            codes[-1].append(line)
        else:
            lines.append(line)
    text = "\n".join(lines)
    numbered = map("\n".join, codes)
    found: dict[str, Section] = {}
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        head = re.search(r"^## .*\{ #([\w-]+) \}$", part, re.MULTILINE)
        anchors = re.findall(r"^#{2,} .*\{ #([\w-]+) \}$", part, re.MULTILINE)
        code = [next(numbered) for _ in range(part.count("\0code"))]
        prose = part.replace("\0code", "")
        prose = re.sub(r"\{ #[\w-]+ \}", "", prose)
        inline = re.findall(r"`([^`\n]+)`", prose)
        prose = re.sub(r"`[^`\n]+`", "", prose)
        figures = re.findall(r"!\[[^\]\n]*\]\(([^)\s]+)\.(?:en|zh)\.svg", prose)
        widgets = re.findall(r"\{ ?widget=([\w-]+)", prose)
        prose = re.sub(r"^!\[.*$", "", prose, flags=re.MULTILINE)
        links = set(re.findall(r"\]\(([^)\s]+)\)", prose))
        prose = re.sub(r"\]\([^)\n]*\)", "]", prose)
        display = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
        formulas = [" ".join(f.split()) for f in display.findall(prose)]
        prose = display.sub("", prose)
        formulas += [" ".join(f.split()) for f in re.findall(r"\$([^$\n]+)\$", prose)]
        prose = re.sub(r"\$[^$\n]+\$", "", prose)
        numbers = set(re.findall(r"\d+(?:[.,]\d+)*", prose))
        found[head[1] if head else ""] = Section(
            anchors, code + sorted(inline), sorted(formulas), figures, widgets, links, numbers
        )
    return found
