"""How strong the tests are: plants small faults in the snippets and counts those that are noticed.

python -m tests.mutants [NAME …] [--section S] [--sample N] [--per-snippet M] [--seed K] …

The faults are those of mutmut (`mutmut.mutation.mutators`): another number, operator, comparison,
truth value or text, an argument left out, a value that is None. One fault at a time is planted in
a copy of the tree in a temporary folder. The snippet's own tests run up to the first that fails:
the fast before the slow, and last those that train, which have "learn" in their name. A fault that
all let pass meets the tests of the snippets that import this one, without those that take seconds.
A run that never ends is killed, with all it has started, and counts as noticed.

Left alone is what no test is meant to notice: the demo under `__main__` (its output is compared
by the page's test), docstrings, types, decorators, imports, `__all__`, the text of `raise …`, and,
as in mutmut, `len(…)` and `isinstance(…)`.

Faults that change nothing that counts are in `mutants.yml`, each with the reason. What has been
found out is kept in `.cache/mutants` and used again until the snippet, what it imports or the
tests that ran change; so after Ctrl+C the next run goes on.
"""

import argparse
import hashlib
import itertools
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any
from xml.etree import ElementTree

import libcst as cst
import libcst.matchers as m
import pytest
from mkdocs.exceptions import PluginError
from mutmut.mutation.mutators import mutation_operators

from hooks import ROOT
from hooks.errors import did_you_mean, line_of, problem
from hooks.labs import closure
from hooks.text import load_yaml
from snippets._cli.library import OURS

GOAL = 0.9
COPIED = ("snippets", "tests", "benchmarks", "hooks", "pyproject.toml")
TRAINS = "learn"  # in the name of a test that trains, which goes last
LIMIT = 600.0  # seconds of the processor for these, and for tests not yet timed
LONG = 2.0  # seconds; an importer's test that takes longer is left out
LOADING = "loading the file"  # what notices a fault before any test can
SPARE = 20.0  # seconds that a run may take beside three times what it took without a fault
MEMORY = 16 * 2**20  # KiB that a run may have


