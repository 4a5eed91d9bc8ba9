"""Region proposal network: head, labels, sampling, loss and proposals, on one map or a pyramid.

Paper: Ren et al., "Faster R-CNN", NIPS 2015, sections 3.1 and 3.3 of the journal version.
       https://arxiv.org/abs/1506.01497
       Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 4.1 (one
       head on all levels). https://arxiv.org/abs/1612.03144
Needs: Python >= 3.10, torch >= 2.0, and iou.py, nms.py, anchors.py, box_regression.py beside it.
Axes:  B images, C channels, A anchors of one cell, N of an image (all cells of all levels), G
       ground truths, S sampled anchors, P positive ones among them, K proposals. A box is
       (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from .anchors import anchor_shapes, grid_anchors, inside_image, match
from .box_regression import BoxCodec, clip_to_image, large_enough, smooth_l1_loss
from .iou import box_iou
from .nms import batched_nms

__all__ = [
    "RPNHead",
    "Recipe",
    "RegionProposalNetwork",
    "assign",
    "propose",
    "rpn_loss",
    "sample",
]


# --8<-- [start:head]
Features = Mapping[int, Tensor]  # stride -> (B, C, h, w)


class RPNHead(nn.Module):
    """A 3x3 convolution that two 1x1 convolutions share; all levels share the three.

    Args:
        channels: C, of every map.
        anchors: A, of each cell.
        generator: draws the weights, normal with standard deviation 0.01; biases are 0. On the
            CPU: move the head afterwards.
    """

    def __init__(
        self, channels: int, anchors: int, generator: torch.Generator | None = None
    ) -> None:
        """Draw the weights."""
        super().__init__()
        _check_positive(channels=channels, anchors=anchors)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.logits = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        with torch.no_grad():
            for layer in (self.conv, self.logits, self.deltas):
                layer.weight.normal_(0, 0.01, generator=generator)
                layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0, 0, 0]))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) to objectness logits (B, N) and deltas (B, N, 4).

        N runs over levels, rows, columns and anchors of a cell, as grid_anchors does. The sigmoid
        of a logit is the probability of an object: one number, where the paper has two.
        """
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        for x in features.values():
            x = self.conv(x).relu()  # (B, C, h, w)
            B, _, h, w = x.shape
            N = h * w * self.logits.out_channels
            logits.append(self.logits(x).permute(0, 2, 3, 1).reshape(B, N))
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(B, N, 4))
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


# --8<-- [end:head]


# --8<-- [start:targets]
def assign(
    anchors_xyxy: Tensor,
    truth_xyxy: Tensor,
    high: float = 0.7,
    low: float = 0.3,
    image_size: tuple[int, int] | None = None,
) -> Tensor:
    """What each anchor should learn.

    Args:
        anchors_xyxy: (N, 4), floating.
        truth_xyxy: (G, 4), of the same dtype and device; G may be 0.
        high: positive from this IoU on, as are the best anchors of each truth.
        low: background below it.
        image_size: (H, W). If given, anchors that cross the border are left out before all else,
            so the best anchor of a truth is the best one inside. None: they learn too.

    Returns:
        (N,) int64: index of the truth, -1 background, -2 ignored; see match in anchors.py. A
        truth without area overlaps nothing and is nobody's. Without truths all is background.
    """
    learns = torch.ones_like(anchors_xyxy[:, 0], dtype=torch.bool)
    if image_size is not None:
        learns = inside_image(anchors_xyxy, image_size)
    matched = torch.full((len(anchors_xyxy),), -2, device=anchors_xyxy.device)
    matched[learns] = match(box_iou(truth_xyxy, anchors_xyxy[learns]), high, low, force=True)
    return matched


