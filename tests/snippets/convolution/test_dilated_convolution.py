"""Dilated convolution: parity, phases, gridding, gradient, edges, bad input.

Yardstick: torch.nn.functional.conv2d; scipy.signal.correlate2d.
"""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.signal import correlate2d
from torch.testing import assert_close

from snippets.convolution.dilated_convolution import (
    dilated_conv2d,
    dilated_conv2d_phases,
    dilated_windows,
    hdc_distance,
    is_gapless,
    path_counts,
)
from snippets.convolution.receptive_field import Layer, input_positions, receptive_fields

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 3)
pairs = st.tuples(small, small)
pads = st.tuples(st.integers(0, 3), st.integers(0, 3))
BOTH = pytest.mark.parametrize(
    "convolve", [dilated_conv2d, dilated_conv2d_phases], ids=lambda f: f.__name__
)


def random_xwb(b=2, c=4, h=9, w=8, o=6, k=(3, 2), groups=1, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, c, h, w), (o, c // groups, *k), (o,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def run_with_gradients(function, tensors):
    """The output, and the gradients of a fixed random functional of it."""
    tensors = [x.detach().requires_grad_() for x in tensors]
    out = function(*tensors)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out, *torch.autograd.grad(out, tensors, probe.to(out.dtype))]


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def with_zeros_between(weight, dilation):
    """The kernel that `à trous` speaks of: zeros put between the taps."""
    o, c, kh, kw = weight.shape
    wide = weight.new_zeros(o, c, dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1)
    wide[:, :, :: dilation[0], :: dilation[1]] = weight
    return wide


# Parity -------------------------------------------------------------------------


@given(
    h=st.integers(1, 8), w=st.integers(1, 8), k=pairs, stride=pairs, padding=pads,
    dilation=pairs, groups=st.sampled_from([1, 2, 4]), seed=seeds,
)  # fmt: skip
def test_equals_pytorch_at_any_setting(h, w, k, stride, padding, dilation, groups, seed):
    for n, kernel, p, d in zip((h, w), k, padding, dilation):
        assume(n + 2 * p >= d * (kernel - 1) + 1)
    o = 4 if groups == 4 else 6
    xwb = random_xwb(2, 4, h, w, o, k, groups, seed)
    expected = run_with_gradients(lambda *t: F.conv2d(*t, stride, padding, dilation, groups), xwb)
    actual = run_with_gradients(
        lambda *t: dilated_conv2d(*t, stride, padding, dilation, groups), xwb
    )
    assert_all_close(actual, expected)
    if stride == (1, 1):
        actual = run_with_gradients(
            lambda *t: dilated_conv2d_phases(*t, padding, dilation, groups), xwb
        )
        assert_all_close(actual, expected)


