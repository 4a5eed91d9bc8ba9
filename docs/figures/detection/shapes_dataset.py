"""Sample images with what is to be found in them; a hidden part; run lengths of a mask."""

import torch
from matplotlib.patches import Circle, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, RED, new
from snippets.detection.shapes_dataset import (
    CLASSES,
    mask_to_rle,
    masks_to_boxes,
    shapes,
    visible_parts,
)


def figures(t):
    yield "shapes_dataset_samples", samples(t)
    yield "shapes_dataset_masks", masks(t)


def samples(t):
    """Above images, without noise and in 22 levels so that the file stays small; below targets."""
    generator = torch.Generator().manual_seed(62)
    usual = shapes(3, generator, empty=0, noise=0)
    crowd = shapes(1, generator, empty=0, crowded=1, noise=0)
    figure, _ = new(6, 3.2)
    figure.clear()
    axes = figure.subplots(2, 4)
    names = dict(
        zip(CLASSES, t("disc square triangle cross", "圆 方 三角 十字").split(), strict=True)
    )
    for column, (image, target) in enumerate(usual + crowd):
        above, below = axes[:, column]
        levels = (image * 21).round() / 21
        above.imshow(levels.permute(1, 2, 0).numpy(), interpolation="none")
        seen, taken = torch.zeros(96, 96, 4), []
        for i, mask in enumerate(target["masks"]):
            color = torch.tensor([int(GREEN[k : k + 2], 16) / 255 for k in (1, 3, 5)])
            seen[mask] = torch.cat([color, torch.tensor([(0.25, 0.5)[i % 2]])])
        below.imshow(seen.numpy(), interpolation="none")
        objects = zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)
        for (x1, y1, x2, y2), label in reversed(list(objects)):
            style = dict(facecolor="none", edgecolor=GREEN, lw=1.1)
            below.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **style))
            if column < 3:
                x, y = min(max((x1 + x2) / 2, 19), 77), (y1 + y2) / 2
                while any(abs(x - u) < 35 and abs(y - v) < 12 for u, v in taken):
                    y += 4
                taken.append((x, y))
                below.text(x, y, names[CLASSES[label]], ha="center", va="center", fontsize=9)
        for ax in (above, below):
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_xlim(-0.5, 95.5)
            ax.set_ylim(95.5, -0.5)
            for spine in ax.spines.values():
                spine.set(visible=True, linewidth=0.8)
    axes[0, 0].set_ylabel(t("image", "图像"))
    axes[1, 0].set_ylabel(t("target", "标注"))
    axes[0, 3].set_title(t("crowded", "拥挤"))
    return figure


def masks(t):
    figure, (left, right) = new(6, 2.9, 2)
    hidden(left, t)
    run_lengths(right, t)
    return figure


def hidden(ax, t):
    """A disc behind a square, pixel by pixel."""
    size, radius, corner = 14, 5.0, (7, 2)
    place = torch.arange(size) + 0.5
    disc = ((place - 5.5) ** 2 + (place[:, None] - 6.5) ** 2) <= radius**2
    square = torch.zeros(size, size, dtype=torch.bool)
    square[corner[1] : corner[1] + 7, corner[0] : corner[0] + 6] = True
    whole = torch.stack([disc, square])
    seen = visible_parts(whole, whole.sum((1, 2)).double(), 0.5)
    for mask, color, alpha in ((seen[0], GREEN, 0.5), (seen[1], BLUE, 0.35)):
        for row, column in mask.nonzero().tolist():
            ax.add_patch(Rectangle((column, row), 1, 1, facecolor=(color, alpha), lw=0))
    for row, column in (whole[0] & ~seen[0]).nonzero().tolist():
        cell = [(column, row + 1), (column + 1, row)]
        ax.plot(*zip(*cell, strict=True), color=RED, lw=0.8)
    for line in range(size + 1):
        ax.plot([line, line], [0, size], color=INK, lw=0.3, alpha=0.5)
        ax.plot([0, size], [line, line], color=INK, lw=0.3, alpha=0.5)
    ax.add_patch(Circle((5.5, 6.5), radius, facecolor="none", edgecolor=INK, lw=1))
    both = masks_to_boxes(torch.stack([whole[0], seen[0]])).tolist()
    for (x1, y1, x2, y2), color, style in zip(both, (RED, GREEN), ("--", "-"), strict=True):
        box = Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor="none", edgecolor=color)
        box.set(linestyle=style, linewidth=2.2 if style == "-" else 1.6)
        ax.add_patch(box)
    ax.text(0, -0.5, t("box of the whole disc", "整个圆的框"), color=RED, va="bottom")
    ax.text(0, 14.4, t("box of what is seen", "可见部分的框"), color=GREEN, va="top")
    ax.set_xlim(-0.2, 14.2)
    ax.set_ylim(16, -2)
    ax.set_aspect("equal")
    ax.set_axis_off()


def run_lengths(ax, t):
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0]], dtype=torch.bool)
    height, width = mask.shape
    for j in range(width):
        for i in range(height):
            face = (GREEN, 0.5) if mask[i, j] else "none"
            ax.add_patch(Rectangle((j, i), 1, 1, facecolor=face, edgecolor=INK, lw=0.8))
            ax.text(j + 0.5, i + 0.5, j * height + i, ha="center", va="center")
    ax.text(0, -0.25, t("read column by column", "逐列读取"), va="bottom")
    x, scale, y = 0.0, width / mask.numel(), height + 0.55
    for k, count in enumerate(mask_to_rle(mask)["counts"]):
        face = (GREEN, 0.5) if k % 2 else "none"
        shape = (count * scale, 0.5)
        ax.add_patch(Rectangle((x, y), *shape, facecolor=face, edgecolor=INK, lw=0.8))
        ax.text(x + count * scale / 2, y + 0.25, count, ha="center", va="center")
        x += count * scale
    ax.text(0, y + 0.7, t("counts: zeros first", "counts：先数 0"), va="top", color=ORANGE)
    ax.set_xlim(-0.3, width + 0.3)
    ax.set_ylim(height + 1.9, -0.7)
    ax.set_aspect("equal")
    ax.set_axis_off()
