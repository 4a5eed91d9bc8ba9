"""One file of several: names, imports, what cannot be done."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import pytest

from hooks import ROOT, SNIPPETS
from snippets._cli import library
from snippets._cli.commands import main
from snippets._cli.flatten import CannotFlatten, flatten
from tests.cli.conftest import Publish

FEW = """
from hypothesis import HealthCheck, settings

settings.register_profile(
    "few", deadline=None, derandomize=True, max_examples=3, suppress_health_check=list(HealthCheck)
)
settings.load_profile("few")
"""
NAMES = [p.relative_to(SNIPPETS).with_suffix("").as_posix() for p in SNIPPETS.glob("[!_]*/*.py")]


def run(text: str) -> dict[str, object]:
    space: dict[str, object] = {"__name__": "flat"}
    exec(compile(text, "flat", "exec"), space)
    return space


def test_names_that_two_files_share() -> None:
    files = {
        "a": """
import math
X = 1
def _f(n): return n + X
def max(n): return -n
""",
        "b": """
from .a import X as y, _f as inner, max as most
X = 10
def _f(n): return inner(n) * X * y + most(n)
""",
        "c": """
import math
from .b import _f as g
from .a import max as h
def _f(n): return g(n) + max(1, 2) + h(1) + math.pi
X = 5
""",
    }
    space = run(flatten(files))
    assert space["_f"](3) == ((3 + 1) * 10 - 3) + 2 - 1 + math.pi  # type: ignore[operator]
    assert space["X"] == 5


def test_a_name_taken_through_another_file() -> None:
    files = {"a": "def f(): return 7\n", "b": "from .a import f\n"}
    assert run(flatten(files | {"c": "from .b import f as g\nz = g()\n"}))["z"] == 7


def test_text_beside_ascii() -> None:
    a = 's = "中文"; _n = 1; r = s + str(_n)\n'
    space = run(flatten({"a": a, "b": "from .a import r\n_n = '二'\nout = r + _n\n"}))
    assert space["out"] == "中文1二"


def test_what_a_demo_binds_does_not_matter() -> None:
    a = "def f(mask): return mask\nif __name__ == '__main__':\n    mask = 1\n"
    assert run(flatten({"a": a, "b": "from .a import f\nmask = 2\nz = f(mask)\n"}))["z"] == 2
    assert run(flatten({"a": "class s: pass\n", "b": "from .a import s as t\ns = t\n"}))["s"]


def test_the_demo_and_the_header_of_the_main_file_stay() -> None:
    demo = 'if __name__ == "__main__":\n    print({})\n'
    a = '"""One.\n\nPaper: P.\n"""\n__all__ = ["f"]\ndef f(): return 1\n' + demo.format('"no"')
    b = '"""Two."""\nfrom .a import f\n__all__ = ["g"]\ndef g(): return f()\n' + demo.format("g()")
    text = flatten({"a": a, "b": b})
    assert ast.get_docstring(ast.parse(text)) == "Two." and "# Paper: P." in text
    assert run(text)["__all__"] == ["g"] and 'print("no")' not in text
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("_f = 1\ndef g(_f): return _f\n", "from .a import g\n_f = 2\n", "'_f' stands for"),
        ("f = 1\nclass A:\n    f = 2\n", "from .a import A\ndef f(): pass\n", "'f' stands for"),
        ("f = 1\n", "from .a import nothing\n", "a.py has no 'nothing'"),
        ("f = 1\n", "from . import a\n", "b.py:1: import names"),
        ("f = 1\n", "from .a import *\n", "b.py:1: import names"),
        ("f = 1\n", "def g():\n    from .a import f\n", "b.py:2: import names"),
        ("import os.path as x\n", "import sys as x\nfrom .a import x as y\n", "'x' means"),
        ("import math\ny = 1\n", "from .a import y\ndef math(): pass\n", "'math' stands for"),
        ("a_f = 0\nf = 1\n", "from .a import a_f\nf = 2\n", "'f' stands for"),
        ("def f(): pass\n", "from .a import f as g\ndef h(f): return g(f)\n", "'f' stands for"),
        ("_n = 1\ndef g():\n    global _n\n", "from .a import g\n_n = 2\n", "cannot rename"),
        ("async def _f(): pass\n", "from .a import _f as x\n_f = 1\n", "cannot rename '_f'"),
        ("try:\n    import json as j\nexcept E:\n    pass\n", "j = 1\n", "cannot rename 'j'"),
        ("_n = 1\nx = f'{_n=}'\n", "_n = 2\n", "cannot rename '_n'"),
        ("x = pow(2, 3, 5)\n", "from math import pow\n", "'pow', used here"),
        ("import math; X = 1\n", "from .a import X\n", "one statement a line"),
        ("X = 1\n", "from .a import X; y = X\n", "one statement a line"),
        ("X = 1\n__all__ = ['X']\n__all__ += ['Y']\n", "y = 1\n", "__all__ is assigned once"),
        ("X = 1\n", "from .a import X as Y\n__all__ = ['Y']\n", "['Y'] are of other files"),
        ("from __future__ import annotations\n", "x = 1\n", "same from __future__"),
        ("X = 1\nimport math\n", "y = 1\n", "stands below other code"),
        ("X = 1\n", "from .a import X as g\ng = 7\n", "imported and assigned"),
        ("X = 1\nif __name__ == '__main__':\n    X\nelse:\n    Y = 1\n", "y = 1\n", "an else"),
    ],
)  # fmt: skip
def test_what_cannot_be_done(a: str, b: str, message: str) -> None:
    with pytest.raises(CannotFlatten) as caught:
        flatten({"a": a, "b": b})
    assert message in str(caught.value)


def test_the_tests_of_a_snippet_pass_with_its_single_file(publish: Publish, tmp_path: Path) -> None:
    assert (
        main(["add", "detector", "--single-file", "--tests", "--to", str(tmp_path / "flat")]) == 0
    )
    test = tmp_path / "flat" / "test_detector.py"
    # The test also looks at what the detector is made of: that stands in the same file.
    test.write_text(test.read_text("utf-8").replace("flat.boxes", "flat.detector"), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_single_file_is_as_good_as_the_snippet(name: str, tmp_path: Path) -> None:
    """A file that imports none of ours is the same program; others pass the snippet's tests."""
    if not library.needs(name):
        original = ast.parse((SNIPPETS / f"{name}.py").read_text("utf-8"))
        assert ast.dump(ast.parse(library.copy_of(name, single=True))) == ast.dump(original)
        return
    target = str(tmp_path / "flat")
    assert main(["add", name, "--single-file", "--tests", "--to", target]) == 0
    # Where the project's tests stand, torchvision would not load beside a torch for the CPU either.
    allowing = (ROOT / "benchmarks" / "libraries.py").read_text("utf-8")
    (tmp_path / "conftest.py").write_text(f"{allowing}\n\nallow_torchvision()\n{FEW}", "utf-8")
    # Names may have gone wrong, not numbers: few examples, and nothing is trained ("it learns").
    options = ["-q", "-p", "no:cacheprovider", "-k", "not test_it_"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
