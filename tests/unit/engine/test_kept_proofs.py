"""What was proved at load and is kept: when it spares proofs, and when it must not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lm_headroom.artifacts.seal import is_unchanged, sealed
from lm_headroom.engine import attachment, kept_proofs
from lm_headroom.engine.interventions import Interventions
from lm_headroom.engine.kept_proofs import MOST_KEPT, proofs_file
from lm_headroom.engine.likelihood import encode, log_likelihoods
from lm_headroom.engine.loading import gates_without, load, prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.unembedding import FACTOR
from lm_headroom.errors import HeadroomError
from lm_headroom.models.resolve import resolve
from tests.support.paths import ROOT
from tests.support.tiny_models import SENTENCES, tiny_config, tiny_model

PAIRS = [(i, text, rest) for i, text in enumerate(SENTENCES) for rest in (" the river", " a stone")]


@pytest.fixture(autouse=True)
def _threads():
    """Leave torch the threads that it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def proved(monkeypatch):
    """How often a model was proved so far, as the length of a list."""
    times, original = [], attachment._prove

    def counted(model, *rest):
        original(model, *rest)
        times.append(model.dtype)

    monkeypatch.setattr(attachment, "_prove", counted)
    return times


@pytest.fixture
def record(tmp_path, tokenizer):
    return resolved(tmp_path, tokenizer, tiny_model("llama"))


def resolved(folder, tokenizer, model):
    """The record of a model that was saved as a checkpoint."""
    checkpoint, record = folder / "checkpoint", folder / "results" / "tiny" / "model.json"
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    resolve("tiny", str(checkpoint), None, record)
    return record


def attached(record, dtype="float32", threads=1):
    """A model that was loaded, with its interventions."""
    loaded = load(record, dtype, "cpu", threads)
    _ = loaded.interventions
    return loaded


def rewrite(record, change):
    """Change the kept proofs of a record in a way that their seal does not show."""
    content = json.loads(proofs_file(record).read_text())
    change(content["proofs"])
    proofs_file(record).write_text(json.dumps(sealed({"proofs": content["proofs"]})))


def test_a_checkpoint_is_proved_once(record, proved):
    for _ in range(3):
        attached(record)
    assert proved == [torch.float32]
    kept = json.loads(proofs_file(record).read_text())
    assert is_unchanged(kept)
    assert len(kept["proofs"]) == 1


def test_each_number_format_and_number_of_threads_is_proved_and_kept(record, proved):
    """Kernels differ between them."""
    for _ in range(2):
        attached(record, "float32", 1)
        attached(record, "float64", 1)
        attached(record, "bfloat16", 1)
        attached(record, "bfloat16", 2)
    assert proved == [torch.float32, torch.float64, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("code_digest", lambda *_: "other code"),
        ("versions", lambda packages: dict.fromkeys(packages, "9.9")),
        ("_processor", lambda: "another processor"),
        ("is_at_once", lambda: True),
        ("_devices", lambda _: [": cuda:0 another GPU"]),
    ],
)
def test_other_conditions_prove_again(record, proved, monkeypatch, name, other):
    attached(record)
    with monkeypatch.context() as patch:
        patch.setattr(kept_proofs, name, other)
        attached(record)
        assert len(proved) == 2
        attached(record)
    attached(record)
    assert len(proved) == 2, "both are kept"


def test_instructions_of_the_processor_that_torch_may_not_use_prove_again(record, proved, monkeypatch):
    attached(record)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    attached(record)
    assert len(proved) == 2


def test_conditions_name_what_runs(record):
    conditions = kept_proofs._conditions("abc", attached(record, "bfloat16", 2).model)
    assert conditions["checkpoint"] == "abc"
    assert conditions["dtype"] == "torch.bfloat16"
    assert conditions["threads"] == 2
    assert conditions["devices"] == [": cpu"]
    assert conditions["packages"]["torch"] == torch.__version__
    assert conditions["processor"][2]


