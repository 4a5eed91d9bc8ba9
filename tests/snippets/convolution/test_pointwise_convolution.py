"""1 x 1 convolution: parity, merging, cost, invariants, gradient, edges, bad input.

Yardstick: torch.nn.functional.conv2d; torch.nn.functional.linear; plain loops.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from snippets.convolution.pointwise_convolution import (
    PathCost,
    merge_pointwise,
    path_cost,
    pointwise_conv2d,
)

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 4)
strides = st.one_of(small, st.tuples(small, small))


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_xwb(b=2, c=5, h=4, w=3, o=6, seed=0, dtype=torch.float64, kernel=()):
    shapes = (b, c, h, w), (o, c, *kernel), (o,)
    return [random(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes)]


def run_with_gradients(function, tensors):
    """The output, and the gradients of a fixed random functional of it."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    out = function(*tensors)
    return [out, *torch.autograd.grad(out, tensors, random(*out.shape, seed=9))]


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


# Parity ---------------------------------------------------------------------


@given(b=small, c=small, h=small, w=small, o=small, stride=strides, seed=seeds)
def test_equals_conv2d(b, c, h, w, o, stride, seed):
    xwb = random_xwb(b, c, h, w, o, seed, kernel=(1, 1))
    for tensors in (xwb, xwb[:2]):
        assert_all_close(
            run_with_gradients(lambda *t: pointwise_conv2d(*t, stride=stride), tensors),
            run_with_gradients(lambda *t: F.conv2d(*t, stride=stride), tensors),
        )


@given(b=small, c=small, h=small, w=small, o=small, seed=seeds)
def test_equals_linear_on_the_last_axis(b, c, h, w, o, seed):
    xwb = random_xwb(b, c, h, w, o, seed)
    for tensors in (xwb, xwb[:2]):
        assert_all_close(
            run_with_gradients(pointwise_conv2d, tensors),
            run_with_gradients(
                lambda x, *wb: F.linear(x.permute(0, 2, 3, 1), *wb).permute(0, 3, 1, 2), tensors
            ),
        )


def test_equals_the_definition():
    x, weight, bias = random_xwb()
    out = pointwise_conv2d(x, weight, bias)
    for b, o, i, j in [(0, 0, 0, 0), (1, 5, 3, 2), (0, 3, 2, 1), (1, 2, 0, 2)]:
        total = bias[o].item()
        for c in range(5):
            total += weight[o, c].item() * x[b, c, i, j].item()
        assert out[b, o, i, j].item() == pytest.approx(total, abs=1e-12)


def test_weights_pass_between_the_layers_of_torch():
    linear, conv = nn.Linear(5, 6).double(), nn.Conv2d(5, 6, 1).double()
    with torch.no_grad():
        linear.weight.copy_(random(6, 5, seed=1))
        linear.bias.copy_(random(6, seed=2))
    conv.load_state_dict(
        {k: p.reshape(conv.state_dict()[k].shape) for k, p in linear.state_dict().items()}
    )
    x = random(2, 5, 4, 3)
    for layer in (linear, conv):
        assert_all_close([pointwise_conv2d(x, layer.weight, layer.bias)], [conv(x)])


def test_fresh_weights_have_the_same_range_in_both_layers():
    """What the page says: uniform up to 1 / sqrt(C)."""
    for layer in (nn.Linear(400, 300), nn.Conv2d(400, 300, 1)):
        assert 0.99 / 20 < layer.weight.abs().max() <= 1 / 20
        assert 0.9 / 20 < layer.bias.abs().max() <= 1 / 20


# Merging --------------------------------------------------------------------


@settings(max_examples=25)
@given(c=small, m=small, o=small, kernel=st.tuples(small, small), seed=seeds)
def test_merged_kernel_equals_two_layers(c, m, o, kernel, seed):
    tensors = random(2, c, 6, 5, seed=seed), random(m, c, seed=seed + 1), random(o, m, *kernel)
    assert_all_close(
        run_with_gradients(
            lambda x, first, then: F.conv2d(x, merge_pointwise(first, then), padding=1), tensors
        ),
        run_with_gradients(
            lambda x, first, then: F.conv2d(F.conv2d(x, first[..., None, None]), then, padding=1),
            tensors,
        ),
    )


