"""The commands behind `make`.

python -m hooks build [FOLDER]   both languages into FOLDER (site)
python -m hooks serve            both on one port, rebuilt and reloaded on every edit
python -m hooks figures [WORD]   draw the figures whose script's path contains WORD
"""

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["NO_MKDOCS_2_WARNING"] = "1"  # the theme's notice on every start

import jieba
from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, MkDocsException
from mkdocs.livereload import LiveReloadServer

from hooks import DOCS, LANGUAGES, ROOT, SNIPPETS, figures

CONFIG = {"en": ROOT / "mkdocs.yml", "zh": ROOT / "mkdocs.zh.yml"}
SHARED = [
    *CONFIG.values(),
    *(DOCS / name for name in ("assets", "labs", "glossary.yml")),
    SNIPPETS,
    ROOT / "hooks",
    ROOT / "overrides",
]


def build(folder: str = "site") -> None:
    """English at the root, Chinese below zh/; each build empties its own folder first."""
    target = Path(folder).resolve()
    for lang in LANGUAGES:
        _build(lang, target if lang == "en" else target / lang)
    print(f"The site is in {target}")


def _build(lang: str, target: Path, command: str = "build", **settings: object) -> None:
    start = time.perf_counter()
    config = load_config(str(CONFIG[lang]), site_dir=str(target), **settings)
    config.plugins.on_startup(command=command, dirty=False)
    mkdocs_build(config)
    config.plugins.on_shutdown()
    pages = len(list((DOCS / lang).rglob("*.md")))
    print(f"{lang}: {pages} pages in {time.perf_counter() - start:.1f} s", flush=True)


class Preview:
    """Builds what has changed since it last looked."""

    def __init__(self, root: Path, url: str) -> None:
        self.folders = {"en": root / "en", "zh": root / "zh"}
        self.url = url
        self.seen: dict[str, float] = {}

    def __call__(self) -> None:
        for lang, folder in self.folders.items():
            now = max(_changed(path) for path in [*SHARED, DOCS / lang])
            if now != self.seen.get(lang):
                # An address of its own keeps canonical links from pointing at the published site.
                _build(lang, folder, "serve", site_url=self.url)
                self.seen[lang] = now
        link = self.folders["en"] / "zh"
        if not link.exists():  # the English build has emptied its folder
            link.symlink_to(self.folders["zh"], target_is_directory=True)


def _changed(path: Path) -> float:
    """When anything below a path last changed, deletions included."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max(p.stat().st_mtime for p in paths if "__pycache__" not in p.parts)


def serve() -> None:
    host, port = "127.0.0.1", int(os.environ.get("PORT", "8000"))
    url = f"http://{host}:{port}/"
    with tempfile.TemporaryDirectory(prefix="runnable-dl-") as folder:
        preview = Preview(Path(folder), url)
        preview()
        server = LiveReloadServer(preview, host, port, root=str(preview.folders["en"]))
        server.error_handler = lambda code: (
            (preview.folders["en"] / "404.html").read_bytes() if code == 404 else None
        )
        for path in [*SHARED, *(DOCS / lang for lang in LANGUAGES)]:
            server.watch(str(path))
        print(
            f"\n  English  {url}\n  中文     {url}zh/\n\n  An edit reloads the page; Ctrl+C ends.\n"
        )
        try:
            server.serve()
        except OSError as error:
            sys.exit(f"Cannot listen on {url}: {error.strerror}. Try: PORT=8001 make serve")
        except KeyboardInterrupt:
            pass
        finally:
            server.shutdown()


def main(command: str = "", *args: str) -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    jieba.setLogLevel(logging.WARNING)
    commands = {"build": build, "serve": serve, "figures": figures.draw_all}
    if command not in commands:
        sys.exit(__doc__)
    try:
        commands[command](*args)
    except (Abort, MkDocsException) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
