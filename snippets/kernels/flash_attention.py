# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
"""FlashAttention, forward and backward, in Triton: exact attention whose scores never reach memory.

Paper: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
       NeurIPS 2022. https://arxiv.org/abs/2205.14135
       Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
       ICLR 2024. https://arxiv.org/abs/2307.08691
Needs: Python >= 3.10, torch >= 2.8 on Linux with a CUDA GPU (its Triton >= 3.4), nothing else;
       copy this file as it is. On a CPU: set TRITON_INTERPRET=1 before Python starts.
Axes:  B batch, H query heads, G key-value heads, N queries, M keys, D width of a head.
"""

# --8<-- [start:imports]
import math
import os
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

if __name__ == "__main__" and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # lets the demo run on a CPU, one operation at a time

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# --8<-- [end:imports]

__all__ = ["band_attention", "flash_attention"]


# --8<-- [start:tile]
@triton.jit
def _dot(a, b, acc=None):
    if INTERPRETED:  # it would multiply the bits of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _attend(
    acc, total, peak, q, K, V, b, g, low, high, begin, end, scale,
    LEFT: tl.constexpr, MASKED: tl.constexpr, BLOCK_K: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """One tile of queries meets the keys from `begin` to `end`: the online softmax."""
    columns = tl.arange(0, BLOCK_K)
    for start in tl.range(begin, end, BLOCK_K, warp_specialize=SPECIALIZED):
        k = K.load([b, g, start, 0]).reshape([BLOCK_K, q.shape[1]])
        scores = _dot(q, k.T)  # (BLOCK_Q, BLOCK_K)
        if MASKED:
            visible = columns[None, :] <= (high - start)[:, None]
            if LEFT >= 0:
                visible &= columns[None, :] >= (low - start)[:, None]
            scores = tl.where(visible, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1) * scale)  # (BLOCK_Q,)
        shift = new_peak
        if MASKED:
            shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # no key seen so far
        weights = tl.exp2(scores * scale - shift[:, None])  # (BLOCK_Q, BLOCK_K)
        decay = tl.exp2(peak - shift)  # (BLOCK_Q,)
        total = total * decay + tl.sum(weights, 1)
        acc = acc * decay[:, None]
        v = V.load([b, g, start, 0]).reshape([BLOCK_K, q.shape[1]])
        acc = _dot(weights.to(v.dtype), v, acc)  # (BLOCK_Q, BLOCK_D)
        peak = new_peak
    return acc, total, peak


# --8<-- [end:tile]


