"""Multi-scale deformable attention: each query looks at a few learned points on every map.

Paper: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection",
       ICLR 2021, eqs. (2) and (3), appendix A.4 for boxes. https://arxiv.org/abs/2010.04159
Needs: Python >= 3.10, torch >= 2.0, nothing else; copy this file as it is.
Axes:  B batch, N queries, C width, M heads, D = C / M, L levels, K points, h, w of a map. Points
       are (x, y) as shares of width and height: (0, 0) is the left top corner of the image, (1, 1)
       the right bottom one.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]

__all__ = ["DeformableAttention", "cell_centers", "sample_points", "sampling_locations"]


# --8<-- [start:sample]
def sample_points(maps: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of what lies at the points, by bilinear interpolation.

    Args:
        maps: of each level (B, M, D, h, w); h and w differ.
        locations: (B, N, M, L, K, 2), x and y. Outside a map are zeros.
        weights: (B, N, M, L, K).

    Returns:
        (B, N, M*D).
    """
    _check_sample(maps, locations, weights)
    B, N = locations.shape[:2]
    width = maps[0].shape[1] * maps[0].shape[2]
    grid = (2 * _wide(locations) - 1).transpose(1, 2).flatten(0, 1)  # (B*M, N, L, K, 2), in [-1, 1]
    values: list[Tensor] = []
    for level, x in enumerate(maps):
        places = grid[:, :, level]  # (B*M, N, K, 2)
        found = F.grid_sample(_wide(x).flatten(0, 1), places, align_corners=False)  # (B*M, D, N, K)
        values.append(found)
    value = torch.stack(values, dim=3)  # (B*M, D, N, L, K)
    weight = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B*M, 1, N, L, K)
    out = (value * weight).sum((3, 4))  # (B*M, D, N)
    return out.reshape(B, width, N).transpose(1, 2).to(maps[0].dtype)  # (B, N, M*D)


