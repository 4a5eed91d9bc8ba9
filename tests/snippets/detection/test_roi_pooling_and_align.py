"""RoI pooling and align: ONNX Runtime, plain loops, closed forms on planes, levels, edges.

Yardstick: onnxruntime.MaxRoiPool; onnxruntime.RoiAlign; torchvision.ops.poolers.LevelMapper; plain
    loops.
"""

import math
import sys

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch.testing import assert_close
from torchvision.ops.poolers import LevelMapper

from snippets.detection.roi_pooling_and_align import (
    assign_levels,
    pyramid_roi_align,
    roi_align,
    roi_pool,
)

module = sys.modules[roi_align.__module__]

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 9)
bins = st.tuples(st.integers(1, 4), st.integers(1, 4))
scales = st.sampled_from([1.0, 0.5, 0.25, 1 / 16, 0.3])
ratios = st.sampled_from([-1, 0, 1, 2, 3])


def problem(seed, counts=(2, 0, 3), channels=2, size=(6, 7), scale=0.25, dtype=torch.float64):
    """Maps, and boxes of which some stick out, lie outside or have no width."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(counts), channels, *size, generator=generator, dtype=torch.float64)
    boxes = []
    for n in counts:
        low = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.4
        wide = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        wide *= torch.rand(n, 1, generator=generator, dtype=torch.float64) > 0.15
        corners = torch.cat([low, low + wide], 1)
        corners *= torch.tensor([size[1], size[0]] * 2) / scale
        if seed % 2:  # halves and whole numbers: ties of rounding
            corners = (corners * scale * 2).round() / 2 / scale
        boxes.append(corners.to(dtype))
    return features.to(dtype), boxes


def one_by_one(features, boxes, pool):
    """Apply pool(map of one channel, box) to each and put the values together."""
    rows = [
        torch.stack([pool(channel, box.tolist()) for channel in image])
        for image, own in zip(features, boxes, strict=True)
        for box in own
    ]
    return torch.stack(rows) if rows else features.new_zeros(0)


def c_round(x):
    return math.copysign(math.floor(abs(x) + 0.5), x)


def pool_by_definition(channel, box, output_size, scale):
    """The loops of the original layer, cell by cell; an equal cell does not replace the first."""
    (H, W), (h, w) = channel.shape, output_size
    x1, y1, x2, y2 = (int(c_round(v * scale)) for v in box)
    tall, wide = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = []
    for p in range(h):
        for q in range(w):
            best = None
            for y in range(y1 + math.floor(p * (tall / h)), y1 + math.ceil((p + 1) * (tall / h))):
                for x in range(
                    x1 + math.floor(q * (wide / w)), x1 + math.ceil((q + 1) * (wide / w))
                ):
                    inside = 0 <= y < H and 0 <= x < W
                    if inside and (best is None or channel[y, x] > best):
                        best = channel[y, x]
            out.append(channel.new_zeros(()) if best is None else best)
    return torch.stack(out).view(h, w)


def sample(channel, y, x):
    """Bilinear, with the rule of the libraries for what lies outside."""
    H, W = channel.shape
    if y < -1 or y > H or x < -1 or x > W:
        return channel.new_zeros(())
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    return sum(
        channel[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
        for i in range(H)
        for j in range(W)
        if abs(y - i) < 1 and abs(x - j) < 1
    )


def align_by_definition(channel, box, output_size, scale, ratio, aligned):
    h, w = output_size
    x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0) for v in box)
    tall, wide = y2 - y1, x2 - x1
    if not aligned:
        tall, wide = max(tall, 1), max(wide, 1)
    rows = ratio if ratio > 0 else math.ceil(tall / h)
    columns = ratio if ratio > 0 else math.ceil(wide / w)
    out = []
    for p in range(h):
        for q in range(w):
            total = channel.new_zeros(())
            for i in range(rows):
                for j in range(columns):
                    y = y1 + p * (tall / h) + (i + 0.5) * (tall / h) / rows
                    x = x1 + q * (wide / w) + (j + 0.5) * (wide / w) / columns
                    total = total + sample(channel, y, x)
            out.append(total / max(rows * columns, 1))
    return torch.stack(out).view(h, w)


def compare_with_loops(ours, loops, features, boxes):
    x = features.clone().requires_grad_()
    y = features.clone().requires_grad_()
    out, expected = ours(x), one_by_one(y, boxes, loops) + 0 * y.sum()
    assert_close(out, expected, rtol=0, atol=1e-10)
    weight = torch.randn(out.shape, dtype=out.dtype)
    (a,) = torch.autograd.grad((out * weight).sum(), x)
    (b,) = torch.autograd.grad((expected * weight).sum(), y)
    assert_close(a, b, rtol=0, atol=1e-10)


def onnx(kind, features, boxes, **attributes):
    """The operator in ONNX Runtime; RoiAlign in float64, MaxRoiPool in float32."""
    index = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
    rois = torch.cat(list(boxes))
    if kind == "MaxRoiPool":
        features, rois = features.float(), torch.cat([index[:, None], rois], 1).float()
    feeds = {"x": features.numpy(), "rois": rois.numpy()}
    if kind == "RoiAlign":
        feeds["index"] = index.numpy()
    types = [helper.np_dtype_to_tensor_dtype(v.dtype) for v in feeds.values()]
    graph = helper.make_graph(
        [helper.make_node(kind, list(feeds), ["out"], **attributes)],
        "graph",
        [helper.make_tensor_value_info(n, t, None) for n, t in zip(feeds, types, strict=True)],
        [helper.make_tensor_value_info("out", types[0], None)],
    )
    assert types[0] in (TensorProto.FLOAT, TensorProto.DOUBLE)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(None, feeds)[0])


# Parity ---------------------------------------------------------------------


@settings(max_examples=60)
@given(seed=seeds, size=st.tuples(sides, sides), output_size=bins, scale=scales)
def test_roi_pool_equals_loops(seed, size, output_size, scale):
    features, boxes = problem(seed, size=size, scale=scale)
    if seed % 3 == 0:
        features = features.relu()  # many equal zeros
    compare_with_loops(
        lambda x: roi_pool(x, boxes, output_size, scale),
        lambda channel, box: pool_by_definition(channel, box, output_size, scale),
        features,
        boxes,
    )


@settings(max_examples=60)
@given(
    seed=seeds,
    size=st.tuples(sides, sides),
    output_size=bins,
    scale=scales,
    ratio=ratios,
    aligned=st.booleans(),
)
def test_roi_align_equals_loops(seed, size, output_size, scale, ratio, aligned):
    features, boxes = problem(seed, (1, 0, 2), 1, size, scale)
    compare_with_loops(
        lambda x: roi_align(x, boxes, output_size, scale, ratio, aligned),
        lambda channel, box: align_by_definition(channel, box, output_size, scale, ratio, aligned),
        features,
        boxes,
    )


@given(seed=seeds, output_size=bins, scale=st.sampled_from([1.0, 0.5, 0.25, 1 / 16]))
def test_roi_pool_equals_onnxruntime(seed, output_size, scale):
    features, boxes = problem(seed, size=(9, 12), scale=scale, dtype=torch.float32)
    expected = onnx("MaxRoiPool", features, boxes, pooled_shape=output_size, spatial_scale=scale)
    assert_close(roi_pool(features, boxes, output_size, scale), expected, rtol=0, atol=0)


@given(
    seed=seeds,
    size=st.tuples(sides, sides),
    output_size=bins,
    scale=st.sampled_from([1.0, 0.5, 0.25, 1 / 16]),
    ratio=st.sampled_from([0, 1, 2, 3]),
    aligned=st.booleans(),
)
def test_roi_align_equals_onnxruntime(seed, size, output_size, scale, ratio, aligned):
    features, boxes = problem(seed, size=size, scale=scale)
    expected = onnx(
        "RoiAlign",
        features,
        boxes,
        output_height=output_size[0],
        output_width=output_size[1],
        sampling_ratio=ratio,
        spatial_scale=scale,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )
    ours = roi_align(features, boxes, output_size, scale, ratio, aligned)
    assert_close(ours, expected, rtol=0, atol=1e-10)


def test_a_common_size_of_7_in_float32_equals_onnxruntime():
    """Where 7 does not divide the box, the bins depend on the rounding of float32."""
    features, boxes = problem(4, (200,), 1, (60, 60), 1 / 16, torch.float32)
    expected = onnx("MaxRoiPool", features, boxes, pooled_shape=(7, 7), spatial_scale=1 / 16)
    assert_close(roi_pool(features, boxes, 7, 1 / 16), expected, rtol=0, atol=0)


@given(seed=seeds, n=st.integers(1, 20))
def test_levels_equal_torchvision(seed, n):
    boxes = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    boxes = torch.cat([torch.zeros_like(boxes), boxes * 2000], 1)
    expected = 2 ** (LevelMapper(2, 5)([boxes]) + 2)
    assert torch.equal(assign_levels(boxes, [4, 8, 16, 32]), expected)


# Invariants -----------------------------------------------------------------


@given(seed=seeds, ratio=ratios, output_size=bins)
def test_aligned_samples_of_a_plane_average_to_its_value_at_the_centre_of_the_bin(
    seed, ratio, output_size
):
    """Bilinear interpolation is exact on planes; cell i of the map is centred on i + 1/2."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(5, 2, 2, generator=generator, dtype=torch.float64).sort(1)[0] * 80 + 8
    boxes = corners.flatten(1)  # inside of the outermost centres
    y, x = torch.meshgrid(*[torch.arange(24.0, dtype=torch.float64) + 0.5] * 2, indexing="ij")
    plane = torch.stack([2 * x + 1, 3 * y - x])[None]
    out = roi_align(plane, [boxes], output_size, 1 / 4, ratio)
    for i, count in ((0, output_size[1]), (1, output_size[0])):
        at = (torch.arange(count) + 0.5) / count
        at = (boxes[:, i, None] + (boxes[:, i + 2] - boxes[:, i])[:, None] * at) / 4
        if i == 0:
            u = at[:, None, :]
        else:
            v = at[:, :, None]
    expected = torch.stack([2 * u + 1 + 0 * v, 3 * v - u], 1)
    assert_close(out, expected)


