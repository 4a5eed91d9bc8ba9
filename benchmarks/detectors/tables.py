"""Tables of the detectors: for the section's page, for the terminal, and of two runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from benchmarks import results
from benchmarks.detectors import COMMAND
from benchmarks.detectors.run import current
from benchmarks.detectors.zoo import DETECTORS
from benchmarks.results import Run

Row = Mapping[str, Any]
REACHED = 0.8  # AP50 from Fast R-CNN on
WORDS: dict[str, tuple[str, str]] = {
    "detector": ("Detector", "检测器"),
    "masks": ("Mask AP", "掩膜 AP"),
    "mask50": ("Mask AP50", "掩膜 AP50"),
    "parameters": ("Parameters", "参数量"),
    "flops": ("FLOPs", "FLOPs"),
    "training": ("Training", "训练时间"),
    "latency": ("Latency", "延迟"),
    "rate": ("Peak rate", "学习率峰值"),
    "images": ("Images seen", "训练图像数"),
    "right": ("Right", "正确"),
    "wrong": ("Wrong", "错误"),
    "missed": ("Missed", "漏检"),
    "seconds": ("{} s", "{} 秒"),
    "gone": ("–", "–"),
    "failed": ("not measured: {}", "没有数据：{}"),
    "unit": (
        "AP of boxes by COCO's rules on {held} held-out images of {size} × {size} pixels with "
        "{low} to {high} shapes, a few of them empty; the best of each column is bold. No shape "
        "is large by COCO's measure (96² pixels), so AP has no column for those. Parameters and "
        "floating-point operations are those of inference on one image, counted by PyTorch "
        "(convolutions and matrix products, a multiplication and an addition being two); "
        "the latency is the median "
        "of one image with all post-processing; training does not include drawing the images. On a "
        "CPU both times are those of the process, not of the clock on the wall.",
        "AP 为边界框指标，按 COCO 规则，在 {held} 张未参与训练的 {size} × {size} 图像上计算，"
        "每张有 {low} 到 {high} 个图形，少数为空；每列最好者为粗体。按 COCO 的标准（96² 像素），"
        "这里没有大物体，因此没有大物体的 AP 一列。参数量与浮点运算数都指推理一张图像，由 PyTorch "
        "统计（只计卷积与矩阵乘，一次乘法和一次加法算两次）；延迟是单张图像含全部后处理的中位数；"
        "训练时间不含生成图像。在 CPU 上，两者都取进程的 CPU 时间，而非挂钟时间。",
    ),
    "budget": (
        "Each saw {images} images, new ones in every step, the same for all; {optimizer}, batches "
        "of {batch}.",
        "每个检测器都看过 {images} 张图像，每步都是新图像，所有检测器相同；{optimizer}，"
        "批大小 {batch}。",
    ),
    "longer": (
        "{} is trained on {} times as many: {}.",
        "{} 的训练图像是其 {} 倍：{}。",
    ),
    "reached": (
        "From Fast R-CNN on the aim is an AP50 of at least {aim}. It is reached by {good}.",
        "从 Fast R-CNN 起，目标是 AP50 不低于 {aim}。达到者：{good}。",
    ),
    "short": ("It is **not** reached by {bad}.", "**未达到**者：{bad}。"),
    "about": (
        "{device}{thread}, PyTorch {torch}, Python {python}; {day}, commit {commit}. Raw: {files}. "
        "`{command}` measures again.",
        "{device}{thread}，PyTorch {torch}，Python {python}；{day}，提交 {commit}。"
        "原始数据：{files}。运行 `{command}` 可重新测量。",
    ),
    "thread": (", one thread", "，单线程"),
    "old": (
        "**Of earlier code, to be measured again: {}.**",
        "**以下各行测的是较早的代码，需要重新测量：{}。**",
    ),
    "missing": (
        "Not recorded yet: `{}` trains all detectors and writes the results.",
        "尚未测量：运行 `{}` 会训练所有检测器并写出结果。",
    ),
    "threshold": (
        "Counted at the score that makes F1 largest for each, over the same images: a detection is "
        "right if it overlaps an object of its class by at least a half that no better one took.",
        "各检测器取使 F1 最大的分数阈值，在同一批图像上计数：检测框与同类物体的交并比不低于一半、"
        "且该物体未被更高分的检测框占用，则为正确。",
    ),
    "and": (", ", "、"),
}


def word(name: str, lang: str) -> str:
    """Of a table, in its language."""
    return WORDS[name][lang == "zh"]


def absent(what: str, lang: str) -> str:
    """Where there are no rows yet: the first table of the page says so."""
    return word("missing", lang).format(COMMAND) if what == "detectors" else ""


def detectors(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """A row a detector: accuracy, size, cost."""
    names = ("masks", "parameters", "flops", "training", "latency")

    def seconds(x: float) -> str:
        return word("seconds", lang).format(f"{x:.0f}")

    heads = [word("detector", lang), "AP", "AP50", "APs", "APm"]
    yield _line([*heads, *(word(name, lang) for name in names)])
    yield _line(["---", *["---:"] * (len(heads) + len(names) - 1)])
    good = [row for row in rows if row["status"] == "ok"]
    columns: list[tuple[Callable[[Row], float], Callable[[float], str], bool]] = [
        *((lambda row, k=k: row["boxes"][k], _share, True) for k in heads[1:]),
        (lambda row: row["masks"]["AP"] if row["masks"] else -1, _share, True),
        (lambda row: row["parameters"], _amount, False),
        (lambda row: row["flops"], _amount, False),
        (lambda row: row["train_seconds"], seconds, False),
        (lambda row: row["latency_ms"]["median"], lambda x: f"{x:.1f} ms", False),
    ]  # fmt: skip
    best = [(max if up else min)((get(row) for row in good), default=0) for get, _, up in columns]
    for row in rows:
        if row["status"] != "ok":
            text = word("failed", lang).format(row["reason"])
            yield _line([_link(row), text, *[word("gone", lang)] * (len(columns) - 1)])
            continue
        cells = [_link(row)]
        for (get, show, _), top in zip(columns, best, strict=True):
            text = show(get(row))
            cells.append(f"**{text}**" if get(row) == top and get(row) >= 0 else text)
        yield _line(cells)
    yield ""
    data = run.manifest["data"]
    low, high = data["objects"]
    held, size = data["held_out"], data["size"]
    yield word("unit", lang).format(held=held, size=size, low=low, high=high)


def reached(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Under which budget; which of them came to the aim, and which did not."""
    budget = run.manifest["budget"]
    seen = budget["images"] // budget["batch"] * budget["batch"]
    optimizer = budget["optimizer"].partition(",")[0]
    texts = [
        word("budget", lang).format(images=f"{seen:,}", optimizer=optimizer, batch=budget["batch"])
    ]
    for row in rows:
        if row["config"]["longer"] > 1:
            of = title(row), row["config"]["longer"], f"{row['images_seen']:,}"
            texts.append(word("longer", lang).format(*of))
    asked = [row for row in rows if row["detector"] != "rcnn"]
    good = [title(row) for row in asked if row["boxes"] and row["boxes"]["AP50"] >= REACHED]
    bad = [
        f"{title(row)} ({row['boxes']['AP50']:.2f})" if row["boxes"] else title(row)
        for row in asked
        if title(row) not in good
    ]
    joined = word("and", lang).join
    none = word("gone", lang)
    texts.append(word("reached", lang).format(aim=f"{REACHED:.2f}", good=joined(good) or none))
    if bad:
        texts.append(word("short", lang).format(bad=joined(bad)))
    yield ("" if lang == "zh" else " ").join(texts)


