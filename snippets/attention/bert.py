"""BERT: the encoder, its two pre-training tasks, and weights of the transformers library.

Paper: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
       Understanding", NAACL 2019, section 3 and appendix A. https://arxiv.org/abs/1810.04805
Needs: Python >= 3.10, torch >= 2.0, and multi_head_attention.py and
       scaled_dot_product_attention.py beside this file.
Axes:  B sequences, N tokens, C width, S selected tokens, V vocabulary, L layers, H heads.
"""

# --8<-- [start:imports]
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from .multi_head_attention import MultiHeadAttention

__all__ = [
    "BASE",
    "LARGE",
    "Bert",
    "BertConfig",
    "BertForPreTraining",
    "BertLayer",
    "SentencePair",
    "count_parameters",
    "from_huggingface",
    "mask_tokens",
    "next_sentence_pairs",
    "pack_pairs",
    "pretraining_loss",
]


# --8<-- [start:core]
@dataclass(frozen=True)
class BertConfig:
    """Sizes of the model; the defaults are those of bert-base-uncased."""

    vocabulary: int = 30522  # V
    width: int = 768  # C
    layers: int = 12  # L
    heads: int = 12  # H
    hidden: int = 3072  # of the feed-forward network, 4 C
    positions: int = 512  # the longest sequence
    segments: int = 2


BASE = BertConfig()
LARGE = BertConfig(width=1024, layers=24, heads=16, hidden=4096)


class BertLayer(nn.Module):
    """Self-attention and a feed-forward network; after each, add and normalise (post-norm)."""

    def __init__(self, config: BertConfig) -> None:
        """Make the parameters."""
        super().__init__()
        self.attention = MultiHeadAttention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.up = nn.Linear(config.width, config.hidden)
        self.down = nn.Linear(config.hidden, config.width)
        self.output_norm = nn.LayerNorm(config.width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C); mask as in MultiHeadAttention."""
        x = self.attention_norm(x + self.attention(x, mask=mask)[0])
        return self.output_norm(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """The encoder, with the pooler.

    Args:
        config: sizes.
        generator: draws the weights, on the CPU: a normal distribution of standard deviation
            0.02, cut off at twice that. Biases are 0, scales of the norms 1.

    There is no dropout; the paper trains with 0.1 on every layer.
    """

    def __init__(self, config: BertConfig, generator: torch.Generator | None = None) -> None:
        """Draw the weights."""
        super().__init__()
        _check_config(config)
        C = config.width
        self.token_embedding = nn.Embedding(config.vocabulary, C)
        self.position_embedding = nn.Embedding(config.positions, C)
        self.segment_embedding = nn.Embedding(config.segments, C)
        self.embedding_norm = nn.LayerNorm(C, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))
        self.pooler = nn.Linear(C, C)
        _draw(self, generator)

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode sequences that begin with [CLS].

        Args:
            tokens: int64, (B, N), 1 <= N <= positions.
            segments: int64, (B, N): 0 for the first sentence, 1 for the second. None: all 0.
            mask: bool, (B, N); True means "a token", False padding (`attention_mask` of the
                transformers library, as bool). None: no padding.

        Returns:
            The last layer, (B, N, C), with outputs of no meaning at the padding, and what the
            pooler makes of [CLS], (B, C).

        Raises:
            ValueError: shapes do not fit, or a token or segment is not in its table.
            TypeError: mask is not bool, or tokens or segments are not int64.
        """
        segments = torch.zeros_like(tokens) if segments is None else segments
        _check_tokens(tokens, segments, mask, self.position_embedding.num_embeddings)
        _check_range("tokens", tokens, self.token_embedding.num_embeddings)
        _check_range("segments", segments, self.segment_embedding.num_embeddings)
        x = self.token_embedding(tokens) + self.segment_embedding(segments)  # (B, N, C)
        x = self.embedding_norm(x + self.position_embedding.weight[: tokens.shape[1]])
        if mask is not None:
            mask = mask[:, None, None, :]  # (B, 1, 1, N): keys, for every head and query
        for layer in self.layers:
            x = layer(x, mask)
        return x, self.pooler(x[:, 0]).tanh()  # (B, N, C), (B, C)


