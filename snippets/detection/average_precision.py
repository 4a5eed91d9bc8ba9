"""Average precision of detectors: the evaluators of PASCAL VOC and of COCO.

Paper: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010,
       section 4.2. https://doi.org/10.1007/s11263-009-0275-4
       Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; the twelve numbers are
       those of its code. https://arxiv.org/abs/1405.0312, https://github.com/cocodataset/cocoapi
Needs: Python >= 3.10, torch >= 2.0 and, beside it, iou.py; copy both files as they are.
Axes:  D detections by descending score, G truths, A area ranges, T thresholds of the IoU,
       H, W of a mask; `...` is a batch of curves. A box is (x1, y1, x2, y2), width x2 - x1.
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# --8<-- [end:imports]
from .iou import box_area, box_intersection, box_iou, check_boxes, mask_intersection

__all__ = [
    "COCO_AREAS",
    "COCO_RECALLS",
    "COCO_THRESHOLDS",
    "VOC_RECALLS",
    "average_precision",
    "average_precision_voc",
    "evaluate_coco",
    "match_coco",
    "precision_recall",
]

# --8<-- [start:curve]
VOC_RECALLS = tuple(i / 10 for i in range(11))
COCO_RECALLS = tuple(i * 0.01 for i in range(101))  # 0.35 is 0.35000000000000003, as there


def precision_recall(correct: Tensor, wrong: Tensor, total: Tensor | int) -> tuple[Tensor, Tensor]:
    """Precision and recall after each detection.

    Args:
        correct: bool (..., D), by descending score.
        wrong: bool (..., D); a detection that is neither is ignored.
        total: truths to find, a number or a tensor that broadcasts to (..., D).

    Returns:
        Both float64 (..., D); 0 where the denominator is.
    """
    _check_curve(correct, wrong)
    tp, fp = correct.cumsum(-1).double(), wrong.cumsum(-1).double()  # (..., D)
    return tp / (tp + fp).clamp(min=1), tp / torch.as_tensor(total).clamp(min=1)


def average_precision(
    precision: Tensor, recall: Tensor, at: Sequence[float] | None = None
) -> Tensor:
    """The mean of the best precision at this recall or a higher one; (..., D) to (...).

    Args:
        precision, recall: (..., D), as from `precision_recall`; D may be 0.
        at: recalls to average over, VOC_RECALLS or COCO_RECALLS; None for all, the area.
    """
    best = precision.flip(-1).cummax(-1).values.flip(-1)  # (..., D)
    _check_levels(at)
    if at is None:
        return (best * recall.diff(prepend=torch.zeros_like(recall.sum(-1, True)))).sum(-1)
    levels = torch.tensor(at, dtype=recall.dtype, device=recall.device)
    levels = levels.expand(*recall.shape[:-1], -1).contiguous()  # (..., R)
    first = torch.searchsorted(recall.contiguous(), levels)  # reaches the level; D where none does
    return F.pad(best, (0, 1)).gather(-1, first).mean(-1)


# --8<-- [end:curve]


# --8<-- [start:voc]
def average_precision_voc(
    detections: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    iou_threshold: float = 0.5,
    at: Sequence[float] | None = None,
) -> dict[int, float]:
    """AP of each class that has a truth to find; mAP is their mean.

    Args:
        detections: of each image, boxes (n, 4), scores (n,) and labels (n,) int64, in any order.
        targets: of each image, boxes, labels and, where it has any, difficult, bool (n,): finding
            such a truth neither helps nor harms.
        iou_threshold: least IoU of a hit, in (0, 1].
        at: VOC_RECALLS for the rule of 2007 to 2009, None (all points) for that since 2010.

    Boxes have the width x2 - x1; the development kit, which counts pixels, adds 1.
    """
    _check(detections, targets, "boxes")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1], got {iou_threshold}")
    found: list[tuple[Tensor, ...]] = []
    truths: list[Tensor] = []
    for detection, target in zip(detections, targets, strict=True):
        scores, labels, order = _by_score(detection)
        boxes, truth_boxes = (x["boxes"].cpu().double() for x in (detection, target))
        truth_labels, difficult = target["labels"].cpu(), _flags(target, "difficult")
        iou = box_iou(boxes[order], truth_boxes)  # (D, G)
        iou = iou.masked_fill(labels[:, None] != truth_labels, -1)
        best, truth = F.pad(iou, (0, 1), value=-1).max(1)  # (D,), whether it is taken or not
        hit = F.one_hot(truth, len(difficult) + 1) * (best >= iou_threshold)[:, None]
        hit = hit[:, :-1].bool()  # (D, G)
        correct = (hit & (hit.cumsum(0) == 1) & ~difficult).any(1)  # (D,): the rest are duplicates
        found.append((labels, scores, correct, ~correct & ~(hit & difficult).any(1)))
        truths.append(truth_labels[~difficult])
    result: dict[int, float] = {}
    classes = _classes(truths)
    if not classes:
        return result
    labels, scores, correct, wrong = (torch.cat(x) for x in zip(*found, strict=True))
    for label in classes:
        mine = _of_class(labels, scores, label)
        total = int((torch.cat(truths) == label).sum())
        curve = precision_recall(correct[mine], wrong[mine], total)
        result[label] = float(average_precision(*curve, at))
    return result


# --8<-- [end:voc]

# --8<-- [start:match]
COCO_THRESHOLDS = tuple(0.5 + i * ((0.95 - 0.5) / 9) for i in range(10))
COCO_AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def match_coco(overlap: Tensor, ignored: Tensor, crowd: Tensor) -> Tensor:
    """Give each detection in turn the best truth that is left, as COCO does.

    Args:
        overlap: float64 (D, G) on the CPU, detections by descending score; over a crowd, the
            share of the detection that lies in it; -1 where the classes differ.
        ignored: bool (A, G), truths that do not count: crowds and those of another size.
        crowd: bool (G,), truths that any number of detections may have.

    Returns:
        int64 (A, T, D): the index of the truth, or G for none.
    """
    _check_match(overlap, ignored, crowd)
    count = overlap.shape[1]
    column = torch.arange(count)
    reach = overlap[:, None] >= torch.tensor(COCO_THRESHOLDS, dtype=torch.float64)[:, None]
    free = torch.ones(len(ignored), *reach.shape[1:], dtype=torch.bool)  # (A, T, G)
    matched = torch.full((*free.shape[:2], len(reach)), count)  # (A, T, D)
    for d in reach.flatten(1).any(1).nonzero()[:, 0]:
        open_ = free & reach[d]  # (A, T, G)
        counted = open_ & ~ignored[:, None]
        open_ = torch.where(counted.any(-1, keepdim=True), counted, open_)  # these go first
        last = torch.where(open_, overlap[d], -1).flip(-1).argmax(-1)  # of equals, the last
        best = torch.where(open_.any(-1), count - 1 - last, count)  # (A, T)
        matched[..., d] = best
        free &= (column != best[..., None]) | crowd
    return matched


# --8<-- [end:match]


# --8<-- [start:coco]
def evaluate_coco(
    detections: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    kind: str = "boxes",
) -> dict[str, float]:
    """The twelve numbers of COCO, equal to those of pycocotools.

    Args:
        detections: of each image, boxes (n, 4) or masks, bool (n, H, W), whichever `kind` names,
            scores (n,) and labels (n,) int64, in any order; n may be 0.
        targets: of each image, boxes or masks, labels and, where it has any, crowd, bool (n,), and
            area (n,), which overrides that of the mask, if there is one, or else of the box.
            Other keys have no effect, not even "ignore": pycocotools overwrites it by crowd.
        kind: "boxes" or "masks".

    Returns:
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl in [0, 1], means over the
        classes that have something to find; -1 where none has.
    """
    _check(detections, targets, kind)
    found: list[tuple[Tensor, ...]] = []
    truths: list[tuple[Tensor, Tensor]] = []
    for detection, target in zip(detections, targets, strict=True):
        truth_labels, crowd = target["labels"].cpu(), _flags(target, "crowd")  # (G,)
        scores, labels, order = _by_score(detection)
        rank = torch.arange(len(labels)) - torch.searchsorted(labels, labels)  # within the class
        scores, labels, order, rank = (x[rank < 100] for x in (scores, labels, order, rank))
        overlap, area = _overlap(detection, target, kind, crowd)
        overlap = overlap[order].masked_fill(labels[:, None] != truth_labels, -1)  # (D, G)
        ignored = crowd | _outside(_area(target))  # (A, G)
        matched = match_coco(overlap, ignored, crowd)  # (A, T, D)
        hit = matched < len(crowd)
        pardon = F.pad(ignored, (0, 1))[:, None].expand(-1, hit.shape[1], -1).gather(-1, matched)
        pardon = pardon | (~hit & _outside(area[order])[:, None])  # neither right nor wrong
        found.append((labels, scores, rank, hit & ~pardon, ~hit & ~pardon))
        truths.append((truth_labels, ~ignored))
    classes = _classes([x for x, _ in truths])
    ap = torch.zeros(len(classes), 4, 10, dtype=torch.float64)
    ar = torch.zeros(len(classes), 3, 4, 10, dtype=torch.float64)
    if not classes:
        return _summary(ap, ar)
    labels, scores, rank, correct, wrong = (torch.cat(x, -1) for x in zip(*found, strict=True))
    wanted, counted = (torch.cat(x, -1) for x in zip(*truths, strict=True))
    for k, label in enumerate(classes):
        mine = _of_class(labels, scores, label)
        right = correct[..., mine]  # (A, T, D)
        total = counted[:, wanted == label].sum(-1)[:, None]  # (A, 1)
        curve = precision_recall(right, wrong[..., mine], total[..., None])
        early = rank[mine] < torch.tensor([1, 10, 100])[:, None, None, None]
        recall = (right & early).sum(-1).double() / total.clamp(min=1)  # (3, A, T)
        ap[k] = average_precision(*curve, COCO_RECALLS).masked_fill(total == 0, -1)
        ar[k] = recall.masked_fill(total == 0, -1)
    return _summary(ap, ar)


def _summary(ap: Tensor, ar: Tensor) -> dict[str, float]:
    """(K, A, T) and (K, 3, A, T), -1 where there is nothing to find, to the twelve means."""
    parts = {"AP": ap[:, 0], "AP50": ap[:, 0, 0], "AP75": ap[:, 0, 5]}
    parts |= {f"AP{size}": ap[:, a] for a, size in enumerate(COCO_AREAS) if size}
    parts |= {f"AR{most}": ar[:, m, 0] for m, most in enumerate((1, 10, 100))}
    parts |= {f"AR{size}": ar[:, 2, a] for a, size in enumerate(COCO_AREAS) if size}
    means = {name: x[x > -1].mean() if (x > -1).any() else -1 for name, x in parts.items()}
    return {name: float(mean) for name, mean in means.items()}


# --8<-- [end:coco]


# --8<-- [start:overlap]
def _overlap(
    detection: Mapping[str, Tensor], target: Mapping[str, Tensor], kind: str, crowd: Tensor
) -> tuple[Tensor, Tensor]:
    """IoU, over a crowd the share of the detection: (D, G); areas of the detections (D,)."""
    if kind == "masks":  # whole numbers, exact in float32; their ratio needs float64
        there = detection["masks"].device
        shared = mask_intersection(detection["masks"], target["masks"].to(there)).cpu().double()
        area, truth = (x["masks"].flatten(1).sum(1).cpu().double() for x in (detection, target))
    else:
        boxes, truths = (x["boxes"].cpu().double() for x in (detection, target))
        shared = box_intersection(boxes[:, None], truths)  # (D, G)
        area, truth = box_area(boxes), box_area(truths)
    union = torch.where(crowd, area[:, None], area[:, None] + truth - shared)
    return shared / union.masked_fill(shared == 0, 1), area


def _area(target: Mapping[str, Tensor]) -> Tensor:
    """Of each truth, (G,): as annotated, or the pixels of its mask, or width times height."""
    if "area" in target:
        return target["area"].cpu().double()
    if "masks" in target:
        return target["masks"].flatten(1).sum(1).cpu().double()
    return box_area(target["boxes"].cpu().double())


def _outside(area: Tensor) -> Tensor:
    """Of each range, whether the area is not in it: (n,) to (A, n); both ends belong to it."""
    low, high = torch.tensor(list(COCO_AREAS.values()), dtype=torch.float64)[..., None].unbind(1)
    return (area < low) | (area > high)


def _by_score(detection: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and places (D,), class by class, by descending score; equals in order."""
    scores, labels = detection["scores"].cpu().double(), detection["labels"].cpu()
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    return scores[order], labels[order], order


