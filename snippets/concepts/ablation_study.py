"""Ablation study: a grid of runs over named switches, its table, and what each switch contributes.

Paper: Box, Hunter and Hunter, "Statistics for Experimenters", 2nd ed., Wiley 2005 (two-level
       factorial designs, full and fractional).
       Shapley, "A Value for n-Person Games", Contributions to the Theory of Games II, 1953.
       https://doi.org/10.1515/9781400881970-018
       Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 26.7.4
       (Student's t with whole degrees of freedom).
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  C cells (settings of the switches), S seeds, K switches, E effects, N samples.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, combinations
from typing import NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = [
    "Cell",
    "Interval",
    "Study",
    "add_one_in",
    "cumulative",
    "effects",
    "fractional_factorial",
    "full_factorial",
    "leave_one_out",
    "run_grid",
    "shapley",
    "t_interval",
    "to_markdown",
]


# --8<-- [start:core]
# --8<-- [start:designs]
Cell = frozenset[str]  # the switches that are on; all others are off


def leave_one_out(switches: Sequence[str]) -> list[Cell]:
    """Everything on, then everything but one: K + 1 cells."""
    return [Cell(switches), *(Cell(switches) - {name} for name in switches)]


def add_one_in(switches: Sequence[str]) -> list[Cell]:
    """Everything off, then one switch alone: K + 1 cells."""
    return [Cell(), *(Cell([name]) for name in switches)]


def cumulative(switches: Sequence[str]) -> list[Cell]:
    """Everything off, then one switch more at a time, in the given order: K + 1 cells."""
    return [Cell(switches[:count]) for count in range(len(switches) + 1)]


def full_factorial(switches: Sequence[str]) -> list[Cell]:
    """Every subset of the switches, small ones first: 2**K cells."""
    sizes = range(len(switches) + 1)
    return [Cell(on) for on in chain(*(combinations(switches, size) for size in sizes))]


def fractional_factorial(
    switches: Sequence[str], generators: Mapping[str, Sequence[str]]
) -> list[Cell]:
    """A full factorial of the switches, and more switches set by it: still 2**K cells.

    A generated switch is the product of the switches it names, counting on as +1 and off as -1:
    {"d": "abc"} turns d on where an even number of a, b and c is off.
    """
    _check_generators(switches, generators)
    words = generators.items()
    return [
        cell | {name for name, word in words if len(set(word) - cell) % 2 == 0}
        for cell in full_factorial(switches)
    ]


# --8<-- [end:designs]


# --8<-- [start:grid]
class Study(NamedTuple):
    """The runs of an ablation study."""

    switches: tuple[str, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    scores: Tensor  # (C, S), nan where a run failed
    failures: dict[tuple[Cell, int], str]  # what went wrong there

    def mean(self) -> Tensor:
        """(C,), nan for a cell with a failed run: the seeds that survive are a biased sample."""
        return self.scores.mean(dim=1)

    def std(self) -> Tensor:
        """(C,), with S - 1 in the denominator; nan like the mean, and for a single seed."""
        return _std(self.scores)

    def of(self, on: Iterable[str]) -> Tensor:
        """The scores of one cell, (S,)."""
        if Cell(on) not in self.cells:
            raise ValueError(f"the cell {_name(Cell(on))} was not run")
        return self.scores[self.cells.index(Cell(on))]


def run_grid(
    run: Callable[[Cell, int], float],
    switches: Sequence[str],
    cells: Iterable[Iterable[str]],
    seeds: Iterable[int],
    *,
    keep_going: bool = False,
) -> Study:
    """Run every cell with every seed, the same seeds for all.

    Args:
        run: takes the switches that are on and a seed, returns a finite score. All randomness
            has to come from the seed.
        switches: their names, in the order of the columns of a table.
        cells: a design, or designs chained; a cell that occurs twice is run once.
        seeds: all different.
        keep_going: note a failed run (an exception, a score of nan or inf) and go on.

    Raises:
        ValueError: a name is unknown or occurs twice, a seed occurs twice, nothing is to be run.
        RuntimeError: a run failed, unless keep_going.
    """
    names, columns = tuple(switches), tuple(seeds)
    rows = tuple(dict.fromkeys(Cell(cell) for cell in cells))
    _check_grid(names, rows, columns)
    scores = torch.full((len(rows), len(columns)), torch.nan, dtype=torch.float64)  # (C, S)
    failures: dict[tuple[Cell, int], str] = {}
    for s, seed in enumerate(columns):  # seed by seed, each with all cells
        for c, cell in enumerate(rows):
            try:
                scores[c, s] = _finite(run(cell, seed))
            except Exception as error:
                failures[cell, seed] = f"{type(error).__name__}: {error}"
                if not keep_going:
                    message = f"cell {_name(cell)}, seed {seed}: {failures[cell, seed]}"
                    raise RuntimeError(message) from error
    return Study(names, rows, columns, scores, failures)


# --8<-- [end:grid]


# --8<-- [start:contributions]
def effects(study: Study, order: int = 1) -> dict[tuple[str, ...], Tensor]:
    """Main effects and interactions of up to `order` switches, seed by seed.

    With on as +1 and off as -1, an effect is the mean score where the product of its switches is
    +1, less the mean score where it is -1. So an interaction of two is *half* the difference
    between the effects of one with the other on and off, the convention of textbooks; a
    regression on the signs has half of each effect as its coefficients.

    Returns:
        {names: (S,)}, in the order of the switches, small sets first.

    Raises:
        ValueError: a run failed; or two of the effects, or one and the mean, are not orthogonal
            over the cells (aliased, or an unbalanced design such as leave one out). Higher
            orders, which are not asked for, are taken to be zero.
    """
    _check_complete(study, order)
    sizes = range(1, order + 1)
    terms = list(chain(*(combinations(study.switches, size) for size in sizes)))
    signs = [[(-1) ** len(set(term) - cell) for term in terms] for cell in study.cells]
    contrasts = study.scores.new_tensor(signs)  # (C, E)
    _check_contrasts(contrasts, terms)
    values = 2 * contrasts.T @ study.scores / len(study.cells)  # (E, S)
    return dict(zip(terms, values.unbind(), strict=True))


def shapley(study: Study) -> dict[str, Tensor]:
    """What each switch adds, averaged over all orders of adding them: {name: (S,)}.

    They sum to the score with everything on less the score with everything off. Needs the full
    factorial.
    """
    _check_complete(study, len(study.switches))
    values: dict[str, Tensor] = {}
    for name in study.switches:
        total = torch.zeros_like(study.scores[0])  # (S,)
        for cell in full_factorial([other for other in study.switches if other != name]):
            share = 1 / (len(study.switches) * math.comb(len(study.switches) - 1, len(cell)))
            total = total + share * (study.of(cell | {name}) - study.of(cell))
        values[name] = total
    return values


# --8<-- [end:contributions]


# --8<-- [start:report]
class Interval(NamedTuple):
    """A mean and its confidence interval, tensors without axes."""

    mean: Tensor
    low: Tensor
    high: Tensor


def t_interval(samples: Tensor, level: float = 0.95, comparisons: int = 1) -> Interval:
    """Student's t interval of a mean of independent, roughly normal samples, (N,), N >= 2.

    With `comparisons` intervals made this way, all hold at once with probability `level` or more
    (Bonferroni). For paired scores, pass the differences.
    """
    _check_samples(samples, level, comparisons)
    level = 1 - (1 - level) / comparisons
    half = _t_quantile(level, len(samples) - 1) * _std(samples) / math.sqrt(len(samples))
    return Interval(samples.mean(), samples.mean() - half, samples.mean() + half)


def to_markdown(
    study: Study, reference: Iterable[str] | None = None, *, level: float = 0.95, digits: int = 2
) -> str:
    """A table: a row for each cell, mean ± standard deviation, paired difference from a reference.

    The intervals hold at once with probability `level` or more. A cell with failed runs reports
    their number instead of a mean; with one seed there are no intervals.

    Args:
        reference: a cell; the first one run if None.
    """
    base = study.cells[0] if reference is None else Cell(reference)
    differences = study.scores - study.of(base)  # (C, S)
    compared = differences.isfinite().all(dim=1)  # (C,)
    comparisons = max(1, int(compared.sum()) - 1)  # the reference itself is none
    count = len(study.seeds)
    head = [*study.switches, f"score (n = {count})", f"difference, {100 * level:g} %"]
    lines = [head, [":-:"] * len(study.switches) + ["--:"] * 2]
    for c, cell in enumerate(study.cells):
        marks = ["✓" if name in cell else "–" for name in study.switches]
        failed = int((~study.scores[c].isfinite()).sum())
        score = f"{failed} of {count} failed" if failed else f"{study.mean()[c]:.{digits}f}"
        if not failed and count > 1:
            score += f" ± {study.std()[c]:.{digits}f}"
        difference = ""
        if compared[c] and cell != base:
            difference = f"{differences[c].mean():+.{digits}f}"
            if count > 1:
                _, low, high = t_interval(differences[c], level, comparisons)
                difference += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
        lines.append([*marks, score, difference])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --8<-- [end:report]
# --8<-- [end:core]


def _std(x: Tensor) -> Tensor:
    """Over the last axis, with N - 1; nan for N = 1, without torch's warning."""
    squares = (x - x.mean(dim=-1, keepdim=True)).square().sum(dim=-1)
    return (squares / (x.shape[-1] - 1)).sqrt() if x.shape[-1] > 1 else squares * torch.nan


