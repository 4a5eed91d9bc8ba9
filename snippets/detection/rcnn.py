"""R-CNN: warped regions, a CNN for features, an SVM and a box regressor for each class.

Paper: Girshick et al., "Rich feature hierarchies for accurate object detection and semantic
       segmentation", CVPR 2014, sections 2 and 3.5, appendices A to C of the arXiv version.
       https://arxiv.org/abs/1311.2524
Needs: Python >= 3.10, torch >= 2.0, and anchors.py, box_regression.py, iou.py, nms.py,
       and region_proposal_network.py beside this file, backbone_neck_head.py in ../concepts.
Axes:  B images, N proposals of an image, n of all images, G ground truths, K classes without the
       background, which is the last label; D features, S samples. A box is (x1, y1, x2, y2) in
       pixels, without "+ 1".
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import conv_norm, initialize
from .anchors import anchor_shapes, grid_anchors, match
from .box_regression import BoxCodec, clip_to_image, large_enough
from .iou import box_iou, check_boxes
from .nms import batched_nms
from .region_proposal_network import sample

__all__ = [
    "RCNN",
    "check_images",
    "check_target",
    "check_targets",
    "fit_box_regressor",
    "fit_svm",
    "fit_svm_with_hard_negatives",
    "label_proposals",
    "proposals_of",
    "select_detections",
    "sliding_windows",
    "warp",
    "without_crowd",
]

Target = Mapping[str, Tensor]


# --8<-- [start:proposals]
def sliding_windows(
    image_size: tuple[int, int],
    scales: Sequence[float] = (16, 24, 36, 54),
    ratios: Sequence[float] = (0.6, 1, 1.67),
    overlap: float = 0.7,
    device: torch.device | str | None = None,
) -> Tensor:
    """Windows of every scale and ratio all over an image: what replaces selective search here.

    Args:
        image_size: (H, W).
        scales: square roots of areas, in pixels, positive.
        ratios: height / width, positive.
        overlap: of a square window with the next one, as a share of its side, in [0, 1).
        device: of the result.

    Returns:
        float32 (N, 4) xyxy, clipped to the image. They know nothing of what it shows; selective
        search groups similar pixels.
    """
    _check_windows(image_size, overlap)
    boxes: list[Tensor] = [torch.zeros(0, 4, device=device)]
    for scale in scales:
        cells = tuple(math.ceil(side / (scale * (1 - overlap))) for side in image_size)
        stride = (image_size[0] / max(cells[0], 1), image_size[1] / max(cells[1], 1))
        shapes = anchor_shapes((scale,), ratios, device=device)
        boxes.append(grid_anchors((cells[0], cells[1]), stride, shapes))
    return clip_to_image(torch.cat(boxes), image_size)


def warp(images: Tensor, boxes: Sequence[Tensor], size: int, context: float = 16 / 227) -> Tensor:
    """Cut each box out and stretch it to a square, whatever its aspect ratio.

    Args:
        images: (B, 3, H, W), floating.
        boxes: for each image (N, 4), xyxy, on the same device; N may be 0.
        size: side of the result in pixels.
        context: width of the rim around the box, as a share of `size`, from 0 to less than 1/2;
            16 of 227 pixels in the paper.

    Returns:
        (n, 3, size, size) of the images' dtype, image after image. What lies outside the image has
        the mean colour of the image, which is subtracted: it is 0.
    """
    _check_warp(images, boxes, size, context)
    wide = _widen(images)
    centered = wide - wide.mean(dim=(2, 3), keepdim=True)
    at = (torch.arange(size, dtype=torch.float64) + 0.5) / size  # (size,), middles of the pixels
    at = (at - context) / (1 - 2 * context)  # 0 and 1 are the edges of the box
    regions: list[Tensor] = [centered[:0, :, :1, :1].expand(-1, -1, size, size)]
    for image, b in zip(centered, boxes, strict=True):
        b = _widen(b)[..., None]  # (N, 4, 1)
        low, sides = b[:, :2], b[:, 2:] - b[:, :2]  # (N, 2, 1)
        x, y = (low + at.to(sides) * sides).unbind(1)  # (N, size)
        x, y = 2 * x / image.shape[2] - 1, 2 * y / image.shape[1] - 1  # the image is [-1, 1]
        pair = (x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size))
        grid = torch.stack(pair, dim=-1).flatten(0, 1).to(wide)  # (N * size, size, 2)
        cut = F.grid_sample(image[None], grid[None], align_corners=False)  # (1, 3, N * size, size)
        regions.append(cut.reshape(len(image), len(b), size, size).transpose(0, 1))
    return torch.cat(regions).to(images)


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


# --8<-- [end:proposals]


# --8<-- [start:labels]
def label_proposals(
    proposals_xyxy: Tensor, target: Target, classes: int, high: float = 0.5, low: float = 0.0
) -> tuple[Tensor, Tensor]:
    """What each proposal shows.

    Args:
        proposals_xyxy: (N, 4), floating.
        target: boxes (G, 4), floating, labels (G,), on the same device; G may be 0.
        classes: K.
        high: a proposal whose best IoU is at least this has the class of that truth.
        low: one whose best IoU is below this is ignored, any other is background; 0 <= low <= high.

    Returns:
        Labels (N,), int64 from 0 to K, where K is background, -1 ignored; and the index of the
        truth (N,), int64, or below 0 where there is none.
    """
    if not 0 <= low <= high:
        raise ValueError(f"thresholds need 0 <= low <= high, got {low} and {high}")
    check_target(target, classes, proposals_xyxy.device)
    iou = box_iou(target["boxes"].to(proposals_xyxy.dtype), proposals_xyxy)  # (G, N)
    found = match(iou, high, high)  # (N,)
    labels = torch.full_like(found, classes)
    labels[found >= 0] = target["labels"][found[found >= 0]]
    best = iou.amax(dim=0) if len(iou) else iou.sum(dim=0)
    labels[(found < 0) & (best < low)] = -1
    return labels, found


def without_crowd(target: Target) -> dict[str, Tensor]:
    """The target without its crowds, if it says which are."""
    keep = ~target["crowd"] if "crowd" in target else torch.ones_like(target["labels"]).bool()
    return {key: value[keep] for key, value in target.items()}


# --8<-- [end:labels]


# --8<-- [start:svm]
@torch.no_grad()
def fit_svm(positive: Tensor, negative: Tensor, cost: float, steps: int = 300) -> Tensor:
    """The linear SVM with the least |w|^2 / 2 + cost * (sum of the hinge losses).

    The hinge loss is max(0, 1 - s) for a positive of score s, max(0, 1 + s) for a negative.

    Args:
        positive: features (P, D), floating and finite.
        negative: features (N, D), of the same dtype and device; N may be 0, and so may P.
        cost: positive; large means few errors, small a wide margin.
        steps: of the accelerated projected gradient on the dual problem.

    Returns:
        w (D + 1,), at least in float32; the last is the bias, which counts in |w| as in LIBLINEAR.
        It is the sum of the examples, each times its dual variable from 0 to cost, negatives
        subtracted.
    """
    _check_svm(positive, negative, cost)
    x = F.pad(_widen(torch.cat([positive, -negative])), (0, 1), value=1.0)  # (S, D + 1)
    x[len(positive) :, -1] = -1
    now = ahead = x.new_zeros(len(x))  # the dual variables
    t = 1.0
    with torch.autocast(x.device.type, enabled=False):
        curvature = _largest_eigenvalue(x.T @ x)
        for _ in range(steps if curvature > 0 else 0):
            slope = 1 - x @ (ahead @ x)  # (S,), by how much each misses the margin
            last, now = now, (ahead + slope / curvature).clamp(0, cost)
            if (slope * (now - last)).sum() < 0:
                t = 1.0  # the momentum leads downhill: start anew
            following = (1 + math.sqrt(1 + 4 * t * t)) / 2
            ahead, t = now + (t - 1) / following * (now - last), following
        return now @ x


def _largest_eigenvalue(x: Tensor) -> float:
    return float(torch.linalg.eigvalsh(x)[-1])  # pyright: ignore  (torch.linalg carries no types)


@torch.no_grad()
def fit_svm_with_hard_negatives(
    positive: Tensor, negatives: Sequence[Tensor], cost: float, passes: int = 1, steps: int = 300
) -> tuple[Tensor, Tensor]:
    """The same from more negatives than one fit could hold, an image at a time.

    Args:
        positive: features (P, D).
        negatives: of each image (or some) features (N, D).
        cost, steps: see fit_svm.
        passes: over all images; 1 in the paper.

    Returns:
        w (D + 1,) and the negatives it was last fitted to. Of an image they are those inside the
        margin, of score above -1, when it was last looked at: all others do not change w.
    """
    kept = [x[:0] for x in negatives]
    w = fit_svm(positive, positive[:0], cost, steps)
    for _ in range(passes):
        for i, x in enumerate(negatives):
            scores = (_widen(x) * w[:-1]).sum(dim=1) + w[-1]  # (N,)
            hard = x[scores > -1 - 1e-3]  # 1e-3: the fit is not exact
            if not torch.equal(hard, kept[i]):
                kept[i] = hard
                w = fit_svm(positive, torch.cat(kept), cost, steps)
    return w, torch.cat([positive[:0], *kept])


# --8<-- [end:svm]


# --8<-- [start:regressor]
@torch.no_grad()
def fit_box_regressor(features: Tensor, goals: Tensor, ridge: float) -> Tensor:
    """Ridge regression from features to deltas, in closed form (appendix C).

    Args:
        features: (S, D), floating and finite; S may be 0.
        goals: (S, 4), floating and finite, the deltas from proposal to truth.
        ridge: lambda, positive; 1000 in the paper, for features of its scale.

    Returns:
        (D + 1, 4), at least in float32; the last row is the bias, which is not penalised. All 0
        for S = 0.
    """
    _check_regressor(features, goals, ridge)
    features, n = _widen(features), max(len(features), 1)
    goals = goals.to(features)
    mean, middle = features.sum(dim=0) / n, goals.sum(dim=0) / n  # (D,), (4,)
    x = features - mean
    with torch.autocast(x.device.type, enabled=False):
        square = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        w: Tensor = torch.linalg.solve(square, x.T @ (goals - middle))  # pyright: ignore
        return torch.cat([w, (middle - mean @ w)[None]])


# --8<-- [end:regressor]


# --8<-- [start:detect]
def select_detections(
    scores: Tensor,
    boxes_xyxy: Tensor,
    image_size: tuple[int, int],
    min_score: float,
    iou_threshold: float,
    most: int,
) -> dict[str, Tensor]:
    """Detections of an image from scored boxes: NMS within each class, the best of all.

    Args:
        scores: (N, K), floating, no NaN.
        boxes_xyxy: (N, K, 4), on the same device; each class may have moved a proposal elsewhere.
        image_size: (H, W), to clip to. What has no area afterwards goes.
        min_score: scores must be above this.
        iou_threshold: of the NMS.
        most: detections.

    Returns:
        boxes (d, 4), scores (d,) and labels (d,), by descending score; d may be 0. A proposal may
        give detections of several classes.
    """
    _check_scored(scores, boxes_xyxy)
    boxes = clip_to_image(boxes_xyxy.detach(), image_size)
    row, label = ((scores > min_score) & large_enough(boxes, 1e-3)).nonzero(as_tuple=True)
    boxes, scores = boxes[row, label], scores.detach()[row, label]
    kept = batched_nms(boxes, scores, label, iou_threshold)[:most]
    return dict(boxes=boxes[kept], scores=scores[kept], labels=label[kept])


# --8<-- [end:detect]


# --8<-- [start:core]
class RCNN(nn.Module):
    """The detector in its three stages: loss() trains the CNN, fit() the SVMs and regressors.

    Args:
        classes: K.
        crop: side of a warped region in pixels; 227 in the paper.
        widths: channels of the convolutions; each halves the region.
        features: D.
        high: IoU at which a proposal is an example of its truth's class for the CNN.
        negative: IoU below which one is a negative for the SVM; in between is ignored.
        close: IoU above which the regressor learns from it.
        cost, ridge: see fit_svm and fit_box_regressor.
        generator: for the weights.
    """

    weight: Tensor
    regressor: Tensor
    scale: Tensor

    def __init__(
        self,
        classes: int = 4,
        crop: int = 32,
        widths: Sequence[int] = (16, 32, 64),
        features: int = 128,
        high: float = 0.5,
        negative: float = 0.3,
        close: float = 0.6,
        cost: float = 0.01,
        ridge: float = 1000.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the CNN; SVMs and regressors say 0 until fit()."""
        super().__init__()
        _check_model(classes, crop, widths, features)
        self.classes, self.crop = classes, crop
        self.high, self.negative, self.close = high, negative, close
        self.cost, self.ridge = cost, ridge
        layers: list[nn.Module] = []
        side = crop
        for before, width in zip((3, *widths), widths, strict=False):
            layers += [conv_norm(before, width, 3, stride=2), nn.ReLU()]
            side = math.ceil(side / 2)
        hidden = nn.Linear(widths[-1] * side * side, features)
        self.cnn = nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU())
        self.logits = nn.Linear(features, classes + 1)
        initialize(self, generator)
        self.register_buffer("weight", torch.zeros(classes, features + 1))
        self.register_buffer("regressor", torch.zeros(classes, features + 1, 4))
        self.register_buffer("scale", torch.ones(()))

    def features(self, images: Tensor, proposals: Sequence[Tensor]) -> Tensor:
        """Features (n, D) of the proposals (N, 4) of each image: one run of the CNN for each."""
        return self.cnn(warp(images, proposals, self.crop))

    def loss(
        self,
        images: Tensor,
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        samples: int = 32,
        positive_share: float = 0.25,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Stage one: cross-entropy over K classes and background, of sampled proposals.

        Args:
            images: (B, 3, H, W).
            targets: of each image boxes (G, 4) of positive size and labels (G,), G may be 0.
            proposals: of each image (N, 4); None: sliding_windows.
            samples: of an image (the paper draws 128 of all images together).
            positive_share: of the samples, at most.
            generator: draws them.

        Returns:
            A scalar, at least in float32, the mean over the samples; 0 with gradient 0 without any.
        """
        proposals = proposals_of(images, proposals)
        check_targets(targets, images, self.classes)
        chosen: list[Tensor] = []
        labels: list[Tensor] = []
        for boxes, target in zip(proposals, targets, strict=True):
            label, found = label_proposals(boxes, without_crowd(target), self.classes, self.high)
            index = torch.cat(sample(found, samples, positive_share, generator))
            chosen.append(boxes[index])
            labels.append(label[index])
        x = self.features(images, chosen)  # (n, D)
        logits = _widen(self.logits(x))  # (n, K + 1)
        count = max(len(logits), 1)
        return F.cross_entropy(logits, torch.cat(labels), reduction="sum") / count

    @torch.no_grad()
    def fit(
        self,
        images: Tensor,
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        passes: int = 1,
    ) -> None:
        """Stages two and three, on the features as they are now: SVMs, then regressors.

        The positives of an SVM are the ground truths alone, its negatives the proposals whose IoU
        with each object of the class is below `negative`. A class without examples says no.
        """
        proposals = proposals_of(images, proposals)
        check_targets(targets, images, self.classes)
        was_training = self.training
        self.eval()
        truths = [without_crowd(target) for target in targets]
        positive = self.features(images, [t["boxes"] for t in truths]).to(self.weight)  # (P, D)
        length = positive.square().sum(dim=1).sqrt()  # (P,)
        mean = length.mean() if len(length) else length.new_tensor(20.0)
        self.scale = 20 / mean.clamp(min=1e-6)  # as in the paper's code
        labels = torch.cat([t["labels"] for t in truths])
        near = [
            self._near(image, b, t) for image, b, t in zip(images, proposals, truths, strict=True)
        ]
        for k in range(self.classes):
            rows = [x[far[:, k]] for x, far, _, _ in near]
            negatives = [torch.cat(rows[i : i + 10]) for i in range(0, len(rows), 10)]
            self.weight[k] = fit_svm_with_hard_negatives(
                positive[labels == k] * self.scale, negatives, self.cost, passes
            )[0]
            x = torch.cat([x[close == k] for x, _, close, _ in near])
            goals = torch.cat([goals[close == k] for _, _, close, goals in near])
            self.regressor[k] = fit_box_regressor(x, goals, self.ridge)
        self.train(was_training)

    def _near(
        self, image: Tensor, boxes: Tensor, truth: Target
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each proposal features, which SVMs it is negative for, class to regress, deltas."""
        x = self.features(image[None], [boxes]).to(self.weight) * self.scale  # (N, D)
        truths = truth["boxes"].to(boxes.dtype)
        iou = box_iou(truths, boxes)  # (G, N)
        best = torch.stack(
            [F.pad(iou[truth["labels"] == k], (0, 0, 0, 1)).amax(0) for k in range(self.classes)]
        )  # (K, N)
        close, found = label_proposals(boxes, truth, self.classes, self.close)
        goals = torch.zeros_like(x[:, :4])
        encoded = BoxCodec().encode(truths[found[found >= 0]], boxes[found >= 0])
        goals[found >= 0] = encoded.to(goals)
        return x, (best < self.negative).T, close, goals

    def forward(self, images: Tensor, proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores of the SVMs (n, K) and deltas of the regressors (n, K, 4); see fit."""
        x = self.features(images, proposals).to(self.weight) * self.scale  # (n, D)
        x = F.pad(x, (0, 1), value=1.0)  # (n, D + 1)
        return x @ self.weight.T, torch.einsum("nd,kdc->nkc", x, self.regressor)

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        proposals: Sequence[Tensor] | None = None,
        min_score: float = -1.0,
        iou_threshold: float = 0.3,
        most: int = 100,
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores (of an SVM, not probabilities) and labels; call fit() and eval() first."""
        found: list[dict[str, Tensor]] = []
        for image, boxes in zip(images, proposals_of(images, proposals), strict=True):
            outputs: tuple[Tensor, Tensor] = self(image[None], [boxes])
            moved = BoxCodec().decode(outputs[1], boxes[:, None])  # (N, K, 4)
            size = (image.shape[1], image.shape[2])
            limits = (min_score, iou_threshold, most)
            found.append(select_detections(outputs[0], moved, size, *limits))
        return found


# --8<-- [end:core]


def proposals_of(images: Tensor, proposals: Sequence[Tensor] | None) -> Sequence[Tensor]:
    """The proposals of each image, sliding_windows for None; ValueError unless there are B."""
    check_images(images)
    if proposals is None:
        size = (images.shape[2], images.shape[3])
        return [sliding_windows(size, device=images.device)] * len(images)
    if len(proposals) != len(images):
        raise ValueError(
            f"proposals must be one (N, 4) for each of {len(images)} images, got {len(proposals)}"
        )
    return proposals


def check_images(images: Tensor) -> None:
    """Raise ValueError unless the images are floating, (B, 3, H, W), of a positive size."""
    bad = images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]
    if bad or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images must be floating (B, 3, H, W), got {found}")


def check_targets(targets: Sequence[Target], images: Tensor, classes: int) -> None:
    """Raise ValueError unless there is for each image a target with good boxes and labels."""
    if len(targets) != len(images) or not targets:
        wanted = max(1, len(images))
        raise ValueError(f"targets must be one an image, {wanted}, got {len(targets)}")
    for target in targets:
        check_target(target, classes, images.device)


def check_target(target: Target, classes: int, device: torch.device) -> None:
    """Raise ValueError unless boxes, labels and crowd are good and on the device."""
    boxes, labels = target["boxes"], target["labels"]
    crowd = target.get("crowd", torch.zeros_like(labels, dtype=torch.bool))
    if not boxes.device == labels.device == crowd.device == device:
        found = f"boxes on {boxes.device}, labels on {labels.device}, crowd on {crowd.device}"
        raise ValueError(f"a target must be on {device}, got {found}")
    check_boxes("targets' boxes", boxes)
    if boxes.ndim != 2 or labels.shape != boxes.shape[:1]:
        found = f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"a target's boxes must be (n, 4), labels (n,), got {found}")
    if labels.dtype != torch.int64 or ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"labels must be int64 from 0 to {classes - 1}, got {labels}")
    if crowd.dtype != torch.bool or crowd.shape != labels.shape:
        found = f"{crowd.dtype} {tuple(crowd.shape)}"
        raise ValueError(f"crowd must be bool {tuple(labels.shape)}, got {found}")
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    if flat.any():
        first = [float(x) for x in boxes[flat][0]]
        raise ValueError(f"targets' boxes must have a positive size, got {first}")


