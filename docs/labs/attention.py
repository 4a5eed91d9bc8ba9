# %% [markdown] lang="en" description="A small Transformer learns to reverse words; its attention maps are drawn head by head, and the scale, the masks and the positions are removed one at a time to measure what breaks." keywords=["attention map", "attention visualization", "attention heads", "heatmap", "causal mask", "padding mask", "positional encoding", "permutation equivariance", "head ablation", "saturation", "exposure", "sequence reversal", "notebook"] requires=["attention/transformer"]
# # Attention you can look at
#
# A small [Transformer](../attention/transformer.md) learns to write words backwards. The task is
# chosen for its map: whoever writes a word backwards must look at the mirrored place in the
# source, so we know what a good head should do. First we look at all twelve heads. Then we silence
# them one by one. Then we remove the positions, the masks and the scale, and measure what breaks.
#
# Everything is trained here, in about a minute. The main claims are assertions in the cells;
# details of the maps differ from seed to seed and from processor to processor.

# %% [markdown] lang="zh" description="让一个小 Transformer 学会把单词倒着写，逐头画出注意力图；再依次去掉缩放、掩码与位置编码，实测各会弄坏什么。" keywords=["注意力图", "注意力可视化", "注意力头", "热力图", "因果掩码", "填充掩码", "位置编码", "置换等变性", "注意力头消融", "softmax 饱和", "序列反转", "笔记本"] requires=["attention/transformer"]
# # 看得见的注意力
#
# 让一个小 [Transformer](../attention/transformer.md) 学会把单词倒着写。选这个任务是为了好看图：要倒着写，就得去看源序列中的镜像位置，一个好的头该看哪里，我们事先就知道。先把十二个头全部看一遍，再逐个关掉它们，最后依次去掉位置编码、掩码和缩放，实测各会弄坏什么。
#
# 全部模型都在本页现场训练，共约一分钟。主要论断都写成了单元格里的断言（assert）；注意力图的细节则因随机种子和处理器而异。

# %%
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap
from matplotlib_inline.backend_inline import set_matplotlib_formats

from snippets.attention.transformer import Transformer, greedy

set_matplotlib_formats("svg")
torch.set_num_threads(1)  # the tensors are small
BLUE, ORANGE, GREEN = "#3b82d6", "#d9730d", "#2b9a66"
INK = "#78808a"  # legible on white and on near-black
inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
plt.rcParams.update(dict.fromkeys(inked, INK))
plt.rcParams.update(
    {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.fonttype": "none",
    }
)

TOKENS = "·<>abcdefghij"
PAD, START, END = 0, 1, 2
LONGEST = 8


def task(source, lengths):
    """What the decoder gets and what it should say, both (B, 9): the source reversed, then >."""
    at, ends = torch.arange(LONGEST + 1), lengths[:, None]
    labels = source.gather(1, (ends - 1 - at).clamp(min=0))
    labels = labels.masked_fill(at >= ends, PAD).masked_fill(at == ends, END)
    return F.pad(labels[:, :-1], (1, 0), value=START), labels


def batch(size, generator):
    """Random words of 4 to 8 letters, padded on the right, (B, 8), and their lengths, (B,)."""
    lengths = torch.randint(4, LONGEST + 1, (size,), generator=generator)
    source = torch.randint(3, len(TOKENS), (size, LONGEST), generator=generator)
    return source.masked_fill(torch.arange(LONGEST) >= lengths[:, None], PAD), lengths


def text(tokens):
    return "".join(TOKENS[token] for token in tokens)


source, lengths = batch(3, torch.Generator().manual_seed(1))
for word, given, wanted in zip(source, *task(source, lengths), strict=True):
    print(f"source {text(word)}  gets {text(given)}  says {text(wanted)}")

# %% [markdown] lang="en"
# `<` begins, `>` ends, `·` is padding; the decoder gets the answer shifted by one and says the
# answer. The model has two layers of two heads in each stack and a
# width of 32; `train` has a switch for everything that we shall remove. The scale is removed
# exactly, by multiplying the queries by $\sqrt{D}$ at every step.

