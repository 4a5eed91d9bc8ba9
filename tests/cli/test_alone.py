"""What users get, without this project around it: copies with torch alone, the wheel without it."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hooks import ROOT, SNIPPETS
from snippets._cli import library
from snippets._cli.commands import main

pytestmark = pytest.mark.slow
NAMES = [p.relative_to(SNIPPETS).with_suffix("").as_posix() for p in SNIPPETS.glob("[!_]*/*.py")]


def distributions(name: str, found: dict[str, metadata.Distribution]) -> None:
    """A distribution and those it requires here."""
    if name in found:
        return
    try:
        found[name] = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # optional on this platform
    for text in found[name].requires or []:
        requirement = Requirement(text)
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            distributions(requirement.name, found)


@pytest.fixture(scope="session")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds torch, what it requires, and nothing else."""
    return installed(tmp_path_factory.mktemp("torch-alone"), "torch")


@pytest.fixture(scope="session")
def triton_too(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch brings where there is a GPU; and NumPy, which Triton's interpreter needs."""
    return installed(tmp_path_factory.mktemp("triton-too"), "torch", "triton", "numpy")


def installed(folder: Path, *names: str) -> Path:
    found: dict[str, metadata.Distribution] = {}
    for name in names:
        distributions(name, found)
    for distribution in found.values():
        for name in {Path(file).parts[0] for file in distribution.files or []} - {"..", "bin"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(Path(str(distribution.locate_file(name))))
    return folder


def alone(torch_alone: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(torch_alone), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    return subprocess.run(
        [sys.executable, "-S", *command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_empty_environment_is_empty(torch_alone: Path, tmp_path: Path) -> None:
    for module in ("numpy", "pytest", "mkdocs", "snippets"):
        done = alone(torch_alone, "-c", f"import {module}", cwd=tmp_path)
        assert "ModuleNotFoundError" in done.stderr, module


# The single file of a snippet that imports none of ours is its copy (test_flatten.py).
@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "--files") for name in NAMES]
    + [(name, "--single-file") for name in NAMES if library.needs(name)],
)
def test_a_copy_runs_with_torch_alone(
    name: str, form: str, torch_alone: Path, triton_too: Path, tmp_path: Path
) -> None:
    options = [] if form == "--files" else [form]
    assert main(["add", name, "--to", str(tmp_path / "copied"), *options]) == 0
    module = f"copied.{name.rpartition('/')[2]}"
    kernels = any("import triton\n" in p.read_text("utf-8") for p in tmp_path.rglob("*.py"))
    packages = triton_too if kernels else torch_alone
    done = alone(packages, "-W", "ignore", "-m", module, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_the_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, env=os.environ | {"SITE_URL": "https://example.org/dl/"})
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 2e6
    assert not [n for n in zipfile.ZipFile(wheel).namelist() if "pycache" in n or "docs" in n]
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
    )
    assert (Path(packages) / "snippets/_cli/library.json").is_file()
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1

    def run(*arguments: str, lang: str = "C.UTF-8") -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "env/bin/runnable-dl"), *arguments]
        environment = {"LANG": lang, "PATH": os.environ["PATH"]}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    listed = json.loads(run("list", "--json").stdout)
    assert sorted(item["name"] for item in listed) == sorted(NAMES)
    assert "缩放点积注意力" in run("search", "注意力", lang="zh_CN.UTF-8").stdout
    name = "attention/scaled_dot_product_attention"
    shown = run("show", name).stdout
    assert f"# Page: https://example.org/dl/{name}/\n" in shown
    assert run("add", name, "--tests", "--to", "layers").returncode == 0
    copy = tmp_path / "layers/scaled_dot_product_attention.py"
    assert copy.read_text("utf-8") == shown
    assert copy.with_name(f"test_{copy.name}").is_file()
    assert "as copied, current" in run("diff").stdout
    done = run("verify", "--python", sys.executable)
    assert "as published in" in done.stdout and done.returncode == 0, done.stderr
