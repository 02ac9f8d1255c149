"""Small benchmark records in the columns of the real data sets, and rows of what is rendered from them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


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


def table(labels):
    columns = {"goal": [f"goal {i}" for i in range(len(labels))]}
    numbers = labels if all(isinstance(label, type(labels[0])) for label in labels) else list(map(str, labels))
    return pa.table({**columns, "label": numbers})


def write_records(mirror: Path) -> None:
    """Small tasks in lm-eval's columns: more documents in train than the limits, a few for evaluation."""
    colours = ["red", "green", "blue", "white", "black"]

    def arc(i: int) -> dict[str, Any]:
        texts = [colours[(i + j) % 5] for j in range(3 + i % 2)]
        labels = ["A", "B", "C", "D"][: len(texts)]
        return {
            "id": str(i),
            "question": f"Which colour is the lamp number {i} by the river?",
            "choices": {"text": texts, "label": labels},
            "answerKey": labels[i % len(texts)],
        }

    def piqa(i: int) -> dict[str, Any]:
        return {"goal": f"open window {i}", "sol1": f"push it {i}", "sol2": "wait for the rain to come", "label": i % 2}

    def winogrande(i: int) -> dict[str, Any]:
        return {
            "sentence": f"The fox met the dog and _ jumped over lamp {i}.",
            "option1": "the fox",
            "option2": "the dog",
            "answer": str(1 + i % 2),
        }

    for task, make in (("arc_easy", arc), ("piqa", piqa), ("winogrande", winogrande)):
        (mirror / task).mkdir(parents=True)
        for split, numbers in (("train", range(20)), ("validation", range(100, 112))):
            pq.write_table(pa.Table.from_pylist([make(i) for i in numbers]), mirror / task / f"{split}.parquet")
    (mirror / "lambada_openai").mkdir()
    passages = [
        {"text": f"The lamp number {i} stood by the river, and {i} boats came past the lamp"} for i in range(30)
    ]
    pq.write_table(pa.Table.from_pylist(passages), mirror / "lambada_openai" / "test.parquet")
