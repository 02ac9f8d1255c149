"""Studies that Snakemake runs in a checkout of their own, and what is planned for them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lm_headroom.audit.verify import verify
from lm_headroom.report.products import PRODUCTS
from lm_headroom.study.compared import COMPARISONS
from lm_headroom.study.reading import read_study
from tests.support.checkpoints import write_hub_tokenizer
from tests.support.paths import ROOT, SNAKEMAKE, environment_of_runs
from tests.support.records import write_records
from tests.support.tiny_models import tiny_model

SECOND = "gold_probability"
"""The outcome beside accuracy that a study has unless it names others."""
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
        command = [*SNAKEMAKE, "--configfile", self.config_path.name, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(command, cwd=self.folder, env=environment_of_runs(), text=True, **pipes)

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

    def unsound(self, other: Any = None) -> dict[str, list[str]]:
        """Files of results/ that are not sound for this study, or for another one: the state of each, and why."""
        files = verify(self.folder / "results", other or read_study(self.config_path))
        assert files
        return {file.path: [file.state, *file.reasons] for file in files if file.state != "sound"}

    def copy(self, folder: Path, records_last: bool = True) -> Study:
        """The study as it stands, times kept; a file that arrives after Snakemake's record of it is judged anew."""
        folder.mkdir(parents=True)
        for path in sorted(self.folder.iterdir(), key=lambda path: (path.name == ".snakemake") is records_last):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, copy_function=shutil.copy2, symlinks=True)
            else:
                shutil.copy2(path, folder)
        return Study(folder)

    def result(self, path: str) -> Path:
        """A file below results/."""
        return self.folder / "results" / path


def new_study(folder: Path, byte_code: bool = True) -> Study:
    """A checkout of the workflow as it is in this working tree, without results; with byte code, it starts sooner."""
    folder.mkdir(parents=True)
    # What other processes are writing may be gone before it is copied.
    being_written = ("*.pyc.*", "*.partial")
    ignore = shutil.ignore_patterns("*.egg-info", *(being_written if byte_code else ["__pycache__"]))
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
    paths = [sorted(p.relative_to(s.folder) for p in s.folder.glob("results/**/*.parquet")) for s in (one, other)]
    assert paths[0] == paths[1]
    for path in paths[0]:
        check_same(*(pq.ParquetFile(study.folder / path).read() for study in (one, other)), str(path))
    return len(paths[0])


def check_same(one: pa.Table, other: pa.Table, name: str) -> None:
    """Assert that two artifacts are the same, as :func:`same_artifacts` says."""
    import pandas as pd

    tables = [one, other]
    assert one.schema.remove_metadata() == other.schema.remove_metadata()
    for field in one.schema:
        if "list" in str(field.type) and "float" in str(field.type):
            numbers = [_flat(table.column(field.name)) for table in tables]
            np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-6, err_msg=f"{name}: {field.name}")
            tables = [table.drop_columns(field.name) for table in tables]
    first, second = (table.to_pandas() for table in tables)
    exact = [each for each in first if each.startswith(("accuracy", "correct")) or first[each].dtype.kind != "f"]
    pd.testing.assert_frame_equal(first[exact], second[exact], check_exact=True, obj=name)
    pd.testing.assert_frame_equal(first, second, rtol=1e-4, atol=1e-9, obj=name)


def _flat(column):
    """The numbers of lists of any depth."""
    values = column.combine_chunks()
    while "list" in str(values.type):
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False)


def tiny_study(folder: Path, tokenizer: Any, **changes: Any) -> Study:
    """A new study of few documents, with the records of its mirror; the model ``tiny`` is a tiny random OPT.

    Args:
        folder: checkout that is made.
        tokenizer: what the models read text with.
        changes: keys of the study that are other than here; a source in ``models`` that is called ``FAMILY`` or
            ``FAMILY-SEED`` is a tiny random model of that family.
    """
    study = new_study(folder)
    study.configure(
        **{
            "models": {"tiny": {"source": "tiny-opt"}},
            "device": "cpu",
            "threads": 1,
            "tasks": ["arc_easy"],
            "shots": [0],
            "limits": {"importance": 4, "evaluation": 4},
            "data": {"source": "mirror", "mirror": "records"},
            "pruning": {"levels": [0, 50]},
            "joint": {"heads": [50], "ffns": [34]},
            "induction": {"sequences": 2},
            # The models' tokenizer would add BOS.
            "add_bos": False,
            **changes,
        }
    )
    for model in study.config["models"].values():
        family, _, seed = model["source"].removeprefix("tiny-").partition("-")
        tiny_model(family, seed=int(seed or 0)).float().save_pretrained(study.folder / model["source"])
        write_hub_tokenizer(tokenizer, study.folder / model["source"])
    write_records(study.folder / "records")
    return study


def work(plan):
    """Jobs that compute, without those that draw and write."""
    return {name: count for name, count in plan.items() if not name.startswith(("draw_", "write_"))}


def drawn(plan, all_outcomes=True):
    """Rules that draw and write, of accuracy; those of the other outcome that a study has by default go with them.

    So does the first page, which is made from all of them; it is not listed.
    """
    rules = set(plan) - set(work(plan))
    assert rules != {"write_index"}, "it changes with what it is made from"
    rules.discard("write_index")
    others = {row.rule: row.rule.removesuffix(f"_{SECOND}") for row in PRODUCTS if row.outcome == SECOND}
    by_accuracy = rules - set(others)
    if all_outcomes:
        assert rules & set(others) == {rule for rule, base in others.items() if base in by_accuracy}
    return by_accuracy


def edit(study, module, text="\n\nADDED = 1\n"):
    path = study.folder / "workflow" / "lm_headroom" / module
    path.write_text(path.read_text() + text)
