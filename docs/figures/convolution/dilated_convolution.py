"""Paths through three dilated layers; how often each input cell is read, in two dimensions."""

import torch
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from hooks.figures import BLUE, INK, ORANGE, new
from snippets.convolution.dilated_convolution import path_counts
from snippets.convolution.receptive_field import Layer, input_positions, receptive_fields


def figures(t):
    yield "dilated_conv_paths", paths(t)
    yield "dilated_conv_coverage", coverage(t)


def stack(rates):
    return [Layer(3, dilation=rate) for rate in rates]


def network(ax, t, rates, colors):
    """Outputs 0, 1, … at the top, one for each colour; each map is drawn centred on output 0."""
    layers = stack(rates)
    size = receptive_fields(layers)[-1].size
    shifts = [sum(rates[:row]) for row in range(4)]  # position 0 of a map, in input cells
    lengths = [size + len(colors) - 1]
    for layer in layers:
        lengths.append(lengths[-1] - layer.extent + 1)
    for index, color in enumerate(colors):
        lines = []
        for row, layer in enumerate(layers):  # from map `row` to map `row + 1`
            upper = input_positions(layers[row + 1 :], lengths[row + 1], index).tolist()
            for i in upper:
                for tap in range(3):
                    lines.append((i + shifts[row + 1], row + 1))
                    lines.append((i + tap * layer.dilation + shifts[row], row))
        codes = [Path.MOVETO, Path.LINETO] * (len(lines) // 2)
        ax.add_patch(PathPatch(Path(lines, codes), fill=False, edgecolor=color, lw=1))
    for row in range(4):
        places = [
            (i, input_positions(layers[row:], lengths[row], index).tolist())
            for index, i in enumerate(colors)
        ]
        for i in range(lengths[row]):
            color = next((c for c, seen in places if i in seen), None)
            style = dict(mfc=color, mec=color) if color else dict(mfc="none", mec=INK, mew=0.6)
            ax.plot([i + shifts[row]], [row], ls="", marker="o", ms=4.6, **style)
    ax.set_axis_off()
    ax.set_ylim(-0.25, 3.3)
    ax.set_title(t("rates ", "空洞率 ") + ", ".join(map(str, rates)))


def paths(t):
    figure, (left, right) = new(6, 2.3, 2)
    network(left, t, (2, 2, 2), [BLUE, ORANGE])
    network(right, t, (1, 2, 4), [BLUE])
    return figure


def runs(row):
    """(first, length, value) of each run of equal numbers."""
    found = []
    for i, value in enumerate(row):
        if found and found[-1][2] == value:
            found[-1][1] += 1
        else:
            found.append([i, 1, value])
    return found


def coverage(t):
    figure, axes = new(6, 2.55, 3)
    for ax, rates in zip(axes, [(2, 2, 2), (1, 2, 4), (1, 3, 9)], strict=True):
        counts = path_counts(stack(rates))
        table = torch.outer(counts, counts)
        n, most = len(counts), int(table.max())
        squares = {}
        for y, row in enumerate(table.tolist()):
            for x, length, value in runs(row):
                if value:
                    corners = [(x, y), (x + length, y), (x + length, y + 1), (x, y + 1), (x, y)]
                    squares.setdefault(value, []).extend(corners)
        for value, corners in sorted(squares.items()):
            codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * (len(corners) // 5)
            face = (BLUE, 0.12 + 0.78 * (value / most) ** 0.6 if most > 1 else 0.35)
            ax.add_patch(PathPatch(Path(corners, codes), facecolor=face, lw=0))
        ax.set_xlim(0, n)
        ax.set_ylim(n, 0)
        ax.set_aspect("equal")
        ax.set_xticks([n], [str(n)], ha="right")
        ax.set_yticks([])
        for side in ("top", "right"):
            ax.spines[side].set_visible(True)
        read = int((table > 0).sum())
        ax.set_title(t("rates ", "空洞率 ") + ", ".join(map(str, rates)))
        ax.set_xlabel(t(f"{read} of {n * n} read", f"读到 {read} / {n * n}"))
    return figure
