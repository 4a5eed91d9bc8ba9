"""A snippet and what it imports as one file.

What two of the files call alike is renamed in the one that is imported: `_check` of `nms` becomes
`_nms_check`. Where that cannot be done for certain, `CannotFlatten` says why.
"""

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Iterator


class CannotFlatten(Exception):
    """The files do not fit into one namespace."""


def flatten(files: dict[str, str]) -> str:
    """The files, by name and each after those it imports, as one; the last is what it is for."""
    modules = {stem: _Module(stem, text) for stem, text in files.items()}
    main = modules[next(reversed(files))]
    imports: dict[str, str] = {}  # bound name: statement
    for module in modules.values():
        for name, statement in module.imports.items():
            if imports.setdefault(name, statement) != statement:
                raise CannotFlatten(f"{module.stem}.py: '{name}' means '{imports[name]}' elsewhere")
    used = {*dir(builtins), *imports}
    if clash := used & main.own:
        raise CannotFlatten(f"{main.stem}.py: {sorted(clash)} mean something else elsewhere")
    final: dict[tuple[str, str], str] = {("", ""): ""}
    for module in [main, *modules.values()]:
        for name in sorted(module.own - {n for stem, n in final if stem == module.stem}):
            new = name
            if name in used:
                new = f"_{module.stem}{name}" if name[0] == "_" else f"{module.stem}_{name}"
                if new in used:
                    raise CannotFlatten(f"{module.stem}.py: neither '{name}' nor '{new}' is free")
            used.add(new)
            final[module.stem, name] = new
    for module in modules.values():
        for local, (stem, name) in module.taken.items():
            while (stem, name) not in final:  # taken by that file from another one
                if name not in modules[stem].taken:
                    raise CannotFlatten(f"{module.stem}.py: {stem}.py has no '{name}'")
                stem, name = modules[stem].taken[name]
            module.rename(local, final[stem, name])
        for name in module.own:
            module.rename(name, final[module.stem, name])
    parts = [main.doc, _imports(set(imports.values())), main.all]
    for module in modules.values():
        if module is not main:
            module.drop_demo()
            parts.append(f"\n# {module.stem}\n{module.comment()}")
        parts.append(f"\n{module.body().strip()}\n")
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(filter(None, (p.rstrip(" ") for p in parts))))


class _Module:
    """A file: what its top level binds, and where it changes."""

    def __init__(self, stem: str, text: str) -> None:
        self.stem = stem
        self.lines = text.encode().splitlines(keepends=True)  # ast counts bytes
        self.tree = ast.parse(text)
        self.scope = symtable.symtable(text, stem, "exec")
        self.imports: dict[str, str] = {}  # bound name: statement
        self.taken: dict[str, tuple[str, str]] = {}  # bound name: file and name there
        self.doc = self.all = ""
        self.edits: list[tuple[int, int, bytes, bytes]] = []  # line, column, old, new
        self.dropped: set[int] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                if node.col_offset or not node.module or node.names[0].name == "*":
                    raise CannotFlatten(f"{stem}.py:{node.lineno}: import names, at the left edge")
                self.taken |= {a.asname or a.name: (node.module, a.name) for a in node.names}
                self._drop(node)
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                for alias in node.names:
                    bound = alias.asname or alias.name
                    one = ast.Import([alias])
                    if isinstance(node, ast.ImportFrom):
                        one = ast.ImportFrom(node.module, [alias], 0)
                    self.imports[bound] = ast.unparse(one)
                self._drop(node)
            elif isinstance(node, ast.Expr) and node is self.tree.body[0]:
                self.doc = self._drop(node)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                self.all = self._drop(node)
        symbols = {s.get_name(): s for s in self.scope.get_symbols()}
        bound = {n for n, s in symbols.items() if s.is_assigned() or s.is_namespace()}
        self.own = bound - {*self.imports, *self.taken, "__all__"}

    def _drop(self, node: ast.stmt) -> str:
        span = range(node.lineno - 1, node.end_lineno or node.lineno)
        self.dropped.update(span)
        return b"".join(self.lines[i] for i in span).decode()

    def rename(self, name: str, new: str) -> None:
        if name == new:
            return
        for scope in _inner(self.scope):
            if name in scope.get_identifiers() and not scope.lookup(name).is_global():
                where = f"{self.stem}.py:{scope.get_lineno()}"
                raise CannotFlatten(f"{where}: '{name}' stands for something else here")
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and node.id == name:
                self._edit(node.lineno, node.col_offset, name, new)
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                column = self.lines[node.lineno - 1].index(name.encode(), node.col_offset + 4)
                self._edit(node.lineno, column, name, new)

    def _edit(self, line: int, column: int, name: str, new: str) -> None:
        if not self.lines[line - 1][column:].startswith(name.encode()):
            raise CannotFlatten(f"{self.stem}.py:{line}: cannot rename '{name}' within a string")
        self.edits.append((line, column, name.encode(), new.encode()))

    def comment(self) -> str:
        """The header as a comment."""
        lines = (ast.get_docstring(self.tree) or "").splitlines()
        return "".join(f"# {line}".rstrip() + "\n" for line in lines)

    def drop_demo(self) -> None:
        for node in self.tree.body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                self._drop(node)

    def body(self) -> str:
        """The code, without what stands once for all files."""
        lines = list(self.lines)
        for line, column, old, new in sorted(set(self.edits), reverse=True):
            text = lines[line - 1]
            lines[line - 1] = text[:column] + new + text[column + len(old) :]
        return b"".join(text for i, text in enumerate(lines) if i not in self.dropped).decode()


def _inner(scope: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in scope.get_children():
        yield child
        yield from _inner(child)


def _imports(statements: set[str]) -> str:
    def place(statement: str) -> tuple[bool, bool, str]:
        module = statement.split()[1]
        ours = module.split(".")[0] not in sys.stdlib_module_names
        return module != "__future__", ours, statement.replace("from", "import~")

    ordered = sorted(statements, key=place)
    groups = ["\n".join(s for s in ordered if place(s)[1] is ours) for ours in (False, True)]
    return "\n\n".join(filter(None, groups)) + "\n"
