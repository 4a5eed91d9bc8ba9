"""Spatial pyramid pooling: parity, bins, SPP against SPPF, gradient, edges, bad input.

Yardstick: torch.nn.functional.adaptive_max_pool2d; scipy.ndimage.maximum_filter; plain loops.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from snippets.convolution.spatial_pyramid_pooling import (
    SPPBlock,
    bin_ranges,
    max_comparisons,
    pool_cascade,
    pool_parallel,
    sliding_windows,
    spatial_pyramid_pool,
)

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 12)
odd = st.sampled_from([1, 3, 5, 7])
LEVELS = [(6, 3, 2, 1), (1,), (4, 4), (5, 7)]


def random_maps(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def run_with_gradients(function, tensors):
    """The output, and the gradients of a fixed random functional of it."""
    tensors = [x.detach().requires_grad_() for x in tensors]
    out = function(*tensors)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return [out, *torch.autograd.grad(out, tensors, probe)]


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def by_pytorch(x, levels):
    return torch.cat([F.adaptive_max_pool2d(x, n).flatten(1) for n in levels], dim=1)


def largest_around(x, kernel):
    """Maximum over windows of kernel x kernel, by sliding windows over the padded map."""
    r = kernel // 2
    padded = F.pad(x, (r, r, r, r), value=-torch.inf)
    return padded.unfold(2, kernel, 1).unfold(3, kernel, 1).flatten(-2).max(-1).values


# Parity: SPP-net --------------------------------------------------------------


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@given(h=sides, w=sides, seed=seeds)
@settings(max_examples=8)
def test_equals_adaptive_max_pooling(levels, h, w, seed):
    x = random_maps(2, 3, h, w, seed=seed)
    actual = run_with_gradients(lambda x: spatial_pyramid_pool(x, levels), [x])
    expected = run_with_gradients(lambda x: by_pytorch(x, levels), [x])
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-12)


@given(h=sides, w=sides, seed=seeds)
@settings(max_examples=8)
def test_ties_go_to_the_first_cell_as_in_pytorch(h, w, seed):
    x = torch.randint(3, (1, 2, h, w), generator=torch.Generator().manual_seed(seed)).double()
    actual = run_with_gradients(lambda x: spatial_pyramid_pool(x, (3, 2)), [x])
    assert_all_close(actual, run_with_gradients(lambda x: by_pytorch(x, (3, 2)), [x]))


@given(h=sides, w=sides, n=st.integers(1, 6), seed=seeds)
@settings(max_examples=8)
def test_equals_the_definition(h, w, n, seed):
    """Bin (i, j) holds the cells that the rectangle of exact fractions touches."""
    x = random_maps(1, 1, h, w, seed=seed)
    out = spatial_pyramid_pool(x, [n]).reshape(n, n)
    for i, j in np.ndindex(n, n):
        top, bottom = Fraction(i * h, n), Fraction((i + 1) * h, n)
        left, right = Fraction(j * w, n), Fraction((j + 1) * w, n)
        cells = [
            x[0, 0, a, b].item()
            for a, b in np.ndindex(h, w)
            if a < bottom and a + 1 > top and b < right and b + 1 > left
        ]
        assert out[i, j].item() == max(cells)


# Bins -------------------------------------------------------------------------


@given(size=st.integers(1, 60), bins=st.integers(1, 20))
def test_bins(size, bins):
    ranges = bin_ranges(size, bins)
    assert len(ranges) == bins and ranges[0][0] == 0 and ranges[-1][1] == size
    assert {c for start, end in ranges for c in range(start, end)} == set(range(size))
    assert all(end > start for start, end in ranges)
    if size >= bins:
        for (_, end), (start, _) in itertools.pairwise(ranges):
            assert end - start in (0, 1)
    widths = [end - start for start, end in ranges]
    assert min(widths) >= math.ceil(size / bins) - (size % bins > 0)
    assert max(widths) <= math.ceil(size / bins) + 1
    assert ranges == [(size - end, size - start) for start, end in reversed(ranges)]  # symmetric


@given(size=st.integers(1, 60), bins=st.integers(1, 20))
def test_sliding_windows_are_those_of_max_pooling(size, bins):
    if size < bins:
        with pytest.raises(ValueError, match=f"{size} cells for {bins} bins"):
            sliding_windows(size, bins)
        return
    windows = sliding_windows(size, bins)
    kernel, stride = math.ceil(size / bins), size // bins
    x = torch.arange(float(size))[None, None]
    last = F.max_pool1d(x, kernel, stride)[0, 0].tolist()
    first = (-F.max_pool1d(-x, kernel, stride))[0, 0].tolist()
    assert windows == [(int(a), int(b) + 1) for a, b in zip(first, last)]
    # what the page says: the number is right as long as the remainder is at most the quotient,
    quotient, rest = divmod(size, bins)
    assert (len(windows) == bins) == (rest <= quotient)
    # and the first `bins` of them leave out the last rest - 1 cells
    assert size - windows[bins - 1][1] == max(rest - 1, 0)
    assert (windows == bin_ranges(size, bins)) == (rest <= 1)


def test_known_bins():
    assert bin_ranges(13, 3) == [(0, 5), (4, 9), (8, 13)]
    assert sliding_windows(13, 3) == [(0, 5), (4, 9), (8, 13)]
    assert bin_ranges(13, 6) == [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11), (10, 13)]
    assert sliding_windows(13, 6) == bin_ranges(13, 6)
    assert bin_ranges(10, 6) == [(0, 2), (1, 4), (3, 5), (5, 7), (6, 9), (8, 10)]
    assert len(sliding_windows(10, 6)) == 9
    assert bin_ranges(2, 3) == [(0, 1), (0, 2), (1, 2)]


# Parity: SPP and SPPF ---------------------------------------------------------


@pytest.mark.parametrize("kernels", [(5, 9, 13), (3,), (1, 7)], ids=str)
@pytest.mark.parametrize(("h", "w"), [(20, 20), (4, 9), (1, 1)])
def test_parallel_equals_scipys_filter(kernels, h, w):
    x = random_maps(2, 3, h, w)
    filtered = [
        torch.from_numpy(
            maximum_filter(x.numpy(), size=(1, 1, k, k), mode="constant", cval=-np.inf)
        )
        for k in kernels
    ]
    assert torch.equal(pool_parallel(x, kernels), torch.cat([x, *filtered], 1))
    actual = run_with_gradients(lambda x: pool_parallel(x, kernels), [x])
    expected = run_with_gradients(
        lambda x: torch.cat([x, *(largest_around(x, k) for k in kernels)], 1), [x]
    )
    assert_all_close(actual, expected)


@settings(max_examples=25)
@given(h=sides, w=sides, k=odd, times=st.integers(0, 4), seed=seeds)
def test_cascade_equals_parallel(h, w, k, times, seed):
    """Bit by bit; all numbers differ, so the gradients agree as well, up to rounding."""
    order = torch.randperm(2 * h * w, generator=torch.Generator().manual_seed(seed))
    x = (order.double() - h * w).reshape(1, 2, h, w)  # negative ones, too: zeros must not win
    kernels = [j * (k - 1) + 1 for j in range(1, times + 1)]
    cascade = run_with_gradients(lambda x: pool_cascade(x, k, times), [x])
    parallel = run_with_gradients(lambda x: pool_parallel(x, kernels), [x])
    assert torch.equal(cascade[0], parallel[0])
    assert_all_close(cascade, parallel)


@given(h=sides, w=sides, seed=seeds)
@settings(max_examples=8)
def test_cascade_equals_parallel_with_ties(h, w, seed):
    """Outputs are equal; gradients may go to different cells, but to cells of equal value."""
    x = torch.randint(3, (1, 1, h, w), generator=torch.Generator().manual_seed(seed)).double()
    cascade = run_with_gradients(pool_cascade, [x])
    parallel = run_with_gradients(pool_parallel, [x])
    assert torch.equal(cascade[0], parallel[0])
    for value in range(3):
        shares = [g[x == value].sum() for g in (cascade[1], parallel[1])]
        assert_all_close(shares[:1], shares[1:])


def test_gradients_may_differ_where_numbers_are_equal():
    """The direct way takes the first maximum; the cascade takes the first way to a maximum."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 0, 8] = x[0, 0, 1, 0] = 1
    x.requires_grad_()
    for pool, cell in ((pool_parallel, (0, 8)), (pool_cascade, (1, 0))):
        gradient = torch.autograd.grad(pool(x)[0, 2, 4, 4], x)[0]  # channel 2: windows of 9 x 9
        assert gradient.nonzero().tolist() == [[0, 0, *cell]]


