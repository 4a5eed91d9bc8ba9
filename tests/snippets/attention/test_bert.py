"""BERT: parity with transformers, key map, masking statistics, pairs, counts, edges, bad input.

Yardstick: transformers.BertModel; transformers.BertForPreTraining.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.attention.bert import (
    BASE,
    LARGE,
    Bert,
    BertConfig,
    BertForPreTraining,
    BertLayer,
    SentencePair,
    count_parameters,
    from_huggingface,
    mask_tokens,
    next_sentence_pairs,
    pack_pairs,
    pretraining_loss,
)

seeds = st.integers(0, 2**32 - 1)
TINY = BertConfig(vocabulary=23, width=12, layers=2, heads=3, hidden=20, positions=9, segments=2)
PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = [PAD, CLS, SEP, MASK]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def randomise(module, seed=0, std=0.4):
    """Draw every parameter anew; the scales of the norms around 1."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            scale = p.ndim == 1 and name.endswith("weight")
            drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.copy_(std * drawn + float(scale))
    return module.double().eval()


def oracle(kind, seed=0, **kwargs):
    config = transformers.BertConfig(
        vocab_size=23,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=9,
        type_vocab_size=2,
        pad_token_id=None,
        attn_implementation="eager",
        **kwargs,
    )
    return randomise(kind(config), seed)


def batch():
    """Tokens, segments, padding mask: sequences of 7, 4 and 1 tokens."""
    tokens = torch.randint(23, (3, 7), generator=seeded(1))
    segments = torch.randint(2, (3, 7), generator=seeded(2))
    return tokens, segments, torch.arange(7) < torch.tensor([[7], [4], [1]])


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def functional(outputs):
    """A fixed random number of all outputs, to differentiate."""
    return sum((out * random(*out.shape, seed=9 + i)).sum() for i, out in enumerate(outputs))


# Parity with transformers ---------------------------------------------------


@pytest.mark.parametrize("mask", [True, False], ids=["padding", "no padding"])
@pytest.mark.parametrize("kind", [transformers.BertModel, transformers.BertForPreTraining])
def test_equals_transformers(kind, mask):
    """Outputs, and gradients of all parameters."""
    theirs = oracle(kind)
    ours = (Bert if kind is transformers.BertModel else BertForPreTraining)(TINY).double()
    ours.load_state_dict(from_huggingface(theirs.state_dict()))
    tokens, segments, padding = batch()
    expected = theirs(
        tokens, token_type_ids=segments, attention_mask=padding.long() if mask else None
    )[:2]
    actual = ours(tokens, segments, padding if mask else None)
    assert_all_close(actual, expected)
    parameters = dict(ours.named_parameters())
    found = torch.autograd.grad(functional(actual), list(parameters.values()))
    others = dict(theirs.named_parameters())
    wanted = torch.autograd.grad(functional(expected), list(others.values()))
    wanted = from_huggingface(dict(zip(others, wanted, strict=True)))
    assert parameters.keys() == wanted.keys()
    assert_all_close(found, [wanted[key] for key in parameters])
    small = [k for k, g in wanted.items() if g.abs().max() < 1e-3 and "k_proj.bias" not in k]
    assert not small, "gradients that show nothing"


def test_every_layer_equals_transformers():
    theirs = oracle(transformers.BertModel)
    ours = Bert(TINY).double()
    ours.load_state_dict(from_huggingface(theirs.state_dict()))
    tokens, segments, padding = batch()
    seen = []
    for part in (ours.embedding_norm, *ours.layers):
        part.register_forward_hook(lambda module, args, out: seen.append(out))
    ours(tokens, segments, padding)
    expected = theirs(
        tokens, token_type_ids=segments, attention_mask=padding.long(), output_hidden_states=True
    ).hidden_states
    assert_all_close(seen, expected)


