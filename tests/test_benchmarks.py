"""The benchmarks: end to end at small sizes on a CPU, arithmetic, stored results, bad files."""

import json
import math
import operator
import re
import runpy
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mkdocs.exceptions import PluginError

from benchmarks import __main__ as commands
from benchmarks import report, results, runner, suites, timing, work
from benchmarks.detectors import run as detectors
from benchmarks.detectors import tables, training
from benchmarks.detectors.rows import EMPTY, wrong
from benchmarks.detectors.zoo import DETECTORS
from benchmarks.suites import convolution, detection
from benchmarks.suites.operations import operations
from hooks import DOCS, LANGUAGES, figures, measured
from tests.reading import PAGES, name

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STATUSES = {"ok", "skipped", "unsupported"}
OPERATIONS = list(operations(torch.float64, small=True))
MARKED = [
    page.relative_to(DOCS / "en").with_suffix("").as_posix()
    for page in (DOCS / "en").rglob("*.md")
    if measured.MARK in page.read_text("utf-8")
]
STORED = [
    (suite, folder)
    for folder in sorted(results.FOLDER.iterdir())
    if folder.is_dir()
    for suite in results.suites(folder)
]


def run(*arguments: str) -> None:
    commands.main([*arguments])


def small(suite: str, out: Path, *more: str) -> results.Run:
    run("run", "--suite", suite, "--small", "--seconds", "0.005", "--out", str(out), *more)
    return results.check(suite, out)


# What is compared -----------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.page)
def test_what_is_compared_computes_the_same(operation) -> None:
    first, *others = (run() for run in (operation.ours | operation.library).values())
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("suite", ["attention", "window", "sliding"])
def test_backends_of_a_cell_agree_with_float64(suite: str) -> None:
    """The kernels too, which the interpreter runs here."""
    for cell in suites.cells(suite, CPU, small=True):
        built = cell.build(1)
        out, grads = built.reference(True)
        for title, backend in built.backends.items():
            if title.startswith("SDPA") and title != "SDPA math":
                continue  # they refuse some inputs on a CPU
            torch.testing.assert_close(backend.run().double(), out, rtol=1e-4, atol=1e-5)
        found = torch.autograd.grad(backend.run(), built.leaves, built.upstream)
        for one, other in zip(found, grads):
            torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("suite", ["convolution", "depthwise"])
def test_backends_of_a_layer_agree_with_float64(suite: str) -> None:
    """Each cell has one pass; the kernels, which a run leaves out on a CPU, are interpreted."""
    seen = set()
    makers = suites.cells, suites.tuning_cells
    for cell in (cell for make in makers for cell in make(suite, CPU, small=True)):
        (name,) = cell.passes
        built = cell.build(1)
        out, grads = built.reference(name != "forward")
        expected = out if name == "forward" else grads[0]
        for title, backend in built.backends.items():
            torch.testing.assert_close(backend.run().double(), expected, rtol=1e-4, atol=1e-4)
            seen.add((cell.op, name, title))
    assert ("tuning", "forward") in {pair[:2] for pair in seen} and len(seen) > 20


def test_layers_on_a_gpu_are_those_of_the_networks() -> None:
    """Making a cell needs no GPU; building it does."""
    found = [cell for suite in ("convolution", "depthwise") for cell in suites.cells(suite, CUDA)]
    keys = [(results.cell(vars(cell)), cell.passes) for cell in found]
    assert len(set(map(str, keys))) == len(keys)
    resnet = [
        cell
        for cell in found
        if cell.op == "convolution" and cell.passes == ("forward",)
        if cell.shape["groups"] == cell.shape["dilation"] == 1 and cell.dtype == "bfloat16"
    ]
    assert len(resnet) == 23, "3 + 3 * 6 layers and two 1x1 of the first stage"
    # torchvision's ResNet-50 has 53 convolutions; every shape of them is here, and no other.
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50().eval()
        shapes = set()
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda layer, inputs, _: shapes.add(
                        (*layer.weight.shape[:3], inputs[0].shape[2], layer.stride[0])
                    )
                )
        model(torch.empty(1, 3, 224, 224))
    ours = {
        tuple(cell.shape[axis] for axis in ("K", "C", "R", "side", "stride")) for cell in resnet
    }
    assert ours == shapes


def test_a_search_is_on_for_its_calls_only() -> None:
    drawn = convolution._drawn(CPU, convolution.Layer(4, 4, 3, 5), 1, 0)
    tensors = convolution._Tensors.of(drawn, torch.channels_last)
    layer, seen = convolution.Layer(4, 4, 3, 5), []
    backend = tensors.library(layer, "forward", search=True)
    out = backend.thread.submit(backend.run).result()
    torch.testing.assert_close(out, tensors.library(layer, "forward").run())
    flag = partial(convolution._searched, lambda: seen.append(torch.backends.cudnn.benchmark))
    flag()
    assert seen == [True] and not torch.backends.cudnn.benchmark


def test_a_backend_runs_in_its_thread() -> None:
    """cuDNN keeps a plan for each thread: what is searched for must not meet what is not."""
    there: dict[str, set[int]] = {"own": set(), "shared": set()}

    def backend(name: str, thread: Any = None) -> suites.Backend:
        def run() -> torch.Tensor:
            there[name].add(threading.get_ident())
            return torch.ones(2)

        return suites.Backend(run, thread=thread)

    with ThreadPoolExecutor(1) as thread:
        both = cell(backend("own", thread), backend("shared"))
        sampler = commands.machine.Sampler(CPU)
        found = list(runner.rows(both, CPU, timing.clock(CPU), sampler, 0.001))
        assert [row["status"] for row in found] == ["ok", "ok"]
        assert there == {
            "own": {thread.submit(threading.get_ident).result()},
            "shared": {threading.get_ident()},
        }


# Arithmetic -----------------------------------------------------------------------


def row(suite: str, name: str = "forward", causal: bool = False, **shape: int) -> dict[str, Any]:
    return {"suite": suite, "pass": name, "causal": causal, "dtype": "bfloat16", "shape": shape}


