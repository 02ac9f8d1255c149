"""Records of one's own: read a study's JSONL, CSV and Parquet files, check each row, and write what lm-eval reads.

The Snakefile checks records at every parse, so that only Parquet files import pyarrow, and only templates jinja2.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml

from lm_headroom.artifacts.content import Digests
from lm_headroom.errors import HeadroomError, nearest, with_causes
from lm_headroom.study.task_entry import TaskEntry, expanded
from lm_headroom.tasks.scoring import describe_label

CHOICES, ANSWER = "headroom_choices", "headroom_answer"
"""Columns of the records that lm-eval reads, beside those of the templates."""
TEMPLATES = {"prompt": "headroom_prompt", "description": "headroom_description"}
"""Keys of a task with templates, and the columns that lm-eval reads in their place."""
QUESTION = "headroom_question"
PROMPT = f"Question: {{{{{QUESTION}}}}}\nAnswer:"
Record = dict[str, Any]


def own_file_records(entry: TaskEntry, base: Path, digests: Digests) -> dict[str, str]:
    """Map split and format of a task's own files to their SHA-256, of those that are there.

    Raises:
        HeadroomError: a file cannot be read.
    """
    files = _files(entry, base)
    return {f"{split}{path.suffix}": digests.digest_file(path) for split, path in files.items() if path.exists()}


def read_own(entry: TaskEntry, base: Path = Path()) -> dict[str, list[Record]]:
    """Read the records of a task's own files, each with its choices and the number of the right one.

    Args:
        entry: what the study says of the task.
        base: what relative paths are relative to.

    Returns:
        Split, ``train`` or ``validation``, to records with the columns that the templates name and lm-eval's.

    Raises:
        HeadroomError: names the task, the file, the row and the column that is not right.
    """
    read = {split: (path, _read(entry.name, path)) for split, path in _files(entry, base).items()}
    wanted = sorted(_template_columns(entry))
    records: dict[str, list[Record]] = {}
    answers: list[tuple[str, Any, list[str]]] = []
    for split, (path, rows) in read.items():
        records[split] = []
        for number, row in enumerate(rows, 1):
            where = f"task {entry.name!r}: {path}, row {number}"
            record = {column: _cell(where, row, column) for column in wanted}
            if entry.prompt is None:
                record[QUESTION] = _text(where, row, entry.question)
            record[CHOICES] = _choices(where, row, entry.choices)
            _check_characters(where, record)
            answers.append((where, _cell(where, row, entry.answer), record[CHOICES]))
            records[split].append(record)
    numbers = iter(_right_choices(entry.answer, answers))
    for rows in records.values():
        for record in rows:
            record[ANSWER] = next(numbers)
    return records


def write_own(entry: TaskEntry, folder: Path) -> None:
    """Write a task's own records and its definition for lm-eval: ``{task}/{split}.parquet`` and ``{task}.yaml``.

    Raises:
        HeadroomError: as :func:`read_own`, or a record does not fit a template.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / entry.name).mkdir()
    for split, records in read_own(entry).items():
        # Texts: lm-eval would read a prompt of digits as a number, and Parquet rows of several types as one.
        rows = [
            {**_texts(entry, split, number, record), **{name: record[name] for name in (CHOICES, ANSWER)}}
            for number, record in enumerate(records, 1)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / entry.name / f"{split}.parquet")
    definition = {
        "task": entry.name,
        "dataset_path": "parquet",
        "output_type": "multiple_choice",
        **{f"{'training' if split == 'train' else split}_split": split for split in entry.files},
        "doc_to_text": TEMPLATES["prompt"],
        "doc_to_choice": CHOICES,
        "doc_to_target": ANSWER,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"version": 1.0},
        **({"description": TEMPLATES["description"]} if entry.description else {}),
    }
    (folder / f"{entry.name}.yaml").write_text(yaml.safe_dump(definition, allow_unicode=True), encoding="utf-8")


def _texts(entry: TaskEntry, split: str, number: int, record: Record) -> dict[str, str]:
    """Map columns to a record's prompt and description as lm-eval renders them."""
    from lm_eval.utils import apply_template

    texts = {}
    for key, template in (("prompt", entry.prompt or PROMPT), ("description", entry.description)):
        try:
            if template is not None:
                texts[TEMPLATES[key]] = apply_template(template, record)
        # What a template computes with a record's values may raise anything.
        except Exception as error:
            raise HeadroomError(
                f"task {entry.name!r}: {entry.files[split]}, row {number}: its {key} cannot be rendered: "
                f"{with_causes(error)}"
            ) from error
    return texts


def _files(entry: TaskEntry, base: Path) -> dict[str, Path]:
    return {split: base / expanded("tasks", path) for split, path in entry.files.items()}


