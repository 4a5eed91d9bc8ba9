"""Fast R-CNN: head, sampled regions, multi-task loss, detections; a tiny one that learns.

Yardstick: torchvision.models.detection.roi_heads.RoIHeads;
    torchvision.models.detection.roi_heads.fastrcnn_loss;
    torchvision.models.detection.faster_rcnn.TwoMLPHead;
    torchvision.models.detection.faster_rcnn.FastRCNNPredictor; plain loops.
"""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
import torchvision.models.detection.roi_heads as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from snippets.detection.average_precision import evaluate_coco
from snippets.detection.box_regression import BoxCodec
from snippets.detection.fast_rcnn import (
    BoxHead,
    FastRCNN,
    SharedMap,
    detections_of_regions,
    fast_rcnn_loss,
    sample_regions,
)
from snippets.detection.iou import box_iou
from snippets.detection.rcnn import sliding_windows
from snippets.detection.roi_pooling_and_align import roi_pool
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


def random_case(n, seed, classes=3):
    g = seeded(seed)
    logits = torch.randn(n, classes + 1, generator=g, dtype=F64)
    deltas = torch.randn(n, classes, 4, generator=g, dtype=F64)
    labels = torch.randint(classes + 1, (n,), generator=g)
    goals = torch.randn(int((labels < classes).sum()), 4, generator=g, dtype=F64)
    return logits, deltas, labels, goals


def background_first(logits):
    return torch.cat([logits[..., -1:], logits[..., :-1]], -1)


# Parity: head ---------------------------------------------------------------------


def test_head_equals_torchvision():
    ours = BoxHead(3, 5, 7, 4).double()
    body, predictor = TwoMLPHead(3 * 25, 7).double(), FastRCNNPredictor(7, 5).double()
    with torch.no_grad():
        for i, p in enumerate(ours.parameters()):
            p.normal_(0, 0.4, generator=seeded(i))
        body.fc6.load_state_dict(ours.fc1.state_dict())
        body.fc7.load_state_dict(ours.fc2.state_dict())
        predictor.cls_score.weight.copy_(background_first(ours.logits.weight.T).T)
        predictor.cls_score.bias.copy_(background_first(ours.logits.bias))
        predictor.bbox_pred.weight[4:] = ours.deltas.weight
        predictor.bbox_pred.bias[4:] = ours.deltas.bias
    results = []
    for forward in (ours, lambda x: predictor(body(x))):
        x = torch.randn(6, 3, 5, 5, generator=seeded(9), dtype=F64, requires_grad=True)
        logits, deltas = forward(x)
        if forward is ours:
            logits, deltas = background_first(logits), deltas.flatten(1)
        else:
            deltas = deltas[:, 4:]
        weights = [torch.randn(y.shape, generator=seeded(2), dtype=F64) for y in (logits, deltas)]
        total = (logits * weights[0]).sum() + (deltas * weights[1]).sum()
        first = ours.fc1 if forward is ours else body.fc6
        grads = torch.autograd.grad(total, [x, first.weight])
        results.append((logits.detach(), deltas.detach(), *grads))
    for a, b in zip(*results):
        assert_close(a, b, rtol=0, atol=1e-10)


def test_outputs_start_small_and_the_deltas_smaller():
    head = BoxHead(8, 7, 200, 20, seeded())
    assert head.logits.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.deltas.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not head.logits.bias.any() and not head.deltas.bias.any()


# Parity: loss ---------------------------------------------------------------------


def loss_by_definition(logits, deltas, labels, goals, beta):
    """Eqs. (1) to (3), number by number; beta as in torchvision, 1 in the paper."""
    classification, box, rows = 0 * logits.sum(), 0 * deltas.sum(), iter(goals)
    for z, t, u in zip(logits, deltas, labels.tolist()):
        classification = classification - (z[u] - torch.logsumexp(z, 0))
        if u < len(t):
            for error in (t[u] - next(rows)).abs():
                box = box + (error**2 / (2 * beta) if error < beta else error - beta / 2)
    return classification / max(len(labels), 1), box / max(len(labels), 1)


