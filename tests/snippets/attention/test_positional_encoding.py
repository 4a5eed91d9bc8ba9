"""Positional encodings: parity, invariants, gradient, edges, bad input.

Yardstick: plain loops; torch.nn.functional.scaled_dot_product_attention.
"""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets.attention.positional_encoding import (
    LearnedPositions,
    alibi_bias,
    alibi_slopes,
    halves_order,
    position_angles,
    relative_positions,
    rope,
    shaw_bias,
    shaw_output,
    sinusoidal,
    t5_bias,
    t5_buckets,
)

sizes = st.integers(1, 5)
widths = st.integers(1, 4).map(lambda half: 2 * half)
seeds = st.integers(0, 2**32 - 1)
places = st.integers(-50, 5000)
bases = st.sampled_from([2.0, 100.0, 10000.0, 500000.0])
PAIRS = ["adjacent", "halves"]


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def run_with_gradients(function, inputs):
    """The output, and the gradients of a fixed random functional of it."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    probe = randn(*out.shape, seed=1)
    return [out, *torch.autograd.grad(out, inputs, probe, materialize_grads=True)]


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def partner(c, d, pairs):
    """Which two components turn together, and how fast: (first, second, index of the pair)."""
    if pairs == "adjacent":
        return 2 * c, 2 * c + 1, c
    return c, c + d // 2, c


def rope_by_complex_numbers(x, positions, base, pairs):
    """Each pair a + bi times e^(i·m·θ), one number at a time; x is (N, D)."""
    rows, d = [], x.shape[1]
    for n, m in enumerate(positions):
        row = [None] * d
        for c in range(d // 2):
            first, second, i = partner(c, d, pairs)
            turned = torch.complex(x[n, first], x[n, second])
            turned = turned * cmath.exp(1j * m * base ** (-2 * i / d))
            row[first], row[second] = turned.real, turned.imag
        rows.append(torch.stack(row))
    return torch.stack(rows)


def shaw_by_definition(q, k, v, key_table, value_table, mask):
    """Eqs. (3) to (5) for 2-D inputs, with w_K = key_table, w_V = value_table, by loops."""
    n, m, clip = len(q), len(k), len(key_table) // 2
    rows = []
    for i in range(n):
        place = m - n + i  # queries are the last n positions
        seen = [j for j in range(m) if mask[i, j]]
        at = {j: max(-clip, min(clip, j - place)) + clip for j in seen}
        e = [(q[i] * (k[j] + key_table[at[j]])).sum() / math.sqrt(q.shape[1]) for j in seen]
        total = sum(x.exp() for x in e)
        parts = [
            x.exp() / total * (v[j] + value_table[at[j]]) for x, j in zip(e, seen, strict=True)
        ]
        rows.append(sum(parts))
    return torch.stack(rows)


def shaw_by_snippet(q, k, v, key_table, value_table, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + shaw_bias(q, key_table, k.shape[-2])
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return weights @ v + shaw_output(weights, value_table)


def t5_by_definition(relative, bidirectional, n_buckets, max_distance):
    """Raffel et al.'s buckets as their code has them, by a logarithm; 1e-9 absorbs its rounding."""
    first = 0
    if bidirectional:
        n_buckets //= 2
        first = n_buckets if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    near = n_buckets // 2
    if distance < near:
        return first + distance
    grown = math.log(distance / near) / math.log(max_distance / near) * (n_buckets - near)
    return first + min(near + math.floor(grown + 1e-9), n_buckets - 1)


def alibi_by_recursion(heads):
    """The rule of the authors' repository: half-way slopes come from twice as many heads."""
    if heads & (heads - 1) == 0:
        ratio = 2 ** (-8 / heads)  # also the first slope
        return [ratio * ratio**h for h in range(heads)]
    lower = max(p for p in (1, 2, 4, 8, 16, 32, 64) if p < heads)
    return alibi_by_recursion(lower) + alibi_by_recursion(2 * lower)[::2][: heads - lower]


# Parity ---------------------------------------------------------------------


