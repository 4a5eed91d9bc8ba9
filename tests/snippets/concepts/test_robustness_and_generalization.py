"""Robustness: plain loops, brute force over corners, closed forms, SciPy, edges, bad input.

Yardstick: plain loops; closed form.
"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from torch import nn
from torch.testing import assert_close

from snippets.concepts.robustness_and_generalization import (
    IMAGENET_C,
    accuracy,
    accuracy_curve,
    contrast,
    corruption_error,
    cross_entropy,
    fgsm,
    gaussian_blur,
    gaussian_noise,
    impulse_noise,
    linear_margin,
    margin_loss,
    pgd,
    project,
    random_in_ball,
    steepest,
)

F64 = torch.float64
NORMS = ["linf", "l2"]
seeds = st.integers(0, 2**32 - 1)
norms = st.sampled_from(NORMS)
EPS = st.floats(0, 2)


def same(actual, expected, tolerance=1e-10):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def problem(b=5, d=6, k=3, seed=0):
    """Inputs well within 0..1, labels, and a linear model."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(d, k, dtype=F64))
    nn.init.normal_(model[1].weight, std=0.5), nn.init.normal_(model[1].bias, std=0.5)
    return model, torch.rand(b, d, dtype=F64), torch.randint(0, k, (b,))


def network(d=6, k=3, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, k)).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7)
    return model


def length(delta, norm):
    order = math.inf if norm == "linf" else 2
    return np.linalg.norm(delta.flatten(1).double().numpy(), ord=order, axis=1)


def ce(logits, y):
    """Cross-entropy in NumPy, one example."""
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[y]


def ce_gradient(w, b, x, y):
    """Of the cross-entropy of a linear model by one input, by hand."""
    z = w @ x + b
    p = np.exp(z - z.max())
    p /= p.sum()
    p[y] -= 1
    return w.T @ p


def pgd_by_loops(w, b, x, y, eps, steps, step, norm, targeted, bounds):
    """Of a linear model, example by example in NumPy, from x, the best iterate kept."""
    out = []
    for x0, y0 in zip(x.numpy(), y.tolist()):
        sign = -1 if targeted else 1
        seen, current = [x0], x0
        for _ in range(steps):
            g = sign * ce_gradient(w, b, current, y0)
            if norm == "linf":
                g = np.sign(g)
                current = np.minimum(np.maximum(current + step * g, x0 - eps), x0 + eps)
            else:
                move = current + step * g / np.linalg.norm(g) - x0
                size = np.linalg.norm(move)
                current = x0 + (move if size <= eps else move * eps / size)
            if bounds is not None:
                current = np.clip(current, *bounds)
            seen.append(current)
        losses = [sign * ce(w @ v + b, y0) for v in seen]
        out.append(seen[int(np.argmax(losses))])
    return torch.tensor(np.array(out))


# Attacks: parity ------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)], ids=["free", "bounded"])
@pytest.mark.parametrize(("eps", "steps", "step"), [(0.3, 7, 0.1), (0.2, 3, 0.5), (0.4, 1, 0.1)])
def test_pgd_is_that_of_plain_loops(norm, targeted, bounds, eps, steps, step):
    for seed in range(3):
        model, x, y = problem(seed=seed)
        w, b = (p.detach().numpy() for p in model.parameters())
        options = dict(norm=norm, targeted=targeted, bounds=bounds)
        found = pgd(model, x, y, eps, steps=steps, step=step, random_start=False, **options)
        same(found, pgd_by_loops(w, b, x, y, eps, steps, step, **options))


@pytest.mark.parametrize("norm", NORMS)
def test_step_if_none_is_two_and_a_half_radii_in_all(norm):
    model, x, y = problem()
    net = network()
    a = pgd(net, x, y, 0.3, steps=5, norm=norm, random_start=False)
    b = pgd(net, x, y, 0.3, steps=5, step=0.15, norm=norm, random_start=False)
    assert torch.equal(a, b)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_is_one_step_along_the_gradient_by_hand(norm, targeted):
    model, x, y = problem()
    w, b = (p.detach().numpy() for p in model.parameters())
    for bounds in (None, (0.0, 1.0)):
        expected = []
        for x0, y0 in zip(x.numpy(), y.tolist()):
            g = ce_gradient(w, b, x0, y0) * (-1 if targeted else 1)
            move = x0 + 0.4 * (np.sign(g) if norm == "linf" else g / np.linalg.norm(g))
            expected.append(move if bounds is None else move.clip(0, 1))
        found = fgsm(model, x, y, 0.4, norm=norm, targeted=targeted, bounds=bounds)
        same(found, np.array(expected))


