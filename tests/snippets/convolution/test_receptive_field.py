"""Receptive field: arithmetic against gradient, perturbation and published tables; edges.

Yardstick: torch.nn.functional.conv1d; torch.nn.functional.max_pool1d; finite differences.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from snippets.convolution.receptive_field import (
    Field,
    Layer,
    input_gradient,
    input_positions,
    receptive_fields,
    spread,
    trace_back,
    uniform_spread,
)

layers_1d = st.builds(
    Layer, st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3)
)
stacks = st.lists(layers_1d, min_size=1, max_size=4)
small = st.lists(
    st.builds(Layer, st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2)),
    min_size=1,
    max_size=3,
)


def conv_stack(layers, seed=None):
    """Convolutions along one axis without bias: positive random weights, or all equal."""
    generator = torch.Generator().manual_seed(seed or 0)
    kernels = []
    for a in layers:
        shape = (1, 1, a.kernel)
        w = torch.full(shape, 1 / a.kernel, dtype=torch.float64)
        if seed is not None:
            w = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        kernels.append(w)

    def network(x):
        for a, w in zip(layers, kernels, strict=True):
            x = F.conv1d(x, w, None, a.stride, a.padding, a.dilation)
        return x

    return network


def output_length(layers, length):
    """By PyTorch itself, or 0 where it refuses."""
    try:
        return conv_stack(layers)(torch.zeros(1, 1, length, dtype=torch.float64)).shape[-1]
    except RuntimeError:
        return 0


def touched(layers, length, index, seed=1):
    """The pixels that have a gradient, straight from autograd."""
    x = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    conv_stack(layers, seed)(x)[0, 0, index].backward()
    return x.grad[0, 0].nonzero()[:, 0].tolist()


# Parity: arithmetic against what PyTorch's layers read ------------------------


@given(layers=stacks, length=st.integers(1, 40), seed=st.integers(1, 2**32 - 1))
def test_exact_positions_are_those_with_a_gradient_at_every_output(layers, length, seed):
    n = output_length(layers, length)
    assume(n > 0)
    for index in {0, n // 2, n - 1}:
        positions = input_positions(layers, length, index)
        assert positions.dtype == torch.int64
        assert positions.tolist() == touched(layers, length, index, seed)


@settings(max_examples=30)
@given(layers=stacks)
def test_span_is_where_the_gradient_begins_and_ends(layers):
    """Far from the borders nothing is cut off: first and last pixel, size and jump agree."""
    field = receptive_fields(layers)[-1]
    index = math.ceil(-field.start / field.jump) + 1  # clear of the padding of every map
    length = field.span(index + 1)[1] + field.jump + field.size - field.start
    for i in (index, index + 1):
        seen = touched(layers, length, i)
        assert (seen[0], seen[-1]) == field.span(i)
        assert seen[-1] - seen[0] + 1 == field.size


@settings(max_examples=25)
@given(layers=small, length=st.integers(4, 10))
def test_exact_positions_are_those_whose_change_changes_the_output(layers, length):
    """No derivative: one pixel at a time is moved, and the outputs are looked at."""
    n = output_length(layers, length)
    assume(n > 0)
    pixels = torch.eye(length, dtype=torch.float64)[:, None]  # (length, 1, length)
    moved = conv_stack(layers, 1)(pixels)[:, 0] != 0  # (length, n); no bias: 0 without a change
    for index in range(n):
        expected = moved[:, index].nonzero()[:, 0].tolist()
        assert input_positions(layers, length, index).tolist() == expected


@pytest.mark.parametrize(
    "layers",
    [
        [Layer(3, 2, 1), Layer(2, 2)],
        [Layer(2, 1), Layer(3, 3, 1), Layer(2, 1, 1)],
    ],
    ids=["resnet stem", "mixed"],
)
def test_max_pooling_may_read_as_much(layers):
    """One input shows the winners only; the union over many shows the field."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1, 24, generator=generator, dtype=torch.float64, requires_grad=True)
    out = x
    for a in layers:
        out = F.max_pool1d(out, a.kernel, a.stride, a.padding, a.dilation)
    for index in range(out.shape[-1]):
        (gradient,) = torch.autograd.grad(out[:, 0, index].sum(), x, retain_graph=True)
        assert ((gradient != 0).sum(-1) == 1).all()  # a single winner for each input
        union = gradient.ne(0).any(0)[0].nonzero()[:, 0]
        assert torch.equal(input_positions(layers, 24, index), union)


