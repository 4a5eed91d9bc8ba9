# %% [markdown] lang="en" description="The smallest YOLO, built step by step: images with boxes, targets in a grid, the loss by hand, overfitting one batch, training, decoding, NMS, average precision, and a look at every kind of error." keywords=["object detection from scratch", "train a detector", "YOLO from scratch", "YOLOv1", "grid cell", "responsible box", "overfit one batch", "learning curve", "decode boxes", "precision-recall curve", "detection errors", "notebook"] requires=["detection/yolo", "detection/average_precision"]
# # A detector from scratch
#
# From pictures to average precision, with the smallest [YOLO](../detection/yolo.md#v1): one grid of
# 8×8 cells, two boxes in each, a loss of squares, as in the first version of Redmon and others (2016). Each step is looked
# at before the next one is taken, and each has a check that would have caught the usual mistake.
#
# The network is trained here, in well under a minute. The claims are assertions in the cells;
# the last digits differ from processor to processor.

# %% [markdown] lang="zh" description="一步一步搭出最小的 YOLO：带框的图像、网格里的训练目标、手算损失、过拟合一个批次、训练、解码、NMS、平均精度，并逐类查看错误。" keywords=["从零实现目标检测", "训练检测器", "YOLO 从零实现", "YOLOv1", "网格单元", "负责的框", "过拟合一个批次", "学习曲线", "解码边界框", "精确率-召回率曲线", "检测错误", "笔记本"] requires=["detection/yolo", "detection/average_precision"]
# # 从零做一个检测器
#
# 用最小的 [YOLO](../detection/yolo.md#v1)，从图像一直走到平均精度：一个 8×8 的网格，每格两个框，损失全是平方，即 Redmon 等人第一版（2016）的做法。每一步都先看清楚再走下一步，并且都配一项检查，常犯的错误在这里就会露馅。
#
# 网络在本页现场训练，用时远不到一分钟。各论断都写成了单元格里的断言（assert）；末位数字因处理器而异。

# %%
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from matplotlib_inline.backend_inline import set_matplotlib_formats
from torch import nn

from snippets.detection.average_precision import (
    COCO_RECALLS,
    average_precision,
    evaluate_coco,
    precision_recall,
)
from snippets.detection.iou import box_cxcywh_to_xyxy, box_iou, box_xyxy_to_cxcywh
from snippets.detection.nms import batched_nms
from snippets.detection.shapes_dataset import shapes
from snippets.detection.yolo_v1 import (
    decode_grid,
    first_in_cell,
    pick_detections,
    split_grid,
    v1_loss,
)

set_matplotlib_formats("svg")
torch.set_num_threads(1)  # the tensors are small
BLUE, ORANGE, GREEN, RED, PURPLE = "#3b82d6", "#d9730d", "#2b9a66", "#e0484d", "#9a5fd6"
INK = "#78808a"  # legible on white and on near-black
inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
plt.rcParams.update(dict.fromkeys(inked, INK))
plt.rcParams.update(
    {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.fonttype": "none",
    }
)

SIZE, S, A = 64, 8, 2  # pixels and cells along a side, boxes of a cell
CLASSES = ("dark", "bright")
K = len(CLASSES)
LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # how bright the eye finds RGB


def draw_data(count, generator):
    """Images (B, 3, 64, 64) and targets; the class says whether a shape is brighter than its image."""
    images, targets = [], []
    drawn = shapes(count, generator, SIZE, objects=(1, 3), sides=(16, 36), noise=2)
    for image, target in drawn:
        gray = (image * LUMA).sum(0)
        bright = [bool(gray[mask].mean() > gray.mean()) for mask in target["masks"]]
        images.append(image)
        targets.append({"boxes": target["boxes"], "labels": torch.tensor(bright).long()})
    return torch.stack(images), targets


def show(axis, image, title=""):
    """An image, in few colours, which keeps the page light."""
    few = (image * 15).round() / 15
    axis.imshow(few.permute(1, 2, 0), extent=(0, SIZE, SIZE, 0), interpolation="none")
    axis.set(xticks=[], yticks=[], xlim=(0, SIZE), ylim=(SIZE, 0), title=title)
    axis.spines[:].set_visible(False)


def outline(axis, boxes, color, width=2.0, line="-"):
    """Boxes, with a pale edge, to be seen on any colour."""
    for x1, y1, x2, y2 in boxes.tolist():
        edges = [("#f4f4f4", width + 1.4, "-"), (color, width, line)]
        for edge, size, dash in edges[width < 1 :]:
            style = {"fill": False, "edgecolor": edge, "linewidth": size, "linestyle": dash}
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))


# %% [markdown] lang="en"
# ## The data
#
# [Images of shapes](../detection/shapes_dataset.md), each with one to three objects or, rarely, none.
# To learn within seconds the detector need not tell discs from crosses: the class says whether an
# object is *dark* or *bright*, compared with its image. A target is a dictionary of boxes in pixels
# and labels. Look at the data first: a box shifted by half its width would be seen here, and
# hardly anywhere else.

