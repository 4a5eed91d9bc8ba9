"""Convolution by the fast Fourier transform: whole images, overlapping tiles, long sequences.

Paper: Cooley and Tukey, "An algorithm for the machine calculation of complex Fourier series",
       Mathematics of Computation, 1965. https://doi.org/10.1090/S0025-5718-1965-0178586-1
       Mathieu et al., "Fast Training of Convolutional Networks through FFTs", ICLR 2014.
       https://arxiv.org/abs/1312.5851
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C input channels, O output channels, H and W input, HO and WO output, KH and KW
       kernel, NH and NW size of the transform, FW = NW // 2 + 1 frequencies that are kept,
       TH and TW tiles along an axis, MH and MW outputs along their sides, L length of a sequence.
"""

# torch.fft carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | tuple[int, int]  # (height, width), or one number for both
# --8<-- [end:imports]

__all__ = ["FFTCost", "causal_conv1d", "fast_size", "fft_conv2d", "fft_cost"]


# --8<-- [start:sizes]
def fast_size(n: int) -> int:
    """Find the least size from n on with no prime factor but 2, 3 and 5."""
    size = max(n, 1)
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


# --8<-- [end:sizes]


# --8<-- [start:core]
def fft_conv2d(x: Tensor, weight: Tensor, padding: Pair = 0, tile: int | None = None) -> Tensor:
    """Convolve as F.conv2d with stride 1 does, by a product of spectra.

    Args:
        x: input, (B, C, H, W), floating point.
        weight: kernels, (O, C, KH, KW), applied without flipping (cross-correlation).
        padding: zeros at each end of the axis.
        tile: outputs along the side of a tile, at least; None: one transform for the image.

    Returns:
        Output (B, O, HO, WO). float16 and bfloat16 are computed in float32 and rounded at the
        end: the FFT knows bfloat16 nowhere, and float16 on GPUs only, in powers of 2.

    Raises:
        ValueError: shapes do not fit, or a parameter is out of range.
        TypeError: x and weight are not of one floating dtype.
    """
    _check(x, weight, tile)
    out = _output_size(x.shape[2:], weight.shape[2:], padding)
    wide = torch.promote_types(x.dtype, torch.float32)
    x, weight, dtype = x.to(wide), weight.to(wide), x.dtype
    if not (x.numel() and weight.numel()):  # some FFT libraries refuse to transform nothing
        y = torch.einsum("bc,oc->bo", x.sum((2, 3)), weight.sum((2, 3)))  # nothing or zeros
        y = y[:, :, None, None].expand(-1, -1, *out)
    elif tile is None:
        y = _whole(x, weight, _pair(padding), out)
    else:
        y = _tiled(x, weight, _pair(padding), out, tile)
    return y[:, :, : out[0], : out[1]].to(dtype)  # (B, O, HO, WO)


def _correlate(x: Tensor, weight: Tensor, size: tuple[int, int], equation: str) -> Tensor:
    """Correlate on a circle (a torus, in two dimensions) of the given size."""
    spectrum = torch.fft.rfft2(x, s=size)  # zeros fill up at the end, (..., NH, FW)
    kernels = torch.fft.rfft2(weight, s=size)  # taps that meet zeros only go, (O, C, NH, FW)
    product = torch.einsum(equation, spectrum, kernels.conj())  # conj: the kernel is not flipped
    return torch.fft.irfft2(product, s=size)  # (..., NH, NW)


def _circle(n: int, padding: int, out: int) -> int:
    """Choose the size of a transform: nothing that is kept has wrapped around.

    What leaves at one end comes in at the other, so one run of `padding` zeros serves both.
    """
    return fast_size(max(n + padding, out))


def _whole(x: Tensor, weight: Tensor, padding: tuple[int, int], out: tuple[int, int]) -> Tensor:
    nh, nw = (_circle(*axis) for axis in zip(x.shape[2:], padding, out, strict=True))
    y = _correlate(x, weight, (nh, nw), "bchw,ochw->bohw")  # (B, O, NH, NW)
    return torch.roll(y, padding, dims=(2, 3))  # the first window starts p cells before the input


# --8<-- [end:core]


