"""What snippets there are, and the text that a copy has.

A snippet is known as `section/name`. Its published text is the file without the marks by which
pages embed parts of it, its imports of other snippets flat (`from ..b.x import f` becomes
`from .x import f`), so that copies stand side by side in one folder. The digest of that text is
its version.
"""

import ast
import hashlib
import json
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from snippets._cli.flatten import flatten
from snippets._cli.words import did_you_mean, t

SNIPPETS = Path(__file__).resolve().parents[1]
DOCS = SNIPPETS.parent / "docs"
# Where the wheel has what a checkout has in docs/ and tests/.
LIBRARY = Path(__file__).with_name("library.json")
WHEEL_TESTS = Path(__file__).with_name("tests")
RELEASES = Path(__file__).with_name("releases.json")

HOLDER = "The authors of Runnable Deep Learning"
TESTS = SNIPPETS.parent / "tests" / "snippets"
# Put before a test: where its snippet is, and the settings of our own test run.
PREPARE = """# From Runnable Deep Learning {release}: the test of {name}
# SPDX-License-Identifier: MIT

{doc}import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parents[{levels}]))
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")

"""
MARK = re.compile(r"[ \t]*# --8<-- \[(?:start|end):[\w-]+\]\n")
EMBED = re.compile(r'^\s*-+8<-+\s*"([\w/]+)\.py(?::[\w-]+)?"\s*$', re.MULTILINE)
ADDRESS = re.compile(r"https?://\S+[^\s.,)]")


class UnknownName(Exception):
    """There is no such snippet."""


class Refused(Exception):
    """Something would be lost, or cannot be done; nothing has been changed."""


@dataclass(frozen=True)
class Snippet:
    """A snippet and what its page says of it."""

    name: str  # "attention/scaled_dot_product_attention"
    page: str  # the page that explains it
    title: dict[str, str]  # by language, as the next two
    about: dict[str, str]
    section: dict[str, str]
    terms: list[str]  # what else it may be called, in both languages

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def file(self) -> Path:
        return SNIPPETS / f"{self.name}.py"

    @cached_property
    def doc(self) -> str:
        return ast.get_docstring(ast.parse(self.file.read_text("utf-8"))) or ""

    @property
    def papers(self) -> list[str]:
        """Their addresses."""
        return ADDRESS.findall(field(self.doc, "Paper"))


