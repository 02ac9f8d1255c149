import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from headroom.checkpoint_place import checkpoint_folder, is_of_another_source, needs_resolving
from headroom.digest import code_digest
from headroom.errors import HeadroomError
from headroom.models import digest, resolve, weight_files


def checkpoint(folder, weight=0.0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "opt"}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.array([weight])}, folder / "model.safetensors")
    return folder


def test_a_local_folder_becomes_a_record(tmp_path):
    folder = checkpoint(tmp_path / "m")
    record = resolve("tiny", str(folder), None, tmp_path / "out" / "model.json")
    assert json.loads((tmp_path / "out" / "model.json").read_text()) == record
    assert checkpoint_folder(tmp_path / "out" / "model.json") == folder
    assert record["family"] == "opt"
    assert record["digest"] == digest(folder)


def test_the_digest_sees_weights_and_tokenizer_but_not_the_place(tmp_path):
    first, second = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    assert digest(first) == digest(second)
    (second / "README.md").write_text("hello")
    assert digest(first) == digest(second)
    (second / "tokenizer.json").write_text("{ }")
    assert digest(first) != digest(second)
    assert digest(first) != digest(checkpoint(tmp_path / "c", 1.0))


def test_safetensors_are_preferred_to_pickles():
    assert weight_files(["b.safetensors", "pytorch_model.bin", "a.safetensors", "x.h5"]) == [
        "a.safetensors",
        "b.safetensors",
    ]
    assert weight_files(["pytorch_model.bin", "training_args.bin", "x.h5"]) == ["pytorch_model.bin"]
    assert weight_files(["config.json"]) == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "has no config.json; expected a transformers checkpoint folder"),
        ("model.safetensors", r"holds no weights \(\*.safetensors or \*.bin\)"),
        ("tokenizer.json", r"holds no tokenizer \(tokenizer.json or tokenizer_config.json\)"),
    ],
)
def test_incomplete_folders_are_refused(tmp_path, missing, message):
    folder = checkpoint(tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(HeadroomError, match=message):
        resolve("tiny", str(folder), None, tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()


def test_a_source_that_is_neither_folder_nor_hub_name(tmp_path):
    with pytest.raises(HeadroomError, match="neither a folder nor a hub name"):
        resolve("tiny", "./no/such/folder", None, tmp_path / "model.json")


def test_an_unreachable_hub_says_how_to_do_without(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    class TransportError(Exception):
        """What the hub's client raises is no OSError."""

    def refuse(self, *args, **kwargs):
        raise TransportError("no route to host")

    monkeypatch.setattr(HfApi, "list_repo_files", refuse)
    with pytest.raises(
        HeadroomError, match="'facebook/opt-125m': .* could not be fetched .* give a local checkpoint folder"
    ):
        resolve("opt", "facebook/opt-125m", None, tmp_path / "model.json")


def test_a_hub_model_is_fetched_in_one_format_of_weights(tmp_path, monkeypatch):
    """The hub's snapshot is a folder named after its commit, in the same format as a local one."""
    import huggingface_hub

    commit = checkpoint(tmp_path / "snapshots" / "27dcfa74d334bc871f3234de431e71c6eeba5dd6")
    asked = {}
    files = ["config.json", "pytorch_model.bin", "flax_model.msgpack", "model.safetensors", "original/a.safetensors"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, *a, **k: files)

    def snapshot(name, **options):
        asked.update(options, name=name)
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    record = resolve("opt", "facebook/opt-125m", "main", tmp_path / "model.json")
    assert asked["name"] == "facebook/opt-125m"
    assert asked["revision"] == "main"
    assert "model.safetensors" in asked["allow_patterns"]
    assert "pytorch_model.bin" not in asked["allow_patterns"]
    assert record["revision"] == commit.name


class TestMoving:
    """The record says what the model is; where its checkpoint lies may change."""

    CODE = code_digest("models")

    @pytest.fixture
    def results(self, tmp_path, monkeypatch):
        """A study folder with a checkpoint, its record, and something made from it."""
        folder = tmp_path / "study"
        checkpoint(folder / "opt")
        monkeypatch.chdir(folder)
        resolve("tiny", "opt", None, self.record)
        (folder / "results/tiny/ranking/heads/copa").mkdir(parents=True)
        (folder / "results/tiny/ranking/heads/copa/0shot-seed7.parquet").touch()
        return folder

    record = Path("results/tiny/model.json")

    def needs(self, source="opt", revision=None, code=CODE):
        return needs_resolving(self.record, source, revision, code)

    def test_a_folder_beside_the_results_moves_with_them(self, results, tmp_path, monkeypatch):
        assert not self.needs()
        shutil.move(results, tmp_path / "elsewhere")
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert not self.needs()
        assert checkpoint_folder(self.record) == Path("opt")
        assert checkpoint_folder(Path.cwd() / self.record) == tmp_path / "elsewhere" / "opt"

    def test_the_same_checkpoint_elsewhere_leaves_the_record_as_it_is(self, results, tmp_path):
        before = (self.record.read_bytes(), self.record.stat().st_mtime_ns)
        shutil.move("opt", tmp_path / "disk")
        assert self.needs()
        assert self.needs(str(tmp_path / "disk"))
        assert is_of_another_source(self.record, str(tmp_path / "disk"), None)
        resolve("tiny", str(tmp_path / "disk"), None, self.record)
        assert (self.record.read_bytes(), self.record.stat().st_mtime_ns) == before
        assert checkpoint_folder(self.record) == tmp_path / "disk"
        assert not self.needs(str(tmp_path / "disk"))

    def test_what_makes_it_look_again(self, results):
        assert self.needs(revision="main")
        assert self.needs(code="0123")
        (results / "results/tiny/.model.json").unlink()
        assert self.needs()
        assert not is_of_another_source(self.record, "opt", None), "where it came from is not known"
        resolve("tiny", "opt", None, self.record)
        os.utime("opt/model.safetensors", (1, 1))
        assert self.needs()

    def test_a_lost_record_is_made_again_only_where_there_are_results(self, results):
        content = self.record.read_bytes()
        self.record.unlink()
        assert self.needs()
        resolve("tiny", "opt", None, self.record)
        assert self.record.read_bytes() == content
        self.record.unlink()
        shutil.rmtree("results/tiny/ranking")
        assert not self.needs(), "the first record is a rule's"

    def test_another_checkpoint_makes_another_record(self, results):
        content = self.record.read_bytes()
        checkpoint(Path("opt"), 1.0)
        assert self.needs()
        resolve("tiny", "opt", None, self.record)
        assert self.record.read_bytes() != content

    def test_a_checkpoint_that_is_gone_is_named(self, results):
        shutil.rmtree("opt")
        with pytest.raises(HeadroomError, match="not on this machine .opt is no checkpoint any more"):
            checkpoint_folder(self.record)
        with pytest.raises(HeadroomError, match="none has been resolved here"):
            checkpoint_folder(Path("results/other/model.json"))
