"""What a task's own scoring and its labels mean: as lm-eval computes them, or a refusal that names them."""

import math

import numpy as np
import pytest

from lm_headroom.errors import HeadroomError
from lm_headroom.tasks import prompts
from lm_headroom.tasks.scoring import check_scoring, right_choices
from tests.support.records import mirror, rows, table

ACC = {"metric": "acc", "aggregation": "mean"}
FUNCTIONS = (
    "import numpy\n\n\ndef process_results(doc, results):\n    return {'acc': 0.5}\n"
    "\n\ndef several(doc):\n    return [0, 2]\n\n\ndef as_numpy(doc):\n    return numpy.int64(doc['label'])\n"
    "\n\ndef lower(doc):\n    return int(doc['label']) - 1\n"
)


def process_results(doc, results):
    """A task's own scoring."""


REFUSED = {
    "process_results": (
        {"process_results": process_results},
        "a function of its own .process_results: process_results",
    ),
    "process_results by name": ({"process_results": "utils.score"}, "process_results: utils.score"),
    "no acc": ({"metric_list": [{"metric": "mcc"}]}, "does not define the metric acc: metric_list has mcc"),
    "acc_bytes": ({"metric_list": [{"metric": "acc_bytes"}]}, "metric_list has acc_bytes"),
    "acc_norm alone": ({"metric_list": [{"metric": "acc_norm"}]}, "metric_list has acc_norm"),
    "several others": ({"metric_list": [{"metric": "f1"}, {"metric": "exact_match"}]}, "has f1, exact_match"),
    "an own metric": ({"metric_list": [{"metric": process_results}]}, "metric_list has process_results"),
    "an empty list": ({"metric_list": []}, "metric_list has none"),
    "an aggregation": (
        {"metric_list": [{**ACC, "aggregation": "median"}]},
        "aggregates acc by median, not by its mean",
    ),
    "an own aggregation": ({"metric_list": [{**ACC, "aggregation": math.fsum}]}, "aggregates acc by fsum"),
    "a filter": (
        {"filter_list": [{"name": "n", "filter": [{"function": "take_first"}, {"function": "majority_vote"}]}]},
        "before they are scored .filter_list: majority_vote",
    ),
    "pictures": ({"doc_to_image": "image"}, "shows pictures .doc_to_image"),
    "sounds": ({"doc_to_audio": ["a"]}, "shows sounds .doc_to_audio"),
    "no shots": ({"num_fewshot": 0}, "sets num_fewshot: 0, so that lm-eval shows no examples"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_another_scoring_is_refused_by_name(kind):
    config, message = REFUSED[kind]
    with pytest.raises(HeadroomError, match=f"task 'mine' .*{message}"):
        check_scoring("mine", {"task": "mine", **config}, 1)


@pytest.mark.parametrize(
    ("config", "others"),
    [
        ({}, []),
        ({"num_fewshot": 5}, []),
        ({"metric_list": None}, []),
        ({"metric_list": [{"metric": "acc"}]}, []),
        ({"metric_list": [ACC, {"metric": "acc_norm"}]}, []),
        ({"metric_list": [{**ACC, "aggregation": "nanmean"}]}, []),
        ({"metric_list": [{"metric": "f1"}, ACC, {"metric": process_results}]}, ["f1", "process_results"]),
        ({"filter_list": [{"name": "none", "filter": [{"function": "take_first"}]}]}, []),
    ],
)
def test_accuracy_is_served_and_what_else_there_is_named(config, others):
    assert check_scoring("mine", config, 1) == others


def test_shots_alone_are_refused_where_a_task_shows_none():
    assert check_scoring("mine", {"num_fewshot": 0}, 0) == []


@pytest.mark.parametrize(
    ("label", "right"),
    [
        (0, {0}), (2, {2}), (True, {1}), (False, {0}), (np.int64(2), {2}), (np.int8(1), {1}), ("b", {1}),
        (np.str_("c"), {2}), ([0, 2], {0, 2}), (["a", "c"], {0, 2}), ([np.int64(1), True], {1}), ([1, -1], {1}),
        (-1, set()), (-100, set()), (5, set()), ("", set()), (None, set()), ("1", set()), ("B", set()), (1.0, set()),
        (np.float64(1), set()), (math.nan, set()), ([], set()), (np.bool_(True), set()), ((0, 1), set()), ({}, set()),
    ],
)  # fmt: skip
def test_labels_mean_what_they_mean_to_lm_eval(label, right):
    assert right_choices(label, ["a", "b", "c"]) == right


@pytest.mark.parametrize("label", [3, np.int64(3), [0, 3]])
def test_a_label_that_is_the_number_of_choices_counts_from_1(label):
    with pytest.raises(
        HeadroomError, match="the label is .*3.*, and there are 3 choices, numbered from 0 to 2; labels"
    ):
        right_choices(label, ["a", "b", "c"])


@pytest.fixture
def task(tmp_path):
    """Renders a task of four choices with these labels, and more lines in its YAML."""

    def render(labels, yaml="", shots=0, split="validation", **splits):
        (tmp_path / "tasks").mkdir(exist_ok=True)
        (tmp_path / "tasks" / "utils.py").write_text(FUNCTIONS)
        target = "" if "doc_to_target" in yaml else "doc_to_target: label\n"
        choice = "" if "doc_to_choice" in yaml else "doc_to_choice: [north, east, south, west]\n"
        (tmp_path / "tasks" / "mine.yaml").write_text(
            "task: mine\noutput_type: multiple_choice\ntraining_split: train\nvalidation_split: validation\n"
            f"doc_to_text: '{{{{goal}}}}'\n{target}{choice}{yaml}"
        )
        tables = {"train": [0, 1, 2, 3], split: labels, **splits}
        data = mirror(tmp_path / "data", "mine", **{name: table(values) for name, values in tables.items()})
        return prompts.render("mine", shots, 1, data, folders=[tmp_path / "tasks"])

    return render


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["1", "2"], "'1' (str), of document 0"),
        ([1.0, 2.0], "1.0 (float), of document 0"),
        (["B", "C"], "'B' (str), of document 0"),
        ([-1, -1], "-1 (int), of document 0"),
        (["", ""], "'' (str), of document 0"),
    ],
)
def test_labels_that_name_no_choice_are_shown_with_their_type(task, labels, shown):
    with pytest.raises(HeadroomError) as caught:
        task(labels, train=labels)
    assert f"the first label is {shown}, where the number of a choice, from 0, or its text" in str(caught.value)


