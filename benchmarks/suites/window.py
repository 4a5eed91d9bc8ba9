"""The suite `window`: Swin-T's window attention, with bias and, where shifted, its mask."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.suites import Backend, Built, Cell, random_tensors
from benchmarks.suites.heads import ON_GPU, SDPA, backend, flex, forced
from snippets.kernels import window_attention as kernel
from snippets.kernels.window_attention import window_attention, window_attention_eager

WINDOW = 7
NAIVE = {"as Swin does it": "eager", "SDPA with bias and mask": "SDPA efficient"}
# Queries, keys, warps, stages, programs a multiprocessor (and images a program).
LADDER = {
    "one image a program": kernel._Config(64, 64, 4, 2, 8, images=1),
    "many images": kernel._Config(64, 64, 4, 1, 8),
    "the next image loads meanwhile": kernel._Config(64, 64, 4, 2, 8),
}
CANDIDATES = [(64, 64, 4, stages, programs) for stages in (1, 2, 3) for programs in (4, 8, 16)]
STAGES = ((56, 3), (28, 6), (14, 12), (7, 24))  # side of the map, heads; Swin-T, table 7


def cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """Stage 1 first; stage 4 is one window, never shifted."""
    gpu = device.type == "cuda"
    B = 1 if small else 128 if gpu else 4
    dtype = "bfloat16" if gpu else "float32"
    for side, heads in ((14, 2),) if small else STAGES:
        for shift in (0, 3) if side > 7 else (0,):
            yield _cell(device, dtype, B, side, heads, shift)
    yield _ladder(device, dtype, B, *((14, 2) if small else STAGES[0]))


def tuning_cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """Stages 1 and 3, shifted, forward and backward apart."""
    configs = {str(values): kernel._Config(*values) for values in CANDIDATES}
    for side, heads in ((14, 2),) if small else (STAGES[0], STAGES[2]):
        for name in ("forward", "backward"):
            args = (1 if small else 128, side, heads, 3)
            yield _configured(device, "bfloat16", *args, "tuning", configs, (name,))


def _cell(device: torch.device, dtype: str, B: int, side: int, heads: int, shift: int) -> Cell:
    D, w = 16 if heads == 2 else 32, WINDOW

    def build(seed: int) -> Built:
        shapes = [
            (B, side, side, 3, heads, D),
            ((2 * w - 1) ** 2, heads),
            (B, side, side, heads * D),
        ]
        qkv, table, upstream = random_tensors(device, getattr(torch, dtype), seed, *shapes)
        upstream = upstream.detach()
        places = _Places(side, w, shift, device)
        eager = partial(window_attention_eager, qkv, table, w, shift)
        backends = {"eager": backend(eager)}
        for name in SDPA:
            backends[f"SDPA {name}"] = backend(partial(_sdpa, name, qkv, table, places))
        if device.type == "cuda":
            backends["FlexAttention"] = backend(partial(_flex, qkv, table, places))
        missing = None if device.type == "cuda" else ON_GPU
        run = partial(window_attention, qkv, table, w, shift)
        backends["window_attention"] = Backend(run, True, missing=missing)

        def reference(gradients: bool) -> tuple[Tensor, list[Tensor] | None]:
            leaves = [x.detach().double().requires_grad_(gradients) for x in (qkv, table)]
            out = window_attention_eager(leaves[0], leaves[1], w, shift)
            if not gradients:
                return out, None
            return out.detach(), list(torch.autograd.grad(out, leaves, upstream.double()))

        return Built([qkv, table], backends, reference, upstream)

    shape = dict(B=B, height=side, width=side, H=heads, D=D, window=w, shift=shift)
    return Cell("window", "window", shape, dtype, build, causal=False)


def _ladder(device: torch.device, dtype: str, B: int, side: int, heads: int) -> Cell:
    """The steps of the page, from Swin's own way to loads that run ahead."""
    return _configured(device, dtype, B, side, heads, 3, "ladder", LADDER)