def loss_of_torchvision(logits, deltas, labels, goals, beta):
    assert beta == 1 / 9
    shifted = (labels + 1) % logits.shape[1]
    every = torch.zeros(len(labels), 4, dtype=F64)
    every[shifted > 0] = goals
    flat = torch.nn.functional.pad(deltas.flatten(1), (4, 0))  # the background's, in front
    return theirs.fastrcnn_loss(background_first(logits), flat, [shifted], [every])


@pytest.mark.parametrize("n", [1, 4, 30])
@pytest.mark.parametrize(
    ("reference", "beta"),
    [(loss_by_definition, 1.0), (loss_by_definition, 1 / 9), (loss_of_torchvision, 1 / 9)],
)
def test_loss_equals_torchvision_and_the_definition(reference, beta, n):
    logits, deltas, labels, goals = random_case(n, n)
    results = []
    for function in (fast_rcnn_loss, reference):
        leaves = [x.clone().requires_grad_() for x in (logits, deltas)]
        losses = function(*leaves, labels, goals, beta)
        grads = torch.autograd.grad(losses[0] + 2 * losses[1], leaves)
        results.append((*(x.detach() for x in losses), *grads))
    for a, b in zip(*results):
        assert_close(a, b, rtol=0, atol=1e-10)


def test_the_paper_beta_is_the_default():
    case = random_case(20, 0)
    assert_close(fast_rcnn_loss(*case), fast_rcnn_loss(*case, beta=1.0))


# Parity: sampled regions ----------------------------------------------------------


@given(
    g=st.integers(0, 3),
    n=st.integers(0, 40),
    low=st.sampled_from([0.0, 0.1]),
    count=st.sampled_from([4, 16, 100]),
    seed=seeds,
)
@settings(max_examples=40)
def test_sampled_regions_are_what_they_should_be(g, n, low, count, seed):
    target, proposals = random_target(g, seed), random_boxes(n, seed + 1)
    found = sample_regions(proposals, target, 3, count, 0.25, 0.5, low, seeded(seed))
    everything = torch.cat([proposals, target["boxes"]])
    best = box_iou(target["boxes"], everything).amax(0) if g else torch.zeros(n, dtype=F64)
    positives, fitting = int((best >= 0.5).sum()), int(((best >= low) & (best < 0.5)).sum())
    P = len(found.truth)
    assert min(positives, count // 4) == P == len(found.goals) == int((found.labels < 3).sum())
    assert len(found.boxes) == P + min(fitting, count - P) == len(found.labels)
    assert (found.labels[P:] == 3).all()
    overlap = box_iou(target["boxes"], found.boxes)
    if g:
        assert (overlap[:, P:].amax(0) < 0.5).all() and (overlap[:, P:].amax(0) >= low).all()
        assert torch.equal(overlap[:, :P].argmax(0), found.truth)
        assert torch.equal(target["labels"][found.truth], found.labels[:P])
    codec = BoxCodec(weights=(10.0, 10.0, 5.0, 5.0))
    if P:
        reached = codec.decode(found.goals, found.boxes[:P])
        assert_close(reached, target["boxes"][found.truth])
    if n + g:
        assert (found.boxes[:, None] == everything).all(-1).any(1).all()
        assert len(found.boxes.unique(dim=0)) == len(found.boxes)


def test_samples_equal_torchvision(monkeypatch):
    """All proposals, drawn by nobody: truths added, labels, matches and goals."""
    everything = SimpleNamespace(
        proposal_matcher=Matcher(0.5, 0.5, allow_low_quality_matches=False),
        box_similarity=None,
        fg_bg_sampler=lambda labels: ([x > 0 for x in labels], [x == 0 for x in labels]),
        box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)),
        has_mask=lambda: False,
    )
    for name in ("add_gt_proposals", "assign_targets_to_proposals", "subsample"):
        method = getattr(theirs.RoIHeads, name)
        setattr(everything, name, functools.partial(method, everything))
    everything.check_targets = lambda targets: None
    for seed in range(5):
        target, proposals = random_target(3, seed), random_boxes(30, seed + 1)
        shifted = [target | dict(labels=target["labels"] + 1)]
        boxes, truth, labels, goals = theirs.RoIHeads.select_training_samples(
            everything, [proposals], shifted
        )
        found = sample_regions(proposals, target, 3, 100, 1.0, generator=seeded())
        assert len(found.boxes) == len(boxes[0]) == 33
        same = (found.boxes[:, None] == boxes[0]).all(-1).int().argmax(1)
        assert_close(found.boxes, boxes[0][same])
        assert torch.equal((found.labels + 1) % 4, labels[0][same])
        positive = same[: len(found.truth)]
        assert torch.equal(found.truth, truth[0][positive])
        assert_close(found.goals, goals[0][positive], rtol=0, atol=1e-10)


