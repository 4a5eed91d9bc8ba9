"""Transposed convolution: parity, sizes, adjoint, overlaps, gradient, edges, bad input.

Yardstick: torch.nn.functional.conv_transpose2d; plain loops.
"""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from snippets.convolution.convolution_arithmetic import output_size, same_padding
from snippets.convolution.transposed_convolution import (
    conv_transpose2d_scatter,
    conv_transpose2d_zeros,
    output_padding_for,
    overlap_count,
    transposed_output_size,
)

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 3)
pairs = st.tuples(small, small)
pads = st.tuples(st.integers(0, 3), st.integers(0, 3))

WAYS = [conv_transpose2d_scatter, conv_transpose2d_zeros]
each_way = pytest.mark.parametrize("transposed", WAYS, ids=lambda f: f.__name__)

SETTINGS = {
    "plain": dict(),
    "stride": dict(stride=(2, 3)),
    "padding": dict(padding=(2, 1)),
    "output padding": dict(stride=(2, 3), output_padding=(1, 2)),
    "groups": dict(groups=2),
    "dilation": dict(dilation=(2, 3)),
    "all": dict(
        stride=(3, 2), padding=(1, 2), output_padding=(2, 1), groups=2, dilation=(1, 3)
    ),
    "one number": dict(stride=2, padding=1, output_padding=1, dilation=2),
}  # fmt: skip


