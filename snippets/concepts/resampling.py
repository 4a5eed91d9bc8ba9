"""Up- and down-sampling: of pixels (interpolation, adjoints, shuffles) and of classes.

Paper: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
       Convolutional Neural Network", CVPR 2016 (pixel shuffle). https://arxiv.org/abs/1609.05158
       Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
       ICLR 2020, section 3 (shares of the classes). https://arxiv.org/abs/1910.09217
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, C channels, H and W height and width, R factor; along one axis N input positions,
       O output positions, T taps; S examples, K classes. Position 0 is the centre of pixel 0.
"""

# torch.func and some methods of tensors carry no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

# --8<-- [start:imports]
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import Sampler

# --8<-- [end:imports]

__all__ = [
    "BalancedSampler",
    "adjoint",
    "antialias_weights",
    "class_shares",
    "correct_prior",
    "example_probs",
    "linear_weights",
    "nearest_index",
    "pixel_shuffle",
    "pixel_unshuffle",
    "resample_classes",
    "resize",
    "source_positions",
    "transposed_conv2d",
]


# --8<-- [start:core]
def source_positions(size: int, out_size: int, align_corners: bool = False) -> Tensor:
    """Where each output position lies in the input, not clipped: (O,) float64."""
    _check_sizes(size, out_size)
    i = torch.arange(out_size, dtype=torch.float64)
    if align_corners:  # the first and the last centres coincide
        return i * ((size - 1) / max(out_size - 1, 1))
    return (i + 0.5) * (size / out_size) - 0.5  # the outer edges coincide


def nearest_index(size: int, out_size: int, exact: bool = False) -> Tensor:
    """The input position that each output copies: (O,) int64.

    exact=False takes the left edge of the output pixel, as PyTorch's "nearest" does, exact=True
    its centre, as "nearest-exact". In integers: rounding cannot move an index.
    """
    _check_sizes(size, out_size)
    i = torch.arange(out_size)
    return (2 * i + 1) * size // (2 * out_size) if exact else i * size // out_size


def linear_weights(size: int, out_size: int, align_corners: bool = False) -> tuple[Tensor, Tensor]:
    """The two input positions that each output reads, (O, 2), and their weights, (O, 2) float64."""
    s = source_positions(size, out_size, align_corners).clamp(0, size - 1)
    left = s.floor().long()
    right = (left + 1).clamp(max=size - 1)
    t = s - left
    return torch.stack([left, right], -1), torch.stack([1 - t, t], -1)


def antialias_weights(size: int, out_size: int) -> tuple[Tensor, Tensor]:
    """The same for a triangle that reaches 0 one output pixel away: (O, T), (O, T) float64.

    Upwards this is `linear_weights`. Taps outside the input have weight 0; rows sum to 1.
    """
    s = source_positions(size, out_size)[:, None]
    half = max(size / out_size, 1.0)
    taps = torch.arange(2 * math.ceil(half) + 1)
    index = (s - half).ceil().long() + taps  # (O, T)
    weights = (1 - (index - s).abs() / half).clamp(min=0)
    weights = weights * ((index >= 0) & (index < size))
    return index.clamp(0, size - 1), weights / weights.sum(-1, keepdim=True)


def resize(
    x: Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
) -> Tensor:
    """Interpolate the last two axes, one after the other.

    Args:
        x: (..., H, W); floating point for "bilinear", any dtype otherwise.
        size: height and width of the result. Positions follow from the sizes alone, not from a
            scale factor.
        mode: "nearest", "nearest-exact" or "bilinear".
        align_corners: which positions coincide; for "bilinear" only.
        antialias: widen the filter when shrinking; for "bilinear" with align_corners=False.

    Returns:
        (..., size[0], size[1]) in the dtype of x.
    """
    _check_resize(x, mode, align_corners, antialias)
    if mode != "bilinear":
        pairs = zip(x.shape[-2:], size, strict=True)
        rows, columns = (nearest_index(n, o, mode == "nearest-exact") for n, o in pairs)
        return x[..., rows.to(x.device)[:, None], columns.to(x.device)]
    out = x.to(torch.promote_types(x.dtype, torch.float32))  # halves add up in float32
    for o in (size[1], size[0]):  # the width, then the height
        n = out.shape[-1]
        index, weights = (
            antialias_weights(n, o) if antialias else linear_weights(n, o, align_corners)
        )
        read = out[..., index.to(x.device)]  # (..., O, T)
        out = (read * weights.to(out)).sum(-1).transpose(-2, -1)  # (..., O, the other axis)
    return out.to(x.dtype)