def test_goals_equal_torchvision():
    found = sample_regions(random_boxes(60, 1), random_target(3, 0), 3, generator=seeded())
    truths = random_target(3, 0)["boxes"][found.truth]
    expected = BoxCoder((10.0, 10.0, 5.0, 5.0)).encode_single(truths, found.boxes[: len(truths)])
    assert len(truths) > 2
    assert_close(found.goals, expected, rtol=0, atol=1e-10)


def test_the_paper_leaves_far_background_out():
    target = dict(boxes=torch.tensor([[0.0, 0.0, 10.0, 10.0]]), labels=torch.tensor([0]))
    proposals = torch.tensor([[0.0, 0.0, 10.0, 2.0], [30.0, 30.0, 40.0, 40.0]])
    assert len(sample_regions(proposals, target, 1, low=0.1).boxes) == 2
    assert len(sample_regions(proposals, target, 1).boxes) == 3


# Parity: detections ---------------------------------------------------------------


def plain_nms(boxes, scores, labels, threshold):
    kept, iou = [], box_iou(boxes, boxes).tolist()
    for i in sorted(range(len(scores)), key=lambda i: -float(scores[i])):
        if all(labels[i] != labels[j] or iou[i][j] <= threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.mark.parametrize("most", [3, 100])
def test_detections_equal_torchvision(most, monkeypatch):
    monkeypatch.setattr(theirs.box_ops, "batched_nms", plain_nms)
    regions = [random_boxes(n, n) for n in (12, 7)]
    logits, deltas, _, _ = random_case(19, 3)
    flat = torch.nn.functional.pad(deltas.flatten(1), (4, 0))
    self = SimpleNamespace(
        box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=most,
    )
    size = (50, 60)
    found = theirs.RoIHeads.postprocess_detections(
        self, background_first(logits), flat, regions, [size, size]
    )
    ours = detections_of_regions(logits, deltas, regions, size, most=most)
    for one, boxes, scores, labels in zip(ours, *found):
        assert len(scores) >= 3
        assert_close(one["boxes"], boxes, rtol=0, atol=1e-10)
        assert_close(one["scores"], scores, rtol=0, atol=1e-10)
        assert torch.equal(one["labels"], labels - 1)


# Invariants -----------------------------------------------------------------------


@given(n=st.integers(1, 12), seed=seeds)
@settings(max_examples=20)
def test_order_of_the_regions_does_not_matter(n, seed):
    logits, deltas, labels, _ = random_case(n, seed)
    every = torch.randn(n, 4, generator=seeded(seed), dtype=F64)
    p = torch.randperm(n, generator=seeded(seed))
    before = fast_rcnn_loss(logits, deltas, labels, every[labels < 3])
    after = fast_rcnn_loss(logits[p], deltas[p], labels[p], every[p][labels[p] < 3])
    assert_close(after, before)


def test_deltas_of_other_classes_and_of_background_get_no_gradient():
    logits, deltas, labels, goals = random_case(20, 1)
    deltas.requires_grad_()
    _, box = fast_rcnn_loss(logits, deltas, labels, goals)
    (grad,) = torch.autograd.grad(box, deltas)
    touched = grad.abs().sum(-1) > 0
    expected = torch.nn.functional.one_hot(labels, 4)[:, :3].bool()
    assert torch.equal(touched, expected)


def test_perfect_outputs_have_no_loss_and_are_detected():
    target = random_target(3, 4)
    regions = sample_regions(random_boxes(40, 1), target, 3, 100, 1.0, generator=seeded())
    n, P = len(regions.boxes), len(regions.truth)
    logits, deltas = torch.zeros(n, 4, dtype=F64), torch.zeros(n, 3, 4, dtype=F64)
    logits[range(n), regions.labels] = 100
    deltas[range(P), regions.labels[:P]] = regions.goals
    assert sum(fast_rcnn_loss(logits, deltas, regions.labels, regions.goals)) < 1e-10
    found = detections_of_regions(logits, deltas, [regions.boxes], (200, 200))
    assert evaluate_coco(found, [target])["AP"] == pytest.approx(1)


def test_one_image_alone_gives_the_same_as_in_a_batch():
    model = FastRCNN(generator=seeded()).eval()
    images, _ = batch(shapes(2, seeded(1)))
    windows = sliding_windows((96, 96), (24, 40))
    with torch.no_grad():
        logits, deltas = model(images, [windows, windows[:9]])
        alone, _ = model(images[1:], [windows[:9]])
    assert_close(logits[len(windows) :], alone, atol=1e-5, rtol=1e-4)
    assert deltas.shape == (len(windows) + 9, 4, 4)


def test_gradient():
    logits, deltas, labels, goals = random_case(6, 2)
    leaves = (logits.requires_grad_(), deltas.requires_grad_())
    assert torch.autograd.gradcheck(lambda z, d: fast_rcnn_loss(z, d, labels, goals), leaves)


# Edges ----------------------------------------------------------------------------


def test_no_regions():
    logits, deltas, labels, goals = random_case(0, 0)
    leaves = [logits.requires_grad_(), deltas.requires_grad_()]
    losses = fast_rcnn_loss(*leaves, labels, goals)
    assert [float(x.detach()) for x in losses] == [0, 0]
    assert all(g.shape[0] == 0 for g in torch.autograd.grad(sum(losses), leaves))
    (found,) = detections_of_regions(logits, deltas, [torch.zeros(0, 4)], (9, 9))
    assert found["boxes"].shape == (0, 4) and found["labels"].dtype == torch.int64
    assert detections_of_regions(logits, deltas, [], (9, 9)) == []
    none = sample_regions(torch.zeros(0, 4), random_target(0, 0), 3)
    assert none.boxes.shape == (0, 4) and none.goals.shape == (0, 4)
    model = FastRCNN(generator=seeded()).eval()
    images = torch.rand(1, 3, 32, 32, generator=seeded())
    loss = model.loss(images, [random_target(0, 0)], [torch.zeros(0, 4)])
    loss.backward()
    assert float(loss.detach()) == 0
    assert len(model.detect(images, [torch.zeros(0, 4)])[0]["scores"]) == 0


def test_images_without_objects():
    model = FastRCNN(generator=seeded())
    images = torch.rand(2, 3, 40, 40, generator=seeded())
    nothing = random_target(0, 0)
    loss = model.loss(images, [nothing, nothing], generator=seeded())
    loss.backward()
    assert loss > 0 and all(p.grad.isfinite().all() for p in model.parameters())
    assert not model.head.deltas.weight.grad.any() and model.head.logits.weight.grad.any()
    model.zero_grad()
    loss = model.loss(images, [nothing, nothing], [torch.zeros(0, 4)] * 2)
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    for one in model.eval().detect(images, min_score=1.0):
        assert one["boxes"].shape == (0, 4) and one["scores"].shape == one["labels"].shape == (0,)
    assert FastRCNN().eval().detect(images[:0]) == []


@pytest.mark.parametrize("dtype", [None, F64], ids=["autocast", "float64"])
def test_it_runs_in_other_precisions(dtype):
    model = FastRCNN(generator=seeded()).to(dtype or torch.float32)
    images, targets = batch(shapes(2, seeded(1), size=48))
    images = images.to(dtype or torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is None):
        loss = model.loss(images, targets, generator=seeded())
        loss.backward()
        found = model.eval().detect(images)
    assert loss.dtype == (dtype or torch.float32) and loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for one in found:
        assert len(one["scores"]) and one["boxes"].dtype == one["scores"].dtype == loss.dtype


def test_only_background():
    logits, deltas, _, _ = random_case(5, 0)
    labels = torch.full((5,), 3)
    classification, box = fast_rcnn_loss(logits, deltas, labels, torch.zeros(0, 4, dtype=F64))
    assert classification > 0 and box == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    logits, deltas, labels, goals = random_case(9, 1)
    expected = fast_rcnn_loss(logits, deltas, labels, goals)
    found = fast_rcnn_loss(logits.to(dtype), deltas.to(dtype), labels, goals.float())
    assert all(x.dtype == torch.float32 for x in found)
    assert_close(torch.stack(found).double(), torch.stack(expected), rtol=0.03, atol=0.03)
    boxes = [random_boxes(9, 1).float()]
    (one,) = detections_of_regions(logits.to(dtype), deltas.to(dtype), boxes, (50, 50))
    assert one["boxes"].dtype == one["scores"].dtype == torch.float32


def test_nan_is_not_hidden():
    logits, deltas, labels, goals = random_case(5, 0)
    first = int((labels < 3).int().argmax())
    spoiled = deltas.clone()
    spoiled[first, (labels[first] + 1) % 3] = math.nan
    assert fast_rcnn_loss(logits, spoiled, labels, goals)[1].isfinite()
    spoiled[first, labels[first], 2] = math.nan
    assert fast_rcnn_loss(logits, spoiled, labels, goals)[1].isnan()
    logits[0, 0] = math.nan
    classification, box = fast_rcnn_loss(logits, deltas, labels, goals)
    assert classification.isnan() and box.isfinite()


def test_nothing_is_changed_and_layout_does_not_matter():
    logits, deltas, labels, goals = random_case(8, 0)
    before = [x.clone() for x in (logits, deltas, labels, goals)]
    strided = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (logits, deltas)]
    expected = fast_rcnn_loss(logits, deltas, labels, goals)
    assert_close(fast_rcnn_loss(*strided, labels, goals), expected)
    assert all(torch.equal(a, b) for a, b in zip(before, (logits, deltas, labels, goals)))