def test_work_of_attention() -> None:
    shape = dict(B=1, H=16, G=16, N=4096, M=4096, D=128)
    found = work.work(row("attention", **shape))
    assert found == work.Work(4 * 16 * 4096**2 * 128, 8 * 16 * 4096 * 128, 16 * 4096**2)
    back = work.work(row("attention", "backward", **shape))
    assert back.flops == 2.5 * found.flops and back.bytes == 14 * 16 * 4096 * 128
    causal = work.work(row("attention", causal=True, **shape))
    assert causal.flops == found.flops / 2 and causal.bytes == found.bytes
    grouped = work.work(row("attention", **shape | {"G": 4}))
    assert grouped.flops == found.flops and grouped.bytes == found.bytes * 5 / 8


@pytest.mark.parametrize(("N", "w"), [(10, 1), (10, 3), (10, 10), (5, 9)])
def test_work_of_a_sliding_window_counts_the_band(N: int, w: int) -> None:
    pairs = sum(1 for i in range(N) for j in range(N) if 0 <= i - j < w)
    found = work.work(row("sliding", B=2, H=3, G=3, N=N, D=8, w=w))
    assert found.exps == 6 * pairs and found.flops == 6 * pairs * 4 * 8


def test_work_of_windows() -> None:
    found = work.work(row("window", B=2, height=14, width=21, H=3, D=32, window=7, shift=3))
    windows = 2 * 2 * 3
    assert found.flops == windows * 3 * 4 * 49 * 49 * 32
    assert found.bytes == 8 * 3 * 32 * 2 * 14 * 21  # 8 bytes a channel and token


@pytest.mark.parametrize("name", ["forward", "dgrad", "wgrad"])
@pytest.mark.parametrize(
    ("C", "K", "R", "side", "stride", "dilation", "groups"),
    [(6, 4, 3, 7, 1, 1, 1), (6, 4, 3, 8, 2, 1, 2), (4, 4, 3, 9, 1, 2, 4), (4, 8, 1, 8, 2, 1, 1)],
)
def test_work_of_a_convolution(name, C, K, R, side, stride, dilation, groups) -> None:
    padding = dilation * (R - 1) // 2
    shape = dict(C=C, K=K, R=R, side=side, stride=stride, dilation=dilation, groups=groups)
    found = work.work(row("convolution", name, N=2, padding=padding, **shape))
    x = torch.zeros(2, C, side, side, requires_grad=True)
    weight = torch.ones(K, C // groups, R, R)
    out = torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    (seen,) = torch.autograd.grad(out.sum(), x)
    assert found.flops == 2 * out.numel() * R * R * C // groups and found.exps == 0
    read = x.numel() if name == "dgrad" else int((seen != 0).sum())
    assert found.bytes == 2 * (read + weight.numel() + out.numel())
    if R == 1 and name == "forward":
        more = work.work(row("convolution", N=2, padding=0, residual=1, **shape))
        assert more.bytes - found.bytes == 2 * (out.numel() + 2 * K)


def test_work_of_a_causal_convolution() -> None:
    found = work.work(row("depthwise", B=2, C=3, L=5, k=4))
    assert found == work.Work(2 * 2 * 3 * 5 * 4, 2 * (2 * 2 * 3 * 5 + 12), 0)


def test_the_slowest_unit_sets_the_floor() -> None:
    ceilings = {"matmul": 100.0, "copy": 10.0, "exp": 1000.0, "launch": 1e3}
    assert work.floor(work.Work(1000, 1, 1), ceilings) == (10_000.0, "mma")
    assert work.floor(work.Work(1, 1000, 1), ceilings) == (100_000.0, "memory")
    assert work.floor(work.Work(1, 0, 10**6), ceilings) == (1e6, "exp")
    assert work.floor(work.Work(0, 0, 0), ceilings) == (1.0, "launch")


def device_clock(monkeypatch, early: int = 0) -> tuple[timing.DeviceClock, list[int]]:
    """A clock of a GPU that is not there; its first runs begin `early` times too early."""
    slept: list[int] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            pass

        def record(self) -> None:
            pass

        def query(self) -> bool:
            return len(slept) <= early

        def elapsed_time(self, other: Any) -> float:
            return 10.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = object.__new__(timing.DeviceClock)
    found._cache = torch.zeros(1)
    return found, slept


def test_a_gpu_sleeps_while_the_queue_is_filled(monkeypatch) -> None:
    calls: list[int] = []
    clock, slept = device_clock(monkeypatch)
    times = clock.calls(lambda: calls.append(1), 0.6)
    assert times == [0.01] * 60 and len(calls) == 1 + 3 + 60
    assert len(slept) == 1 + 3, "25 + 25 + 10 calls"
    assert clock.calls(lambda: None, 0.001) == [0.01] * 3, "a slow call is not repeated"
    clock, slept = device_clock(monkeypatch, early=2)
    assert clock._run(lambda: None, 5, 1e-4) == [0.01] * 5
    assert len(slept) == 3 and slept[2] > 3 * slept[0], "once more, with a longer sleep"
    clock, slept = device_clock(monkeypatch, early=100)
    assert clock._run(lambda: None, 5, 1e-4) == [0.01] * 5 and len(slept) == 4


def test_summary_of_times() -> None:
    found = timing.summary([[3.0, 1.0, 2.0], [9.0, 8.0, 7.0], [4.0, 5.0, 6.0]])
    assert found["pass_medians"] == [2.0, 8.0, 5.0]
    expected = {"n": 9, "min": 1.0, "p20": 2.0, "median": 5.0, "p80": 8.0, "mean": 5.0}
    assert found["times_ms"] == expected


def test_a_ratio_is_against_the_fastest_library_function() -> None:
    def row(backend: str, ours: bool, *medians: float, status: str = "ok") -> dict[str, Any]:
        times = {"median": sorted(medians)[1]}
        found = dict(backend=backend, ours=ours, times_ms=times, pass_medians=list(medians))
        return found | {"status": status}

    rows = [row("f", True, 4, 6, 5), row("slow", False, 9, 9, 9), row("fast", False, 2, 2, 2)]
    rows.append(row("broken", False, 1, 1, 1, status="error"))
    (ratio,) = results.ratios(rows)
    assert ratio == results.Ratio("f", "fast", 2, 2.5, 3) and not ratio.tie
    (ratio,) = results.ratios([row("f", True, 1, 3, 2), row("g", False, 2, 2, 2)])
    assert ratio.tie


# Runs -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["attention", "window", "sliding", "convolution", "depthwise"])
def test_a_run_of_small_sizes(suite: str, tmp_path: Path, capsys) -> None:
    found = small(suite, tmp_path)
    assert {"ok", "skipped"} <= {row["status"] for row in found.rows} <= STATUSES
    for row in found.rows:
        if row["status"] == "ok":
            assert row["times_ms"]["n"] >= 9 and row["error"]["rel_l2"] < 1e-5
            assert row["fraction_of_floor"] > 0
    assert {c["when"] for c in found.manifest["ceilings"]} == {"start", "middle", "end"}
    assert {c["kind"] for c in found.manifest["ceilings"]} == {"matmul", "copy", "exp"}
    printed = capsys.readouterr().out
    assert re.search(r"^2/\d+ .* left$", printed, re.MULTILINE) or suite == "sliding"
    run("compare", str(tmp_path), str(tmp_path))
    same = capsys.readouterr().out
    assert "1.00 (1.00 to 1.00), tie" in same and f"{len(found.rows)} rows in common" in same
    run("report", str(tmp_path))
    assert "TFLOP/s" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_operations(tmp_path: Path) -> None:
    found = small("operations", tmp_path, "--only", "pointwise")
    assert [(row["pass"], row["backend"]) for row in found.rows] == [
        (name, backend)
        for name in ("forward", "forward and backward")
        for backend in ("pointwise_conv2d", "F.conv2d")
    ]


@pytest.mark.slow
def test_a_run_of_detection(tmp_path: Path, monkeypatch) -> None:
    """Ours and ONNX Runtime's keep the same boxes and pool the same values."""
    found = small("detection", tmp_path)
    status = {(row["op"], row["backend"]): row["status"] for row in found.rows}
    ours = {"nms", "batched_nms", "roi_align", "roi_pool"}
    assert {backend for _, backend in status} >= {*ours, "torchvision.ops"}
    assert all(state == "ok" for (_, name), state in status.items() if "torchvision" not in name)
    assert len(results.ratios(found.rows[:3])) == 1
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    tmp_path.joinpath("cpu").mkdir()
    for path in tmp_path.glob("*.json*"):
        path.rename(tmp_path / "cpu" / path.name)
    for lang, text in zip(LANGUAGES, ("no build of it for this torch", "没有与此 PyTorch 匹配")):
        lines = report.table("ratios", "cpu", "detection", lang, op="detection/nms")
        assert sum(line.startswith("| boxes") for line in lines) == 2
        assert any(text in line for line in lines)


def test_a_library_that_is_missing_is_skipped(monkeypatch) -> None:
    monkeypatch.setattr(detection, "find_spec", lambda name: None)
    for made in suites.cells("detection", CPU, small=True):
        missing = {backend.missing for backend in made.build(0).backends.values()}
        texts = {reason for _, reason in filter(None, missing)}
        assert texts == {"onnx is not installed", "torchvision is not installed"}
    assert detection._no_onnx(CUDA) == ("skipped", "runs on a CPU")


@pytest.mark.slow
def test_ceilings_alone(tmp_path: Path) -> None:
    assert small("ceilings", tmp_path).ceilings()["matmul"] > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["attention", "depthwise"])
