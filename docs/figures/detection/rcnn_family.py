"""The four architectures in one visual language; where the time goes; from a mask to the image."""

import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.detection.mask_rcnn import paste_masks
from snippets.detection.shapes_dataset import CLASSES, shapes

# Of a small Mask R-CNN after 1100 steps of 8 images on `shapes`, for one image: score, label and
# box of each detection above 0.4, and the mask of its class, 28 x 28 probabilities in fifteenths.
FOUND = [
    (
        0.93,
        3,
        [0.0, 34.9, 22.5, 59.7],
        "469bddeeeeeedc6200000000000048bcddeeffffed9610000000000037bdeeffffffeed6100000000000"
        "49ceeefffffffeda20000000000037cdffffffffffa300000000000049ceeefffffffeb4100000000000"
        "59cdeeffffffeea31000000000006adeeeffffffeeb52010000000008ceeeefeffffeeecb77431100000"
        "adeeeeeeffffeeeddadbc8621000cefffffefffffffffffffed98210defffffeffffffffffffffeec720"
        "eefffffffffffffffffffffee941eeffffffffffffffffffffffec61effffffffffffffffffffffffe93"
        "effffffffffffffffffffffffe93effffffffffffffffffffffffea3effffffffffffffffffffffffe92"
        "efffffffffeeeeeeeeffffffec51efffffffefeeeedddceeffffe820efffffffffdddca975ddffee9311"
        "efffffffeeddca431165dcc93100efffffffffedc721002176642100efffffffffedb711000011110000"
        "ffffffffffdd9310000000000000efffffffffcc8310000000000000effffffffec75210000000000000"
        "cefffffeecb66210000000000000",
    ),
    (
        0.87,
        0,
        [7.2, 0.5, 32.5, 24.4],
        "128ceeffffffffffffffeecb871123ceffffffffffffffffffdebb2117cfffffffffffffffffffffda51"
        "5befffffffffffffffffffffec727dfffffffffffffffffffffffe92aefffffffffffffffffffffffec3"
        "aeffffffffffffffffffffffffd5cfffffffffffffffffffffffffe7dfffffffffffffffffffffffffe9"
        "dfffffffffffffffffffffffffeaefffffffffffffffffffffffffe9dfffffffffffffffffffffffffe9"
        "efffffffffffffffffffffffffe8efffffffffffffffffffffffffe8effffffffffffffffffffffffed8"
        "efffffffffffffffffffffffffd7effffffffffffffffffffffffeb5dffffffffffffffffffffffffea3"
        "befffffffffffffffffffffffd726efffffffffffffffffffffffd412befffffffffffffffffffffea30"
        "03dfffffffffffffffffffffc510006eeffffffffffffffffffe50000015deffffffffffffffffea0000"
        "00014cdfeffffefeeeeeea5000000000027cdeeeeeeeddcc830000000000001369cbcccb986520000000"
        "0000000112445654221000000000",
    ),
    (
        0.62,
        1,
        [32.7, 0.3, 54.8, 21.4],
        "00100011569abbbb9954111000000000012389ccddddcc873211100001000136bbddeeeeeecb96321000"
        "0000116addeefffffeed99321000111125cdeeffffffffffdb832100111159eeffffffffffffed952100"
        "33347aeffffffffffffffeb531102335bdffffffffffffffffeb62103537cdffffffffffffffffec9210"
        "3648defffffffffffffffffec410385adefffffffffffffffffec510386adefffffffffffffffffee711"
        "397ceeffffffffffffffffffe820388ddffffffffffffffffffffa21278deefffffffffffffffffffa31"
        "268deefffffffffffffffffffc31156cdefffffffffffffffffffd30146bdefffffffffffffffffffd31"
        "134cceeefffffffffffffffffc301239ceeefffffffffffffffffb200139adeeffffffffffffffffeb20"
        "01269ceefffffffffffffffed71001158ddeeeffffffffffffeec82000135acdeeffffffffffeedb9410"
        "0011259cdeeeeeeeeeeeddbb832100111135abddccaa99aaa97542100000001255768665434343322111"
        "0000001121212111101110101000",
    ),
]


def figures(t):
    yield "rcnn_architectures", architectures(t)
    yield "rcnn_times", times(t)
    yield "rcnn_masks", masks(t)


def rounded(ax, x, y, w, text, color, h=0.3):
    """A rounded box around (x, y) with a text in it."""
    style = dict(boxstyle="round,pad=0,rounding_size=0.06", fc=(color, 0.15), ec=color, lw=1.2)
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, **style))
    ax.text(x, y, text, ha="center", va="center", size=9)


def arrow(ax, *points):
    """Straight from each point to the next, with a head at the last."""
    *before, last = points
    style = dict(color=INK, lw=0.9)
    if len(before) > 1:
        ax.plot(*zip(*before, strict=True), solid_capstyle="butt", **style)
    style |= dict(arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0)
    ax.add_patch(FancyArrowPatch(before[-1], last, **style))