def test_merging_accepts_both_shapes_of_a_weight():
    first, then = random(2, 5), random(4, 2, 3, 3)
    assert torch.equal(merge_pointwise(first, then), merge_pointwise(first[..., None, None], then))


@given(m=st.integers(1, 5), seed=seeds)
def test_the_rank_of_a_merged_kernel_is_at_most_that_of_the_middle(m, seed):
    merged = merge_pointwise(random(m, 6, seed=seed), random(7, m, 3, 3, seed=seed + 1))
    ranks = torch.linalg.matrix_rank(merged.permute(2, 3, 0, 1))
    assert (ranks == m).all()


def test_a_bias_in_between_differs_at_the_border_only():
    """The page's warning: the second layer pads with zeros, not with the bias."""
    x, first, bias = random(1, 3, 6, 5), random(2, 3), random(2, seed=1)
    then = random(4, 2, 3, 3, seed=2)
    apart = F.conv2d(pointwise_conv2d(x, first, bias), then, padding=1)
    moved = torch.einsum("omuv,m->o", then, bias)
    merged = F.conv2d(x, merge_pointwise(first, then), moved, padding=1)
    assert_all_close([merged[:, :, 1:-1, 1:-1]], [apart[:, :, 1:-1, 1:-1]])
    differs = ~torch.isclose(merged, apart)
    assert differs[:, :, [0, -1]].all() and differs[:, :, :, [0, -1]].all()


# Cost -----------------------------------------------------------------------


