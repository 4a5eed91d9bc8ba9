"""Feature pyramids: parity, invariants, gradient, edges, bad input.

Yardstick: torchvision.ops.FeaturePyramidNetwork; plain loops.
"""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from snippets.concepts.backbone_neck_head import (
    FPN,
    PAN,
    AnchorFreeHead,
    Assembly,
    IdentityNeck,
    ResidualBackbone,
    check_features,
)
from snippets.detection.feature_pyramid_network import (
    BiFPN,
    BiFPNLayer,
    CoarserLevels,
    Fusion,
    SharedHead,
    enlarge,
    halve,
)

CHANNELS = {8: 5, 16: 6, 32: 7}
SIZES = [(70, 45), (64, 96), (33, 8), (1, 1)]  # of the image, odd maps among them
NECKS = {
    "pool": lambda: CoarserLevels(FPN(CHANNELS, 4), 2, "pool"),
    "input": lambda: CoarserLevels(FPN(CHANNELS, 4), 2, "input"),
    "output": lambda: CoarserLevels(PAN(CHANNELS, 4), 1, "output"),
    "bifpn": lambda: BiFPN(CHANNELS, 4, coarser=2, layers=2),
    "plain bifpn": lambda: BiFPN(CHANNELS, 4, coarser=0, layers=1, separable=False, kind="softmax"),
}
necks = pytest.mark.parametrize("build", NECKS.values(), ids=NECKS)
sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _one_thread():
    """Maps this small are slower on several."""
    torch.set_num_threads(1)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def scramble(module, seed=0):
    """All parameters and statistics drawn widely, in float64; weights of fusions from 0.2 to 2."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if x.is_floating_point():
                x.copy_(0.4 * torch.randn(x.shape, generator=generator))
                if name.endswith("running_var"):
                    x.abs_().add_(0.5)
                if name.endswith("fuse.weights"):
                    x.copy_(0.2 + 1.8 * torch.rand(x.shape, generator=generator))
    return module


def random_features(size=(70, 45), channels=CHANNELS, batch=2, seed=0):
    return {
        s: random(batch, c, *(math.ceil(n / s) for n in size), seed=seed + s).requires_grad_()
        for s, c in channels.items()
    }


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def gradients(maps, inputs):
    total = sum((x * random(*x.shape, seed=99 + i)).sum() for i, x in enumerate(maps))
    return torch.autograd.grad(total, inputs)


# The definitions, once more ---------------------------------------------------


def convolve(x, layer):
    """The sum over the taps of the kernel, for stride 1 or 2, whole or one kernel a channel."""
    k, stride = layer.weight.shape[-1], layer.stride[0]
    r = k // 2
    h, w = ((n - 1) // stride + 1 for n in x.shape[2:])
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * r, x.shape[3] + 2 * r)
    padded[:, :, r : r + x.shape[2], r : r + x.shape[3]] = x
    out = 0
    for i in range(k):
        for j in range(k):
            tap = padded[:, :, i : i + stride * (h - 1) + 1 : stride]
            tap = tap[..., j : j + stride * (w - 1) + 1 : stride]
            weight = layer.weight[:, :, i, j]
            if layer.groups > 1:
                out = out + weight[:, :, None] * tap
            else:
                out = out + torch.einsum("oc,bchw->bohw", weight, tap)
    return out if layer.bias is None else out + layer.bias[:, None, None]


def normalise(x, norm):
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    y = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


def repeated(x, like):
    """Each cell twice, then cut."""
    h, w = like.shape[2:]
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[:, :, :h, :w]


def largest_around(x):
    """Cell (i, j) is the largest of those at most one away from (2i, 2j)."""
    _, _, h, w = x.shape
    rows = [
        torch.stack(
            [
                x[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].amax((2, 3))
                for j in range(0, w, 2)
            ],
            dim=2,
        )
        for i in range(0, h, 2)
    ]
    return torch.stack(rows, dim=2)


def pan_by_hand(neck, features):
    fpn = neck.top_down
    c3, c4, c5 = (convolve(x, c) for x, c in zip(features.values(), fpn.lateral, strict=True))
    c4 = c4 + repeated(c5, c4)
    c3 = c3 + repeated(c4, c3)
    p3, p4, p5 = (convolve(x, c) for x, c in zip((c3, c4, c5), fpn.smooth, strict=True))
    n4 = convolve(p4 + convolve(p3, neck.down[0]).relu(), neck.smooth[0]).relu()
    n5 = convolve(p5 + convolve(n4, neck.down[1]).relu(), neck.smooth[1]).relu()
    return [p3, n4, n5]


def node_by_hand(node, *maps):
    w = node.fuse.weights
    assert bool((w > 0).all())
    x = sum(a * m for a, m in zip(w, maps, strict=True)) / (sum(w) + 0.0001)
    *convs, norm = node.conv
    for layer in convs:
        x = convolve(x, layer)
    x = normalise(x, norm)
    return x / (1 + torch.exp(-x))


def bifpn_by_hand(neck, features):
    """Figure 2 (d) of EfficientDet, P3 to P7, a line for each node."""
    c3, c4, c5 = features.values()
    p3, p4, p5 = (
        normalise(convolve(x, layer), norm)
        for x, (layer, norm) in zip((c3, c4, c5), neck.lateral, strict=True)
    )
    p6 = largest_around(normalise(convolve(c5, neck.extra[0]), neck.extra[1]))
    p7 = largest_around(p6)
    for layer in neck.layers:
        f3, f4, f5, f6 = layer.top_down
        g4, g5, g6, g7 = layer.bottom_up
        t6 = node_by_hand(f6, p6, repeated(p7, p6))
        t5 = node_by_hand(f5, p5, repeated(t6, p5))
        t4 = node_by_hand(f4, p4, repeated(t5, p4))
        o3 = node_by_hand(f3, p3, repeated(t4, p3))
        o4 = node_by_hand(g4, p4, t4, largest_around(o3))
        o5 = node_by_hand(g5, p5, t5, largest_around(o4))
        o6 = node_by_hand(g6, p6, t6, largest_around(o5))
        o7 = node_by_hand(g7, p7, largest_around(o6))
        p3, p4, p5, p6, p7 = o3, o4, o5, o6, o7
    return [p3, p4, p5, p6, p7]


# Parity -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("source", [None, "pool", "input", "output"])
def test_equals_torchvision(source, size):
    width = 4
    extra = {
        None: None,
        "pool": LastLevelMaxPool(),
        "input": LastLevelP6P7(CHANNELS[32], width),
        "output": LastLevelP6P7(width, width),
    }[source]
    theirs = FeaturePyramidNetwork(list(CHANNELS.values()), width, extra).double()
    fpn = FPN(CHANNELS, width)
    ours = fpn
    if source is not None:
        ours = CoarserLevels(fpn, 1 if source == "pool" else 2, source)
    scramble(ours)
    layers = [*fpn.lateral, *fpn.smooth, *getattr(ours, "convs", [])]
    others = [block[0] for block in (*theirs.inner_blocks, *theirs.layer_blocks)]
    others += [] if source in (None, "pool") else [extra.p6, extra.p7]
    for mine, other in zip(layers, others, strict=True):
        other.load_state_dict(mine.state_dict())
    features = random_features(size)
    out = ours(features)
    expected = theirs({str(s): x for s, x in features.items()})
    assert list(out) == [8, 16, 32, 64, 128][: len(out)]
    assert_same(list(out.values()), list(expected.values()))
    inputs = list(features.values())
    assert_same(
        gradients(out.values(), inputs + [p for x in layers for p in (x.weight, x.bias)]),
        gradients(expected.values(), inputs + [p for x in others for p in (x.weight, x.bias)]),
    )


def against_hand(neck, by_hand, size):
    features = random_features(size, seed=3)
    leaves = [*features.values(), *neck.parameters()]
    out, expected = list(neck(features).values()), by_hand(neck, features)
    assert_same(out, expected)
    assert_same(gradients(out, leaves), gradients(expected, leaves))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pan_equals_the_definition(size):
    against_hand(scramble(PAN(CHANNELS, 4)), pan_by_hand, size)


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bifpn_equals_the_definition(size, separable):
    neck = scramble(BiFPN(CHANNELS, 4, layers=2, separable=separable)).eval()
    against_hand(neck, bifpn_by_hand, size)


def test_bifpn_in_training_mode_equals_the_definition():
    neck = scramble(BiFPN(CHANNELS, 3, layers=1)).train()
    against_hand(neck, bifpn_by_hand, (70, 140))


@given(seed=seeds, n=st.integers(1, 4))
def test_fusion_equals_the_formula(seed, n):
    """Section 3.3 of EfficientDet, one number at a time."""
    fuse = Fusion(n).double()
    weights = random(n, seed=seed)
    fuse.load_state_dict({"weights": weights})
    maps = random(n, 2, 3, 2, 2, seed=seed + 1)
    w = [max(x, 0.0) for x in weights.tolist()]
    cells = [x.flatten().tolist() for x in maps]
    mean = [
        sum(a * b for a, b in zip(w, cell, strict=True)) / (sum(w) + 0.0001)
        for cell in zip(*cells, strict=True)
    ]
    assert_close(fuse(list(maps)).flatten(), torch.tensor(mean, dtype=torch.float64))
    soft = Fusion(n, "softmax").double()
    soft.load_state_dict({"weights": weights})
    total = sum(math.exp(x) for x in weights.tolist())
    shares = torch.tensor([math.exp(x) / total for x in weights.tolist()], dtype=torch.float64)
    assert_close(soft.shares(), shares)
    assert_close(soft(list(maps)), torch.einsum("n,nbchw->bchw", shares, maps))
    plain = Fusion(n, "sum").double()
    plain.load_state_dict({"weights": weights})
    assert_close(plain(list(maps)), sum(maps))
    assert not plain.weights.requires_grad and fuse.weights.requires_grad


@settings(max_examples=10)
@given(seed=seeds, depth=st.integers(0, 2))
def test_the_head_equals_the_definition(seed, depth):
    head = scramble(SharedHead({8: 4, 16: 4, 32: 4}, outputs=3, depth=depth), seed)
    features = random_features((33, 20), head.in_channels, seed=seed)
    out = head(features)
    for stride, x in features.items():
        for layer in head.tower:
            x = convolve(x, layer).relu()
        assert_same([out[stride]], [convolve(x, head.predict)])
    assert len(head.tower) == depth and head.predict.out_channels == 3


# Invariants -------------------------------------------------------------------


@given(h=sides, w=sides)
def test_sizes_halve_rounded_up_and_come_back(h, w):
    x = random(1, 2, h, w)
    small = halve(x)
    assert small.shape[2:] == (-(-h // 2), -(-w // 2))
    assert torch.equal(small, largest_around(x))
    back = enlarge(small, x)
    assert torch.equal(back, repeated(small, x))
    assert torch.equal(back[..., ::2, ::2], small)
    assert bool((back >= x).all())  # the largest of the cells around is no smaller


@settings(max_examples=15)
@given(h=sides, w=sides, seed=seeds)
@necks
def test_each_map_has_its_size(build, h, w, seed):
    neck = scramble(build(), seed).eval()
    out = neck(random_features((h, w), seed=seed))
    check_features("neck", out, neck.out_channels, (h, w))


@necks
def test_batched_equals_single(build):
    neck = scramble(build()).eval()
    features = random_features(batch=3)
    single = [neck({s: x[b : b + 1] for s, x in features.items()}) for b in range(3)]
    for stride, x in neck(features).items():
        assert_same([x], [torch.cat([one[stride] for one in single])])


@pytest.mark.parametrize(
    ("neck", "reached"),
    [
        (lambda: FPN(CHANNELS, 4), "111 011 001"),
        (NECKS["input"], "111 011 001 001 001"),
        (NECKS["output"], "111 111 111 111"),
        (NECKS["bifpn"], "111 111 111 111 111"),
        (NECKS["plain bifpn"], "111 111 111"),
    ],
    ids=["fpn", "input", "pan", "bifpn", "plain bifpn"],
)
def test_which_maps_reach_which(neck, reached):
    """A row for each output, fine to coarse; 1 where an input has a gradient."""
    features = random_features()
    leaves = list(features.values())
    rows = []
    for x in scramble(neck()).eval()(features).values():
        found = torch.autograd.grad(x.sum(), leaves, retain_graph=True, allow_unused=True)
        rows.append("".join("0" if g is None or not g.any() else "1" for g in found))
    assert rows == reached.split()


@settings(max_examples=10)
@given(seed=seeds)
def test_fpn_is_linear_and_each_map_a_sum_over_the_coarser_ones(seed):
    """P_l = G_l * (sum over k >= l of the lateral map of level k, enlarged k - l times)."""
    neck = scramble(FPN(CHANNELS, 4), seed)
    features = random_features(seed=seed)
    lateral = [convolve(x, c) for x, c in zip(features.values(), neck.lateral, strict=True)]
    c3, c4, c5 = lateral
    whole = c3 + repeated(c4, c3) + repeated(repeated(c5, c4), c3)
    assert_same([neck(features)[8]], [convolve(whole, neck.smooth[0])])
    others = random_features(seed=seed + 1)
    none = neck({s: torch.zeros_like(x) for s, x in features.items()})
    both = neck({s: x + others[s] for s, x in features.items()})
    for s, x in neck(features).items():
        assert_same([both[s]], [x + neck(others)[s] - none[s]])


@given(seed=seeds, factor=st.floats(0.5, 50))
def test_shares_are_a_mean_and_know_no_scale(seed, factor):
    weights = random(3, seed=seed).abs() + 0.5
    fuse = Fusion(3).double()
    fuse.load_state_dict({"weights": weights})
    shares = fuse.shares().detach()
    total = float(weights.sum())
    assert float(shares.sum()) == pytest.approx(total / (total + 1e-4), rel=1e-12)
    fuse.load_state_dict({"weights": weights[[2, 0, 1]] * factor})
    assert_close(fuse.shares().detach(), shares[[2, 0, 1]], rtol=3e-4, atol=0)


def test_an_input_switched_off_gets_no_gradient():
    fuse = Fusion(3).double()
    fuse.load_state_dict({"weights": torch.tensor([-1.0, 1.0, 3.0])})
    maps = random(3, 1, 2, 3, 3).requires_grad_()
    gradient, weights = torch.autograd.grad(fuse(maps).square().sum(), [maps, fuse.weights])
    assert not gradient[0].any() and gradient[1].any() and float(weights[0]) == 0 != weights[1]
    fuse.load_state_dict({"weights": torch.tensor([-1.0, -1.0, 0.0])})
    out = fuse(maps)
    assert not out.any()  # and not nan
    assert not torch.autograd.grad(out.sum(), fuse.weights)[0].any()


def test_the_head_does_the_same_on_every_level():
    head = scramble(SharedHead({8: 4, 16: 4}, 3, 2))
    x = random(2, 4, 5, 6)
    out = head({8: enlarge(x, random(1, 1, 9, 11)), 16: x})
    alone = copy.deepcopy(head)
    alone.in_channels = {8: 4}
    assert torch.equal(alone({8: x})[8], out[16])
    assert out[8].shape == (2, 3, 9, 11)


def test_number_of_parameters():
    """Written out by hand; 2 for each normalised channel, a number for each edge of a fusion."""

    def count(module):
        return sum(p.numel() for p in module.parameters())

    width, levels = 4, 5
    lateral = sum(C * width + 2 * width for C in (5, 6, 7, 7))  # C5 twice
    edges = 2 * (levels - 1) + 3 * (levels - 2) + 2
    each = {True: 9 * width + width * width, False: 9 * width * width}
    for separable in (True, False):
        neck = BiFPN(CHANNELS, width, layers=3, separable=separable)
        nodes = 2 * (levels - 1) * (each[separable] + 2 * width)
        assert count(neck) == lateral + 3 * (edges + nodes)
        assert [len(x) for x in (neck.layers, neck.layers[0].top_down)] == [3, 4]
    fpn = count(FPN(CHANNELS, width))
    assert count(CoarserLevels(FPN(CHANNELS, width), 3, "pool")) == fpn
    two = (9 * 7 * width + width) + (9 * width * width + width)
    assert count(CoarserLevels(FPN(CHANNELS, width), 2, "input")) == fpn + two
    few, many = (SharedHead(dict.fromkeys([8, 16, 32][:n], 4), 3, 2) for n in (1, 3))
    assert count(few) == count(many) == 2 * (9 * 16 + 4) + 9 * 4 * 3 + 3


def test_fresh_fusions_weigh_equally():
    layer = BiFPNLayer(4, 3)
    assert [len(n.fuse.weights) for n in (*layer.top_down, *layer.bottom_up)] == [2] * 3 + [3, 3, 2]
    for node in (*layer.top_down, *layer.bottom_up):
        assert bool((node.fuse.weights == 1).all())
        assert not any(m.bias is not None for m in node.conv if isinstance(m, torch.nn.Conv2d))


def test_they_fit_into_an_assembly():
    backbone = ResidualBackbone((3, 4, 5, 6, 7), blocks=1)
    for build in NECKS.values():
        neck = build()
        heads = {"boxes": AnchorFreeHead(neck.out_channels, 2, width=4)}
        model = Assembly(backbone, neck, heads).eval()
        _, maps = model.features(torch.zeros(1, 3, 70, 45))
        assert list(maps) == list(neck.out_channels)


# Gradient ---------------------------------------------------------------------


@necks
def test_gradient(build):
    neck = scramble(build(), seed=1).eval()
    features = random_features((17, 9), batch=1)
    strides, maps = list(features), list(features.values())

    def call(*maps):
        return tuple(neck(dict(zip(strides, maps, strict=True))).values())

    assert torch.autograd.gradcheck(call, maps)


@pytest.mark.parametrize("kind", ["fast", "softmax"])
def test_gradient_of_the_weights(kind):
    fuse = Fusion(3, kind).double()
    maps = random(3, 1, 2, 2, 2).requires_grad_()

    def call(maps, weights):
        return torch.func.functional_call(fuse, {"weights": weights}, (list(maps),))

    weights = torch.tensor([0.3, 1.2, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (maps, weights))


# Edges ------------------------------------------------------------------------


@necks
def test_no_images(build):
    neck = build().double().eval()
    out = neck(random_features((33, 20), batch=0))
    assert all(x.shape[:2] == (0, 4) and 0 not in x.shape[2:] for x in out.values())


@necks
def test_non_contiguous_input_and_nothing_changed_in_place(build):
    neck = scramble(build()).eval()
    features = {s: x.detach() for s, x in random_features().items()}
    strided = {s: x.mT.contiguous().mT for s, x in features.items()}
    before = {s: x.clone() for s, x in strided.items()}
    assert not strided[8].is_contiguous()
    assert_same(list(neck(strided).values()), list(neck(features).values()))
    for s, x in strided.items():
        assert torch.equal(x, before[s]) and x._version == 0
    assert list(strided) == list(CHANNELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@necks
def test_every_precision(build, dtype):
    neck = scramble(build()).to(dtype).eval()
    exact = copy.deepcopy(neck).double()
    features = {s: x.detach().to(dtype) for s, x in random_features().items()}
    expected = exact({s: x.double() for s, x in features.items()})
    for s, x in neck(features).items():
        assert x.dtype == dtype
        largest = float(expected[s].detach().abs().max())
        assert_close(
            x.double(), expected[s], rtol=0, atol=32 * torch.finfo(dtype).eps * max(largest, 1)
        )


def test_two_levels_are_the_fewest_and_one_is_refused():
    neck = scramble(BiFPN({8: 3, 16: 2}, 4, coarser=0, layers=1)).eval()
    (f3,), (g4,) = neck.layers[0].top_down, neck.layers[0].bottom_up
    features = random_features((40, 24), {8: 3, 16: 2})
    p3, p4 = (
        normalise(convolve(x, c), n)
        for x, (c, n) in zip(features.values(), neck.lateral, strict=True)
    )
    o3 = node_by_hand(f3, p3, repeated(p4, p3))
    assert_same(list(neck(features).values()), [o3, node_by_hand(g4, p4, largest_around(o3))])
    assert list(BiFPN({8: 3}, 4, coarser=1).out_channels) == [8, 16]
    with pytest.raises(ValueError, match="at least two levels, got 1"):
        BiFPN({8: 3}, 4, coarser=0)


def test_one_cell_cannot_be_normalised_in_training():
    """P7 of an image of 128 pixels, alone in its batch."""
    neck = BiFPN(CHANNELS, 4)
    maps = {s: torch.zeros(1, C, 128 // s, 128 // s) for s, C in CHANNELS.items()}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        neck.train()(maps)
    assert neck.eval()(maps)[128].shape == (1, 4, 1, 1)
    assert neck.train()({s: x.expand(2, -1, -1, -1) for s, x in maps.items()})[128].isfinite().all()


def test_nan_stays_where_it_can_reach():
    neck = scramble(CoarserLevels(FPN(CHANNELS, 4), 1, "pool"))
    features = {s: x.detach().clone() for s, x in random_features().items()}
    features[8][0, 0, 0, 0] = torch.nan
    out = neck(features)
    assert bool(out[8][0].isnan().any()) and not out[8][1].isnan().any()
    assert not any(out[s].isnan().any() for s in (16, 32, 64))


# Bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: CoarserLevels(IdentityNeck(CHANNELS)), r"same number .* got \{8: 5, 16: 6,"),
        (lambda: CoarserLevels(FPN(CHANNELS), 0), "levels must be positive, got 0"),
        (lambda: CoarserLevels(FPN(CHANNELS), 1, "C5"), "one of pool, input, output, got 'C5'"),
        (lambda: Fusion(0), "inputs must be positive, got 0"),
        (lambda: Fusion(2, "mean"), "one of fast, softmax, sum, got 'mean'"),
        (lambda: BiFPN({8: 3, 32: 4}), r"strides must double .* got \{8: 3, 32: 4\}"),
        (lambda: BiFPN(CHANNELS, 0), "width, layers must be positive, got 0, 3"),
        (lambda: BiFPN(CHANNELS, 4, layers=0), "width, layers must be positive, got 4, 0"),
        (lambda: BiFPN(CHANNELS, 4, coarser=-1), "coarser must not be negative, got -1"),
        (lambda: BiFPN(CHANNELS, 4, kind="mean"), "got 'mean'"),
        (lambda: SharedHead(CHANNELS, 3), r"same number of channels, got \{8: 5, 16: 6, 32: 7\}"),
        (lambda: SharedHead({8: 4}, 0), "outputs must be positive, got 0"),
        (lambda: SharedHead({8: 4}, 3, -1), "depth must not be negative, got -1"),
        (lambda: SharedHead({}, 3), r"got \{\}"),
    ],
    ids=range(14),
)
def test_parts_that_do_not_fit(build_it, message):
    with pytest.raises(ValueError, match=message):
        build_it()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {}, r"strides must be \[8, 16, 32\], got \[\]"),
        (lambda f: {s: f[s] for s in (8, 16)}, r"got \[8, 16\]"),
        (lambda f: {s: f[s] for s in (32, 16, 8)}, r"got \[32, 16, 8\]"),
        (lambda f: f | {16: f[16][:, :5]}, r"stride 16 must be \(B, 6, 5, 3\), got \(2, 5, 5, 3\)"),
        (lambda f: f | {16: f[16][:, :, 1:]}, r"\(B, 6, 5, 3\), got \(2, 6, 4, 3\)"),
        (lambda f: f | {8: f[8][0]}, r"stride 8 must be .*, got \(5, 9, 6\)"),
        (lambda f: f | {8: f[8][0, 0, 0]}, r"stride 8 must be .*, got \(6,\)"),
        (lambda f: f | {32: f[32][:1]}, "one batch, .* got .*'1 of torch.float64 on cpu'"),
        (lambda f: f | {32: f[32].float()}, "one batch, .* got .*'2 of torch.float32 on cpu'"),
        (lambda f: f | {32: f[32].to("meta")}, "one batch, .* got .*'2 of torch.float64 on meta'"),
        (lambda f: {s: x.long() for s, x in f.items()}, "floating dtype .* got .*torch.int64"),
        (lambda f: {s: x[:, :, :0] for s, x in f.items()}, r"have places, got \(2, 5, 0, 6\)"),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("build", [NECKS["pool"], NECKS["bifpn"]], ids=["coarser", "bifpn"])
def test_bad_maps(build, change, message):
    features = {s: x.detach() for s, x in random_features().items()}
    with pytest.raises(ValueError, match=message):
        build().double()(change(features))


def test_bad_maps_for_head_fusion_and_layer():
    head = SharedHead({8: 4}, 3)
    with pytest.raises(ValueError, match=r"\(B, 4, 2, 2\), got \(1, 5, 2, 2\)"):
        head({8: torch.zeros(1, 5, 2, 2)})
    with pytest.raises(ValueError, match="made for 2 maps, got 1"):
        Fusion(2)([torch.zeros(1, 1, 1, 1)])
    with pytest.raises(ValueError, match=r"one shape, got \[\(1, 1, 2, 2\), \(1, 1, 1, 1\)\]"):
        Fusion(2)([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)])
    with pytest.raises(ValueError, match="made for 3 maps, got 2"):
        BiFPNLayer(3, 2).eval()([torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)])
