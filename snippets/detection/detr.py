"""DETR: Hungarian matching, the set loss, and a small detector without anchors and without NMS.

Paper: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020.
       https://arxiv.org/abs/2005.12872
       Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on
       Aerospace and Electronic Systems 2016 (the matching). https://doi.org/10.1109/TAES.2016.140952
Needs: Python >= 3.10, torch >= 2.0, and beside this file iou.py, backbone_neck_head.py,
       shapes_dataset.py, transformer.py and the three files that it needs.
Axes:  B batch, N queries, G objects of an image, K classes without "no object", L decoder layers,
       C width, H, W of an image, h, w of its map. Boxes: xyxy in pixels, as in iou.py; cxcywh as
       shares of the image's width and height.
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --8<-- [end:imports]
from ..attention.multi_head_attention import KeysValues, MultiHeadAttention
from ..attention.positional_encoding import sinusoidal
from ..attention.transformer import DecoderBlock, EncoderBlock
from ..concepts.backbone_neck_head import ResidualBackbone, initialize
from .iou import box_cxcywh_to_xyxy, box_iou, box_xyxy_to_cxcywh, check_boxes, iou_loss
from .shapes_dataset import shapes  # for the demo

__all__ = [
    "DETR",
    "DetrDecoderLayer",
    "DetrEncoderLayer",
    "Predictions",
    "attend",
    "hungarian",
    "image_positions",
    "matching_cost",
    "set_loss",
]


# --8<-- [start:hungarian]
def hungarian(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Pair rows with columns, each at most once, so that the sum of the costs is least.

    Row by row, each by a shortest augmenting path, in plain Python: O(n² m) steps for n <= m.

    Args:
        cost: (n, m), finite; either may be 0.

    Returns:
        Rows (ascending) and their columns, int64 (min(n, m),), on the device of cost. Of several
        equally cheap pairings any one, as with scipy.optimize.linear_sum_assignment.
    """
    _check_cost(cost)
    n, m = cost.shape
    if n > m:
        columns, rows = hungarian(cost.T)
        order = rows.argsort()
        return rows[order], columns[order]
    costs: list[list[float]] = cost.detach().double().tolist()  # pyright: ignore
    row_price, column_price = [0.0] * n, [0.0] * m
    column_of, row_of = [-1] * n, [-1] * m
    for start in range(n):
        # Dijkstra from row `start` to the nearest column without a row. A step to a column costs
        # cost - row_price - column_price >= 0, the step from a column back to its row nothing.
        distance, via = [math.inf] * m, [-1] * m
        ahead, seen = set(range(m)), list[int]()
        row, column, length = start, -1, 0.0
        while row >= 0:
            for j in ahead:
                d = length + costs[row][j] - row_price[row] - column_price[j]
                if d < distance[j]:
                    distance[j], via[j] = d, row
            column = min(ahead, key=distance.__getitem__)
            ahead.remove(column)
            seen.append(column)
            length, row = distance[column], row_of[column]
        row_price[start] += length
        for j in seen[:-1]:  # so that no reduced cost becomes negative
            row_price[row_of[j]] += length - distance[j]
            column_price[j] -= length - distance[j]
        while column >= 0:  # along the path every row changes its column
            row = via[column]
            row_of[column] = row
            column_of[row], column = column, column_of[row]
    rows, columns = torch.arange(n), torch.tensor(column_of, dtype=torch.int64)
    return rows.to(cost.device), columns.to(cost.device)


# --8<-- [end:hungarian]


# --8<-- [start:loss]
WEIGHTS = (1.0, 5.0, 2.0)  # of class, L1 and GIoU, in the cost and in the loss alike


class Predictions(NamedTuple):
    """What all decoder layers say, the last one at the end."""

    logits: Tensor  # (L, B, N, K+1), the last class is "no object"
    boxes_cxcywh: Tensor  # (L, B, N, 4), in [0, 1]


@torch.no_grad()
def matching_cost(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    labels: Tensor,
    truth_cxcywh: Tensor,
    weights: tuple[float, float, float] = WEIGHTS,
) -> Tensor:
    """What each query would cost for each object: minus probability, plus L1, minus GIoU.

    Args:
        logits: (..., N, K+1).
        boxes_cxcywh: (..., N, 4).
        labels: int64 (G,), 0 to K-1.
        truth_cxcywh: (G, 4).
        weights: of the three terms.

    Returns:
        (..., N, G), at least float32, without gradient.
    """
    logits, boxes, truth = _wide(logits), _wide(boxes_cxcywh), _wide(truth_cxcywh)
    probs = logits.softmax(dim=-1)[..., labels]  # (..., N, G)
    distance = (boxes[..., None, :] - truth).abs().sum(-1)  # (..., N, G)
    giou = box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(truth), "giou")  # (..., N, G)
    return weights[1] * distance - weights[0] * probs - weights[2] * giou


