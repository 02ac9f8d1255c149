import json
from functools import cache
from pathlib import Path

import pytest

from lm_headroom.artifacts import code_digest as module
from lm_headroom.artifacts.code_digest import code_digest, package_digest, source_digest
from lm_headroom.tasks.digest import task_digest


@pytest.fixture
def package(tmp_path):
    (tmp_path / "step.py").write_text("from lm_headroom import maths\n\ndef run():\n    return maths.two()\n")
    (tmp_path / "maths.py").write_text('"""Doc."""\n\ndef two():\n    """Two."""\n    return 2\n')
    (tmp_path / "other.py").write_text("X = 1\n")
    return tmp_path


def digest(root: Path) -> str:
    code_digest.cache_clear()
    return code_digest("step", root=root)


def test_what_changes_a_digest(package):
    before = digest(package)
    (package / "maths.py").write_text("def two():\n    return 3\n")
    assert digest(package) != before, "an imported module changed"


@pytest.mark.parametrize(
    "text",
    [
        '"""Another docstring."""\n\n# a comment\ndef two():\n    """Explained."""\n\n    return 2  # why\n',
        "def two(): return 2\n",
    ],
)
def test_what_does_not_change_a_digest(package, text):
    before = digest(package)
    (package / "maths.py").write_text(text)
    (package / "other.py").write_text("X = 2\n")
    assert digest(package) == before


def test_imports_for_types_do_not_count(package):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lm_headroom import other\n"
    (package / "step.py").write_text(text + "else:\n    from lm_headroom import maths\n")
    before = digest(package)
    (package / "other.py").write_text("X = 2\n")
    assert digest(package) == before
    (package / "maths.py").write_text("def two():\n    return 3\n")
    assert digest(package) != before, "what stands under else runs"


def test_lazy_imports_and_submodules_count(package):
    (package / "sub").mkdir()
    (package / "sub" / "__init__.py").write_text("")
    (package / "sub" / "inner.py").write_text("Y = 1\n")
    (package / "step.py").write_text("def run():\n    from lm_headroom.sub.inner import Y\n    return Y\n")
    before = digest(package)
    (package / "sub" / "inner.py").write_text("Y = 2\n")
    assert digest(package) != before


def test_constants_are_told_apart(tmp_path):
    texts = ["x = None\n", "x = 0\n", "x = 0.0\n", "x = False\n", "x = '0'\n", "x = b'0'\n", "x = ()\n"]
    digests = set()
    for i, text in enumerate(texts):
        path = tmp_path / f"m{i}.py"
        path.write_text(text)
        digests.add(source_digest(path))
    assert len(digests) == len(texts)


def test_the_digest_is_a_fixed_value(tmp_path):
    """Holds on every Python version: the walk uses no text that changes between them."""
    path = tmp_path / "m.py"
    path.write_text(
        "def f(a, *, b: int = 1) -> str:\n    with open(a) as c:\n"
        "        return f'{b!r:>{a}}' if b else [x for x in c]\n"
    )
    assert source_digest(path) == "20f41b7a68cf8af7"


