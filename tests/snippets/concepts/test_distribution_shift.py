"""Distribution shift: closed-form Gaussians, scikit-learn, confusion algebra, bad input.

Yardstick: sklearn.linear_model.LogisticRegression; sklearn.metrics.pairwise.rbf_kernel; plain
    loops; closed form.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.metrics.pairwise import rbf_kernel
from torch.testing import assert_close

from snippets.concepts.distribution_shift import (
    adjust_to_prior,
    domain_classifier,
    effective_sample_size,
    estimate_label_shift,
    importance_weights,
    median_bandwidth,
    mmd2,
    mmd_test,
)

F64 = torch.float64
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 6)


def samples(s=7, t=5, d=3, seed=0, dtype=F64):
    torch.manual_seed(seed)
    return torch.randn(s, d, dtype=dtype), 0.5 + 1.5 * torch.randn(t, d, dtype=dtype)


def gaussian(n, mean=0.0, std=1.0):
    """A Gaussian as n equally probable points, one in the middle of each slice: no noise."""
    return torch.tensor(norm.ppf((np.arange(n) + 0.5) / n, mean, std))[:, None]


def same(actual, expected, tolerance=1e-10):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# Weights: parity ------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("s", "t", "d"), [(7, 5, 3), (40, 90, 2), (6, 6, 20), (1, 1, 1)])
def test_the_domain_classifier_is_that_of_scikit_learn(s, t, d, l2):
    x, y = samples(s, t, d)
    oracle = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-14, max_iter=1000)
    oracle.fit(torch.cat([x, y]).numpy(), [0] * s + [1] * t)
    w, b = domain_classifier(x, y, l2)
    assert w.shape == (d,) and b.shape == ()
    same(w, oracle.coef_[0])
    same(b, oracle.intercept_[0])


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_the_domain_classifier_converges_on_separated_data_of_any_scale(scale):
    x, y = (scale * z for z in samples(20, 30))
    y = y + 20 * scale
    w, b = domain_classifier(x, y)
    z, is_y = torch.cat([x, y]), torch.arange(50) >= 20
    residual = (z @ w + b).sigmoid() - is_y.to(F64)
    same(z.mT @ residual + w, torch.zeros(3), 1e-5 * scale)  # the gradient vanishes
    same(residual.sum(), 0.0, 1e-6)


def test_the_domain_classifier_survives_outliers():
    """On these points an undamped Newton step overshoots until the Hessian is singular."""
    x = torch.tensor([[0.0, 0], [5, 2], [-4831, 5613]], dtype=F64)
    y = torch.tensor([[-2.0, -2], [-81, 2386], [4, -1], [-5, -5], [23, 8]], dtype=F64)
    w, b = domain_classifier(x, y)
    residual = (torch.cat([x, y]) @ w + b).sigmoid() - torch.tensor([0.0] * 3 + [1] * 5)
    same(torch.cat([x, y]).mT @ residual + w, torch.zeros(2), 1e-6)
    same(residual.sum(), 0.0)


@pytest.mark.parametrize(("n_source", "n_target"), [(4000, 4000), (6000, 1500), (500, 8000)])
@pytest.mark.parametrize("std", [1.0, 0.8])
def test_weights_of_two_gaussians(n_source, n_target, std):
    """log N(x; 1, std) / N(x; 0, 1) is linear in x, and quadratic where the variances differ."""
    x, y = gaussian(n_source), gaussian(n_target, 1.0, std)
    features = [torch.cat([z, z**2], 1) for z in (x, y)]
    w, b = domain_classifier(*features, l2=1e-6)
    grid = torch.linspace(-1, 2, 7, dtype=F64)[:, None]
    log_odds = torch.cat([grid, grid**2], 1) @ w + b
    expected = norm.pdf(grid[:, 0], 1.0, std) / norm.pdf(grid[:, 0])
    weights = importance_weights(log_odds, n_source, n_target)
    assert_close(weights, torch.tensor(expected), rtol=0.02, atol=0)


@given(n_source=st.integers(1, 10**6), n_target=st.integers(1, 10**6), seed=seeds)
def test_odds_become_densities_again(n_source, n_target, seed):
    torch.manual_seed(seed)
    source, target = torch.rand(2, 9, dtype=F64) + 1e-3  # densities at nine points
    posterior = target * n_target / (target * n_target + source * n_source)
    same(importance_weights(posterior.logit(), n_source, n_target), target / source, 1e-8)


def test_clipping_bounds_the_ratio_and_comes_before_normalising():
    log_odds = torch.tensor([0.1, 1.0, 3.0, 20.0], dtype=F64).log()
    same(importance_weights(log_odds, 1, 2), [0.05, 0.5, 1.5, 10])
    same(importance_weights(log_odds, 1, 2, clip=1.5), [0.05, 0.5, 1.5, 1.5])
    clipped = importance_weights(log_odds, 1, 2, clip=1.5, normalize=True)
    same(clipped, torch.tensor([0.05, 0.5, 1.5, 1.5]) * 4 / 3.55, 1e-6)


def test_normalised_weights_average_to_one_where_the_exponential_overflows():
    weights = importance_weights(torch.tensor([1000.0, 1000.0, 0.0, -1000.0]), 3, 5, normalize=True)
    assert_close(weights, torch.tensor([2.0, 2.0, 0.0, 0.0]))


def test_effective_sample_size_by_hand_and_of_a_gaussian():
    assert effective_sample_size(torch.tensor([2.0, 2.0, 2.0])) == 3
    assert effective_sample_size(torch.tensor([0.0, 5.0, 0.0])) == 1
    same(effective_sample_size(torch.tensor([1.0, 2.0, 3.0], dtype=F64)), 36 / 14)
    assert effective_sample_size(torch.tensor([1e30, 1e30])) == 2  # squares overflow float32
    x = gaussian(100_000)[:, 0]
    share = effective_sample_size((x - 0.5).exp()) / len(x)
    assert_close(share, torch.tensor(math.exp(-1), dtype=F64), rtol=5e-3, atol=0)


# Label shift: parity ------------------------------------------------------------


def confusion_and_priors(k, seed):
    """Columns of the first sum to 1; rational, so that counts can realise them."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 10, (k, k)) + 20 * np.eye(k, dtype=int)
    a[0] += a.sum(0).max() - a.sum(0) + 1  # every column sums to the same integer
    return a, rng.integers(1, 6, k), rng.integers(0, 6, k) + np.eye(k, dtype=int)[0]


