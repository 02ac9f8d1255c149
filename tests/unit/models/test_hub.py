"""Models and data sets by name, from a hub on loopback to the hub's real clients, each command in its own process."""

import io
import json
import re
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.models.location import checkpoint_folder, needs_resolving
from lm_headroom.models.resolve import digest
from tests.support.checkpoints import checkpoint
from tests.support.gguf_models import tiny_packed
from tests.support.hub import Fault, Site, files_of, run_commands, serve, sha256
from tests.support.quantised_models import write_fp8

STORED = "GET /[0-9a-f]{64}$"
"""Requests for the content of large files."""
NAME = "acme/tiny"


commands = pytest.fixture(run_commands, scope="module")


class UserSite(Site):
    """A folder of a user, with a cache of the hub in it."""

    settings: ClassVar = {"HF_TOKEN": "", "HF_HUB_OFFLINE": ""}

    def resolve(self, *options, source=NAME, **variables):
        words = ["--name", "tiny", "--source", source, "--out", self.record, *options]
        return self.run("resolve-model", *words, **variables)

    def render(self, task="quiz", name="prompts", **variables):
        """Prompts of a task whose YAML names a data set on the hub."""
        text = (
            f"task: {task}\ndataset_path: acme/{task}\noutput_type: multiple_choice\ntraining_split: train\n"
            "validation_split: validation\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
            "doc_to_target: answer\nmetric_list:\n  - metric: acc\n"
        )
        (self.folder / "tasks").mkdir(exist_ok=True)
        (self.folder / "tasks" / f"{task}.yaml").write_text(text)
        out = self.folder / f"{name}.parquet"
        options = ["--task", task, "--shots", 1, "--task-folders", "tasks", "--out", out]
        return out, self.run("render-prompts", *options, **variables)

    @property
    def record(self):
        return self.folder / "results" / "model.json"

    def recorded(self):
        """The record, which must name the commit whose files lie in the checkpoint's folder."""
        record = json.loads(self.record.read_text())
        folder = checkpoint_folder(self.record)
        assert folder.name == record["revision"]
        assert digest(folder) == record["digest"]
        there = files_of(folder)
        commit = self.hub.repos[f"models/{record['source']}"].commits[record["revision"]]
        assert there == {path: commit[path] for path in there}
        return record


@pytest.fixture
def site(tmp_path, commands):
    with serve() as hub:
        yield UserSite(tmp_path, hub, commands)


def tiny(tmp_path, weight=0.0, **more):
    """Files of a tiny checkpoint, and others beside them."""
    return files_of(checkpoint(tmp_path / f"source-{weight}", weight)) | more


def sharded(tmp_path, sizes=(1, 2, 3)):
    """Files of a checkpoint with an index and a shard for each number of thousands of weights."""
    files = tiny(tmp_path)
    del files["model.safetensors"]
    shards = [f"model-{n + 1:05}-of-{len(sizes):05}.safetensors" for n in range(len(sizes))]
    for n, (shard, size) in enumerate(zip(shards, sizes, strict=True)):
        save_file({f"w{n}.weight": np.full(size * 1000, n, dtype=np.float64)}, tmp_path / shard)
        files[shard] = (tmp_path / shard).read_bytes()
    index = {"metadata": {}, "weight_map": {f"w{n}.weight": shard for n, shard in enumerate(shards)}}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}, shards


def refused(done, message):
    """The command ends with one line that says this, since a run of the workflow shows the last line only."""
    assert done.status == 1, done.err
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("lm-headroom ")
    assert re.search(message, line), line


