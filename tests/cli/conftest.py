"""A small library of snippets, of which newer versions can be published."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from snippets._cli import library
from snippets._cli.commands import main

BOXES = '''"""Intersection over union.

Paper: Someone, "Boxes", 2020. https://example.org/boxes
Needs: torch.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]

__all__ = ["box_iou"]

EPS = 1e-9


# --8<-- [start:core]
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (N, 4) and (M, 4)."""
    _check(a)
    _check(b)
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area = lambda boxes: (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return inter / (area(a)[:, None] + area(b) - inter + EPS)


# --8<-- [end:core]


def _check(boxes: Tensor) -> None:
    if boxes.shape[-1] != 4:
        raise ValueError(f"boxes are (N, 4), got {tuple(boxes.shape)}")


if __name__ == "__main__":
    print(box_iou(torch.eye(4), torch.eye(4)).shape)
'''
NMS = '''"""Greedy non-maximum suppression. Paper: https://example.org/nms"""

import torch
from torch import Tensor

from .boxes import EPS, box_iou

__all__ = ["nms"]


def nms(boxes: Tensor, scores: Tensor, threshold: float = 0.5) -> Tensor:
    """The boxes to keep, best first."""
    _check(boxes, scores)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(box_iou(boxes[i, None], boxes[j, None]).item() <= threshold + EPS for j in kept):
            kept.append(i)
    return torch.tensor(kept)


def _check(boxes: Tensor, scores: Tensor) -> None:
    if len(boxes) != len(scores):
        raise ValueError(f"{len(boxes)} boxes, {len(scores)} scores")


if __name__ == "__main__":
    print(nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1)))
'''
DETECTOR = '''"""A detector."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..vision.boxes import box_iou as overlap
from ..vision.nms import nms

__all__ = ["Detector"]


def _check(boxes: Tensor) -> None:
    if boxes.ndim != 2:
        raise TypeError("two axes")


@dataclass
class Detector:
    """Keeps what NMS keeps."""

    threshold: float = 0.5

    def __call__(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The kept boxes and their overlaps."""
        _check(boxes)
        kept = boxes[nms(boxes, scores, self.threshold)]
        return kept, overlap(kept, kept)


if __name__ == "__main__":
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]])
    print(Detector()(boxes, torch.tensor([0.9, 0.8, 0.7]))[0].tolist())
'''
TEST = '''"""The detector."""

import pytest
import torch

from snippets.heads.detector import Detector
from snippets.vision.boxes import box_iou

BOXES = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]])


def test_it_keeps_two() -> None:
    kept, overlap = Detector()(BOXES, torch.tensor([0.9, 0.8, 0.7]))
    assert kept.tolist() == [[0, 0, 2, 2], [5, 5, 6, 6]]
    assert torch.equal(overlap, box_iou(kept, kept))


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="two axes"):
        Detector()(BOXES[0], torch.ones(3))
    with pytest.raises(ValueError, match="3 boxes, 2 scores"):
        Detector()(BOXES, torch.ones(2))
    with pytest.raises(ValueError, match=r"got \\(3, 2\\)"):
        box_iou(BOXES[:, :2], BOXES)
'''
FILES = {"vision/boxes": BOXES, "vision/nms": NMS, "heads/detector": DETECTOR}

Publish = Callable[..., None]


@pytest.fixture
def publish(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Publish a release of the small library; `publish("0.2.0", {"vision/boxes": text})`."""
    root = tmp_path_factory.mktemp("library")
    monkeypatch.setattr(library, "SNIPPETS", root)
    monkeypatch.setattr(library, "LIBRARY", root / "library.json")
    monkeypatch.setattr(library, "WHEEL_TESTS", root / "tests")
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.setenv(name, "C.UTF-8")

    def clear() -> None:
        for cached in (library.data, library.library, library.needs, library.body):
            cached.cache_clear()

    def publish(release: str, changed: dict[str, str] | None = None) -> None:
        snippets = {}
        for name, text in {**FILES, **(changed or {})}.items():
            file = root / f"{name}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, "utf-8")
            title = {"en": f"About {file.stem}", "zh": "交并比" if "boxes" in name else "其他"}
            section = {"en": "Section", "zh": "章节"}
            snippets[name] = dict(page=name, title=title, about=title, section=section, terms=[])
        (root / "tests" / "heads").mkdir(parents=True, exist_ok=True)
        (root / "tests" / "heads" / "test_detector.py").write_text(TEST, "utf-8")
        text = json.dumps({"site": "https://example.org", "snippets": snippets})
        library.LIBRARY.write_text(text, "utf-8")
        monkeypatch.setattr(library, "release", lambda: release)
        clear()

    publish("0.1.0")
    yield publish
    monkeypatch.undo()
    clear()


@pytest.fixture
def run(publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(argument) for argument in arguments])


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files with their rights, temporary ones too."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mode, p.read_bytes()) for p in files}
