"""Multi-head attention: self, cross and masked, with grouped key-value heads and a KV cache.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, sections 3.2.2 and 3.2.3.
       https://arxiv.org/abs/1706.03762
       Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", 2019 (one key-value
       head, MQA). https://arxiv.org/abs/1911.02150
       Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
       Checkpoints", EMNLP 2023 (one for each group of heads). https://arxiv.org/abs/2305.13245
Needs: Python >= 3.10, torch >= 2.0, and scaled_dot_product_attention.py beside this file.
Axes:  B batch, N queries, M keys, C width of the model, H heads, G key-value heads, D = C / H.
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from .scaled_dot_product_attention import (
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)

__all__ = ["KeysValues", "MultiHeadAttention", "from_torch"]


# --8<-- [start:core]
class KeysValues(NamedTuple):
    """Projected keys and values of a sequence, each (B, G, M, D): the KV cache."""

    k: Tensor
    v: Tensor

    def append(self, new: "KeysValues") -> "KeysValues":
        """Both sequences, one after the other; neither is changed."""
        return KeysValues(torch.cat([self.k, new.k], dim=2), torch.cat([self.v, new.v], dim=2))


class MultiHeadAttention(nn.Module):
    """Attention by several heads, each with its own projections, added up.

    Args:
        width: C, of the queries and of the output; a multiple of heads.
        heads: H, of the queries.
        kv_heads: G, of keys and values; must divide heads. G = H (the default) is multi-head,
            G = 1 multi-query, between them grouped-query attention.
        context_width: of what is attended to, where it differs from C.
        bias: whether the four projections have one.
        generator: draws the weights (Glorot uniform each; biases are zero). On the CPU: move the
            layer afterwards.

    There is no dropout. Keys get no positions: add them to the input.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        context_width: int | None = None,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        context_width = width if context_width is None else context_width
        _check_sizes(width, heads, kv_heads, context_width)
        self.heads, self.kv_heads = heads, kv_heads
        kv_width = width // heads * kv_heads
        self.q_proj = nn.Linear(width, width, bias)
        self.k_proj = nn.Linear(context_width, kv_width, bias)
        self.v_proj = nn.Linear(context_width, kv_width, bias)
        self.out_proj = nn.Linear(width, width, bias)
        with torch.no_grad():
            for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
                bound = math.sqrt(6 / (layer.in_features + layer.out_features))
                layer.weight.uniform_(-bound, bound, generator=generator)
                if bias:
                    layer.bias.zero_()

    def keys_values(self, context: Tensor) -> KeysValues:
        """Project what is attended to, (B, M, context_width), into keys and values."""
        _check_input("context", context, self.k_proj.in_features)
        k = _split(self.k_proj(context), self.kv_heads)  # (B, G, M, D)
        v = _split(self.v_proj(context), self.kv_heads)  # (B, G, M, D)
        return KeysValues(k, v)

    def forward(
        self, x: Tensor, context: Tensor | KeysValues | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Let every position of x attend.

        Args:
            x: where the queries come from, (B, N, C).
            context: where keys and values come from. None: x itself (self-attention); a tensor
                (B, M, context_width): another sequence (cross-attention); KeysValues: what
                `keys_values` has projected before (a cache).
            mask: bool, (N, M) or broadcastable to (B, H, N, M) with all four axes; True means
                "may attend", contrary to nn.MultiheadAttention.

        Returns:
            Output (B, N, C) and weights (B, H, N, M); nn.MultiheadAttention returns the weights
            averaged over the heads.

        Raises:
            ValueError: shapes do not fit.
            TypeError: mask is not bool, or x and the cache differ in dtype.
        """
        _check_input("x", x, self.q_proj.in_features)
        if context is None:
            context = x
        k, v = context if isinstance(context, KeysValues) else self.keys_values(context)
        q = _split(self.q_proj(x), self.heads)  # (B, H, N, D)
        _check_attention(q, k, v, self.kv_heads, mask)
        B, H, N, D = q.shape
        G, M = k.shape[1:3]
        if mask is not None:
            mask = mask.broadcast_to(B, H, N, M).reshape(B, G, H // G, N, M)
        q = q.reshape(B, G, H // G, N, D)  # neighbouring heads share keys and values
        k, v = k.unsqueeze(2), v.unsqueeze(2)  # (B, G, 1, M, D)
        out, weights = scaled_dot_product_attention(q, k, v, mask)  # (B, G, H/G, N, D or M)
        out = out.flatten(1, 2).transpose(1, 2).flatten(2)  # (B, N, H*D)
        return self.out_proj(out), weights.flatten(1, 2)  # (B, N, C), (B, H, N, M)


def _split(x: Tensor, heads: int) -> Tensor:
    """Cut the last axis into heads, (B, N, heads*D) -> (B, heads, N, D)."""
    B, N, width = x.shape
    return x.reshape(B, N, heads, width // heads).transpose(1, 2)


# --8<-- [end:core]


# --8<-- [start:keymap]
def from_torch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename what nn.MultiheadAttention.state_dict() gives, for load_state_dict of a layer here.

    Not for `add_bias_kv=True`, nor for `kdim` and `vdim` that differ from each other.
    """
    _check_state(state)
    renamed: dict[str, Tensor] = {}
    if "in_proj_weight" in state:  # (3*C, C): queries, keys, values from the top
        weights = state["in_proj_weight"].chunk(3)
    else:  # kdim or vdim differ from embed_dim
        weights = [state[f"{name}_proj_weight"] for name in "qkv"]
    renamed |= {f"{name}_proj.weight": w for name, w in zip("qkv", weights, strict=True)}
    if "in_proj_bias" in state:  # (3*C), also where the weights are three
        biases = state["in_proj_bias"].chunk(3)
        renamed |= {f"{name}_proj.bias": b for name, b in zip("qkv", biases, strict=True)}
    return renamed | {key: w for key, w in state.items() if key.startswith("out_proj.")}


# --8<-- [end:keymap]


def _check_sizes(width: int, heads: int, kv_heads: int, context_width: int) -> None:
    if min(width, heads, kv_heads, context_width) < 1:
        sizes = f"{width}, {heads}, {kv_heads}, {context_width}"
        raise ValueError(f"width, heads, kv_heads, context_width must be positive, got {sizes}")
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width}, {heads}")
    if heads % kv_heads:
        raise ValueError(f"heads must be a multiple of kv_heads, got {heads}, {kv_heads}")


