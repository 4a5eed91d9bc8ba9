"""Non-maximum suppression: onnxruntime, plain loops, invariants, gradient, edges, bad input.

Yardstick: onnxruntime.NonMaxSuppression; plain loops.
"""

import math
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.detection.iou import box_iou, mask_iou, paired_iou
from snippets.detection.nms import batched_nms, diou_nms, matrix_nms, nms, soft_nms

module = sys.modules[nms.__module__]

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(0, 14)
# With the small whole boxes below, overlaps of exactly these occur.
thresholds = st.sampled_from([0.0, 0.2, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 1.0])


def random_boxes(n, seed=0, whole=True, size=12, dtype=torch.float64):
    """Few whole coordinates and few scores: equal boxes, equal scores and exact overlaps occur."""
    generator = torch.Generator().manual_seed(seed)
    if whole:
        corner = torch.randint(-3, size // 2, (n, 2), generator=generator)
        extent = torch.randint(0, size // 2, (n, 2), generator=generator)
        scores = torch.randint(0, 5, (n,), generator=generator) / 4
    else:
        corner = size * torch.rand(n, 2, generator=generator, dtype=torch.float64)
        extent = size * torch.rand(n, 2, generator=generator, dtype=torch.float64)
        scores = torch.rand(n, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return torch.cat([corner, corner + extent], 1).to(dtype), scores.to(dtype), labels


# Plain loops ------------------------------------------------------------------


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    union = areas[0] + areas[1] - width * height
    return width * height / union if union else 0.0


def distance_overlap(a, b):
    hull = [max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])]
    apart = [(a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2]
    far = hull[0] * hull[0] + hull[1] * hull[1]
    return overlap(a, b) - ((apart[0] * apart[0] + apart[1] * apart[1]) / far if far else 0.0)


def ranking(scores):
    return sorted(range(len(scores)), key=lambda i: -scores[i])  # stable


def greedy_by_loops(boxes, scores, threshold, labels=None, measure=overlap):
    boxes, scores = boxes.tolist(), scores.tolist()
    labels = [0] * len(scores) if labels is None else labels.tolist()
    kept = []
    for i in ranking(scores):
        rivals = [j for j in kept if labels[j] == labels[i]]
        if all(measure(boxes[j], boxes[i]) <= threshold for j in rivals):
            kept.append(i)
    return kept


def soft_by_loops(boxes, scores, kind, sigma, threshold, min_score, labels):
    boxes, scores, labels = boxes.tolist(), scores.tolist(), labels.tolist()
    rest = [i for i in range(len(scores)) if scores[i] >= min_score]
    picked = []
    while rest:
        best = rest[0]
        for i in rest:
            if scores[i] > scores[best]:
                best = i
        picked.append((best, scores[best]))
        rest.remove(best)
        for i in rest:
            if labels[i] == labels[best]:
                u = overlap(boxes[best], boxes[i])
                if kind == "gaussian":
                    scores[i] *= math.exp(-u * u / sigma)
                elif u > threshold:
                    scores[i] *= 1 - u
        rest = [i for i in rest if scores[i] >= min_score]
    return [i for i, _ in picked], [s for _, s in picked]


def matrix_by_loops(iou, scores, kind, sigma, min_score, labels):
    """Matrix NMS as in SOLOv2, box by box; of two equal boxes the second has the factor 0."""

    def f(u):
        return math.exp(-u * u / sigma) if kind == "gaussian" else 1 - u

    iou, scores, labels = iou.tolist(), scores.tolist(), labels.tolist()
    order = ranking(scores)

    def between(i, j):
        return iou[i][j] if labels[i] == labels[j] else 0.0

    new = {}
    for at, j in enumerate(order):
        factors = [1.0]
        for before, i in enumerate(order[:at]):
            milder = min([f(between(k, i)) for k in order[:before]], default=1.0)
            if milder > 0:
                factors.append(f(between(i, j)) / milder)
        new[j] = scores[j] * min(factors)
    kept = sorted((i for i in order if new[i] >= min_score), key=lambda i: -new[i])
    return kept, [new[i] for i in kept]


# Parity -----------------------------------------------------------------------


def as_onnx():
    """A session of the operator NonMaxSuppression, for one image."""
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    value = onnx.helper.make_tensor_value_info
    inputs = [
        value("boxes", float32, [1, None, 4]),
        value("scores", float32, [1, None, None]),
        value("most", int64, [1]),
        value("iou_threshold", float32, [1]),
        value("min_score", float32, [1]),
    ]
    node = onnx.helper.make_node("NonMaxSuppression", [x.name for x in inputs], ["kept"])
    graph = onnx.helper.make_graph([node], "nms", inputs, [value("kept", int64, [None, 3])])
    opset = [onnx.helper.make_opsetid("", 11)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    cpu = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=cpu)


SESSION = as_onnx()


def by_onnx(boxes, scores, threshold, labels=None):
    """(K, 2) of class and index, class by class, each by descending score."""
    labels = torch.zeros(len(scores), dtype=torch.int64) if labels is None else labels
    per_class = torch.full((3, len(scores)), -1.0)
    per_class[labels, torch.arange(len(scores))] = scores
    inputs = {
        "boxes": boxes[None].numpy(),
        "scores": per_class[None].numpy(),
        "most": np.array([len(scores)]),
        "iou_threshold": np.array([threshold], np.float32),
        "min_score": np.array([-0.5], np.float32),
    }
    return SESSION.run(None, inputs)[0][:, 1:].tolist()


@given(n=counts, threshold=thresholds, whole=st.booleans(), seed=seeds)
def test_nms_equals_onnxruntime(n, threshold, whole, seed):
    boxes, scores, _ = random_boxes(n, seed, whole, dtype=torch.float32)
    expected = [index for _, index in by_onnx(boxes, scores, threshold)]
    assert nms(boxes, scores, threshold).tolist() == expected


@given(n=counts, threshold=thresholds, whole=st.booleans(), seed=seeds)
def test_batched_nms_equals_onnxruntime(n, threshold, whole, seed):
    boxes, scores, labels = random_boxes(n, seed, whole, dtype=torch.float32)
    expected = [index for _, index in by_onnx(boxes, scores, threshold, labels)]
    kept = batched_nms(boxes, scores, labels, threshold).tolist()
    assert kept == sorted(sorted(expected), key=lambda i: -scores[i])


@pytest.mark.parametrize("n", [1500, 3000], ids=str)
def test_many_boxes_equal_onnxruntime(n):
    boxes, scores, labels = random_boxes(n, 3, whole=False, size=50, dtype=torch.float32)
    expected = [index for _, index in by_onnx(boxes, scores, 0.6)]
    assert 50 < len(expected) < n
    assert nms(boxes, scores, 0.6).tolist() == expected
    found = {(int(labels[i]), int(i)) for i in batched_nms(boxes, scores, labels, 0.6)}
    assert found == {tuple(row) for row in by_onnx(boxes, scores, 0.6, labels)}


@given(n=counts, threshold=thresholds, whole=st.booleans(), seed=seeds)
def test_greedy_equals_plain_loops(n, threshold, whole, seed):
    boxes, scores, labels = random_boxes(n, seed, whole)
    assert nms(boxes, scores, threshold).tolist() == greedy_by_loops(boxes, scores, threshold)
    expected = greedy_by_loops(boxes, scores, threshold, labels)
    assert batched_nms(boxes, scores, labels, threshold).tolist() == expected


@given(n=counts, threshold=st.sampled_from([-0.5, -0.1, 0.1, 0.3, 0.45]), seed=seeds)
def test_diou_nms_equals_plain_loops(n, threshold, seed):
    boxes, scores, labels = random_boxes(n, seed)
    expected = greedy_by_loops(boxes, scores, threshold, measure=distance_overlap)
    assert diou_nms(boxes, scores, threshold).tolist() == expected
    expected = greedy_by_loops(boxes, scores, threshold, labels, distance_overlap)
    assert diou_nms(boxes, scores, threshold, labels=labels).tolist() == expected


kinds = st.sampled_from(["gaussian", "linear"])
sigmas = st.sampled_from([0.1, 0.5, 2.0])
least = st.sampled_from([0.0, 0.001, 0.2])


@given(n=counts, kind=kinds, sigma=sigmas, threshold=thresholds, min_score=least, seed=seeds)
def test_soft_nms_equals_plain_loops(n, kind, sigma, threshold, min_score, seed):
    boxes, scores, labels = random_boxes(n, seed)
    expected = soft_by_loops(boxes, scores, kind, sigma, threshold, min_score, labels)
    kept, new = soft_nms(boxes, scores, kind, sigma, threshold, min_score, labels)
    assert kept.tolist() == expected[0]
    assert_close(new, torch.tensor(expected[1], dtype=torch.float64), rtol=1e-10, atol=1e-12)


@given(n=counts, kind=kinds, sigma=sigmas, min_score=least, seed=seeds)
def test_matrix_nms_equals_plain_loops(n, kind, sigma, min_score, seed):
    boxes, scores, labels = random_boxes(n, seed)
    iou = box_iou(boxes, boxes)
    expected = matrix_by_loops(iou, scores, kind, sigma, min_score, labels)
    kept, new = matrix_nms(iou, scores, kind, sigma, min_score, labels)
    assert_close(new, torch.tensor(expected[1], dtype=torch.float64), rtol=1e-10, atol=1e-12)
    by_index = dict(zip(*expected))
    assert set(kept.tolist()) == by_index.keys()
    found = torch.tensor([by_index[i] for i in kept.tolist()], dtype=torch.float64)
    assert_close(new, found, rtol=1e-10, atol=1e-12)  # scores that differ by rounding may swap


def test_matrix_nms_by_hand():
    """A, B and C in a row, each overlapping the next: B, itself suppressed, spares C."""
    iou = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.6], [0.0, 0.6, 1.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    kept, new = matrix_nms(iou, scores, "linear")
    assert kept.tolist() == [0, 2, 1]
    assert_close(new, torch.tensor([0.9, 0.7, 0.8 * 0.2]))  # min(1, 0.4 / 0.2) = 1 for C
    _, new = matrix_nms(iou, scores)
    assert_close(new, torch.tensor([0.9, 0.7, 0.8 * math.exp(-0.64 / 0.5)]))


def test_published_sigma_of_solov2():
    """The official code multiplies by sigma = 2.0; the same here is a division by 0.5."""
    iou = torch.tensor([[1.0, 0.7], [0.7, 1.0]])
    _, new = matrix_nms(iou, torch.tensor([0.9, 0.8]))
    assert_close(new[1], torch.tensor(0.8 * math.exp(-2.0 * 0.49)))


# A box suppressed by a suppressed box -------------------------------------------------


def test_a_suppressed_box_suppresses_nothing():
    """Fast NMS would lose the third box."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [9, 0, 19, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert nms(boxes, scores, 0.5).tolist() == [0, 2]


@pytest.mark.parametrize("length", [1, 2, 7, 60])
def test_chains_of_any_length(length, monkeypatch):
    """Each box overlaps the next: the fixed point takes as many steps as the chain is long."""
    left = 3.0 * torch.arange(length)
    boxes = torch.stack([left, 0 * left, left + 10, 0 * left + 10], 1)
    scores = torch.linspace(1, 0.1, length)
    for block in (1, 2, 5, 1024, 256):
        monkeypatch.setattr(module, "BLOCK", block)
        assert nms(boxes, scores, 0.5).tolist() == list(range(0, length, 2))


@given(n=st.integers(0, 40), block=st.integers(1, 9), seed=seeds)
def test_blocks_do_not_matter(n, block, seed):
    boxes, scores, labels = random_boxes(n, seed)
    whole = batched_nms(boxes, scores, labels, 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        assert torch.equal(batched_nms(boxes, scores, labels, 0.3), whole)


def test_memory_is_not_quadratic(monkeypatch):
    """No call compares more than a block of rows."""
    rows = []

    def counted(a, b, kind):
        rows.append(len(a))
        return box_iou(a, b, kind)

    monkeypatch.setattr(module, "box_iou", counted)
    monkeypatch.setattr(module, "BLOCK", 64)
    boxes, scores, _ = random_boxes(300, whole=False)
    assert nms(boxes, scores, 0.7).tolist() == greedy_by_loops(boxes, scores, 0.7)
    assert max(rows) == 64 and len(rows) == 2 * math.ceil(300 / 64)


# Classes, without moving boxes --------------------------------------------------------


def test_other_classes_never_suppress():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(5, 4)
    scores, labels = torch.tensor([0.5, 0.9, 0.7, 0.8, 0.6]), torch.tensor([0, -4, 0, 80, 10**12])
    assert batched_nms(boxes, scores, labels, 0.5).tolist() == [1, 3, 2, 4]


def test_no_error_of_an_offset():
    """Moved aside by 7680 a class, these boxes of class 79 are rounded to an IoU of 0.5."""
    boxes = torch.tensor([[0.0, 0.0, 3.0, 1.0], [1.03, 0.0, 4.03, 1.0]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([79, 79])
    moved = boxes + 7680.0 * labels[:, None]
    assert float(box_iou(boxes, boxes)[0, 1]) < 0.489
    assert float(box_iou(moved, moved)[0, 1]) == 0.5
    assert batched_nms(boxes, scores, labels, 0.495).tolist() == [0, 1]


def test_negative_coordinates_of_another_class():
    """Shifted by the largest coordinate plus 1, the second box would lie upon the first."""
    boxes = torch.tensor([[90.0, 90, 100, 100], [-11, -11, -1, -1]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    moved = boxes + labels[:, None] * (boxes.max() + 1)
    assert nms(moved, scores, 0.5).tolist() == [0]
    assert batched_nms(boxes, scores, labels, 0.5).tolist() == [0, 1]


@given(n=counts, kind=kinds, seed=seeds)
def test_batched_equals_one_class_at_a_time(n, kind, seed):
    boxes, scores, labels = random_boxes(n, seed, whole=False)
    iou = box_iou(boxes, boxes)
    of_class = [(labels == label).nonzero()[:, 0] for label in range(3)]
    calls = [
        lambda i, labels: soft_nms(boxes[i], scores[i], kind, labels=labels),
        lambda i, labels: matrix_nms(iou[i][:, i], scores[i], kind, labels=labels),
    ]
    for call in calls:
        together = dict(zip(*(x.tolist() for x in call(torch.arange(n), labels))))
        apart = {}
        for i in of_class:
            kept, new = call(i, None)
            apart |= dict(zip(i[kept].tolist(), new.tolist()))
        assert together == pytest.approx(apart, rel=1e-12)


# Invariants ---------------------------------------------------------------------------


@given(n=counts, threshold=thresholds, seed=seeds)
def test_what_greedy_nms_promises(n, threshold, seed):
    boxes, scores, _ = random_boxes(n, seed)
    kept = nms(boxes, scores, threshold)
    assert (scores[kept].diff() <= 0).all()
    among = box_iou(boxes[kept], boxes[kept]).fill_diagonal_(0)
    assert (among <= threshold).all()  # no two kept boxes overlap
    gone = sorted(set(range(n)) - set(kept.tolist()))
    over = box_iou(boxes[kept], boxes[gone]) > threshold
    better = scores[kept][:, None] >= scores[gone]
    assert (over & better).any(0).all()  # each box gone has a kept better one
    again = nms(boxes[kept], scores[kept], threshold)
    assert again.tolist() == list(range(len(kept)))  # idempotent


@given(n=counts, threshold=thresholds, seed=seeds)
def test_only_the_order_of_scores_counts(n, threshold, seed):
    boxes, scores, labels = random_boxes(n, seed)
    before = nms(boxes, scores, threshold)
    assert torch.equal(before, nms(boxes, 7 * scores.exp() - 100, threshold))
    moved = 4 * boxes + torch.tensor([8.0, -16.0, 8.0, -16.0])
    assert torch.equal(before, nms(moved, scores, threshold))


@given(n=counts, seed=seeds)
def test_order_of_input_does_not_matter_without_ties(n, seed):
    boxes, scores, labels = random_boxes(n, seed, whole=False)
    p = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = boxes[p], scores[p], labels[p]
    assert torch.equal(batched_nms(boxes, scores, labels, 0.4), p[batched_nms(*shuffled, 0.4)])
    for kind in ("gaussian", "linear"):
        a = soft_nms(boxes, scores, kind, labels=labels)
        b = soft_nms(*shuffled[:2], kind, labels=shuffled[2])
        assert torch.equal(a[0], p[b[0]]) and torch.equal(a[1], b[1])


@given(n=counts, kind=kinds, seed=seeds)
def test_soft_scores_only_fall(n, kind, seed):
    boxes, scores, _ = random_boxes(n, seed, whole=False)
    results = [
        soft_nms(boxes, scores, kind, min_score=0),
        matrix_nms(box_iou(boxes, boxes), scores, kind, min_score=0),
    ]
    for kept, new in results:
        assert sorted(kept.tolist()) == list(range(n))
        assert (new >= 0).all() and (new <= scores[kept]).all() and (new.diff() <= 0).all()
        assert n == 0 or (kept[0] == scores.argmax() and new[0] == scores.max())


@given(u=st.floats(0, 1), v=st.floats(0, 1), w=st.floats(0.1, 10))
def test_diou_of_equal_boxes_differs_little_from_iou(u, v, w):
    """By at most ((1 - IoU) / 2)^2, as the page says: 0.0625 at 0.5."""
    a = torch.tensor([0.0, 0.0, w, 1.0], dtype=torch.float64)
    b = a + torch.tensor([u * w, v, u * w, v], dtype=torch.float64)
    iou, diou = paired_iou(a, b), paired_iou(a, b, "diou")
    assert float(iou - diou) <= float(((1 - iou) / 2) ** 2) + 1e-12


# Gradient ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "linear"])
def test_gradient_of_soft_scores(kind):
    boxes, scores, _ = random_boxes(6, 5, whole=False, size=6)
    scores = (0.5 + scores / 2).requires_grad_()
    boxes = boxes.requires_grad_()

    def new_scores(boxes, scores):
        return soft_nms(boxes, scores, kind, iou_threshold=0.05)[1]

    new = new_scores(boxes, scores)
    assert len(new) == 6 and new.sum() < scores.sum() - 0.1
    assert torch.autograd.gradcheck(new_scores, (boxes, scores))


@pytest.mark.parametrize("kind", ["gaussian", "linear"])
def test_gradient_of_matrix_scores(kind):
    _, scores, _ = random_boxes(6, 5, whole=False)
    iou = 0.1 + 0.8 * torch.rand(6, 6, dtype=torch.float64)
    iou, scores = iou.requires_grad_(), (0.5 + scores / 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, s: matrix_nms(u, s, kind)[1], (iou, scores))


def test_gradient_beside_copies_is_finite():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [1, 0, 5, 4]], requires_grad=True)
    scores = torch.tensor([0.9, 0.8, 0.7], requires_grad=True)
    for kind in ("gaussian", "linear"):
        for sigma in (1e-4, 0.5):
            iou = box_iou(boxes, boxes)
            for _, new in (
                matrix_nms(iou, scores, kind, sigma, 0),
                soft_nms(boxes, scores, kind, sigma, min_score=0),
            ):
                found = torch.autograd.grad(new.sum(), [boxes, scores], retain_graph=True)
                assert all(g.isfinite().all() for g in found)


def test_indices_need_no_gradient(monkeypatch):
    """Nor does the way to them record one."""

    def without_gradient(a, b, kind):
        assert not a.requires_grad and not b.requires_grad
        return box_iou(a, b, kind)

    monkeypatch.setattr(module, "box_iou", without_gradient)
    boxes, scores, labels = random_boxes(6, 5)
    boxes, scores = boxes.requires_grad_(), scores.requires_grad_()
    for kept in (nms(boxes, scores, 0.5), batched_nms(boxes, scores, labels, 0.5)):
        assert kept.dtype == torch.int64 and not kept.requires_grad


# Edges ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [0, 1])
def test_no_box_and_one_box(n, dtype):
    boxes, scores = torch.tensor([[1.0, 2, 3, 4]] * n, dtype=dtype).reshape(n, 4), torch.ones(n)
    scores, labels = scores.to(dtype), torch.zeros(n, dtype=torch.int64)
    kept = [
        nms(boxes, scores, 0.5),
        batched_nms(boxes, scores, labels, 0.5),
        diou_nms(boxes, scores, 0.5, labels=labels),
    ]
    for indices, new in (
        soft_nms(boxes, scores, labels=labels),
        soft_nms(boxes, scores, "linear"),
        matrix_nms(box_iou(boxes, boxes), scores, labels=labels),
        matrix_nms(box_iou(boxes, boxes), scores, "linear"),
    ):
        kept.append(indices)
        assert new.tolist() == [1.0] * n and new.dtype == dtype
    for indices in kept:
        assert indices.dtype == torch.int64 and indices.tolist() == list(range(n))


def test_an_overlap_equal_to_the_threshold_suppresses_nothing():
    boxes = torch.tensor([[0.0, 0, 3, 1], [1, 0, 4, 1]])  # IoU 2 / 4
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, 0.5 - 1e-6).tolist() == [0]
    assert soft_nms(boxes, scores, "linear", iou_threshold=0.5)[1].tolist() == scores.tolist()
    assert_close(soft_nms(boxes, scores, "linear", iou_threshold=0.49)[1][1], 0.5 * scores[1])


def test_of_equal_boxes_with_equal_scores_the_first_stays():
    boxes, scores = torch.tensor([[0.0, 0, 3, 1]]).expand(4, 4), torch.full((4,), 0.5)
    assert nms(boxes, scores, 0.5).tolist() == [0]
    assert nms(boxes, scores, 1.0).tolist() == [0, 1, 2, 3]
    assert soft_nms(boxes, scores, "linear")[0].tolist() == [0]
    kept, new = matrix_nms(box_iou(boxes, boxes), scores, "linear", min_score=0)
    assert kept.tolist() == [0, 1, 2, 3] and new.tolist() == [0.5, 0, 0, 0]


def test_a_score_equal_to_the_least_stays():
    boxes, scores, _ = random_boxes(3)
    for score, expected in ((0.25, 1), (0.24, 0)):
        one = boxes[:1], torch.tensor([score], dtype=torch.float64)
        assert len(soft_nms(*one, min_score=0.25)[0]) == expected
        iou = torch.ones(1, 1, dtype=torch.float64)
        assert len(matrix_nms(iou, one[1], min_score=0.25)[0]) == expected


def test_boxes_without_area():
    boxes = torch.tensor([[2.0, 2, 2, 2], [2, 2, 2, 2], [0, 0, 4, 4]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.0).tolist() == [0, 1, 2]


def test_infinite_scores_have_an_order():
    boxes, _, _ = random_boxes(3, whole=False)
    scores = torch.tensor([0.0, -torch.inf, torch.inf])
    assert nms(boxes, scores, 1.0).tolist() == [2, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    """Areas of such boxes overflow in half precision; the overlaps are taken in float32."""
    boxes, scores, labels = random_boxes(12, 1, dtype=torch.float32)
    boxes = 64 * boxes
    low = boxes.to(dtype), scores.to(dtype)
    assert torch.equal(nms(*low, 0.3), nms(boxes, scores, 0.3))
    kept = batched_nms(*low, labels, 0.3)
    assert torch.equal(kept, batched_nms(boxes, scores, labels, 0.3))
    for kind in ("gaussian", "linear"):
        a, b = soft_nms(*low, kind), soft_nms(boxes, scores, kind)
        assert torch.equal(a[0], b[0]) and a[1].dtype == dtype
        assert torch.equal(a[1], b[1].to(dtype))
        iou = box_iou(boxes, boxes)
        assert matrix_nms(iou.to(dtype), low[1], kind)[1].dtype == dtype


def test_views_and_arguments_are_left_alone():
    boxes, scores, labels = random_boxes(12, 2)
    wide = torch.stack([boxes, boxes], 1).transpose(0, 1)[0], scores.repeat_interleave(2)[::2]
    assert not wide[1].is_contiguous()
    copies = [x.clone() for x in wide]
    assert torch.equal(nms(*wide, 0.3), nms(boxes, scores, 0.3))
    assert torch.equal(soft_nms(*wide)[1], soft_nms(boxes, scores)[1])
    iou = box_iou(boxes, boxes)
    before = iou.clone()
    a, b = matrix_nms(iou.T, wide[1], labels=labels), matrix_nms(iou, scores, labels=labels)
    assert torch.equal(a[1], b[1]) and torch.equal(iou, before)
    assert all(torch.equal(a, b) for a, b in zip(wide, copies))


def test_matrix_nms_of_masks():
    """A ring and the disc within share no pixel: their boxes overlap, their masks do not."""
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :, :], masks[0, 1:7, 1:7], masks[1, 1:7, 1:7] = True, False, True
    masks[2, 2:7, 1:7] = True
    scores = torch.tensor([0.9, 0.8, 0.7])
    _, new = matrix_nms(mask_iou(masks, masks), scores)
    assert_close(new, torch.tensor([0.9, 0.8, 0.7 * math.exp(-((5 / 6) ** 2) / 0.5)]))


# Bad input -------------------------------------------------------------------------------

GOOD = dict(boxes_xyxy=torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5]]), scores=torch.ones(2))
NAN = torch.tensor([0.5, torch.nan])
LABELS = torch.zeros(2, dtype=torch.int64)
CALLS = {
    "nms": lambda **k: nms(**k, iou_threshold=0.5),
    "batched_nms": lambda **k: batched_nms(**(dict(labels=LABELS) | k), iou_threshold=0.5),
    "diou_nms": lambda **k: diou_nms(**k, diou_threshold=0.5),
    "soft_nms": lambda **k: soft_nms(**k),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(boxes_xyxy=torch.zeros(2, 5)), r"boxes_xyxy must be \(..., 4\), got \(2, 5\)"),
        (dict(boxes_xyxy=torch.zeros(1, 2, 4)), r"must be \(N, 4\), got \(1, 2, 4\)"),
        (dict(boxes_xyxy=torch.zeros(4)), r"must be \(N, 4\), got \(4,\)"),
        (dict(boxes_xyxy=torch.zeros(2, 4).long()), r"floating, got torch.int64"),
        (dict(boxes_xyxy=torch.tensor([[0.0, 0, 1, 1], [3, 0, 2, 1]])), r"got \[3.0, 0.0, 2.0"),
        (dict(boxes_xyxy=torch.full((2, 4), torch.nan)), r"finite .* got \[nan"),
        (dict(scores=NAN), r"(got nan at 1|not negative, got nan)"),
        (dict(scores=torch.ones(3)), r"scores must be floating \(2,\).*torch.float32 \(3,\)"),
        (dict(scores=torch.ones(2, 1)), r"scores must be floating \(2,\).* \(2, 1\)"),
        (dict(scores=torch.ones(2).long()), r"scores must be floating .*torch.int64 \(2,\)"),
        (dict(scores=torch.ones(2, device="meta")), r"on cpu, got .* on meta"),
    ],
    ids=range(11),
)
def test_bad_boxes_and_scores(name, change, message):
    CALLS[name](**GOOD)
    if change.get("scores") is not None and change["scores"].is_meta and name == "soft_nms":
        return  # its scores are looked at first
    with pytest.raises(ValueError, match=message):
        CALLS[name](**(GOOD | change))


@pytest.mark.parametrize("name", ["batched_nms", "diou_nms", "soft_nms"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3).long(), r"labels must be integers \(2,\) .* torch.int64 \(3,\)"),
        (torch.zeros(2), r"labels must be integers .* got torch.float32 \(2,\)"),
        (torch.zeros(2).bool(), r"labels must be integers .* got torch.bool"),
        (torch.zeros(2, device="meta").long(), r"on cpu, got .* on meta"),
    ],
    ids=["length", "float", "bool", "device"],
)
def test_bad_labels(name, labels, message):
    with pytest.raises(ValueError, match=message):
        CALLS[name](**GOOD, labels=labels)
    with pytest.raises(ValueError, match=message):
        matrix_nms(torch.eye(2), torch.ones(2), labels=labels)


@pytest.mark.parametrize("value", [-0.01, 1.01, torch.nan, 50])
def test_bad_thresholds(value):
    labels = torch.zeros(2).long()
    for call in (
        lambda: nms(**GOOD, iou_threshold=value),
        lambda: batched_nms(**GOOD, labels=labels, iou_threshold=value),
        lambda: soft_nms(**GOOD, iou_threshold=value),
    ):
        with pytest.raises(ValueError, match=rf"iou_threshold must be in \[0, 1\], got {value}"):
            call()
    nms(**GOOD, iou_threshold=0), nms(**GOOD, iou_threshold=1)
    diou_nms(**GOOD, diou_threshold=-1)
    with pytest.raises(ValueError, match=r"diou_threshold must be in \[-1, 1\], got -1.5"):
        diou_nms(**GOOD, diou_threshold=-1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kind="gauss"), r"kind must be one of gaussian, linear, got 'gauss'"),
        (dict(sigma=0.0), r"sigma must be above 0, got 0.0"),
        (dict(sigma=torch.nan), r"sigma must be above 0, got nan"),
        (dict(min_score=-0.1), r"min_score must not be negative, got -0.1"),
        (dict(scores=NAN), r"finite and not negative, got nan"),
        (dict(scores=torch.tensor([1.0, -2.0])), r"finite and not negative, got -2.0"),
        (dict(scores=torch.tensor([torch.inf, 1.0])), r"finite and not negative, got inf"),
    ],
    ids=range(7),
)
def test_bad_input_of_soft_and_matrix(change, message):
    with pytest.raises(ValueError, match=message):
        soft_nms(**(GOOD | change))
    with pytest.raises(ValueError, match=message):
        matrix_nms(**(dict(iou=torch.eye(2), scores=torch.ones(2)) | change))


@pytest.mark.parametrize(
    ("iou", "message"),
    [
        (torch.ones(2, 3), r"iou must be floating \(N, N\), got torch.float32 \(2, 3\)"),
        (torch.ones(2), r"iou must be floating \(N, N\), got torch.float32 \(2,\)"),
        (torch.ones(2, 2).long(), r"iou must be floating .* got torch.int64"),
        (torch.ones(3, 3), r"scores must be floating \(3,\)"),
        (torch.full((2, 2), torch.nan), r"iou must be in \[0, 1\], got nan"),
        (torch.tensor([[1.0, -0.5], [0.5, 1.0]]), r"iou must be in \[0, 1\], got -0.5"),
        (torch.tensor([[1.0, 1.5], [0.5, 1.0]]), r"iou must be in \[0, 1\], got 1.5"),
    ],
    ids=range(7),
)
def test_bad_iou_matrix(iou, message):
    with pytest.raises(ValueError, match=message):
        matrix_nms(iou, torch.ones(2))
