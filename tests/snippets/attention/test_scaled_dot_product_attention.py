"""Scaled dot-product attention: parity, invariants, gradient, edges, bad input.

Yardstick: torch.nn.functional.scaled_dot_product_attention; torch.nn.MultiheadAttention; plain
    loops.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.bias import causal_lower_right
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from snippets.attention.scaled_dot_product_attention import (
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)

sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def random_qkv(*lead, n=3, m=4, d=5, e=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*lead, n, d), (*lead, m, d), (*lead, m, e)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def random_mask(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def run_with_gradients(function, qkv):
    """The output, and the gradients of a fixed random functional of it."""
    qkv = [x.detach().requires_grad_() for x in qkv]
    out = function(*qkv)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return [out, *torch.autograd.grad(out, qkv, probe, materialize_grads=True)]


def by_definition(q, k, v, mask):
    """Eq. (1) of the paper for 2-D inputs, one scalar at a time, without tensor ops."""
    rows = []
    for i in range(len(q)):
        w = [
            sum(a * b for a, b in zip(q[i], k[j])).div(math.sqrt(len(q[i]))).exp() * int(mask[i, j])
            for j in range(len(k))
        ]
        total = sum(w) if mask[i].any() else 1.0  # a query that may attend to nothing gets 0
        rows += [sum(w[j] * v[j, c] for j in range(len(k))) / total for c in range(v.shape[1])]
    return torch.stack(rows).reshape(len(q), v.shape[1])


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


# Parity ---------------------------------------------------------------------


@given(n=sizes, m=sizes, d=sizes, e=sizes, seed=seeds)
def test_equals_the_definition(n, m, d, e, seed):
    qkv, mask = random_qkv(n=n, m=m, d=d, e=e, seed=seed), random_mask(n, m, seed=seed)
    assert_all_close(
        run_with_gradients(lambda *x: scaled_dot_product_attention(*x, mask)[0], qkv),
        run_with_gradients(lambda *x: by_definition(*x, mask), qkv),
    )


MASKS = {
    "none": None,
    "causal": causal_mask(3, 4),
    "one per query": torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]]).bool(),
    "one for all": torch.tensor([True, False, True, True]),
    "all or nothing": torch.tensor([[True], [False], [True]]),
}


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=["2d", "3d", "4d"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_equals_pytorch(lead, mask):
    qkv = random_qkv(*lead)
    full = None if mask is None else mask.broadcast_to(*lead, 3, 4)
    assert_all_close(
        run_with_gradients(lambda *x: scaled_dot_product_attention(*x, mask)[0], qkv),
        run_with_gradients(lambda *x: F.scaled_dot_product_attention(*x, attn_mask=full), qkv),
    )


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_weights_equal_what_pytorch_gives_to_one_hot_values(mask):
    q, k, v = random_qkv(2)
    one_hot = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    full = None if mask is None else mask.broadcast_to(2, 3, 4)
    expected = F.scaled_dot_product_attention(q, k, one_hot, attn_mask=full)
    assert_all_close([scaled_dot_product_attention(q, k, v, mask)[1]], [expected])


def test_leading_axes_broadcast():
    """Four heads of queries share one head of keys and values; one mask for each sequence."""
    q, k, v = random_qkv(2, 4)
    mask = random_mask(2, 1, 3, 4)
    shared = [q, k[:, :1], v[:, :1]]
    assert_all_close(
        run_with_gradients(lambda *x: scaled_dot_product_attention(*x, mask)[0], shared),
        run_with_gradients(
            lambda q, k, v: F.scaled_dot_product_attention(
                q, k.expand(2, 4, 4, 5), v.expand(2, 4, 4, 2), attn_mask=mask
            ),
            shared,
        ),
    )
    assert scaled_dot_product_attention(q[0, 0], k[0, 0], v)[0].shape == (2, 4, 3, 2)


def test_the_mask_has_the_opposite_meaning_in_multihead_attention():
    q, k, v = random_qkv(2, d=6, e=6)
    layer = torch.nn.MultiheadAttention(6, 1, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.eye(6).repeat(3, 1))
        layer.out_proj.weight.copy_(torch.eye(6))
    mask = causal_mask(3, 4)
    expected = layer(q, k, v, attn_mask=~mask)
    assert_all_close(scaled_dot_product_attention(q, k, v, mask), expected)
    padding = padding_mask(torch.tensor([4, 2]), 4)
    expected = layer(q, k, v, key_padding_mask=~padding[:, 0])
    assert_all_close(scaled_dot_product_attention(q, k, v, padding), expected)


# Masks ----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(4, 4), (2, 5), (1, 3), (5, 2), (0, 3), (3, 0)])
def test_causal_mask_by_loops(n, m):
    expected = [[j <= i + (m - n) for j in range(m)] for i in range(n)]
    mask = causal_mask(n, m)
    assert mask.dtype == torch.bool and mask.shape == (n, m) and mask.tolist() == expected


def test_causal_mask_equals_pytorch():
    q, k, v = random_qkv(2, n=4, m=4)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_all_close([scaled_dot_product_attention(q, k, v, causal_mask(4, 4))[0]], [expected])
    q, k, v = random_qkv(2, n=2, m=5)
    lower_right = causal_lower_right(2, 5)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=lower_right)
    assert_all_close([scaled_dot_product_attention(q, k, v, causal_mask(2, 5))[0]], [expected])
    upper_left = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # what the page warns of
    assert not torch.allclose(upper_left, expected)


@given(n=sizes, past=st.integers(0, 4), seed=seeds)
def test_decoding_with_a_cache_equals_one_pass(n, past, seed):
    m = past + n
    q, k, v = random_qkv(n=m, m=m, seed=seed)
    whole = scaled_dot_product_attention(q, k, v, causal_mask(m, m))
    last = scaled_dot_product_attention(q[past:], k, v, causal_mask(n, m))
    assert_all_close(last, [x[past:] for x in whole])


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=3), seed=seeds)
def test_padding_mask_equals_cutting_the_padding_off(lengths, seed):
    q, k, v = random_qkv(len(lengths), 2, m=5, seed=seed)  # two heads
    mask = padding_mask(torch.tensor(lengths)[:, None], 5)
    assert mask.dtype == torch.bool and mask.shape == (len(lengths), 1, 1, 5)
    out, weights = scaled_dot_product_attention(q, k, v, mask)
    for b, length in enumerate(lengths):
        cut = scaled_dot_product_attention(q[b], k[b, :, :length], v[b, :, :length])
        assert_all_close([out[b], weights[b, ..., :length]], cut)
        assert not weights[b, ..., length:].any()


def test_padding_mask_of_one_length():
    assert padding_mask(torch.tensor(2), 4).tolist() == [[True, True, False, False]]


# Invariants -----------------------------------------------------------------


@given(n=sizes, m=sizes, seed=seeds)
def test_output_is_an_average_of_the_values(n, m, seed):
    q, k, v = random_qkv(n=n, m=m, seed=seed)
    mask = random_mask(n, m, seed=seed)
    mask[:, 0] = True
    for allowed in (None, mask):
        out, weights = scaled_dot_product_attention(q, k, v, allowed)
        assert (weights >= 0).all()
        assert_close(weights.sum(-1), torch.ones(n, dtype=torch.float64))
        assert (out <= v.amax(0) + 1e-12).all() and (out >= v.amin(0) - 1e-12).all()
    assert not weights[~mask].any()


@given(n=sizes, m=sizes, seed=seeds)
def test_order_of_the_keys_does_not_matter_and_that_of_the_queries_carries_over(n, m, seed):
    (q, k, v), mask = random_qkv(n=n, m=m, seed=seed), random_mask(n, m, seed=seed)
    shuffle = torch.Generator().manual_seed(seed)
    i, j = torch.randperm(n, generator=shuffle), torch.randperm(m, generator=shuffle)
    out, weights = scaled_dot_product_attention(q, k, v, mask)
    shuffled = scaled_dot_product_attention(q[i], k[j], v[j], mask[i][:, j])
    assert_all_close(shuffled, [out[i], weights[i][:, j]])


@given(m=sizes, seed=seeds)
def test_one_vector_added_to_every_key_changes_nothing(m, seed):
    q, k, v = random_qkv(m=m, seed=seed)
    shift = random_qkv(n=1, seed=seed ^ 1)[0]
    before, after = (scaled_dot_product_attention(q, keys, v) for keys in (k, k + shift))
    assert_all_close(after, before)


@given(d=sizes, seed=seeds)
def test_zeros_added_to_queries_and_keys_act_as_a_temperature(d, seed):
    q, k, v = random_qkv(d=d, seed=seed)
    wide = [F.pad(x, (0, 3 * d)) for x in (q, k)]  # four times as wide: divided by twice as much
    assert_all_close(
        scaled_dot_product_attention(*wide, v), scaled_dot_product_attention(q / 2, k, v)
    )


@given(m=sizes, d=sizes, seed=seeds)
def test_keys_of_one_length_make_it_nadaraya_watson_regression(m, d, seed):
    q, k, v = random_qkv(m=m, d=d, seed=seed)
    k = 1.5 * F.normalize(k, dim=-1)
    kernel = torch.exp(-torch.cdist(q, k).square() / (2 * math.sqrt(d)))  # variance √d
    estimate = (kernel @ v) / kernel.sum(-1, keepdim=True)
    assert_all_close([scaled_dot_product_attention(q, k, v)[0]], [estimate])


def test_batched_equals_single():
    q, k, v = random_qkv(2, 3)
    mask = random_mask(2, 3, 3, 4)
    batched = scaled_dot_product_attention(q, k, v, mask)
    for b in range(2):
        for h in range(3):
            single = scaled_dot_product_attention(q[b, h], k[b, h], v[b, h], mask[b, h])
            assert_all_close(single, [x[b, h] for x in batched])


def test_a_masked_key_has_no_influence():
    q, k, v = random_qkv()
    mask = torch.tensor([True, True, True, False])
    k_far, v_far = k.clone(), v.clone()
    k_far[-1], v_far[-1] = torch.nan, -1e6
    before = scaled_dot_product_attention(q, k, v, mask)[0]
    assert torch.equal(before, scaled_dot_product_attention(q, k_far, v_far, mask)[0])


def test_a_masked_key_loses_against_the_worst_match():
    q, k = (torch.full((1, 1), x, dtype=torch.float64) for x in (-1e15, 1e15))
    k = torch.cat([k, -k])  # scores -1e30 and 1e30; the second is masked
    weights = scaled_dot_product_attention(q, k, k, torch.tensor([True, False]))[1]
    assert weights.tolist() == [[1.0, 0.0]]


def test_arguments_stay_as_they_are():
    qkv, mask = random_qkv(2), random_mask(3, 4)
    copies = [x.clone() for x in (*qkv, mask)]
    scaled_dot_product_attention(*qkv, mask)
    for x, copy in zip((*qkv, mask), copies, strict=True):
        assert torch.equal(x, copy) and x._version == 0


def test_floating_point_operations():
    q, k, v = random_qkv(2, 3, n=7, m=11, d=5, e=13)
    with FlopCounterMode(display=False) as counter:
        scaled_dot_product_attention(q, k, v)
    assert counter.get_total_flops() == 2 * 3 * (2 * 7 * 11 * (5 + 13))


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize("row", [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], ids=str)
def test_gradient(row):
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = torch.tensor(row, dtype=torch.bool)
    qkv = [x.requires_grad_() for x in random_qkv()]

    def both(q, k, v):
        return scaled_dot_product_attention(q, k, v, mask)

    assert torch.autograd.gradcheck(both, qkv)
    assert torch.autograd.gradgradcheck(both, qkv)


def test_jacobian_of_the_weights():
    """With orthogonal keys the scores are the query itself, so the Jacobian is softmax's."""
    q = random_qkv(n=1, d=4)[0]
    k = 2 * torch.eye(4, dtype=torch.float64)  # 2 = √4 undoes the scale
    jacobian = torch.func.jacrev(lambda q: scaled_dot_product_attention(q, k, k)[1][0])(q)[:, 0]
    p = q[0].exp() / q[0].exp().sum()
    assert_all_close([jacobian], [p.diag() - p.outer(p)])
    assert_close(jacobian.trace(), 1 - p.square().sum())
    assert torch.linalg.matrix_norm(jacobian, 2) <= jacobian.trace()


