"""Mask R-CNN: mask head, goals, loss and pasting; a tiny one that learns.

Yardstick: torchvision.models.detection.mask_rcnn.MaskRCNNHeads;
    torchvision.models.detection.mask_rcnn.MaskRCNNPredictor;
    torchvision.models.detection.roi_heads.maskrcnn_loss;
    torchvision.models.detection.roi_heads.project_masks_on_boxes;
    torchvision.models.detection.roi_heads.paste_masks_in_image; plain loops.
"""

import functools
import math
import sys

import pytest
import torch
import torchvision.models.detection.roi_heads as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from snippets.detection.average_precision import evaluate_coco
from snippets.detection.mask_rcnn import MaskHead, MaskRCNN, mask_goals, mask_loss, paste_masks
from snippets.detection.region_proposal_network import Recipe
from snippets.detection.roi_pooling_and_align import roi_align
from snippets.detection.shapes_dataset import shapes

F64 = torch.float64
seeds = st.integers(0, 10**6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(pairs):
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


def some(count=3, seed=1, **options):
    return batch(shapes(count, seeded(seed), size=64, sides=(16, 32), empty=0, **options))


def random_case(n, seed, classes=3, size=6):
    g = seeded(seed)
    logits = torch.randn(n, classes, size, size, generator=g, dtype=F64)
    labels = torch.randint(classes, (n,), generator=g)
    return logits, labels, torch.rand(n, size, size, generator=g) < 0.5


# Parity: head ---------------------------------------------------------------------


def test_head_equals_torchvision():
    ours = MaskHead(5, 3, depth=2).double()
    tower = MaskRCNNHeads(5, (5, 5), 1).double()
    predictor = MaskRCNNPredictor(5, 5, 3).double()
    others = [*tower.parameters(), *predictor.parameters()]
    for i, (p, q) in enumerate(zip(ours.parameters(), others, strict=True)):
        with torch.no_grad():
            p.normal_(0, 0.4, generator=seeded(i))
            q.copy_(p)
    x = torch.randn(2, 5, 4, 4, generator=seeded(), dtype=F64, requires_grad=True)
    results = []
    for function, first in (
        (ours, ours.enlarge.weight),
        (lambda x: predictor(tower(x)), predictor.conv5_mask.weight),
    ):
        y = function(x)
        weight = torch.randn(y.shape, generator=seeded(1), dtype=F64)
        results.append((y.detach(), *torch.autograd.grad((y * weight).sum(), [x, first])))
    assert results[0][0].shape == (2, 3, 8, 8)
    for a, b in zip(*results):
        assert_close(a, b, rtol=0, atol=1e-10)


# Parity: goals --------------------------------------------------------------------


def random_masks(n, seed, size=20):
    """Blobs without fine detail, and boxes around."""
    g = seeded(seed)
    noise = torch.rand(n, 1, 4, 4, generator=g)
    masks = torch.nn.functional.interpolate(noise, (size, size), mode="bilinear")[:, 0] > 0.5
    low = torch.rand(n, 2, generator=g, dtype=F64) * 8 + 1
    return masks, torch.cat([low, low + 3 + torch.rand(n, 2, generator=g, dtype=F64) * 7], 1)


def test_goals_equal_torchvision_half_a_pixel_on(monkeypatch):
    python = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__  # not compiled

    def align(masks, rois, size, scale):
        return python(masks, rois, scale, *size, -1, False)

    monkeypatch.setattr(theirs, "roi_align", align)
    masks, boxes = random_masks(12, 0)
    shares = theirs.project_masks_on_boxes(masks, boxes - 0.5, torch.arange(12), 7)
    clear = (shares - 0.5).abs() > 1e-6
    goals = mask_goals(masks, boxes, 7)
    assert goals.dtype == torch.bool and goals.shape == (12, 7, 7)
    assert torch.equal(goals[clear], (shares >= 0.5)[clear])
    assert clear.float().mean() > 0.9 and 0.2 < goals.float().mean() < 0.8


def test_the_goal_of_a_box_of_whole_pixels_is_the_mask_itself():
    masks = torch.rand(3, 9, 12, generator=seeded()) < 0.5
    boxes = torch.tensor([[2.0, 1.0, 7.0, 6.0]]).expand(3, 4)
    assert torch.equal(mask_goals(masks, boxes, 5), masks[:, 1:6, 2:7])


def test_half_covered_counts_and_what_lies_outside_does_not():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :, :1] = True
    assert mask_goals(mask, torch.tensor([[0.0, 0.0, 2.0, 2.0]]), 1).all()
    assert not mask_goals(mask, torch.tensor([[0.0, 0.0, 3.0, 3.0]]), 1).any()
    assert mask_goals(mask, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), 4)[0].tolist() == mask[0].tolist()


