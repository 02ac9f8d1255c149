"""All results of a folder as frames: each file's rows are there, with what its place says."""

import shutil

import pandas as pd
import pytest

from lm_headroom import load_results
from lm_headroom.artifacts.store import provenance
from lm_headroom.errors import HeadroomError
from lm_headroom.results.frames import KINDS
from tests.support.small_study import small

DIMENSIONS = ["model", "component", "task", "shots", "seed", "ranking"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small(tmp_path_factory.mktemp("study"))


@pytest.fixture
def results(study, tmp_path):
    shutil.copytree(study.results.parent, tmp_path / "results")
    return tmp_path / "results"


def test_each_file_is_there_with_all_its_rows(study):
    frames = load_results(study.results.parent)
    rows = {}
    for path in study.results.parent.rglob("*.parquet"):
        kind = provenance(path)["kind"]
        rows[kind] = rows.get(kind, 0) + len(pd.read_parquet(path))
    assert {kind: len(frame) for kind, frame in frames.items()} == rows


def test_the_place_of_a_file_is_in_its_rows(study):
    curves = load_results(study.results, ["pruned_eval"])["pruned_eval"]
    assert curves.columns[:6].tolist() == DIMENSIONS
    chosen = curves.query("component == 'ffns' and task == 'copa' and shots == 5 and ranking == 'own'")
    path = study.path("pruned_eval", 5, component="ffns", task="copa", ranking="own")
    pd.testing.assert_frame_equal(
        chosen.drop(columns=DIMENSIONS).reset_index(drop=True),
        pd.read_parquet(path),
    )
    assert set(chosen["model"]) == {"model"}
    assert set(chosen["seed"]) == {7}


def test_hidden_folders_are_left_out(results):
    (results / ".old").mkdir()
    (results / ".old" / "junk.parquet").write_text("junk")
    assert "head_importance" in load_results(results)


def test_results_behind_links_are_there_once(results, tmp_path):
    whole = len(load_results(results)["pruned_eval"])
    (results / "model").rename(tmp_path / "disk")
    (results / "model").symlink_to(tmp_path / "disk")
    (results / "model" / "here").symlink_to(".")
    assert len(load_results(results)["pruned_eval"]) == whole
    shutil.rmtree(tmp_path / "disk")
    with pytest.raises(HeadroomError, match="results/model: a link that leads nowhere"):
        load_results(results)


def test_a_models_folder_is_read_from_within_it(results, monkeypatch):
    monkeypatch.chdir(results / "model")
    assert set(load_results(".")["head_importance"]["model"]) == {"model"}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("head_importance/copa/0shot-seed7.parquet", "head_importance/piqa/0shot-seed7.parquet"),
        ("head_importance/copa/0shot-seed7.parquet", "head_importance/copa/0shot-seed8.parquet"),
        ("pruned_eval/ffns/copa/0shot-seed7/own.parquet", "pruned_eval/heads/copa/0shot-seed7/own.parquet"),
    ],
)
def test_a_file_in_the_place_of_another_is_refused(results, source, target):
    shutil.copy(results / "model" / source, results / "model" / target)
    with pytest.raises(HeadroomError, match=f"{target}: it was made for model/{source}"):
        load_results(results)


def test_results_of_a_model_under_another_name_are_taken(results):
    (results / "model").rename(results / "renamed")
    assert set(load_results(results)["head_importance"]["model"]) == {"renamed"}


@pytest.mark.parametrize(
    "name, message",
    [
        ("model/notes.parquet", "notes.parquet: this Parquet file was not written by lm-headroom"),
        ("model/head_importance/copa/torn.parquet", "torn.parquet: not a readable Parquet file"),
        ("model/elsewhere.parquet", r"elsewhere.parquet: a head_importance artifact belongs at \{model\}/head_imp"),
    ],
)
def test_a_file_that_is_none_of_the_results_is_refused_by_name(results, name, message):
    if "notes" in name:
        pd.DataFrame({"x": [1]}).to_parquet(results / name)
    elif "torn" in name:
        (results / name).write_bytes(b"PAR1 torn")
    else:
        shutil.copy(results / "model/head_importance/copa/0shot-seed7.parquet", results / name)
    with pytest.raises(HeadroomError, match=message):
        load_results(results)


def test_a_folder_without_results_and_an_unknown_kind_are_refused(results, tmp_path):
    with pytest.raises(HeadroomError, match="no artifacts there; expected a results folder"):
        load_results(tmp_path / "nothing")
    absent = min(set(KINDS) - set(load_results(results)))
    with pytest.raises(HeadroomError, match=f"results: no {absent} there; it has .*, head_importance, "):
        load_results(results, [absent])
    with pytest.raises(HeadroomError, match=r"no kind of artifact 'head_importances' \(did you mean 'head_importance'"):
        load_results(results, ["head_importances"])
