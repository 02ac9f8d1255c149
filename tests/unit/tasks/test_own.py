"""A task whose records are a file of one's own: what is rendered, and what is refused by name with its row."""

import csv
import json
from pathlib import Path

import lm_eval
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.prompts import EVALUATION
from lm_headroom.artifacts.store import provenance
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.study.reading import parse_study, read_study
from lm_headroom.study.task_entry import TaskEntry
from lm_headroom.tasks import prompts, sources
from lm_headroom.tasks.data import Records
from lm_headroom.tasks.files import TASK_FOLDERS
from lm_headroom.tasks.own import ANSWER, CHOICES, own_file_records, read_own
from lm_headroom.tasks.sources import TaskSources
from tests.support.records import mirror

ROWS = [{"question": f"Capital {i}?", "choices": ["Oslo", "Rome", "Bern"], "answer": i % 3} for i in range(12)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def entry(tmp_path, rows=ROWS, **keys):
    return TaskEntry(name="capitals", file=jsonl(tmp_path / "c.jsonl", rows), **keys)


def with_row(number, **changes):
    return [{**row, **changes} if i == number else row for i, row in enumerate(ROWS)]


def written(path, rows):
    """The same records in another format."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(rows[0])
            table.writerows([json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in rows)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_all_formats_hold_the_same_records(tmp_path, suffix):
    other = TaskEntry(name="capitals", file=written(tmp_path / f"c{suffix}", ROWS))
    assert read_own(other) == read_own(entry(tmp_path))


@pytest.mark.parametrize("answers", ["ABC", ["Oslo", "Rome", "Bern"], ["0", "1", "2"], [0, 1, 2]])
def test_an_answer_is_a_number_a_text_or_a_letter(tmp_path, answers):
    rows = [{**row, "answer": answers[row["answer"]]} for row in ROWS]
    assert [row[ANSWER] for row in read_own(entry(tmp_path, rows))["validation"]] == [0, 1, 2] * 4


def test_choices_may_be_columns(tmp_path):
    rows = [{"question": "Which?", "b": "two", "a": "one", "answer": "two"}] * 4
    read = read_own(entry(tmp_path, rows, choices=["a", "b"]))["validation"]
    assert {(tuple(row[CHOICES]), row[ANSWER]) for row in read} == {(("one", "two"), 1)}


def test_prompts_are_those_of_the_same_task_as_yaml_and_mirror(tmp_path):
    """lm-eval's own reading of the same records is the witness."""
    columns, details = prompts.render_own(entry(tmp_path), 2, 7)
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "c.yaml").write_text(
        "task: capitals\ndataset_path: json\noutput_type: multiple_choice\nvalidation_split: validation\n"
        f"dataset_kwargs: {{data_files: {{validation: {tmp_path}/c.jsonl}}}}\n"
        'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: choices\ndoc_to_target: answer\n'
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    assert columns == prompts.render("capitals", 2, 7, "hub", folders=[tmp_path / "yaml"])[0]
    assert details["documents"]["importance"]["count"] == 4, "a third scores"
    assert (details["definition"], details["data"]) == ("study", {"source": "study"})
    assert details["records"] == own_file_records(entry(tmp_path), tmp_path, Digests())


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("task", ["piqa", "arc_easy"])
def test_prompts_of_real_records_are_those_of_lm_evals_own_task(records, tmp_path, task, suffix):
    keys = {"prompt": "Question: {{goal}}\nAnswer:", "choices": ["sol1", "sol2"], "answer": "label"}
    files = {}
    for split in ("train", "validation"):
        rows = pq.read_table(records / task / f"{split}.parquet").slice(0, 60).to_pylist()
        mirror(tmp_path / "mirror", task, **{split: pa.Table.from_pylist(rows)})
        if task == "arc_easy":
            rows = [
                {"question": q["question"], "choices": q["choices"]["text"], "answer": right}
                for q in rows
                for right in [q["choices"]["label"].index(q["answerKey"])]
            ]
        path = tmp_path / f"{split}{suffix}"
        files[split] = jsonl(path, rows) if suffix == ".jsonl" else written(path, rows)
    own = TaskEntry(name=task, train_file=files["train"], file=files["validation"], **(keys if task == "piqa" else {}))
    columns, details = prompts.render_own(own, 2, 7, 20, 30)
    theirs = prompts.render(task, 2, 7, str(tmp_path / "mirror"), 20, 30, folders=[TASK_FOLDERS / "harness"])
    assert theirs[1]["definition"].startswith("lm-eval"), "lm-eval's own YAML is the witness"
    assert columns == theirs[0]
    assert details["splits"] == theirs[1]["splits"]


def test_a_file_for_training_gives_scoring_documents_and_shots(tmp_path):
    train = jsonl(tmp_path / "t.jsonl", [{**row, "question": "Trained?"} for row in ROWS])
    columns, details = prompts.render_own(entry(tmp_path, train_file=train), 1, 7)
    assert details["splits"] == {"importance": "train", "evaluation": "validation", "shots": "train"}
    rows = [row for row in zip(columns["purpose"], columns["context"], strict=True) if row[0] == EVALUATION]
    assert len(rows) == 36
    assert all(context.startswith("Question: Trained?\n") for _, context in rows)


def test_a_prompt_and_a_description_of_ones_own(tmp_path):
    asked = entry(tmp_path, prompt="{{question}} ({{choices[0]}}?)\nA:", description="Answer briefly.\n\n")
    columns, _ = prompts.render_own(asked, 0, 7)
    assert columns["context"][0] == "Answer briefly.\n\nCapital 0? (Oslo?)\nA:"
    assert columns["continuation"][:3] == [" Oslo", " Rome", " Bern"]


@pytest.mark.parametrize("question", ["42", "007"])
@pytest.mark.parametrize("shots", [0, 1])
def test_a_prompt_of_digits_is_a_text(tmp_path, question, shots):
    rows = [{**row, "question": question} for row in ROWS]
    columns, _ = prompts.render_own(entry(tmp_path, rows, prompt="{{question}}"), shots, 7)
    assert {context.split("\n\n")[-1] for context in columns["context"]} == {question}
    assert columns["continuation"][:3] == [" Oslo", " Rome", " Bern"]


def test_values_are_shown_as_each_row_has_them(tmp_path):
    """Whatever types other rows and the other file have."""
    shown = {"evaluation": [3, 2.5, None, "none", [1, "a"]], "importance": [7] * 4}
    files = [jsonl(tmp_path / f"{purpose}.jsonl", [{**ROWS[0], "n": n} for n in shown[purpose]]) for purpose in shown]
    task = TaskEntry(name="capitals", file=files[0], train_file=files[1], prompt="n = {{n}}", description="Of {{n}}. ")
    columns, _ = prompts.render_own(task, 0, 7)
    for purpose, numbers in shown.items():
        contexts = [text for use, text in zip(columns["purpose"], columns["context"], strict=True) if use == purpose]
        assert contexts[::3] == [f"Of {n}. n = {n}" for n in numbers]


def test_a_template_may_have_comments_and_the_filter_of_lm_eval(tmp_path):
    prompt = r"{# Why. #}{{question | regex_replace('\d+', 'N')}}"
    assert prompts.render_own(entry(tmp_path, prompt=prompt), 0, 7)[0]["context"][0] == "Capital N?"


def test_a_record_that_does_not_fit_a_template_is_named_with_its_row(tmp_path):
    rows = [{"hint": {"text": "x"}, **row} for row in with_row(4, hint={})]
    with pytest.raises(HeadroomError, match=r"c.jsonl, row 5: its prompt cannot be rendered: UndefinedError: .*text"):
        prompts.render_own(entry(tmp_path, rows, prompt="{{hint.text}}"), 0, 7)


def test_a_csv_may_have_long_cells_and_columns_without_a_name(tmp_path):
    long = "x" * 200_000
    (tmp_path / "c.csv").write_text(f'question,a,b,answer,,\n"{long}",yes,no,0,,\n')
    (record,) = read_own(TaskEntry(name="mine", file=str(tmp_path / "c.csv"), choices=["a", "b"]))["validation"]
    assert (record["headroom_question"], record[CHOICES], record[ANSWER]) == (long, ["yes", "no"], 0)


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        (ROWS, {"question": "questoin"}, "row 1 has no column 'questoin' .did you mean 'question'.*; it has question,"),
        (ROWS, {"choices": ["a", "b"]}, "row 1 has no column 'a'"),
        (ROWS, {"prompt": "{{question}} {{hint}}"}, "row 1 has no column 'hint'"),
        (ROWS, {"prompt": "{{question"}, "its prompt is no Jinja template"),
        (ROWS, {"prompt": "Why {# not"}, "its prompt is no Jinja template"),
        ([*ROWS, {"question": "Q?", "answer": 0}], {}, "row 13 has no column 'choices'"),
        (with_row(4, question=" "), {}, "row 5: column 'question' is ' ' .str.; expected text"),
        (with_row(4, question=7), {}, "row 5: column 'question' is 7 .int.; expected text"),
        (with_row(4, choices="Oslo"), {}, "row 5: column 'choices' is 'Oslo' .str.; expected a list of two or more"),
        (with_row(4, choices=["Oslo"]), {}, "row 5: .* expected a list of two or more"),
        (with_row(4, choices=["Oslo", None]), {}, "row 5: choice 1 is None .NoneType.; expected text"),
        (with_row(4, question="x \ud83d"), {}, r"row 5 holds half of a character, '\\ud83d'; write all of it"),
        (with_row(4, choices='["Oslo", "\\ud83d"]'), {}, r"row 5 holds half of a character, '\\ud83d'"),
        (with_row(4, answer=3), {}, "row 5: 'answer' is 3 .int.; .*from 0 to 2.*count from 1 must be lowered by 1"),
        (with_row(4, answer=-1), {}, "row 5: 'answer' is -1 .int.; expected the number of a choice, as in other rows"),
        (with_row(4, answer=None), {}, "row 5: 'answer' is None"),
        (with_row(4, answer=1.5), {}, "row 5: 'answer' is 1.5 .float."),
        (with_row(4, answer=True), {}, "row 5: 'answer' is True .bool."),
        (with_row(4, answer="Paris"), {}, "row 5: 'answer' is 'Paris'"),
        (with_row(4, choices=["a", "x", "x"]), {}, "row 5: the right choice, 'x', is there twice"),
        ([{**row, "choices": ["1", "0"], "answer": "0"} for row in ROWS], {}, "row 1: .* the text or the number"),
        ([], {}, "c.jsonl holds no records"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_row(tmp_path, rows, keys, message):
    with pytest.raises(HeadroomError, match=f"^task 'capitals': .*{message}"):
        read_own(entry(tmp_path, rows, **keys))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b'{"question": 1}\n{oops\n', "c.jsonl, line 2 is no JSON"),
        ("c.jsonl", b'{"answer": 0}\n{"answer": 0, "answer": 1}\n', "c.jsonl, line 2: the key 'answer' is there twice"),
        ("c.jsonl", b'{"answer": {"a": 1, "a": 2}}\n', "c.jsonl, line 1: the key 'a' is there twice"),
        ("c.jsonl", b"[1]\n", "c.jsonl, line 1 holds .1. .list.; expected an object"),
        ("c.jsonl", b"\xff\xfe", "c.jsonl is not in UTF-8"),
        ("c.csv", b"question,question\n", "c.csv has the column 'question' twice"),
        ("c.csv", b"question,answer\na,0\nb, c,1\n", "c.csv, row 2 has 3 cells, and the header 2"),
        ("c.csv", b'question,answer\n"a,0\n', "c.csv, line 2 is no CSV"),
        ("c.parquet", b"PAR1", "c.parquet is not a readable Parquet file"),
        ("nowhere/c.csv", None, "c.csv cannot be read .No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HeadroomError, match=f"^task 'mine': .*{message}"):
        read_own(TaskEntry(name="mine", file=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["copa", {"name": "copa", "file": "c.csv"}], "'tasks': .* has non-unique elements"),
        ([{"name": "a b", "file": "c.csv"}], "'tasks': 'a b' cannot be a task name"),
        ([{"file": "c.csv"}], r"'tasks\[0\].name': is not there"),
        ([{"name": "mine", "file": "c.txt"}], r"'tasks\[0\].file': 'c.txt' is no file of records; expected \*.jsonl"),
        ([{"name": "mine", "file": "c/.csv"}], r"'tasks\[0\].file': 'c/.csv' is no file of records"),
        ([{"name": "mine", "prompt": "{{q}}"}], r"'tasks\[0\]': task 'mine' has prompt, which needs file"),
        ([{"name": "mine", "fil": "c.csv"}], r"'tasks.0.fil' is unknown .did you mean 'file'"),
        ([{"name": "mine", "file": "c.csv", "data": {"source": "hub"}}], "has both file and data"),
        (["copa", {"name": "mine", "data": {"source": "mirror"}}], r"'tasks\[1\].data.mirror': source is mirror"),
        (
            [{"name": "mine", "data": {"mirrors": "x"}}],
            "'tasks.0.data.mirrors' is unknown .did you mean 'mirror'.*source$",
        ),
    ],
    ids=str,
)
def test_keys_that_cannot_be_are_refused(tasks, message):
    with pytest.raises(HeadroomError, match=message):
        parse_study({"tasks": tasks})


def test_every_list_of_tasks_has_the_names(tmp_path):
    study = parse_study({"tasks": ["copa", {"name": "mine", "file": "c.csv"}], "unseen": [{"name": "piqa"}]})
    assert (study.tasks, study.unseen, study.all_tasks) == (["copa", "mine"], ["piqa"], ["copa", "mine", "piqa"])
    assert parse_study(study.model_dump()) == study
    assert study.model_dump()["unseen"] == ["piqa"]
    with pytest.raises(HeadroomError, match="task 'mine': its file, c.csv, is not there"):
        study.check_folders(tmp_path)


def test_content_and_keys_count_and_places_do_not(tmp_path):
    one = entry(tmp_path)
    (tmp_path / "moved").mkdir()
    moved = one.model_copy(update={"file": jsonl(tmp_path / "moved" / "d.jsonl", ROWS)})
    digests = Digests()
    assert own_file_records(moved, tmp_path, digests) == own_file_records(one, tmp_path, digests)
    assert moved.digest == one.digest != entry(tmp_path, prompt="{{question}}").digest
    before = own_file_records(one, tmp_path, digests)
    assert own_file_records(entry(tmp_path, ROWS[1:]), tmp_path, Digests()) != before


class TestSources:
    def sources(self, tmp_path, **keys):
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "mine.yaml").write_text("task: mine\ndataset_path: json\n")
        study = parse_study({"task_folders": ["tasks"], **keys})
        return TaskSources(study, tmp_path)

    def test_data_may_differ_by_task(self, tmp_path):
        tasks = ["mine", "copa", {"name": "piqa", "data": {"source": "hub"}}, {"name": "q", "file": "q.csv"}]
        sources = self.sources(tmp_path, tasks=tasks)
        assert {task: sources.source(task) for task in ("mine", "copa", "piqa", "q")} == {
            "mine": "hub", "copa": "embedded", "piqa": "hub", "q": "study",
        }  # fmt: skip

    def test_ones_own_folder_comes_first(self, tmp_path):
        sources = self.sources(tmp_path, tasks=["mine", "copa"])
        assert sources.folder("mine") == tmp_path / "tasks"
        assert sources.folder("copa") == TASK_FOLDERS / "paper"

    def test_a_task_in_two_folders_is_refused(self, tmp_path):
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "m.yaml").write_text("task: mine\n")
        sources = self.sources(tmp_path, tasks=["mine"], task_folders=["tasks", "more"])
        with pytest.raises(HeadroomError, match=r"task 'mine' is defined in .*tasks and in .*more; rename one"):
            sources.digest("mine")

    @pytest.mark.parametrize(
        ("name", "place"), [("mine", "tasks/mine.yaml"), ("wsc", "paper/wsc"), ("piqa", "piqa/piqa")]
    )
    def test_a_file_of_ones_own_takes_no_name_of_another_task(self, tmp_path, monkeypatch, name, place):
        monkeypatch.chdir(tmp_path)
        sources = self.sources(tmp_path, tasks=[{"name": name, "file": jsonl(tmp_path / "c.jsonl", ROWS)}])
        with pytest.raises(HeadroomError, match=f"task '{name}' has a file of your own, but .*{place}.* rename yours"):
            Records(sources.study, sources, Digests()).check()

    def test_lm_evals_files_are_not_read_where_its_names_are_known(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        checked = self.sources(tmp_path, tasks=[{"name": "capitals", "file": jsonl(tmp_path / "c.jsonl", ROWS)}])
        read = []
        monkeypatch.setattr(sources, "built_in_yaml", lambda name, folder: read.append(folder))
        for is_known, theirs in ((True, []), (False, [Path(lm_eval.__file__).parent / "tasks"])):
            monkeypatch.setattr(sources, "knows_names", lambda known=is_known: known)
            checked.check_name("capitals")
            assert read == [tmp_path / "tasks", TASK_FOLDERS, *theirs]
            read.clear()

    def test_a_task_whose_records_are_not_embedded_is_refused_with_those_that_are(self, tmp_path):
        sources = self.sources(tmp_path, tasks=["copa", "rte"])
        with pytest.raises(
            HeadroomError, match="task 'rte' is not embedded.*; embedded: arc_challenge, .*hub or mirror"
        ):
            Records(sources.study, sources, Digests()).check()

    def test_a_missing_folder_is_named(self, tmp_path):
        study = parse_study({"task_folders": ["nowhere"]})
        with pytest.raises(HeadroomError, match=r"'task_folders\[0\]': there is no folder nowhere"):
            study.check_folders(tmp_path)

    def test_embedded_records_that_are_unpacked_later_are_known_then(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        sources = self.sources(tmp_path, tasks=["copa"])
        records = Records(sources.study, sources, Digests())
        assert records.contents()["copa"][1] == ""
        for path in map(Path, records.files("copa")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        assert records.digest("copa", Path("prompts.parquet"))
        assert records.contents()["copa"][1] == records.digest("copa", Path("prompts.parquet"))

    def test_a_mirror_of_one_task_is_checked(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        task = {"name": "copa", "data": {"source": "mirror", "mirror": "nowhere"}}
        sources = self.sources(tmp_path, tasks=[task])
        with pytest.raises(HeadroomError, match=r"'tasks\[0\].data.mirror': .*nowhere/copa holds no Parquet files"):
            Records(sources.study, sources, Digests()).check()


class TestCommand:
    @pytest.fixture
    def study(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        jsonl(tmp_path / "c.jsonl", ROWS)
        (tmp_path / "s.yaml").write_text("tasks: [{name: capitals, file: c.jsonl}]\nshots: [0, 1]\n")
        return read_study(tmp_path / "s.yaml")

    def test_check_prints_prompts_splits_and_score(self, study, capsys):
        assert main(["task", "check", "capitals", "--study", "s.yaml"]) == 0
        printed = capsys.readouterr().out
        assert "task capitals, 1-shot, defined in study, records from study" in printed
        assert "evaluation: 8 documents in 8 questions, from split 'validation'" in printed
        assert "shots: from split 'validation'" in printed
        assert "scored: whether the likeliest choice is right (acc)" in printed
        assert printed.count("\nprompt ") == 3
        assert "  | Question: Capital 4?\n  | Answer:\n    ' Oslo'\n  * ' Rome'\n    ' Bern'\n" in printed

    def test_check_names_a_task_that_is_not_there(self, study, capsys):
        assert main(["task", "check", "capital", "--study", "s.yaml"]) == 1
        assert "'capital' is not in 'tasks' or 'unseen' (did you mean 'capitals'?)" in capsys.readouterr().err

    def test_the_rendering_command_takes_what_the_rule_passes(self, study, tmp_path):
        import shlex

        options = shlex.split(Records(study, TaskSources(study), Digests()).options("capitals"))
        words = ["render-prompts", "--task", "capitals", "--shots", "0", *options, "--out", str(tmp_path / "p.parquet")]
        assert main(words) == 0
        assert provenance(tmp_path / "p.parquet")["definition_digest"] == study.all_entries["capitals"].digest