def one_hot(classes, k):
    return torch.eye(k, dtype=F64)[torch.as_tensor(classes)]


def realise(a, per_class):
    """True and predicted classes with exactly the confusion a, per_class[j] times each column."""
    true, predicted = [], []
    for j, times in enumerate(per_class):
        for i, count in enumerate(a[:, j]):
            true += [j] * int(count * times)
            predicted += [i] * int(count * times)
    return torch.tensor(true), torch.tensor(predicted)


@given(k=st.integers(2, 5), seed=seeds, hard=st.booleans())
def test_label_shift_is_recovered_exactly(k, seed, hard):
    a, p, q = confusion_and_priors(k, seed)
    y_source, predicted_source = realise(a, p)
    _, predicted_target = realise(a, q)
    args = one_hot(predicted_source, k), y_source, one_hot(predicted_target, k)
    shift = estimate_label_shift(*args, hard=hard)
    same(shift.target_prior, q / q.sum())
    same(shift.solution, q / q.sum())
    same(shift.weights, (q / q.sum()) / (p / p.sum()))
    # As the paper writes it: C w = m with the joint matrix of predicted and true classes.
    joint = confusion_matrix(predicted_source, y_source, labels=range(k), normalize="all")
    m = np.bincount(predicted_target, minlength=k) / len(predicted_target)
    same(shift.weights, np.linalg.solve(joint, m))
    conditional = joint / joint.sum(0)
    same(shift.condition, np.linalg.cond(conditional, 1))


@given(seed=seeds)
def test_soft_predictions_need_neither_calibration_nor_accuracy(seed):
    rng = np.random.default_rng(seed)
    by_class = torch.tensor(rng.dirichlet([0.3, 0.3, 0.3], 3)) * 0.5  # rows: p(. | class)
    by_class += 0.5 * torch.eye(3, dtype=F64)[[1, 2, 0]]  # always mistaken
    y_source, y_target = torch.arange(9) % 3, torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    shift = estimate_label_shift(by_class[y_source], y_source, by_class[y_target])
    same(shift.target_prior, [0.75, 0.25, 0.0])
    same(shift.weights, [2.25, 0.75, 0.0])


