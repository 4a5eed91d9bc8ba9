"""YOLO v1: one grid, one class for each cell, a loss of squares; and what all versions share.

Paper: Redmon et al., "You Only Look Once: Unified, Real-Time Object Detection", CVPR 2016,
       sections 2 to 2.3, eqs. (1) and (3), figure 3. https://arxiv.org/abs/1506.02640
Needs: Python >= 3.10, torch >= 2.0, and box_regression.py, iou.py and nms.py beside this file,
       backbone_neck_head.py in ../concepts.
Axes:  B images, S cells along a side, A boxes of a cell, K classes, N boxes of an image, n ground
       truths. A box is (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import initialize
from .box_regression import clip_to_image
from .iou import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, check_boxes, paired_iou
from .nms import batched_nms

__all__ = [
    "V1_LAYERS",
    "YOLOv1",
    "check_images",
    "check_targets",
    "decode_grid",
    "first_in_cell",
    "pick_detections",
    "responsible",
    "split_grid",
    "v1_loss",
]


# --8<-- [start:decode]
def split_grid(output: Tensor, boxes: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the 5 A + K numbers of each cell are.

    Args:
        output: (B, S, S, 5 A + K), rows first; A times (x, y, root of w, root of h, confidence),
            then K. (Darknet puts all classes of the image first.)
        boxes: A.

    Returns:
        Boxes (B, S, S, A, 4), confidences (B, S, S, A), class probabilities (B, S, S, K); at least
        in float32. None of them passes a sigmoid or softmax: the last layer of v1 is linear.
    """
    _check_output(output, boxes)
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    each = wide[..., : 5 * boxes].reshape(*wide.shape[:3], boxes, 5)  # (B, S, S, A, 5)
    return each[..., :4], each[..., 4], wide[..., 5 * boxes :]


