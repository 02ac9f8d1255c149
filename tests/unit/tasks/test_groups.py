"""Groups and tags stand for their tasks, and names that nothing defines are refused with those that are near."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from lm_headroom.errors import HeadroomError
from lm_headroom.study.reading import parse_study
from lm_headroom.tasks.files import NAMES, built_in_yaml
from lm_headroom.tasks.groups import TASK_LISTS, members_of, with_subtasks


def study_of(base=Path(), **keys):
    return parse_study(with_subtasks(keys, base))


def tasks_of(*tasks, **more):
    return study_of(tasks=list(tasks), **more).tasks


def test_the_names_are_of_the_lm_eval_that_is_installed():
    assert json.loads(NAMES.read_text())["lm-eval"] == version("lm_eval"), "make tasks"


@pytest.mark.slow
def test_a_group_and_a_tag_have_the_tasks_that_lm_eval_runs_for_them():
    """lm-eval's own loader, which builds no task here: names are taken where it would."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    theirs = json.loads(NAMES.read_text())
    index = manager.task_index
    assert set(theirs["tasks"]) == {name for name, entry in index.items() if entry.kind.name in ("TASK", "PY_TASK")}
    assert set(theirs["groups"]) == {name for name, entry in index.items() if entry.kind.name in ("GROUP", "TAG")}
    # A search of texts finds the files that the index has.
    folder = Path(lm_eval.__file__).parent / "tasks"
    files = {name: entry.yaml_path for name, entry in index.items() if entry.kind.name in ("TASK", "PY_TASK")}
    assert {name: built_in_yaml(name, folder) for name in files} == files
    for tag in ("ai2_arc", "mmlu_stem_tasks"):
        assert tasks_of(tag) == sorted(index[tag].tags)
    assert index["mmlu"].cfg["task"] == ["mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"]


def test_a_group_stands_for_its_tasks_each_once():
    everything = tasks_of("piqa", "mmlu", "mmlu_anatomy")
    assert len(everything) == 58
    assert everything[:3] == ["piqa", "mmlu_abstract_algebra", "mmlu_astronomy"]
    assert everything.count("mmlu_anatomy") == 1
    study = study_of(tasks=["mmlu_stem", "piqa"], unseen=["copa"], transfer={"tasks": ["mmlu_stem", "piqa"]})
    assert study.transfer_tasks == study.tasks
    assert study_of(tasks=["mmlu"], transfer={"tasks": ["mmlu_anatomy"]}).transfer_tasks == ["mmlu_anatomy"]


def test_tasks_of_a_group_have_its_data():
    study = study_of(tasks=[{"name": "ai2_arc", "data": {"source": "hub"}}])
    assert {name: entry.data.source for name, entry in study.all_entries.items()} == {
        "arc_challenge": "hub",
        "arc_easy": "hub",
    }


def test_groups_and_tags_of_ones_own(tmp_path):
    (tmp_path / "a.yaml").write_text("task: first\ntag: [mine]\ndoc_to_text: !function f.x\n")
    (tmp_path / "b.yaml").write_text("task: second\ninclude: _all\n")
    (tmp_path / "_all").write_text("tag: mine\n")
    (tmp_path / "group.yaml").write_text("group: both\ntask:\n  - mine\n  - task: piqa\n    task_alias: physics\n")
    (tmp_path / "broken.yaml").write_text("task: [")
    assert tasks_of("both", "copa", base=tmp_path.parent, task_folders=[tmp_path.name]) == [
        "first", "second", "piqa", "copa",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["piqaa"], r"config key 'tasks': 'piqaa' is no task, group or tag of lm-eval .*did you mean 'piqa'\?"),
        (["MMLU"], r"did you mean 'mmlu'\?"),
        (["flan_held_in"], "group 'flan_held_in' changes its tasks"),
    ],
)
def test_names_that_cannot_be_tasks_are_refused(tasks, message):
    with pytest.raises(HeadroomError, match=message):
        tasks_of(*tasks)


def test_a_group_that_holds_itself_is_refused(tmp_path):
    (tmp_path / "group.yaml").write_text("group: ring\ntask: [ring]\n")
    with pytest.raises(HeadroomError, match="group 'ring' holds itself"):
        tasks_of("ring", task_folders=[str(tmp_path)])


def test_a_file_of_ones_own_may_have_any_name():
    assert tasks_of({"name": "capitals", "file": "capitals.csv"}) == ["capitals"]


@pytest.mark.parametrize("key", sorted({*TASK_LISTS} - {"tasks", "unseen"}))
@pytest.mark.parametrize("where", ["tasks", "unseen"])
@pytest.mark.parametrize("name", ["capitals", "mmlu"])
def test_each_key_that_names_tasks_knows_those_with_a_file_of_ones_own(key, where, name):
    """A group of lm-eval's of that name stands back, too."""
    values = {"tasks": ["copa", "piqa"], "unseen": []}
    values[where] = [*values[where], {"name": name, "file": "capitals.csv"}]
    named = [name]
    for part in reversed(key.split(".")):
        named = {part: named}
    assert with_subtasks({**values, **named}) == {**values, **named}


@pytest.mark.parametrize("tag", ["2024", "[2024, mine]", "{a: b}", "[[mine], mine]"])
def test_tags_that_are_no_text_name_no_group(tmp_path, tag):
    (tmp_path / "a.yaml").write_text(f"task: first\ntag: {tag}\n")
    assert tasks_of("first", task_folders=[str(tmp_path)]) == ["first"]
    if "mine" in tag:
        assert tasks_of("mine", task_folders=[str(tmp_path)]) == ["first"]


def test_members_that_change_a_task_make_the_group_none():
    assert members_of(["a", {"task": "b", "task_alias": "B"}, {"group": "c", "task": ["d"]}]) == ["a", "b", "d"]
    assert members_of(["a", {"task": "b", "num_fewshot": 3}]) is None


@pytest.mark.parametrize(
    "values",
    [
        {"tasks": 3},
        {"tasks": [3]},
        {"tasks": ["a b", "glue"]},
        {"tasks": ["glue"], "task_folders": ["none"]},
        {"unseen": None},
    ],
)
def test_what_is_no_study_is_left_for_reading_to_refuse(values):
    assert with_subtasks(values) == values


def test_a_task_that_is_named_twice_stays_an_error():
    with pytest.raises(HeadroomError, match="non-unique"):
        tasks_of("piqa", "piqa")
