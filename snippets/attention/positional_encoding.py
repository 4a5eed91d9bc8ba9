"""Positional encodings: sinusoidal, learned, rotary (RoPE), relative (Shaw), T5 buckets, ALiBi.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5.
       https://arxiv.org/abs/1706.03762
       Shaw et al., "Self-Attention with Relative Position Representations", NAACL 2018.
       https://arxiv.org/abs/1803.02155
       Raffel et al., T5, JMLR 2020, section 2.1.  https://arxiv.org/abs/1910.10683
       Su et al., RoFormer, 2021.  https://arxiv.org/abs/2104.09864
       Press et al., ALiBi, ICLR 2022.  https://arxiv.org/abs/2108.12409
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  N queries (or positions), M keys, D width, E value width, H heads, K clipping distance;
       `...` is batch and heads.
"""

# --8<-- [start:imports]
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]

__all__ = [
    "LearnedPositions",
    "alibi_bias",
    "alibi_slopes",
    "halves_order",
    "position_angles",
    "relative_positions",
    "rope",
    "shaw_bias",
    "shaw_output",
    "sinusoidal",
    "t5_bias",
    "t5_buckets",
]


# --8<-- [start:absolute]
def position_angles(positions: Tensor, d: int, base: float, dtype: torch.dtype) -> Tensor:
    """Each position times each frequency base^(-2i/d), i = 0 … d/2 - 1: (..., N) -> (..., N, D/2).

    At least in float32, whatever dtype: bfloat16 has no integers between 256 and 258.
    """
    wide = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, d, 2, dtype=wide, device=positions.device) / d  # (D/2,)
    return positions.to(wide)[..., None] * base**-exponents  # (..., N, D/2)


