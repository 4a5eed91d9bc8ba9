"""The suites `convolution` and `depthwise`: layers of known networks, in both memory layouts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from snippets.kernels.depthwise_convolution import causal_conv1d, depthwise_conv2d_kernel
from snippets.kernels.fft_convolution import fft_conv2d
from snippets.kernels.implicit_gemm_convolution import conv1x1_fused, implicit_gemm_conv2d
from snippets.kernels.winograd import winograd_conv2d
from torch import Tensor

from benchmarks.suites import Backend, Built, Cell, random_tensors
from benchmarks.suites.heads import ON_GPU
from snippets.convolution.convolution_arithmetic import conv2d_im2col

PASSES = ("forward", "data gradient", "weight gradient")


@dataclass(frozen=True)
class Layer:
    """C channels of a map of `side` squared to K, by windows of R squared."""

    C: int
    K: int
    R: int
    side: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """Keeps the size at stride 1."""
        return self.dilation * (self.R - 1) // 2

    @property
    def out(self) -> int:
        """Side of the output."""
        reach = self.dilation * (self.R - 1) + 1
        return (self.side + 2 * self.padding - reach) // self.stride + 1


# ResNet-50's distinct convolutions at 224 by 224 (He et al. 2016, table 1; the stride of a
# bottleneck on its 3x3, as in torchvision).
RESNET = [Layer(3, 64, 7, 224, 2), Layer(64, 64, 1, 56), Layer(64, 64, 3, 56)]
RESNET += [Layer(64, 256, 1, 56), Layer(256, 64, 1, 56)]
for narrow, large in ((128, 56), (256, 28), (512, 14)):
    small = large // 2
    RESNET += [Layer(2 * narrow, narrow, 1, large), Layer(narrow, narrow, 3, large, 2)]
    RESNET += [Layer(narrow, 4 * narrow, 1, small), Layer(2 * narrow, 4 * narrow, 1, large, 2)]
    RESNET += [Layer(4 * narrow, narrow, 1, small), Layer(narrow, narrow, 3, small)]
# ResNeXt-50 32x4d (Xie et al. 2017, table 1) and DeepLab's dilated ResNet at output stride 8.
GROUPED = [Layer(C, C, 3, side, groups=32) for C, side in ((128, 56), (256, 28), (512, 14))]
DILATED = [Layer(256, 256, 3, 28, dilation=2), Layer(512, 512, 3, 28, dilation=4)]
# MobileNetV2 (Sandler et al. 2018, table 2), MobileNetV3 (Howard et al. 2019, table 1),
# ConvNeXt-T (Liu et al. 2022, table 9), RepLKNet-31B (Ding et al. 2022, section 4.1).
MOBILE = [(32, 3, 112, 1), (144, 3, 56, 1), (192, 3, 28, 1), (576, 3, 14, 1), (960, 3, 7, 1)]
MOBILE += [(96, 3, 112, 2), (144, 3, 56, 2), (576, 3, 14, 2), (120, 5, 28, 1), (672, 5, 14, 2)]
CONVNEXT = [(96, 7, 56, 1), (192, 7, 28, 1), (384, 7, 14, 1), (768, 7, 7, 1)]
REPLK = [(128, 31, 56, 1), (256, 29, 28, 1), (512, 27, 14, 1), (1024, 13, 7, 1)]
DEPTHWISE = [Layer(C, C, R, side, s, groups=C) for C, R, side, s in MOBILE + CONVNEXT + REPLK]


def cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """ResNet-50, forward first."""
    gpu = device.type == "cuda"
    layers = RESNET + GROUPED + DILATED
    if small or not gpu:
        layers = [Layer(8, 8, 3, 6)] if small else [RESNET[2], RESNET[3], GROUPED[0], DILATED[0]]
    images = 128 if gpu and not small else 1
    for name in PASSES:
        for layer in layers:
            yield _cell("convolution", device, layer, images, name)
    fused = [layer for layer in layers if layer.R == layer.stride == 1] or [Layer(8, 8, 1, 6)]
    for layer in fused:
        yield _fused(device, layer, images)


def depthwise_cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """Maps of MobileNet, ConvNeXt, RepLKNet; sequences of Mamba."""
    gpu = device.type == "cuda"
    layers = DEPTHWISE
    if small or not gpu:
        layers = [Layer(8, 8, 3, 6, groups=8)] if small else [DEPTHWISE[1], DEPTHWISE[10]]
    images = 64 if gpu and not small else 1
    for name in PASSES:
        for layer in layers:
            yield _cell("depthwise", device, layer, images, name)
        B, C, L = (8, 4096, 4096) if gpu and not small else (1, 16, 32) if small else (1, 512, 2048)
        yield _conv1d(device, B, C, L, name)


def _dtype(device: torch.device) -> str:
    return "bfloat16" if device.type == "cuda" else "float32"


def _cell(suite: str, device: torch.device, layer: Layer, images: int, name: str) -> Cell:
    options = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    gpu = device.type == "cuda"

    def build(seed: int) -> Built:
        sizes = [
            (images, layer.C, layer.side, layer.side),
            (layer.K, layer.C // layer.groups, layer.R, layer.R),
            (images, layer.K, layer.out, layer.out),
        ]
        tensors = random_tensors(device, getattr(torch, _dtype(device)), seed, *sizes)
        plain = _Layout(*tensors, torch.contiguous_format, name)
        last = _Layout(*tensors, torch.channels_last, name)
        conv: Conv = partial(F.conv2d, groups=layer.groups, **options)
        library = "cuDNN" if gpu else "F.conv2d"
        backends = {
            f"{library} NCHW": plain.backend(conv),
            f"{library} channels_last": last.backend(conv),
        }
        if gpu:
            backends |= {
                "cuDNN NCHW, benchmark": plain.backend(conv, setting=_benchmark),
                "cuDNN channels_last, benchmark": last.backend(conv, setting=_benchmark),
                "torch.compile": last.backend(torch.compile(conv, dynamic=False)),
            }
        ours = ON_GPU if not gpu else None
        if suite == "depthwise":
            kernel: Conv = partial(
                depthwise_conv2d_kernel, stride=layer.stride, padding=layer.padding
            )
            backends["depthwise_conv2d_kernel"] = last.backend(kernel, True, ours)
            return plain.built(backends, conv)
        if layer.groups == 1:
            backends["conv2d_im2col"] = plain.backend(partial(conv2d_im2col, **options), True)
        if layer.groups == layer.stride == layer.dilation == 1 and layer.R == 3:
            for function in (winograd_conv2d, fft_conv2d):
                run = partial(function, padding=layer.padding)
                half = None
                if gpu and function is fft_conv2d:
                    half = ("unsupported", "no Fourier transform of bfloat16")
                backends[function.__name__] = plain.backend(run, True, half)
        kernel = partial(implicit_gemm_conv2d, groups=layer.groups, **options)
        backends["implicit_gemm_conv2d"] = last.backend(kernel, True, ours)
        return plain.built(backends, conv)

    shape = dict(N=images, **vars(layer), padding=layer.padding)
    return Cell(suite, suite, shape, _dtype(device), build, (name,))


Conv = Callable[[Tensor, Tensor], Tensor]


def _benchmark() -> AbstractContextManager[object]:
    return torch.backends.cudnn.flags(enabled=True, benchmark=True)


class _Layout:
    """Input, weight and upstream gradient in one memory layout; copies are made here, not timed."""

    def __init__(
        self, x: Tensor, weight: Tensor, upstream: Tensor, layout: torch.memory_format, name: str
    ) -> None:
        tensors = (x.detach().clone(memory_format=layout) for x in (x, weight, upstream))
        self.x, self.weight, self.upstream = tensors
        self.x.requires_grad_(name == "data gradient")
        self.weight.requires_grad_(name == "weight gradient")
        self.leaves = [x for x in (self.x, self.weight) if x.requires_grad]

    def backend(
        self,
        conv: Conv,
        ours: bool = False,
        missing: tuple[str, str] | None = None,
        **more: Callable[[], AbstractContextManager[object]],
    ) -> Backend:
        """What runs on these tensors."""
        run = partial(conv, self.x, self.weight)
        return Backend(
            run, ours, missing=missing, leaves=self.leaves, upstream=self.upstream, **more
        )

    def built(self, backends: dict[str, Backend], conv: Conv) -> Built:
        """With the library's float64 result to compare with."""

        def reference(gradients: bool) -> tuple[Tensor, list[Tensor] | None]:
            leaves = [x.detach().double() for x in (self.x, self.weight)]
            wanted = [
                x for x, of in zip(leaves, (self.x, self.weight), strict=True) if of.requires_grad
            ]
            for x in wanted:
                x.requires_grad_()
            out = conv(*leaves)
            if not gradients:
                return out.detach(), None
            return out.detach(), list(torch.autograd.grad(out, wanted, self.upstream.double()))

        return Built(self.leaves, backends, reference, self.upstream)


