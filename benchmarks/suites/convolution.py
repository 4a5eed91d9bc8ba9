"""The suites `convolution` and `depthwise`: layers of known networks, in both memory layouts."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.suites import Backend, Built, Cell, random_tensors
from benchmarks.suites.heads import ON_GPU
from snippets.convolution.convolution_arithmetic import conv2d_im2col
from snippets.convolution.depthwise_separable_convolution import depthwise_conv2d
from snippets.kernels import depthwise_convolution as depthwise
from snippets.kernels import implicit_gemm_convolution as gemm
from snippets.kernels.depthwise_convolution import causal_conv1d, depthwise_conv2d_kernel
from snippets.kernels.fft_convolution import fft_conv2d
from snippets.kernels.implicit_gemm_convolution import conv1x1_fused, implicit_gemm_conv2d
from snippets.kernels.winograd import winograd_conv2d

PASSES = ("forward", "dgrad", "wgrad")
NCHW, LAST = torch.contiguous_format, torch.channels_last
LAYOUTS = {NCHW: "NCHW", LAST: "channels_last"}
Conv = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """Windows of R squared over C channels of a map of `side` squared; K channels come out."""

    C: int
    K: int
    R: int
    side: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """What keeps the size at stride 1."""
        return self.dilation * (self.R - 1) // 2

    @property
    def out(self) -> int:
        """Side of the output."""
        reach = self.dilation * (self.R - 1) + 1
        return (self.side + 2 * self.padding - reach) // self.stride + 1

    @property
    def plain(self) -> bool:
        """Neither stride, dilation nor groups."""
        return self.stride == self.dilation == self.groups == 1

    def conv(self) -> Conv:
        """The library's function of input and weight."""
        return partial(F.conv2d, **self.options(), groups=self.groups)

    def options(self) -> dict[str, int]:
        """Of a convolution without groups."""
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation)


# ResNet-50's distinct convolutions at 224 x 224 (He et al. 2016, table 1; the stride of a
# bottleneck on its 3x3, as in torchvision).
RESNET = [Layer(3, 64, 7, 224, 2), Layer(64, 64, 1, 56), Layer(64, 64, 3, 56)]
RESNET += [Layer(64, 256, 1, 56), Layer(256, 64, 1, 56)]
for _width, _side in ((128, 56), (256, 28), (512, 14)):
    _half = _side // 2
    RESNET += [Layer(2 * _width, _width, 1, _side), Layer(_width, _width, 3, _side, 2)]
    RESNET += [Layer(_width, 4 * _width, 1, _half), Layer(2 * _width, 4 * _width, 1, _side, 2)]
    RESNET += [Layer(4 * _width, _width, 1, _half), Layer(_width, _width, 3, _half)]