# %% [markdown] lang="zh"
# `<` 表示开始，`>` 表示结束，`·` 是填充；gets 是解码器得到的输入，即右移一位的答案，says 是它应写出的内容。模型的编码器和解码器各两层，每层两个头，宽度 32。后面要去掉的东西，`train` 里都有开关。去掉缩放的办法是精确的：每一步都把查询乘以 $\sqrt{D}$。


# %%
def attentions(model):
    """The six attention layers, by kind and number."""
    body = model.body
    layers = {("encoder", n): block.attention for n, block in enumerate(body.encoder)}
    layers |= {("decoder", n): block.attention for n, block in enumerate(body.decoder)}
    return layers | {("cross", n): block.cross for n, block in enumerate(body.decoder)}


def build(seed, width=32, heads=2, positions=True, scaled=True):
    """An untrained model, and the generator that goes on to draw the data."""
    generator = torch.Generator().manual_seed(seed)
    sizes = len(TOKENS), width, heads, 2 * width
    model = Transformer(*sizes, layers=2, pre_norm=True, positions=positions, generator=generator)
    if not scaled:
        root = math.sqrt(width // heads)
        for layer in attentions(model).values():
            layer.q_proj.register_forward_hook(lambda _layer, _given, out: out * root)
    return model, generator


def train(seed, masked=True, causal=True, steps=400, **options):
    """A model after `steps` batches of 32 new words, and its losses."""
    model, generator = build(seed, **options)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), fused=True)
    losses = []
    for step in range(steps):
        rate = 8e-3 * min((step + 1) / 50, 1) * (1 - step / steps)
        optimizer.param_groups[0]["lr"] = rate
        source, lengths = batch(32, generator)
        inputs, labels = task(source, lengths)
        logits, _ = model(source, inputs, lengths if masked else None, causal)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, torch.tensor(losses)


tests = batch(256, torch.Generator().manual_seed(99))
inputs, labels = task(*tests)
real = labels != PAD


@torch.no_grad()
def answers(model, masked=True, padding=0):
    """What greedy decoding makes of the 256 test words, (256, 9)."""
    source, lengths = F.pad(tests[0], (0, padding), value=PAD), tests[1]
    out = greedy(model, source, START, END, LONGEST + 1, lengths if masked else None)
    return F.pad(out, (0, LONGEST + 1 - out.shape[1]), value=END)


def solved(model, **options):
    """Share of the test words that are reversed without a single mistake."""
    return ((answers(model, **options) == labels) | ~real).all(1).float().mean().item()


def show(name, values, digits=2):
    print(f"{name:<34}" + "  ".join(f"{value:.{digits}f}" for value in values))


models, curves = zip(*(train(seed) for seed in range(2)), strict=True)
scores = [solved(model) for model in models]
show("reversed without a mistake", scores)
assert min(scores) > 0.9

# %% [markdown] lang="en"
# ## How to read a map
#
# Each row is a query, a position that looks; each column a key, a position that is looked at. A
# row adds up to one. All maps share one scale, from nothing (0) to full blue (1).
#
# In the *cross-attention* below a row is labelled with the letter that the decoder says there. Read
# from top to bottom, the gaze moves from the end of the source to its beginning: the anti-diagonal.
# In layer 0 it is a blur, in layer 1 it is sharp. The column of the padding, `·`, stays empty.

# %% [markdown] lang="zh"
# ## 怎样读注意力图
#
# 每一行是一个查询，即在看的位置；每一列是一个键，即被看的位置。每行之和为一。所有图共用一个色阶：空白为 0，纯蓝为 1。
#
# 下面是*交叉注意力*，行标是解码器在该处写出的字母。从上往下读，目光从源序列末尾移到开头，形成一条反对角线：第 0 层还模糊，第 1 层已清晰。填充 `·` 那一列始终空着。图中 layer 为层，head 为头，says 为写出的词元，source 为源序列，weight 为权重。

