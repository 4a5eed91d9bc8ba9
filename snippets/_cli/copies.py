"""The copies in somebody's project: found by their headers, compared, merged, written.

`.runnable-dl/` beside the copies keeps each version as it was copied, by digest: the base of a
later merge.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from snippets._cli import library
from snippets._cli.library import Refused, digest
from snippets._cli.words import t

STORE = ".runnable-dl"
NOTE = (
    "The copied snippets as they were when copied. `runnable-dl update` needs them to tell your\n"
    "edits from later corrections: keep this folder, and commit it.\n"
    "代码片段复制时的原样。`runnable-dl update` 靠它分辨你的修改与后来的更正：\n"
    "请保留并提交这个目录。\n"
)
HEADER = re.compile(
    r"^# runnable-dl: (?P<name>\w+/\w+) (?P<release>\S+) sha256:(?P<digest>[0-9a-f]{16})"
    r"(?P<single> single-file)?[ \t]*\n(?:# Page: .*\n)?(?P<papers>(?:# Paper: https?://\S+\n)*)"
    rf"(?:# SPDX-FileCopyrightText: \d{{4}} {library.HOLDER}\n)?"
    r"(?:# SPDX-License-Identifier: MIT\n)?\n?",
    re.MULTILINE,
)
CONFLICT = re.compile(r"^<{7} yours$", re.MULTILINE)


@dataclass
class Copy:
    """A file with our header; `text` is what stands below and above it, with plain line ends."""

    path: Path
    raw: bytes
    name: str
    release: str
    digest: str  # of the version that was copied
    single: bool
    text: str

    @classmethod
    def read(cls, path: Path) -> "Copy | None":
        raw = path.read_bytes()
        text = raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff").replace("\r\n", "\n")
        match = HEADER.search(text)
        if not match or re.search(r"^[^#\n]", text[: match.start()], re.MULTILINE):
            return None  # below code it is a text that quotes a header
        rest = text[: match.start()] + text[match.end() :]
        # Papers that the code does not name are the user's lines.
        papers = match["papers"].splitlines(keepends=True)
        rest = "".join(p for p in papers if p.split()[-1] not in rest) + rest
        single = bool(match["single"])
        return cls(path, raw, match["name"], match["release"], match["digest"], single, rest)

    @property
    def edited(self) -> bool:
        return digest(self.text) != self.digest

    @property
    def conflict(self) -> int:
        """The line of the first mark of a conflict, 0 without one."""
        text = self.raw.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        match = CONFLICT.search(text)
        return text.count("\n", 0, match.start()) + 1 if match else 0

    @property
    def older(self) -> bool:
        """Whether this tool is older than the copy."""
        mine, its = (re.findall(r"\d+", number) for number in (library.release(), self.release))
        return [*map(int, mine)] < [*map(int, its)]

    @property
    def known(self) -> bool:
        """Whether the snippet still exists."""
        return self.name in library.library()

    @cached_property
    def new(self) -> str:
        return library.body(self.name, self.single)

    @property
    def current(self) -> bool:
        return digest(self.new) == self.digest

    def base(self, stores: list[Path]) -> str | None:
        """The version that was copied, if it can be found."""
        near = [parent / STORE for parent in self.path.resolve().parents]
        for store in [*near, *stores]:
            file = store / f"{self.digest}.txt"
            if file.is_file():
                text = file.read_text("utf-8", "replace")
                if digest(text) == self.digest:
                    return text
        return self.new if self.known and self.current else None

    def with_text(self, text: str) -> bytes:
        """The file with a new text and header, its line ends and byte order mark as they were."""
        text = text.rstrip("\n") + "\n" * (not self.text or self.text.endswith("\n"))
        first = re.match(r"(?:#!.*\n)?(?:#.*coding[:=].*\n)?", text)
        start = first.end() if first else 0
        text = text[:start] + library.header(self.name, self.single) + text[start:]
        if self.raw.count(b"\r\n") * 2 > self.raw.count(b"\n"):
            text = text.replace("\n", "\r\n")
        bom = b"\xef\xbb\xbf" * self.raw.startswith(b"\xef\xbb\xbf")
        return bom + text.encode("utf-8", "surrogateescape")


def find(root: Path) -> tuple[list[Copy], list[Path]]:
    """The copies below a folder, links not followed, and the folders that keep their versions."""
    found: list[Copy] = []
    stores: list[Path] = []
    for folder, names, files in os.walk(root):
        here = Path(folder)
        if STORE in names:
            stores.append(here / STORE)
        names[:] = sorted(n for n in names if not _skipped(here / n))
        for path in sorted(here / file for file in files if file.endswith(".py")):
            if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                continue
            with path.open("rb") as file:
                if b"# runnable-dl: " not in file.read(8192):
                    continue
            if copy := Copy.read(path):
                found.append(copy)
    return found, stores


def _skipped(folder: Path) -> bool:
    name = folder.name
    noise = name in ("node_modules", "__pycache__", "site-packages")
    return noise or name.startswith(".") or (folder / "pyvenv.cfg").exists()


# Merging --------------------------------------------------------------------------


def merge(copy: Copy, base: str) -> tuple[str, bool]:
    """Your text with the changes from base to new worked in, and whether they are in conflict.

    By `git merge-file`, whose outcome people know from their daily work; it needs no repository.
    """
    git = shutil.which("git")
    if not git:
        message = t("needs git to merge your edits; install it", "合并你的修改需要 git，请先安装")
        raise Refused(f"{copy.path}: {message}")
    with tempfile.TemporaryDirectory() as folder:
        texts = {"yours": copy.text, "base": base, "new": copy.new}
        for name, text in texts.items():
            plain = text.rstrip("\n") + "\n"
            (Path(folder) / name).write_bytes(plain.encode("utf-8", "surrogateescape"))
        labels = ["-L", "yours", "-L", "base", "-L", f"{copy.name} {library.release()}"]
        command = [git, "-c", "merge.conflictStyle=merge", "merge-file", "-p", *labels, *texts]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, check=False
        )
    merged = done.stdout.decode("utf-8", "surrogateescape")
    conflict = bool(CONFLICT.search(merged))
    # The exit code is the number of conflicts; a git that does not work may end with any.
    if not 0 <= done.returncode <= 127 or conflict != (done.returncode > 0) or not merged.strip():
        said = done.stderr.decode(errors="replace").strip()
        raise Refused(f"{copy.path}: git merge-file: {said or done.returncode}")
    return merged, conflict


# Writing --------------------------------------------------------------------------


def store(folder: Path, text: str) -> dict[Path, bytes]:
    """What keeps a version."""
    files = {folder / STORE / f"{digest(text)}.txt": text.encode()}
    if not (folder / STORE / "README").exists():
        files[folder / STORE / "README"] = NOTE.encode()
    return files


def write(
    files: dict[Path, bytes],
    root: Path,
    expected: dict[Path, bytes | None],
    dry_run: bool = False,
) -> None:
    """Write all files or none: on any error, Ctrl+C too, everything is again as it was.

    Each file is replaced in one step, so that even a power cut leaves each either old or new; first
    come the versions that a later merge needs.

    Args:
        files: what is to stand where.
        root: all of them have to be below it.
        expected: what stands there now, None for nothing; somebody may be editing.
        dry_run: only look whether it could be done.

    Raises:
        Refused: a file is a link or lies behind one that leads out of root, is read-only, or is not
            as expected.
    """
    files = {p: c for p, c in files.items() if not (p.is_file() and p.read_bytes() == c)}
    files = {p: files[p] for p in sorted(files, key=lambda p: STORE not in p.parts)}
    for path in files:
        _check(path, root)
    if dry_run:
        return
    made: list[Path] = []  # folders, outermost first
    drafts: dict[Path, Path] = {}
    backups: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            for folder in reversed([p for p in path.parents if not p.exists()]):
                made.append(folder)
                folder.mkdir()
            drafts[path] = _draft(path, content)
            if path.exists():
                backups[path] = _draft(path, path.read_bytes())
        for path, draft in drafts.items():
            now = path.read_bytes() if path.exists() else None
            if now != expected.get(path, now):
                raise Refused(t(f"{path} has just been changed", f"{path} 刚刚被改动过"))
            draft.replace(path)
    except BaseException as error:
        with _undisturbed():
            _roll_back(drafts, backups, made)
        if isinstance(error, OSError):
            raise Refused(f"{error.filename or ''}: {error.strerror or error}") from error
        raise
    with _undisturbed():
        _remove(list(backups.values()))


def _roll_back(drafts: dict[Path, Path], backups: dict[Path, Path], made: list[Path]) -> None:
    for path, draft in drafts.items():
        if draft.exists():
            continue  # it has not been put in place
        with suppress(OSError):
            if path in backups:
                backups[path].replace(path)
            else:
                path.unlink()
    _remove([*drafts.values(), *backups.values()])
    for folder in reversed(made):
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _undisturbed() -> Generator[None, None, None]:
    """Let Ctrl+C and the like wait."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove(files: list[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()


def _draft(path: Path, content: bytes) -> Path:
    """The content in a file beside the path, with the rights that the path has."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent.resolve())
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
        else:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        draft.chmod(mode)
    except BaseException:
        draft.unlink()
        raise
    return draft


def _check(path: Path, root: Path) -> None:
    if path.is_symlink():
        raise Refused(t(f"{path} is a symbolic link", f"{path} 是符号链接"))
    if not path.parent.resolve().is_relative_to(root.resolve()):
        message = t(f"{path} leads out of {root}", f"{path} 通向 {root} 之外")
        raise Refused(message)
    if path.exists() and not path.is_file():
        raise Refused(t(f"{path} is not a file", f"{path} 不是文件"))
    if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
        raise Refused(t(f"{path} is read-only", f"{path} 是只读的"))