def test_parts_on_several_devices_are_named(record, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    model = attached(record).model
    model.hf_device_map = {"model.layers.1": "disk", "model.embed_tokens": 0, "model.layers.0": "cpu"}
    assert kept_proofs._devices(model) == [
        "model.embed_tokens: cuda:0 GPU 0",
        "model.layers.0: cpu",
        "model.layers.1: disk",
    ]


def test_proofs_of_another_checkpoint_are_worth_nothing(record, tmp_path, tokenizer, proved):
    other = resolved(tmp_path / "other", tokenizer, tiny_model("llama", seed=1))
    attached(other)
    shutil.copy(proofs_file(other), proofs_file(record))
    attached(record)
    assert len(proved) == 2


def test_a_checkpoint_that_changed_and_was_resolved_again_is_proved_again(record, tmp_path, tokenizer, proved):
    attached(record)
    resolved(tmp_path, tokenizer, tiny_model("llama", seed=1))
    attached(record)
    assert len(proved) == 2


def test_proofs_move_with_the_results(record, tmp_path, proved):
    attached(record)
    shutil.move(record.parent, tmp_path / "moved")
    attached(tmp_path / "moved" / record.name)
    assert len(proved) == 1


def test_a_weight_that_is_not_the_checkpoints_proves_again(record, proved):
    attached(record)
    loaded = load(record, "float32", "cpu", 1)
    loaded.model.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-3
    _ = loaded.interventions
    assert len(proved) == 2


def test_interventions_that_are_not_exact_are_refused_though_the_model_was_proved(record, monkeypatch):
    attached(record)
    attend = Interventions.attend
    monkeypatch.setattr(Interventions, "attend", lambda *args, **named: attend(*args, **named) * 1.01)
    with pytest.raises(HeadroomError, match="with all heads open the logits differ"):
        attached(record)


def test_what_cannot_be_proved_is_not_kept(record, monkeypatch):
    monkeypatch.setattr(Interventions, "gates", Interventions.layer_inputs)
    with pytest.raises(HeadroomError, match="closing the first layer's heads changes nothing"):
        attached(record)
    assert not proofs_file(record).exists()


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "not text": lambda file: file.write_bytes(b"\xff\xfe\x00" * 9),
    "a list": lambda file: file.write_text("[]"),
    "edited": lambda file: file.write_text(file.read_text().replace('"threads": 2', '"threads": 1')),
    "of other things": lambda file: file.write_text(json.dumps(sealed({"proofs": [1, None, "x"]}))),
    "without proofs": lambda file: file.write_text(json.dumps(sealed({"proofs": {}}))),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_proves_again_and_is_mended(record, proved, damage):
    attached(record, threads=2)
    damage(proofs_file(record))
    attached(record)
    attached(record)
    assert len(proved) == 2


def test_another_outcome_proves_again(record, proved):
    """A kept proof says what the passes gave, which nobody knows who has not run them."""
    attached(record)
    rewrite(record, lambda proofs: proofs[0].update(outcome="0" * 64))
    attached(record)
    attached(record)
    assert len(proved) == 2


def test_a_file_holds_the_newest_proofs_of_several_machines(record, proved, monkeypatch):
    for number in range(MOST_KEPT + 2):
        with monkeypatch.context() as patch:
            patch.setattr(kept_proofs, "_processor", lambda number=number: f"processor {number}")
            attached(record)
    kept = json.loads(proofs_file(record).read_text())["proofs"]
    assert [proof["conditions"]["processor"][2] for proof in kept] == [
        f"processor {number}" for number in range(2, MOST_KEPT + 2)
    ]


def test_results_that_cannot_be_written_are_no_error(record, proved, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("lm_headroom.artifacts.store.tempfile.mkstemp", refuse)
    attached(record)
    attached(record)
    assert len(proved) == 2
    monkeypatch.undo()
    proofs_file(record).mkdir()
    attached(record)
    assert [path.name for path in record.parent.glob(".model.proofs*")] == [proofs_file(record).name]


def test_models_in_memory_are_always_proved(tokenizer, proved):
    for _ in range(2):
        prepare(tiny_model("llama"), tokenizer, {"name": "tiny", "digest": "0" * 64})
    assert len(proved) == 2


BESIDE_EACH_OTHER = """
import os, sys
from pathlib import Path
from lm_headroom.engine import attachment, loading
import transformers.models.llama.modeling_llama

times, prove = [], attachment._prove
attachment._prove = lambda *given: (times.append(1), prove(*given))
# Forked before anything is computed, since they share no threads then, and after what takes seconds to import.
jobs = []
for formats in (["float32", "float64", "float32"], ["float64", "float32", "float64"]):
    jobs.append(os.fork())
    if not jobs[-1]:
        for dtype in formats:
            loading.load(Path(sys.argv[1]), dtype, "cpu", 1).interventions
        os.write(1, f"{len(times)}\\n".encode())
        os._exit(0)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]) for job in jobs))
"""


def test_jobs_beside_each_other_prove_and_keep(record):
    """Each writes the file as a whole; what is left is one of the two, and spares a third the proofs."""
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_EACH_OTHER, str(record)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{ROOT / 'workflow'}"},
    )
    assert done.returncode == 0, done.stderr
    # Each format once by each job, but for what the other has kept before.
    counts = list(map(int, done.stdout.split()))
    assert len(counts) == 2
    assert all(0 <= count <= 3 for count in counts)
    assert is_unchanged(json.loads(proofs_file(record).read_text()))
    attached(record, "float32")
    attached(record, "float64")
    assert len(json.loads(proofs_file(record).read_text())["proofs"]) == 2


def scaled_model():
    """A model whose logits are the output embedding's divided by 8."""
    from transformers import AutoModelForCausalLM, GraniteConfig

    settings = tiny_config("llama", 523).to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "initializer_range", "pad_token_id", "bos_token_id")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        GraniteConfig(**{name: settings[name] for name in names}, eos_token_id=2, logits_scaling=8.0)
    )


@pytest.mark.parametrize("make", [lambda: tiny_model("opt"), lambda: tiny_model("olmoe"), scaled_model])
def test_a_model_that_is_not_proved_again_computes_the_same(tmp_path, tokenizer, proved, make):
    """Bit for bit, with heads, FFNs and experts removed, too; what proofs leave behind is there without them."""
    record = resolved(tmp_path, tokenizer, make())
    first, second = attached(record), attached(record)
    assert len(proved) == 1
    assert getattr(first.model, FACTOR) == getattr(second.model, FACTOR)
    assert list(first.interventions.experts.blocks) == list(second.interventions.experts.blocks)
    assert first.interventions.calls == second.interventions.calls
    for loaded in (first, second):
        loaded.values = [likelihoods(loaded, *removed) for removed in ([], [(1, 2), (0, 0)])]
    np.testing.assert_array_equal(first.values, second.values)
    assert not np.array_equal(*first.values)


def likelihoods(loaded, *heads):
    """Log-likelihoods without these heads, and then without an FFN and an expert, too."""
    documents = encode(PAIRS, loaded.tokenizer, loaded.max_positions)
    interventions = loaded.interventions
    experts = [(1, 3)] if heads and interventions.experts.blocks else []
    with interventions.without_ffns([2] if heads else []), interventions.experts.without(experts):
        return log_likelihoods(loaded, Batches(documents, 512, "cpu"), gates_without(loaded.shape, heads))