def sinusoidal(
    positions: Tensor, d: int, base: float = 10000.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sine and cosine of every angle, in turns: (..., N) integers or floats -> (..., N, D)."""
    _check_angles(positions, d, base, dtype)
    angles = position_angles(positions, d, base, dtype)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(dtype)  # (..., N, D)


class LearnedPositions(nn.Module):
    """One learned vector for each position below `max_len`: (..., N) integers -> (..., N, D)."""

    def __init__(self, max_len: int, d: int, generator: torch.Generator | None = None) -> None:
        """Draw the table from a normal distribution of standard deviation 0.02."""
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(max_len, d, generator=generator))

    def forward(self, positions: Tensor) -> Tensor:
        """Look positions up; ValueError for one that has no vector."""
        _check_index(positions, len(self.table))
        return F.embedding(positions, self.table)  # (..., N, D)


# --8<-- [end:absolute]


# --8<-- [start:rope]
def rope(x: Tensor, positions: Tensor, base: float = 10000.0, pairs: str = "adjacent") -> Tensor:
    """Rotate pairs of components by angles proportional to the position.

    Args:
        x: queries or keys (never values), (..., N, D), D even, floating point.
        positions: integers or floats, broadcastable to (..., N).
        base: the slowest pair turns by base^(2/D - 1) a position, the fastest by 1.
        pairs: "adjacent" turns components (2i, 2i+1), as the paper and Meta's Llama code;
            "halves" turns (i, i + D/2), as GPT-NeoX and the Llama code in transformers.

    Returns:
        Shape and dtype of x. The rotation itself runs at least in float32.
    """
    _check_rope(x, positions, base, pairs)
    angles = position_angles(positions, x.shape[-1], base, x.dtype)  # (..., N, D/2)
    cos, sin = angles.cos(), angles.sin()
    if pairs == "adjacent":
        a, b = x[..., 0::2], x[..., 1::2]  # (..., N, D/2) both
    else:
        a, b = x.chunk(2, dim=-1)
    turned = a * cos - b * sin, a * sin + b * cos
    if pairs == "adjacent":
        out = torch.stack(turned, dim=-1).flatten(-2)  # (..., N, D)
    else:
        out = torch.cat(turned, dim=-1)
    return out.to(x.dtype)


def halves_order(d: int, device: torch.device | str | None = None) -> Tensor:
    """Indices [0, 2, 4, … 1, 3, 5, …]: x[..., order] holds adjacent pairs as halves, (D,)."""
    _check_width(d)
    return torch.arange(d, device=device).view(-1, 2).T.flatten()


# --8<-- [end:rope]


# --8<-- [start:relative]
def relative_positions(n: int, m: int, device: torch.device | str | None = None) -> Tensor:
    """Key position minus query position, j - i, (N, M); queries are the last n of m positions."""
    return torch.arange(m, device=device) - torch.arange(m - n, m, device=device)[:, None]


def shaw_bias(q: Tensor, key_table: Tensor, m: int) -> Tensor:
    """The part of eq. (4) that position adds to the scores, divided by √D like the rest.

    Args:
        q: queries, (..., N, D), the last N of m positions.
        key_table: a vector for each distance -K … K, (2K+1, D); farther ones are clipped.
        m: number of keys.

    Returns:
        (..., N, M), to be added to q·k/√D before the softmax.
    """
    _check_table(q, key_table, "q", "key_table")
    index = _clipped(q.shape[-2], m, key_table)  # (N, M)
    by_distance = q / math.sqrt(q.shape[-1]) @ key_table.T  # (..., N, 2K+1)
    return by_distance.gather(-1, index.expand(*q.shape[:-1], m))  # (..., N, M)


def shaw_output(weights: Tensor, value_table: Tensor) -> Tensor:
    """What eq. (3) adds to the output: weights (..., N, M), table (2K+1, E) -> (..., N, E)."""
    _check_table(weights, value_table, "weights", "value_table")
    index = _clipped(weights.shape[-2], weights.shape[-1], value_table).expand_as(weights)
    by_distance = weights.new_zeros(*weights.shape[:-1], len(value_table))
    return by_distance.scatter_add(-1, index, weights) @ value_table  # (..., N, E)


def _clipped(n: int, m: int, table: Tensor) -> Tensor:
    k = len(table) // 2
    return relative_positions(n, m, table.device).clamp(-k, k) + k  # 0 … 2K


# --8<-- [end:relative]


# --8<-- [start:t5]
def t5_buckets(
    relative: Tensor, bidirectional: bool = True, n_buckets: int = 32, max_distance: int = 128
) -> Tensor:
    """Number the distances: near ones singly, far ones in ranges that grow geometrically.

    Args:
        relative: j - i, integers of any shape.
        bidirectional: half of the buckets for keys after the query (an encoder); otherwise all
            for keys before it, and later keys count as distance 0 (a decoder masks them).
        n_buckets: number of buckets.
        max_distance: where the geometric ranges end; the last one holds all beyond too.

    Returns:
        int64, 0 … n_buckets - 1, the shape of `relative`.
    """
    _check_buckets(relative, bidirectional, n_buckets, max_distance)
    side = n_buckets // 2 if bidirectional else n_buckets
    distance = relative.abs() if bidirectional else (-relative).clamp(min=0)
    starts = torch.tensor(_starts(side, max_distance), dtype=relative.dtype, device=relative.device)
    bucket = torch.bucketize(distance, starts, right=True)
    return bucket + side * (relative > 0) if bidirectional else bucket


@cache
def _starts(side: int, max_distance: int) -> list[int]:
    """The first distance of each bucket but bucket 0, in whole numbers: no logarithm to round."""
    near = side // 2  # buckets of one distance each
    far = side - near  # their edges: near · (max_distance / near)^(s / far), s = 0 … far - 1
    starts, d = list(range(1, near)), near
    for s in range(far):
        while d**far < near ** (far - s) * max_distance**s:
            d += 1
        starts.append(d)
    return starts


def t5_bias(
    table: Tensor, relative: Tensor, bidirectional: bool = True, max_distance: int = 128
) -> Tensor:
    """A learned number for each bucket and head: (n_buckets, H), (N, M) -> (H, N, M)."""
    buckets = t5_buckets(relative, bidirectional, len(table), max_distance)
    return F.embedding(buckets, table).movedim(-1, 0)  # (H, N, M)


# --8<-- [end:t5]


# --8<-- [start:alibi]
def alibi_slopes(
    n_heads: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """2^(-8h/H) for h = 1 … H if H is a power of two, (H,).

    Otherwise as in the authors' code: the slopes of the next lower power P, then the first of
    2P heads' slopes, every other one, until there are H.
    """
    _check_heads(n_heads)
    p = 1 << (n_heads.bit_length() - 1)  # largest power of two up to H
    exponents = [8 * h / p for h in range(1, p + 1)]
    exponents += [8 * h / (2 * p) for h in range(1, 2 * (n_heads - p), 2)]
    return torch.tensor([2.0**-x for x in exponents], dtype=dtype, device=device)


def alibi_bias(
    n_heads: int,
    n: int,
    m: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Minus slope times distance, (H, N, M); queries are the last n of m positions.

    Later keys are penalised alike, though the paper defines only what a causal mask leaves.
    """
    distance = relative_positions(n, m, device).abs()  # (N, M)
    slopes = alibi_slopes(n_heads, torch.promote_types(dtype, torch.float32), device)
    return (-slopes[:, None, None] * distance).to(dtype)


# --8<-- [end:alibi]


def _check_angles(positions: Tensor, d: int, base: float, dtype: torch.dtype) -> None:
    _check_width(d)
    if not base > 0:
        raise ValueError(f"base must be positive, got {base}")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating point, got {dtype}")
    if positions.dtype == torch.bool or positions.is_complex():
        raise TypeError(f"positions must be integers or floats, got {positions.dtype}")


def _check_width(d: int) -> None:
    if d < 2 or d % 2:
        raise ValueError(f"the width must be even and positive, got {d}")


def _check_index(positions: Tensor, max_len: int) -> None:
    if positions.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"positions must be int32 or int64, got {positions.dtype}")
    if positions.numel() and not (positions.min() >= 0 and positions.max() < max_len):
        low, high = int(positions.min()), int(positions.max())
        raise ValueError(f"positions must be in 0 … {max_len - 1}, got {low} … {high}")


