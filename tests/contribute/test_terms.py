"""The writing aid for terms finds what was planted, and nothing on the pages as they are."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from mkdocs.exceptions import PluginError

from hooks import glossary
from hooks.contribute import terms

GLOSSARY = """
- id: precision
  en: precision
  zh: 精确率
  define_en: Right ones.
  define_zh: 对的比例。
  also: [查准率]
  avoid: [精度, 准确度]
- id: average-precision
  en: average precision
  zh: 平均精度
  define_en: Mean.
  define_zh: 平均。
  also: [AP]
- id: gpu-kernel
  en: GPU kernel
  zh: 计算核
  define_en: A program.
  define_zh: 程序。
- id: loss-of-precision
  en: loss of precision
  zh: 精度损失
  define_en: Digits lost.
  define_zh: 丢失的位数。
- id: query-key-value
  en: query, key and value
  zh: 查询、键和值
  define_en: Three.
  define_zh: 三者。
"""
PAGE = """\
---
title: 精确率
description: 它是什么。
tags: [precision, 精确率]
---

# 精确率

## 一句话概括 { #idea }

精确率（precision）是对的比例。

## 为什么需要它 { #why }

正文在第 15 行。
"""
LINE = 15


@pytest.fixture
def known(tmp_path: Path) -> list[dict[str, object]]:
    file = tmp_path / "glossary.yml"
    file.write_text(GLOSSARY, "utf-8")
    return glossary.load(file)


def write(folder: Path, text: str, name: str = "page.md") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def body(folder: Path, line: str, name: str = "page.md") -> Path:
    return write(folder, PAGE.replace("正文在第 15 行。", line), name)


def found(problems: Iterable[PluginError]) -> list[tuple[int, str]]:
    """Line and message of each."""
    parts = [re.match(r".*?\.(?:md|py|yml):(\d+): (.*)", str(one)) for one in problems]
    return [(int(part[1]), part[2]) for part in parts]


def test_the_tree_is_without_a_finding() -> None:
    assert not list(map(str, terms.check()))


# Translations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("它的精度（precision）高。", "的精度（precision）"),
        ("看**准确度**（precision，P）。", "准确度（precision）"),
        ("这是平均准确率（average precision）。", "平均准确率（average precision）"),
    ],
)
def test_a_term_translated_in_another_way(
    tmp_path: Path, known: list[dict[str, object]], line: str, word: str
) -> None:
    ((number, message),) = found(terms.translations([body(tmp_path, line)], known))
    assert number == LINE and f"{word}': elsewhere it is '" in message


@pytest.mark.parametrize(
    "line",
    [
        "它的精确率（precision）高。",
        "*查准*率（precision，又称 P）高。",
        "这个模型（RetinaNet）更快，即 AP（average precision）。",
        "`精度（precision）`",
        "一种新词（neologism）",
    ],
)
def test_a_term_as_the_glossary_has_it(
    tmp_path: Path, known: list[dict[str, object]], line: str
) -> None:
    assert not found(terms.translations([body(tmp_path, line)], known))


def test_a_word_that_the_glossary_lacks_is_learned_from_the_other_pages(
    tmp_path: Path, known: list[dict[str, object]]
) -> None:
    """kernel alone is none of its English names; beside 计算核 it is told what it means."""
    one = body(tmp_path, "一个计算核（kernel）就够。", "one.md")
    other = body(tmp_path, "融合的内核（kernel）更快。", "other.md")
    assert not found(terms.translations([other], known))
    ((number, message),) = found(terms.translations([one, other], known))
    assert number == LINE and "内核（kernel）': elsewhere it is '计算核'" in message


def test_in_code_nothing_is_translated(tmp_path: Path, known: list[dict[str, object]]) -> None:
    path = body(tmp_path, "```text\n精度（precision）\n```")
    assert not found(terms.translations([path], known))
    assert not found(terms.avoided(path, known))


def test_a_rendering_that_the_glossary_rejects(
    tmp_path: Path, known: list[dict[str, object]]
) -> None:
    path = body(tmp_path, "平均精度与精度不同。")
    ((number, message),) = found(terms.avoided(path, known))
    assert number == LINE and message == "'精度' for precision; the glossary says '精确率'"
    assert not found(terms.avoided(body(tmp_path, "平均精度没有精度损失。"), known))


def test_what_the_glossary_rejects_is_a_list_of_plain_texts(tmp_path: Path) -> None:
    for wrong in ("精度", "[<b>]", "[1]"):
        file = write(tmp_path, GLOSSARY.replace("[精度, 准确度]", wrong), "glossary.yml")
        with pytest.raises(PluginError, match=r"glossary\.yml:8: 'avoid' of 'precision' must be"):
            glossary.load(file)


# First use --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "missing"),
    [
        ("精确率是对的比例。", True),
        ("精确率是对的比例。\n\n精确率（precision）如上。", True),  # at first, not later
        ("**精确率**（precision）是对的比例。", False),
        ("Precision 即精确率。", False),
        ("查准率（又名 precision）", False),
        ("精确率这一指标（precision）", False),
        ("对的比例。", False),
        ("Precision 常被误解。\n\n精确率是对的比例。", False),
        ("| 精确率 |\n\n精确率（precision）。", False),  # a table is no running text
    ],
)
def test_a_term_of_the_page_without_its_english_name(
    tmp_path: Path, known: list[dict[str, object]], summary: str, missing: bool
) -> None:
    path = write(tmp_path, PAGE.replace("精确率（precision）是对的比例。", summary))
    of_page = [term for term in known if term["id"] == "precision"]
    expected = "'精确率' is a term of this page; at first say its English name, as in 精确率（pre"
    places = found(terms.first_use(path, of_page))
    assert [number for number, _ in places] == [11] * missing
    assert all(message.startswith(expected) for _, message in places)


def test_below_the_summary_a_term_needs_no_english_name(
    tmp_path: Path, known: list[dict[str, object]]
) -> None:
    text = PAGE.replace("精确率（precision）是", "这是").replace("正文", "精确率")
    assert not found(terms.first_use(write(tmp_path, text), known))


def test_terms_named_one_by_one_need_no_name_for_all(
    tmp_path: Path, known: list[dict[str, object]]
) -> None:
    path = write(tmp_path, PAGE.replace("精确率（precision）", "查询、键和值"))
    assert not found(terms.first_use(path, [t for t in known if t["id"] == "query-key-value"]))


# Typography -------------------------------------------------------------------------------

WRONG = [
    "精度, 召回率都高。",
    "如下: 一个值",
    "是吗?",
    "好!",
    "一;二",
    "句子结束.",
    "使用AI模型",
    "第3层",
    "3GB 的显存很大的GPU",
    "用$x$表示",
    "见上(下文)说",
    "中文 ，后面",
    "| 表, 格 | b |",
    "- **粗**, 是",
    "[链接, 如此](https://example.org/a,b)",
    "## 标题, 二 { #two }",
]


@pytest.mark.parametrize("line", WRONG)
def test_half_width_punctuation_and_missing_spaces(tmp_path: Path, line: str) -> None:
    places = found(terms.punctuation(body(tmp_path, line)))
    assert [number for number, _ in places][:1] == [LINE], places
    assert {number for number, _ in places} == {LINE}


@pytest.mark.parametrize(
    "line",
    [
        "坐标 (x1, y1) 是一个点，“to ” 作提示。",
        "取 32：96 个寄存器；v4：29 个。",
        "见 `a,b`，$f(x, y)$，[链接，如此](https://example.org/a,b)。",
        "```python\nx = '使用AI模型, 好!'\n```",
        "$$\n\\text{使用AI}, x\n$$",
        "80 % 的人，A/B 测试，Faster R-CNN。",
        "- A. Author, B. Author. [Title: a study](https://example.org). ICLR 2015.",
        "## 标题 { #two }",
    ],
)
def test_typography_as_it_should_be(tmp_path: Path, line: str) -> None:
    assert not found(terms.punctuation(body(tmp_path, line)))


def test_title_lab_and_glossary_are_looked_at_too(tmp_path: Path) -> None:
    page = write(tmp_path, PAGE.replace("它是什么。", "它是什么? 使用AI"))
    assert found(terms.punctuation(page))[0][0] == 3
    lab = (
        '# %% [markdown] lang="en"\n# A,b\n\n# %% [markdown] lang="zh"\n# 甲, 乙\n\n# %%\n# 甲,乙\n'
    )
    assert [number for number, _ in found(terms.punctuation(write(tmp_path, lab, "lab.py")))] == [5]
    entry = GLOSSARY.replace("对的比例。", "对的, 比例。")
    file = write(tmp_path, entry, "glossary.yml")
    assert [number for number, _ in found(terms.punctuation(file))] == [6]
