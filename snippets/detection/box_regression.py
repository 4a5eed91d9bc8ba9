"""Box regression: a box as four offsets from an anchor, smooth L1, and what follows decoding.

Paper: Girshick et al., "Rich feature hierarchies for accurate object detection and semantic
       segmentation", CVPR 2014, appendix C of the arXiv version (the offsets).
       https://arxiv.org/abs/1311.2524
       Girshick, "Fast R-CNN", ICCV 2015, eqs. (2) and (3) (smooth L1).
       https://arxiv.org/abs/1504.08083
Needs: Python >= 3.10, torch >= 2.0 and iou.py beside it; copy both as they are.
Axes:  N boxes, K classes; `...` is a batch. A box is (x1, y1, x2, y2) in pixels, its width is
       x2 - x1, without "+ 1". Deltas are (dx, dy, dw, dh).
"""

# --8<-- [start:imports]
import math
from dataclasses import dataclass

import torch
from torch import Tensor

# --8<-- [end:imports]
from .iou import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, check_boxes

__all__ = ["BoxCodec", "clip_to_image", "deltas_of_class", "large_enough", "smooth_l1_loss"]


# --8<-- [start:core]
@dataclass(frozen=True)
class BoxCodec:
    """Boxes to deltas from their anchors and back.

    Args:
        weights: factors for (dx, dy, dw, dh), each positive; (10, 10, 5, 5) divides by the
            standard deviations (0.1, 0.1, 0.2, 0.2) of Fast R-CNN's targets.
        clip: the most that dw and dh may be on decoding, without the weights; math.inf for none.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    clip: float = math.log(1000 / 16)

    def __post_init__(self) -> None:
        """Raise ValueError for weights or a clip that are not positive."""
        _check_codec(self.weights, self.clip)

    def encode(self, boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
        """What a network should predict at each anchor to arrive at its box.

        Args:
            boxes_xyxy: (..., 4), floating, of positive width and height.
            anchors_xyxy: the same, of the same dtype and device; shapes are broadcast.

        Returns:
            Deltas (..., 4); in float32 for half-precision boxes.

        Raises:
            ValueError: another shape, dtype or device, no positive size, NaN.
        """
        _check_encode(boxes_xyxy, anchors_xyxy)
        box = box_xyxy_to_cxcywh(_widen(boxes_xyxy))
        anchor = box_xyxy_to_cxcywh(_widen(anchors_xyxy))
        shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]  # (..., 2)
        growth = (box[..., 2:] / anchor[..., 2:]).log()  # (..., 2)
        return torch.cat([shift, growth], dim=-1) * shift.new_tensor(self.weights)

    def decode(self, deltas: Tensor, anchors_xyxy: Tensor) -> Tensor:
        """The boxes that a network's deltas stand for.

        Args:
            deltas: (..., 4), floating and finite, of any floating dtype.
            anchors_xyxy: (..., 4), of positive width and height; shapes are broadcast, so deltas
                (N, K, 4) go with anchors (N, 1, 4).

        Returns:
            Boxes (..., 4), not clipped to the image; at least in float32, whatever the deltas are
            (torchvision: in the dtype of the deltas). Where the clip bites, dw has gradient 0.

        Raises:
            ValueError: another shape or device, an anchor of no positive size, NaN or infinity.
        """
        _check_decode(deltas, anchors_xyxy)
        dtype = torch.promote_types(_widen(deltas).dtype, anchors_xyxy.dtype)
        anchor = box_xyxy_to_cxcywh(anchors_xyxy.to(dtype))
        deltas = deltas.to(dtype) / anchor.new_tensor(self.weights)
        center = anchor[..., :2] + deltas[..., :2] * anchor[..., 2:]  # (..., 2)
        size = anchor[..., 2:] * deltas[..., 2:].clamp(max=self.clip).exp()  # (..., 2)
        return box_cxcywh_to_xyxy(torch.cat([center, size], dim=-1))


# --8<-- [end:core]


# --8<-- [start:classes]
def deltas_of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Of the deltas for every class keep those of one class each.

    Args:
        deltas: (N, K, 4); with K = 1 they serve all classes and the labels do not matter.
        labels: int64 (N,), each in [0, K): leave background out first, and its deltas too
            (torchvision predicts a set for it, the first).

    Returns:
        (N, 4). Deltas of the other classes have gradient 0.

    Raises:
        ValueError: another shape, dtype or device, a label outside [0, K).
    """
    _check_labels(deltas, labels)
    if deltas.shape[1] == 1:
        return deltas[:, 0]  # (N, 4)
    return deltas.gather(1, labels[:, None, None].expand(-1, 1, 4))[:, 0]  # (N, 4)


# --8<-- [end:classes]


