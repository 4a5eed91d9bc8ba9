"""The status page: what is noted while tests run, the file made of it, what the page shows."""

import json
import math
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mkdocs.exceptions import PluginError
from torch.testing import assert_close  # watched, as in every test

from hooks import DOCS, LANGUAGES, ROOT, content, status, yardsticks
from snippets._cli import library
from tests.status import Recorder

ENTRIES = content.entries()
NAME = "attention/gpt"


# What is noted --------------------------------------------------------------------------


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """As while a test runs."""
    found = Recorder()
    found.watch(monkeypatch.setattr)
    found.errors = {}
    return found


def noted(recorder: Recorder, precision: str = "float64") -> tuple[int, float, float]:
    assert recorder.errors is not None and list(recorder.errors) == [precision]
    return tuple(recorder.errors[precision].values())  # type: ignore[return-value]


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_largest_error_is_noted(recorder: Recorder) -> None:
    torch.testing.assert_close(double(1, 8), double(1, 8 + 2**-30))
    torch.testing.assert_close(double(1, 8), double(1 + 2**-40, 8))
    count, absolute, relative = noted(recorder)
    assert (count, absolute) == (2, 2**-30) and relative == pytest.approx(2**-33)


def test_an_error_of_a_thousandth_is_seen(recorder: Recorder) -> None:
    a = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(a, a + 1e-3, rtol=0, atol=1e-2)
    about = (pytest.approx(1e-3, rel=1e-3), pytest.approx(5e-4, rel=1e-2))
    assert noted(recorder, "float32") == (1, *about)


def test_what_may_differ_by_more_than_rounding_is_kept_apart(recorder: Recorder) -> None:
    torch.testing.assert_close(double(1), double(1.001), rtol=1e-2, atol=0)
    assert double(1).item() == pytest.approx(1.001, rel=1e-2)
    np.testing.assert_allclose([1.0], [1.001], atol=1e-2)
    assert noted(recorder, "approximate")[0] == 3


def test_a_comparison_that_fails_is_no_success(recorder: Recorder) -> None:
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(double(1), double(2))
    assert double(1)[0].item() != pytest.approx(2)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose([1.0], [2.0])
    assert recorder.errors == {}


def test_tests_pass_and_fail_as_they_did() -> None:
    """This module has imported the function that is watched."""
    assert hasattr(assert_close, "__wrapped__")
    with pytest.raises(AssertionError):
        assert_close(1.0, 1.1)
    with pytest.raises(AssertionError, match="mine"):
        assert_close(double(1), double(2), msg="mine")


def test_approximations_in_lists_and_dictionaries(recorder: Recorder) -> None:
    found = {"a": 1.0, "b": 2.0}
    assert found == pytest.approx({"a": 1.0, "b": 2 + 2**-40})
    assert list(found.values()) == pytest.approx([1.0, 2.0])
    assert noted(recorder, "approximate")[:2] == (4, 2**-40)  # by default they allow 1e-6
    recorder.errors = {}
    assert found["a"] == pytest.approx(1 + 2**-40, abs=1e-11)
    assert noted(recorder)[:2] == (1, 2**-40)


def test_nested_and_named_arguments(recorder: Recorder) -> None:
    pair = {"x": [double(1), double(2)], "y": (3.0,)}
    torch.testing.assert_close(actual=pair, expected={"x": [double(1), double(2)], "y": (3.0,)})
    np.testing.assert_allclose(np.zeros(2), desired=0)
    assert noted(recorder) == (4, 0, 0)


def test_what_is_not_finite_agrees(recorder: Recorder) -> None:
    values = double(math.nan, math.inf, -math.inf, 1)
    torch.testing.assert_close(values, values + double(0, 0, 0, 2**-40), equal_nan=True)
    torch.testing.assert_close(values[:1], values[:1], equal_nan=True)
    torch.testing.assert_close(double(), double())
    assert noted(recorder)[:2] == (3, 2**-40)


def test_rounding_errors_of_zero_have_no_relative_error(recorder: Recorder) -> None:
    torch.testing.assert_close(double(1e-17), double(-1e-17), rtol=0, atol=1e-10)
    assert noted(recorder) == (1, pytest.approx(2e-17), 0)