class TestKept:
    """What files say is kept between processes, by their text."""

    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        store = tmp_path / "cache" / "digests.json"
        monkeypatch.setattr(module, "_STORE", store)
        monkeypatch.setattr(module.sys, "dont_write_bytecode", False)
        self.forget()
        yield store
        self.forget()

    def forget(self):
        """As a new process."""
        for cached in (code_digest, module._parsed, module._kept, module._own_text):
            cached.cache_clear()
        module._unsaved.clear()

    def test_another_process_parses_nothing(self, package, store, monkeypatch):
        before = digest(package)
        assert store.is_file()
        self.forget()
        monkeypatch.setattr(module, "_parse", lambda text: pytest.fail("parsed again"))
        assert digest(package) == before

    def test_a_changed_file_is_parsed_and_kept_beside(self, package, store):
        before, written = digest(package), len(json.loads(store.read_text()))
        (package / "maths.py").write_text("def two():\n    return 3\n")
        self.forget()
        assert digest(package) != before
        assert len(json.loads(store.read_text())) == written + 1

    def test_other_digesting_code_takes_nothing(self, package, store, monkeypatch):
        before = digest(package)
        kept = json.loads(store.read_text())
        store.write_text(json.dumps({key: ["wrong", imports] for key, (_, imports) in kept.items()}))
        self.forget()
        assert digest(package) != before, "that the store is read at all"
        self.forget()
        monkeypatch.setattr(module, "_own_text", cache(lambda: "other code"))
        assert digest(package) == before

    @pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
    def test_a_damaged_store_is_none(self, package, store, text):
        before = digest(package)
        store.write_text(text)
        self.forget()
        assert digest(package) == before

    def test_where_nothing_can_be_written_nothing_is(self, package, store, monkeypatch):
        store.parent.write_text("a file in its place")
        assert len(digest(package)) == 16
        self.forget()
        monkeypatch.setattr(module.sys, "dont_write_bytecode", True)
        store.parent.unlink()
        assert len(digest(package)) == 16
        assert not store.parent.exists()

    def test_old_texts_are_dropped(self, package, store, monkeypatch):
        monkeypatch.setattr(module, "_MOST_KEPT", 1)
        digest(package)
        assert len(json.loads(store.read_text())) == 1


def test_a_missing_module_is_named(package):
    with pytest.raises(FileNotFoundError, match="nothing"):
        code_digest("nothing", root=package)


def test_importance_does_not_use_the_pruning_module():
    code_digest.cache_clear()
    closure, pending = set(), ["steps.score_heads"]
    while pending:
        name = pending.pop()
        if name not in closure:
            closure.add(name)
            pending.extend(module._imports(module._module_path(name, module.PACKAGE_ROOT), name, module.PACKAGE_ROOT))
    assert "scoring.gradient" in closure
    assert not closure & {
        "scoring.pruned_evaluation",
        "cli",
        "analysis.correlation",
        "scoring.prefix_matching",
        "steps.evaluate_pruned",
    }


class TestTaskDigest:
    def write(self, folder, text, function="def f(doc):\n    return 1\n", base="output_type: multiple_choice\n"):
        (folder / "base.yml").write_text(base)
        (folder / "utils.py").write_text(function)
        (folder / "mine.yaml").write_text(text)
        return task_digest("mine", folder)

    TEXT = "task: mine\ninclude: base.yml\ndoc_to_text: !function utils.f\n"

    def test_comments_and_order_change_nothing(self, tmp_path):
        before = self.write(tmp_path, self.TEXT)
        assert self.write(tmp_path, "# why\ndoc_to_text: !function utils.f\ntask: mine\ninclude: base.yml\n") == before
        assert self.write(tmp_path, self.TEXT, function="def f(doc):\n    # why\n    return 1\n") == before

    def test_content_includes_and_functions_count(self, tmp_path):
        before = self.write(tmp_path, self.TEXT)
        assert self.write(tmp_path, self.TEXT + "num_fewshot: 2\n") != before
        assert self.write(tmp_path, self.TEXT, function="def f(doc):\n    return 2\n") != before
        assert self.write(tmp_path, self.TEXT, base="output_type: loglikelihood\n") != before

    def test_other_tasks_go_by_lm_evals_version(self, tmp_path):
        assert task_digest("arc_easy", tmp_path) == "lm-eval 0.4.13"


@pytest.mark.parametrize("name", [".ipynb_checkpoints/a-checkpoint.py", "._a.py", "a.bak.py", "half.py"])
def test_files_that_are_no_modules_are_read_and_links_to_nothing_passed_over(name, package):
    before = package_digest(package)
    (package / ".#a.py").symlink_to("nowhere")
    assert package_digest(package) == before
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text("half a (")
    assert package_digest(package) != before
