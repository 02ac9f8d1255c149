"""Training of small models: checkpoints that studies can read, the same from an interrupted run."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.train import KEPT, docstrings, train
from lm_headroom.engine.loading import prepare
from lm_headroom.study.reading import read_study
from tests.support.paths import ROOT

TEXTS = [f"Number {i} comes before {i + 1}, and after {i - 1}. " * 4 for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    train(out, TEXTS, kept=(0, 3, 6), batch=2, context=32)
    return out


def weights(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def test_checkpoints_differ_and_are_served(folder):
    first, last = (weights(folder / f"checkpoint-{step}") for step in (0, 6))
    assert not torch.equal(first["lm_head.weight"], last["lm_head.weight"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint-6")
    assert tokenizer.decode(tokenizer(TEXTS[3])["input_ids"]) == TEXTS[3]
    loaded = prepare(AutoModelForCausalLM.from_pretrained(folder / "checkpoint-6"), tokenizer)
    assert loaded.shape.grid == (6, 6)
    assert isinstance(json.loads((folder / "losses.json").read_text()), list)


def test_an_interrupted_run_ends_with_the_same_weights(folder, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(folder, out)
    shutil.rmtree(out / "checkpoint-6")
    train(out, TEXTS, kept=(0, 3, 6), batch=2, context=32)
    whole, resumed = (weights(path / "checkpoint-6") for path in (folder, out))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_docstrings_are_of_the_pinned_packages():
    texts = list(docstrings(["packaging"]))
    assert len(texts) == len(set(texts))
    assert any("version" in text.lower() for text in texts)


def test_the_study_reads_the_checkpoints_that_are_kept():
    models = read_study(ROOT / "workflow" / "studies" / "trained-here.yaml").models
    assert [model.step for model in models.values()] == list(KEPT)
    assert all(model.source == f"../trained/checkpoint-{model.step}" for model in models.values())
