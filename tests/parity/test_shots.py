"""lm-eval itself as witness of where shots come from and how they are put: its own requests, byte for byte."""

import pytest

from lm_headroom.errors import HeadroomError
from lm_headroom.tasks import prompts
from tests.support.records import mirror, table

BASE = (
    "task: mine\noutput_type: multiple_choice\nvalidation_split: validation\ntest_split: test\n"
    "doc_to_text: 'Where? {{goal}}'\ndoc_to_target: label\ndoc_to_choice: [north, east, south, west]\n"
    "metric_list: [{metric: acc}]\n"
)
SAMPLES = "".join(f"    - {{goal: sample {i}, label: {i % 4}}}\n" for i in range(5))
FUNCTIONS = "def shown():\n    return [{'goal': f'shown {i}', 'label': i % 4} for i in range(5)]\n"
TASKS = {
    "a split in its order": "fewshot_split: dev\nfewshot_config: {sampler: first_n}\n",
    "a split at random": "fewshot_split: dev\n",
    "a split named beside the sampler": "fewshot_config: {split: dev, sampler: first_n}\n",
    "a list of examples": f"fewshot_config:\n  sampler: first_n\n  samples:\n{SAMPLES}",
    "a list of examples at random": f"fewshot_config:\n  samples:\n{SAMPLES}",
    "a function": "fewshot_config: {samples: !function utils.shown}\n",
    "no delimiter": "fewshot_split: dev\ntarget_delimiter: ''\nfewshot_delimiter: ' | '\ndescription: 'Look.'\n",
    "a prefix of answers": "fewshot_split: dev\ngen_prefix: 'It is'\n",
    "contexts as choices": (
        "fewshot_split: dev\ndoc_to_text: label\ndoc_to_target: goal\n"
        "doc_to_choice: '{{[goal ~ 1, goal ~ 2, goal ~ 3, goal ~ 4]}}'\n"
    ),
}
"""Where shots come from, or how they are put, to lines of a task's YAML."""


@pytest.fixture
def study(tmp_path):
    """A mirror with five documents of ``dev``, and a task; returns rows of ours and lm-eval's requests, with shots."""

    def make(lines, shots=5):
        (tmp_path / "utils.py").write_text(FUNCTIONS)
        (tmp_path / "mine.yaml").write_text(BASE + lines)
        data = mirror(
            tmp_path / "data", "mine", dev=table([3, 2, 1, 0, 3]), validation=table([0, 1, 2]), test=table([1, 3, 0, 2])
        )
        columns, details = prompts.render("mine", shots, 7, data, folders=[tmp_path])
        return columns, details, requests(tmp_path, shots)

    return make


def requests(folder, shots):
    """What lm-eval would ask a model: document, context and continuation."""
    from lm_eval.tasks import TaskManager

    files = {path.stem: str(path) for path in (folder / "data" / "mine").glob("*.parquet")}
    (folder / "theirs").mkdir()
    (folder / "theirs" / "theirs.yaml").write_text(
        f"include: {folder}/mine.yaml\ntask: mine\ndataset_path: parquet\n"
        f"dataset_kwargs: {{data_files: {files}, cache_dir: {folder / 'cache'}}}\n"
    )
    task = TaskManager(include_path=str(folder / "theirs"), include_defaults=False).load(["mine"])["tasks"]["mine"]
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(7)
    task.build_all_requests()
    return [(instance.doc_id, *instance.args) for instance in task.instances]


@pytest.mark.parametrize("kind", TASKS)
def test_shots_from_apart_documents_are_lm_evals(study, kind):
    """As many documents as shots: none is spare."""
    columns, details, theirs = study(TASKS[kind])
    names = ("doc_id", "context", "continuation", "purpose")
    ours = [row[:3] for row in zip(*(columns[name] for name in names), strict=True) if row[3] == "evaluation"]
    assert ours == theirs
    assert details["splits"]["evaluation"] == "test"
    assert details["splits"]["shots"] == ("the task's own examples" if "samples" in TASKS[kind] else "dev")
    assert details["notes"] == []


def test_scoring_documents_have_the_same_shots(study):
    columns, _, _ = study(TASKS["a split in its order"])
    shown = {context.rsplit("Where?", 1)[0] for context in columns["context"]}
    assert len(shown) == 1
    assert shown.pop().count("Where?") == 5


def test_more_shots_than_documents_are_refused(study):
    for kind in ("a split in its order", "a list of examples"):
        with pytest.raises(HeadroomError, match="6 shots need at least 6 documents to draw from, the split has 5"):
            study(TASKS[kind], 6)


def test_a_document_among_its_own_examples_needs_a_spare_one(study):
    with pytest.raises(HeadroomError, match="4 shots need at least 5 documents to draw from, the split has 4"):
        study("fewshot_split: test\n", 4)
