"""YOLO v2: cells and priors, passthrough, the tree of classes, Darknet-19.

Yardstick: torch.nn.functional.pixel_unshuffle; plain loops.
"""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from snippets.detection.iou import box_iou
from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v2 import (
    Darknet19,
    PriorDetector,
    YOLOv2,
    assign_priors,
    best_prior,
    conv_block,
    decode_cells,
    encode_cells,
    grid_cells,
    passthrough,
    places,
    training_sizes,
    tree_log_probs,
    v2_loss,
)
from tests.snippets.detection.yolo_training import batch, seeded, trained, without

F64 = torch.float64
seeds = st.integers(0, 10**6)


def random_t(n, seed):
    g = seeded(seed)
    t = torch.randn(n, 4, generator=g, dtype=F64)
    cells = torch.randint(0, 13, (n, 2), generator=g).double()
    priors = 5 + 40 * torch.rand(n, 2, generator=g, dtype=F64)
    return t, cells, priors


# Parity -----------------------------------------------------------------------------


def test_decoding_number_by_number():
    t, cells, priors = random_t(20, 0)
    boxes = decode_cells(t, cells, priors, 32)
    for i in range(20):
        tx, ty, tw, th = t[i].tolist()
        x = (1 / (1 + math.exp(-tx)) + float(cells[i, 0])) * 32
        y = (1 / (1 + math.exp(-ty)) + float(cells[i, 1])) * 32
        w, h = float(priors[i, 0]) * math.exp(tw), float(priors[i, 1]) * math.exp(th)
        assert boxes[i].tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def test_cells_row_by_row():
    assert grid_cells((2, 3)).tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    assert grid_cells((1, 2), 2).tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]
    assert len(grid_cells((13, 13), 5)) == 845


def test_best_prior_by_loops():
    g = seeded(3)
    sizes = 2 + 60 * torch.rand(30, 2, generator=g, dtype=F64)
    priors = 2 + 60 * torch.rand(5, 2, generator=g, dtype=F64)
    low = 50 * torch.rand(30, 2, generator=g, dtype=F64)
    expected = []
    for w, h in sizes.tolist():
        shared = [min(w, p) * min(h, q) for p, q in priors.tolist()]
        iou = [s / (w * h + p * q - s) for s, (p, q) in zip(shared, priors.tolist())]
        expected.append(iou.index(max(iou)))
    assert best_prior(torch.cat([low, low + sizes], 1), priors).tolist() == expected


@pytest.mark.parametrize("block", [1, 2, 3])
def test_passthrough_equals_pixel_unshuffle(block):
    x = torch.randn(2, 3, 6, 12, generator=seeded(), dtype=F64)
    assert torch.equal(passthrough(x, block), F.pixel_unshuffle(x, block))


def test_passthrough_makes_2048_channels_of_512():
    assert passthrough(torch.zeros(1, 512, 26, 26)).shape == (1, 2048, 13, 13)


def tree_by_definition(logits, parents):
    K = len(parents)
    own = []
    for k in range(K):
        family = [j for j in range(K) if parents[j] == parents[k]]
        own.append(logits[k] - torch.logsumexp(torch.stack([logits[j] for j in family]), 0))
    out = []
    for k in range(K):
        total, at = 0, k
        while at >= 0:
            total = total + own[at]
            at = parents[at]
        out.append(total)
    return torch.stack(out)


trees = st.integers(1, 9).flatmap(lambda n: st.tuples(*(st.integers(-1, i - 1) for i in range(n))))


@given(parents=trees, seed=seeds)
@settings(max_examples=30)
def test_tree_equals_the_definition_with_gradient(parents, seed):
    g = seeded(seed)
    order = torch.randperm(len(parents), generator=g)  # parents need not come first
    place = order.argsort()
    shuffled = torch.empty(len(parents), dtype=torch.int64)
    for child, parent in enumerate(parents):
        shuffled[place[child]] = place[parent] if parent >= 0 else -1
    logits = 3 * torch.randn(len(parents), generator=g, dtype=F64)
    weights = torch.randn(len(parents), generator=g, dtype=F64)
    results = []
    for function in (
        lambda x: tree_log_probs(x, shuffled),
        lambda x: tree_by_definition(x, shuffled.tolist()),
    ):
        leaf = logits.clone().requires_grad_()
        out = function(leaf)
        results.append((out.detach(), *torch.autograd.grad((out * weights).sum(), leaf)))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, rtol=0, atol=1e-10)


