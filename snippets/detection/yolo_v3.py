"""YOLO v3: three scales, three priors each, logistic classes; a detector of any size that trains.

Paper: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, sections 2.1 to 2.4.
       https://arxiv.org/abs/1804.02767
Needs: Python >= 3.10, torch >= 2.0, and anchors.py, box_regression.py, focal_loss.py, iou.py,
       nms.py, yolo_v1.py and yolo_v2.py beside this file, backbone_neck_head.py in ../concepts.
Axes:  B images, C channels, h, w cells of a map, A priors of a cell, N predictions of an image on
       all maps, K classes, n ground truths. A box is (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import Pyramid, initialize
from .yolo_v1 import check_images
from .yolo_v2 import (
    PriorDetector,
    Priors,
    assign_priors,
    conv_block,
    decode_cells,
    encode_cells,
    match_places,
    prepare,
    quiet,
)

__all__ = [
    "COCO_PRIORS",
    "SHAPES_PRIORS",
    "Branch",
    "Darknet",
    "YOLOv3",
    "v3_loss",
]

# --8<-- [start:priors]
COCO_PRIORS = {  # section 2.3, for images of 416 x 416
    8: ((10, 13), (16, 30), (33, 23)),
    16: ((30, 61), (62, 45), (59, 119)),
    32: ((116, 90), (156, 198), (373, 326)),
}
SHAPES_PRIORS = {  # k-means over shapes of shapes_dataset with sides of 16 to 48, 96 x 96
    8: ((20, 19), (23, 24), (27, 27)),
    16: ((33, 30), (36, 37), (41, 45)),
    32: ((49, 38), (49, 51), (58, 56)),
}


# --8<-- [end:priors]


# --8<-- [start:loss]
def v3_loss(
    output: Tensor,
    maps: Mapping[int, tuple[int, int]],
    priors: Priors,
    targets: Sequence[Mapping[str, Tensor]],
    ignore: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Box, objectness and class loss, whose sum is minimised.

    Args:
        output: (B, N, 5 + K): t_x, t_y, t_w, t_h, objectness and class logits.
        maps, priors: see `places`.
        targets: of each image, boxes (n, 4) of positive size and labels (n,), int64 from 0 to
            K - 1; n may be 0.
        ignore: see match_places.

    Returns:
        Three sums over the predictions, averaged over the images. Boxes: cross-entropy of t_x and
        t_y after the sigmoid, half the squared error of t_w and t_h, times 2 - w h / (W H) of the
        ground truth, W and H being those of the finest map in pixels: the gradients are those of
        Darknet. Objectness and each class: binary cross-entropy.

    Raises:
        ValueError: shapes, devices or labels that do not fit, bad boxes, NaN in the predictions.
    """
    wide, where, area = prepare(output, maps, priors, targets)
    decoded = decode_cells(wide[..., :4].detach(), *where)  # (B, N, 4)
    bce = F.binary_cross_entropy_with_logits
    sums = [wide[:0].sum()] * 3
    for out, box, target in zip(wide, decoded, targets, strict=True):
        match = match_places(box, assign_priors(target["boxes"], maps, priors), target, ignore)
        here, truths, judged = out[match.at], match.truths, match.judged
        goal = encode_cells(truths, *(x[match.at] for x in where))  # (P, 4)
        scale = 2 - (truths[:, 2:] - truths[:, :2]).prod(1, keepdim=True) / area  # (P, 1)
        place = bce(here[:, :2], goal[:, :2].clamp(0, 1), scale, reduction="sum")
        size = (scale * (here[:, 2:4] - goal[:, 2:]).square()).sum() / 2
        kinds = F.one_hot(match.labels, out.shape[1] - 5).to(wide.dtype)  # (P, K)
        sums[0] = sums[0] + place + size
        sums[1] = sums[1] + bce(out[judged, 4], match.holds[judged], reduction="sum")
        sums[2] = sums[2] + bce(here[:, 5:], kinds, reduction="sum")
    boxes, objectness, classes = (part / max(len(targets), 1) for part in sums)
    return boxes, objectness, classes


# --8<-- [end:loss]


