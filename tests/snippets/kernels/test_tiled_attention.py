"""Tiled attention: parity, invariants, memory, numerical error, gradient, edges, bad input.

Yardstick: torch.nn.functional.scaled_dot_product_attention; plain loops.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from snippets.kernels.tiled_attention import (
    Partial,
    merge,
    online_softmax,
    partial_attention,
    tiled_attention,
)

lengths = st.integers(1, 9)
widths = st.integers(1, 4)
blocks = st.integers(1, 10)
seeds = st.integers(0, 2**32 - 1)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_qkv(*lead, n=5, m=7, d=3, e=2, seed=0, spread=1.0):
    shapes = [(*lead, n, d), (*lead, m, d), (*lead, m, e)]
    return [
        spread * random(*shape, seed=seed + i).requires_grad_() for i, shape in enumerate(shapes)
    ]


def leaves(tensors, dtype=torch.float64):
    return [x.detach().to(dtype).clone().requires_grad_() for x in tensors]


def visible(n, m):
    """The last query sees all keys, each one before it one key less."""
    return torch.arange(m) <= torch.arange(n)[:, None] + m - n


def assert_same(actual, expected, tol=1e-10):
    assert_close(actual, expected, rtol=tol, atol=tol)


def with_gradients(function, inputs, seed=99):
    """The output, and the gradients of a fixed random functional of it."""
    inputs = leaves(inputs, inputs[0].dtype)
    out = function(*inputs)
    weights = random(*out.shape, seed=seed, dtype=out.dtype)
    return [out, *torch.autograd.grad(out, inputs, weights, materialize_grads=True)]


def by_pytorch(causal=False, scale=None):
    def attention(q, k, v):
        mask = visible(q.shape[-2], k.shape[-2]) if causal else None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    return attention


def by_definition(q, k, v, dout, causal):
    """Output and gradients for 2-D inputs, one number at a time."""
    n, m, d, e = len(q), len(k), len(q[0]), len(v[0])
    q, k, v, dout = (x.tolist() for x in (q, k, v, dout))
    out = [[0.0] * e for _ in range(n)]
    dq, dk, dv = ([[0.0] * len(x[0]) for _ in x] for x in (q, k, v))
    for i in range(n):
        seen = [j for j in range(m) if not causal or j <= i + m - n]
        w = {j: math.exp(sum(a * b for a, b in zip(q[i], k[j])) / math.sqrt(d)) for j in seen}
        total = sum(w.values())
        for c in range(e):
            out[i][c] = sum(w[j] * v[j][c] for j in seen) / total if seen else 0.0
        for j in seen:
            p = w[j] / total
            # d out / d score = p (v - out): the quotient rule, for each component
            ds = sum(dout[i][c] * p * (v[j][c] - out[i][c]) for c in range(e))
            for c in range(e):
                dv[j][c] += p * dout[i][c]
            for c in range(d):
                dq[i][c] += ds * k[j][c] / math.sqrt(d)
                dk[j][c] += ds * q[i][c] / math.sqrt(d)
    return [torch.tensor(x, dtype=torch.float64) for x in (out, dq, dk, dv)]


# Parity ---------------------------------------------------------------------


@given(lengths, lengths, widths, widths, blocks, blocks, st.booleans(), seeds)
def test_equals_the_definition(n, m, d, e, block_q, block_k, causal, seed):
    qkv = random_qkv(n=n, m=m, d=d, e=e, seed=seed)
    actual = with_gradients(lambda *x: tiled_attention(*x, causal, block_q, block_k), qkv)
    expected = by_definition(*(x.detach() for x in qkv), random(n, e, seed=99), causal)
    assert_same(actual, expected)


@given(lengths, lengths, blocks, blocks, st.booleans(), seeds)
def test_equals_pytorch(n, m, block_q, block_k, causal, seed):
    qkv = random_qkv(2, n=n, m=m, seed=seed, spread=2.0)
    actual = with_gradients(lambda *x: tiled_attention(*x, causal, block_q, block_k), qkv)
    assert_same(actual, with_gradients(by_pytorch(causal), qkv))


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("n", [1, 130, 257])
def test_equals_pytorch_with_the_default_tiles(n, causal):
    qkv = random_qkv(1, 2, n=n, m=200, d=8, e=5)
    actual = with_gradients(lambda *x: tiled_attention(*x, causal), qkv)
    assert_same(actual, with_gradients(by_pytorch(causal), qkv))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 1, 3)], ids=str)
def test_any_number_of_leading_axes(lead):
    qkv = random_qkv(*lead)
    actual = with_gradients(lambda *x: tiled_attention(*x, True, 2, 3), qkv)
    assert_same(actual, with_gradients(by_pytorch(True), qkv))


@pytest.mark.parametrize("scale", [0.0, 0.3, -1.5, 2])
def test_scale(scale):
    qkv = random_qkv(2)
    actual = with_gradients(lambda *x: tiled_attention(*x, True, 2, 3, scale=scale), qkv)
    assert_same(actual, with_gradients(by_pytorch(True, float(scale)), qkv))
    ours = partial_attention(*qkv, scale=scale).output()
    assert_same(ours, by_pytorch(False, float(scale))(*qkv))


def test_causal_alignment():
    """PyTorch's own flag means the same for N = M only."""
    square = random_qkv(2, n=6, m=6)
    ours = tiled_attention(*square, causal=True, block_q=2, block_k=4)
    assert_same(ours, F.scaled_dot_product_attention(*square, is_causal=True))
    q, k, v = torch.zeros(2, 8), torch.zeros(5, 8), torch.eye(5)
    assert_close(tiled_attention(q, k, v, True), visible(2, 5) / torch.tensor([[4.0], [5.0]]))


