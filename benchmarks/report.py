"""Tables made from result files: for the pages, for the terminal, and of two runs side by side."""

import ast
import hashlib
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.results import Run

Row = Mapping[str, Any]
HERE = Path(__file__).parent
ANCHORS = HERE / "anchors.json"
LADDERS = HERE / "ladders.json"
CONVOLUTIONS = ("convolution", "depthwise")
WORDS: dict[str, tuple[str, str]] = {
    "case": ("Case", "用例"),
    "pass": ("Pass", "阶段"),
    "forward": ("forward", "前向"),
    "backward": ("backward", "反向"),
    "dgrad": ("data gradient", "输入梯度"),
    "wgrad": ("weight gradient", "权重梯度"),
    "causal": ("causal", "因果"),
    "heads": ("heads", "头"),
    "shift": ("shift", "移位"),
    "ours": ("Ours", "本项目"),
    "peer": ("Best peer", "最快的同类"),
    "ratio": ("Ours ÷ peer, time", "耗时之比（本项目 ÷ 同类）"),
    "outcome": ("Outcome", "结果"),
    "win": ("faster", "更快"),
    "loss": ("**slower**", "**更慢**"),
    "tie": ("tie", "持平"),
    "fraction": ("Share of the floor's speed", "达到下界速度的比例"),
    "bound": ("Bound by", "受限于"),
    "mma": ("matrix products", "矩阵乘"),
    "memory": ("memory", "访存"),
    "exp": ("exponentials", "指数运算"),
    "launch": ("launch", "启动"),
    "backend": ("Implementation", "实现"),
    "dtype": ("Type", "类型"),
    "error": ("Largest relative error", "最大相对误差"),
    "allowed": ("Allowed", "允许"),
    "names": ("Kernels that ran", "实际运行的计算核"),
    "none": ("not stated on a CPU", "CPU 上不记录"),
    "published": ("Published, TFLOP/s", "已发表（TFLOP/s）"),
    "where": ("On", "硬件"),
    "source": ("Source", "出处"),
    "here": ("Measured here", "本页实测"),
    "step": ("Step", "步骤"),
    "predicted": ("Predicted, H200", "预测（H200）"),
    "gpu": ("Measured, H200", "实测（H200）"),
    "cpu": ("Time on a CPU, naive = 1", "CPU 耗时（朴素 = 1）"),
    "pending": ("to be recorded", "待测"),
    "missing": (
        "Not recorded yet: these rows need a GPU (`python -m benchmarks run --suite {suite}`).",
        "尚未测量：这些数据需要 GPU（`python -m benchmarks run --suite {suite}`）。",
    ),
    "awaited": ("The GPU rows are still to be recorded", "GPU 数据还有待测量"),
    "until": (
        " Until then each GPU table on this page says so in its place. It fills itself from the "
        "result files, and nothing in the text anticipates what they will hold.",
        "在此之前，本页每张 GPU 表格的位置上都写明这一点。数据文件一旦存入，表格便自动填好；"
        "正文不预告任何结果。",
    ),
    "all": ("{}: all {} rows", "{}：全部 {} 行"),
    "attention": ("Full attention", "完整注意力"),
    "window": ("Windows of Swin-T", "Swin-T 的窗口"),
    "sliding": ("Sliding window", "滑动窗口"),
    "convolution": ("Convolutions", "卷积"),
    "depthwise": ("Depthwise convolutions", "逐通道卷积"),
    "kind": ("Kind", "类别"),
    "stride": ("stride", "步幅"),
    "dilation": ("dilation", "膨胀"),
    "groups": ("groups", "组"),
    "fused": ("fused", "融合"),
    "floor": ("Floor", "下界"),
    "layouts": ("channels_last ÷ NCHW", "channels_last ÷ NCHW"),
    "search": ("`benchmark` on ÷ off", "`benchmark` 开 ÷ 关"),
    "layout-unit": (
        "Ratios of times: below one, the first is faster; “=” marks a tie. Layouts are compared at "
        "the better setting of each, settings at the layout that is named.",
        "均为耗时之比：小于一，则前者更快；“=” 表示持平。比较布局时各取较快的设置，"
        "比较设置时取所注明的布局。",
    ),
    "share-unit": (
        "In percent of the speed at the floor: ours, and in brackets the fastest library function. "
        "Floor and bound are those of the forward pass; a 1×1 layer with a stride has another "
        "floor for the data gradient, of which its share is taken.",
        "占下界速度的百分比：先是本项目，括号内是最快的库函数。下界与瓶颈按前向给出；"
        "带步幅的 1×1 层，输入梯度另有下界，其比例按该下界计算。",
    ),
    "silent": (
        "None of our functions ran on this machine.",
        "本项目的函数都没有在这台机器上运行。",
    ),
    "cases": ("Cases", "用例数"),
    "slower": ("Slower", "更慢"),
    "ties": ("Tie", "持平"),
    "faster": ("Faster", "更快"),
    "middle": ("Time, ours ÷ best peer: median", "耗时之比（本项目 ÷ 最快的同类）：中位数"),
    "range": ("worst to best", "最差到最好"),
    "status": ("What happened", "情况"),
    "reason": ("Reason", "原因"),
    "against": ("Time, ours ÷ compiled", "耗时之比（本项目 ÷ 编译实现）"),
    "compiled": ("Compiled", "编译实现"),
    "ratios-unit": (
        "How many times as long ours takes, in brackets the range over three passes; {device}, "
        "PyTorch {torch}, {day}: [all rows]({file}). `{command}` measures again.",
        "本项目耗时是编译实现的多少倍，括号内为三轮的范围；{device}，PyTorch {torch}，{day}："
        "[全部数据]({file})。`{command}` 可重新测量。",
    ),
    "products": ("Matrix products alone", "仅矩阵乘"),
    "alone": ("Exponentials alone", "仅指数运算"),
    "apart": ("One after the other", "两者先后进行"),
    "semicolon": ("; ", "；"),
    "unit-gpu": (
        "TFLOP/s, the median of all calls; bold: the fastest.",
        "单位 TFLOP/s，取全部调用的中位数；粗体为最快。",
    ),
    "unit-bytes": (
        "GB/s of the bytes that must move, the median of all calls; bold: the fastest.",
        "单位 GB/s，按必须搬运的字节计，取全部调用的中位数；粗体为最快。",
    ),
    "unit-speed": (
        "TFLOP/s; of the rows the fastest of all lengths.",
        "单位 TFLOP/s；实测取各长度中最快者。",
    ),
    "unit-cpu": (
        "Time relative to the row's fastest library function (1.00), medians; bold: the fastest.",
        "相对于该行最快的库函数（1.00）的耗时，取中位数；粗体为最快。",
    ),
    "slowed": (
        "† The GPU lowered its clock while this case was measured.",
        "† 测量该用例时 GPU 曾降频。",
    ),
    "state": (
        "Medians of the cases: clock {} to {} MHz, power up to {} W; {} of {} with a lowered "
        "clock (†).",
        "各用例的中位数：时钟 {} 到 {} MHz，功率最高 {} W；{} 个（共 {} 个）曾降频（†）。",
    ),
    "gap": ("{}: {} ({})", "{}：{}（{}）"),
    "why": ("Without a number: {}.", "没有数字的原因：{}。"),
    "about": (
        "{device}, {versions}; {day}, {age}. Raw: {files}.",
        "{device}，{versions}；{day}，{age}。原始数据：{files}。",
    ),
    "thread": (", one thread", "，单线程"),
    "fresh": ("of the kernels as they are now", "测的就是现在的计算核"),
    "old": (
        "**of earlier kernels: to be measured again**",
        "**测的是较早的计算核，需要重新测量**",
    ),
    "ceilings": ("Ceilings: {}.", "上限：{}。"),
    "matmul": ("matrix product {:.3g} {}FLOP/s", "矩阵乘 {:.3g} {}FLOP/s"),
    "copy": ("copy {:.3g} {}B/s", "拷贝 {:.3g} {}B/s"),
    "exps": ("exponentials {:.3g} {}/s", "指数运算 {:.3g} {}/s"),
    "launches": ("launches {:.3g} {}/s", "启动 {:.3g} {}/s"),
}
STATUS: dict[str, tuple[str, str]] = {
    "unsupported": ("unsupported", "不支持"),
    "oom": ("out of memory", "显存不足"),
    "skipped": ("skipped", "跳过"),
    "error": ("error", "出错"),
}


