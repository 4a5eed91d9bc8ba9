"""The writing aid for terms in Chinese; the glossary says what they are called.

translations   one English word, one Chinese: what stands before （English） is a name of that term
avoided        renderings that the glossary rejects: `avoid` of a term
first_use      what a page is about has its English name beside it at first
punctuation    full-width punctuation, a space between Chinese and Latin: AutoCorrect and the house
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

from hooks import DOCS, glossary
from hooks.contribute import mend
from hooks.errors import line_of, problem
from hooks.glossary import HAN
from hooks.text import HEAD, lines_outside_code, read

Lines = list[tuple[int, str]]
Term = dict[str, Any]

ASIDE = re.compile(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|\{ ?[#.w][^}]*\}|<[^>]*>")
# A Chinese word, and in brackets an English one; names of models and acronyms are no translations.
PAIR = re.compile(r"([一-鿿][A-Za-z0-9 \-–—一-鿿]*)（([a-z][a-z \-']*)(?=[，、）])")


def check() -> Iterator[PluginError]:
    pages = [*sorted((DOCS / "zh").rglob("[!.]*.md")), *sorted((DOCS / "labs").glob("*.py"))]
    terms = glossary.load()
    yield from translations(pages, terms)
    for path in pages:
        yield from avoided(path, terms)
        yield from punctuation(path)
        if path.suffix == ".md":
            name = path.relative_to(DOCS / "zh").with_suffix("").as_posix()
            yield from first_use(path, [term for term in terms if term.get("page") == name])
    yield from punctuation(glossary.FILE)


def chinese(path: Path) -> Lines:
    """The lines in Chinese of a page, a lab or the glossary, without code and front matter."""
    text = read(path)
    if path.suffix == ".yml":
        fields = re.compile(r"^(?:- |  )(?:zh|define_zh): (.*)$")
        lines = enumerate(text.splitlines(), 1)
        return [(number, field[1]) for number, line in lines if (field := fields.match(line))]
    if path.suffix == ".md":
        head = HEAD.match(text)
        last = text.count("\n", 0, head.end()) if head else 0
        told = re.compile(r"(?:title|description): ?(.*)")
        lines = list(enumerate(text.splitlines(), 1))
        found = [(n, field[1]) for n, line in lines[:last] if (field := told.match(line))]
        body = ((n, line) for n, line in lines_outside_code(text) if n > last)
        return found + list(_without_formulas(body))
    found, shown = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# %%"):
            shown = 'lang="zh"' in line
        elif shown:
            found.append((number, re.sub("^# ?", "", line)))
    return list(_without_formulas(found))


def _without_formulas(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    display = False
    for number, line in lines:
        if line.strip() == "$$":
            display = not display
        elif not display:
            yield number, line


def prose(path: Path) -> Lines:
    """The same without formulas, code and addresses in the lines, and without emphasis."""
    return [(number, ASIDE.sub("", line).replace("*", "")) for number, line in chinese(path)]


# One word for one thing ---------------------------------------------------------------


def translations(pages: list[Path], terms: list[Term]) -> Iterator[PluginError]:
    """Where the Chinese before （English） is not what the glossary or the other pages say."""
    of_english = {name.lower(): term for term in terms for name in glossary.names(term, "en")}
    of_chinese = {
        name: term for term in terms for name in glossary.names(term, "zh") if HAN.search(name)
    }
    places: defaultdict[str, list[tuple[Path, int, str, Term | None]]] = defaultdict(list)
    for path in pages:
        for number, line in prose(path):
            for word, english in PAIR.findall(line):
                if not HAN.match(word[-1]):
                    continue
                ends = (word.removesuffix("的")[at:] for at in range(len(word)))
                term = next((of_chinese[end] for end in ends if end in of_chinese), None)
                english = english.strip()
                if english not in of_english and english.removesuffix("s") in of_english:
                    english = english.removesuffix("s")
                places[english].append((path, number, word, term))
    for english, found in places.items():
        known = of_english.get(english)
        # A word that the glossary lacks: what it knows of the Chinese beside it elsewhere.
        told = {term["zh"] for *_, term in found if term} if known is None else {known["zh"]}
        for path, number, word, term in found:
            if told and (term is not known if known else term is None):
                names = "' or '".join(sorted(told))
                message = f"'{word[-8:]}（{english}）': elsewhere it is '{names}'; use that, or add"
                yield problem(path, number, f"{message} the word to `also` in docs/glossary.yml")


def avoided(path: Path, terms: list[Term]) -> Iterator[PluginError]:
    """Renderings that the glossary rejects."""
    wrong = {name: term for term in terms for name in term.get("avoid", [])}
    if not wrong:
        return
    for number, line in prose(path):
        found = _known(terms).findall(line) if any(name in line for name in wrong) else ()
        for name in found:
            if name in wrong:
                right = wrong[name]["zh"]
                message = f"'{name}' for {wrong[name]['en']}; the glossary says '{right}'"
                yield problem(path, number, message)


def _known(terms: list[Term]) -> re.Pattern[str]:
    """Matches the longest Chinese name, right or wrong: 精度 is no fault within 平均精度."""
    names = {n for t in terms for n in [*glossary.names(t, "zh"), *t.get("avoid", [])]}
    return _longest(frozenset(name for name in names if HAN.search(name)))


@cache
def _longest(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(names, key=lambda n: (-len(n), n)))))


# First use ------------------------------------------------------------------------------


def first_use(path: Path, terms: list[Term]) -> Iterator[PluginError]:
    """Of the terms that this page explains, those that its summary names without the English."""
    lines = prose(path)
    text = read(path)
    start, end = line_of(text, "{ #idea }"), line_of(text, "{ #why }")
    before = ""
    todo = {term["id"]: term for term in terms}
    for number, line in lines:
        if not start < number < end or line.startswith(("#", "!", "|")):
            continue
        before += line
        for term in list(todo.values()):
            names = [n for n in glossary.names(term, "zh") if HAN.search(n) and "、" not in n]
            if not any(name in line for name in names):
                continue
            del todo[term["id"]]
            beside = "|".join(map(re.escape, names))
            english = "|".join(map(re.escape, glossary.names(term, "en")))
            said = rf"(?:{beside})[^，。（]{{0,4}}（[A-Za-z]|(?<![\w-])(?:{english})s?(?![\w-])"
            if not re.search(said, before, re.IGNORECASE | re.ASCII):
                message = f"'{term['zh']}' is a term of this page; at first say its English name,"
                yield problem(path, number, f"{message} as in {term['zh']}（{term['en']}）")


# Typography -----------------------------------------------------------------------------

RULES = ("fullwidth", "no-space-fullwidth", "space-word", "space-dollar")
# These take the space beside “ ” and read 32：96 as a time of day, or have nothing to find here.
OTHERS = (
    *("halfwidth-punctuation", "halfwidth-word", "no-space-fullwidth-quote", "space-backticks"),
    *("space-bracket", "space-dash", "space-punctuation", "spellcheck"),
)


def punctuation(path: Path) -> Iterator[PluginError]:
    """Half-width punctuation in Chinese, and a missing space between Chinese and Latin."""
    lines = dict(chinese(path))
    seen = set[int]()
    for number, line in lines.items():
        for found, message in mend.typography(line)[1]:
            seen.add(number)
            yield problem(path, number, f"{message} in '{found}'; `make fix` mends it")
    text = "\n".join(lines.get(number, "") for number in range(1, max(lines, default=0) + 1))
    for one in _autocorrect().lint_for(text, "page.md").lines:
        if one.line not in seen:
            matcher = SequenceMatcher(None, one.old, one.new, autojunk=False)
            _, a, b, c, d = next(step for step in matcher.get_opcodes() if step[0] != "equal")
            old, new = one.old[max(0, a - 5) : b + 5], one.new[max(0, c - 5) : d + 5]
            yield problem(path, one.line, f"'{old}' should be '{new}'")


@cache
def _autocorrect() -> Any:
    import autocorrect_py  # only the checks need it

    rules = dict.fromkeys(RULES, 1) | dict.fromkeys(OTHERS, 0)
    autocorrect_py.load_config(json.dumps({"rules": rules}))
    return autocorrect_py
