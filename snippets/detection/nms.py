"""Non-maximum suppression: greedy, class by class, Soft-NMS, DIoU-NMS and Matrix NMS.

Paper: Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", ICCV 2017.
       https://arxiv.org/abs/1704.04503
       Zheng et al., "Distance-IoU Loss", AAAI 2020 (DIoU-NMS). https://arxiv.org/abs/1911.08287
       Zheng et al., "Enhancing Geometric Factors in Model Learning and Inference", IEEE
       Transactions on Cybernetics 2022 (the fixed point). https://arxiv.org/abs/2005.03572
       Wang et al., "SOLOv2", NeurIPS 2020 (Matrix NMS). https://arxiv.org/abs/2003.10152
Needs: Python >= 3.10, torch >= 2.0, and iou.py beside this file; nothing else.
Axes:  N boxes, K kept boxes. A box is (x1, y1, x2, y2), see iou.py. Boxes of equal score stand in
       the order of the input; an overlap equal to the threshold suppresses nothing.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]
from .iou import box_iou, check_boxes

__all__ = ["batched_nms", "diou_nms", "matrix_nms", "nms", "soft_nms"]

DECAYS = ("gaussian", "linear")

# --8<-- [start:core]
BLOCK = 256  # boxes at a time: the memory is BLOCK * N, not N * N


def nms(boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep each box unless a kept box of higher score overlaps it by more than the threshold.

    Args:
        boxes_xyxy: (N, 4), floating; N may be 0.
        scores: (N,), floating, of any range.
        iou_threshold: in [0, 1].

    Returns:
        Indices of the kept boxes, int64 (K,), by descending score.

    Raises:
        ValueError: scores with NaN, another shape or device, a threshold out of range, bad boxes.
    """
    _check(boxes_xyxy, scores)
    _check_range("iou_threshold", iou_threshold, 0, 1)
    return _greedy(boxes_xyxy, scores, None, iou_threshold, "iou")


def _greedy(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, kind: str
) -> Tensor:
    boxes = boxes.detach()

    def suppresses(rows: Tensor, columns: Tensor) -> Tensor:
        overlap = box_iou(boxes[rows], boxes[columns], kind) > threshold  # (rows, columns)
        return overlap if labels is None else overlap & (labels[rows, None] == labels[columns])

    order = scores.argsort(descending=True, stable=True)  # (N,)
    kept = [order[:0]]
    while len(order):
        block, order = order[:BLOCK], order[BLOCK:]
        block = block[_survivors(suppresses(block, block).triu(diagonal=1))]
        kept.append(block)
        order = order[~suppresses(block, order).any(0)]
    return torch.cat(kept)  # (K,)


def _survivors(suppresses: Tensor) -> Tensor:
    """(N,) bool, of whether row i would suppress column j: (N, N) bool, above the diagonal."""
    keep = suppresses.new_ones(len(suppresses))
    while True:
        before, keep = keep, ~(suppresses & keep[:, None]).any(0)  # by those kept until now
        if torch.equal(keep, before):
            return keep


# --8<-- [end:core]


