"""Compiling Triton kernels for GPUs that are not here.

A test lists what it would launch; each launch is caught with its arguments and compiled for
every architecture, as the launch on such a GPU would, and the generated code is given back.

    def launches():
        q = torch.empty(1, 2, 256, 64, dtype=torch.bfloat16)
        yield "forward D=64", lambda: flash_attention._forward(q, q, q)

    compiled = offline.compile_all(launches)
    compiled["forward D=64", 90]["_forward_kernel"].spilled
"""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ARCHITECTURES = (80, 90, 100)  # Ampere, Hopper, Blackwell
SHARED = {80: 163, 90: 227, 100: 227}  # KiB that a block may have, CUDA programming guide


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one launch."""

    ptx: str
    registers: int  # per thread
    spilled: int  # bytes of stack per thread
    shared: int  # bytes per block
    warps: int  # that run, those of specialised groups included

    def count(self, instruction: str) -> int:
        """How often the PTX has an instruction (a regular expression)."""
        return len(re.findall(instruction, self.ptx))


def compile_all(
    launches: Callable[[], Iterable[tuple[str, Callable[[], object]]]],
    architectures: Iterable[int] = ARCHITECTURES,
) -> dict[tuple[str, int], dict[str, Compiled]]:
    """For each label and architecture the kernels launched, by name.

    Runs in a process of its own: in this one kernels are interpreted.
    """
    root = Path(__file__).parents[2]
    module = Path(inspect.getfile(launches)).relative_to(root).with_suffix("")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "compiled"
        numbers = [str(number) for number in architectures]
        arguments = [".".join(module.parts), launches.__name__, str(out), *numbers]
        command = [sys.executable, "-m", "tests.compiled.offline", *arguments]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[tuple[str, int], dict[str, Compiled]] = {}
        for label, number, kernel, fields in json.loads(out.read_bytes()):
            found.setdefault((label, number), {})[kernel] = Compiled(**fields)
        return found


def _compile(kernel: Any, arguments: dict[str, Any], options: dict[str, Any], number: int) -> Any:
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.tools.tensor_descriptor import TensorDescriptor

    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    names |= {torch.int32: "i32", torch.int64: "i64", torch.bool: "i1", torch.uint8: "u8"}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, TensorDescriptor):
            block = ", ".join(map(str, value.block_shape))
            signature[name] = f"tensordesc<{names[value.base.dtype]}[{block}]>"
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + names[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif type(value) is int:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = {float: "fp32", bool: "i1"}[type(value)]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", number, 32), options=options)


def _resources(compiled: Any) -> Compiled:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    meta = compiled.metadata
    return Compiled(compiled.asm["ptx"], int(found[1]), int(found[2]), meta.shared, meta.num_warps)


def _main() -> None:
    import torch
    from triton.runtime.jit import JITFunction

    module, function, out, *numbers = sys.argv[1:]
    launches = getattr(importlib.import_module(module), function)
    caught: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        known = inspect.signature(kernel.fn).parameters
        named = {k: options.pop(k) for k in list(options) if k in known}
        bound = inspect.signature(kernel.fn).bind(*args, **named)
        bound.apply_defaults()
        caught.append((kernel, bound.arguments, options))

    found: list[tuple[str, int, str, dict[str, Any]]] = []
    with mock.patch.object(JITFunction, "run", run):
        for number in map(int, numbers):
            capability = divmod(number, 10)
            with mock.patch.object(torch.cuda, "get_device_capability", return_value=capability):
                for label, launch in launches():
                    caught.clear()
                    launch()
                    assert caught, f"'{label}' launched nothing"
                    for kernel, args, options in caught:
                        compiled = _resources(_compile(kernel, args, options, number))
                        found.append((label, number, kernel.fn.__name__, vars(compiled)))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    _main()
