"""SSD: default boxes, matching, mining, loss, head and detections; a tiny one that learns.

Yardstick: torchvision.models.detection.ssd.SSD; torchvision.models.detection.ssd.SSDHead;
    torchvision.models.detection._utils.SSDMatcher;
    torchvision.models.detection.anchor_utils.DefaultBoxGenerator; plain loops.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torchvision.models.detection.ssd as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from snippets.detection.average_precision import evaluate_coco
from snippets.detection.box_regression import BoxCodec
from snippets.detection.iou import box_iou
from snippets.detection.shapes_dataset import shapes
from snippets.detection.ssd import (
    SSD,
    SSD300_MAPS,
    SSD300_RATIOS,
    MultiBoxHead,
    StridedBackbone,
    default_box_scales,
    default_box_shapes,
    default_boxes,
    detections_from,
    hard_negatives,
    match_default_boxes,
    multibox_loss,
)

F64 = torch.float64
seeds = st.integers(0, 2**32 - 1)
few = st.integers(0, 5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_boxes(n, seed, size=96.0):
    g = seeded(seed)
    low = torch.rand(n, 2, generator=g, dtype=F64) * size * 0.7
    return torch.cat([low, low + 4 + torch.rand(n, 2, generator=g, dtype=F64) * size * 0.4], 1)


def grid(n=5, size=96):
    """Some default boxes in float64, without those of equal IoU: each is moved a little."""
    boxes = default_boxes([(n, n), (2, 2)], (0.2, 0.4, 0.6), ((2,), (2, 3)), size).double()
    return boxes + 0.3 * torch.rand(len(boxes), 1, generator=seeded(1), dtype=F64)


def random_case(counts, seed, classes=3):
    """Logits, deltas, default boxes and the targets of one image for each count."""
    boxes, g = grid(), seeded(seed)
    logits = torch.randn(len(counts), len(boxes), classes + 1, generator=g, dtype=F64)
    deltas = torch.randn(len(counts), len(boxes), 4, generator=g, dtype=F64)
    targets = [
        dict(
            boxes=random_boxes(n, seed + i),
            labels=torch.randint(classes, (n,), generator=g),
        )
        for i, n in enumerate(counts)
    ]
    return logits, deltas, boxes, targets


# Parity: default boxes ------------------------------------------------------------


def test_ssd300_has_8732_default_boxes():
    scales = default_box_scales(6, first=0.1)
    boxes = default_boxes([(n, n) for n in SSD300_MAPS], scales, SSD300_RATIOS, 300)
    per_cell = [len(default_box_shapes(0.1, 0.2, r)) for r in SSD300_RATIOS]
    assert SSD300_MAPS == (38, 19, 10, 5, 3, 1) and per_cell == [4, 6, 6, 6, 4, 4]
    assert len(boxes) == sum(n * n * a for n, a in zip(SSD300_MAPS, per_cell)) == 8732


def test_ssd512_has_24564_default_boxes():
    """Table 7 of the paper; seven maps, 4 boxes a cell on the first and on the last two."""
    ratios = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
    scales = default_box_scales(7, 0.15, 0.9, first=0.07)
    maps = [(n, n) for n in (64, 32, 16, 8, 4, 2, 1)]
    assert len(default_boxes(maps, scales, ratios, 512)) == 24564


def test_scales_are_those_of_equation_4():
    assert_close(default_box_scales(6)[:6], (0.2, 0.34, 0.48, 0.62, 0.76, 0.9))
    assert_close(default_box_scales(6)[6], 1.04)
    assert_close(default_box_scales(6, first=0.1), (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075))
    assert_close(default_box_scales(1), (0.2, 0.9))
    assert default_box_scales(1, first=0.1) == (0.1, 0.2)
    assert len(default_box_scales(2, first=0.1)) == 3


def boxes_by_definition(maps, scales, ratios, size, strides):
    out = []
    for k, (h, w) in enumerate(maps):
        s, following = scales[k] * size, scales[k + 1] * size
        sizes = [(s, s), (math.sqrt(s * following),) * 2]
        for r in ratios[k]:
            for a in (r, 1 / r):
                sizes.append((s * math.sqrt(a), s / math.sqrt(a)))
        for i in range(h):
            for j in range(w):
                if strides is None:
                    x, y = (j + 0.5) / w * size, (i + 0.5) / h * size
                else:
                    x, y = (j + 0.5) * strides[k], (i + 0.5) * strides[k]
                for bw, bh in sizes:
                    out.append([x - bw / 2, y - bh / 2, x + bw / 2, y + bh / 2])
    return torch.tensor(out).reshape(-1, 4)


@pytest.mark.parametrize("strides", [None, (8, 30)], ids=["shared out", "strides"])
@pytest.mark.parametrize("first", [(3, 4), (0, 2), (1, 1)], ids=str)
def test_default_boxes_equal_the_definition(strides, first):
    maps, scales, ratios = [first, (2, 3)], (0.1, 0.3, 0.7), ((2,), (2, 3))
    expected = boxes_by_definition(maps, scales, ratios, 60, strides)
    assert_close(default_boxes(maps, scales, ratios, 60, strides), expected)


@pytest.mark.parametrize("steps", [None, [8, 16, 32, 64, 100, 300]], ids=["shared out", "steps"])
def test_default_boxes_equal_torchvision(steps):
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    generator = DefaultBoxGenerator(
        [list(r) for r in SSD300_RATIOS], scales=scales, steps=steps, clip=False
    )
    maps = [torch.zeros(1, 1, n, n) for n in SSD300_MAPS]
    (expected,) = generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)
    found = default_boxes([(n, n) for n in SSD300_MAPS], scales, SSD300_RATIOS, 300, steps)
    assert_close(found, expected, rtol=0, atol=1e-3)


# Parity: matching -----------------------------------------------------------------


def match_by_definition(iou, boxes, threshold):
    """MatchBBox of the paper's code: first the pairs, then the rest; of equal IoUs the first."""
    truths = len(iou)
    found = [-1] * boxes
    pool = set(range(truths))
    while pool:
        pairs = [
            (-iou[g][n], g, n) for g in pool for n in range(boxes) if found[n] < 0 and iou[g][n] > 0
        ]
        if not pairs:
            break
        _, g, n = min(pairs)
        found[n] = g
        pool.remove(g)
    for n in range(boxes):
        if found[n] < 0:
            overlap, g = max(((iou[g][n], -g) for g in range(truths)), default=(0, 0))
            if overlap >= threshold:
                found[n] = -g
    return found