def test_shared_keys_and_values():
    """Leading axes broadcast; the gradient of what is shared adds up."""
    q, k, v = random(2, 4, 3, 5, 3), random(2, 4, 1, 7, 3, seed=1), random(4, 1, 7, 2, seed=2)

    def repeated(q, k, v):
        k, v = k.expand(2, 4, 3, 7, 3), v.expand(2, 4, 3, 7, 2)
        return F.scaled_dot_product_attention(q, k, v)

    actual = with_gradients(lambda *x: tiled_attention(*x, False, 2, 3), [q, k, v])
    assert_same(actual, with_gradients(repeated, [q, k, v]))


@given(st.integers(1, 12), blocks, seeds)
def test_online_softmax_equals_softmax(m, block, seed):
    scores = 5 * random(3, m, seed=seed)
    actual = with_gradients(lambda x: online_softmax(x, block), [scores])
    assert_same(actual, with_gradients(lambda x: x.softmax(-1), [scores]))


# Invariants -----------------------------------------------------------------


@given(blocks, blocks, blocks, blocks, st.booleans(), seeds)
def test_the_tiles_do_not_matter(a, b, c, d, causal, seed):
    qkv = random_qkv(2, n=8, m=9, seed=seed)
    one, other = (
        with_gradients(lambda *x, size=size: tiled_attention(*x, causal, *size), qkv)
        for size in ((a, b), (c, d))
    )
    assert_same(one, other, 1e-12)


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3), st.permutations(range(3)), seeds)
def test_merging_is_associative_and_commutative(sizes, order, seed):
    q, k, v = random_qkv(2, m=sum(sizes), seed=seed, spread=3.0)
    keys, values = k.split(sizes, -2), v.split(sizes, -2)
    parts = [partial_attention(q, *kv, block_k=2) for kv in zip(keys, values)]
    a, b, c = (parts[i] for i in order)
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    assert_same(left, right, 1e-12)
    whole = partial_attention(q, k, v, block_k=4)
    assert_same(left, whole, 1e-12)
    assert_same(left.output(), tiled_attention(q, k, v, False, 2, 3), 1e-12)
    assert_same(left.logsumexp(), (q @ k.mT / math.sqrt(3)).logsumexp(-1, keepdim=True))


def test_no_keys_are_neutral():
    q, k, v = random_qkv(2)
    some, none = partial_attention(q, k, v), partial_attention(q, k[:, :0], v[:, :0])
    assert all(torch.equal(x, y) for x, y in zip(merge(some, none), some))
    assert all(torch.equal(x, y) for x, y in zip(merge(none, some), some))
    both = merge(none, none)
    assert not both.output().any() and (both.logsumexp() == -torch.inf).all()
    assert not both.output().isnan().any()


@given(seeds)
def test_the_sum_is_between_one_and_the_number_of_keys(seed):
    part = partial_attention(*random_qkv(2, m=9, seed=seed, spread=4.0), block_k=2)
    assert (part.ell >= 1).all() and (part.ell <= 9).all()


@given(blocks, seeds)
def test_the_order_of_the_keys_does_not_matter(block, seed):
    q, k, v = random_qkv(n=4, m=9, seed=seed)
    p = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    before, after = (tiled_attention(q, *kv, False, 2, block) for kv in [(k, v), (k[p], v[p])])
    assert_same(before, after, 1e-12)


