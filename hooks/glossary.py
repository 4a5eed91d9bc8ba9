"""The glossary: `docs/glossary.yml` makes the page and the tooltips."""

import re
import xml.etree.ElementTree as etree
from functools import cache
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString

from hooks import DOCS
from hooks.errors import did_you_mean, line_of, problem
from hooks.text import PLAIN, load_yaml, plain, read, strings

FILE = DOCS / "glossary.yml"
REQUIRED = ("id", "en", "zh", "define_en", "define_zh")
OPTIONAL = ("also", "avoid", "page")  # avoid: Chinese renderings that are not ours
TITLE = {"en": "Glossary", "zh": "术语表"}
ABOUT = {
    "en": "Each term in English and Chinese, in one sentence.",
    "zh": "每个术语的中英文名称与一句话解释。",
}
HAN = re.compile(r"[\u4e00-\u9fff]")


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """The checked entries, in the order of their ids."""
    return _load(read(path), path)


@cache
def _load(text: str, path: Path) -> list[dict[str, Any]]:
    terms = load_yaml(text, path) or []
    seen: dict[str, str] = {}
    if not isinstance(terms, list) or not all(isinstance(term, dict) for term in terms):
        raise problem(path, 1, "the glossary is a list of terms, each - id: …, en: …, zh: …")
    starts = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith("- ")]
    if len(starts) != len(terms):
        raise problem(path, 1, "each term begins a line, at its left edge: - id: …")
    for term, line in zip(terms, starts, strict=True):
        for field in REQUIRED:
            if not isinstance(term.get(field), str):
                raise problem(path, line, f"'{term.get('id')}' lacks '{field}'; add {field}: …")
        for field in term:
            if field not in REQUIRED + OPTIONAL:
                hint = did_you_mean(str(field), REQUIRED + OPTIONAL)
                raise problem(path, line, f"unknown field '{field}' in '{term['id']}'; {hint}")
        if not re.fullmatch("[a-z0-9-]+", term["id"]):
            raise problem(path, line, f"'{term['id']}' is no id; use lower-case letters and -")
        for field in ("also", "avoid"):
            if not strings(term.get(field, [])):
                line += line_of("\n".join(text.splitlines()[line - 1 :]), f"{field}:") - 1
                message = f"'{field}' of '{term['id']}' must be a list such as [one, two]"
                raise problem(path, line, message)
        for field, value in term.items():
            if not all(map(plain, value if field in ("also", "avoid") else [value])):
                line += line_of("\n".join(text.splitlines()[line - 1 :]), f"{field}:") - 1
                raise problem(path, line, f"'{field}' of '{term['id']}' must be {PLAIN}")
        also = map(str.lower, term.get("also", []))
        for name in {f"#{term['id']}", term["en"].lower(), term["zh"].lower(), *also}:
            if name in seen:
                raise problem(
                    path, line, f"'{name}' names both {seen[name]} and {term['id']}; keep one"
                )
            seen[name] = term["id"]
    return sorted(terms, key=lambda term: term["id"])


def page(lang: str, titles: dict[str, str]) -> str:
    """The glossary page in Markdown: a heading a term, so that the search finds each by itself."""
    other = "zh" if lang == "en" else "en"
    parts = [
        f"---\ntitle: {TITLE[lang]}\ndescription: {ABOUT[lang]}\nhide: [toc]\n---",
        f"# {TITLE[lang]}",
        ABOUT[lang],
    ]
    for term in sorted(load(), key=lambda t: t["en"].lower()):
        more = ""
        if name := term.get("page"):
            if name not in titles:
                line = line_of(FILE.read_text("utf-8"), f"page: {name}")
                raise problem(FILE, line, f"no page '{name}'; {did_you_mean(name, titles)}")
            suffix = "ipynb" if name.startswith("labs/") else "md"
            more = f" → [{titles[name]}]({name}.{suffix})"
        parts += [
            f'## {term[lang]} <small lang="{other}">{term[other]}</small> {{ #{term["id"]} }}',
            term[f"define_{lang}"] + more,
        ]
    return "\n\n".join(parts) + "\n"


