"""The benchmark of the operations: end to end at small sizes, its stored results, bad files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mkdocs.exceptions import PluginError

from benchmarks import __main__ as commands
from benchmarks import results
from benchmarks.operations import operations
from hooks import DOCS, LANGUAGES, measured

OPERATIONS = list(operations(torch.float64, small=True))
MARKED = [
    page.relative_to(DOCS / "en").with_suffix("").as_posix()
    for page in (DOCS / "en").rglob("*.md")
    if measured.MARK in page.read_text("utf-8")
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.page)
def test_what_is_compared_computes_the_same(operation) -> None:
    first, *others = (run() for run in (operation.ours | operation.library).values())
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9)


def test_stored_results_are_sound_and_all_shown() -> None:
    found = results.load("operations")
    measured_pages = {row["op"] for row in found.rows}
    assert measured_pages == {operation.page for operation in OPERATIONS} == set(MARKED)
    for row in found.rows:
        assert row["error"]["rel_l2"] < 1e-5, row
        names = {op.page: op.ours for op in OPERATIONS}[row["op"]]
        assert row["ours"] == (row["backend"] in names)


def test_a_ratio_is_against_the_fastest_library_function() -> None:
    def row(backend: str, ours: bool, *medians: float) -> dict[str, object]:
        times = {"median": sorted(medians)[1]}
        return dict(
            op="a", backend=backend, ours=ours, times_ms=times, pass_medians=list(medians)
        ) | {"pass": "forward"}

    rows = [row("f", True, 4, 6, 5), row("slow", False, 9, 9, 9), row("fast", False, 2, 2, 2)]
    (ratio,) = results.ratios(results.Run({}, rows), "a", "forward")
    assert ratio == results.Ratio("f", "fast", 2, 2.5, 3)


def test_table_of_a_page() -> None:
    path = DOCS / "en" / "attention" / "scaled_dot_product_attention.md"
    for lang in LANGUAGES:
        name = "attention/scaled_dot_product_attention.md"
        table = measured.set_table(f"a\n\n{measured.MARK}\n\nb", path, name, lang)
        ratio = results.ratios(results.load("operations"), name.removesuffix(".md"), "forward")[0]
        assert f"| {ratio.median:.1f}" in table and "../benchmarks/operations.jsonl" in table


def test_a_mark_without_measurements(tmp_path: Path) -> None:
    path = tmp_path / "sota.md"
    path.write_text(f"a\n\n{measured.MARK}\n", "utf-8")
    with pytest.raises(PluginError, match=r"sota.md:3: 'concepts/sota' has not been measured"):
        measured.set_table(path.read_text("utf-8"), path, "concepts/sota.md", "en")


@pytest.mark.slow
def test_a_run_of_small_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.run("pointwise", 0.01, tmp_path, small=True)
    found = results.load("operations", tmp_path)
    assert [(row["pass"], row["backend"]) for row in found.rows] == [
        (name, backend) for name in results.PASSES for backend in ("pointwise_conv2d", "F.conv2d")
    ]
    assert all(row["times_ms"]["n"] >= 9 and row["error"]["rel_l2"] < 1e-6 for row in found.rows)
    commands.main(["check", str(tmp_path)])
    assert "× F.conv2d" in capsys.readouterr().out


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(SystemExit, match="no operation has 'pontwise' in its name; there are att"):
        commands.run("pontwise", 0.01, Path(), small=True)


BROKEN = {
    "cut off": (lambda text: text[:-40], r"operations.jsonl:\d+: not JSON, cut off\?"),
    "empty": (lambda text: "", "no rows"),
    "field": (lambda text: text.replace('"dtype"', '"type"', 1), r":1: fields must be .*'dtype'"),
    "type": (lambda text: text.replace('"float32"', "32", 1), r":1: dtype must be str, got 32"),
    "run": (lambda text: text.replace('"run_id": "', '"run_id": "x', 1), r":1: run x\w+ is not"),
    "nan": (lambda text: _first(text, "error", rel_l2=float("nan")), r":1: .* not finite"),
    "negative": (lambda text: _first(text, "times_ms", min=-1.0), r":1: a number is negative"),
    "order": (lambda text: _first(text, "times_ms", p20=1e9), r":1: times are out of order"),
    "pass": (lambda text: text.replace('"forward"', '"sideways"', 1), r":1: pass must be one of"),
    "twice": (lambda text: text + text.splitlines()[0] + "\n", "no rows, or one twice"),
    "no peer": (
        lambda text: "".join(line for line in text.splitlines(True) if '"ours": true' in line),
        "ours or the library's row is missing",
    ),
}


def _first(text: str, field: str, **change: float) -> str:
    first, *others = text.splitlines()
    row = json.loads(first)
    row[field] |= change
    return "\n".join([json.dumps(row), *others])


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(name: str, tmp_path: Path) -> None:
    shutil.copytree(results.FOLDER, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "operations.jsonl"
    change, message = BROKEN[name]
    file.write_text(change(file.read_text("utf-8")), "utf-8")
    with pytest.raises(results.ResultError, match=message):
        results.load("operations", tmp_path)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="missing; measure with `python -m benchmarks run`"):
        commands.main(["check", str(tmp_path)])
