"""A snippet and what it imports as one file.

What two of the files call alike is renamed in the one that is imported: `_check` of `nms` becomes
`_nms_check`. Where the outcome might differ from the files, `CannotFlatten` says why.
"""

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Iterator
from itertools import pairwise

GUARD = "__name__ == '__main__' and "  # what is done, when run, before the imports below it


class CannotFlatten(Exception):
    """The files do not fit into one namespace."""


def flatten(files: dict[str, str]) -> str:
    """The files, by name and each after those it imports, as one; the last is what it is for."""
    last = next(reversed(files))
    modules = {stem: _Module(stem, text, stem == last) for stem, text in files.items()}
    main = modules[last]
    imports: dict[str, str] = {}  # bound name: statement
    for module in modules.values():
        for name, statement in module.imports.items():
            if imports.setdefault(name, statement) != statement:
                raise module.problem(1, f"'{name}' means '{imports[name]}' elsewhere")
        if module.future != main.future:
            raise module.problem(1, "import the same from __future__ as the other files")
    used = {*dir(builtins), *_roots(imports)}
    final: dict[tuple[str, str], str] = {}
    for module in [main, *modules.values()]:
        for name in sorted(module.own):
            if (module.stem, name) in final:
                continue
            new = name
            if name in used:
                new = f"_{module.stem}{name}" if name[0] == "_" else f"{module.stem}_{name}"
                if new in used or module is main:
                    raise module.problem(1, f"'{name}' stands for something else in another file")
            used.add(new)
            final[module.stem, name] = new
    for module in modules.values():
        for name in sorted(module.free & (used - {*dir(builtins)} | _roots(imports))):
            raise module.problem(1, f"'{name}', used here, stands for something else elsewhere")
        for local, (stem, name) in module.taken.items():
            while (stem, name) not in final:  # taken by that file from another one
                if name not in modules[stem].taken:
                    raise module.problem(1, f"{stem}.py has no '{name}'")
                stem, name = modules[stem].taken[name]
            module.rename(local, final[stem, name])
        for name in module.own:
            module.rename(name, final[module.stem, name])
    guards = {module.guard for module in modules.values() if module.guard}
    if len(guards) > 1:
        raise main.problem(1, "the files prepare in different ways to be run")
    late = {statement for module in modules.values() for statement in module.late}
    early = set(imports.values()) - late
    head = [main.doc, _imports(early), *guards, _imports(late), main.all]
    parts = ["\n\n".join(part.strip() for part in head if part)]
    for module in modules.values():
        if module is not main:
            parts.append(f"# {module.stem}\n{module.comment()}".rstrip())
        parts.append(module.body().strip())
    return "\n\n\n".join(filter(None, parts)) + "\n"


