"""The reader's language, from the locale."""

import locale
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches


def language() -> str:
    """ "zh" or "en"."""
    names = (os.environ.get(name) for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))
    name = next(filter(None, names), None) or locale.getlocale()[0] or ""
    try:
        "中".encode(getattr(sys.stderr, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return "en"
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"


def t(en: str, zh: str) -> str:
    """The text in the reader's language."""
    return zh if language() == "zh" else en


def did_you_mean(word: str, known: Iterable[str]) -> str:
    names = {name.split("/")[-1]: name for name in known}
    close = get_close_matches(word.split("/")[-1], names, n=1, cutoff=0.5)
    if not close:
        return ""
    return t(f"; did you mean {close[0]}?", f"；是不是 {close[0]}？")


# What argparse says by itself; it asks gettext, which has no Chinese for it.
ARGPARSE = {
    "usage: ": "用法：",
    "positional arguments": "参数",
    "options": "选项",
    "show program's version number and exit": "显示版本号",
    "show this help message and exit": "显示这份帮助",
    "%(prog)s: error: %(message)s\n": "%(prog)s：错误：%(message)s\n",
    "the following arguments are required: %s": "缺少参数：%s",
    "unrecognized arguments: %s": "不认识的参数：%s",
    "argument %(argument_name)s: %(message)s": "参数 %(argument_name)s：%(message)s",
    "expected one argument": "需要一个值",
    "expected at least one argument": "至少需要一个值",
    "invalid choice: %(value)r (choose from %(choices)s)": "没有 %(value)r，可选：%(choices)s",
    "invalid choice: %(value)r, maybe you meant %(closest)r? (choose from %(choices)s)": (
        "没有 %(value)r，是不是 %(closest)r？可选：%(choices)s"
    ),
}