# --8<-- [start:core]
class Residual(nn.Module):
    """1x1 to half the channels, 3x3 back, plus the input."""

    def __init__(self, width: int) -> None:
        """Two convolutions."""
        super().__init__()
        self.layers = nn.Sequential(conv_block(width, width // 2), conv_block(width // 2, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), the same shape."""
        return x + self.layers(x)


class Darknet(Pyramid):
    """Darknet-53 (Table 1) by default, without its classifier; maps of stride 8, 16 and 32.

    Args:
        widths: channels of the stem and of the five stages, each of which halves the map.
        blocks: residual blocks of each stage.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256, 512, 1024),
        blocks: Sequence[int] = (1, 2, 8, 8, 4),
    ) -> None:
        """Build the stages."""
        super().__init__()
        _check_darknet(widths, blocks)
        self.stem = conv_block(3, widths[0], 3)
        self.stages = nn.ModuleList()
        for (before, width), count in zip(pairwise(widths), blocks, strict=True):
            down = conv_block(before, width, 3, stride=2)
            self.stages.append(nn.Sequential(down, *(Residual(width) for _ in range(count))))
        self.out_channels = dict(zip((8, 16, 32), widths[3:], strict=True))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps (B, C, ceil(H / stride), ceil(W / stride)) of (B, 3, H, W), fine to coarse."""
        x: Tensor = self.stem(images)  # (B, C, H, W)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)  # (B, C, h/2, w/2)
            maps.append(x)
        return dict(zip(self.out_channels, maps[2:], strict=True))


class Branch(nn.Module):
    """Five convolutions, 1x1 and 3x3 in turn; from there two more to the predictions."""

    def __init__(self, in_channels: int, width: int, outputs: int) -> None:
        """`width` is that of the 1x1 convolutions; those of 3x3 are twice as wide."""
        super().__init__()
        before = (in_channels, 2 * width, 2 * width)
        layers = [conv_block(C, width) for C in before]
        wide = [conv_block(width, 2 * width, 3) for _ in range(3)]
        self.mix = nn.Sequential(layers[0], wide[0], layers[1], wide[1], layers[2])
        self.predict = nn.Sequential(wide[2], nn.Conv2d(2 * width, outputs, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) to features (B, width, h, w) and predictions (B, outputs, h, w)."""
        x = self.mix(x)
        return x, self.predict(x)


class YOLOv3(PriorDetector):
    """A small detector by default; YOLOv3 itself with the widths and blocks of Darknet-53.

    Args:
        classes: K.
        priors: for strides 8, 16 and 32, in pixels.
        widths, blocks: see Darknet.
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
        """Build backbone and branches."""
        super().__init__(classes, priors)
        check_strides(priors)
        self.backbone = Darknet(widths, blocks)
        self.branches, self.reduce = nn.ModuleList(), nn.ModuleList()
        above = 0  # channels that come from the coarser map
        for stride, C in reversed(self.backbone.out_channels.items()):
            width, outputs = C // 2, len(priors[stride]) * (5 + classes)
            self.branches.append(Branch(C + above, width, outputs))
            above = width // 2
            if stride > 8:
                self.reduce.append(conv_block(width, above))
        initialize(self, generator)
        for branch in self.branches:
            quiet(branch.get_submodule("predict.1"), 5 + classes, generator)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images (B, 3, H, W) to maps (B, A (5 + K), h, w) of stride 8, 16 and 32."""
        check_images(images)
        features: dict[int, Tensor] = self.backbone(images)
        maps: dict[int, Tensor] = {}
        x = features[32]
        for i, (stride, branch) in enumerate(zip((32, 16, 8), self.branches, strict=True)):
            if i:
                up: Tensor = self.reduce[i - 1](x)  # (B, C, h/2, w/2)
                fine = features[stride]
                x = torch.cat([F.interpolate(up, size=fine.shape[-2:]), fine], dim=1)
            x, maps[stride] = branch(x)
        return {stride: maps[stride] for stride in (8, 16, 32)}

    def parts(
        self,
        output: Tensor,
        maps: Mapping[int, tuple[int, int]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> tuple[Tensor, ...]:
        """See v3_loss."""
        return v3_loss(output, maps, self.priors, targets)


# --8<-- [end:core]


def check_strides(priors: Priors) -> None:
    """Raise ValueError unless the priors are for strides 8, 16 and 32."""
    if list(priors) != [8, 16, 32]:
        raise ValueError(f"need priors for strides 8, 16 and 32, got {list(priors)}")


def _check_darknet(widths: Sequence[int], blocks: Sequence[int]) -> None:
    if len(widths) != 6 or len(blocks) != 5 or min(widths) < 2 or min(blocks) < 0:
        found = f"{list(widths)} and {list(blocks)}"
        raise ValueError(f"need 6 widths from 2 on and 5 numbers of blocks, got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    with torch.device("meta"):  # shapes without memory: YOLOv3 for COCO
        backbone = Darknet()
        convs = sum(isinstance(m, nn.Conv2d) for m in backbone.modules())
        large = (32, 64, 128, 256, 512, 1024)
        model = YOLOv3(80, COCO_PRIORS, large, (1, 2, 8, 8, 4))
        maps = model(torch.rand(1, 3, 416, 416))
    for stride, x in maps.items():
        print(f"stride {stride:2}: {tuple(x.shape[1:])}, {3 * x[0, 0].numel():4} boxes")
    print(convs, "convolutions in the backbone,", end=" ")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in all")

    generator = torch.Generator().manual_seed(0)
    tiny = YOLOv3(generator=generator)
    print(f"tiny: {sum(p.numel() for p in tiny.parameters()):,} parameters")
    images = torch.rand(1, 3, 96, 96, generator=generator)
    truths = torch.tensor([[12.0, 20.0, 56.0, 50.0], [60.0, 70.0, 76.0, 87.0]])
    maps = {8: (12, 12), 16: (6, 6), 32: (3, 3)}
    owner = assign_priors(truths, maps, SHAPES_PRIORS)
    print(
        len(owner), "predictions; those with an object:", [int(i) for i in (owner >= 0).nonzero()]
    )
    loss = tiny.loss(images, [dict(boxes=truths, labels=torch.tensor([1, 3]))])
    print(
        f"loss {loss.item():.0f}, detections:", len(tiny.eval().detect(images, 0.001)[0]["scores"])
    )
    # --8<-- [end:demo]
