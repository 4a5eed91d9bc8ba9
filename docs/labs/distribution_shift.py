# %% [markdown] lang="en" description="Covariate, label and concept shift on handwritten digits: what each does to accuracy, which tests notice it, and what importance weights and label-shift estimation can and cannot repair." keywords=["distribution shift", "covariate shift", "label shift", "concept shift", "importance weighting", "BBSE", "MMD", "two-sample test", "digits", "scikit-learn"] requires=["concepts/distribution_shift"]
# # Distribution shift, seen
#
# This lab takes 1797 handwritten digits and breaks the assumption "the future looks like the past"
# in three ways. Each time it asks three questions. How far does accuracy fall? Does a test notice?
# Can unlabelled target data repair the model? The definitions are in [Distribution
# shift](../concepts/distribution_shift.md); the code under test is its snippet.
#
# Every experiment runs with several seeds. Numbers are means, with the standard deviation over
# seeds where it is given, and the main claims of the text are assertions in the cells.

# %% [markdown] lang="zh" description="在手写数字上制造协变量偏移、标签偏移与概念偏移：各使准确率下降多少，哪些检验能发现，重要性加权与标签偏移估计能修复什么、不能修复什么。" keywords=["分布偏移", "协变量偏移", "标签偏移", "概念偏移", "重要性加权", "BBSE", "MMD", "双样本检验", "手写数字", "scikit-learn"]
# # 看得见的分布偏移
#
# 本实验用 1797 张手写数字图片，以三种方式打破“未来与过去同分布”的假设。每一次都问三个问题：准确率掉了多少？检验能不能发现？只用无标签的目标数据，能不能把模型修好？定义见[分布偏移](../concepts/distribution_shift.md)，被检验的代码就是该页的代码片段。
#
# 每个实验都用多个随机种子重复。数字是均值，注明之处附有跨种子的标准差；正文的主要论断都写成了单元格里的断言（assert），不成立就会报错。

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib_inline.backend_inline import set_matplotlib_formats
from sklearn.datasets import load_digits

from snippets.concepts.distribution_shift import (
    adjust_to_prior,
    domain_classifier,
    effective_sample_size,
    estimate_label_shift,
    importance_weights,
    mmd_test,
)

set_matplotlib_formats("svg")
torch.set_num_threads(1)  # the tensors are small
BLUE, ORANGE, GREEN, RED, PURPLE = "#3b82d6", "#d9730d", "#2b9a66", "#e0484d", "#9a5fd6"
INK = "#78808a"  # legible on white and on near-black
inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
plt.rcParams.update(dict.fromkeys(inked, INK))
plt.rcParams.update(
    {
        "figure.figsize": (6, 2.8),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.fonttype": "none",
    }
)

digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)  # (1797, 64), in [0, 1]
classes = torch.tensor(digits.target)  # (1797,)
print(images.shape, classes.bincount().tolist())

# %% [markdown] lang="en"
# Two models are enough: logistic regression, and a network with one hidden layer. `weights` are
# the importance weights of the training examples.

# %% [markdown] lang="zh"
# 两个模型就够了：逻辑回归，以及只有一个隐藏层的网络。`weights` 是训练样本的重要性权重。


# %%
def train(x, y, weights=None, hidden=0, l2=1e-3, generator=None):
    """Minimise the weighted log loss + l2 * |parameters|^2; returns a function x -> logits."""
    sizes = [x.shape[1], *([hidden] if hidden else []), int(y.max()) + 1]
    layers = [
        (torch.randn(n, m, generator=generator) / n**0.5, torch.zeros(m))
        for n, m in pairwise(sizes)
    ]
    parameters = [p.requires_grad_() for layer in layers for p in layer]
    weights = torch.ones(len(x)) if weights is None else weights / weights.mean()

    def logits(x):
        for matrix, bias in layers[:-1]:
            x = (x @ matrix + bias).relu()
        return x @ layers[-1][0] + layers[-1][1]

    def loss():
        optimizer.zero_grad()
        value = (weights * F.cross_entropy(logits(x), y, reduction="none")).mean()
        value = value + l2 * sum(matrix.square().sum() for matrix, _ in layers)
        value.backward()
        return value

    optimizer = torch.optim.LBFGS(parameters, max_iter=80, line_search_fn="strong_wolfe")
    optimizer.step(loss)
    return lambda x: logits(x).detach()


