"""Settings of all tests: the same examples on every run, no state carried from one to the next."""

import os
from collections.abc import Iterator

# The tensors are small: more threads, here and in what the tests start, take four times as long.
os.environ["OMP_NUM_THREADS"] = "1"
# Kernels run on the CPU, one operation at a time.
os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings

from benchmarks.libraries import allow_torchvision
from tests.status import Recorder

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],  # how fast the machine is decides nothing
)
settings.load_profile("repeatable")
allow_torchvision()


def pytest_configure(config: pytest.Config) -> None:
    recorder = Recorder()
    recorder.watch()
    config.pluginmanager.register(recorder)


@pytest.fixture(autouse=True)
def _torch_state() -> Iterator[None]:
    """Seed the global generator; give back what a test may have set."""
    dtype, grad, threads = (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    torch.set_num_threads(threads)