def test_a_run_that_is_broken_off_goes_on(suite: str, tmp_path: Path, monkeypatch, capsys) -> None:
    whole = small(suite, tmp_path / "whole")
    count, real = 0, runner.rows

    def stop(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(runner, "rows", stop)
    published = tmp_path / "out" / f"{suite}.jsonl"
    with pytest.raises(SystemExit, match="130"):
        small(suite, tmp_path / "out")
    assert not published.exists(), "half a run is not published"
    before = results.load(suite, tmp_path / "out", ".partial")
    found = small(suite, tmp_path / "out")
    assert "going on with run" in capsys.readouterr().out
    assert found.manifest["run_id"] == before.manifest["run_id"]
    assert list(map(results.key, found.rows)) == list(map(results.key, whole.rows))
    assert found.rows[0]["times_ms"] == before.rows[0]["times_ms"], "what was measured stays"
    assert not list(published.parent.glob("*.partial*"))


@pytest.mark.slow
def test_a_run_stops_at_its_deadline_with_what_it_has(tmp_path: Path, monkeypatch) -> None:
    left = iter([100.0, 100.0, *[0.0] * 50])
    monkeypatch.setattr(commands.Session, "left", lambda self: next(left))
    cut = small("attention", tmp_path)
    assert cut.manifest["deadline_hit"]
    assert {row["reason"] for row in cut.rows if row["backend"] == "-"} == {"deadline"}
    assert any(row["status"] == "ok" for row in cut.rows)
    monkeypatch.undo()
    whole = small("attention", tmp_path)
    assert whole.manifest["run_id"] == cut.manifest["run_id"]
    assert not whole.manifest["deadline_hit"]
    assert not any(row["reason"] == "deadline" for row in whole.rows)


@pytest.mark.slow
def test_a_run_of_other_versions_is_not_mixed_in(tmp_path: Path, monkeypatch) -> None:
    small("ceilings", tmp_path)
    for path in tmp_path.iterdir():
        path.rename(path.with_name(path.name.replace("ceilings", "ceilings.partial")))
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(SystemExit, match="is of another versions; delete it, or write elsewhere"):
        small("ceilings", tmp_path)


def cell(*backends: suites.Backend) -> suites.Cell:
    q = torch.ones(2, requires_grad=True)
    built = suites.Built(
        [q],
        {str(i): backend for i, backend in enumerate(backends)},
        lambda gradients: (torch.ones(2, dtype=torch.float64), None),
    )
    return suites.Cell("test", "test", "2", "float32", lambda seed: built, ("forward",))


def outcome(run: Callable[[], Any]) -> tuple[str, str]:
    clock = timing.clock(CPU)
    sampler = commands.machine.Sampler(CPU)
    measured_cell = cell(suites.Backend(run), suites.Backend(lambda: torch.ones(2)))
    broken, good = runner.rows(measured_cell, CPU, clock, sampler, 0.001)
    assert good["status"] == "ok" and broken["times_ms"] is None
    return broken["status"], broken["reason"]


def raising(error: Exception) -> Callable[[], Any]:
    def run() -> Any:
        raise error

    return run


def test_what_a_backend_refuses_is_an_outcome() -> None:
    assert outcome(raising(RuntimeError("No available kernel. Aborting"))) == (
        "unsupported",
        "No available kernel. Aborting",
    )
    assert outcome(raising(torch.OutOfMemoryError("CUDA"))) == ("oom", "out of memory")
    assert outcome(raising(ValueError("\nbad shape\nmore"))) == ("error", "bad shape")


@pytest.mark.parametrize("value", [1.1, math.nan])
def test_a_wrong_result_gets_no_time(value: float) -> None:
    status, reason = outcome(lambda: torch.tensor([1.0, value]))
    assert status == "error" and "of its norm, allowed 0.0001" in reason


def test_without_git_the_commit_is_stated_or_missing(monkeypatch) -> None:
    assert commands.machine.source("abc")["commit"] not in ("", "abc"), "git knows better"
    monkeypatch.setattr(commands.machine, "_git", lambda *args: "")
    assert commands.machine.source() == {"commit": "", "dirty": True}
    assert commands.machine.source("abc") == {"commit": "abc", "dirty": False}


def test_a_part_is_not_written_over_the_whole() -> None:
    with pytest.raises(SystemExit, match="measure a part: say with --out"):
        run("run", "--suite", "operations", "--only", "pointwise")


def test_an_unknown_suite_is_named(capsys) -> None:
    with pytest.raises(SystemExit):
        run("run", "--suite", "atention")
    assert "invalid choice: 'atention'" in capsys.readouterr().err


# Stored results -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "folder"), STORED, ids=lambda value: getattr(value, "name", value)
)
def test_stored_results_are_sound(suite: str, folder: Path) -> None:
    found = results.check(suite, folder)
    if suite == results.DETECTORS:
        assert [row["detector"] for row in found.rows] == list(DETECTORS), "all, in order"
        assert found.manifest["budget"]["images"] == training.BUDGET
        return  # rows of earlier code are named on the page
    assert not found.manifest["deadline_hit"], "a published run is whole"
    assert not found.manifest["dirty"], "measured code is that of its commit"
    expected_errors = {
        row["backend"]: row["reason"] for row in found.rows if row["status"] == "error"
    }
    assert not any(row["ours"] and row["status"] == "error" for row in found.rows), expected_errors


