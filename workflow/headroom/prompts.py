"""Prompts, rendered by lm-eval: description, few-shot examples, separators, choices.

Everything later reads the prompts artifact: no later step needs lm-eval, the data, or a network.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headroom.artifacts.prompts import CHOICE, EVALUATION, GREEDY, IMPORTANCE, PROMPTS
from headroom.errors import HeadroomError, nearest
from headroom.task_files import task_yaml

HUB = "hub"
QUESTION, ANSWER = "question", "answer"
METRICS = (QUESTION, ANSWER)
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_SCORED = {"multiple_choice": CHOICE, "loglikelihood": GREEDY}
_REFUSED = {
    "generate_until": "its answers are generated text",
    "loglikelihood_rolling": "it scores whole texts, of which none is right or wrong",
}


@dataclass(frozen=True)
class Split:
    """Documents of one split, and of each the number of the first document of its question."""

    name: str
    documents: Sequence[dict[str, Any]]
    questions: Sequence[int]


@dataclass(frozen=True)
class Selection:
    """The documents of one purpose: their split and their numbers in it."""

    purpose: str
    split: Split
    doc_ids: Sequence[int]


def render(
    name: str,
    shots: int,
    seed: int,
    data: str = HUB,
    limit_importance: int | None = None,
    limit_evaluation: int | None = None,
    sample: str = "first",
    folders: Sequence[Path] = (),
    metric: str = QUESTION,
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Columns of a prompts artifact, and facts about the task for its provenance.

    Args:
        name: a task of output type multiple_choice or loglikelihood, in one of ``folders`` or in lm-eval.
        shots: few-shot examples per prompt, drawn at random by lm-eval's sampler.
        seed: of that sampler; same seed, same prompts.
        data: ``hub``, or a mirror folder with ``{task}/{split}.parquet`` in the columns of the task's data set.
        limit_importance: scoring documents; None for all.
        limit_evaluation: evaluation questions; None for all.
        sample: which scoring documents: the ``first``, or the first of them ``shuffled`` by the seed.
        folders: folders of task YAMLs that go before lm-eval's own, in this order.
        metric: ``question``: documents that the task's ``metadata.question`` puts together are one question;
            ``answer``: each document is its own.

    Raises:
        HeadroomError: the task is unknown or of a type that cannot be scored, the mirror lacks it, there are fewer
            documents than shots, or no document of a split has a right choice.
    """
    with tempfile.TemporaryDirectory() as cache:
        task, config, definition = load_task(name, data, folders, Path(cache))
        columns: dict[str, list[Any]] = {column.name: [] for column in PROMPTS.columns}
        documents = {}
        for selection in select(task, config, limit_importance, limit_evaluation, sample, seed, metric):
            _check_shots(task, shots, name)
            # As simple_evaluate: one seeded sampler goes through the documents in order.
            task.set_fewshot_seed(seed)
            rendered = [i for i in selection.doc_ids if _add_document(columns, task, selection, i, shots)]
            documents[selection.purpose] = _counts(name, selection, rendered)
    facts = {
        "task": name,
        "task_version": str((config.get("metadata") or {}).get("version", "unknown")),
        "definition": definition,
        "shots": shots,
        "seed": seed,
        "metric": metric,
        "data": _source(name, data),
        "documents": documents,
    }
    return columns, facts


def _counts(name: str, selection: Selection, rendered: Sequence[int]) -> dict[str, Any]:
    """Facts about one purpose. Documents without a right choice are left out; if all are, their labels are hidden."""
    split = selection.split
    if not rendered:
        raise HeadroomError(
            f"task {name!r}, split {split.name!r}: no choice is marked right in any of {len(selection.doc_ids)} "
            f"documents, the first of which is document {selection.doc_ids[0]}; is this a split with hidden labels?"
        )
    return {
        "split": split.name,
        "count": len(rendered),
        "questions": len({split.questions[i] for i in rendered}),
        "left_out": len(selection.doc_ids) - len(rendered),
    }


