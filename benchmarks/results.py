"""What was measured: JSON Lines, one row a function and pass, beside a manifest of the machine."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
MANIFEST = {
    "schema_version": int,
    "run_id": str,
    "utc": str,
    "command": str,
    "commit": str,
    "dirty": bool,
    "device": str,
    "threads": int,
    "python": str,
    "torch": str,
    "transformers": str,
    "seed": int,
}
ROW = {
    "run_id": str,
    "suite": str,
    "op": str,
    "shape": str,
    "dtype": str,
    "pass": str,
    "backend": str,
    "ours": bool,
    "times_ms": dict,
    "pass_medians": list,
    "error": dict,
}
PASSES = ("forward", "forward and backward")


class ResultError(ValueError):
    """A result file that is not as it should be: file, line, what is wrong."""


@dataclass(frozen=True)
class Run:
    """One run of a suite."""

    manifest: dict[str, Any]
    rows: list[dict[str, Any]]


def load(suite: str, folder: Path = FOLDER) -> Run:
    """The newest results of a suite, checked.

    Raises:
        ResultError: a file is missing, cut off or corrupted.
    """
    file, beside = folder / f"{suite}.jsonl", folder / f"{suite}.manifest.json"
    for path in (file, beside):
        if not path.is_file():
            raise ResultError(f"{path}: missing; measure with `python -m benchmarks run`")
    manifest = _parse(beside, 1, beside.read_text("utf-8"), MANIFEST)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        row = _parse(file, number, line, ROW)
        _check(file, number, row, manifest)
        rows.append(row)
    seen = {(row["op"], row["pass"], row["backend"]) for row in rows}
    if len(seen) != len(rows) or not rows:
        raise ResultError(f"{file}: no rows, or one twice")
    for op, name in {(row["op"], row["pass"]) for row in rows}:
        kinds = {row["ours"] for row in rows if (row["op"], row["pass"]) == (op, name)}
        if kinds != {True, False}:
            raise ResultError(f"{file}: {op}, {name}: ours or the library's row is missing")
    return Run(manifest, rows)


def save(suite: str, run: Run, folder: Path = FOLDER) -> None:
    """Write a run; both files at the end, so that a run that was broken off changes nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in run.rows)
    (folder / f"{suite}.jsonl").write_text(text, "utf-8")
    manifest = json.dumps(run.manifest, ensure_ascii=False, indent=1) + "\n"
    (folder / f"{suite}.manifest.json").write_text(manifest, "utf-8")


@dataclass(frozen=True)
class Ratio:
    """How many times as long ours takes as the fastest library function does."""

    ours: str
    library: str
    low: float  # over the passes
    median: float
    high: float


def ratios(run: Run, op: str, name: str) -> list[Ratio]:
    """Each of our functions against the best peer, for one operation and pass."""
    rows = [row for row in run.rows if (row["op"], row["pass"]) == (op, name)]
    peer = min((r for r in rows if not r["ours"]), key=lambda r: r["times_ms"]["median"])
    found: list[Ratio] = []
    for row in rows:
        if row["ours"]:
            by_pass = zip(row["pass_medians"], peer["pass_medians"], strict=True)
            spread = [mine / theirs for mine, theirs in by_pass]
            middle = row["times_ms"]["median"] / peer["times_ms"]["median"]
            low, high = min(*spread, middle), max(*spread, middle)
            found.append(Ratio(row["backend"], peer["backend"], low, middle, high))
    return found


def _parse(path: Path, number: int, text: str, fields: dict[str, type]) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ResultError(f"{path}:{number}: not JSON, cut off? ({error})") from None
    if not isinstance(found, dict) or found.keys() != fields.keys():
        names = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ResultError(f"{path}:{number}: fields must be {sorted(fields)}, got {names}")
    for name, kind in fields.items():
        if type(found[name]) is not kind:
            raise ResultError(
                f"{path}:{number}: {name} must be {kind.__name__}, got {found[name]!r}"
            )
    return found


def _check(path: Path, number: int, row: dict[str, Any], manifest: dict[str, Any]) -> None:
    where = f"{path}:{number}"
    if row["run_id"] != manifest["run_id"]:
        raise ResultError(f"{where}: run {row['run_id']} is not the manifest's")
    if row["pass"] not in PASSES:
        raise ResultError(f"{where}: pass must be one of {PASSES}, got {row['pass']!r}")
    times, error = row["times_ms"], row["error"]
    if times.keys() != {"n", "min", "p20", "median", "p80", "mean"} or not error.keys() == {
        "reference",
        "rel_l2",
    }:
        raise ResultError(f"{where}: times_ms or error lacks a field")
    numbers = [*times.values(), *row["pass_medians"], error["rel_l2"]]
    if not all(isinstance(x, int | float) and math.isfinite(x) and x >= 0 for x in numbers):
        raise ResultError(f"{where}: a number is negative, not finite or no number")
    order = [times[k] for k in ("min", "p20", "median", "p80")]
    if order != sorted(order) or not times["min"] <= times["mean"]:
        raise ResultError(f"{where}: times are out of order, got {order}")
