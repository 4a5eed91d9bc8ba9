"""The rules of the house, held against all there is; what of it has to be run or drawn, too."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hooks import DOCS, ROOT, SNIPPETS, figures, labs
from hooks.content import Entry
from hooks.contribute import rules
from tests.reading import code_blocks


def case_id(value: Any) -> str:
    if callable(value):
        return value.__name__
    thing = value[0] if value else ""
    if isinstance(thing, Path):
        return thing.relative_to(ROOT).as_posix()
    return thing.name if isinstance(thing, Entry) else ""


@pytest.mark.parametrize(("rule", "thing"), list(rules.cases()), ids=case_id)
def test_rule_holds(rule: Callable[..., rules.Problems], thing: tuple[Any, ...]) -> None:
    problems = list(map(str, rules.apply(rule, *thing)))
    assert not problems, "\n".join(problems)


def test_the_rules_look_at_something() -> None:
    for rule, things in rules.RULES:
        assert things is None or list(things()), f"{rule.__name__} has nothing to look at"


def snippet_id(path: Path) -> str:
    return path.relative_to(SNIPPETS).as_posix()


def demo(
    path: Path, folder: Path, python: str | Path = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run a snippet copied out, with what it imports, in an empty folder."""
    for file in [path, *labs.closure(path)]:
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    quiet = "ignore:Conversion of an array"  # NumPy to Triton's interpreter
    command = [python, "-W", "error", "-W", quiet, "-m", module]
    options = {"capture_output": True, "text": True, "check": False, "timeout": 300}
    return subprocess.run(command, cwd=folder, **options)


def demos_shown(path: Path) -> list[str | None]:
    """What the pages of its section print."""
    pages = (DOCS / "en" / path.parent.name).glob("*.md")
    return [block.expected_output for page in pages for block in code_blocks(page)]


@pytest.mark.slow
@pytest.mark.parametrize("path", rules.snippets(), ids=snippet_id)
def test_snippet_runs_when_copied_out(path: Path, tmp_path: Path) -> None:
    """It prints what its page shows."""
    result = demo(path, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout in demos_shown(path), "the demo is on the page, with what it prints"


@pytest.mark.slow
@pytest.mark.parametrize("script", figures.scripts(), ids=lambda path: path.stem)
def test_figures_are_what_their_script_draws(script: Path) -> None:
    for path, text in figures.draw(script):
        assert path.is_file(), f"{path} is missing; run `make figures`"
        assert path.read_text("utf-8") == text, f"{path} is not up to date; run `make figures`"