# %% [markdown] lang="zh"
# ## 数据
#
# [形状图像](../detection/shapes_dataset.md)，每张有一到三个物体，偶尔一个也没有。为了几秒钟就能学会，这里不要求区分圆和十字：类别只说物体比整张图*暗*（dark）还是*亮*（bright）。训练目标是一个字典，含像素坐标的框和标签。先看数据：框若偏了半个宽度，在这里一眼可见，在别处则很难发现。

# %% alt_en="Four images with soft backgrounds. A green box lies tight around each disc, square, triangle or cross; above it stands dark or bright." alt_zh="四张背景柔和的图像。每个圆、方块、三角形或十字都有一个紧贴的绿色框，框上方写着 dark 或 bright。"
images, targets = draw_data(8, torch.Generator().manual_seed(15))
print(tuple(images.shape), "boxes in each image:", [len(t["boxes"]) for t in targets])
figure, axes = plt.subplots(1, 4, figsize=(6, 1.7))
for axis, image, target in zip(axes, images, targets, strict=False):
    show(axis, image, ", ".join(CLASSES[k] for k in target["labels"]) or "empty")
    outline(axis, target["boxes"], GREEN)
plt.show()
for target in targets:
    boxes = target["boxes"]
    assert (boxes >= 0).all() and (boxes <= SIZE).all() and (boxes[:, :2] < boxes[:, 2:]).all()

# %% [markdown] lang="en"
# ## From a box to numbers
#
# A network gives a tensor of fixed size, an image holds any number of boxes. The grid solves this:
# **the cell in which the centre of an object lies has to find it**. Each cell predicts $5A + K$ numbers:
# for each of its $A$ boxes $x$, $y$ (of the centre, counted from the corner of the cell, in cells),
# $\sqrt{w}$, $\sqrt{h}$ (shares of the image) and a confidence; and once for the cell $K$ class
# probabilities.
#
# Below we write the output of a *perfect* network for one image. The check goes there and back:
# decoded, the tensor must give the very boxes we began with. An error in axes or scale dies here.

# %% [markdown] lang="zh"
# ## 从框到数字
#
# 网络输出的张量大小固定，图像里的框却有多有少。网格解决了这个问题：**物体的中心落在哪个单元，就由哪个单元负责找到它**。每个单元预测 $5A + K$ 个数：$A$ 个框各有 $x$、$y$（中心，从单元左上角量起，以单元为单位）、$\sqrt{w}$、$\sqrt{h}$（占图像的比例）和一个置信度；另有整个单元共用的 $K$ 个类别概率。
#
# 下面为一张图写出*完美*网络的输出。检查办法是走个来回：解码之后必须得到原来的框。坐标轴或尺度弄错，在这里就会暴露。


# %%
def perfect(target):
    """What a network without error would give, (S, S, 5 A + K); its first box has the object."""
    output = torch.zeros(S, S, 5 * A + K)
    owner = first_in_cell(target["boxes"], S, (SIZE, SIZE))  # (S * S,), -1 for none
    for cell in (owner >= 0).nonzero()[:, 0].tolist():
        row, column = divmod(cell, S)
        cx, cy, w, h = (box_xyxy_to_cxcywh(target["boxes"][owner[cell]]) / SIZE).tolist()
        numbers = [cx * S - column, cy * S - row, w**0.5, h**0.5, 1.0]
        output[row, column, :5] = torch.tensor(numbers)
        output[row, column, 5 * A + target["labels"][owner[cell]]] = 1
    return output


chosen = max(range(8), key=lambda i: len(targets[i]["boxes"]))
image, target = images[chosen], targets[chosen]
answer = perfect(target)
cells = answer[..., 4].nonzero().tolist()
print(" row col     x     y    √w    √h  conf   dark bright")
for row, column in cells:
    used = answer[row, column][[0, 1, 2, 3, 4, 10, 11]].tolist()
    print(f"{row:>4}{column:>4}" + "".join(f"{number:6.2f}" for number in used))

raw, confidence, _ = split_grid(answer[None], A)
decoded = decode_grid(raw, (SIZE, SIZE))[confidence == 1]  # (n, 4)
assert torch.allclose(
    decoded[box_iou(decoded, target["boxes"]).argmax(0)], target["boxes"], atol=1e-3
)

# %% alt_en="Left: the image under a grid of eight by eight cells; each object has a green box, a dot at its centre, and the cell around the dot is filled orange. Right: the same grid, empty except for these cells, with numbers beside them: x and y above, root of w and root of h below." alt_zh="左：图像上盖着八乘八的网格；每个物体有绿色框，中心有一个点，点所在的单元填成橙色。右：同样的网格，除这些单元外都是空的，旁边写着数字：上面是 x 和 y，下面是 √w 和 √h。"
figure, axes = plt.subplots(1, 2, figsize=(6, 3.1))
show(axes[0], image, "the object's cell")
outline(axes[0], target["boxes"], GREEN)
axes[1].set(
    xticks=[], yticks=[], xlim=(0, SIZE), ylim=(SIZE, 0), aspect="equal", title="its numbers"
)
for axis in axes:
    for line in range(S + 1):
        axis.plot([0, SIZE], [line * SIZE / S] * 2, color=INK, linewidth=0.6)
        axis.plot([line * SIZE / S] * 2, [0, SIZE], color=INK, linewidth=0.6)
