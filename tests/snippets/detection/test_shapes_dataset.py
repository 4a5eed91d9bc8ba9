"""Shapes: geometry against polygons, painting against loops, COCO format against pycocotools.

Yardstick: torchvision.ops.masks_to_boxes; torch.nn.functional.interpolate; closed form; plain
    loops.
"""

import hashlib
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.testing import assert_close
from torchvision.ops import masks_to_boxes as torchvision_boxes

from snippets.detection.shapes_dataset import (
    CLASSES,
    background,
    depth,
    mask_to_rle,
    masks_to_boxes,
    paint,
    rle_to_mask,
    shapes,
    to_coco,
    visible_parts,
)

# What pycocotools' decode hands to numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

seeds = st.integers(0, 2**32 - 1)
lengths = st.integers(1, 9)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_masks(n, h, w, seed):
    return torch.rand(n, h, w, generator=seeded(seed)) < 0.4


def polygon(name, side):
    """Corners of a shape of area side², (x, y) with y downwards, from elementary geometry."""
    if name == "square":
        half = side / 2
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    if name == "triangle":  # equilateral, one corner below, centroid at the origin
        reach = math.sqrt(4 / 3**0.5) * side / 3**0.5  # edge √(4/√3) side; circumradius edge/√3
        angles = [math.radians(a) for a in (90, 210, 330)]
        return [(reach * math.cos(a), reach * math.sin(a)) for a in angles]
    cell = side / 5**0.5  # a cross is five equal squares
    a, b = cell / 2, 3 * cell / 2
    quarter = [(b, -a), (b, a), (a, a)]
    turned = []
    for _ in range(4):
        turned += quarter
        quarter = [(-y, x) for x, y in quarter]
    return turned


def contains(corners, x, y):
    """Even-odd rule."""
    inside = False
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1]):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside


def to_edge(corners, x, y):
    """Distance to the nearest point of the outline."""
    found = []
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1]):
        dx, dy = x2 - x1, y2 - y1
        t = max(0, min(1, ((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy)))
        found.append(math.hypot(x - x1 - t * dx, y - y1 - t * dy))
    return min(found)


def shoelace(corners):
    pairs = zip(corners, corners[1:] + corners[:1])
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2


# Geometry and painting: parity ----------------------------------------------------


@pytest.mark.parametrize("name", CLASSES[1:])
def test_depth_equals_polygons(name):
    side = 7.3
    corners = polygon(name, side)
    assert math.isclose(shoelace(corners), side**2)
    points = 16 * torch.rand(2, 1, 1, 600, generator=seeded(), dtype=torch.float64) - 8
    found = depth(*points, torch.full((1, 1, 1), side, dtype=torch.float64))
    for x, y, value in zip(*points.flatten(1).tolist(), found[CLASSES.index(name)].flatten()):
        assert contains(corners, x, y) == (value > 0)
        if value > 0 and (name != "cross" or value < side / 10):
            away = to_edge(corners, x, y)
            if name == "cross" and min(abs(abs(x) - abs(y)), 9) < side / 6:
                continue  # beside a corner that points inwards
            assert math.isclose(away, value, abs_tol=1e-12)


def test_depth_of_the_disc():
    points = 16 * torch.rand(2, 1, 1, 600, generator=seeded(), dtype=torch.float64) - 8
    found = depth(*points, torch.full((1, 1, 1), 7.3, dtype=torch.float64))[0]
    radius = (7.3**2 / math.pi) ** 0.5
    assert_close(found, radius - torch.hypot(*points), rtol=0, atol=1e-12)


@given(n=st.integers(0, 6), h=lengths, w=lengths, seed=seeds, least=st.floats(0.05, 1))
def test_visible_parts_equal_loops(n, h, w, seed, least):
    whole = random_masks(n, h, w, seed)
    areas = whole.sum((1, 2)).double().clamp(min=1)
    expected = torch.zeros_like(whole)
    front = {}  # pixel: who is seen there
    for i in reversed(range(n)):
        free = [p for p in whole[i].nonzero().tolist() if tuple(p) not in front]
        if free and len(free) >= least * float(areas[i]):
            front |= {tuple(p): i for p in whole[i].nonzero().tolist() if tuple(p) not in front}
    for (row, column), i in front.items():
        expected[i, row, column] = True
    before = whole.clone()
    assert torch.equal(visible_parts(whole, areas, least), expected)
    assert torch.equal(whole, before)


def test_what_is_left_out_hides_nothing():
    """The middle shape is covered by the front one, and so does not cover the one behind."""
    whole = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)[:, None]
    seen = visible_parts(whole, whole.sum((1, 2)).double(), 0.5)
    assert seen[:, 0].int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert visible_parts(whole, whole.sum((1, 2)).double(), 1 / 3)[:, 0].int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 1],
    ]


