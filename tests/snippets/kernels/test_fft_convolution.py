"""FFT convolution: parity, wrap-around, invariants, counts, error, gradient, edges, bad input.

Yardstick: torch.nn.functional.conv2d; scipy.signal.fftconvolve; scipy.signal.correlate2d; plain
    loops.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import next_fast_len
from scipy.signal import correlate2d, fftconvolve, oaconvolve
from torch.testing import assert_close

from snippets.kernels.fft_convolution import causal_conv1d, fast_size, fft_conv2d, fft_cost

seeds = st.integers(0, 999)
tiles = st.sampled_from([None, 1, 2, 3, 5, 8])


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


# Sizes ------------------------------------------------------------------------


def test_fast_sizes_are_those_of_scipy():
    """Real transforms of scipy have factors 2, 3 and 5 only."""
    assert [fast_size(n) for n in range(1, 2000)] == [
        next_fast_len(n, real=True) for n in range(1, 2000)
    ]
    assert [fast_size(n) for n in (0, 7, 11, 97)] == [1, 8, 12, 100]


def test_fast_sizes_are_never_far():
    """Below 4000 at most 15.4 % more (15 for 13), from 22 on at most 10.8 % (360 for 325)."""
    more = {n: fast_size(n) / n for n in range(1, 4000)}
    assert max(more, key=more.get) == 13 and fast_size(13) == 15
    assert max(value for n, value in more.items() if n >= 22) == 360 / 325


# Parity -------------------------------------------------------------------------


@given(*[st.integers(1, 6)] * 2, *[st.integers(1, 4)] * 2, *[st.integers(0, 4)] * 2, tiles, seeds)
def test_equals_the_definition(h, w, kh, kw, ph, pw, tile, seed):
    h, w = max(h, kh - 2 * ph), max(w, kw - 2 * pw)
    x, weight = random_xw(1, 2, h, w, 2, kh, kw, seed)
    assert_same(fft_conv2d(x, weight, (ph, pw), tile), by_definition(x, weight, (ph, pw)))


@pytest.mark.parametrize("tile", [None, 1, 4, 7, 50])
@pytest.mark.parametrize("padding", [0, 1, (2, 0), (5, 6)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 2), (9, 8)], ids=str)
def test_equals_pytorch(tile, padding, kernel):
    tensors = random_xw(kh=kernel[0], kw=kernel[1])
    actual = with_gradients(lambda *t: fft_conv2d(*t, padding, tile), tensors)
    assert_same(actual, with_gradients(lambda *t: F.conv2d(*t, padding=padding), tensors))


@pytest.mark.parametrize("tile", [None, 16])
def test_a_kernel_larger_than_the_image(tile):
    """One cell in a frame of zeros: the whole kernel fits into the frame only."""
    tensors = random_xw(h=1, w=2, kh=7, kw=8)
    actual = with_gradients(lambda *t: fft_conv2d(*t, 3, tile), tensors)
    assert actual[0].shape == (2, 4, 1, 1)
    assert_same(actual, with_gradients(lambda *t: F.conv2d(*t, padding=3), tensors))


@pytest.mark.parametrize("tile", [None, 6])
@pytest.mark.parametrize("mode", ["valid", "full"])
def test_equals_scipy(tile, mode):
    """fftconvolve and oaconvolve flip the kernel, correlate2d does not."""
    x, weight = random_xw(1, 1, 23, 17, 1, 5, 4)
    padding = (4, 3) if mode == "full" else 0
    actual = fft_conv2d(x, weight, padding, tile)[0, 0]
    a, b = x[0, 0].numpy(), weight[0, 0].numpy()
    assert_same(actual, torch.from_numpy(correlate2d(a, b, mode)))
    assert_same(actual, torch.from_numpy(fftconvolve(a, b[::-1, ::-1], mode)))
    assert_same(actual, torch.from_numpy(oaconvolve(a, b[::-1, ::-1], mode)))


@given(st.integers(1, 20), st.integers(1, 25), seeds)
def test_long_convolution(length, taps, seed):
    x, kernel = random(2, 3, length, seed=seed), random(3, taps, seed=seed + 1)

    def direct(x, kernel):
        padded = F.pad(x, (kernel.shape[1] - 1, 0))
        return F.conv1d(padded, kernel.flip(1)[:, None], groups=3)

    assert_same(with_gradients(causal_conv1d, [x, kernel]), with_gradients(direct, [x, kernel]))
    line = fftconvolve(x[1, 2].numpy(), kernel[2].numpy())[:length]
    assert_same(causal_conv1d(x, kernel)[1, 2], torch.from_numpy(line))


# Invariants -----------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, 4])
def test_nothing_wraps_around(tile):
    """A bright border on one side must not be seen from the other."""
    x = torch.zeros(1, 1, 12, 11, dtype=torch.float64)
    x[..., 0, :], x[..., :, 0] = 1e6, 1e6
    weight = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    out = fft_conv2d(x, weight, 2, tile)
    assert out[..., 3:, 3:].abs().max() < 1e-7
    assert_same(out, F.conv2d(x, weight, padding=2), 1e-6)


@given(tiles, tiles, st.integers(1, 6), seeds)
def test_the_tile_does_not_matter(one, other, k, seed):
    x, weight = random_xw(h=9, w=7, kh=k, kw=3, seed=seed)
    assert_same(fft_conv2d(x, weight, 1, one), fft_conv2d(x, weight, 1, other), 1e-11)


@given(tiles, seeds)
def test_a_batch_equals_its_members(tile, seed):
    x, weight = random_xw(b=3, seed=seed)
    alone = [fft_conv2d(image[None], weight, 1, tile) for image in x]
    assert_same(fft_conv2d(x, weight, 1, tile), torch.cat(alone), 1e-12)


@given(tiles, st.integers(0, 4), st.integers(0, 4), seeds)
def test_a_shifted_input_gives_a_shifted_output(tile, down, right, seed):
    x, weight = random_xw(h=6, w=6, seed=seed)
    move = (right, 4 - right, down, 4 - down)
    expected = F.pad(fft_conv2d(x, weight, 2, tile), move)
    assert_same(fft_conv2d(F.pad(x, move), weight, 2, tile), expected, 1e-11)


@given(st.integers(1, 12), st.integers(0, 11), seeds)
def test_the_past_has_no_influence_from_the_future(length, t, seed):
    x, kernel = random(1, 2, length, seed=seed), random(2, length, seed=seed + 1)
    changed = x.clone()
    changed[..., t + 1 :] += 1.0
    before, after = causal_conv1d(x, kernel), causal_conv1d(changed, kernel)
    assert_same(before[..., : t + 1], after[..., : t + 1], 1e-12)


def test_arguments_stay_as_they_are():
    x, weight = random_xw()
    copies = x.clone(), weight.clone()
    fft_conv2d(x, weight, 1), fft_conv2d(x, weight, 1, 4)
    assert torch.equal(x, copies[0]) and torch.equal(weight, copies[1])


# Counts -----------------------------------------------------------------------------


def test_counts_by_hand():
    """Two images of 3 channels, 14 by 10, padding 1: transforms of 15 by 12, 15 * 7 kept."""
    cost = fft_cost((2, 3, 14, 10), (5, 3, 3, 3), 1)
    spectra = 2 * 3 + 5 * 3 + 2 * 5
    assert cost.direct == 2 * 2 * 5 * 14 * 10 * 3 * 9
    assert cost.fft == pytest.approx(spectra * 2.5 * 180 * math.log2(180), rel=1e-12)
    assert cost.product == 8 * (15 * 7) * 2 * 5 * 3
    assert cost.numbers == 2 * 3 * 140 + 5 * 27 + 2 * 5 * 140
    assert cost.spectra == 2 * spectra * 15 * 7
    assert cost.flops == cost.fft + cost.product


def test_counts_of_tiles_by_hand():
    """Tiles of at least 5 with a kernel of 3: transforms of 8, 6 outputs, 3 by 2 tiles."""
    cost = fft_cost((2, 3, 14, 10), (5, 3, 3, 3), 1, tile=5)
    spectra = 2 * 6 * 3 + 5 * 3 + 2 * 6 * 5
    assert cost.product == 8 * (8 * 5) * 2 * 6 * 15
    assert cost.fft == spectra * 2.5 * 64 * 6
    assert cost.spectra == 2 * spectra * 40


@pytest.mark.parametrize("tile", [None, 6])
def test_counts_are_what_is_transformed(tile, monkeypatch):
    seen = []
    for name in ("rfft2", "irfft2"):
        plain = getattr(torch.fft, name)

        def spy(x, s, plain=plain):
            out = plain(x, s=s)
            seen.append((out if x.is_floating_point() else x).numel())
            return out

        monkeypatch.setattr(torch.fft, name, spy)
    fft_conv2d(*random_xw(), 1, tile)
    assert fft_cost((2, 3, 9, 8), (4, 3, 3, 3), 1, tile).spectra == 2 * sum(seen)


# Numerical error --------------------------------------------------------------------


def relative(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("tile", [None, 24])
@pytest.mark.parametrize("k", [3, 15, 31])
def test_error_of_float32(k, tile):
    x, weight = random_xw(1, 4, 60, 64, 2, k, k)
    x, weight = x.float(), weight.float()
    exact = F.conv2d(x.double(), weight.double(), padding=k // 2)
    error = relative(fft_conv2d(x, weight, k // 2, tile), exact)
    assert 5e-8 < error < 4e-7


def test_error_grows_slower_than_the_size():
    found = []
    for n in (64, 16384):
        x, kernel = random(1, n, dtype=torch.float32), random(1, n, seed=1, dtype=torch.float32)
        found.append(relative(causal_conv1d(x, kernel), causal_conv1d(x.double(), kernel.double())))
    assert found[0] < found[1] < 2.5 * found[0] < 1e-6


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_error_follows_the_scale_of_the_kernel(scale):
    x, weight = (t.float() for t in random_xw(1, 4, 60, 64, 2, 9, 9))
    exact = F.conv2d(x.double(), (weight * scale).double())
    assert relative(fft_conv2d(x, weight * scale), exact) < 3e-7


def test_the_error_is_relative_to_the_largest_output():
    """One bright pixel blurs what is far from it; tiles confine that; the definition is local."""
    x, weight = (t.float() for t in random_xw(1, 1, 96, 96, 1, 3, 3))
    x[..., 4, 4] = 1e6
    exact, far = F.conv2d(x.double(), weight.double()), (..., slice(40, None), slice(40, None))
    errors = [
        (y.double() - exact)[far].abs().max().item()
        for y in (fft_conv2d(x, weight), fft_conv2d(x, weight, 0, 16), F.conv2d(x, weight))
    ]
    assert errors[0] > 1e-3 and errors[1] < 1e-5 and errors[2] < 1e-5


def test_nan_spreads():
    x, kernel = torch.ones(1, 8), torch.ones(1, 8)
    x[0, 5] = torch.nan
    assert causal_conv1d(x, kernel).isnan().all()


# Gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, 3])
def test_gradient(tile):
    tensors = [t.requires_grad_() for t in random_xw(1, 2, 5, 4, 2)]
    assert torch.autograd.gradcheck(lambda *t: fft_conv2d(*t, 1, tile), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: fft_conv2d(*t, 1, tile), tensors)


def test_gradient_of_the_long_convolution():
    tensors = [random(2, 2, 6).requires_grad_(), random(2, 6, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(causal_conv1d, tensors)


# Edges --------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c", "o"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
@pytest.mark.parametrize("tile", [None, 4])
def test_nothing(b, c, o, tile):
    tensors = random(b, c, 6, 5), random(o, c, 3, 3)
    actual = with_gradients(lambda *t: fft_conv2d(*t, 1, tile), tensors)
    assert actual[0].shape == (b, o, 6, 5) and not actual[0].any()
    assert actual[1].shape == (b, c, 6, 5) and actual[2].shape == (o, c, 3, 3)


@pytest.mark.parametrize(("length", "taps"), [(0, 3), (4, 0)])
def test_no_time_and_no_taps(length, taps):
    actual = with_gradients(causal_conv1d, [random(2, 3, length), random(3, taps)])
    assert actual[0].shape == (2, 3, length) and not actual[0].any()


@pytest.mark.parametrize("tile", [None, 4])
def test_strides_do_not_matter(tile):
    x, weight = random_xw()
    odd = x.to(memory_format=torch.channels_last), weight.mT.contiguous().mT
    assert_same(fft_conv2d(*odd, 1, tile), F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 5e-4), (torch.bfloat16, 4e-3)])
def test_half_precision_is_computed_in_float32(dtype, limit, tile):
    x, weight = (t.to(dtype) for t in random_xw(kh=5, kw=5))
    exact = F.conv2d(x.double(), weight.double(), padding=2)
    out = fft_conv2d(x, weight, 2, tile)
    assert out.dtype == dtype and relative(out, exact) < limit
    long = causal_conv1d(x[0, 0], weight[0, 0, :1].expand(9, -1))
    assert long.dtype == dtype and long.shape == (9, 8)


def test_half_precision_does_not_overflow_inside():
    """The sum of all pixels is the spectrum's first number: 65 536 here, too much for float16."""
    x = torch.full((1, 1, 64, 64), 16.0).half()
    weight = torch.zeros(1, 1, 3, 3).half()
    weight[..., 1, 1] = 1.0
    assert_close(fft_conv2d(x, weight), torch.full((1, 1, 62, 62), 16.0).half())


def test_autocast_does_not_touch_the_spectra():
    x, weight = (t.float() for t in random_xw())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fft_conv2d(x, weight, 1)
    assert torch.equal(inside, fft_conv2d(x, weight, 1))


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
        (dict(tile=0), ValueError, "at least 1, got 0"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_bad_input(change, error, message):
    good = dict(x=torch.zeros(2, 3, 9, 8), weight=torch.zeros(4, 3, 3, 3))
    with pytest.raises(error, match=message):
        fft_conv2d(**(good | change))


@pytest.mark.parametrize(
    ("x", "kernel", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 3), ValueError, r"got \(3,\), \(3, 3\)"),
        (torch.zeros(2, 3), torch.zeros(3), ValueError, r"got \(2, 3\), \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(4, 3), ValueError, r"got \(2, 3\), \(4, 3\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3).double(), TypeError, "torch.float32, torch.float64"),
        (torch.zeros(2, 3).int(), torch.zeros(2, 3).int(), TypeError, "torch.int32"),
    ],
)
def test_bad_input_of_the_long_convolution(x, kernel, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d(x, kernel)