def test_darknet_19():
    """Table 6: 19 convolutions and 5 poolings; 7 x 7 x 1000 for 224; v2's own maps for 416."""
    with torch.device("meta"):
        model = Darknet19()
        assert model(torch.rand(1, 3, 224, 224)).shape == (1, 1000)
        fine, coarse = model.features(torch.rand(1, 3, 416, 416))
        joined = torch.cat([passthrough(fine), coarse], 1)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 19
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 5
    assert [c.out_channels for c in convs[:5]] == [32, 64, 128, 64, 128]
    assert [c.kernel_size[0] for c in convs[:5]] == [3, 3, 3, 1, 3]
    assert fine.shape == (1, 512, 26, 26) and coarse.shape == (1, 1024, 13, 13)
    assert joined.shape == (1, 3072, 13, 13)


MAPS, PRIORS = {8: (4, 5)}, {8: ((6, 8), (15, 12))}
N = 4 * 5 * 2


def random_case(counts, seed, K=3):
    g = seeded(seed)
    output = torch.randn(len(counts), N, 5 + K, generator=g, dtype=F64)
    targets = []
    for n in counts:
        low = torch.rand(n, 2, generator=g, dtype=F64) * torch.tensor([28.0, 20.0])
        boxes = torch.cat([low, low + 2 + torch.rand(n, 2, generator=g, dtype=F64) * 11], 1)
        targets.append(dict(boxes=boxes, labels=torch.randint(K, (n,), generator=g)))
    return output, targets


def loss_by_definition(output, targets, ignore=0.6):
    """Darknet's region_layer.c, number by number: half the squares of what its deltas say."""
    parts = [0, 0, 0]
    where = places(MAPS, PRIORS)
    for out, target in zip(output, targets):
        owner = assign_priors(target["boxes"], MAPS, PRIORS).tolist()
        for n in range(N):
            t, c, p = out[n], where.cells[n].tolist(), where.priors[n].tolist()
            x, y = ((t[m].sigmoid() + c[m]) * 8 for m in (0, 1))
            w, h = p[0] * t[2].exp(), p[1] * t[3].exp()
            box = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]).detach()
            overlap = box_iou(box[None], target["boxes"])[0].tolist()
            if owner[n] < 0:
                if all(v <= ignore for v in overlap):
                    parts[1] = parts[1] + t[4].sigmoid() ** 2 / 2
                continue
            x1, y1, x2, y2 = target["boxes"][owner[n]].tolist()
            goal = [(x1 + x2) / 16 - c[0], (y1 + y2) / 16 - c[1]]
            goal += [math.log((x2 - x1) / p[0]), math.log((y2 - y1) / p[1])]
            scale = 2 - (x2 - x1) * (y2 - y1) / (32 * 40)
            said = [t[0].sigmoid(), t[1].sigmoid(), t[2], t[3]]
            for a, b in zip(said, goal):
                parts[0] = parts[0] + scale * (b - a) ** 2 / 2
            parts[1] = parts[1] + 5 * (overlap[owner[n]] - t[4].sigmoid()) ** 2 / 2
            label = int(target["labels"][owner[n]])
            parts[2] = parts[2] - t[5:].log_softmax(0)[label]
    return [0 * output.sum() + p / max(len(targets), 1) for p in parts]


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=2),
    ignore=st.sampled_from([0.2, 0.6]),
    seed=seeds,
)
@settings(max_examples=15)
def test_loss_equals_the_definition_with_gradients(counts, ignore, seed):
    output, targets = random_case(counts, seed)
    results = []
    for function in (
        lambda x: v2_loss(x, MAPS, PRIORS, targets, ignore),
        lambda x: loss_by_definition(x, targets, ignore),
    ):
        leaf = output.clone().requires_grad_()
        parts = function(leaf)
        (grad,) = torch.autograd.grad(sum((i + 1) * p for i, p in enumerate(parts)), leaf)
        results.append((*(p.detach() for p in parts), grad))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, rtol=0, atol=1e-10)


def test_the_numbers_in_the_official_weights():
    """yolov2.weights has 203934260 bytes: a header of 16, float32 parameters and statistics."""
    with torch.device("meta"):
        priors = {32: ((1, 1),) * 5}
        model = YOLOv2(80, priors, (32, 64, 128, 256, 512, 1024), (1, 1, 3, 3, 5, 5))
        assert model(torch.rand(1, 3, 416, 416))[32].shape == (1, 425, 13, 13)
    numbers = sum(p.numel() for p in model.parameters())
    numbers += sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    assert 16 + 4 * numbers == 203934260


# Invariants ---------------------------------------------------------------------------


@given(n=st.integers(0, 8), seed=seeds)
def test_encode_inverts_decode(n, seed):
    t, cells, priors = random_t(n, seed)
    goal = encode_cells(decode_cells(t, cells, priors, 16), cells, priors, 16)
    assert_close(goal, torch.cat([t[:, :2].sigmoid(), t[:, 2:]], 1), rtol=0, atol=1e-8)


