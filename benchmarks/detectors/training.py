"""The images, the budget, the training of one detector, and what is measured of it."""

import ast
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.detectors.zoo import Detector
from benchmarks.timing import ROUNDS, summary
from snippets.detection.average_precision import evaluate_coco
from snippets.detection.iou import box_iou
from snippets.detection.shapes_dataset import mask_to_rle, shapes

Target = dict[str, Tensor]
Detections = list[dict[str, Tensor]]
SEED = 0
BATCH = 16
BUDGET = 19_200  # images that each sees in training
HELD_OUT = 200  # images
PICTURES = 12  # of them, whose detections are stored
IMAGES: dict[str, Any] = {"size": 96, "objects": [1, 4], "sides": [16, 48]}
SEEDS = {"weights": SEED, "training": 1_000_000, "held_out": 4}  # training: plus the step
VALIDATION = 2  # seed of the images that recipes are chosen on; the table reports others
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def draw(count: int, seed: int) -> list[tuple[Tensor, Target]]:
    """Images and targets."""
    generator = torch.Generator().manual_seed(seed)
    ranges = {name: tuple(IMAGES[name]) for name in ("objects", "sides")}
    return shapes(count, generator, IMAGES["size"], **ranges)


@dataclass
class Images:
    """What all detectors learn from: a batch a step, drawn once and kept as bytes."""

    batch: int = BATCH
    kept: dict[int, tuple[Tensor, list[Target]]] = field(
        default_factory=dict[int, tuple[Tensor, list[Target]]]
    )

    def __call__(self, step: int, device: torch.device) -> tuple[Tensor, list[Target]]:
        """Images (B, 3, H, W) and their targets; the same for every detector."""
        if step not in self.kept:
            drawn = draw(self.batch, SEEDS["training"] + step)
            stack = torch.stack([image for image, _ in drawn])
            self.kept[step] = (stack * 255).round().byte(), [target for _, target in drawn]
        images, targets = self.kept[step]
        return images.to(device).float() / 255, moved(targets, device)


def moved(targets: Sequence[Target], device: torch.device) -> list[Target]:
    """To a device."""
    return [{name: x.to(device) for name, x in target.items()} for target in targets]


class Diverged(Exception):
    """The loss is no number any more."""


def clock(device: torch.device) -> Callable[[], float]:
    """On a CPU the time of this process, one thread: what else the machine does hardly counts."""
    if device.type == "cpu":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


Report = Callable[[int, int, float], None]  # step, of how many, loss


def train(
    detector: Detector, model: nn.Module, images: Images, steps: int, device: torch.device,
    report: Report,
) -> tuple[float, list[float]]:  # fmt: skip
    """Train; the seconds that took without drawing images, and the mean loss of each twentieth.

    AdamW, one cycle: up to the peak in the first 30 % of the steps, then down as a cosine.
    """
    torch.manual_seed(SEED)  # of what draws without a generator
    generator = torch.Generator().manual_seed(SEED)
    more = dict(detector.learn) | ({"generator": generator} if detector.drawn else {})
    faster = set(model.backbone.parameters()) if detector.backbone != 1 else set()  # pyright: ignore
    groups = [
        {"params": [p for p in model.parameters() if p not in faster]},
        {"params": [p for p in model.parameters() if p in faster]},
    ]
    rates = [detector.rate, detector.rate * detector.backbone]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    seconds, losses, now = 0.0, list[float](), clock(device)
    model.train()
    for step in range(steps):
        batch, targets = images(step, device)
        start = now()
        loss: Tensor = model.loss(batch, targets, **more)  # pyright: ignore
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), detector.clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        seconds += now() - start
        if not math.isfinite(losses[-1]):
            raise Diverged(f"the loss is {losses[-1]} at step {step + 1}")
        report(step + 1, steps, losses[-1])
    model.eval()
    if detector.fit:
        count = math.ceil(detector.fit / images.batch)
        parts = [images(step, device) for step in range(min(count, steps))]
        batch = torch.cat([x for x, _ in parts])[: detector.fit]
        targets = [target for _, part in parts for target in part][: detector.fit]
        start = now()
        model.fit(batch, targets)  # pyright: ignore
        seconds += now() - start
    size = math.ceil(steps / 20)
    means = [losses[i : i + size] for i in range(0, steps, size)]
    return seconds, [sum(part) / len(part) for part in means]


def detect(detector: Detector, model: nn.Module, images: Tensor) -> Detections:
    """Its detections, with its post-processing, where the images are."""
    return model.detect(images, **detector.detect)  # pyright: ignore


