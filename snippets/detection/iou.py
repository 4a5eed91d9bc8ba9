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
    """(..., 4) of centre x, centre y, width, height to left, top, right, bottom.

    This and its three neighbours look at the shape alone; check_boxes looks at the values.
    """
    center, size = _halves(boxes)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) of left, top, right, bottom to centre x, centre y, width, height."""
    low, high = _halves(boxes)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def box_xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) of left, top, width, height (COCO's format) to left, top, right, bottom."""
    low, size = _halves(boxes)
    return torch.cat([low, low + size], dim=-1)


def box_xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) of left, top, right, bottom to left, top, width, height (COCO's format)."""
    low, high = _halves(boxes)
    return torch.cat([low, high - low], dim=-1)


def _halves(boxes: Tensor) -> tuple[Tensor, Tensor]:
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes must be (..., 4), got {tuple(boxes.shape)}")
    return boxes[..., :2], boxes[..., 2:]  # (..., 2), (..., 2)


# --8<-- [end:formats]


# --8<-- [start:core]
def box_area(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) to (...), in square pixels; in float32 for half precision, as all that follows."""
    check_boxes("boxes_xyxy", boxes_xyxy)
    return _area(_widen(boxes_xyxy))


def box_intersection(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Area that two boxes share; (..., 4) and (..., 4), broadcast, to (...)."""
    _check_pair(a_xyxy, b_xyxy)
    _check_broadcast(a_xyxy.shape[:-1], b_xyxy.shape[:-1])
    return _intersection(_widen(a_xyxy), _widen(b_xyxy))


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor, kind: str = "iou") -> Tensor:
    """Each box of one set with each of the other.

    Args:
        a_xyxy: (..., N, 4), floating, each with x1 <= x2 and y1 <= y2.
        b_xyxy: (..., M, 4), of the same dtype and device; `...` is broadcast.
        kind: "iou" in [0, 1], "giou" and "diou" in [-1, 1], or "ciou" in [-1.5, 1].

    Returns:
        (..., N, M); in float32 for half-precision boxes, whose areas overflow. Two boxes without
        area have IoU 0 (torchvision: nan), and a penalty that would be 0 / 0 is 0.

    Raises:
        ValueError: another shape, dtype or device, a negative size, NaN, infinity, an unknown kind.
    """
    _check_pair(a_xyxy, b_xyxy, kind)
    if a_xyxy.ndim < 2 or b_xyxy.ndim < 2:
        shapes = f"{tuple(a_xyxy.shape)} and {tuple(b_xyxy.shape)}"
        raise ValueError(f"sets of boxes must be (..., N, 4) and (..., M, 4), got {shapes}")
    _check_broadcast(a_xyxy.shape[:-2], b_xyxy.shape[:-2])
    return _iou(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :], kind)


def paired_iou(a_xyxy: Tensor, b_xyxy: Tensor, kind: str = "iou") -> Tensor:
    """Box i of one set with box i of the other: (..., 4) and (..., 4) to (...); see box_iou."""
    _check_pair(a_xyxy, b_xyxy, kind)
    _check_same_shape(a_xyxy, b_xyxy)
    return _iou(a_xyxy, b_xyxy, kind)


def _iou(a: Tensor, b: Tensor, kind: str) -> Tensor:
    a, b = _widen(a), _widen(b)
    shared = _intersection(a, b)  # (...)
    union = _area(a) + _area(b) - shared  # (...)
    iou = _ratio(shared, union)
    if kind == "iou":
        return iou
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    if kind == "giou":
        area = hull[..., 0] * hull[..., 1]  # of the smallest box around both
        return iou - _ratio(area - union, area)
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2  # between the centres
    diou = iou - _ratio(apart.square().sum(-1), hull.square().sum(-1))
    if kind == "diou":
        return diou
    v = 4 / math.pi**2 * (_angle(b) - _angle(a)).square()
    with torch.no_grad():  # a weight, not a term to be minimised
        alpha = _ratio(v, 1 - iou + v)
    return diou - alpha * v