class _Module:
    """A file: what its top level binds, and where it changes."""

    def __init__(self, stem: str, text: str, main: bool) -> None:
        self.stem = stem
        if not main:
            text = self._without_demo(text)
        self.lines = text.encode().splitlines(keepends=True)  # ast counts bytes
        self.tree = ast.parse(text)
        self.scope = symtable.symtable(text, stem, "exec")
        self.imports: dict[str, str] = {}  # bound name: statement
        self.taken: dict[str, tuple[str, str]] = {}  # bound name: file and name there
        self.late: set[str] = set()  # those below the guard
        self.doc = self.all = self.guard = ""
        self.edits: set[tuple[int, int, bytes, bytes]] = set()  # line, column, old, new
        self.dropped: set[int] = set()
        self.future = sorted(
            ast.unparse(node)
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        )
        self._take_out(main)
        symbols = {s.get_name(): s for s in self.scope.get_symbols()}
        bound = {
            n for n, s in symbols.items() if s.is_assigned() or s.is_namespace() or s.is_imported()
        }
        self.own = bound - {*_roots(self.imports), *self.taken, "__all__"}
        inner = {n for scope in _inner(self.scope) for n in _globals(scope)}
        self.free = ({*symbols} | inner) - bound  # of Python itself

    def problem(self, line: int, message: str) -> CannotFlatten:
        return CannotFlatten(f"{self.stem}.py:{line}: {message}")

    def _without_demo(self, text: str) -> str:
        lines = text.splitlines(keepends=True)
        for node in reversed(ast.parse(text).body):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                if node.orelse:
                    raise self.problem(node.lineno, "the demo has an else")
                del lines[node.lineno - 1 : node.end_lineno]
        return "".join(lines)

    def _take_out(self, main: bool) -> None:
        """Drop what stands once for all files: header, imports, `__all__`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                if node.col_offset or not node.module or node.names[0].name == "*":
                    raise self.problem(node.lineno, "import names, at the left edge")
                self.taken |= {a.asname or a.name: (node.module, a.name) for a in node.names}
        begun = False  # code after which an import would come too early
        for node in self.tree.body:
            if isinstance(node, ast.If) and ast.unparse(node.test).startswith(GUARD) and not begun:
                self.guard = self._drop(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                if begun:
                    raise self.problem(node.lineno, "an import stands below other code")
                self._note(node)
            elif isinstance(node, ast.Expr) and node is self.tree.body[0]:
                self.doc = self._drop(node)
            elif "__all__" in (n.id for n in ast.walk(node) if isinstance(n, ast.Name)):
                if not isinstance(node, ast.Assign) or self.all:
                    raise self.problem(node.lineno, "__all__ is assigned once")
                self.all = self._drop(node)
                if main and (aliases := {n for n in self.taken if f"'{n}'" in ast.unparse(node)}):
                    raise self.problem(node.lineno, f"{sorted(aliases)} are of other files")
            else:
                begun = True
        for node, other in pairwise(self.tree.body):
            if other.lineno == node.end_lineno and other.lineno - 1 in self.dropped:
                raise self.problem(other.lineno, "one statement a line")

    def _note(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                one = ast.unparse(ast.Import([alias]))
            elif not node.level:
                one = ast.unparse(ast.ImportFrom(node.module, [alias], 0))
            else:
                continue
            self.imports[alias.asname or alias.name] = one
            if self.guard:
                self.late.add(one)
        self._drop(node)

    def _drop(self, node: ast.stmt) -> str:
        span = range(node.lineno - 1, node.end_lineno or node.lineno)
        self.dropped.update(span)
        return b"".join(self.lines[i] for i in span).decode()

    def rename(self, name: str, new: str) -> None:
        if name == new:
            return
        for scope in _inner(self.scope):
            for taken in (name, new):
                if taken in scope.get_identifiers() and not scope.lookup(taken).is_global():
                    message = f"'{taken}' stands for something else here"
                    raise self.problem(scope.get_lineno(), message)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and node.id == name:
                if name in self.taken and not isinstance(node.ctx, ast.Load):
                    raise self.problem(node.lineno, f"'{name}' is imported and assigned")
                self._edit(node.lineno, node.col_offset, name, new)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node in self.tree.body:
                if node.name == name:
                    found = re.compile(rb"\s*(?:def|class)\s+").match(self.lines[node.lineno - 1])
                    assert found
                    self._edit(node.lineno, found.end(), name, new)
            elif name in _said(node):
                line = getattr(node, "lineno", 1)
                if line - 1 not in self.dropped:
                    raise self.problem(line, f"cannot rename '{name}' here")

    def _edit(self, line: int, column: int, name: str, new: str) -> None:
        if not self.lines[line - 1][column:].startswith(name.encode()):
            raise self.problem(line, f"cannot rename '{name}' within a string")
        self.edits.add((line, column, name.encode(), new.encode()))

    def comment(self) -> str:
        """The header as a comment."""
        lines = (ast.get_docstring(self.tree) or "").splitlines()
        return "".join(f"# {line}".rstrip() + "\n" for line in lines)

    def body(self) -> str:
        """The code, without what stands once for all files."""
        lines = list(self.lines)
        for line, column, old, new in sorted(self.edits, reverse=True):
            text = lines[line - 1]
            lines[line - 1] = text[:column] + new + text[column + len(old) :]
        return b"".join(text for i, text in enumerate(lines) if i not in self.dropped).decode()


def _roots(imports: dict[str, str]) -> set[str]:
    return {name.partition(".")[0] for name in imports}


def _said(node: ast.AST) -> set[str]:
    """The names that a node holds as text, save where they name something else."""
    found: set[str] = set()
    if not isinstance(node, ast.Attribute | ast.keyword):
        for _, value in ast.iter_fields(node):
            found.update(re.findall(r"'(\w+)=?'", repr(value)) if value else [])
    return found


def _inner(scope: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in scope.get_children():
        yield child
        yield from _inner(child)


def _globals(scope: symtable.SymbolTable) -> list[str]:
    return [s.get_name() for s in scope.get_symbols() if s.is_global()]


def _imports(statements: set[str]) -> str:
    def place(statement: str) -> tuple[bool, bool, str]:
        module = statement.split()[1]
        foreign = module.split(".")[0] not in sys.stdlib_module_names
        return module != "__future__", foreign, statement.replace("from", "import~")

    ordered = sorted(statements, key=place)
    groups = ["\n".join(s for s in ordered if place(s)[1] is foreign) for foreign in (False, True)]
    return "\n\n".join(filter(None, groups))