def names(term: dict[str, Any], lang: str) -> list[str]:
    """What a page in this language may call the term."""
    found = [term["en"], term["zh"], *term.get("also", [])]
    # A single Chinese sign stands in too many words to be told apart.
    return [n for n in found if not HAN.search(n) or (lang == "zh" and len(n) > 1)]


def _pattern(names: set[str]) -> str:
    """Matches the longest of the names; sign by sign, which is faster than one after the other."""
    heads = sorted({name[0] for name in names if name})
    rest = [re.escape(h) + _pattern({n[1:] for n in names if n[:1] == h}) for h in heads]
    if "" in names:
        return f"(?:{'|'.join(rest)})?" if rest else ""
    return f"(?:{'|'.join(rest)})" if rest else "(?!)"


class Terms(Extension):
    """Links the first mention of each term on a page to the glossary, its meaning as tooltip."""

    def __init__(self, lang: str) -> None:
        super().__init__()
        self.up = ""  # from the page being rendered to the root
        self.active = True
        self.terms = {n.lower(): t for t in load() for n in names(t, lang)}
        self.lang = lang
        # Latin names as whole words, with a plural s.
        chinese = _pattern({n for n in self.terms if HAN.search(n)})
        latin = _pattern({n for n in self.terms if not HAN.search(n)})
        self.pattern = re.compile(
            rf"(?:{chinese})|(?<![\w-])(?:{latin})s?(?![\w-])", re.IGNORECASE | re.ASCII
        )

    def extendMarkdown(self, md: Markdown) -> None:
        # After the inline patterns (20), so that links, code and formulas are known.
        md.treeprocessors.register(_Marker(md, self), "terms", 15)


class _Marker(Treeprocessor):
    SKIP = frozenset(
        [
            "a",
            "code",
            "pre",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "abbr",
            "summary",
            "figure",
            "script",
            "th",
        ]
    )

    def __init__(self, md: Markdown, terms: Terms) -> None:
        super().__init__(md)
        self.terms = terms

    def run(self, root: etree.Element) -> None:
        if self.terms.active:
            self._walk(root, set())

    def _walk(self, element: etree.Element, seen: set[str]) -> None:
        """Mark the text of the element, then each child and what follows it."""
        children = list(element)
        if isinstance(element.text, str) and not isinstance(element.text, AtomicString):
            element.text, links = self._mark(element.text, seen)
            for i, link in enumerate(links):
                element.insert(i, link)
        for child in children:
            if child.tag not in self.SKIP and "arithmatex" not in child.get("class", ""):
                self._walk(child, seen)
            if child.tail:
                child.tail, links = self._mark(child.tail, seen)
                at = list(element).index(child) + 1
                for i, link in enumerate(links):
                    element.insert(at + i, link)

    def _mark(self, text: str, seen: set[str]) -> tuple[str, list[etree.Element]]:
        """Text up to the first new term, and a link for each, with the text after it as tail."""
        links: list[etree.Element] = []
        head, last = "", 0
        for match in self.terms.pattern.finditer(text):
            name = match[0].lower()
            term = self.terms.terms.get(name) or self.terms.terms[name.removesuffix("s")]
            if term["id"] in seen:
                continue
            seen.add(term["id"])
            between = text[last : match.start()]
            if links:
                links[-1].tail = between
            else:
                head = between
            lang = self.terms.lang
            href = f"{self.terms.up}glossary.md#{term['id']}"
            tip = f"{term['zh' if lang == 'en' else 'en']}: {term[f'define_{lang}']}"
            link = etree.Element("a", {"class": "term", "href": href, "title": tip})
            link.text = AtomicString(match[0])
            links.append(link)
            last = match.end()
        if not links:
            return text, []
        links[-1].tail = text[last:]
        return head, links
