"""Exports in processes that have imported nothing before: transformers alone, and this package before and after it.

Such a process takes seconds to import torch and transformers, so that one serves several tests.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import lm_headroom
from lm_headroom.engine.loading import gates_without, load
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.pruned.model import Remainder, load_pruned, prune_for_good
from tests.support.exports import TOKENS, Place
from tests.support.model_types import tiny_of_type
from tests.support.paths import ROOT

WITHOUT_THE_PACKAGE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, OlmoeForCausalLM
llama, olmoe, uneven, package = sys.argv[1:]
tokens = torch.load("tokens.pt")
options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
loaded = []
for folder, loader in ((llama, AutoModelForCausalLM), (llama, LlamaForCausalLM), (olmoe, AutoModelForCausalLM)):
    model, info = loader.from_pretrained(folder, output_loading_info=True)
    assert type(model) is (LlamaForCausalLM if folder == llama else OlmoeForCausalLM)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(model.generate(tokens, **options), model.generate(tokens, use_cache=False, **options))
    loaded.append(model(input_ids=tokens).logits.detach())
torch.save(loaded, "logits.pt")
outcome = {"tokens": AutoTokenizer.from_pretrained(llama)("The fox")["input_ids"], "experts": model.config.num_experts}
outcome["package"] = "lm_headroom" in sys.modules
try:
    AutoModelForCausalLM.from_pretrained(uneven)
except ValueError as error:
    outcome["refused"] = str(error)
sys.path.insert(0, package)
import lm_headroom
model = AutoModelForCausalLM.from_pretrained(uneven, local_files_only=True)
assert isinstance(lm_headroom.load_pruned(uneven), type(model))
torch.save(model(input_ids=tokens % 101).logits.detach(), "uneven.pt")
print(json.dumps(outcome))
"""
THE_PACKAGE_FIRST = """
import sys, lm_headroom, transformers
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True)
assert isinstance(lm_headroom.load_pruned(sys.argv[1]), type(model))
torch.save(model(input_ids=torch.load("tokens.pt") % 101).logits.detach(), "uneven.pt")
"""
THE_PACKAGE_ALONE = """
import json, sys, lm_headroom
outcome = {"torch": ["torch" in sys.modules, callable(lm_headroom.load_pruned), "torch" in sys.modules]}
import torch
from transformers import AutoTokenizer
tokens = torch.load("tokens.pt")
for folder in sys.argv[1:]:
    outcome[folder] = AutoTokenizer.from_pretrained(folder)("The fox")["input_ids"]
torch.save([lm_headroom.load_pruned(folder)(input_ids=tokens).logits.detach() for folder in sys.argv[1:]], "logits.pt")
print(json.dumps(outcome))
"""


@dataclass
class Export:
    """An export of a tiny model, what its command printed, and the model's logits under the mask."""

    place: Place
    printed: str
    expected: Any
    tokens: list[int]


def export(folder, family, tokenizer, *options):
    """An export and the logits of the masked model: with options, of the even half or of one expert per layer."""
    place = Place(folder, family, tokenizer)
    words = [place.ranking(option) if option in place.orders else option for option in options]
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        assert place.export(*words) == 0
    loaded = load(place.record, device="cpu")
    with torch.no_grad(), contextlib.ExitStack() as masks:
        for mask in masks_of(place, loaded.interventions, options):
            masks.enter_context(mask)
        expected = loaded.model(input_ids=TOKENS, use_cache=False).logits
    return Export(place, printed.getvalue(), expected, loaded.tokenizer("The fox")["input_ids"])


