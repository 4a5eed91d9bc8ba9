"""The commands.

python -m benchmarks run [WORD]   measure the operations whose page contains WORD, on one CPU thread
python -m benchmarks check        hold the stored results against their schema
"""

import argparse
import datetime
import importlib.metadata
import platform
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.operations import SEED, operations
from benchmarks.timing import compare

ROOT = Path(__file__).parents[1]


def run(word: str, seconds: float, folder: Path, small: bool = False) -> None:
    """Measure, and store once all is measured."""
    run_id = uuid.uuid4().hex[:12]
    exact = {op.page: op for op in operations(torch.float64, small)}
    rows: list[dict[str, Any]] = []
    chosen = [op for op in operations(small=small) if word in op.page]
    if not chosen:
        sys.exit(f"no operation has '{word}' in its name; there are {', '.join(sorted(exact))}")
    start = time.monotonic()
    for number, op in enumerate(chosen):
        left = (time.monotonic() - start) / number * (len(chosen) - number) if number else 0
        print(f"{number + 1}/{len(chosen)} {op.page}" + (f", {left:.0f} s left" if left else ""))
        with torch.no_grad():
            expected = next(iter(exact[op.page].library.values()))()
        for name in results.PASSES:
            backward = name != "forward"
            candidates = op.candidates()
            measured = compare(candidates, backward, seconds)
            for backend, candidate in candidates.items():
                with torch.no_grad():
                    error = (candidate.run().double() - expected).norm() / expected.norm()
                row = {
                    "run_id": run_id,
                    "suite": "operations",
                    "op": op.page,
                    "shape": op.shape,
                    "dtype": "float32",
                    "pass": name,
                    "backend": backend,
                    "ours": backend in op.ours,
                    **measured[backend],
                    "error": {"reference": "float64", "rel_l2": error.item()},
                }
                rows.append(row)
    manifest = {
        "schema_version": 1,
        "run_id": run_id,
        "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}",
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "snippets", "benchmarks/*.py")),
        "device": _processor(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "seed": SEED,
    }
    results.save("operations", results.Run(manifest, rows), folder)
    _print(results.load("operations", folder))


def _print(found: results.Run) -> None:
    for op in dict.fromkeys(row["op"] for row in found.rows):
        for name in results.PASSES:
            for ratio in results.ratios(found, op, name):
                print(
                    f"{op:<46}{name:<22}{ratio.ours:<30}{ratio.median:6.2f} "
                    f"({ratio.low:.2f} to {ratio.high:.2f}) × {ratio.library}"
                )


def _git(*args: str) -> str:
    command = ["git", *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run", help="measure the operations on one CPU thread")
    measure.add_argument("word", nargs="?", default="", help="only pages that contain this")
    measure.add_argument("--seconds", type=float, default=3.0, help="for each function and pass")
    measure.add_argument("--out", type=Path, default=results.FOLDER, help="where results go")
    check = commands.add_parser("check", help="hold stored results against their schema")
    check.add_argument("folder", nargs="?", type=Path, default=results.FOLDER)
    given = parser.parse_args(arguments)
    try:
        if given.command == "run":
            run(given.word, given.seconds, given.out)
        else:
            _print(results.load("operations", given.folder))
    except results.ResultError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