def _fused(device: torch.device, layer: Layer, images: int) -> Cell:
    """A 1x1 convolution, its folded batch norm, the skip connection and the ReLU."""
    gpu = device.type == "cuda"

    def build(seed: int) -> Built:
        sizes = [
            (images, layer.C, layer.side, layer.side),
            (layer.K, layer.C, 1, 1),
            (layer.K,),
            (layer.K,),
            (images, layer.K, layer.side, layer.side),
        ]
        drawn = random_tensors(device, getattr(torch, _dtype(device)), seed, *sizes)
        x, weight, scale, shift, skip = (
            t.detach().contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.detach()
            for t in drawn
        )

        def eager(x: Tensor, w: Tensor, a: Tensor, b: Tensor, r: Tensor) -> Tensor:
            return F.relu(F.conv2d(x, w) * a[:, None, None] + b[:, None, None] + r)

        args = (x, weight, scale, shift, skip)
        backends = {"eager": Backend(partial(eager, *args))}
        if gpu:
            backends["eager, benchmark"] = Backend(partial(eager, *args), setting=_benchmark)
            backends["torch.compile"] = Backend(partial(torch.compile(eager, dynamic=False), *args))
        run = partial(conv1x1_fused, *args)
        backends["conv1x1_fused"] = Backend(run, True, missing=None if gpu else ON_GPU)

        def reference(gradients: bool) -> tuple[Tensor, None]:
            return eager(*(t.double() for t in args)), None

        return Built([x], backends, reference)

    shape = dict(N=images, **vars(layer), padding=0)
    return Cell("convolution", "fused 1x1", shape, _dtype(device), build, ("forward",))


