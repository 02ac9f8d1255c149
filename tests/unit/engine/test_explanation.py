"""What is said of a model that is looked at: where its parts are, its experts, and what was proved."""

import pytest
import torch

from lm_headroom.cli import main
from lm_headroom.engine.explanation import PROOFS, explain
from tests.support.checkpoints import write_hub_tokenizer
from tests.support.tiny_models import tiny_model


@pytest.mark.parametrize("family, experts", [("olmoe", True), ("opt", False)])
def test_parts_experts_and_proofs_are_named(family, experts, tmp_path, tokenizer):
    tiny_model(family).float().save_pretrained(tmp_path / "tiny")
    write_hub_tokenizer(tokenizer, tmp_path / "tiny")
    text = explain(str(tmp_path / "tiny"), None, (), "float32", True)
    assert text.startswith(f"{family}: 3 layers of 4 heads of width 6, with {2 if experts else 4} key-value heads\n")
    assert ("3 layers have a mixture of experts: 4 experts, 2 for each token" in text) == experts
    assert f"  {'output projection':<26}{'o_proj' if experts else 'out_proj'}" in text
    assert text.endswith("\n".join(f"  - {proof}" for proof in PROOFS))
    assert "Proved" not in explain(str(tmp_path / "tiny"), None, (), "float32", False)


def test_a_checkpoint_of_pickles_is_explained_where_they_are_allowed(tmp_path, tokenizer, capsys):
    model = tiny_model("opt").float()
    model.config.save_pretrained(tmp_path / "tiny")
    torch.save(model.state_dict(), tmp_path / "tiny" / "pytorch_model.bin")
    write_hub_tokenizer(tokenizer, tmp_path / "tiny")
    assert main(["model", str(tmp_path / "tiny")]) == 1
    assert "are pickles (pytorch_model.bin)" in capsys.readouterr().err
    assert main(["model", str(tmp_path / "tiny"), "--allow-pickle"]) == 0
    assert capsys.readouterr().out.startswith("opt: 3 layers of 4 heads")
