"""YOLO v8: no anchors, distances as distributions (DFL), task-aligned assignment, split head.

Paper: there is none; the code, settings and sizes of the official repository are followed.
       https://github.com/ultralytics/ultralytics
       Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021, section 3.2 (the
       assignment). https://arxiv.org/abs/2108.07755
       Li et al., "Generalized Focal Loss", NeurIPS 2020, section 3, eq. (6) (DFL).
       https://arxiv.org/abs/2006.04388
Needs: Python >= 3.10, torch >= 2.0, and anchors.py, box_regression.py, focal_loss.py, iou.py,
       nms.py, yolo_v1.py and yolo_v2.py beside this file, backbone_neck_head.py in ../concepts,
       spatial_pyramid_pooling.py in ../convolution.
Axes:  B images, C channels, h, w cells of a map, N places of an image on all maps, R bins of a
       distance, K classes, n ground truths. A box is (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import initialize
from ..convolution.spatial_pyramid_pooling import SPPBlock
from .focal_loss import prior_bias
from .iou import check_boxes, iou_loss, paired_iou
from .yolo_v1 import check_images, check_targets, pick_detections
from .yolo_v2 import conv_block, grid_cells

__all__ = [
    "V8_GAINS",
    "V8_SIZES",
    "Bottleneck",
    "C2f",
    "DecoupledHead",
    "YOLOv8",
    "decode_distances",
    "dfl_loss",
    "encode_distances",
    "expected_distance",
    "grid_points",
    "silu_block",
    "task_aligned_assign",
    "v8_loss",
    "v8_size",
]


# --8<-- [start:decode]
def grid_points(
    maps: Mapping[int, tuple[int, int]], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """The middle of each cell in pixels, (N, 2), and its stride, (N, 1); float32.

    Map by map in the order of `maps` (stride -> (h, w)), on a map row by row.
    """
    _check_maps(maps)
    parts = [(grid_cells(size, 1, device) + 0.5) * stride for stride, size in maps.items()]
    strides = [torch.full_like(x[:, :1], s) for s, x in zip(maps, parts, strict=True)]
    return torch.cat(parts), torch.cat(strides)


def expected_distance(logits: Tensor) -> Tensor:
    """(..., R) to (...): the mean of 0, 1, ..., R - 1 under the softmax; in cells."""
    _check_bins(logits)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    whole = torch.arange(wide.shape[-1], dtype=wide.dtype, device=wide.device)
    return (wide.softmax(-1) * whole).sum(-1)  # no @: autocast would make it half precision


def decode_distances(distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Boxes (..., N, 4) in pixels from distances (..., N, 4) to left, top, right, bottom in cells.

    points (N, 2) and strides (N, 1): see grid_points. Distances are not negative.
    """
    _check_distances(distances, points, strides)
    far = distances * strides  # (..., N, 4)
    return torch.cat([points - far[..., :2], points + far[..., 2:]], dim=-1)


