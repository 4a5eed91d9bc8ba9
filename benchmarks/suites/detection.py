"""The suite `detection`: NMS and RoI pooling in PyTorch beside the compiled ones of libraries."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.libraries import allow_torchvision
from benchmarks.suites import Backend, Built, Cell
from snippets.detection.iou import box_iou
from snippets.detection.nms import batched_nms, nms
from snippets.detection.roi_pooling_and_align import roi_align, roi_pool

THRESHOLD = 0.5
ON_CPU = "runs on a CPU"
NOT_COMPILED = "torchvision has no compiled operators here"


@dataclass(frozen=True)
class Regions:
    """Maps of a number of images, and boxes on them, for RoI pooling."""

    images: int
    channels: int
    height: int
    width: int
    boxes: int  # in all
    stride: int
    bins: int = 7

    @property
    def text(self) -> str:
        """Of a row."""
        shape = f"{self.images}×{self.channels}×{self.height}×{self.width}"
        return f"map: {shape}, {self.boxes} boxes, {self.bins}×{self.bins} bins"


def cells(device: torch.device, small: bool) -> Iterator[Cell]:
    """NMS at the sizes of a detector's output and of proposals, then RoI pooling and align."""
    for count, classes in (
        ((20, 1), (30, 3)) if small else ((100, 1), (1000, 1), (4000, 1), (1000, 80))
    ):
        text = f"boxes: {count}" + (f", {classes} classes" if classes > 1 else "")
        build = partial(_suppression, device, count, classes)
        yield Cell("detection", "detection/nms", text, "float32", build, ("forward",))
    align = Regions(1, 3, 9, 11, 4, 8, 2) if small else Regions(2, 256, 50, 68, 512, 16)
    pool = Regions(1, 3, 9, 11, 4, 8, 2) if small else Regions(1, 512, 38, 50, 128, 16)
    page = "detection/roi_pooling_and_align"
    for name, regions in (("roi_align", align), ("roi_pool", pool)):
        build = partial(_pooling, device, name, regions)
        yield Cell("detection", page, f"{name}, {regions.text}", "float32", build, ("forward",))


# NMS ------------------------------------------------------------------------------


