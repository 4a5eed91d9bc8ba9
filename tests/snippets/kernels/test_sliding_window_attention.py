"""Sliding-window attention: parity, conventions, cost, invariants, gradient, kernel, bad input.

Yardstick: torch.nn.functional.scaled_dot_product_attention;
    torch.nn.attention.flex_attention.flex_attention;
    transformers.models.longformer.modeling_longformer.LongformerSelfAttention; plain loops.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LongformerConfig, masking_utils
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from snippets.kernels.sliding_window_attention import (
    band_edges,
    sliding_window_attention,
    sliding_window_attention_chunked,
    tile_work,
)

seeds = st.integers(0, 2**32 - 1)
# (N, M, window, causal): one chunk and several, a cache, windows longer than the sequence.
CASES = {
    "one key": (1, 1, 1, True),
    "itself only": (5, 5, 1, True),
    "two": (7, 7, 2, True),
    "one chunk": (40, 40, 9, True),
    "several chunks": (150, 150, 20, True),
    "wide": (200, 200, 90, True),
    "longer than the sequence": (70, 70, 500, True),
    "decoding": (1, 90, 16, True),
    "a few tokens and a cache": (6, 100, 16, True),
    "a chunk and a cache": (70, 75, 16, True),
    "more queries than keys": (90, 70, 16, True),
    "sides": (150, 150, 20, False),
    "sides, nothing": (9, 9, 0, False),
    "sides, longer": (70, 70, 500, False),
    "sides and a cache": (70, 100, 8, False),
    "sides, more queries": (90, 70, 8, False),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_qkv(n, m, h=4, g=2, b=2, d=3, seed=0, dtype=torch.float64):
    shapes = [(b, h, n, d), (b, g, m, d), (b, g, m, d)]
    return [random(*s, seed=seed + i, dtype=dtype) for i, s in enumerate(shapes)]


def band(n, m, window, causal):
    """By the definition, pair by pair."""
    rows = []
    for i in range(n):
        p = i + m - n
        if causal:
            rows.append([p - window < j <= p for j in range(m)])
        else:
            rows.append([abs(p - j) * 2 <= window for j in range(m)])
    return torch.tensor(rows, dtype=torch.bool).reshape(n, m)


def masked(q, k, v, mask, scale=None):
    """PyTorch's attention under a mask; a row without keys gives 0."""
    out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
    return torch.where(mask.any(1)[:, None], out, 0.0)


def by_definition(q, k, v, window, causal):
    """One head, one number at a time."""
    n, m, width = len(q), len(k), q.shape[1]
    mask = band(n, m, window, causal).tolist()
    q, k, v = q.tolist(), k.tolist(), v.tolist()
    out = []
    for i in range(n):
        seen = [j for j in range(m) if mask[i][j]]
        w = [math.exp(sum(a * b for a, b in zip(q[i], k[j])) / math.sqrt(width)) for j in seen]
        row = [sum(w_j * v[j][c] for w_j, j in zip(w, seen)) for c in range(width)]
        out.append([x / sum(w) if seen else 0.0 for x in row])
    return torch.tensor(out, dtype=torch.float64).reshape(n, width)


