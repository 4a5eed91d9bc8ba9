"""YOLO v1: the grid, who is responsible, eq. (3); and what all versions share.

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

from snippets.detection.iou import box_iou
from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v1 import (
    V1_LAYERS,
    YOLOv1,
    check_targets,
    decode_grid,
    first_in_cell,
    pick_detections,
    responsible,
    split_grid,
    v1_loss,
)
from tests.snippets.detection.yolo_training import batch, seeded, trained

F64 = torch.float64
seeds = st.integers(0, 10**6)


def random_boxes(n, seed, size=(60.0, 90.0)):
    g = seeded(seed)
    scale = torch.tensor([size[1], size[0]], dtype=F64)
    low = torch.rand(n, 2, generator=g, dtype=F64) * scale * 0.7
    return torch.cat([low, low + 2 + torch.rand(n, 2, generator=g, dtype=F64) * scale * 0.25], 1)


def random_case(counts, seed, S=4, A=2, K=3):
    g = seeded(seed)
    output = torch.rand(len(counts), S, S, 5 * A + K, generator=g, dtype=F64)
    targets = [
        dict(boxes=random_boxes(n, seed + i), labels=torch.randint(K, (n,), generator=g))
        for i, n in enumerate(counts)
    ]
    return output, targets


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    union = area[0] + area[1] - shared
    return shared / union if union else 0.0


# Parity -----------------------------------------------------------------------------


def loss_by_definition(output, targets, size, A=2, coord=5.0, noobj=0.5):
    """Eq. (3) cell by cell; the cell of an object, its box of largest IoU, squares of the rest."""
    H, W = size
    B, S = output.shape[:2]
    parts = [0, 0, 0, 0]
    for i, target in enumerate(targets):
        owner = {}
        for t, (x1, y1, x2, y2) in enumerate(target["boxes"].tolist()):
            cell = (int((y1 + y2) / 2 / H * S), int((x1 + x2) / 2 / W * S))
            owner.setdefault(cell, t)
        for r in range(S):
            for c in range(S):
                out = output[i, r, c]
                chosen = None
                if (r, c) in owner:
                    t = owner[r, c]
                    truth = target["boxes"][t].tolist()
                    rank = []
                    for a in range(A):
                        x, y, rw, rh, _ = out[5 * a : 5 * a + 5].tolist()
                        x, y, w, h = (x + c) / S * W, (y + r) / S * H, rw * rw * W, rh * rh * H
                        box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                        goal = [
                            (truth[0] + truth[2]) / 2,
                            (truth[1] + truth[3]) / 2,
                            truth[2] - truth[0],
                            truth[3] - truth[1],
                        ]
                        far = sum((p - q) ** 2 for p, q in zip((x, y, w, h), goal))
                        rank.append((plain_iou(box, truth), -far, -a))
                    overlap, _, a = max(rank)
                    chosen = -a
                    cells = [goal[0] / W * S - c, goal[1] / H * S - r]
                    cells += [math.sqrt(goal[2] / W), math.sqrt(goal[3] / H)]
                    for m in range(4):
                        parts[0] = parts[0] + coord * (out[5 * chosen + m] - cells[m]) ** 2
                    parts[1] = parts[1] + (out[5 * chosen + 4] - overlap) ** 2
                    for k in range(len(out) - 5 * A):
                        yes = 1.0 if k == int(target["labels"][t]) else 0.0
                        parts[3] = parts[3] + (out[5 * A + k] - yes) ** 2
                for a in range(A):
                    if a != chosen:
                        parts[2] = parts[2] + noobj * out[5 * a + 4] ** 2
    return [torch.as_tensor(x, dtype=F64) / max(B, 1) for x in parts]


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=2), seed=seeds, A=st.integers(1, 3))
@settings(max_examples=20)
def test_loss_equals_the_definition_with_gradients(counts, seed, A):
    output, targets = random_case(counts, seed, A=A)
    results = []
    for function in (
        lambda x: v1_loss(x, targets, (60, 90), A),
        lambda x: loss_by_definition(x, targets, (60, 90), A),
    ):
        leaf = output.clone().requires_grad_()
        parts = function(leaf)
        (grad,) = torch.autograd.grad(sum((i + 1) * p for i, p in enumerate(parts)), leaf)
        results.append((*(p.detach() for p in parts), grad))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, rtol=0, atol=1e-10)


def test_weights_of_the_loss_are_5_and_a_half():
    output, targets = random_case([3], 0)
    parts = v1_loss(output, targets, (60, 90))
    plain = v1_loss(output, targets, (60, 90), coord=1.0, noobj=1.0)
    ratios = [float(a / b) for a, b in zip(parts, plain)]
    assert ratios == pytest.approx([5, 1, 0.5, 1])


def test_the_grid_has_98_boxes_and_1470_numbers():
    output = torch.zeros(1, 7, 7, 30)
    raw, confidence, probs = split_grid(output, 2)
    assert output.numel() == 1470 and raw.shape == (1, 7, 7, 2, 4)
    assert confidence.numel() == 98 and probs.shape == (1, 7, 7, 20)


def test_decoding_number_by_number():
    raw = torch.rand(2, 3, 3, 2, 4, generator=seeded(), dtype=F64)
    boxes = decode_grid(raw, (60, 90))
    for i, r, c, a in ((0, 0, 0, 0), (1, 2, 1, 1), (0, 1, 2, 0)):
        x, y, w, h = raw[i, r, c, a].tolist()
        cx, cy, w, h = (c + x) * 30, (r + y) * 20, w * w * 90, h * h * 60
        expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        assert boxes[i, r, c, a].tolist() == pytest.approx(expected)


def test_figure_3():
    """24 convolutions, 2 linear layers, maps of 7 x 7 x 1024, an output of 7 x 7 x 30."""
    with torch.device("meta"):
        model = YOLOv1(20, 2, 7, V1_LAYERS, 4096, norm=False, dropout=0.5)
        images = torch.rand(1, 3, 448, 448)
        features = model.features(images)
        output = model(images)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(convs) == 24 and len(linear) == 2 and V1_LAYERS.count(None) == 4
    assert features.shape == (1, 1024, 7, 7) and output.shape == (1, 7, 7, 30)
    assert linear[0].out_features == 4096


def picked_by_definition(boxes, scores, size, min_score, threshold, candidates, most):
    found = []
    for k in range(scores.shape[1]):
        order = sorted(range(len(scores)), key=lambda i: (-float(scores[i, k]), i))[:candidates]
        kept = []
        for i in (i for i in order if scores[i, k] > min_score):
            box = boxes[i].tolist()
            box = [max(0.0, min(v, size[1 - m % 2])) for m, v in enumerate(box)]
            if all(plain_iou(box, other) <= threshold for other in kept):
                kept.append(box)
                found.append((float(scores[i, k]), k, box))
    return sorted(found, key=lambda x: -x[0])[:most]


@pytest.mark.parametrize("limits", [(0.01, 0.45, 400, 100), (0.3, 0.2, 9, 7)], ids=str)
def test_picking_equals_the_definition(limits):
    boxes = torch.stack([random_boxes(30, s) + 9 for s in (0, 1)])
    scores = torch.rand(2, 30, 3, generator=seeded(5), dtype=F64)
    found = pick_detections(boxes, scores, (50, 70), *limits)
    for i, one in enumerate(found):
        expected = picked_by_definition(boxes[i], scores[i], (50, 70), *limits)
        assert one["scores"].tolist() == [x[0] for x in expected]
        assert one["labels"].tolist() == [x[1] for x in expected]
        assert_close(one["boxes"], torch.tensor([x[2] for x in expected], dtype=F64))


# Invariants ---------------------------------------------------------------------------


@given(n=st.integers(0, 6), S=st.integers(1, 5), seed=seeds)
def test_a_cell_has_the_first_of_the_objects_centred_in_it(n, S, seed):
    boxes = random_boxes(n, seed)
    owner = first_in_cell(boxes, S, (60, 90))
    expected = [-1] * (S * S)
    for t, (x1, y1, x2, y2) in reversed(list(enumerate(boxes.tolist()))):
        expected[int((y1 + y2) / 120 * S) * S + int((x1 + x2) / 180 * S)] = t
    assert owner.dtype == torch.int64 and owner.tolist() == expected


def test_the_box_of_largest_iou_is_responsible_and_without_overlap_the_nearest():
    truth = torch.tensor([[10.0, 10.0, 20.0, 20.0]] * 2)
    predicted = torch.tensor(
        [
            [[9.0, 9.0, 30.0, 30.0], [12.0, 10.0, 20.0, 20.0]],
            [[80.0, 80.0, 90.0, 90.0], [30.0, 30.0, 45.0, 45.0]],
        ]
    )
    best, iou = responsible(predicted, truth)
    assert best.tolist() == [1, 1]
    assert_close(iou, torch.tensor([0.8, 0.0]))


def test_perfect_output_has_no_loss():
    boxes = random_boxes(1, 3)
    output = torch.zeros(1, 4, 4, 13, dtype=F64)
    cell = int((first_in_cell(boxes, 4, (60, 90)) >= 0).nonzero())
    r, c = divmod(cell, 4)
    x1, y1, x2, y2 = boxes[0].tolist()
    place = [(x1 + x2) / 180 * 4 - c, (y1 + y2) / 120 * 4 - r]
    size = [math.sqrt((x2 - x1) / 90), math.sqrt((y2 - y1) / 60)]
    output[0, r, c, :5] = torch.tensor([*place, *size, 1], dtype=F64)
    output[0, r, c, 12] = 1
    parts = v1_loss(output, [dict(boxes=boxes, labels=torch.tensor([2]))], (60, 90))
    assert_close(torch.stack(parts), torch.zeros(4, dtype=F64))
    decoded = decode_grid(split_grid(output, 2)[0], (60, 90))[0, r, c, 0]
    assert_close(decoded, boxes[0])


@given(counts=st.lists(st.integers(0, 3), min_size=2, max_size=3), seed=seeds)
@settings(max_examples=15)
def test_a_batch_is_the_mean_of_its_images(counts, seed):
    output, targets = random_case(counts, seed)
    each = [torch.stack(v1_loss(output[i : i + 1], [t], (60, 90))) for i, t in enumerate(targets)]
    together = torch.stack(v1_loss(output, targets, (60, 90)))
    assert_close(together, torch.stack(each).mean(0))


def test_small_and_large_boxes_err_alike_in_the_root():
    """An error of w matters more for small boxes, section 2.2."""

    def loss(w, error):
        boxes = torch.tensor([[40 - w / 2, 20.0, 40 + w / 2, 40.0]], dtype=F64)
        output = torch.zeros(1, 1, 1, 6, dtype=F64)
        root = math.sqrt((w + error) / 90)
        output[0, 0, 0, :4] = torch.tensor([40 / 90, 0.5, root, math.sqrt(20 / 60)], dtype=F64)
        return v1_loss(output, [dict(boxes=boxes, labels=torch.tensor([0]))], (60, 90), 1)[0]

    assert loss(4.0, 2.0) > 5 * loss(40.0, 2.0)


# Gradient ---------------------------------------------------------------------------


def test_the_iou_goal_and_the_choice_get_no_gradient():
    output, targets = random_case([2], 1)
    leaf = output.clone().requires_grad_()
    (grad,) = torch.autograd.grad(v1_loss(leaf, targets, (60, 90))[1], leaf)
    touched = grad.nonzero()[:, 3]
    assert set(touched.tolist()) <= {4, 9}  # confidences only


def test_gradient():
    """Away from the confidences, whose goal moves with the boxes and is held constant."""
    output, targets = random_case([2], 1)
    leaf = output.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: [v1_loss(x, targets, (60, 90))[i] for i in (0, 2, 3)], leaf, fast_mode=True
    )


# Edges ------------------------------------------------------------------------------

NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_objects_only_the_confidences_count():
    output = torch.rand(2, 4, 4, 13, generator=seeded())
    parts = v1_loss(output, [NOTHING, NOTHING], (60, 90))
    assert [float(parts[i]) for i in (0, 1, 3)] == [0, 0, 0]
    confidence = split_grid(output, 2)[1]
    assert_close(parts[2], 0.5 * confidence.square().sum() / 2)
    assert [float(x) for x in v1_loss(output[:0], [], (60, 90))] == [0, 0, 0, 0]


def test_an_object_on_the_far_border_belongs_to_the_last_cell():
    boxes = torch.tensor([[88.0, 58.0, 92.0, 62.0]])
    assert (first_in_cell(boxes, 3, (60, 90)) >= 0).nonzero().tolist() == [[8]]


def test_limits_of_picking_when_none_are_given():
    """A score above 0.01, NMS at 0.45, 400 candidates of a class, 100 detections."""
    left = 10.0 * torch.arange(401)
    apart = torch.stack([left, 0 * left, left + 5, 0 * left + 5], dim=1)[None]
    falling = torch.linspace(1, 0.1, 401)[None, :, None]
    assert len(pick_detections(apart, falling, (9, 5000))[0]["boxes"]) == 100
    assert len(pick_detections(apart, falling, (9, 5000), most=500)[0]["boxes"]) == 400
    # Of IoU 63 / 137, which is too much, and of 62 / 138.
    pairs = [[0, 0, 100, 5], [37, 0, 137, 5], [0, 10, 100, 15], [38, 10, 138, 15]]
    scores = torch.tensor([0.5, 0.4, 0.5, 0.4])[None, :, None]
    assert len(pick_detections(torch.tensor([pairs]).float(), scores, (20, 200))[0]["boxes"]) == 3
    low = torch.tensor([0.01, 0.0101])[None, :, None]
    assert len(pick_detections(apart[:, :2], low, (9, 5000))[0]["boxes"]) == 1


def test_nothing_to_pick():
    boxes, scores = random_boxes(4, 0)[None], torch.rand(1, 4, 2, dtype=F64)
    for found in (
        pick_detections(boxes, scores, (9, 9), min_score=1),
        pick_detections(boxes[:, :0], scores[:, :0], (9, 9)),
    ):
        assert found[0]["boxes"].shape == (0, 4) and found[0]["scores"].shape == (0,)
        assert found[0]["labels"].dtype == torch.int64
    assert pick_detections(boxes[:0], scores[:0], (9, 9)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    output, targets = random_case([3, 0], 2)
    expected = v1_loss(output.to(dtype).double(), targets, (60, 90))
    found = v1_loss(output.to(dtype), targets, (60, 90))
    assert all(x.dtype == torch.float32 for x in found)
    assert_close([x.double() for x in found], list(expected), rtol=1e-3, atol=1e-3)


def test_layout_does_not_matter_and_nothing_is_changed():
    output, targets = random_case([3], 4)
    before = output.clone()
    strided = output.transpose(1, 3).contiguous().transpose(1, 3)
    assert_close(v1_loss(strided, targets, (60, 90)), v1_loss(output, targets, (60, 90)))
    assert torch.equal(before, output)
    assert box_iou(targets[0]["boxes"], targets[0]["boxes"]).diag().allclose(torch.ones(3).double())


def test_everything_is_made_on_the_device_of_the_input_and_autocast_changes_little():
    output, targets = random_case([3, 0], 2)
    expected = v1_loss(output, targets, (60, 90))
    with torch.device("meta"):  # what forgets the device fails here
        assert_close(v1_loss(output, targets, (60, 90)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = v1_loss(output.float(), targets, (60, 90))
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-4)


# The detector -------------------------------------------------------------------------


def test_limits_of_detections_when_none_are_given(monkeypatch):
    module = sys.modules[YOLOv1.__module__]
    monkeypatch.setattr(module, "pick_detections", lambda *args: args[3:])
    assert YOLOv1().eval().detect(torch.rand(1, 3, 96, 96)) == (0.01, 0.45, 400, 100)


def test_the_detector_decodes_what_it_is_trained_with():
    model = YOLOv1(generator=seeded())
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.loss(images, targets)
    loss.backward()
    with torch.no_grad():
        assert_close(loss.detach(), sum(v1_loss(model(images), targets, (96, 96))))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    raw, confidence, probs = split_grid(model(images[:1]).detach(), 2)
    (found,) = model.detect(images[:1], min_score=-9, most=1)
    scores = confidence[..., None] * probs[..., None, :]  # (1, S, S, A, K)
    _, r, c, a, k = torch.unravel_index(scores.argmax(), scores.shape)
    assert found["labels"].tolist() == [k]
    assert_close(found["boxes"][0], decode_grid(raw, (96, 96))[0, r, c, a].clamp(0, 96))
    a, b, c = (YOLOv1(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["features.0.weight"], c["features.0.weight"])


WORDS = ["boxes", "found", "rest", "classes"]  # the parts of the loss


def learnt(broken, monkeypatch, seed=0):
    if broken == "places":  # any cells
        first, g = v1_loss.__globals__["first_in_cell"], seeded(seed)
        monkeypatch.setitem(
            v1_loss.__globals__,
            "first_in_cell",
            lambda *args: first(*args)[torch.randperm(9, generator=g)],
        )

    def loss(model, images, targets):
        parts = v1_loss(model(images), targets, (48, 48), 1)
        return sum(x for i, x in enumerate(parts) if broken != WORDS[i])

    layers = ((3, 8, 2), (3, 16, 2), (3, 32, 2), (3, 32, 2))
    model = YOLOv1(2, 1, 3, layers, 128, generator=seeded(seed))
    return trained(model, loss, steps=240, rate=3e-3, seed=seed)


@pytest.mark.parametrize("broken", [None, "places", *WORDS])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(broken, monkeypatch):
    result = learnt(broken, monkeypatch)
    assert (result["AP50"] > 0.55) == (broken is None), result


# Bad input --------------------------------------------------------------------------

OUT = torch.zeros(1, 2, 2, 13)


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), dtype=torch.int64, output=OUT, many=1):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels, dtype=dtype))
    return v1_loss(output, [target] * many, (60, 90))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_grid(torch.zeros(1, 2, 3, 13), 2), r"got torch.float32 \(1, 2, 3, 13\)"),
        (lambda: split_grid(torch.zeros(1, 2, 2, 10), 2), r"5 \* 2 \+ K\), got"),
        (lambda: split_grid(torch.zeros(1, 2, 2, 13, dtype=torch.int64), 2), r"got torch.int64"),
        (lambda: decode_grid(torch.zeros(1, 2, 2, 2, 4), (0, 9)), r"positive, got \(0, 9\)"),
        (lambda: first_in_cell(torch.tensor([[5.0, 0.0, 4.0, 1.0]]), 2, (9, 9)), r"x1 <= x2"),
        (lambda: losing(many=2), r"one an image, 1, got 2"),
        (lambda: losing(labels=(3,)), r"int64 from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: losing(labels=(-1,)), r"int64 from 0 to 2, got tensor\(\[-1\]\)"),
        (lambda: losing(dtype=torch.int32), r"labels must be int64"),
        (lambda: losing(labels=(0, 1)), r"labels \(n,\), got \(1, 4\) and \(2,\)"),
        (lambda: losing(boxes=((0.0, 0.0, 5.0, 0.0),)), r"positive size, got \[0.0, 0.0, 5.0, 0"),
        (lambda: losing(boxes=((0.0, 0.0, -5.0, 1.0),)), r"targets' boxes must be finite with"),
        (lambda: losing(boxes=((0.0, 0.0, math.nan, 1.0),)), r"got \[0.0, 0.0, nan, 1.0\]"),
        (lambda: losing(output=OUT * math.nan), r"must be finite with .* got \[nan"),
        (lambda: check_targets([NOTHING], 1, 2, torch.device("meta")), r"on meta, got cpu and cpu"),
        (lambda: YOLOv1(0), r"must be positive, got 0, 2, 6 and 256"),
        (lambda: YOLOv1()(torch.zeros(1, 1, 96, 96)), r"images must be \(B, 3, H, W\)"),
        (lambda: YOLOv1()(torch.zeros(1, 3, 96, 95)), r"must be 96 x 96, got 96 x 95"),
        (lambda: pick_detections(OUT[0, :, :, :4], OUT[:1, 0], (9, 9)), r"got \(2, 2, 4\) and"),
        (lambda: pick_detections(torch.ones(1, 2, 4) / 0, torch.zeros(1, 2, 1), (9, 9)), r"inf"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