@given(g=few, n=st.integers(1, 9), threshold=st.sampled_from([0.3, 0.5, 1.0]), seed=seeds)
@settings(max_examples=30)
def test_matching_equals_the_definition(g, n, threshold, seed):
    iou = torch.randint(0, 11, (g, n), generator=seeded(seed)).double() / 10  # full of ties
    found = match_default_boxes(iou, threshold)
    assert found.dtype == torch.int64
    assert found.tolist() == match_by_definition(iou.tolist(), n, threshold)


def test_matching_equals_torchvision_where_no_two_truths_want_one_box():
    compared = 0
    for seed in range(60):
        iou = box_iou(random_boxes(4, seed), grid())
        if len(set(iou.argmax(1).tolist())) == 4:
            compared += 1
            assert torch.equal(match_default_boxes(iou), SSDMatcher(0.5)(iou))
    assert compared > 20


def test_two_truths_that_want_one_box_both_get_one():
    iou = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.0]])
    assert match_default_boxes(iou).tolist() == [0, 1, -1]
    assert SSDMatcher(0.5)(iou).tolist() == [1, -1, -1]  # truth 0 goes without


def test_the_box_of_a_truth_stays_its_own_even_if_it_overlaps_another_more():
    iou = torch.tensor([[0.9, 0.7], [0.0, 0.4]])
    assert match_default_boxes(iou).tolist() == [0, 1]


