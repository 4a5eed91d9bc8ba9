"""Focal loss: parity with torchvision, cross-entropy and plain loops; the paper; edges.

Yardstick: torchvision.ops.sigmoid_focal_loss; torch.nn.functional.cross_entropy;
    torch.nn.functional.binary_cross_entropy_with_logits; plain loops.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision import ops

from snippets.detection.focal_loss import prior_bias, sigmoid_focal_loss, softmax_focal_loss

GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]
number = st.floats(-12, 12)
gammas = st.floats(0, 5)
alphas = st.one_of(st.none(), st.floats(0, 1))
seeds = st.integers(0, 2**32 - 1)


def random_case(*shape, seed=0, scale=4.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    return logits, torch.rand(*shape, generator=generator) < 0.3


def random_rows(*shape, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, classes, generator=generator, dtype=torch.float64) * 4
    labels = torch.randint(classes, shape, generator=generator)
    return logits, labels, torch.rand(classes, generator=generator, dtype=torch.float64)


def gradients(function, x):
    """The output, and the gradient of a sum that weighs each number of it differently."""
    x = x.detach().clone().requires_grad_()
    out = function(x)
    weights = torch.arange(1, out.numel() + 1, dtype=out.dtype).reshape(out.shape).sin()
    return out.detach(), torch.autograd.grad((out * weights).sum(), x)[0]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def logit(p):
    return torch.tensor(p, dtype=torch.float64).logit()


# Parity -----------------------------------------------------------------------


@given(x=number, target=st.booleans(), alpha=alphas, gamma=gammas)
def test_sigmoid_equals_the_definition(x, target, alpha, gamma):
    """Eq. (5), one number at a time."""
    p = 1 / (1 + math.exp(-x))
    p_t = p if target else 1 - p
    weight = 1 if alpha is None else alpha if target else 1 - alpha
    expected = -weight * (1 - p_t) ** gamma * math.log(p_t)
    logits = torch.tensor(x, dtype=torch.float64)
    found = sigmoid_focal_loss(logits, torch.tensor(target), alpha, gamma)
    assert_close(float(found), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_equals_torchvision_with_gradients(alpha, gamma):
    logits, targets = random_case(30, 7)
    flag = -1 if alpha is None else alpha
    theirs = gradients(lambda x: ops.sigmoid_focal_loss(x, targets.double(), flag, gamma), logits)
    assert_same(gradients(lambda x: sigmoid_focal_loss(x, targets, alpha, gamma), logits), theirs)


def test_gamma_zero_is_cross_entropy_with_gradients():
    logits, targets = random_case(30, 7)
    assert_same(
        gradients(lambda x: sigmoid_focal_loss(x, targets, None, 0.0), logits),
        gradients(
            lambda x: F.binary_cross_entropy_with_logits(x, targets.double(), reduction="none"),
            logits,
        ),
    )
    rows, labels, weights = random_rows(40)
    assert_same(
        gradients(lambda x: softmax_focal_loss(x, labels, weights, 0.0), rows),
        gradients(lambda x: F.cross_entropy(x, labels, weights, reduction="none"), rows),
    )


@given(
    row=st.lists(number, min_size=2, max_size=5),
    label=st.integers(0, 4),
    gamma=gammas,
    weighted=st.booleans(),
)
def test_softmax_equals_the_definition(row, label, gamma, weighted):
    label %= len(row)
    terms = [math.exp(x) for x in row]
    rest = sum(e for k, e in enumerate(terms) if k != label) / sum(terms)
    weights = torch.arange(1, len(row) + 1) / 7
    w = float(weights[label]) if weighted else 1.0
    expected = -w * rest**gamma * math.log(terms[label] / sum(terms))
    found = softmax_focal_loss(
        torch.tensor(row, dtype=torch.float64),
        torch.tensor(label),
        weights.double() if weighted else None,
        gamma,
    )
    assert_close(float(found), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_classes_are_a_yes_or_no_with_gradients(gamma):
    logits, targets = random_case(40)
    alpha = torch.tensor([0.75, 0.25], dtype=torch.float64)
    ours = gradients(
        lambda x: softmax_focal_loss(
            torch.stack([torch.full_like(x, 1.5), x + 1.5], -1), targets.long(), alpha, gamma
        ),
        logits,
    )
    assert_same(ours, gradients(lambda x: sigmoid_focal_loss(x, targets, 0.25, gamma), logits))


# The paper's numbers ------------------------------------------------------------


@pytest.mark.parametrize(("p", "factor"), [(0.9, 100), (0.968, 1000), (0.5, 4)])
def test_factors_of_section_3_2(p, factor):
    focal = sigmoid_focal_loss(logit(p), torch.tensor(1), None, 2.0)
    assert -math.log(p) / float(focal) == pytest.approx(factor, rel=0.03)


@given(p=st.floats(0.01, 0.99), target=st.booleans(), gamma=gammas)
def test_gradient_of_appendix_b(p, target, gamma):
    """y (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1), y = 1 or -1."""
    x = logit(p if target else 1 - p)  # p is p_t
    _, found = gradients(lambda x: sigmoid_focal_loss(x, torch.tensor(target), None, gamma), x)
    slope = (1 - p) ** gamma * (gamma * p * math.log(p) + p - 1) * math.sin(1)
    assert_close(float(found), slope if target else -slope, rtol=1e-7, atol=1e-10)


def test_hard_examples_pull_harder_than_with_cross_entropy():
    """With gamma 2 up to p_t = 0.30, and most at 0.06: not only the easy ones change."""
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    one = torch.ones(999)
    slopes = []
    for gamma in (0.0, 2.0):
        x = p.logit().requires_grad_()
        loss = sigmoid_focal_loss(x, one, None, gamma).sum()
        slopes.append(torch.autograd.grad(loss, x)[0].abs())
    stronger = slopes[1] > slopes[0]
    assert torch.equal(stronger, p < p[stronger].max() + 1e-9)
    assert round(float(p[stronger].max()), 2) == 0.30
    assert round(float(p[slopes[1].argmax()]), 2) == 0.06
    assert round(float(slopes[1].max()), 2) == 1.13


def test_the_best_constant_answer_is_not_the_share_of_positives():
    """Cross-entropy is smallest at p = 0.1 if a tenth is positive; focal loss at 0.31."""
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    best = []
    for gamma in (0.0, 2.0):
        yes, no = (
            sigmoid_focal_loss(p.logit(), torch.full((999,), t), None, gamma) for t in (1, 0)
        )
        best.append(round(float(p[(0.1 * yes + 0.9 * no).argmin()]), 3))
    assert best[0] == 0.1
    assert best[1] == pytest.approx(0.306, abs=0.001)


@given(prior=st.floats(1e-4, 0.9999))
def test_the_bias_gives_the_prior(prior):
    assert_close(1 / (1 + math.exp(-prior_bias(prior))), prior, rtol=1e-9, atol=0)


def test_the_bias_of_retinanet():
    assert prior_bias(0.01) == pytest.approx(-4.595, abs=1e-3)


# Invariants -------------------------------------------------------------------


@given(seed=seeds, gamma=gammas, more=st.floats(0.01, 3))
def test_more_gamma_is_less_loss_and_never_negative(seed, gamma, more):
    logits, targets = random_case(20, seed=seed)
    less, much = (sigmoid_focal_loss(logits, targets, None, g) for g in (gamma + more, gamma))
    assert (less >= 0).all() and (less <= much).all()


@given(seed=seeds, gamma=gammas, alpha=st.floats(0, 1))
def test_yes_and_no_mirror_each_other(seed, gamma, alpha):
    logits, targets = random_case(20, seed=seed)
    there = sigmoid_focal_loss(logits, targets, alpha, gamma)
    back = sigmoid_focal_loss(-logits, ~targets, 1 - alpha, gamma)
    assert_close(there, back, rtol=1e-9, atol=1e-15)


@given(seed=seeds, gamma=gammas, shift=st.floats(-50, 50))
def test_softmax_sees_differences_only_and_permutes(seed, gamma, shift):
    rows, labels, weights = random_rows(6, seed=seed)
    expected = softmax_focal_loss(rows, labels, weights, gamma)
    assert_close(softmax_focal_loss(rows + shift, labels, weights, gamma), expected)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = softmax_focal_loss(rows[:, order], order.argsort()[labels], weights[order], gamma)
    assert_close(moved, expected)


def test_a_batch_equals_its_parts():
    rows, labels, weights = random_rows(2, 3)
    whole = softmax_focal_loss(rows, labels, weights)
    parts = [softmax_focal_loss(r, k, weights) for r, k in zip(rows, labels)]
    assert_close(whole, torch.stack(parts), rtol=0, atol=1e-15)
    assert whole.shape == (2, 3)


def test_weights_of_another_precision():
    rows, labels, weights = random_rows(3)
    found = softmax_focal_loss(rows.float(), labels, weights.double())
    expected = softmax_focal_loss(rows.float(), labels, weights.float())
    assert_close(found, expected, rtol=0, atol=0)


# Gradient ---------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient(gamma):
    logits, targets = random_case(3, 4)
    rows, labels, weights = random_rows(4)
    for function, x in (
        (lambda x: sigmoid_focal_loss(x, targets, 0.25, gamma), logits),
        (lambda x: softmax_focal_loss(x, labels, weights, gamma), rows),
    ):
        assert torch.autograd.gradcheck(function, [x.requires_grad_()])


# Edges ------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("x", [-1e4, -200.0, -90.0, 90.0, 200.0, 1e4])
def test_extreme_logits_stay_finite(x, gamma):
    """Below gamma 1 the power of an underflown 1 - p_t has an infinite slope elsewhere."""
    logits = torch.tensor([x, x])
    targets = torch.tensor([True, False])
    rows = torch.tensor([[x, 0.0], [x, 0.0]])
    for function, start in (
        (lambda x: sigmoid_focal_loss(x, targets, None, gamma), logits),
        (lambda x: softmax_focal_loss(x, targets.long(), None, gamma), rows),
    ):
        value, slope = gradients(function, start)
        assert value.isfinite().all() and slope.isfinite().all()
        assert_close(float(value.max()), abs(x), rtol=1e-6, atol=0)


def test_small_losses_keep_their_digits():
    """1 - p_t rounds to 0 from logits of 17 on in float32; its logarithm does not."""
    x = torch.tensor([20.0, 30.0])
    found = sigmoid_focal_loss(x, torch.ones(2), None, 2.0)
    assert_close(found, (-3 * x).exp(), rtol=1e-5, atol=0)
    rows = torch.stack([torch.zeros(2), x], -1)
    assert_close(softmax_focal_loss(rows, torch.ones(2).long()), found, rtol=1e-5, atol=0)


def test_nothing_gives_nothing():
    none = torch.zeros(0, 80, requires_grad=True)
    loss = sigmoid_focal_loss(none, torch.zeros(0, 80)).sum() / max(1, 0)
    (gradient,) = torch.autograd.grad(loss, none)
    assert loss == 0 and gradient.shape == (0, 80)
    assert softmax_focal_loss(none, torch.zeros(0, dtype=torch.int64)).shape == (0,)
    empty_image = sigmoid_focal_loss(torch.full((5, 3), -4.0), torch.zeros(5, 3))  # no object
    assert empty_image.shape == (5, 3) and (empty_image > 0).all()


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32, torch.float64], ids=str)
def test_targets_of_any_type(kind):
    logits, targets = random_case(9)
    expected = sigmoid_focal_loss(logits, targets)
    assert torch.equal(sigmoid_focal_loss(logits, targets.to(kind)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_and_returned_in_float32(dtype):
    logits, targets = random_case(50)
    logits = logits.to(dtype)
    found = sigmoid_focal_loss(logits, targets)
    assert found.dtype == torch.float32
    assert torch.equal(found, sigmoid_focal_loss(logits.float(), targets))
    rows, labels, weights = random_rows(9)
    found = softmax_focal_loss(rows.to(dtype), labels, weights.to(dtype))
    assert found.dtype == torch.float32
    assert torch.equal(found, softmax_focal_loss(rows.to(dtype).float(), labels, weights.to(dtype)))


def test_nan_stays():
    x = torch.tensor([math.nan, 1.0])
    assert sigmoid_focal_loss(x, torch.ones(2)).isnan().tolist() == [True, False]
    rows = torch.stack([x, torch.zeros(2)], -1)
    assert softmax_focal_loss(rows, torch.ones(2).long()).isnan().tolist() == [True, False]


def test_arguments_stay_as_they_are_and_need_not_be_contiguous():
    logits, targets = (x.T for x in random_case(4, 6))
    rows, labels, weights = random_rows(3, 4)
    rows, labels = rows.transpose(0, 1), labels.T
    before = [x.clone() for x in (logits, targets, rows, labels, weights)]
    found = sigmoid_focal_loss(logits, targets)
    assert torch.equal(found, sigmoid_focal_loss(logits.contiguous(), targets.contiguous()))
    found = softmax_focal_loss(rows, labels, weights)
    expected = softmax_focal_loss(rows.contiguous(), labels.contiguous(), weights)
    assert_close(found, expected, rtol=0, atol=1e-15)
    for a, b in zip(before, (logits, targets, rows, labels, weights), strict=True):
        assert torch.equal(a, b)


def test_the_defaults_are_those_of_retinanet():
    logits, targets = random_case(9)
    expected = ops.sigmoid_focal_loss(logits, targets.double())
    assert_close(sigmoid_focal_loss(logits, targets), expected)
    rows, labels, _ = random_rows(4)
    assert torch.equal(
        softmax_focal_loss(rows, labels), softmax_focal_loss(rows, labels, None, 2.0)
    )


# Bad input --------------------------------------------------------------------

ROWS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sigmoid_focal_loss(ROWS, LABELS), r"one shape .* got \(2, 3\) on cpu, \(2,\)"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS.to("meta")), r"device, got .* \(2, 3\) on meta"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS + 0.5), r"targets must be 0 or 1, got 0.5"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS * math.nan), r"targets must be 0 or 1, got nan"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS.long() - 1), r"targets must be 0 or 1, got -1"),
        (lambda: sigmoid_focal_loss(LABELS, LABELS), r"logits must be floating, got torch.int64"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS, -1), r"alpha must lie in .* got -1"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS, 1.5), r"alpha must lie in .* got 1.5"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS, 0.5, -0.1), r"gamma must be .* got -0.1"),
        (lambda: sigmoid_focal_loss(ROWS, ROWS, 0.5, math.nan), r"gamma must be .* got nan"),
        (lambda: softmax_focal_loss(ROWS, LABELS[:1]), r"labels .* got \(2, 3\), \(1,\)"),
        (lambda: softmax_focal_loss(ROWS[:, :1], LABELS * 0), r"K at least 2, .* got \(2, 1\)"),
        (lambda: softmax_focal_loss(torch.tensor(0.0), LABELS), r"must be .* got \(\), \(2,\)"),
        (lambda: softmax_focal_loss(ROWS, LABELS.float()), r"int64 on cpu, got torch.float32"),
        (lambda: softmax_focal_loss(ROWS, LABELS + 1), r"labels must lie in \[0, 3\), got 3"),
        (lambda: softmax_focal_loss(ROWS, LABELS - 1), r"labels must lie in \[0, 3\), got -1"),
        (lambda: softmax_focal_loss(ROWS.long(), LABELS), r"logits must be floating, got torch.i"),
        (
            lambda: softmax_focal_loss(ROWS, LABELS, torch.ones(2)),
            r"must be \(3,\) on cpu, got \(2,\)",
        ),
        (lambda: softmax_focal_loss(ROWS, LABELS, None, -1.0), r"gamma must be .* got -1.0"),
        (lambda: prior_bias(0.0), r"prior must lie between 0 and 1, got 0.0"),
        (lambda: prior_bias(1.0), r"prior must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_weights_of_classes(bad):
    with pytest.raises(ValueError, match=f"weights must be finite and not negative, got {bad}"):
        softmax_focal_loss(torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([1.0, bad, 1.0]))
