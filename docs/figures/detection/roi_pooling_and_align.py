"""Both roundings of RoI pooling; the samples of RoI align; the level of a box on a pyramid."""

import math

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, INK, ORANGE, PURPLE, RED, new
from snippets.detection.roi_pooling_and_align import assign_levels, roi_align, roi_pool

H, W = 8, 11
BOX = torch.tensor([[1.6, 1.4, 8.3, 5.7]])
BINS = (2, 3)


def figures(t):
    yield "roi_pooling", pooling(t)
    yield "roi_align", align(t)
    yield "roi_levels", levels(t)


def ramps():
    """Two channels that hold the column and the row of each cell."""
    y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
    return torch.stack([x, y])[None]


def grid(ax):
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.vlines(range(W + 1), 0, H, color=INK, lw=0.5, alpha=0.45)
    ax.hlines(range(H + 1), 0, W, color=INK, lw=0.5, alpha=0.45)


def exact_box(ax, **style):
    x1, y1, x2, y2 = BOX[0].tolist()
    ax.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor="none", edgecolor=ORANGE, lw=2, **style)
    )


def pooling(t):
    maps = ramps()
    last = roi_pool(maps, [BOX], BINS, 1.0)[0]  # (2, h, w)
    first = -roi_pool(-maps, [BOX], BINS, 1.0)[0]
    figure, axes = new(6, 2.75, 2)
    for ax in axes:
        grid(ax)
        ax.set_xlim(-1.2, W + 0.1)
        ax.set_ylim(H + 0.1, -1.9)
    left, right = axes
    x1, y1 = first[:, 0, 0].tolist()
    x2, y2 = (last[:, -1, -1] + 1).tolist()
    for ax in axes:
        style = dict(facecolor=(ORANGE, 0.18), lw=0)
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
        edge = dict(facecolor="none", edgecolor=RED, ls=(0, (4, 2)), lw=1.5)
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **edge))
        exact_box(ax)
    for q in range(BINS[1]):
        a, b = float(first[0, 0, q]), float(last[0, 0, q]) + 1
        y = -0.35 - 0.45 * (q % 2)
        right.plot([a + 0.08, b - 0.08], [y, y], color=INK, lw=3, solid_capstyle="butt")
        right.text((a + b) / 2, -1.5, f"{a:.0f}–{b - 1:.0f}", ha="center", va="center", fontsize=9)
    for p in range(BINS[0]):
        a, b = float(first[1, p, 0]), float(last[1, p, 0]) + 1
        right.plot([-0.35, -0.35], [a + 0.08, b - 0.08], color=INK, lw=3, solid_capstyle="butt")
        place = dict(ha="center", va="center", fontsize=9, rotation=90)
        right.text(-0.95, (a + b) / 2, f"{a:.0f}–{b - 1:.0f}", **place)
    for q in range(BINS[1] - 1):  # columns of two bins
        a, b = float(first[0, 0, q + 1]), float(last[0, 0, q]) + 1
        right.add_patch(Rectangle((a, y1), b - a, y2 - y1, facecolor=(ORANGE, 0.35), lw=0))
    right.plot([x1, x2], [float(first[1, 1, 0])] * 2, color=INK, lw=1.2)
    left.set_title(t("1: corners to whole cells", "① 角点取整到单元"))
    right.set_title(t("2: bins to whole cells", "② 分段取整到单元"))
    return figure


def align(t):
    h, w = BINS
    figure, axes = new(6, 2.7, 2)
    for ax, aligned in zip(axes, (True, False), strict=True):
        grid(ax)
        ax.set_xlim(-0.1, W + 0.1)
        ax.set_ylim(H + 0.1, -0.1)
        dots = [[c - 0.04, c + 0.04, math.nan] for c in range(W)]  # one path: smaller than markers
        across = torch.tensor(dots).flatten().repeat(H) + 0.5
        down = torch.arange(float(H)).repeat_interleave(3 * W) + 0.5
        ax.plot(across, down, color=INK, alpha=0.7, lw=1.8, solid_capstyle="round")
        x1, y1, x2, y2 = BOX[0].tolist()
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor=(ORANGE, 0.15), lw=0))
        exact_box(ax)
        for q in range(1, w):
            ax.plot([x1 + (x2 - x1) * q / w] * 2, [y1, y2], color=ORANGE, lw=1.2)
        for p in range(1, h):
            ax.plot([x1, x2], [y1 + (y2 - y1) * p / h] * 2, color=ORANGE, lw=1.2)
        # bins of one sample each, twice as many, lie where 2 x 2 samples of a bin lie
        x, y = roi_align(ramps(), [BOX], (2 * h, 2 * w), 1.0, 1, aligned)[0] + 0.5
        ax.plot(x.flatten(), y.flatten(), ls="", marker="o", ms=4.5, color=PURPLE)
        i, j = 2, 1
        sx, sy = float(x[i, j]), float(y[i, j])
        for cx in (int(sx - 0.5) + 0.5, int(sx - 0.5) + 1.5):
            for cy in (int(sy - 0.5) + 0.5, int(sy - 0.5) + 1.5):
                ax.plot([sx, cx], [sy, cy], color=PURPLE, lw=1)
                ax.plot(cx, cy, marker="o", ms=4, mfc="none", mec=PURPLE)
        name = t("the centre of cell i at i + ½", "单元 i 的中心在 i + ½")
        old = t("at i: half a cell too far", "中心在 i：偏了半个单元")
        ax.set_title(f"aligned={aligned}\n{name if aligned else old}", fontsize=9.5)
    return figure


def levels(t):
    strides = [4, 8, 16, 32]
    size = 2 ** torch.linspace(4.5, 10.2, 1200)
    boxes = torch.stack([0 * size, 0 * size, size, size], 1)
    stride = assign_levels(boxes, strides)
    cells = size / stride
    figure, (ax,) = new(6, 2.7)
    for i, s in enumerate(strides):
        of = stride == s
        a, b = float(size[of][0]), float(size[of][-1])
        ax.axvspan(a, b, facecolor=(BLUE, 0.06 + 0.07 * i), lw=0)
        ax.plot(size[of], cells[of], color=ORANGE, lw=2)
        label = t(f"P{i + 2}\nstride {s}", f"P{i + 2}\n步幅 {s}")
        ax.text((a * b) ** 0.5, 45, label, ha="center", va="top", fontsize=9)
    for y in (14, 28):
        ax.axhline(y, color=INK, lw=0.6, ls=(0, (2, 3)))
    ax.set_xscale("log", base=2)
    ax.set_xlim(float(size[0]), float(size[-1]))
    ax.set_ylim(0, 47)
    ticks = [32, 56, 112, 224, 448, 896]
    ax.set_xticks(ticks, [str(x) for x in ticks])
    ax.minorticks_off()
    ax.set_yticks([0, 14, 28, 42])
    ax.set_xlabel(t("√(width × height) of the box, pixels", "框的 √(宽 × 高)，像素"))
    ax.set_ylabel(t("cells along a side", "边长所占单元数"))
    return figure
