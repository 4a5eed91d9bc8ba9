"""GPT: parity, key map, cache, sampling, counters, gradient, edges, bad input.

Yardstick: transformers.GPT2LMHeadModel.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from snippets.attention.gpt import (
    GPT,
    GPT2,
    GPT3,
    GPTSizes,
    count_multiply_adds,
    count_parameters,
    from_huggingface,
    token_probs,
)
from snippets.attention.multi_head_attention import KeysValues

seeds = st.integers(0, 2**32 - 1)
TINY = GPTSizes(vocabulary=11, context=12, width=8, heads=2, layers=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def tokens(b, n, seed=0, sizes=TINY):
    return torch.randint(sizes.vocabulary, (b, n), generator=seeded(seed))


def randomise(module, seed=0, std=0.4):
    """Draw every parameter anew; scales of the norms around 1."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(std * torch.randn(p.shape, generator=generator, dtype=torch.float64))
            if p.ndim == 1 and name.endswith("weight"):
                p += 1
    return module.double().eval()


def random_gpt(seed=0, sizes=TINY):
    return randomise(GPT(sizes), seed)


def config(sizes, **kwargs):
    return GPT2Config(
        vocab_size=sizes.vocabulary,
        n_positions=sizes.context,
        n_embd=sizes.width,
        n_head=sizes.heads,
        n_layer=sizes.layers,
        bos_token_id=None,
        eos_token_id=None,
        **kwargs,
    )


def oracle(sizes=TINY, seed=0):
    kwargs = dict(attn_implementation="eager", loss_type="ForCausalLM")
    model = GPT2LMHeadModel(config(sizes, **kwargs))
    return randomise(model, seed)


def copied(theirs, sizes=TINY):
    model = GPT(sizes).double()
    model.load_state_dict(from_huggingface(theirs.state_dict()))
    return model


def assert_same(actual, expected):
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# Parity with transformers ---------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 5, 12])
def test_equals_transformers(n, heads):
    """Logits, loss, gradients of every parameter; three layers, all weights drawn anew."""
    sizes = TINY._replace(heads=heads)
    theirs = oracle(sizes)
    ours, ids = copied(theirs, sizes), tokens(2, n)
    expected = theirs(ids).logits
    actual, cache = ours(ids)
    assert_same(actual, expected)
    assert actual.std() > 0.5 and len(cache) == 3
    probe = random(*actual.shape, seed=9)
    (actual * probe).sum().backward()
    (expected * probe).sum().backward()
    wanted = from_huggingface({name: p.grad for name, p in theirs.named_parameters()})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert_same(gradient, wanted[name])
        if n > 1 and not name.endswith("k_proj.bias"):  # which changes no weights
            assert gradient.abs().max() > 1e-3, name


def test_loss_equals_transformers():
    theirs = oracle()
    ids = tokens(2, 7)
    logits = copied(theirs)(ids)[0]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    expected = theirs(ids, labels=ids).loss  # computed in float32 there
    assert_close(loss.float(), expected)


def test_cache_equals_that_of_transformers():
    theirs = oracle()
    ids = tokens(2, 7)
    cache = copied(theirs)(ids)[1]
    expected = theirs(ids, use_cache=True).past_key_values
    for ours, layer in zip(cache, expected.layers, strict=True):
        assert_same(ours.k, layer.keys)
        assert_same(ours.v, layer.values)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_generation_equals_transformers(seed):
    theirs = oracle(seed=seed)
    ids = tokens(2, 3, seed=seed)
    expected = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=9,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(copied(theirs).generate(ids, 9, temperature=0), expected)


# The key map ----------------------------------------------------------------


def test_key_map_by_hand():
    state = GPT2LMHeadModel(config(TINY)).state_dict()
    stacked = torch.arange(8 * 24.0).reshape(8, 24)  # (in, 3 * out)
    state["transformer.h.1.attn.c_attn.weight"] = stacked
    state["transformer.h.1.attn.c_attn.bias"] = torch.arange(24.0)
    renamed = from_huggingface(state)
    for i, name in enumerate("qkv"):
        weight = renamed[f"blocks.1.attention.{name}_proj.weight"]
        assert weight[0].tolist() == [24.0 * j + 8 * i for j in range(8)]
        bias = renamed[f"blocks.1.attention.{name}_proj.bias"]
        assert bias.tolist() == [8.0 * i + j for j in range(8)]
    assert renamed.keys() == GPT(TINY).state_dict().keys()


