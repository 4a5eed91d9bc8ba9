"""What the compiler makes of a band with two edges, for a GPU that is not here."""

import torch

from snippets.kernels import flash_attention
from snippets.kernels.sliding_window_attention import band_edges
from tests.compiled import offline


def launches():
    """Both edges of the band; the causal band is compiled by FlashAttention's tests."""
    q = torch.empty(1, 8, 1000, 128, dtype=torch.bfloat16)
    k = torch.empty(1, 2, 1000, 128, dtype=torch.bfloat16)
    lse = torch.empty(1, 8, 1000)
    band = (*band_edges(512, causal=False), 0.1)
    yield "forward", lambda: flash_attention._forward(q, k, k, *band)
    yield "backward", lambda: flash_attention._backward(q, q, k, k, q, lse, *band)


def test_kernels_for_a_hopper_that_is_not_here():
    for (name, _), kernels in offline.compile_all(launches, [90]).items():
        compiled = kernels[f"_{name}_kernel"]
        assert compiled.count(r"wgmma\.mma_async") > 0
        assert compiled.shared <= offline.SHARED[90] * 1024
        # Backward, with three loops, some of what none needs inside waits on the stack.
        assert compiled.spilled <= (0 if name == "forward" else 256)