def test_stored_operations_are_all_shown() -> None:
    found = results.load("operations")
    pages = {row["op"] for row in found.rows}
    assert pages == {operation.page for operation in OPERATIONS} == set(MARKED)
    for row in found.rows:
        names = {op.page: op.ours for op in OPERATIONS}[row["op"]]
        assert row["ours"] == (row["backend"] in names)


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "cut off": (lambda text: text[:-40], r"attention.jsonl:\d+: not JSON, cut off\?"),
    "empty": (lambda text: "", "no rows"),
    "field": (lambda text: text.replace('"dtype"', '"type"', 1), r":1: fields .*'dtype', 'type'"),
    "type": (lambda text: text.replace('"float32"', "32", 1), r":1: dtype: 32 is not one of"),
    "run": (lambda text: text.replace('"run_id": "', '"run_id": "x', 1), r":1: run x\w+ is not"),
    "nan": (lambda text: first(text, "error", rel_l2=math.nan), r":1: .*NaN is not a number"),
    "infinite": (lambda text: first(text, "error", rel_l2=math.inf), r"Infinity is not a number"),
    "negative": (lambda text: first(text, "times_ms", min=-1.0), r":1: times_ms.min: -1.0 is less"),
    "order": (lambda text: first(text, "times_ms", p20=1e9), r":1: times are out of order"),
    "pass": (lambda text: text.replace('"forward"', '"sideways"', 1), r":1: pass: 'sideways'"),
    "twice": (lambda text: text + text.splitlines()[0] + "\n", "no rows, or one twice"),
    "flops": (lambda text: change(text, flops=7), r":1: flops is 7, recomputed \d+"),
    "shape": (lambda text: first(text, "shape", N=255), r":1: flops is \d+, recomputed"),
    "tflops": (lambda text: change(text, tflops=700.5), r":1: tflops is 700.5, recomputed"),
    "floor": (lambda text: change(text, floor_ms=1e-3), r":1: floor_ms is 0.001, recomputed"),
    "bound": (lambda text: change(text, bound="fma"), r":1: bound is 'fma', recomputed"),
    "time": (lambda text: first(text, "times_ms", median=5e3, p80=5e3), r":1: tflops is"),
    "no error": (lambda text: change(text, error=None), r":1: status ok needs times, method and"),
    "wrong": (lambda text: first(text, "error", rel_l2=1.0), r":1: the result is wrong by 1.0"),
    "status": (lambda text: change(text, status="skipped"), r":1: status skipped needs a reason"),
    "no peer": (
        lambda text: "".join(line for line in text.splitlines(True) if '"ours": true' in line),
        "a comparison lacks ours or the library's rows",
    ),
}


def first(text: str, field: str, **values: float) -> str:
    row = json.loads(text.splitlines()[0])
    return change(text, **{field: row[field] | values})


