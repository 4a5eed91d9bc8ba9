"""The rules of the house, for every page, snippet and figure there is, without a list of them.

A rule yields every problem it finds, with file, line and remedy. `make check` (check.py)
and the tests hold the same rules, those in RULES. All are quick: nothing is run, drawn or built.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

from hooks import (
    DOCS,
    LANGUAGES,
    ROOT,
    SNIPPETS,
    content,
    formulas,
    glossary,
    labs,
    svg,
    yardsticks,
)
from hooks.contribute import mend, safety, terms
from hooks.errors import did_you_mean, line_of, problem
from hooks.text import load_yaml, openings, parse, read, sections
from snippets._cli import library

# What `new` leaves where something is still to be written.
MARKER = "TODO(new):"
TESTS = ROOT / "tests" / "snippets"
QUERIES = ROOT / "tests" / "site" / "queries.yml"
# The parts of a concept page, in this order; others may stand between.
PARTS = (
    *("idea", "why", "definition", "code", "usage"),
    *("pitfalls", "variants", "questions", "references"),
)
FENCES = ("python", "text", "bash", "yaml")

Problems = Iterator[PluginError]


# What there is ------------------------------------------------------------------


def pages() -> list[Path]:
    return [path for lang in LANGUAGES for path in content.pages(lang)]


def chinese_pages() -> list[Path]:
    return content.pages("zh")


survey = cache(content.survey)


def entries() -> dict[str, content.Entry]:
    return survey()[0]


def twins() -> list[content.Entry]:
    """A lab is one file, whose reader holds its text cells to pairs."""
    return [entry for entry in entries().values() if entry.files["en"] != entry.files["zh"]]


def concepts() -> list[content.Entry]:
    return [e for e in twins() if "/" in e.name and not e.name.endswith("/index")]


def snippets() -> list[Path]:
    return sorted(SNIPPETS.glob("[!_]*/[!_]*.py"))


def tests() -> list[Path]:
    return sorted(TESTS.rglob("test_*.py"))


def scripts() -> list[Path]:
    return sorted((DOCS / "figures").glob("*/*.py"))


def written() -> list[Path]:
    """Everything that a contributor writes."""
    files = [*pages(), *labs.sources(), *snippets(), *tests(), *scripts(), glossary.FILE, QUERIES]
    return [file for file in files if file.is_file()]


# Pages --------------------------------------------------------------------------


def twins_and_front_matter() -> Problems:
    """Pages and labs are in both languages, and say what they are."""
    yield from survey()[1]


def same_in_both_languages(entry: content.Entry) -> Problems:
    """Both languages agree section by section."""
    english, chinese = (sections(entry.files[lang]) for lang in LANGUAGES)
    twin = entry.files["en"].relative_to(ROOT)
    path = entry.files["zh"]
    text = read(path)
    for anchor in english.keys() - chinese.keys():
        yield problem(path, 1, f"{twin} has a section #{anchor}, this page has not; write it")
    for anchor in chinese.keys() - english.keys():
        line = line_of(text, f"{{ #{anchor} }}")
        yield problem(path, line, f"{twin} has no section #{anchor}; write it there, or drop it")
    shared = [anchor for anchor in english if anchor in chinese]
    for anchor, other in zip([a for a in chinese if a in english], shared, strict=True):
        if anchor != other:
            line = line_of(text, f"{{ #{anchor} }}")
            yield problem(path, line, f"#{other} comes here in {twin}; bring them in one order")
            break
    for anchor in shared:
        start = line_of(text, f"{{ #{anchor} }}") if anchor else 1
        for field, value in vars(english[anchor]).items():
            mine = getattr(chinese[anchor], field)
            if value != mine:
                line = start + _line_of_difference(text, start, mine, value)
                what = _difference(mine, value)
                message = (
                    f"{field} of #{anchor} differ from those of {twin}: {what}; make both the same"
                )
                yield problem(path, line, message)


def _only(one: Iterable[str], other: Iterable[str]) -> list[str]:
    """What is in one and not in the other; of code, only the lines."""
    left = Counter(one) - Counter(other)
    known = {line for item in other for line in item.splitlines()}
    lines = [line for item in left for line in item.splitlines() if line.strip()]
    return [line for line in lines if line not in known] or list(left)


def _difference(mine: Iterable[str], other: Iterable[str]) -> str:
    shown = [
        f"only {where}: " + ", ".join(sorted(repr(_brief(item)) for item in only))
        for where, only in (("here", _only(mine, other)), ("there", _only(other, mine)))
        if only
    ]
    return "; ".join(shown) or "the order"


def _brief(text: str) -> str:
    return text if len(text) < 60 else f"{text[:57]}…"


def _line_of_difference(text: str, start: int, mine: Iterable[str], other: Iterable[str]) -> int:
    """How many lines below its heading a section has what its twin has not."""
    lines = text.splitlines()[start - 1 :]
    found = (n for item in _only(mine, other) for n, line in enumerate(lines) if item in line)
    return next(found, 0)


def parts_in_order(entry: content.Entry) -> Problems:
    """A concept page has its parts, in their order, and words to search it by."""
    if entry.name.startswith("benchmarks/"):
        return  # reports of measurements, each in the order that its results ask for
    path = entry.files["en"]
    text = read(path)
    found = [anchor for anchor in sections(path) if anchor in PARTS]
    for part in PARTS:
        if part not in found:
            yield problem(path, 1, f"the part #{part} is missing; write ## … {{ #{part} }}")
    wanted = [part for part in PARTS if part in found]
    for part, other in zip(found, wanted, strict=False):
        if part != other:
            line = line_of(text, f"{{ #{part} }}")
            yield problem(path, line, f"#{other} comes before #{part}; the order is {_list(PARTS)}")
            break
    for lang, file in entry.files.items():
        if entry.meta[lang] and not entry.meta[lang].get("tags"):
            line = line_of(read(file), "tags:")
            yield problem(file, line, "no `tags`; add the words by which a reader would search")


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def is_searched_for(entry: content.Entry) -> Problems:
    """The search is tried with words that a reader of the page would type."""
    for lang, path in entry.files.items():
        if (lang, entry.name) not in _wanted():
            message = f"no query in {QUERIES.relative_to(ROOT)} wants this page; add one"
            yield problem(path, 1, f"{message} with lang: {lang}, want: [{entry.name}]")


@cache
def _wanted() -> set[tuple[str, str]]:
    """(language, page) for each page that a query wants."""
    text = read(QUERIES)
    found = set()
    queries = load_yaml(text, QUERIES) or []
    for query in queries if isinstance(queries, list) else [queries]:
        try:
            found |= {(query["lang"], page) for page in query["want"]}
        except (KeyError, TypeError):
            message = f'{query} is no query; write - {{q: "…", lang: en, want: [page], kind: …}}'
            raise problem(QUERIES, 1, message) from None
    return found


def headings(path: Path) -> Problems:
    """One title, no level skipped, an anchor at every other heading."""
    level = 0
    seen: dict[str, int] = {}
    for number, marks, title in mend.headings(read(path)):
        if len(marks) == 1 and level:
            yield problem(path, number, f"'{title}': one # title a page; write ##")
        elif len(marks) > level + 1 and level:
            yield problem(path, number, f"'{title}' skips a level; write {'#' * (level + 1)}")
        if "$" in title:
            message = f"'{title}': no formulas in headings, they break the contents; use words"
            yield problem(path, number, message)
        level = len(marks)
        if level == 1:
            continue
        anchor = re.search(r" \{ #([a-z0-9-]+) \}$", title)
        if not anchor:
            message = f"'{title}' needs an anchor; write {marks} {title} {{ #anchor }}"
            yield problem(path, number, f"{message}, or run `make fix`")
        elif anchor[1] in seen:
            message = f"#{anchor[1]} is the anchor of line {seen[anchor[1]]}; choose another one"
            yield problem(path, number, message)
        else:
            seen[anchor[1]] = number
    if not level:
        yield problem(path, 1, "a page begins with its title; write # Title")


def embeds_and_links(path: Path) -> Problems:
    """Embeds, links and figures lead somewhere."""
    lang = path.relative_to(DOCS).parts[0]
    yield from content.problems(path, _known(lang) | {"glossary.md": glossary.FILE})
    yield from svg.problems(path)


def _known(lang: str) -> dict[str, Path]:
    """What a link may lead to; a page without its twin too, which is a problem of its own."""
    found = {f"{content.page_name(path, lang)}.md": path for path in content.pages(lang)}
    return found | {f"labs/{path.stem}.ipynb": path for path in labs.sources()}


def formulas_parse(path: Path) -> Problems:
    found = [formula for s in sections(path).values() for formula in s.formulas]
    results = formulas.render([(formula, False) for formula in found])
    for formula, result in zip(found, results, strict=True):
        if "error" in result:
            line = _line_of_formula(read(path), formula)
            message = f"a formula does not parse: {result['error']}; mend {formula}"
            yield problem(path, line, message)


def _line_of_formula(text: str, formula: str) -> int:
    """Blank space aside, which a formula loses: the line of all of it, or of its beginning."""
    lines = ["".join(line.split()) for line in text.splitlines()]
    whole = "".join(formula.split())
    for part in (f"${whole}$", whole, whole[:30], whole[:10]):
        if found := [number for number, line in enumerate(lines, 1) if part in line]:
            return found[0]
    return 1


def fences(path: Path) -> Problems:
    """No block of code is passed over by who highlights it, or by the test that runs it."""
    known = _list(f"```{name}" for name in FENCES)
    for number, mark, info in openings(read(path)):
        if not mark.startswith("`"):
            yield problem(path, number, f"use ``` fences for code, not {mark}")
        elif not re.match(rf"({'|'.join(FENCES)})(\s|$)", info):
            hint = f"a fence says what it is: {known}"
            yield problem(path, number, f"unknown fence {mark}{info}; {hint}")


# Order, terms -----------------------------------------------------------------------


def every_page_has_a_place() -> Problems:
    """Each section is on the home page, and each page is in its section's order."""
    found = entries()
    if "index" not in found:
        return
    try:
        for section in content.sections(found):
            content.reading_order(found, section)
    except PluginError as error:
        yield error


