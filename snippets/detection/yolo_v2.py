"""YOLO v2: priors from k-means, centres bound to their cell, passthrough, a tree of classes.

Paper: Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, sections 2 to 4.
       https://arxiv.org/abs/1612.08242
       What the paper leaves open is as in https://github.com/pjreddie/darknet (region_layer.c and
       yolov2.cfg).
Needs: Python >= 3.10, torch >= 2.0, and anchors.py, box_regression.py, focal_loss.py, iou.py,
       nms.py and yolo_v1.py beside this file, backbone_neck_head.py in ../concepts.
Axes:  B images, C channels, h, w cells of a map, A priors of a cell, N predictions of an image on
       all maps, n ground truths, P places that learn one, K classes; `...` is a batch. A box is
       (x1, y1, x2, y2) in pixels, without "+ 1"; a prior is (w, h) in pixels.
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import initialize
from .anchors import shape_iou
from .focal_loss import prior_bias
from .iou import box_cxcywh_to_xyxy, box_iou, box_xyxy_to_cxcywh, check_boxes, paired_iou
from .yolo_v1 import check_images, check_targets, pick_detections

__all__ = [
    "Darknet19",
    "Match",
    "Places",
    "PriorDetector",
    "YOLOv2",
    "assign_priors",
    "best_prior",
    "conv_block",
    "decode_cells",
    "encode_cells",
    "flatten_maps",
    "grid_cells",
    "match_places",
    "passthrough",
    "places",
    "training_sizes",
    "tree_log_probs",
    "v2_loss",
]


# --8<-- [start:decode]
def grid_cells(
    size: tuple[int, int], per_cell: int = 1, device: torch.device | None = None
) -> Tensor:
    """Column and row of each cell, (h*w*A, 2), float32: row by row, each cell A times."""
    ranges = (torch.arange(n, device=device) for n in size)
    rows, columns = torch.meshgrid(*ranges, indexing="ij")
    cells = torch.stack([columns, rows], dim=-1).reshape(-1, 2)  # (h*w, 2)
    return cells.repeat_interleave(per_cell, dim=0).float()


def decode_cells(
    t: Tensor,
    cells: Tensor,
    priors: Tensor,
    stride: float | Tensor,
    clip: float = math.log(1000 / 16),
) -> Tensor:
    """Boxes that (t_x, t_y, t_w, t_h) stand for: the centre cannot leave its cell.

    Args:
        t: (..., 4), floating, before the sigmoid.
        cells: (..., 2), column and row.
        priors: (..., 2), w and h in pixels, positive.
        stride: pixels of a cell, a number or (..., 1).
        clip: the most that t_w and t_h may be (the paper has no limit).

    Returns:
        (..., 4) xyxy in pixels; at least in float32.
    """
    _check_decode(t, cells, priors)
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    center = (cells + t[..., :2].sigmoid()) * stride  # (..., 2)
    size = priors * t[..., 2:].clamp(max=clip).exp()  # (..., 2)
    return box_cxcywh_to_xyxy(torch.cat([center, size.expand_as(center)], dim=-1))


def encode_cells(
    boxes_xyxy: Tensor, cells: Tensor, priors: Tensor, stride: float | Tensor
) -> Tensor:
    """What t should become: sigmoid(t_x), sigmoid(t_y), t_w, t_h, (..., 4), for each box.

    The first two are the place in the cell, from 0 to 1 where the centre lies in it: their goal
    is given after the sigmoid, because a centre on the border of a cell would need an infinite t.
    """
    check_boxes("boxes_xyxy", boxes_xyxy)
    _check_decode(boxes_xyxy, cells, priors)
    flat = (boxes_xyxy[..., 2:] <= boxes_xyxy[..., :2]).any(-1)
    if flat.any():
        first = [float(x) for x in boxes_xyxy[flat][0]]
        raise ValueError(f"boxes_xyxy must have a positive size, got {first}")
    box = box_xyxy_to_cxcywh(boxes_xyxy)
    return torch.cat([box[..., :2] / stride - cells, (box[..., 2:] / priors).log()], dim=-1)


def best_prior(boxes_xyxy: Tensor, priors: Tensor) -> Tensor:
    """Index (n,) of the prior (A, 2) whose shape fits each box (n, 4) best, wherever they lie."""
    check_boxes("boxes_xyxy", boxes_xyxy)
    if priors.ndim != 2 or priors.shape[1:] != (2,) or len(priors) == 0:
        raise ValueError(f"priors must be (A, 2), A at least 1, got {tuple(priors.shape)}")
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]  # (n, 2)
    return shape_iou(sizes, priors.to(sizes.dtype)).argmax(dim=1)


# --8<-- [end:decode]


# --8<-- [start:places]
Priors = Mapping[int, Sequence[tuple[float, float]]]  # stride -> (w, h) in pixels, fine to coarse
V2_PRIORS = {16: ((22, 22), (29, 28), (37, 37), (47, 45), (55, 56))}  # k-means on shapes_dataset


class Places(NamedTuple):
    """Where each of the N predictions of an image stands."""

    cells: Tensor  # (N, 2), column and row
    priors: Tensor  # (N, 2), w and h in pixels
    strides: Tensor  # (N, 1), pixels of a cell


def places(
    maps: Mapping[int, tuple[int, int]], priors: Priors, device: torch.device | None = None
) -> Places:
    """The predictions of all maps, fine to coarse; on a map row by row, in a cell prior by prior.

    Args:
        maps: stride -> (h, w).
        priors: stride -> A shapes; the same strides.
        device: of the result, float32.
    """
    _check_maps(maps, priors)
    parts: list[Tensor] = []
    for stride, (h, w) in maps.items():
        shapes = torch.tensor(priors[stride], dtype=torch.float32, device=device)  # (A, 2)
        cells, shapes = grid_cells((h, w), len(shapes), device), shapes.repeat(h * w, 1)
        parts.append(torch.cat([cells, shapes, torch.full_like(cells[:, :1], stride)], dim=1))
    every = torch.cat(parts)  # (N, 5)
    return Places(every[:, :2], every[:, 2:4], every[:, 4:])


def flatten_maps(maps: Sequence[Tensor], columns: int) -> Tensor:
    """Maps (B, A * columns, h, w) as one (B, N, columns), in the order of `places`."""
    rows: list[Tensor] = []
    for x in maps:
        if x.ndim != 4 or x.shape[1] % columns:
            raise ValueError(f"a map must be (B, A * {columns}, h, w), got {tuple(x.shape)}")
        B, C, h, w = x.shape
        y = x.reshape(B, C // columns, columns, h, w)  # (B, A, columns, h, w)
        rows.append(y.permute(0, 3, 4, 1, 2).flatten(1, 3))  # (B, h*w*A, columns)
    return torch.cat(rows, dim=1)


# --8<-- [end:places]


# --8<-- [start:assign]
def assign_priors(
    boxes_xyxy: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    fits: Tensor | None = None,
) -> Tensor:
    """Which prediction learns which ground truth: one for each, on one map only.

    Of the priors of **all** maps that which fits its shape best, in the cell of that map in which
    its centre lies.

    Args:
        boxes_xyxy: (n, 4); n may be 0.
        maps, priors: see `places`.
        fits: bool (n, number of all priors), which are used instead of the best alone.

    Returns:
        int64 (N,): the index of the ground truth, or -1. Where two want one place the later one
        gets it, as in Darknet, and the other goes without.
    """
    check_boxes("boxes_xyxy", boxes_xyxy)
    _check_maps(maps, priors)
    shapes = boxes_xyxy.new_tensor([shape for each in priors.values() for shape in each])
    if fits is None:
        fits = F.one_hot(best_prior(boxes_xyxy, shapes), len(shapes)).bool()
    if fits.dtype != torch.bool or fits.shape != (len(boxes_xyxy), len(shapes)):
        expected = f"({len(boxes_xyxy)}, {len(shapes)})"
        raise ValueError(f"fits must be bool {expected}, got {fits.dtype} {tuple(fits.shape)}")
    center = box_xyxy_to_cxcywh(boxes_xyxy)[:, :2]  # (n, 2)
    owners: list[Tensor] = []
    first = 0  # of this map's priors
    for stride, (h, w) in maps.items():
        column = (center[:, 0] / stride).long().clamp(0, w - 1)
        row = (center[:, 1] / stride).long().clamp(0, h - 1)
        A = len(priors[stride])
        truth, prior = fits[:, first : first + A].nonzero(as_tuple=True)  # (p,), (p,)
        index = (row * w + column)[truth] * A + prior
        owner = torch.full((h * w * A,), -1, device=boxes_xyxy.device)
        owners.append(owner.scatter_reduce(0, index, truth, "amax"))
        first += A
    return torch.cat(owners)  # (N,)


class Match(NamedTuple):
    """What the places of one image learn."""

    at: Tensor  # int64 (P,), the places with an object
    truths: Tensor  # (P, 4), theirs
    labels: Tensor  # int64 (P,)
    judged: Tensor  # bool (N,), whose objectness counts
    holds: Tensor  # (N,), 1 at places with an object, else 0


def match_places(
    boxes_xyxy: Tensor, owner: Tensor, target: Mapping[str, Tensor], ignore: float
) -> Match:
    """Gather what each place learns; see assign_priors for `owner`.

    A place without an object of its own, whose predicted box (N, 4) overlaps one by more than
    `ignore`, is neither object nor background.
    """
    truths = target["boxes"].to(boxes_xyxy.dtype)  # (n, 4)
    at = (owner >= 0).nonzero()[:, 0]  # (P,)
    near = (box_iou(boxes_xyxy, truths) > ignore).any(1)  # (N,)
    yes = (owner >= 0).to(boxes_xyxy.dtype)
    return Match(at, truths[owner[at]], target["labels"][owner[at]], (owner >= 0) | ~near, yes)


# --8<-- [end:assign]


# --8<-- [start:loss]
def v2_loss(
    output: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    targets: Sequence[Mapping[str, Tensor]],
    ignore: float = 0.6,
    found: float = 5.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Box, objectness and class loss of Darknet, whose sum is minimised.

    Args:
        output: (B, N, 5 + K): t_x, t_y, t_w, t_h, objectness and class logits.
        maps, priors: see `places`.
        targets: of each image, boxes (n, 4) of positive size and labels (n,), int64 from 0 to
            K - 1; n may be 0.
        ignore: see match_places.
        found: weight of the objectness of places with an object.

    Returns:
        Three sums over the predictions, averaged over the images. Boxes: half the squares of the
        errors of sigmoid(t_x), sigmoid(t_y), t_w and t_h, times 2 - w h / (W H) of the ground
        truth, W and H being those of the finest map in pixels. Objectness: half the squares, its
        goal is the IoU of box and ground truth, a constant, or 0. Classes: cross-entropy of a
        softmax.
        (Darknet first pulls all boxes to their priors, for 12800 images; left out here.)

    Raises:
        ValueError: shapes, devices or labels that do not fit, bad boxes, NaN in the predictions.
    """
    wide, where, area = prepare(output, maps, priors, targets)
    decoded = decode_cells(wide[..., :4].detach(), *where)  # (B, N, 4)
    sums = [wide[:0].sum()] * 3
    for out, box, target in zip(wide, decoded, targets, strict=True):
        match = match_places(box, assign_priors(target["boxes"], maps, priors), target, ignore)
        here, truths = out[match.at], match.truths  # (P, 5 + K), (P, 4)
        goal = encode_cells(truths, *(x[match.at] for x in where))  # (P, 4)
        share = (truths[:, 2:] - truths[:, :2]).prod(1, keepdim=True) / area  # (P, 1)
        error = torch.cat([here[:, :2].sigmoid(), here[:, 2:4]], dim=1) - goal
        sums[0] = sums[0] + ((2 - share) * error.square()).sum() / 2
        wanted = match.holds.index_put((match.at,), paired_iou(box[match.at], truths))  # (N,)
        weight = torch.where(match.holds > 0, found, match.judged.to(wide.dtype))
        sums[1] = sums[1] + (weight * (out[:, 4].sigmoid() - wanted).square()).sum() / 2
        sums[2] = sums[2] + F.cross_entropy(here[:, 5:], match.labels, reduction="sum")
    boxes, objectness, classes = (part / max(len(targets), 1) for part in sums)
    return boxes, objectness, classes