@pytest.mark.parametrize(
    ("a", "precision"),
    [
        (torch.ones(2, dtype=torch.bfloat16), "bfloat16"),
        (torch.ones(2, dtype=torch.complex128), "complex128"),
        (torch.ones(2, dtype=torch.int64), "exact"),
        (1.0, "float64"),
    ],
    ids=str,
)
def test_precisions_are_told_apart(recorder: Recorder, a: Any, precision: str) -> None:
    torch.testing.assert_close(a, a)
    assert noted(recorder, precision) == (1, 0, 0)


def test_the_lower_precision_counts(recorder: Recorder) -> None:
    torch.testing.assert_close(torch.ones(2), torch.ones(2).half(), check_dtype=False)
    assert noted(recorder, "float16") == (1, 0, 0)


def test_a_reference_in_float64_is_named(recorder: Recorder) -> None:
    single = torch.tensor([1.0, 8.0])
    torch.testing.assert_close(single, double(1, 8 + 2**-30), check_dtype=False)
    assert noted(recorder, "float32/float64")[:2] == (1, 2**-30)
    assert status.PRECISIONS.index("float32/float64") < status.PRECISIONS.index("float32")


def test_only_tests_are_watched(recorder: Recorder) -> None:
    recorder.errors = None
    torch.testing.assert_close(double(1), double(1))
    assert recorder.errors is None


CONFTEST = """
from pathlib import Path
from tests.status import Recorder

def pytest_configure(config):
    recorder = Recorder(Path({root!r}), Path({folder!r}))
    recorder.watch()
    config.pluginmanager.register(recorder)
"""
MODULE = """
import pytest
import torch
from torch.testing import assert_close

@pytest.mark.parametrize("error", [2**-30, 2**-40])
def test_equals(error):
    one = torch.ones(1, dtype=torch.float64)
    assert_close(one, one + error)

def test_figure(record_property):
    record_property("measured", ("weight", 3, 5, "KB"))

def test_wrong():
    assert_close(torch.ones(1), torch.zeros(1))
"""


@pytest.mark.slow
def test_what_workers_note_is_put_together(tmp_path: Path) -> None:
    """A run of all; then of a part, which leaves the rest as it was, unless the code changed."""
    module = tmp_path / "tests/snippets/attention/test_thing.py"
    module.parent.mkdir(parents=True)
    module.write_text(MODULE)
    folder = tmp_path / "noted"
    conftest = CONFTEST.format(root=str(tmp_path), folder=str(folder))
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}\n")

    def run(*args: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        return json.loads((folder / "snippets/attention/test_thing.json").read_text())["tests"]

    found = run("-n", "2")
    errors = {test: of["errors"] for test, of in found.items()}
    sizes = {test: of["float64"]["absolute"] for test, of in errors.items() if "float64" in of}
    assert sizes == {
        "test_equals[9.313225746154785e-10]": 2**-30,
        "test_equals[9.094947017729282e-13]": 2**-40,
    }
    assert found["test_figure"]["measured"] == {"weight": [3, 5, "KB"]}
    assert [test for test, of in found.items() if of["failed"]] == ["test_wrong"]
    assert found["test_wrong"]["errors"] == {}
    assert run("-k", "test_figure").keys() == found.keys()
    module.write_text(MODULE + "\n")
    assert run("-k", "test_figure").keys() == found.keys()  # an empty line is no change
    module.write_text(MODULE.replace("KB", "MB"))
    assert run("-k", "test_figure").keys() == {"test_figure"}


# The file -------------------------------------------------------------------------------

RUN = dict(commit="abc", day="2026-11-22", machine="AMD, Linux", python="3.11", torch="2.13")
ERROR = dict(comparisons=3, absolute=3.1e-16, relative=2e-15)


def save(folder: Path, name: str = NAME, **change: Any) -> dict[str, Any]:
    """All parity tests of a snippet, as recorded, and one that is none."""
    tests = {
        f"{test}[{i}]": dict(failed=False, measured={}, errors={"float64": ERROR})
        for test in yardsticks.parity_tests(yardsticks.test_file(name).read_text("utf-8"))
        for i in range(2)
    }
    tests["test_bad_input"] = dict(
        failed=False, measured={}, errors={"float64": ERROR | dict(absolute=1.0)}
    )
    tests |= change.pop("tests", {})
    path = folder / f"snippets/{Path(name).parent}/test_{Path(name).name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = dict(run=RUN, snippet="0123", code="4567", tests=tests) | change
    path.write_text(json.dumps(whole))
    return tests


def test_the_largest_error_of_the_parity_tests_is_kept(tmp_path: Path) -> None:
    tests = save(tmp_path)
    found = status.gather(tmp_path)
    assert found == {
        "runs": [RUN],
        "site": {},
        "snippets": {
            NAME: {
                "digest": "0123",
                "float64": {
                    "comparisons": 3 * (len(tests) - 1),
                    "absolute": 4e-16,
                    "relative": 2e-15,
                },
            }
        },
    }


def test_a_snippet_whose_parity_tests_did_not_all_run_is_left_out(tmp_path: Path) -> None:
    tests = save(tmp_path)
    path = next(tmp_path.rglob("*.json"))
    first = next(iter(tests)).partition("[")[0]
    kept = {test: noted for test, noted in tests.items() if not test.startswith(first)}
    path.write_text(json.dumps(dict(run=RUN, snippet="0123", code="", tests=kept)))
    assert status.gather(tmp_path)["snippets"] == {}


def test_a_failed_test_is_named(tmp_path: Path) -> None:
    test = dict(failed=True, measured={}, errors={})
    save(tmp_path, tests={"test_equals_transformers[1-2]": test})
    lines = yardsticks.test_file(NAME).read_text("utf-8").splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "def test_equals_transformers(" in text)
    with pytest.raises(PluginError, match=f"test_gpt.py:{line}: test_equals_transformers.*failed"):
        status.gather(tmp_path)


