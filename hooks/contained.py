"""Running what a contributor wrote, so that what is careless does no harm: labs, figure scripts.

Both see of the environment only what they need, have a home of their own that goes afterwards, and
must come to an end. A figure script moreover may write in that home only, start no program and call
no one; what it draws is written by us, to the files that are its own.

This is no sandbox. Code has the rights of whoever runs it: it can read any file of theirs, and who
means to can get around an audit hook, or read the environment of the parent process. A lab can also
write and call out. Snippets, their tests and the code on pages are run by pytest as they are. So
run a stranger's branch only on a machine that holds no secret and is thrown away afterwards, which
is how the checks of pull requests run.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hooks import CACHE, ROOT

NEEDED = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TRITON_INTERPRET"),
)
SECONDS = 900  # for a lab or a figure script; they take one or two minutes
FONTS = CACHE / "matplotlib"


def environment(home: Path) -> dict[str, str]:
    """What code of a contributor sees of ours."""
    kept = {name: os.environ[name] for name in NEEDED if name in os.environ}
    kept |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    kept |= {"PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(FONTS)}
    if not FONTS.is_dir():  # matplotlib looks for fonts once, and says so where a lab may not warn
        FONTS.mkdir(parents=True)
        command = [sys.executable, "-c", "import matplotlib.font_manager"]
        subprocess.run(command, env=kept, capture_output=True, check=False)
    return kept


def limit() -> None:
    """Limit this process and those it starts; not its address space, which PyTorch reserves."""
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS * (os.cpu_count() or 1)),
        (resource.RLIMIT_DATA, 16 << 30),
        (resource.RLIMIT_FSIZE, 1 << 30),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


# Figure scripts -------------------------------------------------------------------------

CHANGES = {
    f"os.{word}"
    for word in (
        *("chflags", "chmod", "chown", "link", "mkdir", "remove", "removexattr", "rename"),
        *("rmdir", "setxattr", "symlink", "truncate", "utime"),
    )
} | {"sqlite3.connect", "shutil.rmtree"}
STARTS = {
    "subprocess.Popen",
    "pty.spawn",
    *(f"os.{word}" for word in ("exec", "fork", "forkpty", "posix_spawn", "spawn", "system")),
    *("os.kill", "os.killpg", "signal.pthread_kill"),
}
CALLS = {f"socket.{word}" for word in ("bind", "connect", "getaddrinfo", "sendto", "sendmsg")}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(home: Path, refused: Callable[[str], None]) -> None:
    """Let this process write below `home` only, start nothing and call no one, from now on."""
    root = os.path.realpath(home)

    def outside(path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False  # a file that is open already
        real = os.path.realpath(os.fsdecode(path))
        return real != os.devnull and os.path.commonpath([real, root]) != root

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            paths = args[:1] if args[2] & WRITING else ()
        elif event in CHANGES:
            paths = args[:2] if event in ("os.link", "os.rename", "os.symlink") else args[:1]
        elif event in STARTS or event in CALLS:
            what = "starts a program" if event in STARTS else "calls out"
            refused(what)
            raise PermissionError(f"a figure script {what}")
        else:
            return
        for path in paths:
            if outside(path):
                what = f"writes {os.fsdecode(path)}"
                refused(what)
                raise PermissionError(f"a figure script {what}")

    sys.addaudithook(hook)
