"""YOLO v5: bounded decoding, matching by ratio on three cells, auto-anchor, C3 and SPPF.

Paper: there is none; the code, settings and sizes of the official repository are followed, as of
       release 6. https://github.com/ultralytics/yolov5
Needs: Python >= 3.10, torch >= 2.0, and anchors.py, box_regression.py, focal_loss.py, iou.py,
       nms.py, yolo_v1.py, yolo_v2.py, yolo_v3.py and yolo_v8.py beside this file,
       backbone_neck_head.py in ../concepts, spatial_pyramid_pooling.py in ../convolution.
Axes:  B images, C channels, h, w cells of a map, A priors of a cell, n ground truths or sizes, k
       priors, P pairs; `...` is a batch. A box is (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import initialize
from ..convolution.spatial_pyramid_pooling import SPPBlock
from .anchors import kmeans_anchors
from .iou import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, check_boxes, iou_loss
from .yolo_v1 import check_images
from .yolo_v2 import Places, PriorDetector, Priors, prepare, quiet
from .yolo_v3 import SHAPES_PRIORS, check_strides
from .yolo_v8 import Bottleneck, silu_block

__all__ = [
    "C3",
    "V5_BALANCE",
    "V5_GAINS",
    "V5_SIZES",
    "Pairs",
    "YOLOv5",
    "auto_anchor",
    "decode_v5",
    "evolve",
    "match_all",
    "match_v5",
    "ratio_fit",
    "v5_loss",
    "v5_size",
]


# --8<-- [start:decode]
def decode_v5(t: Tensor, cells: Tensor, priors: Tensor, stride: float | Tensor) -> Tensor:
    """Boxes that (t_x, t_y, t_w, t_h) stand for: centres may leave their cell, sizes are bounded.

    Args:
        t: (..., 4), floating, before the sigmoid.
        cells: (..., 2), column and row.
        priors: (..., 2), w and h in pixels.
        stride: pixels of a cell, a number or (..., 1).

    Returns:
        (..., 4) xyxy in pixels, at least in float32. The centre lies from 0.5 cells before its
        cell to 0.5 behind it, the size between 0 and 4 times that of the prior.
    """
    if t.shape[-1:] != (4,) or cells.shape[-1:] != (2,) or priors.shape[-1:] != (2,):
        found = f"{tuple(t.shape)}, {tuple(cells.shape)} and {tuple(priors.shape)}"
        raise ValueError(f"need (..., 4), cells (..., 2), priors (..., 2), got {found}")
    share = t.to(torch.promote_types(t.dtype, torch.float32)).sigmoid()
    center = (cells + 2 * share[..., :2] - 0.5) * stride  # (..., 2)
    size = priors * (2 * share[..., 2:]).square()  # (..., 2)
    return box_cxcywh_to_xyxy(torch.cat([center, size.expand_as(center)], dim=-1))


# --8<-- [end:decode]


# --8<-- [start:assign]


class Pairs(NamedTuple):
    """What learns what on one map; a place may occur more than once."""

    truth: Tensor  # int64 (P,), of the ground truth
    prior: Tensor  # int64 (P,), of the prior
    cells: Tensor  # int64 (P, 2), column and row


def ratio_fit(sizes: Tensor, priors: Tensor) -> Tensor:
    """The smallest of w / w', w' / w, h / h' and h' / h: (n, 2) and (k, 2) to (n, k), up to 1."""
    _check_sizes("sizes", sizes)
    _check_sizes("priors", priors)
    ratio = sizes[:, None] / priors.to(sizes)  # (n, k, 2)
    return torch.minimum(ratio, 1 / ratio).amin(dim=-1)


def match_v5(
    boxes_xyxy: Tensor,
    priors: Tensor,
    size: tuple[int, int],
    stride: float,
    limit: float = 4.0,
    reach: float = 0.5,
) -> Pairs:
    """Every prior whose sides are within a factor of the truth's, in the three nearest cells.

    Args:
        boxes_xyxy: (n, 4), of positive size; n may be 0.
        priors: (A, 2), w and h in pixels, of this map.
        size: (h, w) of the map.
        stride: pixels of a cell.
        limit: the factor, above 1; 4 by default, for more decode_v5 cannot give.
        reach: how far the centre may lie from a neighbouring cell that learns it too, in cells;
            1 makes five cells of three: the coarse labels of v7's auxiliary head.

    Returns:
        Pairs: first all with the cell of the centre, then those with its neighbour to the left,
        above, to the right and below, each if the centre is less than `reach` from it and
        it is on the map. One truth may have pairs on every map, or none at all.
    """
    _check_match(boxes_xyxy, size, stride, limit, reach)
    h, w = size
    box = box_xyxy_to_cxcywh(boxes_xyxy)
    truth, prior = (ratio_fit(box[:, 2:], priors) > 1 / limit).nonzero(as_tuple=True)  # (p,)
    at = box[truth, :2] / stride  # (p, 2), in cells
    limits = torch.tensor([w, h], device=box.device)
    cell = at.long().clamp(min=0).minimum(limits - 1)  # (p, 2)
    back = limits - at
    before = (at % 1 < reach) & (at > 1)  # (p, 2)
    behind = (back % 1 < reach) & (back > 1)  # (p, 2)
    near = [before[:, 0], before[:, 1], behind[:, 0], behind[:, 1]]
    steps = [(-1, 0), (0, -1), (1, 0), (0, 1)]
    parts = [Pairs(truth, prior, cell)]
    for use, step in zip(near, steps, strict=True):
        moved = cell[use] + torch.tensor(step, device=box.device)
        parts.append(Pairs(truth[use], prior[use], moved.clamp(min=0).minimum(limits - 1)))
    return Pairs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def match_all(
    boxes_xyxy: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    limit: float = 4.0,
    reach: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """The pairs of match_v5 on all maps: truth (P,), place (P,) in the order of `places`."""
    truths: list[Tensor] = []
    found: list[Tensor] = []
    first = 0  # place of this map
    for stride, (h, w) in maps.items():
        shapes = boxes_xyxy.new_tensor(priors[stride])  # (A, 2)
        pairs = match_v5(boxes_xyxy, shapes, (h, w), stride, limit, reach)
        column, row = pairs.cells.unbind(1)
        truths.append(pairs.truth)
        found.append(first + (row * w + column) * len(shapes) + pairs.prior)
        first += h * w * len(shapes)
    return torch.cat(truths), torch.cat(found)


# --8<-- [end:assign]


# --8<-- [start:loss]
V5_BALANCE = (4.0, 1.0, 0.4)  # of the objectness on strides 8, 16 and 32
V5_GAINS = (0.05, 1.0, 0.5)  # of boxes, objectness and classes
# truths (n, 4), labels (n,), predictions (N, 5 + K) and boxes (N, 4): truth (P,) and place (P,)
Choose = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def v5_loss(
    output: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    targets: Sequence[Mapping[str, Tensor]],
    choose: Choose | None = None,
    gains: tuple[float, float, float] = V5_GAINS,
) -> tuple[Tensor, Tensor, Tensor]:
    """CIoU, objectness and class loss, weighted: their sum is minimised.

    Args:
        output: (B, N, 5 + K), on three maps.
        maps, priors, targets: see v2_loss.
        choose: what learns what, from detached predictions of one image; match_all by default.
        gains: weights. The official code also scales them: the objectness by (side / 640)**2, the
            classes by K / 80, and all by B.

    Returns:
        Three sums over the maps of means: 1 - CIoU over the pairs; binary cross-entropy of the
        objectness over all places, whose goal is the CIoU of their pair, a constant, or 0, times
        V5_BALANCE; binary cross-entropy of the classes over the pairs. Where several truths share
        a place all of them pull at its box, and the goal is the largest CIoU (the last written in
        the official code). A map without pairs counts 0 in the first and the last.

    Raises:
        ValueError: shapes, devices or labels that do not fit, bad boxes, NaN in the predictions.
    """
    wide, where, _ = prepare(output, maps, priors, targets)
    boxes = decode_v5(wide[..., :4], *where)  # (B, N, 4)
    B, N, K = *boxes.shape[:2], output.shape[2] - 5
    empty = torch.zeros(0, dtype=torch.int64, device=output.device)
    index, label, wanted = [empty], [empty], [boxes[:0, 0]]
    for i, target in enumerate(targets):
        truths, labels = target["boxes"].to(wide.dtype), target["labels"]
        if choose is None:
            truth, place = match_all(truths, maps, priors)
        else:
            truth, place = choose(truths, labels, wide[i].detach(), boxes[i].detach())
        index.append(i * N + place)
        label.append(labels[truth])
        wanted.append(truths[truth])
    at = torch.cat(index)  # (P,), of all images
    far = iou_loss(boxes.flatten(0, 1)[at], torch.cat(wanted), "ciou")  # (P,)
    kinds = F.one_hot(torch.cat(label), K).to(wide.dtype)  # (P, K)
    bce = F.binary_cross_entropy_with_logits
    wrong = bce(wide[..., 5:].flatten(0, 1)[at], kinds, reduction="none").mean(1)  # (P,)
    overlap = (1 - far.detach()).clamp(min=0)
    goal = far.new_zeros(B * N).scatter_reduce(0, at, overlap, "amax").view(B, N)
    unsure = bce(wide[..., 4], goal, reduction="none")  # (B, N)
    sums = [wide[:0].sum()] * 3
    first = 0
    for (stride, (h, w)), balance in zip(maps.items(), V5_BALANCE, strict=True):
        end = first + h * w * len(priors[stride])
        here = (at % N >= first) & (at % N < end)
        count = here.sum().clamp(min=1)
        sums[0] = sums[0] + far[here].sum() / count
        sums[1] = sums[1] + balance * unsure[:, first:end].sum() / max(B * (end - first), 1)
        sums[2] = sums[2] + wrong[here].sum() / count
        first = end
    boxes_part, objectness, classes = (g * x for g, x in zip(gains, sums, strict=True))
    return boxes_part, objectness, classes


# --8<-- [end:loss]


# --8<-- [start:anchors]
def fitness(sizes: Tensor, priors: Tensor, limit: float = 4.0) -> Tensor:
    """Mean fit of the best prior, where it is within the limit; a scalar."""
    best = ratio_fit(sizes, priors).amax(dim=1)  # (n,)
    return (best * (best > 1 / limit)).mean()


def evolve(
    sizes: Tensor,
    priors: Tensor,
    generator: torch.Generator | None = None,
    generations: int = 1000,
    limit: float = 4.0,
) -> Tensor:
    """Improve priors (k, 2) by chance: mutate, keep what is fitter; (k, 2) by area.

    Each side is mutated with probability 0.9, by a factor 1 + 0.1 u z, u from 0 to 1 and the same
    for all, z standard normal, held between 0.3 and 3; no side gets below 2 pixels.
    """
    best, score = priors, fitness(sizes, priors, limit)
    device = generator.device if generator else "cpu"
    for _ in range(generations):
        z = torch.randn(priors.shape, generator=generator, device=device)
        chosen = torch.rand(priors.shape, generator=generator, device=device) < 0.9
        u = torch.rand((), generator=generator, device=device)
        factor = (1 + 0.1 * u * z * chosen).clamp(0.3, 3.0).to(best)
        mutant = (best * factor).clamp(min=2)
        new = fitness(sizes, mutant, limit)
        if new > score:
            best, score = mutant, new
    return best[best.prod(-1).argsort(stable=True)]


def auto_anchor(
    sizes: Tensor,
    priors: Tensor,
    generator: torch.Generator | None = None,
    generations: int = 1000,
    limit: float = 4.0,
    enough: float = 0.98,
) -> tuple[Tensor, float]:
    """Keep the priors if they reach nearly all boxes, otherwise make new ones from the data.

    Args:
        sizes: (n, 2) of w, h, positive, in pixels of the training images.
        priors: (k, 2), as they are.
        generator: for k-means and the evolution.
        generations, limit: see evolve.
        enough: best possible recall, the share of boxes for which a prior is within the limit,
            from which on the priors stay.

    Returns:
        Priors (k, 2) and their best possible recall. New ones only if theirs is better. Here
        k-means has the distance 1 - IoU, in the official code the Euclidean one.
    """

    def recall(shapes: Tensor) -> float:
        return float((ratio_fit(sizes, shapes).amax(dim=1) > 1 / limit).float().mean())

    if len(sizes) == 0:
        raise ValueError("sizes must hold at least one box, got none")
    old = recall(priors)
    if old >= enough:
        return priors, old
    new = kmeans_anchors(sizes, len(priors), generator)
    new = evolve(sizes, new, generator, generations, limit)
    return (new, recall(new)) if recall(new) > old else (priors, old)


# --8<-- [end:anchors]


# --8<-- [start:network]
class C3(nn.Module):
    """CSP in v5: through bottlenecks, around them, and a third 1x1 convolution over both."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, shortcut: bool) -> None:
        """`depth` bottlenecks, 1x1 then 3x3, of half the output's width."""
        super().__init__()
        half = out_channels // 2
        self.through, self.around = (silu_block(in_channels, half) for _ in range(2))
        blocks = [Bottleneck(half, shortcut, kernels=(1, 3)) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.join = silu_block(2 * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        return self.join(torch.cat([self.blocks(self.through(x)), self.around(x)], dim=1))


V5_SIZES = {  # depth and width of the official configuration
    "n": (1 / 3, 0.25),
    "s": (1 / 3, 0.5),
    "m": (2 / 3, 0.75),
    "l": (1.0, 1.0),
    "x": (4 / 3, 1.25),
}


def v5_size(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and depths of YOLOv5n, s, m, l or x, for YOLOv5."""
    if name not in V5_SIZES:
        raise ValueError(f"name must be one of {', '.join(V5_SIZES)}, got {name!r}")
    depth, width = V5_SIZES[name]
    widths = tuple(int(width * C) for C in (64, 128, 256, 512, 1024))
    return widths, tuple(round(depth * n) for n in (3, 6, 9, 3))


class YOLOv5(PriorDetector):
    """Backbone of C3 and SPPF, PAN with concatenation, one 1x1 convolution for each map.

    Args:
        classes: K.
        widths: channels of the stem and of the four stages, each of which halves the map.
        depths: bottlenecks of each stage; the neck has those of the first.
        priors: for strides 8, 16 and 32, in pixels.
        generator: for the weights.
    """

    def __init__(
        self,
        classes: int = 4,
        widths: Sequence[int] = (8, 16, 32, 64, 96),
        depths: Sequence[int] = (1, 1, 1, 1),
        priors: Priors = SHAPES_PRIORS,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the parts; the stem has a kernel of 6 x 6."""
        super().__init__(classes, priors)
        check_strides(priors)
        if len(widths) != 5 or len(depths) != 4:
            raise ValueError(f"need 5 widths and 4 depths, got {list(widths)} and {list(depths)}")
        self.stem = silu_block(3, widths[0], 6, 2)
        self.stem[0] = nn.Conv2d(3, widths[0], 6, 2, padding=2, bias=False)
        self.stages = nn.ModuleList(
            nn.Sequential(silu_block(a, b, 3, 2), self.block(b, b, depth, True))
            for a, b, depth in zip(widths, widths[1:], depths, strict=False)
        )
        fine, middle, coarse = widths[2:]
        self.pool, n = SPPBlock(coarse, coarse), depths[0]
        self.reduce = nn.ModuleList([silu_block(coarse, middle), silu_block(middle, fine)])
        self.up = nn.ModuleList(self.block(2 * C, C, n, False) for C in (middle, fine))
        self.shrink = nn.ModuleList(silu_block(C, C, 3, 2) for C in (fine, middle))
        pairs = [(2 * fine, middle), (2 * middle, coarse)]
        self.down = nn.ModuleList(self.block(a, b, n, False) for a, b in pairs)
        outputs = [len(each) * (5 + classes) for each in priors.values()]
        sizes = zip(widths[2:], outputs, strict=True)
        self.head = nn.ModuleList(self.last(C, count) for C, count in sizes)
        initialize(self, generator)
        for last in self.head:  # official: other numbers, which depend on stride and classes
            quiet(list(last.modules())[-1], 5 + classes, generator)

    @staticmethod
    def block(in_channels: int, out_channels: int, depth: int, shortcut: bool) -> nn.Module:
        """What the stages and the neck are made of."""
        return C3(in_channels, out_channels, depth, shortcut)

    @staticmethod
    def last(in_channels: int, out_channels: int) -> nn.Module:
        """From a map of the neck to the predictions, ending in a 1x1 convolution."""
        return nn.Conv2d(in_channels, out_channels, 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), sides even, to maps (B, C, h, w) of stride 8, 16 and 32."""
        check_images(images)
        x: Tensor = self.stem(images)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = self.pool(x)
        kept: list[Tensor] = []
        for fine, reduce, block in zip((maps[2], maps[1]), self.reduce, self.up, strict=True):
            x = reduce(x)
            kept.append(x)
            x = block(torch.cat([F.interpolate(x, size=fine.shape[-2:]), fine], dim=1))
        out = [x]
        for shrink, block in zip(self.shrink, self.down, strict=True):
            out.append(block(torch.cat([shrink(out[-1]), kept.pop()], dim=1)))
        return out

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images (B, 3, H, W) to maps (B, A (5 + K), h, w) of stride 8, 16 and 32."""
        layers = zip((8, 16, 32), self.head, self.features(images), strict=True)
        return {stride: layer(x) for stride, layer, x in layers}

    def decode(self, t: Tensor, where: Places) -> Tensor:
        """See decode_v5."""
        return decode_v5(t, *where)

    def parts(
        self,
        output: Tensor,
        maps: Mapping[int, tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> tuple[Tensor, ...]:
        """See v5_loss."""
        return v5_loss(output, maps, self.priors, targets)


# --8<-- [end:network]


def _check_sizes(name: str, sizes: Tensor) -> None:
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not sizes.is_floating_point():
        raise ValueError(f"{name} must be floating (n, 2), got {sizes.dtype} {tuple(sizes.shape)}")
    if not ((sizes > 0) & sizes.isfinite()).all():
        bad = sizes[~((sizes > 0) & sizes.isfinite()).all(1)][0]
        raise ValueError(f"{name} must be positive and finite, got {[float(x) for x in bad]}")


def _check_match(
    boxes: Tensor, size: tuple[int, int], stride: float, limit: float, reach: float
) -> None:
    check_boxes("boxes_xyxy", boxes)
    if min(size) < 1 or not stride > 0:
        raise ValueError(f"size and stride must be positive, got {size} and {stride}")
    if not limit > 1:
        raise ValueError(f"limit must be above 1, got {limit}")
    if not 0 <= reach <= 1:
        raise ValueError(f"reach must be from 0 to 1, got {reach}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    for name in V5_SIZES:
        with torch.device("meta"):  # counted without memory
            model = YOLOv5(80, *v5_size(name))
        print(f"YOLOv5{name}: {sum(p.numel() for p in model.parameters()):,} parameters")

    ends = torch.tensor([[-20.0, -20.0, -20.0, -20.0], [20.0, 20.0, 20.0, 20.0]])
    prior = torch.tensor([[30.0, 60.0]])
    for box in decode_v5(ends, torch.tensor([[4.0, 4.0]]), prior, 16):
        print("from" if box[2] == box[0] else "to", [round(float(x)) for x in box])

    truth = torch.tensor([[50.0, 62.0, 90.0, 90.0]])  # centre (70, 76): cell (4, 4) and 3/8, 3/4
    priors = torch.tensor([[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]])
    pairs = match_v5(truth, priors, size=(20, 20), stride=16)
    print(
        "priors", [int(a) for a in pairs.prior], "cells", [[int(x) for x in c] for c in pairs.cells]
    )

    sizes = torch.tensor([[4.0, 30.0], [5.0, 44.0], [3.0, 36.0], [60.0, 5.0]])  # poles and a bar
    found, recall = auto_anchor(sizes, priors[:2], torch.Generator().manual_seed(0), 100)
    print("new priors:", not torch.equal(found, priors[:2]), " best possible recall:", recall)
    # --8<-- [end:demo]
