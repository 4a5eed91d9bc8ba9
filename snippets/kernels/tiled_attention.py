"""Attention tile by tile with the online softmax: the scores are never held as a whole.

Paper: Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018, algorithm 3 and
       section 3.1. https://arxiv.org/abs/1805.02867
       Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
       NeurIPS 2022, section 3.1. https://arxiv.org/abs/2205.14135
       Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
       ICLR 2024, section 3.1. https://arxiv.org/abs/2307.08691
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  N queries, M keys, D key width, E value width, bq and bk sides of a tile; `...` is batch
       and heads.
"""

# --8<-- [start:imports]
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = ["Partial", "merge", "online_softmax", "partial_attention", "tiled_attention"]


# --8<-- [start:online]
def online_softmax(scores: Tensor, block: int = 128) -> Tensor:
    """Softmax over the last axis; maximum and sum are found in one pass over blocks of it.

    Args:
        scores: (..., M), floating point; -inf has the weight 0.
        block: how many scores are looked at together.

    Returns:
        (..., M), each row sums to 1, or to 0 where every score is -inf.
    """
    _check_scores(scores, block)
    x = scores.to(_wide(scores.dtype))
    m = x.new_full((*x.shape[:-1], 1), -torch.inf)  # largest score so far, (..., 1)
    ell = torch.zeros_like(m)  # sum of exp(score - m) so far, (..., 1)
    for start in range(0, x.shape[-1], block):
        part = x[..., start : start + block]  # (..., block)
        new = torch.maximum(m, part.amax(-1, keepdim=True))
        ell = ell * (m - _finite(new)).exp() + (part - _finite(new)).exp().sum(-1, keepdim=True)
        m = new
    weights = (x - _finite(m)).exp() / ell.clamp(min=1)  # the largest term is 1: ell is 0 or >= 1
    return weights.to(scores.dtype)