# Parity: loss ---------------------------------------------------------------------


def loss_by_definition(logits, labels, goals):
    total = 0 * logits.sum()
    for z, k, goal in zip(logits, labels.tolist(), goals):
        for a, b in zip(z[k].flatten(), goal.flatten().tolist()):
            total = total - torch.nn.functional.logsigmoid(a if b else -a)
    return total / max(goals.numel(), 1)


def loss_of_torchvision(logits, labels, goals):
    """With its own goals replaced by ours."""
    n = len(labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "project_masks_on_boxes", lambda masks, *_: masks.to(logits))
        index = [torch.arange(n)]
        return theirs.maskrcnn_loss(logits, [torch.zeros(n, 4)], [goals], [labels], index)


@pytest.mark.parametrize("reference", [loss_by_definition, loss_of_torchvision])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_loss_equals_torchvision_and_the_definition(reference, n):
    logits, labels, goals = random_case(n, n)
    results = []
    for function in (mask_loss, reference):
        leaf = logits.clone().requires_grad_()
        loss = function(leaf, labels, goals)
        results.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    for a, b in zip(*results):
        assert_close(a, b, rtol=0, atol=1e-10)


def test_masks_of_other_classes_get_no_gradient():
    logits, labels, goals = random_case(4, 0)
    leaf = logits.requires_grad_()
    (grad,) = torch.autograd.grad(mask_loss(leaf, labels, goals), leaf)
    assert torch.equal(grad.flatten(2).any(-1), torch.nn.functional.one_hot(labels, 3).bool())


# Parity: pasting ------------------------------------------------------------------


def pasted_by_definition(prob, box, size):
    (H, W), M = size, len(prob)
    x1, y1, x2, y2 = box.tolist()
    rows = []
    for i in range(H):
        row = []
        for j in range(W):
            x = (j + 0.5 - x1) / (x2 - x1) * M - 0.5
            y = (i + 0.5 - y1) / (y2 - y1) * M - 0.5
            total = prob.new_zeros(())
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    if 0 <= r < M and 0 <= c < M:
                        total = total + (1 - abs(y - r)) * (1 - abs(x - c)) * prob[r, c]
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_pasting_equals_the_definition(seed):
    g = seeded(seed)
    probs = torch.rand(3, 4, 4, generator=g, dtype=F64)
    low = torch.rand(3, 2, generator=g, dtype=F64) * 8 - 2  # some leave the image
    boxes = torch.cat([low, low + 2 + torch.rand(3, 2, generator=g, dtype=F64) * 9], 1)
    results = []
    for ours in (True, False):
        leaf = probs.clone().requires_grad_()
        if ours:
            found = paste_masks(leaf, boxes, (9, 11))
        else:
            pairs = zip(leaf, boxes)
            found = torch.stack([pasted_by_definition(p, b, (9, 11)) for p, b in pairs])
        weight = torch.randn(3, 9, 11, generator=seeded(9), dtype=F64)
        results.append((found.detach(), torch.autograd.grad((found * weight).sum(), leaf)[0]))
    for a, b in zip(*results):
        assert_close(a, b, rtol=0, atol=1e-10)


def test_pasting_equals_torchvision_where_it_does_not_round():
    """Its box ends at the last pixel, and is enlarged by a cell on each side before rounding."""
    M = 4
    probs = torch.rand(1, M, M, generator=seeded(), dtype=F64)
    for low, high in (((3, 5), (15, 23)), ((-2, 4), (10, 10))):
        low, high = torch.tensor(low, dtype=F64), torch.tensor(high, dtype=F64)
        rim = (high - low) / (M + 2)
        ours = paste_masks(probs, torch.cat([low + rim, high - rim])[None], (24, 30))
        middle, half = (low + high - 1) / 2, (high - 1 - low) / 2 * M / (M + 2)
        box = torch.cat([middle - half - 1e-9 * (low < 0) + 1e-9 * (low > 0), middle + half + 1e-9])
        expected = theirs.paste_masks_in_image(probs[:, None], box[None], (24, 30))
        assert_close(ours, expected[:, 0], rtol=0, atol=1e-10)
        assert ours.any()


# Invariants -----------------------------------------------------------------------


