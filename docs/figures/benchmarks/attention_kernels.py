"""Where the rows of the suite `attention` stand: below which ceilings, and beside each other."""

from matplotlib.lines import Line2D

from benchmarks import plots, report
from benchmarks.results import Run
from hooks.figures import BLUE, INK, ORANGE, new

DASHED, DOTTED = (0, (6, 3)), (0, (1, 2))


def figures(t):
    run = report.stored("gpu", "attention") or report.stored("cpu", "attention")
    yield "attention_roofline", roofline(run, t)
    yield "attention_speed", bars(run, t)


def roofline(run: Run, t):
    """The forward rows by FLOP for each byte, a panel a head width."""
    rows = [row for row in _good(run) if row["pass"] == "forward"]
    widths = sorted({row["shape"]["D"] for row in rows})
    ceilings, (unit, prefix) = run.ceilings(), plots.unit(run)
    peak, copy = ceilings["matmul"] / unit, ceilings["copy"] / unit
    places = [row["flops"] / row["bytes"] for row in rows]
    low, high = min(*places, peak / copy) / 2, max(*places, peak / copy) * 2
    speeds = [row["tflops"] * 1e12 / unit for row in rows]
    alones = [report.rates(run, row)[1] / unit for row in rows]

    figure, axes = new(6, 3.4, len(widths))
    for ax, D in zip(axes, widths, strict=True):
        here = [row for row in rows if row["shape"]["D"] == D]
        _, alone, apart = (rate / unit for rate in report.rates(run, here[0]))
        ax.plot([low, peak / copy, high], [low * copy, peak, peak], color=INK, lw=1.6)
        ax.plot([peak / copy, high], [alone, alone], color=INK, lw=1.1, ls=DASHED)
        ax.plot([peak / copy, high], [apart, apart], color=INK, lw=1.2, ls=DOTTED)
        for kind in plots.MARKERS:
            points = [
                (row["flops"] / row["bytes"], row["tflops"] * 1e12 / unit)
                for row in here
                if _kind(row, here) == kind
            ]
            if points:
                ax.plot(*zip(*points, strict=True), ls="", **plots.MARKERS[kind])
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(low, high)
        ax.set_ylim(min(*speeds, peak / 4) / 1.6, max(*alones, peak) * 1.5)
        plots.ticks(ax, thirds=len(widths) == 1)
        ax.set_title(f"D = {D}", loc="left")
        if ax is not axes[0]:
            ax.set_yticklabels([])
    axes[len(axes) // 2].set_xlabel(t("FLOP for each byte", "每字节的浮点运算次数"))
    named = plots.names(t)
    points = [
        Line2D([], [], ls="", label=named[kind], **plots.MARKERS[kind]) for kind in plots.MARKERS
    ]
    lines = [
        Line2D([], [], color=INK, lw=1.6, label=t("memory, matrix products", "访存、矩阵乘")),
        Line2D([], [], color=INK, lw=1.1, ls=DASHED, label=t("exponentials", "指数运算")),
        Line2D(
            [],
            [],
            color=INK,
            lw=1.2,
            ls=DOTTED,
            label=t("products, then exponentials", "先矩阵乘，后指数运算"),
        ),
    ]
    figure.legend(handles=[*points, *lines], loc="outside lower center", ncols=2, fontsize=9)
    title = plots.title(run, t, t("forward", "前向"), rows[0]["dtype"], f"{prefix}FLOP/s")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def bars(run: Run, t):
    """All implementations at the longest sequence of each head width, not causal."""
    rows = [row for row in run.rows if row["op"] == "attention" and not row["causal"]]
    rows = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    rows = [row for row in rows if row["shape"]["H"] == row["shape"]["G"]]
    widths = sorted({row["shape"]["D"] for row in rows})
    ran = {row["backend"] for row in rows if row["status"] == "ok"}
    if len(widths) > 1:
        longest = max(row["shape"]["N"] for row in rows)
        rows = [row for row in rows if row["shape"]["N"] == longest]
        axis = "D"
        what = f"N = {longest}"
    else:
        axis = "N"
        what = f"D = {widths[0]}"
    cases = sorted({row["shape"][axis] for row in rows})
    names = [name for name in dict.fromkeys(row["backend"] for row in rows) if name in ran]
    step = len(names) + 1.4
    unit, prefix = plots.unit(run)
    passes = ("forward", "backward")
    figure, axes = new(6, 0.9 + 0.19 * step * len(cases), len(passes))
    for ax, which in zip(axes, passes, strict=True):
        for place, case in enumerate(cases):
            group = [r for r in rows if r["pass"] == which and r["shape"][axis] == case]
            _group(ax, run, group, names, place * step, unit, t)
        ax.set_ylim(step * len(cases) - 0.9, -1.6)
        ax.set_title(report.word(which, t("en", "zh")), loc="left")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_yticks([])
    end = max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(0, end)
    places = [place * step + i for place in range(len(cases)) for i in range(-1, len(names))]
    labels = [label for case in cases for label in (f"{axis} = {case}", *names)]
    axes[0].set_yticks(places, labels, fontsize=9)
    for label in axes[0].get_yticklabels():
        if "=" in label.get_text():
            label.set_fontweight("bold")
    how = t("not causal", "非因果")
    title = plots.title(run, t, what, how, rows[0]["dtype"], f"{prefix}FLOP/s")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _group(ax, run, group, names, start, unit, t):
    """One case: a bar an implementation, its spread, and the ceilings."""
    found = {row["backend"]: row for row in group}
    good = [row for row in group if row["status"] == "ok"]
    if not good:
        return
    for place, name in enumerate(names):
        row = found.get(name)
        y = start + place
        if row is None or row["status"] != "ok":
            text = report.STATUS[row["status"]][t(0, 1)] if row else t("not measured", "未测")
            ax.text(0, y, f" {text}", va="center", fontsize=9)
            continue
        color = {"ours": (ORANGE, 0.75), "peer": (BLUE, 0.6), "others": (INK, 0.25)}
        speed = row["tflops"] * 1e12 / unit
        ax.barh(y, speed, 0.72, color=color[_kind(row, good)], lw=0)
        passes = [1000 * row["flops"] / time / unit for time in row["pass_medians"]]
        ax.plot([min(passes), max(passes)], [y, y], color=INK, lw=1.4, marker="|", ms=5)
    floor = 1000 * good[0]["flops"] / good[0]["floor_ms"] / unit
    apart = report.rates(run, good[0])[2] / unit
    span = [start - 0.5, start + len(names) - 0.5]
    ax.plot([floor, floor], span, color=INK, lw=1.4)
    ax.plot([apart, apart], span, color=INK, lw=1.2, ls=DOTTED)


def _good(run):
    rows = [row for row in run.rows if row["op"] == "attention" and row["status"] == "ok"]
    return [row for row in rows if row["dtype"] == rows[0]["dtype"]]


def _kind(row, rows):
    """Whether a row is ours, the fastest library function of its case, or another."""
    if row["ours"]:
        return "ours"
    same = [r for r in rows if not r["ours"] and r["pass"] == row["pass"]]
    same = [r for r in same if (r["shape"], r["causal"]) == (row["shape"], row["causal"])]
    return "peer" if row is max(same, key=lambda r: r["tflops"]) else "others"