@given(seed=seeds)
def test_the_centre_stays_in_its_cell(seed):
    t, cells, priors = random_t(20, seed)
    boxes = decode_cells(10 * t, cells, priors, 32)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2 / 32
    assert ((center >= cells - 1e-9) & (center <= cells + 1 + 1e-9)).all()


@given(parents=trees, seed=seeds)
@settings(max_examples=30)
def test_children_share_out_their_parent(parents, seed):
    logits = torch.randn(2, len(parents), generator=seeded(seed), dtype=F64)
    probs = tree_log_probs(logits, torch.tensor(parents)).exp()
    assert_close(sum(probs[:, k] for k, p in enumerate(parents) if p < 0), torch.ones(2).double())
    for k in range(len(parents)):
        children = [probs[:, j] for j, p in enumerate(parents) if p == k]
        if children:
            assert_close(sum(children), probs[:, k])


def test_training_sizes():
    assert training_sizes() == [320, 352, 384, 416, 448, 480, 512, 544, 576, 608]


def test_a_tree_without_levels_is_a_softmax():
    logits = 100 * torch.randn(4, 6, generator=seeded())
    assert_close(tree_log_probs(logits, torch.full((6,), -1)), logits.log_softmax(-1))


# Gradient, edges --------------------------------------------------------------------


def test_gradient():
    t, cells, priors = random_t(3, 1)
    assert torch.autograd.gradcheck(
        lambda x: decode_cells(x, cells, priors, 8), t.requires_grad_(), fast_mode=True
    )


