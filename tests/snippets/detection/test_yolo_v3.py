"""YOLO v3: three scales, best priors, logistic classes, published sizes; a tiny one learns.

Yardstick: plain loops.
"""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v2 import assign_priors, decode_cells, flatten_maps, places
from snippets.detection.yolo_v3 import COCO_PRIORS, SHAPES_PRIORS, Darknet, YOLOv3, v3_loss
from tests.snippets.detection.yolo_training import batch, seeded, trained, without

yolo_v3 = sys.modules[v3_loss.__module__]
F64 = torch.float64
seeds = st.integers(0, 10**6)
MAPS = {8: (4, 5), 16: (2, 3)}
PRIORS = {8: ((6, 8), (12, 7)), 16: ((15, 16), (30, 20))}
N = 2 * 20 + 2 * 6


def random_boxes(n, seed):
    g = seeded(seed)
    low = torch.rand(n, 2, generator=g, dtype=F64) * torch.tensor([28.0, 20.0])
    return torch.cat([low, low + 2 + torch.rand(n, 2, generator=g, dtype=F64) * 11], 1)


def random_case(counts, seed, K=3):
    g = seeded(seed)
    output = torch.randn(len(counts), N, 5 + K, generator=g, dtype=F64)
    targets = [
        dict(boxes=random_boxes(n, seed + i), labels=torch.randint(K, (n,), generator=g))
        for i, n in enumerate(counts)
    ]
    return output, targets


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


# Published sizes ----------------------------------------------------------------------

LARGE = ((32, 64, 128, 256, 512, 1024), (1, 2, 8, 8, 4))


def test_three_maps_of_255_channels_and_10647_boxes():
    """Section 2.3: N x N x (3 * (4 + 1 + 80)); section 2.3 lists the nine priors."""
    with torch.device("meta"):
        maps = YOLOv3(80, COCO_PRIORS, *LARGE)(torch.rand(2, 3, 416, 416))
    assert {s: tuple(x.shape) for s, x in maps.items()} == {
        s: (2, 3 * (4 + 1 + 80), n, n) for s, n in ((8, 52), (16, 26), (32, 13))
    }
    where = places({8: (52, 52), 16: (26, 26), 32: (13, 13)}, COCO_PRIORS)
    assert len(where.cells) == len(where.priors) == 3 * (52**2 + 26**2 + 13**2) == 10647
    small, medium = ((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119))
    large = ((116, 90), (156, 198), (373, 326))
    assert {8: small, 16: medium, 32: large} == COCO_PRIORS


def test_darknet_53_and_the_numbers_in_the_official_weights():
    """52 convolutions and a linear layer make 53. yolov3.weights has 248007048 bytes: a header of
    20 and float32 of all parameters and running statistics."""
    with torch.device("meta"):
        model = YOLOv3(80, COCO_PRIORS, *LARGE)
        default = Darknet()
    for backbone in (model.backbone, default):
        assert sum(isinstance(m, nn.Conv2d) for m in backbone.modules()) == 52
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 75
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    assert parameters == 61949149
    assert 20 + 4 * (parameters + buffers) == 248007048


def test_darknet_halves_five_times_for_any_size():
    maps = Darknet((4, 4, 4, 6, 8, 10), (0, 1, 0, 1, 1))(torch.zeros(1, 3, 40, 67))
    expected = {8: (6, 5, 9), 16: (8, 3, 5), 32: (10, 2, 3)}
    assert {s: tuple(x.shape[1:]) for s, x in maps.items()} == expected


# Parity -----------------------------------------------------------------------------


def place_index():
    """(stride, prior, row, column) of each prediction, in the order of the code."""
    return [
        (stride, prior, r, c)
        for stride, (h, w) in MAPS.items()
        for r in range(h)
        for c in range(w)
        for prior in PRIORS[stride]
    ]


def assign_by_definition(boxes):
    owner = [-1] * N
    index = {key: i for i, key in enumerate(place_index())}
    for t, (x1, y1, x2, y2) in enumerate(boxes):
        w, h = x2 - x1, y2 - y1
        best = None
        for stride, shapes_ in PRIORS.items():
            for p, q in shapes_:
                shared = min(w, p) * min(h, q)
                iou = shared / (w * h + p * q - shared)
                if best is None or iou > best[0]:
                    best = (iou, stride, (p, q))
        _, stride, prior = best
        rows, columns = MAPS[stride]
        r = min(int((y1 + y2) / 2 / stride), rows - 1)
        c = min(int((x1 + x2) / 2 / stride), columns - 1)
        owner[index[stride, prior, r, c]] = t
    return owner