# --8<-- [start:forward]
@triton.jit
def _forward_kernel(
    Q, K, V, Out, LSE, q_b, q_h, q_n, o_b, o_h, o_n, H, G, N, M, scale,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, WHOLE: tl.constexpr, D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    SPECIALIZED: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs share keys and values; the last queries, with most keys, come first.
    program, tiles, group = tl.program_id(0), tl.cdiv(N, BLOCK_Q), H // G
    tile = tiles - 1 - program // group % tiles
    g = program // (group * tiles) % G
    b = program // (group * tiles * G)
    h = g * group + program % group
    first = tile * BLOCK_Q
    last = first + BLOCK_Q - 1
    # Not `first + tl.arange(0, BLOCK_Q)`: halving the tile for two consumers, Triton 3.6 adds half
    # a tile to `first` where q is loaded, and once more wherever a vector is made of `first`.
    rows = last - (BLOCK_Q - 1 - tl.arange(0, BLOCK_Q))

    # Query i sees the keys low[i] to high[i]. The tile visits those that some row sees; from
    # inner_begin to inner_end all rows see all keys, and there is nothing to mask.
    offset = M - N
    low, high = rows * 0, rows * 0 + (M - 1)
    begin, end, inner_begin, inner_end = 0, M, 0, M
    if LEFT >= 0:
        low = rows + (offset - LEFT)
        begin = tl.maximum(first + offset - LEFT, 0) // BLOCK_K * BLOCK_K
        inner_begin = tl.cdiv(tl.maximum(last + offset - LEFT, 0), BLOCK_K) * BLOCK_K
    if RIGHT >= 0:
        high = tl.minimum(rows + (offset + RIGHT), M - 1)
        end = tl.maximum(tl.minimum(last + offset + RIGHT + 1, M), 0)
        inner_end = tl.maximum(tl.minimum(first + offset + RIGHT + 1, M), 0)
    inner_begin = tl.minimum(inner_begin, tl.cdiv(end, BLOCK_K) * BLOCK_K)
    inner_end = tl.maximum(inner_begin, inner_end // BLOCK_K * BLOCK_K)

    head = Q + b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    queries = tl.make_tensor_descriptor(head, [N, D], [q_n, 1], [BLOCK_Q, BLOCK_D])
    q = queries.load([first, 0])  # (BLOCK_Q, BLOCK_D), zeros beyond N and D
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    if SPECIALIZED:  # the compiler takes one loop only: that one has to mask every tile
        acc, total, peak = _attend(
            acc, total, peak, q, K, V, b, g, low, high, begin, end, scale,
            LEFT, LEFT >= 0 or RIGHT >= 0 or not WHOLE, BLOCK_K, True,
        )  # fmt: skip
    else:
        if LEFT >= 0:
            acc, total, peak = _attend(
                acc, total, peak, q, K, V, b, g, low, high, begin, inner_begin, scale,
                LEFT, True, BLOCK_K, False,
            )  # fmt: skip
        acc, total, peak = _attend(
            acc, total, peak, q, K, V, b, g, low, high, inner_begin, inner_end, scale,
            LEFT, False, BLOCK_K, False,
        )  # fmt: skip
        if RIGHT >= 0 or not WHOLE:
            acc, total, peak = _attend(
                acc, total, peak, q, K, V, b, g, low, high, inner_end, end, scale,
                LEFT, True, BLOCK_K, False,
            )  # fmt: skip

    blind = total == 0.0  # queries that see no key: their output is 0
    total = tl.where(blind, 1.0, total)
    lse = (peak + tl.log2(total)) / scale  # of the scores before scaling
    lse = tl.where(blind, float("inf"), lse)  # later exp2(score - inf) = 0
    tl.store(LSE + (b * H + h).to(tl.int64) * N + rows, lse, mask=rows < N)
    d = tl.arange(0, BLOCK_D)
    head = Out + b.to(tl.int64) * o_b + h.to(tl.int64) * o_h
    place = head + rows[:, None].to(tl.int64) * o_n + d[None, :]
    out = (acc / total[:, None]).to(Out.dtype.element_ty)
    tl.store(place, out, mask=(rows < N)[:, None] & (d < D)[None, :])


# --8<-- [end:forward]


# --8<-- [start:delta]
@triton.jit
def _delta_kernel(
    Out, dO, DELTA, o_b, o_h, o_n, do_b, do_h, do_n, H, N,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    program, tiles = tl.program_id(0), tl.cdiv(N, BLOCK_Q)
    rows = program % tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    bh = (program // tiles).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    inside = (rows < N)[:, None] & (d < D)[None, :]
    o = Out + bh // H * o_b + bh % H * o_h + rows[:, None].to(tl.int64) * o_n + d[None, :]
    do = dO + bh // H * do_b + bh % H * do_h + rows[:, None].to(tl.int64) * do_n + d[None, :]
    o = tl.load(o, mask=inside, other=0.0).to(tl.float32)  # (BLOCK_Q, BLOCK_D)
    do = tl.load(do, mask=inside, other=0.0).to(tl.float32)
    tl.store(DELTA + bh * N + rows, tl.sum(o * do, 1), mask=rows < N)


# --8<-- [end:delta]


# --8<-- [start:backward]
@triton.jit
def _differentiate(
    dk, dv, k, v, Q, dO, dQ, LSE, DELTA, b, h, low, high, begin, end, H, N, scale, log2_scale,
    RIGHT: tl.constexpr, MASKED: tl.constexpr, BLOCK_Q: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One tile of keys meets the queries from `begin` to `end` of one head."""
    BLOCK_D: tl.constexpr = k.shape[1]
    columns = tl.arange(0, BLOCK_Q)  # scores are transposed: one key a row, one query a column
    numbers = (b * H + h).to(tl.int64) * N
    for start in tl.range(begin, end, BLOCK_Q):
        q = Q.load([b, h, start, 0]).reshape([BLOCK_Q, BLOCK_D])
        rows = start + columns
        lse = tl.load(LSE + numbers + rows, mask=rows < N, other=float("inf"))
        # The sums start at -lse and -delta, which then need no registers of their own.
        scores = _dot(k, q.T, -tl.broadcast_to(lse[None, :], k.shape[0], BLOCK_Q))
        if MASKED:
            visible = columns[None, :] <= (high - start)[:, None]
            if RIGHT >= 0:
                visible &= columns[None, :] >= (low - start)[:, None]
            scores = tl.where(visible, scores, float("-inf"))
        weights = tl.exp2(scores * log2_scale)  # (BLOCK_K, BLOCK_Q): P, no running sums needed
        do = dO.load([b, h, start, 0]).reshape([BLOCK_Q, BLOCK_D])
        dv = _dot(weights.to(do.dtype), do, dv)  # (BLOCK_K, BLOCK_D)
        delta = tl.load(DELTA + numbers + rows, mask=rows < N, other=0.0)
        ds = weights * _dot(v, do.T, -tl.broadcast_to(delta[None, :], k.shape[0], BLOCK_Q))
        ds = ds.to(q.dtype)  # dS = P (dP - delta)
        dk = _dot(ds, q, dk)  # (BLOCK_K, BLOCK_D)
        dq = _dot(ds.T, k) * scale  # (BLOCK_Q, BLOCK_D), the share of this tile of keys
        if INTERPRETED:
            d = tl.arange(0, BLOCK_D)
            place = dQ + (numbers + rows)[:, None] * D + d[None, :]
            inside = (rows < N)[:, None] & (d < D)[None, :]
            tl.atomic_add(place, dq, mask=inside, sem="relaxed")
        else:  # the memory engine adds the tile to dQ, in the second-level cache
            dQ.atomic_add([b, h, start, 0], dq.reshape([1, 1, BLOCK_Q, BLOCK_D]))
    return dk, dv


@triton.jit
def _backward_kernel(
    Q, K, V, dO, dQ, dK, dV, LSE, DELTA, H, G, N, M, scale, log2_scale,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, WHOLE: tl.constexpr, D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # The first keys, which most queries see, come first.
    program, tiles = tl.program_id(0), tl.cdiv(M, BLOCK_K)
    first = program % tiles * BLOCK_K
    last = first + BLOCK_K - 1
    g = program // tiles % G
    b = program // (tiles * G)
    rows = first + tl.arange(0, BLOCK_K)

    # Key j is seen by the queries low[j] to high[j]: the forward pass in a mirror.
    offset = N - M
    low, high = rows * 0, rows * 0 + (N - 1)
    begin, end, inner_begin, inner_end = 0, N, 0, N
    if RIGHT >= 0:
        low = rows + (offset - RIGHT)
        begin = tl.maximum(first + offset - RIGHT, 0) // BLOCK_Q * BLOCK_Q
        inner_begin = tl.cdiv(tl.maximum(last + offset - RIGHT, 0), BLOCK_Q) * BLOCK_Q
    if LEFT >= 0:
        high = rows + (offset + LEFT)
        end = tl.maximum(tl.minimum(last + offset + LEFT + 1, N), 0)
        inner_end = tl.maximum(tl.minimum(first + offset + LEFT + 1, N), 0) // BLOCK_Q * BLOCK_Q
    stop = tl.cdiv(end, BLOCK_Q) * BLOCK_Q  # queries beyond N need no mask: their lse is infinite
    if not WHOLE:  # a tile that reaches beyond the keys is masked all the way
        high = tl.where(rows < M, high, -1)
        inner_begin = tl.where(last < M, inner_begin, stop)
    inner_begin = tl.minimum(inner_begin, stop)
    inner_end = tl.maximum(inner_begin, inner_end)

    k = K.load([b, g, first, 0]).reshape([BLOCK_K, BLOCK_D])
    v = V.load([b, g, first, 0]).reshape([BLOCK_K, BLOCK_D])
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    for h in range(g * (H // G), (g + 1) * (H // G)):  # the heads that share these keys
        if RIGHT >= 0 or not WHOLE:
            dk, dv = _differentiate(
                dk, dv, k, v, Q, dO, dQ, LSE, DELTA, b, h, low, high, begin, inner_begin,
                H, N, scale, log2_scale, RIGHT, True, BLOCK_Q, D,
            )  # fmt: skip
        dk, dv = _differentiate(
            dk, dv, k, v, Q, dO, dQ, LSE, DELTA, b, h, low, high, inner_begin, inner_end,
            H, N, scale, log2_scale, RIGHT, False, BLOCK_Q, D,
        )  # fmt: skip
        if LEFT >= 0:
            dk, dv = _differentiate(
                dk, dv, k, v, Q, dO, dQ, LSE, DELTA, b, h, low, high, inner_end, end,
                H, N, scale, log2_scale, RIGHT, True, BLOCK_Q, D,
            )  # fmt: skip
    dK.store([b, g, first, 0], (dk * scale).to(dK.dtype).reshape([1, 1, BLOCK_K, BLOCK_D]))
    dV.store([b, g, first, 0], dv.to(dV.dtype).reshape([1, 1, BLOCK_K, BLOCK_D]))


# --8<-- [end:backward]


# --8<-- [start:config]
@dataclass(frozen=True)
class _Config:
    block_q: int
    block_k: int
    warps: int
    stages: int  # buffers for tiles
    specialized: bool = False  # a producer and two consumers: Hopper, forward, 4 warps, 128 queries


_CONFIGS = {  # by compute capability, for heads of up to 32, 64, 128 and 256 columns
    ("forward", (9, 0)): (
        _Config(128, 128, 4, 3, specialized=True),
        _Config(128, 128, 4, 3, specialized=True),
        _Config(128, 128, 4, 2, specialized=True),
        _Config(128, 64, 4, 2, specialized=True),
    ),
    ("backward", (9, 0)): (
        _Config(128, 128, 8, 2),
        _Config(128, 128, 8, 2),
        _Config(64, 128, 8, 2),
        _Config(32, 64, 8, 2),
    ),
    ("forward", (10, 0)): (
        _Config(128, 128, 8, 3),
        _Config(128, 128, 8, 3),
        _Config(128, 128, 8, 2),
        _Config(128, 64, 8, 2),
    ),
    ("backward", (10, 0)): (
        _Config(64, 128, 8, 2),
        _Config(64, 64, 4, 2),
        _Config(64, 64, 8, 1),
        _Config(32, 64, 8, 2),
    ),
    # Any other, consumer cards with 99 KiB of shared memory among them: correct, not tuned.
    ("forward", None): (
        _Config(128, 64, 4, 2),
        _Config(128, 64, 8, 2),
        _Config(128, 32, 8, 2),
        _Config(64, 16, 8, 2),
    ),
    ("backward", None): (
        _Config(32, 128, 8, 2),
        _Config(32, 64, 8, 2),
        _Config(32, 32, 8, 2),
        _Config(16, 16, 8, 2),
    ),
}
# --8<-- [end:config]


def _config(name: str, q: Tensor) -> _Config:
    """What "forward" or "backward" runs with on the GPU of q."""
    if INTERPRETED:
        return _Config(32, 16, 4, 1)
    if q.dtype == torch.float32:  # without matrix units
        return _Config(32, 16, 8, 1) if name == "forward" else _Config(16, 16, 8, 1)
    kind = torch.cuda.get_device_capability(q.device)
    configs = _CONFIGS.get((name, kind), _CONFIGS[name, None])
    config = configs[(32, 64, 128, 256).index(_block_d(q))]
    if config.specialized and not triton.__version__.startswith(("3.6.", "3.7.")):
        # Specialisation is young: what other versions make of it has not been looked at.
        config = replace(config, warps=8, specialized=False)
    return config


# --8<-- [start:launch]
def _forward(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int, scale: float,
    config: _Config | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output, (B, H, N, D), and log(sum(exp(scale * scores))) / scale, (B, H, N)."""
    config = config or _config("forward", q)
    q, k, v = (_aligned(x) for x in (q, k, v))
    (B, H, N, D), (G, M), width = q.shape, k.shape[1:3], _block_d(q)
    out, lse = torch.empty_like(q), q.new_empty(B, H, N, dtype=torch.float32)
    if 0 in (B, N, M):
        return out.zero_(), lse.fill_(math.inf)
    keys = [1, 1, config.block_k, width]
    with torch.cuda.device_of(q):
        triton.set_allocator(_workspace)  # for the descriptor made in the kernel
        _forward_kernel[(triton.cdiv(N, config.block_q) * H * B,)](
            q, _descriptor(k, keys), _descriptor(v, keys), out, lse,
            *_strides(q)[:3], *_strides(out)[:3], H, G, N, M, scale * math.log2(math.e),
            LEFT=left, RIGHT=right, WHOLE=M % config.block_k == 0, D=D,
            BLOCK_Q=config.block_q, BLOCK_K=config.block_k, BLOCK_D=width,
            SPECIALIZED=config.specialized, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return out, lse


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    left: int, right: int, scale: float, config: _Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v."""
    config = config or _config("backward", q)
    grad, q, k, v = (_aligned(x) for x in (grad, q, k, v))
    (B, H, N, D), (G, M), width = q.shape, k.shape[1:3], _block_d(q)
    dq = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    if 0 in (B, N, M):
        return dq.to(q.dtype), dk.zero_(), dv.zero_()
    if torch.are_deterministic_algorithms_enabled():
        text = "flash_attention sums the gradient of q in changing order: it is not deterministic"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(text)
        warnings.warn(text, stacklevel=2)
    delta = torch.empty_like(lse)
    queries, keys = [1, 1, config.block_q, width], [1, 1, config.block_k, width]
    with torch.cuda.device_of(q):
        _delta_kernel[(triton.cdiv(N, 32) * H * B,)](
            out, grad, delta, *_strides(out)[:3], *_strides(grad)[:3], H, N,
            D=D, BLOCK_Q=32, BLOCK_D=width,
        )  # fmt: skip
        _backward_kernel[(triton.cdiv(M, config.block_k) * G * B,)](
            _descriptor(q, queries), _descriptor(k, keys), _descriptor(v, keys),
            _descriptor(grad, queries), dq if INTERPRETED else _descriptor(dq, queries),
            _descriptor(dk, keys), _descriptor(dv, keys), lse, delta,
            H, G, N, M, scale, scale * math.log2(math.e),
            LEFT=left, RIGHT=right, WHOLE=M % config.block_k == 0, D=D,
            BLOCK_Q=config.block_q, BLOCK_K=config.block_k, BLOCK_D=width,
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return dq.to(q.dtype), dk, dv


def _block_d(q: Tensor) -> int:
    return max(32, 1 << (q.shape[3] - 1).bit_length())


def _workspace(size: int, alignment: int, stream: int | None) -> Tensor:
    return torch.empty(size, dtype=torch.int8, device="cuda")


# --8<-- [end:launch]


def _arranged(x: Tensor) -> Tensor:
    """As the memory engine wants it: last axis contiguous, the others in steps of 16 bytes."""
    steps = [s * x.element_size() for n, s in zip(x.shape[:3], x.stride(), strict=False) if n > 1]
    if x.stride(3) == 1 and all(step > 0 and step % 16 == 0 for step in steps):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _aligned(x: Tensor) -> Tensor:
    x = _arranged(x)
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _strides(x: Tensor) -> list[int]:
    """Those of axes of length 1 may be anything, also what the memory engine refuses."""
    return [s if n > 1 else x.shape[3] for n, s in zip(x.shape, x.stride(), strict=True)]


def _descriptor(x: Tensor, block: list[int]) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), _strides(x), block)


# --8<-- [start:core]
_NAME = "runnable_dl::" + __name__.replace(".", "_")  # a copy of this file has a name of its own


@torch.library.custom_op(_NAME + "_forward", mutates_args=())
def _forward_op(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int, scale: float
) -> tuple[Tensor, Tensor]:
    return _forward(q, k, v, left, right, scale)


@torch.library.custom_op(_NAME + "_backward", mutates_args=())
def _backward_op(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    left: int, right: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _backward(grad, q, k, v, out, lse, left, right, scale)


@_forward_op.register_fake
def _(q, k, v, left, right, scale):
    return torch.empty_like(_arranged(q)), q.new_empty(q.shape[:3], dtype=torch.float32)


@_backward_op.register_fake
def _(grad, q, k, v, out, lse, left, right, scale):
    return q.new_empty(q.shape), torch.empty_like(_arranged(k)), torch.empty_like(_arranged(v))


def _keep(ctx, inputs, output):
    q, k, v, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output)


def _gradients(ctx, grad, _):
    return *_backward_op(grad, *ctx.saved_tensors, *ctx.rest), None, None, None


_forward_op.register_autograd(_gradients, setup_context=_keep)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Softmax attention in one pass over the keys, with memory linear in N and M.

    Args:
        q: queries, (B, H, N, D), bfloat16, float16 or float32 (exact, and slow); D a multiple
            of 8 from 8 to 256.
        k: keys, (B, G, M, D); H is a multiple of G, and neighbouring query heads share keys.
        v: values, (B, G, M, D).
        causal: query i sees key j if j <= i + M - N: the last query sees all keys, as in
            FlashAttention since version 2.1. F.scaled_dot_product_attention(is_causal=True)
            lets it see j <= i, which differs where N and M differ.
        scale: of the scores, 1 / sqrt(D) if None; positive.

    Any strides do; what the hardware cannot read in place is copied first. The gradient of q is
    added up in float32 in an order that changes from run to run, so its last bits do too; where
    torch.use_deterministic_algorithms is set the backward pass raises. Differentiating twice
    raises RuntimeError. Autocast does not change the data type: cast q, k, v yourself.
    Triton's allocator (triton.set_allocator) is set and left set.

    Returns:
        (B, H, N, D), laid out in memory as q; 0 for a query that sees no key.

    Raises:
        ValueError: shapes, limits or scale do not fit, or the tensors are on a CPU and Triton's
            interpreter is off.
        TypeError: q, k, v are not of one of the data types above.
    """
    return band_attention(q, k, v, None, 0 if causal else None, scale)


def band_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int | None, right: int | None, scale: float | None = None
) -> Tensor:
    """As flash_attention; query i sees i + M - N - left <= j <= i + M - N + right.

    None: no limit on that side. Tiles of keys outside the band are not visited.
    """
    _check(q, k, v, left, right, scale)
    (N, D), M = q.shape[2:], k.shape[2]
    left = -1 if left is None or left >= M - 1 else left  # as if there were no limit
    right = -1 if right is None or right >= N - 1 else right
    return _forward_op(q, k, v, left, right, 1 / math.sqrt(D) if scale is None else scale)[0]


# --8<-- [end:core]


def _check(
    q: Tensor, k: Tensor, v: Tensor, left: int | None, right: int | None, scale: float | None
) -> None:
    shapes = f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"q, k, v need four axes, got {shapes}")
    if not (k.shape == v.shape and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]):
        raise ValueError(f"q (B, H, N, D) and k, v (B, G, M, D) do not fit: {shapes}")
    if 0 in (q.shape[1], k.shape[1]) or q.shape[1] % k.shape[1]:
        raise ValueError(f"H must be a multiple of G, got {q.shape[1]}, {k.shape[1]}")
    if q.shape[3] % 8 or not 8 <= q.shape[3] <= 256:
        raise ValueError(f"D must be a multiple of 8 from 8 to 256, got {q.shape[3]}")
    known = (torch.bfloat16, torch.float16, torch.float32)
    if not (q.dtype == k.dtype == v.dtype and q.dtype in known):
        dtypes = f"{q.dtype}, {k.dtype}, {v.dtype}"
        raise TypeError(f"q, k, v must share bfloat16, float16 or float32, got {dtypes}")
    for name, limit in (("left", left), ("right", right)):
        if limit is not None and limit < 0:
            raise ValueError(f"{name} must not be negative, got {limit}")
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k, v are on {q.device}, {k.device}, {v.device}")
    if q.device.type == "cpu" and not INTERPRETED:
        raise ValueError(
            "q is on the CPU: move it to a GPU, or set TRITON_INTERPRET=1 before Python starts"
        )


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q = torch.randn(1, 4, 40, 32, generator=generator).to(device).requires_grad_()  # (B, H, N, D)
    k = torch.randn(1, 2, 70, 32, generator=generator).to(device)  # (B, G, M, D)
    v = torch.randn(1, 2, 70, 32, generator=generator).to(device)
    out = flash_attention(q, k, v, causal=True)
    (dq,) = torch.autograd.grad(out.square().sum(), q)
    print(tuple(out.shape), tuple(dq.shape))

    # The same with all scores in memory.
    keys, values = (x.repeat_interleave(2, dim=1) for x in (k, v))  # (B, H, M, D)
    seen = torch.ones(40, 70, dtype=torch.bool, device=device).tril(70 - 40)
    scores = (q @ keys.mT / 32**0.5).masked_fill(~seen, -torch.inf)  # (B, H, N, M)
    expected = scores.softmax(-1) @ values
    (expected_dq,) = torch.autograd.grad(expected.square().sum(), q)
    print(torch.allclose(out, expected, atol=1e-5), torch.allclose(dq, expected_dq, atol=1e-4))

    near = band_attention(q, k, v, left=0, right=0)  # each query sees one key
    print(torch.equal(near, values[:, :, 30:]))
    # --8<-- [end:demo]
