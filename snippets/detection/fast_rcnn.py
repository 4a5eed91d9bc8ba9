"""Fast R-CNN: one map for all proposals, RoI pooling, a head of two outputs, multi-task loss.

Paper: Girshick, "Fast R-CNN", ICCV 2015, sections 2.1 to 2.3, eqs. (1) to (3).
       https://arxiv.org/abs/1504.08083
Needs: Python >= 3.10, torch >= 2.0, and beside this file rcnn.py, ssd.py and what they import:
       anchors.py, box_regression.py, iou.py, nms.py, region_proposal_network.py,
       roi_pooling_and_align.py; backbone_neck_head.py in ../concepts.
Axes:  B images, N proposals of an image, n regions (RoIs) of all images, G ground truths, K classes
       without the background, which is the last one; C channels, s the side of a pooled region.
       A box is (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import conv, initialize
from .box_regression import BoxCodec, deltas_of_class, smooth_l1_loss
from .rcnn import (
    check_images,
    check_target,
    check_targets,
    label_proposals,
    proposals_of,
    select_detections,
    sliding_windows,
    without_crowd,
)
from .region_proposal_network import sample
from .roi_pooling_and_align import roi_pool
from .ssd import StridedBackbone

__all__ = [
    "BoxHead",
    "FastRCNN",
    "Regions",
    "SharedMap",
    "detections_of_regions",
    "fast_rcnn_loss",
    "sample_regions",
]

Target = Mapping[str, Tensor]
CODEC = BoxCodec(weights=(10.0, 10.0, 5.0, 5.0))


# --8<-- [start:head]
class BoxHead(nn.Module):
    """Two hidden layers that classification and regression share.

    Args:
        channels: C, of a pooled region.
        size: s, its side.
        hidden: units of each layer; 4096 in VGG-16.
        classes: K.
        generator: for the weights of the two outputs, with standard deviations of 0.01 and 0.001.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        hidden: int,
        classes: int,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        _check_positive(channels=channels, size=size, hidden=hidden, classes=classes)
        self.fc1 = nn.Linear(channels * size * size, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.logits = nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, 4 * classes)
        initialize(self, generator)
        with torch.no_grad():
            self.logits.weight.normal_(0, 0.01, generator=generator)
            self.deltas.weight.normal_(0, 0.001, generator=generator)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Regions (n, C, s, s) to logits (n, K + 1), background last, and deltas (n, K, 4)."""
        x = self.fc1(pooled.flatten(1)).relu()  # (n, hidden)
        x = self.fc2(x).relu()  # (n, hidden)
        return self.logits(x), self.deltas(x).unflatten(1, (-1, 4))


# --8<-- [end:head]


# --8<-- [start:sample]
@dataclass(frozen=True)
class Regions:
    """The sampled regions of one image and what they should learn.

    boxes (S, 4), positives first; labels (S,), K is background; truth (P,), the index of the
    truth of each positive; goals (P, 4), the deltas that lead to it.
    """

    boxes: Tensor
    labels: Tensor
    truth: Tensor
    goals: Tensor


def sample_regions(
    proposals_xyxy: Tensor,
    target: Target,
    classes: int,
    count: int = 64,
    positive_share: float = 0.25,
    high: float = 0.5,
    low: float = 0.0,
    generator: torch.Generator | None = None,
    codec: BoxCodec = CODEC,
) -> Regions:
    """Draw the regions of one image for one step.

    Args:
        proposals_xyxy: (N, 4), constants; the ground truths are added to them, so N may be 0.
        target: boxes (G, 4) of positive size, labels (G,); G may be 0. No crowds.
        classes: K.
        count: S at most; 64 in the paper (128 of two images), 512 in torchvision.
        positive_share: of `count`, at most.
        high, low: positive from IoU `high` on, background from `low` to below it, else ignored.
            The paper's low of 0.1 is "a heuristic for hard example mining"; torchvision has 0.
        generator: draws.
        codec: of the goals.
    """
    check_target(target, classes, proposals_xyxy.device)
    truths = target["boxes"].to(proposals_xyxy.dtype)  # (G, 4)
    boxes = torch.cat([proposals_xyxy.detach(), truths])  # (N + G, 4)
    labels, found = label_proposals(boxes, target, classes, high, low)
    found = torch.where(labels < 0, -2, found)
    positive, background = sample(found, count, positive_share, generator)
    chosen, truth = torch.cat([positive, background]), found[positive]
    goals = codec.encode(truths[truth], boxes[positive])  # (P, 4)
    return Regions(boxes[chosen], labels[chosen], truth, goals)


# --8<-- [end:sample]


# --8<-- [start:loss]
def fast_rcnn_loss(
    logits: Tensor, deltas: Tensor, labels: Tensor, goals: Tensor, beta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The two terms of eq. (1), means over all sampled regions, background too.

    Args:
        logits: (S, K + 1), background last. (The paper and torchvision: first.)
        deltas: (S, K, 4); only those of the true class learn.
        labels: int64 (S,), from 0 to K.
        goals: (P, 4), for the P labels below K, in their order.
        beta: of smooth L1; 1 in the paper, 1/9 in torchvision.

    Returns:
        Classification and box loss, scalars, at least in float32. Without regions both are 0 with
        gradient 0 (torchvision: nan). NaN in a prediction that counts gives NaN.
    """
    _check_loss(logits, deltas, labels, goals)
    S = max(len(logits), 1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    classification = F.cross_entropy(wide, labels, reduction="sum") / S
    positive = labels < logits.shape[1] - 1  # (S,)
    chosen = deltas_of_class(deltas[positive], labels[positive])  # (P, 4)
    return classification, smooth_l1_loss(chosen, goals, beta).sum() / S


# --8<-- [end:loss]


# --8<-- [start:detect]
def detections_of_regions(
    logits: Tensor,
    deltas: Tensor,
    regions: Sequence[Tensor],
    image_size: tuple[int, int],
    min_score: float = 0.05,
    iou_threshold: float = 0.5,
    most: int = 100,
    codec: BoxCodec = CODEC,
) -> list[dict[str, Tensor]]:
    """What the head says, as detections of each image by descending score.

    Args:
        logits: (n, K + 1), background last.
        deltas: (n, K, 4), finite.
        regions: of each image (N, 4), of positive size; n is the sum of their numbers.
        image_size, min_score, iou_threshold, most: see select_detections in rcnn.py.
        codec: of the deltas.

    Returns:
        For each image boxes (d, 4), scores (d,), probabilities, and labels (d,); d may be 0.
    """
    n = sum(len(boxes) for boxes in regions)
    if logits.ndim != 2 or deltas.shape != (n, logits.shape[1] - 1, 4) or len(logits) != n:
        found = f"{tuple(logits.shape)} and {tuple(deltas.shape)}"
        raise ValueError(f"for {n} regions need ({n}, K + 1) and ({n}, K, 4), got {found}")
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    probs = wide.softmax(dim=-1)[:, :-1]  # (n, K)
    detections: list[dict[str, Tensor]] = []
    start = 0
    for boxes in regions:
        part = slice(start, start + len(boxes))
        moved = codec.decode(deltas[part].detach(), boxes[:, None])  # (N, K, 4)
        limits = (min_score, iou_threshold, most)
        detections.append(select_detections(probs[part], moved, image_size, *limits))
        start += len(boxes)
    return detections


# --8<-- [end:detect]


# --8<-- [start:core]
class SharedMap(nn.Module):
    """One map (B, C, H/4, W/4) of an image: all stages of a backbone, enlarged and added.

    The paper takes the last map of VGG-16, of stride 16, too coarse for images this small.
    """

    stride = 4

    def __init__(self, widths: tuple[int, int, int, int, int], channels: int) -> None:
        """A residual backbone, a 1x1 convolution for each stage, a 3x3 one for the sum."""
        super().__init__()
        self.backbone = StridedBackbone(widths, blocks=1)
        self.lateral = nn.ModuleList(conv(width, channels, 1) for width in widths[1:])
        self.smooth = conv(channels, channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the map, which RoI pooling reads for every region."""
        check_images(images)
        stages: Mapping[int, Tensor] = self.backbone(images)
        maps = [layer(x) for layer, x in zip(self.lateral, stages.values(), strict=True)]
        size = maps[0].shape[-2:]
        fused = torch.stack([F.interpolate(x, size=size) for x in maps]).sum(dim=0)
        return self.smooth(fused.relu()).relu()  # (B, C, h, w)


class FastRCNN(nn.Module):
    """The detector; proposals come from outside.

    Args:
        classes: K.
        widths: of the backbone, see StridedBackbone.
        channels: C, of the shared map.
        hidden: of the head.
        size: s; 7 in the paper.
        samples, positive_share, low, beta: see sample_regions and fast_rcnn_loss.
        generator: for the weights.
    """

    def __init__(
        self,
        classes: int = 4,
        widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128),
        channels: int = 48,
        hidden: int = 128,
        size: int = 7,
        samples: int = 32,
        positive_share: float = 0.25,
        low: float = 0.0,
        beta: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build backbone and head."""
        super().__init__()
        self.classes, self.size, self.beta = classes, size, beta
        self.samples, self.positive_share, self.low = samples, positive_share, low
        self.shared = SharedMap(widths, channels)
        initialize(self.shared, generator)
        self.head = BoxHead(channels, size, hidden, classes, generator)

    def pool(self, features: Tensor, regions: Sequence[Tensor]) -> Tensor:
        """Regions (N, 4) of each image to (n, C, s, s)."""
        return roi_pool(features, regions, self.size, 1 / self.shared.stride)

    def forward(self, images: Tensor, proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), (N, 4) for each, to logits (n, K + 1) and deltas (n, K, 4)."""
        proposals = proposals_of(images, proposals)
        return self.head(self.pool(self.shared(images), proposals))

    def loss(
        self,
        images: Tensor,
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The multi-task loss, a scalar, of regions sampled from the proposals of each image.

        Args:
            images: (B, 3, H, W).
            targets: of each image boxes (G, 4) of positive size and labels (G,), perhaps crowd
                (G,), which are not learned; G may be 0.
            proposals: of each image (N, 4); None: sliding_windows.
            generator: draws the regions.
        """
        proposals = proposals_of(images, proposals)
        check_targets(targets, images, self.classes)
        features: Tensor = self.shared(images)
        regions = self.regions(targets, proposals, generator)
        return sum(self.region_losses(features, regions), features.new_zeros(()))

    def regions(
        self,
        targets: Sequence[Target],
        proposals: Sequence[Tensor],
        generator: torch.Generator | None,
    ) -> list[Regions]:
        """Those of each image that learn in this step; see sample_regions."""
        options = (self.classes, self.samples, self.positive_share, 0.5, self.low, generator)
        return [
            sample_regions(boxes, without_crowd(target), *options)
            for boxes, target in zip(proposals, targets, strict=True)
        ]

    def region_losses(self, features: Tensor, regions: Sequence[Regions]) -> tuple[Tensor, Tensor]:
        """Classification and box loss of sampled regions."""
        logits, deltas = self.head(self.pool(features, [r.boxes for r in regions]))
        labels = torch.cat([r.labels for r in regions])
        goals = torch.cat([r.goals for r in regions])
        return fast_rcnn_loss(logits, deltas, labels, goals, self.beta)

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        proposals: Sequence[Tensor] | None = None,
        min_score: float = 0.05,
        iou_threshold: float = 0.5,
        most: int = 100,
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image. Call eval() first."""
        proposals = proposals_of(images, proposals)
        size = (images.shape[2], images.shape[3])
        limits = (min_score, iou_threshold, most)
        return self.detect_on(self.shared(images), proposals, size, *limits)

    def detect_on(
        self,
        features: Tensor,
        proposals: Sequence[Tensor],
        image_size: tuple[int, int],
        min_score: float,
        iou_threshold: float,
        most: int,
    ) -> list[dict[str, Tensor]]:
        """Detections from the shared map."""
        outputs: tuple[Tensor, Tensor] = self.head(self.pool(features, proposals))
        limits = (min_score, iou_threshold, most)
        return detections_of_regions(*outputs, proposals, image_size, *limits)


# --8<-- [end:core]


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_loss(logits: Tensor, deltas: Tensor, labels: Tensor, goals: Tensor) -> None:
    devices = [str(x.device) for x in (logits, deltas, labels, goals)]
    if len(set(devices)) > 1:
        raise ValueError(f"logits, deltas, labels and goals need one device, got {devices}")
    S = labels.shape
    bad = len(S) != 1 or logits.shape[:1] != S or logits.ndim != 2 or logits.shape[1] < 2
    if bad or not logits.is_floating_point():
        found = f"{logits.dtype} {tuple(logits.shape)} and {tuple(S)}"
        raise ValueError(f"logits must be floating (S, K + 1) and labels (S,), got {found}")
    K = logits.shape[1] - 1
    if deltas.shape != (*S, K, 4):
        raise ValueError(f"deltas must be ({S[0]}, {K}, 4), got {tuple(deltas.shape)}")
    if labels.dtype != torch.int64 or ((labels < 0) | (labels > K)).any():
        raise ValueError(f"labels must be int64 from 0 to {K}, got {labels}")
    positives = int((labels < K).sum())
    if goals.shape != (positives, 4):
        raise ValueError(f"goals must be ({positives}, 4), got {tuple(goals.shape)}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    model = FastRCNN(classes=4, generator=generator)
    images = torch.rand(2, 3, 96, 96, generator=generator)
    truth = torch.tensor([[12.0, 20.0, 60.0, 52.0], [50.0, 60.0, 80.0, 90.0]])
    targets = [
        dict(boxes=truth, labels=torch.tensor([1, 3])),
        dict(boxes=truth[:0], labels=torch.tensor([], dtype=torch.int64)),  # an empty image
    ]
    windows = sliding_windows((96, 96))
    for target in targets:
        regions = sample_regions(windows, target, classes=4, generator=generator)
        counts = [int(n) for n in regions.labels.bincount(minlength=5)]
        print("sampled of each class and background:", counts)
    logits, deltas = model(images, [windows, windows[:100]])
    print("logits", tuple(logits.shape), "deltas", tuple(deltas.shape))
    loss = model.loss(images, targets, generator=generator)
    found = model.eval().detect(images)
    print(f"loss {loss.item():.1f}, detections", [len(one["scores"]) for one in found])
    # --8<-- [end:demo]
