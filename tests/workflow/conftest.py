"""A small study run once for real, on a tiny random OPT in the hub's format; tests work on copies of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lm_headroom.study.compared import COMPARISONS
from tests.conftest import ROOT, one_at_a_time, tiny_model

PARTS = ("Snakefile", "config.yaml", "profiles", "workflow", "envs")


class Study:
    """A checkout of the workflow with a config of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_path = folder / "study.yaml"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it stands in the file."""
        return dict(yaml.safe_load(self.config_path.read_text()))

    def configure(self, **changes: Any) -> None:
        """Write the configuration with some keys changed."""
        config = self.config if self.config_path.is_file() else {}
        self.config_path.write_text(yaml.safe_dump({**config, **changes}, sort_keys=False))

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with this study's configuration; output in one stream."""
        command = [sys.executable, "-m", "snakemake", "--configfile", self.config_path.name, *arguments]
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            command, cwd=self.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, *targets: str) -> str:
        """Run to the end and return what was printed."""
        done = self.snakemake("--cores", "2", *targets)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, *targets: str) -> dict[str, int]:
        """Jobs per rule that a dry run would start; target rules left out."""
        done = self.snakemake("--dry-run", "--cores", "2", *targets)
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return {}
        table = re.search(r"Job stats:\n(.*?)\n\n", done.stdout + "\n\n", re.DOTALL)
        assert table, done.stdout
        rows = [line.split() for line in table[1].splitlines() if re.fullmatch(r"\w+\s+\d+", line)]
        targets_ = {"all", "total", "prompts", "importance", "curves", "correlations", "induction", "figures", "tables"}
        targets_ |= {"comparison", *(f"comparison_{what}" for what in COMPARISONS)}
        return {name: int(count) for name, count in rows if name not in targets_}

    def copy(self, folder: Path) -> Study:
        """The study as it stands, times kept."""
        shutil.copytree(self.folder, folder, copy_function=shutil.copy2, symlinks=True)
        return Study(folder)

    def result(self, path: str) -> Path:
        """A file below results/."""
        return self.folder / "results" / path


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


def write_hub_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The tokenizer files of facebook/opt-*: GPT-2's, with an automatic BOS and no tokenizer.json."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "errors": "replace", **names})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(names))


def new_study(folder: Path) -> Study:
    """A checkout of the workflow as it is in this working tree, without results."""
    folder.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=ignore)
        else:
            shutil.copy2(source, folder / part)
    return Study(folder)


def same_artifacts(one: Study, other: Study) -> int:
    """Assert that two studies hold the same artifacts, and return how many.

    Schemas and all but fractions are equal, accuracies too; other numbers to 1e-4, since a CPU's kernels may sum in
    another order from run to run.
    """
    import pandas as pd

    paths = [sorted(p.relative_to(s.folder) for p in s.folder.glob("results/**/*.parquet")) for s in (one, other)]
    assert paths[0] == paths[1]
    for path in paths[0]:
        tables = [pq.ParquetFile(study.folder / path).read() for study in (one, other)]
        assert tables[0].schema.remove_metadata() == tables[1].schema.remove_metadata()
        first, second = (table.to_pandas() for table in tables)
        exact = [name for name in first if name.startswith(("accuracy", "correct")) or first[name].dtype.kind != "f"]
        pd.testing.assert_frame_equal(first[exact], second[exact], check_exact=True, obj=str(path))
        pd.testing.assert_frame_equal(first, second, rtol=1e-4, atol=1e-9, obj=str(path))
    return len(paths[0])


@pytest.fixture(scope="session")
def finished(shared_folder: Path, tokenizer: Any) -> Study:
    """A study that has run to the end, made by one worker for all. Copy it before changing anything."""
    folder = shared_folder / "finished"
    with one_at_a_time(shared_folder, "finished"):
        if not (folder / "printed").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            printed = make_finished(folder / "checkout", tokenizer)
            (folder / "printed").write_text(printed)
    study = Study(folder / "checkout")
    study.log = (folder / "printed").read_text()  # type: ignore[attr-defined]
    return study


def make_finished(folder: Path, tokenizer: Any) -> str:
    """Run the study, and return what was printed."""
    study = new_study(folder)
    model = tiny_model("opt").float()
    model.save_pretrained(study.folder / "tiny-opt")
    write_hub_tokenizer(tokenizer, study.folder / "tiny-opt")
    write_records(study.folder / "records")
    study.configure(
        models={"tiny": {"source": "tiny-opt"}},
        device="cpu",
        threads=1,
        tasks=["arc_easy", "winogrande"],
        unseen=["lambada_openai"],
        shots=[0, 1],
        limits={"importance": 6, "evaluation": 8},
        data={"source": "mirror", "mirror": "records"},
        pruning={"levels": [0, 5, 50], "controls": ["reversed", "random_1"]},
        joint={"heads": [0, 50], "ffns": [0, 34]},
        transfer={"tasks": ["winogrande"], "levels": [50]},
        induction={"sequences": 2},
    )
    return study.run()


@pytest.fixture
def study(finished: Study, tmp_path: Path) -> Study:
    """A copy of the finished study to change."""
    return finished.copy(tmp_path / "copy")
