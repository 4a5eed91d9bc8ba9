"""What zero padding does to a constant signal; what subsampling does to shifted ones."""

import torch
import torch.nn.functional as F

from hooks.figures import BLUE, GREEN, INK, ORANGE, new


def figures(t):
    yield "cnn_limits_measured", measured(t)


def padded(layers, length=33):
    x = torch.ones(1, 1, length, dtype=torch.float64)
    for _ in range(layers):
        x = F.conv1d(x, torch.full((1, 1, 3), 1 / 3, dtype=torch.float64), padding=1)
    return x[0, 0]


def blur(x):
    return (x.roll(1, -1) + 2 * x + x.roll(-1, -1)) / 4


def plain(x):
    return x[..., ::2]


def blurred(x):
    return blur(x)[..., ::2]


def adaptive(x):
    phases = x.unflatten(-1, (-1, 2))
    larger = phases.square().sum((1, 2)).argmax(-1)
    return phases[torch.arange(len(x)), :, :, larger]


def errors(subsample, shifts):
    """The measurement of the page."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, 32, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 8, 8, 3, generator=generator, dtype=torch.float64) / 24**0.5

    def network(x):
        for layer, weight in enumerate(weights):
            x = subsample(x) if layer else x
            x = F.conv1d(F.pad(x, (1, 1), mode="circular"), weight).relu()
        return x.mean(-1)

    x = blur(blur(x))
    out = network(x)
    distance = (out - out.roll(1, 0)).norm()
    return [float((network(x.roll(s, -1)) - out).norm() / distance) for s in shifts]


def measured(t):
    figure, (left, right) = new(6, 2.7, 2)
    shown = [(1, GREEN, (16, 0.95)), (4, BLUE, (5.4, 0.8)), (16, ORANGE, (9.5, 0.6))]
    for layers, color, _ in shown:
        left.plot(range(33), padded(layers), color=color)
    for row, (layers, color, _) in enumerate(shown):
        text = t(f"{layers} layers" if layers > 1 else "1 layer", f"{layers} 层")
        left.text(16, 0.42 - 0.13 * row, text, color=color, ha="center", va="center")
    left.set_xlim(0, 32)
    left.set_xticks([0, 16, 32])
    left.set_ylim(0, 1.05)
    left.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    left.set_xlabel(t("pixel", "像素"))
    left.set_title(t("a constant, zero-padded", "常数信号，零填充"))

    shifts = range(9)
    lines = [
        (plain, ORANGE, "o", t("plain", "直接抽取"), 0.76),
        (blurred, BLUE, "s", t("blurred", "先模糊"), 0.19),
        (adaptive, GREEN, "^", t("adaptive", "自适应"), 0.045),
    ]
    for subsample, color, marker, name, y in lines:
        values = errors(subsample, shifts)
        right.plot(shifts, values, color=color, marker=marker, ms=4)
        right.text(6, y, name, color=color, ha="center", va="center")
    right.set_xticks(list(shifts))
    right.set_ylim(-0.03, 0.85)
    right.set_yticks([0, 0.5], ["0", "½"])
    right.set_xlabel(t("shift of the input, pixels", "输入平移的像素数"))
    right.set_title(t("change of the output", "输出的变化"))
    right.axhline(0, color=INK, lw=0.5)
    return figure