def gradients(function, inputs):
    """Output, and gradients of a fixed random functional of it."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    weights = random(*out.shape, seed=9).to(out.dtype)
    return [out, *torch.autograd.grad(out, inputs, weights, materialize_grads=True)]


def assert_all_close(actual, expected, rtol=1e-10, atol=1e-10):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=rtol, atol=atol)


# Parity ---------------------------------------------------------------------


@each_case
def test_chunks_equal_pytorch_with_a_mask(case):
    """Outputs and gradients."""
    n, m, window, causal = case
    qkv = random_qkv(n, m)
    actual = gradients(lambda *x: sliding_window_attention_chunked(*x, window, causal), qkv)
    mask = band(n, m, window, causal)
    assert_all_close(actual, gradients(lambda *x: masked(*x, mask), qkv))


@given(n=st.integers(1, 9), m=st.integers(0, 9), half=st.integers(0, 6), seed=seeds)
def test_chunks_equal_the_definition(n, m, half, seed):
    q, k, v = random_qkv(n, m, h=1, g=1, b=1, seed=seed)
    for window, causal in [(half + 1, True), (2 * half, False)]:
        actual = sliding_window_attention_chunked(q, k, v, window, causal)[0, 0]
        assert_close(actual, by_definition(q[0, 0], k[0, 0], v[0, 0], window, causal))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_chunks_equal_flex_attention():
    q, k, v = random_qkv(140, 140, d=16)
    band_mask = create_block_mask(
        lambda b, h, i, j: (j <= i) & (i - j < 30), None, None, 140, 140, device="cpu"
    )
    expected = flex_attention(q, k, v, block_mask=band_mask, enable_gqa=True, scale=0.3)
    actual = sliding_window_attention_chunked(q, k, v, 30, scale=0.3)
    assert_close(actual, expected, rtol=1e-6, atol=1e-6)  # its softmax is in float32


def test_both_sides_equal_longformer():
    config = LongformerConfig(
        hidden_size=8, num_attention_heads=2, attention_window=[6], attention_probs_dropout_prob=0.0
    )
    layer = LongformerSelfAttention(config, layer_id=0).double()
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(0.4 * random(*p.shape, seed=i))
    x = random(2, 24, 8)
    nothing = torch.zeros(2, 24)
    out = layer(
        x,
        attention_mask=nothing,
        is_index_masked=nothing.bool(),
        is_index_global_attn=nothing.bool(),
        is_global_attn=False,
    )[0]
    q, k, v = (
        part(x).reshape(2, 24, 2, 4).transpose(1, 2)
        for part in (layer.query, layer.key, layer.value)
    )
    actual = sliding_window_attention_chunked(q, k, v, 6, causal=False)
    expected = out.reshape(2, 24, 2, 4).transpose(1, 2)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # its softmax is in float32


# Conventions ----------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_the_causal_window_is_that_of_transformers(window):
    theirs = masking_utils.sliding_window_causal_mask_function(window)
    i, j = torch.arange(9)[:, None], torch.arange(9)
    assert torch.equal(band(9, 9, window, True), theirs(0, 0, i, j))


@pytest.mark.parametrize("half", [0, 1, 3])
def test_the_two_sided_window_of_transformers_is_half_of_ours(half):
    theirs = masking_utils.sliding_window_bidirectional_mask_function(half)
    i, j = torch.arange(9)[:, None], torch.arange(9)
    assert torch.equal(band(9, 9, 2 * half, False), theirs(0, 0, i, j))


def test_edges():
    """As flash-attn's window_size, inclusive on both sides."""
    assert band_edges(1) == (0, 0) and band_edges(4096) == (4095, 0)
    assert band_edges(0, causal=False) == (0, 0) and band_edges(512, causal=False) == (256, 256)


# Cost -----------------------------------------------------------------------