@given(n=st.integers(0, 4), h=lengths, w=lengths, seed=seeds)
def test_paint_equals_loops(n, h, w, seed):
    generator = seeded(seed)
    image = torch.randint(0, 256, (3, h, w), generator=generator).double()
    depths = 3 * torch.rand(n, h, w, generator=generator, dtype=torch.float64) - 1.5
    colors = torch.randint(0, 256, (n, 3), generator=generator).double()
    expected = image.int().tolist()
    for k, c, i, j in itertools.product(range(n), range(3), range(h), range(w)):
        alpha = math.floor(16 * min(max(float(depths[k, i, j]) + 0.5, 0), 1))
        below = expected[c][i][j]
        expected[c][i][j] = (alpha * int(colors[k, c]) + (16 - alpha) * below) // 16
    before = image.clone()
    assert paint(image, depths, colors).tolist() == expected
    assert torch.equal(image, before)


@pytest.mark.parametrize("size", [1, 5, 32])
def test_background_equals_bilinear_interpolation(size):
    color = torch.tensor([100.0, 120.0, 90.0], dtype=torch.float64)
    values = torch.randint(-40, 41, (3, 5, 5), generator=seeded(3)).double()
    full = F.interpolate(values[None], size=4 * size + 1, mode="bilinear", align_corners=True)
    every = full[0, :, : 4 * size : 4, : 4 * size : 4]  # knots are `size` quarter pixels apart
    found = background(color, size, seeded(3))
    assert ((color[:, None, None] + every - found) > -1e-9).all()  # rounded down
    assert ((color[:, None, None] + every - found) < 1).all()
    assert torch.equal(found, found.floor())


@given(n=st.integers(0, 4), h=lengths, w=lengths, seed=seeds)
def test_boxes_equal_torchvision_and_loops(n, h, w, seed):
    masks = random_masks(n, h, w, seed)
    masks[:, h - 1, 0] = True  # torchvision takes no empty mask
    boxes = masks_to_boxes(masks)
    inclusive = torchvision_boxes(masks)  # its right and lower ends are pixel indices
    assert torch.equal(boxes, inclusive + torch.tensor([0.0, 0.0, 1.0, 1.0]))
    for mask, box in zip(masks, boxes.tolist()):
        rows, columns = zip(*mask.nonzero().tolist())
        assert box == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def test_boxes_of_no_mask_and_of_an_empty_one():
    assert masks_to_boxes(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4)
    assert masks_to_boxes(torch.zeros(2, 4, 5, dtype=torch.bool)).tolist() == [[0.0] * 4] * 2
    assert masks_to_boxes(torch.zeros(1, 4, 5, dtype=torch.bool)).dtype == torch.float32


# The images -----------------------------------------------------------------------


def grown(masks, steps=1):
    """Masks with a rim of `steps` pixels, (N, H, W)."""
    size = 2 * steps + 1
    return F.max_pool2d(masks[:, None].float(), size, 1, steps)[:, 0].bool()


