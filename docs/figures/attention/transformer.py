"""The blocks of the Transformer; what a pass costs; gradients under post- and pre-norm."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from matplotlib.patches import FancyArrowPatch, Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.attention.transformer import Transformer, multiply_adds


def figures(t):
    yield "transformer_blocks", blocks(t)
    yield "transformer_cost", cost(t)


def box(ax, x, y, text, color, width=3.0, height=0.62):
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(Rectangle(corner, width, height, facecolor=(color, 0.2), edgecolor=color, lw=1.2))
    ax.text(x, y - 0.03, text, ha="center", va="center", fontsize=9)


def arrow(ax, path, color=INK):
    for start, end in pairwise(path[:-1]):
        ax.plot(*zip(start, end, strict=True), color=color, lw=1.2, solid_capstyle="round")
    style = dict(arrowstyle="-|>", mutation_scale=9, lw=1.2, color=color, shrinkA=0, shrinkB=0)
    ax.add_patch(FancyArrowPatch(path[-2], path[-1], **style))


def plus(ax, x, y):
    ax.text(x, y - 0.02, "+", ha="center", va="center", fontsize=11)
    ax.plot([x], [y], "o", ms=11, mfc="none", mec=INK, mew=1)


def sublayer(ax, x, y, text, color, pre_norm, norm, height):
    """One sublayer with what surrounds it, from y up; returns where it ends."""
    left = x - 1.85
    first, second = (y + 0.75, y + 1.6)
    if pre_norm:
        box(ax, x, first, norm, ORANGE)
        box(ax, x, second, text, color)
        join = y + 2.35
    else:
        box(ax, x, first, text, color)
        join = y + 1.5
        box(ax, x, y + 2.25, norm, ORANGE)
        second = first
    arrow(ax, [(x, y), (x, first - 0.31)])
    if pre_norm:
        arrow(ax, [(x, first + 0.31), (x, second - 0.31)])
    arrow(ax, [(x, second + 0.31), (x, join - 0.17)])
    arrow(ax, [(x, y + 0.2), (left, y + 0.2), (left, join), (x - 0.18, join)])
    plus(ax, x, join)
    if not pre_norm:
        arrow(ax, [(x, join + 0.17), (x, y + 1.94)])
    return y + height


def blocks(t):
    figure, axes = new(6, 4.6)
    ax = axes[0]
    norm = t("layer norm", "层归一化")
    names = {
        "self": (t("self-attention", "自注意力"), BLUE),
        "masked": (t("masked self-attention", "掩码自注意力"), BLUE),
        "cross": (t("cross-attention", "交叉注意力"), PURPLE),
        "ffn": (t("feed-forward", "前馈网络"), GREEN),
    }
    step = 2.56
    y = 0.0
    for kind in ("self", "ffn"):
        y = sublayer(ax, 0, y, *names[kind], False, norm, step)
    memory = y
    ax.text(
        0, -0.35, t("source + positions", "源序列 + 位置"), ha="center", va="center", fontsize=9
    )
    y = 0.0
    for kind in ("masked", "cross", "ffn"):
        y = sublayer(ax, 4.6, y, *names[kind], False, norm, step)
    ax.text(
        4.6, -0.35, t("target + positions", "目标序列 + 位置"), ha="center", va="center", fontsize=9
    )
    arrow(ax, [(4.6, y), (4.6, y + 0.45)])
    at = step + 0.75  # keys and values for the cross-attention
    path = [(0, memory), (0, memory + 0.35), (2.2, memory + 0.35), (2.2, at), (3.1, at)]
    arrow(ax, path, PURPLE)
    ax.text(
        0,
        memory + 0.68,
        t("keys, values (of the last block)", "键、值（取自最后一块）"),
        ha="center",
        va="center",
        fontsize=9,
        color=PURPLE,
    )
    y = sublayer(ax, 9.1, 1.3, t("sublayer", "子层"), BLUE, True, norm, 2.9)
    arrow(ax, [(9.1, 3.82), (9.1, 4.4)])
    titles = [
        (0, t("encoder block, 6 times", "编码器块，共 6 个")),
        (4.6, t("decoder block, 6 times", "解码器块，共 6 个")),
    ]
    for x, text in titles:
        ax.text(x, 9.15, text, ha="center", va="center", fontsize=10)
    ax.text(0, 8.65, t("post-norm", "后归一化"), ha="center", va="center", fontsize=9, color=ORANGE)
    ax.text(
        4.6, 8.65, t("post-norm", "后归一化"), ha="center", va="center", fontsize=9, color=ORANGE
    )
    ax.text(9.1, 9.15, t("later models", "后来的模型"), ha="center", va="center", fontsize=10)
    ax.text(
        9.1, 8.65, t("pre-norm", "前归一化"), ha="center", va="center", fontsize=9, color=ORANGE
    )
    ax.set_xlim(-2.0, 10.8)
    ax.set_ylim(-0.7, 9.5)
    ax.set_axis_off()
    return figure


def gradients(pre_norm, layers=6, draws=3):
    """Root mean square of the gradient of each decoder layer's weights at the start."""
    sizes = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        model = Transformer(50, 64, 4, 256, layers, pre_norm=pre_norm, generator=generator)
        source = torch.randint(0, 50, (8, 12), generator=generator)
        target = torch.randint(0, 50, (8, 13), generator=generator)
        logits = model(source, target[:, :-1])[0].flatten(0, 1)
        F.cross_entropy(logits, target[:, 1:].flatten(), label_smoothing=0.1).backward()
        found = [block.feed_forward.down.weight.grad.norm() for block in model.body.decoder]
        sizes.append(torch.stack(found))
    return torch.stack(sizes).mean(0)


def cost(t):
    figure, (left, right) = new(6, 2.9, 2)
    lengths = [2**i for i in range(6, 15)]
    counts = [multiply_adds(n, n, 37000, 512, 2048, 6) for n in lengths]
    parts = [
        ("feed-forward", t("feed-forward", "前馈网络"), GREEN),
        ("projections", t("projections", "投影"), ORANGE),
        ("attention", t("attention", "注意力"), BLUE),
    ]
    for part, name, color in parts:
        ys = [c[part] / (2 * n) / 1e6 for c, n in zip(counts, lengths, strict=True)]
        left.plot(lengths, ys, color=color, lw=1.8, label=name)
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks([64, 512, 4096, 16384], ["64", "512", "4096", "16384"])
    left.set_yticks([1, 10, 100], ["1", "10", "100"])
    left.minorticks_off()
    left.set_xlabel(t("tokens, source and target each", "源与目标各自的词元数"))
    left.set_title(t("million multiply-adds a token", "每词元的乘加次数（百万）"))
    left.legend(fontsize=9, handlelength=1.2, borderaxespad=0.1, labelspacing=0.25)
    layers = range(1, 7)
    for pre_norm, color in ((False, RED), (True, BLUE)):
        name = t("pre-norm", "前归一化") if pre_norm else t("post-norm", "后归一化")
        right.plot(layers, gradients(pre_norm), "o-", color=color, lw=1.6, ms=4, label=name)
    right.set_ylim(0, None)
    right.set_xticks(layers)
    right.set_xlabel(t("layer of the decoder", "解码器的层"))
    right.set_title(t("gradient norm at the start", "训练开始时的梯度范数"))
    right.legend(fontsize=9, handlelength=1.2)
    return figure