# %% alt_en="Cross-attention of two layers with two heads each; eight rows, the letters said, by eight columns, the source c a b b a g e and one padding. Layer 0: broad smears from the last letters, in the upper rows, to the first, in the lower ones. Layer 1: both heads show a sharp anti-diagonal. The padding column is empty." alt_zh="两层、每层两头的交叉注意力；八行是写出的字母，八列是源序列 c a b b a g e 和一个填充。第 0 层：从上方各行的末尾字母到下方各行的开头字母，是宽而模糊的色带。第 1 层：两个头都是清晰的反对角线。填充列为空。"
word = "cabbage"
source = torch.tensor([[TOKENS.index(letter) for letter in word.ljust(LONGEST, "·")]])
length = torch.tensor([len(word)])
given = torch.cat([torch.tensor([[START]]), source[:, : len(word)].flip(1)], 1)
with torch.no_grad():
    logits, seen = models[0](source, given, length)
said = text(logits.argmax(-1)[0])
print(word, "->", said)

fade = LinearSegmentedColormap.from_list("fade", [BLUE + "00", BLUE])  # on any ground
scale = {"cmap": fade, "vmin": 0, "vmax": 1, "interpolation": "none"}


def draw(axis, weights, rows, columns, title):
    """One map: a row for each query, a column for each key."""
    axis.imshow(weights, **scale)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.tick_params(length=0)
    axis.set_title(title, fontsize=10)


def maps(layers, rows, columns, labels):
    """Four maps, both heads of both layers, and the scale."""
    _, axes = plt.subplot_mosaic(
        [["00", "01"], ["10", "11"], ["key", "key"]],
        figsize=(5.2, 5.9),
        height_ratios=[1, 1, 0.05],
    )
    for layer, weights in enumerate(layers):
        for head in range(2):
            axis = axes[f"{layer}{head}"]
            draw(axis, weights[0, head], rows, columns, f"layer {layer}, head {head}")
            axis.set(ylabel=labels[0] if head == 0 else "", xlabel=labels[1] if layer else "")
    axes["key"].imshow(torch.linspace(0, 1, 11)[None], aspect="auto", **scale)
    axes["key"].set_xticks([0, 5, 10], ["0", "0.5", "1"])
    axes["key"].set(yticks=[], xlabel="weight")
    plt.show()


mirror = (tests[1][:, None] - 1 - torch.arange(LONGEST + 1)).clamp(min=0)
for model in models:
    with torch.no_grad():
        crosses = model(tests[0], inputs, tests[1])[1].cross
    found = [w.mean(1).gather(2, mirror[..., None])[..., 0] for w in crosses]  # (B, 9) each
    low, high = (share[labels > END].mean() for share in found)
    show("on the mirrored letter, by layer", (low, high))
    assert high > low and high > 0.4

maps(seen.cross, said, text(source[0]), ("says", "source"))

# %% [markdown] lang="en"
# The *encoder's* heads are less tidy: some look at neighbours, some at equal letters, some at one
# end of the word. The padding looks too (bottom row), but nothing reads what it finds.

# %% [markdown] lang="zh"
# *编码器*的头没有这么整齐：有的看邻近位置，有的看相同的字母，有的看词的一端。最下面一行是填充位置，它也在看，只是没有谁会读它的结果。图中 looks 为在看的位置，is looked at 为被看的位置。

# %% alt_en="Encoder self-attention, two layers with two heads, eight by eight. Weights are pale and spread over several columns: around the diagonal, on equal letters, or on the end of the word. The padding column is empty in all four." alt_zh="编码器自注意力，两层、每层两头，八行八列。权重颜色较淡，分散在多列上：对角线附近、相同的字母，或词的末端。四张图的填充列都为空。"
maps(seen.encoder, text(source[0]), text(source[0]), ("looks", "is looked at"))

# %% [markdown] lang="en"
# The *decoder's* self-attention is a lower triangle, the causal mask. The first row has a single
# key and therefore the weight 1: a bold cell that says nothing. Some heads give much weight to `<`,
# which carries no news about the word.

# %% [markdown] lang="zh"
# *解码器*的自注意力是下三角形，这是因果掩码所致。第一行只有一个键，权重只能是 1：颜色最深，却什么也没说明。有的头把许多权重给了 `<`，而 `<` 并不带有关于这个词的任何信息。

