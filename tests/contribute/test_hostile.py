"""A careless or hostile contribution is refused, or does no harm.

Everything here is planted in a temporary folder. What a page may hold is checked twice: as it is
written, and as what Markdown made of it; each kind of attack must be caught by the second alone.
"""

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from markdown import Markdown
from mkdocs.exceptions import PluginError

from hooks import ROOT, contained, content, events, figures, formulas, glossary, labs, svg, text
from hooks.contribute import rules, safety
from snippets._cli import library

HEAD = "---\ntitle: Title\ndescription: What it is.\n---\n\n# Title\n\n"
BELOW = HEAD.count("\n") + 1  # the line on which what is planted stands


def texts(problems: Iterable[PluginError]) -> list[str]:
    return [str(problem) for problem in problems]


def page(tmp_path: Path, planted: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text(f"{HEAD}{planted}\n", "utf-8")
    return path


def render(planted: str) -> str:
    """By the extensions and settings of the site."""
    settings = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), yaml.BaseLoader)
    known = settings["markdown_extensions"]
    known["pymdownx.snippets"]["base_path"] = [str(ROOT / "snippets")]
    return Markdown(extensions=list(known), extension_configs=known).convert(planted)


# Pages ----------------------------------------------------------------------------------

HTML = [
    "<script>alert(1)</script>",
    "<ScRiPt src=x></sCrIpT>",
    'Text <img src=x onerror="alert(1)"> text.',
    "<svg onload=alert(1)></svg>",
    '<svg><a xlink:href="javascript:alert(1)"><text y="9">x</text></a></svg>',
    '<iframe src="https://example.org"></iframe>',
    '<object data="x.swf"></object>',
    '<form action="https://example.org"><input name="password"></form>',
    '<base href="https://example.org">',
    '<meta http-equiv="refresh" content="0;url=https://example.org">',
    "<style>body { display: none }</style>",
    '<div style="position: fixed; inset: 0">over all</div>',
    '<p style="background: url(https://example.org/x)">seen</p>',
    '<div markdown="1" onclick="alert(1)">\n\ntext\n\n</div>',
    "<math><mi//xlink:href=data:x,alert(1)>",
    "<!-- a note that no reader sees -->",
    "> <script>alert(1)</script>",
    "- item\n\n    <script>alert(1)</script>",
    '??? question "<script>alert(1)</script>"\n\n    text',
    "<!-- learning-path --> <script>alert(1)</script>",
    "<video\nsrc=x onerror=alert(1)\n>",
    # What ends a block of code: as many ` as began it, and nothing behind them.
    "```text\n```python\n```\n\n<script>alert(1)</script>\n\n```text\n```python\n```",
    "````text\n```\n````\n\n<script>alert(1)</script>\n\n````text\n````",
]
LINKS = [
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](javascript&#58;alert(1))",
    "[x](&#106;avascript&colon;alert(1))",
    "[x](java&#9;script:alert(1))",
    "[x]( javascript:alert(1))",
    "[x](data:text/html,hello)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "[x](//example.org/x)",
    "[x](\\\\example.org/x)",
    "[![seen](x.svg)](javascript:alert(1))",
    "![seen](https://example.org/x.png)",
    "![seen](//example.org/x.png)",
    '![seen](data:image/svg+xml,x "title")',
    "[x][y]\n\n[y]: javascript:alert(1)",
    "![x][y]\n\n[y]: https://example.org/x.png",
    "> [x][y]\n>\n> [y]: javascript:alert(1)",
    "<javascript:alert(1)>",
]
ATTRIBUTES = [
    "Text.\n{ onclick=alert(1) }",
    "Text.\n{: onmouseover=alert(1) }",
    "*Text*{ style=position:fixed }",
    "[x](https://example.org){ onfocus=alert(1) autofocus=1 }",
    "## Text { #__config }",
    "For 5$ more.\n\n## Text for 5$ { #text onclick=alert(1) }",
    "Text.\n{ .md-overlay }",
]


@pytest.mark.parametrize("planted", HTML + LINKS + ATTRIBUTES)
def test_a_page_with_script_or_what_it_could_load_is_refused(tmp_path: Path, planted: str) -> None:
    path = page(tmp_path, planted)
    found = texts(safety.page(path))
    assert found, "it passes"
    lines = range(BELOW, BELOW + planted.count("\n") + 1)
    assert all(int(re.match(rf"{path}:(\d+): .+", one)[1]) in lines for one in found), found


# What the site itself escapes, drops or has a class for.
HARMLESS = {
    "<!-- a note that no reader sees -->",
    "<javascript:alert(1)>",
    '??? question "<script>alert(1)</script>"\n\n    text',
    "[x](\\\\example.org/x)",
    "Text.\n{ .md-overlay }",
}


@pytest.mark.parametrize("planted", [p for p in HTML + LINKS + ATTRIBUTES if p not in HARMLESS])
def test_what_became_of_it_is_refused_too(tmp_path: Path, planted: str) -> None:
    assert texts(safety.rendered(render(planted), page(tmp_path, planted)))


@pytest.mark.parametrize(
    "html",
    [
        '<td style="position: fixed">x</td>',
        '<td style="text-align: left; position: fixed">x</td>',
        "<plaintext>",
        '<a href="https://example.org" style="text-align: left;">x</a>',
        "<p class='x'>x</p>",
        "<p onclick>x</p>",
        '<a href="x"onclick="x">x</a>',
        "<p",
        "<!-- x -->",
        '<!--figure ![x](y.svg)--><img src="x" onerror="x">-->',
    ],
)
def test_html_that_no_page_needs_is_refused(tmp_path: Path, html: str) -> None:
    assert texts(safety.rendered(html, page(tmp_path, "Text.")))


FOOLED = [
    # A fence for us, none for Markdown; pairs of ` across lines; a formula that is none.
    "``` python `\n\n<script>alert(1)</script>\n\n```",
    "a ` b\nc ` <script>alert(1)</script> ` d",
    "# \\_\\_config",
    "[x](\njavascript:alert(1))",
    "$ <img src=x onerror=alert(1)> $",
    "    <b>\n\n<script>\n    alert(1)\n</script>",
]


@pytest.mark.parametrize("planted", FOOLED)
def test_where_one_look_is_led_astray_the_other_sees_it(tmp_path: Path, planted: str) -> None:
    path = page(tmp_path, planted)
    assert texts(safety.page(path)) or texts(safety.rendered(render(planted), path))


GOOD = """\
Text with `<script>` in code, a formula $a < b$, ``a ` b``, [a link](https://example.org/a_(b)) and
[another](page.md#usage), 3 < 4 and a -> b, set $\\{1, 2\\}$.
{ .lead }

## Usage { #usage }

```html title="Page"
<script>alert(1)</script> { onclick=x } [x](javascript:x) `
```

<!--pytest-codeblocks:expected-output-->

```text
<b>
```

| a | b |
|:--|--:|
| 1 | $x_{i}$ |

??? question "Why?"

    Because.

$$
x_{1} < {y}
$$

![seen](../../assets/figures/a/b.en.svg "caption"){ widget=iou }

<!-- measured: speed gpu attention pass=forward D=128 -->
"""


def test_what_pages_hold_passes(tmp_path: Path) -> None:
    assert not texts(safety.page(page(tmp_path, GOOD)))
    assert not texts(safety.rendered(render(GOOD.partition("??? ")[0]), tmp_path))
    details = '<details class="question"><summary>Why?</summary>\n<p>Because.</p>\n</details>'
    assert not texts(safety.rendered(details, tmp_path))


def test_a_lone_mark_of_code_or_end_of_html_and_an_odd_fence_are_refused(tmp_path: Path) -> None:
    """What is code for these rules must be code for Markdown."""
    assert "without its partner" in texts(safety.page(page(tmp_path, "a ` b")))[0]
    assert "'</div>' is HTML" in texts(safety.page(page(tmp_path, "a </div> b")))[0]
    assert "code begins with" in texts(safety.page(page(tmp_path, "``` python `\n```")))[0]


def test_code_without_an_end_is_refused(tmp_path: Path) -> None:
    """It would hide the rest of the page from every rule."""
    path = page(tmp_path, "```python\nx = 1\n\n<script>alert(1)</script>")
    (found,) = texts(safety.page(path))
    assert f"{path}:{BELOW}: the code that begins here has no end" in found


@pytest.mark.parametrize(
    "field",
    [
        "title: a <b>b</b>",
        'description: say "x"',
        "tags: ['<img src=x onerror=alert(1)>', b]",
        "tags: ['&lt;img src=x&gt;']",
        "tags: ['[x](javascript:x)']",
        "title: '{{ config }}'",
        r'title: "a\u202eb"',
        r'title: "a\x00"',
        "title: '[x]: javascript:alert(1)'",
        "title: '![x][y]'",
    ],
)
def test_markup_in_front_matter_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"---\n{field}\n---\n# T\n", "utf-8")
    with pytest.raises(PluginError, match=":2: '.*' must be one line of plain text"):
        content.front_matter(path, "en")


