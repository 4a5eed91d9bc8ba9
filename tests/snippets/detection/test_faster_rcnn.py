"""Faster R-CNN: how RPN and Fast R-CNN are put together and trained; a tiny one that learns.

Yardstick: torchvision.models.detection.faster_rcnn.FasterRCNN;
    torch.nn.functional.adaptive_max_pool2d; plain loops.
"""

import copy
import functools
import math
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision.models.detection.faster_rcnn as theirs
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import boxes as box_ops

from snippets.detection.average_precision import evaluate_coco
from snippets.detection.box_regression import BoxCodec
from snippets.detection.fast_rcnn import (
    FastRCNN,
    detections_of_regions,
    fast_rcnn_loss,
    sample_regions,
)
from snippets.detection.faster_rcnn import FasterRCNN
from snippets.detection.rcnn import sliding_windows
from snippets.detection.region_proposal_network import Recipe, RegionProposalNetwork
from snippets.detection.roi_pooling_and_align import roi_pool
from snippets.detection.shapes_dataset import shapes

rpn = sys.modules[RegionProposalNetwork.__module__]
NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(pairs):
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


def some(count=3, seed=1, **options):
    return batch(shapes(count, seeded(seed), size=64, sides=(16, 32), empty=0, **options))


# Parity with torchvision ----------------------------------------------------------

F64 = torch.float64
LOSSES = {
    "objectness": "loss_objectness",
    "box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "region_box": "loss_box_reg",
}
SIDES = dict(scales=(16, 32), ratios=(0.25, 1, 4))  # whole pixels: torchvision rounds them


