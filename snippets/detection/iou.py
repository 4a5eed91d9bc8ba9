"""Intersection over union of boxes and masks, and its variants for training.

Paper: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, section 3 (GIoU).
       https://arxiv.org/abs/1902.09630
       Zheng et al., "Distance-IoU Loss", AAAI 2020, eqs. (6) to (11) (DIoU, CIoU).
       https://arxiv.org/abs/1911.08287
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  N, M boxes or masks; H, W of a mask; `...` is a batch. A box is (x1, y1, x2, y2) in pixels,
       left, top, right, bottom, as continuous coordinates: its width is x2 - x1, without "+ 1".
"""

# --8<-- [start:imports]
import math

import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = [
    "box_area",
    "box_cxcywh_to_xyxy",
    "box_intersection",
    "box_iou",
    "box_xywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "box_xyxy_to_xywh",
    "check_boxes",
    "iou_loss",
    "mask_intersection",
    "mask_iou",
    "paired_iou",
]

KINDS = ("iou", "giou", "diou", "ciou")


# --8<-- [start:formats]
def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) of centre x, centre y, width, height to left, top, right, bottom."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) of left, top, right, bottom to centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def box_xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) of left, top, width, height (COCO's format) to left, top, right, bottom."""
    low, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([low, low + size], dim=-1)


def box_xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) of left, top, right, bottom to left, top, width, height (COCO's format)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([low, high - low], dim=-1)


# --8<-- [end:formats]


# --8<-- [start:core]
def box_area(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) to (...), in square pixels."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(-1)


def box_intersection(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Area that two boxes share; (..., 4) and (..., 4), broadcast, to (...)."""
    low = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])  # (..., 2)
    high = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])  # (..., 2)
    return (high - low).clamp(min=0).prod(-1)


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor, kind: str = "iou") -> Tensor:
    """Each box of one set with each of the other.

    Args:
        a_xyxy: (..., N, 4), floating, each with x1 <= x2 and y1 <= y2.
        b_xyxy: (..., M, 4), of the same dtype and device.
        kind: "iou" in [0, 1], "giou" and "diou" in [-1, 1], or "ciou".

    Returns:
        (..., N, M); in float32 for half-precision boxes, whose areas overflow. Two boxes without
        area have IoU 0 (torchvision: nan).

    Raises:
        ValueError: another shape, dtype or device, a negative size, NaN, an unknown kind.
    """
    _check_pair(a_xyxy, b_xyxy, kind)
    return _iou(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :], kind)


def paired_iou(a_xyxy: Tensor, b_xyxy: Tensor, kind: str = "iou") -> Tensor:
    """Box i of one set with box i of the other: (..., 4) and (..., 4) to (...); see box_iou."""
    _check_pair(a_xyxy, b_xyxy, kind)
    if a_xyxy.shape != b_xyxy.shape:
        shapes = f"{tuple(a_xyxy.shape)} and {tuple(b_xyxy.shape)}"
        raise ValueError(f"pairs need boxes of the same shape, got {shapes}")
    return _iou(a_xyxy, b_xyxy, kind)


def _iou(a: Tensor, b: Tensor, kind: str) -> Tensor:
    a, b = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (a, b))
    shared = box_intersection(a, b)  # (...)
    union = box_area(a) + box_area(b) - shared  # (...)
    iou = _ratio(shared, union)
    if kind == "iou":
        return iou
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    if kind == "giou":
        area = hull.prod(-1)  # of the smallest box around both
        return iou - _ratio(area - union, area)
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2  # between the centres
    diou = iou - _ratio(apart.square().sum(-1), hull.square().sum(-1))
    if kind == "diou":
        return diou
    v = 4 / math.pi**2 * (_angle(b) - _angle(a)).square()
    with torch.no_grad():  # a weight, not a term to be minimised
        alpha = _ratio(v, 1 - iou + v)
    return diou - alpha * v


def _angle(boxes: Tensor) -> Tensor:
    """The arc tangent of width over height; 0 for a box without area."""
    w, h = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    flat = (w <= 0) & (h <= 0)  # atan2 has no gradient there
    return torch.atan2(w.masked_fill(flat, 0), h.masked_fill(flat, 1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, or 0 with gradient 0 where b is 0."""
    none = b <= 0
    return a.masked_fill(none, 0) / b.masked_fill(none, 1)


# --8<-- [end:core]


# --8<-- [start:loss]
def iou_loss(predicted_xyxy: Tensor, target_xyxy: Tensor, kind: str = "giou") -> Tensor:
    """1 - IoU of each pair, not reduced: (..., 4) and (..., 4) to (...); an empty set gives none.

    With kind "iou" boxes apart have gradient 0; the other kinds pull them together.
    """
    return 1 - paired_iou(predicted_xyxy, target_xyxy, kind)


# --8<-- [end:loss]


# --8<-- [start:masks]
def mask_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Pixels that two masks share; bool (N, H, W) and (M, H, W) to float32 (N, M)."""
    _check_masks(a, b)
    return a.flatten(1).float() @ b.flatten(1).float().T


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Each mask of one set with each of the other; bool (N, H, W) and (M, H, W) to (N, M).

    Two empty masks have IoU 0.
    """
    shared = mask_intersection(a, b)  # (N, M)
    area = [x.flatten(1).sum(1).to(shared) for x in (a, b)]
    return _ratio(shared, area[0][:, None] + area[1] - shared)


# --8<-- [end:masks]


def check_boxes(name: str, boxes_xyxy: Tensor) -> None:
    """Raise ValueError unless the boxes are floating, (..., 4), finite and of no negative size.

    On a GPU this waits for the values.
    """
    if boxes_xyxy.shape[-1:] != (4,):
        raise ValueError(f"{name} must be (..., 4), got {tuple(boxes_xyxy.shape)}")
    if not boxes_xyxy.is_floating_point():
        raise ValueError(f"{name} must be floating, got {boxes_xyxy.dtype}; call .float()")
    bad = ~boxes_xyxy.isfinite().all(-1) | (boxes_xyxy[..., 2:] < boxes_xyxy[..., :2]).any(-1)
    if bad.any():
        first = [float(x) for x in boxes_xyxy[bad][0]]
        raise ValueError(f"{name} must be finite with x1 <= x2 and y1 <= y2, got {first}")


def _check_pair(a: Tensor, b: Tensor, kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_boxes("a_xyxy", a)
    check_boxes("b_xyxy", b)
    if a.dtype != b.dtype or a.device != b.device:
        found = f"{a.dtype} on {a.device}, {b.dtype} on {b.device}"
        raise ValueError(f"both sets of boxes need one dtype and device, got {found}")


def _check_masks(a: Tensor, b: Tensor) -> None:
    for name, masks in (("a", a), ("b", b)):
        if masks.ndim != 3 or masks.dtype != torch.bool:
            found = f"{masks.dtype} {tuple(masks.shape)}"
            raise ValueError(f"{name} must be bool (N, H, W), got {found}")
    if a.shape[1:] != b.shape[1:] or a.device != b.device:
        found = f"{tuple(a.shape)} on {a.device}, {tuple(b.shape)} on {b.device}"
        raise ValueError(f"masks need one size and device, got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    predicted = torch.tensor([[1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0]], requires_grad=True)
    truth = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    for kind in ("iou", "giou", "diou", "ciou"):
        (gradient,) = torch.autograd.grad(iou_loss(predicted, truth, kind).sum(), predicted)
        values = [f"{x:.3f}" for x in paired_iou(predicted, truth, kind)]
        print(f"{kind:4}", *values, "disjoint boxes move:", bool(gradient[1].any()))
    # --8<-- [end:demo]