def margin_by_loops(w, b, x, y):
    return min((w[y] - w[j]) @ x + b[y] - b[j] for j in range(len(w)) if j != y)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_linear_margin_is_the_least_over_all_corners(k):
    model, x, y = problem(b=4, d=5, k=k)
    w, b = (p.detach().numpy() for p in model.parameters())
    corners = np.array(list(itertools.product([-1, 1], repeat=5)))
    for eps in (0.0, 0.1, 0.7):
        expected = [
            min(margin_by_loops(w, b, x0 + eps * c, y0) for c in corners)
            for x0, y0 in zip(x.numpy(), y.tolist())
        ]
        same(linear_margin(*model.parameters(), x, y, eps).detach(), expected)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.7])
def test_linear_margin_in_l2_is_reached_along_the_difference_of_the_rows(eps):
    model, x, y = problem(k=4)
    w, b = (p.detach().numpy() for p in model.parameters())
    expected = []
    for x0, y0 in zip(x.numpy(), y.tolist()):
        ends = []
        for j in set(range(4)) - {y0}:
            d = w[y0] - w[j]
            ends.append(d @ (x0 - eps * d / np.linalg.norm(d)) + b[y0] - b[j])
        expected.append(min(ends))
    found = linear_margin(*model.parameters(), x, y, eps, "l2").detach()
    same(found, expected)
    sphere = torch.randn(500, 1, 6, dtype=F64)
    sphere = eps * sphere / sphere.norm(dim=-1, keepdim=True)
    for moved in x + sphere:  # nothing in the ball is worse
        assert (linear_margin(*model.parameters(), moved, y) >= found - 1e-12).all()


@settings(max_examples=8)
@given(seed=seeds, eps=EPS, norm=norms)
def test_fgsm_is_exact_on_a_linear_model_of_two_classes(seed, eps, norm):
    model, x, y = problem(k=2, seed=seed)
    weight, bias = (p.detach() for p in model.parameters())
    attacked = fgsm(model, x, y, eps, norm=norm, bounds=None)
    same(linear_margin(weight, bias, attacked, y), linear_margin(weight, bias, x, y, eps, norm))
    stepped = pgd(model, x, y, eps, norm=norm, bounds=None, steps=3, random_start=False)
    same(margin_loss(model(stepped), y).detach(), -linear_margin(weight, bias, x, y, eps, norm))


def test_with_three_classes_one_step_need_not_be_exact():
    found = []
    for seed in range(20):
        model, x, y = problem(seed=seed)
        weight, bias = (p.detach() for p in model.parameters())
        exact = linear_margin(weight, bias, x, y, 0.5)
        attacked = fgsm(model, x, y, 0.5, bounds=None)
        margins = linear_margin(weight, bias, attacked, y)
        assert (margins >= exact - 1e-12).all()
        found.append(bool((margins > exact + 1e-6).any()))
        targets = [
            fgsm(
                model,
                x,
                y,
                0.5,
                bounds=None,
                loss=lambda z, y, j=j: (
                    z.roll(-j, 1).gather(1, y[:, None])[:, 0] - z.gather(1, y[:, None])[:, 0]
                ),
            )
            for j in (1, 2)
        ]  # each other class for itself: exact again
        least = torch.stack([linear_margin(weight, bias, t, y) for t in targets]).amin(0)
        same(least, exact)
    assert any(found)


# Attacks: invariants --------------------------------------------------------------


@settings(max_examples=8)
@given(seed=seeds, eps=EPS, norm=norms, steps=st.integers(1, 4), random=st.booleans())
def test_the_result_lies_in_the_ball_and_in_bounds(seed, eps, norm, steps, random):
    x, y = problem(seed=seed)[1:]
    g = torch.Generator().manual_seed(seed)
    found = pgd(
        network(), x, y, eps, steps=steps, norm=norm, random_start=random, generator=g, step=0.7
    )
    assert found.amin() >= 0 and found.amax() <= 1
    assert (length(found - x, norm) <= eps + 1e-12).all()


