"""Which channels each kind of convolution joins; its layers under a roofline."""

from math import nan

from matplotlib.patches import Rectangle

from hooks.figures import BLUE, INK, ORANGE, PURPLE, new
from snippets.convolution.convolution_arithmetic import conv2d_cost
from snippets.convolution.depthwise_separable_convolution import grouped_cost, roofline_seconds


def figures(t):
    yield "separable_channels", channels(t)
    yield "separable_roofline", roofline(t)


def channels(t):
    n = 8
    cell = t("3×3 a line", "每线 3×3")
    number = t("1×1 a line", "每线 1×1")
    cases = [
        (t("dense", "普通"), 1, 9, BLUE, cell),
        (t("4 groups", "4 组"), 4, 9, BLUE, cell),
        (t("depthwise", "逐通道"), n, 9, BLUE, cell),
        (t("pointwise", "逐点"), 1, 1, ORANGE, number),
    ]
    figure, axes = new(6, 2.3, 4)
    for ax, (name, groups, size, color, what) in zip(axes, cases, strict=True):
        share = n // groups
        pairs = [(c, o) for o in range(n) for c in range(n) if c // share == o // share]
        xs = [x for pair in pairs for x in (*pair, nan)]  # one path for all lines
        ax.plot(xs, [0.4, 3, nan] * len(pairs), color=(color, 0.75), lw=0.9)
        for i in range(n):
            for y in (0, 3):
                ax.add_patch(
                    Rectangle(
                        (i - 0.36, y), 0.72, 0.4, facecolor=(INK, 0.12), edgecolor=INK, lw=0.8
                    )
                )
        ax.set_title(name)
        weights = n * share * size
        ax.text(3.5, -0.55, what, ha="center", va="center", fontsize=9)
        text = t(f"{weights} weights", f"{weights} 个权重")
        ax.text(3.5, -1.15, text, ha="center", va="center", fontsize=9)
        ax.set_xlim(-0.6, 7.6)
        ax.set_ylim(-1.5, 3.6)
        ax.set_axis_off()
    return figure


def roofline(t):
    peak, simple, bandwidth = 312e12, 19.5e12, 2039e9  # A100 80 GB SXM, NVIDIA's data sheet
    figure, (ax,) = new(6, 3.4)
    low, high = 1.5, 4000
    ax.plot([low, peak / bandwidth, high], [low * bandwidth / 1e12, 312, 312], color=INK, lw=1.6)
    ax.plot([simple / bandwidth, high], [19.5, 19.5], color=INK, lw=1, ls=(0, (4, 3)))
    ax.plot([peak / bandwidth] * 2, [2, 312], color=INK, lw=0.8, ls=(0, (1, 2)))
    ax.text(peak / bandwidth * 1.1, 2.6, t("ridge, 153", "脊点，153"), fontsize=9)
    ax.text(high, 21.5, t("FP32, 19.5", "FP32，19.5"), ha="right", va="bottom", fontsize=9)
    ax.text(7, 90, t("bytes\nset the pace", "访存\n决定快慢"), ha="center", va="center", fontsize=9)
    ax.text(900, 135, t("FLOPs set the pace", "运算决定快慢"), ha="center", va="center", fontsize=9)
    names = [t("full 3×3", "普通 3×3"), t("depthwise 3×3", "逐通道 3×3"), t("pointwise", "逐点")]
    colors = [PURPLE, BLUE, ORANGE]
    for marker, (c, o, n) in (("o", (32, 64, 112)), ("s", (512, 512, 14))):
        x = (32, c, n, n)
        costs = [
            conv2d_cost(x, (o, c, 3, 3), padding=1, number_bytes=2),
            grouped_cost(x, (c, 1, 3, 3), c, padding=1, number_bytes=2),
            conv2d_cost(x, (o, c, 1, 1), number_bytes=2),
        ]
        for cost, color in zip(costs, colors, strict=True):
            rate = cost.flops / roofline_seconds(cost, peak, bandwidth) / 1e12
            size = 8 if marker == "o" else 6.5
            ax.plot(
                [cost.intensity], [rate], marker=marker, ms=size, color=(color, 0.45), mec=color,
                ls="",
            )  # fmt: skip
    ax.text(5.6, 8, names[1], color=BLUE, va="top")
    ax.text(26, 38, names[2], color=ORANGE, va="top")
    ax.text(220, 420, names[2], color=ORANGE, ha="left", va="center")
    ax.text(150, 640, names[0], color=PURPLE, ha="right", va="center")
    ax.text(1685, 420, names[0], color=PURPLE, ha="center", va="center")
    ax.plot([155, 188], [590, 350], color=PURPLE, lw=0.8)
    note = "● 112 × 112   ■ 14 × 14"
    ax.text(high, 3.4, note, ha="right", va="bottom", fontsize=9)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(2, 900)
    ax.set_xticks([2, 10, 100, 1000], ["2", "10", "100", "1000"])
    ax.set_yticks([3, 10, 30, 100, 312], ["3", "10", "30", "100", "312"])
    ax.minorticks_off()
    ax.set_xlabel(t("FLOPs for each byte", "每字节的浮点运算次数"))
    ax.set_title(t("TFLOP/s, at most", "TFLOP/s，上限"), loc="left")
    return figure
