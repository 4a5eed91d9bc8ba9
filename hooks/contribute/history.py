"""The versions of the pages, from git: what stood in both languages after each commit."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from hooks import LANGUAGES, ROOT
from hooks.text import read

UNCOMMITTED = "not committed yet"
FOLDERS = tuple(f"docs/{lang}" for lang in LANGUAGES)
RAW = ("--raw", "--no-abbrev", "-M")  # -M finds renames
LINE = re.compile(
    r":\d+ \d+ \w+ (?P<blob>\w+) (?P<status>[A-Z])\d*\t(?P<old>[^\t]+\.md)(?:\t(?P<new>.+\.md))?$"
)

# What a commit did: by path, the path before (another one if it was renamed) and the blob, which is
# empty where the file was deleted.
Changes = dict[str, tuple[str, str]]


class Unknown(Exception):
    """Why the history cannot be known, and the remedy."""


@dataclass(frozen=True)
class Commit:
    """When a page changed, and what the author says of it."""

    id: str  # short; empty for the working tree
    day: str
    subject: str


@dataclass(frozen=True)
class State:
    """A page in both languages after a commit; None where it did not exist."""

    commit: Commit
    texts: dict[str, str | None]


def git(root: Path, *args: str, stdin: bytes = b"") -> bytes:
    settings = ("color.ui=false", "log.showSignature=false")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), *args]
    try:
        result = subprocess.run(command, cwd=root, input=stdin, capture_output=True, check=False)
    except FileNotFoundError:
        raise Unknown("git is not installed; install it") from None
    if result.returncode:
        said = result.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise Unknown(f"git {args[0]} fails ({said}); run it by hand to see why")
    return result.stdout


def check(root: Path = ROOT) -> None:
    """Raise Unknown unless the whole history is here."""
    try:
        answer = git(root, "rev-parse", "--show-toplevel", "--is-shallow-repository")
    except Unknown as error:
        message = "no repository that git can read, as in an unpacked archive; clone the project"
        raise Unknown(f"{message} ({error})") from None
    top, shallow = answer.decode().splitlines()
    if not Path(top).samefile(root):  # an archive unpacked inside something else
        raise Unknown(f"the repository here is that of {top}; clone the project")
    if shallow != "false":
        raise Unknown("the clone is shallow, its history cut off; run git fetch --unshallow")


def resolve(revision: str, root: Path = ROOT) -> str:
    """The full id of a commit."""
    try:
        found = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^0")
    except Unknown:
        raise Unknown(f"no commit '{revision}' here; name another, or fetch it first") from None
    return found.decode().strip()


def timelines(start: str, today: date, root: Path = ROOT) -> Iterator[tuple[str, list[State]]]:
    """Each page ("attention/gpt") that is here in both languages, with its states, oldest first.

    They lead to the commit `start`, and in one last step from there to the working tree, staged or
    not. A merge is one step as well: all that it brought.
    """
    log, texts = _log(start, root)
    moved = _changes(git(root, "diff", *RAW, start, "--", *FOLDERS).decode())
    folders = {lang: root / "docs" / lang for lang in LANGUAGES}
    names = ({p.relative_to(f).as_posix() for p in f.rglob("*.md")} for f in folders.values())
    for name in sorted(set.intersection(*names)):
        versions = {}
        for lang in LANGUAGES:
            path = f"docs/{lang}/{name}"
            before, _ = moved.get(path, (path, ""))
            versions[lang] = dict(_versions(log, before))
        state: dict[str, str | None] = dict.fromkeys(LANGUAGES)
        states = []
        for at in sorted({at for found in versions.values() for at in found}, reverse=True):
            for lang, found in versions.items():
                if at in found:
                    state[lang] = texts.get(found[at])
            states.append(State(log[at][0], state.copy()))
        here: dict[str, str | None] = {lang: read(folders[lang] / name) for lang in LANGUAGES}
        yield name.removesuffix(".md"), [*states, State(Commit("", str(today), UNCOMMITTED), here)]


def _versions(log: list[tuple[Commit, Changes]], path: str) -> Iterator[tuple[int, str]]:
    """The commits that changed a file, newest first, and its blob after each."""
    for at, (_, changes) in enumerate(log):
        if path in changes:
            path, blob = changes[path]
            yield at, blob


@cache
def _log(start: str, root: Path) -> tuple[list[tuple[Commit, Changes]], dict[str, str]]:
    """The commits that touched a page, newest first, and the texts of all blobs."""
    form = "--format=%x00%H%x09%cs%x09%s"
    out = git(root, "log", "--first-parent", "-m", *RAW, form, start, "--", *FOLDERS)
    log = []
    for part in out.decode("utf-8", "replace").split("\0")[1:]:
        head, _, rest = part.partition("\n")
        id, day, subject = head.split("\t", 2)
        subject = "".join(filter(str.isprintable, subject))  # a terminal obeys some of the rest
        log.append((Commit(id[:7], day, subject), _changes(rest)))
    ids = sorted({blob for _, changes in log for _, blob in changes.values() if blob})
    return log, dict(zip(ids, _texts(ids, root), strict=True))


def _changes(raw: str) -> Changes:
    found = {}
    for line in raw.splitlines():
        if match := LINE.match(line):
            before, path = match["old"], match["new"] or match["old"]
            if before[:8] != path[:8]:  # docs/en/, docs/zh/: alike, and yet not the same file
                found[before] = (before, "")
                before = path
            found[path] = (before, "" if match["status"] == "D" else match["blob"])
    return found


def _texts(ids: list[str], root: Path) -> Iterator[str]:
    out = git(root, "cat-file", "--batch", stdin="".join(f"{i}\n" for i in ids).encode())
    at = 0
    for blob in ids:
        end = out.index(b"\n", at)
        kind = out[at:end].split()
        if kind[1] != b"blob":
            raise Unknown(f"git lacks the object {blob}; run git fetch --refetch")
        at = end + 1 + int(kind[2])
        yield out[end + 1 : at].decode("utf-8-sig", "replace").replace("\r\n", "\n")
        at += 1