def _area(boxes: Tensor) -> Tensor:
    size = boxes[..., 2:] - boxes[..., :2]  # (..., 2)
    return size[..., 0] * size[..., 1]  # (...)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[..., :2], b[..., :2])  # (..., 2)
    high = torch.minimum(a[..., 2:], b[..., 2:])  # (..., 2)
    size = (high - low).clamp(min=0)
    return size[..., 0] * size[..., 1]  # (...)


def _angle(boxes: Tensor) -> Tensor:
    """The arc tangent of width over height; 0, without gradient, for a box that is a point."""
    w, h = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    point = w.square() + h.square() < torch.finfo(w.dtype).tiny
    return torch.atan2(w.masked_fill(point, 0), h.masked_fill(point, 1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, or 0 with gradient 0 where b is 0."""
    none = b < torch.finfo(b.dtype).tiny
    return a.masked_fill(none, 0) / b.masked_fill(none, 1)


def _widen(boxes: Tensor) -> Tensor:
    """An area of 256 x 256 pixels is more than float16 holds."""
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


# --8<-- [end:core]


# --8<-- [start:loss]
def iou_loss(predicted_xyxy: Tensor, target_xyxy: Tensor, kind: str = "giou") -> Tensor:
    """1 - GIoU, or 1 - another kind, of each pair, not reduced: (..., 4) and (..., 4) to (...).

    With kind "iou" boxes apart have gradient 0; the other kinds pull them together. What is bad
    for box_iou raises ValueError here too: a prediction needs x1 <= x2 and y1 <= y2.
    """
    _check_pair(predicted_xyxy, target_xyxy, kind, names=("predicted_xyxy", "target_xyxy"))
    _check_same_shape(predicted_xyxy, target_xyxy)
    return 1 - _iou(predicted_xyxy, target_xyxy, kind)


# --8<-- [end:loss]


# --8<-- [start:masks]
def mask_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Pixels that two masks share; bool (N, H, W) and (M, H, W) to float32 (N, M).

    Exact for masks of up to 2**24 pixels, under autocast too.
    """
    _check_masks(a, b)
    with torch.autocast(a.device.type, enabled=False):  # bfloat16 cannot count beyond 256
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


def _check_pair(
    a: Tensor, b: Tensor, kind: str = "iou", names: tuple[str, str] = ("a_xyxy", "b_xyxy")
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_boxes(names[0], a)
    check_boxes(names[1], b)
    if a.dtype != b.dtype or a.device != b.device:
        found = f"{a.dtype} on {a.device}, {b.dtype} on {b.device}"
        raise ValueError(f"both sets of boxes need one dtype and device, got {found}")


def _check_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"pairs need boxes of the same shape, got {shapes}")


def _check_broadcast(a: torch.Size, b: torch.Size) -> None:
    for m, n in zip(reversed(a), reversed(b), strict=False):
        if m != n and 1 not in (m, n):
            raise ValueError(f"leading axes do not broadcast, got {tuple(a)} and {tuple(b)}")


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
    predicted = torch.tensor([[3.0, 3.0, 6.0, 6.0], [7.0, 1.0, 8.0, 6.0]], requires_grad=True)
    truth = torch.tensor([[2.0, 2.0, 5.0, 5.0], [2.0, 2.0, 5.0, 5.0]])
    print("      overlap    apart   gradient apart")
    for kind in ("iou", "giou", "diou", "ciou"):
        values = [f"{x:8.3f}" for x in paired_iou(predicted, truth, kind)]
        (gradient,) = torch.autograd.grad(iou_loss(predicted, truth, kind).sum(), predicted)
        print(f"{kind:5}", *values, "       ", "yes" if gradient[1].any() else "none")
    # --8<-- [end:demo]