def set_loss(
    predictions: Predictions,
    targets: Sequence[Mapping[str, Tensor]],
    size: tuple[int, int],
    weights: tuple[float, float, float] = WEIGHTS,
    no_object: float = 0.1,
) -> dict[str, Tensor]:
    """Match queries with objects in every layer anew, and compare what is matched.

    Args:
        predictions: of B images; the layers before the last give the auxiliary losses.
        targets: B dicts with boxes (G, 4), xyxy in pixels, labels, int64 (G,), and optionally
            crowd, bool (G,): such objects are left out. G may be 0. Of more objects than
            queries the dearest go without.
        size: height and width of the images.
        weights: of class, L1 and GIoU, in the cost and in the loss.
        no_object: weight of a query without object in the mean over all queries.

    Returns:
        "class", "l1" and "giou", each times its weight and summed over the layers: the loss is
        their sum. L1 and GIoU are divided by the number of objects in the batch, at least 1.

    Raises:
        ValueError: shapes, dtypes, labels, boxes or a device that do not fit, NaN.
    """
    _check_targets(predictions, targets, size)
    logits, boxes = _wide(predictions.logits), _wide(predictions.boxes_cxcywh)
    L, B, N, classes = logits.shape  # K+1 classes
    each = [_objects(target, size, boxes) for target in targets]
    labels, truth = (torch.cat(x) for x in zip(*each, strict=True))  # (all,), (all, 4)
    cost = matching_cost(logits, boxes, labels, truth, weights).cpu()  # (L, B, N, all)
    queries, objects, start = [labels[:0]], [labels[:0]], 0  # flat numbers of what is matched
    for b, (own, _) in enumerate(each):
        for layer in range(L):
            q, g = hungarian(cost[layer, b, :, start : start + len(own)])
            queries.append(q.to(labels) + (layer * B + b) * N)
            objects.append(g.to(labels) + start)
        start += len(own)
    query, matched = torch.cat(queries), torch.cat(objects)  # (pairs,) both
    wanted = torch.full((L * B * N,), classes - 1, device=logits.device)
    wanted = wanted.index_put((query,), labels[matched]).view(L, B * N)
    found, truth = boxes.flatten(0, 2)[query], truth[matched]  # (pairs, 4) both
    giou = iou_loss(box_cxcywh_to_xyxy(found), box_cxcywh_to_xyxy(truth), "giou")  # (pairs,)
    count = max(1, len(labels))
    rarer = torch.cat([logits.new_ones(classes - 1), logits.new_full((1,), no_object)])  # (K+1,)
    pairs = zip(logits.flatten(1, 2), wanted, strict=True)
    return {
        "class": weights[0] * torch.stack([F.cross_entropy(x, y, rarer) for x, y in pairs]).sum(),
        "l1": weights[1] * (found - truth).abs().sum() / count,
        "giou": weights[2] * giou.sum() / count,
    }


