"""Winograd convolution: derivation, parity, invariants, counts, error, gradient, edges, input.

Yardstick: torch.nn.functional.conv2d; scipy.signal.correlate2d; plain loops.
"""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate2d
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from snippets.kernels.winograd import (
    POINTS,
    Transforms,
    error_growth,
    transforms,
    winograd_conv2d,
    winograd_cost,
)

seeds = st.integers(0, 2**32 - 1)
half = Fraction(1, 2)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_xw(b=2, c=3, h=9, w=8, o=4, kh=3, kw=3, seed=0):
    return random(b, c, h, w, seed=seed), random(o, c, kh, kw, seed=seed + 1)


def with_gradients(function, tensors):
    """The output, and the gradients of a fixed random functional of it."""
    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    out = function(*tensors)
    return [out, *torch.autograd.grad(out, tensors, random(*out.shape, seed=9, dtype=out.dtype))]


def assert_same(actual, expected, tol=1e-10):
    assert_close(actual, expected, rtol=tol, atol=tol)


def by_definition(x, w, padding):
    """One number at a time; outside of x everything is zero."""
    (ph, pw), (b, c, h, width), (o, _, kh, kw) = padding, x.shape, w.shape
    out = torch.zeros(b, o, h + 2 * ph - kh + 1, width + 2 * pw - kw + 1, dtype=torch.float64)
    x, w = x.tolist(), w.tolist()
    for n, k, i, j in np.ndindex(out.shape):
        total = 0.0
        for d, u, v in np.ndindex(c, kh, kw):
            row, column = i + u - ph, j + v - pw
            if 0 <= row < h and 0 <= column < width:
                total += w[k][d][u][v] * x[n][d][row][column]
        out[n, k, i, j] = total
    return out


# The derivation ---------------------------------------------------------------


def matrix(text):
    return [[Fraction(cell) for cell in row.split()] for row in text.strip().splitlines()]


# As printed by Lavin and Gray (2016), section 4.1 and 4.3, and by Lavin's wincnn for F(6, 3).
PUBLISHED = {
    2: (
        "1 1 1 0 \n 0 1 -1 -1",
        "1 0 0 \n 1/2 1/2 1/2 \n 1/2 -1/2 1/2 \n 0 0 1",
        "1 0 -1 0 \n 0 1 1 0 \n 0 -1 1 0 \n 0 1 0 -1",
    ),
    4: (
        "1 1 1 1 1 0 \n 0 1 -1 2 -2 0 \n 0 1 1 4 4 0 \n 0 1 -1 8 -8 1",
        "1/4 0 0 \n -1/6 -1/6 -1/6 \n -1/6 1/6 -1/6 \n 1/24 1/12 1/6 \n 1/24 -1/12 1/6 \n 0 0 1",
        "4 0 -5 0 1 0 \n 0 -4 -4 1 1 0 \n 0 4 -4 -1 1 0 \n 0 -2 -1 2 1 0 \n 0 2 -1 -2 1 0 \n"
        "0 4 0 -5 0 1",
    ),
    6: (
        "1 1 1 1 1 1 1 0 \n 0 1 -1 2 -2 1/2 -1/2 0 \n 0 1 1 4 4 1/4 1/4 0 \n"
        "0 1 -1 8 -8 1/8 -1/8 0 \n 0 1 1 16 16 1/16 1/16 0 \n 0 1 -1 32 -32 1/32 -1/32 1",
        "1 0 0 \n -2/9 -2/9 -2/9 \n -2/9 2/9 -2/9 \n 1/90 1/45 2/45 \n 1/90 -1/45 2/45 \n"
        "32/45 16/45 8/45 \n 32/45 -16/45 8/45 \n 0 0 1",
        "1 0 -21/4 0 21/4 0 -1 0 \n 0 1 1 -17/4 -17/4 1 1 0 \n 0 -1 1 17/4 -17/4 -1 1 0 \n"
        "0 1/2 1/4 -5/2 -5/4 2 1 0 \n 0 -1/2 1/4 5/2 -5/4 -2 1 0 \n 0 2 4 -5/2 -5 1/2 1 0 \n"
        "0 -2 4 5/2 -5 -1/2 1 0 \n 0 -1 0 21/4 0 -21/4 0 1",
    ),
}


def ratio(ours, theirs):
    """The one number that takes one row to the other."""
    found = {a / b for a, b in zip(ours, theirs, strict=True) if b}
    assert len(found) == 1 and all(not a for a, b in zip(ours, theirs, strict=True) if not b)
    return found.pop()


