"""Uploads of pruned checkpoints and results, from the hub's real client to a hub on loopback."""

import re
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from huggingface_hub import snapshot_download

from lm_headroom.analysis.ranking import as_columns, rank_heads
from lm_headroom.artifacts.catalogue import MANIFEST
from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.artifacts.model_record import write_record
from lm_headroom.artifacts.pruned_checkpoint import digests, read_manifest
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.seal import sealed
from lm_headroom.artifacts.store import write, write_json
from lm_headroom.audit.verify import verify
from lm_headroom.pruned.card import build_card
from lm_headroom.results.frames import load_results
from tests.support.hub import Fault, Site, files_of, run_commands, serve, sha256
from tests.support.paths import ROOT
from tests.support.sound_results import RECORD, write_results

TESTBED = ROOT / "tests" / "induction_testbed" / "checkpoint"
REPOSITORY = "acme/shared"


commands = pytest.fixture(run_commands, scope="module")


class UserSite(Site):
    """A user's folder, and a hub where the token ``writer`` may write for acme."""

    settings: ClassVar = {"HF_TOKEN": "writer", "HF_HUB_DISABLE_XET": "1"}

    def push(self, folder, *options, repository=REPOSITORY, **variables):
        return self.run("push", folder, repository, *options, **variables)

    def at_hub(self, kind="datasets"):
        """Files of the repository's branch."""
        repo = self.hub.repos[f"{kind}/{REPOSITORY}"]
        return {name: text for name, text in repo.commits[repo.refs["main"]].items() if name != ".gitattributes"}

    def card(self, kind="datasets"):
        """Front matter and page of the repository's card."""
        _, front, page = self.at_hub(kind)["README.md"].decode().split("---\n", 2)
        return yaml.safe_load(front), page

    @property
    def writes(self):
        return self.hub.asked("^(POST|PUT)")


@pytest.fixture
def site(tmp_path, commands):
    with serve() as hub:
        hub.writers["writer"] = "acme"
        hub.tokens["reader"] = set()
        yield UserSite(tmp_path, hub, commands)


@pytest.fixture(scope="module")
def export(tmp_path_factory, commands):
    """A pruned checkpoint of a model from a folder."""
    folder = tmp_path_factory.mktemp("export")
    record = folder / "results" / "local" / "model.json"
    done = commands.run(folder, {}, ["resolve-model", "--name", "local", "--source", TESTBED, "--out", record])
    assert done.status == 0, done.err
    content, ranking = read_object(record), folder / "results/local/ranking/heads/aggregate/0shot-seed7.parquet"
    scores = np.random.default_rng(0).random((content["layers"], content["heads"]))
    source = {"step": "steps.aggregate_heads", "code": code_digest("steps.aggregate_heads"), "options": {}}
    origin = {**source, "model": content, "task": "aggregate", "shots": 0, "seed": 7, "inputs": {}}
    write(ranking, RANKING, as_columns(rank_heads(scores), scores), origin)
    words = ["--model", record, "--ranking", ranking, "--percent", 50, "--device", "cpu", "--out", folder / "pruned"]
    done = commands.run(folder, {}, ["export-pruned", *words])
    assert done.status == 0, done.err
    return folder / "pruned"


def of_model_from_hub(export, folder):
    """The same, of a model that the hub gave."""
    shutil.copytree(export, folder)
    manifest = read_manifest(folder)
    manifest["model"] |= {"source": "acme/testbed", "revision": "1" * 40}
    (folder / "README.md").write_text(build_card(manifest))
    del manifest["files"]
    (folder / MANIFEST).unlink()
    write_json(folder / MANIFEST, sealed({**manifest, "files": digests(folder)}))
    return folder


@pytest.fixture(scope="module")
def whole_results(tmp_path_factory):
    """Results of a small study, beside Snakemake's report and hidden files, which stay here."""
    folder = write_results(tmp_path_factory.mktemp("made") / "results")
    (folder / "m" / ".model.json").write_text("/home/me")
    return folder


@pytest.fixture
def results(whole_results, tmp_path):
    """A copy to change."""
    return shutil.copytree(whole_results, tmp_path / "results")