@given(st.lists(places, min_size=1, max_size=4), widths, bases)
def test_sinusoidal_equals_the_definition(positions, d, base):
    expected = []
    for pos in positions:
        row = []
        for i in range(d // 2):
            row += [math.sin(pos / base ** (2 * i / d)), math.cos(pos / base ** (2 * i / d))]
        expected.append(row)
    actual = sinusoidal(torch.tensor(positions), d, base, torch.float64)
    assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pairs", PAIRS)
@given(st.lists(places, min_size=1, max_size=3), widths, bases, seeds)
def test_rope_equals_complex_multiplication(pairs, positions, d, base, seed):
    x = randn(len(positions), d, seed=seed)
    assert_all_close(
        run_with_gradients(lambda x: rope(x, torch.tensor(positions), base, pairs), [x]),
        run_with_gradients(lambda x: rope_by_complex_numbers(x, positions, base, pairs), [x]),
    )


@pytest.mark.parametrize("pairs", PAIRS)
def test_rope_equals_the_rotation_matrix(pairs):
    """RoFormer, section 3.2.2: a matrix with one 2 × 2 rotation for each pair."""
    x, m, d = randn(6), 3, 6
    matrix = torch.zeros(d, d, dtype=torch.float64)
    for c in range(d // 2):
        a, b, i = partner(c, d, pairs)
        angle = m * 10000 ** (-2 * i / d)
        matrix[a, a] = matrix[b, b] = math.cos(angle)
        matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    assert_all_close([rope(x[None], torch.tensor([m]), pairs=pairs)[0]], [matrix @ x])


@given(n=sizes, past=st.integers(0, 3), d=sizes, e=sizes, clip=st.integers(0, 3), seed=seeds)
def test_shaw_equals_the_definition(n, past, d, e, clip, seed):
    m = n + past
    shapes = [(n, d), (m, d), (m, e), (2 * clip + 1, d), (2 * clip + 1, e)]
    inputs = [0.7 * randn(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    causal = relative_positions(n, m) <= 0
    for mask in (torch.ones(n, m, dtype=torch.bool), causal):
        assert_all_close(
            run_with_gradients(lambda *x, mask=mask: shaw_by_snippet(*x, mask), inputs),
            run_with_gradients(lambda *x, mask=mask: shaw_by_definition(*x, mask), inputs),
        )


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("n", "far"), [(32, 128), (8, 20), (9, 50), (320, 800), (6, 4), (5, 9)])
def test_t5_buckets_equal_the_definition(bidirectional, n, far):
    relative = torch.arange(-1000, 1001)
    expected = [t5_by_definition(r, bidirectional, n, far) for r in relative.tolist()]
    assert t5_buckets(relative, bidirectional, n, far).tolist() == expected


def test_t5_bias_by_loops():
    table = 0.5 * randn(8, 3)
    relative = relative_positions(4, 6)
    expected = torch.stack(
        [
            torch.stack([table[t5_by_definition(r, False, 8, 20), h] for r in row.tolist()])
            for h in range(3)
            for row in relative
        ]
    ).view(3, 4, 6)
    assert_all_close([t5_bias(table, relative, False, 20)], [expected])
    both = t5_bias(table, relative, max_distance=20)[:, 0]  # query 2 of 6
    assert_close(both[1], table[[t5_by_definition(j - 2, True, 8, 20) for j in range(6)], 1])


@pytest.mark.parametrize("heads", range(1, 41))
def test_alibi_slopes_equal_the_recursion(heads):
    slopes = alibi_slopes(heads, torch.float64)
    assert slopes.shape == (heads,)
    expected = torch.tensor(alibi_by_recursion(heads), dtype=torch.float64)
    assert_close(slopes, expected, rtol=1e-12, atol=0)


def test_alibi_slopes_of_the_paper():
    assert alibi_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]
    assert_close(alibi_slopes(16)[:2], torch.tensor([2**-0.5, 0.5]))
    assert alibi_slopes(16).tolist()[-1] == 2.0**-8


@pytest.mark.parametrize(("n", "m"), [(4, 4), (2, 5), (5, 2), (1, 3)])
def test_alibi_bias_by_loops(n, m):
    bias = alibi_bias(12, n, m, torch.float64)
    assert bias.shape == (12, n, m)
    for h, slope in enumerate(alibi_by_recursion(12)):
        for i in range(n):
            for j in range(m):
                assert math.isclose(bias[h, i, j], -slope * abs(j - (m - n + i)), rel_tol=1e-12)


def test_alibi_under_a_causal_mask_equals_the_authors_rows():
    """Their code adds slope · j, the same row for every query: the softmax sees no difference."""
    q, k, v = randn(3, 2, 4, 6, 8).unbind()
    causal = relative_positions(6, 6) <= 0
    rows = alibi_slopes(4, torch.float64)[:, None, None] * torch.arange(6)
    a, b = (
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(~causal, -torch.inf))
        for bias in (alibi_bias(4, 6, 6, torch.float64), rows)
    )
    assert_all_close([a], [b])


# The two conventions of RoPE --------------------------------------------------


@given(widths, st.lists(places, min_size=1, max_size=4), bases, seeds)
def test_the_permutation_maps_one_convention_to_the_other(d, positions, base, seed):
    x, where, order = randn(len(positions), d, seed=seed), torch.tensor(positions), halves_order(d)
    adjacent = rope(x, where, base, "adjacent")
    halves = rope(x[:, order], where, base, "halves")
    assert torch.equal(halves, adjacent[:, order])
    assert torch.equal(halves[:, order.argsort()], adjacent)
    if d > 2:
        assert not torch.equal(order, torch.arange(d))


def test_halves_order():
    assert halves_order(8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_permuted_projections_keep_every_score():
    """What a converter of checkpoints does: rows of the query and key weights, head by head."""
    x, where = randn(5, 12), torch.arange(5)
    w_q, w_k = randn(2, 3, 4, 12, seed=1).unbind()  # each (H, D, C)
    scores = []
    for pairs, rows in (("adjacent", slice(None)), ("halves", halves_order(4))):
        q, k = (rope(x @ w[:, rows].mT, where, pairs=pairs) for w in (w_q, w_k))
        scores.append(q @ k.mT)
    assert_all_close(scores[:1], scores[1:])
    q, k = (rope(x @ w.mT, where, pairs="halves") for w in (w_q, w_k))
    assert not torch.allclose(q @ k.mT, scores[0])  # without it, another function


# Invariants -----------------------------------------------------------------


@pytest.mark.parametrize("pairs", PAIRS)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(-400, 4000), widths, seeds)
def test_rope_scores_depend_on_the_difference_only(pairs, i, j, shift, d, seed):
    q, k = randn(2, 1, d, seed=seed).unbind()

    def score(i, j):
        a, b = rope(q, torch.tensor([i]), pairs=pairs), rope(k, torch.tensor([j]), pairs=pairs)
        return a @ b.T

    assert_close(score(i, j), score(i + shift, j + shift), rtol=1e-9, atol=1e-9)
    assert_close(score(i, j), rope(q, torch.tensor([i - j]), pairs=pairs) @ k.T)


@pytest.mark.parametrize("pairs", PAIRS)
@given(places, places, widths, seeds)
def test_rope_is_a_group_of_rotations(pairs, a, b, d, seed):
    x = randn(1, d, seed=seed)

    def turn(x, m):
        return rope(x, torch.tensor([m]), pairs=pairs)

    assert torch.equal(turn(x, 0), x)
    assert_close(turn(x, a).norm(), x.norm())
    assert_close(turn(turn(x, a), b), turn(x, a + b), rtol=1e-9, atol=1e-9)
    assert_close(turn(turn(x, a), -a), x, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 200), seeds)
