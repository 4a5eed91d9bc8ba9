"""FGSM and PGD in their balls; accuracy of a small network under corruptions and attacks."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from matplotlib.patches import Circle, Rectangle
from sklearn.datasets import load_digits
from torch import nn

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.concepts.robustness_and_generalization import (
    accuracy_curve,
    contrast,
    cross_entropy,
    fgsm,
    gaussian_blur,
    gaussian_noise,
    pgd,
    project,
    random_in_ball,
    steepest,
)

PLACE, EPS, START = (0.6, 1.2), 0.5, 1
VIEW = (-0.35, 1.55), (0.2, 2.0)

torch.set_num_threads(1)


def figures(t):
    yield "robustness_attacks", attacks(t)
    yield "robustness_curves", curves(t)


def network(sizes, generator):
    """A perceptron, its weights from the generator."""
    layers = []
    for n, m in pairwise(sizes):
        layer = nn.Linear(n, m, dtype=torch.float64)
        with torch.no_grad():
            drawn = torch.randn(m, n, generator=generator, dtype=torch.float64)
            layer.weight.copy_(drawn * (2 / n) ** 0.5)
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def train(model, x, y, steps, attack=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        seen = x if attack is None else attack(x)
        optimizer.zero_grad()
        F.cross_entropy(model(seen), y).backward()
        optimizer.step()
    return model


def path(model, x, y, eps, norm, step, steps, generator):
    """The iterates of PGD, by the parts of the snippet."""
    current = x + random_in_ball(x, eps, norm, generator)
    points = [current]
    for _ in range(steps):
        current = current.detach().requires_grad_()
        gradient = torch.autograd.grad(cross_entropy(model(current), y).sum(), current)[0]
        current = x + project(current.detach() + step * steepest(gradient, norm) - x, eps, norm)
        points.append(current)
    return torch.cat(points).detach()


def attacks(t):
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(400, 2, generator=generator, dtype=torch.float64) - 2
    y = (x[:, 1] > 0.9 * torch.sin(2.2 * x[:, 0])).long()
    model = train(network([2, 16, 16, 2], generator), x, y, 200)
    axis = torch.linspace(-2, 2, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logits = model(grid)
        margin = (logits[:, 1] - logits[:, 0]).reshape(61, 61).T
    point, label, eps = torch.tensor([PLACE], dtype=torch.float64), torch.tensor([1]), EPS
    figure, axes = new(6, 3.2, 2)
    for ax, norm, title in zip(axes, ("linf", "l2"), ("L∞", "L2"), strict=True):
        ax.contourf(axis, axis, margin, levels=[0, 1e9], colors=[ORANGE], alpha=0.13)
        ax.contourf(axis, axis, margin, levels=[-1e9, 0], colors=[BLUE], alpha=0.13)
        ax.contour(axis, axis, margin, levels=[0], colors=[INK], linewidths=1.2)
        a, b = point[0].tolist()
        ball = (
            Rectangle((a - eps, b - eps), 2 * eps, 2 * eps)
            if norm == "linf"
            else Circle((a, b), eps)
        )
        ball.set(facecolor="none", edgecolor=INK, linestyle=(0, (3, 2)), linewidth=1)
        ax.add_patch(ball)
        once = fgsm(model, point, label, eps, norm=norm, bounds=None)[0]
        steps = path(
            model, point, label, eps, norm, eps / 3, 10, torch.Generator().manual_seed(START)
        )
        ax.annotate("", once.tolist(), (a, b), arrowprops=dict(arrowstyle="-|>", color=RED, lw=1.6))
        ax.plot(*steps.T, color=PURPLE, marker="o", markersize=3.5, linewidth=1.3)
        ax.plot(*steps[0], "o", color=PURPLE, markersize=7, fillstyle="none")
        ax.plot(a, b, "o", color=INK, markersize=5)
        for name, end, color, place in (
            ("PGD", steps[0], PURPLE, (6, 4) if norm == "linf" else (-28, 4)),
            ("FGSM", once, RED, (6, 4) if norm == "linf" else (10, -4)),
        ):
            ax.annotate(name, end.tolist(), place, textcoords="offset points", color=color)
        ax.spines[:].set_visible(False)
        ax.set(xlim=VIEW[0], ylim=VIEW[1], xticks=[], yticks=[], aspect="equal")
        ax.set_title(title)
    return figure


def curves(t):
    digits = load_digits()
    images = torch.tensor(digits.images / 16)[:, None]  # (B, 1, 8, 8) in 0..1
    labels = torch.tensor(digits.target)
    x, y, new_x, new_y = images[:1000], labels[:1000], images[1000:], labels[1000:]
    sizes = [64, 64, 10]
    plain = train(network(sizes, torch.Generator().manual_seed(0)), x, y, 100)
    g = torch.Generator().manual_seed(1)
    hard = network(sizes, torch.Generator().manual_seed(0))
    train(hard, x, y, 100, lambda x: pgd(hard, x, y, 0.15, steps=3, generator=g))

    figure, (left, right) = new(6, 3, 2)
    severities = {
        t("noise", "噪声"): (BLUE, "o", (0.1, 0.2, 0.3, 0.4, 0.5), gaussian_noise),
        t("blur", "模糊"): (GREEN, "s", (0.4, 0.6, 0.8, 1.0, 1.2), gaussian_blur),
        t("contrast", "对比度"): (ORANGE, "^", (0.75, 0.5, 0.4, 0.3, 0.15), contrast),
    }
    for name, (color, marker, strengths, corrupt) in severities.items():
        noise = torch.Generator().manual_seed(2)
        extra = (noise,) if corrupt is gaussian_noise else ()
        clean = accuracy_curve(plain, new_x, new_y, lambda x, s: x, [0.0])
        found = accuracy_curve(
            plain, new_x, new_y, lambda x, s, f=corrupt, e=extra: f(x, s, *e), strengths
        )
        left.plot(
            range(6), 100 * torch.cat([clean, found]), color=color, marker=marker, ms=4, label=name
        )
    left.set(xlabel=t("severity", "严重程度"), ylim=(0, 100))
    left.set_title(t("accuracy, corruptions (%)", "准确率，图像损坏（%）"))
    left.legend(loc="lower left")

    eps = [i / 40 for i in range(13)]
    noise = torch.Generator().manual_seed(3)
    signs = 2.0 * torch.randint(0, 2, new_x.shape, generator=noise) - 1
    lines = [
        (BLUE, "-", lambda x, e: (x + e * signs).clamp(0, 1), plain),
        (RED, "-", lambda x, e: fgsm(plain, x, new_y, e), plain),
        (PURPLE, "-", lambda x, e: pgd(plain, x, new_y, e, generator=noise), plain),
        (PURPLE, "--", lambda x, e: pgd(hard, x, new_y, e, generator=noise), hard),
    ]
    for color, style, perturb, model in lines:
        curve = 100 * accuracy_curve(model, new_x, new_y, perturb, eps)
        right.plot(eps, curve, color=color, linestyle=style)
    right.set(xlabel="ε", ylim=(0, 100))
    right.set_title(t("accuracy, attacks (%)", "准确率，攻击（%）"))
    right.text(0.3, 90, t("random signs", "随机符号"), color=BLUE, ha="right")
    right.text(0.0, 22, "FGSM", color=RED)
    right.text(0.0, 11, "PGD", color=PURPLE)
    hardened = t("PGD, adver-\nsarially\ntrained", "PGD，\n对抗训练后")
    right.text(0.303, 42, hardened, color=PURPLE, ha="right")
    return figure
