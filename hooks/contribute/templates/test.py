"""_TITLE_: parity, invariants, gradient, edges, bad input.

Yardstick: plain loops.
TODO(new): compare with an implementation by others too, where there is one.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from snippets._SECTION_._NAME_ import _NAME_

sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def random_rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def run_with_gradient(function, x):
    """The output, and the gradient of a sum that weighs each number of it differently."""
    x = x.detach().requires_grad_()
    out = function(x)
    weights = torch.arange(1, out.numel() + 1, dtype=out.dtype).reshape(out.shape).sin()
    return out.detach(), torch.autograd.grad((out * weights).sum(), x)[0]


def by_definition(x):
    """The formula of the page, one number at a time."""
    rows = [torch.stack([one - sum(row) / len(row) for one in row]) for row in x]
    return torch.stack(rows)


# Parity ---------------------------------------------------------------------


@given(rows=sizes, c=sizes, seed=seeds)
def test_equals_the_definition(rows, c, seed):
    x = random_rows(rows, c, seed=seed)
    for actual, expected in zip(
        run_with_gradient(_NAME_, x), run_with_gradient(by_definition, x), strict=True
    ):
        assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# Invariants -----------------------------------------------------------------


@given(c=sizes, shift=st.floats(-5, 5), seed=seeds)
def test_a_number_added_to_all_changes_nothing(c, shift, seed):
    x = random_rows(3, c, seed=seed)
    assert_close(_NAME_(x + shift), _NAME_(x), rtol=1e-10, atol=1e-10)


def test_batched_equals_single():
    x = random_rows(2, 3, 4)
    for one, out in zip(x.flatten(0, 1), _NAME_(x).flatten(0, 1), strict=True):
        assert_close(out, _NAME_(one), rtol=1e-10, atol=1e-10)


# Gradient -------------------------------------------------------------------


def test_gradient():
    assert torch.autograd.gradcheck(_NAME_, random_rows(2, 3).requires_grad_())


# Edges ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)], ids=str)
def test_nothing(shape):
    assert _NAME_(torch.zeros(shape)).shape == shape


def test_a_single_number():
    assert torch.equal(_NAME_(torch.tensor([3.0])), torch.zeros(1))


def test_input_that_is_not_contiguous_and_stays_as_it_is():
    x = random_rows(4, 3).T
    before = x.clone()
    assert_close(_NAME_(x), _NAME_(x.contiguous()))
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision(dtype):
    x = random_rows(2, 4).to(dtype)
    out, step = _NAME_(x), torch.finfo(dtype).eps
    assert out.dtype == dtype
    assert_close(out.double(), _NAME_(x.double()), rtol=8 * step, atol=8 * step)


# Bad input ------------------------------------------------------------------


def test_bad_input():
    with pytest.raises(TypeError, match=r"must be floating, got torch\.int64"):
        _NAME_(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"at least one axis, got \(\)"):
        _NAME_(torch.tensor(1.0))
