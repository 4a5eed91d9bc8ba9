"""What is compared. Each module of a suite has `cells(device, small)`, the most telling first."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SEED = 0
NAMES = ("attention", "window", "sliding", "convolution", "depthwise", "operations", "detection")
TUNED = ("attention", "window", "convolution", "depthwise")


@dataclass(frozen=True)
class Backend:
    """One way to compute it.

    run       the forward pass, or the gradient that the cell is about; raises where it refuses
    ours      whether it is a snippet of this project
    config    of a kernel whose configuration is compared, else None
    missing   why it cannot be tried here: ("unsupported" or "skipped", reason)
    layout    of the memory, where a cell compares several
    thread    where all its calls run, if not in the one of the harness
    """

    run: Callable[[], Tensor]
    ours: bool = False
    config: dict[str, Any] | None = None
    missing: tuple[str, str] | None = None
    layout: str | None = None
    thread: ThreadPoolExecutor | None = None


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

    @property
    def label(self) -> str:
        """A line of progress."""
        shape = self.shape
        text = shape if isinstance(shape, str) else " ".join(f"{k}={v}" for k, v in shape.items())
        more = self.passes if len(self.passes) == 1 else ()
        words = [self.suite, self.op, text, self.dtype, *["causal"][: bool(self.causal)], *more]
        return " ".join(words)


def cells(suite: str, device: torch.device, small: bool = False) -> Iterator[Cell]:
    """Of one suite."""
    from benchmarks.suites import attention, convolution, detection, operations, sliding, window

    makers = {
        "attention": attention.cells,
        "window": window.cells,
        "sliding": sliding.cells,
        "convolution": convolution.cells,
        "depthwise": convolution.depthwise_cells,
        "operations": operations.cells,
        "detection": detection.cells,
    }
    yield from makers[suite](device, small)


def tuning_cells(suite: str, device: torch.device, small: bool = False) -> Iterator[Cell]:
    """Of one suite, with the candidates for its kernel's configuration as backends."""
    from benchmarks.suites import attention, convolution, window

    makers = {
        "attention": attention.tuning_cells,
        "window": window.tuning_cells,
        "convolution": convolution.tuning_cells,
        "depthwise": convolution.depthwise_tuning_cells,
    }
    yield from makers[suite](device, small)


def random_tensors(
    device: torch.device, dtype: torch.dtype, seed: int, *shapes: Sequence[int]
) -> list[Tensor]:
    """Normally distributed leaves: zeros would run faster than real data."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, device=device) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in drawn]
