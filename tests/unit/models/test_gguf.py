"""GGUF files as sources: transformers' log-likelihoods of the file, a record of its content, and refusals by name."""

import json
import shutil
from collections import Counter

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from lm_headroom.engine.loading import load
from lm_headroom.errors import HeadroomError
from lm_headroom.models.gguf_files import read_plain
from lm_headroom.models.location import WRITTEN_OUT, checkpoint_folder
from lm_headroom.models.renewal import Renewal, source_of
from lm_headroom.models.resolve import changes_since, resolve
from lm_headroom.planning.plan import chat_of, configuration
from lm_headroom.study.reading import parse_study
from tests.support.checkpoints import checkpoint
from tests.support.gguf_models import tiny_packed
from tests.support.packed_content import PackedContent

TEXT = "Water boils at one hundred degrees."
ADVICE = "take another of the model's GGUF files, or the checkpoint that it was made from"


def log_likelihoods(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits.log_softmax(-1).numpy()


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_log_likelihoods_are_those_of_transformers_own_reader(kind, is_tied, tmp_path, tokenizer):
    model = tiny_packed(tmp_path / "tiny.gguf", tokenizer, kind, tie_word_embeddings=is_tied)
    record = tmp_path / "results" / "model.json"
    assert resolve("tiny", str(tmp_path / "tiny.gguf"), None, record)["family"] == model.config.model_type
    loaded = load(record, device="cpu")
    file = {"gguf_file": "tiny.gguf"}
    witness = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, **file).eval()
    ids = AutoTokenizer.from_pretrained(tmp_path, **file)(TEXT).input_ids
    assert loaded.tokenizer(TEXT).input_ids == ids
    # Attached: the proofs at load have passed.
    assert loaded.interventions.shape.heads == 4
    ours, theirs, whole = (log_likelihoods(each, ids) for each in (loaded.model, witness, model))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # 8 bits: near the model that was quantised, and not the same.
    assert 1e-4 < abs(ours - whole).max() < 1


def test_a_header_is_read_once_for_model_configuration_and_tokenizer(tmp_path, tokenizer, monkeypatch):
    tiny_packed(tmp_path / "a.gguf", tokenizer)
    calls = Counter()

    def counted(name):
        function = getattr(gguf, name)
        monkeypatch.setattr(gguf, name, lambda *arguments: [calls.update([name]), function(*arguments)][1])

    for name in ("GGUFReader", "get_tensor_name_map"):
        counted(name)
    read_plain(tmp_path / "a.gguf")
    assert calls == {"GGUFReader": 1, "get_tensor_name_map": 1}