@given(blocks, blocks, seeds)
def test_output_is_an_average_of_the_values(block_q, block_k, seed):
    q, k, v = random_qkv(seed=seed)
    out = tiled_attention(q, k, v, True, block_q, block_k)
    assert (out <= v.amax(0) + 1e-12).all() and (out >= v.amin(0) - 1e-12).all()
    assert_same(
        tiled_attention(q, k, torch.ones_like(v), True, block_q, block_k).sum(), q.new_tensor(10)
    )


@given(blocks, blocks, seeds)
def test_a_batch_equals_its_members(block_q, block_k, seed):
    qkv = random_qkv(3, seed=seed)
    together = tiled_attention(*qkv, True, block_q, block_k)
    alone = [tiled_attention(*one, True, block_q, block_k) for one in zip(*qkv)]
    assert_same(together, torch.stack(alone), 1e-12)


@pytest.mark.parametrize(("block_q", "block_k"), [(1, 1), (2, 3), (3, 2), (8, 8)], ids=str)
def test_the_future_has_no_influence(block_q, block_k):
    q, k, v = random_qkv(n=6, m=8)
    k_far, v_far = k.detach().clone(), v.detach().clone()
    k_far[5:], v_far[5:] = 1e3, -1e3  # the first three queries see five keys
    before, after = (
        tiled_attention(q, *kv, True, block_q, block_k)[:3] for kv in [(k, v), (k_far, v_far)]
    )
    assert torch.equal(before, after)


# Memory and work --------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Largest tensor that any operation makes, and the number of matrix products."""

    def __init__(self):
        super().__init__()
        self.largest, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm)
        return result


def test_no_tensor_is_larger_than_a_tile_or_an_input():
    qkv = random_qkv(n=90, m=80, d=4, e=4)
    with Watch() as watch:
        tiled_attention(*qkv, True, 16, 20).sum().backward()
    assert watch.largest == 90 * 4  # the queries; a tile is 16 * 20, the scores were 90 * 80


def test_saved_for_backward_is_linear():
    q, k, v = random_qkv(n=90, m=80, d=4, e=3)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = tiled_attention(q, k, v)
    assert sum(x.numel() for x in saved) == q.numel() + k.numel() + v.numel() + out.numel() + 90


@pytest.mark.parametrize(
    ("n", "m", "causal", "tiles"),
    [
        (12, 12, False, 3 * 4),
        (12, 12, True, 2 + 3 + 4),  # 4 queries against 3 keys
        (4, 12, True, 4),  # the last four positions see (almost) everything
        (12, 4, True, 0 + 0 + 2),  # eight queries see nothing
        (10, 10, True, 2 + 3 + 4),
    ],
)
def test_tiles_in_the_future_are_skipped(n, m, causal, tiles):
    qkv = random_qkv(n=n, m=m)
    with Watch() as watch:
        out = tiled_attention(*qkv, causal, 4, 3)
    assert watch.products == 2 * tiles
    with Watch() as watch:
        out.sum().backward()
    assert watch.products == 5 * tiles  # scores again, dP, and three gradients


# Numerical error ----------------------------------------------------------------


