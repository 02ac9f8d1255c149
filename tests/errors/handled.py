"""What is no error."""

import json

import pytest

from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import provenance, read, run_statistics
from lm_headroom.engine import likelihood, loading
from lm_headroom.models.resolve import digest
from tests.errors.bench import piqa
from tests.errors.models import memory_for, pickled
from tests.errors.page import Cases
from tests.support.checkpoints import write_hub_tokenizer
from tests.support.records import mirror
from tests.support.tiny_models import SENTENCES
from tests.support.workflow_studies import check_same

CASES = Cases()


# What is handled.


@CASES.case("a task without training documents")
def _(bench):
    outcome = bench.render(data=mirror(bench.folder / "data", "piqa", validation=piqa(9)), shots=1)
    table = read(bench.folder / "prompts.parquet", PROMPTS).to_pylist()
    assert {row["doc_id"] for row in table if row["purpose"] == "importance"} == {0, 1, 2}
    assert {row["doc_id"] for row in table if row["purpose"] == "evaluation"} == {3, 4, 5, 6, 7, 8}
    return outcome


@CASES.case("documents without a right choice")
def _(bench):
    table = piqa(4, lambda i, row: row | ({"label": -1} if i == 2 else {}))
    outcome = bench.render(data=mirror(bench.folder / "data", "piqa", train=piqa(4), validation=table))
    rows_ = read(bench.folder / "prompts.parquet", PROMPTS).to_pylist()
    assert {row["doc_id"] for row in rows_ if row["purpose"] == "evaluation"} == {0, 1, 3}
    return outcome


@CASES.case("a prompt longer than the window")
def _(bench):
    outcome = bench.prune(prompts=bench.prompts([*SENTENCES[:3], " ".join(SENTENCES * 20)]))
    curve = read(bench.folder / "curves" / "random_1.parquet", PRUNED_EVAL)
    assert curve.column("n_truncated").to_pylist() == [1, 1]
    assert curve.column("n_documents").to_pylist() == [4, 4]
    return outcome


@CASES.case("a tokenizer without merges")
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
        "score-induction", "--model", bench.record(folder), "--sequences", 1, "--device", "cpu", "--out", out
    )
    assert provenance(out / "prefix_matching.parquet")["vocabulary"] == "token id"
    assert read(out / "prefix_matching.parquet", PREFIX_MATCHING).num_rows == 12
    return outcome


@CASES.case("a tokenizer that puts BOS by itself")
def _(bench):
    """The same tokenizer, but one that adds BOS unless told not to: the same scores where the study wants none."""
    plain = bench.score("--token-budget", 100)
    assert plain.status == 0
    expected = read(bench.folder / "scores.parquet", HEAD_IMPORTANCE).column("score").to_pylist()
    folder = bench.checkpoint("automatic")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    write_hub_tokenizer(bench.tokenizer, folder)
    record = bench.record(folder)
    loaded = loading.load(record, device="cpu")
    assert loaded.tokenizer("The lamp")["input_ids"][0] == loaded.tokenizer.bos_token_id
    out = bench.folder / "scores.parquet"
    assert bench.score("--token-budget", 100, "--add-bos", "false", record=record).status == 0
    assert read(out, HEAD_IMPORTANCE).column("score").to_pylist() == pytest.approx(expected)
    outcome = bench.score("--token-budget", 100, record=record)
    assert read(out, HEAD_IMPORTANCE).column("score").to_pylist() != pytest.approx(expected)
    assert provenance(out)["start_tokens"] == [loaded.tokenizer.bos_token]
    return outcome


@CASES.case("a tokenizer without BOS")
def _(bench):
    """Prompts have none anyway; sequences begin with EOS, and the artifact says so."""
    folder = bench.checkpoint()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "bos_token"}))
    record = bench.record(folder)
    assert loading.load(record, device="cpu").tokenizer.bos_token_id is None
    assert bench.score("--token-budget", 100, record=record).status == 0
    out = bench.folder / "induction"
    outcome = bench.headroom("score-induction", "--model", record, "--sequences", 1, "--device", "cpu", "--out", out)
    assert provenance(out / "copying.parquet")["start_token"].startswith("EOS")
    return outcome