def test_different_runs_are_not_mixed_unless_told(tmp_path: Path) -> None:
    save(tmp_path)
    save(tmp_path, "attention/bert", run=RUN | dict(day="2026-11-23"))  # past midnight
    assert status.gather(tmp_path)["runs"] == [RUN | dict(day="2026-11-23")]
    other = RUN | dict(commit="def")
    save(tmp_path, "attention/bert", run=other)
    with pytest.raises(PluginError, match="different runs .*abc.*def.*--mixed"):
        status.gather(tmp_path)
    assert status.gather(tmp_path, mixed=True)["runs"] == [RUN, other]


def test_figures_of_the_site(tmp_path: Path) -> None:
    figure = dict(failed=False, errors={}, measured={"weight of about/": [50.2, 90, "KB"]})
    (tmp_path / "site").mkdir()
    recorded = dict(run=RUN, snippet="", code="", tests={"test_weight[about/]": figure})
    (tmp_path / "site/test_budgets.json").write_text(json.dumps(recorded))
    (tmp_path / "site/test_gone.json").write_text("no longer read")
    assert status.gather(tmp_path)["site"] == {"weight of about/": [50.2, 90, "KB"]}


def test_write_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path)
    found = status.gather(tmp_path)
    monkeypatch.setattr(status, "gather", lambda mixed: found if mixed else None)
    monkeypatch.setattr(status, "FILE", ROOT / "docs" / "status.test.json")
    try:
        status.write("--mixed")
        assert json.loads(status.FILE.read_text()) == found
    finally:
        status.FILE.unlink()
    said = capsys.readouterr().out
    assert "attention/bert" in said and NAME not in said and "1 snippets" in said
    with pytest.raises(SystemExit, match="--mixed"):
        status.write("--all")


@pytest.mark.parametrize(
    ("x", "rounded"),
    [(0, 0), (3e-16, 3e-16), (3.01e-16, 4e-16), (9.5, 10), (1e-7, 1e-7), (0.99e-3, 1e-3)],
)
def test_errors_are_rounded_up(x: float, rounded: float) -> None:
    assert status.round_up(x) == rounded


# The page -------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(status, "FILE", tmp_path / "status.json")
    return status.FILE


def whole(**change: Any) -> dict[str, Any]:
    errors = {"comparisons": 3, "absolute": 4e-16, "relative": 2e-15}
    entry = {"digest": status.digest(NAME), "float64": errors}
    return {"runs": [RUN], "site": {}, "snippets": {NAME: entry}} | change


