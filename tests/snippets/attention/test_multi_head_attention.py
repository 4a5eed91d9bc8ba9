"""Multi-head attention: parity, key map, cache, invariants, gradient, edges, bad input.

Yardstick: torch.nn.MultiheadAttention; torch.nn.functional.scaled_dot_product_attention.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from snippets.attention.multi_head_attention import KeysValues, MultiHeadAttention, from_torch
from snippets.attention.scaled_dot_product_attention import causal_mask, padding_mask

seeds = st.integers(0, 2**32 - 1)
HEADS = {"multi-head": (4, 4), "grouped": (4, 2), "multi-query": (4, 1), "one head": (1, 1)}
each_sharing = pytest.mark.parametrize(("heads", "kv_heads"), HEADS.values(), ids=HEADS)
sharings = st.sampled_from(list(HEADS.values()))


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def randomise(module, seed=0, std=0.4):
    """Draw every parameter anew, the biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(std * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module.double()


def random_layer(heads=4, kv_heads=2, width=8, seed=0, **kwargs):
    return randomise(MultiHeadAttention(width, heads, kv_heads, **kwargs), seed)


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def gradients(out, inputs):
    """Of a fixed random functional of the output."""
    return torch.autograd.grad(out, inputs, random(*out.shape, seed=9), materialize_grads=True)


# Parity with PyTorch --------------------------------------------------------


def random_masks():
    """For 2 sequences, 4 heads, 3 queries and 5 keys, in the two conventions."""
    per_head = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(5)) < 0.6
    per_head[..., 0] = True  # nn.MultiheadAttention gives NaN to a query without keys
    padding = padding_mask(torch.tensor([5, 2])[:, None], 5)  # (2, 1, 1, 5)
    one = per_head[0, 0]
    return {
        "none": (None, {}),
        "one for all": (one, dict(attn_mask=~one)),
        "causal": (causal_mask(3, 5), dict(attn_mask=~causal_mask(3, 5))),
        "padding": (padding, dict(key_padding_mask=~padding[:, 0, 0])),
        "both": (one & padding, dict(attn_mask=~one, key_padding_mask=~padding[:, 0, 0])),
        "per head": (per_head, dict(attn_mask=~per_head.flatten(0, 1))),
    }


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kdim", [None, 6], ids=["one width", "two widths"])
@pytest.mark.parametrize("name", random_masks())
def test_equals_pytorch(name, kdim, bias):
    """Outputs, weights, gradients of inputs and of parameters."""
    mask, theirs = random_masks()[name]
    oracle = nn.MultiheadAttention(8, 4, bias=bias, kdim=kdim, vdim=kdim, batch_first=True)
    randomise(oracle)
    layer = MultiHeadAttention(8, 4, context_width=kdim, bias=bias).double()
    layer.load_state_dict(from_torch(oracle.state_dict()))
    x, context = random(2, 3, 8), random(2, 5, kdim or 8, seed=1)
    x, context = x.requires_grad_(), context.requires_grad_()
    expected = oracle(x, context, context, average_attn_weights=False, **theirs)
    actual = layer(x, context, mask)
    assert_all_close(actual, expected)
    assert_all_close(*(gradients(out, [x, context]) for out in (actual[0], expected[0])))
    ours, others = dict(layer.named_parameters()), dict(oracle.named_parameters())
    found = dict(zip(ours, gradients(layer(x, context, mask)[0], list(ours.values()))))
    out = oracle(x, context, context, **theirs)[0]
    wanted = from_torch(dict(zip(others, gradients(out, list(others.values())))))
    assert found.keys() == wanted.keys()
    assert_all_close(found.values(), [wanted[key] for key in found])


