"""Resampling: interpolation, adjoints and shuffles against torch; shares and counts of classes.

Yardstick: torch.nn.functional.interpolate; plain loops.
"""

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.data import DataLoader

from snippets.concepts.resampling import (
    BalancedSampler,
    adjoint,
    antialias_weights,
    class_shares,
    correct_prior,
    example_probs,
    linear_weights,
    nearest_index,
    pixel_shuffle,
    pixel_unshuffle,
    resample_classes,
    resize,
    source_positions,
    transposed_conv2d,
)

lengths = st.integers(1, 13)
seeds = st.integers(0, 2**32 - 1)
label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=30)
TIGHT = dict(rtol=1e-10, atol=1e-10)
SIZES = [(1, 1), (7, 9), (14, 18), (13, 20), (3, 4), (2, 19), (21, 5), (6, 8)]  # from (7, 9)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def same_with_gradients(ours, theirs, *inputs):
    """Outputs agree, and so do the gradients of a random combination of them."""
    results = []
    for function in (ours, theirs):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        gradients = torch.autograd.grad((out * random(*out.shape, seed=1)).sum(), leaves)
        results.append((out.detach(), *gradients))
    for a, b in zip(*results, strict=True):
        assert_close(a, b, **TIGHT)


def matrix(index, weights, size):
    """The rows of weights as a full matrix, (O, N)."""
    return torch.zeros(len(index), size, dtype=torch.float64).scatter_add(1, index, weights)


