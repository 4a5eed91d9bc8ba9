"""YOLO v4: CSPDarknet53, Mish, scaled centres, several priors for a truth, mosaic, DropBlock.

Paper: Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020,
       sections 2.2, 2.3, 3.3 and 3.4. https://arxiv.org/abs/2004.10934
       Wang et al., "CSPNet", CVPR Workshops 2020. https://arxiv.org/abs/1911.11929
       Misra, "Mish", BMVC 2020. https://arxiv.org/abs/1908.08681
       Ghiasi et al., "DropBlock", NeurIPS 2018, section 3. https://arxiv.org/abs/1810.12890
Needs: Python >= 3.10, torch >= 2.0, and anchors.py, box_regression.py, focal_loss.py, iou.py,
       nms.py, yolo_v1.py, yolo_v2.py and yolo_v3.py beside this file, backbone_neck_head.py in
       ../concepts, spatial_pyramid_pooling.py in ../convolution.
       Numbers that the papers do not give are those of yolov4.cfg,
       https://github.com/AlexeyAB/darknet. CIoU is in iou.py, DIoU-NMS in nms.py.
Axes:  B images, C channels, h, w of a map, H, W of an image, G ground truths of an image, A priors,
       N predictions of an image on all maps, K classes; `...` is a batch. A box is
       (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import Pyramid, initialize
from ..convolution.spatial_pyramid_pooling import pool_cascade
from .anchors import shape_iou
from .iou import box_area, check_boxes, iou_loss
from .yolo_v1 import check_images, check_targets
from .yolo_v2 import (
    Places,
    PriorDetector,
    Priors,
    assign_priors,
    conv_block,
    decode_cells,
    match_places,
    prepare,
    quiet,
)
from .yolo_v3 import SHAPES_PRIORS, Branch, check_strides

__all__ = [
    "V4_SCALES",
    "CSPDarknet",
    "CSPStage",
    "DropBlock",
    "Mish",
    "YOLOv4",
    "decode_v4",
    "fitting_priors",
    "mosaic",
    "scaled_sigmoid",
    "smooth_labels",
    "v4_loss",
]


# --8<-- [start:blocks]
class Mish(nn.Module):
    """x * tanh(softplus(x)): smooth, and a little below 0 for negative x."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, floating."""
        return x * F.softplus(x).tanh()


def mish_block(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    """Convolution, batch normalisation, Mish."""
    return conv_block(in_channels, out_channels, kernel, stride, Mish())


class CSPStage(nn.Module):
    """Halve the map; send one part through residual blocks, the other around them; join.

    Args:
        in_channels, out_channels: C and C'.
        blocks: residual blocks.
        split: whether each part has half of C'. The first stage of CSPDarknet53 does not: there
            both parts have all of it, and the blocks are half as wide inside.
    """

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, split: bool = True
    ) -> None:
        """The gradient of the part that goes around is not copied through the blocks."""
        super().__init__()
        _check_stage(in_channels, out_channels, blocks)
        part = out_channels // 2 if split else out_channels
        inner = part if split else out_channels // 2
        self.down = mish_block(in_channels, out_channels, 3, 2)
        self.around, self.through = (mish_block(out_channels, part) for _ in range(2))
        self.blocks = nn.ModuleList(
            nn.Sequential(mish_block(part, inner), mish_block(inner, part, 3))
            for _ in range(blocks)
        )
        self.after = mish_block(part, part)
        self.join = mish_block(2 * part, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h/2, w/2)."""
        x = self.down(x)
        y: Tensor = self.through(x)
        for block in self.blocks:
            y = y + block(y)
        return self.join(torch.cat([self.after(y), self.around(x)], dim=1))


class CSPDarknet(Pyramid):
    """CSPDarknet53 by default, without a classifier; maps of stride 8, 16 and 32."""

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256, 512, 1024),
        blocks: Sequence[int] = (1, 2, 8, 8, 4),
    ) -> None:
        """Channels of the stem and of the five stages; residual blocks of each stage."""
        super().__init__()
        if len(widths) != 6 or len(blocks) != 5:
            raise ValueError(f"need 6 widths and 5 numbers of blocks, got {widths}, {blocks}")
        self.stem = mish_block(3, widths[0], 3)
        sizes = zip(pairwise(widths), blocks, strict=True)
        self.stages = nn.ModuleList(
            CSPStage(a, b, n, split=i > 0) for i, ((a, b), n) in enumerate(sizes)
        )
        self.out_channels = dict(zip((8, 16, 32), widths[3:], strict=True))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps (B, C, ceil(H / stride), ceil(W / stride)) of (B, 3, H, W), fine to coarse."""
        x: Tensor = self.stem(images)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return dict(zip(self.out_channels, maps[2:], strict=True))