def test_self_attention_equals_pytorch():
    oracle = randomise(nn.MultiheadAttention(8, 2, batch_first=True))
    layer = MultiHeadAttention(8, 2).double()
    layer.load_state_dict(from_torch(oracle.state_dict()))
    x = random(2, 5, 8)
    mask = causal_mask(5, 5)
    expected = oracle(x, x, x, attn_mask=~mask, average_attn_weights=False)
    assert_all_close(layer(x, mask=mask), expected)
    averaged = oracle(x, x, x, attn_mask=~mask)[1]
    assert_close(layer(x, mask=mask)[1].mean(1), averaged)


def test_cross_attention_of_equally_long_sequences_equals_pytorch():
    oracle = randomise(nn.MultiheadAttention(8, 2, batch_first=True))
    layer = MultiHeadAttention(8, 2).double()
    layer.load_state_dict(from_torch(oracle.state_dict()))
    x, context = random(2, 5, 8), random(2, 5, 8, seed=1)
    expected = oracle(x, context, context, average_attn_weights=False)
    assert_all_close(layer(x, context), expected)


@each_sharing
def test_equals_pytorch_with_grouped_heads(heads, kv_heads):
    layer = random_layer(heads, kv_heads)
    x, context = random(2, 3, 8), random(2, 5, 8, seed=1)

    def split(x, n):
        return torch.stack(x.chunk(n, dim=-1), dim=1)

    q, (k, v) = split(layer.q_proj(x), heads), layer.keys_values(context)
    assert_all_close([k, v], [split(p(context), kv_heads) for p in (layer.k_proj, layer.v_proj)])
    mask = causal_mask(3, 5)
    heads_out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    expected = layer.out_proj(torch.cat(heads_out.unbind(1), dim=-1))
    assert_all_close([layer(x, context, mask)[0]], [expected])


# The key map ----------------------------------------------------------------


def test_key_map_by_hand():
    state = nn.MultiheadAttention(4, 2).state_dict()
    state["in_proj_weight"] = torch.arange(48.0).reshape(12, 4)
    state["in_proj_bias"] = torch.arange(12.0)
    renamed = from_torch(state)
    for i, name in enumerate("qkv"):
        assert renamed[f"{name}_proj.weight"][0].tolist() == [16.0 * i + j for j in range(4)]
        assert renamed[f"{name}_proj.bias"].tolist() == [4.0 * i + j for j in range(4)]
    assert renamed["out_proj.weight"] is state["out_proj.weight"]
    assert renamed.keys() == MultiHeadAttention(4, 2).state_dict().keys()


# Grouped heads and the cache, by plain loops -------------------------------------


