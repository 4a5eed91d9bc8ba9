"""Messages that name file, line and remedy."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from mkdocs.exceptions import PluginError

from hooks import ROOT


def problem(path: Path, line: int, message: str) -> PluginError:
    """The error to raise for `path:line`; it stops the build."""
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return PluginError(f"{where}:{line}: {message}")


def line_of(text: str, part: str) -> int:
    """The number of the first line that holds `part` (or 1)."""
    return next((n for n, line in enumerate(text.splitlines(), 1) if part in line), 1)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = [name for name in known if name.endswith(f"/{word}")]  # the section was left out
    near += difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
