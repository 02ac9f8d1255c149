import json
import os
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from headroom.checkpoint_place import checkpoint_folder, is_of_another_source, needs_resolving
from headroom.digest import code_digest
from headroom.errors import HeadroomError
from headroom.models import digest, own_code, resolve, weight_files


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


def test_permissions_are_recorded_where_the_checkpoint_makes_use_of_them(tmp_path):
    everything = ("trust_remote_code", "allow_pickle")
    plain = resolve("plain", str(checkpoint(tmp_path / "plain")), None, tmp_path / "a.json", everything)
    assert not set(everything) & set(plain)
    assert plain["digest"] == resolve("plain", str(tmp_path / "plain"), None, tmp_path / "b.json")["digest"]
    folder = checkpoint(tmp_path / "own")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["mine.Slow", null]}}')
    (folder / "mine.py").write_text("A = 1")
    assert own_code(folder) == ["mine.Slow"]
    record = resolve("own", str(folder), None, tmp_path / "c.json", everything)
    assert record["trust_remote_code"] is record["allow_pickle"] is True
    (folder / "mine.py").write_text("A = 2")
    assert resolve("own", str(folder), None, tmp_path / "c.json", everything)["digest"] != record["digest"]
    untrusted = resolve("own", str(folder), None, tmp_path / "d.json", ["allow_pickle"])
    assert "trust_remote_code" not in untrusted
    (folder / "mine.py").write_text("A = 3")
    again = resolve("own", str(folder), None, tmp_path / "d.json", ["allow_pickle"])
    assert again["digest"] == untrusted["digest"], "code that is not run is no part of the model"


COMMITS = ["27dcfa74d334bc871f3234de431e71c6eeba5dd6", "34de431e71c6eeba5dd627dcfa74d334bc871f32"]
NAME = "facebook/opt-125m"