def load_task(name: str, data: str, folders: Sequence[Path], cache: Path) -> tuple[Any, dict[str, Any], str]:
    """An lm-eval task with its data, its merged configuration, and what defines it."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.disable_progress_bars()
    path, definition = find_task(name, folders)
    # The public loader cannot merge a changed data source into a task, so the YAML is loaded and built here.
    try:
        config = dict(load_yaml(path))
    # Functions that a YAML names are imported here, whatever they need.
    except Exception as error:
        raise HeadroomError(f"task {name!r}: {path} cannot be read: {type(error).__name__}: {error}") from error
    _check_type(name, config)
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    if data != HUB:
        config.update(_mirror(name, Path(data), config, cache))
    try:
        return ConfigurableTask(config=config), config, definition
    # lm-eval and datasets raise whatever comes up; the task's name is what their messages lack.
    except Exception as error:
        hint = "Without a network, set data.source to embedded or mirror" if data == HUB else _columns(name, Path(data))
        raise HeadroomError(f"task {name!r} could not be loaded: {type(error).__name__}: {error}. {hint}") from error


def find_task(name: str, folders: Sequence[Path]) -> tuple[Path, str]:
    """The YAML that defines a task, and its name for the provenance: in one of ``folders``, else in lm-eval.

    Raises:
        HeadroomError: there is none (the message suggests the nearest known name), or a folder is missing.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    for folder in folders:
        if not folder.is_dir():
            raise HeadroomError(f"task {name!r}: there is no folder {folder} of task YAMLs")
        path = task_yaml(name, folder)
        if path is not None:
            return path, f"{folder.resolve().name}/{path.relative_to(folder)}"
    theirs = f"lm-eval {version('lm_eval')}"
    path = task_yaml(name, Path(lm_eval.__file__).parent / "tasks")
    if path is not None:
        return path, theirs
    manager = TaskManager(include_path=[str(folder) for folder in folders] or None)
    entry = manager.task_index.get(name)
    if entry is None:
        raise HeadroomError(f"task {name!r} is unknown to lm-eval{nearest(name, manager.all_subtasks)}")
    if entry.yaml_path is None or entry.kind.name == "GROUP":
        raise HeadroomError(f"task {name!r} is a group or a tag of lm-eval, not a task; name one of its tasks")
    return Path(entry.yaml_path), theirs


def _check_type(name: str, config: dict[str, Any]) -> None:
    if "class" in config:
        raise HeadroomError(
            f"task {name!r} is written in Python and makes requests of its own; "
            "headroom takes tasks that are defined by YAML templates"
        )
    # lm-eval's own default.
    output_type = config.get("output_type", "generate_until")
    if output_type not in _SCORED:
        why = _REFUSED.get(output_type, "lm-eval knows no such type")
        raise HeadroomError(
            f"task {name!r} has output type {output_type!r}: {why}; headroom compares the likelihoods of given "
            f"continuations and takes {' and '.join(_SCORED)} tasks"
        )


def _mirror(name: str, mirror: Path, config: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Configuration that reads a task from a mirror folder; splits without a file are switched off."""
    files = {path.stem: str(path) for path in sorted((mirror / name).glob("*.parquet"))}
    wanted = {key: config.get(key) for key in _SPLITS}
    kept = {key: split if split in files else None for key, split in wanted.items()}
    if not any(kept[key] for key in ("validation_split", "test_split")):
        names = sorted({split for split in wanted.values() if split})
        raise HeadroomError(
            f"data mirror {mirror}: task {name!r} needs {mirror / name}/{{split}}.parquet for one of the splits "
            f"{', '.join(names)}; found {', '.join(files) or 'no such folder'}"
        )
    used = {split: files[split] for split in kept.values() if split}
    for file in used.values():
        _check_records(name, file)
    return {
        **kept,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": used, "cache_dir": str(cache)},
    }


def _check_records(name: str, file: str) -> None:
    """Refuse a mirror's file that datasets could not read; its messages lack the file."""
    try:
        n_records = pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError) as error:
        raise HeadroomError(f"task {name!r}: {file} is not a readable Parquet file ({error}); make it again") from error
    if n_records == 0:
        raise HeadroomError(f"task {name!r}: {file} holds no records; remove the file, or fill it")


