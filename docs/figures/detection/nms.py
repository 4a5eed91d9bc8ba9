"""Greedy NMS step by step, its fixed point, and how the soft variants lower a score."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.detection.iou import box_iou
from snippets.detection.nms import matrix_nms, nms, soft_nms

THRESHOLD = 0.5


def figures(t):
    yield "nms_steps", steps(t)
    yield "nms_threshold", thresholds(t)
    yield "nms_fixed_point", fixed_point(t)
    yield "nms_decay", decay(t)


def scene():
    """Two objects, (2, 4), and what a detector says of them: boxes (7, 4) and scores (7,)."""
    objects = torch.tensor([[6.0, 8, 44, 88], [52, 32, 104, 82]])
    shift = [[0.0, 0, 1, 1], [-2, 5, 4, 4], [7, -6, 8, -4], [1, -1, 0, 1]]
    shift += [[-7, 3, -5, 4], [6, 5, 8, 6], [-23, -4, -22, -7]]
    boxes = objects[[0, 0, 0, 1, 1, 1, 1]] + torch.tensor(shift)
    return objects, boxes, torch.tensor([0.92, 0.81, 0.64, 0.95, 0.86, 0.58, 0.42])


def steps(t):
    objects, boxes, scores = scene()
    kept = [int(i) for i in nms(boxes, scores, THRESHOLD)]
    iou = box_iou(boxes, boxes)
    figure, axes = new(6, 2.5, 4)
    titles = [t(f"{len(boxes)} candidates", f"{len(boxes)} 个候选")]
    titles += [t(f"step {k}", f"第 {k} 步") for k in (1, 2, 3)]
    assert len(kept) == 3
    order = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
    gone = set()
    for step, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for x1, y1, x2, y2 in objects.tolist():
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fc=(GREEN, 0.22), ec="none"))
        best = kept[step - 1] if step else None
        now = {j for j in range(len(boxes)) if step and iou[best, j] > THRESHOLD}
        now -= set(kept[:step]) | gone
        for i in reversed(order):
            style = dict(fc="none", ec=ORANGE, lw=1)
            if i in now | gone:
                style |= dict(ec=RED, ls=(0, (3, 2)))
            elif i in kept[:step]:
                style |= dict(lw=2.4)
            x1, y1, x2, y2 = boxes[i].tolist()
            if i not in gone:
                fill = dict(fc=(ORANGE, 0.25)) if i == best else {}
                ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **(style | fill)))
            if i in kept[:step]:
                style |= dict(fc=(ORANGE, 0.85), lw=1)
            place, height = 8 + 14.5 * order.index(i), 30 * float(scores[i])
            ax.add_patch(Rectangle((place, 132 - height), 9.5, height, **(style | dict(lw=1))))
        if step:
            at = 8 + 14.5 * order.index(best) + 4.75
            ax.plot(at, 138, marker="^", ms=5, color=INK)
            ax.text(56, 149, f"{scores[best]:.2f}", ha="center", va="center", fontsize=9)
        else:
            ax.text(56, 149, t("scores", "分数"), ha="center", va="center", fontsize=9)
        gone |= now
        ax.set_title(title)
        ax.set_xlim(0, 114)
        ax.set_ylim(155, 0)
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure


def crowd():
    """Three objects, two of them overlapping, and eight boxes with scores; also of the widget."""
    objects = [[8.0, 8, 46, 74], [28, 12, 66, 76], [82, 28, 114, 72]]
    boxes = [[9.0, 8, 46, 75], [28, 13, 67, 76], [81, 28, 114, 71], [5, 12, 44, 77]]
    boxes += [[34, 9, 70, 70], [3, 3, 45, 60], [88, 35, 118, 76], [17, 22, 60, 73]]
    scores = [0.95, 0.91, 0.86, 0.78, 0.72, 0.63, 0.54, 0.37]
    return torch.tensor(objects), torch.tensor(boxes), torch.tensor(scores)


def thresholds(t):
    objects, boxes, scores = crowd()
    figure, axes = new(6, 1.75, 3)
    for ax, threshold in zip(axes, (0.1, 0.4, 0.7), strict=True):
        kept = [int(i) for i in nms(boxes, scores, threshold)]
        for x1, y1, x2, y2 in objects.tolist():
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fc=(GREEN, 0.22), ec="none"))
        for i, (x1, y1, x2, y2) in reversed(list(enumerate(boxes.tolist()))):
            style = dict(ec=ORANGE, lw=2) if i in kept else dict(ec=RED, lw=0.8, ls=(0, (3, 2)))
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fc="none", **style))
        name = t(f"{threshold}: {len(kept)} kept", f"{threshold}：留下 {len(kept)} 个")
        ax.set_title(name)
        ax.set_xlim(0, 121)
        ax.set_ylim(80, 0)
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure


def fixed_point(t):
    """Rows of a table: the guess, then each step, over boxes in a chain."""
    chain = torch.tensor([0.0, 3, 6, 20, 22, 9])
    boxes = torch.stack([chain, 0 * chain, chain + 10, 0 * chain + 6], 1)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    over = (box_iou(boxes, boxes) > THRESHOLD).triu(1)
    rows = [torch.ones(6, dtype=torch.bool)]
    while len(rows) < 2 or not torch.equal(rows[-1], rows[-2]):
        rows.append(~(over & rows[-1][:, None]).any(0))
    assert rows[-1].nonzero()[:, 0].tolist() == nms(boxes, scores, THRESHOLD).tolist()
    names = "ABCDEF"
    figure, (left, right) = new(6, 2.5, 2)
    for i in range(6):
        for j in range(i + 1, 6):
            color = (ORANGE, 0.75) if over[i, j] else (INK, 0.08)
            left.add_patch(Rectangle((j + 0.06, i + 0.06), 0.88, 0.88, fc=color, ec="none"))
        if i < 5:
            left.text(-0.3, i + 0.5, names[i], ha="center", va="center")
        left.text(i + 0.5, -0.35, names[i], ha="center", va="center")
    left.set_title(t("overlaps above 0.5", "重叠超过 0.5"))
    left.set_xlim(-0.8, 6.2)
    left.set_ylim(6.2, -0.8)
    for k, row in enumerate(rows):
        label = t("start" if k == 0 else f"step {k}", "起点" if k == 0 else f"第 {k} 步")
        right.text(-0.35, k + 0.5, label, ha="right", va="center", fontsize=9)
        for i, keep in enumerate(row.tolist()):
            place = (i + 0.06, k + 0.06)
            fill = dict(fc=(ORANGE, 0.75), ec=ORANGE) if keep else dict(fc="none", ec=RED, ls="--")
            right.add_patch(Rectangle(place, 0.88, 0.88, lw=1, **fill))
            if k and keep != bool(rows[k - 1][i]):
                right.plot(i + 0.5, k + 0.5, marker="o", ms=4, color=INK)
    for i in range(6):
        right.text(i + 0.5, -0.35, names[i], ha="center", va="center")
    right.set_title(t("kept (filled); dot: changed", "保留（实心）；点：有变化"))
    right.set_xlim(-2, 6.2)
    right.set_ylim(6.2, -0.8)
    for ax in (left, right):
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure


def factors(kind, iou):
    """What soft_nms makes of the score 1 of a box that overlaps a better one by each of iou."""
    found = []
    for u in iou.tolist():
        shift = 10 * (1 - u) / (1 + u)
        boxes = torch.tensor([[0.0, 0, 10, 10], [shift, 0, shift + 10, 10]])
        found.append(soft_nms(boxes, torch.tensor([1.0, 0.999]), kind, min_score=0)[1][1] / 0.999)
    return torch.stack(found)


def decay(t):
    figure, (left, right) = new(6, 2.6, 2)
    iou = torch.linspace(0, 1, 201)
    left.plot(iou, (iou <= THRESHOLD).float(), color=RED, label=t("greedy, 0.5", "贪心，0.5"))
    name = t("linear, from 0.3", "线性，自 0.3 起")
    left.plot(iou, factors("linear", iou), color=BLUE, ls="--", label=name)
    name = t("Gaussian, σ = 0.5", "高斯，σ = 0.5")
    left.plot(iou, factors("gaussian", iou), color=PURPLE, label=name)
    left.set_title(t("factor on the lower score", "低分框的分数乘以"))
    left.set_xlabel("IoU")
    left.set_xticks([0, 0.3, 0.5, 1])
    left.set_yticks([0, 0.5, 1])
    left.set_ylim(-0.03, 1.65)
    left.legend(loc="upper right", fontsize=9, handlelength=1.6, borderpad=0)

    shift = torch.tensor([0.0, 1.111, 3.611])  # IoU 0.8 of A and B, 0.6 of B and C, 0.47 of A and C
    boxes = torch.stack([shift, 0 * shift, shift + 10, 0 * shift + 6], 1)
    scores, overlaps = torch.tensor([0.9, 0.8, 0.7]), box_iou(boxes, boxes)
    fast = ~(overlaps > THRESHOLD).triu(1).any(0)
    greedy = torch.zeros(3).index_fill(0, nms(boxes, scores, THRESHOLD), 1)
    rows = [
        (t("before", "之前"), scores),
        (t("greedy", "贪心"), scores * greedy),
        ("Fast NMS", scores * fast),
        ("Soft-NMS", by_index(soft_nms(boxes, scores, min_score=0))),
        ("Matrix NMS", by_index(matrix_nms(overlaps, scores, min_score=0))),
    ]
    for k, (name, values) in enumerate(rows):
        for i, value in enumerate(values.tolist()):
            y = k + 0.29 * (i - 1)
            if value:
                right.barh(y, value, height=0.24, fc=(ORANGE, (0.95, 0.35, 0.65)[i]), lw=0)
            right.text(value + 0.02, y + 0.01, "ABC"[i], va="center", fontsize=9)
        right.text(-0.03, k, name, ha="right", va="center", fontsize=9)
    right.set_ylim(4.6, -0.6)
    right.set_xlim(0, 1)
    right.set_yticks([])
    right.set_xticks([0, 0.5, 1])
    right.set_xlabel(t("score", "分数"))
    right.set_title(t("IoU: A–B 0.8, B–C 0.6, A–C 0.47", "IoU：A–B 0.8，B–C 0.6，A–C 0.47"))
    return figure


def by_index(result):
    kept, new_scores = result
    return torch.zeros(len(kept)).index_put((kept,), new_scores)
