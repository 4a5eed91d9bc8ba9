"""Images that each detector got right and wrong, from the stored detections; nothing is trained."""

import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from benchmarks import report
from benchmarks.detectors.tables import title
from benchmarks.detectors.training import SEEDS, draw, right
from hooks.figures import GREEN, INK, ORANGE, RED, new

COLUMNS = 6  # two images of a detector side by side


def figures(t):
    run = report.stored("gpu", "detectors") or report.stored("cpu", "detectors")
    if run:
        yield "detectors_examples", examples(run, t)


def examples(run, t):
    """Of each detector a picture without a mistake and one with."""
    rows = [row for row in run.rows if row["status"] == "ok"]
    drawn = pictures(max(len(row["pictures"]) for row in rows))
    lines = -(-2 * len(rows) // COLUMNS)
    figure, _ = new(6, 1.24 * lines + 0.4)
    figure.clear()
    axes = figure.subplots(lines, COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, row in enumerate(rows):
        line, column = divmod(2 * number, COLUMNS)
        for ax, chosen in zip(axes[line, column : column + 2], choice(row, drawn), strict=True):
            if chosen is not None:
                show(ax, *drawn[chosen], row["pictures"][chosen])
        axes[line, column].set_title(title(row), loc="left")
    marks = [
        Line2D([], [], color=GREEN, lw=1.4, label=t("right", "正确")),
        Line2D([], [], color=ORANGE, lw=1.4, label=t("wrong", "错误")),
        Line2D([], [], color=RED, lw=1.4, ls="--", label=t("missed", "漏检")),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3)
    return figure


def pictures(count):
    """The held-out images in flat colours, so that the file stays small, and their targets."""
    found = []
    for image, target in draw(count, SEEDS["held_out"]):
        flat = torch.empty_like(image)
        for mask in (~target["masks"].any(0), *target["masks"]):
            flat[:, mask] = image[:, mask].mean(1, keepdim=True)
        found.append((flat, target))
    return found


def choice(row, drawn):
    """Of the pictures without a mistake the one with most objects; the one with most mistakes."""
    faults = []
    for picture in row["pictures"]:
        found, target = tensors(picture), drawn[picture["image"]][1]
        good = int(right(found, target).sum())
        faults.append(len(found["scores"]) + len(target["labels"]) - 2 * good)
    count = [len(target["labels"]) for _, target in drawn]
    numbers = range(len(faults))
    clean = [i for i in numbers if faults[i] == 0 and count[i]]
    spoilt = [i for i in numbers if faults[i]]
    first = max(clean, key=lambda i: (count[i], -i), default=None)
    return first, max(spoilt, key=lambda i: (faults[i], -i), default=None)


def tensors(picture):
    boxes = torch.tensor(picture["boxes"]).reshape(-1, 4)
    labels = torch.tensor(picture["labels"], dtype=torch.int64)
    return dict(boxes=boxes, scores=torch.tensor(picture["scores"]), labels=labels)


def show(ax, image, target, picture):
    """Boxes that are right, wrong and missed; the masks, where there are any, as outlines."""
    found = tensors(picture)
    good = right(found, target)
    ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="none")
    taken = right(dict(boxes=target["boxes"], labels=target["labels"]), kept(found, good))
    for box, seen in zip(target["boxes"].tolist(), taken.tolist(), strict=True):
        if not seen:
            rectangle(ax, box, RED, ls="--", lw=1.4)
    for box, hit in zip(found["boxes"].tolist(), good.tolist(), strict=True):
        rectangle(ax, box, GREEN if hit else ORANGE, lw=1.4)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlim(-0.5, 95.5)
    ax.set_ylim(95.5, -0.5)
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.6, color=INK)


def kept(found, good):
    """The detections that are right, as targets: a truth that none of them meets was missed."""
    return dict(boxes=found["boxes"][good], labels=found["labels"][good])


def rectangle(ax, box, color, **style):
    x1, y1, x2, y2 = box
    style = dict(facecolor="none", edgecolor=color) | style
    ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **style))
