"""Data flow with shapes; saturation against the width; weights under three masks."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.attention.scaled_dot_product_attention import (
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)


def figures(t):
    yield "attention_flow", flow(t)
    yield "attention_saturation", saturation(t)
    yield "attention_masks", masks(t)


def cell(ax, x, y, color, alpha):
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=(color, alpha), edgecolor=INK, lw=0.5))


def matrix(ax, x, y, strength, color, row=None):
    """Cells from the top left corner (x, y) down, one row framed."""
    n, m = strength.shape
    for i in range(n):
        for j in range(m):
            cell(ax, x + j, y - i - 1, color, float(strength[i, j]))
    if row is not None:
        frame = Rectangle((x, y - row - 1), m, 1, fill=False, edgecolor=ORANGE, lw=2.5, zorder=3)
        ax.add_patch(frame)


def cross(ax, x, y):
    for start, end in ((0.35, 0.65), (0.65, 0.35)):
        ax.plot([x + 0.35, x + 0.65], [y + start, y + end], color=INK, lw=0.8)


def flow(t):
    n, m, d, e = 4, 6, 3, 4
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(n, d, generator=generator)
    k = torch.randn(m, d, generator=generator)
    v = torch.randn(m, e, generator=generator)
    mask = causal_mask(n, m)
    out, weights = scaled_dot_product_attention(1.5 * q, k, v, mask)
    scores = q @ k.T

    def shade(x):
        return 0.08 + 0.6 * (x - x.min()) / (x.max() - x.min())

    figure, (ax,) = new(6, 3.75)
    ax.set_axis_off()
    left, right = 4.4, 15.4  # left edges of scores and weights
    matrix(ax, 0, n, shade(q), BLUE, row=2)
    matrix(ax, left, n + 1.2 + d, shade(k.T), PURPLE)
    matrix(ax, left, n, shade(scores), INK, row=2)
    matrix(ax, right, n, 0.75 * weights, RED, row=2)
    matrix(ax, right + m + 1.4, n + 1.2 + m, shade(v), GREEN)
    matrix(ax, right + m + 1.4, n, shade(out), GREEN, row=2)
    for i in range(n):
        for j in range(m):
            if not mask[i, j]:
                cross(ax, right + j, n - i - 1)

    def label(x, y, text, **kwargs):
        ax.text(x, y, text, ha=kwargs.pop("ha", "center"), va="center", **kwargs)

    label(d / 2, -0.8, t("queries Q", "查询 Q"))
    label(d / 2, -1.9, "N × D")
    label(left + m / 2, -0.8, t("scores QKᵀ/√D", "分数 QKᵀ/√D"))
    label(left + m / 2, -1.9, "N × M")
    label(left + m / 2, n + 2.0 + d + 1.1, t("keys Kᵀ", "键 Kᵀ"))
    label(left + m / 2, n + 2.0 + d, "D × M")
    label(right + m / 2, -0.8, t("weights A", "权重 A"))
    label(right + m / 2, -1.9, "N × M")
    centre = right + m + 1.4 + e / 2
    label(centre, -0.8, t("output O", "输出 O"))
    label(centre, -1.9, "N × E")
    label(right + m + 0.9, n + 1.2 + m - 1.4, t("values V", "值 V"), ha="right")
    label(right + m + 0.9, n + 1.2 + m - 2.5, "M × E", ha="right")
    middle = (left + m + right) / 2
    label(middle, n / 2 + 2.7, t("mask,", "掩码"))
    label(middle, n / 2 + 1.5, "softmax")
    arrow = dict(arrowstyle="-|>", color=INK, lw=1.2, shrinkA=0, shrinkB=0)
    ax.annotate("", (right - 0.5, n / 2), (left + m + 0.5, n / 2), arrowprops=arrow)
    ax.text(d + 0.7, n / 2, "@", ha="center", va="center", fontsize=12)
    ax.text(right + m + 0.7, n / 2, "@", ha="center", va="center", fontsize=12)
    ax.set_xlim(-0.2, right + m + 1.4 + e + 0.2)
    ax.set_ylim(-2.5, n + 1.4 + m)
    ax.set_aspect("equal")
    return figure


def saturation(t):
    generator = torch.Generator().manual_seed(0)
    widths = [2**i for i in range(0, 13, 2)]
    largest, trace = {False: [], True: []}, {False: [], True: []}
    for d in widths:
        parts = {False: [], True: []}
        for _ in range(8):
            q = torch.randn(250, 1, d, generator=generator)
            k = torch.randn(250, 16, d, generator=generator)
            for scaled in parts:
                queries = q if scaled else q * d**0.5  # undoes the division
                parts[scaled].append(scaled_dot_product_attention(queries, k, k)[1][:, 0])
        for scaled, p in parts.items():
            p = torch.cat(p).double()
            largest[scaled].append(p.amax(-1))
            # 1 - Σp² without cancellation
            trace[scaled].append((p * (p.sum(-1, keepdim=True) - p).clamp(min=0)).sum(-1))
    figure, (left, right) = new(6, 2.9, 2)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for ax, measured in ((left, largest), (right, trace)):
        for scaled, color in ((False, ORANGE), (True, BLUE)):
            low, median, high = torch.stack([x.quantile(levels) for x in measured[scaled]], 1)
            ax.fill_between(widths, low, high, color=color, alpha=0.2, lw=0)
            ax.plot(widths, median, color=color, marker="o", ms=3.5)
        ax.set_xscale("log", base=2)
        ax.set_xticks([1, 4, 16, 64, 256, 1024, 4096], ["1", "4", "16", "64", "256", "1k", "4k"])
        ax.minorticks_off()
        ax.set_xlabel(t("width D", "维度 D"))
    mean = [x.mean() for x in trace[False]]
    right.plot(widths, mean, color=ORANGE, ls="--")
    right.set_yscale("log")
    right.set_ylim(1e-6, 3)
    exponents = [0, -2, -4, -6]
    names = ["1", "10⁻²", "10⁻⁴", "10⁻⁶"]
    right.set_yticks([10.0**x for x in exponents], names)
    right.minorticks_off()
    left.set_ylim(0, 1.02)
    left.set_title(t("largest of 16 weights", "16 个权重中最大的一个"))
    right.set_title(t("trace of the Jacobian, 1 − Σp²", "雅可比矩阵的迹 1 − Σp²"))
    left.text(4096, 0.28, t("divided by √D", "除以 √D"), color=BLUE, ha="right", va="bottom")
    left.text(4096, 0.48, t("not divided", "不除"), color=ORANGE, ha="right", va="bottom")
    right.text(4096, 1.05, t("divided by √D", "除以 √D"), color=BLUE, ha="right", va="bottom")
    right.text(300, 0.13, t("mean", "均值"), color=ORANGE, ha="left", va="bottom")
    right.text(60, 2e-3, t("median", "中位数"), color=ORANGE, ha="right", va="bottom")
    return figure


def masks(t):
    generator = torch.Generator().manual_seed(0)
    # Rounded, as the widget has them.
    q, k = (torch.randn(2, 5, 4, generator=generator) * 10).round().div(10).unbind()
    figure, axes = new(6, 2.55, 3)
    cases = [
        (t("no mask", "无掩码"), None),
        (t("causal", "因果掩码"), causal_mask(5, 5)),
        (t("padding after 3", "第 3 个之后是填充"), padding_mask(torch.tensor(3), 5)),
    ]
    for ax, (title, mask) in zip(axes, cases, strict=True):
        weights = scaled_dot_product_attention(q, k, k, mask)[1]
        allowed = torch.ones(5, 5, dtype=torch.bool) if mask is None else mask.expand(5, 5)
        for i in range(5):
            for j in range(5):
                cell(ax, j, i, BLUE, 0.75 * float(weights[i, j]) if allowed[i, j] else 0)
                if allowed[i, j]:
                    percent = f"{100 * weights[i, j]:.0f}"
                    ax.text(j + 0.5, i + 0.53, percent, ha="center", va="center", fontsize=9)
                else:
                    cross(ax, j, i)
        ax.set_title(title)
        ax.set_xlim(0, 5)
        ax.set_ylim(5, 0)
        ax.set_aspect("equal")
        ax.set_xticks([x + 0.5 for x in range(5)], "12345")
        ax.set_yticks([x + 0.5 for x in range(5)], "12345")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_xlabel(t("key", "键"))
    axes[0].set_ylabel(t("query", "查询"))
    return figure