def test_key_map_of_the_published_layout():
    """The files on the hub: no prefix, no head, the causal masks stored as buffers."""
    base = randomise(GPT2Model(config(TINY, attn_implementation="eager")))
    state = dict(base.state_dict())
    for i in range(3):
        state[f"h.{i}.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
        state[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    ours = GPT(TINY).double()
    ours.load_state_dict(from_huggingface(state))
    ids = tokens(2, 5)
    expected = base(ids).last_hidden_state @ base.wte.weight.T
    assert_same(ours(ids)[0], expected)


def test_arguments_of_the_key_map_stay_as_they_are():
    state = oracle().state_dict()
    copies = {key: w.clone() for key, w in state.items()}
    GPT(TINY).double().load_state_dict(from_huggingface(state))
    assert all(torch.equal(w, copies[key]) for key, w in state.items())


# The cache and generation ----------------------------------------------------


@settings(max_examples=25)
@given(chunks=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=seeds)
def test_a_cache_equals_one_pass(chunks, seed):
    model = random_gpt(seed=seed)
    ids = tokens(2, sum(chunks), seed=seed)
    expected, whole = model(ids)
    cache, parts = None, []
    for chunk in ids.split(chunks, dim=1):
        before = [tuple(t.clone() for t in pair) for pair in cache or []]
        logits, longer = model(chunk, cache)
        for pair, old in zip(cache or [], before, strict=True):
            assert torch.equal(pair.k, old[0]) and torch.equal(pair.v, old[1])
        cache = longer
        parts.append(logits)
    assert_same(torch.cat(parts, dim=1), expected)
    for ours, theirs in zip(cache, whole, strict=True):
        assert_same(tuple(ours), tuple(theirs))


@settings(max_examples=15)
@given(
    temperature=st.sampled_from([0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([None, 1, 3, 11]),
    seed=seeds,
)
def test_generation_equals_full_passes(temperature, top_k, seed):
    """Each token drawn from the last position of a pass over everything, without a cache."""
    model, ids = random_gpt(seed=seed), tokens(3, 2, seed=seed)
    actual = model.generate(ids, 10, temperature, top_k, seeded(seed))
    generator, expected = seeded(seed), ids
    for _ in range(10):
        with torch.no_grad():
            logits = model(expected)[0][:, -1]
        if temperature == 0:
            probs = F.one_hot(logits.argmax(-1), 11).double()
        else:
            if top_k is not None:
                logits = TopKLogitsWarper(top_k)(expected, logits)
            probs = TemperatureLogitsWarper(float(temperature))(expected, logits).softmax(-1)
        new = torch.multinomial(probs, 1, generator=generator)
        expected = torch.cat([expected, new], dim=1)
    assert torch.equal(actual, expected) and torch.equal(actual[:, :2], ids)


def test_generation_reads_each_token_once():
    model, seen = random_gpt(), []
    model.tokens.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[1]))
    out = model.generate(tokens(1, 4), 6, generator=seeded())
    assert seen == [4, 1, 1, 1, 1, 1] and not out.requires_grad


def test_draws_follow_the_probabilities():
    model, ids = random_gpt(), tokens(1, 3)
    wanted = token_probs(model(ids)[0][0, -1], 1.5, top_k=4).detach()
    drawn = model.generate(ids.expand(20000, 3), 1, 1.5, 4, seeded())[:, -1]
    found = torch.bincount(drawn, minlength=11) / 20000
    assert_close(found.double(), wanted, atol=0.02, rtol=0)
    again = model.generate(ids.expand(20000, 3), 1, 1.5, 4, seeded())[:, -1]
    assert torch.equal(drawn, again)


# Sampling -------------------------------------------------------------------


@given(
    temperature=st.floats(0.05, 20),
    top_k=st.integers(1, 9),
    seed=seeds,
)
def test_probabilities_equal_those_of_transformers(temperature, top_k, seed):
    logits = random(4, 9, seed=seed) * 3
    warped = TopKLogitsWarper(top_k)(None, TemperatureLogitsWarper(temperature)(None, logits))
    assert_same(token_probs(logits, temperature, top_k), warped.softmax(-1))
    assert_same(token_probs(logits), logits.softmax(-1))


def test_temperature_zero_is_the_limit():
    logits = random(5, 9)
    for least in (1e-5, 1e-300):
        assert_same(token_probs(logits, least), token_probs(logits, 0))
    assert token_probs(torch.tensor([1.0, 3.0, 3.0]), 0).tolist() == [0, 1, 0]
    assert_same(token_probs(logits, 1e12), torch.full((5, 9), 1 / 9, dtype=torch.float64))


def test_top_k_keeps_equals():
    probs = token_probs(torch.tensor([2.0, 1.0, 1.0, 0.0]), top_k=2)
    assert probs[3] == 0 and probs[1] == probs[2] > 0


def test_a_small_temperature_does_not_overflow():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits = torch.tensor([5.0, -2e4, 1e4], dtype=dtype)
        probs = token_probs(logits, 1e-6)
        assert probs.dtype == dtype and probs.tolist() == [0, 0, 1]


# Counters -------------------------------------------------------------------


def total(sizes):
    return sum(numbers * times for numbers, times in count_parameters(sizes).values())


def measured(model, blocks):
    """Parameters of a transformers model by part."""
    parts = dict.fromkeys(["attention", "MLP", "norms", "final norm", "positions"], 0)
    parts["token embedding"] = 0
    for name, p in model.named_parameters():
        if "attn" in name:
            part = "attention"
        elif "mlp" in name:
            part = "MLP"
        elif "ln_f" in name:
            part = "final norm"
        elif "ln_" in name:
            part = "norms"
        else:
            part = {"wte": "token embedding", "wpe": "positions"}[name.split(".")[1]]
        parts[part] += p.numel()
    return {k: n // blocks if k in ("attention", "MLP", "norms") else n for k, n in parts.items()}


@pytest.mark.parametrize("sizes", [TINY, *GPT2.values(), GPT3], ids=str)
def test_parameters_equal_those_of_transformers(sizes):
    """Without memory for the weights: on the meta device, one layer of GPT-3 for all."""
    blocks = 1 if sizes is GPT3 else sizes.layers
    with torch.device("meta"):
        model = GPT2LMHeadModel(config(sizes._replace(layers=blocks)))
    counted = count_parameters(sizes)
    assert {part: numbers for part, (numbers, _) in counted.items()} == measured(model, blocks)
    times = {part: times for part, (_, times) in counted.items()}
    assert {part for part, n in times.items() if n == sizes.layers} >= {"attention", "MLP", "norms"}
    assert times["token embedding"] == times["positions"] == times["final norm"] == 1
    if sizes is not GPT3:
        assert total(sizes) == model.num_parameters()


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_parameters_equal_those_of_the_model(name):
    sizes = {"tiny": TINY, "small": GPT2["small"]}[name]
    with torch.device("meta"):
        model = GPT(sizes)
    assert total(sizes) == sum(p.numel() for p in model.parameters())


def test_published_numbers():
    """Millions in the names of the released files; Brown et al., appendix D, for GPT-3."""
    found = {name: round(total(sizes) / 1e6) for name, sizes in GPT2.items()}
    assert found == {"small": 124, "medium": 355, "large": 774, "xl": 1558}
    assert round(total(GPT3) / 1e8) == 1746
    gpt1 = OpenAIGPTConfig()
    with torch.device("meta"):
        theirs = OpenAIGPTLMHeadModel(gpt1).num_parameters()
    sizes = GPTSizes(gpt1.vocab_size, gpt1.n_positions, gpt1.n_embd, gpt1.n_head, gpt1.n_layer)
    assert total(sizes) - 2 * gpt1.n_embd == theirs  # GPT-1 has no final norm


@pytest.mark.parametrize("n", [0, 1, 7, 12])
@pytest.mark.parametrize("sizes", [TINY, TINY._replace(heads=4, layers=1)], ids=str)
def test_multiply_adds_equal_what_pytorch_counts(sizes, n):
    """Its counter gives two operations for each multiplication with addition."""
    with FlopCounterMode(display=False) as counter:
        oracle(sizes)(tokens(1, n, sizes=sizes)) if n else None
    counted = count_multiply_adds(sizes, n)
    assert 2 * sum(counted.values()) == counter.get_total_flops()
    model, cache = random_gpt(sizes=sizes), None
    for chunk in tokens(1, n, sizes=sizes).split([n // 3, n - n // 3], dim=1):
        cached = cache[0].k.shape[2] if cache else 0
        with FlopCounterMode(display=False) as counter:
            _, cache = model(chunk, cache)
        counted = count_multiply_adds(sizes, chunk.shape[1], cached)
        assert 2 * sum(counted.values()) == counter.get_total_flops()


def test_parts_of_the_multiply_adds():
    counted = count_multiply_adds(GPT3, 2048)
    weights = {part: numbers for part, (numbers, _) in count_parameters(GPT3).items()}
    assert counted["MLP"] == 2048 * 96 * (weights["MLP"] - 5 * 12288)
    assert counted["attention weights"] == 2048 * 96 * (weights["attention"] - 4 * 12288)
    assert counted["head"] == 2048 * weights["token embedding"]
    at = count_multiply_adds(GPT3, 6 * 12288)
    assert at["scores and averages"] == at["attention weights"] + at["MLP"]


# Invariants -----------------------------------------------------------------


@settings(max_examples=25)
@given(seed=seeds, cut=st.integers(1, 6))
def test_the_future_has_no_influence(seed, cut):
    model = random_gpt(seed=seed)
    ids = tokens(2, 7, seed=seed)
    other = ids.clone()
    other[:, cut:] = (other[:, cut:] + 1) % 11
    before, after = model(ids)[0], model(other)[0]
    assert_same(before[:, :cut], after[:, :cut])
    assert not torch.isclose(before[:, cut:], after[:, cut:]).all()


def test_batched_equals_single():
    model, ids = random_gpt(), tokens(3, 6)
    batched = model(ids)[0]
    for b in range(3):
        assert_same(model(ids[b : b + 1])[0], batched[b : b + 1])


def test_the_head_is_the_token_embedding():
    model = random_gpt()
    assert not [name for name, _ in model.named_parameters() if "head" in name]
    state = model.state_dict()
    ids = torch.tensor([[0, 1, 2]])
    before = model(ids)[0]
    with torch.no_grad():
        model.tokens.weight[7] *= 2  # of a token that is not read
    after = model(ids)[0]
    assert_same(after[..., 7], 2 * before[..., 7])
    assert state.keys() == model.state_dict().keys()


def test_a_constant_shift_of_the_stream_changes_nothing():
    """Pre-norm: every branch and the head see the stream through a norm."""
    model, ids = random_gpt(), tokens(2, 5)
    before = model(ids)[0]
    with torch.no_grad():
        model.positions.weight += 3.0
    assert_close(model(ids)[0], before, atol=1e-5, rtol=1e-5)


def test_positions_count():
    model = random_gpt()
    logits = model(torch.full((1, 5), 3))[0][0]
    assert not torch.isclose(logits[0], logits[1]).all()


def test_weights_are_drawn_from_the_generator():
    sizes = GPTSizes(300, 200, width=64, heads=4, layers=8)

    def draw(seed):
        return dict(GPT(sizes, seeded(seed)).named_parameters())

    first, again, other = draw(0), draw(0), draw(1)
    for name, p in first.items():
        assert torch.equal(p, again[name])
        if p.ndim == 1:
            assert (p == (0 if name.endswith("bias") else 1)).all()
            continue
        assert not torch.isclose(p, other[name]).all()
        std = 0.01 if name == "positions.weight" else 0.02
        if "out_proj" in name or "mlp.2" in name:
            std /= math.sqrt(16)  # 8 blocks, two branches each
        assert abs(p.std() / std - 1) < 0.05 and abs(p.mean()) < 0.05 * std


def test_arguments_stay_as_they_are():
    model, ids = random_gpt(), tokens(2, 4)
    copy = ids.clone()
    model(ids)
    model.generate(ids, 3, generator=seeded())
    assert torch.equal(ids, copy) and ids._version == 0
    logits = random(2, 9)
    copy = logits.clone()
    for temperature in (0, 0.5):
        token_probs(logits, temperature, 3)
    assert torch.equal(logits, copy) and logits._version == 0


# Gradient -------------------------------------------------------------------


def test_gradient():
    sizes = GPTSizes(3, 3, width=2, heads=1, layers=1)
    model = random_gpt(sizes=sizes)
    names = [name for name, _ in model.named_parameters()]
    ids = torch.tensor([[2, 0, 2]])

    def function(*parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, state, (ids,))[0]

    inputs = [p.detach().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(function, inputs)


def test_gradient_of_the_probabilities():
    logits = random(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_probs(x, 0.7, 3), [logits])
    assert torch.autograd.gradcheck(lambda x: token_probs(x, 1.3), [logits])


# Edges ----------------------------------------------------------------------


@pytest.mark.parametrize(("b", "n"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_there(b, n):
    logits, cache = random_gpt()(tokens(b, n))
    assert logits.shape == (b, n, 11)
    assert [tuple(pair.k.shape) for pair in cache] == [(b, 2, n, 4)] * 3


def test_nothing_to_read_after_a_cache():
    model = random_gpt()
    cache = model(tokens(2, 3))[1]
    logits, longer = model(tokens(2, 0), cache)
    assert logits.shape == (2, 0, 11) and longer[0].k.shape == (2, 2, 3, 4)


def test_no_steps_and_the_whole_context():
    model, ids = random_gpt(), tokens(2, 4)
    assert torch.equal(model.generate(ids, 0), ids)
    assert model.generate(ids, 8, generator=seeded()).shape == (2, 12)
    assert model.generate(tokens(0, 4), 3, generator=seeded()).shape == (0, 7)


def test_one_layer_one_head_one_word():
    model = GPT(GPTSizes(1, 1, width=1, heads=1, layers=1))
    assert model(torch.zeros(1, 1, dtype=torch.int64))[0].shape == (1, 1, 1)


def test_non_contiguous_ids():
    model = random_gpt()
    ids = tokens(6, 3).T
    assert not ids.is_contiguous()
    assert_same(model(ids)[0], model(ids.contiguous())[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    exact = random_gpt()
    model = GPT(TINY).to(dtype)
    model.load_state_dict(exact.state_dict())
    exact.load_state_dict(model.state_dict())  # rounded
    ids = tokens(2, 6)
    actual, step = model(ids)[0], torch.finfo(dtype).eps
    assert actual.dtype == dtype
    assert_close(actual.double(), exact(ids)[0], rtol=0, atol=64 * step)
    out = model.generate(ids, 4, 0.8, 5, seeded())
    assert out.dtype == torch.int64 and out.shape == (2, 10)


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(heads=3), r"multiple of heads, got 8, 3"),
        (dict(layers=0), r"positive, got .*layers=0"),
        (dict(vocabulary=-1), r"positive, got .*vocabulary=-1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", [GPT, count_parameters, lambda s: count_multiply_adds(s, 1)])
def test_bad_sizes(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(TINY._replace(**change))


def bad_ids():
    return [
        (torch.zeros(2, 3), TypeError, r"int64, got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int32), TypeError, r"int64, got torch.int32"),
        (torch.zeros(3, dtype=torch.int64), ValueError, r"\(B, N\), got \(3,\)"),
        (torch.tensor([[0, 11]]), ValueError, r"from 0 to 10, got 0 to 11"),
        (torch.tensor([[-1, 4]]), ValueError, r"from 0 to 10, got -1 to 4"),
        (tokens(1, 13), ValueError, r"ends at 12 tokens, got 13"),
    ]


@pytest.mark.parametrize(("ids", "error", "message"), bad_ids(), ids=range(6))
def test_bad_ids(ids, error, message):
    model = random_gpt()
    with pytest.raises(error, match=message):
        model(ids)
    with pytest.raises(error):
        model.generate(ids, 0)


def test_bad_cache():
    model = random_gpt()
    cache = model(tokens(2, 8))[1]
    with pytest.raises(ValueError, match=r"3 entries, got 2"):
        model(tokens(2, 1), cache[:2])
    with pytest.raises(ValueError, match=r"ends at 12 tokens, got 13"):
        model(tokens(2, 5), cache)
    with pytest.raises(ValueError, match=r"3 entries, got 0"):
        model(tokens(2, 1), [])
    with pytest.raises(ValueError, match=r"hold 1 sequences, got 2"):
        model(tokens(1, 1), cache)
    narrow = [KeysValues(k[..., :2], v[..., :2]) for k, v in cache]
    with pytest.raises((ValueError, RuntimeError), match=r"2"):
        model(tokens(2, 1), narrow)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(ids=torch.zeros(2, 0, dtype=torch.int64)), r"one token, got \(2, 0\)"),
        (dict(steps=-1), r"not be negative, got -1"),
        (dict(steps=10), r"ends at 12 tokens, got 3 \+ 10"),
        (dict(temperature=-0.5), r"number >= 0, got -0.5"),
        (dict(temperature=math.nan), r"number >= 0, got nan"),
        (dict(temperature=math.inf), r"number >= 0, got inf"),
        (dict(top_k=0), r"from 1 to 11, got 0"),
        (dict(top_k=12), r"from 1 to 11, got 12"),
    ],
    ids=str,
)
def test_bad_generation(change, message):
    good = dict(ids=tokens(2, 3), steps=2, temperature=1.0, top_k=None)
    with pytest.raises(ValueError, match=message):
        random_gpt().generate(**(good | change))


def test_bad_sampling_and_counting():
    with pytest.raises(ValueError, match=r"from 1 to 5, got 6"):
        token_probs(random(2, 5), top_k=6)
    for args, message in (((-3,), r"negative, got -3, 0"), ((1, -2), r"negative, got 1, -2")):
        with pytest.raises(ValueError, match=message):
            count_multiply_adds(TINY, *args)


def test_bad_states():
    crossed = GPT2LMHeadModel(config(TINY, add_cross_attention=True)).state_dict()
    with pytest.raises(ValueError, match=r"got \['transformer.h.0.crossattention"):
        from_huggingface(crossed)
    state = dict(oracle().state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(ValueError, match=r"lm_head.weight differs"):
        from_huggingface(state)