def measure(
    detector: Detector, model: nn.Module, drawn: list[tuple[Tensor, Target]], device: torch.device
) -> dict[str, Any]:
    """The fields of a row that a trained model decides, on images that it was not trained on."""
    images = torch.stack([image for image, _ in drawn]).to(device)
    targets = [target for _, target in drawn]
    parameters = sum(p.numel() for p in model.parameters())
    used: nn.Module = model.folded() if detector.folded else model  # pyright: ignore
    found: Detections = []
    for part in images.split(20):
        found += [
            {name: x.cpu() for name, x in one.items()} for one in detect(detector, used, part)
        ]
    with FlopCounterMode(display=False) as counter:
        detect(detector, used, images[:1])
    masks = evaluate_coco(found, targets, "masks") if "masks" in found[0] else None
    threshold, counts = best_threshold(found, targets)
    return {
        "parameters": parameters,
        "flops": counter.get_total_flops(),
        "latency_ms": latency(detector, used, images),
        "boxes": evaluate_coco(found, targets),
        "masks": masks,
        "threshold": threshold,
        "counts": counts,
        "pictures": [picture(i, one, threshold) for i, one in enumerate(found[:PICTURES])],
    }


def latency(detector: Detector, model: nn.Module, images: Tensor, calls: int = 20) -> Any:
    """Milliseconds of one image, on the device, to its detections; each call another image."""
    now = clock(images.device)
    rounds: list[list[float]] = []
    for turn in range(ROUNDS + 1):  # the first warms up
        times: list[float] = []
        for i in range(calls):
            image = images[(turn * calls + i) % len(images)][None]
            start = now()
            detect(detector, model, image)
            times.append(1000 * (now() - start))
        rounds.append(times)
    return summary(rounds[1:])["times_ms"]


def right(found: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """Which detections are right, bool (n,): by descending score each takes the best truth left.

    A truth of its class, overlapped by at least a half.
    """
    overlap = box_iou(found["boxes"].float(), target["boxes"])  # (n, G)
    overlap[found["labels"][:, None] != target["labels"]] = 0
    good = torch.zeros(len(overlap), dtype=torch.bool)
    for i, row in enumerate(overlap):
        if len(row) and row.max() >= 0.5:
            good[i] = True
            overlap[:, row.argmax()] = 0
    return good


def best_threshold(found: Detections, targets: Sequence[Target]) -> tuple[float, dict[str, int]]:
    """The score from which on F1 is largest over all images, and the counts there."""
    good = torch.cat([right(one, target) for one, target in zip(found, targets, strict=True)])
    scores = torch.cat([one["scores"].float() for one in found])
    truths = sum(len(target["labels"]) for target in targets)
    if len(scores) == 0:
        return 0.0, {"right": 0, "wrong": 0, "missed": truths}
    scores, order = scores.sort(descending=True, stable=True)
    hits = good[order].cumsum(0)  # (n,)
    taken = torch.arange(1, len(scores) + 1)
    best = int((2 * hits / (taken + truths)).argmax())
    counts = {
        "right": int(hits[best]),
        "wrong": best + 1 - int(hits[best]),
        "missed": truths - int(hits[best]),
    }
    return float(scores[best]), counts


def picture(image: int, found: Mapping[str, Tensor], threshold: float) -> dict[str, Any]:
    """What a detector says of a held-out image, from its threshold on, to be stored."""
    keep = (found["scores"] >= threshold).nonzero()[:, 0][:30]
    masks = None
    if "masks" in found:
        masks = [mask_to_rle(mask)["counts"] for mask in found["masks"][keep]]
    return {
        "image": image,
        "boxes": [[round(float(x), 2) for x in box] for box in found["boxes"][keep]],
        "scores": [round(float(x), 4) for x in found["scores"][keep]],
        "labels": [int(x) for x in found["labels"][keep]],
        "masks": masks,
    }


def code(detector: str) -> str:
    """Digest of the snippets that a detector, the images and the evaluation are made of.

    Comments and docstrings do not count.
    """
    folder = Path(__file__).parents[2] / "snippets"
    names = (detector, "shapes_dataset", "average_precision")
    todo = [folder / "detection" / f"{name}.py" for name in names]
    seen: dict[str, str] = {}
    while todo:
        path = todo.pop()
        name = path.relative_to(folder).as_posix()
        if name in seen:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        todo += [_imported(path, node) for node in ast.walk(tree) if _local(node)]
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]  # the demo
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(
                node.body[0], ast.Expr
            ):
                node.body[0] = ast.Expr(ast.Constant(""))
        seen[name] = ast.unparse(tree)
    text = "".join(f"{name}\n{seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()


def _local(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.level > 0


def _imported(path: Path, node: ast.AST) -> Path:
    assert isinstance(node, ast.ImportFrom) and node.module
    return path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