@given(n=st.integers(1, 4), seed=seeds)
@settings(max_examples=20)
def test_order_does_not_matter_and_each_is_alone(n, seed):
    masks, boxes = random_masks(n, seed)
    p = torch.randperm(n, generator=seeded(seed))
    goals = mask_goals(masks, boxes, 5)
    assert torch.equal(mask_goals(masks[p], boxes[p], 5), goals[p])
    pasted = paste_masks(goals.double(), boxes, (20, 20))
    assert_close(paste_masks(goals.double()[p], boxes[p], (20, 20)), pasted[p])
    assert (pasted >= 0).all() and (pasted <= 1 + 1e-12).all()


def test_what_is_cut_out_and_pasted_is_the_mask_again():
    for _, target in shapes(10, seeded(), size=64, sides=(16, 40), empty=0):
        goals = mask_goals(target["masks"], target["boxes"], 28)
        back = paste_masks(goals.float(), target["boxes"], (64, 64)) >= 0.5
        union, both = (back | target["masks"]).sum(), (back & target["masks"]).sum()
        assert both / union > 0.85


def test_gradient():
    logits, labels, goals = random_case(2, 1, size=3)
    assert torch.autograd.gradcheck(lambda z: mask_loss(z, labels, goals), logits.requires_grad_())


# Edges ----------------------------------------------------------------------------


def test_nothing():
    none = torch.zeros(0, 4)
    assert mask_goals(torch.zeros(0, 8, 8) > 0, none, 5).shape == (0, 5, 5)
    assert paste_masks(torch.zeros(0, 5, 5), none, (8, 9)).shape == (0, 8, 9)
    assert MaskHead(3, 2)(torch.zeros(0, 3, 7, 7)).shape == (0, 2, 14, 14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    logits, labels, goals = random_case(3, 1)
    found = mask_loss(logits.to(dtype), labels, goals)
    assert found.dtype == torch.float32
    assert_close(found.double(), mask_loss(logits, labels, goals), rtol=0.02, atol=0.02)
    masks, boxes = random_masks(4, 0)
    boxes = boxes.to(dtype)  # and as coarse in all that follows
    goals = mask_goals(masks, boxes, 5)
    assert torch.equal(goals, mask_goals(masks, boxes.float(), 5))
    pasted = paste_masks(goals.to(dtype), boxes, (20, 20))
    assert pasted.dtype == dtype
    expected = paste_masks(goals.float(), boxes.float(), (20, 20))
    assert_close(pasted.float(), expected, rtol=0, atol=0.01)


def test_layout_does_not_matter_and_nothing_is_changed():
    logits, labels, goals = random_case(3, 2)
    masks, boxes = random_masks(3, 0)
    before = [x.clone() for x in (logits, labels, goals, masks, boxes)]
    strided = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (logits, goals, masks)]
    assert_close(mask_loss(strided[0], labels, strided[1]), mask_loss(logits, labels, goals))
    assert torch.equal(
        mask_goals(strided[2], boxes.T.contiguous().T, 5), mask_goals(masks, boxes, 5)
    )
    probs = logits[:, 0].sigmoid()
    pasted = paste_masks(strided[0][:, 0].sigmoid(), boxes, (20, 20))
    assert_close(pasted, paste_masks(probs, boxes, (20, 20)))
    assert all(torch.equal(a, b) for a, b in zip(before, (logits, labels, goals, masks, boxes)))


def test_nan_is_not_hidden_where_it_counts():
    logits, labels, goals = random_case(2, 0)
    spoiled = logits.clone()
    spoiled[0, (labels[0] + 1) % 3] = math.nan
    assert mask_loss(spoiled, labels, goals).isfinite()
    spoiled[0, labels[0], 1, 1] = math.nan
    assert mask_loss(spoiled, labels, goals).isnan()


# The detector ---------------------------------------------------------------------


def test_losses_and_gradients():
    model = MaskRCNN(generator=seeded())
    images, targets = some()
    losses = model.losses(images, targets, seeded())
    assert list(losses) == ["objectness", "box", "class", "region_box", "mask"]
    assert losses["mask"].item() > 0.3
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    grads = torch.autograd.grad(losses["mask"], list(weights.values()), allow_unused=True)
    reached = {name for name, g in zip(weights, grads) if g is not None and g.any()}
    assert reached == {n for n in weights if n.startswith(("shared.", "mask_head."))}
    total = model.loss(images, targets, generator=seeded())
    assert_close(total, sum(model.losses(images, targets, seeded()).values()))
    total.backward()
    assert all(p.grad is not None and p.grad.any() for p in weights.values())