def test_the_clip_keeps_boxes_finite():
    t = torch.tensor([0.0, 0.0, 1e4, math.log(1000 / 16) + 1])
    box = decode_cells(t, torch.zeros(2), torch.tensor([16.0, 16.0]), 8)
    assert_close((box[2:] - box[:2]), torch.tensor([1000.0, 1000.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    t, cells, priors = random_t(5, 2)
    t = t.to(dtype)
    found = decode_cells(t, cells.float(), priors.float(), 32)
    assert found.dtype == torch.float32
    assert_close(found.double(), decode_cells(t.double(), cells, priors, 32), rtol=1e-5, atol=1e-3)
    assert tree_log_probs(t, torch.tensor([-1, 0, 0, 1])).dtype == torch.float32


def test_nothing_is_changed_and_layout_does_not_matter():
    t, cells, priors = random_t(6, 0)
    before = t.clone()
    strided = t.T.contiguous().T
    assert torch.equal(decode_cells(strided, cells, priors, 8), decode_cells(t, cells, priors, 8))
    x = torch.randn(1, 2, 4, 6, generator=seeded()).transpose(2, 3)
    assert torch.equal(passthrough(x), passthrough(x.contiguous()))
    assert torch.equal(before, t)
    assert passthrough(torch.zeros(0, 2, 4, 4)).shape == (0, 8, 2, 2)
    assert (
        isinstance(conv_block(2, 3)[2], nn.LeakyReLU) and conv_block(2, 3)[2].negative_slope == 0.1
    )


NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_objects_only_objectness_counts():
    output, _ = random_case([0, 0], 0)
    boxes, objectness, classes = v2_loss(output, MAPS, PRIORS, [NOTHING] * 2)
    assert boxes == classes == 0
    assert_close(objectness, output[..., 4].sigmoid().square().sum() / 4)
    assert [float(x) for x in v2_loss(output[:0], MAPS, PRIORS, [])] == [0, 0, 0]


def test_everything_is_made_on_the_device_of_the_input_and_autocast_changes_little():
    output, targets = random_case([3, 0], 2)
    expected = v2_loss(output, MAPS, PRIORS, targets)
    with torch.device("meta"):  # what forgets the device fails here
        assert_close(v2_loss(output, MAPS, PRIORS, targets), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = v2_loss(output.float(), MAPS, PRIORS, targets)
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-4)


# The detector -------------------------------------------------------------------------


def test_limits_of_detections_when_none_are_given(monkeypatch):
    module = sys.modules[YOLOv2.__module__]
    monkeypatch.setattr(module, "pick_detections", lambda *args: args[3:])
    assert YOLOv2().eval().detect(torch.rand(1, 3, 64, 64)) == (0.01, 0.45, 400, 100)


def test_the_detector_decodes_what_it_is_trained_with():
    model = YOLOv2(generator=seeded())
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.loss(images, targets)
    loss.backward()
    output, sizes = model.predict(images)
    assert_close(loss, sum(v2_loss(output, sizes, model.priors, targets)))
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    output, sizes = model.eval().predict(images[:1])
    scores = output[0, :, 4:5].sigmoid() * output[0, :, 5:].softmax(-1)
    n, k = divmod(int(scores.argmax()), 4)
    (found,) = model.detect(images[:1], min_score=0, most=1)
    box = decode_cells(output[0, n, :4], *(x[n] for x in places(sizes, model.priors)))
    assert found["labels"].tolist() == [k]
    assert_close(found["scores"][0], scores.max().detach())
    assert_close(found["boxes"][0], box.clamp(0, 96).detach())
    with pytest.raises(NotImplementedError):
        PriorDetector(1, PRIORS).parts(output, sizes, [])


def learnt(broken, monkeypatch, seed=0):
    if broken == "places":  # three rows away from those that should learn
        monkeypatch.setitem(
            v2_loss.__globals__, "assign_priors", lambda *x: assign_priors(*x).roll(36)
        )
    priors = {8: ((13, 13), (99, 99))}
    model = YOLOv2(2, priors, (8, 16, 32, 32), (1, 1, 1, 1), generator=seeded(seed))
    part = 0 if broken == "boxes" else None
    return trained(model, without(part), steps=120, rate=1e-2, seed=seed)


@pytest.mark.parametrize("broken", [None, "places", "boxes"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(broken, monkeypatch):
    result = learnt(broken, monkeypatch)
    assert (result["AP50"] > 0.4) == (broken is None), result


# Bad input --------------------------------------------------------------------------

ONE = torch.ones(1, 2)
OUT = torch.zeros(1, N, 8)


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), output=OUT, many=1):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return v2_loss(output, MAPS, PRIORS, [target] * many)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode_cells(torch.zeros(1, 3), ONE, ONE, 8), r"got \(1, 3\), \(1, 2\)"),
        (lambda: decode_cells(torch.zeros(1, 4).long(), ONE, ONE, 8), r"got torch.int64"),
        (lambda: decode_cells(torch.zeros(1, 4), ONE, -ONE, 8), r"positive, got -1.0"),
        (lambda: encode_cells(torch.zeros(1, 4), ONE, ONE, 8), r"positive size, got \[0.0, 0.0"),
        (lambda: encode_cells(torch.ones(1, 4) / 0, ONE, ONE, 8), r"got \[inf"),
        (lambda: best_prior(torch.zeros(1, 4), torch.zeros(0, 2)), r"got \(0, 2\)"),
        (lambda: best_prior(torch.ones(1, 4) * math.nan, ONE), r"got \[nan"),
        (lambda: passthrough(torch.zeros(1, 2, 3, 4)), r"multiples of block, got \(1, 2, 3, 4\)"),
        (lambda: losing(output=OUT[:, 1:]), r"5 \+ K\), got \(1, 39, 8\)"),
        (lambda: losing(output=OUT * math.nan), r"must be finite .* got \[nan"),
        (lambda: losing(many=2), r"one an image, 1, got 2"),
        (lambda: losing(labels=(3,)), r"int64 from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: losing(boxes=((0.0, 0.0, -2.0, 5.0),)), r"got \[0.0, 0.0, -2.0, 5.0\]"),
        (lambda: losing(boxes=((0.0, 0.0, 2.0, math.nan),)), r"got \[0.0, 0.0, 2.0, nan\]"),
        (lambda: losing(boxes=((1.0, 0.0, 1.0, 5.0),)), r"positive size, got \[1.0, 0.0, 1.0"),
        (
            lambda: assign_priors(torch.zeros(1, 4), MAPS, PRIORS, torch.ones(1, 3).bool()),
            r"fits must be bool \(1, 2\), got torch.bool \(1, 3\)",
        ),
        (lambda: YOLOv2(0), r"need a class and priors, got 0"),
        (lambda: YOLOv2(1, PRIORS), r"priors must be for stride 16, got \[8\]"),
        (lambda: YOLOv2()(torch.zeros(1, 3, 32, 40)), r"multiples of 16, got 32 x 40"),
        (lambda: Darknet19(1, (4,), (1,)), r"at least two stages, got \[4\] and \[1\]"),
        (lambda: training_sizes(100, 200), r"multiples of 32, low <= high, got 100 and 200"),
        (lambda: tree_log_probs(torch.zeros(3), torch.tensor([-1, 0])), r"got \(3,\), torch.int64"),
        (lambda: tree_log_probs(torch.zeros(2), torch.tensor([-1, 2])), r"from -1 to 1, got"),
        (lambda: tree_log_probs(torch.zeros(2), torch.tensor([1, 0])), r"a circle in tensor"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
