"""What must never be lost: by random edits, and by faults at every write."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snippets._cli import copies, library
from snippets._cli.copies import STORE, Copy, digest
from tests.cli.conftest import BOXES, NMS, Publish, tree

# Edits of a text of lines: each puts new lines, none or some, in the place of some old ones.
edits = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6
)


def edited(lines: list[str], edits: list[tuple[int, int, int]], who: str) -> list[str]:
    lines = list(lines)
    for number, (start, removed, added) in enumerate(edits):
        start = min(start, len(lines))
        new = [f"# {who} {number}.{i}" for i in range(added)]
        lines[start : start + removed] = new
    return lines


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(user=edits, upstream=edits, crlf=st.booleans(), final=st.booleans())
def test_no_line_is_lost(
    publish: Publish,
    user: list[tuple[int, int, int]],
    upstream: list[tuple[int, int, int]],
    crlf: bool,
    final: bool,
) -> None:
    base = [f"x{i} = {i}" for i in range(12)]
    new = edited(base, upstream, "upstream")
    publish("0.1.0", {"vision/boxes": "\n".join(base) + "\n"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.py"
        whole = edited(library.copy_of("vision/boxes").splitlines(), user, "user")
        header = [line for line in whole if line.startswith("# runnable-dl:")]
        if not header:
            return  # the user took the header out: no copy any more
        text = ("\r\n" if crlf else "\n").join(whole) + "\n" * final
        path.write_bytes(text.encode())
        copy = Copy.read(path)
        assert copy
        publish("0.2.0", {"vision/boxes": "\n".join(new) + "\n"})
        merged, conflict = copies.merge(copy, "\n".join(base) + "\n")
        after = copy.with_text(merged).decode()
        path.write_bytes(after.encode())
        again = Copy.read(path)
    assert again and again.digest == digest(library.body("vision/boxes"))
    assert crlf or "\r" not in after
    lines = after.replace("\r\n", "\n").splitlines()
    mine = [line for line in whole if line.startswith("# user")]
    theirs = [line for line in new if line.startswith("# upstream")]
    for wanted in (mine, theirs):
        assert [line for line in lines if line in wanted] == wanted, "all, in their order, once"
    assert conflict == bool(again.conflict)
    mine, theirs = set(whole), set(new)
    if not conflict:
        for line in base:  # a line stays unless somebody took it out
            assert (line in lines) == (line in mine and line in theirs), line
    else:
        assert not [line for line in base if line in mine and line in theirs and line not in lines]


# Faults ---------------------------------------------------------------------------

CALLS = ("open", "replace", "mkdir", "fsync", "chmod", "fdopen")


class Fault:
    """Lets the n-th of the calls that write fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
        self.left = number
        self.error = error
        for name in CALLS:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise self.error
            return call(*arguments, **named)

        return wrapped


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("what", ["add", "add --force", "update"])
def test_a_fault_at_any_write_leaves_the_old_state(
    run: Callable[..., int],
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    what: str,
) -> None:
    if what != "add":
        run("add", "detector", "--to", "my/layers")
        Path("my/layers/nms.py").chmod(0o640)
        with Path("my/layers/nms.py").open("a") as file:
            file.write("# mine\n")
    if what == "update":
        newer = BOXES.replace("1e-9", "1e-12")
        publish("0.2.0", {"vision/boxes": newer, "vision/nms": NMS.replace("best", "top")})
    names = [] if what == "update" else ["detector", "--to", "my/layers"]
    before = tree(Path())
    for number in range(1, 1000):
        with monkeypatch.context() as patch:
            fault = Fault(patch, number, error)
            code = run(*what.split()[:1], *names, *what.split()[1:])
        if fault.left > 0:
            break
        assert code == (130 if isinstance(error, KeyboardInterrupt) else 3), number
        assert tree(Path()) == before, f"fault {number}"
        assert what != "add" or not Path("my").exists()
    assert number > 5 and code == 0
    assert tree(Path()) != before
    assert not [path for path in tree(Path()) if Path(path).name.startswith(".")]
    assert Path(f"my/layers/{STORE}/README").is_file()
