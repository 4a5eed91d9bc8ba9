"""`make check`: each rule, broken on purpose, says so with file, line and remedy; all at once."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contribute.conftest import Run

EN, ZH = "docs/en/basics/{}.md", "docs/zh/basics/{}.md"
SNIPPET, TEST = "snippets/basics/{}.py", "tests/snippets/basics/test_{}.py"
TERMS = "docs/glossary.yml"
A, B = "centring", "scaling"

# What is broken: file, what stands there, what comes in its place, what is said, and of which line:
# that which holds this text once it is broken (or the first).
FAULTS = {
    "number": (
        ZH,
        "读代码之前",
        "读代码 3 次之前",
        "numbers of #code differ .* only here: '3'; make both the same",
        "读代码 3 次",
    ),
    "formula": (
        ZH,
        "x_c - \\frac",
        "x_c + \\frac",
        "formulas of #definition differ .* only there: .*'y_c = x_c - ",
        "x_c + ",
    ),
    "code": (
        ZH,
        'title="输出"\nrow ',
        'title="输出"\nraw ',
        "code of #usage differ .* only here: .*'raw   1.00 .*; only there: .*'row   1.00",
        "raw ",
    ),
    "section": (
        ZH,
        "{ #pitfalls }",
        "{ #pitfall }",
        "has no section #pitfall; write it there, or drop it",
        "#pitfall",
    ),
    "skipped level": (
        EN,
        "## Usage { #usage }",
        "## Usage { #usage }\n\n#### Deep { #deep }",
        "'Deep .*' skips a level; write ###",
        "#### Deep",
    ),
    "second title": (
        EN,
        "## Code",
        "# Twice\n\n## Code",
        "'Twice': one # title a page; write ##",
        "# Twice",
    ),
    "formula in a heading": (
        EN,
        "## Why it exists",
        "## Why $x$",
        "no formulas in headings",
        "## Why",
    ),
    "anchor": (
        EN,
        " { #questions }",
        "",
        r"needs an anchor; write ## Check yourself \{ #anchor \}, or run `make fix`",
        "## Check",
    ),
    "anchor twice": (
        EN,
        "{ #variants }",
        "{ #variants }\n\n### More { #idea }",
        r"#idea is the anchor of line \d+; choose",
        "### More",
    ),
    "tags": (
        EN,
        "tags: [",
        "hide: [",
        "no `tags`; add the words",
        "",
    ),
    "front matter": (
        ZH,
        "tags: [",
        "tagz: [",
        r"unknown field 'tagz'; did you mean 'tags'\?",
        "tagz",
    ),
    "embed": (
        EN,
        'centring.py:core"',
        'centrin.py:core"',
        r"no 'basics/centrin.py' in snippets/; did you mean 'basics/centring.py'\?",
        "centrin.py",
    ),
    "part": (
        EN,
        ':imports"',
        ':import"',
        r"has no part 'import'; did you mean 'imports'\?",
        ':import"',
    ),
    "link": (
        EN,
        "the problem that",
        "[the](../basics/nothing.md) problem that",
        "no page '../basics/nothing.md' to link to; did you mean",
        "nothing.md",
    ),
    "figure": (
        EN,
        "centring.en.svg",
        "centred.en.svg",
        r"no figure '.*centred.en.svg'; did you mean 'centring.en.svg'\?",
        "centred.en",
    ),
    "figure without words": (
        ZH,
        "![图里",
        "![](../../assets/figures/basics/centring.zh.svg)\n\n![图里",
        "a figure says what is seen",
        "![](",
    ),
    "broken formula": (
        EN,
        "$y$ the row",
        "$\\frac{1$ the row",
        r"a formula does not parse: KaTeX parse error.*; mend \\frac\{1",
        "\\frac{1$",
    ),
    "tight": (
        ZH,
        "## 用法",
        "## 用法abc",
        "a space belongs between Chinese and Latin in '法a'; `make fix` mends it",
        "用法abc",
    ),
    "half": (
        ZH,
        "想一想就能答的题",
        "想一想(就能答)的题",
        r"full-width punctuation belongs beside Chinese in '想\('",
        "想(",
    ),
    "fence": (
        EN,
        "## Variants",
        '```py title="x"\nx = 1\n```\n\n## Variants',
        'unknown fence ```py title="x"; a fence says what it is: ```python, ```text',
        "```py ",
    ),
    "tildes": (
        EN,
        "## References",
        "~~~\nx\n~~~\n\n## References",
        "use ``` fences for code, not ~~~",
        "~~~",
    ),
    "import": (
        SNIPPET,
        "import torch\n",
        "import torch\nimport numpy\n",
        "imports numpy; a snippet needs torch",
        "import numpy",
    ),
    "header": (
        SNIPPET,
        "Axes:",
        "Axis:",
        "the docstring at the top lacks 'Axes:'; add a line Axes: …",
        '"""',
    ),
    "names": (
        SNIPPET,
        "__all__",
        "names",
        "add __all__ = ",
        '"""',
    ),
    "history": (
        SNIPPET,
        "Needs:",
        "History: lately, other.\nNeeds:",
        "'lately, other.' is no entry of a history; write 0.2.0",
        "History",
    ),
    "left over": (
        TEST,
        "# Edges",
        "# TODO(new): the edges. More.",
        r"still to be written: the edges; then drop TODO\(new\):",
        "TODO",
    ),
    "glossary page": (
        TERMS,
        "page: basics/centring",
        "page: basics/centrin",
        r"centring: no page 'basics/centrin'; did you mean 'basics/centring'\?",
        "basics/centrin",
    ),
    "glossary order": (
        TERMS,
        "- id: kernel",
        "- id: zebra\n  en: zebra\n  zh: 斑马\n  define_en: Z.\n  define_zh: 斑。\n\n- id: kernel",
        "'kernel' comes before 'zebra'; `make fix` sorts the terms",
        "- id: kernel",
    ),
}