def change(text: str, **values: Any) -> str:
    line, *others = text.splitlines()
    return "\n".join([json.dumps(json.loads(line) | values), *others])


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(name: str, tmp_path: Path) -> None:
    shutil.copytree(results.FOLDER / "cpu", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "attention.jsonl"
    spoil, message = BROKEN[name]
    file.write_text(spoil(file.read_text("utf-8")), "utf-8")
    with pytest.raises(results.ResultError, match=message):
        results.check("attention", tmp_path)


def test_a_broken_manifest_is_refused(tmp_path: Path) -> None:
    shutil.copytree(results.FOLDER / "cpu", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "attention.manifest.json"
    file.write_text(file.read_text("utf-8").replace('"utc": "20', '"utc": "'), "utf-8")
    with pytest.raises(results.ResultError, match=r"manifest.json:1: utc: '.*' does not match"):
        results.check("attention", tmp_path)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="missing; measure with `python -m benchmarks run`"):
        run("check", str(tmp_path))


def test_folders_without_a_common_suite(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no suite in common"):
        run("compare", str(tmp_path), str(results.FOLDER / "cpu"))


# Detectors ------------------------------------------------------------------------


def trained(out: Path, *names: str, budget: int = 32) -> results.Run:
    arguments = ("--budget", str(budget), "--held-out", "12", "--device", "cpu")
    run("detectors", "--only", *names, *arguments, "--out", str(out))
    return results.check("detectors", out)


@pytest.mark.slow
def test_a_run_of_detectors(tmp_path: Path, capsys) -> None:
    found = trained(tmp_path, "ssd", "mask_rcnn")
    printed = capsys.readouterr().out
    assert re.search(r"^1/2 ssd: step 2 of 2, loss .* min for 1 more$", printed, re.MULTILINE)
    boxes, masks = found.rows[1], found.rows[0]  # in the order of the zoo
    assert (boxes["detector"], masks["detector"]) == ("ssd", "mask_rcnn")
    assert boxes["masks"] is None and masks["masks"]["APl"] == -1
    model = DETECTORS["ssd"].build()
    assert boxes["parameters"] == sum(p.numel() for p in model.parameters())
    assert boxes["images_seen"] == 32 and len(boxes["losses"]) == 2
    assert len(boxes["pictures"]) == training.PICTURES
    truths = sum(len(t["labels"]) for _, t in training.draw(12, training.SEEDS["held_out"]))
    for row in found.rows:
        assert row["counts"]["right"] + row["counts"]["missed"] == truths
    run("report", str(tmp_path))
    assert "Mask R-CNN" in capsys.readouterr().out
    run("compare", str(tmp_path), str(tmp_path))
    assert "AP +0.000, AP50 +0.000, training 1.00" in capsys.readouterr().out


@pytest.mark.slow
def test_detectors_go_on_with_what_is_missing_or_has_changed(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    train, seen = training.train, []

    def counted(detector, *args):
        seen.append(detector.title)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return train(detector, *args)

    monkeypatch.setattr(training, "train", counted)
    with pytest.raises(SystemExit, match="130"):
        trained(tmp_path, "ssd", "yolo_v8")
    assert not (tmp_path / "detectors.jsonl").exists(), "half a run is not published"
    before = results.load("detectors", tmp_path, ".partial").rows
    found = trained(tmp_path, "ssd", "yolo_v8")
    assert seen == ["SSD", "YOLO v8", "YOLO v8"] and found.rows[:1] == before
    assert not list(tmp_path.glob("*.partial*"))
    monkeypatch.setattr(training, "code", lambda name: f"{name == 'ssd':064d}")
    assert [tables.title(row) for row in found.rows if not detectors.holds(row)] == [
        "SSD",
        "YOLO v8",
    ]
    trained(tmp_path, "ssd", "yolo_v8")
    trained(tmp_path, "ssd", "yolo_v8")
    assert seen[3:] == ["SSD", "YOLO v8"], "once for the new code"


@pytest.mark.slow
def test_detectors_of_another_budget_are_not_mixed_in(tmp_path: Path) -> None:
    trained(tmp_path, "yolo_v8")
    for path in tmp_path.iterdir():
        path.rename(path.with_name(path.name.replace("detectors.", "detectors.partial.")))
    with pytest.raises(SystemExit, match="is of another budget; delete it, or write elsewhere"):
        trained(tmp_path, "yolo_v8", budget=16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "ssd"], "say with --out where"),
        (["--budget", "320"], "say with --out where"),
        (["--budget", "3", "--out", "x"], "from 16 and 12 on, got 3, 200"),
        (["--device", "cuda:9"], "--device cuda:9 cannot be used here .* try --device cpu"),
        (["--only", "sdd", "--out", "x"], "2"),
    ],
)
def test_detectors_say_what_is_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run("detectors", *arguments)


def test_a_loss_that_is_no_number_is_an_outcome(tmp_path: Path, monkeypatch) -> None:
    model = DETECTORS["yolo_v8"].build
    broken = lambda self, *args: next(self.parameters()).sum() * torch.nan  # noqa: E731
    monkeypatch.setattr(model, "loss", broken)
    (row,) = trained(tmp_path, "yolo_v8").rows
    assert (row["status"], row["reason"]) == ("error", "the loss is nan at step 1")
    assert row["boxes"] is None and not detectors.holds(row), "it is tried again"


