"""The commands.

python -m benchmarks run --suite NAME   measure a suite, or all; on a CUDA GPU if there is one
python -m benchmarks tune --suite NAME  measure the candidates for a kernel's configuration
python -m benchmarks detectors          train all detectors on the same images and measure them
python -m benchmarks compare A B        two folders of results, row by row, ties marked
python -m benchmarks report             the tables that the pages show, from the files
python -m benchmarks check              hold stored results against schema and arithmetic
"""

import argparse
import datetime
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, report, results, runner, suites
from benchmarks.detectors import run as detectors
from benchmarks.timing import clock, one_thread

PARTIAL = ".partial"
DEADLINE = "deadline"
NO_ROOM = "its float64 reference does not fit into memory"


class Session:
    """One call of `run` or `tune`: what all its suites share."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.device = torch.device(given.device)
        if self.device.index is not None:
            torch.cuda.set_device(self.device)  # whose events and streams are used
        self.clock = clock(self.device)
        self.seconds = given.seconds or (1.0 if self.device.type == "cpu" else 0.15)
        self.start = time.monotonic()
        self.folder: Path = given.out or results.FOLDER / machine.folder(self.device)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.given.deadline - (time.monotonic() - self.start)

    def manifest(self, suite: str) -> dict[str, Any]:
        """Of a run that begins."""
        return {
            "schema_version": 2,
            "run_id": uuid.uuid4().hex[:12],
            "suite": suite,
            "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": f"python -m benchmarks {' '.join(sys.argv[1:])}",
            **machine.source(self.given.commit),
            "device": machine.describe(self.device),
            "versions": machine.versions(),
            "flags": {
                "tf32": torch.backends.cuda.matmul.allow_tf32,
                "benchmark": torch.backends.cudnn.benchmark,
                "deterministic": torch.are_deterministic_algorithms_enabled(),
            },
            "ceilings": [],
            "l2_policy": "overwritten before each call; graphs rotate over inputs beyond its size",
            "seed": suites.SEED,
            "tuned_config_sha256": report.digest(),
            "deadline_hit": False,
        }


def run(session: Session, suite: str, cells: Iterable[suites.Cell]) -> results.Run:
    """Measure a suite; go on with a run that was broken off."""
    manifest, rows = _resume(session, suite)
    done = {(results.cell(row), row["pass"]) for row in rows}
    small = session.given.small
    todo = [cell for cell in cells if session.given.only in cell.label]
    if not todo and suite != "ceilings":
        print(f"{suite}: nothing to measure on this device")
        return results.Run(manifest, [])
    results.save(suite, results.Run(manifest, rows), session.folder, PARTIAL)

    def ceilings(when: str) -> None:
        found = machine.ceilings(session.device, session.clock, when, small)
        manifest["ceilings"] += found
        results.save(suite, results.Run(manifest, rows), session.folder, PARTIAL)

    sampler = machine.Sampler(session.device)
    try:
        if not done:
            ceilings("start")
        begin, measured = time.monotonic(), 0
        for number, cell in enumerate(todo):
            if all((results.cell(vars(cell)), name) in done for name in cell.passes):
                continue
            if session.left() <= 0:
                manifest["deadline_hit"] = True
                new = list(runner.skipped(cell, DEADLINE))
            else:
                spent = time.monotonic() - begin
                left = spent / measured * (len(todo) - number) if measured else 0
                left = min(left, session.left())
                text = f", {left:.0f} s left" if left else ""
                print(f"{number + 1}/{len(todo)} {cell.label}{text}", flush=True)
                args = (session.device, session.clock, sampler, session.seconds)
                try:
                    new = list(runner.rows(cell, *args))
                except torch.OutOfMemoryError:  # in float64, to compare with
                    torch.cuda.empty_cache()
                    new = list(runner.skipped(cell, NO_ROOM))
                measured += 1
            new = [{"run_id": manifest["run_id"], **row} for row in new]
            rows += new
            results.append(suite, new, session.folder, PARTIAL)
            if number == len(todo) // 2:
                ceilings("middle")
        ceilings("end")
    finally:
        sampler.stop()
    found = results.Run(manifest, rows)
    for row in rows:
        row |= results.derived(row, found.ceilings())
    if manifest["deadline_hit"] and _published_whole(suite, session.folder):
        print(f"{suite}: the deadline; the published run stays, the same command goes on")
        results.save(suite, found, session.folder, PARTIAL)
        return found
    results.save(suite, found, session.folder)
    results.remove(suite, session.folder, PARTIAL)
    return found


def _published_whole(suite: str, folder: Path) -> bool:
    try:
        return not results.load(suite, folder).manifest["deadline_hit"]
    except results.ResultError:
        return False


def _resume(session: Session, suite: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run that was broken off or met its deadline, of the same machine and code; or a new."""
    fresh = session.manifest(suite)
    same = ("device", "versions", "commit", "dirty", "tuned_config_sha256", "seed")
    for ending in (PARTIAL, ""):
        try:
            found = results.load(suite, session.folder, ending)
        except results.ResultError as error:
            if ending and "missing" not in str(error):
                raise
            continue
        if not ending and not found.manifest["deadline_hit"]:
            continue
        other = [name for name in same if found.manifest[name] != fresh[name]]
        if not other:
            rows = [row for row in found.rows if row["reason"] != DEADLINE]
            print(f"{suite}: going on with run {found.manifest['run_id']}, {len(rows)} rows")
            return found.manifest | {"deadline_hit": False}, rows
        if ending:
            raise results.ResultError(
                f"{session.folder}: {suite}{ending} is of another {' and '.join(other)}; "
                "delete it, or write elsewhere with --out"
            )
    return fresh, []


