"""Prompts on small records made here, in the columns of the real data sets; real ones are in tests/parity."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headroom import prompts
from headroom.errors import HeadroomError


def arc(n, start=0):
    return pa.Table.from_pylist(
        [
            {
                "id": str(start + i),
                "question": f"Which is number {start + i}?",
                "choices": {"text": [f"the {start + i}", "none", "all"], "label": ["A", "B", "C"]},
                "answerKey": "A",
            }
            for i in range(n)
        ]
    )


def mirror(folder, task="arc_easy", **splits):
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split, table in splits.items():
        pq.write_table(table, folder / task / f"{split}.parquet")
    return str(folder)


def rows(columns, purpose):
    return [{name: columns[name][i] for name in columns} for i, p in enumerate(columns["purpose"]) if p == purpose]


def test_a_row_per_choice_with_delimiter_and_gold(tmp_path):
    data = mirror(tmp_path, train=arc(6), validation=arc(4, 100))
    columns, facts = prompts.render("arc_easy", 0, 1, data)
    evaluation = rows(columns, "evaluation")
    assert len(evaluation) == 12
    assert evaluation[0] == {
        "doc_id": 0,
        "purpose": "evaluation",
        "split": "validation",
        "choice": 0,
        "context": "Question: Which is number 100?\nAnswer:",
        "continuation": " the 100",
        "gold": True,
        "choice_length": 7,
    }
    assert [row["gold"] for row in evaluation[:3]] == [True, False, False]
    assert facts["documents"] == {
        "importance": {"split": "train", "count": 6},
        "evaluation": {"split": "validation", "count": 4},
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
    documents = prompts.render("labelled", 0, 1, data, task_folder=tasks)[1]["documents"]
    assert documents["evaluation"]["split"] == "validation"


def test_one_split_is_cut_in_thirds(tmp_path):
    data = mirror(tmp_path, validation=arc(10, 100))
    columns, facts = prompts.render("arc_easy", 1, 1, data)
    assert facts["documents"]["importance"] == {"split": "validation", "count": 3}
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
    columns, _ = prompts.render("arc_easy", 0, 1, data, task_folder=tmp_path / "tasks")
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
    columns, facts = prompts.render("mine", 1, 1, "hub", task_folder=tasks)
    assert facts["data"] == {"source": "hub"}
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

    def test_a_generation_task(self, tmp_path):
        with pytest.raises(HeadroomError, match="'gsm8k' has output type 'generate_until'; .* multiple_choice"):
            prompts.render("gsm8k", 0, 1, str(tmp_path))

    def test_a_task_whose_functions_cannot_be_imported(self, tmp_path):
        (tmp_path / "utils.py").write_text("import no_such_package\n\n\ndef f(doc):\n    return 1\n")
        (tmp_path / "t.yaml").write_text("task: broken\ndoc_to_text: !function utils.f\n")
        with pytest.raises(HeadroomError, match="task 'broken': .*t.yaml cannot be read: .*no_such_package"):
            prompts.render("broken", 0, 1, task_folder=tmp_path)

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
        with pytest.raises(HeadroomError, match="document 0: no choice is marked right; .* hidden labels"):
            prompts.render("piqa", 0, 1, data)