def by_definition(layer, x, context, mask):
    """Sections 3.2.1 and 3.2.2 of Vaswani et al., one head, query and key at a time."""
    weight = {name: dict(layer.named_parameters())[f"{name}_proj.weight"] for name in "qkv"}
    bias = {name: dict(layer.named_parameters())[f"{name}_proj.bias"] for name in "qkv"}
    width = len(weight["q"]) // layer.heads
    share = layer.heads // layer.kv_heads

    def project(name, token, head):
        rows = range(head * width, (head + 1) * width)
        return [weight[name][r] @ token + bias[name][r] for r in rows]

    out = []
    for b in range(len(x)):
        for i in range(x.shape[1]):
            parts = []
            for h in range(layer.heads):
                q = project("q", x[b, i], h)
                seen = [j for j in range(context.shape[1]) if mask[i, j]]
                scores = []
                for j in seen:
                    k = project("k", context[b, j], h // share)
                    scores.append(math.e ** (sum(p * r for p, r in zip(q, k)) / math.sqrt(width)))
                values = [project("v", context[b, j], h // share) for j in seen]
                parts += [
                    sum(s * v[c] for s, v in zip(scores, values)) / sum(scores)
                    for c in range(width)
                ]
            out.append(layer.out_proj.weight @ torch.stack(parts) + layer.out_proj.bias)
    return torch.stack(out).reshape(x.shape)


@each_sharing
def test_equals_the_definition(heads, kv_heads):
    layer = random_layer(heads, kv_heads, width=8)
    x, context = random(2, 3, 8).requires_grad_(), random(2, 4, 8, seed=1).requires_grad_()
    mask = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
    inputs = [x, context, *layer.parameters()]
    actual, expected = layer(x, context, mask)[0], by_definition(layer, x, context, mask)
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert_all_close(gradients(actual, inputs), gradients(expected, inputs))


@given(sharing=sharings, chunks=st.lists(st.integers(0, 3), min_size=1, max_size=4), seed=seeds)
def test_a_cache_equals_one_pass(sharing, chunks, seed):
    """However the sequence is cut into steps."""
    layer, n = random_layer(*sharing, seed=seed), sum(chunks)
    x = random(2, n, 8, seed=seed)
    out, weights = layer(x, mask=causal_mask(n, n))
    cache, steps = layer.keys_values(x[:, :0]), []
    for chunk in x.split(chunks, dim=1):
        cache = cache.append(layer.keys_values(chunk))
        past, total = cache.k.shape[2] - chunk.shape[1], cache.k.shape[2]
        step = layer(chunk, cache, causal_mask(chunk.shape[1], total))
        steps.append(step[0])
        assert_all_close([step[1]], [weights[:, :, past:total, :total]])
    assert_all_close([torch.cat(steps, dim=1)], [out])


def test_decoding_by_loops_over_a_cache():
    """Each step sees all tokens so far and no mask, as the definition says of the prefix."""
    layer = random_layer(4, 2)
    x = random(1, 4, 8)
    cache = layer.keys_values(x[:, :1])
    for t in range(1, 4):
        token = x[:, t : t + 1]
        cache = cache.append(layer.keys_values(token))
        everything = torch.ones(1, t + 1, dtype=torch.bool)
        expected = by_definition(layer, token, x[:, : t + 1], everything)
        assert_all_close([layer(token, cache)[0]], [expected])


def test_gradient_through_a_cache():
    layer = random_layer()
    x = random(2, 4, 8).requires_grad_()
    past = layer.keys_values(x[:, :2])
    new = past.append(layer.keys_values(x[:, 2:]))
    cached = layer(x[:, 2:], new, causal_mask(2, 4))[0]
    whole = layer(x, mask=causal_mask(4, 4))[0][:, 2:]
    inputs = [x, *layer.parameters()]
    assert_all_close(gradients(cached, inputs), gradients(whole, inputs))


def test_append_changes_neither_side():
    layer = random_layer()
    old, new = layer.keys_values(random(1, 3, 8)), layer.keys_values(random(1, 2, 8, seed=1))
    copies = [t.clone() for t in (*old, *new)]
    both = old.append(new)
    assert both.k.shape == both.v.shape == (1, 2, 5, 2)
    assert all(torch.equal(t, copy) for t, copy in zip((*old, *new), copies))
    assert torch.equal(both.v[:, :, 3:], new.v) and torch.equal(both.k[:, :, :3], old.k)


@pytest.mark.parametrize(("kv_heads", "size"), [(8, 8), (2, 2), (1, 1)])
def test_size_of_the_cache_and_number_of_parameters(kv_heads, size):
    layer = MultiHeadAttention(64, 8, kv_heads)
    cache = layer.keys_values(torch.zeros(3, 5, 64))
    assert cache.k.shape == cache.v.shape == (3, size, 5, 8)
    count = sum(p.numel() for p in layer.parameters())
    assert count == 2 * 64 * 64 + 2 * 64 * size * 8 + 2 * 64 + 2 * size * 8


# Invariants -----------------------------------------------------------------


@given(seed=seeds)
def test_grouped_heads_are_multi_head_attention_with_repeated_weights(seed):
    layer = random_layer(4, 2, seed=seed)
    state = layer.state_dict()
    for key in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"):
        first, second = state[key].chunk(2)
        state[key] = torch.cat([first, first, second, second])
    full = MultiHeadAttention(8, 4).double()
    full.load_state_dict(state)
    x = random(2, 3, 8, seed=seed)
    assert_all_close(layer(x), full(x))


@given(seed=seeds)
def test_heads_are_added_up(seed):
    """Output = sum over heads of (weights of the head) x (values) x (its columns of W^O)."""
    layer = random_layer(4, 4, seed=seed)
    x = random(2, 3, 8, seed=seed)
    out, weights = layer(x)
    total = layer.out_proj.bias.expand(2, 3, 8)
    for h in range(4):
        cut = slice(2 * h, 2 * h + 2)
        values = x @ layer.v_proj.weight[cut].T + layer.v_proj.bias[cut]
        total = total + weights[:, h] @ values @ layer.out_proj.weight[:, cut].T
    assert_all_close([out], [total])


@given(seed=seeds)
def test_the_order_of_the_heads_does_not_matter(seed):
    layer = random_layer(4, 4, seed=seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    rows = (2 * order[:, None] + torch.arange(2)).flatten()
    state = {k: w[rows] if k[0] in "qkv" else w for k, w in layer.state_dict().items()}
    state["out_proj.weight"] = state["out_proj.weight"][:, rows]
    shuffled = MultiHeadAttention(8, 4).double()
    shuffled.load_state_dict(state)
    x = random(2, 3, 8, seed=seed)
    out, weights = layer(x)
    assert_all_close(shuffled(x), [out, weights[:, order]])


@given(sharing=sharings, seed=seeds)
def test_self_attention_carries_an_order_of_tokens_over(sharing, seed):
    layer, x = random_layer(*sharing, seed=seed), random(2, 5, 8, seed=seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    out, weights = layer(x)
    assert_all_close(layer(x[:, order]), [out[:, order], weights[:, :, order][..., order]])


@given(sharing=sharings, seed=seeds)
def test_weights_sum_to_one(sharing, seed):
    layer = random_layer(*sharing, seed=seed)
    weights = layer(random(2, 3, 8, seed=seed), random(2, 5, 8, seed=seed ^ 1))[1]
    assert weights.shape == (2, sharing[0], 3, 5) and (weights >= 0).all()
    assert_close(weights.sum(-1), torch.ones(2, sharing[0], 3, dtype=torch.float64))


@each_sharing
def test_batched_equals_single(heads, kv_heads):
    layer = random_layer(heads, kv_heads)
    x, context = random(3, 3, 8), random(3, 5, 8, seed=1)
    mask = torch.rand(3, heads, 3, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    batched = layer(x, context, mask)
    for b in range(3):
        cut = slice(b, b + 1)
        single = layer(x[cut], context[cut], mask[cut])
        assert_all_close(single, [t[cut] for t in batched])


def test_a_mask_may_differ_by_head_and_by_sequence():
    layer = random_layer(4, 2)
    x = random(2, 3, 8)
    mask = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    assert not layer(x, mask=mask)[1][~mask].any()
    assert layer(x, mask=mask)[1][mask].all()


def test_masks_that_broadcast():
    layer = random_layer(4, 2)
    x, context = random(2, 3, 8), random(2, 5, 8, seed=1)
    for shape in [(3, 5), (1, 5), (3, 1), (1, 1, 3, 5), (2, 1, 1, 5), (1, 4, 3, 1)]:
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.7
        full = mask.broadcast_to(2, 4, 3, 5)
        assert_all_close(layer(x, context, mask), layer(x, context, full))


def test_the_future_has_no_influence():
    layer, x = random_layer(), random(1, 5, 8)
    before = layer(x, mask=causal_mask(5, 5))[0]
    x[:, 3:] += 7
    after = layer(x, mask=causal_mask(5, 5))[0]
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:]).any()


def test_queries_come_from_x_and_keys_and_values_from_the_context():
    layer = random_layer(context_width=6)
    x, context = random(2, 3, 8), random(2, 5, 6, seed=1)
    out, weights = layer(x, context)
    assert out.shape == (2, 3, 8) and weights.shape == (2, 4, 3, 5)
    assert_all_close(layer(x, layer.keys_values(context)), [out, weights])
    one = layer(x, context[:, :1])  # one key: no query matters
    assert_all_close([one[0]], [layer(-x, context[:, :1])[0]])


def test_the_bias_of_the_keys_changes_nothing():
    layer, x = random_layer(), random(2, 3, 8)
    before = layer(x)
    gradient = gradients(before[0], [layer.k_proj.bias])[0]
    assert_close(gradient, torch.zeros_like(gradient))
    with torch.no_grad():
        layer.k_proj.bias += random(4, seed=3)
    assert_all_close(layer(x), before)


def test_arguments_stay_as_they_are():
    layer = random_layer()
    x, context, mask = random(2, 3, 8), random(2, 5, 8), causal_mask(3, 5)
    cache = layer.keys_values(context)
    copies = [t.clone() for t in (x, context, mask, *cache)]
    layer(x, context, mask)
    layer(x, cache, mask)
    for t, copy in zip((x, context, mask, *cache), copies):
        assert torch.equal(t, copy) and t._version == copy._version == 0


def test_weights_are_drawn_from_the_generator():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return MultiHeadAttention(64, 8, 2, context_width=32, generator=generator).state_dict()

    first, again, other = draw(0), draw(0), draw(1)
    for name, weight in first.items():
        assert torch.equal(weight, again[name])
        if name.endswith("bias"):
            assert not weight.any()
        else:
            assert not torch.isclose(weight, other[name]).all()
            bound = math.sqrt(6 / sum(weight.shape))  # Glorot and Bengio 2010, eq. (16)
            assert 0.98 * bound < weight.abs().max() <= bound
            assert abs(weight.mean()) < 0.05 * bound


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (2, 1)], ids=["multi-head", "shared"])
def test_gradient(heads, kv_heads):
    layer = random_layer(heads, kv_heads, width=4)
    names = [name for name, _ in layer.named_parameters()]
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()

    def function(x, context, *parameters):
        state = dict(zip(names, parameters))
        return torch.func.functional_call(layer, state, (x, context, mask))

    inputs = [random(1, 2, 4), random(1, 3, 4, seed=1), *layer.parameters()]
    assert torch.autograd.gradcheck(function, [x.detach().requires_grad_() for x in inputs])


# Edges ----------------------------------------------------------------------


def test_a_query_that_may_attend_to_nothing_gets_the_bias_of_the_output():
    layer, x = random_layer(), random(2, 3, 8)
    mask = causal_mask(3, 3)
    mask[1] = False
    out, weights = layer(x, mask=mask)
    assert_close(out[:, 1], layer.out_proj.bias.expand(2, 8))
    assert not weights[:, :, 1].any()


@pytest.mark.parametrize(
    ("b", "n", "m"),
    [(0, 3, 5), (2, 0, 5), (2, 3, 0), (2, 0, 0)],
    ids=["batch", "n", "m", "n-and-m"],
)
def test_nothing_there(b, n, m):
    layer = random_layer()
    for mask in (None, torch.ones(n, m, dtype=torch.bool)):
        out, weights = layer(random(b, n, 8), random(b, m, 8), mask)
        assert out.shape == (b, n, 8) and weights.shape == (b, 4, n, m)
        if m == 0:
            assert_close(out, layer.out_proj.bias.expand(b, n, 8))


def test_non_contiguous_input():
    layer = random_layer()
    x, context = random(2, 3, 8), random(2, 5, 8, seed=1)
    mask = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, context)]
    assert not any(t.is_contiguous() for t in (*strided, mask.T))
    assert_all_close(layer(*strided, mask.T), layer(x, context, mask.T.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    exact = random_layer()
    layer = MultiHeadAttention(8, 4, 2).to(dtype)
    layer.load_state_dict(exact.state_dict())
    exact.load_state_dict(layer.state_dict())  # rounded
    x = random(2, 5, 8).to(dtype)
    step = torch.finfo(dtype).eps
    expected = exact(x.double(), mask=causal_mask(5, 5))
    for actual, wanted in zip(layer(x, mask=causal_mask(5, 5)), expected):
        assert actual.dtype == dtype
        assert_close(actual.double(), wanted, rtol=16 * step, atol=16 * step)


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(width=10, heads=4), r"multiple of heads, got 10, 4"),
        (dict(width=8, heads=4, kv_heads=3), r"multiple of kv_heads, got 4, 3"),
        (dict(width=8, heads=2, kv_heads=4), r"multiple of kv_heads, got 2, 4"),
        (dict(width=8, heads=0), r"positive, got 8, 0, 0, 8"),
        (dict(width=8, heads=2, kv_heads=0), r"positive, got 8, 2, 0, 8"),
        (dict(width=8, heads=2, context_width=0), r"positive, got 8, 2, 2, 0"),
    ],
    ids=str,
)
def test_bad_sizes(args, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**args)


