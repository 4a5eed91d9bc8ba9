"""Ablation study: toy objectives by hand, least squares, invariants, gradient, edges, bad input.

Yardstick: numpy.linalg.lstsq; scipy.stats.ttest_1samp; plain loops.
"""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.testing import assert_close

from snippets.concepts.ablation_study import (
    Study,
    add_one_in,
    cumulative,
    effects,
    fractional_factorial,
    full_factorial,
    leave_one_out,
    run_grid,
    shapley,
    t_interval,
    to_markdown,
)

SEEDS = (3, 1, 4)
counts = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)


def toy(on, seed):
    """50, 20 with a, 6 with b, 8 less with both, 0 with c, and the noise of the seed."""
    return 50 + 20 * ("a" in on) + 6 * ("b" in on) - 8 * ({"a", "b"} <= on) + seed


def names(k):
    return list("abcde"[:k])


def random_study(k, n=3, seed=0):
    """A full factorial of k switches with n seeds and random scores."""
    g = torch.Generator().manual_seed(seed)
    scores = iter(torch.randn(2**k * n, generator=g, dtype=torch.float64).tolist())
    return run_grid(lambda on, seed: next(scores), names(k), full_factorial(names(k)), range(n))


def value(study):
    """The scores by sets, seed by seed, as NumPy arrays."""
    return dict(zip(study.cells, study.scores.numpy(), strict=True))


def dividends(study):
    """What every set of switches adds beyond its subsets, by inclusion and exclusion."""
    v = value(study)
    return {
        cell: sum((-1) ** (len(cell) - len(part)) * v[part] for part in v if part <= cell)
        for cell in v
    }


# The toy objective, by hand -----------------------------------------------------


def test_cells_of_the_toy_objective():
    study = run_grid(toy, "abc", full_factorial("abc"), SEEDS)
    assert study.of("").tolist() == [53, 51, 54]
    assert study.of("ab").tolist() == study.of({"a", "b", "c"}).tolist() == [71, 69, 72]
    by_hand = [50, 70, 56, 50, 68, 70, 56, 68]  # -, a, b, c, ab, ac, bc, abc
    assert_close(study.mean(), torch.tensor(by_hand).double() + 8 / 3)
    deviation = math.sqrt(((1 / 3) ** 2 + (5 / 3) ** 2 + (4 / 3) ** 2) / 2)
    assert_close(study.std(), torch.full((8,), deviation).double())
    assert study.seeds == SEEDS and study.switches == ("a", "b", "c") and not study.failures


def test_effects_of_the_toy_objective():
    found = effects(run_grid(toy, "abc", full_factorial("abc"), SEEDS), order=3)
    by_hand = {
        ("a",): 16,  # 20 without b, 12 with b
        ("b",): 2,  # 6 without a, -2 with a
        ("c",): 0,
        ("a", "b"): -4,  # (12 - 20) / 2
        ("a", "c"): 0,
        ("b", "c"): 0,
        ("a", "b", "c"): 0,
    }
    assert list(found) == list(by_hand)
    for name, expected in by_hand.items():
        assert_close(found[name], torch.full((3,), expected).double(), msg=str(name))


def test_leaving_out_and_adding_in_differ_by_the_interaction():
    study = run_grid(toy, "abc", [*leave_one_out("abc"), *add_one_in("abc")], SEEDS)
    dropped = {x: (study.of("abc") - study.of(set("abc") - {x})).tolist() for x in "abc"}
    gained = {x: (study.of(x) - study.of("")).tolist() for x in "abc"}
    assert dropped == {"a": [12] * 3, "b": [-2] * 3, "c": [0] * 3}
    assert gained == {"a": [20] * 3, "b": [6] * 3, "c": [0] * 3}
    full = effects(run_grid(toy, "abc", full_factorial("abc"), SEEDS), order=2)
    assert dropped["a"][0] - gained["a"][0] == 2 * full["a", "b"][0]


def test_shapley_values_of_the_toy_objective():
    values = shapley(run_grid(toy, "abc", full_factorial("abc"), SEEDS))
    assert {name: x.tolist() for name, x in values.items()} == {
        "a": [pytest.approx(16)] * 3,
        "b": [pytest.approx(2)] * 3,
        "c": [pytest.approx(0)] * 3,
    }


