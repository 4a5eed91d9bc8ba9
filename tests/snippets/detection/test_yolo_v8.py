"""YOLO v8: distances, DFL, task-aligned assignment, loss, published sizes; it learns.

Yardstick: ultralytics.utils.loss.v8DetectionLoss; ultralytics.nn.tasks.DetectionModel; plain loops.
"""

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v8 import (
    V8_GAINS,
    C2f,
    DecoupledHead,
    YOLOv8,
    decode_distances,
    dfl_loss,
    encode_distances,
    expected_distance,
    grid_points,
    task_aligned_assign,
    v8_loss,
    v8_size,
)
from tests.snippets.detection.yolo_training import batch, seeded, trained

yolo_v8 = sys.modules[v8_loss.__module__]

F64 = torch.float64
seeds = st.integers(0, 10**6)
MAPS = {8: (4, 5), 16: (2, 3)}
N = 26


def random_boxes(n, seed):
    g = seeded(seed)
    low = torch.rand(n, 2, generator=g, dtype=F64) * torch.tensor([25.0, 18.0])
    return torch.cat([low, low + 3 + torch.rand(n, 2, generator=g, dtype=F64) * 14], 1)


def random_case(counts, seed, K=3, R=5):
    g = seeded(seed)
    bins = torch.randn(len(counts), N, 4, R, generator=g, dtype=F64)
    logits = torch.randn(len(counts), N, K, generator=g, dtype=F64)
    targets = [
        dict(boxes=random_boxes(n, seed + i), labels=torch.randint(K, (n,), generator=g))
        for i, n in enumerate(counts)
    ]
    return bins, logits, targets


def plain_points():
    return [
        ((c + 0.5) * s, (r + 0.5) * s, s)
        for s, (h, w) in MAPS.items()
        for r in range(h)
        for c in range(w)
    ]


def plain_ciou(a, b):
    """Number by number; alpha is a constant only where gradients are asked for."""
    w, h, bw, bh = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    iou = shared / (w * h + bw * bh - shared)
    far = (a[0] + a[2] - b[0] - b[2]) ** 2 / 4 + (a[1] + a[3] - b[1] - b[3]) ** 2 / 4
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    v = 4 / math.pi**2 * (math.atan2(w, h) - math.atan2(bw, bh)) ** 2
    alpha = v / (1 - iou + v) if v else 0
    return iou - far / hull - alpha * v


# Published sizes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("n", 3157184), ("s", 11166544), ("m", 25902624), ("l", 43691504), ("x", 68229632)],
)
def test_parameters_are_those_of_the_official_configuration(name, parameters):
    """yolov8.yaml counts them as gradients; 16 more are the constants 0 to 15 of its DFL layer."""
    with torch.device("meta"):
        model = YOLOv8(80, *v8_size(name), bins=16)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_8400_places_at_640():
    with torch.device("meta"):
        bins, logits, maps = YOLOv8(80, *v8_size("n"), bins=16)(torch.rand(1, 3, 640, 640))
    assert maps == {8: (80, 80), 16: (40, 40), 32: (20, 20)}
    assert bins.shape == (1, 8400, 4, 16) and logits.shape == (1, 8400, 80)
    assert V8_GAINS == (7.5, 0.5, 1.5)


# Parity with the official code --------------------------------------------------------

# In a process of its own: to import it changes how torch prints, loads and saves.
OFFICIAL = """
import sys
from types import SimpleNamespace as Space
from unittest.mock import MagicMock
import torch
sys.modules["cv2"] = MagicMock()  # draws; not needed here, and not every machine has what it needs
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss

torch.set_default_dtype(torch.float64)
given = torch.load(sys.argv[1])
model = torch.nn.Linear(1, 1)
model.args = Space(box=7.5, cls=0.5, dfl=1.5)
stride = torch.tensor([8.0, 16.0, 32.0])
losses = []
for bins, logits, sizes, index, labels, boxes in given["cases"]:
    bins, logits = bins.requires_grad_(), logits.requires_grad_()
    head = Space(stride=stride, nc=logits.shape[2], reg_max=bins.shape[3])
    model.model = [head]
    loss = v8DetectionLoss(model)
    maps = [torch.zeros(1, 1, *size) for size in sizes]
    out = dict(boxes=bins.flatten(2).mT, scores=logits.mT, feats=maps)
    batch = dict(batch_idx=index, cls=labels, bboxes=boxes)
    parts = loss(out, batch)[0] / len(bins)
    gradients = torch.autograd.grad(parts.sum(), (bins, logits))
    losses.append([parts.detach(), *gradients])

net = DetectionModel("yolov8n.yaml", nc=3, verbose=False).double()
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, value in net.state_dict().items():
        if value.is_floating_point() and "dfl" not in name:
            value.uniform_(0.5, 1.5, generator=generator)
            value *= 0.2 if value.ndim > 1 else 1
            value -= 0.2 if value.ndim > 1 else 0
last = lambda pair: pair[0].startswith("cv2")  # where ours has it
layers = [dict(sorted(x.state_dict().items(), key=last)) for x in net.model]
head = net.model[-1]
branches = [x.state_dict() for pair in zip(head.cv2, head.cv3) for x in pair]
boxes = net.eval()(given["images"])[0]
torch.save(dict(losses=losses, layers=layers, branches=branches, boxes=boxes), sys.argv[2])
"""


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Cases for the loss, images for the network, and what the official code makes of them."""
    cases = []
    for seed in range(60):
        g, n = seeded(seed), torch.randint(6, (2,), generator=seeded(seed)).tolist()
        sizes = [(12, 16), (6, 8), (3, 4)]
        places = sum(h * w for h, w in sizes)
        bins = torch.randn(2, places, 4, 4, generator=g, dtype=F64)
        logits = torch.randn(2, places, 3, generator=g, dtype=F64)
        # Sides of 16 at least: the official code has come to enlarge smaller objects.
        sides = 16 + 32 * torch.rand(sum(n), 2, generator=g, dtype=F64)
        size = torch.tensor([128.0, 96.0], dtype=F64)
        centres = sides / 2 + (size - sides) * torch.rand(sum(n), 2, generator=g, dtype=F64)
        index = torch.tensor([0.0, 1.0], dtype=F64).repeat_interleave(torch.tensor(n))
        labels = torch.randint(3, (sum(n),), generator=g).double()
        boxes = torch.cat([centres, sides], 1) / size.repeat(2)
        cases.append((bins, logits, sizes, index, labels, boxes))
    given = dict(cases=cases, images=torch.rand(2, 3, 64, 96, generator=seeded(), dtype=F64))
    folder = tmp_path_factory.mktemp("official")
    torch.save(given, folder / "given.pt")
    command = [sys.executable, "-c", OFFICIAL, folder / "given.pt", folder / "found.pt"]
    quiet = dict(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_VERBOSE="false")
    subprocess.run(command, check=True, env=os.environ | quiet)
    return given, torch.load(folder / "found.pt")


def test_loss_and_its_gradients_equal_the_official_code(official):
    """Up to the official 1e-7 in the denominators of CIoU."""
    given, found = official
    for case, (parts, *gradients) in zip(given["cases"], found["losses"]):
        bins, logits, sizes, index, labels, boxes = case
        bins, logits = bins.requires_grad_(), logits.requires_grad_()
        low = (boxes[:, :2] - boxes[:, 2:] / 2) * torch.tensor([128, 96])
        corners = torch.cat([low, low + boxes[:, 2:] * torch.tensor([128, 96])], 1)
        targets = [
            dict(boxes=corners[index == i], labels=labels[index == i].long()) for i in range(2)
        ]
        ours = torch.stack(v8_loss(bins, logits, dict(zip((8, 16, 32), sizes)), targets))
        assert_close(ours, parts, rtol=1e-6, atol=0)
        for mine, theirs in zip(torch.autograd.grad(ours.sum(), (bins, logits)), gradients):
            assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_network_with_the_official_weights_gives_the_official_boxes(official):
    given, found = official
    model = YOLOv8(3, *v8_size("n"), bins=16).double().eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = 1e-3  # the official one
    parts = [model.stem, *(x for stage in model.stages for x in stage), model.pool]
    parts += [model.up[0], model.up[1], model.shrink[0], model.down[0]]
    parts += [model.shrink[1], model.down[1]]
    layers = [x for x in found["layers"][:-1] if x]  # without those to enlarge and to join
    head = [x for pair in zip(model.head.boxes, model.head.logits) for x in pair]
    for part, weights in zip([*parts, *head], [*layers, *found["branches"]], strict=True):
        part.load_state_dict(dict(zip(part.state_dict(), weights.values(), strict=True)))
    with torch.no_grad():
        bins, logits, maps = model(given["images"])
        points, strides = (x.double() for x in grid_points(maps))
        boxes = decode_distances(expected_distance(bins), points, strides)
    middle, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    ours = torch.cat([middle, sides, logits.sigmoid()], 2).mT
    assert_close(ours, found["boxes"], rtol=1e-9, atol=1e-9)


# Parity -----------------------------------------------------------------------------


def test_points_strides_and_decoding_number_by_number():
    points, strides = grid_points(MAPS)
    assert [(*p, s) for p, s in zip(points.tolist(), strides[:, 0].tolist())] == plain_points()
    distances = 3 * torch.rand(2, N, 4, generator=seeded(), dtype=F64)
    boxes = decode_distances(distances, points.double(), strides.double())
    for n, (x, y, s) in enumerate(plain_points()):
        left, top, right, bottom = (s * d for d in distances[1, n].tolist())
        assert boxes[1, n].tolist() == pytest.approx([x - left, y - top, x + right, y + bottom])


@given(seed=seeds, R=st.integers(2, 6))
def test_expected_distance_and_dfl_equal_the_definition(seed, R):
    g = seeded(seed)
    logits = torch.randn(7, R, generator=g, dtype=F64, requires_grad=True)
    target = torch.rand(7, generator=g, dtype=F64) * (R + 1) - 1  # also outside
    mean, loss = expected_distance(logits), dfl_loss(logits, target)
    for i in range(7):
        probs = logits[i].exp() / logits[i].exp().sum()
        assert_close(mean[i], sum(k * p for k, p in enumerate(probs)))
        goal = min(max(float(target[i]), 0), R - 1.01)
        k = int(goal)
        expected = -((k + 1 - goal) * probs[k].log() + (goal - k) * probs[k + 1].log())
        assert_close(loss[i], expected)
        ours, theirs = (
            torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss[i], expected)
        )
        assert_close(ours, theirs, rtol=0, atol=1e-10)


def assign_by_definition(scores, boxes, truths, labels, points, topk, alpha, beta):
    n, P = len(truths), len(points)
    inside = [
        [min(x - t[0], y - t[1], t[2] - x, t[3] - y) > 1e-9 for x, y, _ in points] for t in truths
    ]
    overlap = [
        [max(plain_ciou(t, boxes[p]), 0) if inside[g][p] else 0 for p in range(P)]
        for g, t in enumerate(truths)
    ]
    metric = [
        [scores[p][labels[g]] ** alpha * overlap[g][p] ** beta for p in range(P)] for g in range(n)
    ]
    taken = [set() for _ in range(n)]
    for g in range(n):
        within = [p for p in range(P) if metric[g][p] > 0]
        taken[g] = set(sorted(within, key=lambda p: (-metric[g][p], p))[:topk])
    owner = [-1] * P
    for p in range(P):
        takers = [g for g in range(n) if p in taken[g]]
        if len(takers) > 1:
            owner[p] = max(range(n), key=lambda g: (overlap[g][p], -g))
        elif takers:
            owner[p] = takers[0]
    quality = [0.0] * P
    for g in range(n):
        mine = [p for p in range(P) if owner[p] == g]
        for p in mine:
            best = max(metric[g][q] for q in mine)
            quality[p] = metric[g][p] * max(overlap[g][q] for q in mine) / (best + 1e-9)
    return owner, quality


@given(n=st.integers(0, 4), topk=st.sampled_from([1, 3, 10]), seed=seeds)
@settings(max_examples=25)
def test_assignment_equals_the_definition(n, topk, seed):
    g = seeded(seed)
    scores = torch.rand(N, 3, generator=g, dtype=F64)
    points, strides = (x.double() for x in grid_points(MAPS))
    boxes = decode_distances(0.2 + torch.rand(N, 4, generator=g, dtype=F64), points, strides)
    truths, labels = random_boxes(n, seed), torch.randint(3, (n,), generator=g)
    if n > 1:
        truths[1] = truths[0] + 1  # they fight for places
    for alpha, beta in ((0.5, 6.0), (1.0, 2.0)):
        owner, quality = task_aligned_assign(
            scores, boxes, points, truths, labels, topk, alpha, beta
        )
        args = (x.tolist() for x in (scores, boxes, truths, labels))
        expected = assign_by_definition(*args, plain_points(), topk, alpha, beta)
        assert owner.dtype == torch.int64 and owner.tolist() == expected[0]
        assert_close(quality, torch.tensor(expected[1], dtype=F64), rtol=1e-9, atol=1e-12)


def test_loss_equals_the_definition():
    bins, logits, targets = random_case([2, 0, 3], 4)
    found = v8_loss(bins, logits, MAPS, targets)
    points, total, parts = plain_points(), 0, [0, 0, 0]
    for z, y, target in zip(bins, logits, targets):
        probs, mean = y.sigmoid().tolist(), expected_distance(z).tolist()
        boxes = [
            [x - s * d[0], v - s * d[1], x + s * d[2], v + s * d[3]]
            for (x, v, s), d in zip(points, mean)
        ]
        truths, labels = target["boxes"].tolist(), target["labels"].tolist()
        owner, quality = assign_by_definition(probs, boxes, truths, labels, points, 10, 0.5, 6.0)
        for n, (x, v, s) in enumerate(points):
            for k in range(3):
                goal = quality[n] if owner[n] >= 0 and labels[owner[n]] == k else 0
                parts[1] -= goal * math.log(probs[n][k]) + (1 - goal) * math.log(1 - probs[n][k])
            if owner[n] >= 0:
                t = truths[owner[n]]
                total += quality[n]
                parts[0] += quality[n] * (1 - plain_ciou(boxes[n], t))
                sides = [(x - t[0]) / s, (v - t[1]) / s, (t[2] - x) / s, (t[3] - v) / s]
                for m, d in enumerate(sides):
                    d = min(max(d, 0), 5 - 1.01)
                    lp = z[n, m].log_softmax(-1).tolist()
                    k = int(d)
                    parts[2] -= quality[n] * ((k + 1 - d) * lp[k] + (d - k) * lp[k + 1]) / 4
    expected = [gain * part / max(total, 1) for gain, part in zip((7.5, 0.5, 1.5), parts)]
    assert [float(x) for x in found] == pytest.approx(expected, abs=1e-8)


def test_c2f_by_hand():
    block = C2f(4, 6, 2, shortcut=True).eval()
    x = torch.randn(1, 4, 5, 5, generator=seeded())
    a, b = block.split(x)[:, :3], block.split(x)[:, 3:]
    c = b + block.blocks[0].layers(b)
    d = c + block.blocks[1].layers(c)
    assert_close(block(x), block.mix(torch.cat([a, b, c, d], 1)))
    plain = C2f(4, 6, 1, shortcut=False).eval()
    b = plain.split(x)[:, 3:]
    expected = plain.mix(torch.cat([plain.split(x), plain.blocks[0].layers(b)], 1))
    assert_close(plain(x), expected)


def test_head_puts_bins_and_classes_where_the_points_are():
    head = DecoupledHead((4, 6), 2, 3).eval()
    maps = [torch.randn(1, C, h, w, generator=seeded()) for C, (h, w) in zip((4, 6), MAPS.values())]
    bins, logits = head(maps)
    assert bins.shape == (1, N, 4, 3) and logits.shape == (1, N, 2)
    second = head.boxes[1](maps[1])[0]  # (12, 2, 3)
    assert_close(bins[0, 20 + 4], second[:, 1, 1].view(4, 3))  # row 1, column 1 of the second map
    assert_close(logits[0, 7], head.logits[0](maps[0])[0, :, 1, 2])


# Invariants -----------------------------------------------------------------------------


@given(n=st.integers(1, 5), seed=seeds)
def test_owned_places_lie_inside_and_goals_are_at_most_the_overlap(n, seed):
    bins, logits, (target,) = random_case([n], seed)
    points, strides = (x.double() for x in grid_points(MAPS))
    boxes = decode_distances(expected_distance(bins[0]), points, strides)
    truths, labels = target["boxes"], target["labels"]
    scores = logits[0].sigmoid()
    owner, quality = task_aligned_assign(scores, boxes, points, truths, labels, topk=4)
    at = owner >= 0
    assert not quality[~at].any() and ((quality >= 0) & (quality <= 1)).all()
    mine = truths[owner[at]]
    assert ((points[at] > mine[:, :2]) & (points[at] < mine[:, 2:])).all()
    assert at.sum() <= 4 * n
    p = torch.randperm(n, generator=seeded(seed))
    again, same = task_aligned_assign(scores, boxes, points, truths[p], labels[p], topk=4)
    assert torch.equal(torch.where(again < 0, -1, p[again]), owner)
    assert_close(same, quality)


@given(seed=seeds)
def test_encode_inverts_decode(seed):
    points, strides = (x.double() for x in grid_points(MAPS))
    distances = torch.randn(N, 4, generator=seeded(seed), dtype=F64).abs()
    boxes = decode_distances(distances, points, strides)
    assert_close(encode_distances(boxes, points, strides), distances)


def test_dfl_is_least_where_the_bins_share_the_target():
    target = torch.tensor([1.3], dtype=F64)
    best = torch.tensor([[1e-9, 0.7, 0.3, 1e-9]], dtype=F64).log()
    least = float(dfl_loss(best, target))
    assert least == pytest.approx(-(0.7 * math.log(0.7) + 0.3 * math.log(0.3)), abs=1e-6)
    for seed in range(20):
        assert dfl_loss(best + torch.randn(1, 4, generator=seeded(seed)), target) > least
    assert float(expected_distance(best)) == pytest.approx(1.3)


# Gradient, edges --------------------------------------------------------------------


def test_gradient():
    bins, logits, targets = random_case([2, 1], 6)
    owners = [torch.full((N,), -1), torch.full((N,), -1)]
    owners[0][[3, 8]], owners[1][12] = torch.tensor([0, 1]), 0
    fixed = iter([])

    def assign(*_):
        owner = next(fixed)
        return owner, 0.7 * (owner >= 0).double()

    def loss(z, y):
        nonlocal fixed
        fixed = iter(owners)
        return v8_loss(z, y, MAPS, targets)[1:]

    with pytest.MonkeyPatch.context() as patch:  # held fixed: it jumps where places change hands
        patch.setattr(yolo_v8, "task_aligned_assign", assign)
        leaves = (bins.requires_grad_(), logits.requires_grad_())
        assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


def test_gradient_of_decoding():
    points, strides = (x.double() for x in grid_points({8: (1, 2)}))
    bins = torch.randn(2, 4, 5, generator=seeded(), dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z: decode_distances(expected_distance(z), points, strides), (bins,)
    )


NOTHING = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def test_without_objects_only_classes_count():
    bins, logits, _ = random_case([0, 0], 0)
    box, classes, dfl = v8_loss(bins, logits, MAPS, [NOTHING] * 2)
    assert box == dfl == 0
    assert_close(classes, 0.5 * F.softplus(logits).sum())
    assert [float(x) for x in v8_loss(bins[:0], logits[:0], MAPS, [])] == [0, 0, 0]


def test_an_object_between_all_points_gets_no_place():
    bins, logits, _ = random_case([0], 0)
    target = dict(boxes=torch.tensor([[4.5, 4.5, 6.0, 6.0]]), labels=torch.tensor([0]))
    box, classes, dfl = v8_loss(bins, logits, MAPS, [target])
    assert box == dfl == 0 and classes > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision(dtype):
    bins, logits, targets = random_case([3, 0], 2)
    bins, logits = bins.to(dtype), logits.to(dtype)
    expected = v8_loss(bins.double(), logits.double(), MAPS, targets)
    found = v8_loss(bins, logits, MAPS, targets)
    assert all(x.dtype == torch.float32 for x in found)
    assert_close([x.double() for x in found], list(expected), rtol=1e-3, atol=1e-3)


def test_everything_is_made_on_the_device_of_the_input_and_autocast_changes_little():
    bins, logits, targets = random_case([3, 0], 2)
    expected = v8_loss(bins, logits, MAPS, targets)
    with torch.device("meta"):  # what forgets the device fails here
        assert_close(v8_loss(bins, logits, MAPS, targets), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = v8_loss(bins.float(), logits.float(), MAPS, targets)
        assert expected_distance(bins.float()).dtype == torch.float32
    assert_close([x.double() for x in found], list(expected), rtol=1e-4, atol=1e-4)


def test_layout_does_not_matter_and_nothing_is_changed():
    bins, logits, targets = random_case([3], 4)
    before = bins.clone(), logits.clone()
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in before]
    assert_close(v8_loss(*strided, MAPS, targets), v8_loss(bins, logits, MAPS, targets))
    assert torch.equal(before[0], bins) and torch.equal(before[1], logits)


# The detector -------------------------------------------------------------------------


def test_limits_of_detections_when_none_are_given(monkeypatch):
    monkeypatch.setattr(yolo_v8, "pick_detections", lambda *args: args[3:])
    assert YOLOv8().eval().detect(torch.rand(1, 3, 64, 64)) == (0.01, 0.7, 400, 100)


def test_the_detector_takes_any_size_and_its_loss_reaches_every_parameter():
    model = YOLOv8(generator=seeded())
    for height, width in ((64, 100), (33, 40)):
        assert len(model.eval().detect(torch.zeros(2, 3, height, width))) == 2
    images, targets = batch(shapes(4, seeded(1)))
    loss = model.train().loss(images, targets)
    loss.backward()
    with torch.no_grad():
        assert_close(loss.detach(), sum(v8_loss(*model(images), targets)))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_weights_come_from_the_generator():
    a, b, c = (YOLOv8(generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["stem.0.weight"], c["stem.0.weight"])


WORDS = ["boxes", "classes", "dfl"]  # the parts of the loss


def learnt(broken, monkeypatch, seed=0):
    if broken == "places":  # three rows away from those that should learn
        assign = yolo_v8.task_aligned_assign
        monkeypatch.setattr(
            yolo_v8, "task_aligned_assign", lambda *args: [x.roll(18) for x in assign(*args)]
        )

    def loss(model, images, targets):
        parts = v8_loss(*model(images), targets)
        gone = ("boxes", "dfl") if broken == "distances" else (broken,)
        return sum(x for word, x in zip(WORDS, parts) if word not in gone)

    model = YOLOv8(2, (8, 16, 24, 32, 32), (1, 1, 1, 1), 6, generator=seeded(seed))
    return trained(model, loss, steps=120, rate=1e-2, size=12, most=2, seed=seed)


@pytest.mark.parametrize("broken", [None, "places", "distances", "classes"])
def test_it_learns_in_seconds_and_with_a_broken_loss_it_does_not(broken, monkeypatch):
    result = learnt(broken, monkeypatch)
    assert (result["AP50"] > 0.4 and result["AP"] > 0.2) == (broken is None), result


# Bad input --------------------------------------------------------------------------

BINS, LOGITS = torch.zeros(1, N, 4, 5), torch.zeros(1, N, 3)
ONE = torch.tensor([[0.0, 0.0, 9.0, 9.0]])


def losing(boxes=((0.0, 0.0, 5.0, 5.0),), labels=(0,), bins=BINS, logits=LOGITS, many=1):
    target = dict(boxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return v8_loss(bins, logits, MAPS, [target] * many)


def assigning(scores=((0.5,),), boxes=ONE, points=((4.0, 4.0),), truths=ONE, labels=(0,), topk=1):
    points = torch.tensor(points)
    return task_aligned_assign(
        torch.tensor(scores), boxes, points, truths, torch.tensor(labels), topk
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid_points({}), r"positive, got \{\}"),
        (lambda: grid_points({8: (0, 1)}), r"got \{8: \(0, 1\)\}"),
        (lambda: expected_distance(torch.zeros(4, 1)), r"R at least 2, got torch.float32 \(4, 1\)"),
        (lambda: dfl_loss(torch.zeros(4, 3), torch.zeros(3)), r"got \(4, 3\) and \(3,\)"),
        (lambda: dfl_loss(torch.zeros(1, 3), torch.ones(1) * math.nan), r"numbers, got nan"),
        (lambda: decode_distances(ONE, ONE[:, :2], ONE), r"got \(1, 4\), \(1, 2\) and \(1, 4\)"),
        (lambda: assigning(scores=((1.5,),)), r"probabilities, got 1.5"),
        (lambda: assigning(topk=0), r"topk must be at least 1, got 0"),
        (lambda: assigning(labels=(1,)), r"int64 from 0 to 0, got tensor\(\[1\]\)"),
        (lambda: assigning(labels=(0, 0)), r"got \(1, 4\) and \(2,\)"),
        (lambda: assigning(points=((4.0, 4.0),) * 2), r"got \(1, 1\), \(1, 4\) and \(2, 2\)"),
        (lambda: assigning(boxes=-ONE), r"boxes_xyxy must be finite with x1 <= x2"),
        (lambda: assigning(truths=ONE * math.nan), r"truths_xyxy must be finite"),
        (lambda: losing(bins=BINS[:, 1:]), r"got \(1, 25, 4, 5\) and \(1, 26, 3\)"),
        (lambda: losing(bins=BINS * math.nan), r"boxes_xyxy must be finite .* got \[nan"),
        (lambda: losing(many=2), r"one an image, 1, got 2"),
        (lambda: losing(labels=(3,)), r"int64 from 0 to 2, got tensor\(\[3\]\)"),
        (lambda: losing(boxes=((0.0, 0.0, 0.0, 5.0),)), r"positive size, got \[0.0, 0.0, 0.0, 5"),
        (lambda: losing(boxes=((0.0, 0.0, math.nan, 5.0),)), r"got \[0.0, 0.0, nan, 5.0\]"),
        (lambda: v8_size("z"), r"n, s, m, l, x, got 'z'"),
        (lambda: YOLOv8(0), r"got 0 and 8"),
        (lambda: YOLOv8(widths=(8, 8)), r"got \[8, 8\] and \[1, 1, 1, 1\]"),
        (lambda: YOLOv8(depths=(1, 1, 0, 1)), r"got \[.*\] and \[1, 1, 0, 1\]"),
        (lambda: YOLOv8()(torch.zeros(1, 1, 32, 32)), r"images must be \(B, 3, H, W\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
