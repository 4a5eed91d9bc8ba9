"""With what a snippet is compared: the line `Yardstick:` in the docstring of its test.

The tests below a heading with the word parity compare.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.exceptions import PluginError

from hooks.errors import did_you_mean, line_of, problem
from hooks.text import read
from snippets._cli import library

OWN = "own parts"
# What a yardstick may be, beside functions of libraries.
KINDS = {
    "plain loops": "纯循环",
    "closed form": "解析解",
    "definition in float64": "双精度的定义式",
    "finite differences": "有限差分",
    OWN: "本站自己的零件",
}
DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
HEADING = re.compile(r"^# (.*?) -{8,}$")
TEST = re.compile(r"^def (test_\w+)")


def test_file(name: str) -> Path:
    """Of a snippet."""
    section, stem = name.split("/")
    return library.TESTS / section / f"test_{stem}.py"


def yardstick(name: str) -> list[str]:
    """Functions of libraries by their full names, and words of KINDS; empty where none is named."""
    path = test_file(name)
    text = read(path) if path.is_file() else ""
    doc = DOCSTRING.match(text)
    line = " ".join(library.field(doc[1], "Yardstick").split()) if doc else ""
    found = line.removesuffix(".").split("; ") if line else []
    for word in found:
        if word not in KINDS and not re.fullmatch(r"[a-z]\w+(\.\w+)+", word):
            hint = did_you_mean(word, KINDS)
            message = f"yardstick '{word}' is no library.function and no known word; {hint}"
            raise problem(path, line_of(text, "Yardstick:"), message)
    return found


def check(path: Path) -> Iterator[PluginError]:
    """A test names its yardstick, uses it, and says which of its tests compare with it."""
    text = read(path)
    named = yardstick(f"{path.parent.name}/{path.stem.removeprefix('test_')}")
    line = line_of(text, "Yardstick:")
    if not named:
        message = "the docstring lacks its yardstick; add a line Yardstick: library.function"
        yield problem(path, 1, f"{message}, or one of: {'; '.join(KINDS)}")
    code = DOCSTRING.sub("", text, count=1)
    for root, *_, function in (word.split(".") for word in named if word not in KINDS):
        if not re.search(rf"^(import|from) {root}\b", code, re.MULTILINE):
            yield problem(path, line, f"the yardstick is of {root}, which is not imported here")
        elif not re.search(rf"\b{function}\b", code):
            yield problem(
                path, line, f"the yardstick '{function}' is not used here; compare with it"
            )
    if not parity_tests(text):
        message = "no test compares with the yardstick; put it below a line # Parity ------------"
        yield problem(path, 1, message)


def parity_tests(text: str) -> set[str]:
    """The functions that stand below a heading with the word parity."""
    found, heading = set(), ""
    for line in text.splitlines():
        if match := HEADING.match(line):
            heading = match[1].lower()
        elif (match := TEST.match(line)) and "parity" in heading:
            found.add(match[1])
    return found