# Designs ------------------------------------------------------------------------


def test_designs():
    cells = [
        ["".join(sorted(cell)) for cell in design("abc")]
        for design in (leave_one_out, add_one_in, cumulative, full_factorial)
    ]
    assert cells == [
        ["abc", "bc", "ac", "ab"],
        ["", "a", "b", "c"],
        ["", "a", "ab", "abc"],
        ["", "a", "b", "c", "ab", "ac", "bc", "abc"],
    ]
    assert ["".join(sorted(cell)) for cell in cumulative("cab")] == ["", "c", "ac", "abc"]
    assert full_factorial([]) == [frozenset()]


def test_half_fraction():
    """d = abc: the sign of d is the product of the others, in every cell."""
    cells = fractional_factorial("abc", {"d": "abc"})
    assert len(set(cells)) == 8
    for cell in cells:
        sign = [1 if name in cell else -1 for name in "abcd"]
        assert math.prod(sign) == 1
    assert {"a", "b", "c", "d"} in cells and {"a", "d"} in cells and set() not in [*cells][1:]


def test_a_fraction_of_resolution_four_has_clear_main_effects():
    study = run_grid(toy, "abcd", fractional_factorial("abc", {"d": "abc"}), SEEDS)
    found = effects(study)
    assert [x[0].item() for x in found.values()] == pytest.approx([16, 2, 0, 0])
    with pytest.raises(ValueError, match="8 cells cannot tell c·d from a·b"):
        effects(study, order=2)


def test_a_fraction_of_resolution_three_mixes_the_interaction_into_a_main_effect():
    study = run_grid(toy, "abc", fractional_factorial("ab", {"c": ["a", "b"]}), SEEDS)
    assert [x[0].item() for x in effects(study).values()] == pytest.approx([16, 2, -4])
    with pytest.raises(ValueError, match="4 cells cannot tell b·c from a"):
        effects(study, order=2)


# Parity -------------------------------------------------------------------------


@given(k=counts, n=st.integers(1, 4), seed=seeds)
def test_effects_are_twice_the_coefficients_of_least_squares(k, n, seed):
    study = random_study(k, n, seed)
    terms = list(effects(study, order=k))
    code = np.array([[2.0 * (name in cell) - 1 for name in names(k)] for cell in study.cells])
    columns = [np.prod([code[:, names(k).index(x)] for x in term], axis=0) for term in terms]
    design = np.column_stack([np.ones(len(code)), *columns])
    fitted, *_ = np.linalg.lstsq(design, study.scores.numpy(), rcond=None)
    found = torch.stack(list(effects(study, order=k).values())).numpy()
    np.testing.assert_allclose(found, 2 * fitted[1:], atol=1e-12)


@given(k=counts, seed=seeds)
def test_shapley_values_are_the_average_over_all_cumulative_tables(k, seed):
    study = random_study(k, seed=seed)
    v, orders = value(study), list(permutations(names(k)))
    for name, found in shapley(study).items():
        steps = []
        for order in orders:
            place = order.index(name)
            steps.append(v[frozenset(order[: place + 1])] - v[frozenset(order[:place])])
        np.testing.assert_allclose(found.numpy(), np.mean(steps, axis=0), atol=1e-12)


@given(k=counts, seed=seeds)
def test_four_answers_weigh_the_same_dividends(k, seed):
    """Added alone, left out, main effect, Shapley value: weights 1 or 0, 1, 2^(1-t), 1/t."""
    study = random_study(k, seed=seed)
    parts, v = dividends(study), value(study)
    everything = frozenset(names(k))
    main, shares = effects(study), shapley(study)
    for name in names(k):
        mine = {cell: x for cell, x in parts.items() if name in cell}
        answers = {
            "added alone": (v[frozenset([name])] - v[frozenset()], lambda t: t == 1),
            "left out": (v[everything] - v[everything - {name}], lambda t: 1),
            "main effect": (main[name,].numpy(), lambda t: 2.0 ** (1 - t)),
            "shapley": (shares[name].numpy(), lambda t: 1 / t),
        }
        for answer, (found, weight) in answers.items():
            expected = sum(weight(len(cell)) * x for cell, x in mine.items())
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=answer)


