"""What the compiler makes of implicit-GEMM convolution for GPUs that are not here."""

import itertools

import pytest
import torch

from snippets.kernels import implicit_gemm_convolution as module
from tests.compiled import offline


def layer(name, C, K, window, size, stride=1, groups=1, dtype=torch.bfloat16):
    """The three launches of a layer of ResNet-50, 128 images."""
    padding = window // 2
    P = (size + 2 * padding - window) // stride + 1
    x, weight, grad = (
        torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
        for shape in (
            (128, C, size, size),
            (K, C // groups, window, window),
            (128, K, P, P),
        )
    )
    options = [stride] * 2, [padding] * 2, [1, 1], groups
    yield f"{name}, forward", lambda: module._forward(x, weight, None, *options)
    yield f"{name}, data", lambda: module._input_gradient(grad, weight, size, size, *options)
    yield f"{name}, weight", lambda: module._weight_gradient(grad, x, weight, *options)


def resnet():
    """Everywhere."""
    yield from layer("3x3", 128, 128, 3, 28)
    first, *_ = layer("stride 2", 128, 128, 3, 56, 2)
    yield first


def hopper():
    """On the chip that the tiles are chosen for."""
    yield from itertools.islice(layer("first", 3, 64, 7, 224, 2, dtype=torch.float16), 1)
    yield from itertools.islice(layer("exact", 64, 64, 1, 56, dtype=torch.float32), 1)
    yield from itertools.islice(layer("32 groups", 128, 128, 3, 56, groups=32), 1)
    *_, last = layer("stride 2", 128, 128, 3, 56, 2)
    yield last
    x, weight, residual = (
        torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)
        for shape in ((128, 64, 56, 56), (256, 64, 1, 1), (128, 256, 56, 56))
    )
    scale, shift = torch.empty(2, 256)
    one, none = [1, 1], [0, 0]
    yield (
        "1x1, fused",
        lambda: module._forward(
            x, weight, shift, one, none, one, 1, scale=scale, residual=residual, relu=True
        ),
    )


@pytest.fixture(scope="module")
def compiled():
    return offline.compile_all(resnet) | offline.compile_all(hopper, [90])


MATRIX = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
COPIES = r"cp\.async\.c[ag]\.shared\.global[^;]*0x10, "  # of 16 bytes, by a thread
BOXES = r"cp\.async\.bulk\.tensor\.4d"  # by the memory engine
TILES = r"cp\.async\.bulk\.tensor\.2d"


def test_nothing_spills_and_everything_fits(compiled):
    assert len(compiled) == 17
    for (label, architecture), kernels in compiled.items():
        for name, kernel in kernels.items():
            where = label, architecture, name
            assert kernel.spilled == 0, (where, kernel.spilled)
            assert kernel.shared <= offline.SHARED[architecture] * 1024, where
            assert kernel.count(r"st\.global[.\w]*\.v[24]\.b32") > 0, where


@pytest.mark.parametrize("architecture", offline.ARCHITECTURES)
def test_matrix_units_are_used_and_fed_in_wide_copies(compiled, architecture):
    modern = architecture >= 90
    for label in ("3x3, forward", "3x3, data", "3x3, weight", "stride 2, forward"):
        kernel, *_ = compiled[label, architecture].values()
        assert kernel.count(MATRIX[architecture]) > 0, label
        engine = modern and label != "stride 2, forward"
        assert (kernel.count(BOXES) > 0) == engine, label
        assert (kernel.count(TILES) > 0) == (modern and "weight" not in label), label
        if not modern or label in ("3x3, weight", "stride 2, forward"):
            assert kernel.count(COPIES) >= 12, label
        # Nothing of a tile is loaded number by number.
        assert not kernel.count(r"ld\.global(?![.\w]*\.v[24])[.\w]*\.b(16|32)[ \t]"), label
        if architecture == 90:  # both factors stay in shared memory on their way
            assert not kernel.count("ldmatrix"), label


def test_special_layers_on_hopper(compiled):
    first, exact, groups, fused = (
        compiled[label, 90]["_convolve_kernel"]
        for label in ("first, forward", "exact, forward", "32 groups, forward", "1x1, fused")
    )
    assert first.count(MATRIX[90]) and first.count(r"cp\.async[^;]*0x8, ") >= 12
    assert not exact.count("mma")
    assert groups.count("mma.sync") and groups.count(BOXES)
    assert fused.count(MATRIX[90]) and fused.count(BOXES) and fused.count(TILES)
    assert fused.count(r"ld\.global[.\w]*\.v4\.b32") >= 8  # the residual
    assert not fused.count(r"max\.f32")  # it takes nan for 0; the interpreter's does not
    gathered = compiled["stride 2, weight", 90]["_weight_gradient_kernel"]
    assert gathered.count(MATRIX[90]) and gathered.count(COPIES) >= 24
