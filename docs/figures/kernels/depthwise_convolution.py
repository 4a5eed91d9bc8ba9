"""A thread's tile and what it loads; a filter row as a band matrix."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, new


def figures(t):
    yield "depthwise_tile", tile(t)
    yield "depthwise_band", band(t)


def loads(rows, columns, taps=3):
    return (rows + taps - 1) * (columns + taps - 1) / (rows * columns)


def tile(t):
    figure, (left, right) = new(6, 2.9, 2)
    for y in range(6):
        for x in range(6):
            left.add_patch(Rectangle((x, y), 1, 1, facecolor=(BLUE, 0.12), edgecolor=INK, lw=0.6))
    left.add_patch(Rectangle((1, 1), 4, 4, facecolor=(ORANGE, 0.3), edgecolor=ORANGE, lw=1.8))
    left.add_patch(Rectangle((1, 2), 3, 3, fill=False, edgecolor=GREEN, lw=1.8))
    left.plot([2.5], [3.5], marker="o", color=GREEN, ms=5)
    left.text(3, 6.15, t("36 inputs, each loaded once", "36 个输入，各加载一次"), ha="center",
              va="bottom", fontsize=9, color=BLUE)  # fmt: skip
    left.text(3, -0.2, t("16 sums in registers", "16 个和，留在寄存器里"), ha="center", va="top",
              fontsize=9, color=ORANGE)  # fmt: skip
    text = t("one sum sees 3×3 of them", "每个和看到其中 3×3 个")
    left.text(3, -0.85, text, ha="center", va="top", fontsize=9, color=GREEN)
    left.set_xlim(-0.6, 6.6)
    left.set_ylim(-1.6, 6.9)
    left.set_aspect("equal")
    left.set_axis_off()

    cases = [(1, 1), (1, 4), (2, 4), (4, 4)]
    values = [loads(*case) for case in cases]
    places = range(len(cases))
    colors = [(BLUE, 0.45)] * 3 + [(ORANGE, 0.6)]
    right.barh(places, values, color=colors, edgecolor=INK, linewidth=0.8, height=0.6)
    for place, value in zip(places, values, strict=True):
        right.text(value + 0.15, place, f"{value:g}", va="center", fontsize=9)
    right.set_yticks(list(places), [f"{r}×{c}" for r, c in cases])
    right.set_xlim(0, 10.2)
    right.set_xticks([0, 3, 6, 9])
    right.invert_yaxis()
    right.set_xlabel(t("loads for each output", "每个输出的加载次数"))
    right.set_title(t("tile of a thread", "一个线程的分块"), loc="left")
    return figure


def band(t):
    S, columns = 7, 10
    depth = columns + S - 1
    figure, axes = new(6, 3.1)
    ax = axes[0]
    k, n = torch.meshgrid(torch.arange(depth), torch.arange(columns), indexing="ij")
    taps = k - n

    def grid(x, y, width, height, color):
        ax.add_patch(Rectangle((x, y), width, height, facecolor=(color, 0.12), edgecolor=INK, lw=1))

    grid(0, 0, depth, 8, BLUE)  # lines of images
    left = depth + 3
    ax.add_patch(Rectangle((left, -4), columns, depth, fill=False, edgecolor=INK, lw=1))
    for i in range(depth):
        for j in range(columns):
            tap = int(taps[i, j])
            if 0 <= tap < S:
                ax.add_patch(
                    Rectangle(
                        (left + j, -4 + depth - 1 - i), 1, 1, lw=0,
                        facecolor=(ORANGE, 0.25 + 0.1 * tap),
                    )
                )  # fmt: skip
    right = left + columns + 3
    grid(right, 0, columns, 8, GREEN)
    ax.text(depth + 1.5, 4, "×", ha="center", va="center", fontsize=14)
    ax.text(right - 1.5, 4, "=", ha="center", va="center", fontsize=14)
    ax.text(depth / 2, 4, t("one row of inputs\nof every image,\none channel",
            "每张图像的\n一行输入，\n同一通道"), ha="center", va="center", fontsize=9)  # fmt: skip
    ax.text(right + columns / 2, 4, t("part of a\nrow of\noutputs", "一行输出\n的一部分"),
            ha="center", va="center", fontsize=9)  # fmt: skip
    text = t("row of the filter,\nshifted for each output", "滤波器的一行，\n逐个输出平移")
    ax.text(left + columns / 2, -4.6, text, ha="center", va="top", fontsize=9, color=ORANGE)
    ax.text(depth / 2, -0.7, f"{columns} + {S} − 1 = {depth}", ha="center", va="top", fontsize=9)
    ax.text(right + columns / 2, -0.7, str(columns), ha="center", va="top", fontsize=9)
    ax.text(-0.8, 4, t("images", "图像"), rotation=90, ha="right", va="center", fontsize=9)
    ax.set_xlim(-3, right + columns + 1)
    ax.set_ylim(-9, depth - 3)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return figure
