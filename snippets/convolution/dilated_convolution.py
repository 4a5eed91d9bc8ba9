"""Dilated (atrous) convolution: as one strided view, by phases, and the holes it can leave.

Paper: Yu and Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016.
       https://arxiv.org/abs/1511.07122
       Wang et al., "Understanding Convolution for Semantic Segmentation", WACV 2018, section 3.2
       (gridding, hybrid rates). https://arxiv.org/abs/1702.08502
Needs: Python >= 3.10, torch >= 2.0, convolution_arithmetic.py and receptive_field.py beside
       this file.
Axes:  B batch, C input channels, O output channels, G groups, H and W input, HO and WO output,
       KH and KW kernel, DH and DW dilation, HM and WM one phase (HM' and WM' its output).
       A pair is (height, width); one integer stands for both.
"""

# unflatten carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

# --8<-- [start:imports]
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# --8<-- [end:imports]
from .convolution_arithmetic import Pair, output_size
from .receptive_field import Layer, receptive_fields

__all__ = [
    "dilated_conv2d",
    "dilated_conv2d_phases",
    "dilated_windows",
    "hdc_distance",
    "is_gapless",
    "path_counts",
]


# --8<-- [start:core]
def dilated_windows(x: Tensor, kernel: Pair, stride: Pair = 1, dilation: Pair = 1) -> Tensor:
    """View x, (B, C, H, W), as all its windows: (B, C, HO, WO, KH, KW); nothing is copied.

    A step to the next window is `stride` cells of x, a step to the next tap `dilation` cells.
    Cells share memory: do not write into the result.
    """
    _check_input(x)
    (kh, kw), (sh, sw), (dh, dw) = _pair(kernel), _pair(stride), _pair(dilation)
    b, c, h, w = x.shape
    size = (output_size(h, kh, sh, 0, dh), output_size(w, kw, sw, 0, dw), kh, kw)
    to_image, to_channel, down, right = x.stride()  # in numbers, not in bytes
    steps = (sh * down, sw * right, dh * down, dw * right)
    return x.as_strided((b, c, *size), (to_image, to_channel, *steps))  # (B, C, HO, WO, KH, KW)


def dilated_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve as F.conv2d does (no flip): every window, tap by tap, with the kernel.

    Args:
        x: input, (B, C, H, W), floating point.
        weight: kernels, (O, C / groups, KH, KW); dilation adds no weights.
        bias: (O,).
        stride: step of the window.
        padding: zeros at each end of the axis; dilation * (kernel - 1) / 2 keeps the size at
            stride 1, if that is a whole number.
        dilation: distance of neighbouring taps, 1 for a dense kernel.
        groups: input and output channels fall into that many runs, each convolved by itself.

    Returns:
        Output (B, O, HO, WO).

    Raises:
        ValueError: shapes do not fit, or a parameter is out of range.
        TypeError: x, weight, bias are not of one floating dtype.
    """
    _check(x, weight, bias, padding, groups)
    ph, pw = _pair(padding)
    padded = F.pad(x, (pw, pw, ph, ph))  # (B, C, H + 2 PH, W + 2 PW)
    kernel = (weight.shape[2], weight.shape[3])
    windows = dilated_windows(padded, kernel, stride, dilation)
    windows = windows.unflatten(1, (groups, weight.shape[1]))  # (B, G, C/G, HO, WO, KH, KW)
    kernels = weight.unflatten(0, (groups, weight.shape[0] // groups))  # (G, O/G, C/G, KH, KW)
    out = torch.einsum("bgchwuv,gocuv->bgohw", windows, kernels).flatten(1, 2)  # (B, O, HO, WO)
    return out if bias is None else out + bias[:, None, None]


# --8<-- [end:core]


# --8<-- [start:phases]
def dilated_conv2d_phases(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve with stride 1 by dense convolutions only: space to batch, and back.

    The cells whose row and column leave the same remainders modulo the dilation are one phase.
    A dilated kernel never leaves its phase, so each is an image of its own. Arguments as for
    dilated_conv2d.
    """
    _check(x, weight, bias, padding, groups)
    (kh, kw), (ph, pw), (dh, dw) = weight.shape[2:], _pair(padding), _pair(dilation)
    ho = output_size(x.shape[2], kh, 1, ph, dh)
    wo = output_size(x.shape[3], kw, 1, pw, dw)
    more_h, more_w = -(x.shape[2] + 2 * ph) % dh, -(x.shape[3] + 2 * pw) % dw
    x = F.pad(x, (pw, pw + more_w, ph, ph + more_h))  # (B, C, HM * DH, WM * DW)
    b, c = x.shape[:2]
    x = x.unflatten(3, (-1, dw)).unflatten(2, (-1, dh))  # (B, C, HM, DH, WM, DW)
    x = x.permute(3, 5, 0, 1, 2, 4).reshape(dh * dw * b, c, x.shape[2], x.shape[4])
    out = dilated_conv2d(x, weight, bias, groups=groups)  # (DH * DW * B, O, HM', WM'), dense
    out = out.unflatten(0, (dh, dw, b)).permute(2, 3, 4, 0, 5, 1)  # (B, O, HM', DH, WM', DW)
    return out.flatten(4, 5).flatten(2, 3)[:, :, :ho, :wo]  # (B, O, HO, WO)