def _draw(module: nn.Module, generator: torch.Generator | None) -> None:
    share = math.erf(2 / math.sqrt(2))  # of a normal distribution within two deviations
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                part.weight.uniform_(-share, share, generator=generator).erfinv_()
                part.weight.mul_(0.02 * math.sqrt(2))
            if isinstance(part, nn.Linear):
                part.bias.zero_()


# --8<-- [end:core]


# --8<-- [start:heads]
class BertForPreTraining(nn.Module):
    """BERT with the heads of its two tasks."""

    def __init__(self, config: BertConfig, generator: torch.Generator | None = None) -> None:
        """Draw the weights."""
        super().__init__()
        self.bert = Bert(config, generator)
        self.transform = nn.Linear(config.width, config.width)
        self.transform_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.token_bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.next_sentence = nn.Linear(config.width, 2)
        for head in (self.transform, self.next_sentence):
            _draw(head, generator)

    def token_logits(self, x: Tensor) -> Tensor:
        """Score the vocabulary, (..., C) -> (..., V); the matrix is that of the tokens."""
        x = self.transform_norm(F.gelu(self.transform(x)))
        return F.linear(x, self.bert.token_embedding.weight, self.token_bias)

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        selected: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score tokens and order of the sentences.

        Args:
            tokens, segments, mask: as for Bert.
            selected: bool, (B, N): positions to predict, usually `labels != -100`. None: all.

        Returns:
            Logits of the tokens, (S, V) or (B, N, V), and of the pair, (B, 2): "follows" and
            "is random".
        """
        x, pooled = self.bert(tokens, segments, mask)
        if selected is not None:
            _check_selected(selected, tokens)
            x = x[selected]  # (S, C)
        return self.token_logits(x), self.next_sentence(pooled)


def pretraining_loss(
    token_logits: Tensor, labels: Tensor, pair_logits: Tensor, pair_labels: Tensor
) -> Tensor:
    """Sum of the two mean cross-entropies.

    Args:
        token_logits: (S, V) or (B, N, V).
        labels: (S) or (B, N); -100 is left out. Where nothing is left, this term is 0.
        pair_logits: (B, 2).
        pair_labels: (B); 0: the second sentence follows the first, 1: it is a random one.
    """
    _check_labels(token_logits, labels)
    count = (labels != -100).sum().clamp(min=1)
    token_loss = F.cross_entropy(token_logits.flatten(0, -2), labels.flatten(), reduction="sum")
    return token_loss / count + F.cross_entropy(pair_logits, pair_labels)


# --8<-- [end:heads]


# --8<-- [start:masking]
def mask_tokens(
    tokens: Tensor,
    special: Sequence[int],
    mask_token: int,
    vocabulary: int,
    rate: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Select tokens to predict, and hide most of them.

    Args:
        tokens: int64, (B, N); stays as it is.
        special: tokens that are never selected: [CLS], [SEP], padding, ...
        mask_token: that of [MASK].
        vocabulary: V; a random token is one of all V, as in the official code.
        rate: of each sequence round(rate * m) of the m tokens that are not special are
            selected, at least one.
        generator: draws, on its device.

    Returns:
        Input: of the selected tokens 80 % are [MASK], 10 % random, 10 % as they were.
        Labels: the tokens that were selected, elsewhere -100. Both (B, N).

    Raises:
        ValueError: tokens are not (B, N), mask_token or rate is out of range.
        TypeError: tokens are not int64.
    """
    _check_masking(tokens, mask_token, vocabulary, rate)
    device = generator.device if generator is not None else tokens.device
    order, lot = torch.rand(2, *tokens.shape, generator=generator, device=device).to(tokens.device)
    forbidden = torch.isin(
        tokens, torch.tensor(special, dtype=tokens.dtype, device=tokens.device)
    )  # (B, N)
    order = order.masked_fill(forbidden, 2.0)  # behind all others
    ranks = order.argsort(dim=1).argsort(dim=1)  # (B, N): 0 is selected first
    m = (~forbidden).sum(dim=1, keepdim=True)  # (B, 1)
    selected = (ranks < (rate * m).round().clamp(min=1)) & ~forbidden
    random = torch.randint(vocabulary, tokens.shape, generator=generator, device=device)
    masked = torch.where(selected & (lot < 0.8), mask_token, tokens)
    masked = torch.where(selected & (lot >= 0.9), random.to(tokens.device), masked)
    return masked, tokens.masked_fill(~selected, -100)


