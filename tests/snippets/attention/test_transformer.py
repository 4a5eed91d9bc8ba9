"""Transformer: parity, key map, decoding, training, counters, invariants, edges, bad input.

Yardstick: torch.nn.Transformer.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers import get_inverse_sqrt_schedule

from snippets.attention.scaled_dot_product_attention import causal_mask, padding_mask
from snippets.attention.transformer import (
    EncoderDecoder,
    Transformer,
    attention_weights,
    from_torch,
    greedy,
    multiply_adds,
    parameters,
    warmup_rate,
)

# PyTorch says so for every pre-norm model.
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
seeds = st.integers(0, 2**32 - 1)
each_norm = pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def some_tokens(*shape, seed=0, vocab=11):
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


def randomise(module, seed=0, std=0.4):
    """Draw every parameter anew: biases, scales and shifts of the norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(std * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module.double()


def random_model(seed=0, **kwargs):
    args = dict(vocab=11, width=8, heads=2, inner=12, layers=2) | kwargs
    return randomise(Transformer(**args), seed)


def torch_transformer(pre_norm, final_norm=True, dropout=0.0):
    oracle = nn.Transformer(
        8, 2, 2, 2, 12, dropout, norm_first=pre_norm, batch_first=True, dtype=torch.float64
    )
    if not final_norm:
        oracle.encoder.norm = oracle.decoder.norm = None
    return randomise(oracle)


def pair(pre_norm, final_norm=True, dropout=0.0):
    oracle = torch_transformer(pre_norm, final_norm, dropout)
    ours = EncoderDecoder(8, 2, 12, 2, pre_norm, final_norm, dropout).double()
    ours.load_state_dict(from_torch(oracle.state_dict()))
    return ours, oracle


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def gradients(out, inputs):
    """Of a fixed random functional of the output."""
    return torch.autograd.grad(out, inputs, random(*out.shape, seed=9), materialize_grads=True)


# Parity with nn.Transformer -----------------------------------------------------


def some_masks():
    """For 2 sequences, 5 source and 4 target tokens, in the two conventions."""
    causal, padding = causal_mask(4, 4), padding_mask(torch.tensor([[5], [3]]), 5)
    theirs = dict(src_key_padding_mask=~padding[:, 0, 0], memory_key_padding_mask=~padding[:, 0, 0])
    short = padding_mask(torch.tensor([[2], [4]]), 4)
    odd = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    odd |= torch.eye(5, dtype=torch.bool)
    across = torch.rand(4, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    across[:, 1] = True
    return {
        "none": ({}, {}),
        "causal": (dict(target_mask=causal), dict(tgt_mask=~causal)),
        "all": (
            dict(source_mask=padding, target_mask=causal & short, memory_mask=padding),
            theirs | dict(tgt_mask=~causal, tgt_key_padding_mask=~short[:, 0, 0]),
        ),
        "three different": (
            dict(source_mask=odd, target_mask=causal, memory_mask=across),
            dict(src_mask=~odd, tgt_mask=~causal, memory_mask=~across),
        ),
    }


@each_norm
@pytest.mark.parametrize("final_norm", [True, False], ids=["final norm", "no final norm"])
@pytest.mark.parametrize("name", some_masks())
def test_equals_pytorch(name, final_norm, pre_norm):
    """Outputs, gradients of inputs and of every parameter."""
    masks, theirs = some_masks()[name]
    ours, oracle = pair(pre_norm, final_norm)
    source, target = random(2, 5, 8).requires_grad_(), random(2, 4, 8, seed=1).requires_grad_()
    actual, expected = ours(source, target, **masks)[0], oracle(source, target, **theirs)
    assert_all_close([actual], [expected])
    names, others = dict(ours.named_parameters()), dict(oracle.named_parameters())
    found = gradients(actual, [source, target, *names.values()])
    wanted = gradients(expected, [source, target, *others.values()])
    assert_all_close(found[:2], wanted[:2])
    wanted = from_torch(dict(zip(others, wanted[2:])))
    assert names.keys() == wanted.keys()
    assert_all_close(found[2:], [wanted[key] for key in names])


@each_norm
def test_weights_equal_pytorch(pre_norm):
    """Of every layer and head: PyTorch's layers are asked again with what they had been given."""
    ours, oracle = pair(pre_norm)
    calls = []
    for module in oracle.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(
                lambda m, a, k: calls.append((m, a, k)), with_kwargs=True
            )
    source, target, causal = random(2, 5, 8), random(2, 4, 8, seed=1), causal_mask(4, 4)
    oracle(source, target, tgt_mask=~causal)
    asked = [
        m(*args, **(kwargs | dict(need_weights=True, average_attn_weights=False)))[1]
        for m, args, kwargs in list(calls)
    ]
    attended = ours(source, target, target_mask=causal)[1]
    assert_all_close(attended.encoder, asked[:2])
    assert_all_close(attended.decoder, asked[2::2])
    assert_all_close(attended.cross, asked[3::2])


@each_norm
def test_full_dropout_equals_pytorch(pre_norm):
    """At rate 1 only the residual stream is left: this shows where dropout sits."""
    ours, oracle = pair(pre_norm, dropout=1.0)
    source, target = random(2, 5, 8), random(2, 4, 8, seed=1)
    assert_all_close([ours(source, target)[0]], [oracle(source, target)])


def test_default_of_the_final_norm():
    """None in the paper's post-norm; pre-norm has one."""
    post, pre = EncoderDecoder(8, 2, 12, 1), EncoderDecoder(8, 2, 12, 1, pre_norm=True)
    assert "encoder_norm.weight" not in post.state_dict()
    assert {"encoder_norm.weight", "decoder_norm.bias"} <= pre.state_dict().keys()


def by_pytorch(model, oracle, source, target, lengths, positions=True):
    """Tokens to logits around nn.Transformer; positions by loops."""

    def embed(tokens):
        x = F.embedding(tokens, model.embedding) * 8**0.5
        table = [
            [(math.cos if c % 2 else math.sin)(i / 10000 ** ((c - c % 2) / 8)) for c in range(8)]
            for i in range(tokens.shape[1])
        ]
        return x + torch.tensor(table, dtype=torch.float64) if positions else x

    hidden = torch.arange(source.shape[1]) >= lengths[:, None]
    future = torch.ones(target.shape[1], target.shape[1]).triu(1).bool()
    out = oracle(
        embed(source),
        embed(target),
        tgt_mask=future,
        src_key_padding_mask=hidden,
        memory_key_padding_mask=hidden,
    )
    return F.linear(out, model.embedding)


@each_norm
@pytest.mark.parametrize("positions", [True, False])
def test_tokens_to_logits_equals_pytorch(positions, pre_norm):
    """Also the gradient of the shared table: it gets a part from each of its three uses."""
    oracle = torch_transformer(pre_norm)
    model = random_model(pre_norm=pre_norm, final_norm=True, positions=positions)
    model.body.load_state_dict(from_torch(oracle.state_dict()))
    source, target = some_tokens(3, 5), some_tokens(3, 4, seed=1)
    lengths = torch.tensor([5, 2, 4])
    actual = model(source, target, lengths)[0]
    expected = by_pytorch(model, oracle, source, target, lengths, positions)
    assert_all_close([actual], [expected])
    table = [model.embedding]
    assert_all_close(gradients(actual, table), gradients(expected, table))


# Decoding -----------------------------------------------------------------------


@given(chunks=st.lists(st.integers(0, 3), min_size=1, max_size=4), pre=st.booleans(), seed=seeds)
@settings(max_examples=10)
def test_steps_equal_one_pass(chunks, pre, seed):
    """However the target is cut: logits and weights."""
    model = random_model(seed, pre_norm=pre)
    source, lengths = some_tokens(2, 5, seed=seed), torch.tensor([5, 3])
    target = some_tokens(2, sum(chunks), seed=seed ^ 1)
    logits, attended = model(source, target, lengths)
    state, seen = model.start(source, lengths)
    assert_all_close(seen, attended.encoder)
    past = 0
    for tokens in target.split(chunks, dim=1):
        step, state, found = model.advance(tokens, state)
        total = past + tokens.shape[1]
        assert_all_close([step], [logits[:, past:total]])
        assert_all_close(found.decoder, [w[:, :, past:total, :total] for w in attended.decoder])
        assert_all_close(found.cross, [w[:, :, past:total] for w in attended.cross])
        past = total


def test_gradient_through_the_steps():
    model, source, target = random_model(), some_tokens(2, 5), some_tokens(2, 4, seed=1)
    state, _ = model.start(source)
    first, state, _ = model.advance(target[:, :1], state)
    rest, _, _ = model.advance(target[:, 1:], state)
    inputs = list(model.parameters())
    stepwise = gradients(torch.cat([first, rest], dim=1), inputs)
    assert_all_close(stepwise, gradients(model(source, target)[0], inputs))


@given(seed=seeds)
@settings(max_examples=10)
def test_greedy_equals_full_passes(seed):
    """Without a cache, one sequence at a time, without its padding."""
    model = random_model(seed)
    source, lengths = some_tokens(3, 5, seed=seed), torch.tensor([5, 1, 3])
    out = greedy(model, source, bos=1, eos=2, max_tokens=6, source_lengths=lengths)
    longest = 0
    for b in range(3):
        words = [1]
        while len(words) <= 6 and words[-1] != 2:
            logits, _ = model(source[b : b + 1, : lengths[b]], torch.tensor([words]))
            words.append(int(logits[0, -1].argmax()))
        longest = max(longest, len(words) - 1)
        assert out[b].tolist() == words[1:] + [2] * (out.shape[1] - len(words) + 1)
    assert out.shape == (3, longest) and out.dtype == torch.int64


def test_greedy_ends():
    """At the first eos, and the rest is eos."""
    model = random_model()
    source = some_tokens(2, 5)
    free = greedy(model, source, 1, 2, 7)
    eos = int(free[0, 1])
    out = greedy(model, source, 1, eos, 7)
    end = free[0].tolist().index(eos)
    assert out[0, : end + 1].tolist() == free[0, : end + 1].tolist()
    assert (out[0, end:] == eos).all()
    assert greedy(model, source, 1, 2, 0).shape == (2, 0)
    assert greedy(model, source[:0], 1, 2, 5).shape == (0, 0)


class Script:
    """In the place of a model: what it says is written beforehand."""

    embedding = torch.zeros(6, 1)
    words = torch.tensor([[3, 2, 4, 5, 4], [3, 4, 4, 2, 3], [4, 2, 2, 0, 1]])

    def start(self, source, source_lengths):
        return 0, ()

    def advance(self, tokens, state):
        expected = self.words[:, state - 1] if state else torch.ones(3)
        ended = (self.words[:, :state] == 2).any(dim=1)
        assert torch.equal(tokens[~ended, 0], expected[~ended].long())
        return F.one_hot(self.words[:, state : state + 1], 6).float(), state + 1, ()


def test_an_ended_sequence_stays_ended():
    out = greedy(Script(), torch.zeros(3, 1), bos=1, eos=2, max_tokens=5)
    assert out.tolist() == [[3, 2, 2, 2], [3, 4, 4, 2], [4, 2, 2, 2]]


def test_greedy_leaves_no_graph():
    out = greedy(random_model(), some_tokens(2, 5), 1, 2, 3)
    assert not out.requires_grad


# Training -----------------------------------------------------------------------


def test_rate_equals_transformers():
    """Up to the constant: theirs peaks at 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=40)
    for step in range(1, 200):
        optimizer.step()
        schedule.step()
        wanted = schedule.get_last_lr()[0] / math.sqrt(512 * 40)
        assert warmup_rate(step, 512, 40) == pytest.approx(wanted, rel=1e-12)
    assert warmup_rate(4000, 512) == pytest.approx(7e-4, rel=0.01)  # the peak of the base model


# Counters -----------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_parameters_are_counted(layers):
    model = Transformer(11, 8, 2, 20, layers)
    counted = parameters(11, 8, 20, layers)
    assert sum(counted.values()) == sum(p.numel() for p in model.parameters())
    by_name = dict.fromkeys(counted, 0)
    for name, p in model.named_parameters():
        words = {"embedding": "embedding", "norm": "norms", "feed_forward": "feed-forward"}
        part = next((words[w] for w in words if w in name.rsplit(".", 1)[0] or w == name), None)
        by_name["norms" if ".norm." in name else part or "attention"] += p.numel()
    assert by_name == counted


def test_parameters_of_the_papers_models():
    assert sum(parameters(37000, 512, 2048, 6).values()) == 63_082_496
    assert sum(parameters(37000, 1024, 4096, 6).values()) == 214_245_376
    with torch.device("meta"):
        base = EncoderDecoder()
    assert sum(p.numel() for p in base.parameters()) == 63_082_496 - 37000 * 512
    assert base.encoder[5].attention.heads == base.decoder[5].cross.heads == 8


@pytest.mark.parametrize(("m", "n", "layers"), [(5, 4, 1), (3, 7, 2)])
def test_multiply_adds_equal_the_counter_of_pytorch(m, n, layers):
    model = Transformer(11, 8, 2, 20, layers)
    with FlopCounterMode(display=False) as counter:
        _, attended = model(some_tokens(1, m), some_tokens(1, n))
    counts = multiply_adds(m, n, 11, 8, 20, layers)
    assert 2 * sum(counts.values()) == counter.get_total_flops()
    by_product = counter.get_flop_counts()["Global"]
    assert 2 * counts["attention"] == by_product[torch.ops.aten.bmm]
    held = sum(w.numel() for part in attended for w in part)
    assert attention_weights(m, n, 2, layers) == held


def test_multiply_adds_by_part():
    counts = multiply_adds(5, 4, 11, 8, 20, 3)
    assert counts["feed-forward"] == 3 * 9 * 2 * 8 * 20
    assert counts["logits"] == 4 * 8 * 11
    assert counts["projections"] == 3 * 8 * 8 * (5 * 4 + 4 * 4 + 4 * 2 + 5 * 2)


# Invariants ---------------------------------------------------------------------


@given(pre=st.booleans(), seed=seeds)
@settings(max_examples=10)
def test_batched_equals_single_without_padding(pre, seed):
    model = random_model(seed, pre_norm=pre)
    source, target = some_tokens(3, 5, seed=seed), some_tokens(3, 4, seed=seed ^ 1)
    lengths = torch.tensor([5, 1, 3])
    logits, _ = model(source, target, lengths)
    for b in range(3):
        cut = slice(b, b + 1)
        single, _ = model(source[cut, : lengths[b]], target[cut])
        assert_all_close([logits[cut]], [single])


@given(seed=seeds)
@settings(max_examples=10)
def test_padding_and_future_have_no_influence(seed):
    model = random_model(seed)
    source, target, lengths = some_tokens(2, 5), some_tokens(2, 4, seed=1), torch.tensor([5, 3])
    before, attended = model(source, target, lengths)
    source[1, 3:] = (source[1, 3:] + 1) % 11
    target[:, 2:] = (target[:, 2:] + 1) % 11
    after, _ = model(source, target, lengths)
    assert_all_close([before[:, :2]], [after[:, :2]])
    assert not torch.isclose(before[:, 2:], after[:, 2:]).all(dim=-1).any()
    for weights in (*attended.encoder, *attended.cross):
        assert not weights[1, ..., 3:].any() and weights[0].all()
    for weights in attended.decoder:
        assert not weights.triu(1).any() and weights[..., :2, 0].all()


def test_without_the_mask_the_future_counts():
    model, source, target = random_model(), some_tokens(2, 5), some_tokens(2, 4, seed=1)
    before, attended = model(source, target, causal=False)
    assert all(weights.all() for weights in attended.decoder)
    target[:, 3] = (target[:, 3] + 1) % 11
    assert not torch.isclose(before[:, 0], model(source, target, causal=False)[0][:, 0]).all()


@given(seed=seeds)
@settings(max_examples=10)
def test_order_of_the_source_counts_only_with_positions(seed):
    order = torch.tensor([3, 0, 4, 1, 2])
    source, target = torch.arange(5)[None], some_tokens(1, 4)
    without, with_them = random_model(seed, positions=False), random_model(seed)
    assert_all_close([without(source[:, order], target)[0]], [without(source, target)[0]])
    assert not torch.isclose(
        with_them(source[:, order], target)[0], with_them(source, target)[0]
    ).all()


@given(seed=seeds)
@settings(max_examples=10)
def test_post_norm_output_is_normalised_and_pre_norm_is_a_sum(seed):
    x, y = random(2, 5, 8, seed=seed), random(2, 4, 8, seed=seed ^ 1)
    post = randomise(EncoderDecoder(8, 2, 12, 2), seed)
    for block in post.decoder:
        nn.init.ones_(block.feed_forward_norm.norm.weight)
        nn.init.zeros_(block.feed_forward_norm.norm.bias)
    out = post(x, y)[0]
    assert_close(out.mean(-1), torch.zeros(2, 4, dtype=torch.float64))
    assert_close(
        out.var(-1, correction=0), torch.ones(2, 4, dtype=torch.float64), atol=1e-3, rtol=0
    )
    pre = randomise(EncoderDecoder(8, 2, 12, 2, pre_norm=True, final_norm=False), seed)
    for name, p in pre.named_parameters():  # sublayers that say nothing
        if "out_proj" in name or "down" in name:
            nn.init.zeros_(p)
    assert torch.equal(pre(x, y)[0], y)


def test_arguments_stay_as_they_are():
    model = random_model()
    source, target, lengths = some_tokens(2, 5), some_tokens(2, 4), torch.tensor([5, 3])
    state, _ = model.start(source, lengths)
    kept = [t for layer in state.layers for pair in layer for t in pair]
    copies = [t.clone() for t in kept]
    model.advance(target, state)
    model(source, target, lengths)
    greedy(model, source, 1, 2, 3, lengths)
    assert all(torch.equal(a, b) and a._version == 0 for a, b in zip(kept, copies))
    assert all(t._version == v for t, v in ((source, 0), (target, 0), (lengths, 0)))


def test_weights_are_drawn_from_the_generator():
    def draw(seed):
        return Transformer(999, 64, 4, 96, 1, generator=torch.Generator().manual_seed(seed))

    first, again, other = (draw(seed).state_dict() for seed in (0, 0, 1))
    for name, p in first.items():
        assert torch.equal(p, again[name])
        if name.endswith("norm.weight"):
            assert (p == 1).all()
        elif name.endswith("bias"):
            assert not p.any()
        else:
            assert not torch.isclose(p, other[name]).all()
    for name in ("up", "down"):
        p = first[f"body.encoder.0.feed_forward.{name}.weight"]
        bound = math.sqrt(6 / (64 + 96))
        assert 0.99 * bound < p.abs().max() <= bound and abs(p.mean()) < 0.03 * bound
    assert float(first["embedding"].std()) == pytest.approx(1 / 8, rel=0.02)
    x = Transformer(999, 64, 4, 96, 1, positions=False).embed(torch.arange(999)[None])
    assert float(x.detach().std()) == pytest.approx(1, rel=0.02)


def test_dropout():
    """Of the sums of embeddings and positions too; none in evaluation."""
    model = random_model(dropout=0.25, width=64)
    source, target = some_tokens(2, 50), some_tokens(2, 4)
    plain = random_model(width=64)
    x, whole = model.embed(source), plain.embed(source)
    assert float((x == 0).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert_close(x[x != 0], whole[x != 0] / 0.75)
    assert not torch.equal(model(source, target)[0], model(source, target)[0])
    model.eval()
    assert_all_close([model(source, target)[0]], [plain(source, target)[0]])


# Gradient -----------------------------------------------------------------------


@each_norm
def test_gradient(pre_norm):
    model = randomise(EncoderDecoder(4, 2, 3, 1, pre_norm, final_norm=True))
    names = [name for name, _ in model.named_parameters()]
    mask = causal_mask(2, 2)

    def function(source, target, *values):
        state = dict(zip(names, values))
        kwargs = dict(target_mask=mask)
        return torch.func.functional_call(model, state, (source, target), kwargs)[0]

    inputs = [random(1, 3, 4), random(1, 2, 4, seed=1), *model.parameters()]
    assert torch.autograd.gradcheck(
        function, [t.detach().requires_grad_() for t in inputs], fast_mode=True
    )


# Edges --------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "m", "n"), [(0, 5, 4), (2, 0, 4), (2, 5, 0), (2, 5, 1), (2, 1, 1)])
def test_small_shapes(b, m, n):
    logits, attended = random_model()(some_tokens(b, m), some_tokens(b, n))
    assert logits.shape == (b, n, 11) and logits.isfinite().all()
    assert [w.shape for w in attended.encoder] == [(b, 2, m, m)] * 2
    assert [w.shape for w in attended.decoder] == [(b, 2, n, n)] * 2
    assert [w.shape for w in attended.cross] == [(b, 2, n, m)] * 2


def test_a_source_of_length_zero_equals_no_source():
    model, target = random_model(), some_tokens(1, 4)
    hidden = model(some_tokens(1, 5), target, torch.tensor([0]))[0]
    assert_all_close([hidden], [model(some_tokens(1, 0), target)[0]])


def test_non_contiguous_and_int32():
    model, source, target = random_model(), some_tokens(2, 5), some_tokens(2, 4)
    expected = model(source, target)[0]
    strided = [t.T.contiguous().T.int() for t in (source, target)]
    assert not any(t.is_contiguous() for t in strided)
    assert_all_close([model(*strided)[0]], [expected])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    exact = random_model(layers=1)
    model = random_model(layers=1).to(dtype)
    exact.load_state_dict(model.state_dict())  # rounded
    source, target = some_tokens(2, 5), some_tokens(2, 4)
    logits, attended = model(source, target)
    step = torch.finfo(dtype).eps
    assert logits.dtype == attended.cross[0].dtype == dtype
    assert_close(logits.double(), exact(source, target)[0], rtol=32 * step, atol=64 * step)
    assert greedy(model, source, 1, 2, 3).dtype == torch.int64


# Bad input ----------------------------------------------------------------------


def bad_inputs():
    a, b = some_tokens(2, 5), some_tokens(2, 4)
    return [
        (dict(source=a.double()), TypeError, r"int32 or int64, got torch.float64"),
        (dict(target=b[0]), ValueError, r"\(B, length\), got \(4,\)"),
        (dict(target=b * 0 + 11), ValueError, r"0 … 10, got 11 … 11"),
        (dict(source=a - 11), ValueError, r"0 … 10, got -11 … -\d+"),
        (dict(source_lengths=torch.tensor([5])), ValueError, r"\(2,\), got \(1,\)"),
        (dict(source_lengths=torch.tensor([[5], [3]])), ValueError, r"\(2,\), got \(2, 1\)"),
        (dict(source_lengths=torch.tensor([5.0, 3.0])), TypeError, r"got torch.float32"),
        (dict(target=b[:1]), ValueError, r"as source, got 1, 2"),
    ]


@pytest.mark.parametrize(("change", "error", "message"), bad_inputs(), ids=range(8))
def test_bad_input(change, error, message):
    model = random_model()
    good = dict(source=some_tokens(2, 5), target=some_tokens(2, 4), source_lengths=None)
    model(**good)
    with pytest.raises(error, match=message):
        model(**(good | change))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda: Transformer(0, 8, 2), ValueError, r"vocab must be positive, got 0"),
        (lambda: Transformer(9, 8, 3), ValueError, r"multiple of heads, got 8, 3"),
        (lambda: EncoderDecoder(8, 2, 0), ValueError, r"positive, got 0, 6"),
        (lambda: EncoderDecoder(8, 2, 4, 0), ValueError, r"positive, got 4, 0"),
        (lambda: random_model(width=6, heads=3).embed(torch.zeros(1, 2)), TypeError, "float32"),
        (lambda: greedy(random_model(), some_tokens(1, 2), 11, 2, 3), ValueError, "got 11, 2"),
        (lambda: greedy(random_model(), some_tokens(1, 2), 1, -1, 3), ValueError, "got 1, -1"),
        (lambda: greedy(random_model(), some_tokens(1, 2), 1, 2, -1), ValueError, "got -1"),
        (lambda: warmup_rate(0, 512), ValueError, r"positive, got 0, 512, 4000"),
        (lambda: warmup_rate(1, 512, 0), ValueError, r"positive, got 1, 512, 0"),
    ],
    ids=range(10),
)
def test_bad_settings(function, error, message):
    with pytest.raises(error, match=message):
        function()


def test_bad_states():
    state = torch_transformer(False).state_dict()
    with pytest.raises(ValueError, match=r"got \['encoder.layers.0.gate.weight'\]"):
        from_torch(state | {"encoder.layers.0.gate.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"got \['weight'\]"):
        from_torch({"weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*encoder_norm"):
        EncoderDecoder(8, 2, 12, 2).double().load_state_dict(from_torch(state))
    unbiased = nn.Transformer(8, 2, 2, 2, 12, bias=False, batch_first=True).state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*bias"):
        EncoderDecoder(8, 2, 12, 2, final_norm=True).load_state_dict(from_torch(unbiased))
