"""SSD: the architecture with its default boxes, and hard negative mining in a tiny one."""

import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, RED, new
from snippets.detection.iou import box_iou
from snippets.detection.ssd import (
    SSD300_MAPS,
    SSD300_RATIOS,
    default_box_scales,
    default_box_shapes,
    default_boxes,
    match_default_boxes,
)


def figures(t):
    yield "ssd_architecture", architecture(t)
    yield "ssd_mining", mining(t)


def rounded(ax, x, y, w, h, text, color):
    """A rounded box around (x, y) with a text in it."""
    style = dict(boxstyle="round,pad=0,rounding_size=0.06", fc=(color, 0.15), ec=color, lw=1.2)
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, **style))
    ax.text(x, y, text, ha="center", va="center", size=9)


def arrow(ax, start, end):
    style = dict(arrowstyle="-|>", mutation_scale=7, color=INK, lw=0.9, shrinkA=0, shrinkB=0)
    ax.add_patch(FancyArrowPatch(start, end, **style))


def stacked(ax, x, y, side, color):
    """A feature map: squares one behind the other."""
    for k in (2, 1, 0):
        low = (x - side / 2 + 0.04 * k, y - side / 2 + 0.04 * k)
        ax.add_patch(Rectangle(low, side, side, fc=(color, 0.15), ec=color, lw=1))


def architecture(t):
    figure, (ax,) = new(6, 3.3)
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(0, 6.05)
    ax.set_ylim(0, 3.3)
    scales = default_box_scales(6, first=0.1)
    columns = [1.62 + 0.8 * k for k in range(6)]
    middle, head, bottom, frame = 1.66, 0.86, 0.2, 0.46
    ax.add_patch(Rectangle((0.05, middle - 0.3), 0.6, 0.6, fc=(INK, 0.15), ec=INK, lw=1))
    ax.text(0.35, middle, t("image", "图像"), ha="center", va="center", size=9)
    ax.text(0.35, middle + 0.42, "300 × 300", ha="center", va="bottom", size=9)
    ax.text(
        0.35, 2.78, t("boxes\nof a cell", "一个单元\n的默认框"), ha="center", va="center", size=9
    )
    arrow(ax, (0.65, middle), (0.77, middle))
    right, total = 1.17, 0
    for k, (x, n) in enumerate(zip(columns, SSD300_MAPS, strict=True)):
        side = 0.14 + 0.44 * (n / 38) ** 0.5
        arrow(ax, (right, middle), (x - side / 2, middle))
        right = x + side / 2 + 0.08
        stacked(ax, x, middle, side, INK)
        ax.text(x, middle + side / 2 + 0.12, f"{n} × {n}", ha="center", va="bottom", size=9)
        shapes_of_cell = default_box_shapes(scales[k], scales[k + 1], SSD300_RATIOS[k]).tolist()
        count = n * n * len(shapes_of_cell)
        total += count
        arrow(ax, (x, middle - side / 2), (x, head + 0.14))
        rounded(ax, x, head, 0.52, 0.28, "3 × 3", ORANGE)
        arrow(ax, (x, head - 0.14), (x, bottom + 0.16))
        ax.text(x + 0.05, 0.54, count, ha="left", va="center", size=9)
        low = (x - frame / 2, 2.78 - frame / 2)
        ax.add_patch(Rectangle(low, frame, frame, fc="none", ec=INK, lw=0.8))
        for w, h in shapes_of_cell:
            size = (w * frame, h * frame)
            corner = (x - size[0] / 2, 2.78 - size[1] / 2)
            ax.add_patch(Rectangle(corner, *size, fc="none", ec=BLUE, lw=0.9))
    rounded(ax, 0.97, middle, 0.4, 0.3, "VGG", INK)
    text = t(f"{total} boxes with scores → NMS → 200", f"{total} 个带分数的框 → NMS → 200")
    rounded(ax, (columns[0] + columns[-1]) / 2, bottom, 4.7, 0.32, text, ORANGE)
    return figure


