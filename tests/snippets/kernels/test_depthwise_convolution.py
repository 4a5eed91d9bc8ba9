"""Depthwise convolution: parity with PyTorch's in float64, edges, compiled code.

Yardstick: torch.nn.functional.conv2d; torch.nn.functional.conv1d; plain loops.
"""

import contextlib
import dataclasses
import importlib.util
import math
import sys

import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.kernels.depthwise_convolution import causal_conv1d, depthwise_conv2d_kernel

module = sys.modules[causal_conv1d.__module__]
TOLERANCE = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 5e-3}
BANDS = module._BandConfig(rows=2, columns=16, lines=16, depth=16, warps=4, stages=1)


def small(x, R, S, stride, weights=False):
    """Few operations for a program: the interpreter takes long for each, however few numbers."""
    tiny = R * S <= 9 and stride == 1
    return module._Config(R if tiny else 1, 2, 2, 32, 8, 4, span=8, programs=1)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "_config", small)
    monkeypatch.setattr(module, "_band_config", lambda *_, **__: BANDS)


def inputs(B=1, C=4, H=5, W=6, R=3, S=3, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(B, H, W, C).to(dtype).permute(0, 3, 1, 2)
    return x, torch.randn(C, 1, R, S).to(dtype), torch.randn(C).to(dtype)


def expected_2d(x, weight, bias, stride=1, padding=0):
    return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])


def expected_1d(x, weight, bias, activation=None):
    x = F.pad(x, (weight.shape[1] - 1, 0))
    out = F.conv1d(x, weight[:, None], bias, groups=x.shape[1])
    return F.silu(out) if activation else out


def with_gradients(function, tensors, *options, grad=None):
    tensors = [x.detach().requires_grad_() for x in tensors]
    out = function(*tensors, *options)
    if grad is None:
        torch.manual_seed(1)
        grad = torch.randn(out.shape)
    return out.detach(), *torch.autograd.grad(out, tensors, grad.to(out.dtype))


def distance(a, b):
    """Relative, in the Euclidean norm, but for sums that nearly cancel; nan counts as far."""
    a, b = a.double(), b.double()
    far = ((a - b).norm() / b.norm().clamp_min(1.0)).item()
    return far if far == far else math.inf


def assert_near(found, expected, tolerance):
    for name, a, b in zip(("output", "grad of x", "of the weight", "of the bias"), found, expected):
        assert a.shape == b.shape, name
        far = distance(a, b)
        assert far <= tolerance, f"{name}: {far:.1e}"
        # Follows; for the record of the largest error.
        limit = tolerance * b.double().norm().clamp_min(1.0).item()
        assert_close(a, b, rtol=0, atol=limit, check_dtype=False)


def check(function, oracle, tensors, *options):
    dtype = tensors[0].dtype
    found = with_gradients(function, tensors, *options)
    assert {x.dtype for x in found} == {dtype}
    torch.manual_seed(1)  # as in with_gradients, rounded
    grad = torch.randn(found[0].shape).to(dtype).double()
    expected = with_gradients(oracle, [x.double() for x in tensors], *options, grad=grad)
    twice = options == ("silu",) and dtype != torch.float32  # the gradient before it is rounded
    assert_near(found, expected, TOLERANCE[dtype] * (2 if twice else 1))
    return found


# Parity -------------------------------------------------------------------------


def test_equals_the_definition_number_by_number(small_tiles):
    (x, weight, bias), stride, padding = inputs(C=3, H=5, W=4, R=3, S=2), 2, (2, 1)
    out = depthwise_conv2d_kernel(x, weight, bias, stride, padding)
    assert out.shape == (1, 3, 4, 3)
    for c in range(3):
        for i in range(4):
            for j in range(3):
                total = bias[c].item()
                for r in range(3):
                    for s in range(2):
                        y, w = stride * i + r - 2, stride * j + s - 1
                        if 0 <= y < 5 and 0 <= w < 4:
                            total += x[0, c, y, w].item() * weight[c, 0, r, s].item()
                assert abs(out[0, c, i, j].item() - total) < 1e-5