@given(
    n=st.integers(1, 20),
    more=st.integers(-12, 12),
    half=st.integers(0, 12),
    blocks=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_tile_work_counts_tiles_that_the_band_touches(n, more, half, blocks):
    m = max(0, n + more)
    for window, causal in [(half + 1, True), (2 * half, False)]:
        mask = band(n, m, window, causal)
        rows, columns = (-(-size // block) for size, block in zip((n, m), blocks))
        touched = sum(
            bool(mask[i * blocks[0] :][: blocks[0], j * blocks[1] :][:, : blocks[1]].any())
            for i in range(rows)
            for j in range(columns)
        )
        expected = int(mask.sum()), touched * blocks[0] * blocks[1]
        assert tile_work(n, m, window, *blocks, causal) == expected


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "sides"])
def test_chunks_need_memory_linear_in_the_length(causal):
    window = 100
    for n in (1000, 4000):
        q, k, v = random_qkv(n, n, h=2, g=1, b=1)
        with Largest() as largest:
            gradients(lambda *x: sliding_window_attention_chunked(*x, window, causal), [q, k, v])
        assert largest.numel < 2 * (n + 101) * 2 * 101  # heads, queries, keys of a chunk


def test_chunks_read_no_more_of_a_cache_than_they_see():
    q, k, v = random_qkv(1, 5000)
    with Largest() as largest:
        sliding_window_attention_chunked(q, k, v, 16)
    assert largest.numel <= 2 * 4 * 16 * 3


# Invariants -----------------------------------------------------------------


@given(n=st.integers(2, 80), half=st.integers(1, 20), causal=st.booleans(), seed=seeds)
def test_keys_outside_have_no_influence(n, half, causal, seed):
    q, k, v = random_qkv(n, n, b=1, d=2, seed=seed)
    window = 2 * half
    i = seed % n
    outside = ~band(n, n, window, causal)[i]
    k_far, v_far = k.clone(), v.clone()
    k_far[:, :, outside], v_far[:, :, outside] = 1e6, -1e6
    before, after = (
        sliding_window_attention_chunked(q, *kv, window, causal)[:, :, i]
        for kv in [(k, v), (k_far, v_far)]
    )
    assert torch.equal(before, after)


@given(n=st.integers(1, 80), extra=st.integers(0, 9), seed=seeds)
@settings(max_examples=20)
def test_a_window_over_everything_is_full_attention(n, extra, seed):
    q, k, v = random_qkv(n, n, b=1, seed=seed)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert_close(sliding_window_attention_chunked(q, k, v, n + extra), causal)
    full = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert_close(sliding_window_attention_chunked(q, k, v, 2 * (n + extra), causal=False), full)


@given(n=st.integers(2, 150), new=st.integers(1, 20), window=st.integers(1, 30), seed=seeds)
def test_the_last_queries_alone_give_the_last_rows(n, new, window, seed):
    q, k, v = random_qkv(n, n, b=1, seed=seed)
    whole = sliding_window_attention_chunked(q, k, v, window)[:, :, -new:]
    assert_close(sliding_window_attention_chunked(q[:, :, -new:], k, v, window), whole)


@given(n=st.integers(1, 100), half=st.integers(0, 20), seed=seeds)
@settings(max_examples=20)
def test_both_sides_mean_the_same_backwards(n, half, seed):
    qkv = random_qkv(n, n, b=1, seed=seed)
    out = sliding_window_attention_chunked(*qkv, 2 * half, causal=False)
    turned = sliding_window_attention_chunked(*(x.flip(2) for x in qkv), 2 * half, causal=False)
    assert_close(turned.flip(2), out)


def test_what_comes_later_moves_nothing_and_the_field_grows_by_a_window_a_layer():
    """Three causal layers of window 4 see 3 * (4 - 1) + 1 tokens."""
    x = random(1, 1, 30, 4).requires_grad_()
    y = x
    for _ in range(3):
        y = sliding_window_attention_chunked(y, y, y, 4)
    (grad,) = torch.autograd.grad(y[0, 0, 20].sum(), x)
    assert grad[0, 0].abs().sum(1).nonzero().flatten().tolist() == list(range(11, 21))


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "window", "causal"), [(5, 5, 2, True), (4, 2, 2, True), (4, 6, 2, False)]
)
def test_gradient(n, m, window, causal):
    qkv = [x.requires_grad_() for x in random_qkv(n, m, h=2, g=1, b=1, d=2)]
    inputs = (*qkv, window, causal)
    assert torch.autograd.gradcheck(sliding_window_attention_chunked, inputs)
    assert torch.autograd.gradgradcheck(sliding_window_attention_chunked, inputs)