@pytest.mark.parametrize("end", ["...", "--- "])
def test_front_matter_that_mkdocs_ends_sooner_is_refused(tmp_path: Path, end: str) -> None:
    """What follows would be the page's text, and no rule on pages looks at it."""
    path = tmp_path / "page.md"
    path.write_text(f"---\ntitle: T\n{end}\n# <script>\n---\n# T\n", "utf-8")
    with pytest.raises(PluginError, match=":3: .* ends the front matter for MkDocs"):
        content.front_matter(path, "en")


@pytest.mark.parametrize(
    "planted", [r"\rule{900em}{30em}", r"\kern-99.5em", r"\raisebox{-40em}{x}"]
)
def test_a_formula_stays_in_its_place(planted: str) -> None:
    assert "over the page" in formulas.render([(planted, False)])[0]["error"]


LINES = [
    "[",
    "](",
    "![](",
    "[](",
    "{#a",
    "{.",
    "<a",
    "<!--",
    "汉",
    "汉A",
    "--8<--",
    "[[]",
    "`a ``b ",
]


@pytest.mark.parametrize("planted", LINES)
def test_a_line_that_would_take_minutes_to_read_is_refused(tmp_path: Path, planted: str) -> None:
    path = page(tmp_path, planted * 40_000)
    with pytest.raises(PluginError, match=rf":{BELOW}: \d+ signs on one line"):
        list(safety.page(path))


