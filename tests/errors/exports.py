"""Exports that are asked for what cannot be, and models that cannot be exported."""

import json

import numpy as np

from lm_headroom.analysis.ranking import as_columns, ffn_columns, in_pruning_order, rank_ffns, rank_heads
from lm_headroom.artifacts.ranking import EXPERT_RANKING, FFN_RANKING
from lm_headroom.artifacts.store import write
from tests.errors.handled import with_code
from tests.errors.page import Cases
from tests.support.model_types import tiny_of_type
from tests.support.tiny_models import tiny_model

CASES = Cases()


def export(bench, *options, model=None):
    """An export by a ranking of its model's heads: of the tiny model, unless another is given."""
    record = bench.record(bench.save(model) if model is not None else None)
    ranking = bench.ranking(model=json.loads(record.read_text()))
    return bench.export("--ranking", ranking, *options, record=record)


@CASES.case("an even export of FFNs alone")
def _(bench):
    record, path, scores = bench.record(), bench.folder / "ffns.parquet", np.arange(3.0)
    write(path, FFN_RANKING, ffn_columns(rank_ffns(scores), scores), bench.origin(record))
    return bench.export("--ranking", path, "--percent", 34, "--even", record=record)


def export_experts(bench, model, percent):
    """An export by a ranking of twelve experts."""
    record, path = bench.record(bench.save(model)), bench.folder / "experts.parquet"
    scores = np.arange(12.0).reshape(3, 4)
    columns = as_columns(in_pruning_order(rank_heads(scores), 2, 4), scores)
    columns["expert"] = columns.pop("head")
    write(path, EXPERT_RANKING, columns, bench.origin(record))
    return bench.export("--ranking", path, "--percent", percent, record=record)


@CASES.case("an export without more experts than layers can lose")
def _(bench):
    return export_experts(bench, tiny_model("olmoe"), 60)


@CASES.case("an export without experts of a model that has none")
def _(bench):
    return export_experts(bench, tiny_model("opt"), 25)


@CASES.case("an even export of less than a round")
def _(bench):
    return export(bench, "--percent", 10, "--even")


@CASES.case("an export whose removed heads give what other documents have")
def _(bench):
    return export(bench, "--percent", 50, "--ablation", "resample")


@CASES.case("an export of zeros with documents")
def _(bench):
    return export(bench, "--percent", 50, "--prompts", bench.prompts())


@CASES.case("an export of a model that runs its own code")
def _(bench):
    record = bench.record(with_code(bench), "--trust-remote-code")
    return bench.export(
        "--ranking", bench.ranking(model=json.loads(record.read_text())), "--percent", 50, record=record
    )


@CASES.case("an export of means without documents")
def _(bench):
    return export(bench, "--percent", 50, "--ablation", "mean")


@CASES.case("an export of means of a family without biases")
def _(bench):
    return export(bench, "--percent", 50, "--ablation", "mean", "--prompts", bench.prompts(), model=tiny_model("llama"))


@CASES.case("an export of a family whose heads share a norm")
def _(bench):
    return export(bench, "--percent", 50, model=tiny_of_type("olmo2"))


@CASES.case("an export of other numbers of heads where attention has sinks")
def _(bench):
    return export(bench, "--percent", 10, model=tiny_of_type("granite_swa"))