class TestHub:
    """The hub's client with stand-ins for its answers, and its real cache in a folder of the test."""

    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        # Nobody listens there.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        return tmp_path / "hub" / "models--facebook--opt-125m"

    def cached(self, cache, number=0, ref="main"):
        """A commit's snapshot as the client leaves it; each has other weights."""
        folder = checkpoint(cache / "snapshots" / COMMITS[number], float(number))
        if ref:
            (cache / "refs").mkdir(exist_ok=True)
            (cache / "refs" / ref).write_text(COMMITS[number])
        return folder

    def answers(self, monkeypatch, commits, files):
        """A hub that has these revisions, each with these files; returns the patterns that were asked for."""
        import huggingface_hub
        from huggingface_hub.hf_api import RepoSibling

        asked = []
        info = SimpleNamespace(siblings=[RepoSibling(rfilename=name) for name in files])
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, *a, **k: info)

        def snapshot(name, revision=None, allow_patterns=None, local_files_only=False):
            asked.append((name, revision, allow_patterns))
            return str(commits[revision])

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return asked

    def test_one_format_of_weights_is_fetched_after_the_configuration(self, tmp_path, cache, monkeypatch):
        commit = self.cached(cache)
        files = [
            "config.json",
            "pytorch_model.bin",
            "flax_model.msgpack",
            "model.safetensors",
            "original/a.safetensors",
        ]
        asked = self.answers(monkeypatch, {"main": commit}, files)
        record = resolve("opt", NAME, "main", tmp_path / "model.json")
        assert [(name, revision) for name, revision, _ in asked] == [(NAME, "main")] * 2
        assert asked[0][2] == ["config.json", "*_config.json"]
        assert {"model.safetensors", "*.json"} <= set(asked[1][2])
        assert not {"pytorch_model.bin", "*.py"} & set(asked[1][2])
        assert (record["source"], record["revision"]) == (NAME, COMMITS[0])
        resolve("opt", NAME, "main", tmp_path / "model.json", ["trust_remote_code"])
        assert "*.py" in asked[-1][2]

    def test_pickles_are_refused_before_they_are_fetched(self, tmp_path, cache, monkeypatch):
        asked = self.answers(monkeypatch, {None: self.cached(cache)}, ["config.json", "pytorch_model.bin"])
        with pytest.raises(HeadroomError, match=r"weights in facebook/opt-125m are pickles \(pytorch_model.bin\)"):
            resolve("opt", NAME, None, tmp_path / "model.json")
        assert [patterns for _, _, patterns in asked] == [["config.json", "*_config.json"]]

    def test_revisions_are_recorded_as_commits_and_other_commits_are_other_models(self, tmp_path, cache, monkeypatch):
        folders = {f"step{n}": self.cached(cache, n, ref=None) for n in (0, 1)}
        self.answers(monkeypatch, folders, ["config.json", "model.safetensors"])
        found = [resolve("opt", NAME, f"step{n}", tmp_path / f"{n}.json") for n in (0, 1)]
        assert [record["revision"] for record in found] == COMMITS
        assert found[0]["digest"] != found[1]["digest"]
        # A branch that has moved on.
        self.answers(monkeypatch, {"step0": folders["step1"]}, ["config.json", "model.safetensors"])
        moved = resolve("opt", NAME, "step0", tmp_path / "0.json")
        assert (moved["revision"], moved["digest"]) == (COMMITS[1], found[1]["digest"])

    def test_the_cache_serves_where_the_hub_cannot_be_reached(self, tmp_path, cache, capsys):
        self.cached(cache, ref="step1000")
        started = time.monotonic()
        record = resolve("opt", NAME, "step1000", tmp_path / "model.json")
        assert time.monotonic() - started < 10, "no repetitions against a hub that does not answer"
        assert record["revision"] == COMMITS[0]
        assert f"going on with commit {COMMITS[0]} from the local cache" in capsys.readouterr().err

    def test_the_cache_serves_offline(self, tmp_path, cache, monkeypatch):
        self.cached(cache)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert resolve("opt", NAME, None, tmp_path / "model.json")["revision"] == COMMITS[0]
        assert resolve("opt", NAME, COMMITS[0], tmp_path / "other.json")["revision"] == COMMITS[0]

    def test_the_commit_of_the_record_is_looked_for_where_the_cache_knows_no_branch(self, tmp_path, cache):
        self.cached(cache)
        record = resolve("opt", NAME, None, tmp_path / "model.json")
        (cache / "refs" / "main").unlink()
        assert resolve("opt", NAME, None, tmp_path / "model.json") == record
        with pytest.raises(HeadroomError, match="nor is it in the hub's cache here"):
            resolve("opt", NAME, "step7", tmp_path / "model.json")

    def test_a_download_that_broke_off_is_not_taken_from_the_cache(self, tmp_path, cache):
        (self.cached(cache) / "model.safetensors").unlink()
        with pytest.raises(HeadroomError, match="could not be fetched .* give a local checkpoint folder"):
            resolve("opt", NAME, None, tmp_path / "model.json")
        assert not (tmp_path / "model.json").exists()

    def test_a_hub_that_does_not_answer_is_not_waited_for(self, tmp_path, cache, monkeypatch):
        self.cached(cache)
        monkeypatch.setattr("headroom.hub.ANSWERING", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            started = time.monotonic()
            assert resolve("opt", NAME, None, tmp_path / "model.json")["revision"] == COMMITS[0]
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            ("GatedRepoError", r"model 'facebook/opt-125m' is gated on the hub: accept the terms .* HF_TOKEN; or give"),
            ("RevisionNotFoundError", "model 'facebook/opt-125m' has no revision 'step7' on the hub"),
            ("RepositoryNotFoundError", "no such folder here and no such model on the hub, or it is private"),
        ],
    )
    def test_what_the_hub_refuses(self, tmp_path, cache, monkeypatch, error, message):
        refuse_by_hub(monkeypatch, error)
        with pytest.raises(HeadroomError, match=message):
            resolve("opt", NAME, "step7", tmp_path / "model.json")


def refuse_by_hub(monkeypatch, error):
    """A hub that answers the first question with an error of its client."""
    import httpx2
    from huggingface_hub import HfApi, errors

    def refuse(self, *args, **kwargs):
        raise getattr(errors, error)("no", response=httpx2.Response(403, request=httpx2.Request("GET", "http://hub")))

    monkeypatch.setattr(HfApi, "model_info", refuse)


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

    def needs(self, source="opt", revision=None, code=CODE, allowed=()):
        return needs_resolving(self.record, source, revision, code, allowed)

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
        assert self.needs(allowed=["allow_pickle"])
        assert is_of_another_source(self.record, "opt", None, ["allow_pickle"])
        assert not is_of_another_source(self.record, "opt", None, [])
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
