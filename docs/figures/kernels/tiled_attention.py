"""Tiles with the running maximum; maximum and sum along one row; memory against the length."""

import weakref

import torch
from matplotlib.patches import Rectangle
from torch.utils._python_dispatch import TorchDispatchMode

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, new
from snippets.attention.scaled_dot_product_attention import scaled_dot_product_attention
from snippets.kernels.tiled_attention import merge, partial_attention, tiled_attention


def figures(t):
    yield "tiled_attention_tiles", tiles(t)
    yield "tiled_attention_row", row(t)
    yield "tiled_attention_memory", memory(t)


def rounded(*shape, seed):
    """One decimal, so that every machine draws the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).mul(10).round().double() / 10


def tiles(t):
    n, b = 12, 4  # queries and keys; side of a tile
    q, k = rounded(n, 4, seed=438), rounded(n, 4, seed=439)
    scores = (q @ k.T / 2).mul(100).round() / 100
    shade = (scores - scores.min()) / (scores.max() - scores.min())
    figure, (ax,) = new(6, 3.95)
    ax.set_axis_off()
    for i in range(n):
        for j in range(n):
            if j <= i:
                alpha = round(0.06 + 0.7 * float(shade[i, j]), 2)
                ax.add_patch(Rectangle((j, i), 1, 1, fc=(BLUE, alpha), ec=INK, lw=0.3))
            elif j // b == i // b:  # in a tile that is computed, but masked
                ax.plot([j + 0.35, j + 0.65], [i + 0.35, i + 0.65], color=INK, lw=0.7)
                ax.plot([j + 0.35, j + 0.65], [i + 0.65, i + 0.35], color=INK, lw=0.7)
    for i in range(0, n, b):
        for j in range(0, n, b):
            skipped = j > i
            style = dict(lw=0.8, ls=(0, (2, 3))) if skipped else dict(lw=1.6)
            ax.add_patch(Rectangle((j, i), b, b, fill=False, ec=INK, **style))
            if skipped:
                ax.text(j + 2, i + 2, t("skipped", "跳过"), ha="center", va="center")
    ax.add_patch(Rectangle((b, 2 * b), b, b, fill=False, ec=ORANGE, lw=3, zorder=3))
    left, wide = n + 1.6, 1.75  # the table of maxima
    for i in range(n):
        running = -torch.inf
        for step in range(i // b + 1):
            seen = scores[i, step * b : min((step + 1) * b, i + 1)]
            new_maximum = max(running, seen.max().item())
            rises = step > 0 and new_maximum > running
            running = new_maximum
            weight = "bold" if rises else "normal"
            x, y = left + (step + 0.5) * wide, i + 0.53
            if rises:
                area = Rectangle((left + step * wide, i), wide, 1, fc=(ORANGE, 0.25), ec="none")
                ax.add_patch(area)
            text = f"{running:.2f}".replace("-", "−")
            ax.text(x, y, text, ha="center", va="center", fontsize=9, fontweight=weight)
    for step in range(3):
        ax.text(left + (step + 0.5) * wide, -0.55, f"{step + 1}", ha="center", va="center")
    title = t("maximum m after tile", "各块之后的最大值 m")
    ax.text(left + 1.5 * wide, -1.6, title, ha="center", va="center")
    ax.text(
        n / 2,
        -1.6,
        t("scores: 12 queries, 12 keys", "分数：12 个查询，12 个键"),
        ha="center",
        va="center",
    )
    ax.text(n / 2, -0.55, t("keys →", "键 →"), ha="center", va="center")
    ax.text(-0.55, n / 2, t("← queries", "← 查询"), ha="center", va="center", rotation=90)
    ax.set_xlim(-1.1, left + 3 * wide + 0.1)
    ax.set_ylim(n + 0.2, -2.1)
    ax.set_aspect("equal")
    return figure


def row(t):
    m, block = 160, 16
    q = torch.ones(1, 1, dtype=torch.float64)
    noise = rounded(m, 1, seed=11)
    trend = torch.linspace(0, 5, m, dtype=torch.float64)[:, None] ** 2 / 8
    k = (noise + trend).mul(10).round() / 10  # the scores, as q is 1
    v = torch.zeros(m, 1, dtype=torch.float64)
    state = partial_attention(q, k[:0], v[:0])
    ends, maxima, sums, before = list(range(block, m + 1, block)), [], [], []
    for start in range(0, m, block):
        part = slice(start, start + block)
        step = partial_attention(q, k[part], v[part], scale=1.0)
        old, state = state, merge(state, step)
        before.append((old.ell * (old.m - state.m).exp()).item())
        maxima.append(state.m.item())
        sums.append(state.ell.item())
    figure = new(6, 3.9)[0]
    figure.clear()
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(range(m), k[:, 0], ls="", marker=".", ms=3.5, color=BLUE)
    above.step([0, *ends], [maxima[0], *maxima], where="pre", color=ORANGE, lw=2)
    above.set_ylabel(t("score", "分数"))
    above.text(
        2, maxima[0] + 0.35, t("m: largest so far", "m：至今最大"), color=ORANGE, va="bottom"
    )
    previous = 0.0
    for end, scaled, total in zip(ends, before, sums, strict=True):
        start = end - block
        if previous - scaled > 0.05:
            below.plot([start, start], [previous, scaled], color=ORANGE, lw=2)
            below.plot([start], [scaled], color=ORANGE, marker="v", ms=5)
        below.plot([start, end], [scaled, total], color=PURPLE, lw=2)
        below.plot([end], [total], color=PURPLE, marker="o", ms=4)
        previous = total
    below.set_ylabel(t("sum ℓ", "和 ℓ"))
    below.set_xlabel(t("keys seen", "已看过的键"))
    below.set_xticks(range(0, m + 1, 32))
    below.set_ylim(0, None)
    for ax in (above, below):
        for end in ends[:-1]:
            ax.axvline(end, color=INK, lw=0.5, alpha=0.25)
    below.text(
        157,
        1.5,
        t("orange: ℓ rescaled, m has risen", "橙色：m 变大，ℓ 重新缩放"),
        color=ORANGE,
        ha="right",
        va="bottom",
    )
    return figure


class Peak(TorchDispatchMode):
    """Bytes of the tensors that are alive, of those that operations returned."""

    def __init__(self, inputs):
        super().__init__()
        self.sizes = {x.untyped_storage()._cdata: 0 for x in inputs}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.sizes:
                storage = x.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.free, storage._cdata)
        return result

    def free(self, key):
        self.now -= self.sizes.pop(key)


def peaks(attention, n, d=64):
    """Of the forward pass in training, and of forward and backward pass, beyond the inputs."""
    q, k, v = (torch.zeros(n, d, requires_grad=True) for _ in range(3))
    dout = torch.zeros(n, d)
    with Peak([q, k, v, dout]) as peak:
        out = attention(q, k, v)
        forward = peak.peak
        gradients = torch.autograd.grad(out, [q, k, v], dout)
    assert len(gradients) == 3
    return forward, peak.peak


def memory(t):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lengths = [2**i for i in range(8, 13)]
    whole = [peaks(lambda *x: scaled_dot_product_attention(*x)[0], n) for n in lengths]
    tiled = [peaks(tiled_attention, n) for n in lengths]
    torch.set_num_threads(threads)
    figure, (ax,) = new(6, 3.3)
    mib = 2**20
    for values, color in ((whole, BLUE), (tiled, GREEN)):
        for index, style in ((1, "-"), (0, "--")):
            y = [value[index] / mib for value in values]
            ax.plot(lengths, y, color=color, ls=style, marker="o", ms=4)
    ax.plot(lengths, [3 * n * 64 * 4 / mib for n in lengths], color=INK, ls=":", lw=1.2)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.set_yticks([2.0**i for i in range(-2, 9, 2)], ["1/4", "1", "4", "16", "64", "256"])
    ax.minorticks_off()
    ax.set_xlabel(t("length N = M", "长度 N = M"))
    ax.set_ylabel("MiB")
    ax.text(1000, 26, t("scores held", "存下分数"), color=BLUE, ha="right")
    ax.text(4096, 6.6, t("tiled", "分块"), color=GREEN, ha="right")
    ax.text(300, 100, t("solid: forward and backward", "实线：前向加反向"))
    ax.text(300, 55, t("dashed: forward", "虚线：前向"))
    ax.text(4096, 0.42, t("dotted: the inputs", "点线：输入"), ha="right")
    return figure