# %% alt_en="Decoder self-attention, two layers with two heads. All weights lie on or below the diagonal. The top left cell is full blue everywhere; below it some heads favour the diagonal, others spread over what came before." alt_zh="解码器自注意力，两层、每层两头。权重全部位于对角线及其下方。左上角一格总是纯蓝；往下，有的头偏向对角线，有的分散在之前的位置上。"
maps(seen.decoder, text(given[0]), text(given[0]), ("looks", "is looked at"))

# %% [markdown] lang="en"
# ## What a map does not prove
#
# A weight says how much of a value is mixed in. It does not say what the value contains, for after
# one layer the vector at `g` holds more than `g`, nor what the result depends on. So we ask the
# model itself: silence one head at a time, by zeroing its part before the output projection, and
# count the words still reversed. Sharpness is the mean over rows of the largest weight, without the
# first row.

# %% [markdown] lang="zh"
# ## 注意力图不能证明什么
#
# 权重只说某个值混入了多少。它既没说这个值里有什么（过了一层之后，`g` 处的向量早已不只是 `g`），也没说结果取决于什么。不如直接问模型：每次关掉一个头，也就是在输出投影之前把它那一段置零，再数还有多少词能倒写正确。锐度取每行最大权重的均值，不计第一行。图中横轴为锐度，纵轴为关掉后仍写对的比例；encoder、decoder、cross 分别是编码器、解码器的自注意力和交叉注意力。

# %% alt_en="Scatter plot of 24 heads: sharpness of the map against the share of words reversed without the head. Cross-attention heads reach the highest sharpness, with shares in the middle; decoder heads of middling sharpness lie both at the bottom and near the top; encoder heads are mostly blurred, some needed and some not." alt_zh="24 个头的散点图：横轴为图的锐度，纵轴为关掉该头后仍能倒写正确的比例。交叉注意力头的锐度最高，纵轴居中；解码器头锐度中等，有的落在底部，有的靠近顶部；编码器头大多模糊，有的必需，有的不必。"


def without(model, layer, head):
    """Share of test words solved when one head gives nothing."""
    size = layer.q_proj.out_features // layer.heads

    def silence(_layer, given):
        kept = torch.ones(given[0].shape[-1])
        kept[head * size : (head + 1) * size] = 0
        return (given[0] * kept,)

    handle = layer.out_proj.register_forward_pre_hook(silence)
    score = solved(model)
    handle.remove()
    return score


report = []
figure, axis = plt.subplots(figsize=(5.6, 3.2))
for model in models:
    with torch.no_grad():
        seen = model(tests[0], inputs, tests[1])[1]
    left, sharp = {}, {}
    for (kind, n), layer in attentions(model).items():
        weights = getattr(seen, kind)[n][:, :, 1:]
        rows = real[:, 2 if kind == "encoder" else 1 :]  # not those of the padding
        for head in range(2):
            sharp[kind, n, head] = weights[:, head].amax(-1)[rows].mean()
            left[kind, n, head] = without(model, layer, head)
            style = {"encoder": (GREEN, "s"), "decoder": (ORANGE, "^"), "cross": (BLUE, "o")}
            color, marker = style[kind]
            new = model is models[0] and (n, head) == (0, 0)
            label = kind if new else None
            point = sharp[kind, n, head], left[kind, n, head]
            axis.scatter(*point, c=color, marker=marker, label=label)
    needed, spare = min(left, key=left.get), max(left, key=left.get)
    report += [("most", *needed, left[needed]), ("least", *spare, left[spare])]
    assert left[needed] < 0.3 and left[spare] > 0.75 and needed[0] == "decoder"
    assert max(sharp, key=sharp.get)[0] == "cross"
print("\n".join("needed {:<6}{:<8}{}.{}   left {:.2f}".format(*line) for line in report))
axis.set(xlabel="sharpness of the map", ylabel="words solved without it", ylim=(-0.05, 1.05))
axis.spines[["top", "right"]].set_visible(False)
axis.legend(loc="upper right")
plt.show()

