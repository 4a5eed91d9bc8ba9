"""State of the art in two questions: who is on the Pareto front, and is the difference real?

Paper: Efron and Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall 1993, sections 13.3
       (percentile interval) and 14.3 (BCa interval).  https://doi.org/10.1201/9780429246593
       Efron, "Better Bootstrap Confidence Intervals", JASA 1987 (the BCa interval).
       https://doi.org/10.1080/01621459.1987.10478410
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  N models or paired scores, C costs, R resamples; `...` is batch.
"""

# --8<-- [start:imports]
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = ["Interval", "mean", "paired_bootstrap", "pareto_front"]


# --8<-- [start:core]
# --8<-- [start:front]
def pareto_front(costs: Tensor, quality: Tensor) -> Tensor:
    """Mark the models that no other model beats: not worse in anything, better in something.

    Equal models do not beat each other, so duplicates share their fate. Compares all pairs:
    time and memory grow with N * N * C.

    Args:
        costs: (..., N, C), lower is better; finite. Without costs (C = 0) only the top score stays.
        quality: (..., N), higher is better; finite. Leading axes broadcast against those of costs.

    Returns:
        (..., N) bool, True on the front. No models, no front: N = 0 gives an empty mask.

    Raises:
        ValueError: shapes do not fit, or a number is nan or infinite.
    """
    _check_models(costs, quality)
    row, column = costs.unsqueeze(-2), costs.unsqueeze(-3)  # (..., N, 1, C), (..., 1, N, C)
    q_row, q_column = quality.unsqueeze(-1), quality.unsqueeze(-2)  # (..., N, 1), (..., 1, N)
    no_worse = (row <= column).all(dim=-1) & (q_row >= q_column)  # (..., N, N)
    better = (row < column).any(dim=-1) | (q_row > q_column)  # (..., N, N)
    return ~(no_worse & better).any(dim=-2)  # (..., N): no row beats this column


# --8<-- [end:front]


# --8<-- [start:bootstrap]
class Interval(NamedTuple):
    """A difference and its confidence interval; each a tensor without axes, but replicates."""

    difference: Tensor
    low: Tensor
    high: Tensor
    replicates: Tensor  # (R,) the differences on the resamples


def mean(scores: Tensor) -> Tensor:
    """Average the last axis: accuracy, if the scores are 1 for right and 0 for wrong."""
    return scores.mean(dim=-1)


