"""The packages of lm_headroom: what each may import, what it does import, and the picture of both in the docs.

``make map`` writes the picture into docs/architecture.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "workflow" / "lm_headroom"
PAGE = ROOT / "docs" / "architecture.md"
BASE = frozenset(
    {"errors", "settings", "progress", "places", "checkout", "workflow_files", "hub_errors", "command_names"}
)
"""Modules that any package may import; they import none but each other."""

ALLOWED = {
    name: frozenset(allowed.split())
    for name, allowed in {
        "cli": "warm commands steps planning audit report results scoring engine models tasks artifacts options study",
        "commands": "options planning publishing audit results engine models tasks artifacts study",
        "steps": "options report results pruned scoring engine models tasks artifacts analysis study",
        "planning": "options results scoring engine models tasks artifacts analysis study",
        "publishing": "audit artifacts",
        "audit": "options report models tasks artifacts study",
        "report": "options results artifacts analysis study",
        "results": "artifacts analysis study",
        "pruned": "engine models artifacts",
        "scoring": "engine models artifacts analysis study",
        "engine": "warm models artifacts",
        "warm": "",
        "models": "artifacts",
        "tasks": "artifacts study",
        "artifacts": "study",
        "options": "study",
        "analysis": "study",
        "study": "",
    }.items()
}
"""What each package may import, highest first: no package imports one that stands before it."""

IMPORT_TORCH = (
    "engine",
    "scoring",
    "pruned",
    "models.inference",
    "planning.plan",
    "steps.prepare_evaluation",
    "steps.prepare_scoring",
)
"""Packages and modules that import torch when they are imported; steps import the last two within functions."""


def module_files(package: Path = PACKAGE) -> dict[str, Path]:
    """Each module of the package and its file; the name is below the package, and that of the package itself is ""."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(path: Path, modules: dict[str, Path], types: bool = True, package: str = PACKAGE.name) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in the file; with ``types`` those for type checks, too."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, below = name.partition(".")
            if top == package:
                yield below if below in modules else below.rpartition(".")[0]


def package_of(module: str) -> str:
    """The package that a module is in; modules of the top are their own."""
    return module.partition(".")[0]


def module_graph(package: Path = PACKAGE, types: bool = True) -> dict[str, set[str]]:
    """Each module and the modules that it imports; with ``types`` those for type checks, too."""
    modules = module_files(package)
    return {name: set(imports(path, modules, types, package.name)) - {name, ""} for name, path in modules.items()}


def package_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Each package and the packages that it imports, without the base and without what starts the command line."""
    graph: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module, imported in module_graph(package).items():
        if module not in ("", "__main__") and package_of(module) not in BASE:
            graph.setdefault(package_of(module), set()).update(map(package_of, imported))
    return {name: imported - BASE - {name} for name, imported in graph.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or by way of others; a list per circle."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        pending, seen = [start], set()
        while pending:
            for name in graph.get(pending.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    pending.append(name)
        reached[start] = seen
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached.get(other, ())))
        for name in graph
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def shortest(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without arrows that follow from others, so that a picture of it can be read."""

    def reach(name: str) -> set[str]:
        return graph[name].union(*map(reach, graph[name]))

    return {name: imported - set().union(*map(reach, imported)) for name, imported in graph.items()}


def picture(package: Path = PACKAGE) -> str:
    """The packages as a Mermaid graph; an arrow means "imports", and arrows that follow from others are left out."""
    graph = shortest(package_graph(package))
    lines = ["```mermaid", "flowchart TD"]
    torch = [name for name in ALLOWED if name in IMPORT_TORCH or any(t.startswith(f"{name}.") for t in IMPORT_TORCH)]
    lines += [f"    {name} --> {other}" for name in ALLOWED for other in ALLOWED if other in graph[name]]
    lines += [f"    class {','.join(torch)} torch", "    classDef torch stroke-width:3px", "```"]
    return "\n".join(lines)


def table(package: Path = PACKAGE) -> str:
    """Each package and all that it imports, as Markdown."""
    graph = package_graph(package)
    lines = ["| package | imports |", "|---|---|"]
    for name in ALLOWED:
        imported = ", ".join(f"`{other}`" for other in ALLOWED if other in graph[name])
        lines.append(f"| `{name}` | {imported or 'none of these'} |")
    return "\n".join(lines)


def with_map(page: str, package: Path = PACKAGE) -> str:
    """A page with the picture and the table between its two marks."""
    begin, end = "<!-- made by `make map` -->", "<!-- end of the map -->"
    content = f"{begin}\n{picture(package)}\n\n{table(package)}\n{end}"
    return re.sub(rf"{begin}.*?{end}", lambda _: content, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text()))