def shrunk(masks, steps=1):
    """Masks without such a rim; an edge may also run along the border of the image."""
    around = F.pad(masks, [steps] * 4)
    return ~grown(~around, steps)[:, steps:-steps, steps:-steps]


@given(seed=seeds, crowded=st.sampled_from([0.0, 1.0]), least=st.sampled_from([0.1, 0.5, 1.0]))
def test_targets_agree_with_themselves(seed, crowded, least):
    side = 14
    generator = seeded(seed)
    for image, target in shapes(
        2, generator, 64, (0, 5), (side, side), crowded=crowded, min_visible=least
    ):
        boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
        n = len(labels)
        assert boxes.shape == (n, 4) and labels.shape == (n,) and masks.shape == (n, 64, 64)
        assert (boxes.dtype, labels.dtype, masks.dtype) == (
            torch.float32,
            torch.int64,
            torch.bool,
        )
        assert image.shape == (3, 64, 64) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
        assert torch.equal((image * 255).round() / 255, image)
        assert torch.equal(boxes, masks_to_boxes(masks))
        assert masks.sum(0).max() <= 1
        area = masks.sum((1, 2))
        assert (area >= least * side**2).all() and (area > 0).all()
        assert (area <= 1.1 * side**2).all()
        assert ((labels >= 0) & (labels < 4)).all()


@given(seed=seeds)
def test_the_image_shows_the_masks_and_nothing_else(seed):
    """Without noise: one colour within a mask; far from all masks, only the soft background."""
    (image, target), *_ = shapes(1, seeded(seed), 96, (2, 6), (16, 40), empty=0, noise=0)
    image, masks = (255 * image).round(), target["masks"]
    ground = ~grown(masks, 3).any(0)  # smooth edges reach out farthest at sharp corners
    assert ground.any()
    for mask in shrunk(masks, 3):
        if mask.any():
            colors = image[:, mask]  # (3, pixels)
            assert (colors == colors[:, :1]).all()
            far = (colors[:, :1] - image[:, ground]).abs()
            assert (far >= 64 - 41).all()
    for axis in (1, 2):
        step = image.diff(dim=axis).abs().amax(0)
        pairs = ground.narrow(axis - 1, 0, 95) & ground.narrow(axis - 1, 1, 95)
        assert step[pairs].max() <= 80 / 24 + 1  # knots are 24 pixels apart


def test_labels_name_what_is_drawn():
    """Told apart by how far the mask reaches, and by its moment of inertia, from the centroid."""
    side, size = 30, 120
    seen = set()
    for _, target in shapes(80, seeded(), size, (1, 1), (side, side), empty=0, min_visible=0.99):
        for mask, label in zip(target["masks"], target["labels"]):
            place = mask.nonzero().double()
            away = (place - place.mean(0)).square().sum(1)
            reach = float(away.max()) ** 0.5 / side
            inertia = float(away.sum()) / side**4
            if reach > 0.8:
                name = "triangle"
            elif reach < 0.63:
                name = "disc"
            else:
                name = "square" if inertia < 0.18 else "cross"
            assert name == CLASSES[label], (reach, inertia)
            seen.add(name)
            assert abs(len(place) - side**2) < 40
    assert seen == set(CLASSES)


def test_shapes_in_the_middle_are_symmetric(monkeypatch):
    """Every uniform number 0.5: a shape of side 20, not turned, in the middle of the image."""

    def half(*shape, generator, dtype):
        return torch.full([*shape], 0.5, dtype=dtype)

    monkeypatch.setattr(torch, "rand", half)
    seen = {}
    for _, target in shapes(20, seeded(), 64, (1, 1), (10, 30)):
        for mask, label, box in zip(target["masks"], target["labels"], target["boxes"]):
            seen[CLASSES[label]] = box.tolist()
            assert torch.equal(mask, mask.flip(1))
            if CLASSES[label] != "triangle":
                assert torch.equal(mask, mask.flip(0)) and torch.equal(mask, mask.T)
    assert seen["square"] == [22.0, 22.0, 42.0, 42.0]
    assert seen["disc"] == [21.0, 21.0, 43.0, 43.0]  # radius 11.28
    assert seen["cross"] == [19.0, 19.0, 45.0, 45.0]  # reaches 13.42
    assert seen["triangle"][1] == 23.0  # its edge lies 8.77 above the centre