class TestModels:
    """A model by its name on the hub."""

    def test_is_fetched_in_one_format_and_recorded_with_its_commit(self, site, tmp_path):
        other = {"pytorch_model.bin": b"1", "flax_model.msgpack": b"2", "original/a.safetensors": b"3", "a.py": b"4"}
        commit = site.hub.add(f"models/{NAME}", tiny(tmp_path, **other))
        assert site.resolve().status == 0
        assert site.recorded()["revision"] == commit
        assert site.recorded()["source"] == NAME
        assert not {*other} & {*files_of(checkpoint_folder(site.record))}
        assert len(site.hub.asked(STORED)) == 1

    def test_is_fetched_at_a_tag_or_commit(self, site, tmp_path):
        first = site.hub.add(f"models/{NAME}", tiny(tmp_path), "step0")
        site.hub.add(f"models/{NAME}", tiny(tmp_path, 1.0))
        for revision in ("step0", first):
            assert site.resolve("--revision", revision).status == 0
            assert site.recorded()["revision"] == first
            assert site.recorded()["digest"] == digest(tmp_path / "source-0.0")

    def test_is_found_under_the_name_that_it_had_before(self, site, tmp_path):
        site.hub.add(f"models/{NAME}", tiny(tmp_path))
        site.hub.moved["models/tiny"] = f"models/{NAME}"
        assert site.resolve(source="tiny").status == 0
        assert json.loads(site.record.read_text())["source"] == "tiny"

    def test_is_whole_in_shards(self, site, tmp_path):
        files, shards = sharded(tmp_path)
        site.hub.add(f"models/{NAME}", files)
        assert site.resolve().status == 0
        site.recorded()
        assert {*shards} <= {*files_of(checkpoint_folder(site.record))}

    def test_is_refused_before_its_weights_are_fetched(self, site, tmp_path):
        pickled = tiny(tmp_path, **{"pytorch_model.bin": b"1"})
        del pickled["model.safetensors"]
        site.hub.add("models/acme/pickled", pickled)
        quantised = {"config.json": json.dumps({"model_type": "opt", "quantization_config": {"quant_method": "gptq"}})}
        site.hub.add("models/acme/quantised", tiny(tmp_path) | {"config.json": quantised["config.json"].encode()})
        refused(site.resolve(source="acme/pickled"), r"weights in acme/pickled are pickles \(pytorch_model.bin\)")
        refused(site.resolve(source="acme/quantised"), "weights are quantised")
        assert not site.hub.asked(STORED)
        assert not site.record.exists()

    def test_is_planned_for_without_its_weights(self, site, tmp_path):
        site.hub.add("models/acme/gated", tiny(tmp_path), gated=True)
        study = site.folder / "study.yaml"
        study.write_text("models: {tiny: {source: acme/gated}}\ntasks: [copa]\nshots: [0]\n")
        # Prompts are looked for first.
        prompts = site.folder / "results" / "prompts" / "copa" / "0shot-seed1234.parquet"
        prompts.parent.mkdir(parents=True)
        prompts.touch()
        asked = ("plan", "--source", "acme/gated", "--study", study, "--results", site.folder / "results")
        refused(site.run(*asked), "model 'acme/gated' is gated on the hub")
        site.hub.tokens["key"] = {"models/acme/gated"}
        # The repository is only made up.
        refused(site.run(*asked, HF_TOKEN="key"), "model 'acme/gated': no configuration or tokenizer there")
        assert not site.hub.asked(STORED)


