"""Reading what people write: Markdown by lines, YAML with messages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hooks.errors import problem

FENCE = re.compile(r"^\s*(`{3,}|~{3,})(.*)$")


def lines_outside_code(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that does not stand in a fenced block."""
    fenced = ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if not fenced and not fence:
            yield number, line
        elif fence and not fenced:
            fenced = fence[1]
        elif fence and fence[1].startswith(fenced) and not fence[2].strip():
            fenced = ""


def read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        raise problem(path, 1, f"not in UTF-8 (byte {error.start}); save it as UTF-8") from None


def load_yaml(text: str, path: Path, first_line: int = 1) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a fast one, where PyYAML has it
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or error
        line = first_line + (mark.line if mark else 0)
        raise problem(path, line, f"not YAML: {what}") from None


def strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
