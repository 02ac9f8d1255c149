"""Which of lm-eval's tasks are served; ``python -m tests.served.make``, from the repository root, writes the page.

Each of lm-eval's multiple-choice and loglikelihood tasks is judged by the code that a study meets. Those that are
served are also rendered on records made up here, where texts, numbers and lists in the columns that their templates
name will do; tasks whose functions read columns of their own are not. Takes minutes.
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from lm_headroom.errors import HeadroomError
from lm_headroom.tasks import prompts
from lm_headroom.tasks.files import NAMES
from lm_headroom.tasks.groups import members_of
from lm_headroom.tasks.scoring import check_scoring

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tasks.md"
TYPES = ("multiple_choice", "loglikelihood")
N = 12
"""Documents of each split that are made up."""
TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "description")


@dataclass(frozen=True)
class Verdict:
    """What becomes of a task.

    Attributes:
        folder: below lm-eval's tasks.
        refused: why it is refused; empty where it is served.
        others: metrics that it defines and that are not computed.
        shots: whether it can be asked with shots.
        rendered: whether it was rendered on records made up here.
    """

    folder: str
    refused: str = ""
    others: tuple[str, ...] = ()
    shots: bool = True
    rendered: bool = False


def built_in() -> dict[str, Path]:
    """Name to YAML of lm-eval's tasks of the types that compare likelihoods."""
    from lm_eval.tasks import TaskManager

    return {
        name: entry.yaml_path
        for name, entry in sorted(TaskManager().task_index.items())
        if entry.yaml_path and entry.kind.name == "TASK" and (entry.cfg or {}).get("output_type") in TYPES
    }


def verdict(name: str, path: Path, known: dict[str, bool] | None = None) -> Verdict:
    """Judge one task; ``known`` keeps what was rendered by what the texts are made of."""
    folder = path.as_posix().partition("/lm_eval/tasks/")[2].split("/")[0]
    try:
        config = prompts.load_config(name, path)
        others = check_scoring(name, config, 0)
    except HeadroomError as error:
        text = str(error).removeprefix(f"task {name!r}").lstrip(": ")
        # Neither its place on this machine, nor that of a package.
        return Verdict(folder, re.sub(r" \(/[^)]*\)", "", text.replace(str(path), "its YAML")))
    try:
        check_scoring(name, config, 1)
        shots = True
    except HeadroomError:
        shots = False
    known = {} if known is None else known
    # Of tasks that differ in words or languages alone, one is rendered.
    columns, shape = named_columns(config), [config.get(part) for part in ("doc_to_target", "training_split")]
    key = repr([folder, sorted(columns.items()), type(config.get("doc_to_choice")), shape])
    if key not in known:
        known[key] = any(renders(config, record) for record in records(config))
    return Verdict(folder, "", tuple(others), shots, known[key])


def renders(config: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether lm-eval and lm-headroom render the task on copies of a record."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    splits = {config.get(key) for key in ("training_split", "validation_split", "test_split", "fewshot_split")}
    own = config.get("fewshot_config")
    splits.add(own.get("split") if isinstance(own, dict) else None)
    data = datasets.DatasetDict(
        {split: datasets.Dataset.from_list([record | {"number": i} for i in range(N)]) for split in splits if split}
    )
    try:
        task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: data})
        loaded = prompts.Task(task, config, "lm-eval")
        columns, _ = prompts.render_task(loaded, 0, 1, 2, 2, "first", "question")
    # Whatever a made-up record does to a template.
    except Exception:
        return False
    return bool(columns["gold"])


def named_columns(config: dict[str, Any]) -> dict[str, list[str]]:
    """Columns that the templates name, each with the keys that name it; none where functions read the records."""
    from jinja2 import Environment, TemplateError, meta

    texts = {key: config.get(key) for key in TEMPLATES}
    if config.get("process_docs") or any(callable(text) for text in texts.values()):
        return {}
    columns: dict[str, list[str]] = defaultdict(list)
    for key, text in texts.items():
        named: set[str] = set()
        for part in text if isinstance(text, list) else [text]:
            if isinstance(part, str):
                with suppress(TemplateError):
                    named |= meta.find_undeclared_variables(Environment().parse(part))
                named |= {part} if re.fullmatch(r"\w+", part) and not isinstance(text, list) else set()
        for column in named:
            columns[column].append(key)
    return columns


