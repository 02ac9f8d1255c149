"""Checkpoints of quantised weights as sources: the plain weights that they stand for, their content, and refusals."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lm_headroom.errors import HeadroomError
from lm_headroom.models import quantised
from lm_headroom.models.checkpoint_files import digest
from lm_headroom.models.location import WRITTEN_OUT, checkpoint_folder
from lm_headroom.models.resolve import changes_since, resolve
from tests.support.packed_content import PackedContent
from tests.support.paths import ROOT
from tests.support.quantised_models import hflm, ours, write_fp8, write_mxfp4
from tests.support.tiny_models import tiny_model

TORCHAO = Path(os.environ.get("LM_HEADROOM_TORCHAO", ROOT / ".venv" / "torchao"))
ADVICE = "take the checkpoint that it was quantised from"
WRITERS = {
    "fp8": write_fp8,
    # Weights of experts are apart in the file, and one tensor in the model.
    "fp8 experts": lambda folder, tokenizer: write_fp8(folder, tokenizer, "deepseek_v3"),
    "fp8 in one block": lambda folder, tokenizer: write_fp8(folder, tokenizer, block=(128, 128)),
    "mxfp4": write_mxfp4,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_weights_and_log_likelihoods_are_those_that_the_packed_numbers_stand_for(kind, tmp_path, tokenizer):
    expected = WRITERS[kind](tmp_path / "packed", tokenizer)
    record = tmp_path / "results" / "model.json"
    origin = resolve("tiny", str(tmp_path / "packed"), None, record)["origin"]
    assert origin["types"] == kind.split()[0]
    assert origin["sha256"] == digest(tmp_path / "packed")
    folder = checkpoint_folder(record)
    written = load_file(folder / "model.safetensors")
    assert set(written) == set(expected)
    assert [name for name, value in expected.items() if not torch.equal(written[name], value)] == []
    shutil.copytree(folder, tmp_path / "plain")
    save_file(expected, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    witness = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    np.testing.assert_allclose(ours(record), hflm(witness, tokenizer), atol=1e-3)
    names = {path.name for path in (tmp_path / "packed").iterdir()}
    assert {path.name for path in folder.iterdir()} == names | {"lm_headroom.json"}


@pytest.mark.skipif(not TORCHAO.is_dir(), reason=f"torchao is not installed at {TORCHAO}: make torchao installs it")
def test_checkpoints_of_torchao_say_what_hflm_says_of_them(tmp_path, tokenizer):
    tiny_model("llama").float().save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    path = os.pathsep.join([str(ROOT), str(ROOT / "workflow"), str(TORCHAO)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.quantised_models", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    for name in ("int8", "mixed"):
        np.testing.assert_allclose(outcomes[name]["ours"], outcomes[name]["theirs"], atol=1e-3)
        assert np.abs(np.subtract(outcomes[name]["ours"], outcomes["whole"])).max() > 1e-2, "rounding shows"
    assert outcomes["int8"]["origin"]["types"] == "torchao Int8WeightOnlyConfig"
    assert outcomes["mixed"]["origin"]["types"] == "torchao Float8WeightOnlyConfig FqnToConfig IntxWeightOnlyConfig"
    assert "Int8DynamicActivationInt8WeightConfig also rounds what its layers are given" in outcomes["activations"]
    packed = load_file(tmp_path / "int8" / "model.safetensors")
    plain = load_file(tmp_path / "results" / "int8" / WRITTEN_OUT / "model.safetensors")
    stem = "model.layers.1.mlp.up_proj."
    by_hand = packed[f"{stem}_weight_qdata"].float() * packed[f"{stem}_weight_scale"]
    assert torch.equal(plain[f"{stem}weight"], by_hand)


class TestContent(PackedContent):
    """What the record holds of a checkpoint, and when a model is looked at anew."""

    SOURCE, WRITE = "a", write_fp8

    def test_the_checkpoint_lies_beside_the_record_and_outlives_the_packed_one(self):
        assert checkpoint_folder(self.record) == self.record.with_name(WRITTEN_OUT)
        shutil.rmtree("a")
        assert not self.needs()
        assert self.kept()
        assert changes_since(self.record) is None

    def test_the_same_files_elsewhere_give_the_same_record(self):
        before = self.record.read_bytes()
        shutil.copytree("a", "b")
        assert self.needs("b")
        self.resolve("b")
        assert self.record.read_bytes() == before

    def test_touched_files_have_kept_their_content_and_are_not_unpacked_again(self):
        weights = self.record.with_name(WRITTEN_OUT) / "model.safetensors"
        before = self.record.read_bytes(), weights.stat().st_mtime_ns
        Path("a/model.safetensors").touch()
        assert self.needs()
        assert self.kept()
        self.resolve()
        assert not self.needs()
        assert (self.record.read_bytes(), weights.stat().st_mtime_ns) == before

    @pytest.mark.parametrize("changed", ["weights", "tokenizer"])
    def test_other_files_give_another_record(self, changed):
        if changed == "weights":
            write_fp8(Path("a"), self.tokenizer, seed=1)
        else:
            Path("a/chat_template.jinja").write_text("{{ messages[0]['content'] }}")
        assert self.needs()
        assert not self.kept()
        assert "written out from other content than" in changes_since(self.record)
        second = self.resolve()
        assert second["digest"] != self.first["digest"]
        assert second["origin"]["sha256"] != self.first["origin"]["sha256"]
        assert changes_since(self.record) is None


class TestRefusals:
    """Checkpoints that cannot be unpacked: nothing is written."""

    @pytest.fixture(autouse=True)
    def files(self, tmp_path, tokenizer):
        self.folder, self.tokenizer = tmp_path, tokenizer

    def refused(self, message, **settings):
        with pytest.raises(HeadroomError, match=message) as caught:
            resolve("m", str(self.folder / "a"), None, self.folder / "results" / "model.json", **settings)
        assert str(caught.value).startswith("model 'm': ")
        assert not list(self.folder.glob("results/**/*"))

    def test_blocks_that_are_not_whole(self):
        """transformers divides 48 by 2 blocks and scales 24 columns alike, where 32 and 16 were meant."""
        write_fp8(self.folder / "a", self.tokenizer, block=(16, 32))
        self.refused(rf"down_proj.weight in .* has a side of 48 in 2 blocks of 32, and transformers .*; {ADVICE}")

    def test_a_scale_that_is_missing(self):
        name = "model.layers.1.mlp.up_proj.weight"
        write_fp8(self.folder / "a", self.tokenizer, change=lambda weights: weights.pop(f"{name}_scale_inv"))
        self.refused(rf"transformers leaves {name} packed \(float8_e4m3fn\); {ADVICE}")

    def test_numbers_beside_a_weight_that_transformers_does_not_use(self):
        name = "model.layers.1.mlp.up_proj.weight_zero_point"
        write_fp8(self.folder / "a", self.tokenizer, change=lambda weights: weights.update({name: torch.ones(1)}))
        self.refused(f"has {name}, which transformers does not use when it turns fp8 back; {ADVICE}")

    def test_a_weight_that_is_missing(self):
        write_mxfp4(self.folder / "a", self.tokenizer, change=lambda weights: weights.pop("model.norm.weight"))
        self.refused(f"has no weights for model.norm.weight; {ADVICE}")

    def test_other_packed_numbers(self):
        def as_integers(weights):
            weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int8)

        write_fp8(self.folder / "a", self.tokenizer, change=as_integers)
        self.refused(r"up_proj.weight in .* is quantised \(I8\); gradients and projections need plain weights")

    def test_code_of_its_own(self):
        write_fp8(self.folder / "a", self.tokenizer)
        path = self.folder / "a" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModelForCausalLM": "m.Mine"}}))
        self.refused(
            r"\(fp8\), and code of its own \(m.Mine\) is not run to unpack them", allowed=["trust_remote_code"]
        )


def stated(kind, **more):
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_version": 2, "_data": more}}}


@pytest.mark.parametrize(
    "config, message",
    [
        (stated("Int4WeightOnlyConfig"), r"torchao Int4WeightOnlyConfig, quantization_config .*\); gradients and"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, r"torchao int8_weight_only, .*\); gradients"),
        ({"quant_method": "torchao"}, r"\(torchao, quantization_config in config.json\); gradients and projections"),
        (
            stated("FqnToConfig", fqn_to_config={"a": stated("Int8WeightOnlyConfig"), "b": stated("AWQConfig")}),
            r"torchao AWQConfig FqnToConfig Int8WeightOnlyConfig, .*\); gradients and",
        ),
        (stated("Int8WeightOnlyConfig"), r"and torchao, which turns them back, is not installed"),
    ],
)
def test_kinds_of_torchao_that_are_not_served(config, message, monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(HeadroomError, match=message):
        quantised.quantisation_of({"quantization_config": config}, "m")


def test_a_kind_may_be_stated_for_the_language_model_alone():
    config = {"text_config": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}}
    assert quantised.quantisation_of(config, "m").kinds == "fp8"