# Faults ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One change of one snippet."""

    snippet: str  # "detection/iou"
    number: int  # among all faults of the snippet
    within: str  # "YOLOv1.forward", "" outside of functions
    line: int
    before: str
    after: str
    code: str  # the snippet with it

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays when lines are added above."""
        return self.snippet, self.within, self.before, self.after


# Pair = int | tuple[int, int]
TYPE = m.Assign(
    targets=[m.AssignTarget(target=m.Name(m.MatchRegex("[A-Z][a-z]+")))],
    value=m.Subscript() | m.BinaryOperation(operator=m.BitOr()),
)
LEFT_ALONE = {
    cst.Annotation: m.Annotation(),
    cst.Decorator: m.Decorator(),
    cst.Import: m.Import(),
    cst.ImportFrom: m.ImportFrom(),
    cst.Raise: m.Raise(),
    cst.Call: m.Call(func=m.Name("len") | m.Name("isinstance")),
    cst.Assign: m.Assign(targets=[m.AssignTarget(target=m.Name("__all__"))]) | TYPE,
    cst.If: m.If(test=m.Comparison(left=m.Name("__name__"))),
}
# All that an operator of mutmut replaces; the rest is many times as much.
REPLACED = (
    *(cst.BaseExpression, cst.BaseStatement, cst.BaseSmallStatement, cst.ComparisonTarget),
    *(cst.BaseCompOp, cst.BaseUnaryOp),
)


class _Finder(cst.CSTVisitor):
    """Collects what may be replaced: the function it is in, the old node, the new one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.found: list[tuple[str, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if (pattern := LEFT_ALONE.get(type(node))) and m.matches(node, pattern):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.names.append(node.name.value)
        for kind, operator in mutation_operators if isinstance(node, REPLACED) else ():
            if isinstance(node, kind):
                self.found += [(".".join(self.names), node, new) for new in operator(node)]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.names.pop()


class Snippet:
    """A snippet of the tree at `root`, its faults and the tests that should notice them."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.path = root / "snippets" / f"{name}.py"
        self.module = cst.parse_module(self.path.read_text("utf-8"))
        finder = _Finder()
        self.module.visit(finder)
        self.places = finder.found

    def fault(self, number: int) -> Fault:
        within, old, new = self.places[number]
        code = self.module.deep_replace(old, new).code
        a, b = self.module.code.splitlines(), code.splitlines()
        changes = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        first, *_, last = [c for c in changes if c[0] != "equal"] * 2
        before = one_line(" ".join(a[first[1] : last[2]]))
        after = one_line(" ".join(b[first[3] : last[4]]))
        return Fault(self.name, number, within, first[1] + 1, before, after, code)

    @property
    def test(self) -> str:
        return _test_of(self.name)

    def importers(self) -> list[str]:
        """The tests of the snippets that import this one."""
        return [
            _test_of(name) for name in names(self.root) if self.path in _imports(self.root, name)
        ]


def one_line(text: str) -> str:
    return " ".join(text.split())


def _test_of(name: str) -> str:
    section, _, stem = name.rpartition("/")
    return f"tests/snippets/{section}/test_{stem}.py"


@cache
def names(root: Path) -> list[str]:
    """The snippets that have a test."""
    files = sorted((root / "snippets").glob("[!_]*/[!_]*.py"))
    found = [path.relative_to(root / "snippets").with_suffix("").as_posix() for path in files]
    return [name for name in found if (root / _test_of(name)).is_file()]


@cache
def _imports(root: Path, name: str) -> list[Path]:
    return closure(root / "snippets" / f"{name}.py")


def choose(root: Path, words: Sequence[str], section: str = "") -> list[str]:
    """The snippets meant by names, with or without their section; by a section; else all."""
    known = names(root)
    for word in words:
        if not any(name == word or name.endswith(f"/{word}") for name in known):
            sys.exit(f"no snippet '{word}'; {did_you_mean(word, known)}")
    if section and not any(name.startswith(f"{section}/") for name in known):
        sections = {name.partition("/")[0] for name in known}
        sys.exit(f"no section '{section}'; {did_you_mean(section, sections)}")
    return [
        name
        for name in known
        if name.startswith(f"{section}/" if section else "")
        and (not words or name in words or name.rpartition("/")[2] in words)
    ]


def draw(
    snippets: Sequence[str],
    count: Callable[[str], int],
    seed: int,
    sample: int = 0,
    each: int = 0,
) -> list[tuple[str, int]]:
    """Which faults to plant, (snippet, number): one of each snippet in turn, in random order.

    So each snippet counts the same; a larger sample contains the smaller one.
    """
    order = random.Random(seed).sample(snippets, len(snippets))
    numbers: dict[str, list[int]] = {}
    found: list[tuple[str, int]] = []
    for turn in itertools.count():
        left = [name for name in order if not turn or turn < len(numbers[name])]
        if not left or (each and turn == each):
            return found
        for name in left:
            if sample and len(found) == sample:
                return found
            if not turn:
                numbers[name] = list(range(count(name)))
                random.Random(f"{seed} {name}").shuffle(numbers[name])
            found += [(name, number) for number in numbers[name][turn : turn + 1]]
    return found


# Accepted survivors -----------------------------------------------------------------


def accepted(root: Path) -> dict[tuple[str, str, str, str], str]:
    """The faults of mutants.yml, with the reason; raises where one is no longer there."""
    path = root / "tests" / "mutants.yml"
    text = path.read_text("utf-8") if path.is_file() else ""
    found: dict[tuple[str, str, str, str], str] = {}
    for entry in load_yaml(text, path) or []:
        line = line_of(text, str(entry.get("before", "")).split("\n")[0])
        fields = {"snippet", "in", "before", "after", "why"}
        if set(entry) != fields or not all(isinstance(v, str) for v in entry.values()):
            raise problem(path, line, f"an entry has {', '.join(sorted(fields))}, all text")
        snippet = root / "snippets" / f"{entry['snippet']}.py"
        if not snippet.is_file() or entry["before"] not in one_line(snippet.read_text("utf-8")):
            message = f"snippets/{entry['snippet']}.py has no line '{entry['before']}'"
            raise problem(path, line, f"{message}; delete the entry or write what it is now")
        found[entry["snippet"], entry["in"], entry["before"], entry["after"]] = entry["why"]
    return found


# Running the tests ------------------------------------------------------------------


class Bench:
    """A copy of the tree, in which one fault after another is planted."""

    def __init__(self, root: Path, folder: Path, memory: "Memory") -> None:
        self.root, self.folder, self.memory = root, folder, memory
        self.planted = 0
        self.server: subprocess.Popen[str] | None = None
        self.warm = ""  # the test whose libraries the server has loaded
        leave_out = shutil.ignore_patterns("__pycache__", ".*")
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, folder / name, ignore=leave_out)
            elif (root / name).is_file():
                shutil.copy2(root / name, folder / name)

    def close(self) -> None:
        """End the server and the run that it may be at."""
        if self.server:
            self.server.terminate()
            self.server.communicate()

    def warm_up(self, test: str) -> None:
        """Have a server that has loaded what this test needs; others may run in it as well."""
        if self.warm == test:
            return
        self.close()
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("warm.py")), test]
        self.server = subprocess.Popen(
            ["sh", "-c", f'ulimit -v {MEMORY}; exec "$0" "$@"', *command],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl+C is for us alone
        )
        self.warm = test

    def pytest(self, tests: Sequence[str], limit: float) -> tuple[int, ElementTree.Element]:
        """The exit code and the report as JUnit writes it."""
        assert self.server and self.server.stdin and self.server.stdout
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        args = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
        self.server.stdin.write(json.dumps([limit, args]) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        if not answer:
            raise ChildProcessError("the process that runs the tests has ended")
        xml = report.read_text("utf-8") if report.is_file() else "<none/>"
        return int(answer), ElementTree.fromstring(xml)

    def times(self, test: str) -> dict[str, float]:
        """The seconds that each test of a file takes without a fault, save those that train."""
        files = _rests_on(self.folder, test)
        known = self.memory.find("times", test, files)
        if not known:
            code, report = self.pytest([test, "-k", f"not {TRAINS}"], limit=LIMIT)
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                failed = ", ".join(_failed(report)) or "it cannot be imported"
                raise problem(self.root / test, 1, f"fails without a fault: {failed}; mend it")
            seconds: dict[str, float] = {}
            for case in report.iter("testcase"):
                name = f"{test}::{case.get('name', '').partition('[')[0]}"
                seconds[name] = seconds.get(name, 0) + float(case.get("time", 0))
            known = {"times": {name: round(time, 2) for name, time in seconds.items()}}
            self.memory.keep("times", test, self.folder, files, known)
        return known["times"]

    def try_out(self, snippet: Snippet, fault: Fault) -> dict[str, Any]:
        """Plant a fault, say what came of it."""
        self.warm_up(snippet.test)
        start, others = time.monotonic(), []
        times = self.times(snippet.test)
        fast_first = sorted(times, key=lambda name: times[name])
        result = self._meets(snippet, fault, fast_first, SPARE + 3 * sum(times.values()))
        if result["outcome"] == "survived":
            result = self._meets(snippet, fault, [snippet.test, "-k", TRAINS], LIMIT)
        if result["outcome"] == "survived":
            others = snippet.importers()
        for test in others:
            times = {name: time for name, time in self.times(test).items() if time < LONG}
            result = self._meets(snippet, fault, list(times), SPARE + 3 * sum(times.values()))
            if result["outcome"] != "survived":
                break
        result["seconds"] = round(time.monotonic() - start, 1)
        files = {f for test in (snippet.test, *others) for f in _rests_on(self.folder, test)}
        name = f"{fault.snippet} {fault.number}"
        self.memory.keep("result", name, self.folder, sorted(files), result)
        return result

    def _meets(
        self, snippet: Snippet, fault: Fault, tests: Sequence[str], limit: float
    ) -> dict[str, Any]:
        path, original = snippet.path, snippet.path.read_bytes()
        try:
            path.write_text(fault.code, "utf-8")
            self.planted += 1  # a time of its own: Python compares it with that of the .pyc
            os.utime(path, (self.planted, self.planted))
            code, report = self.pytest(tests, limit) if tests else (0, ElementTree.Element("none"))
        finally:
            path.write_bytes(original)
        what = {k: v for k, v in asdict(fault).items() if k != "code"}
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            return what | {"outcome": "never ended", "by": ""}
        if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return what | {"outcome": "survived", "by": ""}
        return what | {"outcome": "noticed", "by": next(iter(_failed(report)), LOADING)}


def _failed(report: ElementTree.Element) -> list[str]:
    cases = report.iter("testcase")
    return [case.get("name", "") for case in cases if {c.tag for c in case} & {"failure", "error"}]


@cache
def _rests_on(root: Path, test: str) -> list[str]:
    """The files that decide a test's outcome: itself, the snippets, what tests share."""
    shared = [p for p in (root / "tests" / "snippets").rglob("*.py") if "test_" not in p.name]
    files = {root / test, root / "tests" / "conftest.py", *shared}
    for section, stem in OURS.findall((root / test).read_text("utf-8")):
        path = root / "snippets" / section / f"{stem}.py"
        files |= {path, *closure(path)}
    return sorted(path.relative_to(root).as_posix() for path in files if path.is_file())


class Memory:
    """What has been found out, a line of JSON each; void once a file it rests on changes."""

    def __init__(self, root: Path, fresh: bool = False) -> None:
        self.root, self.lock = root, threading.Lock()
        self.path = root / ".cache" / "mutants" / "results.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.known: dict[tuple[str, str], dict[str, Any]] = {}
        for line in self.path.read_text("utf-8").splitlines() if self.path.is_file() else []:
            with suppress(json.JSONDecodeError):  # the last line, if the power went
                entry = json.loads(line)
                if entry["kind"] == "times" or not fresh:
                    self.known[entry["kind"], entry["name"]] = entry

    def find(self, kind: str, name: str, files: Sequence[str] = ()) -> dict[str, Any] | None:
        entry = self.known.get((kind, name))
        files = files or (entry["files"] if entry else [])
        return entry if entry and entry["digest"] == _digest(self.root, files) else None

    def keep(
        self, kind: str, name: str, folder: Path, files: Sequence[str], what: dict[str, Any]
    ) -> None:
        """The files are those of the copy in `folder`, for the tree may be edited meanwhile."""
        entry = {"kind": kind, "name": name, "digest": _digest(folder, files), "files": files}
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            self.known[kind, name] = entry = entry | what
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _digest(root: Path, files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        path = root / name
        digest.update(name.encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()[:16]


# Report -----------------------------------------------------------------------------


def wilson(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval for a share of which a sample of `count` shows `hits`."""
    if not count:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = (hits + z2 / 2) / (count + z2)
    half = (z2 * (hits * (count - hits) / count + z2 / 4)) ** 0.5 / (count + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def report(
    results: Sequence[dict[str, Any]], reasons: dict[tuple[str, str, str, str], str], all_: bool
) -> int:
    """Print it; how many faults were not noticed, -1 if these are too many."""

    def reason(r: dict[str, Any]) -> str | None:
        return reasons.get((r["snippet"], r["within"], r["before"], r["after"]))

    survivors = [r for r in results if r["outcome"] == "survived"]
    open_ = [r for r in survivors if reason(r) is None]
    of = Counter(r["snippet"] for r in results)
    not_noticed = Counter(r["snippet"] for r in open_)
    print()
    for name in sorted(of):
        print(f"{name:50} {of[name]:4} faults, {not_noticed[name]:3} not noticed")
    print()
    for r in sorted(survivors, key=lambda r: (reason(r) is not None, r["snippet"], r["line"])):
        print(f"snippets/{r['snippet']}.py:{r['line']}: {reason(r) or 'NOT NOTICED by any test'}")
        print(f"    - {r['before']}\n    + {r['after']}")
    outcomes = Counter(r["outcome"] for r in results)
    loading = sum(r["by"] == LOADING for r in results)
    count = len(results) - len(survivors) + len(open_)
    hits = count - len(open_)
    share = hits / max(count, 1)
    low, high = (share, share) if all_ else wilson(hits, count)
    print(
        f"\n{len(results)} faults: {outcomes['noticed']} noticed ({loading} by {LOADING}), "
        f"{outcomes['never ended']} never ended, {len(survivors) - len(open_)} accepted with a "
        f"reason, {len(open_)} not noticed.\n"
        f"Of those that change something {hits} of {count} were noticed, {share:.1%}"
        + ("." if all_ else f" (of all, with 95 % confidence: {low:.1%} to {high:.1%}).")
    )
    answer = "yes" if low >= GOAL else "no" if high < GOAL else "not shown by so small a sample"
    print(f"At least {GOAL:.0%}: {answer}.")
    return -1 if share < GOAL else len(open_)


def _run(
    root: Path, todo: dict[str, list[int]], memory: Memory, jobs: int
) -> Iterator[dict[str, Any]]:
    """Yield results as they come; a snippet stays with one copy of the tree."""
    benches = queue.SimpleQueue[Bench]()
    done = queue.SimpleQueue[dict[str, Any] | BaseException]()

    def work(name: str) -> None:
        bench = benches.get()
        try:
            snippet = Snippet(bench.folder, name)
            for number in todo[name]:
                done.put(bench.try_out(snippet, snippet.fault(number)))
        except BaseException as error:
            done.put(error)
        finally:
            benches.put(bench)

    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ThreadPoolExecutor(jobs) as pool,
        ExitStack() as stack,
    ):
        for i in range(jobs):
            bench = Bench(root, Path(folder) / str(i), memory)
            stack.callback(bench.close)
            benches.put(bench)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # before they close
        for name in todo:
            pool.submit(work, name)
        for _ in range(sum(map(len, todo.values()))):
            if isinstance(result := done.get(), BaseException):
                raise result
            yield result


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser("tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="snippets; all if none is named")
    parser.add_argument("--section", default="", help="the snippets of a section")
    parser.add_argument("--sample", type=int, default=0, help="so many faults, drawn from all")
    parser.add_argument("--per-snippet", type=int, default=0, help="so many of each snippet")
    parser.add_argument("--seed", type=int, default=0, help="another number draws other faults")
    parser.add_argument("--jobs", type=int, default=1, help="so many runs at a time")
    parser.add_argument("--fresh", action="store_true", help="use no earlier results")
    parser.add_argument("--strict", action="store_true", help="fail for each fault not noticed")
    options = parser.parse_args(args)
    try:
        reasons = accepted(root)
        chosen = choose(root, options.names, options.section)
        drawn = draw(
            chosen,
            lambda name: len(Snippet(root, name).places),
            options.seed,
            options.sample,
            options.per_snippet,
        )
        memory = Memory(root, options.fresh)
        results: list[dict[str, Any]] = []
        todo: dict[str, list[int]] = {}
        for name, number in drawn:
            if known := memory.find("result", f"{name} {number}"):
                results.append(known)
            else:
                todo.setdefault(name, []).append(number)
        count, start, code = len(drawn) - len(results), time.monotonic(), 0
        print(f"{len(drawn)} faults, {count} to be tried, the others are known", flush=True)
        try:
            for done, result in enumerate(_run(root, todo, memory, options.jobs), 1):
                results.append(result)
                left = (time.monotonic() - start) / done * (count - done) / 60
                place = f"{result['snippet']}.py:{result['line']}"
                outcome = f"{result['outcome']} {result['by']}"
                print(f"{done}/{count} {place} {outcome} (about {left:.0f} min left)", flush=True)
        except KeyboardInterrupt:
            print("\nStopped; the next run goes on from here.")
            code = 130
    except PluginError as error:
        sys.exit(str(error))
    complete = not code and not options.sample and not options.per_snippet
    missed = report(results, reasons, complete)
    return code or int(missed < 0 or (options.strict and missed > 0))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it has started, too
    sys.exit(main())