@given(seed=seeds, aligned=st.booleans(), ratio=ratios)
def test_shifting_map_and_boxes_by_whole_cells_changes_nothing(seed, aligned, ratio):
    features, _ = problem(seed, (2,), 2, (14, 14))
    corners = torch.rand(4, 2, 2, generator=torch.Generator().manual_seed(seed))
    boxes = (corners.sort(1)[0] * 8 + 2).flatten(1).double()
    moved = features.roll((2, 1), (2, 3))
    by = torch.tensor([1.0, 2.0, 1.0, 2.0])
    for pool in (
        lambda f, b: roi_pool(f, [b], (2, 3), 1.0),
        lambda f, b: roi_align(f, [b], (2, 3), 1.0, ratio, aligned),
    ):
        assert_close(pool(moved[:1], boxes + by), pool(features[:1], boxes))


@given(seed=seeds, ratio=ratios, aligned=st.booleans())
def test_batched_equals_single_and_order_does_not_matter(seed, ratio, aligned):
    features, boxes = problem(seed, (3, 0, 4))
    for pool in (
        lambda f, b: roi_pool(f, b, (2, 3), 0.25),
        lambda f, b: roi_align(f, b, (2, 3), 0.25, ratio, aligned),
    ):
        out = pool(features, boxes)
        single = [
            pool(f[None], [b[None]]) for f, own in zip(features, boxes, strict=True) for b in own
        ]
        assert_close(out, torch.cat(single), rtol=0, atol=1e-12)
        back = pool(features.flip(0), [b.flip(0) for b in boxes[::-1]])
        assert_close(back.flip(0), out, rtol=0, atol=1e-12)


