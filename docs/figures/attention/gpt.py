"""Where the parameters of GPT-2 and GPT-3 are; what context and cache cost."""

import math

from matplotlib.ticker import FuncFormatter, NullLocator

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new
from snippets.attention.gpt import GPT2, GPT3, count_multiply_adds, count_parameters


def figures(t):
    yield "gpt_parameters", parameters(t)
    yield "gpt_cost", cost(t)


def power_of_ten(value, _):
    exponent = str(round(math.log10(value)))
    return "10" + exponent.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def parameters(t):
    names = {
        "token embedding": (t("token embedding", "词元嵌入"), PURPLE),
        "positions": (t("positions", "位置嵌入"), GREEN),
        "attention": (t("attention", "注意力"), BLUE),
        "MLP": ("MLP", ORANGE),
    }
    models = {f"GPT-2 {name}": sizes for name, sizes in GPT2.items()} | {"GPT-3 175B": GPT3}
    figure, (ax,) = new(6, 2.7)
    for row, sizes in enumerate(models.values()):
        counted = {part: a * b for part, (a, b) in count_parameters(sizes).items()}
        whole, left = sum(counted.values()), 0.0
        for part, (label, color) in names.items():
            share = counted[part] / whole
            label = label if row == 0 else None
            ax.barh(row, share, left=left, color=(color, 0.45), edgecolor=color, label=label)
            if share > 0.06:
                at = left + share / 2
                ax.text(at, row, f"{share:.0%}", ha="center", va="center", fontsize=9)
            left += share
        ax.text(1.015, row, f"{whole / 1e6:,.0f} M", va="center", fontsize=9)
    ax.set_yticks(range(len(models)), models)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.17)
    ax.set_xticks([])
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1), ncols=4, fontsize=9)
    return figure


def cost(t):
    figure, (left, right) = new(6, 2.9, 2)
    lengths = [512, 2048, 8192, 32768, 131072]
    attended, weights = [], []
    for n in lengths:
        counted = count_multiply_adds(GPT3, n)
        attended.append(counted["scores and averages"] / n)
        weights.append((counted["attention weights"] + counted["MLP"]) / n)
    left.loglog(lengths, weights, color=ORANGE)
    left.loglog(lengths, attended, color=BLUE)
    left.text(560, weights[0] * 1.35, t("weights of the blocks", "各块的权重"), color=ORANGE)
    left.text(9500, 5e9, t("scores and\naverages", "分数与\n加权平均"), color=BLUE)
    for n, name in ((2048, t("GPT-3's\ncontext", "GPT-3 的\n上下文")), (6 * GPT3.width, "6 C")):
        top = count_multiply_adds(GPT3, n)["scores and averages"] / n
        left.vlines(n, 1e9, top, color=INK, lw=0.8, ls=":")
        left.text(n * 1.1, 1.15e9, name, fontsize=9, va="bottom")
    left.set_xlabel(t("tokens", "词元数"))
    left.set_title(t("multiply-adds per token, GPT-3", "每个词元的乘加数，GPT-3"))
    left.set_ylim(1e9, 1.5e12)

    sizes = GPT2["small"]
    steps = range(1, 1025)
    sums = {"with": [], "without": []}
    total = {"with": 0, "without": 0}
    for n in steps:
        total["with"] += sum(count_multiply_adds(sizes, 1, cached=n - 1).values())
        total["without"] += sum(count_multiply_adds(sizes, n).values())
        for name, value in total.items():
            if n % 64 == 0 or n == 1:
                sums[name].append((n, value))
    for name, color in (("without", RED), ("with", GREEN)):
        right.semilogy(*zip(*sums[name], strict=True), color=color)
    right.text(1000, 4e12, t("without a cache", "没有缓存"), color=RED, ha="right")
    right.text(1000, 1.1e10, t("with a KV cache", "有 KV 缓存"), color=GREEN, ha="right")
    right.set_xlabel(t("tokens generated", "已生成的词元数"))
    right.set_title(t("multiply-adds in all, GPT-2 small", "累计乘加数，GPT-2 small"))
    right.set_ylim(5e7, 3e14)
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(FuncFormatter(power_of_ten))
        axis.set_minor_locator(NullLocator())
    return figure