def stacked(ax, x, y, side, color):
    """A feature map: squares one behind the other."""
    for k in (2, 1, 0):
        low = (x - side / 2 + 0.04 * k, y - side / 2 + 0.04 * k)
        ax.add_patch(Rectangle(low, side, side, fc=(color, 0.15), ec=color, lw=1))


def image(ax, x, y):
    """What goes in; with three regions."""
    ax.add_patch(Rectangle((x - 0.24, y - 0.24), 0.48, 0.48, fc=(INK, 0.12), ec=INK, lw=1))


def regions(ax, x, y):
    """Three boxes on the frame of the image."""
    ax.add_patch(Rectangle((x - 0.19, y - 0.19), 0.38, 0.38, fc="none", ec=INK, lw=0.8))
    for left, low, w, h in (
        (-0.15, -0.13, 0.15, 0.22),
        (-0.05, -0.09, 0.2, 0.13),
        (0, -0.02, 0.12, 0.17),
    ):
        ax.add_patch(Rectangle((x + left, y + low), w, h, fc=(ORANGE, 0.12), ec=ORANGE, lw=1))


def architectures(t):
    figure, (ax,) = new(6, 6.1)
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(0, 6)
    ax.set_ylim(-0.02, 6.08)
    border = 3.02
    for left, right, color in ((0, border, BLUE), (border, 6, PURPLE)):
        ax.add_patch(Rectangle((left, 0), right - left, 5.74, fc=(color, 0.06), lw=0))
    ax.text(border / 2, 5.9, t("once for an image", "每张图像算一次"), ha="center", va="center")
    ax.text(
        (border + 6) / 2,
        5.9,
        t("again for each region", "每个区域各算一次"),
        ha="center",
        va="center",
    )
    rows = (
        ("R-CNN", t("about 2000", "约 2000 个")),
        ("Fast R-CNN", t("about 2000", "约 2000 个")),
        ("Faster R-CNN", t("300", "300 个")),
        ("Mask R-CNN", t("1000, masks for 100", "1000 个，其中 100 个有掩码")),
    )
    for row, (name, count) in enumerate(rows):
        top = 5.7 - 1.43 * row
        high, low = top - 0.5, top - 1.1
        middle = (high + low) / 2
        if row:
            ax.plot([0, 6], [top + 0.03] * 2, color=INK, lw=0.6, alpha=0.5)
        ax.text(0.06, top - 0.12, name, va="center", weight="bold")
        ax.text(5.94, top - 0.12, count, va="center", ha="right", color=ORANGE)
        image(ax, 0.34, middle)
        shared = row > 0  # one map for all regions
        if shared:
            arrow(ax, (0.58, middle), (0.72, middle), (0.72, high), (0.84, high))
            rounded(ax, 1.1, high, 0.5, "CNN", BLUE)
            arrow(ax, (1.36, high), (1.52, high))
            stacked(ax, 1.7, high, 0.32, BLUE)
            arrow(ax, (1.95, high), (3.16, high))
        else:
            arrow(ax, (0.58, middle), (0.72, middle), (0.72, high), (3.16, high))
        if row < 2:
            arrow(ax, (0.58, middle), (0.72, middle), (0.72, low), (0.84, low))
            rounded(ax, 1.48, low, 1.26, "selective search", ORANGE)
            arrow(ax, (2.12, low), (2.3, low))
        else:
            arrow(ax, (1.7, high - 0.17), (1.7, low + 0.16))
            rounded(ax, 1.7, low, 0.5, "RPN", ORANGE)
            arrow(ax, (1.96, low), (2.3, low))
        regions(ax, 2.52, low)
        first = ("warp", "RoI pooling", "RoI pooling", "RoI align")[row]
        first = t(first, ("拉伸", "RoI Pooling", "RoI Pooling", "RoI Align")[row])
        width = 0.86 if shared else 0.5
        inside = 3.18 + width / 2
        rounded(ax, inside, high, width, first, PURPLE)
        arrow(ax, (2.73, low), (inside, low), (inside, high - 0.16))
        layers, span = (t("layers", "全连接层"), 0.66) if shared else ("CNN ①", 0.62)
        start = 3.18 + width + 0.16
        end = start + span
        arrow(ax, (start - 0.16, high), (start, high))
        rounded(ax, start + span / 2, high, span, layers, PURPLE)
        outputs = (
            (t("class", "类别"), t("box", "框")) if shared else ("SVM ②", t("ridge ③", "岭回归 ③"))
        )
        for text, y in zip(outputs, (high + 0.12, high - 0.24), strict=True):
            arrow(ax, (end, high), (end + 0.1, high), (end + 0.1, y), (end + 0.2, y))
            rounded(ax, end + 0.56, y, 0.72, text, PURPLE)
        if row == 3:
            arrow(ax, (4.04, high), (4.12, high), (4.12, low), (start, low))
            rounded(ax, start + span / 2, low, span, t("convs", "卷积层"), PURPLE)
            arrow(ax, (end, low), (end + 0.2, low))
            rounded(ax, end + 0.56, low, 0.72, t("mask", "掩码"), PURPLE)
    return figure


