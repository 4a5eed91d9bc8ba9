"""The commands behind `make`.

python -m hooks build [FOLDER]   both languages into FOLDER (site)
python -m hooks serve            both on one port, rebuilt and reloaded on every edit
python -m hooks figures [WORD]   draw the figures whose script's path contains WORD
python -m hooks stale [OPTIONS]  the sections that lag behind the other language; see --help
python -m hooks new SECTION NAME [TITLE] [TITLE IN CHINESE]
                                 write the files of a new concept
python -m hooks check [PATH …]   the rules of the house, for all or for what the paths belong to
python -m hooks fix              mend what a machine can
python -m hooks release          note the snippets' versions as published in the present release
python -m hooks status [--mixed] what the tests have found, into docs/status.json; --mixed: even if
                                 not in one run
"""

import gc
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["NO_MKDOCS_2_WARNING"] = "1"  # the theme's notice on every start

from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, MkDocsException
from mkdocs.livereload import LiveReloadServer

from hooks import DOCS, LANGUAGES, ROOT, SNIPPETS, content
from hooks.contribute import check, mend, new, stale
from snippets._cli import library

CONFIG = {"en": ROOT / "mkdocs.yml", "zh": ROOT / "mkdocs.zh.yml"}
SHARED = [
    *CONFIG.values(),
    *(DOCS / name for name in ("assets", "labs", "glossary.yml", "status.json")),
    SNIPPETS,
    ROOT / "overrides",
]


def build(folder: str = "site") -> None:
    """English at the root, Chinese below zh/; what stood there goes once both are done."""
    target = Path(folder).resolve()
    if target.is_dir() and any(target.iterdir()) and not (target / "llms.txt").is_file():
        sys.exit(f"{target} holds something else than a site; name a new or an empty folder")
    with _draft(target) as draft:
        for lang in LANGUAGES:
            _build(lang, draft if lang == "en" else draft / lang)
    print(f"The site is in {target}")


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A folder that takes the place of the target, unless something goes wrong."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        draft = Path(folder) / "new"
        draft.mkdir()
        yield draft
        if target.exists():
            target.rename(Path(folder) / "old")
        draft.rename(target)


def _build(
    lang: str, target: Path, command: str = "build", partly: bool = False, **settings: object
) -> None:
    """Build one language; partly: only the pages that are newer than what was built."""
    start = time.perf_counter()
    gc.disable()  # a build makes much and drops little; the collector takes a tenth of the time
    try:
        config = load_config(str(CONFIG[lang]), site_dir=str(target), strict=not partly, **settings)
        config.plugins.on_startup(command=command, dirty=partly)
        mkdocs_build(config, dirty=partly)
        config.plugins.on_shutdown()
    finally:
        gc.enable()
    count = len(content.pages(lang))
    pages = f"what changed of {count} pages" if partly else f"{count} pages"
    print(f"{lang}: {pages} in {time.perf_counter() - start:.1f} s", flush=True)


class Preview:
    """Builds what has changed since it last looked; after a mistake, the last good state stays."""

    def __init__(self, root: Path, url: str) -> None:
        self.folders = {"en": root / "en", "zh": root / "zh"}
        self.url = url
        self.hooks = _changed(ROOT / "hooks")
        self.shared: dict[str, object] = {}
        self.texts: dict[str, float] = {}

    def __call__(self) -> None:
        if self.hooks != _changed(ROOT / "hooks"):
            print("hooks/ has changed: starting again", flush=True)
            shutil.rmtree(self.folders["en"].parent)
            os.execv(sys.executable, [sys.executable, "-m", "hooks", "serve"])
        try:
            self._update()
        except (Abort, MkDocsException) as error:
            print(f"Error: {error}\nThe preview stays as it was.", file=sys.stderr, flush=True)
        except Exception:
            traceback.print_exc()

    def _update(self) -> None:
        # What more than one page shows: all of it, save the text of the pages.
        shared = (max(map(_changed, SHARED)), content.outline())
        for lang, folder in self.folders.items():
            text = _changed(DOCS / lang)
            # An address of its own keeps canonical links from pointing at the published site.
            if shared != self.shared.get(lang):
                with _draft(folder) as draft:
                    _build(lang, draft, "serve", site_url=self.url)
            elif text != self.texts[lang]:
                _build(lang, folder, "serve", partly=True, site_url=self.url)
            self.shared[lang], self.texts[lang] = shared, text
            link = self.folders["en"] / "zh"
            if not link.is_symlink():  # with a new folder it is gone
                link.symlink_to(self.folders["zh"], target_is_directory=True)

    def missing(self, code: int) -> bytes | None:
        """What the server answers where there is no page."""
        page = self.folders["en"] / "404.html"
        if code == 404:
            return page.read_bytes() if page.is_file() else b"The build failed; see the terminal."
        return None


def _changed(path: Path) -> float:
    """When anything below a path last changed, deletions included."""
    names = (p for p in [path, *path.rglob("*")] if "__pycache__" not in p.parts)
    # A hidden name is an editor's; a file may be gone by now.
    paths = (p for p in names if not p.name.startswith(".") and p.exists())
    return max((p.stat().st_mtime for p in paths), default=0)


def serve() -> None:
    host, port = "127.0.0.1", os.environ.get("PORT", "8000")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        sys.exit(f"PORT must be a number from 1 to 65535, not {port!r}")
    url = f"http://{host}:{port}/"
    try:
        socket.create_server((host, int(port))).close()  # sooner than after the build
    except OSError as error:
        sys.exit(f"Cannot listen on {url}: {error.strerror}. Try: PORT=8001 make serve")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the folder below goes in any case
    with tempfile.TemporaryDirectory(prefix="runnable-dl-") as folder:
        preview = Preview(Path(folder), url)
        preview.folders["en"].mkdir()
        root = str(preview.folders["en"])
        server = LiveReloadServer(preview, host, int(port), root=root, polling_interval=0.2)
        preview()
        server.error_handler = preview.missing
        for path in [*SHARED, ROOT / "hooks", *(DOCS / lang for lang in LANGUAGES)]:
            if path.exists():
                server.watch(str(path))
        addresses = f"  English  {url}\n  中文     {url}zh/\n"
        print(f"\n{addresses}\n  An edit reloads the page; Ctrl+C ends.\n", flush=True)
        try:
            server.serve()
        except KeyboardInterrupt:
            pass
        finally:
            server.shutdown()


def figures(only: str = "") -> None:
    from hooks.figures import draw_all  # here, for matplotlib takes a third of a second

    draw_all(only)


def status(option: str = "") -> None:
    from hooks.status import write  # here, for it looks at the benchmarks

    write(option)


def release() -> None:
    known = library.releases()
    known[library.release()] = {name: library.versions(name) for name in library.library()}
    library.RELEASES.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    print(f"{len(library.library())} snippets are noted as published in {library.release()}")


def main(command: str = "", *args: str) -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    # The preview builds in full what a dirty build would get wrong.
    logging.getLogger("mkdocs.commands.build").addFilter(lambda r: "'dirty'" not in r.getMessage())
    commands = {"build": build, "serve": serve, "figures": figures, "release": release}
    commands |= {"new": new.main, "check": check.main, "fix": mend.main}
    commands |= {"stale": stale.main, "status": status}
    most = {"build": 1, "figures": 1, "status": 1, "new": 4, "check": len(args), "stale": len(args)}
    if command not in commands or len(args) > most.get(command, 0):
        sys.exit(__doc__)
    try:
        commands[command](*args)
    except (Abort, MkDocsException) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