@given(seed=seeds)
def test_transposing_map_and_boxes_transposes_the_bins(seed):
    features, boxes = problem(seed)
    turned = [b[:, [1, 0, 3, 2]] for b in boxes]
    for pool, rest in ((roi_pool, ()), (roi_align, (0,)), (roi_align, (3, False))):
        a = pool(features, boxes, (2, 3), 0.25, *rest)
        b = pool(features.transpose(2, 3), turned, (3, 2), 0.25, *rest)
        assert_close(b.transpose(2, 3), a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("entries", [1, 700])
def test_groups_of_boxes_do_not_show(entries, monkeypatch):
    features, boxes = problem(5, (9, 8))
    pools = (
        lambda: roi_pool(features, boxes, 3, 0.25),
        lambda: roi_align(features, boxes, 3, 0.25, 0),
        lambda: roi_align(features, boxes, 3, 0.25),
    )
    whole = [pool() for pool in pools]
    monkeypatch.setattr(module, "ENTRIES", entries)
    for pool, expected in zip(pools, whole, strict=True):
        assert_close(pool(), expected, rtol=0, atol=1e-12)


# Levels -----------------------------------------------------------------------


def square(*sizes, dtype=torch.float32):
    return torch.tensor([[3.0, 5.0, 3.0 + s, 5.0 + s] for s in sizes], dtype=dtype)


def test_levels_change_at_powers_of_two_of_the_canonical_size():
    """The paper: 224 pixels at level 4; half of that, one level finer."""
    levels = assign_levels(square(0, 1, 55, 56, 111, 112, 223, 224, 447, 448, 9000), [4, 8, 16, 32])
    assert levels.tolist() == [4, 4, 4, 4, 4, 8, 8, 16, 16, 32, 32]
    assert levels.dtype == torch.int64
    long = torch.tensor([[0.0, 0.0, 896.0, 56.0]])  # the area counts: 224 squared
    assert assign_levels(long, [4, 8, 16, 32]).tolist() == [16]
    below = torch.nextafter(torch.tensor(224.0), torch.tensor(0.0))
    edge = torch.stack([torch.tensor(0.0), torch.tensor(0.0), below, below])
    assert assign_levels(edge, [4, 8, 16, 32]).item() == 8  # nothing is added before the floor


def test_levels_of_another_pyramid():
    assert assign_levels(square(10, 31, 32, 64, 500), [8, 16, 32], 32, 8).tolist() == [
        *(8, 8, 8, 16, 32)
    ]
    assert assign_levels(square(10, 900), [16]).tolist() == [16, 16]
    assert assign_levels(torch.zeros(2, 0, 4), [4, 8]).shape == (2, 0)
    assert assign_levels(square(448, dtype=torch.float16), [4, 8, 16, 32, 64]).tolist() == [32]


def test_the_pyramid_takes_each_box_from_its_map_in_the_order_of_the_boxes():
    generator = torch.Generator().manual_seed(0)
    features = {
        s: torch.randn(3, 2, 64 // s, 64 // s, generator=generator, dtype=torch.float64)
        for s in (4, 8, 16)
    }
    boxes = [square(30, 3, 12, 61, dtype=torch.float64), torch.zeros(0, 4), square(20, 9, 50)]
    out = pyramid_roi_align(features, boxes, (3, 2), 0, False, 24, 8)
    row = 0
    for image, own in enumerate(boxes):
        for box in own:
            size = float(box[2] - box[0])
            stride = 4 if size < 24 else 8 if size < 48 else 16
            alone = features[stride][image : image + 1]
            expected = roi_align(alone, [box[None]], (3, 2), 1 / stride, 0, False)
            assert_close(out[row : row + 1], expected, rtol=0, atol=1e-12)
            row += 1
    assert row == len(out) == 7


def test_the_pyramid_passes_a_gradient_to_the_maps_that_were_used():
    features = {s: torch.randn(1, 2, 64 // s, 64 // s, requires_grad=True) for s in (4, 8, 16)}
    pyramid_roi_align(features, [square(10, 60)], 2, canonical_size=24).sum().backward()
    assert features[4].grad.any() and features[16].grad is not None
    assert features[8].grad is None or not features[8].grad.any()
    for x in features.values():
        x.grad = None
    pyramid_roi_align(features, [torch.zeros(0, 4)], 2).sum().backward()  # nothing to find
    assert all(not x.grad.any() for x in features.values())


# Gradient ---------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient_of_align(ratio, aligned):
    features, boxes = problem(2, (2, 1), 2, (4, 5))
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, boxes, (2, 3), 0.25, ratio, aligned), features
    )


def test_gradient_of_pool():
    features, boxes = problem(2, (2, 1), 2, (4, 5))
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, boxes, (2, 3), 0.25), features)