def test_loss_equals_transformers():
    theirs = oracle(transformers.BertForPreTraining)
    ours = BertForPreTraining(TINY).double()
    ours.load_state_dict(from_huggingface(theirs.state_dict()))
    tokens, segments, padding = batch()
    _, labels = mask_tokens(tokens, SPECIAL, MASK, 23, rate=0.5, generator=seeded())
    pair_labels = torch.tensor([0, 1, 1])
    expected = theirs(
        tokens,
        token_type_ids=segments,
        attention_mask=padding.long(),
        labels=labels,
        next_sentence_label=pair_labels,
    ).loss
    everywhere = ours(tokens, segments, padding)
    selected = ours(tokens, segments, padding, labels != -100)
    assert 1 < len(selected[0]) < tokens.numel()
    found = [
        pretraining_loss(everywhere[0], labels, everywhere[1], pair_labels),
        pretraining_loss(selected[0], labels[labels != -100], selected[1], pair_labels),
    ]
    assert_all_close(found, [expected, expected])
    gradients = [torch.autograd.grad(x, list(ours.parameters()), retain_graph=True) for x in found]
    wanted = torch.autograd.grad(expected, list(theirs.parameters()))
    names = [name for name, _ in theirs.named_parameters()]
    wanted = from_huggingface(dict(zip(names, wanted, strict=True)))
    wanted = [wanted[name] for name, _ in ours.named_parameters()]
    assert_all_close(gradients[0], wanted)
    assert_all_close(gradients[1], wanted)


@pytest.mark.parametrize(
    "name", ["SequenceClassification", "TokenClassification", "QuestionAnswering"]
)
def test_heads_for_fine_tuning_are_one_matrix(name):
    """As the table of the page says."""
    labels = {} if name == "QuestionAnswering" else dict(num_labels=5)
    theirs = oracle(getattr(transformers, f"BertFor{name}"), **labels)
    state = theirs.state_dict()
    encoder = {k.removeprefix("bert."): w for k, w in state.items() if k.startswith("bert.")}
    ours = Bert(TINY).double()
    renamed = from_huggingface(encoder)
    ours.load_state_dict(renamed, strict=name == "SequenceClassification")
    tokens, segments, padding = batch()
    x, pooled = ours(tokens, segments, padding)
    expected = theirs(tokens, token_type_ids=segments, attention_mask=padding.long())
    if name == "QuestionAnswering":
        scores = F.linear(x, state["qa_outputs.weight"], state["qa_outputs.bias"]).unbind(-1)
        assert_all_close(scores, expected[:2])
    else:
        x = pooled if name == "SequenceClassification" else x
        scores = F.linear(x, state["classifier.weight"], state["classifier.bias"])
        assert_all_close([scores], [expected.logits])


# The key map ----------------------------------------------------------------


def test_older_files():
    """gamma and beta, the buffer position_ids, and no copy of the shared matrix."""
    state = oracle(transformers.BertForPreTraining).state_dict()
    old = {"bert.embeddings.position_ids": torch.arange(9)[None]}
    for key, weight in state.items():
        if key.startswith("cls.predictions.decoder"):
            continue
        if "LayerNorm" in key:
            key = key.replace("weight", "gamma").replace("bias", "beta")
        old[key] = weight
    assert any(key.endswith("gamma") for key in old)
    new = from_huggingface(state)
    old = from_huggingface(old)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in new)
    BertForPreTraining(TINY).double().load_state_dict(old)


def test_key_map_of_a_model_with_two_digit_layers():
    config = replace(TINY, layers=11)
    theirs = transformers.BertConfig(
        vocab_size=23,
        hidden_size=12,
        num_hidden_layers=11,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=9,
    )
    model = randomise(transformers.BertModel(theirs))
    ours = Bert(config).double()
    ours.load_state_dict(from_huggingface(model.state_dict()))
    assert torch.equal(ours.layers[10].up.bias, model.encoder.layer[10].intermediate.dense.bias)
    assert torch.equal(ours.layers[1].up.bias, model.encoder.layer[1].intermediate.dense.bias)


def test_unknown_keys():
    state = {"bert.pooler.dense.bias": torch.zeros(4), "classifier.weight": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=r"got \['classifier.weight'\]"):
        from_huggingface(state)


# The model ------------------------------------------------------------------


def model(seed=0):
    return randomise(BertForPreTraining(TINY), seed)


