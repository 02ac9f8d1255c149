"""Render prompts with lm-eval: description, few-shot examples, separators, choices.

All later steps read the prompts artifact, so that none of them needs lm-eval, the data, or a network.
"""

from __future__ import annotations

import logging
import math
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.artifacts.prompts import CHOICE, EVALUATION, GREEDY, IMPORTANCE, PROMPTS
from lm_headroom.artifacts.turns import FIELDS, SYSTEM
from lm_headroom.errors import HeadroomError, causes, nearest, with_causes
from lm_headroom.hub_errors import advise
from lm_headroom.study.task_entry import TaskEntry
from lm_headroom.tasks.data import RECORDS, SOURCE, mirror_records, own_records
from lm_headroom.tasks.digest import has_local_data, task_config
from lm_headroom.tasks.files import built_in_names, built_in_yaml, task_names, task_yaml
from lm_headroom.tasks.own import own_file_records, write_own
from lm_headroom.tasks.scoring import check_choices, check_scoring, describe_label, explain_out_of_range, right_choices
from lm_headroom.tasks.sources import HUB, OWN

QUESTION, ANSWER = "question", "answer"
LABELS_CHECKED = 200
"""Number of documents, spread over a split, whose labels are checked before any is rendered."""
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_SCORED = {"multiple_choice": CHOICE, "loglikelihood": GREEDY}
_UNREACHABLE = {"ConnectionError", "ConnectError", "TimeoutException", "TimeoutError", "LocalEntryNotFoundError"}
"""Names of errors without an answer of the hub."""
_REFUSED = {
    "generate_until": "its answers are generated text",
    "loglikelihood_rolling": "it scores whole texts, of which none is right or wrong",
}


@dataclass(frozen=True)
class Task:
    """An lm-eval task with its data.

    Attributes:
        task: lm-eval's task.
        config: its merged configuration, with the available splits.
        definition: the file that defines it.
        notes: differences between its data and its definition.
    """

    task: Any
    config: dict[str, Any]
    definition: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """Documents of one split; ``questions`` holds, for each, the number of its question's first document."""

    name: str
    documents: Sequence[dict[str, Any]]
    questions: Sequence[int]


@dataclass(frozen=True)
class Selection:
    """The documents of one purpose: their split and their numbers in it."""

    purpose: str
    split: Split
    doc_ids: Sequence[int]


def quieten() -> None:
    """Keep lm-eval and datasets from noting each default that they fill in; what goes wrong still is an exception."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("datasets").setLevel(logging.CRITICAL)


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
    """Build the columns of a prompts artifact, and its provenance.

    Args:
        name: a task of output type multiple_choice or loglikelihood, in one of ``folders`` or in lm-eval.
        shots: few-shot examples per prompt, drawn at random by lm-eval's sampler.
        seed: seed of that sampler; equal seeds give equal prompts.
        data: ``hub``, or a mirror folder with ``{task}/{split}.parquet`` in the columns of the task's data set; one
            that is called hub is ``./hub``.
        limit_importance: scoring documents; None for all.
        limit_evaluation: evaluation questions; None for all.
        sample: the scoring documents: the ``first``, or the first after they are ``shuffled`` by the seed.
        folders: folders of task YAMLs that override lm-eval's own, in this order.
        metric: ``question``: documents with equal ``metadata.question`` are one question; ``answer``: each document is
            a question.

    Raises:
        HeadroomError: the task is unknown, has an unsupported type or metric, or is not in the mirror; its records
            change meanwhile; there are fewer documents than shots; labels count from 1; or a split has no document with
            a right choice.
    """
    with tempfile.TemporaryDirectory() as cache:
        records = _records(name, data, folders)
        loaded = load_task(name, data, folders, Path(cache), shots)
        columns, provenance = render_task(loaded, shots, seed, limit_importance, limit_evaluation, sample, metric)
        if _records(name, data, folders) != records:
            raise HeadroomError(f"task {name!r}: its records changed while they were read; run again")
    return columns, {**provenance, "data": _data_origin(name, data, loaded), RECORDS: records}


def render_own(
    entry: TaskEntry,
    shots: int,
    seed: int,
    limit_importance: int | None = None,
    limit_evaluation: int | None = None,
    sample: str = "first",
    metric: str = QUESTION,
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Build the columns of a prompts artifact of a task with a file of one's own, and its provenance.

    Args:
        entry: what the study says of the task.
        shots, seed, limit_importance, limit_evaluation, sample, metric: as for :func:`render`.

    Raises:
        HeadroomError: names the task, file, row and column that is not right.
    """
    records = own_file_records(entry, Path(), Digests())
    _compile_templates_once()
    with tempfile.TemporaryDirectory() as folder:
        write_own(entry, Path(folder))
        settings = (limit_importance, limit_evaluation, sample)
        columns, provenance = render(entry.name, shots, seed, folder, *settings, [Path(folder)], metric)
    if own_file_records(entry, Path(), Digests()) != records:
        raise HeadroomError(f"task {entry.name!r}: its records changed while they were read; run again")
    definition = {"definition": OWN, "definition_digest": entry.digest}
    return columns, {**provenance, **definition, "data": {"source": OWN}, RECORDS: records}