def test_among_equal_cells_the_first_in_reading_order_gets_the_gradient():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    roi_pool(x, [torch.tensor([[0.0, 1.0, 3.0, 3.0]])], 1, 1.0).sum().backward()
    assert x.grad.nonzero().tolist() == [[0, 0, 1, 0]]


def test_boxes_get_no_gradient():
    features, (boxes, *_) = problem(0, (3,))
    features.requires_grad_()
    boxes.requires_grad_()
    for pool in (roi_pool, roi_align):
        pool(features, [boxes], 2, 0.25).sum().backward()
        assert boxes.grad is None and features.grad.any()


# Edges ------------------------------------------------------------------------


def test_rounding_takes_halves_away_from_zero():
    """torch.round would take 2.5 to 2 and the box to cells 0 to 2."""
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    box = torch.tensor([[0.5, 0.0, 2.5, 5.0]])
    assert roi_pool(ramp, [box], (1, 1), 1.0).item() == 3
    assert roi_pool(-ramp, [box], (1, 1), 1.0).item() == -1  # 0.5 goes to 1, not to 0
    outside = torch.tensor([[-2.5, 0.0, -0.5, 0.0]])  # cells -3 to -1
    assert roi_pool(ramp + 1, [outside], 1, 1.0).item() == 0
    near = torch.tensor([[0.49999997, 0.0, 0.49999997, 0.0]])  # plus 1/2 is 1 in float32
    assert roi_pool(ramp, [near], 1, 1.0).item() == 0


