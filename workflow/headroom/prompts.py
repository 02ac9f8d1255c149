"""Prompts, rendered by lm-eval: description, few-shot examples, separators, choices.

Everything later reads the prompts artifact: no later step needs lm-eval, the data, or a network.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from headroom.errors import HeadroomError, nearest
from headroom.task_files import task_yaml

HUB = "hub"
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class Selection:
    """The documents of one purpose: their split, their numbers in it, and the documents."""

    purpose: str
    split: str
    doc_ids: Sequence[int]
    documents: Sequence[dict[str, Any]]


def render(
    name: str,
    shots: int,
    seed: int,
    data: str = HUB,
    limit_importance: int | None = None,
    limit_evaluation: int | None = None,
    sample: str = "first",
    task_folder: Path | None = None,
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Columns of a prompts artifact, and facts about the task for its provenance.

    Args:
        name: an lm-eval task of output type multiple_choice, or one of ``task_folder``.
        shots: few-shot examples per prompt, drawn at random by lm-eval's sampler.
        seed: of that sampler; same seed, same prompts.
        data: ``hub``, or a mirror folder with ``{task}/{split}.parquet`` in the columns of the task's data set.
        limit_importance, limit_evaluation: documents per purpose; None for all.
        sample: which scoring documents: the ``first``, or the first of them ``shuffled`` by the seed.
        task_folder: folder of task YAMLs that go before lm-eval's own.

    Raises:
        HeadroomError: the task is unknown or of a type that cannot be scored, the mirror lacks it, or there are fewer
            documents than shots.
    """
    with tempfile.TemporaryDirectory() as cache:
        task, config = load_task(name, data, task_folder, Path(cache))
        columns: dict[str, list[Any]] = {
            column: []
            for column in ("doc_id", "purpose", "split", "choice", "context", "continuation", "gold", "choice_length")
        }
        selections = list(select(task, config, limit_importance, limit_evaluation, sample, seed))
        for selection in selections:
            _check_shots(task, shots, name)
            # As simple_evaluate: one seeded sampler goes through the documents in order.
            task.set_fewshot_seed(seed)
            for doc_id, document in zip(selection.doc_ids, selection.documents, strict=True):
                _add_document(columns, task, selection, doc_id, document, shots)
    facts = {
        "task": name,
        "task_version": str((config.get("metadata") or {}).get("version", "unknown")),
        "shots": shots,
        "seed": seed,
        "data": _source(name, data),
        "documents": {s.purpose: {"split": s.split, "count": len(s.doc_ids)} for s in selections},
    }
    return columns, facts