def paired_bootstrap(
    a: Tensor,
    b: Tensor,
    metric: Callable[[Tensor], Tensor] = mean,
    *,
    level: float = 0.95,
    method: Literal["bca", "percentile"] = "bca",
    resamples: int = 9999,
    generator: torch.Generator | None = None,
) -> Interval:
    """Estimate metric(a) - metric(b) and its confidence interval by resampling pairs.

    Args:
        a: scores of one system, (N,) with N >= 2, float32 or float64; finite.
        b: scores of the other on the same test items, or with the same seeds, in the same order.
        metric: reduces the last axis, (R, N) -> (R,); the order of the scores must not matter.
        level: confidence, between 0 and 1.
        method: "percentile" reads off quantiles of the replicates; "bca" first corrects them for
            bias and skew, and calls the metric on N leave-one-out samples to do so.
        resamples: R.
        generator: source of the resamples; torch's global one if None.

    Returns:
        Interval, differentiable in a and b with the resamples and the quantiles held fixed. Unlike
        scipy.stats.bootstrap, "bca" gives a point, not nan, where all pairs differ alike.

    Raises:
        ValueError: shapes, range or an option are not as above.
        TypeError: a and b are not of one dtype, float32 or float64.
    """
    _check_scores(a, b, metric, level, method, resamples)
    n, device = len(a), generator.device if generator else a.device
    rows = max(1, 2**24 // n)  # so many samples at once, to bound the memory

    def difference(index: Tensor) -> Tensor:  # (R, N) -> (R,): one index for both keeps the pairs
        return metric(a[index]) - metric(b[index])

    def resample(r: int) -> Tensor:
        return torch.randint(n, (r, n), generator=generator, device=device).to(a.device)  # (R, N)

    observed = metric(a[None]) - metric(b[None])  # (1,)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    replicates = torch.cat([difference(resample(size)) for size in sizes])  # (R,)
    alphas = [(1 - level) / 2, (1 + level) / 2]
    if method == "bca":
        item = torch.arange(n, device=a.device)
        gaps = [item[start : start + rows, None] for start in range(0, n, rows)]  # each (rows, 1)
        without = [difference(item[:-1] + (item[:-1] >= gap)) for gap in gaps]  # one pair left out
        alphas = _bca(alphas, observed, replicates, torch.cat(without))
    low, high = replicates.quantile(replicates.new_tensor(alphas)).unbind()
    return Interval(observed[0], low, high, replicates)


def _bca(alphas: list[float], observed: Tensor, replicates: Tensor, without: Tensor) -> list[float]:
    """Move the quantiles alphas: (1,) observed, (R,) replicates, (N,) leave-one-out -> alphas."""
    normal, half = NormalDist(), 0.5 / len(replicates)
    gap = replicates - observed  # (R,)
    tie = gap.abs().max() * torch.finfo(gap.dtype).eps ** 0.5  # sums in another order round apart
    below = half * ((gap < -tie).sum() + (gap <= tie).sum()).item()  # a tie counts half
    bias = normal.inv_cdf(min(max(below, half), 1 - half))
    without = without.detach().cpu().double()
    influence = without.mean() - without  # (N,)
    spread = influence.square().sum().sqrt().item()
    skew = (influence / spread).pow(3).sum().item() / 6 if spread > 0 else 0.0  # acceleration
    moved = [bias + normal.inv_cdf(alpha) for alpha in alphas]
    return [normal.cdf(bias + w / max(1 - skew * w, 1e-9)) for w in moved]


# --8<-- [end:bootstrap]
# --8<-- [end:core]


def _check_models(costs: Tensor, quality: Tensor) -> None:
    shapes = f"{tuple(costs.shape)}, {tuple(quality.shape)}"
    if costs.ndim < 2 or quality.ndim < 1 or costs.shape[-2] != quality.shape[-1]:
        raise ValueError(f"costs must be (..., N, C) and quality (..., N), got {shapes}")
    leads = zip(reversed(costs.shape[:-2]), reversed(quality.shape[:-1]), strict=False)
    if any(x != y and 1 not in (x, y) for x, y in leads):
        raise ValueError(f"leading axes do not broadcast: {shapes}")
    for name, x in (("costs", costs), ("quality", quality)):
        if not x.isfinite().all():
            raise ValueError(f"{name} must be finite, got {x[~x.isfinite()][0].item()}")


def _check_scores(
    a: Tensor,
    b: Tensor,
    metric: Callable[[Tensor], Tensor],
    level: float,
    method: str,
    resamples: int,
) -> None:
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        shapes = f"{tuple(a.shape)}, {tuple(b.shape)}"
        raise ValueError(f"a and b must both be (N,) with N >= 2, got {shapes}")
    if a.dtype != b.dtype or a.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"a and b must both be float32 or float64, got {a.dtype}, {b.dtype}")
    for name, x in (("a", a), ("b", b)):
        if not x.isfinite().all():
            raise ValueError(f"{name} must be finite, got {x[~x.isfinite()][0].item()}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if method not in ("bca", "percentile"):
        raise ValueError(f"method must be 'bca' or 'percentile', got {method!r}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if metric(torch.stack([a, b])).shape != (2,):
        shape = tuple(metric(torch.stack([a, b])).shape)
        raise ValueError(f"metric must reduce the last axis only, (2, N) -> (2,), got {shape}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    models = {  # torchvision's table of weights: GFLOPS, million parameters, ImageNet-1K top-1
        "SqueezeNet 1.1": (0.35, 1.2, 58.178),
        "MobileNetV3-L V2": (0.22, 5.5, 75.274),
        "EfficientNet-B0": (0.39, 5.3, 77.692),
        "EfficientNet-B3": (1.83, 12.2, 82.008),
        "ResNet-50 V1": (4.09, 25.6, 76.130),
        "ResNet-50 V2": (4.09, 25.6, 80.858),
        "ConvNeXt-T": (4.46, 28.6, 82.520),
        "Swin-T": (4.49, 28.3, 81.474),
        "EfficientNetV2-S": (8.37, 21.5, 84.228),
        "ViT-B/16": (17.56, 86.6, 81.072),
        "EfficientNetV2-L": (56.08, 118.5, 85.808),
    }
    gflops, params, top1 = torch.tensor(list(models.values())).unbind(dim=1)  # each (N,)
    boards = {
        "top-1": top1.new_empty(len(models), 0),  # no cost: a leaderboard
        "+GFLOPS": gflops[:, None],
        "+params": params[:, None],
        "+both": torch.stack([gflops, params], dim=1),
    }
    fronts = torch.stack([pareto_front(costs, top1) for costs in boards.values()], dim=1)
    print(f"{'':17}" + "".join(f"{board:>8}" for board in boards))
    for name, row in zip(models, fronts, strict=True):
        print(f"{name:17}" + "".join(f"{'x' if on else '-':>8}" for on in row))

    generator = torch.Generator().manual_seed(0)
    difficulty = torch.rand(2000, generator=generator)  # of 2000 test images
    noise_a, noise_b = 0.05 * torch.randn(2, 2000, generator=generator)
    right_a = (difficulty + noise_a < 0.78).double()  # 1 where A is right
    right_b = (difficulty + noise_b < 0.76).double()  # B fails on much the same images
    shuffled = right_b[torch.randperm(2000, generator=generator)]  # same accuracy, pairs lost
    for name, scores in {"paired": right_b, "pairs lost": shuffled}.items():
        result = paired_bootstrap(right_a, scores, generator=generator)
        points = [100 * x.item() for x in result[:3]]
        print("{}: {:+.2f} points, 95 % from {:+.2f} to {:+.2f}".format(name, *points))
    # --8<-- [end:demo]