def loop_nms(boxes_xyxy, scores, threshold):
    """In place of torchvision's, which is compiled and not in every build."""
    kept, iou = [], box_ops.box_iou(boxes_xyxy, boxes_xyxy).tolist()
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(iou[i][j] <= threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


class CropAndPool(nn.Module):
    """RoI pooling in place of torchvision's; the last cell of a box may lie outside the map."""

    def forward(self, features, regions, _):
        padded = F.pad(features["0"], (0, 1, 0, 1), value=-math.inf)
        rows = [
            F.adaptive_max_pool2d(image[:, y1 : y2 + 1, x1 : x2 + 1], 7)
            for image, own in zip(padded, regions, strict=True)
            for x1, y1, x2, y2 in (own / 4 + 0.5).floor().int().tolist()
        ]
        pooled = torch.stack(rows)
        return pooled.where(pooled.isfinite(), 0)


def both(samples):
    """Ours and torchvision's with the same weights; of the shared map it has a copy of ours.

    Ours takes torchvision's numbers where they differ from the paper's: anchors on the corners of
    the cells, crossing ones too, and beta. Left out: anchors it would round, detections with a
    side below 0.01 pixels, resizing and padding of images, crowds, which it does not know.
    """
    # In training the number after the NMS cuts, in evaluation the one before it.
    limits = dict(pre_nms=(60, 24), post_nms=(20, 50))
    recipe = Recipe(samples=samples[0], crossing=True, offset=0, **limits)
    small = dict(widths=(4, 6, 6, 8, 8), channels=6, hidden=10, samples=samples[1])
    ours = FasterRCNN(3, **small, **SIDES, beta=1 / 9, recipe=recipe, generator=seeded()).double()
    with torch.no_grad():
        for i, p in enumerate([*ours.rpn.head.parameters(), *ours.head.parameters()]):
            p.normal_(0, 0.3 if p.ndim > 1 else 0.2, generator=seeded(i))
        for p in (ours.rpn.head.deltas.weight, ours.head.deltas.weight):
            p.mul_(0.3)
    backbone = copy.deepcopy(ours.shared)
    backbone.out_channels = 6
    modes = ("train", "test")
    other = theirs.FasterRCNN(
        backbone,
        min_size=64,
        max_size=96,
        image_mean=(0, 0, 0),
        image_std=(1, 1, 1),
        rpn_anchor_generator=AnchorGenerator(*((sides,) for sides in SIDES.values())),
        **{f"rpn_pre_nms_top_n_{mode}": n for mode, n in zip(modes, recipe.pre_nms)},
        **{f"rpn_post_nms_top_n_{mode}": n for mode, n in zip(modes, recipe.post_nms)},
        rpn_batch_size_per_image=samples[0],
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=theirs.TwoMLPHead(6 * 7 * 7, 10),
        box_predictor=theirs.FastRCNNPredictor(10, 4),
        box_batch_size_per_image=samples[1],
        _skip_resize=True,  # would draw a size in training
    ).double()
    other.roi_heads.box_roi_pool = CropAndPool()
    assign = other.rpn.assign_targets_to_anchors

    def assign_in_double(*args):  # its labels are float32, and so would be its loss
        labels, matched = assign(*args)
        return [x.double() for x in labels], matched

    other.rpn.assign_targets_to_anchors = assign_in_double
    with torch.no_grad():
        weights = in_the_order_of_torchvision(dict(ours.named_parameters()))
        for p, weight in zip(other.parameters(), weights, strict=True):
            p.copy_(weight)
    return ours, other


def in_the_order_of_torchvision(values):
    """Parameters, or their gradients, laid out as there: background first, with deltas for it."""
    for name, value in values.items():
        if name.startswith(("shared.", "rpn.")):
            yield value
    for name, value in values.items():
        if name.startswith("head.logits"):
            yield value.roll(1, 0)
        elif name.startswith("head.deltas"):
            yield torch.cat([torch.zeros_like(value[:4]), value])
        elif name.startswith("head."):
            yield value


def watch_proposals(ours, other):
    """What both first stages hand on."""
    seen = [], []
    ours.rpn.register_forward_hook(lambda *args: seen[0].extend(one["boxes"] for one in args[2][0]))
    other.rpn.register_forward_hook(lambda *args: seen[1].extend(args[2][0]))
    return seen


def wide(seed):
    """Images of 64 x 96 pixels; the second is empty."""
    images = torch.rand(3, 3, 64, 96, generator=seeded(seed), dtype=F64)
    targets = []
    for n in (3, 0, 2):
        u = torch.rand(n, 4, generator=seeded(seed + n), dtype=F64)
        low = u[:, :2] * torch.tensor([60, 30])
        labels = torch.randint(3, (n,), generator=seeded(seed + n))
        targets.append(dict(boxes=torch.cat([low, low + 8 + u[:, 2:] * 26], 1), labels=labels))
    return images, targets


# With others two regions may be rounded to the same cells; equal scores have no order.
each_seed = pytest.mark.parametrize("seed", [3, 8])


@pytest.mark.parametrize("samples", [(24, 10), (10**6, 10**6)], ids=["drawn", "all"])
@each_seed
def test_losses_proposals_and_gradients_equal_torchvision(monkeypatch, samples, seed):
    monkeypatch.setattr(box_ops, "nms", loop_nms)
    ours, other = both(samples)
    proposals = watch_proposals(ours, other)
    images, targets = wide(seed)
    losses = ours.losses(images, targets, seeded(7))
    torch.manual_seed(7)  # torchvision draws from the global generator, in the same order
    expected = other(list(images), [t | dict(labels=t["labels"] + 1) for t in targets])
    for one, wanted in zip(*proposals, strict=True):
        assert len(one) == 20
        assert_close(one, wanted, rtol=0, atol=1e-10)
    assert losses.keys() == LOSSES.keys()
    for name, loss in losses.items():
        assert loss > 1e-3
        assert_close(loss, expected[LOSSES[name]], rtol=0, atol=1e-10)
    weights = dict(zip(LOSSES, range(1, 5)))
    sum(w * losses[name] for name, w in weights.items()).backward()
    sum(w * expected[LOSSES[name]] for name, w in weights.items()).backward()
    grads = {name: p.grad for name, p in ours.named_parameters()}
    for p, grad in zip(other.parameters(), in_the_order_of_torchvision(grads), strict=True):
        assert_close(grad, p.grad, rtol=0, atol=1e-10)


@each_seed
def test_detections_equal_torchvision(monkeypatch, seed):
    monkeypatch.setattr(box_ops, "nms", loop_nms)
    ours, other = (model.eval() for model in both((24, 10)))
    proposals = watch_proposals(ours, other)
    images, _ = wide(seed)
    with torch.no_grad():
        detections, expected = ours.detect(images), other(list(images))
    for one, wanted in zip(*proposals, strict=True):
        assert 10 < len(one) <= 24
        assert_close(one, wanted, rtol=0, atol=1e-10)
    for one, wanted in zip(detections, expected, strict=True):
        assert len(one["scores"]) > 20
        assert torch.equal(one["labels"] + 1, wanted["labels"])
        for key in ("boxes", "scores"):
            assert_close(one[key], wanted[key], rtol=0, atol=1e-10)


# How it is put together -----------------------------------------------------------


def test_losses_are_those_of_the_parts():
    """The same draws, the same map: RPN first, then Fast R-CNN on its proposals."""
    model = FasterRCNN(generator=seeded())
    images, targets = some()
    losses = model.losses(images, targets, seeded(2))
    assert list(losses) == ["objectness", "box", "class", "region_box"]
    features, g = model.shared(images), seeded(2)
    found, expected = model.rpn({4: features}, (64, 64), targets, g)
    regions = [sample_regions(p["boxes"], t, 4, 32, generator=g) for p, t in zip(found, targets)]
    pooled = roi_pool(features, [r.boxes for r in regions], 7, 1 / 4)
    labels, goals = (torch.cat([getattr(r, k) for r in regions]) for k in ("labels", "goals"))
    expected["class"], expected["region_box"] = fast_rcnn_loss(*model.head(pooled), labels, goals)
    for name, value in losses.items():
        assert value > 0
        assert_close(value, expected[name])
    assert_close(model.loss(images, targets, generator=seeded(2)), sum(losses.values()))


def test_with_given_proposals_it_is_fast_rcnn():
    model, fast = FasterRCNN(generator=seeded()).eval(), FastRCNN().eval()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("rpn.")}
    fast.load_state_dict(own)
    images, targets = some()
    windows = [sliding_windows((64, 64), (24,))] * 3
    with torch.no_grad():
        assert_close(model(images, windows), fast(images, windows))
        losses = [m.loss(images, targets, windows, seeded()) for m in (model, fast)]
    assert_close(*losses)
    for one, other in zip(model.detect(images, windows), fast.detect(images, windows)):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_detections_are_those_of_the_second_stage_on_the_first():
    model = FasterRCNN(generator=seeded()).eval()
    images, _ = some()
    with torch.no_grad():
        found, _ = model.rpn({4: model.shared(images)}, (64, 64))
        proposals = [one["boxes"] for one in found]
        outputs = model(images, proposals)
        assert_close(model(images), outputs)
    expected = detections_of_regions(*outputs, proposals, (64, 64), 0.1)
    for one, other in zip(model.detect(images, min_score=0.1), expected):
        assert all(torch.equal(one[key], other[key]) for key in one) and len(one["scores"])


