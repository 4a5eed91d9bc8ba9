"""RPN: head, labels, loss and proposals against torchvision and plain loops; it learns.

Yardstick: torchvision.models.detection.rpn.RegionProposalNetwork; plain loops.
"""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection import rpn as theirs
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from snippets.detection.anchors import anchor_shapes, grid_anchors
from snippets.detection.box_regression import BoxCodec
from snippets.detection.iou import box_iou
from snippets.detection.region_proposal_network import (
    Recipe,
    RegionProposalNetwork,
    RPNHead,
    assign,
    propose,
    rpn_loss,
    sample,
)
from snippets.detection.shapes_dataset import shapes

F64 = torch.float64
SIZE = (96, 128)
seeds = st.integers(0, 2**32 - 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_boxes(n, seed, size=SIZE, low=4.0, high=60.0):
    u = torch.rand(n, 4, generator=seeded(seed), dtype=F64)
    corner = u[:, :2] * (torch.tensor([size[1], size[0]]) - high)
    return torch.cat([corner, corner + low + (high - low) * u[:, 2:]], dim=1)


def features_of(strides, channels, batch, seed, size=SIZE):
    generator = seeded(seed)
    return {
        s: torch.randn(batch, channels, size[0] // s, size[1] // s, generator=generator, dtype=F64)
        for s in strides
    }


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou_of(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    union = area(a) + area(b) - shared
    return shared / union if union else 0.0


# Parity with torchvision ------------------------------------------------------------


def loop_nms(boxes, scores, labels, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        same = [j for j in kept if labels[j] == labels[i]]
        if all(iou_of(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in same):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


SHAPES = {
    8: anchor_shapes((16, 24), (0.5, 1, 2), dtype=F64),
    16: anchor_shapes((40, 64), (0.5, 1, 2), dtype=F64),
}
SHAPES = {stride: 2 * (s / 2).round() for stride, s in SHAPES.items()}


def both(strides, recipe, channels=6):
    """Ours and torchvision's with the same weights, all of them drawn anew."""
    ours = RegionProposalNetwork(channels, {s: SHAPES[s] for s in strides}, recipe).double()
    scales = {8: (16, 24), 16: (40, 64)}
    generator = AnchorGenerator(
        tuple(scales[s] for s in strides), ((0.5, 1.0, 2.0),) * len(strides)
    )
    modes = ("training", "testing")
    other = theirs.RegionProposalNetwork(
        generator,
        theirs.RPNHead(channels, 6),
        recipe.high,
        recipe.low,
        recipe.samples,
        recipe.positive_share,
        dict(zip(modes, recipe.pre_nms, strict=True)),
        dict(zip(modes, recipe.post_nms, strict=True)),
        recipe.iou_threshold,
    ).double()
    other.min_size = recipe.min_size
    assign_theirs = other.assign_targets_to_anchors

    def assign_in_double(*args):  # its labels are float32, and so would be its loss
        labels, boxes = assign_theirs(*args)
        return [x.double() for x in labels], boxes

    other.assign_targets_to_anchors = assign_in_double
    names = {"conv.0.0": "conv", "cls_logits": "logits", "bbox_pred": "deltas"}
    with torch.no_grad():
        for at, name in names.items():
            layer, copy = other.head.get_submodule(at), ours.head.get_submodule(name)
            layer.weight.normal_(0, 0.3, generator=seeded(len(at)))
            layer.bias.normal_(0, 0.3, generator=seeded(len(at) + 50))
            copy.weight.copy_(layer.weight)
            copy.bias.copy_(layer.bias)
    return ours, other, names


def run_theirs(other, features, targets):
    batch = len(next(iter(features.values())))
    images = ImageList(torch.zeros(batch, 3, *SIZE, dtype=F64), [SIZE] * batch)
    return other(images, {str(s): x for s, x in features.items()}, targets)


TORCHVISION = {
    "crossing": True,
    "offset": 0,
    "pre_nms": (60, 40),
    "post_nms": (25, 12),
    "samples": 40,
}


@pytest.mark.parametrize("strides", [(8,), (8, 16)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("extra", [{}, {"min_size": 14.0}, {"high": 0.5, "low": 0.4}], ids=str)
def test_equals_torchvision_in_losses_proposals_and_gradients(
    monkeypatch, strides, training, extra
):
    monkeypatch.setattr(theirs.box_ops, "batched_nms", loop_nms)  # the compiled one is absent
    ours, other, names = both(strides, Recipe(**{**TORCHVISION, **extra}))
    ours.train(training)
    other.train(training)
    features = features_of(strides, 6, 3, 0)
    inputs = [{s: x.clone().requires_grad_() for s, x in features.items()} for _ in range(2)]
    targets = [{"boxes": random_boxes(n, n)} for n in (5, 0, 2)]
    proposals, losses = ours(inputs[0], SIZE, targets if training else None, seeded(7))
    torch.manual_seed(7)  # theirs draws from the global generator, in the same order
    boxes, expected = run_theirs(other, inputs[1], targets if training else None)
    for mine, box in zip(proposals, boxes, strict=True):
        assert len(box) > 5
        assert_close(mine["boxes"], box, rtol=0, atol=1e-10)
    if not training:
        assert losses == {}
        return
    assert_close(losses["objectness"], expected["loss_objectness"], rtol=0, atol=1e-10)
    assert_close(losses["box"], expected["loss_rpn_box_reg"], rtol=0, atol=1e-10)
    (losses["objectness"] + 3 * losses["box"]).backward()
    (expected["loss_objectness"] + 3 * expected["loss_rpn_box_reg"]).backward()
    for stride in strides:
        assert_close(inputs[0][stride].grad, inputs[1][stride].grad, rtol=0, atol=1e-10)
    for at, name in names.items():
        layer, copy = other.head.get_submodule(at), ours.head.get_submodule(name)
        assert layer.weight.grad.abs().max() > 1e-3
        assert_close(copy.weight.grad, layer.weight.grad, rtol=0, atol=1e-10)
        assert_close(copy.bias.grad, layer.bias.grad, rtol=0, atol=1e-10)


def test_scores_equal_torchvisions(monkeypatch):
    monkeypatch.setattr(theirs.box_ops, "batched_nms", loop_nms)
    ours, other, _ = both((8, 16), Recipe(**TORCHVISION))
    features = features_of((8, 16), 6, 2, 3)
    anchors = torch.cat(ours.anchors(features))
    logits, deltas = ours.head(features)
    counts = [len(level) for level in ours.anchors(features)]
    decoded = torch.stack([BoxCodec().decode(d, anchors) for d in deltas])
    boxes, scores = other.train().filter_proposals(decoded, logits, [SIZE] * 2, counts)
    for i in range(2):
        mine = propose(logits[i], deltas[i], anchors, counts, SIZE, 60, 25)
        assert_close(mine["boxes"], boxes[i], rtol=0, atol=1e-10)
        assert_close(mine["scores"], scores[i], rtol=0, atol=1e-10)


def test_head_equals_torchvisions_level_by_level():
    _, other, _ = both((8, 16), Recipe(**TORCHVISION))
    ours, _, _ = both((8, 16), Recipe(**TORCHVISION))
    features = features_of((8, 16), 6, 2, 5)
    expected = theirs.concat_box_prediction_layers(*other.head(list(features.values())))
    logits, deltas = ours.head(features)
    assert_close(logits.flatten(), expected[0].flatten(), rtol=0, atol=1e-10)
    assert_close(deltas.reshape(-1, 4), expected[1], rtol=0, atol=1e-10)


# Parity with plain loops ----------------------------------------------------------


def assign_by_definition(anchors, truth, high, low, size):
    inside = [
        size is None or (a[0] >= 0 and a[1] >= 0 and a[2] <= size[1] and a[3] <= size[0])
        for a in anchors
    ]
    best = [
        max((iou_of(t, a) for a, ok in zip(anchors, inside, strict=True) if ok), default=0)
        for t in truth
    ]
    labels = []
    for anchor, ok in zip(anchors, inside, strict=True):
        overlaps = [iou_of(t, anchor) for t in truth]
        top = max(overlaps, default=0.0)
        forced = any(o == b > 0 for o, b in zip(overlaps, best, strict=True))
        if not ok:
            labels.append(-2)
        elif truth and (top >= high or forced):
            labels.append(overlaps.index(top))
        else:
            labels.append(-1 if top < low else -2)
    return labels


@given(g=st.integers(0, 4), seed=seeds, ignore=st.booleans(), limits=st.sampled_from([0.7, 0.4]))
def test_assignment_equals_the_definition(g, seed, ignore, limits):
    scales = torch.tensor([[16.0, 32.0], [32, 16], [48, 48]], dtype=F64)
    anchors = grid_anchors((6, 8), 16, scales)
    truth = random_boxes(g, seed).round()
    size = SIZE if ignore else None
    found = assign(anchors, truth, limits, 0.3, size)
    assert found.dtype == torch.int64
    assert found.tolist() == assign_by_definition(
        anchors.tolist(), truth.tolist(), limits, 0.3, size
    )


def test_the_best_anchor_of_a_truth_is_the_best_one_inside():
    truth = torch.tensor([[0.0, 0.0, 30.0, 30.0]])
    anchors = torch.tensor([[-1.0, 0.0, 30.0, 30.0], [0.0, 0.0, 60.0, 30.0], [90.0, 0, 99, 9]])
    assert assign(anchors, truth).tolist() == [0, -2, -1]
    assert assign(anchors, truth, image_size=(96, 128)).tolist() == [-2, 0, -1]


def log_loss(logit, positive):
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if positive else 1 - p)


def smooth_l1(x, beta):
    return x * x / (2 * beta) if abs(x) < beta else abs(x) - beta / 2


@given(s=st.integers(1, 9), seed=seeds, beta=st.sampled_from([1 / 9, 1.0]), n=st.integers(0, 50))
def test_loss_equals_eq_1(s, seed, beta, n):
    g = seeded(seed)
    logits = 2 * torch.randn(s, generator=g, dtype=F64)
    positive = torch.rand(s, generator=g) < 0.5
    deltas, goals = torch.randn(2, int(positive.sum()), 4, generator=g, dtype=F64).unbind()
    objectness, box = rpn_loss(logits, positive, deltas, goals, beta, n or None)
    terms = [log_loss(x, p) for x, p in zip(logits.tolist(), positive.tolist(), strict=True)]
    errors = [smooth_l1(x, beta) for x in (deltas - goals).flatten().tolist()]
    assert math.isclose(float(objectness), sum(terms) / s, abs_tol=1e-10)
    assert math.isclose(float(box), sum(errors) / (n or s), abs_tol=1e-10)


def test_loss_bends_where_torchvisions_does_unless_told_otherwise():
    deltas = torch.tensor([[0.2, 0.0, 0.0, 0.0]], dtype=F64)
    _, box = rpn_loss(deltas[0, :1], torch.tensor([True]), deltas, torch.zeros_like(deltas))
    assert math.isclose(float(box), 0.2 - 1 / 18, abs_tol=1e-12)
    assert Recipe().beta == 1 / 9


def test_one_logit_is_a_softmax_over_two():
    """The paper's 2k scores: their difference is the logit."""
    pair = torch.randn(20, 2, generator=seeded(0), dtype=F64, requires_grad=True)
    positive = torch.rand(20, generator=seeded(1)) < 0.5
    none = torch.zeros(int(positive.sum()), 4, dtype=F64)
    found, _ = rpn_loss(pair[:, 1] - pair[:, 0], positive, none, none)
    expected = nn.functional.cross_entropy(pair, positive.long())
    assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(x, pair)[0] for x in (found, expected)]
    assert_close(*gradients, rtol=0, atol=1e-12)


def losses_of(recipe, features, targets, seed=3):
    rpn = RegionProposalNetwork(6, {8: SHAPES[8]}, recipe, seeded(0)).double()
    with torch.no_grad():
        for layer in (rpn.head.logits, rpn.head.deltas):
            layer.weight.normal_(0, 0.3, generator=seeded(2))
    return rpn(features, SIZE, targets, seeded(seed))[1]


def test_normalisers_of_the_paper():
    """Its box loss is divided by the cells of the map, times lambda, whatever the samples."""
    features, targets = features_of((8,), 6, 2, 0), [{"boxes": random_boxes(4, 4)}] * 2
    small = {"pre_nms": (5, 5), "samples": 40}
    plain = losses_of(Recipe(**small), features, targets)
    paper = losses_of(Recipe(**small, by_locations=True, box_weight=10.0), features, targets)
    cells = 2 * (96 // 8) * (128 // 8)
    assert_close(paper["objectness"], plain["objectness"])
    assert_close(paper["box"], plain["box"] * 80 / cells * 10, rtol=0, atol=1e-10)


@given(seed=seeds)
def test_proposals_equal_plain_loops(seed):
    levels = [
        grid_anchors((3, 4), 16, SHAPES[8][:2]),
        grid_anchors((2, 2), 32, SHAPES[16][:2]),
    ]
    anchors, counts = torch.cat(levels), [len(x) for x in levels]
    g = seeded(seed)
    logits = torch.randint(-3, 4, (len(anchors),), generator=g).to(F64)  # ties
    deltas = 0.3 * torch.randn(len(anchors), 4, generator=g, dtype=F64)
    size, pre, post, least = (48, 64), 6, 7, 15.0
    chosen = []
    for start, n in ((0, counts[0]), (counts[0], counts[1])):
        order = sorted(range(start, start + n), key=lambda i: -logits[i])[:pre]
        chosen += [(i, start) for i in order]
    kept = []
    for i, level in sorted(chosen, key=lambda pair: -logits[pair[0]]):
        x1, y1, x2, y2 = anchors[i].tolist()
        dx, dy, dw, dh = deltas[i].tolist()
        w, h = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
        x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        box = [
            min(max(value, 0), most)
            for value, most in zip(
                (x - w / 2, y - h / 2, x + w / 2, y + h / 2), (64, 48, 64, 48), strict=True
            )
        ]
        if box[2] - box[0] < least or box[3] - box[1] < least:
            continue
        if all(other != level or iou_of(box, b) <= 0.5 for b, other, _ in kept):
            kept.append((box, level, 1 / (1 + math.exp(-logits[i]))))
    found = propose(logits, deltas, anchors, counts, size, pre, post, 0.5, least)
    expected = torch.tensor([box for box, _, _ in kept[:post]], dtype=F64).reshape(-1, 4)
    assert_close(found["boxes"], expected, rtol=0, atol=1e-10)
    scores = torch.tensor([score for _, _, score in kept[:post]], dtype=F64)
    assert_close(found["scores"], scores, rtol=0, atol=1e-10)


# Sampling --------------------------------------------------------------------------


@given(p=st.integers(0, 30), b=st.integers(0, 60), count=st.integers(0, 40), seed=seeds)
def test_samples_are_different_of_their_kind_and_as_many_as_possible(p, b, count, seed):
    labels = [i % 3 for i in range(p)] + [-1] * b + [-2] * 5
    random.Random(seed).shuffle(labels)
    matched = torch.tensor(labels)
    positive, background = sample(matched, count, 0.5, seeded(seed))
    assert len(positive) == min(p, count // 2)
    assert len(background) == min(b, count - len(positive))
    assert (matched[positive] >= 0).all()
    assert (matched[background] == -1).all()
    assert len(set(positive.tolist())) == len(positive)
    assert len(set(background.tolist())) == len(background)
    again = sample(matched, count, 0.5, seeded(seed))
    assert torch.equal(positive, again[0])
    assert torch.equal(background, again[1])


def test_every_anchor_is_sampled_equally_often():
    matched = torch.tensor([-1, 0, -1, 0, -2, 0, -1, -1])
    counts = torch.zeros(8)
    generator = seeded(0)
    for _ in range(2000):
        positive, background = sample(matched, 4, 0.5, generator)
        counts[positive] += 1
        counts[background] += 1
    expected = torch.tensor([0.5, 2 / 3, 0.5, 2 / 3, 0, 2 / 3, 0.5, 0.5])
    assert_close(counts / 2000, expected, rtol=0, atol=0.04)


def test_default_sample_is_that_of_the_paper():
    matched = torch.tensor([0] * 200 + [-1] * 1000)
    assert [len(x) for x in sample(matched)] == [128, 128]
    matched = torch.tensor([0] * 10 + [-1] * 1000)
    assert [len(x) for x in sample(matched)] == [10, 246]


# Invariants ------------------------------------------------------------------------


def test_batched_equals_single_and_labels_of_crowds_do_not_count():
    rpn = RegionProposalNetwork(6, SHAPES, Recipe(pre_nms=(50, 30)), seeded(0)).double().eval()
    features = features_of((8, 16), 6, 3, 1)
    together, _ = rpn(features, SIZE)
    for i in range(3):
        (alone,), losses = rpn({s: x[i : i + 1] for s, x in features.items()}, SIZE)
        assert losses == {}
        assert_close(together[i]["boxes"], alone["boxes"])
    boxes = random_boxes(4, 9)
    crowd = torch.tensor([False, True, False, True])
    single = {s: x[:1] for s, x in features.items()}
    with_crowd = rpn(single, SIZE, [{"boxes": boxes, "crowd": crowd}], seeded(1))[1]
    without = rpn(single, SIZE, [{"boxes": boxes[~crowd]}], seeded(1))[1]
    assert_close(with_crowd, without)


def test_training_and_evaluation_have_counts_of_their_own():
    recipe = Recipe(pre_nms=(40, 20), post_nms=(9, 4), iou_threshold=1.0)
    rpn = RegionProposalNetwork(6, SHAPES, recipe, seeded(0)).double()
    features = features_of((8, 16), 6, 1, 1)
    assert len(rpn.train()(features, SIZE)[0][0]["boxes"]) == 9
    assert len(rpn.eval()(features, SIZE)[0][0]["boxes"]) == 4
    assert Recipe().pre_nms == (12000, 6000)
    assert Recipe().post_nms == (2000, 300)


def test_crossing_anchors_learn_only_if_asked():
    """Of one box on the border, all that is sampled changes."""
    features = features_of((8,), 6, 1, 0)
    anchors = torch.cat(RegionProposalNetwork(6, {8: SHAPES[8]}).double().anchors(features))
    inside = int(
        ((anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= torch.tensor([128, 96])).all(1)).sum()
    )
    many = Recipe(samples=10**6, positive_share=0.0, pre_nms=(5, 5))
    targets = [{"boxes": torch.zeros(0, 4)}]
    seen = []
    for recipe in (many, Recipe(samples=10**6, pre_nms=(5, 5), crossing=True)):
        rpn = RegionProposalNetwork(6, {8: SHAPES[8]}, recipe, seeded(0)).double()
        logits = rpn.head(features)[0]
        logits.retain_grad()
        rpn.head.forward = lambda _, logits=logits: (logits, torch.zeros(1, len(anchors), 4))
        rpn(features, SIZE, targets)[1]["objectness"].backward()
        seen.append(int((logits.grad != 0).sum()))
    assert seen == [inside, len(anchors)]


def test_weights_are_those_of_the_paper():
    head = RPNHead(256, 9, seeded(0))
    assert head.logits.weight.shape[:2] == (9, 256)
    assert head.deltas.weight.shape[:2] == (36, 256)
    for layer in (head.conv, head.logits, head.deltas):
        assert math.isclose(layer.weight.std().item(), 0.01, rel_tol=0.05)
        assert not layer.bias.any()
    again = RPNHead(256, 9, seeded(0))
    assert torch.equal(head.conv.weight, again.conv.weight)


def test_arguments_are_not_changed_and_proposals_carry_no_gradient():
    features = {s: x.requires_grad_() for s, x in features_of((8,), 6, 1, 0).items()}
    before = features[8].detach().clone()
    targets = [{"boxes": random_boxes(3, 1)}]
    boxes = targets[0]["boxes"].clone()
    rpn = RegionProposalNetwork(6, {8: SHAPES[8]}, Recipe(pre_nms=(20, 20))).double()
    proposals, losses = rpn(features, SIZE, targets)
    assert not proposals[0]["boxes"].requires_grad
    assert not proposals[0]["scores"].requires_grad
    assert losses["box"].requires_grad
    assert torch.equal(features[8], before)
    assert torch.equal(targets[0]["boxes"], boxes)


def test_gradient():
    positive = torch.tensor([True, False, True, False, False])
    logits = torch.randn(5, generator=seeded(0), dtype=F64, requires_grad=True)
    deltas = torch.randn(2, 4, generator=seeded(1), dtype=F64, requires_grad=True)
    goals = torch.randn(2, 4, generator=seeded(2), dtype=F64)
    assert torch.autograd.gradcheck(
        lambda x, d: rpn_loss(x, positive, d, goals, 0.5, 3.0), (logits, deltas)
    )


# Edges -------------------------------------------------------------------------------


def test_images_without_truths_teach_background():
    rpn = RegionProposalNetwork(6, {8: SHAPES[8]}, Recipe(pre_nms=(20, 20)), seeded(0)).double()
    targets = [{"boxes": torch.zeros(0, 4)}] * 2
    _, losses = rpn(features_of((8,), 6, 2, 0), SIZE, targets, seeded(0))
    assert abs(losses["objectness"].item() - math.log(2)) < 0.05
    assert losses["box"].item() == 0
    sum(losses.values()).backward()
    assert rpn.head.deltas.weight.grad.abs().max() == 0
    assert rpn.head.logits.bias.grad.max() > 0  # less object everywhere


def test_nothing_sampled_gives_zero_with_gradient_zero():
    logits = torch.zeros(0, requires_grad=True)
    deltas = torch.zeros(0, 4, requires_grad=True)
    losses = rpn_loss(logits, torch.zeros(0, dtype=torch.bool), deltas, deltas.detach())
    assert [x.item() for x in losses] == [0, 0]
    sum(losses).backward()
    assert torch.isfinite(logits.grad).all()


def test_no_proposals_and_no_anchors():
    anchors = torch.tensor([[10.0, 10.0, 20.0, 20.0], [500.0, 500.0, 520.0, 520.0]])
    found = propose(torch.zeros(2), torch.zeros(2, 4), anchors, [2], (96, 96), 10, 10)
    assert len(found["boxes"]) == 1  # the other one has no area left
    for found in (
        propose(torch.zeros(2), torch.zeros(2, 4), anchors, [2], (96, 96), 10, 0),
        propose(torch.zeros(2), torch.zeros(2, 4), anchors, [2], (96, 96), 0, 10),
        propose(torch.zeros(2), torch.zeros(2, 4), anchors, [2], (96, 96), 9, 9, min_size=30),
        propose(torch.zeros(0), torch.zeros(0, 4), anchors[:0], [0], (96, 96), 10, 10),
    ):
        assert found["boxes"].shape == (0, 4)
        assert found["scores"].shape == (0,)


def test_a_truth_without_area_is_nobodys():
    anchors = grid_anchors((6, 8), 16, SHAPES[16])
    flat = torch.tensor([[40.0, 40.0, 40.0, 60.0]], dtype=F64)
    assert (assign(anchors, flat) == -1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    g = seeded(0)
    logits, deltas = torch.randn(200, generator=g), 0.2 * torch.randn(200, 4, generator=g)
    anchors = grid_anchors((5, 8), 100, 10 * SHAPES[8][:5].float())
    found = propose(logits.to(dtype), deltas.to(dtype), anchors, [200], (500, 800), 50, 20)
    expected = propose(
        logits.to(dtype).float(), deltas.to(dtype).float(), anchors, [200], (500, 800), 50, 20
    )
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert_close(found, expected)
    positive = torch.rand(200, generator=g) < 0.3
    some = deltas[positive]
    losses = rpn_loss(logits.to(dtype), positive, some.to(dtype), torch.zeros_like(some))
    assert losses[0].dtype == losses[1].dtype == torch.float32
    exact = rpn_loss(logits, positive, some, torch.zeros_like(some))
    assert_close(losses, exact, rtol=0.01, atol=0.01)


def test_a_model_in_half_precision():
    rpn = RegionProposalNetwork(6, {8: SHAPES[8].float()}, Recipe(pre_nms=(20, 20)), seeded(0))
    features = {8: features_of((8,), 6, 2, 0)[8].bfloat16()}
    targets = [{"boxes": random_boxes(n, n).float()} for n in (3, 0)]
    proposals, losses = rpn.bfloat16()(features, SIZE, targets, seeded(0))
    assert proposals[0]["boxes"].dtype == losses["box"].dtype == torch.float32
    assert abs(losses["objectness"].item() - math.log(2)) < 0.05
    sum(losses.values()).backward()
    assert rpn.head.conv.weight.grad.isfinite().all()


def test_non_contiguous_input():
    x = torch.randn(1, 12, 16, 6, generator=seeded(0), dtype=F64).permute(0, 3, 1, 2)
    rpn = RegionProposalNetwork(6, {8: SHAPES[8]}, Recipe(pre_nms=(20, 20)), seeded(0)).double()
    targets = [{"boxes": random_boxes(3, 0)}]
    found = rpn({8: x}, SIZE, targets, seeded(1))
    expected = rpn({8: x.contiguous()}, SIZE, targets, seeded(1))
    assert_close(found[0][0]["boxes"], expected[0][0]["boxes"])
    assert_close(found[1], expected[1])


def test_nan_is_not_hidden():
    none = torch.zeros(0, 4)
    losses = rpn_loss(torch.tensor([math.nan]), torch.tensor([False]), none, none)
    assert losses[0].isnan()
    anchors = torch.tensor([[10.0, 10.0, 20.0, 20.0]] * 2)
    with pytest.raises(ValueError, match="got nan at 1"):
        propose(torch.tensor([0, math.nan]), torch.zeros(2, 4), anchors, [2], (96, 96), 9, 9)
    deltas = torch.tensor([[0, 0, 0, 0], [0, math.inf, 0, 0]])
    with pytest.raises(ValueError, match="inf"):
        propose(torch.zeros(2), deltas, anchors, [2], (96, 96), 9, 9)
    with pytest.raises(ValueError, match="nan"):
        assign(anchors, torch.tensor([[0.0, math.nan, 5.0, 5.0]]))
    with pytest.raises(ValueError, match=r"9\.0, 0\.0, 5\.0, 5\.0"):
        assign(anchors, torch.tensor([[9.0, 0.0, 5.0, 5.0]]))


# Bad input ----------------------------------------------------------------------------


def call_propose(counts=(2,), pre=9, post=9, logits=None, n=2, m=2):
    anchors = torch.tensor([[10.0, 10.0, 20.0, 20.0]] * n)
    logits = torch.zeros(2) if logits is None else logits
    return propose(logits, torch.zeros(m, 4), anchors, counts, (96, 96), pre, post)


def call_rpn(features=None, targets=None):
    rpn = RegionProposalNetwork(6, {8: SHAPES[8].float()}, Recipe(pre_nms=(5, 5)))
    return rpn(features or {8: torch.zeros(1, 6, 12, 16)}, SIZE, targets)


TRUE = torch.tensor([True, False])
BAD = {
    "no channels": (lambda: RPNHead(0, 3), "channels must be at least 1, got 0"),
    "no anchors": (lambda: RPNHead(8, 0), "anchors must be at least 1, got 0"),
    "no levels": (lambda: RegionProposalNetwork(8, {}), r"got \{\}"),
    "anchors by level": (
        lambda: RegionProposalNetwork(8, {8: torch.ones(3, 2), 16: torch.ones(2, 2)}),
        r"\{8: \(3, 2\), 16: \(2, 2\)\}",
    ),
    "no shape": (lambda: RegionProposalNetwork(8, {8: torch.ones(0, 2)}), r"8: \(0, 2\)"),
    "stride": (lambda: call_rpn({16: torch.zeros(1, 6, 6, 8)}), r"strides \[8\], got \[16\]"),
    "targets": (lambda: call_rpn(targets=[]), "1 images, got 0"),
    "target": (lambda: call_rpn(targets=[{"boxes": torch.zeros(4)}]), r"\(G, 4\), got \(4,\)"),
    "matched": (lambda: sample(torch.zeros(3)), r"int64 \(N,\), got torch.float32 \(3,\)"),
    "count": (lambda: sample(torch.zeros(3, dtype=torch.int64), -1), "got -1 and 0.5"),
    "share": (lambda: sample(torch.zeros(3, dtype=torch.int64), 9, 1.5), "got 9 and 1.5"),
    "logits": (
        lambda: rpn_loss(torch.zeros(2, 1), TRUE, torch.zeros(1, 4), torch.zeros(1, 4)),
        r"\(S,\), got torch.float32 \(2, 1\)",
    ),
    "labels": (
        lambda: rpn_loss(torch.zeros(2), TRUE.long(), torch.zeros(1, 4), torch.zeros(1, 4)),
        r"bool \(2,\), got torch.int64 \(2,\)",
    ),
    "deltas": (
        lambda: rpn_loss(torch.zeros(2), TRUE, torch.zeros(2, 4), torch.zeros(2, 4)),
        r"\(1, 4\), got \(2, 4\)",
    ),
    "goals": (
        lambda: rpn_loss(torch.zeros(2), TRUE, torch.zeros(1, 4), torch.zeros(2, 4)),
        r"\(2, 4\)",
    ),
    "normalizer": (
        lambda: rpn_loss(torch.zeros(2), TRUE, torch.zeros(1, 4), torch.zeros(1, 4), 1, 0.0),
        "positive, got 0.0",
    ),
    "counts": (lambda: call_propose(counts=(1,)), r"got \[1\] for logits \(2,\)"),
    "negative count": (lambda: call_propose(counts=(3, -1)), r"got \[3, -1\]"),
    "pre": (lambda: call_propose(pre=-1), "got -1 and 9"),
    "post": (lambda: call_propose(post=-2), "got 9 and -2"),
    "more anchors": (lambda: call_propose(n=3), r"\(2, 4\), got \(2, 4\) and \(3, 4\)"),
    "more deltas": (lambda: call_propose(m=3), r"\(2, 4\), got \(3, 4\) and \(2, 4\)"),
    "batch": (lambda: call_propose(logits=torch.zeros(1, 2)), r"\(1, 2\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


# It learns ----------------------------------------------------------------------------


def test_learns_to_propose():
    """Anchors too flat or too tall for any object: without its deltas no proposal would do."""
    torch.set_num_threads(1)
    data = shapes(128, seeded(0), objects=(1, 4), sides=(12, 48))
    held = shapes(60, seeded(1), objects=(1, 4), sides=(12, 48))
    recipe = Recipe(crossing=True, samples=64, pre_nms=(20, 288), post_nms=(20, 50))
    flat_and_tall = {8: anchor_shapes((24,), (0.4, 2.5))}
    rpn = RegionProposalNetwork(24, flat_and_tall, recipe, seeded(0))
    layers = []
    for before, after, stride in ((3, 12, 2), (12, 24, 2), (24, 24, 1), (24, 24, 2), (24, 24, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    backbone = nn.Sequential(*layers)

    def recall(*counts):
        with torch.no_grad():
            proposals, _ = rpn({8: backbone(torch.stack([x for x, _ in held]))}, (96, 96))
        found = []
        for count in counts:
            hits = [
                (box_iou(target["boxes"], one["boxes"][:count]) >= 0.5).any(1)
                for one, (_, target) in zip(proposals, held, strict=True)
            ]
            found.append(float(torch.cat(hits).float().mean()))
        return found

    rpn.eval()
    backbone.eval()
    assert recall(50)[0] < 0.3
    rpn.train()
    backbone.train()
    optimizer = torch.optim.Adam([*backbone.parameters(), *rpn.parameters()])
    steps = 120
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    generator = seeded(2)
    for _ in range(steps):
        chosen = torch.randint(len(data), (8,), generator=generator).tolist()
        images = torch.stack([data[i][0] for i in chosen])
        _, losses = rpn({8: backbone(images)}, (96, 96), [data[i][1] for i in chosen], generator)
        optimizer.zero_grad()
        (losses["objectness"] + losses["box"]).backward()
        optimizer.step()
        schedule.step()
    rpn.eval()
    backbone.eval()
    with_50, with_10 = recall(50, 10)
    assert with_50 > 0.65, with_50
    assert with_10 > 0.5, with_10