def random_xwb(b=2, c=4, h=4, w=5, o=6, groups=1, kh=3, kw=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, c, h, w), (c, o // groups, kh, kw), (o,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def run_with_gradients(function, tensors):
    """The output, and the gradients of a fixed random functional of it."""
    tensors = [x.detach().requires_grad_() for x in tensors]
    out = function(*tensors)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return [out, *torch.autograd.grad(out, tensors, probe)]


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def by_definition(x, w, bias, stride, padding, output_padding, groups, dilation):
    """The formula of the page, one product at a time."""
    b, c, h, width = x.shape
    o = w.shape[1] * groups
    size = []
    for axis, n in enumerate((h, width)):
        last = stride[axis] * (n - 1) + dilation[axis] * (w.shape[2 + axis] - 1)
        size.append(last + 1 - 2 * padding[axis] + output_padding[axis])
    out = np.zeros((b, o, *size)) + bias[:, None, None]
    for n, i, j, k, u, v in np.ndindex(b, c, h, width, *w.shape[2:]):
        row = stride[0] * j + dilation[0] * u - padding[0]
        column = stride[1] * k + dilation[1] * v - padding[1]
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            continue
        group = i // (c // groups)
        for m in range(w.shape[1]):
            out[n, group * w.shape[1] + m, row, column] += x[n, i, j, k] * w[i, m, u, v]
    return out


# Parity -----------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_equals_pytorch(transposed, setting, with_bias):
    tensors = random_xwb(groups=setting.get("groups", 1))[: 3 if with_bias else 2]
    assert_all_close(
        run_with_gradients(lambda *t: transposed(*t, **setting), tensors),
        run_with_gradients(lambda *t: F.conv_transpose2d(*t, **setting), tensors),
    )


@each_way
@settings(max_examples=25)
@given(
    h=st.integers(1, 3), w=st.integers(1, 4), k=pairs, stride=pairs, padding=pads,
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=pairs,
    groups=st.sampled_from([1, 2]), seed=seeds,
)  # fmt: skip
def test_equals_pytorch_and_the_definition(
    transposed, h, w, k, stride, padding, extra, dilation, groups, seed
):
    assume(all(e < max(s, d) for e, s, d in zip(extra, stride, dilation)))
    for n, kernel, s, p, e, d in zip((h, w), k, stride, padding, extra, dilation):
        assume((n - 1) * s + d * (kernel - 1) + 1 - 2 * p + e >= 1)
    xwb = random_xwb(1, 2, h, w, 4, groups, *k, seed=seed)
    options = (stride, padding, extra, groups, dilation)
    actual = run_with_gradients(lambda *t: transposed(*t, *options), xwb)
    assert_all_close(actual, run_with_gradients(lambda *t: F.conv_transpose2d(*t, *options), xwb))
    expected = by_definition(*(t.numpy() for t in xwb), *options)
    assert_all_close(actual[:1], [torch.from_numpy(expected)])


@each_way
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_is_the_gradient_of_the_convolution(transposed, setting):
    """Backwards through F.conv2d with the same weight: the definition as an adjoint."""
    x, weight, _ = random_xwb(groups=setting.get("groups", 1))
    out = transposed(x, weight, **setting)
    z = torch.zeros_like(out, requires_grad=True)
    forwards = {name: v for name, v in setting.items() if name != "output_padding"}
    y = F.conv2d(z, weight, **forwards)
    y = y[:, :, : x.shape[2], : x.shape[3]]  # one output more where dilation permits it
    assert_all_close([out], torch.autograd.grad(y, z, x))


@each_way
@given(k=pairs, stride=pairs, padding=pads, dilation=pairs, seed=seeds,
       size=st.tuples(st.integers(4, 9), st.integers(4, 9)))  # fmt: skip
def test_adjoint_identity(transposed, k, stride, padding, dilation, seed, size):
    axis_settings = list(zip(k, stride, padding, dilation))
    for n, (kernel, _, p, d) in zip(size, axis_settings):
        assume(n + 2 * p > d * (kernel - 1))
    z = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = random_xwb(c=4, o=3, kh=k[0], kw=k[1], seed=seed ^ 1)[1]
    y = F.conv2d(z, weight, None, stride, padding, dilation)
    x = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    extra = tuple(output_padding_for(n, *s) for n, s in zip(size, axis_settings))
    back = transposed(x, weight, None, stride, padding, extra, 1, dilation)
    assert back.shape == z.shape
    assert_close((y * x).sum(), (z * back).sum(), rtol=1e-10, atol=1e-10)


def test_the_matrix_is_the_transposed_one():
    weight = random_xwb(c=2, o=3)[1]
    units = torch.eye(3 * 7 * 6, dtype=torch.float64).reshape(-1, 3, 7, 6)
    c = F.conv2d(units, weight, stride=2, padding=1).flatten(1)  # row: one input cell
    units = torch.eye(c.shape[1], dtype=torch.float64).reshape(-1, 2, 4, 4)
    extra = (output_padding_for(7, 3, 2, 1), output_padding_for(6, 2, 2, 1))
    t = conv_transpose2d_scatter(units, weight, None, 2, 1, extra).flatten(1)
    assert_all_close([t], [c.T])


# Sizes ------------------------------------------------------------------------

axes = dict(
    n=st.integers(1, 12), k=st.integers(1, 5), s=st.integers(1, 4), p=st.integers(0, 4),
    d=st.integers(1, 4),
)  # fmt: skip


@given(**axes, a=st.integers(0, 4))
def test_size_equals_pytorch(n, k, s, p, d, a):
    x, weight = torch.zeros(1, 1, n), torch.zeros(1, 1, k)
    try:
        expected = F.conv_transpose1d(x, weight, None, s, p, a, 1, d).shape[-1]
    except RuntimeError:
        with pytest.raises(ValueError, match="output_padding must|leaves no output"):
            transposed_output_size(n, k, s, p, a, d)
    else:
        assert transposed_output_size(n, k, s, p, a, d) == expected


@given(**axes)
def test_output_padding_gives_the_size_back(n, k, s, p, d):
    assume(n + 2 * p > d * (k - 1))
    small = output_size(n, k, s, p, d)
    extra = output_padding_for(n, k, s, p, d)
    assert 0 <= extra < s
    assert transposed_output_size(small, k, s, p, extra, d) == n


@given(**axes)
def test_s_sizes_share_one_output(n, k, s, p, d):
    """Those that transposed_output_size reaches with output_padding 0 to s - 1, and no others."""
    first = (n - 1) * s + d * (k - 1) + 1 - 2 * p
    assume(first >= 1)
    sizes = [transposed_output_size(n, k, s, p, a, d) for a in range(s)]
    assert sizes == list(range(first, first + s))
    assert [output_size(m, k, s, p, d) for m in sizes] == [n] * s
    assert output_size(first + s, k, s, p, d) == n + 1
    if first > 1 and first - 1 + 2 * p >= d * (k - 1) + 1:
        assert output_size(first - 1, k, s, p, d) == n - 1


def test_known_sizes():
    assert transposed_output_size(4, 4, 2, 1) == 8  # doubles
    assert [transposed_output_size(112, 7, 2, 3, a) for a in (0, 1)] == [223, 224]
    assert [output_padding_for(n, 7, 2, 3) for n in (223, 224)] == [0, 1]


@given(n=st.integers(1, 6), k=st.integers(1, 6), s=st.integers(1, 4), seed=seeds)
def test_cutting_as_same_does(n, k, s, seed):
    """What the page says of SAME: the gradient of a SAME convolution is this slice."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1, n, generator=generator, dtype=torch.float64)
    weight = torch.randn(1, 1, k, generator=generator, dtype=torch.float64)
    before, after = same_padding(n * s, k, s)
    z = torch.zeros(1, 1, n * s, dtype=torch.float64, requires_grad=True)
    y = F.conv1d(F.pad(z, (before, after)), weight, stride=s)
    assert y.shape[-1] == n
    full = conv_transpose2d_scatter(x[:, :, None], weight[:, :, None], stride=(1, s))[:, :, 0]
    full = F.pad(full, (0, max(s - k, 0)))  # no longer than n * s if the kernel is short
    assert before + after == max(k - s, 0)
    assert_all_close(torch.autograd.grad(y, z, x), [full[:, :, before : before + n * s]])


# Overlaps ---------------------------------------------------------------------


@given(size=pairs, k=pairs, stride=pairs, dilation=pairs)
def test_overlap_by_counting(size, k, stride, dilation):
    counts = overlap_count(size, k, stride, dilation=dilation)
    expected = np.zeros(counts.shape, dtype=int)
    for i, j, u, v in np.ndindex(*size, *k):
        expected[stride[0] * i + dilation[0] * u, stride[1] * j + dilation[1] * v] += 1
    assert counts.dtype == torch.int64 and counts.tolist() == expected.tolist()


@pytest.mark.parametrize(("k", "s"), list(itertools.product(range(1, 8), range(1, 5))))
def test_overlap_is_even_exactly_if_the_stride_divides_the_kernel(k, s):
    inner = overlap_count(20, k, s)[7:-7, 7:-7]  # where no stamp is missing
    rows = {-(-k // s), k // s}
    assert set(inner.unique().tolist()) == {a * b for a, b in itertools.product(rows, rows)}
    assert (inner.min() == inner.max()) == (k % s == 0)


def test_known_overlaps():
    assert overlap_count((1, 3), (1, 3), 2).tolist() == [[1, 1, 2, 1, 2, 1, 1]]
    counts = overlap_count(4, 3, 2, padding=1, output_padding=1)
    assert counts[:2, :2].tolist() == [[1, 2], [2, 4]] and counts.shape == (8, 8)


@pytest.mark.parametrize(("k", "s"), [(3, 2), (4, 2), (5, 3), (2, 3), (6, 3)])
def test_a_constant_stays_constant_exactly_if_the_phases_have_equal_sums(k, s):
    """Each output phase has its own part of the kernel, w[r::s], and its own sum."""
    weight = random_xwb(c=1, o=1, kh=1, kw=k)[1]
    sums = torch.stack([weight[0, 0, 0, r::s].sum() for r in range(s)])
    out = conv_transpose2d_scatter(weight.new_ones(1, 1, 1, 12), weight, None, (1, s))[0, 0, 0]
    for r in range(s):
        inner = out[r::s][3:9]
        assert_all_close([inner], [sums[r].expand(len(inner))])


def test_the_bilinear_kernel_leaves_a_constant_alone():
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
    weight = torch.outer(row, row)[None, None]
    out = conv_transpose2d_scatter(weight.new_ones(1, 1, 5, 5), weight, None, 2, 1)
    assert_all_close([out[:, :, 1:-1, 1:-1]], [weight.new_ones(1, 1, 8, 8)])
    x = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = conv_transpose2d_scatter(x, weight, None, 2, 1)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert_all_close([out[:, :, 1:-1, 1:-1]], [expected[:, :, 1:-1, 1:-1]])


@pytest.mark.parametrize("s", [2, 3])
def test_equals_sub_pixel_convolution(s):
    """Kernel 2 s: s * s ordinary convolutions, one for each phase, then pixel_shuffle."""
    x, weight, _ = random_xwb(kh=2 * s, kw=2 * s)
    phases = weight.unflatten(3, (2, s)).unflatten(2, (2, s))  # (C, O, 2, S, 2, S)
    kernels = phases.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).flip(2, 3)  # (O*S*S, C, 2, 2)
    expected = F.pixel_shuffle(F.conv2d(x, kernels, padding=1), s)
    assert_all_close([conv_transpose2d_scatter(x, weight, None, s)], [expected])


# What the page says -----------------------------------------------------------


def test_not_an_inverse():
    x = torch.arange(1.0, 6.0).reshape(1, 1, 1, 5)
    ones = torch.ones(1, 1, 1, 3)
    back = conv_transpose2d_scatter(F.conv2d(x, ones), ones)
    assert back.flatten().tolist() == [6, 15, 27, 21, 12]


def test_an_inverse_if_the_stamps_are_orthonormal():
    x = random_xwb(c=4, h=6, w=6)[0]
    q = torch.linalg.qr(random_xwb(b=1, c=1, h=16, w=16)[0][0, 0])[0]
    weight = q.reshape(16, 4, 2, 2)  # 16 orthonormal kernels for windows of 4 * 2 * 2 numbers
    y = F.conv2d(x, weight, stride=2)
    assert_all_close([conv_transpose2d_scatter(y, weight, None, 2)], [x])


def test_pytorch_counts_the_wrong_channels_as_fan_in():
    weight = nn.ConvTranspose2d(64, 8, 4, 2).weight
    assert weight.shape == (64, 8, 4, 4)
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    assert (fan_in, fan_out) == (8 * 16, 64 * 16)


# Invariants -------------------------------------------------------------------


@each_way
@settings(max_examples=5)
@given(seed=seeds)
def test_linear_in_input_and_in_weight(transposed, seed):
    (x, w, _), (x2, w2, _) = random_xwb(seed=seed), random_xwb(seed=seed ^ 1)
    assert_all_close(
        [transposed(2 * x + x2, w, stride=2), transposed(x, 2 * w + w2, stride=2)],
        [
            2 * transposed(x, w, stride=2) + transposed(x2, w, stride=2),
            2 * transposed(x, w, stride=2) + transposed(x, w2, stride=2),
        ],
    )


@each_way
@settings(max_examples=10)
@given(shift=st.tuples(st.integers(0, 3), st.integers(0, 3)), seed=seeds)
def test_a_shift_by_one_shifts_the_output_by_the_stride(transposed, shift, seed):
    x, weight, _ = random_xwb(seed=seed)
    down, right = shift
    moved = transposed(F.pad(x, (right, 0, down, 0)), weight, stride=(2, 3))
    inside = transposed(x, weight, stride=(2, 3))
    assert_all_close([moved[:, :, 2 * down :, 3 * right :]], [inside])
    assert not moved[:, :, : 2 * down].any() and not moved[..., : 3 * right].any()


@each_way
def test_padding_cuts_and_output_padding_gives_back(transposed):
    xwb = random_xwb()
    full = transposed(*xwb, stride=3)
    assert_all_close([transposed(*xwb, 3, 1)], [full[:, :, 1:-1, 1:-1]])
    assert_all_close([transposed(*xwb, 3, 2, 1)], [full[:, :, 2:-1, 2:-1]])
    longer = transposed(*xwb, 3, 1, 2)  # one more than there is: nothing but the bias
    assert_all_close([longer[:, :, :-1, :-1]], [full[:, :, 1:, 1:]])
    assert_all_close([longer[0, :, -1, 0]], [xwb[2]])


@each_way
def test_batched_equals_single(transposed):
    x, weight, bias = random_xwb(b=3)
    singles = torch.cat([transposed(x[b : b + 1], weight, bias, 2) for b in range(3)])
    assert_all_close([transposed(x, weight, bias, 2)], [singles])


@each_way
def test_groups_are_separate_layers(transposed):
    x, weight, bias = random_xwb(groups=2)
    halves = zip(x.chunk(2, 1), weight.chunk(2), bias.chunk(2))
    expected = torch.cat([transposed(*half, 2, 1) for half in halves], 1)
    assert_all_close([transposed(x, weight, bias, 2, 1, groups=2)], [expected])


@each_way
def test_arguments_stay_as_they_are(transposed):
    xwb = random_xwb()
    copies = [t.clone() for t in xwb]
    transposed(*xwb, 2, 1)
    for t, copy in zip(xwb, copies, strict=True):
        assert torch.equal(t, copy) and t._version == 0


# Gradient ---------------------------------------------------------------------


@each_way
def test_gradient(transposed):
    xwb = [t.requires_grad_() for t in random_xwb(1, 2, 2, 1, 2, 2, 1, 2)]
    options = ((2, 3), (0, 1), (1, 0), 2, (1, 2))
    assert torch.autograd.gradcheck(lambda *t: transposed(*t, *options), xwb)
    assert torch.autograd.gradgradcheck(lambda *t: transposed(*t, *options), xwb)


# Edges ------------------------------------------------------------------------


@each_way
def test_no_image(transposed):
    x, weight, bias = random_xwb(b=0)
    assert transposed(x, weight, bias, 2, 1, 1).shape == (0, 6, 8, 9)


@each_way
def test_one_cell_gives_the_kernel(transposed):
    weight = random_xwb()[1]
    x = weight.new_zeros(1, 4, 1, 1)
    x[0, 2] = 3
    assert_all_close([transposed(x, weight, stride=5)], [3 * weight[2:3]])


@each_way
def test_non_contiguous_input(transposed):
    x, weight, bias = random_xwb()
    strided = [
        x.to(memory_format=torch.channels_last),
        weight.transpose(0, 3).contiguous().transpose(0, 3),
        torch.stack([bias, bias], 1)[:, 0],
    ]
    assert not any(t.is_contiguous() for t in strided)
    assert_all_close(
        run_with_gradients(lambda *t: transposed(*t, 2, groups=1), strided),
        run_with_gradients(lambda *t: transposed(*t, 2, groups=1), [x, weight, bias]),
    )


@each_way
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(transposed, dtype):
    xwb = random_xwb(dtype=dtype)
    exact = transposed(*(t.double() for t in xwb), 2, 1)
    out = transposed(*xwb, 2, 1)
    assert out.dtype == dtype
    step = 32 * torch.finfo(dtype).eps
    assert_close(out.double(), exact, rtol=step, atol=step)


# Bad input --------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.zeros(3, 9, 8)), ValueError, r"x must be .* got \(3, 9, 8\)"),
        (dict(x=torch.zeros(2, 4, 4, 5).long()), TypeError, "floating point, got torch.int64"),
        (dict(weight=torch.zeros(4, 6, 3)), ValueError, r"weight must be .* got \(4, 6, 3\)"),
        (
            dict(weight=torch.zeros(6, 4, 3, 2).double()),
            ValueError,
            r"differ in C: \(2, 4, 4, 5\), \(6, 4, 3, 2\)",
        ),
        (dict(weight=torch.zeros(4, 0, 3, 2).double()), ValueError, r"got \(4, 0, 3, 2\)"),
        (dict(weight=torch.zeros(4, 6, 0, 2).double()), ValueError, "kernel must .* got 0"),
        (dict(x=torch.zeros(2, 4, 0, 5).double()), ValueError, "n must be at least 1, got 0"),
        (dict(bias=torch.zeros(4).double()), ValueError, r"bias must be \(6,\), got \(4,\)"),
        (dict(groups=2), ValueError, r"bias must be \(12,\), got \(6,\)"),
        (dict(groups=3), ValueError, "divide C = 4, got 3"),
        (dict(groups=0), ValueError, "divide C = 4, got 0"),
        (dict(stride=0), ValueError, "stride must be at least 1, got 0"),
        (dict(dilation=(1, 0)), ValueError, "dilation must be at least 1, got 0"),
        (dict(padding=-1), ValueError, "padding must not be negative, got -1"),
        (dict(padding=4), ValueError, "leaves no output: size -2"),
        (dict(stride=2, output_padding=2), ValueError, "got 2 with 2 and 1"),
        (dict(output_padding=-1), ValueError, "got -1 with 1 and 1"),
        (dict(weight=torch.zeros(4, 6, 3, 2)), TypeError, "dtype: torch.float64, torch.float32"),
        (dict(bias=torch.zeros(6)), TypeError, "dtype: torch.float64, torch.float32"),
    ],
)
def test_bad_input(transposed, change, error, message):
    good = dict(zip(("x", "weight", "bias"), random_xwb(), strict=True))
    transposed(**good)
    with pytest.raises(error, match=message):
        transposed(**(good | change))


def test_bad_sizes():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        transposed_output_size(0, 3)
    with pytest.raises(ValueError, match=r"does not fit into 2 \+ 2 \* 1 cells"):
        output_padding_for(2, 5, 2, 1)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        overlap_count((0, 3), 3)
    with pytest.raises(ValueError, match="kernel must be at least 1, got 0"):
        overlap_count(3, 0)