class TestContent(PackedContent):
    """What the record holds of a file, and when a model is looked at anew."""

    SOURCE, WRITE = "a.gguf", tiny_packed

    def test_the_checkpoint_lies_beside_the_record(self):
        assert checkpoint_folder(self.record) == self.record.with_name(WRITTEN_OUT)
        assert self.first["origin"]["types"] == "F32, Q8_0"
        assert not self.needs()
        assert self.kept()
        assert changes_since(self.record) is None

    def test_the_same_file_elsewhere_gives_the_same_record(self, tmp_path):
        before = self.record.read_bytes()
        shutil.copy("a.gguf", "b.gguf")
        assert self.needs("b.gguf")
        self.resolve("b.gguf")
        assert self.record.read_bytes() == before
        # Written anew, too.
        shutil.rmtree(self.record.with_name(WRITTEN_OUT))
        assert self.needs("b.gguf")
        self.resolve("b.gguf")
        assert self.record.read_bytes() == before

    def test_a_touched_file_has_kept_its_content_and_is_not_written_out_again(self, tmp_path):
        weights = self.record.with_name(WRITTEN_OUT) / "model.safetensors"
        before = self.record.read_bytes(), weights.stat().st_mtime_ns
        (tmp_path / "a.gguf").touch()
        assert self.needs()
        assert self.kept()
        self.resolve()
        assert not self.needs()
        assert (self.record.read_bytes(), weights.stat().st_mtime_ns) == before

    def test_another_file_gives_another_record(self, tmp_path):
        tiny_packed(tmp_path / "a.gguf", self.tokenizer, seed=1)
        assert self.needs()
        assert not self.kept()
        assert "written out from other content than" in changes_since(self.record)
        second = self.resolve()
        assert second["digest"] != self.first["digest"]
        assert second["origin"]["sha256"] != self.first["origin"]["sha256"]
        assert changes_since(self.record) is None

    def test_weights_that_are_written_out_outlive_the_file(self, tmp_path):
        (tmp_path / "a.gguf").unlink()
        assert not self.needs()
        assert self.kept()
        assert changes_since(self.record) is None
        assert load(self.record, device="cpu").shape.layers == 2

    def test_changed_weights_beside_the_record_are_noticed(self):
        config = self.record.with_name(WRITTEN_OUT) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 7.0}))
        assert self.needs()
        self.resolve()
        assert "rope_theta" not in json.loads(config.read_text())
        assert json.loads(self.record.read_text())["digest"] == self.first["digest"]

    def test_a_run_looks_at_a_changed_file_before_it_plans(self, tmp_path):
        study = parse_study({"models": {"m": {"source": "a.gguf"}}})
        model = source_of("m", study.models["m"], "", "")
        renewal = Renewal(tmp_path / "scratch", False, False, print, print)
        record = self.record.relative_to(tmp_path)
        assert not renewal.changes(record, model)
        tiny_packed(tmp_path / "a.gguf", self.tokenizer, seed=1)
        before = self.record.read_bytes()
        assert renewal.changes(record, model), "a dry run says that the model is another"
        assert self.record.read_bytes() == before


def test_a_study_names_a_file_of_a_folder_or_repository(tmp_path):
    studied = parse_study({"models": {"m": {"source": "acme/tiny", "gguf_file": "q8/tiny.gguf", "revision": "v1"}}})
    model = source_of("m", studied.models["m"], "", "")
    assert model.source == "acme/tiny/q8/tiny.gguf"
    assert model.options[:6] == ["--name", "m", "--source", model.source, "--revision", "v1"]
    for wrong in ("tiny.bin", "/a/tiny.gguf", "../tiny.gguf", "a/../tiny.gguf", "-a.gguf"):
        with pytest.raises(HeadroomError, match=r"config key 'models.m.gguf_file'"):
            parse_study({"models": {"m": {"source": "acme/tiny", "gguf_file": wrong}}})
    for source in ("a.gguf", "embedded"):
        with pytest.raises(HeadroomError, match="gguf_file names a file of a folder or repository, and source is"):
            parse_study({"models": {"m": {"source": source, "gguf_file": "b.gguf"}}})


def test_a_plan_reads_the_file_without_its_weights(tmp_path, tokenizer):
    def with_template(writer, tensors):
        writer.add_chat_template("{{ messages[0]['content'] }}")

    packed = tiny_packed(tmp_path / "a.gguf", tokenizer, change=with_template)
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    config, tokens = configuration(str(tmp_path / "a.gguf"))
    assert (config.model_type, config.num_hidden_layers) == ("llama", packed.config.num_hidden_layers)
    assert tokens(TEXT).input_ids
    model = {"source": str(tmp_path), "gguf_file": "a.gguf", "chat_template": True}
    assert chat_of(parse_study({"models": {"m": model}}), str(tmp_path / "a.gguf"), tokens)


