"""One tile in numbers; operations against the size of the tile; the error, measured, predicted."""

import math

import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.kernels.winograd import error_growth, transforms, winograd_conv2d, winograd_cost


def figures(t):
    yield "winograd_tile", tile(t)
    yield "winograd_work", work(t)
    yield "winograd_error", error(t)


def matmul(a, b):
    return [
        [sum(x * y for x, y in zip(row, col, strict=True)) for col in zip(*b, strict=True)]
        for row in a
    ]


def both(matrix, x):
    return matmul(matmul(matrix, x), list(zip(*matrix, strict=True)))


def text_of(value):
    assert value == int(value)
    return str(int(value)).replace("-", "−")


def grid(ax, x, y, numbers, color, title, alpha=0.16):
    for i, row in enumerate(numbers):
        for j, value in enumerate(row):
            face = Rectangle((x + j, y + i), 1, 1, fc=(color, alpha), ec=INK, lw=0.6)
            ax.add_patch(face)
            text = text_of(value)
            ax.text(x + j + 0.5, y + i + 0.54, text, ha="center", va="center", fontsize=9.5)
    ax.text(x + len(numbers[0]) / 2, y - 0.5, title, ha="center", va="center")


def tile(t):
    """Two neighbouring tiles of the input, one followed to its output; integers throughout."""
    image = [[1, 2, 0, 1, 3, 1], [0, 1, 3, 2, 0, 2], [2, 0, 1, 1, 1, 0], [1, 3, 0, 2, 2, 1]]
    kernel = [[2, -1, 1], [1, -1, 0], [1, 0, 1]]
    matrices = transforms(2, 3)
    d = [row[:4] for row in image]
    u, v = both(matrices.g, kernel), both(matrices.bt, d)
    m = [[a * b for a, b in zip(*rows, strict=True)] for rows in zip(u, v, strict=True)]
    y = both(matrices.at, m)
    direct = F.conv2d(*(torch.tensor(x)[None, None].double() for x in (d, kernel)))[0, 0]
    assert [[int(value) for value in row] for row in y] == direct.int().tolist()
    figure, (ax,) = new(6, 3.75)
    ax.set_axis_off()
    ax.set_aspect("equal")
    grid(ax, 0, 0, image, BLUE, t("input: two tiles", "输入：两块"), 0.1)
    ax.add_patch(Rectangle((0, 0), 4, 4, fill=False, ec=BLUE, lw=2.6))
    ax.add_patch(Rectangle((2, 0.12), 3.9, 3.76, fill=False, ec=PURPLE, lw=1.8, ls="--"))
    grid(ax, 8, 0, v, BLUE, "Bᵀ d B")
    grid(ax, 1, 6.2, kernel, ORANGE, t("kernel g", "核 g"))
    grid(ax, 8, 6.2, u, ORANGE, "G g Gᵀ")
    grid(ax, 13.6, 3.1, m, GREEN, t("16 products", "16 个乘积"))
    grid(ax, 19.2, 4.1, y, GREEN, t("4 outputs", "4 个输出"))
    for start, end in [((6.2, 2), (7.8, 2)), ((4.2, 8.1), (7.8, 8.1))]:
        ax.annotate("", end, start, arrowprops=dict(arrowstyle="->", color=INK))
    for start, end in [((12.2, 2.2), (13.4, 3.6)), ((12.2, 8), (13.4, 6.6))]:
        ax.annotate("", end, start, arrowprops=dict(arrowstyle="->", color=INK))
    ax.annotate("", (19, 5.1), (17.8, 5.1), arrowprops=dict(arrowstyle="->", color=INK))
    ax.text(12.8, 5.15, "×", ha="center", va="center", fontsize=13)
    ax.text(18.4, 4.3, "Aᵀ·A", ha="center", va="center", fontsize=9)
    note = t("adds and subtracts only", "只有加减法")
    ax.text(7, 4.9, note, ha="center", va="center", color=BLUE)
    ax.text(6, 11, t("once for all images", "所有图像共用一次"), ha="center", color=ORANGE)
    ax.set_xlim(-0.2, 21.6)
    ax.set_ylim(11.4, -1.2)
    return figure