def test_no_nan_on_the_way_back_from_a_query_without_keys():
    qkv = [x.requires_grad_() for x in random_qkv()]
    mask = causal_mask(3, 4)
    mask[1] = False
    with torch.autograd.set_detect_anomaly(True):  # raises where any step of backward yields nan
        scaled_dot_product_attention(*qkv, mask)[0].sum().backward()
    assert not qkv[0].grad[1].any() and qkv[0].grad[[0, 2]].all()


# Edges ----------------------------------------------------------------------


def test_a_query_that_may_attend_to_nothing_gets_zeros():
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    out, weights = scaled_dot_product_attention(*random_qkv(), nothing)
    assert out.shape == (3, 2) and not out.any() and not weights.any()


@pytest.mark.parametrize("mask", [None, torch.ones(3, 0, dtype=torch.bool)], ids=["none", "empty"])
def test_without_keys_the_output_is_zero(mask):
    out, weights = scaled_dot_product_attention(*random_qkv(2, m=0), mask)
    assert out.shape == (2, 3, 2) and not out.any() and weights.shape == (2, 3, 0)


@pytest.mark.parametrize(("lead", "n"), [((2,), 0), ((0,), 3)], ids=["queries", "batch"])
def test_without_queries_the_output_is_empty(lead, n):
    qkv = random_qkv(*lead, n=n)
    out, weights = scaled_dot_product_attention(*qkv, torch.ones(n, 4, dtype=torch.bool))
    assert out.shape == (*lead, n, 2) and weights.shape == (*lead, n, 4)