@pytest.mark.parametrize("yaml", ["doc_to_target: '{{label}}'\n", "doc_to_target: !function utils.as_numpy\n"])
def test_numbers_however_they_come(task, yaml):
    columns, _ = task(["2", "0"] if "label}}" in yaml else [2, 0], yaml)
    assert [row["choice"] for row in rows(columns, "evaluation") if row["gold"]] == [2, 0]


def test_true_and_false_are_numbers(task):
    columns, _ = task([True, False], "doc_to_choice: ['no', 'yes']\n", train=[0, 1])
    assert [row["choice"] for row in rows(columns, "evaluation") if row["gold"]] == [1, 0]


def test_several_right_choices(task):
    columns, _ = task([0, 1], "doc_to_target: !function utils.several\n")
    assert [row["choice"] for row in rows(columns, "evaluation") if row["gold"]] == [0, 2, 0, 2]


@pytest.mark.parametrize("label", [4, 9])
def test_a_first_label_beyond_the_choices_is_shown(task, label):
    with pytest.raises(HeadroomError, match=f"its first document: the label is {label} .int., and there are 4 choices"):
        task([label, 0])


def test_labels_that_count_from_1_are_refused_even_where_no_chosen_document_has_the_last(task):
    with pytest.raises(HeadroomError, match="task 'mine', split 'validation', document 3: the label is 4 .int., and"):
        task([1, 2, 3, 4])
    columns, _ = task([1, 2, 3, 4], "doc_to_target: !function utils.lower\n", train=[1, 2, 3, 4])
    assert [row["choice"] for row in rows(columns, "evaluation") if row["gold"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("goal", "its choices are 'goal 0' .str.; expected a list of texts"),
        ("[1, 2]", "choice 0 is 1 .int.; expected text"),
        ("[]", "its first document: it has no choices"),
    ],
)
def test_choices_that_are_no_texts(task, choice, message):
    with pytest.raises(HeadroomError, match=f"task 'mine'.*({message}|could not be loaded)"):
        task([0, 1], f"doc_to_choice: {choice}\n")


