"""R-CNN: windows, warping, labels, SVMs with hard negatives, regressors; a tiny one that learns.

Yardstick: sklearn.svm.LinearSVC; sklearn.linear_model.Ridge;
    torchvision.models.detection._utils.Matcher; plain loops.
"""

import copy
import functools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch.testing import assert_close
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.roi_heads import RoIHeads

from snippets.detection.average_precision import evaluate_coco
from snippets.detection.box_regression import BoxCodec
from snippets.detection.iou import box_iou
from snippets.detection.rcnn import (
    RCNN,
    fit_box_regressor,
    fit_svm,
    fit_svm_with_hard_negatives,
    label_proposals,
    select_detections,
    sliding_windows,
    warp,
    without_crowd,
)
from snippets.detection.shapes_dataset import shapes

F64 = torch.float64
seeds = st.integers(0, 10**6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_boxes(n, seed, size=60.0):
    g = seeded(seed)
    low = torch.rand(n, 2, generator=g, dtype=F64) * size * 0.7
    return torch.cat([low, low + 4 + torch.rand(n, 2, generator=g, dtype=F64) * size * 0.5], 1)


def random_target(n, seed, classes=3):
    labels = torch.randint(classes, (n,), generator=seeded(seed))
    return dict(boxes=random_boxes(n, seed), labels=labels)


# Parity: proposals and warping ----------------------------------------------------


@pytest.mark.parametrize("size", [(40, 64), (9, 5)], ids=str)
def test_windows_equal_the_definition(size):
    height, width = size
    expected = []
    for scale in (12, 20):
        rows = math.ceil(height / (scale * 0.5))
        columns = math.ceil(width / (scale * 0.5))
        for i in range(rows):
            for j in range(columns):
                for ratio in (0.5, 2):
                    w, h = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
                    x, y = (j + 0.5) * width / columns, (i + 0.5) * height / rows
                    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                    ends = (width, height, width, height)
                    expected.append([min(max(a, 0), b) for a, b in zip(box, ends)])
    found = sliding_windows(size, (12, 20), (0.5, 2), overlap=0.5)
    assert_close(found, torch.tensor(expected))


def test_windows_find_nearly_every_object():
    found = total = 0
    for _, target in shapes(40, seeded(), objects=(1, 4), sides=(16, 48)):
        if len(target["boxes"]):
            best = box_iou(target["boxes"], sliding_windows((96, 96))).amax(1)
            found, total = found + int((best > 0.5).sum()), total + len(best)
    assert found > 0.97 * total


def warped_by_definition(image, box, size, context):
    """One pixel after the other; the paper's rim of p pixels around the stretched box."""
    mean = image.mean(dim=(1, 2))
    (x1, y1, x2, y2), rim = box.tolist(), context * size
    rows = []
    for i in range(size):
        row = []
        for j in range(size):
            x = x1 + (j + 0.5 - rim) / (size - 2 * rim) * (x2 - x1) - 0.5
            y = y1 + (i + 0.5 - rim) / (size - 2 * rim) * (y2 - y1) - 0.5
            total = torch.zeros(3, dtype=F64)
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    if 0 <= r < image.shape[1] and 0 <= c < image.shape[2]:
                        share = (1 - abs(y - r)) * (1 - abs(x - c))
                        total = total + share * (image[:, r, c] - mean)
            row.append(total)
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("context", [0.0, 0.1], ids=str)
def test_warping_equals_the_definition(context):
    images = torch.rand(2, 3, 12, 17, generator=seeded(), dtype=F64)
    boxes = [torch.tensor([[2.0, 1.0, 15.0, 5.5], [-3.0, 4.0, 6.0, 14.0]], dtype=F64)]
    boxes.append(torch.tensor([[0.5, 2.0, 3.0, 11.0]], dtype=F64))
    results = []
    for ours in (True, False):
        leaf = images.clone().requires_grad_()
        if ours:
            found = warp(leaf, boxes, 6, context)
        else:
            pairs = [(leaf[i], b) for i in range(2) for b in boxes[i]]
            found = torch.stack([warped_by_definition(x, b, 6, context) for x, b in pairs])
        weight = torch.randn(found.shape, generator=seeded(1), dtype=F64)
        results.append((found.detach(), torch.autograd.grad((found * weight).sum(), leaf)[0]))
    for ours, expected in zip(*results):
        assert_close(ours, expected, rtol=0, atol=1e-10)


def test_a_square_of_the_right_size_is_cut_out_as_it_is():
    image = torch.rand(1, 3, 20, 20, generator=seeded(), dtype=F64)
    cut = warp(image, [torch.tensor([[3.0, 5.0, 11.0, 13.0]], dtype=F64)], 8, context=0)
    assert_close(cut[0], (image - image.mean((2, 3), keepdim=True))[0, :, 5:13, 3:11])


def test_the_rim_is_16_of_227_pixels():
    image = torch.rand(1, 3, 300, 300, generator=seeded(), dtype=F64)
    box = torch.tensor([[50.0, 60.0, 245.0, 255.0]], dtype=F64)  # 195 pixels a side
    cut = warp(image, [box], 227)
    assert_close(cut[0], (image - image.mean((2, 3), keepdim=True))[0, :, 44:271, 34:261])


# Parity: labels -------------------------------------------------------------------


@given(g=st.integers(0, 4), n=st.integers(0, 8), low=st.sampled_from([0, 0.1, 0.3]), seed=seeds)
def test_labels_equal_the_definition(g, n, low, seed):
    target, boxes = random_target(g, seed), random_boxes(n, seed + 1)
    labels, found = label_proposals(boxes, target, 3, 0.4, low)
    iou = box_iou(target["boxes"], boxes).tolist()
    for i in range(n):
        column = [iou[k][i] for k in range(g)]
        best = max(column, default=0)
        if best >= 0.4:
            assert labels[i] == target["labels"][column.index(best)]
            assert found[i] == column.index(best)
        else:
            assert labels[i] == (3 if best >= low else -1) and found[i] < 0


def test_labels_equal_torchvision():
    matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False)
    self = SimpleNamespace(proposal_matcher=matcher)
    for seed in range(20):
        target, boxes = random_target(3, seed), random_boxes(40, seed + 1)
        args = ([boxes], [target["boxes"]], [target["labels"] + 1])
        _, (expected,) = RoIHeads.assign_targets_to_proposals(self, *args)
        labels, _ = label_proposals(boxes, target, 3)
        assert torch.equal((labels + 1) % 4, expected)  # 3 is our background, 0 theirs


