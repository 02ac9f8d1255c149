"""Rankings of the user's own, learned masks and criteria that cannot be, on a model of 3 layers x 4 heads."""

from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.store import write
from lm_headroom.study.criteria import CHOOSING
from tests.errors.page import Cases

CASES = Cases()
ROWS = [f"{layer},{head},{4 * layer + head}" for layer in range(3) for head in range(4)]


def rank(bench, source, *options):
    return bench.headroom(
        "rank-custom", "--model", bench.record(), "--prompts", bench.prompts(), "--device", "cpu", "--name", "mine",
        "--source", source, "--out", bench.older("ranking.parquet"), *options,
    )  # fmt: skip


def rank_file(bench, rows, columns="layer,head,score", *options):
    path = bench.folder / "mine.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return rank(bench, path, *options)


def rank_function(bench, body):
    bench.patch.chdir(bench.folder)
    (bench.folder / "mine.py").write_text(f"def scores(loaded, documents):\n    {body}\n")
    return rank(bench, "mine:scores")


@CASES.case("a ranking of your own without a head")
def _(bench):
    return rank_file(bench, ROWS[:-1])


@CASES.case("a ranking of your own with a head twice")
def _(bench):
    return rank_file(bench, [*ROWS, ROWS[0]])


@CASES.case("a ranking of your own of a larger model")
def _(bench):
    return rank_file(bench, [*ROWS, "3,0,1"])


@CASES.case("a ranking of your own with a score that is no number")
def _(bench):
    return rank_file(bench, ["0,0,nan", *ROWS[1:]])


@CASES.case("a ranking of your own without a column")
def _(bench):
    return rank_file(bench, [f"{layer},{layer}" for layer in range(3)], "layer,score")


@CASES.case("a ranking of your own with another column")
def _(bench):
    return rank_file(bench, [f"{row},x" for row in ROWS], "layer,head,score,note")


@CASES.case("a ranking of heads for FFNs")
def _(bench):
    return rank_file(bench, ROWS, "layer,head,score", "--component", "ffns")


@CASES.case("a ranking of your own that is no table")
def _(bench):
    (bench.folder / "mine.parquet").write_bytes(b"no table")
    return rank(bench, bench.folder / "mine.parquet")


@CASES.case("a ranking of your own that was moved away")
def _(bench):
    return rank(bench, bench.folder / "mine.csv")


@CASES.case("a function of your own that fails")
def _(bench):
    return rank_function(bench, "raise ValueError('no scores')")


@CASES.case("a function of your own with scores of another shape")
def _(bench):
    return rank_function(bench, "return [[1.0, 2.0]]")


@CASES.case("a function of your own with scores that are not finite")
def _(bench):
    return rank_function(bench, "return [[float('inf')] * 4] * 3")


@CASES.case("a module without the function that is named")
def _(bench):
    bench.patch.chdir(bench.folder)
    (bench.folder / "mine.py").write_text("def score(loaded, documents):\n    return None\n")
    return rank(bench, "mine:scores")


@CASES.case("prompts without choices for a criterion of choosing")
def _(bench):
    return bench.score("--choosing", prompts=bench.prompts(choices=[" the river"], metric="greedy"))


@CASES.case("scores without those of a criterion of choosing")
def _(bench):
    record, prompts = bench.record(), bench.prompts()
    scores = bench.folder / "scores.parquet"
    columns = {column.name: [0.5] * 12 for column in HEAD_IMPORTANCE.columns} | dict.fromkeys(CHOOSING, [None] * 12)
    columns |= {"layer": [n // 4 for n in range(12)], "head": [n % 4 for n in range(12)]}
    write(scores, HEAD_IMPORTANCE, columns, bench.origin(record))
    return bench.prune("--rankings", "choosing_fisher", "--scores", scores, record=record, prompts=prompts)


@CASES.case("a learned mask that trains too fast")
def _(bench):
    return bench.headroom(
        "learn-mask", "--model", bench.folder / "model.json", "--prompts", bench.folder / "prompts.parquet",
        "--learning-rate", 11, "--out", bench.older("ranking.parquet"),
    )  # fmt: skip
