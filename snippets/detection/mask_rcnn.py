"""Mask R-CNN: Faster R-CNN with RoI align and a branch that says which pixels of a box are its.

Paper: He et al., "Mask R-CNN", ICCV 2017, section 3. https://arxiv.org/abs/1703.06870
Needs: Python >= 3.10, torch >= 2.0, and beside this file faster_rcnn.py, fast_rcnn.py, rcnn.py,
       ssd.py, region_proposal_network.py, anchors.py, box_regression.py, iou.py, nms.py and
       roi_pooling_and_align.py; backbone_neck_head.py in ../concepts.
Axes:  B images, n regions or detections, P positive regions, G ground truths, K classes without the
       background, C channels, M the side of a mask; H, W of an image. A box is (x1, y1, x2, y2) in
       pixels, without "+ 1"; the pixel in row i and column j has its centre at (j + 0.5, i + 0.5).
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..concepts.backbone_neck_head import conv, initialize
from .faster_rcnn import FasterRCNN
from .iou import check_boxes
from .rcnn import check_images, without_crowd
from .region_proposal_network import Recipe
from .roi_pooling_and_align import roi_align

__all__ = ["MaskHead", "MaskRCNN", "mask_goals", "mask_loss", "paste_masks"]

Target = Mapping[str, Tensor]


# --8<-- [start:head]
class MaskHead(nn.Module):
    """Convolutions of 3x3, one transposed of 2x2 that doubles the side, and 1x1 to the classes.

    Args:
        channels: of a pooled region, and of all layers.
        classes: K; a mask for each.
        depth: convolutions of 3x3; 4 in the paper's head for FPN.
        generator: for the weights.
    """

    def __init__(
        self, channels: int, classes: int, depth: int = 4, generator: torch.Generator | None = None
    ) -> None:
        """Draw the weights."""
        super().__init__()
        if min(channels, classes) < 1 or depth < 0:
            found = f"{channels}, {classes} and {depth}"
            raise ValueError(f"channels and classes must be positive, depth >= 0, got {found}")
        self.tower = nn.ModuleList(conv(channels, channels, 3) for _ in range(depth))
        self.enlarge = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = conv(channels, classes, 1)
        initialize(self, generator)
        with torch.no_grad():
            spread = (2 / channels) ** 0.5
            self.enlarge.weight.normal_(0, spread, generator=generator)
            self.enlarge.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, pooled: Tensor) -> Tensor:
        """Regions (n, C, s, s) to logits (n, K, 2 s, 2 s), each with a sigmoid of its own."""
        x = pooled
        for layer in self.tower:
            x = layer(x).relu()  # (n, C, s, s)
        x = self.enlarge(x).relu()  # (n, C, 2 s, 2 s)
        return self.logits(x)


# --8<-- [end:head]


# --8<-- [start:loss]
@torch.no_grad()
def mask_goals(masks: Tensor, boxes_xyxy: Tensor, size: int) -> Tensor:
    """What lies of each mask in its region, on a grid of size x size.

    Args:
        masks: bool (P, H, W), one for each region.
        boxes_xyxy: (P, 4), floating, on the same device; P may be 0.
        size: M.

    Returns:
        bool (P, M, M): whether at least half of a bin is covered, by RoI align with as many
        samples as pixels. (Torchvision does not round to 0 and 1, and is half a pixel off.)
    """
    _check_masks(masks, boxes_xyxy, size)
    if len(masks) == 0:
        return masks.new_zeros(0, size, size)
    shares = roi_align(masks[:, None].to(boxes_xyxy), list(boxes_xyxy[:, None]), size, 1.0, 0)
    return shares[:, 0] >= 0.5


def mask_loss(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels of the true class's mask.

    Args:
        logits: (P, K, M, M); the masks of other classes get no gradient.
        labels: int64 (P,), from 0 to K - 1.
        goals: (P, M, M), bool or floating from 0 to 1.

    Returns:
        A scalar, at least in float32; 0 with gradient 0 for P = 0. NaN in a mask that counts gives
        NaN.
    """
    _check_loss(logits, labels, goals)
    chosen = logits[torch.arange(len(logits), device=logits.device), labels]  # (P, M, M)
    chosen = chosen.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.binary_cross_entropy_with_logits(chosen, goals.to(chosen), reduction="sum")
    return total / max(goals.numel(), 1)


# --8<-- [end:loss]