# %% [markdown] lang="en"
# Two models, 24 heads. The sharpest maps belong to cross-attention, but the head that can be spared
# least is in neither case one of those: it is a head of the decoder that watches what was written.
# Silencing is no last word either. Zeros are an input the model has never met, and two heads that
# do the same look dispensable one at a time.
#
# This is an old dispute. Jain and Wallace (2019) found attention weights frequently uncorrelated
# with gradient-based importance, and very different weights with equivalent predictions. Wiegreffe
# and Pinter (2019) answer that it depends on the definition of explanation, and propose tests that
# take the whole model into account. Both worked mainly with recurrent networks. A map is a
# hypothesis; the removal is the experiment.

# %% [markdown] lang="zh"
# 两个模型，共 24 个头。最清晰的图出自交叉注意力，而两个模型里最少不得的头都不在其中：它属于解码器的自注意力，盯着的是已经写出的部分。不过，关掉一个头也不是定论：全零是模型从未见过的输入；两个头若做同一件事，逐个关掉时看起来都可有可无。
#
# 这是一场旧争论。Jain 与 Wallace（2019）发现，注意力权重常与基于梯度的重要性不相关，而且差别很大的权重可以给出等价的预测。Wiegreffe 与 Pinter（2019）回应说，这取决于怎样定义“解释”，并提出了顾及整个模型的检验方法。两篇论文研究的主要是循环网络。图只是假设，消融才是实验。

# %% [markdown] lang="en"
# ## Without positions
#
# Without positions the encoder is *permutation-equivariant*: shuffle the source and its outputs are
# shuffled alike, nothing else. Cross-attention averages over a set, so the logits cannot change at
# all. The first lines check this in float64, the others train such a model.

# %% [markdown] lang="zh"
# ## 去掉位置编码
#
# 没有位置编码，编码器就是*置换等变*的（permutation-equivariant）：打乱源序列，输出只是跟着打乱，别无变化。交叉注意力对一个集合求平均，所以 logits 完全不变。下面先用 float64 验证这一点，再训练一个这样的模型。