REASONS: list[tuple[str, str, str]] = [
    (r"runs on a CUDA GPU", "runs on a CUDA GPU", "需要 CUDA GPU"),
    (r"beyond (\d+) keys", "beyond {} keys", "超过 {} 个键"),
    (
        r"the scores would take (\d+) GiB",
        "the scores would take {} GiB",
        "分数矩阵需要 {} GiB",
    ),
    (r"out of memory", "out of memory", "显存不足"),
    (r"runs on a CPU", "runs on a CPU", "只在 CPU 上运行"),
    (r"(\w+) is not installed", "{} is not installed", "未安装 {}"),
    (
        r"torchvision has no compiled operators here",
        "no build of it for this torch",
        "没有与此 PyTorch 匹配的构建",
    ),
    (r"deadline", "the run met its deadline", "运行到达时限"),
]


def word(name: str, lang: str) -> str:
    """Of a table, in its language."""
    return WORDS[name][lang == "zh"]


def stored(machine: str, suite: str) -> Run | None:
    """What the pages quote: "cpu" or "gpu"; None where it is not recorded yet."""
    folder = results.FOLDER / results.SHOWN[machine]
    if suite not in results.suites(folder):
        return None
    return results.load(suite, folder)


# Tables of the pages --------------------------------------------------------------


