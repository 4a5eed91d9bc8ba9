"""The three uses of attention in the Transformer; query heads that share keys and values."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, INK, ORANGE, PURPLE, new
from snippets.attention.multi_head_attention import MultiHeadAttention
from snippets.attention.scaled_dot_product_attention import causal_mask


def figures(t):
    yield "mha_uses", uses(t)
    yield "mha_sharing", sharing(t)


def square(ax, x, y, color, alpha=0.3, width=1.0):
    ax.add_patch(Rectangle((x, y), width, 1, facecolor=(color, alpha), edgecolor=color, lw=1.2))


def uses(t):
    generator = torch.Generator().manual_seed(4)
    layer = MultiHeadAttention(32, 4, generator=generator)
    source = 1.5 * torch.randn(1, 4, 32, generator=generator)
    target = 1.5 * torch.randn(1, 3, 32, generator=generator)
    encoder = (t("encoder", "编码器"), BLUE, "s")
    decoder = (t("decoder", "解码器"), ORANGE, "t")
    cases = [
        (t("self-attention", "自注意力"), source, source, None, encoder, encoder),
        (t("masked self-attention", "掩码自注意力"), target, target, 3, decoder, decoder),
        (t("cross-attention", "交叉注意力"), target, source, None, decoder, encoder),
    ]
    figure, axes = new(6, 2.7, 3)
    for ax, (title, x, y, causal, asks, asked) in zip(axes, cases, strict=True):
        mask = causal_mask(causal, causal) if causal else None
        weights = layer(x, y, mask)[1][0].mean(0).detach()
        places = [[1.6 * (i - (n - 1) / 2) for i in range(n)] for n in weights.shape]
        for i, top in enumerate(places[0]):
            for j, bottom in enumerate(places[1]):
                if weights[i, j] > 0:
                    strength = float(weights[i, j]) / float(weights.max())
                    ax.plot([bottom, top], [1, 3.6], color=(INK, 0.15 + 0.85 * strength), lw=1.4)
        for row, (side, color, letter), y0 in ((0, asks, 3.6), (1, asked, 0)):
            for i, centre in enumerate(places[row]):
                square(ax, centre - 0.5, y0, color)
                subscript = "₁₂₃₄"[i]
                ax.text(centre, y0 + 0.47, letter + subscript, ha="center", va="center")
            label = t("queries: ", "查询：") if row == 0 else t("keys, values: ", "键、值：")
            at = 5.15 if row == 0 else -0.65
            ax.text(0, at, label + side, color=color, ha="center", va="center", fontsize=9)
        ax.set_title(title)
        ax.set_xlim(-3.1, 3.1)
        ax.set_ylim(-1.2, 5.6)
        ax.set_axis_off()
    return figure


def sharing(t):
    heads = 8
    names = [
        t("multi-head", "多头 MHA"),
        t("grouped (GQA)", "分组查询 GQA"),
        t("multi-query (MQA)", "多查询 MQA"),
    ]
    figure, axes = new(6, 2.3, 3)
    for index, (ax, name, kv_heads) in enumerate(zip(axes, names, (8, 2, 1), strict=True)):
        layer = MultiHeadAttention(heads, heads, kv_heads)
        assert layer.keys_values(torch.zeros(1, 1, heads)).k.shape[1] == kv_heads
        share = heads // kv_heads
        for h in range(heads):
            square(ax, h + 0.12, 2.6, BLUE, width=0.76)
            group = h // share
            below = group * share + share / 2
            ax.plot([below, h + 0.5], [1, 2.6], color=INK, lw=1)
        for group in range(kv_heads):
            square(ax, group * share + share / 2 - 0.38, 0, PURPLE, width=0.76)
        ax.set_title(name)
        ax.text(4, 4.1, t("8 query heads", "8 个查询头"), color=BLUE, ha="center", fontsize=9)
        count = t(
            ("8 key-value heads", "2 key-value heads", "1 key-value head")[index],
            f"{kv_heads} 个键值头",
        )
        ax.text(4, -0.85, count, color=PURPLE, ha="center", va="center", fontsize=9)
        ax.set_xlim(-0.1, 8.1)
        ax.set_ylim(-1.3, 4.7)
        ax.set_axis_off()
    return figure
