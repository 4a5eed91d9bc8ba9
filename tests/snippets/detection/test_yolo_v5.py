"""YOLO v5: decoding, matching by ratio, auto-anchor, C3, published sizes.

Yardstick: plain loops.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.detection.iou import iou_loss
from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v2 import places
from snippets.detection.yolo_v5 import (
    C3,
    V5_BALANCE,
    YOLOv5,
    auto_anchor,
    decode_v5,
    evolve,
    fitness,
    match_all,
    match_v5,
    ratio_fit,
    v5_loss,
    v5_size,
)
from tests.snippets.detection.yolo_training import batch, seeded, trained, without

F64 = torch.float64
seeds = st.integers(0, 10**6)


def random_sizes(n, seed, least=2.0, most=60.0):
    return least + (most - least) * torch.rand(n, 2, generator=seeded(seed), dtype=F64)


# Published sizes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("n", 1872157), ("s", 7235389), ("m", 21190557), ("l", 46563709), ("x", 86749405)],
)
def test_parameters_are_those_of_release_6(name, parameters):
    """README: 1.9, 7.2, 21.2, 46.5 and 86.7 million."""
    with torch.device("meta"):
        model = YOLOv5(80, *v5_size(name))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_maps_of_any_size():
    model = YOLOv5(2, (4, 8, 8, 12, 16), generator=seeded()).eval()
    for H, W in ((64, 96), (40, 70)):
        maps = model(torch.zeros(1, 3, H, W))
        expected = {s: (1, 21, math.ceil(H / s), math.ceil(W / s)) for s in (8, 16, 32)}
        assert {s: tuple(x.shape) for s, x in maps.items()} == expected
    assert V5_BALANCE == (4.0, 1.0, 0.4)


# Parity -----------------------------------------------------------------------------


def test_decoding_number_by_number():
    g = seeded()
    t = 3 * torch.randn(20, 4, generator=g, dtype=F64)
    cells = torch.randint(0, 9, (20, 2), generator=g).double()
    priors = random_sizes(20, 1)
    boxes = decode_v5(t, cells, priors, 16)
    for i in range(20):
        p = [1 / (1 + math.exp(-v)) for v in t[i].tolist()]
        x, y = ((float(cells[i, m]) + 2 * p[m] - 0.5) * 16 for m in (0, 1))
        w, h = (float(priors[i, m]) * (2 * p[2 + m]) ** 2 for m in (0, 1))
        assert boxes[i].tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def pairs_by_definition(boxes, priors, size, stride, limit, reach):
    """Sets of (truth, prior, column, row), from the distance of the centre to each cell's sides."""
    h, w = size
    found = []
    for t, (x1, y1, x2, y2) in enumerate(boxes):
        for a, (p, q) in enumerate(priors):
            bw, bh = x2 - x1, y2 - y1
            if max(bw / p, p / bw, bh / q, q / bh) >= limit:
                continue
            x, y = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
            c, r = int(x), int(y)
            found.append((t, a, c, r))
            if x - c < reach and c >= 1:
                found.append((t, a, c - 1, r))
            if y - r < reach and r >= 1:
                found.append((t, a, c, r - 1))
            if c + 1 - x < reach and c + 1 < w:
                found.append((t, a, c + 1, r))
            if r + 1 - y < reach and r + 1 < h:
                found.append((t, a, c, r + 1))
    return sorted(found)


@given(
    n=st.integers(0, 5),
    limit=st.sampled_from([1.5, 4.0]),
    reach=st.sampled_from([0.0, 0.5, 1.0]),
    seed=seeds,
)
def test_matching_equals_the_definition(n, limit, reach, seed):
    center = torch.rand(n, 2, generator=seeded(seed), dtype=F64) * torch.tensor([48.0, 32.0])
    half = random_sizes(n, seed + 1, 2, 40) / 2
    boxes, priors = torch.cat([center - half, center + half], 1), random_sizes(3, seed + 2, 4, 40)
    pairs = match_v5(boxes, priors, (4, 6), 8, limit, reach)
    found = zip(pairs.truth.tolist(), pairs.prior.tolist(), *pairs.cells.T.tolist())
    args = (boxes.tolist(), priors.tolist(), (4, 6), 8, limit, reach)
    assert sorted(found) == pairs_by_definition(*args)


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


def test_pairs_of_all_maps_are_those_of_each():
    _, (target,) = random_case([5], 3)
    truth, place = match_all(target["boxes"], MAPS, PRIORS)
    found, first = [], 0
    for stride, (h, w) in MAPS.items():
        A = len(PRIORS[stride])
        args = (target["boxes"].tolist(), PRIORS[stride], (h, w), stride, 4.0, 0.5)
        for t, a, c, r in pairs_by_definition(*args):
            found.append((t, first + (r * w + c) * A + a))
        first += h * w * A
    assert sorted(zip(truth.tolist(), place.tolist())) == sorted(found)