# --8<-- [end:phases]


# --8<-- [start:gridding]
def path_counts(layers: Sequence[Layer]) -> Tensor:
    """Count the ways from each position of one output's field to that output, along one axis.

    Returns:
        (size of the field,) int64; zero is a hole. In two dimensions the counts are the outer
        product of those of the two axes. Borders are not regarded.

    Raises:
        ValueError: a layer is out of range, or there are more paths than int64 holds.
    """
    fields = receptive_fields(layers)
    _check_paths(math.prod(layer.kernel for layer in layers))
    counts = torch.ones(1, dtype=torch.int64)
    for layer, field in zip(layers, fields[:-1], strict=True):
        step = layer.dilation * field.jump  # pixels between neighbouring taps
        wider = counts.new_zeros(len(counts) + (layer.kernel - 1) * step)
        for tap in range(layer.kernel):
            wider[tap * step : tap * step + len(counts)] += counts
        counts = wider
    return counts


def is_gapless(kernel: int, rates: Sequence[int]) -> bool:
    """Tell whether stride-1 layers of that kernel and these rates read all of their field.

    In rising order, no rate may exceed the field of the smaller ones. The order of the layers
    does not matter.
    """
    layers = [Layer(kernel, dilation=rate) for rate in sorted(rates)]
    fields = receptive_fields(layers)
    return kernel == 1 or all(
        layer.dilation <= field.size for layer, field in zip(layers, fields[:-1], strict=True)
    )


def hdc_distance(rates: Sequence[int]) -> int:
    """M_2 of hybrid dilated convolution (Wang et al., eq. 2), which is not to exceed the kernel."""
    _check_rates(rates)
    distance = rates[-1]
    for rate in rates[-2:0:-1]:  # down to the second layer; the first takes no part
        distance = max(distance - 2 * rate, 2 * rate - distance, rate)
    return distance


# --8<-- [end:gridding]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _check_input(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair, groups: int) -> None:
    _check_input(x)
    if weight.ndim != 4:
        raise ValueError(f"weight must be (O, C / groups, KH, KW), got {tuple(weight.shape)}")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups must divide the {weight.shape[0]} kernels, got {groups}")
    if x.shape[1] != groups * weight.shape[1]:
        shapes = f"{tuple(x.shape)}, {tuple(weight.shape)}"
        raise ValueError(f"x and weight differ in C, with {groups} groups: {shapes}")
    if weight.dtype != x.dtype:
        raise TypeError(f"x and weight differ in dtype: {x.dtype}, {weight.dtype}")
    if min(_pair(padding)) < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    if bias is None:
        return
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    if bias.dtype != x.dtype:
        raise TypeError(f"x and bias differ in dtype: {x.dtype}, {bias.dtype}")


def _check_paths(paths: int) -> None:
    if paths > torch.iinfo(torch.int64).max:
        raise ValueError(f"more paths than int64 holds, got {paths}")


def _check_rates(rates: Sequence[int]) -> None:
    if len(rates) < 2 or min(rates) < 1:
        raise ValueError(f"rates must be two or more, each at least 1, got {list(rates)}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 20, 20, generator=generator)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    for rate in (1, 2, 4):
        expected = F.conv2d(x, weight, padding=rate, dilation=rate)
        outputs = [
            dilated_conv2d(x, weight, padding=rate, dilation=rate),
            dilated_conv2d_phases(x, weight, padding=rate, dilation=rate),
        ]
        same = [torch.allclose(out, expected, atol=1e-4) for out in outputs]
        print(f"rate {rate}: {weight.numel()} weights, output {tuple(expected.shape)}", same)
    # --8<-- [end:demo]
