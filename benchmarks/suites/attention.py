"""The suite `attention`: full and causal attention over the lengths and widths of the papers."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.suites import Backend, Built, Cell, random_tensors
from benchmarks.suites.heads import (
    ON_GPU,
    SDPA,
    backend,
    eager,
    exact,
    flex,
    forced,
    too_large,
)
from snippets.kernels import flash_attention as flash
from snippets.kernels.flash_attention import flash_attention
from snippets.kernels.tiled_attention import tiled_attention

# Batch times length, heads times head width: as in FlashAttention's papers.
TOKENS, WIDTH = 16384, 2048
LENGTHS = (4096, 16384, 512, 2048, 1024, 8192)
FLEX_LENGTHS = {128: (4096, 16384), 64: (4096,)}  # each is compiled for half a minute


def cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """Head width 128 first, where the targets stand."""
    if device.type == "cpu":
        lengths = (16, 24) if small else (256, 1024, 2048)
        for causal in (False, True):
            for N in lengths:
                yield _cell(device, "float32", (1, 2, 2, N, N, 16 if small else 64), causal)
        yield _ladder(
            device, "float32", (1, 2, 2, 32, 32, 16) if small else (1, 4, 4, 2048, 2048, 64)
        )
        return
    if small:
        yield _cell(device, "bfloat16", (1, 2, 2, 256, 256, 64), True)
        yield _ladder(device, "bfloat16", (1, 2, 2, 256, 256, 64))
        return
    yield _ladder(device, "bfloat16", _sizes(4096, 128))
    for D in (128, 64, 256):
        for N in LENGTHS:
            for causal in (False, True):
                yield _cell(device, "bfloat16", _sizes(N, D), causal)
        if D == 128:
            for causal in (False, True):
                yield _cell(device, "float16", _sizes(4096, D), causal)
                for N in (4096, 16384):  # grouped queries: 64 heads share 8
                    yield _cell(device, "bfloat16", (TOKENS // N, 64, 8, N, N, D), causal)


def tuning_cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """A long and a short length of each head width, forward and backward apart."""
    lengths = (256,) if small else (4096, 1024)
    for D in (128, 64, 256, 32):
        for N in lengths:
            for causal in (False, True):
                for name in ("forward", "backward"):
                    yield _tuning(device, _sizes(N, D), causal, name)


# Query rows, key rows, warps, stages, specialised: what each step of the page adds.
LADDER = {
    "small tiles": flash._Config(64, 64, 4, 1),
    "large tiles": flash._Config(128, 128, 8, 2),
    "specialised warps": flash._Config(128, 128, 4, 2, True),
}
# What compiles for sm_90 with few bytes spilled (backward, causal) or none, by head width.
CANDIDATES: dict[str, dict[int, list[tuple[Any, ...]]]] = {
    "forward": {
        32: [(128, 128, 4, 3, True), (128, 128, 8, 3), (128, 64, 4, 3)],
        64: [(128, 128, 4, 3, True), (128, 128, 8, 3), (128, 64, 4, 3)],
        128: [(128, 128, 4, 2, True), (128, 128, 8, 2), (128, 64, 8, 3)],
        256: [(128, 64, 4, 2, True), (128, 64, 8, 2)],
    },
    "backward": {
        32: [(128, 128, 8, 2), (64, 128, 8, 2)],
        64: [(128, 128, 8, 2), (64, 128, 8, 2)],
        128: [(64, 128, 8, 2), (64, 64, 4, 2)],
        256: [(32, 64, 8, 2), (32, 64, 8, 1)],
    },
}
Sizes = tuple[int, int, int, int, int, int]  # B, H, G, N, M, D


def _sizes(N: int, D: int) -> Sizes:
    B, H = max(1, TOKENS // N), WIDTH // D
    return B, H, H, N, N, D


def _inputs(
    device: torch.device, dtype: str, sizes: Sizes, causal: bool, seed: int
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    B, H, G, N, M, D = sizes
    shapes = [(B, H, N, D), (B, G, M, D), (B, G, M, D), (B, H, N, D)]
    *leaves, upstream = random_tensors(device, getattr(torch, dtype), seed, *shapes)
    hidden = torch.ones(N, M, dtype=torch.bool, device=device).triu(1) if causal else None
    return leaves, upstream.detach(), hidden


def _cell(device: torch.device, dtype: str, sizes: Sizes, causal: bool) -> Cell:
    def build(seed: int) -> Built:
        (q, k, v), upstream, hidden = _inputs(device, dtype, sizes, causal, seed)
        B, H, G, N, M, D = sizes
        gqa = G != H
        large = too_large(device, B * H * N * M, q.element_size())
        backends = {"eager": backend(lambda: eager(q, k, v, hidden), large)}
        for name in SDPA:
            run = partial(forced, name, q, k, v, is_causal=causal, enable_gqa=gqa)
            missing = None
            if name == "math" and N > 4096:
                missing = large or ("skipped", "beyond 4096 keys")
            backends[f"SDPA {name}"] = backend(run, missing)
        flexible = dtype == "bfloat16" and N in FLEX_LENGTHS.get(D, ()) and not gqa
        if device.type == "cuda" and flexible:
            backends["FlexAttention"] = backend(_flex(q, k, v, causal))
        if device.type == "cpu":
            backends["tiled_attention"] = Backend(lambda: tiled_attention(q, k, v, causal), True)
        missing = None if device.type == "cuda" else ON_GPU
        run = partial(flash_attention, q, k, v, causal)
        backends["flash_attention"] = Backend(run, True, missing=missing)
        return Built([q, k, v], backends, exact(q, k, v, upstream, hidden), upstream)

    return Cell(
        "attention",
        "attention",
        dict(zip("BHGNMD", sizes, strict=True)),
        dtype,
        build,
        causal=causal,
    )


def _flex(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    N, M = q.shape[2], k.shape[2]
    mask = create_block_mask(visible, None, None, N, M, device=q.device) if causal else None
    return lambda: flex()(q, k, v, block_mask=mask)


def _ladder(device: torch.device, dtype: str, sizes: Sizes) -> Cell:
    """The steps of the pages, from naive to specialised."""

    def build(seed: int) -> Built:
        (q, k, v), upstream, _ = _inputs(device, dtype, sizes, False, seed)
        backends = {
            "naive": Backend(lambda: (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v, True),
            "tiled": Backend(lambda: tiled_attention(q, k, v), True),
        }
        for name, config in LADDER.items():
            backends[name] = _configured(q, k, v, False, config, config)
        return Built([q, k, v], backends, exact(q, k, v, upstream, None), upstream)

    shape = dict(zip("BHGNMD", sizes, strict=True))
    return Cell("attention", "ladder", shape, dtype, build, passes=("forward",), causal=False)


def _tuning(device: torch.device, sizes: Sizes, causal: bool, name: str) -> Cell:
    D = sizes[-1]

    def build(seed: int) -> Built:
        (q, k, v), upstream, hidden = _inputs(device, "bfloat16", sizes, causal, seed)
        backends: dict[str, Backend] = {}
        for candidate in CANDIDATES[name][D]:
            config = flash._Config(*candidate)
            usual = flash._config("forward", q)
            pair = (config, config) if name == "forward" else (usual, config)
            backends[str(candidate)] = _configured(q, k, v, causal, *pair)
        return Built([q, k, v], backends, exact(q, k, v, upstream, hidden), upstream)

    shape = dict(zip("BHGNMD", sizes, strict=True))
    return Cell("attention", "tuning", shape, "bfloat16", build, passes=(name,), causal=causal)


class _Configured(torch.autograd.Function):
    """flash_attention with given configurations instead of its own."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, right: int, *configs: Any) -> Tensor:
        ctx.scale = q.shape[-1] ** -0.5
        out, lse = flash._forward(q, k, v, -1, right, ctx.scale, configs[0])
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.right, ctx.config = right, configs[1]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grads = flash._backward(grad, *ctx.saved_tensors, -1, ctx.right, ctx.scale, ctx.config)
        return *grads, None, None, None


def _configured(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, forward: Any, backward: Any
) -> Backend:
    run = partial(_Configured.apply, q, k, v, 0 if causal else -1, forward, backward)
    config = {"forward": vars(forward), "backward": vars(backward)}
    return Backend(run, True, config, None if q.is_cuda else ON_GPU)
