"""Figures of the page on up- and down-sampling."""

import math

import torch
import torch.nn.functional as F
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.concepts.resampling import (
    linear_weights,
    nearest_index,
    resize,
    source_positions,
    transposed_conv2d,
)


def figures(t):
    yield "resampling_positions", positions(t)
    yield "resampling_aliasing", aliasing(t)
    yield "resampling_checkerboard", checkerboard(t)


def positions(t):
    size, out_size = 5, 8
    values = torch.tensor([0.15, 0.7, 0.35, 0.9, 0.5], dtype=torch.float64)
    ones = torch.ones(out_size, 1, dtype=torch.float64)
    panels = [
        ("nearest", nearest_index(size, out_size)[:, None], ones, None),
        ("nearest-exact", nearest_index(size, out_size, exact=True)[:, None], ones, None),
    ]
    for align_corners in (False, True):
        marks = source_positions(size, out_size, align_corners)
        name = f"bilinear, align_corners={align_corners}"
        panels.append((name, *linear_weights(size, out_size, align_corners), marks))
    figure, (ax,) = new(6, 4.1)
    ax.set_axis_off()
    high, low, height = 1.5, 0.0, 0.42  # lower edges of the two rows
    step = size / out_size
    for number, (name, index, weights, marks) in enumerate(panels):
        x0, y0 = 6.0 * (number % 2), -2.75 * (number // 2)
        ax.text(x0 + 2, y0 + high + height + 0.16, name, ha="center", va="bottom")
        for j, value in enumerate(values.tolist()):
            cell(ax, x0 + j - 0.5, y0 + high, 1, height, value)
            ax.plot([x0 + j], [y0 + high], marker="o", ms=3.5, color=INK, zorder=3)
        out = (values[index] * weights).sum(-1)
        for i, value in enumerate(out.tolist()):
            centre = x0 + (i + 0.5) * step - 0.5
            cell(ax, centre - step / 2, y0 + low, step, height, value)
            ax.text(centre, y0 + low - 0.06, i, ha="center", va="top", fontsize=9)
            for j, w in zip(index[i].tolist(), weights[i].tolist(), strict=True):
                if w > 0:
                    ends = [centre, x0 + j], [y0 + low + height, y0 + high]
                    ax.plot(*ends, color=BLUE, lw=0.4 + 1.6 * w, alpha=0.35 + 0.65 * w)
            if marks is not None:
                mark = x0 + min(max(float(marks[i]), 0), size - 1)
                ax.plot([mark], [y0 + high - 0.09], marker="^", ms=4.5, color=ORANGE, zorder=4)
    for row in range(2):
        y = -2.75 * row + height / 2
        ax.text(-0.7, y + high, t("input", "输入"), ha="right", va="center", fontsize=9.5)
        ax.text(-0.7, y + low, t("output", "输出"), ha="right", va="center", fontsize=9.5)
    ax.set_xlim(-2.0, 10.6)
    ax.set_ylim(-3.2, 2.4)
    return figure


def cell(ax, x, y, width, height, value):
    face = (GREEN, 0.1 + 0.8 * value)
    ax.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor=INK, lw=0.7))


def aliasing(t):
    n, frequency = 40, 0.45
    x = torch.cos(2 * math.pi * frequency * torch.arange(n, dtype=torch.float64))[None, None]
    even = torch.arange(0, n, 2)
    smooth = resize(x, (1, n // 2), antialias=True)[0, 0]
    # the same height in front and behind: only the width is resampled
    curves = [
        (t("every second\n(stride 2)", "隔一取一\n（步幅 2）"), even, x[0, 0, ::2], ORANGE),
        (t("maximum of 2", "两个取最大"), even + 0.5, F.max_pool1d(x, 2)[0, 0], PURPLE),
        (t("mean of 2", "两个取平均"), even + 0.5, F.avg_pool1d(x, 2)[0, 0], BLUE),
        (t("antialiased\nbilinear", "抗混叠\n双线性"), even + 0.5, smooth, GREEN),
    ]
    figure, (ax,) = new(6, 3.5)
    fine = torch.linspace(0, n - 1, 400, dtype=torch.float64)
    ax.plot(fine, torch.cos(2 * math.pi * frequency * fine), color=INK, lw=0.6, alpha=0.6)
    ax.plot(range(n), x[0, 0], color=INK, ls="", marker="o", ms=2.5)
    ax.text(40.2, 0, t("input", "输入"), va="center")
    bases = (-2.5, -4.9, -6.1, -7.3)
    for base, (name, at, values, color) in zip(bases, curves, strict=True):
        ax.axhline(base, xmax=0.8, color=INK, lw=0.5, alpha=0.5)
        ax.plot(at, values.flatten() + base, color=color, marker="o", ms=3.5, lw=1.4)
        ax.text(40.2, base, name, color=color, va="center")
    ax.set_xlim(-1, 50)
    ax.set_ylim(-7.9, 1.2)
    ax.set_axis_off()
    return figure


def checkerboard(t):
    rows = 5
    ones = torch.ones(1, 1, rows, rows, dtype=torch.float64)

    def overlaps(kernel):
        size = (2 * (rows - 1) + kernel,) * 2
        weight = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
        return transposed_conv2d(ones, weight, size, stride=2)[0, 0]

    resized = F.conv2d(
        resize(ones, (2 * rows, 2 * rows), "nearest"),
        torch.ones(1, 1, 3, 3, dtype=torch.float64),
        padding=1,
    )[0, 0]
    panels = [
        (t("transposed,\nkernel 3, stride 2", "转置卷积，\n核 3，步幅 2"), overlaps(3)),
        (t("transposed,\nkernel 4, stride 2", "转置卷积，\n核 4，步幅 2"), overlaps(4)),
        (t("nearest ×2,\nthen kernel 3", "最近邻放大 2 倍，\n再用核 3 卷积"), resized),
    ]
    figure, axes = new(6, 2.6, 3)
    for ax, (name, counts) in zip(axes, panels, strict=True):
        ax.set_axis_off()
        ax.set_aspect("equal")
        ax.set_title(name)
        n, most = len(counts), float(counts.max())
        for level in counts.unique().tolist():
            squares = []
            for i, j in (counts == level).nonzero().tolist():
                y = n - 1 - i
                corners = [(j, y), (j + 1, y), (j + 1, y + 1), (j, y + 1), (j, y)]
                squares.append(Path(corners, closed=True))
            path = Path.make_compound_path(*squares)
            face = (BLUE, 0.9 * level / most)
            ax.add_patch(PathPatch(path, facecolor=face, edgecolor=INK, lw=0.3))
        for i in range(n // 2 - 1, n // 2 + 1):
            for j in range(n // 2 - 1, n // 2 + 1):
                number = int(counts[i, j])
                ax.text(j + 0.5, n - 0.55 - i, number, ha="center", va="center", fontsize=9)
        ax.set_xlim(-0.1, n + 0.1)
        ax.set_ylim(-0.1, n + 0.1)
    return figure
