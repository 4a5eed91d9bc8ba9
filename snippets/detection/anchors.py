"""Anchor boxes: their shapes, their grid, which ground truth each one learns, shapes by k-means.

Paper: Ren et al., "Faster R-CNN", NIPS 2015, sections 3.1.1, 3.1.2 and 3.3 of the journal version.
       https://arxiv.org/abs/1506.01497
       Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, section 2 (k-means).
       https://arxiv.org/abs/1612.08242
Needs: Python >= 3.10, torch >= 2.0, and iou.py beside this file.
Axes:  A anchors of one cell, N anchors of an image, G ground truths, n boxes of a dataset, k
       clusters. A shape is (w, h) in pixels; a box is (x1, y1, x2, y2), without "+ 1".
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

# --8<-- [end:imports]
from .iou import box_iou, check_boxes

__all__ = [
    "anchor_shapes",
    "average_iou",
    "grid_anchors",
    "inside_image",
    "kmeans_anchors",
    "match",
    "shape_iou",
]

UPDATES = ("mean", "median")


# --8<-- [start:core]
def anchor_shapes(
    scales: Sequence[float],
    ratios: Sequence[float],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """A width and a height for each ratio and scale.

    Args:
        scales: S square roots of areas, in pixels, positive.
        ratios: R ratios height / width, positive. (SSD's are width / height.)
        dtype: of the result, floating.
        device: of the result.

    Returns:
        (R*S, 2) of w, h: all scales of the first ratio, then of the second (as torchvision;
        Detectron2 the other way round). Not rounded: torchvision makes 2 * (shapes / 2).round().
    """
    _check_shapes(scales, ratios, dtype)
    pairs = [(s / math.sqrt(r), s * math.sqrt(r)) for r in ratios for s in scales]
    return torch.tensor(pairs, dtype=dtype, device=device).reshape(-1, 2)


def grid_anchors(
    size: tuple[int, int],
    stride: float | tuple[float, float],
    shapes: Tensor,
    offset: float = 0.5,
) -> Tensor:
    """Every shape on every cell of a feature map, as boxes in the image.

    Args:
        size: (h, w) of the map; a map without cells has no anchors.
        stride: pixels from one cell to the next, positive; or (vertical, horizontal).
        shapes: (A, 2) of w, h, floating, positive; A may be 0.
        offset: of the centre in its cell, from 0 (a corner: torchvision) to 1; 0.5 is the middle.

    Returns:
        (h*w*A, 4) xyxy, row by row, in a row cell by cell, in a cell in the order of `shapes`: the
        order of a head's output (A*4, h, w) after .reshape(A, 4, h, w).permute(2, 3, 0, 1). Boxes
        may leave the image. In float32 for half-precision shapes, too coarse for coordinates.
    """
    step_y, step_x = _check_grid(size, stride, shapes, offset)
    if shapes.dtype in (torch.float16, torch.bfloat16):
        shapes = shapes.float()
    y, x = (
        (torch.arange(n, dtype=shapes.dtype, device=shapes.device) + offset) * step
        for n, step in zip(size, (step_y, step_x), strict=True)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")  # (h, w), (h, w)
    centers = torch.stack([columns, rows], dim=-1)[:, :, None]  # (h, w, 1, 2)
    return torch.cat([centers - shapes / 2, centers + shapes / 2], dim=-1).reshape(-1, 4)


def inside_image(boxes_xyxy: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Which boxes (..., 4) lie wholly in an image of (height, width): bool (...)."""
    check_boxes("boxes_xyxy", boxes_xyxy)
    height, width = image_size
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return (low >= 0).all(-1) & (high <= high.new_tensor([width, height])).all(-1)


# --8<-- [end:core]


# --8<-- [start:match]
def match(iou: Tensor, high: float, low: float, force: bool = False) -> Tensor:
    """Assign to each anchor a ground truth, the background, or nothing.

    Args:
        iou: (G, N), floating, each ground truth with each anchor; at least 0.
        high: an anchor whose best IoU is at least this is positive.
        low: one whose best IoU is below this is background; 0 < low <= high <= 1.
        force: whether the best anchors of a ground truth, all whose IoU equals its maximum
            exactly (rounding may break a tie), are positive however low their IoU. Each still
            goes to the ground truth that *it* overlaps most.

    Returns:
        (N,) int64: the index of the ground truth, -1 for background, -2 for ignored. Of equal
        overlaps the first ground truth wins. Without ground truth (G = 0) all is background
        (torchvision's Matcher raises). A ground truth that overlaps no anchor forces none
        (torchvision and Detectron2: all that do not overlap it).
    """
    _check_match(iou, high, low)
    if len(iou) == 0:
        return torch.full((iou.shape[1],), -1, device=iou.device)
    best, truth = iou.max(dim=0)  # (N,), (N,)
    positive = best >= high
    if force and iou.shape[1]:
        most = iou.amax(dim=1, keepdim=True)  # (G, 1)
        positive = positive | ((iou == most) & (most > 0)).any(dim=0)
    rest = torch.where(best < low, -1, -2)
    return torch.where(positive, truth, rest)


# --8<-- [end:match]


# --8<-- [start:kmeans]
def shape_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of two sets of sizes, corner on corner: (n, 2) and (m, 2) of w, h to (n, m)."""
    return box_iou(pad(a, (2, 0)), pad(b, (2, 0)))  # boxes (0, 0, w, h)


def average_iou(sizes: Tensor, shapes: Tensor) -> Tensor:
    """Mean over sizes (n, 2) of the IoU with the closest of the shapes (k, 2): a scalar."""
    _check_sizes("sizes", sizes, least=1)
    _check_sizes("shapes", shapes, least=1)
    return shape_iou(sizes, shapes).amax(dim=1).mean()


def kmeans_anchors(
    sizes: Tensor,
    k: int,
    generator: torch.Generator | None = None,
    update: str = "mean",
    restarts: int = 10,
    iterations: int = 100,
) -> Tensor:
    """Shapes for a dataset, by k-means with the distance 1 - IoU.

    Args:
        sizes: (n, 2) of w, h of its boxes, floating, positive; at least k different ones.
        k: shapes wanted, at least 1.
        generator: draws the first centres of each restart, k different sizes.
        update: "mean" or "median" of the members, for each side.
        restarts: how often to start anew.
        iterations: at most, in each; the first judges the drawn sizes, so 1 moves nothing.

    Returns:
        (k, 2), by area: the centres with the highest average IoU met on the way, since neither
        update must raise it. A centre that no size is closest to moves to the size that is
        covered worst. In float32 for half-precision sizes.
    """
    different = _check_kmeans(sizes, k, update, restarts, iterations)
    sizes = _full(sizes)
    best, best_iou = sizes[:k], -1.0
    for _ in range(restarts):
        chosen = torch.randperm(
            len(different),
            generator=generator,
            device=generator.device if generator else "cpu",
        )
        centers = different[chosen[:k].to(sizes.device)]  # (k, 2)
        for _ in range(iterations):
            iou, nearest = shape_iou(sizes, centers).max(dim=1)  # (n,), (n,)
            average = float(iou.mean())
            if average > best_iou:
                best, best_iou = centers, average
            moved = _move(sizes, nearest, iou, k, update)
            if torch.equal(moved, centers):
                break
            centers = moved
    return best[best.prod(-1).argsort(stable=True)]


def _move(sizes: Tensor, nearest: Tensor, iou: Tensor, k: int, update: str) -> Tensor:
    """The centre of each cluster; for an empty one the worst covered size that is left."""
    worst = iter(iou.argsort(stable=True))
    centers: list[Tensor] = []
    for cluster in range(k):
        members = sizes[nearest == cluster]  # (m, 2)
        if len(members) == 0:
            centers.append(sizes[next(worst)])
        elif update == "mean":
            centers.append(members.mean(dim=0))
        else:
            centers.append(members.quantile(0.5, dim=0))
    return torch.stack(centers)  # (k, 2)


# --8<-- [end:kmeans]


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check_shapes(scales: Sequence[float], ratios: Sequence[float], dtype: torch.dtype) -> None:
    for name, values in (("scales", scales), ("ratios", ratios)):
        for value in values:
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating, got {dtype}")


def _check_sizes(name: str, sizes: Tensor, least: int = 0) -> None:
    if sizes.ndim != 2 or sizes.shape[1] != 2 or len(sizes) < least:
        wanted = "(n, 2), n at least 1," if least else "(n, 2)"
        raise ValueError(f"{name} must be {wanted} of w, h, got {tuple(sizes.shape)}")
    if not sizes.is_floating_point():
        raise ValueError(f"{name} must be floating, got {sizes.dtype}; call .float()")
    bad = ~(sizes.isfinite() & (sizes > 0)).all(-1)
    if bad.any():
        first = [float(x) for x in sizes[bad][0]]
        raise ValueError(f"{name} must be positive and finite, got {first}; leave such boxes out")


def _check_grid(
    size: tuple[int, int], stride: float | tuple[float, float], shapes: Tensor, offset: float
) -> tuple[float, float]:
    if min(size) < 0:
        raise ValueError(f"size must be (h, w), at least 0 each, got {size}")
    steps = (stride, stride) if isinstance(stride, int | float) else (stride[0], stride[1])
    if not all(math.isfinite(x) and x > 0 for x in steps):
        raise ValueError(f"stride must be positive and finite, got {stride}")
    if not 0 <= offset <= 1:
        raise ValueError(f"offset must be from 0 to 1, got {offset}")
    _check_sizes("shapes", shapes)
    return steps


def _check_match(iou: Tensor, high: float, low: float) -> None:
    if iou.ndim != 2 or not iou.is_floating_point():
        raise ValueError(f"iou must be floating (G, N), got {iou.dtype} {tuple(iou.shape)}")
    if not 0 < low <= high <= 1:
        raise ValueError(f"thresholds need 0 < low <= high <= 1, got low {low}, high {high}")
    bad = ~(iou >= 0)  # NaN too
    if bad.any():
        raise ValueError(f"iou must be at least 0, got {float(iou[bad][0])}")


def _check_kmeans(sizes: Tensor, k: int, update: str, restarts: int, iterations: int) -> Tensor:
    _check_sizes("sizes", sizes, least=1)
    if update not in UPDATES:
        raise ValueError(f"update must be one of {', '.join(UPDATES)}, got {update!r}")
    for name, value in (("k", k), ("restarts", restarts), ("iterations", iterations)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    sizes = _full(sizes)
    for side in (1, 0):  # by w, then h
        sizes = sizes[sizes[:, side].argsort(stable=True)]
    new = (sizes[1:] != sizes[:-1]).any(dim=1)
    different = torch.cat([sizes[:1], sizes[1:][new]])
    if len(different) < k:
        raise ValueError(f"k must be at most the {len(different)} different sizes, got {k}")
    return different


if __name__ == "__main__":
    # --8<-- [start:demo]
    # Faster R-CNN on VGG-16: an image of 1000 x 600 pixels makes a map of 63 x 38 cells.
    shapes = anchor_shapes(scales=(128, 256, 512), ratios=(0.5, 1, 2))
    anchors = grid_anchors((38, 63), stride=16, shapes=shapes)
    inside = inside_image(anchors, (600, 1000))
    print(len(anchors), "anchors,", int(inside.sum()), "of them inside")

    truth = torch.tensor([[100.0, 140.0, 350.0, 390.0], [570.0, 250.0, 730.0, 310.0]])
    iou = box_iou(truth, anchors[inside])  # (2, N)
    print("best IoU of each truth:", [f"{x:.2f}" for x in iou.amax(dim=1)])
    for force in (False, True):
        found = match(iou, high=0.7, low=0.3, force=force)
        counts = [int((found == label).sum()) for label in (0, 1, -1, -2)]
        print("truth 0: {}, truth 1: {}, background: {}, ignored: {}".format(*counts))
    # --8<-- [end:demo]