def test_zero_padding_would_break_it():
    """Padding must not win: PyTorch pads with minus infinity."""
    x = -torch.ones(1, 1, 5, 5)
    assert (pool_parallel(x) == -1).all() and (pool_cascade(x) == -1).all()


@pytest.mark.parametrize("cascade", [True, False], ids=["cascade", "parallel"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_block_equals_its_formula(cascade, training):
    block = random_block(cascade).train(training)
    x = random_maps(2, 6, 7, 8, seed=3)
    state = {name: p.clone() for name, p in block.state_dict().items()}

    def layer(x, prefix, weight, scale, shift):
        x = torch.einsum("oc,bchw->bohw", weight.flatten(1), x)
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = state[f"{prefix}.1.running_mean"], state[f"{prefix}.1.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-3).sqrt()
        x = x * scale[:, None, None] + shift[:, None, None]
        return x * x.sigmoid()

    def formula(x, *weights):
        x = layer(x, "reduce", *weights[:3])
        x = torch.cat([x, *(largest_around(x, k) for k in (3, 5, 7))], 1)
        return layer(x, "mix", *weights[3:])

    names = [name for name, _ in block.named_parameters()]

    def ours(x, *weights):
        return torch.func.functional_call(block, dict(zip(names, weights)), (x,))

    tensors = [x, *block.parameters()]
    assert_all_close(run_with_gradients(ours, tensors), run_with_gradients(formula, tensors))


def random_block(cascade, seed=0):
    block = SPPBlock(6, 4, kernel=3, cascade=cascade).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in (*block.named_parameters(), *block.named_buffers()):
            if p.is_floating_point():
                p.copy_(0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
            if name.endswith("running_var"):
                p.abs_().add_(0.5)
    return block


def test_both_forms_of_the_block_share_their_weights():
    x = random_maps(2, 6, 7, 8)
    fast, slow = random_block(True).eval(), SPPBlock(6, 4, kernel=3, cascade=False).double().eval()
    slow.load_state_dict(fast.state_dict())
    assert torch.equal(fast(x), slow(x))
    assert fast.mix[0].weight.shape == (4, 3 * 4, 1, 1)
    norms = [m for m in fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}  # YOLOv5's


# Cost -------------------------------------------------------------------------


@settings(max_examples=25)
@given(h=sides, w=sides, k=odd)
def test_comparisons_by_counting(h, w, k):
    ones = torch.ones(1, 1, h, w)
    cells = F.conv2d(ones, torch.ones(1, 1, k, k), padding=k // 2)
    assert max_comparisons(h, w, [k]) == int(cells.sum()) - h * w
    assert max_comparisons(h, w, [k, 3, k]) == 2 * max_comparisons(h, w, [k]) + max_comparisons(
        h, w, [3]
    )


def test_the_numbers_of_the_page():
    assert max_comparisons(20, 20, (5, 9, 13)) == 80_760
    assert max_comparisons(20, 20, (5, 5, 5)) == 25_308
    assert sum(k * k - 1 for k in (5, 9, 13)) == 272 and 3 * (5 * 5 - 1) == 72
    assert sum(n * n for n in (6, 3, 2, 1)) == 50 and 50 * 256 == 12_800
    with FlopCounterMode(display=False) as counter:
        pool_parallel(random_maps(1, 2, 20, 20))
    assert counter.get_total_flops() == 0  # it does not see poolings


# Invariants -------------------------------------------------------------------

WAYS = [spatial_pyramid_pool, pool_parallel, pool_cascade]
each_way = pytest.mark.parametrize("pool", WAYS, ids=lambda f: f.__name__)


@settings(max_examples=8)
@given(h=sides, w=sides, seed=seeds)
def test_length_does_not_depend_on_the_size(h, w, seed):
    out = spatial_pyramid_pool(random_maps(2, 3, h, w, seed=seed))
    assert out.shape == (2, 3 * 50)


@each_way
@given(seed=seeds)
@settings(max_examples=3)
def test_an_increasing_function_may_be_applied_before_or_after(pool, seed):
    x = random_maps(1, 2, 7, 9, seed=seed)
    assert_all_close([pool(x.exp() + x)], [pool(x).exp() + pool(x)])


@each_way
@given(seed=seeds)
@settings(max_examples=3)
def test_channels_and_images_are_separate(pool, seed):
    x = random_maps(3, 4, 7, 9, seed=seed)
    singles = torch.cat([pool(x[b : b + 1]) for b in range(3)])
    assert torch.equal(pool(x), singles)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    if pool is spatial_pyramid_pool:
        before, after = (
            torch.cat(
                [part.unflatten(1, (4, -1)) for part in pool(x).split([144, 36, 16, 4], 1)], 2
            )
            for x in (x, x[:, order])
        )
        assert torch.equal(before[:, order], after)
    else:
        before, after = pool(x).unflatten(1, (4, 4)), pool(x[:, order]).unflatten(1, (4, 4))
        assert torch.equal(before[:, :, order], after)


@each_way
def test_turning_the_map(pool):
    x = random_maps(1, 2, 8, 8)
    turned = pool(x.flip(2, 3))
    if pool is spatial_pyramid_pool:  # the bins are symmetric
        parts = pool(x).split([72, 18, 8, 2], 1)
        parts = [p.reshape(2, n, n).flip(1, 2).flatten() for p, n in zip(parts, (6, 3, 2, 1))]
        assert torch.equal(turned, torch.cat(parts)[None])
    else:
        assert torch.equal(turned, pool(x).flip(2, 3))


@each_way
def test_arguments_stay_as_they_are(pool):
    x = random_maps(1, 2, 7, 9)
    copy = x.clone()
    pool(x)
    assert torch.equal(x, copy) and x._version == 0


# Gradient ---------------------------------------------------------------------


@each_way
def test_gradient(pool):
    order = torch.randperm(42, generator=torch.Generator().manual_seed(0))
    x = order.double().reshape(1, 1, 6, 7).requires_grad_()  # no two alike: differentiable here
    assert torch.autograd.gradcheck(pool, x)


def test_gradient_of_the_block():
    block = random_block(True).eval()
    x = random_maps(1, 6, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(block, x)


# Edges ------------------------------------------------------------------------


@each_way
def test_no_image(pool):
    assert pool(random_maps(0, 3, 4, 5)).shape[0] == 0


def test_fewer_cells_than_bins_repeat():
    x = random_maps(1, 3, 1, 1)
    assert torch.equal(spatial_pyramid_pool(x, (3,)), x.reshape(1, 3, 1).expand(1, 3, 9).flatten(1))


def test_minus_infinity_and_nan():
    x = torch.full((1, 1, 4, 4), -torch.inf)
    assert torch.equal(spatial_pyramid_pool(x, (2,)), torch.full((1, 4), -torch.inf))
    x[0, 0, 0, 0] = torch.nan
    assert spatial_pyramid_pool(x, (2,)).isnan().tolist() == [[True, False, False, False]]


@each_way
def test_non_contiguous_input(pool):
    x = random_maps(2, 3, 7, 9)
    strided = x.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    assert_all_close(run_with_gradients(pool, [strided]), run_with_gradients(pool, [x]))


@each_way
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision_is_exact(pool, dtype):
    x = random_maps(1, 2, 7, 9, dtype=dtype)
    out = pool(x)
    assert out.dtype == dtype
    assert torch.equal(out.double(), pool(x.double()))


# Bad input --------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 4, 5), ValueError, r"x must be .* got \(3, 4, 5\)"),
        (torch.zeros(1, 3, 0, 5), ValueError, r"x must be .* got \(1, 3, 0, 5\)"),
        (torch.zeros(1, 0, 4, 5), ValueError, r"x must be .* got \(1, 0, 4, 5\)"),
        (torch.zeros(1, 3, 4, 5).long(), TypeError, "floating point, got torch.int64"),
    ],
    ids=["axes", "no cell", "no channel", "integers"],
)
def test_bad_maps(pool, x, error, message):
    with pytest.raises(error, match=message):
        pool(x)


def test_bad_numbers():
    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"levels .* got \[\]"):
        spatial_pyramid_pool(x, ())
    with pytest.raises(ValueError, match=r"levels .* got \[3, 0\]"):
        spatial_pyramid_pool(x, (3, 0))
    with pytest.raises(ValueError, match=r"odd and positive, got \[5, 4\]"):
        pool_parallel(x, (5, 4))
    with pytest.raises(ValueError, match=r"odd and positive, got \[-1\]"):
        pool_cascade(x, -1)
    with pytest.raises(ValueError, match=r"odd and positive, got \[2\]"):
        max_comparisons(4, 4, [2])
    with pytest.raises(ValueError, match="at least 1, got 0, 3"):
        bin_ranges(0, 3)
    with pytest.raises(ValueError, match="at least 1, got 3, 0"):
        sliding_windows(3, 0)
    for arguments in ((1, 4), (4, 0), (4, 4, 5, 0)):
        with pytest.raises(ValueError, match=f"got {arguments[0]}, {arguments[1]}"):
            SPPBlock(*arguments)
    with pytest.raises(ValueError, match=r"odd and positive, got \[4\]"):
        SPPBlock(4, 4, 4)