# --8<-- [start:batched]
def batched_nms(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS within each class (or image, or pyramid level): labels (N,), any integers.

    The boxes are compared where they are, so that the result is that of one nms per label;
    torchvision's, for few boxes, moves each class aside first, which rounds.
    """
    _check(boxes_xyxy, scores, labels)
    _check_range("iou_threshold", iou_threshold, 0, 1)
    return _greedy(boxes_xyxy, scores, labels, iou_threshold, "iou")


# --8<-- [end:batched]


# --8<-- [start:diou]
def diou_nms(
    boxes_xyxy: Tensor, scores: Tensor, diou_threshold: float, *, labels: Tensor | None = None
) -> Tensor:
    """Greedy NMS that compares DIoU, in [-1, 1], which is less the farther the centres."""
    _check(boxes_xyxy, scores, labels)
    _check_range("diou_threshold", diou_threshold, -1, 1)
    return _greedy(boxes_xyxy, scores, labels, diou_threshold, "diou")


# --8<-- [end:diou]


# --8<-- [start:soft]
def soft_nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    kind: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    min_score: float = 0.001,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pick the best box, lower the scores of those that overlap it, pick the next best.

    Memory grows with N * N: keep only the best candidates first.

    Args:
        boxes_xyxy: (N, 4), floating; N may be 0.
        scores: (N,), floating, finite, not negative (probabilities, not logits).
        kind: "gaussian", a factor exp(-iou**2 / sigma), or "linear", a factor 1 - iou for boxes
            above iou_threshold.
        sigma: above 0; for "gaussian" only.
        iou_threshold: in [0, 1]; for "linear" only.
        min_score: a box is dropped when its score falls below this.
        labels: (N,), integers; only boxes of equal label touch each other. None: all do.

    Returns:
        Indices of the boxes that are left, int64 (K,), and their new scores, (K,) in the dtype of
        `scores` and differentiable; both in the order of picking, which is by descending score.
    """
    _check_soft(scores, kind, sigma, min_score)
    _check(boxes_xyxy, scores, labels)
    _check_range("iou_threshold", iou_threshold, 0, 1)
    iou = _within(labels, box_iou(boxes_xyxy, boxes_xyxy))  # (N, N)
    if kind == "gaussian":
        factor = (-iou.square() / sigma).exp()
    else:
        factor = torch.where(iou > iou_threshold, 1 - iou, 1.0)
    rest = (scores >= min_score).nonzero()[:, 0]
    left = scores[rest]
    picked, final = [rest[:0]], [left[:0]]
    while len(rest):
        best = left.argmax()
        picked.append(rest[best, None])
        final.append(left[best, None])
        left = left * factor[rest[best], rest]
        stay = left >= min_score
        stay[best] = False
        rest, left = rest[stay], left[stay]
    return torch.cat(picked), torch.cat(final).to(scores.dtype)


# --8<-- [end:soft]


# --8<-- [start:matrix]
def matrix_nms(
    iou: Tensor,
    scores: Tensor,
    kind: str = "gaussian",
    sigma: float = 0.5,
    min_score: float = 0.001,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS in one step: the factor of a box is its worst overlap with a better box, made
    milder where that better box is itself overlapped.

    Args:
        iou: (N, N), floating, in [0, 1]; of masks as in SOLOv2 (`mask_iou`) or of boxes.
        scores, kind, sigma, min_score, labels: as for soft_nms, "linear" without a threshold.
            SOLOv2's code multiplies by its sigma, 2.0, where the paper and this divide.

    Returns:
        Indices, int64 (K,), and new scores, (K,), by descending new score.
    """
    _check_soft(scores, kind, sigma, min_score)
    _check_matrix(iou, scores, labels)
    order = scores.argsort(descending=True, stable=True)  # (N,)
    if len(order) == 0:
        return order, scores
    iou = _within(labels, iou if iou.dtype == torch.float64 else iou.float())
    iou = iou[order[:, None], order].triu(diagonal=1)  # (N, N), of i with the worse j
    worst = iou.amax(0)[:, None]  # (N, 1), of i with any better box
    if kind == "gaussian":
        factor = ((worst.square() - iou.square()) / sigma).clamp(max=0).exp()
    else:
        gone = worst == 1  # a copy of a better box, which stands for it
        factor = (1 - iou) / (1 - worst).masked_fill(gone, 1)
        factor = factor.masked_fill(gone, 1).clamp(max=1)
    new = scores[order] * factor.amin(0)
    new, place = new.sort(descending=True, stable=True)
    return order[place][new >= min_score], new[new >= min_score].to(scores.dtype)


# --8<-- [end:matrix]


def _within(labels: Tensor | None, iou: Tensor) -> Tensor:
    return iou if labels is None else iou * (labels[:, None] == labels)


def _check(boxes: Tensor, scores: Tensor, labels: Tensor | None = None) -> None:
    check_boxes("boxes_xyxy", boxes)
    if boxes.ndim != 2:
        raise ValueError(f"boxes_xyxy must be (N, 4), got {tuple(boxes.shape)}")
    _check_beside(boxes, scores, labels)


def _check_matrix(iou: Tensor, scores: Tensor, labels: Tensor | None) -> None:
    if iou.ndim != 2 or iou.shape[0] != iou.shape[1] or not iou.is_floating_point():
        raise ValueError(f"iou must be floating (N, N), got {iou.dtype} {tuple(iou.shape)}")
    if bad := [float(x) for x in iou.detach()[~((iou >= 0) & (iou <= 1))][:1]]:
        raise ValueError(f"iou must be in [0, 1], got {bad[0]}")
    _check_beside(iou, scores, labels)


def _check_beside(boxes: Tensor, scores: Tensor, labels: Tensor | None) -> None:
    count, device = len(boxes), boxes.device
    if scores.shape != (count,) or not scores.is_floating_point() or scores.device != device:
        found = f"{scores.dtype} {tuple(scores.shape)} on {scores.device}"
        raise ValueError(f"scores must be floating ({count},) on {device}, got {found}")
    if scores.isnan().any():
        at = int(scores.isnan().nonzero()[0, 0])
        raise ValueError(f"scores must have an order, got nan at {at}")
    if labels is None:
        return
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (count,) or not whole or labels.device != device:
        found = f"{labels.dtype} {tuple(labels.shape)} on {labels.device}"
        raise ValueError(f"labels must be integers ({count},) on {device}, got {found}")


def _check_soft(scores: Tensor, kind: str, sigma: float, min_score: float) -> None:
    if kind not in DECAYS:
        raise ValueError(f"kind must be one of {', '.join(DECAYS)}, got {kind!r}")
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if not min_score >= 0:
        raise ValueError(f"min_score must not be negative, got {min_score}")
    if bad := [float(x) for x in scores.detach()[~((scores >= 0) & scores.isfinite())][:1]]:
        raise ValueError(f"scores must be finite and not negative, got {bad[0]}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    boxes = torch.tensor(
        [
            [0.0, 0.0, 100.0, 40.0],  # 0: a car
            [30.0, 0.0, 130.0, 40.0],  # 1: another car, partly behind it: IoU 0.54
            [4.0, 2.0, 104.0, 42.0],  # 2: the first car again: IoU 0.84
            [2.0, 0.0, 102.0, 40.0],  # 3: the first car again, taken for a lorry
        ]
    )
    scores, labels = torch.tensor([0.95, 0.9, 0.8, 0.7]), torch.tensor([0, 0, 0, 1])
    print("nms        ", [int(i) for i in nms(boxes, scores, 0.5)])
    print("batched_nms", [int(i) for i in batched_nms(boxes, scores, labels, 0.5)])
    print("diou_nms   ", [int(i) for i in diou_nms(boxes, scores, 0.5, labels=labels)])
    soft = {
        "soft_nms   ": soft_nms(boxes, scores, labels=labels),
        "matrix_nms ": matrix_nms(box_iou(boxes, boxes), scores, labels=labels),
    }
    for name, (kept, new_scores) in soft.items():
        print(name, [int(i) for i in kept], *(f"{x:.2f}" for x in new_scores))
    # --8<-- [end:demo]
