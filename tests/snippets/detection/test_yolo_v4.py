"""YOLO v4: CSPDarknet53, Mish, DropBlock, several priors for a truth, mosaic.

Yardstick: torch.nn.functional.mish; plain loops.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from snippets.detection.iou import box_iou, iou_loss
from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v2 import Places, assign_priors, decode_cells, places
from snippets.detection.yolo_v3 import COCO_PRIORS
from snippets.detection.yolo_v4 import (
    CSPDarknet,
    CSPStage,
    DropBlock,
    Mish,
    YOLOv4,
    decode_v4,
    fitting_priors,
    mosaic,
    scaled_sigmoid,
    smooth_labels,
    v4_loss,
)
from tests.snippets.detection.yolo_training import batch, seeded, trained, without

F64 = torch.float64
seeds = st.integers(0, 10**6)


def random_boxes(n, seed, H=10, W=14):
    g = seeded(seed)
    scale = torch.tensor([W, H]).double()
    low = torch.rand(n, 2, generator=g, dtype=F64) * scale * 0.7
    return torch.cat([low, low + 0.5 + torch.rand(n, 2, generator=g, dtype=F64) * scale * 0.25], 1)


# Published sizes, parity ----------------------------------------------------------------


def test_cspdarknet53():
    """Table 1: 27.6 M parameters with the classifier for ImageNet, 29 convolutions of 3x3 (3.1)."""
    with torch.device("meta"):
        model = CSPDarknet()
        maps = model(torch.rand(1, 3, 512, 512))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 72 and sum(c.kernel_size == (3, 3) for c in convs) == 29
    with_classifier = sum(p.numel() for p in model.parameters()) + 1024 * 1000 + 1000
    assert round(with_classifier / 1e6, 1) == 27.6
    assert {s: tuple(x.shape[1:]) for s, x in maps.items()} == {
        8: (256, 64, 64),
        16: (512, 32, 32),
        32: (1024, 16, 16),
    }


def test_first_stage_is_that_of_the_official_configuration():
    """yolov4.cfg: 64 3x3 /2, 64, 64, 32, 64 3x3, 64, 64 on 128 channels."""
    shapes = [
        (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0])
        for c in CSPStage(32, 64, 1, split=False).modules()
        if isinstance(c, nn.Conv2d)
    ]
    expected = [(32, 64, 3, 2), (64, 64, 1, 1), (64, 64, 1, 1), (64, 32, 1, 1), (32, 64, 3, 1)]
    assert shapes == [*expected, (64, 64, 1, 1), (128, 64, 1, 1)]


def test_stage_by_hand():
    stage = CSPStage(4, 8, 2).eval()
    x = torch.randn(1, 4, 6, 7, generator=seeded())
    down = stage.down(x)
    y = stage.through(down)
    y = y + stage.blocks[0](y)
    y = y + stage.blocks[1](y)
    expected = stage.join(torch.cat([stage.after(y), stage.around(down)], 1))
    assert_close(stage(x), expected)
    assert stage(x).shape == (1, 8, 3, 4)


def test_mish_equals_pytorch_with_gradient():
    x = torch.linspace(-30, 30, 101, dtype=F64, requires_grad=True)
    assert_close(Mish()(x), F.mish(x))
    ours, theirs = (torch.autograd.grad(f(x).sum(), x)[0] for f in (Mish(), F.mish))
    assert_close(ours, theirs)


@given(n=st.integers(0, 5), threshold=st.sampled_from([0.0, 0.213, 0.6, 1.0]), seed=seeds)
def test_fitting_priors_by_loops(n, threshold, seed):
    boxes = random_boxes(n, seed)
    priors = 0.5 + 4 * torch.rand(4, 2, generator=seeded(seed), dtype=F64)
    expected = []
    for x1, y1, x2, y2 in boxes.tolist():
        iou = []
        for p, q in priors.tolist():
            shared = min(x2 - x1, p) * min(y2 - y1, q)
            iou.append(shared / ((x2 - x1) * (y2 - y1) + p * q - shared))
        expected.append([v > threshold or v == max(iou) for v in iou])
    assert fitting_priors(boxes, priors, threshold).tolist() == expected


def mosaic_by_definition(images, targets, center, min_visible):
    (x, y), (_, C, H, W) = center, images.shape
    out = torch.zeros(C, H, W, dtype=images.dtype)
    boxes, labels = [], []
    for i in range(H):
        for j in range(W):
            out[:, i, j] = images[2 * (i >= y) + (j >= x), :, i, j]
    for k, target in enumerate(targets):
        frame = [
            0 if k % 2 == 0 else x,
            0 if k < 2 else y,
            x if k % 2 == 0 else W,
            y if k < 2 else H,
        ]
        for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist()):
            cut = [max(x1, frame[0]), max(y1, frame[1]), min(x2, frame[2]), min(y2, frame[3])]
            w, h = cut[2] - cut[0], cut[3] - cut[1]
            if w > 0 and h > 0 and w * h / ((x2 - x1) * (y2 - y1)) >= min_visible:
                boxes.append(cut)
                labels.append(label)
    return out, torch.tensor(boxes, dtype=F64).reshape(-1, 4), torch.tensor(labels).long()


@given(
    counts=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    center=st.tuples(st.integers(0, 14), st.integers(0, 10)),
    min_visible=st.sampled_from([0.01, 0.1, 0.9]),
    seed=seeds,
)
@settings(max_examples=30)
def test_mosaic_equals_the_definition(counts, center, min_visible, seed):
    images = torch.rand(4, 2, 10, 14, generator=seeded(seed))
    targets = [
        dict(boxes=random_boxes(n, seed + k), labels=torch.randint(9, (n,), generator=seeded(seed)))
        for k, n in enumerate(counts)
    ]
    before = images.clone()
    image, target = mosaic(images, targets, center, min_visible)
    expected = mosaic_by_definition(images, targets, center, min_visible)
    assert torch.equal(image, expected[0]) and torch.equal(images, before)
    assert_close(target["boxes"], expected[1])
    assert torch.equal(target["labels"], expected[2])


def test_the_numbers_in_the_official_weights():
    """yolov4.weights has 257717640 bytes: a header of 20, float32 parameters and statistics."""
    with torch.device("meta"):
        model = YOLOv4(80, COCO_PRIORS, (32, 64, 128, 256, 512, 1024), (1, 2, 8, 8, 4))
        maps = model(torch.rand(1, 3, 608, 608))
    assert {s: tuple(x.shape[1:]) for s, x in maps.items()} == {
        s: (255, n, n) for s, n in ((8, 76), (16, 38), (32, 19))
    }
    parameters = sum(p.numel() for p in model.parameters())
    statistics = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    assert parameters == 64363101
    assert 20 + 4 * (parameters + statistics) == 257717640


MAPS = {8: (4, 5), 16: (2, 3), 32: (1, 2)}
PRIORS = {8: ((6, 8), (12, 7)), 16: ((15, 16),), 32: ((30, 20),)}
N = 2 * 20 + 6 + 2


def random_case(counts, seed, K=3):
    g = seeded(seed)
    output = torch.randn(len(counts), N, 5 + K, generator=g, dtype=F64)
    targets = []
    for n in counts:
        low = torch.rand(n, 2, generator=g, dtype=F64) * torch.tensor([28.0, 20.0])
        boxes = torch.cat([low, low + 2 + torch.rand(n, 2, generator=g, dtype=F64) * 11], 1)
        targets.append(dict(boxes=boxes, labels=torch.randint(K, (n,), generator=g)))
    return output, targets


def test_decoding_number_by_number():
    output, _ = random_case([0], 0)
    where = places(MAPS, PRIORS)
    boxes = decode_v4(output[..., :4], where)
    for n in (0, 7, 39, 41, 46, 47):
        stride = int(where.strides[n])
        scale = {8: 1.2, 16: 1.1, 32: 1.05}[stride]
        t, cell, prior = output[0, n].tolist(), where.cells[n].tolist(), where.priors[n].tolist()
        x, y = (
            (cell[m] + scale / (1 + math.exp(-t[m])) - (scale - 1) / 2) * stride for m in (0, 1)
        )
        w, h = (prior[m] * math.exp(t[2 + m]) for m in (0, 1))
        assert boxes[0, n].tolist() == pytest.approx(
            [x - w / 2, y - h / 2, x + w / 2, y + h / 2], abs=1e-5
        )
    far = decode_v4(torch.full((1, 1, 4), 99.0), Places(*(x[:1] for x in where)))
    inner = decode_cells(torch.full((1, 1, 4), 99.0), *(x[:1] for x in where))
    assert_close(far - inner, torch.full((1, 1, 4), 0.1 * 8), rtol=0, atol=1e-3)


def loss_by_definition(output, targets, ignore, threshold, epsilon):
    boxes = decode_v4(output[..., :4], Places(*(x.double() for x in places(MAPS, PRIORS))))
    shapes_ = torch.tensor([p for each in PRIORS.values() for p in each], dtype=F64)
    parts = [0, 0, 0]
    for out, box, target in zip(output, boxes, targets):
        truths = target["boxes"]
        fits = fitting_priors(truths, shapes_, threshold)
        owner = assign_priors(truths, MAPS, PRIORS, fits).tolist()
        for n in range(N):
            overlap = box_iou(box[n : n + 1].detach(), truths)[0].tolist()
            if owner[n] < 0:
                if all(v <= ignore for v in overlap):
                    parts[1] = parts[1] + F.softplus(out[n, 4])
                continue
            parts[0] = parts[0] + iou_loss(box[n], truths[owner[n]], "ciou")
            parts[1] = parts[1] + F.softplus(-out[n, 4])
            for k in range(3):
                yes = epsilon / 3 + (1 - epsilon) * (int(target["labels"][owner[n]]) == k)
                z = out[n, 5 + k]
                parts[2] = parts[2] + yes * F.softplus(-z) + (1 - yes) * F.softplus(z)
    return [0 * output.sum() + p / max(len(targets), 1) for p in parts]


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=2),
    options=st.sampled_from([(0.7, 0.213, 0.0), (0.3, 0.6, 0.1)]),
    seed=seeds,
)
@settings(max_examples=12)
def test_loss_equals_the_definition_with_gradients(counts, options, seed):
    output, targets = random_case(counts, seed)
    results = []
    for function in (
        lambda x: v4_loss(x, MAPS, PRIORS, targets, *options),
        lambda x: loss_by_definition(x, targets, *options),
    ):
        leaf = output.clone().requires_grad_()
        parts = function(leaf)
        (grad,) = torch.autograd.grad(sum((i + 1) * p for i, p in enumerate(parts)), leaf)
        results.append((*(p.detach() for p in parts), grad))
    tight, loose = dict(rtol=0, atol=1e-10), dict(rtol=1e-6, atol=1e-6)  # labels are float32
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, **(loose if options[2] else tight))


def test_several_priors_may_learn_one_truth():
    boxes = torch.tensor([[9.0, 9.0, 18.0, 17.0]])
    fits = torch.tensor([[True, True, True, False]])
    owner = assign_priors(boxes, MAPS, PRIORS, fits)
    cell = 1 * 5 + 1
    assert (owner >= 0).nonzero()[:, 0].tolist() == [2 * cell, 2 * cell + 1, 40]


# DropBlock ------------------------------------------------------------------------------


def test_dropblock_drops_whole_squares_about_as_often_as_asked():
    layer = DropBlock(0.1, 5, seeded())
    x = torch.ones(200, 4, 20, 22)
    y = layer(x)
    dropped = y == 0
    assert 0.075 < float(dropped.float().mean()) < 0.1  # overlaps cost a little
    assert_close(y.sum(), x.sum(), rtol=1e-5, atol=0)  # scaled back
    windows = F.unfold(dropped[:50].flatten(0, 1)[:, None].double(), 5).amin(
        1
    )  # all-dropped squares
    covered = F.fold(windows[:, None].expand(-1, 25, -1), (20, 22), 5) > 0
    assert torch.equal(covered[:, 0], dropped[:50].flatten(0, 1))


def test_dropblock_of_one_cell_is_dropout_and_eval_is_the_identity():
    x = torch.rand(50, 8, 9, 9, generator=seeded())
    dropped = (DropBlock(0.25, 1, seeded(1))(x) == 0).float().mean()
    assert 0.23 < float(dropped) < 0.27
    assert DropBlock(0.5, 3).eval()(x) is x and DropBlock(0.0, 3)(x) is x
    small = torch.ones(3, 3, 7, 7)
    assert DropBlock(0.3, 7, seeded())(small).shape == small.shape
    first, again = (DropBlock(0.2, 3, seeded(2))(x) for _ in range(2))
    assert torch.equal(first, again)


# Invariants, gradient, edges -----------------------------------------------------------------


def test_scaled_sigmoid_reaches_the_border():
    t = torch.linspace(-9, 9, 50, dtype=F64, requires_grad=True)
    assert_close(scaled_sigmoid(t, 1.0), t.sigmoid())
    for i in range(0, 50, 7):
        p = 1 / (1 + math.exp(-float(t[i].detach())))
        assert float(scaled_sigmoid(t, 1.2)[i].detach()) == pytest.approx(1.2 * p - 0.1)
    assert scaled_sigmoid(t, 1.05).min() < 0 and scaled_sigmoid(t, 1.05).max() > 1
    assert torch.autograd.gradcheck(lambda x: scaled_sigmoid(x, 1.1), t)


@given(classes=st.integers(1, 6), epsilon=st.sampled_from([0.0, 0.1, 1.0]), seed=seeds)
def test_smooth_labels_are_a_distribution(classes, epsilon, seed):
    labels = torch.randint(classes, (5,), generator=seeded(seed))
    smooth = smooth_labels(labels, classes, epsilon)
    assert_close(smooth.sum(1), torch.ones(5))
    own = smooth.gather(1, labels[:, None])[:, 0]
    assert_close(own, torch.full((5,), 1 - epsilon + epsilon / classes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    x = torch.randn(2, 3, 9, 9, generator=seeded()).to(dtype)
    assert Mish()(x).dtype == DropBlock(0.2, 3, seeded())(x).dtype == dtype
    assert scaled_sigmoid(x, 1.2).dtype == dtype
    assert_close(Mish()(x).float(), F.mish(x.float()), rtol=0.02, atol=0.02)


def test_empty_and_strided():
    assert DropBlock(0.2, 3)(torch.zeros(0, 3, 9, 9)).shape == (0, 3, 9, 9)
    x = torch.randn(2, 9, 9, 3, generator=seeded()).permute(0, 3, 1, 2)
    ours, same = DropBlock(0.2, 3, seeded())(x), DropBlock(0.2, 3, seeded())(x.contiguous())
    assert torch.equal(ours, same)
    assert fitting_priors(torch.zeros(0, 4), torch.ones(3, 2)).shape == (0, 3)
    assert smooth_labels(torch.zeros(0).long(), 3).shape == (0, 3)


NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_objects_only_objectness_counts():
    output, _ = random_case([0, 0], 0)
    boxes, objectness, classes = v4_loss(output, MAPS, PRIORS, [NOTHING] * 2)
    assert boxes == classes == 0 and objectness > 0
    assert [float(x) for x in v4_loss(output[:0], MAPS, PRIORS, [])] == [0, 0, 0]
    output, targets = random_case([2, 0], 1)  # one image without
    assert all(x > 0 and x.isfinite() for x in v4_loss(output, MAPS, PRIORS, targets))


def test_everything_is_made_on_the_device_of_the_input_and_autocast_changes_little():
    output, targets = random_case([3, 0], 2)
    expected = v4_loss(output, MAPS, PRIORS, targets)
    with torch.device("meta"):  # what forgets the device fails here
        assert_close(v4_loss(output, MAPS, PRIORS, targets), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = v4_loss(output.float(), MAPS, PRIORS, targets)
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-4)


# The detector -------------------------------------------------------------------------


def test_the_detector_decodes_what_it_is_trained_with():
    model = YOLOv4(generator=seeded())
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.loss(images, targets)
    loss.backward()
    output, sizes = model.predict(images)
    assert_close(loss, sum(v4_loss(output, sizes, model.priors, targets)))
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    output, sizes = model.eval().predict(images[:1])
    scores = output[0, :, 4:5].sigmoid() * output[0, :, 5:].sigmoid()
    n, k = divmod(int(scores.argmax()), 4)
    (found,) = model.detect(images[:1], min_score=0, most=1)
    box = decode_v4(output[..., :4], places(sizes, model.priors))[0, n]
    assert found["labels"].tolist() == [k]
    assert_close(found["scores"][0], scores.max().detach())
    assert_close(found["boxes"][0], box.clamp(0, 96).detach())
    for height, width in ((64, 100), (33, 40)):
        maps = model(torch.zeros(1, 3, height, width))
        cells = [(math.ceil(height / s), math.ceil(width / s)) for s in (8, 16, 32)]
        assert [tuple(x.shape[1:]) for x in maps.values()] == [(27, *size) for size in cells]
    a, b, c = (YOLOv4(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def learnt(broken, monkeypatch, seed=0):
    if broken == "places":  # three rows away from those that should learn
        monkeypatch.setitem(
            v4_loss.__globals__, "assign_priors", lambda *x: assign_priors(*x).roll(36)
        )
    priors = {8: ((13, 13), (99, 99)), 16: ((200, 200),), 32: ((400, 400),)}
    model = YOLOv4(2, priors, (8, 16, 24, 32, 32, 32), (0, 0, 0, 0, 0), generator=seeded(seed))
    part = 0 if broken == "boxes" else None
    return trained(model, without(part), steps=100, rate=1e-2, seed=seed)


@pytest.mark.parametrize("broken", [None, "places", "boxes"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(broken, monkeypatch):
    result = learnt(broken, monkeypatch)
    assert (result["AP50"] > 0.25) == (broken is None), result


# Bad input --------------------------------------------------------------------------

IMAGES = torch.zeros(4, 1, 6, 8)

OUT = torch.zeros(1, N, 8)


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), output=OUT, many=1):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return v4_loss(output, MAPS, PRIORS, [target] * many)


def mixing(boxes=((0.0, 0.0, 5.0, 5.0),), images=IMAGES, center=(2, 2), many=4, **options):
    target = dict(boxes=torch.tensor(boxes), labels=torch.zeros(len(boxes), dtype=torch.int64))
    return mosaic(images, [target] * many, center, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losing(output=OUT[:, 1:]), r"5 \+ K\), got \(1, 47, 8\)"),
        (lambda: losing(output=OUT * math.nan), r"must be finite .* got \[nan"),
        (lambda: losing(many=2), r"one an image, 1, got 2"),
        (lambda: losing(labels=(3,)), r"int64 from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: losing(boxes=((0.0, 0.0, -2.0, 5.0),)), r"got \[0.0, 0.0, -2.0, 5.0\]"),
        (lambda: losing(boxes=((0.0, 0.0, 2.0, math.nan),)), r"got \[0.0, 0.0, 2.0, nan\]"),
        (lambda: losing(boxes=((1.0, 0.0, 1.0, 5.0),)), r"positive size, got \[1.0, 0.0, 1.0"),
        (lambda: YOLOv4(1, {8: ((1, 1),)}), r"strides 8, 16 and 32, got \[8\]"),
        (lambda: smooth_labels(torch.zeros(0).long(), 0), r"labels must be int64 from 0 to -1"),
        (lambda: mixing(images=IMAGES[:3]), r"\(4, C, H, W\), got \(3, 1, 6, 8\)"),
        (lambda: mixing(many=3), r"one an image, 4, got 3"),
        (lambda: mixing(center=(9, 0)), r"image of 6 x 8, got \(9, 0\)"),
        (lambda: mixing(center=(0, -1)), r"got \(0, -1\)"),
        (lambda: mixing(min_visible=0), r"share above 0, got 0"),
        (lambda: mixing(boxes=((0.0, 0.0, 0.0, 5.0),)), r"positive size, got \[0.0, 0.0, 0.0"),
        (lambda: mixing(boxes=((0.0, 0.0, math.nan, 5.0),)), r"got \[0.0, 0.0, nan, 5.0\]"),
        (lambda: DropBlock(1.0), r"in \[0, 1\), size odd, got 1.0 and 7"),
        (lambda: DropBlock(0.1, 4), r"got 0.1 and 4"),
        (lambda: DropBlock(0.1)(torch.zeros(3, 9, 9)), r"got \(3, 9, 9\)"),
        (lambda: DropBlock(0.1)(torch.zeros(1, 1, 6, 9)), r"6 x 9 has no square of size 7"),
        (lambda: scaled_sigmoid(torch.zeros(1), 0.9), r"at least 1, got 0.9"),
        (lambda: fitting_priors(-torch.ones(1, 4) / 0, torch.ones(1, 2)), r"got \[-inf"),
        (lambda: smooth_labels(torch.tensor([3]), 3), r"from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: smooth_labels(torch.tensor([0]), 3, 2.0), r"in \[0, 1\], got 2.0"),
        (lambda: CSPStage(0, 4, 1), r"got 0, 4 and 1"),
        (lambda: CSPDarknet((1, 2)), r"6 widths .* got \(1, 2\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