def loss_by_definition(output, targets):
    """ComputeLoss of the official code, map by map, with gains of 0.05, 1 and 0.5."""
    where, sums, first = places(MAPS, PRIORS), [0, 0, 0], 0
    boxes = decode_v5(output[..., :4], *(x.double() for x in where))
    for (stride, (h, w)), balance in zip(MAPS.items(), (4.0, 1.0, 0.4)):
        count = h * w * len(PRIORS[stride])
        far, wrong = [], []
        goal = torch.zeros(len(output), count, dtype=F64)
        for i, target in enumerate(targets):
            truth, place = match_all(target["boxes"], MAPS, PRIORS)
            for t, n in zip(truth.tolist(), place.tolist()):
                if not first <= n < first + count:
                    continue
                far.append(iou_loss(boxes[i, n], target["boxes"][t], "ciou"))
                goal[i, n - first] = max(float(goal[i, n - first]), 1 - float(far[-1].detach()))
                for k in range(3):
                    yes, z = float(target["labels"][t] == k), output[i, n, 5 + k]
                    wrong.append(yes * F.softplus(-z) + (1 - yes) * F.softplus(z))
        z = output[:, first : first + count, 4]
        unsure = goal * F.softplus(-z) + (1 - goal) * F.softplus(z)
        sums[0] = sums[0] + (torch.stack(far).mean() if far else 0)
        sums[1] = sums[1] + balance * unsure.mean()
        sums[2] = sums[2] + (torch.stack(wrong).mean() if wrong else 0)
        first += count
    return [0 * output.sum() + g * x for g, x in zip((0.05, 1.0, 0.5), sums)]


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=2), seed=seeds)
@settings(max_examples=12)
def test_loss_equals_the_definition_with_gradients(counts, seed):
    output, targets = random_case(counts, seed)
    results = []
    for function in (
        lambda x: v5_loss(x, MAPS, PRIORS, targets),
        lambda x: loss_by_definition(x, targets),
    ):
        leaf = output.clone().requires_grad_()
        parts = function(leaf)
        (grad,) = torch.autograd.grad(sum((i + 1) * p for i, p in enumerate(parts)), leaf)
        results.append((*(p.detach() for p in parts), grad))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, rtol=0, atol=1e-10)


def test_ratio_by_loops_and_its_gradient():
    sizes, priors = random_sizes(6, 0), random_sizes(4, 1)
    expected = [
        [min(w / p, p / w, h / q, q / h) for p, q in priors.tolist()] for w, h in sizes.tolist()
    ]
    assert_close(ratio_fit(sizes, priors), torch.tensor(expected, dtype=F64))
    assert torch.autograd.gradcheck(ratio_fit, (sizes.requires_grad_(), priors))


def test_fitness_counts_only_what_is_within_the_limit():
    sizes = torch.tensor([[10.0, 10.0], [100.0, 10.0]])
    priors = torch.tensor([[8.0, 10.0], [10.0, 12.0]])
    assert float(fitness(sizes, priors)) == pytest.approx((10 / 12 + 0) / 2)


def test_c3_by_hand():
    block = C3(4, 6, 2, shortcut=True).eval()
    x = torch.randn(1, 4, 5, 5, generator=seeded())
    y = block.through(x)
    for i in (0, 1):
        y = y + block.blocks[i].layers(y)
    assert_close(block(x), block.join(torch.cat([y, block.around(x)], 1)))
    kernels = [m.kernel_size[0] for m in block.blocks.modules() if hasattr(m, "kernel_size")]
    assert kernels == [1, 3, 1, 3]
    plain = C3(4, 6, 1, shortcut=False).eval()
    y = plain.blocks[0].layers(plain.through(x))
    assert_close(plain(x), plain.join(torch.cat([y, plain.around(x)], 1)))


# Invariants -----------------------------------------------------------------------------


@given(n=st.integers(1, 6), seed=seeds)
@settings(max_examples=30)
def test_what_is_matched_can_be_decoded(n, seed):
    """The inverse of the decoding exists: offsets in (-0.5, 1.5), sizes below 4 times the prior."""
    center = torch.rand(n, 2, generator=seeded(seed), dtype=F64) * torch.tensor([48.0, 32.0])
    half = random_sizes(n, seed + 1, 2, 40) / 2
    boxes, priors = torch.cat([center - half, center + half], 1), random_sizes(3, seed + 2, 4, 40)
    pairs = match_v5(boxes, priors, (4, 6), 8)
    offset = center[pairs.truth] / 8 - pairs.cells
    ratio = 2 * half[pairs.truth] / priors[pairs.prior]
    share = torch.cat([(offset + 0.5) / 2, ratio.sqrt() / 2], 1)
    assert ((share > -1e-9) & (share < 1 + 1e-9)).all()
    inside = ((share > 1e-6) & (share < 1 - 1e-6)).all(1)
    decoded = decode_v5(share.logit()[inside], pairs.cells[inside], priors[pairs.prior][inside], 8)
    assert_close(decoded, boxes[pairs.truth][inside])


