"""How fast our code is beside the library's, set into the page from `benchmarks/results`."""

from pathlib import Path

from mkdocs.exceptions import PluginError

from benchmarks import results
from hooks.errors import problem
from hooks.text import read

MARK = "<!-- speed -->"
FILE = "benchmarks/operations.jsonl"  # on the site, below each language
WORDS = {
    "en": {
        "head": "| Ours | Library | Forward | Forward and backward |",
        "tie": " (a tie)",
        "to": "{} ({}–{})",
        "about": "How many times as long ours takes, in brackets the range over three passes; "
        "{shape}, {dtype}, one thread of an {device}, PyTorch {torch}{more}, {day}: "
        "[all rows]({up}{file}). `python -m benchmarks run` measures again.",
        "more": ", transformers {}",
    },
    "zh": {
        "head": "| 本页 | 库函数 | 前向 | 前向加反向 |",
        "tie": "（持平）",
        "to": "{}（{}–{}）",
        "about": "本页代码耗时是库函数的多少倍，括号内为三轮的范围；{shape}，{dtype}，"
        "{device} 单线程，PyTorch {torch}{more}，{day}：[全部数据]({up}{file})。"
        "`python -m benchmarks run` 可重新测量。",
        "more": "、transformers {}",
    },
}


def set_table(markdown: str, path: Path, uri: str, lang: str) -> str:
    """Put the measurements where the page marks it."""
    if MARK not in markdown:
        return markdown
    name, words = uri.removesuffix(".md"), WORDS[lang]
    try:
        found = results.load("operations")
    except results.ResultError as error:
        raise PluginError(str(error)) from None
    rows = [row for row in found.rows if row["op"] == name]
    if not rows:
        line = read(path).splitlines().index(MARK) + 1
        raise problem(path, line, f"'{name}' has not been measured; see benchmarks/operations.py")
    table = [words["head"], "|---|---|---|---|"]
    passes = [results.ratios(found, name, which) for which in results.PASSES]
    for both in zip(*passes, strict=True):
        cells = [
            words["to"].format(*map(_number, (r.median, r.low, r.high)))
            + (words["tie"] if r.low <= 1 <= r.high else "")
            for r in both
        ]
        library = " / ".join(dict.fromkeys(f"`{r.library}`" for r in both))
        table.append(f"| `{both[0].ours}` | {library} | {' | '.join(cells)} |")
    of, more = found.manifest, ""
    if any("transformers" in row["backend"] for row in rows):
        more = words["more"].format(of["transformers"])
    about = words["about"].format(
        shape=f"`{rows[0]['shape']}`",
        dtype=rows[0]["dtype"],
        device=of["device"],
        torch=of["torch"].partition("+")[0],
        more=more,
        day=of["utc"][:10],
        up="../" * uri.count("/"),
        file=FILE,
    )
    return markdown.replace(MARK, "\n".join([*table, "", about]))


def _number(x: float) -> str:
    """Two digits."""
    return f"{x:.2f}" if x < 1 else f"{x:.1f}" if x < 10 else f"{x:.0f}"