def table(what: str, machine: str, suite: str, lang: str, fold: str = "", **only: str) -> list[str]:
    """The lines of one table, folded away if wanted; a note where there are no rows."""
    make = makers(suite)[what]
    run = stored(machine, suite)
    rows = [row for row in run.rows if _fits(row, only)] if run else []
    if run is None or not rows:
        return [_absent(what, suite, lang)]
    lines = list(make(run, rows, lang))
    return _folded(lines, suite, lang) if fold else lines


def makers(suite: str) -> dict[str, Callable[[Run, list[Row], str], Iterable[str]]]:
    """The tables that a suite has, by name."""
    if suite == results.DETECTORS:
        from benchmarks.detectors.tables import TABLES as OF_DETECTORS

        return OF_DETECTORS
    return TABLES


def _absent(what: str, suite: str, lang: str) -> str:
    if suite == results.DETECTORS:
        from benchmarks.detectors.tables import absent

        return absent(what, lang)
    text = word("missing", lang).format(suite=suite)
    if what == "pending":
        return f'!!! warning "{word("awaited", lang)}"\n\n    {text}{word("until", lang)}'
    if what == "anchors":
        return "\n".join([text, "", *_anchored(None, lang)])
    return text


def _folded(lines: list[str], suite: str, lang: str) -> list[str]:
    count = sum(line.startswith("|") for line in lines) - 2  # the head is two lines
    title = word("all", lang).format(word(suite, lang), count)
    return [f'??? note "{title}"', "", *(f"    {line}" if line else "" for line in lines)]


def pending(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Nothing: the rows are there; without them `table` says so."""
    yield from ()


def speed(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """A row a case, a column an implementation."""
    # What never gave a number has its reason below the table, and no column.
    names = list(dict.fromkeys(row["backend"] for row in rows if row["status"] == "ok"))
    gpu = run.manifest["device"]["kind"] == "cuda"
    marked = {row["backend"] for row in rows if row["ours"]}
    yield _line([word("case", lang), *(f"**{n}**" if n in marked else n for n in names)])
    yield _line(["---"] * (len(names) + 1))
    reasons: dict[str, None] = {}
    hot = False
    for case, group in sorted(groups(rows), key=lambda pair: _order(pair[0])):
        found = {row["backend"]: row for row in group}
        good = [row for row in group if row["status"] == "ok"]
        best = min((row["times_ms"]["median"] for row in good), default=0)
        peers = [row["times_ms"]["median"] for row in good if not row["ours"]]
        cells: list[str] = []
        for row in group:
            if row["status"] != "ok":
                status = STATUS[row["status"]][lang == "zh"]
                reason = _reason(row["reason"], lang)
                reasons[word("gap", lang).format(row["backend"], status, reason)] = None
        for name in names:
            row = found.get(name)
            if row is None or row["status"] != "ok":
                cells.append("" if row is None else "–")
            else:
                time = row["times_ms"]["median"]
                amount = row["gbps" if row["suite"] == "depthwise" else "tflops"]
                text = f"{amount:.0f}" if gpu else f"{time / min(peers or [best]):.2f}"
                cells.append(f"**{text}**" if time == best else text)
        slowed = any(row["throttled"] for row in group)
        hot |= slowed
        yield _line([label(case, lang) + " †" * slowed, *cells])
    yield ""
    unit = "unit-bytes" if rows[0]["suite"] == "depthwise" else "unit-gpu"
    yield word(unit if gpu else "unit-cpu", lang)
    if hot:
        yield ""
        yield word("slowed", lang)
    if reasons:
        yield ""
        yield word("why", lang).format(word("semicolon", lang).join(reasons))


def verdicts(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Ours against the best peer, the worst first."""
    heads = ("case", "pass", "ours", "peer", "ratio", "outcome", "fraction", "bound")
    yield _line([word(name, lang) for name in heads])
    yield _line(["---"] * len(heads))
    found: list[tuple[float, list[str]]] = []
    for case, group in groups(rows):
        for ratio in results.ratios(group):
            mine = next(row for row in group if row["backend"] == ratio.ours)
            outcome = "tie" if ratio.tie else "loss" if ratio.median > 1 else "win"
            share = mine["fraction_of_floor"]
            cells = [
                label(case, lang),
                word(mine["pass"], lang),
                ratio.ours,
                ratio.library,
                f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})",
                word(outcome, lang),
                f"{100 * share:.0f} %",
                word(mine["bound"], lang),
            ]
            found.append((ratio.median, cells))
    for _, cells in sorted(found, key=lambda pair: -pair[0]):
        yield _line(cells)
    if not found:
        yield from _nothing(len(heads), lang)


