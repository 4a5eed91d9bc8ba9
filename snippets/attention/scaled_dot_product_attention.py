"""Scaled dot-product attention, with causal and padding masks.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, eq. (1).
       https://arxiv.org/abs/1706.03762
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  N queries, M keys, D key width, E value width; `...` is batch and heads.
"""

# --8<-- [start:imports]
import math

import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = ["causal_mask", "padding_mask", "scaled_dot_product_attention"]


# --8<-- [start:core]
def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Average the values, each weighted by how well its key matches the query.

    Args:
        q: queries, (..., N, D), floating point.
        k: keys, (..., M, D); leading axes broadcast against those of q.
        v: values, (..., M, E); leading axes broadcast against those of the weights.
        mask: bool, broadcastable to the weights; True means "may attend", as in
            F.scaled_dot_product_attention and contrary to nn.MultiheadAttention.

    float16 holds scores up to 65504 in size: larger ones, after scaling, give nan.

    Returns:
        Output (..., N, E) and weights (..., N, M). Rows of weights sum to 1,
        or to 0 for a query that may attend to nothing.

    Raises:
        ValueError: shapes do not fit.
        TypeError: q, k, v are not of one floating dtype, or mask is not bool.
    """
    _check(q, k, v, mask)
    q = q / math.sqrt(q.shape[-1])  # before the product: float16 ends at 65504
    scores = q @ k.transpose(-2, -1)  # (..., N, M)
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        blind = ~mask.any(dim=-1, keepdim=True)  # may attend to nothing: softmax would give nan
        weights = scores.masked_fill(~(mask | blind), -torch.inf).softmax(dim=-1)
        weights = weights.masked_fill(~mask, 0.0)
    return weights @ v, weights  # (..., N, E), (..., N, M)


# --8<-- [end:core]


# --8<-- [start:masks]
def causal_mask(n: int, m: int, device: torch.device | str | None = None) -> Tensor:
    """Let each of the last n of m positions attend to itself and what comes before, (N, M)."""
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)  # last query sees all


def padding_mask(lengths: Tensor, m: int) -> Tensor:
    """Let queries attend to the first `lengths` of m keys: (...) integers -> (..., 1, M) bool."""
    _check_lengths(lengths)
    return torch.arange(m, device=lengths.device) < lengths[..., None, None]


# --8<-- [end:masks]


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    shapes = f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ValueError(f"q, k, v need at least two axes, got {shapes}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k differ in D: {tuple(q.shape)}, {tuple(k.shape)}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k and v differ in M: {tuple(k.shape)}, {tuple(v.shape)}")
    if not (q.is_floating_point() and q.dtype == k.dtype == v.dtype):
        dtypes = f"{q.dtype}, {k.dtype}, {v.dtype}"
        raise TypeError(f"q, k, v must share one floating dtype, got {dtypes}")
    lead = _broadcast(q.shape[:-2], k.shape[:-2])
    if lead is None or _broadcast(lead, v.shape[:-2]) is None:
        raise ValueError(f"leading axes of q, k, v do not broadcast: {shapes}")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool (True = may attend), got {mask.dtype}")
    weights = (*lead, q.shape[-2], k.shape[-2])
    if _broadcast(mask.shape, weights) != weights:
        raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to the weights {weights}")


def _check_lengths(lengths: Tensor) -> None:
    if lengths.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        raise TypeError(f"lengths must be integers, got {lengths.dtype}")


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return tuple(torch.broadcast_shapes(*shapes))  # pyright: ignore
    except RuntimeError:
        return None


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 8, generator=generator).unbind()  # each (B, heads, N, D)
    mask = causal_mask(5, 5) & padding_mask(torch.tensor([[5], [3]]), 5)  # (2, 1, 5, 5)
    out, weights = scaled_dot_product_attention(q, k, v, mask)
    print(tuple(out.shape), tuple(weights.shape))
    for sequence, length in enumerate([5, 3]):
        print(f"first head, {length} tokens of 5:")
        for row in weights[sequence, 0]:
            print(*(f"{weight:.2f}" for weight in row))
    # --8<-- [end:demo]
