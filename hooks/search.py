"""The index of the search: what finding a page takes, and no more.

The theme's plugin makes the search box; its index would hold every text whole, up to 6 KB a page
over the wire. Ours holds titles and descriptions, and of the rest only which words stand in which
sections; `search.js` reads it.
"""

import json
import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import jieba
from mkdocs.structure.pages import Page

from hooks import CACHE, ROOT, glossary
from hooks.content import Entry
from hooks.glossary import HAN

LIBRARY = ROOT / "node_modules/minisearch/dist/umd/index.js"

LISTS = ("index.md", "tags.md", "status.md")

# What asks, and says nothing of what is asked for; `search.js` leaves it out of a query.
QUESTIONS = """
a about am an and any are as at be because been being but by can cannot could did do does doing
each for from had has have having how however i if in into is it its itself me my nor not of on or
our s shall should since so such t than that the their them then there these they this those to
too us use used using very via vs was we were what when where whether which while who whom whose
why will with would you your 为什么 为何 怎么样 怎么 怎样 如何 什么 是不是 是否 哪些 哪个 多少 的
了 吗 呢 吧 是
""".split()  # noqa: SIM905
# What may stand in any text; the index does without.
FILLERS = """
after again also although before both during either having here just may might more most much must
neither now often other ours own rather some still therefore though thus until upon within without
yet 一个 一种 这个 那个 这些 那些 这样 那样 这里 那里 可以 可能 应当 应该 能够 需要 没有 不是 不能
不会 就是 而是 还是 只是 只有 只要 如果 因为 因此 所以 但是 不过 然而 而且 并且 或者 以及 虽然
即使 于是 从而 其中 其他 其余 它们 他们 我们 自己 每个 任何 所有 有些 一些 之间 之后 之前 以上
以下 以外 同时 例如 比如 已经 仍然 本页 一次 一半 一起 一点 一切 一旦 三个 三者 两个 两种 两者
两份 两边 前者 后者 之一 某个 别的 各种 各自 多个 若干 整个 几乎 常常 通常 往往 很少 不再 否则
必须 同样 重新 本身 东西 到底 而言 来自 取自 出来 出发 得到 给出 知道 看到
""".split()  # noqa: SIM905
# Signs that stand between words rather than in terms.
PARTICLES = frozenset(
    "的一是不了在有个这么们为和与到以时要就会可也能而得于着下之过里用所都没还只从被把再才很最更并或若"
    "则且即其它他此每各几两三中上内外后前便使让给按照向由算取成出多少大小"
)
# English endings, cut off on both sides so that "masked" finds "masks".
ENDING = re.compile(
    r"(?<=.{4})(?:ments?|[ae]nc(?:es?|y|ies)|[ae]nt(?:ly)?|ions?|ies|ings?|ed|es|ly|(?<!s)s|e|y)$"
)

NO_WORDS = frozenset(QUESTIONS + FILLERS)

