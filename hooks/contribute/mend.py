"""What a machine can mend in the pages and the glossary (`make fix`).

Code, formulas and front matter stay as they are. A second run changes nothing.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from hooks import DOCS, LANGUAGES, ROOT, SNIPPETS, content, glossary
from hooks.text import lines_outside_code, openings, read
from snippets._cli import copies

TEMPLATES = Path(__file__).with_name("templates")

Lines = list[str]


def main() -> None:
    """`python -m hooks fix`: all files or none, each replaced in one step."""
    files: dict[Path, bytes] = {}
    before: dict[Path, bytes | None] = {}
    for path, text, what in changes():
        files[path], before[path] = text.encode(), path.read_bytes()
        print(f"{path.relative_to(ROOT)}: {', '.join(what)}")
    copies.write(files, ROOT, before)
    if not files:
        print("Pages and glossary: nothing to mend")


def changes() -> Iterator[tuple[Path, str, list[str]]]:
    """Each file that needs mending, as it should be, and what was mended."""
    mended: dict[Path, str] = {}
    for lang in LANGUAGES:  # English first: Chinese headings take its anchors
        for path in content.pages(lang):
            twin = _twin(path)
            other = mended.get(twin) or (read(twin) if twin.is_file() else "")
            text, what = page(read(path), lang, other)
            mended[path] = text
            if what:
                yield path, text, what
    text = read(glossary.FILE)
    if (ordered := in_order(text)) != text:
        yield glossary.FILE, ordered, ["order of the terms"]


def page(text: str, lang: str, twin: str) -> tuple[str, list[str]]:
    """A page as it should be, and what was mended; `twin` is the text in the other language."""
    lines, what = text.splitlines(), []
    if "\n".join(lines) != text.removesuffix("\n"):
        return text, []  # some rare sign breaks lines too, and would be lost
    steps = {
        "space at the end of lines": trailing,
        "names of fences": fence_names,
        "anchors": lambda lines: anchors(lines, lang, twin),
        "embeds": embeds,
    }
    if lang == "zh":
        steps["spaces and punctuation"] = chinese
    for name, step in steps.items():
        new = step(lines)
        if new != lines:
            lines, what = new, [*what, name]
    return "\n".join(lines) + "\n", what


def _twin(path: Path) -> Path:
    lang, *rest = path.relative_to(DOCS).parts
    return DOCS.joinpath("zh" if lang == "en" else "en", *rest)


# Reading ------------------------------------------------------------------------


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line outside of front matter and code."""
    head = content.HEAD.match(text)
    first = text.count("\n", 0, head.end()) if head else 0
    return ((n, line) for n, line in lines_outside_code(text) if n > first)


def headings(text: str) -> Iterator[tuple[int, str, str]]:
    """Number, marks and title of each heading."""
    for number, line in prose(text):
        if match := re.match(r"(#+) (.*)$", line):
            yield number, match[1], match[2]


# Steps --------------------------------------------------------------------------


def trailing(lines: Lines) -> Lines:
    """Drop blank space at the end of lines, but not two spaces that break a paragraph's line."""
    new = list(lines)
    for number, line in prose("\n".join(lines)):
        more = number < len(lines) and lines[number].strip()
        if not (more and line.strip() and line.endswith("  ")):
            new[number - 1] = line.rstrip()
    return new


NAMES = {
    **dict.fromkeys(("py", "python3", "Python", "pycon"), "python"),
    **dict.fromkeys(("sh", "shell", "console", "zsh"), "bash"),
    **dict.fromkeys(("txt", "output", "plain"), "text"),
    "yml": "yaml",
}


def fence_names(lines: Lines) -> Lines:
    """Name the language of a fence as the tests know it: ```py becomes ```python."""
    new = list(lines)
    for number, mark, info in openings("\n".join(lines)):
        match = re.fullmatch(r"\s*(\{ ?\.)?(\w+)(?(1) ?\})(.*)", info)
        if match and mark.startswith("`"):
            indent = lines[number - 1].partition("`")[0]
            new[number - 1] = f"{indent}{mark}{NAMES.get(match[2], match[2])}{match[3]}"
    return new


def anchors(lines: Lines, lang: str, twin: str) -> Lines:
    """Give headings the anchor of the twin at the same place; else the usual, or one of words."""
    new = list(lines)
    here, there = (list(headings(text)) for text in ("\n".join(lines), twin))
    same = [marks for _, marks, _ in here] == [marks for _, marks, _ in there]
    taken = {anchor for _, _, title in here if (anchor := _anchor(title))}
    for i, (number, marks, title) in enumerate(here):
        if marks == "#" or "{" in title:
            continue
        words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\]\([^)]*\)", "", title.lower())).strip("-")
        found = [
            _anchor(there[i][2]) if same else "",
            _usual(lang).get(title.strip(), ""),
            words if lang == "en" else "",
        ]
        anchor = next((one for one in found if one and one not in taken), "")
        if anchor:
            taken.add(anchor)
            new[number - 1] = f"{marks} {title.strip()} {{ #{anchor} }}"
    return new


