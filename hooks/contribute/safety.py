"""What a page may hold, so that a careless or hostile one does not get through.

Pages are Markdown without HTML; they may lead to other sites, and load nothing from there. They are
looked at as they are written, line by line (`page`, `lab`, `files`), and once more as what Markdown
made of them (`rendered`), for the first look might have been led to take text for code. Figures may
hold drawing and nothing else (`drawing`). What gets past all of these still meets the
Content-Security-Policy of the page (hooks/events.py).

Glossary and front matter hold plain text: hooks/text.py, `plain`. Running what a contributor wrote:
hooks/contained.py.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from html import unescape
from pathlib import Path

from mkdocs.exceptions import PluginError

from hooks import DOCS, LANGUAGES, ROOT
from hooks.errors import line_of, problem
from hooks.text import FENCE, HEAD, read


def check() -> Iterator[PluginError]:
    """All that can be said without a build."""
    yield from files()
    for lang in LANGUAGES:
        for path in sorted((DOCS / lang).rglob("[!.]*.md")):
            yield from page(path)
    for path in sorted((DOCS / "labs").glob("*.py")):
        yield from lab(path)
    for path in sorted((DOCS / "assets").rglob("*.svg")):
        try:
            yield from drawing(path.read_text("utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            yield problem(path, 1, f"cannot be read: {error}; `make figures` writes the file")


# Files ------------------------------------------------------------------------------

FOLDERS = ("docs", "snippets", "tests", "hooks", "benchmarks", "overrides", ".github")
BINARY = {".png"}
IN_DOCS = {".css", ".js", ".json", ".png", ".py", ".svg", ".yml"}
LARGE = 1_000_000  # bytes; the largest figure has a tenth of that
# Controls but tab and line feed, what turns the direction of writing, what has no width, blanks
# other than the space, signs of private use, and letters that look like nothing.
_UNSEEN = {"Cc", "Cf", "Co", "Zl", "Zp", "Zs"}
_BLANK = "\u115f\u1160\u2800\u3164\uffa0" + "".join(map(chr, [*range(0xFE00, 0xFE10)]))
UNSEEN = re.compile(
    "["
    + "".join(
        re.escape(chr(code))
        for code in range(0x10000)
        if (unicodedata.category(chr(code)) in _UNSEEN and chr(code) not in "\t\n ")
        or chr(code) in _BLANK
    )
    + "\U000e0000-\U000e01ef\U000f0000-\U0010ffff]"
)


# What any system takes, and no shell for an option.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)  # by Windows


def files(root: Path = ROOT) -> Iterator[PluginError]:
    """Links out of the project, files of a name or kind without a place, characters unseen."""
    for folder in FOLDERS:
        for path in _below(root / folder):
            yield from _file(path, root)
    for path in sorted(root.iterdir()):
        if path.is_file() and path.suffix in {".md", ".toml", ".txt", ".yml"}:
            yield from _file(path, root)


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != "__pycache__" and not f.startswith("."))
        here = Path(where)
        yield from (here / f for f in folders if (here / f).is_symlink())
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def _file(path: Path, root: Path) -> Iterator[PluginError]:
    place = path.relative_to(root).parts
    if path.is_symlink():
        yield problem(path, 1, "a link to another file; put the file itself here")
        return
    names = [part for part in place if part != ".github"]
    if any(not PLAIN_NAME.fullmatch(name) or RESERVED.match(name) for name in names):
        message = "a name has a to z, digits, _ - . only, and is none that Windows keeps"
        yield problem(path, 1, f"{message}; rename it")
        return
    page = place[0] == "docs" and len(place) > 1 and place[1] in LANGUAGES
    if (page and path.suffix != ".md") or (
        place[0] == "docs" and path.suffix not in IN_DOCS | {".md"}
    ):
        wanted = ".md" if page else ", ".join(sorted(IN_DOCS))
        yield problem(path, 1, f"a file '{path.name}' has no place here; use {wanted}")
        return
    size = path.stat().st_size
    if size > LARGE:
        yield problem(path, 1, f"{size / 1e6:.1f} MB; a file has {LARGE / 1e6:.0f} MB at most")
    elif path.suffix not in BINARY and path.suffix != ".pyc":
        yield from _characters(path, size, path.stat().st_mtime_ns)


@cache  # the preview looks again at every edit
def _characters(path: Path, size: int, changed: int) -> tuple[PluginError, ...]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return (problem(path, line, f"not in UTF-8 (byte {error.start}); save it as UTF-8"),)
    found = UNSEEN.search(text)
    if not found:
        return ()
    line = text.count("\n", 0, found.start()) + 1
    if found[0] == "\r":
        return (problem(path, line, "the line ends as on Windows (CRLF); save it with LF"),)
    code = ord(found[0])
    name = unicodedata.name(found[0], "a control character")
    what = f"an invisible character, U+{code:04X} ({name})"
    return (problem(path, line, f"{what}; delete it, or in code write it as \\u{code:04x}"),)


# Pages as they are written ------------------------------------------------------------

CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)")
FORMULA = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?![\s$])(?:\\.|[^\\$])+?(?<!\s)\$")
INFO = re.compile(r'\w*(?: \w+="[^"`]*")*')  # what may follow ``` where code begins
MARKUP = re.compile(r"<[A-Za-z/!?][^>]*>?")
COMMENT = re.compile(
    r"<!--(?:pytest-codeblocks:[\w-]+"
    r"| (?:learning-path|material/tags|speed|(?:ladder|measured|status): [\w/ .=-]+) )-->"
)
ANSWER = re.compile(r'<details class="question"><summary>[^<>]*</summary>|</details>')  # of a lab
BRACES = re.compile(r"\{[^{}]*\}")
ATTRIBUTES = re.compile(
    r"\{ ?(?:#[a-z][a-z0-9-]*|widget=\w+|\.lead|\.md-button(?: \.md-button--primary)?) ?\}"
)
TARGET = re.compile(r"(!?)\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]*)")
DEFINITION = re.compile(r"[\s>*+-]*\[[^\]]+\]:")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def page(path: Path) -> Iterator[PluginError]:
    """What may not stand on a page."""
    yield from _page(read(path), path)


@cache
def _page(text: str, path: Path) -> tuple[PluginError, ...]:
    head = HEAD.match(text)
    skip = text.count("\n", 0, head.end()) if head else 0
    lines = list(enumerate(text.splitlines(), 1))[skip:]
    return tuple(_lines(lines, path))


def lab(path: Path) -> Iterator[PluginError]:
    """What may not stand in the text of a lab; there, answers are folded away by HTML."""
    cell: list[tuple[int, str]] = []
    text = False
    for number, line in enumerate([*read(path).splitlines(), "# %%"], 1):
        if line.startswith("# %%"):
            yield from _lines(cell, path, ANSWER)
            cell, text = [], "[markdown]" in line
        elif text:
            cell.append((number, re.sub("^# ?", "", line)))


def _lines(
    lines: Iterable[tuple[int, str]], path: Path, also: re.Pattern[str] | None = None
) -> Iterator[PluginError]:
    fence, opened, display = "", 0, False
    for number, line in lines:
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
            continue
        if mark:
            fence, opened = mark[1], number
            if not INFO.fullmatch(mark[2].strip()):
                yield problem(path, number, 'code begins with ```python or ```text title="…"')
            continue
        plain = CODE.sub("", line)
        if "`" in plain:
            yield problem(path, number, "a ` without its partner on the same line; add it")
        for found in MARKUP.finditer(plain):
            if not COMMENT.fullmatch(plain.strip()) and not (also and also.fullmatch(plain)):
                message = "is HTML, which pages do without; write Markdown, put code into `…`,"
                yield problem(path, number, f"'{found[0]}' {message} a space after a < of formulas")
        plain = FORMULA.sub("", plain)
        display ^= "$$" in plain
        for found in BRACES.findall("" if display or "$$" in plain else plain):
            if not ATTRIBUTES.fullmatch(found):
                message = "may not stand here; { #anchor } does, code is put into `…`"
                yield problem(path, number, f"'{found}' {message}")
        if DEFINITION.match(plain):
            yield problem(path, number, "a link has its address with it: [words](address)")
        for image, target in TARGET.findall(plain):
            if wrong := _address(target, bool(image)):
                yield problem(path, number, wrong)
    if fence:
        yield problem(path, opened, f"the code that begins here has no end; add {fence}")


def _address(target: str, resource: bool) -> str:
    """What is wrong with an address; browsers pass over blanks in it, and know entities."""
    plain = re.sub(r"[\0-\x20\x7f]", "", unescape(target))
    scheme = SCHEME.match(plain)
    if resource and (scheme or plain.startswith(("/", "\\"))):
        return f"'{target}' would be loaded from another site; put the file into docs/assets"
    if (scheme and scheme[0].lower() not in ("https:", "http:")) or plain.startswith(("//", "\\")):
        return f"'{target}' is no address of a page; begin it with https:// or give a path"
    return ""


# What became of it --------------------------------------------------------------------

TAGS = re.compile(r"<[^>]*>?")
TAG = re.compile(r'<(?P<name>[a-z][a-z0-9]*)(?P<attributes>(?: [a-z-]+="[^"<>]*")*) ?/?>')
END = re.compile(r"</[a-z][a-z0-9]*>")
ATTRIBUTE = re.compile(r' ([a-z-]+)="([^"]*)"')
PLACE = re.compile(rf"<!--figure !\[[^\]<>]*\]\([^<>]*-->|{COMMENT.pattern}")
ELEMENTS = re.compile(
    "a|blockquote|br|code|details|div|em|h[1-6]|hr|img|li|ol|p|pre|small|span|strong|summary"
    "|table|tbody|td|th|thead|tr|ul"
)
EVERYWHERE = {"class", "id", "lang", "title"}
SOME = {
    "a": {"href"},
    "details": {"open"},
    "img": {"alt", "src"},
    "ol": {"start"},
    "td": {"style"},
    "th": {"style"},
}
ALIGNED = re.compile("text-align: (?:left|center|right);")


def rendered(html: str, path: Path, line: int = 0) -> Iterator[PluginError]:
    """What Markdown may not have made of a page; `line` where it is known."""
    for tag in dict.fromkeys(TAGS.findall(PLACE.sub("", html))):
        if wrong := _tag(tag):
            where = line or line_of(read(path), re.split(r"[ >]", tag)[0])
            yield problem(path, where, f"the page would hold {tag}: {wrong}; write Markdown")


@cache
def _tag(tag: str) -> str:
    if END.fullmatch(tag):
        return ""
    match = TAG.fullmatch(tag)
    if not match or not ELEMENTS.fullmatch(match["name"]):
        return "no such HTML"
    for name, value in ATTRIBUTE.findall(match["attributes"]):
        if name not in EVERYWHERE | SOME.get(match["name"], set()):
            return f"no attribute '{name}'"
        if name in ("href", "src") and (wrong := _address(value, name == "src")):
            return wrong
        if name == "style" and not ALIGNED.fullmatch(value):
            return "no styles"
        # The theme finds its own parts by such names.
        if name == "id" and value.startswith("__"):
            return "no id that begins with __"
    return ""


# Figures ------------------------------------------------------------------------------

DRAWN = re.compile("clipPath|defs|g|image|path|rect|svg|text|tspan|use")
SVG_TAG = re.compile(r'<(\w+)((?:\s+[\w:-]+="[^"<>]*")*)\s*/?>')
SVG_ATTRIBUTE = re.compile(r'\s([\w:-]+)="([^"]*)"')
SHAPED = re.compile(
    "clip-path|d|fill|font-family|height|id|rx|ry|stroke-line(?:cap|join)|style|transform|version"
    "|viewBox|width|x|y|xlink:href|xmlns|xmlns:xlink"
)
PAINTED = re.compile(
    r"(?:(?:fill|font|image-rendering|opacity|stroke|text-anchor)[\w-]*: ?[\w#%., -]*(?:; ?|$))*"
)
SVG_COMMENT = re.compile(r"<!-- [^<>]* -->")
INSIDE = re.compile(r"#[\w-]+|data:image/png;base64,[\sA-Za-z0-9+/=]*")


def drawing(svg: str, path: Path, line: int = 0) -> Iterator[PluginError]:
    """What may not stand in a figure, which becomes part of a page."""
    for tag in dict.fromkeys(TAGS.findall(svg)):
        if wrong := _drawn(tag):
            message = "draw it by a script, `make figures` writes the file"
            yield problem(
                path, line or line_of(svg, tag.splitlines()[0]), f"{wrong} in a figure; {message}"
            )


def _drawn(tag: str) -> str:
    if re.fullmatch(r"</\w+>", tag) or SVG_COMMENT.fullmatch(tag):
        return ""
    match = SVG_TAG.fullmatch(tag)
    if not match or not DRAWN.fullmatch(match[1]):
        return f"'{tag[:40]}'"
    for name, value in SVG_ATTRIBUTE.findall(match[2]):
        if not SHAPED.fullmatch(name):
            return f"attribute '{name}'"
        if name == "xlink:href" and not INSIDE.fullmatch(value):
            return f"'{value[:40]}' from outside"
        if name == "clip-path" and not re.fullmatch(r"url\(#[\w-]+\)", value):
            return f"'{value[:40]}' from outside"
        if name == "fill" and not re.fullmatch(r"#?\w+", value):
            return f"'{value[:40]}' from outside"
        if name == "style" and not PAINTED.fullmatch(value):
            return f"style '{value[:40]}'"
    return ""