def _read(task: str, path: Path) -> list[Record]:
    where = f"task {task!r}: {path}"
    try:
        rows = list(_READERS[path.suffix](where, path))
    except OSError as error:
        raise HeadroomError(f"{where} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise HeadroomError(f"{where} is not in UTF-8 (byte {error.start}); save the file as UTF-8") from None
    if not rows:
        raise HeadroomError(f"{where} holds no records")
    return rows


def _read_jsonl(where: str, path: Path) -> Iterator[Record]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=_with_each_key_once)
            except HeadroomError as error:
                raise HeadroomError(f"{where}, line {number}: {error}") from None
            except (ValueError, RecursionError) as error:
                raise HeadroomError(f"{where}, line {number} is no JSON ({error}); write one object per line") from None
            if not isinstance(row, dict):
                raise HeadroomError(f"{where}, line {number} holds {describe_label(row)}; expected an object")
            yield row


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> Record:
    """The object of JSON's pairs.

    Raises:
        HeadroomError: a key is there twice.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise HeadroomError(f"the key {key!r} is there twice; one of them would not count")
    return row


def _check_characters(where: str, record: Record) -> None:
    """Refuse half of a character, which JSON can write as ``\\ud83d`` and no other format can hold.

    Raises:
        HeadroomError: names the row.
    """
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise HeadroomError(f"{where} holds half of a character, {half!a}; write all of it, or remove it") from None


def _read_csv(where: str, path: Path) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    header: list[str] = []
    try:
        for number, cells in enumerate(row for row in rows if row):
            if not number:
                header = cells
                # Columns without a name, as spreadsheets leave them, are not read.
                twice = [name for name, count in Counter(header).items() if name and count > 1]
                if twice:
                    raise HeadroomError(f"{where} has the column {twice[0]!r} twice; rename one of them")
            elif len(cells) != len(header):
                raise HeadroomError(
                    f"{where}, row {number} has {len(cells)} cells, and the header {len(header)}; put a text with "
                    "commas in quotes"
                )
            else:
                yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise HeadroomError(f"{where}, line {rows.line_num} is no CSV ({error})") from None


def _read_parquet(where: str, path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise HeadroomError(f"{where} is not a readable Parquet file ({error}); make it again") from error


_READERS: Mapping[str, Callable[[str, Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _template_columns(entry: TaskEntry) -> set[str]:
    """Columns that a task's templates name.

    Raises:
        HeadroomError: one is no template.
    """
    columns: set[str] = set()
    for key, text in (("prompt", entry.prompt), ("description", entry.description)):
        if text is not None and any(mark in text for mark in ("{{", "{%", "{#")):
            from jinja2 import Environment, TemplateSyntaxError, meta

            environment = Environment(autoescape=False)
            # The filter that lm-eval adds.
            environment.filters["regex_replace"] = re.sub
            try:
                columns |= meta.find_undeclared_variables(environment.parse(text))
            except TemplateSyntaxError as error:
                raise HeadroomError(f"task {entry.name!r}: its {key} is no Jinja template: {error}") from None
    return columns


def _cell(where: str, row: Record, column: str) -> Any:
    if column not in row:
        raise HeadroomError(f"{where} has no column {column!r}{nearest(column, row)}; it has {', '.join(row)}")
    return row[column]


def _text(where: str, row: Record, column: str) -> str:
    text = _cell(where, row, column)
    if not isinstance(text, str) or not text.strip():
        raise HeadroomError(f"{where}: column {column!r} is {describe_label(text)}; expected text")
    return text


def _choices(where: str, row: Record, columns: str | list[str]) -> list[str]:
    if isinstance(columns, list):
        return [_text(where, row, column) for column in columns]
    choices = _cell(where, row, columns)
    if isinstance(choices, str):
        with suppress(ValueError):
            choices = json.loads(choices)
    if not isinstance(choices, list) or len(choices) < 2:
        raise HeadroomError(
            f"{where}: column {columns!r} is {describe_label(choices)}; expected a list of two or more choices, in "
            'CSV such as ["yes", "no"], or name a column for each choice'
        )
    for number, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice.strip():
            raise HeadroomError(f"{where}: choice {number} is {describe_label(choice)}; expected text")
    return choices


def _readings(answer: Any, choices: Sequence[str]) -> dict[str, int]:
    """The number of the right choice in each way in which an answer may be meant."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        numbers = {"number": answer}
    elif isinstance(answer, str):
        text = answer.strip()
        numbers = {
            **({"text": choices.index(answer)} if answer in choices else {}),
            **({"number": int(text)} if text.isdecimal() else {}),
            **({"letter": ascii_uppercase.index(text)} if len(text) == 1 and text in ascii_uppercase else {}),
        }
    else:
        numbers = {}
    return {kind: number for kind, number in numbers.items() if 0 <= number < len(choices)}


def _right_choices(column: str, answers: Sequence[tuple[str, Any, list[str]]]) -> list[int]:
    """The number of the right choice of each row, all answers of a task read in one way."""
    readings = [_readings(answer, choices) for _, answer, choices in answers]
    fitting = Counter(kind for reading in readings for kind in reading)
    kinds = [kind for kind, count in fitting.items() if count == len(answers)]
    if not kinds:
        likeliest = fitting.most_common(1)[0][0] if fitting else ""
        place = next(i for i, reading in enumerate(readings) if likeliest not in reading)
        where, answer, choices = answers[place]
        last = len(choices) - 1
        raise HeadroomError(
            f"{where}: {column!r} is {describe_label(answer)}; expected "
            + (f"the {likeliest} of a choice, as in other rows: " if likeliest else "")
            + f"a number from 0 to {last}, the text of a choice, or a letter from A to {ascii_uppercase[min(last, 25)]}"
            + ("; answers that count from 1 must be lowered by 1" if str(answer).strip() == str(last + 1) else "")
        )
    for (where, answer, choices), reading in zip(answers, readings, strict=True):
        if len({reading[kind] for kind in kinds}) > 1:
            raise HeadroomError(
                f"{where}: {column!r} is {describe_label(answer)}, which may be the {' or the '.join(kinds)} of a "
                "choice; write answers as numbers in JSONL, or as texts of choices"
            )
        if choices.count(choices[reading[kinds[0]]]) > 1:
            raise HeadroomError(f"{where}: the right choice, {choices[reading[kinds[0]]]!r}, is there twice")
    return [reading[kinds[0]] for reading in readings]