def times(t):
    figure, (ax,) = new(6, 2.3)
    parts = (
        ("R-CNN", (0, 0, 47000)),
        ("Fast R-CNN", (146, 1510, 174)),
        ("Faster R-CNN", (141, 10, 47)),
    )
    limit = 2000
    for row, (_, values) in enumerate(parts):
        left = 0
        for value, color in zip(values, (BLUE, ORANGE, PURPLE), strict=True):
            style = dict(left=left, height=0.52, facecolor=(color, 0.35), edgecolor=color, lw=1)
            if value:
                ax.barh(row, value, **style)
            if 120 < value <= limit:
                ax.text(left + value / 2, row, value, ha="center", va="center", size=9)
            left += value
    ax.text(
        limit / 2,
        0,
        t("47000: 23.5 times as wide as this", "47000：是本图宽度的 23.5 倍"),
        ha="center",
        va="center",
        size=9,
    )
    ax.text(1850, 1, "1830", va="center", size=9)
    ax.text(215, 2, "141 + 10 + 47 = 198", va="center", size=9)
    ax.set_yticks(range(3), [name for name, _ in parts])
    ax.set_ylim(2.5, -1.1)
    ax.set_xlim(0, limit)
    ax.set_xlabel(t("milliseconds for an image", "每张图像的毫秒数"))
    for k, (text, color) in enumerate(
        (
            (t("the map, once", "特征图，一次"), BLUE),
            (t("finding regions", "找区域"), ORANGE),
            (t("for each region", "逐个区域"), PURPLE),
        )
    ):
        ax.text((20, 620, 1330)[k], -0.75, text, color=color, va="center")
    return figure


def masks(t):
    drawn = torch.Generator().manual_seed(11)
    options = dict(size=64, objects=(2, 3), sides=(16, 30), empty=0, noise=0)
    ((picture, target),) = shapes(1, drawn, **options)
    boxes = torch.tensor([box for _, _, box, _ in FOUND])
    probs = torch.tensor([[int(c, 16) for c in cells] for _, _, _, cells in FOUND]) / 15
    probs = probs.view(-1, 28, 28)
    pasted = paste_masks(probs, boxes, (64, 64)) >= 0.5
    color = torch.tensor([int(ORANGE[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    figure, axes = new(6, 2.35, 3)
    whole = dict(interpolation="none", extent=(0, 64, 64, 0))
    levels = ((picture * 21).round() / 21).permute(1, 2, 0)
    axes[0].imshow(levels.numpy(), **whole)
    axes[0].set_title(t("boxes", "框"))
    alone = torch.cat([color.expand(28, 28, 3), probs[0, :, :, None]], -1)
    axes[1].imshow(alone.numpy(), interpolation="none", extent=(0, 28, 28, 0))
    axes[1].set_title(t("mask of the cross, 28 × 28", "十字的掩码，28 × 28"))
    axes[1].set_xlim(0, 28)
    axes[1].set_ylim(28, 0)
    laid = torch.zeros(64, 64, 4)
    for mask in pasted:
        laid[mask] = torch.cat([color, torch.tensor([0.5])])
    axes[2].imshow(laid.numpy(), **whole)
    axes[2].set_title(t("stretched, cut at 0.5", "拉伸，以 0.5 为界"))
    at = torch.arange(64) + 0.5
    for mask in target["masks"]:
        axes[2].contour(at, at, mask.float(), levels=[0.5], colors=GREEN, linewidths=1.2)
    names = dict(
        zip(CLASSES, t("disc square triangle cross", "圆 方 三角 十字").split(), strict=True)
    )
    places = ((26, 56), (31, 29.5), (63.5, 26.5))
    for (score, label, _, _), (x, y) in zip(FOUND, places, strict=True):
        text = f"{names[CLASSES[label]]} {score:.2f}"
        axes[2].text(x, y, text, ha="left" if label == 3 else "right", va="center", size=9)
    for box in target["boxes"].tolist():
        outline(axes[0], box, GREEN, 1.6)
    for ax in (axes[0], axes[2]):
        for box in boxes.tolist():
            outline(ax, box, ORANGE, 1.6)
        ax.set_xlim(-0.5, 64.5)
        ax.set_ylim(64.5, -0.5)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, linewidth=0.8)
            if ax is axes[1]:
                spine.set(color=ORANGE, linewidth=1.6)
    return figure


def outline(ax, box, color, lw):
    x1, y1, x2, y2 = box
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fc="none", ec=color, lw=lw))
