"""What distance does to a score; which components turn together in the two layouts of RoPE."""

import math

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.attention.positional_encoding import (
    alibi_bias,
    halves_order,
    rope,
    t5_buckets,
)


def figures(t):
    yield "position_by_distance", by_distance(t)
    yield "rope_layouts", layouts(t)


def by_distance(t):
    figure, (alibi, t5, rotary) = new(6, 2.7, 3)

    far = 32
    bias = alibi_bias(8, 1, far + 1)[:, 0].flip(-1)  # by distance
    for h in range(8):
        alibi.plot(range(far + 1), bias[h], color=BLUE, alpha=1 - 0.09 * h, lw=1.6)
    for h in range(3):
        alibi.text(far + 1, bias[h, far], f"h = {h + 1}", color=BLUE, va="center")
    alibi.set_title(t("ALiBi: bias", "ALiBi：偏置"))
    alibi.set_xlim(0, 47)
    alibi.set_xticks([0, 16, 32])
    alibi.set_ylim(-17, 0.4)
    alibi.set_yticks([-15, -10, -5, 0])

    distance = torch.arange(141)
    t5.step(distance, t5_buckets(-distance), where="mid", color=ORANGE)
    t5.plot([91, 91], [0, 15], color=INK, lw=0.8, ls=":")
    t5.text(89, 1.2, "91", ha="right", va="center")
    t5.set_title(t("T5: bucket", "T5：桶号"))
    t5.set_xlim(0, 140)
    t5.set_xticks([0, 50, 100])
    t5.set_ylim(0, 16)
    t5.set_yticks([0, 5, 10, 15])

    ones = torch.ones(1, 128) / math.sqrt(128)
    distance = torch.arange(257)
    for base, color, name, y in ((1e4, GREEN, "b = 10⁴", 0.12), (1e6, PURPLE, "b = 10⁶", 0.68)):
        scores = rope(ones.expand(len(distance), 128), distance, base) @ ones[0]
        rotary.plot(distance, scores, color=color, lw=1.4)
        rotary.text(250, y, name, color=color, ha="right", va="bottom")
    rotary.set_title(t("RoPE: score, q = k", "RoPE：分数，q = k"))
    rotary.set_xlim(0, 256)
    rotary.set_xticks([0, 128, 256])
    rotary.set_ylim(0, 1.02)

    for ax in (alibi, t5, rotary):
        ax.set_xlabel(t("distance i − j", "距离 i − j"))
    return figure


def layouts(t):
    figure, (ax,) = new(6, 3.3)
    ax.set_axis_off()
    colors = [BLUE, ORANGE, GREEN, RED]
    order = halves_order(8).tolist()
    top, bottom = 3.0, 0.0

    for place, component in enumerate(order):
        ax.plot(
            [component + 0.5, place + 0.5],
            [top, bottom + 1],
            color=colors[component // 2],
            lw=1.3,
            zorder=1,
        )
    for y, components, pairs in (
        (top, list(range(8)), [(2 * p, 2 * p + 1) for p in range(4)]),
        (bottom, order, [(p, p + 4) for p in range(4)]),
    ):
        for place, component in enumerate(components):
            color = colors[component // 2]
            ax.add_patch(Rectangle((place, y), 1, 1, facecolor=(color, 0.3), edgecolor=INK, lw=0.6))
            ax.text(place + 0.5, y + 0.48, str(component), ha="center", va="center", fontsize=11)
        for p, (a, b) in enumerate(pairs):
            arc(ax, a + 0.5, b + 0.5, y + 1 if y == top else y, 1 if y == top else -1, colors[p])
    ax.text(-0.35, top + 0.5, t("adjacent", "相邻"), ha="right", va="center")
    ax.text(-0.35, bottom + 0.5, t("halves", "对半"), ha="right", va="center")
    ax.text(-0.35, (top + bottom + 1) / 2, "P", ha="right", va="center")
    ax.set_xlim(-1.9, 8.1)
    ax.set_ylim(-1.5, 4.7)
    return figure


def arc(ax, a, b, y, side, color):
    """Half an ellipse from (a, y) to (b, y)."""
    height = 0.45 if b - a == 1 else 0.55 + 0.25 * a
    turns = [math.pi * s / 40 for s in range(41)]
    xs = [(a + b) / 2 - (b - a) / 2 * math.cos(s) for s in turns]
    ax.plot(xs, [y + side * height * math.sin(s) for s in turns], color=color, lw=1.6)
