# pyright: basic, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
"""Window attention of Swin as one kernel: shift, partition, bias, mask and their inverses fused.

Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
       ICCV 2021, section 3.2, eq. (4), figs. 2 and 4. https://arxiv.org/abs/2103.14030
       Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
       NeurIPS 2022 (recompute in the backward pass). https://arxiv.org/abs/2205.14135
Needs: Python >= 3.10, torch >= 2.8 on Linux with a CUDA GPU (its Triton >= 3.4), nothing else;
       copy this file as it is. Without a GPU: TRITON_INTERPRET=1 in the environment.
Axes:  B batch, H and W map, T = window * window tokens of a window, D width of a head.
"""

# --8<-- [start:imports]
import functools
import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

if __name__ == "__main__" and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # lets the demo run on a CPU, one operation at a time

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LOG2E = tl.constexpr(math.log2(math.e))  # exp(x) = exp2(x * LOG2E); the hardware has exp2
LOWEST = tl.constexpr(-1e30)  # a maximum over nothing, finite
# --8<-- [end:imports]

__all__ = ["window_attention", "window_attention_eager"]


# --8<-- [start:eager]
def window_attention_eager(
    qkv: Tensor,
    bias_table: Tensor,
    window: int = 7,
    shift: int = 0,
    scale: float | None = None,
    excluded: float = -math.inf,
) -> Tensor:
    """The same function step by step, as Swin's code does it; each step is a tensor in memory.

    Arguments and result as in `window_attention`, on any device, in float64 as well.
    `excluded` is added to the score of a pair from two regions; Swin's code has -100.0.
    """
    _check(qkv, bias_table, window, shift)
    B, H, W, _, heads, D = qkv.shape
    rows, columns, T = H // window, W // window, window * window
    scale = _scale(scale, D)
    x = qkv.roll((-shift, -shift), (1, 2)) if shift else qkv
    x = x.reshape(B, rows, window, columns, window, 3, heads, D).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = x.reshape(3, B, rows * columns, heads, T, D).unbind()
    scores = (q * scale) @ k.transpose(-2, -1)  # (B, rows*columns, heads, T, T)
    bias = bias_table[_table_index(window, qkv.device)]  # (T, T, heads)
    scores = scores + bias.permute(2, 0, 1).to(scores.dtype)
    if shift:
        apart = _apart(H, W, window, shift, qkv.device).unsqueeze(1)  # (rows*columns, 1, T, T)
        scores = scores + torch.where(apart, excluded, 0.0).to(scores.dtype)
    out = scores.softmax(dim=-1) @ v  # (B, rows*columns, heads, T, D)
    out = out.reshape(B, rows, columns, heads, window, window, D).permute(0, 1, 4, 2, 5, 3, 6)
    out = out.reshape(B, H, W, heads * D)
    return out.roll((shift, shift), (1, 2)) if shift else out


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: later calls may need a gradient
def _table_index(window: int, device: torch.device) -> Tensor:
    """Row of the bias table for each query and key of a window, (T, T)."""
    token = torch.arange(window * window, device=device)
    dy = token[:, None] // window - token // window  # (T, T), query minus key
    dx = token[:, None] % window - token % window
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def _apart(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Pairs of a window that are neighbours only by the cyclic shift, (windows, T, T)."""
    y = (torch.arange(height, device=device) >= height - shift).long()
    x = (torch.arange(width, device=device) >= width - shift).long()
    region = 2 * y[:, None] + x  # (H, W) of the shifted map
    region = region.reshape(height // window, window, width // window, window)
    region = region.transpose(1, 2).reshape(-1, window * window)  # (windows, T)
    return region[:, :, None] != region[:, None, :]


def _scale(scale: float | None, D: int) -> float:
    return float(D) ** -0.5 if scale is None else scale


# --8<-- [end:eager]


# --8<-- [start:tile]
@triton.jit
def _dot(a, b, acc):
    if INTERPRETED:  # which would multiply the bits of a bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _shifted(token, position, W, WINDOW: tl.constexpr):
    """Row and column of a window's tokens on the shifted map."""
    y = position // (W // WINDOW) * WINDOW + token // WINDOW
    x = position % (W // WINDOW) * WINDOW + token % WINDOW
    return y, x


@triton.jit
def _place(token, position, H, W, shift, WINDOW: tl.constexpr):
    """Row and column of a window's tokens on the map itself: the shift is undone."""
    y, x = _shifted(token, position, W, WINDOW)
    return (y + shift) % H, (x + shift) % W


@triton.jit
def _region(token, position, H, W, shift, WINDOW: tl.constexpr):
    """Which tokens came round from the other end, in y (2) and in x (1)."""
    y, x = _shifted(token, position, W, WINDOW)
    return 2 * (y >= H - shift).to(tl.int32) + (x >= W - shift).to(tl.int32)


@triton.jit
def _bias_and_mask(
    Table, head, position, query, key, H, W, shift,
    HEADS: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """What is added to the scores of a tile, times log2(e); (queries, keys)."""
    row = tl.arange(0, ROWS)
    real = row < (2 * WINDOW - 1) * (2 * WINDOW - 1)
    table = tl.load(Table + row * HEADS + head, mask=real, other=0.0)  # of this head
    dy = query[:, None] // WINDOW - key[None, :] // WINDOW
    dx = query[:, None] % WINDOW - key[None, :] % WINDOW
    row = (dy + WINDOW - 1) * (2 * WINDOW - 1) + dx + WINDOW - 1  # (queries, keys)
    real = (query < WINDOW * WINDOW)[:, None] & (key < WINDOW * WINDOW)[None, :]
    bias = tl.gather(table, tl.where(real, row, 0).reshape(row.numel), 0).reshape(row.shape)
    bias = bias.to(tl.float32) * LOG2E
    region_q = _region(query, position, H, W, shift, WINDOW)
    region_k = _region(key, position, H, W, shift, WINDOW)
    allowed = real & (region_q[:, None] == region_k[None, :])
    return tl.where(allowed, bias, float("-inf"))


# --8<-- [end:tile]


# --8<-- [start:forward]
@triton.jit
def _forward_kernel(
    Qkv, Table, Out, Lse, B, H, W, shift, stride_b, stride_y, stride_x, scale, images,
    HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # One program: one head, one position of the window, a few images.
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES
    program = tl.program_id(0)
    head = program % HEADS  # neighbours in the grid share the lines they read
    tile = program // HEADS % TILES
    position = program // (HEADS * TILES) % ((H // WINDOW) * (W // WINDOW))
    first = program // (HEADS * TILES) // ((H // WINDOW) * (W // WINDOW)) * images

    # All that depends on the position only is computed once.
    query = tile * QUERIES + tl.arange(0, QUERIES)
    key = tl.arange(0, KEYS)
    column = tl.arange(0, WIDTH)
    bias = _bias_and_mask(Table, head, position, query, key, H, W, shift, HEADS, WINDOW, ROWS)
    y, x = _place(query, position, H, W, shift, WINDOW)
    at_q = (y * stride_y + x * stride_x)[:, None] + (head * D + column)[None, :]
    at_out = (y * W + x)[:, None] * (HEADS * D) + (head * D + column)[None, :]
    y, x = _place(key, position, H, W, shift, WINDOW)
    at_k = (y * stride_y + x * stride_x)[:, None] + (head * D + column)[None, :]
    real_q = (query < TOKENS)[:, None] & (column < D)[None, :]
    real_k = (key < TOKENS)[:, None] & (column < D)[None, :]

    for step in tl.range(0, tl.minimum(images, B - first)):
        b = (first + step).to(tl.int64)
        qkv = Qkv + b * stride_b
        q = tl.load(qkv + at_q, mask=real_q, other=0.0)  # (QUERIES, WIDTH)
        k = tl.load(qkv + HEADS * D + at_k, mask=real_k, other=0.0)  # (KEYS, WIDTH)
        v = tl.load(qkv + 2 * HEADS * D + at_k, mask=real_k, other=0.0)
        scores = _dot(q, tl.trans(k), tl.zeros([QUERIES, KEYS], tl.float32))
        scores = scores * (scale * LOG2E) + bias
        top = tl.maximum(tl.max(scores, 1), LOWEST)  # (QUERIES,)
        weights = tl.exp2(scores - top[:, None])
        total = tl.sum(weights, 1)
        out = _dot(weights.to(v.dtype), v, tl.zeros([QUERIES, WIDTH], tl.float32))
        share = 1.0 / tl.where(total > 0, total, float("inf"))  # no key at all: 0, not nan
        out = out * share[:, None]
        to = Out + b * H * W * (HEADS * D)
        tl.store(to + at_out, out.to(Out.dtype.element_ty), mask=real_q)
        if Lse is not None:  # (B, positions, HEADS, TOKENS)
            lse = top + tl.log2(tl.maximum(total, 1e-30))
            row = (b * (H // WINDOW) * (W // WINDOW) + position) * HEADS + head
            tl.store(Lse + row * TOKENS + query, lse, mask=query < TOKENS)


# --8<-- [end:forward]


# --8<-- [start:backward]
@triton.jit
def _backward_kernel(
    Qkv, Table, Grad, Lse, GradQkv, GradBias,
    B, H, W, shift, stride_b, stride_y, stride_x, scale, images,
    HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # One program: one head, one position of the window, a few images, all queries.
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES
    program = tl.program_id(0)
    head = program % HEADS
    position = program // HEADS % ((H // WINDOW) * (W // WINDOW))
    first = program // HEADS // ((H // WINDOW) * (W // WINDOW)) * images

    key = tl.arange(0, KEYS)
    column = tl.arange(0, WIDTH)
    in_head = (head * D + column)[None, :]
    y, x = _place(key, position, H, W, shift, WINDOW)
    at_k = (y * stride_y + x * stride_x)[:, None] + in_head
    to_k = (y * W + x)[:, None] * (3 * HEADS * D) + in_head
    real_k = (key < TOKENS)[:, None] & (column < D)[None, :]
    query = tl.arange(0, QUERIES)
    bias = _bias_and_mask(Table, head, position, query, key, H, W, shift, HEADS, WINDOW, ROWS)
    pair = (head * TILES * QUERIES + query)[:, None] * KEYS + key[None, :]
    HELD: tl.constexpr = TILES == 1 and WIDTH <= 32  # else it does not fit beside the rest
    grad_bias = tl.zeros([QUERIES, KEYS], tl.float32)

    for step in tl.range(0, tl.minimum(images, B - first)):
        b = (first + step).to(tl.int64)
        qkv = Qkv + b * stride_b
        grad = Grad + b * H * W * (HEADS * D)
        to = GradQkv + b * H * W * (3 * HEADS * D)
        lines = Lse + ((b * (H // WINDOW) * (W // WINDOW) + position) * HEADS + head) * TOKENS
        k = tl.load(qkv + HEADS * D + at_k, mask=real_k, other=0.0)  # (KEYS, WIDTH)
        v = tl.load(qkv + 2 * HEADS * D + at_k, mask=real_k, other=0.0)
        grad_k = tl.zeros([KEYS, WIDTH], tl.float32)
        grad_v = tl.zeros([KEYS, WIDTH], tl.float32)
        for tile in tl.range(0, TILES):
            row = tile * QUERIES + query
            more = bias
            if TILES > 1:
                more = _bias_and_mask(
                    Table, head, position, row, key, H, W, shift, HEADS, WINDOW, ROWS
                )
            y_q, x_q = _place(row, position, H, W, shift, WINDOW)
            real_q = (row < TOKENS)[:, None] & (column < D)[None, :]
            at_q = (y_q * stride_y + x_q * stride_x)[:, None] + in_head
            q = tl.load(qkv + at_q, mask=real_q, other=0.0)  # (QUERIES, WIDTH)
            at_out = (y_q * W + x_q)[:, None] * (HEADS * D) + in_head
            grad_out = tl.load(grad + at_out, mask=real_q, other=0.0)
            lse = tl.load(lines + row, mask=row < TOKENS, other=float("inf"))

            scores = _dot(q, tl.trans(k), tl.zeros([QUERIES, KEYS], tl.float32))
            weights = tl.exp2(scores * (scale * LOG2E) + more - lse[:, None])
            grad_weights = _dot(grad_out, tl.trans(v), tl.zeros([QUERIES, KEYS], tl.float32))
            mean = tl.sum(weights * grad_weights, 1)  # all keys are here: no output is needed
            grad_scores = weights * (grad_weights - mean[:, None])  # (QUERIES, KEYS)
            if HELD:
                grad_bias += grad_scores
            else:
                tl.atomic_add(GradBias + pair + tile * QUERIES * KEYS, grad_scores, sem="relaxed")
            grad_scores = grad_scores.to(q.dtype)
            grad_v = _dot(tl.trans(weights.to(v.dtype)), grad_out, grad_v)
            grad_q = _dot(grad_scores, k, tl.zeros([QUERIES, WIDTH], tl.float32)) * scale
            grad_k = _dot(tl.trans(grad_scores), q, grad_k)
            to_q = (y_q * W + x_q)[:, None] * (3 * HEADS * D) + in_head
            tl.store(to + to_q, grad_q.to(GradQkv.dtype.element_ty), mask=real_q)
        grad_k = (grad_k * scale).to(GradQkv.dtype.element_ty)
        tl.store(to + HEADS * D + to_k, grad_k, mask=real_k)
        grad_v = grad_v.to(GradQkv.dtype.element_ty)
        tl.store(to + 2 * HEADS * D + to_k, grad_v, mask=real_k)
    if HELD:
        tl.atomic_add(GradBias + pair, grad_bias, sem="relaxed")


# --8<-- [end:backward]


# --8<-- [start:launch]
@dataclass(frozen=True)
class _Config:
    """How a kernel is launched."""

    queries: int  # rows of the tile of scores
    keys: int  # its columns: all keys of the window, padded to a power of two
    warps: int
    stages: int  # images loaded ahead, plus one
    programs: int  # wanted for each multiprocessor
    images: int | None = None  # for each program; None: what gives that many programs


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _config(qkv: Tensor, window: int, backward: bool) -> _Config:
    """Tiles that the registers hold, as the compiler says: see the assertions of the test."""
    keys = max(16, _power_of_2(window * window))
    queries = 16 if keys > (64 if backward else 128) else min(keys, 64)
    wide = qkv.dtype == torch.float32 or (backward and keys > 64)
    return _Config(queries, keys, warps=8 if wide else 4, stages=1 if wide else 2, programs=8)


def _launch(kernel, config, qkv, window, shift, scale, tiles, *tensors) -> None:
    B, H, W, _, heads, D = qkv.shape
    each = heads * tiles * (H // window) * (W // window)  # programs for one image
    images = config.images or max(1, B * each // (config.programs * _multiprocessors(qkv.device)))
    parts = triton.cdiv(B, images)
    grid = (each * parts,)
    if not grid[0]:
        return
    with torch.cuda.device_of(qkv):
        kernel[grid](
            qkv, *tensors, B, H, W, shift, *qkv.stride()[:3], scale, triton.cdiv(B, parts),
            HEADS=heads, D=D, WINDOW=window, QUERIES=config.queries, KEYS=config.keys,
            WIDTH=max(16, _power_of_2(D)),
            ROWS=_power_of_2((2 * window - 1) ** 2),
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip


def _forward(
    qkv: Tensor,
    bias_table: Tensor,
    window: int,
    shift: int,
    scale: float,
    training: bool,
    config: _Config | None = None,
) -> tuple[Tensor, Tensor]:
    """Output (B, H, W, heads*D); log2 of the softmax's denominators, (0,) if not training."""
    qkv, bias_table = _aligned(qkv), bias_table.contiguous()
    config = config or _config(qkv, window, backward=False)
    B, H, W, _, heads, D = qkv.shape
    out = qkv.new_empty(B, H, W, heads * D)
    lse = qkv.new_empty(B * H * W * heads if training else 0, dtype=torch.float32)
    tiles = triton.cdiv(window * window, config.queries)
    tensors = (bias_table, out, lse if training else None)
    _launch(_forward_kernel, config, qkv, window, shift, scale, tiles, *tensors)
    return out, lse


def _backward(
    grad: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    lse: Tensor,
    window: int,
    shift: int,
    scale: float,
    config: _Config | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv and of the bias table."""
    qkv, bias_table, grad = _aligned(qkv), bias_table.contiguous(), grad.contiguous()
    config = config or _config(qkv, window, backward=True)
    T, heads = window * window, qkv.shape[4]
    rows = -(-T // config.queries) * config.queries
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    pairs = qkv.new_zeros(heads, rows, config.keys, dtype=torch.float32)
    tensors = (bias_table, grad, lse, grad_qkv, pairs)
    _launch(_backward_kernel, config, qkv, window, shift, scale, 1, *tensors)
    grad_table = pairs.new_zeros(bias_table.shape)
    pairs = pairs[:, :T, :T].flatten(1).T  # (T*T, heads): sum those with the same offset
    grad_table.index_add_(0, _table_index(window, qkv.device).flatten(), pairs)
    return grad_qkv, grad_table.to(bias_table.dtype)


def _aligned(qkv: Tensor) -> Tensor:
    """The tensor itself where each token is one piece and starts at 16 bytes, else a copy."""
    _, H, W, _, heads, D = qkv.shape
    width = 16 // qkv.element_size()
    whole = qkv.stride()[3:] == (heads * D, D, 1) and qkv.data_ptr() % 16 == 0
    whole = whole and not any(stride % width for stride in qkv.stride()[:3])
    near = H * qkv.stride(1) + W * qkv.stride(2) < 2**31  # places within an image are int32
    return qkv if whole and near else qkv.clone(memory_format=torch.contiguous_format)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


# --8<-- [end:launch]


# --8<-- [start:core]
def window_attention(
    qkv: Tensor,
    bias_table: Tensor,
    window: int = 7,
    shift: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attention within the windows of a map, shifted or not, with a relative position bias.

    Args:
        qkv: queries, keys and values as Swin's linear layer gives them, (B, H, W, 3, heads, D),
            neither shifted nor partitioned; float16, bfloat16 or float32 (exact, slower);
            D up to 64. H and W are multiples of the window.
        bias_table: (2*window - 1)**2 rows, a column for each head. For a query at (y, x) and a
            key at (y - dy, x - dx) the row is (dy + window - 1) * (2*window - 1) + dx + window - 1.
        window: height and width of a window, at most 16.
        shift: cells by which the windows are moved down and right, 0 to window - 1; Swin has
            window // 2 in every second layer, and 0 where one window covers the map. Pairs that
            only the wrap-around brings together do not attend (-100 is added in Swin's code).
        scale: of the scores; None: 1 / sqrt(D).

    Returns:
        (B, H, W, heads*D), in place and ready for the output projection.

    Raises:
        ValueError: sizes do not fit; a tensor is not on a GPU (and Triton does not interpret).
        TypeError: the dtype is not one of the three.

    Gradients of qkv and bias_table can be had once; the gradient of a gradient raises. That of
    bias_table is added up in an order that changes from run to run, so its last bits do too;
    torch.use_deterministic_algorithms does not notice.
    """
    _check(qkv, bias_table, window, shift)
    _check_kernel(qkv, bias_table, window)
    scale = _scale(scale, qkv.shape[5])
    training = torch.is_grad_enabled() and (qkv.requires_grad or bias_table.requires_grad)
    return _forward_op(qkv, bias_table, window, shift, scale, training)[0]


NAME = "runnable_dl::" + __name__.replace(".", "_")  # a copy of this file has a name of its own


@torch.library.custom_op(f"{NAME}_forward", mutates_args=())
def _forward_op(
    qkv: Tensor, bias_table: Tensor, window: int, shift: int, scale: float, training: bool
) -> tuple[Tensor, Tensor]:
    return _forward(qkv, bias_table, window, shift, scale, training)


@torch.library.custom_op(f"{NAME}_backward", mutates_args=())
def _backward_op(
    grad: Tensor, qkv: Tensor, bias_table: Tensor, lse: Tensor,
    window: int, shift: int, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _backward(grad, qkv, bias_table, lse, window, shift, scale)


@_forward_op.register_fake
def _(qkv, bias_table, window, shift, scale, training):
    B, H, W, _, heads, D = qkv.shape
    lse = qkv.new_empty(B * H * W * heads if training else 0, dtype=torch.float32)
    return qkv.new_empty(B, H, W, heads * D), lse


@_backward_op.register_fake
def _(grad, qkv, bias_table, lse, window, shift, scale):
    return qkv.new_empty(qkv.shape), bias_table.new_empty(bias_table.shape)


def _save(ctx, inputs, output) -> None:
    qkv, bias_table, *ctx.options, _ = inputs
    ctx.save_for_backward(qkv, bias_table, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad, _):
    return *_backward_op(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


_forward_op.register_autograd(_differentiate, setup_context=_save)
# --8<-- [end:core]


def _check(qkv: Tensor, bias_table: Tensor, window: int, shift: int) -> None:
    if qkv.ndim != 6 or qkv.shape[3] != 3:
        raise ValueError(f"qkv must be (B, H, W, 3, heads, D), got {tuple(qkv.shape)}")
    H, W = qkv.shape[1:3]
    if window < 1:
        raise ValueError(f"window must be positive, got {window}")
    if H % window or W % window:
        raise ValueError(
            f"H and W must be multiples of the window {window} (pad the map), got {H}, {W}"
        )
    if not 0 <= shift < window:
        raise ValueError(f"shift must be 0 to {window - 1}, got {shift}")
    wanted = ((2 * window - 1) ** 2, qkv.shape[4])
    if tuple(bias_table.shape) != wanted:
        raise ValueError(f"bias_table must be {wanted}, got {tuple(bias_table.shape)}")
    if bias_table.device != qkv.device:
        devices = f"{qkv.device}, {bias_table.device}"
        raise ValueError(f"qkv and bias_table must be on the same device, got {devices}")


def _check_kernel(qkv: Tensor, bias_table: Tensor, window: int) -> None:
    if window > 16:
        raise ValueError(f"window must be at most 16, got {window}")
    if not 1 <= qkv.shape[5] <= 64:
        raise ValueError(f"D must be 1 to 64, got {qkv.shape[5]}")
    if qkv.shape[1:].numel() >= 2**31:
        raise ValueError(f"an image must have fewer than 2**31 numbers, got {tuple(qkv.shape)}")
    for name, x in (("qkv", qkv), ("bias_table", bias_table)):
        if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise TypeError(f"{name} must be float16, bfloat16 or float32, got {x.dtype}")
    if qkv.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(
            f"qkv must be on a CUDA device, got {qkv.device}; move it there, or set "
            "TRITON_INTERPRET=1 in the environment before Triton is imported"
        )


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    qkv = torch.randn(2, 8, 8, 3, 2, 16, generator=generator).to(device)  # (B, H, W, 3, heads, D)
    bias_table = torch.randn(49, 2, generator=generator).to(device)  # 49 = (2 * 4 - 1)**2
    out = window_attention(qkv, bias_table, window=4, shift=2)
    print(tuple(out.shape))

    same = window_attention_eager(qkv, bias_table, window=4, shift=2)
    print(f"{(out - same).abs().max().item() < 1e-5}")
    # --8<-- [end:demo]
