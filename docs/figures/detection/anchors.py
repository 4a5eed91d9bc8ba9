"""Anchors on a feature map, their assignment by two thresholds, and shapes by k-means."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, PURPLE, RED, new
from snippets.detection.anchors import (
    anchor_shapes,
    average_iou,
    grid_anchors,
    kmeans_anchors,
    match,
)
from snippets.detection.iou import box_iou

STRIDE = 16


def figures(t):
    yield "anchors_grid", grid(t)
    yield "anchors_match", assignment(t)
    yield "anchors_kmeans", clusters(t)


def outline(ax, box, color, **style):
    x1, y1, x2, y2 = box.tolist()
    style = dict(facecolor="none", edgecolor=color, lw=1.3) | style
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))


def canvas(ax, width, height, margin):
    """The image's frame, with y downwards."""
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(-margin, width + margin)
    ax.set_ylim(height + margin, -margin)
    ax.add_patch(Rectangle((0, 0), width, height, facecolor="none", edgecolor=INK, lw=1.4))


def grid(t):
    rows, columns, cell = 6, 9, (2, 4)
    width, height = columns * STRIDE, rows * STRIDE
    shapes = anchor_shapes((24, 40, 64), (0.5, 1, 2))
    anchors = grid_anchors((rows, columns), STRIDE, shapes).reshape(rows, columns, -1, 4)
    figure, (left, right) = new(6, 2.9, 2)
    canvas(left, width, height, 4)
    for i in range(1, rows):
        left.plot([0, width], [STRIDE * i] * 2, color=INK, lw=0.5, alpha=0.5)
    for j in range(1, columns):
        left.plot([STRIDE * j] * 2, [0, height], color=INK, lw=0.5, alpha=0.5)
    middle = anchors[:, :, 0].reshape(-1, 4)
    middle = (middle[:, :2] + middle[:, 2:]) / 2
    left.plot(middle[:, 0], middle[:, 1], ls="", marker="o", ms=3.2, color=BLUE)
    corner = middle - STRIDE / 2
    left.plot(corner[:, 0], corner[:, 1], ls="", marker="x", ms=4, color=PURPLE)
    for box in anchors[cell][::3]:
        outline(left, box, BLUE)
    left.set_title(t("one scale on one cell", "一个单元上的一个尺度"))
    left.text(0, height + 5, t("● middle of the cell", "● 单元中心"), color=BLUE, va="top")
    text = t("× corner (torchvision)", "× 单元角点（torchvision）")
    left.text(0, height + 17, text, color=PURPLE, va="top")
    left.set_ylim(height + 29, -6)

    right.set_axis_off()
    right.set_aspect("equal")
    names = ["h/w = ½", "h/w = 1", "h/w = 2"]
    for ratio in range(3):
        x = 102 * ratio
        for box in grid_anchors((1, 1), 1, shapes[3 * ratio : 3 * ratio + 3], offset=0):
            move = torch.tensor([x, 0, x, 0])
            outline(right, box + move, BLUE, facecolor=(BLUE, 0.12))
        right.text(x, 62, names[ratio], ha="center", va="top")
    right.set_xlim(-50, 246)
    right.set_ylim(84, -58)
    right.set_title(t("all nine: three ratios, three scales", "全部九种：三种高宽比、三种尺度"))
    return figure