def _objects(
    target: Mapping[str, Tensor], size: tuple[int, int], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels (G,) and boxes (G, 4), cxcywh, without crowds."""
    labels, boxes = target["labels"], target["boxes"].to(like.dtype)
    if "crowd" in target:
        labels, boxes = labels[~target["crowd"]], boxes[~target["crowd"]]
    return labels, box_xyxy_to_cxcywh(boxes / _scale(size, like))


def _scale(size: tuple[int, int], like: Tensor) -> Tensor:
    return like.new_tensor([size[1], size[0], size[1], size[0]])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


# --8<-- [end:loss]


# --8<-- [start:transformer]
def image_positions(h: int, w: int, width: int) -> Tensor:
    """Sines and cosines of the row, then of the column, float64 (h*w, C).

    Places are counted from 1 and divided by their number, times 2π, with the 1e-6 of the authors.
    """
    _check_positions(h, w, width)
    tables: list[Tensor] = []
    for n in (h, w):
        angles = torch.arange(1, n + 1).double() / (n + 1e-6) * 2 * math.pi
        tables.append(sinusoidal(angles, width // 2, dtype=torch.float64))  # (n, C/2)
    rows, columns = tables
    both = rows[:, None].expand(h, w, -1), columns.expand(h, w, -1)
    return torch.cat(both, dim=-1).flatten(0, 1)  # (h*w, C)


def attend(attention: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Multi-head attention whose keys and values come from two inputs; (B, N, C), 2 (B, M, C)."""
    projected = attention.k_proj(k), attention.v_proj(v)
    k, v = (x.unflatten(2, (attention.kv_heads, -1)).transpose(1, 2) for x in projected)
    return attention(q, KeysValues(k, v))[0]  # (B, N, C)


class DetrEncoderLayer(nn.Module):
    """A post-norm encoder block in which positions go to queries and keys, not to values."""

    def __init__(
        self, width: int, heads: int, inner: int, generator: torch.Generator | None = None
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.block = EncoderBlock(width, heads, inner, generator=generator)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, h*w, C) and (h*w, C) to (B, h*w, C)."""
        block, placed = self.block, x + positions
        x = block.attention_norm.after(x, attend(block.attention, placed, placed, x))
        return block.feed_forward_norm.after(x, block.feed_forward(x))


class DetrDecoderLayer(nn.Module):
    """The same for the decoder: no mask, all queries at once."""

    def __init__(
        self, width: int, heads: int, inner: int, generator: torch.Generator | None = None
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.block = DecoderBlock(width, heads, inner, generator=generator)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """(B, N, C), queries (N, C), memory (B, h*w, C), its positions (h*w, C) to (B, N, C)."""
        block, placed = self.block, x + queries
        x = block.attention_norm.after(x, attend(block.attention, placed, placed, x))
        crossed = attend(block.cross, x + queries, memory + positions, memory)
        x = block.cross_norm.after(x, crossed)
        return block.feed_forward_norm.after(x, block.feed_forward(x))


# --8<-- [end:transformer]


# --8<-- [start:model]
class DETR(nn.Module):
    """Backbone, encoder, decoder and two heads; the paper's sizes are in brackets.

    Args:
        classes: K.
        queries: N, the most objects that can be found in an image (100).
        width: C, a multiple of 4 and of heads (256).
        heads: of every attention (8).
        inner: width of the feed-forward networks (2048).
        encoder_layers, decoder_layers: (6 and 6).
        stride: 8, 16 or 32: which map of the backbone is used (32).
        generator: draws all weights, on the CPU.

    The backbone is a small ResNet without pre-trained weights; there is no dropout and no mask
    for padding: the images of a batch have one size.
    """

    def __init__(
        self,
        classes: int,
        queries: int = 30,
        width: int = 64,
        heads: int = 4,
        inner: int = 256,
        encoder_layers: int = 2,
        decoder_layers: int = 3,
        stride: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights."""
        super().__init__()
        self.backbone = ResidualBackbone()
        _check_sizes(classes, queries, decoder_layers, encoder_layers)
        _check_stride(stride, self.backbone.out_channels)
        _check_positions(1, 1, width)
        self.classes, self.stride = classes, stride
        initialize(self.backbone, generator)
        sizes = width, heads, inner, generator
        self.project = nn.Conv2d(self.backbone.out_channels[stride], width, 1)
        self.encoder = nn.ModuleList(DetrEncoderLayer(*sizes) for _ in range(encoder_layers))
        self.queries = nn.Parameter(torch.empty(queries, width).normal_(generator=generator))
        self.decoder = nn.ModuleList(DetrDecoderLayer(*sizes) for _ in range(decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, classes + 1)
        layers = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)
        self.boxes = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        with torch.no_grad():
            for layer in (self.project, self.logits, *layers):
                bound = math.sqrt(6 / (layer.weight.shape[0] + layer.weight.shape[1]))
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    layer.bias.zero_()

    def forward(self, images: Tensor) -> Predictions:
        """Images (B, 3, H, W) to the predictions of every decoder layer."""
        x: Tensor = self.project(self.backbone(images)[self.stride])  # (B, C, h, w)
        positions = image_positions(x.shape[2], x.shape[3], x.shape[1]).to(x)  # (h*w, C)
        memory = x.flatten(2).transpose(1, 2)  # (B, h*w, C)
        for layer in self.encoder:
            memory = layer(memory, positions)
        x = memory.new_zeros(len(images), *self.queries.shape)  # (B, N, C)
        outputs: list[Tensor] = []
        for layer in self.decoder:
            x = layer(x, self.queries, memory, positions)
            outputs.append(self.norm(x))  # the next layer gets x without this norm
        out = torch.stack(outputs)  # (L, B, N, C)
        return Predictions(self.logits(out), self.boxes(out).sigmoid())

    def loss(
        self,
        images: Tensor,
        targets: Sequence[Mapping[str, Tensor]],
        weights: tuple[float, float, float] = WEIGHTS,
    ) -> Tensor:
        """The number to minimise; see set_loss."""
        parts = set_loss(self(images), targets, (images.shape[2], images.shape[3]), weights)
        return parts["class"] + parts["l1"] + parts["giou"]

    @torch.no_grad()
    def detect(self, images: Tensor, min_score: float = 0.0) -> list[dict[str, Tensor]]:
        """One detection per query, in eval mode or not as the model is; nothing is suppressed.

        Returns:
            Of each image boxes (n, 4), xyxy in pixels, not clipped, scores (n,) and labels
            int64 (n,), by descending score, at least min_score.
        """
        logits, boxes = (_wide(x[-1]) for x in self(images))  # (B, N, K+1), (B, N, 4)
        scores, labels = logits.softmax(dim=-1)[..., :-1].max(dim=-1)  # (B, N), without "no object"
        boxes = box_cxcywh_to_xyxy(boxes) * _scale((images.shape[2], images.shape[3]), boxes)
        detections: list[dict[str, Tensor]] = []
        for b, score in enumerate(scores):
            order = score.argsort(descending=True, stable=True)
            order = order[score[order] >= min_score]
            kept = dict(boxes=boxes[b, order], scores=score[order], labels=labels[b, order])
            detections.append(kept)
        return detections


# --8<-- [end:model]


def _check_cost(cost: Tensor) -> None:
    if cost.ndim != 2:
        raise ValueError(f"cost must be (n, m), got {tuple(cost.shape)}")
    if bad := [float(x) for x in cost.detach()[~cost.isfinite()][:1]]:
        raise ValueError(f"cost must be finite, got {bad[0]}")


def _check_targets(
    predictions: Predictions, targets: Sequence[Mapping[str, Tensor]], size: tuple[int, int]
) -> None:
    logits, boxes = predictions
    if logits.ndim != 4 or boxes.shape != (*logits.shape[:3], 4) or logits.shape[-1] < 2:
        shapes = f"{tuple(logits.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"predictions must be (L, B, N, K+1) and (L, B, N, 4), got {shapes}")
    if len(targets) != logits.shape[1] or not targets:
        raise ValueError(f"one target per image, at least one, got {len(targets)} targets")
    if min(size) < 1:
        raise ValueError(f"size must be positive, got {size}")
    for i, target in enumerate(targets):
        found, labels, crowd = target["boxes"], target["labels"], target.get("crowd")
        if found.device != logits.device or labels.device != logits.device:
            devices = f"{found.device}, {labels.device} and {logits.device}"
            raise ValueError(f"boxes, labels and predictions need one device, got {devices}")
        check_boxes(f"boxes of target {i}", found)
        n, classes = len(found), logits.shape[-1] - 1
        if found.ndim != 2 or labels.shape != (n,):
            shapes = f"{tuple(found.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"boxes must be (G, 4) and labels (G,), got {shapes}")
        if labels.dtype != torch.int64 or ((labels < 0) | (labels >= classes)).any():
            raise ValueError(f"labels must be int64 from 0 to {classes - 1}, got {labels}")
        if crowd is not None and (crowd.dtype != torch.bool or crowd.shape != (n,)):
            raise ValueError(f"crowd must be bool ({n},), got {crowd.dtype} {tuple(crowd.shape)}")


def _check_positions(h: int, w: int, width: int) -> None:
    if min(h, w) < 1 or width < 4 or width % 4:
        raise ValueError(f"h, w must be positive, width a multiple of 4, got {h}, {w}, {width}")


def _check_sizes(classes: int, queries: int, decoder_layers: int, encoder_layers: int) -> None:
    if min(classes, queries, decoder_layers) < 1 or encoder_layers < 0:
        found = f"{classes}, {queries}, {decoder_layers}, {encoder_layers}"
        raise ValueError(
            "classes, queries, decoder_layers must be positive, encoder_layers not negative, "
            f"got {found}"
        )


def _check_stride(stride: int, known: Mapping[int, int]) -> None:
    if stride not in known:
        raise ValueError(f"stride must be one of {list(known)}, got {stride}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    cost = torch.tensor([[1.0, 2.0], [2.0, 9.0], [8.0, 8.0]])  # three queries, two objects
    queries, objects = hungarian(cost)
    print("matched", [(int(q), int(g)) for q, g in zip(queries, objects, strict=True)])

    generator = torch.Generator().manual_seed(0)
    drawn = shapes(4, generator, size=32, objects=(2, 3), sides=(8, 16), empty=0.0)
    images = torch.stack([image for image, _ in drawn])  # (B, 3, H, W)
    targets = [target for _, target in drawn]
    model = DETR(4, queries=6, encoder_layers=1, decoder_layers=2, stride=8, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(100):  # learns the four images by heart
        loss = model.loss(images, targets)
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore
        optimizer.step()  # pyright: ignore

    detections = model.eval().detect(images, min_score=0.5)
    right = 0
    for found, target in zip(detections, targets, strict=True):
        overlap = box_iou(target["boxes"], found["boxes"])  # (G, n)
        hit = (overlap > 0.5) & (target["labels"][:, None] == found["labels"])
        right += int(hit.any(dim=1).sum())
    print("found", right, "of", sum(len(target["labels"]) for target in targets), "objects")
    # --8<-- [end:demo]