@pytest.mark.parametrize("m", PUBLISHED)
def test_the_published_matrices(m):
    """Up to the scale of each product; the three scales cancel."""
    at, g, bt = (matrix(text) for text in PUBLISHED[m])
    ours = transforms(m, 3)
    columns = zip(*ours.at, strict=True), zip(*at, strict=True)
    scales = [
        [ratio(a, b) for a, b in zip(x, y, strict=True)]
        for x, y in (columns, (ours.g, g), (ours.bt, bt))
    ]
    assert all(a * b * c == 1 for a, b, c in zip(*scales, strict=True))
    assert {abs(scale) for row in scales for scale in row} == {1}


distinct = st.lists(st.fractions(-3, 3, max_denominator=5), min_size=8, max_size=8, unique=True)


@given(st.integers(1, 5), st.integers(1, 4), distinct)
def test_any_points_give_the_exact_filter(m, r, points):
    """As a trilinear form: the coefficient of y_i, w_j, x_l is 1 for l = i + j, else 0."""
    n = m + r - 1
    at, g, bt = transforms(m, r, points[: n - 1])
    assert (len(at), len(g), len(bt)) == (m, n, n)
    for i, j, k in product(range(m), range(r), range(n)):
        total = sum(at[i][p] * g[p][j] * bt[p][k] for p in range(n))
        assert total == (k == i + j) and isinstance(total, Fraction)


def test_the_default_points():
    for m in range(1, 7):
        assert transforms(m, 3) == transforms(m, 3, POINTS[: m + 1])
    assert transforms(1, 1) == ((((1,),),) * 3)


# Parity -------------------------------------------------------------------------


@given(*[st.integers(1, 7)] * 2, *[st.integers(1, 3)] * 2, *[st.integers(0, 2)] * 2, seeds)
def test_equals_the_definition(h, w, kh, kw, ph, pw, seed):
    h, w = max(h, kh - 2 * ph), max(w, kw - 2 * pw)
    x, weight = random_xw(1, 2, h, w, 2, kh, kw, seed % 1000)
    expected = by_definition(x, weight, (ph, pw))
    for tile in (1, 2, 3, 4):
        assert_same(winograd_conv2d(x, weight, (ph, pw), tile), expected)


@pytest.mark.parametrize("tile", range(1, 7))
@pytest.mark.parametrize("padding", [0, 1, (2, 0)], ids=str)
@pytest.mark.parametrize("size", [(3, 3), (9, 8), (12, 14)], ids=str)
def test_equals_pytorch(tile, padding, size):
    tensors = random_xw(h=size[0], w=size[1])
    actual = with_gradients(lambda *t: winograd_conv2d(*t, padding, tile), tensors)
    assert_same(actual, with_gradients(lambda *t: F.conv2d(*t, padding=padding), tensors))


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (5, 5), (1, 3), (5, 2)], ids=str)
@pytest.mark.parametrize("tile", [2, 3])
def test_other_kernels(kernel, tile):
    tensors = random_xw(kh=kernel[0], kw=kernel[1])
    actual = with_gradients(lambda *t: winograd_conv2d(*t, (1, 2), tile), tensors)
    assert_same(actual, with_gradients(lambda *t: F.conv2d(*t, padding=(1, 2)), tensors))


@pytest.mark.parametrize("tile", [2, 4])
def test_equals_scipy(tile):
    x, weight = random_xw(1, 1, 10, 7, 1)
    expected = correlate2d(x[0, 0].numpy(), weight[0, 0].numpy(), mode="valid")
    assert_same(winograd_conv2d(x, weight, 0, tile)[0, 0], torch.from_numpy(expected))


@pytest.mark.parametrize("points", [(3, -3, half, 0, 5), (0, 1, -1, half, -2)], ids=str)
def test_points_of_ones_own(points):
    tensors = random_xw()
    actual = with_gradients(lambda *t: winograd_conv2d(*t, 1, 4, points), tensors)
    assert_same(actual, with_gradients(lambda *t: F.conv2d(*t, padding=1), tensors), 1e-9)


# Invariants -----------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_the_tile_does_not_matter(one, other, seed):
    x, weight = random_xw(seed=seed % 1000)
    assert_same(winograd_conv2d(x, weight, 1, one), winograd_conv2d(x, weight, 1, other), 1e-11)


