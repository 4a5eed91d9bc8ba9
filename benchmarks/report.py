"""Tables made from result files: for the pages, for the terminal, and of two runs side by side."""

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.results import Run

Row = Mapping[str, Any]
HERE = Path(__file__).parent
ANCHORS = HERE / "anchors.json"
LADDERS = HERE / "ladders.json"
WORDS: dict[str, tuple[str, str]] = {
    "case": ("Case", "用例"),
    "pass": ("Pass", "阶段"),
    "forward": ("forward", "前向"),
    "backward": ("backward", "反向"),
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
    "published": ("Published", "已发表"),
    "where": ("On", "硬件"),
    "source": ("Source", "出处"),
    "here": ("Measured here, fastest of its kind", "本页实测"),
    "step": ("Step", "步骤"),
    "predicted": ("Predicted, H200", "预测（H200）"),
    "gpu": ("Measured, H200", "实测（H200）"),
    "cpu": ("Time on a CPU, naive = 1", "CPU 耗时（朴素 = 1）"),
    "pending": ("to be recorded", "待测"),
    "missing": (
        "Not recorded yet: these rows need a GPU (`python -m benchmarks run --suite {suite}`).",
        "尚未测量：这些数据需要 GPU（`python -m benchmarks run --suite {suite}`）。",
    ),
    "unit-gpu": (
        "TFLOP/s, the median of all calls; bold: the fastest.",
        "单位 TFLOP/s，取全部调用的中位数；粗体为最快。",
    ),
    "unit-cpu": (
        "Time relative to the row's fastest library function (1.00), medians; bold: the fastest.",
        "相对于该行最快的库函数（1.00）的耗时，取中位数；粗体为最快。",
    ),
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
UNITS = {"TFLOP/s": "tflops", "GB/s": "gbps"}
STATUS: dict[str, tuple[str, str]] = {
    "unsupported": ("unsupported", "不支持"),
    "oom": ("out of memory", "显存不足"),
    "skipped": ("skipped", "跳过"),
    "error": ("error", "出错"),
}


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


def table(what: str, machine: str, suite: str, lang: str, **only: str) -> list[str]:
    """The lines of one table; a note where there are no rows."""
    run = stored(machine, suite)
    rows = [row for row in run.rows if _fits(row, only)] if run else []
    if run is None or not rows:
        return [f"*{word('missing', lang).format(suite=suite)}*"]
    return list(TABLES[what](run, rows, lang))


def speed(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """A row a case, a column an implementation."""
    names = list(dict.fromkeys(row["backend"] for row in rows))
    gpu = run.manifest["device"]["kind"] == "cuda"
    marked = {row["backend"] for row in rows if row["ours"]}
    yield _line([word("case", lang), *(f"**{n}**" if n in marked else n for n in names)])
    yield _line(["---"] * (len(names) + 1))
    reasons: dict[str, None] = {}
    for case, group in _groups(rows):
        found = {row["backend"]: row for row in group}
        good = [row for row in group if row["status"] == "ok"]
        best = min((row["times_ms"]["median"] for row in good), default=0)
        peers = [row["times_ms"]["median"] for row in good if not row["ours"]]
        cells: list[str] = []
        for name in names:
            row = found.get(name)
            if row is None:
                cells.append("")
            elif row["status"] != "ok":
                status = STATUS[row["status"]][lang == "zh"]
                cells.append("–")
                reasons[f"{name}: {status} ({row['reason']})"] = None
            else:
                time = row["times_ms"]["median"]
                text = f"{row['tflops']:.0f}" if gpu else f"{time / min(peers or [best]):.2f}"
                cells.append(f"**{text}**" if time == best else text)
        yield _line([_case(case, lang), *cells])
    yield ""
    yield word("unit-gpu" if gpu else "unit-cpu", lang)
    if reasons:
        yield ""
        yield word("why", lang).format("; ".join(reasons))


def verdicts(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Ours against the best peer, the worst first."""
    heads = ("case", "pass", "ours", "peer", "ratio", "outcome", "fraction", "bound")
    yield _line([word(name, lang) for name in heads])
    yield _line(["---"] * len(heads))
    found: list[tuple[float, list[str]]] = []
    for case, group in _groups(rows):
        for ratio in results.ratios(group):
            mine = next(row for row in group if row["backend"] == ratio.ours)
            outcome = "tie" if ratio.tie else "loss" if ratio.median > 1 else "win"
            share = mine["fraction_of_floor"]
            cells = [
                _case(case, lang),
                word(mine["pass"], lang),
                f"`{ratio.ours}`",
                ratio.library,
                f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})",
                word(outcome, lang),
                f"{100 * share:.0f} %",
                word(mine["bound"], lang),
            ]
            found.append((ratio.median, cells))
    for _, cells in sorted(found, key=lambda pair: -pair[0]):
        yield _line(cells)


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
        shown = ", ".join(f"`{text}`" for text in names) or word("none", lang)
        yield _line([backend, word(name, lang), shown])


def anchors(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Published figures beside our rows of the same shape."""
    heads = ("published", "where", "case", "pass", "here", "source")
    yield _line([word(name, lang) for name in heads])
    yield _line(["---"] * len(heads))
    for anchor in json.loads(ANCHORS.read_text("utf-8")):
        like = [row for row in rows if row["status"] == "ok" and _same_shape(row, anchor)]
        like = [row for row in like if row["backend"] in anchor["here"]]
        here = ", ".join(f"{row['backend']} {row['tflops']:.0f}" for row in like) or "–"
        shape = f"D={anchor['D']}, N={anchor['N']}"
        if anchor["causal"]:
            shape += f", {word('causal', lang)}"
        cells = [f"{anchor['what']}: {anchor['tflops']}", anchor["machine"], shape]
        cells += [word(anchor["pass"], lang), here, f"[{anchor['source']}]({anchor['url']})"]
        yield _line(cells)


def about(run: Run, rows: list[Row], lang: str) -> Iterator[str]:
    """Machine, versions, date, whether the kernels have changed since, ceilings, files."""
    of = run.manifest
    device = of["device"]["name"]
    if of["device"]["kind"] == "cpu":
        device += word("thread", lang)
    known = {"torch": "PyTorch", "triton": "Triton", "cuda": "CUDA", "cudnn": "cuDNN"}
    versions = [
        f"{label} {of['versions'][name].partition('+')[0]}"
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


def ladders() -> dict[str, Any]:
    """By page: what was predicted for its steps, and by which rows they are measured."""
    return json.loads(LADDERS.read_text("utf-8"))


def ladder(page: str, lang: str) -> list[str]:
    """The steps of a page: what was predicted, what came of it."""
    found = ladders()[page]
    suite, unit = found["suite"], found["unit"]
    measured = {
        machine: {row["backend"]: row for row in run.rows if _fits(row, found["rows"])}
        for machine in results.SHOWN
        if (run := stored(machine, suite))
    }
    lines = [_line([word(name, lang) for name in ("step", "predicted", "gpu", "cpu")])]
    lines.append(_line(["---"] * 4))
    naive = measured.get("cpu", {}).get(found["steps"][0]["backend"])
    for step in found["steps"]:
        on = {machine: rows.get(step["backend"]) for machine, rows in measured.items()}
        gpu, cpu = on.get("gpu"), on.get("cpu")
        cells = [step[lang], f"{step['predicted']} {unit}" if "predicted" in step else "–"]
        if gpu and gpu["status"] == "ok":
            cells.append(f"{gpu[UNITS[unit]]:.0f} {unit}")
        else:
            cells.append(word("pending", lang))
        if naive and cpu and cpu["status"] == "ok":
            cells.append(f"{cpu['times_ms']['median'] / naive['times_ms']['median']:.2f}")
        else:
            cells.append("–")
        lines.append(_line(cells))
    return lines


TABLES: dict[str, Callable[[Run, list[Row], str], Iterable[str]]] = {
    "speed": speed,
    "verdicts": verdicts,
    "errors": errors,
    "kernels": kernels,
    "anchors": anchors,
    "about": about,
}


# The terminal -----------------------------------------------------------------------


def summary(run: Run) -> Iterator[str]:
    """All rows of a run, a cell after the other."""
    for case, group in _groups(run.rows):
        yield f"\n{case['suite']} {case['op']} {_case(case, 'en')}, {case['pass']}"
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
    for name, of in (("A", a.manifest), ("B", b.manifest)):
        yield f"{of['suite']} {name}: {of['device']['name']}, {of['utc'][:10]}"
    others = {results.key(row): row for row in b.rows}
    shared = [(row, others[results.key(row)]) for row in a.rows if results.key(row) in others]
    for one, other in shared:
        name = f"{_case(one, 'en')} {one['pass']} {one['backend']}"
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
    shape = row["shape"] if isinstance(row["shape"], dict) else {}
    return all(str(shape.get(k, row.get(k))).lower() == str(v).lower() for k, v in only.items())


def _groups(rows: Iterable[Row]) -> list[tuple[Row, list[Row]]]:
    """Rows of one cell and pass, with one of them to name it."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((*results.cell(row), row["pass"]), []).append(row)
    return [(group[0], group) for group in found.values()]


def _case(row: Row, lang: str) -> str:
    shape = row["shape"]
    if isinstance(shape, str):
        return shape
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


def _scaled(value: float) -> tuple[float, str]:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return value / size, prefix
    return value, ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
