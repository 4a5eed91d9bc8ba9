"""An anchor, its deltas and the decoded box, at two sizes; losses of one delta and their slopes."""

import torch
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.detection.box_regression import BoxCodec, smooth_l1_loss

ANCHOR = torch.tensor([100.0, 80.0, 300.0, 180.0])
TRUTH = torch.tensor([130.0, 70.0, 350.0, 220.0])
CODEC = BoxCodec()


def figures(t):
    yield "box_regression_deltas", deltas(t)
    yield "box_regression_losses", losses(t)


def rectangle(ax, box, color, alpha=0.1, **style):
    x1, y1, x2, y2 = (float(v) for v in box)
    style = dict(facecolor=(color, alpha), edgecolor=color, lw=1.6) | style
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))


def center(box):
    return [float(v) for v in (box[:2] + box[2:]) / 2]


def arrow(ax, start, end, color=INK, style="->"):
    props = dict(arrowstyle=style, color=color, lw=1.1, shrinkA=0, shrinkB=0)
    ax.annotate("", end, start, arrowprops=props)


def deltas(t):
    figure, (left, right) = new(6, 3.1, 2)
    found = CODEC.encode(TRUTH, ANCHOR)
    guess = torch.tensor([0.17, 0.08, 0.06, 0.3])
    for ax in (left, right):
        ax.set_axis_off()
        ax.set_aspect("equal")
        ax.set_xlim(20, 385)
        ax.set_ylim(345, 20)

    left.set_title(t("encode: what to predict", "编码：该预测什么"))
    for scale, move in ((1.0, (0.0, 0.0)), (1 / 3, (20.0, 226.0))):
        shift = torch.tensor(move * 2)
        anchor, truth = ANCHOR * scale + shift, TRUTH * scale + shift
        rectangle(left, anchor, BLUE)
        rectangle(left, truth, GREEN)
        (px, py), (gx, gy) = center(anchor), center(truth)
        left.plot(px, py, "o", color=BLUE, ms=4)
        left.plot(gx, gy, "o", color=GREEN, ms=4)
        if scale == 1:
            arrow(left, (px, py), (gx, py))
            arrow(left, (gx, py), (gx, gy))
            left.text((px + gx) / 2, py - 6, "40", ha="center", fontsize=9)
            left.text(gx + 6, py + 9, "15", va="center", fontsize=9)
            arrow(left, (100, 198), (300, 198), BLUE, "<->")
            left.text(215, 213, "200", color=BLUE, ha="center", fontsize=9)
            arrow(left, (130, 58), (350, 58), GREEN, "<->")
            left.text(240, 50, "220", color=GREEN, ha="center", fontsize=9)
            arrow(left, (84, 80), (84, 180), BLUE, "<->")
            left.text(78, 130, "100", color=BLUE, ha="right", va="center", fontsize=9)
            arrow(left, (362, 70), (362, 220), GREEN, "<->")
            left.text(367, 145, "150", color=GREEN, ha="left", va="center", fontsize=9)
    names = ("dx = 40 / 200", "dy = 15 / 100", "dw = ln(220 / 200)", "dh = ln(150 / 100)")
    for row, (name, value) in enumerate(zip(names, found, strict=True)):
        left.text(165, 252 + 24 * row, f"{name} = {float(value):.2f}", va="center", fontsize=9)
    left.text(87, 325, t("a third: the same", "缩到 ⅓：不变"), fontsize=9, ha="center", va="center")

    decoded = CODEC.decode(guess, ANCHOR)
    right.set_title(t("decode: what a network says", "解码：网络给出的框"))
    rectangle(right, ANCHOR, BLUE)
    rectangle(right, TRUTH, GREEN)
    rectangle(right, decoded, ORANGE, 0.15)
    arrow(right, center(ANCHOR), center(decoded), ORANGE)
    right.plot(*center(ANCHOR), "o", color=BLUE, ms=4)
    text = "   ".join(f"{float(v):.2f}" for v in guess)
    right.text(40, 252, t("deltas  ", "偏移量  ") + text, color=ORANGE, va="center", fontsize=9)
    labels = (
        (t("anchor", "锚框"), BLUE),
        (t("decoded box", "解码出的框"), ORANGE),
        (t("ground truth", "真值框"), GREEN),
    )
    for row, (label, color) in enumerate(labels):
        y = 276 + 24 * row
        rectangle(right, (40, y - 7, 62, y + 7), color)
        right.text(70, y, label, color=color, va="center", fontsize=9)
    return figure


def losses(t):
    figure, (left, right) = new(6, 2.9, 2)
    error = torch.linspace(-2, 2, 401, dtype=torch.float64)
    curves = (
        (lambda e: e.square() / 2, BLUE, "L2: e² / 2", (0, (5, 2))),
        (lambda e: smooth_l1_loss(e, torch.zeros_like(e), 0.0), INK, "L1: |e|", (0, (1.5, 1.5))),
        (lambda e: smooth_l1_loss(e, torch.zeros_like(e), 1.0), ORANGE, "β = 1", "-"),
        (lambda e: smooth_l1_loss(e, torch.zeros_like(e), 1 / 9), PURPLE, "β = 1/9", "-"),
    )
    for loss, color, name, style in curves:
        e = error.clone().requires_grad_()
        value = loss(e)
        (slope,) = torch.autograd.grad(value.sum(), e)
        x, y = error.tolist(), slope.tolist()
        left.plot(x, value.tolist(), color=color, ls=style, lw=1.6, label=name)
        right.plot(x, y, color=color, ls=style, lw=1.6)
    for ax, title in (
        (left, t("loss of an error e", "误差 e 的损失")),
        (right, t("slope", "斜率")),
    ):
        ax.set_title(title)
        ax.set_xlim(-2, 2)
        ax.set_xticks([-2, -1, 0, 1, 2], ["−2", "−1", "0", "1", "2"])
        ax.set_xlabel("e")
    left.set_ylim(0, 2)
    left.set_yticks([0, 1, 2])
    right.set_ylim(-2.05, 2.05)
    right.set_yticks([-2, -1, 0, 1, 2], ["−2", "−1", "0", "1", "2"])
    left.legend(loc="upper center", fontsize=9, handlelength=2.2, labelspacing=0.3)
    return figure