def records(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Records with the columns that the templates name, for as many readings of them as deserve a trial."""
    columns = named_columns(config)
    targets = [column for column, keys in columns.items() if "doc_to_target" in keys]
    listed = [column for column, keys in columns.items() if "doc_to_choice" in keys and column not in targets]
    four = ["north", "east", "south", "west"]
    labels = (0, "A", "0", "1", "north", "a", True) if targets else (0,)
    lists = (four, "north", {"text": four, "label": list("ABCD")}) if listed else (four,)
    for label, choices in product(labels, lists) if columns else ():
        record: dict[str, Any] = {column: f"{column} text" for column in columns}
        yield record | dict.fromkeys(listed, choices) | dict.fromkeys(targets, label)


def page(verdicts: dict[str, Verdict]) -> str:
    """The page of all tasks."""
    served = {name: verdict for name, verdict in verdicts.items() if not verdict.refused}
    lines = [
        "# Supported tasks",
        "",
        f"lm-eval {version('lm_eval')} has {len(verdicts)} tasks of the types {' and '.join(TYPES)}; {len(served)} are "
        f"supported and {len(verdicts) - len(served)} refused. `make tasks` checks each with the code that a study "
        "uses, and writes this page.",
        "",
        "A task is supported if its `acc` is the share of documents whose likeliest choice is correct (for a "
        "`loglikelihood` task, whose continuation greedy decoding gives). Several choices may be correct. lm-headroom "
        "does not compute other metrics than `acc` and `acc_norm`; the log of `render_prompts` names those that it "
        "leaves out. lm-eval shows no examples for a task with `num_fewshot: 0`, so such a task is supported "
        "without shots only. Examples come from `fewshot_split` or `fewshot_config.samples`, in the order of lm-eval's "
        "sampler.",
        "",
        "## Supported",
        "",
        "*Rendered* counts the tasks that the check also rendered on made-up records; the others read columns that "
        "cannot be made up from their templates alone.",
        "",
        "| folder of lm-eval | tasks | rendered | without shots only | metrics not computed |",
        "|---|---|---|---|---|",
    ]
    folders = defaultdict(list)
    for verdict in served.values():
        folders[verdict.folder].append(verdict)
    for folder, members in sorted(folders.items()):
        others = sorted({other for verdict in members for other in verdict.others})
        bare = sum(not verdict.shots for verdict in members)
        n_rendered = sum(verdict.rendered for verdict in members)
        lines.append(f"| {folder} | {len(members)} | {n_rendered} | {bare or ''} | {', '.join(others)} |")
    lines += ["", "## Refused", "", "| folder of lm-eval | reason | tasks |", "|---|---|---|"]
    reasons = defaultdict(list)
    for name, verdict in verdicts.items():
        if verdict.refused:
            reasons[verdict.folder, verdict.refused].append(f"`{name}`")
    for (folder, why), names in sorted(reasons.items()):
        lines.append(f"| {folder} | {why.replace('|', ' ')} | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def names() -> str:
    """The tasks of lm-eval, and the members of its groups and tags, as the workflow reads them."""
    from lm_eval.tasks import TaskManager

    index = sorted(TaskManager().task_index.items())
    tasks = [name for name, entry in index if entry.kind.name in ("TASK", "PY_TASK")]
    groups = {name: members_of((entry.cfg or {}).get("task")) for name, entry in index if entry.kind.name == "GROUP"}
    groups |= {name: sorted(entry.tags) for name, entry in index if entry.kind.name == "TAG"}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(members)}" for name, members in groups.items())
    head = f'{{"lm-eval": {json.dumps(version("lm_eval"))},\n"tasks": {json.dumps(tasks)},\n'
    return f'{head}"groups": {{\n{lines}\n}}}}\n'


def main() -> None:
    """Write the page, and the names."""
    logging.disable(logging.ERROR)
    NAMES.write_text(names(), encoding="utf-8")
    known: dict[str, bool] = {}
    PAGE.write_text(page({name: verdict(name, path, known) for name, path in built_in().items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
