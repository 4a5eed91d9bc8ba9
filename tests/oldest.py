"""The demos with the oldest Python and PyTorch that their snippets say they need: make oldest.

Each pair of versions gets an environment in .cache/oldest, made once: gigabytes, where PyTorch is
not the small build for the CPU. Snippets promise no more than these two, so no other test is run.
Kernels run in Triton's interpreter; where the header asks more of a CPU than of a GPU, that counts.
"""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from hooks import CACHE
from hooks.contribute import rules
from snippets._cli import library
from tests.test_rules import demo, demos_shown, snippet_id

NEEDS = re.compile(
    r"Python >= (?P<python>[\d.]+),.* torch >= (?P<torch>[\d.]+)(.*Triton >= (?P<triton>[\d.]+))?",
    re.DOTALL,
)


@cache
def interpreter(python: str, torch: str, triton: str | None) -> Path:
    """With these versions and nothing newer."""
    folder = CACHE / "oldest" / f"python-{python}-torch-{torch}"
    packages = [f"torch=={torch}", "numpy<2"]  # PyTorch 2.0 was built before NumPy 2
    packages += [f"triton=={triton}"] if triton else []  # the build for the CPU comes without
    if not (folder / "done").exists():
        base = shutil.which(f"python{python}")
        assert base, f"no python{python} here; install it"
        subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *packages], check=True)
        (folder / "done").touch()
    return folder / "bin/python"


@pytest.mark.parametrize("path", rules.snippets(), ids=snippet_id)
def test_demo_with_the_oldest_versions(path: Path, tmp_path: Path) -> None:
    snippet = library.library()[snippet_id(path).removesuffix(".py")]
    needs = NEEDS.search(library.field(snippet.doc, "Needs"))
    assert needs, "the header says `Needs: Python >= …, torch >= …`"
    result = demo(path, tmp_path, interpreter(needs["python"], needs["torch"], needs["triton"]))
    assert result.returncode == 0, result.stderr
    assert result.stdout in demos_shown(path)
