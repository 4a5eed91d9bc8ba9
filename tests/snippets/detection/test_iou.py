"""IoU of boxes and masks and its variants: parity, invariants, gradients, edges, bad input.

Yardstick: torchvision.ops.box_iou; torchvision.ops.generalized_box_iou;
    torchvision.ops.distance_box_iou; torchvision.ops.complete_box_iou; pycocotools.mask.iou; plain
    loops; finite differences.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from torch.testing import assert_close
from torchvision import ops

from snippets.detection.iou import (
    box_area,
    box_cxcywh_to_xyxy,
    box_intersection,
    box_iou,
    box_xywh_to_xyxy,
    box_xyxy_to_cxcywh,
    box_xyxy_to_xywh,
    check_boxes,
    iou_loss,
    mask_intersection,
    mask_iou,
    paired_iou,
)

KINDS = ["iou", "giou", "diou", "ciou"]
each_kind = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(0, 6)
EXACT = dict(rtol=1e-10, atol=1e-10)
PAIRWISE = dict(
    iou=ops.box_iou,
    giou=ops.generalized_box_iou,
    diou=lambda a, b: ops.distance_box_iou(a, b, eps=0),
    ciou=lambda a, b: ops.complete_box_iou(a, b, eps=0),
)
LOSS = dict(
    giou=lambda a, b: ops.generalized_box_iou_loss(a, b, eps=0),
    diou=lambda a, b: ops.distance_box_iou_loss(a, b, eps=0),
    # hands its eps to alpha alone; the 1e-7 it adds elsewhere is nothing beside 1e6 pixels
    ciou=lambda a, b: ops.complete_box_iou_loss(a, b, eps=0),
)


def random_boxes(*lead, seed=0, spread=1000.0, size=800.0):
    """Many overlap, some lie apart."""
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(*lead, 2, generator=g, dtype=torch.float64) * spread - spread / 3
    return torch.cat([low, low + (0.05 + torch.rand(low.shape, generator=g)) * size], dim=-1)


def two_sets(n=40, m=30, seed=0, **kwargs):
    return random_boxes(n, seed=seed, **kwargs), random_boxes(m, seed=seed ^ 7, **kwargs)


def by_definition(a, b, kind, alpha=None):
    """One pair of boxes, four floats each, as the papers write it; alpha may be held."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    union = sum(areas) - width * height
    iou = width * height / union
    c_w = max(a[2], b[2]) - min(a[0], b[0])
    c_h = max(a[3], b[3]) - min(a[1], b[1])
    if kind == "giou":
        return iou - (c_w * c_h - union) / (c_w * c_h)
    centers = [((x[0] + x[2]) / 2, (x[1] + x[3]) / 2) for x in (a, b)]
    penalty = math.dist(*centers) ** 2 / math.hypot(c_w, c_h) ** 2
    if kind == "iou":
        return iou
    if kind == "diou":
        return iou - penalty
    angles = [math.atan((x[2] - x[0]) / (x[3] - x[1])) for x in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return iou - penalty - (v / (1 - iou + v) if alpha is None else alpha) * v


def gradients(output, inputs):
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weight).sum(), inputs)


# Parity ---------------------------------------------------------------------