def decode_grid(raw: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes (B, S, S, A, 4) of split_grid, as xyxy in pixels of an image of (H, W).

    x and y count from the corner of the cell, in cells; w and h are squares of what is predicted,
    as shares of the image.
    """
    _check_size(image_size)
    S = raw.shape[1]
    at = torch.arange(S, dtype=raw.dtype, device=raw.device)
    rows, columns = torch.meshgrid(at, at, indexing="ij")  # (S, S), (S, S)
    corner = torch.stack([columns, rows], dim=-1)[:, :, None]  # (S, S, 1, 2)
    center = (corner + raw[..., :2]) / S  # (B, S, S, A, 2)
    boxes = torch.cat([center, raw[..., 2:].square()], dim=-1)
    H, W = image_size
    return box_cxcywh_to_xyxy(boxes * boxes.new_tensor([W, H, W, H]))


# --8<-- [end:decode]


# --8<-- [start:assign]
def first_in_cell(boxes_xyxy: Tensor, S: int, image_size: tuple[int, int]) -> Tensor:
    """The ground truth of each cell: that whose centre lies in it, of several the first.

    Args:
        boxes_xyxy: (n, 4); n may be 0.
        S: cells along a side.
        image_size: (H, W).

    Returns:
        int64 (S * S,), row by row; -1 for a cell without.
    """
    check_boxes("boxes_xyxy", boxes_xyxy)
    _check_size(image_size)
    H, W = image_size
    center = box_xyxy_to_cxcywh(boxes_xyxy)[:, :2]  # (n, 2)
    column, row = (center / center.new_tensor([W, H]) * S).long().clamp(0, S - 1).unbind(1)
    n = len(boxes_xyxy)
    owner = torch.full((S * S,), n, device=boxes_xyxy.device)
    number = torch.arange(n, device=boxes_xyxy.device)
    owner = owner.scatter_reduce(0, row * S + column, number, "amin")
    return torch.where(owner < n, owner, -1)


def responsible(predicted_xyxy: Tensor, truth_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Which of a cell's boxes learns the object: that of largest IoU with it now.

    Args:
        predicted_xyxy: (n, A, 4), of each cell that holds an object.
        truth_xyxy: (n, 4), its object.

    Returns:
        Index (n,), and IoU (n,). Where no box overlaps the object the nearest in centre and size
        is taken (so Darknet; the paper does not say).
    """
    truth = truth_xyxy[:, None].expand_as(predicted_xyxy)  # (n, A, 4)
    iou = paired_iou(predicted_xyxy, truth)  # (n, A)
    apart = (box_xyxy_to_cxcywh(predicted_xyxy) - box_xyxy_to_cxcywh(truth)).square().sum(-1)
    none = (iou <= 0).all(dim=1, keepdim=True)  # (n, 1)
    best = torch.where(none, -apart, iou).argmax(dim=1)  # (n,)
    return best, iou.gather(1, best[:, None])[:, 0]


# --8<-- [end:assign]


# --8<-- [start:loss]
def v1_loss(
    output: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    image_size: tuple[int, int],
    boxes: int = 2,
    coord: float = 5.0,
    noobj: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of eq. (3), weighted: their sum is minimised.

    Args:
        output: (B, S, S, 5 A + K), see split_grid.
        targets: of each image, boxes (n, 4) of positive size and labels (n,), int64 from 0 to
            K - 1; n may be 0.
        image_size: (H, W).
        boxes: A.
        coord, noobj: lambda of the coordinates, and of the confidence of boxes without an object.

    Returns:
        Coordinates (with the roots of w and h), confidence of the responsible boxes (whose goal is
        their IoU, a constant), confidence of all others (whose goal is 0), classes of the cells
        with an object. Sums over each image, averaged over the images; 0 for no images.

    Raises:
        ValueError: shapes, devices or labels that do not fit, bad boxes, NaN in a cell used.
    """
    raw, confidence, probs = split_grid(output, boxes)
    K = probs.shape[-1]
    check_targets(targets, len(output), K, output.device)
    S = output.shape[1]
    decoded = decode_grid(raw.detach(), image_size).flatten(1, 2)  # (B, S*S, A, 4)
    raw, confidence, probs = raw.flatten(1, 2), confidence.flatten(1, 2), probs.flatten(1, 2)
    size = raw.new_tensor([image_size[1], image_size[0]])  # W, H
    empty = torch.ones_like(confidence, dtype=torch.bool)  # (B, S*S, A)
    parts = [raw[:0].sum()] * 3
    for i, target in enumerate(targets):
        owner = first_in_cell(target["boxes"], S, image_size)  # (S*S,)
        cell = (owner >= 0).nonzero()[:, 0]  # (n,)
        truth = target["boxes"][owner[cell]].to(raw.dtype)  # (n, 4)
        box, iou = responsible(decoded[i, cell], truth)
        center, shares = (box_xyxy_to_cxcywh(truth) / size.repeat(2)).chunk(2, dim=1)
        corner = torch.stack([cell % S, cell // S], dim=1)  # (n, 2)
        goal = torch.cat([center * S - corner, shares.sqrt()], dim=1)  # (n, 4)
        classes = nn.functional.one_hot(target["labels"][owner[cell]], K)  # (n, K)
        parts[0] = parts[0] + coord * (raw[i, cell, box] - goal).square().sum()
        parts[1] = parts[1] + (confidence[i, cell, box] - iou).square().sum()
        parts[2] = parts[2] + (probs[i, cell] - classes).square().sum()
        empty[i, cell, box] = False
    rest = noobj * confidence[empty].square().sum()
    coordinates, found, classes = (part / max(len(targets), 1) for part in parts)
    return coordinates, found, rest / max(len(targets), 1), classes


# --8<-- [end:loss]


# --8<-- [start:detect]
def pick_detections(
    boxes_xyxy: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    min_score: float = 0.01,
    iou_threshold: float = 0.45,
    candidates: int = 400,
    most: int = 100,
) -> list[dict[str, Tensor]]:
    """Scores above a limit, NMS within each class, the best of each image. Used by all versions.

    Args:
        boxes_xyxy: (B, N, 4), one box for all classes.
        scores: (B, N, K); in v1 the confidence times the class probability, eq. (1).
        image_size: (H, W), to clip the boxes to.
        min_score: scores must be above this.
        iou_threshold: of the NMS.
        candidates: of each class that go into the NMS.
        most: detections of an image.

    Returns:
        For each image boxes (n, 4), scores (n,) and labels (n,), by descending score; n may be 0.
        One box may give detections of several classes.

    Raises:
        ValueError: shapes that do not fit, boxes that are not finite.
    """
    _check_picked(boxes_xyxy, scores)
    clipped = clip_to_image(boxes_xyxy.detach(), image_size)  # (B, N, 4)
    found: list[dict[str, Tensor]] = []
    for box, score in zip(clipped, scores.detach(), strict=True):
        top, index = score.topk(min(candidates, len(score)), dim=0)  # (n, K), (n, K)
        row, label = (top > min_score).nonzero(as_tuple=True)
        values, chosen = top[row, label], box[index[row, label]]
        kept = batched_nms(chosen, values, label, iou_threshold)[:most]
        found.append(dict(boxes=chosen[kept], scores=values[kept], labels=label[kept]))
    return found


# --8<-- [end:detect]


# --8<-- [start:network]
Layers = Sequence[tuple[int, int, int] | None]  # kernel, channels, stride; None: max-pool by 2
V1_LAYERS: Layers = (
    *((7, 64, 2), None, (3, 192, 1), None),
    *((1, 128, 1), (3, 256, 1), (1, 256, 1), (3, 512, 1), None),
    *([(1, 256, 1), (3, 512, 1)] * 4),
    *((1, 512, 1), (3, 1024, 1), None),
    *([(1, 512, 1), (3, 1024, 1)] * 2),
    *((3, 1024, 1), (3, 1024, 2), (3, 1024, 1), (3, 1024, 1)),
)
V1_SMALL: Layers = ((3, 16, 2), (3, 32, 2), (3, 64, 1), None, (3, 96, 1), (3, 64, 2))


class YOLOv1(nn.Module):
    """A small detector for images of 96 x 96; that of figure 3 with (20, 2, 7, V1_LAYERS, 4096).

    Args:
        classes: K.
        boxes: A.
        S: cells along a side. Images must be as large as the layers' strides make of it.
        layers: the convolutions, each with leaky ReLU of slope 0.1.
        hidden: width of the first linear layer, which sees the whole image.
        norm: batch normalisation in the convolutions; the paper has none.
        dropout: between the linear layers, 0.5 in the paper.
        generator: for the weights.
    """

    def __init__(
        self,
        classes: int = 4,
        boxes: int = 2,
        S: int = 6,
        layers: Layers = V1_SMALL,
        hidden: int = 256,
        norm: bool = True,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the layers."""
        super().__init__()
        _check_model(classes, boxes, S, hidden)
        stack: list[nn.Module] = []
        before = 3
        for layer in layers:
            if layer is None:
                stack.append(nn.MaxPool2d(2))
                continue
            kernel, width, stride = layer
            stack.append(nn.Conv2d(before, width, kernel, stride, kernel // 2))
            stack += [nn.BatchNorm2d(width)] if norm else []
            stack.append(nn.LeakyReLU(0.1))
            before = width
        self.features = nn.Sequential(*stack)
        self.boxes, self.shape = boxes, (S, S, 5 * boxes + classes)
        self.side = S * math.prod(2 if layer is None else layer[2] for layer in layers)
        last = nn.Linear(hidden, S * S * self.shape[2])
        self.head = nn.Sequential(
            nn.Linear(S * S * before, hidden), nn.LeakyReLU(0.1), nn.Dropout(dropout), last
        )
        initialize(self, generator)
        with (
            torch.no_grad()
        ):  # not in the paper: at first all boxes are in the middle of their cell
            last.weight.normal_(0, 0.01, generator=generator)
            each = last.bias.view(S * S, -1)[:, : 5 * boxes].view(S * S, boxes, 5)
            each[..., :4] = 0.5

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, side, side) to (B, S, S, 5 A + K)."""
        check_images(images)
        if images.shape[2:] != (self.side, self.side):
            size = " x ".join(str(n) for n in images.shape[2:])
            raise ValueError(f"images must be {self.side} x {self.side}, got {size}")
        return self.head(self.features(images).flatten(1)).unflatten(1, self.shape)

    def loss(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The sum of the four losses, a scalar; see v1_loss for the targets."""
        output = self(images)
        return torch.stack(v1_loss(output, targets, (self.side, self.side), self.boxes)).sum()

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        min_score: float = 0.01,
        iou_threshold: float = 0.45,
        candidates: int = 400,
        most: int = 100,
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image; see pick_detections. Call eval() first."""
        raw, confidence, probs = split_grid(self(images), self.boxes)
        size = (self.side, self.side)
        boxes = decode_grid(raw, size).flatten(1, 3)  # (B, S*S*A, 4)
        scores = (confidence[..., None] * probs[..., None, :]).flatten(1, 3)  # (B, S*S*A, K)
        return pick_detections(boxes, scores, size, min_score, iou_threshold, candidates, most)


# --8<-- [end:network]


def check_images(images: Tensor) -> None:
    """Raise ValueError unless the images are floating, (B, 3, H, W)."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape[2:] or not images.is_floating_point():
        raise ValueError(f"images must be (B, 3, H, W), floating, got {images.dtype} {shape}")


def check_targets(
    targets: Sequence[Mapping[str, Tensor]], count: int, classes: int, device: torch.device
) -> None:
    """Raise ValueError unless there are `count` targets with boxes (n, 4) and labels (n,)."""
    if len(targets) != count:
        raise ValueError(f"targets must be one an image, {count}, got {len(targets)}")
    for target in targets:
        boxes, labels = target["boxes"], target["labels"]
        check_boxes("targets' boxes", boxes)
        if boxes.ndim != 2 or labels.shape != boxes.shape[:1]:
            found = f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"a target's boxes must be (n, 4), labels (n,), got {found}")
        if labels.dtype != torch.int64 or ((labels < 0) | (labels >= classes)).any():
            raise ValueError(f"labels must be int64 from 0 to {classes - 1}, got {labels}")
        if boxes.device != device or labels.device != device:
            found = f"{boxes.device} and {labels.device}"
            raise ValueError(f"targets must be on {device}, got {found}")
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
        if flat.any():
            first = [float(x) for x in boxes[flat][0]]
            raise ValueError(f"targets' boxes must have a positive size, got {first}")


def _check_output(output: Tensor, boxes: int) -> None:
    shape = tuple(output.shape)
    square = output.ndim == 4 and shape[1] == shape[2] > 0
    if boxes < 1 or not square or shape[3] <= 5 * boxes or not output.is_floating_point():
        found = f"{output.dtype} {shape}"
        raise ValueError(f"output must be floating (B, S, S, 5 * {boxes} + K), got {found}")


def _check_model(classes: int, boxes: int, S: int, hidden: int) -> None:
    if min(classes, boxes, S, hidden) < 1:
        found = f"{classes}, {boxes}, {S} and {hidden}"
        raise ValueError(f"classes, boxes, S and hidden must be positive, got {found}")


def _check_size(image_size: tuple[int, int]) -> None:
    if min(image_size) < 1:
        raise ValueError(f"image_size must be (H, W), positive, got {image_size}")


def _check_picked(boxes: Tensor, scores: Tensor) -> None:
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape[:2] != scores.shape[:2]:
        found = f"{tuple(boxes.shape)} and {tuple(scores.shape)}"
        raise ValueError(f"boxes and scores must be (B, N, 4) and (B, N, K), got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    output = torch.rand(1, 7, 7, 2 * 5 + 20, generator=generator)  # of one image, for VOC
    raw, confidence, probs = split_grid(output, boxes=2)
    boxes = decode_grid(raw, (448, 448)).flatten(1, 3)  # (1, 98, 4)
    print("numbers:", output.numel(), " boxes:", boxes.shape[1])

    truths = torch.tensor([[100.0, 60.0, 220.0, 300.0], [150.0, 150.0, 170.0, 210.0]])
    owner = first_in_cell(truths, 7, (448, 448))
    print("cells that hold an object:", [int(i) for i in (owner >= 0).nonzero()])
    target = dict(boxes=truths, labels=torch.tensor([3, 7]))
    parts = v1_loss(output, [target], (448, 448))
    print("loss:", " + ".join(f"{float(part):.2f}" for part in parts))

    with torch.device("meta"):  # shapes without memory
        network = YOLOv1(20, 2, 7, V1_LAYERS, 4096, norm=False, dropout=0.5)
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        print(len(layers), "convolutions, output", tuple(network(torch.rand(1, 3, 448, 448)).shape))
    # --8<-- [end:demo]
