"""FlashAttention: parity, bands, tiles, edges, what it compiles into, bad input.

Yardstick: definition in float64; torch.nn.functional.scaled_dot_product_attention.
"""

import importlib.util
import math
import sys
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.kernels.flash_attention import _Config, band_attention, flash_attention

module = sys.modules[flash_attention.__module__]
# Relative error of output and gradients, in the norm; the rounding of the inputs is not in it.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
few = settings(max_examples=4)


def random(*shape, dtype=torch.float32, seed=0, std=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (std * torch.randn(shape, generator=generator)).to(dtype)


def inputs(B=1, H=2, G=1, N=40, M=50, D=32, dtype=torch.float32, seed=0, std=1.0):
    shapes = [(B, H, N, D), (B, G, M, D), (B, G, M, D)]
    return [
        random(*s, dtype=dtype, seed=seed + i, std=std).requires_grad_()
        for i, s in enumerate(shapes)
    ]


def seen(N, M, left, right):
    i, j = torch.arange(N)[:, None] + M - N, torch.arange(M)
    mask = torch.ones(N, M, dtype=torch.bool)
    if left is not None:
        mask &= j >= i - left
    if right is not None:
        mask &= j <= i + right
    return mask


def by_definition(q, k, v, left=None, right=None, scale=None):
    """Softmax over what is seen, in float64; 0 where nothing is."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    mask = seen(q.shape[2], k.shape[2], left, right)
    scores = q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)
    peak = scores.masked_fill(~mask, -math.inf).amax(-1, keepdim=True).clamp_min(-1e300).detach()
    weights = torch.where(mask, (scores - peak).where(mask, 0).exp(), 0)
    total = weights.sum(-1, keepdim=True)
    return weights @ v / torch.where(total == 0, 1, total)


def assert_near(actual, expected, tolerance, at_least=0.0):
    """`at_least`: the size of what may have cancelled."""
    error, size = (actual.double() - expected).norm(), expected.norm().clamp_min(at_least)
    assert actual.isfinite().all()
    assert error <= tolerance * size, f"relative {error / size:.1e}"
    # Follows; for the record of the largest error.
    assert_close(actual, expected, rtol=0, atol=tolerance * size.item(), check_dtype=False)


def compare(qkv, run, expected, tolerance):
    """Outputs and gradients of a random functional."""
    doubles = [x.detach().double().requires_grad_() for x in qkv]
    out, wanted = run(*qkv), expected(*doubles)
    grad = random(*out.shape, dtype=out.dtype, seed=9)
    found = torch.autograd.grad(out, qkv, grad)
    for x, dx in zip(qkv, found, strict=True):
        assert dx.dtype == x.dtype and dx.shape == x.shape
    wanted_gradients = torch.autograd.grad(wanted, doubles, grad.double())
    assert out.dtype == qkv[0].dtype
    for a, b in zip((out, *found), (wanted, *wanted_gradients), strict=True):
        assert_near(a, b, tolerance, at_least=0.3 * float(grad.norm()))


# Parity ---------------------------------------------------------------------

SHAPES = {  # B, H, G, N, M, D, left, right
    "all": (1, 2, 2, 33, 50, 24, None, None),
    "whole tiles": (1, 2, 2, 32, 64, 32, None, None),
    "causal": (1, 1, 1, 70, 70, 32, None, 0),
    "fewer queries": (2, 2, 1, 20, 75, 16, None, 0),
    "more queries than keys": (1, 2, 2, 70, 33, 8, None, 0),
    "one query": (2, 2, 1, 1, 70, 32, None, 0),
    "one key": (1, 2, 1, 60, 1, 32, None, 0),
    "one of each": (1, 1, 1, 1, 1, 8, None, 0),
    "window": (1, 4, 2, 80, 80, 32, 10, 0),
    "band": (1, 1, 1, 80, 65, 40, 5, 7),
    "wide band": (1, 1, 1, 79, 79, 16, 40, 20),
    "left edge only": (1, 1, 1, 60, 80, 32, 21, None),
    "diagonal": (1, 1, 1, 50, 50, 32, 0, 0),
    "some see nothing": (1, 2, 1, 80, 20, 32, 3, 2),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@each_shape
def test_equals_the_definition(shape):
    *sizes, left, right = shape
    qkv = inputs(*sizes)
    compare(
        qkv,
        lambda q, k, v: band_attention(q, k, v, left, right),
        lambda q, k, v: by_definition(q, k, v, left, right),
        TOLERANCE[torch.float32],
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["all", "band"])
def test_equals_the_definition_in_half_precision(name, dtype):
    *sizes, left, right = SHAPES[name]
    qkv = inputs(*sizes, dtype=dtype)
    compare(
        qkv,
        lambda q, k, v: band_attention(q, k, v, left, right),
        lambda q, k, v: by_definition(q, k, v, left, right),
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("causal", [False, True])
def test_equals_pytorch(causal):
    """Where N and M agree, so do its causal mask and ours."""
    qkv = inputs(1, 4, 2, 35, 35, 16)

    def pytorch(*qkv):
        q, k, v = (x.double() for x in qkv)
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    compare(qkv, lambda *qkv: flash_attention(*qkv, causal=causal), pytorch, 1e-6)


def test_a_causal_mask_ends_at_the_bottom_right():
    q, k, v = inputs(N=20, M=50)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    ours = flash_attention(q, k, v, causal=True)
    assert_close(ours[:, :, -1], flash_attention(q[:, :, -1:], k, v)[:, :, 0])
    assert not torch.isclose(ours, theirs, atol=1e-3).any(-1).all()


@pytest.mark.parametrize("scale", [1.0, 0.03])
def test_scale(scale):
    compare(
        inputs(N=20, M=33),
        lambda *qkv: flash_attention(*qkv, scale=scale),
        lambda *qkv: by_definition(*qkv, scale=scale),
        2e-6,  # scores up to 20 in size: their rounding is that of the weights
    )


# Tiles ------------------------------------------------------------------------

CONFIGS = [
    _Config(16, 16, 4, 1),
    _Config(16, 64, 4, 2),
    _Config(64, 16, 8, 2),
    _Config(32, 16, 4, 2, specialized=True),
    _Config(128, 128, 4, 2, specialized=True),
]
BANDS = [(-1, -1), (-1, 0), (9, 4)]


@pytest.mark.parametrize("config", CONFIGS, ids=range(5))
@pytest.mark.parametrize(("left", "right"), BANDS)
def test_any_tiles_give_the_same(config, left, right):
    """Also the always masked loop that specialisation needs."""
    q, k, v = inputs(1, 1, 1, 50, 67, 32)
    grad = random(1, 1, 50, 32, seed=9)
    with torch.no_grad():
        out, lse = module._forward(q, k, v, left, right, 0.2, config)
        found = module._backward(grad, q, k, v, out, lse, left, right, 0.2, config)
    limits = [None if limit < 0 else limit for limit in (left, right)]
    wanted = by_definition(q, k, v, *limits, scale=0.2)
    for a, b in zip(
        (out, *found), (wanted, *torch.autograd.grad(wanted, (q, k, v), grad.double())), strict=True
    ):
        assert_near(a, b.double(), 1e-6)


@pytest.mark.parametrize(("left", "right"), [(-1, -1), (-1, 0), (9, 4)])
def test_lse_is_that_of_the_scores(left, right):
    q, k, v = inputs(1, 2, 1, 40, 50, 16)
    lse = module._forward(q, k, v, left, right, 0.3)[1]
    mask = seen(40, 50, *(None if limit < 0 else limit for limit in (left, right)))
    scores = 0.3 * q.double() @ k.double().mT
    expected = scores.masked_fill(~mask, -math.inf).logsumexp(-1) / 0.3
    assert_close(lse.double(), expected, rtol=1e-6, atol=1e-6)


def visited(monkeypatch, kernel, limits, N, M, config):
    """How many tiles of scores a kernel computes."""
    count, dot = [0], module._dot

    class Counting:
        def __call__(self, *args):
            count[0] += 1
            return dot(*args)

    q, k, v = inputs(1, 1, 1, N, M, 16)
    out, lse = module._forward(q, k, v, *limits, 0.3, config)
    with monkeypatch.context() as patch:
        for helper in (module._attend, module._differentiate):
            patch.setitem(helper.fn.__globals__, "_dot", Counting())
        if kernel == "forward":
            module._forward(q, k, v, *limits, 0.3, config)
        else:
            module._backward(out.detach(), q, k, v, out.detach(), lse, *limits, 0.3, config)
    return count[0] // (2 if kernel == "forward" else 5)


@pytest.mark.parametrize("kernel", ["forward", "backward"])
@pytest.mark.parametrize("limits", [(-1, -1), (-1, 0), (20, -1), (20, 3), (0, 0)], ids=str)
def test_tiles_outside_the_band_are_not_visited(monkeypatch, kernel, limits):
    N, M, config = 96, 112, _Config(16, 16, 4, 1)
    mask = seen(N, M, *(None if limit < 0 else limit for limit in limits))
    tiles = mask.reshape(N // 16, 16, M // 16, 16).any(3).any(1).sum()
    assert visited(monkeypatch, kernel, limits, N, M, config) == tiles


def test_limits_that_limit_nothing_are_none(monkeypatch):
    asked = []
    real = module._forward
    monkeypatch.setattr(module, "_forward", lambda *args: asked.append(args[3:5]) or real(*args))
    q, k, v = inputs(N=5, M=9)
    for left, right in [(None, None), (8, 4), (100, 100), (7, 3), (0, 0)]:
        band_attention(q, k, v, left, right)
    flash_attention(q[:, :, -1:], k, v, causal=True)
    assert asked == [(-1, -1), (-1, -1), (-1, -1), (7, 3), (0, 0), (-1, -1)]


# Invariants -------------------------------------------------------------------


@few
@given(seed=st.integers(0, 2**31), m=st.integers(1, 40))
def test_the_order_of_the_keys_does_not_matter(seed, m):
    q, k, v = inputs(1, 1, 1, 10, m, 8, seed=seed)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    assert_close(flash_attention(q, k, v), flash_attention(q, k[:, :, order], v[:, :, order]))


@few
@given(seed=st.integers(0, 2**31), left=st.integers(0, 40), right=st.integers(0, 40))
def test_what_is_not_seen_has_no_influence(seed, left, right):
    q, k, v = inputs(1, 1, 1, 30, 35, 8, seed=seed)
    before = band_attention(q, k, v, left, right)
    mask = seen(30, 35, left, right)
    j = seed % 35
    with torch.no_grad():
        k[:, :, j], v[:, :, j] = 1e3, 1e3
    after = band_attention(q, k, v, left, right)
    assert torch.equal(before[:, :, ~mask[:, j]], after[:, :, ~mask[:, j]])


def test_a_cache_equals_one_pass():
    q, k, v = inputs(1, 1, 1, 40, 40, 16)
    whole = flash_attention(q, k, v, causal=True)
    for start, stop in [(0, 7), (7, 8), (8, 40)]:
        step = flash_attention(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], causal=True)
        assert_close(step, whole[:, :, start:stop], rtol=1e-5, atol=1e-6)


def test_heads_and_sequences_are_independent():
    q, k, v = inputs(2, 4, 2, 20, 30, 8)
    whole = flash_attention(q, k, v, causal=True)
    for b, h in product(range(2), range(4)):
        g = h // 2  # neighbouring heads share
        single = flash_attention(
            q[b, h][None, None], k[b, g][None, None], v[b, g][None, None], causal=True
        )
        assert_close(single[0, 0], whole[b, h])


# Edges ------------------------------------------------------------------------


@pytest.mark.parametrize("std", [1e-4, 1e2, 1e4], ids=str)
@pytest.mark.parametrize(("left", "right"), [(None, None), (None, 0)], ids=["all", "causal"])
def test_scores_of_any_size(std, left, right):
    """Scores up to about 1e9: the softmax is all but an argmax, and its gradient small."""
    q, k, v = inputs(N=40, M=45, std=std)
    with torch.no_grad():
        v /= std
    tolerance = {1e-4: 1e-6, 1e2: 1e-3, 1e4: 1e-1}[
        std
    ]  # float32 holds scores to 1e-7 of their size
    out = band_attention(q, k, v, left, right)
    assert_near(out, by_definition(q, k, v, left, right), tolerance)
    for gradient in torch.autograd.grad(out, (q, k, v), random(*out.shape)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("right", [None, 5])
def test_keys_beyond_the_end_have_no_weight(right):
    """Not even where exp(-L) is more than float32 can hold, which times 0 would be nan."""
    q, k, v = inputs(1, 1, 1, 20, 20, 16)
    with torch.no_grad():
        q += 30
        k -= 30
    compare(
        [q, k, v],
        lambda q, k, v: band_attention(q, k, v, None, right),
        lambda q, k, v: by_definition(q, k, v, None, right),
        1e-2,  # scores of -4000 are right to 1e-4
    )


def test_queries_that_see_nothing():
    q, k, v = inputs(H=1, N=80, M=20)
    out = flash_attention(q, k, v, causal=True)
    gradients = torch.autograd.grad(out.sum(), (q, k, v))
    assert not out[:, :, :60].any() and out[:, :, 60:].all()
    with torch.no_grad():
        assert (module._forward(q, k, v, -1, 0, 0.3)[1] == math.inf).sum() == 60
    assert not gradients[0][:, :, :60].any() and gradients[0][:, :, 61:].all()
    assert gradients[0][:, :, 60].abs().max() < 1e-6  # it sees one key: nothing to choose
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("b", "n", "m"), [(0, 3, 5), (2, 0, 5), (2, 3, 0), (2, 0, 0)], ids=["b", "n", "m", "n-m"]
)
def test_nothing_there(b, n, m):
    qkv = inputs(b, 2, 1, n, m, 8)
    out = flash_attention(*qkv, causal=True)
    assert out.shape == (b, 2, n, 8) and not out.any()
    for x, gradient in zip(qkv, torch.autograd.grad(out.sum(), qkv), strict=True):
        assert gradient.shape == x.shape and not gradient.any()


def layouts():
    def transposed(x):
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    def packed(x):
        return torch.stack([x, x], dim=3)[..., 0, :]

    def last_axis(x):
        return x.mT.contiguous().mT

    def misaligned(x):
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].reshape(x.shape)

    def odd_steps(x):
        return F.pad(x, (0, 1))[..., :-1]

    def one_sequence(x):
        return x.as_strided(x.shape, (1, *x.stride()[1:]))

    return [transposed, packed, last_axis, misaligned, odd_steps, one_sequence]


@pytest.mark.parametrize("layout", layouts(), ids=lambda layout: layout.__name__)
def test_layout_in_memory(layout):
    qkv = inputs(1 if layout.__name__ == "one_sequence" else 2, 2, 2, 17, 20, 16)
    expected = flash_attention(*qkv, causal=True)
    others = [layout(x.detach()).requires_grad_() for x in qkv]
    before = [x.detach().clone() for x in others]
    actual = flash_attention(*others, causal=True)
    assert torch.equal(actual, expected)
    grad = random(*expected.shape)
    wanted = torch.autograd.grad(expected, qkv, grad)
    for found in (grad, layout(grad)):
        for a, b in zip(torch.autograd.grad(actual, others, found, retain_graph=True), wanted):
            assert_close(a, b)
    assert all(torch.equal(x, y) for x, y in zip(others, before))
    if layout.__name__ == "transposed":
        assert actual.stride() == others[0].stride()


def test_gradient_that_is_one_number_everywhere():
    qkv = inputs(N=20, M=20)
    found = torch.autograd.grad(flash_attention(*qkv).sum(), qkv)
    wanted = torch.autograd.grad(by_definition(*qkv).sum(), qkv)
    for a, b in zip(found[1:], wanted[1:]):
        assert_near(a, b.double(), 1e-5)


def test_what_is_read_in_place():
    x = random(2, 4, 33, 24, dtype=torch.float16)
    for view in (x, x[:, :, 3:], x[:, 1:2], x.transpose(1, 2), x[..., :16]):
        assert module._aligned(view) is view
    for view in (x[..., 1:9], x.mT, x.expand(2, 4, 33, 24)[:1, :1, :1].expand(2, 4, 33, 24)):
        copy = module._aligned(view)
        assert copy is not view and torch.equal(copy, view) and copy.data_ptr() % 16 == 0


# PyTorch --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dense", "packed"])
def test_operator(layout):
    q, k, v = inputs(1, 2, 1, 5, 7, 8)
    if layout == "packed":
        q = torch.stack([q.detach()] * 2, dim=3)[..., 0, :].requires_grad_()
    torch.library.opcheck(module._forward_op, (q, k, v, -1, 0, 0.3))
    out, lse = module._forward(q, k, v, -1, 0, 0.3)
    args = (x.detach() for x in (out, q, k, v, out, lse))
    torch.library.opcheck(module._backward_op, (*args, -1, 0, 0.3))


def test_compiles_in_one_piece():
    qkv = inputs(1, 2, 1, 10, 12, 8)

    def loss(q, k, v):
        return flash_attention(q, k, v, causal=True).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*qkv), loss(*qkv))
    for a, b in zip(torch.autograd.grad(compiled(*qkv), qkv), torch.autograd.grad(loss(*qkv), qkv)):
        assert_close(a, b)


def test_a_second_derivative_is_refused():
    qkv = inputs(1, 1, 1, 5, 5, 8)
    (dq,) = torch.autograd.grad(flash_attention(*qkv).square().sum(), qkv[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        dq.sum().backward()


def test_where_determinism_is_asked_for_the_backward_pass_raises():
    qkv = inputs(1, 1, 1, 5, 5, 8)
    out = flash_attention(*qkv)
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="gradient of q in changing order"):
            out.sum().backward()
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="gradient of q in changing order"):
            flash_attention(*qkv).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_two_copies_side_by_side():
    spec = importlib.util.spec_from_file_location("flash_attention_copy", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = copy
    try:
        spec.loader.exec_module(copy)
        qkv = inputs(1, 1, 1, 5, 5, 8)
        results = [m.flash_attention(*qkv) for m in (module, copy, module)]
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
        assert copy._forward_op._qualname != module._forward_op._qualname
        for m in (copy, module):
            m.flash_attention(*qkv).sum().backward()
    finally:
        del sys.modules[spec.name]


# Bad input ------------------------------------------------------------------------


def bad_inputs():
    q, k = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 7, 16)
    shape = r"\(2, 4, 5, 16\), \(2, 2, 7, 16\), \(2, 2, 6, 16\)"
    return {
        "axes": (dict(q=q[0]), ValueError, r"four axes, got \(4, 5, 16\), \(2, 2, 7, 16\)"),
        "keys and values": (dict(v=k[:, :, :6]), ValueError, "do not fit: " + shape),
        "batch": (dict(q=q[:1]), ValueError, r"do not fit: \(1, 4, 5, 16\)"),
        "width": (dict(q=q[..., :8]), ValueError, r"do not fit: \(2, 4, 5, 8\)"),
        "heads": (dict(q=q[:, :3]), ValueError, "multiple of G, got 3, 2"),
        "no heads": (dict(q=q[:, :0]), ValueError, "multiple of G, got 0, 2"),
        "no keys' heads": (dict(k=k[:, :0], v=k[:, :0]), ValueError, "multiple of G, got 4, 0"),
        "odd width": (dict(q=q[..., :12], k=k[..., :12], v=k[..., :12]), ValueError, "got 12"),
        "no width": (dict(q=q[..., :0], k=k[..., :0], v=k[..., :0]), ValueError, "got 0"),
        "wide": (
            {n: torch.zeros(1, 1, 1, 264) for n in "qkv"},
            ValueError,
            "from 8 to 256, got 264",
        ),
        "double": (dict(q=q.double(), k=k.double(), v=k.double()), TypeError, "got torch.float64"),
        "types": (dict(q=q.half()), TypeError, "torch.float16, torch.float32, torch.float32"),
        "left": (dict(left=-1), ValueError, "left must not be negative, got -1"),
        "right": (dict(right=-2), ValueError, "right must not be negative, got -2"),
        "scale": (dict(scale=0.0), ValueError, "scale must be positive and finite, got 0.0"),
        "infinite scale": (dict(scale=math.inf), ValueError, "got inf"),
        "scale that is none": (dict(scale=math.nan), ValueError, "got nan"),
        "devices": (dict(k=k.to("meta")), ValueError, "on cpu, meta, cpu"),
    }


@pytest.mark.parametrize(("change", "error", "message"), bad_inputs().values(), ids=bad_inputs())
def test_bad_input(change, error, message):
    k = torch.zeros(2, 2, 7, 16)
    good = dict(q=torch.zeros(2, 4, 5, 16), k=k, v=k, left=3, right=0, scale=None)
    with pytest.raises(error, match=message):
        band_attention(**(good | change))


def test_a_cpu_without_the_interpreter(monkeypatch):
    monkeypatch.setattr(module, "INTERPRETED", False)
    with pytest.raises(ValueError, match="q is on the CPU: .* TRITON_INTERPRET=1"):
        flash_attention(*inputs())