@each_kind
def test_equals_the_definition(kind):
    a, b = two_sets()
    expected = [[by_definition(x, y, kind) for y in b.tolist()] for x in a.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert (expected > 0.3).any() and (expected <= 0).any()
    assert_close(box_iou(a, b, kind), expected, **EXACT)
    assert_close(paired_iou(a[:30], b, kind), expected[:30].diagonal(), **EXACT)


@each_kind
def test_pairwise_equals_torchvision(kind):
    a, b = (x.requires_grad_() for x in two_sets())
    actual, expected = box_iou(a, b, kind), PAIRWISE[kind](a, b)
    assert_close(actual, expected, **EXACT)
    for ours, theirs in zip(gradients(actual, [a, b]), gradients(expected, [a, b])):
        assert theirs.abs().max() > 1e-4
        assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", LOSS)
def test_loss_equals_torchvision(kind):
    a, b = (x.requires_grad_() for x in two_sets(50, 50))
    actual, expected = iou_loss(a, b, kind), LOSS[kind](a, b)
    assert_close(actual, expected, **EXACT)
    for ours, theirs in zip(gradients(actual, [a, b]), gradients(expected, [a, b])):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@each_kind
def test_gradient_equals_differences_of_the_definition(kind):
    """For CIoU with alpha held, as in the code of its authors."""
    a, b = two_sets(12, 12, size=600.0)
    a.requires_grad_()
    (actual,) = torch.autograd.grad(iou_loss(a, b, kind).sum(), a)
    expected = torch.zeros_like(actual)
    for i, (x, y) in enumerate(zip(a.tolist(), b.tolist())):
        iou, diou, ciou = (by_definition(x, y, k) for k in ("iou", "diou", "ciou"))
        angle = math.atan((x[2] - x[0]) / (x[3] - x[1])) - math.atan((y[2] - y[0]) / (y[3] - y[1]))
        v = 4 / math.pi**2 * angle**2
        alpha = v / (1 - iou + v)
        assert diou - ciou == pytest.approx(alpha * v)
        for j in range(4):
            up, down = list(x), list(x)
            up[j] += 1e-3
            down[j] -= 1e-3
            rise = by_definition(up, y, kind, alpha) - by_definition(down, y, kind, alpha)
            expected[i, j] = -rise / 2e-3
    assert_close(actual, expected, rtol=1e-6, atol=1e-11)


def test_boxes_equal_pycocotools():
    a, b = two_sets()
    wide = [box_xyxy_to_xywh(x).numpy() for x in (a, b)]
    expected = coco_masks.iou(*wide, [0] * len(b))
    assert_close(box_iou(a, b), torch.from_numpy(expected), **EXACT)


def test_masks_equal_pycocotools():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(n, 17, 23, generator=g) < torch.rand(n, 1, 1, generator=g) for n in (9, 7))
    codes = [coco_masks.encode(np.asfortranarray(x.permute(1, 2, 0).byte())) for x in (a, b)]
    expected = torch.from_numpy(coco_masks.iou(*codes, [0] * len(b)))
    assert_close(mask_iou(a, b), expected.float(), rtol=1e-6, atol=0)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            assert mask_intersection(a, b)[i, j] == (x & y).sum()


def test_worked_example():
    a, b = torch.tensor([[2.0, 2, 5, 5]]), torch.tensor([[3.0, 3, 6, 6]])
    assert box_intersection(a, b).item() == 4 and box_area(a).item() == 9
    assert box_iou(a, b).item() == pytest.approx(4 / 14)
    assert box_iou(a, b, "giou").item() == pytest.approx(4 / 14 - 2 / 16)
    assert box_iou(a, b, "diou").item() == pytest.approx(4 / 14 - 2 / 32)
    assert box_iou(a, b, "ciou").item() == pytest.approx(4 / 14 - 2 / 32)
    one = torch.tensor([0.0, 0, 1, 1])  # boxes whose last pixels are named, as in VOC
    assert box_iou(a + one, b + one).item() == pytest.approx(9 / 23)


# Invariants -----------------------------------------------------------------


@given(n=counts, m=counts, seed=seeds)
def test_ranges_and_order_of_the_kinds(n, m, seed):
    a, b = two_sets(n, m, seed=seed)
    iou, giou, diou, ciou = (box_iou(a, b, kind) for kind in KINDS)
    assert iou.shape == giou.shape == diou.shape == ciou.shape == (n, m)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((giou >= -1) & (giou <= iou + 1e-12)).all()
    assert ((diou >= -1) & (diou <= iou + 1e-12)).all()
    assert ((ciou >= -1.5) & (ciou <= diou)).all()


@each_kind
@given(seed=seeds)
def test_symmetry(kind, seed):
    a, b = two_sets(5, 4, seed=seed)
    assert_close(box_iou(a, b, kind), box_iou(b, a, kind).T, **EXACT)


@each_kind
@given(seed=seeds, scale=st.floats(0.01, 100), x=st.floats(-1e3, 1e3), y=st.floats(-1e3, 1e3))
def test_scale_and_place_do_not_matter(kind, seed, scale, x, y):
    a, b = two_sets(5, 4, seed=seed)
    shift = torch.tensor([x, y, x, y], dtype=torch.float64)
    moved = box_iou((a + shift) * scale, (b + shift) * scale, kind)
    assert_close(moved, box_iou(a, b, kind), rtol=1e-8, atol=1e-8)


