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
    sub.add_argument(
        "--to", type=_folder, required=True, metavar="DIR", help=t("folder", "目标目录")
    )
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


def _folder(text: str) -> Path:
    if not text.strip():  # an unset variable of the shell
        raise argparse.ArgumentTypeError(t("name a folder", "请指定目录"))
    return Path(text)


def main(arguments: list[str] | None = None) -> int:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if sys.stdout and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    for name in ("SIGTERM", "SIGHUP"):  # through what puts things right
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _end)
    options = parser().parse_args(arguments)
    try:
        code = COMMANDS[options.command](options)
        if sys.stdout:
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
    versions: dict[Path, bytes] = {}
    said: list[str] = []

    def put(path: Path, name: str, text: str) -> None:
        if path in files:
            raise Refused(t(f"{name}: {path} is taken", f"{name}：{path} 已被占用"))
        if stays := _stays(path, name, text, options.force, name in wanted):
            said.append(_line(stays, path))
        else:
            files[path] = text.encode()
            said.append(_line(t("added", "已添加"), path))

    for name in names:
        path = folder / f"{library.library()[name].stem}.py"
        put(path, name, library.copy_of(name, options.single_file))
        versions |= copies.store(folder, library.body(name, options.single_file))
    for name in wanted if options.tests else []:
        _, module = package(folder / f"{name.rpartition('/')[2]}.py")
        if not all(part.isidentifier() for part in module.split(".")):
            raise Refused(t(f"{module} cannot be imported", f"{module} 不能作为模块导入"))
        path = folder / f"test_{name.rpartition('/')[2]}.py"
        text = library.test_for(name, module, module.count("."), options.single_file)
        put(path, name, text)
    expected = {} if options.force else dict.fromkeys(files)
    copies.write(files | versions, folder, expected, options.dry_run)
    _report(options, said)
    return DONE


def _stays(path: Path, name: str, text: str, force: bool, wanted: bool) -> str:
    """In a word, why what stands there stays; empty for nothing; raises for something else."""
    if not path.exists() or force:
        return ""
    same = path.is_file() and path.read_bytes().replace(b"\r\n", b"\n") == text.encode()
    copy = Copy.read(path) if path.is_file() else None
    ours = copy is not None and copy.name == name
    if same or (copy and ours and not copy.edited and copy.current):
        return t("unchanged", "没有变化")
    if ours and not wanted:
        return t("kept", "保留原样")
    if ours:
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
        if path.is_file() and not fitting:
            if not (copy := Copy.read(path)):
                message = t("no line `# runnable-dl: …` at its head", "开头没有 `# runnable-dl: …`")
                raise Refused(f"{path}: {message}")
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
    expected: dict[Path, bytes | None] = {}
    said: list[str] = []
    outcome = DONE
    for copy in chosen:
        word = _state(copy)
        if not word:
            text, conflict = _newer(copy, stores)
            files[copy.path] = copy.with_text(text)
            expected[copy.path] = copy.raw
            word = t("merged", "已合并") if copy.edited else t("updated", "已更新")
            word = t("conflict", "有冲突") if conflict else word
            outcome = LOOK if conflict else outcome
            for path, name in _new_imports(copy, copy.base(stores) or ""):
                if path not in files and not path.exists():
                    files[path], expected[path] = library.copy_of(name).encode(), None
                    files |= copies.store(_home(path, options.folder), library.body(name))
                    said.append(_line(t("added", "已添加"), path))
        elif not copy.known or not copy.current:
            outcome = LOOK
        said.append(_line(word, copy.path))
        if copy.known and not copy.older:
            files |= copies.store(_home(copy.path, options.folder), copy.new)
    copies.write(files, _root(files), expected, options.dry_run)
    _report(options, said)
    return outcome


def _state(copy: Copy) -> str:
    """In a word, why a copy cannot be updated; empty where it can."""
    if not copy.known:
        return t("gone upstream", "上游已删除")
    if copy.current:
        return t("current", "已是最新")
    if copy.older:
        return t(f"made by {copy.release}, a newer tool", f"由更新的 {copy.release} 生成")
    return ""


def _newer(copy: Copy, stores: list[Path]) -> tuple[str, bool]:
    """The new text with your edits, and whether they are in conflict."""
    if line := copy.conflict:
        message = t("an earlier conflict is open; settle it first", "先解决之前留下的冲突")
        raise Refused(f"{copy.path}:{line}: {message}")
    if not copy.edited:
        return copy.new, False
    base = copy.base(stores)
    if base is None:
        raise Refused(f"{copy.path}: {_lost(copy)}")
    return copies.merge(copy, base)


IMPORTED = re.compile(r"^from \.(\w+) import", re.MULTILINE)


def _new_imports(copy: Copy, base: str) -> list[tuple[Path, str]]:
    """What the new version imports that the old one did not, and where it belongs."""
    if copy.single:
        return []
    stems = {*IMPORTED.findall(copy.new)} - {*IMPORTED.findall(base)}
    direct = [name for name in library.needs(copy.name) if name.rpartition("/")[2] in stems]
    names = dict.fromkeys(other for name in direct for other in closure(name))
    return [(copy.path.with_name(f"{name.rpartition('/')[2]}.py"), name) for name in names]


def _home(path: Path, folder: Path) -> Path:
    """Where the versions are kept: the nearest folder that keeps some, else beside the copy.

    Not above the folder that the command is about, nor above the repository.
    """
    beside = path.parent.resolve()
    for parent in [beside, *beside.parents]:
        if (parent / STORE).is_dir():
            return parent
        if parent == folder.resolve() or (parent / ".git").exists():
            break
    return beside


def _root(files: dict[Path, bytes]) -> Path:
    """What holds all of these files; links must not lead out of it."""
    folders = [p.parent.parent if p.parent.name == STORE else p.parent for p in files]
    return Path(os.path.commonpath([p.resolve() for p in folders] or [Path().resolve()]))


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


AS_MODULE = """
import runpy, sys, types
folder, stem = sys.argv.pop(1), sys.argv.pop(1)
sys.modules["copies"] = package = types.ModuleType("copies")
package.__path__ = [folder]
runpy.run_module(f"copies.{stem}", run_name="__main__", alter_sys=True)
"""


def _run(python: str, copy: Copy) -> subprocess.CompletedProcess[str]:
    """Run a copy as a file; where it has relative imports, as part of a package of its folder."""
    path = copy.path.resolve()
    command = [python, str(path)]
    if IMPORTED.search(copy.text):
        command = [python, "-c", AS_MODULE, str(path.parent), path.stem]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, errors="replace", timeout=600
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
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return bool(sys.stdout) and sys.stdout.isatty() and not plain


def _colour(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and _colours() else text


def _line(word: str, path: Path) -> str:
    return f"{word:<10} {path}"


def _report(options: argparse.Namespace, said: list[str]) -> None:
    """What was done, once it is done."""
    dry = t(" (dry run)", "（试运行）") if options.dry_run else ""
    for line in said:
        print(line + dry)


COMMANDS = {
    "list": list_,
    "search": search,
    "show": show,
    "add": add,
    "diff": diff,
    "update": update,
    "verify": verify,
}