def test_one_key_is_copied():
    q, k, v = random_qkv(m=1)
    out, weights = scaled_dot_product_attention(q, k, v)
    assert torch.equal(out, v.expand(3, 2)) and torch.equal(weights, torch.ones_like(weights))


def test_keys_of_no_width_are_all_alike():
    q, k, v = random_qkv(d=0)
    assert_close(scaled_dot_product_attention(q, k, v)[0], v.mean(0).expand(3, 2))


def test_non_contiguous_input():
    qkv = random_qkv(3, 2)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in qkv]
    mask = causal_mask(4, 3).T
    assert not any(x.is_contiguous() for x in (*strided, mask))
    assert_all_close(
        run_with_gradients(lambda *x: scaled_dot_product_attention(*x, mask)[0], strided),
        run_with_gradients(lambda *x: F.scaled_dot_product_attention(*x, attn_mask=mask), qkv),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("mask", [None, MASKS["one per query"]], ids=["open", "masked"])
def test_every_precision(dtype, mask):
    qkv = [x.to(dtype) for x in random_qkv(2)]
    expected = scaled_dot_product_attention(*(x.double() for x in qkv), mask)
    step = torch.finfo(dtype).eps
    for actual, exact in zip(scaled_dot_product_attention(*qkv, mask), expected, strict=True):
        assert actual.dtype == dtype
        assert_close(actual.double(), exact, rtol=8 * step, atol=8 * step)


def test_float16_with_large_scores():
    """The dot products exceed 65504, float16's largest number; divided by 8 they fit."""
    q, k = torch.full((1, 64), 40.0).half(), torch.full((2, 64), 40.0).half()
    k[1] = 39.0
    assert (q @ k.T).isinf().all()
    weights = scaled_dot_product_attention(q, k, k)[1]
    assert torch.equal(weights, torch.tensor([[1.0, 0.0]]).half())
    beyond = scaled_dot_product_attention(10 * q, 10 * k, k)[1]  # as the docstring says
    assert beyond.isnan().all()


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(k=torch.zeros(4, 6)), ValueError, r"differ in D: \(3, 5\), \(4, 6\)"),
        (dict(v=torch.zeros(5, 2)), ValueError, r"differ in M: \(4, 5\), \(5, 2\)"),
        (dict(q=torch.zeros(5)), ValueError, r"two axes, got \(5,\), \(4, 5\), \(4, 2\)"),
        (dict(v=torch.zeros(4)), ValueError, r"two axes, got \(3, 5\), \(4, 5\), \(4,\)"),
        (
            dict(q=torch.zeros(2, 3, 5), k=torch.zeros(3, 4, 5)),
            ValueError,
            r"do not broadcast: \(2, 3, 5\), \(3, 4, 5\), \(4, 2\)",
        ),
        (
            dict(q=torch.zeros(2, 3, 5), v=torch.zeros(3, 4, 2)),
            ValueError,
            r"do not broadcast: \(2, 3, 5\), \(4, 5\), \(3, 4, 2\)",
        ),
        (dict(k=torch.zeros(4, 5).half()), TypeError, r"one floating dtype, got .*torch.float16"),
        (dict(v=torch.zeros(4, 2).half()), TypeError, r"one floating dtype, got .*torch.float16"),
        (dict(mask=torch.ones(3, 4)), TypeError, r"must be bool .* got torch.float32"),
        (dict(mask=torch.ones(3, 4).int()), TypeError, r"must be bool .* got torch.int32"),
        (dict(mask=torch.ones(3, 5).bool()), ValueError, r"\(3, 5\) does not .* \(3, 4\)"),
        (dict(mask=torch.ones(2, 3, 4).bool()), ValueError, r"\(2, 3, 4\) does not .* \(3, 4\)"),
    ],
    ids=lambda x: None if isinstance(x, (type, str)) else "-".join(x),
)
def test_bad_input(change, error, message):
    good = dict(q=torch.zeros(3, 5), k=torch.zeros(4, 5), v=torch.zeros(4, 2))
    scaled_dot_product_attention(**good)
    with pytest.raises(error, match=message):
        scaled_dot_product_attention(**(good | change))


def test_integer_input():
    qkv = [x.long() for x in random_qkv()]
    with pytest.raises(TypeError, match=r"got torch.int64, torch.int64, torch.int64"):
        scaled_dot_product_attention(*qkv)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
def test_lengths_that_are_no_integers(dtype):
    with pytest.raises(TypeError, match=f"must be integers, got {dtype}"):
        padding_mask(torch.ones(2, dtype=dtype), 4)