def test_normalised_coordinates():
    """Each axis with a scale of its own: areas keep their ratios, distances and angles do not."""
    a, b = two_sets()
    size = torch.tensor([640.0, 480, 640, 480]).double()
    for kind, same in (("iou", True), ("giou", True), ("diou", False), ("ciou", False)):
        before, after = box_iou(a, b, kind), box_iou(a / size, b / size, kind)
        assert torch.allclose(before, after, rtol=1e-10, atol=1e-10) is same


@each_kind
@given(seed=seeds)
def test_mirrored_and_turned(kind, seed):
    a, b = two_sets(5, 4, seed=seed)
    expected = box_iou(a, b, kind)
    mirrored = [-x[:, [2, 3, 0, 1]] for x in (a, b)]
    turned = [x[:, [1, 0, 3, 2]] for x in (a, b)]  # v has the same value for h / w
    assert_close(box_iou(*mirrored, kind), expected, **EXACT)
    assert_close(box_iou(*turned, kind), expected, **EXACT)


@each_kind
def test_pairwise_batched_paired_and_loss_agree(kind):
    a, b = random_boxes(2, 3, 5), random_boxes(2, 3, 4, seed=1)
    expected = torch.stack(
        [torch.stack([box_iou(a[i, j], b[i, j], kind) for j in range(3)]) for i in range(2)]
    )
    assert_close(box_iou(a, b, kind), expected, **EXACT)
    assert_close(box_iou(a, b[1, 2], kind)[1, 2], expected[1, 2], **EXACT)
    wide = [a[..., :, None, :].expand(2, 3, 5, 4, 4), b[..., None, :, :].expand(2, 3, 5, 4, 4)]
    assert_close(paired_iou(*wide, kind), expected, **EXACT)
    assert_close(iou_loss(*wide, kind), 1 - expected, **EXACT)
    shared = box_intersection(a[..., :, None, :], b[..., None, :, :])
    union = box_area(a)[..., None] + box_area(b)[..., None, :] - shared
    assert_close(box_iou(a, b), shared / union, **EXACT)


@each_kind
def test_a_box_equals_itself_alone(kind):
    a = random_boxes(20).requires_grad_()
    values = paired_iou(a, a.detach(), kind)
    assert_close(values, torch.ones(20, dtype=torch.float64), **EXACT)
    (gradient,) = torch.autograd.grad(values.sum(), a)
    assert_close(gradient, torch.zeros_like(a), rtol=0, atol=1e-12)
    others = box_iou(a, a.detach(), kind).masked_fill(torch.eye(20).bool(), 0)
    assert (others < 0.999).all()


def test_a_box_inside_another():
    """GIoU falls back to IoU and does not see where inside the box lies; DIoU does."""
    outer = torch.tensor([[0.0, 0, 10, 10]]).double()
    inner = torch.tensor([[1.0, 1, 5, 5], [3, 3, 7, 7]]).double()
    iou, giou, diou = (box_iou(outer, inner, kind)[0] for kind in KINDS[:3])
    assert_close(giou, iou) and iou[0] == iou[1] == 0.16
    assert diou[0] < diou[1] == pytest.approx(0.16)


@given(seed=seeds)
def test_boxes_on_the_grid_equal_their_masks(seed):
    g = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 8, (2, 4, 2), generator=g)
    a, b = torch.cat([low, low + torch.randint(0, 5, (2, 4, 2), generator=g)], -1).float()
    y, x = torch.arange(12)[:, None] + 0.5, torch.arange(12) + 0.5
    a_mask, b_mask = (
        (x > s[:, 0, None, None])
        & (x < s[:, 2, None, None])
        & (y > s[:, 1, None, None])
        & (y < s[:, 3, None, None])
        for s in (a, b)
    )
    assert_close(mask_iou(a_mask, b_mask), box_iou(a, b))
    assert_close(mask_intersection(a_mask, b_mask), box_intersection(a[:, None], b))


@given(seed=seeds, n=counts)
def test_formats_round_trip(seed, n):
    boxes = random_boxes(n, seed=seed)
    kept = boxes.clone()
    for there, back, theirs in [
        (box_xyxy_to_cxcywh, box_cxcywh_to_xyxy, "cxcywh"),
        (box_xyxy_to_xywh, box_xywh_to_xyxy, "xywh"),
    ]:
        assert_close(there(boxes), ops.box_convert(boxes, "xyxy", theirs), **EXACT)
        assert_close(back(boxes), ops.box_convert(boxes, theirs, "xyxy"), **EXACT)
        assert_close(back(there(boxes)), boxes, **EXACT)
    assert torch.equal(boxes, kept) and boxes._version == kept._version == 0


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:3])  # CIoU's alpha is no function to be differentiated
def test_gradcheck(kind):
    a, b = (x.requires_grad_() for x in two_sets(6, 6, spread=3, size=3))
    assert torch.autograd.gradcheck(lambda a, b: iou_loss(a, b, kind), (a, b))
    assert torch.autograd.gradcheck(lambda a, b: box_iou(a[:3], b[:2], kind), (a, b))