class TestGguf:
    """A GGUF file of a repository."""

    @pytest.fixture
    def packed(self, tmp_path, tokenizer):
        """Content of two files, by name; configuration and weights are not beside them."""
        for seed, name in enumerate(("q8.gguf", "other.gguf")):
            tiny_packed(tmp_path / name, tokenizer, seed=seed)
        return {name: (tmp_path / name).read_bytes() for name in ("q8.gguf", "other.gguf")} | {"README.md": b"tiny"}

    def test_is_fetched_alone_and_recorded_with_its_commit(self, site, packed):
        commit = site.hub.add(f"models/{NAME}", packed)
        done = site.resolve(source=f"{NAME}/q8.gguf")
        assert done.status == 0, done.err
        record = json.loads(site.record.read_text())
        assert (record["source"], record["revision"], record["gguf_file"]) == (NAME, commit, "q8.gguf")
        assert record["origin"]["sha256"] == sha256(packed["q8.gguf"])
        assert len(site.hub.asked(STORED)) == 1
        assert not needs_resolving(site.record, f"{NAME}/q8.gguf", None, code_digest("models.resolve"))
        # Without a network, from the cache: the same record.
        before = site.record.read_bytes()
        assert site.resolve(source=f"{NAME}/q8.gguf", HF_HUB_OFFLINE="1").status == 0
        assert site.record.read_bytes() == before
        refused(site.resolve(source=f"{NAME}/other.gguf", HF_HUB_OFFLINE="1"), "nor is it in the hub's cache here")

    def test_is_the_one_of_its_revision_and_folder(self, site, packed):
        first = site.hub.add(f"models/{NAME}", {"q8/a.gguf": packed["q8.gguf"]}, "v1")
        site.hub.add(f"models/{NAME}", {"q8/a.gguf": packed["other.gguf"]})
        assert site.resolve("--revision", "v1", source=f"{NAME}/q8/a.gguf").status == 0
        record = json.loads(site.record.read_text())
        assert (record["revision"], record["gguf_file"]) == (first, "q8/a.gguf")
        assert record["origin"]["sha256"] == sha256(packed["q8.gguf"])

    def test_is_refused_by_name_before_anything_is_fetched(self, site, packed):
        commit = site.hub.add(f"models/{NAME}", packed)
        there = "other.gguf, q8.gguf"
        refused(site.resolve(source=f"{NAME}/q4.gguf"), f"has no file 'q4.gguf' at commit {commit}; it has {there}: ")
        unnamed = rf"GGUF files \({there}\); name one of them, as in 'gguf_file: other.gguf'"
        refused(site.resolve(), f"its repository holds no weights .*, but {unnamed}")
        site.hub.add("models/acme/both", packed | {"config.json": b'{"model_type": "opt"}'})
        refused(site.resolve(source="acme/both"), f"acme/both holds no weights .*, but {unnamed}")
        refused(site.resolve(source=f"{NAME}/q8-00001-of-00002.gguf"), "is one of 2 parts of a GGUF file")
        assert not site.hub.asked(STORED)
        assert not site.record.exists()


def test_a_quantised_checkpoint_is_recorded_with_its_commit(site, tmp_path, tokenizer):
    write_fp8(tmp_path / "packed", tokenizer)
    commit = site.hub.add(f"models/{NAME}", files_of(tmp_path / "packed"))
    done = site.resolve()
    assert done.status == 0, done.err
    record = json.loads(site.record.read_text())
    assert (record["source"], record["revision"]) == (NAME, commit)
    assert record["origin"]["sha256"] == digest(tmp_path / "packed")
    assert not needs_resolving(site.record, NAME, None, code_digest("models.resolve"))


class TestBrokenDownloads:
    """A connection that breaks off, a hub that is out of order."""

    def test_a_file_is_fetched_from_where_it_broke_off(self, site, tmp_path):
        files, shards = sharded(tmp_path, (1, 1500))
        site.hub.add(f"models/{NAME}", files)
        # The client keeps what it has in pieces of 10 MiB.
        piece = 10 * 2**20
        assert len(files[shards[1]]) > piece
        site.hub.faults.append(Fault("GET /" + sha256(files[shards[1]]), after=piece + 99))
        assert site.resolve().status == 0
        assert [request[2].get("Range") for request in site.hub.asked(STORED)].count(f"bytes={piece}-") == 1
        site.recorded()

    def test_the_next_run_fetches_what_is_missing(self, site, tmp_path):
        files, shards = sharded(tmp_path)
        site.hub.add(f"models/{NAME}", files)
        lost = "GET /" + sha256(files[shards[1]])
        site.hub.faults.append(Fault(lost, after=40, reset=True))
        refused(site.resolve(), "the connection broke off: run again; files that are whole are not fetched again")
        # Two of three shards are no checkpoint.
        refused(site.resolve(HF_HUB_OFFLINE="1"), "nor is it in the hub's cache here")
        assert not site.record.exists()
        site.hub.requests.clear()
        assert site.resolve().status == 0
        site.recorded()
        assert len(site.hub.asked(STORED)) == 1
        assert site.hub.asked(lost)

    def test_a_file_that_is_cut_short_is_not_taken_as_whole(self, site, tmp_path):
        """A proxy closes the connection as if it had ended in order."""
        site.hub.add(f"models/{NAME}", tiny(tmp_path))
        site.hub.faults.append(Fault(STORED, after=20, closed=True, times=99))
        refused(site.resolve(), "the connection broke off: run again")
        assert not site.record.exists()

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (Fault("/api", 503, times=9), "the hub is out of order: run again later"),
            (Fault(STORED, 500, times=9), "the hub is out of order: run again later"),
            (
                Fault("/api", 429, {"RateLimit": '"api";r=0;t=200'}, times=9),
                "Retry after 200 seconds.* accepts no more requests for now: run again later, or set HF_TOKEN",
            ),
            (Fault("/api", 200, times=9), "its address .HF_ENDPOINT, .* does not answer as the hub does"),
        ],
    )
    def test_a_hub_that_is_out_of_order(self, site, tmp_path, fault, message):
        site.hub.add(f"models/{NAME}", tiny(tmp_path))
        site.hub.faults.append(fault)
        refused(site.resolve(), message)
        assert not site.record.exists()

    def test_a_moment_of_too_many_requests_is_waited_for(self, site, tmp_path):
        site.hub.add(f"models/{NAME}", tiny(tmp_path))
        site.hub.faults.append(Fault("HEAD", 429, {"Retry-After": "0"}))
        assert site.resolve().status == 0
        site.recorded()


