"""`make fix`: mends what it can, says so, touches nothing else; twice is as good as once."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks.contribute import mend, rules
from hooks.text import read
from tests.contribute.conftest import GLOSSARY, Run, tree

TWIN = "---\ntitle: T\n---\n\n# T\n\n## The usual { #here }\n\n### Deep { #deep }\n"


def mended(text: str, lang: str = "en", twin: str = "") -> str:
    """The body of a page after mending, which a second time finds nothing."""
    head = "---\ntitle: x  \ndescription: 卷积kernel,(中)\n---\n"
    new, what = mend.page(head + text, lang, twin)
    assert bool(what) == (new != head + text)
    assert mend.page(new, lang, twin) == (new, [])
    assert new.startswith(head), "front matter stays as it is"
    return new.removeprefix(head)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# T\n\n## Plain words, 2!\n", "# T\n\n## Plain words, 2! { #plain-words-2 }\n"),
        ("## Usage\n", "## Usage { #usage }\n"),  # the anchors that every page has
        ("## The idea in one sentence\n", "## The idea in one sentence { #idea }\n"),
        ("## A\n\n## A\n", "## A { #a }\n\n## A\n"),  # none is invented
        ("## A { #b }\n", "## A { #b }\n"),
        ("```text\n## A\n```\n", "```text\n## A\n```\n"),
    ],
)
def test_headings_get_anchors(before: str, after: str) -> None:
    assert mended(before) == after


def test_chinese_headings_take_the_anchors_of_their_twins() -> None:
    assert mended("# 题\n\n## 用法\n\n### 深\n", "zh", TWIN) == (
        "# 题\n\n## 用法 { #here }\n\n### 深 { #deep }\n"
    )
    # Not where the headings differ; then only those that every page has.
    assert mended("# 题\n\n## 用法\n\n## 深\n", "zh", TWIN) == (
        "# 题\n\n## 用法 { #usage }\n\n## 深\n"
    )
    assert mended("# T\n\n## Mine\n\n### Own\n", "en", TWIN) == (
        "# T\n\n## Mine { #here }\n\n### Own { #deep }\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("detection/iou:core", "detection/iou.py:core"),
        ("detection/iou", "detection/iou.py"),
        ("detecton/iou.py:core", "detection/iou.py:core"),
        ("iou.py:core", "detection/iou.py:core"),
        ("convolution/dilated_convolutoin.py:core", "convolution/dilated_convolution.py:core"),
        ("detection/yolo_v9.py:core", "detection/yolo_v9.py:core"),  # several are near
        ("../hooks/events.py", "../hooks/events.py"),
        ("nothing/like_it.py:core", "nothing/like_it.py:core"),
    ],
)
def test_embeds_lead_to_the_only_snippet_that_is_meant(before: str, after: str) -> None:
    page = '```python\n{}--8<-- "{}"\n```\n'
    assert mended(page.format("    ", before)) == page.format("    ", after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("```py\nx\n```\n", "```python\nx\n```\n"),
        ("   ```` Python\nx\n   ````\n", "   ````python\nx\n   ````\n"),
        ('```{ .python } title="x"\nx\n```\n', '```python title="x"\nx\n```\n'),
        ("```sh\n```py\n```\n", "```bash\n```py\n```\n"),  # within a block all is text
        ("```yml\nx\n```\n", "```yaml\nx\n```\n"),
        ("```rust\nx\n```\n", "```rust\nx\n```\n"),
    ],
)
def test_fences_are_named_as_the_tests_know_them(before: str, after: str) -> None:
    assert mended(before) == after


def test_space_at_the_end_of_lines_goes_but_not_what_breaks_a_line() -> None:
    assert mended("a \nb  \nc  \n\t\n```text\nx  \n```\nd  \n") == (
        "a\nb  \nc\n\n```text\nx  \n```\nd\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("卷积kernel大小3x3,步长2;见(图1)。", "卷积 kernel 大小 3x3,步长 2;见（图 1）。"),
        ("你好, world", "你好，world"),
        ("中文: `x`。", "中文：`x`。"),
        ("中文 ,中文 ;", "中文 ,中文；"),
        ("为什么? { #why }", "为什么？ { #why }"),
        ("步长(stride(1))是2", "步长（stride(1)）是 2"),
        ("(a)中 and (b) and c)中", "（a）中 and (b) and c）中"),
        ("[链接](a_中b.md)abc", "[链接](a_中b.md) abc"),
        ("卷积`a中b`c", "卷积`a中b` c"),
        ("设$x中x$为<b中b>甲!", "设$x中x$为<b中b>甲！"),
        ("English, (words): fine", "English, (words): fine"),
        ('??? question "为何?"', '??? question "为何?"'),
    ],
)
def test_chinese_gets_spaces_and_full_width_signs(before: str, after: str) -> None:
    assert mended(before + "\n", "zh") == after + "\n"
    assert mended(before + "\n", "en") == before + "\n"


def test_formulas_and_code_stay() -> None:
    text = "$$\n\\text{中a}, (中)\n$$\n\n    ```python\n    x = '中a'  # 中,\n    ```\n"
    assert mended(text, "zh") == text
    assert mended(text + "中a\n", "zh") == text + "中 a\n"


@given(st.text("中文ab1,;:?!() `$[]<>{}#\u3000，（）*|-", max_size=40))
def test_what_the_rule_refuses_is_mended(line: str) -> None:
    """After mending the rule is content, and only spaces and the width of signs have changed."""
    new, found = mend.typography(line)
    assert (new != line) == bool(found)
    assert not mend.typography(new)[1]
    narrow = {full: half for half, full in mend.FULL.items()}

    def letters(text: str) -> str:
        return "".join(narrow.get(sign, sign) for sign in text if sign != " ")

    assert letters(new) == letters(line)


def test_the_glossary_is_put_in_order() -> None:
    """A comment stays with the term below it, that at the top stays there."""
    head, kernel, stride = GLOSSARY.rstrip("\n").split("\n\n")
    assert mend.in_order(GLOSSARY) == GLOSSARY
    assert mend.in_order("\n\n".join([head, stride, kernel]) + "\n") == GLOSSARY


def test_all_of_it_is_mended_in_the_files(concepts: Path, run: Run) -> None:
    english, chinese, terms = (
        concepts / name
        for name in (
            "docs/en/basics/centring.md",
            "docs/zh/basics/centring.md",
            "docs/glossary.yml",
        )
    )
    whole = tree(concepts)
    changes = {
        english: [(" { #questions }", ""), ('centring.py:core"', 'centring:core"')],
        chinese: [(" { #variants }", ""), ("读代码之前", "读代码before之前 ")],
    }
    for path, pairs in changes.items():
        text = path.read_text("utf-8")
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text, "utf-8")
    text = terms.read_text("utf-8")
    found = re.search(r"\n\n- id: kernel\n(.+\n)+", text)
    assert found
    terms.write_text(text.replace(found[0], "\n") + found[0][1:], "utf-8")
    assert tree(concepts) != whole
    result = run("fix")
    assert result.stdout.splitlines() == [
        "docs/en/basics/centring.md: anchors, embeds",
        "docs/zh/basics/centring.md: anchors, spaces and punctuation",
        "docs/glossary.yml: order of the terms",
    ]
    assert "读代码 before 之前" in chinese.read_text("utf-8")
    chinese.write_text(chinese.read_text("utf-8").replace(" before 之前 ", "之前"), "utf-8")
    assert tree(concepts) == whole
    assert run("fix").stdout == "Pages and glossary: nothing to mend\n"


def test_todays_pages_need_no_mending() -> None:
    assert [(str(path), what) for path, _, what in mend.changes()] == []


def test_the_rule_and_the_mending_are_one() -> None:
    """No page is refused for what mending would leave."""
    for path in rules.chinese_pages():
        text = mend.page(read(path), "zh", "")[0]
        assert not any(mend.typography(line)[1] for _, line in mend.prose(text))
