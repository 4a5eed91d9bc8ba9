"""One call: goes on with what was broken off, trains the rest, and writes files."""

import argparse
import datetime
import math
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, results
from benchmarks.detectors import SUITE, training
from benchmarks.detectors.rows import EMPTY
from benchmarks.detectors.training import BATCH, BUDGET, VALIDATION, Diverged, Images
from benchmarks.detectors.zoo import DETECTORS, Detector

PARTIAL = ".partial"
Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--only", nargs="+", choices=list(DETECTORS), help="some of them; needs --out")
    add("--budget", type=int, default=BUDGET, help="images in training; default %(default)s")
    add("--held-out", type=int, default=training.HELD_OUT, help="images to evaluate on")
    add("--validation", action="store_true", help="evaluate on the images to choose recipes on")
    add("--device", default=default, help="cpu, cuda, cuda:1; default %(default)s")
    add("--out", type=Path, help="folder; default benchmarks/results/<machine>")
    add("--commit", default="", help="of this unchanged copy, where git cannot tell")


def run(given: argparse.Namespace) -> results.Run:
    """Train and measure them, one after another; each is written as soon as it is done."""
    other = given.only or given.validation
    if (other or given.budget != BUDGET or given.held_out != training.HELD_OUT) and not given.out:
        names = "--only, --budget, --held-out and --validation"
        sys.exit(f"{names} measure something else: say with --out where")
    if given.budget < BATCH or given.held_out < training.PICTURES:
        low = f"{BATCH} and {training.PICTURES}"
        sys.exit(f"--budget and --held-out from {low} on, got {given.budget}, {given.held_out}")
    try:
        device = torch.device(given.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"--device {given.device} cannot be used here ({error}); try --device cpu")
    folder: Path = given.out or results.FOLDER / machine.folder(device)
    fresh = _manifest(given, device)
    wanted = given.only or list(DETECTORS)
    manifest, kept = _kept(fresh, folder, wanted)
    todo = [name for name in wanted if name not in kept]
    print(f"{SUITE}: {len(kept)} of {len(wanted)} are there, into {folder}", flush=True)
    results.save(SUITE, results.Run(manifest, list(kept.values())), folder, PARTIAL)
    codes = {name: training.code(name) for name in todo}  # as imported, should files change
    images, begin = Images(), time.monotonic()
    for number, name in enumerate(todo):
        said = Progress(name, number, todo, begin)
        row = _row(manifest, name, codes[name], device, images, said, given)
        kept[name] = row
        results.append(SUITE, [row], folder, PARTIAL)
        print(said.done(row), flush=True)
    found = results.Run(manifest, [kept[name] for name in DETECTORS if name in kept])
    results.save(SUITE, found, folder)
    results.remove(SUITE, folder, PARTIAL)
    return found


class Progress:
    """A line every ten seconds: where training stands and how long it will take."""

    def __init__(self, name: str, number: int, todo: list[str], begin: float) -> None:
        self.name, self.number, self.todo = name, number, todo
        self.begin, self.start, self.said = begin, time.monotonic(), -math.inf

    def __call__(self, step: int, steps: int, loss: float) -> None:
        """After a step."""
        now = time.monotonic()
        if now - self.said < 10 and step < steps:
            return
        self.said = now
        left = (now - self.start) / step * (steps - step)
        print(
            f"{self.number + 1}/{len(self.todo)} {self.name}: step {step} of {steps}, "
            f"loss {loss:.3g}, {left:.0f} s left of its training{self._others(left)}",
            flush=True,
        )

    def _others(self, left: float) -> str:
        """What all will take, if the rest are like those so far."""
        after = len(self.todo) - self.number - 1
        if not after:
            return ""
        so_far = time.monotonic() - self.begin + left
        return f", {so_far / (self.number + 1) * after / 60:.0f} min for {after} more"

    def done(self, row: Row) -> str:
        """Of a detector."""
        if row["status"] != "ok":
            return f"{self.name}: {row['status']}, {row['reason']}"
        boxes = row["boxes"]
        seconds = row["train_seconds"]
        return f"{self.name}: AP {boxes['AP']:.3f}, AP50 {boxes['AP50']:.3f}, {seconds:.0f} s"


def _manifest(given: argparse.Namespace, device: torch.device) -> Row:
    return {
        "schema_version": 1,
        "run_id": uuid.uuid4().hex[:12],
        "suite": SUITE,
        "utc": _now(),
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}",
        "device": machine.describe(device),
        "versions": machine.versions(),
        "budget": {
            "images": given.budget,
            "batch": BATCH,
            "optimizer": "AdamW, weight decay 0.01, OneCycleLR",
        },
        "data": {**training.IMAGES, "held_out": given.held_out},
        "seeds": training.SEEDS | ({"held_out": VALIDATION} if given.validation else {}),
        "clock": "CPU time of the process" if device.type == "cpu" else "wall clock",
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _kept(fresh: Row, folder: Path, wanted: list[str]) -> tuple[Row, dict[str, Row]]:
    """A run under way, or one that is published, with the rows of it that still hold.

    A row holds while neither the code of its detector nor what it is given has changed.
    """
    same = ("device", "versions", "budget", "data", "seeds", "clock")
    for ending in (PARTIAL, ""):
        try:
            found = results.load(SUITE, folder, ending)
        except results.ResultError as error:
            if ending and "missing" not in str(error):
                raise
            continue
        other = [name for name in same if found.manifest[name] != fresh[name]]
        if other and ending:
            raise results.ResultError(
                f"{folder}: {SUITE}{ending} is of another {' and '.join(other)}; "
                f"delete it, or write elsewhere with --out"
            )
        if not other:
            rows = {row["detector"]: row for row in found.rows if holds(row)}
            manifest = found.manifest | {"command": fresh["command"]}
            return manifest, {name: rows[name] for name in wanted if name in rows}
    return fresh, {}


def current(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a detector as it is now: its code, and what it is given."""
    name = row["detector"]
    if name not in DETECTORS:
        return False
    return row["config"] == DETECTORS[name].config() and row["code_sha256"] == training.code(name)


def holds(row: Mapping[str, Any]) -> bool:
    """Whether a row need not be measured again."""
    return row["status"] == "ok" and current(row)


def _row(
    manifest: Row,
    name: str,
    code: str,
    device: torch.device,
    images: Images,
    said: Progress,
    given: argparse.Namespace,
) -> Row:
    detector = DETECTORS[name]
    steps = max(1, detector.longer * given.budget // BATCH)
    row = {
        "run_id": manifest["run_id"],
        "suite": SUITE,
        "detector": name,
        "utc": _now(),
        **machine.source(given.commit),
        "code_sha256": code,
        "config": detector.config(),
        "steps": steps,
        "images_seen": steps * BATCH,
    } | EMPTY
    try:
        drawn = training.draw(given.held_out, manifest["seeds"]["held_out"])
        return row | _trained(detector, steps, device, images, said, drawn)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return row | {"status": "oom", "reason": "out of memory"}
    except Diverged as error:
        return row | {"status": "error", "reason": str(error)}


def _trained(
    detector: Detector, steps: int, device: torch.device, images: Images, said: Progress,
    drawn: list[tuple[torch.Tensor, training.Target]],
) -> Row:  # fmt: skip
    generator = torch.Generator().manual_seed(training.SEED)
    model = detector.build(**detector.options, generator=generator).to(device)
    seconds, losses = training.train(detector, model, images, steps, device, said)
    measured = training.measure(detector, model, drawn, device)
    return {"train_seconds": seconds, "losses": losses, **measured}