def test_gradcheck_of_areas_and_formats():
    a, b = (x.requires_grad_() for x in two_sets(6, 6, spread=3, size=3))
    assert torch.autograd.gradcheck(box_area, a)
    assert torch.autograd.gradcheck(box_intersection, (a, b))
    for convert in (box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, box_xywh_to_xyxy, box_xyxy_to_xywh):
        assert torch.autograd.gradcheck(convert, a)


def test_boxes_apart_move_and_grow():
    """In the direction of the target, under DIoU as well as under GIoU."""
    for kind, move, grow in (("giou", 1 / 9, 1 / 9), ("diou", 0.08, 0.06)):
        box = torch.tensor([0.0, 0, 2, 2], dtype=torch.float64, requires_grad=True)
        target = torch.tensor([3.0, -1, 5, 1], dtype=torch.float64)
        (gradient,) = torch.autograd.grad(iou_loss(box_cxcywh_to_xyxy(box), target, kind), box)
        assert_close(-gradient[[0, 2]], torch.tensor([move, grow]).double(), rtol=1e-6, atol=0)


def test_gradient_of_boxes_apart():
    a = torch.tensor([[1.0, 1, 3, 3]], requires_grad=True)
    b = torch.tensor([[10.0, 12, 13, 16]])
    assert not torch.autograd.grad(iou_loss(a, b, "iou").sum(), a)[0].any()
    for kind in KINDS[1:]:
        (gradient,) = torch.autograd.grad(iou_loss(a, b, kind).sum(), a)
        assert (gradient[0, 2:] < 0).all(), "the near corner moves to the target"


@each_kind
def test_descent_reaches_the_target(kind):
    """From an overlap by all; from apart by all but IoU."""
    target = torch.tensor([40.0, 40, 30, 20])
    for start in ([34.0, 36, 20, 30], [10.0, 15, 20, 30]):
        box = torch.tensor(start, requires_grad=True)
        for step in range(160):
            loss = iou_loss(box_cxcywh_to_xyxy(box), box_cxcywh_to_xyxy(target), kind)
            (gradient,) = torch.autograd.grad(loss, box)
            rate = 3 * 0.96**step
            box = (box - rate * gradient / (gradient.norm() + 1e-9)).detach().requires_grad_()
        final = paired_iou(box_cxcywh_to_xyxy(box.detach()), box_cxcywh_to_xyxy(target)).item()
        reached = kind != "iou" or start[0] == 34
        assert final > 0.9 if reached else final == 0


# Edges ----------------------------------------------------------------------


@each_kind
def test_boxes_without_area(kind):
    """All finite, with finite gradients; values by the definition with 0 / 0 = 0."""
    a = torch.tensor([[2.0, 3, 2, 3], [2, 3, 2, 7], [0, 3, 5, 3], [1, 1, 4, 5]], requires_grad=True)
    values = box_iou(a, a.detach(), kind)
    (gradient,) = torch.autograd.grad(values.sum(), a)
    assert values.isfinite().all() and gradient.isfinite().all()
    assert_close(values.diagonal(), torch.tensor([0.0, 0, 0, 1]), rtol=0, atol=1e-6)
    if kind == "iou":
        assert not values[:3].any()
    points = torch.tensor([[0.0, 0, 0, 0]]), torch.tensor([[3.0, 4, 3, 4]])
    assert box_iou(*points, kind).item() == (0 if kind == "iou" else -1)


@each_kind
@pytest.mark.parametrize("size", [1e-5, 1e-15, 1e-20, 1e-25, 1e-42])
def test_tiny_boxes_have_finite_gradients(kind, size):
    a = torch.tensor([[0.0, 0, size, size]], requires_grad=True)
    for b in (torch.tensor([[0.0, 0, 3, 1]]), torch.tensor([[5.0, 0, 8, 1]])):
        loss = iou_loss(a, b, kind)
        (gradient,) = torch.autograd.grad(loss.sum(), a)
        assert loss.isfinite().all() and gradient.isfinite().all()


