"""Timing functions against each other on a CPU, in turns, so that a busy machine hits all alike."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

PASSES = 3  # rounds over all functions, in random order


@dataclass
class Candidate:
    """Something to be timed, and what it may be asked to differentiate by."""

    run: Callable[[], Tensor]
    leaves: Sequence[Tensor]
    passes: list[list[float]] = field(default_factory=list)  # seconds of every call, by pass


@contextmanager
def one_thread() -> Iterator[None]:
    """Ratios then do not depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(
    candidates: dict[str, Candidate], backward: bool, seconds: float, seed: int = 0
) -> dict[str, dict[str, object]]:
    """Time all candidates for about `seconds` each.

    Returns:
        For each the fields `times_ms` and `pass_medians` of a row.
    """
    order = random.Random(seed)
    steps = {name: _step(candidate, backward) for name, candidate in candidates.items()}
    with one_thread():
        for step in steps.values():
            step()  # allocates, compiles, fills the caches
        for _ in range(PASSES):
            for name in order.sample(sorted(steps), len(steps)):
                candidates[name].passes.append(_calls(steps[name], seconds / PASSES))
    return {name: _summary(candidate.passes) for name, candidate in candidates.items()}


def _step(candidate: Candidate, backward: bool) -> Callable[[], object]:
    def forward() -> object:
        with torch.inference_mode():
            return candidate.run()

    def both() -> object:
        return torch.autograd.grad(candidate.run().sum(), candidate.leaves, allow_unused=True)

    return both if backward else forward


def _calls(step: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def _summary(passes: list[list[float]]) -> dict[str, object]:
    times = sorted(1000 * t for calls in passes for t in calls)
    n = len(times)
    return {
        "times_ms": {
            "n": n,
            "min": times[0],
            "p20": times[n // 5],
            "median": statistics.median(times),
            "p80": times[n * 4 // 5],
            "mean": statistics.fmean(times),
        },
        "pass_medians": [1000 * statistics.median(calls) for calls in passes],
    }
