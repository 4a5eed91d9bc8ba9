"""What the figures of results share: marks, units, titles, ticks."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes

from benchmarks.results import Run
from hooks.figures import BLUE, INK, ORANGE

Row = Mapping[str, Any]
Pick = Callable[[str, str], str]
MARKERS: dict[str, dict[str, Any]] = {
    "others": {"marker": "x", "ms": 4.5, "color": (INK, 0.6)},
    "peer": {"marker": "D", "ms": 5, "color": "none", "mec": BLUE, "mew": 1.4},
    "ours": {"marker": "o", "ms": 5.5, "color": (ORANGE, 0.8), "mec": ORANGE},
}


def names(t: Pick) -> dict[str, str]:
    """Of the marks."""
    return {
        "others": t("other library functions", "其他库函数"),
        "peer": t("fastest library function", "最快的库函数"),
        "ours": t("ours", "本项目"),
    }


def unit(run: Run) -> tuple[float, str]:
    """What speeds are given in: tera on a GPU, giga on a CPU."""
    return (1e12, "T") if run.manifest["device"]["kind"] == "cuda" else (1e9, "G")


def title(run: Run, t: Pick, *words: str) -> str:
    """The machine, and what is drawn."""
    name = run.manifest["device"]["name"].removeprefix("NVIDIA ")
    thread = "" if unit(run)[1] == "T" else t(", one thread", "，单线程")
    return name + thread + t(": ", "：") + t(", ", "，").join(words)


def ticks(ax: Axes, thirds: bool) -> None:
    """Powers of ten, and their thirds where there is room, as plain numbers."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        steps = [m * 10**e for e in range(-3, 7) for m in (1, 3)]
        shown = [step for step in steps if low <= step <= high]
        if not thirds and axis is ax.xaxis:
            shown = [step for step in shown if str(step)[0] == "1"]
        axis.set_ticks(shown, [f"{step:g}" for step in shown])
        axis.set_ticks([], minor=True)
