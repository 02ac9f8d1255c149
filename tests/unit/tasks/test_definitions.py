"""The study's 16 tasks on real records: prompts as in the paper, right choices by what the data mean, golden files.

The templates here are written anew after the early-2023 harness of the released code and share nothing with the YAMLs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from lm_eval.utils import general_detokenize

from lm_headroom.tasks import prompts
from lm_headroom.tasks.digest import task_digest
from lm_headroom.tasks.files import TASK_FOLDERS, task_yaml
from tests.golden import make

Doc = dict[str, Any]
YES = {"True": "yes", "False": "no"}


@dataclass(frozen=True)
class Task:
    """What a record of a task becomes: the text before a choice and after it, its choices, and the right ones."""

    parts: Callable[[Doc, str], tuple[str, str]]
    choices: Callable[[Doc], list[str]]
    # The second argument is the name of the label's class, where the data set has one.
    right: Callable[[Doc, str | None], list[str]]
    shown: Callable[[Doc], str] | None = None

    def shot(self, doc: Doc, label: str | None) -> str:
        """What a few-shot example looks like."""
        return "".join(self.parts(doc, self.shown(doc) if self.shown else self.right(doc, label)[0]))


def ask(text: Callable[[Doc], str]) -> Callable[[Doc, str], tuple[str, str]]:
    return lambda doc, choice: (text(doc), f" {choice}")


def fixed(*choices: str) -> Callable[[Doc], list[str]]:
    return lambda doc: list(choices)


def named(answers: dict[str, str]) -> Callable[[Doc, str | None], list[str]]:
    return lambda doc, label: [answers[str(label)]]


def cleaned(text: str) -> str:
    """HellaSwag without the brackets of WikiHow."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def marked(doc: Doc) -> str:
    """WSC with the pronoun between asterisks."""
    before = " ".join(doc["text"].split()[: doc["span2_index"]])
    after = doc["text"][len(before) + 1 + len(doc["span2_text"]) :]
    return general_detokenize(f"{before} *{doc['span2_text']}*{after}")


def decapitalised(choice: str) -> str:
    return choice[:1].lower() + choice[1:]


def listed(doc: Doc) -> str:
    """ReCoRD's passage with its highlights."""
    passage, *highlights = doc["passage"].strip().split("\n@highlight\n")
    return "\n".join([passage, "", *(f"  - {highlight}." for highlight in highlights), ""])


def squad(text: str) -> str:
    words = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def question(doc: Doc) -> str:
    return f"Question: {doc['question']}\nAnswer:"


def lettered(doc: Doc, label: str | None) -> list[str]:
    return [doc["choices"]["text"][doc["choices"]["label"].index(doc["answerKey"].strip())]]


def options(doc: Doc) -> list[str]:
    """MathQA's choices."""
    return [text[4:].rstrip(" ,") for text in re.split(r" , (?=[b-e] \) )", doc["options"])]


