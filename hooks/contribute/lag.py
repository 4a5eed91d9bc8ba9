"""Which sections lag behind the other language: from the history of the pages and what they say.

Nobody keeps stamps. A section of a page is followed through the history in both languages, from the
first commit that has both. They stand together there, and again whenever both have said something
since, about as much, in one commit or one after the other: who follows catches up. Else, once what
was said in one language alone since then is material, the other one is behind. What is taken back
makes nothing stale.

What counts is words, and signs in Chinese: no code, no formulas, no punctuation, no format. The
thresholds separate, in this project's own history, the mending of words in one language (a
hundred commits to a section) from sentences that say more. A change that is no longer than a
clause passes, whatever it means; but numbers, formulas, code and links have to agree in any case.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from difflib import SequenceMatcher
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path

from hooks import LANGUAGES, ROOT
from hooks.content import HEAD
from hooks.contribute import history
from hooks.contribute.history import Commit, State
from hooks.text import lines_outside_code

Words = tuple[str, ...]

SIGNS = {"en": 1.0, "zh": 1.5}  # how many make a word of English, on our pages
STRETCH = 9.0  # words: what is added in one place says more
SENTENCE = 3.0  # words, where a sentence, an item or a row is added
SHARE = 1 / 3  # of a section: it has been written anew
FOLLOWED = 0.4  # of what the other said; translations in one commit have 0.5 to 1
ALIKE = 2 / 3  # of what the other said in the same commit: a translation

HEADING = re.compile(r"## .*\{ #([\w-]+) \}$")
SILENT = re.compile(  # formulas, code, tags, attributes, where links lead
    r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]+`|<[^>]*>|\{[^}\n]*\}|\]\([^)\s]*", re.DOTALL
)
# A word, a Chinese sign, or what ends a sentence or begins an item or a row.
WORD = re.compile(
    r"[^\W_\u4e00-\u9fff]+|[\u4e00-\u9fff]|[.!?](?=\s|\Z)|[。！？]|^\s*[-*+|](?=\s)", re.MULTILINE
)


@dataclass(frozen=True)
class Lag:
    """A section that did not follow the other language."""

    page: str  # "attention/gpt"
    section: str  # its anchor; empty for what stands before the first
    behind: str  # the language
    words: float  # changed in the other language
    share: float  # of the section there
    commit: Commit  # since when
    digest: str  # of the section there

    @property
    def newer(self) -> str:
        return "zh" if self.behind == "en" else "en"

    @property
    def key(self) -> tuple[str, str, str]:
        return self.page, self.section, self.behind

    @property
    def place(self) -> str:
        return f"docs/{self.behind}/{self.page}.md" + (f"#{self.section}" if self.section else "")


# What a section says ----------------------------------------------------------------


@cache
def sections(text: str) -> dict[str, Words]:
    """The words of each section by its anchor; what stands before the first is called ''."""
    head = HEAD.match(text)
    found: dict[str, list[str]] = {"": []}
    anchor = ""
    for _, line in lines_outside_code(text[head.end() :] if head else text):
        if heading := HEADING.match(line):
            anchor = heading[1]
        found.setdefault(anchor, []).append(line)
    return {anchor: words("\n".join(lines)) for anchor, lines in found.items()}


@cache
def words(text: str) -> Words:
    return tuple(WORD.findall(SILENT.sub(" ", text).lower()))


def digest(said: Words) -> str:
    return sha256(" ".join(said).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Change:
    """What is different in a section, in words of English."""

    words: float
    stretch: float  # most in one place
    material: bool


@lru_cache(10_000)
def change(old: Words, new: Words, lang: str) -> Change:
    total, longest, material = 0.0, 0.0, False
    for start, end, first, last in _changed(old, new):
        gone, come = (end - start) / SIGNS[lang], (last - first) / SIGNS[lang]
        net = abs(come - gone)
        total += max(gone, come)
        # A word exchanged counts a third of a word added: other words may say the same.
        longest = max(longest, min(gone, come) / 3 + net)
        material |= net >= SENTENCE and _stops(new[first:last]) != _stops(old[start:end])
    anew = total >= max(STRETCH, SHARE * len(old) / SIGNS[lang])
    return Change(total, longest, material or anew or longest >= STRETCH)


def _stops(said: Words) -> int:
    return sum(not word.isalnum() for word in said)


def _changed(old: Words, new: Words) -> list[list[int]]:
    """Where they differ, as bounds in both; one word in between that stayed is no interruption."""
    # difflib takes long for long texts: only what lies between a common beginning and end.
    least = min(len(old), len(new))
    same = zip(old, new, strict=False)
    head = next((at for at, (a, b) in enumerate(same) if a != b), least)
    same = zip(reversed(old), reversed(new), strict=False)
    tail = next((at for at, (a, b) in enumerate(same) if a != b), least)
    tail = min(tail, least - head)
    middle = old[head : len(old) - tail], new[head : len(new) - tail]
    found: list[list[int]] = []
    for tag, *bounds in SequenceMatcher(None, *middle, autojunk=False).get_opcodes():
        start, end, first, last = (head + at for at in bounds)
        if tag == "equal":
            continue
        if found and start - found[-1][1] <= 1:
            found[-1][1], found[-1][3] = end, last
        else:
            found.append([start, end, first, last])
    return found


# Who lags -----------------------------------------------------------------------------

Texts = dict[str, Words]  # a section by language
Step = tuple[Commit, Texts]


def follow(page: str, section: str, steps: Sequence[Step]) -> Lag | None:
    """Whether a section lags after the last of its steps."""
    base = before = steps[0][1]  # where both stood together, and the step before
    owed = dict.fromkeys(LANGUAGES, 0.0)  # what was said alone before the base
    lag = None
    for commit, now in steps[1:]:
        step = _changes(before, now)
        before = now
        least, most = sorted(found.words for found in step.values())
        materials = [found.material for found in step.values()]
        if not lag and any(materials) and least >= FOLLOWED * most:
            base = now  # in one commit
            continue
        if lag and all(materials) and least >= ALIKE * most:
            # Something else was said in both languages; what one owed, it owes still.
            base, owed = now, {lag.newer: lag.words, lag.behind: 0.0}
        since = _changes(base, now)
        said = {lang: owed[lang] + since[lang].words for lang in LANGUAGES}
        spoke = [lang for lang in LANGUAGES if owed[lang] or since[lang].material]
        if not spoke:
            lag = None
            continue
        newer = max(spoke, key=lambda lang: said[lang])
        behind = "zh" if newer == "en" else "en"
        # One after the other. Many small changes do not follow, which the stretch tells.
        answer = since[behind].stretch >= FOLLOWED * since[newer].stretch or behind in spoke
        if answer and said[behind] >= FOLLOWED * said[newer]:
            base, owed, lag = now, dict.fromkeys(LANGUAGES, 0.0), None
            continue
        if not lag or lag.behind != behind:
            lag = Lag(page, section, behind, 0, 0, commit, "")
        share = min(1.0, said[newer] * SIGNS[newer] / max(1, len(now[newer])))
        lag = replace(lag, words=said[newer], share=share, digest=digest(now[newer]))
    return lag


def _changes(old: Texts, new: Texts) -> dict[str, Change]:
    return {lang: change(old[lang], new[lang], lang) for lang in LANGUAGES}


def compare(
    revision: str, today: date, root: Path = ROOT
) -> Iterator[tuple[Lag | None, Lag | None]]:
    """How each section lagged at a commit, and how it lags in the working tree.

    Raises Unknown where git cannot tell.
    """
    history.check(root)
    for page, states in history.timelines(history.resolve(revision, root), today, root):
        for section, steps in _steps(states).items():
            last = steps[-1][0].id == ""  # the step to the working tree
            before = steps[:-1] if last else steps
            yield (
                follow(page, section, before) if before else None,
                follow(page, section, steps),
            )


def _steps(states: Sequence[State]) -> dict[str, list[Step]]:
    """The sections that are now in both languages, each with what changed its words."""
    found: dict[str, list[Step]] = {}
    for state in states:
        english, chinese = (sections(state.texts[lang] or "") for lang in LANGUAGES)
        both = [anchor for anchor in english if anchor in chinese and all(state.texts.values())]
        for anchor in both:
            now = {"en": english[anchor], "zh": chinese[anchor]}
            steps = found.setdefault(anchor, [])
            if not steps or steps[-1][1] != now:
                steps.append((state.commit, now))
    return {anchor: found[anchor] for anchor in both}


def lags(today: date | None = None, root: Path = ROOT) -> list[Lag]:
    """The sections that lag, pages in order of their names. Raises Unknown."""
    return [lag for _, lag in compare("HEAD", today or date.today(), root) if lag]