def test_no_overlap_no_box_and_a_threshold_belongs_to_the_positives():
    iou = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.5, 0.49]])
    assert match_default_boxes(iou).tolist() == [1, 1, -1]


# Parity: mining and loss ----------------------------------------------------------


def mined_by_definition(loss, positive, ratio):
    out = []
    for row, pos in zip(loss, positive):
        negatives = [i for i in range(len(row)) if not pos[i]]
        negatives.sort(key=lambda i: (-row[i], i))
        kept = set(negatives[: int(ratio * sum(pos))])
        out.append([i in kept for i in range(len(row))])
    return out


@given(
    b=st.integers(1, 3),
    n=st.integers(1, 12),
    ratio=st.sampled_from([0, 1, 2.5, 3]),
    share=st.sampled_from([0, 0.2, 0.6, 1]),
    seed=seeds,
)
def test_mining_equals_the_definition(b, n, ratio, share, seed):
    loss = torch.randint(0, 6, (b, n), generator=seeded(seed)).double()  # full of ties
    positive = torch.rand(b, n, generator=seeded(seed + 1)) < share
    found = hard_negatives(loss, positive, ratio)
    assert found.tolist() == mined_by_definition(loss.tolist(), positive.tolist(), ratio)


def loss_by_definition(logits, deltas, boxes, targets, variances=(0.1, 0.2), ratio=3):
    """Eqs. (1) to (3) number by number, with autograd for the gradients."""
    classification, localization, count = [], [], 0
    for z, l, target in zip(logits, deltas, targets):  # noqa: E741
        truths, labels = target["boxes"].tolist(), target["labels"].tolist()
        iou = box_iou(target["boxes"], boxes)
        found = match_by_definition(iou.tolist(), len(boxes), 0.5)
        background = []
        for n, g in enumerate(found):
            log_sum = torch.logsumexp(z[n], 0)
            if g < 0:
                background.append(log_sum - z[n, -1])
                continue
            count += 1
            classification.append(log_sum - z[n, labels[g]])
            x1, y1, x2, y2 = boxes[n].tolist()
            u1, v1, u2, v2 = truths[g]
            goal = [
                ((u1 + u2) - (x1 + x2)) / 2 / (x2 - x1) / variances[0],
                ((v1 + v2) - (y1 + y2)) / 2 / (y2 - y1) / variances[0],
                math.log((u2 - u1) / (x2 - x1)) / variances[1],
                math.log((v2 - v1) / (y2 - y1)) / variances[1],
            ]
            for m in range(4):
                e = (l[n, m] - goal[m]).abs()
                localization.append(0.5 * e * e if e < 1 else e - 0.5)
        positives = len(found) - len(background)
        background.sort(key=lambda x: float(x.detach()), reverse=True)
        classification += background[: ratio * positives]
    zero = 0 * (logits.sum() + deltas.sum())
    return tuple((sum(x) + zero) / max(count, 1) for x in (classification, localization))


def loss_of_torchvision(logits, deltas, boxes, targets):
    self = SimpleNamespace(box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3.0)
    first = torch.cat([logits[..., -1:], logits[..., :-1]], -1)  # the background in front
    found = [match_default_boxes(box_iou(t["boxes"], boxes)) for t in targets]
    shifted = [dict(boxes=t["boxes"], labels=t["labels"] + 1) for t in targets]
    outputs = dict(bbox_regression=deltas, cls_logits=first)
    losses = theirs.SSD.compute_loss(self, shifted, outputs, [boxes] * len(targets), found)
    return losses["classification"], losses["bbox_regression"]