@given(seed=seeds)
@settings(max_examples=10)
def test_evolution_never_gets_worse_and_repeats_itself(seed):
    sizes, priors = random_sizes(40, seed), random_sizes(3, seed + 1)
    found = evolve(sizes, priors, seeded(seed), 50)
    assert fitness(sizes, found) >= fitness(sizes, priors)
    assert torch.equal(found, evolve(sizes, priors, seeded(seed), 50))
    assert (found.prod(1).diff() >= 0).all() and (found >= 2).all()


def test_evolution_finds_something_better():
    sizes = random_sizes(60, 3)
    priors = torch.tensor([[10.0, 10.0], [20.0, 20.0]], dtype=F64)
    assert fitness(sizes, evolve(sizes, priors, seeded(), 200)) > fitness(sizes, priors) + 0.02


def test_the_limit_is_a_factor_of_4():
    prior = torch.tensor([[10.0, 10.0]], dtype=F64)
    assert fitness(prior * 4.1, prior) == 0
    assert fitness(prior * 3.9, prior) == pytest.approx(1 / 3.9)
    # What is beyond it is not approached, for no small step is worth anything.
    assert torch.equal(evolve(prior * 4.8, prior, seeded(), 20), prior)
    assert (evolve(prior * 4.8, prior, seeded(), 20, limit=5) > prior).any()
    assert auto_anchor(prior * 3.9, prior)[0] is prior
    assert auto_anchor(prior * 4.1, prior, seeded(), 1)[0] is not prior


def test_auto_anchor_keeps_what_is_good_and_replaces_what_is_not():
    sizes = random_sizes(50, 0, 10, 30)
    good = torch.tensor([[12.0, 12.0], [20.0, 20.0]], dtype=F64)
    found, recall = auto_anchor(sizes, good, seeded())
    assert found is good and recall == 1
    bad = torch.tensor([[100.0, 100.0], [200.0, 20.0]], dtype=F64)
    found, recall = auto_anchor(sizes, bad, seeded(), 20)
    assert recall == 1 and found.shape == (2, 2)
    half = torch.cat([sizes, sizes * 20])
    _, recall = auto_anchor(half, good, seeded(), 20, enough=0.5)
    assert recall == 0.5
    worst, recall = auto_anchor(sizes, bad[:1], seeded(), 0, limit=1.0001)
    assert worst is bad[:1] or recall >= 0  # nothing better: the old ones stay


# Gradient, edges --------------------------------------------------------------------


def test_gradient():
    t = torch.randn(4, 4, generator=seeded(), dtype=F64, requires_grad=True)
    cells, priors = torch.ones(4, 2, dtype=F64), random_sizes(4, 0)
    assert torch.autograd.gradcheck(lambda x: decode_v5(x, cells, priors, 8), t)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    t = torch.randn(4, 4, generator=seeded()).to(dtype)
    found = decode_v5(t, torch.ones(4, 2), torch.full((4, 2), 9.0), 8)
    assert found.dtype == torch.float32
    assert_close(found, decode_v5(t.float(), torch.ones(4, 2), torch.full((4, 2), 9.0), 8))


def test_no_truths_and_none_that_fits():
    priors = torch.full((3, 2), 20.0)
    for boxes in (torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 1.0, 1.0]])):
        pairs = match_v5(boxes, priors, (4, 4), 8)
        assert pairs.truth.shape == (0,) and pairs.cells.shape == (0, 2)
        assert pairs.prior.dtype == torch.int64


def test_at_the_corners_neighbours_outside_are_left_out():
    priors = torch.full((1, 2), 10.0)
    boxes = torch.tensor([[-4.0, -4.0, 6.0, 6.0], [25.0, 26.0, 37.0, 37.0]])
    pairs = match_v5(boxes, priors, (4, 4), 8)
    assert pairs.cells.tolist() == [[0, 0], [3, 3]]


NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_objects_only_objectness_counts():
    output, _ = random_case([0, 0], 0)
    boxes, objectness, classes = v5_loss(output, MAPS, PRIORS, [NOTHING] * 2)
    assert boxes == classes == 0 and objectness > 0
    assert [float(x) for x in v5_loss(output[:0], MAPS, PRIORS, [])] == [0, 0, 0]
    output, targets = random_case([2, 0], 1)  # one image without
    assert all(x > 0 and x.isfinite() for x in v5_loss(output, MAPS, PRIORS, targets))