def _t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| < t) = level, by bisection for the angle atan(t / sqrt(freedom))."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, freedom) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _t_inside(angle: float, freedom: int) -> float:
    """P(|T| < t) for t = tan(angle) * sqrt(freedom): a finite sum in powers of the cosine."""
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _name(cell: Cell) -> str:
    return "{" + ", ".join(sorted(cell)) + "}"


def _finite(score: float) -> float:
    score = float(score)
    if not math.isfinite(score):
        raise ValueError(f"the score must be finite, got {score}")
    return score


def _check_generators(switches: Sequence[str], generators: Mapping[str, Sequence[str]]) -> None:
    for name, word in generators.items():
        if name in switches:
            raise ValueError(f"{name!r} is a switch of the factorial, it cannot be generated too")
        if not word or len(set(word)) != len(word) or not set(word) <= set(switches):
            known = ", ".join(switches)
            raise ValueError(f"{name!r} must name different ones of {known}, got {list(word)}")


def _check_grid(switches: tuple[str, ...], cells: tuple[Cell, ...], seeds: tuple[int, ...]) -> None:
    for what, values in (("switches", switches), ("seeds", seeds)):
        if len(set(values)) != len(values):
            raise ValueError(f"{what} must all be different, got {values}")
    for cell in cells:
        if not cell <= set(switches):
            raise ValueError(f"the cell {_name(cell)} has switches that are not in {switches}")
    if not cells or not seeds:
        raise ValueError(f"nothing to run: {len(cells)} cells, {len(seeds)} seeds")