def test_crowds_are_left_out():
    target = random_target(3, 0) | dict(crowd=torch.tensor([False, True, False]))
    kept = without_crowd(target)
    assert torch.equal(kept["boxes"], target["boxes"][[0, 2]]) and len(kept["labels"]) == 2
    assert len(without_crowd(random_target(3, 0))["boxes"]) == 3


# Parity: SVM and regressor --------------------------------------------------------


def clouds(p, n, seed, gap=1.0, dim=4):
    g = seeded(seed)
    positive = torch.randn(p, dim, generator=g, dtype=F64) + gap
    return positive, torch.randn(n, dim, generator=g, dtype=F64)


@pytest.mark.parametrize("cost", [0.01, 0.3, 5.0], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_svm_equals_liblinear(cost, seed):
    positive, negative = clouds(15, 40, seed)
    x = torch.nn.functional.pad(torch.cat([positive, negative]), (0, 1), value=1.0)
    y = torch.arange(55) < 15
    svm = LinearSVC(C=cost, loss="hinge", fit_intercept=False, tol=1e-8, max_iter=10**6)
    expected = torch.from_numpy(svm.fit(x.numpy(), y.numpy()).coef_[0])
    assert_close(fit_svm(positive, negative, cost, 5000), expected, rtol=0, atol=1e-4)


@given(p=st.integers(0, 6), n=st.integers(0, 9), seed=seeds)
@settings(max_examples=10)
def test_no_other_weights_are_better(p, n, seed):
    positive, negative = clouds(p, n, seed)
    x, y = torch.cat([positive, negative]), torch.arange(p + n) < p

    def objective(w):
        scores = (x @ w[:-1] + w[-1]).tolist()
        losses = [max(0, 1 - s if good else 1 + s) for s, good in zip(scores, y)]
        return float(w.square().sum()) / 2 + 0.5 * sum(losses)

    w = fit_svm(positive, negative, 0.5, 800)
    for size in (0.01, 0.3):
        other = w + size * torch.randn(5, generator=seeded(seed), dtype=F64)
        assert objective(w) <= objective(other) + 1e-7


@pytest.mark.parametrize("seed", range(2))
def test_hard_negatives_alone_give_the_svm_of_all(seed):
    positive, negative = clouds(20, 400, seed, gap=1.5)
    blocks = [negative[i : i + 80] for i in range(0, 400, 80)]
    w, kept = fit_svm_with_hard_negatives(positive, blocks, 0.1, passes=5, steps=500)
    assert len(kept) < 300  # far from all of them
    assert_close(w, fit_svm(positive, negative, 0.1, 500), rtol=0, atol=2e-3)
    assert_close(w, fit_svm(positive, kept, 0.1, 500))
    assert len(kept.unique(dim=0)) == len(kept)
    scores = kept @ w[:-1] + w[-1]
    assert scores.min() > -1.05  # the easy ones have left


def test_easy_negatives_do_not_enter():
    positive, negative = clouds(10, 10, 0)
    first = fit_svm(positive, negative, 1.0)
    far = torch.full((5, 4), -50.0, dtype=F64)
    w, kept = fit_svm_with_hard_negatives(positive, [negative, far], 1.0, passes=3)
    assert_close(w, first, rtol=0, atol=0.02)
    assert (kept > -50).all()


@pytest.mark.parametrize("ridge", [0.1, 30.0])
def test_regressor_equals_scikit_learn(ridge):
    x = torch.randn(30, 6, generator=seeded(), dtype=F64) + 2
    goals = torch.randn(30, 4, generator=seeded(1), dtype=F64) + 1
    expected = Ridge(alpha=ridge).fit(x.numpy(), goals.numpy())
    w = fit_box_regressor(x, goals, ridge)
    assert_close(w[:-1].T, torch.from_numpy(expected.coef_), rtol=0, atol=1e-10)
    assert_close(w[-1], torch.from_numpy(expected.intercept_), rtol=0, atol=1e-10)


def detections_by_definition(scores, boxes, size, min_score, threshold, most):
    kept = []
    clipped = boxes.clone()
    clipped[..., 0::2] = boxes[..., 0::2].clamp(0, size[1])
    clipped[..., 1::2] = boxes[..., 1::2].clamp(0, size[0])
    for k in range(scores.shape[1]):
        own = []
        for i in sorted(range(len(scores)), key=lambda i: -float(scores[i, k])):
            if scores[i, k] > min_score and all(
                float(box_iou(clipped[i, k][None], clipped[j, k][None])) <= threshold for j in own
            ):
                own.append(i)
        kept += [(float(scores[i, k]), k, clipped[i, k].tolist()) for i in own]
    return sorted(kept, reverse=True)[:most]


@given(n=st.integers(0, 8), most=st.sampled_from([3, 100]), seed=seeds)
@settings(max_examples=25)
def test_detections_equal_the_definition(n, most, seed):
    scores = torch.randn(n, 2, generator=seeded(seed), dtype=F64)
    boxes = random_boxes(2 * n, seed).view(n, 2, 4) - 3
    args = ((30, 44), -0.5, 0.3, most)
    large = (boxes[..., 0] < 43) & (boxes[..., 1] < 29) & (boxes[..., 2:] > 1).all(-1)
    scores = torch.where(large, scores, -9.0)
    found = select_detections(scores, boxes, *args)
    expected = detections_by_definition(scores, boxes, *args)
    assert found["scores"].tolist() == [s for s, _, _ in expected]
    assert found["labels"].tolist() == [k for _, k, _ in expected]
    assert found["boxes"].tolist() == [b for _, _, b in expected]
    assert found["labels"].dtype == torch.int64 and found["boxes"].shape == (len(expected), 4)


def test_what_has_no_area_in_the_image_is_not_detected():
    boxes = torch.tensor([[[50.0, 0.0, 60.0, 9.0]], [[0.0, 0.0, 9.0, 9.0]]])
    found = select_detections(torch.ones(2, 1), boxes, (40, 40), 0, 0.5, 9)
    assert found["boxes"].tolist() == [[0, 0, 9, 9]]


# The detector ---------------------------------------------------------------------


def batch(pairs):
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


def small(seed=0, classes=2):
    g = seeded(seed)
    return RCNN(classes, crop=24, widths=(12, 24, 48), features=64, generator=g)


def test_weights_come_from_the_generator_and_the_loss_reaches_them_all():
    a, b, c = small().state_dict(), small().state_dict(), small(1).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["logits.weight"], c["logits.weight"])
    model = small(classes=4)
    images, targets = batch(shapes(3, seeded()))
    model.loss(images, targets, generator=seeded()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.ndim > 1)