# %%
blind, _ = train(0, positions=False, steps=200)
full = tests[0][tests[1] == LONGEST]  # no padding to keep in place
order = torch.randperm(LONGEST, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    exact = copy.deepcopy(blind).double()
    before, seen = exact(full, inputs[: len(full)])
    after, shuffled = exact(full[:, order], inputs[: len(full)])
weights = seen.encoder[-1][..., order, :][..., order]  # rows and columns shuffled alike
moved = max((after - before).abs().max(), (shuffled.encoder[-1] - weights).abs().max())
print("all changes below 1e-9:", bool(moved < 1e-9))
assert moved < 1e-9

said = answers(blind)
wanted = labels.masked_fill(~real, END)
same_letters = (said.sort(1).values == wanted.sort(1).values).all(1).float().mean().item()
show("reversed without a mistake", [solved(blind)])
show("right letters, in whatever order", [same_letters])
assert solved(blind) < 0.1

# %% [markdown] lang="en"
# All orders of the same letters get one and the same answer, and at most one of them can be right.
# Many answers have the right letters, in a wrong order. The decoder does keep a trace of order: its
# causal mask tells how much has been written.

# %% [markdown] lang="zh"
# 同一组字母无论怎样排列，得到的都是同一个答案，其中至多有一种能对。许多答案字母是对的，顺序不对。解码器倒还留有一点顺序信息：因果掩码透露了已经写了多少。

# %% [markdown] lang="en"
# ## Without the causal mask
#
# Training shows the decoder the right answer, shifted by one. Without the mask, position $i$ can
# read from position $i+1$ the very letter that it should predict.

# %% [markdown] lang="zh"
# ## 去掉因果掩码
#
# 训练时，解码器看到的是右移一位的正确答案。没有掩码，位置 $i$ 就能从位置 $i+1$ 直接读到自己该预测的字母。

# %% alt_en="Two maps of decoder self-attention in one layer of the model without causal mask. In at least one of them most rows have their darkest cell one place to the right of the diagonal." alt_zh="无因果掩码的模型中，同一层解码器自注意力的两个头。其中至少一张图里，多数行颜色最深的格子在对角线右侧一格。"
leaky, losses = zip(*(train(seed, causal=False, steps=200) for seed in range(2)), strict=True)
final = [loss[-20:].mean() for loss in losses]
cheats = [solved(model) for model in leaky]
show("training loss, with the mask", [curve[-20:].mean() for curve in curves])
show("training loss, without it", final)
show("reversed without a mistake", cheats)
assert max(final) < 0.3 and max(cheats) < 0.1

with torch.no_grad():
    seen = leaky[0](source, given, length, causal=False)[1]
# The weight one place to the right of the diagonal, of the better head of each layer.
ahead = [weights[0].diagonal(1, 1, 2).mean(-1).max() for weights in seen.decoder]
n = int(torch.stack(ahead).argmax())
assert ahead[n] > 0.3
figure, axes = plt.subplots(1, 2, figsize=(5.6, 3))
for head, axis in enumerate(axes):
    title = f"layer {n}, head {head}"
    draw(axis, seen.decoder[n][0, head], text(given[0]), text(given[0]), title)
plt.show()

# %% [markdown] lang="en"
# After half the steps the training loss is already near zero, and no word comes out right: when the
# model writes for itself, there is no next letter to copy. A loss that falls too fast is a
# symptom; only decoding shows the fault.

# %% [markdown] lang="zh"
# 只用一半步数，训练损失已接近零，却没有一个词能写对：模型自己写的时候，右边并没有字母可抄。损失降得太快就是征兆，但只有实际解码才能暴露问题。

# %% [markdown] lang="en"
# ## Without the padding mask
#
# Now padding is a token like any other. Rows of eight are what the model was trained on; the test
# then adds more padding to the same words, as a longer neighbour in the batch would.

# %% [markdown] lang="zh"
# ## 去掉填充掩码
#
# 这时填充成了普通词元。训练时每行都是八格；测试时给同样的词再补更多填充，就像同一批里来了一个更长的词。

# %% alt_en="Two wide maps of one cross-attention head without padding mask. With one padding: an anti-diagonal over the letters. With nine: the pattern is disturbed and weight lies on the padding." alt_zh="无填充掩码模型的同一个交叉注意力头的两张图。只有一格填充时，是字母上的反对角线；有九格填充时，图案被打乱，权重落到了填充上。"
unmasked, _ = zip(*(train(seed, masked=False) for seed in range(2)), strict=True)
PADDING = (0, 1, 2, 4, 8)
lines, table = {}, ["more padding    " + "".join(f"{padding:6}" for padding in PADDING)]
for name, masked, group in (("mask", True, models), ("no mask", False, unmasked)):
    lines[name] = [[solved(m, masked=masked, padding=p) for p in PADDING] for m in group]
    for line in lines[name]:
        table.append(f"{name:<16}" + "".join(f"{score:6.2f}" for score in line))
print("\n".join(table))
assert all(abs(score - line[0]) < 0.01 for line in lines["mask"] for score in line)
assert min(line[0] for line in lines["no mask"]) > 0.9
assert max(line[1] for line in lines["no mask"]) < 0.9
assert max(line[-1] for line in lines["no mask"]) < 0.3

figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.3), width_ratios=[8, 16])
shares = []
for axis, padding in zip(axes, (0, 8), strict=True):
    longer = F.pad(source, (0, padding), value=PAD)
    with torch.no_grad():
        logits, seen = unmasked[0](longer, given)
    draw(axis, seen.cross[1][0, 0], text(logits.argmax(-1)[0]), text(longer[0]), "layer 1, head 0")
    shares.append(torch.stack(seen.cross)[:, 0, :, :, len(word) :].sum(-1).mean())
axes[0].set_ylabel("says")
show("weight on padding: 1 place, 9", shares)
plt.show()

# %% [markdown] lang="en"
# On rows as in training the mask was not missed: the model learned to cope with its padding. But
# what it learned holds for that padding only: one column more spoils many words. With the mask an
# answer cannot depend on the neighbours in a batch; without it, the same word is reversed or ruined
# by them. A test set padded like the training set would never have shown it.

# %% [markdown] lang="zh"
# 只要填充和训练时一样，少了掩码也看不出损失：模型学会了应付填充。但它学到的只对那样的填充成立：多补一列，就有许多词写错。有掩码，答案就不会受同批邻居影响；没有掩码，同一个词写对还是写错，要看邻居多长。若测试集的填充方式与训练集相同，这个问题永远不会露面。

