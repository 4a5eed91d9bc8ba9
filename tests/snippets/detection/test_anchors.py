"""Anchors: grid, assignment and k-means against torchvision, plain loops and scikit-learn.

Yardstick: torchvision.models.detection.anchor_utils.AnchorGenerator;
    torchvision.models.detection.anchor_utils.DefaultBoxGenerator;
    torchvision.models.detection._utils.Matcher; torchvision.ops.box_iou; sklearn.cluster.KMeans;
    plain loops.
"""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch.testing import assert_close
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.ops import box_iou as torchvision_iou

from snippets.detection.anchors import (
    anchor_shapes,
    average_iou,
    grid_anchors,
    inside_image,
    kmeans_anchors,
    match,
    shape_iou,
)
from snippets.detection.iou import box_iou

F64 = torch.float64
seeds = st.integers(0, 2**32 - 1)
cells = st.integers(0, 4)
strides = st.sampled_from([1, 4, 7.5, 16, (8, 16), (15, 10.5)])
offsets = st.sampled_from([0, 0.25, 0.5, 1])
thresholds = st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.5, 0.4), (1.0, 0.1), (0.2, 0.2)])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_sizes(n, seed, low=4.0, high=200.0):
    return low + (high - low) * torch.rand(n, 2, generator=seeded(seed), dtype=F64)


def coarse_iou(g, n, seed, steps=10):
    """Overlaps in tenths: full of ties and of values equal to a threshold."""
    return torch.randint(0, steps + 1, (g, n), generator=seeded(seed)).to(F64) / steps


# Parity: shapes and grid --------------------------------------------------------


def grid_by_definition(h, w, stride, shapes, offset):
    step_y, step_x = stride if isinstance(stride, tuple) else (stride, stride)
    boxes = []
    for i in range(h):
        for j in range(w):
            for width, height in shapes.tolist():
                x, y = (j + offset) * step_x, (i + offset) * step_y
                boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return torch.tensor(boxes, dtype=F64).reshape(-1, 4)