def shown(part: str, lang: str = "en") -> str:
    page = DOCS / lang / "status.md"
    return status.set_tables(f"<!-- status: {part} -->", page, ENTRIES, lang)


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| [{start}"))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_has_all_parts(lang: str) -> None:
    text = (DOCS / lang / "status.md").read_text("utf-8")
    assert status.MARKER.findall(text) == ["runs", "gaps", "errors", "site", "benchmarks"]
    assert "<!-- status" not in status.set_tables(text, DOCS, ENTRIES, lang)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_errors_are_shown(file: Path, lang: str) -> None:
    title = ENTRIES[NAME].meta[lang]["title"]
    file.write_text(json.dumps(whole()))
    expected = f"| [{title}](attention/gpt.md) | transformers `GPT2LMHeadModel` | 4e-16 | 2e-15 |"
    assert expected in shown("errors", lang).splitlines()
    assert "2026-11-22" in shown("runs", lang) and "`abc`" in shown("runs", lang)


def test_every_snippet_has_its_row_under_its_section(file: Path) -> None:
    text = shown("errors")
    assert sum("not measured yet" in line for line in text.splitlines()) == len(library.library())
    heads = re.findall(r"^### .* \{ #(\w+) \}$", text, re.MULTILINE)
    with_code = {name.partition("/")[0] for name in library.library()}
    assert heads == [s for s in content.sections(ENTRIES) if s in with_code]
    assert "[The YOLO family](detection/yolo.md) `yolo_v3`" in text
    assert row(text, "FlashAttention").count("`") == 2 and "; definition in float64" in text


def test_earlier_code_is_called_so(file: Path) -> None:
    found = whole()
    found["snippets"][NAME]["digest"] = "0" * 16
    file.write_text(json.dumps(found))
    assert "| 4e-16 (earlier code) | 2e-15 |" in row(shown("errors"), "GPT")
    assert "GPT and large" in shown("gaps").splitlines()[0]
    file.write_text(json.dumps(whole()))
    assert "GPT and large" not in shown("gaps")


def test_precisions_and_equality(file: Path) -> None:
    low = {"comparisons": 3, "absolute": 2e-7, "relative": 0.0}
    nothing = {"comparisons": 3, "absolute": 0.0, "relative": 0.0}
    found = whole()
    found["snippets"][NAME] |= {"float32": low, "float16": nothing}
    file.write_text(json.dumps(found))
    assert "| 4e-16, 2e-7 float32 | 2e-15 |" in row(shown("errors"), "GPT")
    assert "lower precision" not in shown("gaps")
    del found["snippets"][NAME]["float64"]
    file.write_text(json.dumps(found))
    assert "| 2e-7 float32 |  |" in row(shown("errors"), "GPT")
    assert "lower precision than float64 only: [GPT" in shown("gaps")
    found["snippets"][NAME]["float32/float64"] = low
    file.write_text(json.dumps(found))
    assert "| 2e-7 float32/float64, 2e-7 float32 |  |" in row(shown("errors"), "GPT")
    assert "lower precision than float64 only, compared with float64: [GPT" in shown("gaps")
    found["snippets"][NAME] = {"digest": status.digest(NAME), "exact": nothing}
    file.write_text(json.dumps(found))
    assert "| equal |  |" in row(shown("errors"), "GPT")


def test_the_worst_case_of_the_site_is_shown(file: Path) -> None:
    site = {
        "weight of about/": [60, 90, "KB"],
        "weight of labs/x/": [120, 190, "KB"],
        "right page not first, 120 queries": [10.0, 15, "%"],
        "axe violations, dark, 412 px": [0, 0, ""],
        "axe violations, light, 412 px": [2, 0, ""],
    }
    file.write_text(json.dumps(whole(site=site)))
    text = shown("site")
    assert "| Heaviest page for its limit: about/ | 60 KB | 90 KB |" in text
    assert "| Searches that show the right page first, of 120 | 90 % | 85 % |" in text
    assert "| Violations that axe finds, at most | 2  | 0  |" in text
    assert "| Requests to other hosts, from … pages | not measured yet | |" in text
    assert "| 120 次搜索中，正确页面排第一的 | 90 % | 85 % |" in shown("site", "zh")


@pytest.mark.parametrize("unknown", ["", "no history"])
def test_sections_that_lag_are_counted(
    file: Path, monkeypatch: pytest.MonkeyPatch, unknown: str
) -> None:
    stale = types.ModuleType("stale")
    found = types.SimpleNamespace(behind={"en": 3, "zh": 5}, deferred=1, unknown=unknown)
    stale.summary = lambda: found  # type: ignore[attr-defined]
    package = types.ModuleType("contribute")
    package.stale = stale  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hooks.contribute", package)
    assert ("deferred | 3, 5, 1 | |" in shown("site")) == (not unknown)


def test_gaps_are_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "yardsticks of their own" not in shown("gaps")
    named = status.yardstick
    with_own = {"detection/faster_rcnn": [status.OWN]}
    monkeypatch.setattr(status, "yardstick", lambda name: with_own.get(name) or named(name))
    text = shown("gaps")
    family = "[The R-CNN family](detection/rcnn_family.md) `faster_rcnn`"
    assert f"yardsticks of their own: {family}." in text
    without = next(line for line in text.splitlines() if "without a snippet" in line)
    assert "limits_of_cnns" in without and "sota.md" not in without


@pytest.mark.parametrize("found", [True, False])
def test_kernels_without_a_gpu_are_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    monkeypatch.setattr(status.results, "FOLDER", tmp_path)
    if found:
        (tmp_path / "nvidia-h200").mkdir()
        (tmp_path / "nvidia-h200" / "attention.jsonl").touch()
    assert ("on a GPU is on record" in shown("gaps")) == (not found)


def test_ages_of_the_benchmarks() -> None:
    lines = shown("benchmarks").splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert len(cells) >= 8 and all(re.fullmatch(r"20\d\d-\d\d-\d\d", day) for *_, day, _ in cells)
    assert all(int(rows) > 0 for _, _, rows, _, _ in cells)
    assert all(re.fullmatch(r"`[0-9a-f]{12}`(, `[0-9a-f]{12}`)*", code) for *_, code in cells)


def test_without_a_file_nothing_is_measured(file: Path) -> None:
    assert status.load() == status.EMPTY
    assert shown("runs") == "- not measured yet"


def broken(**change: Any) -> str:
    return json.dumps(whole(**change), indent=1)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{\n"runs": [\n', 3, "not JSON"),
        ("[]", 1, "this file has runs, site, snippets"),
        (broken(site=[]), 1, "this file has"),
        (broken(runs=[{"commit": "abc"}]), 2, "'runs' is incomplete"),
        (broken(site={"weight": [1, 2]}), 12, "'weight' is incomplete"),
        (broken(snippets={"a/b": {"digest": 3}}), 13, "'a/b' is incomplete"),
        (broken(snippets={"a/b": {"digest": "3", "float64": {}}}), 13, "'a/b' is incomplete"),
        (broken(snippets={"a/b": {"digest": "3", "float63": ERROR}}), 13, "'a/b' is incomplete"),
    ],
)
def test_a_bad_file_is_refused(file: Path, text: str, line: int, message: str) -> None:
    file.write_text(text)
    with pytest.raises(PluginError, match=rf"status.json:{line}: {message}.*make status"):
        status.load()


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "status.md"
    page.write_text("# Status\n\n<!-- status: error -->\n")
    with pytest.raises(PluginError, match=r"status.md:3: no 'error' .* mean 'errors'"):
        status.set_tables(page.read_text(), page, {}, "en")


# Yardsticks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("Yardstick: scipy.fft.rfft.", "", 1, "the docstring lacks its yardstick; add a line"),
        ("import scipy.fft", "", 3, "the yardstick is of scipy, which is not imported here"),
        ("= rfft()", "= 0", 3, "the yardstick 'rfft' is not used here; compare with it"),
        ("# Parity", "# Edges", 1, "no test compares with the yardstick; put it below"),
    ],
)
def test_a_yardstick_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, line: int, message: str
) -> None:
    doc = '"""X.\n\nYardstick: scipy.fft.rfft.\n"""\n'
    text = f"{doc}import scipy.fft\n# Parity --------\ndef test_a():\n    x = rfft()\n"
    path = tmp_path / "test_x.py"
    monkeypatch.setattr(yardsticks, "test_file", lambda name: path)
    path.write_text(text)
    assert not list(yardsticks.check(path))
    path.write_text(text.replace(old, new))
    (found,) = map(str, yardsticks.check(path))
    assert f"test_x.py:{line}: {message}" in found


def test_an_unknown_yardstick_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test_x.py"
    path.write_text('"""X.\n\nYardstick: torch.nn.GRU; plain\n    loops; plane loops.\n"""\n')
    monkeypatch.setattr(yardsticks, "test_file", lambda name: path)
    with pytest.raises(PluginError, match=r"test_x.py:3: yardstick 'plane loops'.*'plain loops'"):
        yardsticks.yardstick("x")
    path.write_text(path.read_text().replace("plane", "plain"))
    assert yardsticks.yardstick("x") == ["torch.nn.GRU", "plain loops", "plain loops"]
    path.write_text('"""X."""\n')
    assert yardsticks.yardstick("x") == []


def test_parity_is_told_by_the_heading() -> None:
    text = """# Parity: head ------------
def test_a():
    pass
# Invariants ------------
def test_b():
    pass
# Published sizes, parity ------------
def test_c():
    pass
"""
    assert yardsticks.parity_tests(text) == {"test_a", "test_c"}