def _finite(m: Tensor) -> Tensor:
    """Replace the maximum of nothing by 0, for -inf - -inf would be nan."""
    return m.masked_fill(m == -torch.inf, 0.0)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Choose the dtype to add up in: float32 for the half precisions."""
    return torch.promote_types(dtype, torch.float32)


# --8<-- [end:online]


# --8<-- [start:merge]
class Partial(NamedTuple):
    """Attention to some of the keys, not yet divided by the sum of the weights."""

    m: Tensor  # largest score, -inf for no keys, (..., N, 1)
    ell: Tensor  # sum of exp(score - m), (..., N, 1)
    acc: Tensor  # sum of exp(score - m) * value, (..., N, E)

    def output(self) -> Tensor:
        """Average of the values, (..., N, E); 0 for a query that sees no key."""
        return self.acc / self.ell.clamp(min=1)

    def logsumexp(self) -> Tensor:
        """Log of the sum of exp(score), (..., N, 1); -inf for a query that sees no key."""
        return self.m + self.ell.log()


def merge(a: Partial, b: Partial) -> Partial:
    """Put two sets of keys together. Associative and commutative; no keys are neutral."""
    m = torch.maximum(a.m, b.m)  # (..., N, 1)
    scale_a, scale_b = (a.m - _finite(m)).exp(), (b.m - _finite(m)).exp()  # one of them is 1
    return Partial(m, a.ell * scale_a + b.ell * scale_b, a.acc * scale_a + b.acc * scale_b)


# --8<-- [end:merge]


# --8<-- [start:tiles]
class Tiling(NamedTuple):
    """What the loops need to know beside the tensors."""

    causal: bool
    scale: float
    block_q: int
    block_k: int


def _cut(length: int, block: int) -> Iterator[slice]:
    """Yield consecutive pieces, the last perhaps shorter; none if the length is negative."""
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def _key_tiles(q: Tensor, k: Tensor, rows: slice, how: Tiling) -> Iterator[slice]:
    """Yield the pieces of the keys, as far as the last of these queries sees."""
    n, m = q.shape[-2], k.shape[-2]
    return _cut(min(m, rows.stop + m - n) if how.causal else m, how.block_k)


def _scores(q: Tensor, k: Tensor, rows: slice, cols: slice, how: Tiling) -> Tensor:
    """Compute one tile of the scores, -inf where the key lies in the future."""
    dtype = _wide(q.dtype)
    q_i = how.scale * q[..., rows, :].to(dtype)  # (..., bq, D)
    scores = q_i @ k[..., cols, :].to(dtype).mT  # (..., bq, bk)
    last = rows.start + k.shape[-2] - q.shape[-2]  # the last key that the first query sees
    if how.causal and cols.stop - 1 > last:  # the diagonal cuts this tile
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(future.triu(last - cols.start + 1), -torch.inf)
    return scores


# --8<-- [end:tiles]


# --8<-- [start:forward]
def _attend(scores: Tensor, v: Tensor) -> Partial:
    m = scores.amax(-1, keepdim=True)  # (..., bq, 1)
    p = (scores - _finite(m)).exp()  # (..., bq, bk)
    return Partial(m, p.sum(-1, keepdim=True), p @ v.to(p.dtype))


def _rows(q: Tensor, k: Tensor, v: Tensor, rows: slice, how: Tiling) -> Partial:
    """Let some of the queries go along the keys, one tile at a time."""
    shape = (*q.shape[:-2], rows.stop - rows.start)
    acc = v.new_zeros((*shape, v.shape[-1]), dtype=_wide(v.dtype))  # (..., bq, E)
    state = Partial(acc.new_full((*shape, 1), -torch.inf), acc.new_zeros((*shape, 1)), acc)
    for cols in _key_tiles(q, k, rows, how):
        scores = _scores(q, k, rows, cols, how)  # (..., bq, bk): the only ones there are
        state = merge(state, _attend(scores, v[..., cols, :]))
    return state


def _forward(q: Tensor, k: Tensor, v: Tensor, how: Tiling) -> tuple[Tensor, Tensor]:
    out = v.new_empty((*q.shape[:-1], v.shape[-1]))  # (..., N, E)
    lse = q.new_empty((*q.shape[:-1], 1), dtype=_wide(q.dtype))  # (..., N, 1)
    for rows in _cut(q.shape[-2], how.block_q):
        state = _rows(q, k, v, rows, how)
        out[..., rows, :], lse[..., rows, :] = state.output(), state.logsumexp()
    return out, lse


# --8<-- [end:forward]


# --8<-- [start:backward]
def _backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, how: Tiling
) -> tuple[Tensor, Tensor, Tensor]:
    wide = lse.dtype
    dq, dk, dv = (torch.zeros_like(x, dtype=wide) for x in (q, k, v))
    delta = (dout.to(wide) * out.to(wide)).sum(-1, keepdim=True)  # (..., N, 1)
    for rows in _cut(q.shape[-2], how.block_q):
        q_i, dout_i = (x[..., rows, :].to(wide) for x in (q, dout))  # (..., bq, D or E)
        for cols in _key_tiles(q, k, rows, how):
            k_j, v_j = (x[..., cols, :].to(wide) for x in (k, v))  # (..., bk, D or E)
            scores = _scores(q, k, rows, cols, how)  # computed again, (..., bq, bk)
            p = (scores - _finite(lse[..., rows, :])).exp()  # weights that sum to 1, (..., bq, bk)
            dp = dout_i @ v_j.mT  # (..., bq, bk)
            ds = how.scale * p * (dp - delta[..., rows, :])  # (..., bq, bk)
            dv[..., cols, :] += p.mT @ dout_i
            dk[..., cols, :] += ds.mT @ q_i
            dq[..., rows, :] += ds @ k_j
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


# --8<-- [end:backward]


# --8<-- [start:core]
class _TiledAttention(torch.autograd.Function):
    """Keeps for the backward pass: inputs, output and one number a query. Nothing is N by M."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, how: Tiling) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            out, lse = _forward(q, k, v, how)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.how = how
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        if torch.is_grad_enabled():  # once_differentiable would let most cases pass as constants
            raise RuntimeError("tiled_attention has no second derivative, got create_graph=True")
        q, k, v, out, lse = ctx.saved_tensors
        with torch.autocast(dout.device.type, enabled=False):
            return *_backward(q, k, v, out, lse, dout, ctx.how), None


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    block_q: int = 128,
    block_k: int = 128,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention in memory linear in N and M.

    Args:
        q: queries, (..., N, D), floating point; the leading axes of all three broadcast.
        k: keys, (..., M, D).
        v: values, (..., M, E).
        causal: query i sees the keys j <= i + M - N, so that the last query sees all, as in
            flash-attn since 2.1; in F.scaled_dot_product_attention(is_causal=True) it is j <= i.
        block_q: queries in a tile.
        block_k: keys in a tile; the result depends on neither, up to rounding.
        scale: factor of the products of queries and keys; None: 1 / sqrt(D).

    Returns:
        (..., N, E); 0 for a query that sees no key. float16 and bfloat16 are computed in float32
        and rounded at the end. There is no second derivative: create_graph=True raises.

    Raises:
        ValueError: shapes do not fit, a block is not positive, or scale is not finite.
        TypeError: q, k, v are not of one floating dtype.
        RuntimeError: in the backward pass, if a second derivative is prepared for.
    """
    q, k, v = _checked(q, k, v)
    how = Tiling(causal, _checked_scale(scale, q), block_q, block_k)
    _check_blocks(how)
    return _TiledAttention.apply(q, k, v, how)  # pyright: ignore


# --8<-- [end:core]


# --8<-- [start:partial]
def partial_attention(
    q: Tensor, k: Tensor, v: Tensor, block_k: int = 128, scale: float | None = None
) -> Partial:
    """Attend to a part of the keys; `merge` puts the parts together.

    Arguments and errors as in tiled_attention. In float32 or wider. Autograd works, at the price
    of all the tiles.
    """
    q, k, v = _checked(q, k, v)
    how = Tiling(False, _checked_scale(scale, q), 1, block_k)
    _check_blocks(how)
    with torch.autocast(q.device.type, enabled=False):
        return _rows(q, k, v, slice(0, q.shape[-2]), how)


# --8<-- [end:partial]


def _check_scores(scores: Tensor, block: int) -> None:
    if scores.ndim < 1:
        raise ValueError(f"scores need at least one axis, got {tuple(scores.shape)}")
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, got {scores.dtype}")
    if block < 1:
        raise ValueError(f"block must be positive, got {block}")


def _check_blocks(how: Tiling) -> None:
    if min(how.block_q, how.block_k) < 1:
        raise ValueError(f"block_q and block_k must be positive, got {how.block_q}, {how.block_k}")


def _checked_scale(scale: float | None, q: Tensor) -> float:
    if scale is None:
        return 1.0 / math.sqrt(max(1, q.shape[-1]))
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return scale


def _checked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Expand the leading axes to a common shape, without a copy."""
    shapes = f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ValueError(f"q, k, v need at least two axes, got {shapes}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k differ in D: {tuple(q.shape)}, {tuple(k.shape)}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k and v differ in M: {tuple(k.shape)}, {tuple(v.shape)}")
    if not (q.is_floating_point() and q.dtype == k.dtype == v.dtype):
        raise TypeError(
            f"q, k, v must share one floating dtype, got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    try:
        lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])  # pyright: ignore
    except RuntimeError:
        raise ValueError(f"leading axes of q, k, v do not broadcast: {shapes}") from None
    expanded = [x.expand(*lead, *x.shape[-2:]) for x in (q, k, v)]  # pyright: ignore
    return expanded[0], expanded[1], expanded[2]


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 300, 16, generator=generator).unbind()  # (B, heads, N, D) each

    out = tiled_attention(q, k, v, causal=True, block_q=64, block_k=32)
    future = torch.ones(300, 300, dtype=torch.bool).triu(1)
    scores = (q @ k.mT / 4).masked_fill(future, -torch.inf)  # (B, heads, N, N): what is avoided
    print(tuple(out.shape), torch.allclose(out, scores.softmax(-1) @ v, atol=1e-5))

    # One query goes along the keys, 60 at a time; then it has seen all 300.
    query, keys, values = q[0, 0, :1], k[0, 0], v[0, 0]
    state = partial_attention(query, keys[:0], values[:0])  # no keys
    for start in range(0, 300, 60):
        tile = slice(start, start + 60)
        state = merge(state, partial_attention(query, keys[tile], values[tile]))
        print(f"{tile.stop:3} keys: m {state.m.item():.2f}  ell {state.ell.item():.2f}")
    print(torch.allclose(state.output(), tiled_attention(query, keys, values), atol=1e-5))
    # --8<-- [end:demo]