for row, column in cells:
    for axis in axes:
        corner = (column * SIZE / S, row * SIZE / S)
        axis.add_patch(Rectangle(corner, SIZE / S, SIZE / S, color=ORANGE, alpha=0.5))
    x, y, w, h = answer[row, column, :4].tolist()
    axes[0].plot((column + x) * SIZE / S, (row + y) * SIZE / S, "o", color=GREEN)
    middle = min(max((column + 0.5) * SIZE / S, 12), SIZE - 12)
    place = {"ha": "center", "va": "center", "fontsize": 9}
    axes[1].text(middle, row * SIZE / S - 2.6, f"x {x:.2f}  y {y:.2f}", **place)
    axes[1].text(middle, (row + 1) * SIZE / S + 2.6, f"√w {w:.2f}  √h {h:.2f}", **place)
plt.show()

# %% [markdown] lang="en"
# What the grid cannot say: two objects with their centres in one cell. The second is lost, whatever
# the network learns. Count before you train: this share is an upper limit of the recall.

# %% [markdown] lang="zh"
# 网格说不出的情况：两个物体的中心落在同一单元。第二个就丢了，网络学得再好也没用。训练之前先数一数：这个比例就是召回率的上限。

# %%
test_images, test_targets = draw_data(200, torch.Generator().manual_seed(99))
total = sum(len(t["boxes"]) for t in test_targets)
for side in (2, 4, 8):
    owners = [first_in_cell(t["boxes"], side, (SIZE, SIZE)) for t in test_targets]
    reached = sum(int((owner >= 0).sum()) for owner in owners) / total
    print(f"{side} x {side} cells: {reached:.3f} of the objects have a cell")
assert reached > 0.97

# %% [markdown] lang="en"
# ## The network
#
# Six convolutions of 3×3, of which the first three halve the map: 64 pixels become 8 cells. A 1×1
# convolution gives the numbers; it is linear, so nothing keeps them in range. (The network of the
# paper ends in two linear layers and sees the whole image.)
#
# How far does a cell see? By arithmetic each layer adds (kernel − 1) × the stride so far. By
# experiment: differentiate one cell by the image and measure where the gradient is not zero. An
# object must fit into this [receptive field](../convolution/receptive_field.md).

# %% [markdown] lang="zh"
# ## 网络
#
# 六个 3×3 卷积，前三个各把特征图减半：64 个像素变成 8 个单元。最后一个 1×1 卷积给出这些数；它是线性的，输出不受范围约束。（论文里的网络以两个全连接层收尾，看得到整张图。）
#
# 一个单元能看多远？算：每层增加（卷积核 − 1）× 此前的总步幅。量：让一个单元对图像求导，看梯度在哪里不为零。物体必须装得进这个[感受野](../convolution/receptive_field.md)。

# %%
LAYERS = ((16, 2), (32, 2), (64, 2), (64, 1), (64, 1), (64, 1))  # channels, stride


def build(seed):
    torch.manual_seed(seed)
    layers, before = [], 3
    for width, stride in LAYERS:
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)]
        layers.append(nn.LeakyReLU(0.1))
        before = width
    return nn.Sequential(*layers, nn.Conv2d(before, 5 * A + K, 1))


def predict(model, images):
    """Images to the numbers of the cells, (B, S, S, 5 A + K)."""
    return model(images).permute(0, 2, 3, 1)


model = build(0)
field, step = 1, 1
for _, stride in LAYERS:
    field, step = field + 2 * step, step * stride
seen = images[:1].clone().requires_grad_()
predict(model.eval(), seen)[0, 4, 4].sum().backward()
columns = seen.grad[0].abs().sum((0, 1)).nonzero()[:, 0]
print(f"output {tuple(predict(model, images).shape)}")
print(f"{sum(p.numel() for p in model.parameters())} parameters")
print(f"receptive field: {field} pixels by arithmetic, {len(columns)} by gradient")
assert len(columns) == field

# %% [markdown] lang="en"
# ## The loss, term by term
#
# Eq. (3) of the paper, with $\lambda_{coord} = 5$ and $\lambda_{noobj} = 0.5$. Hats mark the
# prediction; $i$ runs over cells, $j$ over the boxes of a cell:
#
# $$\lambda_{coord} \sum_{ij} 1^{obj}_{ij} \left[(x - \hat x)^2 + (y - \hat y)^2 + (\sqrt w - \sqrt{\hat w})^2 + (\sqrt h - \sqrt{\hat h})^2\right]$$
#
# $$+ \sum_{ij} 1^{obj}_{ij} (C - \hat C)^2 + \lambda_{noobj} \sum_{ij} 1^{noobj}_{ij} \hat C^2 + \sum_i 1^{obj}_i \sum_c (p_c - \hat p_c)^2$$
#
# $1^{obj}_{ij}$ is one for the **responsible** box: of the boxes of a cell with an object, the one
# that overlaps the object most *now*. Only this box learns the coordinates, and its confidence $C$
# should become its own IoU with the object. All other boxes should have confidence zero, at half
# price, because there are so many of them. Here is the whole of it in plain loops, for one image,
# compared with the function that we shall train with.