def _configured(
    device: torch.device,
    dtype: str,
    B: int,
    side: int,
    heads: int,
    shift: int,
    op: str,
    configs: dict[str, Any],
    passes: Sequence[str] = ("forward",),
) -> Cell:
    cell = _cell(device, dtype, B, side, heads, shift)

    def build(seed: int) -> Built:
        built = cell.build(seed)
        qkv, table = built.leaves
        backends = {
            name: dataclasses.replace(built.backends[of], ours=True)
            for name, of in NAIVE.items()
            if op == "ladder"
        }
        for name, config in configs.items():
            run = partial(_Configured.apply, qkv, table, shift, config)
            missing = None if qkv.is_cuda else ON_GPU
            backends[name] = Backend(run, True, vars(config), missing)
        return dataclasses.replace(built, backends=backends)

    return dataclasses.replace(cell, op=op, build=build, passes=passes)


class _Configured(torch.autograd.Function):
    """window_attention with a given configuration instead of its own."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, table: Tensor, shift: int, config: Any) -> Tensor:
        scale = qkv.shape[-1] ** -0.5
        training = not torch.is_inference_mode_enabled() and any(ctx.needs_input_grad)
        out, lse = kernel._forward(qkv, table, WINDOW, shift, scale, training, config)
        ctx.save_for_backward(qkv, table, lse)
        ctx.given = WINDOW, shift, scale, config
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *kernel._backward(grad, *ctx.saved_tensors, *ctx.given), None, None


class _Places:
    """Where tokens stand: constant while a model runs, so made once."""

    def __init__(self, side: int, w: int, shift: int, device: torch.device) -> None:
        self.side, self.w, self.shift = side, w, shift
        cell = torch.arange(w, device=device)
        row, column = (x.flatten() for x in torch.meshgrid(cell, cell, indexing="ij"))
        dy, dx = (x[:, None] - x for x in (row, column))
        self.bias = (dy + w - 1) * (2 * w - 1) + dx + w - 1  # (w*w, w*w), rows of the table
        # Which side of the cyclic seam a token of the shifted map comes from.
        seam = (torch.arange(side, device=device) >= side - shift).long()
        region = seam[:, None] * 2 + seam
        self.region = self._windows(region[None, :, :, None])[:, 0, :, 0]  # (windows, w*w)

    def _windows(self, x: Tensor) -> Tensor:
        """(B, side, side, C) to (B * windows, 1, w*w, C)."""
        B, side, _, C = x.shape
        n, w = side // self.w, self.w
        x = x.reshape(B, n, w, n, w, C).transpose(2, 3)
        return x.reshape(B * n * n, 1, w * w, C)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """To q, k, v of shape (B * windows, heads, w*w, D)."""
        B, side, _, _, heads, D = qkv.shape
        x = qkv.roll((-self.shift, -self.shift), (1, 2)) if self.shift else qkv
        x = self._windows(x.reshape(B, side, side, -1))
        q, k, v = x.reshape(-1, self.w**2, 3, heads, D).permute(2, 0, 3, 1, 4)
        return q, k, v

    def join(self, out: Tensor, B: int) -> Tensor:
        """Back from (B * windows, heads, w*w, D) to (B, side, side, heads * D)."""
        n, w = self.side // self.w, self.w
        x = out.transpose(1, 2).reshape(B, n, n, w, w, -1).transpose(2, 3)
        x = x.reshape(B, self.side, self.side, -1)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


def _sdpa(name: str, qkv: Tensor, table: Tensor, places: _Places) -> Tensor:
    """Bias and mask as one additive mask; windows beside heads, so that it need not be repeated."""
    q, k, v = places.split(qkv)
    n = places.w**2
    windows, (_, heads, _, D) = len(places.region), q.shape
    mask = table[places.bias].permute(2, 0, 1)[None]  # (1, heads, n, n)
    if places.shift:
        apart = places.region[:, None, :, None] != places.region[:, None, None, :]
        mask = mask.masked_fill(apart, -torch.inf).reshape(1, windows * heads, n, n)
        q, k, v = (x.reshape(-1, windows * heads, n, D) for x in (q, k, v))
    out = forced(name, q, k, v, attn_mask=mask.expand(len(q), -1, -1, -1))
    return places.join(out.reshape(-1, heads, n, D), len(qkv))


def _flex(qkv: Tensor, table: Tensor, places: _Places) -> Tensor:
    q, k, v = places.split(qkv)
    bias, region, windows = places.bias, places.region, len(places.region)

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        together = region[b % windows, i] == region[b % windows, j]
        return torch.where(together, score + table[bias[i, j], h], -torch.inf)

    return places.join(flex()(q, k, v, score_mod=biased), len(qkv))