def test_hard_and_soft_predictions_differ():
    probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]], dtype=F64)
    target = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.1, 0.9]], dtype=F64)
    y = torch.tensor([0, 1])
    same(estimate_label_shift(probs, y, target, hard=True).target_prior, [0.75, 0.25])
    soft = estimate_label_shift(probs, y, target).target_prior
    same(soft, [(0.475 - 0.4) / 0.5, (0.9 - 0.475) / 0.5])


def test_negative_shares_are_clipped_and_reported():
    """Sensitivity 0.8 and specificity 0.7: (m - 0.3) / 0.5, and m = 1 asks for 1.4."""
    by_class = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=F64)
    y = torch.tensor([0, 1, 1, 1])
    shift = estimate_label_shift(by_class[y], y, torch.tensor([[1.0, 0.0]], dtype=F64))
    same(shift.solution, [1.4, -0.4])
    same(shift.target_prior, [1.0, 0.0])
    same(shift.weights, [4.0, 0.0])
    same(shift.condition, 2.2)  # inverse (1.4 -0.6; -0.4 1.6): columns 1.8 and 2.2


def test_what_remains_after_clipping_is_divided_by_its_sum():
    by_class = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]], dtype=F64)
    y = torch.arange(3)
    shift = estimate_label_shift(by_class, y, torch.tensor([[0.5, 0.5, 0.0]], dtype=F64))
    same(shift.solution, [0.75, 0.75, -0.5])
    same(shift.target_prior, [0.5, 0.5, 0.0])


def test_posteriors_under_a_new_prior_are_those_of_bayes():
    """Two Gaussian classes: the posterior is known for every prior."""
    x = np.linspace(-3, 4, 15)
    likelihood = np.stack([norm.pdf(x), norm.pdf(x, 1)], 1)
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    before, after = (torch.tensor(likelihood * r / (likelihood @ r)[:, None]) for r in (p, q))
    same(adjust_to_prior(before, torch.tensor(q / p)), after)


# MMD: parity ------------------------------------------------------------------


def mmd2_by_loops(x, y, bandwidth, unbiased):
    """Gretton et al. (2012), Lemma 6, one pair at a time."""

    def k(a, b):
        return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b)) / (2 * bandwidth**2))

    def mean(a, b, same_sample):
        pairs = [
            k(a[i], b[j])
            for i in range(len(a))
            for j in range(len(b))
            if not (same_sample and unbiased and i == j)
        ]
        return sum(pairs) / len(pairs)

    x, y = x.tolist(), y.tolist()
    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@given(s=sizes, t=sizes, d=sizes, seed=seeds, bandwidth=st.floats(0.2, 5), unbiased=st.booleans())
def test_mmd_equals_the_definition(s, t, d, seed, bandwidth, unbiased):
    x, y = samples(s, t, d, seed)
    same(mmd2(x, y, bandwidth, unbiased), mmd2_by_loops(x, y, bandwidth, unbiased))


def test_mmd_by_the_kernel_of_scikit_learn():
    x, y = samples(30, 40)
    z = torch.cat([x, y]).numpy()
    k = rbf_kernel(z, gamma=1 / (2 * 1.7**2))
    signs = np.r_[np.full(30, 1 / 30), np.full(40, -1 / 40)]
    same(mmd2(x, y, 1.7, unbiased=False), signs @ k @ signs)


def test_gradient_of_mmd_by_hand():
    x, y = samples()
    k = {}
    for name, other in (("x", x), ("y", y)):
        difference = other[None] - x[:, None]  # (S, N, D)
        pull = (-difference.square().sum(-1) / (2 * 1.3**2)).exp()[..., None] * difference / 1.3**2
        k[name] = pull.sum(1)
    expected = 2 * k["x"] / (7 * 6) - 2 * k["y"] / (7 * 5)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(mmd2(x, y, 1.3), x)
    same(gradient, expected)


