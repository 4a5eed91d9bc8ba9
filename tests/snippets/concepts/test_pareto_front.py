"""Pareto front and paired bootstrap: parity, invariants, gradient, edges, bad input.

Yardstick: scipy.stats.bootstrap; plain loops.
"""

import itertools
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.testing import assert_close

from snippets.concepts.pareto_front import mean, paired_bootstrap, pareto_front

sizes = st.integers(0, 12)
seeds = st.integers(0, 2**32 - 1)
METHODS = ["percentile", "bca"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def models(n, c=1, values=5, seed=0, lead=()):
    """Costs and quality from few values, so that ties and duplicates are common."""
    g = seeded(seed)
    costs = torch.randint(values, (*lead, n, c), generator=g, dtype=torch.float64)
    return costs, torch.randint(values, (*lead, n), generator=g, dtype=torch.float64)


def scores(n, seed=0, dtype=torch.float64):
    """Skewed, correlated scores of two systems; with few bits, so that sums do not round."""
    g = seeded(seed)
    common = torch.rand(n, generator=g, dtype=dtype)
    a = common.exp() + torch.rand(n, generator=g, dtype=dtype) ** 3
    return (a * 2**20).round() / 2**20, (common * 2**20).round() / 2**20


def front_by_loops(costs, quality):
    """The definition, one pair at a time."""
    costs, quality = costs.tolist(), quality.tolist()
    kept = []
    for c_j, q_j in zip(costs, quality):
        beaten = False
        for c_i, q_i in zip(costs, quality):
            equal = c_i == c_j and q_i == q_j
            beaten |= not equal and q_i >= q_j and all(x <= y for x, y in zip(c_i, c_j))
        kept.append(not beaten)
    return torch.tensor(kept, dtype=torch.bool)


def front_by_sorting(cost, quality):
    """Two objectives: walk up the costs; a level stays if its top score is a new record."""
    kept, record = np.zeros(len(cost), dtype=bool), -np.inf
    for level in np.unique(cost):
        here = np.flatnonzero(cost == level)
        top = quality[here].max()
        if top > record:
            kept[here[quality[here] == top]] = True
            record = top
    return torch.from_numpy(kept)


def scipy_interval(a, b, replicates, method, level=0.95, metric=np.mean):
    """SciPy's interval for the same replicates, which it takes from a previous result."""
    return stats.bootstrap(
        (a.numpy(), b.numpy()),
        lambda x, y, axis: metric(x, axis=axis) - metric(y, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=0,
        confidence_level=level,
        method=method,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=replicates.numpy()),
    ).confidence_interval


# Parity: front ----------------------------------------------------------------


@given(n=sizes, c=st.integers(0, 3), values=st.integers(1, 6), seed=seeds)
def test_front_equals_the_definition(n, c, values, seed):
    costs, quality = models(n, c, values, seed)
    assert torch.equal(pareto_front(costs, quality), front_by_loops(costs, quality))


@pytest.mark.parametrize("values", [3, 30, 10**6])
def test_front_equals_a_sweep_over_the_costs(values):
    costs, quality = models(400, 1, values)
    expected = front_by_sorting(costs[:, 0].numpy(), quality.numpy())
    assert torch.equal(pareto_front(costs, quality), expected)


def test_front_of_a_small_table():
    costs = torch.tensor([[1.0], [2.0], [2.0], [3.0], [3.0], [4.0]])
    quality = torch.tensor([70.0, 80.0, 75.0, 80.0, 90.0, 85.0])
    assert pareto_front(costs, quality).tolist() == [True, True, False, False, True, False]


# Invariants: front ------------------------------------------------------------


@given(n=st.integers(1, 12), c=st.integers(0, 3), seed=seeds)
def test_order_of_the_models_and_of_the_costs_does_not_matter(n, c, seed):
    costs, quality = models(n, c, seed=seed)
    p, column = torch.randperm(n, generator=seeded(seed)), torch.arange(c).flip(0)
    front = pareto_front(costs, quality)
    assert torch.equal(pareto_front(costs[p][:, column], quality[p]), front[p])


@given(n=st.integers(1, 12), c=st.integers(0, 3), seed=seeds)
def test_each_model_off_the_front_is_beaten_by_one_on_it(n, c, seed):
    costs, quality = models(n, c, seed=seed)
    front = pareto_front(costs, quality)
    assert front.any()
    for j in (~front).nonzero().flatten():
        covered = (costs[front] <= costs[j]).all(-1) & (quality[front] >= quality[j])
        assert covered.any()
    assert torch.equal(
        pareto_front(costs[front], quality[front]), front[front]
    )  # nothing more goes


@given(n=sizes, seed=seeds)
def test_only_the_order_of_the_numbers_counts(n, seed):
    costs, quality = models(n, 2, seed=seed)
    assert torch.equal(
        pareto_front((costs + 1).log(), quality**3 - 7), pareto_front(costs, quality)
    )


@given(n=sizes, seed=seeds)
def test_duplicates_share_their_fate(n, seed):
    costs, quality = models(n, 2, seed=seed)
    twice = pareto_front(costs.repeat(2, 1), quality.repeat(2))
    assert torch.equal(twice, pareto_front(costs, quality).repeat(2))


@given(n=st.integers(1, 12), seed=seeds)
def test_one_more_cost_removes_nobody_whose_numbers_are_unique(n, seed):
    g = seeded(seed)
    costs = torch.rand(n, 2, generator=g, dtype=torch.float64)
    quality = torch.rand(n, generator=g, dtype=torch.float64)
    assert (pareto_front(costs, quality) >= pareto_front(costs[:, :1], quality)).all()


def test_batched_equals_single_and_leading_axes_broadcast():
    costs, quality = models(7, 2, lead=(2, 3))
    front = pareto_front(costs, quality)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(front[i, j], pareto_front(costs[i, j], quality[i, j]))
    broadcast = pareto_front(costs[0, 0], quality)
    assert broadcast.shape == (2, 3, 7)
    assert torch.equal(broadcast[1, 2], pareto_front(costs[0, 0], quality[1, 2]))
    stretched = pareto_front(costs[:1], quality[:, :1])
    assert stretched.shape == (2, 3, 7)
    assert torch.equal(stretched[1, 2], pareto_front(costs[0, 2], quality[1, 0]))


# Edges: front -----------------------------------------------------------------


def test_no_models_and_one_model():
    assert pareto_front(torch.zeros(0, 2), torch.zeros(0)).shape == (0,)
    assert pareto_front(torch.zeros(3, 0, 2), torch.zeros(3, 0)).shape == (3, 0)
    assert pareto_front(torch.zeros(1, 2), torch.zeros(1)).tolist() == [True]


def test_without_costs_only_the_top_scores_stay():
    quality = torch.tensor([1.0, 3.0, 2.0, 3.0])
    assert pareto_front(torch.zeros(4, 0), quality).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64], ids=str
)
def test_every_dtype(dtype):
    costs, quality = models(9, 2)
    assert torch.equal(
        pareto_front(costs.to(dtype), quality.to(dtype)), pareto_front(costs, quality)
    )