class TestPrunedCheckpoints:
    def test_a_checkpoint_becomes_a_model(self, site, export):
        done = site.push(export)
        assert done.status == 0, done.err
        here = files_of(export)
        assert site.at_hub("models") == here
        listing, address = done.out.rsplit("\n", 2)[:2]
        assert listing.startswith(
            f"{len(here)} files, {sum(map(len, here.values())):,} bytes, for the model acme/shared"
        )
        for name, content in here.items():
            assert re.search(rf"^ +{len(content):,} {re.escape(name)}$", listing, re.MULTILINE)
        assert address.startswith(f"{site.hub.address}/acme/shared/commit/")
        assert len(site.hub.asked("POST .*/commit/")) == 1
        assert not site.hub.repos["models/acme/shared"].private

    def test_weights_may_go_in_chunks(self, site, export):
        """Xet, which the client prefers where its package is installed."""
        done = site.push(export, HF_HUB_DISABLE_XET="")
        assert done.status == 0, done.err
        weights = (export / "model.safetensors").read_bytes()
        pointer = {"model.safetensors": f"{sha256(weights)} {len(weights)}".encode()}
        assert site.at_hub("models") == files_of(export) | pointer
        assert site.hub.asked("POST /v1/xorbs/")
        assert not site.hub.asked("PUT")

    def test_its_card_links_the_base_model_only_if_the_hub_gave_it(self, site, export):
        assert site.push(export).status == 0
        front, page = site.card("models")
        assert "base_model" not in front
        assert front["lm-headroom"]["base"]["source"] is None
        assert "](" not in page
        fetched = of_model_from_hub(export, site.folder / "fetched")
        refused(site.push(fetched), "no such model acme/testbed")
        site.hub.add("models/acme/testbed", files_of(TESTBED))
        assert site.push(fetched).status == 0
        assert site.card("models")[0]["base_model"] == "acme/testbed"

    def test_weights_of_an_earlier_upload_do_not_stay_beside_it(self, site, export):
        assert site.push(export).status == 0
        stale = site.at_hub("models") | {"model-00002-of-00002.safetensors": b"1", "LICENSE": b"2", "picture.png": b"3"}
        site.hub.add(f"models/{REPOSITORY}", stale)
        done = site.push(export)
        assert done.status == 0, done.err
        assert "deleted model-00002-of-00002.safetensors" in done.out
        assert {*stale} - {*site.at_hub("models")} == {"model-00002-of-00002.safetensors"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda folder: (folder / "secret.txt").write_text("1"),
                "holds secret.txt, which is no part of the export",
            ),
            (
                lambda folder: (folder / "model.safetensors").write_bytes(b"1"),
                "model.safetensors, which has changed since",
            ),
            (lambda folder: (folder / "model.safetensors").unlink(), "holds model.safetensors, .* or is gone"),
            (lambda folder: shutil.copytree(folder, folder / "a"), "holds a/.*, which is no part of the export"),
            (lambda folder: (folder / "a").symlink_to("b"), "copy/a: a link that leads nowhere .*; move it away"),
            (
                lambda folder: (folder / "lm_headroom.json").unlink(),
                "is neither a pruned checkpoint .* nor a results folder",
            ),
        ],
    )
    def test_one_that_was_changed_is_refused(self, site, export, change, message):
        folder = shutil.copytree(export, site.folder / "copy")
        change(folder)
        refused(site.push(folder), message)
        assert not site.hub.requests


class TestResults:
    def test_results_become_a_data_set_that_comes_back_as_it_was(self, site, results):
        done = site.push(results, "--private")
        assert done.status == 0, done.err
        here = {name: text for name, text in files_of(results).items() if name != "report.html" and "/." not in name}
        sent = site.at_hub()
        assert {name: text for name, text in sent.items() if name != "README.md"} == here
        assert site.hub.repos[f"datasets/{REPOSITORY}"].private
        options = {"repo_type": "dataset", "cache_dir": site.folder / "cache", "endpoint": site.hub.address}
        back = Path(snapshot_download(REPOSITORY, token="writer", **options))
        frames, expected = load_results(back), load_results(results)
        assert {*frames} == {*expected}
        assert all(frames[kind].equals(expected[kind]) for kind in frames)
        states = {file.path: file.state for file in verify(results)}
        assert {file.path: file.state for file in verify(back)} == states

    def test_each_kind_is_a_configuration_that_names_its_files_alone(self, site, results):
        assert site.push(results).status == 0
        configs = {config["config_name"]: config["data_files"] for config in site.card()[0]["configs"]}
        frames = load_results(results)
        assert {*configs} == {*frames}
        for kind, pattern in configs.items():
            assert set(results.glob(pattern)) == {
                results / file.path for file in verify(results) if file.provenance.get("kind") == kind
            }

    def test_datasets_loads_a_kind_by_its_name(self, site, results):
        assert site.push(results).status == 0
        code = "import datasets; print(datasets.load_dataset('acme/shared', 'cross_shot')['train'].num_rows)"
        done = site.commands.python(site.folder, {"HF_ENDPOINT": site.hub.address, "HF_HOME": "home"}, code)
        assert int(done.out) == len(load_results(results)["cross_shot"]), done.err

    def test_the_card_links_what_the_hub_gave_and_nothing_else(self, site, results):
        assert site.push(results).status == 0
        page = site.card()[1]
        assert "| local |" in page
        assert "](" not in page
        assert "http" not in page
        write_record(results / "m" / "model.json", RECORD | {"source": "acme/testbed", "revision": "1" * 40})
        assert site.push(results).status == 0
        assert f"[acme/testbed](https://huggingface.co/acme/testbed) at [{'1' * 12}]" in site.card()[1]

    def test_pruned_checkpoints_among_them_are_models_of_their_own(self, site, results, export):
        place = "m/pruned/aggregate/heads50-ffns0/0shot-seed7"
        shutil.copytree(export, results / place)
        (results / place / "templates").mkdir()
        (results / place / "templates" / "mine.jinja").write_text("1")
        done = site.push(results, "--dry-run")
        assert done.status == 0, done.err
        assert "safetensors" not in done.out
        assert "jinja" not in done.out

    @pytest.mark.parametrize("name", ["m/notes.txt", "m/capacity/0shot-seed7.parquet"])
    def test_a_file_that_is_not_of_lm_headroom_is_named_and_nothing_sent(self, site, results, name):
        path = results / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("token=1")
        refused(site.push(results), rf"{name} is (damaged|unrecognised): .*; move it away, or make it again")
        assert not site.hub.requests

    @pytest.mark.parametrize("make", ["empty", "checkpoint", "file", "none"])
    def test_another_folder_is_refused(self, site, make):
        folder = site.folder / make
        if make == "checkpoint":
            shutil.copytree(TESTBED, folder)
        elif make == "file":
            folder.write_text("1")
        elif make == "empty":
            folder.mkdir()
        refused(site.push(folder), "expected a pruned|is neither a pruned checkpoint .* nor a results folder")
        assert not site.hub.requests