class TestRights:
    """Gated and private models, and tokens."""

    @pytest.fixture
    def site(self, site, tmp_path):
        site.hub.add("models/acme/gated", tiny(tmp_path), gated=True)
        site.hub.add("models/acme/private", tiny(tmp_path), private=True)
        site.hub.tokens.update(reader={"models/acme/gated", "models/acme/private"}, other=set())
        return site

    @pytest.mark.parametrize("source", ["acme/gated", "acme/private"])
    def test_a_token_opens_what_it_may(self, site, source):
        assert site.resolve(source=source, HF_TOKEN="reader").status == 0
        site.recorded()
        stored = site.hub.asked(STORED)
        assert stored
        assert not any(request[2].get("Authorization") for request in stored), "the token is the hub's alone"

    @pytest.mark.parametrize(
        ("source", "token", "message"),
        [
            ("acme/gated", "", "is gated on the hub: accept the terms on the model's page, .* set HF_TOKEN"),
            ("acme/gated", "other", "is gated .* account of this token may not read it: accept .* with that account"),
            ("acme/gated", "wrong", "the hub does not accept this token: correct or remove HF_TOKEN"),
            ("acme/private", "", "no such model on the hub, or it is private: correct the name, .* set HF_TOKEN"),
            ("acme/private", "other", "no such model on the hub, or it is private"),
            ("acme/none", "", "no such model on the hub, or it is private"),
            ("acme/none", "reader", "no such model on the hub, or it is private"),
        ],
    )
    def test_others_are_refused(self, site, source, token, message):
        refused(site.resolve(source=source, HF_TOKEN=token), message)
        assert not site.record.exists()
        assert not site.hub.asked(STORED)

    def test_a_revision_that_is_not_there(self, site):
        refused(site.resolve("--revision", "step7", source="acme/gated"), "no revision 'step7' on the hub")