# --8<-- [end:core]


# --8<-- [start:adjoint]
def adjoint(linear: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Apply the adjoint of a linear map to y: the x' with <linear(x), y> = <x, x'> for all x.

    It is the vector-Jacobian product. x gives shape, dtype and device, not its values.
    """
    pull_back = torch.func.vjp(linear, torch.zeros_like(x))[1]
    return pull_back(y)[0]


def transposed_conv2d(
    y: Tensor,
    weight: Tensor,
    size: tuple[int, int],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """The adjoint of F.conv2d with these settings, which takes `size` to the size of y.

    Args:
        y: (B, C_out, H', W'); C_out is what the convolution puts out.
        weight: that of the convolution, (C_out, C_in, KH, KW).
        size: height and width of the result; F.conv_transpose2d asks for output_padding instead.
        stride, padding, dilation: those of the convolution.

    Returns:
        (B, C_in, size[0], size[1]).
    """
    _check_transposed(y, weight, size, stride, padding, dilation)
    x = y.new_empty(y.shape[0], weight.shape[1], *size)
    return adjoint(lambda x: F.conv2d(x, weight, None, stride, padding, dilation), x, y)


# --8<-- [end:adjoint]


# --8<-- [start:shuffle]
def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """Channels to pixels: (..., C * R * R, H, W) -> (..., C, H * R, W * R)."""
    _check_shuffle(x, factor)
    *lead, c, h, w = x.shape
    x = x.reshape(*lead, c // factor**2, factor, factor, h, w)  # (..., C, R, R, H, W)
    x = x.movedim((-4, -3), (-3, -1))  # (..., C, H, R, W, R)
    return x.reshape(*lead, c // factor**2, h * factor, w * factor)


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """Pixels to channels, the inverse: (..., C, H * R, W * R) -> (..., C * R * R, H, W)."""
    _check_unshuffle(x, factor)
    *lead, c, h, w = x.shape
    x = x.reshape(*lead, c, h // factor, factor, w // factor, factor)  # (..., C, H, R, W, R)
    x = x.movedim((-3, -1), (-4, -3))  # (..., C, R, R, H, W)
    return x.reshape(*lead, c * factor**2, h // factor, w // factor)


# --8<-- [end:shuffle]


# --8<-- [start:classes]
def class_shares(labels: Tensor, power: float = 0.0) -> Tensor:
    """Share of each class in proportion to its count to a power: (S,) int64 -> (K,) float64.

    Power 1 leaves the data as they are, 0 makes the classes equal, 0.5 lies between. K is the
    largest label plus one; a class without examples has share 0.
    """
    _check_labels(labels)
    counts = torch.bincount(labels).double()  # (K,)
    shares = counts.pow(power).where(counts > 0, 0.0)
    return shares / shares.sum()


def example_probs(labels: Tensor, shares: Tensor) -> Tensor:
    """Probability of drawing each example, so that classes come in these shares: (S,) float64."""
    _check_labels(labels)
    counts = torch.bincount(labels, minlength=len(shares))  # (K,)
    _check_shares(shares, counts)
    return shares.double()[labels] / counts[labels]


class BalancedSampler(Sampler[int]):
    """Draws indices with replacement, each by its probability; for a DataLoader.

    Args:
        probs: (S,), not negative, not all zero; need not sum to 1.
        num_samples: draws in an epoch; S if None.
        generator: the randomness; every epoch continues it.
    """

    def __init__(
        self, probs: Tensor, num_samples: int | None = None, generator: Generator | None = None
    ) -> None:
        """Keep the settings; nothing is drawn yet."""
        _check_probs(probs, num_samples)
        self.cumulative = probs.detach().double().cumsum(0)  # (S,)
        self.num_samples = len(probs) if num_samples is None else num_samples
        self.generator = generator

    def __len__(self) -> int:
        """Draws in an epoch."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """Invert the cumulative distribution: the first index above a uniform number."""
        device = "cpu" if self.generator is None else self.generator.device
        u = torch.rand(
            self.num_samples, dtype=torch.float64, device=device, generator=self.generator
        ).to(self.cumulative.device)
        drawn = torch.searchsorted(self.cumulative, u * self.cumulative[-1], right=True)
        return iter(drawn.tolist())


def resample_classes(labels: Tensor, per_class: int, generator: Generator | None = None) -> Tensor:
    """Indices with exactly `per_class` examples of every class present, in random order.

    A class with fewer is repeated, each example equally often up to one; of a class with more a
    random part is left. The largest count oversamples, the smallest undersamples.
    """
    _check_labels(labels)
    if per_class < 0:
        raise ValueError(f"per_class must not be negative, got {per_class}")
    device = torch.device("cpu") if generator is None else generator.device

    def shuffled(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator, device=device).to(x.device)]

    chosen: list[Tensor] = []
    for label in labels.unique():
        members = shuffled((labels == label).nonzero()[:, 0])
        chosen.append(members.repeat(-(-per_class // len(members)))[:per_class])
    return shuffled(torch.cat(chosen))


def correct_prior(logits: Tensor, trained: Tensor, target: Tensor) -> Tensor:
    """Carry logits (..., K) from the class shares of training to those in use, both (K,).

    A target share of 0 rules its class out. Softmax gives the probabilities.
    """
    _check_priors(logits, trained, target)
    return logits + (target.log() - trained.log()).to(logits)


# --8<-- [end:classes]


def _check_sizes(size: int, out_size: int) -> None:
    if size < 1 or out_size < 1:
        raise ValueError(f"sizes must be at least 1, got {size} and {out_size}")


def _check_resize(x: Tensor, mode: str, align_corners: bool, antialias: bool) -> None:
    if x.ndim < 2:
        raise ValueError(f"x must be (..., H, W), got {tuple(x.shape)}")
    if mode not in ("nearest", "nearest-exact", "bilinear"):
        raise ValueError(f"mode must be nearest, nearest-exact or bilinear, got {mode!r}")
    if mode != "bilinear" and (align_corners or antialias):
        raise ValueError(f"align_corners and antialias are for bilinear, got mode {mode!r}")
    if align_corners and antialias:
        raise ValueError("antialias needs align_corners=False, got True")
    if mode == "bilinear" and not x.is_floating_point():
        raise TypeError(f"bilinear needs a floating point x, got {x.dtype}")


def _check_transposed(
    y: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int, dilation: int
) -> None:
    if y.ndim != 4 or weight.ndim != 4 or y.shape[1] != weight.shape[0]:
        message = "y must be (B, C_out, H, W) and weight (C_out, C_in, KH, KW)"
        raise ValueError(f"{message}, got {tuple(y.shape)} and {tuple(weight.shape)}")
    if stride < 1 or dilation < 1 or padding < 0:
        message = "stride and dilation must be at least 1, padding at least 0"
        raise ValueError(f"{message}, got {stride}, {dilation} and {padding}")
    reached = tuple(
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip(size, weight.shape[2:], strict=True)
    )
    if reached != tuple(y.shape[2:]):
        message = f"the convolution takes size {tuple(size)} to {reached}"
        raise ValueError(f"{message}, but y has {tuple(y.shape[2:])}")


def _check_shuffle(x: Tensor, factor: int) -> None:
    if factor < 1 or x.ndim < 3 or x.shape[-3] % factor**2:
        message = "x must be (..., C * R * R, H, W) with R at least 1"
        raise ValueError(f"{message}, got {tuple(x.shape)} and {factor}")


def _check_unshuffle(x: Tensor, factor: int) -> None:
    if factor < 1 or x.ndim < 3 or x.shape[-2] % factor or x.shape[-1] % factor:
        message = "x must be (..., C, H * R, W * R) with R at least 1"
        raise ValueError(f"{message}, got {tuple(x.shape)} and {factor}")


def _check_labels(labels: Tensor) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if labels.ndim != 1 or len(labels) < 1:
        raise ValueError(f"labels must be (S,) and not empty, got {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise ValueError(f"labels must not be negative, got {int(labels.min())}")


def _check_shares(shares: Tensor, counts: Tensor) -> None:
    if shares.ndim != 1 or len(shares) != len(counts):
        raise ValueError(f"shares must be ({len(counts)},), got {tuple(shares.shape)}")
    if not bool((shares >= 0).all()) or abs(float(shares.double().sum()) - 1) > 1e-6:
        raise ValueError(f"shares must not be negative and sum to 1, got {shares.tolist()}")
    empty = (shares > 0) & (counts == 0)
    if bool(empty.any()):
        raise ValueError(f"no examples of class {int(empty.nonzero()[0, 0])}, whose share is not 0")


def _check_probs(probs: Tensor, num_samples: int | None) -> None:
    if probs.ndim != 1 or len(probs) < 1:
        raise ValueError(f"probs must be (S,) and not empty, got {tuple(probs.shape)}")
    total = float(probs.detach().double().sum())
    if not bool((probs >= 0).all()) or not 0 < total < math.inf:
        low = float(probs.detach().min())
        raise ValueError(
            f"probs must be >= 0 with a finite sum > 0, got minimum {low}, sum {total}"
        )
    if num_samples is not None and num_samples < 0:
        raise ValueError(f"num_samples must not be negative, got {num_samples}")


def _check_priors(logits: Tensor, trained: Tensor, target: Tensor) -> None:
    if trained.ndim != 1 or not trained.shape == target.shape == logits.shape[-1:]:
        shapes = [tuple(t.shape) for t in (logits, trained, target)]
        raise ValueError(f"logits (..., K) and priors (K,) do not fit, got {shapes}")
    for name, prior in (("trained", trained), ("target", target)):
        sums = abs(float(prior.double().sum()) - 1) <= 1e-6
        if not sums or not bool((prior >= 0).all()):
            raise ValueError(f"{name} must not be negative and sum to 1, got {prior.tolist()}")
    if not bool((trained > 0).all()):
        raise ValueError(f"every class must occur in training, got {trained.tolist()}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    for align_corners in (False, True):
        positions = source_positions(3, 6, align_corners)
        weights = linear_weights(3, 6, align_corners)[1][:, 0]  # of the left neighbour
        print(f"align_corners={align_corners}")
        print("  position", *(f"{s:5.2f}" for s in positions.tolist()))
        print("  left    ", *(f"{w:5.2f}" for w in weights.tolist()))

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 5, 4, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 3, 3, 3, generator=generator, dtype=torch.float64)
    ax = F.conv2d(x, weight, stride=2, padding=1)
    aty = transposed_conv2d(y, weight, (8, 8), stride=2, padding=1)
    print("<A x, y> = <x, A' y>:", torch.allclose((ax * y).sum(), (x * aty).sum()))

    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    for power in (1.0, 0.5, 0.0):
        shares = class_shares(labels, power)
        sampler = BalancedSampler(example_probs(labels, shares), 10_000, generator)
        drawn = labels[list(sampler)].bincount() / len(sampler)
        print(f"power {power}:", *(f"{s:.3f}" for s in shares.tolist()), end="; ")
        print("drawn within 0.02:", bool((drawn - shares).abs().max() < 0.02))
    # --8<-- [end:demo]
