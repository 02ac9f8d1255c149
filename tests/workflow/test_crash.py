"""Killed at random moments and run again, a study ends as if nothing had happened, and repeats nothing it had finished.

Two kills here; ``make crash`` does twenty, from an empty results folder.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.paths import environment_of_runs
from tests.support.workflow_studies import same_artifacts

KILLS = int(os.environ.get("LM_HEADROOM_KILLS", 2))
LONG = "LM_HEADROOM_KILLS" in os.environ
SECONDS = (3.0, 15.0)
"""When to kill: Snakemake and the imports of a job take the first seconds."""


ALONE = ("--cores", "1")
"""Jobs that run beside each other may compute the one unit that they share, the whole model's evaluation, at once."""
TABLE = "results/tiny/tables/table1-seed1234.csv"
TARGETS = () if LONG else ("importance", "curves", "correlations", "induction", "fig10", TABLE)
"""Everything in the long form; here all that runs a model, with a figure and a table, which the reader reads."""


class Reader(threading.Thread):
    """Reads all results again and again, as somebody would who looks at a study while it runs."""

    def __init__(self, results):
        super().__init__(daemon=True)
        self.results, self.broken, self.n_read, self.stopped = results, [], 0, False

    def run(self):
        seen = {}
        while not self.stopped:
            for path in self.results.rglob("*.*"):
                if path.name.startswith(".") or ".cache" in path.parts or not path.is_file():
                    continue
                try:
                    changed = path.stat().st_mtime_ns
                    if seen.get(path) == changed:
                        continue
                    read_whole(path)
                except FileNotFoundError:
                    continue
                except (OSError, ValueError, pa.ArrowException) as error:
                    self.broken.append(f"{path}: {error}")
                seen[path] = changed
                self.n_read += 1
            time.sleep(0.05)


def read_whole(path):
    """Read a result to its end; an error where it is cut short."""
    raw = path.read_bytes()
    if path.suffix == ".parquet":
        pq.ParquetFile(pa.BufferReader(raw)).read()
    elif path.suffix == ".json":
        json.loads(raw)
    elif path.suffix == ".pdf" and not raw.rstrip().endswith(b"%%EOF"):
        raise ValueError("the PDF has no end")
    elif path.suffix == ".png" and not raw.endswith(b"IEND\xaeB`\x82"):
        raise ValueError("the PNG has no end")
    elif not raw:
        raise ValueError("empty")


def killed(study, seconds):
    """Run the study and kill the whole process tree after some seconds; False where it ended before."""
    command = [sys.executable, "-m", "snakemake", "--configfile", study.config_path.name, *ALONE, *TARGETS]
    env = environment_of_runs()
    with (study.folder / "killed.log").open("w") as log:
        process = subprocess.Popen(command, cwd=study.folder, env=env, stdout=log, stderr=log)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for member in tree:
                member.kill()
            psutil.wait_procs(tree)
            assert study.snakemake("--unlock").returncode == 0
            return True
    assert process.returncode == 0, (study.folder / "killed.log").read_text()
    return False


def written_twice(results):
    """Entries of units that were computed more than once."""
    counts = Counter()
    for path in results.glob("*/.cache/**/*.npz"):
        with np.load(path) as file:
            counts.update((str(path.parent), path.name.split(".")[0], key) for key in file["keys"])
    return {entry for entry, count in counts.items() if count > 1}


def clear(study):
    """Forget what is to be computed again: everything, or of the short form one task's cell and what gathers it."""
    if LONG:
        shutil.rmtree(study.result(""))
        return
    for path in list(study.result("tiny").rglob("*1shot-seed1234*")):
        if path.exists() and {"head_importance", "ffn_importance", ".cache"} & set(path.parts):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(study.result("tiny/induction"))
    shutil.rmtree(study.result("tiny/.cache/induction"))


@pytest.mark.slow
def test_a_killed_study_ends_as_an_undisturbed_one(finished, study):
    rng = random.Random(7)
    reader = Reader(study.result(""))
    clear(study)
    before = written_twice(study.result(""))
    reader.start()
    kills, table = 0, []
    while kills < KILLS:
        moment = rng.uniform(*SECONDS)
        if killed(study, moment):
            kills += 1
            table.append(f"kill {kills} after {moment:.1f} s: {len(list(study.result('').rglob('*.npz')))} parts kept")
        else:
            assert written_twice(study.result("")) <= before
            assert same_artifacts(finished, study)
            table.append(f"ended within {moment:.1f} s; begun anew")
            clear(study)
    done = study.snakemake(*ALONE, *TARGETS)
    assert done.returncode == 0, done.stdout
    reader.stopped = True
    reader.join()
    print("\n".join([*table, f"{reader.n_read} results read meanwhile, {len(reader.broken)} of them broken"]))
    assert not reader.broken
    assert reader.n_read > 20
    assert list(study.result("").glob("*/.cache/**/*.npz"))
    assert written_twice(study.result("")) <= before
    assert same_artifacts(finished, study) > 50
    assert study.planned(*TARGETS) == {}