def glossary_names_pages() -> Problems:
    """Terms are complete, in the order of their ids, and lead to pages that exist."""
    text = read(glossary.FILE)
    ids = [line.removeprefix("- id: ") for line in text.splitlines() if line.startswith("- id: ")]
    for term in glossary.load():
        page = term.get("page", "index")
        if page not in entries():
            line = line_of(text, f"page: {page}")
            hint = did_you_mean(page, entries())
            yield problem(glossary.FILE, line, f"{term['id']}: no page '{page}'; {hint}")
    for before, after in pairwise(ids):
        if before > after:
            line = line_of(text, f"- id: {after}")
            message = f"'{after}' comes before '{before}'; `make fix` sorts the terms"
            yield problem(glossary.FILE, line, message)


# Snippets -----------------------------------------------------------------------


@cache
def _shown(lang: str) -> set[tuple[str, Path]]:
    """(section of the page, snippet) for all that the pages of a language embed."""
    return {
        (path.parent.name, snippet)
        for path in content.pages(lang)
        for snippet in content.embeds(path)
    }


def snippet_has_pages_and_test(path: Path) -> Problems:
    section = path.parent.name
    for lang in LANGUAGES:
        if (section, path) not in _shown(lang):
            message = f"no page in docs/{lang}/{section} embeds this snippet; write one"
            yield problem(path, 1, message)
    test = TESTS / section / f"test_{path.name}"
    if not test.is_file():
        yield problem(path, 1, f"this snippet has no test; write {test.relative_to(ROOT)}")


