"""Depthwise separable convolution: parity, cost, invariants, gradient, edges, bad input.

Yardstick: torch.nn.functional.conv2d; torch.nn.BatchNorm2d; plain loops.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from snippets.convolution.convolution_arithmetic import conv2d_cost
from snippets.convolution.depthwise_separable_convolution import (
    DepthwiseSeparableBlock,
    depthwise_conv2d,
    depthwise_separable_conv2d,
    grouped_conv2d,
    grouped_cost,
    merge_separable,
    roofline_seconds,
)

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 3)
pairs = st.tuples(small, small)
pads = st.tuples(st.integers(0, 2), st.integers(0, 2))

# stride, padding, dilation: one number or (height, width), no two alike by accident
SETTINGS = {
    "plain": dict(),
    "stride": dict(stride=(2, 3)),
    "padding": dict(padding=(2, 1)),
    "dilation": dict(dilation=(2, 3)),
    "all": dict(stride=(3, 2), padding=(1, 2), dilation=(1, 2)),
    "one number": dict(stride=2, padding=1, dilation=2),
}
each_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_xwb(b=2, c=4, m=3, h=9, w=8, kernel=(3, 2), seed=0, dtype=torch.float64):
    """For a depthwise convolution."""
    shapes = (b, c, h, w), (c * m, 1, *kernel), (c * m,)
    return [random(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes)]


def random_grouped(b=2, c=4, o=6, groups=2, h=9, w=8, kernel=(3, 2), seed=0):
    shapes = (b, c, h, w), (o, c // groups, *kernel), (o,)
    return [random(*shape, seed=seed + i) for i, shape in enumerate(shapes)]


def run_with_gradients(function, tensors):
    """The output, and the gradients of a fixed random functional of it."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    out = function(*tensors)
    return [out, *torch.autograd.grad(out, tensors, random(*out.shape, seed=9))]


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


# Parity: depthwise ----------------------------------------------------------


