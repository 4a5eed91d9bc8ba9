"""A mistake in a page stops the build, with one message that names file, line and remedy.

Each test makes one mistake in a copy of the project and builds it as `make site` does.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hooks import ROOT

pytestmark = pytest.mark.slow

PAGE = "docs/en/attention/scaled_dot_product_attention.md"
LAB = "docs/labs/distribution_shift.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("benchmarks", "docs", "hooks", "overrides", "snippets"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("mkdocs.yml", "mkdocs.zh.yml", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, copy)
    if (ROOT / ".cache").is_dir():  # outputs of the labs
        shutil.copytree(ROOT / ".cache", copy / ".cache")
    (copy / "node_modules").symlink_to(ROOT / "node_modules")
    return copy


def build(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hooks", "build", "site"]
    return subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "JPY_PARENT_PID": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def inserted(line: str) -> Callable[[str], str]:
    """Put a line below the first heading."""
    return lambda text: re.sub(
        r"^(# .*)$", lambda m: f"{m[0]}\n\n{line}", text, count=1, flags=re.M
    )


MISTAKES = {
    "embed in a quotation": (
        PAGE,
        inserted('> --8<-- "attention/scaled_dot_product_attention.py:core"'),
        r"an embed stands on a line of its own",
    ),
    "page without title": (PAGE, replaced("\n# ", "\n## "), r"a page begins with its title"),
    "markup in a description": (
        PAGE,
        replaced("description: ", 'description: Say "x" <b>'),
        r"'description' must be one line of plain text",
    ),
    "figure in a sentence": (
        PAGE,
        inserted("See ![x](../../assets/figures/concepts/sota.en.svg) here."),
        r"a figure stands alone on its line",
    ),
    "formula with an empty line": (
        PAGE,
        inserted("$$\na\n\nb\n$$"),
        r"a formula is not recognised",
    ),
    "glossary, page": (
        "docs/glossary.yml",
        replaced("page: concepts/sota", "page: concepts/sotta"),
        r"no page 'concepts/sotta'; did you mean 'concepts/sota'\?",
    ),
    "glossary, names": (
        "docs/glossary.yml",
        replaced("also: [", "also: x # ["),
        r"'also' of .* must be a list such as \[one, two\]",
    ),
    "glossary, YAML": ("docs/glossary.yml", replaced("  en: ", "  en: [ "), r"not YAML: "),
    "lab, text without twin": (
        LAB,
        lambda text: f'{text}\n# %% [markdown] lang="en"\n# Alone.\n',
        r"the last text cell has no twin",
    ),
    "mistyped embed": (
        PAGE,
        replaced('attention.py:core"', 'atention.py:core"'),
        r"no 'attention/scaled_dot_product_atention.py' in snippets/; did you mean 'attention/scal",
    ),
    "missing section marker": (
        PAGE,
        replaced('attention.py:core"', 'attention.py:coer"'),
        r"has no part 'coer'; did you mean 'core'\?",
    ),
    "embed from outside": (
        PAGE,
        inserted('--8<-- "../mkdocs.yml"'),
        r'cannot embed "../mkdocs.yml"; write --8<-- "section/snippet.py:part"',
    ),
    "embed of a Python file outside": (
        PAGE,
        inserted('--8<-- "../hooks/events.py"'),
        r"no '../hooks/events.py' in snippets/",
    ),
    "embed from the web": (
        PAGE,
        inserted('--8<-- "https://example.org/x.py"'),
        r"cannot embed",
    ),
    "part without end": (
        "snippets/attention/scaled_dot_product_attention.py",
        replaced("# --8<-- [end:core]", ""),
        r"part 'core' has no end; add # --8<-- \[end:core\]",
    ),
    "formula": (
        PAGE,
        inserted(r"A formula: $\frac{1}{2$."),
        r"a formula does not parse: KaTeX parse error: .*",
    ),
    "link": (
        PAGE,
        inserted("A [link](../concepts/sotta.md)."),
        r"no page '../concepts/sotta.md' to link to; did you mean 'concepts/sota.md'\?",
    ),
    "anchor": (
        PAGE,
        inserted("A [link](../concepts/sota.md#pitfals)."),
        r"has no heading '#pitfals'; did you mean 'pitfalls'\?",
    ),
    "figure": (
        PAGE,
        inserted("![seen](../../assets/figures/attention/nothing.en.svg)"),
        r"no figure '../../assets/figures/attention/nothing.en.svg'",
    ),
    "figure without words": (
        PAGE,
        lambda text: re.sub(r"^!\[[^\]]+\]", "![]", text, count=1, flags=re.MULTILINE),
        r"a figure says what is seen",
    ),
    "widget": (
        PAGE,
        replaced("{ widget=scaled_dot_product_attention }", "{ widget=dot_product_attention }"),
        r"no widget 'dot_product_attention'; did you mean 'scaled_dot_product_attention'\?",
    ),
    "figure with something else behind it": (
        PAGE,
        replaced("{ widget=", "{ wdiget="),
        r"a figure stands alone on its line.*; \{ widget=name \} may follow",
    ),
    "unknown front matter": (
        PAGE,
        replaced("description:", "descripton:"),
        r"unknown field 'descripton'; did you mean 'description'\?",
    ),
    "front matter of the wrong kind": (
        PAGE,
        lambda text: re.sub(r"^tags: .*$", "tags: attention", text, count=1, flags=re.MULTILINE),
        r"'tags' must be a list",
    ),
    "front matter that is no YAML": (
        PAGE,
        replaced("title: ", "title: [ "),
        r"not YAML",
    ),
    "requirement that does not exist": (
        PAGE,
        lambda text: re.sub(r"^requires: .*$", "requires: [concepts/sotta]", text, flags=re.M),
        r"requires 'concepts/sotta', no such page; did you mean 'concepts/sota'\?",
    ),
    "failing notebook cell": (
        LAB,
        lambda text: text.replace("\n# %%\n", "\n# %%\none = 1\none / 0\n\n# %%\n", 1),
        r"this cell fails: ZeroDivisionError: division by zero; mend it",
    ),
    "notebook without its Chinese text": (
        LAB,
        lambda text: text.replace('lang="zh"', 'lang="en"', 1),
        r"text cells come in pairs",
    ),
    "glossary": (
        "docs/glossary.yml",
        replaced("define_zh:", "defin_zh:"),
        r"lacks 'define_zh'; add define_zh: …",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_stops_the_build(project: Path, mistake: str) -> None:
    name, change, message = MISTAKES[mistake]
    file = project / name
    before = file.read_text("utf-8")
    try:
        file.write_text(change(before), "utf-8")
        result = build(project)
    finally:
        file.write_text(before, "utf-8")
    assert result.returncode != 0, "the build passes"
    found = re.findall(rf"{re.escape(name)}:(\d+): (.*)", result.stderr)
    assert len(found) == 1, result.stderr
    assert re.search(message, found[0][1]), result.stderr
    # The line it names is the first that the change made different.
    changed = change(before).splitlines()
    same = [a == b for a, b in zip(changed, before.splitlines(), strict=False)]
    first = same.index(False) + 1 if False in same else len(same) + 1
    if mistake not in {"part without end", "glossary"}:  # they name where the thing begins
        assert abs(int(found[0][0]) - first) <= 3, f"names line {found[0][0]}, not {first}"


def test_a_page_without_its_twin_stops_the_build(project: Path) -> None:
    page = project / "docs/en/concepts/alone.md"
    page.write_text("---\ntitle: Alone\ndescription: Alone.\n---\n# Alone\n", "utf-8")
    try:
        result = build(project)
    finally:
        page.unlink()
    assert result.returncode != 0
    message = "docs/en/concepts/alone.md:1: this page has no twin; write docs/zh/concepts/alone.md"
    assert result.stderr.count(message) == 1, result.stderr


def test_without_a_mistake_the_build_passes_without_a_warning(project: Path) -> None:
    result = build(project)
    assert result.returncode == 0, result.stderr
    assert "warning" not in (result.stdout + result.stderr).lower()