def problems(output: str) -> dict[str, list[tuple[int, str]]]:
    """Line and message of each problem, by file."""
    found: dict[str, list[tuple[int, str]]] = {}
    for line in output.splitlines()[:-1]:
        match = re.fullmatch(r"(.+?):(\d+): (.+)", line)
        assert match, line
        found.setdefault(match[1], []).append((int(match[2]), match[3]))
    return found


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


def test_what_is_finished_passes(concepts: Path, run: Run) -> None:
    result = run("check")
    assert result.stdout == "8 pages, 2 snippets: nothing to mend\n" and result.returncode == 0


def test_every_fault_is_named_at_its_line(concepts: Path, run: Run) -> None:
    """All faults at once in one concept; the other one stays clean."""
    for file, old, new, *_ in FAULTS.values():
        path = concepts / file.format(A)
        text = path.read_text("utf-8")
        assert old in text, old
        path.write_text(text.replace(old, new, 1), "utf-8")
    result = run("check")
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    found = problems(result.stdout)
    for fault, (file, _, _, message, part) in FAULTS.items():
        name = file.format(A)
        line = line_of((concepts / name).read_text("utf-8"), part) if part else 1
        said = [text for number, text in found.get(name, []) if number == line]
        assert any(re.search(message, text) for text in said), (fault, line, found.get(name))
    assert not any(B in name for name in found)
    lines = result.stdout.splitlines()
    places = [(m[1], int(m[2])) for m in (re.match(r"(.+?):(\d+):", x) for x in lines[:-1]) if m]
    assert places == sorted(places)
    assert lines[-1] == f"{len(lines) - 2} problems, 1 thing still to be written"

    # Limited to what a file belongs to.
    assert run("check", SNIPPET.format(B)).returncode == 0
    for path in (TEST.format(A), f"docs/figures/basics/{A}.py", "docs/en", "."):
        limited = run("check", path).stdout
        assert EN.format(A) in limited, path
        assert ("docs/glossary.yml:" in limited) == (path == "."), path
    missing = run("check", "docs/en/basics/centrin.md")
    assert missing.returncode == 1 and "did you mean 'centring.md'?" in missing.stderr


def without(text: str, start: str, end: str) -> str:
    first, _, rest = text.partition(start)
    return first + rest.partition(end)[2]


