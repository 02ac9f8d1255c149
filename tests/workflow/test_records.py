"""Records, and what else defines a task, are known by content: what reruns after which change, on prompts alone."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_headroom.artifacts.store import provenance
from tests.support.records import write_records
from tests.support.workflow_studies import new_study

TARGET = "results/prompts/piqa/0shot-seed1234.parquet"
HELPERS = {
    "words.py": "from deeper.marks import MARK\n\n\ndef text(doc):\n    return doc['goal'] + MARK\n",
    "deeper/marks.py": "MARK = '?'\n",
}
JSON_TASK = (
    "include: base.yml\ntask: piqa\ndataset_path: json\ndataset_kwargs: {data_files: {train: [records/*.json], "
    "validation: more.json}}\ndoc_to_text: !function words.text\n"
)
BASE = (
    "output_type: multiple_choice\ntraining_split: train\nvalidation_split: validation\ndoc_to_target: label\n"
    "doc_to_choice: '{{[sol1, sol2]}}'\nmetric_list: [{metric: acc}]\n"
)


def records(*goals):
    return [{"goal": goal, "sol1": "push it", "sol2": "wait", "label": 0} for goal in goals]


@pytest.fixture(scope="module")
def from_mirror(tmp_path_factory):
    """A study of one task whose prompts are rendered from a mirror; its model is never looked at."""
    study = new_study(tmp_path_factory.mktemp("mirror") / "study")
    write_records(study.folder / "records")
    study.configure(
        models={"tiny": {"source": "nobody/tiny"}},
        tasks=["piqa"],
        shots=[0],
        limits={"importance": 4, "evaluation": 4},
        data={"source": "mirror", "mirror": "records"},
    )
    study.run(TARGET)
    assert study.planned(TARGET) == {}
    return study


@pytest.fixture(scope="module")
def from_own_files(tmp_path_factory):
    """As above, from JSON files that the task's own YAML names, with an included YAML and functions of its own."""
    study = new_study(tmp_path_factory.mktemp("own") / "study")
    tasks = study.folder / "workflow" / "tasks" / "paper"
    (tasks / "mine.yaml").write_text(JSON_TASK)
    (tasks / "base.yml").write_text(BASE)
    for name, text in HELPERS.items():
        (study.folder / name).parent.mkdir(exist_ok=True)
        (tasks / name if name == "words.py" else study.folder / name).write_text(text)
    (study.folder / "records").mkdir()
    for name in ("records/a.json", "records/b.json", "more.json"):
        (study.folder / name).write_text(json.dumps(records("one", "two")))
    study.configure(models={"tiny": {"source": "nobody/tiny"}}, tasks=["piqa"], shots=[0], data={"source": "hub"})
    study.run(TARGET)
    assert study.planned(TARGET) == {}
    return study


@pytest.fixture
def rendered(from_mirror, tmp_path):
    """A copy to change."""
    return from_mirror.copy(tmp_path / "study")


@pytest.fixture
def with_own_files(from_own_files, tmp_path):
    """A copy to change."""
    return from_own_files.copy(tmp_path / "study")


def replaced(path, content):
    """Other content with an older time, as ``rsync -a``, ``cp -p`` and ``tar x`` leave it."""
    other = path.with_name("other")
    other.write_bytes(content) if isinstance(content, bytes) else pq.write_table(content, other)
    os.utime(other, (1_000_000_000, 1_000_000_000))
    other.replace(path)


def test_a_record_replaced_by_an_older_file_is_rendered_again(rendered):
    path = rendered.folder / "records" / "piqa" / "validation.parquet"
    before = provenance(rendered.folder / TARGET)["records"]
    table = pq.read_table(path)
    replaced(path, pa.Table.from_pylist([row | {"goal": "shut the door"} for row in table.to_pylist()]))
    assert rendered.planned(TARGET) == {"render_prompts": 1}
    rendered.run(TARGET)
    assert rendered.planned(TARGET) == {}
    now = provenance(rendered.folder / TARGET)["records"]
    assert {name for name in now if now[name] != before[name]} == {"validation.parquet"}