def test_touching_boxes_share_nothing():
    a = torch.tensor([[0.0, 0, 2, 2]])
    b = torch.tensor([[2.0, 0, 4, 2], [2, 2, 4, 4], [0, -3, 2, 0]])
    assert not box_iou(a, b).any() and not box_intersection(a, b).any()


@each_kind
@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("m", [0, 2])
def test_empty_sets(kind, n, m):
    a, b = (x.requires_grad_() for x in two_sets(n, m))
    out = box_iou(a, b, kind)
    assert out.shape == (n, m)
    assert all(g.shape == x.shape for g, x in zip(gradients(out, [a, b]), (a, b)))
    none = iou_loss(a[:0], b[:0], kind)
    assert none.shape == (0,) and none.sum() == 0
    none.sum().backward()
    assert not a.grad.any()


def test_empty_masks():
    a, b = torch.zeros(2, 4, 5, dtype=torch.bool), torch.ones(3, 4, 5, dtype=torch.bool)
    assert mask_iou(a[:0], b).shape == (0, 3) and mask_iou(a, b[:0]).shape == (2, 0)
    assert torch.equal(mask_iou(a, a), torch.zeros(2, 2))
    assert torch.equal(mask_iou(a, b), torch.zeros(2, 3))
    assert torch.equal(mask_iou(b, b), torch.ones(3, 3))
    assert torch.equal(mask_iou(a[..., :0], b[..., :0]), torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    """Computed in float32 from the rounded boxes: 700 x 700 pixels overflow float16."""
    a, b = (x.to(dtype) for x in two_sets(20, 20))
    for kind in KINDS:
        for actual, expected in (
            (box_iou(a, b, kind), box_iou(a.double(), b.double(), kind)),
            (iou_loss(a, b, kind), iou_loss(a.double(), b.double(), kind)),
        ):
            assert actual.dtype == torch.float32
            assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    for actual, expected in (
        (box_area(a), box_area(a.double())),
        (box_intersection(a, b), box_intersection(a.double(), b.double())),
    ):
        assert actual.dtype == torch.float32 and expected.max() > 70000
        assert_close(actual.double(), expected, rtol=1e-6, atol=0)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(iou_loss(a, b, "ciou").sum(), a)
    assert gradient.dtype == dtype and gradient.isfinite().all()


def test_precision_is_kept():
    for dtype in (torch.float32, torch.float64):
        a, b = (x.to(dtype) for x in two_sets())
        assert all(box_iou(a, b, kind).dtype == dtype for kind in KINDS)
        assert box_area(a).dtype == box_intersection(a[:30], b).dtype == dtype


def test_masks_under_autocast():
    a = torch.ones(1, 60, 70, dtype=torch.bool)
    b = a.clone()
    b[:, 0, 0] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shared, iou = mask_intersection(a, b), mask_iou(a, b)
    assert shared.dtype == torch.float32 and shared.item() == 4199
    assert iou.item() == pytest.approx(4199 / 4200, abs=1e-7)


@each_kind
def test_non_contiguous_and_unchanged(kind):
    a, b = two_sets(6, 6)
    strided = [x.T.contiguous().T for x in (a, b)]
    kept = [x.clone() for x in strided]
    assert not any(x.is_contiguous() for x in strided)
    assert_close(box_iou(*strided, kind), box_iou(a, b, kind), **EXACT)
    assert_close(iou_loss(*strided, kind), iou_loss(a, b, kind), **EXACT)
    for x, copy in zip(strided, kept):
        assert torch.equal(x, copy) and x._version == copy._version
    masks = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    turned = masks.transpose(1, 2)
    assert torch.equal(mask_iou(turned, turned), mask_iou(masks, masks))


# Bad input ------------------------------------------------------------------

GOOD = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4]])
BAD = {
    "shape": (torch.zeros(2, 5), r"must be \(..., 4\), got \(2, 5\)"),
    "scalar": (torch.tensor(1.0), r"must be \(..., 4\), got \(\)"),
    "integers": (torch.zeros(2, 4, dtype=torch.int64), r"floating, got torch.int64"),
    "negative width": (
        torch.tensor([[1.0, 2, 3, 4], [3, 2, 1, 4]]),
        r"x1 <= x2 .* got \[3.0, 2.0, 1.0, 4.0\]",
    ),
    "negative height": (
        torch.tensor([[1.0, 4, 3, 2], [1, 2, 3, 4]]),
        r"y1 <= y2, got \[1.0, 4.0, 3.0, 2.0\]",
    ),
    "nan": (torch.tensor([[1.0, 2, math.nan, 4]] * 2), r"finite .* got \[1.0, 2.0, nan, 4.0\]"),
    "infinity": (torch.tensor([[1.0, 2, math.inf, 4]] * 2), r"finite .* got .*inf, 4.0\]"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_bad_boxes(bad, message):
    with pytest.raises(ValueError, match="my boxes .*" + message):
        check_boxes("my boxes", bad)
    with pytest.raises(ValueError, match="boxes_xyxy .*" + message):
        box_area(bad)
    for function in (box_iou, paired_iou, box_intersection):
        with pytest.raises(ValueError, match="a_xyxy .*" + message):
            function(bad, GOOD)
        with pytest.raises(ValueError, match="b_xyxy .*" + message):
            function(GOOD, bad)
    with pytest.raises(ValueError, match="predicted_xyxy .*" + message):
        iou_loss(bad, GOOD)
    with pytest.raises(ValueError, match="target_xyxy .*" + message):
        iou_loss(GOOD, bad)


def test_good_boxes_pass():
    check_boxes("boxes", GOOD)
    check_boxes("boxes", GOOD[:0])
    check_boxes("boxes", torch.tensor([-5.0, -5, -5, -2]))


@pytest.mark.parametrize("function", [box_iou, paired_iou, box_intersection, iou_loss])
def test_two_sets_that_do_not_fit(function):
    with pytest.raises(ValueError, match=r"float32 on cpu, torch.float64 on cpu"):
        function(GOOD, GOOD.double())
    with pytest.raises(ValueError, match=r"float32 on cpu, torch.float16 on cpu"):
        function(GOOD, GOOD.half())


def test_other_devices():
    class Elsewhere(torch.Tensor):
        device = torch.device("cuda:1")

    with pytest.raises(ValueError, match=r"on cpu, torch.float32 on cuda:1"):
        box_iou(GOOD, GOOD.as_subclass(Elsewhere))
    masks = torch.ones(2, 3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"on cpu, \(2, 3, 4\) on cuda:1"):
        mask_iou(masks, masks.as_subclass(Elsewhere))


@pytest.mark.parametrize("function", [paired_iou, iou_loss])
def test_pairs_of_different_number(function):
    with pytest.raises(ValueError, match=r"same shape, got \(2, 4\) and \(1, 4\)"):
        function(GOOD, GOOD[:1])


def test_axes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"got \(4,\) and \(2, 4\)"):
        box_iou(GOOD[0], GOOD)
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(4,\)"):
        box_iou(GOOD, GOOD[0])
    with pytest.raises(ValueError, match=r"broadcast, got \(2,\) and \(3,\)"):
        box_iou(torch.zeros(2, 5, 4), torch.zeros(3, 5, 4))
    with pytest.raises(ValueError, match=r"broadcast, got \(2,\) and \(3,\)"):
        box_intersection(GOOD, torch.zeros(3, 4))


@pytest.mark.parametrize("function", [box_iou, paired_iou, iou_loss])
def test_unknown_kind(function):
    with pytest.raises(ValueError, match=r"one of iou, giou, diou, ciou, got 'GIoU'"):
        function(GOOD, GOOD, "GIoU")


@pytest.mark.parametrize(
    "convert", [box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, box_xywh_to_xyxy, box_xyxy_to_xywh]
)
def test_formats_of_another_shape(convert):
    for shape in ((2, 3), (4, 2), ()):
        with pytest.raises(ValueError, match=r"boxes must be \(..., 4\), got \("):
            convert(torch.zeros(shape))


@pytest.mark.parametrize("function", [mask_iou, mask_intersection])
def test_bad_masks(function):
    good = torch.ones(2, 3, 4, dtype=torch.bool)
    for bad, message in [
        (good.float(), r"must be bool \(N, H, W\), got torch.float32 \(2, 3, 4\)"),
        (good[0], r"must be bool \(N, H, W\), got torch.bool \(3, 4\)"),
    ]:
        with pytest.raises(ValueError, match="^a " + message):
            function(bad, good)
        with pytest.raises(ValueError, match="^b " + message):
            function(good, bad)
    with pytest.raises(ValueError, match=r"one size .* got \(2, 3, 4\) on cpu, \(2, 3, 3\)"):
        function(good, good[..., :3])