def test_front_takes_non_contiguous_input_and_leaves_it_alone():
    costs, quality = models(9, 2)
    wide = torch.stack([costs, costs], dim=-1)[..., 0]
    assert not wide.is_contiguous()
    before = wide.clone(), quality.clone()
    front = pareto_front(wide, quality.requires_grad_())
    assert torch.equal(front, front_by_loops(*before)) and torch.equal(wide, before[0])


# Parity: bootstrap ------------------------------------------------------------


@given(n=st.integers(2, 30), level=st.floats(0.5, 0.99), seed=seeds)
def test_interval_equals_scipy(n, level, seed):
    a, b = scores(n, seed)
    for method in METHODS:
        ours = paired_bootstrap(
            a, b, level=level, method=method, resamples=99, generator=seeded(seed)
        )
        low, high = scipy_interval(a, b, ours.replicates, method, level)
        assert_close(ours.low.item(), low, rtol=0, atol=1e-10)
        assert_close(ours.high.item(), high, rtol=0, atol=1e-10)
        assert_close(ours.difference.item(), float(np.mean(a.numpy()) - np.mean(b.numpy())))


def test_interval_of_another_metric_equals_scipy():
    a, b = scores(25)
    for method in METHODS:
        ours = paired_bootstrap(a, b, lambda x: x.var(dim=-1), method=method, generator=seeded())
        low, high = scipy_interval(
            a, b, ours.replicates, method, metric=lambda x, axis: np.var(x, axis=axis, ddof=1)
        )
        assert_close(torch.stack([ours.low, ours.high]).numpy(), np.array([low, high]))