# --8<-- [start:loss]
def smooth_l1_loss(x: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """A parabola up to an error of beta, from there on a line of slope 1; not reduced.

    Args:
        x: predicted deltas, any shape, floating.
        target: of the same shape and device, floating.
        beta: where the line begins; 1 / sigma^2 of Faster R-CNN's code. 0 gives L1.

    Returns:
        The shape of x, at least in float32. NaN stays NaN; none of x gives none.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a negative or infinite beta.
    """
    _check_loss(x, target, beta)
    error = (_widen(x) - _widen(target)).abs()
    if beta == 0:
        return error
    return torch.where(error < beta, error.square() / (2 * beta), error - beta / 2)


# --8<-- [end:loss]


# --8<-- [start:after]
def clip_to_image(boxes_xyxy: Tensor, size: tuple[int, int]) -> Tensor:
    """Move the edges of (..., 4) that lie outside an image of size (H, W) onto its border.

    A box wholly outside loses its width or height. Coordinates are continuous: x may be W.
    ValueError for a negative size of image or box, NaN, another shape.
    """
    check_boxes("boxes_xyxy", boxes_xyxy)
    if min(size) < 0:
        raise ValueError(f"size must be (H, W), not negative, got {size}")
    x = boxes_xyxy[..., 0::2].clamp(0, size[1])  # (..., 2)
    y = boxes_xyxy[..., 1::2].clamp(0, size[0])  # (..., 2)
    return torch.stack([x, y], dim=-1).flatten(-2)  # (..., 4)


def large_enough(boxes_xyxy: Tensor, min_size: float) -> Tensor:
    """Bool (...), True where width and height of (..., 4) are both at least min_size.

    torchvision's remove_small_boxes gives indices instead. ValueError as for clip_to_image.
    """
    check_boxes("boxes_xyxy", boxes_xyxy)
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2] >= min_size).all(-1)


# --8<-- [end:after]


def _widen(x: Tensor) -> Tensor:
    """Half precision to float32: beyond 512 pixels bfloat16 knows multiples of 4 only."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check_codec(weights: tuple[float, ...], clip: float) -> None:
    if len(weights) != 4 or not all(0 < w < math.inf for w in weights):
        raise ValueError(f"weights must be four positive numbers, got {weights}")
    if not clip > 0:
        raise ValueError(f"clip must be positive, got {clip}")


def _check_sized(name: str, boxes: Tensor) -> None:
    check_boxes(name, boxes)
    flat = (boxes[..., 2:] <= boxes[..., :2]).any(-1)
    if flat.any():
        first = [float(x) for x in boxes[flat][0]]
        raise ValueError(f"{name} must have a positive width and height, got {first}")


def _check_broadcast(names: str, a: Tensor, b: Tensor) -> None:
    if a.device != b.device:
        raise ValueError(f"{names} need one device, got {a.device} and {b.device}")
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"{names} must fit each other, got {shapes}")


def _check_encode(boxes: Tensor, anchors: Tensor) -> None:
    _check_sized("boxes_xyxy", boxes)
    _check_sized("anchors_xyxy", anchors)
    if boxes.dtype != anchors.dtype:
        raise ValueError(f"boxes and anchors need one dtype, got {boxes.dtype}, {anchors.dtype}")
    _check_broadcast("boxes and anchors", boxes, anchors)


def _check_decode(deltas: Tensor, anchors: Tensor) -> None:
    if deltas.shape[-1:] != (4,) or not deltas.is_floating_point():
        found = f"{deltas.dtype} {tuple(deltas.shape)}"
        raise ValueError(f"deltas must be floating (..., 4), got {found}")
    if not deltas.isfinite().all():
        bad = [float(x) for x in deltas[~deltas.isfinite().all(-1)][0]]
        raise ValueError(f"deltas must be finite, got {bad}")
    _check_sized("anchors_xyxy", anchors)
    _check_broadcast("deltas and anchors", deltas, anchors)


def _check_labels(deltas: Tensor, labels: Tensor) -> None:
    if deltas.ndim != 3 or deltas.shape[2] != 4 or labels.shape != deltas.shape[:1]:
        found = f"{tuple(deltas.shape)}, {tuple(labels.shape)}"
        raise ValueError(f"deltas must be (N, K, 4) and labels (N,), got {found}")
    if labels.dtype != torch.int64 or labels.device != deltas.device:
        found = f"{labels.dtype} on {labels.device}"
        raise ValueError(f"labels must be int64 on {deltas.device}, got {found}")
    classes = deltas.shape[1]
    outside = labels[(labels < 0) | (labels >= classes)]
    if classes != 1 and len(outside):
        raise ValueError(f"labels must lie in [0, {classes}), got {int(outside[0])}")


def _check_loss(x: Tensor, target: Tensor, beta: float) -> None:
    if x.shape != target.shape or x.device != target.device:
        found = f"{tuple(x.shape)} on {x.device}, {tuple(target.shape)} on {target.device}"
        raise ValueError(f"x and target need one shape and device, got {found}")
    if not (x.is_floating_point() and target.is_floating_point()):
        raise ValueError(f"x and target must be floating, got {x.dtype}, {target.dtype}")
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must not be negative or infinite, got {beta}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    anchor = torch.tensor([100.0, 80.0, 300.0, 180.0])
    truth = torch.tensor([130.0, 70.0, 350.0, 220.0])
    codec = BoxCodec(weights=(10.0, 10.0, 5.0, 5.0))

    def show(name: str, values: Tensor) -> None:
        print(f"{name:<14}", *(f"{float(x):7.2f}" for x in values))

    show("deltas", BoxCodec().encode(truth, anchor))
    show("weighted", codec.encode(truth, anchor))
    show("all 3x larger", codec.encode(3 * truth, 3 * anchor))
    show("decoded", codec.decode(codec.encode(truth, anchor), anchor))
    wild = codec.decode(torch.tensor([0.0, 0.0, 50.0, 0.0]), anchor)
    show("dw of 50 / 5", wild)
    show("in 240 x 320", clip_to_image(wild, (240, 320)))
    # --8<-- [end:demo]
