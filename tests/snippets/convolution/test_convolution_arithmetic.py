"""Convolution arithmetic: parity, invariants, gradient, edges, bad input.

Yardstick: torch.nn.functional.conv2d; torch.nn.functional.unfold; scipy.signal.correlate2d;
    torch.utils.flop_counter.FlopCounterMode; plain loops.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.signal import convolve2d, correlate2d
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from snippets.convolution.convolution_arithmetic import (
    conv2d_cost,
    conv2d_direct,
    conv2d_fft,
    conv2d_im2col,
    im2col,
    output_size,
    same_padding,
)

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 3)
pairs = st.tuples(small, small)
pads = st.tuples(st.integers(0, 3), st.integers(0, 3))

WAYS = [conv2d_direct, conv2d_im2col]
ALL_WAYS = [*WAYS, conv2d_fft]
each_way = pytest.mark.parametrize("convolve", ALL_WAYS, ids=lambda f: f.__name__)

# stride, padding, dilation: one number or (height, width), no two alike by accident
SETTINGS = {
    "plain": dict(),
    "stride": dict(stride=(2, 3)),
    "padding": dict(padding=(2, 1)),
    "dilation": dict(dilation=(2, 3)),
    "all": dict(stride=(3, 2), padding=(1, 2), dilation=(1, 2)),
    "one number": dict(stride=2, padding=1, dilation=2),
}


def random_xwb(b=2, c=3, h=9, w=8, o=4, kh=3, kw=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, c, h, w), (o, c, kh, kw), (o,)]
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


def by_definition(x, w, bias, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """The formula of the page, one number at a time; outside of x everything is zero."""
    size = []
    for axis in (0, 1):  # walk until the window leaves the padded input
        last = x.shape[2 + axis] + 2 * padding[axis] - 1
        count = 0
        while count * stride[axis] + dilation[axis] * (w.shape[2 + axis] - 1) <= last:
            count += 1
        size.append(count)
    out = np.zeros((x.shape[0], w.shape[0], *size))
    for b, o, i, j in np.ndindex(out.shape):
        total = bias[o]
        for c, u, v in np.ndindex(w.shape[1:]):
            row = stride[0] * i + dilation[0] * u - padding[0]
            column = stride[1] * j + dilation[1] * v - padding[1]
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                total += w[o, c, u, v] * x[b, c, row, column]
        out[b, o, i, j] = total
    return out


# Parity: convolution --------------------------------------------------------


@pytest.mark.parametrize("convolve", WAYS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_equals_pytorch(convolve, setting, with_bias):
    tensors = random_xwb()[: 3 if with_bias else 2]
    assert_all_close(
        run_with_gradients(lambda *t: convolve(*t, **setting), tensors),
        run_with_gradients(lambda *t: F.conv2d(*t, **setting), tensors),
    )


@given(
    h=st.integers(1, 7), w=st.integers(1, 7), k=pairs, stride=pairs, padding=pads, dilation=pairs,
    seed=seeds,
)  # fmt: skip
def test_equals_pytorch_at_any_setting(h, w, k, stride, padding, dilation, seed):
    for n, kernel, p, d in zip((h, w), k, padding, dilation):
        assume(n + 2 * p >= d * (kernel - 1) + 1)
    xwb = random_xwb(2, 2, h, w, 3, *k, seed=seed)
    expected = run_with_gradients(lambda *t: F.conv2d(*t, stride, padding, dilation), xwb)
    for convolve in WAYS:
        actual = run_with_gradients(
            lambda *t, convolve=convolve: convolve(*t, stride, padding, dilation), xwb
        )
        assert_all_close(actual, expected)


@pytest.mark.parametrize("padding", [0, 2, (1, 3)], ids=str)
@pytest.mark.parametrize("size", [(9, 8), (6, 7), (3, 2)], ids=str)
def test_fft_equals_pytorch(padding, size):
    xwb = random_xwb(h=size[0], w=size[1])
    assert_all_close(
        run_with_gradients(lambda *t: conv2d_fft(*t, padding=padding), xwb),
        run_with_gradients(lambda *t: F.conv2d(*t, padding=padding), xwb),
    )
    assert_all_close([conv2d_fft(*xwb[:2])], [F.conv2d(*xwb[:2])])


@given(stride=pairs, padding=pads, dilation=pairs, seed=seeds)
def test_equals_the_definition(stride, padding, dilation, seed):
    assume(2 * padding[1] + 5 >= 2 * dilation[1] + 1)
    xwb = random_xwb(1, 2, 6, 5, 2, 2, 3, seed=seed)
    expected = by_definition(*(t.numpy() for t in xwb), stride, padding, dilation)
    for convolve in WAYS:
        actual = convolve(*xwb, stride, padding, dilation)
        assert_all_close([actual], [torch.from_numpy(expected)])


@each_way
def test_equals_scipys_correlation_summed_over_the_channels(convolve):
    x, weight, bias = random_xwb()
    expected = [
        [
            sum(correlate2d(x[b, c], weight[o, c], mode="valid") for c in range(3)) + bias[o].item()
            for o in range(4)
        ]
        for b in range(2)
    ]
    assert_all_close([convolve(x, weight, bias)], [torch.from_numpy(np.array(expected))])


@each_way
def test_scipys_convolution_flips_the_kernel(convolve):
    x, weight, _ = random_xwb(b=1, c=1, o=1)
    expected = torch.from_numpy(convolve2d(x[0, 0], weight[0, 0], mode="valid"))[None, None]
    assert_all_close([convolve(x, weight.flip(2, 3))], [expected])
    assert not torch.allclose(convolve(x, weight), expected)


@each_way
def test_gradients_are_a_full_convolution_and_a_correlation(convolve):
    """What the page says of them; stride 1."""
    x, weight, _ = (t.requires_grad_() for t in random_xwb(b=1, c=1, o=1))
    out = convolve(x, weight)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    grads = torch.autograd.grad(out, (x, weight), g)
    x, weight, g = (t.detach().numpy()[0, 0] for t in (x, weight, g))
    expected = [convolve2d(g, weight, mode="full"), correlate2d(x, g, mode="valid")]
    assert_all_close([t[0, 0] for t in grads], [torch.from_numpy(e) for e in expected])


@given(k=pairs, stride=pairs, padding=pads, dilation=pairs, seed=seeds)
def test_im2col_equals_unfold(k, stride, padding, dilation, seed):
    x = random_xwb(h=7, w=8, seed=seed)[0]
    settings = (k, dilation, padding, stride)
    assert_all_close(
        run_with_gradients(lambda x: im2col(x, k, stride, padding, dilation), [x]),
        run_with_gradients(lambda x: F.unfold(x, *settings), [x]),
    )


def test_im2col_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    columns = im2col(x, 3)
    assert columns[0, :, 0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert columns[0, 0].tolist() == [0, 1, 4, 5]  # the first row of the matrix


# Parity: sizes --------------------------------------------------------------

axes = dict(
    n=st.integers(1, 20), k=st.integers(1, 7), s=st.integers(1, 5), p=st.integers(0, 4),
    d=st.integers(1, 4),
)  # fmt: skip


@given(**axes)
def test_output_size_equals_pytorch(n, k, s, p, d):
    x, weight = torch.zeros(1, 1, n), torch.zeros(1, 1, k)
    try:
        expected = F.conv1d(x, weight, stride=s, padding=p, dilation=d).shape[-1]
    except RuntimeError:
        with pytest.raises(ValueError, match=f"a window of {d * (k - 1) + 1} does not fit into"):
            output_size(n, k, s, p, d)
    else:
        assert output_size(n, k, s, p, d) == expected


@given(**axes)
def test_ceil_mode_equals_pytorchs_pooling(n, k, s, p, d):
    p = min(p, k // 2)  # pooling allows no more
    x = torch.zeros(1, 1, n)
    for ceil_mode in (False, True):
        try:
            expected = F.max_pool1d(x, k, s, p, d, ceil_mode=ceil_mode).shape[-1]
        except RuntimeError:
            with pytest.raises(ValueError, match=f"does not fit into {n} "):
                output_size(n, k, s, p, d, ceil_mode)
        else:
            assert output_size(n, k, s, p, d, ceil_mode) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((6, 3, 2, 0, 1, True), 3),  # the third window is cut off
        ((3, 2, 2, 1, 1, True), 2),  # a third would start in the padding
        ((2, 3, 2, 0, 1, True), 1),  # the only one is cut off
        ((224, 7, 2, 3), 112),
    ],
)
def test_known_sizes(arguments, expected):
    assert output_size(*arguments) == expected


@given(n=st.integers(1, 20), k=st.integers(1, 7), s=st.integers(1, 5), d=st.integers(1, 4))
def test_same_padding_gives_a_size_of_ceil_n_over_s_with_the_least_padding(n, k, s, d):
    before, after = same_padding(n, k, s, d)
    assert output_size(n + before + after, k, s, 0, d) == math.ceil(n / s)
    assert after - before in (0, 1) and before >= 0
    if before + after > 0:  # with one cell less, a window less (or none at all)
        assert (n + before + after - 1 - d * (k - 1) - 1) // s + 1 < math.ceil(n / s)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_same_padding_equals_pytorchs_at_stride_1(k, d):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 9, generator=generator)
    weight = torch.randn(1, 1, k, generator=generator)
    expected = F.conv1d(x, weight, padding="same", dilation=d)
    padded = F.pad(x, same_padding(9, k, 1, d))
    assert_close(F.conv1d(padded, weight, dilation=d), expected)


def test_same_padding_with_stride_as_in_tensorflows_guide():
    assert same_padding(13, 6, 5) == (1, 2)  # 13 cells, kernel 6, stride 5: 3 windows
    assert same_padding(224, 3, 2) == (0, 1)
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(5, 1, 3) == (0, 0)  # windows fit without: never negative


# Parity: cost ---------------------------------------------------------------


@given(k=pairs, stride=pairs, padding=pads, dilation=pairs, o=small, c=small, b=small)
def test_cost_equals_what_pytorch_counts(k, stride, padding, dilation, o, c, b):
    x, weight, bias = random_xwb(b, c, 7, 8, o, *k)
    x.requires_grad_()
    weight.requires_grad_()
    with FlopCounterMode(display=False) as forwards:
        out = F.conv2d(x, weight, bias, stride, padding, dilation)
    cost = conv2d_cost(tuple(x.shape), tuple(weight.shape), stride, padding, dilation, 8)
    assert cost.output == tuple(out.shape)
    assert cost.flops == 2 * cost.macs == forwards.get_total_flops()
    assert cost.bytes == sum(t.numel() * t.element_size() for t in (x, weight, out))
    columns = F.unfold(x, k, dilation, padding, stride)
    assert cost.im2col_bytes == columns.numel() * columns.element_size()
    assert cost.intensity == cost.flops / cost.bytes
    with FlopCounterMode(display=False) as backwards:
        out.sum().backward()
    assert backwards.get_total_flops() == 2 * cost.flops  # what the page says of training


def test_im2col_does_as_many_operations():
    x, weight, _ = random_xwb()
    with FlopCounterMode(display=False) as counter:
        conv2d_im2col(x, weight, None, 2, 1)
    assert counter.get_total_flops() == conv2d_cost(tuple(x.shape), tuple(weight.shape), 2, 1).flops


def test_a_known_cost():
    """The 3 x 3 layers of a ResNet's first stage: 64 to 64 channels on 56 x 56."""
    cost = conv2d_cost((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    assert cost.macs == 115_605_504 and cost.im2col_bytes == 9 * 64 * 56 * 56 * 4
    assert cost.bytes == 4 * (2 * 64 * 56 * 56 + 64 * 64 * 9)


def test_the_numbers_of_the_page():
    assert output_size(10, 4, padding=4 // 2) == 11  # an even kernel with k // 2: one cell more
    spectrum = torch.fft.rfft2(torch.zeros(3, 3), s=(58, 58))
    assert round(spectrum.numel() * spectrum.element_size() / (9 * 4)) == 387

    def macs(c, o, kernel, n, stride=1):
        return conv2d_cost((1, c, n, n), (o, c, kernel, kernel), stride, kernel // 2).macs

    total, c, n = macs(3, 64, 7, 224, 2) + 2048 * 1000, 64, 56  # ResNet-50: first and last layer
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            total += macs(c, width, 1, n) + macs(width, width, 3, n, stride)
            total += 0 if block else macs(c, 4 * width, 1, n, stride)  # shortcut
            c, n = 4 * width, n // stride
            total += macs(width, c, 1, n)
    assert total == 4_089_184_256


# Invariants -----------------------------------------------------------------


@each_way
@given(seed=seeds)
def test_linear_in_input_and_in_weight(convolve, seed):
    (x, weight, _), (x2, weight2, _) = random_xwb(seed=seed), random_xwb(seed=seed ^ 1)
    assert_all_close(
        [convolve(2 * x + x2, weight), convolve(x, 2 * weight + weight2)],
        [
            2 * convolve(x, weight) + convolve(x2, weight),
            2 * convolve(x, weight) + convolve(x, weight2),
        ],
    )


@each_way
@given(shift=st.tuples(st.integers(0, 3), st.integers(0, 3)), seed=seeds)
def test_a_shifted_input_shifts_the_output(convolve, shift, seed):
    x, weight, bias = random_xwb(seed=seed)
    down, right = shift
    moved = convolve(F.pad(x, (right, 0, down, 0)), weight, bias)
    assert_all_close([moved[:, :, down:, right:]], [convolve(x, weight, bias)])


@pytest.mark.parametrize("convolve", WAYS, ids=lambda f: f.__name__)
def test_stride_keeps_every_second_output(convolve):
    xwb = random_xwb()
    assert_all_close([convolve(*xwb, 2, 1)], [convolve(*xwb, 1, 1)[:, :, ::2, ::2]])


@pytest.mark.parametrize("convolve", WAYS, ids=lambda f: f.__name__)
def test_dilation_puts_zeros_between_the_cells(convolve):
    x, weight, bias = random_xwb()
    wide = weight.new_zeros(4, 3, 5, 3)
    wide[:, :, ::2, ::2] = weight
    assert_all_close([convolve(x, weight, bias, dilation=2)], [convolve(x, wide, bias)])


@each_way
def test_a_kernel_of_one_cell_mixes_channels(convolve):
    x, weight, bias = random_xwb(kh=1, kw=1)
    expected = F.linear(x.movedim(1, -1), weight[:, :, 0, 0], bias).movedim(-1, 1)
    assert_all_close([convolve(x, weight, bias)], [expected])


@each_way
def test_batched_equals_single(convolve):
    x, weight, bias = random_xwb(b=3)
    singles = torch.cat([convolve(x[b : b + 1], weight, bias) for b in range(3)])
    assert_all_close([convolve(x, weight, bias)], [singles])


@each_way
def test_arguments_stay_as_they_are(convolve):
    xwb = random_xwb()
    copies = [t.clone() for t in xwb]
    convolve(*xwb, padding=1)
    for t, copy in zip(xwb, copies, strict=True):
        assert torch.equal(t, copy) and t._version == 0


# Gradient -------------------------------------------------------------------


@each_way
def test_gradient(convolve):
    xwb = [t.requires_grad_() for t in random_xwb(1, 2, 4, 5, 2, 2, 3)]
    assert torch.autograd.gradcheck(lambda *t: convolve(*t, padding=1), xwb)
    assert torch.autograd.gradgradcheck(lambda *t: convolve(*t, padding=1), xwb)


@pytest.mark.parametrize("convolve", WAYS, ids=lambda f: f.__name__)
def test_gradient_with_stride_and_dilation(convolve):
    xwb = [t.requires_grad_() for t in random_xwb(1, 2, 5, 5, 2, 2, 2)]
    assert torch.autograd.gradcheck(lambda *t: convolve(*t, (2, 1), (1, 0), (1, 2)), xwb)


# Edges ----------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    "shape", [dict(b=0), dict(c=0), dict(o=0)], ids=["no image", "no input channel", "no kernel"]
)
def test_empty(convolve, shape):
    x, weight, bias = random_xwb(**shape)
    out = convolve(x, weight, bias)
    expected = bias[:, None, None].expand(x.shape[0], weight.shape[0], 7, 7)
    assert out.shape == expected.shape
    if not x.shape[1]:
        assert torch.equal(out, expected)  # a sum over nothing, and the bias


@each_way
def test_a_kernel_as_large_as_the_input(convolve):
    x, weight, bias = random_xwb(h=3, w=2)
    expected = torch.einsum("bchw,ochw->bo", x, weight) + bias
    assert_all_close([convolve(x, weight, bias)], [expected[:, :, None, None]])


@each_way
def test_non_contiguous_input(convolve):
    x, weight, bias = random_xwb()
    strided = [
        x.to(memory_format=torch.channels_last),
        weight.transpose(0, 3).contiguous().transpose(0, 3),
        torch.stack([bias, bias], 1)[:, 0],
    ]
    assert not any(t.is_contiguous() for t in strided)
    assert_all_close(
        run_with_gradients(convolve, strided),
        run_with_gradients(convolve, [x, weight, bias]),
    )


@pytest.mark.parametrize("convolve", WAYS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(convolve, dtype):
    xwb = random_xwb(dtype=dtype)
    exact = convolve(*(t.double() for t in xwb), 2, 1)
    out = convolve(*xwb, 2, 1)
    assert out.dtype == dtype
    step = 32 * torch.finfo(dtype).eps
    assert_close(out.double(), exact, rtol=step, atol=step)


def test_fft_in_float32():
    xwb = random_xwb(dtype=torch.float32)
    out = conv2d_fft(*xwb)
    assert out.dtype == torch.float32
    assert_close(out.double(), conv2d_direct(*(t.double() for t in xwb)), rtol=1e-5, atol=1e-5)


# Bad input ------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.zeros(3, 9, 8)), ValueError, r"x must be .* got \(3, 9, 8\)"),
        (dict(weight=torch.zeros(4, 3, 3)), ValueError, r"weight must be .* got \(4, 3, 3\)"),
        (
            dict(weight=torch.zeros(4, 2, 3, 2, dtype=torch.float64)),
            ValueError,
            r"differ in C: \(2, 3, 9, 8\), \(4, 2, 3, 2\)",
        ),
        (dict(bias=torch.zeros(3).double()), ValueError, r"bias must be \(4,\), got \(3,\)"),
        (
            dict(weight=torch.zeros(4, 3, 10, 2).double()),
            ValueError,
            r"a window of 10 does not fit into 9 \+ 2 \* 0 cells",
        ),
        (
            dict(weight=torch.zeros(4, 3, 3, 0).double()),
            ValueError,
            "kernel must be at least 1, got 0",
        ),
        (dict(padding=-1), ValueError, "padding must not be negative, got -1"),
        (dict(x=torch.zeros(2, 3, 9, 8).long()), TypeError, "floating point, got torch.int64"),
        (dict(weight=torch.zeros(4, 3, 3, 2)), TypeError, "dtype: torch.float64, torch.float32"),
        (dict(bias=torch.zeros(4)), TypeError, "dtype: torch.float64, torch.float32"),
    ],
)
def test_bad_input(convolve, change, error, message):
    good = dict(zip(("x", "weight", "bias"), random_xwb(), strict=True))
    with pytest.raises(error, match=message):
        convolve(**(good | change))


@pytest.mark.parametrize("convolve", WAYS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_bad_steps(convolve, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        convolve(*random_xwb(), **{name: (1, 0)})


def test_fft_refuses_half_precision():
    with pytest.raises(TypeError, match="float32 or float64, got torch.float16"):
        conv2d_fft(*random_xwb(dtype=torch.float16))


def test_bad_sizes():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        output_size(0, 3)
    with pytest.raises(ValueError, match="a window of 5 does not fit into 2 \\+ 2 \\* 1 cells"):
        output_size(2, 3, 1, 1, 2)
    with pytest.raises(ValueError, match="kernel must be at least 1, got 0"):
        same_padding(5, 0)
    with pytest.raises(ValueError, match=r"x must be .* got \(9, 8\)"):
        im2col(torch.zeros(9, 8), 3)
    with pytest.raises(TypeError, match="got torch.int64"):
        im2col(torch.zeros(1, 1, 9, 8).long(), 3)


def test_bad_shapes_for_the_cost():
    with pytest.raises(ValueError, match=r"x must be .* got \(3, 9, 8\)"):
        conv2d_cost((3, 9, 8), (4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"differ in C: \(1, 2, 9, 8\), \(4, 3, 3, 3\)"):
        conv2d_cost((1, 2, 9, 8), (4, 3, 3, 3))