def _check_complete(study: Study, order: int) -> None:
    if not 1 <= order <= len(study.switches):
        raise ValueError(f"order must be 1 to {len(study.switches)}, got {order}")
    for cell, scores in zip(study.cells, study.scores, strict=True):
        for seed, score in zip(study.seeds, scores, strict=True):
            if not score.isfinite():
                raise ValueError(f"no effects: the run of cell {_name(cell)}, seed {seed} failed")


def _check_contrasts(contrasts: Tensor, terms: list[tuple[str, ...]]) -> None:
    mean = torch.ones_like(contrasts[:, :1])  # (C, 1)
    columns = torch.cat([mean, contrasts], dim=1).T  # (1 + E, C)
    for one, other in combinations(zip([("mean",), *terms], columns, strict=True), 2):
        if (one[1] * other[1]).sum() != 0:  # not orthogonal
            names = ["·".join(name) for name, _ in (other, one)]
            raise ValueError(f"{len(contrasts)} cells cannot tell {names[0]} from {names[1]}")


def _check_samples(samples: Tensor, level: float, comparisons: int) -> None:
    if samples.ndim != 1 or len(samples) < 2:
        raise ValueError(f"samples must be (N,) with N >= 2, got {tuple(samples.shape)}")
    if not samples.is_floating_point():
        raise TypeError(f"samples must be floating point, got {samples.dtype}")
    if not samples.isfinite().all():
        raise ValueError(f"samples must be finite, got {samples[~samples.isfinite()][0].item()}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1, got {comparisons}")


if __name__ == "__main__":
    import torch.nn.functional as F

    # --8<-- [start:demo]
    def train(on: Cell, seed: int) -> float:
        """Test accuracy of a network with 10 hidden layers on two spirals, after 40 steps."""
        data, start = (torch.Generator().manual_seed(seed) for _ in range(2))  # one each

        def spirals(n: int) -> tuple[Tensor, Tensor]:
            label = torch.arange(n) % 2
            radius = torch.rand(n, generator=data, dtype=torch.float64).sqrt()
            angle = 5 * radius + math.pi * label
            points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
            return points + 0.03 * torch.randn(n, 2, generator=data, dtype=torch.float64), label

        def forward(x: Tensor) -> Tensor:
            x = F.linear(x, weights[0])
            for weight in weights[1:-1]:
                h = F.layer_norm(x, (16,)) if "norm" in on else x
                h = F.linear(h.relu(), weight)
                x = x + h if "skip" in on else h
            return F.linear(x.relu(), weights[-1])

        widths = [2, *[16] * 10, 2]
        shapes = [*zip(widths[1:], widths[:-1], strict=True)]  # each (outputs, inputs)
        draws = [torch.randn(s, generator=start, dtype=torch.float64) for s in shapes]
        weights = [(w / math.sqrt(3 * w.shape[1])).requires_grad_() for w in draws]
        decay = 1e-3 if "decay" in on else 0.0
        velocities = [torch.zeros_like(w) for w in weights]
        (x, y), (x_test, y_test) = spirals(100), spirals(500)
        for _ in range(40):
            gradients = torch.autograd.grad(F.cross_entropy(forward(x), y), weights)
            with torch.no_grad():
                for w, v, g in zip(weights, velocities, gradients, strict=True):
                    v.mul_(0.9).add_(g + decay * w)
                    w.sub_(0.03 * v)
        return 100 * (forward(x_test).argmax(dim=1) == y_test).double().mean().item()

    torch.set_num_threads(1)  # the matrices are tiny
    switches = ["skip", "norm", "decay"]
    study = run_grid(train, switches, full_factorial(switches), seeds=range(5))
    print(to_markdown(study, reference=switches, digits=1))
    found = effects(study, order=2)
    for names, effect in found.items():
        interval = t_interval(effect, comparisons=len(found))
        print("{:<11}{:+6.1f} [{:+.1f}, {:+.1f}]".format("·".join(names), *interval))
    # --8<-- [end:demo]