@given(h=cells, w=cells, stride=strides, a=st.integers(0, 3), offset=offsets, seed=seeds)
def test_grid_equals_the_definition(h, w, stride, a, offset, seed):
    shapes = random_sizes(a, seed)
    found = grid_anchors((h, w), stride, shapes, offset)
    assert found.shape == (h * w * a, 4)
    assert_close(found, grid_by_definition(h, w, stride, shapes, offset), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scales", [(128, 256, 512), (32,), (33, 40, 50.5)], ids=str)
@pytest.mark.parametrize("stride", [(16, 16), (8, 12)], ids=str)
def test_equals_torchvision_at_its_corner_and_with_its_rounding(scales, stride):
    ratios = (0.5, 1.0, 2.0, 3.0)
    theirs = AnchorGenerator((scales,), (ratios,))
    theirs.cell_anchors = [theirs.generate_anchors(list(scales), list(ratios), dtype=F64)]
    (expected,) = theirs.grid_anchors([[5, 7]], [[torch.tensor(s) for s in stride]])
    shapes = 2 * (anchor_shapes(scales, ratios, dtype=F64) / 2).round()
    found = grid_anchors((5, 7), stride, shapes, offset=0)
    assert_close(found, expected.to(F64), rtol=0, atol=1e-10)
    assert not torch.equal(anchor_shapes(scales, ratios, dtype=F64), shapes)


def test_equals_the_default_boxes_of_ssd_at_the_middle_of_the_cell():
    """SSD's ratios are width over height, and its order is its own."""
    theirs = DefaultBoxGenerator([[2, 3]], scales=[0.2, 0.45], clip=False)
    expected = theirs._grid_default_boxes([[4, 6]], [80, 120], dtype=F64)
    expected = expected * torch.tensor([120, 80, 120, 80], dtype=F64)  # cx, cy, w, h in pixels
    scale = 0.2
    wide = anchor_shapes([scale], [1, 1 / 2, 2, 1 / 3, 3], dtype=F64)
    extra = anchor_shapes([math.sqrt(0.2 * 0.45)], [1], dtype=F64)
    shapes = torch.cat([wide[:1], extra, wide[1:]]) * torch.tensor([120, 80], dtype=F64)
    found = grid_anchors((4, 6), 20, shapes)
    low, high = found[:, :2], found[:, 2:]
    assert_close(torch.cat([(low + high) / 2, high - low], 1), expected, rtol=0, atol=2e-5)


def test_shapes_equal_the_released_ones_of_faster_rcnn_but_for_their_rounding():
    """Its rule: round w and h at 16 pixels, then scale."""
    released = [(23, 12), (16, 16), (11, 22)]
    expected = [(w * s, h * s) for w, h in released for s in (8, 16, 32)]
    shapes = anchor_shapes((128, 256, 512), (0.5, 1, 2), dtype=F64)
    assert_close(shapes, torch.tensor(expected, dtype=F64), rtol=0.07, atol=0)
    assert_close(shapes.prod(-1).sqrt(), torch.tensor([128, 256, 512] * 3, dtype=F64))
    assert_close(
        shapes[:, 1] / shapes[:, 0], torch.tensor([0.5, 1, 2]).repeat_interleave(3).to(F64)
    )


# Parity: assignment ---------------------------------------------------------------


def match_by_definition(iou, high, low, force):
    rows = iou.tolist()
    result = []
    for n in range(iou.shape[1]):
        column = [row[n] for row in rows]
        best = max(column, default=0.0)
        forced = force and any(row[n] == max(row) > 0 for row in rows)
        if column and (best >= high or forced):
            result.append(column.index(best))
        else:
            result.append(-1 if best < low else -2)
    return result


@given(g=st.integers(0, 4), n=st.integers(0, 6), limits=thresholds, force=st.booleans(), seed=seeds)
def test_match_equals_the_definition(g, n, limits, force, seed):
    iou = coarse_iou(g, n, seed)
    found = match(iou, *limits, force=force)
    assert found.dtype == torch.int64
    assert found.tolist() == match_by_definition(iou, *limits, force)


@given(
    g=st.integers(1, 5), n=st.integers(1, 30), limits=thresholds, force=st.booleans(), seed=seeds
)
def test_match_equals_torchvision_where_each_truth_overlaps_an_anchor(g, n, limits, force, seed):
    iou = coarse_iou(g, n, seed)
    iou[:, seed % n] = iou[:, seed % n].clamp(min=0.1)
    expected = Matcher(*limits, allow_low_quality_matches=force)(iou.clone())
    assert match(iou, *limits, force=force).tolist() == expected.tolist()


@pytest.mark.parametrize("force", [False, True])
def test_match_equals_torchvision_on_boxes(force):
    shapes = anchor_shapes((32, 64, 128), (0.5, 1, 2), dtype=F64)
    anchors = grid_anchors((16, 16), 16, shapes)
    corners = torch.rand(12, 2, generator=seeded(0), dtype=F64) * 180
    truth = torch.cat([corners, corners + random_sizes(12, 1, 10, 90)], dim=1)
    expected = Matcher(0.7, 0.3, force)(torchvision_iou(truth, anchors))
    found = match(box_iou(truth, anchors), 0.7, 0.3, force)
    assert found.tolist() == expected.tolist()
    assert {-1, -2} < set(found.tolist())


def test_a_single_forced_anchor_a_truth_is_a_line_more_as_ssd_has_it():
    iou = torch.rand(5, 40, generator=seeded(3), dtype=F64)
    found = match(iou, 0.5, 0.5)
    found[iou.argmax(dim=1)] = torch.arange(5)
    assert found.tolist() == SSDMatcher(0.5)(iou.clone()).tolist()


# Parity: k-means -------------------------------------------------------------------


def iou_of_sizes(a, b):
    shared = min(a[0], b[0]) * min(a[1], b[1])
    return shared / (a[0] * a[1] + b[0] * b[1] - shared)


def lloyd(sizes, centers, update, iterations):
    """Plain loops; the best centres met, their average overlap, and how often one was empty."""
    best, top, empty = None, -1.0, 0
    for _ in range(iterations):
        overlaps = [[iou_of_sizes(s, c) for c in centers] for s in sizes]
        nearest = [row.index(max(row)) for row in overlaps]
        average = statistics.fmean(map(max, overlaps))
        if average > top + 1e-14:
            best, top = centers, average
        left = sorted(range(len(sizes)), key=lambda i: max(overlaps[i]))
        moved = []
        for cluster in range(len(centers)):
            members = [s for s, c in zip(sizes, nearest, strict=True) if c == cluster]
            if not members:
                empty += 1
                moved.append(sizes[left.pop(0)])
                continue
            middle = statistics.fmean if update == "mean" else statistics.median
            moved.append([middle(side) for side in zip(*members, strict=True)])
        centers = moved
    return sorted(best, key=lambda c: c[0] * c[1]), top, empty


def starts(sizes, k, seed):
    """The draw that the docstring promises: k of the different sizes."""
    different = sorted({tuple(s) for s in sizes.tolist()})
    return [different[i] for i in torch.randperm(len(different), generator=seeded(seed))[:k]]


@pytest.mark.parametrize("update", ["mean", "median"])
@pytest.mark.parametrize("iterations", [1, 2, 6])
def test_kmeans_equals_plain_loops(update, iterations):
    for seed in range(25):
        sizes = random_sizes(14, seed).round()
        sizes = torch.cat([sizes, sizes[:3]])  # duplicates
        expected, top, _ = lloyd(sizes.tolist(), starts(sizes, 5, seed), update, iterations)
        found = kmeans_anchors(sizes, 5, seeded(seed), update, 1, iterations)
        assert_close(found, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-10)
        assert_close(float(average_iou(sizes, found)), top)


def test_an_empty_cluster_moves_to_the_worst_covered_size():
    found = []
    for seed in range(300):
        sizes = torch.exp(torch.randn(12, 2, generator=seeded(seed), dtype=F64) * 1.2)
        first = starts(sizes, 6, seed)
        expected, _, times = lloyd(sizes.tolist(), first, "mean", 8)
        if times:
            found.append(seed)
            result = kmeans_anchors(sizes, 6, seeded(seed), restarts=1, iterations=8)
            assert_close(result, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-10)
    assert len(found) >= 3, found


def test_kmeans_equals_scikit_learn_where_the_clusters_are_plain():
    centers = torch.tensor([[20.0, 60.0], [150.0, 30.0], [200.0, 210.0]], dtype=F64)
    noise = torch.randn(3, 30, 2, generator=seeded(0), dtype=F64)
    sizes = (centers[:, None] + noise).reshape(-1, 2)
    fitted = KMeans(3, n_init=5, random_state=0).fit(sizes.numpy()).cluster_centers_
    expected = torch.from_numpy(fitted)
    expected = expected[expected.prod(-1).argsort()]
    # The centres met last are those of scikit-learn; of those on the way some may overlap more.
    found = kmeans_anchors(sizes, 3, seeded(0))
    assert_close(found, expected, rtol=0, atol=0.5)
    assert average_iou(sizes, found) >= average_iou(sizes, expected) - 1e-12


@given(n=st.integers(1, 6), m=st.integers(1, 6), seed=seeds)
def test_overlap_of_sizes_equals_that_of_boxes_on_one_centre(n, m, seed):
    a, b = random_sizes(n, seed), random_sizes(m, seed + 1)
    around = [torch.cat([5 - x / 2, 5 + x / 2], dim=1) for x in (a, b)]
    assert_close(shape_iou(a, b), torchvision_iou(*around), rtol=0, atol=1e-10)
    expected = torchvision_iou(*around).amax(1).mean()
    assert_close(average_iou(a, b), expected, rtol=0, atol=1e-10)


# Invariants ----------------------------------------------------------------------


def test_faster_rcnn_on_a_typical_image():
    """Section 3.3 of the paper: 1000 x 600 pixels make about 20000 anchors."""
    anchors = grid_anchors((38, 63), 16, anchor_shapes((128, 256, 512), (0.5, 1, 2)))
    assert len(anchors) == 38 * 63 * 9 == 21546


@given(h=st.integers(1, 4), w=st.integers(1, 4), offset=offsets, seed=seeds)
def test_order_is_that_of_the_output_of_a_head(h, w, offset, seed):
    shapes = random_sizes(3, seed)
    _, i, j = torch.meshgrid(torch.arange(3), torch.arange(h), torch.arange(w), indexing="ij")
    boxes = torch.stack([(j + offset) * 8, (i + offset) * 8], dim=1).to(F64)  # (A, 2, h, w)
    half = shapes[:, :, None, None].expand(3, 2, h, w) / 2
    head = torch.cat([boxes - half, boxes + half], dim=1).reshape(12, h, w)
    rows = head.reshape(3, 4, h, w).permute(2, 3, 0, 1).reshape(-1, 4)
    assert_close(grid_anchors((h, w), 8, shapes, offset), rows)


@given(offset=offsets, stride=st.sampled_from([4, 7.5, 16]), seed=seeds)
def test_a_cell_further_is_a_stride_further(offset, stride, seed):
    found = grid_anchors((3, 5), stride, random_sizes(2, seed), offset).reshape(3, 5, 2, 4)
    right = torch.tensor([stride, 0, stride, 0], dtype=F64)
    assert_close(found[:, 1:] - found[:, :-1], right.expand(3, 4, 2, 4))
    assert_close(found[1:] - found[:-1], right.roll(1).expand(2, 5, 2, 4))


def test_half_a_cell_centres_the_grid_in_the_image_and_no_offset_does_not():
    shapes = torch.tensor([[10.0, 6.0]])
    for offset, middle in ((0.5, (40.0, 24.0)), (0.0, (32.0, 16.0))):
        boxes = grid_anchors((3, 5), 16, shapes, offset)
        center = (boxes[:, :2] + boxes[:, 2:]).mean(0) / 2
        assert_close(center, torch.tensor(middle))


def test_inside_counts_a_border_as_inside():
    boxes = torch.tensor([[0, 0, 8, 4], [-1, 0, 8, 4], [0, -1, 8, 4], [0, 0, 9, 4], [0, 0, 8, 5]])
    assert inside_image(boxes.float(), (4, 8)).tolist() == [True, False, False, False, False]
    assert inside_image(torch.zeros(0, 4), (4, 8)).shape == (0,)
    assert inside_image(boxes.float().expand(2, 5, 4), (4, 8)).shape == (2, 5)


@given(g=st.integers(1, 4), n=st.integers(1, 8), limits=thresholds, seed=seeds)
def test_forcing_only_adds_positives_and_order_of_anchors_does_not_matter(g, n, limits, seed):
    iou = coarse_iou(g, n, seed)
    free, forced = match(iou, *limits), match(iou, *limits, force=True)
    assert torch.equal(forced[free >= 0], free[free >= 0])
    assert torch.equal(forced[forced < 0], free[forced < 0])
    p = torch.randperm(n, generator=seeded(seed))
    assert torch.equal(match(iou[:, p], *limits, force=True), forced[p])


def test_all_tied_anchors_are_forced():
    iou = torch.tensor([[0.2, 0.2, 0.1, 0.0]])
    assert match(iou, 0.7, 0.3, force=True).tolist() == [0, 0, -1, -1]


def test_a_forced_anchor_goes_to_the_truth_that_it_overlaps_most():
    """So a ground truth may still go without: the anchor that it forces is another's."""
    iou = torch.tensor([[0.8, 0.1], [0.6, 0.0]])
    assert match(iou, 0.7, 0.3, force=True).tolist() == [0, -1]


def test_a_truth_without_overlap_forces_nothing():
    iou = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.1, 0.0]])
    assert match(iou, 0.7, 0.3, force=True).tolist() == [1, -1, -1]
    assert Matcher(0.7, 0.3, True)(iou).tolist() == [1, 1, 0]  # all of them