# --8<-- [end:masking]


# --8<-- [start:pairs]
class SentencePair(NamedTuple):
    """Two sentences as tokens; whether the second is random."""

    first: Sequence[int]
    second: Sequence[int]
    is_random: bool


def next_sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]], generator: torch.Generator | None = None
) -> list[SentencePair]:
    """For each sentence but the last of its document: the next, or one of another document.

    Which of the two is a fair coin. A "sentence" is any span of text, as in the paper.
    """
    _check_documents(documents)

    def draw(n: int) -> int:
        device = generator.device if generator is not None else None
        return int(torch.randint(n, (), generator=generator, device=device))

    pairs: list[SentencePair] = []
    for d, document in enumerate(documents):
        for i in range(len(document) - 1):
            if draw(2) == 0:
                pairs.append(SentencePair(document[i], document[i + 1], False))
            else:
                other = documents[(d + 1 + draw(len(documents) - 1)) % len(documents)]
                pairs.append(SentencePair(document[i], other[draw(len(other))], True))
    return pairs


def pack_pairs(
    pairs: Sequence[SentencePair], length: int, cls: int, sep: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """[CLS] first [SEP] second [SEP], cut and padded to `length`.

    While a pair is too long its longer sentence loses its last token, the second if equal.

    Returns:
        Tokens and segments, int64 (B, length), and labels (B): 1 where the second is random.
        The first [SEP] belongs to segment 0; so does the padding.
    """
    _check_length(length)
    tokens = torch.full((len(pairs), length), pad)
    segments = torch.zeros_like(tokens)
    for row, pair in enumerate(pairs):
        first, second = list(pair.first), list(pair.second)
        while len(first) + len(second) > length - 3:
            (first if len(first) > len(second) else second).pop()
        line = [cls, *first, sep, *second, sep]
        tokens[row, : len(line)] = torch.tensor(line)
        segments[row, len(first) + 2 : len(line)] = 1
    return tokens, segments, torch.tensor([int(p.is_random) for p in pairs], dtype=torch.int64)


# --8<-- [end:pairs]


# --8<-- [start:count]
def count_parameters(config: BertConfig) -> dict[str, int]:
    """Parameters of BertForPreTraining, part by part."""
    C, M, V = config.width, config.hidden, config.vocabulary
    norm = 2 * C
    return {
        "token embedding": V * C,
        "positions, segments, norm": (config.positions + config.segments) * C + norm,
        "attention": config.layers * (4 * (C * C + C) + norm),
        "feed-forward": config.layers * (2 * C * M + M + C + norm),
        "pooler": C * C + C,
        "pre-training heads": C * C + C + norm + V + 2 * C + 2,  # the matrix (V, C) is shared
    }


# --8<-- [end:count]


# --8<-- [start:keymap]
RENAMED = {
    "embeddings.word_embeddings": "token_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.token_type_embeddings": "segment_embedding",
    "embeddings.LayerNorm": "embedding_norm",
    "encoder.layer.*.attention.self.query": "layers.*.attention.q_proj",
    "encoder.layer.*.attention.self.key": "layers.*.attention.k_proj",
    "encoder.layer.*.attention.self.value": "layers.*.attention.v_proj",
    "encoder.layer.*.attention.output.dense": "layers.*.attention.out_proj",
    "encoder.layer.*.attention.output.LayerNorm": "layers.*.attention_norm",
    "encoder.layer.*.intermediate.dense": "layers.*.up",
    "encoder.layer.*.output.dense": "layers.*.down",
    "encoder.layer.*.output.LayerNorm": "layers.*.output_norm",
    "pooler.dense": "pooler",
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "transform_norm",
    "cls.seq_relationship": "next_sentence",
}
SHARED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # stored elsewhere too


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of BertModel or BertForPreTraining for Bert or BertForPreTraining here.

    Older files call scale and bias of the norms gamma and beta; they are read as well.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, weight in state.items():
        prefix = "bert." if key.startswith("bert.") else ""
        name, _, kind = key.removeprefix(prefix).rpartition(".")
        number = re.search(r"(?<=layer\.)\d+", name)
        found = RENAMED.get(re.sub(r"(?<=layer\.)\d+", "*", name, count=1))
        if key == "cls.predictions.bias":
            renamed["token_bias"] = weight
        elif found is not None:
            kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
            renamed[f"{prefix}{found}.{kind}".replace("*", number[0] if number else "*")] = weight
        elif key not in SHARED and kind != "position_ids":
            unknown.append(key)
    _check_known(unknown)
    return renamed


# --8<-- [end:keymap]


def _check_config(config: BertConfig) -> None:
    if min(vars(config).values()) < 1:
        raise ValueError(f"sizes must be positive, got {config}")


def _check_tokens(tokens: Tensor, segments: Tensor, mask: Tensor | None, positions: int) -> None:
    if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= positions:
        shape = tuple(tokens.shape)
        raise ValueError(f"tokens must be (B, N) with 1 <= N <= {positions}, got {shape}")
    for name, x, dtype in (
        ("tokens", tokens, torch.int64),
        ("segments", segments, torch.int64),
        ("mask", mask, torch.bool),
    ):
        if x is None:
            continue
        if x.shape != tokens.shape:
            shapes = f"{tuple(x.shape)}, not {tuple(tokens.shape)}"
            raise ValueError(f"{name} must have the shape of tokens, got {shapes}")
        if x.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {x.dtype}")


def _check_range(name: str, x: Tensor, size: int) -> None:
    if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < size:
        span = f"{int(x.min())} to {int(x.max())}"
        raise ValueError(f"{name} must be from 0 to {size - 1}, got {span}")


def _check_selected(selected: Tensor, tokens: Tensor) -> None:
    if selected.shape != tokens.shape or selected.dtype != torch.bool:
        got = f"{tuple(selected.shape)}, {selected.dtype}"
        raise ValueError(f"selected must be bool {tuple(tokens.shape)}, got {got}")


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if logits.shape[:-1] != labels.shape:
        shapes = f"{tuple(labels.shape)} for logits {tuple(logits.shape)}"
        raise ValueError(f"labels must have the leading axes of the logits, got {shapes}")


def _check_masking(tokens: Tensor, mask_token: int, vocabulary: int, rate: float) -> None:
    if tokens.dtype != torch.int64:
        raise TypeError(f"tokens must be int64, got {tokens.dtype}")
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be (B, N), got {tuple(tokens.shape)}")
    if not 0 <= mask_token < vocabulary:
        raise ValueError(f"mask_token must be in [0, {vocabulary}), got {mask_token}")
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be in (0, 1], got {rate}")


def _check_documents(documents: Sequence[Sequence[Sequence[int]]]) -> None:
    if len(documents) < 2 or not all(documents):
        counts = [len(document) for document in documents]
        raise ValueError(f"need two or more documents, none empty, got sentences: {counts}")


def _check_length(length: int) -> None:
    if length < 5:
        raise ValueError(f"length must hold [CLS] A [SEP] B [SEP], 5 or more, got {length}")


def _check_known(unknown: Sequence[str]) -> None:
    if unknown:
        raise ValueError(f"not of a BertModel or BertForPreTraining, got {sorted(unknown)}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    config = BertConfig(vocabulary=40, width=32, layers=2, heads=4, hidden=64, positions=16)
    model = BertForPreTraining(config, generator)
    pad, cls, sep, mask_token = 0, 1, 2, 3
    documents = [[[10, 11, 12], [13, 14], [15, 16, 17, 18]], [[20, 21], [22, 23, 24]]]

    pairs = next_sentence_pairs(documents, generator)
    tokens, segments, pair_labels = pack_pairs(pairs, 12, cls, sep, pad)  # each (3, 12), (3)
    masked, labels = mask_tokens(tokens, [pad, cls, sep], mask_token, 40, generator=generator)
    names = ("tokens", "segments", "input", "labels")
    for row in range(2):
        for name, x in zip(names, (tokens, segments, masked, labels), strict=True):
            print(f"{name:8}", *(f"{i:3}" if i >= 0 else "  ." for i in x[row]))

    selected = labels != -100
    token_logits, pair_logits = model(masked, segments, tokens != pad, selected)
    loss = pretraining_loss(token_logits, labels[selected], pair_logits, pair_labels)
    print(tuple(token_logits.shape), tuple(pair_logits.shape))
    print(f"loss {loss.item():.1f}, by chance {math.log(40) + math.log(2):.1f}")
    # --8<-- [end:demo]