# --8<-- [start:paste]
def paste_masks(probs: Tensor, boxes_xyxy: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Stretch each mask to its box and lay it into an image.

    Args:
        probs: (n, M, M), floating.
        boxes_xyxy: (n, 4), floating, of positive size, on the same device; n may be 0.
        image_size: (H, W).

    Returns:
        (n, H, W) of the dtype of probs, NaN where they are: bilinear between the centres of the
        cells, 0 outside the box, to which the outermost half cells lead down. A threshold, usually
        0.5, comes after. (Torchvision first rounds the enlarged box to whole pixels.)
    """
    _check_paste(probs, boxes_xyxy, image_size)
    H, W = image_size
    if len(probs) == 0:
        return probs.new_zeros(0, H, W)
    boxes = boxes_xyxy.to(torch.promote_types(boxes_xyxy.dtype, torch.float32))
    low, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]  # (n, 2)
    x = (torch.arange(W, device=low.device) + 0.5 - low[:, :1]) / size[:, :1] * 2 - 1  # (n, W)
    y = (torch.arange(H, device=low.device) + 0.5 - low[:, 1:]) / size[:, 1:] * 2 - 1  # (n, H)
    grid = torch.stack([x[:, None].expand(-1, H, -1), y[:, :, None].expand(-1, -1, W)], dim=-1)
    wide = probs.to(torch.promote_types(probs.dtype, torch.float32))
    pasted = F.grid_sample(wide[:, None], grid.to(wide), align_corners=False)  # (n, 1, H, W)
    return pasted[:, 0].to(probs)


# --8<-- [end:paste]


# --8<-- [start:core]
class MaskRCNN(FasterRCNN):
    """The detector: a third branch beside classes and boxes, and RoI align for all of them.

    Args:
        classes, widths, channels, hidden, size, samples, positive_share, low, beta, scales, ratios,
            recipe, generator: see FasterRCNN.
        mask_size: side of the region that the mask head sees; masks are twice as large.
        mask_depth: see MaskHead.
    """

    def __init__(
        self,
        classes: int = 4,
        widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128),
        channels: int = 48,
        hidden: int = 128,
        size: int = 7,
        samples: int = 32,
        positive_share: float = 0.25,
        low: float = 0.0,
        beta: float = 1.0,
        scales: Sequence[float] = (20, 34, 56),
        ratios: Sequence[float] = (0.6, 1, 1.67),
        recipe: Recipe | None = None,
        mask_size: int = 14,
        mask_depth: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build Faster R-CNN and the mask head."""
        head = (classes, widths, channels, hidden, size, samples, positive_share, low, beta)
        super().__init__(*head, scales, ratios, recipe, generator)
        self.mask_size = mask_size
        self.mask_head = MaskHead(channels, classes, mask_depth, generator)

    def pool(self, features: Tensor, regions: Sequence[Tensor], size: int | None = None) -> Tensor:
        """Regions (N, 4) of each image to (n, C, s, s), without any rounding."""
        return roi_align(features, regions, size or self.size, 1 / self.shared.stride)

    def masks(self, features: Tensor, regions: Sequence[Tensor]) -> Tensor:
        """Mask logits (n, K, M, M) of regions (N, 4) of each image."""
        return self.mask_head(self.pool(features, regions, self.mask_size))

    def losses(
        self,
        images: Tensor,
        targets: Sequence[Target],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Those of Faster R-CNN, and mask, of positive regions; targets need masks (G, H, W)."""
        check_images(images)
        _check_mask_targets(targets, images)
        features, regions, losses = self._first_stage(images, targets, generator)
        losses["class"], losses["region_box"] = self.region_losses(features, regions)
        positive = [r.boxes[: len(r.truth)] for r in regions]  # (P, 4) each
        logits = self.masks(features, positive)  # (P, K, M, M)
        labels = torch.cat([r.labels[: len(r.truth)] for r in regions])
        truths = [
            without_crowd(target)["masks"][r.truth]
            for target, r in zip(targets, regions, strict=True)
        ]
        goals = mask_goals(torch.cat(truths), torch.cat(positive), logits.shape[-1])
        return losses | {"mask": mask_loss(logits, labels, goals)}

    def detect_on(
        self,
        features: Tensor,
        proposals: Sequence[Tensor],
        image_size: tuple[int, int],
        min_score: float,
        iou_threshold: float,
        most: int,
    ) -> list[dict[str, Tensor]]:
        """Detections with masks, bool (d, H, W): the branch sees the final boxes only."""
        limits = (min_score, iou_threshold, most)
        found = super().detect_on(features, proposals, image_size, *limits)
        logits = self.masks(features, [one["boxes"] for one in found])  # (n, K, M, M)
        start = 0
        for one in found:
            part = logits[start : start + len(one["labels"])]
            start += len(part)
            own = part[torch.arange(len(part), device=part.device), one["labels"]]  # (d, M, M)
            pasted = paste_masks(own.sigmoid(), one["boxes"], image_size)  # (d, H, W)
            one["masks"] = pasted >= 0.5
        return found


# --8<-- [end:core]


def _check_masks(masks: Tensor, boxes: Tensor, size: int) -> None:
    if masks.device != boxes.device:
        raise ValueError(f"masks are on {masks.device}, boxes_xyxy on {boxes.device}")
    check_boxes("boxes_xyxy", boxes)
    if masks.ndim != 3 or masks.dtype != torch.bool or boxes.shape != (len(masks), 4):
        found = f"{masks.dtype} {tuple(masks.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"masks must be bool (P, H, W) and boxes (P, 4), got {found}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")


def _check_loss(logits: Tensor, labels: Tensor, goals: Tensor) -> None:
    devices = [str(x.device) for x in (logits, labels, goals)]
    if len(set(devices)) > 1:
        raise ValueError(f"logits, labels and goals need one device, got {devices}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating, got {logits.dtype}")
    n = logits.shape[:1]
    if logits.ndim != 4 or labels.shape != n or goals.shape != (*n, *logits.shape[2:]):
        found = f"{tuple(logits.shape)}, {tuple(labels.shape)} and {tuple(goals.shape)}"
        raise ValueError(f"need (P, K, M, M), (P,) and (P, M, M), got {found}")
    K = logits.shape[1]
    if labels.dtype != torch.int64 or ((labels < 0) | (labels >= K)).any():
        raise ValueError(f"labels must be int64 from 0 to {K - 1}, got {labels}")
    outside = goals[~((goals >= 0) & (goals <= 1))]  # NaN too
    if len(outside):
        raise ValueError(f"goals must be from 0 to 1, got {float(outside[0])}")


def _check_paste(probs: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> None:
    if probs.device != boxes.device:
        raise ValueError(f"probs are on {probs.device}, boxes_xyxy on {boxes.device}")
    check_boxes("boxes_xyxy", boxes)
    if probs.ndim != 3 or not probs.is_floating_point() or boxes.shape != (len(probs), 4):
        found = f"{probs.dtype} {tuple(probs.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"probs must be floating (n, M, M) and boxes (n, 4), got {found}")
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    if flat.any():
        first = [float(x) for x in boxes[flat][0]]
        raise ValueError(f"boxes_xyxy must have a positive size, got {first}")
    if min(image_size) < 1:
        raise ValueError(f"image_size must be (H, W), positive, got {image_size}")


def _check_mask_targets(targets: Sequence[Target], images: Tensor) -> None:
    for target in targets:
        wanted = (len(target["boxes"]), *images.shape[2:])
        if "masks" not in target:
            raise ValueError(f"a target needs masks, got {sorted(target)}")
        masks = target["masks"]
        if masks.dtype != torch.bool or masks.shape != wanted or masks.device != images.device:
            found = f"{masks.dtype} {tuple(masks.shape)} on {masks.device}"
            raise ValueError(f"a target's masks must be bool {wanted} as the images, got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    model = MaskRCNN(classes=4, generator=generator)
    images = torch.rand(2, 3, 96, 96, generator=generator)
    masks = torch.zeros(1, 96, 96, dtype=torch.bool)
    masks[0, 20:52, 12:60] = True
    truth = torch.tensor([[12.0, 20.0, 60.0, 52.0]])
    targets = [
        dict(boxes=truth, labels=torch.tensor([1]), masks=masks),
        dict(boxes=truth[:0], labels=torch.tensor([], dtype=torch.int64), masks=masks[:0]),
    ]
    print("losses:", ", ".join(model.losses(images, targets, generator)))

    # A region a little off, the goal of its mask, and that mask pasted back.
    region = torch.tensor([[20.0, 12.0, 60.0, 52.0]])
    goal = mask_goals(masks, region, size=28)
    print("covered:", f"{goal.float().mean():.2f}", "of the region")
    pasted = paste_masks(goal.float(), region, (96, 96)) >= 0.5
    rows, columns = pasted[0].nonzero().T
    print("pasted: rows", int(rows.min()), "to", int(rows.max()), end=", ")
    print("columns", int(columns.min()), "to", int(columns.max()))
    # --8<-- [end:demo]