def test_has_its_snippet(path: Path) -> Problems:
    snippet = SNIPPETS / path.parent.name / path.name.removeprefix("test_")
    if not snippet.is_file():
        message = f"{snippet.relative_to(ROOT)}, which this tests by its name, does not exist"
        yield problem(path, 1, f"{message}; name the test as the snippet")
    yield from yardsticks.check(path)


def names_are_unique() -> Problems:
    """Copies of all snippets may stand in one folder."""
    seen: dict[str, Path] = {}
    for path in snippets():
        if path.stem in seen:
            other = seen[path.stem].relative_to(ROOT)
            yield problem(path, 1, f"{other} has the same name; rename one")
        seen.setdefault(path.stem, path)


def shape_of_a_snippet(path: Path) -> Problems:
    """What it may import, what its header says, what it marks for the pages."""
    text = read(path)
    tree = parse(path)
    if path in labs.closure(path):
        yield problem(path, 1, "imports itself, by way of other snippets; part them")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            if top not in ("torch", "triton") and top not in sys.stdlib_module_names:
                message = (
                    f"imports {module}; a snippet needs torch (and what comes with it, Triton) "
                    "and other snippets (from .name import …)"
                )
                yield problem(path, node.lineno, message)
    doc = ast.get_docstring(tree) or ""
    for word in ("Paper", "Needs:", "Axes:"):
        if word not in doc:
            yield problem(path, 1, f"the docstring at the top lacks '{word}'; add a line {word} …")
    marks = content.markers(path)
    if "demo" not in marks:
        yield problem(path, len(text.splitlines()), f"no part 'demo' to embed; {_part('demo')}")
    if not marks - {"demo"}:
        yield problem(path, 1, f"no part of the code to embed; {_part('core')}")
    names = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    if not any(isinstance(name, ast.Name) and name.id == "__all__" for name in names):
        yield problem(path, 1, 'no list of what others may import; add __all__ = ["…"]')


