"""Files of results: JSON Lines, one row a function and pass, beside a manifest of the run.

A run writes <suite>.partial.jsonl while it goes on and renames at its end, so that what was
published stays until the new is whole, and a run that was broken off can go on.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import work

FOLDER = Path(__file__).parent / "results"
SCHEMA = Path(__file__).parent / "schema.json"
DETECTORS = "detectors"  # a suite whose rows are trained models, not times of functions
SHOWN = {"cpu": "cpu", "gpu": "nvidia-h200"}  # the folders that the pages quote


class ResultError(ValueError):
    """A result file that is not as it should be: file, line, what is wrong."""


@dataclass(frozen=True)
class Run:
    """One run of a suite."""

    manifest: dict[str, Any]
    rows: list[dict[str, Any]]

    def ceilings(self) -> dict[str, float]:
        """Each ceiling, the middle one of those measured at start, middle and end."""
        found: dict[str, list[float]] = {}
        for ceiling in self.manifest["ceilings"]:
            found.setdefault(ceiling["kind"], []).append(ceiling["value"])
        return {kind: statistics.median(values) for kind, values in found.items()}


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row is about; the same in two runs."""
    if row["suite"] == DETECTORS:
        return (DETECTORS, row["detector"])
    return (*cell(row), row["pass"], row["backend"])


def cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What rows are compared within, over both passes."""
    shape = row["shape"]
    text = shape if isinstance(shape, str) else json.dumps(shape)
    return (row["suite"], row["op"], text, row["dtype"], row["causal"])


def load(suite: str, folder: Path = FOLDER / "cpu", ending: str = "") -> Run:
    """The results of a suite; whole files with the right fields, see `check` for the rest.

    Raises:
        ResultError: a file is missing, cut off or corrupted.
    """
    file, beside = _paths(suite, folder, ending)
    for path in (file, beside):
        if not path.is_file():
            raise ResultError(f"{path}: missing; measure with `{command(suite)}`")
    manifest_of, row_of = _definitions(suite)
    manifest = _parse(beside, 1, beside.read_text("utf-8"), manifest_of)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        row = _parse(file, number, line, row_of)
        if row["run_id"] != manifest["run_id"]:
            raise ResultError(f"{file}:{number}: run {row['run_id']} is not the manifest's")
        rows.append(row)
    if len({key(row) for row in rows}) != len(rows) or not (rows or ending or suite == "ceilings"):
        raise ResultError(f"{file}: no rows, or one twice")
    return Run(manifest, rows)


def command(suite: str) -> str:
    """What measures a suite."""
    return f"python -m benchmarks {suite if suite == DETECTORS else f'run --suite {suite}'}"


def _definitions(suite: str) -> tuple[str, str]:
    """Of the manifest and of a row, in the schema."""
    return ("detectors", "detector") if suite == DETECTORS else ("manifest", "row")


def save(suite: str, run: Run, folder: Path, ending: str = "") -> None:
    """Write a run; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    file, beside = _paths(suite, folder, ending)
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in run.rows)
    manifest = json.dumps(run.manifest, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    for path, text in ((beside, manifest), (file, lines)):
        new = path.with_name(path.name + ".new")
        new.write_text(text, "utf-8")
        new.replace(path)


def append(suite: str, rows: Iterable[Mapping[str, Any]], folder: Path, ending: str) -> None:
    """Add rows to a run under way."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with _paths(suite, folder, ending)[0].open("a", encoding="utf-8") as file:
        file.write(text)


def remove(suite: str, folder: Path, ending: str) -> None:
    """Delete a run's files."""
    for path in _paths(suite, folder, ending):
        path.unlink(missing_ok=True)


def suites(folder: Path) -> list[str]:
    """Those with results in a folder."""
    files = [path.name.removesuffix(".jsonl") for path in folder.glob("*.jsonl")]
    return sorted(name for name in files if "." not in name)


def check(suite: str, folder: Path = FOLDER / "cpu") -> Run:
    """Hold a suite's files against the schema, and recompute all that follows from other fields.

    Raises:
        ResultError: naming file and line.
    """
    import jsonschema

    run = load(suite, folder)
    file, beside = _paths(suite, folder, "")
    of_manifest, of_row = (
        jsonschema.Draft202012Validator(_schema() | {"$ref": f"#/$defs/{what}"})
        for what in _definitions(suite)
    )
    _validate(of_manifest, f"{beside}:1", run.manifest)
    for number, row in enumerate(run.rows, 1):
        _validate(of_row, f"{file}:{number}", row)
    if suite == DETECTORS:
        from benchmarks.detectors.rows import wrong

        for number, row in enumerate(run.rows, 1):
            if found := wrong(row, run.manifest):
                raise ResultError(f"{file}:{number}: {row['detector']}: {found}")
        return run
    ceilings = run.ceilings()
    for number, row in enumerate(run.rows, 1):
        _check_row(f"{file}:{number}", row, ceilings)
    for ours, theirs in _sides(run.rows):
        if not (ours and theirs):
            raise ResultError(f"{file}: a comparison lacks ours or the library's rows")
    return run


def _check_row(where: str, row: dict[str, Any], ceilings: dict[str, float]) -> None:
    measured = ("times_ms", "pass_medians", "method", "error")
    if row["status"] != "ok":
        if not row["reason"] or any(row[field] for field in measured[:3]):
            raise ResultError(f"{where}: status {row['status']} needs a reason and no times")
        return
    if not all(row[field] for field in measured):
        raise ResultError(f"{where}: status ok needs times, method and error")
    times = row["times_ms"]
    order = [times[name] for name in ("min", "p20", "median", "p80")]
    if order != sorted(order) or not times["min"] <= times["mean"]:
        raise ResultError(f"{where}: times are out of order, got {order}")
    if row["error"]["rel_l2"] > row["error"]["tolerance"]:
        raise ResultError(f"{where}: the result is wrong by {row['error']['rel_l2']}")
    for field, value in derived(row, ceilings).items():
        there = row[field]
        close = isinstance(value, float) and there and math.isclose(there, value, rel_tol=1e-9)
        if not (close or there == value):
            raise ResultError(f"{where}: {field} is {row[field]!r}, recomputed {value!r}")


def derived(row: Mapping[str, Any], ceilings: Mapping[str, float]) -> dict[str, Any]:
    """The fields that follow from shape, times and ceilings; empty where work is not counted."""
    amount = work.work(row)
    if amount is None:
        return {}
    found: dict[str, Any] = dict(flops=amount.flops, bytes=amount.bytes, exps=amount.exps)
    found["floor_ms"], found["bound"] = work.floor(amount, ceilings)
    if row["status"] == "ok":
        seconds = row["times_ms"]["median"] / 1000
        found["tflops"] = amount.flops / seconds / 1e12
        found["gbps"] = amount.bytes / seconds / 1e9
        found["fraction_of_floor"] = found["floor_ms"] / row["times_ms"]["median"]
    return found


@dataclass(frozen=True)
class Ratio:
    """How many times as long one row takes as another."""

    ours: str
    library: str
    low: float  # over the passes
    median: float
    high: float

    @property
    def tie(self) -> bool:
        """The spread covers both outcomes."""
        return self.low <= 1 <= self.high


def ratio(mine: Mapping[str, Any], peer: Mapping[str, Any]) -> Ratio:
    """Of two rows that were measured in turns, or of the same row in two runs."""
    pairs = zip(mine["pass_medians"], peer["pass_medians"], strict=True)
    spread = [ours / theirs for ours, theirs in pairs]
    middle = mine["times_ms"]["median"] / peer["times_ms"]["median"]
    low, high = min(*spread, middle), max(*spread, middle)
    return Ratio(mine["backend"], peer["backend"], low, middle, high)


def ratios(rows: Iterable[Mapping[str, Any]]) -> list[Ratio]:
    """Each of our functions against the fastest of the libraries', within one cell and pass."""
    rows = [row for row in rows if row["status"] == "ok"]
    peers = [row for row in rows if not row["ours"]]
    if not peers:
        return []
    peer = min(peers, key=lambda row: row["times_ms"]["median"])
    return [ratio(row, peer) for row in rows if row["ours"]]


def _sides(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Rows of ours and of libraries, by cell; steps of a ladder and candidates are ours alone."""
    count: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        if row["op"] not in ("ladder", "tuning") and row["backend"] != "-":
            count.setdefault((*cell(row), row["pass"]), [0, 0])[0 if row["ours"] else 1] += 1
    return [(ours, theirs) for ours, theirs in count.values()]


def _paths(suite: str, folder: Path, ending: str) -> tuple[Path, Path]:
    return folder / f"{suite}{ending}.jsonl", folder / f"{suite}{ending}.manifest.json"


@cache
def _schema() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text("utf-8"))


def _parse(path: Path, number: int, text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise ResultError(f"{path}:{number}: not JSON, cut off? ({error})") from None
    fields = set(_schema()["$defs"][what]["required"])
    if not isinstance(found, dict) or found.keys() != fields:
        names = sorted(found.keys() ^ fields) if isinstance(found, dict) else type(found).__name__
        raise ResultError(f"{path}:{number}: fields are missing or unknown: {names}")
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _validate(validator: Any, where: str, found: dict[str, Any]) -> None:
    from jsonschema.exceptions import best_match

    error = best_match(validator.iter_errors(found))
    if error:
        field = ".".join(map(str, error.absolute_path)) or "it"
        raise ResultError(f"{where}: {field}: {error.message}")