@given(st.integers(1, 5), seeds)
def test_a_batch_equals_its_members(tile, seed):
    x, weight = random_xw(b=3, seed=seed % 1000)
    alone = [winograd_conv2d(image[None], weight, 1, tile) for image in x]
    assert_same(winograd_conv2d(x, weight, 1, tile), torch.cat(alone), 1e-12)


@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 4), seeds)
def test_a_shifted_input_gives_a_shifted_output(tile, down, right, seed):
    x, weight = random_xw(h=6, w=6, seed=seed % 1000)
    moved = F.pad(x, (right, 4 - right, down, 4 - down))
    out = winograd_conv2d(x, weight, 2, tile)
    expected = F.pad(out, (right, 4 - right, down, 4 - down))
    assert_same(winograd_conv2d(moved, weight, 2, tile), expected, 1e-11)


def test_arguments_stay_as_they_are():
    x, weight = random_xw()
    copies = x.clone(), weight.clone()
    winograd_conv2d(x, weight, 1, 4)
    assert torch.equal(x, copies[0]) and torch.equal(weight, copies[1])


# Counts -----------------------------------------------------------------------------


@pytest.mark.parametrize(("tile", "times"), [(2, 2.25), (4, 4), (6, 5.0625)])
def test_multiplications(tile, times):
    """Where the tiles fit, m^2 r^2 / (m + r - 1)^2 fewer than the definition takes."""
    cost = winograd_cost((2, 8, 24, 24), (16, 8, 3, 3), 1, tile)
    assert cost.direct / cost.products == times
    places = (tile + 2) ** 2
    assert cost.products == 2 * places * (2 * 8 * 16) * (24 // tile) ** 2


@pytest.mark.parametrize("tile", [2, 3, 4])
def test_products_are_what_pytorch_counts(tile):
    shapes = (2, 3, 11, 9), (5, 3, 3, 3)
    x, weight = random(*shapes[0]), random(*shapes[1])
    cost = winograd_cost(*shapes, 1, tile)
    places, p = (tile + 2) ** 2, 2 * -(-11 // tile) * -(-9 // tile)
    with FlopCounterMode(display=False) as counter:
        winograd_conv2d(x, weight, 1, tile)
    n, m = tile + 2, tile
    dense = 2 * p * 3 * 2 * n**3 + 2 * p * 5 * (n * n * m + n * m * m)  # without skipping zeros
    dense += 2 * 15 * (n * 3 * 3 + n * n * 3)
    assert counter.get_total_flops() == cost.products + dense
    assert cost.tiles == places * p * (3 + 5)
    assert cost.direct == 2 * 2 * 5 * 11 * 9 * 3 * 9
    assert cost.numbers == 2 * 3 * 99 + 5 * 27 + 2 * 5 * 99


def test_transforms_of_lavin_and_gray():
    """F(2x2, 3x3): 32 operations on the data, 24 on the output (section 4.1)."""
    data = winograd_cost((1, 1, 4, 4), (0, 1, 3, 3), 0, 2)
    output = winograd_cost((1, 0, 4, 4), (1, 0, 3, 3), 0, 2)
    assert (data.transforms, output.transforms) == (32, 24)
    assert winograd_cost((1, 1, 4, 4), (1, 1, 3, 3), 0, 2).kernels == (2 * 5) * (3 + 4)


def test_counts_of_an_uneven_kernel():
    """By hand: F(2, 3) along the height, F(2, 1) along the width, which transforms nothing."""
    cost = winograd_cost((1, 1, 4, 2), (1, 1, 3, 1), 0, 2)
    assert cost.products == 2 * 4 * 2 and cost.direct == 2 * 4 * 3
    at, g, bt = transforms(2, 1, [0])
    assert (at, g, bt) == (((1, 0), (0, 1)), ((1,), (1,)), ((1, 0), (0, 1)))
    assert cost.transforms == 4 * 2 + 4 * 2 and cost.kernels == 10
    assert cost.tiles == 2 * 4 * 2


# Numerical error --------------------------------------------------------------------


def errors(dtype, tile, points=None):
    """Relative, against float64 on the same rounded numbers; direct in the same precision too."""
    x, weight = random(2, 32, 24, 24, dtype=dtype), (random(16, 32, 3, 3, seed=1) / 17).to(dtype)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    ways = winograd_conv2d(x, weight, 1, tile, points), F.conv2d(x, weight, padding=1)
    assert ways[0].dtype == dtype
    return [((y.double() - exact).norm() / exact.norm()).item() for y in ways]


@pytest.mark.parametrize(
    ("dtype", "limits"),
    [
        (torch.float32, [3.5e-7, 2e-6, 4.5e-6]),
        (torch.float16, [6e-4, 3.5e-3, 8e-3]),
        (torch.bfloat16, [5e-3, 2.8e-2, 6.5e-2]),
    ],
    ids=str,
)
def test_the_error_grows_with_the_tile(dtype, limits):
    found = [errors(dtype, tile)[0] for tile in (2, 4, 6)]
    for error, limit in zip(found, limits, strict=True):
        assert limit / 3 < error < limit
    assert found[0] * 3 < found[1] < found[2]
    assert errors(dtype, 2)[1] < found[0] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("tile", "points"),
    [(2, None), (3, None), (4, None), (4, (0, 1, -1, 2, -half)), (6, None)],
)
def test_the_growth_predicts_the_error(dtype, tile, points):
    """Tiles, kernels and output are rounded, each by 0.42 units: the error follows within 8 %."""
    rounding = 0.5 * torch.finfo(dtype).eps * (0.75 / (2 * math.log(2)) / 3) ** 0.5
    growth = error_growth(transforms(tile, 3, points))
    predicted = rounding * (2 * growth**2 + 1) ** 0.5
    assert errors(dtype, tile, points)[0] == pytest.approx(predicted, rel=0.08)


def test_the_growth_by_hand():
    """F(2, 3): each output adds up three products, of the powers 2, 3/2, 3/2 and 2."""
    assert error_growth(transforms(2, 3)) == pytest.approx((2 + 1.5 + 1.5 + 1.5 + 1.5 + 2) / 6)
    assert error_growth(transforms(1, 1)) == 1.0


def test_the_growth_of_well_known_points():
    """What the page says: it grows with the tile, depends on the points, not on the scale."""
    found = {m: error_growth(transforms(m, 3)) for m in (2, 4, 6)}
    assert found == pytest.approx({2: 5 / 3, 4: 10.77, 6: 20.63}, rel=1e-3)
    assert error_growth(transforms(4, 3, (0, 1, -1, 2, -half))) == pytest.approx(6.94, rel=1e-3)
    assert error_growth(transforms(6, 3, (0, 1, -1, 2, -2, 3, -3))) == pytest.approx(
        964.5, rel=1e-3
    )
    at, g, bt = transforms(4, 3)
    scaled = [[value * 7 for value in row] for row in g], [[v / 7 for v in row] for row in bt]
    other = Transforms(at, *(tuple(map(tuple, rows)) for rows in scaled))
    assert error_growth(other) == pytest.approx(found[4])


def growth_of(points, m, r):
    """The same formula by numerical inversion, for finite points, complex ones too."""
    powers = np.vander(points, m + r - 1, increasing=True)
    square, rows = np.abs(powers) ** 2, np.abs(np.linalg.inv(powers).T) ** 2
    total = (square[:, :m].sum(1) * square[:, :r].sum(1) * rows.sum(1)).sum()
    return total / (m * r)


@pytest.mark.parametrize(("m", "r"), [(2, 3), (6, 3), (10, 7)])
def test_the_growth_of_roots_of_unity_is_one(m, r):
    """The points of the FFT."""
    n = m + r - 1
    assert growth_of(np.exp(-2j * np.pi * np.arange(n) / n), m, r) == pytest.approx(1)


def test_the_growth_without_infinity():
    assert growth_of([0, 1, -1, 2, -2, 0.5], 4, 3) == pytest.approx(9.946, rel=1e-3)
    assert growth_of([0, 1, -1, 2, -2, 3], 4, 3) == pytest.approx(44.81, rel=1e-3)
    large = [0, 1, -1, 2, -2, 2000.0]  # nearly infinity
    assert growth_of(large, 4, 3) == pytest.approx(error_growth(transforms(4, 3)), rel=1e-2)


def test_the_choice_of_points():
    """Reciprocals beat larger integers by far; mixing 2 with -1/2 beats 2 with -2 a little."""
    good, integers = (
        errors(torch.float32, 6)[0],
        errors(torch.float32, 6, (0, 1, -1, 2, -2, 3, -3))[0],
    )
    assert integers > 20 * good
    assert errors(torch.float32, 4, (0, 1, -1, 2, -half))[0] < 0.85 * errors(torch.float32, 4)[0]


def test_float16_overflows_earlier_than_the_convolution_does():
    """A transformed tile of F(4x4, 3x3) may be 100 times as large as the input."""
    signs = torch.tensor([[1.0, 0, -1, 0, 1, 0]])
    x = (800 * signs.T @ signs)[None, None].half()
    weight = torch.zeros(1, 1, 3, 3).half()
    weight[..., 1, 1] = 1.0
    assert winograd_conv2d(x, weight, 0, 2).isfinite().all()
    assert not winograd_conv2d(x, weight, 0, 4).isfinite().all()
    assert winograd_conv2d(x.bfloat16(), weight.bfloat16(), 0, 4).isfinite().all()


# Gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [2, 4])
def test_gradient(tile):
    tensors = [t.requires_grad_() for t in random_xw(1, 2, 5, 4, 2)]
    assert torch.autograd.gradcheck(lambda *t: winograd_conv2d(*t, 1, tile), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: winograd_conv2d(*t, 1, tile), tensors)


# Edges --------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c", "o"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing(b, c, o):
    tensors = random(b, c, 6, 5), random(o, c, 3, 3)
    actual = with_gradients(lambda *t: winograd_conv2d(*t, 1, 2), tensors)
    assert actual[0].shape == (b, o, 6, 5) and not actual[0].any()
    assert actual[1].shape == (b, c, 6, 5) and actual[2].shape == (o, c, 3, 3)


def test_one_output():
    x, weight = random_xw(1, 2, 3, 3, 1)
    assert_same(winograd_conv2d(x, weight, 0, 4), (x * weight).sum().reshape(1, 1, 1, 1))


def test_strides_do_not_matter():
    x, weight = random_xw()
    odd = x.to(memory_format=torch.channels_last), weight.mT.contiguous().mT
    assert_same(winograd_conv2d(*odd, 1, 2), F.conv2d(x, weight, padding=1))
    wide = random(2, 3, 18, 16)[:, :, ::2, ::2]
    assert_same(winograd_conv2d(wide, weight, 1, 4), F.conv2d(wide, weight, padding=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_adds_up_in_float32(dtype):
    """float16 would stop adding ones at 2048, bfloat16 at 256."""
    x, weight = torch.ones(1, 3000, 4, 4, dtype=dtype), torch.zeros(1, 3000, 3, 3, dtype=dtype)
    weight[:, :, 1, 1] = 1.0
    assert_close(winograd_conv2d(x, weight), torch.full((1, 1, 2, 2), 3000, dtype=dtype))


def test_autocast_does_not_touch_the_transforms():
    x, weight = (t.float() for t in random_xw())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = winograd_conv2d(x, weight, 1, 4)
    assert torch.equal(inside, winograd_conv2d(x, weight, 1, 4))


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.zeros(3, 9, 8)), ValueError, r"\(B, C, H, W\), got \(3, 9, 8\)"),
        (dict(weight=torch.zeros(4, 3, 3)), ValueError, r"\(O, C, KH, KW\), got \(4, 3, 3\)"),
        (dict(weight=torch.zeros(4, 2, 3, 3)), ValueError, r"differ in C: .*\(4, 2, 3, 3\)"),
        (dict(x=torch.zeros(2, 3, 9, 8).long()), TypeError, "torch.int64, torch.float32"),
        (dict(x=torch.zeros(2, 3, 9, 8).double()), TypeError, "torch.float64, torch.float32"),
        (dict(x=torch.zeros(2, 3, 2, 8)), ValueError, r"\(3, 3\) does not fit into \(2, 8\)"),
        (dict(weight=torch.zeros(4, 3, 0, 3)), ValueError, r"must have a cell, got \(0, 3\)"),
        (dict(padding=(0, -1)), ValueError, r"not be negative, got \(0, -1\)"),
        (dict(tile=0), ValueError, "at least 1, got 0, 3"),
        (dict(tile=7), ValueError, r"F\(7, 3\) takes 8 points, known are 7"),
        (dict(points=(0, 1)), ValueError, r"F\(2, 3\) takes 3 points, got 2"),
        (dict(points=(0, 1, 1)), ValueError, r"distinct, got \['0', '1', '1'\]"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_bad_input(change, error, message):
    good = dict(x=torch.zeros(2, 3, 9, 8), weight=torch.zeros(4, 3, 3, 3))
    with pytest.raises(error, match=message):
        winograd_conv2d(**(good | change))