# How it is trained ----------------------------------------------------------------


def gradients(model, loss):
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {k for k, g in zip(parameters, grads) if g is not None and g.any()}


def test_training_is_approximate_and_joint():
    """No gradient through the proposals, but both stages teach the shared map."""
    model = FasterRCNN(generator=seeded())
    images, targets = some()
    losses = model.losses(images, targets, seeded())
    first = gradients(model, losses["objectness"] + losses["box"])
    losses = model.losses(images, targets, seeded())
    second = gradients(model, losses["class"] + losses["region_box"])
    assert not any(name.startswith("rpn.") for name in second)
    assert not any(name.startswith("head.") for name in first)
    shared = {name for name, p in model.shared.named_parameters() if p.ndim > 1}
    for found in (first, second):
        assert {f"shared.{name}" for name in shared} <= found
    weights = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert weights <= first | second


def test_proposals_in_training_are_more_than_in_evaluation():
    model = FasterRCNN(recipe=Recipe(post_nms=(30, 5), crossing=True), generator=seeded())
    images, _ = some(2)
    for training, count in ((True, 30), (False, 5)):
        model.train(training)
        proposals, losses = model.propose(model.shared(images), (64, 64))
        assert [len(p) for p in proposals] == [count, count] and losses == {}
        assert not any(p.requires_grad for p in proposals)


