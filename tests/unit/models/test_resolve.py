import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.errors import HeadroomError
from lm_headroom.models import resolve as resolve_module
from lm_headroom.models.location import (
    checkpoint_folder,
    has_kept_content,
    has_other_source,
    location_file,
    needs_resolving,
    read_location,
)
from lm_headroom.models.resolve import changes_since, digest, own_code, resolve
from lm_headroom.models.sequences import longest_input
from tests.support.checkpoints import checkpoint


def test_a_local_folder_becomes_a_record(tmp_path):
    folder = checkpoint(tmp_path / "m")
    record = resolve("tiny", str(folder), None, tmp_path / "out" / "model.json")
    assert read_record(tmp_path / "out" / "model.json") == record
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


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "has no config.json; expected a transformers checkpoint folder"),
        (
            "model.safetensors",
            r"holds no weights that transformers loads \(model.safetensors or model.safetensors.index.json or "
            r"pytorch_model.bin or pytorch_model.bin.index.json\)",
        ),
        (
            "tokenizer.json",
            r"holds no tokenizer \(tokenizer.json or tokenizer_config.json, \*.model, or vocab.json with merges.txt\)",
        ),
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


COMMIT = "27dcfa74d334bc871f3234de431e71c6eeba5dd6"


class TestSilentHub:
    """The hub's real client, and an address where nobody says anything; tests/unit/models/test_hub.py has a hub."""

    @pytest.fixture(autouse=True)
    def cached(self, tmp_path, monkeypatch):
        """A commit as the client leaves it in its cache."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        # Otherwise the client asks once a day for a list of its own.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
        folder = tmp_path / "hub" / "models--facebook--opt-125m"
        checkpoint(folder / "snapshots" / COMMIT)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)

    def test_a_hub_that_cannot_be_reached_is_asked_once(self, tmp_path, monkeypatch, capsys):
        # Nobody listens there.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        waits = []
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
        assert resolve("opt", "facebook/opt-125m", None, tmp_path / "model.json")["revision"] == COMMIT
        assert waits == [], "no repetitions against a hub that does not answer"
        assert f"continuing with commit {COMMIT} from the local cache" in capsys.readouterr().err

    def test_a_hub_that_does_not_answer_is_not_waited_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr("lm_headroom.models.hub.ANSWERING", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            assert resolve("opt", "facebook/opt-125m", None, tmp_path / "model.json")["revision"] == COMMIT
            silent.setblocking(False)
            silent.accept()[0].close()
            with pytest.raises(BlockingIOError):
                silent.accept()


class TestMoving:
    """The record says what the model is; where its checkpoint lies may change."""

    CODE = code_digest("models.resolve")

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
        assert has_other_source(self.record, str(tmp_path / "disk"), None)
        resolve("tiny", str(tmp_path / "disk"), None, self.record)
        assert (self.record.read_bytes(), self.record.stat().st_mtime_ns) == before
        assert checkpoint_folder(self.record) == tmp_path / "disk"
        assert not self.needs(str(tmp_path / "disk"))

    def test_what_makes_it_look_again(self, results):
        assert self.needs(revision="main")
        assert self.needs(code="0123")
        assert self.needs(allowed=["allow_pickle"])
        assert has_other_source(self.record, "opt", None, ["allow_pickle"])
        assert not has_other_source(self.record, "opt", None, [])
        (results / "results/tiny/.model.json").unlink()
        assert self.needs()
        assert not has_other_source(self.record, "opt", None), "where it came from is not known"
        resolve("tiny", "opt", None, self.record)
        os.utime("opt/model.safetensors", (1, 1))
        assert self.needs()

    def test_a_dry_run_reads_what_has_other_times_instead_of_resolving_it(self, results):
        """It may write nothing, and would ask a process that imports torch at each parse."""

        def same(source="opt", code=self.CODE, allowed=()):
            return has_kept_content(self.record, source, None, code, allowed)

        os.utime("opt/model.safetensors", (1, 1))
        files = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")}
        assert self.needs()
        assert same()
        assert {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")} == files, "nothing is written"
        assert not same(source="elsewhere")
        assert not same(code="0123")
        assert not same(allowed=["allow_pickle"])
        with Path("opt/model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")
        assert not same()
        resolve("tiny", "opt", None, self.record)
        Path("opt/config.json").write_text("{")
        assert not same()
        self.record.unlink()
        assert not same()

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
        with pytest.raises(HeadroomError, match="not on this machine .opt is no longer a checkpoint"):
            checkpoint_folder(self.record)
        with pytest.raises(HeadroomError, match="none has been resolved here"):
            checkpoint_folder(Path("results/other/model.json"))


DAMAGE = {
    "no JSON": b"{'a': 1}",
    "no UTF-8": '{"a": "é"}'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a list": b"[1, 2]",
    "a number": b"5",
    "null": b"null",
    "empty": b"",
    "too deep": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "lm_headroom.json", "model.safetensors.index.json"]
)
def test_files_of_a_checkpoint_that_are_no_settings(tmp_path, file, damage):
    folder = checkpoint(tmp_path / "m")
    if file.endswith(".index.json"):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / file).write_bytes(DAMAGE[damage])
    with pytest.raises(
        HeadroomError, match=rf"^model 'tiny': .*{file} is not a JSON object of settings \(.*\); fetch the check"
    ):
        resolve("tiny", str(folder), None, tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": ["opt"]}, "config.json: model_type is list, expected text"),
        ("config.json", {"model_type": {"a": {"b": 1}}}, "config.json: model_type is dict, expected text"),
        ("config.json", {"model_type": 5}, "config.json: model_type is int, expected text"),
        ("config.json", {}, "its family None is no causal language model"),
        ("config.json", {"model_type": "opt", "auto_map": {"AutoConfig": 5}}, "auto_map names int as code, expected"),
        ("config.json", {"model_type": "opt", "auto_map": [{"a": 1}]}, "auto_map names dict as code, expected text"),
        ("config.json", {"model_type": "opt", "hidden_size": "24"}, "the configuration in .* cannot be used"),
        ("config.json", {"model_type": "opt", "hidden_size": [24]}, "the configuration in .* cannot be used"),
        ("config.json", {"model_type": "opt", "num_hidden_layers": 1.5}, "the configuration in .* cannot be used"),
        ("config.json", {"model_type": "opt", "quantization_config": 8}, "its weights are quantised .8, "),
        ("config.json", {"model_type": "opt", "text_config": {"quantization_config": {}}, "quantization_config": "x"},
         "its weights are quantised .x, "),
        ("config.json", {"model_type": "gemma3", "text_config": {"quantization_config": {"quant_method": "gptq"}}},
         "its weights are quantised .gptq, "),
        ("lm_headroom.json", {"licence": 5}, "lm_headroom.json: 'licence' is int, expected text"),
        ("lm_headroom.json", {"note": {"a": {"b": []}}}, "lm_headroom.json: 'note' is dict, expected text"),
        ("lm_headroom.json", {"package": None}, "lm_headroom.json: 'package' is NoneType, expected text"),
    ],
)  # fmt: skip
def test_settings_of_another_shape(tmp_path, file, content, message):
    folder = checkpoint(tmp_path / "m")
    (folder / file).write_text(json.dumps(content))
    for allowed in ((), ("trust_remote_code",)):
        with pytest.raises(HeadroomError, match=message) as caught:
            resolve("tiny", str(folder), None, tmp_path / "model.json", allowed)
        assert str(caught.value).startswith("model 'tiny': ")


@pytest.mark.parametrize("damage", DAMAGE)
def test_records_and_places_that_are_none(tmp_path, damage):
    folder, record = checkpoint(tmp_path / "m"), tmp_path / "tiny" / "model.json"
    resolved = resolve("tiny", str(folder), None, record)
    place = record.with_name(".model.json")
    content = record.read_bytes()
    place.write_bytes(DAMAGE[damage])
    assert needs_resolving(record, str(folder), None, code_digest("models.resolve"))
    with pytest.raises(HeadroomError, match="not on this machine .none has been resolved here"):
        checkpoint_folder(record)
    record.write_bytes(DAMAGE[damage])
    with pytest.raises(HeadroomError, match="model.json: not a model record"):
        read_record(record)
    assert resolve("tiny", str(folder), None, record) == resolved
    assert record.read_bytes() == content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 5), ("digest", None), ("digest", ["a"]), ("layers", "3"), ("heads", [4]), ("family", {}),
        ("origin", "x"), ("source", 1), ("revision", {}),
    ],
)  # fmt: skip
def test_records_of_another_shape(tmp_path, key, value):
    record = tmp_path / "model.json"
    resolved = resolve("tiny", str(checkpoint(tmp_path / "m")), None, record)
    record.write_text(json.dumps(resolved | {key: value}))
    with pytest.raises(HeadroomError, match=f"model.json: not a model record, as its {key} is"):
        read_record(record)


@pytest.mark.parametrize("sizes", [[], "x", {"layers": "3"}, {"layers": [1]}, {"layers": True}, {"layers": 1.5}])
def test_places_of_another_shape_are_none(tmp_path, sizes):
    record = tmp_path / "model.json"
    resolve("tiny", str(checkpoint(tmp_path / "m")), None, record)
    place = record.with_name(".model.json")
    place.write_text(json.dumps(json.loads(place.read_text()) | {"sizes": sizes}))
    assert read_location(record) == {}
    assert needs_resolving(record, str(tmp_path / "m"), None, code_digest("models.resolve"))


@pytest.mark.parametrize(
    "source",
    ["-x", "--help", "a--b", "a..b", "a/-b", "a/b/c", "a.git", "/no/such", "./x", "~nobody-of-this-name/x", "", " ",
     "a b", "x" * 300, "x" * 5000, "a/" + "b" * 97, "ä/b", "a\nb", "a\0b", "a/b\n", "$(x)", "`x`", "{x}", "a;b"],
)  # fmt: skip
def test_sources_that_are_neither_folders_nor_names(tmp_path, monkeypatch, source):
    def never(*arguments, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("lm_headroom.models.resolve.fetch", never)
    with pytest.raises(HeadroomError, match="^model 'tiny': .* is neither a folder nor a hub name such as facebook/"):
        resolve("tiny", source, None, tmp_path / "model.json")


def test_a_folder_with_any_name_is_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-x", "a--b", "with space", "ä", "$(x)"):
        checkpoint(tmp_path / name)
        assert resolve("tiny", name, None, tmp_path / "results" / "model.json")["family"] == "opt"


class TestContent:
    """A record is of the checkpoint's content, whatever its files' sizes and times say."""

    def needs(self, record, folder, allowed=()):
        return needs_resolving(record, str(folder), None, code_digest("models.resolve"), allowed)

    @pytest.fixture
    def resolved(self, tmp_path):
        folder, record = checkpoint(tmp_path / "m"), tmp_path / "tiny" / "model.json"
        resolve("tiny", str(folder), None, record)
        assert not self.needs(record, folder)
        return folder, record

    def in_place(path):
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")

    def by_another_file(path):
        content = path.read_bytes()
        path.with_name("other").write_bytes(content[:-1] + b"\x01")
        path.with_name("other").replace(path)

    def by_a_link(path):
        by = path.parent.with_name("other")
        by.write_bytes(path.read_bytes()[:-1] + b"\x01")
        path.unlink()
        path.symlink_to(by)

    @pytest.mark.parametrize("change", [in_place, by_another_file, by_a_link])
    def test_a_file_of_the_same_size_and_time_is_noticed(self, resolved, change):
        folder, record = resolved
        path = folder / "model.safetensors"
        before, content = path.stat(), record.read_bytes()
        change(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert self.needs(record, folder)
        assert "digest is" in changes_since(record)
        resolve("tiny", str(folder), None, record)
        assert record.read_bytes() != content
        assert changes_since(record) is None

    def test_helpers_of_own_code_in_sub_folders_are_noticed(self, tmp_path):
        folder, record = checkpoint(tmp_path / "m"), tmp_path / "tiny" / "model.json"
        (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["mine.Slow", null]}}')
        (folder / "deep" / "er").mkdir(parents=True)
        for name in ("mine.py", "deep/er/helper.py"):
            (folder / name).write_text("A = 1")
        before = resolve("tiny", str(folder), None, record, ["trust_remote_code"])["digest"]
        assert not self.needs(record, folder, ["trust_remote_code"])
        (folder / "deep/er/helper.py").write_text("A = 2")
        assert self.needs(record, folder, ["trust_remote_code"])
        assert "digest is" in changes_since(record)
        assert resolve("tiny", str(folder), None, record, ["trust_remote_code"])["digest"] != before
        (folder / "deep/er/new.py").write_text("A = 2")
        assert self.needs(record, folder, ["trust_remote_code"])

    @pytest.mark.parametrize("edit", [{"digest": "0" * 64}, {"layers": 7}, {"family": "gpt2"}, {"origin": {"a": "b"}}])
    def test_an_edited_record_is_made_again(self, resolved, edit):
        folder, record = resolved
        content = record.read_bytes()
        record.write_text(json.dumps(json.loads(content) | edit))
        assert self.needs(record, folder)
        assert next(iter(edit)) in changes_since(record)
        resolve("tiny", str(folder), None, record)
        assert record.read_bytes() == content
        assert not self.needs(record, folder)

    def test_judging_writes_nothing_and_needs_no_checkpoint(self, resolved, monkeypatch):
        folder, record = resolved
        monkeypatch.setattr("lm_headroom.artifacts.content.SMALL", 0)
        before = {path: path.stat() for path in record.parent.iterdir()}
        assert changes_since(record) is None
        assert {path: path.stat() for path in record.parent.iterdir()} == before
        folder.rename(folder.with_name("elsewhere"))
        assert changes_since(record) is None, "it is not on this machine"

    def test_a_checkpoint_that_is_as_it_was_is_not_measured_again(self, resolved, monkeypatch):
        measured = []
        sizes_of = resolve_module._sizes

        def measure(*arguments):
            measured.append(arguments)
            return sizes_of(*arguments)

        monkeypatch.setattr(resolve_module, "_sizes", measure)
        assert changes_since(resolved[1]) is None
        assert not measured
        monkeypatch.setattr(resolve_module, "versions", lambda names: dict.fromkeys(names, "0.1"))
        assert changes_since(resolved[1]) is None
        assert len(measured) == 1, "another transformers may find other sizes"

    @pytest.mark.parametrize("key", ["layers", "d_mlp"])
    def test_sizes_that_were_edited_are_noticed(self, resolved, key):
        place = location_file(resolved[1])
        content = json.loads(place.read_text())
        content["sizes"][key] += 1
        place.write_text(json.dumps(content))
        assert "the sizes beside it are not those of" in changes_since(resolved[1])

    def test_a_checkpoint_that_is_damaged_since_is_said(self, resolved):
        folder, record = resolved
        (folder / "model.safetensors").write_bytes(b"short")
        assert "is not a whole safetensors file" in changes_since(record)


class TestWindow:
    """What follows from a configuration is said when the model is resolved, before any job."""

    def folder(self, tmp_path, window):
        folder = checkpoint(tmp_path / "m")
        settings = {"model_type": "opt", "max_position_embeddings": window, "hidden_size": 24, "num_attention_heads": 4}
        (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 2, "vocab_size": 50}))
        return str(folder)

    def test_a_window_of_eight_tokens(self, tmp_path):
        with pytest.raises(
            HeadroomError, match="^model 'tiny': its context window holds 8 tokens, but each model is checked on 12"
        ):
            resolve("tiny", self.folder(tmp_path, 8), None, tmp_path / "model.json")
        assert not (tmp_path / "model.json").exists()
        resolve("tiny", self.folder(tmp_path, 12), None, tmp_path / "model.json")

    @pytest.mark.parametrize(("window", "bos", "most"), [(256, True, 20), (893, True, 100), (892, False, 100)])
    def test_a_window_too_short_for_induction_sequences(self, tmp_path, window, bos, most):
        folder, out = self.folder(tmp_path, window), tmp_path / "model.json"
        resolve("tiny", folder, None, out, (), most, bos)
        assert longest_input(most, bos) <= window < longest_input(most + 1, bos)
        message = (
            f"^model 'tiny': an input of .* tokens, the longest of {most + 1} induction sequences, does not fit its "
            f"context window of {window}; set induction.sequences to at most {most}, or to 0 to leave induction out"
        )
        with pytest.raises(HeadroomError, match=message):
            resolve("tiny", folder, None, out, (), most + 1, bos)

    def test_a_window_too_short_for_the_first(self, tmp_path):
        folder, out = self.folder(tmp_path, 100), tmp_path / "model.json"
        with pytest.raises(HeadroomError, match="set induction.sequences to 0 to leave induction out: none fits"):
            resolve("tiny", folder, None, out, (), 100)
        resolve("tiny", folder, None, out, (), 0)
