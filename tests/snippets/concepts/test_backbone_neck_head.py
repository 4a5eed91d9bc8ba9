"""Backbone, neck and head: parity, contract, freezing, gradient, edges, bad input.

Yardstick: transformers.models.resnet.modeling_resnet.ResNetEncoder; plain loops.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from transformers import ResNetConfig
from transformers.models.resnet.modeling_resnet import ResNetEncoder

from snippets.concepts.backbone_neck_head import (
    FPN,
    PAN,
    AnchorFreeHead,
    Assembly,
    ClassificationHead,
    Head,
    IdentityNeck,
    Neck,
    ParallelBackbones,
    PlainBackbone,
    ResidualBackbone,
    SegmentationHead,
    check_features,
    initialize,
)

WIDTHS = (3, 4, 5, 6, 7)
CHANNELS = {8: 5, 16: 6, 32: 7}
BACKBONES = [PlainBackbone, ResidualBackbone]
NECKS = [IdentityNeck, lambda channels: FPN(channels, 4), lambda channels: PAN(channels, 4)]
NECK_IDS = ["identity", "fpn", "pan"]
HEADS = [
    lambda channels: AnchorFreeHead(channels, 3, width=4),
    lambda channels: ClassificationHead(channels, 3),
    lambda channels: SegmentationHead(channels, 3, width=4),
]
HEAD_IDS = ["boxes", "label", "mask"]
sides = st.integers(1, 70)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _one_thread():
    """Maps this small are slower on several."""
    torch.set_num_threads(1)


def scramble(module, seed=0):
    """All parameters and statistics drawn widely, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if x.is_floating_point():
                x.copy_(0.4 * torch.randn(x.shape, generator=generator))
                if name.endswith("running_var"):
                    x.abs_().add_(0.5)
    return module


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def random_features(size=(70, 45), channels=CHANNELS, batch=2, seed=0):
    return {
        s: random(batch, c, *(math.ceil(n / s) for n in size), seed=seed + s)
        for s, c in channels.items()
    }


def build(backbone=ResidualBackbone, neck=NECKS[1], heads=None, seed=0):
    b = backbone(WIDTHS, blocks=1)
    n = neck(b.out_channels)
    heads = heads or {"boxes": HEADS[0], "label": HEADS[1], "mask": HEADS[2]}
    model = Assembly(b, n, {k: head(n.out_channels) for k, head in heads.items()})
    return scramble(model, seed)


def gradients(out, inputs, seed=99):
    return torch.autograd.grad((out * random(*out.shape, seed=seed)).sum(), inputs)


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


# What the parts compute, again, by sums over the taps of the kernel --------------------


def convolve(x, weight, bias=None, stride=1):
    k = weight.shape[-1]
    r = k // 2
    h, w = ((n - 1) // stride + 1 for n in x.shape[2:])
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * r, x.shape[3] + 2 * r)
    padded[:, :, r : r + x.shape[2], r : r + x.shape[3]] = x
    out = 0
    for i in range(k):
        for j in range(k):
            tap = padded[:, :, i : i + stride * (h - 1) + 1 : stride]
            tap = tap[..., j : j + stride * (w - 1) + 1 : stride]
            out = out + torch.einsum("oc,bchw->bohw", weight[:, :, i, j], tap)
    return out if bias is None else out + bias[:, None, None]


def layer(x, conv):
    return convolve(x, conv.weight, conv.bias, conv.stride[0])


def normed(x, pair):
    """Convolution and batch normalisation by the stored statistics."""
    conv, norm = pair
    y = layer(x, conv) - norm.running_mean[:, None, None]
    y = y / (norm.running_var + 1e-5).sqrt()[:, None, None]
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


