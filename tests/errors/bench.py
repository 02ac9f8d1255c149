"""A folder to go wrong in, and the command line."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa

from lm_headroom.analysis.ranking import as_columns, rank_heads
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.checkout import WARM
from lm_headroom.cli import main
from tests.errors.page import Outcome, snapshot
from tests.support.hub import files_of, serve
from tests.support.records import mirror
from tests.support.small_study import small
from tests.support.tiny_models import SENTENCES

CHOICES = [" the river", " a stone"]


CLOSED = "http://127.0.0.1:9"
"""A port that nobody listens on."""


class Bench:
    """A folder to go wrong in, and the command line, whose failures must leave every file as it was."""

    def __init__(self, folder, capfd, monkeypatch, tokenizer, checkpoint):
        self.folder, self.capfd, self.patch = folder, capfd, monkeypatch
        self.tokenizer, self._checkpoint = tokenizer, checkpoint

    def headroom(self, *arguments):
        """A command in this process."""
        before = snapshot(self.folder)
        self.capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = int(stopped.code)
        return self._outcome(before, status, self.capfd.readouterr().err)

    def unreachable_hub(self):
        """No hub behind its address, and no waiting between attempts."""
        self.patch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
        self.patch.setattr("datasets.config.HF_ENDPOINT", CLOSED)
        self.patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)

    def _outcome(self, before, status, printed):
        if status:
            assert snapshot(self.folder) == before, "something was written"
        return Outcome(status, printed)

    def older(self, name):
        """A file where the output goes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"what was there")
        return path

    def checkpoint(self, name="checkpoint", **config):
        """A tiny OPT's folder, with some settings changed; None removes one."""
        folder = shutil.copytree(self._checkpoint, self.folder / name)
        if config:
            settings = json.loads((folder / "config.json").read_text()) | config
            (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
        return folder

    def resolve(self, folder, out=None, *options):
        """The command that looks at a checkpoint first."""
        out = out or self.older("m.json")
        return self.headroom("resolve-model", "--name", "mine", "--source", folder, "--out", out, *options)

    def resolve_at_hub(self, source, *faults, token="", file=None, **options):
        """The same of a model on a hub on loopback, for the hub's real client, which reads variables at its start."""
        out, checkpoint = self.older("m.json"), self.checkpoint()
        before = snapshot(self.folder)
        with serve() as hub, tempfile.TemporaryDirectory() as home:
            hub.add(f"models/{source}", files_of(checkpoint), **options)
            hub.faults += faults
            hub.tokens["other"] = set()
            variables = {
                "HF_ENDPOINT": hub.address,
                "HF_HOME": home,
                "HF_TOKEN": token,
                "HF_HUB_OFFLINE": "",
                WARM: "0",
            }
            named = f"{source}/{file}" if file else source
            command = ["resolve-model", "--name", "mine", "--source", named, "--out", out]
            done = subprocess.run(
                [sys.executable, "-m", "lm_headroom", *command],
                env={**os.environ, **variables}, capture_output=True, text=True,
            )  # fmt: skip
        return self._outcome(before, done.returncode, done.stderr)

    def record(self, folder=None, *options):
        """model.json of a checkpoint folder."""
        out = self.folder / "results" / "model.json"
        assert self.resolve(folder or self.checkpoint(), out, *options).status == 0
        return out

    def save(self, model):
        """A checkpoint of another model, in float32, with the same tokenizer."""
        folder = self.folder / "other"
        model.float().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def spoil(self, change):
        """A record of a checkpoint whose weights ``change`` alters in place, by name."""
        from safetensors.torch import load_file, save_file

        folder = self.checkpoint()
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return self.record(folder)

    def prompts(self, contexts=SENTENCES[:4], choices=CHOICES, task="copa", shots=0, seed=7, metric="choice"):
        """A prompts artifact with the same documents for scoring (0, 1, ...) and evaluation (100, 101, ...)."""
        table = [
            {
                "doc_id": start + i, "question": start + i, "purpose": purpose, "split": "s", "choice": choice,
                "context": context, "continuation": text, "gold": choice == 0, "metric": metric,
                "choice_length": None, "turns": None, "reply": None,
            }
            for purpose, start in (("importance", 0), ("evaluation", 100))
            for i, context in enumerate(contexts)
            for choice, text in enumerate(choices)
        ]  # fmt: skip
        path = self.folder / "prompts.parquet"
        columns = {column.name: [row[column.name] for row in table] for column in PROMPTS.columns}
        write(path, PROMPTS, columns, {"task": task, "shots": shots, "seed": seed})
        return path

    def origin(self, record):
        """What made results of the tiny model on the prompts."""
        return {"model": json.loads(record.read_text()), "task": "copa", "shots": 0, "seed": 7}

    def ranking(self, shape=(3, 4), **changes):
        """A ranking artifact of the prompts' task, shots and seed, but for ``facts``."""
        scores = np.random.default_rng(0).random(shape)
        path = self.folder / "ranking.parquet"
        origin = {"task": "copa", "shots": 0, "seed": 7, **changes}
        write(path, RANKING, as_columns(rank_heads(scores), scores), origin)
        return path

    def score(self, *options, record=None, prompts=None):
        """Head importance of the tiny model."""
        return self.headroom(
            "score-heads", "--model", record or self.record(), "--prompts", prompts or self.prompts(),
            "--device", "cpu", "--out", self.older("scores.parquet"), *options,
        )  # fmt: skip

    def prune(self, *options, record=None, prompts=None):
        """Accuracy of the tiny model with half of its heads pruned."""
        self.older("curves/own.parquet")
        return self.headroom(
            "evaluate-pruned", "--model", record or self.record(), "--prompts", prompts or self.prompts(),
            "--levels", 50, "--device", "cpu", "--out", self.folder / "curves",
            *(options or ("--rankings", "random_1")),
        )  # fmt: skip

    def export(self, *options, out="export", record=None):
        """A smaller checkpoint of the tiny model."""
        return self.headroom(
            "export-pruned", "--model", record or self.record(), "--device", "cpu", "--out", self.folder / out, *options
        )

    def render(self, task="piqa", data=None, shots=0, task_folder=None):
        """Prompts of a task from a mirror."""
        folder = ["--task-folders", task_folder] if task_folder else []
        data = data if data is not None else mirror(self.folder / "data", "piqa", train=piqa(4), validation=piqa(4))
        return self.headroom(
            "render-prompts",
            "--task",
            task,
            "--shots",
            shots,
            "--data",
            data,
            "--out",
            self.older("prompts.parquet"),
            *folder,
        )

    def study(self):
        """Artifacts of a small study."""
        return small(self.folder)


def piqa(n, change=lambda i, row: row):
    return pa.Table.from_pylist(
        [change(i, {"goal": f"open window {i}", "sol1": "push it", "sol2": "wait", "label": 0}) for i in range(n)]
    )