# ResNeXt-50 32x4d at stride 1 (Xie et al. 2017, table 1); the last two stages of a ResNet with
# dilation 2 and 4 at output stride 8 (Chen et al. 2017, section 3.1), at 224 x 224.
GROUPED = [
    Layer(C, C, 3, side, groups=32) for C, side in ((128, 56), (256, 28), (512, 14), (1024, 7))
]
DILATED = [Layer(256, 256, 3, 28, dilation=2), Layer(512, 512, 3, 28, dilation=4)]
# MobileNetV2 (Sandler et al. 2018, table 2), MobileNetV3 (Howard et al. 2019, table 1), ConvNeXt-T
# (Liu et al. 2022, table 9), RepLKNet-31B (Ding et al. 2022, section 4.1): channels, window, side,
# stride.
MOBILE = [(144, 3, 56, 1), (144, 3, 56, 2), (576, 3, 14, 1), (960, 3, 7, 1), (96, 3, 112, 2)]
MOBILE += [(120, 5, 28, 1), (672, 5, 14, 2)]
CONVNEXT = [(96, 7, 56, 1), (192, 7, 28, 1), (384, 7, 14, 1), (768, 7, 7, 1)]
REPLK = [(128, 31, 56, 1), (256, 29, 28, 1), (512, 27, 14, 1), (1024, 13, 7, 1)]
DEPTHWISE = [Layer(C, C, R, side, s, groups=C) for C, R, side, s in MOBILE + CONVNEXT + REPLK]
FUSED = [Layer(64, 256, 1, 56), Layer(128, 512, 1, 28), Layer(256, 1024, 1, 14)]
# Ladders and candidates: what the pages name; pixels, channels out and in, warps, stages, boxes.
STEP = Layer(128, 128, 3, 28)
LADDER = {
    "gathered": gemm._Config(64, 64, 32, 4, 1),
    "copies ahead": gemm._Config(256, 128, 64, 8, 3),
    "boxes": gemm._Config(256, 128, 64, 8, 3, boxes=True),
}
FORWARD = [(256, 128, 64, 8, 3), (256, 128, 64, 8, 4), (128, 128, 64, 8, 4), (256, 64, 64, 8, 4)]
WEIGHT = [(64, 128, 128, 8, 3), (64, 128, 128, 8, 4), (128, 128, 128, 8, 2)]
# Rows of the filter at a time, rows and columns of a tile, tiles and channels, warps.
DEPTHWISE_LADDER = {
    "one output a thread": depthwise._Config(3, 1, 1, 8, 64, 4),
    "row of four": depthwise._Config(3, 1, 4, 8, 64, 4),
    "four by four": depthwise._Config(3, 4, 4, 8, 64, 4),
}
DEPTHWISE_CANDIDATES = {
    3: [(3, 4, 4, 8, 64, 4), (3, 4, 4, 8, 128, 4), (3, 2, 4, 8, 64, 4)],
    5: [(5, 4, 4, 8, 64, 4), (5, 2, 4, 8, 64, 4), (1, 2, 8, 8, 64, 4)],
    7: [(7, 2, 8, 8, 64, 4), (1, 1, 8, 8, 64, 4), (1, 2, 8, 8, 64, 4)],
}


def cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """The ladder, then ResNet-50, the forward pass first."""
    gpu = device.type == "cuda" and not small
    layers, fused = RESNET + GROUPED + DILATED, FUSED
    if small:
        layers, fused = [Layer(8, 8, 3, 6)], [Layer(8, 8, 1, 6)]
    elif not gpu:
        layers, fused = [RESNET[2], RESNET[3], RESNET[6], GROUPED[0], DILATED[0]], FUSED[:1]
    images = 128 if gpu else 1
    yield _ladder(device, Layer(8, 8, 3, 6) if small else STEP, images)
    for name in PASSES:
        for layer in layers:
            if layer.C > 3 or name != "dgrad":  # nobody asks for that of the image
                yield _cell("convolution", device, layer, images, name)
        if name == "forward":
            for layer in fused:
                yield _fused(device, layer, images)
            if gpu:
                yield _cell("convolution", device, STEP, images, name, "float16")


def depthwise_cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """The ladder, maps of MobileNet, ConvNeXt and RepLKNet, sequences of Mamba."""
    gpu = device.type == "cuda" and not small
    layers = DEPTHWISE
    if small:
        layers = [Layer(8, 8, 3, 6, groups=8)]
    elif not gpu:
        layers = [DEPTHWISE[0], DEPTHWISE[2], DEPTHWISE[8], DEPTHWISE[12]]
    yield _depthwise_ladder(device, layers[0], 128 if gpu else 1)
    for name in PASSES:
        for layer in layers:
            images = 64 if layer.R >= 13 else 128
            yield _cell("depthwise", device, layer, images if gpu else 1, name)
        if gpu and name == "forward":
            for layer in (DEPTHWISE[0], DEPTHWISE[5]):
                yield _cell("depthwise", device, layer, 128, name, "float16")
        B, C, L = (8, 5120, 2048) if gpu else (1, 16, 32) if small else (1, 512, 2048)
        yield _conv1d(device, B, C, L, name)


