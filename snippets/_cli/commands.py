"""The command line."""

import argparse
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from snippets._cli import copies, library
from snippets._cli.copies import STORE, Copy
from snippets._cli.flatten import CannotFlatten
from snippets._cli.library import Refused, UnknownName, closure, digest
from snippets._cli.words import ARGPARSE, language, t

# Exit codes; argparse itself ends with 2.
DONE, LOOK, USAGE, REFUSED = 0, 1, 2, 3


def parser() -> argparse.ArgumentParser:
    chinese = ARGPARSE if language() == "zh" else {}
    argparse._ = lambda text: chinese.get(text, text)  # type: ignore[attr-defined]
    main = argparse.ArgumentParser(
        prog="runnable-dl",
        description=t(
            "Copy snippets of Runnable Deep Learning into your project and keep them up to date.",
            "把《可运行的深度学习》的代码片段复制到你的项目里，并跟进后来的更正。",
        ),
        epilog=t(
            "Exit codes: 0 done; 1 done, but look: conflicts, differences, a demo that fails; "
            "2 wrong usage, unknown name; 3 refused, nothing was changed.",
            "退出码：0 完成；1 完成但需要你看一眼：有冲突、有差异或示例失败；"
            "2 用法错误或名称不存在；3 已拒绝，没有改动任何文件。",
        ),
    )
    main.add_argument("--version", action="version", version=library.release())
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, en: str, zh: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=t(en, zh), description=t(en, zh))

    json_help = t("for programs", "供程序读取")
    dry_help = t("only say what would be done", "只说明会做什么，不写文件")
    where_help = t("folder to look for copies in (.)", "在哪个目录里找副本（默认当前目录）")
    which_help = t("only these: names, or files", "只看这些：名称或文件")

    sub = command("list", "what there is", "列出全部代码片段")
    sub.add_argument("--json", action="store_true", help=json_help)
    sub = command("search", "find by words, Chinese or English", "按中文或英文词查找")
    sub.add_argument("words", nargs="+", metavar="WORD")
    sub.add_argument("--json", action="store_true", help=json_help)
    sub = command("show", "print a snippet", "显示一个代码片段")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("--deps", action="store_true", help=t("what it imports", "它导入了什么"))
    single_help = t("all in one file", "合成一个文件")
    sub.add_argument("--single-file", action="store_true", help=single_help)
    sub = command("add", "copy snippets, with what they import", "复制代码片段及其依赖")
    sub.add_argument("names", nargs="+", metavar="NAME")
    sub.add_argument("--to", type=Path, required=True, metavar="DIR", help=t("folder", "目标目录"))
    sub.add_argument("--single-file", action="store_true", help=single_help)
    sub.add_argument("--tests", action="store_true", help=t("their tests, too", "连同测试"))
    sub.add_argument("--dry-run", action="store_true", help=dry_help)
    force_help = t("overwrite what stands there", "覆盖已有文件")
    sub.add_argument("--force", action="store_true", help=force_help)
    sub = command("diff", "your edits, and what is new since", "你的修改，以及之后的更新")
    sub.add_argument("names", nargs="*", metavar="NAME", help=which_help)
    sub.add_argument("--in", dest="folder", type=Path, default=Path(), help=where_help)
    sub = command("update", "merge what is new into your copies", "把更新合并到你的副本")
    sub.add_argument("names", nargs="*", metavar="NAME", help=which_help)
    sub.add_argument("--in", dest="folder", type=Path, default=Path(), help=where_help)
    sub.add_argument("--dry-run", action="store_true", help=dry_help)
    sub = command("verify", "run the demos of your copies", "运行副本的示例并核对版本")
    sub.add_argument("names", nargs="*", metavar="NAME", help=which_help)
    sub.add_argument("--in", dest="folder", type=Path, default=Path(), help=where_help)
    python_help = t("interpreter that has torch", "装有 torch 的解释器")
    sub.add_argument("--python", default=sys.executable, help=python_help)
    return main


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _end)  # through what puts things right
    options = parser().parse_args(arguments)
    try:
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except (UnknownName, Refused, CannotFlatten) as error:
        print(t(f"Error: {error}", f"错误：{error}"), file=sys.stderr)
        return USAGE if isinstance(error, UnknownName) else REFUSED
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        print(t(f"Error: {error}", f"错误：{error}"), file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return 130


def _end(*_: object) -> None:
    sys.exit(143)


# What there is --------------------------------------------------------------------


def list_(options: argparse.Namespace) -> int:
    return _print(list(library.library().values()), options.json)


def search(options: argparse.Namespace) -> int:
    found = library.search(options.words)
    if not found and not options.json:
        said = t(
            "nothing found; see `runnable-dl list`", "没有找到；用 `runnable-dl list` 列出全部"
        )
        print(said, file=sys.stderr)
    _print(found, options.json)
    return DONE if found else LOOK


def _print(found: list[library.Snippet], as_json: bool) -> int:
    lang = language()
    if as_json:
        print(library.as_json(found))
        return DONE
    section = ""
    for snippet in found:
        if section != snippet.section[lang]:
            section = snippet.section[lang]
            print(_colour(f"\n{section}", "1"))
        print(f"  {_colour(snippet.stem, '36')}  {snippet.title[lang]}")
        print(f"      {snippet.about[lang]}")
        if snippet.papers:
            print(f"      {_colour(snippet.papers[0], '2')}")
    return DONE


def show(options: argparse.Namespace) -> int:
    name = library.find(options.name).name
    if options.deps:
        for other in closure(name):
            print(other)
        print("torch")
        return DONE
    text = library.copy_of(name, options.single_file)
    if _colours():
        from pygments import highlight
        from pygments.formatters.terminal import TerminalFormatter
        from pygments.lexers.python import PythonLexer

        text = str(highlight(text, PythonLexer(), TerminalFormatter()))  # type: ignore
    print(text, end="")
    return DONE


# Copying --------------------------------------------------------------------------


def add(options: argparse.Namespace) -> int:
    folder: Path = options.to
    if folder.exists() and not folder.is_dir():
        raise Refused(t(f"{folder} is not a folder", f"{folder} 不是目录"))
    wanted = [library.find(word).name for word in options.names]
    names = list(wanted)
    if not options.single_file:
        names = [other for name in wanted for other in closure(name)]
    if options.tests:
        extra = {other for name in wanted for other in library.tested(name)}
        names += sorted(extra.difference(*map(closure, wanted)))
    names = list(dict.fromkeys(names))
    files: dict[Path, bytes] = {}
    for name in names:
        snippet = library.library()[name]
        path = folder / f"{snippet.stem}.py"
        text = library.copy_of(name, options.single_file)
        if _keep(path, name, text, options.force, name in wanted):
            continue
        files[path] = text.encode()
        files |= copies.store(folder, library.body(name, options.single_file))
        _say(options, t("added", "已添加"), path)
    if options.tests:
        for name in wanted:
            path = folder / f"test_{name.rpartition('/')[2]}.py"
            _, module = package(path.with_name(f"{name.rpartition('/')[2]}.py"))
            if not all(part.isidentifier() for part in module.split(".")):
                message = t("is no name to import from", "不能作为导入的名称")
                raise Refused(f"{module}: {message}")
            text = library.test_for(name, module, module.count("."), options.single_file)
            if not _keep(path, name, text, options.force, True):
                files[path] = text.encode()
                _say(options, t("added", "已添加"), path)
    if not options.dry_run:
        copies.write(files, folder)
    return DONE


def _keep(path: Path, name: str, text: str, force: bool, wanted: bool) -> bool:
    """Whether what stands there stays; raises where it is something else."""
    if not path.exists() or force:
        return False
    if path.is_file() and path.read_bytes().replace(b"\r\n", b"\n") == text.encode():
        print(t(f"unchanged  {path}", f"没有变化  {path}"))
        return True
    copy = Copy.read(path) if path.is_file() else None
    if copy and copy.name == name and not wanted:
        print(t(f"kept       {path}", f"保留原样  {path}"))
        return True
    if copy and copy.name == name:
        message = t(
            f"{path} is there, edited or older: `runnable-dl update` merges; --force overwrites",
            f"{path} 已存在，改动过或是旧版：`runnable-dl update` 可以合并，--force 会覆盖",
        )
    else:
        message = t(
            f"{path} is there, and is something else; choose another folder, or --force",
            f"{path} 已存在，而且是别的文件；换一个目录，或用 --force 覆盖",
        )
    raise Refused(message)


def _chosen(options: argparse.Namespace) -> tuple[list[Copy], list[Path]]:
    """The copies that a command is about."""
    folder: Path = options.folder
    if not folder.is_dir():
        raise Refused(t(f"no folder {folder}", f"没有目录 {folder}"))
    found, stores = copies.find(folder)
    if not options.names:
        if not found:
            message = t(f"no copies in {folder.absolute()}", f"{folder.absolute()} 中没有副本")
            print(message, file=sys.stderr)
        return found, stores
    chosen: list[Copy] = []
    for word in options.names:
        path = Path(word)
        fitting = [c for c in found if path.exists() and c.path.resolve() == path.resolve()]
        if path.is_file() and not fitting and (copy := Copy.read(path)):
            fitting = [copy]
        if not fitting:
            fitting = [c for c in found if word in (c.name, c.name.rpartition("/")[2])]
        if not fitting:
            name = library.find(word).name
            message = t(f"no copy of {name} in {folder}", f"{folder} 中没有 {name} 的副本")
            raise UnknownName(message)
        chosen += [c for c in fitting if c not in chosen]
    return chosen, stores


def diff(options: argparse.Namespace) -> int:
    chosen, stores = _chosen(options)
    outcome = DONE
    for copy in chosen:
        base = copy.base(stores)
        title = f"{copy.path}: {copy.name} {copy.release}"
        if not copy.edited and copy.known and copy.current:
            print(t(f"{title}, as copied, current", f"{title}，未改动，已是最新"))
            continue
        outcome = LOOK
        print(_colour(title, "1"))
        if base is None:
            print(_lost(copy))
        else:
            print(t("your edits:", "你的修改："), end="\n" if copy.edited else "")
            _difference(base, copy.text, "copied", "yours", copy.edited)
        if not copy.known:
            print(t("upstream it no longer exists", "上游已没有这个代码片段"))
        elif base is not None:
            said = t("new since:", "之后的更新：")
            print(said, end="\n" if not copy.current else "")
            for entry in library.history(copy.new):
                if entry not in library.history(base):
                    print(t(f"  meaning changed: {entry}", f"  含义变化：{entry}"))
            _difference(base, copy.new, copy.release, library.release(), not copy.current)
    return outcome


def _difference(old: str, new: str, was: str, now: str, any_: bool) -> None:
    if not any_:
        print(t(" none", "无"))
    colours = {"+": "32", "-": "31", "@": "36"}
    for line in difflib.unified_diff(old.splitlines(), new.splitlines(), was, now, lineterm=""):
        print(_colour(line, colours.get(line[:1], "")))


def _lost(copy: Copy) -> str:
    return t(
        f"the version it was copied from ({copy.digest}) is not in {STORE}/: restore that folder",
        f"{STORE}/ 里没有它复制时的版本（{copy.digest}）：请恢复该目录",
    )


def update(options: argparse.Namespace) -> int:
    chosen, stores = _chosen(options)
    found, _ = copies.find(options.folder)
    for copy in list(chosen):  # what it imports belongs with it
        if copy.known and not copy.single:
            near = [c for c in found if c.path.parent == copy.path.parent and not c.single]
            chosen += [c for c in near if c.name in closure(copy.name) and c not in chosen]
    files: dict[Path, bytes] = {}
    outcome = DONE
    for copy in chosen:
        if not copy.known:
            print(t(f"gone upstream  {copy.path}", f"上游已删除  {copy.path}"))
            outcome = LOOK
            continue
        if line := copy.conflict:
            message = t("an earlier conflict is open; settle it first", "先解决之前留下的冲突")
            raise Refused(f"{copy.path}:{line}: {message}")
        if copy.current:
            print(t(f"current    {copy.path}", f"已是最新  {copy.path}"))
            continue
        base = copy.base(stores)
        if base is None and copy.edited:
            raise Refused(f"{copy.path}: {_lost(copy)}")
        text, conflict = (
            copies.merge(copy, base) if base is not None and copy.edited else (copy.new, False)
        )
        folder = copy.path.parent
        files[copy.path] = copy.with_text(text)
        files |= copies.store(_home(copy.path), copy.new)
        said = t("merged", "已合并") if copy.edited else t("updated", "已更新")
        if conflict:
            outcome = LOOK
            said = t("conflict", "有冲突")
        _say(options, said, copy.path)
        for other in [] if copy.single else closure(copy.name)[:-1]:
            path = folder / f"{other.rpartition('/')[2]}.py"
            imported = base is not None and re.search(rf"^from \.{path.stem} import", base, re.M)
            if not imported and not path.exists() and path not in files:
                files[path] = library.copy_of(other).encode()
                files |= copies.store(_home(copy.path), library.body(other))
                _say(options, t("added", "已添加"), path)
    if not options.dry_run:
        copies.write(files, _root(files))
    return outcome


def _home(path: Path) -> Path:
    """Where the versions are kept: the nearest folder that keeps some, else beside the copy."""
    return next((p for p in path.absolute().parents if (p / STORE).is_dir()), path.parent)


def _root(files: dict[Path, bytes]) -> Path:
    return Path(os.path.commonpath([p.parent.absolute() for p in files] or [Path().absolute()]))


def verify(options: argparse.Namespace) -> int:
    chosen, _ = _chosen(options)
    python = shutil.which(str(options.python))
    if not python:
        raise Refused(t(f"no interpreter {options.python}", f"没有解释器 {options.python}"))
    outcome = DONE
    for copy in chosen:
        versions = library.published(copy.name) if copy.known else {}
        version = versions.get(digest(copy.text))
        state = t(f"as published in {version}", f"与 {version} 发布的一致") if version else ""
        state = state or t("differs from every published version", "与任何发布版都不同")
        print(f"{copy.path}: {state}; ", end="", flush=True)
        done = _run(python, copy)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            print(_colour(t(f"demo fails: {last}", f"示例失败：{last}"), "31"))
        else:
            print(t("demo runs", "示例可运行"))
        if done.returncode or not version:
            outcome = LOOK
    return outcome


def _run(python: str, copy: Copy) -> subprocess.CompletedProcess[str]:
    """Run a copy as a file; where it has relative imports, as the module that it is."""
    root, module = package(copy.path)
    command = [python, str(copy.path.resolve())]
    if re.search(r"^from \.", copy.text, re.MULTILINE):
        command = [python, "-m", module]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=600
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", t("takes too long", "用时过长"))


def package(path: Path) -> tuple[Path, str]:
    """The folder to import a file from, and the name it has there."""
    folder = path.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    if folder == path.resolve().parent:  # a folder without __init__.py is a package, too
        folder = folder.parent
    return folder, ".".join(path.resolve().relative_to(folder).with_suffix("").parts)


# Terminal -------------------------------------------------------------------------


def _colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _colour(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and _colours() else text


def _say(options: argparse.Namespace, what: str, path: Path) -> None:
    dry = t(" (dry run)", "（试运行）") if options.dry_run else ""
    print(f"{what:<10} {path}{dry}")


COMMANDS = {
    "list": list_,
    "search": search,
    "show": show,
    "add": add,
    "diff": diff,
    "update": update,
    "verify": verify,
}