# Of a tiny SSD after 150 steps on `shapes`, for one image: its ground truths, which default boxes
# were mined, and (rank, loss of background) along the sorted negatives.
TRUTHS = [[4, 28, 22, 46], [72, 0, 94, 19]]
MINED = [
    281,
    1149,
    1245,
    1257,
    1261,
    1265,
    2388,
    2390,
    2393,
    2394,
    2395,
    2396,
    2397,
    2398,
    2496,
    2497,
    2498,
    2499,
    2500,
    2501,
    2502,
    2503,
    2548,
    2549,
    2550,
    2551,
    2909,
    2932,
    2933,
    2937,
    2945,
    2961,
    2969,
    3024,
    3025,
    3036,
    3039,
    3040,
    3041,
    3042,
    3043,
    3058,
]
CURVE = [
    (1, 1.189),
    (2, 0.982),
    (3, 0.862),
    (4, 0.823),
    (5, 0.741),
    (7, 0.523),
    (9, 0.449),
    (11, 0.398),
    (14, 0.361),
    (17, 0.291),
    (21, 0.24),
    (26, 0.213),
    (31, 0.209),
    (37, 0.19),
    (42, 0.181),
    (43, 0.18),
    (51, 0.164),
    (61, 0.15),
    (76, 0.134),
    (96, 0.124),
    (121, 0.111),
    (151, 0.103),
    (191, 0.0974),
    (241, 0.0898),
    (301, 0.0831),
    (401, 0.0743),
    (501, 0.0667),
    (651, 0.059),
    (801, 0.0534),
    (1001, 0.046),
    (1201, 0.0405),
    (1401, 0.0348),
    (1701, 0.0281),
    (2001, 0.0224),
    (2301, 0.0176),
    (2601, 0.0124),
    (2801, 0.0083),
    (2951, 0.0049),
    (3046, 0.0008),
]


def mining(t):
    maps = [(n, n) for n in (24, 12, 6, 3)]
    boxes = default_boxes(maps, default_box_scales(4, 0.13, 0.55), [(2,)] * 4, 96, (4, 8, 16, 32))
    truths = torch.tensor(TRUTHS).float()
    positive = match_default_boxes(box_iou(truths, boxes)) >= 0
    assert 3 * int(positive.sum()) == len(MINED) and not positive[MINED].any()
    negatives = len(boxes) - int(positive.sum())
    figure, (left, right) = new(6, 3, 2)
    left.set_axis_off()
    left.set_aspect("equal")
    left.set_xlim(-18, 126)
    left.set_ylim(114, -18)
    left.add_patch(Rectangle((0, 0), 96, 96, fc="none", ec=INK, lw=1.2))
    for chosen, style in (
        (boxes[MINED], dict(ec=RED, lw=0.8, ls=(0, (3, 2)), alpha=0.7)),
        (boxes[positive], dict(ec=BLUE, lw=1)),
        (truths, dict(ec=GREEN, lw=2, fc=(GREEN, 0.2))),
    ):
        for x1, y1, x2, y2 in chosen.tolist():
            left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **(dict(fc="none") | style)))
    count = int(positive.sum())
    left.set_title(
        t(f"{count} matched, {len(MINED)} mined", f"匹配 {count} 个，挖出 {len(MINED)} 个")
    )

    kept = [(rank, loss) for rank, loss in CURVE if rank <= len(MINED)]
    rest = [(rank, loss) for rank, loss in CURVE if rank >= len(MINED)]
    right.plot(*zip(*rest, strict=True), color=INK, lw=1.4)
    right.plot(*zip(*kept, strict=True), color=RED, lw=2.4)
    right.axvline(len(MINED), color=INK, lw=0.8, ls=(0, (2, 2)))
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    right.set_yticks([0.001, 0.01, 0.1, 1], ["0.001", "0.01", "0.1", "1"])
    right.minorticks_off()
    right.set_xlabel(t(f"rank among {negatives} negatives", f"{negatives} 个负样本中的名次"))
    right.set_title(t("loss of background", "背景的损失"))
    right.text(3, 0.35, t("mined", "挖出"), color=RED, ha="center")
    right.text(200, 0.35, t("left out", "舍弃"), ha="center")
    return figure