def test_anchors_have_the_given_scales_on_the_stride_of_the_map():
    model = FasterRCNN(scales=(10, 20), ratios=(1,), generator=seeded())
    (anchors,) = model.rpn.anchors({4: torch.zeros(1, 48, 2, 3)})
    assert len(anchors) == 12
    assert_close(anchors[:2], torch.tensor([[-3.0, -3.0, 7.0, 7.0], [-8.0, -8.0, 12.0, 12.0]]))
    (anchors,) = FasterRCNN(generator=seeded()).rpn.anchors({4: torch.zeros(1, 48, 1, 1)})
    w, h = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    expected = [(scale**2, ratio) for scale in (20, 34, 56) for ratio in (0.6, 1, 1.67)]
    assert_close(torch.stack([w * h, h / w], 1).sort(0)[0], torch.tensor(expected).sort(0)[0])


def test_one_image_alone_gives_the_same_as_in_a_batch():
    model = FasterRCNN(generator=seeded()).eval()
    images, _ = some()
    every = model.detect(images, min_score=0.15)
    for i, one in enumerate(every):
        (alone,) = model.detect(images[i : i + 1], min_score=0.15)
        assert_close(one["boxes"], alone["boxes"], atol=1e-3, rtol=1e-3)
        assert (one["scores"].diff() <= 0).all() and torch.equal(one["labels"], alone["labels"])
        assert (one["boxes"] >= 0).all() and (one["boxes"] <= 64).all()


def test_crowds_are_not_learned():
    model = FasterRCNN(generator=seeded())
    images, targets = some(1, objects=(1, 1))
    twice = {key: torch.cat([value, value]) for key, value in targets[0].items()}
    twice["crowd"] = torch.tensor([False, True])
    twice["boxes"][1] = torch.tensor([0.0, 0.0, 60.0, 60.0])
    losses = [model.losses(images, [t], seeded()) for t in (targets[0], twice)]
    for name, value in losses[0].items():
        assert_close(value, losses[1][name])


# Edges ----------------------------------------------------------------------------


def test_empty_images_teach_background():
    model = FasterRCNN(generator=seeded())
    images, _ = some(2)
    losses = model.losses(images, [NOTHING, NOTHING], seeded())
    assert losses["box"] == 0 and losses["region_box"] == 0
    assert losses["objectness"] > 0 and losses["class"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_no_proposals_at_all():
    model = FasterRCNN(recipe=Recipe(post_nms=(0, 0), crossing=True), generator=seeded())
    images, _ = some(2)
    assert math.isfinite(model.loss(images, [NOTHING, NOTHING], generator=seeded()).item())
    found = model.eval().detect(images)
    assert [tuple(one["boxes"].shape) for one in found] == [(0, 4), (0, 4)]
    logits, deltas = model(images)
    assert logits.shape == (0, 5) and deltas.shape == (0, 4, 4)


def test_nothing_passes():
    model = FasterRCNN(generator=seeded()).eval()
    for one in model.detect(some(2)[0], min_score=1.0):
        assert one["boxes"].shape == (0, 4) and one["scores"].shape == one["labels"].shape == (0,)
    assert model.detect(torch.zeros(0, 3, 64, 64)) == []


@pytest.mark.parametrize("dtype", [None, torch.float64], ids=["autocast", "float64"])
def test_it_runs_in_other_precisions(dtype):
    model = FasterRCNN(generator=seeded()).to(dtype or torch.float32)
    images, targets = some(2)
    images = images.to(dtype or torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is None):
        loss = model.loss(images, targets, generator=seeded())
        loss.backward()
        found = model.eval().detect(images)
    assert loss.dtype == (dtype or torch.float32) and loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for one in found:
        assert len(one["scores"]) and one["boxes"].dtype == one["scores"].dtype == loss.dtype


def test_layout_does_not_matter():
    model = FasterRCNN(generator=seeded()).eval()
    images, _ = some(2)
    strided = images.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    for one, other in zip(model.detect(strided), model.detect(images)):
        assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=1e-3)


