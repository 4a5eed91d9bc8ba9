"""Timing calls, in turns, so that a busy machine hits all alike."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Step = Callable[[], object]
T = TypeVar("T")
ROUNDS = 3  # passes over all functions, in random order


class Clock:
    """Times calls on a CPU."""

    def calls(self, step: Step, seconds: float) -> list[float]:
        """Seconds of each of at least three calls, that together take about `seconds`."""
        times: list[float] = []
        while len(times) < 3 or sum(times) < seconds:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return times

    def graph(self, steps: Sequence[Step]) -> tuple[Step, int]:
        """All steps as one, and how many they are."""
        return lambda: [step() for step in steps], len(steps)


BATCH = 25  # calls queued at a time; the queue holds about a thousand commands


class DeviceClock(Clock):
    """Times calls on a GPU by its events; the L2 cache is overwritten before each call."""

    def __init__(self, device: torch.device) -> None:
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._cache = torch.empty(max(2 * size, 2**26), dtype=torch.int8, device=device)

    def calls(self, step: Step, seconds: float) -> list[float]:
        """Seconds of each call; the GPU works off a queue, so that launching is not timed."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        host = time.perf_counter() - start
        one = self._run(step, 3, host)
        middle = statistics.median(one)
        if middle > seconds:
            return one
        times: list[float] = []
        wanted = min(200, max(5, int(seconds / middle)))
        while len(times) < wanted:
            times += self._run(step, min(BATCH, wanted - len(times)), host)
        return times

    def _run(self, step: Step, number: int, host: float, tries: int = 3) -> list[float]:
        """The GPU sleeps while the host fills the queue, for which it takes `host` s a call."""
        torch.cuda._sleep(int(2e9 * number * (1.5 * host + 20e-6)))  # cycles
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(number)]
        for start, end in marks:
            self._cache.zero_()
            start.record()
            step()
            end.record()
        early = marks[0][0].query()  # the GPU began before the host was done
        torch.cuda.synchronize()
        if early and tries:
            return self._run(step, number, 2 * host, tries - 1)
        return [start.elapsed_time(end) / 1000 for start, end in marks]

    def graph(self, steps: Sequence[Step]) -> tuple[Step, int]:
        """All steps in one CUDA graph, so that no launch is waited for."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = [step() for step in steps]  # alive together: each has memory of its own

        def replay(kept: object = (steps, outputs)) -> None:  # what the graph reads and writes
            graph.replay()

        return replay, len(steps)


def clock(device: torch.device) -> Clock:
    """The clock of a device."""
    return DeviceClock(device) if device.type == "cuda" else Clock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Ratios on a CPU then do not depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def there(thread: ThreadPoolExecutor | None, run: Callable[..., T], *args: Any) -> T:
    """The result of a call in another thread, or in this one."""
    return run(*args) if thread is None else thread.submit(run, *args).result()


def interleave(
    steps: Mapping[str, tuple[Step, int]],
    seconds: float,
    clock: Clock,
    seed: int = 0,
    threads: Mapping[str, ThreadPoolExecutor | None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Time all steps in turns.

    Args:
        steps: by name, what is called and how many calls of the function that is.
        seconds: for each name, all rounds together.
        threads: where a step runs, if not here.

    Returns:
        For each the fields `times_ms` and `pass_medians` of a row.
    """
    order = random.Random(seed)
    rounds: dict[str, list[list[float]]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name in order.sample(sorted(steps), len(steps)):
            step, number = steps[name]
            thread = (threads or {}).get(name)
            calls = there(thread, clock.calls, step, seconds / ROUNDS)
            rounds[name].append([1000 * t / number for t in calls])
    return {name: summary(calls) for name, calls in rounds.items()}


def summary(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The fields of a row, from the times in ms, by round."""
    times = sorted(t for calls in rounds for t in calls)
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
        "pass_medians": [statistics.median(calls) for calls in rounds],
    }