@settings(max_examples=8)
@given(seed=seeds, norm=norms, eps=st.floats(0.01, 1), targeted=st.booleans())
def test_pgd_is_at_least_as_strong_as_fgsm_and_more_steps_and_starts_as_fewer(
    seed, norm, eps, targeted
):
    x, y = problem(seed=seed)[1:]
    net = network(seed=seed % 7)
    options = dict(norm=norm, targeted=targeted)

    def score(found):
        return cross_entropy(net(found), y).detach() * (-1 if targeted else 1)

    once = score(fgsm(net, x, y, eps, **options))
    last = once
    for steps in (1, 2, 4):
        now = score(pgd(net, x, y, eps, steps=steps, step=eps, random_start=False, **options))
        assert (now >= last - 1e-12).all()
        last = now
    assert (last >= score(x)).all()
    restarted = [
        score(
            pgd(
                net,
                x,
                y,
                eps,
                restarts=n,
                steps=2,
                generator=torch.Generator().manual_seed(1),
                **options,
            )
        )
        for n in (1, 3)
    ]
    assert (restarted[1] >= restarted[0]).all()


def test_a_target_is_approached():
    model, x, y = problem()
    for norm in NORMS:
        found = pgd(model, x, y, 0.2, norm=norm, targeted=True, random_start=False)
        assert (cross_entropy(model(found), y) < cross_entropy(model(x), y)).all()


@settings(max_examples=8)
@given(seed=seeds, norm=norms, targeted=st.booleans())
def test_no_radius_gives_the_input(seed, norm, targeted):
    x, y = problem(seed=seed)[1:]
    for attack in (fgsm, pgd):
        assert torch.equal(attack(network(), x, y, 0.0, norm=norm, targeted=targeted), x)


@pytest.mark.parametrize("norm", NORMS)
def test_examples_do_not_depend_on_the_batch_they_are_in(norm):
    model, x, y = problem()
    net = network()
    together = pgd(net, x, y, 0.3, norm=norm, random_start=False)
    alone = [
        pgd(net, x[i : i + 1], y[i : i + 1], 0.3, norm=norm, random_start=False) for i in range(5)
    ]
    same(together, torch.cat(alone))


