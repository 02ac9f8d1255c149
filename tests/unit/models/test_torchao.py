"""int8 weights of torchao: refused by name, and the lines of docs/gguf.md that make plain ones of them."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, TorchAoConfig

from lm_headroom.engine.loading import load
from lm_headroom.errors import HeadroomError
from lm_headroom.models.resolve import resolve
from tests.support.exports import TOKENS
from tests.support.paths import ROOT
from tests.support.tiny_models import tiny_model

torchao = pytest.importorskip("torchao.quantization", reason="torchao is no dependency, and not installed here")


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_int8_weights_are_refused_and_their_plain_form_is_the_same_model(family, tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    tiny_model(family).float().save_pretrained("whole")
    kind = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    quantised = AutoModelForCausalLM.from_pretrained("whole", quantization_config=kind, dtype=torch.float32)
    quantised.save_pretrained("quantised")
    tokenizer.save_pretrained("quantised")
    record = tmp_path / "results" / "model.json"
    with pytest.raises(HeadroomError, match="its weights are quantised .torchao, .*docs.gguf.md"):
        resolve("tiny", "quantised", None, record)
    assert not record.exists()
    (lines,) = re.findall(r"## torchao.*?```python\n(.*?)```", (ROOT / "docs" / "gguf.md").read_text(), re.DOTALL)
    exec(lines, {})
    resolve("tiny", "plain", None, record)
    loaded = load(record, device="cpu")
    with torch.no_grad():
        expected, whole = quantised(TOKENS).logits, tiny_model(family).float()(TOKENS).logits
        assert loaded.interventions.shape.heads == 4
        actual = loaded.model(input_ids=TOKENS, use_cache=False).logits
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert (whole - expected).abs().max() > 1e-2