@pytest.mark.parametrize("dilation", [1, 2, 3, (1, 2), (3, 2)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, (2, 3)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_phases_equal_pytorch(dilation, padding, groups, with_bias):
    tensors = random_xwb(h=11, w=10, groups=groups)[: 3 if with_bias else 2]
    settings = dict(padding=padding, dilation=dilation, groups=groups)
    expected = run_with_gradients(lambda *t: F.conv2d(*t, **settings), tensors)
    for convolve in (dilated_conv2d, dilated_conv2d_phases):
        actual = run_with_gradients(lambda *t, f=convolve: f(*t, **settings), tensors)
        assert_all_close(actual, expected)


@BOTH
def test_equals_scipys_correlation_with_zeros_in_the_kernel(convolve):
    x, weight, bias = random_xwb(c=3)
    wide = with_zeros_between(weight, (3, 2))
    expected = [
        [
            sum(correlate2d(x[b, c], wide[o, c], mode="valid") for c in range(3)) + bias[o].item()
            for o in range(6)
        ]
        for b in range(2)
    ]
    actual = convolve(x, weight, bias, dilation=(3, 2))
    assert_all_close([actual], [torch.from_numpy(np.array(expected))])


# Invariants of the convolution ----------------------------------------------------


@given(k=pairs, stride=pairs, dilation=pairs)
def test_windows_are_a_view_of_the_right_cells(k, stride, dilation):
    x = torch.arange(2 * 2 * 9 * 8.0).reshape(2, 2, 9, 8)
    windows = dilated_windows(x, k, stride, dilation)
    assert windows.data_ptr() == x.data_ptr()
    for i, j, u, v in itertools.product(*(range(n) for n in windows.shape[2:])):
        row, column = stride[0] * i + dilation[0] * u, stride[1] * j + dilation[1] * v
        assert torch.equal(windows[:, :, i, j, u, v], x[:, :, row, column])
    span = [d * (n - 1) + 1 for n, d in zip(k, dilation)]
    assert list(windows.shape[2:4]) == [(n - e) // s + 1 for n, e, s in zip((9, 8), span, stride)]


@given(dilation=pairs, seed=seeds)
def test_phases_do_not_mix(dilation, seed):
    """What is added to one phase of the input moves the same phase of the output alone."""
    x, weight, _ = random_xwb(1, 2, 12, 12, 2, (2, 3), seed=seed)
    (dh, dw), changed = dilation, x.clone()
    changed[:, :, ::dh, ::dw] += 1
    out, after = (dilated_conv2d(t, weight, dilation=dilation) for t in (x, changed))
    moved = ((out - after).abs() > 1e-9).any(1)[0]
    elsewhere = torch.ones_like(moved)
    elsewhere[::dh, ::dw] = False
    assert moved[::dh, ::dw].any() and not moved[elsewhere].any()


@given(rate=st.integers(1, 3), more=st.integers(1, 3), seed=seeds)
def test_a_stride_taken_out_becomes_a_dilation(rate, more, seed):
    """The outputs of the network with the stride are every s-th of the one without it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 2, 21, 21, generator=generator, dtype=torch.float64)
    first, second = torch.randn(2, 2, 2, 3, 3, generator=generator, dtype=torch.float64)
    low = F.conv2d(F.conv2d(x, first, stride=rate), second, dilation=more, padding=more)
    full = dilated_conv2d(
        dilated_conv2d(x, first), second, padding=rate * more, dilation=rate * more
    )
    assert_close(full[:, :, ::rate, ::rate], low, rtol=1e-10, atol=1e-10)


@BOTH
@given(rate=st.integers(1, 3), kernel=st.sampled_from([1, 3, 5]))
def test_padding_keeps_the_size(convolve, rate, kernel):
    x, weight, _ = random_xwb(b=1, k=(kernel, kernel))
    out = convolve(x, weight, padding=rate * (kernel - 1) // 2, dilation=rate)
    assert out.shape == (1, 6, 9, 8)


# Gridding -------------------------------------------------------------------------


def by_enumeration(kernel, rates):
    """How often each sum of one tap from each layer occurs."""
    return Counter(
        sum(rate * tap for rate, tap in zip(rates, taps))
        for taps in itertools.product(range(kernel), repeat=len(rates))
    )


@given(kernel=st.integers(1, 4), rates=st.lists(st.integers(1, 9), max_size=4))
def test_path_counts_and_gaps_by_enumeration(kernel, rates):
    layers = [Layer(kernel, dilation=rate) for rate in rates]
    expected = by_enumeration(kernel, rates)
    counts = path_counts(layers)
    assert counts.tolist() == [expected[i] for i in range(receptive_fields(layers)[-1].size)]
    assert torch.equal(counts, path_counts(layers[::-1])), "the order does not matter"
    assert torch.equal(counts, counts.flip(0))
    assert is_gapless(kernel, rates) == (counts > 0).all()


layers_lists = st.lists(
    st.builds(Layer, st.integers(1, 3), st.integers(1, 3), st.just(0), st.integers(1, 4)),
    max_size=3,
)


@given(layers=layers_lists)
def test_path_counts_are_the_gradient_of_a_stack_of_ones(layers):
    size = receptive_fields(layers)[-1].size
    x = torch.zeros(1, 1, size, dtype=torch.float64, requires_grad=True)
    out = x
    for layer in layers:
        ones = torch.ones(1, 1, layer.kernel, dtype=torch.float64)
        out = F.conv1d(out, ones, stride=layer.stride, dilation=layer.dilation)
    (gradient,) = torch.autograd.grad(out.sum(), x) if layers else (torch.ones_like(x),)
    counts = path_counts(layers)
    assert out.shape[2] == 1 and counts.dtype == torch.int64
    assert torch.equal(counts.double(), gradient[0, 0])
    assert torch.equal(counts.nonzero()[:, 0], input_positions(layers, size, 0))


def test_in_two_dimensions_the_counts_are_an_outer_product():
    x = torch.zeros(1, 1, 15, 13, dtype=torch.float64, requires_grad=True)
    out = x
    for rate in ((1, 2), (2, 2), (4, 2)):
        out = dilated_conv2d(out, torch.ones(1, 1, 3, 3).double(), dilation=rate)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    rows = path_counts([Layer(3, dilation=d) for d in (1, 2, 4)])
    columns = path_counts([Layer(3, dilation=2)] * 3)
    assert torch.equal(gradient[0, 0], torch.outer(rows, columns).double())


def test_rates_of_the_papers():
    assert (hdc_distance([1, 2, 5]), is_gapless(3, [1, 2, 5])) == (2, True)  # Wang et al.
    assert (hdc_distance([1, 2, 9]), is_gapless(3, [1, 2, 9])) == (5, False)
    context = [1, 1, 2, 4, 8, 16, 1]  # Yu and Koltun, table 1, its 3x3 layers
    sizes = [f.size for f in receptive_fields([Layer(3, dilation=d) for d in context])[1:]]
    assert sizes == [3, 5, 9, 17, 33, 65, 67]
    assert is_gapless(3, context)


def test_powers_of_the_kernel_reach_furthest_with_one_path_each():
    assert path_counts([Layer(3, dilation=d) for d in (1, 3, 9)]).tolist() == [1] * 27
    best = max(
        receptive_fields([Layer(3, dilation=d) for d in rates])[-1].size
        for rates in itertools.product(range(1, 14), repeat=3)
        if is_gapless(3, rates)
    )
    assert best == 27


def test_hdc_is_exact_for_kernel_3_and_rising_rates_from_1():
    for n in (2, 3, 4):
        for rest in itertools.combinations_with_replacement(range(1, 20), n - 1):
            rates = [1, *rest]
            assert (hdc_distance(rates) <= 3) == is_gapless(3, rates), rates


def test_hdc_elsewhere():
    """What the page says where it is not."""
    assert hdc_distance([2, 2, 2]) == 2 and not is_gapless(3, [2, 2, 2])  # r_1 takes no part
    assert hdc_distance([1, 2, 6]) == 2 and not is_gapless(2, [1, 2, 6])  # too weak
    assert hdc_distance([1, 5, 25]) == 15 and is_gapless(5, [1, 5, 25])  # too strict
    assert hdc_distance([1, 9, 2]) == 16 and hdc_distance([1, 5, 2]) == 8
    assert is_gapless(3, [1, 5, 2])  # the order does not matter to coverage


# Gradient -------------------------------------------------------------------------


@BOTH
def test_gradient(convolve):
    xwb = [t.requires_grad_() for t in random_xwb(1, 2, 5, 4, 2, (2, 2), groups=2)]
    assert torch.autograd.gradcheck(lambda *t: convolve(*t, padding=1, dilation=2, groups=2), xwb)
    assert torch.autograd.gradgradcheck(
        lambda *t: convolve(*t, padding=1, dilation=2, groups=2), xwb
    )


# Edges ----------------------------------------------------------------------------


@BOTH
def test_nothing(convolve):
    for shape, kernels in (((0, 2, 6, 6), 3), ((2, 2, 6, 6), 0)):
        x, weight = torch.zeros(shape), torch.zeros(kernels, 2, 3, 3)
        assert convolve(x, weight, dilation=2).shape == (shape[0], kernels, 2, 2)
    out = convolve(torch.zeros(1, 0, 6, 6), torch.zeros(3, 0, 3, 3), torch.ones(3), dilation=2)
    assert torch.equal(out, torch.ones(1, 3, 2, 2))
    assert path_counts([]).tolist() == [1] and is_gapless(3, [])


@BOTH
def test_a_kernel_of_one_ignores_dilation(convolve):
    x, weight, bias = random_xwb(k=(1, 1))
    assert_close(convolve(x, weight, bias, dilation=7), F.conv2d(x, weight, bias))
    assert is_gapless(1, [5, 9]) and path_counts([Layer(1, dilation=5)]).tolist() == [1]


@BOTH
def test_one_window(convolve):
    x, weight, _ = random_xwb(h=7, w=4)
    out = convolve(x, weight, dilation=3)
    assert out.shape == (2, 6, 1, 1)
    assert_close(out, F.conv2d(x, weight, dilation=3))


@BOTH
@pytest.mark.parametrize("padding", [0, 2])
def test_non_contiguous_and_expanded_input(convolve, padding):
    x, weight, bias = random_xwb()
    settings = dict(padding=padding, dilation=(2, 1))
    views = [
        lambda x: x.permute(0, 1, 3, 2),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x[1:, :, 2:].flip(3),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[:, :1].expand(-1, 4, -1, -1),
        lambda x: x[:, :, :1].expand(-1, -1, 9, -1),
    ]
    for view in views:
        expected, actual = (
            run_with_gradients(lambda x, w, b, f=f: f(view(x), w, b, **settings), (x, weight, bias))  # noqa: B023
            for f in (F.conv2d, convolve)
        )
        assert_all_close(actual, expected)


@BOTH
def test_arguments_stay_as_they_are(convolve):
    xwb = random_xwb()
    copies = [t.clone() for t in xwb]
    convolve(*xwb, padding=1, dilation=2)
    assert all(torch.equal(a, b) for a, b in zip(xwb, copies))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(convolve, dtype):
    xwb = random_xwb(dtype=dtype)
    out = convolve(*xwb, padding=2, dilation=2)
    expected = F.conv2d(*(t.double() for t in xwb), padding=2, dilation=2)
    assert out.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    assert_close(out.double(), expected, rtol=tolerance, atol=8 * tolerance)


# Bad input ------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.zeros(4, 9, 8)), ValueError, r"x must be \(B, C, H, W\), got \(4, 9, 8\)"),
        (dict(x=torch.zeros(2, 4, 9, 8).long()), TypeError, "floating point, got torch.int64"),
        (dict(weight=torch.zeros(6, 4, 3)), ValueError, r"\(O, C / groups, KH, KW\), got \(6, 4"),
        (dict(groups=4), ValueError, "groups must divide the 6 kernels, got 4"),
        (dict(groups=0), ValueError, "groups must divide the 6 kernels, got 0"),
        (dict(groups=2), ValueError, r"with 2 groups: \(2, 4, 9, 8\), \(6, 4, 3, 2\)"),
        (dict(weight=torch.zeros(6, 4, 3, 2)), TypeError, "dtype: torch.float64, torch.float32"),
        (dict(bias=torch.zeros(5)), ValueError, r"bias must be \(6,\), got \(5,\)"),
        (dict(bias=torch.zeros(6)), TypeError, "x and bias differ in dtype: .* torch.float32"),
        (dict(padding=-1), ValueError, "padding must not be negative, got -1"),
        (dict(dilation=0), ValueError, "dilation must be at least 1, got 0"),
        (dict(dilation=(5, 1)), ValueError, r"a window of 11 does not fit into 9 \+ 2 \* 0"),
    ],
    ids=lambda x: "",
)
def test_bad_input(convolve, change, error, message):
    if message.endswith("9 \\+ 2 \\* 0") and convolve is dilated_conv2d:
        message = "a window of 11 does not fit into 9"
    good = dict(zip(["x", "weight", "bias"], random_xwb(), strict=True))
    with pytest.raises(error, match=message):
        convolve(**(good | change))


def test_bad_windows_and_rates():
    x = torch.zeros(1, 1, 5, 5)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        dilated_windows(x, 3, stride=0)
    with pytest.raises(ValueError, match="kernel must be at least 1, got 0"):
        dilated_windows(x, (3, 0))
    with pytest.raises(ValueError, match=r"x must be \(B, C, H, W\), got \(5, 5\)"):
        dilated_windows(x[0, 0], 3)
    with pytest.raises(ValueError, match="layer 2: dilation must be at least 1, got 0"):
        path_counts([Layer(3), Layer(3, dilation=0)])
    with pytest.raises(ValueError, match="more paths than int64 holds, got 12157665459056928801"):
        path_counts([Layer(3)] * 40)
    with pytest.raises(ValueError, match="dilation must be at least 1, got 0"):
        is_gapless(3, [1, 0])
    for rates in ([], [3], [1, 0]):
        with pytest.raises(
            ValueError, match=rf"two or more, each at least 1, got \[{str(rates)[1:-1]}\]"
        ):
            hdc_distance(rates)
