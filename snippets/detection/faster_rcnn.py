"""Faster R-CNN: a region proposal network and Fast R-CNN on one map, trained together.

Paper: Ren et al., "Faster R-CNN", NIPS 2015, sections 3.2 and 3.3 of the journal version.
       https://arxiv.org/abs/1506.01497
Needs: Python >= 3.10, torch >= 2.0, and beside this file fast_rcnn.py, rcnn.py, ssd.py,
       region_proposal_network.py, anchors.py, box_regression.py, iou.py, nms.py and
       roi_pooling_and_align.py; backbone_neck_head.py in ../concepts.
Axes:  B images, N proposals of an image, n of all images, G ground truths, K classes without the
       background, which is the last one. A box is (x1, y1, x2, y2) in pixels, without "+ 1".
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# --8<-- [end:imports]
from .anchors import anchor_shapes
from .fast_rcnn import FastRCNN, Regions
from .rcnn import check_targets
from .region_proposal_network import Recipe, RegionProposalNetwork

__all__ = ["FasterRCNN"]

Target = Mapping[str, Tensor]
SMALL = Recipe(samples=64, crossing=True, pre_nms=(400, 300), post_nms=(100, 60))


# --8<-- [start:core]
class FasterRCNN(FastRCNN):
    """The detector: Fast R-CNN, whose proposals come from its own map.

    Args:
        classes, widths, channels, hidden, size, samples, positive_share, low, beta, generator: see
            FastRCNN.
        scales: square roots of the areas of the anchors, in pixels.
        ratios: height / width of the anchors.
        recipe: numbers of the RPN; by default those of the paper, with fewer samples and proposals.
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
        generator: torch.Generator | None = None,
    ) -> None:
        """Build Fast R-CNN and the RPN."""
        head = (classes, widths, channels, hidden, size, samples, positive_share, low, beta)
        super().__init__(*head, generator)
        shapes = {self.shared.stride: anchor_shapes(scales, ratios)}
        self.rpn = RegionProposalNetwork(channels, shapes, recipe or SMALL, generator)

    def propose(
        self,
        features: Tensor,
        image_size: tuple[int, int],
        targets: Sequence[Target] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Boxes (N, 4) for each image, without gradient, and with targets the RPN's losses."""
        maps = {self.shared.stride: features}
        found, losses = self.rpn(maps, image_size, targets, generator)
        return [one["boxes"] for one in found], losses

    def forward(
        self, images: Tensor, proposals: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, K + 1) and deltas (n, K, 4) of given proposals, or of those of the RPN."""
        if proposals is not None:
            return super().forward(images, proposals)
        features: Tensor = self.shared(images)
        proposals, _ = self.propose(features, (images.shape[2], images.shape[3]))
        return self.head(self.pool(features, proposals))

    def losses(
        self,
        images: Tensor,
        targets: Sequence[Target],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """All four: objectness and box of the RPN, class and region_box of the head.

        The second stage learns from the proposals as they are at this step, as if they were
        constants: the loss has no gradient through their coordinates ("approximate").
        """
        features, regions, losses = self._first_stage(images, targets, generator)
        names = ("class", "region_box")
        return losses | dict(zip(names, self.region_losses(features, regions), strict=True))

    def _first_stage(
        self, images: Tensor, targets: Sequence[Target], generator: torch.Generator | None
    ) -> tuple[Tensor, list[Regions], dict[str, Tensor]]:
        """The shared map, the regions that learn, and the losses of the RPN."""
        check_targets(targets, images, self.classes)
        features: Tensor = self.shared(images)
        size = (images.shape[2], images.shape[3])
        proposals, losses = self.propose(features, size, targets, generator)
        return features, self.regions(targets, proposals, generator), losses

    def loss(
        self,
        images: Tensor,
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The sum of all losses, a scalar. With proposals that of Fast R-CNN alone.

        Args:
            images: (B, 3, H, W).
            targets: of each image boxes (G, 4) of positive size and labels (G,), perhaps crowd
                (G,), which are not learned; G may be 0.
            proposals: of each image (N, 4); None: those of the RPN, which learns too.
            generator: draws anchors and regions.
        """
        if proposals is not None:
            return super().loss(images, targets, proposals, generator)
        losses = self.losses(images, targets, generator)
        return torch.stack(list(losses.values())).sum()

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        proposals: Sequence[Tensor] | None = None,
        min_score: float = 0.05,
        iou_threshold: float = 0.5,
        most: int = 100,
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image. Call eval() first."""
        limits = (min_score, iou_threshold, most)
        if proposals is not None:
            return super().detect(images, proposals, *limits)
        features: Tensor = self.shared(images)
        size = (images.shape[2], images.shape[3])
        proposals, _ = self.propose(features, size)
        return self.detect_on(features, proposals, size, *limits)


# --8<-- [end:core]


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    model = FasterRCNN(classes=4, generator=generator)
    images = torch.rand(2, 3, 96, 96, generator=generator)
    truth = torch.tensor([[12.0, 20.0, 60.0, 52.0], [50.0, 60.0, 80.0, 90.0]])
    targets = [
        dict(boxes=truth, labels=torch.tensor([1, 3])),
        dict(boxes=truth[:0], labels=torch.tensor([], dtype=torch.int64)),  # an empty image
    ]
    losses = model.losses(images, targets, generator)
    print("losses:", ", ".join(losses))
    # --8<-- [end:demo]