def test_a_file_that_would_take_minutes_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=":1: 400107 signs; a file has 300000 at most"):
        text.read(page(tmp_path, "![\n" * 133_350))


@pytest.mark.parametrize(
    "planted", ["```a\n", "![\n", "](\n", "".join("`" * i + "\n" for i in range(9))]
)
def test_many_lines_are_read_in_seconds(tmp_path: Path, planted: str) -> None:
    path = page(tmp_path, planted * (200_000 // len(planted)))
    start = time.monotonic()
    text.sections(path)
    assert time.monotonic() - start < 5


def test_a_folder_or_a_dead_link_in_place_of_a_page_is_no_crash(docs: Path) -> None:
    (docs / "docs/en/a/folder.md").mkdir()
    dead = docs / "docs/en/a/dead.md"
    dead.symlink_to("/nowhere")
    assert not content.pages("en")
    assert "dead.md:1: a link to another file" in texts(safety.files(docs))[0]
    with pytest.raises(PluginError, match=r"dead\.md:1: cannot be read"):
        text.read(dead)


def test_a_formula_loads_nothing_and_leads_nowhere() -> None:
    attacks = (
        r"\href{javascript:alert(1)}{x}",
        r"\url{javascript:alert(1)}",
        r"\includegraphics{https://example.org/x.png}",
        r"\htmlStyle{position: fixed}{x}",
        r"\def\a{\a\a}\a",
    )
    for tex, result in zip(attacks, formulas.render([(a, False) for a in attacks])):
        html = result.get("html", "")
        assert not re.search(r"<(?:a|img)\b|href=|src=|position: ?fixed", html), tex


# Embeds, links, names -------------------------------------------------------------------

EMBEDS = [
    '--8<-- "../mkdocs.yml"',
    '--8<-- "../hooks/events.py"',
    '--8<-- "/etc/passwd"',
    '--8<-- "attention/../../hooks/events.py"',
    '--8<-- "https://example.org/x.py"',
    '-8<- "../hooks/events.py"',
    "--8<-- '../hooks/events.py'",
    "--8<--\n../mkdocs.yml\n--8<--",
    '    --8<-- "../mkdocs.yml"',
]


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pages and of snippets, empty."""
    root = tmp_path / "project"
    for name in ("docs/en/a", "docs/zh/a", "snippets/a"):
        (root / name).mkdir(parents=True)
    (root / "mkdocs.yml").write_text("secret: 1\n", "utf-8")
    monkeypatch.setattr(content, "DOCS", root / "docs")
    monkeypatch.setattr(content, "SNIPPETS", root / "snippets")
    return root


def refused(root: Path, planted: str) -> str:
    path = root / "docs/en/a/page.md"
    path.write_text(HEAD + planted, "utf-8")
    with pytest.raises(PluginError) as error:
        content.check(path, {"a/page.md": path})
    return str(error.value)


@pytest.mark.parametrize("planted", EMBEDS)
def test_an_embed_that_climbs_out_is_refused(docs: Path, planted: str) -> None:
    message = refused(docs, f"```python\n{planted}\n```\n")
    assert re.search(rf":{BELOW + 1}: (cannot embed|no '.*' in snippets/)", message)


def test_an_embed_by_way_of_a_link_is_refused(docs: Path) -> None:
    (docs / "hooks.py").write_text("secret = 1\n", "utf-8")
    (docs / "snippets/a/link.py").symlink_to(docs / "hooks.py")
    (docs / "snippets/b").symlink_to(docs)
    for file in ("a/link.py", "b/hooks.py"):
        message = refused(docs, f'```python\n--8<-- "{file}"\n```\n')
        assert f"no '{file}' in snippets/" in message
    found = texts(safety.files(docs))
    assert len(found) == 2 and all("a link to another file" in one for one in found)


def test_an_embed_in_a_sentence_or_an_escaped_one_is_refused(docs: Path) -> None:
    for planted in ('See --8<-- "../mkdocs.yml" here.', ';--8<-- "../mkdocs.yml"'):
        assert "an embed stands on a line of its own" in refused(docs, planted)


@pytest.mark.parametrize("target", ["../../../mkdocs.yml", "../../zh/a/page.md", "page.md?x=1"])
def test_a_link_that_climbs_out_is_refused(docs: Path, target: str) -> None:
    assert f"no page '{target}' to link to" in refused(docs, f"[x]({target})")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "%2e%2e/x"])
def test_a_snippet_of_such_a_name_is_unknown(name: str) -> None:
    with pytest.raises(library.UnknownName):
        library.find(name)


def test_a_figure_script_of_such_a_name_is_unknown() -> None:
    with pytest.raises(PluginError, match=r"no figure script contains '\.\./x'"):
        figures.draw_all("../x")


# Glossary, YAML ---------------------------------------------------------------------------

TERM = {"id": "iou", "en": "IoU", "zh": "交并比", "define_en": "Overlap.", "define_zh": "重叠。"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "a><script>"),
        ("id", "../x"),
        ("en", "<b>IoU</b>"),
        ("zh", "<img src=x onerror=alert(1)>"),
        ("define_en", "[Overlap](javascript:alert(1))"),
        ("define_en", 'Overlap" onmouseover="alert(1)'),
        ("define_zh", "重叠。&lt;script&gt;"),
        ("define_zh", '--8<-- "concepts/sota.py"'),
        ("define_zh", "*重叠*{ onclick=alert(1) }"),
        ("define_en", "[x]: javascript:alert(1)"),
        ("define_en", "Overlap\u202e."),
        ("also", ["fine", "<svg onload=alert(1)>"]),
        ("page", ["concepts/sota"]),
        ("page", 1),
    ],
)
def test_a_glossary_entry_with_markup_is_refused(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "glossary.yml"
    entries = [{**TERM, "id": "a", "en": "a", "zh": "甲"}, {**TERM, field: value}]
    path.write_text(yaml.safe_dump(entries, allow_unicode=True, sort_keys=False), "utf-8")
    with pytest.raises(PluginError, match=r"glossary\.yml:\d+: ") as error:
        glossary.load(path)
    line = int(re.search(r":(\d+):", str(error.value))[1])
    assert line >= 6, "not the line of the first entry"


@pytest.mark.parametrize("planted", ["[{}]", "  - {}", "-\n  {}"])
def test_a_glossary_of_another_form_is_refused(tmp_path: Path, planted: str) -> None:
    path = tmp_path / "glossary.yml"
    path.write_text(planted.format(json.dumps(TERM, ensure_ascii=False)), "utf-8")
    with pytest.raises(PluginError, match=r"glossary\.yml:1: each term begins a line"):
        glossary.load(path)


@pytest.mark.parametrize("planted", ["5", "true", "abc", "- 5"])
def test_queries_of_another_form_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    path = ROOT / "tests/site/none.yml"  # the message names it from the root
    monkeypatch.setattr(rules, "QUERIES", path)
    monkeypatch.setattr(rules, "read", lambda _: planted)
    with pytest.raises(PluginError, match=r"none\.yml:1: .* is no query"):
        rules._wanted.__wrapped__()


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ("a: !!python/object/apply:os.system ['true']", "not YAML: could not determine"),
        ("a: &x [lol]\nb: [*x, *x]", "no & and \\* before values"),
        ("a: " + "[" * 100_000, "lists within lists"),
        ("- " * 100_000 + "a", "lists within lists"),
        ("a: 2024-99-99", "not YAML: month must be"),
        ("a: 0b_", "not YAML: invalid literal"),
        ("a: " + "9" * 5000, "not YAML: Exceeds the limit"),
        ("a: !!bool x", "not YAML: 'x'"),
        ("a: !!timestamp x", "not YAML: "),
    ],
)
def test_yaml_that_runs_or_grows_is_refused(tmp_path: Path, planted: str, message: str) -> None:
    with pytest.raises(PluginError, match=f":7: {message}"):
        text.load_yaml(planted, tmp_path / "x.yml", first_line=7)


# Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        *("202e", "2066", "200b", "00ad", "feff", "00a0", "3164", "fe0f", "0000"),
        *("2028", "2029", "e000", "e0041", "f0000"),
    ],
)
def test_characters_that_no_one_sees_are_refused(docs: Path, code: str) -> None:
    sign = chr(int(code, 16))
    names = (
        "docs/en/a/page.md",
        "snippets/a/x.py",
        "docs/glossary.yml",
        "README.md",
        ".github/x.yml",
    )
    (docs / ".github").mkdir()
    for name in names:
        (docs / name).write_text(f"first\nse{sign}cond\n", "utf-8")
    found = texts(safety.files(docs))
    assert len(found) == len(names)
    assert all(f":2: an invisible character, U+{code.upper()}" in one for one in found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("# 标题\n正文\n".encode("gb18030"), r":1: not in UTF-8 \(byte 2\)"),
        ("# a\n\nb\n".encode("utf-16"), r":1: not in UTF-8"),
        (b"a\nb\xff\n", r":2: not in UTF-8"),
        (b"a\nb\r\n", r":2: the line ends as on Windows"),
        (b"a" * 1_000_001, r":1: 1\.0 MB; a file has 1 MB at most"),
    ],
)
def test_other_encodings_and_huge_files_are_refused(docs: Path, data: bytes, message: str) -> None:
    path = docs / "docs/en/a/page.md"
    path.write_bytes(data)
    (found,) = texts(safety.files(docs))
    assert re.search(message, found)
    if "UTF-8" in message:
        with pytest.raises(PluginError, match=message):
            text.read(path)


@pytest.mark.parametrize("name", ["docs/en/a/x.html", "docs/zh/x.js", "docs/x.sh", "docs/assets/x"])
def test_files_that_the_site_would_publish_as_they_are_are_refused(docs: Path, name: str) -> None:
    path = docs / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("<script>alert(1)</script>", "utf-8")
    (found,) = texts(safety.files(docs))
    assert f"{path}:1: a file '{path.name}' has no place here" in found


def test_everything_is_looked_at(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "DOCS", docs / "docs")
    monkeypatch.setattr(safety.files, "__defaults__", (docs,))
    script = "<script>alert(1)</script>\n"
    planted = {
        "docs/x.sh": "",
        "docs/zh/a/page.md": script,
        "docs/labs/x.py": f'# %% [markdown] lang="en"\n# {script}',
        "docs/assets/x.svg": SVG.format(script),
    }
    for name, said in planted.items():
        (docs / name).parent.mkdir(exist_ok=True)
        (docs / name).write_text(said, "utf-8")
    found = texts(safety.check())
    assert all(any(f"{docs / name}:" in one for one in found) for name in planted), found


@pytest.mark.parametrize(
    "name", ["con.svg", "AUX", "-x.svg", "a b.svg", "a\nb.svg", "ｆ.svg", "а.svg"]
)
def test_names_that_a_system_or_a_shell_misreads_are_refused(docs: Path, name: str) -> None:
    path = docs / "docs/assets" / name
    path.parent.mkdir()
    path.write_text("<svg/>", "utf-8")
    (found,) = texts(safety.files(docs))
    assert "a name has a to z" in found


def test_hidden_files_are_not_published(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rule looks at them: they are an editor's."""
    monkeypatch.setattr(events, "DOCS", docs / "docs")
    for name in (".x.html", ".y/index.html", "seen.svg"):
        path = docs / "docs/assets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<script>alert(1)</script>", "utf-8")
    assert [uri for uri, _ in events.assets()] == ["assets/seen.svg"]


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ("x = " + "-" * 100_000 + "1", "not Python"),
        ("x = " + "1+" * 100_000 + "1", "not Python"),
        ("x = '\0'", "not Python"),
        ("from . import nms", "imports a.py, which is not there"),
        ("from .nothing import x", "imports nothing.py, which is not there"),
        ("from ...hooks import x", "imports from outside"),
        ("from .x import y", "imports itself"),
    ],
)
def test_a_snippet_that_no_tool_can_read_is_refused(
    docs: Path, monkeypatch: pytest.MonkeyPatch, planted: str, message: str
) -> None:
    monkeypatch.setattr(text, "LONGEST", 10**6)
    path = docs / "snippets/a/x.py"
    path.write_text(f"{planted}\n", "utf-8")
    found = texts(rules.apply(rules.shape_of_a_snippet, path))
    assert any(f"{path}:1: {message}" in one for one in found), found


