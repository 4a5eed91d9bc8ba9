"""Loss and slope over the probability of the true answer; who makes up the loss of an image."""

import torch

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.detection.focal_loss import sigmoid_focal_loss

GAMMAS = {0.0: INK, 0.5: PURPLE, 1.0: BLUE, 2.0: ORANGE, 5.0: RED}


def figures(t):
    yield "focal_loss_curves", curves(t)
    yield "focal_loss_shares", shares(t)


def curves(t):
    figure, (left, right) = new(6, 3, 2)
    p = torch.linspace(0.002, 0.998, 167, dtype=torch.float64)
    for gamma, color in GAMMAS.items():
        x = p.logit().requires_grad_()
        loss = sigmoid_focal_loss(x, torch.ones_like(x), None, gamma)
        (slope,) = torch.autograd.grad(loss.sum(), x)
        name = "γ = 0" if gamma == 0 else f"{gamma:g}"
        style = dict(color=color, lw=1.6)
        left.plot(p.tolist(), loss.tolist(), label=name, **style)
        right.plot(p.tolist(), slope.abs().tolist(), **style)
    for ax in (left, right):
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_xlabel(t("probability pₜ of the true answer", "真实答案的概率 pₜ"))
    left.set_ylim(0, 4)
    left.set_yticks([0, 1, 2, 3, 4])
    left.set_title(t("loss", "损失"))
    right.set_ylim(0, 1.4)
    right.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    right.set_title(t("slope over the logit", "对 logit 的斜率"))
    left.legend(loc="upper right", fontsize=9, labelspacing=0.3, handlelength=1.6)
    return figure


def shares(t):
    """The worked example: 99,900 negatives at 0.99 and 100 positives at 0.1."""
    figure, (ax,) = new(6, 2.2)
    gammas = [0.0, 0.5, 1.0, 2.0]
    easy, hard = (torch.tensor(p, dtype=torch.float64).logit() for p in (0.01, 0.1))
    for row, gamma in enumerate(gammas):
        low = 99_900 * float(sigmoid_focal_loss(easy, torch.tensor(0), None, gamma))
        high = 100 * float(sigmoid_focal_loss(hard, torch.tensor(1), None, gamma))
        part = low / (low + high)
        ax.barh(-row, part, height=0.62, color=(BLUE, 0.35), edgecolor=BLUE)
        ax.barh(-row, 1 - part, left=part, height=0.62, color=(GREEN, 0.35), edgecolor=GREEN)
        ax.text(1.02, -row, f"{100 * part:.2f} %", va="center", fontsize=9, color=BLUE)
    ax.set_yticks([-row for row in range(len(gammas))], [f"γ = {g:g}" for g in gammas])
    ax.set_xlim(0, 1.16)
    ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    ax.set_xlabel(t("share of the loss of one image", "占一幅图像损失的比例"))
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_bounds(0, 1)
    ax.tick_params(left=False)
    easy_name = t("99,900 easy negatives, pₜ = 0.99", "99,900 个易分负样本，pₜ = 0.99")
    hard_name = t("100 hard positives, pₜ = 0.1", "100 个难分正样本，pₜ = 0.1")
    ax.text(0, 0.55, easy_name, color=BLUE, va="bottom", fontsize=9)
    ax.text(1, 0.55, hard_name, color=GREEN, va="bottom", ha="right", fontsize=9)
    ax.set_ylim(-3.5, 0.95)
    return figure
