"""What goes into BERT and what it must say; where its parameters are."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.attention.bert import BASE, LARGE, count_parameters, mask_tokens

WORDS = ["[CLS]", "the", "cat", "sat", "[SEP]", "it", "was", "tired", "[SEP]"]
VOCABULARY = ["[MASK]", *dict.fromkeys(WORDS), "blue"]


def figures(t):
    yield "bert_input", inputs(t)
    yield "bert_parameters", parameters(t)


def masked_sentence():
    """The first draw in which each of the three fates occurs once, and "blue" is drawn."""
    ids = torch.tensor([[VOCABULARY.index(word) for word in WORDS]])
    special = [VOCABULARY.index(word) for word in ("[CLS]", "[SEP]")]
    for seed in range(10_000):
        generator = torch.Generator().manual_seed(seed)
        masked, labels = mask_tokens(ids, special, 0, len(VOCABULARY), 0.5, generator)
        selected = labels[0] != -100
        seen = [VOCABULARY[i] for i in masked[0].tolist()]
        fates = [seen[i] for i in range(len(WORDS)) if selected[i]]
        kept = [i for i in range(len(WORDS)) if selected[i] and seen[i] == WORDS[i]]
        if fates.count("[MASK]") == fates.count("blue") == len(kept) == 1:
            return seen, selected.tolist()
    raise AssertionError("no such draw")


def inputs(t):
    seen, selected = masked_sentence()
    figure, (ax,) = new(6, 3.5)
    ax.set_axis_off()
    first = WORDS.index("[SEP]") + 1  # where the second sentence begins

    def box(x, y, text, color, alpha=0.25, edge=None):
        ax.add_patch(
            Rectangle((x - 0.46, y), 0.92, 0.62, facecolor=(color, alpha), edgecolor=edge or color)
        )
        ax.text(x, y + 0.29, text, ha="center", va="center", fontsize=9)

    for i, word in enumerate(WORDS):
        fate = {"[MASK]": ORANGE, "blue": RED}.get(seen[i], GREEN) if selected[i] else INK
        if selected[i]:
            box(i, 6.45, word, fate, alpha=0.3)
            ax.plot([i, i], [5.95, 6.4], color=fate, lw=1.2)
        box(i, 1.9, seen[i], fate, alpha=0.3 if selected[i] else 0.06)
        segment = "A" if i < first else "B"
        box(i, 0.95, segment, BLUE if segment == "A" else PURPLE)
        box(i, 0, i, INK, alpha=0.06)
        ax.plot([i, i], [2.6, 3.05], color=INK, lw=1, alpha=0.6)
    box(0, 6.45, "NSP", BLUE, alpha=0.3)
    ax.plot([0, 0], [5.95, 6.4], color=BLUE, lw=1.2)
    ax.add_patch(Rectangle((-0.46, 3.1), 8.92, 2.8, facecolor=(INK, 0.06), edgecolor=INK, lw=1))
    ax.text(4, 3.5, t("normalised sum", "相加后归一化"), ha="center", va="center", fontsize=9)
    layers = t("L layers: every token attends to every token", "L 层：每个词元关注所有词元")
    for i in range(9):
        for j in range(9):
            ax.plot([i, j], [3.9, 4.85], color=INK, lw=0.6, alpha=0.22)
    ax.text(4, 5.4, layers, ha="center", va="center", fontsize=9)
    rows = [
        (6.75, t("to predict", "要预测")),
        (2.2, t("token", "词元")),
        (1.25, t("segment", "片段")),
        (0.3, t("position", "位置")),
    ]
    for y, text in rows:
        ax.text(-0.62, y, text, ha="right", va="center", fontsize=9)
    for y in (1.73, 0.78):
        ax.text(-1.0, y, "+", ha="center", va="center", fontsize=9)
    ax.set_xlim(-1.75, 8.55)
    ax.set_ylim(-0.1, 7.2)
    return figure


def parameters(t):
    names = {
        "token embedding": (t("token embedding", "词元嵌入"), ORANGE),
        "attention": (t("attention", "注意力"), BLUE),
        "feed-forward": (t("feed-forward", "前馈网络"), GREEN),
    }
    rest = (t("all else", "其余"), PURPLE)
    figure, (ax,) = new(6, 1.9)
    for row, config in enumerate((BASE, LARGE)):
        counts = count_parameters(config)
        parts = {name: counts.pop(name) for name in names}
        left = 0.0
        for (label, color), count in zip(
            (*names.values(), rest), (*parts.values(), sum(counts.values())), strict=True
        ):
            size = count / 1e6
            ax.barh(row, size, left=left, height=0.5, color=(color, 0.45), edgecolor=color, lw=1)
            if size > 10:
                ax.text(left + size / 2, row, f"{size:.1f}", ha="center", va="center", fontsize=9)
            if row == 1:
                x = {ORANGE: 2, BLUE: 85, PURPLE: left + size + 3}.get(color, left + 50)
                ax.text(x, 1.42, label, color=color, ha="left", va="center", fontsize=9)
            left += size
        ax.text(left + 3, row, f"{left:.1f}", ha="left", va="center", fontsize=9)
    ax.set_yticks([0, 1], ["base", "large"])
    ax.set_ylim(-0.4, 1.6)
    ax.set_xlim(0, 380)
    ax.set_xlabel(
        t("million parameters, with the pre-training heads", "参数量（百万），含预训练头")
    )
    return figure