def test_rope_can_prefer_any_distance(distance, seed):
    """No decay by itself: a key turned by r wins at distance r, as Cauchy and Schwarz say."""
    q = randn(1, 16, seed=seed)
    k = rope(q, torch.tensor([distance]))
    scores = (rope(q.expand(201, 16), torch.arange(201)) @ k.T)[:, 0]
    assert scores.argmax() == distance
    assert_close(scores.max(), q.square().sum())


@given(places, places, widths, bases)
def test_sinusoidal_of_a_sum_is_a_rotation(pos, shift, d, base):
    """Section 3.5: PE(pos + k) is a linear function of PE(pos), and it does not depend on pos."""
    here, there = sinusoidal(torch.tensor([pos, pos + shift]), d, base, torch.float64)
    swapped = here.view(-1, 2).flip(-1).flatten()  # cosine first: RoPE turns (cos, sin)
    turned = rope(swapped[None], torch.tensor([shift]), base)[0]
    assert_close(turned.view(-1, 2).flip(-1).flatten(), there, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 300), st.integers(0, 300), widths)
def test_product_of_sinusoids_depends_on_the_difference(i, j, d):
    a, b = sinusoidal(torch.tensor([i, j]), d, dtype=torch.float64)
    angles = position_angles(torch.tensor(i - j), d, 10000.0, torch.float64)
    assert_close(a @ b, angles.cos().sum(), rtol=1e-9, atol=1e-9)


