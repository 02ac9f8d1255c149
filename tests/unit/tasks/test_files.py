"""Task YAMLs: a broken one stops its own task alone, and only when it is used; what counts for a task's digest."""

import pytest
from lm_eval.tasks._index import _IGNORE_DIRS

from lm_headroom.errors import HeadroomError
from lm_headroom.tasks import files, prompts
from lm_headroom.tasks.digest import task_digest
from lm_headroom.tasks.files import task_names, task_yaml
from tests.support.records import arc, mirror

GOOD = "task: good\noutput_type: multiple_choice\n"
BROKEN = {
    "Latin-1": ("task: bad\ndescription: caf\xe9\n".encode("latin-1"), "bad.yaml is no YAML in UTF-8: .*mend the file"),
    "a missing include": (b"task: bad\ninclude: nowhere.yaml\n", "nowhere.yaml cannot be read .No such file"),
    "an include that is no path": (b"task: bad\ninclude: {a: b}\n", "include names {'a': 'b'}; expected the path of a"),
    "an include of itself": (b"task: bad\ninclude: bad.yaml\n", "the task YAML includes itself"),
    "broken syntax": (b"task: bad\ndoc_to_text: [\n", "bad.yaml is no YAML in UTF-8"),
    "an unknown tag": (b"task: bad\ndoc_to_text: !python x\n", "bad.yaml is no YAML in UTF-8: .*!python"),
    "two documents": (b"task: bad\n---\ntask: bad\n", "bad.yaml is no YAML in UTF-8"),
    "control characters": (b"task: bad\ndescription: \x01\n", "bad.yaml is no YAML in UTF-8"),
    "keys without order": (b"task: bad\nmetadata: {1: a, b: c}\n", "the keys of .*bad.yaml have no order"),
    "a function that is no Python": (b"task: bad\ndoc_to_text: !function broken.f\n", "broken.py, which its functions"),
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "good.yaml").write_text(GOOD)
    (folder / "broken.py").write_text("def f(:\n")
    return folder


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_yaml_stops_its_own_task_alone(folder, kind):
    content, message = BROKEN[kind]
    before = task_digest("good", folder)
    (folder / "bad.yaml").write_bytes(content)
    assert task_digest("good", folder) == before
    with pytest.raises(HeadroomError, match=f"(?s)task 'bad': .*{message}"):
        task_digest("bad", folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"- task: good\n", b"just text\n", b"\xff\xfe\x00", b"\x00\x01\x02", b"[" * 5000, b"task: [a, b]\n", b"3\n"],
)
def test_files_that_name_no_task_are_nobodys(folder, content):
    before = task_digest("good", folder)
    (folder / "a.yaml").write_bytes(content)
    (folder / "folder.yaml").mkdir()
    (folder / "link.yaml").symlink_to("nowhere")
    assert task_digest("good", folder) == before
    assert task_names(folder) == ["good"]


@pytest.mark.parametrize(
    "content",
    [
        b"task: mine # why\n",
        b"'task': \"mine\"\n",
        b"{task: mine, output_type: multiple_choice}\n",
        b"task   :   mine\n",
        b"\xef\xbb\xbftask: mine\n",
        "task: mine\n".encode("utf-16"),
        b"output_type: multiple_choice\r\ntask: mine\r\n",
        b"doc_to_text: |\n  task: other\ntask: mine\n",
    ],
)
def test_a_task_is_found_however_its_name_is_written(folder, content):
    (folder / "deep").mkdir()
    (folder / "deep" / "x.yaml").write_bytes(content)
    assert task_yaml("mine", folder) == folder / "deep" / "x.yaml"
    assert task_yaml("other", folder) is None


def test_folders_that_lm_eval_passes_over_hold_no_tasks(folder):
    assert files._IGNORED == _IGNORE_DIRS
    for name in _IGNORE_DIRS:
        (folder / name).mkdir()
        (folder / name / "good-checkpoint.yaml").write_text(GOOD)
    assert task_yaml("good", folder) == folder / "good.yaml"


def test_a_name_that_two_files_give_is_refused_when_it_is_used(folder):
    for name in ("a", "b"):
        (folder / f"{name}.yaml").write_text("task: twice\n")
    assert task_yaml("good", folder)
    with pytest.raises(HeadroomError, match="task 'twice' is defined twice in .*, by a.yaml and b.yaml; rename one"):
        task_digest("twice", folder)


def test_lm_evals_tasks_do_not_mind_a_broken_yaml_in_the_folder(folder, tmp_path):
    (folder / "bad.yaml").write_bytes(BROKEN["Latin-1"][0])
    data = mirror(tmp_path / "data", train=arc(4), validation=arc(3, 100))
    assert prompts.render("arc_easy", 0, 1, data, folders=[folder])[1]["definition"].startswith("lm-eval")
    with pytest.raises(HeadroomError, match="unknown to lm-eval .did you mean 'good'"):
        prompts.render("goood", 0, 1, data, folders=[folder])


class TestFunctions:
    """Modules that a task's functions come from, and those that these import."""

    TEXT = "task: mine\ndoc_to_text: !function deep.words.f\n"

    def files(self, folder, **texts):
        for name, text in {"mine.yaml": self.TEXT, **texts}.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text)
        return task_digest("mine", folder)

    @pytest.mark.parametrize(
        ("statement", "module"),
        [
            ("import other", "deep/other.py"),
            ("from other import x", "deep/other.py"),
            ("from . import other", "deep/other.py"),
            ("from .other import x", "deep/other.py"),
            ("from .. import other", "other.py"),
            ("from ..other import x", "other.py"),
            ("import pack.other", "deep/pack/other.py"),
            ("import pack.other", "deep/pack/__init__.py"),
            ("from pack import other", "deep/pack/other.py"),
            ("def late():\n    import other", "deep/other.py"),
            ("import near", "deep/far.py"),
        ],
    )
    def test_a_module_that_is_imported_counts(self, folder, statement, module):
        others = {"deep/near.py": "import far\n", "deep/pack/empty.py": ""}
        texts = {"deep/words.py": f"{statement}\n\n\ndef f(doc):\n    return 1\n", **others}
        before = self.files(folder, **texts, **{module: "x = 1\n"})
        assert self.files(folder, **texts, **{module: "# Why.\nx = 1\n"}) == before
        assert self.files(folder, **texts, **{module: "x = 2\n"}) != before

    def test_modules_that_import_each_other_end(self, folder):
        assert self.files(folder, **{"deep/words.py": "import other\n", "deep/other.py": "import words\n"})

    def test_where_the_folder_lies_does_not_matter(self, folder, tmp_path):
        before = self.files(folder, **{"deep/words.py": "import other\n", "deep/other.py": "x = 1\n"})
        folder.rename(tmp_path / "moved")
        assert task_digest("mine", tmp_path / "moved") == before

    def test_a_module_in_the_working_folder_counts(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "here.py").write_text("x = 1\n")
        texts = {"deep/words.py": "from here import x\n"}
        before = self.files(folder, **texts)
        (tmp_path / "here.py").write_text("x = 2\n")
        assert self.files(folder, **texts) != before