def tuning_cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """A wide and a narrow layer, forward and by the weight."""
    layers = [Layer(8, 8, 3, 6)] if small else [STEP, RESNET[2], RESNET[3], RESNET[-1]]
    for layer in layers:
        configs = {str(c): gemm._Config(*c, boxes=True) for c in FORWARD}
        yield _tuning(device, layer, 1 if small else 128, configs, "forward")
        configs = {
            f"{c}, {programs}": gemm._Config(*c, boxes=True, programs=programs)
            for c in WEIGHT
            for programs in (1, 2)
        }
        yield _tuning(device, layer, 1 if small else 128, configs, "wgrad")


def depthwise_tuning_cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """A layer of each size of filter, forward."""
    layers = [Layer(8, 8, 3, 6, groups=8)] if small else [DEPTHWISE[i] for i in (0, 5, 7, 9)]
    for layer in layers:
        configs = {str(c): depthwise._Config(*c) for c in DEPTHWISE_CANDIDATES[layer.R]}
        yield _steps("depthwise", "tuning", device, layer, 1 if small else 128, {}, configs)


def _dtype(device: torch.device) -> str:
    return "bfloat16" if device.type == "cuda" else "float32"


def _library(suite: str, device: torch.device) -> str:
    """cuDNN, where PyTorch always takes it; of depthwise layers only those in channels_last."""
    return "cuDNN" if device.type == "cuda" and suite == "convolution" else "F.conv2d"


@cache
def _searching(device: torch.device) -> ThreadPoolExecutor:
    """A thread for cuDNN's search: a plan is kept for its thread, found by search or not."""
    if device.type == "cpu":
        return ThreadPoolExecutor(1)
    return ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(device,))


def _searched(run: Callable[[], Tensor]) -> Tensor:
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return run()