def _check_input(name: str, x: Tensor, width: int) -> None:
    if x.ndim != 3 or x.shape[2] != width:
        raise ValueError(f"{name} must be (B, length, {width}), got {tuple(x.shape)}")


def _check_attention(q: Tensor, k: Tensor, v: Tensor, kv_heads: int, mask: Tensor | None) -> None:
    batch, heads, n, width = q.shape
    for name, x in (("keys", k), ("values", v)):
        fits = x.ndim == 4 and (*x.shape[:2], x.shape[3]) == (batch, kv_heads, width)
        if not fits:
            wanted = f"({batch}, {kv_heads}, M, {width})"
            raise ValueError(f"{name} must be {wanted}, got {tuple(x.shape)}")
    if mask is None:
        return
    weights = (batch, heads, n, k.shape[2])
    # A mask of three axes might be meant as (B, N, M) and would be read as (H, N, M).
    fits = mask.ndim in (2, 4) and all(
        have in (1, want) for have, want in zip(mask.shape[::-1], weights[::-1], strict=False)
    )
    if not fits:
        shape = tuple(mask.shape)
        raise ValueError(f"mask must be (N, M) or have four axes and fit {weights}, got {shape}")


def _check_state(state: Mapping[str, Tensor]) -> None:
    known = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    known |= {f"{name}_proj_weight" for name in "qkv"}
    if unknown := sorted(state.keys() - known):
        raise ValueError(f"not of an nn.MultiheadAttention that this layer can be, got {unknown}")
    if not ("in_proj_weight" in state or "q_proj_weight" in state):
        raise ValueError(f"no in_proj_weight or q_proj_weight, got {sorted(state)}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    layer = MultiHeadAttention(64, heads=8, kv_heads=2, generator=generator)
    target = torch.randn(2, 6, 64, generator=generator)  # (B, N, C)
    source = torch.randn(2, 9, 64, generator=generator)  # (B, M, C)

    # Encoder: self-attention, here with padding after 9 and 5 tokens.
    padding = padding_mask(torch.tensor([[9], [5]]), 9)  # (2, 1, 1, 9)
    encoded, attended = layer(source, mask=padding)
    print("self  ", tuple(encoded.shape), tuple(attended.shape))

    # Decoder: masked self-attention, all positions at once as in training.
    decoded, attended = layer(target, mask=causal_mask(6, 6))
    print("masked", tuple(decoded.shape), tuple(attended.shape))

    # Decoder: queries from the decoder, keys and values from the encoder, projected once.
    memory = layer.keys_values(encoded)
    crossed, attended = layer(target, memory, mask=padding)
    print("cross ", tuple(crossed.shape), tuple(attended.shape))

    # Masked self-attention again, one token at a time as in generation.
    cache = layer.keys_values(target[:, :0])  # empty
    steps: list[torch.Tensor] = []
    for i in range(6):
        token = target[:, i : i + 1]  # (B, 1, C)
        cache = cache.append(layer.keys_values(token))
        steps.append(layer(token, cache)[0])
    same = torch.allclose(torch.cat(steps, dim=1), decoded, atol=1e-5)
    print("cached", tuple(cache.k.shape), same)
    # --8<-- [end:demo]