class TestRefusals:
    """Files that cannot be measured: nothing is written."""

    def refused(self, tmp_path, source, message):
        out = tmp_path / "results" / "model.json"
        with pytest.raises(HeadroomError, match=message):
            resolve("m", str(source), None, out)
        assert not list(tmp_path.glob("results/**/*"))

    def test_a_file_that_is_not_there(self, tmp_path):
        self.refused(
            tmp_path, tmp_path / "a.gguf", r"model 'm': there is no file '.*a.gguf'; correct the path, or name"
        )
        (tmp_path / "b.gguf").write_bytes(b"GGUF")
        self.refused(tmp_path, tmp_path / "a.gguf", r"there is no file '.*a.gguf'; its folder has b.gguf; correct")
        self.refused(tmp_path, "no-such-folder/a.gguf", "there is no file 'no-such-folder/a.gguf'; correct")

    def test_a_folder_of_files_without_a_name(self, tmp_path, tokenizer):
        for name in ("a", "b"):
            tiny_packed(tmp_path / f"{name}.gguf", tokenizer)
        named = r"holds no weights .*, but GGUF files \(a.gguf, b.gguf\); name one of them, as in 'gguf_file: a.gguf'"
        self.refused(tmp_path, tmp_path, named)
        checkpoint(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        self.refused(tmp_path, tmp_path, named)

    def test_a_part_of_a_file(self, tmp_path, tokenizer):
        merge = r"\('llama-gguf-split --merge FIRST_PART WHOLE.gguf' of llama.cpp"
        self.refused(tmp_path, tmp_path / "a-00001-of-00003.gguf", f"one of 3 parts of a GGUF file.* {merge}")
        tiny_packed(tmp_path / "a.gguf", tokenizer, change=lambda writer, tensors: writer.add_uint16("split.count", 2))
        self.refused(tmp_path, tmp_path / "a.gguf", f"one of 2 parts of a GGUF file.* {merge}")

    def test_numbers_that_transformers_cannot_read(self, tmp_path, tokenizer):
        def as_integers(writer, tensors):
            tensors["blk.0.attn_norm.weight"] = (np.ones(32, np.int32), None)

        tiny_packed(tmp_path / "a.gguf", tokenizer, change=as_integers)
        kind = f"blk.0.attn_norm.weight in .*a.gguf is quantised as I32, which transformers cannot turn .*; {ADVICE}"
        self.refused(tmp_path, tmp_path / "a.gguf", kind)

    @pytest.mark.parametrize("share", [0.0005, 0.1, 0.3, 0.9, 0.99])
    def test_a_file_cut_short(self, share, tmp_path, tokenizer):
        tiny_packed(tmp_path / "a.gguf", tokenizer)
        content = (tmp_path / "a.gguf").read_bytes()
        (tmp_path / "a.gguf").write_bytes(content[: int(share * len(content))])
        self.refused(
            tmp_path, tmp_path / "a.gguf", r"a.gguf cannot be read as GGUF .* is cut short or damaged, or newer"
        )

    def test_a_family_that_transformers_does_not_read(self, tmp_path, tokenizer):
        def rename(writer, tensors):
            writer.kv_data[0]["general.architecture"].value = "plamo"

        tiny_packed(tmp_path / "a.gguf", tokenizer, change=rename)
        self.refused(
            tmp_path, tmp_path / "a.gguf", f"transformers cannot read .*architecture plamo is not .*; {ADVICE}"
        )

    def test_a_weight_that_is_missing(self, tmp_path, tokenizer):
        tiny_packed(tmp_path / "a.gguf", tokenizer, change=lambda writer, tensors: tensors.pop("blk.1.ffn_up.weight"))
        self.refused(tmp_path, tmp_path / "a.gguf", rf"has no weights for model.layers.1.mlp.up_proj.weight; {ADVICE}")


def test_tensors_that_the_reader_leaves_out_are_named(tmp_path, tokenizer, capfd):
    def with_factors(writer, tensors):
        tensors["rope_freqs.weight"] = (np.ones(4, np.float32), None)

    tiny_packed(tmp_path / "a.gguf", tokenizer, change=with_factors)
    resolve("m", str(tmp_path / "a.gguf"), None, tmp_path / "results" / "model.json")
    assert "leaves out rope_freqs.weight of" in capfd.readouterr().err
    tiny_packed(tmp_path / "a.gguf", tokenizer)
    resolve("m", str(tmp_path / "a.gguf"), None, tmp_path / "results" / "model.json")
    assert "leaves out" not in capfd.readouterr().err