def sample(
    matched: Tensor,
    count: int = 256,
    positive_share: float = 0.5,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Anchors for one step, drawn without replacement.

    Args:
        matched: (N,) int64, from assign.
        count: S at most; fewer where there are not enough.
        positive_share: of `count`, at most; background fills up what positives leave free.
        generator: decides; of any device.

    Returns:
        Indices of positive and of background anchors, int64 (P,) and (S - P,).
    """
    _check_sample(matched, count, positive_share)

    def draw(which: Tensor, most: int) -> Tensor:
        found = which.nonzero()[:, 0]
        device = generator.device if generator else "cpu"
        order = torch.randperm(len(found), generator=generator, device=device)
        return found[order[:most].to(found.device)]

    positive = draw(matched >= 0, int(count * positive_share))
    return positive, draw(matched == -1, count - len(positive))


# --8<-- [end:targets]


# --8<-- [start:loss]
def rpn_loss(
    logits: Tensor,
    is_object: Tensor,
    deltas: Tensor,
    goals: Tensor,
    beta: float = 1 / 9,
    box_normalizer: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The two terms of eq. (1), for the sampled anchors of all images together.

    Args:
        logits: (S,), floating.
        is_object: (S,), bool.
        deltas: (P, 4), predicted at the positive anchors.
        goals: (P, 4), what they should be.
        beta: of smooth L1; 1/9 in the released code and in torchvision, 1 in Fast R-CNN.
        box_normalizer: divides the second term, positive. None: S, as in torchvision.

    Returns:
        Objectness and box loss, scalars, at least in float32. Without samples both are 0 with
        gradient 0 (torchvision: nan). NaN among the predictions gives NaN.
    """
    _check_loss(logits, is_object, deltas, box_normalizer)
    S = max(len(logits), 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    wanted = is_object.to(logits.dtype)
    objectness = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / S
    box = smooth_l1_loss(deltas, goals, beta).sum() / (box_normalizer or S)
    return objectness, box


# --8<-- [end:loss]


# --8<-- [start:propose]
def propose(
    logits: Tensor,
    deltas: Tensor,
    anchors_xyxy: Tensor,
    counts: Sequence[int],
    image_size: tuple[int, int],
    pre_nms: int,
    post_nms: int,
    iou_threshold: float = 0.7,
    min_size: float = 1e-3,
) -> dict[str, Tensor]:
    """The proposals of one image.

    Args:
        logits: (N,), floating, no NaN.
        deltas: (N, 4), finite.
        anchors_xyxy: (N, 4).
        counts: how many of the N belong to each level; their sum is N.
        image_size: (H, W).
        pre_nms: anchors kept of each level, by logit, before anything is decoded.
        post_nms: proposals kept of all levels together.
        iou_threshold: of the NMS, which runs within each level.
        min_size: proposals less wide or high than this after clipping go.

    Returns:
        boxes (K, 4), xyxy, inside the image, at least in float32, and scores (K,), in [0, 1], by
        descending score, both without gradient; K is from 0 to post_nms.
    """
    _check_propose(logits, deltas, anchors_xyxy, counts)
    _check_counts(pre_nms, post_nms)
    logits, deltas = logits.detach(), deltas.detach()
    best: list[Tensor] = []
    start = 0
    for n in counts:
        order = logits[start : start + n].argsort(descending=True, stable=True)
        best.append(order[:pre_nms] + start)
        start += n
    level = torch.cat([torch.full_like(chosen, i) for i, chosen in enumerate(best)])
    chosen = torch.cat(best)
    boxes = BoxCodec().decode(deltas[chosen], anchors_xyxy[chosen])
    boxes = clip_to_image(boxes, image_size)
    large = large_enough(boxes, min_size)
    boxes, scores, level = boxes[large], logits[chosen][large], level[large]
    kept = batched_nms(boxes, scores, level, iou_threshold)[:post_nms]
    return dict(boxes=boxes[kept], scores=scores[kept].to(boxes.dtype).sigmoid())


# --8<-- [end:propose]


# --8<-- [start:model]
@dataclass(frozen=True)
class Recipe:
    """The paper's numbers, but for the normaliser of the box loss and the smallest size.

    Pairs are (in training, in evaluation).
    """

    high: float = 0.7
    low: float = 0.3
    samples: int = 256  # of an image
    positive_share: float = 0.5
    crossing: bool = False  # whether anchors that cross the border learn
    beta: float = 1 / 9
    by_locations: bool = False  # the box loss is divided by the cells, not by the samples
    box_weight: float = 1.0  # lambda; with by_locations the paper has 10
    pre_nms: tuple[int, int] = (12000, 6000)  # of each level
    post_nms: tuple[int, int] = (2000, 300)
    iou_threshold: float = 0.7
    min_size: float = 1e-3  # 16 in the released code
    offset: float = 0.5  # of anchors in their cell; 0 in torchvision


class RegionProposalNetwork(nn.Module):
    """Feature maps in, proposals and losses out.

    Args:
        channels: C, of every map.
        shapes: stride of a level to the (w, h) of its anchors, (A, 2), the same A everywhere.
        recipe: all other numbers.
        generator: draws the weights of the head.
    """

    def __init__(
        self,
        channels: int,
        shapes: Mapping[int, Tensor],
        recipe: Recipe | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the head; the shapes move with it from device to device."""
        super().__init__()
        _check_shapes(shapes)
        self.strides = list(shapes)
        for stride, shape in shapes.items():
            self.register_buffer(f"shapes_{stride}", shape, persistent=False)
        self.recipe = recipe or Recipe()
        self.head = RPNHead(channels, len(shapes[self.strides[0]]), generator)

    def anchors(self, features: Features) -> list[Tensor]:
        """Those of each level, (h*w*A, 4)."""
        _check_features(features, self.strides)
        shapes = {stride: self.get_buffer(f"shapes_{stride}") for stride in self.strides}
        return [
            grid_anchors((x.shape[2], x.shape[3]), stride, shapes[stride], self.recipe.offset)
            for stride, x in features.items()
        ]

    def forward(
        self,
        features: Features,
        image_size: tuple[int, int],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Propose, and with targets also compute the losses, in train() as in eval().

        Args:
            features: stride to map (B, C, h, w), fine to coarse, the strides of `shapes`.
            image_size: (H, W) of all images.
            targets: B dicts with boxes (G, 4), xyxy, and perhaps crowd, bool (G,): crowds are not
                learned. None: no losses.
            generator: draws the samples.

        Returns:
            B dicts of boxes (K, 4) and scores (K,), see propose; and the losses "objectness" and
            "box", the latter already times box_weight, or an empty dict.
        """
        recipe, late = self.recipe, int(not self.training)
        levels = self.anchors(features)
        anchors, counts = torch.cat(levels), [len(level) for level in levels]
        logits, deltas = self.head(features)  # (B, N), (B, N, 4)
        proposals = [
            propose(
                *(one_logits, one_deltas, anchors, counts, image_size),
                *(recipe.pre_nms[late], recipe.post_nms[late]),
                *(recipe.iou_threshold, recipe.min_size),
            )
            for one_logits, one_deltas in zip(logits, deltas, strict=True)
        ]
        if targets is None:
            return proposals, {}
        return proposals, self._losses(logits, deltas, anchors, image_size, targets, generator)

    def _losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        image_size: tuple[int, int],
        targets: Sequence[Mapping[str, Tensor]],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        _check_targets(targets, len(logits))
        recipe, border = self.recipe, None if self.recipe.crossing else image_size
        rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for i, target in enumerate(targets):
            truth = target["boxes"].to(anchors.dtype)  # (G, 4)
            if "crowd" in target:
                truth = truth[~target["crowd"]]
            matched = assign(anchors, truth, recipe.high, recipe.low, border)  # (N,)
            positive, background = sample(matched, recipe.samples, recipe.positive_share, generator)
            chosen = torch.cat([positive, background])  # (S,)
            goals = BoxCodec().encode(truth[matched[positive]], anchors[positive])  # (P, 4)
            is_object = matched[chosen] >= 0
            rows.append((logits[i, chosen], is_object, deltas[i, positive], goals))
        cells = len(logits) * len(anchors) / self.head.logits.out_channels
        normalizer = max(cells, 1) if recipe.by_locations else None
        parts = [torch.cat(part) for part in zip(*rows, strict=True)]
        objectness, box = rpn_loss(parts[0], parts[1], parts[2], parts[3], recipe.beta, normalizer)
        return {"objectness": objectness, "box": recipe.box_weight * box}


# --8<-- [end:model]


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_shapes(shapes: Mapping[int, Tensor]) -> None:
    found = {stride: tuple(shape.shape) for stride, shape in shapes.items()}
    if not found or len(set(found.values())) > 1 or min(len(s) for s in shapes.values()) < 1:
        raise ValueError(f"shapes must be (A, 2) with one A >= 1 for all strides, got {found}")


def _check_features(features: Features, strides: Sequence[int]) -> None:
    if list(features) != list(strides):
        raise ValueError(f"features must have the strides {strides}, got {list(features)}")


def _check_targets(targets: Sequence[Mapping[str, Tensor]], images: int) -> None:
    if len(targets) != images or not images:
        raise ValueError(f"targets must be one for each of {images} images, got {len(targets)}")
    for target in targets:
        if target["boxes"].shape[1:] != (4,):
            found = tuple(target["boxes"].shape)
            raise ValueError(f"boxes of a target must be (G, 4), got {found}")


def _check_sample(matched: Tensor, count: int, positive_share: float) -> None:
    if matched.ndim != 1 or matched.dtype != torch.int64:
        raise ValueError(f"matched must be int64 (N,), got {matched.dtype} {tuple(matched.shape)}")
    if count < 0 or not 0 <= positive_share <= 1:
        found = f"{count} and {positive_share}"
        raise ValueError(f"count must be >= 0 and positive_share in [0, 1], got {found}")


def _check_loss(
    logits: Tensor, is_object: Tensor, deltas: Tensor, box_normalizer: float | None
) -> None:
    if logits.ndim != 1 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating (S,), got {logits.dtype} {tuple(logits.shape)}")
    if is_object.shape != logits.shape or is_object.dtype != torch.bool:
        found = f"{is_object.dtype} {tuple(is_object.shape)}"
        raise ValueError(f"is_object must be bool {tuple(logits.shape)}, got {found}")
    positives = int(is_object.sum())
    if deltas.shape != (positives, 4):
        raise ValueError(f"deltas must be ({positives}, 4), got {tuple(deltas.shape)}")
    if box_normalizer is not None and not box_normalizer > 0:
        raise ValueError(f"box_normalizer must be positive, got {box_normalizer}")


def _check_propose(logits: Tensor, deltas: Tensor, anchors: Tensor, counts: Sequence[int]) -> None:
    if logits.ndim != 1 or sum(counts) != len(logits) or min(counts, default=0) < 0:
        found = f"{list(counts)} for logits {tuple(logits.shape)}"
        raise ValueError(f"counts must be at least 0 and add up to N, got {found}")
    if deltas.shape != (len(logits), 4) or anchors.shape != deltas.shape:
        found = f"{tuple(deltas.shape)} and {tuple(anchors.shape)}"
        raise ValueError(f"deltas and anchors must be ({len(logits)}, 4), got {found}")
    if logits.isnan().any():
        at = int(logits.isnan().int().argmax())
        raise ValueError(f"logits must have an order, got nan at {at}")


def _check_counts(pre_nms: int, post_nms: int) -> None:
    if min(pre_nms, post_nms) < 0:
        raise ValueError(f"pre_nms and post_nms must be >= 0, got {pre_nms} and {post_nms}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    shapes = {s: anchor_shapes(scales=(4 * s,), ratios=(0.5, 1, 2)) for s in (8, 16)}
    rpn = RegionProposalNetwork(32, shapes, generator=generator)
    features = {s: torch.randn(2, 32, 128 // s, 160 // s, generator=generator) for s in shapes}
    truth = torch.tensor([[20.0, 30.0, 84.0, 90.0], [101.0, 44.0, 129.0, 78.0]])
    targets = [dict(boxes=truth), dict(boxes=truth[:0])]  # the second image is empty
    proposals, losses = rpn(features, (128, 160), targets, generator)
    print("levels", [len(level) for level in rpn.anchors(features)])
    print("losses", *(f"{name} {loss.item():.2f}" for name, loss in losses.items()))

    anchors = torch.cat(rpn.anchors(features))
    for border in (None, (128, 160)):
        matched = assign(anchors, truth, image_size=border)
        positive, background = sample(matched, generator=generator)
        labels = [int((matched == label).sum()) for label in (0, 1, -1, -2)]
        print("labels", labels, "sampled", len(positive), len(background))

    # What a perfect head would say, and what becomes of it.
    logits = torch.where(matched >= 0, 4.0, -4.0)
    deltas = BoxCodec().encode(truth[matched.clamp(min=0)], anchors)
    best = propose(logits, deltas, anchors, [960, 240], (128, 160), 500, 3)
    for box, score in zip(best["boxes"], best["scores"], strict=True):
        print("box", [round(float(x)) for x in box], f"score {float(score):.2f}")
    # --8<-- [end:demo]