# %% [markdown] lang="en"
# ## Without the scale
#
# At the start a score has a standard deviation of about $\sqrt{D}$ if it is not divided by it, and
# the softmax saturates ([why](../attention/scaled_dot_product_attention.md#variance)). The table
# shows untrained models with one head of width $D$: the median over queries of $1 - \sum_j p_j^2$,
# which bounds the gradient that passes the softmax, and the norm of the gradient of all query
# projections.

# %% [markdown] lang="zh"
# ## 去掉缩放
#
# 若不除以 $\sqrt{D}$，训练开始时分数的标准差约为 $\sqrt{D}$，softmax 就会饱和（[原因](../attention/scaled_dot_product_attention.md#variance)）。下表是未训练的单头模型，头的维度为 $D$：一列是 $1 - \sum_j p_j^2$ 在各查询上的中位数，它限定了能穿过 softmax 的梯度；另一列是全部查询投影的梯度范数。scaled 为缩放，unscaled 为不缩放，room 为前者，gradient 为后者。

# %%
rooms = {}
table = ["  D   scaled: room  gradient   unscaled: room  gradient"]
for d in (16, 64, 256):
    row = []
    for scaled in (True, False):
        model, _ = build(0, width=d, heads=1, scaled=scaled)
        logits, seen = model(tests[0], inputs, tests[1])
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD).backward()
        pairs = [(w, real[:, 1:]) for w in seen.encoder] + [(w, real) for w in seen.cross]
        room = torch.cat([1 - w[:, 0].square().sum(-1)[rows] for w, rows in pairs])
        rooms[d, scaled] = room.median().item()
        grads = [layer.q_proj.weight.grad.norm() for layer in attentions(model).values()]
        row += [rooms[d, scaled], torch.stack(grads).norm()]
    table.append("{:>3}{:>15.2f}{:>10.2f}{:>17.2f}{:>10.2f}".format(d, *row))
print("\n".join(table))
assert rooms[256, True] > 0.6 and rooms[256, False] < 0.15

# %% [markdown] lang="en"
# Saturation does *not* mean a small gradient on the whole: the unscaled one is larger, since the
# missing division enlarges it by $\sqrt{D}$. What vanishes is the gradient of the typical query; a
# few undecided ones have it all. Does this hurt training? First our small model, $D = 16$; then
# one head of $D = 64$.

# %% [markdown] lang="zh"
# 饱和*并不*意味着梯度总体变小：不缩放时它反而更大，因为少了那次除法，梯度多出一个因子 $\sqrt{D}$。消失的是一般查询的梯度，全部梯度集中在少数尚未拿定主意的查询上。这会妨碍训练吗？先看前面的小模型，$D = 16$；再看 $D = 64$ 的单头模型。图中横轴为步数，纵轴为训练损失。

# %%
raw, raw_curves = zip(*(train(seed, scaled=False) for seed in range(2)), strict=True)
raw_scores = [solved(model) for model in raw]
show("D = 16, scaled", scores)
show("D = 16, unscaled", raw_scores)
for curve, raw_curve in zip(curves, raw_curves, strict=True):
    assert raw_curve[150:].mean() > 1.5 * curve[150:].mean()

# %% alt_en="Training loss over 400 steps in two panels. D = 16: the unscaled curves fall later than the scaled ones and end a little higher. D = 64: the scaled curve falls to almost zero, the unscaled one stays near two." alt_zh="两幅图，400 步的训练损失。D = 16：不缩放的曲线下降得更晚，终点略高。D = 64：缩放的曲线降到接近零，不缩放的停在 2 附近。"
wide = {scaled: train(0, width=64, heads=1, scaled=scaled) for scaled in (True, False)}
wide_scores = [solved(model) for model, _ in wide.values()]
show("D = 64, scaled and unscaled", wide_scores)
assert wide_scores[0] > 0.9 and wide_scores[1] < 0.5

