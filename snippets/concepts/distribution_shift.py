"""Distribution shift: importance weights, label-shift estimation (BBSE), two-sample test (MMD).

Paper: Bickel, Brückner, Scheffer, "Discriminative Learning Under Covariate Shift", JMLR 2009
       (weights from a classifier). https://www.jmlr.org/papers/v10/bickel09a.html
       Lipton, Wang, Smola, "Detecting and Correcting for Label Shift with Black Box
       Predictors", ICML 2018 (BBSE). https://arxiv.org/abs/1802.03916
       Saerens, Latinne, Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
       Probabilities", Neural Computation 2002. https://doi.org/10.1162/089976602753284446
       Gretton et al., "A Kernel Two-Sample Test", JMLR 2012 (MMD).
       https://www.jmlr.org/papers/v13/gretton12a.html
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  S source examples, T target examples, N examples, D features, K classes, R permutations.

All functions take float32 or float64.
"""

# --8<-- [start:imports]
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# --8<-- [end:imports]

__all__ = [
    "LabelShift",
    "adjust_to_prior",
    "domain_classifier",
    "effective_sample_size",
    "estimate_label_shift",
    "importance_weights",
    "median_bandwidth",
    "mmd2",
    "mmd_test",
]


# --8<-- [start:weights]
def domain_classifier(
    x_source: Tensor, x_target: Tensor, l2: float = 1.0, max_steps: int = 200
) -> tuple[Tensor, Tensor]:
    """Logistic regression that tells target from source, fitted by Newton's method.

    Minimises the sum of the log losses + l2 / 2 * |w|^2; the bias b is not penalised. It is
    scikit-learn's LogisticRegression(C=1 / l2) with source as class 0 and target as class 1.

    Args:
        x_source: (S, D).
        x_target: (T, D).
        l2: > 0, strength of the penalty.
        max_steps: of Newton's method, before it gives up with a RuntimeError.

    Returns:
        w (D,) and b (), so that x @ w + b is the log odds of "target", for x of (N, D).
    """
    _check_samples(x_source, x_target)
    _check_positive(l2=l2)
    x = F.pad(torch.cat([x_source, x_target]), (0, 1), value=1.0)  # (S+T, D+1)
    y = (torch.arange(len(x), device=x.device) >= len(x_source)).to(x.dtype)  # (S+T,)
    penalty = torch.full_like(x[0], l2)  # (D+1,)
    penalty[-1] = 0.0
    theta = torch.zeros_like(x[0])  # (D+1,)
    for _ in range(max_steps):
        p = (x @ theta).sigmoid()  # (S+T,)
        gradient = x.mT @ (p - y) + penalty * theta  # (D+1,)
        hessian = (x.mT * (p * (1 - p))) @ x + penalty.diag()  # (D+1, D+1)
        step = _solve(hessian, gradient)  # (D+1,)
        # No log odds may move by more than 1: then the objective falls on every step.
        theta = theta - step / (x @ step).abs().max().clamp(min=1.0)
        if gradient @ step <= torch.finfo(x.dtype).eps * len(x):
            return theta[:-1], theta[-1]  # (D,), ()
    raise RuntimeError(f"no convergence in {max_steps} steps; standardise x or raise l2 = {l2}")


def importance_weights(
    log_odds: Tensor,
    n_source: int,
    n_target: int,
    clip: float | None = None,
    normalize: bool = False,
) -> Tensor:
    """Density ratio target / source from the log odds of a domain classifier.

    The odds hold the ratio of the sample sizes, which n_source / n_target takes out again.

    Args:
        log_odds: log P(target | x) / P(source | x), (N,).
        n_source: S, number of source examples the classifier was trained on.
        n_target: T, likewise; with class weights that balance the two, give n_target = n_source.
        clip: upper bound on each weight, applied before normalising. Bounds the variance
            and makes the estimate biased.
        normalize: divide by the mean, so that the weights average to 1.

    Returns:
        Weights (N,), >= 0.
    """
    _check_vector(log_odds=log_odds)
    _check_positive(n_source=n_source, n_target=n_target)
    log_w = log_odds + math.log(n_source / n_target)  # (N,)
    if clip is not None:
        _check_positive(clip=clip)
        log_w = log_w.clamp(max=math.log(clip))
    return log_w.softmax(0) * len(log_w) if normalize else log_w.exp()