def test_the_mask_loss_is_that_of_the_positive_regions():
    model = MaskRCNN(generator=seeded()).eval()
    images, targets = some()
    targets[0]["crowd"] = torch.arange(len(targets[0]["labels"])) == 0  # crowds are left out
    losses = model.losses(images, targets, seeded(3))
    features, regions, _ = model._first_stage(images, targets, seeded(3))
    parts = []
    for i, (region, target) in enumerate(zip(regions, targets)):
        keep = ~target["crowd"] if "crowd" in target else slice(None)
        for j, truth in enumerate(region.truth.tolist()):
            box = region.boxes[j : j + 1]
            pooled = roi_align(features[i : i + 1], [box], 14, 1 / 4)
            goal = mask_goals(target["masks"][keep][truth][None], box, 28)
            label = target["labels"][keep][truth][None]
            parts.append(mask_loss(model.mask_head(pooled), label, goal))
    assert len(parts) > 5
    assert_close(losses["mask"], torch.stack(parts).mean())


def test_masks_are_those_of_the_label_in_the_final_box():
    model = MaskRCNN(generator=seeded()).eval()
    images, _ = some()
    found = model.detect(images, min_score=0.1, most=6)
    assert sum(len(one["labels"]) for one in found) > 6
    for i, one in enumerate(found):
        assert one["masks"].dtype == torch.bool
        assert one["masks"].shape == (len(one["labels"]), 64, 64)
        with torch.no_grad():
            pooled = roi_align(model.shared(images)[i : i + 1], [one["boxes"]], 14, 1 / 4)
            probs = model.mask_head(pooled).sigmoid()
        for j, label in enumerate(one["labels"].tolist()):
            pasted = paste_masks(probs[j, label][None], one["boxes"][j][None], (64, 64))
            clear = (pasted[0] - 0.5).abs() > 1e-4
            assert torch.equal(one["masks"][j][clear], (pasted[0] >= 0.5)[clear])


def test_empty_images_and_no_proposals():
    nothing = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    nothing["masks"] = torch.zeros(0, 64, 64, dtype=torch.bool)
    images, _ = some(2)
    model = MaskRCNN(generator=seeded())
    losses = model.losses(images, [nothing, nothing], seeded())
    assert losses["mask"] == 0 and losses["class"] > 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert not any(p.grad.any() for p in model.mask_head.parameters() if p.grad is not None)
    for one in model.eval().detect(images, min_score=1.0):
        assert one["labels"].shape == (0,) and one["masks"].shape == (0, 64, 64)
        assert one["masks"].dtype == torch.bool
    assert model.detect(images[:0]) == []
    empty = MaskRCNN(recipe=Recipe(post_nms=(0, 0)), generator=seeded()).eval()
    for one in empty.detect(images):
        assert one["boxes"].shape == (0, 4) and one["masks"].shape == (0, 64, 64)


@pytest.mark.parametrize("dtype", [None, F64], ids=["autocast", "float64"])
def test_it_runs_in_other_precisions(dtype):
    model = MaskRCNN(generator=seeded()).to(dtype or torch.float32)
    images, targets = some(2)
    images = images.to(dtype or torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is None):
        loss = model.loss(images, targets, generator=seeded())
        loss.backward()
        found = model.eval().detect(images, most=5)
    assert loss.dtype == (dtype or torch.float32) and loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(len(one["masks"]) == len(one["scores"]) == 5 for one in found)


@functools.cache
def shaded(count, seed):
    """An object in a small image, of one class for all: soon learnt."""
    drawn = shapes(count, seeded(seed), size=32, objects=(1, 1), sides=(16, 22))
    for _, target in drawn:
        target["labels"] = torch.zeros_like(target["labels"])
    return drawn


