"""Every Python block of every page runs exactly as its reader sees it, and prints what is shown."""

import dataclasses
import html
import re
from pathlib import Path

import pytest
import torch
from markdown import Markdown
from pytest_codeblocks.main import CodeBlock
from pytest_codeblocks.plugin import TestBlock as Runner

from tests.reading import CONFIG, PAGES, code_blocks, expand, name

# A block that its twin in the other language repeats, to the letter, runs once.
PYTHON_BLOCKS = {
    (block.code, block.expected_output): (path, block)
    for path in reversed(PAGES)
    for block in code_blocks(path)
    if block.syntax == "python"
}


# Two seeds: what a block prints must not hang on one that its reader does not see.
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("path", "block"),
    [
        pytest.param(*found, id=f"{name(found[0])}:{found[1].lineno}")
        for found in PYTHON_BLOCKS.values()
    ],
)
def test_block_runs_and_prints_what_is_shown(
    path: Path, block: CodeBlock, seed: int, request: pytest.FixtureRequest
) -> None:
    assert not block.marks and not block.importorskip, "a block on a page cannot be skipped"
    torch.manual_seed(seed)
    if block.expected_output is None:
        # What prints needs <!--pytest-codeblocks:expected-output--> and a ```text block below it.
        block = dataclasses.replace(block, expected_output="")
    Runner.from_parent(request.session, name=name(path), obj=block).runtest()


def shown(path: Path) -> list[str]:
    """The Python that the site highlights on a page; every block must say what it is."""
    names = ["pymdownx.superfences", "pymdownx.highlight", "pymdownx.details", "admonition"]
    assert set(names) <= CONFIG["markdown_extensions"].keys()
    options = {"pymdownx.highlight": {"pygments_lang_class": True}}
    page = Markdown(extensions=names, extension_configs=options).convert(expand(path))
    pattern = r'<div class="(?:language-(\S+) )?highlight">.*?<code>(.*?)</code></pre>'
    blocks = [(m[1], re.sub(r"<[^>]+>", "", m[2])) for m in re.finditer(pattern, page, re.DOTALL)]
    assert len(blocks) == page.count("<pre"), f"{name(path)}: use ``` fences for code"
    allowed = re.compile(r"text|bash|yaml|.*py.*")
    for language, code in blocks:
        assert allowed.fullmatch(language or ""), (
            f"a fence says what it is, as ```python: {code[:60]}"
        )
    return [html.unescape(code).strip("\n") for language, code in blocks if "py" in language]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_python_block_is_passed_over(path: Path) -> None:
    run = [block.code.strip("\n") for block in code_blocks(path) if block.syntax == "python"]
    assert shown(path) == run, f"{name(path)}: open each Python block with ```python"


@pytest.mark.parametrize(
    "fence", ["```py", "~~~python", '```python title="x"', "``` python", "``` { .python }"]
)
def test_the_guard_knows_the_fences_that_the_plugin_passes_over(fence: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{fence}\nassert False\n{fence[:3]}\n", "utf-8")
    assert shown(page) == ["assert False"]