@pytest.mark.parametrize("counts", [[2], [1, 0, 4], [0], [3, 2]], ids=str)
@pytest.mark.parametrize("reference", [loss_by_definition, loss_of_torchvision])
def test_loss_equals_torchvision_and_the_definition(reference, counts):
    logits, deltas, boxes, targets = random_case(counts, seed=sum(counts))
    results = []
    for function in (multibox_loss, reference):
        leaves = [x.clone().requires_grad_() for x in (logits, deltas)]
        losses = function(*leaves, boxes, targets)
        grads = torch.autograd.grad(losses[0] + 2 * losses[1], leaves)
        results.append((*(x.detach() for x in losses), *grads))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, rtol=0, atol=1e-10)
    if any(counts):
        assert results[0][0] > 0.1 and results[0][1] > 0.1


def test_variances_are_the_weights_of_the_codec():
    logits, deltas, boxes, targets = random_case([3], 0)
    codec = BoxCodec(weights=(2.0, 2.0, 4.0, 4.0))
    found = multibox_loss(logits, deltas, boxes, targets, codec)
    expected = loss_by_definition(logits, deltas, boxes, targets, variances=(0.5, 0.25))
    assert_close(found, expected, rtol=0, atol=1e-10)


# Parity: head and detections ------------------------------------------------------


def test_head_equals_torchvision():
    channels, per_cell, classes = [5, 7], [4, 6], 3
    ours = MultiBoxHead(channels, per_cell, classes).double()
    head = theirs.SSDHead(channels, per_cell, classes + 1).double()
    pairs = (
        (ours.logits, head.classification_head.module_list),
        (ours.deltas, head.regression_head.module_list),
    )
    for mine, other in pairs:
        for a, b in zip(mine, other, strict=True):
            with torch.no_grad():
                a.weight.normal_(0, 0.3, generator=seeded(a.weight.numel()))
                a.bias.normal_(0, 0.3, generator=seeded(1))
            b.load_state_dict(a.state_dict())
    maps = [
        torch.randn(2, c, h, w, generator=seeded(c), dtype=F64)
        for c, (h, w) in zip(channels, [(4, 3), (2, 1)])
    ]
    expected = head(maps)
    logits, deltas = ours(maps)
    assert logits.shape == (2, 4 * 3 * 4 + 2 * 6, 4)
    assert_close(logits, expected["cls_logits"], rtol=0, atol=1e-10)
    assert_close(deltas, expected["bbox_regression"], rtol=0, atol=1e-10)


def plain_nms(boxes, scores, labels, threshold):
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    kept = []
    iou = box_iou(boxes, boxes).tolist()
    for i in order:
        if all(labels[i] != labels[j] or iou[i][j] <= threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.mark.parametrize(
    "options",
    [{}, dict(candidates=7), dict(most=9), dict(min_score=0.3), dict(iou_threshold=0.1)],
    ids=str,
)
def test_detections_equal_torchvision(options, monkeypatch):
    monkeypatch.setattr(theirs.box_ops, "batched_nms", plain_nms)
    logits, deltas, boxes, _ = random_case([0, 0], 3)
    self = SimpleNamespace(
        box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)),
        score_thresh=options.get("min_score", 0.01),
        topk_candidates=options.get("candidates", 400),
        nms_thresh=options.get("iou_threshold", 0.45),
        detections_per_img=options.get("most", 200),
    )
    first = torch.cat([logits[..., -1:], logits[..., :-1]], -1)
    expected = theirs.SSD.postprocess_detections(
        self, dict(bbox_regression=deltas, cls_logits=first), [boxes] * 2, [(90, 70)] * 2
    )
    found = detections_from(logits, deltas, boxes, (90, 70), **options)
    assert len(found) == 2
    for ours, other in zip(found, expected, strict=True):
        assert len(ours["scores"]) > 5
        assert_close(ours["boxes"], other["boxes"], rtol=0, atol=1e-10)
        assert_close(ours["scores"], other["scores"], rtol=0, atol=1e-10)
        assert torch.equal(ours["labels"], other["labels"] - 1)