def test_thresholds_are_part_of_the_class_above():
    iou = torch.tensor([[0.75, 0.5, 0.25, 0.125]])
    assert match(iou, high=0.75, low=0.25).tolist() == [0, -2, -2, -1]


@pytest.mark.parametrize("update", ["mean", "median"])
def test_more_iterations_and_more_restarts_never_hurt(update):
    sizes = random_sizes(60, 7)
    for seed in range(5):
        scores = [
            float(average_iou(sizes, kmeans_anchors(sizes, 6, seeded(seed), update, r, i)))
            for r, i in ((1, 1), (1, 3), (1, 100), (4, 100))
        ]
        assert scores == sorted(scores)
        assert scores[0] < scores[-1] <= 1


def test_neither_update_must_raise_the_average_overlap():
    """Why the best centres met are kept: the mean does not minimise the mean of 1 - IoU."""
    sizes = torch.tensor([[10.0, 10.0]] * 4 + [[30.0, 30.0]], dtype=F64)
    before, after = sizes[:1], sizes.mean(0, keepdim=True)
    assert average_iou(sizes, after) < average_iou(sizes, before)
    assert torch.equal(kmeans_anchors(sizes[1:], 1, seeded(1)), sizes[:1])


@given(n=st.integers(3, 12), k=st.integers(1, 3), seed=seeds)
def test_kmeans_scales_with_the_boxes_and_ignores_their_order(n, k, seed):
    sizes = random_sizes(n, seed)
    found = kmeans_anchors(sizes, k, seeded(seed))
    assert found.shape == (k, 2) and (found.prod(-1).diff() >= 0).all()
    assert (found >= sizes.amin(0)).all() and (found <= sizes.amax(0)).all()
    assert torch.equal(kmeans_anchors(4 * sizes, k, seeded(seed)), 4 * found)
    shuffled = sizes[torch.randperm(n, generator=seeded(seed))]
    again = average_iou(sizes, kmeans_anchors(shuffled, k, seeded(seed)))
    assert_close(again, average_iou(sizes, found), rtol=0, atol=1e-9)