def test_an_empty_image_and_no_proposals():
    model = small().eval()
    images = torch.rand(1, 3, 40, 40, generator=seeded())
    nothing = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    assert float(model.loss(images, [nothing], generator=seeded()).detach()) > 0  # background
    none = [torch.zeros(0, 4)]
    loss = model.loss(images, [nothing], none)
    assert float(loss.detach()) == 0
    loss.backward()
    scores, deltas = model(images, none)
    assert scores.shape == (0, 2) and deltas.shape == (0, 2, 4)
    assert model.detect(images, none)[0]["boxes"].shape == (0, 4)
    assert fit_svm(torch.zeros(0, 3), torch.zeros(0, 3), 1.0).tolist() == [0, 0, 0, 0]
    assert not fit_box_regressor(torch.zeros(0, 3), torch.zeros(0, 4), 1.0).any()
    model.fit(images, [nothing])
    scores, _ = model(images, [sliding_windows((40, 40))])
    assert (scores < -0.5).all() and scores.mean() < -0.9  # no class has examples
    assert model.detect(images, min_score=9.0)[0]["labels"].shape == (0,)


def test_images_without_objects_or_proposals_in_training():
    model = small()
    images = torch.rand(2, 3, 40, 40, generator=seeded())
    nothing = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    loss = model.loss(images, [nothing, nothing], generator=seeded())
    assert loss > 0 and loss.isfinite()
    loss = model.loss(images, [nothing, nothing], [torch.zeros(0, 4)] * 2)
    loss.backward()
    assert loss == 0 and all(not p.grad.any() for p in model.parameters())
    assert all(b.isfinite().all() for b in model.buffers())
    model.fit(images, [nothing, nothing], [torch.zeros(0, 4)] * 2)
    assert model.training and not model.weight.any() and not model.regressor.any()