def test_right_and_wrong_detections() -> None:
    truth = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]),
        "labels": torch.tensor([1, 2]),
    }
    found = {
        "boxes": torch.tensor([[0.0, 0, 10, 9], [1, 0, 10, 10], [20, 20, 30, 30], [0, 0, 3, 3]]),
        "labels": torch.tensor([1, 1, 1, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
    }
    assert training.right(found, truth).tolist() == [True, False, False, False]
    threshold, counts = training.best_threshold([found], [truth])
    assert round(threshold, 3) == 0.9 and counts == {"right": 1, "wrong": 0, "missed": 1}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    assert training.best_threshold([none], [truth]) == (0.0, dict(right=0, wrong=0, missed=2))
    picture = training.picture(0, found, 0.75)
    assert picture["scores"] == [0.9, 0.8] and picture["boxes"][0] == [0.0, 0.0, 10.0, 9.0]


def test_the_code_of_a_detector_is_all_that_it_imports(monkeypatch) -> None:
    before, read = training.code("ssd"), Path.read_text
    assert training.code("ssd") == before != training.code("yolo_v8")

    def changed(change: str, of: str):
        def text(path: Path, *args: Any) -> str:
            return read(path, *args) + (change if path.stem == of else "")

        monkeypatch.setattr(Path, "read_text", text)
        return training.code("ssd")

    assert changed("\n# a comment\n", "nms") == before
    assert changed("\nX = 1\n", "nms") != before
    assert changed("\nX = 1\n", "backbone_neck_head") != before
    assert changed("\nX = 1\n", "detr") == before


def test_all_detectors_see_the_same_images() -> None:
    images = training.Images(batch=2)
    (first, targets), (second, _) = images(0, CPU), images(1, CPU)
    again, _ = training.Images(batch=2)(0, CPU)
    assert torch.equal(first, again) and not torch.equal(first, second)
    drawn = training.draw(2, training.SEEDS["training"])
    torch.testing.assert_close(first, torch.stack([image for image, _ in drawn]))
    assert torch.equal(targets[0]["boxes"], drawn[0][1]["boxes"])


def made_up(folder: Path) -> results.Run:
    """Rows as a run would write them, of every detector."""
    manifest = {
        "schema_version": 1,
        "run_id": "made up",
        "suite": "detectors",
        "utc": "2026-01-02T03:04:05+00:00",
        "command": "python -m benchmarks detectors",
        "device": {"kind": "cpu", "name": "CPU", "threads": 1},
        "versions": commands.machine.versions(),
        "budget": {"images": 32, "batch": 16, "optimizer": "AdamW, more"},
        "data": {**training.IMAGES, "held_out": 12},
        "seeds": training.SEEDS,
        "clock": "wall clock",
    }
    rows: list[dict[str, Any]] = []
    for number, (short, detector) in enumerate(DETECTORS.items()):
        scores = dict.fromkeys(training.NAMES, 0.5) | {"AP50": 0.5 + number / 26, "APl": -1.0}
        picture = dict(image=0, boxes=[[1.0, 2.0, 9.0, 8.0]], scores=[0.5], labels=[1], masks=None)
        row = EMPTY | {
            "run_id": "made up",
            "suite": "detectors",
            "detector": short,
            "utc": manifest["utc"],
            "commit": "0123456789",
            "dirty": False,
            "code_sha256": training.code(short),
            "config": detector.config(),
            "steps": 2 * detector.longer,
            "images_seen": 32 * detector.longer,
            "parameters": 1_234_567,
            "flops": 89_000_000,
            "train_seconds": 10.0 + number,
            "losses": [2.0, 1.0],
            "latency_ms": timing.summary([[3.0], [4.0], [5.0]])["times_ms"],
            "boxes": scores,
            "masks": scores if short == "mask_rcnn" else None,
            "threshold": 0.4,
            "counts": {"right": 3, "wrong": 2, "missed": 1},
            "pictures": [picture],
        }
        rows.append(row)
    failed = {"status": "error", "reason": "the loss is nan at step 7"}
    rows[-2] |= dict.fromkeys(EMPTY) | failed
    results.save("detectors", results.Run(manifest, rows), folder / "cpu")
    return results.check("detectors", folder / "cpu")


def test_tables_of_detectors(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for lang, text in zip(LANGUAGES, ("Not recorded yet", "尚未测量")):
        said = [report.table(what, "cpu", "detectors", lang) for what in tables.TABLES]
        (line,) = [line for lines in said for line in lines if line]
        assert text in line and "`python -m benchmarks detectors`" in line, "once"
    made_up(tmp_path)
    for lang in LANGUAGES:
        for what in tables.TABLES:
            lines = report.table(what, "cpu", "detectors", lang)
            columns = {line.count("|") for line in lines if line.startswith("|")}
            assert len(columns) <= 1, f"{what}: rows differ in their number of cells"
    lines = report.table("detectors", "cpu", "detectors", "en")
    row = next(line for line in lines if line.startswith("| [Mask R-CNN](rcnn_family.md)"))
    assert row.split(" | ")[5] == "**0.50**" and "1.23\u00a0M" in row and "| 13 s |" in row
    assert any("not measured: the loss is nan at step 7" in line for line in lines)
    (text,) = report.table("reached", "cpu", "detectors", "en")
    assert text.startswith("Each saw 32 images") and "It is reached by YOLO v4, YOLO v5, " in text
    assert "It is **not** reached by Fast R-CNN (0.54)" in text and "R-CNN (0.50)" not in text
    assert "earlier code" not in "".join(report.table("trained", "cpu", "detectors", "en"))
    monkeypatch.setattr(training, "code", lambda name: "another")
    assert "**Of earlier code, to be measured again: R-CNN, Fast" in "".join(
        report.table("trained", "cpu", "detectors", "en")
    )


def test_the_figure_of_detectors(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "figures" / "detection" / "detectors.py"))
    found = made_up(tmp_path)
    for pick in (operator.itemgetter(0), operator.itemgetter(1)):
        figure = script["examples"](found, lambda *texts, pick=pick: pick(texts))
        assert "Faster R-CNN" in figures.to_svg(figure, "examples")


SPOILT: dict[str, tuple[Callable[[str], str], str]] = {
    "cut off": (lambda text: text[:-40], r"detectors.jsonl:\d+: not JSON, cut off\?"),
    "field": (lambda text: text.replace('"steps"', '"stops"', 1), r":1: fields .*'steps', 'stops'"),
    "type": (lambda text: change(text, steps="2"), r":1: steps: '2' is not of type 'integer'"),
    "nan": (lambda text: change(text, train_seconds=math.nan), "NaN is not a number"),
    "run": (lambda text: change(text, run_id="x"), r":1: run x is not the manifest's"),
    "twice": (lambda text: text + text.splitlines()[0] + "\n", "no rows, or one twice"),
    "budget": (lambda text: change(text, steps=3, images_seen=48), "images_seen is 48, the budget"),
    "images": (lambda text: change(text, images_seen=31), "images_seen is 31, the budget 32"),
    "share": (lambda text: first(text, "boxes", AP=1.5), "boxes.AP: 1.5 is greater"),
    "negative": (lambda text: first(text, "boxes", APs=-0.5), "APs must be a share or -1"),
    "order": (lambda text: first(text, "boxes", AP50=0.4), "AP50 is 0.4, less than AP"),
    "recall": (lambda text: first(text, "boxes", AR1=0.9), "AR1, AR10 and AR100 must rise"),
    "times": (lambda text: first(text, "latency_ms", min=4.5), "times are out of order"),
    "reason": (lambda text: change(text, reason="why"), "status ok needs no reason"),
    "missing": (lambda text: change(text, boxes=None), "status ok needs boxes"),
    "status": (lambda text: change(text, status="oom", reason="x"), "needs a reason alone"),
    "hash": (lambda text: change(text, code_sha256="12"), "code_sha256: '12' does not match"),
    "picture": (lambda text: pictured(text, image=1), "picture 0 is of image 1"),
    "boxes": (lambda text: pictured(text, labels=[]), "picture 0 needs boxes, scores and labels"),
    "inside out": (lambda text: pictured(text, boxes=[[9, 2, 1, 8]]), "has the box"),
    "class": (lambda text: pictured(text, labels=[4]), "4 is greater than the maximum"),
    "mask": (lambda text: pictured(text, masks=[[1, 2]]), "has a mask of another size"),
}


def pictured(text: str, **values: Any) -> str:
    return change(text, pictures=[json.loads(text.splitlines()[0])["pictures"][0] | values])


@pytest.mark.parametrize("name", SPOILT)
def test_a_broken_file_of_detectors_is_refused(name: str, tmp_path: Path) -> None:
    made_up(tmp_path)
    file = tmp_path / "cpu" / "detectors.jsonl"
    spoil, message = SPOILT[name]
    file.write_text(spoil(file.read_text("utf-8")), "utf-8")
    with pytest.raises(results.ResultError, match=message):
        results.check("detectors", tmp_path / "cpu")


def test_made_up_rows_are_right(tmp_path: Path) -> None:
    found = made_up(tmp_path)
    assert not any(wrong(row, found.manifest) for row in found.rows)


# Pages ----------------------------------------------------------------------------


def test_table_of_an_operation() -> None:
    path = DOCS / "en" / "attention" / "scaled_dot_product_attention.md"
    name = "attention/scaled_dot_product_attention.md"
    rows = [row for row in results.load("operations").rows if row["op"] == name[:-3]]
    ratio = results.ratios(row for row in rows if row["pass"] == "forward")[0]
    for lang in LANGUAGES:
        table = measured.set_tables(f"a\n\n{measured.MARK}\n\nb", path, name, lang)
        assert f"| {ratio.median:.1f}" in table
        assert "../benchmarks/cpu/operations.jsonl" in table


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_markers_of_a_page_are_set(path: Path) -> None:
    lang, _, uri = path.relative_to(DOCS).as_posix().partition("/")
    text = measured.set_tables(path.read_text("utf-8"), path, uri, lang)
    assert not re.search(r"<!-- (speed|ladder|measured)", text), "a marker stands alone on a line"


def test_a_mark_without_measurements(tmp_path: Path) -> None:
    path = tmp_path / "sota.md"
    path.write_text(f"a\n\n{measured.MARK}\n", "utf-8")
    with pytest.raises(PluginError, match=r"sota.md:3: 'concepts/sota' has not been measured"):
        measured.set_tables(path.read_text("utf-8"), path, "concepts/sota.md", "en")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("<!-- measured: sped cpu attention -->", "did you mean 'speed'"),
        ("<!-- measured: speed cqu attention -->", "did you mean 'cpu'"),
        ("<!-- measured: speed cpu -->", "cannot be set"),
        ("<!-- ladder: kernels/flash_atention -->", "did you mean 'kernels/flash_attention'"),
    ],
)
def test_a_mistyped_marker(marker: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"a\n\n{marker}\n", "utf-8")
    with pytest.raises(PluginError, match=f"page.md:3: .*{message}"):
        measured.set_tables(path.read_text("utf-8"), path, "kernels/page.md", "en")