def test_weights_come_from_the_generator():
    a, b, c = (FasterRCNN(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["rpn.head.conv.weight"], c["rpn.head.conv.weight"])


# The detector ---------------------------------------------------------------------


@functools.cache
def shaded(count, seed):
    """An object in a small image, of one class for all: soon learnt."""
    drawn = shapes(count, seeded(seed), size=32, objects=(1, 1), sides=(16, 22))
    for _, target in drawn:
        target["labels"] = torch.zeros_like(target["labels"])
    return drawn


def spoiled(patch, spoil):
    """Break a loss."""
    encode, loss = BoxCodec.encode, rpn.rpn_loss
    if spoil == "offsets":
        patch.setattr(BoxCodec, "encode", lambda *args: 0 * encode(*args))
    if spoil == "objectness":
        patch.setattr(rpn, "rpn_loss", lambda logits, *args: loss(-logits, *args))


def trained(spoil, seed=0):
    """Train on images that are new in each step; AP on those of another generator."""
    torch.set_num_threads(1)
    g, steps, rate = seeded(seed), 60, 4e-3
    limits = dict(pre_nms=(60, 40), post_nms=(20, 10))
    recipe = Recipe(high=0.5, low=0.4, samples=24, crossing=True, **limits)
    options = dict(widths=(8, 16, 32, 32, 32), channels=24, hidden=64, samples=8)
    anchors = dict(scales=(18,), ratios=(1,), recipe=recipe)
    model = FasterRCNN(1, **options, **anchors, positive_share=0.5, beta=1 / 9, generator=g)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for i in range(steps):
        images, targets = batch(shaded(16 * steps, seed)[16 * i : 16 * i + 16])
        with pytest.MonkeyPatch.context() as patch:
            spoiled(patch, spoil)
            loss = model.loss(images, targets, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    images, targets = batch(shaded(80, 1000 + seed))
    return evaluate_coco(model.eval().detect(images), targets)


@pytest.mark.parametrize("spoil", [None, "objectness", "offsets"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(spoil):
    result = trained(spoil)
    assert (result["AP50"] > 0.58 and result["AP"] > 0.2) == (spoil is None), result


# Bad input ------------------------------------------------------------------------

IMAGES = torch.zeros(1, 3, 64, 64)
BOX = torch.tensor([[0.0, 0.0, 30.0, 30.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FasterRCNN(classes=0), r"classes must be at least 1, got 0"),
        (lambda: FasterRCNN(scales=(-1,)), r"scales must be positive .* got -1"),
        (lambda: FasterRCNN(ratios=()), r"shapes must be \(A, 2\)"),
        (
            lambda: FasterRCNN()(IMAGES[:, :1]),
            r"images must be floating \(B, 3, H, W\), got torch.float32 \(1, 1, 64",
        ),
        (lambda: FasterRCNN()(IMAGES[0]), r"got torch.float32 \(3, 64, 64\)"),
        (lambda: FasterRCNN().detect(IMAGES.long()), r"got torch.int64"),
        (lambda: FasterRCNN().eval().detect(IMAGES / 0), r"must .* got .*nan"),
        (lambda: FasterRCNN().loss(IMAGES / 0, [NOTHING]), r"must .* got .*nan"),
        (lambda: FasterRCNN().detect(IMAGES, [-BOX]), r"boxes\[0\] must be finite with x1 <= x2"),
        (lambda: FasterRCNN().loss(IMAGES, [NOTHING], []), r"each of 1 images, got 0"),
        (
            lambda: FasterRCNN().loss(IMAGES, [{k: x.to("meta") for k, x in NOTHING.items()}]),
            r"a target must be on cpu, got boxes on meta",
        ),
        (lambda: FasterRCNN().loss(IMAGES, []), r"one an image, 1, got 0"),
        (
            lambda: FasterRCNN().loss(IMAGES, [dict(boxes=BOX, labels=torch.tensor([4]))]),
            r"int64 from 0 to 3, got tensor\(\[4\]\)",
        ),
        (
            lambda: FasterRCNN().loss(IMAGES, [dict(boxes=BOX / 0, labels=torch.tensor([0]))]),
            r"targets' boxes must be finite",
        ),
        (
            lambda: FasterRCNN().loss(IMAGES, [dict(boxes=0 * BOX, labels=torch.tensor([0]))]),
            r"positive size, got \[0.0, 0.0, 0.0, 0.0\]",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