class TestMovedBranch:
    """A branch that names another commit than it did."""

    @pytest.fixture
    def site(self, site, tmp_path):
        self.old = site.hub.add(f"models/{NAME}", tiny(tmp_path))
        return site

    def move(self, site, tmp_path, **more):
        return site.hub.add(f"models/{NAME}", tiny(tmp_path, 1.0) | more)

    def test_results_stay_those_of_their_commit_until_the_model_is_resolved_again(self, site, tmp_path):
        assert site.resolve().status == 0
        before = site.recorded()
        new = self.move(site, tmp_path)
        site.hub.requests.clear()
        assert not needs_resolving(site.record, NAME, None, code_digest("models.resolve"))
        assert not site.hub.requests, "nobody asks the hub when a run starts"
        assert site.resolve().status == 0
        after = site.recorded()
        # Another record, on which all results depend.
        assert (before["revision"], after["revision"]) == (self.old, new)
        assert before["digest"] != after["digest"]

    def test_a_commit_with_the_same_files_leaves_the_record_as_it_is(self, site, tmp_path):
        assert site.resolve().status == 0
        before = site.record.read_bytes(), site.record.stat().st_mtime_ns
        site.hub.add(f"models/{NAME}", tiny(tmp_path) | {"README.md": b"more"})
        assert site.resolve().status == 0
        assert (site.record.read_bytes(), site.record.stat().st_mtime_ns) == before

    def test_a_new_commit_that_cannot_be_measured_is_refused(self, site, tmp_path):
        assert site.resolve().status == 0
        before = site.record.read_bytes()
        self.move(site, tmp_path, **{"config.json": b'{"model_type": "xglm"}'})
        refused(site.resolve(), "model family 'xglm' is not supported")
        assert site.record.read_bytes() == before

    def test_files_of_two_commits_are_never_mixed(self, site, tmp_path):
        """The branch moves after the first answer."""

        def move(method, path):
            site.hub.on_request = None if "/tree/" in path else site.hub.on_request
            if "/tree/" in path:
                self.move(site, tmp_path)

        site.hub.on_request = move
        assert site.resolve().status == 0
        assert site.recorded()["revision"] == self.old

    def test_what_is_measured_instead_of_it_is_said(self, site, tmp_path):
        """The new commit does not arrive: the old one is named, recorded, and still the branch's without a network."""
        assert site.resolve().status == 0
        for fault in (Fault(STORED, after=9, reset=True), Fault("/tree/", 403)):
            new = self.move(site, tmp_path, **{"vocab.txt": fault.path.encode()})
            site.hub.faults.append(fault)
            done = site.resolve()
            assert done.status == 0, done.err
            assert f"continuing with commit {self.old} from the local cache" in done.err
            assert f"did not give commit {new}" in done.err
            assert site.recorded()["revision"] == self.old
            site.record.unlink()
            assert site.resolve(HF_HUB_OFFLINE="1").status == 0
            assert site.recorded()["revision"] == self.old


class TestOffline:
    """What the cache holds needs no hub."""

    def test_a_model_comes_from_the_cache(self, site, tmp_path):
        commit = site.hub.add(f"models/{NAME}", tiny(tmp_path), "step0")
        assert site.resolve("--revision", "step0").status == 0
        online = site.recorded()
        site.hub.requests.clear()
        for revision in ("step0", commit):
            site.record.unlink()
            done = site.resolve("--revision", revision, HF_HUB_OFFLINE="1")
            assert f"continuing with commit {commit} from the local cache" in done.err
            assert site.recorded() == online
        assert not site.hub.requests
        refused(site.resolve(HF_HUB_OFFLINE="1", source="acme/other"), "nor is it in the hub's cache here")

    def test_the_commit_of_the_record_serves_where_the_cache_knows_no_branch(self, site, tmp_path):
        site.hub.add(f"models/{NAME}", tiny(tmp_path))
        assert site.resolve().status == 0
        (tmp_path / "home" / "hub" / "models--acme--tiny" / "refs" / "main").unlink()
        assert site.resolve(HF_HUB_OFFLINE="1").status == 0
        refused(site.resolve("--revision", "step7", HF_HUB_OFFLINE="1"), "nor is it in the hub's cache here")

    def test_weights_of_another_format_do_not_serve(self, site, tmp_path):
        """Somebody fetched the pickles only: with a network, the same study would measure the other file."""
        from huggingface_hub import snapshot_download

        site.hub.add(f"models/{NAME}", tiny(tmp_path, **{"pytorch_model.bin": b"1"}))
        names = ["*.json", "*.bin"]
        snapshot_download(NAME, cache_dir=tmp_path / "home" / "hub", endpoint=site.hub.address, allow_patterns=names)
        done = site.resolve("--allow-pickle", HF_HUB_OFFLINE="1")
        refused(done, "nor is it in the hub's cache here")


