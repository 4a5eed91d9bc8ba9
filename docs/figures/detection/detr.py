"""DETR as a diagram, a matching with its costs, and the points of deformable attention."""

import torch
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.detection.deformable_attention import DeformableAttention
from snippets.detection.detr import hungarian, matching_cost
from snippets.detection.iou import box_xyxy_to_cxcywh


def figures(t):
    yield "detr_architecture", architecture(t)
    yield "detr_matching", matching(t)
    yield "deformable_points", points(t)


def box(ax, x, y, w, h, text, color):
    style = "round,pad=0,rounding_size=1.5"
    ax.add_patch(FancyBboxPatch((x, y), w, h, style, facecolor=(color, 0.15), edgecolor=color))
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", linespacing=1.25)


def arrow(ax, start, end, color=INK, **style):
    style = dict(arrowstyle="-|>", color=color, lw=1.1, shrinkA=0, shrinkB=0) | style
    ax.annotate("", end, start, arrowprops=style)


def architecture(t):
    figure, (ax,) = new(6, 2.85)
    ax.set_axis_off()
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 47)
    ax.add_patch(Rectangle((1, 30), 11, 11, facecolor="none", edgecolor=INK))
    for at, size in (((2.5, 32), (4, 5)), ((7, 34), (3.5, 6))):
        ax.add_patch(Rectangle(at, *size, facecolor=(GREEN, 0.2), edgecolor=GREEN, lw=1.4))
    ax.text(6.5, 42.5, t("image", "图像"), ha="center")
    box(ax, 17, 29, 16, 13, t("backbone", "骨干网络"), INK)
    for i in range(3):
        x, y = 38 + 1.1 * i, 32 - 1.1 * i
        ax.add_patch(Rectangle((x, y), 8, 8, facecolor=(INK, 0.08), edgecolor=INK, lw=1))
    ax.text(43, 42.5, "C × h × w", ha="center")
    box(ax, 54, 29, 17, 13, t("encoder", "编码器"), PURPLE)
    box(ax, 54, 6, 17, 13, t("decoder", "解码器"), PURPLE)
    arrow(ax, (12, 35.5), (17, 35.5))
    arrow(ax, (33, 35.5), (38, 35.5))
    arrow(ax, (48.2, 35.5), (54, 35.5))
    arrow(ax, (62.5, 29), (62.5, 19))
    ax.text(64, 25.4, t("h·w tokens", "h·w 个词元"), va="center")
    ax.text(35, 24, t("sines of row and column", "行与列的正弦编码"), ha="center", va="center")
    for y in (31, 17):
        arrow(ax, (50.5, 24), (54, y), linestyle=(0, (2, 2)))
    for i in range(5):
        size = dict(facecolor=(BLUE, 0.3), edgecolor=BLUE, lw=1)
        ax.add_patch(Rectangle((29 + 3.2 * i, 10), 2.2, 5, **size))
    ax.text(36.5, 17, t("N object queries", "N 个目标查询"), ha="center", color=BLUE)
    arrow(ax, (46, 12.5), (54, 12.5), BLUE)
    arrow(ax, (71, 12.5), (76, 12.5))
    for i in range(5):
        y = 21 - 4.6 * i
        empty = i in (1, 3, 4)
        style = dict(linestyle=(0, (3, 2))) if empty else {}
        color = RED if empty else ORANGE
        patch = Rectangle((76, y - 1.7), 15, 3.6, facecolor=(color, 0.12), edgecolor=color, **style)
        ax.add_patch(patch)
        text = "∅" if empty else t("class, box", "类别、框")
        ax.text(83.5, y, text, ha="center", va="center", color=color, fontsize=9)
    ax.text(86, 34, t("matched,\nin training", "训练时\n一一匹配"), ha="center", color=GREEN)
    for y, high in ((21, 28), (11.8, 22.5)):
        ax.add_patch(
            Rectangle((94.5, high - 1.2), 3.2, 3.2, facecolor=(GREEN, 0.2), edgecolor=GREEN)
        )
        arrow(ax, (94.5, high), (91, y), GREEN, arrowstyle="<|-|>")
    return figure


SIZE = torch.tensor([100.0, 80.0, 100.0, 80.0])
TRUTH = torch.tensor([[8.0, 8, 40, 48], [52, 8, 92, 34], [56, 48, 82, 74]])
FOUND = torch.tensor(
    [
        [11.0, 12, 44, 52],
        [3, 3, 37, 41],
        [49, 13, 88, 40],
        [59, 42, 88, 70],
        [16, 58, 40, 74],
    ]
)
PROBS = torch.tensor(
    [[0.8, 0.1, 0.1], [0.7, 0.1, 0.2], [0.2, 0.6, 0.2], [0.5, 0.2, 0.3], [0.1, 0.2, 0.7]]
)