# Interpolation: parity ----------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
def test_bilinear_equals_pytorch(size, align_corners):
    same_with_gradients(
        lambda x: resize(x, size, align_corners=align_corners),
        lambda x: F.interpolate(x, size, mode="bilinear", align_corners=align_corners),
        random(2, 3, 7, 9),
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_antialias_equals_pytorch(size):
    same_with_gradients(
        lambda x: resize(x, size, antialias=True),
        lambda x: F.interpolate(x, size, mode="bilinear", antialias=True),
        random(2, 3, 7, 9),
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_equals_pytorch(size, mode):
    same_with_gradients(
        lambda x: resize(x, size, mode),
        lambda x: F.interpolate(x, size, mode=mode),
        random(2, 3, 7, 9),
    )


def test_nearest_index_equals_pytorch_for_all_small_sizes():
    for n, o in itertools.product(range(1, 25), repeat=2):
        x = torch.arange(n, dtype=torch.float64)[None, None]
        for mode in ("nearest", "nearest-exact"):
            expected = F.interpolate(x, o, mode=mode)[0, 0].long()
            assert torch.equal(nearest_index(n, o, mode == "nearest-exact"), expected), (n, o, mode)


@given(n=lengths, o=lengths, align_corners=st.booleans())
def test_linear_weights_equal_pytorch_as_a_matrix(n, o, align_corners):
    x = torch.eye(n, dtype=torch.float64)[None]  # one channel for each input position
    expected = F.interpolate(x, o, mode="linear", align_corners=align_corners)[0].T  # (o, n)
    assert_close(matrix(*linear_weights(n, o, align_corners), n), expected, **TIGHT)


@given(n=lengths, o=lengths)
def test_positions_in_exact_fractions(n, o):
    half = [(Fraction(2 * i + 1, 2)) * Fraction(n, o) - Fraction(1, 2) for i in range(o)]
    corner = [Fraction(i * (n - 1), max(o - 1, 1)) for i in range(o)]
    for align_corners, expected in ((False, half), (True, corner)):
        got = source_positions(n, o, align_corners)
        assert got.dtype == torch.float64
        assert got.tolist() == pytest.approx([float(s) for s in expected], abs=1e-12)
    exact = [min(math.floor(s + Fraction(1, 2)), n - 1) for s in half]  # the nearest centre
    assert nearest_index(n, o, exact=True).tolist() == exact
    assert nearest_index(n, o).tolist() == [math.floor(Fraction(i * n, o)) for i in range(o)]


def test_a_scale_factor_is_not_a_size():
    """PyTorch maps by the factor as given, unless told to recompute it from the sizes."""
    x = torch.arange(5, dtype=torch.float64)[:, None].expand(1, 1, 5, 1)
    ours = resize(x, (7, 1))
    given_factor, recomputed = (
        F.interpolate(x, scale_factor=(1.5, 1), mode="bilinear", recompute_scale_factor=again)
        for again in (False, True)
    )
    assert_close(ours, recomputed, **TIGHT)
    assert_close(given_factor[0, 0, -1, 0].item(), 6.5 / 1.5 - 0.5, **TIGHT)
    assert ours[0, 0, -1, 0] == 4


# Interpolation: invariants ------------------------------------------------------


@given(n=lengths, o=lengths)
def test_weights_are_averages_inside_the_input(n, o):
    for index, weights in (
        linear_weights(n, o),
        linear_weights(n, o, align_corners=True),
        antialias_weights(n, o),
    ):
        assert index.dtype == torch.int64 and weights.dtype == torch.float64
        assert index.shape == weights.shape and len(index) == o
        assert ((index >= 0) & (index < n)).all()
        assert (weights >= 0).all()
        assert_close(weights.sum(-1), torch.ones(o, dtype=torch.float64), **TIGHT)


@given(n=lengths, o=lengths)
def test_antialias_differs_only_downwards(n, o):
    wide, plain = (matrix(*w, n) for w in (antialias_weights(n, o), linear_weights(n, o)))
    if o >= n:
        assert_close(wide, plain, **TIGHT)
    elif o > 1:
        assert ((wide > 0).sum(1) >= (plain > 0).sum(1)).all()


@given(n=lengths, o=lengths, align_corners=st.booleans())
def test_mirror_image(n, o, align_corners):
    """Both conventions, and the filter, are symmetric: flipping before is flipping after."""
    assume(o > 1 or not align_corners)  # a single output takes the first corner
    for w in (linear_weights(n, o, align_corners), antialias_weights(n, o)):
        m = matrix(*w, n)
        assert_close(m.flip(0, 1), m, **TIGHT)


@given(n=st.integers(2, 13), o=st.integers(2, 13))
def test_lines_stay_lines_where_positions_lie_inside(n, o):
    ramp = torch.arange(n, dtype=torch.float64)
    corners = matrix(*linear_weights(n, o, True), n) @ ramp
    assert_close(corners, torch.linspace(0, n - 1, o, dtype=torch.float64), **TIGHT)
    expected = source_positions(n, o).clamp(0, n - 1)
    assert_close(matrix(*linear_weights(n, o), n) @ ramp, expected, **TIGHT)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear"])
def test_same_size_and_batched_equals_single(mode):
    x = random(2, 3, 5, 4)
    assert torch.equal(resize(x, (5, 4), mode), x)
    out = resize(x, (8, 3), mode)
    assert out.shape == (2, 3, 8, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(out[i, j], resize(x[i, j], (8, 3), mode))


def test_nearest_keeps_labels():
    mask = torch.tensor([[0, 7], [255, 3]], dtype=torch.uint8)
    for mode in ("nearest", "nearest-exact"):
        out = resize(mask, (5, 3), mode)
        assert out.dtype == torch.uint8 and set(out.flatten().tolist()) <= {0, 7, 255, 3}


def test_halving_by_bilinear_is_the_average_of_four():
    x = random(1, 2, 6, 8)
    assert_close(resize(x, (3, 4)), F.avg_pool2d(x, 2), **TIGHT)


def test_a_quarter_without_antialias_reads_two_of_four():
    assert linear_weights(8, 2)[0].tolist() == [[1, 2], [5, 6]]
    assert (matrix(*antialias_weights(8, 2), 8) > 0).sum(1).tolist() == [6, 6]


# Adjoints ---------------------------------------------------------------------


CONVS = [
    # size of x, kernel, stride, padding, dilation
    ((8, 8), (3, 3), 2, 1, 1),
    ((7, 8), (3, 3), 2, 1, 1),
    ((9, 7), (4, 4), 2, 1, 1),
    ((7, 9), (3, 2), 3, 0, 1),
    ((9, 10), (3, 3), 1, 2, 2),
    ((11, 12), (2, 3), 3, 1, 2),
    ((5, 4), (1, 1), 2, 0, 1),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), CONVS, ids=str)
def test_transposed_convolution_equals_pytorch(size, kernel, stride, padding, dilation):
    weight = random(4, 3, *kernel, seed=2)
    settings = dict(stride=stride, padding=padding, dilation=dilation)
    y = random(*F.conv2d(random(2, 3, *size), weight, **settings).shape, seed=3)
    least = F.conv_transpose2d(y, weight, **settings).shape[2:]
    extra = [n - m for n, m in zip(size, least)]
    same_with_gradients(
        lambda y, w: transposed_conv2d(y, w, size, **settings),
        lambda y, w: F.conv_transpose2d(y, w, output_padding=extra, **settings),
        y,
        weight,
    )


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), CONVS, ids=str)
def test_adjoint_identity_of_convolution(size, kernel, stride, padding, dilation):
    x, weight = random(2, 3, *size), random(4, 3, *kernel, seed=2)
    settings = dict(stride=stride, padding=padding, dilation=dilation)
    ax = F.conv2d(x, weight, **settings)
    y = random(*ax.shape, seed=3)
    back = transposed_conv2d(y, weight, size, **settings)
    assert back.shape == x.shape
    assert_close((ax * y).sum(), (x * back).sum(), **TIGHT)


