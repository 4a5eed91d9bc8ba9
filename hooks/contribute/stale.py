"""Freshness of translations: the list of stale sections, the check, the note on the site.

python -m hooks stale                      the sections that lag behind the other language
python -m hooks stale --since origin/main  fail if what has changed since then makes one lag
python -m hooks stale --defer docs/zh/attention/gpt.md#usage "reason"
                                           let one lag for 60 days: an entry in docs/deferred.yml

Which lag is told by `lag.py`, from the history; what is not committed yet counts.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.utils import get_relative_url

from hooks import LANGUAGES, ROOT
from hooks.contribute import deferred, history, lag
from hooks.contribute.history import Unknown
from hooks.contribute.lag import Lag
from hooks.errors import did_you_mean, problem
from hooks.text import lines_outside_code, read

NOTE = {
    "en": (
        "The Chinese version of {what} was updated on {day}; the English one has not followed yet.",
        ("this section", "the beginning of this page"),
        "Read it in Chinese",
    ),
    "zh": (
        "{what}的英文版在 {day} 有更新，中文版尚未跟上。",
        ("本节", "本页开头"),
        "阅读英文版",
    ),
}
HOW = """What is new there: git log -p -- <the page in the other language>
Say it here as well, or let it wait: .venv/bin/python -m hooks stale --defer <section> "reason\""""
NAMES = {"en": "English", "zh": "Chinese"}


# The list, the check, the deferral ------------------------------------------------------


def main(*args: str, root: Path = ROOT, today: date | None = None) -> None:
    parser = argparse.ArgumentParser("python -m hooks stale", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--since", metavar="REVISION", help="fail if what changed since the branch left it lags"
    )
    parser.add_argument(
        "--defer",
        nargs=2,
        metavar=("PAGE.md#SECTION", "REASON"),
        help=f"let a section lag for {deferred.DAYS} days, in docs/deferred.yml",
    )
    options = parser.parse_args(args)
    today = today or date.today()
    try:
        if options.defer:
            defer(*options.defer, today, options.since, root)
        elif options.since:
            problems = list(check(options.since, today, root))
            sys.exit("\n".join(map(str, problems)) or 0)
        else:
            print(table(lag.lags(today, root), today, root))
    except Unknown as error:
        message = f"Whether translations are fresh cannot be told: {error}"
        if options.since or options.defer:
            sys.exit(message)
        print(message)


def table(lags: list[Lag], today: date, root: Path = ROOT) -> str:
    if not lags:
        return "No section lags behind the other language."
    holding = deferred.holding(deferred.file(root), lags, today)
    rows = [("section", "behind", "since", "changed there", "by")]
    for found in lags:
        until = f" (deferred until {holding[found.key].until})" if found.key in holding else ""
        since = f"{found.commit.day} {found.commit.id}".strip()
        subject = found.commit.subject
        rows.append((found.place, found.behind + until, since, amount(found), subject))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", HOW])


def check(revision: str, today: date, root: Path = ROOT) -> Iterator[PluginError]:
    """What the changes since the branch left `revision` make stale, and deferrals past their time.

    A section that lagged before is no fault of theirs, unless they add to it as much as would make
    it stale anew.
    """
    base = _fork(revision, root)
    pairs = list(lag.compare(base, today, root))
    # Commit by commit, too: within a new page one language can have gone on alone.
    lags = {after.key: after for after in lag.lags(today, root)}
    lags |= {after.key: after for _, after in pairs if after}
    lagged = {before.key: before for before, _ in pairs if before}
    file = deferred.file(root)
    yield from deferred.check(file, lags.values(), today)
    listed = {entry.key for _, entry in deferred.load(file)}
    for after in lags.values():
        if after.key in listed:
            continue
        before = lagged.get(after.key)
        if not before or after.words - before.words >= lag.STRETCH:
            newer = f"docs/{after.newer}/{after.page}.md"
            message = (
                f"this section lags: the one in {NAMES[after.newer]} has changed ({amount(after)}; "
                f"see git diff {base[:7]} -- {newer}); say here what is new there, "
                f"or {deferred.remedy(after)} --since {revision}"
            )
            path = root / "docs" / after.behind / f"{after.page}.md"
            yield problem(path, line_of_section(after, root), message)


def defer(
    place: str, reason: str, today: date, revision: str | None = None, root: Path = ROOT
) -> None:
    start = _fork(revision, root) if revision else "HEAD"
    lags = {after.place: after for _, after in lag.compare(start, today, root) if after}
    if place not in lags:
        known = did_you_mean(place, lags) if lags else "none is"
        sys.exit(f"'{place}' is not stale; {known}")
    if not reason.strip():
        sys.exit("no reason; say why the translation has to wait")
    entry = deferred.write(deferred.file(root), lags[place], reason, today)
    print(f"docs/deferred.yml lets {place} lag until {entry.until}; commit it")


def _fork(revision: str, root: Path) -> str:
    """The commit at which what is here left a branch."""
    history.check(root)
    there = history.resolve(revision, root)
    return history.git(root, "merge-base", there, "HEAD").decode().strip()


def line_of_section(found: Lag, root: Path = ROOT) -> int:
    """Of the section that lags."""
    text = read(root / "docs" / found.behind / f"{found.page}.md")
    start = f"{{ #{found.section} }}" if found.section else "# "
    lines = lines_outside_code(text)
    return next(n for n, line in lines if line.startswith("#") and start in line)


def amount(found: Lag) -> str:
    return f"{found.words:.0f} words, {found.share:.0%} of the section"


# The site and the status page -----------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """How many sections lag."""

    behind: dict[str, int]  # by language
    deferred: int  # of them
    unknown: str = ""  # why it cannot be told, and the remedy


def summary(today: date | None = None, root: Path = ROOT) -> Summary:
    today = today or date.today()
    try:
        lags = lag.lags(today, root)
    except Unknown as error:
        return Summary({}, 0, str(error))
    counts = Counter(found.behind for found in lags)
    holding = deferred.holding(deferred.file(root), lags, today)
    return Summary({lang: counts[lang] for lang in LANGUAGES}, len(holding))


def by_page(lang: str, root: Path = ROOT) -> dict[str, list[Lag]]:
    """The sections that lag in a language; none where that cannot be told."""
    found: dict[str, list[Lag]] = {}
    try:
        for each in lag.lags(root=root):
            if each.behind == lang:
                found.setdefault(each.page, []).append(each)
    except Unknown as error:
        _say(f"Whether translations are fresh cannot be told, so no page says it: {error}")
    return found


@cache
def _say(message: str) -> None:
    """Once, though there are two languages and many rebuilds."""
    print(message, flush=True)


def set_notes(html: str, lags: Iterable[Lag], address: str) -> str:
    """Below the heading of each section that lags: since when, and a link to the newer one."""
    up = get_relative_url(".", address)
    for found in lags:
        text, (section, opening), link = NOTE[found.behind]
        what = section if found.section else opening
        root = f"{up}/zh" if found.newer == "zh" else f"{up}/.."
        href = f"{root}/{address}" + (f"#{found.section}" if found.section else "")
        note = (
            f'<p class="stale" role="note">{text.format(what=what, day=found.commit.day)} '
            f'<a href="{href}" hreflang="{found.newer}">{link}</a></p>'
        )
        heading = rf'<h2 id="{found.section}">.*?</h2>' if found.section else "<h1.*?</h1>"
        if place := re.search(heading, html, re.DOTALL):
            html = html[: place.end()] + note + html[place.end() :]
    return html