def test_shapes_are_turned_every_way():
    found = shapes(400, seeded(), 64, (1, 1), (20, 20), empty=0, min_visible=0.9)
    angles, widths = [], []
    for _, target in found:
        for mask, label, box in zip(target["masks"], target["labels"], target["boxes"]):
            place = mask.nonzero().double()
            away = place - place.mean(0)
            if CLASSES[label] == "triangle":  # the direction of a corner, modulo 120 degrees
                y, x = away[away.square().sum(1).argmax()].tolist()
                angles.append(math.degrees(math.atan2(y, x)) % 120)
            if CLASSES[label] == "square":
                widths.append(float(box[2] - box[0]))
    counts = torch.tensor(angles).histc(6, 0, 120)
    assert counts.min() >= len(angles) / 6 / 2
    assert min(widths) <= 21 and max(widths) >= 27  # from 20 to 20 √2


def test_shapes_lie_everywhere_and_may_be_cut_off():
    side, size = 20, 64
    boxes = torch.cat(
        [
            target["boxes"][target["labels"] == 0]
            for _, target in shapes(
                600, seeded(), size, (1, 1), (side, side), empty=0, min_visible=0.01
            )
        ]
    )
    radius = side / math.pi**0.5
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert sizes.min() >= side / 4 + radius - 1  # the centre keeps a quarter of a side away
    assert sizes.min() <= side / 4 + radius + 1
    for axis in range(2):
        low, high = boxes[:, axis], boxes[:, axis + 2]
        assert (low == 0).float().mean() > 0.05 and (high == size).float().mean() > 0.05
        inner = ((low + high) / 2)[(low > 0) & (high < size)]
        assert inner.histc(4, radius, size - radius).min() > len(inner) / 8


def test_no_images():
    assert shapes(0, seeded()) == []


def test_how_often_empty_and_how_crowded():
    counts = torch.tensor([len(t["labels"]) for _, t in shapes(400, seeded(), 48, sides=(6, 9))])
    assert abs((counts == 0).float().mean() - 0.05) < 0.03
    assert counts.max() == 6 and (counts == 1).any()
    (_, target), *_ = shapes(1, seeded(), 48, sides=(6, 9), empty=1, crowded=1)
    assert target["boxes"].shape == (0, 4) and target["masks"].shape == (0, 48, 48)

    half = shapes(200, seeded(), 96, (1, 2), (6, 14), empty=0, crowded=0.5, min_visible=0.9)
    many = [t["boxes"] for _, t in half if len(t["labels"]) > 2]
    assert 60 < len(many) < 120  # of about 100, those of which more than two are seen
    for boxes in many:
        spread = boxes[:, 2:].amax(0) - boxes[:, :2].amin(0)
        assert (spread <= 48 + 9).all()  # half of the image, and what sticks out
        assert (boxes[:, 2:] - boxes[:, :2]).max() <= 0.88 * 2 * 26 / 3 + 1
    corners = torch.stack([b[:, :2].amin(0) for b in many])
    assert (corners.amax(0) > 40).all() and (corners.amin(0) < 10).all()