@each_setting
@pytest.mark.parametrize("m", [1, 3], ids=["one", "multiplier 3"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_depthwise_equals_pytorch(setting, m, with_bias):
    tensors = random_xwb(m=m)[: 3 if with_bias else 2]
    assert_all_close(
        run_with_gradients(lambda *t: depthwise_conv2d(*t, **setting), tensors),
        run_with_gradients(lambda *t: F.conv2d(*t, **setting, groups=4), tensors),
    )


@settings(max_examples=25)
@given(
    c=small, m=small, h=st.integers(1, 6), w=st.integers(1, 6), k=pairs, stride=pairs, padding=pads,
    dilation=pairs, seed=seeds,
)  # fmt: skip
def test_depthwise_equals_pytorch_at_any_setting(c, m, h, w, k, stride, padding, dilation, seed):
    for n, kernel, p, d in zip((h, w), k, padding, dilation):
        assume(n + 2 * p >= d * (kernel - 1) + 1)
    xwb = random_xwb(2, c, m, h, w, k, seed)
    assert_all_close(
        run_with_gradients(lambda *t: depthwise_conv2d(*t, stride, padding, dilation), xwb),
        run_with_gradients(lambda *t: F.conv2d(*t, stride, padding, dilation, c), xwb),
    )


def test_depthwise_equals_the_definition():
    x, weight, bias = random_xwb(c=2, m=3, kernel=(2, 3))
    out = depthwise_conv2d(x, weight, bias, stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    for b, c, m, i, j in [(0, 0, 0, 0, 0), (1, 1, 2, 3, 2), (0, 1, 0, 1, 3), (1, 0, 2, 4, 1)]:
        total = bias[3 * c + m].item()
        for u in range(2):
            for v in range(3):
                row, column = 2 * i + u - 1, j + 2 * v
                if 0 <= row < 9 and 0 <= column < 8:
                    total += weight[3 * c + m, 0, u, v].item() * x[b, c, row, column].item()
        assert out[b, 3 * c + m, i, j].item() == pytest.approx(total, abs=1e-12)


# Parity: groups -------------------------------------------------------------


@each_setting
@pytest.mark.parametrize(("c", "o", "groups"), [(4, 6, 2), (4, 6, 1), (6, 3, 3), (3, 6, 3)])
def test_groups_equal_pytorch(setting, c, o, groups):
    tensors = random_grouped(c=c, o=o, groups=groups)
    for chosen in (tensors, tensors[:2]):
        assert_all_close(
            run_with_gradients(lambda *t: grouped_conv2d(*t, **setting, groups=groups), chosen),
            run_with_gradients(lambda *t: F.conv2d(*t, **setting, groups=groups), chosen),
        )


@given(groups=small, inside=small, out=small, k=pairs, stride=pairs, padding=pads, seed=seeds)
def test_groups_equal_convolutions_side_by_side(groups, inside, out, k, stride, padding, seed):
    tensors = random_grouped(2, groups * inside, groups * out, groups, 5, 4, k, seed)
    parts = zip(*(t.chunk(groups, dim) for t, dim in zip(tensors, (1, 0, 0))))
    expected = torch.cat([F.conv2d(*part, stride, padding) for part in parts], dim=1)
    actual = grouped_conv2d(*tensors, stride, padding, groups=groups)
    assert_all_close([actual], [expected])


@given(c=small, m=small, seed=seeds)
def test_depthwise_is_the_case_of_as_many_groups_as_channels(c, m, seed):
    xwb = random_xwb(c=c, m=m, seed=seed)
    assert_all_close([depthwise_conv2d(*xwb, 2, 1)], [grouped_conv2d(*xwb, 2, 1, groups=c)])


# Parity: separable ----------------------------------------------------------


@each_setting
@pytest.mark.parametrize("m", [1, 2])
def test_separable_equals_pytorch(setting, m):
    x, depthwise, _ = random_xwb(m=m)
    tensors = [x, depthwise, random(5, 4 * m, 1, 1, seed=4), random(5, seed=5)]
    for chosen in (tensors, tensors[:3]):
        assert_all_close(
            run_with_gradients(lambda *t: depthwise_separable_conv2d(*t, **setting), chosen),
            run_with_gradients(
                lambda x, d, *p: F.conv2d(F.conv2d(x, d, **setting, groups=4), *p), chosen
            ),
        )


@settings(max_examples=25)
@given(c=small, m=small, o=small, k=pairs, padding=pads, seed=seeds)
def test_merged_kernel_equals_both_layers(c, m, o, k, padding, seed):
    tensors = [random(2, c, 5, 4, seed=seed), random(c * m, 1, *k), random(o, c * m, seed=seed ^ 1)]
    assert_all_close(
        run_with_gradients(
            lambda x, *dp: F.conv2d(x, merge_separable(*dp, channels=c), padding=padding), tensors
        ),
        run_with_gradients(lambda *t: depthwise_separable_conv2d(*t, padding=padding), tensors),
    )


@given(m=st.integers(1, 4), seed=seeds)
def test_rank_of_a_merged_kernel_is_the_multiplier(m, seed):
    pointwise = random(7, 2 * m, 1, 1, seed=seed)
    merged = merge_separable(random(2 * m, 1, 3, 3, seed=seed ^ 1), pointwise, 2)
    assert (torch.linalg.matrix_rank(merged.flatten(2).transpose(0, 1)) == m).all()


def test_any_kernel_is_separable_with_enough_multipliers():
    """What the page answers: M = KH * KW, or O if that is less."""
    for o in (3, 12):
        full = random(o, 4, 3, 2)
        u, s, vh = torch.linalg.svd(full.flatten(2).transpose(0, 1), full_matrices=False)
        m = min(o, 6)
        depthwise = vh.reshape(4 * m, 1, 3, 2)
        pointwise = (u * s[:, None]).permute(1, 0, 2).reshape(o, 4 * m)
        assert_all_close([merge_separable(depthwise, pointwise, 4)], [full])


# Parity: block --------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_block_equals_pytorchs_layers(training, kernel, stride):
    block = DepthwiseSeparableBlock(4, 6, kernel, stride).double().train(training)
    theirs = nn.Sequential(
        nn.Conv2d(4, 4, kernel, stride, kernel // 2, groups=4, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
    ).double().train(training)  # fmt: skip
    names = {"depthwise": "0.weight", "norm1": "1", "pointwise": "3.weight", "norm2": "4"}
    state = {}
    for seed, (key, value) in enumerate(block.state_dict().items()):
        first, _, rest = key.partition(".")
        drawn = random(*value.shape, seed=seed) if value.is_floating_point() else value
        state[key] = drawn.abs() if rest == "running_var" else drawn
        theirs.state_dict()[names[first] + ("." + rest if rest else "")].copy_(state[key])
    block.load_state_dict(state)
    x = random(3, 4, 7, 6, seed=20).requires_grad_()
    results = []
    for module in (block, theirs):
        out = module(x)
        parameters = dict(module.named_parameters())
        if module is block:
            order = ["depthwise", "norm1.weight", "norm1.bias", "pointwise", "norm2.weight"]
            parameters = {key: parameters[key] for key in [*order, "norm2.bias"]}
        gradients = torch.autograd.grad(out, [x, *parameters.values()], random(*out.shape, seed=9))
        running = [v for k, v in sorted(module.named_buffers()) if "running" in k]
        results.append([out, *gradients, *running])
    assert_all_close(*results)


def test_weights_of_the_block_are_drawn_from_the_generator():
    def draw(seed):
        return DepthwiseSeparableBlock(
            400, 300, generator=torch.Generator().manual_seed(seed)
        ).state_dict()

    first, again, other = draw(0), draw(0), draw(1)
    for key, inputs in (("depthwise", 9), ("pointwise", 400)):
        assert torch.equal(first[key], again[key]) and not torch.equal(first[key], other[key])
        assert first[key].var().item() == pytest.approx(2 / inputs, rel=0.05)


# Cost -----------------------------------------------------------------------


@settings(max_examples=25)
@given(groups=small, inside=small, out=small, k=pairs, stride=pairs, padding=pads, dilation=pairs)
def test_cost_equals_what_pytorch_counts(groups, inside, out, k, stride, padding, dilation):
    x, weight, _ = random_grouped(2, groups * inside, groups * out, groups, 7, 6, k)
    for n, kernel, p, d in zip((7, 6), k, padding, dilation):
        assume(n + 2 * p >= d * (kernel - 1) + 1)
    with FlopCounterMode(display=False) as counter:
        y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    cost = grouped_cost(
        tuple(x.shape), tuple(weight.shape), groups, stride, padding, dilation, number_bytes=8
    )
    assert cost.output == tuple(y.shape)
    assert cost.flops == 2 * cost.macs
    assert cost.macs == y.numel() * inside * k[0] * k[1]
    assert counter.get_total_flops() == cost.flops
    assert cost.bytes == sum(t.numel() * t.element_size() for t in (x, weight, y))
    columns = F.unfold(x, k, dilation, padding, stride)
    assert cost.im2col_bytes == columns.numel() * columns.element_size()


def test_one_group_costs_what_a_convolution_costs():
    shapes = (2, 6, 9, 8), (4, 6, 3, 2)
    assert grouped_cost(*shapes, 1, 2, 1, 2) == conv2d_cost(*shapes, 2, 1, 2)
    assert grouped_cost((2, 6, 9, 8), (4, 3, 3, 2), 2).bytes == 4 * (2 * 6 * 72 + 72 + 2 * 4 * 49)


@given(c=small, o=small, m=small, kernel=st.sampled_from([1, 3, 5]))
def test_the_ratio_of_the_page(c, o, m, kernel):
    """M (1 / O + 1 / k^2) of the multiply-adds and of the weights."""
    x, y = (2, c, 6, 5), (2, c * m, 6, 5)
    full = conv2d_cost(x, (o, c, kernel, kernel), padding=kernel // 2)
    depthwise = grouped_cost(x, (c * m, 1, kernel, kernel), c, padding=kernel // 2)
    pointwise = conv2d_cost(y, (o, c * m, 1, 1))
    ratio = m * (1 / o + 1 / kernel**2)
    assert (depthwise.macs + pointwise.macs) / full.macs == pytest.approx(ratio)
    weights = c * m * kernel**2 + o * c * m
    assert weights / (o * c * kernel**2) == pytest.approx(ratio)


def mobilenet():
    """Table 1 of Howard et al.: (kind, multiply-adds, weights) of every layer."""
    yield "Conv 3x3", conv2d_cost((1, 3, 224, 224), (32, 3, 3, 3), 2, 1).macs, 32 * 3 * 9
    c, n = 32, 112
    outputs = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    for o, stride in [*outputs, *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        cost = grouped_cost((1, c, n, n), (c, 1, 3, 3), c, stride, 1)
        yield "Conv DW 3x3", cost.macs, c * 9
        n = cost.output[2]
        yield "Conv 1x1", conv2d_cost((1, c, n, n), (o, c, 1, 1)).macs, c * o
        c = o
    assert n == 7
    yield "Fully Connected", 1024 * 1000, 1024 * 1000


def test_shares_of_mobilenet():
    """Table 2 of Howard et al.; Table 4 has 569 million multiply-adds, 4.2 million parameters."""
    layers = list(mobilenet())
    totals = [sum(layer[i] for layer in layers) for i in (1, 2)]
    assert round(totals[0] / 1e6) == 569 and round(totals[1] / 1e6, 1) == 4.2
    expected = {
        "Conv 1x1": (94.86, 74.59),
        "Conv DW 3x3": (3.06, 1.06),
        "Fully Connected": (0.18, 24.33),
    }
    for kind, shares in expected.items():
        for i, share in enumerate(shares, 1):
            part = sum(layer[i] for layer in layers if layer[0] == kind)
            assert 100 * part / totals[i - 1] == pytest.approx(share, abs=0.006)


def test_intensity_of_a_depthwise_layer():
    """The page: about k^2 FLOPs for each pair of bytes at 16 bits, stride 1."""
    for kernel in (3, 7, 31):
        shape, weight = (8, 64, 56, 56), (64, 1, kernel, kernel)
        cost = grouped_cost(shape, weight, 64, padding=kernel // 2, number_bytes=2)
        assert cost.intensity == pytest.approx(kernel**2 / 2, rel=0.03)


def test_roofline():
    cost = conv2d_cost((1, 2, 3, 3), (4, 2, 1, 1))
    assert (cost.flops, cost.bytes) == (144, 248)
    assert roofline_seconds(cost, 10, 1000) == 14.4
    assert roofline_seconds(cost, 1000, 10) == 24.8
    ridge = cost.flops / cost.bytes
    assert roofline_seconds(cost, ridge, 1) == pytest.approx(248)


# Invariants -----------------------------------------------------------------


@given(channel=st.integers(0, 3), seed=seeds)
def test_a_channel_influences_its_own_outputs_only(channel, seed):
    x, weight, bias = random_xwb(seed=seed)
    changed = x.clone()
    changed[:, channel] += 1
    before, after = depthwise_conv2d(x, weight, bias), depthwise_conv2d(changed, weight, bias)
    differs = ~torch.isclose(before, after).all(3).all(2).all(0)
    assert differs.nonzero().flatten().tolist() == [3 * channel + i for i in range(3)]


@given(seed=seeds)
def test_an_order_of_the_channels_is_carried_over(seed):
    x, weight, bias = random_xwb(m=1, seed=seed)
    p = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    out = depthwise_conv2d(x, weight, bias, padding=1)
    assert_all_close([depthwise_conv2d(x[:, p], weight[p], bias[p], padding=1)], [out[:, p]])


@given(shift=st.tuples(st.integers(0, 2), st.integers(0, 2)), seed=seeds)
def test_a_shifted_input_shifts_the_output(shift, seed):
    x, weight, bias = random_xwb(seed=seed)
    down, right = shift
    moved = depthwise_conv2d(F.pad(x, (right, 0, down, 0)), weight, bias)
    assert_all_close([moved[:, :, down:, right:]], [depthwise_conv2d(x, weight, bias)])


def test_pointwise_first_is_another_factorisation():
    """As in Xception's picture: a filter for each output channel, rank one across the inputs."""
    x, depthwise, pointwise = random(1, 3, 6, 5), random(4, 1, 3, 3), random(4, 3)
    out = depthwise_conv2d(F.conv2d(x, pointwise[..., None, None]), depthwise, padding=1)
    full = torch.einsum("oc,ouv->ocuv", pointwise, depthwise[:, 0])
    assert_all_close([out], [F.conv2d(x, full, padding=1)])


def test_batched_equals_single():
    x, weight, bias = random_xwb(b=3)
    for function, more in ((depthwise_conv2d, {}), (grouped_conv2d, dict(groups=4))):
        batched = function(x, weight, bias, padding=1, **more)
        singles = [function(x[b : b + 1], weight, bias, padding=1, **more) for b in range(3)]
        assert_all_close([batched], [torch.cat(singles)])


def test_arguments_stay_as_they_are():
    xwb, pointwise = random_xwb(), random(5, 12)
    copies = [t.clone() for t in (*xwb, pointwise)]
    depthwise_conv2d(*xwb, padding=1)
    grouped_conv2d(*xwb, groups=4)
    depthwise_separable_conv2d(*xwb[:2], pointwise)
    for t, copy in zip((*xwb, pointwise), copies, strict=True):
        assert torch.equal(t, copy) and t._version == 0


# Gradient -------------------------------------------------------------------


def test_gradient():
    xwb = [t.requires_grad_() for t in random_xwb(1, 2, 2, 4, 3, (2, 2))]
    for function in (
        lambda *t: depthwise_conv2d(*t, (2, 1), (1, 0), (1, 2)),
        lambda *t: grouped_conv2d(*t, (2, 1), (1, 0), (1, 2), 2),
    ):
        assert torch.autograd.gradcheck(function, xwb)
        assert torch.autograd.gradgradcheck(function, xwb)
    tensors = [*xwb[:2], random(3, 4).requires_grad_(), random(3).requires_grad_()]
    assert torch.autograd.gradcheck(depthwise_separable_conv2d, tensors)
    assert torch.autograd.gradcheck(lambda d, p: merge_separable(d, p, 2), tensors[1:3])


# Edges ----------------------------------------------------------------------


def test_blocks_under_autocast():
    blocks = nn.Sequential(DepthwiseSeparableBlock(4, 6), DepthwiseSeparableBlock(6, 5))
    x = torch.randn(2, 4, 7, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = blocks(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in blocks.parameters()
    )


def test_empty():
    x, weight, bias = random_xwb(b=0)
    assert depthwise_conv2d(x, weight, bias).shape == (0, 12, 7, 7)
    assert grouped_conv2d(x, weight, bias, groups=4).shape == (0, 12, 7, 7)
    assert depthwise_separable_conv2d(x, weight, random(5, 12)).shape == (0, 5, 7, 7)
    x = random(2, 4, 9, 8)
    for function in (depthwise_conv2d, lambda *t: grouped_conv2d(*t, groups=4)):
        assert function(x, random(0, 1, 3, 2), random(0)).shape == (2, 0, 7, 7)


def test_a_kernel_of_one_cell_scales_the_channels():
    x, weight, bias = random_xwb(m=1, kernel=(1, 1))
    expected = x * weight[:, 0] + bias[:, None, None]
    assert_all_close([depthwise_conv2d(x, weight, bias)], [expected])


def test_non_contiguous_input():
    x, weight, bias = random_xwb()
    strided = [
        x.to(memory_format=torch.channels_last),
        weight.transpose(0, 3).contiguous().transpose(0, 3),
        torch.stack([bias, bias], 1)[:, 0],
    ]
    assert not any(t.is_contiguous() for t in strided)
    for function in (depthwise_conv2d, lambda *t: grouped_conv2d(*t, groups=4)):
        assert_all_close(
            run_with_gradients(function, strided), run_with_gradients(function, [x, weight, bias])
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    xwb = random_xwb(dtype=dtype)
    for function in (depthwise_conv2d, lambda *t: grouped_conv2d(*t, groups=4)):
        exact, out = function(*(t.double() for t in xwb)), function(*xwb)
        assert out.dtype == dtype
        step = 16 * torch.finfo(dtype).eps
        assert_close(out.double(), exact, rtol=step, atol=step)


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=random(4, 9, 8)), ValueError, r"x must be .* got \(4, 9, 8\)"),
        (dict(weight=random(12, 3, 3)), ValueError, r"weight must be .* got \(12, 3, 3\)"),
        (dict(weight=random(10, 1, 3, 3)), ValueError, r"must divide C and O, got 4, 4, 10"),
        (dict(weight=random(12, 2, 3, 3)), ValueError, r"differ in C for 4 groups: .*\(12, 2, 3"),
        (dict(x=random(2, 0, 9, 8)), ValueError, "groups must be at least 1, got 0"),
        (dict(bias=random(4)), ValueError, r"bias must be \(12,\), got \(4,\)"),
        (dict(x=torch.zeros(2, 4, 9, 8).long()), TypeError, "floating point, got torch.int64"),
        (dict(weight=random(12, 1, 3, 2).float()), TypeError, "weight .*float64, torch.float32"),
        (dict(bias=random(12).half()), TypeError, "bias .*float64, torch.float16"),
        (dict(padding=-1), ValueError, "padding must not be negative, got -1"),
        (dict(stride=(1, 0)), ValueError, "stride must be at least 1, got 0"),
        (dict(dilation=0), ValueError, "dilation must be at least 1, got 0"),
        (dict(weight=random(12, 1, 10, 2)), ValueError, "a window of 10 does not fit into 9"),
    ],
    ids=range(13),
)
def test_bad_input(change, error, message):
    good = dict(zip(("x", "weight", "bias"), random_xwb(), strict=True))
    depthwise_conv2d(**good)
    with pytest.raises(error, match=message):
        depthwise_conv2d(**(good | change))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (0, "groups must be at least 1, got 0"),
        (4, r"groups must divide C and O, got 4, 4, 6"),
        (3, r"groups must divide C and O, got 3, 4, 6"),
        (1, r"differ in C for 1 groups: \(2, 4, 9, 8\), \(6, 2, 3, 2\)"),
    ],
)
def test_bad_groups(groups, message):
    tensors = random_grouped()
    grouped_conv2d(*tensors, groups=2)
    with pytest.raises(ValueError, match=message):
        grouped_conv2d(*tensors, groups=groups)
    with pytest.raises(ValueError, match=message):
        grouped_cost(tuple(tensors[0].shape), tuple(tensors[1].shape), groups)


def test_bad_parts():
    x, depthwise, _ = random_xwb()
    with pytest.raises(ValueError, match=r"differ in C: \(2, 12, 7, 7\), \(5, 4\)"):
        depthwise_separable_conv2d(x, depthwise, random(5, 4))
    for arguments, message in [
        ((random(12, 2, 3, 3), random(5, 12), 4), r"depthwise must be .* got \(12, 2, 3, 3\)"),
        ((depthwise, random(5, 12, 3, 3), 4), r"pointwise must be .* got \(5, 12, 3, 3\)"),
        ((depthwise, random(5, 4), 4), r"differ in C\*M: \(12, 1, 3, 2\), \(5, 4\)"),
        ((depthwise, random(5, 12), 5), "channels must divide 12, got 5"),
        ((depthwise, random(5, 12), 0), "channels must divide 12, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            merge_separable(*arguments)


def test_bad_blocks():
    with pytest.raises(ValueError, match="kernel must be odd, got 4"):
        DepthwiseSeparableBlock(4, 6, kernel=4)
    with pytest.raises(ValueError, match="channels must be positive, got 4, 0"):
        DepthwiseSeparableBlock(4, 0)