# A GPU is not at hand in the tests: rows as a run on one would write them.
BACKENDS = ("eager", "SDPA flash", "SDPA cuDNN", "FlexAttention", "flash_attention")


def gpu_run(folder: Path) -> results.Run:
    manifest = results.load("attention").manifest | {
        "tuned_config_sha256": report.digest(),
        "device": dict(kind="cuda", name="NVIDIA H200", cc="9.0", sms=132, l2=62914560, memory=1),
        "ceilings": [
            {"kind": kind, "value": value, "when": "start", "how": "made up", "times_ms": None}
            for kind, value in dict(matmul=8e14, copy=4e12, exp=4e12, launch=4e5).items()
        ],
    }
    rows: list[dict[str, Any]] = []
    for D, N, causal, way in [
        (D, N, c, p)
        for D in (64, 128)
        for N in (512, 4096)
        for c in (False, True)
        for p in ("forward", "backward")
    ]:
        shape = dict(B=4, H=16, G=16, N=N, M=N, D=D)
        for number, backend in enumerate(BACKENDS):
            built = suites.Cell(
                "attention", "attention", shape, "bfloat16", lambda seed: None, causal=causal
            )
            row = runner._row(built, way, backend, suites.Backend(lambda: None, number == 4))
            row["run_id"] = manifest["run_id"]
            if backend == "FlexAttention" and D == 64:
                row |= {"status": "oom", "reason": "out of memory"}
            else:
                time = (5 - number) * N / 512
                row |= timing.summary([[time] * 3, [1.1 * time] * 3, [0.9 * time] * 3])
                row |= {"method": "events", "kernel_names": [f"kernel_{number}"]}
                row["error"] = dict(reference="float64", rel_l2=2e-3, max_abs=0.1, tolerance=2e-2)
            rows.append(row)
    found = results.Run(manifest, rows)
    for row in rows:
        row |= results.derived(row, found.ceilings())
    results.save("attention", found, folder / "nvidia-h200")
    return results.check("attention", folder / "nvidia-h200")