def test_biases_depend_on_the_difference_only():
    table = randn(8, 3)
    for bias in (alibi_bias(3, 7, 7), t5_bias(table, relative_positions(7, 7), max_distance=9)):
        assert torch.equal(bias[:, 1:, 1:], bias[:, :-1, :-1])
    q = randn(1, 4).expand(7, 4)  # one query at every position
    bias = shaw_bias(q, randn(5, 4), 7)
    assert_close(bias[1:, 1:], bias[:-1, :-1])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets_never_fall_with_distance_and_use_every_number(bidirectional):
    buckets = t5_buckets(torch.arange(0, -200, -1), bidirectional)
    assert (buckets.diff() >= 0).all()
    both = t5_buckets(torch.arange(-200, 201), bidirectional)
    # A key after the query is at distance 1 or more: bucket 16, its distance 0, stays unused.
    expected = sorted({*range(32)} - {16}) if bidirectional else [*range(32)]
    assert both.unique().tolist() == expected


def test_the_last_t5_bucket_begins_before_max_distance():
    """As in the authors' code: at 91 (encoder) and 113 (decoder), not at 128."""
    for bidirectional, last, start in ((True, 15, 91), (False, 31, 113)):
        near, far = t5_buckets(torch.tensor([1 - start, -start]), bidirectional).tolist()
        assert (near, far) == (last - 1, last)


def test_decoding_with_a_cache_equals_one_pass():
    """The last two of seven queries get the last two rows."""
    q, weights = randn(3, 7, 4), randn(3, 7, 7).softmax(-1)
    table, t5 = randn(5, 4), randn(8, 2)
    assert_all_close([shaw_bias(q[:, 5:], table, 7)], [shaw_bias(q, table, 7)[:, 5:]])
    assert_all_close([shaw_output(weights[:, 5:], table)], [shaw_output(weights, table)[:, 5:]])
    assert torch.equal(alibi_bias(2, 2, 7), alibi_bias(2, 7, 7)[:, 5:])
    part, whole = (t5_bias(t5, relative_positions(n, 7), max_distance=9) for n in (2, 7))
    assert torch.equal(part, whole[:, 5:])
    x = randn(7, 8)
    assert torch.equal(rope(x[5:], torch.arange(5, 7)), rope(x, torch.arange(7))[5:])


def test_batched_equals_single():
    x, table = randn(2, 3, 4, 6), randn(5, 6)
    positions = torch.tensor([[0, 1, 2, 3], [7, 5, 9, 0]])[:, None]  # (B, 1, N)
    weights = randn(2, 3, 4, 4).softmax(-1)
    whole = rope(x, positions), shaw_bias(x, table, 4), shaw_output(weights, table)
    for b in range(2):
        for h in range(3):
            assert_all_close(
                [part[b, h] for part in whole],
                [
                    rope(x[b, h], positions[b, 0]),
                    shaw_bias(x[b, h], table, 4),
                    shaw_output(weights[b, h], table),
                ],
            )


def test_arguments_stay_as_they_are():
    inputs = [randn(4, 6), randn(5, 6), randn(4, 4), torch.arange(4), randn(8, 2)]
    copies = [x.clone() for x in inputs]
    x, table, weights, positions, t5 = inputs
    for pairs in PAIRS:
        rope(x, positions, pairs=pairs)
    sinusoidal(positions, 6)
    shaw_bias(x, table, 4)
    shaw_output(weights, table)
    t5_bias(t5, positions, max_distance=9)
    for x, copy in zip(inputs, copies, strict=True):
        assert torch.equal(x, copy) and x._version == 0


# Learned ----------------------------------------------------------------------


def test_learned_positions_are_rows_of_the_table():
    layer = LearnedPositions(9, 4, torch.Generator().manual_seed(0)).double()
    positions = torch.tensor([[0, 8, 3], [3, 3, 1]])
    out = layer(positions)
    assert out.shape == (2, 3, 4)
    assert_close(out[1, 2], layer.table[1])
    out.sum().backward()
    counts = [positions.eq(p).sum().item() for p in range(9)]
    assert layer.table.grad[:, 0].tolist() == counts
    assert layer(torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0, 4)