def counts(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """What each found, took for something else, and missed."""
    names = ("detector", "right", "wrong", "missed", "rate", "images")
    yield _line([word(name, lang) for name in names])
    yield _line(["---", *["---:"] * 5])
    for row in rows:
        if row["status"] == "ok":
            count = row["counts"]
            cells = [str(count[name]) for name in ("right", "wrong", "missed")]
            cells += [f"{row['config']['rate']:g}", f"{row['images_seen']:,}"]
            yield _line([_link(row), *cells])
    yield ""
    yield word("threshold", lang)


def about(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Machine, versions, day, commit, files, and what is of earlier code."""
    of = run.manifest
    cpu = of["device"]["kind"] == "cpu"
    folder = results.SHOWN["cpu" if cpu else "gpu"]
    files = ", ".join(
        f"[{name}](benchmarks/{folder}/{name})"
        for name in ("detectors.jsonl", "detectors.manifest.json")
    )
    commits = sorted({row["commit"][:7] + "+" * row["dirty"] for row in rows})
    yield word("about", lang).format(
        device=of["device"]["name"],
        thread=word("thread", lang) if cpu else "",
        torch=of["versions"]["torch"].partition("+")[0],
        python=of["versions"]["python"],
        day=max(row["utc"] for row in rows)[:10],
        commit=", ".join(f"`{commit}`" for commit in commits),
        files=files,
        command=COMMAND,
    )
    old = [title(row) for row in rows if not current(row)]
    if old:
        yield ""
        yield word("old", lang).format(word("and", lang).join(old))


TABLES: dict[str, Callable[[Run, list[Row], str], Iterable[str]]] = {
    "detectors": detectors,
    "reached": reached,
    "counts": counts,
    "trained": about,
}


def summary(run: Run) -> Iterator[str]:
    """For the terminal."""
    yield ""
    for row in run.rows:
        if row["status"] != "ok":
            yield f"  {title(row):<14} {row['status']}: {row['reason']}"
            continue
        boxes, masks = row["boxes"], row["masks"]
        text = f"  {title(row):<14} AP {boxes['AP']:.3f}  AP50 {boxes['AP50']:.3f}"
        text += f"  {row['parameters']:>9,} parameters  {row['flops'] / 1e6:7.1f} MFLOP"
        text += f"  trained {row['train_seconds']:5.0f} s"
        text += f"  latency {row['latency_ms']['median']:6.1f} ms"
        yield text + (f"  mask AP {masks['AP']:.3f}" if masks else "")


def compared(a: Run, b: Run) -> Iterator[str]:
    """Detectors that both runs have: by how much B's AP is larger, how many times its times."""
    for name, of in (("A", a.manifest), ("B", b.manifest)):
        yield f"{of['suite']} {name}: {of['device']['name']}, {of['utc'][:10]}"
    others = {row["detector"]: row for row in b.rows if row["status"] == "ok"}
    shared = [row for row in a.rows if row["status"] == "ok" and row["detector"] in others]
    for row in shared:
        other = others[row["detector"]]
        more = [other["boxes"][name] - row["boxes"][name] for name in ("AP", "AP50")]
        train = other["train_seconds"] / row["train_seconds"]
        latency = other["latency_ms"]["median"] / row["latency_ms"]["median"]
        yield (
            f"  {title(row)}: AP {more[0]:+.3f}, AP50 {more[1]:+.3f}, "
            f"training {train:.2f}, latency {latency:.2f}"
        )
    yield f"  {len(shared)} rows in common, {len(a.rows)} in A, {len(b.rows)} in B"


def title(row: Row) -> str:
    """As papers write it; of a detector that is no more, its short name."""
    name = row["detector"]
    return DETECTORS[name].title if name in DETECTORS else name


def _link(row: Row) -> str:
    name = row["detector"]
    return f"[{title(row)}]({DETECTORS[name].page}.md)" if name in DETECTORS else name


def _share(x: float) -> str:
    return f"{x:.2f}" if x >= 0 else "–"


def _amount(x: float) -> str:
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}\u00a0{prefix}"
    return f"{x:g}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
