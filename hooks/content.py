"""The pages: what their front matter may say, their twins, their embeds, their reading order.

The English page carries what holds for both languages (`requires`, `sections`); its twin only what
is said in another language. Every check raises `PluginError("file:line: what is wrong; remedy")`,
which stops the build.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

from hooks import DOCS, LANGUAGES, SNIPPETS, labs
from hooks.errors import did_you_mean, line_of, problem
from hooks.text import HEAD, PLAIN, lines_outside_code, load_yaml, plain, read, strings

FIELDS = {
    "title": str,
    "description": str,
    "tags": list,
    "hide": list,
    "requires": list,  # pages to read first
    "sections": list,  # of the home page: the sections of the site, in order
    "order": list,  # of a section's index: pages that come first, where `requires` leaves it open
}
ENGLISH_ONLY = {"requires", "sections", "order"}


@dataclass(frozen=True)
class Entry:
    """A page in both languages."""

    name: str  # "attention/scaled_dot_product_attention", "attention/index", "index"
    files: dict[str, Path]  # by language; a lab has one file
    meta: dict[str, dict[str, Any]]

    @property
    def requires(self) -> list[str]:
        return self.meta["en"].get("requires", [])

    @property
    def address(self) -> str:
        """Of the page, relative to the root of its language: "attention/", ""."""
        name = self.name.removesuffix("index").rstrip("/")
        return f"{name}/" if name else ""

    @property
    def source(self) -> str:
        """The path MkDocs knows the page by."""
        return f"{self.name}.ipynb" if self.files["en"].suffix == ".py" else f"{self.name}.md"


# Front matter -----------------------------------------------------------------


def front_matter(path: Path, lang: str) -> dict[str, Any]:
    """The checked front matter of a page."""
    return _front_matter(read(path), path, lang)


@cache
def _front_matter(text: str, path: Path, lang: str) -> dict[str, Any]:
    match = HEAD.match(text)
    if not match:
        raise problem(path, 1, "no front matter; begin the page with ---, title: …, ---")
    if end := re.search(r"^(?:---|\.\.\.)[ \t]*$", match[1], re.MULTILINE):
        line = 2 + match[1].count("\n", 0, end.start())
        raise problem(path, line, f"'{end[0]}' ends the front matter for MkDocs; write ---")
    meta = load_yaml(match[1], path, first_line=2)
    if not isinstance(meta, dict):
        raise problem(path, 2, "front matter must be `field: value` lines, such as title: …")
    for field, value in meta.items():
        line = line_of(text, f"{field}:")
        if field not in FIELDS:
            raise problem(
                path, line, f"unknown field '{field}'; {did_you_mean(str(field), FIELDS)}"
            )
        if not (strings(value) if FIELDS[field] is list else isinstance(value, str)):
            kind = "list such as [one, two]" if FIELDS[field] is list else "text"
            raise problem(path, line, f"'{field}' must be a {kind}")
        if not all(map(plain, [value] if isinstance(value, str) else value)):
            raise problem(path, line, f"'{field}' must be {PLAIN}")
        if lang != "en" and field in ENGLISH_ONLY:
            raise problem(path, line, f"'{field}' holds for both languages; say it in docs/en only")
    for field in ("title", "description"):
        if field not in meta:
            raise problem(path, 2, f"the front matter lacks '{field}'; add {field}: …")
    return meta


def outline() -> dict[Path, str]:
    """The front matter of all pages as it stands: what an edit of the text leaves as it was."""
    texts = {path: path.read_text("utf-8") for lang in LANGUAGES for path in pages(lang)}
    return {path: text.split("\n---\n")[0] for path, text in texts.items()}


# Pages and their order ----------------------------------------------------------

NAME = re.compile(r"(?:[a-z0-9_]+/)*[a-z0-9_]+")


def entries() -> dict[str, Entry]:
    """All pages by name; raises the first problem."""
    found, problems = survey()
    if problems:
        raise problems[0]
    return found


def survey() -> tuple[dict[str, Entry], list[PluginError]]:
    """All pages by name, and what is wrong with their names, twins and front matter."""
    problems: list[PluginError] = []

    def meta(reader: Callable[[Path, str], dict[str, Any]], path: Path, lang: str) -> Any:
        try:
            return reader(path, lang)
        except PluginError as error:
            problems.append(error)
            return {}

    names = {lang: {page_name(p, lang): p for p in pages(lang)} for lang in LANGUAGES}
    for lang, other in (("en", "zh"), ("zh", "en")):
        for name in sorted(names[lang].keys() - names[other].keys()):
            message = f"this page has no twin; write docs/{other}/{name}.md"
            problems.append(problem(names[lang][name], 1, message))
    found = {
        name: Entry(
            name,
            {lang: names[lang][name] for lang in LANGUAGES},
            {lang: meta(front_matter, names[lang][name], lang) for lang in LANGUAGES},
        )
        for name in sorted(names["en"].keys() & names["zh"].keys())
    }
    for path in labs.sources():
        name = f"labs/{path.stem}"
        fields = {lang: meta(labs.front_matter, path, lang) for lang in LANGUAGES}
        found[name] = Entry(name, dict.fromkeys(LANGUAGES, path), fields)
    for entry in found.values():
        path = entry.files["en"]
        if not NAME.fullmatch(entry.name):
            message = "a name has lower-case letters, digits and _ only; rename it"
            problems.append(problem(path, 1, message))
        if entry.name == "glossary" or entry.name.startswith("zh/"):
            message = "this name is taken by the site itself; choose another one"
            problems.append(problem(path, 1, message))
        for needed in entry.requires:
            if needed not in found:
                line = line_of(path.read_text("utf-8"), "requires:")
                message = f"requires '{needed}', no such page; {did_you_mean(needed, found)}"
                problems.append(problem(path, line, message))
    try:
        check_cycles(found)
    except PluginError as error:
        problems.append(error)
    return found, problems


def check_cycles(found: dict[str, Entry]) -> None:
    """Raise where pages require each other."""
    left = dict(found)
    while ready := [n for n, e in left.items() if not any(r in left for r in e.requires)]:
        for name in ready:
            del left[name]
    # Of what is left, only what something else left needs is part of a cycle.
    while left and (loose := set(left) - {r for e in left.values() for r in e.requires}):
        for name in loose:
            del left[name]
    if left:
        path = min(left.items())[1].files["en"]
        line = line_of(path.read_text("utf-8"), "requires:")
        names = ", ".join(sorted(left))
        raise problem(path, line, f"{names}: each requires the next in a circle; drop a `requires`")


def pages(lang: str) -> list[Path]:
    found = (path for path in (DOCS / lang).rglob("*.md") if path.is_file())
    return sorted(p for p in found if not p.name.startswith("."))  # hidden ones are an editor's


def page_name(path: Path, lang: str) -> str:
    return path.relative_to(DOCS / lang).with_suffix("").as_posix()


def sections(found: dict[str, Entry]) -> list[str]:
    """The sections in the order that the home page gives."""
    home = found["index"]
    named = home.meta["en"].get("sections", [])
    present = {name.split("/")[0] for name in found if "/" in name}
    path = home.files["en"]
    line = line_of(path.read_text("utf-8"), "sections:")
    for section in sorted(present - set(named)):
        raise problem(path, line, f"section '{section}' is not in `sections`; add it in its place")
    for section in named:
        if f"{section}/index" not in found:
            raise problem(path, line, f"section '{section}' needs docs/en/{section}/index.md")
    return named


def reading_order(found: dict[str, Entry], section: str) -> list[Entry]:
    """A section's pages: each after those it requires, then as its index says, then by name."""
    index = found[f"{section}/index"]
    todo = {n: e for n, e in found.items() if n.startswith(f"{section}/") and e is not index}
    wish = [f"{section}/{name}" for name in index.meta["en"].get("order", [])]
    for name in wish:
        if name not in todo:
            path = index.files["en"]
            line = line_of(path.read_text("utf-8"), "order:")
            raise problem(path, line, f"no page '{name}' to order; {did_you_mean(name, todo)}")
    order: list[Entry] = []
    while todo:
        ready = [n for n, e in todo.items() if not any(r in todo for r in e.requires)]
        first = min(ready, key=lambda n: (wish.index(n) if n in wish else len(wish), n))
        order.append(todo.pop(first))
    return order


