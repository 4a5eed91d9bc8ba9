"""The Transformer: encoder and decoder, post- or pre-norm, greedy decoding with a KV cache.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, sections 3 and 5.
       https://arxiv.org/abs/1706.03762
       Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020 (post-
       against pre-norm). https://arxiv.org/abs/2002.04745
Needs: Python >= 3.10, torch >= 2.0, and multi_head_attention.py, positional_encoding.py and
       scaled_dot_product_attention.py beside this file.
Axes:  B batch, M source tokens, N target tokens, T target tokens so far (N new ones included),
       C width, H heads, F inner width of the feed-forward network, V vocabulary.
"""

# --8<-- [start:imports]
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from .multi_head_attention import KeysValues, MultiHeadAttention
from .multi_head_attention import from_torch as attention_from_torch
from .positional_encoding import sinusoidal
from .scaled_dot_product_attention import causal_mask, padding_mask

__all__ = [
    "AddNorm",
    "Attended",
    "DecoderBlock",
    "EncoderBlock",
    "EncoderDecoder",
    "FeedForward",
    "LayerCache",
    "State",
    "Transformer",
    "attention_weights",
    "from_torch",
    "greedy",
    "multiply_adds",
    "parameters",
    "warmup_rate",
]


# --8<-- [start:blocks]
class AddNorm(nn.Module):
    """What surrounds every sublayer f: norm(x + f(x)), or with pre_norm x + f(norm(x))."""

    def __init__(self, width: int, pre_norm: bool, dropout: float) -> None:
        """The paper has post-norm and dropout 0.1 in its base model, 0.3 in the big one."""
        super().__init__()
        self.pre_norm = pre_norm
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def before(self, x: Tensor) -> Tensor:
        """What the sublayer gets."""
        return self.norm(x) if self.pre_norm else x

    def after(self, x: Tensor, out: Tensor) -> Tensor:
        """The sum of the residual stream and what the sublayer gave."""
        x = x + self.dropout(out)
        return x if self.pre_norm else self.norm(x)


class FeedForward(nn.Module):
    """Two layers with a ReLU, for each position by itself: eq. (2)."""

    def __init__(self, width: int, inner: int, generator: torch.Generator | None = None) -> None:
        """Draw the weights (Glorot uniform; biases are zero)."""
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        with torch.no_grad():
            bound = math.sqrt(6 / (width + inner))
            for layer in (self.up, self.down):
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down(self.up(x).relu())  # (..., F), then (..., C)


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward, each with Add & Norm."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        pre_norm: bool = False,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, generator=generator)
        self.attention_norm = AddNorm(width, pre_norm, dropout)
        self.feed_forward = FeedForward(width, inner, generator)
        self.feed_forward_norm = AddNorm(width, pre_norm, dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, M, C) -> (B, M, C) and weights (B, H, M, M)."""
        out, weights = self.attention(self.attention_norm.before(x), mask=mask)
        x = self.attention_norm.after(x, out)
        out = self.feed_forward(self.feed_forward_norm.before(x))
        return self.feed_forward_norm.after(x, out), weights


class LayerCache(NamedTuple):
    """What a decoder block keeps: its own keys and values so far, and those of the source."""

    past: KeysValues  # (B, H, T, D) each
    memory: KeysValues  # (B, H, M, D) each


class DecoderBlock(nn.Module):
    """Masked self-attention, cross-attention, then feed-forward, each with Add & Norm."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        pre_norm: bool = False,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, generator=generator)
        self.attention_norm = AddNorm(width, pre_norm, dropout)
        self.cross = MultiHeadAttention(width, heads, generator=generator)
        self.cross_norm = AddNorm(width, pre_norm, dropout)
        self.feed_forward = FeedForward(width, inner, generator)
        self.feed_forward_norm = AddNorm(width, pre_norm, dropout)

    def start(self, memory: Tensor) -> LayerCache:
        """Project the output of the encoder, (B, M, C), once; no target tokens yet."""
        empty = self.attention.keys_values(memory[:, :0])
        return LayerCache(empty, self.cross.keys_values(memory))

    def forward(
        self,
        x: Tensor,
        cache: LayerCache,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, LayerCache, Tensor, Tensor]:
        """(B, N, C) -> (B, N, C), longer cache, weights (B, H, N, T) and (B, H, N, M)."""
        h = self.attention_norm.before(x)
        past = cache.past.append(self.attention.keys_values(h))
        out, weights = self.attention(h, past, mask)
        x = self.attention_norm.after(x, out)
        out, crossed = self.cross(self.cross_norm.before(x), cache.memory, memory_mask)
        x = self.cross_norm.after(x, out)
        out = self.feed_forward(self.feed_forward_norm.before(x))
        x = self.feed_forward_norm.after(x, out)
        return x, LayerCache(past, cache.memory), weights, crossed


