"""Digests of code, so that a step reruns when the code it uses changes and at no other time.

Standard library only: the Snakefile imports this module at every parse. What a file's text says is kept between
processes, as its byte code is: every Snakemake process and every step asks. A digest follows imports inside the package
(the import closure), ignores comments, docstrings, formatting and file times, and does not depend on the Python
version: it walks the names of syntax nodes and their non-empty fields instead of ``ast.dump``, whose text changes
between versions.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "lm_headroom"
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_LENGTH = 16
_STORE = PACKAGE_ROOT / "__pycache__" / "digests.json"
_MOST_KEPT = 2000
"""Texts; a checkout has some 150 files, and each edit adds one."""

_NO_METHOD = ("artifacts.catalogue",)
"""Modules that say where results lie, and not how they are made: a new artifact leaves the others as they are."""


@cache
def code_digest(*modules: str, root: Path = PACKAGE_ROOT) -> str:
    """Digest of the import closure of ``modules`` (dotted names below the package, such as ``report.figures.fig03``).

    Raises:
        FileNotFoundError: a module does not exist.
    """
    closure: dict[str, Path] = {}
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module in closure:
            continue
        path = _module_path(module, root)
        if path is None:
            raise FileNotFoundError(f"no module {PACKAGE}.{module} below {root}")
        if module in _NO_METHOD:
            continue
        closure[module] = path
        pending.extend(_imports(path, module, root))
    digest = hashlib.sha256()
    for module in sorted(closure):
        digest.update(f"{module}\n{_parsed(_text(closure[module])).digest}\n".encode())
    _keep()
    return digest.hexdigest()[:_LENGTH]


def package_digest(root: Path = PACKAGE_ROOT) -> str:
    """Digest of all Python files of the package, as they are: editors leave some there that are no modules."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        with suppress(OSError):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:_LENGTH]


def source_digest(path: Path) -> str:
    """Digest of one Python file, blind to comments, docstrings and formatting."""
    return _parsed(_text(Path(path))).digest[:_LENGTH]


def source_imports(path: Path) -> list[str]:
    """Modules that one Python file may import, at any depth of nesting, each with the packages it is in.

    Relative ones begin with dots. What is imported from a module may be a module itself, and is listed as one.
    """
    modules: dict[str, None] = {}
    for source, names in _parsed(_text(Path(path))).imports:
        dots = source[: len(source) - len(source.lstrip("."))]
        parts = source.removeprefix(dots).split(".")
        modules.update(dict.fromkeys(dots + ".".join(parts[:n]) for n in range(1, len(parts) + 1) if parts[0]))
        modules.update(dict.fromkeys(f"{source}{'' if source.endswith('.') else '.'}{name}" for name in names))
    return list(modules)


@dataclass(frozen=True)
class _Parsed:
    """What a file's text says: its digest, and the modules that it imports from, each with the names, with dots."""

    digest: str
    imports: tuple[tuple[str, tuple[str, ...]], ...]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _parsed(text: str) -> _Parsed:
    """Digest and imports of a file, by its text: most files are in the closure of most steps.

    Raises:
        SyntaxError: it is no Python.
    """
    key = hashlib.sha256(f"{_own_text()}\n{text}".encode()).hexdigest()
    if key not in _kept():
        parsed = _parse(text)
        _kept()[key] = [parsed.digest, parsed.imports]
        _unsaved.append(key)
    digest, imports = _kept()[key]
    return _Parsed(digest, tuple((module, tuple(names)) for module, names in imports))


_unsaved: list[str] = []


@cache
def _own_text() -> str:
    """What is kept was found by the code that is here now."""
    return _text(Path(__file__))


@cache
def _kept() -> dict[str, Any]:
    """Digests and imports that earlier processes found, by text and code."""
    try:
        return dict(json.loads(_text(_STORE)))
    except (OSError, ValueError, TypeError):
        return {}


def _keep() -> None:
    """Keep what this process found. Written beside and renamed, since others may do the same; not where one cannot."""
    if not _unsaved or sys.dont_write_bytecode:
        return
    _unsaved.clear()
    partial = _STORE.with_name(f".{_STORE.name}.{os.getpid()}.partial")
    try:
        _STORE.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps(dict([*_kept().items()][-_MOST_KEPT:])), encoding="utf-8")
        partial.replace(_STORE)
    except OSError:
        return


def _parse(text: str) -> _Parsed:
    tree = ast.parse(text)
    imports: list[tuple[str, tuple[str, ...]]] = []
    for node in _that_runs(tree):
        if isinstance(node, ast.Import):
            imports += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append(("." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)))
    return _Parsed(hashlib.sha256("\n".join(_tokens(tree)).encode()).hexdigest(), tuple(imports))


def _that_runs(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read, which change nothing that is computed."""
    pending = [tree]
    while pending:
        node = pending.pop(0)
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending = [other for other in pending if other not in node.body]
        yield node


@cache
def _module_path(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imports(path: Path, module: str, root: Path) -> tuple[str, ...]:
    """Modules of the package that a file imports, at any depth of nesting (lazy imports count)."""
    modules = []
    for source, names in _parsed(_text(path)).imports:
        if source.startswith("."):
            raise ValueError(f"{path}: relative import in {module}; the digest follows absolute imports only")
        if source != PACKAGE and not source.startswith(PACKAGE + "."):
            continue
        base = source.removeprefix(PACKAGE).removeprefix(".")
        if base:
            modules.append(base)
        for alias in names:
            name = f"{base}.{alias}" if base else alias
            if _module_path(name, root):
                modules.append(name)
    return tuple(modules)


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _tokens(node: ast.AST) -> Iterator[str]:
    """Class names and non-empty fields in order; positions, contexts and docstrings left out."""
    if isinstance(node, ast.expr_context):
        return
    yield f"({type(node).__name__}"
    if isinstance(node, ast.Constant):
        # A constant's value may be None, which elsewhere means "field absent".
        yield f"{type(node.value).__name__}:{node.value!r}"
    else:
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or name in ("type_ignores", "type_comment"):
                continue
            yield name
            if name == "body" and isinstance(node, _DOCUMENTED):
                value = _without_docstring(value)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, ast.AST):
                    yield from _tokens(item)
                else:
                    yield repr(item)
    yield ")"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body