def mmd2_of_gaussians(d, distance, std_x, std_y, bandwidth):
    """In D dimensions, isotropic, the means `distance` apart: integrals of Gaussians."""

    def expected(variance, r):
        total = bandwidth**2 + variance
        return (bandwidth**2 / total) ** (d / 2) * math.exp(-(r**2) / (2 * total))

    cross = expected(std_x**2 + std_y**2, distance)
    return expected(2 * std_x**2, 0) + expected(2 * std_y**2, 0) - 2 * cross


@pytest.mark.parametrize(("distance", "std"), [(0.0, 1.0), (0.5, 1.0), (2.0, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("bandwidth", [0.7, 1.5])
def test_mmd_of_two_gaussians(distance, std, bandwidth):
    value = mmd2(gaussian(1000), gaussian(800, distance, std), bandwidth, unbiased=False)
    expected = mmd2_of_gaussians(1, distance, 1.0, std, bandwidth)
    assert abs(value - expected) < 2e-3


def test_the_unbiased_estimate_has_no_bias_and_the_biased_one_has():
    generator = torch.Generator().manual_seed(0)
    values = torch.zeros(2, 400, dtype=F64)
    for i in range(400):
        x = torch.randn(5, 3, generator=generator, dtype=F64)
        y = torch.randn(8, 3, generator=generator, dtype=F64)
        y[:, 0] += 1
        values[:, i] = torch.stack([mmd2(x, y, 1.5), mmd2(x, y, 1.5, unbiased=False)])
    truth = mmd2_of_gaussians(3, 1.0, 1.0, 1.0, 1.5)
    error = values.std(1) / 400**0.5
    unbiased, biased = values.mean(1)
    assert abs(unbiased - truth) < 3 * error[0]
    # A point with itself adds (1 - E k(x, x')) / S, and likewise for y.
    bias = (1 - (1.5**2 / (1.5**2 + 2)) ** 1.5) * (1 / 5 + 1 / 8)
    assert abs(biased - truth - bias) < 3 * error[1]


def test_median_bandwidth_takes_each_pair_once():
    x, y = samples(4, 3)
    z = torch.cat([x, y]).tolist()
    distances = sorted(math.dist(a, b) for a, b in itertools.combinations(z, 2))
    same(median_bandwidth(x, y), distances[10])  # of 21
    few = sorted(math.dist(a, b) for a, b in itertools.combinations([*z[:2], *z[4:6]], 2))
    same(median_bandwidth(x[:2], y[:2]), few[2])  # of 6, the lower one in the middle


# The permutation test -----------------------------------------------------------


@pytest.mark.parametrize(("shift", "seed"), [(0.0, 0), (0.6, 1), (1.2, 2), (5.0, 3)])
def test_p_value_equals_that_of_all_splits(shift, seed):
    x, y = samples(3, 4, 2, seed)
    y = y + shift
    z, everything = torch.cat([x, y]), set(range(7))
    observed = mmd2_by_loops(x, y, 1.1, True)
    values = [
        mmd2_by_loops(z[list(part)], z[sorted(everything - set(part))], 1.1, True)
        for part in itertools.combinations(range(7), 3)
    ]
    exact = sum(v >= observed - 1e-12 for v in values) / len(values)
    value, p = mmd_test(x, y, 1.1, 5000, torch.Generator().manual_seed(0))
    same(value, observed)
    assert abs(p - exact) < 0.03


def test_p_value_is_never_zero_and_counts_the_sample_itself():
    x, y = gaussian(20), gaussian(20, 50.0)
    for permutations in (1, 9, 99):
        p = mmd_test(x, y, 30.0, permutations, torch.Generator().manual_seed(1))[1]
        assert p == 1 / (permutations + 1)


@pytest.mark.parametrize("seed", range(5))
def test_p_value_of_identical_samples_is_one(seed):
    """No split is closer, and rounding must not make equal splits look closer."""
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
    assert mmd_test(x, x, 1.0, 200)[1] == 1.0
    assert mmd_test(torch.ones(5, 2), torch.ones(4, 2), 1.0, 99)[1] == 1.0


def test_rejects_no_more_often_than_it_says():
    generator = torch.Generator().manual_seed(0)
    p_values = torch.tensor(
        [
            mmd_test(*torch.randn(2, 8, 1, generator=generator), None, 99, generator)[1]
            for _ in range(400)
        ]
    )
    for level in (0.05, 0.2, 0.5):  # three standard deviations of a proportion
        assert abs((p_values <= level).double().mean() - level) < 3 * (level / 400) ** 0.5


def test_same_generator_same_p_value_and_default_bandwidth():
    x, y = samples(12, 9)
    y = (y - 0.5) / 1.5  # of the same distribution: the p-value is not at its end
    runs = [mmd_test(x, y, b, 50, torch.Generator().manual_seed(3)) for b in (None, None)]
    assert runs[0] == runs[1] and 0.1 < runs[0][1] < 0.9
    explicit = mmd_test(x, y, median_bandwidth(x, y), 50, torch.Generator().manual_seed(3))
    assert runs[0] == explicit
    # Without a generator the global one is used, and advances.
    torch.manual_seed(3)
    assert mmd_test(x, y, None, 50) == runs[0]


# Invariants -----------------------------------------------------------------


@given(s=sizes, t=sizes, seed=seeds, unbiased=st.booleans())
def test_mmd_invariants(s, t, seed, unbiased):
    x, y = samples(s, t, 2, seed)
    value = mmd2(x, y, 1.0, unbiased)
    same(mmd2(y, x, 1.0, unbiased), value)
    same(mmd2(x[torch.randperm(s)], y[torch.randperm(t)], 1.0, unbiased), value)
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=F64))[0]
    same(mmd2(3 * (x @ turn + 7), 3 * (y @ turn + 7), 3.0, unbiased), value)
    assert -2 <= value <= 2
    if not unbiased:
        assert value >= -1e-12
        same(mmd2(x, x, 1.0, False), 0.0)


@given(k=st.integers(2, 5), seed=seeds)
def test_label_shift_invariants(k, seed):
    a, p, q = confusion_and_priors(k, seed)
    (y, predicted), (_, target) = realise(a, p), realise(a, q)
    args = one_hot(predicted, k), y, one_hot(target, k)
    shift = estimate_label_shift(*args)
    prior = torch.bincount(y, minlength=k) / len(y)
    same((shift.weights * prior).sum(), 1.0, 1e-6)
    same(shift.solution.sum(), 1.0)
    assert (shift.target_prior >= 0).all()
    order = torch.randperm(k)  # new names for the classes
    renamed = estimate_label_shift(args[0][:, order], order.argsort()[y], args[2][:, order])
    same(renamed.target_prior, shift.target_prior[order])
    unshifted = estimate_label_shift(args[0], y, args[0])
    same(unshifted.weights, torch.ones(k))


@given(seed=seeds)
def test_swapping_source_and_target_inverts_the_weights(seed):
    x, y = samples(seed=seed)
    (w, b), (v, c) = domain_classifier(x, y), domain_classifier(y, x)
    same(importance_weights(x @ w + b, 7, 5), 1 / importance_weights(x @ v + c, 5, 7), 1e-7)


@given(seed=seeds, c=st.floats(1e-3, 1e3))
def test_effective_sample_size_lies_between_one_and_n(seed, c):
    torch.manual_seed(seed)
    weights = torch.rand(6, dtype=F64).pow(4)
    size = effective_sample_size(weights)
    assert 1 <= size <= 6
    same(effective_sample_size(c * weights), size)


@given(seed=seeds)
def test_adjusting_to_a_prior_and_back_changes_nothing(seed):
    torch.manual_seed(seed)
    probs, weights = torch.rand(4, 3, dtype=F64).softmax(-1), torch.rand(3, dtype=F64) + 0.1
    adjusted = adjust_to_prior(probs, weights)
    same(adjusted.sum(-1), torch.ones(4))
    same(adjust_to_prior(adjusted, 1 / weights), probs)
    same(adjust_to_prior(probs, 5 * weights), adjusted)


# Gradient -------------------------------------------------------------------


def leaves(*tensors):
    return [z.clone().requires_grad_() for z in tensors]


def test_gradients():
    x, y = samples()
    assert torch.autograd.gradcheck(lambda x, y: mmd2(x, y, 1.3), leaves(x, y))
    bandwidth = torch.tensor(1.3, dtype=F64)
    assert torch.autograd.gradcheck(lambda x, y, b: mmd2(x, y, b, False), leaves(x, y, bandwidth))
    # By the implicit function theorem: Newton's last step carries it.
    assert torch.autograd.gradcheck(domain_classifier, leaves(x, y))
    log_odds = x[:, 0]
    for normalize in (False, True):
        assert torch.autograd.gradcheck(
            lambda z, n=normalize: importance_weights(z, 3, 5, 1.1, n), leaves(log_odds)
        )
    assert torch.autograd.gradcheck(effective_sample_size, leaves(log_odds.exp()))
    probs, target = x.softmax(-1), y.softmax(-1)
    labels = probs.argmax(-1)
    labels[:3] = torch.arange(3)

    def shift(source_logits, target_logits):
        source, target = source_logits.softmax(-1), target_logits.softmax(-1)
        return estimate_label_shift(source, labels, target).weights

    assert torch.autograd.gradcheck(shift, leaves(4 * one_hot(labels, 3) + 0.1 * x, y))
    assert torch.autograd.gradcheck(
        lambda z, w: adjust_to_prior(z.softmax(-1), w), leaves(target, torch.rand(3, dtype=F64))
    )


def test_gradient_at_coinciding_points_is_finite():
    x = torch.ones(3, 2, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mmd2(x, torch.ones(2, 2, dtype=F64), 1.0), x)
    assert not gradient.any()


# Edges ----------------------------------------------------------------------


def test_close_points_far_from_the_origin_keep_their_digits():
    far = 4096 + torch.arange(40, dtype=torch.float32)[:, None] / 64
    other = far + 1 / 64
    expected = mmd2(far.double() - 4096, other.double() - 4096, 0.1)
    assert_close(mmd2(far, other, 0.1).double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_dtype_strides_and_arguments_are_kept(dtype):
    wide = torch.randn(6, 14, dtype=dtype).mT  # its columns are not contiguous
    x, y = wide[:8, ::2], wide[8:, ::2]
    probs, target = x.softmax(-1), y.softmax(-1)
    labels = torch.arange(8) % 3
    log_odds = wide[::2, 0]
    inputs = (x, y, probs, target, labels, log_odds)
    before = [z.clone() for z in inputs]
    source = (0.7 * torch.eye(3)[labels] + 0.3 * probs).to(dtype)
    outputs = [
        *domain_classifier(x, y),
        importance_weights(log_odds, 3, 4, clip=1.0),
        effective_sample_size(log_odds.exp()),
        *estimate_label_shift(source, labels, target),
        adjust_to_prior(probs, target[0]),
        median_bandwidth(x, y),
        mmd2(x, y, 1.0),
        mmd_test(x, y, permutations=9)[0],
    ]
    assert all(z.dtype == dtype and z.isfinite().all() for z in outputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))
    same(mmd2(x, y, 1.0), mmd2(x.contiguous(), y.contiguous(), 1.0), 1e-6)


def test_smallest_samples():
    x, y = samples(1, 1)
    assert 0 < mmd2(x, y, 1.0, unbiased=False) < 2
    assert effective_sample_size(torch.tensor([0.3])) == 1
    assert importance_weights(torch.tensor([0.0]), 2, 1) == 2
    one = torch.ones(1, 1)
    shift = estimate_label_shift(one, torch.zeros(1, dtype=torch.int64), one)  # a single class
    assert shift.weights == 1 and shift.target_prior == 1
    contradiction = adjust_to_prior(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 2.0]))
    assert contradiction.isnan().all()


