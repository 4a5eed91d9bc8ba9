"""Which parts each regime trains; accuracy over the number of labels, as measured on the page."""

import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle

from hooks.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, new

RUNS, INPUTS, HIDDEN = 4, 20, 32


def figures(t):
    yield "regimes_parts", parts(t)
    yield "regimes_labels", labels(t)


def parts(t):
    figure, (ax,) = new(6, 3.3)
    ax.set_axis_off()
    random, ready = (INK, 0.08), (BLUE, 0.35)

    def box(x, y, name, fill, loss):
        edge = BLUE if fill is ready else INK
        ax.add_patch(Rectangle((x, y), 1.5, 0.62, facecolor=fill, edgecolor=edge, lw=1.2))
        ax.text(x + 0.75, y + 0.3, name, ha="center", va="center", fontsize=9)
        color = RED if loss == frozen else GREEN
        ax.text(x + 0.75, y + 0.8, loss, color=color, ha="center", va="center", fontsize=9)

    backbone, head = t("backbone", "骨干"), t("head", "头部")
    frozen = t("frozen", "冻结")
    own, final = t("own loss", "自己的损失"), t("final loss", "最终损失")
    probe = ((ready, frozen), (random, final))
    rows = [  # name, and for each step what the parts start from and what moves them
        (t("from scratch", "从零训练"), [((random, final), (random, final))]),
        (t("linear probing", "线性探测"), [probe]),
        (t("full fine-tuning", "全量微调"), [((ready, final), (random, final))]),
        (t("LP-FT", "先探测后微调"), [probe, ((ready, final), (ready, final))]),
        (t("multi-stage", "多阶段"), [((random, own), None), probe]),
    ]
    for row, (name, steps) in enumerate(rows):
        y = 1.28 * (len(rows) - 1 - row)
        ax.text(-0.2, y + 0.3, name, ha="right", va="center")
        for step, (left, right) in enumerate(steps):
            x = 3.9 * step
            box(x, y, backbone, *left)
            if right is not None:
                box(x + 1.6, y, head, *right)
            if step == 1:
                arrow = dict(arrowstyle="-|>", color=INK, lw=1.1)
                start = 1.65 if steps[0][1] is None else 3.25
                ax.annotate("", (x - 0.12, y + 0.3), (start, y + 0.3), arrowprops=arrow)
    for x, fill, edge, name in (
        (3.9, random, INK, t("random start", "随机起点")),
        (3.9, ready, BLUE, t("trained before", "训练过")),
    ):
        y = 5.25 if fill is random else 4.65
        ax.add_patch(Rectangle((x, y), 0.5, 0.36, facecolor=fill, edgecolor=edge, lw=1.2))
        ax.text(x + 0.65, y + 0.17, name, va="center", fontsize=9)
    ax.set_xlim(-2.5, 7.2)
    ax.set_ylim(-0.1, 6.15)
    return figure


def measure(counts):
    """Accuracy of the five regimes, as the first block of the page measures it."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(RUNS, *shape, generator=generator, dtype=torch.float64)

    def new_backbone():
        return normal(INPUTS, HIDDEN) * (2 / INPUTS) ** 0.5

    def new_head(outputs):
        return normal(HIDDEN, outputs) / HIDDEN**0.5

    def logits(weights, x):
        return (x @ weights[0]).relu() @ weights[1]

    def train(weights, x, y, trained=(0, 1)):
        weights = [w.clone() for w in weights]
        optimizer = torch.optim.Adam([weights[i].requires_grad_() for i in trained], lr=0.03)
        for _ in range(100):
            loss = F.binary_cross_entropy_with_logits(logits(weights, x), y, reduction="none")
            optimizer.zero_grad()
            loss.mean(dim=(1, 2)).sum().backward()
            optimizer.step()
        return [w.detach() for w in weights]

    def task(features, outputs):
        readout = normal(4, outputs)
        readout -= readout.mean(dim=1, keepdim=True)
        return lambda x: ((x @ features).relu() @ readout > 0).double()

    features, others = normal(INPUTS, 4), normal(INPUTS, 4)
    x = normal(800, INPUTS)
    related, unrelated = (
        train([new_backbone(), new_head(8)], x, task(source, 8)(x))[0]
        for source in (features, others)
    )
    target, test, random = task(features, 1), normal(2000, INPUTS), new_backbone()
    truth = target(test) > 0
    cases = [(random, (0, 1)), *((b, i) for b in (related, unrelated) for i in [(1,), (0, 1)])]
    rows = []
    for count in counts:
        x, head = normal(count, INPUTS), new_head(1)
        fitted = [train([b, head], x, target(x), trained) for b, trained in cases]
        rows.append([float(((logits(w, test) > 0) == truth).double().mean()) for w in fitted])
    return list(zip(*rows, strict=True))


def labels(t):
    counts = [20, 50, 100, 200, 500]
    lines = measure(counts)
    related, unrelated = t("related", "相关"), t("unrelated", "无关")
    probe, tuned = t("probe", "探测"), t("fine-tuned", "微调")
    comma = t(", ", "，")
    names = [
        (t("from scratch", "从零训练"), INK, "-", 0.007),
        (related + comma + probe, BLUE, "--", 0.019),
        (related + comma + tuned, PURPLE, "-", 0.0),
        (unrelated + comma + probe, RED, "--", 0.0),
        (unrelated + comma + tuned, ORANGE, "-", -0.025),
    ]
    figure, (ax,) = new(6, 2.9)
    for (name, color, style, shift), line in zip(names, lines, strict=True):
        percent = [100 * value for value in line]
        ax.plot(counts, percent, color=color, ls=style, marker="o", ms=4, lw=1.6)
        ax.text(540, percent[-1] + 100 * shift, name, color=color, va="center", fontsize=9.5)
    ax.set_xscale("log")
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.set_xticks([], minor=True)
    ax.set_xlim(18, 1350)
    ax.set_ylim(50, 98)
    ax.set_xlabel(t("labels of the target task (logarithmic)", "目标任务的标签数（对数轴）"))
    ax.set_title(t("accuracy, %", "准确率，%"), loc="left")
    return figure