# What a page embeds and links to ----------------------------------------------------

EMBED = re.compile(r"^[ \t]*-+8<-+(.*)$", re.MULTILINE)
TARGET = re.compile(r'\s*"(?P<file>[\w./-]+?\.py)(?::(?P<part>[\w-]+))?"\s*$')
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`[^`]*`")
ANCHOR = re.compile(r"\{[^}]*#([\w-]+)[^}]*\}\s*$", re.MULTILINE)


def check(path: Path, known: dict[str, Path]) -> None:
    """Raise the first problem with the embeds and links of a page."""
    for error in problems(path, known):
        raise error


def problems(path: Path, known: dict[str, Path]) -> Iterator[PluginError]:
    """Embeds and links of the page that lead nowhere, or out of its bounds.

    `known` maps what a link may lead to ("attention/index.md") to the file behind it.
    """
    lang = path.relative_to(DOCS).parts[0]
    text = read(path)
    body = HEAD.sub("", text).lstrip()
    if not body.startswith("# "):
        line = text.count("\n", 0, len(text) - len(body)) + 1
        yield problem(path, line, "a page begins with its title; write # Title")
    for number, line in enumerate(text.splitlines(), 1):
        if embed := EMBED.match(line):
            yield from _check_embed(path, number, embed[1].strip())
    head = text.count("\n", 0, len(text) - len(body))
    for number, line in lines_outside_code(text):
        plain = QUOTED.sub("", line)
        if "--8<--" in plain and not EMBED.match(line):
            yield problem(path, number, "an embed stands on a line of its own, in a fenced block")
        for target in LINK.findall(plain) if number > head else ():
            if not re.match(r"[a-z]+:", target):
                yield from _check_link(path, number, target, DOCS / lang, known)


def embeds(path: Path) -> list[Path]:
    """The snippets that a page embeds, each once."""
    lines = (EMBED.match(line) for line in read(path).splitlines())
    targets = (TARGET.match(match[1].strip()) for match in lines if match)
    return sorted({SNIPPETS / target["file"] for target in targets if target})


def _check_embed(path: Path, number: int, what: str) -> Iterator[PluginError]:
    target = TARGET.match(what)
    if not target:
        message = f'cannot embed {what}; write --8<-- "section/snippet.py:part"'
        yield problem(path, number, message)
        return
    file = (SNIPPETS / target["file"]).resolve()
    if not file.is_relative_to(SNIPPETS) or not file.is_file():
        known = {p.relative_to(SNIPPETS).as_posix() for p in SNIPPETS.rglob("*.py")}
        hint = did_you_mean(target["file"], known)
        yield problem(path, number, f"no '{target['file']}' in snippets/; {hint}")
        return
    part, parts = target["part"], markers(file)
    if part and part not in parts:
        hint = did_you_mean(part, parts) if parts else "the file marks no part"
        message = (
            f"snippets/{target['file']} has no part '{part}'; {hint} "
            f"A part stands between # --8<-- [start:{part}] and # --8<-- [end:{part}]"
        )
        yield problem(path, number, message)


def markers(path: Path) -> set[str]:
    """The names of a snippet's parts."""
    text = read(path)
    starts, ends = (re.findall(rf"--8<-- \[{word}:([\w-]+)\]", text) for word in ("start", "end"))
    for part in starts:
        if part not in ends:
            line = line_of(text, f"[start:{part}]")
            raise problem(path, line, f"part '{part}' has no end; add # --8<-- [end:{part}]")
    return set(starts)


def _check_link(
    path: Path, number: int, target: str, root: Path, known: dict[str, Path]
) -> Iterator[PluginError]:
    name, _, anchor = target.partition("#")
    file = path
    if name:
        uri = posixpath.normpath(path.parent.relative_to(root).as_posix() + "/" + name)
        if uri not in known:
            hint = did_you_mean(uri, known)
            yield problem(path, number, f"no page '{name}' to link to; {hint}")
            return
        file = known[uri]
    if anchor and file.suffix == ".md":
        anchors = set(ANCHOR.findall(read(file)))
        if anchor not in anchors:
            hint = did_you_mean(anchor, anchors)
            yield problem(path, number, f"'{target}' has no heading '#{anchor}'; {hint}")