def test_positives_of_an_svm_are_the_truths_alone_and_near_windows_are_ignored():
    model = small().eval()
    images, _ = batch(shapes(1, seeded(3), size=48))
    truth = dict(boxes=torch.tensor([[10.0, 10.0, 34.0, 34.0]]), labels=torch.tensor([1]))
    near = torch.tensor([[12.0, 10.0, 36.0, 34.0]])  # IoU 0.85
    far = torch.tensor([[30.0, 30.0, 46.0, 46.0]])
    weights = []
    for windows in (torch.cat([near, far]), far):
        model.fit(images, [truth], [windows])
        weights.append(model.weight.clone())
    assert_close(weights[0][1], weights[1][1])  # of its class: ignored
    assert not torch.allclose(weights[0][0], weights[1][0], atol=1e-6)  # of the other: negative
    x = torch.nn.functional.pad(model.features(images, [truth["boxes"]]) * model.scale, (0, 1))
    assert float((x @ model.weight[1] + model.weight[1, -1]).detach()) > 0
    assert float(x.detach().norm()) == pytest.approx(20, rel=1e-4)


def test_a_regressor_corrects_a_window_that_is_always_off():
    model = small().eval()
    model.ridge = 1e-3
    images, _ = batch(shapes(3, seeded(5), size=48, objects=(0, 0)))
    truths = [torch.tensor([[8.0 + i, 8.0, 28.0 + i, 24.0]]) for i in range(3)]
    targets = [dict(boxes=b, labels=torch.tensor([0])) for b in truths]
    windows = [b + torch.tensor([2.0, -2.0, 2.0, -2.0]) for b in truths]
    model.fit(images, targets, windows)
    _, deltas = model(images, windows)
    moved = BoxCodec().decode(deltas[:, 0].detach(), torch.cat(windows))
    assert_close(moved, torch.cat(truths), rtol=0, atol=0.1)