def test_causal_equals_the_definition_number_by_number(small_tiles):
    x, weight, bias = torch.randn(2, 3, 7), torch.randn(3, 4), torch.randn(3)
    out, silu = (causal_conv1d(x, weight, bias, activation) for activation in (None, "silu"))
    for b, c, t in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        total = bias[c].item()
        for k in range(4):
            if t - 3 + k >= 0:
                total += weight[c, k].item() * x[b, c, t - 3 + k].item()
        assert abs(out[b, c, t].item() - total) < 1e-5
        assert abs(silu[b, c, t].item() - total / (1 + math.exp(-total))) < 1e-5


@pytest.mark.parametrize(
    ("B", "C", "H", "W", "R", "S", "stride", "padding", "dtype"),
    [
        (2, 16, 7, 9, 3, 3, 1, 1, torch.bfloat16),
        (2, 10, 9, 8, 3, 3, 2, 1, torch.float16),
        (1, 8, 9, 9, 7, 7, 1, 3, torch.float32),
    ],
    ids=str,
)
def test_tiles_of_the_gpu(B, C, H, W, R, S, stride, padding, dtype):
    check(depthwise_conv2d_kernel, expected_2d, inputs(B, C, H, W, R, S, dtype), stride, padding)


@pytest.mark.parametrize(
    ("B", "C", "H", "W", "R", "S", "stride", "padding", "dtype"),
    [
        (2, 10, 7, 9, 3, 3, 1, 1, torch.float32),
        (2, 9, 8, 7, 3, 3, 2, 1, torch.float32),
        (1, 5, 7, 8, 3, 3, 2, 0, torch.float32),
        (1, 3, 6, 5, 4, 2, 2, (3, 2), torch.bfloat16),
        (1, 3, 6, 5, 2, 4, 1, (0, 3), torch.float16),
        (2, 4, 6, 5, 5, 5, 1, 2, torch.float32),
        (1, 4, 9, 9, 5, 5, 2, 2, torch.float16),
        (1, 3, 5, 7, 7, 7, 1, 3, torch.float32),
        (1, 3, 1, 1, 7, 7, 2, 3, torch.float32),
        (1, 2, 3, 5, 8, 9, 1, 6, torch.float32),
        (1, 2, 4, 3, 3, 3, 1, 4, torch.float32),
        (1, 2, 3, 3, 1, 1, 1, 0, torch.float32),
        (1, 1, 3, 2, 13, 13, 1, 6, torch.float32),
    ],
    ids=str,
)
def test_direct_kernels(small_tiles, B, C, H, W, R, S, stride, padding, dtype):
    tensors = inputs(B, C, H, W, R, S, dtype)
    out = check(depthwise_conv2d_kernel, expected_2d, tensors, stride, padding)[0]
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("B", "C", "H", "W", "R", "S", "padding", "dtype"),
    [
        (3, 2, 7, 9, 13, 13, 6, torch.bfloat16),
        (2, 1, 5, 33, 13, 31, (6, 15), torch.float16),
        (1, 1, 17, 20, 15, 13, (3, 0), torch.float16),
        (2, 1, 4, 3, 13, 13, (7, 14), torch.bfloat16),
    ],
    ids=str,
)
def test_bands(small_tiles, B, C, H, W, R, S, padding, dtype):
    assert module._by_bands(inputs(dtype=dtype)[0], torch.empty(1, 1, R, S), 1)
    tensors = inputs(B, C, H, W, R, S, dtype)
    out = check(depthwise_conv2d_kernel, expected_2d, tensors, 1, padding)[0]
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_31_by_31_with_the_tiles_of_the_gpu():
    tensors = inputs(2, 1, 9, 12, 31, 31, torch.bfloat16)
    check(depthwise_conv2d_kernel, expected_2d, tensors, 1, 15)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    ("B", "C", "L", "k", "dtype"),
    [
        (2, 10, 9, 4, torch.float32),
        (1, 8, 11, 4, torch.bfloat16),
        (2, 3, 2, 4, torch.float16),
        (1, 3, 5, 1, torch.float32),
    ],
    ids=str,
)
def test_causal(small_tiles, B, C, L, k, dtype, activation):
    torch.manual_seed(0)
    x = torch.randn(B, L, C).to(dtype).transpose(1, 2)
    tensors = x, torch.randn(C, k).to(dtype), torch.randn(C).to(dtype)
    out = check(causal_conv1d, expected_1d, tensors, activation)[0]
    assert out.transpose(1, 2).is_contiguous()


