"""What was measured, set into the pages from `benchmarks/results`.

<!-- speed -->                            our operations of this page beside the library's, on a CPU
<!-- ladder: kernels/flash_attention -->  the steps of a page, predicted and measured
<!-- measured: speed gpu attention pass=forward D=128 -->
                                          a table of benchmarks.report, of the rows that match
"""

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.exceptions import PluginError

from benchmarks import report, results
from hooks.errors import did_you_mean, problem
from hooks.text import read

MARK = "<!-- speed -->"
MARKER = re.compile(r"^<!-- (speed|ladder|measured)(?:: ([^>]*?))? -->$", re.MULTILINE)
FOLDER = "benchmarks"  # on the site, below each language
WORDS = {
    "en": {
        "head": "| Ours | Library | Forward | Forward and backward |",
        "tie": " (a tie)",
        "to": "{} ({}–{})",
        "about": "How many times as long ours takes, in brackets the range over three passes; "
        "{shape}, {dtype}, one thread of an {device}, PyTorch {torch}{more}, {day}: "
        "[all rows]({up}{file}). `python -m benchmarks run --suite operations` measures again.",
        "more": ", transformers {}",
    },
    "zh": {
        "head": "| 本页 | 库函数 | 前向 | 前向加反向 |",
        "tie": "（持平）",
        "to": "{}（{}–{}）",
        "about": "本页代码耗时是库函数的多少倍，括号内为三轮的范围；{shape}，{dtype}，"
        "{device} 单线程，PyTorch {torch}{more}，{day}：[全部数据]({up}{file})。"
        "`python -m benchmarks run --suite operations` 可重新测量。",
        "more": "、transformers {}",
    },
}


def files() -> Iterator[tuple[str, Path]]:
    """Address on the site and file of all raw results that the pages quote."""
    for name in results.SHOWN.values():
        for path in sorted((results.FOLDER / name).glob("*.json*")):
            if ".partial" not in path.name:
                yield f"{FOLDER}/{name}/{path.name}", path


def set_tables(markdown: str, path: Path, uri: str, lang: str) -> str:
    """Put the measurements where the page marks it."""
    up = "../" * uri.count("/")

    def table(match: re.Match[str]) -> str:
        kind, words = match[1], (match[2] or "").split()
        try:
            if kind == "speed":
                return "\n".join(_speed(path, uri, lang, up))
            if kind == "ladder":
                return "\n".join(report.ladder(words[0], lang))
            what, machine, suite, *pairs = words
            only = dict(pair.split("=") for pair in pairs)
            lines = report.table(what, machine, suite, lang, **only)
        except results.ResultError as error:
            raise PluginError(str(error)) from None
        except (KeyError, ValueError, IndexError, TypeError):
            tables = [*report.TABLES, *report.makers(results.DETECTORS)]
            known = [*tables, *results.SHOWN, *report.ladders()]
            wrong = [word for word in words[:2] if word not in known] or words[:1] or [kind]
            line = read(path).splitlines().index(match[0]) + 1
            hint = did_you_mean(wrong[0], known)
            raise problem(path, line, f"'{match[0]}' cannot be set; {hint}") from None
        return "\n".join(lines).replace("](benchmarks/", f"]({up}benchmarks/")

    return MARKER.sub(table, markdown)


def _speed(path: Path, uri: str, lang: str, up: str) -> Iterator[str]:
    name, words = uri.removesuffix(".md"), WORDS[lang]
    found = results.load("operations")
    rows = [row for row in found.rows if row["op"] == name]
    if not rows:
        line = read(path).splitlines().index(MARK) + 1
        raise problem(path, line, f"'{name}' has not been measured; see benchmarks/suites")
    yield words["head"]
    yield "|---|---|---|---|"
    passes = [
        results.ratios(row for row in rows if row["pass"] == which)
        for which in dict.fromkeys(row["pass"] for row in rows)
    ]
    for both in zip(*passes, strict=True):
        cells = [
            words["to"].format(*map(_number, (r.median, r.low, r.high)))
            + (words["tie"] if r.tie else "")
            for r in both
        ]
        library = " / ".join(dict.fromkeys(f"`{r.library}`" for r in both))
        yield f"| `{both[0].ours}` | {library} | {' | '.join(cells)} |"
    of, more = found.manifest, ""
    if any("transformers" in row["backend"] for row in rows):
        more = words["more"].format(of["versions"]["transformers"])
    yield ""
    yield words["about"].format(
        shape=f"`{rows[0]['shape']}`",
        dtype=rows[0]["dtype"],
        device=of["device"]["name"],
        torch=of["versions"]["torch"].partition("+")[0],
        more=more,
        day=of["utc"][:10],
        up=up,
        file=f"{FOLDER}/{results.SHOWN['cpu']}/operations.jsonl",
    )


def _number(x: float) -> str:
    """Two digits."""
    return f"{x:.2f}" if x < 1 else f"{x:.1f}" if x < 10 else f"{x:.0f}"