def _conv1d(device: torch.device, B: int, C: int, L: int, name: str) -> Cell:
    """Causal, k = 4, as in Mamba; the channels innermost, as its projections leave them."""
    k = 4

    def build(seed: int) -> Built:
        sizes = [(B, L, C), (C, 1, k), (B, L, C)]
        x, weight, upstream = random_tensors(device, getattr(torch, _dtype(device)), seed, *sizes)
        layouts = {
            "channels innermost": [t.detach().transpose(1, 2) for t in (x, upstream)],
            "positions innermost": [t.detach().transpose(1, 2).contiguous() for t in (x, upstream)],
        }
        backends: dict[str, Backend] = {}

        def library(x: Tensor, w: Tensor) -> Tensor:
            return F.conv1d(x, w, padding=k - 1, groups=C)[..., :L]

        def ours(x: Tensor, w: Tensor) -> Tensor:
            return causal_conv1d(x, w[:, 0])

        gpu = device.type == "cuda"
        for layout, (x_, upstream_) in layouts.items():
            x_ = x_.requires_grad_(name == "data gradient")
            w_ = weight.detach().clone().requires_grad_(name == "weight gradient")
            leaves = [t for t in (x_, w_) if t.requires_grad]
            of = dict(leaves=leaves, upstream=upstream_)
            kind = "cuDNN" if gpu else "F.conv1d"
            backends[f"{kind}, {layout}"] = Backend(partial(library, x_, w_), **of)
            if layout == "channels innermost":
                if gpu:
                    compiled = torch.compile(library, dynamic=False)
                    backends["torch.compile"] = Backend(partial(compiled, x_, w_), **of)
                missing = None if gpu else ON_GPU
                backends["causal_conv1d"] = Backend(
                    partial(ours, x_, w_), True, None, missing, **of
                )

        def reference(gradients: bool) -> tuple[Tensor, list[Tensor] | None]:
            x_ = x.detach().transpose(1, 2).double().requires_grad_(name == "data gradient")
            w_ = weight.detach().double().requires_grad_(name == "weight gradient")
            out = library(x_, w_)
            if not gradients:
                return out.detach(), None
            wanted = [t for t in (x_, w_) if t.requires_grad]
            return out.detach(), list(
                torch.autograd.grad(out, wanted, upstream.detach().transpose(1, 2).double())
            )

        return Built([x], backends, reference)

    shape = dict(B=B, C=C, L=L, k=k)
    return Cell("depthwise", "conv1d", shape, _dtype(device), build, (name,))
