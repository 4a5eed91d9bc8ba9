"""What the compiler makes of FlashAttention for GPUs that are not here."""

import re
from functools import partial

import torch

from snippets.kernels import flash_attention as module
from tests.compiled import offline

SHARED = offline.SHARED | {120: 99}  # KiB; consumer cards have less
MATRIX = {
    80: r"mma\.sync",
    90: r"wgmma\.mma_async",
    100: r"tcgen05\.mma",
    120: r"mma\.sync",
}


def pair(label, N, M, D, left, right, dtype=torch.bfloat16):
    """A forward and a backward launch, four heads sharing two."""
    q, kv = torch.empty(2, 4, N, D, dtype=dtype), torch.empty(2, 2, M, D, dtype=dtype)
    lse, rest = torch.empty(2, 4, N), (left, right, 0.1)
    yield f"forward {label}", partial(module._forward, q, kv, kv, *rest)
    yield f"backward {label}", partial(module._backward, q, q, kv, kv, q, lse, *rest)


def on_hopper():
    for D in (32, 64, 128, 256):
        yield from pair(f"{D} causal", 1024, 1024, D, -1, 0)
    yield from pair("128", 1024, 1024, 128, -1, -1)
    yield from pair("128 float32", 1000, 1000, 128, -1, 0, torch.float32)
    yield from pair("72 one query", 1, 999, 72, -1, -1)
    yield from pair("72 one key", 999, 1, 72, -1, 0)


def elsewhere():
    yield from pair("64 causal", 1024, 1024, 64, -1, 0)
    yield from pair("128 causal", 1024, 1024, 128, -1, 0)


def specialised():
    yield next(pair("window", 1000, 1000, 128, 256, 0))


def assert_fits(kernels, architecture, spilled):
    for name, kernel in kernels.items():
        assert kernel.shared <= SHARED[architecture] * 1024
        few = 0 if architecture in (90, 100) else 16  # not tuned
        assert kernel.spilled <= (spilled if name == "_backward_kernel" else few)
        if name != "_delta_kernel":
            assert kernel.count(MATRIX[architecture]) > 0


def test_what_hopper_runs():
    compiled = offline.compile_all(on_hopper, [90])
    for (label, _), kernels in compiled.items():
        if "float32" in label:  # no matrix units, and it may spill
            assert all(kernel.shared <= SHARED[90] * 1024 for kernel in kernels.values())
            continue
        # With two loops some of what neither needs inside waits on the stack.
        assert_fits(kernels, 90, spilled=0 if label == "backward 128" else 96)
        if "forward" in label:
            forward = kernels["_forward_kernel"]
            assert forward.warps == 12 and forward.count("setmaxnreg") > 0
            assert forward.count(r"cp\.async\.bulk\.tensor") >= 4  # two halves of q, k, v
        else:
            backward = kernels["_backward_kernel"]
            loops = 1 + ("causal" in label) + ("one" in label)
            assert backward.count(r"cp\.reduce\.async\.bulk\.tensor") == loops
            assert backward.count(r"(red|atom)\.global") == 0


def test_what_other_gpus_run():
    for (_, architecture), kernels in offline.compile_all(elsewhere, [80, 100, 120]).items():
        assert_fits(kernels, architecture, spilled=64)


def test_the_second_consumer_works_on_its_own_rows(tmp_path, monkeypatch):
    """Triton 3.6 moves it by half a tile twice if rows are made of what positions the load of q."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    offline.compile_all(specialised, [90])
    (text,) = [path.read_text() for path in tmp_path.rglob("_forward_kernel.ttgir")]
    second = text[text.index("partition1(") :]
    assert re.search(r"tt.make_range .*end = 128 : i32, start = 64 : i32", second)
    half = re.findall(r"(%\w+) = arith.constant .*\b64 : i32 ", second)
    for constant in half:
        for value in re.findall(rf"(%\w+) = arith.addi %\w+, {constant} ", second):
            assert f"tt.splat {value} " not in second