@given(n=st.integers(0, 8), seed=seeds)
def test_assignment_equals_the_definition(n, seed):
    boxes = random_boxes(n, seed)
    owner = assign_priors(boxes, MAPS, PRIORS)
    assert owner.dtype == torch.int64 and owner.tolist() == assign_by_definition(boxes.tolist())


def loss_by_definition(output, targets, ignore=0.5, size=(32, 40)):
    """Number by number; the gradients are those of Darknet's yolo_layer.c, see below."""
    parts = [0, 0, 0]

    def bce(logit, yes):
        return -(
            yes * nn.functional.logsigmoid(logit) + (1 - yes) * nn.functional.logsigmoid(-logit)
        )

    for out, target in zip(output, targets):
        truths, labels = target["boxes"].tolist(), target["labels"].tolist()
        owner = assign_by_definition(truths)
        for n, (stride, (p, q), r, c) in enumerate(place_index()):
            z = out[n]
            if owner[n] >= 0:
                x1, y1, x2, y2 = truths[owner[n]]
                scale = 2 - (x2 - x1) * (y2 - y1) / (size[0] * size[1])
                fx, fy = (x1 + x2) / 2 / stride - c, (y1 + y2) / 2 / stride - r
                parts[0] = parts[0] + scale * (bce(z[0], fx) + bce(z[1], fy))
                for m, goal in ((2, math.log((x2 - x1) / p)), (3, math.log((y2 - y1) / q))):
                    parts[0] = parts[0] + scale * (z[m] - goal) ** 2 / 2
                parts[1] = parts[1] + bce(z[4], 1)
                for k in range(len(z) - 5):
                    parts[2] = parts[2] + bce(z[5 + k], 1 if labels[owner[n]] == k else 0)
                continue
            v = z.tolist()
            x, y = ((1 / (1 + math.exp(-v[m])) + at) * stride for m, at in ((0, c), (1, r)))
            w, h = p * math.exp(v[2]), q * math.exp(v[3])
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            if all(plain_iou(box, truth) <= ignore for truth in truths):
                parts[1] = parts[1] + bce(z[4], 0)
    zero = 0 * output.sum()
    return [zero + p / max(len(targets), 1) for p in parts]


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=2),
    ignore=st.sampled_from([0.2, 0.5]),
    seed=seeds,
)
@settings(max_examples=15)
def test_loss_equals_the_definition_with_gradients(counts, ignore, seed):
    output, targets = random_case(counts, seed)
    results = []
    for function in (
        lambda x: v3_loss(x, MAPS, PRIORS, targets, ignore),
        lambda x: loss_by_definition(x, targets, ignore),
    ):
        leaf = output.clone().requires_grad_()
        parts = function(leaf)
        (grad,) = torch.autograd.grad(sum((i + 1) * p for i, p in enumerate(parts)), leaf)
        results.append((*(p.detach() for p in parts), grad))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, rtol=0, atol=1e-10)


def test_gradients_are_the_deltas_of_darknet():
    """delta = scale * (goal - sigmoid) for x and y, scale * (goal - t) for w and h, yes - p else;
    Darknet adds deltas to the gradient of the logits as they are."""
    output, targets = random_case([1], 3)
    leaf = output.clone().requires_grad_()
    (grad,) = torch.autograd.grad(sum(v3_loss(leaf, MAPS, PRIORS, targets)), leaf)
    at = assign_by_definition(targets[0]["boxes"].tolist()).index(0)
    stride, prior, r, c = place_index()[at]
    x1, y1, x2, y2 = targets[0]["boxes"][0].tolist()
    scale = 2 - (x2 - x1) * (y2 - y1) / (32 * 40)
    t, p = output[0, at], output[0, at].sigmoid()
    goal = [(x1 + x2) / 2 / stride - c, (y1 + y2) / 2 / stride - r]
    expected = [scale * float(p[m] - goal[m]) for m in (0, 1)]
    expected += [
        scale * float(t[2 + m] - math.log(side / prior[m]))
        for m, side in enumerate((x2 - x1, y2 - y1))
    ]
    yes = [1, *(int(k == int(targets[0]["labels"][0])) for k in range(3))]
    expected += [float(p[4 + m]) - y for m, y in enumerate(yes)]
    assert grad[0, at].tolist() == pytest.approx(expected)


def test_order_of_the_places_is_that_of_the_maps():
    maps = [torch.randn(2, 2 * 8, h, w, generator=seeded(h)) for h, w in MAPS.values()]
    flat, where = flatten_maps(maps, 8), places(MAPS, PRIORS)
    assert flat.shape == (2, N, 8)
    for n, (stride, prior, r, c) in enumerate(place_index()):
        a = PRIORS[stride].index(prior)
        x = maps[list(MAPS).index(stride)]
        assert torch.equal(flat[:, n], x[:, 8 * a : 8 * a + 8, r, c])
        assert where.cells[n].tolist() == [c, r] and where.strides[n] == stride
        assert where.priors[n].tolist() == list(prior)


