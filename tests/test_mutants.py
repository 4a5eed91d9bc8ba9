"""The planting of faults, on a small tree of its own."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mkdocs.exceptions import PluginError
from scipy.stats import binomtest

from hooks import ROOT
from tests import mutants

AREA = '''"""Areas."""

import functools

__all__ = ["area", "steps"]

Side = int | float

@functools.lru_cache(maxsize=4)
def area(width: float, height: float = 1.0) -> float:
    """Width times height."""
    if width < 0:
        raise ValueError(f"width must not be {0}, got {width + 0}")
    return width * height


def steps(n: int) -> int:
    """From n to 0."""
    count = 0
    while n > 0:
        n -= 1
        count += 1
    return count


if __name__ == "__main__":
    print(area(2, 3))
'''
STRONG = """import pytest
from snippets.maths.area import area, steps

def test_area():
    assert area(2.0, 3.0) == 6.0 and area(4.0) == 4.0 and area(0.0) == area(0.5, 0.0) == 0.0
    with pytest.raises(ValueError, match="got -1"):
        area(-1)

def test_steps():
    assert steps(3) == 3 and steps(0) == 0
"""
WEAK = STRONG.replace("== 4.0", "> 0").replace("area(0.0) == ", "")
SURVIVORS = {
    ("def area(width: float, height: float = 1.0) -> float:", "height: float = 2.0"),
    ("if width < 0:", "if width <= 0:"),
}
TEST = "tests/snippets/maths/test_area.py"


def tree(root: Path, test: str, snippet: str = AREA) -> Path:
    for name, text in {
        "snippets/maths/area.py": snippet,
        TEST: test,
        "tests/__init__.py": "",
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
    }.items():
        write(root / name, text)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def accept(root: Path, **changes: str) -> None:
    entry = dict(
        {"snippet": "maths/area", "in": "area", "before": "if width < 0:"},
        after="if width <= 0:",
        why="of no width, of no area",
    )
    lines = [f"  {key}: {value!r}" for key, value in (entry | changes).items()]
    write(root / "tests" / "mutants.yml", "-\n" + "\n".join(lines) + "\n")


# Faults ---------------------------------------------------------------------------


def faults(root: Path) -> list[mutants.Fault]:
    snippet = mutants.Snippet(root, "maths/area")
    return [snippet.fault(number) for number in range(len(snippet.places))]


def test_faults_are_in_what_does_something(tmp_path: Path) -> None:
    found = faults(tree(tmp_path, STRONG))
    lines = AREA.splitlines()
    for fault in found:
        assert lines[fault.line - 1].strip() == fault.before
        assert AREA.replace(fault.before, fault.after, 1) == fault.code
        assert fault.within == ("area" if fault.line < 16 else "steps")
    planted = {fault.before for fault in found}
    # Under a decorator too, which mutmut itself passes over.
    assert {"return width * height", "if width < 0:", "n -= 1", "count = 0"} <= planted
    for word in ("Side", "__all__", "raise", "lru_cache", '"""', "print", "__main__"):
        assert not any(word in line for line in planted)
    assert len({fault.code for fault in found}) == len(found)


