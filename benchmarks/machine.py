"""What a run runs on: its description, what it can do at best, its clock while it runs."""

import importlib.metadata
import platform
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Clock, summary

ROOT = Path(__file__).parents[1]
SAMPLED = ("clocks.sm", "power.draw", "temperature.gpu", "clocks_event_reasons.active")
# Reasons that a GPU lowers its clock for (nvml.h): power caps, heat, hardware brakes.
THROTTLED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


def describe(device: torch.device) -> dict[str, Any]:
    """The field `device` of a manifest."""
    if device.type == "cpu":
        return {"kind": "cpu", "name": _processor(), "threads": 1}
    found = torch.cuda.get_device_properties(device)
    return {
        "kind": "cuda",
        "name": found.name,
        "cc": f"{found.major}.{found.minor}",
        "sms": found.multi_processor_count,
        "l2": found.L2_cache_size,
        "memory": found.total_memory,
    }


def versions() -> dict[str, str | None]:
    """What was installed."""
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "transformers": _version("transformers"),
        "cuda": torch.version.cuda,
        "cudnn": str(cudnn) if cudnn else None,
        "driver": _smi("driver_version"),
    }


def source(stated: str = "") -> dict[str, Any]:
    """Commit, and whether anything that is measured differs from it; as stated without git."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "snippets", "benchmarks/*.py")
    if not commit:
        return {"commit": stated, "dirty": not stated}
    return {"commit": commit, "dirty": bool(changed)}


def folder(device: torch.device) -> str:
    """The name of the folder of a machine's results: cpu, or nvidia-h200."""
    name = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def ceilings(device: torch.device, clock: Clock, when: str, small: bool) -> list[dict[str, Any]]:
    """What the machine does at best, each with its times.

    matmul   FLOP/s of a square product of random numbers, bf16 on a GPU, float32 on a CPU
    copy     bytes/s within memory, those read plus those written
    exp      exponentials/s: of the special function units by their number and clock on a GPU,
             measured within the cache on a CPU
    launch   empty kernels/s in a graph (GPU only)
    """
    gpu = device.type == "cuda"
    size = 256 if small else 8192 if gpu else 1024
    dtype = torch.bfloat16 if gpu else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device) for _ in range(2))
    a, b = a.to(dtype), b.to(dtype)
    found: list[dict[str, Any]] = []

    def add(kind: str, amount: float, run: Callable[[], object], how: str) -> None:
        run()
        calls = clock.calls(run, 0.01 if small else 0.3)
        times = summary([[1000 * t for t in calls]])["times_ms"]
        value = 1000 * amount / times["median"]
        found.append({"kind": kind, "value": value, "when": when, "how": how, "times_ms": times})

    add("matmul", 2 * size**3, lambda: a @ b, f"{size}x{size}x{size} {dtype}, random numbers")
    count = 2**20 if small else 2**25  # float32: 128 MB
    if gpu and not small:  # 4 GB, or less on a small GPU
        count = min(2**30, torch.cuda.get_device_properties(device).total_memory // 32)
    x, y = torch.randn(2, count, generator=generator, device=device)
    add("copy", 8 * count, lambda: y.copy_(x), f"{4 * count} bytes read and written")
    if gpu:
        rate = 16  # a multiprocessor and cycle: throughput table of the CUDA C++ guide
        megahertz = float(re.sub(r"[^\d.]", "", _smi("clocks.max.sm") or "") or 0)
        units = torch.cuda.get_device_properties(device).multi_processor_count
        if megahertz:
            how = f"{units} multiprocessors, {rate} a cycle, {megahertz:.0f} MHz (not measured)"
            value = units * rate * megahertz * 1e6
            found.append(
                {"kind": "exp", "value": value, "when": when, "how": how, "times_ms": None}
            )
        tiny = torch.zeros(1, device=device)
        replay, number = clock.graph([lambda: tiny.add_(1)] * 100)
        add("launch", number, replay, f"graph of {number} kernels that add to one number")
    else:
        z = torch.randn(2**14, generator=generator)
        add("exp", z.numel(), lambda: z.exp(), f"{z.numel()} float32 numbers in the cache")
    return found


class Sampler:
    """Reads the GPU's clock, power, heat and throttling ten times a second; on a CPU nothing."""

    def __init__(self, device: torch.device) -> None:
        self._samples: list[list[float]] = []
        self._process: subprocess.Popen[str] | None = None
        if device.type == "cuda":
            command = ["nvidia-smi", f"--query-gpu={','.join(SAMPLED)}", "-lms", "100"]
            command += ["--format=csv,noheader,nounits", _id()]
            try:
                self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            except FileNotFoundError:
                print("nvidia-smi is missing: clocks are not recorded", file=sys.stderr)
                return
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process and self._process.stdout
        for line in self._process.stdout:
            try:
                clock, power, heat, reasons = (cell.strip() for cell in line.split(","))
                sample = [float(clock), float(power), float(heat), float(int(reasons, 16))]
            except ValueError:
                continue  # [N/A] on some cards
            self._samples.append(sample)

    def start(self) -> None:
        """Forget what was read."""
        self._samples.clear()

    def summary(self) -> dict[str, Any]:
        """Of a row: medians since `start`."""
        samples = list(self._samples)
        if not samples:
            return dict.fromkeys(("clock_mhz", "power_w", "temperature_c", "throttled"))
        clock, power, heat = (statistics.median(s[i] for s in samples) for i in range(3))
        throttled = any(int(s[3]) & THROTTLED for s in samples)
        return {
            "clock_mhz": clock,
            "power_w": power,
            "temperature_c": heat,
            "throttled": throttled,
        }

    def stop(self) -> None:
        """End the reading process."""
        if self._process:
            self._process.terminate()
            self._process.wait()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*args: str) -> str:
    command = ["git", *args]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()


def _smi(what: str) -> str | None:
    if not torch.cuda.is_available():
        return None
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    command.append(_id())
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.splitlines()[0].strip() if result.stdout.strip() else None


def _id() -> str:
    """The GPU in use, as nvidia-smi knows it; its numbers are not CUDA's."""
    return f"--id=GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
