"""Spatial pyramid pooling: fixed length from any size (SPP-net); SPP and SPPF blocks (YOLO).

Paper: He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
       ECCV 2014. https://arxiv.org/abs/1406.4729
       Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020,
       section 2.2 (the block). https://arxiv.org/abs/2004.10934
       Jocher, pull request 4420 of YOLOv5, 2021 (SPPF).
       https://github.com/ultralytics/yolov5/pull/4420
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C channels, H and W map, N bins along an axis, T cells of the longest window.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]

__all__ = [
    "SPPBlock",
    "bin_ranges",
    "max_comparisons",
    "pool_cascade",
    "pool_parallel",
    "sliding_windows",
    "spatial_pyramid_pool",
]


# --8<-- [start:bins]
def bin_ranges(size: int, bins: int) -> list[tuple[int, int]]:
    """First cell, and last cell plus one, of each bin along an axis: round down, then up.

    Every cell is in a bin; neighbours share at most one cell unless size < bins.
    """
    _check_bins(size, bins)
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


def sliding_windows(size: int, bins: int) -> list[tuple[int, int]]:
    """Windows of an ordinary pooling with kernel ceil(size / bins), stride floor(size / bins).

    There may be more of them than bins.
    """
    _check_bins(size, bins)
    _check_stride(size, bins)
    kernel, stride = -(-size // bins), size // bins
    return [(start, start + kernel) for start in range(0, size - kernel + 1, stride)]


# --8<-- [end:bins]


# --8<-- [start:pyramid]
def spatial_pyramid_pool(x: Tensor, levels: Sequence[int] = (6, 3, 2, 1)) -> Tensor:
    """Maximum over each bin of each level, as one vector for each image.

    Args:
        x: maps, (B, C, H, W), floating point, of any H and W.
        levels: N of each level, which has N * N bins; default: the 50 bins of SPP-net.

    Returns:
        (B, C * sum(N * N)): level after level, in each channels first, as F.adaptive_max_pool2d
        and flatten would put them. Of equal maxima the first one gets the gradient.
    """
    _check_maps(x)
    _check_levels(levels)
    pooled = (_pool_axis(_pool_axis(x, n, 3), n, 2) for n in levels)  # each (B, C, N, N)
    return torch.cat([maxima.flatten(1) for maxima in pooled], dim=1)


def _pool_axis(x: Tensor, bins: int, axis: int) -> Tensor:
    ranges = bin_ranges(x.shape[axis], bins)
    longest = max(end - start for start, end in ranges)  # T
    cells = [[min(start + t, end - 1) for t in range(longest)] for start, end in ranges]
    index = torch.tensor(cells, device=x.device)  # (N, T); a short bin repeats its last cell
    windows = x.index_select(axis, index.flatten())
    windows = windows.reshape(*x.shape[:axis], bins, longest, *x.shape[axis + 1 :])
    return windows.max(dim=axis + 1).values  # N cells along the axis


# --8<-- [end:pyramid]


# --8<-- [start:blocks]
def pool_parallel(x: Tensor, kernels: Sequence[int] = (5, 9, 13)) -> Tensor:
    """SPP of YOLO: x and its maxima over windows of several sizes, (B, C * (1 + len), H, W)."""
    _check_maps(x)
    _check_kernels(kernels)
    pooled = [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in kernels]
    return torch.cat([x, *pooled], dim=1)


def pool_cascade(x: Tensor, kernel: int = 5, times: int = 3) -> Tensor:
    """SPPF: the same by one small pooling after the other.

    Equal to pool_parallel with kernels k, 2k - 1, 3k - 2, ... for k = kernel.
    """
    _check_maps(x)
    _check_kernels([kernel])
    maps = [x]
    for _ in range(times):
        maps.append(F.max_pool2d(maps[-1], kernel, stride=1, padding=kernel // 2))
    return torch.cat(maps, dim=1)  # (B, C * (1 + times), H, W)


class SPPBlock(nn.Module):
    """The block of YOLOv5: halve the channels, pool, concatenate, mix.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: k, odd.
        times: number of poolings; their windows are k, 2k - 1, 3k - 2, ...
        cascade: SPPF if true, SPP if false; same parameters, same output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 5,
        times: int = 3,
        cascade: bool = True,
    ) -> None:
        """Build both 1 x 1 convolutions."""
        super().__init__()
        _check_block(in_channels, out_channels, times)
        _check_kernels([kernel])
        self.kernel, self.times, self.cascade = kernel, times, cascade
        hidden = in_channels // 2
        self.reduce = _conv_norm_act(in_channels, hidden)
        self.mix = _conv_norm_act(hidden * (1 + times), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        x = self.reduce(x)
        if self.cascade:
            x = pool_cascade(x, self.kernel, self.times)
        else:
            kernels = [j * (self.kernel - 1) + 1 for j in range(1, self.times + 1)]
            x = pool_parallel(x, kernels)
        return self.mix(x)


def _conv_norm_act(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)  # as YOLOv5 sets them
    return nn.Sequential(conv, norm, nn.SiLU())


# --8<-- [end:blocks]


# --8<-- [start:cost]
def max_comparisons(height: int, width: int, kernels: Sequence[int]) -> int:
    """Comparisons of two numbers for maxima over all windows, one map, borders counted exactly.

    A window of m cells inside the map takes m - 1. The kernels are (5, 9, 13) for the parallel
    form and (5, 5, 5) for the cascade.
    """
    _check_kernels(kernels)

    def covered(size: int, radius: int) -> int:  # cells of all windows along one axis
        return sum(min(i + radius, size - 1) - max(i - radius, 0) + 1 for i in range(size))

    return sum(covered(height, k // 2) * covered(width, k // 2) - height * width for k in kernels)


# --8<-- [end:cost]


def _check_maps(x: Tensor) -> None:
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be (B, C, H, W), only B may be 0, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")


def _check_bins(size: int, bins: int) -> None:
    if size < 1 or bins < 1:
        raise ValueError(f"size and bins must be at least 1, got {size}, {bins}")


def _check_stride(size: int, bins: int) -> None:
    if size < bins:
        raise ValueError(f"{size} cells for {bins} bins give a stride of 0")


def _check_levels(levels: Sequence[int]) -> None:
    if not levels or min(levels) < 1:
        raise ValueError(f"levels must be one or more positive numbers, got {list(levels)}")


def _check_kernels(kernels: Sequence[int]) -> None:
    for kernel in kernels:
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernels must be odd and positive, got {list(kernels)}")


def _check_block(in_channels: int, out_channels: int, times: int) -> None:
    if in_channels < 2 or out_channels < 1 or times < 1:
        got = f"{in_channels}, {out_channels}, {times}"
        raise ValueError(f"in_channels must be at least 2, out_channels and times 1, got {got}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    for height, width in [(13, 13), (10, 10), (7, 20)]:
        x = torch.randn(2, 256, height, width, generator=generator)
        print((height, width), "->", tuple(spatial_pyramid_pool(x).shape))

    x = torch.randn(2, 64, 20, 20, generator=generator)
    print("SPPF = SPP:", torch.equal(pool_cascade(x), pool_parallel(x)))
    print("comparisons:", max_comparisons(20, 20, (5, 9, 13)), max_comparisons(20, 20, (5, 5, 5)))
    # --8<-- [end:demo]