class TestHub:
    def test_a_dry_run_says_what_would_be_sent_and_asks_nobody(self, site, results):
        done = site.push(results, "--dry-run", HF_TOKEN="")
        assert done.status == 0, done.err
        assert re.match(r"\d+ files, [\d,]+ bytes, for the data set acme/shared on the hub:\n", done.out)
        assert "prompts/piqa/0shot-seed7.parquet" in done.out
        assert not site.hub.requests

    @pytest.mark.parametrize(
        ("token", "repository", "message"),
        [
            ("", REPOSITORY, "the hub takes files from accounts only: 'hf auth login' here, or set HF_TOKEN"),
            ("wrong", REPOSITORY, "the hub does not accept this token"),
            ("reader", REPOSITORY, "this token may not write there: give one that may"),
            ("writer", "other/shared", "this token may not write there: .* or another owner"),
            ("writer", "shared", "no name of a repository on the hub; give owner/name"),
            ("writer", "acme/a--b", "the upload failed .*Cannot have -- or .. in repo_id"),
        ],
    )
    def test_who_may_not_write_is_told(self, site, results, token, repository, message):
        refused(site.push(results, repository=repository, HF_TOKEN=token), message)
        assert not site.hub.repos

    def test_a_repository_with_something_else_is_left_alone(self, site, results):
        before = site.hub.add(f"datasets/{REPOSITORY}", {"README.md": b"# Mine", "data.csv": b"1"})
        refused(site.push(results), "holds data.csv, which lm-headroom did not upload; name a new repository")
        assert site.hub.repos[f"datasets/{REPOSITORY}"].refs["main"] == before

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (Fault("POST .*/commit/", 503, times=9), "the hub is out of order: run again later"),
            (Fault("PUT", 403, times=9), "this token may not write there"),
        ],
    )
    def test_an_upload_that_fails_leaves_nothing_to_be_found(self, site, results, fault, message):
        site.hub.faults.append(fault)
        refused(
            site.push(results), f"acme/shared: the upload failed .*; all of it is on the hub, or nothing: {message}"
        )
        assert not site.at_hub()
        site.hub.faults.clear()
        assert site.push(results).status == 0

    def test_an_answer_that_is_lost_is_no_second_upload(self, site, results):
        site.hub.faults.append(Fault("POST .*/commit/", after=9, reset=True))
        refused(site.push(results), "all of it is on the hub, or nothing: the connection broke off: run again")
        commits = {*site.hub.repos[f"datasets/{REPOSITORY}"].commits}
        assert "README.md" in site.at_hub()
        assert site.push(results).status == 0
        assert {*site.hub.repos[f"datasets/{REPOSITORY}"].commits} == commits

    def test_a_commit_that_came_between_is_not_overwritten(self, site, results):
        assert site.push(results).status == 0

        def commit(method, path):
            if "/preupload/" in path:
                site.hub.on_request = None
                site.hub.add(f"datasets/{REPOSITORY}", {"LICENSE": b"1"})

        site.hub.on_request = commit
        refused(site.push(results), "somebody else committed meanwhile: look at the repository, then push again")
        assert site.at_hub() == {"LICENSE": b"1"}


def refused(done, message):
    assert done.status == 1, (done.out, done.err)
    assert re.search(message, done.err.strip().splitlines()[-1]), done.err
