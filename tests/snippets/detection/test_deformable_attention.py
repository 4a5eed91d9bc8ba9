"""Deformable attention: transformers and plain loops, invariants, gradient, bad input.

Yardstick:
    transformers.models.deformable_detr.modeling_deformable_detr.DeformableDetrMultiscaleDeformableAttention;
    plain loops.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrEncoder,
    DeformableDetrMultiscaleDeformableAttention,
)

from snippets.detection.deformable_attention import (
    DeformableAttention,
    cell_centers,
    sample_points,
    sampling_locations,
)

seeds = st.integers(0, 2**32 - 1)
NO_BACKBONE = dict(use_timm_backbone=False, backbone_config=None)
SIZES = [(5, 7), (3, 4), (1, 2)]


def layer(width=12, heads=3, levels=3, points=2, seed=0):
    """With weights that matter; offsets of a few cells."""
    generator = torch.Generator().manual_seed(seed)
    attention = DeformableAttention(width, heads, levels, points).double()
    for parameter in attention.parameters():
        with torch.no_grad():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return attention


def inputs(batch=2, n=4, width=12, coordinates=2, sizes=SIZES, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, of=torch.randn):
        return of(shape, generator=generator, dtype=torch.float64).requires_grad_()

    maps = [draw(batch, width, h, w) for h, w in sizes]
    return draw(batch, n, width), draw(batch, n, coordinates, of=torch.rand), maps


def bilinear(plane, x, y):
    """Of one map (h, w) at a point in cells, where cell (0, 0) has its centre at (0.5, 0.5)."""
    total = 0.0
    for i in (math.floor(y - 0.5), math.floor(y - 0.5) + 1):
        for j in (math.floor(x - 0.5), math.floor(x - 0.5) + 1):
            if 0 <= i < plane.shape[0] and 0 <= j < plane.shape[1]:
                share = (1 - abs(y - 0.5 - i)) * (1 - abs(x - 0.5 - j))
                total += share * float(plane[i, j])
    return total


# Parity ---------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", [2, 4], ids=["points", "boxes"])
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1]], ids=["three levels", "one level"])
def test_equals_transformers(coordinates, sizes):
    ours = layer(levels=len(sizes))
    config = DeformableDetrConfig(d_model=12, num_feature_levels=len(sizes), **NO_BACKBONE)
    theirs = DeformableDetrMultiscaleDeformableAttention(config, num_heads=3, n_points=2).double()
    theirs.load_state_dict(ours.state_dict())  # the authors' names
    queries, references, maps = inputs(coordinates=coordinates, sizes=sizes)
    found = ours(queries, references, maps)
    expected, weights = theirs(
        queries,
        encoder_hidden_states=torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1),
        reference_points=references[:, :, None].expand(-1, -1, len(sizes), -1),
        spatial_shapes=torch.tensor(sizes),
        spatial_shapes_list=sizes,
    )
    assert found.shape == (2, 4, 12)
    assert_close(found, expected, rtol=1e-10, atol=1e-11)
    assert_close(ours.where(queries, references, sizes)[1], weights)
    upstream = torch.randn(found.shape, dtype=torch.float64)
    own = torch.autograd.grad(found, [queries, references, *maps, *ours.parameters()], upstream)
    wanted = [queries, references, *maps]
    wanted += [theirs.get_parameter(name) for name, _ in ours.named_parameters()]
    for x, y in zip(own, torch.autograd.grad(expected, wanted, upstream), strict=True):
        assert_close(x, y, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("coordinates", [2, 4], ids=["points", "boxes"])
def test_equals_the_definition(coordinates):
    """Eq. (3), one number at a time."""
    attention = layer()
    queries, references, maps = inputs(batch=1, n=2, coordinates=coordinates)
    heads, points, width = 3, 2, 4
    out = torch.zeros(2, 12, dtype=torch.float64)
    with torch.no_grad():
        for q in range(2):
            offsets = attention.sampling_offsets(queries[0, q]).view(heads, 3, points, 2)
            scores = attention.attention_weights(queries[0, q]).view(heads, 3 * points)
            p = [float(x) for x in references[0, q]]
            for m in range(heads):
                rows = slice(m * width, (m + 1) * width)
                total = torch.zeros(width, dtype=torch.float64)
                weights = (scores[m].exp() / scores[m].exp().sum()).view(3, points)
                for level, x in enumerate(maps):
                    h, w = x.shape[2:]
                    value = torch.einsum("dc,chw->dhw", attention.value_proj.weight[rows], x[0])
                    value += attention.value_proj.bias[rows, None, None]
                    for k in range(points):
                        dx, dy = (float(z) for z in offsets[m, level, k])
                        if coordinates == 2:
                            at = p[0] * w + dx, p[1] * h + dy
                        else:  # in half sides of the box
                            at = (
                                (p[0] + dx / points * p[2] / 2) * w,
                                (p[1] + dy / points * p[3] / 2) * h,
                            )
                        found = [bilinear(value[d], *at) for d in range(width)]
                        found = torch.tensor(found, dtype=torch.float64)
                        total += float(weights[level, k]) * found
                out[q] += attention.output_proj.weight[:, rows] @ total
            out[q] += attention.output_proj.bias
    assert_close(attention(queries, references, maps)[0], out, rtol=1e-10, atol=1e-11)


def test_cell_centers_equal_transformers():
    sizes = [(3, 5), (2, 1)]
    ratios = torch.ones(1, 2, 2)
    expected = DeformableDetrEncoder.get_reference_points(sizes, ratios, "cpu")[0, :, 0]
    assert_close(cell_centers(sizes), expected)


def test_starts_as_transformers_does():
    config = DeformableDetrConfig(
        d_model=16, num_feature_levels=2, encoder_layers=1, encoder_n_points=3, **NO_BACKBONE
    )
    theirs = DeformableDetrEncoder(config).layers[0].self_attn
    ours = DeformableAttention(16, 8, 2, 3)
    for name in ("sampling_offsets", "attention_weights"):
        assert_close(ours.get_parameter(f"{name}.weight"), theirs.get_parameter(f"{name}.weight"))
        assert_close(ours.get_parameter(f"{name}.bias"), theirs.get_parameter(f"{name}.bias"))


# Invariants -----------------------------------------------------------------


def test_at_first_all_points_have_the_same_weight():
    attention = DeformableAttention(8, 2, 3, 4)
    _, weights = attention.where(torch.randn(1, 5, 8), torch.rand(1, 5, 2), SIZES)
    assert_close(weights, torch.full((1, 5, 2, 3, 4), 1 / 12))


@given(seed=seeds)
def test_weights_are_shares(seed):
    queries, references, _ = inputs(seed=seed)
    _, weights = layer(seed=seed).where(queries, references, SIZES)
    assert (weights > 0).all()
    assert_close(weights.sum((3, 4)), torch.ones(2, 4, 3, dtype=torch.float64))


@given(seed=seeds)
def test_a_constant_map_gives_its_value_wherever_one_looks_inside(seed):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.full((1, 2, 3, h, w), 5.0, dtype=torch.float64) for h, w in [(8, 8), (4, 6)]]
    locations = 0.2 + 0.6 * torch.rand(1, 4, 2, 2, 3, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 4, 2, 2, 3, generator=generator, dtype=torch.float64)
    out = sample_points(maps, locations, weights)
    expected = 5 * weights.sum((3, 4)).repeat_interleave(3, dim=2)
    assert_close(out, expected)


@given(seed=seeds)
def test_a_ramp_gives_the_position(seed):
    """Interpolation between centres at 0.5, 1.5, …, which align_corners=True would not have."""
    generator = torch.Generator().manual_seed(seed)
    h, w = 6, 9
    x = (torch.arange(w).double() + 0.5).expand(h, w)
    y = (torch.arange(h).double() + 0.5)[:, None].expand(h, w)
    maps = [torch.stack([x, y])[None, None]]  # (1, 1, 2, h, w)
    locations = 0.1 + 0.8 * torch.rand(1, 5, 1, 1, 1, 2, generator=generator).double()
    out = sample_points(maps, locations, torch.ones(1, 5, 1, 1, 1, dtype=torch.float64))
    assert_close(out[0], locations[0, :, 0, 0, 0] * torch.tensor([w, h]))


def test_offsets_count_cells_of_their_own_map():
    references = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64)
    offsets = torch.zeros(1, 1, 1, 2, 1, 2, dtype=torch.float64)
    offsets[..., 0], offsets[..., 1] = 1, 2
    found = sampling_locations(references, offsets, [(4, 8), (2, 5)])[0, 0, 0, :, 0]
    expected = [[0.5 + 1 / 8, 0.5 + 2 / 4], [0.5 + 1 / 5, 0.5 + 2 / 2]]
    assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_with_boxes_the_first_points_stay_within_the_half_sides():
    references = torch.tensor([[[0.4, 0.6, 0.2, 0.5]]])
    locations, _ = DeformableAttention(8, 8, 2, 4).where(torch.zeros(1, 1, 8), references, SIZES)
    away = (locations[0, 0] - references[0, 0, :2]).abs()  # (M, L, K, 2)
    assert_close(away.amax((0, 1, 2)), torch.tensor([0.1, 0.25]))


def test_outside_the_map_is_nothing():
    maps = [torch.ones(1, 1, 1, 4, 4)]
    locations = torch.tensor([[-0.2, 0.5], [0.5, 1.2], [0.0, 0.5]]).view(1, 3, 1, 1, 1, 2)
    out = sample_points(maps, locations, torch.ones(1, 3, 1, 1, 1))
    assert_close(out.flatten(), torch.tensor([0.0, 0.0, 0.5]))  # on the border: half of it


def test_queries_do_not_see_one_another():
    attention, (queries, references, maps) = layer(), inputs()
    order = torch.tensor([2, 0, 3, 1])
    before, after = (
        attention(queries, references, maps),
        attention(queries[:, order], references[:, order], maps),
    )
    assert_close(after, before[:, order])
    assert_close(attention(queries[1:], references[1:], [x[1:] for x in maps]), before[1:])


def test_same_seed_same_weights():
    first, second = (
        DeformableAttention(8, 2, 2, 2, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first.value_proj.weight, second.value_proj.weight)
    assert first.value_proj.weight.abs().max() <= math.sqrt(6 / 16)


# Gradient, edges ------------------------------------------------------------


@pytest.mark.parametrize("coordinates", [2, 4], ids=["points", "boxes"])
def test_gradient(coordinates):
    attention = layer(width=4, heads=2, levels=2)
    queries, references, maps = inputs(1, 2, 4, coordinates, SIZES[:2])
    assert torch.autograd.gradcheck(
        lambda q, r, *maps: attention(q, r, maps), (queries, references, *maps)
    )


@pytest.mark.parametrize(("batch", "n"), [(0, 3), (2, 0)])
def test_nothing_to_do(batch, n):
    assert layer()(*inputs(batch, n)).shape == (batch, n, 12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    queries, references, maps = inputs()
    attention = layer().to(dtype)
    given = queries.to(dtype), references.to(dtype), [x.to(dtype) for x in maps]
    out = attention(*given)
    assert out.dtype == dtype
    exact = attention.double()(given[0].double(), given[1].double(), [x.double() for x in given[2]])
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.2, torch.float32: 1e-4}[dtype]
    assert_close(out.double(), exact, rtol=tolerance, atol=tolerance)


def test_points_are_placed_in_float32():
    """bfloat16 has steps of 1/256 below 1: a map of 1000 cells would have holes."""
    x = torch.arange(1000).float().expand(1, 1, 1, 1, 1000)
    offsets = torch.arange(8.0).view(1, 8, 1, 1, 1, 1).expand(-1, -1, -1, -1, -1, 2).bfloat16()
    references = torch.full((1, 8, 2), 0.75).bfloat16()
    locations = sampling_locations(references, 0 * offsets + offsets, [(1, 1000)])
    assert locations.dtype == torch.float32
    centered = torch.stack([locations[..., 0], torch.full_like(locations[..., 0], 0.5)], dim=-1)
    out = sample_points([x], centered, torch.ones(1, 8, 1, 1, 1))
    assert_close(out.flatten(), 749.5 + torch.arange(8.0))


def test_input_that_is_not_contiguous():
    queries, references, maps = inputs()
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in maps]
    thin = torch.stack([queries, queries], dim=-1)[..., 0]
    attention = layer()
    assert_close(attention(thin, references, turned), attention(queries, references, maps))


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(queries=torch.zeros(2, 4, 11)), r"\(B, N, 12\), got \(2, 4, 11\)"),
        (dict(references=torch.zeros(2, 3, 2)), r"got \(2, 3, 2\)"),
        (dict(references=torch.zeros(2, 4, 3)), r"2 or 4 numbers, got \(2, 4, 3\)"),
        (dict(maps=[torch.zeros(2, 12, 3, 3)]), "maps must be 3, got 1"),
        (dict(maps=[torch.zeros(1, 12, 3, 3)] * 3), r"got \(1, 12, 3, 3\)"),
        (dict(maps=[torch.zeros(2, 8, 3, 3)] * 3), r"\(2, 12, h, w\), got \(2, 8, 3, 3\)"),
        (dict(maps=[torch.zeros(2, 12, 0, 3)] * 3), r"got \(2, 12, 0, 3\)"),
    ],
)
def test_bad_input(change, message):
    good = dict(zip(("queries", "references", "maps"), inputs(), strict=True))
    with pytest.raises(ValueError, match=message):
        layer()(**(good | change))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(heads=0), "got 12, 0, 4, 4"),
        (dict(points=0), "got 12, 8, 4, 0"),
        (dict(heads=5), "multiple of heads, got 12, 5"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        DeformableAttention(**dict(width=12) | sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(locations=torch.zeros(1, 2, 1, 1, 3)), r"got \(1, 2, 1, 1, 3\)"),
        (dict(weights=torch.zeros(1, 2, 1, 1, 4)), r"got \(1, 2, 1, 1, 4\) and \(1, 2, 1, 1, 3"),
        (dict(maps=[torch.zeros(1, 1, 2, 3, 3)] * 2), r"maps must be 1 of \(1, 1, D, h, w\)"),
        (dict(maps=[torch.zeros(1, 2, 2, 3, 3)]), r"got \[\(1, 2, 2, 3, 3\)\]"),
    ],
)
def test_bad_samples(change, message):
    good = dict(maps=[torch.zeros(1, 1, 2, 3, 3)], locations=torch.zeros(1, 2, 1, 1, 3, 2))
    good |= dict(weights=torch.zeros(1, 2, 1, 1, 3))
    sample_points(**good)
    with pytest.raises(ValueError, match=message):
        sample_points(**(good | change))
