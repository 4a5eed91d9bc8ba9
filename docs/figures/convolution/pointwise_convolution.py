"""1 x 1 convolution as a matrix product; weights with and without reductions."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, INK, ORANGE, PURPLE, new
from snippets.convolution.pointwise_convolution import path_cost, pointwise_conv2d


def figures(t):
    yield "pointwise_product", product(t)
    yield "pointwise_cost", weights(t)


def product(t):
    generator = torch.Generator().manual_seed(3)
    values = torch.tensor([-2.0, -1.0, 1.0, 2.0, 3.0])
    x = values[torch.randint(5, (1, 5, 2, 4), generator=generator)]
    weight = values[torch.randint(1, 4, (3, 5), generator=generator)]  # none is zero
    out = pointwise_conv2d(x, weight)
    figure, (ax,) = new(6, 2.5)
    ax.set_axis_off()

    def matrix(left, bottom, numbers, color, alpha):
        for i, row in enumerate(numbers.int().tolist()):
            for j, number in enumerate(row):
                y = bottom + len(numbers) - 1 - i
                ax.add_patch(
                    Rectangle((left + j, y), 1, 1, facecolor=(color, alpha), edgecolor=INK, lw=0.6)
                )
                text = str(number).replace("-", "−")
                ax.text(left + j + 0.5, y + 0.45, text, ha="center", va="center", fontsize=9)

    def frame(x, y, w, h):
        ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=ORANGE, lw=2.5, zorder=3))

    def label(x, y, text, size=9.5):
        ax.text(x, y, text, ha="center", va="center", fontsize=size)

    matrix(0, 1, weight, PURPLE, 0.3)
    matrix(6.6, 0, x[0].flatten(1), BLUE, 0.3)
    matrix(16.2, 1, out[0].flatten(1), BLUE, 0.12)
    frame(9.6, 0, 1, 5)
    frame(19.2, 1, 1, 3)
    label(5.8, 2.5, "@", 12)
    label(15.4, 2.5, "=", 12)
    label(2.5, 5.6, t("weight, 3 × 5", "权重，3 × 5"))
    label(10.6, 5.6, t("input, 5 channels × 8 pixels", "输入，5 通道 × 8 像素"))
    label(20.2, 5.6, t("output, 3 × 8", "输出，3 × 8"))
    label(10.1, -0.6, t("one pixel", "一个像素"), 9)
    label(19.7, 0.4, t("the same pixel", "同一个像素"), 9)
    ax.set_xlim(-0.2, 24.4)
    ax.set_ylim(-1, 6.1)
    ax.set_aspect("equal")
    return figure


def weights(t):
    figure, axes = new(6, 2.2, 2)
    reduced = t("reduced", "降维后")
    panels = [
        (
            t("ResNet, 256 channels", "ResNet，256 通道"),
            256,
            [
                (t("two 3×3", "两个 3×3"), [(256, 3), (256, 3)]),
                (t("bottleneck", "瓶颈"), [(64, 1), (64, 3), (256, 1)]),
            ],
        ),
        (
            t("Inception, 192 channels", "Inception，192 通道"),
            192,
            [
                ("3×3", [(128, 3)]),
                (reduced, [(96, 1), (128, 3)]),
                ("5×5", [(32, 5)]),
                (reduced, [(16, 1), (32, 5)]),
            ],
        ),
    ]
    for ax, (title, channels, rows) in zip(axes, panels, strict=True):
        longest = max(path_cost((1, channels, 28, 28), layers).weights for _, layers in rows)
        for y, (_, layers) in enumerate(rows):
            before = 0
            for n, (_, kernel) in enumerate(layers, 1):
                total = path_cost((1, channels, 28, 28), layers[:n]).weights / 1e3
                color = ORANGE if kernel == 1 else BLUE
                ax.barh(
                    y, total - before, left=before, height=0.62, color=(color, 0.55),
                    edgecolor=color, lw=1,
                )  # fmt: skip
                before = total
            ax.text(before + longest * 2e-5, y, f"{before:,.0f}", va="center", fontsize=9)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlim(0, longest / 1e3 * 1.25)
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(length=0)
        ax.set_title(title)
    return figure