def _of_class(labels: Tensor, scores: Tensor, label: int) -> Tensor:
    """Places of the detections of a class, by descending score over all images."""
    mine = (labels == label).nonzero()[:, 0]
    return mine[scores[mine].argsort(descending=True, stable=True)]


def _classes(labels: Sequence[Tensor]) -> list[int]:
    """The labels that occur."""
    return sorted({int(label) for x in labels for label in x})


def _flags(target: Mapping[str, Tensor], key: str) -> Tensor:
    """bool (G,), False where the target has no such key."""
    return target[key].cpu() if key in target else torch.zeros(len(target["labels"])).bool()


# --8<-- [end:overlap]


NDIM = dict(boxes=2, masks=3, scores=1, area=1, crowd=1, difficult=1)


def _check_curve(correct: Tensor, wrong: Tensor) -> None:
    if correct.dtype != torch.bool or wrong.dtype != torch.bool or correct.shape != wrong.shape:
        found = ", ".join(f"{x.dtype} {tuple(x.shape)}" for x in (correct, wrong))
        raise ValueError(f"correct and wrong must be bool of one shape, got {found}")
    if (correct & wrong).any():
        raise ValueError("a detection is both correct and wrong")


def _check_levels(at: Sequence[float] | None) -> None:
    if at is not None and (len(at) == 0 or not all(0 <= level <= 1 for level in at)):
        raise ValueError(f"at must be recalls in [0, 1] or None, got {at}")