def shaded(count, generator):
    """An object in a small image; its label says whether it is brighter: soon learnt."""
    drawn = shapes(count, generator, size=32, objects=(1, 1), sides=(16, 22))
    for image, target in drawn:
        bright = [int(image[:, mask].mean() > image.mean()) for mask in target["masks"]]
        target["labels"] = torch.tensor(bright, dtype=torch.int64)
    return drawn


WINDOWS = sliding_windows((32, 32), (18, 22), (0.7, 1, 1.43), overlap=0.6)


@functools.cache
def trained(wrong_labels=False, seed=0):
    """The CNN trained on images that are new in each step, then all else."""
    torch.set_num_threads(1)
    g = seeded(seed)
    model = small(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)

    def spoiled(pairs):
        images, targets = batch(pairs)
        for target in targets if wrong_labels else ():
            target["labels"] = torch.randint(2, target["labels"].shape, generator=g)
        return images, targets

    for _ in range(40):
        images, targets = spoiled(shaded(16, g))
        loss = model.loss(images, targets, [WINDOWS] * 16, samples=8, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().fit(*spoiled(shaded(60, g)), [WINDOWS] * 60)
    return model


def evaluated(spoil, seed=0):
    """AP on images of another generator."""
    model = copy.deepcopy(trained(spoil == "labels", seed))
    if spoil == "regressor":
        model.regressor.neg_()
    images, targets = batch(shaded(80, seeded(1000 + seed)))
    return evaluate_coco(model.detect(images, [WINDOWS] * 80), targets)


@pytest.mark.parametrize("spoil", [None, "labels", "regressor"])
def test_it_learns_in_seconds_and_what_is_broken_does_not(spoil):
    result = evaluated(spoil)
    assert (result["AP50"] > 0.58 and result["AP"] > 0.18) == (spoil is None), result


# Precision and layout -------------------------------------------------------------


def test_layout_does_not_matter_and_nothing_is_changed():
    images = torch.rand(1, 3, 30, 40, generator=seeded())
    boxes = torch.tensor([[3.0, 4.0, 20.0, 25.0]])
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert_close(warp(strided, [boxes], 8), warp(images, [boxes], 8))
    positive, negative = clouds(4, 5, 0)
    copies = positive.clone(), negative.clone()
    columns = positive.T.contiguous().T
    assert_close(fit_svm(columns, negative, 1.0), fit_svm(positive, negative, 1.0))
    fit_svm(positive, negative, 1.0)
    assert torch.equal(positive, copies[0]) and torch.equal(negative, copies[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    images = torch.rand(1, 3, 30, 40, generator=seeded()).to(dtype)
    boxes = [torch.tensor([[3.0, 4.0, 20.0, 25.0]])]
    expected = warp(images.float(), boxes, 8)
    found = warp(images, boxes, 8)
    assert found.dtype == dtype
    assert_close(found.float(), expected, rtol=0, atol=0.01)
    assert_close(warp(images, [boxes[0].to(dtype)], 8), found)
    positive, negative = (x.to(dtype) for x in clouds(6, 9, 0))
    w = fit_svm(positive, negative, 0.5)
    assert w.dtype == torch.float32
    assert_close(w, fit_svm(positive.float(), negative.float(), 0.5))
    goals = torch.randn(6, 4, generator=seeded())
    w = fit_box_regressor(positive, goals.to(dtype), 1.0)
    assert w.dtype == torch.float32
    assert_close(w, fit_box_regressor(positive.float(), goals.to(dtype).float(), 1.0))
    scores = torch.rand(4, 2, generator=seeded()).to(dtype)
    assert len(select_detections(scores, random_boxes(8, 0).view(4, 2, 4), (60, 60), 0, 1, 9)) == 3


@pytest.mark.parametrize("dtype", [None, torch.float64], ids=["autocast", "float64"])
def test_it_runs_in_other_precisions(dtype):
    model = small().to(dtype or torch.float32)
    images, targets = batch(shapes(2, seeded(), size=48))
    images = images.to(dtype or torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is None):
        loss = model.loss(images, targets, generator=seeded())
        loss.backward()
        model.eval().fit(images, targets)
        found = model.detect(images)
    assert loss.dtype == (dtype or torch.float32) and loss.isfinite()
    assert model.weight.dtype == (dtype or torch.float32)
    assert all(one["scores"].isfinite().all() and len(one["scores"]) for one in found)


def test_gradient_of_warp():
    images = torch.rand(1, 3, 5, 6, generator=seeded(), dtype=F64, requires_grad=True)
    boxes = [torch.tensor([[0.5, 1.0, 5.5, 4.0]], dtype=F64)]
    assert torch.autograd.gradcheck(lambda x: warp(x, boxes, 3), images)


# Bad input ------------------------------------------------------------------------

IMAGE = torch.zeros(1, 3, 8, 8)
BOX = [torch.tensor([[0.0, 0.0, 5.0, 5.0]])]


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), dtype=torch.int64, **more):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels, dtype=dtype))
    return small().loss(IMAGE, [target | more])


