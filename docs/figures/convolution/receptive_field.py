"""Two fields traced back through three layers; the gradient inside the field, and its width."""

from functools import reduce
from itertools import pairwise

import torch
import torch.nn.functional as F
from matplotlib.patches import Polygon, Rectangle

from hooks.figures import BLUE, INK, ORANGE, new
from snippets.convolution.receptive_field import (
    Layer,
    input_gradient,
    input_positions,
    receptive_fields,
    spread,
    trace_back,
    uniform_spread,
)


def figures(t):
    yield "receptive_field_cone", cone(t)
    yield "receptive_field_stack", stack(t)
    yield "receptive_field_effective", effective(t)


def cone(t):
    layers = [Layer(3, 1, 1), Layer(3, 2, 1), Layer(3, 1, 1)]
    length, size, height = 15, 0.84, 0.5
    counts = [length, 15, 8, 8]
    fields = receptive_fields(layers)
    figure, (ax,) = new(6, 3.3)
    ax.set_axis_off()

    def cell(x, row, **style):
        corner = (x - size / 2, 1.25 * row)
        ax.add_patch(Rectangle(corner, size, height, **(dict(lw=0.8, edgecolor=INK) | style)))

    shown = {0: ORANGE, 5: BLUE}
    for index, color in shown.items():
        spans = trace_back(layers, index, index)
        for row, (low, high) in enumerate(pairwise(spans)):
            ends = []
            for (first, last), field, y in (
                (low, fields[row], 1.25 * row + height),
                (high, fields[row + 1], 1.25 * (row + 1)),
            ):
                ends.append((first * field.jump - size / 2, y))
                ends.append((last * field.jump + size / 2, y))
            a, b, c, d = ends
            ax.add_patch(Polygon([a, b, d, c], facecolor=(color, 0.16), lw=0))
    seen = {}  # (row, position): colours
    for index, color in shown.items():
        for row in range(4):
            for i in input_positions(layers[row:], counts[row], index).tolist():
                seen.setdefault((row, i), []).append(color)
    for index in shown:
        for row, (first, last) in enumerate(trace_back(layers, index, index)):
            for i in range(first, last + 1):
                if not 0 <= i < counts[row]:
                    cell(i * fields[row].jump, row, facecolor="none", linestyle=(0, (2, 2)))
    for row, count in enumerate(counts):
        for i in range(count):
            x = i * fields[row].jump
            for color in seen.get((row, i), []):
                cell(x, row, facecolor=(color, 0.45), lw=0)
            cell(x, row, facecolor="none")
            ax.text(x, 1.25 * row + height / 2 - 0.02, i, ha="center", va="center", fontsize=9)
    names = [
        t("input", "输入"),
        t("kernel 3", "核 3"),
        t("kernel 3, stride 2", "核 3，步幅 2"),
        t("kernel 3", "核 3"),
    ]
    for row, (name, field) in enumerate(zip(names, fields, strict=True)):
        y = 1.25 * row + height / 2
        ax.text(15.1, y + 0.18, name, va="center", fontsize=9.5)
        text = t("size {}, jump {}, start {}", "大小 {}，步距 {}，起点 {}").format(*field)
        ax.text(15.1, y - 0.18, text.replace("-", "−"), va="center", fontsize=9)
    ax.set_xlim(-4.6, 21.9)
    ax.set_ylim(-0.1, 4.35)
    return figure


