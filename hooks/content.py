"""The pages: what their front matter may say, their twins, their embeds, their reading order.

The English page carries what holds for both languages (`requires`, `sections`); its twin only what
is said in another language. Every check raises `PluginError("file:line: what is wrong; remedy")`,
which stops the build.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hooks import DOCS, LANGUAGES, SNIPPETS, labs
from hooks.errors import did_you_mean, line_of, problem

FIELDS = {
    "title": str,
    "description": str,
    "tags": list,
    "hide": list,
    "requires": list,  # pages to read first
    "sections": list,  # of the home page: the sections of the site, in order
}
ENGLISH_ONLY = {"requires", "sections"}


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
    def source(self) -> str:
        """The path MkDocs knows the page by."""
        return f"{self.name}.ipynb" if self.files["en"].suffix == ".py" else f"{self.name}.md"


# Front matter -----------------------------------------------------------------


def front_matter(path: Path, lang: str) -> dict[str, Any]:
    """The checked front matter of a page."""
    text = path.read_text("utf-8")
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not match:
        raise problem(path, 1, "no front matter; begin the page with ---, title: …, ---")
    try:
        meta = yaml.safe_load(match[1])
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 2 if error.problem_mark else 1
        raise problem(path, line, f"front matter is no YAML: {error.problem}") from None
    if not isinstance(meta, dict):
        raise problem(path, 2, "front matter must be `field: value` lines, such as title: …")
    for field, value in meta.items():
        line = line_of(text, f"{field}:")
        if field not in FIELDS:
            raise problem(path, line, f"unknown field '{field}'; {did_you_mean(field, FIELDS)}")
        if not isinstance(value, FIELDS[field]):
            raise problem(path, line, f"'{field}' must be a {FIELDS[field].__name__}")
        if lang != "en" and field in ENGLISH_ONLY:
            raise problem(path, line, f"'{field}' holds for both languages; say it in docs/en only")
    for field in ("title", "description"):
        if field not in meta:
            raise problem(path, 2, f"the front matter lacks '{field}'; add {field}: …")
    return meta


# Pages and their order ----------------------------------------------------------


def entries() -> dict[str, Entry]:
    """All pages by name; raises where a page has no twin."""
    names = {lang: {page_name(p, lang): p for p in pages(lang)} for lang in LANGUAGES}
    for lang, other in (("en", "zh"), ("zh", "en")):
        for name in sorted(names[lang].keys() - names[other].keys()):
            raise problem(
                names[lang][name], 1, f"this page has no twin; write docs/{other}/{name}.md"
            )
    found = {
        name: Entry(
            name,
            {lang: names[lang][name] for lang in LANGUAGES},
            {lang: front_matter(names[lang][name], lang) for lang in LANGUAGES},
        )
        for name in sorted(names["en"])
    }
    for path in labs.sources():
        name = f"labs/{path.stem}"
        meta = {lang: labs.front_matter(path, lang) for lang in LANGUAGES}
        found[name] = Entry(name, dict.fromkeys(LANGUAGES, path), meta)
    for entry in found.values():
        for needed in entry.requires:
            if needed not in found:
                path = entry.files["en"]
                line = line_of(path.read_text("utf-8"), "requires:")
                raise problem(
                    path, line, f"requires '{needed}', no such page; {did_you_mean(needed, found)}"
                )
    return found


def pages(lang: str) -> list[Path]:
    return sorted((DOCS / lang).rglob("*.md"))


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
    """The pages of a section, each after those it requires, else by name."""
    todo = {n: e for n, e in found.items() if n.startswith(f"{section}/") and n[-6:] != "/index"}
    order: list[Entry] = []
    while todo:
        ready = [e for e in todo.values() if not any(r in todo for r in e.requires)]
        if not ready:
            entry = min(todo.values(), key=lambda e: e.name)
            path = entry.files["en"]
            raise problem(
                path,
                line_of(path.read_text("utf-8"), "requires:"),
                f"the pages {', '.join(sorted(todo))} require each other; drop one `requires`",
            )
        first = min(ready, key=lambda e: e.name)
        order.append(todo.pop(first.name))
    return order


# Embeds ---------------------------------------------------------------------------

EMBED = re.compile(r"^\s*(?P<sign>-+8<-+)(?P<rest>.*)$")
TARGET = re.compile(r'\s*"(?P<file>[\w./-]+?\.py)(?::(?P<section>[\w-]+))?"\s*$')


def check(path: Path) -> list[Path]:
    """The snippets that a page embeds; raises for each embed that would fail or climb out."""
    found: list[Path] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not (sign := EMBED.match(line)):
            continue
        match = TARGET.match(sign["rest"])
        if not match:
            raise problem(
                path,
                number,
                f'cannot embed {sign["rest"].strip()}; write --8<-- "section/snippet.py:part"',
            )
        file = (SNIPPETS / match["file"]).resolve()
        known = {p.relative_to(SNIPPETS).as_posix() for p in SNIPPETS.rglob("*.py")}
        if match["file"] not in known or not file.is_relative_to(SNIPPETS):
            raise problem(
                path,
                number,
                f"no '{match['file']}' in snippets/; {did_you_mean(match['file'], known)}",
            )
        if match["section"] and match["section"] not in markers(file):
            part, parts = match["section"], markers(file)
            hint = did_you_mean(part, parts) if parts else "the file has no marked part"
            raise problem(
                path,
                number,
                f"snippets/{match['file']} has no part '{part}'; {hint} "
                f"(mark it with # --8<-- [start:{part}] and # --8<-- [end:{part}])",
            )
        found.append(file)
    return found


@functools.cache
def _markers(path: Path, _modified: float) -> frozenset[str]:
    text = path.read_text("utf-8")
    start, end = (re.findall(rf"--8<-- \[{word}:([\w-]+)\]", text) for word in ("start", "end"))
    for part in start:
        if part not in end:
            line = line_of(text, f"# --8<-- [start:{part}]")
            raise problem(path, line, f"part '{part}' has no end; add # --8<-- [end:{part}]")
    return frozenset(start)


def markers(path: Path) -> frozenset[str]:
    """The names of a snippet's parts."""
    return _markers(path, path.stat().st_mtime)
