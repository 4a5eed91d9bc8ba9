"""Notes what the tests find, for the status page (`make status`, see `hooks/status.py`).

What a comparison that holds had to compare is measured once more: which tests hold is not changed,
and one that does not hold is no success to note. Each test hands its numbers on with its report,
by which they get here from other processes too.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import machine
from hooks import RECORDED, ROOT, SNIPPETS
from snippets._cli import library

WATCHED = ("tests/snippets/", "tests/site/")
ZERO = 1e-10  # where all numbers are smaller they are rounding errors, which have no relative error
EXPECTED = ("actual", "expected", "desired")  # names of arguments
APPROX = type(pytest.approx(0.0))


class Recorder:
    """A plugin of pytest."""

    def __init__(self, root: Path = ROOT, folder: Path = RECORDED) -> None:
        self.root, self.folder = root, folder
        # Of the test that runs, by precision.
        self.errors: dict[str, dict[str, float]] | None = None
        self.modules: dict[str, dict[str, Any]] = {}

    # Comparisons --------------------------------------------------------------------

    def watch(self, put: Callable[[Any, str, Any], object] = setattr) -> None:
        """Look on where tests compare; before they are imported, for they import by name."""
        for place, name in (
            (torch.testing, "assert_close"),
            (np.testing, "assert_allclose"),
            (APPROX, "__eq__"),  # also of what is in lists and dictionaries
        ):
            put(place, name, self.watched(getattr(place, name)))

    def watched(self, compare: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(compare)
        def compare_and_note(*args: Any, **settings: Any) -> Any:
            __tracebackhide__ = True
            agrees = compare(*args, **settings)
            if self.errors is not None and agrees is not False:
                values = [*args, *(settings[name] for name in EXPECTED if name in settings)]
                for a, b in pairs(*values[:2]):
                    precision, *size = error(a, b)
                    loose = precision == "float64" and is_loose(values[0], settings)
                    self.note("approximate" if loose else precision, *size)
            return agrees

        return compare_and_note

    def note(self, precision: str, absolute: float, relative: float) -> None:
        """Add two values that agree to what the running test has compared."""
        assert self.errors is not None
        old = self.errors.get(precision, {"comparisons": 0, "absolute": 0.0, "relative": 0.0})
        self.errors[precision] = {
            "comparisons": old["comparisons"] + 1,
            "absolute": max(old["absolute"], absolute),
            "relative": max(old["relative"], relative),
        }

    # Tests ----------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self.errors = {}
        try:
            return (yield)
        finally:
            item.user_properties.append(("errors", self.errors))
            self.errors = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One for each phase of each test; those of other processes arrive here too."""
        module, _, test = report.nodeid.partition("::")
        if not module.startswith(WATCHED) or not (report.when == "call" or report.failed):
            return
        noted = dict(errors={}, measured={}, failed=report.failed)
        for kind, value in report.user_properties:
            if kind == "errors":
                noted["errors"] = value
            elif kind == "measured":
                noted["measured"][value[0]] = list(value[1:])
        self.modules.setdefault(module, {})[test] = noted

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):  # else the process that started it saves
            for module, tests in self.modules.items():
                record(module, tests, self.root, self.folder)


def record(module: str, tests: dict[str, Any], root: Path, folder: Path) -> None:
    """Save what a run has found; what earlier ones have found stays if the code is the same."""
    file, run, snippet = root / module, this_run(), ""
    name = f"{file.parent.name}/{file.stem.removeprefix('test_')}"
    if (SNIPPETS / f"{name}.py").is_file():
        snippet = library.digest(library.body(name, single=True))
    code = f"{library.digest(file.read_text('utf-8'))} {snippet or run['commit']}"
    new = {"code": code, "run": run, "snippet": snippet, "tests": tests}
    path = folder / Path(module).relative_to("tests").with_suffix(".json")
    if path.is_file():
        old = json.loads(path.read_text("utf-8"))
        if old["code"] == code:
            new["tests"] = old["tests"] | tests
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(new), "utf-8")


@cache
def this_run() -> dict[str, str]:
    """When, where and of what; the same for all that is saved together."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{machine.describe(torch.device('cpu'))['name']}, {platform.system()}",
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
    }


def is_loose(actual: Any, settings: dict[str, Any]) -> bool:
    """Whether more is allowed than PyTorch does for float64: one side is approximate, then."""
    if isinstance(actual, APPROX):
        default = 1e-6 if actual.rel is actual.abs is None else 0
        allowed = max(actual.rel or default, actual.abs or 0)
    else:
        allowed = max(settings.get("rtol") or 0, settings.get("atol") or 0)
    return allowed > 1e-7


def pairs(actual: Any, expected: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The tensors that are compared, one by one."""
    if isinstance(actual, APPROX):
        actual, expected = expected, actual.expected
    if isinstance(actual, Mapping):
        for key in actual:
            yield from pairs(actual[key], expected[key])
    elif isinstance(actual, list | tuple):
        for a, b in zip(actual, expected):
            yield from pairs(a, b)
    elif (a := tensor(actual)) is not None and (b := tensor(expected)) is not None:
        yield a, b


def tensor(value: Any) -> torch.Tensor | None:
    """Numbers of Python have double precision; there is more than numbers to compare."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    return torch.from_numpy(array) if array.dtype.kind in "biufc" else None


def error(actual: torch.Tensor, expected: torch.Tensor) -> tuple[str, float, float]:
    """Precision of a comparison, largest difference, and its ratio to the largest number.

    The precision is the lower of the two; float32/float64 if the other is double.
    Infinities and what is not a number agree where they are in the same places.
    """
    types = {x.dtype for x in (actual, expected) if x.is_floating_point() or x.is_complex()}
    if not types:
        return "exact", 0.0, 0.0
    low, high = (f(types, key=lambda dtype: torch.finfo(dtype).eps) for f in (max, min))
    precision = str(low).removeprefix("torch.")
    if torch.finfo(high).eps < 1e-15 < torch.finfo(low).eps:
        precision += f"/{str(high).removeprefix('torch.')}"
    wide = torch.complex128 if any(t.is_complex for t in types) else torch.float64
    a, b = torch.broadcast_tensors(actual.to(wide), expected.to(wide))
    finite = a.isfinite() & b.isfinite()
    if not finite.any():
        return precision, 0.0, 0.0
    difference, size = ((a - b)[finite].abs().max().item(), b[finite].abs().max().item())
    relative = difference / size if size > ZERO else 0.0
    return precision, difference, relative
