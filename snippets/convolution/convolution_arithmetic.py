"""Two-dimensional convolution: output sizes, three ways to compute it, and what it costs.

Paper: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016 (sizes).
       https://arxiv.org/abs/1603.07285
       Chellapilla et al., "High Performance Convolutional Neural Networks for Document
       Processing", IWFHR 2006 (im2col). https://inria.hal.science/inria-00112631
       Mathieu et al., "Fast Training of Convolutional Networks through FFTs", ICLR 2014.
       https://arxiv.org/abs/1312.5851
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C input channels, O output channels, H and W input, HO and WO output,
       KH and KW kernel. A pair is (height, width); one integer stands for both.
"""

# torch.fft carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

# --8<-- [start:imports]
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | tuple[int, int]  # (height, width), or one number for both
# --8<-- [end:imports]

__all__ = [
    "ConvCost",
    "conv2d_cost",
    "conv2d_direct",
    "conv2d_fft",
    "conv2d_im2col",
    "im2col",
    "output_size",
    "same_padding",
]


# --8<-- [start:sizes]
def output_size(
    n: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> int:
    """Count the windows of a convolution or pooling along one axis.

    Args:
        n: input size, at least 1.
        kernel: kernel size; stride and dilation likewise at least 1.
        padding: cells added at each of the two ends.
        ceil_mode: pooling only: round up, but drop a window that would start in the padding
            at the end, as PyTorch does.

    Raises:
        ValueError: a parameter is out of range, or not one window fits.
    """
    _check_axis(n, kernel, stride, padding, dilation)
    room = n + 2 * padding - dilation * (kernel - 1) - 1  # where the last window could start
    count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
    if ceil_mode and (count - 1) * stride >= n + padding:
        count -= 1
    _check_fits(count, n, kernel, padding, dilation)
    return count


def same_padding(n: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Cells to add (before, after) for an output of ceil(n / stride): TensorFlow's "SAME".

    An odd total puts the extra cell after. With stride 1 it is also PyTorch's padding="same".
    """
    _check_axis(n, kernel, stride, 0, dilation)
    last = (-(-n // stride) - 1) * stride  # where the last window starts
    total = max(last + dilation * (kernel - 1) + 1 - n, 0)
    return total // 2, total - total // 2


# --8<-- [end:sizes]


# --8<-- [start:direct]
def conv2d_direct(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Convolve as F.conv2d with groups=1 does: add up one shifted input for each kernel cell.

    Args:
        x: input, (B, C, H, W), floating point.
        weight: kernels, (O, C, KH, KW), applied without flipping (cross-correlation).
        bias: (O,).
        stride: step of the window.
        padding: zeros at each end of the axis; for unequal ends call F.pad first.
        dilation: distance between neighbouring kernel cells, 1 for a dense kernel.

    Returns:
        Output (B, O, HO, WO). In float16 and bfloat16 the sum is rounded after each cell.

    Raises:
        ValueError: shapes do not fit, or a parameter is out of range.
        TypeError: x, weight, bias are not of one floating dtype.
    """
    _check(x, weight, bias)
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    kh, kw = weight.shape[2:]
    ho = output_size(x.shape[2], kh, sh, ph, dh)
    wo = output_size(x.shape[3], kw, sw, pw, dw)
    x = F.pad(x, (pw, pw, ph, ph))  # (B, C, H + 2 ph, W + 2 pw)
    out = x.new_zeros(x.shape[0], weight.shape[0], ho, wo)
    for u in range(kh):
        for v in range(kw):
            rows = slice(dh * u, dh * u + sh * (ho - 1) + 1, sh)
            columns = slice(dw * v, dw * v + sw * (wo - 1) + 1, sw)
            seen = x[:, :, rows, columns]  # by cell (u, v) in all windows, (B, C, HO, WO)
            out = out + torch.einsum("oc,bchw->bohw", weight[:, :, u, v], seen)
    return out if bias is None else out + bias[:, None, None]  # (B, O, HO, WO)


# --8<-- [end:direct]


# --8<-- [start:im2col]
def im2col(
    x: Tensor, kernel: Pair, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1
) -> Tensor:
    """Copy each window of x, (B, C, H, W), into a column: (B, C*KH*KW, HO*WO), as F.unfold."""
    _check_input(x)
    (kh, kw), (sh, sw) = _pair(kernel), _pair(stride)
    (ph, pw), (dh, dw) = _pair(padding), _pair(dilation)
    ho = output_size(x.shape[2], kh, sh, ph, dh)
    wo = output_size(x.shape[3], kw, sw, pw, dw)
    x = F.pad(x, (pw, pw, ph, ph))
    windows = x.unfold(2, dh * (kh - 1) + 1, sh)[..., ::dh]  # (B, C, HO, W + 2 pw, KH), a view
    windows = windows.unfold(3, dw * (kw - 1) + 1, sw)[..., ::dw]  # (B, C, HO, WO, KH, KW), a view
    columns = windows.permute(0, 1, 4, 5, 2, 3)  # (B, C, KH, KW, HO, WO)
    return columns.reshape(x.shape[0], x.shape[1] * kh * kw, ho * wo)  # the copy is made here


def conv2d_im2col(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Convolve by one matrix product; arguments as for conv2d_direct."""
    _check(x, weight, bias)
    kh, kw = weight.shape[2:]
    columns = im2col(x, (kh, kw), stride, padding, dilation)  # (B, C*KH*KW, HO*WO)
    out = weight.flatten(1) @ columns  # (O, C*KH*KW) @ ... = (B, O, HO*WO)
    if bias is not None:
        out = out + bias[:, None]
    ho = output_size(x.shape[2], kh, _pair(stride)[0], _pair(padding)[0], _pair(dilation)[0])
    return out.reshape(x.shape[0], weight.shape[0], ho, columns.shape[2] // ho)  # (B, O, HO, WO)


# --8<-- [end:im2col]


# --8<-- [start:fft]
def conv2d_fft(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: Pair = 0) -> Tensor:
    """Convolve with stride 1 by a product of spectra; float32 and float64 only.

    Other arguments as for conv2d_direct.
    """
    _check(x, weight, bias)
    _check_fft(x)
    if not (x.numel() and weight.numel()):  # some FFT libraries refuse to transform nothing
        return conv2d_direct(x, weight, bias, 1, padding)
    ph, pw = _pair(padding)
    ho = output_size(x.shape[2], weight.shape[2], 1, ph)
    wo = output_size(x.shape[3], weight.shape[3], 1, pw)
    x = F.pad(x, (pw, pw, ph, ph))
    size = x.shape[2:]
    spectrum = torch.fft.rfft2(x)  # one for all O kernels
    kernels = torch.fft.rfft2(weight, s=size)  # one for all B images
    product = torch.einsum("bchw,ochw->bohw", spectrum, kernels.conj())  # conj: no flip
    out = torch.fft.irfft2(product, s=size)[:, :, :ho, :wo]  # what is cut off has wrapped around
    return out if bias is None else out + bias[:, None, None]  # (B, O, HO, WO)


# --8<-- [end:fft]


# --8<-- [start:cost]
class ConvCost(NamedTuple):
    """What one convolution takes, forwards."""

    output: tuple[int, int, int, int]  # (B, O, HO, WO)
    macs: int  # multiply-adds, those with padding zeros included, the bias not
    flops: int  # a multiplication and an addition count as two
    bytes: int  # input and weight read once, output written once
    im2col_bytes: int  # the matrix of columns

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved, if nothing is moved twice."""
        return self.flops / self.bytes


def conv2d_cost(
    x_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    number_bytes: int = 4,
) -> ConvCost:
    """Count operations and bytes from the shapes, (B, C, H, W) and (O, C, KH, KW)."""
    _check_shapes(x_shape, weight_shape)
    (b, c, h, w), (o, _, kh, kw) = x_shape, weight_shape
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    ho, wo = output_size(h, kh, sh, ph, dh), output_size(w, kw, sw, pw, dw)
    macs = b * o * ho * wo * c * kh * kw
    numbers = b * c * h * w + o * c * kh * kw + b * o * ho * wo
    columns = b * c * kh * kw * ho * wo
    return ConvCost((b, o, ho, wo), macs, 2 * macs, numbers * number_bytes, columns * number_bytes)


# --8<-- [end:cost]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _check_axis(n: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    positive = {"n": n, "kernel": kernel, "stride": stride, "dilation": dilation}
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")


def _check_fits(count: int, n: int, kernel: int, padding: int, dilation: int) -> None:
    if count < 1:
        span = dilation * (kernel - 1) + 1
        raise ValueError(f"a window of {span} does not fit into {n} + 2 * {padding} cells")


def _check_input(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")


def _check_shapes(x: tuple[int, ...], weight: tuple[int, ...]) -> None:
    if len(x) != 4:
        raise ValueError(f"x must be (B, C, H, W), got {x}")
    if len(weight) != 4:
        raise ValueError(f"weight must be (O, C, KH, KW), got {weight}")
    if x[1] != weight[1]:
        raise ValueError(f"x and weight differ in C: {x}, {weight}")


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _check_input(x)
    _check_shapes(tuple(x.shape), tuple(weight.shape))
    if weight.dtype != x.dtype:
        raise TypeError(f"x and weight differ in dtype: {x.dtype}, {weight.dtype}")
    if bias is None:
        return
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    if bias.dtype != x.dtype:
        raise TypeError(f"x and bias differ in dtype: {x.dtype}, {bias.dtype}")


def _check_fft(x: Tensor) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the FFT needs float32 or float64, got {x.dtype}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 32, 32, generator=generator)
    weight = torch.randn(8, 3, 5, 5, generator=generator)
    bias = torch.randn(8, generator=generator)

    expected = F.conv2d(x, weight, bias, stride=2, padding=2)
    for function in (conv2d_direct, conv2d_im2col):
        out = function(x, weight, bias, stride=2, padding=2)
        print(function.__name__, tuple(out.shape), torch.allclose(out, expected, atol=1e-4))
    out = conv2d_fft(x, weight, bias, padding=2)[..., ::2, ::2]  # every second output
    print("conv2d_fft", tuple(out.shape), torch.allclose(out, expected, atol=1e-4))
    # --8<-- [end:demo]
