"""Figures of the page on distribution shift."""

import math

import torch
from matplotlib.figure import Figure

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.concepts.distribution_shift import (
    domain_classifier,
    effective_sample_size,
    importance_weights,
    mmd_test,
)


def figures(t):
    yield "shift_kinds", kinds(t)
    yield "shift_weighting", weighting(t)
    yield "shift_detection", detection(t)


def normal(x, mean=0.0, std=1.0):
    return (-0.5 * ((x - mean) / std) ** 2).exp() / (std * math.sqrt(2 * math.pi))


def kinds(t):
    """What moves and what stays, computed from two Gaussian classes."""
    x = torch.linspace(-4, 4, 25)
    p_x = (normal(x, -1) + normal(x, 1)) / 2
    p_1 = (2 * x).sigmoid()  # P(y = 1 | x) of the source

    def joint(density, posterior):
        return density, posterior, density * posterior / torch.trapezoid(density * posterior, x)

    prior = 0.12
    q_x = (1 - prior) * normal(x, -1) + prior * normal(x, 1)
    targets = [
        (t("covariate shift", "协变量偏移"), joint(normal(x, 1.6, 0.9), p_1)),
        (t("label shift", "标签偏移"), joint(q_x, prior * normal(x, 1) / q_x)),
        (t("concept shift", "概念偏移"), joint(p_x, (2 * (x - 1.3)).sigmoid())),
    ]
    source = joint(p_x, p_1)
    rows = ["p(x)", "p(y = 1 | x)", "p(x | y = 1)"]
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots(3, 3, sharex=True, sharey="row")
    for column, (title, target) in enumerate(targets):
        axes[0, column].set_title(title)
        for row in range(3):
            ax = axes[row, column]
            fixed = torch.allclose(source[row], target[row], atol=0.01)
            ax.fill_between(x, source[row], color=BLUE, alpha=0.25, linewidth=0)
            ax.plot(x, source[row], color=BLUE, label=t("source", "源域"))
            ax.plot(x, target[row], color=ORANGE, linestyle="--", label=t("target", "目标域"))
            ax.set(xticks=[], yticks=[])
            ax.margins(x=0)
            if fixed:
                ax.text(
                    0.03, 0.93, t("fixed", "不变"), color=GREEN, va="top", transform=ax.transAxes
                )
            if column == 0:
                ax.set_ylabel(rows[row])
            if row == 2:
                ax.set_xlabel("x")
        axes[0, column].set_ylim(0, 0.55)
        axes[1, column].set_ylim(0, 1.25)
        axes[2, column].set_ylim(0, 0.66)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def weighting(t):
    figure, (left, right) = new(6, 3, 2)
    # Regression on a curve by a line; source and target see different parts of it.
    generator = torch.Generator().manual_seed(1)
    x = 0.5 + 0.5 * torch.randn(80, generator=generator)
    y = x**3 - x + 0.2 * torch.randn(80, generator=generator)
    z = 0.3 * torch.randn(400, 1, generator=generator)
    features = [torch.cat([v, v**2], 1) for v in (x[:, None], z)]
    w, b = domain_classifier(*features, l2=0.1)
    weights = importance_weights(features[0] @ w + b, 80, 400, normalize=True)
    sizes = (6 * weights + 3).sqrt().round().int()  # few sizes: each is a shape of its own
    for size in sizes.unique().tolist():
        of = sizes == size
        left.plot(x[of], y[of], "o", color=BLUE, markersize=size, alpha=0.5, markeredgewidth=0)
    grid = torch.linspace(-0.75, 1.6, 24)
    left.plot(grid, grid**3 - grid, color=INK, linewidth=1)
    left.axvspan(-0.6, 0.6, color=ORANGE, alpha=0.12, linewidth=0)
    left.text(0, 1.42, t("target", "目标域"), color=ORANGE, ha="center", va="top")
    design = torch.stack([torch.ones(80), x], 1)
    for v, color, style, name in (
        (torch.ones(80), BLUE, "--", t("unweighted", "不加权")),
        (weights, GREEN, "-", t("weighted", "加权")),
    ):
        line = torch.linalg.solve(design.mT @ (v[:, None] * design), design.mT @ (v * y))
        left.plot(grid, line[0] + line[1] * grid, color=color, linestyle=style, label=name)
    left.set(xlabel="x", ylabel="y", xlim=(-0.75, 1.6), ylim=(-1.25, 1.5))
    left.set_title(t("a line fitted to a curve", "用直线拟合曲线"))
    left.legend(loc="lower left")

    distance = torch.linspace(0, 2.5, 26)
    right.plot(distance, (-distance.square()).exp(), color=INK, linewidth=1, label="exp(−δ²)")
    dots = torch.arange(0, 2.6, 0.25)
    source = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    for n, color, marker in ((200, ORANGE, "s"), (4000, PURPLE, "o")):
        shares = []
        for delta in dots:
            target = delta + torch.randn(n, 1, generator=generator, dtype=torch.float64)
            w, b = domain_classifier(source[:n], target)
            shares.append(effective_sample_size(importance_weights(source[:n] @ w + b, n, n)) / n)
        right.plot(dots, shares, marker, color=color, markersize=4, label=f"n = {n}")
    right.set(xlabel=t("distance of the means, δ", "均值之差 δ"), ylim=(0, 1.05))
    right.set_title(t("effective sample size / n", "有效样本量 / n"))
    right.legend()
    return figure


def detection(t):
    figure, (left, right) = new(6, 3, 2)
    # The permutation test, its splits drawn one by one.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, generator=generator)
    y = 0.8 + torch.randn(60, 1, generator=generator)
    pooled = torch.cat([x, y])
    null = []
    for _ in range(600):
        order = torch.randperm(120, generator=generator)
        a, b = pooled[order[:60]], pooled[order[60:]]
        null.append(float(mmd_test(a, b, permutations=1, generator=generator)[0]))
    observed, p = mmd_test(x, y, permutations=999, generator=generator)
    left.hist(null, bins=30, color=BLUE, alpha=0.4, label=t("random splits", "随机划分"))
    left.axvline(float(observed), color=ORANGE, linewidth=2)
    left.text(
        float(observed) * 0.96,
        0.97,
        t("source against\ntarget", "源域对目标域") + f"\np = {round(1000 * p)}/1000",
        color=ORANGE,
        ha="right",
        va="top",
        transform=left.get_xaxis_transform(),
    )
    left.set(xlabel="MMD²", yticks=[])
    left.set_title(t("permutation test", "置换检验"))
    left.spines["left"].set_visible(False)

    share = torch.linspace(0, 1, 2)
    for low, high, color, place, align, name in (
        (0.05, 0.95, GREEN, (0.8, 0.9), "right", t("good classifier", "好的分类器")),
        (0.4, 0.6, PURPLE, (0.03, 0.59), "left", t("poor classifier", "差的分类器")),
    ):
        right.plot(share, low + (high - low) * share, color=color)
        at = [(m - low) / (high - low) for m in (0.49, 0.55)]
        for m, q in zip((0.49, 0.55), at, strict=True):
            right.plot([0, q, q], [m, m, 0], color=color, linewidth=0.8, linestyle=":")
        right.fill_between(at, 0, 0.05, color=color, alpha=0.5, linewidth=0)
        right.text(*place, name, color=color, ha=align, va="bottom")
    right.axhspan(0.49, 0.55, color=INK, alpha=0.12, linewidth=0)
    right.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel=t("true share of class 1", "类别 1 的真实占比"),
        ylabel=t("share predicted", "预测占比"),
    )
    right.set_title(t("BBSE inverts the line", "BBSE 反解直线"))
    return figure