def trained(spoil, seed=0):
    """Train on images that are new in each step; AP of boxes and masks on others."""
    torch.set_num_threads(1)
    g, steps, rate = seeded(seed), 60, 4e-3
    limits = dict(pre_nms=(60, 40), post_nms=(20, 10))
    recipe = Recipe(high=0.5, low=0.4, samples=24, crossing=True, **limits)
    options = dict(widths=(8, 16, 32, 32, 32), channels=24, hidden=64, samples=8)
    anchors = dict(scales=(18,), ratios=(1,), recipe=recipe, mask_size=7, mask_depth=1)
    model = MaskRCNN(1, **options, **anchors, positive_share=0.5, beta=1 / 9, generator=g)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for i in range(steps):
        images, targets = batch(shaded(16 * steps, seed)[16 * i : 16 * i + 16])
        if spoil == "masks":
            targets = [t | dict(masks=t["masks"].flip(1)) for t in targets]
        loss = model.loss(images, targets, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    images, targets = batch(shaded(80, 1000 + seed))
    found = model.eval().detect(images)
    return tuple(evaluate_coco(found, targets, kind=kind)["AP50"] for kind in ("boxes", "masks"))


@pytest.mark.parametrize("spoil", [None, "masks"])
def test_it_learns_in_seconds_and_with_broken_masks_it_does_not(spoil):
    result = trained(spoil)
    assert (result[0] > 0.5 and result[1] > 0.4) == (spoil is None), result


# Bad input ------------------------------------------------------------------------

BOX = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
MASK = torch.zeros(1, 8, 8, dtype=torch.bool)
META = torch.zeros(0, 4, device="meta")
LOSS = (torch.zeros(1, 2, 4, 4), torch.tensor([1]), torch.ones(1, 4, 4))
DEVICES = ("cpu", "cpu", "meta")


def losing(labels=(0, 2), shape=(2, 3, 4, 4), goal=(2, 4, 4), dtype=torch.int64):
    return mask_loss(torch.zeros(shape), torch.tensor(labels, dtype=dtype), torch.zeros(goal))


def detector_loss(**target):
    good = dict(boxes=8 * BOX, labels=torch.tensor([0]))
    return MaskRCNN().loss(torch.zeros(1, 3, 64, 64), [good | target])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MaskHead(0, 2), r"got 0, 2 and 4"),
        (lambda: MaskHead(3, 2, -1), r"got 3, 2 and -1"),
        (lambda: mask_goals(MASK.float(), BOX, 4), r"got torch.float32 \(1, 8, 8\)"),
        (lambda: mask_goals(MASK, BOX[:0], 4), r"and \(0, 4\)"),
        (lambda: mask_goals(MASK, BOX.long(), 4), r"must be floating, got torch.int64"),
        (lambda: losing(goal=(2, 4, 5)), r"got \(2, 3, 4, 4\), \(2,\) and \(2, 4, 5\)"),
        (lambda: mask_goals(MASK, BOX / 0, 4), r"must be finite"),
        (lambda: mask_goals(MASK, -BOX, 4), r"x1 <= x2"),
        (lambda: mask_goals(MASK, META, 4), r"masks are on cpu, boxes_xyxy on meta"),
        (lambda: mask_goals(MASK, BOX, 0), r"size must be at least 1, got 0"),
        (lambda: mask_loss(*(x.to(d) for x, d in zip(LOSS, DEVICES))), r"'cpu', 'cpu', 'meta'\]"),
        (lambda: mask_loss(LOSS[0].long(), *LOSS[1:]), r"logits must be floating, got torch.int64"),
        (lambda: mask_loss(*LOSS[:2], 2 * LOSS[2]), r"goals must be from 0 to 1, got 2.0"),
        (lambda: mask_loss(*LOSS[:2], LOSS[2] / 0 * 0), r"goals must be from 0 to 1, got nan"),
        (lambda: losing(labels=(0,)), r"\(1,\) and"),
        (lambda: losing(labels=(0, 3)), r"int64 from 0 to 2, got tensor\(\[0, 3\]\)"),
        (lambda: losing(dtype=torch.int32), r"labels must be int64"),
        (lambda: paste_masks(MASK, BOX, (8, 8)), r"got torch.bool \(1, 8, 8\)"),
        (lambda: paste_masks(MASK.float(), BOX[:0], (8, 8)), r"and \(0, 4\)"),
        (lambda: paste_masks(MASK.float(), 0 * BOX, (8, 8)), r"positive size, got \[0.0, 0.0"),
        (lambda: paste_masks(MASK.float(), BOX, (0, 8)), r"positive, got \(0, 8\)"),
        (lambda: paste_masks(MASK.float(), -BOX, (8, 8)), r"x1 <= x2"),
        (lambda: paste_masks(MASK.float(), BOX / 0, (8, 8)), r"must be finite"),
        (lambda: paste_masks(MASK.float(), META, (8, 8)), r"probs are on cpu, boxes_xyxy on meta"),
        (lambda: MaskRCNN().losses(torch.zeros(3, 64, 64), []), r"got torch.float32 \(3, 64, 64\)"),
        (lambda: MaskRCNN().losses(torch.zeros(1, 3, 64, 64), []), r"one an image, 1, got 0"),
        (
            lambda: detector_loss(masks=torch.zeros(1, 64, 64, dtype=torch.bool, device="meta")),
            r"got torch.bool \(1, 64, 64\) on meta",
        ),
        (lambda: detector_loss(), r"a target needs masks, got \['boxes', 'labels'\]"),
        (lambda: detector_loss(masks=MASK), r"bool \(1, 64, 64\) .* got torch.bool \(1, 8, 8\)"),
        (
            lambda: detector_loss(labels=torch.tensor([9]), masks=torch.zeros(1, 64, 64) > 0),
            r"0 to 3",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
