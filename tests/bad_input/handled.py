"""What is no error."""

import pytest

from headroom import checkpoints, likelihood
from headroom.artifacts.head_importance import HEAD_IMPORTANCE
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.prompts import PROMPTS
from headroom.artifacts.pruned_eval import PRUNED_EVAL
from headroom.artifacts.store import provenance, read, run_facts
from tests.bad_input.bench import piqa
from tests.bad_input.models import memory_for
from tests.bad_input.page import Cases
from tests.conftest import SENTENCES
from tests.unit.test_prompts import mirror
from tests.workflow.conftest import write_hub_tokenizer

CASES = Cases()


# What is handled.


@CASES.of("a task without training documents")
def _(bench):
    outcome = bench.render(data=mirror(bench.folder / "data", "piqa", validation=piqa(9)), shots=1)
    table = read(bench.folder / "prompts.parquet", PROMPTS).to_pylist()
    assert {row["doc_id"] for row in table if row["purpose"] == "importance"} == {0, 1, 2}
    assert {row["doc_id"] for row in table if row["purpose"] == "evaluation"} == {3, 4, 5, 6, 7, 8}
    return outcome


@CASES.of("documents without a right choice")
def _(bench):
    table = piqa(4, lambda i, row: row | ({"label": -1} if i == 2 else {}))
    outcome = bench.render(data=mirror(bench.folder / "data", "piqa", train=piqa(4), validation=table))
    rows_ = read(bench.folder / "prompts.parquet", PROMPTS).to_pylist()
    assert {row["doc_id"] for row in rows_ if row["purpose"] == "evaluation"} == {0, 1, 3}
    return outcome


@CASES.of("a prompt longer than the window")
def _(bench):
    outcome = bench.prune(prompts=bench.prompts([*SENTENCES[:3], " ".join(SENTENCES * 20)]))
    curve = read(bench.folder / "curves" / "random_1.parquet", PRUNED_EVAL)
    assert curve.column("n_truncated").to_pylist() == [1, 1]
    assert curve.column("n_documents").to_pylist() == [4, 4]
    return outcome


@CASES.of("a tokenizer without merges")
def _(bench):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {name: i for i, name in enumerate(["<unk>", "<s>", *(f"w{i}" for i in range(400))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = bench.checkpoint()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>").save_pretrained(folder)
    out = bench.folder / "induction"
    outcome = bench.headroom(
        "induction", "--model", bench.record(folder), "--sequences", 1, "--device", "cpu", "--out", out
    )
    assert provenance(out / "prefix_matching.parquet")["vocabulary"] == "token id"
    assert read(out / "prefix_matching.parquet", PREFIX_MATCHING).num_rows == 12
    return outcome


@CASES.of("a tokenizer that puts BOS by itself")
def _(bench):
    """The same tokenizer, but one that adds BOS unless told not to: the same scores. Asked for, BOS changes them."""
    plain = bench.score("--token-budget", 100)
    assert plain.status == 0
    expected = read(bench.folder / "scores.parquet", HEAD_IMPORTANCE).column("score").to_pylist()
    folder = bench.checkpoint("automatic")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    write_hub_tokenizer(bench.tokenizer, folder)
    record = bench.record(folder)
    loaded = checkpoints.load(record, device="cpu")
    assert loaded.tokenizer("The lamp")["input_ids"][0] == loaded.tokenizer.bos_token_id
    outcome = bench.score("--token-budget", 100, record=record)
    found = read(bench.folder / "scores.parquet", HEAD_IMPORTANCE).column("score").to_pylist()
    assert found == pytest.approx(expected)
    assert bench.score("--add-bos", record=record).status == 0
    found = read(bench.folder / "scores.parquet", HEAD_IMPORTANCE).column("score").to_pylist()
    assert found != pytest.approx(expected)
    return outcome


@CASES.of("a batch that does not fit the memory")
def _(bench):
    record = bench.record()
    assert bench.prune(record=record).status == 0
    curve = bench.folder / "curves" / "random_1.parquet"
    expected = read(curve, PRUNED_EVAL)
    bench.patch.setattr(likelihood, "predict", memory_for(60, likelihood.predict))
    outcome = bench.prune(record=record)
    assert read(curve, PRUNED_EVAL).equals(expected)
    assert run_facts(curve)["token_budget"] <= 60
    return outcome


@CASES.of("gradients that underflow in float16")
def _(bench):
    def shrink(weights):
        # Of what enters the output embedding, next to nothing reaches the loss.
        weights["model.decoder.final_layer_norm.weight"] *= 1e-5

    outcome = bench.score("--dtype", "float16", record=bench.spoil(shrink))
    assert run_facts(bench.folder / "scores.parquet")["zero_products"] > 0.01
    return outcome
