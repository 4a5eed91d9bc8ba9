"""YOLO v7: folding, ELAN, labels with a dynamic count.

Yardstick: torch.nn.BatchNorm2d; plain loops.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from snippets.detection.iou import box_iou
from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v2 import places
from snippets.detection.yolo_v5 import decode_v5, match_all, v5_loss
from snippets.detection.yolo_v7 import (
    EELAN,
    ELAN,
    RepConv,
    YOLOv7,
    dynamic_k_assign,
    fold_norm,
    ota_cost,
    v7_loss,
)
from tests.snippets.detection.yolo_training import batch, seeded, trained, without

F64 = torch.float64
seeds = st.integers(0, 10**6)


def stirred(module, seed=0):
    """Every weight, bias and statistic anew, as if it had been trained."""
    g = seeded(seed)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.5, generator=g)
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_(0, 1, generator=g)
                m.running_var.uniform_(0.3, 3, generator=g)
    return module.eval()


# Parity -----------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_folded_norm_is_the_norm(affine, groups):
    conv = nn.Conv2d(4, 6, 3, groups=groups, bias=False)
    norm = nn.BatchNorm2d(6, eps=0.01, affine=affine)
    both = stirred(nn.Sequential(conv, norm))
    x = torch.randn(2, 4, 7, 7, generator=seeded(), dtype=F64)
    weight, bias = fold_norm(conv.weight, norm)
    found = nn.functional.conv2d(x, weight, bias, groups=groups)
    assert_close(found, both(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "branches"),
    [
        (dict(in_channels=4, out_channels=4), 3),
        (dict(in_channels=4, out_channels=4, identity=False), 2),
        (dict(in_channels=4, out_channels=6), 2),
        (dict(in_channels=4, out_channels=4, stride=2), 2),
        (dict(in_channels=4, out_channels=4, groups=2), 3),
        (dict(in_channels=6, out_channels=3, groups=3), 2),
    ],
    ids=str,
)
def test_one_convolution_equals_the_branches(shape, branches):
    block = stirred(RepConv(**shape))
    assert len(block.norms) == branches
    x = torch.randn(2, shape["in_channels"], 6, 7, generator=seeded(1), dtype=F64)
    one = block.folded()
    assert_close(one(x), block(x), rtol=0, atol=1e-10)
    parts = [block.norms[0](block.large(x)), block.norms[1](block.small(x))]
    parts += [block.norms[2](x)] if branches == 3 else []
    assert_close(block(x), nn.functional.silu(sum(parts)))
    layers = [m for m in one.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 1 and layers[0].kernel_size == (3, 3) and layers[0].bias is not None


def test_folding_changes_nothing_and_does_not_fit_training():
    block = stirred(RepConv(3, 3))
    before = {k: v.clone() for k, v in block.state_dict().items()}
    x = torch.randn(4, 3, 5, 5, generator=seeded(), dtype=F64)
    one = block.folded()
    assert all(torch.equal(v, block.state_dict()[k]) for k, v in before.items())
    assert not torch.allclose(block.train()(x), one(x))  # statistics of the batch


def test_elan_by_hand():
    """yolov7.yaml, lines 4 to 11: 1x1 and 1x1, four 3x3, the maps -1, -3, -5 and -6, a 1x1."""
    block = stirred(ELAN(4, 3, 8))
    x = torch.randn(1, 4, 5, 5, generator=seeded(), dtype=F64)
    outs = [block.first(x), block.second(x)]
    for layer in block.chain:
        outs.append(layer(outs[-1]))
    kept = torch.cat([outs[0], outs[1], outs[3], outs[5]], 1)
    assert_close(block(x), block.join(kept))
    every = stirred(ELAN(4, 3, 8, step=1))  # the head's: all six
    assert every.join[0].in_channels == 6 * 3 and every(x).shape == (1, 8, 5, 5)


def test_eelan_is_the_sum_of_two():
    block = stirred(EELAN(4, 3, 8))
    x = torch.randn(1, 4, 5, 5, generator=seeded(), dtype=F64)
    assert len(block.groups) == 2 and len(block.groups[0].chain) == 6
    assert_close(block(x), block.groups[0](x) + block.groups[1](x))
    assert block.groups[0].join[0].in_channels == 5 * 3  # yolov7-e6e.yaml: five maps


def cost_by_definition(iou, probs, labels):
    out = []
    for g, label in enumerate(labels):
        row = []
        for p, chances in enumerate(probs):
            total = -3 * math.log(iou[g][p] + 1e-8)
            for k, q in enumerate(chances):
                root = min(max(math.sqrt(q), 1e-7), 1 - 1e-7)
                total -= math.log(root) if k == label else math.log(1 - root)
            row.append(total)
        out.append(row)
    return out


def owners_by_definition(cost, iou, most):
    n, P = len(cost), len(cost[0]) if cost else 0
    takers = [[] for _ in range(P)]
    for g in range(n):
        k = max(int(sum(sorted(iou[g], reverse=True)[:most])), 1)
        for p in sorted(range(P), key=lambda p: (cost[g][p], p))[:k]:
            takers[p].append(g)
    out = []
    for p in range(P):
        if len(takers[p]) > 1:
            out.append(min(range(n), key=lambda g: (cost[g][p], g)))
        else:
            out.append(takers[p][0] if takers[p] else -1)
    return out


@given(n=st.integers(0, 4), P=st.integers(1, 15), most=st.sampled_from([1, 3, 10]), seed=seeds)
@settings(max_examples=40)
def test_cost_and_assignment_equal_the_definition(n, P, most, seed):
    g = seeded(seed)
    iou = torch.rand(n, P, generator=g, dtype=F64)
    probs = torch.rand(P, 3, generator=g, dtype=F64)
    labels = torch.randint(3, (n,), generator=g)
    cost = ota_cost(iou, probs, labels)
    expected = cost_by_definition(iou.tolist(), probs.tolist(), labels.tolist())
    assert_close(cost, torch.tensor(expected, dtype=F64).reshape(n, P))
    owner = dynamic_k_assign(cost, iou, most)
    assert owner.dtype == torch.int64
    assert (
        owner.tolist() == (owners_by_definition(expected, iou.tolist(), most) or [-1] * P)[:P]
        if n
        else [-1] * P
    )


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


@pytest.mark.parametrize("reach", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_loss_is_that_of_v5_on_the_cheapest_of_its_candidates(seed, reach):
    output, targets = random_case([4, 0, 1], seed)

    def choose(truths, labels, out, boxes):
        decoded = decode_v5(out[:, :4], *(x.double() for x in places(MAPS, PRIORS)))
        assert_close(boxes, decoded)
        place = sorted(set(match_all(truths, MAPS, PRIORS, 4.0, reach)[1].tolist()))
        iou = box_iou(truths, decoded[place])
        probs = out[place, 5:].sigmoid() * out[place, 4:5].sigmoid()
        cost = cost_by_definition(iou.tolist(), probs.tolist(), labels.tolist())
        owner = owners_by_definition(cost, iou.tolist(), 10) if len(truths) else []
        pairs = [(t, p) for t, p in zip(owner, place) if t >= 0]
        return tuple(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T)

    expected = v5_loss(output, MAPS, PRIORS, targets, choose)
    assert_close(v7_loss(output, MAPS, PRIORS, targets, reach), expected)
    assert not torch.allclose(expected[0], v5_loss(output, MAPS, PRIORS, targets)[0])


# Invariants, gradient, edges -----------------------------------------------------------------


def test_k_follows_the_overlaps():
    iou = torch.tensor([[0.9, 0.9, 0.9, 0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.3, 0.2]])
    owner = dynamic_k_assign(-iou, iou)
    assert owner.tolist() == [0, 0, 0, -1, 1, -1]  # 3.6 -> 3, 0.5 -> at least 1


def test_gradients_reach_every_branch():
    block = stirred(RepConv(2, 2)).train()
    x = torch.randn(2, 2, 3, 3, generator=seeded(), dtype=F64, requires_grad=True)
    block(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())
    frozen = block.eval()
    assert torch.autograd.gradcheck(frozen, (x,), fast_mode=True)
    iou = torch.rand(2, 4, generator=seeded(), dtype=F64).requires_grad_()
    probs, labels = torch.full((4, 2), 0.3, dtype=F64), torch.tensor([0, 1])
    assert torch.autograd.gradcheck(lambda v: ota_cost(v, probs, labels), (iou,))


def test_certain_and_impossible_predictions_have_finite_costs():
    cost = ota_cost(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0]))
    assert cost.isfinite().all() and cost[0, 0] < cost[0, 1]


def test_nothing_to_assign():
    assert dynamic_k_assign(torch.zeros(0, 3), torch.zeros(0, 3)).tolist() == [-1, -1, -1]
    assert dynamic_k_assign(torch.zeros(2, 0), torch.zeros(2, 0)).shape == (0,)
    empty = ota_cost(torch.zeros(0, 3), torch.zeros(3, 2), torch.zeros(0, dtype=torch.int64))
    assert empty.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_precision_and_layout(dtype):
    block = stirred(RepConv(4, 4)).to(dtype)
    x = torch.randn(2, 6, 6, 4, generator=seeded()).to(dtype).permute(0, 3, 1, 2)
    assert block(x).dtype == block.folded()(x).dtype == dtype
    tolerance = 0.2 if dtype == torch.bfloat16 else 1e-4
    assert_close(block(x), block.folded()(x), rtol=tolerance, atol=tolerance)


NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_objects_only_objectness_counts():
    output, _ = random_case([0, 0], 0)
    boxes, objectness, classes = v7_loss(output, MAPS, PRIORS, [NOTHING] * 2)
    assert boxes == classes == 0 and objectness > 0
    assert [float(x) for x in v7_loss(output[:0], MAPS, PRIORS, [])] == [0, 0, 0]
    output, targets = random_case([2, 0], 1)  # one image without
    assert all(x > 0 and x.isfinite() for x in v7_loss(output, MAPS, PRIORS, targets))


def test_everything_is_made_on_the_device_of_the_input_and_autocast_changes_little():
    output, targets = random_case([3, 0], 2)
    expected = v7_loss(output, MAPS, PRIORS, targets)
    with torch.device("meta"):  # what forgets the device fails here
        assert_close(v7_loss(output, MAPS, PRIORS, targets), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = v7_loss(output.float(), MAPS, PRIORS, targets)
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-4)


# The detector -------------------------------------------------------------------------


def test_the_detector_decodes_what_it_is_trained_with():
    model = YOLOv7(generator=seeded())
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.loss(images, targets)
    loss.backward()
    output, sizes = model.predict(images)
    assert_close(loss, sum(v7_loss(output, sizes, model.priors, targets)))
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
    a, b, c = (YOLOv7(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_the_folded_detector_gives_the_same():
    model = YOLOv7(generator=seeded())
    images, _ = batch(shapes(2, seeded(1)))
    model(images)  # moves the statistics
    used = model.folded()
    assert sum(p.numel() for p in used.parameters()) < sum(p.numel() for p in model.parameters())
    assert not any(isinstance(m, RepConv) for m in used.modules())
    assert sum(isinstance(m, RepConv) for m in model.modules()) == 3 and model.training
    for x, y in zip(used(images).values(), model.eval()(images).values(), strict=True):
        assert_close(x, y, rtol=1e-4, atol=1e-4)


def learnt(broken, monkeypatch, seed=0):
    if broken == "places":  # three rows away from those that should learn

        def elsewhere(*args, **options):
            truth, place = match_all(*args, **options)
            return truth, (place + 36) % 72

        monkeypatch.setitem(v7_loss.__globals__, "match_all", elsewhere)
    priors = {8: ((13, 13), (99, 99)), 16: ((200, 200),), 32: ((400, 400),)}
    model = YOLOv7(2, (8, 16, 24, 32, 32), priors=priors, generator=seeded(seed))
    part = 0 if broken == "boxes" else None
    return trained(model, without(part), steps=120, rate=1e-2, seed=seed)


@pytest.mark.parametrize("broken", [None, "places", "boxes"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(broken, monkeypatch):
    result = learnt(broken, monkeypatch)
    assert (result["AP50"] > 0.25) == (broken is None), result


# Bad input --------------------------------------------------------------------------

OUT = torch.zeros(1, N, 8)


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), output=OUT, many=1):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return v7_loss(output, MAPS, PRIORS, [target] * many)


IOU, PROBS = torch.zeros(1, 2), torch.zeros(2, 3)


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
        (lambda: fold_norm(torch.zeros(3, 2, 1, 1), nn.BatchNorm2d(2)), r"got \(3, 2, 1, 1\)"),
        (
            lambda: fold_norm(
                torch.zeros(2, 2, 1, 1), nn.BatchNorm2d(2, track_running_stats=False)
            ),
            r"norm of C' with statistics, got \(2, 2, 1, 1\)",
        ),
        (lambda: RepConv(0, 1), r"must be positive, got 0, 1, 1 and 1"),
        (lambda: ELAN(4, 3, 8, depth=3), r"multiple of step, got 4, 3, 8, 3 and 2"),
        (lambda: EELAN(4, 3, 8, groups=0), r"at least 1, got 0"),
        (lambda: ota_cost(IOU, PROBS[:1], torch.tensor([0])), r"got \(1, 2\), \(1, 3\) and \(1,\)"),
        (lambda: ota_cost(IOU, PROBS, torch.tensor([3])), r"from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: ota_cost(IOU - 1, PROBS, torch.tensor([0])), r"iou must lie in .* got -1.0"),
        (lambda: ota_cost(IOU, PROBS + 2, torch.tensor([0])), r"probs must lie in .* got 2.0"),
        (lambda: dynamic_k_assign(IOU, IOU[:, :1]), r"got \(1, 2\) and \(1, 1\)"),
        (lambda: dynamic_k_assign(IOU * math.nan, IOU), r"numbers, got nan"),
        (lambda: dynamic_k_assign(IOU, IOU, 0), r"at least 1, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
