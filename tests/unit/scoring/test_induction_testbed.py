"""A model that is known to have induction heads: the scores find them, and it needs them and no others.

The checkpoint is made by ``python -m tests.induction_testbed.train``. Only some heads of its second layer were trained:
the induction heads. They read what the previous-token head of the first layer wrote, so that one is part of the same
circuit although it matches no prefix; random others are therefore drawn from the induction heads' own layer.
"""

import json
from itertools import combinations

import numpy as np
import pytest
import torch

from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.cli import main
from lm_headroom.engine.loading import gates_without, load
from lm_headroom.models.resolve import resolve
from lm_headroom.scoring.prefix_matching import prefix_matching_scores, ranked_vocabulary, sequence, start_token
from tests.induction_testbed.train import CHECKPOINT, INDUCTION_HEADS

SEEDS = range(1, 11)
CLEAR = 0.5
"""Prefix-matching score of a clear induction head."""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("testbed") / "model.json"
    resolve("testbed", str(CHECKPOINT), None, path)
    return path


@pytest.fixture(scope="module")
def testbed(record):
    return load(record, device="cpu", threads=1)


@pytest.fixture(scope="module")
def scores(testbed):
    """Mean prefix-matching scores, [layer, head]."""
    ranked, _ = ranked_vocabulary(testbed.tokenizer)
    start, _ = start_token(testbed.tokenizer)
    return np.mean([prefix_matching_scores(testbed, sequence(ranked, seed), start) for seed in SEEDS], axis=0)


@pytest.fixture(scope="module")
def clear(scores):
    """The induction heads, best first."""
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(scores > CLEAR)]
    return sorted(heads, key=lambda head: -scores[head])


@torch.no_grad()
def second_repeat(testbed, pruned):
    """Mean log-likelihood (nats) and accuracy of the second copy, but for its first token, which nothing announces."""
    ranked, _ = ranked_vocabulary(testbed.tokenizer)
    start, _ = start_token(testbed.tokenizer)
    rows = []
    for seed in SEEDS:
        tokens = sequence(ranked, seed)
        with testbed.interventions.gates(gates_without(testbed.shape, pruned)):
            logits = testbed.model(input_ids=torch.tensor([[start, *tokens, *tokens]])).logits[0]
        following, expected = logits[len(tokens) + 1 : -1].log_softmax(dim=-1), torch.tensor(tokens[1:])
        likelihood = following.gather(1, expected[:, None]).mean()
        rows.append((float(likelihood), float((following.argmax(dim=-1) == expected).double().mean())))
    return tuple(np.mean(rows, axis=0))


def test_the_asset_is_small(testbed):
    assert sum(parameter.numel() for parameter in testbed.model.parameters()) < 500_000
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 2e6


def test_it_predicts_the_second_repeat(testbed):
    likelihood, accuracy = second_repeat(testbed, [])
    assert likelihood > -0.1
    assert accuracy > 0.98


def test_prefix_matching_finds_the_induction_heads(scores, clear):
    assert sorted(clear) == [(1, head) for head in range(INDUCTION_HEADS)]
    assert np.delete(scores.ravel(), [8, 9, 10]).max() < 0.1


def test_without_them_the_second_repeat_is_lost(testbed, clear):
    likelihood, accuracy = second_repeat(testbed, clear)
    assert likelihood < -4
    assert accuracy < 0.1


def test_without_as_many_others_it_is_not(testbed, clear):
    others = [(1, head) for head in range(testbed.shape.heads) if (1, head) not in clear]
    for chosen in combinations(others, len(clear)):
        likelihood, accuracy = second_repeat(testbed, chosen)
        assert likelihood > -0.2
        assert accuracy > 0.97


def test_one_command_writes_both_scores(record, tmp_path, capfd):
    options = ["--sequences", "2", "--head-output", "value", "--device", "cpu", "--threads", "1"]
    assert main(["score-induction", "--model", str(record), *options, "--out", str(tmp_path)]) == 0
    shown = capfd.readouterr().err
    assert "prefix matching testbed: 2/2 sequences" in shown
    assert "copying testbed: 2/2 sequences" in shown
    options = {"sequences": 2, "bos": True}
    for kind, expected in (
        (PREFIX_MATCHING, options),
        (COPYING, {**options, "head_output": "value", "output_bias": False}),
    ):
        path = tmp_path / f"{kind.name}.parquet"
        values = grid(read(path, kind), "mean")
        assert values.shape == (2, 8)
        assert (values >= 0).all()
        assert provenance(path)["options"] == expected
        assert provenance(path)["vocabulary"] == "token id"
        assert provenance(path)["model"]["digest"] == json.loads(record.read_text())["digest"]


def test_too_many_sequences_for_its_vocabulary_are_refused(record, tmp_path, capsys):
    options = ["--sequences", "30", "--device", "cpu"]
    assert main(["score-induction", "--model", str(record), *options, "--out", str(tmp_path)]) == 1
    assert "set induction.sequences to at most 17" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
