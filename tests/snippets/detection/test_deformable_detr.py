"""Deformable DETR: decoder against transformers, queries as boxes, training, bad input.

Yardstick: transformers.models.deformable_detr.modeling_deformable_detr.DeformableDetrDecoderLayer;
    definition in float64.
"""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrDecoderLayer

from snippets.detection.average_precision import evaluate_coco
from snippets.detection.deformable_detr import DeformableDecoderLayer, DeformableDETR
from snippets.detection.detr import DETR, image_positions
from snippets.detection.shapes_dataset import shapes

detr = sys.modules[DETR.__module__]

SIZES = [(5, 8), (3, 4)]  # of the maps of an image of 40 x 60
NAMES = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.o_proj": "attention.out_proj",
    "self_attn_layer_norm": "attention_norm.norm",
    "encoder_attn": "cross",
    "encoder_attn_layer_norm": "cross_norm.norm",
    "mlp.fc1": "feed_forward.up",
    "mlp.fc2": "feed_forward.down",
    "final_layer_norm": "feed_forward_norm.norm",
}


def random_weights(module, seed=0, std=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return module


def draw(*shape, seed=1, of=torch.randn):
    generator = torch.Generator().manual_seed(seed)
    return of(shape, generator=generator, dtype=torch.float64).requires_grad_()


def small(seed=0, **change):
    sizes = dict(rows=2, width=16, heads=2, inner=20, points=3, strides=(8, 16))
    model = DeformableDETR(3, **sizes | change).double()
    return random_weights(model, seed).eval()


def pictures(batch=2, seed=2):
    return draw(batch, 3, 40, 60, seed=seed, of=torch.rand)


def partner(layer):
    """The decoder layer of transformers, with the weights of ours, and the names of both."""
    sizes = dict(d_model=16, decoder_attention_heads=2, decoder_ffn_dim=20, decoder_n_points=3)
    sizes |= dict(num_feature_levels=2, dropout=0.0, attention_dropout=0.0)
    config = DeformableDetrConfig(use_timm_backbone=False, backbone_config=None, **sizes)
    config._attn_implementation = "eager"
    theirs, names = DeformableDetrDecoderLayer(config).double(), {}
    for key, parameter in theirs.named_parameters():
        place = max((p for p in NAMES if key.startswith(f"{p}.")), key=len)
        names[key] = NAMES[place] + key[len(place) :]
        parameter.data.copy_(layer.get_parameter(names[key]).data)
    assert {name for name, _ in layer.named_parameters()} == set(names.values())
    return theirs, names


def call(theirs, x, queries, boxes, maps):
    sizes = [tuple(m.shape[2:]) for m in maps]
    starts = [0, *torch.tensor([h * w for h, w in sizes]).cumsum(0).tolist()[:-1]]
    return theirs(
        x,
        queries,
        boxes[:, :, None].expand(-1, -1, len(maps), -1),
        torch.tensor(sizes),
        sizes,
        torch.tensor(starts),
        torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2),
        None,
    )


# Parity ---------------------------------------------------------------------


def test_decoder_layer_equals_transformers():
    ours = random_weights(DeformableDecoderLayer(16, 2, 20, levels=2, points=3).double())
    theirs, names = partner(ours)
    maps = [draw(2, 16, h, w, seed=h) for h, w in SIZES]
    inputs = [draw(2, 5, 16), draw(2, 5, 16, seed=2), draw(2, 5, 4, of=torch.rand), *maps]
    found = ours(*inputs[:3], maps)
    expected = call(theirs, *inputs[:3], maps)
    assert_close(found, expected, rtol=1e-9, atol=1e-10)
    own = [ours.get_parameter(name) for name in names.values()]
    toward = draw(*found.shape, seed=7)
    gradients = torch.autograd.grad((found * toward).sum(), inputs + own)
    wanted = torch.autograd.grad((expected * toward).sum(), inputs + list(theirs.parameters()))
    for x, y in zip(gradients, wanted, strict=True):
        assert_close(x, y, rtol=1e-8, atol=1e-9)


def by_hand(model, images):
    """The model with transformers' decoder layers, and everything else written out."""
    features = model.backbone(images)
    tokens, positions = [], []
    for level, stride in enumerate((8, 16)):
        convolution, norm = model.projects[str(stride)]
        x = torch.einsum("bchw,dc->bdhw", features[stride], convolution.weight[:, :, 0, 0])
        x = x + convolution.bias[:, None, None]
        groups = x.unflatten(1, (2, 8))
        mean = groups.mean((2, 3, 4), keepdim=True)
        variance = groups.var((2, 3, 4), correction=0, keepdim=True)
        x = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
        x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
        tokens.append(x.flatten(2).transpose(1, 2))
        positions.append(image_positions(*x.shape[2:], 16) + model.levels[level])
    memory, positions = torch.cat(tokens, dim=1), torch.cat(positions)
    for layer in model.encoder:
        memory = layer(memory, positions)
    fine, coarse = memory[:, :40], memory[:, 40:]
    maps = [x.transpose(1, 2).unflatten(2, s) for x, s in zip((fine, coarse), SIZES, strict=True)]
    boxes = 1 / (1 + (-model.queries).exp())
    boxes = boxes.expand(len(images), -1, -1)
    x = torch.zeros(len(images), 4, 16, dtype=torch.float64)
    logits, found = [], []
    for layer in model.decoder:
        waves = []
        for coordinate in range(4):
            for i in range(2):  # four numbers for each coordinate
                angle = 2 * math.pi * boxes[..., coordinate] / 20 ** (2 * i / 4)
                waves += [angle.sin(), angle.cos()]
        placed = model.place(torch.stack(waves, dim=-1))
        x = call(partner(layer)[0], x, placed, boxes, maps)
        out = model.norm(x)
        logits.append(model.logits(out))
        before = (boxes / (1 - boxes)).log()
        found.append(1 / (1 + (-before - model.boxes(out)).exp()))
        boxes = found[-1].detach()
    return torch.stack(logits), torch.stack(found)