def _check_windows(image_size: tuple[int, int], overlap: float) -> None:
    if min(image_size) < 1:
        raise ValueError(f"image_size must be (H, W), positive, got {image_size}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be from 0 to less than 1, got {overlap}")


def _check_warp(images: Tensor, boxes: Sequence[Tensor], size: int, context: float) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images must be floating (B, 3, H, W), got {found}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if not 0 <= context < 0.5:
        raise ValueError(f"context must be from 0 to less than 1/2, got {context}")
    if len(boxes) != len(images):
        raise ValueError(f"boxes must be one (N, 4) an image, {len(images)}, got {len(boxes)}")
    for b in boxes:
        if b.device != images.device or b.ndim != 2:
            found = f"{tuple(b.shape)} on {b.device}"
            raise ValueError(f"boxes of an image must be (N, 4) on {images.device}, got {found}")
        check_boxes("boxes", b)


def _check_svm(positive: Tensor, negative: Tensor, cost: float) -> None:
    kinds = [(x.ndim, x.shape[-1:], x.dtype, x.device) for x in (positive, negative)]
    if kinds[0] != kinds[1] or positive.ndim != 2 or not positive.is_floating_point():
        pair = (f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in (positive, negative))
        raise ValueError(f"features must be floating (P, D) and (N, D), got {' and '.join(pair)}")
    if not (positive.isfinite().all() and negative.isfinite().all()):
        raise ValueError("features must be finite, got nan or inf")
    if not 0 < cost < math.inf:
        raise ValueError(f"cost must be positive, got {cost}")