@settings(max_examples=25)
@given(layers=st.lists(st.tuples(small, st.sampled_from([1, 3, 5])), max_size=4), seed=seeds)
def test_cost_equals_what_pytorch_counts(layers, seed):
    shape = (2, 3, 6, 5)
    x, c, weights, moved = random(*shape, seed=seed), shape[1], 0, 0
    with FlopCounterMode(display=False) as counter:
        for o, kernel in layers:
            weight = random(o, c, kernel, kernel, seed=seed)
            out = F.conv2d(x, weight, padding="same")
            moved += sum(t.numel() * t.element_size() for t in (x, weight, out))
            weights, x, c = weights + weight.numel(), out, o
    cost = path_cost(shape, layers, number_bytes=8)
    assert cost == PathCost(weights, counter.get_total_flops() // 2, moved)
    if layers:
        assert cost.intensity == counter.get_total_flops() / moved


def test_four_bytes_a_number_unless_told():
    assert path_cost((1, 2, 3, 3), [(4, 1)]).bytes == 4 * (2 * 9 + 8 + 4 * 9)


def test_the_bottleneck_of_resnet():
    x = (1, 256, 56, 56)
    bottleneck = path_cost(x, [(64, 1), (64, 3), (256, 1)])
    plain = path_cost(x, [(256, 3), (256, 3)])
    basic = path_cost((1, 64, 56, 56), [(64, 3), (64, 3)])
    assert (bottleneck.weights, plain.weights, basic.weights) == (69_632, 1_179_648, 73_728)
    assert bottleneck.macs == 69_632 * 56 * 56
    assert round(plain.macs / bottleneck.macs, 1) == 16.9


def test_the_first_inception_module_of_googlenet():
    """Table 1 of the paper: 159K parameters (of 1024, biases included) and 128M multiply-adds."""
    x = (1, 192, 28, 28)
    paths = [[(64, 1)], [(96, 1), (128, 3)], [(16, 1), (32, 5)], [(32, 1)]]
    costs = [path_cost(x, path) for path in paths]
    biases = sum(o for path in paths for o, _ in path)
    assert (sum(cost.weights for cost in costs) + biases) // 1024 == 159
    assert round(sum(cost.macs for cost in costs) / 1e6) == 128


# Invariants -----------------------------------------------------------------


@given(seed=seeds)
def test_every_pixel_for_itself(seed):
    """Any order of the pixels is carried over, and no pixel moves another."""
    x, weight, bias = random_xwb(seed=seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    out = pointwise_conv2d(x, weight, bias)
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    assert_all_close(
        [pointwise_conv2d(shuffled, weight, bias)],
        [out.flatten(2)[:, :, order].reshape(out.shape)],
    )


@given(seed=seeds)
def test_every_output_channel_depends_on_every_input_channel(seed):
    x, weight, _ = random_xwb(o=2, seed=seed)
    jacobian = torch.autograd.functional.jacobian(lambda x: pointwise_conv2d(x, weight), x)
    own = torch.einsum("bohwbchw->bohwc", jacobian)  # pixel by pixel
    assert_all_close([own], [weight[:, None, None].expand(2, 2, 4, 3, 5)])


@given(seed=seeds)
def test_two_in_a_row_are_one_with_the_product_of_the_matrices(seed):
    x, first, _ = random_xwb(seed=seed)
    then = random(3, 6, seed=seed)
    twice = pointwise_conv2d(pointwise_conv2d(x, first), then)
    assert_all_close([twice], [pointwise_conv2d(x, then @ first)])


def test_raising_after_reducing_gives_back_only_what_lies_in_the_kept_subspace():
    """The page: no channel is thrown away, C - M directions are."""
    basis = torch.linalg.qr(random(6, 2)).Q  # (C, M), orthonormal
    inside = pointwise_conv2d(random(1, 2, 4, 3, seed=1), basis)
    there_and_back = pointwise_conv2d(pointwise_conv2d(inside, basis.T), basis)
    assert_all_close([there_and_back], [inside])
    x = random(1, 6, 4, 3, seed=2)
    lost = x - pointwise_conv2d(pointwise_conv2d(x, basis.T), basis)
    assert torch.linalg.matrix_rank(lost.flatten(2)[0]) == 6 - 2
    assert_close(pointwise_conv2d(lost, basis.T), torch.zeros(1, 2, 4, 3, dtype=torch.float64))


def test_stride_reads_every_second_pixel_only():
    x, weight, bias = random_xwb(h=5, w=6)
    x.requires_grad_()
    out = pointwise_conv2d(x, weight, bias, 2)
    assert out.shape == (2, 6, 3, 3)
    out.sum().backward()
    seen = (x.grad != 0).all(dim=0).all(dim=0)
    assert seen.nonzero().tolist() == [[i, j] for i in (0, 2, 4) for j in (0, 2, 4)]
    assert (x.grad != 0).sum() == 2 * 5 * 9


def test_batched_equals_single():
    x, weight, bias = random_xwb(b=3)
    singles = torch.cat([pointwise_conv2d(x[b : b + 1], weight, bias) for b in range(3)])
    assert_all_close([pointwise_conv2d(x, weight, bias)], [singles])


def test_arguments_stay_as_they_are():
    xwb = random_xwb()
    copies = [t.clone() for t in xwb]
    pointwise_conv2d(*xwb, stride=2)
    for t, copy in zip(xwb, copies, strict=True):
        assert torch.equal(t, copy) and t._version == 0


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, (2, 1)], ids=str)
def test_gradient(stride):
    xwb = [t.requires_grad_() for t in random_xwb(1, 2, 3, 2, 3)]
    assert torch.autograd.gradcheck(lambda *t: pointwise_conv2d(*t, stride=stride), xwb)
    assert torch.autograd.gradgradcheck(lambda *t: pointwise_conv2d(*t, stride=stride), xwb)


def test_gradient_of_merging():
    tensors = [random(2, 3).requires_grad_(), random(2, 2, 1, 2).requires_grad_()]
    assert torch.autograd.gradcheck(merge_pointwise, tensors)