# %% [markdown] lang="zh"
# ## 逐项手算损失
#
# 论文的式 (3)，$\lambda_{coord} = 5$，$\lambda_{noobj} = 0.5$。带帽的是预测；$i$ 遍历单元，$j$ 遍历单元里的框：
#
# $$\lambda_{coord} \sum_{ij} 1^{obj}_{ij} \left[(x - \hat x)^2 + (y - \hat y)^2 + (\sqrt w - \sqrt{\hat w})^2 + (\sqrt h - \sqrt{\hat h})^2\right]$$
#
# $$+ \sum_{ij} 1^{obj}_{ij} (C - \hat C)^2 + \lambda_{noobj} \sum_{ij} 1^{noobj}_{ij} \hat C^2 + \sum_i 1^{obj}_i \sum_c (p_c - \hat p_c)^2$$
#
# 对**负责**的框，$1^{obj}_{ij}$ 为一：在有物体的单元里，*此刻*与物体重叠最多的那个框。只有它学坐标，它的置信度 $C$ 应等于它自己与物体的 IoU。其余所有框的置信度都应为零，价格减半，因为它们太多了。下面用朴素循环为一张图算完整个损失，再与训练时要用的函数比较。

# %%
with torch.no_grad():
    output = predict(model.train(), images)
    numbers = output[chosen].tolist()
terms = dict.fromkeys(("coordinates", "confidence, object", "confidence, none", "class"), 0.0)
for row in range(S):
    for column in range(S):
        cell, goal = numbers[row][column], answer[row, column].tolist()
        responsible, iou = None, 0.0
        if goal[4]:  # an object has its centre here
            shapes_ = []
            for j in range(A):
                x, y, w, h = cell[5 * j : 5 * j + 4]
                shapes_.append([(column + x) / S, (row + y) / S, w**2, h**2])
            boxes = box_cxcywh_to_xyxy(torch.tensor(shapes_) * SIZE)
            x, y, w, h = goal[:4]
            here = torch.tensor([[(column + x) / S, (row + y) / S, w**2, h**2]]) * SIZE
            overlaps = box_iou(boxes, box_cxcywh_to_xyxy(here))[:, 0].tolist()
            iou = max(overlaps)
            responsible = overlaps.index(iou)
            own = cell[5 * responsible : 5 * responsible + 5]
            wrong = zip(own[:4], goal[:4], strict=True)
            terms["coordinates"] += 5 * sum((a - b) ** 2 for a, b in wrong)
            terms["confidence, object"] += (own[4] - iou) ** 2
            wrong = zip(cell[5 * A :], goal[5 * A :], strict=True)
            terms["class"] += sum((a - b) ** 2 for a, b in wrong)
            print(f"cell ({row}, {column}): box {responsible} is responsible, IoU {iou:.2f}")
        for j in range(A):
            if j != responsible:
                terms["confidence, none"] += 0.5 * cell[5 * j + 4] ** 2
parts = v1_loss(output[chosen : chosen + 1], [target], (SIZE, SIZE), A)
for (name, value), part in zip(terms.items(), parts, strict=True):
    print(f"{name:<20}{value:7.3f}   v1_loss {part.item():7.3f}")
    assert abs(value - part.item()) < 1e-3 * (1 + value)

# A perfect answer costs nothing: its confidence is 1, and so is its IoU.
assert max(part.item() for part in v1_loss(answer[None], [target], (SIZE, SIZE), A)) < 1e-6

# %% [markdown] lang="en"
# ## First, overfit one batch
#
# Before any real training: can the network learn these eight images by heart? If the loss does not
# fall to almost nothing, something is broken, be it target, loss, learning rate or a forgotten
# `zero_grad`, and no amount of data will mend it. It takes seconds, and says nothing about new images.

# %% [markdown] lang="zh"
# ## 先过拟合一个批次
#
# 正式训练之前先问：网络能不能把这八张图背下来？损失若降不到接近零，一定有什么坏了：目标、损失、学习率，或者忘了 `zero_grad`，再多的数据也救不了。这只要几秒钟，但它对新图像什么也说明不了。