def load_task(name: str, data: str, task_folder: Path | None, cache: Path) -> tuple[Any, dict[str, Any]]:
    """An lm-eval task with its data, and its merged configuration."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.disable_progress_bars()
    path = find_task(name, task_folder)
    # The public loader cannot merge a changed data source into a task, so the YAML is loaded and built here.
    try:
        config = dict(load_yaml(path))
    # Functions that a YAML names are imported here, whatever they need.
    except Exception as error:
        raise HeadroomError(f"task {name!r}: {path} cannot be read: {type(error).__name__}: {error}") from error
    if config.get("task") != name or "class" in config:
        raise HeadroomError(f"task {name!r}: {path} defines a group or a Python task; name one of its plain tasks")
    output_type = config.get("output_type")
    if output_type != "multiple_choice":
        raise HeadroomError(
            f"task {name!r} has output type {output_type!r}; headroom scores choices by their likelihood and takes "
            "multiple_choice tasks only"
        )
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    if data != HUB:
        config.update(_mirror(name, Path(data), config, cache))
    try:
        return ConfigurableTask(config=config), config
    # lm-eval and datasets raise whatever comes up; the task's name is what their messages lack.
    except Exception as error:
        hint = "" if data != HUB else ". Without a network, set data.source to embedded or mirror"
        raise HeadroomError(f"task {name!r} could not be loaded: {type(error).__name__}: {error}{hint}") from error


def find_task(name: str, task_folder: Path | None) -> Path:
    """The YAML that defines a task: in ``task_folder``, else in lm-eval.

    Raises:
        HeadroomError: there is none; the message suggests the nearest known name.
    """
    import lm_eval

    folders = [Path(task_folder)] if task_folder else []
    folders.append(Path(lm_eval.__file__).parent / "tasks")
    for folder in folders:
        path = task_yaml(name, folder)
        if path is not None:
            return path
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(task_folder) if task_folder else None)
    entry = manager.task_index.get(name)
    if entry is not None and entry.yaml_path is not None:
        return Path(entry.yaml_path)
    if name in manager.task_index:
        raise HeadroomError(f"task {name!r} is a group or a tag of lm-eval; name one of its tasks")
    raise HeadroomError(f"task {name!r} is unknown to lm-eval{nearest(name, manager.all_subtasks)}")


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
    return {
        **kept,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": used, "cache_dir": str(cache)},
    }


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
) -> Iterator[Selection]:
    """Scoring documents (training split, else validation) and evaluation documents (labelled test, else validation).

    Where both would be the same split, its first third is for scoring and for shots, the rest for evaluation.
    """
    evaluation = _evaluation_split(task, config)
    importance = config.get("training_split") or config.get("validation_split") or config.get("test_split")
    documents = {split: _documents(task, config, split) for split in {importance, evaluation}}
    ids = {split: range(len(documents[split])) for split in documents}
    pool, held_out = ids[importance], ids[evaluation]
    if importance == evaluation:
        third = len(pool) // 3
        pool, held_out = pool[:third], held_out[third:]
        task.sampler.replace_df([documents[importance][i] for i in pool])
    chosen = list(pool)
    if sample == "shuffled":
        random.Random(seed).shuffle(chosen)
    chosen = chosen[:limit_importance]
    for purpose, split, numbers in (
        (IMPORTANCE, importance, chosen),
        (EVALUATION, evaluation, list(held_out)[:limit_evaluation]),
    ):
        if not numbers:
            raise HeadroomError(f"task {config['task']!r}: split {split!r} has no documents for {purpose}")
        yield Selection(purpose, str(split), numbers, [documents[split][i] for i in numbers])


def _documents(task: Any, config: dict[str, Any], split: str | None) -> Any:
    for key, reader in (
        ("training_split", task.training_docs),
        ("validation_split", task.validation_docs),
        ("test_split", task.test_docs),
    ):
        if split is not None and config.get(key) == split:
            return reader()
    raise HeadroomError(f"task {config['task']!r} has no split {split!r}")


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


def _add_document(
    columns: dict[str, list[Any]], task: Any, selection: Selection, doc_id: int, document: dict[str, Any], shots: int
) -> None:
    where = f"task {task.task_name!r}, split {selection.split!r}, document {doc_id}"
    try:
        context = _context(task, selection, document, shots)
        choices = task.doc_to_choice(document)
        # Tasks that also measure mutual information append unconditional requests after those of the choices.
        requests = task.construct_requests(doc=document, ctx=context, metadata=(task.task_name, doc_id, 1))
        gold = _gold(task, document)
    # A record that does not fit the task's templates; their messages lack the record.
    except Exception as error:
        raise HeadroomError(f"{where}: lm-eval cannot render it: {type(error).__name__}: {error}") from error
    if not gold:
        raise HeadroomError(f"{where}: no choice is marked right; is this a split with hidden labels?")
    normalised = "acc_norm" in task._metric_fn_list
    for number, (request, choice) in enumerate(zip(requests, choices, strict=False)):
        text, continuation = request.args[:2]
        if not continuation.strip():
            raise HeadroomError(f"{where}: choice {number} has an empty continuation")
        columns["doc_id"].append(doc_id)
        columns["purpose"].append(selection.purpose)
        columns["split"].append(selection.split)
        columns["choice"].append(number)
        columns["context"].append(text)
        columns["continuation"].append(continuation)
        columns["gold"].append(number in gold)
        columns["choice_length"].append(len(choice) if normalised else None)


def _context(task: Any, selection: Selection, document: dict[str, Any], shots: int) -> Any:
    """The rendered context(s); the document itself is never among its shots.

    lm-eval leaves the document out only where it knows that shots come from the evaluated split; here it is left out
    also where shots and scoring documents share a split.
    """
    sampler = task.sampler
    draw = sampler.sample
    if task.fewshot_cfg.split != task.config.test_split and _shots_split(task) == selection.split:
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


def _gold(task: Any, document: dict[str, Any]) -> set[int]:
    """Numbers of the right choices; empty where the label is hidden or out of range."""
    choices = task.doc_to_choice(document)
    # Tasks whose choices are contexts (Winogrande) name the right context where others put the question.
    target = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    targets = target if isinstance(target, list) else [target]
    numbers = {choices.index(t) if isinstance(t, str) and t in choices else t for t in targets}
    return {n for n in numbers if isinstance(n, int) and 0 <= n < len(choices)}
