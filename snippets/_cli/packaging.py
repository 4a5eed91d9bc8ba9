"""Puts into the wheel what the commands need of the pages and the tests."""

import json
import shutil
import sys
from pathlib import Path

from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # setuptools loads this file alone

from snippets._cli import library


class BuildPy(build_py):
    """Adds library.json and the snippets' tests."""

    def run(self) -> None:
        """Build."""
        super().run()
        target = Path(self.build_lib) / "snippets" / "_cli"
        text = json.dumps(library.gather(), ensure_ascii=False, indent=1)
        (target / library.LIBRARY.name).write_text(text, "utf-8")
        skip = shutil.ignore_patterns("__pycache__")
        tests = target / library.WHEEL_TESTS.name
        shutil.copytree(library.TESTS, tests, dirs_exist_ok=True, ignore=skip)