def effective_sample_size(weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2, between 1 and N for weights (N,) >= 0; Kish (1965)."""
    _check_vector(weights=weights)
    if (weights < 0).any() or not (weights > 0).any():
        raise ValueError(f"weights must be >= 0, not all 0; their range is {_range(weights)}")
    w = weights / weights.max()  # squares neither overflow nor vanish
    return w.sum().square() / w.square().sum()  # ()


# --8<-- [end:weights]


# --8<-- [start:label_shift]
class LabelShift(NamedTuple):
    """What estimate_label_shift returns."""

    weights: Tensor  # (K,) target_prior / source prior
    target_prior: Tensor  # (K,) >= 0, sums to 1
    solution: Tensor  # (K,) the same before clipping: sums to 1, may hold negative entries
    condition: Tensor  # () of the linear system, in the 1-norm


def estimate_label_shift(
    source_probs: Tensor,
    source_labels: Tensor,
    target_probs: Tensor,
    hard: bool = False,
    max_condition: float = 1e3,
) -> LabelShift:
    """Class prior of an unlabelled target sample, assuming P(x | y) has not changed (BBSE).

    Solves A q = m with A[i, j] = P(predicted i | true j) on the source and m[i] =
    P(predicted i) on the target. The paper solves C w = m with the joint C = A diag(p),
    so w = q / p; the solutions are the same, and A does not get worse when a class is rare.

    Args:
        source_probs: predicted probabilities, (S, K), of examples held out from training.
        source_labels: int64 in [0, K), (S,); every class must occur.
        target_probs: predicted probabilities of the same classifier, (T, K).
        hard: count the most probable class instead of averaging probabilities.
        max_condition: raise ValueError where the condition number of A is larger. An error in
            m can come back that many times as large, in the sum over classes: the predictions
            hardly tell some of them apart.

    Negative entries of the solution, which small samples or another kind of shift cause, become
    0; the others are divided by their sum.
    """
    _check_probs(source_probs, target_probs)
    _check_labels(source_labels, source_probs)
    k = source_probs.shape[1]
    if hard:
        source_probs, target_probs = (
            F.one_hot(probs.argmax(-1), k).to(probs.dtype) for probs in (source_probs, target_probs)
        )
    truth = F.one_hot(source_labels, k).to(source_probs.dtype)  # (S, K)
    prior = truth.mean(0)  # (K,)
    confusion = source_probs.mT @ truth / truth.sum(0)  # (K, K), columns sum to 1
    condition = _condition(confusion.detach())  # ()
    if not condition <= max_condition:
        raise ValueError(
            f"condition number {condition:.3g} of the confusion matrix exceeds {max_condition:g}: "
            "merge classes it confuses, take soft predictions or more source data"
        )
    solution = _solve(confusion, target_probs.mean(0))  # (K,)
    target_prior = solution.clamp(min=0.0)
    target_prior = target_prior / target_prior.sum()
    return LabelShift(target_prior / prior, target_prior, solution, condition)


def adjust_to_prior(probs: Tensor, weights: Tensor) -> Tensor:
    """Predicted probabilities under new class priors: p(y | x) w(y), normalised; Saerens et al.

    Args:
        probs: calibrated probabilities under the source prior, (N, K).
        weights: target prior / source prior, (K,), >= 0.

    Returns:
        Probabilities (N, K). A row whose every class has weight 0 becomes nan.
    """
    _check_probs(probs)
    if weights.shape != probs.shape[1:] or not (weights >= 0).all():
        got = f"{tuple(weights.shape)} in {_range(weights)}"
        raise ValueError(f"weights must be ({probs.shape[1]},) and >= 0, got {got}")
    joint = probs * weights  # (N, K)
    return joint / joint.sum(-1, keepdim=True)


# --8<-- [end:label_shift]


# --8<-- [start:mmd]
def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """Median distance between two points of the pooled sample (lower one of an even count)."""
    _check_samples(x, y)
    return F.pdist(torch.cat([x, y]).contiguous()).median()  # ()


def mmd2(x: Tensor, y: Tensor, bandwidth: float | Tensor, unbiased: bool = True) -> Tensor:
    """Squared maximum mean discrepancy under the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    Args:
        x: (S, D).
        y: (T, D).
        bandwidth: > 0.
        unbiased: leave out the pairs of a point with itself (needs S, T >= 2; may be
            negative). Otherwise the estimate is >= 0 and on average too large.

    Returns:
        The estimate, ().
    """
    _check_samples(x, y, at_least=2 if unbiased else 1)
    in_x = (torch.arange(len(x) + len(y), device=x.device) < len(x)).to(x.dtype)  # (S+T,)
    return _mmd2_of_splits(_kernel_matrix(x, y, bandwidth), in_x[None], unbiased)[0]


def mmd_test(
    x: Tensor,
    y: Tensor,
    bandwidth: float | Tensor | None = None,
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, float]:
    """Permutation test of "x and y come from the same distribution" with the unbiased MMD^2.

    Args:
        x: (S, D), S >= 2.
        y: (T, D), T >= 2.
        bandwidth: of the kernel, > 0; by default the median heuristic on the pooled sample,
            which does not know which point is whose, so the test stays valid. Where more
            than half of the pairs coincide the median is 0: give one then.
        permutations: R, number of random splits of the pooled sample.
        generator: of random numbers, on the CPU.

    Returns:
        MMD^2 () and the p-value (b + 1) / (R + 1), where b of the R splits are at least as
        far apart as x and y. It is never 0 and its smallest value is 1 / (R + 1).
    """
    _check_samples(x, y, at_least=2)
    _check_positive(permutations=permutations)
    gram = _kernel_matrix(x, y, median_bandwidth(x, y) if bandwidth is None else bandwidth)
    n = len(gram)
    order = torch.rand(permutations, n, generator=generator).argsort(-1)  # (R, S+T)
    order = torch.cat([torch.arange(n)[None], order]).to(x.device)  # (R+1, S+T), first: as it is
    splits = (order < len(x)).to(x.dtype)  # (R+1, S+T)
    values = _mmd2_of_splits(gram, splits, unbiased=True)  # (R+1,)
    slack = 100 * torch.finfo(x.dtype).eps  # equal splits differ in the last bits
    p_value = (values >= values[0] - slack).sum().item() / (permutations + 1)  # the first counts
    return values[0], p_value


def _kernel_matrix(x: Tensor, y: Tensor, bandwidth: float | Tensor) -> Tensor:
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be > 0, got {float(bandwidth)}")
    z = torch.cat([x, y]) / bandwidth  # (S+T, D)
    # By matrix products, cdist's default for large inputs, close points lose their digits.
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")  # (S+T, S+T)
    return (-0.5 * distance.square()).exp()


def _mmd2_of_splits(gram: Tensor, in_x: Tensor, unbiased: bool) -> Tensor:
    """MMD^2 for each row of in_x (R, S+T), which holds 1 where a point counts as x, else 0."""
    s, t = in_x[0].sum(), (1 - in_x[0]).sum()
    if unbiased:
        gram = gram - gram.diagonal().diag()
    to_x = in_x @ gram  # (R, S+T), kernel summed over the points of x
    to_y = gram.sum(0) - to_x  # (R, S+T)
    xx = (to_x * in_x).sum(-1)  # (R,)
    xy = (to_y * in_x).sum(-1)  # (R,)
    yy = (to_y * (1 - in_x)).sum(-1)  # (R,)
    own = 1 if unbiased else 0
    return xx / (s * (s - own)) + yy / (t * (t - own)) - 2 * xy / (s * t)  # (R,)


# --8<-- [end:mmd]


def _check_samples(x: Tensor, y: Tensor, at_least: int = 1) -> None:
    for z in (x, y):
        if z.ndim != 2 or len(z) < at_least or z.shape[1] == 0:
            raise ValueError(f"expected a sample (N >= {at_least}, D >= 1), got {tuple(z.shape)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"the samples differ in D: {tuple(x.shape)}, {tuple(y.shape)}")
    _check_values(x, y)


def _check_values(*tensors: Tensor) -> None:
    for z in tensors:
        if z.dtype not in (torch.float32, torch.float64) or z.dtype != tensors[0].dtype:
            raise TypeError(f"expected one dtype, float32 or float64, got {z.dtype}")
        if not z.isfinite().all():
            raise ValueError(f"expected finite numbers, got {z[~z.isfinite()][0].item()}")


def _check_vector(**named: Tensor) -> None:
    for name, z in named.items():
        if z.ndim != 1 or len(z) == 0:
            raise ValueError(f"{name} must be (N >= 1,), got {tuple(z.shape)}")
        _check_values(z)


def _check_positive(**named: float) -> None:
    for name, value in named.items():
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")


def _check_probs(*samples: Tensor) -> None:
    for probs in samples:
        _check_samples(samples[0], probs)
        sums = probs.sum(-1)
        if probs.min() < 0 or (sums - 1).abs().max() > 1e-3:
            raise ValueError(
                f"rows must be probabilities, but their sums lie in {_range(sums)} and their "
                f"entries in {_range(probs)}; logits need softmax(-1)"
            )


def _check_labels(labels: Tensor, probs: Tensor) -> None:
    s, k = probs.shape
    if labels.dtype != torch.int64 or labels.shape != (s,):
        raise ValueError(f"labels must be int64 ({s},), got {labels.dtype} {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= k:
        raise ValueError(f"labels must lie in [0, {k}); their range is {_range(labels)}")
    if absent := [c for c in range(k) if not (labels == c).any()]:
        raise ValueError(f"classes without a source example: {absent}")


def _solve(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve(a, b)  # pyright: ignore  (torch.linalg carries no types)


def _condition(a: Tensor) -> Tensor:
    return torch.linalg.cond(a, 1)  # pyright: ignore


def _range(x: Tensor) -> str:
    return f"[{x.min().item():.3g}, {x.max().item():.3g}]"


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)

    # Covariate shift from N(0, 1) to N(1, 1): the true ratio of densities is exp(x - 1/2).
    x_source = torch.randn(4000, 1, generator=generator)
    x_target = torch.randn(2000, 1, generator=generator) + 1
    w, b = domain_classifier(x_source, x_target)
    grid = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    estimated = importance_weights(grid @ w + b, n_source=4000, n_target=2000)
    print("true ratio", (grid[:, 0] - 0.5).exp().round(decimals=2))
    print("estimated ", estimated.round(decimals=2))

    weights = importance_weights(x_source @ w + b, n_source=4000, n_target=2000)
    share = effective_sample_size(weights) / 4000
    print(f"mean of x: {(weights * x_source[:, 0]).mean():.1f} by weighted source examples")
    print(f"effective sample size: {share:.2f} of the source")

    # Label shift: class 1 falls from 50 % to 10 %, seen through a classifier that often errs.
    p_class_1 = torch.tensor([0.2, 0.7])  # P(predicted 1 | true class)
    y_source, y_target = torch.arange(4000) % 2, (torch.arange(2000) % 10 == 0).long()
    source_probs, target_probs = (
        F.one_hot((torch.rand(len(y), generator=generator) < p_class_1[y]).long(), 2).float()
        for y in (y_source, y_target)
    )
    shift = estimate_label_shift(source_probs, y_source, target_probs)
    predicted, estimated = target_probs[:, 1].mean(), shift.target_prior[1]
    print(f"class 1: {predicted:.2f} predicted, {estimated:.2f} estimated")

    # Detection: does a sample of 200 come from where the first 200 came from?
    for name, sample in (("source", x_source[200:400]), ("target", x_target[:200])):
        value, p = mmd_test(x_source[:200], sample, generator=generator)
        print(f"source against {name}: MMD^2 {value:5.2f}, p {p:.3f}")
    # --8<-- [end:demo]
