"""Spatial pyramid pooling: the bins of both rules; three windows in parallel and in a row."""

import torch
from matplotlib.patches import Polygon, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.convolution.spatial_pyramid_pooling import (
    bin_ranges,
    pool_cascade,
    pool_parallel,
    sliding_windows,
)

COLORS = [ORANGE, GREEN, PURPLE]


def figures(t):
    yield "spp_bins", bins(t)
    yield "spp_cascade", cascade(t)


def bins(t):
    figure, (ax,) = new(6, 3.5)
    cases = [
        (13, t("13 cells, 6 bins\nrounded", "13 格，6 段\n取整"), bin_ranges(13, 6)),
        (13, t("sliding: 3, stride 2", "滑动：3，步幅 2"), sliding_windows(13, 6)),
        (10, t("10 cells, 6 bins\nrounded", "10 格，6 段\n取整"), bin_ranges(10, 6)),
        (10, t("sliding: 2, stride 1", "滑动：2，步幅 1"), sliding_windows(10, 6)),
    ]
    top = 0.0
    for size, name, windows in cases:
        read = {cell for start, end in windows[:6] for cell in range(start, end)}
        for cell in range(size):
            inside = cell in read
            face = (BLUE, 0.3) if inside else "none"
            ax.add_patch(Rectangle((cell, top), 1, 0.8, facecolor=face, edgecolor=INK, lw=0.8))
            if not inside:
                for y0, y1 in ((0.2, 0.6), (0.6, 0.2)):
                    ax.plot([cell + 0.25, cell + 0.75], [top + y0, top + y1], color=INK, lw=1)
        for i, (start, end) in enumerate(windows):
            y = top - 0.3 - 0.36 * (i % 2)
            color = COLORS[i % 2] if i < 6 else INK
            style = "-" if i < 6 else (0, (2, 1.5))
            ax.plot([start + 0.12, end - 0.12], [y, y], color=color, lw=2.2, ls=style)
        ax.text(-0.5, top + 0.35, name, ha="right", va="center", fontsize=9)
        count = t("{} windows", "{} 个窗口").format(len(windows))
        ax.text(13.4, top + 0.35, count, ha="left", va="center", fontsize=9)
        top -= 2.1
    ax.set_xlim(-5, 16.2)
    ax.set_ylim(top + 1.2, 1)
    ax.set_axis_off()
    return figure


def reach(pool, part, n=17):
    """Cells of an axis of n that part `part` of the block sees from the middle."""
    middle, seen = n // 2, []
    for cell in range(n):
        x = torch.zeros(1, 1, 1, n)
        x[..., cell] = 1
        if pool(x)[0, part, 0, middle] == 1:
            seen.append(cell)
    return seen


def cascade(t):
    n, middle = 17, 8
    figure, axes = new(6, 2.7, 2)
    for ax, title in zip(axes, ("SPP", "SPPF"), strict=True):
        ax.set_title(title)
        ax.set_xlim(-0.3, n + 0.3)
        ax.set_ylim(-1.3, 6.4)
        ax.set_axis_off()

    def cell(ax, x, y, color=None):
        face = (color, 0.4) if color else "none"
        ax.add_patch(Rectangle((x, y), 1, 0.8, facecolor=face, edgecolor=INK, lw=0.7))

    def fan(ax, bottom, first, last, top, color, start=middle, end=middle):
        corners = [(start, top), (end + 1, top), (last + 1, bottom), (first, bottom)]
        ax.add_patch(Polygon(corners, facecolor=(color, 0.16), edgecolor=color, lw=1))

    parallel, serial = axes
    spans = [reach(pool_parallel, part) for part in (1, 2, 3)]
    assert spans == [reach(pool_cascade, part) for part in (1, 2, 3)]
    for ax in axes:
        for i in range(n):
            near = next((c for span, c in zip(spans, COLORS, strict=True) if i in span), None)
            cell(ax, i, 0, near)
        ax.text(n / 2, -0.7, t("input", "输入"), ha="center", va="center", fontsize=9)
    for level, (span, color) in enumerate(zip(spans, COLORS, strict=True)):
        y = 1.75 * (level + 1)
        fan(parallel, 0.8, span[0], span[-1], y, color)
        cell(parallel, middle, y, color)
        label = f"{len(span)} × {len(span)}"
        parallel.text(n, y + 0.4, label, ha="right", va="center", fontsize=9, color=color)
        inner = spans[1 - level] if level < 2 else [middle]  # cells of this row that are needed
        for i in range(n):
            cell(serial, i, y, color if i in inner else None)
        below = spans[2 - level]
        fan(serial, y - 0.95, below[0], below[-1], y, color, inner[0], inner[-1])
        serial.text(n + 0.2, y + 1.1, "5 × 5", ha="right", va="center", fontsize=9, color=color)
    return figure
