"""The head on a feature map, the labels of anchors, and the way from anchors to proposals."""

import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.detection.anchors import anchor_shapes, grid_anchors
from snippets.detection.box_regression import BoxCodec
from snippets.detection.iou import box_iou
from snippets.detection.region_proposal_network import assign, propose, sample

STRIDE, ROWS, COLUMNS = 22, 6, 8
HEIGHT, WIDTH = ROWS * STRIDE, COLUMNS * STRIDE
TRUTH = torch.tensor([[22.0, 30.0, 66.0, 98.0], [94.0, 58.0, 154.0, 92.0]])


def figures(t):
    yield "rpn_head", head(t)
    yield "rpn_labels", labels(t)
    yield "rpn_proposals", proposals(t)


def outline(ax, box, color, **style):
    x1, y1, x2, y2 = box.tolist()
    style = dict(facecolor="none", edgecolor=color, lw=1.3) | style
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))


def canvas(ax, top=4, bottom=4):
    """The image's frame, with y downwards."""
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(-4, WIDTH + 4)
    ax.set_ylim(HEIGHT + bottom, -top)
    ax.add_patch(Rectangle((0, 0), WIDTH, HEIGHT, facecolor="none", edgecolor=INK, lw=1.4))


def head(t):
    figure, (ax,) = new(6, 2.9)
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(0, 12.4)
    ax.set_ylim(-0.1, 5.5)

    def stack(x, y, side, color, sheets, step=0.16):
        for i in reversed(range(sheets)):
            corner = (x + step * i, y + step * i)
            ax.add_patch(Rectangle(corner, side, side, facecolor="none", edgecolor=color, lw=1.1))
        ax.add_patch(Rectangle((x, y), side, side, facecolor=(color, 0.15), edgecolor="none"))

    def layer(x, y, width, text, color):
        ax.add_patch(
            FancyBboxPatch(
                (x, y - 0.4),
                width,
                0.8,
                boxstyle="round,pad=0,rounding_size=0.15",
                facecolor=(color, 0.15),
                edgecolor=color,
                lw=1.2,
            )
        )
        ax.text(x + width / 2, y, text, ha="center", va="center")

    def arrow(start, end):
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=INK))

    stack(0.1, 1.6, 1.7, INK, 4)
    for i in range(1, 6):
        at = 1.7 / 6 * i
        ax.plot([0.1 + at] * 2, [1.6, 3.3], color=INK, lw=0.4, alpha=0.6)
        ax.plot([0.1, 1.8], [1.6 + at] * 2, color=INK, lw=0.4, alpha=0.6)
    cell = 1.7 / 6
    window = Rectangle((0.1 + 2 * cell, 1.6 + 2 * cell), 3 * cell, 3 * cell)
    window.set(facecolor=(PURPLE, 0.25), edgecolor=PURPLE, lw=1.4)
    ax.add_patch(window)
    ax.text(0.1, 1.4, t("feature map", "特征图"), va="top")
    ax.text(0.1, 0.85, "C × h × w", va="top")
    arrow((2.45, 2.6), (3.0, 2.6))
    layer(3.05, 2.6, 2.2, "3×3, ReLU", PURPLE)
    ax.text(4.15, 1.95, t("shared", "共享"), ha="center", va="top")
    arrow((5.3, 2.75), (6.0, 3.95))
    arrow((5.3, 2.45), (6.0, 1.25))
    layer(6.05, 4.0, 1.1, "1×1", ORANGE)
    layer(6.05, 1.2, 1.1, "1×1", ORANGE)
    arrow((7.2, 4.0), (7.75, 4.0))
    arrow((7.2, 1.2), (7.75, 1.2))
    stack(7.85, 3.4, 1.1, ORANGE, 3)
    stack(7.85, 0.5, 1.1, ORANGE, 6, 0.1)
    ax.text(9.6, 4.35, t("k objectness", "k 个物体性"), va="center")
    ax.text(9.6, 3.85, t("logits", "logit"), va="center")
    ax.text(9.6, 1.35, t("4k deltas", "4k 个偏移"), va="center")
    ax.text(9.6, 0.85, "dx, dy, dw, dh", va="center")
    return figure