def relative(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


def errors(dtype, spread, causal, n=70, m=90):
    """Of output and gradients against float64, ours and that of the plain formula."""
    qkv = [x.detach().to(dtype) for x in random_qkv(2, n=n, m=m, d=16, e=8)]
    qkv[0] = qkv[0] * spread
    exact = with_gradients(by_pytorch(causal), leaves(qkv))
    mask = visible(n, m) if causal else torch.ones(n, m, dtype=torch.bool)

    def plain(q, k, v):
        return (q @ k.mT / 4).masked_fill(~mask, -torch.inf).softmax(-1) @ v

    ours = with_gradients(lambda *x: tiled_attention(*x, causal, 32, 16), qkv)
    theirs = with_gradients(plain, qkv)
    return [[relative(a, b) for a, b in zip(x, exact)] for x in (ours, theirs)]


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(
    ("dtype", "limit", "factor"),
    [(torch.float32, 4e-7, 2.5), (torch.float16, 4e-4, 1.1), (torch.bfloat16, 4e-3, 1.1)],
    ids=str,
)
@pytest.mark.parametrize("spread", [1e-4, 1.0])
def test_error_against_float64(spread, dtype, limit, factor, causal):
    """No more than the formula in the same precision; its float32 gradients somewhat more."""
    ours, plain = errors(dtype, spread, causal)
    assert ours[0] < limit and ours[0] < 1.1 * plain[0]
    for actual, expected in zip(ours[1:], plain[1:]):
        tiny = dtype == torch.float16 and spread < 1  # gradients of k are near the end of float16
        assert actual < (3e-3 if tiny else limit) and actual < factor * expected


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_very_large_scores(causal):
    """Of about 1e4: their own rounding limits every method; that of the saved sum adds to dv."""
    ours, plain = errors(torch.float32, 1e4, causal)
    for actual, expected, limit in zip(ours, plain, [3e-6, 5e-3, 5e-3, 5e-5]):
        assert actual < limit
        assert actual < (12 if limit == 5e-5 else 1.2) * expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision_keeps_its_dtype_and_stays_finite(dtype):
    qkv = [(50 * x.detach()).to(dtype) for x in random_qkv(2, n=9, m=7)]
    for result in with_gradients(lambda *x: tiled_attention(*x, True, 4, 3), qkv):
        assert result.dtype == dtype and result.isfinite().all()
    assert online_softmax(qkv[0], 2).dtype == dtype
    assert all(x.dtype == torch.float32 for x in partial_attention(*qkv))


def test_half_precision_adds_up_in_float32():
    """Four thousand weights of 1/4096: float16 would stop adding ones at 2048."""
    q, k = torch.zeros(1, 8, dtype=torch.float16), torch.zeros(4096, 8, dtype=torch.float16)
    assert torch.equal(tiled_attention(q, k, torch.ones_like(k)), torch.ones_like(q))
    assert torch.equal(partial_attention(q, k, k).ell, torch.full((1, 1), 4096.0))
    row = online_softmax(torch.zeros(1, 4096, dtype=torch.float16), 1)
    assert torch.equal(row, torch.full_like(row, 1 / 4096))


def test_products_beyond_float16():
    q, k, v = (torch.full((3, 64), 300.0, dtype=torch.float16) for _ in range(3))
    assert torch.equal(tiled_attention(q, k, v), v)  # a product is 5.76e6, a score 7.2e5


def test_autocast_leaves_the_precision_alone():
    qkv = [x.detach().float() for x in random_qkv(2, d=16)]

    def run():
        parts = partial_attention(*qkv, block_k=3)
        return [*with_gradients(lambda *x: tiled_attention(*x, True, 2, 3), qkv), *parts]

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run()
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(("n", "m"), [(4, 5), (5, 3)], ids=["longer keys", "blind queries"])
def test_gradient(n, m, causal):
    qkv = random_qkv(2, n=n, m=m)
    assert torch.autograd.gradcheck(lambda *x: tiled_attention(*x, causal, 2, 2), qkv)


def test_gradient_of_a_part():
    """Plain autograd, so a second derivative exists."""
    qkv = random_qkv(n=3, m=4)
    assert torch.autograd.gradcheck(lambda *x: tuple(partial_attention(*x, block_k=3)), qkv)

    def halves(q, k, v):
        return merge(*(partial_attention(q, a, b) for a, b in zip(k.split(2), v.split(2)))).output()

    assert torch.autograd.gradgradcheck(halves, qkv)


@pytest.mark.parametrize("index", range(3))
def test_gradient_of_one_input_alone(index):
    qkv = [x.detach() for x in random_qkv()]
    expected = with_gradients(by_pytorch(), qkv)[1 + index]
    qkv[index].requires_grad_()
    tiled_attention(*qkv, False, 2, 3).backward(random(5, 2, seed=99))
    assert_same(qkv[index].grad, expected)


def test_a_second_derivative_raises():
    """Also where the incoming gradient is a constant, as in a gradient penalty."""
    q, k, v = random_qkv()
    out = tiled_attention(q, k, v)
    with pytest.raises(RuntimeError, match="no second derivative, got create_graph=True"):
        torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(out.square().sum(), q, create_graph=True)


# Edges ----------------------------------------------------------------------


def test_queries_that_see_nothing_get_zeros():
    qkv = random_qkv(n=8, m=3)
    out, dq, *_ = with_gradients(lambda *x: tiled_attention(*x, True, 3, 2), qkv)
    assert not out[:5].any() and not dq[:5].any()
    assert out[5:].all() and dq[6:].all()


def test_scores_of_minus_infinity():
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0], [-torch.inf] * 4])
    expected = torch.tensor([[0.0, 0.5, 0.0, 0.5], [0.0] * 4])
    for block in (1, 2, 3, 4):
        with torch.autograd.set_detect_anomaly(True):  # no nan on the way either
            weights, gradient = with_gradients(lambda x, b=block: online_softmax(x, b), [scores])
        assert torch.equal(weights, expected)
        assert gradient.isfinite().all() and not gradient[1].any()


