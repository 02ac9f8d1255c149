"""The packages import in one direction, without circles, and only some of them need torch."""

import subprocess
import sys

import pytest

from tests.support.packages import (
    ALLOWED,
    BASE,
    IMPORT_TORCH,
    PACKAGE,
    PAGE,
    circles,
    imports,
    module_files,
    module_graph,
    package_graph,
    package_of,
    shortest,
    with_map,
)
from tests.support.paths import ROOT


def test_the_allowed_imports_run_down():
    names = list(ALLOWED)
    for position, (name, allowed) in enumerate(ALLOWED.items()):
        assert allowed <= set(names[position + 1 :]), name


@pytest.fixture(scope="module")
def graph():
    """The modules and what they import, which takes a second to find."""
    return module_graph()


@pytest.mark.parametrize("name", ALLOWED)
def test_a_package_imports_what_it_may(name, graph):
    for module, imported in graph.items():
        if package_of(module) == name:
            above = {other for other in imported if package_of(other) not in ALLOWED[name] | BASE | {name}}
            assert not above, f"{module} imports {sorted(above)}"


def test_every_module_is_in_a_package_of_the_table_or_at_the_base(graph):
    assert {package_of(module) for module in module_files()} == {*ALLOWED, *BASE, "", "__main__"}
    for module, imported in graph.items():
        assert module not in BASE or imported <= BASE, module


def test_no_modules_import_each_other(graph):
    assert circles(graph) == []
    assert circles(package_graph()) == []
    assert circles(module_graph(ROOT / "benchmarks")) == []


def test_packages_of_a_folder_import_nothing_when_they_are_imported():
    modules = module_files()
    for name, path in modules.items():
        if name and path.name == "__init__.py":
            assert not list(imports(path, modules)), name


WITHOUT_TORCH = """
import importlib, sys


class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is imported")


sys.meta_path.insert(0, Refusing())
for module in sys.argv[1:]:
    try:
        importlib.import_module(f"lm_headroom.{module}")
    except ImportError as error:
        print(module, error)
"""


def test_the_other_packages_are_imported_without_torch():
    may = [
        module
        for module in module_files()
        if module not in ("", "__main__")
        and not any(module == name or module.startswith(f"{name}.") for name in IMPORT_TORCH)
    ]
    command = [sys.executable, "-c", WITHOUT_TORCH, *may]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_the_picture_in_the_docs_is_of_the_code():
    page = PAGE.read_text()
    assert with_map(page) == page, "make map"
    assert "flowchart TD" in page


class TestWalker:
    """The walker itself, on a package made here."""

    @pytest.fixture
    def package(self, tmp_path):
        package = tmp_path / "lm_headroom"
        for name, text in {
            "__init__": "",
            "errors": "",
            "study/__init__": "",
            "study/a": "from lm_headroom import errors\n",
            "artifacts/__init__": "",
            "artifacts/b": "def f():\n    from lm_headroom.study.a import X\n",
            "models/c": (
                "from typing import TYPE_CHECKING\nimport lm_headroom.study.a\n"
                "if TYPE_CHECKING:\n    from lm_headroom.artifacts import b\n"
            ),
        }.items():
            path = package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return package

    def test_imports_in_functions_and_for_types_count(self, package):
        graph = module_graph(package)
        assert graph["artifacts.b"] == {"study.a"}
        assert graph["models.c"] == {"study.a", "artifacts.b"}
        assert module_graph(package, types=False)["models.c"] == {"study.a"}
        assert package_graph(package)["study"] == set()

    def test_arrows_that_follow_from_others_are_left_out(self, package):
        assert shortest(package_graph(package))["models"] == {"artifacts"}

    def test_a_circle_is_found(self, package):
        (package / "study" / "a.py").write_text("from lm_headroom.models.c import Y\n")
        assert circles(module_graph(package)) == [["artifacts.b", "models.c", "study.a"]]
