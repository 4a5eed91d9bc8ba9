"""What the suites of attention share: the libraries' functions, and the exact result by head."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.suites import Backend

SDPA = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
ON_GPU = ("skipped", "runs on a CUDA GPU")


def forced(name: str, *args: Tensor, **options: Any) -> Tensor:
    """F.scaled_dot_product_attention by one backend; raises where that refuses."""
    with sdpa_kernel(SDPA[name]):
        return F.scaled_dot_product_attention(*args, **options)


def eager(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """As in a first attention tutorial; hidden: bool, True where a score does not count."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


@cache
def flex() -> Callable[..., Tensor]:
    """FlexAttention, compiled."""
    import torch._dynamo
    from torch.nn.attention.flex_attention import flex_attention

    # Beyond the limit it would run unfused, with no more than a warning; fullgraph raises.
    torch._dynamo.config.recompile_limit = 256
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def too_large(device: torch.device, count: int, itemsize: int) -> tuple[str, str] | None:
    """Whether `count` scores, held about four times, leave the device no room."""
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**34
    needed = 4 * count * itemsize
    if needed < room:
        return None
    return "skipped", f"the scores would take {needed / 2**30:.0f} GiB"


def backend(run: Callable[[], Tensor], missing: tuple[str, str] | None = None) -> Backend:
    """A library's."""
    return Backend(run, missing=missing)


def exact(
    q: Tensor, k: Tensor, v: Tensor, upstream: Tensor, hidden: Tensor | None
) -> Callable[[bool], tuple[Tensor, list[Tensor] | None]]:
    """Attention in float64, a head at a time, so that long sequences fit."""

    def reference(gradients: bool) -> tuple[Tensor, list[Tensor] | None]:
        out = torch.empty_like(q, dtype=torch.float64)
        grads = [torch.zeros_like(x, dtype=torch.float64) for x in (q, k, v)]
        share = q.shape[1] // k.shape[1]
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):
                places = (b, h), (b, h // share), (b, h // share)
                leaves = [
                    x.detach()[at].double().requires_grad_(gradients)
                    for x, at in zip((q, k, v), places, strict=True)
                ]
                q_, k_, v_ = leaves
                scores = q_ @ k_.T * q.shape[-1] ** -0.5
                if hidden is not None:
                    scores = scores.masked_fill(hidden, -torch.inf)
                found = scores.softmax(-1) @ v_
                out[b, h] = found.detach()
                if gradients:
                    got = torch.autograd.grad(found, leaves, upstream[b, h].double())
                    for grad, at, part in zip(grads, places, got, strict=True):
                        grad[at] += part
        return out, grads if gradients else None

    return reference