def test_what_a_detector_can_and_cannot_learn_from():
    """Classes are balanced; neither colour nor size tells the class; small and medium occur."""
    found = shapes(400, seeded(7))
    labels = torch.cat([t["labels"] for _, t in found])
    areas = torch.cat([t["masks"].sum((1, 2)) for _, t in found]).double()
    colors = torch.cat(
        [
            torch.stack([im[:, m].mean(1) for m in t["masks"]])
            if len(t["masks"])
            else torch.zeros(0, 3)
            for im, t in found
        ]
    ).double()
    share = labels.bincount(minlength=4) / len(labels)
    assert (share - 0.25).abs().max() < 0.04
    for value in (areas, *colors.T):
        for label in range(4):
            part = value[labels == label]
            error = value.std() / len(part) ** 0.5
            assert (part.mean() - value.mean()).abs() < 4 * error
    small = (areas < 32**2).double().mean()
    assert 0.6 < small < 0.9 and areas.max() < 96**2 and areas.min() < 12**2
    assert (areas > 40**2).any()
    assert 2.5 < len(labels) / 400 < 3.5


# Randomness -----------------------------------------------------------------------


def test_the_first_images_do_not_depend_on_how_many_follow():
    options = dict(size=32, sides=(5, 12), crowded=0.3)
    few = shapes(3, seeded(1), **options)
    generator = seeded(1)
    more = shapes(2, generator, **options) + shapes(3, generator, **options)
    for (image, target), (other, same) in zip(few, more):
        assert torch.equal(image, other)
        assert all(torch.equal(target[key], same[key]) for key in target)
    assert not torch.equal(more[0][0], more[1][0])


def test_the_generator_is_the_only_source():
    before = torch.get_rng_state()
    first = shapes(2, seeded(5), 32, sides=(5, 12))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    again = shapes(2, seeded(5), 32, sides=(5, 12))
    torch.set_default_dtype(default)
    for (image, _), (other, _) in zip(first, again):
        assert torch.equal(image, other) and other.dtype == torch.float32


def test_the_images_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for image, target in shapes(8, seeded(2026), crowded=0.25):
        digest.update((image * 255).round().byte().numpy().tobytes())
        digest.update(target["masks"].numpy().tobytes() + target["labels"].numpy().tobytes())
    assert digest.hexdigest()[:16] == "b612cbbce2ae246d"


def test_noise_is_bounded_and_centred():
    options = dict(size=40, sides=(8, 20))
    (plain, target), *_ = shapes(1, seeded(), **options, noise=0)
    (noisy, same), *_ = shapes(1, seeded(), **options, noise=5)
    assert torch.equal(target["masks"], same["masks"])
    change = (255 * (noisy - plain)).round()[(plain > 6 / 255) & (plain < 249 / 255)]
    assert change.min() == -5 and change.max() == 5 and change.mean().abs() < 0.3


# COCO format ----------------------------------------------------------------------


@given(h=lengths, w=lengths, seed=seeds, fill=st.sampled_from([None, False, True]))
def test_run_lengths_equal_loops_and_pycocotools(h, w, seed, fill):
    mask = random_masks(1, h, w, seed)[0]
    if fill is not None:
        mask = torch.full_like(mask, fill)
    rle = mask_to_rle(mask)
    pixels = [bool(mask[i, j]) for j in range(w) for i in range(h)]
    runs = [(value, len(list(group))) for value, group in itertools.groupby(pixels)]
    counts = [length for _, length in runs]
    assert rle == {"size": [h, w], "counts": [0, *counts] if runs[0][0] else counts}
    assert all(type(n) is int for n in rle["size"] + rle["counts"])

    packed = coco_mask.frPyObjects(rle, h, w)
    array = np.asfortranarray(mask.numpy().astype(np.uint8))
    assert packed["counts"] == coco_mask.encode(array)["counts"]
    assert (coco_mask.decode(packed) == array).all()
    assert torch.equal(rle_to_mask(rle), mask)


def test_the_examples_of_pycocotools():
    """The two rows in the comment at the head of its mask.py."""
    for row, counts in [([0, 0, 1, 1, 1, 0, 1], [2, 3, 1, 1]), ([1] * 6 + [0], [0, 6, 1])]:
        mask = torch.tensor(row, dtype=torch.bool)[:, None]
        assert mask_to_rle(mask)["counts"] == counts