def test_tables_of_a_gpu(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    gpu_run(tmp_path)
    for lang in LANGUAGES:
        for what in report.TABLES:
            lines = report.table(what, "gpu", "attention", lang, D="128")
            columns = {line.count("|") for line in lines if line.startswith("|")}
            assert len(columns) <= 1, f"{what}: rows differ in their number of cells"
    speed = report.table("speed", "gpu", "attention", "en", D="128", causal="false")
    row = next(line for line in speed if line.startswith("| N=512"))
    flops = 4 * 4 * 16 * 512**2 * 128
    assert f"| **{flops / 1e-3 / 1e12:.0f}** |" in row, "TFLOP/s of the fastest, in bold"
    reasons = "\n".join(report.table("speed", "gpu", "attention", "en"))
    assert "FlexAttention: out of memory (out of memory)" in reasons
    first = report.table("verdicts", "gpu", "attention", "en", D="128")[2]
    assert "FlexAttention | 0.50 (0.50–0.50) | faster" in first
    assert "of earlier kernels" not in "".join(report.table("about", "gpu", "attention", "en"))
    monkeypatch.setattr(report, "digest", lambda: "another")
    assert "of earlier kernels" in "".join(report.table("about", "gpu", "attention", "en"))


LIBRARIES = {
    "cuDNN NCHW": 4.0,
    "cuDNN channels_last": 3.0,
    "cuDNN NCHW, benchmark": 4.0,
    "cuDNN channels_last, benchmark": 2.0,
}


def gpu_layers(suite: str, folder: Path) -> results.Run:
    """Rows for the layers that a GPU would run; ours takes half the time of the best library."""
    manifest = results.load(suite).manifest | {
        "device": dict(kind="cuda", name="NVIDIA H200", cc="9.0", sms=132, l2=62914560, memory=1),
        "ceilings": [
            {"kind": kind, "value": value, "when": "start", "how": "made up", "times_ms": None}
            for kind, value in dict(matmul=8e14, copy=4e12, exp=4e12, launch=4e5).items()
        ],
    }
    rows: list[dict[str, Any]] = []
    for made in suites.cells(suite, CUDA):
        alone = made.op in ("ladder", "tuning")
        for backend, factor in {**({} if alone else LIBRARIES), "ours": 1.0}.items():
            layout = backend.split(",")[0].split()[-1]
            given = suites.Backend(lambda: None, backend == "ours", layout=layout)
            row = runner._row(made, made.passes[0], backend, given)
            floor, _ = work.floor(work.work(row), {"matmul": 8e14, "copy": 4e12})
            time = 2 * factor * floor
            row |= timing.summary([[time] * 3, [1.1 * time] * 3, [0.9 * time] * 3])
            row |= {"run_id": manifest["run_id"], "method": "events", "kernel_names": ["k"]}
            row["error"] = dict(reference="float64", rel_l2=2e-3, max_abs=0.1, tolerance=2e-2)
            rows.append(row)
    found = results.Run(manifest, rows)
    for row in rows:
        row |= results.derived(row, found.ceilings())
    results.save(suite, found, folder / "nvidia-h200")
    return results.check(suite, folder / "nvidia-h200")


@pytest.mark.parametrize("suite", ["convolution", "depthwise"])
def test_tables_of_layers_on_a_gpu(suite: str, monkeypatch, tmp_path: Path) -> None:
    run = gpu_layers(suite, tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for lang in LANGUAGES:
        for what in report.TABLES:
            lines = report.table(what, "gpu", suite, lang)
            columns = {line.count("|") for line in lines if line.startswith("|")}
            assert len(columns) <= 1, f"{what}: rows differ in their number of cells"
    shares = report.table("shares", "gpu", suite, "en", op=suite)
    assert shares[0].count("|") == 7, "case, floor, bound, three passes"
    rows = [line for line in shares if line.startswith("|") and "×" in line]
    assert len(rows) == len({results.cell(row) for row in run.rows if row["op"] == suite})
    assert "50 (25)" in rows[-1], "2 floors for ours, 4 for the best library"
    layers = [line.split("|")[1] for line in report.table("shares", "gpu", suite, "en")[2:-2]]
    assert len(set(layers)) == len(layers), "no layer twice, and no step of the ladder"
    layouts = report.table("layouts", "gpu", suite, "en", op=suite)
    assert "| 0.50 | 1.00 = | 0.67 |" in layouts[2]
    speed = report.table("speed", "gpu", suite, "en", op=suite)
    assert any(("GB/s" if suite == "depthwise" else "TFLOP/s") in line for line in speed)
    verdict = report.table("verdicts", "gpu", suite, "en", op=suite)[2]
    assert "cuDNN channels_last, benchmark | 0.50 (0.50–0.50) | faster" in verdict
    kinds = " ".join(report.table("tally", "gpu", suite, "en"))
    for kind in (
        ("3×3, 32 groups", "3×3, dilation 2") if suite == "convolution" else ("k=4", "31×31")
    ):
        assert f"| {kind} |" in kinds


def test_figures_of_layers_on_a_gpu(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "figures" / "benchmarks" / "convolution_kernels.py"))
    runs = [gpu_layers(suite, tmp_path) for suite in ("convolution", "depthwise")]
    for draw in ("roofline", "shares"):
        for pick in (operator.itemgetter(0), operator.itemgetter(1)):
            svg = figures.to_svg(script[draw](runs, lambda *texts, pick=pick: pick(texts)), draw)
            assert "H200" in svg


def test_figures_of_a_gpu(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "figures" / "benchmarks" / "attention_kernels.py"))
    run = gpu_run(tmp_path)
    for draw in ("roofline", "bars"):
        for pick in (operator.itemgetter(0), operator.itemgetter(1)):
            svg = figures.to_svg(script[draw](run, lambda *texts, pick=pick: pick(texts)), draw)
            assert "H200" in svg and "TFLOP/s" in svg


def test_without_rows_the_page_says_so(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for lang, text in zip(LANGUAGES, ("Not recorded yet", "尚未测量")):
        for what in report.TABLES:
            (line,) = report.table(what, "gpu", "attention", lang)
            assert text in line and "--suite attention" in line