@cache
def _compiled(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 256  # it would run uncompiled beyond, with a warning
    return torch.compile(run, dynamic=False, fullgraph=True)


class _Tensors:
    """Input, weight and upstream gradient, in a layout."""

    def __init__(self, tensors: Iterable[Tensor], layout: str) -> None:
        self.x, self.weight, self.upstream = tensors
        self.layout = layout

    @classmethod
    def of(cls, drawn: list[Tensor], layout: torch.memory_format) -> "_Tensors":
        """Copied to a layout here, which is not timed."""
        return cls((x.detach().clone(memory_format=layout) for x in drawn), LAYOUTS[layout])

    def library(self, layer: Layer, name: str, search: bool = False) -> Backend:
        """The function of PyTorch; gradients without autograd, so that all run in one thread."""
        if name == "forward":
            run: Callable[[], Tensor] = partial(layer.conv(), self.x, self.weight)
        else:
            which = PASSES.index(name) - 1
            twice = [[n, n] for n in (layer.stride, layer.padding, layer.dilation)]
            mask = [which == 0, which == 1, False]
            args = (self.upstream, self.x, self.weight, None, *twice, False, [0, 0], layer.groups)

            def run() -> Tensor:
                return torch.ops.aten.convolution_backward(*args, mask)[which]

        if not search:
            return Backend(run, layout=self.layout)

        searched = partial(_searched, run)
        return Backend(searched, layout=self.layout, thread=_searching(self.x.device))

    def ours(
        self, conv: Conv, name: str, missing: tuple[str, str] | None = None, config: Any = None
    ) -> Backend:
        """A snippet; gradients by autograd."""
        x, weight = self.x, self.weight
        if name != "forward":
            x = x.clone().requires_grad_(name == PASSES[1])
            weight = weight.clone().requires_grad_(name == PASSES[2])
        wanted = x if name == PASSES[1] else weight
        kept: list[Tensor] = []

        def run() -> Tensor:
            if name == "forward":
                return conv(x, weight)
            if not kept:
                kept.append(conv(x, weight))
            return torch.autograd.grad(kept[0], wanted, self.upstream, retain_graph=True)[0]

        return Backend(
            run, True, None if config is None else vars(config), missing, layout=self.layout
        )


def _exact(layer: Layer, tensors: _Tensors, name: str) -> Callable[[bool], Any]:
    def reference(gradients: bool) -> tuple[Tensor, list[Tensor] | None]:
        x, weight = (t.double().requires_grad_(gradients) for t in (tensors.x, tensors.weight))
        out = layer.conv()(x, weight)
        if not gradients:
            return out, None
        wanted = x if name == PASSES[1] else weight
        return out.detach(), list(torch.autograd.grad(out, wanted, tensors.upstream.double()))

    return reference


def _drawn(
    device: torch.device, layer: Layer, images: int, seed: int, dtype: str = ""
) -> list[Tensor]:
    sizes = [
        (images, layer.C, layer.side, layer.side),
        (layer.K, layer.C // layer.groups, layer.R, layer.R),
        (images, layer.K, layer.out, layer.out),
    ]
    return random_tensors(device, getattr(torch, dtype or _dtype(device)), seed, *sizes)


def _shape(layer: Layer, images: int) -> dict[str, int]:
    return dict(N=images, **vars(layer), padding=layer.padding)


def _cell(
    suite: str, device: torch.device, layer: Layer, images: int, name: str, dtype: str = ""
) -> Cell:
    gpu, library = device.type == "cuda", _library(suite, device)
    dtype = dtype or _dtype(device)

    def build(seed: int) -> Built:
        drawn = _drawn(device, layer, images, seed, dtype)
        plain, last = _Tensors.of(drawn, NCHW), _Tensors.of(drawn, LAST)
        backends = {f"{library} {t.layout}": t.library(layer, name) for t in (plain, last)}
        if gpu:
            # PyTorch's own kernel for depthwise layers in NCHW has nothing to search for.
            own = suite == "depthwise" and dtype == "bfloat16"
            for t in (last,) if own else (plain, last):
                backends[f"{library} {t.layout}, benchmark"] = t.library(layer, name, search=True)
        if gpu and name == "forward" and (layer.plain or suite == "depthwise"):
            options = (*layer.options().values(), layer.groups)
            run = partial(_compiled(_convolve), last.x, last.weight, *options)
            backends["torch.compile"] = Backend(run, layout=last.layout)
        on_gpu = None if gpu else ON_GPU
        if suite == "depthwise":
            conv: Conv = partial(
                depthwise_conv2d_kernel, stride=layer.stride, padding=layer.padding
            )
            backends["depthwise_conv2d_kernel"] = last.ours(conv, name, on_gpu)
            if not gpu:
                conv = partial(depthwise_conv2d, stride=layer.stride, padding=layer.padding)
                backends["depthwise_conv2d"] = plain.ours(conv, name)
            return Built([last.x], backends, _exact(layer, plain, name))
        if layer.groups == 1:
            conv = partial(conv2d_im2col, **layer.options())
            backends["conv2d_im2col"] = plain.ours(conv, name)
        if layer.plain and layer.R == 3:
            for function in (winograd_conv2d, fft_conv2d):
                conv = partial(function, padding=layer.padding)
                backends[function.__name__] = plain.ours(conv, name)
        conv = partial(implicit_gemm_conv2d, **layer.options(), groups=layer.groups)
        backends["implicit_gemm_conv2d"] = last.ours(conv, name, on_gpu)
        return Built([last.x], backends, _exact(layer, plain, name))

    return Cell(suite, suite, _shape(layer, images), dtype, build, (name,))


def _convolve(x: Tensor, weight: Tensor, *options: int) -> Tensor:
    return F.conv2d(x, weight, None, *options)


def _fused(device: torch.device, layer: Layer, images: int) -> Cell:
    """A 1x1 convolution, its folded batch norm, the skip connection and the ReLU."""
    gpu = device.type == "cuda"

    def build(seed: int) -> Built:
        x, weight, skip = _drawn(device, layer, images, seed)
        vectors = random_tensors(device, x.dtype, seed + 1, (layer.K,), (layer.K,))
        x, weight, skip = (t.detach().clone(memory_format=LAST) for t in (x, weight, skip))
        scale, shift = (t.detach() for t in vectors)
        args = (x, weight, scale, shift, skip)
        backends = {"eager": Backend(partial(_eager, *args), layout=LAYOUTS[LAST])}
        if gpu:
            compiled = partial(_compiled(_eager), *args)
            backends["torch.compile"] = Backend(compiled, layout=LAYOUTS[LAST])
            folded = (weight.float() * scale.float().view(-1, 1, 1, 1)).to(weight)
            one, none = [1, 1], [0, 0]
            given = (x, folded, skip, 1.0, shift, one, none, one, 1)
            fusing = partial(torch.ops.aten.cudnn_convolution_add_relu, *given)
            backends["cuDNN, fused"] = Backend(fusing, layout=LAYOUTS[LAST])
            backends["cuDNN, fused, benchmark"] = Backend(
                partial(_searched, fusing), layout=LAYOUTS[LAST], thread=_searching(x.device)
            )
        missing = None if gpu else ON_GPU
        run = partial(conv1x1_fused, *args)
        backends["conv1x1_fused"] = Backend(run, True, None, missing, LAYOUTS[LAST])

        def reference(gradients: bool) -> tuple[Tensor, None]:
            return _eager(*(t.double() for t in args)), None

        return Built([x], backends, reference)

    shape = _shape(layer, images) | {"residual": 1}
    return Cell("convolution", "fused", shape, _dtype(device), build, ("forward",))


def _eager(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, skip: Tensor) -> Tensor:
    """As a model does it: a batch norm with mean 0 and variance 1, then in place."""
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    y = F.batch_norm(F.conv2d(x, weight), mean, variance, scale, shift, eps=0.0)
    return y.add_(skip).relu_()


def _conv1d(device: torch.device, B: int, C: int, L: int, name: str) -> Cell:
    """Causal, k = 4, as in Mamba, with either axis innermost in memory."""
    k, gpu = 4, device.type == "cuda"
    # A cut is free forward, and what undoes it is not; with zeros put before it is the other way.
    way = _causal_by_cut if name == "forward" else _causal

    def build(seed: int) -> Built:
        sizes = [(B, L, C), (C, 1, k), (B, L, C)]
        x, weight, upstream = (
            t.detach() for t in random_tensors(device, getattr(torch, _dtype(device)), seed, *sizes)
        )
        turned = [x.transpose(1, 2), weight, upstream.transpose(1, 2)]
        columns = _Tensors((t.contiguous() for t in turned), "positions innermost")
        last = _Tensors(turned, "channels innermost")
        backends = {
            f"F.conv1d, {columns.layout}": columns.ours(way, name),
            f"F.conv1d, {last.layout}": last.ours(way, name),
            f"F.conv2d, {last.layout}": last.ours(partial(_as_map, way), name),
        }
        backends = {title: replace(of, ours=False) for title, of in backends.items()}
        if gpu and name == "forward":
            run = partial(_compiled(way), last.x, last.weight)
            backends["torch.compile"] = Backend(run, layout=last.layout)
        missing = None if gpu else ON_GPU
        backends["causal_conv1d"] = last.ours(_causal_by_kernel, name, missing)

        def reference(gradients: bool) -> tuple[Tensor, list[Tensor] | None]:
            x_ = x.transpose(1, 2).double().requires_grad_(gradients)
            w_ = weight.double().requires_grad_(gradients)
            out = _causal(x_, w_)
            if not gradients:
                return out, None
            wanted = x_ if name == PASSES[1] else w_
            grads = torch.autograd.grad(out, wanted, upstream.transpose(1, 2).double())
            return out.detach(), list(grads)

        return Built([x], backends, reference)

    return Cell("depthwise", "conv1d", dict(B=B, C=C, L=L, k=k), _dtype(device), build, (name,))


def _causal(x: Tensor, weight: Tensor) -> Tensor:
    """Of a sequence (B, C, L), or of a map of one row (B, C, 1, L)."""
    conv = F.conv1d if x.ndim == 3 else F.conv2d
    return conv(F.pad(x, (weight.shape[-1] - 1, 0)), weight, groups=len(weight))


def _causal_by_cut(x: Tensor, weight: Tensor) -> Tensor:
    more = weight.shape[-1] - 1
    if x.ndim == 3:
        return F.conv1d(x, weight, padding=more, groups=len(weight))[..., :-more]
    return F.conv2d(x, weight, padding=(0, more), groups=len(weight))[..., :-more]


def _as_map(way: Conv, x: Tensor, weight: Tensor) -> Tensor:
    return way(x.unsqueeze(2), weight.unsqueeze(2)).squeeze(2)


def _causal_by_kernel(x: Tensor, weight: Tensor) -> Tensor:
    return causal_conv1d(x, weight[:, 0])


def _ladder(device: torch.device, layer: Layer, images: int) -> Cell:
    """The steps of the page, from im2col to boxes."""
    return _steps("convolution", "ladder", device, layer, images, {"im2col": conv2d_im2col}, LADDER)


def _depthwise_ladder(device: torch.device, layer: Layer, images: int) -> Cell:
    first: dict[str, Callable[..., Tensor]] = {"tap by tap": depthwise_conv2d}
    return _steps("depthwise", "ladder", device, layer, images, first, DEPTHWISE_LADDER)


def _steps(
    suite: str,
    op: str,
    device: torch.device,
    layer: Layer,
    images: int,
    first: dict[str, Callable[..., Tensor]],
    configs: dict[str, Any],
) -> Cell:
    """Forward, without stride or dilation: functions in plain PyTorch, and configurations."""

    def build(seed: int) -> Built:
        drawn = _drawn(device, layer, images, seed)
        plain, last = _Tensors.of(drawn, NCHW), _Tensors.of(drawn, LAST)
        backends = {
            name: plain.ours(partial(function, padding=layer.padding), "forward")
            for name, function in first.items()
        }
        missing = None if device.type == "cuda" else ON_GPU
        for name, config in configs.items():
            if suite == "depthwise":
                pads, size = (layer.padding,) * 2, (layer.out,) * 2
                run = partial(
                    depthwise._forward, bias=None, stride=1, pad=pads, size=size, config=config
                )
            else:
                one, pads = (1, 1), (layer.padding,) * 2
                run = partial(
                    gemm._forward, bias=None, stride=one, padding=pads, dilation=one, groups=1,
                    config=config,
                )  # fmt: skip
            backends[name] = last.ours(run, "forward", missing, config)
        return Built([last.x], backends, _exact(layer, plain, "forward"))

    return Cell(suite, op, _shape(layer, images), _dtype(device), build, ("forward",))


def _tuning(
    device: torch.device, layer: Layer, images: int, configs: dict[str, Any], name: str
) -> Cell:
    if name == "forward":
        return _steps("convolution", "tuning", device, layer, images, {}, configs)

    def build(seed: int) -> Built:
        tensors = _Tensors.of(_drawn(device, layer, images, seed), LAST)
        one, pads = (1, 1), (layer.padding,) * 2
        backends = {
            title: Backend(
                partial(
                    gemm._weight_gradient, tensors.upstream, tensors.x, tensors.weight, one, pads,
                    one, 1, config=config,
                ),
                True,
                vars(config),
                None if device.type == "cuda" else ON_GPU,
                layout=tensors.layout,
            )
            for title, config in configs.items()
        }  # fmt: skip
        return Built([tensors.x], backends, _exact(layer, tensors, name))

    return Cell("convolution", "tuning", _shape(layer, images), _dtype(device), build, (name,))
