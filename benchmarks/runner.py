"""Measures one comparison and makes its rows."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import Sampler
from benchmarks.suites import SEED, Backend, Built, Cell
from benchmarks.timing import Clock, Step, interleave, there

GRADIENTS = ("backward", "dgrad", "wgrad")
SHORT = 50e-6  # seconds; what is shorter is timed as a graph over inputs beyond the cache
# Largest relative error (L2 norm) of a result that counts, against float64.
TOLERANCE = {"bfloat16": 2e-2, "float16": 3e-3, "float32": 1e-4}


class Refused(Exception):
    """A backend that gives no time: status and reason."""


def rows(
    cell: Cell, device: torch.device, clock: Clock, sampler: Sampler, seconds: float
) -> Iterator[dict[str, Any]]:
    """Measure all passes of a cell; the run adds its id and what follows from its ceilings."""
    built = cell.build(SEED)
    gradients = any(name in GRADIENTS for name in cell.passes)
    expected, expected_grads = built.reference(gradients)
    for name in cell.passes:
        exact = expected_grads if name in GRADIENTS else [expected]
        assert exact is not None
        made: dict[str, dict[str, Any]] = {}
        ready: dict[str, Step] = {}
        for backend_name, backend in built.backends.items():
            made[backend_name] = row = _row(cell, name, backend_name, backend)
            try:
                step = _prepare(backend, built, name)
                checked = step if name in GRADIENTS else _prepare(backend, built, "forward")
                here = partial(there, backend.thread)
                row |= _first_call(partial(here, checked), exact, cell.dtype, device)
                _guarded(partial(here, step))
                names = partial(_kernels, partial(here, step), device)
                row["kernel_names"] = _guarded(names)
                ready[backend_name] = step
            except Refused as refused:
                row["status"], row["reason"] = refused.args
        steps, methods = _repeatable(ready, built, cell, name, device, clock)
        sampler.start()
        threads = {title: backend.thread for title, backend in built.backends.items()}
        for backend_name, measured in interleave(steps, seconds, clock, SEED, threads).items():
            made[backend_name] |= measured | {"method": methods[backend_name]}
        state = sampler.summary()
        for row in made.values():
            if row["status"] == "ok":
                row |= state
            yield row
        del ready, steps  # and the graphs of the backward pass


EMPTY: dict[str, Any] = {
    "kernel_names": [],
    "status": "ok",
    "reason": None,
    "method": None,
    "times_ms": None,
    "pass_medians": None,
    "flops": None,
    "bytes": None,
    "exps": None,
    "tflops": None,
    "gbps": None,
    "floor_ms": None,
    "bound": None,
    "fraction_of_floor": None,
    "error": None,
    "peak_memory": None,
    "clock_mhz": None,
    "power_w": None,
    "temperature_c": None,
    "throttled": None,
}


def _row(cell: Cell, name: str, backend_name: str, backend: Backend) -> dict[str, Any]:
    return {
        "suite": cell.suite,
        "op": cell.op,
        "shape": cell.shape,
        "dtype": cell.dtype,
        "layout": backend.layout,
        "causal": cell.causal,
        "pass": name,
        "backend": backend_name,
        "ours": backend.ours,
        "config": backend.config,
    } | EMPTY


def skipped(cell: Cell, reason: str) -> Iterator[dict[str, Any]]:
    """One row a pass for a cell that is not measured: what is not built has no backends yet."""
    for name in cell.passes:
        row = _row(cell, name, "-", Backend(lambda: torch.empty(0)))
        yield row | {"status": "skipped", "reason": reason}


def _prepare(backend: Backend, built: Built, name: str) -> Step:
    """What is timed."""
    if backend.missing:
        raise Refused(*backend.missing)

    def forward() -> Tensor:
        with torch.inference_mode():
            return backend.run()

    def both() -> Sequence[Tensor | None]:
        return torch.autograd.grad(backend.run().sum(), built.leaves, allow_unused=True)

    if name not in GRADIENTS:
        return forward if name == "forward" else both
    if name != "backward":
        return backend.run
    out = _guarded(backend.run)

    def backward() -> Sequence[Tensor]:
        return torch.autograd.grad(out, built.leaves, built.upstream, retain_graph=True)

    return backward


def _guarded(step: Callable[[], Any]) -> Any:
    """Call; what a library refuses, or has no room for, is an outcome."""
    try:
        return step()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise Refused("oom", "out of memory") from None
    except Exception as error:
        if re.search("CUDA error: (?!CUBLAS|out of memory)", str(error)):
            raise  # nothing that follows on this GPU can be trusted
        text = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        no_kernel = re.search("No (available kernel|viable backend)", str(error))
        raise Refused("unsupported" if no_kernel else "error", text.strip()[:200]) from None


def _first_call(
    step: Step, exact: Sequence[Tensor], dtype: str, device: torch.device
) -> dict[str, Any]:
    """Error against float64 and memory of one call, into memory full of NaN."""
    peak = None
    if device.type == "cuda":
        # What is freed is what the outputs will be given.
        stale = [torch.full_like(x, math.nan, dtype=getattr(torch, dtype)) for x in exact]
        del stale
        found = _guarded(lambda: (step(), torch.cuda.synchronize())[0])
        torch.cuda.reset_peak_memory_stats(device)  # the first call may have searched
        before = torch.cuda.memory_allocated(device)
        _guarded(lambda: (step(), torch.cuda.synchronize())[0])
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        found = _guarded(step)
    outputs = [found] if isinstance(found, Tensor) else found
    scale = math.sqrt(sum(float(x.square().sum()) for x in exact))
    off = [y.double() - x for x, y in zip(exact, outputs, strict=True)]
    relative = math.sqrt(sum(float(x.square().sum()) for x in off)) / scale
    largest = max(float(x.abs().max()) for x in off)
    if not relative <= TOLERANCE[dtype]:
        raise Refused("error", f"wrong by {relative:.1e} of its norm, allowed {TOLERANCE[dtype]}")
    error = {
        "reference": "float64",
        "rel_l2": relative,
        "max_abs": largest,
        "tolerance": TOLERANCE[dtype],
    }
    return {"peak_memory": peak, "error": error}


def _kernels(step: Step, device: torch.device) -> list[str]:
    """The names of the kernels that really run; libraries choose silently."""
    if device.type == "cpu":
        return []
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    names = [event.key for event in found.key_averages() if event.self_device_time_total > 0]
    return sorted({name[:200] for name in names if not name.startswith(("Mem", "cuda"))})


def _repeatable(
    ready: dict[str, Step],
    built: Built,
    cell: Cell,
    name: str,
    device: torch.device,
    clock: Clock,
) -> tuple[dict[str, tuple[Step, int]], dict[str, str]]:
    """By backend what is called for a timing and how many calls that is; and the method.

    If the fastest function of a case is short, it and what comes near are timed as graphs.
    """
    single = {backend: (step, 1) for backend, step in ready.items()}
    if device.type == "cpu":
        return single, dict.fromkeys(single, "calls")
    threads = {title: built.backends[title].thread for title in ready}
    events = dict.fromkeys(single, "events")
    times = {
        title: sorted(there(threads[title], clock.calls, step, 0))[1]
        for title, step in ready.items()
    }
    if min(times.values(), default=1.0) > SHORT or name != "forward":
        return single, events
    near = [title for title in ready if times[title] < 4 * SHORT]
    size = torch.cuda.get_device_properties(device).L2_cache_size
    own = sum(x.numel() * x.element_size() for x in cell.build(SEED).leaves)
    copies = [cell.build(SEED + i) for i in range(min(32, 2 * size // own + 1))]
    try:
        graphs = {
            title: there(
                threads[title],
                clock.graph,
                [_prepare(b.backends[title], b, "forward") for b in copies],
            )
            for title in near
        }
    except RuntimeError:  # what synchronises cannot be captured
        torch.cuda.synchronize()
        return single, events
    return single | graphs, events | dict.fromkeys(graphs, "graph")