def ratios(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Ours against the fastest compiled function, a row a case; what could not be tried."""
    heads = ("case", "ours", "compiled", "against")
    yield _line([word(name, lang) for name in heads])
    yield _line(["---"] * len(heads))
    gone: dict[str, None] = {}
    for case, group in groups(rows):
        for ratio in results.ratios(group):
            middle, low, high = map(_number, (ratio.median, ratio.low, ratio.high))
            shown = f"{middle} ({low}–{high})"
            yield _line([label(case, lang), f"`{ratio.ours}`", f"`{ratio.library}`", shown])
        for row in group:
            if row["status"] != "ok":
                status = STATUS[row["status"]][lang == "zh"]
                reason = _reason(row["reason"], lang)
                gone[word("gap", lang).format(row["backend"], status, reason)] = None
    if gone:
        yield ""
        yield word("why", lang).format(word("semicolon", lang).join(gone))
    of = run.manifest
    cpu = of["device"]["kind"] == "cpu"
    yield ""
    yield word("ratios-unit", lang).format(
        device=of["device"]["name"] + (word("thread", lang) if cpu else ""),
        torch=_version(of["versions"]["torch"]),
        day=of["utc"][:10],
        file=f"benchmarks/{results.SHOWN['cpu' if cpu else 'gpu']}/{of['suite']}.jsonl",
        command=results.command(of["suite"]),
    )


def tally(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """How often each of ours is slower and faster than the best peer, by pass and kind of case."""
    heads = ("ours", "pass", "slower", "ties", "faster", "middle", "range")
    found: dict[tuple[str, str, str], list[results.Ratio]] = {}
    for case, group in groups(rows):
        for ratio in results.ratios(group):
            found.setdefault((ratio.ours, case["pass"], _kind(case, lang)), []).append(ratio)
    second = word("kind", lang) if rows[0]["suite"] in CONVOLUTIONS else "D"
    yield _line([word(heads[0], lang), second, *(word(name, lang) for name in heads[1:])])
    yield _line(["---"] * (len(heads) + 1))
    middles = {key: statistics.median(r.median for r in list_) for key, list_ in found.items()}
    for key, ratios in sorted(found.items(), key=lambda pair: -middles[pair[0]]):
        times = [ratio.median for ratio in ratios]
        ties = sum(ratio.tie for ratio in ratios)
        slower = sum(ratio.median > 1 and not ratio.tie for ratio in ratios)
        counts = [f"**{slower}**" if slower else "0", f"{ties}", f"{len(ratios) - ties - slower}"]
        name, which, kind = key
        cells = [name, kind, word(which, lang), *counts, f"{middles[key]:.2f}"]
        yield _line([*cells, f"{max(times):.2f}–{min(times):.2f}"])
    if not found:
        yield from _nothing(len(heads) + 1, lang)


def shares(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """A row a layer: its floor, and what part of the speed there each pass reaches."""
    passes = list(dict.fromkeys(row["pass"] for row in rows))
    heads = [word(name, lang) for name in ("case", "floor", "bound", *passes)]
    yield _line(heads)
    yield _line(["---"] * len(heads))
    layers: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["op"] not in ("ladder", "tuning"):
            layers.setdefault(results.cell(row), []).append(row)
    for layer in layers.values():
        first = layer[0]
        floor = first["floor_ms"]
        time = f"{floor:.3g} ms" if floor >= 1 else f"{1000 * floor:.3g} µs"
        cells = [label(first, lang), time, word(first["bound"], lang)]
        for name in passes:
            parts = [
                max((r["fraction_of_floor"] for r in layer if _ran(r, name, ours)), default=None)
                for ours in (True, False)
            ]
            mine, theirs = ("–" if part is None else f"{100 * part:.0f}" for part in parts)
            cells.append(f"{mine} ({theirs})")
        yield _line(cells)
    yield ""
    yield word("share-unit", lang)


def layouts(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Of the library alone: which memory layout is faster, and what its search brings."""
    settings = ("NCHW", "channels_last")
    searched = any(", benchmark" in row["backend"] for row in rows)
    heads = ["case", "pass", "layouts"]
    names = [word(name, lang) for name in heads]
    names += [f"{word('search', lang)}, {layout}" for layout in settings] if searched else []
    yield _line(names)
    yield _line(["---"] * len(names))
    for case, group in groups(rows):
        good = [row for row in group if row["status"] == "ok" and not row["ours"]]
        good = [row for row in good if row["backend"] != "torch.compile"]
        by = {layout: [row for row in good if row["layout"] == layout] for layout in settings}
        if not all(by.values()):
            continue
        best = {layout: min(found, key=_median) for layout, found in by.items()}
        cells = [label(case, lang), word(case["pass"], lang)]
        cells.append(_compared(best["channels_last"], best["NCHW"]))
        for layout in settings if searched else ():
            pair = {", benchmark" in row["backend"]: row for row in by[layout]}
            cells.append(_compared(pair[True], pair[False]) if len(pair) == 2 else "–")
        yield _line(cells)
    yield ""
    yield word("layout-unit", lang)


def _number(x: float) -> str:
    """Two digits, or a whole number."""
    return f"{x:.2g}" if x < 100 else f"{x:,.0f}"


def _compared(one: Row, other: Row) -> str:
    ratio = results.ratio(one, other)
    return f"{ratio.median:.2f}{' =' * ratio.tie}"


def _ran(row: Row, name: str, ours: bool) -> bool:
    return row["status"] == "ok" and row["pass"] == name and row["ours"] == ours


def gaps(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """What gave no number, how often, and why."""
    heads = ("backend", "pass", "cases", "status", "reason")
    yield _line([word(name, lang) for name in heads])
    yield _line(["---"] * len(heads))
    count: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str, str, str], int] = {}
    for row in rows:
        pair = (row["backend"], row["pass"])
        count[pair] = count.get(pair, 0) + 1
        if row["status"] != "ok":
            what = (*pair, row["status"], row["reason"])
            found[what] = found.get(what, 0) + 1
    for (backend, which, status, reason), number in found.items():
        of = f"{number} / {count[backend, which]}"
        text = STATUS[status][lang == "zh"]
        yield _line([backend, word(which, lang), of, text, _reason(reason, lang)])
    if not found:
        yield _line(["–"] * len(heads))