TERM = 100000  # how common a term of ours is made, beside the words of the dictionary
WORD = re.compile(r"[\u4e00-\u9fff]+|[^\W\d_\u4e00-\u9fff][^\W_\u4e00-\u9fff]+")
LEFT_OUT = re.compile(
    r'<(span|div) class="arithmatex">.*?</\1>|<figure.*?</figure>|<p class="(?:path|stale)".*?</p>'
    r'|<section class="take">.*?</section>',
    re.DOTALL,
)
CODE = re.compile(r"<pre>.*?</pre>", re.DOTALL)
NAME = re.compile(r'<span class="n[fc]">(\w+)</span>')  # of a function or class, at its definition
HEADING = re.compile(r'<h([1-6]) id="([^"]+)"[^>]*>(.*?)</h\1>', re.DOTALL)
LINK = re.compile(r"<a [^>]*>(.*?)</a>", re.DOTALL)
HEADERLINK = re.compile(r'<a class="headerlink".*?</a>', re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, as plain text."""

    location: str
    title: str
    text: str


def read(page: Page) -> list[Section]:
    """The sections of a page: no formulas, no figures, of the code only what it defines."""
    html = LEFT_OUT.sub("", page.content or "")
    html = CODE.sub(lambda block: " ".join(NAME.findall(block[0])), HEADERLINK.sub("", html))
    _, *parts = HEADING.split(html)
    for at, name in enumerate(parts[1::4]):
        if name == "references":  # the titles; first authors are named in the text
            parts[4 * at + 3] = " ".join(LINK.findall(parts[4 * at + 3]))
    heads = zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True)
    return [
        Section(page.url if level == "1" else f"{page.url}#{id}", _plain(title), _plain(text))
        for level, id, title, text in heads
    ]


def write(path: Path, sections: list[Section], entries: dict[str, Entry], lang: str) -> None:
    """Fill the plugin's index, which is empty."""
    config = json.loads(path.read_text("utf-8"))["config"]
    index = condense(sections, config, entries, lang)
    path.write_text(json.dumps(index, ensure_ascii=False, separators=(",", ":")), "utf-8")


def condense(
    sections: list[Section], config: dict[str, Any], entries: dict[str, Entry], lang: str
) -> dict[str, Any]:
    """The index as `search.js` wants it.

    docs      sections: location, title; where it opens a page also text (its description) and tags
    words     "word section section…" a line; the sections by number, in base 36, each as the
              distance to the one before
    synonyms  the names that the glossary has for the same term, and how the Chinese one is typed
    """
    addresses = {entry.address: entry for entry in entries.values()}
    docs: list[dict[str, Any]] = []
    places: defaultdict[str, list[int]] = defaultdict(list)
    for section in sections:
        location = section.location
        page = location.partition("#")[0]
        entry = addresses.get(page)
        is_list = entry is not None and entry.source.endswith(LISTS)
        if is_list and location != page:
            continue  # its sections say again what the pages say that it lists
        doc: dict[str, Any] = {"location": location, "title": section.title}
        if is_list:
            doc["boost"] = 0.3
        if page.startswith("labs/"):
            doc["boost"] = 0.8  # first the concept, then its lab
        if entry and location == page:
            doc["text"] = entry.meta[lang]["description"]
            doc["tags"] = _tags(entry, entries)
        elif location == "glossary/":
            doc["tags"] = " / ".join(glossary.TITLE.values())
        elif page == "glossary/":
            doc["text"] = section.text
            doc["boost"] = 0.1  # a definition comes after the page on the term
        for word in set() if is_list else _words(section.text):
            places[word].append(len(docs))
        docs.append(doc)
    for word in [word for word in places if _says_little(word, len(places[word]))]:
        del places[word]
    lines = (f"{word} {_gaps(places[word])}" for word in sorted(places))
    typed = _pinyin([term["zh"] for term in glossary.load()])
    synonyms = [[t["en"], t["zh"], *t.get("also", []), typed[t["zh"]]] for t in glossary.load()]
    return {
        # What the theme is to hand on to the worker has to stand here or in `docs`.
        "config": config
        | {
            "words": "\n".join(lines),
            "synonyms": synonyms,
            "questions": QUESTIONS,
            "ending": ENDING.pattern,
        },
        "docs": docs,
    }


def _tags(entry: Entry, entries: dict[str, Entry]) -> str:
    """What else a page answers to, in both languages: readers type either, whichever they read."""
    section = entries.get(f"{entry.name.partition('/')[0]}/index", entry)
    found: list[str] = []
    for meta in [*entry.meta.values(), *section.meta.values()]:
        found += [meta["title"], *meta.get("tags", [])]
    return " / ".join(dict.fromkeys(found))


def _plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html)).strip()


def _words(text: str) -> set[str]:
    found: set[str] = set()
    for run in set(WORD.findall(text.lower().replace("_", " "))):
        if HAN.match(run):
            found.update(word for word in _segmenter().cut(run) if len(word) > 1)
        else:
            found.add(ENDING.sub("", run))
    return found - NO_WORDS


def _pinyin(names: list[str]) -> dict[str, str]:
    """How each is typed in Latin letters; kept, since the library is slow to load."""
    file = CACHE / "pinyin.json"
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if not known.keys() >= set(names):
        from pypinyin import lazy_pinyin

        known = {name: "".join(lazy_pinyin(name)) for name in names}
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(known, ensure_ascii=False), "utf-8")
    return known


def _says_little(word: str, sections: int) -> bool:
    """Common in Chinese at large, and yet in one or two sections only: it just happened to be used.

    Half of the Chinese words stand in one section, and the index would double. What no dictionary
    knows and holds a particle has been cut wrong.
    """
    if sections > 2 or not HAN.match(word):
        return False
    common = _segmenter().FREQ.get(word, 0)
    if not common:
        return sections == 1 and not PARTICLES.isdisjoint(word)
    return (100, 1000)[sections - 1] <= common < TERM


@cache
def _segmenter() -> jieba.Tokenizer:
    """Cuts Chinese into words; it knows our terms."""
    jieba.setLogLevel(logging.WARNING)
    cut = jieba.Tokenizer()
    for term in glossary.load():
        for name in glossary.names(term, "zh"):
            if HAN.search(name):
                cut.add_word(name, TERM)
    return cut


def _gaps(numbers: list[int]) -> str:
    return " ".join(_base36(b - a) for a, b in zip([0, *numbers], numbers, strict=False))


def _base36(number: int) -> str:
    head, last = divmod(number, 36)
    return (_base36(head) if head else "") + "0123456789abcdefghijklmnopqrstuvwxyz"[last]
