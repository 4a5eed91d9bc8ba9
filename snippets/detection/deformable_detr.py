"""A small Deformable DETR whose queries are boxes, refined from layer to layer.

Paper: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection",
       ICLR 2021 (decoder, box refinement in appendix A.4). https://arxiv.org/abs/2010.04159
       Liu et al., "DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR", ICLR 2022 (boxes
       as queries). https://arxiv.org/abs/2201.12329
Needs: Python >= 3.10, torch >= 2.0, and beside this file deformable_attention.py, detr.py and the
       files that these need.
Axes:  B batch, N queries, K classes without "no object", L decoder layers, C width, H, W of an
       image, h, w of a map. Boxes: cxcywh as shares of the image's width and height.
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from ..attention.multi_head_attention import MultiHeadAttention
from ..attention.positional_encoding import sinusoidal
from ..attention.transformer import AddNorm, FeedForward
from .deformable_attention import DeformableAttention, cell_centers
from .detr import DETR, Predictions, attend, image_positions
from .iou import box_iou  # for the demo
from .shapes_dataset import shapes  # for the demo

__all__ = ["DeformableDETR", "DeformableDecoderLayer"]


# --8<-- [start:core]
class DeformableDecoderLayer(nn.Module):
    """A decoder layer of DETR that looks at points near its boxes instead of at every place."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        levels: int,
        points: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, generator=generator)
        self.attention_norm = AddNorm(width, False, 0.0)
        self.cross = DeformableAttention(width, heads, levels, points, generator)
        self.cross_norm = AddNorm(width, False, 0.0)
        self.feed_forward = FeedForward(width, inner, generator)
        self.feed_forward_norm = AddNorm(width, False, 0.0)

    def forward(self, x: Tensor, queries: Tensor, boxes: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, N, C), queries (B, N, C), boxes (B, N, 4), maps (B, C, h, w) to (B, N, C)."""
        placed = x + queries
        x = self.attention_norm.after(x, attend(self.attention, placed, placed, x))
        x = self.cross_norm.after(x, self.cross(x + queries, boxes, maps))
        return self.feed_forward_norm.after(x, self.feed_forward(x))


class DeformableDETR(DETR):
    """Matching, loss, encoder and heads of DETR; only the decoder looks elsewhere.

    The encoder is DETR's own, over the places of all maps: these are few here. The paper's is
    deformable, and its classification loss is the focal one.

    Args:
        classes: K.
        rows: at first the queries are boxes on a grid of rows * rows = N places.
        width: C, a multiple of 8 and of heads.
        heads, inner, encoder_layers, decoder_layers: as for DETR.
        strides: which maps of the backbone are used, of 8, 16 and 32.
        points: for each head on each map.
        side: of the first boxes, as a share of the image, between 0 and 1.
        generator: draws all weights, on the CPU.
    """

    def __init__(
        self,
        classes: int,
        rows: int = 4,
        width: int = 64,
        heads: int = 4,
        inner: int = 128,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        strides: Sequence[int] = (8, 16),
        points: int = 4,
        side: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        _check_sizes(rows, width, strides, side)
        sizes = width, heads, inner
        layers = encoder_layers, decoder_layers
        super().__init__(classes, rows**2, *sizes, *layers, strides[0], generator)
        del self.project  # one for each map instead
        channels = self.backbone.out_channels
        self.projects = nn.ModuleDict()
        for stride in strides:
            _check_stride(stride, channels)
            layer = nn.Conv2d(channels[stride], width, 1)
            self.projects[str(stride)] = nn.Sequential(layer, nn.GroupNorm(width // 8, width))
        self.levels = nn.Parameter(torch.empty(len(strides), width))
        centers = cell_centers([(rows, rows)])  # (N, 2)
        boxes = torch.cat([centers, torch.full_like(centers, side)], dim=1)  # (N, 4)
        self.queries = nn.Parameter(boxes.logit())
        self.place = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.decoder = nn.ModuleList(
            DeformableDecoderLayer(*sizes, len(strides), points, generator)
            for _ in range(decoder_layers)
        )
        with torch.no_grad():
            self.levels.normal_(0, 0.1, generator=generator)
            for name, x in (*self.projects.named_parameters(), *self.place.named_parameters()):
                if x.ndim > 1:  # the weights of convolutions and linear layers; norms have others
                    bound = math.sqrt(6 / (x.shape[0] + x.shape[1]))
                    x.uniform_(-bound, bound, generator=generator)
                elif name.endswith("bias"):
                    x.zero_()
            for x in list(self.boxes.parameters())[-2:]:
                x.zero_()  # at first no box is moved

    def forward(self, images: Tensor) -> Predictions:
        """Images (B, 3, H, W) to the predictions of every decoder layer."""
        features: dict[int, Tensor] = self.backbone(images)
        maps: list[Tensor] = [
            project(features[int(stride)]) for stride, project in self.projects.items()
        ]
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        memory = torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)  # (B, sum h*w, C)
        C = memory.shape[2]
        placed = [image_positions(h, w, C).to(memory) for h, w in sizes]
        positions = torch.cat([p + v for p, v in zip(placed, self.levels, strict=True)])
        for layer in self.encoder:
            memory = layer(memory, positions)
        maps, start = [], 0
        for h, w in sizes:
            rows: Tensor = memory[:, start : start + h * w]  # (B, h*w, C)
            maps.append(rows.transpose(1, 2).reshape(-1, C, h, w))  # (B, C, h, w)
            start += h * w

        boxes = self.queries.sigmoid().expand(len(images), -1, -1)  # (B, N, 4)
        x = memory.new_zeros(*boxes.shape[:2], C)  # (B, N, C)
        logits: list[Tensor] = []
        found: list[Tensor] = []
        for layer in self.decoder:
            waves = sinusoidal(2 * math.pi * boxes, C // 4, 20.0, boxes.dtype)  # (B, N, 4, C/4)
            x = layer(x, self.place(waves.flatten(2)), boxes, maps)
            out = self.norm(x)
            logits.append(self.logits(out))
            found.append((boxes.logit(1e-4) + self.boxes(out)).sigmoid())
            boxes = found[-1].detach()  # the next layer starts here, but does not teach this one
        return Predictions(torch.stack(logits), torch.stack(found))


# --8<-- [end:core]


def _check_stride(stride: int, known: Mapping[int, int]) -> None:
    if stride not in known:
        raise ValueError(f"strides must be one of {list(known)}, got {stride}")


def _check_sizes(rows: int, width: int, strides: Sequence[int], side: float) -> None:
    if rows < 1 or not strides:
        raise ValueError(f"rows and strides must be at least 1, got {rows}, {len(strides)}")
    if width < 8 or width % 8:
        raise ValueError(f"width must be a multiple of 8, got {width}")
    if len(set(strides)) < len(strides):
        raise ValueError(f"strides must differ, got {list(strides)}")
    if not 0 < side < 1:
        raise ValueError(f"side must lie between 0 and 1, got {side}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    drawn = shapes(4, generator, size=32, objects=(2, 3), sides=(8, 16), empty=0.0)
    images = torch.stack([image for image, _ in drawn])  # (B, 3, H, W)
    targets = [target for _, target in drawn]
    model = DeformableDETR(4, rows=3, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def found() -> int:
        """How many objects have a box on them that says what they are."""
        right = 0
        for one, target in zip(model.detect(images, min_score=0.5), targets, strict=True):
            overlap = box_iou(target["boxes"], one["boxes"])  # (G, n)
            hit = (overlap > 0.5) & (target["labels"][:, None] == one["labels"])
            right += int(hit.any(dim=1).sum())
        return right

    for step in range(61):  # learns the four images by heart
        if step % 60 == 0:
            model.eval()
            print(step, "steps:", found(), "of", sum(len(t["labels"]) for t in targets), "objects")
            model.train()
        loss = model.loss(images, targets, weights=(4.0, 5.0, 2.0))
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore
        optimizer.step()  # pyright: ignore
    # --8<-- [end:demo]