figure, axes = plt.subplots(1, 2, figsize=(6, 2.8), sharey=True)
panels = [(curves, raw_curves), ([wide[True][1]], [wide[False][1]])]
for axis, groups, d in zip(axes, panels, (16, 64), strict=True):
    for group, color, name in zip(groups, (BLUE, ORANGE), ("scaled", "unscaled"), strict=True):
        for n, curve in enumerate(group):
            smooth = curve.reshape(-1, 10).mean(1)
            axis.plot(range(5, 405, 10), smooth, color=color, label=None if n else name)
    axis.set(title=f"D = {d}", xlabel="step", ylim=(0, 4))
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("training loss")
axes[1].legend()
plt.show()

# %% [markdown] lang="en"
# At $D = 16$ the model still learns without the scale, but later, and it makes more mistakes. At $D
# = 64$, with the same recipe, it learns next to nothing in 400 steps. That is one learning rate and
# one budget, no proof that it never would.

# %% [markdown] lang="zh"
# $D = 16$ 时，没有缩放模型也学得会，只是学得晚，错得多。$D = 64$ 时，同样的训练设置跑 400 步几乎什么也没学到。但这只是一种学习率、一种步数，不能证明它永远学不会。

# %% [markdown] lang="en"
# ## What to take home
#
# | Removed | Training loss | Greedy decoding | How one would notice |
# |---|---|---|---|
# | positions | stays high | fails | answers ignore the order |
# | causal mask | near zero | fails | decode |
# | padding mask | near zero | works until the padding changes | pad more |
# | scale, $D = 16$ | falls later | worse | compare curves |
# | scale, $D = 64$ | stays high | fails | measure the weights at the start |
#
# ## Try it yourself
#
# 1. *Longer words.* Test the trained models on words of nine and ten letters (`LONGEST` must grow for
#    the test only). Expect about one in ten right at nine and none at ten, though the sinusoids
#    reach that far.
# 2. *Sort instead of reverse*: let `task` sort the letters. The answer no longer depends on the order,
#    so `positions=False` should do; expect about nine words in ten.
# 3. *A lower rate.* Train $D = 64$ without the scale at 2e-3 instead of 8e-3. Expect a clearly lower
#    loss than here (about 1.3), and still hardly a word right; with the scale that rate solves almost all.
#
# ## References
#
# - S. Jain, B. C. Wallace. [Attention is not Explanation](https://arxiv.org/abs/1902.10186). NAACL
#   2019.
# - S. Wiegreffe, Y. Pinter. [Attention is not not Explanation](https://arxiv.org/abs/1908.04626).
#   EMNLP-IJCNLP 2019.

# %% [markdown] lang="zh"
# ## 小结
#
# | 去掉 | 训练损失 | 贪心解码 | 怎样发现 |
# |---|---|---|---|
# | 位置编码 | 居高不下 | 失败 | 答案与顺序无关 |
# | 因果掩码 | 接近零 | 失败 | 实际解码 |
# | 填充掩码 | 接近零 | 填充一变就失败 | 多补填充 |
# | 缩放，$D = 16$ | 降得更晚 | 差一些 | 比较曲线 |
# | 缩放，$D = 64$ | 居高不下 | 失败 | 训练前测量权重 |
#
# ## 自己试一试
#
# 1. *更长的词。* 用训练好的模型去测九个和十个字母的词（只在测试时增大 `LONGEST`）。预计九个字母约一成正确，十个字母一个也不对，尽管正弦位置编码能编到那么远。
# 2. *把倒序改成排序*：让 `task` 给字母排序。答案不再取决于顺序，`positions=False` 应当就够了；预计约九成正确。
# 3. *调低学习率。* 去掉缩放、$D = 64$，把学习率从 8e-3 降到 2e-3。预计损失明显低于这里（约 1.3），但仍几乎写不对一个词；而有缩放时，用这个学习率几乎全对。
#
# ## 参考文献
#
# - S. Jain, B. C. Wallace. [Attention is not Explanation](https://arxiv.org/abs/1902.10186). NAACL 2019.
# - S. Wiegreffe, Y. Pinter. [Attention is not not Explanation](https://arxiv.org/abs/1908.04626). EMNLP-IJCNLP 2019.
