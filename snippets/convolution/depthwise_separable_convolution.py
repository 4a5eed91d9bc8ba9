"""Depthwise, grouped and depthwise separable convolution, and why few FLOPs need not be fast.

Paper: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
       Applications", 2017, section 3.1. https://arxiv.org/abs/1704.04861
       Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
       https://arxiv.org/abs/1610.02357
       Williams, Waterman, Patterson, "Roofline: An Insightful Visual Performance Model for
       Multicore Architectures", CACM 2009. https://doi.org/10.1145/1498765.1498785
Needs: Python >= 3.10, torch >= 2.0, and convolution_arithmetic.py and pointwise_convolution.py
       beside this file.
Axes:  B batch, C input channels, O output channels, G groups, M depth multiplier, H and W input,
       HO and WO output, KH and KW kernel. A pair is (height, width); one integer stands for both.
"""

# --8<-- [start:imports]
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from .convolution_arithmetic import ConvCost, Pair, conv2d_cost, im2col, output_size
from .pointwise_convolution import pointwise_conv2d

__all__ = [
    "DepthwiseSeparableBlock",
    "depthwise_conv2d",
    "depthwise_separable_conv2d",
    "grouped_conv2d",
    "grouped_cost",
    "merge_separable",
    "roofline_seconds",
]


# --8<-- [start:core]
def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Convolve every channel by itself, as F.conv2d does with groups=C.

    Args:
        x: input, (B, C, H, W), floating point.
        weight: M kernels for each channel, (C*M, 1, KH, KW); those of channel c are c*M and
            the M - 1 after it.
        bias: (C*M,).
        stride: step of the window.
        padding: zeros at each end of the axis.
        dilation: distance between neighbouring kernel cells.

    Returns:
        Output (B, C*M, HO, WO). In float16 and bfloat16 the sum is rounded after each cell.

    Raises:
        ValueError: shapes do not fit, or a parameter is out of range.
        TypeError: x, weight, bias are not of one floating dtype.
    """
    _check(x, weight, bias, x.shape[1] if x.ndim == 4 else 1)
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    (b, c), (kh, kw) = x.shape[:2], weight.shape[2:]
    m = weight.shape[0] // c  # depth multiplier
    ho = output_size(x.shape[2], kh, sh, ph, dh)
    wo = output_size(x.shape[3], kw, sw, pw, dw)
    x = F.pad(x, (pw, pw, ph, ph)).unsqueeze(2)  # (B, C, 1, H + 2 ph, W + 2 pw)
    kernels = weight.reshape(c, m, kh, kw)  # (C, M, KH, KW)
    out = x.new_zeros(b, c, m, ho, wo)
    for u in range(kh):
        for v in range(kw):
            rows = slice(dh * u, dh * u + sh * (ho - 1) + 1, sh)
            columns = slice(dw * v, dw * v + sw * (wo - 1) + 1, sw)
            scale = kernels[:, :, u, v, None, None]  # (C, M, 1, 1)
            out = out + scale * x[..., rows, columns]  # no sum over channels: no matrix product
    out = out.flatten(1, 2)  # (B, C*M, HO, WO)
    return out if bias is None else out + bias[:, None, None]


def depthwise_separable_conv2d(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Filter each channel, then mix the channels; nothing between, one bias at the end.

    Args:
        x: input, (B, C, H, W).
        depthwise: (C*M, 1, KH, KW).
        pointwise: (O, C*M) or (O, C*M, 1, 1).
        bias: (O,).
        stride: of the depthwise part, as are padding and dilation.

    Returns:
        Output (B, O, HO, WO).
    """
    filtered = depthwise_conv2d(x, depthwise, None, stride, padding, dilation)  # (B, C*M, HO, WO)
    return pointwise_conv2d(filtered, pointwise, bias)  # (B, O, HO, WO)


# --8<-- [end:core]


