"""Circles and tiles; operations and floors against the kernel; the error, measured."""

import math

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.convolution.convolution_arithmetic import conv2d_direct
from snippets.kernels.fft_convolution import fast_size, fft_conv2d, fft_cost


def figures(t):
    yield "fft_circle", circle(t)
    yield "fft_cost", cost(t)
    yield "fft_error", error(t)


def cells(ax, x, y, count, color=None, alpha=0.25, **style):
    for i in range(count):
        face = (color, alpha) if color else "none"
        ax.add_patch(Rectangle((x + i, y), 1, 1, fc=face, **(dict(ec=INK, lw=0.6) | style)))


def window(ax, x, y, size, color):
    ax.plot([x + 0.1, x + size - 0.1], [y, y], color=color, lw=3, solid_capstyle="butt")


def circle(t):
    """One axis: twelve cells, a kernel of five, padding of two; then the same in tiles."""
    n, k, p, m = 12, 5, 2, 4
    size = fast_size(n + p)
    figure, (ax,) = new(6, 3.9)
    ax.set_axis_off()
    ax.text(0, -0.5, t("one transform: a circle of 15", "一次变换：长 15 的圆"), va="bottom")
    cells(ax, 0, 0, n, BLUE)
    cells(ax, n, 0, size - n, ls=(0, (2, 2)))
    for i in range(n, size):
        ax.text(i + 0.5, 0.53, "0", ha="center", va="center")
    for y, start, color in ((1.5, -p, ORANGE), (2.1, 3, GREEN), (2.7, n + p - k, PURPLE)):
        if start < 0:  # it comes in at the other end
            window(ax, 0, y, k + start, color)
            window(ax, size + start, y, -start, color)
        else:
            window(ax, start, y, k, color)
    ax.text(size + 0.4, 1.5, t("first window", "第一个窗口"), color=ORANGE, va="center")
    ax.text(size + 0.4, 2.7, t("last window", "最后一个窗口"), color=PURPLE, va="center")
    top = 5.2
    ax.text(0, top - 0.5, t("tiles: circles of 8, overlapping by 4", "分块：长 8 的圆，重叠 4"))
    cells(ax, 0, top, p, ls=(0, (2, 2)))
    cells(ax, p, top, n, BLUE)
    cells(ax, p + n, top, p, ls=(0, (2, 2)))
    for i in (*range(p), *range(p + n, 2 * p + n)):
        ax.text(i + 0.5, top + 0.53, "0", ha="center", va="center")
    for index, color in enumerate((ORANGE, GREEN, PURPLE)):
        y = top + 1.5 + 1.35 * index
        cells(ax, m * index, y, m, color, 0.35)
        cells(ax, m * index + m, y, k - 1, ec=color)
        for i in range(m, m + k - 1):
            x = m * index + i
            ax.plot([x + 0.3, x + 0.7], [y + 0.3, y + 0.7], color=color, lw=1)
            ax.plot([x + 0.3, x + 0.7], [y + 0.7, y + 0.3], color=color, lw=1)
    ax.text(9.2, top + 2.05, t("4 outputs kept, 4 wrapped", "留 4 个输出，4 个已回绕"), va="center")
    ax.set_xlim(-0.2, 20.4)
    ax.set_ylim(10.9, -1.6)
    return figure


def crossing(sizes, direct, other):
    return next(k for k, a, b in zip(sizes, direct, other, strict=True) if b < a)