# Invariants -----------------------------------------------------------------------


@given(g=st.integers(1, 6), seed=seeds)
def test_every_truth_that_overlaps_gets_a_box_and_positives_overlap_or_are_claimed(g, seed):
    iou = box_iou(random_boxes(g, seed), grid())
    found = match_default_boxes(iou)
    assert set(range(g)) <= set(found.tolist())
    assert ((iou >= 0.5).any(0) <= (found >= 0)).all()
    assert int(((found >= 0) & (iou.amax(0) < 0.5)).sum()) <= g
    p = torch.randperm(g, generator=seeded(seed))
    again = match_default_boxes(iou[p])
    assert torch.equal(torch.where(again < 0, -1, p[again]), found)


@given(counts=st.lists(few, min_size=1, max_size=3), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_a_batch_is_the_mean_of_its_images_by_positives(counts, seed):
    logits, deltas, boxes, targets = random_case(counts, seed)
    total, parts = 0, torch.zeros(2, dtype=F64)
    for i, target in enumerate(targets):
        n = int((match_default_boxes(box_iou(target["boxes"], boxes)) >= 0).sum())
        one = multibox_loss(logits[i : i + 1], deltas[i : i + 1], boxes, [target])
        total, parts = total + n, parts + n * torch.stack(one)
    assert_close(torch.stack(multibox_loss(logits, deltas, boxes, targets)), parts / max(total, 1))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_order_of_truths_and_scale_of_everything_do_not_matter(seed):
    logits, deltas, boxes, (target,) = random_case([4], seed)
    before = torch.stack(multibox_loss(logits, deltas, boxes, [target]))
    p = torch.randperm(4, generator=seeded(seed))
    shuffled = {key: value[p] for key, value in target.items()}
    assert_close(torch.stack(multibox_loss(logits, deltas, boxes, [shuffled])), before)
    larger = dict(boxes=4 * target["boxes"], labels=target["labels"])
    assert_close(torch.stack(multibox_loss(logits, deltas, 4 * boxes, [larger])), before)


def test_easy_negatives_and_offsets_of_negatives_get_no_gradient():
    logits, deltas, boxes, targets = random_case([2], 5)
    leaves = [x.clone().requires_grad_() for x in (logits, deltas)]
    grads = torch.autograd.grad(sum(multibox_loss(*leaves, boxes, targets)), leaves)
    positive = match_default_boxes(box_iou(targets[0]["boxes"], boxes)) >= 0
    touched = [g[0].abs().sum(-1) > 0 for g in grads]
    assert int(touched[0].sum()) == 4 * int(positive.sum())  # 1 + 3
    assert torch.equal(touched[1], positive)


def test_perfect_outputs_have_no_loss_and_are_detected():
    _, _, boxes, targets = random_case([4, 0], 8)
    codec = BoxCodec(weights=(10.0, 10.0, 5.0, 5.0))
    logits = torch.zeros(2, len(boxes), 4, dtype=F64)
    deltas = torch.zeros(2, len(boxes), 4, dtype=F64)
    logits[..., -1] = 50
    found = match_default_boxes(box_iou(targets[0]["boxes"], boxes))
    at = found >= 0
    logits[0, at, targets[0]["labels"][found[at]]] = 100
    deltas[0, at] = codec.encode(targets[0]["boxes"][found[at]], boxes[at])
    assert sum(multibox_loss(logits, deltas, boxes, targets)) < 1e-10
    detections = detections_from(logits, deltas, boxes, (200, 200))
    result = evaluate_coco(detections, targets)
    assert result["AP"] == pytest.approx(1)
    assert len(detections[1]["scores"]) == 0


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_detections_are_sorted_and_inside_and_batched_equals_single(seed):
    logits, deltas, boxes, _ = random_case([0, 0], seed)
    found = detections_from(logits, deltas, boxes, (50, 80), most=20)
    for i, one in enumerate(found):
        assert len(one["scores"]) <= 20 and (one["scores"].diff() <= 0).all()
        assert (one["scores"] > 0.01).all() and one["labels"].dtype == torch.int64
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([80.0, 50.0, 80.0, 50.0], dtype=F64)).all()
        (single,) = detections_from(logits[i : i + 1], deltas[i : i + 1], boxes, (50, 80), most=20)
        assert all(torch.equal(one[key], single[key]) for key in one)


