"""1 x 1 convolution: a matrix product over the channels of every pixel, and what it saves.

Paper: Lin, Chen, Yan, "Network In Network", ICLR 2014, section 3.1.
       https://arxiv.org/abs/1312.4400
       Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 4 (reductions).
       https://arxiv.org/abs/1409.4842
       He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 (bottleneck).
       https://arxiv.org/abs/1512.03385
Needs: Python >= 3.10, torch >= 2.0, and convolution_arithmetic.py beside this file.
Axes:  B batch, C input channels, O output channels, M channels between two layers, H and W
       input, HO and WO output, KH and KW kernel.
"""

# --8<-- [start:imports]
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]
from .convolution_arithmetic import conv2d_cost

__all__ = ["PathCost", "merge_pointwise", "path_cost", "pointwise_conv2d"]


# --8<-- [start:core]
def pointwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | tuple[int, int] = 1
) -> Tensor:
    """Mix the channels of every pixel, as F.conv2d does with a 1 x 1 kernel and no padding.

    Args:
        x: input, (B, C, H, W), floating point.
        weight: (O, C) as of nn.Linear, or (O, C, 1, 1) as of nn.Conv2d.
        bias: (O,).
        stride: (vertical, horizontal) or one number; all other pixels are never read.

    Returns:
        Output (B, O, HO, WO), with HO = ceil(H / stride) and WO alike.

    Raises:
        ValueError: shapes do not fit, or stride is below 1.
        TypeError: x, weight, bias are not of one floating dtype.
    """
    sh, sw = (stride, stride) if isinstance(stride, int) else stride
    _check(x, weight, bias, sh, sw)
    x = x[:, :, ::sh, ::sw]  # (B, C, HO, WO)
    pixels = x.flatten(2)  # one column a pixel, (B, C, HO*WO)
    # weight @ pixels would give the same, but copy all pixels into one matrix first.
    out = torch.einsum("oc,bcp->bop", weight.flatten(1), pixels)  # (B, O, HO*WO)
    if bias is not None:
        out = out + bias[:, None]
    return out.reshape(x.shape[0], weight.shape[0], *x.shape[2:])  # (B, O, HO, WO)


# --8<-- [end:core]


# --8<-- [start:merge]
def merge_pointwise(first: Tensor, then: Tensor) -> Tensor:
    """The one kernel that does what two layers do with nothing between them.

    Args:
        first: weight of a 1 x 1 convolution, (M, C) or (M, C, 1, 1), without a bias.
        then: weight of the convolution that follows, (O, M, KH, KW).

    Returns:
        Weight (O, C, KH, KW). At each kernel cell it is a matrix of rank M or less. Biases are
        left to the caller: a bias b of the first layer adds then.sum((2, 3)) @ b to the second's.
    """
    _check_merge(first, then)
    return torch.einsum("omuv,mc->ocuv", then, first.flatten(1))


# --8<-- [end:merge]


# --8<-- [start:cost]
class PathCost(NamedTuple):
    """What convolutions one after the other take, forwards."""

    weights: int  # without biases
    macs: int  # multiply-adds
    bytes: int  # each layer reads its input and weights and writes its output

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved; a multiply-add is two FLOPs."""
        return 2 * self.macs / self.bytes


def path_cost(
    x_shape: tuple[int, int, int, int], layers: Sequence[tuple[int, int]], number_bytes: int = 4
) -> PathCost:
    """Count for layers of (output channels, odd kernel size), stride 1, that keep H and W."""
    shape, weights, macs, moved = x_shape, 0, 0, 0
    for o, kernel in layers:
        _check_kernel(kernel)
        weight = (o, shape[1], kernel, kernel)
        cost = conv2d_cost(shape, weight, padding=kernel // 2, number_bytes=number_bytes)
        weights += o * shape[1] * kernel * kernel
        macs, moved, shape = macs + cost.macs, moved + cost.bytes, cost.output
    return PathCost(weights, macs, moved)


# --8<-- [end:cost]


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, sh: int, sw: int) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    _check_weight("weight", weight)
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"x and weight differ in C: {tuple(x.shape)}, {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"x and {name} differ in dtype: {x.dtype}, {tensor.dtype}")
    if min(sh, sw) < 1:
        raise ValueError(f"stride must be at least 1, got {sh}, {sw}")


def _check_weight(name: str, weight: Tensor) -> None:
    if weight.ndim not in (2, 4) or weight.shape[2:].numel() != 1:
        wanted = "(channels, channels) with or without two axes of 1"
        raise ValueError(f"{name} must be {wanted}, got {tuple(weight.shape)}")


def _check_merge(first: Tensor, then: Tensor) -> None:
    _check_weight("first", first)
    if then.ndim != 4:
        raise ValueError(f"then must be (O, M, KH, KW), got {tuple(then.shape)}")
    if first.shape[0] != then.shape[1]:
        raise ValueError(f"first and then differ in M: {tuple(first.shape)}, {tuple(then.shape)}")


def _check_kernel(kernel: int) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {kernel}")


if __name__ == "__main__":
    from torch.nn.functional import conv2d, linear

    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 14, 14, generator=generator)
    weight = torch.randn(64, 256, 1, 1, generator=generator) / 16
    bias = torch.randn(64, generator=generator)

    out = pointwise_conv2d(x, weight, bias)
    as_conv = conv2d(x, weight, bias)
    as_linear = linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias)  # channels last
    print(tuple(out.shape), torch.allclose(out, as_conv, atol=1e-4))
    print(tuple(as_linear.shape), torch.allclose(out, as_linear.permute(0, 3, 1, 2), atol=1e-4))

    x.requires_grad_()
    (influence,) = torch.autograd.grad(pointwise_conv2d(x, weight).sum(), x)
    unused = (influence == 0).all(dim=3).all(dim=2).all(dim=0)  # (C,)
    print("input channels without influence:", int(unused.sum()), "of", len(unused))
    # --8<-- [end:demo]
