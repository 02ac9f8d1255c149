"""Start tokens of prompts, with HFLM's own tokens as witness."""

import copy

import pytest
from tokenizers.processors import TemplateProcessing

from lm_headroom.engine.likelihood import encode, start_provenance, start_tokens
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.errors import HeadroomError
from tests.support.tiny_models import tiny_model

TEXTS = [("The sun", " is"), ("The lamp ", "goes out"), ("<s>The sun", " is"), ("", "The sun")]
"""Contexts that end with a space, begin with BOS as that of a chat template may, and are empty."""


def putting(tokenizer, form):
    """The tokenizer, with special tokens around each text."""
    tokens = [word for word in form.split() if not word.startswith("$")]
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single=form, special_tokens=[(token, other.convert_tokens_to_ids(token)) for token in tokens]
    )
    return other


@pytest.fixture
def names(tokenizer):
    return {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token}


@pytest.mark.parametrize("add_bos", ["auto", True, False])
@pytest.mark.parametrize("form", ["$A", "{bos} $A"])
def test_prompts_have_the_tokens_that_hflm_gives_them(tokenizer, names, form, add_bos):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    if form == "$A" and add_bos is True:
        pytest.skip("HFLM's add_bos_token: true asks this tokenizer for what it does not put there")
    own = putting(tokenizer, form.format(**names))
    hflm = HFLM(pretrained=tiny_model("llama"), tokenizer=own, add_bos_token=None if add_bos == "auto" else add_bos)
    asked = []
    hflm._loglikelihood_tokens = lambda requests, **_: asked.extend(tokens for _, *tokens in requests)
    texts = [(context.replace("<s>", names["bos"]), rest) for context, rest in TEXTS]
    hflm.loglikelihood(
        [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(texts)], disable_tqdm=True
    )
    documents = encode([(number, *pair) for number, pair in enumerate(texts)], own, 100, add_bos)
    ours = [(row.tokens[: -row.n_target], row.tokens[-row.n_target :]) for (row,) in (d.sequences for d in documents)]
    assert ours == [(tuple(context), tuple(rest)) for context, rest in asked]


@pytest.mark.parametrize(
    "form, expected",
    [("$A", []), ("{bos} $A", ["bos"]), ("{pad} {bos} $A", ["pad", "bos"]), ("{bos} $A {eos}", ["bos"])],
)
def test_auto_is_what_the_tokenizer_puts_before_a_text(tokenizer, names, form, expected):
    own = putting(tokenizer, form.format(**names))
    loaded = LoadedModel(own, {}, None, lambda: None)
    assert start_provenance(loaded, "auto") == {"start_tokens": [names[name] for name in expected]}
    assert start_tokens(own, True) == [own.bos_token_id]
    assert start_tokens(own, False) == []


def test_a_tokenizer_without_a_start_token_cannot_be_given_one(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = bare.eos_token = None
    assert start_tokens(bare, "auto") == []
    with pytest.raises(HeadroomError, match="neither BOS nor EOS; set add_bos: false"):
        start_tokens(bare, True)
    with pytest.raises(HeadroomError, match="document 4: an empty context needs a start token"):
        encode([(4, "", "The sun")], bare, 100, "auto")