@settings(max_examples=20)
@given(high=small, wide=small, seed=st.integers(1, 99))
def test_height_and_width_go_by_themselves(high, wide, seed):
    depth = min(len(high), len(wide))
    high, wide = high[:depth], wide[:depth]
    size = (9, 10)
    assume(output_length(high, 9) > 0 and output_length(wide, 10) > 0)
    generator = torch.Generator().manual_seed(seed)
    kernels = [
        torch.rand(1, 1, a.kernel, b.kernel, generator=generator) for a, b in zip(high, wide)
    ]

    def network(x):
        for a, b, w in zip(high, wide, kernels):
            x = F.conv2d(x, w + 0.5, None, *zip(a[1:2], b[1:2]), (a[2], b[2]), (a[3], b[3]))
        return x

    index = (output_length(high, 9) // 2, output_length(wide, 10) // 2)
    gradient = input_gradient(network, torch.zeros(1, 1, *size))[0, 0]
    expected = torch.zeros(size, dtype=torch.bool)
    rows, columns = (input_positions(*x) for x in zip((high, wide), size, index))
    expected[rows[:, None], columns] = True
    assert torch.equal(gradient != 0, expected)


# Published numbers ------------------------------------------------------------

CONV, POOL = Layer(3, padding=1), Layer(2, stride=2)

# Section "vgg_16, resolution None" of RECEPTIVE_FIELD_TABLE.md in google-research/receptive_field:
# convolutions before the end-point, pool included or not, RF, effective stride, effective padding.
VGG16 = [
    ("conv1_1", 3, 1, 1),
    ("pool1", 6, 2, 2),
    ("conv2_1", 10, 2, 4),
    ("pool2", 16, 4, 6),
    ("conv3_1", 24, 4, 10),
    ("conv3_2", 32, 4, 14),
    ("pool3", 44, 8, 18),
    ("conv4_1", 60, 8, 26),
    ("conv4_2", 76, 8, 34),
    ("pool4", 100, 16, 42),
    ("conv5_1", 132, 16, 58),
    ("conv5_2", 164, 16, 74),
    ("pool5", 212, 32, 90),
]


def test_vgg16_as_published():
    names, layers = [], []
    for block, convolutions in enumerate([2, 2, 3, 3, 3], 1):
        names += [f"conv{block}_{i}" for i in range(1, convolutions + 1)] + [f"pool{block}"]
        layers += [CONV] * convolutions + [POOL]
    fields = dict(zip(names, receptive_fields(layers)[1:], strict=True))
    for name, size, stride, padding in VGG16:
        assert fields[name] == Field(size, stride, -padding), name
    # Chen et al. 2015 (DeepLab): 404 pixels when fc6, 7 x 7, is applied as a convolution.
    assert receptive_fields([*layers, Layer(7)])[-1].size == 404


def resnet(depths, stride_in):
    """The longest path; the stride of a stage on the 1 x 1 or the 3 x 3 of its first block."""
    layers = [Layer(7, 2, 3), Layer(3, 2, 1)]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            one, three = (stride, 1) if stride_in == 1 else (1, stride)
            layers += [Layer(1, one), Layer(3, three, 1), Layer(1)]
    return layers


@pytest.mark.parametrize(
    ("depths", "size", "padding"),
    [
        ([3, 4, 6, 3], 483, 241),
        ([3, 4, 23, 3], 1027, 513),
        ([3, 8, 36, 3], 1507, 753),
        ([3, 24, 36, 3], 1763, 881),
    ],
    ids=["50", "101", "152", "200"],
)
def test_resnet_as_in_the_table_of_distill(depths, size, padding):
    """The paddings are those for 321 pixels; TensorFlow's SAME pads 224 by two less on the left."""
    field = receptive_fields(resnet(depths, stride_in=1))[-1]
    assert field == Field(size, 32, -padding)
    assert -field.start == (size - 1) // 2  # aligned: output 0 is centred on pixel 0


def test_resnet50_with_its_stride_on_the_three_by_three_sees_less():
    assert receptive_fields(resnet([3, 4, 6, 3], stride_in=3))[-1] == Field(427, 32, -213)


# Invariants -------------------------------------------------------------------


@given(layers=stacks)
def test_closed_form(layers):
    """Araujo et al., the solution of the recurrence; dilated kernels as wide as their span."""
    size, start, jump = 1, 0, 1
    for a in layers:
        start -= a.padding * jump
        size += a.dilation * (a.kernel - 1) * jump
        jump *= a.stride
    assert receptive_fields(layers)[-1] == (size, jump, start)


@given(layers=stacks, first=st.integers(-5, 20), width=st.integers(0, 5))
def test_backwards_agrees_with_forwards(layers, first, width):
    spans = trace_back(layers, first, first + width)
    field = receptive_fields(layers)[-1]
    assert spans[-1] == (first, first + width)
    assert spans[0] == (field.span(first)[0], field.span(first + width)[1])
    for i, span in enumerate(spans):  # every map is the input of the layers above it
        above = receptive_fields(layers[i:])[-1]
        assert span == (above.span(first)[0], above.span(first + width)[1])


@given(layers=stacks, more=stacks)
def test_stacks_compose(layers, more):
    low, high = receptive_fields(layers)[-1], receptive_fields(more)[-1]
    both = receptive_fields(layers + more)
    assert both[len(layers)] == low and len(both) == len(layers) + len(more) + 1
    size = low.size + (high.size - 1) * low.jump
    assert both[-1] == Field(size, low.jump * high.jump, low.start + high.start * low.jump)


@given(layers=stacks, stride=st.integers(1, 4))
def test_a_layer_is_not_widened_by_its_own_stride(layers, stride):
    other = [*layers[:-1], layers[-1]._replace(stride=stride)]
    assert receptive_fields(other)[-1].size == receptive_fields(layers)[-1].size


@given(layers=stacks, length=st.integers(1, 40))
def test_exact_positions_lie_in_the_span_and_in_the_input(layers, length):
    n = output_length(layers, length)
    assume(n > 0)
    field = receptive_fields(layers)[-1]
    for index in range(n):
        first, last = field.span(index)
        positions = input_positions(layers, length, index).tolist()
        assert positions == sorted(set(positions))
        assert all(max(first, 0) <= p <= min(last, length - 1) for p in positions)


# The gradient and its spread ----------------------------------------------------


@given(layers=stacks)
def test_spread_of_uniform_weights(layers):
    """Luo et al., section 2, here with strides and dilations: the formula is exact."""
    layers = [a._replace(padding=0) for a in layers]
    length = receptive_fields(layers)[-1].size
    gradient = input_gradient(conv_stack(layers), torch.zeros(1, 1, length).double())
    expected = torch.tensor([uniform_spread(layers)], dtype=torch.float64)
    assert_close(spread(gradient[0, 0]), expected, rtol=1e-10, atol=1e-10)


def test_spread_grows_as_the_square_root_and_its_share_of_the_field_falls():
    for k, n in itertools.product([2, 3, 5], [1, 4, 16]):
        assert math.isclose(uniform_spread([Layer(k)] * n), math.sqrt(n * (k * k - 1) / 12))
    share = [uniform_spread([Layer(3)] * n) / (2 * n + 1) for n in (100, 400)]
    assert math.isclose(share[0] / share[1], 2, rel_tol=0.01)


def test_variance_of_the_gradient_under_random_signs():
    """All stacks of three kernels of ±1: mean 0, mean square as if all weights were 1."""
    gradients = []
    for signs in itertools.product([-1.0, 1.0], repeat=6):
        a, b, c = torch.tensor(signs, dtype=torch.float64).reshape(3, 1, 1, 2)
        x = torch.zeros(1, 1, 4, dtype=torch.float64)
        gradients.append(
            input_gradient(lambda x: F.conv1d(F.conv1d(F.conv1d(x, a), b), c), x)[0, 0]  # noqa: B023
        )
    stacked = torch.stack(gradients)
    assert torch.equal(stacked.mean(0), torch.zeros(4).double())
    assert torch.equal(stacked.square().mean(0), torch.tensor([1.0, 3, 3, 1]).double())


@pytest.mark.parametrize("index", [None, (0, 0), (3, 2)], ids=str)
def test_gradient_of_a_network_by_differences(index):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, 2, 1))
    network.double()
    x = torch.randn(2, 2, 8, 6, dtype=torch.float64)
    copy = x.clone()
    gradient = input_gradient(network, x, index)
    assert gradient.shape == x.shape and not gradient.requires_grad
    assert torch.equal(x, copy) and not x.requires_grad
    assert all(p.grad is None for p in network.parameters())
    i, j = index or (2, 1)  # the middle of 4 x 3
    steps = 1e-5 * torch.eye(96, dtype=torch.float64).reshape(96, 1, 2, 8, 6)
    for sample in range(2):
        with torch.no_grad():
            moved = [network(x[sample] + s * steps[:, 0])[:, :, i, j].sum(1) for s in (1, -1)]
        change = (moved[0] - moved[1]).reshape(2, 8, 6) / 2e-5
        assert_close(gradient[sample], change, rtol=1e-6, atol=1e-8)


