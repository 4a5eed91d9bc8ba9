"""How calls are timed on a GPU: what lies between two events, and in which order."""

from matplotlib.patches import Rectangle

from benchmarks.timing import ROUNDS
from hooks.figures import BLUE, GREEN, INK, ORANGE, new


def figures(t):
    yield "benchmark_timing", timing(t)


def timing(t):
    figure, (ax,) = new(6, 2.9)
    for call in range(3):
        x = 1.2 + call * 3
        _block(ax, x - 1.1, 3, 1.1, INK, 0.18, t("overwrite\nL2", "覆盖\nL2"))
        _block(ax, x + 0.1, 3, 1.6, ORANGE, 0.6, t("kernels", "计算核"))
        for at in (x + 0.05, x + 1.75):
            ax.plot([at, at], [2.75, 3.95], color=INK, lw=1.6)
        ax.annotate(
            "", (x + 1.75, 2.68), (x + 0.05, 2.68), arrowprops={"arrowstyle": "<->", "color": INK}
        )
        ax.text(x + 0.9, 2.52, t("one time", "一次耗时"), ha="center", va="top", fontsize=9)
    ax.text(0, 4.75, t("GPU, one function in one pass", "GPU：一轮中的一个函数"), fontsize=10)
    ax.text(1.25, 4.08, t("event", "事件"), ha="center", fontsize=9)
    ax.text(2.95, 4.08, t("event", "事件"), ha="center", fontsize=9)
    ax.text(9.35, 3.4, "…", va="center", fontsize=12)

    ax.text(0, 1.55, t("All functions, in three passes", "全部函数，共三轮"), fontsize=10)
    orders = ("BAC", "CBA", "ACB")[:ROUNDS]
    colors = {"A": ORANGE, "B": BLUE, "C": GREEN}
    for number, order in enumerate(orders):
        start = number * 3.2
        for place, name in enumerate(order):
            _block(ax, start + place * 0.95, 0.3, 0.9, colors[name], 0.6, name)
        text = t(f"pass {number + 1}: a median of each", f"第 {number + 1} 轮：各取中位数")
        ax.text(start, 0.12, text, va="top", fontsize=9)
    ax.set_xlim(-0.05, 9.7)
    ax.set_ylim(-0.35, 5.1)
    ax.set_axis_off()
    return figure


def _block(ax, x, y, width, color, alpha, text):
    ax.add_patch(Rectangle((x, y), width, 0.8, facecolor=(color, alpha), edgecolor=INK, lw=0.8))
    ax.text(x + width / 2, y + 0.4, text, ha="center", va="center", fontsize=9)