@CASES.case("a cached model of a hub that cannot be reached")
def _(bench):
    bench.unreachable_hub()
    cache = bench.folder / "hub" / "models--facebook--opt-125m"
    bench.patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    commit = "27dcfa74d334bc871f3234de431e71c6eeba5dd6"
    (cache / "snapshots").mkdir(parents=True)
    bench.checkpoint(f"hub/{cache.name}/snapshots/{commit}")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    record = bench.folder / "results" / "model.json"
    outcome = bench.resolve("facebook/opt-125m", record)
    assert json.loads(record.read_text())["revision"] == commit
    return outcome


def scores_of(bench):
    """Head importance as it was written last."""
    return read(bench.folder / "scores.parquet", HEAD_IMPORTANCE).column("score").to_pylist()


@CASES.case("weights in pickles that the study allows")
def _(bench):
    """The same weights, the same scores; the artifact says where they came from."""
    assert bench.score("--token-budget", 100).status == 0
    expected = scores_of(bench)
    record = bench.record(pickled(bench), "--allow-pickle")
    outcome = bench.score("--token-budget", 100, record=record)
    assert scores_of(bench) == pytest.approx(expected)
    assert provenance(bench.folder / "scores.parquet")["model"]["allow_pickle"] is True
    return outcome


OWN_CODE = """
from transformers import OPTForCausalLM


class Mine(OPTForCausalLM):
    pass
"""


def with_code(bench):
    """A checkpoint that brings code of its own for a family that transformers has, too."""
    bench.patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(bench.folder / "modules"))
    bench.patch.syspath_prepend(str(bench.folder / "modules"))
    folder = bench.checkpoint("own", auto_map={"AutoModelForCausalLM": "mine.Mine"})
    (folder / "mine.py").write_text(OWN_CODE)
    return folder


@CASES.case("a checkpoint with code of its own for a known family")
def _(bench):
    """transformers' class computes: the same scores as without that code."""
    assert bench.score("--token-budget", 100).status == 0
    expected = scores_of(bench)
    folder = with_code(bench)
    (folder / "mine.py").write_text("raise AssertionError('run')\n")
    record = bench.folder / "results" / "model.json"
    outcome = bench.resolve(folder, record)
    assert bench.score("--token-budget", 100, record=record).status == 0
    assert scores_of(bench) == pytest.approx(expected)
    assert "trust_remote_code" not in provenance(bench.folder / "scores.parquet")["model"]
    return outcome


@CASES.case("a checkpoint whose own code the study trusts")
def _(bench):
    """Its class computes, and the artifact says so; another line of its code is another model."""
    folder = with_code(bench)
    record = bench.record(folder, "--trust-remote-code")
    loaded = loading.load(record, device="cpu")
    assert type(loaded.model).__name__ == "Mine"
    outcome = bench.score(record=record)
    recorded = provenance(bench.folder / "scores.parquet")["model"]
    assert recorded["trust_remote_code"] is True
    (folder / "mine.py").write_text(OWN_CODE + "\nADDED = 1\n")
    assert digest(folder, code=True) != recorded["digest"]
    return outcome


@CASES.case("a batch that does not fit the memory")
def _(bench):
    record = bench.record()
    assert bench.prune(record=record).status == 0
    curve = bench.folder / "curves" / "random_1.parquet"
    expected = read(curve, PRUNED_EVAL)
    bench.patch.setattr(likelihood, "predict", memory_for(60, likelihood.predict))
    outcome = bench.prune(record=record)
    # Kernels may sum batches of other sizes in another order.
    check_same(read(curve, PRUNED_EVAL), expected, "curve")
    assert run_statistics(curve)["token_budget"] <= 60
    return outcome


@CASES.case("gradients that underflow in float16")
def _(bench):
    def shrink(weights):
        # Of what enters the output embedding, next to nothing reaches the loss.
        weights["model.decoder.final_layer_norm.weight"] *= 1e-5

    outcome = bench.score("--dtype", "float16", record=bench.spoil(shrink))
    assert run_statistics(bench.folder / "scores.parquet")["zero_products"] > 0.01
    return outcome