def test_gradcheck_of_what_the_gradient_is_taken_of():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv1d(2, 1, 3)).double()
    x = torch.randn(1, 1, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: network(x)[..., 2], x)
    with torch.no_grad():  # a caller without gradients gets them all the same
        given = input_gradient(network, x, (2,))
    assert_close(given, torch.autograd.grad(network(x)[..., 2].sum(), x)[0])


def test_spread_is_the_standard_deviation_of_positions_that_often():
    counts = torch.tensor([[0, 2, 1], [3, 0, 4]])
    rows = [i for i in range(2) for j in range(3) for _ in range(int(counts[i, j]))]
    columns = [j for i in range(2) for j in range(3) for _ in range(int(counts[i, j]))]
    expected = torch.tensor([rows, columns], dtype=torch.float64).std(1, correction=0)
    weights = counts.double()
    assert_close(spread(weights), expected, rtol=1e-12, atol=1e-12)
    assert_close(spread(7 * weights), expected, rtol=1e-12, atol=1e-12)
    assert_close(spread(weights.T), expected.flip(0), rtol=1e-12, atol=1e-12)
    w = (weights + 0.1).requires_grad_()  # differences must not go below zero
    assert torch.autograd.gradcheck(spread, w)
    assert torch.equal(w, weights + 0.1)