# Figures ------------------------------------------------------------------------------------

SVG = '<svg viewBox="0 0 9 9" xmlns="http://www.w3.org/2000/svg">\n{}\n</svg>'


@pytest.mark.parametrize(
    "planted",
    [
        "<script>alert(1)</script>",
        '<rect width="9" height="9" onclick="alert(1)"/>',
        "<foreignObject><p>x</p></foreignObject>",
        '<image xlink:href="https://example.org/x.png"/>',
        '<image xlink:href="data:image/svg+xml;base64,AAAA"/>',
        '<use href="#a"/>',
        '<a xlink:href="javascript:alert(1)"><text>x</text></a>',
        '<use xlink:href="other.svg#a"/>',
        '<path d="M0 0" style="fill: url(https://example.org/x)"/>',
        '<path d="M0 0" style="position: fixed"/>',
        '<path d="M0 0" style="fill: #fff; position: fixed"/>',
        '<path d="M0 0" clip-path="url(//example.org/x)"/>',
        '<path d="M0 0" clip-path="url(#a), url(//example.org/x)"/>',
        '<rect fill="url(//example.org/x#a)"/>',
        '<g xml:base="https://example.org/"/>',
        "<textPath>x</textPath>",
        '<animate attributeName="href" to="javascript:alert(1)"/>',
        "<style>@import 'x'</style>",
        "<!DOCTYPE svg [<!ENTITY x 'y'>]>",
        "<path d='M0 0'/>",
        '<path d="M0 0" <rect/>',
    ],
)
def test_a_figure_that_holds_more_than_drawing_is_refused(tmp_path: Path, planted: str) -> None:
    (found, *_) = texts(safety.drawing(SVG.format(planted), tmp_path / "x.svg"))
    assert re.search(r"x\.svg:2: .* in a figure; draw it by a script", found)