class Probe(nn.Module):
    """A model with dropout, batch normalisation, and one part that stays in eval mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.frozen, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.double()
        self.frozen.eval()

    def forward(self, x):
        assert not any(m.training for m in self.modules())
        return self.head(self.drop(self.frozen(self.norm(x))))


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_is_left_as_it_was(mode):
    torch.manual_seed(0)
    model = Probe()
    model.norm.train(mode)
    flags = {name: m.training for name, m in model.named_modules()}
    assert not flags["frozen"] and flags["drop"] and flags["norm"] == mode
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = problem()[1:]
    kept = x.clone()
    model.head.bias.grad = torch.ones(3, dtype=F64)
    x.requires_grad_()
    for found in (fgsm(model, x, y, 0.1), pgd(model, x, y, 0.1)):
        assert not found.requires_grad and found.grad_fn is None
    with torch.no_grad():  # a caller without gradients is attacked all the same
        assert not torch.equal(fgsm(model, x, y, 0.1), x)
    assert 0 <= accuracy(model, x, y) <= 1
    assert {name: m.training for name, m in model.named_modules()} == flags
    assert model.head.weight.grad is None and model.norm.weight.grad is None
    assert torch.equal(model.head.bias.grad, torch.ones(3, dtype=F64))
    assert x.grad is None and torch.equal(x, kept)
    for k, v in model.state_dict().items():
        assert torch.equal(v, state[k])


def test_flags_come_back_after_an_error():
    model = Probe()
    with pytest.raises(RuntimeError):
        fgsm(model, torch.rand(2, 5, dtype=F64), torch.tensor([0, 1]), 0.1)
    assert model.training and model.drop.training and not model.frozen.training


def test_the_random_start_comes_from_the_generator():
    net, (x, y) = network(), problem()[1:]
    for norm in NORMS:
        a, b, c = (
            pgd(
                net,
                x,
                y,
                0.3,
                norm=norm,
                steps=1,
                step=0.01,
                generator=torch.Generator().manual_seed(s),
            )
            for s in (0, 0, 1)
        )
        assert torch.equal(a, b) and not torch.equal(a, c)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        pgd(net, x, y, 0.3, norm=norm, generator=torch.Generator().manual_seed(0))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_zero_step_returns_the_start():
    net, (x, y) = network(), problem()[1:]
    for norm in NORMS:
        g, h = (torch.Generator().manual_seed(3) for _ in range(2))
        start = (x + random_in_ball(x, 0.2, norm, g)).clamp(0, 1)
        same(pgd(net, x, y, 0.2, norm=norm, steps=1, step=0.0, generator=h), start)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_the_start_is_uniform_in_the_ball(norm, d):
    x = torch.zeros(4000, d, 1, dtype=F64)
    drawn = random_in_ball(x, 0.5, norm, torch.Generator().manual_seed(0))
    radius = length(drawn, norm)
    assert radius.max() <= 0.5
    assert kstest((radius / 0.5) ** d, "uniform").pvalue > 0.01
    assert abs(drawn.mean()) < 0.02
    assert abs((drawn > 0).double().mean() - 0.5) < 0.02


# The ball ---------------------------------------------------------------------------


@given(seed=seeds, eps=EPS)
def test_projection_finds_the_nearest_point(seed, eps):
    torch.manual_seed(seed)
    delta = torch.randn(4, 2, 3, dtype=F64)
    inf, two = (project(delta, eps, norm) for norm in NORMS)
    same(inf, np.clip(delta.numpy(), -eps, eps))
    size = length(delta, "l2")
    same(two, delta.numpy() * np.minimum(1, eps / size)[:, None, None])
    for norm, projected in zip(NORMS, (inf, two)):
        same(project(projected, eps, norm), projected, 1e-14)
        inside = length(delta, norm) < eps
        assert torch.equal(projected[inside], delta[inside])
        assert not project(torch.zeros_like(delta), eps, norm).any()
        # the way to any other point of the ball makes an angle of at least 90 degrees
        others = random_in_ball(delta, eps, norm, torch.Generator().manual_seed(seed))
        assert (((delta - projected) * (others - projected)).flatten(1).sum(1) <= 1e-12).all()


@given(seed=seeds, scale=st.sampled_from([1e-200, 1.0, 1e200]))
def test_a_step_has_size_one_whatever_the_gradient(seed, scale):
    torch.manual_seed(seed)
    gradient = torch.randn(4, 2, 3, dtype=F64) * scale
    for norm in NORMS:
        step = steepest(gradient, norm)
        assert np.allclose(length(step, norm), 1, atol=1e-12)
        direction = gradient.sign() if norm == "linf" else gradient
        cosine = F.cosine_similarity(
            (direction / direction.abs().amax()).flatten(1), step.flatten(1)
        )
        same(cosine, torch.ones(4))
    still = torch.zeros(2, 3, dtype=F64)
    assert all(torch.equal(steepest(still, norm), still) for norm in NORMS)


def test_no_move_where_there_is_no_gradient():
    x, y = problem()[1:]
    flat = nn.Sequential(nn.Linear(6, 3).double())
    nn.init.zeros_(flat[0].weight)
    for norm in NORMS:
        assert torch.equal(fgsm(flat, x, y, 0.3, norm=norm), x)
        assert torch.equal(pgd(flat, x, y, 0.3, norm=norm, random_start=False), x)


def test_a_saturated_softmax_masks_the_gradient_and_the_margin_does_not():
    model, x, y = problem(k=2)
    y = model(x).argmax(1)
    model, x = model.float(), x.float()

    class Sharp(nn.Module):
        def forward(self, x):
            return 1e5 * model(x)

    sharp = Sharp()
    assert torch.equal(fgsm(sharp, x, y, 0.3), x)  # exp(-100) is 0 in float32
    same(fgsm(sharp, x, y, 0.3, loss=margin_loss), fgsm(model, x, y, 0.3), 1e-6)


# Losses -----------------------------------------------------------------------------


@given(seed=seeds, k=st.integers(2, 5))
def test_losses_by_loops(seed, k):
    torch.manual_seed(seed)
    logits, y = torch.randn(4, k, dtype=F64), torch.randint(0, k, (4,))
    rows = list(zip(logits.numpy(), y.tolist()))
    same(cross_entropy(logits, y), [ce(*row) for row in rows])
    found = margin_loss(logits, y)
    same(found, [max(z[j] for j in range(k) if j != t) - z[t] for z, t in rows])
    assert torch.equal(found > 0, logits.argmax(1) != y)


# Corruptions ------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.6])
@pytest.mark.parametrize("shape", [(2, 3, 9, 12), (1, 1, 3, 20), (2, 1, 1, 1)])
def test_blur_is_that_of_scipy(sigma, shape):
    torch.manual_seed(0)
    x = torch.rand(shape, dtype=F64)
    same(gaussian_blur(x, sigma), gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest"))


def test_contrast_by_loops():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 5, dtype=F64)
    found = contrast(x, 0.3)
    for b, c in itertools.product(range(2), range(3)):
        mean = np.mean(x[b, c].numpy())
        same(found[b, c], mean + 0.3 * (x[b, c].numpy() - mean))
    same(contrast(x, 1.0), x)


def test_noise_has_the_strength_asked_for():
    x = torch.full((2, 3, 100, 100), 0.5, dtype=F64)
    noise = gaussian_noise(x, 0.1, torch.Generator().manual_seed(0)) - x
    assert abs(noise.mean()) < 0.001 and abs(noise.std() - 0.1) < 0.001
    assert kstest(noise.flatten().numpy() / 0.1, "norm").pvalue > 0.01
    hit = impulse_noise(x, 0.3, torch.Generator().manual_seed(0))
    shares = [(hit == v).double().mean().item() for v in (0, 1, 0.5)]
    assert np.allclose(shares, [0.15, 0.15, 0.7], atol=0.005)


def test_corruptions_stay_in_range_and_leave_their_input():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 7).transpose(-1, -2)
    copy = x.clone()
    random = {gaussian_noise: "gaussian_noise", impulse_noise: "impulse_noise"}
    fixed = {gaussian_blur: "gaussian_blur", contrast: "contrast"}
    for f, name in (random | fixed).items():
        assert len(IMAGENET_C[name]) == 5
        changes = []
        for strength in IMAGENET_C[name]:
            g, h = (torch.Generator().manual_seed(1) for _ in range(2))
            out = f(x, strength, g) if f in random else f(x, strength)
            again = f(x.contiguous(), strength, h) if f in random else f(x.contiguous(), strength)
            assert out.shape == x.shape and out.dtype == x.dtype
            assert out.amin() >= 0 and out.amax() <= 1
            assert_close(out, again)
            changes.append((out - x).square().mean())
        assert changes == sorted(changes)  # a higher severity changes more
    assert torch.equal(x, copy)
    for f in (gaussian_noise, impulse_noise, gaussian_blur):
        assert torch.equal(f(x, 0.0), x)


# Measures ---------------------------------------------------------------------------


def test_accuracy_and_its_curve_by_loops():
    _, x, y = problem(b=40)
    model = network()
    y[:30] = model(x).argmax(1)[:30]  # at least these are right
    answers = [int(np.argmax(row)) for row in model(x).tolist()]
    assert accuracy(model, x, y) == sum(a == b for a, b in zip(answers, y.tolist())) / 40
    curve = accuracy_curve(model, x, y, lambda x, level: x * level, [1.0, 0.5, 0.0])
    same(curve, [accuracy(model, x * s, y) for s in (1.0, 0.5, 0.0)], 0)
    eps = [0.0, 0.02, 0.05, 0.1, 0.5]
    falling = accuracy_curve(model, x, y, lambda x, e: fgsm(model, x, y, e), eps)
    assert falling[0] == accuracy(model, x, y) and falling[-1] < falling[0]


@pytest.mark.parametrize("clean", [None, (0.1, 0.4)])
def test_corruption_error_by_loops(clean):
    torch.manual_seed(0)
    errors = 0.2 + 0.3 * torch.rand(4, 5, dtype=F64)
    reference = 0.5 + 0.3 * torch.rand(4, 5, dtype=F64)
    ours, theirs = clean or (0, 0)
    expected = [
        sum(e - ours for e in a) / sum(e - theirs for e in b)
        for a, b in zip(errors.tolist(), reference.tolist())
    ]
    same(corruption_error(errors, reference, clean), expected)
    same(corruption_error(reference, reference, (theirs, theirs)), torch.ones(4))


# Gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_of_the_closed_form(norm):
    model, x, y = problem()
    inputs = [*(p.detach().requires_grad_() for p in model.parameters()), x.requires_grad_()]
    assert torch.autograd.gradcheck(lambda w, b, x: linear_margin(w, b, x, y, 0.2, norm), inputs)


def test_the_closed_form_has_a_gradient_at_zero_weights():
    _, x, y = problem()
    for norm in NORMS:
        weight = torch.zeros(3, 6, dtype=F64, requires_grad=True)
        margin = linear_margin(weight, torch.zeros(3, dtype=F64), x, y, 0.1, norm)
        assert torch.autograd.grad(margin.sum(), weight)[0].isfinite().all()


def test_gradients_of_corruptions():
    torch.manual_seed(0)
    x = (0.3 + 0.4 * torch.rand(1, 2, 3, 4, dtype=F64)).requires_grad_()
    noisy = lambda x: gaussian_noise(x, 0.05, torch.Generator().manual_seed(0))  # noqa: E731
    for f in (lambda x: gaussian_blur(x, 0.8), lambda x: contrast(x, 0.3), noisy):
        assert torch.autograd.gradcheck(f, x)


# Edges --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_no_examples(norm):
    x, y = torch.zeros(0, 6, dtype=F64), torch.zeros(0, dtype=torch.int64)
    model, net = problem()[0], network()
    assert fgsm(net, x, y, 0.1, norm=norm).shape == (0, 6)
    assert pgd(net, x, y, 0.1, norm=norm).shape == (0, 6)
    assert linear_margin(*model.parameters(), x, y, 0.1, norm).shape == (0,)
    assert math.isnan(accuracy(net, x, y))
    assert project(x, 0.1, norm).shape == steepest(x, norm).shape == (0, 6)
    images = torch.zeros(0, 3, 4, 4)
    for f in (gaussian_noise, impulse_noise, gaussian_blur, contrast):
        assert f(images, 0.5).shape == images.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_every_precision(norm, dtype):
    _, x, y = problem()
    net, x = network().to(dtype), x.to(dtype)
    for found in (fgsm(net, x, y, 0.25, norm=norm), pgd(net, x, y, 0.25, norm=norm)):
        assert found.dtype == dtype and not torch.equal(found, x)
        slack = 8 * torch.finfo(dtype).eps
        assert (length(found.double() - x.double(), norm) <= 0.25 + slack).all()
    tall = torch.full((1, 4), 300.0, dtype=dtype)  # squares beyond float16
    if norm == "l2":
        same(project(tall, 1.0, norm), torch.full((1, 4), 0.5), 0.01)
    image = torch.rand(1, 2, 5, 5).to(dtype)
    for f in (gaussian_noise, impulse_noise, gaussian_blur, contrast):
        out = f(image, 0.5)
        assert out.dtype == dtype and out.isfinite().all()


def test_images_and_non_contiguous_input():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(18, 3)).double()
    x, y = torch.rand(5, 4, 2, 4, dtype=F64).permute(3, 2, 1, 0), torch.tensor([0, 1, 2, 0])
    assert not x.is_contiguous() and x.shape == (4, 2, 4, 5)
    for norm in NORMS:
        a, b = (pgd(net, v, y, 0.2, norm=norm, random_start=False) for v in (x, x.contiguous()))
        same(a, b)
        assert (length(a - x, norm) <= 0.2 + 1e-12).all()


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(eps=-0.1), ValueError, "eps must be finite and not negative, got -0.1"),
        (dict(eps=math.inf), ValueError, "got inf"),
        (dict(eps=math.nan), ValueError, "got nan"),
        (dict(norm="l1"), ValueError, "norm must be 'linf' or 'l2', got 'l1'"),
        (dict(x=torch.zeros(2, 6, dtype=torch.int64)), TypeError, "got torch.int64"),
        (dict(x=torch.zeros(2)), ValueError, r"got \(2,\), \(2,\)"),
        (dict(y=torch.zeros(3, dtype=torch.int64)), ValueError, r"got \(2, 6\), \(3,\)"),
        (dict(y=torch.zeros(2)), TypeError, "y must be int64, got torch.float32"),
        (dict(bounds=(1.0, 0.0)), ValueError, r"\(low, high\), got \(1.0, 0.0\)"),
        (dict(x=torch.full((2, 6), 255.0)), ValueError, r"\(0.0, 1.0\), got 255 to 255"),
        (dict(x=torch.full((2, 6), -2.0)), ValueError, "got -2 to -2"),
        (dict(x=torch.full((2, 6), math.nan)), ValueError, "got nan to nan"),
    ],
    ids=lambda x: str(x)[:20] if isinstance(x, str) else "",
)
def test_bad_attacks(change, error, message):
    good = dict(x=torch.zeros(2, 6), y=torch.tensor([0, 1]), eps=0.1, norm="linf")
    for attack in (fgsm, pgd):
        with pytest.raises(error, match=message):
            attack(network().float(), **(good | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=0), "steps must be at least 1, got 0"),
        (dict(step=-1.0), "step must be finite and not negative, got -1.0"),
        (dict(step=math.inf), "got inf"),
        (dict(restarts=0), "restarts must be at least 1, got 0"),
        (dict(restarts=3, random_start=False), "without a random start all 3 restarts"),
    ],
)
def test_bad_steps(change, message):
    with pytest.raises(ValueError, match=message):
        pgd(network().float(), torch.zeros(2, 6), torch.tensor([0, 1]), 0.1, **change)


def test_bad_balls():
    for f in (
        lambda: project(torch.ones(1, 2), -1, "l2"),
        lambda: project(torch.ones(1, 2), -1, "linf"),
    ):
        with pytest.raises(ValueError, match="not negative, got -1"):
            f()
    with pytest.raises(ValueError, match="got 'L2'"):
        steepest(torch.ones(1, 2), "L2")
    with pytest.raises(ValueError, match="got 'max'"):
        linear_margin(
            torch.ones(2, 2), torch.ones(2), torch.ones(1, 2), torch.tensor([0]), 0.1, "max"
        )


@pytest.mark.parametrize("f", [gaussian_noise, impulse_noise, gaussian_blur, contrast])
def test_bad_corruptions(f):
    image = torch.zeros(1, 1, 3, 3)
    with pytest.raises(ValueError, match="must be finite, from 0 to .*, got -0.5"):
        f(image, -0.5)
    with pytest.raises(ValueError, match="got inf"):
        f(image, math.inf)
    with pytest.raises(ValueError, match="x must lie in 0 to 1, got 0 to 255"):
        f(torch.tensor([0.0, 255.0]).reshape(1, 1, 1, 2), 0.5)
    with pytest.raises(TypeError, match="got torch.uint8"):
        f(image.to(torch.uint8), 0.5)
    if f in (impulse_noise, contrast):
        with pytest.raises(ValueError, match="from 0 to 1, got 1.5"):
            f(image, 1.5)
    if f in (gaussian_blur, contrast):
        with pytest.raises(ValueError, match=r"must be \(B, C, H, W\), got \(3, 3\)"):
            f(torch.zeros(3, 3), 0.5)


def test_bad_errors():
    with pytest.raises(ValueError, match=r"both be \(R, S\), got \(3,\), \(3,\)"):
        corruption_error(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"got \(2, 3\), \(3, 2\)"):
        corruption_error(torch.ones(2, 3), torch.ones(3, 2))


def test_a_step_has_its_size_in_half_precision():
    for dtype, size in ((torch.float16, 1e-6), (torch.float16, 300.0), (torch.float32, 1e-40)):
        step = steepest(torch.full((2, 100), size, dtype=dtype), "l2")
        assert step.dtype == dtype
        assert_close(
            step.double().norm(dim=1), torch.ones(2, dtype=torch.float64), rtol=2e-3, atol=0
        )


def test_a_blurred_image_stays_an_image():
    white = gaussian_blur(torch.ones(1, 1, 33, 47), 2.0)
    assert contrast(white, 0.5).max() <= 1