ARC = Task(ask(question), lambda doc: doc["choices"]["text"], lettered)
TASKS = {
    "hellaswag": Task(
        ask(lambda doc: cleaned(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}")),
        lambda doc: [cleaned(ending) for ending in doc["endings"]],
        lambda doc, _: [cleaned(doc["endings"][int(doc["label"])])],
    ),
    "piqa": Task(
        ask(lambda doc: f"Question: {doc['goal']}\nAnswer:"),
        lambda doc: [doc["sol1"], doc["sol2"]],
        lambda doc, _: [doc[f"sol{doc['label'] + 1}"]],
    ),
    "arc_easy": ARC,
    "arc_challenge": ARC,
    "openbookqa": Task(ask(lambda doc: doc["question_stem"]), ARC.choices, lettered),
    "winogrande": Task(
        lambda doc, name: (doc["sentence"].split("_")[0] + name, " " + doc["sentence"].split("_", 1)[1].strip()),
        lambda doc: [doc["option1"], doc["option2"]],
        lambda doc, _: [doc[f"option{doc['answer']}"]],
    ),
    "boolq": Task(
        ask(lambda doc: f"{doc['passage']}\nQuestion: {doc['question']}?\nAnswer:"), fixed("no", "yes"), named(YES)
    ),
    "cb": Task(
        ask(lambda doc: f"{doc['premise']}\nQuestion: {doc['hypothesis']}. True, False or Neither?\nAnswer:"),
        fixed("True", "False", "Neither"),
        named({"entailment": "True", "contradiction": "False", "neutral": "Neither"}),
    ),
    "copa": Task(
        ask(lambda doc: doc["premise"].strip()[:-1] + {"cause": " because", "effect": " therefore"}[doc["question"]]),
        lambda doc: [decapitalised(doc["choice1"]), decapitalised(doc["choice2"])],
        lambda doc, label: [decapitalised(doc[str(label)])],
    ),
    "wic": Task(
        ask(
            lambda doc: (
                f"Sentence 1: {doc['sentence1']}\nSentence 2: {doc['sentence2']}\nQuestion: Is the word "
                f"'{doc['sentence1'][doc['start1'] : doc['end1']]}' used in the same way in the two sentences above?"
                "\nAnswer:"
            )
        ),
        fixed("no", "yes"),
        named(YES),
    ),
    "wsc": Task(
        ask(
            lambda doc: (
                f'Passage: {marked(doc)}\nQuestion: In the passage above, does the pronoun "*{doc["span2_text"]}*" '
                f'refer to "*{doc["span1_text"]}*"?\nAnswer:'
            )
        ),
        fixed("no", "yes"),
        named(YES),
    ),
    "multirc": Task(
        ask(lambda doc: f"{doc['paragraph']}\n{question(doc)}"),
        lambda doc: [f"{doc['answer']}\nIs the answer correct? {word}" for word in ("no", "yes")],
        lambda doc, label: [f"{doc['answer']}\nIs the answer correct? {YES[str(label)]}"],
    ),
    "rte": Task(
        ask(lambda doc: f"{doc['premise']}\nQuestion: {doc['hypothesis']} True or False?\nAnswer:"),
        fixed("True", "False"),
        named({"entailment": "True", "not_entailment": "False"}),
    ),
    "record": Task(
        # The query continues the list, whose items start with two spaces.
        lambda doc, entity: (listed(doc), "  - " + doc["query"].replace("@placeholder", entity)),
        lambda doc: sorted(set(doc["entities"])),
        lambda doc, _: [e for e in doc["entities"] if squad(e) in map(squad, doc["answers"])],
        shown=lambda doc: min(doc["answers"]),
    ),
    "mathqa": Task(
        ask(lambda doc: f"Question: {doc['Problem']}\nAnswer:"),
        options,
        lambda doc, _: [options(doc)["abcde".index(doc["correct"])]],
    ),
    "lambada_openai": Task(
        ask(lambda doc: " ".join(doc["text"].split(" ")[:-1])),
        lambda doc: [doc["text"].split(" ")[-1]],
        lambda doc, _: [doc["text"].split(" ")[-1]],
    ),
}


@pytest.fixture(scope="module")
def few(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first records of each split: so few to draw shots from that a document among its own would show."""
    folder = tmp_path_factory.mktemp("records")
    for file in records.glob("*/*.parquet"):
        task, split = file.parent.name, file.stem
        (folder / task).mkdir(exist_ok=True)
        # Of WSC's only some are shots.
        count = 8 if split == "train" and task != "wsc" else 24
        pq.write_table(pq.read_table(file).slice(0, count), folder / task / file.name)
    return folder


def documents(records: Path, task: str, split: str) -> list[tuple[Doc, str | None]]:
    """Records of a split with the name of their label's class."""
    table = pq.read_table(records / task / f"{split}.parquet")
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    labelled = [(doc, names[doc["label"]] if names else None) for doc in table.to_pylist()]
    # The early-2023 harness keeps only these of WSC.
    return [pair for pair in labelled if pair[1] == "True"] if (task, split) == ("wsc", "train") else labelled


def rendered(records: Path, task: str, shots: int, kind: str = "paper") -> Iterator[dict[str, Any]]:
    columns, _ = prompts.render(task, shots, 7, str(records), folders=[TASK_FOLDERS / kind])
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def test_the_study_has_16_tasks():
    assert set(TASKS) == set(make.TASKS)
    assert len(TASKS) == 16


@pytest.mark.parametrize("shots", [0, 1, 5])
@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_the_papers(few, task, shots):
    """Each text is a description-free list of known examples, none of them the document itself, and its own question.

    The right choices are compared by what the records say, not by their numbers.
    """
    spec = TASKS[task]
    splits = {split: documents(few, task, split) for split in {row["split"] for row in rendered(few, task, 0)}}
    pool = {"mathqa": "validation", "lambada_openai": "test"}.get(task, "train")
    examples = [spec.shot(*pair) + "\n\n" for pair in splits[pool]]
    if task == "lambada_openai":
        examples = examples[:8]
    purposes = set()
    for row in rendered(few, task, shots):
        purposes.add(row["purpose"])
        doc, label = splits[row["split"]][row["doc_id"]]
        text = row["context"]
        for _ in range(shots):
            number = next(i for i, example in enumerate(examples) if text.startswith(example))
            assert row["split"] != pool or number != row["doc_id"], "the document is among its own shots"
            text = text.removeprefix(examples[number])
        choice = spec.choices(doc)[row["choice"]]
        assert (text, row["continuation"]) == spec.parts(doc, choice)
        assert row["gold"] == (choice in spec.right(doc, label)), (doc, choice)
        assert row["metric"] == ("greedy" if task == "lambada_openai" else "choice")
    assert purposes == {"importance", "evaluation"}


@pytest.mark.parametrize("task", TASKS)
def test_golden_files(records, task):
    """Written by ``python -m tests.golden.make``, which says when to run it."""
    assert make.summary(task, records) == json.loads(make.path(task).read_text())


@pytest.mark.parametrize("task", ["arc_easy", "record"])
def test_the_same_seed_gives_the_same_file(few, tmp_path, task):
    from lm_headroom.steps.render_prompts import render_prompts

    for name in ("a", "b"):
        limits = {"limit_importance": 4, "limit_evaluation": 4, "sample": "shuffled"}
        render_prompts(task=task, shots=5, seed=7, data=str(few), **limits, out=tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class TestPaperAndHarness:
    """Where the two differ, and that they do nowhere else."""

    def both(self, few, task, shots=1):
        return (list(rendered(few, task, shots, kind)) for kind in ("paper", "harness"))

    @pytest.mark.parametrize("task", sorted(set(TASKS) - {"cb", "copa", "lambada_openai", "record", "wsc"}))
    def test_the_same(self, few, task):
        paper, harness = self.both(few, task)
        assert paper == harness

    @pytest.mark.parametrize(
        ("task", "theirs", "papers"),
        [
            ("cb", "True, False, or Neither?", "True, False or Neither?"),
            ("copa", "  ", " "),
            ("record", "\n   - ", "\n  - "),
        ],
    )
    def test_another_text(self, few, task, theirs, papers):
        paper, harness = self.both(few, task)
        for ours, other in zip(paper, harness, strict=True):
            texts = [other["context"] + other["continuation"], ours["context"] + ours["continuation"]]
            assert theirs in texts[0]
            assert texts[0].replace(theirs, papers) == texts[1]
            assert ours["gold"] == other["gold"]

    def test_lambadas_shots_have_two_spaces(self, few):
        paper, harness = self.both(few, "lambada_openai")
        shots = [doc["text"] for doc, _ in documents(few, "lambada_openai", "test")]
        for ours, other in zip(paper, harness, strict=True):
            assert ours["continuation"] == other["continuation"]
            shot = next(text for text in shots if ours["context"].startswith(f"{text}\n\n"))
            assert other["context"] == "  ".join(shot.rsplit(" ", 1)) + ours["context"].removeprefix(shot)

    def test_wsc_learns_from_negative_records_too(self, few):
        paper, harness = self.both(few, "wsc", 0)
        assert [row for row in paper if row["purpose"] == "evaluation"] == [
            row for row in harness if row["purpose"] == "evaluation"
        ]
        scored = [[row["continuation"] for row in rows if row["purpose"] == "importance" and row["gold"]]
                  for rows in (paper, harness)]  # fmt: skip
        assert set(scored[0]) == {" yes"}
        assert set(scored[1]) == {" yes", " no"}


class TestRecord:
    """Which entities are right, on records made here."""

    def doc(self, entities, answers):
        return {"passage": "P\n@highlight\nH", "query": "@placeholder won.", "entities": entities, "answers": answers}

    def columns(self, tmp_path, *docs):
        import pyarrow as pa

        (tmp_path / "record").mkdir()
        for split in ("train", "validation"):
            pq.write_table(pa.Table.from_pylist(list(docs)), tmp_path / "record" / f"{split}.parquet")
        return prompts.render("record", 0, 1, str(tmp_path), folders=[TASK_FOLDERS / "paper"])

    def test_every_entity_that_equals_an_answer_but_for_case_articles_and_punctuation(self, tmp_path):
        doc = self.doc(["the U.N.", "Rome", "UN", "Rome", "Un Rome"], ["UN"])
        columns, _ = self.columns(tmp_path, doc)
        assert columns["continuation"][:4] == [f"  - {e} won." for e in ("Rome", "UN", "Un Rome", "the U.N.")]
        assert columns["gold"][:4] == [False, True, False, True]

    def test_a_document_whose_answer_is_no_entity_is_left_out(self, tmp_path):
        columns, details = self.columns(tmp_path, self.doc(["A"], ["B"]), self.doc(["C", "D"], ["D"]))
        assert set(columns["doc_id"]) == {1}
        assert details["documents"]["importance"] == {"split": "train", "count": 1, "questions": 1, "left_out": 1}


@pytest.mark.parametrize(
    "path", sorted(TASK_FOLDERS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_each_yaml_says_why_it_is_there(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert task_yaml(path.stem, path.parent) == path
    assert len(task_digest(path.stem, path.parent)) == 16
    base = (TASK_FOLDERS / "paper" / path.name).read_text()
    assert yaml.load(base, Loader=_Plain)["metadata"]["version"]


class _Plain(yaml.SafeLoader):
    """Reads the names of functions as text."""


_Plain.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
