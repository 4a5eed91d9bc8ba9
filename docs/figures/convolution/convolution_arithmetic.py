"""Figures of the page on convolution and output size."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.convolution.convolution_arithmetic import im2col, output_size, same_padding


def figures(t):
    yield "conv_windows", windows(t)
    yield "conv_im2col", columns(t)
    yield "conv_grid", grid(t)


def cell(ax, x, y, color=None, alpha=0.0, dashed=False, number=None):
    face = (color, alpha) if color else "none"
    style = (0, (2, 2)) if dashed else "-"
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=INK, lw=0.7, ls=style))
    if number is not None:
        ax.text(x + 0.5, y + 0.46, str(number), ha="center", va="center", fontsize=9)


def cross(ax, x, y):
    for start, end in ((0.2, 0.8), (0.8, 0.2)):
        ax.plot([x + 0.2, x + 0.8], [y + start, y + end], color=INK, lw=1)


def row(ax, top, before, after, stride=1, dilation=1, ceil=False):
    """Eight cells from x = 0 and the windows of a kernel of three; returns their number."""
    n, kernel = 8, 3
    if ceil:
        count = output_size(n, kernel, stride, ceil_mode=True)
    else:
        count = output_size(n + before + after, kernel, stride, dilation=dilation)
    reads = [[-before + stride * i + dilation * u for u in range(kernel)] for i in range(count)]
    for x in range(-before, n + after):
        inside = 0 <= x < n
        cell(ax, x, top, BLUE if inside else None, 0.35, dashed=not inside)
        if not any(x in window for window in reads):
            cross(ax, x, top)
    levels = 2 if stride == 2 else 4 if dilation == 2 else 3
    for i, window in enumerate(reads):
        y = top - 0.35 - 0.42 * (i % levels)
        color = [ORANGE, GREEN, PURPLE, RED][i % levels]
        ax.plot([window[0] + 0.5, window[-1] + 0.5], [y, y], color=color, lw=1.3)
        for x in window:
            hollow = x >= n + after
            ax.plot(
                [x + 0.5], [y], marker="o", ms=4.5, color=color, mfc="none" if hollow else color
            )
    return count


def windows(t):
    before, after = same_padding(8, 3, 2)
    cases = [
        (t("stride 1, padding 1", "步幅 1，填充 1"), dict(before=1, after=1)),
        (t("stride 2, padding 1", "步幅 2，填充 1"), dict(before=1, after=1, stride=2)),
        (t("stride 2, SAME", "步幅 2，SAME"), dict(before=before, after=after, stride=2)),
        (t("dilation 2, no padding", "膨胀 2，无填充"), dict(before=0, after=0, dilation=2)),
        (
            t("pooling, stride 2,\nceil_mode=True", "池化，步幅 2，\nceil_mode=True"),
            dict(before=0, after=0, stride=2, ceil=True),
        ),
    ]
    figure, (ax,) = new(5, 4.6)
    ax.set_axis_off()
    top = 0.0
    for name, settings in cases:
        count = row(ax, top, **settings)
        ax.text(-1.5, top + 0.45, name, ha="right", va="center")
        ax.text(9.6, top + 0.45, f"n′ = {count}", ha="left", va="center")
        top -= 2.3 if "stride" in settings else 3.15 if "dilation" in settings else 2.75
    ax.set_xlim(-7.6, 11.8)
    ax.set_ylim(top + 1.3, 1.1)
    ax.set_aspect("equal")
    return figure


def grid(t):
    """Kernel 3, stride 2, padding 1 on 6 × 6; output (0, 1) and the window that it reads."""
    n, kernel, stride, padding = 6, 3, 2, 1
    row, column = 0, 1
    padded = n + 2 * padding
    count = output_size(n, kernel, stride, padding)
    numbers = torch.arange(padded**2, dtype=torch.float64).reshape(1, 1, padded, padded)
    read = im2col(numbers, kernel, stride)[0].int()  # 9 rows, one column for each output
    window = read[:, row * count + column].tolist()
    figure, (ax,) = new(5, 2.9)
    ax.set_axis_off()

    def frame(x, y, size):
        ax.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=ORANGE, lw=2.5, zorder=3))

    for number in range(padded**2):
        y, x = number // padded, number % padded
        inside = all(padding <= at < n + padding for at in (x, y))
        cell(ax, x, y, BLUE if inside else None, 0.3, dashed=not inside)
        if number in window:
            cell(ax, x, y, ORANGE, 0.55)
        if number not in read:
            cross(ax, x, y)
    frame(window[0] % padded, window[0] // padded, kernel)
    left, top = padded + 2.5, (padded - count) / 2
    for i in range(count):
        for j in range(count):
            cell(ax, left + j, top + i, BLUE, 0.3)
    cell(ax, left + column, top + row, ORANGE, 0.55)
    frame(left + column, top + row, 1)
    center = dict(ha="center", va="center")
    text = t("input 6 × 6, padded 8 × 8", "输入 6 × 6，填充后 8 × 8")
    ax.text(padded / 2, -0.7, text, **center)
    ax.text(left + count / 2, top - 0.7, t("output 3 × 3", "输出 3 × 3"), **center)
    ax.set_xlim(-0.2, left + count + 1.2)
    ax.set_ylim(padded + 0.2, -1.2)
    ax.set_aspect("equal")
    return figure


def columns(t):
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    matrix = im2col(x, 3)[0].int().tolist()  # 9 rows, 4 columns
    figure, (ax,) = new(5.2, 3.7)
    ax.set_axis_off()

    def frame(x, y, w, h):
        ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=ORANGE, lw=2.5, zorder=3))

    def label(x, y, text, **kwargs):
        ax.text(x, y, text, va="center", ha=kwargs.pop("ha", "center"), **kwargs)

    def shade(number):
        return (GREEN, 0.55) if number == 5 else (BLUE, 0.3)

    left, bottom = 11.2, 3.4  # lower left corner of the columns
    for i in range(4):
        for j in range(4):
            number = 4 * i + j
            cell(ax, 1 + j, bottom + 8 - i - 1, *shade(number), number=number)
    frame(1, bottom + 5, 3, 3)
    label(3, bottom + 8.7, t("input, 4 × 4", "输入，4 × 4"))
    for i, numbers in enumerate(matrix):
        for j, number in enumerate(numbers):
            cell(ax, left + j, bottom + 9 - i - 1, *shade(number), number=number)
    frame(left, bottom, 1, 9)
    label(left + 2, bottom + 9.7, t("columns, 9 × 4", "列矩阵，9 × 4"))
    for i in range(2):
        for j in range(9):
            cell(ax, 1 + j, 0.6 + 1 - i, PURPLE, 0.3 if i == 0 else 0.5)
    label(5.5, -0.1, t("2 kernels, 2 × 9", "2 个核，2 × 9"))
    label(10.6, 1.6, "@", fontsize=12)
    for i in range(2):
        for j in range(4):
            cell(ax, left + j, 0.6 + 1 - i, PURPLE, 0.3 if i == 0 else 0.5)
    frame(left, 0.6, 1, 2)
    label(left + 2, -0.1, t("product, 2 × 4", "乘积，2 × 4"))
    for k in range(2):
        for i in range(2):
            for j in range(2):
                cell(ax, 18.2 + 2.6 * k + j, 0.6 + 1 - i, PURPLE, 0.3 if k == 0 else 0.5)
        frame(18.2 + 2.6 * k, 1.6, 1, 1)
    label(20.5, -0.1, t("output, 2 × 2 × 2", "输出，2 × 2 × 2"))
    arrow = dict(arrowstyle="-|>", color=INK, lw=1.2, shrinkA=0, shrinkB=0)
    ax.annotate("", (17.8, 1.6), (left + 4.4, 1.6), arrowprops=arrow)
    ax.annotate("", (left - 0.4, bottom + 6.5), (5.4, bottom + 6.5), arrowprops=arrow)
    label(8.1, bottom + 7.2, "im2col")
    ax.set_xlim(0.4, 23.6)
    ax.set_ylim(-0.7, bottom + 10.3)
    ax.set_aspect("equal")
    return figure