@pytest.mark.parametrize("data", [b"<svg>\xff</svg>", None])
def test_a_figure_that_cannot_be_read_is_refused(
    docs: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None
) -> None:
    monkeypatch.setattr(safety, "DOCS", docs / "docs")
    monkeypatch.setattr(safety, "files", list)
    path = docs / "docs/assets/x.svg"
    path.parent.mkdir()
    path.write_bytes(data) if data else path.symlink_to("/nowhere")
    assert "x.svg:1: cannot be read" in texts(safety.check())[0]


def test_a_figure_of_the_house_passes() -> None:
    path = next(iter(sorted(svg.OUTPUT.rglob("*.svg"))))
    assert not texts(safety.drawing(path.read_text("utf-8"), path))


def test_a_page_cannot_show_a_figure_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "x.svg").write_text(SVG.format("<script/>"), "utf-8")
    with pytest.raises(PluginError, match=r"'x\.svg' is no figure"):
        svg.set_figures("<!--figure ![seen](x.svg)-->", tmp_path / "page.md")


def test_a_figure_is_looked_at_once_more_where_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svg, "OUTPUT", tmp_path)
    (tmp_path / "x.svg").write_text(SVG.format("<script/>"), "utf-8")
    with pytest.raises(PluginError, match=r"x\.svg:2: '<script/>' in a figure"):
        svg.set_figures("<!--figure ![seen](x.svg)-->", tmp_path / "page.md")