# --8<-- [end:blocks]


# --8<-- [start:core]
class Attended(NamedTuple):
    """Who attended to whom: for each layer the weights of all heads."""

    encoder: tuple[Tensor, ...]  # (B, H, M, M) each
    decoder: tuple[Tensor, ...]  # (B, H, N, T) each
    cross: tuple[Tensor, ...]  # (B, H, N, M) each


class EncoderDecoder(nn.Module):
    """Both stacks, vectors in and vectors out, as nn.Transformer(batch_first=True).

    Args:
        width: C, a multiple of heads.
        heads: H.
        inner: F, 4 C in the paper.
        layers: of each stack.
        pre_norm: False: norm(x + f(x)), the paper; True: x + f(norm(x)).
        final_norm: a last norm after each stack. None: only with pre_norm, which needs it.
            nn.Transformer has it always.
        dropout: of every sublayer's output, 0.1 in the paper's base model. Drawn from torch's
            global generator. nn.Transformer drops inside the sublayers as well.
        generator: draws the weights, on the CPU.
    """

    def __init__(
        self,
        width: int = 512,
        heads: int = 8,
        inner: int = 2048,
        layers: int = 6,
        pre_norm: bool = False,
        final_norm: bool | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        _check_sizes(inner, layers)
        args = width, heads, inner, pre_norm, dropout, generator
        self.encoder = nn.ModuleList(EncoderBlock(*args) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderBlock(*args) for _ in range(layers))
        final_norm = pre_norm if final_norm is None else final_norm
        self.encoder_norm = nn.LayerNorm(width) if final_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if final_norm else nn.Identity()

    def encode(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, M, C) -> memory (B, M, C) and the weights of each layer."""
        seen: list[Tensor] = []
        for block in self.encoder:
            x, weights = block(x, mask)
            seen.append(weights)
        return self.encoder_norm(x), tuple(seen)

    def start(self, memory: Tensor) -> tuple[LayerCache, ...]:
        """A cache for each layer of the decoder, with the source in it."""
        return tuple(b.start(memory) for b in self.decoder if isinstance(b, DecoderBlock))

    def decode(
        self,
        x: Tensor,
        caches: tuple[LayerCache, ...],
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[LayerCache, ...], Attended]:
        """New target positions, (B, N, C) -> (B, N, C), longer caches and weights."""
        longer: list[LayerCache] = []
        seen: list[Tensor] = []
        crossed: list[Tensor] = []
        for block, cache in zip(self.decoder, caches, strict=True):
            x, cache, weights, cross = block(x, cache, mask, memory_mask)
            longer.append(cache)
            seen.append(weights)
            crossed.append(cross)
        return self.decoder_norm(x), tuple(longer), Attended((), tuple(seen), tuple(crossed))

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, Attended]:
        """Vectors (B, M, C) and (B, N, C) -> (B, N, C) and all weights.

        Masks are bool and broadcast to the weights as in MultiHeadAttention; True means "may
        attend", contrary to nn.Transformer. Without a mask everything sees everything.
        """
        memory, seen = self.encode(source, source_mask)
        out, _, attended = self.decode(target, self.start(memory), target_mask, memory_mask)
        return out, attended._replace(encoder=seen)


class State(NamedTuple):
    """Where generation stands."""

    layers: tuple[LayerCache, ...]
    source_mask: Tensor | None  # (B, 1, 1, M)


class Transformer(nn.Module):
    """Token numbers in, logits out, with one embedding for source, target and output.

    Args:
        vocab: V, shared by source and target.
        width, heads, inner, layers, pre_norm, final_norm, dropout, generator: see EncoderDecoder.
        positions: add sinusoidal positions (the width must be even).
    """

    def __init__(
        self,
        vocab: int,
        width: int = 512,
        heads: int = 8,
        inner: int = 2048,
        layers: int = 6,
        pre_norm: bool = False,
        final_norm: bool | None = None,
        positions: bool = True,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights; those of the embedding have variance 1/C."""
        super().__init__()
        _check_vocab(vocab)
        self.body = EncoderDecoder(
            width, heads, inner, layers, pre_norm, final_norm, dropout, generator
        )
        table = torch.empty(vocab, width).normal_(std=width**-0.5, generator=generator)
        self.embedding = nn.Parameter(table)  # (V, C)
        self.dropout = nn.Dropout(dropout)
        self.positions = positions

    def embed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """√C times the rows of the table, plus positions from `first` on: (B, N) -> (B, N, C)."""
        _check_tokens(tokens, len(self.embedding))
        width = self.embedding.shape[1]
        x = math.sqrt(width) * F.embedding(tokens, self.embedding)  # (B, N, C)
        if self.positions:
            at = torch.arange(first, first + tokens.shape[1], device=tokens.device)
            x = x + sinusoidal(at, width, dtype=x.dtype)  # (N, C), the same for all sequences
        return self.dropout(x)

    def start(
        self, source: Tensor, source_lengths: Tensor | None = None
    ) -> tuple[State, tuple[Tensor, ...]]:
        """Encode the source, (B, M) -> what decoding starts from, and the encoder's weights."""
        x = self.embed(source)  # (B, M, C)
        mask = _source_mask(source, source_lengths)
        memory, seen = self.body.encode(x, mask)
        return State(self.body.start(memory), mask), seen

    def advance(
        self, tokens: Tensor, state: State, causal: bool = True
    ) -> tuple[Tensor, State, Attended]:
        """Decode new target tokens, (B, N) -> logits (B, N, V), longer state and weights."""
        batch, past = state.layers[0].past.k.shape[0], state.layers[0].past.k.shape[2]
        x = self.embed(tokens, first=past)  # (B, N, C)
        _check_batch(tokens, batch)
        n = tokens.shape[1]
        mask = causal_mask(n, past + n, device=tokens.device) if causal else None
        x, layers, attended = self.body.decode(x, state.layers, mask, state.source_mask)
        return x @ self.embedding.T, state._replace(layers=layers), attended

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_lengths: Tensor | None = None,
        causal: bool = True,
    ) -> tuple[Tensor, Attended]:
        """Predict, at every target position, the next token.

        Args:
            source: token numbers, (B, M), int32 or int64; padding on the right.
            target: token numbers, (B, N), first the token that begins a sequence. Its padding, on
                the right, needs no mask: only padding could see it.
            source_lengths: (B,) integers; None: no padding.
            causal: False lets the decoder see the future, which only an experiment wants.

        Returns:
            Logits (B, N, V), and the weights of every layer and head.
        """
        state, seen = self.start(source, source_lengths)
        logits, _, attended = self.advance(target, state, causal)
        return logits, attended._replace(encoder=seen)