# Gradient -------------------------------------------------------------------------


def test_gradient():
    logits, deltas, boxes, targets = random_case([2, 0, 1], 2)
    leaves = (logits.requires_grad_(), deltas.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda z, d: multibox_loss(z, d, boxes, targets), leaves, fast_mode=True
    )


# Edges ----------------------------------------------------------------------------

NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_ground_truth_the_loss_is_zero_and_so_is_its_gradient():
    logits, deltas, boxes, _ = random_case([0, 0], 0)
    leaves = [x.requires_grad_() for x in (logits, deltas)]
    losses = multibox_loss(*leaves, boxes, [NOTHING, NOTHING])
    assert [float(x.detach()) for x in losses] == [0, 0]
    for grad in torch.autograd.grad(sum(losses), leaves):
        assert not grad.any()


def test_no_images_no_boxes_no_candidates():
    logits, deltas, boxes, targets = random_case([2], 0)
    assert sum(multibox_loss(logits[:0], deltas[:0], boxes, [])) == 0
    none = (logits[:, :0], deltas[:, :0], boxes[:0])
    assert sum(multibox_loss(*none, targets)) == 0
    assert detections_from(logits[:0], deltas[:0], boxes, (9, 9)) == []
    for case in (
        detections_from(*none, (9, 9)),
        detections_from(logits, deltas, boxes, (9, 9), min_score=1),
    ):
        assert case[0]["boxes"].shape == (0, 4) and case[0]["scores"].shape == (0,)
        assert case[0]["labels"].dtype == torch.int64
    assert hard_negatives(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0)
    assert match_default_boxes(torch.zeros(0, 3)).tolist() == [-1, -1, -1]
    assert match_default_boxes(torch.zeros(2, 0)).shape == (0,)


def test_more_truths_than_default_boxes():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]])
    truths = torch.tensor([[0.0, 0.0, 10.0, 9.0], [1.0, 0.0, 11.0, 10.0], [4.0, 0.0, 15.0, 10.0]])
    assert match_default_boxes(box_iou(truths, boxes)).tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    logits, deltas, boxes, targets = random_case([3, 0], 4)
    expected = multibox_loss(logits, deltas, boxes, targets)
    targets = [t | dict(boxes=t["boxes"].float()) for t in targets]
    args = (logits.to(dtype), deltas.to(dtype), boxes.float())
    losses = multibox_loss(*args, targets)
    for found, wanted in zip(losses, expected, strict=True):
        assert found.dtype == torch.float32
        assert_close(found.double(), wanted, rtol=0.03, atol=0.03)
    (first, _) = detections_from(*args, (96, 96))
    assert first["boxes"].dtype == first["scores"].dtype == torch.float32
    assert first["scores"].isfinite().all()


def test_layout_does_not_matter_and_nothing_is_changed():
    logits, deltas, boxes, targets = random_case([3, 1], 6)
    before = [x.clone() for x in (logits, deltas, boxes)]
    strided = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in before]
    assert_close(multibox_loss(*strided, targets), multibox_loss(logits, deltas, boxes, targets))
    detections_from(logits, deltas, boxes, (50, 50))
    for a, b in zip(before, (logits, deltas, boxes), strict=True):
        assert torch.equal(a, b)
    iou = box_iou(targets[0]["boxes"], boxes)
    copy = iou.clone()
    match_default_boxes(iou)
    assert torch.equal(iou, copy)