def test_every_snippet_has_faults() -> None:
    name = random.Random(time.time()).choice(mutants.names(ROOT))
    snippet = mutants.Snippet(ROOT, name)
    assert len(snippet.places) > 50
    fault = snippet.fault(len(snippet.places) // 2)
    assert fault.before != fault.after
    compile(fault.code, name, "exec")


def test_a_fault_over_several_lines_is_shown_in_one(tmp_path: Path) -> None:
    tree(tmp_path, STRONG, "x = max(\n    1,\n    2,\n)\n")
    shown = {(fault.line, fault.before, fault.after) for fault in faults(tmp_path)}
    assert (1, "x = max( 1, 2, )", "x = None") in shown
    assert (2, "1,", "2,") in shown


def test_a_larger_sample_contains_the_smaller_and_takes_turns() -> None:
    count = {"a": 3, "b": 40, "c": 40}

    def draw(**settings: int) -> list[tuple[str, int]]:
        return mutants.draw(list(count), count.__getitem__, **({"seed": 0} | settings))

    five, ten = draw(sample=5), draw(sample=10)
    assert len(set(ten)) == 10 and ten[:5] == five != draw(sample=5, seed=1)
    assert sorted(name for name, _ in ten) == ["a"] * 3 + ["b"] * 4 + ["c"] * 3 or (
        sorted(name for name, _ in ten) == ["a"] * 3 + ["b"] * 3 + ["c"] * 4
    )
    assert sorted(name for name, _ in draw(each=2)) == ["a", "a", "b", "b", "c", "c"]
    assert sorted(draw()) == sorted((name, n) for name in count for n in range(count[name]))


def test_a_sample_opens_no_more_snippets_than_it_needs() -> None:
    opened: list[str] = []

    def count(name: str) -> int:
        opened.append(name)
        return 5

    assert len(mutants.draw([*"abcdefgh"], count, 0, sample=3)) == len(opened) == 3


def test_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, STRONG)
    write(tmp_path / "snippets" / "other" / "untested.py", "x = 1\n")
    for words in (["area"], ["maths/area"], []):
        assert mutants.choose(tmp_path, words) == ["maths/area"]
    with pytest.raises(SystemExit, match="no snippet 'maths/aera'; did you mean 'maths/area'"):
        mutants.choose(tmp_path, ["maths/aera"])
    with pytest.raises(SystemExit, match="no section 'math'; did you mean 'maths'"):
        mutants.choose(tmp_path, [], "math")


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (9, 10), (88, 88), (181, 200)])
def test_the_interval_is_that_of_scipy(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert mutants.wilson(hits, count) == pytest.approx((expected.low, expected.high))


# Accepted survivors -----------------------------------------------------------------


def test_an_accepted_survivor_is_found_again_when_lines_move(tmp_path: Path) -> None:
    accept(tree(tmp_path, STRONG, AREA.replace("import functools\n", "import functools\n\n\n")))
    known = mutants.accepted(tmp_path)
    assert sum(fault.key in known for fault in faults(tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"before": "if width < 1:"},
            r"mutants.yml:4: .*no line 'if width < 1:'; delete",
        ),
        ({"snippet": "maths/circle"}, "snippets/maths/circle.py has no line"),
        ({"reason": "none"}, "an entry has after, before, in, snippet, why"),
    ],
)
def test_an_entry_that_fits_nothing(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    accept(tree(tmp_path, STRONG), **changes)
    with pytest.raises(PluginError, match=message):
        mutants.accepted(tmp_path)


def test_the_accepted_survivors_of_this_tree_are_there() -> None:
    mutants.accepted(ROOT)


# Runs -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "SPARE", 1.0)


def plant(root: Path, *args: str) -> int:
    return mutants.main(args, root)


@pytest.mark.slow
def test_a_strong_test_notices_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, STRONG)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert plant(tmp_path, "--strict", "--jobs", "2") == 0
    out = capsys.readouterr().out
    assert "NOT NOTICED" not in out and "100.0%" in out and "At least 90%: yes." in out
    # `n -= 1` as `n += 1` or `n = 1` never ends.
    assert "2 never ended" in out
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    del after[tmp_path / ".cache" / "mutants" / "results.jsonl"]
    assert after == before


@pytest.mark.slow
def test_a_weak_test_lets_them_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, WEAK)
    accept(tmp_path)
    assert plant(tmp_path, "--strict") == 1
    out = capsys.readouterr().out
    for before, after in SURVIVORS:
        assert f"- {before}\n" in out and after in out
    assert out.count("NOT NOTICED") == 1
    assert "snippets/maths/area.py:12: of no width, of no area" in out
    assert plant(tmp_path) == 0  # one is above nine tenths

    # What is known is used again, until a file it rests on changes.
    out = capsys.readouterr().out
    assert "0 to be tried" in out and out.count("NOT NOTICED") == 1
    write(tmp_path / TEST, STRONG)
    assert plant(tmp_path, "--sample", "3") == 0
    assert "3 to be tried" in capsys.readouterr().out


@pytest.mark.slow
def test_who_imports_a_snippet_tests_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path, WEAK)
    user = "from ..maths.area import area\n\n\ndef cube(x):\n    return x * area(x, x)\n"
    write(tmp_path / "snippets" / "solids" / "cube.py", user)
    test = "from snippets.solids.cube import area, cube\n\ndef test_cube():\n"
    test += "    assert cube(0.0) == 0.0 and area(4.0) == 4.0\n"
    write(tmp_path / "tests" / "snippets" / "solids" / "test_cube.py", test)
    assert plant(tmp_path, "area", "--strict") == 0
    assert "test_cube" in capsys.readouterr().out


@pytest.mark.slow
def test_tests_must_pass_without_a_fault(tmp_path: Path) -> None:
    tree(tmp_path, STRONG.replace("== 6.0", "== 7.0"))
    with pytest.raises(SystemExit, match=r"test_area.py:1: fails without a fault: test_area"):
        plant(tmp_path, "--sample", "1")


@pytest.mark.slow
def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    """And ends what a run has started."""
    child = "\ndef test_zzz():\n    import subprocess, time\n"
    child += f"    subprocess.Popen(['sleep', '{300 + os.getpid() / 1e6}'])\n    time.sleep(2)\n"
    ends = AREA.replace("while n > 0:\n        n -= 1", "for _ in range(n):")
    tree(tmp_path, STRONG + child, ends)
    code = "import sys, pathlib; from tests.mutants import main; "
    code += "sys.exit(main([], pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-u", "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("2/"):
            pass
        process.send_signal(signal.SIGINT)
        out = process.stdout.read()
    assert process.returncode == 130
    assert "goes on from here" in out
    results = (tmp_path / ".cache" / "mutants" / "results.jsonl").read_text("utf-8")
    assert results.count('"kind": "result"') >= 2
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert f"sleep {300 + os.getpid() / 1e6}" not in running.stdout