# Edges ------------------------------------------------------------------------


def test_no_layers_see_one_pixel():
    assert receptive_fields([]) == [Field(1, 1, 0)]
    assert trace_back([], 3, 5) == [(3, 5)]
    assert input_positions([], 4, 2).tolist() == [2]
    assert uniform_spread([]) == 0


def test_an_output_may_read_padding_alone():
    assert input_positions([Layer(1, padding=2)], 3, 0).tolist() == []
    assert input_positions([Layer(1, padding=2), Layer(1)], 3, 6).tolist() == []


def test_holes():
    assert input_positions([Layer(1, stride=2), Layer(2)], 5, 0).tolist() == [0, 2]
    assert input_positions([Layer(3, dilation=2)] * 2, 9, 0).tolist() == [0, 2, 4, 6, 8]


def test_output_that_does_not_depend_on_the_input():
    x = torch.full((1, 1, 4), torch.inf)
    constant = nn.Conv1d(1, 1, 1)
    for network in (torch.ones_like, lambda x: constant(torch.ones_like(x))):
        assert torch.equal(input_gradient(network, x), torch.zeros(1, 1, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    x = torch.zeros(1, 1, 9, 9, dtype=dtype)
    gradient = input_gradient(lambda x: F.avg_pool2d(F.avg_pool2d(x, 3, 1), 3, 1), x)
    assert gradient.dtype == dtype
    result = spread(gradient[0, 0])
    assert result.dtype == torch.float32
    expected = torch.full((2,), uniform_spread([Layer(3)] * 2))
    assert_close(result, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    wide = torch.ones(70000, dtype=dtype)  # float16 ends at 65504
    assert_close(spread(wide), torch.tensor([70000 / math.sqrt(12)]), rtol=1e-3, atol=0)


def test_non_contiguous_input():
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 3, padding=1).double()
    x = torch.randn(5, 4, 2, 1, dtype=torch.float64).permute(3, 2, 1, 0)  # (1, 2, 4, 5)
    assert not x.is_contiguous()
    assert_close(input_gradient(network, x), input_gradient(network, x.contiguous()))
    weights = torch.rand(4, 6, dtype=torch.float64)[:, ::2].T
    assert_close(spread(weights), spread(weights.contiguous()))


def test_no_weight_has_no_spread():
    assert spread(torch.zeros(3, 4)).isnan().all()
    assert spread(torch.tensor([0.0, 5.0])).tolist() == [0]


# Bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer(0), "layer 2: kernel must be at least 1, got 0"),
        (Layer(3, 0), "layer 2: stride must be at least 1, got 0"),
        (Layer(3, 1, -1), "layer 2: padding must be at least 0, got -1"),
        (Layer(3, 1, 0, 0), "layer 2: dilation must be at least 1, got 0"),
    ],
    ids=lambda x: x[-1] if isinstance(x, Layer) else "",
)
def test_bad_layers(layer, message):
    layers = [Layer(3), layer]
    for call in (
        lambda: receptive_fields(layers),
        lambda: trace_back(layers, 0, 0),
        lambda: input_positions(layers, 20, 0),
        lambda: uniform_spread(layers),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_places():
    with pytest.raises(ValueError, match="must not exceed last, got 3 and 2"):
        trace_back([Layer(3)], 3, 2)
    with pytest.raises(ValueError, match="has 4 positions, got index 4"):
        input_positions([Layer(3)], 6, 4)
    with pytest.raises(ValueError, match="has 4 positions, got index -1"):
        input_positions([Layer(3)], 6, -1)
    message = "layer 2 spans 5, its input has 2 positions and 1 of padding on each side"
    with pytest.raises(ValueError, match=message):
        input_positions([Layer(3), Layer(3, 1, 1, 2)], 4, 0)
    with pytest.raises(ValueError, match="layer 1 spans 1, its input has 0 positions"):
        input_positions([Layer(1, padding=1)], 0, 0)


@pytest.mark.parametrize("index", [(4,), (-1,), (0, 0), ()], ids=str)
def test_bad_index(index):
    with pytest.raises(ValueError, match=r"index \(.*\) does not lie in an output of \(4,\)"):
        input_gradient(nn.Identity(), torch.zeros(1, 1, 4), index)


def test_bad_tensors():
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        input_gradient(nn.Identity(), torch.zeros(1, 1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"a spatial axis, got \(1, 4\)"):
        input_gradient(nn.Identity(), torch.zeros(1, 4))
    with pytest.raises(TypeError, match="weights must be floating point, got torch.int64"):
        spread(torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="must not be negative, got -2"):
        spread(torch.tensor([1.0, -2.0]))
    for shape in ((), (0,), (3, 0)):
        with pytest.raises(ValueError, match=rf"not empty, got \({str(shape)[1:-1]}\)"):
            spread(torch.ones(shape))
