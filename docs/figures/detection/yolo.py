"""YOLO: versions through the years; who learns an object; how a centre and a size are decoded."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v1 import decode_grid, first_in_cell, responsible, split_grid
from snippets.detection.yolo_v2 import assign_priors, decode_cells, places
from snippets.detection.yolo_v3 import COCO_PRIORS
from snippets.detection.yolo_v4 import mosaic, scaled_sigmoid
from snippets.detection.yolo_v5 import decode_v5, match_v5
from snippets.detection.yolo_v8 import decode_distances, grid_points, task_aligned_assign


def figures(t):
    yield "yolo_timeline", timeline(t)
    yield "yolo_assignment", assignment(t)
    yield "yolo_decoding", decoding(t)
    yield "yolo_mosaic", four_in_one(t)


# Year and month of the first paper on arXiv; without one, of the first commit or release.
LANES = (  # column, names, colour, versions
    (
        0,
        ("Redmon et al.", "Redmon 等"),
        BLUE,
        (
            ("v1", 2015, 6, "one grid, in one pass", "一个网格，一次前向"),
            ("v2", 2016, 12, "priors, centres\nthat stay in their cell", "先验框，\n中心不出单元"),
            ("v3", 2018, 4, "three maps,\nlogistic classes", "三张特征图，\n逐类 logistic"),
        ),
    ),
    (
        0,
        ("Bochkovskiy et al.", "Bochkovskiy 等"),
        ORANGE,
        (
            (
                "v4",
                2020,
                4,
                "mosaic, CSP, CIoU,\nseveral priors",
                "马赛克、CSP、CIoU、\n多个先验框",
            ),
            ("v7", 2022, 7, "E-ELAN, folding,\ndynamic count", "E-ELAN、卷积折叠、\n动态个数"),
            ("v9", 2024, 2, "PGI: gradients from\nan auxiliary branch", "PGI：辅助分支\n提供梯度"),
        ),
    ),
    (
        1,
        ("Ultralytics", "Ultralytics"),
        GREEN,
        (
            (
                "v5",
                2020,
                5,
                "ratios, three cells,\nauto-anchor, SPPF",
                "按比例、三个单元、\n自动锚框、SPPF",
            ),
            ("v8", 2023, 1, "no anchors, DFL, TAL,\nsplit head", "无锚框、DFL、TAL、\n解耦头"),
            ("11", 2024, 9, "new blocks,\nsome attention", "新模块，\n少量注意力"),
            ("26", 2026, 1, "no NMS, no DFL", "无 NMS、无 DFL"),
        ),
    ),
    (
        2,
        ("others", "其他团队"),
        PURPLE,
        (
            (
                "X",
                2021,
                7,
                "YOLOX: no anchors,\nSimOTA, split head",
                "YOLOX：无锚框、\nSimOTA、解耦头",
            ),
            ("v6", 2022, 9, "for industry", "面向工业"),
            ("v10", 2024, 5, "no NMS", "无 NMS"),
            ("v12", 2025, 2, "area attention", "区域注意力"),
        ),
    ),
)
SHOWN = ("v1", "v2", "v3", "v4", "v5", "v7", "v8")  # on this page


def timeline(t):
    figure, (ax,) = new(6, 5)
    ax.set_axis_off()
    ax.set_xlim(0, 6)
    ax.set_ylim(2026.5, 2014.2)
    for year in range(2015, 2027):
        ax.text(0, year, year, va="center", size=9)
        ax.plot([0.36, 6], [year, year], color=INK, lw=0.5, alpha=0.2)
    for column, names, color, versions in LANES:
        x = 0.52 + 1.85 * column
        when = [year + (month - 0.5) / 12 for _, year, month, *_ in versions]
        ax.text(x - 0.07, when[0] - 0.42, t(*names), va="bottom", color=color, weight="bold")
        ax.plot([x, x], [when[0], when[-1]], color=color, lw=1.2, alpha=0.5)
        for (name, _, _, *texts), y in zip(versions, when, strict=True):
            fill = color if name in SHOWN else "none"
            ax.plot(x, y, "o", ms=6, mfc=fill, mec=color, mew=1.4)
            ax.text(x + 0.11, y, name, va="center", size=9, color=color, weight="bold")
            ax.text(x + 0.41, y, t(*texts), va="center", size=9, linespacing=1.05)
    for y, fill, texts in (
        (2015.9, INK, ("on this page, as code", "本页有代码")),
        (2016.7, "none", ("only mentioned", "只提及")),
    ):
        ax.plot(3.2, y, "o", ms=6, mfc=fill, mec=INK, mew=1.4)
        ax.text(3.38, y, t(*texts), va="center", size=9)
    return figure


SIDE = 448
TRUTHS = torch.tensor([[48.0, 150.0, 288.0, 400.0], [331.0, 49.0, 393.0, 169.0]])
MAPS = {8: (56, 56), 16: (28, 28), 32: (14, 14)}


def box(ax, xyxy, color, **style):
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    style = dict(fc="none", ec=color, lw=1.3) | style
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))


def cell(ax, column, row, stride, alpha=0.5):
    corner = (column * stride, row * stride)
    style = dict(fc=(BLUE, alpha), ec=(BLUE, 0.9), lw=0.6)
    ax.add_patch(Rectangle(corner, stride, stride, zorder=1, **style))


def assignment(t):
    """The same two ground truths; what learns them is what the snippets say."""
    figure, _ = new(6, 6.3)
    figure.clear()
    axes = figure.subplots(2, 2).flat
    titles = []
    for ax, draw in zip(axes, (by_cell, by_prior, by_ratio, by_task), strict=True):
        ax.set_axis_off()
        ax.set_aspect("equal")
        ax.set_xlim(-14, SIDE + 14)
        ax.set_ylim(SIDE + 8, -8)
        box(ax, (0, 0, SIDE, SIDE), INK, lw=1.2)
        for truth in TRUTHS:
            box(ax, truth, GREEN, lw=2, zorder=3)
            x, y = ((truth[:2] + truth[2:]) / 2).tolist()
            ax.plot(x, y, "+", color=GREEN, ms=8, mew=1.6, zorder=4)
        titles.append((ax, *draw(ax)))
    for ax, counts, *texts in titles:
        ax.set_title(t(*texts).format(*counts), size=10)
    return figure


def lines(ax, stride):
    for k in range(stride, SIDE, stride):
        ax.plot([k, k], [0, SIDE], color=INK, lw=0.4, alpha=0.35)
        ax.plot([0, SIDE], [k, k], color=INK, lw=0.4, alpha=0.35)


def by_cell(ax):
    """v1: the cell of the centre; of its two predicted boxes that of the larger IoU."""
    generator = torch.Generator().manual_seed(7)
    output = 0.3 + 0.5 * torch.rand(1, 7, 7, 30, generator=generator)
    decoded = decode_grid(split_grid(output, 2)[0], (SIDE, SIDE)).flatten(1, 2)[0]
    owner = first_in_cell(TRUTHS, 7, (SIDE, SIDE))
    cells = (owner >= 0).nonzero()[:, 0]
    best, _ = responsible(decoded[cells], TRUTHS[owner[cells]])
    lines(ax, 64)
    for i, j in zip(cells.tolist(), best.tolist(), strict=True):
        cell(ax, i % 7, i // 7, 64)
        for k, guess in enumerate(decoded[i].clamp(0, SIDE)):
            style = dict(ls="-", lw=1.6) if k == j else dict(ls=(0, (3, 3)), lw=1)
            box(ax, guess, ORANGE, **style)
    counts = [int((owner == n).sum()) for n in range(2)]
    return counts, "v1: {} + {} boxes", "v1：{} + {} 个框"


def by_prior(ax):
    """v3: of all nine priors the one of the best shape, in the cell of its map."""
    owner = assign_priors(TRUTHS, MAPS, COCO_PRIORS)
    at = (owner >= 0).nonzero()[:, 0]
    cells, priors, strides = (x[at] for x in places(MAPS, COCO_PRIORS))
    zero = torch.zeros(len(at), 4)
    for (x, y), stride, prior in zip(
        cells.tolist(),
        strides[:, 0].tolist(),
        decode_cells(zero, cells, priors, strides),
        strict=True,
    ):
        cell(ax, x, y, stride)
        box(ax, prior, BLUE, lw=1.4)
    counts = [int((owner == n).sum()) for n in range(2)]
    return counts, "v2, v3: {} + {} priors", "v2、v3：{} + {} 个先验框"


def by_ratio(ax):
    """v5: every prior within a factor of 4, in three cells; darker where more priors learn."""
    counts = torch.zeros(2, dtype=torch.int64)
    for stride in (32, 16, 8):
        pairs = match_v5(TRUTHS, torch.tensor(COCO_PRIORS[stride]).float(), MAPS[stride], stride)
        counts += pairs.truth.bincount(minlength=2)
        found, times = pairs.cells.unique(dim=0, return_counts=True)
        for (x, y), n in zip(found.tolist(), times.tolist(), strict=True):
            cell(ax, x, y, stride, alpha=0.2 * n)
        for n in range(2):
            mine = pairs.truth == n
            for k in sorted({int(a) for a in pairs.prior[mine]}):
                at = pairs.cells[mine][:1]  # the cell of the centre comes first
                prior = torch.tensor(COCO_PRIORS[stride][k]).float()[None]
                box(ax, decode_v5(torch.zeros(1, 4), at, prior, stride)[0], BLUE, lw=0.9)
    return counts.tolist(), "v5: {} + {} pairs of prior and cell", "v5：{} + {} 对先验框与单元"


def by_task(ax):
    """v8, untrained: all scores alike, all distances 7.5 cells; darker where the goal is higher."""
    points, strides = grid_points(MAPS)
    boxes = decode_distances(torch.full((len(points), 4), 7.5), points, strides)
    scores = torch.full((len(points), 1), 0.01)
    labels = torch.zeros(2, dtype=torch.int64)
    owner, goal = task_aligned_assign(scores, boxes, points, TRUTHS, labels)
    at = (owner >= 0).nonzero()[:, 0]
    for point, stride, high in zip(
        points[at].tolist(), strides[at, 0].tolist(), goal[at].tolist(), strict=True
    ):
        cell(ax, point[0] / stride - 0.5, point[1] / stride - 0.5, stride, 0.15 + 0.8 * high)
    for n in range(2):
        best = int(torch.where(owner == n, goal, -1).argmax())
        box(ax, boxes[best], ORANGE, lw=1.6)
    counts = [int((owner == n).sum()) for n in range(2)]
    return counts, "v8: {} + {} places", "v8：{} + {} 个位置"


def decoding(t):
    """Centre and size against the output t, in units of the cell and of the prior."""
    raw = torch.linspace(-5, 5, 101)
    x = raw.tolist()
    t4 = raw[:, None].expand(-1, 4)
    cells, prior = torch.zeros(len(raw), 2), torch.ones(len(raw), 2)
    v2, v5 = decode_cells(t4, cells, prior, 1.0), decode_v5(t4, cells, prior, 1.0)
    figure, (left, right) = new(6, 2.9, 2)
    for color, values, style in (
        (BLUE, (v2[:, 0] + v2[:, 2]) / 2, "-"),
        (ORANGE, scaled_sigmoid(raw, 1.2), (0, (5, 2))),
        (PURPLE, (v5[:, 0] + v5[:, 2]) / 2, "-"),
    ):
        left.plot(x, values.tolist(), color=color, ls=style, lw=1.6)
    for edge in (0, 1):
        left.axhline(edge, color=INK, lw=0.8, ls=(0, (2, 2)))
    left.set_ylim(-0.6, 1.6)
    left.set_yticks([-0.5, 0, 0.5, 1, 1.5], ["−½", "0", "½", "1", "1½"])
    left.set_title(t("centre, in cells", "中心（单元）"))
    left.text(-4.9, 1.42, "v5, v7", color=PURPLE, va="center")
    left.text(-4.9, 1.2, "v4, s = 1.2", color=ORANGE, va="center")
    left.text(-4.9, 0.8, "v2, v3", color=BLUE, va="center")
    left.text(4.9, 0.05, t("border", "边界"), ha="right", va="bottom", size=9)

    right.plot(x, (v2[:, 2] - v2[:, 0]).tolist(), color=BLUE, lw=1.6)
    right.plot(x, (v5[:, 2] - v5[:, 0]).tolist(), color=PURPLE, lw=1.6)
    right.axhline(4, color=INK, lw=0.8, ls=(0, (2, 2)))
    right.set_ylim(0, 8)
    right.set_yticks([0, 1, 4, 8], ["0", "1", "4", "8"])
    right.set_title(t("size, in priors", "大小（先验框）"))
    right.text(1.6, 6.6, "v2–v4", color=BLUE, ha="right")
    right.text(4.9, 3.2, "v5, v7", color=PURPLE, ha="right")
    for ax in (left, right):
        ax.set_xlim(-5, 5)
        ax.set_xticks([-4, -2, 0, 2, 4], ["−4", "−2", "0", "2", "4"])
        ax.set_xlabel("t")
    return figure


def four_in_one(t):
    """Four sample images, in six levels so that the file stays small, and their mosaic."""
    generator = torch.Generator().manual_seed(109)
    images, targets = zip(*shapes(4, generator, empty=0, noise=0), strict=True)
    images = (torch.stack(images) * 5).round() / 5
    center = (54, 40)
    joined, target = mosaic(images, targets, center)
    figure, _ = new(6, 2.75)
    figure.clear()
    grid = figure.add_gridspec(2, 4)
    panels = [figure.add_subplot(grid[k // 2, k % 2]) for k in range(4)]
    large = figure.add_subplot(grid[:, 2:])
    for ax, image, boxes in zip(
        [*panels, large],
        [*images, joined],
        [*(x["boxes"] for x in targets), target["boxes"]],
        strict=True,
    ):
        ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="none")
        for truth in boxes:
            box(ax, truth - 0.5, GREEN, lw=1.4)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlim(-0.5, 95.5)
        ax.set_ylim(95.5, -0.5)
        for spine in ax.spines.values():
            spine.set(visible=True, linewidth=0.8)
    lost = sum(len(x["boxes"]) for x in targets) - len(target["boxes"])
    assert lost > 0
    for k, ax in enumerate(panels):
        left, right = (0, center[0]) if k % 2 == 0 else (center[0], 96)
        top, bottom = (0, center[1]) if k < 2 else (center[1], 96)
        style = dict(ls=(0, (3, 2)), lw=1.2)
        box(ax, (left - 0.5, top - 0.5, right - 0.5, bottom - 0.5), RED, **style)
    large.axvline(center[0] - 0.5, color=RED, lw=1.2, ls=(0, (3, 2)))
    large.axhline(center[1] - 0.5, color=RED, lw=1.2, ls=(0, (3, 2)))
    panels[0].set_title(t("four images", "四张图像"), loc="left")
    large.set_title(t("their mosaic", "拼成的马赛克"))
    return figure