# The detector ---------------------------------------------------------------------


def batch(pairs):
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


def test_the_shared_map_has_a_quarter_of_the_side():
    shared = SharedMap((4, 5, 6, 7, 8), 9)
    assert shared(torch.zeros(2, 3, 40, 66)).shape == (2, 9, 10, 17)


def test_the_parts_are_put_together():
    model = FastRCNN(generator=seeded()).eval()
    images, _ = batch(shapes(2, seeded()))
    windows = [sliding_windows((96, 96), (30,)), sliding_windows((96, 96), (50,))]
    with torch.no_grad():
        pooled = roi_pool(model.shared(images), windows, 7, 1 / 4)
        expected = model.head(pooled)
        assert_close(model(images, windows), expected)
        found = model.detect(images, windows, min_score=0.1)
    again = detections_of_regions(*expected, windows, (96, 96), min_score=0.1)
    for one, other in zip(found, again):
        assert all(torch.equal(one[key], other[key]) for key in one) and len(one["scores"])


def test_loss_of_the_detector_is_that_of_its_samples_and_reaches_every_parameter():
    model = FastRCNN(generator=seeded()).eval()
    images, targets = batch(shapes(3, seeded(1)))
    targets[0]["crowd"] = torch.zeros_like(targets[0]["labels"]).bool()
    loss = model.loss(images, targets, generator=seeded(2))
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.ndim > 1)
    windows, g = sliding_windows((96, 96)), seeded(2)
    regions = [sample_regions(windows, t, 4, 32, generator=g) for t in targets]
    outputs = model(images, [r.boxes for r in regions])
    labels, goals = (torch.cat([getattr(r, k) for r in regions]) for k in ("labels", "goals"))
    assert_close(loss, sum(fast_rcnn_loss(*outputs, labels, goals)))