def test_causal_with_the_tiles_of_the_gpu():
    tensors = torch.randn(2, 21, 24).transpose(1, 2), torch.randn(24, 4), torch.randn(24)
    check(causal_conv1d, expected_1d, tensors, "silu")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("taken", "rows", "columns", "tiles", "span", "programs"),
    [(1, 1, 3, 2, 3, 1), (3, 3, 1, 4, 1, 8), (3, 1, 2, 8, 2, 2)],
)
def test_any_tile(stride, taken, rows, columns, tiles, span, programs, monkeypatch):
    monkeypatch.setattr(module, "_multiprocessors", lambda _: 1)  # several groups a program
    x, weight, _ = inputs(2, 3, 5, 4)
    config = module._Config(taken, rows, columns, tiles, 4, 4, span, programs)
    back = dataclasses.replace(config, taken=taken if stride == 1 else 1)
    size = [(n - 1) // stride + 1 for n in (5, 4)]
    out = module._forward(x, weight, None, stride, (1, 1), size, config=config)
    grad = torch.randn(out.shape).contiguous(memory_format=torch.channels_last)
    options = (stride, (1, 1), False, (True,) * 3, back, config)
    found = out, *module._backward(grad, x, weight, None, *options)[:2]
    tensors = x.double(), weight.double()
    expected = with_gradients(
        lambda x, weight: expected_2d(x, weight, None, stride, 1), tensors, grad=grad.double()
    )
    assert_near(found, expected, 1e-6)


@pytest.mark.parametrize(("rows", "columns", "lines", "depth"), [(1, 16, 32, 32), (4, 4, 16, 16)])
def test_any_band(rows, columns, lines, depth):
    x, weight, _ = inputs(3, 1, 7, 18, 5, 9)
    config = module._BandConfig(rows, columns, lines, depth, 4, 1)
    of_weight = dataclasses.replace(config, columns=16)
    out = module._forward(x, weight, None, 1, (2, 4), (7, 18), config=config)
    grad = torch.randn(out.shape).contiguous(memory_format=torch.channels_last)
    options = (1, (2, 4), False, (True,) * 3, config, of_weight)
    found = out, *module._backward(grad, x, weight, None, *options)[:2]
    tensors = x.double(), weight.double()
    expected = with_gradients(
        lambda x, weight: expected_2d(x, weight, None, 1, (2, 4)), tensors, grad=grad.double()
    )
    assert_near(found, expected, 1e-6)


def test_blocks_of_channels_leave_few_threads_idle():
    for dtype, blocks in (
        (torch.bfloat16, {3: 4, 40: 64, 96: 32, 144: 32, 192: 64, 576: 64}),
        (torch.float32, {3: 4, 40: 16, 96: 32, 144: 16, 192: 32, 576: 32}),
    ):
        for C, channels in blocks.items():
            config = module._config(torch.empty(1, C, 2, 2, dtype=dtype, device="meta"), 3, 3, 1)
            assert config.channels == channels, (dtype, C)
            assert config.tiles * config.channels == 512


# Invariants ---------------------------------------------------------------------

sizes = st.integers(1, 6)


@given(
    B=st.integers(1, 2), C=st.integers(1, 3), H=sizes, W=sizes,
    R=st.integers(1, 4), S=st.integers(1, 4), stride=st.integers(1, 2),
    more=st.integers(0, 2), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=5, phases=[Phase.generate])
def test_any_size(B, C, H, W, R, S, stride, more, seed):
    pad = max(R - H, S - W, 0) + more
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_config", small)
        tensors = inputs(B, C, H, W, R, S, seed=seed)
        check(depthwise_conv2d_kernel, expected_2d, tensors, stride, pad)


def test_the_future_has_no_influence(small_tiles):
    x, weight = torch.randn(1, 2, 12), torch.randn(2, 4)
    before = causal_conv1d(x, weight)
    x[:, :, 7] = 100.0
    changed = (causal_conv1d(x, weight) != before).all(1)[0]
    assert changed.tolist() == [7 <= t <= 10 for t in range(12)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at nan
def test_channels_and_images_do_not_meet(small_tiles):
    x, weight, _ = inputs(2, 9, 4, 4)
    before = depthwise_conv2d_kernel(x, weight, padding=1)
    x[0, 3] = math.nan
    same = (depthwise_conv2d_kernel(x, weight, padding=1) == before).all(-1).all(-1)
    expected = torch.ones(2, 9, dtype=torch.bool)
    expected[0, 3] = False
    assert torch.equal(same, expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at exp(1000) = infinity
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_scales(small_tiles, factor):
    x, weight, bias = inputs(1, 3, 4, 4)
    check(depthwise_conv2d_kernel, expected_2d, (x * factor, weight, bias), 1, 1)
    check(causal_conv1d, expected_1d, (x[:, :, 0] * factor, weight[:, 0, 0], bias), "silu")


# Gradient -----------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradient_of_one_argument(small_tiles, which, monkeypatch):
    tensors = inputs()
    tensors[which].requires_grad_()
    if which == 0:
        monkeypatch.setattr(module, "_direct_weight", None)  # is not needed
    out = depthwise_conv2d_kernel(*tensors, padding=1)
    (found,) = torch.autograd.grad(out.square().sum(), tensors[which])
    exact = [x.detach().double() for x in tensors]
    exact[which].requires_grad_()
    out = expected_2d(*exact, padding=1)
    (expected,) = torch.autograd.grad(out.square().sum(), exact[which])
    assert distance(found, expected) < 1e-6


def test_the_gradient_of_a_gradient_raises(small_tiles):
    x, weight, bias = (x.requires_grad_() for x in inputs())
    out = depthwise_conv2d_kernel(x, weight, bias)
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        grad.sum().backward()


def test_operators_are_registered_as_pytorch_wants(small_tiles):
    x, weight, bias = (x.requires_grad_() for x in inputs(H=3, W=4))
    torch.library.opcheck(module._forward_op, (x, weight, bias, 1, [1, 1], [3, 4], True))
    x, weight, bias = (x.detach() for x in (x, weight, bias))
    arguments = torch.randn(1, 4, 3, 4), x, weight, bias, 1, [1, 1], False, [True, True, False]
    torch.library.opcheck(module._backward_op, arguments)


def test_compiles_as_one_graph(small_tiles):
    def both(x, weight, bias):
        out = depthwise_conv2d_kernel(x, weight, bias, padding=1)
        return causal_conv1d(out.flatten(2), weight[:, 0, 0], bias, "silu")

    def expected(x, weight, bias):
        out = expected_2d(x, weight, bias, 1, 1)
        return expected_1d(out.flatten(2), weight[:, 0, 0], bias, "silu")

    check(torch.compile(both, fullgraph=True, backend="aot_eager"), expected, inputs(H=3, W=4))


def test_a_copy_of_the_file_can_be_imported_beside_it():
    spec = importlib.util.spec_from_file_location("copied_depthwise", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    x, weight, bias = inputs(H=3, W=3)
    found, expected = (m.depthwise_conv2d_kernel(x, weight, bias) for m in (copy, module))
    assert torch.equal(found, expected)


def test_kernels_are_launched_on_the_device_of_the_input(small_tiles, monkeypatch):
    """Of one GPU, or none, this can be seen: every launch lies inside the guard."""
    guards, launches = [], []

    @contextlib.contextmanager
    def guard(tensor):
        guards.append(tensor.device)
        yield
        guards.pop()

    class Watched:
        def __init__(self, name):
            self.name, self.kernel = name, getattr(module, name)

        def __getitem__(self, grid):
            launches.append((self.name, guards == [torch.device("cpu")]))
            return self.kernel[grid]

    names = [f"_{name}_kernel" for name in ("direct", "weight", "planes", "band", "band_weight")]
    for name in names:
        monkeypatch.setattr(module, name, Watched(name))
    monkeypatch.setattr(torch.cuda, "device_of", guard)
    for R, dtype in ((3, torch.float32), (13, torch.float16)):
        with_gradients(depthwise_conv2d_kernel, inputs(1, 1, 3, 3, R, R, dtype), 1, R // 2)
    assert set(launches) == {(name, True) for name in names}


# Edges --------------------------------------------------------------------------


@pytest.mark.parametrize(("B", "C", "R"), [(0, 3, 3), (2, 0, 3), (0, 3, 13)], ids=str)
def test_empty(B, C, R):
    for dtype in (torch.float32, torch.float16):
        tensors = inputs(B, C, 4, 4, R, R, dtype=dtype)
        found = with_gradients(depthwise_conv2d_kernel, tensors, 1, 6)
        assert found[0].shape == (B, C, 17 - R, 17 - R)
        assert [x.shape for x in found[1:]] == [x.shape for x in tensors]
        assert not any(x.any() for x in found)


def test_a_sequence_of_no_length():
    found = with_gradients(causal_conv1d, (torch.zeros(2, 3, 0), torch.ones(3, 4), torch.ones(3)))
    assert found[0].shape == (2, 3, 0) and not any(x.any() for x in found)


def strided(x, kind):
    B, C, H, W = x.shape
    if kind == "channels first":
        return x.contiguous()
    if kind == "some channels":
        larger = x.new_full((B, H, W, C + 8), math.nan).permute(0, 3, 1, 2)
        larger[:, 4 : C + 4] = x
        return larger[:, 4 : C + 4]
    if kind == "crop":
        larger = x.new_full((B, H + 2, W + 3, C), math.nan).permute(0, 3, 1, 2)
        larger[:, :, 1 : H + 1, 2 : W + 2] = x
        return larger[:, :, 1 : H + 1, 2 : W + 2]
    if kind == "odd offset":
        flat = x.permute(0, 2, 3, 1).reshape(-1)
        return torch.cat([flat.new_zeros(1), flat])[1:].view(B, H, W, C).permute(0, 3, 1, 2)
    return x.transpose(2, 3).contiguous(memory_format=torch.channels_last).transpose(2, 3)


@pytest.mark.parametrize("R", [3, 13])
@pytest.mark.parametrize(
    "kind", ["channels first", "some channels", "crop", "odd offset", "transposed"]
)
def test_strides(small_tiles, kind, R):
    dtype = torch.float32 if R == 3 else torch.float16
    x, weight, bias = inputs(1, 8, 3, 4, R, R, dtype=dtype)
    other = strided(x, kind)
    assert torch.equal(other, x)
    copied = module._aligned(other) is not other
    odd = kind == "some channels" and dtype == torch.float16  # 8 bytes
    assert copied == (kind in ("channels first", "odd offset") or odd)
    wide = weight.repeat_interleave(2, 3)[..., ::2]
    check(depthwise_conv2d_kernel, expected_2d, (other, wide, bias), 1, R // 2)


@pytest.mark.parametrize(
    ("C", "dtype"), [(12, torch.bfloat16), (9, torch.float32), (1, torch.half)], ids=str
)
def test_no_copy_where_it_would_look_the_same(C, dtype):
    x = torch.zeros(2, 3, 5, C, dtype=dtype).permute(0, 3, 1, 2)
    assert module._aligned(x) is x
    view = x.new_zeros(2, 3, 5, 2 * C + 1).permute(0, 3, 1, 2)[:, :C]  # pixels begin anywhere
    assert (module._aligned(view) is view) == (C % 2 == 1)


def test_gradients_in_any_layout(small_tiles):
    x, weight, bias = inputs(1, 4, 4, 4)
    for grad in (torch.randn(1, 4, 4, 4), torch.randn(1, 4, 1, 1).expand(1, 4, 4, 4)):
        found = with_gradients(depthwise_conv2d_kernel, (x, weight, bias), 1, 1, grad=grad)
        exact = [x.double() for x in (x, weight, bias)]
        expected = with_gradients(expected_2d, exact, 1, 1, grad=grad.double())
        assert_near(found, expected, 1e-6)


def test_a_bias_of_another_dtype(small_tiles):
    x, weight, bias = inputs(dtype=torch.bfloat16)
    found = with_gradients(depthwise_conv2d_kernel, (x, weight, bias.float()))
    assert found[3].dtype == torch.float32
    exact = F.conv2d(x.double(), weight.double(), bias.double(), groups=4)
    assert distance(found[0], exact) < TOLERANCE[torch.bfloat16]


def test_arguments_are_left_alone(small_tiles):
    tensors = [x.requires_grad_() for x in inputs()]
    before = [x.detach().clone() for x in tensors]
    depthwise_conv2d_kernel(*tensors).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors))


# Bad input ----------------------------------------------------------------------

BAD = [
    (dict(x=torch.zeros(4, 5, 5)), ValueError, r"\(B, C, H, W\), got \(4, 5, 5\)"),
    (dict(weight=torch.zeros(4, 3, 3)), ValueError, r"C = 4, got \(4, 3, 3\)"),
    (dict(weight=torch.zeros(8, 1, 3, 3)), ValueError, r"C = 4, got \(8, 1, 3, 3\)"),
    (dict(weight=torch.zeros(4, 2, 3, 3)), ValueError, r"C = 4, got \(4, 2, 3, 3\)"),
    (dict(weight=torch.zeros(4, 1, 0, 3)), ValueError, r"C = 4, got \(4, 1, 0, 3\)"),
    (dict(bias=torch.zeros(3)), ValueError, r"bias must be \(4,\), got \(3,\)"),
    (dict(stride=3), ValueError, "stride must be 1 or 2, got 3"),
    (dict(padding=-1), ValueError, r"not be negative, got \(-1, -1\)"),
    (dict(padding=(1, 1, 1)), ValueError, r"got \(1, 1, 1\)"),
    (dict(weight=torch.zeros(4, 1, 6, 3)), ValueError, "got 6, 3 and 5, 5"),
    (dict(weight=torch.zeros(4, 1, 3, 8), padding=(0, 1)), ValueError, "got 3, 8 and 5, 7"),
    (dict(x=torch.zeros(1, 4, 5, 5).double()), TypeError, "x must be .* got torch.float64"),
    (dict(weight=torch.zeros(4, 1, 3, 3).half()), TypeError, "torch.float32, torch.float16"),
    (dict(bias=torch.zeros(4).long()), TypeError, "bias must be .* got torch.int64"),
    (dict(bias=torch.zeros(4, device="meta")), ValueError, "on one device, got cpu, meta"),
    (
        dict(x=torch.zeros(1).expand(1, 4, 2**14, 2**14)),
        ValueError,
        r"fewer than 2\*\*30 .* got \(1, 4, 16384, 16384\)",
    ),
]
BAD_1D = [
    (dict(x=torch.zeros(1, 4, 5, 5)), r"\(B, C, L\), got \(1, 4, 5, 5\)"),
    (dict(weight=torch.zeros(4, 1, 4)), r"\(C, k\), got \(4, 1, 4\)"),
    (dict(weight=torch.zeros(3, 4)), r"C = 4, got \(3, 1, 1, 4\)"),
    (dict(weight=torch.zeros(4, 0)), r"C = 4, got \(4, 1, 1, 0\)"),
    (dict(activation="relu"), "None or 'silu', got 'relu'"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(change, error, message):
    good = dict(x=torch.zeros(1, 4, 5, 5), weight=torch.zeros(4, 1, 3, 3))
    with pytest.raises(error, match=message):
        depthwise_conv2d_kernel(**(good | change))


@pytest.mark.parametrize(("change", "message"), BAD_1D)
def test_bad_input_1d(change, message):
    good = dict(x=torch.zeros(1, 4, 5), weight=torch.zeros(4, 4))
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**(good | change))


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr(module, "INTERPRETED", tl.constexpr(False))
    with pytest.raises(ValueError, match="got cpu; .* TRITON_INTERPRET=1"):
        depthwise_conv2d_kernel(*inputs())