def test_model_equals_what_the_papers_describe():
    model, images = small(), pictures()
    found, expected = model(images), by_hand(model, images)
    for x, y in zip(found, expected, strict=True):
        assert x.shape[:3] == (2, 2, 4)
        assert_close(x, y, rtol=1e-9, atol=1e-10)
    names = ("backbone.stem.0.weight", "projects.16.0.weight", "levels", "queries")
    names += ("place.0.weight", "place.2.bias", "logits.weight", "boxes.4.weight")
    own = [images, *(model.get_parameter(name) for name in names)]

    def gradients(pair):
        toward = [draw(*x.shape, seed=8) for x in pair]
        total = sum((x * t).sum() for x, t in zip(pair, toward, strict=True))
        return torch.autograd.grad(total, own)

    for x, y in zip(gradients(found), gradients(expected), strict=True):
        assert_close(x, y, rtol=1e-7, atol=1e-9)


# Invariants and gradient ----------------------------------------------------


@settings(max_examples=15)
@given(order=st.permutations(range(4)), seed=st.integers(0, 2**32 - 1))
def test_queries_in_another_order_give_the_same_set(order, seed):
    model, images = small(seed), pictures(1)
    before = model(images)
    model.queries.data = model.queries.data[list(order)]
    for x, y in zip(model(images), before, strict=True):
        assert_close(x, y[:, :, list(order)])


def test_an_image_does_not_depend_on_the_others():
    model, images = small(), pictures(3)
    together, alone = model(images), model(images[1:2])
    assert_close(together.logits[:, 1:2], alone.logits)
    assert model.detect(images[:0]) == []


def test_at_first_the_boxes_are_a_grid_and_stay():
    model = DeformableDETR(2, rows=3, side=0.2, generator=torch.Generator().manual_seed(0))
    boxes = model(torch.rand(1, 3, 64, 64)).boxes_cxcywh.detach()
    for layer in boxes[:, 0]:
        places = {(round(float(x), 4), round(float(y), 4)) for x, y in layer[:, :2]}
        third = (0.1667, 0.5, 0.8333)
        assert places == {(x, y) for x in third for y in third}
        assert_close(layer[:, 2:], torch.full((9, 2), 0.2))


def test_gradient():
    model = small(decoder_layers=1, encoder_layers=1)
    layer = model.decoder[0]
    maps = [draw(1, 16, 2, 3), draw(1, 16, 1, 2, seed=3)]
    inputs = [draw(1, 2, 16), draw(1, 2, 16, seed=2), draw(1, 2, 4, of=torch.rand)]
    assert torch.autograd.gradcheck(lambda *x: layer(*x[:3], x[3:]), (*inputs, *maps))


def test_same_seed_same_weights():
    first, second = (
        DeformableDETR(2, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    torch.manual_seed(1)
    for x, y in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("strides", [(8,), (32,), (8, 16, 32)], ids=str)
def test_other_maps(strides):
    model = DeformableDETR(2, strides=strides)
    found = model(torch.rand(2, 3, 40, 60))
    assert found.logits.shape == (2, 2, 16, 3) and found.boxes_cxcywh.shape == (2, 2, 16, 4)


def test_half_precision():
    model = small().bfloat16()
    images = pictures().detach()
    for x, y in zip(model(images.bfloat16()), small()(images), strict=True):
        assert x.dtype == torch.bfloat16 and x.isfinite().all() and x.shape == y.shape


# Training -------------------------------------------------------------------


def average_precision_after(steps, seed):
    """Of twelve images learned by heart; in each step their objects stand in another order."""
    generator = torch.Generator().manual_seed(seed)
    options = dict(size=32, objects=(2, 3), sides=(8, 16), noise=6, empty=0.1)
    drawn = shapes(12, generator, **options)
    images, targets = torch.stack([x for x, _ in drawn]), [target for _, target in drawn]
    model = DeformableDETR(4, rows=3, decoder_layers=2, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        shuffled = []
        for target in targets:
            p = torch.randperm(len(target["labels"]), generator=generator)
            shuffled.append(dict(boxes=target["boxes"][p], labels=target["labels"][p]))
        optimizer.zero_grad()
        model.loss(images, shuffled, (4.0, 5.0, 2.0)).backward()
        optimizer.step()
    return evaluate_coco(model.eval().detect(images), targets)["AP50"]


def in_order(cost):
    pairs = min(cost.shape)
    return torch.arange(pairs), torch.arange(pairs)


def test_it_learns():
    assert average_precision_after(60, 0) > 0.7


def test_it_does_not_learn_without_the_matching(monkeypatch):
    monkeypatch.setattr(detr, "hungarian", in_order)
    assert average_precision_after(60, 0) < 0.5


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(rows=0), "at least 1, got 0, 2"),
        (dict(strides=()), "at least 1, got 4, 0"),
        (dict(strides=(8, 4)), r"one of \[8, 16, 32\], got 4"),
        (dict(strides=(8, 8)), r"differ, got \[8, 8\]"),
        (dict(width=20), "multiple of 8, got 20"),
        (dict(side=0.0), "between 0 and 1, got 0.0"),
        (dict(side=math.nan), "between 0 and 1, got nan"),
        (dict(heads=5), "multiple of heads, got 64, 5"),
        (dict(points=0), "must be positive, got 64, 4, 2, 0"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        DeformableDETR(2, **sizes)


def test_bad_images():
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\), got \(3, 32, 32\)"):
        DeformableDETR(2).loss(torch.zeros(3, 32, 32), [])