def _check_rope(x: Tensor, positions: Tensor, base: float, pairs: str) -> None:
    if pairs not in ("adjacent", "halves"):
        raise ValueError(f'pairs must be "adjacent" or "halves", got "{pairs}"')
    if x.ndim < 2:
        raise ValueError(f"x needs at least two axes, got {tuple(x.shape)}")
    _check_angles(positions, x.shape[-1], base, x.dtype)
    lead = tuple(x.shape[:-1])
    try:
        fits = torch.broadcast_shapes(positions.shape, lead) == lead  # pyright: ignore
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"positions {tuple(positions.shape)} do not broadcast to {lead}")


def _check_table(x: Tensor, table: Tensor, name: str, table_name: str) -> None:
    if x.ndim < 2 or table.ndim != 2:
        shapes = f"{tuple(x.shape)}, {tuple(table.shape)}"
        raise ValueError(f"{name} needs two axes or more, {table_name} two, got {shapes}")
    if len(table) % 2 == 0:
        raise ValueError(f"{table_name} needs 2K + 1 rows, an odd number, got {len(table)}")
    if name == "q" and x.shape[-1] != table.shape[-1]:
        shapes = f"{tuple(x.shape)}, {tuple(table.shape)}"
        raise ValueError(f"q and key_table differ in D: {shapes}")
    if not (x.is_floating_point() and x.dtype == table.dtype):
        dtypes = f"{x.dtype}, {table.dtype}"
        raise TypeError(f"{name} and {table_name} must share one floating dtype, got {dtypes}")


def _check_buckets(
    relative: Tensor, bidirectional: bool, n_buckets: int, max_distance: int
) -> None:
    if relative.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"relative positions must be int32 or int64, got {relative.dtype}")
    side = n_buckets // 2 if bidirectional else n_buckets
    if side < 2:
        raise ValueError(f"each direction needs two buckets or more, got {side}")
    if max_distance <= side // 2:
        raise ValueError(f"max_distance must exceed {side // 2}, got {max_distance}")


def _check_heads(n_heads: int) -> None:
    if n_heads < 1:
        raise ValueError(f"n_heads must be positive, got {n_heads}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 64, generator=generator).unbind()  # each (N=1, D)
    print("rope: position of query, of key, score")
    for i, j in [(5, 2), (105, 102), (2, 5)]:
        score = rope(q, torch.tensor([i])) @ rope(k, torch.tensor([j])).T
        print(f"{i:>5}{j:>5}{score.item():>8.2f}")

    print("sinusoidal:", *(f"{x:.3f}" for x in sinusoidal(torch.tensor(1), 8)))
    print("learned:", tuple(LearnedPositions(512, 8, generator)(torch.arange(5)).shape))

    relative = torch.tensor([-1000, -91, -90, -16, -8, -7, 0, 7, 8, 1000])  # j - i
    print("t5 buckets:", *(int(bucket) for bucket in t5_buckets(relative)))
    for heads in (4, 6):
        print(f"alibi, {heads} heads:", *(f"{x:.4f}" for x in alibi_slopes(heads)))

    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=generator).unbind()  # each (B, H, N, D)
    bias = alibi_bias(4, 6, 6)  # (H, N, M)
    print("attention:", tuple(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).shape))
    # --8<-- [end:demo]
