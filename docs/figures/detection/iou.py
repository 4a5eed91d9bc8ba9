"""A worked example beside three degrees of overlap; each penalty; what is left without overlap."""

import math

import torch
from matplotlib.patches import Arc, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.detection.iou import box_cxcywh_to_xyxy, iou_loss, paired_iou

TRUTH, PREDICTED = (2.0, 2.0, 5.0, 5.0), (3.0, 3.0, 6.0, 6.0)
APART = (5.0, 1.0, 9.0, 4.0), (1.0, 3.0, 3.0, 7.0)  # where the widget begins


def figures(t):
    yield "iou_overlap", overlap(t)
    yield "iou_penalties", penalties(t)
    yield "iou_apart", apart(t)


def draw(ax, box, color, **style):
    x1, y1, x2, y2 = box
    look = dict(edgecolor=color, facecolor=(color, 0.15), lw=1.8) | style
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **look))


def canvas(ax, x, y):
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_xlim(*x)
    ax.set_ylim(y[1], y[0])  # downwards, as in an image


def note(ax, x, y, text, color=INK, **style):
    ax.text(x, y, text, color=color, **(dict(ha="center", va="center", fontsize=9.5) | style))


def overlap(t):
    figure, axes = new(6, 2.15, 4)
    canvas(axes[0], (1.2, 6.8), (0.6, 7.6))
    for i in range(2, 7):
        axes[0].plot([i, i], [2, 6], color=INK, lw=0.4, alpha=0.4)
        axes[0].plot([2, 6], [i, i], color=INK, lw=0.4, alpha=0.4)
    draw(axes[0], TRUTH, GREEN)
    draw(axes[0], PREDICTED, ORANGE)
    draw(axes[0], (3, 3, 5, 5), PURPLE, facecolor=(PURPLE, 0.35), lw=0)
    note(axes[0], 4, 4, "4", fontsize=12)
    note(axes[0], 2.5, 2.5, "5")
    note(axes[0], 5.5, 5.5, "5")
    note(axes[0], 3.4, 1.3, t("truth", "真值"), GREEN)
    note(axes[0], 4.6, 6.7, t("prediction", "预测"), ORANGE)
    axes[0].set_title("IoU = 4/14 = 0.29")
    for ax, wanted in zip(axes[1:], (0.5, 0.75, 0.9), strict=True):
        canvas(ax, (1.2, 6.8), (0.6, 7.6))
        low, high = 0.0, 3.0  # a diagonal shift that leaves the wanted IoU
        truth = torch.tensor([1.9, 2.4, 5.5, 6.0])
        for _ in range(40):
            shift = (low + high) / 2
            value = float(paired_iou(truth, truth + shift))
            low, high = (shift, high) if value > wanted else (low, shift)
        draw(ax, [float(x) - low / 2 for x in truth], GREEN)
        draw(ax, [float(x) + low / 2 for x in truth], ORANGE)
        ax.set_title(f"IoU = {wanted}")
    return figure


