"""Translations that may lag for a while, with a reason, until a day: `docs/deferred.yml`.

`python -m hooks stale --defer docs/zh/PAGE.md#SECTION "reason"` writes an entry. It holds for what
the other language says now, which `digest` stands for, and for DAYS at most.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta
from pathlib import Path

import yaml
from mkdocs.exceptions import PluginError

from hooks import LANGUAGES, ROOT
from hooks.contribute.lag import Lag
from hooks.errors import did_you_mean, problem
from hooks.text import load_yaml, read

DAYS = 60
HEAD = "# Sections whose translation may lag for a while; see hooks/contribute/deferred.py.\n"


@dataclass(frozen=True)
class Deferral:
    """An entry of the file."""

    page: str  # "attention/gpt"
    section: str  # its anchor
    behind: str  # the language
    reason: str
    until: date  # the last day
    digest: str  # of the section in the other language

    @property
    def key(self) -> tuple[str, str, str]:
        return self.page, self.section, self.behind


def file(root: Path = ROOT) -> Path:
    return root / "docs" / "deferred.yml"


def load(path: Path) -> list[tuple[int, Deferral]]:
    """The entries, each with its line."""
    text = read(path) if path.is_file() else ""
    items = load_yaml(text, path) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise problem(path, 1, "a list of entries is expected, each - page: …, section: …")
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith("- ")]
    if len(lines) != len(items):
        raise problem(path, 1, "begin each entry with `- page: …` at the start of a line")
    found: dict[tuple[str, str, str], int] = {}
    entries = []
    for line, item in zip(lines, items, strict=True):
        entry = _entry(item, path, line)
        if entry.key in found:
            raise problem(path, line, f"the entry in line {found[entry.key]} again; keep one")
        found[entry.key] = line
        entries.append((line, entry))
    return entries


def _entry(item: dict[str, object], path: Path, line: int) -> Deferral:
    kinds = {field.name: date if field.name == "until" else str for field in fields(Deferral)}
    for name in item:
        if name not in kinds:
            raise problem(path, line, f"unknown field '{name}'; {did_you_mean(str(name), kinds)}")
    for name, kind in kinds.items():
        if name not in item:
            raise problem(path, line, f"'{name}' is missing; add {name}: …")
        if type(item[name]) is not kind:
            what = "a day such as 2027-01-31" if kind is date else "text; set it in quotes"
            raise problem(path, line, f"'{name}' must be {what}")
    if item["behind"] not in LANGUAGES:
        raise problem(path, line, f"'behind' is one of {', '.join(LANGUAGES)}")
    if not str(item["reason"]).strip():
        raise problem(path, line, "no reason; say why the translation has to wait")
    return Deferral(**item)  # type: ignore[arg-type]


def check(path: Path, lags: Iterable[Lag], today: date) -> Iterator[PluginError]:
    """What is wrong with the entries, or no longer right."""
    lagging = {lag.key: lag for lag in lags}
    for line, entry in load(path):
        lag = lagging.get(entry.key)
        where = f"{entry.page}#{entry.section} ({entry.behind})"
        if not lag:
            yield problem(path, line, f"{where} is not stale; delete the entry")
        elif entry.digest != lag.digest:
            what = "has changed further in the other language"
            yield problem(path, line, f"{where} {what}; translate it, or {remedy(lag)}")
        elif entry.until < today:
            what = f"was deferred until {entry.until}"
            yield problem(path, line, f"{where} {what}; translate it, or {remedy(lag)}")
        elif entry.until > today + timedelta(DAYS):
            latest = today + timedelta(DAYS)
            yield problem(path, line, f"deferred for more than {DAYS} days; write until: {latest}")


def remedy(lag: Lag) -> str:
    return f'defer it: .venv/bin/python -m hooks stale --defer {lag.place} "reason"'


def holding(path: Path, lags: Iterable[Lag], today: date) -> dict[tuple[str, str, str], Deferral]:
    """The entries that hold today."""
    digests = {lag.key: lag.digest for lag in lags}
    last = today + timedelta(DAYS)
    return {
        entry.key: entry
        for _, entry in load(path)
        if digests.get(entry.key) == entry.digest and today <= entry.until <= last
    }


def write(path: Path, lag: Lag, reason: str, today: date) -> Deferral:
    """Defer a section, in the place of an older entry on it."""
    until = today + timedelta(DAYS)
    new = Deferral(lag.page, lag.section, lag.behind, reason, until, lag.digest)
    entries = [entry for _, entry in load(path) if entry.key != new.key]
    items = [asdict(entry) for entry in sorted([*entries, new], key=lambda entry: entry.key)]
    text = yaml.safe_dump(items, allow_unicode=True, sort_keys=False, width=1000)
    path.write_text(HEAD + text, "utf-8")
    return new