def accuracy(scores, y):
    return (scores.argmax(-1) == y).float().mean().item()


def show(name, values):
    values = torch.as_tensor(values)
    print(f"{name:<34}{values.mean():.3f} ± {values.std():.3f}")


# %% [markdown] lang="en"
# ## Covariate shift
#
# The task is *odd or even?* Let $u(x)$ be the first principal component of the image, scaled to
# standard deviation one. Each image goes to the target with probability $\sigma(1.5\,u(x))$ and to
# the source otherwise. This choice looks at $x$ alone, so $p(y \mid x)$ is the same on both sides,
# and the density ratio is known: it is proportional to $e^{1.5\,u(x)}$.
#
# Half of the target images, without labels, are used to estimate the weights. The other half is
# the test set.

# %% [markdown] lang="zh"
# ## 协变量偏移
#
# 任务是判断数字的*奇偶*。设 $u(x)$ 为图像的第一主成分，标准差缩放为一。每张图以概率 $\sigma(1.5\,u(x))$ 进入目标域，否则进入源域。这个选择只看 $x$，所以两边的 $p(y \mid x)$ 相同；密度比也是已知的：它正比于 $e^{1.5\,u(x)}$。
#
# 目标图像的一半（不用标签）用来估计权重，另一半作测试集。


# %%
centred = images - images.mean(0)
u = centred @ torch.linalg.svd(centred, full_matrices=False)[2][0]
u = u / u.std()
odd = classes % 2