@pytest.mark.parametrize("size", [(14, 18), (3, 4), (5, 11)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [dict(), dict(align_corners=True), dict(antialias=True), dict(mode="nearest")],
    ids=str,
)
def test_adjoint_identity_of_interpolation(size, settings):
    x, y = random(2, 7, 9), random(2, *size, seed=1)
    back = adjoint(lambda x: resize(x, size, **settings), x, y)
    assert_close((resize(x, size, **settings) * y).sum(), (x * back).sum(), **TIGHT)


def test_adjoint_is_the_transposed_matrix_and_ignores_the_values_of_x():
    a, y = random(4, 6), random(4, seed=1)
    for x in (random(6, seed=2), torch.full((6,), torch.nan, dtype=torch.float64)):
        copy = x.clone()
        assert_close(adjoint(lambda x: a @ x, x, y), a.T @ y, **TIGHT)
        assert torch.equal(x.nan_to_num(), copy.nan_to_num())


def test_adjoint_of_nearest_doubling_is_the_sum_of_blocks_and_of_average_pooling_a_spread():
    y = random(1, 1, 6, 8)
    sums = adjoint(lambda x: resize(x, (6, 8), "nearest"), y.new_zeros(1, 1, 3, 4), y)
    assert_close(sums, 4 * F.avg_pool2d(y, 2), **TIGHT)
    spread = adjoint(lambda x: F.avg_pool2d(x, 2), y.new_zeros(1, 1, 12, 16), y)
    assert_close(spread, resize(y, (12, 16), "nearest") / 4, **TIGHT)


def test_transposed_is_not_inverse():
    x, weight = random(1, 1, 8, 8), random(1, 1, 3, 3, seed=1)
    y = F.conv2d(x, weight, padding=1)
    assert not torch.allclose(transposed_conv2d(y, weight, (8, 8), padding=1), x)


@pytest.mark.parametrize(("kernel", "even"), [(3, False), (4, True), (5, False), (6, True)])
def test_checkerboard_of_overlaps(kernel, even):
    """A constant input and equal weights: flat inside only if the stride divides the kernel."""
    y = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    weight = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
    size = (8 * 2 + kernel,) * 2
    inside = transposed_conv2d(y, weight, size, stride=2)[0, 0, kernel:-kernel, kernel:-kernel]
    assert (inside.unique().numel() == 1) is even
    if kernel == 3:
        assert inside[:2, :2].sort().values.unique().tolist() == [1, 2, 4]


# Pixel shuffle ------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
def test_shuffles_equal_pytorch(factor, lead):
    small = random(*lead, 2 * factor**2, 4, 5)
    big = random(*lead, 2, 4 * factor, 5 * factor)
    same_with_gradients(
        lambda x: pixel_shuffle(x, factor), lambda x: F.pixel_shuffle(x, factor), small
    )
    same_with_gradients(
        lambda x: pixel_unshuffle(x, factor), lambda x: F.pixel_unshuffle(x, factor), big
    )
    assert torch.equal(pixel_unshuffle(pixel_shuffle(small, factor), factor), small)
    assert torch.equal(pixel_shuffle(pixel_unshuffle(big, factor), factor), big)


def test_unshuffle_is_the_adjoint_of_shuffle():
    x, y = random(1, 8, 3, 4), random(1, 2, 6, 8, seed=1)
    assert torch.equal(adjoint(lambda x: pixel_shuffle(x, 2), x, y), pixel_unshuffle(y, 2))


# Classes ------------------------------------------------------------------------


@given(labels=label_lists, power=st.floats(-1, 2))
def test_shares_by_counting(labels, power):
    shares = class_shares(torch.tensor(labels), power)
    raised = {c: n**power for c, n in Counter(labels).items()}
    expected = [raised.get(c, 0) / sum(raised.values()) for c in range(max(labels) + 1)]
    assert shares.dtype == torch.float64
    assert shares.tolist() == pytest.approx(expected, rel=1e-10)


@given(labels=label_lists, power=st.sampled_from([0.0, 0.5, 1.0]))
def test_probabilities_add_up_to_the_share_of_each_class_and_are_equal_within(labels, power):
    labels = torch.tensor(labels)
    shares = class_shares(labels, power)
    probs = example_probs(labels, shares)
    sums = torch.zeros_like(shares).index_add(0, labels, probs)
    assert_close(sums, shares, **TIGHT)
    for c in labels.unique():
        assert probs[labels == c].unique().numel() == 1


def test_expected_loss_is_the_weighted_loss():
    """E over the sampler = sum of w_i l_i: what a class-weighted mean computes."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    logits = random(10, 3)
    losses = F.cross_entropy(logits, labels, reduction="none")
    expected = (example_probs(labels, class_shares(labels)) * losses).sum()
    weight = 1 / labels.bincount().double()
    assert_close(expected, F.cross_entropy(logits, labels, weight=weight), **TIGHT)


def test_sampler_inverts_the_cumulative_distribution():
    """The same uniform numbers, the intervals by a loop."""
    probs = torch.tensor([0.0, 2.0, 0.0, 1.0, 3.0, 0.0], dtype=torch.float64)
    drawn = list(BalancedSampler(probs, 200, torch.Generator().manual_seed(5)))
    u = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).tolist()
    expected = [1 if 6 * v < 2 else 3 if 6 * v < 3 else 4 for v in u]
    assert drawn == expected


def test_sampler_never_draws_a_zero_even_on_a_border(monkeypatch):
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)  # the last is the largest
    monkeypatch.setattr(torch, "rand", lambda *_, **__: u)
    assert list(BalancedSampler(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), 3)) == [1, 3, 3]
    assert list(BalancedSampler(torch.tensor([0.0, 0.3, 0.0, 0.3, 0.0]), 3)) == [1, 3, 3]


def test_sampler_keeps_weights_too_small_for_float32(monkeypatch):
    u = torch.tensor([1 + 5e-10], dtype=torch.float64) / (2 + 1e-9)  # amid the small weight
    monkeypatch.setattr(torch, "rand", lambda *_, **__: u)
    assert list(BalancedSampler(torch.tensor([1.0, 1e-9, 1.0]), 1)) == [1]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_sampler_draws_in_proportion(power):
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    probs = example_probs(labels, class_shares(labels, power))
    n = 40_000
    drawn = list(BalancedSampler(probs, n, torch.Generator().manual_seed(0)))
    counts = torch.tensor(drawn).bincount(minlength=100).double()
    chi_square = ((counts - n * probs).square() / (n * probs)).sum()
    assert chi_square < 150  # 99 degrees of freedom: exceeded once in 1400


def test_sampler_epochs_generator_and_loader():
    probs = torch.ones(20)
    one = BalancedSampler(probs, generator=torch.Generator().manual_seed(1))
    two = BalancedSampler(probs, generator=torch.Generator().manual_seed(1))
    first, second = list(one), list(one)
    assert len(one) == len(first) == 20 and first != second
    assert [list(two), list(two)] == [first, second]
    before = torch.get_rng_state()
    list(one)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    loader = DataLoader(torch.arange(20), batch_size=5, sampler=two)
    assert sorted(torch.cat(list(loader)).unique().tolist())[-1] < 20
    assert len(list(loader)) == 4
    assert list(BalancedSampler(probs, 0)) == []


@given(labels=label_lists, per_class=st.integers(0, 12), seed=seeds)
def test_resampled_classes_are_equal_and_every_example_about_as_often(labels, per_class, seed):
    labels = torch.tensor(labels)
    chosen = resample_classes(labels, per_class, torch.Generator().manual_seed(seed))
    counts = Counter(labels[chosen].tolist())
    assert all(counts[c] == per_class for c in labels.unique().tolist())
    assert len(chosen) == per_class * labels.unique().numel()
    for c in labels.unique():
        members = (labels == c).nonzero()[:, 0].tolist()
        times = [(chosen == m).sum().item() for m in members]
        assert max(times) - min(times) <= 1 and sum(times) == per_class


def test_over_and_undersampling():
    labels = torch.tensor([0] * 7 + [1] * 3)
    over = resample_classes(labels, 7, torch.Generator().manual_seed(0))
    assert set(over.tolist()) == set(range(10)) and len(over) == 14
    under = resample_classes(labels, 3, torch.Generator().manual_seed(0))
    assert len(set(under.tolist())) == 6
    again = resample_classes(labels, 3, torch.Generator().manual_seed(0))
    assert torch.equal(under, again)
    assert labels[over].tolist() != sorted(labels[over].tolist())  # shuffled across classes


def test_undersampling_leaves_every_example_the_same_chance():
    labels = torch.tensor([0] * 6 + [1] * 2)
    generator = torch.Generator().manual_seed(0)
    times = torch.zeros(8)
    for _ in range(1200):
        times[resample_classes(labels, 2, generator)] += 1
    assert (times[6:] == 1200).all()
    assert (times[:6] / 1200 - 1 / 3).abs().max() < 0.06  # 4.4 standard errors


# Prior correction -----------------------------------------------------------------


@given(seed=seeds)
def test_corrected_posterior_is_that_of_the_other_prior(seed):
    """From a joint table: classes 3, inputs 5. Bayes' rule with either prior, exactly."""
    generator = torch.Generator().manual_seed(seed)
    likelihood = torch.rand(5, 3, dtype=torch.float64, generator=generator) + 0.01
    priors = torch.rand(2, 3, dtype=torch.float64, generator=generator) + 0.01
    trained, target = priors / priors.sum(1, keepdim=True)
    posterior, expected = (
        (likelihood * p) / (likelihood * p).sum(1, keepdim=True) for p in (trained, target)
    )
    corrected = correct_prior(posterior.log(), trained, target).softmax(-1)
    assert_close(corrected, expected, **TIGHT)
    there_and_back = correct_prior(correct_prior(posterior.log(), trained, target), target, trained)
    assert_close(there_and_back, posterior.log(), **TIGHT)


def test_prior_correction_in_numbers():
    """Balanced training says 0.8; with 1 in 100 positive the odds 4 become 4 / 99."""
    logits = torch.tensor([0.2, 0.8], dtype=torch.float64).log()
    out = correct_prior(logits, torch.tensor([0.5, 0.5]), torch.tensor([0.99, 0.01]).double())
    assert out.dtype == torch.float64
    assert_close(out.softmax(-1)[1].item(), 4 / 103, rtol=1e-6, atol=0)
    ruled_out = correct_prior(logits, torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    assert ruled_out.softmax(-1).tolist() == [1, 0]


# Gradients ----------------------------------------------------------------------


def test_gradients():
    x = random(1, 2, 4, 5).requires_grad_()
    for settings in (dict(), dict(align_corners=True), dict(antialias=True), dict(mode="nearest")):
        assert torch.autograd.gradcheck(lambda x: resize(x, (3, 7), **settings), x)  # noqa: B023
    y, weight = random(1, 2, 2, 2).requires_grad_(), random(2, 1, 3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y, w: transposed_conv2d(y, w, (4, 3), stride=2, padding=1), (y, weight)
    )
    big = random(1, 4, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pixel_shuffle(x, 2), big)
    logits = random(2, 3).requires_grad_()
    prior = torch.tensor([0.2, 0.3, 0.5]).double()
    assert torch.autograd.gradcheck(lambda z: correct_prior(z, prior, prior.flip(0)), logits)


def test_transposed_convolution_without_gradients():
    y, weight = random(1, 2, 4, 4), random(2, 1, 3, 3, seed=1)
    out = transposed_conv2d(y, weight, (8, 8), stride=2, padding=1)
    assert not out.requires_grad
    with torch.no_grad():
        inside = transposed_conv2d(y, weight.requires_grad_(), (8, 8), stride=2, padding=1)
    assert not inside.requires_grad and torch.equal(out, inside)


# Edges --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    x = random(1, 2, 7, 9).to(dtype)
    tolerance = dict(rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)
    for settings in (dict(), dict(align_corners=True), dict(antialias=True)):
        out = resize(x, (3, 20), **settings)
        assert out.dtype == dtype
        assert_close(out, resize(x.double(), (3, 20), **settings).to(dtype), **tolerance)
    assert resize(x, (3, 20), "nearest").dtype == dtype
    y, weight = random(1, 2, 4, 4).to(dtype), random(2, 1, 3, 3).to(dtype)
    assert transposed_conv2d(y, weight, (9, 9), stride=2).dtype == dtype
    logits, prior = random(2, 3).to(dtype), torch.full((3,), 1 / 3)
    assert correct_prior(logits, prior, prior).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_rounded_once(dtype):
    x = torch.rand(1, 3, 400, dtype=torch.float64).to(dtype)
    exact = resize(x.double(), (2, 7), antialias=True)
    out = resize(x, (2, 7), antialias=True).double()
    assert_close(out, exact, rtol=0.51 * torch.finfo(dtype).eps, atol=0)


def test_non_contiguous_and_unchanged():
    x = random(9, 7, 2, 1).permute(3, 2, 1, 0)  # (1, 2, 7, 9)
    copy = x.clone()
    assert not x.is_contiguous()
    for settings in (dict(), dict(antialias=True), dict(mode="nearest")):
        assert_close(resize(x, (4, 12), **settings), resize(x.contiguous(), (4, 12), **settings))
    shuffled = random(3, 2, 4, 1).permute(3, 2, 1, 0)
    assert torch.equal(pixel_shuffle(shuffled, 2), F.pixel_shuffle(shuffled.contiguous(), 2))
    y = random(4, 4, 2, 1).permute(3, 2, 1, 0)
    weight = random(3, 3, 1, 2).permute(3, 2, 1, 0)
    assert_close(
        transposed_conv2d(y, weight, (9, 9), stride=2), F.conv_transpose2d(y, weight, stride=2)
    )
    assert torch.equal(x, copy)


def test_empty_batch():
    empty = torch.zeros(0, 3, 4, 5)
    assert resize(empty, (2, 9)).shape == resize(empty, (2, 9), "nearest").shape == (0, 3, 2, 9)
    assert pixel_unshuffle(torch.zeros(0, 3, 4, 6), 2).shape == (0, 12, 2, 3)
    assert pixel_shuffle(torch.zeros(0, 12, 2, 3), 2).shape == (0, 3, 4, 6)
    assert transposed_conv2d(torch.zeros(0, 2, 4, 4), torch.ones(2, 1, 3, 3), (6, 6)).shape == (
        (0, 1, 6, 6)
    )


def test_absent_classes():
    labels = torch.tensor([3, 3, 1])
    for power in (-1.0, 0.0, 0.5):
        shares = class_shares(labels, power)
        assert shares[0] == shares[2] == 0 and shares.isfinite().all()
    assert class_shares(labels).tolist() == [0, 0.5, 0, 0.5]
    longer = torch.tensor([0, 0.5, 0, 0.5, 0])
    assert example_probs(labels, longer).tolist() == [0.25, 0.25, 0.5]
    assert len(resample_classes(labels, 2)) == 4


# Bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: source_positions(0, 3), "at least 1, got 0 and 3"),
        (lambda: nearest_index(3, 0), "at least 1, got 3 and 0"),
        (lambda: linear_weights(3, -1), "at least 1, got 3 and -1"),
        (lambda: antialias_weights(0, 1), "at least 1, got 0 and 1"),
        (lambda: resize(torch.zeros(3), (1, 1)), r"\(\.\.\., H, W\), got \(3,\)"),
        (lambda: resize(torch.zeros(3, 3), (1, 1), "bicubic"), "bilinear, got 'bicubic'"),
        (
            lambda: resize(torch.zeros(3, 3), (1, 1), "nearest", align_corners=True),
            "for bilinear, got mode 'nearest'",
        ),
        (
            lambda: resize(torch.zeros(3, 3), (1, 1), "nearest-exact", antialias=True),
            "for bilinear, got mode 'nearest-exact'",
        ),
        (
            lambda: resize(torch.zeros(3, 3), (1, 1), align_corners=True, antialias=True),
            "align_corners=False, got True",
        ),
        (lambda: resize(torch.zeros(0, 3), (1, 1)), "at least 1, got 0 and 1"),
        (
            lambda: transposed_conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3), (6, 6)),
            r"got \(1, 3, 4, 4\) and \(2, 3, 3, 3\)",
        ),
        (
            lambda: transposed_conv2d(torch.zeros(1, 2, 4, 4), torch.zeros(2, 3, 3, 3), (7, 6)),
            r"size \(7, 6\) to \(5, 4\), but y has \(4, 4\)",
        ),
        (
            lambda: transposed_conv2d(torch.zeros(1, 2, 4, 4), torch.zeros(2, 3, 3, 3), (6, 6), 0),
            "got 0, 1 and 0",
        ),
        (lambda: pixel_shuffle(torch.zeros(1, 6, 2, 2), 2), r"got \(1, 6, 2, 2\) and 2"),
        (lambda: pixel_shuffle(torch.zeros(2, 2), 1), r"got \(2, 2\) and 1"),
        (lambda: pixel_unshuffle(torch.zeros(1, 6, 4, 3), 2), r"got \(1, 6, 4, 3\) and 2"),
        (lambda: pixel_unshuffle(torch.zeros(1, 6, 4, 4), 0), r"got \(1, 6, 4, 4\) and 0"),
        (lambda: class_shares(torch.zeros(0, dtype=torch.int64)), r"not empty, got \(0,\)"),
        (lambda: class_shares(torch.tensor([0, -3])), "not be negative, got -3"),
        (lambda: example_probs(torch.tensor([0, 2]), torch.ones(2) / 2), r"be \(3,\), got \(2,\)"),
        (
            lambda: example_probs(torch.tensor([0, 1]), torch.tensor([0.5, 0.25])),
            r"sum to 1, got \[0.5, 0.25\]",
        ),
        (
            lambda: example_probs(torch.tensor([0, 1]), torch.tensor([1.5, -0.5])),
            r"not be negative and sum to 1, got \[1.5, -0.5\]",
        ),
        (
            lambda: example_probs(torch.tensor([0, 2]), torch.tensor([0.5, 0.25, 0.25])),
            "no examples of class 1",
        ),
        (lambda: BalancedSampler(torch.ones(2, 2)), r"not empty, got \(2, 2\)"),
        (lambda: BalancedSampler(torch.tensor([1.0, -2.0])), "got minimum -2.0"),
        (lambda: BalancedSampler(torch.zeros(3)), "sum 0.0"),
        (lambda: BalancedSampler(torch.tensor([1.0, torch.nan])), "sum nan"),
        (lambda: BalancedSampler(torch.ones(3), -1), "not be negative, got -1"),
        (lambda: resample_classes(torch.tensor([0]), -2), "not be negative, got -2"),
        (
            lambda: correct_prior(torch.zeros(2, 3), torch.ones(2) / 2, torch.ones(2) / 2),
            r"got \[\(2, 3\), \(2,\), \(2,\)\]",
        ),
        (
            lambda: correct_prior(torch.zeros(2), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1])),
            r"target must .* got \[1.0, 1.0\]",
        ),
        (
            lambda: correct_prior(torch.zeros(2), torch.tensor([1.0, 0]), torch.tensor([0.5, 0.5])),
            r"occur in training, got \[1.0, 0.0\]",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_dtypes():
    with pytest.raises(TypeError, match="floating point x, got torch.int64"):
        resize(torch.ones(3, 3, dtype=torch.int64), (2, 2))
    with pytest.raises(TypeError, match="int64, got torch.float32"):
        class_shares(torch.ones(3))
