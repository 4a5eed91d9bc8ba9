"""The commands behind `make`.

python -m hooks build [FOLDER]   both languages into FOLDER (site)
python -m hooks serve            both on one port, rebuilt and reloaded on every edit
python -m hooks figures [WORD]   draw the figures whose script's path contains WORD
"""

import gc
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

from hooks import DOCS, LANGUAGES, ROOT, SNIPPETS, content, figures

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


def _build(
    lang: str, target: Path, command: str = "build", partly: bool = False, **settings: object
) -> None:
    """Build one language; partly: only the pages that are newer than what was built."""
    start = time.perf_counter()
    gc.disable()  # a build makes much and drops little; the collector takes a tenth of the time
    config = load_config(str(CONFIG[lang]), site_dir=str(target), strict=not partly, **settings)
    # What it has of the other pages would be lost.
    config.plugins["material/search"].config.enabled = not partly
    config.plugins.on_startup(command=command, dirty=partly)
    mkdocs_build(config, dirty=partly)
    config.plugins.on_shutdown()
    gc.enable()
    count = len(list((DOCS / lang).rglob("*.md")))
    pages = f"what changed of {count} pages" if partly else f"{count} pages"
    print(f"{lang}: {pages} in {time.perf_counter() - start:.1f} s", flush=True)


class Preview:
    """Builds what has changed since it last looked."""

    def __init__(self, root: Path, url: str) -> None:
        self.folders = {"en": root / "en", "zh": root / "zh"}
        self.url = url
        self.shared: dict[str, object] = {}
        self.texts: dict[str, float] = {}

    def __call__(self) -> None:
        # What more than one page shows: all of it, save the text of the pages.
        shared = (max(map(_changed, SHARED)), content.outline())
        for lang, folder in self.folders.items():
            text = _changed(DOCS / lang)
            partly = shared == self.shared.get(lang)
            if not partly or text != self.texts.get(lang):
                # An address of its own keeps canonical links from pointing at the published site.
                _build(lang, folder, "serve", partly, site_url=self.url)
                self.shared[lang], self.texts[lang] = shared, text
        link = self.folders["en"] / "zh"
        if not link.exists():  # the English build has emptied its folder
            link.symlink_to(self.folders["zh"], target_is_directory=True)


def _changed(path: Path) -> float:
    """When anything below a path last changed, deletions included."""
    paths = (p for p in [path, *path.rglob("*")] if "__pycache__" not in p.parts and p.exists())
    return max((p.stat().st_mtime for p in paths), default=0)


def serve() -> None:
    host, port = "127.0.0.1", int(os.environ.get("PORT", "8000"))
    url = f"http://{host}:{port}/"
    with tempfile.TemporaryDirectory(prefix="runnable-dl-") as folder:
        preview = Preview(Path(folder), url)
        preview()
        server = LiveReloadServer(
            preview, host, port, root=str(preview.folders["en"]), polling_interval=0.2
        )
        server.error_handler = lambda code: (
            (preview.folders["en"] / "404.html").read_bytes() if code == 404 else None
        )
        for path in [*SHARED, *(DOCS / lang for lang in LANGUAGES)]:
            if path.exists():
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
    # The preview builds in full what a dirty build would get wrong.
    logging.getLogger("mkdocs.commands.build").addFilter(lambda r: "'dirty'" not in r.getMessage())
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