def prepare(
    output: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    targets: Sequence[Mapping[str, Tensor]],
) -> tuple[Tensor, Places, int]:
    """Check what a loss got; the output in float32 at least, its places, the image's area."""
    _check_maps(maps, priors)
    N = sum(h * w * len(priors[stride]) for stride, (h, w) in maps.items())
    if output.ndim != 3 or output.shape[1] != N or output.shape[2] < 6:
        raise ValueError(f"output must be (B, {N}, 5 + K), got {tuple(output.shape)}")
    check_targets(targets, len(output), output.shape[2] - 5, output.device)
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    where = Places(*(x.to(wide.dtype) for x in places(maps, priors, output.device)))
    stride, (h, w) = next(iter(maps.items()))
    return wide, where, stride * stride * h * w


# --8<-- [end:loss]


# --8<-- [start:passthrough]
def passthrough(x: Tensor, block: int = 2) -> Tensor:
    """Space to depth: (B, C, h, w) to (B, C * block**2, h / block, w / block), nothing is lost.

    Channel c * block**2 + i * block + j holds the cells with row i and column j of their block, as
    in F.pixel_unshuffle. The order does not matter to weights that are learnt with it.
    """
    _check_block(x, block)
    B, C, h, w = x.shape
    x = x.reshape(B, C, h // block, block, w // block, block)  # (B, C, h', i, w', j)
    return x.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # (B, C*i*j, h', w')


def training_sizes(low: int = 320, high: int = 608, stride: int = 32) -> list[int]:
    """Multi-scale training: every 10 batches the side of the images is drawn anew from these."""
    if not 0 < low <= high or low % stride or high % stride:
        raise ValueError(f"need multiples of {stride}, low <= high, got {low} and {high}")
    return list(range(low, high + 1, stride))


# --8<-- [end:passthrough]


# --8<-- [start:tree]
def tree_log_probs(logits: Tensor, parents: Tensor) -> Tensor:
    """Hierarchical classes (WordTree): a softmax among siblings, multiplied along the path.

    Args:
        logits: (..., K), one for each node.
        parents: int64 (K,), the parent of each node, -1 for a child of the root (which has no
            logit and probability 1).

    Returns:
        (..., K): the logarithm of each node's absolute probability; at least in float32. The
        probability of a node is the sum of those of its children.

    Raises:
        ValueError: shapes that do not fit, a parent outside, a circle.
    """
    _check_tree(logits, parents)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    family = (parents + 1).expand(wide.shape)  # (..., K); siblings share one number
    empty = torch.full_like(wide[..., :1], -torch.inf).expand(*wide.shape[:-1], wide.shape[-1] + 1)
    most = empty.scatter_reduce(-1, family, wide.detach(), "amax").gather(-1, family)
    total = torch.zeros_like(empty).scatter_add(-1, family, (wide - most).exp())
    own = wide - most - total.gather(-1, family).log()  # (..., K), given the parent
    path, above = own, parents
    while (above >= 0).any():
        path = path + torch.where(above >= 0, own[..., above.clamp(min=0)], 0)
        above = torch.where(above >= 0, parents[above.clamp(min=0)], -1)
    return path


# --8<-- [end:tree]


# --8<-- [start:network]
def conv_block(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, activation: leaky ReLU 0.1 by default."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), act or nn.LeakyReLU(0.1))


class Darknet19(nn.Module):
    """The backbone of v2 with its classifier (Table 6) by default: 19 convolutions, 5 poolings.

    Args:
        classes: K; 0 leaves the classifier out.
        widths: channels of the stages; a max-pooling by 2 stands before each but the first.
        layers: convolutions of the stages, 3x3 and 1x1 in turn; those of 1x1 have half the width.
    """

    def __init__(
        self,
        classes: int = 1000,
        widths: Sequence[int] = (32, 64, 128, 256, 512, 1024),
        layers: Sequence[int] = (1, 1, 3, 3, 5, 5),
    ) -> None:
        """Build the stages."""
        super().__init__()
        if len(widths) != len(layers) or len(widths) < 2 or min(*widths, *layers) < 1:
            found = f"{list(widths)} and {list(layers)}"
            raise ValueError(f"need widths and layers of at least two stages, got {found}")
        stages: list[nn.Module] = []
        before = 3
        for width, count in zip(widths, layers, strict=True):
            stage: list[nn.Module] = [nn.MaxPool2d(2)] if stages else []
            for i in range(count):
                inner = i % 2 == 1
                out = width // 2 if inner else width
                stage.append(conv_block(before, out, 1 if inner else 3))
                before = out
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.logits = nn.Conv2d(before, classes, 1) if classes else nn.Identity()

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps before and after the last pooling: stride 16, for the passthrough, and 32."""
        x, fine = images, images
        for stage in self.stages:
            fine, x = x, stage(x)
        return fine, x

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, K): the mean over all places."""
        return self.logits(self.features(images)[1]).mean(dim=(2, 3))


# --8<-- [end:network]


# --8<-- [start:core]
class PriorDetector(nn.Module):
    """What v2 to v7 share: maps of A (5 + K) channels become boxes, a loss and detections.

    A version has `forward`, images to maps (stride -> (B, A (5 + K), h, w), fine to coarse), and
    `parts`, the losses.

    Args:
        classes: K.
        priors: for each stride, in pixels.
    """

    def __init__(self, classes: int, priors: Priors) -> None:
        """Note both."""
        super().__init__()
        if classes < 1 or not priors:
            raise ValueError(f"need a class and priors, got {classes} and {dict(priors)}")
        self.classes, self.priors = classes, {s: tuple(each) for s, each in priors.items()}

    def decode(self, t: Tensor, where: Places) -> Tensor:
        """Boxes (B, N, 4) that the first four numbers of each prediction stand for."""
        return decode_cells(t, *where)

    def probs(self, logits: Tensor) -> Tensor:
        """Class probabilities of logits (B, N, K)."""
        return logits.sigmoid()

    def parts(
        self,
        output: Tensor,
        maps: Mapping[int, tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> tuple[Tensor, ...]:
        """The losses of predictions (B, N, 5 + K) on these maps."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> tuple[Tensor, dict[int, tuple[int, int]]]:
        """Predictions (B, N, 5 + K), and the size (h, w) of each map."""
        maps: dict[int, Tensor] = self(images)
        sizes = {stride: (x.shape[2], x.shape[3]) for stride, x in maps.items()}
        return flatten_maps(list(maps.values()), 5 + self.classes), sizes

    def loss(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The sum of the losses, a scalar."""
        output, sizes = self.predict(images)
        return torch.stack(self.parts(output, sizes, targets)).sum()

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
        output, sizes = self.predict(images)
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        boxes = self.decode(wide[..., :4], places(sizes, self.priors, images.device))
        scores = wide[..., 4:5].sigmoid() * self.probs(wide[..., 5:])  # (B, N, K)
        size = (images.shape[2], images.shape[3])
        return pick_detections(boxes, scores, size, min_score, iou_threshold, candidates, most)


@torch.no_grad()
def quiet(layer: nn.Module, columns: int, generator: torch.Generator | None = None) -> None:
    """Make a last layer say at first that nothing is an object (not in the papers of v2 to v4)."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    layer.weight.normal_(0, 0.01, generator=generator)
    layer.bias.zero_().view(-1, columns)[:, 4] = prior_bias(0.01)


class YOLOv2(PriorDetector):
    """A small detector by default; that of the paper with the widths and layers of Darknet19.

    Args:
        classes: K.
        priors: of the one map, whose stride is 2 for each stage after the first.
        widths, layers: see Darknet19.
        generator: for the weights.
    """

    def __init__(
        self,
        classes: int = 4,
        priors: Priors = V2_PRIORS,
        widths: Sequence[int] = (8, 16, 32, 64, 128),
        layers: Sequence[int] = (1, 1, 3, 3, 3),
        generator: torch.Generator | None = None,
    ) -> None:
        """Three 3x3 convolutions instead of the classifier; the passthrough joins the last."""
        super().__init__(classes, priors)
        self.stride = 2 ** (len(widths) - 1)
        if list(priors) != [self.stride]:
            raise ValueError(f"priors must be for stride {self.stride}, got {list(priors)}")
        self.backbone = Darknet19(0, widths, layers)
        width, narrow = widths[-1], max(widths[-2] // 8, 1)
        self.deep = nn.Sequential(*(conv_block(width, width, 3) for _ in range(2)))
        self.reduce = conv_block(widths[-2], narrow)  # yolov2.cfg; the paper passes all channels
        last = nn.Conv2d(width, len(priors[self.stride]) * (5 + classes), 1)
        self.head = nn.Sequential(conv_block(width + 4 * narrow, width, 3), last)
        initialize(self, generator)
        quiet(last, 5 + classes, generator)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images (B, 3, H, W), sides multiples of the stride, to one map (B, A (5 + K), h, w)."""
        check_images(images)
        if images.shape[2] % self.stride or images.shape[3] % self.stride:
            found = f"{images.shape[2]} x {images.shape[3]}"
            raise ValueError(f"sides of images must be multiples of {self.stride}, got {found}")
        fine, x = self.backbone.features(images)
        joined = torch.cat([passthrough(self.reduce(fine)), self.deep(x)], dim=1)
        return {self.stride: self.head(joined)}

    def probs(self, logits: Tensor) -> Tensor:
        """One class only: a softmax."""
        return logits.softmax(dim=-1)

    def parts(
        self,
        output: Tensor,
        maps: Mapping[int, tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> tuple[Tensor, ...]:
        """See v2_loss."""
        return v2_loss(output, maps, self.priors, targets)


# --8<-- [end:core]


def _check_decode(t: Tensor, cells: Tensor, priors: Tensor) -> None:
    if t.shape[-1:] != (4,) or cells.shape[-1:] != (2,) or priors.shape[-1:] != (2,):
        found = f"{tuple(t.shape)}, {tuple(cells.shape)} and {tuple(priors.shape)}"
        raise ValueError(f"need (..., 4), cells (..., 2), priors (..., 2), got {found}")
    if not t.is_floating_point():
        raise ValueError(f"t must be floating, got {t.dtype}")
    if not (priors > 0).all():
        raise ValueError(f"priors must be positive, got {float(priors.min())}")


def _check_maps(maps: Mapping[int, tuple[int, int]], priors: Priors) -> None:
    if not maps or list(maps) != list(priors):
        raise ValueError(f"maps and priors need the same strides, got {list(maps)}, {list(priors)}")
    for stride, (h, w) in maps.items():
        if min(stride, h, w) < 1 or not priors[stride]:
            found = f"{h} x {w} cells and {len(priors[stride])} priors"
            raise ValueError(f"a map needs cells and priors, stride {stride} has {found}")
    if not all(side > 0 for each in priors.values() for shape in each for side in shape):
        raise ValueError(f"priors must be positive, got {dict(priors)}")


def _check_block(x: Tensor, block: int) -> None:
    if x.ndim != 4 or block < 1 or x.shape[2] % block or x.shape[3] % block:
        found = f"{tuple(x.shape)} and {block}"
        raise ValueError(f"x must be (B, C, h, w), h and w multiples of block, got {found}")


def _check_tree(logits: Tensor, parents: Tensor) -> None:
    if parents.ndim != 1 or logits.shape[-1:] != parents.shape or parents.dtype != torch.int64:
        found = f"{tuple(logits.shape)}, {parents.dtype} {tuple(parents.shape)}"
        raise ValueError(f"logits must be (..., K) and parents int64 (K,), got {found}")
    if ((parents < -1) | (parents >= len(parents))).any():
        raise ValueError(f"parents must be from -1 to {len(parents) - 1}, got {parents}")
    above = parents
    for _ in range(len(parents)):
        above = torch.where(above >= 0, parents[above.clamp(min=0)], -1)
    if (above >= 0).any():
        raise ValueError(f"parents must lead to the root, got a circle in {parents}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    cells = grid_cells((13, 13), per_cell=5)  # (N, 2)
    priors = torch.tensor([[42.3, 55.4], [102.0, 128.3], [161.8, 259.1], [303.1, 154.9]])
    priors = torch.cat([priors, torch.tensor([[359.4, 320.2]])])  # Darknet's for COCO, times 32
    t = torch.zeros(len(cells), 4)
    boxes = decode_cells(t, cells, priors.repeat(13 * 13, 1), stride=32)
    print(len(boxes), "boxes, the first", [round(float(x), 1) for x in boxes[0]])
    far = decode_cells(torch.tensor([9.0, -9.0, 0.0, 0.0]), cells[0], priors[0], 32)
    print("centre at most", [round(float(x), 1) for x in (far[:2] + far[2:]) / 2])

    print("passthrough:", tuple(passthrough(torch.zeros(1, 512, 26, 26)).shape))
    parents = torch.tensor([-1, -1, 0, 0])  # animal, thing; dog, cat
    probs = tree_log_probs(torch.tensor([1.0, 0.0, 2.0, 2.0]), parents).exp()
    print("tree:", [round(float(p), 3) for p in probs])
    print(len(training_sizes()), "training sizes:", training_sizes()[:3], "...")
    # --8<-- [end:demo]