# --8<-- [start:tiled]
def _tiled(
    x: Tensor, weight: Tensor, padding: tuple[int, int], out: tuple[int, int], tile: int
) -> Tensor:
    """Overlap-save: windows overlap by K - 1, and what has wrapped around is dropped."""
    (kh, kw), (ph, pw) = weight.shape[2:], padding
    nh, nw = fast_size(tile + kh - 1), fast_size(tile + kw - 1)
    mh, mw = nh - kh + 1, nw - kw + 1  # outputs of a window that have not, at least `tile`
    th, tw = -(-out[0] // mh), -(-out[1] // mw)
    x = F.pad(x, (pw, pw + tw * mw - out[1], ph, ph + th * mh - out[0]))
    windows = x.unfold(2, nh, mh).unfold(3, nw, mw)  # (B, C, TH, TW, NH, NW), a view
    y = _correlate(windows, weight, (nh, nw), "bcijhw,ochw->boijhw")  # (B, O, TH, TW, NH, NW)
    y = y[..., :mh, :mw]  # (B, O, TH, TW, MH, MW)
    return y.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # (B, O, TH * MH, TW * MW)


# --8<-- [end:tiled]


# --8<-- [start:long]
def causal_conv1d(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel with a kernel as long as the sequence: y_t is the sum of k_s x_(t-s).

    Args:
        x: sequences, (..., C, L), floating point.
        kernel: (C, K), true convolution: kernel[:, 0] meets the present (in the package
            causal_conv1d of Mamba the last tap does: flip(-1)); taps beyond L are idle.

    Returns:
        (..., C, L); the half precisions as in fft_conv2d.
    """
    _check_long(x, kernel)
    length, wide = x.shape[-1], torch.promote_types(x.dtype, torch.float32)
    kernel = kernel[:, :length]  # (C, K)
    if not (x.numel() and kernel.numel()):
        return x * kernel.sum(-1, keepdim=True)  # nothing or zeros
    size = fast_size(length + kernel.shape[-1] - 1)  # the end must not come back at the beginning
    spectrum = torch.fft.rfft(x.to(wide), n=size) * torch.fft.rfft(kernel.to(wide), n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :length].to(x.dtype)


# --8<-- [end:long]


# --8<-- [start:cost]
class FFTCost(NamedTuple):
    """What one convolution takes, forwards."""

    direct: int  # FLOP of the definition
    fft: float  # FLOP of the transforms: 2.5 N log2 N for N real numbers
    product: int  # FLOP of the products over channels, 8 for a complex multiply-add
    numbers: int  # input, kernels and output
    spectra: int  # numbers in the three spectra, two for a frequency, written and read again

    @property
    def flops(self) -> float:
        """All of them."""
        return self.fft + self.product


def fft_cost(
    x_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    padding: Pair = 0,
    tile: int | None = None,
) -> FFTCost:
    """Count for the shapes (B, C, H, W) and (O, C, KH, KW) at stride 1."""
    (b, c, h, w), (o, _, kh, kw) = x_shape, weight_shape
    ho, wo = _output_size((h, w), (kh, kw), padding)
    if tile is None:
        ph, pw = _pair(padding)
        nh, nw, tiles = _circle(h, ph, ho), _circle(w, pw, wo), 1
    else:
        nh, nw = fast_size(tile + kh - 1), fast_size(tile + kw - 1)
        tiles = -(-ho // (nh - kh + 1)) * -(-wo // (nw - kw + 1))
    kept = nh * (nw // 2 + 1)  # frequencies; the others are their conjugates
    transforms = b * tiles * c + o * c + b * tiles * o
    return FFTCost(
        direct=2 * b * o * ho * wo * c * kh * kw,
        fft=transforms * 2.5 * nh * nw * math.log2(nh * nw),
        product=8 * b * tiles * o * c * kept,
        numbers=b * c * h * w + o * c * kh * kw + b * o * ho * wo,
        spectra=2 * transforms * kept,
    )


# --8<-- [end:cost]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _output_size(x: Sequence[int], kernel: Sequence[int], padding: Pair) -> tuple[int, int]:
    pads = _pair(padding)
    if min(pads) < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    if min(kernel) < 1:
        raise ValueError(f"the kernel must have a cell, got {tuple(kernel)}")
    h, w = (n + 2 * p - k + 1 for n, k, p in zip(x, kernel, pads, strict=True))
    if min(h, w) < 1:
        raise ValueError(f"a kernel of {tuple(kernel)} does not fit into {tuple(x)} + 2 * {pads}")
    return h, w


def _check(x: Tensor, weight: Tensor, tile: int | None) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if weight.ndim != 4:
        raise ValueError(f"weight must be (O, C, KH, KW), got {tuple(weight.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x and weight differ in C: {tuple(x.shape)}, {tuple(weight.shape)}")
    if not (x.is_floating_point() and x.dtype == weight.dtype):
        raise TypeError(
            f"x and weight must share one floating dtype, got {x.dtype}, {weight.dtype}"
        )
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}")


def _check_long(x: Tensor, kernel: Tensor) -> None:
    if x.ndim < 2 or kernel.ndim != 2 or x.shape[-2] != kernel.shape[0]:
        raise ValueError(
            f"x must be (..., C, L), kernel (C, K), got {tuple(x.shape)}, {tuple(kernel.shape)}"
        )
    if not (x.is_floating_point() and x.dtype == kernel.dtype):
        raise TypeError(
            f"x and kernel must share one floating dtype, got {x.dtype}, {kernel.dtype}"
        )


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 97, 101, generator=generator)  # two primes
    weight = torch.randn(8, 3, 15, 15, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), padding=7)
    for tile in (None, 32):
        out = fft_conv2d(x, weight, padding=7, tile=tile)
        error = (out.double() - exact).norm() / exact.norm()
        print(f"tile {tile}", tuple(out.shape), f"error below 1e-6: {error < 1e-6}")
    print([fast_size(n) for n in (97, 104, 108, 46)])

    sequence, kernel = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 0, 0, 10]])
    print(causal_conv1d(sequence, kernel).round(decimals=3).tolist())
    # --8<-- [end:demo]