# %%
def learn(model, steps, rate, batches, watch=None):
    """Minimise the loss over `steps` batches; the four parts of each step, (steps, 4)."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    history = []
    for number in range(1, steps + 1):
        images, targets = batches()
        parts = v1_loss(predict(model.train(), images), targets, (SIZE, SIZE), A)
        optimizer.zero_grad()
        sum(parts).backward()
        optimizer.step()
        schedule.step()
        history.append([part.item() for part in parts])
        if watch:
            watch(number)
    return torch.tensor(history)


@torch.no_grad()
def detect(model, images, min_score=0.01):
    """Boxes, scores and labels of each image after NMS."""
    raw, confidence, probs = split_grid(predict(model.eval(), images), A)
    boxes = decode_grid(raw, (SIZE, SIZE)).flatten(1, 3)  # (B, S*S*A, 4)
    scores = (confidence[..., None] * probs[..., None, :]).flatten(1, 3)  # (B, S*S*A, K)
    return pick_detections(boxes, scores, (SIZE, SIZE), min_score)


drilled = build(1)
history = learn(drilled, 150, 1e-2, lambda: (images, targets))
first, last = history[0].sum().item(), history[-10:].sum(1).mean().item()
drill = evaluate_coco(detect(drilled, images), targets)["AP50"]
new = evaluate_coco(detect(drilled, test_images), test_targets)["AP50"]
print(f"loss: {first:.2f} at first, {last:.3f} at the end")
print(f"AP50: {drill:.2f} on these images, {new:.2f} on new ones")
assert last < 0.05 * first and drill > 0.9 and new < 0.4

# %% [markdown] lang="en"
# ## Training
#
# Now 500 steps of 16 images, each image new: nothing can be learned by heart, so the loss of training is
# an honest one. AP50 is measured on the way, on 100 images of its own, not those of the final test.

# %% [markdown] lang="zh"
# ## 训练
#
# 现在训练 500 步，每步 16 张图，张张都是新的：没有什么可背，所以训练损失是诚实的。途中用另外 100 张图测 AP50，不动用最后的测试集。图中横轴 step 为步数；左图 loss 为损失的四项（coordinates 坐标，object 有物体的置信度，none 无物体的置信度，class 类别），右图为 AP50。

# %% alt_en="Two panels over 500 steps. Left, on a logarithmic axis: coordinates and class fall steadily; the confidence of boxes with an object rises at first and then stays; that of empty boxes stays low. Right: AP50 climbs from zero, fast at first and then more slowly, to about 0.8." alt_zh="两幅图，横轴 500 步。左图（对数轴）：坐标与类别两项稳步下降；有物体的置信度先升后平；空框的置信度一直很低。右图：AP50 从零升起，先快后慢，升到约 0.8。"
generator = torch.Generator().manual_seed(0)
check_images, check_targets = draw_data(100, torch.Generator().manual_seed(98))
curve = {0: 0.0}


def watch(number):
    if number % 100 == 0:
        curve[number] = evaluate_coco(detect(model, check_images), check_targets)["AP50"]


history = learn(model, 500, 1e-2, lambda: draw_data(16, generator), watch)
print("step    AP50")
print("\n".join(f"{number:>4}{value:8.2f}" for number, value in curve.items()))
start, end = history[:20].mean(0), history[-40:].mean(0)
assert end[0] < 0.4 * start[0] and end[3] < 0.6 * start[3]

figure, axes = plt.subplots(1, 2, figsize=(6, 2.7))
for part, name, color in zip(
    history.reshape(-1, 20, 4).mean(1).T,
    ("coordinates", "object", "none", "class"),
    (BLUE, GREEN, INK, ORANGE),
    strict=True,
):
    axes[0].semilogy(range(10, 510, 20), part, color=color, label=name)
axes[0].set(xlabel="step", ylabel="loss")
axes[0].legend(fontsize=9, ncols=2, loc="upper right")
axes[1].plot(list(curve), list(curve.values()), "o-", color=PURPLE)
axes[1].set(xlabel="step", ylabel="AP50", ylim=(0, 1))
plt.show()

# %% [markdown] lang="en"
# The confidence of the responsible boxes does not fall like the rest: while the boxes get better, its
# goal, their IoU, moves. And it competes with the empty boxes, of which there are about 75 for
# each full one.
#
# ## From numbers to detections
#
# One test image: 8×8×2 = 128 boxes. The score of a box for a class is confidence × class
# probability. A threshold drops most boxes; [NMS](../detection/nms.md) drops those that repeat
# a better one of the same class. We do both by hand and compare with `detect`.

# %% [markdown] lang="zh"
# 负责的框的置信度不像其他几项那样下降：框变好的同时，它的目标，也就是框的 IoU，也在移动；它还要与空框竞争，而每一个有物体的框大约对应 75 个空框。
#
# ## 从数字到检测结果
#
# 一张测试图像：8×8×2 = 128 个框。一个框对某类的分数是置信度 × 类别概率。阈值去掉大多数框；[NMS](../detection/nms.md) 再去掉与更好的同类框重复的。这两步都亲手做一遍，再与 `detect` 比较。图中 all 为全部，score 为分数，after NMS 为 NMS 之后。

# %% alt_en="One image three times. All 128 boxes: a tangle of orange lines, thickest around the objects. Score above 0.2: only boxes around the objects remain, several for some. After NMS: about one orange box for each green one." alt_zh="同一张图的三个阶段。全部 128 个框：一团橙色线，物体周围最密。分数高于 0.2：只剩物体周围的框，有的物体有好几个。NMS 之后：每个绿色框大约对应一个橙色框。"
MIN = 0.2
with torch.no_grad():
    raw, confidence, probs = split_grid(predict(model.eval(), test_images), A)
every = decode_grid(raw, (SIZE, SIZE)).flatten(1, 3).clamp(0, SIZE)  # (B, 128, 4)
scores = (confidence[..., None] * probs[..., None, :]).flatten(1, 3)  # (B, 128, K)
full = [i for i, t in enumerate(test_targets) if len(t["boxes"]) == 3]
shown = max(full, key=lambda i: int((scores[i] > MIN).sum()))  # where NMS has most to do
place, label = (scores[shown] > MIN).nonzero(as_tuple=True)
candidates, values = every[shown][place], scores[shown][place, label]
kept = batched_nms(candidates, values, label, 0.45)
print(f"{len(every[shown])} boxes, {len(place)} above {MIN}, {len(kept)} after NMS")
detections = detect(model, test_images)
by_function = detections[shown]["boxes"][detections[shown]["scores"] > MIN]
assert torch.allclose(candidates[kept], by_function, atol=1e-3) and len(kept) < len(place) < 128

figure, axes = plt.subplots(1, 3, figsize=(6, 2.2))
titles = f"all {len(every[shown])}", f"score > {MIN}: {len(place)}", f"after NMS: {len(kept)}"
groups = every[shown], candidates, candidates[kept]
for axis, title, group, width in zip(axes, titles, groups, (0.4, 1.2, 2.0), strict=True):
    show(axis, test_images[shown], title)
    outline(axis, test_targets[shown]["boxes"], GREEN)
    outline(axis, group, ORANGE, width)
plt.show()

# %% [markdown] lang="en"
# ## Right or wrong: precision, recall, AP
#
# A detection is *correct* if it overlaps a free object of its class by an IoU of at least 0.5; the
# best score chooses first. `judge` also says what kind of mistake the others are, in the manner of
# Bolya and others (2020):
#
# | Kind | What it is |
# |---|---|
# | duplicate | IoU is enough, but the object is taken |
# | class | IoU is enough, with an object of the other class |
# | localisation | right class, IoU from 0.1 to 0.5 |
# | background | none of these; mostly nothing is there |
# | missed | an object that no detection got |
#
# Sorted by score over all images, correct and wrong ones make the
# [precision-recall curve](../detection/average_precision.md) of a class. Its average, done here in
# five lines, must equal AP50 of the evaluator.

# %% [markdown] lang="zh"
# ## 对还是错：精确率、召回率、AP
#
# 一个检测若与一个尚未被占用的同类物体 IoU 不低于 0.5，就算*正确*（correct）；分数高的先选。`judge` 还会说出其余的错属于哪一种，分法大致依照 Bolya 等人（2020）：
#
# | 种类 | 含义 |
# |---|---|
# | 重复（duplicate） | IoU 够了，但物体已被占用 |
# | 类别（class） | 与另一类的物体 IoU 够了 |
# | 定位（localisation） | 类别对，IoU 在 0.1 到 0.5 之间 |
# | 背景（background） | 都不是；多半那里什么也没有 |
# | 漏检（missed） | 没有任何检测得到的物体 |
#
# 把所有图像的检测按分数排序，对错依次累计，就得到一个类别的[精确率-召回率曲线](../detection/average_precision.md)。它的平均在这里只用五行，必须等于评估器给出的 AP50。图中 recall 为召回率，precision 为精确率。


# %%
def judge(found, target, threshold=0.5):
    """The kind of each detection, by descending score, and which objects are missed."""
    iou = box_iou(found["boxes"], target["boxes"])  # (D, G)
    same = found["labels"][:, None] == target["labels"]  # (D, G)
    free = torch.ones(len(target["boxes"]), dtype=torch.bool)
    kinds = []
    for overlap, mine in zip(iou, same, strict=True):
        enough = overlap >= threshold
        if (enough & mine & free).any():
            free[torch.where(mine & free, overlap, -1).argmax()] = False
            kinds.append("correct")
        elif (enough & mine).any():
            kinds.append("duplicate")
        elif (enough & ~mine).any():
            kinds.append("class")
        else:
            kinds.append("localisation" if (mine & (overlap >= 0.1)).any() else "background")
    return kinds, free


def curves(threshold):
    """Precision, recall and AP of each class."""
    result = []
    kinds = [judge(*pair, threshold)[0] for pair in zip(detections, test_targets, strict=True)]
    hits = torch.tensor([kind == "correct" for image in kinds for kind in image])
    scores, labels = (torch.cat([x[key] for x in detections]) for key in ("scores", "labels"))
    for k in range(K):
        mine = labels == k
        right = hits[mine][scores[mine].argsort(descending=True, stable=True)]
        objects = sum(int((t["labels"] == k).sum()) for t in test_targets)
        precision, recall = precision_recall(right, ~right, objects)
        result.append(
            (precision, recall, float(average_precision(precision, recall, COCO_RECALLS)))
        )
    return result


result = evaluate_coco(detections, test_targets)
print("  ".join(f"{name} {result[name]:.2f}" for name in ("AP", "AP50", "AP75", "AR100")))
loose, strict = curves(0.5), curves(0.75)
by_hand = sum(ap for _, _, ap in loose) / K
assert abs(by_hand - result["AP50"]) < 1e-6
assert result["AP50"] > 0.5 and result["AP50"] > result["AP75"] + 0.15

# %% alt_en="Precision against recall for two classes. At an IoU of 0.5 both curves stay high until a recall of about one half and then bend down. At 0.75, dashed, they lie far below and end early." alt_zh="两个类别的精确率-召回率曲线。IoU 为 0.5 时，两条曲线在召回率约一半之前都保持在高处，随后弯下；IoU 为 0.75 时（虚线）低得多，也更早结束。"
figure, axis = plt.subplots(figsize=(6, 2.8))
for name, color, k in zip(CLASSES, (BLUE, ORANGE), range(K), strict=True):
    for threshold, line, group in ((0.5, "-", loose), (0.75, "--", strict)):
        precision, recall, ap = group[k]
        label = f"{name}, IoU {threshold}:\nAP {ap:.2f}"
        axis.plot(recall, precision, line, color=color, label=label, linewidth=1.3)
axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))
plt.show()

# %% [markdown] lang="en"
# ## Look at the mistakes
#
# AP is one number; it does not say what to do next. So take the best detections of all images, as many as
# there are objects, and count them by kind, and the objects that they miss.

# %% [markdown] lang="zh"
# ## 看看错在哪里
#
# AP 只是一个数，不会告诉你下一步该做什么。这里取所有图像中分数最高的检测，物体有多少就取多少，按种类计数，再数出它们漏掉的物体。绿色为真值框，橙色为正确的检测，红色虚线为错误的检测或漏检的物体；all correct 表示全对。

# %% alt_en="Six test images with green true boxes. Two are all correct: an orange box lies on each green one. The others show mistakes in red dashes: a box too far off, an object without a detection, a box where nothing is, and a second box on one object." alt_zh="六张测试图像，绿色为真值框。两张全对：每个绿色框上都有一个橙色框。其余各图用红色虚线标出错误：偏得太远的框、没有检测到的物体、什么也没有的地方的框，以及同一物体上的第二个框。"
every_score = torch.cat([found["scores"] for found in detections]).sort(descending=True).values
least = every_score[total - 1]
counts, examples = {}, {}
for i, (found, target) in enumerate(zip(detections, test_targets, strict=True)):
    sure = {key: value[found["scores"] >= least] for key, value in found.items()}
    kinds, missed = judge(sure, target)
    wrong = [kind for kind in kinds if kind != "correct"] + ["missed"] * int(missed.sum())
    for kind in wrong + ["correct"] * kinds.count("correct"):
        counts[kind] = counts.get(kind, 0) + 1
    name = (
        "all correct" if not wrong and len(kinds) > 1 else min(wrong, key=wrong.count, default="")
    )
    examples.setdefault(name, []).append((i, sure, kinds, missed))
for kind in ("correct", "localisation", "class", "duplicate", "background", "missed"):
    print(f"{kind:<14}{counts.get(kind, 0):4}")
assert counts["correct"] > 0.45 * total

order = ["all correct", "all correct", "localisation", "missed", "background", "duplicate", "class"]
order = [name for name in order if name in examples]
figure, axes = plt.subplots(2, 3, figsize=(6, 4.4))
for axis in axes.flat:
    axis.set_axis_off()
for n, (axis, name) in enumerate(zip(axes.flat, order, strict=False)):
    group = examples[name]
    i, sure, kinds, missed = group[order[:n].count(name) % len(group)]
    show(axis, test_images[i], name)
    right = torch.tensor([kind == "correct" for kind in kinds], dtype=torch.bool)
    outline(axis, test_targets[i]["boxes"], GREEN)
    outline(axis, sure["boxes"][right], ORANGE)
    outline(axis, sure["boxes"][~right], RED, line="--")
    outline(axis, test_targets[i]["boxes"][missed], RED, line="--")
plt.show()

# %% [markdown] lang="en"
# An object is often counted twice: a box that lies too far off is a localisation error, and the object
# it failed to reach is missed. How much is localisation alone? Give each detection that touches an
# object of its class by an IoU of at least 0.1 the very box of that object, and evaluate again.

# %% [markdown] lang="zh"
# 同一个物体常被记两次：偏得太远的框算定位错误，它没够着的物体又算漏检。光是定位占多少？凡与同类物体 IoU 不低于 0.1 的检测，都换成那个物体自己的框，再评估一次。

# %%
mended = []
for found, target in zip(detections, test_targets, strict=True):
    boxes = found["boxes"].clone()
    if len(target["boxes"]):
        same = found["labels"][:, None] == target["labels"]
        overlap, nearest = box_iou(boxes, target["boxes"]).masked_fill(~same, 0).max(1)
        boxes[overlap >= 0.1] = target["boxes"][nearest[overlap >= 0.1]]
    kept = batched_nms(boxes, found["scores"], found["labels"], 0.45)
    mended.append({"boxes": boxes[kept]} | {key: found[key][kept] for key in ("scores", "labels")})
better = evaluate_coco(mended, test_targets)
for name in ("AP", "AP50", "AP75"):
    print(f"{name:<5} {result[name]:.2f}, with the boxes put right {better[name]:.2f}")
assert better["AP"] > result["AP"] + 0.15

# %% [markdown] lang="en"
# Most of what is missing to a perfect AP is localisation, as the paper found for its own network on
# VOC (figure 4 there). The next versions of YOLO are mostly answers to this: priors instead of free
# boxes, finer maps, IoU losses.
#
# ## Try it yourself
#
# 1. *One box a cell.* Set `A = 1`. What changes in the loss, and what do you expect of AP?
#
# <details class="question"><summary>Answer</summary>
#
# Nobody is chosen any more: the only box is responsible. On this data, with objects of similar size,
# AP does not suffer. Two boxes pay when shapes differ, so that each may specialise.
#
# </details>
#
# 2. *A coarser grid.* Let the fourth layer halve the map too, and set `S = 4`. What is lost for certain?
#
# <details class="question"><summary>Answer</summary>
#
# The objects that share a cell; the table above says how many. And an error of a tenth of a cell is now
# twice as many pixels.
#
# </details>
#
# 3. *Without the root.* Predict $w$ and $h$ themselves. Which objects suffer?
#
# <details class="question"><summary>Answer</summary>
#
# The small ones. The same error in pixels costs the same for all, but it spoils the IoU of a
# small box far more; the root makes it dearer there.
#
# </details>
#
# 4. *An error to find.* Write `column, row = divmod(cell, S)` in `perfect`. Do the decoded boxes betray it?
#    What does?
#
# <details class="question"><summary>Answer</summary>
#
# No: the place and the offset from it are wrong together, and cancel. But $x$ and $y$ in the table leave
# the range from 0 to 1, and the loss by hand disagrees with `v1_loss`. One check is not enough.
#
# </details>
#
# ## References
#
# - J. Redmon, S. Divvala, R. Girshick, A. Farhadi. [You Only Look Once: Unified, Real-Time Object
#   Detection](https://arxiv.org/abs/1506.02640). CVPR 2016.
# - D. Bolya, S. Foley, J. Hays, J. Hoffman. [TIDE: A General Toolbox for Identifying Object Detection
#   Errors](https://arxiv.org/abs/2008.08115). ECCV 2020.

# %% [markdown] lang="zh"
# 离满分差的那一截，大半是定位；论文在 VOC 上分析自己的网络时也是如此（见其图 4）。后来各版 YOLO 大多是在回答这个问题：用先验框代替自由的框、更细的特征图、IoU 类损失。
#
# ## 自己试一试
#
# 1. *每格一个框。* 设 `A = 1`。损失有什么变化？AP 会怎样？
#
# <details class="question"><summary>答案</summary>
#
# 不用再选：唯一的框就是负责的框。这里的物体大小相近，AP 不受影响。物体形状悬殊时，两个框才划算，因为可以各有专长。
#
# </details>
#
# 2. *更粗的网格。* 让第四层也把特征图减半，并设 `S = 4`。什么是注定要丢的？
#
# <details class="question"><summary>答案</summary>
#
# 共用一个单元的物体；上面的表说明了有多少。此外，同样是十分之一个单元的误差，像素数却翻了倍。
#
# </details>
#
# 3. *不开平方根。* 直接预测 $w$ 和 $h$。哪些物体会吃亏？
#
# <details class="question"><summary>答案</summary>
#
# 小物体。同样的像素误差，对所有物体价格相同，却会使小框的 IoU 差得多；平方根让它在小框上更贵。
#
# </details>
#
# 4. *找错误。* 在 `perfect` 里写成 `column, row = divmod(cell, S)`。解码出的框会露馅吗？什么会？
#
# <details class="question"><summary>答案</summary>
#
# 不会：位置和相对它的偏移一起错，正好抵消。但表中的 $x$、$y$ 会超出 0 到 1，手算的损失也与 `v1_loss` 不符。一项检查是不够的。
#
# </details>
#
# ## 参考文献
#
# - J. Redmon, S. Divvala, R. Girshick, A. Farhadi. [You Only Look Once: Unified, Real-Time Object Detection](https://arxiv.org/abs/1506.02640). CVPR 2016.
# - D. Bolya, S. Foley, J. Hays, J. Hoffman. [TIDE: A General Toolbox for Identifying Object Detection Errors](https://arxiv.org/abs/2008.08115). ECCV 2020.
