"""Experts that are asked for and cannot be pruned."""

from tests.errors.page import Cases
from tests.support.tiny_models import tiny_model

CASES = Cases()


def score(bench, level, record=None):
    """Importance of experts, and a curve with so many percent pruned."""
    return bench.headroom(
        "score-experts", "--model", record or bench.record(), "--prompts", bench.prompts(), "--device", "cpu",
        "--levels", level, "--out", bench.older("scores.parquet"), "--ranking", bench.older("ranking.parquet"),
        "--curve", bench.older("own.parquet"),
    )  # fmt: skip


@CASES.case("experts of a model that has none")
def _(bench):
    return score(bench, 50)


@CASES.case("more experts pruned than layers can lose")
def _(bench):
    return score(bench, 75, bench.record(bench.save(tiny_model("olmoe"))))


@CASES.case("experts pruned behind a router over groups")
def _(bench):
    return score(bench, 25, bench.record(bench.save(tiny_model("deepseek_v3"))))