def _anchor(title: str) -> str:
    match = re.search(r" \{ #([\w-]+) \}$", title)
    return match[1] if match else ""


@cache
def _usual(lang: str) -> dict[str, str]:
    """The anchors of the parts that every page has, by their titles."""
    text = read(TEMPLATES / f"page.{lang}.md")
    return {title.split(" {")[0]: _anchor(title) for _, _, title in headings(text)}


def embeds(lines: Lines) -> Lines:
    """Mend the path of an embed where only one snippet can be meant."""
    new = list(lines)
    known = [path.relative_to(SNIPPETS).with_suffix("").as_posix() for path in _snippets()]
    for i, line in enumerate(lines):
        if not content.EMBED.match(line):
            continue
        target = re.search(r'"([\w./-]+?)(?:\.py)?(:[\w-]+)?"\s*$', line)
        if target and (name := _meant(target[1], known)):
            new[i] = f'{line[: target.start()]}"{name}.py{target[2] or ""}"'
    return new


def _snippets() -> Iterable[Path]:
    return SNIPPETS.glob("[!_]*/[!_]*.py")


def _meant(name: str, known: list[str]) -> str:
    if name in known:
        return name
    stem = [one for one in known if one.rpartition("/")[2] == name.rpartition("/")[2]]
    near = stem or get_close_matches(name, known, n=2, cutoff=0.85)
    return near[0] if len(near) == 1 else ""


# Chinese typography -----------------------------------------------------------------

# What is no prose: anchors, targets of links and figures (not captions), code, formulas, HTML.
HELD = re.compile(
    r"\{ #[\w-]+ \}|\]\([^)\"]*\)?|(?<=\")\)(\{[^}]*\})?$|`[^`]*`|\$[^$]*\$|<[^>]*>|\*+"
)
TIGHT = re.compile(r"(?=([一-龥][A-Za-z0-9]|[A-Za-z0-9][一-龥]))")
HALF = re.compile(r"(?=([一-龥]( ?)(;|[,:!?](?=\s|$))))")
BRACKET = re.compile(r"(?=([一-龥]\(|\)[一-龥]))")
FULL = dict(zip(",;:!?()", "，；：！？（）", strict=True))


def chinese(lines: Lines) -> Lines:
    new, formula = list(lines), False
    for number, line in prose("\n".join(lines)):
        if line.count("$$") % 2:
            formula = not formula
        elif not formula:
            new[number - 1] = typography(line)[0]
    return new


def typography(line: str) -> tuple[str, list[tuple[str, str]]]:
    """The line with spaces between Chinese and Latin, and full-width punctuation beside Chinese.

    Also what it lacked, as (where, what).
    """
    held = {i for match in HELD.finditer(line) for i in range(*match.span())}
    places = [i for i in range(len(line)) if i not in held]
    text = "".join(line[i] for i in places)
    found: list[tuple[str, str]] = []
    signs = dict(enumerate(line))
    for match in TIGHT.finditer(text):
        found.append((match[1], "a space belongs between Chinese and Latin"))
        after = places[match.start() + 1]
        signs[after] = f" {line[after]}"
    for match in HALF.finditer(text):
        found.append((match[1].rstrip(), "full-width punctuation belongs beside Chinese"))
        sign = places[match.start(3)]
        signs[sign] = FULL[line[sign]]
        if match[2]:
            signs[places[match.start(2)]] = ""
        if re.match(r" [^ {]", line[sign + 1 :]):  # the sign is as wide as a space
            signs[sign + 1] = ""
    pairs = _pairs(text)
    for match in BRACKET.finditer(text):
        found.append((match[1], "full-width punctuation belongs beside Chinese"))
        at = match.start() + (match[1][1] == "(")
        for bracket in {at, pairs.get(at, at)}:
            signs[places[bracket]] = signs[places[bracket]].replace(
                text[bracket], FULL[text[bracket]]
            )
    return "".join(signs.values()), found


def _pairs(text: str) -> dict[int, int]:
    """Where the other bracket of each is."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for i, sign in enumerate(text):
        if sign == "(":
            opened.append(i)
        elif sign == ")" and opened:
            pairs[i] = opened.pop()
            pairs[pairs[i]] = i
    return pairs


# Glossary -----------------------------------------------------------------------


def in_order(text: str) -> str:
    """The terms in the order of their ids; a comment stays with the term below it."""
    head, *terms = re.split(r"\n\n(?=(?:#.*\n)*- id:)", text.rstrip("\n"))
    terms.sort(key=lambda term: re.findall(r"^- id: *(.*)$", term, re.MULTILINE)[0])
    return "\n\n".join([head, *terms]) + "\n"
