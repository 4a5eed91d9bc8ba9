"""The suite `operations`: each operation beside the library's, at a size of real use, on a CPU."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.libraries import allow_torchvision
from benchmarks.suites import SEED, Backend, Built, Cell
from snippets.attention.bert import Bert, BertConfig
from snippets.attention.bert import from_huggingface as bert_weights
from snippets.attention.gpt import GPT, GPTSizes
from snippets.attention.gpt import from_huggingface as gpt_weights
from snippets.attention.multi_head_attention import MultiHeadAttention
from snippets.attention.multi_head_attention import from_torch as attention_weights
from snippets.attention.scaled_dot_product_attention import scaled_dot_product_attention
from snippets.attention.transformer import EncoderDecoder
from snippets.attention.transformer import from_torch as transformer_weights
from snippets.concepts.resampling import resize
from snippets.convolution.convolution_arithmetic import conv2d_direct, conv2d_fft, conv2d_im2col
from snippets.convolution.depthwise_separable_convolution import depthwise_conv2d
from snippets.convolution.dilated_convolution import dilated_conv2d
from snippets.convolution.pointwise_convolution import pointwise_conv2d
from snippets.convolution.spatial_pyramid_pooling import pool_cascade, pool_parallel
from snippets.convolution.transposed_convolution import (
    conv_transpose2d_scatter,
    conv_transpose2d_zeros,
)


@dataclass(frozen=True)
class Operation:
    """One comparison.

    page     the concept, "convolution/pointwise_convolution"
    shape    of the inputs, as the page shows it
    ours     our functions by name; `library`: those of the libraries, which all compute the same
    leaves   what the backward pass differentiates by, as far as a function uses it
    """

    page: str
    shape: str
    ours: dict[str, Callable[[], Tensor]]
    library: dict[str, Callable[[], Tensor]]
    leaves: Sequence[Tensor]


def cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """On a CPU only, where the pages of the operations quote them."""
    if device.type == "cpu":
        for page, operation in _all(torch.float32, small).items():
            build = partial(_build, page, small)
            passes = ("forward", "forward and backward")
            yield Cell("operations", page, operation.shape, "float32", build, passes)


def _build(page: str, small: bool, seed: int) -> Built:
    operation = _all(torch.float32, small)[page]
    backends = {name: Backend(run, True) for name, run in operation.ours.items()}
    backends |= {name: Backend(run) for name, run in operation.library.items()}

    def reference(gradients: bool) -> tuple[Tensor, None]:
        with torch.no_grad():
            return next(iter(_all(torch.float64, small)[page].library.values()))(), None

    return Built(operation.leaves, backends, reference)


@cache
def _all(dtype: torch.dtype, small: bool) -> dict[str, Operation]:
    return {operation.page: operation for operation in operations(dtype, small)}


def operations(dtype: torch.dtype = torch.float32, small: bool = False) -> Iterator[Operation]:
    """All comparisons, with the same numbers in each dtype; small: sizes for tests."""
    yield from _attention(dtype, small)
    yield from _models(dtype, small)
    yield from _convolution(dtype, small)
    yield from _resampling(dtype, small)


def _random(dtype: torch.dtype) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return lambda *shape: torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


def _text(*tensors: Tensor) -> str:
    return ", ".join("×".join(map(str, t.shape)) for t in tensors)


def _attention(dtype: torch.dtype, small: bool) -> Iterator[Operation]:
    randn = _random(dtype)
    B, H, N, D = (2, 2, 6, 4) if small else (8, 8, 512, 64)
    q, k, v = (randn(B, H, N, D) for _ in range(3))
    yield Operation(
        "attention/scaled_dot_product_attention",
        f"q, k, v: {_text(q)}",
        {"scaled_dot_product_attention": lambda: scaled_dot_product_attention(q, k, v)[0]},
        {"F.scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(q, k, v)},
        [q, k, v],
    )
    x = randn(B, N, H * D)
    theirs = nn.MultiheadAttention(H * D, H, batch_first=True, dtype=dtype)
    _draw(theirs)
    ours = MultiHeadAttention(H * D, H).to(dtype)
    ours.load_state_dict(attention_weights(theirs.state_dict()))
    yield Operation(
        "attention/multi_head_attention",
        f"x: {_text(x)}, heads={H}",
        {"MultiHeadAttention": lambda: ours(x)[0]},
        {
            "nn.MultiheadAttention": lambda: theirs(x, x, x, average_attn_weights=False)[0],
            "nn.MultiheadAttention(need_weights=False)": lambda: theirs(
                x, x, x, need_weights=False
            )[0],
        },
        [x, *ours.parameters(), *theirs.parameters()],
    )


def _models(dtype: torch.dtype, small: bool) -> Iterator[Operation]:
    allow_torchvision()
    import transformers

    randn = _random(dtype)
    C, H, L, B, N = (16, 2, 1, 2, 5) if small else (256, 4, 4, 8, 128)
    theirs = nn.Transformer(C, H, L, L, 4 * C, dropout=0.0, batch_first=True, dtype=dtype)
    _draw(theirs)
    ours = EncoderDecoder(C, H, 4 * C, L, final_norm=True).to(dtype)
    ours.load_state_dict(transformer_weights(theirs.state_dict()))
    source, target = randn(B, N, C), randn(B, N, C)
    yield Operation(
        "attention/transformer",
        f"source, target: {_text(source)}, heads={H}, layers={L}",
        {"EncoderDecoder": lambda: ours(source, target)[0]},
        {"nn.Transformer": lambda: theirs(source, target)},
        [source, target, *ours.parameters(), *theirs.parameters()],
    )
    V = 50 if small else 8192
    ids = torch.randint(V, (B, N), generator=torch.Generator().manual_seed(SEED))
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=N, n_embd=C, n_layer=L, n_head=H,
        bos_token_id=None, eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    gpt2 = transformers.GPT2LMHeadModel(config).to(dtype)
    _draw(gpt2)
    gpt = GPT(GPTSizes(V, N, C, H, L)).to(dtype)
    gpt.load_state_dict(gpt_weights(gpt2.state_dict()))
    yield Operation(
        "attention/gpt",
        f"ids: {B}×{N}, width={C}, heads={H}, layers={L}",
        {"GPT": lambda: gpt(ids)[0]},
        {"transformers.GPT2LMHeadModel": lambda: gpt2(ids, use_cache=False).logits},
        [*gpt.parameters(), *gpt2.parameters()],
    )
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=C, num_hidden_layers=L, num_attention_heads=H,
        intermediate_size=4 * C, max_position_embeddings=N,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    pretraining = transformers.BertForPreTraining(config).to(dtype)
    _draw(pretraining)
    bert = Bert(BertConfig(V, C, L, H, 4 * C, N)).to(dtype)
    weights = bert_weights(pretraining.state_dict())
    bert.load_state_dict(
        {k.removeprefix("bert."): w for k, w in weights.items() if k.startswith("bert.")}
    )
    their_bert = pretraining.bert
    yield Operation(
        "attention/bert",
        f"ids: {B}×{N}, width={C}, heads={H}, layers={L}",
        {"Bert": lambda: bert(ids)[0]},
        {"transformers.BertModel": lambda: their_bert(ids).last_hidden_state},
        [*bert.parameters(), *their_bert.parameters()],
    )


def _draw(module: nn.Module) -> None:
    """Give the weights numbers that depend on nothing but the seed."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)