# Bad input ------------------------------------------------------------------

SAMPLE = torch.arange(6.0).reshape(3, 2)
PROBS = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
LABELS = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mmd2(SAMPLE[0], SAMPLE, 1.0), r"expected a sample .* got \(2,\)"),
        (lambda: mmd2(SAMPLE, SAMPLE[:, :1], 1.0), r"differ in D: \(3, 2\), \(3, 1\)"),
        (lambda: mmd2(SAMPLE[:1], SAMPLE, 1.0), r"N >= 2.* got \(1, 2\)"),
        (lambda: mmd2(SAMPLE[:0], SAMPLE, 1.0, False), r"N >= 1.* got \(0, 2\)"),
        (lambda: mmd2(SAMPLE / 0, SAMPLE, 1.0), "finite numbers, got nan"),
        (lambda: mmd2(SAMPLE, SAMPLE, 0.0), "bandwidth must be > 0, got 0.0"),
        (lambda: mmd2(SAMPLE, SAMPLE, -1.0), "bandwidth must be > 0, got -1.0"),
        (lambda: mmd_test(SAMPLE, SAMPLE[:1]), r"N >= 2.* got \(1, 2\)"),
        (lambda: mmd_test(SAMPLE, SAMPLE, permutations=0), "permutations must be > 0, got 0"),
        (lambda: mmd_test(SAMPLE * 0, SAMPLE * 0), "bandwidth must be > 0, got 0.0"),
        (lambda: median_bandwidth(SAMPLE, SAMPLE[0]), r"expected a sample .* got \(2,\)"),
        (lambda: domain_classifier(SAMPLE, SAMPLE[:, :1]), r"differ in D: \(3, 2\), \(3, 1\)"),
        (lambda: domain_classifier(SAMPLE, SAMPLE, l2=0.0), "l2 must be > 0, got 0.0"),
        (lambda: importance_weights(SAMPLE, 1, 1), r"log_odds must be .* got \(3, 2\)"),
        (lambda: importance_weights(SAMPLE[0], 0, 1), "n_source must be > 0, got 0"),
        (lambda: importance_weights(SAMPLE[0], 1, -2), "n_target must be > 0, got -2"),
        (lambda: importance_weights(SAMPLE[0], 1, 1, clip=0), "clip must be > 0, got 0"),
        (lambda: effective_sample_size(-SAMPLE[0]), r"weights must be >= 0.* \[-1, "),
        (lambda: effective_sample_size(SAMPLE[0] * 0), r"not all 0.* \[0, 0\]"),
        (lambda: effective_sample_size(SAMPLE[0, :0]), r"weights must be .* got \(0,\)"),
        (
            lambda: estimate_label_shift(SAMPLE, LABELS, PROBS),
            r"probabilities, but their sums lie in \[1, 9\] .* \[0, 5\]",
        ),
        (lambda: estimate_label_shift(PROBS, LABELS, SAMPLE), r"sums lie in \[1, 9\]"),
        (lambda: estimate_label_shift(PROBS, LABELS, PROBS[:, :1]), "differ in D"),
        (lambda: estimate_label_shift(PROBS, LABELS[:2], PROBS), r"\(3,\), got torch.int64 \(2,\)"),
        (lambda: estimate_label_shift(PROBS, LABELS.float(), PROBS), "got torch.float32"),
        (lambda: estimate_label_shift(PROBS, LABELS + 1, PROBS), r"\[0, 2\).* \[1, 2\]"),
        (lambda: estimate_label_shift(PROBS, LABELS - 1, PROBS), r"\[0, 2\).* \[-1, 0\]"),
        (lambda: estimate_label_shift(PROBS, LABELS * 0, PROBS), r"source example: \[1\]"),
        (
            lambda: estimate_label_shift(PROBS[:1].expand(3, 2), LABELS, PROBS),
            r"condition number (inf|\S+e\+\d+) of the confusion matrix exceeds 1000",
        ),
        (
            lambda: estimate_label_shift(PROBS, LABELS, PROBS, max_condition=2),
            r"condition number 3 of .* exceeds 2",
        ),
        (lambda: adjust_to_prior(SAMPLE, PROBS[0]), r"sums lie in \[1, 9\]"),
        (lambda: adjust_to_prior(PROBS, torch.ones(3)), r"\(2,\) and >= 0, got \(3,\)"),
        (lambda: adjust_to_prior(PROBS, -torch.ones(2)), r"got \(2,\) in \[-1, -1\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64], ids=str)
def test_bad_dtype(dtype):
    with pytest.raises(TypeError, match=f"float32 or float64, got {dtype}"):
        mmd2(SAMPLE.to(dtype), SAMPLE.to(dtype), 1.0)
    with pytest.raises(TypeError, match=r"got torch\.float64"):
        domain_classifier(SAMPLE, SAMPLE.double())


def test_no_convergence_is_an_error():
    with pytest.raises(RuntimeError, match=r"no convergence in 1 steps.* l2 = 0.5"):
        domain_classifier(SAMPLE, SAMPLE + 3, 0.5, max_steps=1)