def render_task(
    loaded: Task,
    shots: int,
    seed: int,
    limit_importance: int | None,
    limit_evaluation: int | None,
    sample: str,
    metric: str,
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Build the columns of a loaded task's prompts, and their provenance; see :func:`render`."""
    task, config, name = loaded.task, loaded.config, loaded.config["task"]
    columns: dict[str, list[Any]] = {column.name: [] for column in PROMPTS.columns}
    documents, splits, notes = {}, {}, list(loaded.notes)
    for selection in select(task, config, limit_importance, limit_evaluation, sample, seed, metric, notes):
        _check_shots(task, shots, name, selection)
        # As in simple_evaluate, one seeded sampler serves the documents in order.
        task.set_fewshot_seed(seed)
        rendered = [i for i in selection.doc_ids if _add_document(columns, task, selection, i, shots)]
        documents[selection.purpose] = _counts(name, task, selection, rendered, notes)
        splits[selection.purpose] = selection.split.name
    if shots:
        splits["shots"] = _shots_split(task) or "the task's own examples"
    others = check_scoring(name, config, shots)
    if others:
        notes.append(f"beside acc the task defines {', '.join(others)}, which lm-headroom does not compute")
    provenance = {
        "task": name,
        "task_version": str((config.get("metadata") or {}).get("version", "unknown")),
        "definition": loaded.definition,
        "shots": shots,
        "seed": seed,
        "metric": metric,
        "documents": documents,
        "splits": splits,
        "notes": notes,
    }
    return columns, provenance


def _records(name: str, data: str, folders: Sequence[Path]) -> dict[str, str]:
    """Compute digests of the files with a task's records."""
    digests = Digests()
    return own_records(name, folders, digests) if data == HUB else mirror_records(Path(data, name), digests)


def _counts(name: str, task: Any, selection: Selection, rendered: Sequence[int], notes: list[str]) -> dict[str, Any]:
    """Count the documents of one purpose. Those without a right choice are left out; if all are, labels are hidden."""
    split, numbers = selection.split, selection.doc_ids
    with_gold = set(rendered)
    left_out = next((i for i in numbers if i not in with_gold), None)
    if left_out is not None:
        label = f"the first label is {describe_label(_label(task, split.documents[left_out]))}, of document {left_out}"
    if not rendered:
        raise HeadroomError(
            f"task {name!r}, split {split.name!r}: no choice is marked right in any of {len(numbers)} "
            f"documents, the first of which is document {numbers[0]}; {label}, where the number of a choice, from 0, "
            "or its text is expected; is this a split with hidden labels?"
        )
    if left_out is not None:
        notes.append(
            f"{len(numbers) - len(rendered)} of {len(numbers)} {selection.purpose} documents of split {split.name!r} "
            f"have no right choice and are left out; {label}"
        )
    return {
        "split": split.name,
        "count": len(rendered),
        "questions": len({split.questions[i] for i in rendered}),
        "left_out": len(numbers) - len(rendered),
    }


def load_task(name: str, data: str, folders: Sequence[Path], cache: Path, shots: int) -> Task:
    """Load an lm-eval task with its data.

    Raises:
        HeadroomError: there is no such task, its YAML cannot be read, it cannot be scored, or its data do not load.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask

    datasets.disable_progress_bars()
    _compile_templates_once()
    path, definition = find_task(name, folders)
    config = load_config(name, path)
    check_scoring(name, config, shots)
    notes: list[str] = []
    if data != HUB:
        config.update(_mirror(name, Path(data), config, cache, notes))
    elif has_local_data(config):
        # A fresh cache: datasets reuses its copy of a file as long as the file's time is unchanged.
        config["dataset_kwargs"] = {**(config.get("dataset_kwargs") or {}), "cache_dir": str(cache)}
    task = ConfigurableTask.__new__(ConfigurableTask)
    try:
        task.__init__(config=config)
        return Task(task, config, definition, tuple(notes))
    except IndexError as error:
        # lm-eval reads the first document's label when it constructs the task.
        if hasattr(task, "multiple_target"):
            label, choices = _label(task, task.task_docs[0]), task.doc_to_choice(task.task_docs[0])
            why = explain_out_of_range(label, choices) if choices else "it has no choices"
            raise HeadroomError(f"task {name!r}, its first document: {why}") from error
        raise HeadroomError(f"task {name!r} could not be loaded: {with_causes(error)}") from error
    # lm-eval and datasets raise arbitrary errors, whose messages do not name the task.
    except Exception as error:
        raise HeadroomError(
            f"task {name!r} could not be loaded: {with_causes(error)}. {_advise(name, data, config, error)}"
        ) from error


def load_config(name: str, path: Path) -> dict[str, Any]:
    """Load the configuration of a task, with its includes merged and its functions imported.

    Raises:
        HeadroomError: the YAML cannot be read, or the task has an unsupported type.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    # Functions of a task may import modules of the working folder, which comes last so that none shadows a package.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    # lm-eval's public loader cannot change a task's data source, so the YAML is loaded here.
    try:
        config = dict(load_yaml(path))
    # This imports the functions that a YAML names, which may raise anything.
    except Exception as error:
        raise HeadroomError(f"task {name!r}: {path} cannot be read: {with_causes(error)}") from error
    _check_type(name, config)
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    return config


def _advise(name: str, data: str, config: dict[str, Any], error: BaseException) -> str:
    """Advise on data that do not load."""
    if data != HUB:
        return _mirror_columns(name, Path(data))
    if has_local_data(config):
        return "Its records are files of its own: mend them, or what dataset_path and dataset_kwargs say of them"
    errors = list(causes(error))
    kinds = {kind.__name__ for each in errors for kind in type(each).__mro__}
    if "DatasetNotFoundError" in kinds:
        return (
            f"Correct dataset_path in its YAML ({config['dataset_path']}); if the data set is gated or private, ask "
            "for access on its page with your account, then 'hf auth login' here or set HF_TOKEN"
        )
    advice = next(filter(None, map(advise, errors)), "")
    if advice or not kinds & _UNREACHABLE:
        return advice or "Compare dataset_path, dataset_name and the splits of its YAML with the data set on the hub"
    return "Without a network, set data.source to embedded or mirror"


def find_task(name: str, folders: Sequence[Path]) -> tuple[Path, str]:
    """Find the YAML that defines a task, in ``folders`` or else in lm-eval, and its name for the provenance.

    Raises:
        HeadroomError: there is none (the message suggests the nearest name), or a folder is missing.
    """
    import lm_eval

    for folder in folders:
        if not folder.is_dir():
            raise HeadroomError(f"task {name!r}: there is no folder {folder} of task YAMLs")
        path = task_yaml(name, folder)
        if path is not None:
            # Checked here first, since these messages are clearer than lm-eval's.
            task_config(name, path)
            return path, f"{folder.resolve().name}/{path.relative_to(folder)}"
    theirs = f"lm-eval {version('lm_eval')}"
    path = built_in_yaml(name, Path(lm_eval.__file__).parent / "tasks")
    if path is not None:
        return path, theirs
    listed = built_in_names()
    if name in listed["groups"]:
        raise HeadroomError(f"task {name!r} is a group or a tag of lm-eval, not a task; name one of its tasks")
    names = [*listed["tasks"], *(task for folder in folders for task in task_names(folder))]
    raise HeadroomError(f"task {name!r} is unknown to lm-eval{nearest(name, names)}")


def _compile_templates_once() -> None:
    """Have lm-eval keep compiled templates. It compiles one for each document: two thirds of the time of rendering."""
    from lm_eval.utils import env

    if not hasattr(env.from_string, "cache_info"):
        env.from_string = lru_cache(maxsize=256)(env.from_string)


def _check_type(name: str, config: dict[str, Any]) -> None:
    if "class" in config:
        raise HeadroomError(
            f"task {name!r} is written in Python and makes requests of its own; "
            "lm-headroom takes tasks that are defined by YAML templates"
        )
    # lm-eval's own default.
    output_type = config.get("output_type", "generate_until")
    if output_type not in _SCORED:
        why = _REFUSED.get(output_type, "lm-eval knows no such type")
        raise HeadroomError(
            f"task {name!r} has output type {output_type!r}: {why}; lm-headroom compares the likelihoods of given "
            f"continuations and takes {' and '.join(_SCORED)} tasks"
        )


def _mirror(name: str, mirror: Path, config: dict[str, Any], cache: Path, notes: list[str]) -> dict[str, Any]:
    """Build the configuration that reads a task from a mirror; disable splits without a file, and note each."""
    files = {path.stem: str(path) for path in sorted((mirror / name).glob("*.parquet"))}
    splits = {key: config.get(key) for key in _SPLITS}
    kept = {key: split if split in files else None for key, split in splits.items()}
    if not any(kept[key] for key in ("validation_split", "test_split")):
        names = sorted({split for split in splits.values() if split})
        raise HeadroomError(
            f"data mirror {mirror}: task {name!r} needs {mirror / name}/{{split}}.parquet for one of the splits "
            f"{', '.join(names)}; found {', '.join(files) or 'no such folder'}"
        )
    fewshot = config.get("fewshot_config")
    shots = fewshot.get("split") if isinstance(fewshot, dict) else None
    missing = {key: split for key, split in [*splits.items(), ("fewshot_config.split", shots)] if split not in files}
    notes += [
        f"the mirror has no records of split {split!r} ({key}), so that another takes its place"
        for key, split in missing.items()
        if split
    ]
    used = {split: files[split] for split in (*kept.values(), shots) if split in files}
    for file in used.values():
        _check_records(name, file)
    if isinstance(fewshot, dict) and shots not in files:
        fewshot = {**fewshot, "split": kept["fewshot_split"]}
    return {
        **kept,
        "fewshot_config": fewshot,
        "dataset_path": "parquet",
        "dataset_name": None,
        "custom_dataset": None,
        "dataset_kwargs": {"data_files": _plain_names(used, cache), "cache_dir": str(cache)},
    }


def _plain_names(files: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Link to the files from ``folder``: datasets expands patterns and variables such as ``$HOME`` in paths.

    Raises:
        HeadroomError: the path of ``folder`` itself has such characters.
    """
    odd = sorted(set("$*?[]{}") & set(str(folder)))
    if odd:
        raise HeadroomError(
            f"the folder for temporary files, {folder.parent}, has {' '.join(odd)} in its name, which datasets "
            "does not take as it is; set TMPDIR to another folder"
        )
    links = {split: folder / f"{split}.parquet" for split in files}
    for split, link in links.items():
        link.symlink_to(Path(files[split]).absolute())
    return {split: str(link) for split, link in links.items()}


def _check_records(name: str, file: str) -> None:
    """Refuse a mirror's file that datasets cannot read; its own messages do not name the file."""
    try:
        n_records = pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError) as error:
        raise HeadroomError(f"task {name!r}: {file} is not a readable Parquet file ({error}); make it again") from error
    if n_records == 0:
        raise HeadroomError(f"task {name!r}: {file} holds no records; remove the file, or fill it")


def _mirror_columns(name: str, mirror: Path) -> str:
    """List the columns of a mirror's files, for comparison with those that the task reads."""
    contents = [
        f"{path} has {', '.join(pq.read_schema(path).names)}" for path in sorted((mirror / name).glob("*.parquet"))
    ]
    return f"Records must have the columns of the task's data set on the hub; {'; '.join(contents)}"


def _data_origin(name: str, data: str, loaded: Task) -> dict[str, Any]:
    """Describe the origin of the data, for the provenance."""
    if data == HUB:
        splits = (loaded.task.dataset or {}).values()
        # datasets keeps each commit of a data set in a folder of its name, which it also reads without a network.
        folders = {Path(file["filename"]).parent.name for split in splits for file in split.cache_files}
        commits = sorted(folder for folder in folders if re.fullmatch("[0-9a-f]{40}", folder))
        named = {"dataset": loaded.config["dataset_path"], "revision": commits[0]} if commits else {}
        return {"source": HUB, **named}
    origin = Path(data) / name / SOURCE
    try:
        origin_record = read_object(origin) if origin.is_file() else {}
    except (OSError, ValueError) as error:
        raise HeadroomError(
            f"task {name!r}: {origin} is no JSON object ({error}); mend the file, or remove it"
        ) from error
    # Without the folder: moved records stay the same.
    return {**origin_record, "source": "mirror"}


def select(
    task: Any,
    config: dict[str, Any],
    limit_importance: int | None,
    limit_evaluation: int | None,
    sample: str,
    seed: int,
    metric: str,
    notes: list[str],
) -> Iterator[Selection]:
    """Select scoring documents (training or validation split) and evaluation documents (test or validation split).

    If both come from one split, its first third serves for scoring and shots, and the rest for evaluation. Differences
    from the task's definition are added to ``notes``.
    """
    names = (
        config.get("training_split") or config.get("validation_split") or config.get("test_split"),
        _evaluation_split(task, config, notes),
    )
    splits = {name: _split(task, config, name, metric) for name in dict.fromkeys(names)}
    scoring, evaluated = (splits[name] for name in names)
    pool, held_out = range(len(scoring.documents)), list(range(len(evaluated.documents)))
    if scoring is evaluated:
        pool = pool[: len(pool) // 3]
        notes.append(f"split {scoring.name!r} is for both: its first {len(pool)} documents score, the others evaluate")
        # A question whose first documents are in the pool is not evaluated.
        held_out = [i for i in held_out if evaluated.questions[i] >= len(pool)]
        if _shots_split(task) == scoring.name:
            if task.fewshot_cfg.split and task.fewshot_cfg.process_docs is not task.config.process_docs:
                # Which of the shots that it makes are evaluated documents cannot be known.
                raise HeadroomError(
                    f"task {config['task']!r}: fewshot_config has process_docs of its own, and split {scoring.name!r} "
                    "is for both shots and evaluation; name a training_split or another fewshot_split, or leave these "
                    "process_docs out"
                )
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
        # Labels that count from 1 affect all documents, but only some show it, which may not be selected.
        _labelled(task, config["task"], split.name, split.documents)
        yield Selection(purpose, split, numbers)


def _first_questions(split: Split, doc_ids: Iterable[int], limit: int | None) -> list[int]:
    """List the documents of the first questions, grouped by question."""
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
    """For each document, find the number of the first one for which the template renders the same text."""
    if template is None:
        return range(len(documents))
    from jinja2 import TemplateError
    from lm_eval.utils import env

    first: dict[str, int] = {}
    questions = []
    # Compiled once; lm-eval would compile it for every document.
    compiled = env.from_string(template)
    for number, document in enumerate(documents):
        try:
            questions.append(first.setdefault(compiled.render(**document), number))
        except TemplateError as error:
            raise HeadroomError(
                f"task {task!r}, split {split!r}, document {number}: metadata.question {template!r} does not fit its "
                f"columns {', '.join(document)}: {error}"
            ) from error
    return questions


def _evaluation_split(task: Any, config: dict[str, Any], notes: list[str]) -> str | None:
    """Choose the test split if at least half of it has labels (hidden ones are -1 or empty), else validation."""
    test, validation = config.get("test_split"), config.get("validation_split")
    if not test or not validation or test == validation:
        return test or validation
    labelled = _labelled(task, config["task"], test, task.test_docs())
    if 2 * sum(labelled) >= len(labelled):
        return str(test)
    notes.append(
        f"split {validation!r} is evaluated, not {test!r}, where {len(labelled) - sum(labelled)} of {len(labelled)} "
        "documents that were looked at have no right choice"
    )
    return str(validation)


def _labelled(task: Any, name: str, split: str, documents: Sequence[dict[str, Any]]) -> list[bool]:
    """For documents spread over a split, find whether they have a right choice.

    Raises:
        HeadroomError: labels count from 1.
    """
    labelled = []
    for number in range(0, len(documents), max(1, math.ceil(len(documents) / LABELS_CHECKED))):
        document = documents[number]
        try:
            # Rendering gives a better message for an empty record.
            labelled.append(not _is_empty(document) and bool(_gold(task, document)))
        except HeadroomError as error:
            raise HeadroomError(f"task {name!r}, split {split!r}, document {number}: {error}") from error
        # Templates may fail on hidden labels; a selected document reports its error when it is rendered.
        except Exception:
            labelled.append(False)
    return labelled


def _check_shots(task: Any, shots: int, name: str, selection: Selection) -> None:
    pool = len(task.sampler.fewshot_docs())
    # If the document may be among its shots, one more is drawn, so that it can be left out.
    needed = shots + (_may_be_among_shots(task, selection.split.name) or _leaves_out(task))
    if shots and pool < needed:
        raise HeadroomError(
            f"task {name!r}: {shots} shots need at least {needed} documents to draw from, the split has {pool}"
        )


def _leaves_out(task: Any) -> bool:
    """Whether lm-eval itself draws one shot more than needed, to leave the document out of its shots.

    It also does so if neither a split for shots nor a test split is named.
    """
    first = type(task.sampler).__name__ == "FirstNSampler"
    return not first and bool(task.fewshot_cfg.split == task.config.test_split)


def _may_be_among_shots(task: Any, split: str) -> bool:
    """Whether shots are drawn from the split of the document itself."""
    return _shots_split(task) == split


def _add_document(columns: dict[str, list[Any]], task: Any, selection: Selection, doc_id: int, shots: int) -> bool:
    """Add one row per choice; add nothing and return False if no choice is right.

    ReCoRD, for example, has documents whose answer is not among the entities.
    """
    split = selection.split
    document = split.documents[doc_id]
    where = f"task {task.task_name!r}, split {split.name!r}, document {doc_id}"
    if _is_empty(document):
        raise HeadroomError(f"{where}: the record is empty: {document}; leave it out of the data")
    try:
        # Shots are also drawn for documents that are left out, so that those of the others match lm-eval's.
        context, turns = _context(task, split.name, document, shots)
        metadata = (task.task_name, doc_id, 1)
        requests = task.construct_requests(doc=document, ctx=context, metadata=metadata)
        replies = task.construct_requests(doc=document, ctx=context, metadata=metadata, apply_chat_template=True)
        gold = _gold(task, document)
        lengths = _choice_lengths(task, document)
    except HeadroomError as error:
        raise HeadroomError(f"{where}: {error}") from error
    # The record does not fit the task's templates, whose messages do not name the record.
    except Exception as error:
        raise HeadroomError(f"{where}: lm-eval cannot render it: {with_causes(error)}") from error
    if not gold:
        return False
    # Tasks that also measure mutual information append unconditional requests after the choices'.
    listed = [each if isinstance(each, list) else [each] for each in (requests, replies)]
    for number, (request, reply, length) in enumerate(zip(*listed, lengths, strict=False)):
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
            "turns": turns[number if task.multiple_input else 0],
            "reply": reply.args[1],
            "gold": number in gold,
            "metric": _SCORED[task.OUTPUT_TYPE],
            "choice_length": length,
        }
        for column, value in row.items():
            columns[column].append(value)
    return True


def _is_empty(value: Any) -> bool:
    """Whether a record holds only missing values and blanks, at any depth."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _context(task: Any, split: str, document: dict[str, Any], shots: int) -> tuple[Any, list[list[dict[str, str]]]]:
    """Render the context(s), and the turns of each; the document itself is never among its shots.

    lm-eval leaves the document out only if it knows that shots come from the evaluated split. Here it is also left out
    if shots and scoring documents share a split.
    """
    sampler = task.sampler
    draw, build = sampler.sample, task.build_qa_turn
    built: list[list[Any]] = []

    def build_and_keep(**parts: Any) -> list[Any]:
        built.append(build(**parts))
        return built[-1]

    if task.fewshot_cfg.split != task.config.test_split and _may_be_among_shots(task, split):
        sampler.sample = lambda n, eval_doc=None, **kwargs: draw(n, eval_doc=document, **kwargs)
    task.build_qa_turn = build_and_keep
    try:
        context = task.fewshot_context(document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document))
    finally:
        sampler.sample, task.build_qa_turn = draw, build
    contexts = context if isinstance(context, list) else [context]
    description = task.resolve_field(document, task.config.description) or ""
    first = [(SYSTEM, description, task.config.fewshot_delimiter)] if description else []
    examples, questions = built[: -len(contexts)], built[-len(contexts) :]
    turns = []
    for text, question in zip(contexts, questions, strict=True):
        messages = [message for messages in (*examples, question) for message in messages]
        if text != description + "".join(message.to_text() for message in messages):
            raise HeadroomError("lm-eval makes its context of other parts than its turns; another lm-eval is needed")
        parts = [*first, *((m.role, m.content, m.to_text()[len(m.content) :]) for m in messages)]
        turns.append([dict(zip(FIELDS, part, strict=True)) for part in parts])
    return context, turns


def _shots_split(task: Any) -> str | None:
    """Find the split that lm-eval draws shots from: the task's own choice, else training, validation, test.

    None if the task includes its own examples.
    """
    config, own = task.config, task.fewshot_cfg
    if own.split is None and own.samples is not None:
        return None
    split: str | None = own.split or config.training_split or config.validation_split or config.test_split
    return split


def _choice_lengths(task: Any, document: dict[str, Any]) -> list[int | None]:
    """Count the characters of each choice if the task defines acc_norm; a loglikelihood task has one continuation."""
    if _SCORED[task.OUTPUT_TYPE] == GREEDY:
        return [None]
    normalised = "acc_norm" in task._metric_fn_list
    return [len(choice) if normalised else None for choice in task.doc_to_choice(document)]


def _label(task: Any, document: dict[str, Any]) -> Any:
    """Read the label of a document."""
    # Tasks whose choices are contexts (Winogrande) have the label where others have the question.
    return task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)


def _gold(task: Any, document: dict[str, Any]) -> set[int]:
    """Find the numbers of the right choices; empty if the label is hidden or out of range.

    Raises:
        HeadroomError: labels count from 1, or the choices or the continuation are not text.
    """
    label = _label(task, document)
    if _SCORED[task.OUTPUT_TYPE] == GREEDY:
        if not isinstance(label, str):
            raise HeadroomError(f"its continuation (doc_to_target) is {describe_label(label)}; expected text")
        return {0} if label.strip() else set()
    return right_choices(label, check_choices(task.doc_to_choice(document)))