# --8<-- [end:blocks]


# --8<-- [start:dropblock]
class DropBlock(nn.Module):
    """In training, set squares of a map to 0: neighbours tell what a single dropped cell held.

    Args:
        rate: share of cells to drop, about, in [0, 1); overlaps make it a little less.
        size: side of a square in cells, odd.
        generator: of the maps' device.
    """

    def __init__(
        self, rate: float, size: int = 7, generator: torch.Generator | None = None
    ) -> None:
        """No parameters."""
        super().__init__()
        if not 0 <= rate < 1 or size < 1 or size % 2 == 0:
            raise ValueError(f"rate must be in [0, 1), size odd, got {rate} and {size}")
        self.rate, self.size, self.generator = rate, size, generator

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), scaled so that the kept cells of the batch add up as all did before."""
        if x.ndim != 4:
            raise ValueError(f"x must be (B, C, h, w), got {tuple(x.shape)}")
        h, w = x.shape[2:]
        if not self.training or self.rate == 0 or x.numel() == 0:
            return x
        if min(h, w) < self.size:
            raise ValueError(f"a map of {h} x {w} has no square of size {self.size}")
        room = (h - self.size + 1) * (w - self.size + 1)  # where a whole square has its centre
        seed = self.rate / self.size**2 * h * w / room  # eq. (1)
        inner = (*x.shape[:2], h - self.size + 1, w - self.size + 1)
        seeds = torch.rand(inner, generator=self.generator, device=x.device) < seed
        edge = self.size // 2
        centers = F.pad(seeds.float(), (edge,) * 4)  # (B, C, h, w)
        keep = 1 - F.max_pool2d(centers, self.size, stride=1, padding=edge)
        scale = keep.numel() / keep.sum().clamp(min=1)
        return x * (keep * scale).to(x.dtype)


# --8<-- [end:dropblock]


# --8<-- [start:targets]
V4_SCALES = {8: 1.2, 16: 1.1, 32: 1.05}


def scaled_sigmoid(t: Tensor, scale: float | Tensor) -> Tensor:
    """scale * sigmoid(t) - (scale - 1) / 2: a centre on the border of a cell needs no infinite t.

    With scale s, a number or of a shape that broadcasts, the place in the cell runs from
    (1 - s) / 2 to (1 + s) / 2; V4_SCALES is s for strides 8, 16 and 32.
    """
    least = float(scale.min()) if isinstance(scale, Tensor) else scale
    if not least >= 1:
        raise ValueError(f"scale must be at least 1, got {least}")
    return scale * t.sigmoid() - (scale - 1) / 2


def decode_v4(t: Tensor, where: Places) -> Tensor:
    """Boxes (..., N, 4) of t (..., N, 4) as decode_cells, with the centre of scaled_sigmoid."""
    boxes = decode_cells(t, *where)
    scale = torch.ones_like(where.strides)  # (N, 1)
    for stride, value in V4_SCALES.items():
        scale = scale.where(where.strides != stride, value)
    share = t[..., :2].to(boxes.dtype)
    shift = (scaled_sigmoid(share, scale) - share.sigmoid()) * where.strides  # (..., N, 2)
    return boxes + torch.cat([shift, shift], dim=-1)


def fitting_priors(boxes_xyxy: Tensor, priors: Tensor, threshold: float = 0.213) -> Tensor:
    """Which priors learn a ground truth: all whose shape fits it well enough, and the best.

    Args:
        boxes_xyxy: (G, 4), of positive size.
        priors: (A, 2) of w, h in pixels.
        threshold: the IoU of the shapes must be above this; 0.213 in the official configuration.

    Returns:
        bool (G, A), at least one True in each row.
    """
    check_boxes("boxes_xyxy", boxes_xyxy)
    iou = shape_iou(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], priors.to(boxes_xyxy.dtype))  # (G, A)
    best = F.one_hot(iou.argmax(dim=1), iou.shape[1]).bool()
    return (iou > threshold) | best


def smooth_labels(labels: Tensor, classes: int, epsilon: float = 0.1) -> Tensor:
    """One-hot labels of int64 (...), (..., K), drawn towards 1 / K by epsilon; float32."""
    if classes < 1 or labels.dtype != torch.int64 or ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"labels must be int64 from 0 to {classes - 1}, got {labels}")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
    return (1 - epsilon) * F.one_hot(labels, classes) + epsilon / classes


# --8<-- [end:targets]


# --8<-- [start:loss]
def v4_loss(
    output: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    targets: Sequence[Mapping[str, Tensor]],
    ignore: float = 0.7,
    threshold: float = 0.213,
    epsilon: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """CIoU, objectness and class loss, whose sum is minimised.

    Args:
        output, maps, priors, targets: see v2_loss.
        ignore: see match_places.
        threshold: see fitting_priors.
        epsilon: see smooth_labels; 0 in yolov4.cfg.

    Returns:
        Three sums over the predictions, averaged over the images. Boxes: 1 - CIoU (weighted 0.07 in
        yolov4.cfg, 1 here). Objectness and each class: binary cross-entropy.

    Raises:
        ValueError: shapes, devices or labels that do not fit, bad boxes, NaN in the predictions.
    """
    wide, where, _ = prepare(output, maps, priors, targets)
    decoded = decode_v4(wide[..., :4], where)  # (B, N, 4)
    shapes = [shape for each in priors.values() for shape in each]
    bce = F.binary_cross_entropy_with_logits
    sums = [wide[:0].sum()] * 3
    for out, box, target in zip(wide, decoded, targets, strict=True):
        truths = target["boxes"]
        fits = fitting_priors(truths, truths.new_tensor(shapes), threshold)
        owner = assign_priors(truths, maps, priors, fits)
        match = match_places(box.detach(), owner, target, ignore)
        kinds = smooth_labels(match.labels, out.shape[1] - 5, epsilon).to(wide.dtype)  # (P, K)
        judged = match.judged
        sums[0] = sums[0] + iou_loss(box[match.at], match.truths, "ciou").sum()
        sums[1] = sums[1] + bce(out[judged, 4], match.holds[judged], reduction="sum")
        sums[2] = sums[2] + bce(out[match.at, 5:], kinds, reduction="sum")
    boxes, objectness, classes = (part / max(len(targets), 1) for part in sums)
    return boxes, objectness, classes


# --8<-- [end:loss]


# --8<-- [start:core]
class YOLOv4(PriorDetector):
    """CSPDarknet, SPP, a PAN that concatenates, the branches of v3; small by default.

    Args:
        classes: K.
        priors: for strides 8, 16 and 32, in pixels.
        widths, blocks: see CSPDarknet.
        generator: for the weights.
    """

    def __init__(
        self,
        classes: int = 4,
        priors: Priors = SHAPES_PRIORS,
        widths: Sequence[int] = (8, 16, 32, 64, 96, 128),
        blocks: Sequence[int] = (1, 1, 1, 1, 1),
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the parts."""
        super().__init__(classes, priors)
        check_strides(priors)
        self.backbone = CSPDarknet(widths, blocks)
        C = widths[-1]
        half = [n // 2 for n in widths[3:]]  # widths of the neck at strides 8, 16, 32
        around = [conv_block(C // 2, C, 3), conv_block(C, C // 2)]
        self.before = nn.Sequential(conv_block(C, C // 2), *around)
        around = [conv_block(C // 2, C, 3), conv_block(C, C // 2)]
        self.after = nn.Sequential(conv_block(2 * C, C // 2), *around)
        outputs = [len(each) * (5 + classes) for each in priors.values()]
        pairs = list(pairwise(half))  # of a fine and a coarse map
        self.reduce = nn.ModuleList(conv_block(b, a) for a, b in pairs)
        self.lateral = nn.ModuleList(conv_block(2 * a, a) for a, _ in pairs)
        self.mix = Branch(2 * half[1], half[1], 1).mix
        self.shrink = nn.ModuleList(conv_block(a, b, 3, 2) for a, b in pairs)
        self.branches = nn.ModuleList(
            Branch(2 * a, a, n) for a, n in zip(half, outputs, strict=True)
        )
        initialize(self, generator)
        for branch in self.branches:
            quiet(branch.get_submodule("predict.1"), 5 + classes, generator)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images (B, 3, H, W) to maps (B, A (5 + K), h, w) of stride 8, 16 and 32."""
        check_images(images)
        fine, middle, coarse = self.backbone(images).values()
        x: Tensor = self.after(pool_cascade(self.before(coarse)))  # windows of 5, 9 and 13
        coarse, maps = x, dict[int, Tensor]()
        up = F.interpolate(self.reduce[1](x), size=middle.shape[-2:])
        middle = self.mix(torch.cat([self.lateral[1](middle), up], dim=1))
        up = F.interpolate(self.reduce[0](middle), size=fine.shape[-2:])
        x, maps[8] = self.branches[0](torch.cat([self.lateral[0](fine), up], dim=1))
        x, maps[16] = self.branches[1](torch.cat([self.shrink[0](x), middle], dim=1))
        x, maps[32] = self.branches[2](torch.cat([self.shrink[1](x), coarse], dim=1))
        return maps

    def decode(self, t: Tensor, where: Places) -> Tensor:
        """See decode_v4."""
        return decode_v4(t, where)

    def parts(
        self,
        output: Tensor,
        maps: Mapping[int, tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> tuple[Tensor, ...]:
        """See v4_loss."""
        return v4_loss(output, maps, self.priors, targets)


# --8<-- [end:core]


# --8<-- [start:mosaic]
def mosaic(
    images: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    center: tuple[int, int],
    min_visible: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Four images in one: each shows, around a cross, the corner that it would show there anyway.

    Args:
        images: (4, C, H, W): top left, top right, bottom left, bottom right.
        targets: of each, boxes (n, 4) of positive size and labels (n,), int64; n may be 0.
        center: (x, y) of the cross, in pixels, 0 <= x <= W and 0 <= y <= H.
        min_visible: boxes of which a smaller share is left are dropped; above 0.

    Returns:
        One image (C, H, W) and its target, the boxes cut at the cross. Nothing is resized, and
        image k keeps its own place: scaling and shifting come before, as with single images.

    Raises:
        ValueError: other than four images, bad boxes, a cross outside.
    """
    x, y = _check_mosaic(images, targets, center, min_visible)
    H, W = images.shape[2:]
    out = torch.empty_like(images[0])
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    for k, (image, target) in enumerate(zip(images, targets, strict=True)):
        left, right = (0, x) if k % 2 == 0 else (x, W)
        top, bottom = (0, y) if k < 2 else (y, H)
        out[:, top:bottom, left:right] = image[:, top:bottom, left:right]
        whole = target["boxes"]  # (n, 4)
        low = whole.new_tensor([left, top, left, top])
        high = whole.new_tensor([right, bottom, right, bottom])
        cut = whole.clamp(low, high)
        share = box_area(cut) / box_area(whole)  # (n,)
        keep = (share >= min_visible) & (share > 0)
        boxes.append(cut[keep])
        labels.append(target["labels"][keep])
    return out, dict(boxes=torch.cat(boxes), labels=torch.cat(labels))


# --8<-- [end:mosaic]


def _check_stage(in_channels: int, out_channels: int, blocks: int) -> None:
    if in_channels < 1 or out_channels < 2 or blocks < 0:
        found = f"{in_channels}, {out_channels} and {blocks}"
        raise ValueError(f"need channels from 1, 2 and blocks from 0 on, got {found}")


def _check_mosaic(
    images: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    center: tuple[int, int],
    min_visible: float,
) -> tuple[int, int]:
    if images.ndim != 4 or images.shape[0] != 4:
        raise ValueError(f"images must be (4, C, H, W), got {tuple(images.shape)}")
    check_targets(targets, 4, 2**62, images.device)
    (x, y), (H, W) = center, images.shape[2:]
    if not (0 <= x <= W and 0 <= y <= H):
        raise ValueError(f"center must be (x, y) in an image of {H} x {W}, got {center}")
    if not 0 < min_visible <= 1:
        raise ValueError(f"min_visible must be a share above 0, got {min_visible}")
    return x, y


if __name__ == "__main__":
    # --8<-- [start:demo]
    with torch.device("meta"):  # counted without memory
        backbone = CSPDarknet()
        maps = backbone(torch.rand(1, 3, 512, 512))
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    print(sum(c.kernel_size[0] == 3 for c in convs), "of", len(convs), "convolutions are 3x3")
    print({stride: tuple(x.shape[1:]) for stride, x in maps.items()})

    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 6, 8)  # four plain images
    box = dict(boxes=torch.tensor([[1.0, 1.0, 7.0, 5.0]]), labels=torch.tensor([0]))
    image, target = mosaic(images, [box] * 4, center=(5, 2))
    print(image[0].int())
    print([[int(v) for v in row] for row in target["boxes"]])

    ends = scaled_sigmoid(torch.tensor([-9.0, 0.0, 9.0]), 1.2)
    print("place in the cell:", [round(float(v), 2) for v in ends])
    priors = torch.tensor([[12.0, 16.0], [19.0, 36.0], [40.0, 28.0], [36.0, 75.0]])
    fits = fitting_priors(torch.tensor([[0.0, 0.0, 30.0, 30.0]]), priors, 0.4)[0]
    print("priors that fit:", [int(i) for i in fits.nonzero()])
    # --8<-- [end:demo]