@given(n=st.integers(2, 40), level=st.sampled_from([0.5, 0.9, 0.95, 0.999]), seed=seeds)
def test_interval_equals_scipy(n, level, seed):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1
    ours = t_interval(x, level)
    theirs = stats.ttest_1samp(x.numpy(), 0).confidence_interval(level)
    assert_close(ours.mean, x.mean())
    np.testing.assert_allclose([ours.low, ours.high], theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 100])
def test_quantile_of_student_equals_scipy(freedom):
    x = torch.zeros(freedom + 1).double()
    x[0] = 1.0
    for level, m in ((0.95, 1), (0.95, 7), (0.5, 3)):
        _, low, high = t_interval(x, level, comparisons=m)
        t = stats.t(freedom).ppf(1 - (1 - level) / (2 * m))
        assert_close((high - low).item(), 2 * t / (freedom + 1), rtol=1e-9, atol=0)


@given(k=counts, n=st.integers(2, 6), seed=seeds)
def test_mean_and_standard_deviation_equal_numpy(k, n, seed):
    study = random_study(k, n, seed)
    np.testing.assert_allclose(study.mean(), study.scores.numpy().mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(study.std(), study.scores.numpy().std(axis=1, ddof=1), atol=1e-14)


# Invariants ---------------------------------------------------------------------


@given(k=counts, seed=seeds)
def test_shapley_values_share_out_the_whole_difference(k, seed):
    study = random_study(k, seed=seed)
    total = torch.stack(list(shapley(study).values())).sum(dim=0)
    assert_close(total, study.of(names(k)) - study.of([]))


@given(k=counts, seed=seeds)
def test_order_of_cells_and_switches_does_not_matter(k, seed):
    study = random_study(k, seed=seed)
    p = torch.randperm(2**k, generator=torch.Generator().manual_seed(seed))
    cells = tuple(study.cells[i] for i in p.tolist())
    other = Study(study.switches[::-1], cells, study.seeds, study.scores[p], {})
    for name in names(k):
        assert_close(effects(study)[name,], effects(other)[name,])
        assert_close(shapley(study)[name], shapley(other)[name])


@given(k=counts, seed=seeds, noise=st.floats(-1e3, 1e3))
def test_what_a_seed_adds_to_all_cells_cancels(k, seed, noise):
    study = random_study(k, seed=seed)
    shifted = study._replace(scores=study.scores + torch.tensor([noise, 0.0, 0.0]))
    for name in names(k):
        assert_close(effects(study)[name,], effects(shifted)[name,], rtol=0, atol=1e-9)
        assert_close(shapley(study)[name], shapley(shifted)[name], rtol=0, atol=1e-9)


def test_intervals_hold_together():
    """20 comparisons of nothing: uncorrected some miss zero in most studies, corrected in 5 %."""
    g = torch.Generator().manual_seed(0)
    missed = {1: 0, 20: 0}
    for _ in range(200):
        drawn = torch.randn(20, 5, generator=g, dtype=torch.float64)
        for m in missed:
            intervals = [t_interval(x, comparisons=m) for x in drawn]
            missed[m] += any(low > 0 or high < 0 for _, low, high in intervals)
    assert 0.55 * 200 < missed[1] < 0.73 * 200 and 2 <= missed[20] < 0.09 * 200


def test_runs_come_seed_by_seed_and_every_cell_once():
    calls = []
    cells = [*leave_one_out("ab"), *add_one_in("ab")]
    study = run_grid(lambda on, seed: calls.append((on, seed)) or 1.0, "ab", cells, iter([5, 2]))
    assert [seed for _, seed in calls] == [5] * 4 + [2] * 4
    assert [cell for cell, _ in calls] == [*study.cells] * 2
    assert study.cells == (frozenset("ab"), frozenset("b"), frozenset("a"), frozenset())


# Gradient -----------------------------------------------------------------------


def test_gradient():
    study = random_study(2)

    def of(scores):
        changed = study._replace(scores=scores)
        found = [*effects(changed, order=2).values(), *shapley(changed).values()]
        return torch.stack(found), changed.mean(), changed.std(), *t_interval(scores[0])

    assert torch.autograd.gradcheck(of, study.scores.clone().requires_grad_())


# Report -------------------------------------------------------------------------


def test_table():
    noise = {0: 0.0, 1: 1.0, 2: 2.0}
    study = run_grid(
        lambda on, seed: noise[seed] * (1 + len(on)) + 10 * ("b" in on),
        ["a", "b"],
        add_one_in("ab"),
        noise,
    )
    half = stats.t(2).ppf(1 - 0.05 / 4) / math.sqrt(3)  # two comparisons, deviation 1
    assert to_markdown(study).splitlines() == [
        "| a | b | score (n = 3) | difference, 95 % |",
        "| :-: | :-: | --: | --: |",
        "| – | – | 1.00 ± 1.00 |  |",
        f"| ✓ | – | 2.00 ± 2.00 | +1.00 [{1 - half:+.2f}, {1 + half:+.2f}] |",
        f"| – | ✓ | 12.00 ± 2.00 | +11.00 [{11 - half:+.2f}, {11 + half:+.2f}] |",
    ]
    row = to_markdown(study, reference="b", level=0.9, digits=1).splitlines()
    assert row[0].endswith("difference, 90 % |") and row[4].endswith("12.0 ± 2.0 |  |")
    half = stats.t(2).ppf(1 - 0.1 / 4) / math.sqrt(3)
    assert row[2].endswith(f"-11.0 [{-11 - half:+.1f}, {-11 + half:+.1f}] |")


def test_table_reports_failures_instead_of_a_mean():
    def run(on, seed):
        if "b" in on and seed == 1:
            raise FloatingPointError("loss is nan")
        return math.inf if "c" in on else float(seed + len(on) * seed)

    study = run_grid(run, "abc", add_one_in("abc"), [0, 1, 2], keep_going=True)
    rows = to_markdown(study, digits=1).splitlines()
    assert rows[4] == "| – | ✓ | – | 1 of 3 failed |  |"
    assert rows[5] == "| – | – | ✓ | 3 of 3 failed |  |"
    half = stats.t(2).ppf(0.975) / math.sqrt(3)  # one comparison only
    assert rows[3] == f"| ✓ | – | – | 2.0 ± 2.0 | +1.0 [{1 - half:+.1f}, {1 + half:+.1f}] |"
    assert study.failures[frozenset("b"), 1] == "FloatingPointError: loss is nan"
    assert study.failures[frozenset("c"), 0] == "ValueError: the score must be finite, got inf"
    assert len(study.failures) == 4
    assert study.mean().isnan().tolist() == study.std().isnan().tolist()
    assert study.mean().isnan().tolist() == [False, False, True, True]


def test_table_of_a_failed_reference_has_no_differences():
    study = run_grid(
        lambda on, seed: 1.0 if on else math.nan, "a", add_one_in("a"), [0, 1], keep_going=True
    )
    rows = to_markdown(study).splitlines()
    assert rows[2:] == ["| – | 2 of 2 failed |  |", "| ✓ | 1.00 ± 0.00 |  |"]


# Edges --------------------------------------------------------------------------


def test_one_seed_has_no_deviation_and_no_interval():
    study = run_grid(toy, "a", full_factorial("a"), [7])
    assert study.std().isnan().all() and study.mean().tolist() == [57, 77]
    assert to_markdown(study, digits=0).splitlines()[2:] == ["| – | 57 |  |", "| ✓ | 77 | +20 |"]
    assert effects(study)["a",].tolist() == [20]


def test_no_switches():
    study = run_grid(toy, "", full_factorial(""), SEEDS)
    assert study.cells == (frozenset(),)
    assert "| 52.67 ± 1.53 |" in to_markdown(study)


def test_scores_may_be_tensors_and_a_cell_equal_to_the_reference_differs_by_zero():
    study = run_grid(lambda on, seed: torch.tensor(seed * 0.5), "a", add_one_in("a"), SEEDS)
    assert study.scores.dtype == torch.float64 and study.of("a").tolist() == [1.5, 0.5, 2.0]
    assert to_markdown(study).splitlines()[3].endswith("| +0.00 [+0.00, +0.00] |")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_interval_keeps_dtype_and_takes_non_contiguous_input(dtype):
    x = torch.arange(6, dtype=dtype).reshape(3, 2)
    ours = t_interval(x[:, 0])
    assert {part.dtype for part in ours} == {dtype}
    assert_close(torch.stack(ours), torch.stack(t_interval(x[:, 0].clone())))
    assert torch.equal(x, torch.arange(6, dtype=dtype).reshape(3, 2))


# Bad input ----------------------------------------------------------------------


def test_a_failed_run_stops_the_grid():
    def run(on, seed):
        return 1.0 if on else math.nan

    message = r"cell {}, seed 8: ValueError: the score must be finite, got nan"
    with pytest.raises(RuntimeError, match=message) as caught:
        run_grid(run, "ab", add_one_in("ab"), [8, 9])
    assert isinstance(caught.value.__cause__, ValueError)
    study = run_grid(run, "ab", full_factorial("ab"), [8, 9], keep_going=True)
    for use in (effects, shapley):
        with pytest.raises(ValueError, match=r"the run of cell {}, seed 8 failed"):
            use(study)


def test_an_interrupt_is_not_a_failed_run():
    def run(on, seed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(run, "a", add_one_in("a"), [0], keep_going=True)


@pytest.mark.parametrize(
    ("switches", "cells", "seeds", "message"),
    [
        ("aba", ["a"], [0], r"switches must all be different, got \('a', 'b', 'a'\)"),
        ("ab", ["a"], [0, 1, 0], r"seeds must all be different, got \(0, 1, 0\)"),
        ("ab", ["ac"], [0], r"the cell {a, c} has switches that are not in \('a', 'b'\)"),
        ("ab", [], [0], "nothing to run: 0 cells, 1 seeds"),
        ("ab", ["a"], [], "nothing to run: 1 cells, 0 seeds"),
    ],
    ids=["switch twice", "seed twice", "unknown", "no cells", "no seeds"],
)
def test_bad_grid(switches, cells, seeds, message):
    with pytest.raises(ValueError, match=message):
        run_grid(toy, switches, cells, seeds)


@pytest.mark.parametrize(
    ("generators", "message"),
    [
        ({"a": "bc"}, "'a' is a switch of the factorial"),
        ({"d": "ax"}, r"'d' must name different ones of a, b, c, got \['a', 'x'\]"),
        ({"d": "aa"}, r"got \['a', 'a'\]"),
        ({"d": ""}, r"got \[\]"),
    ],
    ids=["own", "unknown", "twice", "empty"],
)
def test_bad_generators(generators, message):
    with pytest.raises(ValueError, match=message):
        fractional_factorial("abc", generators)


def test_effects_that_the_cells_cannot_tell():
    study = run_grid(toy, "ab", leave_one_out("ab"), SEEDS)
    with pytest.raises(ValueError, match="3 cells cannot tell a from mean"):
        effects(study)
    with pytest.raises(ValueError, match=r"the cell {} was not run"):
        shapley(study)
    with pytest.raises(ValueError, match=r"the cell {} was not run"):
        to_markdown(study, reference=[])
    for order in (0, 3):
        with pytest.raises(ValueError, match=f"order must be 1 to 2, got {order}"):
            effects(study, order)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(samples=torch.zeros(1)), ValueError, r"N >= 2, got \(1,\)"),
        (dict(samples=torch.zeros(2, 3)), ValueError, r"got \(2, 3\)"),
        (dict(samples=torch.zeros(3).long()), TypeError, "got torch.int64"),
        (dict(samples=torch.tensor([0, math.nan])), ValueError, "must be finite, got nan"),
        (dict(level=95), ValueError, "between 0 and 1, got 95"),
        (dict(level=0.0), ValueError, "between 0 and 1, got 0.0"),
        (dict(comparisons=0), ValueError, "at least 1, got 0"),
    ],
)
def test_bad_samples(change, error, message):
    with pytest.raises(error, match=message):
        t_interval(**(dict(samples=torch.arange(3.0)) | change))
