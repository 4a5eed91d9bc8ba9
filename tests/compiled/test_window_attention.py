"""What the compiler makes of window attention for GPUs that are not here."""

import pytest
import torch

from snippets.kernels import window_attention as module
from tests.compiled import offline


def launch(direction, size, heads, D, window, dtype, shift, training=True):
    shape = (128, size, size, 3, heads, D)
    qkv = torch.empty(shape, dtype=dtype)
    table = torch.empty((2 * window - 1) ** 2, heads)
    if direction == "forward":
        return lambda: module._forward(qkv, table, window, shift, 0.2, training)
    grad, lse = qkv[:, :, :, 0].reshape(128, size, size, -1), torch.empty(qkv[..., 0, 0].numel())
    return lambda: module._backward(grad, qkv, table, lse, window, shift, 0.2)


def swin():
    """What Swin-T, Swin-S and Swin-B launch."""
    yield "forward 7", launch("forward", 14, 12, 32, 7, torch.bfloat16, 3)
    yield "backward 7", launch("backward", 14, 12, 32, 7, torch.bfloat16, 3)


def others():
    yield "inference", launch("forward", 7, 24, 32, 7, torch.bfloat16, 0, training=False)
    for direction in ("forward", "backward"):
        yield f"{direction} exact", launch(direction, 14, 3, 32, 7, torch.float32, 3)
        yield f"{direction} 12", launch(direction, 12, 2, 32, 12, torch.bfloat16, 6)
        yield f"{direction} D=64", launch(direction, 16, 2, 64, 8, torch.float16, 4)


@pytest.fixture(scope="module")
def compiled():
    return offline.compile_all(swin) | offline.compile_all(others, [90])


MATRIX = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}


@pytest.mark.parametrize("architecture", offline.ARCHITECTURES)
def test_compiled_for_gpus_that_are_not_here(compiled, architecture):
    for (label, number), kernels in compiled.items():
        if number != architecture:
            continue
        for name, kernel in kernels.items():
            assert kernel.spilled == 0, (label, name, kernel.spilled)
            assert kernel.shared <= offline.SHARED[number] * 1024, (label, name)
            # Blocks of 16 bytes, from memory to shared memory or to registers, and back.
            assert kernel.count(r"st\.global[.\w]*\.v[24]\.b(32|64)") > 0, (label, name)
            if "exact" in label:
                assert not kernel.count("mma"), (label, name)
            elif "12" in label:  # tiles of 16 queries
                assert kernel.count("mma.sync") > 0, (label, name)
            else:
                assert kernel.count(MATRIX[number]) > 0, (label, name)
                wide_copies = r"cp\.async\.c[ag]\.shared\.global[^;]*0x10, "
                assert kernel.count(wide_copies) >= 8, (label, name)
                # Nothing but a head's column of the table is read number by number.
                assert kernel.count(r"ld\.global[.\w]*\.b(16|32)") <= 8, (label, name)


def test_the_registers_leave_room_for_several_blocks(compiled):
    for label, blocks in (("inference", 4), ("forward 7", 4), ("backward 7", 2)):
        (kernel,) = compiled[label, 90].values()
        assert kernel.warps == 4
        assert 65536 // (kernel.registers * 32 * kernel.warps) >= blocks, (label, kernel.registers)
        assert kernel.shared * blocks <= offline.SHARED[90] * 1024