def test_learned_positions_start_small_and_repeatable():
    a, b = (LearnedPositions(500, 64, torch.Generator().manual_seed(7)).table for _ in range(2))
    assert torch.equal(a, b)
    assert 0.0195 < a.std() < 0.0205 and a.mean().abs() < 0.001


# Gradient -------------------------------------------------------------------


@pytest.mark.parametrize("pairs", PAIRS)
def test_gradient_of_rope(pairs):
    where = torch.tensor([0.5, 3.0, -7.0], dtype=torch.float64, requires_grad=True)
    inputs = (randn(2, 3, 4).requires_grad_(), where)
    assert torch.autograd.gradcheck(lambda x, m: rope(x, m, 10.0, pairs), inputs)


def test_gradients_of_the_rest():
    q, table = randn(2, 3, 4).requires_grad_(), randn(5, 4, seed=1).requires_grad_()
    weights, numbers = randn(2, 3, 4).requires_grad_(), randn(8, 2).requires_grad_()
    where = torch.tensor([0.5, 30.0], dtype=torch.float64, requires_grad=True)
    relative = relative_positions(3, 4)
    assert torch.autograd.gradcheck(lambda q, t: shaw_bias(q, t, 4), (q, table))
    assert torch.autograd.gradcheck(shaw_output, (weights, table))
    assert torch.autograd.gradcheck(lambda t: t5_bias(t, relative, max_distance=9), (numbers,))
    assert torch.autograd.gradcheck(lambda p: sinusoidal(p, 6, 10.0, torch.float64), (where,))


# Edges ----------------------------------------------------------------------


def test_nothing_in_nothing_out():
    none = torch.arange(0)
    assert sinusoidal(none, 6).shape == (0, 6)
    assert rope(randn(2, 0, 6), none).shape == (2, 0, 6)
    assert shaw_bias(randn(0, 6), randn(3, 6), 4).shape == (0, 4)
    assert shaw_bias(randn(4, 6), randn(3, 6), 0).shape == (4, 0)
    assert torch.equal(shaw_output(randn(4, 0), randn(3, 6)), torch.zeros(4, 6).double())
    assert alibi_bias(2, 0, 3).shape == (2, 0, 3)
    assert t5_bias(randn(8, 2), relative_positions(0, 3), max_distance=9).shape == (2, 0, 3)