# Edges ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [dict(b=0), dict(c=0), dict(o=0), dict(h=0), dict(b=1, c=1, h=1, w=1, o=1)],
    ids=["no image", "no input channel", "no output channel", "no pixel", "one of each"],
)
def test_small_and_empty(shape):
    x, weight, bias = random_xwb(**shape)
    out = pointwise_conv2d(x, weight, bias)
    assert out.shape == (x.shape[0], weight.shape[0], *x.shape[2:])
    if x.shape[1] == 0:
        assert torch.equal(out, bias[:, None, None].expand(out.shape))
    assert_close(out, torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None])


def test_a_path_without_layers_costs_nothing():
    assert path_cost((1, 3, 4, 4), []) == PathCost(0, 0, 0)


def test_non_contiguous_input():
    x, weight, bias = random_xwb()
    strided = [
        x.to(memory_format=torch.channels_last),
        weight.T.contiguous().T,
        torch.stack([bias, bias], 1)[:, 0],
    ]
    assert not any(t.is_contiguous() for t in strided)
    assert_all_close(
        run_with_gradients(pointwise_conv2d, strided),
        run_with_gradients(pointwise_conv2d, [x, weight, bias]),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    xwb = random_xwb(dtype=dtype)
    exact = pointwise_conv2d(*(t.double() for t in xwb))
    out = pointwise_conv2d(*xwb)
    assert out.dtype == dtype
    step = 16 * torch.finfo(dtype).eps
    assert_close(out.double(), exact, rtol=step, atol=step)


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.zeros(5, 4, 3)), ValueError, r"x must be .* got \(5, 4, 3\)"),
        (dict(x=torch.zeros(2, 5, 4, 3).long()), TypeError, "floating point, got torch.int64"),
        (dict(weight=random(6)), ValueError, r"weight must be .* got \(6,\)"),
        (dict(weight=random(6, 5, 1)), ValueError, r"weight must be .* got \(6, 5, 1\)"),
        (dict(weight=random(6, 5, 3, 3)), ValueError, r"weight must be .* got \(6, 5, 3, 3\)"),
        (dict(weight=random(6, 5, 1, 2)), ValueError, r"weight must be .* got \(6, 5, 1, 2\)"),
        (dict(weight=random(6, 4)), ValueError, r"differ in C: \(2, 5, 4, 3\), \(6, 4\)"),
        (dict(bias=random(5)), ValueError, r"bias must be \(6,\), got \(5,\)"),
        (dict(bias=random(6, 1)), ValueError, r"bias must be \(6,\), got \(6, 1\)"),
        (dict(weight=random(6, 5).float()), TypeError, "weight .*float64, torch.float32"),
        (dict(bias=random(6).half()), TypeError, "bias .*float64, torch.float16"),
        (dict(stride=0), ValueError, "stride must be at least 1, got 0, 0"),
        (dict(stride=(1, -1)), ValueError, "stride must be at least 1, got 1, -1"),
    ],
    ids=range(13),
)  # fmt: skip
def test_bad_input(change, error, message):
    good = dict(zip(("x", "weight", "bias"), random_xwb(), strict=True))
    pointwise_conv2d(**good)
    with pytest.raises(error, match=message):
        pointwise_conv2d(**(good | change))


def test_bad_weights_to_merge():
    with pytest.raises(ValueError, match=r"first must be .* got \(2, 5, 3, 3\)"):
        merge_pointwise(random(2, 5, 3, 3), random(4, 2, 3, 3))
    with pytest.raises(ValueError, match=r"then must be .* got \(4, 2\)"):
        merge_pointwise(random(2, 5), random(4, 2))
    with pytest.raises(ValueError, match=r"differ in M: \(2, 5\), \(4, 3, 1, 1\)"):
        merge_pointwise(random(2, 5), random(4, 3, 1, 1))


def test_bad_paths():
    for kernel in (2, 0, -1):
        with pytest.raises(ValueError, match=f"kernel must be odd, got {kernel}"):
            path_cost((1, 3, 4, 4), [(8, 3), (8, kernel)])
    with pytest.raises(ValueError, match=r"x must be .* got \(3, 4, 4\)"):
        path_cost((3, 4, 4), [(8, 1)])
