"""The files that records come from, by content; where they lie does not matter."""

import json

import pytest

from lm_headroom.artifacts.content import Digests
from lm_headroom.errors import HeadroomError
from lm_headroom.study.reading import parse_study
from lm_headroom.tasks import prompts
from lm_headroom.tasks.data import Records, digest_of_records, mirror_records, own_records
from lm_headroom.tasks.digest import task_digest
from lm_headroom.tasks.sources import TaskSources
from tests.support.records import arc, mirror, rows

TASK = (
    "task: mine\noutput_type: multiple_choice\ntraining_split: train\nvalidation_split: validation\n"
    "doc_to_text: '{{goal}}'\ndoc_to_target: label\ndoc_to_choice: ['no', 'yes']\ndataset_path: json\n"
)
SOURCES = {
    "a dict": "dataset_kwargs: {data_files: {train: DIR/train.json, validation: DIR/more.json}}\n",
    "lists": "dataset_kwargs: {data_files: {train: [DIR/train.json], validation: [DIR/more.json]}}\n",
    "a pattern": "dataset_kwargs: {data_files: {train: DIR/tr*.json, validation: 'DIR/m[o]re.*'}}\n",
    "a folder for all": "dataset_kwargs: {data_dir: DIR, data_files: {train: train.json, validation: more.json}}\n",
}


def write(path, *goals):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps([{"goal": goal, "label": 1} for goal in goals]))


@pytest.fixture
def task(tmp_path):
    """Makes the folder of a task that reads from ``files``."""

    def make(source, place="files"):
        (tmp_path / "tasks").mkdir(exist_ok=True)
        (tmp_path / "tasks" / "mine.yaml").write_text(TASK + source.replace("DIR", str(tmp_path / place)))
        return tmp_path / "tasks"

    write(tmp_path / "files" / "train.json", "a", "b", "c")
    write(tmp_path / "files" / "more.json", "d", "e")
    return make


def digest(folder):
    return digest_of_records(own_records("mine", [folder], Digests()))


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_tasks_own_files_count_by_content_and_not_by_place(task, tmp_path, source):
    folder = task(source)
    before, definition = digest(folder), task_digest("mine", folder)
    _, details = prompts.render("mine", 0, 1, "hub", folders=[folder])
    assert digest_of_records(details["records"]) == before
    assert str(tmp_path) not in json.dumps(details)
    write(tmp_path / "files" / "more.json", "D", "E")
    assert digest(folder) != before
    again, _ = prompts.render("mine", 0, 1, "hub", folders=[folder])
    assert [row["context"] for row in rows(again, "evaluation")[::2]] == ["D", "E"], "and are read anew"
    write(tmp_path / "files" / "more.json", "d", "e")
    (tmp_path / "files").rename(tmp_path / "moved")
    folder = task(source, "moved")
    assert (digest(folder), task_digest("mine", folder)) == (before, definition)


def test_files_that_change_places_are_another_data_set(task):
    folder = task(SOURCES["a dict"])
    before = digest(folder)
    task(SOURCES["a dict"].replace("train.json", "x").replace("more.json", "train.json").replace("x", "more.json"))
    assert digest(folder) != before


def test_a_folder_as_data_set(task, tmp_path):
    folder = task(f"dataset_path: {tmp_path}/files\n")
    before, definition = digest(folder), task_digest("mine", folder)
    write(tmp_path / "files" / "train.json", "a", "b", "C")
    assert digest(folder) != before
    write(tmp_path / "files" / "train.json", "a", "b", "c")
    (tmp_path / "files").rename(tmp_path / "moved")
    task(f"dataset_path: {tmp_path}/moved\n")
    assert (digest(folder), task_digest("mine", folder)) == (before, definition)


@pytest.mark.parametrize("kind", ["csv", "text", "parquet", "arrow", "json"])
def test_any_reader_of_files(task, tmp_path, kind):
    folder = task(f"dataset_path: {kind}\ndataset_kwargs: {{data_files: DIR/x}}\n")
    assert digest(folder) == ""
    seen = set()
    for content in ("1", "2"):
        (tmp_path / "files" / "x").write_text(content)
        seen.add(digest(folder))
    assert len(seen - {""}) == 2


@pytest.mark.parametrize(
    "source",
    ["dataset_path: nobody/set\ndataset_kwargs: {data_files: a.json}\n", "dataset_path: nobody/set\n", "",
     "dataset_kwargs: {data_files: 'https://example.org/a.json'}\n"],
)  # fmt: skip
def test_data_sets_of_the_hub_are_no_files(task, source):
    assert digest(task(source)) == ""


def test_a_mirrors_records_and_what_is_said_of_them(tmp_path):
    data = mirror(tmp_path / "data", train=arc(4), validation=arc(3, 100))
    (tmp_path / "data" / "arc_easy" / "source.json").write_text('{"package": "p"}')
    _, details = prompts.render("arc_easy", 0, 1, data)
    assert details["records"] == mirror_records(tmp_path / "data" / "arc_easy", Digests())
    assert set(details["records"]) == {"train.parquet", "validation.parquet", "source.json"}
    assert str(tmp_path) not in json.dumps(details)


@pytest.mark.parametrize("folder", ["hub", "./hub", "records"])
def test_a_mirror_may_have_any_name(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    mirror(tmp_path / folder, train=arc(4), validation=arc(3, 100))
    study = parse_study({"tasks": ["arc_easy"], "data": {"source": "mirror", "mirror": folder}})
    place = Records(study, TaskSources(study), Digests()).place("arc_easy")
    assert prompts.render("arc_easy", 0, 1, place)[1]["data"] == {"source": "mirror"}


def test_records_that_change_while_they_are_read_are_refused(tmp_path, monkeypatch):
    data = mirror(tmp_path / "data", train=arc(4), validation=arc(3, 100))
    original = prompts.load_task

    def changing(*arguments):
        mirror(tmp_path / "data", validation=arc(3, 200))
        return original(*arguments)

    monkeypatch.setattr(prompts, "load_task", changing)
    with pytest.raises(HeadroomError, match="'arc_easy': its records changed while they were read"):
        prompts.render("arc_easy", 0, 1, data)


@pytest.mark.parametrize("text", ["[]", "{", "\udcff", "[" * 10_000])
def test_a_source_that_is_no_object_is_named(tmp_path, text):
    data = mirror(tmp_path / "data", train=arc(4), validation=arc(3, 100))
    (tmp_path / "data" / "arc_easy" / "source.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(HeadroomError, match="task 'arc_easy': .*source.json is no JSON object .* mend the file"):
        prompts.render("arc_easy", 0, 1, data)


def test_the_cause_of_data_that_do_not_load_is_printed(task, tmp_path):
    folder = task(SOURCES["a dict"])
    (tmp_path / "files" / "more.json").write_text("{")
    with pytest.raises(HeadroomError, match="(?s)'mine' could not be loaded: .*, because of .*files of its own: mend"):
        prompts.render("mine", 0, 1, "hub", folders=[folder])