def overlap(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """What the units allow alone and one after the other, and the fastest rows, by head width."""
    heads = ("products", "alone", "apart", "peer", "ours")
    yield _line(["D", *(word(name, lang) for name in heads)])
    yield _line(["---"] * (len(heads) + 1))
    good = [row for row in rows if row["status"] == "ok" and row["exps"]]
    for D in sorted({row["shape"]["D"] for row in good}):
        here = [row for row in good if row["shape"]["D"] == D]
        limits = rates(run, here[0])
        cells = [f"{D}", *(f"{limit / 1e12:.0f}" for limit in limits)]
        for side in (False, True):
            fastest = max((r for r in here if r["ours"] == side), key=_speed, default=None)
            cells.append(f"{fastest['backend']} {_speed(fastest):.0f}" if fastest else "–")
        yield _line(cells)
    yield ""
    yield word("unit-speed", lang)


def rates(run: Run, row: Row) -> tuple[float, float, float]:
    """FLOP/s of a row's shape: of matrix products, of exponentials, of one after the other."""
    ceilings = run.ceilings()
    products, alone = ceilings["matmul"], ceilings["exp"] * row["flops"] / row["exps"]
    return products, alone, 1 / (1 / products + 1 / alone)


def errors(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """The largest error of each implementation, against float64."""
    yield _line([word(name, lang) for name in ("backend", "pass", "dtype", "error", "allowed")])
    yield _line(["---"] * 5)
    worst: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        if row["status"] == "ok":
            name = (row["backend"], row["pass"], row["dtype"])
            if name not in worst or row["error"]["rel_l2"] > worst[name]["error"]["rel_l2"]:
                worst[name] = row
    for (backend, name, dtype), row in worst.items():
        error = row["error"]
        cells = [backend, word(name, lang), dtype]
        yield _line([*cells, f"{error['rel_l2']:.1e}", f"{error['tolerance']:.0e}"])


def kernels(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """What ran, by its own name."""
    yield _line([word(name, lang) for name in ("backend", "pass", "names")])
    yield _line(["---"] * 3)
    seen: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row["status"] == "ok":
            names = seen.setdefault((row["backend"], row["pass"]), {})
            names |= dict.fromkeys(row["kernel_names"])
    for (backend, name), names in seen.items():
        shown = ", ".join(_code(text) for text in names) or word("none", lang)
        yield _line([backend, word(name, lang), shown])


def anchors(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Published figures beside our rows of the same shape."""
    yield from _anchored(rows, lang)


def _anchored(rows: list[Row] | None, lang: str) -> Iterator[str]:
    """A line a shape and source; rows None: of what is not recorded yet."""
    heads = ("case", "pass", "published", "where", "here", "source")
    yield _line([word(name, lang) for name in heads])
    yield _line(["---"] * len(heads))
    alike: dict[str, list[Row]] = {}
    same = ("D", "N", "causal", "pass", "heads", "machine", "url", "note")
    for anchor in json.loads(ANCHORS.read_text("utf-8")):
        alike.setdefault(json.dumps([anchor.get(name) for name in same]), []).append(anchor)
    for group in alike.values():
        anchor = group[0]
        shape = f"N={anchor['N']}, D={anchor['D']}"
        if "heads" in anchor:
            shape += f", {anchor['heads'][0]}/{anchor['heads'][1]} {word('heads', lang)}"
        if anchor["causal"]:
            shape += f", {word('causal', lang)}"
        names = [name for one in group for name in one["here"]]
        like = [row for row in rows or [] if row["status"] == "ok" and _same_shape(row, anchor)]
        here = [f"{row['backend']}: {row['tflops']:.0f}" for row in like if row["backend"] in names]
        source = f"[{anchor['source']}]({anchor['url']})"
        if "note" in anchor:
            source += word("semicolon", lang) + anchor["note"][lang]
        cells = [shape, word(anchor["pass"], lang)]
        published = [f"{one['what']}: {one['tflops']}" for one in group]
        cells += [_unbroken(published), anchor["machine"], _unbroken(here)]
        cells[-1] = cells[-1] or ("–" if rows else word("pending", lang))
        yield _line([*cells, source])


def about(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Machine, versions, date, whether the kernels have changed since, ceilings, files."""
    of = run.manifest
    device = of["device"]["name"]
    if of["device"]["kind"] == "cpu":
        device += word("thread", lang)
    known = {"torch": "PyTorch", "triton": "Triton", "cuda": "CUDA", "cudnn": "cuDNN"}
    versions = [
        f"{label} {_version(of['versions'][name])}"
        for name, label in {**known, "driver": "driver", "python": "Python"}.items()
        if of["versions"].get(name)
    ]
    folder = results.SHOWN["gpu" if of["device"]["kind"] == "cuda" else "cpu"]
    suite = of["suite"]
    files = ", ".join(
        f"[{name}](benchmarks/{folder}/{name})"
        for name in (f"{suite}.jsonl", f"{suite}.manifest.json")
    )
    fresh = of["tuned_config_sha256"] in (None, digest())
    yield word("about", lang).format(
        device=device,
        versions=", ".join(versions),
        day=of["utc"][:10],
        age=word("fresh" if fresh else "old", lang),
        files=files,
    )
    shown = {"matmul": "matmul", "copy": "copy", "exp": "exps", "launch": "launches"}
    texts = [word(shown[k], lang).format(*_scaled(v)) for k, v in run.ceilings().items()]
    if texts:
        yield ""
        yield word("ceilings", lang).format(", ".join(texts))
    states = [group[0] for _, group in groups(row for row in rows if row["clock_mhz"])]
    if states:
        clocks = [row["clock_mhz"] for row in states]
        power = max(row["power_w"] or 0 for row in states)
        slowed = sum(bool(row["throttled"]) for row in states)
        numbers = [f"{x:.0f}" for x in (min(clocks), max(clocks), power, slowed, len(states))]
        yield ""
        yield word("state", lang).format(*numbers)


def ladders() -> dict[str, Any]:
    """By page: what was predicted for its steps, and by which rows they are measured."""
    return json.loads(LADDERS.read_text("utf-8"))


def ladder(page: str, lang: str) -> list[str]:
    """The steps of a page: what was predicted, what came of it."""
    found = ladders()[page]
    suite, unit = found["suite"], found["unit"]
    runs = {machine: stored(machine, suite) for machine in results.SHOWN}

    def row(machine: str, step: Mapping[str, Any]) -> Row | None:
        only = step.get("rows") or found.get(machine) or found["rows"]
        rows = run.rows if (run := runs[machine]) else []
        fitting = [row for row in rows if row["backend"] == step["backend"] and _fits(row, only)]
        return fitting[0] if fitting and fitting[0]["status"] == "ok" else None

    lines = [_line([word(name, lang) for name in ("step", "predicted", "gpu", "cpu")])]
    lines.append(_line(["---"] * 4))
    naive = row("cpu", found["steps"][0])
    for step in found["steps"]:
        gpu, cpu = row("gpu", step), row("cpu", step)
        relative = cpu and naive and cpu["pass"] == naive["pass"]
        cells = [
            step[lang],
            f"{step['predicted']} {unit}",
            f"{UNITS[unit](gpu):.3g} {unit}" if gpu else word("pending", lang),
            f"{_median(cpu) / _median(naive):.2f}" if relative else "–",
        ]
        lines.append(_line(cells))
    return lines


def _median(row: Row) -> float:
    return row["times_ms"]["median"]


UNITS: dict[str, Callable[[Row], float]] = {
    "TFLOP/s": lambda row: row["tflops"],
    "GB/s": lambda row: row["gbps"],
    "ms": _median,
}


TABLES: dict[str, Callable[[Run, list[Row], str], Iterable[str]]] = {
    "pending": pending,
    "tally": tally,
    "speed": speed,
    "verdicts": verdicts,
    "ratios": ratios,
    "gaps": gaps,
    "overlap": overlap,
    "shares": shares,
    "layouts": layouts,
    "errors": errors,
    "kernels": kernels,
    "anchors": anchors,
    "about": about,
}


# The terminal -----------------------------------------------------------------------


def summary(run: Run) -> Iterator[str]:
    """All rows of a run, a cell after the other."""
    if run.manifest["suite"] == results.DETECTORS:
        from benchmarks.detectors import tables

        yield from tables.summary(run)
        return
    for case, group in groups(run.rows):
        yield f"\n{case['suite']} {case['op']} {label(case, 'en')}, {case['pass']}"
        for row in sorted(group, key=lambda row: (row["times_ms"] or {"median": 1e9})["median"]):
            if row["status"] != "ok":
                yield f"  {row['backend']:<34} {row['status']}: {row['reason']}"
                continue
            times = row["times_ms"]
            spread = f"({times['p20']:.3f}–{times['p80']:.3f})"
            text = f"  {row['backend']:<34} {times['median']:9.3f} ms {spread}"
            if row["tflops"]:
                text += f" {row['tflops']:8.3g} TFLOP/s {100 * row['fraction_of_floor']:4.0f} %"
            yield text + f"  error {row['error']['rel_l2']:.1e}"
        for ratio in results.ratios(group):
            mark = " (a tie)" if ratio.tie else ""
            yield (
                f"  {ratio.ours} takes {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) "
                f"times as long as {ratio.library}{mark}"
            )


def compared(a: Run, b: Run) -> Iterator[str]:
    """Rows that both runs have: how many times as long B takes as A."""
    if a.manifest["suite"] == results.DETECTORS:
        from benchmarks.detectors import tables

        yield from tables.compared(a, b)
        return
    for name, of in (("A", a.manifest), ("B", b.manifest)):
        yield f"{of['suite']} {name}: {of['device']['name']}, {of['utc'][:10]}"
    others = {results.key(row): row for row in b.rows}
    shared = [(row, others[results.key(row)]) for row in a.rows if results.key(row) in others]
    for one, other in shared:
        name = f"{label(one, 'en')} {one['pass']} {one['backend']}"
        if not one["status"] == other["status"] == "ok":
            if one["status"] != other["status"]:
                yield f"  {name}: A {one['status']}, B {other['status']}"
            continue
        ratio = results.ratio(other, one)
        outcome = "tie" if ratio.tie else "B slower" if ratio.median > 1 else "B faster"
        yield f"  {name}: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {outcome}"
    yield f"  {len(shared)} rows in common, {len(a.rows)} in A, {len(b.rows)} in B"


# ------------------------------------------------------------------------------------


def digest() -> str:
    """Of the code of the kernels as they are now; comments and docstrings do not count."""
    texts: list[str] = []
    for path in sorted((HERE.parent / "snippets" / "kernels").glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(
                node.body[0], ast.Expr
            ):
                node.body[0] = ast.Expr(ast.Constant(""))
        texts.append(ast.unparse(tree))
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def _fits(row: Row, only: Mapping[str, Any]) -> bool:
    """Whether a row has the wanted fields, of itself or of its shape, compared as text."""
    shape = row["shape"] if isinstance(row.get("shape"), dict) else {}
    return all(str(shape.get(k, row.get(k))).lower() == str(v).lower() for k, v in only.items())


def groups(rows: Iterable[Row]) -> list[tuple[Row, list[Row]]]:
    """Rows of one cell and pass, with one of them to name it."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((*results.cell(row), row["pass"]), []).append(row)
    return [(group[0], group) for group in found.values()]


def _order(row: Row) -> tuple[Any, ...]:
    """From narrow to wide, from short to long; what is measured first is another matter."""
    if row["suite"] in CONVOLUTIONS:
        return ()  # the order of the network
    shape = row["shape"] if isinstance(row["shape"], dict) else {}
    return *(shape.get(axis, 0) for axis in "DNw"), row["dtype"], bool(row["causal"])


def label(row: Row, lang: str) -> str:
    """What a case is, without its pass."""
    shape = row["shape"]
    if isinstance(shape, str):
        return shape
    if row["suite"] in CONVOLUTIONS:
        return _layer(row, lang)
    if row["suite"] == "window":
        size = f"{shape['height']}×{shape['width']}, {shape['H']} {word('heads', lang)}"
        return f"{size}, {word('shift', lang)} {shape['shift']}"
    parts = [f"N={shape['N']}", f"D={shape['D']}"]
    if "w" in shape:
        parts.append(f"w={shape['w']}")
    if shape["G"] != shape["H"]:
        parts.append(f"{shape['H']}/{shape['G']} {word('heads', lang)}")
    if row["causal"] and "w" not in shape:
        parts.append(word("causal", lang))
    if row["dtype"] == "float16":
        parts.append("float16")
    return ", ".join(parts)


def _layer(row: Row, lang: str) -> str:
    """Of a convolution: channels, window, map, and what is not usual."""
    shape = row["shape"]
    if "L" in shape:
        return f"C={shape['C']}, L={shape['L']}, k={shape['k']}"
    channels = f"{shape['C']}" if row["suite"] == "depthwise" else f"{shape['C']}→{shape['K']}"
    parts = [channels, f"{shape['R']}×{shape['R']}", f"{shape['side']}×{shape['side']}"]
    if shape["stride"] > 1:
        parts.append(f"{word('stride', lang)} {shape['stride']}")
    parts += ["float16"] * (row["dtype"] == "float16")
    return ", ".join([*parts, *_special(row, lang)])


def _special(row: Row, lang: str) -> list[str]:
    shape, found = row["shape"], []
    if shape["dilation"] > 1:
        found.append(f"{word('dilation', lang)} {shape['dilation']}")
    if row["suite"] != "depthwise" and shape["groups"] > 1:
        found.append(f"{shape['groups']} {word('groups', lang)}")
    if "residual" in shape:
        found.append(word("fused", lang))
    return found


def _kind(row: Row, lang: str) -> str:
    """What cases are counted together."""
    shape = row["shape"]
    if row["suite"] not in CONVOLUTIONS:
        return str(shape["D"])
    if "L" in shape:
        return f"k={shape['k']}"
    return ", ".join([f"{shape['R']}×{shape['R']}", *_special(row, lang)])


def _same_shape(row: Row, anchor: Mapping[str, Any]) -> bool:
    shape = row["shape"]
    grouped = anchor.get("heads", [1, 1])
    return (
        row["suite"] == "attention"
        and row["op"] == "attention"
        and row["dtype"] == "bfloat16"
        and row["pass"] == anchor["pass"]
        and row["causal"] == anchor["causal"]
        and (shape["D"], shape["N"]) == (anchor["D"], anchor["N"])
        and shape["H"] * grouped[1] == shape["G"] * grouped[0]
    )


def _nothing(columns: int, lang: str) -> Iterator[str]:
    yield _line(["–"] * columns)
    yield ""
    yield word("silent", lang)


def _reason(text: str, lang: str) -> str:
    """Our own in the page's language; a library's as it says it, the first sentence."""
    for pattern, *texts in REASONS:
        if match := re.fullmatch(pattern, text):
            return texts[lang == "zh"].format(*match.groups())
    return _code(re.split(r"(?<=[.!])\s", text)[0])


def _code(text: str) -> str:
    """As code, within a table."""
    return f"`{text.replace('`', chr(39)).replace('|', '¦')}`"


def _unbroken(texts: list[str]) -> str:
    """A line each, which a narrow column does not break."""
    return "<br>".join(text.replace(" ", "\u00a0").replace("-", "-\u2060") for text in texts)


def _speed(row: Row) -> float:
    return row["tflops"]


def _version(text: str) -> str:
    """Without what it was built for; cuDNN's is one number, 91900 for 9.19.0."""
    if text.isdigit() and len(text) == 5:
        return ".".join(str(int(part)) for part in (text[0], text[1:3], text[3:]))
    return text.partition("+")[0]


def _scaled(value: float) -> tuple[float, str]:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return value / size, prefix
    return value, ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
