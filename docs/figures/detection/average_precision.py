"""A precision/recall curve being built; three ways to average it; what COCO calls a hit."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.detection.average_precision import (
    COCO_AREAS,
    COCO_RECALLS,
    VOC_RECALLS,
    average_precision,
    match_coco,
    precision_recall,
)
from snippets.detection.iou import box_area, box_intersection, box_iou

CORRECT = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0, 1, 0]).bool()
TOTAL = 6


def figures(t):
    yield "ap_curve", curve(t)
    yield "ap_rules", rules(t)
    yield "ap_verdicts", verdicts(t)


def points():
    precision, recall = precision_recall(CORRECT, ~CORRECT, TOTAL)
    best = precision.flip(0).cummax(0).values.flip(0)
    return precision.tolist(), recall.tolist(), best.tolist()


def steps(ax, recall, best, **style):
    """The best precision at each recall or more, as a function of the recall."""
    x, y = [0.0], [best[0]]
    for r, p in zip(recall, best, strict=True):
        x += [x[-1], r]
        y += [p, p]
    ax.plot([*x, x[-1], 1], [*y, 0, 0], **style)
    return x, y


def plane(ax, t):
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(0, 1.08)
    ax.set_xlabel(t("recall", "召回率"))


def curve(t):
    figure, (ax,) = new(6, 3.7)
    precision, recall, best = points()
    steps(ax, recall, best, color=(BLUE, 0.45), lw=5)
    x, y = 0.0, 1.0
    for n, (p, r, hit) in enumerate(zip(precision, recall, CORRECT.tolist(), strict=True), 1):
        style = dict(color=GREEN) if hit else dict(color=RED, ls=(0, (3, 2)))
        if n > 1:
            ax.plot([x, r], [y, p], lw=1.6, **style)
        ax.plot([r], [p], marker="o", ms=5, color=GREEN if hit else RED)
        above = n in (1, 2, 4, 7, 9)
        ax.text(r + 0.012, p + (0.045 if above else -0.012), n, fontsize=9, va="center")
        x, y = r, p
    ax.text(0.855, 0.06, t("never found", "始终没找到"), fontsize=9)
    ax.text(
        0.36, 0.93, t("best precision here or to the right", "此处及右侧的最高精确率"), color=BLUE
    )
    plane(ax, t)
    ax.set_ylim(0, 1.42)
    ax.spines["left"].set_bounds(0, 1)
    ax.set_xticks([n / 6 for n in range(7)], ["0", "1/6", "2/6", "3/6", "4/6", "5/6", "1"])
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel(t("precision", "精确率"), y=0.36)
    for n, hit in enumerate(CORRECT.tolist(), 1):
        color = GREEN if hit else RED
        left = 0.005 + 0.075 * (n - 1)
        style = dict(facecolor=(color, 0.2 if hit else 0), ls="-" if hit else (0, (3, 2)))
        ax.add_patch(Rectangle((left, 1.2), 0.062, 0.14, edgecolor=color, lw=1.3, **style))
        ax.text(left + 0.031, 1.265, n, ha="center", va="center", fontsize=9)
    ax.text(0.78, 1.3, t("green: hit", "绿：命中"), color=GREEN, va="center", fontsize=9)
    ax.text(0.78, 1.22, t("red: false alarm", "红：误检"), color=RED, va="center", fontsize=9)
    return figure


def rules(t):
    figure, axes = new(6, 2.5, 3)
    precision, recall, best = points()
    names = [
        (t("11 points", "11 点"), VOC_RECALLS),
        (t("all points", "全点"), None),
        (t("101 points", "101 点"), COCO_RECALLS),
    ]
    for ax, (name, at) in zip(axes, names, strict=True):
        value = average_precision(*precision_recall(CORRECT, ~CORRECT, TOTAL), at)
        if at is None:
            x, y = steps(ax, recall, best, color=BLUE, lw=1.2)
            ax.fill_between(x, y, color=BLUE, alpha=0.25, lw=0)
        else:
            steps(ax, recall, best, color=BLUE, lw=0.8)
            reached = [
                max((p for p, r in zip(precision, recall, strict=True) if r >= x), default=0)
                for x in at
            ]
            wide = len(at) == 11
            ax.vlines(at, 0, reached, color=PURPLE, lw=1.2 if wide else 0.7)
            ax.plot(at, reached, ls="", marker="o", ms=3.6 if wide else 1.6, color=PURPLE)
        ax.set_title(f"{name}: {float(value):.3f}")
        plane(ax, t)
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        ax.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes[0].set_ylabel(t("precision", "精确率"))
    return figure


TRUTHS = [(8, 6, 118, 106), (132, 8, 184, 58), (196, 74, 218, 96)]
CROWD = (8, 116, 216, 158)
FOUND = [
    (14, 10, 120, 104),
    (128, 12, 182, 60),
    (198, 72, 220, 94),
    (14, 119, 64, 155),
    (72, 122, 122, 160),
    (134, 68, 176, 106),
    (196, 20, 218, 42),
]


def judge(low, high):
    """COCO's verdict on each detection for one range of areas: hit, wrong or ignored."""
    truths, found = torch.tensor([*TRUTHS, CROWD]).double(), torch.tensor(FOUND).double()
    crowd = torch.tensor([False] * len(TRUTHS) + [True])
    overlap = box_iou(found, truths)
    inside = box_intersection(found[:, None], truths) / box_area(found)[:, None]
    overlap = torch.where(crowd, inside, overlap)
    out = [(a < low) | (a > high) for a in (box_area(truths), box_area(found))]
    ignored = crowd | out[0]
    result = []
    for n, truth in enumerate(match_coco(overlap, ignored[None], crowd)[0, 0].tolist()):
        free = bool(ignored[truth] if truth < len(crowd) else out[1][n])
        result.append("ignored" if free else "hit" if truth < len(crowd) else "wrong")
    return result


def verdicts(t):
    figure, axes = new(6, 2.6, 2)
    titles = [t("all sizes: AP", "全部尺寸：AP"), t("medium only: APm", "只看中等：APm")]
    words = {
        "hit": (GREEN, t("hit", "命中")),
        "wrong": (RED, t("wrong", "误检")),
        "ignored": (INK, t("ignored", "忽略")),
    }
    for ax, title, size in zip(axes, titles, ("", "m"), strict=True):
        for (x1, y1, x2, y2), truth in [(box, True) for box in TRUTHS] + [(CROWD, False)]:
            style = dict(edgecolor=GREEN, facecolor=(GREEN, 0.12), lw=1.6)
            if not truth:
                style = dict(edgecolor=RED, facecolor="none", ls=(0, (4, 3)), lw=1.4)
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
        for (x1, y1, x2, y2), verdict in zip(FOUND, judge(*COCO_AREAS[size]), strict=True):
            style = dict(edgecolor=ORANGE, facecolor="none", lw=1.4)
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
            color, word = words[verdict]
            y = (y1 + y2) / 2 if x2 - x1 > 30 else y2 + 11
            ax.text((x1 + x2) / 2, y, word, color=color, ha="center", va="center", fontsize=9)
        ax.text(168, 137, t("crowd", "群体区域"), color=RED, ha="center", va="center", fontsize=9)
        ax.set_title(title)
        ax.set_xlim(0, 230)
        ax.set_ylim(162, 0)
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, lw=0.8, alpha=0.5)
    return figure