def matching(t):
    cost = matching_cost(
        PROBS.log(),
        box_xyxy_to_cxcywh(FOUND / SIZE),
        torch.tensor([0, 1, 0]),
        box_xyxy_to_cxcywh(TRUTH / SIZE),
    )
    pairs = dict(zip(*(x.tolist() for x in hungarian(cost)), strict=True))
    figure, (left, right) = new(6, 2.9, 2)
    left.set_axis_off()
    left.set_aspect("equal")
    left.set_xlim(-2, 102)
    left.set_ylim(82, -2)
    left.add_patch(Rectangle((0, 0), 100, 80, facecolor="none", edgecolor=INK, lw=1.2))
    for (x1, y1, x2, y2), name in zip(TRUTH.tolist(), "ABC", strict=True):
        style = dict(facecolor=(GREEN, 0.18), edgecolor=GREEN, lw=2)
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
        left.text((x1 + x2) / 2, (y1 + y2) / 2, name, color=GREEN, ha="center", va="center")
    for i, (x1, y1, x2, y2) in enumerate(FOUND.tolist()):
        color, style = (ORANGE, "-") if i in pairs else (RED, (0, (3, 2)))
        size = x2 - x1, y2 - y1
        patch = Rectangle((x1, y1), *size, facecolor="none", edgecolor=color, lw=1.5, ls=style)
        left.add_patch(patch)
        left.text(x1 + 1.5, y2 - 1.5, i, color=color, ha="left", va="bottom")

    right.set_axis_off()
    right.set_aspect("equal")
    right.set_xlim(-6, 106)
    right.set_ylim(84, -10)
    heights = [4 + 18 * i for i in range(5)]
    places = dict(zip((0, 1, 2), (8, 36, 60), strict=True))
    for i, y in enumerate(heights):
        for g, at in places.items():
            chosen = pairs.get(i) == g
            style = dict(lw=2, color=GREEN) if chosen else dict(lw=0.6, color=INK, alpha=0.35)
            right.plot([4, 76], [y, at], **style, solid_capstyle="butt")
            if chosen:
                value = f"{float(cost[i, g]):.2f}".replace("-", "−")
                share = 0.7 if g == 1 else 0.3
                label = dict(ha="center", va="bottom", color=GREEN)
                right.text(4 + 72 * share, y + (at - y) * share - 2, value, **label)
        if i not in pairs:
            right.plot([4, 76], [y, 78], color=RED, lw=1.2, ls=(0, (3, 2)))
        color = ORANGE if i in pairs else RED
        right.add_patch(Circle((0, y), 4.2, facecolor=(color, 0.15), edgecolor=color))
        right.text(0, y, i, ha="center", va="center", color=color)
    for g, at in places.items():
        right.add_patch(Rectangle((76, at - 4.5), 9, 9, facecolor=(GREEN, 0.18), edgecolor=GREEN))
        right.text(80.5, at, "ABC"[g], ha="center", va="center", color=GREEN)
    right.text(77, 78, t("∅ no object", "∅ 无目标"), va="center", color=RED)
    total = float(sum(cost[i, g] for i, g in pairs.items()))
    text = t(f"sum {total:.2f}", f"总和 {total:.2f}").replace("-", "−")
    right.text(88, 36, text, color=GREEN, va="center", rotation=90, ha="left")
    return figure


def points(t):
    sizes = [(36, 36), (18, 18), (9, 9)]
    attention = DeformableAttention(8, heads=8, levels=3, points=4)
    reference = torch.tensor([[[0.47, 0.53]]])
    with torch.no_grad():
        locations, _ = attention.where(torch.zeros(1, 1, 8), reference, sizes)
    figure, axes = new(6, 2.45, 3)
    for level, (ax, (h, w)) in enumerate(zip(axes, sizes, strict=True)):
        ax.set_axis_off()
        ax.set_aspect("equal")
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(1.02, -0.02)
        ax.add_patch(Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=INK, lw=1.2))
        at = [i / h for i in range(1, h)]
        ends, lines = [0, 1, float("nan")] * len(at), [x for x in at for _ in range(3)]
        ax.plot(ends + lines, lines + ends, color=INK, lw=0.5, alpha=0.35)
        style = dict(facecolor=(GREEN, 0.12), edgecolor=GREEN, lw=1.8)
        ax.add_patch(Rectangle((0.28, 0.3), 0.4, 0.46, **style))
        x, y = locations[0, 0, :, level].flatten(0, 1).T
        ax.plot(x, y, ls="", marker="o", ms=3.6, mew=0, color=PURPLE, zorder=3)
        ax.plot(*reference[0, 0], marker="x", ms=7, mew=2, color=INK, zorder=4)
        ax.set_title(f"{h} × {w}")
    return figure
