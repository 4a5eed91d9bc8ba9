"""Where the layers of the suites `convolution` and `depthwise` stand: below which ceilings."""

from matplotlib.lines import Line2D

from benchmarks import plots, report
from hooks.figures import INK, new

SUITES = ("convolution", "depthwise")


def figures(t):
    found = [[report.stored(machine, suite) for suite in SUITES] for machine in ("gpu", "cpu")]
    runs = next(runs for runs in found if all(runs))
    yield "convolution_roofline", roofline(runs, t)
    yield "convolution_share", shares(runs, t)


def roofline(runs, t):
    """The forward rows by FLOP for each byte, a panel a suite."""
    unit, prefix = plots.unit(runs[0])
    ceilings = runs[0].ceilings()
    peak, copy = ceilings["matmul"] / unit, ceilings["copy"] / unit
    chosen = [[pair for _, pair in _cases(run)] for run in runs]
    rows = [row for pairs in chosen for pair in pairs for row in pair if row]
    places = [row["flops"] / row["bytes"] for row in rows]
    low, high = min(*places, peak / copy) / 2, max(*places, peak / copy) * 2
    speeds = [row["tflops"] * 1e12 / unit for row in rows]

    figure, axes = new(6, 3.2, 2)
    for ax, pairs, name in zip(axes, chosen, SUITES, strict=True):
        ax.plot([low, peak / copy, high], [low * copy, peak, peak], color=INK, lw=1.6)
        for kind, place in (("peer", 1), ("ours", 0)):
            points = [
                (row["flops"] / row["bytes"], row["tflops"] * 1e12 / unit)
                for row in (pair[place] for pair in pairs)
                if row
            ]
            if points:
                ax.plot(*zip(*points, strict=True), ls="", **plots.MARKERS[kind])
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(low, high)
        ax.set_ylim(min(*speeds, peak / 4) / 1.6, max(*speeds, peak) * 1.5)
        plots.ticks(ax, thirds=False)
        ax.set_title(report.word(name, t("en", "zh")), loc="left")
        ax.set_xlabel(t("FLOP for each byte", "每字节的浮点运算次数"))
    axes[1].set_yticklabels([])
    names = plots.names(t)
    marks = [Line2D([], [], ls="", label=names[k], **plots.MARKERS[k]) for k in ("ours", "peer")]
    line = Line2D([], [], color=INK, lw=1.6, label=t("memory, matrix products", "访存、矩阵乘"))
    figure.legend(handles=[*marks, line], loc="outside lower center", ncols=3, fontsize=9)
    words = t("forward", "前向"), rows[0]["dtype"], f"{prefix}FLOP/s"
    figure.suptitle(plots.title(runs[0], t, *words), x=0.01, ha="left", fontsize=10)
    return figure


def shares(runs, t):
    """A line a layer: what part of the speed at the floor the forward pass reaches."""
    lines = [(case, pair) for run in runs for case, pair in _cases(run)]
    figure, (ax,) = new(6, 0.95 + 0.2 * len(lines))
    for y, (_, pair) in enumerate(lines):
        shown = [100 * row["fraction_of_floor"] for row in pair if row]
        ax.plot([0, max(shown, default=0)], [y, y], color=(INK, 0.25), lw=1)
        for kind, row in zip(("ours", "peer"), pair, strict=True):
            if row:
                ax.plot(100 * row["fraction_of_floor"], y, ls="", **plots.MARKERS[kind])
    names = [report.label(case, t("en", "zh")) for case, _ in lines]
    ax.set_yticks(range(len(lines)), names, fontsize=9)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlim(0, None)
    ax.set_xlabel(t("percent of the speed at the floor", "达到下界速度的百分比"))
    ax.tick_params(axis="y", length=0)
    named = plots.names(t)
    marks = [Line2D([], [], ls="", label=named[k], **plots.MARKERS[k]) for k in ("ours", "peer")]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=9)
    words = t("forward", "前向"), lines[0][1][1]["dtype"] if lines[0][1][1] else ""
    figure.suptitle(plots.title(runs[0], t, *filter(None, words)), x=0.01, ha="left", fontsize=10)
    return figure


def _cases(run):
    """Each layer, forward, with the fastest row of ours and of the libraries, or None."""
    rows = [row for row in run.rows if row["pass"] == "forward" and row["op"] != "ladder"]
    for case, group in report.groups(rows):
        good = [row for row in group if row["status"] == "ok"]
        yield (
            case,
            tuple(
                max((r for r in good if r["ours"] == ours), key=lambda r: r["tflops"], default=None)
                for ours in (True, False)
            ),
        )