def covariate_shift(seed):
    """Indices of the source, of the unlabelled target and of the target's test set."""
    generator = torch.Generator().manual_seed(seed)
    is_target = torch.rand(len(u), generator=generator) < (1.5 * u).sigmoid()
    source, target = (~is_target).nonzero()[:, 0], is_target.nonzero()[:, 0]
    target = target[torch.randperm(len(target), generator=generator)]
    return source, target[: len(target) // 2], target[len(target) // 2 :], generator


names = ("source", "none", "estimated", "true", "network", "network_w", "fit")
columns = {name: [] for name in names}
for seed in range(8):
    source, unlabelled, test, generator = covariate_shift(seed)
    w, b = domain_classifier(images[source], images[unlabelled])
    estimated = importance_weights(images[source] @ w + b, len(source), len(unlabelled))
    true = (1.5 * u[source]).exp()
    x, y = images[source], odd[source]
    models = {
        "none": train(x, y, generator=generator),
        "estimated": train(x, y, estimated, generator=generator),
        "true": train(x, y, true, generator=generator),
        "network": train(x, y, hidden=32, generator=generator),
        "network_w": train(x, y, estimated, hidden=32, generator=generator),
    }
    for name, model in models.items():
        columns[name].append(accuracy(model(images[test]), odd[test]))
    columns["fit"].append(accuracy(models["network"](x), y))
    held_out = torch.randperm(len(source), generator=generator)
    cut = len(source) // 5
    inside = train(x[held_out[cut:]], y[held_out[cut:]], generator=generator)
    columns["source"].append(accuracy(inside(x[held_out[:cut]]), y[held_out[:cut]]))
gain = torch.tensor(columns["estimated"]) - torch.tensor(columns["none"])
gain_network = torch.tensor(columns["network_w"]) - torch.tensor(columns["network"])
show("linear, on held-out source", columns["source"])
show("linear, on the target", columns["none"])
show("linear, estimated weights", columns["estimated"])
show("linear, true weights", columns["true"])
show("network, on its training images", columns["fit"])
show("network, on the target", columns["network"])
show("network, estimated weights", columns["network_w"])
show("gain from weights, linear", gain)
show("gain from weights, network", gain_network)
assert torch.tensor(columns["source"]).mean() - torch.tensor(columns["none"]).mean() > 0.02
assert gain.mean() > 0.02 and (gain > 0).sum() >= 7
assert min(columns["fit"]) > 0.98 and gain_network.mean() < 0.5 * gain.mean()

# %% [markdown] lang="en"
# Weighted by the domain classifier, the source images reproduce the target's histogram of $u$.

# %% [markdown] lang="zh"
# 用领域分类器给出的权重加权之后，源域图像重现了目标域 $u$ 的直方图。

# %% alt_en="Three histograms of the first principal component u. The source lies to the left, the target to the right; the source images weighted by the domain classifier lie on the target." alt_zh="第一主成分 u 的三条直方图：源域偏左，目标域偏右；按领域分类器加权后的源域图像与目标域重合。"
share = effective_sample_size(estimated) / len(estimated)
print(f"effective sample size: {share:.2f} of {len(estimated)} source images (last seed)")
figure, axes = plt.subplots()
bins = torch.linspace(-2.5, 2.5, 21).tolist()
style = {"bins": bins, "density": True, "histtype": "step", "linewidth": 2}
axes.hist(u[source], **style, color=BLUE, label="source")
axes.hist(u[test], **style, color=ORANGE, label="target")
axes.hist(u[source], weights=estimated, **style, color=GREEN, label="source, weighted")
axes.set(xlabel="first principal component u", ylabel="density", ylim=(0, 0.75))
axes.legend(loc="upper left")
plt.show()

# %% [markdown] lang="en"
# Each line below is one seed. A hyperplane in pixel space does not separate odd from even: the
# model is *misspecified*, and the weights tell it where to spend its capacity. The network fits its
# training images almost without error, so there is little to trade off; it gains about half a
# percentage point.

# %% [markdown] lang="zh"
# 下图每条线是一个种子。像素空间里的一个超平面分不开奇偶：模型*误设*（misspecified），权重告诉它该把有限的容量用在哪里。而网络几乎零错误地拟合了训练图像，没有多少可取舍的，加权只多得约半个百分点。图中横轴：linear 为线性模型，network 为网络；unweighted 为不加权，weighted 为加权。

# %% alt_en="Accuracy on the target, one line per seed. The linear model gains several points from weighting with every seed; the network is better from the start and gains little." alt_zh="目标域准确率，每个种子一条线。线性模型加权后每个种子都提高数个百分点；网络一开始就更好，加权收益很小。"
figure, axes = plt.subplots()
for position, (before, after, color) in enumerate(
    [("none", "estimated", BLUE), ("network", "network_w", ORANGE)]
):
    for pair in zip(columns[before], columns[after], strict=True):
        axes.plot([2 * position, 2 * position + 1], pair, "o-", color=color, alpha=0.7)
axes.set_xticks(range(4), ["linear,\nunweighted", "weighted", "network,\nunweighted", "weighted"])
axes.set_ylabel("accuracy on the target")
plt.show()

# %% [markdown] lang="en"
# ## Label shift
#
# Now ten classes, with noise added to the pixels so that classes overlap. The source is balanced.
# The target draws class $k$ with a probability proportional to $0.6^{\pi(k)}$, where $\pi$ is a
# random order: the most frequent class is almost a hundred times as frequent as the rarest. Given
# its class an image is drawn in the same way on both sides, so $p(x \mid y)$ is fixed.
#
# The classifier is trained on 600 images; 500 others give the confusion matrix; the target is
# drawn from the rest. The posteriors are then corrected for the estimated prior. Nothing is
# retrained.

# %% [markdown] lang="zh"
# ## 标签偏移
#
# 这次是十分类，并给像素加噪声，使类别重叠。源域各类均衡；目标域中类别 $k$ 的概率正比于 $0.6^{\pi(k)}$，$\pi$ 是随机排列：最常见的类别几乎是最罕见类别的一百倍。给定类别后，两边以同样的方式抽取图像，所以 $p(x \mid y)$ 不变。
#
# 分类器用 600 张图训练，另外 500 张给出混淆矩阵，目标样本从其余图像中抽取。随后按估计出的先验校正后验概率，不重新训练。

# %%
NOISE = 0.4


def label_shift(seed, size=500):
    """A trained classifier, its held-out source data, and a target sample with new priors."""
    generator = torch.Generator().manual_seed(seed)
    noisy = images + NOISE * torch.randn(images.shape, generator=generator)
    order = torch.randperm(len(images), generator=generator)
    training, held_out, rest = order[:600], order[600:1100], order[1100:]
    prior = 0.6 ** torch.randperm(10, generator=generator)
    chances = (prior / classes[rest].bincount())[classes[rest]]
    target = rest[torch.multinomial(chances, size, replacement=True, generator=generator)]
    x_target = images[target] + NOISE * torch.randn(size, 64, generator=generator)
    model = train(noisy[training], classes[training], l2=3e-3, generator=generator)
    return model, (noisy[held_out], classes[held_out]), (x_target, classes[target])


names = ("source", "none", "bbse", "oracle", "counted", "estimated", "shares")
columns = {name: [] for name in names}
for seed in range(8):
    model, (x_source, y_source), (x_target, y_target) = label_shift(seed)
    source_probs, target_probs = model(x_source).softmax(-1), model(x_target).softmax(-1)
    shift = estimate_label_shift(source_probs, y_source, target_probs)
    prior = y_target.bincount(minlength=10) / len(y_target)
    source_prior = y_source.bincount(minlength=10) / len(y_source)
    counted = target_probs.argmax(-1).bincount(minlength=10) / len(y_target)
    columns["source"].append(accuracy(source_probs, y_source))
    columns["none"].append(accuracy(target_probs, y_target))
    columns["bbse"].append(accuracy(adjust_to_prior(target_probs, shift.weights), y_target))
    oracle = adjust_to_prior(target_probs, prior / source_prior)
    columns["oracle"].append(accuracy(oracle, y_target))
    columns["shares"].append(torch.stack([prior, counted, shift.target_prior]))
    columns["counted"].append((counted - prior).abs().sum() / 2)
    columns["estimated"].append((shift.target_prior - prior).abs().sum() / 2)
gain = torch.tensor(columns["bbse"]) - torch.tensor(columns["none"])
show("accuracy on held-out source", columns["source"])
show("accuracy on the target", columns["none"])
show("accuracy, estimated prior", columns["bbse"])
show("accuracy, true prior", columns["oracle"])
show("gain", gain)
show("error of the prior, predictions", columns["counted"])
show("error of the prior, BBSE", columns["estimated"])
assert gain.mean() > 0.02 and (gain > 0).sum() >= 7
assert torch.tensor(columns["estimated"]).mean() < 0.7 * torch.tensor(columns["counted"]).mean()

# %% [markdown] lang="en"
# Accuracy hardly falls on average, and rises with some seeds: a frequent class may be an easy one.
# The harm is what is left on the table, for the same classifier does better once it knows the prior.
#
# The error of a prior is half the sum of absolute differences, the total variation distance.
# Counting predictions understates the shift, because the classifier's mistakes flow from frequent
# classes to rare ones; the confusion matrix undoes this. Each point below is one class of one
# seed.

# %% [markdown] lang="zh"
# 平均而言准确率几乎不降，有的种子甚至上升：常见的类别也许恰好容易分。损失在于没有拿到本可拿到的部分：同一个分类器，一旦知道先验就做得更好。
#
# 先验的误差取绝对差之和的一半，即全变差距离。直接数预测结果会低估偏移，因为分类错误从常见类别流向罕见类别；混淆矩阵正好把这一点扣回来。下图每个点是一个种子中的一个类别：横轴为真实占比，纵轴为估计占比；counted predictions 为直接计数，BBSE 为估计值。

# %% alt_en="Estimated against true share of each class in the target, ten classes and eight seeds. Counted predictions lie above the diagonal for rare classes and below it for frequent ones; BBSE estimates scatter around the diagonal." alt_zh="目标域各类别占比的估计值与真实值，十个类别、八个种子。直接计数在罕见类别处高于对角线，在常见类别处低于对角线；BBSE 的估计散布在对角线两侧。"
true, counted, estimated = torch.stack(columns["shares"], 1).flatten(1)
frequent = true > 0.2
assert (counted - true)[frequent].mean() < -0.03 and (counted - true)[~frequent].mean() > 0
assert (estimated - true)[frequent].mean().abs() < 0.03
figure, axes = plt.subplots(figsize=(6, 3.2))
axes.plot([0, 0.45], [0, 0.45], color=INK, linewidth=1)
axes.plot(true, counted, "s", color=ORANGE, alpha=0.7, label="counted predictions")
axes.plot(true, estimated, "o", color=GREEN, alpha=0.7, label="BBSE")
axes.set(xlabel="true share in the target", ylabel="estimated share")
axes.legend()
plt.show()

# %% [markdown] lang="en"
# ## Concept shift
#
# Same images, new meaning: in the target 3 is called 8, and 8 is called 3. $p(x)$ has not changed,
# and $p(y \mid x)$ has. Nothing that looks at inputs or predictions can see it.

# %% [markdown] lang="zh"
# ## 概念偏移
#
# 图像照旧，含义变了：在目标域里，3 改称 8，8 改称 3。$p(x)$ 没有变，变的是 $p(y \mid x)$。只看输入或预测的方法都看不见它。

# %%
redefined = torch.tensor([0, 1, 2, 8, 4, 5, 6, 7, 3, 9])
names = ("source", "none", "weighted", "bbse", "p", "moved", "ess")
columns = {name: [] for name in names}
for seed in range(8):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    training, held_out, target = order[:600], order[600:1200], order[1200:]
    x, y, x_target, y_target = (
        *(images[training], classes[training]),
        *(images[target], redefined[classes[target]]),
    )
    model = train(x, y, generator=generator)
    w, b = domain_classifier(x, x_target)
    weights = importance_weights(x @ w + b, len(x), len(x_target))
    weighted = train(x, y, weights, generator=generator)
    source_probs, target_probs = model(images[held_out]).softmax(-1), model(x_target).softmax(-1)
    shift = estimate_label_shift(source_probs, classes[held_out], target_probs)
    columns["source"].append(accuracy(source_probs, classes[held_out]))
    columns["none"].append(accuracy(target_probs, y_target))
    columns["weighted"].append(accuracy(weighted(x_target), y_target))
    columns["bbse"].append(accuracy(adjust_to_prior(target_probs, shift.weights), y_target))
    p_value = mmd_test(images[held_out[:200]], x_target[:200], None, 199, generator)[1]
    columns["p"].append(p_value)
    true_before = classes[target].bincount(minlength=10) / len(target)
    columns["moved"].append((shift.target_prior - true_before).abs().sum() / 2)
    columns["ess"].append(effective_sample_size(weights) / len(weights))
show("accuracy on held-out source", columns["source"])
show("accuracy on the target", columns["none"])
show("accuracy, importance weights", columns["weighted"])
show("accuracy, BBSE", columns["bbse"])
show("effective sample size (share)", columns["ess"])
show("BBSE's distance to the old prior", columns["moved"])
print("p-values of the MMD test:", " ".join(f"{p:.2f}" for p in sorted(columns["p"])))
lost = torch.tensor(columns["source"]) - torch.tensor(columns["none"])
for repair in ("weighted", "bbse"):
    repaired = torch.tensor(columns[repair]) - torch.tensor(columns["none"])
    assert lost.mean() > 0.12 and repaired.mean() < 0.02
assert sum(p <= 0.05 for p in columns["p"]) <= 3  # expected by chance: 0.4 of 8

# %% [markdown] lang="en"
# About a fifth of the accuracy is gone, and no monitor rings. The weights only fit noise, BBSE
# reports the prior that the *old* names have, and the p-values spread over the unit interval, as
# they must when inputs are unchanged. A few labels would have shown it at once: of twenty labelled
# target images about four show a swapped digit.

# %% [markdown] lang="zh"
# 准确率丢了约五分之一，却没有一个监控告警。权重只是在拟合噪声，BBSE 报告的是*旧*名称下的先验，p 值散布在整个单位区间上：输入没有变，本该如此。而少量标签就能立刻揭穿：二十张有标签的目标图像里，约有四张是被调换的数字。

# %% [markdown] lang="en"
# ## Detection
#
# How many images does the MMD test need? For each sample size, 20 pairs of samples are drawn and
# tested with 199 permutations at level 0.05. The inputs are raw pixels without noise. *None* draws
# both samples from the same images and shows the false alarms.

# %% [markdown] lang="zh"
# ## 检测
#
# MMD 检验需要多少张图？对每个样本量抽 20 对样本，每次做 199 次置换，显著性水平 0.05。输入是不加噪声的原始像素。*none* 的两份样本来自同一批图像，显示误报率；covariate、label、concept 分别是协变量、标签与概念偏移。

# %%
SIZES = (10, 20, 40, 80, 160)


def pair(kind, n, generator):
    """Two samples of n images: source and target under the given shift."""
    order = torch.randperm(len(images), generator=generator)
    if kind == "covariate":
        is_target = torch.rand(len(u), generator=generator) < (1.5 * u).sigmoid()
        return images[order[~is_target[order]][:n]], images[order[is_target[order]][:n]]
    if kind == "label":
        chances = (0.6 ** torch.randperm(10, generator=generator))[classes[order[n:]]]
        chosen = torch.multinomial(chances, n, generator=generator)
        return images[order[:n]], images[order[n:]][chosen]
    return images[order[:n]], images[order[n : 2 * n]]  # none, and concept: the inputs are the same


found = {}
for kind in ("covariate", "label", "concept", "none"):
    generator = torch.Generator().manual_seed(len(kind))
    found[kind] = [
        sum(mmd_test(*pair(kind, n, generator), None, 199, generator)[1] <= 0.05 for _ in range(20))
        for n in SIZES
    ]
rows = [["images", *SIZES], *([kind, *(h / 20 for h in hits)] for kind, hits in found.items())]
print("\n".join("{:<10}{:>6}{:>6}{:>6}{:>6}{:>6}".format(*row) for row in rows))
assert found["covariate"][-1] >= 19 and found["label"][-1] >= 17
assert max(found["none"]) <= 6 and max(found["concept"]) <= 6

# %% alt_en="Share of 20 tests that reject, against sample size from 10 to 160, on a logarithmic axis. Covariate shift is found with few images and label shift with more; concept shift and no shift stay near the level of 0.05." alt_zh="20 次检验中拒绝原假设的比例随样本量（10 到 160，对数轴）的变化。协变量偏移只需少量图像即可发现，标签偏移需要更多；概念偏移与无偏移都停在 0.05 的水平附近。"
figure, axes = plt.subplots()
for (kind, hits), color, marker in zip(
    found.items(), (BLUE, ORANGE, RED, GREEN), "os^v", strict=True
):
    axes.semilogx(SIZES, [h / 20 for h in hits], marker + "-", color=color, label=kind)
axes.axhline(0.05, color=INK, linestyle=":")
axes.set_xticks(SIZES, SIZES)
axes.minorticks_off()
axes.set(xlabel="images in each sample", ylabel="share of tests that reject")
axes.legend()
plt.show()

# %% [markdown] lang="en"
# ## What to take home
#
# | Shift | Fixed | Seen without labels | Repaired without labels, here |
# |---|---|---|---|
# | covariate | $p(y \mid x)$ | yes | by weights, where the model is too simple; the network gains little |
# | label | $p(x \mid y)$ | yes, with more images | by a corrected prior |
# | concept, $p(x)$ fixed | $p(x)$ | no | no |
#
# The repair must fit the shift, and the data cannot say which shift it is: a test that rejects
# says only that $p(x)$ has changed. Things to try: raise the factor 1.5 until the effective sample
# size collapses; correct the covariate shift with BBSE; let the network train with fewer images.

# %% [markdown] lang="zh"
# ## 小结
#
# | 偏移 | 不变的量 | 无标签能否发现 | 本实验中无标签能否修复 |
# |---|---|---|---|
# | 协变量偏移 | $p(y \mid x)$ | 能 | 模型过于简单时，靠加权；网络受益很小 |
# | 标签偏移 | $p(x \mid y)$ | 能，但需要更多图像 | 靠校正先验 |
# | 概念偏移，$p(x)$ 不变 | $p(x)$ | 不能 | 不能 |
#
# 修法必须与偏移相配，而数据自己说不出是哪一种偏移：检验拒绝原假设，只说明 $p(x)$ 变了。可以接着试：增大系数 1.5，直到有效样本量骤降；用 BBSE 去修协变量偏移；让网络用更少的图像训练。