def _check_match(overlap: Tensor, ignored: Tensor, crowd: Tensor) -> None:
    found = f"{overlap.dtype} {tuple(overlap.shape)} on {overlap.device}"
    if overlap.dtype != torch.float64 or overlap.ndim != 2 or overlap.device.type != "cpu":
        raise ValueError(f"overlap must be float64 (D, G) on the CPU, got {found}")
    for name, x, ndim in (("ignored", ignored, 2), ("crowd", crowd, 1)):
        if x.dtype != torch.bool or x.ndim != ndim or x.shape[-1] != overlap.shape[1]:
            found = f"{x.dtype} {tuple(x.shape)}"
            raise ValueError(f"{name} must be bool and fit {overlap.shape[1]} truths, got {found}")


def _check(
    detections: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]], kind: str
) -> None:
    if kind not in ("boxes", "masks"):
        raise ValueError(f"kind must be boxes or masks, got {kind!r}")
    if len(detections) != len(targets):
        found = f"{len(detections)} and {len(targets)}"
        raise ValueError(f"detections and targets must be of the same images, got {found}")
    for i, (detection, target) in enumerate(zip(detections, targets, strict=True)):
        for name, x in ((f"detections[{i}]", detection), (f"targets[{i}]", target)):
            needed = [kind, "labels"] + ["scores"] * (x is detection)
            if missing := [key for key in needed if key not in x]:
                raise ValueError(f"{name} lacks {', '.join(missing)}, has {', '.join(x)}")
            used = {kind, "scores"} if x is detection else NDIM.keys()
            _check_image(name, {key: x[key] for key in x if key in used or key == "labels"})
        if kind == "masks" and detection["masks"].shape[1:] != target["masks"].shape[1:]:
            sizes = [tuple(x["masks"].shape[1:]) for x in (detection, target)]
            raise ValueError(f"masks of image {i} differ in size: {sizes[0]} and {sizes[1]}")


