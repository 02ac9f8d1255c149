"""lm-eval itself, with its own tasks on real records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

UPSTREAM = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "mathqa": "mathqa/mathqa.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    **{
        task: f"super_glue/{task}/default.yaml"
        for task in ("boolq", "cb", "copa", "wic", "wsc", "multirc", "rte", "record")
    },
}
"""Task to its YAML in lm-eval."""


def upstream(task: str, records: Path, folder: Path) -> Any:
    """lm-eval's own manager, with its own task, on real records."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    files = {path.stem: str(path) for path in (records / task).glob("*.parquet")}
    missing = "" if {"train", "test"} & set(files) != {"test"} else "training_split: null\n"
    (folder / "task.yaml").write_text(
        f"include: {Path(lm_eval.__file__).parent / 'tasks' / UPSTREAM[task]}\ntask: {task}\n{missing}"
        f"dataset_path: parquet\ndataset_name: null\ndataset_kwargs: {{data_files: {files}, cache_dir: {folder}}}\n"
    )
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(hflm: Any, task: str, shots: int, doc_ids: list[int], records: Path, folder: Path) -> Any:
    """simple_evaluate on these documents, with one sample record per document."""
    import lm_eval

    # It would ask the machine for its packages and devices, by eleven programs that take longer than a tiny model.
    with mock.patch("lm_eval.evaluator.add_env_info"):
        result = lm_eval.simple_evaluate(
            hflm,
            tasks=[task],
            num_fewshot=shots,
            samples={task: doc_ids},
            task_manager=upstream(task, records, folder),
            log_samples=True,
            bootstrap_iters=0,
            fewshot_random_seed=1234,
        )
    shutil.rmtree(folder / "parquet", ignore_errors=True)
    return result
