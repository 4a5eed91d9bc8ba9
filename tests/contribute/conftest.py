"""A small project in which anything may be broken: two finished concepts, the commands, no site."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hooks import ROOT

HOME = """---
title: {title}
description: A small site.
{order}---

# {title}

## Path {{ #path }}

<!-- learning-path -->
"""
INDEX = """---
title: Basics
description: What comes first.
---

# Basics

<!-- learning-path -->
"""
GLOSSARY = """# All terms, by id.

- id: kernel
  en: kernel
  zh: 卷积核
  define_en: The weights of a convolution.
  define_zh: 卷积的权重。

# A comment on the stride.
- id: stride
  en: stride
  zh: 步幅
  define_en: How far a window moves.
  define_zh: 窗口移动的步长。
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def finished(text: str) -> str:
    """A draft with everything written that was still to be written."""
    return text.replace("TODO(new): ", "")


@pytest.fixture(scope="session")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with one section and no concept."""
    root = tmp_path_factory.mktemp("skeleton")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("hooks", "snippets/_cli"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("pyproject.toml", "snippets/__init__.py"):
        shutil.copy(ROOT / name, root / name)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    files = {
        "docs/en/index.md": HOME.format(title="Home", order="sections: [basics]\n"),
        "docs/zh/index.md": HOME.format(title="首页", order=""),
        "docs/en/basics/index.md": INDEX,
        "docs/zh/basics/index.md": INDEX.replace("Basics", "基础"),
        "docs/glossary.yml": GLOSSARY,
        "tests/site/queries.yml": '- {q: "stride", lang: en, want: [index], kind: word}\n',
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


@pytest.fixture
def project(skeleton: Path, tmp_path: Path) -> Path:
    """A copy of the skeleton."""
    return shutil.copytree(skeleton, tmp_path / "project", symlinks=True)


@pytest.fixture
def run(project: Path) -> Run:
    """Run `python -m hooks …` in the project."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hooks", *arguments]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        return subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def concepts(project: Path) -> Path:
    """The project with the finished concepts `centring` and `scaling`; figures are stand-ins."""
    code = (
        "from hooks.contribute import new, rules\n"
        "for name, zh in (('centring', '中心化'), ('scaling', '缩放')):\n"
        "    for path, text in new.texts('basics', name, name.capitalize(), zh).items():\n"
        "        path.parent.mkdir(parents=True, exist_ok=True)\n"
        "        path.write_text(text.replace('TODO(new): ', ''), 'utf-8')\n"
        "    for lang in ('en', 'zh'):\n"
        "        path = new.svg.OUTPUT / 'basics' / f'{name}.{lang}.svg'\n"
        "        path.parent.mkdir(parents=True, exist_ok=True)\n"
        "        path.write_text('<svg viewBox=\"0 0 1 1\"></svg>', 'utf-8')\n"
    )
    subprocess.run([sys.executable, "-B", "-c", code], cwd=project, check=True)
    return project


APART = {"node_modules", ".cache"}  # what no command promises to leave as it is


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    paths = (p for p in folder.rglob("*") if p.is_file() and not APART & {*p.parts})
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def folders(folder: Path) -> set[str]:
    paths = (
        p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink() and not APART & {*p.parts}
    )
    return {p.relative_to(folder).as_posix() for p in paths}