# --8<-- [start:groups]
def grouped_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve as F.conv2d does: G convolutions side by side, each on its share of the channels.

    Arguments as for depthwise_conv2d, but weight is (O, C/G, KH, KW) and G divides C and O.
    """
    _check(x, weight, bias, groups)
    (b, o), (kh, kw) = (x.shape[0], weight.shape[0]), weight.shape[2:]
    columns = im2col(x, (kh, kw), stride, padding, dilation)  # (B, C*KH*KW, HO*WO)
    kernels = weight.reshape(groups, o // groups, weight.shape[1] * kh * kw)
    columns = columns.reshape(b, *kernels.shape[::2], columns.shape[2])  # (B, G, C/G*KH*KW, HO*WO)
    out = (kernels @ columns).flatten(1, 2)  # G matrix products, (B, O, HO*WO)
    if bias is not None:
        out = out + bias[:, None]
    ho = output_size(x.shape[2], kh, _pair(stride)[0], _pair(padding)[0], _pair(dilation)[0])
    return out.reshape(b, o, ho, columns.shape[3] // ho)  # (B, O, HO, WO)


# --8<-- [end:groups]


# --8<-- [start:block]
class DepthwiseSeparableBlock(nn.Module):
    """The block of MobileNet: depthwise, norm, ReLU, pointwise, norm, ReLU.

    Args:
        channels: C, of the input.
        out_channels: O, of the output.
        kernel: odd size of the depthwise kernels; the padding keeps H and W at stride 1.
        stride: of the depthwise convolution.
        generator: draws the weights, normal with variance 2 / inputs of a sum. On the CPU: move
            the block afterwards.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        _check_block(channels, out_channels, kernel)
        self.stride, self.padding = stride, kernel // 2
        depthwise = torch.randn(channels, 1, kernel, kernel, generator=generator)
        pointwise = torch.randn(out_channels, channels, 1, 1, generator=generator)
        self.depthwise = nn.Parameter(depthwise * (2 / kernel**2) ** 0.5)
        self.pointwise = nn.Parameter(pointwise * (2 / channels) ** 0.5)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, HO, WO)."""
        # Autocast may hand on half precision.
        depthwise, pointwise = self.depthwise.to(x.dtype), self.pointwise.to(x.dtype)
        x = depthwise_conv2d(x, depthwise, None, self.stride, self.padding)  # (B, C, HO, WO)
        x = F.relu(self.norm1(x))
        x = pointwise_conv2d(x, pointwise)  # (B, O, HO, WO)
        return F.relu(self.norm2(x))


# --8<-- [end:block]


# --8<-- [start:merge]
def merge_separable(depthwise: Tensor, pointwise: Tensor, channels: int) -> Tensor:
    """The full kernel (O, C, KH, KW) of (C*M, 1, KH, KW) followed by (O, C*M) or (O, C*M, 1, 1).

    For each of the C input channels it is a matrix (O, KH*KW) of rank M or less.
    """
    _check_merge(depthwise, pointwise, channels)
    kernels = depthwise.reshape(channels, -1, *depthwise.shape[2:])  # (C, M, KH, KW)
    mixing = pointwise.reshape(pointwise.shape[0], *kernels.shape[:2])  # (O, C, M)
    return torch.einsum("ocm,cmuv->ocuv", mixing, kernels)


# --8<-- [end:merge]


# --8<-- [start:cost]
def grouped_cost(
    x_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    groups: int,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    number_bytes: int = 4,
) -> ConvCost:
    """Count for shapes (B, C, H, W) and (O, C/G, KH, KW): G times what one group takes."""
    _check_shapes(x_shape, weight_shape, groups)
    (b, c, h, w), (o, share, kh, kw) = x_shape, weight_shape
    x, weight = (b, c // groups, h, w), (o // groups, share, kh, kw)  # of one group
    one = conv2d_cost(x, weight, stride, padding, dilation, number_bytes)
    macs, flops, moved, columns = (groups * number for number in one[1:])
    return ConvCost((b, o, *one.output[2:]), macs, flops, moved, columns)


def roofline_seconds(cost: ConvCost, flops_per_second: float, bytes_per_second: float) -> float:
    """The least time of a layer that reads its input from memory and writes its output there."""
    return max(cost.flops / flops_per_second, cost.bytes / bytes_per_second)


# --8<-- [end:cost]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    _check_shapes(tuple(x.shape), tuple(weight.shape), groups)
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"x and {name} differ in dtype: {x.dtype}, {tensor.dtype}")


def _check_shapes(x: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    if len(x) != 4:
        raise ValueError(f"x must be (B, C, H, W), got {x}")
    if len(weight) != 4:
        raise ValueError(f"weight must be (O, C/G, KH, KW), got {weight}")
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    if x[1] % groups or weight[0] % groups:
        raise ValueError(f"groups must divide C and O, got {groups}, {x[1]}, {weight[0]}")
    if x[1] != groups * weight[1]:
        raise ValueError(f"x and weight differ in C for {groups} groups: {x}, {weight}")


def _check_merge(depthwise: Tensor, pointwise: Tensor, channels: int) -> None:
    shapes = tuple(depthwise.shape), tuple(pointwise.shape)
    if depthwise.ndim != 4 or depthwise.shape[1] != 1:
        raise ValueError(f"depthwise must be (C*M, 1, KH, KW), got {shapes[0]}")
    if pointwise.ndim not in (2, 4) or pointwise.shape[2:].numel() != 1:
        raise ValueError(f"pointwise must be (O, C*M) or (O, C*M, 1, 1), got {shapes[1]}")
    if depthwise.shape[0] != pointwise.shape[1]:
        raise ValueError(f"depthwise and pointwise differ in C*M: {shapes[0]}, {shapes[1]}")
    if channels < 1 or depthwise.shape[0] % channels:
        raise ValueError(f"channels must divide {depthwise.shape[0]}, got {channels}")


def _check_block(channels: int, out_channels: int, kernel: int) -> None:
    if min(channels, out_channels) < 1:
        raise ValueError(f"channels must be positive, got {channels}, {out_channels}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {kernel}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 16, 16, generator=generator)  # (B, C, H, W)
    depthwise = torch.randn(16, 1, 3, 3, generator=generator)  # depth multiplier M = 2
    pointwise = torch.randn(32, 16, 1, 1, generator=generator)  # (O, C*M, 1, 1)

    out = depthwise_separable_conv2d(x, depthwise, pointwise, stride=2, padding=1)
    expected = F.conv2d(F.conv2d(x, depthwise, stride=2, padding=1, groups=8), pointwise)
    print("separable", tuple(out.shape), torch.allclose(out, expected, atol=1e-4))

    full = merge_separable(depthwise, pointwise, channels=8)
    same = torch.allclose(out, F.conv2d(x, full, stride=2, padding=1), atol=1e-4)
    print("as one kernel", tuple(full.shape), same)

    weight = torch.randn(32, 2, 3, 3, generator=generator)  # (O, C/G, KH, KW)
    grouped = grouped_conv2d(x, weight, padding=1, groups=4)
    expected = F.conv2d(x, weight, padding=1, groups=4)
    print("grouped", tuple(grouped.shape), torch.allclose(grouped, expected, atol=1e-4))
    # --8<-- [end:demo]