def test_samples_outside_the_map():
    """Up to -1 and H, ends included, the value of the border; farther out 0."""
    ones = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    step = 2.0**-20
    at = torch.tensor([-1 - step, -1, -0.5, 0, 3, 3.5, 4, 4 + step], dtype=torch.float64) + 0.5
    middle = torch.full_like(at, 2)
    for columns in ((at, middle), (middle, at)):
        x, y = columns
        points = torch.stack([x, y, x, y], 1)  # no width: samples at a point
        assert roi_align(ones, [points], 1, 1.0, 1).flatten().tolist() == [0, 1, 1, 1, 1, 1, 1, 0]


def test_boxes_without_width():
    features, _ = problem(0, (1,))
    point = torch.tensor([[8.0, 12.0, 8.0, 12.0]], dtype=torch.float64)  # (2, 3) on the map
    corner = features[0, :, 2:4, 1:3].mean((1, 2))  # it is where four cells meet
    out = roi_align(features, [point], 3, 0.25)
    assert_close(out, corner[None, :, None, None].expand(1, -1, 3, 3))
    assert not roi_align(features, [point], 3, 0.25, 0).any()
    grown = torch.tensor([[8.0, 12.0, 12.0, 16.0]], dtype=torch.float64)
    a, b = (roi_align(features, [box], 3, 0.25, 2, False) for box in (point, grown))
    assert_close(a, b)  # one cell wide
    assert_close(roi_pool(features, [point], 3, 0.25), features[:, :, 3:4, 2:3].expand(1, -1, 3, 3))


def test_boxes_far_outside_give_zeros_and_no_gradient():
    x = torch.ones(1, 2, 4, 4, requires_grad=True)
    far = torch.tensor([[1e4, 1e4, 1e4 + 50, 1e4 + 50], [-900.0, 0.0, -800.0, 9.0]])
    for out in (
        roi_pool(x, [far], 3, 1.0),
        roi_align(x, [far], 3, 1.0),
        roi_align(x, [far], 3, 1.0, 0),
    ):
        assert out.shape == (2, 2, 3, 3) and not out.any()
        assert not torch.autograd.grad(out.sum(), x)[0].any()
    huge = torch.tensor([[-1e30, -1e30, 1e30, 1e30]])
    assert roi_pool(x, [huge], 1, 1.0).flatten().tolist() == [1, 1]
    assert roi_align(x, [huge], 1, 1.0, 1).isfinite().all()


def test_a_box_much_larger_than_the_map_needs_little_memory():
    """Adaptive: two thousand samples along each axis, merged on the four cells of the map."""
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    out = roi_align(x, [torch.tensor([[-1000.0, -1000.0, 1000.0, 1000.0]])], 1, 1.0, 0)
    assert_close(out.item(), (6 / 2000) ** 2)  # at -1, 0, ..., 4


@pytest.mark.parametrize("counts", [(), (0,), (0, 0)], ids=str)
def test_no_boxes(counts):
    features, boxes = problem(0, counts)
    features = features.requires_grad_()
    for pool in (roi_pool, roi_align):
        out = pool(features, boxes, (2, 3), 0.25)
        assert out.shape == (0, 2, 2, 3) and out.dtype == features.dtype
        out.sum().backward()
        assert not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision_computes_in_float32(dtype):
    features, boxes = problem(12, (6, 7), scale=0.3)
    x = features.to(dtype).requires_grad_()
    coarse = [b.to(dtype) for b in boxes]
    for pool in (roi_pool, roi_align):
        for own in (coarse, [b.float() for b in coarse]):
            out = pool(x, own, 3, 0.3)
            expected = pool(x.detach().float(), [b.float() for b in coarse], 3, 0.3)
            assert out.dtype == dtype and torch.equal(out, expected.to(dtype))
        out.sum().backward()
        assert x.grad.dtype == dtype and x.grad.isfinite().all()


