"""Transposed convolution: stamps and zero insertion; the overlaps that make checkerboards."""

import torch
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.convolution.transposed_convolution import (
    conv_transpose2d_scatter,
    overlap_count,
    transposed_output_size,
)

N, KERNEL, STRIDE, PADDING, EXTRA = 3, 3, 2, 1, 1
COLORS = [BLUE, ORANGE, PURPLE]


def figures(t):
    yield "transposed_two_ways", two_ways(t)
    yield "transposed_checkerboard", checkerboard(t)


def cell(ax, x, y, color=None, text="", dashed=False):
    face = (color, 0.35) if color else "none"
    style = (0, (2, 2)) if dashed else "-"
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=INK, lw=0.8, ls=style))
    ax.text(x + 0.5, y + 0.46, text, ha="center", va="center", fontsize=9)


def two_ways(t):
    figure, (left, right) = new(6, 3.1, 2)
    full = transposed_output_size(N, KERNEL, STRIDE)
    kept = transposed_output_size(N, KERNEL, STRIDE, PADDING, EXTRA)
    counts = overlap_count((1, N), (1, KERNEL), (1, STRIDE))[0].tolist()

    def output(ax, start):
        for m in range(full):
            inside = PADDING <= m < PADDING + kept
            cell(ax, start + m, 0, GREEN if inside else None, str(counts[m]) if inside else "")
            if not inside:
                for y0, y1 in ((0.2, 0.8), (0.8, 0.2)):
                    ax.plot([start + m + 0.2, start + m + 0.8], [y0, y1], color=INK, lw=1)

    for i, color in enumerate(COLORS):  # the middle of its stamp is below each input
        centre = STRIDE * i + KERNEL // 2
        cell(left, centre, 4.4, color, f"x{'₀₁₂'[i]}")
        for u in range(KERNEL):
            left.annotate(
                "",
                (STRIDE * i + u + 0.5, 1.05),
                (centre + 0.5, 4.35),
                arrowprops=dict(arrowstyle="-|>", color=color, lw=1.2, shrinkA=0, shrinkB=0),
            )
    output(left, 0)
    left.set_title(t("scatter", "散射"))
    left.text(
        3.5, -0.55, t("stamps in each output cell", "每个输出格上的印记数"),
        ha="center", va="center", fontsize=9,
    )  # fmt: skip

    edge = KERNEL - 1
    for position in range(-edge, STRIDE * (N - 1) + 1 + edge):
        index, rest = divmod(position, STRIDE)
        real = rest == 0 and 0 <= index < N
        color = COLORS[index] if real else None
        cell(right, position, 4.4, color, f"x{'₀₁₂'[index]}" if real else "0", dashed=not real)
    for m in range(full):
        y = 3.85 - 0.5 * (m % KERNEL)
        first = m - edge
        inside = PADDING <= m < PADDING + kept
        color = GREEN if inside else INK
        right.plot([first + 0.15, first + KERNEL - 0.15], [y, y], color=color, lw=1.6)
        right.annotate(
            "",
            (first + KERNEL / 2, 1.05),
            (first + KERNEL / 2, y),
            arrowprops=dict(arrowstyle="-|>", color=color, lw=0.9, shrinkA=0, shrinkB=0),
        )
    output(right, 1 - edge)
    right.set_title(t("zero insertion", "插零"))
    right.text(
        2.5, -0.55, t("inputs other than 0 in each window", "每个窗口里非零的输入数"),
        ha="center", va="center", fontsize=9,
    )  # fmt: skip
    for ax, (low, high) in ((left, (-0.2, 7.2)), (right, (-2.2, 7.2))):
        ax.set_xlim(low, high)
        ax.set_ylim(-1, 5.6)
        ax.set_axis_off()
    return figure


def squares(ax, values, top, color):
    """One path for all cells of equal value."""
    for value in sorted({v for row in values for v in row}):
        cells = [
            Path([(j, -i - 1), (j + 1, -i - 1), (j + 1, -i), (j, -i), (j, -i - 1)])
            for i, row in enumerate(values)
            for j, v in enumerate(row)
            if v == value
        ]
        face = (color, round(0.9 * value / top, 2))
        ax.add_patch(PathPatch(Path.make_compound_path(*cells), facecolor=face, lw=0))


def checkerboard(t):
    side = 9
    weight = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    constant = conv_transpose2d_scatter(torch.ones(1, 1, 7, 7), weight, None, 2)[0, 0]
    inner = constant[3 : 3 + side, 3 : 3 + side].mul(1000).round().div(1000)
    panels = [
        (t("kernel 3", "核 3"), overlap_count(4, 3, 2), BLUE),
        (t("kernel 4", "核 4"), overlap_count(4, 4, 2), BLUE),
        (t("kernel 4, random weights", "核 4，随机权重"), inner, ORANGE),
    ]
    figure, axes = new(6, 2.4, 3)
    for ax, (title, values, color) in zip(axes, panels, strict=True):
        squares(ax, values.tolist(), float(values.max()), color)
        if color == BLUE:
            along = values[side // 2] // values[side // 2, 0]  # the counts along one axis
            for j, count in enumerate(along.tolist()):
                style = dict(ha="center", va="center", fontsize=9)
                ax.text(j + 0.5, 0.55, count, **style)
                ax.text(-0.6, -j - 0.55, count, **style)
            for i in (4, 5):
                for j in (4, 5):
                    ax.text(j + 0.5, -i - 0.55, int(values[i, j]), **style)
        ax.set_title(title, fontsize=9.5)
        ax.set_xlim(-1.2, len(values))
        ax.set_ylim(-len(values), 1.1)
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure
