"""Average precision: parity with pycocotools, plain loops and scikit-learn; invariants; bad input.

Nothing here is differentiable (ranks and counts), so there is no gradient to check.

Yardstick: pycocotools.cocoeval.COCOeval; sklearn.metrics.precision_recall_curve; plain loops.
"""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch.testing import assert_close

from snippets.detection.average_precision import (
    COCO_AREAS,
    COCO_RECALLS,
    COCO_THRESHOLDS,
    VOC_RECALLS,
    average_precision,
    average_precision_voc,
    evaluate_coco,
    match_coco,
    precision_recall,
)

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
seeds = st.integers(0, 2**32 - 1)


def pycocotools(detections, targets, kind="boxes"):
    """The twelve numbers as their authors compute them."""
    images = [dict(id=i, width=1, height=1) for i in range(len(targets))]
    labels = torch.cat([x["labels"] for x in (*detections, *targets)]).unique().tolist()
    categories = [dict(id=label + 1) for label in labels]
    annotations, results = [], []
    for group, rows in ((targets, annotations), (detections, results)):
        for i, x in enumerate(group):
            for n, label in enumerate(x["labels"].tolist()):
                row = dict(image_id=i, category_id=label + 1, id=len(rows) + 1, iscrowd=0)
                if kind == "boxes":
                    x1, y1, x2, y2 = x["boxes"][n].tolist()
                    row |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
                else:
                    pixels = x["masks"][n].numpy().astype(np.uint8)
                    row |= dict(segmentation=rle.encode(np.asfortranarray(pixels)))
                    row |= dict(area=int(pixels.sum()))
                if "crowd" in x:
                    row["iscrowd"] = int(x["crowd"][n])
                if "area" in x:
                    row["area"] = x["area"][n].item()
                if "ignore" in x:
                    row["ignore"] = int(x["ignore"][n])
                if "scores" in x:
                    row["score"] = x["scores"][n].item()
                rows.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = dict(images=images, categories=categories, annotations=annotations)
        truth.createIndex()
        found.dataset = truth.dataset | dict(annotations=[])
        found.createIndex()
        if results:
            found = truth.loadRes(results)
        evaluation = COCOeval(truth, found, dict(boxes="bbox", masks="segm")[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


def draw(g, low, high):
    return int(torch.randint(low, high + 1, (), generator=g))


def case(seed, kind="boxes", images=3, classes=2, most=6, extra=8):
    """Random truths and detections, with what makes evaluators differ: crowds, ties, borders.

    All lie on a grid, so that equal overlaps are common; sizes cross 32² and 96²; scores take few
    values; truths and detections may lack.
    """
    g = torch.Generator().manual_seed(seed)

    def some(*shape, share):
        return torch.rand(shape, generator=g) < share

    step = [1, 2, 6][draw(g, 0, 2)] if kind == "masks" else [0.5, 1, 4, 7.3, 16, 30][draw(g, 0, 5)]
    dense = [0.9, 0.97, 1][draw(g, 0, 2)]
    levels = [2, 5, 1000][draw(g, 0, 2)]
    crowded = [0, 0.2, 0.7][draw(g, 0, 2)]
    detections, targets = [], []

    def region(corners):
        if kind == "boxes":
            return dict(boxes=corners * step)
        x = torch.arange(24)
        inside = [
            (x >= a[:, None]) & (x < b[:, None])
            for a, b in ((corners[:, 0], corners[:, 2]), (corners[:, 1], corners[:, 3]))
        ]
        masks = inside[1][:, :, None] & inside[0][:, None]
        masks &= some(*masks.shape, share=dense)
        return dict(masks=masks.repeat_interleave(step, 1).repeat_interleave(step, 2))

    for _ in range(draw(g, 1, images)):
        n = draw(g, 0, most)
        size = torch.randint(0, 9, (n, 2), generator=g)
        corners = torch.randint(0, 12, (n, 2), generator=g)
        corners = torch.cat([corners, corners + size], 1).float()  # (n, 4), some without area
        target = region(corners) | dict(labels=torch.randint(0, classes, (n,), generator=g))
        if draw(g, 0, 1):
            target["crowd"] = some(n, share=crowded)
        if draw(g, 0, 3) == 0:
            areas = torch.tensor([0.0, 1023.5, 1024, 1024.5, 9216, 9217, 1e5])
            target["area"] = areas[torch.randint(0, 7, (n,), generator=g)]
        if draw(g, 0, 3) == 0:
            target["ignore"] = some(n, share=0.5)
        targets.append(target)
        m = draw(g, 0, 3 * n + extra)
        moved = torch.randint(0, 14, (m, 2), generator=g).repeat(1, 2).float()
        moved[:, 2:] += torch.randint(0, 9, (m, 2), generator=g)
        labels = torch.randint(0, classes + 1, (m,), generator=g)
        if n:  # most are near a truth
            source = torch.randint(0, n, (m,), generator=g)
            near = some(m, share=0.8)
            shift = torch.randint(-1, 2, (m, 4), generator=g)
            shifted = (corners[source] + shift).clamp(min=0)
            shifted[:, 2:] = torch.maximum(shifted[:, 2:], shifted[:, :2])
            moved = torch.where(near[:, None], shifted, moved)
            labels = torch.where(some(m, share=0.8) & near, target["labels"][source], labels)
        scores = torch.randint(0, levels, (m,), generator=g) / levels
        detections.append(region(moved) | dict(scores=scores, labels=labels))
    return detections, targets


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def images(*rows):
    """One class: of each row boxes, and scores or nothing."""
    result = []
    for row in rows:
        x = dict(boxes=boxes(*row[0]), labels=torch.zeros(len(row[0]), dtype=torch.int64))
        result.append(x | (dict(scores=torch.tensor(row[1])) if len(row) > 1 else {}))
    return result


# Parity: COCO -----------------------------------------------------------------------


def test_the_constants_are_those_of_pycocotools():
    theirs = Params("bbox")
    assert tuple(theirs.iouThrs) == COCO_THRESHOLDS
    assert tuple(theirs.recThrs) == COCO_RECALLS
    assert [list(x) for x in COCO_AREAS.values()] == theirs.areaRng


@pytest.mark.parametrize("kind", ["boxes", "masks"])
@pytest.mark.parametrize("part", range(4))
def test_equals_pycocotools(kind, part):
    for seed in range(40 * part, 40 * part + 40):
        detections, targets = case(seed, kind)
        ours = evaluate_coco(detections, targets, kind)
        assert ours == pytest.approx(pycocotools(detections, targets, kind), abs=1e-6), seed


def test_equals_pycocotools_beyond_a_hundred_detections():
    detections, targets = case(56, images=2, classes=1, most=8, extra=250)
    assert max(len(x["labels"]) for x in detections) > 200
    assert evaluate_coco(detections, targets) == pytest.approx(pycocotools(detections, targets))


# Parity: the curve --------------------------------------------------------------------


def curve_by_loops(correct, wrong, total):
    """One number at a time."""
    tp = fp = 0
    points = []
    for c, w in zip(correct.tolist(), wrong.tolist(), strict=True):
        tp, fp = tp + c, fp + w
        points.append((tp / (tp + fp) if tp + fp else 0, tp / total if total else 0))
    return points


def ap_by_loops(points, at):
    """Of (precision, recall); eq. (1) and (2) of Everingham et al., or the area of the steps."""
    if at is not None:
        return sum(max((p for p, r in points if r >= x), default=0) for x in at) / len(at)
    area, before = 0, 0
    for _, recall in points:
        area += (recall - before) * max(p for p, r in points if r >= recall)
        before = recall
    return area


def outcomes(seed, n, ignore=0.2):
    g = torch.Generator().manual_seed(seed)
    kind = torch.rand(n, generator=g)
    correct = kind < draw(g, 0, 10) / 10 * (1 - ignore)
    return correct, ~correct & (kind < 1 - ignore), int(correct.sum()) + draw(g, 0, 3)


@given(seed=seeds, n=st.integers(0, 20))
def test_the_curve_equals_the_definition(seed, n):
    correct, wrong, total = outcomes(seed, n)
    points = curve_by_loops(correct, wrong, total)
    precision, recall = precision_recall(correct, wrong, total)
    assert precision.dtype == recall.dtype == torch.float64
    expected = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    assert_close(torch.stack([precision, recall], 1), expected, rtol=0, atol=1e-12)
    for at in (None, VOC_RECALLS, COCO_RECALLS):
        expected = ap_by_loops(points, at)
        assert float(average_precision(precision, recall, at)) == pytest.approx(expected, abs=1e-12)


@given(seed=seeds)
def test_a_batch_of_curves_equals_one_at_a_time(seed):
    rows = [outcomes(seed + i, 12) for i in range(3)]
    correct, wrong = (torch.stack([row[i] for row in rows]) for i in (0, 1))
    total = torch.tensor([[row[2]] for row in rows])
    strided = correct.T.contiguous().T
    for at in (None, VOC_RECALLS, COCO_RECALLS):
        together = average_precision(*precision_recall(strided, wrong, total), at)
        alone = [average_precision(*precision_recall(*row), at) for row in rows]
        assert torch.equal(together, torch.stack(alone))


@settings(max_examples=20)
@given(seed=seeds, n=st.integers(2, 30))
def test_precision_and_recall_are_those_of_scikit_learn(seed, n):
    """Where every truth is found and all scores differ; its curve runs the other way."""
    correct, wrong, _ = outcomes(seed, n, ignore=0)
    correct[0], wrong[0] = True, False
    scores = torch.arange(n, 0, -1)
    precision, recall = precision_recall(correct, wrong, int(correct.sum()))
    theirs, their_recall, _ = precision_recall_curve(correct, scores)
    assert_close(precision.flip(0), torch.from_numpy(theirs[:-1].copy()))
    assert_close(recall.flip(0), torch.from_numpy(their_recall[:-1].copy()))
    # Its AP takes the precision as it is; where that never rises with the rank they agree.
    without = average_precision_score(correct, scores)
    assert float(average_precision(precision, recall)) >= without - 1e-12
    falling = torch.cummin(precision, 0).values
    steps = recall.diff(prepend=torch.zeros(1).double())
    assert float(average_precision(falling, recall)) == pytest.approx(
        float((falling * steps).sum())
    )
    ranked = correct.int().sort(descending=True).values
    perfect = average_precision(*precision_recall(ranked > 0, ranked == 0, int(ranked.sum())))
    assert float(perfect) == pytest.approx(1) == average_precision_score(ranked, scores)


def test_scikit_learn_does_not_interpolate():
    correct = torch.tensor([True, False, False, True, True])
    curve = precision_recall(correct, ~correct, 3)
    assert float(average_precision(*curve)) == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)
    without = average_precision_score(correct, [5, 4, 3, 2, 1])
    assert without == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)


def test_three_of_ten_reach_the_level_of_three_tenths():
    """3 * 0.1, which other evaluators compare with, is more than 3 / 10."""
    yes, no = torch.ones(3).bool(), torch.zeros(3).bool()
    assert float(average_precision(*precision_recall(yes, no, 10), VOC_RECALLS)) == 4 / 11


# Parity: VOC --------------------------------------------------------------------------


def iou_by_hand(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def voc_by_loops(detections, targets, threshold, at):
    """As the development kit goes about it, detection by detection."""
    result = {}
    for label in torch.cat([x["labels"] for x in targets]).unique().tolist():
        rows, truths, taken = [], {}, set()
        for i, target in enumerate(targets):
            difficult = target.get("difficult", torch.zeros(len(target["labels"]))).tolist()
            for n, box in enumerate(target["boxes"].tolist()):
                if target["labels"][n] == label:
                    truths[i, n] = (box, difficult[n])
            x = detections[i]
            for box, score, of in zip(x["boxes"].tolist(), x["scores"].tolist(), x["labels"]):
                if of == label:
                    rows.append((score, i, box))
        total = sum(not difficult for _, difficult in truths.values())
        if not total:
            continue
        correct, wrong = [], []
        for _, i, box in sorted(rows, key=lambda row: -row[0]):
            best, key = -1, None
            for (image, n), (truth, _) in truths.items():
                if image == i and iou_by_hand(box, truth) > best:
                    best, key = iou_by_hand(box, truth), (image, n)
            hit = best >= threshold
            free = hit and truths[key][1]
            correct.append(hit and not free and key not in taken)
            wrong.append(not free and not correct[-1])
            if hit:
                taken.add(key)
        points = curve_by_loops(torch.tensor(correct), torch.tensor(wrong), total)
        result[label] = ap_by_loops(points, at)
    return result


@given(seed=seeds, threshold=st.sampled_from([0.3, 0.5, 0.75]), eleven=st.booleans())
def test_voc_equals_the_definition(seed, threshold, eleven):
    detections, targets = case(seed)
    g = torch.Generator().manual_seed(seed)
    for target in targets[1:]:
        target["difficult"] = torch.rand(len(target["labels"]), generator=g) < 0.3
    at = VOC_RECALLS if eleven else None
    ours = average_precision_voc(detections, targets, threshold, at)
    assert ours == pytest.approx(voc_by_loops(detections, targets, threshold, at), abs=1e-12)


# Invariants ---------------------------------------------------------------------------


def distinct(detections, seed):
    """The same with scores that all differ."""
    n = [len(x["scores"]) for x in detections]
    scores = torch.randperm(sum(n), generator=torch.Generator().manual_seed(seed)).float()
    return [x | dict(scores=s) for x, s in zip(detections, scores.split(n), strict=True)]


@given(seed=seeds)
def test_only_the_order_of_the_scores_matters_and_no_other(seed):
    detections, targets = case(seed)
    detections = distinct(detections, seed)
    shuffled = []
    for x in detections:
        order = torch.randperm(len(x["scores"]), generator=torch.Generator().manual_seed(seed))
        moved = {key: value[order] for key, value in x.items()}
        shuffled.append(
            moved | dict(scores=(moved["scores"] / 7).exp(), labels=moved["labels"] * 5)
        )
    relabelled = [x | dict(labels=x["labels"] * 5) for x in targets]
    before = evaluate_coco(detections, targets)
    assert before == pytest.approx(evaluate_coco(shuffled[::-1], relabelled[::-1]), abs=1e-12)


@given(seed=seeds)
def test_false_alarms_below_the_last_hit_cost_nothing(seed):
    detections, targets = case(seed)
    worse = [
        dict(
            boxes=torch.cat([x["boxes"], boxes((900, 900, 930, 930))]),
            scores=torch.cat([x["scores"], torch.tensor([-1.0])]),
            labels=torch.cat([x["labels"], torch.tensor([0])]),
        )
        for x in detections
    ]
    assert evaluate_coco(worse, targets) == evaluate_coco(detections, targets)


@given(seed=seeds)
def test_the_truth_itself_scores_one(seed):
    _, targets = case(seed)
    targets = [dict(boxes=x["boxes"], labels=x["labels"]) for x in targets]
    for x in targets:  # a box without area overlaps nothing
        x["boxes"][:, 2:] += 1
    found = [x | dict(scores=torch.ones(len(x["labels"]))) for x in targets]
    values = evaluate_coco(found, targets)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR10", "AR100", "ARs", "ARm", "ARl"):
        assert values[name] in (-1.0, pytest.approx(1))
    assert all(x == pytest.approx(1) for x in average_precision_voc(found, targets).values())


# Edges: COCO's rules one by one -----------------------------------------------------------

UNIT = (0, 0, 10, 10)


def test_an_overlap_of_exactly_the_threshold_is_a_hit():
    targets = images([[UNIT]])
    for width, count in ((5, 1), (5.5, 2), (8.5, 8), (9, 9), (9.5, 10), (4.9, 0)):
        detections = images([[(0, 0, width, 10)], [0.5]])
        assert evaluate_coco(detections, targets)["AR1"] == pytest.approx(count / 10), width


def test_a_ratio_of_pixels_is_not_rounded_to_float32():
    target, found = torch.zeros(2, 1, 1, 100, dtype=torch.bool).unbind()
    target[..., :], found[..., :70] = True, True
    label = torch.zeros(1, dtype=torch.int64)
    detections = [dict(masks=found, labels=label, scores=torch.ones(1))]
    values = evaluate_coco(detections, [dict(masks=target, labels=label)], "masks")
    assert values["AR1"] == pytest.approx(5 / 10)  # 0.5 to 0.7


def test_a_second_detection_of_a_truth_is_wrong():
    targets = images([[UNIT]], [[UNIT]])
    detections = images([[UNIT, UNIT], [0.9, 0.8]], [[UNIT], [0.7]])
    values = evaluate_coco(detections, targets)
    assert values["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision_voc(detections, targets)[0] == pytest.approx((1 + 2 / 3) / 2)


def test_coco_takes_the_next_best_truth_and_voc_does_not():
    targets = images([[(0, 0, 10, 10), (2, 0, 12, 10)]])
    detections = images([[(0, 0, 10, 10), (0.5, 0, 10.5, 10)], [0.9, 0.8]])
    assert evaluate_coco(detections, targets)["AP50"] == pytest.approx(1)
    assert average_precision_voc(detections, targets)[0] == pytest.approx(0.5)


def test_a_crowd_pardons_what_lies_in_it_again_and_again():
    targets = images([[UNIT, (100, 100, 200, 200)]])
    inside = [(110, 110, 120, 120), (150, 150, 170, 160), (100, 100, 104, 104)]
    detections = images([[*inside, UNIT], [0.9, 0.8, 0.7, 0.6]])
    assert evaluate_coco(detections, targets)["AP"] == pytest.approx((51 / 101) / 4)
    targets[0]["crowd"] = torch.tensor([False, True])
    assert evaluate_coco(detections, targets)["AP"] == pytest.approx(1)
    half_out = images([[(95, 110, 105, 120), UNIT], [0.9, 0.8]])
    values = evaluate_coco(half_out, targets)
    assert values["AP50"] == pytest.approx(1) and values["AP75"] == pytest.approx(0.5)


def test_a_truth_that_counts_goes_before_one_that_does_not():
    overlap = torch.tensor([[0.6, 0.9], [0.6, 0.9], [0.6, 0.9]], dtype=torch.float64)
    for crowd, expected in ((False, [0, 1, 2]), (True, [0, 1, 1])):
        flags = torch.tensor([False, crowd])
        matched = match_coco(overlap, torch.tensor([[False, True]]), flags)
        assert matched[0, 0].tolist() == expected
    matched = match_coco(overlap, torch.tensor([[False, False]]), torch.tensor([False, False]))
    assert matched[0, 0].tolist() == [1, 0, 2] and matched[0, 5].tolist() == [1, 2, 2]


def test_of_equal_overlaps_coco_takes_the_last():
    overlap = torch.tensor([[0.7, 0.7, 0.2]], dtype=torch.float64)
    no = torch.zeros(3, dtype=torch.bool)
    assert match_coco(overlap, no[None], no)[0, :, 0].tolist() == [1] * 5 + [3] * 5


def test_an_area_on_the_border_belongs_to_both_ranges():
    targets = images([[(0, 0, 32, 32)]])
    values = evaluate_coco(images([[(0, 0, 32, 32)], [0.5]]), targets)
    assert [values[f"AP{x}"] for x in "sml"] == [pytest.approx(1), pytest.approx(1), -1]


def test_the_area_is_annotated_or_of_the_mask_or_of_the_box():
    targets = images([[(0, 0, 40, 40)]])
    detections = images([[(0, 0, 40, 40)], [0.5]])

    def sizes():
        values = evaluate_coco(detections, targets)
        return [size for size in "sml" if values[f"AR{size}"] >= 0]

    assert sizes() == ["m"]
    targets[0]["masks"] = torch.zeros(1, 50, 50, dtype=torch.bool)
    targets[0]["masks"][:, :30, :30] = True
    assert sizes() == ["s"]
    targets[0]["area"] = torch.tensor([1e4])
    assert sizes() == ["l"]


def test_detections_are_counted_for_each_image_and_class():
    truths = [(20 * i, 0, 20 * i + 10, 10) for i in range(12)]
    targets = images([truths])
    detections = images([truths, [1 - 0.01 * i for i in range(12)]])
    values = evaluate_coco(detections, targets)
    assert [values[f"AR{n}"] for n in (1, 10, 100)] == pytest.approx([1 / 12, 10 / 12, 1])
    two = [x | dict(labels=torch.arange(12) % 2) for x in (*targets, *detections)]
    values = evaluate_coco(two[1:], two[:1])
    assert [values[f"AR{n}"] for n in (1, 10, 100)] == pytest.approx([1 / 6, 1, 1])
    many = images([[(900, 0, 910, 10)] * 100 + [truths[0]], [0.9] * 100 + [0.1]])
    values = evaluate_coco(many, targets)
    assert values["AP"] == values["AR100"] == 0


def test_a_class_without_truth_has_no_part_in_the_mean():
    targets, detections = images([[UNIT]]), images([[UNIT, UNIT], [0.5, 0.9]])
    detections[0]["labels"] = torch.tensor([0, 1])
    assert evaluate_coco(detections, targets)["AP"] == pytest.approx(1)
    assert average_precision_voc(detections, targets) == {0: 1}


def test_empty_sets():
    nothing = dict.fromkeys(NAMES, -1)
    assert evaluate_coco([], []) == nothing and average_precision_voc([], []) == {}
    none, found = images([[]]), images([[], []])
    assert evaluate_coco(found, none) == nothing and average_precision_voc(found, none) == {}
    assert evaluate_coco(images([[UNIT], [0.5]]), none) == nothing
    missed = evaluate_coco(found, images([[UNIT]]))
    assert missed["AP"] == missed["AR100"] == missed["APs"] == 0 and missed["APl"] == -1
    assert average_precision_voc(found, images([[UNIT]])) == {0: 0}
    masks = dict(masks=torch.zeros(0, 4, 4).bool(), labels=torch.zeros(0, dtype=torch.int64))
    assert evaluate_coco([masks | dict(scores=torch.zeros(0))], [masks], "masks") == nothing
    for at in (None, VOC_RECALLS):
        assert average_precision(torch.zeros(2, 0), torch.zeros(2, 0), at).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_precision_and_no_change_of_the_arguments(dtype):
    detections, targets = case(3)
    cast = [
        {k: x.to(dtype) if k in ("boxes", "scores") else x for k, x in group.items()}
        for group in (*detections, *targets)
    ]
    before = [{key: x.clone() for key, x in group.items()} for group in cast]
    n = len(detections)
    exact = [{k: x.float() if x.is_floating_point() else x for k, x in g.items()} for g in cast]
    assert evaluate_coco(cast[:n], cast[n:]) == evaluate_coco(exact[:n], exact[n:])
    for group, old in zip(cast, before, strict=True):
        assert all(torch.equal(group[key], old[key]) for key in old)


def test_strided_input():
    detections, targets = case(5)
    strided = [x | dict(boxes=x["boxes"].T.contiguous().T) for x in detections]
    assert evaluate_coco(strided, targets) == evaluate_coco(detections, targets)


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("both", dict(kind="segm"), r"must be boxes or masks, got 'segm'"),
        ("detection", None, r"of the same images, got 0 and 1"),
        ("detection", dict(scores=...), r"detections\[0\] lacks scores, has boxes, labels"),
        ("target", dict(boxes=...), r"targets\[0\] lacks boxes, has labels"),
        ("both", dict(kind="masks"), r"detections\[0\] lacks masks"),
        ("target", dict(labels=torch.zeros(1)), r"labels of targets\[0\] must be int64 .*float32"),
        ("target", dict(labels=torch.zeros(2).long()), r"boxes of .* got \(1, 4\) for 2 labels"),
        ("target", dict(labels=torch.zeros(1, 1).long()), r"int64 \(n,\), got .* \(1, 1\)"),
        ("detection", dict(scores=torch.zeros(2)), r"scores of .* got \(2,\) for 1 labels"),
        ("detection", dict(scores=torch.zeros(1, 1)), r"scores of .* got \(1, 1\) for 1 labels"),
        ("detection", dict(scores=torch.tensor([torch.nan])), r"scores .* finite, got nan"),
        ("detection", dict(boxes=boxes((5, 0, 1, 2))), r"boxes of detections\[0\] .*5\.0, 0\.0, 1"),
        ("target", dict(boxes=boxes((0, 0, 1, torch.inf))), r"boxes of targets\[0\] .* inf"),
        ("target", dict(boxes=torch.zeros(1, 4).long()), r"must be floating, got torch.int64"),
        ("target", dict(boxes=torch.zeros(1, 5)), r"must be \(\.\.\., 4\), got \(1, 5\)"),
        ("target", dict(crowd=torch.zeros(1)), r"crowd of .* must be bool, got torch.float32"),
        ("target", dict(crowd=torch.zeros(2).bool()), r"crowd of .* got \(2,\) for 1 labels"),
        ("target", dict(area=torch.tensor([-1.0])), r"must not be negative, got -1\.0"),
        ("target", dict(area=torch.tensor([torch.nan])), r"area of .* finite, got nan"),
        ("target", dict(masks=torch.ones(1, 2, 2)), r"masks of .* must be bool, got torch.float32"),
    ],
    ids=lambda x: None if isinstance(x, dict) else str(x)[:24],
)
def test_bad_input(where, change, message):
    both = dict(detection=images([[UNIT], [0.5]]), target=images([[UNIT]]), both=[{}])
    kind = "boxes"
    if change is None:
        both["detection"] = []
    elif where == "both":
        kind = change["kind"]
    else:
        both[where][0] |= change
        both[where][0] = {key: x for key, x in both[where][0].items() if x is not ...}
    with pytest.raises(ValueError, match=message):
        evaluate_coco(both["detection"], both["target"], kind)


def test_bad_input_of_the_others():
    label, score = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    small, large = (torch.ones(1, n, n, dtype=torch.bool) for n in (2, 3))
    detections = [dict(masks=small, labels=label, scores=score)]
    with pytest.raises(ValueError, match=r"image 0 differ in size: \(2, 2\) and \(3, 3\)"):
        evaluate_coco(detections, [dict(masks=large, labels=label)], "masks")
    good = images([[UNIT], [0.5]])
    for threshold in (0, 1.1):
        with pytest.raises(ValueError, match=rf"in \(0, 1\], got {threshold}"):
            average_precision_voc(good, good, threshold)
    with pytest.raises(ValueError, match=r"difficult of .* must be bool, got torch.int64"):
        average_precision_voc(good, [good[0] | dict(difficult=label)])
    yes, no = torch.tensor([True]), torch.tensor([False])
    with pytest.raises(ValueError, match=r"bool of one shape, got torch.bool \(1,\), .* \(2,\)"):
        precision_recall(yes, no.repeat(2), 1)
    with pytest.raises(ValueError, match=r"got torch.float32 \(1,\), torch.bool"):
        precision_recall(score, no, 1)
    with pytest.raises(ValueError, match="both correct and wrong"):
        precision_recall(yes, yes, 1)


def test_recall_of_7_of_20_does_not_reach_cocos_level_at_035():
    """Its level is 0.35000000000000003, and 7 / 20 is less; that of 7 / 100 is reached."""
    correct = torch.ones(7, dtype=torch.bool)
    for total, levels in ((20, 35), (100, 8)):
        precision, recall = precision_recall(correct, ~correct, total)
        assert float(average_precision(precision, recall, COCO_RECALLS)) == levels / 101


@pytest.mark.parametrize(
    ("overlap", "ignored", "crowd", "message"),
    [
        (
            torch.zeros(2, 3),
            (1, 3),
            (3,),
            r"overlap must be float64 \(D, G\) on the CPU, got torch.f",
        ),
        (torch.zeros(3).double(), (1, 3), (3,), r"overlap .* \(3,\)"),
        (
            torch.zeros(2, 3).double(),
            (3,),
            (3,),
            r"ignored must be bool and fit 3 truths, got .*\(3,",
        ),
        (
            torch.zeros(2, 3).double(),
            (1, 3),
            (2,),
            r"crowd must be bool and fit 3 truths, got .*\(2,",
        ),
    ],
)
def test_bad_overlaps(overlap, ignored, crowd, message):
    bools = (torch.zeros(shape, dtype=torch.bool) for shape in (ignored, crowd))
    with pytest.raises(ValueError, match=message):
        match_coco(overlap, *bools)


@pytest.mark.parametrize("at", [(), (0.5, 1.5)])
def test_bad_levels(at):
    curve = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"at must be recalls in \[0, 1\] or None, got \("):
        average_precision(curve, curve, at)


def test_masks_that_are_not_asked_for_may_have_any_form():
    image = dict(boxes=torch.tensor([[0.0, 0, 4, 4]]), labels=torch.zeros(1, dtype=torch.int64))
    found = image | dict(scores=torch.ones(1), masks=torch.zeros(1, 1, 5, 5))
    assert evaluate_coco([found], [image])["AP"] == 1