# --8<-- [end:core]


# --8<-- [start:greedy]
@torch.no_grad()
def greedy(
    model: Transformer,
    source: Tensor,
    bos: int,
    eos: int,
    max_tokens: int,
    source_lengths: Tensor | None = None,
) -> Tensor:
    """Take the likeliest token, again and again, until all sequences have ended.

    Call model.eval() before, if the model has dropout.

    Returns:
        Tokens without bos, (B, at most max_tokens), int64; eos from the end of a sequence on.
    """
    _check_greedy(bos, eos, max_tokens, len(model.embedding))
    state, _ = model.start(source, source_lengths)
    token = torch.full((len(source), 1), bos, device=source.device)
    ended = torch.zeros_like(token, dtype=torch.bool)
    out = token[:, :0]
    while out.shape[1] < max_tokens and not ended.all():
        logits, state, _ = model.advance(token, state)  # one new position
        token = logits.argmax(dim=-1).masked_fill(ended, eos)  # (B, 1)
        ended = ended | (token == eos)
        out = torch.cat([out, token], dim=1)
    return out


# --8<-- [end:greedy]


# --8<-- [start:training]
def warmup_rate(step: int, width: int, warmup: int = 4000) -> float:
    """Learning rate of step 1, 2, …: linear rise, then 1/√step: eq. (3)."""
    _check_schedule(step, width, warmup)
    return width**-0.5 * min(step**-0.5, step * warmup**-1.5)


