"""Sliding-window attention: every query sees only the keys near it.

Paper: Beltagy et al., "Longformer: The Long-Document Transformer", 2020, section 3.1 (both sides)
       and appendix A (overlapping chunks). https://arxiv.org/abs/2004.05150
       Jiang et al., "Mistral 7B", 2023, section 2 (causal). https://arxiv.org/abs/2310.06825
Needs: Python >= 3.10, torch >= 2.8 on Linux with a CUDA GPU (its Triton >= 3.4), and
       flash_attention.py beside this file. The chunked function runs on any device; the kernel on
       a CPU only with TRITON_INTERPRET=1, set before Python starts.
Axes:  B batch, H query heads, G key-value heads, R = H / G, N queries, M keys, D width of a head,
       L chunks, C queries in a chunk, S = C + left + right keys that a chunk may see.
"""

import os

# --8<-- [start:imports]
import torch
import torch.nn.functional as F
from torch import Tensor

# --8<-- [end:imports]
if __name__ == "__main__" and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # lets the demo run on a CPU, one operation at a time

from .flash_attention import band_attention

__all__ = [
    "band_edges",
    "sliding_window_attention",
    "sliding_window_attention_chunked",
    "tile_work",
]


# --8<-- [start:edges]
def band_edges(window: int, causal: bool = True) -> tuple[int, int]:
    """How many keys a query sees before and after the one at its own position.

    Causal: the last `window` keys, its own included, as `sliding_window` of Transformers' decoder
    models. Both sides: `window` / 2 keys on each and its own between them, as in Longformer.
    What is returned is flash-attn's `window_size`, inclusive on either side.
    """
    _check_window(window, causal)
    return (window - 1, 0) if causal else (window // 2, window // 2)


# --8<-- [end:edges]


# --8<-- [start:chunked]
def sliding_window_attention_chunked(
    q: Tensor, k: Tensor, v: Tensor, window: int, causal: bool = True, scale: float | None = None
) -> Tensor:
    """Attention inside a window by overlapping chunks, in O(N * window) time and memory.

    Plain PyTorch, on any device, for any floating dtype, differentiable any number of times.
    Scores and softmax are in the dtype of the inputs: float16 overflows beyond 65504, bfloat16
    loses digits that the kernel keeps.

    Args:
        q: queries, (B, H, N, D). The last query stands at the last key, so that N < M
            continues a sequence whose first M - N keys come from a cache.
        k: keys, (B, G, M, D); G must divide H, and neighbouring heads share keys and values.
        v: values, (B, G, M, D).
        window: causal: how many keys a query sees, its own included. Both sides: how many it
            sees besides its own, half of them on each; even. Libraries differ: see `band_edges`.
        causal: whether keys after the query's own position are out of sight.
        scale: of the scores, 1 / sqrt(D) if None.

    Returns:
        (B, H, N, D), zero for a query that sees no key.

    Raises:
        TypeError: window is not an int, or dtypes differ or are not floating.
        ValueError: shapes do not fit, or there is no such window.
    """
    left, right = band_edges(window, causal)
    _check_inputs(q, k, v)
    B, H, N, D = q.shape
    G, M = k.shape[1:3]
    left, right = max(0, min(left, M - 1)), max(0, min(right, N - 1))  # there are no more
    C = max(1, min(max(left + right + 1, 64), N))
    L = max(1, -(-N // C))
    S = C + left + right

    # Chunk l holds the queries l*C ... l*C + C-1 and sees the keys l*C ... l*C + S-1, both
    # counted in padded sequences: query i sees key i + before - left ... i + before + right.
    q = F.pad(q * (D**-0.5 if scale is None else scale), (0, 0, 0, L * C - N))
    q = q.reshape(B, G, H // G, L, C, D).transpose(2, 3)  # (B, G, L, R, C, D)
    before = left - (M - N)  # negative: keys that nobody sees are cut off
    around = (0, 0, before, L * C + left + right - before - M)
    k = F.pad(k, around).unfold(2, S, C)  # (B, G, L, D, S), strips that overlap, a view
    v = F.pad(v, around).unfold(2, S, C).transpose(3, 4)  # (B, G, L, S, D)

    a, s = (torch.arange(n, device=q.device) for n in (C, S))
    band = (s >= a[:, None]) & (s <= a[:, None] + left + right)  # (C, S), alike in all chunks
    j = C * torch.arange(L, device=q.device)[:, None] + s - before  # (L, S), which key it is
    mask = band & ((j >= 0) & (j < M))[:, None]  # (L, C, S)
    scores = (q.flatten(3, 4) @ k).reshape(B, G, L, H // G, C, S)
    hidden = ~mask[:, None]  # (L, 1, C, S)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    weights = weights.masked_fill(hidden, 0.0)  # no key in sight: nan -> 0
    out = (weights.flatten(3, 4) @ v).reshape(B, G, L, H // G, C, D)
    return out.transpose(2, 3).reshape(B, H, L * C, D)[:, :, :N]


# --8<-- [end:chunked]


# --8<-- [start:kernel]
def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, causal: bool = True, scale: float | None = None
) -> Tensor:
    """The same by the kernel of FlashAttention, which visits only tiles that touch the band.

    Arguments, alignment, result and errors are those of `sliding_window_attention_chunked`, but
    q, k, v must be bfloat16, float16 or float32 (exact, and slow), D a multiple of 8 up to 256,
    scale positive, and they must be on a GPU. Differentiable once. Compiled anew for each window.
    """
    left, right = band_edges(window, causal)
    _check_inputs(q, k, v)
    return band_attention(q, k, v, left, right, scale)


# --8<-- [end:kernel]


# --8<-- [start:work]
def tile_work(
    N: int, M: int, window: int, block_q: int, block_k: int, causal: bool = True
) -> tuple[int, int]:
    """Scores inside the band, and scores computed by a kernel that visits whole tiles.

    A tile of block_q queries by block_k keys is computed as a whole if the band touches it; the
    last ones count in full although they may stick out of the matrix.
    """
    left, right = band_edges(window, causal)
    inside = visited = 0
    for first in range(0, N, block_q):
        positions = range(first + M - N, min(first + block_q, N) + M - N)
        inside += sum(max(0, min(p + right, M - 1) - max(p - left, 0) + 1) for p in positions)
        low = max(positions[0] - left, 0) // block_k
        high = min(positions[-1] + right, M - 1) // block_k
        visited += block_q * block_k * max(0, high - low + 1)
    return inside, visited


# --8<-- [end:work]


def _check_window(window: int, causal: bool) -> None:
    if type(window) is not int:
        raise TypeError(f"window must be an int, got {type(window).__name__}")
    if causal and window < 1:
        raise ValueError(f"a causal window must be at least 1, the query's own key, got {window}")
    if not causal and (window < 0 or window % 2):
        raise ValueError(f"a window to both sides must be even and not negative, got {window}")


def _check_inputs(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
    if not q.ndim == k.ndim == v.ndim == 4 or k.shape != v.shape:
        raise ValueError(f"q, k, v must be (B, H, N, D), (B, G, M, D), (B, G, M, D), got {shapes}")
    if (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(f"q, k, v must agree in B and D, got {shapes}")
    if not q.shape[3]:
        raise ValueError(f"q, k, v must have a width, got {shapes}")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"heads of q must be a multiple of those of k and v, got {shapes}")
    if not q.dtype == k.dtype == v.dtype or not q.dtype.is_floating_point:
        dtypes = f"{q.dtype}, {k.dtype}, {v.dtype}"
        raise TypeError(f"q, k, v must have one floating dtype, got {dtypes}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 24, 16, generator=generator).to(device)  # (B, H, N, D)
    k, v = torch.randn(2, 1, 2, 24, 16, generator=generator).to(device)  # (B, G, N, D) each
    window = 8

    # All positions at once, as in training: the kernel, and plain PyTorch.
    out = sliding_window_attention(q, k, v, window)
    chunked = sliding_window_attention_chunked(q, k, v, window)
    print("at once", tuple(out.shape), torch.allclose(out, chunked, atol=1e-5))

    # One token at a time, as in generation; token t overwrites row t % window of the cache.
    cache = torch.zeros(2, 1, 2, window, 16, device=device)
    steps: list[torch.Tensor] = []
    for t in range(24):
        cache[:, :, :, t % window] = torch.stack([k[:, :, t], v[:, :, t]])
        seen = cache[:, :, :, : t + 1]  # their order does not matter
        steps.append(sliding_window_attention(q[:, :, t : t + 1], seen[0], seen[1], window))
    same = torch.allclose(torch.cat(steps, dim=2), out, atol=1e-5)
    print("rolling", tuple(cache[0].shape), same)
    # --8<-- [end:demo]
