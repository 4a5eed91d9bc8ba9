"""The detectors that are compared: how each is made from its snippet, and what it is given.

All see equally many images of the same kind, under the same optimiser and schedule. What differs
stands here and goes into every row: the peak of the learning rate, a few options, and whether a
detector is trained longer.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from snippets.detection.deformable_detr import DeformableDETR
from snippets.detection.detr import DETR
from snippets.detection.fast_rcnn import FastRCNN
from snippets.detection.faster_rcnn import FasterRCNN
from snippets.detection.mask_rcnn import MaskRCNN
from snippets.detection.rcnn import RCNN
from snippets.detection.ssd import SSD
from snippets.detection.yolo_v1 import YOLOv1
from snippets.detection.yolo_v2 import YOLOv2
from snippets.detection.yolo_v3 import YOLOv3
from snippets.detection.yolo_v4 import YOLOv4
from snippets.detection.yolo_v5 import YOLOv5
from snippets.detection.yolo_v7 import YOLOv7
from snippets.detection.yolo_v8 import YOLOv8


@dataclass(frozen=True)
class Detector:
    """One of them.

    title     as papers write it
    page      of the section that explains it
    build     the model; its weights are drawn by a generator
    rate      peak of the learning rate
    backbone  how many times faster than the rest the backbone learns
    clip      largest norm of the gradient
    options   given to `build`
    learn     given to its `loss`
    detect    given to its `detect`
    drawn     whether its loss draws samples, from a generator
    fit       how many images the SVMs and regressors of R-CNN learn from; 0: it has none
    folded    whether inference uses a copy with fewer layers
    longer    how many times the budget it is trained on; above 1 only where the page says so
    """

    title: str
    page: str
    build: Callable[..., nn.Module]
    rate: float
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    learn: Mapping[str, Any] = field(default_factory=dict[str, Any])
    detect: Mapping[str, Any] = field(default_factory=dict[str, Any])
    drawn: bool = False
    fit: int = 0
    folded: bool = False
    longer: int = 1
    backbone: float = 1.0
    clip: float = 10.0

    def config(self) -> dict[str, Any]:
        """What is written down, and what a row that is kept must have."""
        given = {
            "rate": self.rate,
            "backbone": self.backbone,
            "clip": self.clip,
            "options": dict(self.options),
            "learn": dict(self.learn),
            "detect": dict(self.detect),
            "fit": self.fit,
            "longer": self.longer,
        }
        return json.loads(json.dumps(given))  # as it is read back


REGIONS = {"positive_share": 0.5, "beta": 1 / 9}  # as torchvision's beta; more positives
PICK = {"candidates": 100}
FEW_LAYERS = {"encoder_layers": 1, "decoder_layers": 2}  # as Deformable DETR
ONE_EACH = {8: [[24, 23]], 16: [[36, 37]], 32: [[52, 50]]}  # priors: more positives for each
DETECTORS: dict[str, Detector] = {
    "rcnn": Detector("R-CNN", "rcnn_family", RCNN, 4e-3, drawn=True, fit=200),
    "fast_rcnn": Detector("Fast R-CNN", "rcnn_family", FastRCNN, 4e-3, REGIONS, drawn=True),
    "faster_rcnn": Detector("Faster R-CNN", "rcnn_family", FasterRCNN, 4e-3, REGIONS, drawn=True),
    "mask_rcnn": Detector("Mask R-CNN", "rcnn_family", MaskRCNN, 4e-3, REGIONS, drawn=True),
    "ssd": Detector("SSD", "ssd", SSD, 3e-3, detect=PICK),
    "yolo_v1": Detector("YOLO v1", "yolo", YOLOv1, 3e-3, detect=PICK, longer=8),
    "yolo_v2": Detector("YOLO v2", "yolo", YOLOv2, 1e-2, detect=PICK),
    "yolo_v3": Detector(
        "YOLO v3", "yolo", YOLOv3, 8e-3, {"priors": ONE_EACH}, detect=PICK, longer=3
    ),
    "yolo_v4": Detector("YOLO v4", "yolo", YOLOv4, 8e-3, detect=PICK),
    "yolo_v5": Detector("YOLO v5", "yolo", YOLOv5, 8e-3, detect=PICK),
    "yolo_v7": Detector("YOLO v7", "yolo", YOLOv7, 8e-3, detect=PICK, folded=True, longer=3),
    "yolo_v8": Detector("YOLO v8", "yolo", YOLOv8, 8e-3, detect=PICK),
    "detr": Detector(
        "DETR",
        "detr",
        DETR,
        1e-3,
        {"classes": 4, "stride": 8, "queries": 12, "inner": 128, **FEW_LAYERS},
        {"weights": [2.0, 5.0, 2.0]},
        longer=6,
        backbone=4.0,
        clip=0.1,
    ),
    "deformable_detr": Detector(
        "Deformable DETR",
        "detr",
        DeformableDETR,
        1e-3,
        {"classes": 4},
        {"weights": [4.0, 5.0, 2.0]},
        longer=2,
        backbone=4.0,
        clip=0.1,
    ),
}