def _part(name: str) -> str:
    return f"put it between # --8<-- [start:{name}] and # --8<-- [end:{name}]"


def published_snippet_is_unchanged(path: Path) -> Problems:
    name = path.relative_to(SNIPPETS).with_suffix("").as_posix()
    parse(path)
    published = library.releases().get(library.release(), {}).get(name)
    if published and published != library.versions(name):
        message = "changed since its release; raise the number in pyproject.toml"
        yield problem(path, 1, message)
    text = read(path)
    for entry in library.history(text) if "History:" in text else ():
        if not re.match(r"\d+\.\d+\.\d+ \S", entry):
            line = line_of(text, "History:")
            message = f"'{entry}' is no entry of a history; write 0.2.0 what is different"
            yield problem(path, line, message)


# Figures ------------------------------------------------------------------------


def figures_have_script_and_place() -> Problems:
    shown = {lang: "".join(map(read, content.pages(lang))) for lang in LANGUAGES}
    drawn = "".join(map(read, scripts()))
    for path in sorted(svg.OUTPUT.rglob("*.svg")):
        stem, _, lang = path.stem.rpartition(".")
        if lang not in LANGUAGES:
            yield problem(path, 1, "the name ends in neither .en.svg nor .zh.svg; delete it")
            continue
        if path.name not in shown[lang]:
            yield problem(path, 1, f"no page in docs/{lang} shows this figure; show or delete it")
        if f'"{stem}"' not in drawn:
            message = f'no script draws this figure; yield "{stem}" in docs/figures, or delete it'
            yield problem(path, 1, message)


# What is still to be written --------------------------------------------------------


def unfinished(path: Path) -> Problems:
    for number, line in enumerate(read(path).splitlines(), 1):
        for what in line.split(MARKER)[1:]:
            text = re.split(r'["\]]|\*\*| \||\. |。', what)[0].strip(" .")
            yield problem(path, number, f"still to be written: {text}; then drop {MARKER}")


# All of them ----------------------------------------------------------------------

# What a rule is, and what there is to hold against it; None: it looks for itself.
RULES: list[tuple[Callable[..., Problems], Callable[[], Iterable[Any]] | None]] = [
    (twins_and_front_matter, None),
    (same_in_both_languages, twins),
    (parts_in_order, concepts),
    (is_searched_for, concepts),
    (headings, pages),
    (embeds_and_links, pages),
    (formulas_parse, pages),
    (fences, pages),
    (every_page_has_a_place, None),
    (glossary_names_pages, None),
    (terms.check, None),
    (safety.check, None),
    (snippet_has_pages_and_test, snippets),
    (test_has_its_snippet, tests),
    (names_are_unique, None),
    (shape_of_a_snippet, snippets),
    (published_snippet_is_unchanged, snippets),
    (figures_have_script_and_place, None),
    (unfinished, written),
]


def cases() -> Iterator[tuple[Callable[..., Problems], tuple[Any, ...]]]:
    """Each rule with each thing that there is to hold against it."""
    for rule, things in RULES:
        for thing in [()] if things is None else [(thing,) for thing in things()]:
            yield rule, thing


def apply(rule: Callable[..., Problems], *things: Any) -> Problems:
    """What a rule yields, and what makes it give up."""
    try:
        yield from rule(*things)
    except PluginError as error:
        yield error
