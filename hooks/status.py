"""What the tests have found, set into the status page from `docs/status.json`.

<!-- status: runs -->        where and when the tests ran
<!-- status: errors -->      each snippet: with what it is compared, and the largest error
<!-- status: site -->        the figures that the tests of the site measure
<!-- status: benchmarks -->  how old the measurements of speed are
<!-- status: gaps -->        what is not checked, as far as that can be told from the files

While tests run, `tests/status.py` notes what they find in `.cache/status`; `python -m hooks status`
makes the file of it.
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import results
from hooks import DOCS, LANGUAGES, RECORDED, ROOT, content
from hooks.content import Entry
from hooks.errors import did_you_mean, line_of, problem
from hooks.text import read
from hooks.yardsticks import KINDS, OWN, parity_tests, test_file, yardstick
from snippets._cli import library

FILE = DOCS / "status.json"
EMPTY: dict[str, Any] = {"runs": [], "site": {}, "snippets": {}}
RUN = ("commit", "machine", "python", "torch")  # what is the same in one run; its day may not be
FINE = ("float64", "complex128")
COARSE = ("float32", "complex64", "float16", "bfloat16")
MIXED = tuple(f"{low}/{high}" for low in COARSE for high in FINE)  # found and expected
PRECISIONS = (*FINE, *MIXED, *COARSE, "exact")
LIBRARIES = {  # as they call themselves
    "torch": "PyTorch",
    "sklearn": "scikit-learn",
    "scipy": "SciPy",
    "numpy": "NumPy",
    "onnxruntime": "ONNX Runtime",
    "ultralytics": "Ultralytics",
}


def digest(name: str) -> str:
    """The version of a snippet with all that it imports."""
    return library.digest(library.body(name, single=True))


# From what was recorded to the file ---------------------------------------------------


def write(option: str = "") -> None:
    """Make the file; --mixed: even if not all was recorded in one run."""
    if option not in ("", "--mixed"):
        sys.exit(f"no option {option!r}; there is --mixed")
    found = gather(mixed=option == "--mixed")
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    missing = sorted(library.library().keys() - found["snippets"].keys())
    if missing:
        print(f"Not recorded yet (`make test` records all): {', '.join(missing)}")
    print(f"{len(found['snippets'])} snippets → {FILE.relative_to(ROOT)}")


def gather(folder: Path = RECORDED, mixed: bool = False) -> dict[str, Any]:
    """What stands in the file."""
    runs: dict[tuple[str, ...], dict[str, str]] = {}
    found: dict[str, Any] = {"runs": [], "site": {}, "snippets": {}}

    def note(path: Path, tests: Path) -> dict[str, Any]:
        recorded = json.loads(path.read_text("utf-8"))
        for test, noted in recorded["tests"].items():
            if noted["failed"]:
                line = line_of(tests.read_text("utf-8"), f"def {test.partition('[')[0]}(")
                raise problem(tests, line, f"{test} failed when it last ran; mend it, run it again")
        run = recorded["run"]
        key = tuple(run[field] for field in RUN)
        runs[key] = max(run, runs.get(key, run), key=lambda run: run["day"])
        return recorded

    for name in sorted(library.library()):
        tests = test_file(name)
        path = folder / "snippets" / Path(name).parent / f"{tests.stem}.json"
        if not path.is_file():
            continue
        recorded = note(path, tests)
        parity = parity_tests(tests.read_text("utf-8"))
        ran = {test.partition("[")[0] for test in recorded["tests"]}
        if parity <= ran:  # else an error may be larger than what was seen
            noted = [t for test, t in recorded["tests"].items() if test.partition("[")[0] in parity]
            found["snippets"][name] = _largest([t["errors"] for t in noted])
            found["snippets"][name]["digest"] = recorded["snippet"]
    for path in sorted((folder / "site").glob("*.json")):
        tests = ROOT / "tests" / "site" / path.with_suffix(".py").name
        if tests.is_file():
            for noted in note(path, tests)["tests"].values():
                found["site"] |= noted["measured"]
    if len(runs) > 1 and not mixed:
        listed = "; ".join(", ".join(key) for key in sorted(runs))
        message = f"recorded in different runs ({listed}); run `make test` once, or add --mixed"
        raise problem(folder, 1, message)
    found["runs"] = sorted(runs.values(), key=lambda run: [run["day"], *run.values()])
    return found


def _largest(errors: list[dict[str, Any]]) -> dict[str, Any]:
    """By precision: number of comparisons, largest errors."""
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        of = [e[precision] for e in errors if precision in e]
        if of:
            found[precision] = {
                "comparisons": sum(e["comparisons"] for e in of),
                "absolute": round_up(max(e["absolute"] for e in of)),
                "relative": round_up(max(e["relative"] for e in of)),
            }
    return found


def round_up(x: float) -> float:
    """To one digit, for a change in the last of many digits says nothing."""
    if x == 0:
        return 0.0
    power = math.floor(math.log10(x))
    return float(f"{math.ceil(x / 10.0**power - 1e-9)}e{power}")


# From the file to the page --------------------------------------------------------------

MARKER = re.compile(r"^<!-- status: ([^>]*?) -->$", re.MULTILINE)
WORDS = {
    "en": {
        "errors": "| Page | Compared with | Largest error | relative |",
        "site": "| What | Found | Limit |",
        "benchmarks": "| Suite | Machine | Rows | Day | Code |",
        "run": "{day}: {machine}, Python {python}, PyTorch {torch}, code at `{commit}`.",
        "none": "not measured yet",
        "equal": "equal",
        "earlier": "{} (earlier code)",
        "sep": ", ",
        "unknown": "not noted",
        "no snippet": "Pages without a snippet, hence without a yardstick: {}.",
        "not recorded": "No error recorded, or only one of earlier code: {}.",
        "own": "Compared with parts of this site, which have yardsticks of their own: {}.",
        "mixed": "Run in lower precision than float64 only, compared with float64: {}.",
        "coarse": "Run and compared in lower precision than float64 only: {}.",
        "behind": "Sections that lag behind the other language: English, Chinese, deferred",
        "no gpu": "No run of the kernels on a GPU is on record: the tests run them in Triton's "
        "interpreter on a CPU, and read what the compiler makes of them without running it.",
    },
    "zh": {
        "errors": "| 页面 | 比对对象 | 最大误差 | 相对误差 |",
        "site": "| 项目 | 实测 | 上限 |",
        "benchmarks": "| 基准 | 机器 | 行数 | 日期 | 代码 |",
        "run": "{day}：{machine}，Python {python}，PyTorch {torch}，代码版本 `{commit}`。",
        "none": "尚未测量",
        "equal": "完全相等",
        "earlier": "{}（旧代码）",
        "sep": "、",
        "unknown": "未记录",
        "no snippet": "没有代码片段、因而也没有比对对象的页面：{}。",
        "not recorded": "没有误差记录，或记录属于旧代码：{}。",
        "own": "比对对象是本站的其他片段，后者各有自己的比对对象：{}。",
        "mixed": "只在低于双精度的精度下运行，与双精度结果比对：{}。",
        "coarse": "只在低于双精度的精度下运行和比对：{}。",
        "behind": "落后于另一种语言的小节：英文、中文、已推迟",
        "no gpu": "没有计算核在 GPU 上运行的记录：测试在 CPU 上用 Triton 的解释器执行它们，"
        "编译结果只检查、不运行。",
    },
}
# Figures of the site by how their names begin: the worst of each kind is shown.
SITE = {
    r"right page not first, (\d+) queries": (
        "Searches that show the right page first, of {}",
        "{} 次搜索中，正确页面排第一的",
    ),
    r"right page not among the first three, (\d+) queries": (
        "Searches that show it among the first three, of {}",
        "{} 次搜索中，正确页面在前三的",
    ),
    r"requests to other hosts, (\d+) pages": (
        "Requests to other hosts, from {} pages",
        "{} 个页面向其他主机发出的请求",
    ),
    r"axe violations, (.*)": ("Violations that axe finds, at most", "axe 发现的违规，最多"),
    r"weight of (.*)": ("Heaviest page for its limit: {}", "最接近上限的页面大小：{}"),
    r"requests of (.*)": ("Most requests for their limit: {}", "最接近上限的请求数：{}"),
    r"layout shift of (.*)": ("Largest shift of the layout: {}", "最大的版面偏移：{}"),
    r"search index of (.*) a page": ("Index of the search, a page of {}", "搜索索引，每页，{}"),
}


def load() -> dict[str, Any]:
    """The file, checked."""
    if not FILE.is_file():
        return EMPTY
    text = read(FILE)
    remedy = "run `make test`, then `make status`"
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise problem(FILE, error.lineno, f"not JSON: {error.msg}; {remedy}") from None
    if not isinstance(found, dict) or any(type(found.get(k)) is not type(EMPTY[k]) for k in EMPTY):
        raise problem(FILE, 1, f"this file has {', '.join(EMPTY)}; {remedy}")

    def hold(name: str, right: bool) -> None:
        if not right:
            raise problem(FILE, line_of(text, f'"{name}"'), f"'{name}' is incomplete; {remedy}")

    for run in found["runs"]:
        hold("runs", isinstance(run, dict) and run.keys() == {*RUN, "day"})
    for name, figure in found["site"].items():
        hold(name, isinstance(figure, list) and [type(x) for x in figure[2:]] == [str])
    for name, entry in found["snippets"].items():
        hold(name, isinstance(entry, dict) and isinstance(entry.get("digest"), str))
        for precision, errors in entry.items():
            known = {"comparisons", "absolute", "relative"}
            right = precision in PRECISIONS and isinstance(errors, dict) and errors.keys() == known
            hold(name, right or precision == "digest")
    return found


def set_tables(
    markdown: str, path: Path, entries: dict[str, Entry], lang: str, up: str = ""
) -> str:
    """Put what was found where the page marks it."""
    parts = {f.__name__.strip("_"): f for f in (_runs, _errors, _site, _benchmarks, _gaps)}

    def part(match: re.Match[str]) -> str:
        if match[1] not in parts:
            line = line_of(read(path), match[0])
            raise problem(path, line, f"no '{match[1]}' to show; {did_you_mean(match[1], parts)}")
        return "\n".join(parts[match[1]](load(), entries, lang))

    return MARKER.sub(part, markdown)


def _runs(found: dict[str, Any], entries: dict[str, Entry], lang: str) -> Iterator[str]:
    words = WORDS[lang]
    for run in found["runs"] or [None]:
        yield f"- {words['run'].format(**run) if run else words['none']}"


def _errors(found: dict[str, Any], entries: dict[str, Entry], lang: str) -> Iterator[str]:
    """A table for each section, in the order of reading."""
    words = WORDS[lang]
    snippets = library.library()
    for section in content.sections(entries):
        rows = []
        for entry in content.reading_order(entries, section):
            for name in (n for n, snippet in snippets.items() if snippet.page == entry.name):
                cells = [_label(name, entries, lang), _named(yardstick(name), lang)]
                cells += _cells(name, found["snippets"].get(name), lang)
                rows.append(f"| {' | '.join(cells)} |")
        if rows:
            title = entries[f"{section}/index"].meta[lang]["title"]
            yield from (f"### {title} {{ #{section} }}", "", words["errors"], "|---|---|---|---|")
            yield from (*rows, "")


def _link(entry: Entry, lang: str) -> str:
    return f"[{entry.meta[lang]['title']}]({entry.source})"


def _label(name: str, entries: dict[str, Entry], lang: str) -> str:
    """The page of a snippet, and which of its snippets, if there are several."""
    snippets = library.library()
    page = snippets[name].page
    several = sum(snippet.page == page for snippet in snippets.values()) > 1
    return _link(entries[page], lang) + (f" `{snippets[name].stem}`" if several else "")


def _named(found: list[str], lang: str) -> str:
    """The yardsticks, functions by library."""
    by: dict[str, list[str]] = {}
    for name in found:
        if name not in KINDS:
            root, *_, function = name.split(".")
            by.setdefault(LIBRARIES.get(root, root), []).append(f"`{function}`")
    parts = [f"{root} {WORDS[lang]['sep'].join(functions)}" for root, functions in by.items()]
    parts += [word if lang == "en" else KINDS[word] for word in found if word in KINDS]
    return ("; " if lang == "en" else "；").join(parts)


def _cells(name: str, entry: dict[str, Any] | None, lang: str) -> list[str]:
    """Largest error and relative error, in the finest precision that was compared."""
    words = WORDS[lang]
    if entry is None:
        return [words["none"], ""]
    cells: list[str] = []
    for size in ("absolute", "relative"):
        of = {p: entry[p][size] for p in PRECISIONS if p in entry and entry[p][size]}
        named = (_short(x) + (f" {p}" if p != "float64" else "") for p, x in of.items())
        cells.append(words["sep"].join(named))
    cells[0] = cells[0] or words["equal"]
    if entry["digest"] != digest(name):
        cells[0] = words["earlier"].format(cells[0])
    return cells


def _short(x: float) -> str:
    return re.sub(r"e([+-])0", r"e\1", f"{x:.0e}")


def _site(found: dict[str, Any], entries: dict[str, Entry], lang: str) -> Iterator[str]:
    words = WORDS[lang]
    yield from (words["site"], "|---|---|---|")
    for pattern, labels in SITE.items():
        label = labels[lang == "zh"]
        of = [(re.match(pattern, name), figure) for name, figure in found["site"].items()]
        of = [(match, figure) for match, figure in of if match]
        if not of:
            yield f"| {label.format('…')} | {words['none']} | |"
            continue
        match, (value, budget, unit) = max(of, key=lambda o: (o[1][0] / (o[1][1] or 1), o[0][0]))
        if "right page" in pattern:  # readers think of hits, the test of misses
            value, budget = 100 - value, 100 - budget
        where = match[1] if match[1] not in ("/", "") else "/"
        yield f"| {label.format(where)} | {value:.3g} {unit} | {budget:g} {unit} |"

    if behind := _behind():
        yield f"| {words['behind']} | {words['sep'].join(map(str, behind))} | |"


def _behind() -> list[int]:
    """Sections that lag in each language, those of them that may; empty where it is not known."""
    try:
        from hooks.contribute import stale
    except ImportError:
        return []
    found = stale.summary()
    return [] if found.unknown else [*(found.behind[lang] for lang in LANGUAGES), found.deferred]


def _benchmarks(found: dict[str, Any], entries: dict[str, Entry], lang: str) -> Iterator[str]:
    words = WORDS[lang]
    yield from (words["benchmarks"], "|---|---|---|---|---|")
    for folder in (results.FOLDER / name for name in results.SHOWN.values()):
        for suite in results.suites(folder):
            run = results.load(suite, folder)
            commits = {noted.get("commit") for noted in (run.manifest, *run.rows)} - {None, ""}
            code = ", ".join(f"`{c[:12]}`" for c in sorted(commits)) or words["unknown"]
            machine, day = run.manifest["device"]["name"], run.manifest["utc"][:10]
            yield f"| {suite} | {machine} | {len(run.rows)} | {day} | {code} |"


def _gaps(found: dict[str, Any], entries: dict[str, Entry], lang: str) -> Iterator[str]:
    words = WORDS[lang]
    snippets, recorded = library.library(), found["snippets"]

    with_one = {snippet.page for snippet in snippets.values()}
    without = [
        entry
        for section in content.sections(entries)
        for entry in content.reading_order(entries, section)
        if entry.name not in with_one and entry.files[lang].suffix == ".md"
    ]
    old = [n for n in snippets if recorded.get(n, {}).get("digest") != digest(n)]
    precisions = {name: recorded.get(name, {}).keys() for name in snippets}
    single = [n for n, p in precisions.items() if p & set(MIXED) and not p & set(FINE)]
    coarse = [n for n, p in precisions.items() if p & set(COARSE) and not p & {*FINE, *MIXED}]
    own = [n for n in snippets if OWN in yardstick(n)]
    for what, names in (("not recorded", old), ("own", own), ("mixed", single), ("coarse", coarse)):
        if names:
            listed = words["sep"].join(_label(name, entries, lang) for name in names)
            yield f"- {words[what].format(listed)}"
    if without:
        listed = words["sep"].join(_link(entry, lang) for entry in without)
        yield f"- {words['no snippet'].format(listed)}"
    if not results.suites(results.FOLDER / results.SHOWN["gpu"]):
        yield f"- {words['no gpu']}"