def _columns(name: str, mirror: Path) -> str:
    """What a mirror's files hold, for who has to compare it with what the task reads."""
    found = [
        f"{path} has {', '.join(pq.read_schema(path).names)}" for path in sorted((mirror / name).glob("*.parquet"))
    ]
    return f"Records must have the columns of the task's data set on the hub; {'; '.join(found)}"


def _source(name: str, data: str) -> dict[str, Any]:
    """What the data are, for the provenance."""
    if data == HUB:
        return {"source": HUB}
    origin = Path(data) / name / "source.json"
    return {
        "source": "mirror",
        **(json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else {"folder": data}),
    }


def select(
    task: Any,
    config: dict[str, Any],
    limit_importance: int | None,
    limit_evaluation: int | None,
    sample: str,
    seed: int,
    metric: str,
) -> Iterator[Selection]:
    """Scoring documents (training split, else validation) and evaluation documents (labelled test, else validation).

    Where both would be the same split, its first third is for scoring and for shots, the rest for evaluation.
    """
    names = (
        config.get("training_split") or config.get("validation_split") or config.get("test_split"),
        _evaluation_split(task, config),
    )
    splits = {name: _split(task, config, name, metric) for name in dict.fromkeys(names)}
    scoring, evaluated = (splits[name] for name in names)
    pool, held_out = range(len(scoring.documents)), list(range(len(evaluated.documents)))
    if scoring is evaluated:
        pool = pool[: len(pool) // 3]
        # A question whose first documents are in the pool is not evaluated.
        held_out = [i for i in held_out if evaluated.questions[i] >= len(pool)]
        if _shots_split(task) == scoring.name:
            task.sampler.replace_df([scoring.documents[i] for i in pool])
    chosen = list(pool)
    if sample == "shuffled":
        random.Random(seed).shuffle(chosen)
    for purpose, split, numbers in (
        (IMPORTANCE, scoring, chosen[:limit_importance]),
        (EVALUATION, evaluated, _first_questions(evaluated, held_out, limit_evaluation)),
    ):
        if not numbers:
            raise HeadroomError(f"task {config['task']!r}: split {split.name!r} has no documents for {purpose}")
        yield Selection(purpose, split, numbers)


def _first_questions(split: Split, doc_ids: Iterable[int], limit: int | None) -> list[int]:
    """The documents of the first questions, those of a question together."""
    questions: dict[int, list[int]] = {}
    for doc_id in doc_ids:
        questions.setdefault(split.questions[doc_id], []).append(doc_id)
    return [doc_id for members in islice(questions.values(), limit) for doc_id in members]


def _split(task: Any, config: dict[str, Any], name: str | None, metric: str) -> Split:
    for key, reader in (
        ("training_split", task.training_docs),
        ("validation_split", task.validation_docs),
        ("test_split", task.test_docs),
    ):
        if name is not None and config.get(key) == name:
            documents = reader()
            template = (config.get("metadata") or {}).get("question") if metric == QUESTION else None
            return Split(name, documents, _questions(config["task"], name, documents, template))
    raise HeadroomError(f"task {config['task']!r} has no split {name!r}")


def _questions(task: str, split: str, documents: Sequence[dict[str, Any]], template: str | None) -> Sequence[int]:
    """Of each document the number of the first one for which the template renders the same text."""
    if template is None:
        return range(len(documents))
    from jinja2 import TemplateError
    from lm_eval.utils import env

    first: dict[str, int] = {}
    found = []
    # Compiled once, where lm-eval would for every document.
    compiled = env.from_string(template)
    for number, document in enumerate(documents):
        try:
            found.append(first.setdefault(compiled.render(**document), number))
        except TemplateError as error:
            raise HeadroomError(
                f"task {task!r}, split {split!r}, document {number}: metadata.question {template!r} does not fit its "
                f"columns {', '.join(document)}: {error}"
            ) from error
    return found


def _evaluation_split(task: Any, config: dict[str, Any]) -> str | None:
    """The test split where it has labels (hidden ones are -1 or empty), else the validation split."""
    test = config.get("test_split")
    if test and (not config.get("validation_split") or _gold(task, task.test_docs()[0])):
        return str(test)
    return config.get("validation_split")


def _check_shots(task: Any, shots: int, name: str) -> None:
    pool = len(task.sampler.fewshot_docs())
    # One more than the shots is drawn, so that the document itself can be left out.
    if shots and pool < shots + 1:
        raise HeadroomError(
            f"task {name!r}: {shots} shots need at least {shots + 1} documents to draw from, the split has {pool}"
        )


def _add_document(columns: dict[str, list[Any]], task: Any, selection: Selection, doc_id: int, shots: int) -> bool:
    """Add a row per choice; False, and nothing added, where no choice is right.

    ReCoRD, for one, has documents whose answer is not among the entities.
    """
    split = selection.split
    document = split.documents[doc_id]
    where = f"task {task.task_name!r}, split {split.name!r}, document {doc_id}"
    if _is_empty(document):
        raise HeadroomError(f"{where}: the record is empty: {document}; leave it out of the data")
    try:
        # Shots are drawn for documents that are left out, too, so that the others' are those that lm-eval draws.
        context = _context(task, split.name, document, shots)
        requests = task.construct_requests(doc=document, ctx=context, metadata=(task.task_name, doc_id, 1))
        gold = _gold(task, document)
        lengths = _choice_lengths(task, document)
    # A record that does not fit the task's templates; their messages lack the record.
    except Exception as error:
        raise HeadroomError(f"{where}: lm-eval cannot render it: {type(error).__name__}: {error}") from error
    if not gold:
        return False
    # Tasks that also measure mutual information append unconditional requests after those of the choices.
    for number, (request, length) in enumerate(
        zip(requests if isinstance(requests, list) else [requests], lengths, strict=False)
    ):
        text, continuation = request.args[:2]
        if not continuation.strip():
            raise HeadroomError(f"{where}: choice {number} has an empty continuation")
        row = {
            "doc_id": doc_id,
            "question": split.questions[doc_id],
            "purpose": selection.purpose,
            "split": split.name,
            "choice": number,
            "context": text,
            "continuation": continuation,
            "gold": number in gold,
            "metric": _SCORED[task.OUTPUT_TYPE],
            "choice_length": length,
        }
        for column, value in row.items():
            columns[column].append(value)
    return True


def _is_empty(value: Any) -> bool:
    """Whether a record holds nothing but missing values and blanks, at any depth."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _context(task: Any, split: str, document: dict[str, Any], shots: int) -> Any:
    """The rendered context(s); the document itself is never among its shots.

    lm-eval leaves the document out only where it knows that shots come from the evaluated split; here it is left out
    also where shots and scoring documents share a split.
    """
    sampler = task.sampler
    draw = sampler.sample
    if task.fewshot_cfg.split != task.config.test_split and _shots_split(task) == split:
        sampler.sample = lambda n, eval_doc=None, **kwargs: draw(n, eval_doc=document, **kwargs)
    try:
        return task.fewshot_context(document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document))
    finally:
        sampler.sample = draw


def _shots_split(task: Any) -> str | None:
    """The split that lm-eval draws shots from: the task's own choice, else training, validation, test.

    None where the task brings its examples along.
    """
    config, own = task.config, task.fewshot_cfg
    if own.split is None and own.samples is not None:
        return None
    split: str | None = own.split or config.training_split or config.validation_split or config.test_split
    return split


def _choice_lengths(task: Any, document: dict[str, Any]) -> list[int | None]:
    """Of each choice its characters, where the task defines acc_norm; a loglikelihood task has one continuation."""
    if _SCORED[task.OUTPUT_TYPE] == GREEDY:
        return [None]
    normalised = "acc_norm" in task._metric_fn_list
    return [len(choice) if normalised else None for choice in task.doc_to_choice(document)]


def _gold(task: Any, document: dict[str, Any]) -> set[int]:
    """Numbers of the right choices; empty where the label is hidden or out of range."""
    if _SCORED[task.OUTPUT_TYPE] == GREEDY:
        return {0} if str(task.doc_to_target(document)).strip() else set()
    choices = task.doc_to_choice(document)
    # Tasks whose choices are contexts (Winogrande) name the right context where others put the question.
    target = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    targets = target if isinstance(target, list) else [target]
    numbers = {choices.index(t) if isinstance(t, str) and t in choices else t for t in targets}
    return {n for n in numbers if isinstance(n, int) and 0 <= n < len(choices)}