# What does not go together with the faults above.
WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no twin": (
        lambda root: (root / ZH.format(A)).unlink(),
        r"docs/en/basics/centring.md:1: this page has no twin; write docs/zh/basics/centring.md",
    ),
    "no test": (
        lambda root: (root / TEST.format(A)).unlink(),
        r"snippets/basics/centring.py:1: .* no test; write tests/snippets/basics/test_centring.py",
    ),
    "no snippet": (
        lambda root: shutil.copy(root / TEST.format(A), root / TEST.format("rescaling")),
        r"test_rescaling.py:1: snippets/basics/rescaling.py, which this tests .* does not exist",
    ),
    "no page": (
        lambda root: (root / SNIPPET.format("alone")).write_text(
            (root / SNIPPET.format(A)).read_text("utf-8"), "utf-8"
        ),
        r"snippets/basics/alone.py:1: no page in docs/zh/basics embeds this snippet; write one",
    ),
    "one name twice": (
        lambda root: shutil.copytree(root / "snippets/basics", root / "snippets/more"),
        r"snippets/more/scaling.py:1: snippets/basics/scaling.py has the same name; rename one",
    ),
    "no yardstick": (
        lambda root: (root / TEST.format(A)).write_text(
            (root / TEST.format(A)).read_text("utf-8").replace("Yardstick: plain loops.\n", ""),
            "utf-8",
        ),
        r"test_centring.py:1: the docstring lacks its yardstick; add a line Yardstick: library",
    ),
    "no query": (
        lambda root: (root / "tests/site/queries.yml").write_text(
            (root / "tests/site/queries.yml").read_text("utf-8").replace(f"basics/{A}", "index")
        ),
        r"docs/en/basics/centring.md:1: no query in tests/site/queries.yml wants this page; add "
        r"one with lang: en, want: \[basics/centring\]",
    ),
    "not Python": (
        lambda root: (root / SNIPPET.format(A)).write_text("x = (\n", "utf-8"),
        r"snippets/basics/centring.py:1: not Python: '\(' was never closed; mend it",
    ),
    "not UTF-8": (
        lambda root: (root / EN.format(A)).write_bytes(b"---\n\xff"),
        r"docs/en/basics/centring.md:\d: not in UTF-8",
    ),
    "a part too few": (
        lambda root: [
            (root / path.format(A)).write_text(
                without((root / path.format(A)).read_text("utf-8"), start, "\n## "), "utf-8"
            )
            for path, start in ((EN, "## Why it exists"), (ZH, "## 为什么需要它"))
        ],
        r"docs/en/basics/centring.md:1: the part #why is missing; write ## … \{ #why \}",
    ),
    "parts in another order": (
        lambda root: [
            (root / path.format(A)).write_text(
                (root / path.format(A))
                .read_text("utf-8")
                .replace("{ #idea }", "{ # }")
                .replace("{ #why }", "{ #idea }")
                .replace("{ # }", "{ #why }"),
                "utf-8",
            )
            for path in (EN, ZH)
        ],
        r"docs/en/basics/centring.md:10: #idea comes before #why; the order is idea, why,",
    ),
    "sections in another order": (
        lambda root: (root / ZH.format(A)).write_text(
            (root / ZH.format(A))
            .read_text("utf-8")
            .replace("{ #idea }", "{ # }")
            .replace("{ #why }", "{ #idea }")
            .replace("{ # }", "{ #why }"),
            "utf-8",
        ),
        r"docs/zh/basics/centring.md:9: #idea comes here in docs/en/basics/centring.md; bring",
    ),
    "no place for a section": (
        lambda root: (
            shutil.copytree(root / "docs/en/basics", root / "docs/en/other")
            and shutil.copytree(root / "docs/zh/basics", root / "docs/zh/other")
        ),
        r"docs/en/index.md:4: section 'other' is not in `sections`; add it in its place",
    ),
    "figure of no page": (
        lambda root: shutil.copy(
            root / f"docs/assets/figures/basics/{A}.en.svg",
            root / "docs/assets/figures/basics/more.en.svg",
        ),
        r"basics/more.en.svg:1: no page in docs/en shows this figure; show or delete it\n"
        r".*basics/more.en.svg:1: no script draws this figure; yield \"more\" in docs/figures",
    ),
    "lab": (
        lambda root: (
            (root / "docs/labs").mkdir()
            or (root / "docs/labs/one.py").write_text(
                '# %% [markdown] lang="en"\n# # One\n', "utf-8"
            )
        ),
        r"docs/labs/one.py:1: the last text cell has no twin; add one with lang=\"zh\"",
    ),
    "glossary": (
        lambda root: (root / "docs/glossary.yml").write_text("- id: x\n", "utf-8"),
        r"docs/glossary.yml:1: 'x' lacks 'en'; add en: …",
    ),
    "no demo": (
        lambda root: (root / SNIPPET.format(A)).write_text(
            (root / SNIPPET.format(A)).read_text("utf-8").replace(":demo]", ":show]"), "utf-8"
        ),
        r"snippets/basics/centring.py:\d\d: no part 'demo' to embed; put it between # --8<-- ",
    ),
}


@pytest.mark.parametrize("fault", WHOLE)
def test_a_fault_of_the_whole_is_named(concepts: Path, run: Run, fault: str) -> None:
    spoil, message = WHOLE[fault]
    spoil(concepts)
    result = run("check")
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert re.search(message, result.stdout), result.stdout


def test_a_published_snippet_that_changed_is_named(concepts: Path, run: Run) -> None:
    assert run("release").returncode == 0
    assert run("check").returncode == 0
    path = concepts / SNIPPET.format(A)
    path.write_text(path.read_text("utf-8").replace("Take from", "Draw from"), "utf-8")
    result = run("check")
    message = f"{SNIPPET.format(A)}:1: changed since its release; raise the number in pyproject"
    assert result.stdout.count(message) == 1 and result.returncode == 1