def test_a_continuation_that_is_no_text(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "task: mine\noutput_type: loglikelihood\ntest_split: test\ndoc_to_text: '{{goal}}'\ndoc_to_target: label\n"
    )
    data = mirror(tmp_path / "data", "mine", test=table([[1], [2], [3]]))
    with pytest.raises(
        HeadroomError, match="document 0: its continuation .doc_to_target. is .1. .list.; expected text"
    ):
        prompts.render("mine", 0, 1, data, folders=[tmp_path])


class TestSplits:
    """Which split scores, evaluates and gives shots is decided in the open."""

    TEST = "test_split: test\n"

    def test_they_are_recorded(self, task):
        _, details = task([0, 1], self.TEST, shots=1, test=[2, 3])
        assert details["splits"] == {"importance": "train", "evaluation": "test", "shots": "train"}
        assert details["notes"] == []

    @pytest.mark.parametrize(
        ("labels", "split"),
        [([-1, 0, 1, 2], "test"), ([0, -1, -1, -1], "validation"), ([-1] * 4, "validation"), ([0, 1, -1, -1], "test")],
    )
    def test_more_than_the_first_document_says_whether_test_has_labels(self, task, labels, split):
        _, details = task([0, 1], self.TEST, test=labels)
        assert details["splits"]["evaluation"] == split
        hidden = labels.count(-1)
        message = (
            f"split 'validation' is evaluated, not 'test', where {hidden} of 4 documents that were looked at have no"
            if split == "validation"
            else f"{hidden} of 4 evaluation documents of split 'test' have no right choice and are left out; the first"
        )
        assert any(note.startswith(message) for note in details["notes"])

    def test_a_missing_split_for_shots_is_said(self, task):
        for line in ("fewshot_split: dev\n", "fewshot_config: {split: dev}\n"):
            _, details = task([0, 1], line, shots=1)
            assert details["splits"]["shots"] == "train"
            key = "fewshot_config.split" if "config" in line else "fewshot_split"
            assert (
                f"the mirror has no records of split 'dev' ({key}), so that another takes its place" in details["notes"]
            )
            _, details = task([0, 1], line, shots=3, dev=[0, 1, 2])
            assert (details["splits"]["shots"], details["notes"]) == ("dev", [])
            (task.__closure__[0].cell_contents / "data" / "mine" / "dev.parquet").unlink()

    def test_one_split_for_both_is_said(self, tmp_path):
        (tmp_path / "mine.yaml").write_text(
            "task: mine\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{goal}}'\n"
            "doc_to_target: label\ndoc_to_choice: [a, b]\nmetric_list: [{metric: acc}, {metric: mcc}]\n"
        )
        data = mirror(tmp_path / "data", "mine", test=table([0, 1] * 5))
        _, details = prompts.render("mine", 0, 1, data, folders=[tmp_path])
        assert details["notes"] == [
            "split 'test' is for both: its first 3 documents score, the others evaluate",
            "beside acc the task defines mcc, which lm-headroom does not compute",
        ]

    def test_they_are_printed(self, task, capsys, tmp_path):
        from lm_headroom.steps.render_prompts import render_prompts

        task([0, 1], self.TEST, test=[-1, -1, 0])
        paths = {"task_folders": [tmp_path / "tasks"], "data": str(tmp_path / "data"), "out": tmp_path / "p"}
        render_prompts(task="mine", shots=1, seed=1, limit_importance=2, limit_evaluation=2, **paths)
        printed = capsys.readouterr().err
        assert "prompts mine 1-shot: splits: scores train, evaluates validation, takes shots from train\n" in printed
        assert (
            "prompts mine 1-shot: split 'validation' is evaluated, not 'test', where 2 of 3 documents that" in printed
        )