def masks_of(place, interventions, options):
    """What removes from a model that which an export lacks."""
    first = {}
    if "heads" in options:
        for layer, head in place.orders["heads"]:
            first.setdefault((layer, head // 2), (layer, head))
        return [interventions.gates(gates_without(interventions.shape, first.values()))]
    if "experts" in options:
        for layer, expert in place.orders["experts"]:
            first.setdefault(layer, expert)
        return [interventions.experts.without(first.items())]
    heads, ffns = place.pruned
    return [interventions.gates(gates_without(interventions.shape, heads)), interventions.without_ffns(ffns)]


def child(code, folder, *arguments, options=(), **variables):
    """What a process printed that runs ``code`` in a folder with the tests' tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(TOKENS, folder / "tokens.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    command = [sys.executable, *options, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fresh")


@pytest.fixture(scope="module")
def even_heads(folder, tokenizer):
    """LLaMA without half of the heads, one of each group of two, as the ranking orders them there."""
    return export(folder / "llama", "llama", tokenizer, "--ranking", "heads", "--percent", 55, "--even")


@pytest.fixture(scope="module")
def even_experts(folder, tokenizer):
    """OLMoE without 30% of the experts in rounds: one of each layer, the first that the ranking prunes there."""
    return export(folder / "olmoe", "olmoe", tokenizer, "--ranking", "experts", "--percent", 30, "--even")


@pytest.fixture(scope="module")
def uneven(folder):
    """An export with layers that differ, and the logits that it has."""
    model = tiny_of_type("llama").float()
    left = Remainder.without(architectures.head_layout(model), [(0, 1), (1, 0), (1, 1)], [2])
    prune_for_good(model, left).save_pretrained(folder / "uneven")
    with torch.no_grad():
        return folder / "uneven", model(input_ids=TOKENS % 101).logits


@dataclass
class Ended:
    """A process that has ended: what it printed, and where it left logits."""

    outcome: Any
    folder: Path

    def logits(self, name="logits.pt"):
        return torch.load(self.folder / name)


@pytest.fixture(scope="module")
def stock(folder, even_heads, even_experts, uneven):
    """A process with transformers alone, which imports this package at its end."""
    paths = (even_heads.place.out, even_experts.place.out, uneven[0], ROOT / "workflow")
    printed = child(WITHOUT_THE_PACKAGE, folder / "stock", *paths, options=["-I"])
    return Ended(json.loads(printed), folder / "stock")


def test_stock_classes_load_an_even_export_without_this_package(stock, even_heads):
    place = even_heads.place
    assert "a plain checkpoint of 2 heads and 2 key-value heads per layer: AutoModelForCausalLM" in even_heads.printed
    assert (stock.outcome["tokens"], stock.outcome["package"]) == (even_heads.tokens, False)
    for logits in stock.logits()[:2]:
        torch.testing.assert_close(logits, even_heads.expected, atol=1e-5, rtol=0)
    config = json.loads((place.out / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (2, 2, 6)
    manifest = json.loads((place.out / "lm_headroom.json").read_text())
    assert (manifest["plain"], manifest["even"], manifest["pruned"]["heads"]["count"]) == (True, True, 6)
    card = (place.out / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "load_pruned" not in card
    with pytest.raises(HeadroomError, match="no pruned checkpoint .* load it with transformers' own"):
        load_pruned(place.out)


def test_stock_classes_load_an_export_of_as_many_experts_without_this_package(stock, even_experts):
    place = even_experts.place
    assert (
        "a plain checkpoint of 4 heads, 2 key-value heads and 3 experts per layer: AutoModelForCausalLM"
        in even_experts.printed
    )
    assert (stock.outcome["experts"], stock.outcome["package"]) == (3, False)
    torch.testing.assert_close(stock.logits()[2], even_experts.expected, atol=1e-5, rtol=0)
    manifest = json.loads((place.out / "lm_headroom.json").read_text())
    assert (manifest["plain"], manifest["even"]) == (True, True)
    assert (manifest["pruned"]["experts"]["count"], manifest["pruned"]["experts"]["of"]) == (3, 12)
    assert "| experts | 3 | 12 | 30 |" in (place.out / "README.md").read_text()


def test_auto_classes_load_uneven_exports_once_the_package_is_imported_after_them(stock, uneven):
    assert "model type `lm_headroom_pruned` but Transformers does not recognize" in stock.outcome["refused"]
    torch.testing.assert_close(stock.logits("uneven.pt"), uneven[1], atol=1e-6, rtol=0)


def test_auto_classes_load_uneven_exports_where_the_package_is_imported_first(folder, uneven):
    child(THE_PACKAGE_FIRST, folder / "first", uneven[0], PYTHONPATH=str(ROOT / "workflow"))
    torch.testing.assert_close(torch.load(folder / "first" / "uneven.pt"), uneven[1], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def exports(folder, tokenizer):
    """Exports without half of the heads and a third of the FFNs."""
    return [export(folder / f"own-{family}", family, tokenizer) for family in ("opt", "llama")]


@pytest.fixture(scope="module")
def alone(folder, exports):
    """A process that imports this package before torch, and then loads these."""
    paths = [each.place.out for each in exports]
    printed = child(THE_PACKAGE_ALONE, folder / "alone", *paths, PYTHONPATH=str(ROOT / "workflow"))
    return Ended(json.loads(printed), folder / "alone")


def test_an_export_is_the_masked_model(alone, exports):
    for each, logits in zip(exports, alone.logits(), strict=True):
        assert "parameters have become" in each.printed
        assert alone.outcome[str(each.place.out)] == each.tokens
        torch.testing.assert_close(logits, each.expected, atol=1e-5, rtol=0)
        # A temporary folder would be beside it.
        assert [path.name for path in each.place.out.parent.iterdir()] == ["0shot-seed7"]


def test_the_package_starts_without_torch(alone):
    assert alone.outcome["torch"] == [False, True, True]
    with pytest.raises(AttributeError, match="no attribute 'load_prunned'"):
        lm_headroom.load_prunned  # noqa: B018