def compare(a: Path, b: Path) -> None:
    """Row by row how many times as long B takes as A."""
    common = [suite for suite in results.suites(a) if suite in results.suites(b)]
    if not common:
        sys.exit(f"{a} and {b} have no suite in common; give two folders with .jsonl files")
    for suite in common:
        for line in report.compared(results.check(suite, a), results.check(suite, b)):
            print(line)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    known = {"run": [*suites.NAMES, "ceilings", "all"], "tune": list(suites.TUNED)}
    for name, text in (("run", "measure"), ("tune", "measure a kernel's configurations")):
        command = commands.add_parser(name, help=text)
        add = command.add_argument
        add("--suite", choices=known[name], required=True)
        add("--only", default="", help="cells whose line contains this; needs --out")
        add("--device", default=default, help="cpu, cuda, cuda:1; default %(default)s")
        add("--small", action="store_true", help="sizes of seconds, to try it out; needs --out")
        add("--seconds", type=float, help="for each function and pass; 1 on a CPU, 0.15 on a GPU")
        add("--deadline", type=float, default=float("inf"), help="seconds in all")
        add("--out", type=Path, help="folder; default benchmarks/results/<machine>")
        add("--commit", default="", help="of this unchanged copy, where git cannot tell")
    detectors.arguments(commands.add_parser("detectors", help="train and measure the detectors"))
    command = commands.add_parser("compare", help="two folders of results")
    command.add_argument("a", type=Path)
    command.add_argument("b", type=Path)
    command = commands.add_parser("report", help="the tables of the pages")
    command.add_argument("folder", nargs="*", type=Path)
    command = commands.add_parser("check", help="hold results against schema and arithmetic")
    command.add_argument("folder", nargs="*", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command in ("run", "tune"):
            _measure(given)
        elif given.command == "detectors":
            with one_thread():
                found = detectors.run(given)
            print("\n".join(report.summary(found)))
        elif given.command == "compare":
            compare(given.a, given.b)
        else:
            _stored(given.command, given.folder)
    except results.ResultError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def _measure(given: argparse.Namespace) -> None:
    if (given.only or given.small) and not given.out:
        sys.exit("--only and --small measure a part: say with --out where that goes")
    session = Session(given)
    if given.command == "tune":
        cells = suites.tuning_cells(given.suite, session.device, given.small)
        chosen = {f"tuning-{given.suite}": cells}
    else:
        names = suites.NAMES if given.suite == "all" else [given.suite]
        chosen = {
            name: suites.cells(name, session.device, given.small) if name != "ceilings" else []
            for name in names
        }
    with one_thread():
        for suite, cells in chosen.items():
            for line in report.summary(run(session, suite, cells)):
                print(line)


def _stored(command: str, folders: list[Path]) -> None:
    """Check, or print, what is stored; all machines when none is named."""
    folders = folders or sorted(path for path in results.FOLDER.iterdir() if path.is_dir())
    for folder in folders:
        names = results.suites(folder)
        if not names:
            raise results.ResultError(f"{folder}: missing; measure with `python -m benchmarks run`")
        for suite in names:
            found = results.check(suite, folder)
            print(f"{folder / suite}.jsonl: {len(found.rows)} rows")
            if command == "report":
                print("\n".join(report.summary(found)))
    if command == "report":
        folders_of_figures = "`python -m hooks figures benchmarks detection/detectors`"
        print(f"\nThe pages take their tables from these files; {folders_of_figures} draws.")


if __name__ == "__main__":
    main()
