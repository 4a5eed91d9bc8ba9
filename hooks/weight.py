"""What keeps pages light: blank space, comments and what no page uses are left out."""

import re
import shutil
from pathlib import Path


def squeeze(html: str) -> str:
    """Drop the blank space of the templates; what stands in <pre> is the reader's."""
    parts = re.split(r"(<pre.*?</pre>)", html, flags=re.DOTALL)
    parts[::2] = ["\n".join(filter(None, map(str.strip, p.splitlines()))) for p in parts[::2]]
    return "".join(parts)


def asset(file: Path) -> str:
    """A style sheet or script of ours, without comments and indentation."""
    text = file.read_text("utf-8")
    comment = r"/\*.*?\*/" if file.suffix == ".css" else r"^\s*//.*?$"
    text = re.sub(comment, "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\n\s*", "\n", text).strip() + "\n"


def trim_theme(site: Path) -> None:
    """Remove what the theme brings and no page asks for."""
    for folder in ("javascripts/lunr", "javascripts/workers", "images"):  # its search and icon
        shutil.rmtree(site / "assets" / folder)
    for unused in [*site.rglob("*.map"), site / "sitemap.xml.gz"]:
        unused.unlink(missing_ok=True)
    for palette in (site / "assets/stylesheets").glob("palette.*.css"):
        colours = r"\[data-md-color-(?:primary|accent)=[^{]*\{[^}]*\}"  # site.css has our own
        palette.write_text(re.sub(colours, "", palette.read_text("utf-8")), "utf-8")