@settings(max_examples=5)
@given(seed=seeds)
def test_padding_has_no_influence(seed):
    """Neither what stands in it nor how long it is; batched equals single."""
    bert = model(seed).bert
    tokens, segments, padding = batch()
    x, pooled = bert(tokens, segments, padding)
    other = torch.where(padding, tokens, torch.randint(23, (3, 7), generator=seeded(seed)))
    assert_close(bert(other, segments, padding)[1], pooled)
    for b, n in enumerate([7, 4, 1]):
        single = bert(tokens[b : b + 1, :n], segments[b : b + 1, :n])
        assert_all_close(single, [x[b : b + 1, :n], pooled[b : b + 1]])


def test_every_token_sees_both_sides():
    bert = model().bert
    tokens = torch.arange(7)[None]
    for changed in (0, 6):
        other = tokens.clone()
        other[0, changed] = 20
        assert not torch.isclose(bert(tokens)[0], bert(other)[0]).all(-1).any()


def test_places_and_segments_matter():
    bert = model().bert
    same = torch.full((1, 4), 5)
    x = bert(same)[0][0]
    assert not torch.isclose(x[0], x[1]).any()
    bert.position_embedding.weight.data.zero_()
    x = bert(same)[0][0]
    assert_close(x[0], x[1])  # nothing else tells the places apart
    assert not torch.isclose(bert(same, torch.ones_like(same))[0][0], x).any()
    assert_close(bert(same, torch.zeros_like(same))[0][0], x)


def test_outputs_are_normalised():
    """Post-norm: with fresh scales each output has mean 0 and variance 1."""
    x = Bert(TINY, seeded()).double()(batch()[0])[0]
    assert_close(x.mean(-1), torch.zeros(3, 7, dtype=torch.float64), atol=1e-8, rtol=0)
    assert_close(x.var(-1, correction=0), torch.ones(3, 7, dtype=torch.float64))


def test_the_matrix_is_shared():
    ours = model()
    x = random(2, 12)
    before = ours.token_logits(x)
    with torch.no_grad():
        ours.bert.token_embedding.weight[4] += 1
    changed = ours.token_logits(x) != before
    assert changed[:, 4].all() and changed.sum() == 2
    assert sum(p.numel() for p in ours.parameters()) == sum(count_parameters(TINY).values())


def test_padding_gets_no_gradient():
    """Its row of the table rests, as with padding_idx, when nothing at the padding counts."""
    bert = model().bert
    tokens, segments, padding = batch()
    tokens = torch.where(padding, tokens.clamp(min=1), PAD)
    x, pooled = bert(tokens, segments, padding)
    (gradient,) = torch.autograd.grad(functional([x[padding], pooled]), bert.token_embedding.weight)
    assert not gradient[PAD].any() and gradient.any()


def test_selected_positions_are_those_of_all():
    ours = model()
    tokens, segments, padding = batch()
    selected = torch.rand(3, 7, generator=seeded(3)) < 0.4
    few, pair = ours(tokens, segments, padding, selected)
    all_of_them, same = ours(tokens, segments, padding)
    assert_all_close([few, pair], [all_of_them[selected], same])


def test_gradient():
    layer = randomise(BertLayer(replace(TINY, width=3, heads=1, hidden=3)))
    names = [name for name, _ in layer.named_parameters()]
    mask = torch.tensor([True, True, False]).reshape(1, 1, 1, 3)

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x, mask))

    inputs = [random(1, 3, 3), *layer.parameters()]
    assert torch.autograd.gradcheck(function, [x.detach().requires_grad_() for x in inputs])


def test_loss_by_definition():
    logits, pair_logits = random(2, 3, 5), random(2, 2, seed=1)
    labels, pair_labels = torch.tensor([[1, -100, 4], [-100, -100, 0]]), torch.tensor([1, 0])
    chosen = [(0, 0, 1), (0, 2, 4), (1, 2, 0)]
    expected = -sum(logits[b, n].log_softmax(0)[k] for b, n, k in chosen) / 3
    expected -= (pair_logits[0].log_softmax(0)[1] + pair_logits[1].log_softmax(0)[0]) / 2
    assert_close(pretraining_loss(logits, labels, pair_logits, pair_labels), expected)


