"""Receptive field of a stack of layers: by arithmetic, exactly at the borders, and by gradient.

Paper: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
       Distill 2019. https://doi.org/10.23915/distill.00021
       Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
       Networks", NIPS 2016, section 2. https://arxiv.org/abs/1701.04128
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C channels, K kernel taps, P positions; `*` is any number of spatial axes. The
       arithmetic is that of one axis: do height and width each by itself.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = [
    "Field",
    "Layer",
    "input_gradient",
    "input_positions",
    "receptive_fields",
    "spread",
    "trace_back",
    "uniform_spread",
]


# --8<-- [start:core]
class Layer(NamedTuple):
    """A convolution or a pooling along one axis, padded alike on both sides."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """From the first tap of the kernel to the last, both included."""
        return self.dilation * (self.kernel - 1) + 1


class Field(NamedTuple):
    """What the outputs of a stack see of its input; position 0 is the first pixel."""

    size: int = 1  # pixels from the first to the last that an output may depend on
    jump: int = 1  # pixels between neighbouring outputs
    start: int = 0  # first pixel of output 0; negative where it lies in the padding

    def span(self, index: int) -> tuple[int, int]:
        """First and last pixel that output `index` may depend on, padding included."""
        first = self.start + index * self.jump
        return first, first + self.size - 1


def receptive_fields(layers: Sequence[Layer]) -> list[Field]:
    """Forwards: the field of the input itself, then that of the output of each layer."""
    _check_layers(layers)
    fields = [Field()]
    for layer in layers:
        size, jump, start = fields[-1]
        size += (layer.extent - 1) * jump  # the jump before this layer's own stride
        start -= layer.padding * jump
        fields.append(Field(size, jump * layer.stride, start))
    return fields


def trace_back(layers: Sequence[Layer], first: int, last: int) -> list[tuple[int, int]]:
    """Backwards: the span of outputs first..last in every map, from the input to the output."""
    _check_layers(layers)
    if last < first:
        raise ValueError(f"first must not exceed last, got {first} and {last}")
    spans = [(first, last)]
    for layer in reversed(layers):
        first = first * layer.stride - layer.padding
        last = last * layer.stride - layer.padding + layer.extent - 1
        spans.append((first, last))
    return spans[::-1]


# --8<-- [end:core]


# --8<-- [start:exact]
def input_positions(layers: Sequence[Layer], length: int, index: int) -> Tensor:
    """Exactly the pixels of an input of `length` that output `index` reads: (P,) int64, sorted.

    Unlike a span it leaves out padding, the padding of the maps between, and the holes that
    dilation or a stride beyond the kernel leaves. Lengths are PyTorch's, `ceil_mode` off.
    """
    _check_layers(layers)
    lengths = _lengths(layers, length, index)
    positions = torch.tensor([index])  # (P,)
    for layer, n in zip(reversed(layers), reversed(lengths[:-1]), strict=True):
        taps = layer.dilation * torch.arange(layer.kernel) - layer.padding  # (K,)
        read = positions[:, None] * layer.stride + taps  # (P, K)
        seen = torch.zeros(n, dtype=torch.bool)
        seen[read[(read >= 0) & (read < n)]] = True  # the rest is padding: constant
        positions = seen.nonzero()[:, 0]  # (P,)
    return positions


# --8<-- [end:exact]


# --8<-- [start:gradient]
def input_gradient(
    network: Callable[[Tensor], Tensor], x: Tensor, index: Sequence[int] | None = None
) -> Tensor:
    """Differentiate one place of the output, its channels added up, by the input.

    Args:
        network: maps (B, C, *) to (B, any, *), each sample by itself.
        x: where to differentiate, (B, C, *), floating point.
        index: the place, one number for each spatial axis; the middle (n // 2) if None.

    Returns:
        The gradient, (B, C, *), zero where the output does not depend on the input.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no spatial axis, or index does not lie in the output.
    """
    _check_input(x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = network(x)  # (B, any, *)
        if index is None:
            index = [n // 2 for n in out.shape[2:]]
        _check_index(index, out)
        place = (slice(None), slice(None), *index)
        total = out[place].sum() + 0 * x.sum()  # x takes part even where nothing depends on it
        return torch.autograd.grad(total, x)[0]


def spread(weights: Tensor) -> Tensor:
    """Standard deviation of the position along each axis: (*) not negative -> (axes,).

    The weights need not add up to one; where they are all zero the answer is nan. It comes in
    float32 for half precision, otherwise in the dtype of the weights.
    """
    _check_weights(weights)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    deviations: list[Tensor] = []
    for axis, n in enumerate(weights.shape):
        others = [a for a in range(weights.ndim) if a != axis]
        p = weights.sum(others) if others else weights  # (n,)
        p = p / p.sum()
        at = torch.arange(n, dtype=p.dtype, device=p.device)
        deviations.append((p * (at - (p * at).sum()).square()).sum().sqrt())
    return torch.stack(deviations)


def uniform_spread(layers: Sequence[Layer]) -> float:
    """The same along one axis by formula, for linear layers whose weights are all equal."""
    fields = receptive_fields(layers)[:-1]  # the jump in front of each layer
    steps = [layer.dilation * field.jump for layer, field in zip(layers, fields, strict=True)]
    variances = (d**2 * (a.kernel**2 - 1) / 12 for d, a in zip(steps, layers, strict=True))
    return math.sqrt(sum(variances))


# --8<-- [end:gradient]


def _check_layers(layers: Sequence[Layer]) -> None:
    least = Layer(kernel=1, stride=1, padding=0, dilation=1)
    for number, layer in enumerate(layers, 1):
        for name, value, minimum in zip(Layer._fields, layer, least, strict=True):
            if value < minimum:
                message = f"layer {number}: {name} must be at least {minimum}, got {value}"
                raise ValueError(message)


def _lengths(layers: Sequence[Layer], length: int, index: int) -> list[int]:
    lengths = [length]
    for number, layer in enumerate(layers, 1):
        room = lengths[-1] + 2 * layer.padding - layer.extent
        if lengths[-1] < 1 or room < 0:
            message = f"layer {number} spans {layer.extent}, its input has {lengths[-1]} positions"
            raise ValueError(f"{message} and {layer.padding} of padding on each side")
        lengths.append(room // layer.stride + 1)
    if not 0 <= index < lengths[-1]:
        raise ValueError(f"the output has {lengths[-1]} positions, got index {index}")
    return lengths


def _check_input(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if x.ndim < 3:
        raise ValueError(f"x must be (B, C, *) with a spatial axis, got {tuple(x.shape)}")


def _check_index(index: Sequence[int], out: Tensor) -> None:
    shape = tuple(out.shape[2:])
    inside = (0 <= i < n for i, n in zip(index, shape, strict=False))
    if len(index) != len(shape) or not all(inside):
        raise ValueError(f"index {tuple(index)} does not lie in an output of {shape}")


def _check_weights(weights: Tensor) -> None:
    if not weights.is_floating_point():
        raise TypeError(f"weights must be floating point, got {weights.dtype}")
    if weights.ndim < 1 or weights.numel() < 1:
        raise ValueError(f"weights must be (*) and not empty, got {tuple(weights.shape)}")
    if bool((weights < 0).any()):
        raise ValueError(f"weights must not be negative, got {weights.min().item()}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    conv, pool = Layer(3, padding=1), Layer(2, stride=2)
    vgg16: list[Layer] = []
    print("         size  jump  start")
    for block, convolutions in enumerate([2, 2, 3, 3, 3], 1):
        vgg16 += [conv] * convolutions + [pool]
        print("pool{}  {:>6}{:>6}{:>7}".format(block, *receptive_fields(vgg16)[-1]))
    first, last = receptive_fields(vgg16)[-1].span(0)
    seen = len(input_positions(vgg16, 224, 0))
    print(f"corner: pixels {first} to {last}, {seen} of them in 224")
    # --8<-- [end:demo]