# Edges ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "n", "m"), [(0, 3, 3), (2, 0, 3), (2, 3, 0), (2, 0, 0)], ids=["B", "N", "M", "both"]
)
def test_empty(b, n, m):
    for causal in (True, False):
        found = gradients(
            partial(sliding_window_attention_chunked, window=2, causal=causal),
            random_qkv(n, m, b=b),
        )
        assert found[0].shape == (b, 4, n, 3) and not any(x.any() for x in found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision_keeps_its_dtype_and_stays_finite(dtype):
    qkv = [50 * x for x in random_qkv(90, 70, dtype=dtype)]
    out = sliding_window_attention_chunked(*qkv, 7)
    assert out.dtype == dtype and out.isfinite().all() and not out[:, :, :20].any()


def test_any_memory_layout_and_no_change_of_the_arguments():
    qkv = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in random_qkv(140, 140)]
    qkv = [torch.stack([x, x], dim=-1)[..., 1] for x in qkv]
    assert not any(x.is_contiguous() for x in qkv)
    copies = [x.clone() for x in qkv]
    out = sliding_window_attention_chunked(*qkv, 10)
    assert_close(out, sliding_window_attention_chunked(*(x.contiguous() for x in qkv), 10))
    assert all(torch.equal(a, b) for a, b in zip(qkv, copies))


# Kernel: parity -------------------------------------------------------------

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def kernel_cases():
    """Name, N, M, window, causal, H, G, D, dtype."""
    return [
        ("itself only", 5, 5, 1, True, 1, 1, 16, torch.float32),
        ("narrow", 75, 75, 9, True, 2, 1, 16, torch.float32),
        ("wide", 75, 75, 60, True, 1, 1, 24, torch.float32),
        ("longer than the sequence", 40, 40, 500, True, 1, 1, 32, torch.float32),
        ("decoding", 1, 90, 16, True, 4, 2, 32, torch.float32),
        ("a few tokens and a cache", 6, 90, 16, True, 1, 1, 16, torch.float32),
        ("more queries than keys", 70, 40, 16, True, 1, 1, 16, torch.float32),
        ("sides", 75, 75, 20, False, 1, 1, 16, torch.float32),
        ("sides and a cache", 40, 70, 8, False, 2, 2, 16, torch.float32),
        ("sides, more queries", 70, 40, 8, False, 1, 1, 16, torch.float32),
        ("float16", 50, 50, 12, True, 2, 1, 32, torch.float16),
        ("bfloat16", 50, 50, 12, True, 2, 1, 32, torch.bfloat16),
    ]


@pytest.mark.parametrize("case", kernel_cases(), ids=lambda case: case[0])
def test_kernel_equals_pytorch_with_a_mask(case):
    """Outputs and gradients against float64."""
    _, n, m, window, causal, h, g, d, dtype = case
    qkv = random_qkv(n, m, h, g, 2 if h == 2 else 1, d, dtype=dtype)
    actual = gradients(lambda *x: sliding_window_attention(*x, window, causal, 0.3), qkv)
    mask = band(n, m, window, causal)
    doubles = [x.double() for x in qkv]
    expected = gradients(lambda *x: masked(*x, mask, 0.3), doubles)
    assert all(x.dtype == dtype for x in actual)
    for a, b in zip(actual, expected):
        limit = TOLERANCE[dtype] * (3 + b.norm()).item()
        assert (a - b).norm() <= limit
        assert_close(a, b, rtol=0, atol=limit, check_dtype=False)  # follows; for the record


def test_kernel_takes_the_usual_scale():
    qkv = random_qkv(9, 9, h=1, g=1, b=1, d=16, dtype=torch.float32)
    expected = sliding_window_attention_chunked(*qkv, 4)
    assert_close(sliding_window_attention(*qkv, 4), expected)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "sides"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_kernel_reads_no_tiles_off_the_band(side, causal):
    """A NaN there would show: 0 times NaN is NaN."""
    ends = [slice(0, 64), slice(136, 200)]
    poisoned, clean = ends if side == "left" else ends[::-1]
    qkv = random_qkv(200, 200, h=1, g=1, b=1, d=16, dtype=torch.float32)
    q, k, v = (x.clone() for x in qkv)
    k[:, :, poisoned] = v[:, :, poisoned] = torch.nan
    out = sliding_window_attention(q, k, v, 8, causal)
    assert out[:, :, poisoned].isnan().all() and out[:, :, clean].isfinite().all()
    q, k, v = qkv
    q[:, :, poisoned] = torch.nan
    attend = partial(sliding_window_attention, window=8, causal=causal)
    for grad in gradients(attend, [q, k, v])[1:]:
        assert grad[:, :, poisoned].isnan().any() and grad[:, :, clean].isfinite().all()