def test_loss_with_nothing_selected():
    logits = random(2, 3, 5).requires_grad_()
    labels, pair_logits = torch.full((2, 3), -100), random(2, 2, seed=1).requires_grad_()
    pair_labels = torch.tensor([1, 0])
    for x, y in ((logits, labels), (logits[:, :0].flatten(0, 1), labels[:, 0][:0])):
        loss = pretraining_loss(x, y, pair_logits, pair_labels)
        assert_close(loss, F.cross_entropy(pair_logits, pair_labels))
        gradient = torch.autograd.grad(loss, logits, materialize_grads=True)[0]
        assert not gradient.any()


def test_weights_are_drawn_from_the_generator():
    config = replace(TINY, vocabulary=500, width=60)
    first, again, other = (
        BertForPreTraining(config, seeded(seed)).state_dict() for seed in (0, 0, 1)
    )
    for name, weight in first.items():
        assert torch.equal(weight, again[name])
        if "bias" in name:
            assert not weight.any()
        elif "norm" in name:
            assert (weight == 1).all()
        else:
            assert not torch.equal(weight, other[name])
            assert weight.abs().max() <= 0.04 + 1e-6
    drawn = first["bert.token_embedding.weight"] / 0.02
    assert drawn.abs().max() > 1.98
    assert abs(drawn.mean()) < 0.03
    # Variance of a normal distribution cut at 2: 1 - 4 phi(2) / (2 Phi(2) - 1).
    phi = math.exp(-2) / math.sqrt(2 * math.pi)
    assert abs(drawn.var() - (1 - 4 * phi / math.erf(math.sqrt(2)))) < 0.02


# Counts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "encoder", "total"),
    [(BASE, 109_482_240, 110_106_428), (LARGE, 335_141_888, 336_226_108)],
    ids=["base", "large"],
)
def test_number_of_parameters(config, encoder, total):
    counts = count_parameters(config)
    assert sum(counts.values()) == total
    assert total - counts["pre-training heads"] == encoder
    with torch.device("meta"):
        ours = BertForPreTraining(config)
        theirs = transformers.BertForPreTraining(
            transformers.BertConfig(
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.hidden,
            )
        )
    assert sum(p.numel() for p in ours.parameters()) == total
    assert sum(p.numel() for p in ours.bert.parameters()) == encoder
    assert sum(p.numel() for p in theirs.parameters()) == total

    def size(*names):
        named = ours.bert.named_parameters()
        return sum(p.numel() for name, p in named if any(part in name for part in names))

    assert counts["token embedding"] == size("token_embedding")
    assert counts["attention"] == size("attention")
    assert counts["feed-forward"] == size(".up.", ".down.", "output_norm")
    assert counts["pooler"] == size("pooler")
    others = size("position_embedding", "segment_embedding", "embedding_norm")
    assert counts["positions, segments, norm"] == others


# Masking --------------------------------------------------------------------


def long_tokens(rows=400, columns=128, vocabulary=1000):
    tokens = torch.randint(10, vocabulary, (rows, columns), generator=seeded(7))
    tokens[:, 0], tokens[:, 50], tokens[:, 100], tokens[:, 101:] = CLS, SEP, SEP, PAD
    return tokens


def share(x, of):
    return x.sum().item() / of.sum().item()


def deviations(observed, expected, n):
    """From the expectation of a share among n, in standard deviations."""
    return abs(observed - expected) / math.sqrt(expected * (1 - expected) / n)