@pytest.mark.parametrize(
    ("lead", "n", "m", "d", "e"),
    [
        ((2,), 0, 3, 4, 2),
        ((2,), 3, 0, 4, 2),
        ((0,), 3, 2, 4, 2),
        ((), 0, 0, 4, 2),
        ((), 3, 2, 4, 0),
    ],
    ids=["no queries", "no keys", "no batch", "nothing", "no values"],
)
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_empty(lead, n, m, d, e, causal):
    qkv = random_qkv(*lead, n=n, m=m, d=d, e=e)
    out, *gradients = with_gradients(lambda *x: tiled_attention(*x, causal), qkv)
    assert out.shape == (*lead, n, e) and not out.any()
    assert [g.shape for g in gradients] == [x.shape for x in qkv]
    assert not any(g.any() for g in gradients)
    assert partial_attention(*qkv).acc.shape == (*lead, n, e)


def test_width_zero_is_the_mean():
    v = random(4, 2)
    out = tiled_attention(torch.zeros(1, 0).double(), torch.zeros(4, 0).double(), v, block_k=3)
    assert_same(out[0], v.mean(0))


def test_one_key_passes_its_value_on():
    q, k, v = random_qkv(n=1, m=1)
    assert torch.equal(tiled_attention(q, k, v, True), v)


def test_empty_scores():
    assert online_softmax(torch.zeros(3, 0)).shape == (3, 0)
    assert online_softmax(torch.zeros(0, 3)).shape == (0, 3)


def test_strided_input_is_left_alone():
    qkv = [random(2, 6, 3, 4, seed=i).transpose(1, 2) for i in range(3)]  # from (B, N, H, D)
    before = [x.clone() for x in qkv]
    out = tiled_attention(*qkv, True, 4, 4)
    assert_same(out, tiled_attention(*(x.contiguous() for x in qkv), True, 4, 4), 1e-12)
    assert all(torch.equal(a, b) for a, b in zip(qkv, before))
    gradients = with_gradients(lambda *x: tiled_attention(*x, True, 4, 4), qkv)
    assert_same(gradients, with_gradients(by_pytorch(True), qkv))


def test_gradient_that_is_expanded():
    """`.sum()` hands back a gradient of stride 0."""
    ours, theirs = leaves(random_qkv()), leaves(random_qkv())
    tiled_attention(*ours, True, 2, 3).sum().backward()
    by_pytorch(True)(*theirs).sum().backward()
    assert_same([x.grad for x in ours], [x.grad for x in theirs])


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize("function", [tiled_attention, partial_attention], ids=["all", "part"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(q=torch.zeros(3).double()), ValueError, r"two axes, got \(3,\), \(7, 3\), \(7, 2\)"),
        (dict(k=torch.zeros(7, 6).double()), ValueError, r"differ in D: \(5, 3\), \(7, 6\)"),
        (dict(v=torch.zeros(6, 2).double()), ValueError, r"differ in M: \(7, 3\), \(6, 2\)"),
        (dict(v=torch.zeros(7, 2)), TypeError, r"one floating dtype, .*float64, .*float32"),
        (
            dict(q=torch.zeros(2, 5, 3).double(), v=torch.zeros(4, 7, 2).double()),
            ValueError,
            r"do not broadcast: \(2, 5, 3\), \(7, 3\), \(4, 7, 2\)",
        ),
        (dict(block_k=0), ValueError, r"must be positive, got \d+, 0"),
        (dict(scale=math.nan), ValueError, r"scale must be finite, got nan"),
        (dict(scale=math.inf), ValueError, r"scale must be finite, got inf"),
    ],
    ids=["axes", "width", "length", "dtype", "lead", "block", "nan", "inf"],
)
def test_bad_input(function, change, error, message):
    good = dict(zip("qkv", random_qkv(), strict=True))
    with pytest.raises(error, match=message):
        function(**(good | change))


def test_integers_are_refused():
    x = torch.ones(3, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"one floating dtype, got torch.int64"):
        tiled_attention(x, x, x)
    with pytest.raises(TypeError, match=r"floating point, got torch.int64"):
        online_softmax(x)


def test_bad_blocks_and_scores():
    with pytest.raises(ValueError, match=r"must be positive, got -1, 128"):
        tiled_attention(*random_qkv(), block_q=-1)
    with pytest.raises(ValueError, match=r"block must be positive, got 0"):
        online_softmax(torch.zeros(3), 0)
    with pytest.raises(ValueError, match=r"at least one axis, got \(\)"):
        online_softmax(torch.zeros(()))


def test_a_part_is_a_tuple():
    assert Partial._fields == ("m", "ell", "acc")
