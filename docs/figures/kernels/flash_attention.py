"""The tiles a program visits, and what warp specialisation does to the timeline."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, new

MATRIX, EXPONENTIALS = 788.0, 4.2  # TFLOP/s, and 10^12 a second


def figures(t):
    yield "flash_tiles", tiles(t)
    yield "flash_timeline", timeline(t)


def tiles(t):
    cases = [
        (t("causal, 6 × 8 tiles", "因果，6 × 8 块"), 6, 8, None, 0),
        (t("window, 8 × 8 tiles", "窗口，8 × 8 块"), 8, 8, 11, 0),
    ]
    figure, axes = new(6, 3.1, 2)
    for ax, (title, rows, columns, left, right) in zip(axes, cases, strict=True):
        N, M, size = 4 * rows, 4 * columns, 4
        i, j = torch.arange(N)[:, None] + M - N, torch.arange(M)
        seen = j <= i + right
        if left is not None:
            seen &= j >= i - left
        for row in range(rows):
            for column in range(columns):
                part = seen[size * row : size * (row + 1), size * column : size * (column + 1)]
                whole, some = bool(part.all()), bool(part.any())
                color = BLUE if whole else ORANGE if some else INK
                ax.add_patch(
                    Rectangle(
                        (column + 0.06, row + 0.06),
                        0.88,
                        0.88,
                        facecolor=(color, 0.35 if some else 0.0),
                        edgecolor=(color, 1.0 if some else 0.25),
                        lw=0.8,
                    )
                )
            order = rows - row
            ax.text(-0.35, row + 0.5, str(order), ha="center", va="center", fontsize=9)
        for shift in [right + 1] if left is None else [right + 1, -left]:
            # The first key beyond (or the first inside) the edge, by query; in tiles.
            y = [q / size for q in range(N + 1) if 0 <= q + M - N + shift <= M]
            x = [q + (M - N + shift) / size for q in y]
            ax.plot(x, y, color=INK, lw=1.4)
        ax.set_title(title)
        ax.set_xlim(-0.8, columns + 0.1)
        ax.set_ylim(rows + 0.1, -0.1)
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.text(columns / 2, rows + 0.55, t("keys →", "键 →"), ha="center", va="center", fontsize=9)
    return figure


def timeline(t):
    """Four tiles of keys at D = 128, in picoseconds per score."""
    D, steps = 128, 4
    product, exponential = 2 * D / MATRIX, 1 / EXPONENTIALS  # of two products, one
    figure, axes = new(6, 3.0, 1)
    ax = axes[0]

    def bar(y, start, length, color):
        ax.add_patch(
            Rectangle((start, y), length, 0.72, facecolor=(color, 0.4), edgecolor=color, lw=0.9)
        )

    # In turn: both halves of the tile at once, at full rate.
    now = 0.0
    for _ in range(steps):
        for length, color in ((product, BLUE), (exponential, ORANGE), (product, BLUE)):
            bar(4.2, now, length, color)
            now += length
    together = now

    # Specialised: each consumer has half the scores; both units serve one consumer at a time.
    length = {"S": product / 2, "E": exponential / 2, "P": product / 2}
    todo = [["S", "E", "P"] * steps for _ in range(2)]
    ready, free = [0.0, 0.0], {BLUE: 0.0, ORANGE: 0.0}
    while any(todo):
        earliest = []
        for consumer in range(2):
            if todo[consumer]:
                unit = ORANGE if todo[consumer][0] == "E" else BLUE
                earliest.append((max(ready[consumer], free[unit]), ready[consumer], consumer, unit))
        start, _, consumer, unit = min(earliest)
        kind = todo[consumer].pop(0)
        bar(1.2 - consumer, start, length[kind], unit)
        if kind == "S" and consumer == 0:  # the tile of keys was loaded before
            bar(2.2, start - 0.3, 0.26, GREEN)
        ready[consumer] = free[unit] = start + length[kind]
    specialised = max(ready)
    assert specialised < together
    for x, y0, y1 in ((together, 4.2, 4.92), (specialised, 0.2, 2.92)):
        ax.plot([x, x], [y0 - 0.12, y1 + 0.12], color=INK, lw=1.2)
    names = [
        (4.56, t("all warps", "全部线程束")),
        (2.56, t("producer", "生产者")),
        (1.56, t("consumer 1", "消费者 1")),
        (0.56, t("consumer 2", "消费者 2")),
    ]
    for y, name in names:
        ax.text(-0.4, y, name, ha="right", va="center", fontsize=9)
    legend = [
        (0.0, BLUE, t("matrix products", "矩阵乘积")),
        (1.35, ORANGE, t("exponentials", "指数")),
        (2.5, GREEN, t("loads", "载入")),
    ]
    for x, color, text in legend:
        ax.add_patch(
            Rectangle((x, 5.62), 0.12, 0.45, facecolor=(color, 0.4), edgecolor=color, lw=0.9)
        )
        ax.text(x + 0.18, 5.84, text, va="center", fontsize=9)
    ax.text(together, -0.3, t("time →", "时间 →"), ha="right", va="center", fontsize=9)
    ax.set_xlim(-1.15, together + 0.05)
    ax.set_ylim(-0.6, 6.2)
    ax.set_axis_off()
    return figure