def quiz(questions, word="Which"):
    """A data set: two splits of Parquet files, named as the hub's uploads name them."""

    def split(n):
        out = io.BytesIO()
        columns = {"question": [f"{word} {i}?" for i in range(n)], "choices": [["a", "b"]] * n}
        pq.write_table(pa.table({**columns, "answer": [i % 2 for i in range(n)]}), out)
        return out.getvalue()

    names = {"train": 5, "validation": questions}
    return {f"data/{name}-00000-of-00001.parquet": split(n) for name, n in names.items()}


class TestDataSets:
    """A task whose records are a data set on the hub."""

    def test_prompts_are_made_from_its_commit_and_offline_from_the_same(self, site):
        commit = site.hub.add("datasets/acme/quiz", quiz(4))
        out, done = site.render()
        assert done.status == 0, done.err
        assert provenance(out)["data"] == {"source": "hub", "dataset": "acme/quiz", "revision": commit}
        asked = {row["context"] for row in read(out, PROMPTS).to_pylist() if row["purpose"] == "evaluation"}
        assert {context.splitlines()[-1] for context in asked} == {f"Which {i}?" for i in range(4)}
        site.hub.requests.clear()
        again, done = site.render(name="again", HF_HUB_OFFLINE="1")
        assert done.status == 0, done.err
        assert read(again, PROMPTS).equals(read(out, PROMPTS))
        assert provenance(again)["data"] == provenance(out)["data"]
        assert not site.hub.requests

    def test_a_data_set_that_has_changed_gives_other_prompts_of_another_commit(self, site):
        site.hub.add("datasets/acme/quiz", quiz(4))
        out, _ = site.render()
        commit = site.hub.add("datasets/acme/quiz", quiz(4, "What"))
        again, _ = site.render(name="again")
        assert provenance(again)["data"]["revision"] == commit != provenance(out)["data"]["revision"]
        assert not read(again, PROMPTS).equals(read(out, PROMPTS))

    def test_a_file_that_broke_off_is_fetched_again(self, site):
        commit = site.hub.add("datasets/acme/quiz", quiz(4))
        site.hub.faults += [Fault(STORED, after=400), Fault("HEAD", 429, {"Retry-After": "0"})]
        out, done = site.render()
        assert done.status == 0, done.err
        assert provenance(out)["data"]["revision"] == commit

    @pytest.mark.parametrize(
        ("task", "token", "fault", "message"),
        [
            ("gated", "", None, "gated dataset .* ask for access on its page with your account, .* set HF_TOKEN"),
            ("gated", "other", None, "gated dataset .* ask for access on its page with your account"),
            ("none", "", None, r"Correct dataset_path in its YAML \(acme/none\)"),
            ("quiz", "wrong", None, "the hub does not accept this token"),
            ("quiz", "", Fault(STORED, after=400, reset=True, times=9), "the connection broke off: run again"),
            ("half", "", None, "Compare dataset_path, dataset_name and the splits of its YAML with the data set on"),
        ],
    )
    def test_one_that_does_not_load_says_what_to_do(self, site, task, token, fault, message):
        site.hub.add("datasets/acme/quiz", quiz(4))
        site.hub.add("datasets/acme/gated", quiz(4), gated=True)
        site.hub.add("datasets/acme/half", {path: text for path, text in quiz(4).items() if "train" in path})
        site.hub.tokens.update(other=set())
        site.hub.faults += [fault] if fault else []
        out, done = site.render(task, HF_TOKEN=token)
        refused(done, message)
        assert "Without a network" not in done.err
        assert not out.exists()

    def test_a_token_opens_a_gated_one(self, site):
        site.hub.add("datasets/acme/gated", quiz(4), gated=True)
        site.hub.tokens["reader"] = {"datasets/acme/gated"}
        assert site.render("gated", HF_TOKEN="reader")[1].status == 0

    def test_one_that_is_not_in_the_cache_needs_a_network(self, site):
        _, done = site.render(HF_HUB_OFFLINE="1")
        refused(done, "Without a network, set data.source to embedded or mirror")