def nearest(x, size):
    rows, columns = ([i * m // n for i in range(n)] for m, n in zip(x.shape[2:], size, strict=True))
    return x[:, :, rows][..., columns]


def fpn_by_hand(neck, maps):
    sums = [layer(x, conv) for x, conv in zip(maps, neck.lateral, strict=True)]
    sums[1] = sums[1] + nearest(sums[2], sums[1].shape[2:])
    sums[0] = sums[0] + nearest(sums[1], sums[0].shape[2:])
    return [layer(x, conv) for x, conv in zip(sums, neck.smooth, strict=True)]


def pan_by_hand(neck, maps):
    p3, p4, p5 = fpn_by_hand(neck.top_down, maps)
    n4 = layer(p4 + layer(p3, neck.down[0]).clamp(min=0), neck.smooth[0]).clamp(min=0)
    n5 = layer(p5 + layer(n4, neck.down[1]).clamp(min=0), neck.smooth[1]).clamp(min=0)
    return [p3, n4, n5]


def boxes_by_hand(head, features):
    rows = []
    for (stride, x), stem in zip(features.items(), head.stems, strict=True):
        x = layer(layer(x, stem).clamp(min=0), head.tower).clamp(min=0)
        far, logits = stride * (1 + layer(x, head.distances).exp()).log(), layer(x, head.logits)
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                left, top, right, bottom = far[:, :, i, j].unbind(1)
                cx, cy = (j + 0.5) * stride, (i + 0.5) * stride
                box = torch.stack([cx - left, cy - top, cx + right, cy + bottom], 1)
                rows.append(torch.cat([box, logits[:, :, i, j]], 1))
    return torch.stack(rows, 1)


def bilinear(x, size):
    """Half-pixel centres (align_corners=False), one axis after the other."""
    for axis, n in zip((2, 3), size, strict=True):
        m = x.shape[axis]
        at = [max((i + 0.5) * m / n - 0.5, 0) for i in range(n)]
        low = [math.floor(p) for p in at]
        high = [min(p + 1, m - 1) for p in low]
        shape = [1, 1, 1, 1]
        shape[axis] = n
        share = x.new_tensor([p - q for p, q in zip(at, low, strict=True)]).view(shape)
        low, high = torch.tensor(low), torch.tensor(high)
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


# Parity ---------------------------------------------------------------------


def their_key(key):
    """Name of a stage's tensor in transformers."""
    stage, block, part, which, name = key.split(".")
    part = {"first": "layer.0", "second": "layer.1", "shortcut": "shortcut"}[part]
    kind = ["convolution", "normalization"][int(which)]
    return f"stages.{stage}.layers.{block}.{part}.{kind}.{name}"


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_residual_stages_equal_transformers(training):
    ours = scramble(ResidualBackbone(WIDTHS, blocks=2))
    config = ResNetConfig(
        embedding_size=3,
        hidden_sizes=[4, 5, 6, 7],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        downsample_in_first_stage=True,
    )
    theirs = ResNetEncoder(config).double()
    state = ours.stages.state_dict()
    theirs.load_state_dict({their_key(key): x.clone() for key, x in state.items()})
    ours.train(training), theirs.train(training)
    images = random(3, 3, 75, 64).requires_grad_()
    maps = list(ours(images).values())
    conv, norm = ours.stem
    x = F.conv2d(images, conv.weight, stride=2, padding=1)
    statistics = (None, None) if training else (norm.running_mean, norm.running_var)
    x = F.batch_norm(x, *statistics, norm.weight, norm.bias, training=training).relu()
    expected = theirs(x, output_hidden_states=True).hidden_states[-3:]
    assert_same(maps, expected)
    mine = dict(ours.stages.named_parameters())
    other = dict(theirs.named_parameters())
    assert len(mine) == len(other)
    pairs = [(maps, mine.values()), (expected, [other[their_key(key)] for key in mine])]
    found = []
    for outs, weights in pairs:
        total = sum((x * random(*x.shape, seed=9)).sum() for x in outs)
        found.append(torch.autograd.grad(total, [images, *weights]))
    assert_same(*found)


def test_plain_backbone_equals_loops():
    backbone = scramble(PlainBackbone(WIDTHS, blocks=2)).eval()
    images = random(2, 3, 33, 40).requires_grad_()
    x, maps = normed(images, backbone.stem).clamp(min=0), []
    for stage in backbone.stages:
        for block in stage:
            x = normed(normed(x, block.first).clamp(min=0), block.second).clamp(min=0)
        maps.append(x)
    actual = backbone(images)
    assert list(actual) == [8, 16, 32]
    assert_same(list(actual.values()), maps[1:])
    inputs = [images, *backbone.parameters()]
    assert_same(gradients(actual[32], inputs), gradients(maps[3], inputs))


@pytest.mark.parametrize(("kind", "by_hand"), [(FPN, fpn_by_hand), (PAN, pan_by_hand)])
@pytest.mark.parametrize("size", [(70, 45), (64, 32), (1, 1), (129, 8)], ids=str)
def test_neck_equals_loops(kind, by_hand, size):
    neck = scramble(kind(CHANNELS, 4))
    features = {s: x.requires_grad_() for s, x in random_features(size).items()}
    actual, expected = neck(features), by_hand(neck, list(features.values()))
    assert list(actual) == [8, 16, 32]
    assert_same(list(actual.values()), expected)
    total = sum((x * random(*x.shape, seed=9)).sum() for x in actual.values())
    total_by_hand = sum((x * random(*x.shape, seed=9)).sum() for x in expected)
    inputs = [*features.values(), *neck.parameters()]
    assert_same(torch.autograd.grad(total, inputs), torch.autograd.grad(total_by_hand, inputs))


@pytest.mark.parametrize("size", [(70, 45), (32, 64), (1, 1)], ids=str)
def test_heads_equal_loops(size):
    features = {s: x.requires_grad_() for s, x in random_features(size).items()}
    boxes, label, mask = (scramble(head(CHANNELS)) for head in HEADS)
    maps = list(features.values())
    finest = maps[0].shape[2:]
    fused = sum(bilinear(layer(x, stem), finest) for x, stem in zip(maps, mask.stems, strict=True))
    for head, expected in [
        (boxes, boxes_by_hand(boxes, features)),
        (
            label,
            maps[2].sum((2, 3)) / maps[2][0, 0].numel() @ label.linear.weight.T + label.linear.bias,
        ),
        (mask, bilinear(layer(fused.clamp(min=0), mask.logits), size)),
    ]:
        actual = head(features, size)
        assert_same([actual], [expected])
        inputs = [maps[2], *head.parameters()]
        assert_same(gradients(actual, inputs), gradients(expected, inputs))


# The contract ---------------------------------------------------------------


@settings(max_examples=6)
@given(height=sides, width=sides, seed=seeds)
def test_shapes_at_every_level(height, width, seed):
    for backbone in BACKBONES:
        for neck, out in zip(NECKS, (None, 4, 4), strict=True):
            model = build(backbone, neck, seed=seed).eval()
            images = random(2, 3, height, width, seed=seed)
            maps, fused = model.features(images)
            for features, widths in ((maps, (5, 6, 7)), (fused, [out] * 3 if out else (5, 6, 7))):
                assert {s: x.shape for s, x in features.items()} == {
                    s: (2, c, -(-height // s), -(-width // s))
                    for s, c in zip((8, 16, 32), widths, strict=True)
                }
            places = sum(-(-height // s) * -(-width // s) for s in (8, 16, 32))
            assert {name: x.shape for name, x in model(images).items()} == {
                "boxes": (2, places, 7),
                "label": (2, 3),
                "mask": (2, 3, height, width),
            }


@pytest.mark.parametrize("neck", NECKS, ids=NECK_IDS)
@pytest.mark.parametrize("head", HEADS, ids=HEAD_IDS)
def test_each_head_fits_each_neck(neck, head):
    model = build(neck=neck, heads={"x": head}).eval()
    images = random(3, 3, 40, 50)
    batched = model(images)["x"]
    single = torch.cat([model(images[b : b + 1])["x"] for b in range(3)])
    assert_same([batched], [single])


@settings(max_examples=10)
@given(seed=seeds)
def test_boxes_contain_their_centres(seed):
    head = scramble(HEADS[0](CHANNELS), seed)
    x1, y1, x2, y2 = head(random_features((40, 70), seed=seed), (40, 70))[..., :4].unbind(-1)
    centres = [
        ((j + 0.5) * s, (i + 0.5) * s)
        for s in CHANNELS
        for i in range(-(-40 // s))
        for j in range(-(-70 // s))
    ]
    cx, cy = torch.tensor(centres, dtype=torch.float64).T
    assert ((x1 < cx) & (cx < x2) & (y1 < cy) & (cy < y2)).all()


@settings(max_examples=5)
@given(seed=seeds)
def test_the_lateral_convolution_fuses_modalities(seed):
    """W [a; b] = W_a a + W_b b: fusion is a sum of one lateral convolution each."""
    both = ParallelBackbones(
        {"rgb": ResidualBackbone(WIDTHS, 1), "depth": PlainBackbone((2, 2, 3, 3, 2), 1, 1)}
    )
    assert both.out_channels == {8: 8, 16: 9, 32: 9}
    scramble(both, seed).eval()
    images = {"rgb": random(2, 3, 40, 33, seed=seed), "depth": random(2, 1, 40, 33, seed=seed + 1)}
    neck = scramble(FPN(both.out_channels, 4), seed)
    joined = both(images)
    rgb, depth = (both.backbones[name](x) for name, x in images.items())
    for conv, (stride, x) in zip(neck.lateral, joined.items(), strict=True):
        cut = rgb[stride].shape[1]
        parts = convolve(rgb[stride], conv.weight[:, :cut], conv.bias)
        parts = parts + convolve(depth[stride], conv.weight[:, cut:])
        assert_same([conv(x)], [parts])
    heads = {"boxes": HEADS[0](neck.out_channels), "mask": HEADS[2](neck.out_channels)}
    out = scramble(Assembly(both, neck, heads), seed).eval()(images)
    assert out["mask"].shape == (2, 3, 40, 33) and out["boxes"].shape == (2, 25 + 9 + 4, 7)


def test_number_of_parameters():
    """Written out by hand: kernel x kernel x in x out, biases, two per normalised channel."""
    model = build()
    stem = 9 * 3 * 3 + 2 * 3
    stages = sum(
        9 * a * b + 2 * b + 9 * b * b + 2 * b + a * b + 2 * b
        for a, b in [(3, 4), (4, 5), (5, 6), (6, 7)]
    )
    neck = (5 + 6 + 7) * 4 + 3 * 4 + 3 * (9 * 4 * 4 + 4)
    boxes = 3 * (4 * 4 + 4) + (9 * 16 + 4) + (9 * 16 + 4) + (9 * 4 * 3 + 3)
    mask = 3 * (4 * 4 + 4) + 4 * 3 + 3
    expected = {
        "backbone": stem + stages,
        "neck": neck,
        "heads.boxes": boxes,
        "heads.label": 4 * 3 + 3,
        "heads.mask": mask,
    }
    assert model.parameter_counts() == model.parameter_counts(trainable_only=True) == expected
    assert sum(expected.values()) == sum(p.numel() for p in model.parameters())
    assert build(PlainBackbone).parameter_counts()["backbone"] == stem + stages - sum(
        a * b + 2 * b for a, b in [(3, 4), (4, 5), (5, 6), (6, 7)]
    )
    pan = build(neck=NECKS[2]).parameter_counts()["neck"]
    assert pan == neck + 4 * (9 * 4 * 4 + 4)
    assert build(neck=NECKS[0]).parameter_counts()["neck"] == 0
    model.freeze("backbone", "heads.label")
    assert model.parameter_counts() == expected
    assert model.parameter_counts(True) == expected | {"backbone": 0, "heads.label": 0}


# Freezing -------------------------------------------------------------------


def one_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(random(2, 3, 64, 64))["boxes"].square().mean().backward()
    optimizer.step()


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_state():
    model = build(heads={"boxes": HEADS[0]})
    model.freeze("backbone")
    before = copy.deepcopy(model.state_dict())
    model.train()
    assert model.training and model.neck.training and model.heads["boxes"].training
    assert not any(module.training for module in model.backbone.modules())
    one_step(model)
    for name, p in model.named_parameters():
        frozen = name.startswith("backbone")
        assert (p.grad is None) == frozen and p.requires_grad != frozen
        assert torch.equal(p, before[name]) == frozen, name
    for name, x in model.backbone.state_dict().items():
        assert torch.equal(x, before[f"backbone.{name}"]), name
    maps, _ = model.features(random(2, 3, 64, 64))
    assert not any(x.requires_grad for x in maps.values())


def test_requires_grad_alone_does_not_keep_the_statistics():
    """The trap: in training mode the norms go on counting."""
    model = build(heads={"boxes": HEADS[0]}).train()
    model.backbone.requires_grad_(False)
    norm = model.backbone.stem[1]
    before = norm.running_mean.clone()
    one_step(model)
    assert not torch.equal(norm.running_mean, before)


def test_freezing_a_neck_or_a_head_lets_gradients_through():
    model = build(heads={"boxes": HEADS[0]}).train()
    model.freeze("neck", "heads.boxes")
    one_step(model)
    for name, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == name.startswith("backbone"), name


def test_freeze_keeps_the_mode_of_the_rest():
    model = build().eval()
    model.freeze("neck")
    assert not any(m.training for m in model.modules())
    assert model.train().backbone.training and not model.neck.training
    assert model.eval() is model and not model.backbone.training
    twin = copy.deepcopy(model).train()
    assert not twin.neck.training and twin.frozen is not model.frozen


def test_weights_are_drawn_from_the_generator():
    def draw(seed):
        model = Assembly(b := ResidualBackbone(), n := PAN(b.out_channels), {})
        initialize(model, torch.Generator().manual_seed(seed))
        assert model.backbone is b and model.neck is n
        return model.state_dict()

    first, again, other = draw(0), draw(0), draw(1)
    for name, x in first.items():
        assert torch.equal(x, again[name])
        if x.ndim == 4:
            assert not torch.isclose(x, other[name]).all()
            assert abs(float(x.std()) / math.sqrt(2 / x[0].numel()) - 1) < 0.15, name
        elif name.endswith("bias"):
            assert not x.any()
    model = scramble(build()).float()
    initialize(model)
    norm = model.backbone.stem[1]
    assert not norm.running_mean.any() and bool((norm.running_var == 1).all())
    assert bool((norm.weight == 1).all()) and not norm.bias.any()


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "neck"),
    list(zip([PlainBackbone, ResidualBackbone, ResidualBackbone], NECKS, strict=True)),
    ids=NECK_IDS,
)
def test_gradient(backbone, neck):
    b = backbone((2, 2, 2, 2, 2), 1, 1)
    n = neck(b.out_channels)
    heads = {"boxes": HEADS[0](n.out_channels), "mask": HEADS[2](n.out_channels)}
    model = scramble(Assembly(b, n, heads), seed=1).eval()
    images = random(1, 1, 7, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(model(x).values()), (images,))


# Edges ----------------------------------------------------------------------


def test_no_images():
    model = build().eval()
    assert {k: tuple(x.shape) for k, x in model(random(0, 3, 33, 64)).items()} == {
        "boxes": (0, 40 + 12 + 4, 7),
        "label": (0, 3),
        "mask": (0, 3, 33, 64),
    }


def test_no_heads():
    b = PlainBackbone(WIDTHS, 1)
    assert Assembly(b, IdentityNeck(b.out_channels), {})(torch.zeros(2, 3, 9, 9)) == {}


def test_non_contiguous_input_and_nothing_changed_in_place():
    model = build().eval()
    images = random(2, 3, 40, 50)
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    copied = strided.clone()
    assert_same(list(model(strided).values()), list(model(images).values()))
    assert torch.equal(strided, copied) and strided._version == 0
    features = random_features()
    given = dict(features)
    for neck in NECKS:
        out = scramble(neck(CHANNELS))(features)
        assert out is not features
    assert all(features[s] is x and x._version == 0 for s, x in given.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    b = ResidualBackbone(WIDTHS, 1)
    n = PAN(b.out_channels, 4)
    model = Assembly(b, n, {name: h(n.out_channels) for name, h in zip("abc", HEADS, strict=True)})
    initialize(model, torch.Generator().manual_seed(0))
    images = random(2, 3, 64, 64).to(dtype)
    rounded = model.to(dtype)
    exact = copy.deepcopy(rounded).double().eval()
    out = rounded.eval()(images)
    tolerance = 16 * torch.finfo(dtype).eps
    for name, expected in exact(images.double()).items():
        assert out[name].dtype == dtype
        largest = float(expected.detach().abs().max())
        assert_close(out[name].double(), expected, rtol=0, atol=tolerance * largest)


# Bad input ------------------------------------------------------------------


def fits():
    return ResidualBackbone(WIDTHS, 1), FPN(CHANNELS, 4)


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (
            lambda: Assembly(ResidualBackbone(WIDTHS, 1), FPN({8: 5, 16: 6, 32: 8}), {}),
            r"neck takes .*\{8: 5, 16: 6, 32: 8\}, but is given \{8: 5, 16: 6, 32: 7\}",
        ),
        (
            lambda: Assembly(ResidualBackbone(WIDTHS, 1), FPN({16: 6, 32: 7}), {}),
            r"neck takes .*\{16: 6, 32: 7\}, but is given \{8: 5,",
        ),
        (
            lambda: Assembly(*fits(), {"mask": SegmentationHead(CHANNELS, 3)}),
            r"heads.mask takes .*\{8: 5, .*\}, but is given \{8: 4, 16: 4, 32: 4\}",
        ),
        (lambda: FPN({8: 5, 32: 7}), r"strides must double .* got \{8: 5, 32: 7\}"),
        (lambda: PAN({16: 5, 8: 7}), r"strides must double .* got \{16: 5, 8: 7\}"),
        (lambda: IdentityNeck({}), r"strides must double .* got \{\}"),
        (lambda: IdentityNeck({8: 0}), r"C be positive, got \{8: 0\}"),
        (lambda: FPN(CHANNELS, 0), r"width must be positive, got 0"),
        (lambda: AnchorFreeHead(CHANNELS, 0), r"classes must be positive, got 0"),
        (lambda: AnchorFreeHead(CHANNELS, 3, 0), r"width must be positive, got 0"),
        (lambda: SegmentationHead(CHANNELS, 3, -1), r"width must be positive, got -1"),
        (lambda: PlainBackbone(WIDTHS, 0), r"positive, got 3, 4, 5, 6, 7, 0, 3"),
        (lambda: ParallelBackbones({}), r"at least one backbone, got \{\}"),
    ],
    ids=range(13),
)
def test_parts_that_do_not_fit(build_it, message):
    with pytest.raises(ValueError, match=message):
        build_it()


def test_modalities_that_do_not_fit():
    both = ParallelBackbones({"a": PlainBackbone(WIDTHS, 1), "b": PlainBackbone(WIDTHS, 1)})
    model = Assembly(both, IdentityNeck(both.out_channels), {})
    good = torch.zeros(2, 3, 16, 16)
    there = model.features({"a": good, "b": good + 1})[0]
    back = model.features({"b": good + 1, "a": good})[0]  # names count, not the order
    assert all(torch.equal(there[stride], back[stride]) for stride in there)
    for images, message in [
        ({"a": good}, r"images must be \['a', 'b'\], got \['a'\]"),
        ({"a": good, "b": good[..., :8]}, r"equal B, H and W, got .*\(2, 3, 16, 8\)"),
        ({"a": good, "b": good[:1]}, r"equal B, H and W, got .*\(1, 3, 16, 16\)"),
        ({"a": good, "b": good[0]}, r"equal B, H and W, got .*\(3, 16, 16\)"),
        ({"a": good, "b": good[:, :2]}, r"\(B, 3, H, W\), got \(2, 2, 16, 16\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(images)
    other = PlainBackbone(WIDTHS, 1)
    other.out_channels = {16: 6, 32: 7}
    with pytest.raises(ValueError, match=r"same strides, got \[\[8, 16, 32\], \[16, 32\]\]"):
        ParallelBackbones({"a": both.backbones["a"], "b": other})


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 4, 16, 16), (2, 3, 0, 16)], ids=str)
def test_bad_images(shape):
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        build()(torch.zeros(shape).double())


def test_a_part_that_breaks_its_promise_is_named():
    class Wrong(Neck):
        def __init__(self, channels, give):
            super().__init__(channels)
            self.out_channels, self.give = dict(channels), give

        def forward(self, features):
            return self.give(features)

    backbone = ResidualBackbone(WIDTHS, 1)
    images = torch.zeros(2, 3, 64, 96)
    for give, message in [
        (
            lambda f: {s: f[s] for s in (8, 16)},
            r"neck: strides must be \[8, 16, 32\], got \[8, 16\]",
        ),
        (lambda f: f | {16: f[16][:, :5]}, r"neck: stride 16 .*\(B, 6, 4, 6\), got \(2, 5, 4, 6\)"),
        (lambda f: f | {16: f[16][..., 1:]}, r"neck: stride 16 .*, got \(2, 6, 4, 5\)"),
        (lambda f: f | {16: f[16].mT}, r"neck: stride 16 .*, got \(2, 6, 6, 4\)"),
        (lambda f: f | {16: f[16][0]}, r"neck: stride 16 .*, got \(6, 4, 6\)"),
    ]:
        model = Assembly(backbone, Wrong(backbone.out_channels, give), {})
        with pytest.raises(ValueError, match=message):
            model(images)
    backbone.out_channels = {8: 5, 16: 6, 32: 8}
    with pytest.raises(ValueError, match=r"backbone: stride 32 must be \(B, 8, 2, 3\), got"):
        Assembly(backbone, IdentityNeck(backbone.out_channels), {})(images)


def test_check_features_rounds_up():
    check_features("x", {8: torch.zeros(2, 5, 2, 1)}, {8: 5}, (9, 8))
    with pytest.raises(ValueError, match=r"x: stride 8 must be \(B, 5, 3, 1\)"):
        check_features("x", {8: torch.zeros(2, 5, 2, 1)}, {8: 5}, (17, 8))


def test_unfreeze_undoes_freeze():
    model = build(heads={"boxes": HEADS[0]}).train()
    model.freeze("backbone", "neck")
    model.unfreeze("backbone")
    assert model.backbone.training and not model.neck.training and model.frozen == {"neck"}
    assert all(p.requires_grad for p in model.backbone.parameters())
    assert not any(p.requires_grad for p in model.neck.parameters())
    with pytest.raises(ValueError, match=r"one of \['backbone', .*\], got 'body'"):
        model.unfreeze("body")


def test_freeze_names_the_parts():
    model = build()
    with pytest.raises(ValueError, match=r"one of \['backbone', 'neck', .*\], got 'head'"):
        model.freeze("neck", "head")
    assert model.neck.smooth[0].weight.requires_grad and not model.frozen


def test_parts_are_modules_of_their_kind():
    model = build()
    assert isinstance(model.neck, Neck) and isinstance(model.neck, nn.Module)
    assert all(isinstance(head, Head) for head in model.heads.values())