def bad_inputs():
    k, v = torch.zeros(2, 2, 5, 2), torch.zeros(2, 2, 5, 2)
    return [
        (dict(x=torch.zeros(3, 8)), ValueError, r"x must be \(B, length, 8\), got \(3, 8\)"),
        (dict(x=torch.zeros(2, 3, 7)), ValueError, r"x must be .* got \(2, 3, 7\)"),
        (dict(context=torch.zeros(2, 5, 8)), ValueError, r"context must be .*6\), got \(2, 5, 8\)"),
        (dict(context=torch.zeros(3, 5, 6)), ValueError, r"\(2, 2, M, 2\), got \(3, 2, 5, 2\)"),
        (dict(context=None), ValueError, r"context must be \(B, length, 6\), got \(2, 3, 8\)"),
        (dict(context=KeysValues(k[:, :1], v)), ValueError, r"keys .* got \(2, 1, 5, 2\)"),
        (dict(context=KeysValues(k, v[..., :1])), ValueError, r"values .* got \(2, 2, 5, 1\)"),
        (dict(context=KeysValues(k, v[0])), ValueError, r"values .* got \(2, 5, 2\)"),
        (dict(context=KeysValues(k, v[:, :, :4])), ValueError, r"differ in M"),
        (dict(context=KeysValues(k.half(), v.half())), TypeError, r"torch.float16"),
        (dict(mask=torch.ones(4, 3, 5).bool()), ValueError, r"four axes .* got \(4, 3, 5\)"),
        (dict(mask=torch.ones(1, 3, 5).bool()), ValueError, r"four axes .* got \(1, 3, 5\)"),
        (dict(mask=torch.ones(5).bool()), ValueError, r"four axes .* got \(5,\)"),
        (dict(mask=torch.ones(3, 4).bool()), ValueError, r"\(2, 4, 3, 5\), got \(3, 4\)"),
        (dict(mask=torch.ones(2, 2, 3, 5).bool()), ValueError, r"got \(2, 2, 3, 5\)"),
        (dict(mask=torch.ones(3, 5)), TypeError, r"must be bool .* got torch.float32"),
    ]


@pytest.mark.parametrize(("change", "error", "message"), bad_inputs(), ids=range(16))
def test_bad_input(change, error, message):
    layer = MultiHeadAttention(8, 4, 2, context_width=6)
    good = dict(x=torch.zeros(2, 3, 8), context=torch.zeros(2, 5, 6), mask=None)
    layer(**good)
    with pytest.raises(error, match=message):
        layer(**(good | change))


def test_bad_states():
    with pytest.raises(ValueError, match=r"got \['bias_k', 'bias_v'\]"):
        from_torch(nn.MultiheadAttention(8, 2, add_bias_kv=True).state_dict())
    with pytest.raises(ValueError, match=r"no in_proj_weight .* got \['out_proj.weight'\]"):
        from_torch({"out_proj.weight": torch.zeros(8, 8)})
    two_widths = nn.MultiheadAttention(8, 2, kdim=4, vdim=6).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for v_proj.weight"):
        MultiHeadAttention(8, 2, context_width=4).load_state_dict(from_torch(two_widths))