def field(doc: str, name: str) -> str:
    """What stands behind `Name:` in a header docstring."""
    match = re.search(rf"^{name}:((?:.*\n?)(?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    return match[1] if match else ""


def history(text: str) -> list[str]:
    """The changes of meaning that a snippet's header lists, "0.2.0 what is different"."""
    entries = field(ast.get_docstring(ast.parse(text)) or "", "History")
    parts = re.split(r"\n(?=\s+\d+\.\d)", entries.strip())
    return [" ".join(part.split()) for part in parts if part]


@cache
def release() -> str:
    if LIBRARY.is_file():
        return metadata.version("runnable-dl")
    project = (SNIPPETS.parent / "pyproject.toml").read_text("utf-8")
    return re.findall(r'^version = "(.+)"', project, re.MULTILINE)[0]


@cache
def data() -> dict[str, Any]:
    return json.loads(LIBRARY.read_text("utf-8")) if LIBRARY.is_file() else gather()


@cache
def library() -> dict[str, Snippet]:
    return {name: Snippet(name, **found) for name, found in data()["snippets"].items()}


def find(word: str) -> Snippet:
    """By name, with or without the section."""
    known = library()
    name = word.replace("\\", "/").removesuffix(".py").removeprefix("snippets/")
    if "/" not in name:
        name = name.replace(".", "/")
    fitting = [s for s in known.values() if name in (s.name, s.stem)]
    if len(fitting) > 1:
        names = ", ".join(snippet.name for snippet in fitting)
        raise UnknownName(t(f"'{word}' may be {names}", f"“{word}”可能是 {names}"))
    if not fitting:
        hint = did_you_mean(name, known)
        for snippet in known.values():
            if word.lower() in (term.lower() for term in snippet.terms):  # as SDPA
                hint = did_you_mean(snippet.stem, [snippet.name])
        raise UnknownName(t(f"no snippet '{word}'{hint}", f"没有名为“{word}”的代码片段{hint}"))
    return fitting[0]


def gather() -> dict[str, Any]:
    """What the pages say of the snippets they embed."""
    try:
        import yaml  # the wheel does without: it has the outcome
    except ModuleNotFoundError:
        message = t(
            "a checkout needs PyYAML, or `pip install .`", "请先装 PyYAML，或者 `pip install .`"
        )
        raise Refused(message) from None

    def front(path: Path) -> dict[str, Any]:
        return yaml.safe_load(path.read_text("utf-8").split("---\n")[1])

    terms: dict[str, list[str]] = {}
    for term in yaml.safe_load((DOCS / "glossary.yml").read_text("utf-8")):
        names = [term["en"], term["zh"], *term.get("also", [])]
        terms.setdefault(term.get("page", ""), []).extend(names)
    found: dict[str, Any] = {}
    for path in sorted((DOCS / "en").glob("*/[!.]*.md")):  # hidden ones are an editor's
        page = path.relative_to(DOCS / "en").with_suffix("").as_posix()
        for name in set(EMBED.findall(path.read_text("utf-8"))):
            if name in found and name != page:
                continue  # the page of the same name explains it
            meta = {lang: front(DOCS / lang / f"{page}.md") for lang in ("en", "zh")}
            section = name.partition("/")[0]
            found[name] = {
                "page": page,
                "title": {lang: meta[lang]["title"] for lang in meta},
                "about": {lang: meta[lang]["description"] for lang in meta},
                "section": {
                    lang: front(DOCS / lang / section / "index.md")["title"] for lang in meta
                },
                "terms": [
                    *meta["en"].get("tags", []),
                    *meta["zh"].get("tags", []),
                    *terms.get(page, []),
                ],
            }
    site = os.environ.get("SITE_URL", "").rstrip("/")
    return {"site": site, "snippets": dict(sorted(found.items()))}


# Text -----------------------------------------------------------------------------


@cache
def needs(name: str) -> list[str]:
    """The snippets that this one imports, directly."""
    section = name.partition("/")[0]
    found: list[str] = []
    for node in ast.walk(ast.parse((SNIPPETS / f"{name}.py").read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = (node.module or "").replace(".", "/")
            found.append(module if node.level == 2 else f"{section}/{module}")
    return list(dict.fromkeys(found))


def closure(name: str) -> list[str]:
    """The snippet after all that it imports, each after what it imports itself."""
    found: list[str] = []

    def visit(name: str) -> None:
        for other in needs(name):
            if other not in found:
                visit(other)
        found.append(name)

    visit(name)
    return found


@cache
def body(name: str, single: bool = False) -> str:
    """The published text, which a copy has below its header."""
    if single and needs(name):
        return flatten({n.rpartition("/")[2]: body(n) for n in closure(name)})
    lines = (SNIPPETS / f"{name}.py").read_text("utf-8").splitlines(keepends=True)
    kept: list[str] = []
    marked = False
    for line in lines:
        if MARK.fullmatch(line):
            marked = True
        elif not (marked and line == "\n" and kept and kept[-1] == "\n"):
            kept.append(line)
            marked = False
    text = "".join(kept).rstrip("\n") + "\n"
    return re.sub(r"^from \.\.\w+\.(\w+) import", r"from .\1 import", text, flags=re.MULTILINE)


def digest(text: str) -> str:
    """The version of a text; line ends and empty lines at the end make no difference."""
    plain = text.replace("\r\n", "\n").rstrip("\n") + "\n"
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def header(name: str, single: bool = False) -> str:
    """Where a copy comes from, for people and for `update`."""
    snippet = library()[name]
    form = " single-file" if single else ""
    site = data()["site"]
    page = f"{site}/{snippet.page}/" if site else f"Runnable Deep Learning, {snippet.page}"
    return "\n".join(
        [
            f"# runnable-dl: {name} {release()} sha256:{digest(body(name, single))}{form}",
            f"# Page: {page}",
            *(f"# Paper: {address}" for address in snippet.papers),
            f"# SPDX-FileCopyrightText: 2026 {HOLDER}",
            "# SPDX-License-Identifier: MIT",
            "",
            "",
        ]
    )


def copy_of(name: str, single: bool = False) -> str:
    return header(name, single) + body(name, single)


OURS = re.compile(r"^from snippets\.(\w+)\.(\w+) import", re.MULTILINE)
# What several tests of a section share.
SHARED = re.compile(r"^from tests\.snippets\.(\w+\.\w+) import [^(\n]+\n", re.MULTILINE)


@cache
def test(name: str) -> str:
    """The test of a snippet, with what it shares with others written out."""
    folder = WHEEL_TESTS if WHEEL_TESTS.is_dir() else TESTS

    def written_out(match: re.Match[str]) -> str:
        return (folder / match[1].replace(".", "/")).with_suffix(".py").read_text("utf-8")

    path = (folder / name).with_name(f"test_{name.rpartition('/')[2]}.py")
    return SHARED.sub(written_out, path.read_text("utf-8"))


def tested(name: str) -> list[str]:
    """The snippets that the test of one imports."""
    return [f"{section}/{stem}" for section, stem in OURS.findall(test(name))]


def test_for(name: str, module: str, levels: int, single: bool) -> str:
    """The test of a snippet, for a copy that is imported as `module`, levels folders further up."""
    inside = {f"snippets.{n.replace('/', '.')}" for n in closure(name)} if single else set[str]()

    def place(match: re.Match[str]) -> str:
        original = match[0].split()[1]
        beside = f"{module.rpartition('.')[0]}.{match[2]}"
        return f"from {module if original in inside else beside} import"

    text = OURS.sub(place, test(name))
    end = text.index('"""\n', 3) + 5  # of the docstring
    prepare = PREPARE.format(name=name, release=release(), doc=text[:end], levels=levels)
    return prepare + text[end:].lstrip("\n")


def versions(name: str) -> list[str]:
    """The digests of the present text, in both forms."""
    return sorted({digest(body(name, single)) for single in (False, True)})


def releases() -> dict[str, dict[str, list[str]]]:
    """The published versions, by release and name; `python -m hooks release` adds to them."""
    return json.loads(RELEASES.read_text("utf-8"))


def published(name: str) -> dict[str, str]:
    """The release in which each version of a snippet came first; the present one too."""
    known = releases()
    known.setdefault(release(), {name: versions(name)})
    found = {d: number for number in reversed(known) for d in known[number].get(name, [])}
    return {d: release() for d in versions(name)} | found


# Search ---------------------------------------------------------------------------


def search(words: list[str]) -> list[Snippet]:
    """The snippets in which most of the words stand, best first."""
    scores: dict[str, float] = {}
    for snippet in library().values():
        names = [snippet.name.replace("_", " "), *snippet.title.values(), *snippet.terms]
        title = "\n".join(names).lower()
        text = "\n".join([snippet.doc, *snippet.about.values()]).lower()
        for word in words:
            word = word.lower().replace("_", " ")
            if word in title:
                scores[snippet.name] = scores.get(snippet.name, 0) + 3
            elif word in text or close(word, f"{title}\n{text}"):
                scores[snippet.name] = scores.get(snippet.name, 0) + 1
    return [library()[name] for name in sorted(scores, key=lambda n: (-scores[n], n))]


def close(word: str, text: str) -> bool:
    """Whether a word of the text is nearly this one; Chinese by the pairs of its signs."""
    if re.search(r"[\u4e00-\u9fff]", word):
        return any(word[i : i + 2] in text for i in range(len(word) - 1))
    return len(word) > 3 and bool(get_close_matches(word, re.findall(r"\w+", text), 1, 0.8))


def as_json(found: list[Snippet]) -> str:
    items = [
        {
            "name": s.name,
            "title": s.title,
            "about": s.about,
            "papers": s.papers,
            "needs": needs(s.name),
            "version": f"{release()} sha256:{digest(body(s.name))}",
        }
        for s in found
    ]
    return json.dumps(items, ensure_ascii=False, indent=1)