def _check_regressor(features: Tensor, goals: Tensor, ridge: float) -> None:
    good = features.ndim == 2 and goals.shape == (len(features), 4)
    if not good or not features.is_floating_point() or features.device != goals.device:
        pair = (f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in (features, goals))
        raise ValueError(f"features must be (S, D) and goals (S, 4), got {' and '.join(pair)}")
    if not (features.isfinite().all() and goals.isfinite().all()):
        raise ValueError("features and goals must be finite, got nan or inf")
    if not 0 < ridge < math.inf:
        raise ValueError(f"ridge must be positive, got {ridge}")


def _check_scored(scores: Tensor, boxes: Tensor) -> None:
    if scores.ndim != 2 or boxes.shape != (*scores.shape, 4) or scores.device != boxes.device:
        found = f"{tuple(scores.shape)} on {scores.device}, {tuple(boxes.shape)} on {boxes.device}"
        raise ValueError(f"need scores (N, K) and boxes_xyxy (N, K, 4) on one device, got {found}")
    if scores.isnan().any():
        at = [int(i) for i in scores.isnan().nonzero()[0]]
        raise ValueError(f"scores must have an order, got nan at {at}")


def _check_model(classes: int, crop: int, widths: Sequence[int], features: int) -> None:
    if min(classes, crop, features, *widths) < 1 or not widths:
        found = f"{classes}, {crop}, {list(widths)} and {features}"
        raise ValueError(f"classes, crop, widths and features must be positive, got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    windows = sliding_windows((96, 96))
    print(len(windows), "windows, of which each is run through the CNN")
    generator = torch.Generator().manual_seed(0)
    model = RCNN(classes=2, generator=generator).eval()
    images = torch.rand(1, 3, 96, 96, generator=generator)
    truth = dict(boxes=torch.tensor([[12.0, 20.0, 60.0, 52.0]]), labels=torch.tensor([1]))
    labels, _ = label_proposals(windows, truth, classes=2)
    print("of class 0, 1 and background:", [int(n) for n in labels.bincount(minlength=3)])
    print("features", tuple(model.features(images, [windows[labels == 1]]).shape))
    model.fit(images, [truth])
    scores, deltas = model(images, [windows[labels == 1]])
    print("scores", tuple(scores.shape), "deltas", tuple(deltas.shape))
    # --8<-- [end:demo]