def setting():
    """Three shapes on every cell, and what becomes of them."""
    anchors = grid_anchors((ROWS, COLUMNS), STRIDE, anchor_shapes((48,), (0.5, 1, 2)))
    matched = assign(anchors, TRUTH, 0.7, 0.3, (HEIGHT, WIDTH))
    return anchors, matched


def labels(t):
    anchors, matched = setting()
    generator = torch.Generator().manual_seed(1)
    positive, background = sample(matched, 16, 0.5, generator)
    figure, (left, right) = new(6, 2.8, 2)
    canvas(left, 4, 24)
    for box in TRUTH:
        outline(left, box, GREEN, facecolor=(GREEN, 0.18), lw=2)
    for i in positive:
        outline(left, anchors[i], BLUE, lw=1.6)
    left.set_title(t("positive anchors", "正样本锚框"))
    counts = [int((matched >= 0).sum()), int((matched == -1).sum()), int((matched == -2).sum())]
    text = t("{} positive, {} background, {} ignored", "正样本 {}，背景 {}，忽略 {}")
    left.text(0, HEIGHT + 5, text.format(*counts), va="top")

    canvas(right, 4, 24)
    for box in TRUTH:
        outline(right, box, GREEN, lw=1.2)
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    spread = torch.tensor([[-6.4, 0.0], [0.0, 0.0], [6.4, 0.0]]).repeat(ROWS * COLUMNS, 1)
    x, y = (middle + spread).T
    for which, color, marker in (
        (matched == -1, INK, "o"),
        (matched == -2, RED, "x"),
        (matched >= 0, BLUE, "o"),
    ):
        right.plot(x[which], y[which], ls="", marker=marker, ms=3, mew=0.9, color=color, alpha=0.75)
    chosen = torch.cat([positive, background])
    right.plot(x[chosen], y[chosen], ls="", marker="o", ms=7.5, mfc="none", mec=PURPLE, mew=1.4)
    right.set_title(t("one mark an anchor", "每个锚框一个记号"))
    right.text(0, HEIGHT + 5, t("○ sampled", "○ 被采样"), color=PURPLE, va="top")
    right.text(WIDTH * 0.45, HEIGHT + 5, t("× ignored", "× 忽略"), color=RED, va="top")
    return figure


def proposals(t):
    """A simulated head: logits grow with the overlap, deltas go most of the way; both noisy."""
    anchors, _ = setting()
    generator = torch.Generator().manual_seed(4)
    overlap, nearest = box_iou(TRUTH, anchors).max(0)
    logits = 9 * overlap - 4 + 0.6 * torch.randn(len(anchors), generator=generator)
    goals = BoxCodec().encode(TRUTH[nearest], anchors)
    deltas = 0.8 * goals + 0.08 * torch.randn(len(anchors), 4, generator=generator)
    deltas = deltas * (overlap > 0.1)[:, None]
    size, pre = (HEIGHT, WIDTH), 30
    best = logits.argsort(descending=True, stable=True)[:pre]
    decoded = propose(logits, deltas, anchors, [len(anchors)], size, pre, pre, 1.0)
    final = propose(logits, deltas, anchors, [len(anchors)], size, pre, 6, 0.7)
    figure, axes = new(6, 2, 3)
    for ax, boxes, color, title in (
        (axes[0], anchors[best], BLUE, t("30 best anchors", "得分最高的 30 个锚框")),
        (axes[1], decoded["boxes"], ORANGE, t("decoded, clipped", "解码并裁剪")),
        (axes[2], final["boxes"], ORANGE, t("after NMS, 6 best", "NMS 后取前 6 个")),
    ):
        canvas(ax, 6, 6)
        for box in TRUTH:
            outline(ax, box, GREEN, facecolor=(GREEN, 0.2), lw=0.5)
        for box in boxes:
            outline(ax, box, color, lw=1, alpha=0.85)
        ax.set_title(title)
    return figure