def _convolution(dtype: torch.dtype, small: bool) -> Iterator[Operation]:
    randn = _random(dtype)
    B, C, S = (2, 4, 7) if small else (8, 64, 56)
    x, w = randn(B, C, S, S), randn(C, C, 3, 3)
    leaves = [x, w]
    yield Operation(
        "convolution/convolution_arithmetic",
        f"x, weight: {_text(x, w)}, padding=1",
        {
            "conv2d_direct": lambda: conv2d_direct(x, w, padding=1),
            "conv2d_im2col": lambda: conv2d_im2col(x, w, padding=1),
            "conv2d_fft": lambda: conv2d_fft(x, w, padding=1),
        },
        {"F.conv2d": lambda: F.conv2d(x, w, padding=1)},
        leaves,
    )
    yield Operation(
        "convolution/dilated_convolution",
        f"x, weight: {_text(x, w)}, padding=2, dilation=2",
        {"dilated_conv2d": lambda: dilated_conv2d(x, w, padding=2, dilation=2)},
        {"F.conv2d": lambda: F.conv2d(x, w, padding=2, dilation=2)},
        leaves,
    )
    point = randn(4 * C, C)
    yield Operation(
        "convolution/pointwise_convolution",
        f"x, weight: {_text(x, point)}",
        {"pointwise_conv2d": lambda: pointwise_conv2d(x, point)},
        {"F.conv2d": lambda: F.conv2d(x, point[:, :, None, None])},
        [x, point],
    )
    depth = randn(C, 1, 3, 3)
    yield Operation(
        "convolution/depthwise_separable_convolution",
        f"x, weight: {_text(x, depth)}, padding=1",
        {"depthwise_conv2d": lambda: depthwise_conv2d(x, depth, padding=1)},
        {"F.conv2d": lambda: F.conv2d(x, depth, padding=1, groups=C)},
        [x, depth],
    )
    up = randn(C, C, 4, 4)
    yield Operation(
        "convolution/transposed_convolution",
        f"x, weight: {_text(x, up)}, stride=2, padding=1",
        {
            "conv_transpose2d_zeros": lambda: conv_transpose2d_zeros(x, up, stride=2, padding=1),
            "conv_transpose2d_scatter": lambda: conv_transpose2d_scatter(
                x, up, stride=2, padding=1
            ),
        },
        {"F.conv_transpose2d": lambda: F.conv_transpose2d(x, up, stride=2, padding=1)},
        [x, up],
    )

    def parallel() -> Tensor:
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
        return torch.cat([x, *pooled], dim=1)

    yield Operation(
        "convolution/spatial_pyramid_pooling",
        f"x: {_text(x)}, kernels=(5, 9, 13)",
        {"pool_parallel": lambda: pool_parallel(x), "pool_cascade": lambda: pool_cascade(x)},
        {"F.max_pool2d": parallel},
        [x],
    )


def _resampling(dtype: torch.dtype, small: bool) -> Iterator[Operation]:
    B, C, S = (2, 3, 5) if small else (8, 64, 64)
    x = _random(dtype)(B, C, S, S)
    size = (2 * S, 2 * S)
    yield Operation(
        "concepts/resampling",
        f"x: {_text(x)}, size={size}",
        {"resize": lambda: resize(x, size)},
        {"F.interpolate": lambda: F.interpolate(x, size, mode="bilinear", align_corners=False)},
        [x],
    )