def assignment(t):
    rows, columns = 6, 9
    width, height = columns * STRIDE, rows * STRIDE
    anchors = grid_anchors((rows, columns), STRIDE, anchor_shapes((40,), (0.5, 1, 2)))
    truth = torch.tensor([[14.0, 23.0, 66.0, 56.0], [102.0, 22.0, 118.0, 78.0]])
    iou = box_iou(truth, anchors)
    free, forced = match(iou, 0.7, 0.3), match(iou, 0.7, 0.3, force=True)
    best = iou.amax(0)
    kinds = [
        (forced == -1, INK, t("background", "背景")),
        (forced == -2, RED, t("ignored", "忽略")),
        (free >= 0, BLUE, t("positive", "正样本")),
        ((forced >= 0) & (free < 0), BLUE, t("forced", "强制为正")),
    ]
    figure, (left, right) = new(6, 3, 2)
    canvas(left, width, height, 8)
    for box in anchors[forced == -2]:
        outline(left, box, RED, lw=0.8, linestyle=(0, (3, 3)), alpha=0.55)
    for box in anchors[forced >= 0]:
        outline(left, box, BLUE, lw=1.8)
    for number, box in enumerate(truth):
        outline(left, box, GREEN, lw=2, facecolor=(GREEN, 0.18))
        x, y = ((box[:2] + box[2:]) / 2).tolist()
        left.text(x, y, number, color=GREEN, ha="center", va="center", weight="bold")
    counts = " · ".join(f"{name} {int(which.sum())}" for which, _, name in kinds[:2])
    left.set_title(counts)

    order = best.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    shown = place < 50
    for (which, color, _), marker in zip(kinds, "ooos", strict=True):
        one = which & shown
        style = dict(mfc="none") if marker == "s" else {}
        right.plot(place[one], best[one], ls="", marker=marker, ms=4, color=color, **style)
    right.axhline(0.7, color=INK, lw=0.8)
    right.axhline(0.3, color=INK, lw=0.8)
    right.text(50, 0.715, t("high 0.7", "上阈值 0.7"), ha="right")
    right.text(50, 0.315, t("low 0.3", "下阈值 0.3"), ha="right")
    right.set_ylim(0, 1)
    right.set_xlim(-2, 51)
    right.set_xlabel(t("anchors, best first", "锚框，从高到低"))
    right.set_title(t("largest IoU with a truth", "与真值框的最大 IoU"))
    right.text(3, 0.81, t("positive", "正样本"), color=BLUE)
    right.text(14, 0.36, t("ignored", "忽略"), color=RED)
    right.text(10, 0.1, t("background", "背景"))
    i = int(kinds[3][0].nonzero()[0, 0])
    at = (float(place[i]), float(best[i]))
    style = dict(arrowstyle="-", color=BLUE, lw=0.8)
    text = t("forced: best of truth 1", "强制：真值框 1 的最佳锚框")
    right.annotate(text, at, (at[0] + 4, at[1] + 0.1), color=BLUE, arrowprops=style)
    return figure


def boxes(n, generator):
    """Sizes of three kinds of objects, flat, square and tall, over a wide range of scales."""
    scale = torch.exp(4.2 + 0.6 * torch.randn(n, generator=generator))
    kind = torch.tensor([-0.9, 0.0, 0.9])[torch.randint(0, 3, (n,), generator=generator)]
    side = torch.exp((kind + 0.2 * torch.randn(n, generator=generator)) / 2)
    return torch.stack([scale / side, scale * side], dim=1)


def euclidean(sizes, k, generator, restarts=3):
    """Ordinary k-means, the best of its restarts by squared error."""
    found = []
    for _ in range(restarts):
        centers = sizes[torch.randperm(len(sizes), generator=generator)[:k]]
        for _ in range(15):
            nearest = torch.cdist(sizes, centers).argmin(1)
            groups = [sizes[nearest == i] for i in range(k)]
            moved = [g.mean(0) if len(g) else c for g, c in zip(groups, centers, strict=True)]
            centers = torch.stack(moved)
        found.append((float(torch.cdist(sizes, centers).amin(1).square().sum()), centers))
    return min(found, key=lambda pair: pair[0])[1]


def clusters(t):
    generator = torch.Generator().manual_seed(0)
    sizes = boxes(100, generator)
    figure, (left, right) = new(6, 2.9, 2)
    left.plot(sizes[:, 0], sizes[:, 1], ls="", marker="o", ms=2.5, color=GREEN, alpha=0.6)
    near, plain = kmeans_anchors(sizes, 5, generator, restarts=3), euclidean(sizes, 5, generator)
    left.plot(near[:, 0], near[:, 1], ls="", marker="s", ms=7, color=BLUE)
    left.plot(plain[:, 0], plain[:, 1], ls="", marker="x", ms=7, mew=2, color=PURPLE)
    left.set_xscale("log", base=2)
    left.set_yscale("log", base=2)
    ticks = [16, 32, 64, 128, 256]
    left.set_xticks(ticks, [str(x) for x in ticks])
    left.set_yticks(ticks, [str(x) for x in ticks])
    left.minorticks_off()
    left.set_xlabel(t("width", "宽"))
    left.set_title(t("height, in pixels", "高（像素）"))
    counts = [1, 2, 3, 5, 7, 9]
    for color, marker, name, y, cluster in (
        (BLUE, "s", t("distance 1 − IoU", "距离 1 − IoU"), 0.16, kmeans_anchors),
        (PURPLE, "x", t("Euclidean", "欧氏距离"), 0.06, euclidean),
    ):
        curve = [
            float(average_iou(sizes, cluster(sizes, k, generator, restarts=3))) for k in counts
        ]
        right.plot(counts, curve, color=color, marker=marker, ms=4)
        right.text(9, y, name, color=color, ha="right")
    right.set_ylim(0, 0.85)
    right.set_xticks([1, 3, 5, 7, 9])
    right.set_xlabel(t("clusters k", "聚类数 k"))
    right.set_title(t("average IoU", "平均 IoU"))
    return figure