def test_one_position_and_one_number():
    assert_close(sinusoidal(torch.tensor(0), 4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert relative_positions(2, 4).tolist() == [[-2, -1, 0, 1], [-3, -2, -1, 0]]


def test_positions_between_integers():
    """Interpolation: half the position is half the angle."""
    x = randn(1, 8)
    half = rope(x, torch.tensor([3.5]))
    assert_close(rope(half, torch.tensor([3.5])), rope(x, torch.tensor([7])))


@pytest.mark.parametrize("pairs", PAIRS)
def test_non_contiguous_input(pairs):
    x = randn(6, 3, 4).permute(1, 2, 0)
    table = randn(6, 5).T
    weights = randn(4, 3).T
    assert not (x.is_contiguous() or table.is_contiguous() or weights.is_contiguous())
    where = torch.arange(8)[::2]
    assert torch.equal(rope(x, where, pairs=pairs), rope(x.contiguous(), where, pairs=pairs))
    assert_close(shaw_bias(x, table, 4), shaw_bias(x.contiguous(), table.contiguous(), 4))
    assert_close(shaw_output(weights, table), shaw_output(weights.contiguous(), table))


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype, pairs):
    """Angles are not rounded to the dtype: positions near 2000 stay apart in bfloat16."""
    eps = torch.finfo(dtype).eps
    where = torch.arange(2000, 2008)
    x, table, weights = randn(8, 16).to(dtype), randn(5, 16).to(dtype), randn(8, 8).softmax(-1)
    for actual, exact in [
        (rope(x, where, pairs=pairs), rope(x.double(), where, pairs=pairs)),
        (sinusoidal(where, 16, dtype=dtype), sinusoidal(where, 16, dtype=torch.float64)),
        (shaw_bias(x, table, 8), shaw_bias(x.double(), table.double(), 8)),
        (
            shaw_output(weights.to(dtype), table),
            shaw_output(weights.to(dtype).double(), table.double()),
        ),
        (alibi_bias(6, 8, 8, dtype), alibi_bias(6, 8, 8, torch.float64)),
    ]:
        assert actual.dtype == dtype
        slack = max(8 * eps, 1e-3 if dtype == torch.float32 else 0)  # float32 angles near 2000
        assert_close(actual.double(), exact, rtol=slack, atol=slack)


def test_positions_do_not_collide_in_bfloat16():
    assert torch.tensor(256).bfloat16() == torch.tensor(257).bfloat16()  # what the code avoids
    a, b = rope(torch.ones(2, 64).bfloat16(), torch.tensor([256, 257]))
    assert not torch.equal(a, b)


def test_int32_positions():
    where = torch.arange(-20, 20, dtype=torch.int32)
    assert torch.equal(t5_buckets(where), t5_buckets(where.long()))
    assert torch.equal(sinusoidal(where, 4), sinusoidal(where.long(), 4))


# Bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sinusoidal(torch.arange(3), 7), ValueError, "even and positive, got 7"),
        (lambda: sinusoidal(torch.arange(3), 0), ValueError, "even and positive, got 0"),
        (lambda: halves_order(5), ValueError, "even and positive, got 5"),
        (lambda: sinusoidal(torch.arange(3), 4, 0.0), ValueError, "base must be positive, got 0.0"),
        (
            lambda: sinusoidal(torch.arange(3), 4, dtype=torch.int64),
            TypeError,
            "must be floating point, got torch.int64",
        ),
        (
            lambda: sinusoidal(torch.ones(3, dtype=torch.bool), 4),
            TypeError,
            "integers or floats, got torch.bool",
        ),
        (lambda: rope(torch.ones(3, 5), torch.arange(3)), ValueError, "even and positive, got 5"),
        (lambda: rope(torch.ones(4), torch.arange(3)), ValueError, r"two axes, got \(4,\)"),
        (
            lambda: rope(torch.ones(3, 4), torch.arange(2)),
            ValueError,
            r"positions \(2,\) do not broadcast to \(3,\)",
        ),
        (
            lambda: rope(torch.ones(3, 4), torch.zeros(2, 3)),
            ValueError,
            r"positions \(2, 3\) do not broadcast to \(3,\)",
        ),
        (
            lambda: rope(torch.ones(3, 4), torch.arange(3), pairs="neox"),
            ValueError,
            '"adjacent" or "halves", got "neox"',
        ),
        (
            lambda: rope(torch.ones(3, 4).int(), torch.arange(3)),
            TypeError,
            "floating point, got torch.int32",
        ),
        (
            lambda: LearnedPositions(4, 2)(torch.tensor([0, 4])),
            ValueError,
            r"in 0 … 3, got 0 … 4",
        ),
        (
            lambda: LearnedPositions(4, 2)(torch.tensor([-1, 3])),
            ValueError,
            r"in 0 … 3, got -1 … 3",
        ),
        (lambda: LearnedPositions(4, 2)(torch.ones(2)), TypeError, "int64, got torch.float32"),
        (lambda: shaw_bias(torch.ones(2, 4), torch.ones(4, 4), 3), ValueError, "odd .* got 4"),
        (
            lambda: shaw_bias(torch.ones(2, 4), torch.ones(3, 5), 3),
            ValueError,
            r"differ in D: \(2, 4\), \(3, 5\)",
        ),
        (
            lambda: shaw_bias(torch.ones(4), torch.ones(3, 4), 3),
            ValueError,
            r"q needs two axes or more, key_table two, got \(4,\), \(3, 4\)",
        ),
        (
            lambda: shaw_bias(torch.ones(2, 4), torch.ones(3, 4).double(), 3),
            TypeError,
            "q and key_table .* got torch.float32, torch.float64",
        ),
        (
            lambda: shaw_output(torch.ones(2, 4), torch.ones(3)),
            ValueError,
            r"value_table two, got \(2, 4\), \(3,\)",
        ),
        (lambda: shaw_output(torch.ones(2, 4), torch.ones(2, 4)), ValueError, "odd .* got 2"),
        (lambda: t5_buckets(torch.ones(3)), TypeError, "int64, got torch.float32"),
        (lambda: t5_buckets(torch.arange(3), True, 3), ValueError, "two buckets or more, got 1"),
        (
            lambda: t5_buckets(torch.arange(3), True, 32, 8),
            ValueError,
            "max_distance must exceed 8, got 8",
        ),
        (lambda: alibi_slopes(0), ValueError, "must be positive, got 0"),
        (lambda: alibi_bias(-1, 2, 2), ValueError, "must be positive, got -1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