def penalties(t):
    figure, axes = new(6, 2.7, 3)
    truth, box = APART
    hull = (1.0, 1.0, 9.0, 7.0)
    for ax, name in zip(axes, ("GIoU", "DIoU", "CIoU"), strict=True):
        canvas(ax, (0.3, 9.7), (-0.4, 9.4))
        ax.set_title(name)
        if name == "GIoU":
            for x1, y1, x2, y2 in ((1, 1, 5, 3), (3, 3, 5, 4), (3, 4, 9, 7)):
                draw(ax, (x1, y1, x2, y2), RED, facecolor=(RED, 0.18), lw=0)
            draw(ax, hull, INK, facecolor="none", lw=0.8, linestyle=(0, (4, 3)))
        elif name == "DIoU":
            draw(ax, hull, INK, facecolor="none", lw=0.8, linestyle=(0, (4, 3)))
        draw(ax, truth, GREEN, facecolor=(GREEN, 0.35))
        draw(ax, box, ORANGE, facecolor=(ORANGE, 0.35))
    note(axes[0], 6, 5.5, t("empty\npart", "空白\n部分"), RED)
    note(axes[0], 5, 8.4, t("empty part / hull", "空白部分 / 外接框"), RED)
    centers = [((x[0] + x[2]) / 2, (x[1] + x[3]) / 2) for x in (truth, box)]
    axes[1].plot([1, 9], [7, 1], color=INK, lw=1, linestyle=(0, (1, 2)))
    axes[1].plot(*zip(*centers, strict=True), "o-", color=PURPLE, lw=2, ms=4)
    note(axes[1], 4.4, 3.3, "ρ", PURPLE, fontsize=12)
    note(axes[1], 8.3, 2.55, "c", fontsize=12)
    note(axes[1], 5, 8.4, "ρ² / c²", PURPLE)
    for (x1, y1, x2, y2), color, name in ((truth, GREEN, "θ*"), (box, ORANGE, "θ")):
        axes[2].plot([x1, x2], [y1, y2], color=color, lw=1.2)
        slope = math.degrees(math.atan2(y2 - y1, x2 - x1))
        axes[2].add_patch(Arc((x1, y1), 1.5, 1.5, theta1=slope, theta2=90, color=PURPLE, lw=1.8))
        note(axes[2], x1 - 0.5, y1 + 0.9, name, PURPLE, fontsize=11)
    note(axes[2], 5, 8.4, t("as DIoU, and α v", "同 DIoU，再减 α v"), PURPLE)
    return figure


def descend(kind, start, target, steps):
    """Boxes (cx, cy, w, h) on the way down, one step as long as any other."""
    box, path = torch.tensor(start), []
    for _ in range(steps + 1):
        path.append(box)
        box = box.clone().requires_grad_()
        loss = iou_loss(box_cxcywh_to_xyxy(box), box_cxcywh_to_xyxy(target), kind)
        (gradient,) = torch.autograd.grad(loss, box)
        box = (box - 0.1 * gradient / gradient.norm()).detach()
    return path


def apart(t):
    figure, axes = new(6, 2.6, 3)
    ax = axes[0]
    target = torch.tensor([0.0, 0, 2, 2])
    distance = torch.linspace(0, 6, 61)
    moved = target + torch.stack([distance, *[torch.zeros(61)] * 3], dim=-1)
    for kind, color, name in (
        ("iou", RED, "IoU"),
        ("giou", BLUE, "GIoU"),
        ("diou", PURPLE, "DIoU"),
    ):
        boxes = box_cxcywh_to_xyxy(moved)
        loss = iou_loss(boxes, box_cxcywh_to_xyxy(target).expand(61, 4), kind)
        style = "--" if kind == "iou" else "-"
        ax.plot(distance.tolist(), loss.tolist(), color=color, linestyle=style, lw=1.8)
        place = dict(iou=(5.3, 0.92), giou=(5.0, 1.64), diou=(1.05, 1.22))[kind]
        note(ax, *place, name, color)
    ax.axvline(2, color=INK, lw=0.8, linestyle=(0, (1, 2)))
    note(ax, 2.15, 0.12, t("apart →", "不相交 →"), ha="left")
    ax.set_xlabel(t("distance of centres", "中心距离"))
    ax.set_ylabel(t("loss", "损失"))
    ax.set_ylim(0, 1.8)
    target, start = torch.tensor([9.0, 6.5, 3.0, 2.0]), [2.0, 2.0, 2.0, 2.0]
    for ax, kind, name in (
        (axes[1], "giou", t("GIoU, steps", "GIoU，步数")),
        (axes[2], "diou", t("DIoU, steps", "DIoU，步数")),
    ):
        canvas(ax, (0, 12), (0, 9.5))
        ax.set_title(name)
        draw(ax, [float(x) for x in box_cxcywh_to_xyxy(target)], GREEN, facecolor=(GREEN, 0.3))
        path = descend(kind, start, target, 60)
        for step in (0, 30, 60):
            box = [float(x) for x in box_cxcywh_to_xyxy(path[step])]
            draw(ax, box, ORANGE, facecolor="none", lw=1.4, alpha=0.4 + 0.01 * step)
            note(ax, box[0] + 0.2, box[3] - 0.5, step, ORANGE, ha="left")
    return figure
