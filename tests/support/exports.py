"""The results of a tiny model, of which exports are made."""

import numpy as np
import torch

from lm_headroom.analysis.ranking import as_columns, ffn_columns, in_pruning_order, rank_ffns, rank_heads
from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.ranking import EXPERT_RANKING, FFN_RANKING, RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.cli import main
from lm_headroom.models.experts import expert_blocks
from lm_headroom.models.resolve import resolve
from tests.families import cases as families
from tests.support.tiny_models import tiny_model

ARCHITECTURES = ["opt", "opt-350m", "llama"]
"""Models of tests.support.tiny_models; others are cases of tests.families."""
TOKENS = torch.randint(3, 520, (3, 20), generator=torch.Generator().manual_seed(1))


def tiny(family):
    """A tiny model in float32."""
    is_ours = family in (*ARCHITECTURES, "olmoe")
    return (tiny_model(family) if is_ours else families.model_of(families.CASES[family])).float()


class Place:
    """A results folder with the record and rankings of a tiny model: of heads, FFNs, and experts if it has any."""

    def __init__(self, folder, family, tokenizer):
        self.folder, self.model = folder, tiny(family)
        self.results = folder / "results"
        self.model.save_pretrained(folder / "checkpoint")
        tokenizer.save_pretrained(folder / "checkpoint")
        self.record = self.results / "tiny" / "model.json"
        record = resolve("tiny", str(folder / "checkpoint"), None, self.record)
        rng = np.random.default_rng(0)
        self.orders = {}
        cell = "aggregate/0shot-seed7.parquet"
        for name, kind, shape in (("heads", RANKING, (3, 4)), ("ffns", FFN_RANKING, (3,))):
            scores = rng.random(shape)
            order = rank_heads(scores) if name == "heads" else rank_ffns(scores)
            columns = as_columns(order, scores) if name == "heads" else ffn_columns(order, scores)
            source = {"prompts": {"path": "prompts/copa/0shot-seed7.parquet", "digest": "0" * 64}}
            step = "steps.aggregate_heads" if name == "heads" else "steps.aggregate_ffns"
            provenance = {"step": step, "code": code_digest(step), "options": {}}
            metadata = {**provenance, "model": record, "task": "aggregate", "shots": 0, "seed": 7, "inputs": source}
            write(self.ranking(name, cell), kind, columns, metadata)
            self.orders[name] = order
        if blocks := expert_blocks(self.model):
            scores = rng.random((len(blocks), blocks[0].number))
            order = in_pruning_order(rank_heads(scores), blocks[0].top_k, blocks[0].number)
            columns = as_columns(order, scores)
            columns["expert"] = columns.pop("head")
            metadata |= {"step": "steps.score_experts", "code": code_digest("steps.score_experts"), "task": "copa"}
            write(self.ranking("experts"), EXPERT_RANKING, columns, metadata)
            self.orders["experts"] = order

    def ranking(self, component, cell="aggregate/0shot-seed7.parquet"):
        return self.results / "tiny" / "ranking" / component / cell

    @property
    def out(self):
        return self.results / "tiny" / "pruned" / "aggregate" / "heads50-ffns34" / "0shot-seed7"

    def export(self, *options, out=None):
        """The command, with half of the heads and a third of the FFNs pruned unless ``options`` say else."""
        options = options or ("--ranking", self.ranking("heads"), self.ranking("ffns"), "--percent", 50, 34)
        arguments = ["export-pruned", "--model", self.record, "--device", "cpu", *options, "--out", out or self.out]
        return main([str(argument) for argument in arguments])

    @property
    def pruned(self):
        return self.orders["heads"][:6], self.orders["ffns"][:1]