def _wide(x: Tensor) -> Tensor:
    """Half precision cannot tell neighbouring cells of a large map apart."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# --8<-- [end:sample]


# --8<-- [start:core]
def sampling_locations(
    references: Tensor, offsets: Tensor, sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """Where to sample: reference points or boxes, moved by the offsets.

    Args:
        references: points (B, N, 2), whose offsets count in cells of each map, or boxes
            (B, N, 4), cxcywh, whose offsets count in half sides divided by K.
        offsets: (B, N, M, L, K, 2), x and y.
        sizes: (h, w) of each map.

    Returns:
        (B, N, M, L, K, 2), at least float32.
    """
    references, offsets = _wide(references), _wide(offsets)
    center = references[:, :, None, None, None, :2]  # (B, N, 1, 1, 1, 2)
    if references.shape[-1] == 4:
        half = references[:, :, None, None, None, 2:] / 2
        return center + offsets / offsets.shape[-2] * half
    cells = offsets.new_tensor([(w, h) for h, w in sizes])  # (L, 2)
    return center + offsets / cells[:, None]


class DeformableAttention(nn.Module):
    """Multi-head attention to points near a reference, on maps of several sizes: eq. (3).

    With one level it is eq. (2). Points and weights come from the query alone, by a linear layer
    each; there are no keys. Names and shapes of the parameters are those of the authors.

    Args:
        width: C, of queries and maps; a multiple of heads.
        heads: M.
        levels: L.
        points: K, for each head on each level.
        generator: draws the two projections (Glorot uniform), on the CPU.
    """

    def __init__(
        self,
        width: int = 256,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        """At first head m looks 1, 2, … K cells into its own direction, all with equal weight."""
        super().__init__()
        _check_sizes(width, heads, levels, points)
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        angles = [2 * math.pi * m / heads for m in range(heads)]
        rays = torch.tensor([(math.cos(x), math.sin(x)) for x in angles])  # (M, 2)
        rays = rays / rays.abs().amax(1, keepdim=True)  # onto the border of a square
        steps = torch.arange(1.0, points + 1)[:, None] * rays[:, None, None]  # (M, 1, K, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(steps.expand(-1, levels, -1, -1).flatten())
            for layer in (self.value_proj, self.output_proj):
                bound = math.sqrt(6 / (2 * width))
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
            for layer in (self.sampling_offsets, self.attention_weights):
                layer.weight.zero_()
            self.attention_weights.bias.zero_()

    def where(
        self, queries: Tensor, references: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Locations (B, N, M, L, K, 2) and weights (B, N, M, L, K), which have sum 1 over L, K."""
        shape = *queries.shape[:2], self.heads, self.levels, self.points
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        weights = self.attention_weights(queries).view(*shape[:3], self.levels * self.points)
        weights = weights.softmax(dim=-1).view(shape)
        return sampling_locations(references, offsets, sizes), weights

    def forward(self, queries: Tensor, references: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Let every query look near its reference.

        Args:
            queries: (B, N, C), with their positions added. N may be 0.
            references: points (B, N, 2) or boxes (B, N, 4), cxcywh, as shares of the image.
            maps: of each level (B, C, h, w), without padding.

        Returns:
            (B, N, C).

        Raises:
            ValueError: shapes that do not fit.
        """
        width = self.value_proj.in_features
        _check_input(queries, references, maps, width, self.levels)
        values: list[Tensor] = []
        for x in maps:
            value = self.value_proj(x.movedim(1, 3)).movedim(3, 1)  # (B, C, h, w)
            values.append(value.unflatten(1, (self.heads, -1)))  # (B, M, D, h, w)
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        locations, weights = self.where(queries, references, sizes)
        return self.output_proj(sample_points(values, locations, weights))  # (B, N, C)


def cell_centers(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """The reference points of the encoder, whose queries are the cells themselves: (sum h*w, 2)."""
    points: list[Tensor] = []
    for h, w in sizes:
        y, x = ((torch.arange(n) + 0.5) / n for n in (h, w))
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(points)


# --8<-- [end:core]


def _check_sizes(width: int, heads: int, levels: int, points: int) -> None:
    if min(width, heads, levels, points) < 1:
        found = f"{width}, {heads}, {levels}, {points}"
        raise ValueError(f"width, heads, levels, points must be positive, got {found}")
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width}, {heads}")


def _check_input(
    queries: Tensor, references: Tensor, maps: Sequence[Tensor], width: int, levels: int
) -> None:
    if queries.ndim != 3 or queries.shape[2] != width:
        raise ValueError(f"queries must be (B, N, {width}), got {tuple(queries.shape)}")
    if references.shape[:-1] != queries.shape[:2] or references.shape[-1] not in (2, 4):
        wanted = f"{tuple(queries.shape[:2])} and 2 or 4 numbers"
        raise ValueError(f"references must be {wanted}, got {tuple(references.shape)}")
    if len(maps) != levels:
        raise ValueError(f"maps must be {levels}, got {len(maps)}")
    for x in maps:
        if x.ndim != 4 or x.shape[:2] != (len(queries), width) or 0 in x.shape[2:]:
            wanted = f"({len(queries)}, {width}, h, w)"
            raise ValueError(f"every map must be {wanted}, got {tuple(x.shape)}")


def _check_sample(maps: Sequence[Tensor], locations: Tensor, weights: Tensor) -> None:
    if locations.ndim != 6 or locations.shape[-1] != 2:
        raise ValueError(f"locations must be (B, N, M, L, K, 2), got {tuple(locations.shape)}")
    if weights.shape != locations.shape[:-1]:
        shapes = f"{tuple(weights.shape)} and {tuple(locations.shape)}"
        raise ValueError(f"weights must be as locations without the last axis, got {shapes}")
    B, _, M, L, _, _ = locations.shape
    fits = all(x.ndim == 5 and x.shape[:2] == (B, M) and 0 not in x.shape[3:] for x in maps)
    if len(maps) != L or not fits:
        shapes = [tuple(x.shape) for x in maps]
        raise ValueError(f"maps must be {L} of ({B}, {M}, D, h, w), got {shapes}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    generator = torch.Generator().manual_seed(0)
    sizes = [(32, 32), (16, 16), (8, 8), (4, 4)]  # strides 8 to 64 of a 256 x 256 image
    maps = [torch.randn(2, 256, h, w, generator=generator) for h, w in sizes]
    attention = DeformableAttention(256, heads=8, levels=4, points=4, generator=generator)

    queries = torch.randn(2, 100, 256, generator=generator)  # (B, N, C)
    references = torch.rand(2, 100, 2, generator=generator)  # (B, N, 2)
    print("out", tuple(attention(queries, references, maps).shape))

    with torch.no_grad():
        locations, weights = attention.where(queries, references, sizes)
    cells = sum(h * w for h, w in sizes)
    print("each query and head looks at", weights[0, 0, 0].numel(), "points of", cells, "cells")
    print("at first with the weight", float(weights[0, 0, 0, 0, 0]))
    for head in range(3):  # on the finest map
        moved = (locations[0, 0, head, 0] - references[0, 0]) * 32
        print("head", head, *(f"({float(x):.0f}, {float(y):.0f})" for x, y in moved.round() + 0.0))
    # --8<-- [end:demo]