def test_nan_is_not_hidden():
    logits, deltas, boxes, targets = random_case([2], 0)
    logits[0, 3] = math.nan
    classification, localization = multibox_loss(logits, deltas, boxes, targets)
    assert classification.isnan() and localization.isfinite()


# The detector ---------------------------------------------------------------------


def batch(pairs):
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


def test_shapes_of_the_detector_for_any_size():
    model = SSD(classes=7, generator=seeded()).eval()
    for height, width in ((96, 96), (64, 100), (33, 33)):
        cells = [math.ceil(height / s) * math.ceil(width / s) for s in (4, 8, 16, 32)]
        images = torch.zeros(2, 3, height, width)
        logits, deltas, boxes = model(images)
        n = sum(cells) * 4
        assert logits.shape == (2, n, 8) and deltas.shape == (2, n, 4) and boxes.shape == (n, 4)
        center = (boxes[:, :2] + boxes[:, 2:])[0] / 2
        assert center.tolist() == [2, 2]  # the middle of the first cell of stride 4
        assert len(model.detect(images)) == 2


def test_weights_come_from_the_generator():
    a, b, c = (SSD(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["head.logits.0.weight"], c["head.logits.0.weight"])


def test_backbone_gives_all_four_maps():
    maps = StridedBackbone((4, 5, 6, 7, 8))(torch.zeros(2, 3, 40, 64))
    expected = {4: (5, 10, 16), 8: (6, 5, 8), 16: (7, 3, 4), 32: (8, 2, 2)}
    assert {s: tuple(x.shape[1:]) for s, x in maps.items()} == expected


def test_loss_of_the_detector_is_the_sum_and_reaches_every_parameter():
    model = SSD(generator=seeded())
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.loss(images, targets)
    loss.backward()
    with torch.no_grad():
        assert_close(loss.detach(), sum(multibox_loss(*model(images), targets)))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for p in model.head.parameters())


def shaded(count, generator):
    """Small images; a label says whether a shape is brighter than the image: soon learnt."""
    drawn = shapes(count, generator, size=64, objects=(1, 2), sides=(24, 40))
    for image, target in drawn:
        bright = [int(image[:, mask].mean() > image.mean()) for mask in target["masks"]]
        target["labels"] = torch.tensor(bright, dtype=torch.int64)
    return drawn