def test_an_added_split_and_changed_words_about_the_source_are_rendered_again(rendered):
    folder = rendered.folder / "records" / "piqa"
    (folder / "source.json").write_text('{"package": "p"}')
    assert rendered.planned(TARGET) == {"render_prompts": 1}
    (folder / "source.json").unlink()
    assert rendered.planned(TARGET) == {}
    shutil.copy(folder / "validation.parquet", folder / "test.parquet")
    assert rendered.planned(TARGET) == {"render_prompts": 1}


def test_a_touched_or_moved_mirror_is_the_same(rendered, tmp_path):
    written = (rendered.folder / TARGET).read_bytes()
    for path in (rendered.folder / "records" / "piqa").iterdir():
        os.utime(path)
    assert rendered.planned(TARGET) == {}
    (rendered.folder / "records").rename(tmp_path / "another disk's mirror")
    rendered.configure(data={"source": "mirror", "mirror": str(tmp_path / "another disk's mirror")})
    assert rendered.planned(TARGET) == {}
    rendered.run(TARGET, "--forcerun", "render_prompts")
    assert (rendered.folder / TARGET).read_bytes() == written, "the artifact does not say where the mirror lies"


def test_another_tasks_records_are_no_reason(rendered):
    path = rendered.folder / "records" / "winogrande" / "train.parquet"
    replaced(path, pq.read_table(path).slice(1))
    assert rendered.planned(TARGET) == {}


@pytest.mark.parametrize("name", ["records/a.json", "more.json"])
def test_a_file_that_a_task_names_is_known_by_content(with_own_files, name):
    replaced(with_own_files.folder / name, json.dumps(records("three", "four")).encode())
    assert with_own_files.planned(TARGET) == {"render_prompts": 1}
    with_own_files.run(TARGET)
    assert with_own_files.planned(TARGET) == {}


def test_a_file_that_matches_a_tasks_pattern_counts(with_own_files):
    (with_own_files.folder / "records" / "c.json").write_text(json.dumps(records("five")))
    assert with_own_files.planned(TARGET) == {"render_prompts": 1}


def test_a_tasks_own_files_may_be_moved(with_own_files, tmp_path):
    (with_own_files.folder / "records").rename(tmp_path / "elsewhere")
    path = with_own_files.folder / "workflow" / "tasks" / "paper" / "mine.yaml"
    path.write_text(path.read_text().replace("records/*.json", f"{tmp_path}/elsewhere/*.json"))
    assert with_own_files.planned(TARGET) == {}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("workflow/tasks/paper/words.py", ("['goal']", "['sol2']")),
        ("deeper/marks.py", ("?", "!")),
        ("workflow/tasks/paper/base.yml", ("sol1, sol2", "sol2, sol1")),
    ],
)
def test_what_a_task_includes_and_imports_counts(with_own_files, name, change):
    path = with_own_files.folder / name
    text = path.read_text()
    replaced(path, text.replace(*change).encode())
    assert with_own_files.planned(TARGET) == {"render_prompts": 1}
    path.write_text(f"# Why.\n{text}")
    assert with_own_files.planned(TARGET) == {}


def test_a_broken_task_stops_a_study_that_uses_it_before_any_job(rendered):
    folder = rendered.folder / "workflow" / "tasks" / "paper"
    (folder / "broken.yaml").write_bytes("task: other\ndescription: caf\xe9\n".encode("latin-1"))
    assert rendered.planned(TARGET) == {}
    (folder / "mine.yaml").write_text("task: piqa\ninclude: nowhere.yaml\n")
    done = rendered.snakemake("--dry-run", TARGET)
    assert done.returncode == 1
    assert "task 'piqa': " in done.stdout
    assert "nowhere.yaml cannot be read (No such file or directory)" in done.stdout
    assert "Traceback" not in done.stdout
