"""Box regression: parity with torchvision and PyTorch, round trip, bounds, edges, bad input.

Yardstick: torchvision.models.detection._utils.BoxCoder; torchvision.ops.boxes.clip_boxes_to_image;
    torch.nn.functional.smooth_l1_loss; plain loops.
"""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import boxes as box_ops

from snippets.detection.box_regression import (
    BoxCodec,
    clip_to_image,
    deltas_of_class,
    large_enough,
    smooth_l1_loss,
)
from snippets.detection.iou import paired_iou

HEAD = (10.0, 10.0, 5.0, 5.0)
WEIGHTS = [(1.0, 1.0, 1.0, 1.0), HEAD, (2.0, 3.0, 5.0, 7.0)]
CLIP = math.log(1000 / 16)
HALF = [torch.float16, torch.bfloat16]
place = st.floats(-500, 1500)
side = st.floats(0.5, 1000)
box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), place, place, side, side)
seeds = st.integers(0, 2**32 - 1)


def random_boxes(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 300
    size = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 100 + 5
    return torch.cat([low, low + size], -1).to(dtype)


def random_deltas(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def gradients(function, *inputs):
    """The output, and the gradients of a sum that weighs each number of it differently."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    weights = torch.arange(1, out.numel() + 1, dtype=out.dtype).reshape(out.shape).sin()
    return out.detach(), torch.autograd.grad((out * weights).sum(), inputs)


def assert_same(ours, theirs):
    for a, b in zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def encode_by_hand(box, anchor, weights):
    """Appendix C of R-CNN, eqs. (6) to (9), one number at a time."""
    (gx, gy, gw, gh), (px, py, pw, ph) = (
        ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (box, anchor)
    )
    t = [(gx - px) / pw, (gy - py) / ph, math.log(gw / pw), math.log(gh / ph)]
    return [a * b for a, b in zip(t, weights, strict=True)]


def decode_by_hand(deltas, anchor, weights, clip):
    """Eqs. (1) to (4)."""
    dx, dy, dw, dh = (a / b for a, b in zip(deltas, weights, strict=True))
    x1, y1, x2, y2 = anchor
    pw, ph = x2 - x1, y2 - y1
    x, y = pw * dx + (x1 + x2) / 2, ph * dy + (y1 + y2) / 2
    w, h = pw * math.exp(min(dw, clip)), ph * math.exp(min(dh, clip))
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


# Parity -----------------------------------------------------------------------


@given(a=box, b=box, weights=st.sampled_from(WEIGHTS))
def test_encode_equals_the_paper(a, b, weights):
    found = BoxCodec(weights).encode(*(torch.tensor(x, dtype=torch.float64) for x in (a, b)))
    assert_close(found.tolist(), encode_by_hand(a, b, weights), rtol=1e-9, atol=1e-9)


@given(
    deltas=st.tuples(*[st.floats(-8, 8)] * 4),
    anchor=box,
    weights=st.sampled_from(WEIGHTS),
    clip=st.sampled_from([CLIP, 0.5, math.inf]),
)
def test_decode_equals_the_paper(deltas, anchor, weights, clip):
    inputs = (torch.tensor(x, dtype=torch.float64) for x in (deltas, anchor))
    found = BoxCodec(weights, clip).decode(*inputs)
    expected = decode_by_hand(deltas, anchor, weights, clip)
    assert_close(found.tolist(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_encode_equals_torchvision_with_gradients(weights):
    boxes, anchors = random_boxes(50, seed=1), random_boxes(50, seed=2)
    theirs = BoxCoder(weights).encode_single
    assert_same(
        gradients(BoxCodec(weights).encode, boxes, anchors), gradients(theirs, boxes, anchors)
    )


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("classes", [1, 3])
def test_decode_equals_torchvision_with_gradients(weights, classes):
    """Deltas beyond the clip among them."""
    anchors = random_boxes(50, seed=1)
    deltas = random_deltas(50, classes, 4, seed=2) * torch.tensor(weights) * 3
    assert (deltas[..., 2:] / torch.tensor(weights[2:]) > CLIP).any()
    codec, coder = BoxCodec(weights), BoxCoder(weights)
    ours = gradients(lambda d, a: codec.decode(d, a[:, None]), deltas, anchors)
    theirs = gradients(
        lambda d, a: coder.decode_single(d.flatten(1), a).unflatten(1, (classes, 4)),
        deltas,
        anchors,
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 0.5, 1.0, 3.0])
def test_smooth_l1_equals_pytorch_with_gradients(beta):
    x, target = random_deltas(200, 4, seed=1), random_deltas(200, 4, seed=2)
    x[0] = target[0]  # no error
    x[1] = target[1] + torch.tensor([beta, -beta, 2 * beta, -2 * beta])
    ours = gradients(lambda a, b: smooth_l1_loss(a, b, beta), x, target)
    theirs = gradients(lambda a, b: F.smooth_l1_loss(a, b, reduction="none", beta=beta), x, target)
    assert_same(ours, theirs)


@given(
    x=st.floats(-5, 5),
    target=st.floats(-5, 5),
    beta=st.floats(1e-3, 5),
    weight=st.sampled_from([1.0, 5.0, 10.0]),
)
def test_smooth_l1_by_definition_and_against_huber(x, target, beta, weight):
    error = abs(x - target)
    expected = error**2 / (2 * beta) if error < beta else error - beta / 2
    x, target = (torch.tensor(v, dtype=torch.float64) for v in (x, target))
    found = smooth_l1_loss(x, target, beta)
    assert_close(float(found), expected, rtol=1e-9, atol=1e-12)
    assert_close(found * beta, F.huber_loss(x, target, delta=beta), rtol=1e-9, atol=1e-12)
    weighted = smooth_l1_loss(weight * x, weight * target, beta)
    narrower = weight * smooth_l1_loss(x, target, beta / weight)
    assert_close(weighted, narrower, rtol=1e-7, atol=1e-9)


@given(boxes=st.lists(box, max_size=5), size=st.tuples(st.integers(0, 900), st.integers(0, 900)))
def test_clip_and_sizes_equal_torchvision(boxes, size):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    clipped = clip_to_image(boxes, size)
    assert torch.equal(clipped, box_ops.clip_boxes_to_image(boxes, size))
    kept = large_enough(clipped, 16.0).nonzero()[:, 0]
    assert torch.equal(kept, box_ops.remove_small_boxes(clipped, 16.0))


def test_clip_has_the_gradients_of_torchvision():
    boxes = random_boxes(40, seed=3) - 40
    boxes[0] = torch.tensor([0.0, 0.0, 200.0, 150.0])  # exactly on the border
    assert_same(
        gradients(lambda b: clip_to_image(b, (150, 200)), boxes),
        gradients(lambda b: box_ops.clip_boxes_to_image(b, (150, 200)), boxes),
    )


# Invariants -------------------------------------------------------------------


@given(a=box, b=box, weights=st.sampled_from(WEIGHTS))
def test_decoding_undoes_encoding(a, b, weights):
    a, b = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    codec = BoxCodec(weights, math.inf)
    assert_close(codec.decode(codec.encode(a, b), b), a, rtol=1e-9, atol=1e-7)


@given(deltas=st.tuples(*[st.floats(-4, 4)] * 4), anchor=box, weights=st.sampled_from(WEIGHTS))
def test_encoding_undoes_decoding(deltas, anchor, weights):
    deltas, anchor = (torch.tensor(x, dtype=torch.float64) for x in (deltas, anchor))
    codec = BoxCodec(weights)
    again = codec.encode(codec.decode(deltas, anchor), anchor)
    assert_close(again, deltas, rtol=1e-6, atol=1e-6)


@given(a=box, b=box, scale=st.floats(0.1, 10), dx=place, dy=place)
def test_deltas_do_not_see_scale_and_place(a, b, scale, dx, dy):
    a, b = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    move = torch.tensor([dx, dy, dx, dy], dtype=torch.float64)
    before, after = (BoxCodec().encode(*x) for x in [(a, b), (a * scale + move, b * scale + move)])
    assert_close(before, after, rtol=1e-6, atol=1e-6)


@given(a=box, b=box)
def test_exchanged_boxes_grow_by_the_opposite(a, b):
    a, b = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    assert_close(BoxCodec().encode(a, b)[2:], -BoxCodec().encode(b, a)[2:])


@given(seed=seeds)
def test_deltas_are_bounded_by_the_overlap(seed):
    """|dx| <= (1 / IoU - 1) / 2 and |dw| <= -log IoU: positives have small targets."""
    anchors = random_boxes(200, seed=seed)
    noise = random_deltas(200, 4, seed=seed + 1, scale=0.3)
    boxes = BoxCodec().decode(noise, anchors)
    iou = paired_iou(boxes, anchors)
    deltas = BoxCodec().encode(boxes, anchors).abs()
    assert (deltas[:, :2] <= ((1 / iou - 1) / 2)[:, None] + 1e-12).all()
    assert (deltas[:, 2:] <= -iou.log()[:, None] + 1e-12).all()


def test_the_bounds_are_reached():
    anchor = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    wide = torch.tensor([0.0, 0.0, 2.0, 1.0], dtype=torch.float64)  # IoU 1/2
    expected = torch.tensor([0.5, 0.0, math.log(2), 0.0], dtype=torch.float64)
    assert_close(BoxCodec().encode(wide, anchor), expected)


def test_a_batch_equals_its_parts():
    anchors, deltas = random_boxes(7), random_deltas(2, 7, 4)
    codec = BoxCodec(HEAD)
    boxes = codec.decode(deltas, anchors)  # one set of anchors for both images
    parts = torch.stack([codec.decode(d, anchors) for d in deltas])
    assert torch.equal(boxes, parts)
    targets = torch.stack([codec.encode(b, anchors) for b in boxes])
    assert torch.equal(codec.encode(boxes, anchors), targets)


@pytest.mark.parametrize("dw", [CLIP + 1e-6, 50.0, 1e30])
def test_beyond_the_clip_nothing_grows_and_nothing_learns(dw):
    anchor = torch.tensor([10.0, 10.0, 26.0, 26.0], dtype=torch.float64)
    deltas = torch.tensor([0.0, 0.0, dw, dw - CLIP - 1], dtype=torch.float64, requires_grad=True)
    box = BoxCodec().decode(deltas, anchor)
    assert_close(float((box[2] - box[0]).detach()), 1000.0)
    (gradient,) = torch.autograd.grad(box[2] - box[0], deltas)
    assert not gradient.any()


@given(seed=seeds, n=st.integers(0, 5), classes=st.integers(1, 4))
def test_deltas_of_the_class(seed, n, classes):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    deltas = random_deltas(n, classes, 4, seed=seed).requires_grad_()
    found = deltas_of_class(deltas, labels)
    expected = [deltas[i, k].tolist() for i, k in enumerate(labels.tolist())]
    assert found.tolist() == expected and found.shape == (n, 4)
    (gradient,) = torch.autograd.grad(found.sum(), deltas)
    mine = F.one_hot(labels, classes).bool()
    assert (gradient[mine] == 1).all() and not gradient[~mine].any()


def test_one_set_of_deltas_serves_every_class():
    deltas = random_deltas(3, 1, 4)
    assert torch.equal(deltas_of_class(deltas, torch.tensor([4, 0, 7])), deltas[:, 0])


# Gradient ---------------------------------------------------------------------


def test_gradient():
    boxes, anchors = random_boxes(4, seed=1), random_boxes(4, seed=2)
    deltas = random_deltas(4, 4)
    codec = BoxCodec(HEAD)
    for function, inputs in (
        (codec.encode, (boxes, anchors)),
        (codec.decode, (deltas, anchors)),
        (lambda x, y: smooth_l1_loss(x, y, 0.5), (deltas, random_deltas(4, 4, seed=9))),
    ):
        inputs = [x.clone().requires_grad_() for x in inputs]
        assert torch.autograd.gradcheck(function, inputs)


def test_l1_and_smooth_l1_are_flat_where_there_is_no_error():
    for beta in (0.0, 1e-6, 1.0):
        _, (gradient, _) = gradients(
            lambda a, b, beta=beta: smooth_l1_loss(a, b, beta), *[torch.ones(3)] * 2
        )
        assert not gradient.any()


# Edges ------------------------------------------------------------------------


def test_nothing_gives_nothing():
    none = torch.zeros(0, 4)
    codec = BoxCodec()
    assert codec.encode(none, none).shape == codec.decode(none, none).shape == (0, 4)
    assert codec.decode(torch.zeros(0, 3, 4), torch.zeros(0, 1, 4)).shape == (0, 3, 4)
    assert codec.encode(none, torch.tensor([0.0, 0.0, 1.0, 1.0])).shape == (0, 4)
    assert clip_to_image(none, (5, 5)).shape == (0, 4)
    assert large_enough(none, 1.0).shape == (0,)
    x = none.clone().requires_grad_()
    loss = smooth_l1_loss(x, none).sum()  # an image without positives
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss == 0 and gradient.shape == (0, 4)


def test_a_box_outside_loses_its_size():
    box = torch.tensor([[350.0, 20.0, 400.0, 30.0], [-9.0, -9.0, -1.0, 5.0]])
    clipped = clip_to_image(box, (240, 320))
    assert clipped.tolist() == [[320, 20, 320, 30], [0, 0, 0, 5]]
    assert large_enough(clipped, 1e-3).tolist() == [False, False]


def test_a_side_of_exactly_the_least_size_is_kept():
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 15.5, 20.0], [0.0, 0.0, 20.0, 15.5]])
    assert large_enough(boxes, 16).tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_computed_and_returned_in_float32(dtype):
    anchors = random_boxes(20, seed=1, dtype=dtype) + 800
    boxes = random_boxes(20, seed=2, dtype=dtype) + 800
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1) & (anchors[:, 2:] > anchors[:, :2]).all(1)
    boxes, anchors = boxes[keep], anchors[keep]
    codec = BoxCodec(HEAD)
    deltas = codec.encode(boxes, anchors)
    assert torch.equal(deltas, codec.encode(boxes.float(), anchors.float()))
    for lower in (anchors, anchors.float()):  # under autocast deltas alone are half
        decoded = codec.decode(deltas.to(dtype), lower)
        assert torch.equal(decoded, codec.decode(deltas.to(dtype).float(), anchors.float()))
        assert decoded.dtype == torch.float32
    assert codec.decode(deltas, anchors.double()).dtype == torch.float64
    loss = smooth_l1_loss(deltas.to(dtype), deltas, 1 / 9)
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    assert clip_to_image(boxes, (100, 100)).dtype == dtype


def test_a_large_error_in_half_precision_does_not_overflow():
    x = torch.tensor([300.0], dtype=torch.float16)
    assert smooth_l1_loss(x * 100, -x * 100, 1e5).item() == 60000**2 / 2e5


def test_nan_in_the_loss_stays():
    x = torch.tensor([math.nan, 1.0])
    for beta in (0.0, 1.0):
        assert smooth_l1_loss(x, torch.zeros(2), beta).isnan().tolist() == [True, False]


def test_arguments_stay_as_they_are_and_need_not_be_contiguous():
    boxes = random_boxes(6).T.contiguous().T
    anchors = random_boxes(12, seed=5)[::2]
    assert not boxes.is_contiguous() and not anchors.is_contiguous()
    before = boxes.clone(), anchors.clone()
    codec = BoxCodec(HEAD)
    deltas = codec.encode(boxes, anchors)
    assert torch.equal(deltas, codec.encode(boxes.contiguous(), anchors.contiguous()))
    assert_close(codec.decode(deltas, anchors), boxes)
    clip_to_image(boxes, (20, 30))
    smooth_l1_loss(boxes, anchors)
    assert torch.equal(boxes, before[0]) and torch.equal(anchors, before[1])


def test_the_defaults():
    assert BoxCodec() == BoxCodec((1.0, 1.0, 1.0, 1.0), CLIP)
    anchor = torch.tensor([0.0, 0.0, 16.0, 16.0])
    assert_close(BoxCodec().decode(torch.full((4,), 9.0), anchor)[2:].diff(), torch.zeros(1))
    assert smooth_l1_loss(torch.tensor(1.0), torch.tensor(0.0)) == 0.5


# Bad input --------------------------------------------------------------------

GOOD = torch.tensor([[10.0, 10.0, 20.0, 30.0]])
FLAT = torch.tensor([[10.0, 10.0, 10.0, 30.0]])
NAN = torch.tensor([[10.0, math.nan, 20.0, 30.0]])
ELSEWHERE = GOOD.to("meta")


@pytest.mark.parametrize(
    ("boxes", "anchors", "message"),
    [
        (GOOD, FLAT, r"anchors_xyxy must have a positive width and height, got \[10.0, 10.0, 10"),
        (GOOD, FLAT[:, [1, 0, 3, 2]], r"anchors_xyxy must have a positive .* 30.0, 10.0\]"),
        (FLAT, GOOD, r"boxes_xyxy must have a positive width and height, got \[10.0, 10.0, 10"),
        (GOOD.flip(1), GOOD, r"boxes_xyxy must be finite with x1 <= x2 .* got \[30.0, 20.0"),
        (GOOD, NAN, r"anchors_xyxy must be finite .* got \[10.0, nan"),
        (GOOD[:, :3], GOOD, r"boxes_xyxy must be \(..., 4\), got \(1, 3\)"),
        (GOOD.long(), GOOD, r"boxes_xyxy must be floating, got torch.int64"),
        (GOOD.double(), GOOD, r"need one dtype, got torch.float64, torch.float32"),
        (GOOD.repeat(2, 1), GOOD.repeat(3, 1), r"must fit each other, got \(2, 4\) and \(3, 4\)"),
    ],
)
def test_bad_boxes_to_encode(boxes, anchors, message):
    with pytest.raises(ValueError, match=message):
        BoxCodec().encode(boxes, anchors)


@pytest.mark.parametrize(
    ("deltas", "anchors", "message"),
    [
        (torch.zeros(1, 4), FLAT, r"anchors_xyxy must have a positive width and height, got"),
        (torch.zeros(1, 4), NAN, r"anchors_xyxy must be finite"),
        (torch.zeros(1, 5), GOOD, r"deltas must be floating .* got torch.float32 \(1, 5\)"),
        (torch.zeros(1, 4).long(), GOOD, r"deltas must be floating .* got torch.int64 \(1, 4\)"),
        (NAN, GOOD, r"deltas must be finite, got \[10.0, nan"),
        (torch.tensor([[0.0, 0.0, math.inf, 0.0]]), GOOD, r"deltas must be finite, got .* inf"),
        (torch.zeros(2, 3, 4), GOOD.repeat(2, 1), r"fit each other, got \(2, 3, 4\) and \(2, 4\)"),
    ],
)
def test_bad_deltas_to_decode(deltas, anchors, message):
    with pytest.raises(ValueError, match=message):
        BoxCodec().decode(deltas, anchors)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoxCodec((1.0, 1.0, 0.0, 1.0)), r"four positive numbers, got \(1.0, 1.0, 0.0"),
        (lambda: BoxCodec((1.0, 1.0)), r"four positive numbers, got \(1.0, 1.0\)"),
        (lambda: BoxCodec((1.0, 1.0, 1.0, math.inf)), r"four positive numbers, got .* inf"),
        (lambda: BoxCodec(clip=0.0), r"clip must be positive, got 0.0"),
        (lambda: BoxCodec(clip=math.nan), r"clip must be positive, got nan"),
        (lambda: clip_to_image(GOOD, (-1, 5)), r"size must be .* got \(-1, 5\)"),
        (lambda: clip_to_image(NAN, (5, 5)), r"boxes_xyxy must be finite"),
        (lambda: clip_to_image(GOOD.flip(1), (5, 5)), r"boxes_xyxy must be finite with x1 <= x2"),
        (lambda: large_enough(NAN, 1.0), r"boxes_xyxy must be finite"),
        (lambda: smooth_l1_loss(GOOD, GOOD[0]), r"one shape and device, got \(1, 4\) .* \(4,\)"),
        (lambda: smooth_l1_loss(GOOD, ELSEWHERE), r"one shape and device, got .* cpu, .* meta"),
        (lambda: smooth_l1_loss(GOOD, GOOD.long()), r"floating, got torch.float32, torch.int64"),
        (lambda: smooth_l1_loss(GOOD, GOOD, -1.0), r"beta must not be .* got -1.0"),
        (lambda: smooth_l1_loss(GOOD, GOOD, math.inf), r"beta must not be .* got inf"),
        (
            lambda: deltas_of_class(torch.zeros(2, 3, 4), torch.tensor([0, 3])),
            r"labels must lie in \[0, 3\), got 3",
        ),
        (
            lambda: deltas_of_class(torch.zeros(2, 3, 4), torch.tensor([0, -1])),
            r"labels must lie in \[0, 3\), got -1",
        ),
        (
            lambda: deltas_of_class(torch.zeros(2, 12), torch.tensor([0, 1])),
            r"deltas must be \(N, K, 4\) and labels \(N,\), got \(2, 12\), \(2,\)",
        ),
        (
            lambda: deltas_of_class(torch.zeros(2, 3, 4), torch.tensor([0])),
            r"got \(2, 3, 4\), \(1,\)",
        ),
        (
            lambda: deltas_of_class(torch.zeros(2, 3, 4), torch.tensor([0.0, 1.0])),
            r"labels must be int64 on cpu, got torch.float32",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_boxes_on_another_device_are_refused(monkeypatch):
    """The meta device has no values to look at: leave out those checks."""
    monkeypatch.setattr(sys.modules[BoxCodec.__module__], "_check_sized", lambda *_: None)
    with pytest.raises(ValueError, match=r"boxes and anchors need one device, got cpu and meta"):
        BoxCodec().encode(GOOD, ELSEWHERE)
    with pytest.raises(ValueError, match=r"deltas and anchors need one device, got cpu and meta"):
        BoxCodec().decode(torch.zeros(1, 4), ELSEWHERE)