def trained(spoil, steps=80, rate=8e-3):
    """Train on images that are new in each step; AP on others."""
    torch.set_num_threads(1)
    g = seeded()
    model = SSD(2, 64, widths=(8, 16, 32, 32, 32), low=0.2, high=0.6, generator=g)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        images, targets = batch(shaded(16, g))
        if spoil == "labels":
            for target in targets:
                target["labels"] = torch.randint(2, target["labels"].shape, generator=g)
        loss = model.loss(images, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    images, targets = batch(shaded(50, seeded(1)))
    result = evaluate_coco(model.eval().detect(images, candidates=100), targets)
    return result["AP50"] > 0.7 and result["AP"] > 0.26, result


@pytest.mark.parametrize("spoil", [None, "labels", "offsets"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(spoil, monkeypatch):
    if spoil == "offsets":
        encode = BoxCodec.encode
        monkeypatch.setattr(BoxCodec, "encode", lambda *args: 0 * encode(*args))
    good, result = trained(spoil)
    assert good == (spoil is None), result


# Bad input ------------------------------------------------------------------------


ZEROS = (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 2))


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), dtype=torch.int64):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels, dtype=dtype))
    return multibox_loss(*ZEROS, [target])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: default_box_scales(0), r"maps must be at least 1, got 0"),
        (lambda: default_box_scales(3, 0.9, 0.2), r"0 < low <= high, got 0.9 and 0.2"),
        (lambda: default_box_scales(3, math.nan), r"got nan and 0.9"),
        (lambda: default_box_scales(3, first=-1.0), r"first must be positive, got -1.0"),
        (lambda: default_box_shapes(1, 2, (-2,)), r"ratios must be positive .* got -0.5"),
        (lambda: default_boxes([], (1,), (), 9), r"at least 1, got 0, 0, 0, 0"),
        (lambda: default_boxes([(1, 1)], (1,), ((2,),), 9), r"got 1, 0, 1, 1"),
        (lambda: default_boxes([(1, 1)], (1, 2), (), 9), r"got 1, 1, 0, 1"),
        (lambda: default_boxes([(1, 1)], (1, 2), ((2,),), 9, (1, 2)), r"got 1, 1, 1, 2"),
        (lambda: default_boxes([(1, 1)], (1, 2), ((2,),), 0), r"size must be positive, got 0"),
        (lambda: match_default_boxes(torch.zeros(3)), r"\(G, N\), got torch.float32 \(3,\)"),
        (lambda: match_default_boxes(torch.ones(1, 1) * math.nan), r"at least 0, got nan"),
        (lambda: match_default_boxes(torch.ones(1, 1), 0), r"low 0, high 0"),
        (lambda: hard_negatives(torch.zeros(1, 2), torch.ones(1, 2)), r"got \(1, 2\), torch.fl"),
        (lambda: hard_negatives(torch.zeros(2), torch.ones(1, 2) > 0), r"got \(2,\), torch.bool"),
        (lambda: hard_negatives(torch.zeros(1, 2), torch.ones(1, 2) > 0, -1), r"ratio .* got -1"),
        (lambda: multibox_loss(*ZEROS[:2], ZEROS[2][:1], []), r"got .* and \(1, 4\)"),
        (lambda: multibox_loss(*ZEROS[:2], -ZEROS[2], []), r"boxes_xyxy must be finite with"),
        (lambda: multibox_loss(ZEROS[0][..., :1], *ZEROS[1:], []), r"got \(1, 2, 1\)"),
        (lambda: multibox_loss(ZEROS[0], ZEROS[1][:, 1:], ZEROS[2], []), r"\(1, 1, 4\)"),
        (lambda: multibox_loss(*ZEROS, []), r"one an image, 1, got 0"),
        (lambda: losing(labels=(3,)), r"int64 from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: losing(labels=(-1,)), r"int64 from 0 to 2, got tensor\(\[-1\]\)"),
        (lambda: losing(dtype=torch.int32), r"labels must be int64"),
        (lambda: losing(labels=(0, 1)), r"labels \(n,\), got \(1, 4\) and \(2,\)"),
        (lambda: losing(boxes=((0.0, 0.0, 5.0, 0.0),)), r"positive size, got \[0.0, 0.0, 5.0, 0"),
        (lambda: losing(boxes=((0.0, 0.0, -5.0, 1.0),)), r"targets' boxes must be finite with"),
        (lambda: losing(boxes=((0.0, 0.0, math.nan, 1.0),)), r"got \[0.0, 0.0, nan, 1.0\]"),
        (lambda: losing(boxes=((0, 0, 5, 5),)), r"targets' boxes must be floating"),
        (lambda: detections_from(*ZEROS[:2], ZEROS[2][:1], (9, 9)), r"got .* and \(1, 4\)"),
        (lambda: detections_from(ZEROS[0], ZEROS[1] / 0, ZEROS[2], (9, 9)), r"got \[nan"),
        (lambda: MultiBoxHead([3], [4, 4], 2), r"differ: \[3\], \[4, 4\]"),
        (lambda: MultiBoxHead([3], [4], 0), r"must be positive, got \[3\], \[4\] and 0"),
        (lambda: MultiBoxHead([3], [4], 2)([]), r"maps must be 1, got 0"),
        (lambda: SSD()(torch.zeros(1, 1, 32, 32)), r"images must be \(B, 3, H, W\)"),
        (lambda: SSD(ratios=((2,),)), r"differ: \[32, 64, 96, 128\], \[4\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