@pytest.mark.parametrize("method", METHODS)
def test_interval_agrees_with_an_independent_run_of_scipy(method):
    a, b = scores(60)
    ours = paired_bootstrap(a, b, method=method, resamples=20000, generator=seeded())
    theirs = stats.bootstrap(
        (a.numpy(), b.numpy()),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method=method.replace("bca", "BCa"),
        rng=0,
    )
    width = (ours.high - ours.low).item()
    assert abs(ours.low.item() - theirs.confidence_interval.low) < 0.03 * width
    assert abs(ours.high.item() - theirs.confidence_interval.high) < 0.03 * width
    assert abs(ours.replicates.std().item() / theirs.standard_error - 1) < 0.03


def test_replicates_have_the_exact_distribution():
    """Three pairs have 27 equally likely resamples; list them all."""
    a, b = torch.tensor([1.0, 5.0, 2.0]).double(), torch.tensor([0.5, 1.0, 7.0]).double()
    every = [
        sum((a - b)[i].item() for i in draw) / 3 for draw in itertools.product(range(3), repeat=3)
    ]
    values, counts = np.unique(np.round(every, 9), return_counts=True)
    drawn = paired_bootstrap(a, b, resamples=27000, generator=seeded()).replicates.numpy()
    found, observed = np.unique(np.round(drawn, 9), return_counts=True)
    assert found.tolist() == values.tolist()
    assert stats.chisquare(observed, counts * 1000).pvalue > 1e-3


def test_percentile_bounds_of_right_and_wrong_are_binomial_quantiles():
    """With b = 0 the count of right answers in a resample is binomial."""
    n, right = 40, 13
    a = torch.zeros(n).double()
    a[:right] = 1
    ours = paired_bootstrap(
        a, 0 * a, level=0.9, method="percentile", resamples=40000, generator=seeded()
    )
    exact = stats.binom(n, right / n).ppf([0.05, 0.95]) / n
    assert_close(torch.stack([ours.low, ours.high]).numpy(), exact)


@pytest.mark.parametrize("method", METHODS)
def test_bounds_of_many_pairs_are_those_of_the_normal_formula(method):
    a, b = scores(2000)
    d = (a - b).numpy()
    half = stats.norm.ppf(0.975) * d.std() / math.sqrt(len(d))
    ours = paired_bootstrap(a, b, method=method, generator=seeded())
    assert abs((ours.low.item() - d.mean()) / -half - 1) < 0.05
    assert abs((ours.high.item() - d.mean()) / half - 1) < 0.05


def test_bca_covers_a_skewed_truth_better_than_percentile():
    covered = dict.fromkeys(METHODS, 0)
    for seed in range(300):
        a = -torch.rand(
            20, generator=seeded(seed), dtype=torch.float64
        ).log()  # exponential, mean 1
        for method in METHODS:
            r = paired_bootstrap(a, 0 * a, method=method, resamples=499, generator=seeded(seed))
            covered[method] += bool(r.low <= 1 <= r.high)
    assert 0.86 * 300 < covered["percentile"] <= covered["bca"] < 0.97 * 300


# Invariants: bootstrap ----------------------------------------------------------


@given(n=st.integers(2, 20), seed=seeds)
def test_swapping_the_systems_mirrors_the_interval(n, seed):
    a, b = scores(n, seed)
    for method in METHODS:
        one = paired_bootstrap(a, b, method=method, resamples=51, generator=seeded(seed))
        two = paired_bootstrap(b, a, method=method, resamples=51, generator=seeded(seed))
        assert_close(torch.stack(one[:3]), -torch.stack([two.difference, two.high, two.low]))


@given(n=st.integers(2, 20), seed=seeds, scale=st.sampled_from([1e-12, 0.5, 100.0]))
def test_shift_and_scale_carry_over(n, seed, scale):
    a, b = scores(n, seed)
    for method in METHODS:
        one = paired_bootstrap(a, b, method=method, resamples=51, generator=seeded(seed))
        two = paired_bootstrap(
            scale * (a + 3), scale * (b + 1), method=method, resamples=51, generator=seeded(seed)
        )
        assert_close(torch.stack(two[:3]) / scale, torch.stack(one[:3]) + 2, rtol=1e-6, atol=1e-9)


