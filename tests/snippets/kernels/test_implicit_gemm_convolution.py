"""Implicit-GEMM convolution: parity with F.conv2d and with plain loops, edges, compiled code.

Yardstick: torch.nn.functional.conv2d; torch.nn.BatchNorm2d; plain loops.
"""

import dataclasses
import importlib.util
import itertools
import math
import sys

import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.kernels.implicit_gemm_convolution import conv1x1_fused, implicit_gemm_conv2d

module = sys.modules[implicit_gemm_conv2d.__module__]
TOLERANCE = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 5e-3}


def by_definition(x, weight, bias, stride, padding, dilation, groups):
    """One number after the other."""
    (N, _, H, W), (K, C, R, S) = x.shape, weight.shape
    P = (H + 2 * padding[0] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + 2 * padding[1] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    out = torch.zeros(N, K, P, Q, dtype=torch.float64)
    for n, k, p, q in itertools.product(*map(range, out.shape)):
        total = bias[k].item()
        for c, r, s in itertools.product(range(C), range(R), range(S)):
            y = p * stride[0] + r * dilation[0] - padding[0]
            z = q * stride[1] + s * dilation[1] - padding[1]
            if 0 <= y < H and 0 <= z < W:
                total += x[n, k // (K // groups) * C + c, y, z].item() * weight[k, c, r, s].item()
        out[n, k, p, q] = total
    return out


def distance(a, b):
    """Relative, in the Euclidean norm; nan counts as far."""
    a, b = a.double(), b.double()
    far = ((a - b).norm() / b.norm().clamp_min(1e-300)).item()
    return far if far == far else math.inf


def with_gradients(function, *tensors):
    """The result and the gradients by all tensors, of a fixed random upstream gradient."""
    tensors = [None if x is None else x.detach().requires_grad_() for x in tensors]
    out = function(*tensors)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [x for x in tensors if x is not None]
    return out.detach(), *torch.autograd.grad(out, wanted, grad.to(out.dtype))


def assert_near(found, expected, tolerance=1e-6):
    for i, (a, b) in enumerate(zip(found, expected)):
        assert a.shape == b.shape, i
        # Of a single number the rounding may be large beside what is left of its sum.
        limit = tolerance * (1 if b.numel() > 20 else 20)
        far = distance(a, b)
        assert far <= limit, f"{i}: {far:.1e}"
        if a.dtype == found[0].dtype:  # not float32 vectors made of numbers in half precision
            # Follows; for the record of the largest error.
            assert_close(a, b, rtol=0, atol=limit * b.double().norm().item(), check_dtype=False)


def inputs(N, C, H, W, K, R, S, groups=1, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    x, weight = torch.randn(N, C, H, W), torch.randn(K, C // groups, R, S)
    bias = torch.randn(K)
    return [v.to(dtype).contiguous(memory_format=torch.channels_last) for v in (x, weight)] + [
        bias.to(dtype)
    ]


def assert_equals_pytorch(tensors, *options, tolerance=1e-6):
    found = with_gradients(lambda *v: implicit_gemm_conv2d(*v, *options), *tensors)
    doubles = [None if v is None else v.double() for v in tensors]
    expected = with_gradients(lambda *v: F.conv2d(*v, *options), *doubles)
    assert_near(found, expected, tolerance)


# Parity -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((2, 1), (1, 2), (1, 2), 1), ((3, 2), (2, 0), (2, 1), 2)],
    ids=str,
)
def test_equals_the_definition_number_by_number(stride, padding, dilation, groups):
    x, weight, bias = inputs(1, 4, 5, 6, 4, 2, 3, groups)
    options = stride, padding, dilation, groups
    expected = by_definition(x, weight, bias, *options)
    theirs = F.conv2d(x.double(), weight.double(), bias.double(), *options)
    assert torch.allclose(theirs, expected)  # the yardsticks agree
    assert_near([implicit_gemm_conv2d(x, weight, bias, *options)], [expected])


@settings(max_examples=10)
@given(data=st.data())
def test_equals_pytorch_with_all_gradients(data):
    draw = data.draw
    groups = draw(st.sampled_from([1, 2, 3]))
    C, K = (groups * draw(st.integers(1, 9 if groups == 1 else 3)) for _ in range(2))
    H, W, R, S = (draw(st.integers(1, most)) for most in (6, 6, 3, 3))
    stride, padding, dilation = (
        tuple(draw(st.integers(least, most)) for _ in range(2))
        for least, most in ((1, 3), (0, 2), (1, 3))
    )
    assume(
        H + 2 * padding[0] > dilation[0] * (R - 1) and W + 2 * padding[1] > dilation[1] * (S - 1)
    )
    tensors = inputs(
        draw(st.integers(1, 2)), C, H, W, K, R, S, groups, seed=draw(st.integers(0, 99))
    )
    assert_equals_pytorch(tensors, stride, padding, dilation, groups, tolerance=2e-6)


MANY = module._Config(16, 16, 16, 4, 1, boxes=True, programs=9)
LAYERS = {  # N, C, H, W, K, R, S; stride, padding, dilation, groups
    "2x2": ((3, 20, 2, 3, 20, 2, 2), 1, 1, 1, 1),
    "2x2, stride 2": ((1, 20, 6, 7, 20, 2, 2), 2, 1, 1, 1),
    "3x2, stride 2 and 1": ((1, 20, 6, 5, 8, 3, 2), (2, 1), 1, 1, 1),
    "2x2, dilation 2": ((1, 8, 4, 5, 17, 2, 2), 1, 2, 2, 1),
    "1x1": ((2, 40, 3, 5, 36, 1, 1), 1, 0, 1, 1),
    "1x1, stride 2": ((3, 20, 5, 6, 20, 1, 1), 2, 0, 1, 1),
    "1x1, stride 3, padding": ((1, 20, 7, 8, 20, 1, 1), 3, (1, 2), 1, 1),
    "first layer": ((1, 3, 7, 6, 20, 3, 5), 2, (1, 2), 1, 1),
    "first layer, 7 channels": ((1, 7, 4, 5, 8, 2, 3), 1, 1, 1, 1),
    "two large groups": ((1, 64, 3, 4, 64, 1, 2), 1, 0, 1, 2),
    "two groups with an end": ((1, 40, 3, 4, 36, 1, 2), 1, 0, 1, 2),
    "many small groups": ((1, 48, 3, 4, 24, 2, 1), 1, 1, 1, 12),
}
GATHERED = ("2x2", "2x2, dilation 2", "1x1, stride 2", "many small groups")


@pytest.mark.parametrize(
    ("name", "boxes"), [(name, True) for name in LAYERS] + [(name, False) for name in GATHERED]
)
def test_several_tiles_along_every_axis(name, boxes, monkeypatch):
    sizes, *options = LAYERS[name]
    config = dataclasses.replace(MANY, boxes=boxes)
    monkeypatch.setattr(module, "_config", lambda *_: config)
    assert_equals_pytorch(inputs(*sizes, options[-1]), *options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["2x2", "first layer", "many small groups"])
def test_half_precision(name, dtype):
    sizes, *options = LAYERS[name]
    tensors = inputs(*sizes, options[-1], dtype)
    assert_equals_pytorch(tensors, *options, tolerance=TOLERANCE[dtype])


def test_the_weight_gradient_of_half_precision_can_stay_exact():
    x, weight, _ = inputs(2, 8, 5, 5, 8, 3, 3, dtype=torch.bfloat16)
    grad = torch.randn(2, 8, 3, 3).bfloat16()
    found = module._weight_gradient(grad, x, weight, (1, 1), (0, 0), (1, 1), 1, exact=True)
    expected = torch.nn.grad.conv2d_weight(x.double(), weight.shape, grad.double())
    assert found.dtype == torch.float32 and distance(found, expected) < 1e-6


def fused_by_definition(x, weight, scale, shift, residual, relu=True):
    out = F.conv2d(x, weight) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    out = out if residual is None else out + residual
    return out.relu() if relu else out


@pytest.mark.parametrize(
    ("dtype", "vectors", "residual", "relu"),
    [
        (torch.float32, torch.float32, True, True),
        (torch.float32, torch.float32, False, False),
        (torch.bfloat16, torch.float32, True, True),
        (torch.float16, torch.float16, True, False),
    ],
    ids=str,
)
def test_fused_equals_its_parts(dtype, vectors, residual, relu):
    x, weight, shift = inputs(2, 24, 3, 5, 20, 1, 1, dtype=dtype)
    scale = torch.randn(20).to(vectors)  # of both signs
    residual = torch.randn(2, 20, 3, 5).to(dtype) if residual else None
    tensors = x, weight, scale, shift.to(vectors), residual
    found = with_gradients(lambda *v: conv1x1_fused(*v, relu=relu), *tensors)
    doubles = [None if v is None else v.double() for v in tensors]
    expected = with_gradients(lambda *v: fused_by_definition(*v, relu), *doubles)
    assert_near(found, expected, TOLERANCE[dtype])
    assert [v.dtype for v in found[3:5]] == [vectors] * 2
    assert relu == bool((found[0] >= 0).all())


def test_fused_equals_a_batch_norm_in_evaluation():
    x, weight, _ = inputs(2, 6, 4, 4, 8, 1, 1)
    norm = torch.nn.BatchNorm2d(8).eval()
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        value.data.uniform_(0.5, 1.5)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    residual = torch.randn(2, 8, 4, 4)
    expected = F.relu(norm.double()(F.conv2d(x.double(), weight.double())) + residual.double())
    found = conv1x1_fused(x, weight, scale, shift, residual)
    assert_close(found, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


# Invariants ---------------------------------------------------------------------

some = st.integers(1, 6)


@given(size=st.integers(1, 12), taps=some, stride=some, padding=st.integers(0, 5), dilation=some)
def test_phases_are_the_windows_read_backwards(size, taps, stride, padding, dilation):
    assume(size + 2 * padding > dilation * (taps - 1))
    axis = module._windows(size, taps, stride, padding, dilation)
    forward = {
        (i * stride + t * dilation - padding, i, t)
        for i in range(axis.count)
        for t in range(taps)
        if 0 <= i * stride + t * dilation - padding < size
    }
    backward, cells = [], []
    for phase in module._phases(axis):
        assert phase.stride == 1 and phase.size == axis.count
        for j in range(phase.count):
            cell = phase.first + j * phase.every
            cells.append(cell)
            for t in range(phase.taps):
                window = j + phase.begin + t * phase.step
                if 0 <= window < axis.count:
                    backward.append((cell, window, phase.tap + t * phase.each))
    assert sorted(cells) == list(range(size))
    assert len(backward) == len(set(backward)) and set(backward) == forward
    if size >= stride:  # each tap belongs to one phase: no product with an inserted zero
        assert sum(phase.taps for phase in module._phases(axis)) == taps


@given(N=st.integers(1, 130), P=some, Q=some, power=st.integers(0, 8))
def test_a_box_wastes_least(N, P, Q, power):
    box = module._box(N, P, Q, 2**power)
    assert math.prod(box) == 2**power
    splits = itertools.product(range(power + 1), repeat=2)
    boxes = [(2**a, 2**b, 2 ** (power - a - b)) for a, b in splits if a + b <= power]
    number = lambda box: math.prod(-(-n // size) for n, size in zip((N, P, Q), box))  # noqa: E731
    assert number(box) == min(map(number, boxes))


def test_boxes_of_resnet_are_full():
    for size in (112, 56, 28, 14):
        assert module._boxes(128, size, size, module._box(128, size, size, 256)) * 256 == (
            128 * size * size
        )


def test_a_box_is_searched_once():
    assert module._box(3, 5, 7, 64) is module._box(3, 5, 7, 64)


def test_a_pack_is_found_among_few(monkeypatch):
    tried = []
    monkeypatch.setattr(
        module, "range", lambda *ends: tried.append(range(*ends)) or tried[-1], raising=False
    )
    assert module._pack(torch.empty(1024, 1, 1, 1), 1024) == 32
    assert [len(numbers) for numbers in tried] == [32]


@pytest.mark.parametrize(
    ("capability", "boxes"),
    [((8, 0), False), ((9, 0), True), ((10, 0), True), ((10, 3), True), ((12, 0), False)],
)
def test_the_memory_engine_is_used_where_there_is_one(capability, boxes, monkeypatch):
    monkeypatch.setattr(module, "INTERPRETED", tl.constexpr(False))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    x = torch.empty(1, 64, 4, 4, dtype=torch.bfloat16)
    assert [module._config(name, x, 64, 64).boxes for name in ("forward", "weight")] == [boxes] * 2


@given(groups=st.sampled_from([1, 2, 3, 4, 6, 32]), C=some, K=some, seed=st.integers(0, 99))
def test_packing_is_undone(groups, C, K, seed):
    torch.manual_seed(seed)
    weight = torch.randn(groups * K, C, 2, 3)
    pack = module._pack(weight, groups)
    assert groups % pack == 0 and (pack == 1 or pack * max(C, K) <= 32)
    wide = module._packed(weight, groups, pack)
    assert wide.shape == (groups // pack, pack * K, 2, 3, pack * C)
    assert wide.count_nonzero() == weight.numel()
    assert torch.equal(module._unpacked(wide, pack), weight)


def test_images_do_not_mix():
    x, weight, bias = inputs(5, 8, 4, 4, 8, 3, 3)
    together = implicit_gemm_conv2d(x, weight, bias, 1, 1)
    for i in range(5):
        assert_close(implicit_gemm_conv2d(x[i : i + 1], weight, bias, 1, 1), together[i : i + 1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's
def test_only_windows_that_see_a_pixel_hear_of_it(value):
    for C, groups in ((20, 1), (2, 1), (40, 2)):
        x, weight, _ = inputs(2, C, 4, 6, 40, 2, 3, groups)
        x[1, C - 1, 2, 5] = value
        out = implicit_gemm_conv2d(x, weight, None, 1, 1, 1, groups)
        expected = F.conv2d(x, weight, None, 1, 1, 1, groups)
        assert torch.equal(out.isfinite(), expected.isfinite())
        assert 0 < (~out.isfinite()).sum() <= 4 * 40


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's
def test_weights_of_another_group_do_not_reach_a_gradient():
    x, weight, _ = inputs(1, 80, 3, 3, 72, 1, 1, groups=2)  # 40 and 36: no multiples of a block
    weight[36:] = math.inf
    x.requires_grad_()
    found, expected = (
        torch.autograd.grad(function(x, weight, None, 1, 0, 1, 2)[:, :36].sum(), x)[0][:, :40]
        for function in (implicit_gemm_conv2d, F.conv2d)
    )
    assert expected.isfinite().all() and distance(found, expected) < 1e-6


def test_relu_keeps_nan():
    x, weight, shift = inputs(1, 8, 2, 2, 8, 1, 1)
    x[0, 0, 0, 0] = math.nan
    out = conv1x1_fused(x, weight, torch.ones(8), shift)
    assert out[0, :, 0, 0].isnan().all() and out.isnan().sum() == 8


def test_the_same_bits_on_every_run_and_in_parts():
    x, weight, _ = inputs(4, 8, 6, 6, 16, 1, 2)
    grad, options = torch.randn(4, 16, 6, 5), ([1, 1], [0, 0], [1, 1], 1)
    parts = [
        module._weight_gradient(
            grad, x, weight, *options, config=dataclasses.replace(MANY, programs=n)
        )
        for n in (2, 2, 0)  # in parts, and in one piece
    ]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])
    assert distance(parts[0], parts[2]) < 1e-6


# Gradient -----------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradient_of_one_argument(which):
    tensors = inputs(1, 4, 3, 3, 4, 2, 2)
    asked = tensors[which].requires_grad_()
    found, expected = (
        torch.autograd.grad(function(*tensors, 1, 1).square().sum(), asked)
        for function in (implicit_gemm_conv2d, F.conv2d)
    )
    assert distance(found[0], expected[0]) < 1e-6


@pytest.mark.parametrize("which", range(4))
def test_fused_gradient_of_one_argument(which):
    x, weight, shift = inputs(1, 4, 3, 3, 8, 1, 1)
    tensors = [x, weight, torch.randn(8), shift]
    asked = tensors[which].requires_grad_()
    found, expected = (
        torch.autograd.grad(function(*tensors, None).square().sum(), asked)
        for function in (conv1x1_fused, fused_by_definition)
    )
    assert distance(found[0], expected[0]) < 1e-6


def test_the_gradient_of_a_gradient_raises():
    x, weight, bias = (v.requires_grad_() for v in inputs(1, 4, 3, 3, 4, 1, 1))
    for out in (
        implicit_gemm_conv2d(x, weight, bias),
        conv1x1_fused(x, weight, torch.ones(4), bias),
    ):
        for asked in (x, weight):
            (grad,) = torch.autograd.grad(out.square().sum(), asked, create_graph=True)
            with pytest.raises(RuntimeError, match="autograd"):
                grad.sum().backward()


def test_operators_are_registered_as_pytorch_wants():
    x, weight, bias = (v.requires_grad_() for v in inputs(1, 4, 3, 3, 4, 1, 1))
    options, grad = ([1, 1], [0, 0], [1, 1], 1), torch.randn(1, 4, 3, 3)
    torch.library.opcheck(module._forward_op, (x, weight, bias, *options))
    plain = x.detach(), weight.detach()
    torch.library.opcheck(module._input_gradient_op, (grad, plain[1], 3, 3, *options))
    torch.library.opcheck(module._weight_gradient_op, (grad, *plain, *options, False))
    scale = torch.ones(4, requires_grad=True)
    torch.library.opcheck(module._fused_op, (x, weight, scale, bias, grad, True))


def test_compiles_as_one_graph():
    tensors = inputs(1, 4, 4, 4, 4, 3, 3)
    compiled = torch.compile(implicit_gemm_conv2d, fullgraph=True, backend="aot_eager")
    found = with_gradients(lambda *v: compiled(*v, 2, 1), *tensors)
    expected = with_gradients(lambda *v: F.conv2d(*v, 2, 1), *(v.double() for v in tensors))
    assert_near(found, expected)
    x, weight, shift = inputs(1, 4, 2, 2, 4, 1, 1)
    compiled = torch.compile(conv1x1_fused, fullgraph=True, backend="aot_eager")
    found = with_gradients(lambda *v: compiled(*v, x), x, weight, torch.ones(4), shift)
    expected = with_gradients(
        lambda *v: fused_by_definition(*v, x), x, weight, torch.ones(4), shift
    )
    assert_near(found, expected)


def test_a_copy_of_the_file_can_be_imported_beside_it():
    spec = importlib.util.spec_from_file_location("copied_implicit_gemm", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    x, weight, _ = inputs(1, 4, 2, 2, 4, 1, 1)
    assert torch.equal(copy.implicit_gemm_conv2d(x, weight), implicit_gemm_conv2d(x, weight))


# Edges --------------------------------------------------------------------------


def test_no_images():
    tensors = inputs(0, 4, 5, 5, 6, 3, 3)
    found = with_gradients(lambda *v: implicit_gemm_conv2d(*v, 2, 1), *tensors)
    assert found[0].shape == (0, 6, 3, 3)
    assert [v.shape for v in found[1:]] == [v.shape for v in tensors]
    assert not any(v.any() for v in found[1:])
    x, weight, shift = inputs(0, 4, 5, 5, 6, 1, 1)
    found = with_gradients(lambda *v: conv1x1_fused(*v), x, weight, torch.ones(6), shift)
    assert found[0].shape == (0, 6, 5, 5) and not any(v.any() for v in found[1:])


def test_one_of_everything():
    assert_equals_pytorch(inputs(1, 1, 1, 1, 1, 1, 1))


def test_windows_in_the_padding_see_zeros():
    x, weight, bias = inputs(1, 3, 2, 2, 5, 2, 2)
    out = implicit_gemm_conv2d(x, weight, bias, 1, 4)
    assert_close(out[:, :, :3], bias.view(5, 1, 1).expand(1, 5, 3, 9))
    assert_equals_pytorch((x, weight, bias), 1, 4)


def test_a_stride_that_skips_cells():
    x, weight, bias = inputs(1, 4, 7, 7, 4, 2, 2)
    found = with_gradients(lambda *v: implicit_gemm_conv2d(*v, 3), x, weight, bias)
    assert not found[1][:, :, 2::3].any() and not found[1][:, :, :, 6].any()
    assert_equals_pytorch((x, weight, bias), 3)


@pytest.mark.parametrize("factor", [1e4, 1e-4])
def test_large_and_small_numbers(factor):
    x, weight, bias = inputs(1, 8, 4, 4, 8, 3, 3)
    assert_equals_pytorch((x * factor, weight, bias), 1, 1)


def rearranged(x, kind):
    if kind == "channels first":
        return x.contiguous(memory_format=torch.contiguous_format)
    if kind == "crop":
        larger = F.pad(x, (2, 1, 1, 2), value=math.nan).contiguous(
            memory_format=torch.channels_last
        )
        return larger[:, :, 1:-2, 2:-1]
    if kind == "transposed":
        return x.transpose(2, 3).contiguous(memory_format=torch.channels_last).transpose(2, 3)
    flat = torch.cat([x.new_zeros(1), x.permute(0, 2, 3, 1).flatten()])[1:]
    N, C, H, W = x.shape
    return flat.view(N, H, W, C).permute(0, 3, 1, 2)  # starts at an odd address


@pytest.mark.parametrize("kind", ["channels first", "crop", "transposed", "odd offset"])
def test_any_layout(kind):
    x, weight, bias = inputs(2, 8, 4, 3, 8, 2, 3)
    residual = torch.randn(2, 8, 4, 3)
    x_like, weight_like, residual_like = (rearranged(v, kind) for v in (x, weight, residual))
    assert torch.equal(x_like, x) and torch.equal(weight_like, weight)
    wide = torch.stack([bias, bias], 1)[:, 0]
    out = implicit_gemm_conv2d(x_like, weight_like, wide, 1, 1)
    assert torch.equal(out, implicit_gemm_conv2d(x, weight, bias, 1, 1))
    assert out.is_contiguous(memory_format=torch.channels_last)
    point = weight[:, :, :1, :1]
    found = conv1x1_fused(x_like, point, wide, wide, residual_like)
    assert torch.equal(found, conv1x1_fused(x, point, bias, bias, residual))
    options = [1, 1], [1, 1], [1, 1], 1
    grad = rearranged(torch.randn(out.shape), kind)
    for function, rest in (
        (module._input_gradient, (weight, 4, 3)),
        (module._weight_gradient, (x, weight)),
    ):
        assert torch.equal(
            function(grad, *rest, *options), function(grad.contiguous(), *rest, *options)
        )
    dx = module._input_gradient(grad, weight_like, 4, 3, *options)
    dw = module._weight_gradient(grad, x_like, weight_like, *options)
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in (dx, dw))


def test_channels_last_is_read_in_place():
    x = inputs(2, 8, 4, 3, 8, 2, 3)[0]
    assert module._pixels(x).data_ptr() == x.data_ptr()
    assert module._pixels(x.contiguous()).data_ptr() != x.data_ptr()


def test_arguments_are_left_alone():
    tensors = inputs(1, 3, 4, 4, 4, 3, 3)
    before = [v.clone() for v in tensors]
    with_gradients(lambda *v: implicit_gemm_conv2d(*v, 1, 1), *tensors)
    assert all(map(torch.equal, tensors, before))


# Bad input ----------------------------------------------------------------------

BAD = [
    (dict(x=torch.zeros(4, 5, 5)), ValueError, r"four axes, got \(4, 5, 5\), \(6, 4, 3, 3\)"),
    (dict(weight=torch.zeros(6, 4, 3)), ValueError, r"four axes, got .* \(6, 4, 3\)"),
    (dict(weight=torch.zeros(6, 3, 3, 3)), ValueError, r"do not fit 1 groups: .* \(6, 3, 3, 3\)"),
    (dict(groups=2), ValueError, r"do not fit 2 groups"),
    (dict(groups=0), ValueError, r"do not fit 0 groups"),
    (dict(weight=torch.zeros(5, 2, 3, 3), groups=2), ValueError, r"do not fit 2 groups"),
    (dict(weight=torch.zeros(0, 4, 3, 3)), ValueError, r"may be 0, got .* \(0, 4, 3, 3\)"),
    (dict(x=torch.zeros(1, 4, 0, 5)), ValueError, r"may be 0, got \(1, 4, 0, 5\)"),
    (dict(bias=torch.zeros(5)), ValueError, r"bias must be \(6,\), got \(5,\)"),
    (dict(bias=torch.zeros(6).double()), TypeError, "bias must be .* got torch.float64"),
    (dict(bias=torch.zeros(6, device="meta")), ValueError, "x and bias are on cpu, meta"),
    (dict(weight=torch.zeros(6, 4, 3, 3, device="meta")), ValueError, "are on cpu, meta"),
    (dict(x=torch.zeros(1, 4, 5, 5).double()), TypeError, "got torch.float64, torch.float32"),
    (dict(weight=torch.zeros(6, 4, 3, 3).half()), TypeError, "torch.float32, torch.float16"),
    (dict(stride=0), ValueError, "stride must be .* from 1 on, got 0"),
    (dict(stride=(1, 2, 1)), ValueError, r"stride must be .* got \(1, 2, 1\)"),
    (dict(padding=-1), ValueError, "padding must be .* from 0 on, got -1"),
    (dict(padding="same"), ValueError, "padding must be .* got 'same'"),
    (dict(dilation=(1, 0)), ValueError, r"dilation must be .* got \(1, 0\)"),
    (dict(dilation=3), ValueError, "does not fit into the padded map"),
    (dict(x=torch.zeros(1).expand(1, 4, 2**14, 2**14)), ValueError, r"below 2\*\*31, got"),
    (dict(x=torch.zeros(1).expand(2**20, 4, 2**6, 2**6)), ValueError, r"below 2\*\*31, got"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(change, error, message):
    good = dict(x=torch.zeros(1, 4, 5, 5), weight=torch.zeros(6, 4, 3, 3))
    with pytest.raises(error, match=message):
        implicit_gemm_conv2d(**(good | change))


BAD_FUSED = [
    (dict(weight=torch.zeros(6, 4, 3, 3)), ValueError, r"\(K, C, 1, 1\), got \(6, 4, 3, 3\)"),
    (dict(scale=torch.zeros(4)), ValueError, r"scale must be \(6,\), got \(4,\)"),
    (dict(scale=torch.zeros(6).half()), TypeError, "scale must be .* got torch.float16"),
    (dict(shift=torch.zeros(1)), ValueError, r"shift must be \(6,\), got \(1,\)"),
    (dict(residual=torch.zeros(1, 6, 5, 1)), ValueError, r"be \(1, 6, 5, 5\), got \(1, 6, 5, 1\)"),
    (dict(residual=torch.zeros(1, 6, 5, 5).half()), TypeError, "residual .* got torch.float16"),
    (dict(residual=torch.zeros(1, 6, 5, 5, device="meta")), ValueError, "are on cpu, meta"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_FUSED)
def test_bad_input_of_fused(change, error, message):
    good = dict(x=torch.zeros(1, 4, 5, 5), weight=torch.zeros(6, 4, 1, 1))
    good |= dict(scale=torch.zeros(6), shift=torch.zeros(6))
    with pytest.raises(error, match=message):
        conv1x1_fused(**(good | change))


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch):
    x, weight, _ = inputs(1, 4, 2, 2, 4, 1, 1)
    monkeypatch.setattr(module, "INTERPRETED", tl.constexpr(False))
    with pytest.raises(ValueError, match="on the CPU: .* TRITON_INTERPRET=1"):
        implicit_gemm_conv2d(x, weight)