# --8<-- [end:training]


# --8<-- [start:counters]
def parameters(vocab: int, width: int, inner: int, layers: int) -> dict[str, int]:
    """Of a Transformer as in the paper (no final norms), by part."""
    attention = 4 * width * width + 4 * width  # weights, biases
    return {
        "embedding": vocab * width,
        "attention": 3 * layers * attention,  # one in each encoder block, two in each decoder block
        "feed-forward": 2 * layers * (2 * width * inner + inner + width),
        "norms": 5 * layers * 2 * width,  # two and three in a block; scale and shift
    }


def multiply_adds(
    m: int, n: int, vocab: int, width: int, inner: int, layers: int
) -> dict[str, int]:
    """Multiplications, each with its addition, of one forward pass: M source, N target tokens."""
    return {
        "projections": layers * width * width * (4 * m + 4 * n + 2 * n + 2 * m),
        "attention": layers * 2 * width * (m * m + n * n + n * m),
        "feed-forward": layers * 2 * width * inner * (m + n),
        "logits": n * width * vocab,
    }


def attention_weights(m: int, n: int, heads: int, layers: int) -> int:
    """Numbers in all weights of one pass over one sequence: kept for the gradient."""
    return layers * heads * (m * m + n * n + n * m)


# --8<-- [end:counters]


# --8<-- [start:keymap]
_NAMES = {
    "encoder": {
        "self_attn": "attention",
        "norm1": "attention_norm.norm",
        "linear1": "feed_forward.up",
        "linear2": "feed_forward.down",
        "norm2": "feed_forward_norm.norm",
    },
    "decoder": {
        "self_attn": "attention",
        "norm1": "attention_norm.norm",
        "multihead_attn": "cross",
        "norm2": "cross_norm.norm",
        "linear1": "feed_forward.up",
        "linear2": "feed_forward.down",
        "norm3": "feed_forward_norm.norm",
    },
}


