"""RoI pooling and RoI align: a fixed number of bins from any box, on one map or on a pyramid.

Paper: Girshick, "Fast R-CNN", ICCV 2015, section 2.1 (RoI pooling).
       https://arxiv.org/abs/1504.08083
       He et al., "Mask R-CNN", ICCV 2017, section 3 (RoI align). https://arxiv.org/abs/1703.06870
       Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 4.2, eq. (1)
       (levels). https://arxiv.org/abs/1612.03144
Needs: Python >= 3.10, torch >= 2.0 and iou.py beside it.
Axes:  B images, n boxes of all images, C channels, H and W of a map, h and w bins, S samples and
       T cells read by a bin, along one axis. A box is (x1, y1, x2, y2) in pixels of the image.
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

# --8<-- [end:imports]
from .iou import box_area, check_boxes

__all__ = ["assign_levels", "pyramid_roi_align", "roi_align", "roi_pool"]

ENTRIES = 2**21  # indices and weights that exist at a time, beside those kept for the gradient


# --8<-- [start:pool]
def roi_pool(
    features: Tensor, boxes: Sequence[Tensor], output_size: int | tuple[int, int], scale: float
) -> Tensor:
    """The largest value in each bin of each box, box and bins rounded to whole cells.

    Args:
        features: (B, C, H, W), floating.
        boxes: for each image (n_b, 4), x1, y1, x2, y2 in pixels; n_b may be 0.
        output_size: (h, w), or one number for both.
        scale: of the map, one over its stride.

    Returns:
        (sum of n_b, C, h, w) of the features' dtype, image after image. Corners are rounded, halves
        away from zero, and the last cell counts: a box covers x2 - x1 + 1 cells. Bins overlap where
        they do not fit; a bin outside the map is 0. As in the libraries, bins are computed in the
        precision of the boxes (float32 at least), which may add a cell where they fit exactly.
        Among equal cells the first in reading order gets the gradient; boxes get none.

    Raises:
        ValueError: another shape, dtype or device, a bad box (see check_boxes), size or scale.
    """
    h, w = _check(features, boxes, output_size, scale)
    n, base, corners = _flatten(features, boxes, scale)
    if n == 0:
        return features[:0, :, :1, :1].expand(0, -1, h, w)  # zeros, yet part of the graph
    (_, C, H, W), table = features.shape, _table(features)
    low, high = _round(corners[:, :2]), _round(corners[:, 2:])
    size = (high - low + 1).clamp(min=1)
    left, right = _whole_bins(low[:, 0], size[:, 0], w, W)  # (n, w) each
    top, bottom = _whole_bins(low[:, 1], size[:, 1], h, H)  # (n, h)
    y, in_y = _cells(top, bottom)  # (n, h, T)
    x, in_x = _cells(left, right)  # (n, w, T)
    rows: list[Tensor] = []
    for part in _parts(n, h * w * y.shape[-1] * x.shape[-1]):
        inside = in_y[part, :, None, :, None] & in_x[part, None, :, None, :]  # (n, h, w, T, T)
        index, bags = _ragged(_index(base[part], y[part], x[part], W), inside)
        rows.append(F.embedding_bag(index, table, bags, mode="max"))  # an empty bag gives 0
    return torch.cat(rows).view(n, h, w, C).permute(0, 3, 1, 2).contiguous().to(features)


def _round(x: Tensor) -> Tensor:
    """Halves away from zero, as in C; torch.round takes them to the even neighbour."""
    whole = x.trunc()
    return whole + x.sign() * ((x - whole).abs() >= 0.5)


def _whole_bins(low: Tensor, size: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """First cell of each bin and the one after its last, inside the map."""
    i = torch.arange(bins, device=low.device)
    bin_size = (size / bins)[:, None]
    start = low[:, None] + (i * bin_size).floor()  # (n, bins)
    end = low[:, None] + ((i + 1) * bin_size).ceil()
    return start.clamp(0, length).long(), end.clamp(0, length).long()


def _cells(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """As many cells from the start of each bin as the longest has, and which are its own."""
    longest = max(1, int((end - start).amax()))
    cells = start[..., None] + torch.arange(longest, device=start.device)  # (n, bins, T)
    return cells, cells < end[..., None]


# --8<-- [end:pool]


# --8<-- [start:align]
def roi_align(
    features: Tensor,
    boxes: Sequence[Tensor],
    output_size: int | tuple[int, int],
    scale: float,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """The mean over each bin of each box of samples between the cells; nothing is rounded.

    Args:
        features: (B, C, H, W), floating.
        boxes: for each image (n_b, 4), x1, y1, x2, y2 in pixels; n_b may be 0.
        output_size: (h, w), or one number for both.
        scale: of the map, one over its stride.
        sampling_ratio: samples of a bin along each axis; 0 or less: as many as the bin has cells,
            rounded up, for each box on its own.
        aligned: True puts the centre of cell i at i + 1/2 of the map; False at i, half a cell off,
            and makes boxes at least one cell wide, as in the first implementations.

    Returns:
        (sum of n_b, C, h, w) of the features' dtype, image after image. A sample up to one cell
        outside of the outermost centres has the value of the border, one farther out is 0. With
        aligned, a box without width has the value of a point; it is 0 where the number of samples
        is adaptive. No gradient with respect to the boxes.

    Raises:
        ValueError: another shape, dtype or device, a bad box (see check_boxes), size or scale.
    """
    h, w = _check(features, boxes, output_size, scale)
    n, base, corners = _flatten(features, boxes, scale)
    if n == 0:
        return features[:0, :, :1, :1].expand(0, -1, h, w)
    (_, C, H, W), table = features.shape, _table(features)
    corners = corners - 0.5 if aligned else corners
    low, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        size = size.clamp(min=1)
    bin_size = size / torch.tensor([w, h], device=size.device)
    grid = torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil()
    Sw, Sh = (max(1, int(s)) for s in grid.amax(0))
    entries = h * Sh + w * Sw + h * w * min(2 * Sh, H) * min(2 * Sw, W)
    rows: list[Tensor] = []
    for part in _parts(n, entries):
        x, across = _taps(low[part, 0], bin_size[part, 0], grid[part, 0], w, W)  # (n, w, T)
        y, down = _taps(low[part, 1], bin_size[part, 1], grid[part, 1], h, H)  # (n, h, T)
        weight = down[:, :, None, :, None] * across[:, None, :, None, :]  # (n, h, w, T, T)
        index, bags = _ragged(_index(base[part], y, x, W), weight != 0)
        weight = weight[weight != 0].to(table)
        rows.append(F.embedding_bag(index, table, bags, mode="sum", per_sample_weights=weight))
    return torch.cat(rows).view(n, h, w, C).permute(0, 3, 1, 2).contiguous().to(features)


@torch.no_grad()
def _taps(
    low: Tensor, bin_size: Tensor, grid: Tensor, bins: int, length: int
) -> tuple[Tensor, Tensor]:
    """Cells that each bin reads along one axis, and their weights: (n, bins, T) each."""
    bin_size, grid = bin_size[:, None, None], grid[:, None, None]
    i = torch.arange(bins, device=low.device)[:, None]
    s = torch.arange(max(1, int(grid.amax())), device=low.device)
    at = low[:, None, None] + i * bin_size + (s + 0.5) * bin_size / grid.clamp(min=1)
    counts = (s < grid) & (at >= -1) & (at <= length)  # (n, bins, S)
    share = counts / grid.clamp(min=1)
    at = at.clamp(0, length - 1)
    cell = at.floor()
    rest = (at - cell) * share
    cell = cell.long()
    dense = at.new_zeros(*at.shape[:2], length)  # (n, bins, length)
    dense.scatter_add_(-1, cell, share - rest)
    dense.scatter_add_(-1, (cell + 1).clamp(max=length - 1), rest)
    taps = max(1, int((dense != 0).sum(-1).amax()))
    weight, index = dense.topk(taps)  # none is negative: all that are not 0
    return index, weight


# --8<-- [end:align]


# --8<-- [start:shared]
def _flatten(features: Tensor, boxes: Sequence[Tensor], scale: float) -> tuple[int, Tensor, Tensor]:
    """Number of boxes, first row of the image of each in the table, corners on the map."""
    counts = torch.tensor([len(b) for b in boxes], dtype=torch.long, device=features.device)
    first = torch.arange(len(boxes), device=features.device) * features.shape[2:].numel()
    corners = torch.cat([features.new_zeros(0, 4), *boxes]).detach()
    if corners.dtype != torch.float64:
        corners = corners.float()
    return len(corners), first.repeat_interleave(counts), corners * scale


def _table(features: Tensor) -> Tensor:
    """One row for each cell, (B*H*W, C); at least float32."""
    table = features.permute(0, 2, 3, 1).flatten(0, 2)
    return table.float() if table.dtype in (torch.float16, torch.bfloat16) else table


def _parts(n: int, entries: int) -> list[slice]:
    """The boxes in groups small enough that a group's entries fit in the memory allowed."""
    step = max(1, ENTRIES // entries)
    return [slice(i, i + step) for i in range(0, n, step)]


def _index(base: Tensor, y: Tensor, x: Tensor, width: int) -> Tensor:
    """Rows of the table, (n, h, w, T, T)."""
    index = base[:, None, None] + y * width
    return index[:, :, None, :, None] + x[:, None, :, None, :]


def _ragged(index: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of all bins, one bin after the other, and where each bin begins."""
    counts = keep.flatten(3).sum(-1).flatten()  # (n*h*w,)
    return index[keep], counts.cumsum(0) - counts


# --8<-- [end:shared]


# --8<-- [start:levels]
def assign_levels(
    boxes_xyxy: Tensor,
    strides: Sequence[int],
    canonical_size: float = 224.0,
    canonical_stride: int = 16,
) -> Tensor:
    """The stride of the map that each box is pooled from, by the root of its area.

    Args:
        boxes_xyxy: (..., 4), pixels of the image.
        strides: powers of two, each twice the one before.
        canonical_size: root of the area of a box that belongs to canonical_stride.
        canonical_stride: 16 is level 4 of the paper: stride 2**k is level k.

    Returns:
        (...), int64, values out of strides; a box without area gets the smallest.

    Raises:
        ValueError: a bad box (see check_boxes), strides or canonical size.
    """
    _check_levels(boxes_xyxy, strides, canonical_size, canonical_stride)
    wide = boxes_xyxy.detach().to(torch.promote_types(boxes_xyxy.dtype, torch.float32))
    size = box_area(wide).sqrt()  # (...)
    level = math.log2(canonical_stride) + (size / canonical_size).log2().floor()
    return 2 ** level.clamp(math.log2(strides[0]), math.log2(strides[-1])).long()


def pyramid_roi_align(
    features: Mapping[int, Tensor],
    boxes: Sequence[Tensor],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
    canonical_size: float = 224.0,
    canonical_stride: int = 16,
) -> Tensor:
    """Each box from the map of its level; see roi_align and assign_levels.

    Args:
        features: stride -> (B, C, H, W), fine to coarse.
        boxes: for each image (n_b, 4), x1, y1, x2, y2 in pixels; n_b may be 0.
        output_size: (h, w), or one number for both.
        sampling_ratio: see roi_align.
        aligned: see roi_align.
        canonical_size: see assign_levels.
        canonical_stride: see assign_levels.

    Returns:
        (sum of n_b, C, h, w), in the order of the boxes, image after image.
    """
    _check_pyramid(features, boxes, output_size)
    levels = [assign_levels(b, list(features), canonical_size, canonical_stride) for b in boxes]
    rows: list[Tensor] = []
    places: list[Tensor] = []
    for stride, x in features.items():
        here = [level == stride for level in levels]
        chosen = [b[keep] for b, keep in zip(boxes, here, strict=True)]
        rows.append(roi_align(x, chosen, output_size, 1 / stride, sampling_ratio, aligned))
        places.append(torch.cat([x.new_zeros(0, dtype=torch.bool), *here]).nonzero()[:, 0])
    return torch.cat(rows)[torch.cat(places).argsort()]


# --8<-- [end:levels]


def _check(
    features: Tensor, boxes: Sequence[Tensor], output_size: int | tuple[int, int], scale: float
) -> tuple[int, int]:
    if features.ndim != 4 or 0 in features.shape[1:] or not features.is_floating_point():
        found = f"{features.dtype} {tuple(features.shape)}"
        raise ValueError(f"features must be floating (B, C, H, W), not empty, got {found}")
    if isinstance(boxes, Tensor):
        shape = tuple(boxes.shape)
        raise ValueError(f"boxes must be a list, one (n, 4) for each image, got a tensor {shape}")
    if len(boxes) != len(features):
        raise ValueError(f"features of {len(features)} images, boxes of {len(boxes)}")
    for i, b in enumerate(boxes):
        if b.ndim != 2:
            raise ValueError(f"boxes[{i}] must be (n, 4), got {tuple(b.shape)}")
        if b.device != features.device:
            raise ValueError(f"features are on {features.device}, boxes[{i}] on {b.device}")
        check_boxes(f"boxes[{i}]", b)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    h, w = (output_size, output_size) if isinstance(output_size, int) else output_size
    if min(h, w) < 1:
        raise ValueError(f"output_size must be positive, got {output_size}")
    return h, w


def _check_levels(
    boxes_xyxy: Tensor, strides: Sequence[int], canonical_size: float, canonical_stride: int
) -> None:
    check_boxes("boxes_xyxy", boxes_xyxy)
    doubling = all(b == 2 * a for a, b in pairwise(strides))
    if len(strides) == 0 or not doubling or not _is_power_of_two(strides[0]):
        found = list(strides)
        raise ValueError(f"strides must be powers of two, each twice the last, got {found}")
    if not _is_power_of_two(canonical_stride):
        raise ValueError(f"canonical_stride must be a power of two, got {canonical_stride}")
    if not 0 < canonical_size < math.inf:
        raise ValueError(f"canonical_size must be positive and finite, got {canonical_size}")


def _is_power_of_two(x: int) -> bool:
    return x > 0 and x & (x - 1) == 0


def _check_pyramid(
    features: Mapping[int, Tensor], boxes: Sequence[Tensor], output_size: int | tuple[int, int]
) -> None:
    if not features:
        raise ValueError("features must hold at least one map, got none")
    for x in features.values():
        _check(x, boxes, output_size, 1.0)
    if len({(x.shape[1], x.dtype) for x in features.values()}) > 1:
        found = ", ".join(f"{s}: {x.dtype} {tuple(x.shape)}" for s, x in features.items())
        raise ValueError(f"maps need one C and dtype, got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)  # each cell holds its column
    boxes = [torch.tensor([[21.0, 16.0, 105.0, 80.0]])]  # in a map of stride 8
    for name, pooled in {
        "roi_pool": roi_pool(ramp, boxes, (1, 4), scale=1 / 8),
        "roi_align": roi_align(ramp, boxes, (1, 4), scale=1 / 8),
        "not aligned": roi_align(ramp, boxes, (1, 4), scale=1 / 8, aligned=False),
    }.items():
        print(f"{name:12}", *(f"{x:6.2f}" for x in pooled.flatten()))
    sizes = torch.tensor([40.0, 111.0, 112.0, 224.0, 500.0])
    print(assign_levels(F.pad(sizes[:, None].expand(-1, 2), (2, 0)), [4, 8, 16, 32]))
    # --8<-- [end:demo]
