"""What the golden files hold, and ``python -m tests.golden.make`` (from the repository root) to write them anew.

Run it only after a change of the prompts that is meant, and read the difference: it needs ``workflow`` on PYTHONPATH
and the benchmark records beside the checkout (or LM_HEADROOM_TEST_DATA), as the tests do.
"""

from __future__ import annotations

import hashlib
import json
import os
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from lm_headroom.tasks.files import TASK_FOLDERS
from lm_headroom.tasks.prompts import render

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
TASKS = (
    "hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "winogrande", "boolq", "cb", "copa", "wic", "wsc",
    "multirc", "rte", "record", "mathqa", "lambada_openai",
)  # fmt: skip
SHOTS = (0, 1, 5)
SEED = 1234
LIMIT = 5


def summary(task: str, records: Path) -> dict[str, Any]:
    """Of each document its question, choices and metric, and for each number of shots a digest over its texts."""
    entries: dict[str, dict[str, Any]] = {}
    for shots in SHOTS:
        columns, _ = render(task, shots, SEED, str(records), LIMIT, LIMIT, folders=[TASK_FOLDERS / "paper"])
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for (purpose, split, doc_id), group in groupby(rows, key=itemgetter("purpose", "split", "doc_id")):
            own = list(group)
            document = {
                "question": own[0]["question"],
                "metric": own[0]["metric"],
                "choices": len(own),
                "gold": [row["choice"] for row in own if row["gold"]],
            }
            entry = entries.setdefault(f"{purpose} {split} {doc_id}", document)
            assert {key: entry[key] for key in document} == document, "shots change nothing but the text"
            texts = json.dumps([[row["context"], row["continuation"]] for row in own])
            entry[f"{shots}-shot"] = hashlib.sha256(texts.encode()).hexdigest()
    return entries


def path(task: str) -> Path:
    """The golden file of a task."""
    return FOLDER / f"{task}.json"


def main() -> None:
    """Write all golden files."""
    records = Path(os.environ.get("LM_HEADROOM_TEST_DATA", ROOT.parent / "shared" / "data"))
    for task in TASKS:
        path(task).write_text(json.dumps(summary(task, records), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