# Invariants -----------------------------------------------------------------------------


@given(n=st.integers(1, 6), seed=seeds)
def test_each_truth_has_at_most_one_place_and_shared_places_go_to_the_last(n, seed):
    boxes = random_boxes(n, seed)
    boxes = torch.cat([boxes, boxes[:1]])  # the last wants the place of the first
    owner = assign_priors(boxes, MAPS, PRIORS)
    counts = owner[owner >= 0].bincount(minlength=n + 1)
    assert counts.max() == 1 and counts[0] == 0 and (owner == n).sum() == 1


@given(counts=st.lists(st.integers(0, 3), min_size=2, max_size=3), seed=seeds)
@settings(max_examples=15)
def test_a_batch_is_the_mean_of_its_images(counts, seed):
    output, targets = random_case(counts, seed)
    each = [
        torch.stack(v3_loss(output[i : i + 1], MAPS, PRIORS, [t])) for i, t in enumerate(targets)
    ]
    assert_close(torch.stack(v3_loss(output, MAPS, PRIORS, targets)), torch.stack(each).mean(0))


def test_an_overlapping_prediction_is_ignored_unless_it_is_assigned():
    boxes = torch.tensor([[9.0, 9.0, 15.0, 15.0]], dtype=F64)
    target = [dict(boxes=boxes, labels=torch.tensor([0]))]
    owner = assign_priors(boxes, MAPS, PRIORS)
    output = torch.zeros(1, N, 8, dtype=F64)
    decoded = decode_cells(output[0, :, :4], *(x.double() for x in places(MAPS, PRIORS)))
    overlap = torch.tensor([plain_iou(b, boxes[0].tolist()) for b in decoded.tolist()])
    leaf = output.requires_grad_()
    (grad,) = torch.autograd.grad(v3_loss(leaf, MAPS, PRIORS, target, 0.3)[1], leaf)
    ignored = (overlap > 0.3) & (owner < 0)
    assert ignored.any()
    assert torch.equal(grad[0, :, 4] == 0, ignored)


# Gradient, edges --------------------------------------------------------------------


def test_gradient():
    output, targets = random_case([2, 0], 5)
    assert torch.autograd.gradcheck(
        lambda x: v3_loss(x, MAPS, PRIORS, targets, 0.99), output.requires_grad_(), fast_mode=True
    )


NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_objects_only_objectness_counts():
    output, _ = random_case([0, 0], 0)
    boxes, objectness, classes = v3_loss(output, MAPS, PRIORS, [NOTHING] * 2)
    assert boxes == classes == 0
    assert_close(objectness, nn.functional.softplus(output[..., 4]).sum() / 2)
    assert [float(x) for x in v3_loss(output[:0], MAPS, PRIORS, [])] == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    output, targets = random_case([3, 0], 2)
    expected = v3_loss(output.to(dtype).double(), MAPS, PRIORS, targets)
    found = v3_loss(output.to(dtype), MAPS, PRIORS, targets)
    assert all(x.dtype == torch.float32 for x in found)
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-3)


