"""Blocks of shifted windows and their mask; bytes of each version; lines that heads share."""

import torch
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.kernels.window_attention import _apart

WINDOW, SHIFT, SIZE = 4, 2, 8


def figures(t):
    yield "window_bytes", traffic(t)
    yield "window_shift", shift(t)
    yield "window_lines", lines(t)


def traffic(t):
    """Bytes per token in units of C, as counted on the page."""
    scores = 49 / 32  # a head and token has 49, of 32 numbers in C
    kinds = [
        (t("layout changes", "改变布局"), RED),
        (t("scores", "分数"), ORANGE),
        (t("scaled queries", "缩放查询"), PURPLE),
        (t("queries, keys, values, output", "查询、键、值、输出"), BLUE),
    ]
    versions = [
        (t("as Swin does it", "Swin 的写法"), [32, 2 * 8 * scores, 4, 8]),
        (t("SDPA, bias + mask", "SDPA，偏置 + 掩码"), [32, 0, 0, 8]),
        (t("fused", "融合"), [0, 0, 0, 8]),
    ]
    figure, (ax,) = new(6, 2.1)
    for row, (_, parts) in enumerate(versions):
        left = 0.0
        for (label, color), part in zip(kinds, parts, strict=True):
            face = (color, 0.55)
            ax.barh(row, part, left=left, color=face, label=None if row else label, height=0.6)
            left += part
        ax.text(left + 0.8, row, f"{left:g} C", va="center")
    ax.set_yticks(range(3), [name for name, _ in versions])
    ax.invert_yaxis()
    ax.set_xlim(0, 78)
    ax.set_xlabel(t("bytes per token, in units of C", "每个词元的字节数，以 C 为单位"))
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure


def squares(corners):
    """One path of unit squares."""
    vertices, codes = [], []
    for x, y in corners:
        vertices += [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y)]
        codes += [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
    return Path(vertices, codes)


def shift(t):
    blocks = [(y, x) for y in range(3) for x in range(3)]
    colors = [BLUE, RED, GREEN, GREEN, PURPLE, BLUE, ORANGE, GREEN, RED]

    def block(y, x):
        return (y - SHIFT) // WINDOW + 1, (x - SHIFT) // WINDOW + 1

    figure, axes = new(6, 2.4, 3)
    titles = [
        t("blocks of the grid", "网格的各块"),
        t("after the roll", "滚动之后"),
        t("last window", "最后一个窗口"),
    ]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
        ax.set_aspect("equal")
        ax.set_axis_off()
    for ax, roll in zip(axes, (0, SHIFT), strict=False):
        cells = {}
        for y in range(SIZE):
            for x in range(SIZE):
                of = block((y + roll) % SIZE, (x + roll) % SIZE)
                cells.setdefault(of, []).append((x, y))
        for number, of in enumerate(blocks):
            color = colors[number]
            ax.add_patch(PathPatch(squares(cells[of]), facecolor=(color, 0.3), lw=0))
            x = sum(x for x, _ in cells[of]) / len(cells[of]) + 0.5
            y = sum(y for _, y in cells[of]) / len(cells[of]) + 0.5
            ax.text(x, y, str(number + 1), ha="center", va="center")
        edges = [0, *range(SHIFT if not roll else WINDOW, SIZE, WINDOW), SIZE]
        for edge in edges:
            ax.plot([edge, edge], [0, SIZE], color=INK, lw=1.2)
            ax.plot([0, SIZE], [edge, edge], color=INK, lw=1.2)
        ax.set_xlim(-0.1, SIZE + 0.1)
        ax.set_ylim(SIZE + 0.1, -0.1)
    ax = axes[2]
    apart = _apart(SIZE, SIZE, WINDOW, SHIFT, torch.device("cpu"))[-1]  # (16, 16)
    last = [(SIZE - WINDOW + i // WINDOW, SIZE - WINDOW + i % WINDOW) for i in range(WINDOW**2)]
    of = [blocks.index(block((y + SHIFT) % SIZE, (x + SHIFT) % SIZE)) for y, x in last]
    for number in sorted(set(of)):
        pairs = [
            (k, q)
            for q in range(WINDOW**2)
            for k in range(WINDOW**2)
            if of[q] == number and not apart[q, k]
        ]
        ax.add_patch(PathPatch(squares(pairs), facecolor=(colors[number], 0.45), lw=0))
    ax.add_patch(Rectangle((0, 0), WINDOW**2, WINDOW**2, facecolor="none", edgecolor=INK, lw=1.2))
    ax.text(8, 17.4, t("16 keys", "16 个键"), ha="center", va="center", fontsize=9)
    at = dict(ha="center", va="center", fontsize=9, rotation=90)
    ax.text(-1.3, 8, t("16 queries", "16 个查询"), **at)
    ax.set_xlim(-2.2, 16.2)
    ax.set_ylim(18.2, -0.2)
    return figure


def lines(t):
    figure, (ax,) = new(6, 1.9)
    colors = [BLUE, ORANGE, GREEN]
    for token in range(2):
        for part, name in enumerate("qkv"):
            for head in range(3):
                at = 9 * token + 3 * part + head
                face = (colors[head], 0.4)
                ax.add_patch(Rectangle((at, 1.2), 1, 1, facecolor=face, edgecolor=INK, lw=0.6))
                ax.text(at + 0.5, 1.68, name, ha="center", va="center", fontsize=9)
        ax.plot([9 * token, 9 * token + 9], [2.5, 2.5], color=INK, lw=1, marker="|")
        label = t(f"token {token + 1}: 576 bytes", f"词元 {token + 1}：576 字节")
        ax.text(9 * token + 4.5, 2.85, label, ha="center", va="center", fontsize=9)
    for line in range(9):
        ax.add_patch(Rectangle((2 * line, 0.1), 2, 0.8, facecolor="none", edgecolor=INK, lw=1.2))
        ax.text(2 * line + 1, 0.48, "128", ha="center", va="center", fontsize=9)
    for head, color in enumerate(colors):
        label = t(f"head {head + 1}", f"头 {head + 1}")
        at = 3.5 + 5.5 * head
        ax.add_patch(
            Rectangle((at, -0.95), 0.7, 0.6, facecolor=(color, 0.4), edgecolor=INK, lw=0.6)
        )
        ax.text(at + 1, -0.66, label, va="center", fontsize=9)
    ax.set_xlim(-0.2, 18.2)
    ax.set_ylim(-1.2, 3.2)
    ax.set_axis_off()
    return figure