def from_torch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename what nn.Transformer.state_dict() gives, for an EncoderDecoder with final_norm=True.

    Not for `bias=False`. No weight tells post-norm from pre-norm (`norm_first=True` there), nor
    the number of heads, the activation (ReLU here) or the epsilon of the norms: compare them
    yourself.
    """
    _check_state(state)
    modules: dict[str, dict[str, Tensor]] = {}
    for key, w in state.items():
        words = key.split(".")  # encoder.layers.0.linear1.weight or encoder.norm.weight
        depth = 2 if words[1] == "norm" else 4
        modules.setdefault(".".join(words[:depth]), {})[".".join(words[depth:])] = w
    renamed: dict[str, Tensor] = {}
    for module, weights in modules.items():
        stack, *layer, kind = module.split(".")
        new = f"{stack}.{layer[1]}.{_NAMES[stack][kind]}" if layer else f"{stack}_norm"
        if kind.endswith("attn"):
            weights = attention_from_torch(weights)
        renamed |= {f"{new}.{name}": w for name, w in weights.items()}
    return renamed


# --8<-- [end:keymap]


def _source_mask(source: Tensor, lengths: Tensor | None) -> Tensor | None:
    if lengths is None:
        return None
    if lengths.shape != source.shape[:1]:
        raise ValueError(f"source_lengths must be ({len(source)},), got {tuple(lengths.shape)}")
    return padding_mask(lengths[:, None], source.shape[1])  # (B, 1, 1, M)


def _check_sizes(inner: int, layers: int) -> None:
    if min(inner, layers) < 1:
        raise ValueError(f"inner and layers must be positive, got {inner}, {layers}")


def _check_vocab(vocab: int) -> None:
    if vocab < 1:
        raise ValueError(f"vocab must be positive, got {vocab}")


def _check_tokens(tokens: Tensor, vocab: int) -> None:
    if tokens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"tokens must be int32 or int64, got {tokens.dtype}")
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be (B, length), got {tuple(tokens.shape)}")
    if tokens.numel() and not (tokens.min() >= 0 and tokens.max() < vocab):
        low, high = int(tokens.min()), int(tokens.max())
        raise ValueError(f"tokens must be in 0 … {vocab - 1}, got {low} … {high}")


def _check_batch(tokens: Tensor, batch: int) -> None:
    if len(tokens) != batch:
        raise ValueError(
            f"target must have as many sequences as source, got {len(tokens)}, {batch}"
        )


def _check_greedy(bos: int, eos: int, max_tokens: int, vocab: int) -> None:
    if not (0 <= bos < vocab and 0 <= eos < vocab):
        raise ValueError(f"bos and eos must be in 0 … {vocab - 1}, got {bos}, {eos}")
    if max_tokens < 0:
        raise ValueError(f"max_tokens must not be negative, got {max_tokens}")


def _check_schedule(step: int, width: int, warmup: int) -> None:
    if min(step, width, warmup) < 1:
        raise ValueError(f"step, width, warmup must be positive, got {step}, {width}, {warmup}")


def _check_state(state: Mapping[str, Tensor]) -> None:
    kinds = {stack: "|".join(names) for stack, names in _NAMES.items()}
    known = "|".join(rf"{stack}\.layers\.\d+\.({kind})\..+" for stack, kind in kinds.items())
    known += r"|(en|de)coder\.norm\.(weight|bias)"
    if unknown := [key for key in state if not re.fullmatch(known, key)]:
        raise ValueError(f"not of an nn.Transformer with the usual layers, got {unknown}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    pad, bos, eos = 0, 1, 2
    model = Transformer(10, width=32, heads=4, inner=64, layers=1, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)

    # Three to five digits, to be written backwards.
    lengths = torch.randint(3, 6, (128,), generator=generator)
    source = torch.randint(3, 10, (128, 5), generator=generator)
    target = torch.full((128, 7), pad)
    for digits, n, answer in zip(source, lengths, target, strict=True):
        digits[n:] = pad
        answer[0], answer[1 : n + 1], answer[n + 1] = bos, digits[:n].flip(0), eos

    for step in range(1, 201):
        optimizer.param_groups[0]["lr"] = warmup_rate(step, width=32, warmup=100)
        logits, _ = model(source, target[:, :-1], lengths)  # all positions at once
        logits, labels = logits.flatten(0, 1), target[:, 1:].flatten()  # each predicts the next
        loss = F.cross_entropy(logits, labels, ignore_index=pad, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore
        optimizer.step()  # pyright: ignore

    out = greedy(model, source, bos, eos, max_tokens=6, source_lengths=lengths)
    for digits, answer in zip(source[:2], out, strict=False):
        print(*map(int, digits), "->", *map(int, answer))
    labels = target[:, 1:]
    right = ((out == labels) | (labels == pad)).all(dim=1)
    print("right:", int(right.sum()), "of", len(right))
    _, attended = model(source, target[:, :-1], lengths)
    for part in ("encoder", "decoder", "cross"):
        print(part, *(tuple(weights.shape) for weights in getattr(attended, part)))
    # --8<-- [end:demo]
