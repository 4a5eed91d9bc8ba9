"""The matrix that is never stored, and the gradient of a strided convolution by phases."""

from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.kernels.implicit_gemm_convolution import _box, _phases, _windows

MIDDLE = dict(ha="center", va="center", fontsize=9)


def figures(t):
    yield "gemm_gather", gather(t)
    yield "gemm_phases", phases(t)


def cell(ax, x, y, color=None, alpha=0.0, dashed=False, width=0.6):
    face = (color, alpha) if color else "none"
    style = (0, (2, 2)) if dashed else "-"
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=INK, lw=width, ls=style))


def gather(t):
    """A 3x3 window over a map of 6 x 8; one tile is a box of 2 x 4 pixels."""
    H, W, taps = 6, 8, ((0, ORANGE), (4, PURPLE), (8, GREEN))
    ay, ax_ = _windows(H, 3, 1, 1, 1), _windows(W, 3, 1, 1, 1)
    _, rows, columns = _box(1, 2, 4, 8)
    figure, (left, right) = new(6, 2.9, 2)
    for y in range(-1, H + 1):
        for x in range(-1, W + 1):
            inside = 0 <= y < H and 0 <= x < W
            cell(left, x, y, BLUE if inside else None, 0.14, dashed=not inside)
    first = 4  # column of the first pixel of the box, in the topmost row
    for tap, color in taps:
        y = ay.begin + tap // 3 * ay.step
        x = first + ax_.begin + tap % 3 * ax_.step
        left.add_patch(
            Rectangle(
                (x + 0.05, y + 0.05), columns - 0.1, rows - 0.1, facecolor=(color, 0.3),
                edgecolor=color, lw=2,
            )
        )  # fmt: skip
    text = t("image and padding: the box, moved by tap", "图像与填充：方块随抽头移动")
    left.text(W / 2, -1.75, text, **MIDDLE)
    left.set_xlim(-1.1, W + 1.1)
    left.set_ylim(H + 1.1, -2.3)

    pixels = rows * columns
    colors = dict(taps)
    for row in range(pixels):
        for tap in range(9):
            cell(right, tap, row, colors.get(tap, BLUE), 0.35 if tap in colors else 0.1)
    for tap, color in taps:
        label = f"{tap // 3}, {tap % 3}"
        right.text(tap + 0.5, pixels + 0.6, label, color=color, **MIDDLE)
    for tap, color in taps:
        right.add_patch(Rectangle((tap, 0), 1, pixels, fill=False, edgecolor=color, lw=2))
    right.text(
        4.5, -0.7, t("this tile of the matrix, never stored", "矩阵的这一块，从不存下"), **MIDDLE
    )
    right.text(
        4.5, pixels + 1.5, t("taps (r, s), C channels each", "抽头 (r, s)，各含 C 个通道"), **MIDDLE
    )
    right.text(-0.6, pixels / 2, t("8 pixels of the box", "方块的 8 个像素"), rotation=90, **MIDDLE)
    right.set_xlim(-1.1, 9.1)
    right.set_ylim(pixels + 2, -1.25)
    for ax in (left, right):
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure


def phases(t):
    """Stride 2, window 3, padding 1 on 7 x 7: how many taps have read each cell."""
    size = 7
    axis = _windows(size, 3, 2, 1, 1)
    found = _phases(axis)
    colors = {(0, 0): BLUE, (0, 1): ORANGE, (1, 0): GREEN, (1, 1): PURPLE}
    figure, (left, right) = new(6, 2.7, 2)
    for a, py in enumerate(found):
        for b, px in enumerate(found):
            for i in range(py.count):
                for j in range(px.count):
                    y, x = py.first + i * py.every, px.first + j * px.every
                    cell(left, x, y, colors[a, b], 0.35)
                    left.text(x + 0.5, y + 0.5, str(py.taps * px.taps), **MIDDLE)
    left.text(
        size / 2, -0.7, t("products for each cell of the input", "输入每一格的乘积个数"), **MIDDLE
    )
    left.set_xlim(-0.2, size + 0.2)
    left.set_ylim(size + 0.2, -1.3)
    for a, py in enumerate(found):
        for b, px in enumerate(found):
            x0, y0 = b * 4.2, a * 4.2
            used = {
                (py.tap + i * py.each, px.tap + j * px.each)
                for i in range(py.taps)
                for j in range(px.taps)
            }
            for r in range(3):
                for s in range(3):
                    color = colors[a, b] if (r, s) in used else None
                    cell(right, x0 + s, y0 + r, color, 0.5)
    right.text(
        3.6,
        -0.85,
        t("the taps of the 3×3 window they have met", "它们遇到的 3×3 窗口抽头"),
        **MIDDLE,
    )
    right.set_xlim(-1.2, 8.4)
    right.set_ylim(7.5, -1.5)
    for ax in (left, right):
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure
