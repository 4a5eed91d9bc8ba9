"""GPT-2: a decoder-only Transformer that generates, loads published weights, and its counters.

Paper: Radford et al., "Language Models are Unsupervised Multitask Learners", OpenAI, 2019,
       section 2.3. https://cdn.openai.com/better-language-models/
       language_models_are_unsupervised_multitask_learners.pdf
       Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020, section 2.1 (GPT-3).
       https://arxiv.org/abs/2005.14165
Code:  https://github.com/openai/gpt-2 (MIT), src/model.py.
Needs: Python >= 3.10, torch >= 2.0, and multi_head_attention.py and
       scaled_dot_product_attention.py beside this file.
Axes:  B batch, N tokens, V vocabulary, C width of the model.
"""

# --8<-- [start:imports]
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from .multi_head_attention import KeysValues, MultiHeadAttention
from .scaled_dot_product_attention import causal_mask

__all__ = [
    "GPT",
    "GPT2",
    "GPT3",
    "GPTSizes",
    "count_multiply_adds",
    "count_parameters",
    "from_huggingface",
    "token_probs",
]


# --8<-- [start:sizes]
class GPTSizes(NamedTuple):
    """What a GPT is built from; its MLPs have 4 * width hidden units."""

    vocabulary: int
    context: int  # greatest number of tokens
    width: int
    heads: int
    layers: int


GPT2 = {
    "small": GPTSizes(50257, 1024, width=768, heads=12, layers=12),
    "medium": GPTSizes(50257, 1024, width=1024, heads=16, layers=24),
    "large": GPTSizes(50257, 1024, width=1280, heads=20, layers=36),
    "xl": GPTSizes(50257, 1024, width=1600, heads=25, layers=48),
}
GPT3 = GPTSizes(50257, 2048, width=12288, heads=96, layers=96)
# --8<-- [end:sizes]