def test_statistics_of_masking():
    tokens = long_tokens()
    masked, labels = mask_tokens(tokens, SPECIAL, MASK, 1000, generator=seeded())
    selected = labels != -100
    assert (selected.sum(1) == round(0.15 * 98)).all()
    assert torch.equal(labels[selected], tokens[selected])
    assert torch.equal(masked[~selected], tokens[~selected])
    assert not (selected & (tokens < 10)).any()
    n = int(selected.sum())
    hidden, kept = selected & (masked == MASK), selected & (masked == tokens)
    drawn = selected & ~hidden & ~kept
    expected = [(hidden, 0.8 + 1e-4), (kept, 0.1 + 1e-4), (drawn, 0.1 - 2e-4)]
    for part, wanted in expected:
        assert deviations(share(part, selected), wanted, n) < 4
    # Every place is selected as often, and each fate is dealt to each as often.
    places = selected.float().mean(0)[tokens[0] >= 10]
    assert (deviations_of(places, 15 / 98, 400) < 5).all()
    early = torch.arange(128) < 50
    for part, wanted in expected:
        assert deviations(share(part & early, selected & early), wanted, n / 2) < 4


def deviations_of(shares, expected, n):
    return (shares - expected).abs() / math.sqrt(expected * (1 - expected) / n)


def test_random_tokens_come_from_the_whole_vocabulary():
    tokens = torch.full((300, 100), 9)
    masked, labels = mask_tokens(tokens, [], 3, 10, generator=seeded())
    drawn = masked[(labels != -100) & (masked != 3) & (masked != 9)]
    counts = drawn.bincount(minlength=10)
    assert counts[[3, 9]].tolist() == [0, 0]
    counts = counts[[0, 1, 2, 4, 5, 6, 7, 8]] / len(drawn)
    assert (deviations_of(counts, 1 / 8, len(drawn)) < 4).all()


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    rate=st.sampled_from([0.01, 0.15, 0.4, 1.0]),
    seed=seeds,
)
def test_number_and_place_of_the_selected(lengths, rate, seed):
    """As many as said, of what may be selected, at least one; labels and input agree."""
    tokens = torch.randint(4, 30, (len(lengths), 42), generator=seeded(seed))
    for row, n in zip(tokens, lengths):
        row[0], row[n + 1], row[n + 2 :] = CLS, SEP, PAD
    before = tokens.clone()
    masked, labels = mask_tokens(tokens, SPECIAL, MASK, 30, rate, seeded(seed))
    assert torch.equal(tokens, before)
    selected = labels != -100
    for row, n in zip(selected, lengths):
        wanted = min(n, max(1, float(torch.tensor(rate * n, dtype=torch.float32).round())))
        assert row.sum() == wanted and not row[n + 1 :].any() and not row[0]
    assert torch.equal(labels[selected], tokens[selected])
    assert torch.equal(masked[~selected], tokens[~selected])
    again = mask_tokens(tokens.T.contiguous().T, SPECIAL, MASK, 30, rate, seeded(seed))
    assert torch.equal(again[0], masked) and torch.equal(again[1], labels)


def test_masks_differ_by_seed_and_by_sequence():
    tokens = long_tokens(1).expand(2, -1)
    first, other = (
        mask_tokens(tokens, SPECIAL, MASK, 1000, generator=seeded(seed))[1] for seed in (0, 1)
    )
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, other)


def test_nothing_to_mask():
    empty = torch.zeros(0, 5, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64)
    for tokens in (*empty, torch.full((2, 3), PAD)):
        masked, labels = mask_tokens(tokens, SPECIAL, MASK, 30)
        assert torch.equal(masked, tokens) and labels.shape == tokens.shape
        assert (labels == -100).all()


# Pairs ----------------------------------------------------------------------


def documents(counts):
    """Every sentence says its document and its number."""
    return [[[d, i] for i in range(n)] for d, n in enumerate(counts)]


@given(counts=st.lists(st.integers(1, 5), min_size=2, max_size=5), seed=seeds)
def test_pairs(counts, seed):
    pairs = next_sentence_pairs(documents(counts), seeded(seed))
    wanted = [[d, i] for d, n in enumerate(counts) for i in range(n - 1)]
    assert [pair.first for pair in pairs] == wanted
    for first, second, is_random in pairs:
        if is_random:
            assert second[0] != first[0] and 0 <= second[1] < counts[second[0]]
        else:
            assert second == [first[0], first[1] + 1]
    assert pairs == next_sentence_pairs(documents(counts), seeded(seed))