def test_the_texts_of_a_figure_do_not_end_the_comment_that_holds_its_place() -> None:
    held = svg.hold_places("![seen --> <script>](x.svg)")
    assert re.fullmatch("<!--figure .*-->", held) and held.count("--") == 2


def test_the_texts_of_a_figure_stay_texts() -> None:
    html = svg.inline(SVG.format(""), 'x" onload="alert(1)', "<script>alert(1)</script>")
    assert "<script" not in html and 'onload="' not in html


# Labs ---------------------------------------------------------------------------------------

LAB = """# %% [markdown] lang="en" description="What it is."
# # Title
#
# {}

# %% [markdown] lang="zh" description="是什么。"
# # 标题

# %%
{}
"""


def lab(tmp_path: Path, planted: str = "Text.", code: str = "print(1)") -> Path:
    path = tmp_path / "lab.py"
    path.write_text(LAB.format(planted, code), "utf-8")
    return path


@pytest.mark.parametrize(
    "planted",
    [*HTML[:3], *LINKS[:4], *ATTRIBUTES[:1], "</details> <script>alert(1)</script>"],
)
def test_markup_in_the_text_of_a_lab_is_refused(tmp_path: Path, planted: str) -> None:
    path = lab(tmp_path, planted.replace("\n", "\n# "))
    assert texts(safety.lab(path))[0].startswith((f"{path}:4: ", f"{path}:5: "))