def test_weights_come_from_the_generator():
    a, b, c = (FastRCNN(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["head.logits.weight"], c["head.logits.weight"])


@functools.cache
def shaded(count, seed):
    """An object in a small image; its label says whether it is brighter: soon learnt."""
    drawn = shapes(count, seeded(seed), size=32, objects=(1, 1), sides=(16, 22))
    for image, target in drawn:
        bright = [int(image[:, mask].mean() > image.mean()) for mask in target["masks"]]
        target["labels"] = torch.tensor(bright, dtype=torch.int64)
    return drawn


WINDOWS = sliding_windows((32, 32), (19,), (0.7, 1, 1.43), overlap=0.5)


def trained(spoil, seed=0):
    """Train on images that are new in each step; AP on those of another generator."""
    torch.set_num_threads(1)
    g, steps, rate, encode = seeded(seed), 70, 4e-3, BoxCodec.encode
    options = dict(widths=(8, 16, 32, 32, 32), channels=24, hidden=64, samples=8)
    model = FastRCNN(2, **options, positive_share=0.5, beta=1 / 9, generator=g)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for i in range(steps):
        images, targets = batch(shaded(16 * steps, seed)[16 * i : 16 * i + 16])
        if spoil == "labels":
            wrong = (torch.randint(2, t["labels"].shape, generator=g) for t in targets)
            targets = [t | dict(labels=x) for t, x in zip(targets, wrong)]
        with pytest.MonkeyPatch.context() as patch:
            if spoil == "offsets":
                patch.setattr(BoxCodec, "encode", lambda *args: 0 * encode(*args))
            loss = model.loss(images, targets, [WINDOWS] * 16, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    images, targets = batch(shaded(80, 1000 + seed))
    return evaluate_coco(model.eval().detect(images, [WINDOWS] * 80), targets)


@pytest.mark.parametrize("spoil", [None, "labels", "offsets"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(spoil):
    result = trained(spoil)
    assert (result["AP50"] > 0.6 and result["AP"] > 0.22) == (spoil is None), result


# Bad input ------------------------------------------------------------------------


def losing(labels=(0, 3), n=2, goals=1, dtype=torch.int64, columns=4):
    logits, deltas = torch.zeros(n, columns), torch.zeros(2, 3, 4)
    return fast_rcnn_loss(logits, deltas, torch.tensor(labels, dtype=dtype), torch.zeros(goals, 4))


BOX = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
TARGET = dict(boxes=BOX, labels=torch.tensor([0]))
META = torch.zeros(0, 4, device="meta")
NAN = torch.tensor([[math.nan, 0.0, 0.0]])
IMAGE = torch.zeros(1, 3, 64, 64)
LOSS = (torch.zeros(0, 3), torch.zeros(0, 2, 4), torch.zeros(0, dtype=torch.int64), BOX[:0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoxHead(0, 7, 8, 2), r"channels must be at least 1, got 0"),
        (lambda: BoxHead(3, 7, 8, 0), r"classes must be at least 1, got 0"),
        (lambda: losing(n=3), r"got torch.float32 \(3, 4\) and \(2,\)"),
        (lambda: fast_rcnn_loss(*(x.long() for x in LOSS)), r"got torch.int64 \(0, 3\) and \(0,\)"),
        (lambda: fast_rcnn_loss(*LOSS[:3], META), r"one device, got \['cpu', .*, 'meta'\]"),
        (lambda: fast_rcnn_loss(*LOSS[:3], BOX[:0].long()), r"floating, got .* torch.int64"),
        (lambda: fast_rcnn_loss(*LOSS, beta=-1.0), r"beta must not be negative .* got -1.0"),
        (lambda: losing(columns=5), r"deltas must be \(2, 4, 4\), got \(2, 3, 4\)"),
        (lambda: losing(labels=(0, 4)), r"from 0 to 3, got tensor\(\[0, 4\]\)"),
        (lambda: losing(labels=(0, -1)), r"from 0 to 3, got tensor\(\[ 0, -1\]\)"),
        (lambda: losing(dtype=torch.int32), r"labels must be int64"),
        (lambda: losing(goals=2), r"goals must be \(1, 4\), got \(2, 4\)"),
        (lambda: sample_regions(BOX, TARGET, 1, low=0.6), r"low <= high, got 0.6 and 0.5"),
        (lambda: sample_regions(-BOX, TARGET, 1), r"x1 <= x2"),
        (lambda: sample_regions(BOX / 0, TARGET, 1), r"must be finite"),
        (
            lambda: sample_regions(BOX, TARGET | dict(boxes=-BOX), 1),
            r"targets' boxes must be finite",
        ),
        (lambda: sample_regions(BOX, TARGET | dict(boxes=0 * BOX), 1), r"positive size, got \[0.0"),
        (lambda: sample_regions(BOX, TARGET, 0), r"int64 from 0 to -1, got tensor\(\[0\]\)"),
        (lambda: sample_regions(META, TARGET, 1), r"a target must be on meta, got boxes on cpu"),
        (lambda: sample_regions(BOX, TARGET, 1, count=-1), r"count must be >= 0 .* got -1"),
        (
            lambda: detections_of_regions(torch.zeros(2, 3), torch.zeros(2, 2, 4), [BOX], (9, 9)),
            r"for 1 regions need .* got \(2, 3\) and \(2, 2, 4\)",
        ),
        (
            lambda: detections_of_regions(
                torch.zeros(1, 3), torch.ones(1, 2, 4) / 0, [BOX], (9, 9)
            ),
            r"deltas must be finite, got \[inf",
        ),
        (
            lambda: detections_of_regions(NAN, torch.zeros(1, 2, 4), [BOX], (9, 9)),
            r"scores must have an order, got nan at \[0, 0\]",
        ),
        (
            lambda: detections_of_regions(0 * NAN[:, :2], torch.zeros(1, 1, 4), [0 * BOX], (9, 9)),
            r"positive width and height, got \[0.0, 0.0, 0.0, 0.0\]",
        ),
        (lambda: FastRCNN()(IMAGE[:, :1], [BOX]), r"got torch.float32 \(1, 1, 64, 64\)"),
        (lambda: FastRCNN()(IMAGE[0], [BOX]), r"got torch.float32 \(3, 64, 64\)"),
        (lambda: FastRCNN()(IMAGE.byte(), [BOX]), r"got torch.uint8"),
        (lambda: FastRCNN()(torch.cat([IMAGE] * 2), [BOX]), r"each of 2 images, got 1"),
        (lambda: FastRCNN()(IMAGE, [META]), r"features are on cpu, boxes\[0\] on meta"),
        (lambda: FastRCNN()(IMAGE, [-BOX]), r"boxes\[0\] must be finite with x1 <= x2"),
        (lambda: FastRCNN().detect(IMAGE, []), r"each of 1 images, got 0"),
        (lambda: FastRCNN().eval().detect(IMAGE / 0), r"must .* got .*nan"),
        (lambda: FastRCNN().loss(IMAGE[:0], []), r"one an image, 1, got 0"),
        (lambda: FastRCNN().loss(torch.zeros(1, 3, 32, 32), []), r"one an image, 1, got 0"),
        (
            lambda: FastRCNN().loss(torch.zeros(1, 3, 32, 32), [TARGET | dict(labels=BOX[0])]),
            r"got \(1, 4\) and \(4,\)",
        ),
        (
            lambda: FastRCNN().loss(torch.zeros(1, 3, 32, 32), [TARGET | dict(boxes=0 * BOX)]),
            r"positive size, got \[0.0, 0.0, 0.0, 0.0\]",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