def test_statistics_of_pairs():
    pairs = next_sentence_pairs(documents([2001, 5, 5, 10]), seeded())[:2000]
    random_ones = [pair.second for pair in pairs if pair.is_random]
    assert deviations(len(random_ones) / 2000, 0.5, 2000) < 4
    for d, n in ((1, 5), (2, 5), (3, 10)):
        of_d = [i for document, i in random_ones if document == d]
        assert deviations(len(of_d) / len(random_ones), 1 / 3, len(random_ones)) < 4
        for i in range(n):
            assert deviations(of_d.count(i) / len(of_d), 1 / n, len(of_d)) < 4


def test_packing_by_hand():
    pairs = [
        SentencePair([10, 11], [20], False),
        SentencePair([10, 11, 12, 13, 14], [20, 21, 22], True),
        SentencePair([10], [20, 21, 22, 23, 24, 25], True),
        SentencePair([10, 11, 12, 13], [20, 21, 22, 23], False),
    ]
    tokens, segments, labels = pack_pairs(pairs, 8, CLS, SEP, PAD)
    assert tokens.tolist() == [
        [1, 10, 11, 2, 20, 2, 0, 0],
        [1, 10, 11, 12, 2, 20, 21, 2],
        [1, 10, 2, 20, 21, 22, 23, 2],
        [1, 10, 11, 12, 2, 20, 21, 2],
    ]
    assert segments.tolist() == [
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert labels.tolist() == [0, 1, 1, 0]
    assert pairs[1].first == [10, 11, 12, 13, 14]


@given(a=st.integers(0, 12), b=st.integers(0, 12), length=st.integers(5, 20))
def test_packing(a, b, length):
    """What is left are beginnings; nothing is cut that would have fitted."""
    first, second = list(range(100, 100 + a)), list(range(200, 200 + b))
    tokens, segments, _ = pack_pairs([SentencePair(first, second, False)], length, CLS, SEP, PAD)
    line = tokens[0].tolist()
    ends = [i for i, token in enumerate(line) if token == SEP]
    one, two = line[1 : ends[0]], line[ends[0] + 1 : ends[1]]
    assert line[0] == CLS and one == first[: len(one)] and two == second[: len(two)]
    assert len(one) + len(two) == min(a + b, length - 3)
    assert line[ends[1] + 1 :] == [PAD] * (length - ends[1] - 1)
    assert segments[0].tolist() == [int(ends[0] < i <= ends[1]) for i in range(length)]
    if len(one) < a:
        assert len(one) >= len(two)
    if len(two) < b:
        assert len(two) >= len(one) - 1


def test_no_pairs():
    assert next_sentence_pairs(documents([1, 1])) == []
    tokens, segments, labels = pack_pairs([], 8, CLS, SEP, PAD)
    assert tokens.shape == segments.shape == (0, 8) and labels.shape == (0,)
    assert tokens.dtype == segments.dtype == labels.dtype == torch.int64


# Edges ----------------------------------------------------------------------


def test_empty_and_shortest():
    ours = model()
    logits, pair = ours(torch.zeros(0, 5, dtype=torch.int64))
    assert logits.shape == (0, 5, 23) and pair.shape == (0, 2)
    logits, pair = ours(torch.tensor([[CLS]]))
    assert logits.shape == (1, 1, 23) and pair.isfinite().all()
    tokens = batch()[0]
    none = torch.zeros_like(tokens, dtype=torch.bool)
    assert ours(tokens, selected=none)[0].shape == (0, 23)
    assert all(out.isfinite().all() for out in ours(tokens, mask=none))  # nothing but padding
    assert ours(torch.zeros(1, 9, dtype=torch.int64))[0].shape == (1, 9, 23)


def test_non_contiguous_input_and_untouched_arguments():
    ours = model()
    tokens, segments, padding = batch()
    inputs = (tokens, segments, padding, tokens > 10)
    strided = [x.T.contiguous().T for x in inputs]
    assert not any(x.is_contiguous() for x in strided)
    copies = [x.clone() for x in inputs]
    assert_all_close(ours(*strided), ours(*inputs))
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    exact = BertForPreTraining(TINY, seeded()).double()
    rounded = BertForPreTraining(TINY).to(dtype)
    rounded.load_state_dict(exact.state_dict())
    exact.load_state_dict(rounded.state_dict())
    step = torch.finfo(dtype).eps
    for actual, wanted in zip(rounded(*batch()), exact(*batch())):
        assert actual.dtype == dtype
        assert_close(actual.double(), wanted, rtol=32 * step, atol=8 * step)


# Bad input ------------------------------------------------------------------


def bad_inputs():
    def whole(*shape):
        return torch.zeros(shape, dtype=torch.int64)

    return [
        (dict(tokens=whole(5)), ValueError, r"1 <= N <= 9, got \(5,\)"),
        (dict(tokens=whole(2, 10)), ValueError, r"1 <= N <= 9, got \(2, 10\)"),
        (dict(tokens=whole(2, 0)), ValueError, r"1 <= N <= 9, got \(2, 0\)"),
        (dict(tokens=whole(2, 5).int()), TypeError, r"tokens must be torch.int64, got torch.int32"),
        (dict(segments=whole(5)), ValueError, r"segments .* got \(5,\), not \(2, 5\)"),
        (dict(segments=whole(2, 5).bool()), TypeError, r"segments .* got torch.bool"),
        (dict(mask=whole(2, 5)), TypeError, r"mask must be torch.bool, got torch.int64"),
        (dict(mask=whole(2, 1, 5).bool()), ValueError, r"mask .* got \(2, 1, 5\), not \(2, 5\)"),
        (dict(tokens=whole(2, 5) + 30), ValueError, r"tokens .* 0 to 22, got 30 to 30"),
        (dict(segments=whole(2, 5) - 1), ValueError, r"segments .* 0 to 1, got -1 to -1"),
        (dict(selected=whole(2, 5)), ValueError, r"selected .* got \(2, 5\), torch.int64"),
        (dict(selected=whole(2).bool()), ValueError, r"selected .* got \(2,\), torch.bool"),
    ]


@pytest.mark.parametrize(("change", "error", "message"), bad_inputs(), ids=range(12))
def test_bad_input(change, error, message):
    good = dict(tokens=torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(error, match=message):
        model()(**(good | change))


def test_bad_sizes():
    with pytest.raises(ValueError, match=r"positive, got BertConfig\(.*segments=0\)"):
        Bert(replace(TINY, segments=0))
    with pytest.raises(ValueError, match=r"multiple of heads, got 12, 5"):
        Bert(replace(TINY, heads=5))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(tokens=torch.zeros(5, dtype=torch.int64)), ValueError, r"got \(5,\)"),
        (dict(tokens=torch.zeros(2, 5)), TypeError, r"int64, got torch.float32"),
        (dict(mask_token=30), ValueError, r"in \[0, 30\), got 30"),
        (dict(mask_token=-1), ValueError, r"in \[0, 30\), got -1"),
        (dict(rate=0.0), ValueError, r"in \(0, 1\], got 0.0"),
        (dict(rate=1.5), ValueError, r"in \(0, 1\], got 1.5"),
    ],
    ids=range(6),
)
def test_bad_masking(change, error, message):
    good = dict(
        tokens=torch.zeros(2, 5, dtype=torch.int64), special=[], mask_token=29, vocabulary=30
    )
    mask_tokens(**good)
    with pytest.raises(error, match=message):
        mask_tokens(**(good | change))


def test_bad_pairs_and_labels():
    for bad, shown in (([[[1]]], r"\[1\]"), ([], r"\[\]"), ([[[1]], []], r"\[1, 0\]")):
        with pytest.raises(ValueError, match=f"got sentences: {shown}"):
            next_sentence_pairs(bad)
    with pytest.raises(ValueError, match=r"5 or more, got 4"):
        pack_pairs([], 4, CLS, SEP, PAD)
    with pytest.raises(ValueError, match=r"got \(2, 2\) for logits \(2, 3, 5\)"):
        pretraining_loss(
            torch.zeros(2, 3, 5),
            torch.zeros(2, 2, dtype=torch.int64),
            torch.zeros(2, 2),
            torch.zeros(2, dtype=torch.int64),
        )