# --8<-- [start:core]
class GPT(nn.Module):
    """Logits of the next token at every position.

    Args:
        sizes: see GPTSizes. Published ones are in GPT2; head and token embedding are one matrix.
        generator: draws the weights, on the CPU: move the model afterwards.

    There is no dropout (GPT-2 was trained with it), and every layer attends densely.
    """

    def __init__(self, sizes: GPTSizes, generator: torch.Generator | None = None) -> None:
        """Draw the weights."""
        super().__init__()
        _check_sizes(sizes)
        self.sizes = sizes
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.context, sizes.width)
        blocks = [_Block(sizes.width, sizes.heads, generator) for _ in range(sizes.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(sizes.width)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 2:  # biases are 0, scales of the norms 1
                    std = 0.01 if name.startswith("positions") else 0.02  # src/model.py
                    if name.endswith(("out_proj.weight", "mlp.2.weight")):  # end of a branch
                        std /= math.sqrt(2 * sizes.layers)  # N residual layers, two a block
                    p.normal_(0, std, generator=generator)
                elif name.endswith("bias"):
                    p.zero_()

    def forward(
        self, ids: Tensor, cache: Sequence[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Read tokens, the first ones or those that follow what the cache has seen.

        Args:
            ids: (B, N), int64, from 0 to V - 1.
            cache: what the call before returned, one entry a block.

        Returns:
            Logits (B, N, V); those at position i are about token i + 1. The longer cache.

        Raises:
            ValueError: shapes do not fit, an id is not in the vocabulary, too many tokens.
            TypeError: ids are not int64.
        """
        _check_ids(ids, self.sizes)
        past = cache[0].k.shape[2] if cache else 0
        n = past + ids.shape[1]
        _check_cache(cache, n, ids.shape[0], self.sizes)
        position = torch.arange(past, n, device=ids.device)
        x = self.tokens(ids) + self.positions(position)  # (B, N, C)
        mask = causal_mask(ids.shape[1], n, ids.device)
        longer: list[KeysValues] = []
        for i, block in enumerate(self.blocks):
            x, seen = block(x, mask, cache[i] if cache else None)
            longer.append(seen)
        return F.linear(self.norm(x), self.tokens.weight), longer  # (B, N, V)

    def generate(
        self,
        ids: Tensor,
        steps: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Append `steps` tokens to each row of ids, (B, N) -> (B, N + steps).

        Args:
            ids: the prompts, all of one length, at least one token.
            steps: how many to add; prompt and new tokens must fit the context.
            temperature, top_k: see `token_probs`; temperature 0 is greedy.
            generator: draws the tokens, on the device of the model.

        Raises:
            ValueError: the arguments do not fit.
        """
        _check_ids(ids, self.sizes)
        _check_generation(ids, steps, temperature, top_k, self.sizes)
        cache: list[KeysValues] | None = None
        new = ids
        with torch.no_grad():
            for _ in range(steps):
                logits, cache = self(new, cache)  # only what the cache has not seen
                probs = token_probs(logits[:, -1], temperature, top_k)  # (B, V)
                new = torch.multinomial(probs, 1, generator=generator)  # (B, 1)
                ids = torch.cat([ids, new], dim=1)
        return ids


class _Block(nn.Module):
    """Attention and MLP, each on a normalised copy and added to the residual stream."""

    def __init__(self, width: int, heads: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, generator=generator)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        h = self.norm1(x)
        seen = self.attention.keys_values(h)
        if past is not None:
            seen = past.append(seen)
        x = x + self.attention(h, seen, mask)[0]  # (B, N, C)
        return x + self.mlp(self.norm2(x)), seen


def token_probs(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """Probabilities to draw the next token from, (..., V) -> (..., V).

    Args:
        logits: floating point.
        temperature: divides the logits; 0 gives all to the greatest (the first among equals).
        top_k: keep this many greatest logits, and any that equal the least of them.

    Raises:
        ValueError: temperature is not a number >= 0, or top_k not from 1 to V.
    """
    _check_sampling(temperature, top_k, logits.shape[-1])
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    if top_k is not None:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    shifted = logits - logits.amax(dim=-1, keepdim=True)  # a small temperature cannot overflow
    return (shifted / max(temperature, torch.finfo(logits.dtype).tiny)).softmax(dim=-1)


# --8<-- [end:core]


# --8<-- [start:keymap]
def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename what transformers' GPT2LMHeadModel or GPT2Model gives, for GPT.load_state_dict.

    Their Conv1D computes x @ weight + bias: weights of linear layers are transposed.

    Raises:
        ValueError: a key is not of GPT-2, or the head is not the token embedding.
    """
    names = {"wte": "tokens", "wpe": "positions", "ln_f": "norm"}
    parts = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_proj": "attention.out_proj"}
    parts |= {"mlp.c_fc": "mlp.0", "mlp.c_proj": "mlp.2"}
    _check_keys(state)
    renamed: dict[str, Tensor] = {}
    for key, w in state.items():
        module, _, kind = key.removeprefix("transformer.").rpartition(".")
        if module == "lm_head" or kind == "masked_bias" or module.endswith(".attn"):
            continue  # the tied head; masks, which old files store
        if not module.startswith("h."):
            renamed[f"{names[module]}.{kind}"] = w
            continue
        _, index, part = module.split(".", 2)
        if w.ndim == 2:
            w = w.T  # (in, out) -> (out, in)
        if part == "attn.c_attn":  # (3*C, C) or (3*C): queries, keys, values from the top
            for name, third in zip("qkv", w.chunk(3), strict=True):
                renamed[f"blocks.{index}.attention.{name}_proj.{kind}"] = third
        else:
            renamed[f"blocks.{index}.{parts[part]}.{kind}"] = w
    return renamed


# --8<-- [end:keymap]


# --8<-- [start:counters]
def count_parameters(sizes: GPTSizes) -> dict[str, tuple[int, int]]:
    """For each part: (numbers in one, how often it occurs). The head is the token embedding."""
    _check_sizes(sizes)
    C = sizes.width
    return {
        "token embedding": (sizes.vocabulary * C, 1),
        "positions": (sizes.context * C, 1),
        "attention": (4 * C * C + 4 * C, sizes.layers),  # queries, keys, values, output
        "MLP": (8 * C * C + 5 * C, sizes.layers),  # C -> 4C -> C
        "norms": (4 * C, sizes.layers),  # two a block, scale and shift
        "final norm": (2 * C, 1),
    }


def count_multiply_adds(sizes: GPTSizes, tokens: int, cached: int = 0) -> dict[str, int]:
    """Of one pass over `tokens` tokens after `cached` others; scores that are masked count."""
    _check_sizes(sizes)
    _check_tokens(tokens, cached)
    C, N = sizes.width, tokens
    return {
        "attention weights": sizes.layers * 4 * C * C * N,
        "scores and averages": sizes.layers * 2 * C * N * (cached + N),  # q k^T, weights times v
        "MLP": sizes.layers * 8 * C * C * N,
        "head": sizes.vocabulary * C * N,
    }


# --8<-- [end:counters]


def _check_sizes(sizes: GPTSizes) -> None:
    if min(sizes) < 1:
        raise ValueError(f"sizes must be positive, got {sizes}")
    if sizes.width % sizes.heads:
        raise ValueError(f"width must be a multiple of heads, got {sizes.width}, {sizes.heads}")


def _check_ids(ids: Tensor, sizes: GPTSizes) -> None:
    if ids.dtype != torch.int64:
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    if ids.ndim != 2:
        raise ValueError(f"ids must be (B, N), got {tuple(ids.shape)}")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < sizes.vocabulary:
        span = f"{int(ids.min())} to {int(ids.max())}"
        raise ValueError(f"ids must be from 0 to {sizes.vocabulary - 1}, got {span}")


def _check_cache(cache: Sequence[KeysValues] | None, n: int, batch: int, sizes: GPTSizes) -> None:
    if cache is not None and len(cache) != sizes.layers:
        raise ValueError(f"cache must have {sizes.layers} entries, got {len(cache)}")
    if cache and cache[0].k.shape[0] != batch:
        raise ValueError(f"cache must hold {batch} sequences, got {cache[0].k.shape[0]}")
    if n > sizes.context:
        raise ValueError(f"the context ends at {sizes.context} tokens, got {n}")


def _check_generation(
    ids: Tensor, steps: int, temperature: float, top_k: int | None, sizes: GPTSizes
) -> None:
    if not ids.shape[1]:
        raise ValueError(f"a prompt needs at least one token, got {tuple(ids.shape)}")
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    if ids.shape[1] + steps > sizes.context:
        wanted = f"{ids.shape[1]} + {steps}"
        raise ValueError(f"the context ends at {sizes.context} tokens, got {wanted}")
    _check_sampling(temperature, top_k, sizes.vocabulary)


def _check_sampling(temperature: float, top_k: int | None, vocabulary: int) -> None:
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a finite number >= 0, got {temperature}")
    if top_k is not None and not 1 <= top_k <= vocabulary:
        raise ValueError(f"top_k must be from 1 to {vocabulary}, got {top_k}")


_KEY = re.compile(
    r"(lm_head|wte|wpe)\.weight|ln_f\.(weight|bias)|h\.\d+\.(attn\.(masked_)?bias"
    r"|(ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.(weight|bias))"
)


def _check_keys(state: Mapping[str, Tensor]) -> None:
    wrong = [key for key in state if not _KEY.fullmatch(key.removeprefix("transformer."))]
    if wrong:
        raise ValueError(f"not of transformers' GPT-2, got {sorted(wrong)}")
    head = state.get("lm_head.weight")
    tokens = state.get("transformer.wte.weight", state.get("wte.weight"))
    if head is not None and tokens is not None and not torch.equal(head, tokens):
        raise ValueError("lm_head.weight differs from wte.weight; here they are one matrix")


def _check_tokens(tokens: int, cached: int) -> None:
    if min(tokens, cached) < 0:
        raise ValueError(f"tokens and cached must not be negative, got {tokens}, {cached}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    text = "to be, or not to be, that is the question"
    letters = sorted(set(text))
    ids = torch.tensor([[letters.index(letter) for letter in text]])  # (1, 41)
    model = GPT(GPTSizes(len(letters), context=64, width=32, heads=4, layers=2), generator)

    # Training: all positions at once, each asked for the token that follows.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        logits, _ = model(ids[:, :-1])  # (1, 40, V)
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore
        optimizer.step()  # pyright: ignore

    # Generation: one token at a time.
    out = model.generate(ids[:, :3], steps=38, temperature=0)
    print("".join(letters[i] for i in out[0]))

    for temperature in (0, 0.5, 1, 2):
        probs = token_probs(torch.tensor([2.0, 1.0, 0.0, -1.0]), temperature, top_k=3)
        print(f"T = {temperature:<3}", *(f"{p:.2f}" for p in probs))
    # --8<-- [end:demo]