META = torch.zeros(0, 4, device="meta")
TARGET = dict(boxes=BOX[0], labels=torch.tensor([0]))
NAN = torch.tensor([[math.nan, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliding_windows((0, 9)), r"positive, got \(0, 9\)"),
        (lambda: sliding_windows((9, 9), overlap=1), r"less than 1, got 1"),
        (lambda: sliding_windows((9, 9), scales=(-1,)), r"scales must be positive .* got -1"),
        (lambda: warp(IMAGE[0], BOX, 4), r"got torch.float32 \(3, 8, 8\)"),
        (lambda: warp(IMAGE.long(), BOX, 4), r"got torch.int64"),
        (lambda: warp(IMAGE, BOX, 4, 0.5), r"less than 1/2, got 0.5"),
        (lambda: warp(IMAGE, [], 4), r"an image, 1, got 0"),
        (lambda: warp(IMAGE, [-BOX[0]], 4), r"x1 <= x2"),
        (lambda: warp(IMAGE, [BOX[0] / 0], 4), r"boxes must be finite"),
        (lambda: warp(IMAGE, [BOX[0].long()], 4), r"must be floating, got torch.int64"),
        (lambda: warp(IMAGE, [BOX[0][0]], 4), r"must be \(N, 4\) on cpu, got \(4,\) on cpu"),
        (lambda: warp(IMAGE, [META], 4), r"must be \(N, 4\) on cpu, got \(0, 4\) on meta"),
        (lambda: warp(IMAGE, BOX, 0), r"size must be at least 1, got 0"),
        (lambda: label_proposals(-BOX[0], TARGET, 2), r"x1 <= x2"),
        (lambda: label_proposals(BOX[0] / 0, TARGET, 2), r"b_xyxy must be finite"),
        (lambda: label_proposals(BOX[0], TARGET, 0), r"int64 from 0 to -1, got tensor\(\[0\]\)"),
        (lambda: label_proposals(META, TARGET, 2), r"a target must be on meta, got boxes on cpu"),
        (lambda: label_proposals(BOX[0], TARGET, 2, 0.3, 0.4), r"low <= high, got 0.4 and 0.3"),
        (
            lambda: fit_svm(torch.zeros(1, 2), torch.zeros(1, 3), 1.0),
            r"\(1, 2\) on cpu and torch.float32 \(1, 3",
        ),
        (lambda: fit_svm(torch.zeros(1, 2) / 0, torch.zeros(1, 2), 1.0), r"finite"),
        (lambda: fit_svm(torch.zeros(1, 2), torch.zeros(1, 2), 0), r"cost .* got 0"),
        (
            lambda: fit_svm(torch.zeros(1, 2), META[:, :2], 1.0),
            r"and torch.float32 \(0, 2\) on meta",
        ),
        (
            lambda: fit_svm(torch.ones(1, 2).long(), torch.ones(1, 2).long(), 1.0),
            r"got torch.int64",
        ),
        (lambda: fit_box_regressor(torch.zeros(1, 2), BOX[0] / 0, 1.0), r"finite, got nan or inf"),
        (
            lambda: fit_box_regressor(torch.zeros(2, 3), torch.zeros(3, 4), 1.0),
            r"and torch.float32 \(3, 4\)",
        ),
        (lambda: fit_box_regressor(torch.zeros(2, 3), torch.zeros(2, 4), 0), r"ridge .* got 0"),
        (lambda: select_detections(torch.zeros(2), BOX[0], (9, 9), 0, 0.5, 9), r"got \(2,\)"),
        (lambda: select_detections(NAN, BOX[0].expand(1, 2, 4), (9, 9), 0, 0.5, 9), r"at \[0, 0\]"),
        (lambda: select_detections(NAN, META[None], (9, 9), 0, 0.5, 9), r"\(1, 0, 4\) on meta"),
        (lambda: select_detections(NAN[:, :1], -BOX[0][None], (9, 9), 0, 0.5, 9), r"nan at \[0, 0"),
        (
            lambda: select_detections(0 * IMAGE[0, 0, :1, :1], -BOX[0][None], (9, 9), 0, 0, 9),
            r"x1 <=",
        ),
        (lambda: small().detect(IMAGE, [0 * BOX[0]]), r"positive width and height, got \[0.0, 0"),
        (lambda: small().detect(IMAGE, []), r"each of 1 images, got 0"),
        (lambda: small().detect(IMAGE.long()), r"images must be floating .* got torch.int64"),
        (lambda: small().loss(IMAGE, [TARGET], []), r"each of 1 images, got 0"),
        (lambda: small().fit(IMAGE / 0, [TARGET]), r"features must be finite"),
        (lambda: small().fit(IMAGE, []), r"one an image, 1, got 0"),
        (lambda: small().loss(IMAGE[:0], []), r"one an image, 1, got 0"),
        (
            lambda: losing(crowd=torch.zeros(1)),
            r"crowd must be bool \(1,\), got torch.float32 \(1,\)",
        ),
        (lambda: losing(crowd=torch.zeros(2) > 0), r"got torch.bool \(2,\)"),
        (lambda: losing(crowd=META[:, 0]), r"on cpu, got boxes on cpu, .* crowd on meta"),
        (lambda: RCNN(0), r"must be positive, got 0"),
        (lambda: RCNN(widths=()), r"got 4, 32, \[\] and 128"),
        (lambda: small().loss(IMAGE[:, :1], []), r"got torch.float32 \(1, 1"),
        (lambda: small().loss(IMAGE, []), r"one an image, 1, got 0"),
        (lambda: losing(labels=(2,)), r"int64 from 0 to 1, got tensor\(\[2\]\)"),
        (lambda: losing(dtype=torch.int32), r"labels must be int64"),
        (lambda: losing(labels=(0, 1)), r"got \(1, 4\) and \(2,\)"),
        (lambda: losing(boxes=((0.0, 0.0, 5.0, 0.0),)), r"positive size, got \[0.0, 0.0, 5.0, 0"),
        (lambda: losing(boxes=((0.0, 0.0, math.nan, 1.0),)), r"got \[0.0, 0.0, nan, 1.0\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