def _check_image(name: str, x: Mapping[str, Tensor]) -> None:
    labels = x["labels"]
    if labels.dtype != torch.int64 or labels.ndim != 1:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels of {name} must be int64 (n,), got {found}")
    for key, ndim in NDIM.items():
        if key not in x:
            continue
        value = x[key]
        if value.ndim != ndim or len(value) != len(labels):
            found = f"{tuple(value.shape)} for {len(labels)} labels"
            wanted = f"{ndim}-dimensional with an entry for each label"
            raise ValueError(f"{key} of {name} must be {wanted}, got {found}")
        if key in ("crowd", "difficult", "masks") and value.dtype != torch.bool:
            raise ValueError(f"{key} of {name} must be bool, got {value.dtype}")
        if key in ("scores", "area") and not value.isfinite().all():
            bad = float(value[~value.isfinite()][0])
            raise ValueError(f"{key} of {name} must be finite, got {bad}")
        if key == "boxes":
            check_boxes(f"boxes of {name}", value)
        if key == "area" and (value < 0).any():
            raise ValueError(f"area of {name} must not be negative, got {float(value.min())}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    truths = torch.tensor([[0.0, 0, 40, 40], [50, 0, 90, 40], [0, 50, 40, 90], [50, 50, 90, 90]])
    found = truths[[0, 0, 1, 3]] + torch.tensor([[2.0], [4], [4], [40]])  # each moved
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    detections = [dict(boxes=found, scores=scores, labels=torch.zeros(4, dtype=torch.int64))]
    targets = [dict(boxes=truths, labels=torch.zeros(4, dtype=torch.int64))]
    rules = {"11 points": VOC_RECALLS, "all points": None, "101 points": COCO_RECALLS}
    for name, at in rules.items():
        print(f"{name:10} {average_precision_voc(detections, targets, at=at)[0]:.4f}")
    for name, value in evaluate_coco(detections, targets).items():
        print(f"{name} {value:.3f}", end="\n" if name in ("AP75", "APl", "AR100", "ARl") else "  ")
    # --8<-- [end:demo]