def cost(t):
    figure, (left, right) = new(6, 3.5, 2)
    sizes = range(1, 32, 2)
    direct = [2 * k * k for k in sizes]
    left.plot(sizes, direct, color=INK, lw=1.6)
    for (batch, c, h), color in (((32, 64, 56), BLUE), ((1, 1, 512), RED)):
        for tile, style in ((None, "-"), (32, "--")):
            counts = [fft_cost((batch, c, h, h), (c, c, k, k), k // 2, tile) for k in sizes]
            per = [2 * k * k * x.flops / x.direct for k, x in zip(sizes, counts, strict=True)]
            left.plot(sizes, per, color=color, ls=style, lw=1.4)
            if tile is None or c == 1:
                k = crossing(sizes, direct, per)
                left.plot([k], [per[sizes.index(k)]], color=color, marker="o", ms=5)
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks([1, 3, 5, 9, 15, 31], ["1", "3", "5", "9", "15", "31"])
    left.set_xlabel(t("kernel, K × K", "核，K × K"))
    left.set_title(t("FLOP per output and pair", "每个输出、每对通道的 FLOP"))
    left.text(1.05, 420, t("1 channel, 512 × 512", "单通道，512 × 512"), color=RED)
    label = t("32 images, 64\nchannels, 56 × 56", "32 幅，64 通道，\n56 × 56")
    left.text(3.4, 1.8, label, color=BLUE)
    left.text(20, 1250, t("definition", "按定义"), ha="right")
    left.set_ylim(1.5, 3000)

    copy, speeds = 4.3e12, ((67e12, 4, ORANGE), (788e12, 2, GREEN))
    counts = [fft_cost((32, 64, 56, 56), (64, 64, k, k), k // 2) for k in sizes]
    fft = [max(x.flops / 67e12, 4 * (x.numbers + 2 * x.spectra) / copy) for x in counts]
    right.plot(sizes, [1e6 * value for value in fft], color=BLUE)
    for rate, size, color in speeds:
        floors = [max(x.direct / rate, size * x.numbers / copy) for x in counts]
        right.plot(sizes, [1e6 * value for value in floors], color=color)
        k = crossing(sizes, floors, fft)
        right.plot([k], [1e6 * fft[sizes.index(k)]], color=BLUE, marker="o", ms=5)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set_xticks([1, 3, 5, 9, 15, 31], ["1", "3", "5", "9", "15", "31"])
    right.set_xlabel(t("kernel, K × K", "核，K × K"))
    right.set_title(t("µs at least, on an H200", "H200 上至少要多少 µs"))
    right.text(5.2, 700, t("direct,\nfloat32", "直接，\nfloat32"), color=ORANGE, ha="right")
    right.text(13, 17, t("direct,\nbfloat16", "直接，\nbfloat16"), color=GREEN)
    right.text(1, 82, "FFT", color=BLUE)
    right.set_ylim(4, 20000)
    for ax in (left, right):
        ax.minorticks_off()
    return figure


def tenth(value):
    """Round to a tenth of a decade: other processors differ in the second digit."""
    return 10 ** (round(10 * math.log10(value)) / 10)


def error(t):
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figure, (left, right) = new(6, 3.3, 2)
    x = torch.randn(1, 8, 96, 96, generator=generator)
    sizes, found = (3, 5, 9, 15, 27, 45), []
    for k in sizes:
        weight = torch.randn(2, 8, k, k, generator=generator)
        exact = fft_conv2d(x.double(), weight.double(), k // 2)
        ways = fft_conv2d(x, weight, k // 2), conv2d_direct(x, weight, padding=k // 2)
        found.append([tenth(((y.double() - exact).norm() / exact.norm()).item()) for y in ways])
    for index, color in enumerate((BLUE, ORANGE)):
        left.plot(sizes, [row[index] for row in found], color=color, marker="o", ms=4)
    left.set_xscale("log", base=3)
    left.set_xticks(sizes, [str(k) for k in sizes])
    left.set_xlabel(t("kernel, K × K", "核，K × K"))
    left.set_title(t("error of all outputs", "全部输出的误差"))
    left.text(40, 1.3e-6, t("tap by tap", "逐个抽头相加"), color=ORANGE, ha="right")
    left.text(45, 1.3e-7, "FFT", color=BLUE, ha="right")

    x, weight = x[:, :1], torch.randn(1, 1, 5, 5, generator=generator)
    far = (..., slice(48, None), slice(48, None))
    bright, found = [1, 10, 100, 1e3, 1e4, 1e5, 1e6], []
    for value in bright:
        lit = x.clone()
        lit[..., 8, 8] = value
        exact = conv2d_direct(lit.double(), weight.double())[far]
        ways = [fft_conv2d(lit, weight), fft_conv2d(lit, weight, 0, 28), conv2d_direct(lit, weight)]
        errors = [((y.double()[far] - exact).norm() / exact.norm()).item() for y in ways]
        found.append([tenth(e) for e in errors])
    for index, (color, style) in enumerate(((BLUE, "-"), (BLUE, "--"), (ORANGE, "-"))):
        right.plot(bright, [row[index] for row in found], color=color, ls=style, marker="o", ms=4)
    right.set_xscale("log")
    right.set_xticks([1, 100, 1e4, 1e6], ["1", "10²", "10⁴", "10⁶"])
    right.set_xlabel(t("one bright pixel", "一个亮像素的值"))
    right.set_title(t("error far from it", "远处的误差"))
    right.text(2e4, 2e-4, t("one transform", "一次变换"), color=BLUE, ha="right")
    right.text(1e6, 3.4e-7, t("tiles", "分块"), color=BLUE, ha="right")
    right.text(1e6, 4e-8, t("direct", "直接"), color=ORANGE, ha="right")
    for ax in (left, right):
        ax.set_yscale("log")
        ax.set_ylim(2e-8, 3e-3)
        ax.minorticks_off()
    torch.set_num_threads(threads)
    return figure