def test_everything_is_made_on_the_device_of_the_input_and_autocast_changes_little():
    output, targets = random_case([3, 0], 2)
    expected = v3_loss(output, MAPS, PRIORS, targets)
    with torch.device("meta"):  # what forgets the device fails here
        assert_close(v3_loss(output, MAPS, PRIORS, targets), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = v3_loss(output.float(), MAPS, PRIORS, targets)
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-4)
    model = YOLOv3(generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        images, truths = batch(shapes(2, seeded(1)))
        assert model.loss(images, truths).dtype == torch.float32
        (found, _) = model.eval().detect(images, min_score=0)
    assert found["scores"].dtype == torch.float32


def test_layout_does_not_matter_and_nothing_is_changed():
    output, targets = random_case([3], 4)
    before = output.clone()
    strided = output.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(v3_loss(strided, MAPS, PRIORS, targets), v3_loss(output, MAPS, PRIORS, targets))
    assert torch.equal(before, output)


# The detector -------------------------------------------------------------------------


def test_the_detector_takes_any_size_and_its_parts_fit():
    model = YOLOv3(7, generator=seeded()).eval()
    for height, width in ((96, 96), (64, 100), (33, 40)):
        maps = model(torch.zeros(2, 3, height, width))
        for stride, x in maps.items():
            h, w = math.ceil(height / stride), math.ceil(width / stride)
            assert x.shape == (2, 3 * 12, h, w)
        assert len(model.detect(torch.zeros(2, 3, height, width))) == 2


def test_detections_are_objectness_times_class():
    model = YOLOv3(generator=seeded()).eval()
    images, _ = batch(shapes(1, seeded(3)))
    maps = model(images)
    output = flatten_maps(list(maps.values()), 9)[0]
    sizes = {s: tuple(x.shape[2:]) for s, x in maps.items()}
    (found,) = model.detect(images, min_score=0, most=1)
    scores = output[:, 4:5].sigmoid() * output[:, 5:].sigmoid()
    n, k = divmod(int(scores.argmax()), 4)
    where = places(sizes, SHAPES_PRIORS)
    box = decode_cells(output[n, :4], *(x[n] for x in where)).clamp(0, 96)
    assert found["labels"].tolist() == [k]
    assert_close(found["scores"][0], scores.max())
    assert_close(found["boxes"][0], box.detach())


def test_loss_of_the_detector_is_the_sum_and_reaches_every_parameter():
    model = YOLOv3(generator=seeded())
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.loss(images, targets)
    loss.backward()
    with torch.no_grad():
        maps = model(images)
        sizes = {s: tuple(x.shape[2:]) for s, x in maps.items()}
        parts = v3_loss(flatten_maps(list(maps.values()), 9), sizes, SHAPES_PRIORS, targets)
    assert_close(loss.detach(), sum(parts))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(bool(p.grad.any()) for p in model.parameters()) == len(list(model.parameters()))


def test_weights_come_from_the_generator():
    a, b, c = (YOLOv3(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["backbone.stem.0.weight"], c["backbone.stem.0.weight"])


WORDS = ["boxes", "objectness", "classes"]  # the parts of the loss


def learnt(broken, monkeypatch, seed=0):
    if broken == "places":  # three rows away from those that should learn
        assign = yolo_v3.assign_priors
        monkeypatch.setattr(yolo_v3, "assign_priors", lambda *args: assign(*args).roll(36))
    priors = {8: ((13, 13), (42, 42)), 16: ((200, 200),), 32: ((400, 400),)}
    model = YOLOv3(2, priors, (8, 16, 16, 32, 32, 32), (0, 0, 1, 1, 0), generator=seeded(seed))
    part = WORDS.index(broken) if broken in WORDS else None
    return trained(model, without(part), steps=120, rate=1e-2, seed=seed)


@pytest.mark.parametrize("broken", [None, "places", *WORDS])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(broken, monkeypatch):
    result = learnt(broken, monkeypatch)
    assert (result["AP50"] > 0.6 and result["AP"] > 0.26) == (broken is None), result


# Bad input --------------------------------------------------------------------------

OUT = torch.zeros(1, N, 8)


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), output=OUT, many=1):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return v3_loss(output, MAPS, PRIORS, [target] * many)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: places({8: (2, 2)}, PRIORS), r"same strides, got \[8\], \[8, 16\]"),
        (lambda: places({}, {}), r"same strides, got \[\], \[\]"),
        (lambda: places({8: (0, 2)}, {8: ((1, 1),)}), r"stride 8 has 0 x 2 cells and 1 priors"),
        (lambda: places({8: (2, 2)}, {8: ()}), r"stride 8 has 2 x 2 cells and 0 priors"),
        (lambda: places({8: (2, 2)}, {8: ((1, 0),)}), r"priors must be positive, got .*\(1, 0\)"),
        (lambda: flatten_maps([torch.zeros(1, 9, 2, 2)], 8), r"got \(1, 9, 2, 2\)"),
        (lambda: assign_priors(torch.tensor([[9.0, 0, 1, 1]]), MAPS, PRIORS), r"got \[9.0, 0.0"),
        (lambda: losing(output=OUT[:, 1:]), rf"\(B, {N}, 5 \+ K\), got \(1, {N - 1}, 8\)"),
        (lambda: losing(output=OUT[..., :5]), r"got \(1, 52, 5\)"),
        (lambda: losing(output=OUT * math.nan), r"must be finite .* got \[nan"),
        (lambda: losing(many=2), r"one an image, 1, got 2"),
        (lambda: losing(labels=(3,)), r"int64 from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: losing(boxes=((0.0, 0.0, 0.0, 5.0),)), r"positive size, got \[0.0, 0.0, 0.0, 5"),
        (lambda: losing(boxes=((0.0, 0.0, math.nan, 5.0),)), r"got \[0.0, 0.0, nan, 5.0\]"),
        (lambda: Darknet((1, 2), (1,)), r"got \[1, 2\] and \[1\]"),
        (lambda: YOLOv3(0), r"need a class and priors, got 0"),
        (lambda: YOLOv3(1, PRIORS), r"strides 8, 16 and 32, got \[8, 16\]"),
        (lambda: YOLOv3()(torch.zeros(1, 1, 32, 32)), r"images must be \(B, 3, H, W\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