def stack(t):
    """Output 1 of a stack whose last layer is dilated: what it reads, padding and holes."""
    layers = [Layer(3, 1, 1), Layer(3, 2, 1), Layer(3, 1, 2, 2)]
    length, index, size, height = 15, 1, 0.84, 0.5
    fields = receptive_fields(layers)
    counts = [length, 15, 8, 8]
    spans = trace_back(layers, index, index)
    figure, (ax,) = new(6, 2.8)
    ax.set_axis_off()
    for row, (field, count, (first, last)) in enumerate(zip(fields, counts, spans, strict=True)):
        read = input_positions(layers[row:], count, index).tolist()
        middle = field.start + (field.size - 1) / 2
        for i in range(min(first, 0), count):
            x, y = middle + i * field.jump, 1.25 * row
            inside = i >= 0
            style = {} if inside else dict(linestyle=(0, (2, 2)))
            face = (ORANGE, 0.55) if i in read else (BLUE, 0.3) if inside else "none"
            box = Rectangle((x - size / 2, y), size, height, facecolor=face, edgecolor=INK, lw=0.8)
            box.set(**style)
            ax.add_patch(box)
            if inside:
                ax.text(x, y + height / 2 - 0.02, i, ha="center", va="center", fontsize=9)
        if row:
            low = fields[row - 1]
            below = low.start + (low.size - 1) / 2
            (a, b), y = spans[row - 1], 1.25 * row
            corners = [
                (below + a * low.jump - size / 2, y - 1.25 + height),
                (below + b * low.jump + size / 2, y - 1.25 + height),
                (middle + last * field.jump + size / 2, y),
                (middle + first * field.jump - size / 2, y),
            ]
            ax.add_patch(Polygon(corners, facecolor=(ORANGE, 0.16), lw=0))
        name = t(f"layer {row}", f"第 {row} 层") if row else t("input", "输入")
        ax.text(15.2, 1.25 * row + height / 2, name, va="center", fontsize=9.5)
    ax.set_xlim(-4.6, 17.6)
    ax.set_ylim(-0.1, 4.35)
    return figure


def profile(n):
    """The gradient of a stack of n equal kernels, along its field."""
    kernels = [torch.full((1, 1, 3), 1 / 3, dtype=torch.float64)] * n
    x = torch.zeros(1, 1, receptive_fields([Layer(3)] * n)[-1].size, dtype=torch.float64)
    return input_gradient(lambda x: reduce(F.conv1d, kernels, x), x)[0, 0]


def random_profile(n, generator, channels=16, networks=20):
    """Root mean square of the gradient over networks of random weights."""
    x = torch.zeros(1, channels, 2 * n + 1, dtype=torch.float64)
    square = torch.zeros(2 * n + 1, dtype=torch.float64)
    for _ in range(networks):
        shape = (n, channels, channels, 3)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) / 48**0.5
        gradient = input_gradient(lambda x, drawn=drawn: reduce(F.conv1d, drawn, x), x)
        square += gradient[0].square().sum(0)
    return square.sqrt()


def effective(t):
    figure, (left, right) = new(6, 2.9, 2)
    for row, (n, color) in enumerate([(4, ORANGE), (16, INK), (64, BLUE)]):
        p = profile(n)
        marker = "o" if n == 4 else None
        left.plot(torch.linspace(-1, 1, len(p)), p / p.max(), color=color, marker=marker, ms=3.5)
        left.text(-0.95, 0.98 - 0.1 * row, t(f"{n} layers", f"{n} 层"), color=color, va="center")
    left.set_xlim(-1, 1)
    left.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−½", "0", "½", "1"])
    left.set_ylim(0, 1.04)
    left.set_title(t("gradient, peak 1", "梯度，峰值为 1"))
    left.set_xlabel(t("place in the field", "感受野内的位置"))

    generator = torch.Generator().manual_seed(0)
    depths = [1, 2, 4, 8, 16, 32, 64]
    sizes = [receptive_fields([Layer(3)] * n)[-1].size for n in depths]
    formula = [uniform_spread([Layer(3)] * n) for n in depths]
    equal = [float(spread(profile(n))) for n in depths]
    drawn = [float(spread(random_profile(n, generator))) for n in depths]
    right.plot(depths, sizes, color=INK)
    right.plot(depths, formula, color=BLUE)
    right.plot(depths, [2**0.5 * x for x in formula], color=ORANGE)
    right.plot(depths, equal, color=BLUE, ls="", marker="o", ms=4)
    right.plot(depths, drawn, color=ORANGE, ls="", marker="s", ms=4)
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    right.set_xticks(depths, [str(n) for n in depths])
    ticks = [1, 4, 16, 64]
    right.set_yticks(ticks, [str(n) for n in ticks])
    right.minorticks_off()
    right.set_ylim(0.6, 220)
    right.set_xlabel(t("layers n", "层数 n"))
    right.set_title(t("pixels", "像素数"))
    right.text(7, 36, t("size of the field", "感受野的大小"), ha="right", va="bottom")
    right.text(64, 13, t("σ, random", "σ，随机权重"), color=ORANGE, ha="right", va="bottom")
    right.text(64, 1.6, t("σ, equal", "σ，等权重"), color=BLUE, ha="right", va="bottom")
    return figure
