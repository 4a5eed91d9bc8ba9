"""The suite `sliding`: long sequences of which each query sees its last w keys."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.suites import Backend, Built, Cell, random_tensors
from benchmarks.suites.heads import ON_GPU, SDPA, backend, eager, exact, flex, forced, too_large
from snippets.kernels.sliding_window_attention import (
    sliding_window_attention,
    sliding_window_attention_chunked,
)


def cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """Head width 128, causal."""
    if device.type == "cpu":
        for w in (4,) if small else (64, 256):
            yield _cell(
                device, "float32", (1, 2, 2, 24, 16, w) if small else (1, 4, 4, 2048, 64, w)
            )
    elif small:
        yield _cell(device, "bfloat16", (1, 2, 2, 512, 64, 128))
    else:
        for N in (16384, 8192):
            for w in (256, 1024):
                yield _cell(device, "bfloat16", (16384 // N, 16, 16, N, 128, w))


def _cell(device: torch.device, dtype: str, sizes: tuple[int, int, int, int, int, int]) -> Cell:
    B, H, G, N, D, w = sizes

    def build(seed: int) -> Built:
        shapes = [(B, H, N, D), (B, G, N, D), (B, G, N, D), (B, H, N, D)]
        q, k, v, upstream = random_tensors(device, getattr(torch, dtype), seed, *shapes)
        upstream = upstream.detach()
        distance = torch.arange(N, device=device)[:, None] - torch.arange(N, device=device)
        visible = (distance >= 0) & (distance < w)
        large = too_large(device, B * H * N * N, q.element_size())
        backends = {"eager": backend(lambda: eager(q, k, v, ~visible), large)}
        for name in SDPA:
            run = partial(forced, name, q, k, v, attn_mask=visible)
            backends[f"SDPA {name}"] = backend(run, large if name == "math" else None)
        if device.type == "cuda":
            backends["FlexAttention"] = _flex(q, k, v, w)
        chunked = partial(sliding_window_attention_chunked, q, k, v, w)
        backends["sliding_window_attention_chunked"] = Backend(chunked, True)
        missing = None if device.type == "cuda" else ON_GPU
        run = partial(sliding_window_attention, q, k, v, w)
        backends["sliding_window_attention"] = Backend(run, True, missing=missing)
        return Built([q, k, v], backends, exact(q, k, v, upstream, ~visible), upstream)

    shape = dict(zip("BHGNDw", sizes, strict=True))
    return Cell("sliding", "sliding", shape, dtype, build, causal=True)


def _flex(q: Tensor, k: Tensor, v: Tensor, w: int) -> Backend:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j < w)

    N = q.shape[2]
    mask = create_block_mask(visible, None, None, N, N, device=q.device)
    return backend(lambda: flex()(q, k, v, block_mask=mask))
