"""Images of coloured shapes with boxes, labels and masks, drawn from a seed; export to COCO format.

Paper: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014 (the data set whose
       format is written). https://arxiv.org/abs/1405.0312, https://cocodataset.org/#format-data
Needs: Python >= 3.10, torch >= 2.0, iou.py beside this file.
Axes:  N objects, H, W pixels. Pixel (row i, column j) covers the square from (x, y) = (j, i)
       to (j + 1, i + 1); its centre is at (j + 0.5, i + 0.5).
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# --8<-- [end:imports]
from .iou import box_area, box_xyxy_to_xywh, check_boxes

__all__ = [
    "CLASSES",
    "background",
    "depth",
    "mask_to_rle",
    "masks_to_boxes",
    "paint",
    "rle_to_mask",
    "shapes",
    "to_coco",
    "visible_parts",
]

CLASSES = ("disc", "square", "triangle", "cross")


# --8<-- [start:draw]
def depth(x: Tensor, y: Tensor, side: Tensor) -> Tensor:
    """How deep a point lies inside each of the four shapes, in pixels; negative outside.

    Args:
        x: (N, H, W), to the right of the shape's centre, along its own axes.
        y: (N, H, W), below it.
        side: (N, 1, 1), the square root of the area, which is the same for all four.

    Returns:
        (4, N, H, W), in the order of CLASSES. Near an edge it is the distance to that edge.
    """
    x, low = x.abs(), torch.minimum(x.abs(), y.abs())
    high = torch.maximum(x, y.abs())
    arm = side / math.sqrt(20)  # half the width of an arm of the cross, and a third of its reach
    disc = side / math.sqrt(math.pi) - (x * x + y * y).sqrt()
    square = side / 2 - high
    edge = torch.maximum(-y, (math.sqrt(3) * x + y) / 2)  # from the centre, across the edge
    triangle = side / math.sqrt(math.sqrt(27)) - edge
    cross = torch.minimum(3 * arm - high, arm - low)
    return torch.stack([disc, square, triangle, cross])


def visible_parts(whole: Tensor, areas: Tensor, min_visible: float) -> Tensor:
    """What is seen of each shape; bool (N, H, W), the last in front, to bool (N, H, W).

    A shape of which less than `min_visible` of its area (N,) is seen is left out and hides
    nothing: its mask is empty.
    """
    masks = torch.zeros_like(whole)
    covered = torch.zeros_like(whole[:1])  # (1, H, W)
    for i in reversed(range(len(whole))):  # from the front to the back
        seen = whole[i] & ~covered[0]
        if seen.any() and seen.sum() >= min_visible * areas[i]:
            masks[i] = seen
            covered |= whole[i]
    return masks


def paint(image: Tensor, depths: Tensor, colors: Tensor) -> Tensor:
    """Lay shapes over an image, from the first to the last, with smooth edges.

    Whole numbers in float64: image (3, H, W), colors (N, 3); depths (N, H, W) as from `depth`.
    """
    coverage = ((depths + 0.5).clamp(0, 1) * 16).floor()  # (N, H, W), sixteenths of a pixel
    for alpha, color in zip(coverage, colors[:, :, None, None], strict=True):
        image = ((16 - alpha) * image + alpha * color).div(16).floor()  # (3, H, W)
    return image


def background(color: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Soft blotches around a colour (3,): whole numbers in float64, (3, H, W)."""
    knots = 5
    values = torch.randint(-40, 41, (3, knots, knots), generator=generator).double()
    at = torch.arange(size, dtype=torch.float64) * (knots - 1)  # in units of 1 / size
    away = at[:, None] - torch.arange(knots, dtype=torch.float64) * size  # (H, knots)
    weights = (size - away.abs()).clamp(min=0)  # (H, knots), each row has sum `size`
    blotches = weights @ values @ weights.T  # whole numbers, exact in any order of summation
    return color[:, None, None] + (blotches / size**2).floor()


# --8<-- [end:draw]


