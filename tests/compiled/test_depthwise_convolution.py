"""What the compiler makes of the depthwise convolution kernels for GPUs that are not here."""

import pytest
import torch

from snippets.kernels import depthwise_convolution as module
from tests.compiled import offline


def launch(B, C, H, W, R, S, stride=1, dtype=torch.bfloat16, pad=None, silu=False, back=""):
    x, weight = torch.empty(B, H, W, C, dtype=dtype), torch.empty(C, 1, R, S, dtype=dtype)
    x, pad = x.permute(0, 3, 1, 2), pad or (R // 2, S // 2)
    size = (H - 1) // stride + 1, (W - 1) // stride + 1
    if not back:
        bias = torch.empty(C)
        return lambda: module._forward(x, weight, bias, stride, pad, size, silu)
    grad = x.new_empty(B, *size, C).permute(0, 3, 1, 2)
    needs = back == "input", back == "weight", False
    return lambda: module._backward(grad, x, weight, None, stride, pad, silu, needs)


def everywhere():
    yield "3", launch(128, 144, 56, 56, 3, 3)
    yield "31", launch(64, 128, 56, 56, 31, 31)


def hopper():
    yield "3 stride 2", launch(128, 144, 56, 56, 3, 3, 2)
    yield "7", launch(128, 96, 56, 56, 7, 7)
    yield "1-D", launch(8, 5120, 1, 2048, 1, 4, pad=(0, 3), silu=True)
    yield "3 weight", launch(128, 144, 56, 56, 3, 3, back="weight")
    yield "31 weight", launch(64, 128, 56, 56, 31, 31, back="weight")


@pytest.fixture(scope="module")
def compiled():
    return offline.compile_all(everywhere) | offline.compile_all(hopper, [90])


FMA = r"fma\.rn\.f32 "
WIDE_LOADS = r"ld\.global[.\w]*\.v[24]\.b32"
MATRIX = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}


def test_nothing_is_spilled(compiled):
    assert {number for _, number in compiled} == set(offline.ARCHITECTURES)
    for (label, number), kernels in compiled.items():
        for name, kernel in kernels.items():
            assert kernel.spilled == 0, (label, number, name)
            assert kernel.shared <= offline.SHARED[number] * 1024, (label, number, name)


@pytest.mark.parametrize(
    ("label", "fma", "loads"),
    [
        ("3", 4 * 4 * 9 * 4, 6 * 6 + 9 + 1),  # 16 outputs, 9 taps, 4 channels a thread
        ("3 stride 2", 2 * 4 * 9 * 4, 5 * 9 + 9 + 1),
        ("7", 2 * 8 * 49 * 4, 8 * 14 + 49 + 1),
        ("3 weight", 4 * 4 * 9 * 4, 6 * 6 + 16),
    ],
)
def test_as_many_operations_as_the_tile_has_taps(compiled, label, fma, loads):
    for number in offline.ARCHITECTURES if label == "3" else [90]:
        (kernel,) = compiled[label, number].values()
        assert kernel.count(FMA) == fma
        assert kernel.count(WIDE_LOADS) == loads  # each input once, and nothing number by number
        assert kernel.count(r"ld\.global") == loads
        assert kernel.shared == 0 or label == "3 weight"


def test_one_dimension(compiled):
    (kernel,) = compiled["1-D", 90].values()
    assert kernel.count(FMA) >= 16 * 4 * 4 and kernel.count(WIDE_LOADS) == 19 + 4 + 1
    assert kernel.count(r"ex2\.approx") == 16 * 4
    assert kernel.count(r"st\.global[.\w]*\.v2\.b32") == 16


def test_occupancy(compiled):
    for label, blocks in (("3", 3), ("7", 2), ("1-D", 4)):
        (kernel,) = compiled[label, 90].values()
        assert 65536 // (kernel.registers * 128) >= blocks, (label, kernel.registers)


@pytest.mark.parametrize("number", offline.ARCHITECTURES)
def test_bands_are_matrix_products(compiled, number):
    band, planes = (compiled["31", number][f"_{name}_kernel"] for name in ("band", "planes"))
    assert band.count(MATRIX[number]) > 0
    assert band.count(r"cp\.async\.c[ag]\.shared\.global[^;]*0x10, ") >= 8
    assert planes.count(r"ld\.global[.\w]*\.v4\.b32") == 2
    assert planes.count(r"st\.global[.\w]*\.v4\.b32") == 2
    if number == 90:
        assert compiled["31 weight", 90]["_band_weight_kernel"].count(MATRIX[90]) > 0