@given(n=st.integers(2, 20), seed=seeds)
def test_bounds_lie_among_the_replicates_and_a_higher_level_widens(n, seed):
    a, b = scores(n, seed)
    for method in METHODS:
        narrow, wide = (
            paired_bootstrap(a, b, level=level, method=method, resamples=51, generator=seeded(seed))
            for level in (0.6, 0.9)
        )
        assert torch.equal(narrow.replicates, wide.replicates) and len(wide.replicates) == 51
        least, most = wide.replicates.aminmax()
        assert least <= wide.low <= narrow.low <= narrow.high <= wide.high <= most


def test_pairing_narrows_the_interval_by_the_correlation():
    g = seeded()
    b = torch.randn(4000, generator=g, dtype=torch.float64)
    a = b + 0.1 * torch.randn(4000, generator=g, dtype=torch.float64)
    paired = paired_bootstrap(a, b, resamples=500, generator=seeded()).replicates.std()
    lost = paired_bootstrap(a, b.flip(0), resamples=500, generator=seeded()).replicates.std()
    assert_close(lost / paired, torch.tensor(math.sqrt(2.01) / 0.1).double(), rtol=0.1, atol=0)


def test_the_generator_alone_decides():
    a, b = scores(10)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = paired_bootstrap(a, b, generator=seeded(5))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    two, three = (paired_bootstrap(a, b, generator=seeded(s)) for s in (5, 6))
    assert torch.equal(one.replicates, two.replicates)
    assert not torch.equal(one.replicates, three.replicates)
    torch.manual_seed(1)
    globally = paired_bootstrap(a, b)
    torch.manual_seed(1)
    assert torch.equal(globally.replicates, paired_bootstrap(a, b).replicates)


def test_many_items_in_several_chunks():
    n = 6000  # 2**24 // 6000 = 2796 resamples at once, so three chunks here and three left-out ones
    a, b = scores(n)
    ours = paired_bootstrap(a, b, resamples=6000, generator=seeded())
    assert ours.replicates.shape == (6000,) and ours.replicates.unique().numel() > 5990
    d = a - b
    assert_close(ours.replicates.std(), d.std() / math.sqrt(n), rtol=0.05, atol=0)
    influence = d - d.mean()
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    below = (ours.replicates < ours.difference).double().mean()
    z0, z = stats.norm.ppf(below), stats.norm.ppf([0.025, 0.975])
    alphas = stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration.item() * (z0 + z)))
    expected = np.quantile(ours.replicates.numpy(), alphas)
    assert_close(torch.stack([ours.low, ours.high]).numpy(), expected)


# Gradient -----------------------------------------------------------------------


def test_gradient():
    a, b = (x.requires_grad_() for x in scores(6))

    def interval(a, b):
        return paired_bootstrap(a, b, method="percentile", resamples=20, generator=seeded())[:3]

    assert torch.autograd.gradcheck(interval, (a, b))


def test_gradient_of_the_difference_under_bca():
    a, b = (x.requires_grad_() for x in scores(6))
    result = paired_bootstrap(a, b, resamples=50, generator=seeded())
    grads = torch.autograd.grad(result.difference, (a, b), retain_graph=True)
    assert_close(grads, (torch.full_like(a, 1 / 6), torch.full_like(b, -1 / 6)))
    (low,) = torch.autograd.grad(result.low, a)
    assert_close(low.sum(), torch.ones_like(low.sum()))  # a shift of a shifts the bound


# Edges: bootstrap ----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_pairs_that_differ_alike_give_a_point(method):
    a = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert [x.item() for x in paired_bootstrap(a, a - 0.5, method=method, resamples=9)[:3]] == [
        0.5
    ] * 3
    assert [x.item() for x in paired_bootstrap(a, a, method=method, resamples=9)[:3]] == [0.0] * 3


def test_two_pairs_and_one_resample():
    a = torch.tensor([1.0, 2.0])
    for seed in range(10):  # below, at and above the observed difference
        result = paired_bootstrap(a, 0 * a, resamples=1, generator=seeded(seed))
        assert result.low == result.high == result.replicates[0]


def test_bca_stays_finite_where_all_replicates_lie_on_one_side():
    a = torch.arange(30.0)
    result = paired_bootstrap(a, 0 * a, lambda x: x.amax(dim=-1), resamples=9, generator=seeded(1))
    assert (result.replicates <= result.difference).all()
    assert result.low.isfinite() and result.high.isfinite() and result.low <= result.high