def test_kernel_compiles_without_a_graph_break():
    qkv = random_qkv(20, 30, h=2, g=1, b=1, d=16, dtype=torch.float32)
    compiled = torch.compile(sliding_window_attention, fullgraph=True, backend="aot_eager")
    actual = gradients(lambda *x: compiled(*x, 6), qkv)
    expected = gradients(lambda *x: sliding_window_attention(*x, 6), qkv)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


def test_kernel_refuses_a_second_derivative():
    qkv = [x.requires_grad_() for x in random_qkv(5, 5, 1, 1, 1, 16, dtype=torch.float32)]
    out = sliding_window_attention(*qkv, 3)
    (grad,) = torch.autograd.grad(out.square().sum(), qkv[0], create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grad.sum(), qkv[1])


@pytest.mark.parametrize(("b", "n", "m"), [(0, 3, 3), (2, 0, 3), (2, 3, 0)], ids=["B", "N", "M"])
def test_kernel_of_nothing(b, n, m):
    qkv = random_qkv(n, m, b=b, d=16, dtype=torch.float32)
    found = gradients(lambda *x: sliding_window_attention(*x, 2), qkv)
    assert found[0].shape == (b, 4, n, 16) and not any(x.any() for x in found)


# Bad input ------------------------------------------------------------------


def bad_inputs():
    q, k, v = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 5, 8), torch.zeros(2, 2, 5, 8)
    return {
        "no window": (dict(window=0), ValueError, r"at least 1.* got 0"),
        "odd window": (dict(window=3, causal=False), ValueError, r"even .* got 3"),
        "negative window": (dict(window=-2, causal=False), ValueError, r"even .* got -2"),
        "half a window": (dict(window=2.0), TypeError, r"an int, got float"),
        "truth": (dict(window=True), TypeError, r"an int, got bool"),
        "axes": (dict(q=q[0]), ValueError, r"got \(4, 3, 8\), \(2, 2, 5, 8\)"),
        "values": (dict(v=v[:, :, :4]), ValueError, r"\(2, 2, 5, 8\), \(2, 2, 4, 8\)"),
        "width": (dict(q=q[..., :4]), ValueError, r"agree in B and D, got \(2, 4, 3, 4\)"),
        "no width": (
            dict(q=q[..., :0], k=k[..., :0], v=v[..., :0]),
            ValueError,
            r"\(2, 4, 3, 0\)",
        ),
        "batch": (dict(k=k[:1], v=v[:1]), ValueError, r"agree in B and D, got .*\(1, 2, 5, 8\)"),
        "heads": (dict(q=q[:, :3]), ValueError, r"a multiple .* got \(2, 3, 3, 8\)"),
        "no heads": (dict(k=k[:, :0], v=v[:, :0]), ValueError, r"a multiple .* \(2, 0, 5, 8\)"),
        "dtypes": (dict(k=k.half()), TypeError, r"got torch.float32, torch.float16"),
        "integers": (dict(q=q.int(), k=k.int(), v=v.int()), TypeError, r"got torch.int32"),
    }


@pytest.mark.parametrize("name", bad_inputs())
@pytest.mark.parametrize(
    "function",
    [sliding_window_attention_chunked, sliding_window_attention],
    ids=["chunks", "kernel"],
)
def test_bad_input(function, name):
    change, error, message = bad_inputs()[name]
    good = dict(
        q=torch.zeros(2, 4, 3, 8),
        k=torch.zeros(2, 2, 5, 8),
        v=torch.zeros(2, 2, 5, 8),
        window=2,
        causal=True,
    )
    with pytest.raises(error, match=message):
        function(**(good | change))


def test_the_kernel_says_what_it_cannot_do():
    with pytest.raises(TypeError, match=r"torch.float64"):
        sliding_window_attention(*random_qkv(3, 3, d=16), 2)
    with pytest.raises(ValueError, match=r"D must be .* got 3"):
        sliding_window_attention(*random_qkv(3, 3, d=3, dtype=torch.float32), 2)