@pytest.mark.parametrize("update", ["mean", "median"])
def test_as_many_clusters_as_sizes_cover_them_all(update):
    sizes = random_sizes(7, 0)
    found = kmeans_anchors(torch.cat([sizes, sizes]), 7, seeded(0), update)
    assert_close(average_iou(sizes, found), torch.ones((), dtype=F64))


def test_kmeans_is_repeatable_and_draws_from_its_generator():
    sizes = random_sizes(40, 0)
    a, b, c = (kmeans_anchors(sizes, 4, seeded(s), restarts=1, iterations=1) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    state = torch.get_rng_state()
    kmeans_anchors(sizes, 4, seeded(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert kmeans_anchors(sizes, 4).shape == (4, 2)


# Gradient ------------------------------------------------------------------------


def test_gradient():
    shapes = random_sizes(2, 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: grid_anchors((2, 3), 8, s), shapes)
    sizes = random_sizes(3, 1).requires_grad_()
    assert torch.autograd.gradcheck(shape_iou, (sizes, shapes))
    assert torch.autograd.gradcheck(average_iou, (sizes, shapes))


# Edges ---------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_no_truth_and_no_anchors(force):
    found = match(torch.zeros(0, 3), 0.7, 0.3, force)
    assert found.tolist() == [-1, -1, -1] and found.dtype == torch.int64
    for g in (0, 2):
        found = match(torch.zeros(g, 0), 0.7, 0.3, force)
        assert found.shape == (0,) and found.dtype == torch.int64
    anchors = grid_anchors((2, 2), 8, anchor_shapes((8,), (1,)))
    assert match(box_iou(torch.zeros(0, 4), anchors), 0.7, 0.3, force).tolist() == [-1] * 4


def test_nothing_to_place():
    for scales, ratios in itertools.product([(), (8,)], repeat=2):
        shapes = anchor_shapes(scales, ratios)
        assert shapes.shape == (len(scales) * len(ratios), 2)
        for size in ((0, 3), (2, 0), (2, 3)):
            found = grid_anchors(size, 8, shapes)
            assert found.shape == (size[0] * size[1] * len(shapes), 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
def test_precision(dtype):
    wider = torch.float64 if dtype == F64 else torch.float32
    shapes = anchor_shapes((32, 64), (0.5, 1), dtype)
    assert shapes.dtype == dtype
    anchors = grid_anchors((100, 100), 16, shapes)
    assert anchors.dtype == wider
    corner = anchors[-1].tolist()
    assert corner == [1592 - 32, 1592 - 32, 1592 + 32, 1592 + 32]
    iou = torch.tensor([[0.75, 0.5, 0.125]], dtype=dtype)
    assert match(iou, 0.7, 0.3).tolist() == [0, -2, -1]
    sizes = random_sizes(30, 0).to(dtype)
    found = kmeans_anchors(sizes, 3, seeded(0))
    assert found.dtype == wider
    assert torch.equal(found, kmeans_anchors(sizes.to(wider), 3, seeded(0)))
    assert average_iou(sizes, sizes).dtype == wider


def test_layout_of_the_input_does_not_matter_and_nothing_is_changed():
    iou = coarse_iou(3, 8, 0)
    strided = iou.T.contiguous().T
    before = iou.clone()
    assert torch.equal(match(strided, 0.7, 0.3, True), match(iou, 0.7, 0.3, True))
    assert torch.equal(iou, before)
    sizes = random_sizes(20, 0)
    wide = sizes.repeat_interleave(2, dim=1)[:, ::2]
    assert torch.equal(kmeans_anchors(wide, 3, seeded(0)), kmeans_anchors(sizes, 3, seeded(0)))
    assert torch.equal(grid_anchors((2, 2), 8, wide), grid_anchors((2, 2), 8, sizes))
    assert torch.equal(sizes, random_sizes(20, 0))


# Bad input -----------------------------------------------------------------------

ONE = torch.ones(1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anchor_shapes((0,), (1,)), r"scales must be positive and finite, got 0"),
        (lambda: anchor_shapes((8,), (-2,)), r"ratios must be positive and finite, got -2"),
        (lambda: anchor_shapes((math.nan,), (1,)), r"scales .* got nan"),
        (lambda: anchor_shapes((8,), (1,), torch.int64), r"dtype .* floating, got torch.int64"),
        (lambda: grid_anchors((-1, 2), 8, ONE), r"size .* got \(-1, 2\)"),
        (lambda: grid_anchors((1, 2), 0, ONE), r"stride must be positive and finite, got 0"),
        (lambda: grid_anchors((1, 2), (8, -8), ONE), r"stride .* got \(8, -8\)"),
        (lambda: grid_anchors((1, 2), 8, ONE, 1.5), r"offset must be from 0 to 1, got 1.5"),
        (lambda: grid_anchors((1, 2), 8, torch.ones(2)), r"shapes must be \(n, 2\) .* got \(2,\)"),
        (lambda: grid_anchors((1, 2), 8, ONE.long()), r"shapes .* got torch.int64"),
        (lambda: grid_anchors((1, 2), 8, -ONE), r"shapes .* got \[-1.0, -1.0\]"),
        (lambda: inside_image(torch.ones(3), (1, 1)), r"boxes_xyxy must be .* got \(3,\)"),
        (lambda: match(torch.ones(3), 0.7, 0.3), r"\(G, N\), got torch.float32 \(3,\)"),
        (lambda: match(torch.ones(3, 1).long(), 0.7, 0.3), r"got torch.int64 \(3, 1\)"),
        (lambda: match(ONE, 0.3, 0.7), r"0 < low <= high <= 1, got low 0.7, high 0.3"),
        (lambda: match(ONE, 0.3, 0.0), r"got low 0.0, high 0.3"),
        (lambda: match(ONE, 1.5, 0.3), r"got low 0.3, high 1.5"),
        (lambda: match(-ONE, 0.7, 0.3), r"iou must be at least 0, got -1.0"),
        (lambda: match(ONE * math.nan, 0.7, 0.3), r"iou must be at least 0, got nan"),
        (lambda: average_iou(ONE[:0], ONE), r"sizes must be .*, got \(0, 2\)"),
        (lambda: average_iou(ONE, ONE[:0]), r"shapes must be .*, got \(0, 2\)"),
        (lambda: average_iou(ONE, ONE.double()), r"float32 on cpu, torch.float64 on cpu"),
        (lambda: kmeans_anchors(ONE[:0], 1), r"sizes must be .*, got \(0, 2\)"),
        (lambda: kmeans_anchors(ONE * math.inf, 1), r"sizes .* got \[inf, inf\]; leave such"),
        (lambda: kmeans_anchors(ONE * 0, 1), r"sizes .* got \[0.0, 0.0\]"),
        (lambda: kmeans_anchors(ONE, 0), r"k must be at least 1, got 0"),
        (lambda: kmeans_anchors(ONE.repeat(3, 1), 2), r"at most the 1 different sizes, got 2"),
        (lambda: kmeans_anchors(ONE, 1, update="mode"), r"mean, median, got 'mode'"),
        (lambda: kmeans_anchors(ONE, 1, restarts=0), r"restarts must be at least 1, got 0"),
        (lambda: kmeans_anchors(ONE, 1, iterations=0), r"iterations must be at least 1, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