def test_bca_takes_the_last_replicate_beyond_its_pole():
    a = torch.zeros(1000).double()
    a[0] = 1.0  # as skewed as data can be: acceleration close to 1/6
    result = paired_bootstrap(a, 0 * a, level=1 - 1e-11, resamples=99, generator=seeded())
    assert result.high == result.replicates.max() and result.low <= result.high


def test_float32_keeps_its_dtype():
    a, b = scores(50, dtype=torch.float32)
    for method in METHODS:
        ours = paired_bootstrap(a, b, method=method, resamples=200, generator=seeded())
        exact = paired_bootstrap(
            a.double(), b.double(), method=method, resamples=200, generator=seeded()
        )
        assert {x.dtype for x in ours} == {torch.float32}
        assert_close(torch.stack(ours[:3]).double(), torch.stack(exact[:3]), rtol=1e-4, atol=1e-5)


def test_bootstrap_takes_non_contiguous_input_and_leaves_it_alone():
    a, b = scores(20)
    both = torch.stack([a, b], dim=1)
    result = paired_bootstrap(both[:, 0], both[:, 1], resamples=50, generator=seeded())
    expected = paired_bootstrap(a, b, resamples=50, generator=seeded())
    assert torch.equal(result.replicates, expected.replicates)
    assert torch.equal(both, torch.stack([a, b], dim=1))


def test_mean_reduces_the_last_axis():
    assert mean(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).tolist() == [0.5, 1.0]


def test_ours_is_defined_where_scipy_gives_nan():
    a = torch.arange(4.0).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(scipy_interval(a, a - 1, torch.ones(9).double(), "bca").low)


# Bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "quality", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"must be \(\.\.\., N, C\).* got \(3,\), \(3,\)"),
        (torch.zeros(3, 1), torch.zeros(4), r"got \(3, 1\), \(4,\)"),
        (torch.zeros(3, 1), torch.tensor(1.0), r"got \(3, 1\), \(\)"),
        (torch.zeros(2, 3, 1), torch.zeros(4, 3), r"broadcast: \(2, 3, 1\), \(4, 3\)"),
        (torch.tensor([[1.0], [math.nan]]), torch.zeros(2), "costs must be finite, got nan"),
        (torch.tensor([[-math.inf], [1.0]]), torch.zeros(2), "costs must be finite, got -inf"),
        (torch.zeros(2, 1), torch.tensor([0.0, math.inf]), "quality must be finite, got inf"),
    ],
    ids=["axes", "count", "scalar", "lead", "nan", "inf cost", "inf quality"],
)
def test_bad_models(costs, quality, message):
    with pytest.raises(ValueError, match=message):
        pareto_front(costs, quality)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(a=torch.zeros(3)), ValueError, r"\(N,\) with N >= 2, got \(3,\), \(4,\)"),
        (dict(a=torch.zeros(1), b=torch.zeros(1)), ValueError, r"got \(1,\), \(1,\)"),
        (dict(a=torch.zeros(0), b=torch.zeros(0)), ValueError, r"got \(0,\), \(0,\)"),
        (dict(a=torch.zeros(2, 4), b=torch.zeros(2, 4)), ValueError, r"got \(2, 4\), \(2, 4\)"),
        (dict(a=torch.zeros(4).double()), TypeError, "got torch.float64, torch.float32"),
        (dict(a=torch.ones(4).bool(), b=torch.ones(4).bool()), TypeError, "got torch.bool"),
        (dict(a=torch.ones(4).half(), b=torch.ones(4).half()), TypeError, "got torch.float16"),
        (dict(a=torch.tensor([0, 1, 2, math.nan])), ValueError, "a must be finite, got nan"),
        (dict(b=torch.tensor([0, 1, 2, math.inf])), ValueError, "b must be finite, got inf"),
        (dict(level=95), ValueError, "between 0 and 1, got 95"),
        (dict(level=0.0), ValueError, "between 0 and 1, got 0.0"),
        (dict(level=1.0), ValueError, "between 0 and 1, got 1.0"),
        (dict(method="BCa"), ValueError, "'percentile', got 'BCa'"),
        (dict(resamples=0), ValueError, "at least 1, got 0"),
        (dict(metric=torch.mean), ValueError, r"\(2, N\) -> \(2,\), got \(\)"),
    ],
)
def test_bad_scores(change, error, message):
    good = dict(a=torch.arange(4.0), b=torch.zeros(4))
    with pytest.raises(error, match=message):
        paired_bootstrap(**(good | change))
