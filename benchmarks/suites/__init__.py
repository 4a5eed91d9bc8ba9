"""What is compared. Each module of a suite has `cells(device, small)`, the most telling first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SEED = 0
NAMES = ("attention", "window", "sliding", "operations")
TUNED = ("attention", "window")


@dataclass(frozen=True)
class Backend:
    """One way to compute it.

    run       the forward pass; raises where the library refuses
    ours      whether it is a snippet of this project
    config    of a kernel whose configuration is compared, else None
    missing   why it cannot be tried here: ("unsupported" or "skipped", reason)
    """

    run: Callable[[], Tensor]
    ours: bool = False
    config: dict[str, Any] | None = None
    missing: tuple[str, str] | None = None


@dataclass(frozen=True)
class Built:
    """A cell with its tensors on the device.

    leaves      what the backward pass differentiates by
    upstream    the gradient that reaches the output; None: of the sum
    reference   output and gradients (or None) in float64
    """

    leaves: Sequence[Tensor]
    backends: dict[str, Backend]
    reference: Callable[[bool], tuple[Tensor, list[Tensor] | None]]
    upstream: Tensor | None = None


@dataclass(frozen=True)
class Cell:
    """The same computation by several backends, measured in turns."""

    suite: str
    op: str
    shape: dict[str, int] | str
    dtype: str
    build: Callable[[int], Built] = field(repr=False)  # by seed
    passes: Sequence[str] = ("forward", "backward")
    causal: bool | None = None
    layout: str | None = None

    @property
    def label(self) -> str:
        """A line of progress."""
        shape = self.shape
        text = shape if isinstance(shape, str) else " ".join(f"{k}={v}" for k, v in shape.items())
        return f"{self.suite} {self.op} {text} {self.dtype}{' causal' if self.causal else ''}"


def cells(suite: str, device: torch.device, small: bool = False) -> Iterator[Cell]:
    """Of one suite."""
    from benchmarks.suites import attention, operations, sliding, window

    modules = dict(operations=operations, attention=attention, sliding=sliding, window=window)
    yield from modules[suite].cells(device, small)


def tuning_cells(suite: str, device: torch.device, small: bool = False) -> Iterator[Cell]:
    """Of one suite, with the candidates for its kernel's configuration as backends."""
    from benchmarks.suites import attention, window

    yield from dict(attention=attention, window=window)[suite].tuning_cells(device, small)


def random_tensors(
    device: torch.device, dtype: torch.dtype, seed: int, *shapes: Sequence[int]
) -> list[Tensor]:
    """Normally distributed leaves: zeros would run faster than real data."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, device=device) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in drawn]