def per_output(m, channels):
    """FLOP for an output, a channel in and a channel out; channels in and out alike."""
    cost = winograd_cost((1, channels, m + 2, m + 2), (channels, channels, 3, 3), 0, m)
    return [value / (m * m * channels**2) for value in (cost.products, cost.transforms)]


def work(t):
    sizes = range(1, 7)
    figure, (ax,) = new(6, 3.2)
    direct = 18
    ax.axhline(direct, color=INK, lw=1.2, ls=":")
    ax.text(6, direct + 0.5, t("definition: 18", "按定义：18"), ha="right", va="bottom")
    for channels, color in ((16, RED), (64, ORANGE), (256, BLUE)):
        total = [sum(per_output(m, channels)) for m in sizes]
        ax.plot(sizes, total, color=color, marker="o", ms=4)
    products = [per_output(m, 1)[0] for m in sizes]
    ax.plot(sizes, products, color=GREEN, marker="s", ms=4, ls="--")
    ax.set_xticks(sizes, [f"{m}×{m}" for m in sizes])
    ax.set_xlabel(t("outputs of a tile", "每块的输出"))
    ax.set_ylabel(t("FLOP per output and pair of channels", "每个输出、每对通道的 FLOP"))
    ax.set_ylim(0, 21)
    ax.set_yticks([0, 6, 12, 18])
    ax.text(4.05, 7.3, t("16 channels", "16 个通道"), color=RED)
    ax.text(6.12, 4.8, "64", color=ORANGE, va="center")
    ax.text(6.12, 3.2, "256", color=BLUE, va="center")
    label = t("matrix products alone: 2(m+2)²/m²", "只算矩阵乘法：2(m+2)²/m²")
    ax.text(5.9, 1.5, label, color=GREEN, ha="right", va="center")
    ax.set_xlim(0.8, 6.6)
    return figure


def error(t):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 64, 24, 24, generator=generator, dtype=torch.float64)
    weight = torch.randn(16, 64, 3, 3, generator=generator, dtype=torch.float64) / 24
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    integers = (0, 1, -1, 2, -2, 3, -3)
    figure, (ax,) = new(6, 3.6)
    sizes = range(2, 7)
    rounded = math.sqrt(0.75 / (2 * math.log(2)) / 3)  # of a number with a random mantissa
    growth = [error_growth(transforms(m, 3)) for m in sizes]
    series = [
        (torch.bfloat16, RED, "bfloat16", 0.09),
        (torch.float16, ORANGE, "float16", 8e-4),
        (torch.float32, BLUE, "float32", 6e-6),
    ]
    for dtype, color, name, height in series:
        low = x.to(dtype), weight.to(dtype)
        exact = F.conv2d(low[0].double(), low[1].double(), padding=1)

        def relative(y, exact=exact):
            value = ((y.double() - exact).norm() / exact.norm()).item()
            if y.dtype == torch.float32:  # other processors differ in the second digit
                return 10 ** (round(10 * math.log10(value)) / 10)
            return float(f"{value:.2g}")

        found = [relative(winograd_conv2d(*low, 1, m)) for m in sizes]
        ax.plot(sizes, found, color=color, marker="o", ms=5, ls="none")
        unit = rounded * torch.finfo(dtype).eps / 2
        ax.plot(sizes, [unit * math.sqrt(2 * a * a + 1) for a in growth], color=color, lw=1.3)
        if dtype != torch.float16:
            worst = relative(winograd_conv2d(*low, 1, 6, integers))
            ax.plot([6.25], [worst], color=color, marker="x", ms=7, mew=2, ls="none")
        ax.text(4.0, height, name, color=color, ha="center")
    ax.set_yscale("log")
    ax.set_xticks(sizes, [f"F({m}×{m}, 3×3)" for m in sizes], fontsize=9)
    ax.set_ylabel(t("error relative to the output", "相对于输出的误差"))
    ax.set_xlim(1.7, 6.5)
    ax.set_ylim(1e-8, 20)
    ax.minorticks_off()
    ax.text(6.1, 6, t("points 0, ±1, ±2, ±3", "插值点 0、±1、±2、±3"), ha="right", va="center")
    note = t("dots: measured; lines: rounding × growth", "点：实测；线：舍入 × 放大倍数")
    ax.text(1.8, 2.2e-8, note, va="center")
    torch.set_num_threads(threads)
    return figure
