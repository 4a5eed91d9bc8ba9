"""Transposed convolution: by scatter-add and by zero insertion, its sizes and its overlaps.

Paper: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
       https://arxiv.org/abs/1603.07285
       Odena, Dumoulin and Olah, "Deconvolution and Checkerboard Artifacts", Distill, 2016
       (overlaps). https://doi.org/10.23915/distill.00003
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C input channels, O output channels, G groups, H and W input, HO and WO output,
       KH and KW kernel. A pair is (height, width); one integer stands for both.
"""

# --8<-- [start:imports]
import torch
import torch.nn.functional as F
from torch import Tensor

Pair = int | tuple[int, int]  # (height, width), or one number for both
# --8<-- [end:imports]

__all__ = [
    "conv_transpose2d_scatter",
    "conv_transpose2d_zeros",
    "output_padding_for",
    "overlap_count",
    "transposed_output_size",
]


# --8<-- [start:sizes]
def transposed_output_size(
    n: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
) -> int:
    """Output size along one axis.

    Args:
        n: input size, at least 1; kernel, stride and dilation likewise.
        padding: of the convolution that is transposed: cells cut off at each end of the output.
        output_padding: cells kept at the end in spite of that; less than stride or dilation.

    Raises:
        ValueError: a parameter is out of range, or no output is left.
    """
    _check_axis(n, kernel, stride, padding, dilation)
    _check_output_padding(output_padding, stride, dilation)
    size = (n - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + output_padding
    _check_size(size)
    return size


def output_padding_for(
    n: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """The output_padding that gives n back, if a convolution with these settings had n cells."""
    _check_axis(n, kernel, stride, padding, dilation)
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    _check_room(room, n, padding)
    return room % stride  # cells at the end that the convolution did not read


# --8<-- [end:sizes]


# --8<-- [start:scatter]
def conv_transpose2d_scatter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Stamp the kernel on the output once for each input cell, scaled by it, and add up.

    Arguments in the order of F.conv_transpose2d, which it equals.

    Args:
        x: input, (B, C, H, W), floating point.
        weight: (C, O/G, KH, KW): the layout of a convolution from O to C channels.
        bias: (O,).
        stride: distance of neighbouring stamps.
        padding: rows or columns cut off at each end.
        output_padding: as many fewer are cut off at the bottom and on the right.
        groups: G, must divide C.
        dilation: distance between neighbouring kernel cells, 1 for a dense kernel.

    Returns:
        Output (B, O, HO, WO).

    Raises:
        ValueError: shapes do not fit, or a parameter is out of range.
        TypeError: x, weight, bias are not of one floating dtype.
    """
    _check(x, weight, bias, groups)
    ho, wo = _output(x, weight, stride, padding, output_padding, dilation)
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    (b, c, h, w), (kh, kw) = x.shape, weight.shape[2:]
    x = x.reshape(b, groups, c // groups, h * w)
    weight = weight.reshape(groups, c // groups, -1)  # (G, C/G, O/G*KH*KW)
    stamps = weight.mT @ x  # (B, G, O/G*KH*KW, H*W), one column for each input cell
    full = (sh * (h - 1) + dh * (kh - 1) + 1, sw * (w - 1) + dw * (kw - 1) + 1)
    out = F.fold(stamps.flatten(1, 2), full, (kh, kw), (dh, dw), 0, (sh, sw))  # adds the stamps
    out = F.pad(out, (-pw, wo - full[1] + pw, -ph, ho - full[0] + ph))  # negative: cuts off
    return out if bias is None else out + bias[:, None, None]  # (B, O, HO, WO)


# --8<-- [end:scatter]


# --8<-- [start:zeros]
def conv_transpose2d_zeros(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Convolve, with stride 1, the input spread out with zeros; arguments as for the scatter."""
    _check(x, weight, bias, groups)
    ho, wo = _output(x, weight, stride, padding, output_padding, dilation)
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    (b, c, h, w), (kh, kw) = x.shape, weight.shape[2:]
    spread = x.new_zeros(b, c, sh * (h - 1) + 1, sw * (w - 1) + 1)
    spread[:, :, ::sh, ::sw] = x
    top, left = dh * (kh - 1) - ph, dw * (kw - 1) - pw
    spread = F.pad(spread, (left, wo - spread.shape[3] + pw, top, ho - spread.shape[2] + ph))
    kernels = weight.reshape(groups, c // groups, -1, kh, kw).transpose(1, 2)
    kernels = kernels.flatten(0, 1).flip(2, 3)  # (O, C/G, KH, KW), turned by 180 degrees
    return F.conv2d(spread, kernels, bias, dilation=(dh, dw), groups=groups)  # (B, O, HO, WO)


# --8<-- [end:zeros]


# --8<-- [start:overlap]
def overlap_count(
    size: Pair,
    kernel: Pair,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """How many kernel cells are added up in each output cell, int64 of shape (HO, WO)."""
    _check_axis(*_pair(size), 1, 0, 1)
    ones = torch.ones(1, 1, *_pair(size), dtype=torch.float64)
    stamp = torch.ones(1, 1, *_pair(kernel), dtype=torch.float64)
    out = conv_transpose2d_scatter(
        ones, stamp, None, stride, padding, output_padding, dilation=dilation
    )
    return out[0, 0].round().long()


# --8<-- [end:overlap]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _output(
    x: Tensor, weight: Tensor, stride: Pair, padding: Pair, output_padding: Pair, dilation: Pair
) -> tuple[int, int]:
    settings = (_pair(v) for v in (stride, padding, output_padding, dilation))
    (sh, sw), (ph, pw), (ah, aw), (dh, dw) = settings
    return (
        transposed_output_size(x.shape[2], weight.shape[2], sh, ph, ah, dh),
        transposed_output_size(x.shape[3], weight.shape[3], sw, pw, aw, dw),
    )


def _check_axis(n: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    positive = {"n": n, "kernel": kernel, "stride": stride, "dilation": dilation}
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")


def _check_output_padding(value: int, stride: int, dilation: int) -> None:
    if not 0 <= value < max(stride, dilation):
        raise ValueError(
            "output_padding must be at least 0 and less than stride or dilation, "
            f"got {value} with {stride} and {dilation}"
        )


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"padding leaves no output: size {size}")


def _check_room(room: int, n: int, padding: int) -> None:
    if room < 0:
        raise ValueError(f"the kernel does not fit into {n} + 2 * {padding} cells")


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if weight.ndim != 4:
        raise ValueError(f"weight must be (C, O/G, KH, KW), got {tuple(weight.shape)}")
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"x and weight differ in C: {tuple(x.shape)}, {tuple(weight.shape)}")
    if not (x.shape[1] and weight.shape[1]):
        raise ValueError(f"C and O must be at least 1, got {tuple(weight.shape)}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups must be positive and divide C = {x.shape[1]}, got {groups}")
    if weight.dtype != x.dtype:
        raise TypeError(f"x and weight differ in dtype: {x.dtype}, {weight.dtype}")
    if bias is None:
        return
    if bias.shape != (weight.shape[1] * groups,):
        expected = weight.shape[1] * groups
        raise ValueError(f"bias must be ({expected},), got {tuple(bias.shape)}")
    if bias.dtype != x.dtype:
        raise TypeError(f"x and bias differ in dtype: {x.dtype}, {bias.dtype}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 5, 7, generator=generator)
    weight = torch.randn(6, 4, 3, 3, generator=generator)  # (C, O/G, KH, KW)
    bias = torch.randn(8, generator=generator)

    settings = dict(stride=2, padding=1, output_padding=1, groups=2)
    expected = F.conv_transpose2d(x, weight, bias, **settings)
    for function in (conv_transpose2d_scatter, conv_transpose2d_zeros):
        out = function(x, weight, bias, **settings)
        print(function.__name__, tuple(out.shape), torch.allclose(out, expected, atol=1e-4))

    # the adjoint identity: both inner products agree; here 8 channels become 6, then 6 become 8
    z = torch.randn(2, 8, 10, 14, generator=generator)
    forwards = F.conv2d(z, weight, stride=2, padding=1, groups=2)  # (2, 6, 5, 7)
    backwards = conv_transpose2d_scatter(x, weight, None, **settings)  # (2, 8, 10, 14)
    print(torch.allclose((forwards * x).sum(), (z * backwards).sum(), rtol=1e-3))
    # --8<-- [end:demo]
