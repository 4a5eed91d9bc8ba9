"""SSD: default boxes on several maps, hard negative mining, multibox loss and a tiny detector.

Paper: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, sections 2.1, 2.2, 3.1, 3.7.
       https://arxiv.org/abs/1512.02325
Needs: Python >= 3.10, torch >= 2.0, and anchors.py, box_regression.py, iou.py and nms.py beside
       this file, backbone_neck_head.py in ../concepts.
Axes:  B images, N default boxes of an image, A of a cell, G ground truths, K classes without the
       background, which is the last column of the logits; H, W of an image, h, w of a map.
       A box is (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import ResidualBackbone, initialize
from .anchors import anchor_shapes, grid_anchors, match
from .box_regression import BoxCodec, clip_to_image, smooth_l1_loss
from .iou import box_iou, check_boxes
from .nms import batched_nms

__all__ = [
    "SSD",
    "SSD300_MAPS",
    "SSD300_RATIOS",
    "MultiBoxHead",
    "StridedBackbone",
    "default_box_scales",
    "default_box_shapes",
    "default_boxes",
    "detections_from",
    "hard_negatives",
    "match_default_boxes",
    "multibox_loss",
]


# --8<-- [start:boxes]
SSD300_MAPS = (38, 19, 10, 5, 3, 1)  # cells along one side: conv4_3, conv7, conv8_2, ... conv11_2
SSD300_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))  # and their inverses, and 1 twice


def default_box_scales(
    maps: int, low: float = 0.2, high: float = 0.9, first: float | None = None
) -> tuple[float, ...]:
    """The scales of eq. (4), as shares of the image's side, and one more for the last map's extra.

    Args:
        maps: how many; one map alone gets `low`, and `high` is the one more.
        low, high: s_min and s_max, 0 < low <= high.
        first: a scale of its own for the finest map; eq. (4) is then for the others. SSD300 has
            0.1 for VOC.

    Returns:
        maps + 1 scales. The paper leaves the last open; here it is one step above `high`.
        torchvision's default is 1, the paper's code has 1.05 after steps rounded down to 0.17.
    """
    _check_scales(maps, low, high, first)
    if first is not None:
        return (first, *(default_box_scales(maps - 1, low, high) if maps > 1 else (low,)))
    step = (high - low) / max(maps - 1, 1)
    return tuple(low + step * k for k in range(maps + 1))


def default_box_shapes(scale: float, next_scale: float, ratios: Sequence[float]) -> Tensor:
    """Shapes of a cell, (2 + 2 R, 2) of w, h: a square of each size, then r and 1/r of each ratio.

    The second square has the geometric mean of both scales. A ratio is **width / height**.
    """
    squares = anchor_shapes((scale, math.sqrt(scale * next_scale)), (1,))  # (2, 2)
    others = anchor_shapes((scale,), [x for r in ratios for x in (1 / r, r)])  # (2 R, 2)
    return torch.cat([squares, others])


def default_boxes(
    maps: Sequence[tuple[int, int]],
    scales: Sequence[float],
    ratios: Sequence[Sequence[float]],
    size: float,
    strides: Sequence[float] | None = None,
) -> Tensor:
    """The default boxes of all maps, one after another.

    Args:
        maps: (h, w) of each.
        scales: one more than maps, see default_box_scales.
        ratios: of each map, width / height, above 1; see default_box_shapes.
        size: pixels of scale 1, the side of the square image.
        strides: pixels from cell to cell of each map; by default size / h and size / w, so that
            the cells share the image out, as in the paper. (Its code: 8, 16, 32, 64, 100, 300.)

    Returns:
        float32 (N, 4) xyxy; map by map in the order of grid_anchors. They may leave the image.
    """
    _check_maps(maps, scales, ratios, size, strides)
    boxes: list[Tensor] = []
    for k, (h, w) in enumerate(maps):
        stride = (size / max(h, 1), size / max(w, 1)) if strides is None else strides[k]
        shapes = default_box_shapes(scales[k] * size, scales[k + 1] * size, ratios[k])  # (A, 2)
        boxes.append(grid_anchors((h, w), stride, shapes))  # (h*w*A, 4)
    return torch.cat(boxes)  # (N, 4)


# --8<-- [end:boxes]


# --8<-- [start:match]
def match_default_boxes(iou: Tensor, threshold: float = 0.5) -> Tensor:
    """Give each ground truth a default box of its own, and the rest to what they overlap enough.

    Args:
        iou: (G, N), floating, each ground truth with each default box.
        threshold: a box whose best IoU is at least this is positive; above 0, at most 1.

    Returns:
        (N,) int64: the index of the ground truth, or -1 for background. As in the paper's code,
        the pair with the largest IoU is settled first, then the largest among the others. In
        torchvision two truths with one best box both claim it, and one of them goes without.
        A truth that overlaps nothing, or for which no box is left, gets none.
    """
    found = match(iou, high=threshold, low=threshold)  # (N,)
    left = iou.detach().clone()
    for _ in range(min(iou.shape)):
        truth, box = divmod(int(left.argmax()), iou.shape[1])
        if left[truth, box] <= 0:
            break
        found[box] = truth
        left[truth], left[:, box] = -1, -1
    return found


# --8<-- [end:match]


# --8<-- [start:loss]
def hard_negatives(loss: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """In each image the negatives of largest loss, at most `ratio` times as many as positives.

    Args:
        loss: (B, N), floating; of the classification.
        positive: bool (B, N).
        ratio: at least 0. An image without positives gets no negatives.

    Returns:
        bool (B, N). Of equal losses the first; NaN counts as the largest.
    """
    _check_mining(loss, positive, ratio)
    wanted = (ratio * positive.sum(1, keepdim=True)).floor()  # (B, 1)
    left = loss.detach().masked_fill(positive, -torch.inf)  # (B, N)
    order = left.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)  # (B, N), 0 for the largest
    return (rank < wanted) & ~positive


def multibox_loss(
    logits: Tensor,
    deltas: Tensor,
    boxes_xyxy: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    codec: BoxCodec | None = None,
    threshold: float = 0.5,
    ratio: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """Classification and localization loss, whose sum is minimised: eqs. (1) to (3).

    Args:
        logits: (B, N, K + 1), the background last. (The paper and torchvision: first.)
        deltas: (B, N, 4), predicted offsets from the default boxes.
        boxes_xyxy: (N, 4), the default boxes.
        targets: of each image, boxes (n, 4) of positive size and labels (n,), int64 from 0 to
            K - 1; n may be 0. Leave crowds out first: nothing here looks at them.
        codec: BoxCodec(weights=(10, 10, 5, 5)) by default, that is "variances" of 0.1 and 0.2.
        threshold: see match_default_boxes.
        ratio: see hard_negatives.

    Returns:
        Two scalars, sums over all images divided by the number of positives in all of them; both
        0, with gradient 0, where there are none. At least in float32. NaN among the positives
        or the mined makes the loss NaN.

    Raises:
        ValueError: shapes, devices or labels that do not fit, bad boxes.
    """
    _check_loss(logits, deltas, boxes_xyxy, targets)
    codec = codec or BoxCodec(weights=(10.0, 10.0, 5.0, 5.0))
    classes = logits.shape[2] - 1
    label = torch.full(logits.shape[:2], classes, device=logits.device)  # (B, N), background
    matched: list[Tensor] = [boxes_xyxy[:0]]
    for row, target in zip(label, targets, strict=True):
        truths = target["boxes"].to(boxes_xyxy.dtype)  # (G, 4)
        truth = match_default_boxes(box_iou(truths, boxes_xyxy), threshold)  # (N,)
        row[truth >= 0] = target["labels"][truth[truth >= 0]]
        matched.append(truths[truth[truth >= 0]])
    positive = label < classes
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide.transpose(1, 2), label, reduction="none")  # (B, N)
    chosen = positive | hard_negatives(loss, positive, ratio)
    anchors = boxes_xyxy.expand(len(targets), -1, -1)[positive]  # (P, 4)
    goal = codec.encode(torch.cat(matched), anchors)  # (P, 4)
    count = positive.sum().clamp(min=1)
    return loss[chosen].sum() / count, smooth_l1_loss(deltas[positive], goal).sum() / count


# --8<-- [end:loss]


# --8<-- [start:detect]
def detections_from(
    logits: Tensor,
    deltas: Tensor,
    boxes_xyxy: Tensor,
    image_size: tuple[int, int],
    codec: BoxCodec | None = None,
    min_score: float = 0.01,
    iou_threshold: float = 0.45,
    candidates: int = 400,
    most: int = 200,
) -> list[dict[str, Tensor]]:
    """What a head says, as detections of each image by descending score.

    Args:
        logits, deltas, boxes_xyxy, codec: as for multibox_loss.
        image_size: (H, W), to clip the boxes to.
        min_score: scores must be above this.
        iou_threshold: of the NMS, within each class.
        candidates: boxes of each class that go into the NMS (400 in the paper's code).
        most: detections of an image.

    Returns:
        For each image boxes (n, 4), scores (n,) and labels (n,); n may be 0. One default box may
        give detections of several classes. The loss's ValueErrors, and deltas that are not finite.
    """
    _check_outputs(logits, deltas, boxes_xyxy)
    codec = codec or BoxCodec(weights=(10.0, 10.0, 5.0, 5.0))
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    probs = wide.softmax(dim=-1)[..., :-1]  # (B, N, K)
    decoded = clip_to_image(codec.decode(deltas.detach(), boxes_xyxy), image_size)  # (B, N, 4)
    found: list[dict[str, Tensor]] = []
    for prob, box in zip(probs, decoded, strict=True):
        top, index = prob.topk(min(candidates, len(prob)), dim=0)  # (n, K), (n, K)
        row, label = (top > min_score).nonzero(as_tuple=True)
        scores, boxes = top[row, label], box[index[row, label]]
        kept = batched_nms(boxes, scores, label, iou_threshold)[:most]
        found.append(dict(boxes=boxes[kept], scores=scores[kept], labels=label[kept]))
    return found


# --8<-- [end:detect]


# --8<-- [start:core]
class StridedBackbone(ResidualBackbone):
    """The residual backbone with all of its maps, of stride 4, 8, 16 and 32."""

    def __init__(self, widths: tuple[int, int, int, int, int], blocks: int = 1) -> None:
        """Channels of the stem and of the four stages; residual blocks in each stage."""
        super().__init__(widths, blocks)
        self.out_channels = dict(zip((4, 8, 16, 32), widths[1:], strict=True))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps (B, C, ceil(H / stride), ceil(W / stride)) of (B, 3, H, W), fine to coarse."""
        x: Tensor = self.stem(images).relu()  # (B, C, H/2, W/2)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)  # (B, C, h/2, w/2)
            maps.append(x)
        return dict(zip(self.out_channels, maps, strict=True))


class MultiBoxHead(nn.Module):
    """For each map two 3x3 convolutions: K + 1 logits and four deltas for each default box.

    Args:
        channels: of each map.
        per_cell: A of each map.
        classes: K.
    """

    def __init__(self, channels: Sequence[int], per_cell: Sequence[int], classes: int) -> None:
        """Nothing is shared between the maps."""
        super().__init__()
        _check_head(channels, per_cell, classes)
        pairs = list(zip(channels, per_cell, strict=True))
        self.logits = nn.ModuleList(nn.Conv2d(C, A * (classes + 1), 3, padding=1) for C, A in pairs)
        self.deltas = nn.ModuleList(nn.Conv2d(C, A * 4, 3, padding=1) for C, A in pairs)
        self.columns = (classes + 1, 4)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) to logits (B, N, K + 1) and deltas (B, N, 4), as default_boxes."""
        if len(maps) != len(self.logits):
            raise ValueError(f"maps must be {len(self.logits)}, got {len(maps)}")
        out: list[Tensor] = []
        for layers, columns in zip((self.logits, self.deltas), self.columns, strict=True):
            rows: list[Tensor] = []
            for layer, x in zip(layers, maps, strict=True):
                y: Tensor = layer(x).unflatten(1, (-1, columns))  # (B, A, columns, h, w)
                rows.append(y.permute(0, 3, 4, 1, 2).flatten(1, 3))  # (B, h*w*A, columns)
            out.append(torch.cat(rows, dim=1))  # (B, N, columns)
        return out[0], out[1]


class SSD(nn.Module):
    """A small detector for images with sides of about `size` pixels.

    Args:
        classes: K.
        size: pixels of scale 1; the default boxes keep their size whatever the image.
        widths, blocks: see StridedBackbone.
        low, high: scales of the default boxes on the finest and the coarsest map.
        ratios: of each map, width / height, above 1.
        generator: for the weights.
    """

    def __init__(
        self,
        classes: int = 4,
        size: float = 96,
        widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128),
        blocks: int = 1,
        low: float = 0.13,
        high: float = 0.55,
        ratios: Sequence[Sequence[float]] = ((2,), (2,), (2,), (2,)),
        generator: torch.Generator | None = None,
    ) -> None:
        """Build backbone and head."""
        super().__init__()
        self.size, self.ratios = size, [tuple(r) for r in ratios]
        self.backbone = StridedBackbone(widths, blocks)
        channels = list(self.backbone.out_channels.values())
        self.scales = default_box_scales(len(channels), low, high)
        self.head = MultiBoxHead(channels, [2 + 2 * len(r) for r in self.ratios], classes)
        initialize(self, generator)
        with torch.no_grad():
            for weight in (p for p in self.head.parameters() if p.ndim == 4):
                weight.normal_(0, 0.01, generator=generator)  # no class is preferred at first

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) to logits (B, N, K + 1), deltas (B, N, 4) and boxes (N, 4)."""
        _check_images(images)
        features: dict[int, Tensor] = self.backbone(images)
        logits, deltas = self.head(list(features.values()))
        maps = [(x.shape[2], x.shape[3]) for x in features.values()]
        boxes = default_boxes(maps, self.scales, self.ratios, self.size, list(features))
        return logits, deltas, boxes.to(images.device)

    def loss(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The sum of both losses, a scalar; see multibox_loss for the targets."""
        outputs: tuple[Tensor, Tensor, Tensor] = self(images)
        classification, localization = multibox_loss(*outputs, targets)
        return classification + localization

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        min_score: float = 0.01,
        iou_threshold: float = 0.45,
        candidates: int = 400,
        most: int = 200,
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image; see detections_from. Call eval() first."""
        outputs: tuple[Tensor, Tensor, Tensor] = self(images)
        size = (images.shape[2], images.shape[3])
        limits = (min_score, iou_threshold, candidates, most)
        return detections_from(*outputs, size, None, *limits)


# --8<-- [end:core]


def _check_scales(maps: int, low: float, high: float, first: float | None) -> None:
    if maps < 1:
        raise ValueError(f"maps must be at least 1, got {maps}")
    if not 0 < low <= high < math.inf:
        raise ValueError(f"scales need 0 < low <= high, got {low} and {high}")
    if first is not None and not 0 < first < math.inf:
        raise ValueError(f"first must be positive, got {first}")


def _check_maps(
    maps: Sequence[tuple[int, int]],
    scales: Sequence[float],
    ratios: Sequence[Sequence[float]],
    size: float,
    strides: Sequence[float] | None,
) -> None:
    counts = [len(scales) - 1, len(ratios), len(maps if strides is None else strides)]
    if not maps or any(n != len(maps) for n in counts):
        raise ValueError(
            f"maps, scales - 1, ratios and strides must be as many, at least 1, "
            f"got {len(maps)}, {', '.join(map(str, counts))}"
        )
    if not 0 < size < math.inf:
        raise ValueError(f"size must be positive, got {size}")


def _check_mining(loss: Tensor, positive: Tensor, ratio: float) -> None:
    if positive.dtype != torch.bool or loss.ndim != 2 or loss.shape != positive.shape:
        found = f"{tuple(loss.shape)}, {positive.dtype} {tuple(positive.shape)}"
        raise ValueError(f"loss and positive must be (B, N), positive bool, got {found}")
    if not 0 <= ratio < math.inf:
        raise ValueError(f"ratio must be at least 0, got {ratio}")


def _check_outputs(logits: Tensor, deltas: Tensor, boxes: Tensor) -> None:
    check_boxes("boxes_xyxy", boxes)
    n = boxes.shape[:1]
    good = boxes.ndim == 2 and logits.ndim == 3 and deltas.shape == (*logits.shape[:2], 4)
    if not good or logits.shape[1:2] != n or logits.shape[2] < 2:
        found = f"{tuple(logits.shape)}, {tuple(deltas.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"need (B, N, K + 1), (B, N, 4) and (N, 4), got {found}")
    if len({logits.device, deltas.device, boxes.device}) > 1:
        found = f"{logits.device}, {deltas.device} and {boxes.device}"
        raise ValueError(f"logits, deltas and boxes need one device, got {found}")


def _check_loss(
    logits: Tensor, deltas: Tensor, boxes: Tensor, targets: Sequence[Mapping[str, Tensor]]
) -> None:
    _check_outputs(logits, deltas, boxes)
    if len(targets) != len(logits):
        raise ValueError(f"targets must be one an image, {len(logits)}, got {len(targets)}")
    last = logits.shape[2] - 2
    for target in targets:
        truths, labels = target["boxes"], target["labels"]
        check_boxes("targets' boxes", truths)
        if truths.ndim != 2 or labels.shape != truths.shape[:1]:
            found = f"{tuple(truths.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"a target's boxes must be (n, 4), labels (n,), got {found}")
        if labels.dtype != torch.int64 or ((labels < 0) | (labels > last)).any():
            raise ValueError(f"labels must be int64 from 0 to {last}, got {labels}")
        flat = (truths[:, 2:] <= truths[:, :2]).any(1)
        if flat.any():
            first = [float(x) for x in truths[flat][0]]
            raise ValueError(f"targets' boxes must have a positive size, got {first}")


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")


def _check_head(channels: Sequence[int], per_cell: Sequence[int], classes: int) -> None:
    if len(channels) != len(per_cell) or not channels:
        raise ValueError(f"channels and per_cell differ: {list(channels)}, {list(per_cell)}")
    if min(*channels, *per_cell, classes) < 1:
        found = f"{list(channels)}, {list(per_cell)} and {classes}"
        raise ValueError(f"channels, per_cell and classes must be positive, got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    maps = [(n, n) for n in SSD300_MAPS]
    boxes = default_boxes(maps, default_box_scales(6, first=0.1), SSD300_RATIOS, 300)
    for n, ratios in zip(SSD300_MAPS, SSD300_RATIOS, strict=True):
        each = len(default_box_shapes(0.1, 0.2, ratios))
        print(f"{n:2} x {n:<2} cells, {each} boxes each: {n * n * each:4}")
    print("SSD300:", len(boxes), "default boxes")

    generator = torch.Generator().manual_seed(0)
    model = SSD(classes=4, generator=generator)
    images = torch.rand(1, 3, 96, 96, generator=generator)
    truths = torch.tensor([[12.0, 20.0, 56.0, 50.0], [60.0, 70.0, 72.0, 81.0]])
    logits, deltas, boxes = model(images)  # (B, N, K + 1), (B, N, 4), (N, 4)
    found = match_default_boxes(box_iou(truths, boxes))  # (N,)
    positive = (found >= 0)[None]  # (1, N)
    mined = hard_negatives(-logits.log_softmax(-1)[..., -1], positive)  # (1, N)
    counts = (len(boxes), int(positive.sum()), int(mined.sum()))
    print("tiny SSD: {} boxes, {} matched, {} mined".format(*counts))
    print("of truth 0 and 1:", int((found == 0).sum()), "and", int((found == 1).sum()))
    loss = model.loss(images, [dict(boxes=truths, labels=torch.tensor([1, 3]))])
    print(f"loss {loss.item():.0f}, detections:", len(model.eval().detect(images)[0]["scores"]))
    # --8<-- [end:demo]