def read(coco):
    """As pycocotools reads it from a file."""
    index = COCO()
    index.dataset = json.loads(json.dumps(coco))
    index.createIndex()
    return index


def test_pycocotools_reads_the_export(capsys):
    targets = [t for _, t in shapes(12, seeded(3), 64, sides=(8, 30), empty=0.3, crowded=0.3)]
    assert any(len(t["labels"]) == 0 for t in targets)
    index = read(to_coco(targets, 64))
    assert index.getImgIds() == list(range(1, 13))
    assert [c["name"] for c in index.loadCats(index.getCatIds())] == list(CLASSES)
    for image_id, target in enumerate(targets, 1):
        annotations = index.loadAnns(index.getAnnIds(imgIds=[image_id]))
        assert len(annotations) == len(target["labels"])
        assert index.imgs[image_id] == {"id": image_id, "height": 64, "width": 64}
        for i, annotation in enumerate(annotations):
            assert (index.annToMask(annotation) == target["masks"][i].numpy()).all()
            packed = index.annToRLE(annotation)
            assert annotation["area"] == coco_mask.area(packed)
            assert annotation["bbox"] == coco_mask.toBbox(packed).tolist()
            x, y, w, h = annotation["bbox"]
            assert [x, y, x + w, y + h] == target["boxes"][i].tolist()
            assert index.cats[annotation["category_id"]]["name"] == CLASSES[target["labels"][i]]
            assert annotation["iscrowd"] == 0
    ids = [annotation["id"] for annotation in index.dataset["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_truth_as_detections_has_ap_one(kind, capsys):
    """Also for the very first annotation, which an id of 0 would count as missed."""
    targets = [t for _, t in shapes(3, seeded(1), objects=(1, 2), empty=0)]
    targets[2]["crowd"] = torch.ones(len(targets[2]["labels"]), dtype=torch.bool)
    coco = to_coco(targets, 96)
    assert [a["iscrowd"] for a in coco["annotations"]] == [
        int(image == 2) for image, t in enumerate(targets) for _ in t["labels"]
    ]
    index = read(coco)
    keys = ("image_id", "category_id", "bbox" if kind == "bbox" else "segmentation")
    found = [
        {key: a[key] for key in keys} | {"score": 0.5}
        for a in coco["annotations"]
        if not a["iscrowd"]
    ]
    for detection in found:
        if kind == "segm":
            detection["segmentation"] = coco_mask.frPyObjects(detection["segmentation"], 96, 96)
    evaluation = COCOeval(index, index.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1 and evaluation.stats[8] == 1


def test_boxes_without_masks():
    boxes = torch.tensor([[1.5, 2.0, 4.0, 6.5], [0.0, 0.0, 300.0, 300.0]], dtype=torch.float16)
    target = dict(boxes=boxes.requires_grad_(), labels=torch.tensor([1, 0]))
    coco = to_coco([target, target], (300, 400), ("a", "b"))
    assert coco["images"][1] == {"id": 2, "height": 300, "width": 400}
    first, second, third, _ = coco["annotations"]
    assert first == dict(
        id=1, image_id=1, category_id=2, bbox=[1.5, 2.0, 2.5, 4.5], area=11.25, iscrowd=0
    )
    assert second["area"] == 90000.0 and third["image_id"] == 2 and third["id"] == 3
    assert coco["categories"] == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    assert to_coco([], 8)["annotations"] == [] and to_coco([], 8)["images"] == []


def test_masks_that_are_not_contiguous():
    masks = random_masks(3, 6, 5, 0)
    other = masks.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not other.is_contiguous()
    assert torch.equal(masks_to_boxes(other), masks_to_boxes(masks))
    assert [mask_to_rle(m) for m in other] == [mask_to_rle(m) for m in masks]


# Bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(count=-1), "got -1, 12 and 64"),
        (dict(size=0), "got 1, 12 and 0"),
        (dict(noise=-3), "got 1, -3 and 64"),
        (dict(objects=(4, 2)), r"objects must be \(fewest, most\), got \(4, 2\)"),
        (dict(objects=(-1, 2)), r"got \(-1, 2\)"),
        (dict(sides=(9, 8)), r"from 1 to 64, got \(9, 8\)"),
        (dict(sides=(0, 8)), r"got \(0, 8\)"),
        (dict(sides=(9, 65)), r"got \(9, 65\)"),
        (dict(empty=1.5), "empty must be a share, got 1.5"),
        (dict(crowded=-0.1), "crowded must be a share, got -0.1"),
        (dict(crowded=math.nan), "crowded must be a share, got nan"),
        (dict(min_visible=0.0), "min_visible must be a share above 0, got 0.0"),
    ],
    ids=str,
)
def test_bad_options(change, message):
    good = dict(count=1, generator=seeded(), size=64)
    with pytest.raises(ValueError, match=message):
        shapes(**(good | change))


def test_a_generator_of_another_device():
    class Elsewhere:
        device = torch.device("cuda", 0)

    with pytest.raises(ValueError, match="of the CPU, .* got cuda:0"):
        shapes(1, Elsewhere())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(boxes=torch.tensor([[3.0, 0.0, 1.0, 2.0]])), r"x1 <= x2 .* got \[3.0, 0.0"),
        (dict(boxes=torch.tensor([[0.0, 0.0, math.nan, 2.0]])), "nan"),
        (dict(boxes=torch.tensor([[0, 0, 1, 2]])), "got torch.int64"),
        (dict(boxes=torch.zeros(1, 5)), r"got \(1, 5\)"),
        (dict(boxes=torch.zeros(4)), r"got \(4,\) and \(1,\)"),
        (dict(boxes=torch.zeros(2, 4)), r"got \(2, 4\) and \(1,\)"),
        (dict(labels=torch.tensor([4])), r"from 0 to 3, got tensor\(\[4\]\)"),
        (dict(labels=torch.tensor([-1])), r"got tensor\(\[-1\]\)"),
        (dict(labels=torch.tensor([1.0])), r"int64 from 0 to 3, got tensor\(\[1.\]\)"),
        (dict(masks=torch.ones(1, 8, 9)), r"masks must be bool .* got torch.float32 \(1, 8, 9\)"),
        (dict(masks=torch.ones(1, 9, 8, dtype=torch.bool)), r"got torch.bool \(1, 9, 8\)"),
        (dict(masks=torch.ones(2, 8, 9, dtype=torch.bool)), r"got torch.bool \(2, 8, 9\)"),
        (dict(crowd=torch.tensor([1])), r"crowd must be bool \(1,\), got torch.int64 \(1,\)"),
    ],
    ids=str,
)
def test_bad_targets(change, message):
    good = dict(boxes=torch.zeros(1, 4), labels=torch.tensor([0]))
    with pytest.raises(ValueError, match=message):
        to_coco([good, good | change], (8, 9))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.ones(2, 3, 4), r"torch.float32 \(2, 3, 4\)"),
        (torch.ones(3, 4, dtype=torch.bool), r"torch.bool \(3, 4\)"),
        (torch.ones(2, 0, 4, dtype=torch.bool), r"torch.bool \(2, 0, 4\)"),
    ],
    ids=["dtype", "axes", "no pixels"],
)
def test_bad_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        masks_to_boxes(masks)
    with pytest.raises(ValueError, match="masks must be bool"):
        mask_to_rle(masks[0])


@pytest.mark.parametrize("counts", [[3, 4], [7], [-1, 7]], ids=str)
def test_bad_run_lengths(counts):
    with pytest.raises(ValueError, match=r"with sum 6, got \["):
        rle_to_mask({"size": [2, 3], "counts": counts})