# --8<-- [start:core]
def shapes(
    count: int,
    generator: torch.Generator,
    size: int = 96,
    objects: tuple[int, int] = (1, 6),
    sides: tuple[int, int] = (10, 44),
    empty: float = 0.05,
    crowded: float = 0.0,
    min_visible: float = 0.5,
    noise: int = 12,
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Draw images with their targets.

    Args:
        count: number of images; the first of them do not depend on how many follow.
        generator: of the CPU, the only source of randomness.
        size: height and width of an image, in pixels.
        objects: fewest and most objects to place in an image; of these, hidden ones are left out.
        sides: smallest and largest square root of a shape's area, in pixels.
        empty: probability that an image has no objects.
        crowded: probability that one which is not empty has three times `objects[1]` shapes,
            with sides from the lowest third of the range, in a quarter of the image.
        min_visible: an object of which a smaller share is seen, because the border cuts it off
            or others cover it, is left out of the image; above 0, at most 1.
        noise: what is added to every value at most, in steps of 1 / 255.

    Returns:
        Pairs of an image, float32 (3, H, W), multiples of 1 / 255 from 0 to 1, and its target:
        boxes, float32 (N, 4), xyxy, tight around what is seen; labels, int64 (N,), indices of
        CLASSES; masks, bool (N, H, W), what is seen, disjoint. Later objects are in front.

    Raises:
        ValueError: a range or share that makes no sense, a generator of another device.
    """
    _check(count, generator, size, objects, sides, noise)
    _check_shares(empty=empty, crowded=crowded, min_visible=min_visible)
    drawn: list[tuple[Tensor, dict[str, Tensor]]] = []
    for _ in range(count):
        chance = torch.rand(2, generator=generator, dtype=torch.float64)
        n = int(torch.randint(objects[0], objects[1] + 1, (), generator=generator))
        window, largest = 1.0, float(sides[1])
        if chance[1] < crowded:
            n, window, largest = 3 * objects[1], 0.5, (2 * sides[0] + sides[1]) / 3
        n = 0 if chance[0] < empty else n

        # Only + - * / and square roots of float64, which IEEE 754 rounds alike everywhere.
        u = torch.rand(5, n, 1, 1, generator=generator, dtype=torch.float64)
        corner = torch.rand(2, generator=generator, dtype=torch.float64) * (1 - window)
        side = sides[0] + (largest - sides[0]) * u[0]  # (N, 1, 1)
        room = size - side / 2  # the centre keeps a quarter of a side from the border
        center_x = side / 4 + room * (corner[0] + window * u[1])
        center_y = side / 4 + room * (corner[1] + window * u[2])
        turn = 2 * u[3] - 1  # the tangent of half an angle from -90 to 90 degrees
        flip = 1 - 2 * (u[4] < 0.5).double()  # and that angle or the opposite one
        cosine = flip * (1 - turn * turn) / (1 + turn * turn)
        sine = flip * 2 * turn / (1 + turn * turn)
        pixel = torch.arange(size, dtype=torch.float64) + 0.5
        x, y = pixel - center_x, pixel[:, None] - center_y  # (N, 1, W), (N, H, 1)
        labels = torch.randint(len(CLASSES), (n,), generator=generator)
        depths = depth(x * cosine + y * sine, y * cosine - x * sine, side)  # (4, N, H, W)
        depths = depths[labels, torch.arange(n)]  # (N, H, W)

        masks = visible_parts(depths >= 0, side.flatten().square(), min_visible)
        keep = masks.flatten(1).any(1)  # (N,)
        color = torch.randint(48, 208, (3,), generator=generator).double()
        shift = torch.randint(64, 193, (n, 3), generator=generator)
        colors = (color + shift) % 256  # (N, 3), at least 64 away from it in every channel
        image = paint(background(color, size, generator), depths[keep], colors[keep])
        image += torch.randint(-noise, noise + 1, image.shape, generator=generator)
        target = dict(boxes=masks_to_boxes(masks[keep]), labels=labels[keep], masks=masks[keep])
        drawn.append((image.clamp(0, 255).float() / 255, target))
    return drawn


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The tight box of each mask: bool (N, H, W) to float32 xyxy (N, 4).

    A single pixel has a box of width 1 (torchvision's function of this name: 0). An empty mask
    has the box (0, 0, 0, 0).
    """
    _check_masks(masks)
    ends: list[Tensor] = []
    for line in (masks.any(1), masks.any(2)):  # which columns (N, W), which rows (N, H)
        place = torch.arange(1, line.shape[1] + 1, device=masks.device) * line
        back = torch.arange(line.shape[1], 0, -1, device=masks.device) * line
        low, high = line.shape[1] - back.amax(1), place.amax(1)  # (N,)
        ends += [low * line.any(1), high]
    return torch.stack([ends[0], ends[2], ends[1], ends[3]], dim=1).float()  # (N, 4)


# --8<-- [end:core]


# --8<-- [start:coco]
def mask_to_rle(mask: Tensor) -> dict[str, list[int]]:
    """A bool mask (H, W) as COCO's uncompressed run lengths.

    Pixels are read column by column; runs of 0 and 1 take turns, and the first is of 0, so a
    mask that begins with 1 has the count 0 in front.
    """
    _check_masks(mask[None])
    flat = mask.T.reshape(-1)  # (W * H,)
    before = torch.cat([flat.new_zeros(1), flat])  # (1 + W * H,)
    starts = (flat != before[:-1]).nonzero().flatten()  # where each run but the first begins
    bounds = torch.cat([starts.new_zeros(1), starts, starts.new_tensor([flat.numel()])])
    return {"size": [int(n) for n in mask.shape], "counts": [int(n) for n in bounds.diff()]}


def rle_to_mask(rle: dict[str, list[int]]) -> Tensor:
    """The inverse of mask_to_rle."""
    counts = torch.tensor(rle["counts"], dtype=torch.int64)
    height, width = rle["size"]
    if (counts < 0).any() or int(counts.sum()) != height * width:
        raise ValueError(f"counts must be >= 0 with sum {height * width}, got {rle['counts']}")
    values = torch.arange(len(counts)) % 2 == 1  # zeros first
    return values.repeat_interleave(counts).view(width, height).T


def to_coco(
    targets: Sequence[dict[str, Tensor]],
    size: int | tuple[int, int],
    classes: Sequence[str] = CLASSES,
) -> dict[str, list[dict[str, Any]]]:
    """Targets as the dictionary that a COCO annotation file holds; json.dumps can write it.

    Args:
        targets: one dict an image: boxes, floating (N, 4) xyxy; labels, int64 (N,); optionally
            masks, bool (N, H, W), and crowd, bool (N,).
        size: of all images, (H, W) or one number for both.
        classes: names of the classes.

    Returns:
        images, annotations and categories, with ids counted from 1 (category_id is the label
        plus 1: pycocotools takes the annotation id 0 for "no match"). Area is that of the mask
        or, without masks, of the box; without masks there is no segmentation.

    Raises:
        ValueError: bad boxes, labels without a class, numbers or sizes that do not agree.
    """
    height, width = (size, size) if isinstance(size, int) else size
    annotations: list[dict[str, Any]] = []
    for image_id, target in enumerate(targets, 1):
        _check_target(target, (height, width), len(classes))
        boxes = target["boxes"].detach().cpu().double()  # (N, 4)
        areas, masks = box_area(boxes), None
        if "masks" in target:
            masks = target["masks"].cpu()
            areas = masks.sum((1, 2))
        for i, xywh in enumerate(box_xyxy_to_xywh(boxes)):
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": int(target["labels"][i]) + 1,
                "bbox": [float(value) for value in xywh],
                "area": float(areas[i]),
                "iscrowd": int(target["crowd"][i]) if "crowd" in target else 0,
            }
            if masks is not None:
                annotation["segmentation"] = mask_to_rle(masks[i])
            annotations.append(annotation)
    ids = range(1, len(targets) + 1)
    return {
        "images": [{"id": i, "height": height, "width": width} for i in ids],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }


# --8<-- [end:coco]


def _check(
    count: int,
    generator: torch.Generator,
    size: int,
    objects: tuple[int, int],
    sides: tuple[int, int],
    noise: int,
) -> None:
    if count < 0 or size < 1 or noise < 0:
        raise ValueError(
            f"count and noise must be >= 0 and size >= 1, got {count}, {noise} and {size}"
        )
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator must be of the CPU, for the same images, got {generator.device}"
        )
    if not 0 <= objects[0] <= objects[1]:
        raise ValueError(f"objects must be (fewest, most), got {objects}")
    if not 1 <= sides[0] <= sides[1] <= size:
        raise ValueError(f"sides must be (smallest, largest), from 1 to {size}, got {sides}")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be a share, got {share}")
    if shares["min_visible"] == 0:
        raise ValueError("min_visible must be a share above 0, got 0.0")


def _check_masks(masks: Tensor) -> None:
    if masks.ndim != 3 or masks.dtype != torch.bool or 0 in masks.shape[1:]:
        raise ValueError(f"masks must be bool (N, H, W), got {masks.dtype} {tuple(masks.shape)}")


def _check_target(target: dict[str, Tensor], size: tuple[int, int], classes: int) -> None:
    boxes, labels = target["boxes"], target["labels"]
    check_boxes("boxes", boxes)
    n = len(boxes)
    if boxes.ndim != 2 or labels.shape != (n,):
        found = f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"boxes must be (N, 4) and labels (N,), got {found}")
    if labels.dtype != torch.int64 or ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"labels must be int64 from 0 to {classes - 1}, got {labels}")
    for name, shape in (("masks", (n, *size)), ("crowd", (n,))):
        part = target.get(name)
        if part is not None and (part.dtype != torch.bool or part.shape != shape):
            found = f"{part.dtype} {tuple(part.shape)}"
            raise ValueError(f"{name} must be bool {shape}, got {found}")


if __name__ == "__main__":
    # --8<-- [start:demo]
    images = shapes(500, torch.Generator().manual_seed(0))
    targets = [target for _, target in images]
    labels = torch.cat([target["labels"] for target in targets])
    print(len(labels), "objects,", sum(len(t["labels"]) == 0 for t in targets), "empty images")
    for name, number in zip(CLASSES, labels.bincount(), strict=True):
        print(f"{name:9}{int(number):4}")

    coco = to_coco(targets, 96)
    areas = torch.tensor([annotation["area"] for annotation in coco["annotations"]])
    print(f"small {(areas < 32**2).float().mean():.2f}, largest {areas.max():.0f} pixels")
    print({key: coco["annotations"][0][key] for key in ("category_id", "bbox", "area")})
    # --8<-- [end:demo]