def encode_distances(boxes_xyxy: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """The inverse of decode_distances: negative where a point lies outside its box."""
    check_boxes("boxes_xyxy", boxes_xyxy)
    _check_distances(boxes_xyxy, points, strides)
    return torch.cat([points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points], -1) / strides


# --8<-- [end:decode]


# --8<-- [start:dfl]
def dfl_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Distribution focal loss: cross-entropy with the two bins around the target, eq. (6).

    Args:
        logits: (..., R), floating, R at least 2.
        target: (...), floating, in cells; clamped to [0, R - 1 - 0.01] as in the official code.

    Returns:
        (...), not reduced, at least in float32. The minimum, where the softmax shares 1 between
        both bins so that its mean is the target, is their entropy: 0 at whole numbers only.
    """
    _check_bins(logits, target)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probs = wide.log_softmax(-1)  # (..., R)
    goal = target.to(wide.dtype).clamp(0, logits.shape[-1] - 1 - 0.01)
    low = goal.long()  # (...)
    right = goal - low
    below = log_probs.gather(-1, low[..., None])[..., 0]
    above = log_probs.gather(-1, low[..., None] + 1)[..., 0]
    return -((1 - right) * below + right * above)


# --8<-- [end:dfl]


# --8<-- [start:assign]
@torch.no_grad()
def task_aligned_assign(
    scores: Tensor,
    boxes_xyxy: Tensor,
    points: Tensor,
    truths_xyxy: Tensor,
    labels: Tensor,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """For each ground truth the places that already do best, in class and box together.

    The metric is score**alpha * CIoU**beta, with the score of the ground truth's class. A ground
    truth takes the `topk` best of the places whose point lies inside it and whose metric is not 0.
    A place that several took goes to the one that its box overlaps most, among all that contain its
    point.

    Args:
        scores: (N, K), probabilities.
        boxes_xyxy: (N, 4), predicted.
        points: (N, 2).
        truths_xyxy: (n, 4); n may be 0.
        labels: int64 (n,).
        topk, alpha, beta: 10, 0.5 and 6 in v8; TOOD has 13, 1 and 6.

    Returns:
        owner int64 (N,), the index of the ground truth or -1, and quality (N,), the goal for the
        score of its class: the metric, scaled so that the best place of each ground truth has as
        its goal the largest CIoU among its places. 0 elsewhere.

    Raises:
        ValueError: shapes or labels that do not fit, bad boxes.
    """
    _check_assign(scores, boxes_xyxy, points, truths_xyxy, labels, topk)
    if len(truths_xyxy) == 0 or len(points) == 0:
        return torch.full((len(points),), -1, device=points.device), scores.new_zeros(len(points))
    sides = [points - truths_xyxy[:, None, :2], truths_xyxy[:, None, 2:] - points]
    inside = torch.cat(sides, dim=-1).amin(-1) > 1e-9  # (n, N)
    shape = (*inside.shape, 4)
    overlap = paired_iou(
        truths_xyxy[:, None].expand(shape), boxes_xyxy.to(truths_xyxy).expand(shape), "ciou"
    )
    overlap = overlap.clamp(min=0) * inside  # (n, N)
    metric = scores.T[labels].to(overlap.dtype).pow(alpha) * overlap.pow(beta)  # (n, N)
    order = metric.argsort(dim=1, descending=True, stable=True)
    taken = torch.zeros_like(inside).scatter(1, order[:, :topk], True) & (metric > 0)  # (n, N)
    closest = F.one_hot(overlap.argmax(dim=0), len(truths_xyxy)).T.bool()  # (n, N)
    taken = torch.where(taken.sum(0) > 1, closest, taken)
    owner = torch.where(taken.any(0), taken.int().argmax(dim=0), -1)  # (N,)
    metric, overlap = metric * taken, overlap * taken
    scale = overlap.amax(1, keepdim=True) / (metric.amax(1, keepdim=True) + 1e-9)  # (n, 1)
    return owner, (metric * scale).amax(0)


# --8<-- [end:assign]


# --8<-- [start:loss]
V8_GAINS = (7.5, 0.5, 1.5)  # of the box, the classes, DFL: the official default settings


def v8_loss(
    bins: Tensor,
    logits: Tensor,
    maps: Mapping[int, tuple[int, int]],
    targets: Sequence[Mapping[str, Tensor]],
    topk: int = 10,
) -> tuple[Tensor, Tensor, Tensor]:
    """CIoU loss, class loss and DFL, weighted with V8_GAINS: their sum is minimised.

    Args:
        bins: (B, N, 4, R), the distributions of left, top, right and bottom as logits.
        logits: (B, N, K), of the classes; there is no objectness.
        maps: stride -> (h, w).
        targets: of each image, boxes (n, 4) of positive size and labels (n,), int64 from 0 to
            K - 1; n may be 0.
        topk: see task_aligned_assign.

    Returns:
        Three scalars, sums over the batch divided by the sum of all qualities, at least 1. Boxes
        count by the quality of their place, which is also the goal of the class loss, a binary
        cross-entropy. (The official code then multiplies by B.)

    Raises:
        ValueError: shapes, devices or labels that do not fit, bad boxes, NaN in `bins`.
    """
    _check_loss(bins, logits, maps)
    check_targets(targets, len(logits), logits.shape[2], logits.device)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    points, strides = (x.to(logits.dtype) for x in grid_points(maps, logits.device))
    boxes = decode_distances(expected_distance(bins).to(logits.dtype), points, strides)
    goal = torch.zeros_like(logits)  # (B, N, K)
    parts = [logits[:0].sum() + bins[:0].sum()] * 2
    for i, target in enumerate(targets):
        truths = target["boxes"].to(logits.dtype)  # (n, 4)
        found = (logits[i].detach().sigmoid(), boxes[i].detach(), points)
        owner, quality = task_aligned_assign(*found, truths, target["labels"], topk)
        at = (owner >= 0).nonzero()[:, 0]  # (P,)
        truth, weight = truths[owner[at]], quality[at]  # (P, 4), (P,)
        goal[i, at, target["labels"][owner[at]]] = weight
        distances = encode_distances(truth, points[at], strides[at])  # (P, 4)
        parts[0] = parts[0] + (iou_loss(boxes[i, at], truth, "ciou") * weight).sum()
        parts[1] = parts[1] + (dfl_loss(bins[i, at], distances).mean(-1) * weight).sum()
    total = goal.sum().clamp(min=1)
    classes = F.binary_cross_entropy_with_logits(logits, goal, reduction="sum")
    box, cls, dfl = V8_GAINS
    return box * parts[0] / total, cls * classes / total, dfl * parts[1] / total


# --8<-- [end:loss]


# --8<-- [start:blocks]
def silu_block(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation, SiLU."""
    return conv_block(in_channels, out_channels, kernel, stride, nn.SiLU())


class Bottleneck(nn.Module):
    """Two convolutions of one width, with or without the input added."""

    def __init__(self, width: int, shortcut: bool, kernels: tuple[int, int] = (3, 3)) -> None:
        """Build both."""
        super().__init__()
        self.layers = nn.Sequential(*(silu_block(width, width, kernel) for kernel in kernels))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), the same shape."""
        return x + self.layers(x) if self.shortcut else self.layers(x)


class C2f(nn.Module):
    """Split the channels in two, send one half through bottlenecks, keep what each one gives."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, shortcut: bool) -> None:
        """`depth` bottlenecks of half the output's width."""
        super().__init__()
        half = out_channels // 2
        self.split = silu_block(in_channels, 2 * half)
        self.blocks = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(depth))
        self.mix = silu_block((2 + depth) * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        parts = list(self.split(x).chunk(2, dim=1))  # 2 x (B, C'/2, h, w)
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.mix(torch.cat(parts, dim=1))


class DecoupledHead(nn.Module):
    """Two branches on each map: distances, and classes; no objectness, no anchors.

    Args:
        channels: of each map, fine to coarse.
        classes: K.
        bins: R.
    """

    def __init__(self, channels: Sequence[int], classes: int, bins: int) -> None:
        """The width of a branch is the same on all maps."""
        super().__init__()
        width = max(16, channels[0] // 4, 4 * bins), max(channels[0], min(classes, 100))
        self.classes, self.bins = classes, bins
        self.boxes, self.logits = (
            nn.ModuleList(
                nn.Sequential(silu_block(C, W, 3), silu_block(W, W, 3), nn.Conv2d(W, out, 1))
                for C in channels
            )
            for W, out in zip(width, (4 * bins, classes), strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) to bins (B, N, 4, R) and logits (B, N, K)."""
        boxes = [f(x).flatten(2) for f, x in zip(self.boxes, maps, strict=True)]
        logits = [f(x).flatten(2) for f, x in zip(self.logits, maps, strict=True)]
        rows = torch.cat(boxes, dim=2)  # (B, 4 R, N)
        bins = rows.reshape(len(rows), 4, self.bins, rows.shape[2])  # (B, 4, R, N)
        return bins.permute(0, 3, 1, 2), torch.cat(logits, dim=2).transpose(1, 2)


# --8<-- [end:blocks]


# --8<-- [start:core]
V8_SIZES = {  # depth, width and most channels (before the width) of the official configuration
    "n": (1 / 3, 0.25, 1024),
    "s": (1 / 3, 0.5, 1024),
    "m": (2 / 3, 0.75, 768),
    "l": (1.0, 1.0, 512),
    "x": (1.0, 1.25, 512),
}


def v8_size(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and depths of YOLOv8n, s, m, l or x, for YOLOv8."""
    if name not in V8_SIZES:
        raise ValueError(f"name must be one of {', '.join(V8_SIZES)}, got {name!r}")
    depth, width, most = V8_SIZES[name]
    widths = tuple(int(width * min(C, most)) for C in (64, 128, 256, 512, 1024))
    return widths, tuple(round(depth * n) for n in (3, 6, 6, 3))


class YOLOv8(nn.Module):
    """Backbone of C2f and SPPF, PAN with concatenation, decoupled head.

    Batch normalisation outside SPPF has PyTorch's settings; the official code always eps 1e-3 and
    momentum 0.03.

    Args:
        classes: K.
        widths: channels of the stem and of the four stages, each of which halves the map.
        depths: bottlenecks of each stage; the neck has those of the first.
        bins: R; a side lies at most R - 1 cells from its point.
        generator: for the weights.
    """

    def __init__(
        self,
        classes: int = 4,
        widths: Sequence[int] = (8, 16, 32, 64, 96),
        depths: Sequence[int] = (1, 1, 1, 1),
        bins: int = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the parts."""
        super().__init__()
        _check_model(classes, widths, depths, bins)
        self.stem = silu_block(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(silu_block(a, b, 3, 2), C2f(b, b, depth, shortcut=True))
            for a, b, depth in zip(widths, widths[1:], depths, strict=False)
        )
        fine, middle, coarse = widths[2:]
        self.pool = SPPBlock(coarse, coarse)
        pairs = [(coarse + middle, middle), (middle + fine, fine)]
        self.up = nn.ModuleList(C2f(a, b, depths[0], shortcut=False) for a, b in pairs)
        self.shrink = nn.ModuleList(silu_block(C, C, 3, 2) for C in (fine, middle))
        pairs = [(fine + middle, middle), (middle + coarse, coarse)]
        self.down = nn.ModuleList(C2f(a, b, depths[0], shortcut=False) for a, b in pairs)
        self.head = DecoupledHead((fine, middle, coarse), classes, bins)
        initialize(self, generator)
        with torch.no_grad():
            for branch in self.head.logits:
                last = branch.get_submodule("2")
                assert isinstance(last, nn.Conv2d) and last.bias is not None
                last.weight.normal_(0, 0.01, generator=generator)
                last.bias.fill_(prior_bias(0.01))  # official: it depends on stride and classes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, dict[int, tuple[int, int]]]:
        """Images (B, 3, H, W) to bins (B, N, 4, R), logits (B, N, K) and the sizes of the maps."""
        check_images(images)
        x: Tensor = self.stem(images)  # (B, C, H/2, W/2)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps = [*maps[1:3], self.pool(maps[3])]  # strides 8, 16, 32
        for i, block in zip((1, 0), self.up, strict=True):  # coarse to fine
            large = F.interpolate(maps[i + 1], size=maps[i].shape[-2:])
            maps[i] = block(torch.cat([large, maps[i]], dim=1))
        for i, (shrink, block) in enumerate(zip(self.shrink, self.down, strict=True)):
            maps[i + 1] = block(torch.cat([shrink(maps[i]), maps[i + 1]], dim=1))
        bins, logits = self.head(maps)
        sizes = {s: (y.shape[2], y.shape[3]) for s, y in zip((8, 16, 32), maps, strict=True)}
        return bins, logits, sizes

    def loss(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The sum of the three losses, a scalar; see v8_loss for the targets."""
        bins, logits, maps = self(images)
        box, classes, dfl = v8_loss(bins, logits, maps, targets)
        return box + classes + dfl

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        min_score: float = 0.01,
        iou_threshold: float = 0.7,
        candidates: int = 400,
        most: int = 100,
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image; see pick_detections. Call eval() first."""
        bins, logits, maps = self(images)
        points, strides = grid_points(maps, images.device)
        boxes = decode_distances(expected_distance(bins), points, strides)  # (B, N, 4)
        size = (images.shape[2], images.shape[3])
        limits = (min_score, iou_threshold, candidates, most)
        return pick_detections(boxes, logits.to(boxes.dtype).sigmoid(), size, *limits)


# --8<-- [end:core]


def _check_maps(maps: Mapping[int, tuple[int, int]]) -> None:
    if not maps or any(min(stride, *size) < 1 for stride, size in maps.items()):
        raise ValueError(f"maps must be stride -> (h, w), positive, got {dict(maps)}")


def _check_bins(logits: Tensor, target: Tensor | None = None) -> None:
    if logits.ndim < 1 or logits.shape[-1] < 2 or not logits.is_floating_point():
        found = f"{logits.dtype} {tuple(logits.shape)}"
        raise ValueError(f"logits must be floating (..., R), R at least 2, got {found}")
    if target is not None and target.shape != logits.shape[:-1]:
        found = f"{tuple(logits.shape)} and {tuple(target.shape)}"
        raise ValueError(f"logits and target must be (..., R) and (...), got {found}")
    if target is not None and target.isnan().any():
        raise ValueError("target must be numbers, got nan")


def _check_distances(distances: Tensor, points: Tensor, strides: Tensor) -> None:
    N = points.shape[0] if points.ndim == 2 else -1
    good = points.shape == (N, 2) and strides.shape == (N, 1)
    if not good or distances.ndim < 2 or distances.shape[-2:] != (N, 4):
        found = f"{tuple(distances.shape)}, {tuple(points.shape)} and {tuple(strides.shape)}"
        raise ValueError(f"need (..., N, 4), points (N, 2) and strides (N, 1), got {found}")


def _check_assign(
    scores: Tensor, boxes: Tensor, points: Tensor, truths: Tensor, labels: Tensor, topk: int
) -> None:
    check_boxes("boxes_xyxy", boxes)
    check_boxes("truths_xyxy", truths)
    N = boxes.shape[0] if boxes.ndim == 2 else -1
    if scores.ndim != 2 or scores.shape[0] != N or points.shape != (N, 2):
        found = f"{tuple(scores.shape)}, {tuple(boxes.shape)} and {tuple(points.shape)}"
        raise ValueError(f"need scores (N, K), boxes (N, 4) and points (N, 2), got {found}")
    if truths.ndim != 2 or labels.shape != truths.shape[:1]:
        found = f"{tuple(truths.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"truths must be (n, 4) and labels (n,), got {found}")
    if labels.dtype != torch.int64 or ((labels < 0) | (labels >= scores.shape[1])).any():
        raise ValueError(f"labels must be int64 from 0 to {scores.shape[1] - 1}, got {labels}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores must be probabilities, got {float(scores.min())} at least")
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")


def _check_loss(bins: Tensor, logits: Tensor, maps: Mapping[int, tuple[int, int]]) -> None:
    _check_maps(maps)
    N = sum(h * w for h, w in maps.values())
    good = bins.ndim == 4 and logits.ndim == 3 and bins.shape[2:3] == (4,)
    if not good or bins.shape[:2] != logits.shape[:2] or logits.shape[1] != N:
        found = f"{tuple(bins.shape)} and {tuple(logits.shape)}"
        raise ValueError(f"need bins (B, {N}, 4, R) and logits (B, {N}, K), got {found}")


def _check_model(classes: int, widths: Sequence[int], depths: Sequence[int], bins: int) -> None:
    if len(widths) != 5 or len(depths) != 4 or min(*widths, *depths) < 1 or min(widths) < 2:
        found = f"{list(widths)} and {list(depths)}"
        raise ValueError(f"need 5 widths from 2 on and 4 depths from 1 on, got {found}")
    if classes < 1 or bins < 2:
        raise ValueError(f"classes must be at least 1, bins 2, got {classes} and {bins}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    for name in V8_SIZES:
        with torch.device("meta"):  # counted without memory
            model = YOLOv8(80, *v8_size(name), bins=16)
        print(f"YOLOv8{name}: {sum(p.numel() for p in model.parameters()):,} parameters")

    logits = torch.tensor([0.0, 0.0, 4.0, 4.0, 0.0, 0.0])  # a distance between 2 and 3 cells
    print("distance:", round(float(expected_distance(logits)), 2), end="  ")
    print(
        "DFL at 2.5, at 4:",
        [round(float(dfl_loss(logits, torch.tensor(x))), 2) for x in (2.5, 4.0)],
    )

    points, strides = grid_points({8: (12, 12), 16: (6, 6), 32: (3, 3)})
    distances = torch.full((len(points), 4), 1.5)
    boxes = decode_distances(distances, points, strides)  # 24, 48 and 96 pixels wide
    truths = torch.tensor([[10.0, 10.0, 40.0, 40.0], [20.0, 30.0, 70.0, 85.0]])
    scores = torch.full((len(points), 4), 0.5)
    owner, quality = task_aligned_assign(scores, boxes, points, truths, torch.tensor([1, 2]))
    for i in range(2):
        mine = [round(float(q), 2) for q in quality[owner == i].sort(descending=True).values]
        print(f"truth {i}: {len(mine)} places, goals {mine[:4]} ...")
    # --8<-- [end:demo]