def test_layout_and_arguments_are_left_alone():
    features, boxes = problem(3)
    copies = features.clone(), [b.clone() for b in boxes]
    strided = features.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    double = [b.repeat_interleave(2, 0)[::2] for b in boxes]
    for pool in (roi_pool, roi_align):
        expected = pool(features, boxes, 2, 0.25)
        assert expected.is_contiguous()
        assert torch.equal(pool(strided, double, 2, 0.25), expected)
    assert torch.equal(features, copies[0])
    assert all(torch.equal(a, b) for a, b in zip(boxes, copies[1], strict=True))


def test_a_number_is_a_square():
    features, boxes = problem(3)
    for pool in (roi_pool, roi_align):
        a, b = (pool(features, boxes, size, 0.25) for size in (3, (3, 3)))
        assert torch.equal(a, b)


# Bad input ----------------------------------------------------------------------

X, BOX = torch.zeros(1, 2, 4, 4), torch.tensor([[0.0, 0.0, 2.0, 2.0]])
BAD = {
    "no batch": ((X[0], [BOX], 2, 1.0), r"floating \(B, C, H, W\).* got .*\(2, 4, 4\)"),
    "integers": ((X.long(), [BOX], 2, 1.0), "floating .* got torch.int64"),
    "empty map": ((X[..., :0], [BOX], 2, 1.0), r"not empty, got .*\(1, 2, 4, 0\)"),
    "a tensor of boxes": ((X, BOX, 2, 1.0), r"a list, .* got a tensor \(1, 4\)"),
    "number of images": ((X, [BOX, BOX], 2, 1.0), "of 1 images, boxes of 2"),
    "axes": ((X, [BOX[None]], 2, 1.0), r"boxes\[0\] must be \(n, 4\), got \(1, 1, 4\)"),
    "format": ((X, [BOX[:, :3]], 2, 1.0), r"boxes\[0\] must be .* got \(1, 3\)"),
    "dtype": ((X, [BOX.long()], 2, 1.0), r"boxes\[0\] must be floating, got torch.int64"),
    "negative size": ((X, [-BOX], 2, 1.0), r"x1 <= x2 .* got \[-0.0, -0.0, -2.0, -2.0\]"),
    "nan": ((X, [BOX * math.nan], 2, 1.0), r"finite .* got \[nan"),
    "device": ((X, [BOX.to("meta")[:0]], 2, 1.0), r"on cpu, boxes\[0\] on meta"),
    "no bins": ((X, [BOX], (2, 0), 1.0), r"output_size must be positive, got \(2, 0\)"),
    "scale": ((X, [BOX], 2, 0.0), "scale must be positive and finite, got 0.0"),
}


@pytest.mark.parametrize("pool", [roi_pool, roi_align])
@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        pool(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BOX.long(), [4]), "boxes_xyxy must be floating, got torch.int64"),
        ((BOX, []), r"each twice the last, got \[\]"),
        ((BOX, [4, 16]), r"each twice the last, got \[4, 16\]"),
        ((BOX, [3, 6]), r"powers of two, .* got \[3, 6\]"),
        ((BOX, [4], 0.0), "canonical_size must be positive and finite, got 0.0"),
        ((BOX, [4], 224.0, 12), "canonical_stride must be a power of two, got 12"),
    ],
    ids=["boxes", "none", "gap", "not powers", "size", "stride"],
)
def test_bad_levels(arguments, message):
    with pytest.raises(ValueError, match=message):
        assign_levels(*arguments)


@pytest.mark.parametrize(
    ("features", "boxes", "message"),
    [
        ({4: X, 8: X[:, :1]}, [BOX], r"one C .* 8: torch.float32 \(1, 1, 4, 4\)"),
        ({4: X, 8: X.double()}, [BOX], r"8: torch.float64 \(1, 2, 4, 4\)"),
        ({}, [BOX], "at least one map, got none"),
        ({8: X, 4: X}, [BOX], r"got \[8, 4\]"),
        ({4: X}, [BOX, BOX], "of 1 images, boxes of 2"),
        ({4: X}, BOX, r"a list, .* got a tensor \(1, 4\)"),
    ],
    ids=["channels", "dtype", "no maps", "order", "images", "tensor"],
)
def test_bad_pyramid(features, boxes, message):
    with pytest.raises(ValueError, match=message):
        pyramid_roi_align(features, boxes, 2)