def test_what_labs_hold_passes(tmp_path: Path) -> None:
    fold = '<details class="question"><summary>Answer</summary>\n#\n# Yes.\n#\n# </details>'
    code = 'print("<script> { onclick=x }")'
    assert not texts(safety.lab(lab(tmp_path, fold, code)))


def test_markup_in_the_description_of_a_lab_is_refused(tmp_path: Path) -> None:
    path = lab(tmp_path)
    path.write_text(path.read_text("utf-8").replace("What it is.", "<b>It</b>"), "utf-8")
    with pytest.raises(PluginError, match=r"lab\.py:1: the description of a lab must be"):
        labs.front_matter(path, "en")


def test_code_of_a_contributor_sees_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "secret")
    found = contained.environment(tmp_path)
    assert "secret" not in found.values() and found["HOME"] == str(tmp_path)
    ours = {"HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "MPLCONFIGDIR"}
    assert found.keys() <= ours | set(contained.NEEDED)


def test_code_of_a_contributor_must_come_to_an_end() -> None:
    def start() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # stays where it is lower
        contained.limit()

    names = "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_CORE"
    code = f"import resource as r; print([r.getrlimit(getattr(r, n))[1] for n in {names}])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, preexec_fn=start, capture_output=True, check=True)
    cpu, data, size, core = json.loads(done.stdout)
    assert 0 < cpu <= contained.SECONDS * (os.cpu_count() or 1) and 0 < data <= 16 << 30
    assert (size, core) == (1 << 20, 0)


def run_lab(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.setattr(labs, "ROOT", path.parent)
    cells, lines = labs.read(path)
    pairs = [(c, n) for c, n in zip(cells, lines) if c.cell_type == "code"]
    notebook = labs.nbformat.v4.new_notebook(cells=[cell for cell, _ in pairs])
    labs._run(notebook, path, [line for _, line in pairs])
    return notebook.cells[-1].outputs


@pytest.mark.slow
def test_a_lab_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "hunter2")
    code = "import json, os, resource\nlimit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
    code += "print(json.dumps([dict(os.environ), limit, os.path.expanduser('~')]))"
    (output,) = run_lab(lab(tmp_path, code=code), monkeypatch)
    environment, limit, home = json.loads(output["text"])
    assert "hunter2" not in environment.values() and "OMP_NUM_THREADS" in environment
    assert limit == 1 << 30
    assert home != str(Path.home()) and not Path(home).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n\n# %%\nwhile True:\n    pass", r":12: this cell has not ended; a lab has 8 s"),
        ("import os\nos._exit(3)", r":9: this cell ends the process it runs in"),
    ],
)
def test_a_lab_that_never_ends_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    monkeypatch.setattr(contained, "SECONDS", 8)
    with pytest.raises(PluginError, match=r"lab\.py" + message):
        run_lab(lab(tmp_path, code=code), monkeypatch)


# Figure scripts -----------------------------------------------------------------------------

SCRIPT = """from hooks.figures import new


def figures(t):
    figure, (ax,) = new()
    {}
    yield "{}", figure
"""
ATTACKS = {
    "open({target!r}, 'w')": "this script writes .*target",
    "open({target!r}, 'a')": "this script writes .*target",
    "import os; os.remove({target!r})": "this script writes .*target",
    "import os; os.rename({target!r}, 'x')": "this script writes .*target",
    "import os; os.mkdir('../x')": "this script writes ../x",
    "import os; os.symlink('/', {target!r} + 'x')": "this script writes",
    "import pathlib; pathlib.Path({target!r}).write_text('')": "this script writes .*target",
    "import shutil; shutil.rmtree({target!r} + 's')": "this script writes .*targets",
    "figure.savefig({target!r} + '.svg')": r"this script writes .*target\.svg",
    "import subprocess; subprocess.run(['true'])": "this script starts a program",
    "import os; os.system('true')": "this script starts a program",
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')": "this script calls out",
}
MORE_ATTACKS = (
    "open('../target', 'r+')",
    "os.open('../target', os.O_TRUNC)",
    "os.open('../new', os.O_CREAT)",
    "open('../home2', 'w')",
    "os.rename('own', '../target')",
    "os.truncate('../target', 0)",
    "os.chmod('../target', 0)",
    "os.chdir('deep'); os.symlink('../target', '../link'); open('../link', 'w')",
    "os.kill(os.getpid(), 0)",
    "socket.socket().connect(('127.0.0.1', 9))",
    "os.execv(sys.executable, [sys.executable, '-c', ''])",
)
GUARDED = """
import json, os, socket, sys
from pathlib import Path
from hooks import contained
os.mkdir("deep")
open("own", "w").close()
said, passed = [], []
contained.guard(Path.cwd(), said.append)
for attack in json.loads(sys.argv[1]):
    before = len(said)
    try:
        exec(attack)
    except OSError:
        pass
    if len(said) == before:
        passed.append(attack)
print(json.dumps(passed))
"""
CONTAINED = """
import json, sys
from pathlib import Path
from hooks import figures
found = figures._answer(Path(sys.argv[1]))
sys.stdout.write(json.dumps(found))
"""