def _suppression(device: torch.device, count: int, classes: int, seed: int) -> Built:
    """Boxes in clusters, as detectors give them; what is kept, as 0 and 1 for each box."""
    generator = torch.Generator().manual_seed(seed)
    groups = max(count // 8, 1)
    middle = 80 + 640 * torch.rand(groups, 2, generator=generator)
    size = 30 + 90 * torch.rand(groups, 2, generator=generator)
    own = torch.randint(groups, (count,), generator=generator)
    center = middle[own] + 6 * torch.randn(count, 2, generator=generator)
    half = size[own] * (1 + 0.1 * torch.randn(count, 2, generator=generator)).clamp(0.7, 1.3) / 2
    boxes = torch.cat([center - half, center + half], dim=1)  # (N, 4)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(classes, (groups,), generator=generator)[own]
    here = boxes.to(device), scores.to(device), labels.to(device)

    def flags(kept: Tensor) -> Tensor:
        return torch.zeros(count, device=device).index_fill(0, kept, 1.0)

    def ours() -> Tensor:
        box, score, label = here
        kept = (
            nms(box, score, THRESHOLD)
            if classes == 1
            else batched_nms(box, score, label, THRESHOLD)
        )
        return flags(kept)

    def theirs(ops: Any) -> Tensor:
        box, score, label = here
        if classes == 1:
            return flags(ops.nms(box, score, THRESHOLD))
        return flags(ops.batched_nms(box, score, label, THRESHOLD))

    def reference(gradients: bool) -> tuple[Tensor, None]:
        return _greedy(boxes.double(), scores.double(), labels).to(device), None

    backends = {"nms" if classes == 1 else "batched_nms": Backend(ours, True)}
    backends |= _onnx_nms(device, boxes, scores, labels, classes)
    backends |= _torchvision(device, theirs)
    return Built([here[0]], backends, reference)


def _greedy(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """By definition: one box after another."""
    kept = torch.zeros(len(boxes), dtype=torch.float64)
    left = torch.ones(len(boxes), dtype=torch.bool)
    for i in scores.argsort(descending=True):
        if left[i]:
            kept[i] = 1
            over = box_iou(boxes[i : i + 1], boxes)[0] > THRESHOLD
            left &= ~(over & (labels == labels[i]))
    return kept


def _onnx_nms(
    device: torch.device, boxes: Tensor, scores: Tensor, labels: Tensor, classes: int
) -> dict[str, Backend]:
    name = "onnxruntime NonMaxSuppression"
    if missing := _no_onnx(device):
        return {name: Backend(_nothing, missing=missing)}
    import numpy as np
    from onnx import TensorProto, helper

    count = len(boxes)
    of_class = torch.full((classes, count), -1.0)
    of_class[labels, torch.arange(count)] = scores
    feeds = {
        "boxes": boxes[None].numpy(),
        "scores": of_class[None].numpy(),
        "most": np.array([count]),
        "iou": np.array([THRESHOLD], np.float32),
        "low": np.array([-0.5], np.float32),
    }
    shapes = [[1, count, 4], [1, classes, count], [1], [1], [1]]
    session = _session("NonMaxSuppression", feeds, shapes, TensorProto.INT64, {}, helper)

    def run() -> Tensor:
        kept = torch.from_numpy(session.run(None, feeds)[0][:, 2])
        return torch.zeros(count).index_fill(0, kept, 1.0)

    return {name: Backend(run)}


# RoI pooling ----------------------------------------------------------------------


def _pooling(device: torch.device, name: str, regions: Regions, seed: int) -> Built:
    generator = torch.Generator().manual_seed(seed)
    shape = regions.images, regions.channels, regions.height, regions.width
    features = torch.randn(shape, generator=generator)
    each = regions.boxes // regions.images
    sides = torch.tensor([regions.width, regions.height]) * float(regions.stride)
    corner = 0.7 * sides * torch.rand(regions.images, each, 2, generator=generator)
    size = sides * (0.05 + 0.25 * torch.rand(regions.images, each, 2, generator=generator))
    boxes = list(torch.cat([corner, corner + size], dim=2))  # (n, 4) each
    here, there = features.to(device), [b.to(device) for b in boxes]
    scale = 1 / regions.stride
    options = (regions.bins, scale, 2, True) if name == "roi_align" else (regions.bins, scale)
    function: Callable[..., Tensor] = roi_align if name == "roi_align" else roi_pool

    def reference(gradients: bool) -> tuple[Tensor, None]:
        wide = [b.double() for b in there] if name == "roi_align" else there
        return function(here.double(), wide, *options), None

    def theirs(ops: Any) -> Tensor:
        return getattr(ops, name)(here, there, *options)

    backends = {name: Backend(lambda: function(here, there, *options), True)}
    backends |= _onnx_pooling(device, name, features, boxes, scale, regions.bins)
    backends |= _torchvision(device, theirs)
    return Built([here], backends, reference)


def _onnx_pooling(
    device: torch.device,
    name: str,
    features: Tensor,
    boxes: Sequence[Tensor],
    scale: float,
    bins: int,
) -> dict[str, Backend]:
    kind = {"roi_align": "RoiAlign", "roi_pool": "MaxRoiPool"}[name]
    if missing := _no_onnx(device):
        return {f"onnxruntime {kind}": Backend(_nothing, missing=missing)}
    from onnx import TensorProto, helper

    rois = torch.cat(list(boxes))
    index = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
    feeds = {"x": features.numpy(), "rois": rois.numpy(), "index": index.numpy()}
    given: dict[str, Any] = dict(spatial_scale=scale)
    if kind == "RoiAlign":
        given |= dict(output_height=bins, output_width=bins, sampling_ratio=2)
        given |= dict(coordinate_transformation_mode="half_pixel")
    else:
        given["pooled_shape"] = (bins, bins)
        feeds["rois"] = torch.cat([index[:, None].float(), rois], dim=1).numpy()
        del feeds["index"]
    shapes = [list(x.shape) for x in feeds.values()]
    session = _session(kind, feeds, shapes, TensorProto.FLOAT, given, helper)
    return {f"onnxruntime {kind}": Backend(lambda: torch.from_numpy(session.run(None, feeds)[0]))}


# Libraries ------------------------------------------------------------------------


def _nothing() -> Tensor:
    return torch.empty(0)


def _no_onnx(device: torch.device) -> tuple[str, str] | None:
    if device.type != "cpu":
        return "skipped", ON_CPU
    absent = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    return ("skipped", f"{absent[0]} is not installed") if absent else None


def _session(
    kind: str, feeds: dict[str, Any], shapes: list[list[int]], out: int, given: Any, helper: Any
) -> Any:
    """An operator of ONNX Runtime, on one thread."""
    import onnxruntime

    types = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in feeds.values()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, list(feeds), ["out"], **given)],
        "graph",
        [value(*each) for each in zip(feeds, types, shapes, strict=True)],
        [value("out", out, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    only = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=only)


def _torchvision(device: torch.device, run: Callable[[Any], Tensor]) -> dict[str, Backend]:
    """Its compiled operators, where a build for this torch and device is installed."""
    if find_spec("torchvision") is None:
        missing = ("skipped", "torchvision is not installed")
        return {"torchvision.ops": Backend(_nothing, missing=missing)}
    allow_torchvision()
    from torchvision import ops

    key = "CUDA" if device.type == "cuda" else "CPU"
    compiled = all(
        _has_kernel(f"torchvision::{name}", key) for name in ("nms", "roi_align", "roi_pool")
    )
    if not compiled:
        return {"torchvision.ops": Backend(_nothing, missing=("unsupported", NOT_COMPILED))}
    return {"torchvision.ops": Backend(lambda: run(ops))}


def _has_kernel(name: str, key: str) -> bool:
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    except RuntimeError:  # no such operator
        return False
