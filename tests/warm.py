"""Runs pytest again and again, each time in a fork of a process that has loaded the libraries.

python tests/warm.py TEST…   in the folder of the tree; the tests say which libraries

Reads lines of JSON, [seconds that the run may take, [arguments of pytest]], and answers each with
the exit code, which is negative if a signal ended the run: SIGPROF where its time on the processor
was up, SIGALRM where it waited far too long. What a run has started ends with it.
"""

import ast
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest


def load(test: Path) -> None:
    """Import what a test imports, without the tree itself, which changes from run to run."""
    for node in ast.parse(test.read_text("utf-8")).body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if names and not any(Path(name.split(".")[0]).exists() for name in names):
            with suppress(Exception):  # the test itself will say it better
                exec(compile(ast.Module([node], []), str(test), "exec"), {})


def run(limit: float, args: list[str]) -> int:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            signal.setitimer(signal.ITIMER_PROF, limit)  # a busy machine is no fault
            signal.setitimer(signal.ITIMER_REAL, 60 * limit)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            code = int(pytest.main(args))
        finally:
            os._exit(code)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.environ |= {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}  # as in conftest.py
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the tests of snippets use none
    with suppress(ImportError):
        from benchmarks.libraries import allow_torchvision

        allow_torchvision()
    for name in sys.argv[1:]:
        load(Path(name))
    for line in sys.stdin:
        print(run(*json.loads(line)), flush=True)
