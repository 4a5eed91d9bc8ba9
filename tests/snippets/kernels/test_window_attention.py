"""Window attention: parity with Swin's layer and with the definition, edges.

Yardstick: transformers.models.swin.modeling_swin.SwinLayer; definition in float64; plain loops.
"""

import dataclasses
import importlib.util
import itertools
import math
import sys

import pytest
import torch
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers.models.swin.configuration_swin import SwinConfig
from transformers.models.swin.modeling_swin import SwinLayer

from snippets.kernels.window_attention import window_attention, window_attention_eager

module = sys.modules[window_attention.__module__]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 9e-3}


def inputs(B=1, H=4, W=4, heads=1, D=16, window=2, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    table = torch.randn((2 * window - 1) ** 2, heads, dtype=torch.float64)
    qkv = torch.randn(B, H, W, 3, heads, D, dtype=torch.float64)
    return qkv.to(dtype), table


def allowed(H, W, window, shift):
    """Who sees whom: cells of one block of the grid that starts at `shift`; (H*W, H*W)."""
    block = torch.tensor(
        [((y - shift) // window, (x - shift) // window) for y in range(H) for x in range(W)]
    )
    return (block[:, None] == block).all(-1)


def by_definition(qkv, table, window, shift, scale=None):
    """Softmax over all cells of the map in float64, with every pair that does not see -inf."""
    qkv, table = qkv.double(), table.double()
    B, H, W, _, heads, D = qkv.shape
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)  # each (B, heads, H*W, D)
    y, x = torch.arange(H * W) // W, torch.arange(H * W) % W
    dy, dx = (a[:, None] - a for a in (y, x))
    index = ((dy + window - 1) * (2 * window - 1) + dx + window - 1).clamp(0, len(table) - 1)
    scores = q @ k.mT * (1 / math.sqrt(D) if scale is None else scale)
    scores = scores + table[index].permute(2, 0, 1)
    scores = scores.masked_fill(~allowed(H, W, window, shift), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, H, W, heads * D)


def with_gradients(function, qkv, table, grad):
    qkv, table = qkv.detach().requires_grad_(), table.detach().requires_grad_()
    out = function(qkv, table)
    return out.detach(), *torch.autograd.grad(out, (qkv, table), grad.to(out.dtype))


def distance(a, b):
    """Relative, in the Euclidean norm; nan counts as far."""
    a, b = a.double(), b.double()
    far = ((a - b).norm() / b.norm().clamp_min(1e-300)).item()
    return far if far == far else math.inf


def assert_near(found, expected, tolerance):
    for name, a, b in zip(("output", "grad of qkv", "grad of the table"), found, expected):
        assert a.shape == b.shape, name
        far = distance(a, b)
        assert far <= tolerance, f"{name}: {far:.1e}"
        # Follows; for the record of the largest error.
        assert_close(a, b, rtol=0, atol=tolerance * b.double().norm().item(), check_dtype=False)


# Parity -------------------------------------------------------------------------


def test_equals_the_definition_number_by_number():
    H, W, window, shift = 4, 6, 2, 1
    qkv, table = inputs(H=H, W=W, D=3, window=window)
    cells = list(itertools.product(range(H), range(W)))
    expected = torch.zeros(1, H, W, 3, dtype=torch.float64)
    for y, x in cells:
        weights, values = [], []
        for v, u in cells:
            together = (y - shift) // window == (v - shift) // window
            if together and (x - shift) // window == (u - shift) // window:
                score = sum(
                    qkv[0, y, x, 0, 0, d].item() * qkv[0, v, u, 1, 0, d].item() for d in range(3)
                )
                row = (y - v + window - 1) * (2 * window - 1) + (x - u + window - 1)
                weights.append(math.exp(score / math.sqrt(3) + table[row, 0].item()))
                values.append(qkv[0, v, u, 2, 0])
        average = sum(w * value for w, value in zip(weights, values)) / sum(weights)
        expected[0, y, x] = average
    assert_close(window_attention_eager(qkv, table, window, shift), expected)
    assert_close(by_definition(qkv, table, window, shift), expected)
    assert distance(window_attention(qkv.float(), table.float(), window, shift), expected) < 1e-6


@pytest.mark.parametrize("shift", [0, 2])
def test_equals_the_layer_of_transformers(shift):
    H, W, window, heads, dim = 8, 12, 4, 2, 32
    config = SwinConfig(
        embed_dim=dim, num_heads=[heads], depths=[2], window_size=window, hidden_act="tanh",
        attn_implementation="sdpa",  # its "eager" rounds the softmax to float32
    )  # fmt: skip
    layer = SwinLayer(config, dim, (H, W), heads, shift_size=shift).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    attention = layer.attention
    table = attention.relative_position_bias.relative_position_bias_table
    x = torch.randn(1, H * W, dim, dtype=torch.float64)
    expected = layer(x, (H, W))[0]
    parameters = dict(layer.named_parameters())
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, parameters.values(), grad)

    def ours(function, dtype):
        y = layer.layernorm_before(x)
        qkv = [linear(y) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        qkv = torch.stack(qkv, 2).reshape(1, H, W, 3, heads, dim // heads)
        out = function(qkv.to(dtype), table.to(dtype), window, shift).double()
        y = x + attention.o_proj(out.reshape(1, H * W, dim))
        return y + layer.mlp(layer.layernorm_after(y))

    for function, dtype, tolerance in (
        (window_attention_eager, torch.float64, 1e-12),
        (window_attention, torch.float32, 2e-6),
    ):
        found = ours(function, dtype)
        assert distance(found, expected) < tolerance
        found_grads = torch.autograd.grad(found, parameters.values(), grad)
        for name, a, b in zip(parameters, found_grads, expected_grads):
            if name != "attention.k_proj.bias":  # zero: it adds the same to a row of scores
                assert distance(a, b) < tolerance, name


SHAPES = [
    (2, 14, 7, 2, 32, 7, 3),
    (1, 8, 16, 1, 32, 8, 4),
    (1, 6, 9, 2, 64, 3, 2),
    (2, 7, 7, 1, 24, 7, 0),
    (1, 12, 12, 1, 32, 12, 5),
    (1, 9, 9, 1, 16, 9, 0),
]


@pytest.mark.parametrize(
    ("B", "H", "W", "heads", "D", "window", "shift", "dtype"),
    [
        (*shape, dtype)
        for shape in SHAPES
        for dtype in TOLERANCE
        if shape[5] < 9 or dtype != torch.float16  # the large tiles are slow
    ],
    ids=str,
)
def test_kernel_and_its_gradients(B, H, W, heads, D, window, shift, dtype):
    qkv, table = inputs(B, H, W, heads, D, window, dtype)
    table = table.to(torch.float32 if D == 24 else dtype)  # as under autocast, or cast as a whole
    grad = torch.randn(B, H, W, heads * D, dtype=torch.float64).to(dtype)
    found = with_gradients(lambda *x: window_attention(*x, window, shift), qkv, table, grad)
    assert [x.dtype for x in found] == [dtype, dtype, table.dtype]
    qkv, table, grad = qkv.double(), table.double(), grad.double()
    expected = with_gradients(lambda *x: by_definition(*x, window, shift), qkv, table, grad)
    assert_near(found, expected, TOLERANCE[dtype])
    eager = with_gradients(lambda *x: window_attention_eager(*x, window, shift), qkv, table, grad)
    assert_near(eager, expected, 1e-12)


@pytest.mark.parametrize("images", [1, 2, 3, 7])
def test_any_number_of_images_for_a_program(images):
    qkv, table = inputs(B=5, H=2, W=4, D=8, dtype=torch.float32)
    table, grad = table.float(), torch.randn(5, 2, 4, 8)
    configs = [
        dataclasses.replace(module._config(qkv, 2, backward), images=images)
        for backward in (False, True)
    ]
    out, lse = module._forward(qkv, table, 2, 1, 0.5, True, configs[0])
    grads = module._backward(grad, qkv, table, lse, 2, 1, 0.5, configs[1])
    expected = with_gradients(
        lambda *x: by_definition(*x, 2, 1, 0.5), qkv.double(), table.double(), grad
    )
    assert_near((out, *grads), expected, 2e-6)


@pytest.mark.parametrize("queries", [16, 32])
def test_queries_in_several_tiles(queries):
    qkv, table = inputs(H=8, W=8, D=8, window=8, dtype=torch.float32)
    table, grad = table.float(), torch.randn(1, 8, 8, 8)
    config = dataclasses.replace(module._config(qkv, 8, False), queries=queries)
    out, lse = module._forward(qkv, table, 8, 3, 0.5, True, config)
    grads = module._backward(grad, qkv, table, lse, 8, 3, 0.5, config)
    expected = with_gradients(
        lambda *x: by_definition(*x, 8, 3, 0.5), qkv.double(), table.double(), grad
    )
    assert_near((out, *grads), expected, 2e-6)


# Invariants ---------------------------------------------------------------------

windows = st.integers(1, 4)
few = st.integers(1, 3)
seeds = st.integers(0, 2**31)


@given(B=few, rows=few, columns=few, heads=few, window=windows, data=st.data(), seed=seeds)
def test_eager_equals_the_definition(B, rows, columns, heads, window, data, seed):
    shift = data.draw(st.integers(0, window - 1))
    qkv, table = inputs(B, rows * window, columns * window, heads, 2, window, seed=seed)
    expected = by_definition(qkv, table, window, shift)
    assert_close(window_attention_eager(qkv, table, window, shift), expected)


@given(window=windows, data=st.data(), seed=seeds)
def test_a_cell_reaches_its_block_and_nothing_else(window, data, seed):
    shift = data.draw(st.integers(0, window - 1))
    qkv, table = inputs(1, 2 * window, 3 * window, 1, 2, window, seed=seed)
    cell = data.draw(st.integers(0, 6 * window * window - 1))
    moved = qkv.clone()
    moved.view(-1, 3, 2)[cell] += 1
    before, after = (window_attention_eager(x, table, window, shift) for x in (qkv, moved))
    changed = (before != after).any(-1).flatten()
    assert torch.equal(changed, allowed(2 * window, 3 * window, window, shift)[cell])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at nan
def test_what_no_query_sees_has_no_influence():
    qkv, table = inputs(B=2, H=6, W=6, heads=2, D=8, window=3, dtype=torch.float32)
    poisoned = qkv.clone()
    poisoned[0, :, :2] = 1e30  # left of the grid that starts at 2; wraps into the last windows
    poisoned[1, 2:5, 2:5, :, 0] = torch.nan  # one head of a whole window
    clean, other = (window_attention(x, table.float(), 3, 2) for x in (qkv, poisoned))
    same = (clean == other).view(2, 6, 6, 2, 8).all(-1)
    expected = torch.ones_like(same)
    expected[0, :, :2] = False
    expected[1, 2:5, 2:5, 0] = False
    assert torch.equal(same, expected)


@pytest.mark.parametrize("factor", [1, 1e4])
def test_minus_100_is_not_minus_infinity(factor):
    qkv, table = inputs(H=4, W=4, D=8, window=4)
    qkv[..., 0, :, :] *= factor
    exact, official = (
        window_attention_eager(qkv, table, 4, 2, excluded=x) for x in (-math.inf, -100.0)
    )
    assert distance(exact, by_definition(qkv, table, 4, 2)) < 1e-12
    assert distance(window_attention(qkv.float(), table.float(), 4, 2), exact) < 1e-3
    far = distance(official, exact)
    assert far < 1e-30 if factor == 1 else far > 0.5


# Gradient -----------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1])
def test_gradient_of_eager(shift):
    qkv, table = (x.requires_grad_() for x in inputs(D=2))
    assert torch.autograd.gradcheck(lambda *x: window_attention_eager(*x, 2, shift), (qkv, table))


@pytest.mark.parametrize("which", ["qkv", "bias_table"])
def test_gradient_of_one_argument(which):
    qkv, table = (x.float() for x in inputs(D=8))
    asked = (qkv, table)[which == "bias_table"].requires_grad_()
    (found,) = torch.autograd.grad(window_attention(qkv, table, 2, 1).square().sum(), asked)
    (expected,) = torch.autograd.grad(by_definition(qkv, table, 2, 1).square().sum(), asked)
    assert distance(found, expected) < 2e-6


def test_the_gradient_of_a_gradient_raises():
    qkv, table = (x.float().requires_grad_() for x in inputs(D=8))
    (grad,) = torch.autograd.grad(window_attention(qkv, table, 2).sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        grad.sum().backward()


def test_operators_are_registered_as_pytorch_wants():
    qkv, table = (x.float().requires_grad_() for x in inputs(H=2, W=2, D=8))
    torch.library.opcheck(module._forward_op, (qkv, table, 2, 1, 0.5, True))
    out, lse = module._forward(qkv.detach(), table.detach(), 2, 1, 0.5, True)
    arguments = (torch.ones_like(out), qkv.detach(), table.detach(), lse, 2, 1, 0.5)
    torch.library.opcheck(module._backward_op, arguments)


def test_compiles_as_one_graph():
    qkv, table = (x.float() for x in inputs(D=8))
    compiled = torch.compile(window_attention, fullgraph=True, backend="aot_eager")
    grad = torch.randn(1, 4, 4, 8)
    found = with_gradients(lambda *x: compiled(*x, 2, 1), qkv, table, grad)
    expected = with_gradients(lambda *x: by_definition(*x, 2, 1), qkv, table, grad)
    assert_near(found, expected, 2e-6)


def test_a_copy_of_the_file_can_be_imported_beside_it():
    spec = importlib.util.spec_from_file_location("copied_window_attention", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    qkv, table = (x.float() for x in inputs(D=8))
    assert torch.equal(copy.window_attention(qkv, table, 2), window_attention(qkv, table, 2))


def test_statistics_are_stored_for_training_only():
    qkv, table = (x.float() for x in inputs(D=8))
    found = {
        training: module._forward(qkv, table, 2, 1, 0.5, training) for training in (True, False)
    }
    assert [found[t][1].numel() for t in (True, False)] == [16, 0]
    assert torch.equal(found[True][0], found[False][0])


# Edges --------------------------------------------------------------------------


@pytest.mark.parametrize(("B", "H", "heads"), [(0, 4, 1), (1, 0, 1), (1, 4, 0)], ids=str)
def test_empty(B, H, heads):
    qkv, table = (x.float().requires_grad_() for x in inputs(B, H, 4, heads, 8))
    for function in (window_attention, window_attention_eager):
        out = function(qkv, table, 2, 1)
        assert out.shape == (B, H, 4, heads * 8)
        grads = torch.autograd.grad(out.sum(), (qkv, table))
        assert not any(grad.any() for grad in grads)


def test_a_window_of_one_cell_returns_the_values():
    qkv, table = (x.float() for x in inputs(H=2, W=3, D=5, window=1))
    assert_close(window_attention(qkv, table, 1), qkv[..., 2, 0, :])


def test_a_table_of_minus_infinity_gives_zeros():
    qkv, table = (x.float() for x in inputs(H=3, W=3, D=8, window=3))
    found = with_gradients(
        lambda *x: window_attention(*x, 3), qkv, torch.full_like(table, -math.inf), torch.ones(9)[0]
        .expand(1, 3, 3, 8)
    )  # fmt: skip
    assert not any(x.any() for x in found)
    table[4] = -math.inf  # a cell does not see itself, but the others
    grad = torch.randn(1, 3, 3, 8)
    found = with_gradients(lambda *x: window_attention(*x, 3), qkv, table, grad)
    expected = with_gradients(lambda *x: by_definition(*x, 3, 0), qkv, table, grad)
    assert_near(found, expected, 2e-6)


@pytest.mark.parametrize("factor", [1e4, 1e-4])
def test_large_and_small_scores(factor):
    qkv, table = inputs(H=3, W=6, D=8, window=3)
    qkv[..., 0, :, :] *= factor
    grad = torch.randn(1, 3, 6, 8)
    qkv, table = qkv.float(), table.float()
    found = with_gradients(lambda *x: window_attention(*x, 3, 1), qkv, table, grad)
    expected = with_gradients(lambda *x: by_definition(*x, 3, 1), qkv, table, grad)
    assert_near(found, expected, 2e-3 if factor > 1 else 2e-6)


def strided(x, kind):
    if kind == "channels first":  # a token is not one piece: copied
        return x.flatten(3).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1).reshape(x.shape)
    if kind == "crop":
        B, H, W, _, heads, D = x.shape
        larger = x.new_full((B, H + 2, W + 4, 3, heads, D), torch.nan)
        larger[:, 1 : H + 1, 2 : W + 2] = x
        return larger[:, 1 : H + 1, 2 : W + 2]
    if kind == "odd offset":
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    return x.transpose(1, 2).contiguous().transpose(1, 2)  # columns of the map before rows


@pytest.mark.parametrize("kind", ["channels first", "crop", "odd offset", "transposed"])
def test_strides(kind):
    qkv, table = (x.float() for x in inputs(2, 2, 4, 2, 8, seed=1))
    other = strided(qkv, kind)
    assert torch.equal(other, qkv)
    copied = module._aligned(other) is not other
    assert copied == (kind in ("channels first", "odd offset"))
    wide = table.repeat_interleave(2, 1)[:, ::2]  # strided as well
    grad = torch.randn(2, 6, 2, 16).transpose(1, 2)[:, :, :4]  # as are the gradients
    found = with_gradients(lambda *x: window_attention(*x, 2, 1), other, wide, grad)
    expected = with_gradients(lambda *x: by_definition(*x, 2, 1), qkv, table, grad)
    assert_near(found, expected, 2e-6)
    assert found[1].is_contiguous()


@pytest.mark.parametrize("function", [window_attention, window_attention_eager])
def test_inference_first_and_training_afterwards(function):
    module._table_index.cache_clear()
    module._apart.cache_clear()
    qkv, table = (x.float() for x in inputs(D=8))
    with torch.inference_mode():
        expected = function(qkv, table, 2, 1)
    found = with_gradients(lambda *x: function(*x, 2, 1), qkv, table, torch.ones(1, 4, 4, 8))
    assert torch.equal(found[0], expected) and found[2].any()


def test_arguments_are_left_alone():
    qkv, table = (x.float().requires_grad_() for x in inputs(D=8))
    before = qkv.detach().clone(), table.detach().clone()
    window_attention(qkv, table, 2, 1).sum().backward()
    assert torch.equal(before[0], qkv) and torch.equal(before[1], table)


# Bad input ----------------------------------------------------------------------

BAD = [
    (dict(qkv=torch.zeros(4, 4, 3, 1, 8)), ValueError, r"\(4, 4, 3, 1, 8\)"),
    (dict(qkv=torch.zeros(1, 4, 4, 2, 1, 8)), ValueError, r"\(1, 4, 4, 2, 1, 8\)"),
    (dict(qkv=torch.zeros(1, 4, 5, 3, 1, 8)), ValueError, r"window 2 \(pad the map\), got 4, 5"),
    (dict(qkv=torch.zeros(1, 3, 4, 3, 1, 8)), ValueError, r"window 2 \(pad the map\), got 3, 4"),
    (dict(window=0), ValueError, "window must be positive, got 0"),
    (dict(shift=2), ValueError, "shift must be 0 to 1, got 2"),
    (dict(shift=-1), ValueError, "shift must be 0 to 1, got -1"),
    (dict(bias_table=torch.zeros(4, 1)), ValueError, r"must be \(9, 1\), got \(4, 1\)"),
    (dict(bias_table=torch.zeros(9, 2)), ValueError, r"must be \(9, 1\), got \(9, 2\)"),
    (dict(bias_table=torch.zeros(9, 1, device="meta")), ValueError, "same device, got cpu, meta"),
]
BAD_FOR_THE_KERNEL = [
    (dict(qkv=torch.zeros(1, 4, 4, 3, 1, 65)), ValueError, "D must be 1 to 64, got 65"),
    (dict(qkv=torch.zeros(1, 4, 4, 3, 1, 0)), ValueError, "D must be 1 to 64, got 0"),
    (dict(qkv=torch.zeros(1, 4, 4, 3, 1, 8, dtype=torch.float64)), TypeError, "got torch.float64"),
    (dict(bias_table=torch.zeros(9, 1, dtype=torch.int32)), TypeError, "got torch.int32"),
    (
        dict(
            window=17, qkv=torch.zeros(1, 17, 17, 3, 1, 8), bias_table=torch.zeros(33 * 33, 1)
        ),
        ValueError,
        "at most 16, got 17",
    ),
    (
        dict(qkv=torch.zeros(1).expand(1, 2**15, 2**15, 3, 1, 8)),
        ValueError,
        r"fewer than 2\*\*31 .* got \(1, 32768, 32768, 3, 1, 8\)",
    ),
]  # fmt: skip


@pytest.mark.parametrize("function", [window_attention, window_attention_eager])
@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(function, change, error, message):
    good = dict(qkv=torch.zeros(1, 4, 4, 3, 1, 8), bias_table=torch.zeros(9, 1), window=2, shift=1)
    with pytest.raises(error, match=message):
        function(**(good | change))


@pytest.mark.parametrize(("change", "error", "message"), BAD_FOR_THE_KERNEL)
def test_bad_input_for_the_kernel(change, error, message):
    test_bad_input(window_attention, change, error, message)


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch):
    qkv, table = (x.float() for x in inputs(D=8))
    monkeypatch.setattr(module, "INTERPRETED", tl.constexpr(False))
    with pytest.raises(ValueError, match="got cpu; .* TRITON_INTERPRET=1"):
        window_attention(qkv, table, 2)