def answer(tmp_path: Path, planted: str, name: str = "x") -> object:
    """What the process that draws would say of a script, without waiting for its libraries."""
    script, home = tmp_path / "script.py", tmp_path / "home"
    home.mkdir(exist_ok=True)
    script.write_text(SCRIPT.format(planted, name), "utf-8")
    (tmp_path / "target").write_text("as it was", "utf-8")
    (tmp_path / "targets").mkdir(exist_ok=True)
    (tmp_path / "targets" / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", CONTAINED, str(script)],
        cwd=home,
        env=contained.environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "target").read_text("utf-8") == "as it was"
    assert (tmp_path / "targets" / "file").exists()
    return json.loads(done.stdout or json.dumps(done.stderr))


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_figure_script_that_does_more_than_draw_is_refused(tmp_path: Path, attack: str) -> None:
    line, message = answer(tmp_path, attack.format(target=str(tmp_path / "target")))
    assert line == 6 and re.match(ATTACKS[attack], message)


def test_other_ways_out_are_refused_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "target").write_text("as it was", "utf-8")
    command = [sys.executable, "-c", GUARDED, json.dumps(MORE_ATTACKS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, check=True)
    assert done.stdout == b"[]\n"
    assert (tmp_path / "target").read_text("utf-8") == "as it was"


@pytest.mark.slow
def test_a_figure_script_cannot_swallow_the_refusal(tmp_path: Path) -> None:
    target = str(tmp_path / "target")
    planted = f"try: open({target!r}, 'w')\n    except OSError: pass"
    line, message = answer(tmp_path, planted)
    assert line == 6 and "writes" in message


@pytest.mark.slow
def test_a_figure_has_a_plain_name(tmp_path: Path) -> None:
    assert answer(tmp_path, "pass", "../../x") == [1, "'../../x' is no name of a figure"]


@pytest.mark.slow
def test_a_figure_script_that_draws_passes(tmp_path: Path) -> None:
    planted = "ax.plot([1, 2]); open('own', 'w').close()"
    found = answer(tmp_path, planted)
    assert list(found) == ["x.en.svg", "x.zh.svg"] and found["x.en.svg"].startswith("<svg")


@pytest.mark.slow
def test_figures_are_drawn_in_a_process_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker serves the next script after one that fails, crashes or never ends."""
    monkeypatch.setenv("GITHUB_TOKEN", "hunter2")
    script = tmp_path / "section" / "script.py"
    script.parent.mkdir()

    def drawn(planted: str) -> str:
        script.write_text(SCRIPT.format(planted, "x"), "utf-8")
        return figures.draw(script)[0][1]

    with pytest.raises(PluginError, match=r"script\.py:6: ZeroDivisionError: .* draws, and does"):
        drawn("1 / 0")
    with pytest.raises(PluginError, match=r"script\.py:1: this script has crashed"):
        drawn("import os; os._exit(1)")
    with pytest.raises(PluginError, match="has not ended"):
        drawn("import signal; signal.alarm(1)\n    while True: pass")
    forged = (
        "open('answer.json', 'w').write('{{\"../../x.en.svg\": \"\"}}'); import os; os._exit(0)"
    )
    with pytest.raises(PluginError, match=r"'\.\./\.\./x\.en\.svg' is no name of a figure"):
        drawn(forged.replace("{{", "{").replace("}}", "}"))
    assert drawn("import os; assert 'GITHUB_TOKEN' not in os.environ").startswith("<svg")