def test_everything_is_made_on_the_device_of_the_input_and_autocast_changes_little():
    output, targets = random_case([3, 0], 2)
    sizes, expected = random_sizes(9, 0), v5_loss(output, MAPS, PRIORS, targets)
    with torch.device("meta"):  # what forgets the device fails here
        assert_close(v5_loss(output, MAPS, PRIORS, targets), expected)
        assert evolve(sizes, sizes[:2], seeded(), 2).device == sizes.device
    with torch.autocast("cpu", torch.bfloat16):
        found = v5_loss(output.float(), MAPS, PRIORS, targets)
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-4)


# The detector -------------------------------------------------------------------------


def test_the_detector_decodes_what_it_is_trained_with():
    model = YOLOv5(generator=seeded())
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.loss(images, targets)
    loss.backward()
    output, sizes = model.predict(images)
    assert_close(loss, sum(v5_loss(output, sizes, model.priors, targets)))
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    output, sizes = model.eval().predict(images[:1])
    scores = output[0, :, 4:5].sigmoid() * output[0, :, 5:].sigmoid()
    n, k = divmod(int(scores.argmax()), 4)
    (found,) = model.detect(images[:1], min_score=0, most=1)
    box = decode_v5(output[..., :4], *places(sizes, model.priors))[0, n]
    assert found["labels"].tolist() == [k]
    assert_close(found["scores"][0], scores.max().detach())
    assert_close(found["boxes"][0], box.clamp(0, 96).detach())
    for height, width in ((64, 100), (34, 40)):
        maps = model(torch.zeros(1, 3, height, width))
        cells = [(math.ceil(height / s), math.ceil(width / s)) for s in (8, 16, 32)]
        assert [tuple(x.shape[1:]) for x in maps.values()] == [(27, *size) for size in cells]
    a, b, c = (YOLOv5(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def learnt(broken, monkeypatch, seed=0):
    if broken == "places":  # three rows away from those that should learn

        def elsewhere(*args):
            truth, place = match_all(*args)
            return truth, (place + 36) % 72

        monkeypatch.setitem(v5_loss.__globals__, "match_all", elsewhere)
    priors = {8: ((13, 13), (99, 99)), 16: ((200, 200),), 32: ((400, 400),)}
    model = YOLOv5(2, (8, 16, 24, 32, 32), priors=priors, generator=seeded(seed))
    part = 0 if broken == "boxes" else None
    return trained(model, without(part), steps=120, rate=1e-2, seed=seed)


@pytest.mark.parametrize("broken", [None, "places", "boxes"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(broken, monkeypatch):
    result = learnt(broken, monkeypatch)
    assert (result["AP50"] > 0.3) == (broken is None), result


# Bad input --------------------------------------------------------------------------

ONE = torch.ones(1, 2)
BOX = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
OUT = torch.zeros(1, N, 8)


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), output=OUT, many=1):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return v5_loss(output, MAPS, PRIORS, [target] * many)


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
        (lambda: decode_v5(torch.zeros(1, 3), ONE, ONE, 8), r"got \(1, 3\), \(1, 2\)"),
        (lambda: ratio_fit(ONE[0], ONE), r"sizes must be floating \(n, 2\), got .* \(2,\)"),
        (lambda: ratio_fit(ONE, ONE.long()), r"priors must be floating .* got torch.int64"),
        (lambda: ratio_fit(-ONE, ONE), r"positive and finite, got \[-1.0, -1.0\]"),
        (lambda: ratio_fit(ONE, ONE * math.nan), r"got \[nan, nan\]"),
        (lambda: match_v5(-BOX, ONE, (2, 2), 8), r"x1 <= x2 .* got \[-0.0, -0.0, -5.0, -5.0\]"),
        (lambda: match_v5(BOX * math.nan, ONE, (2, 2), 8), r"got \[nan"),
        (lambda: match_v5(BOX * 0, ONE, (2, 2), 8), r"positive and finite, got \[0.0, 0.0\]"),
        (lambda: match_v5(BOX, ONE, (0, 2), 8), r"positive, got \(0, 2\) and 8"),
        (lambda: match_v5(BOX, ONE, (2, 2), 8, 1.0), r"limit must be above 1, got 1.0"),
        (lambda: match_v5(BOX, ONE, (2, 2), 8, 4, 2.0), r"from 0 to 1, got 2.0"),
        (lambda: auto_anchor(ONE[:0], ONE), r"at least one box, got none"),
        (lambda: v5_size("z"), r"n, s, m, l, x, got 'z'"),
        (lambda: YOLOv5(0), r"need a class and priors, got 0"),
        (lambda: YOLOv5(1, (1,), (1,)), r"5 widths and 4 depths, got \[1\] and \[1\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
