"""What stands in a checkpoint beside its weights: settings of passes, tokenizers, records of other content."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lm_headroom import settings
from lm_headroom.engine.likelihood import encode, log_likelihoods, tokenise
from lm_headroom.engine.loading import load, prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.errors import HeadroomError
from lm_headroom.models.architecture import PROBE_TOKENS
from lm_headroom.models.resolve import resolve
from lm_headroom.models.sizes import checkpoint_sizes, read_config
from lm_headroom.scoring.copying import copying
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.prefix_matching import check_finite_scores, prefix_matching
from tests.families import cases
from tests.support.tiny_models import SENTENCES, tiny_model

PAIRS = [(i, text, rest) for i, text in enumerate(SENTENCES[:4]) for rest in (" the river", " a stone")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tokenizer):
    folders = {}

    def make(case):
        if case not in folders:
            folder = tmp_path_factory.mktemp(case) / "checkpoint"
            folders[case] = cases.save(cases.CASES[case], folder, tokenizer)
        return folders[case]

    return make


def changed(folder, to, **settings):
    """A copy of a checkpoint with other settings."""
    shutil.copytree(folder, to)
    path = to / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return to


def loaded_from(folder, record):
    resolve("tiny", str(folder), None, record)
    return load(record, "float64", "cpu")


def scores_of(loaded):
    """Log-likelihoods, importance and induction scores."""
    documents = encode(PAIRS, loaded.tokenizer, loaded.max_positions)
    golds = encode(PAIRS[::2], loaded.tokenizer, loaded.max_positions)
    actual = contributions(loaded, golds, 512)
    matched, _ = prefix_matching(loaded, 1)
    copied, _ = copying(loaded, 1)
    values = log_likelihoods(loaded, Batches(documents, 512, "cpu"))
    return [values, actual.absolute, actual.ffns.signed, matched["mean"], copied["mean"]]


PASS_SETTINGS = {
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "use_cache": False,
    "torchscript": True,
    "gradient_checkpointing": True,
    "chunk_size_feed_forward": 2,
    "attn_implementation": "flash_attention_2",
    "_attn_implementation": "flash_attention_2",
    "fusion_config": {"nothing": True},
    "dtype": "float16",
}


@pytest.mark.parametrize("case", ["opt", "llama", "bloom", "mpt", "falcon", "gemma3"])
def test_settings_of_what_a_pass_returns_change_nothing(checkpoints, tmp_path, case):
    expected = scores_of(loaded_from(checkpoints(case), tmp_path / "clean" / "model.json"))
    alone = ("output_attentions", "return_dict") if case != "opt" else PASS_SETTINGS
    for name, some in [*((name, {name: PASS_SETTINGS[name]}) for name in alone), ("all", PASS_SETTINGS)]:
        folder = changed(checkpoints(case), tmp_path / name, **some)
        actual = scores_of(loaded_from(folder, tmp_path / f"{name}-record" / "model.json"))
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)


def test_settings_of_passes_within_the_language_model_of_several_parts(checkpoints, tmp_path):
    folder = checkpoints("gemma3")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    other = changed(folder, tmp_path / "other", text_config=text | {"return_dict": False, "output_attentions": True})
    assert checkpoint_sizes(other) == checkpoint_sizes(folder)
    config = read_config(other).get_text_config()
    assert (config.return_dict, config.output_attentions) == (True, False)
    expected, actual = (
        scores_of(loaded_from(where, tmp_path / where.name / "r" / "model.json")) for where in (folder, other)
    )
    np.testing.assert_array_equal(actual[0], expected[0])


class TestTokenizers:
    def vocabulary(self, folder):
        """vocab.json and merges.txt in place of all else."""
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        for path in [*folder.glob("tokenizer*"), *folder.glob("special_tokens*")]:
            path.unlink()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")

    def test_vocabulary_and_merges_alone_are_one_where_transformers_loads_them(self, checkpoints, tmp_path, tokenizer):
        folder = changed(checkpoints("opt"), tmp_path / "opt")
        self.vocabulary(folder)
        loaded = loaded_from(folder, tmp_path / "model.json")
        for text in SENTENCES[:5]:
            ours, theirs = (t(text, add_special_tokens=False)["input_ids"] for t in (loaded.tokenizer, tokenizer))
            assert ours == theirs

    @pytest.mark.parametrize(
        ("case", "message"),
        [
            ("gemma2", "give GemmaTokenizer no vocabulary; copy all"),
            ("llama", "transformers cannot load this check"),
        ],
    )
    def test_where_it_does_not_that_is_said(self, checkpoints, tmp_path, case, message):
        folder = changed(checkpoints(case), tmp_path / case)
        self.vocabulary(folder)
        with pytest.raises(HeadroomError, match=message):
            loaded_from(folder, tmp_path / "model.json")

    def test_a_configuration_of_a_tokenizer_is_no_vocabulary(self, checkpoints, tmp_path):
        folder = changed(checkpoints("opt"), tmp_path / "opt")
        self.vocabulary(folder)
        for name in ("vocab.json", "merges.txt"):
            (folder / name).unlink()
        (folder / "tokenizer_config.json").write_text("{}")
        with pytest.raises(HeadroomError, match="give GPT2Tokenizer no vocabulary"):
            loaded_from(folder, tmp_path / "model.json")

    @pytest.fixture
    def wider(self, tokenizer):
        """The model has embeddings for 523 tokens; this tokenizer has 530."""
        from copy import deepcopy

        larger = deepcopy(tokenizer)
        larger.add_tokens([f"<new{i}>" for i in range(530 - len(larger))])
        return prepare(tiny_model("opt"), larger)

    def pairs(self, contexts, continuation=" a"):
        return [(7 + i, text, continuation) for i, text in enumerate(contexts)]

    def test_a_token_without_an_embedding_is_named_with_its_document_and_both_sizes(self, wider):
        assert len(tokenise(self.pairs(["The lamp", "Light"]), wider, False)) == 2
        with pytest.raises(HeadroomError, match="^document 8: token '<new76>' has the id 529, but the model has "
                           "embeddings for 523 tokens and its tokenizer has 530; take the"):  # fmt: skip
            tokenise(self.pairs(["The lamp", "Light <new76> <new3>"]), wider, False)
        wider.tokenizer.bos_token = "<new76>"
        with pytest.raises(HeadroomError, match="^document 7: token '<new76>' has the id 529"):
            tokenise(self.pairs(["The lamp"]), wider, True)

    def test_a_continuation_counts_too(self, wider):
        with pytest.raises(HeadroomError, match="^document 7: token '<new76>' has the id 529"):
            tokenise(self.pairs(["The lamp"], " <new76>"), wider, False)

    @pytest.mark.parametrize("score", [prefix_matching, copying])
    def test_induction_on_a_tokenizer_without_merges(self, tokenizer, score):
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        words = {name: i for i, name in enumerate(["<s>", *(f"w{i}" for i in range(900))])}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), bos_token="<s>"
        )
        loaded = prepare(tiny_model("opt"), tokenizer)
        with pytest.raises(HeadroomError, match="^induction sequence 1: token 'w.*' has the id .*, but the model has "
                           "embeddings for 523 tokens and its tokenizer has 901"):  # fmt: skip
            score(loaded, 1)

    @pytest.mark.parametrize("score", [prefix_matching, copying])
    def test_a_window_too_short_for_the_longest_sequence_is_found_before_the_first(self, tokenizer, monkeypatch, score):
        loaded = prepare(tiny_model("opt"), tokenizer)

        def never(*arguments, **options):
            raise AssertionError("a pass was made")

        monkeypatch.setattr("lm_headroom.scoring.prefix_matching.run", never)
        monkeypatch.setattr("lm_headroom.scoring.copying.run", never)
        monkeypatch.setattr(
            "lm_headroom.scoring.prefix_matching.ranked_vocabulary", lambda tokenizer: (list(range(5000)), "x")
        )
        with pytest.raises(
            HeadroomError, match="261 tokens is longer than the model's context window of 256; .* at most 20"
        ):
            score(loaded, 21)


class TestRecords:
    @pytest.fixture
    def resolved(self, checkpoints, tmp_path):
        folder, record = shutil.copytree(checkpoints("opt"), tmp_path / "opt"), tmp_path / "tiny" / "model.json"
        resolve("tiny", str(folder), None, record)
        return folder, record

    def edit(self, record, **changes):
        """Change a record, and let what is beside it know of the change."""
        import hashlib

        record.write_text(json.dumps(json.loads(record.read_text()) | changes))
        place = record.with_name(".model.json")
        digest = hashlib.sha256(record.read_bytes()).hexdigest()
        place.write_text(json.dumps(json.loads(place.read_text()) | {"record": digest}))

    @pytest.mark.parametrize("changes", [{"digest": "0" * 64}, {"layers": 7}, {"heads": 2}, {"family": "llama"}])
    def test_a_job_compares_the_record_with_the_checkpoint(self, resolved, changes):
        _, record = resolved
        self.edit(record, **changes)
        (key, value), *_ = changes.items()
        with pytest.raises(
            HeadroomError, match=f"model.json: {key} is {value}, but the checkpoint in .* one of them was"
        ):
            load(record, device="cpu")

    def test_a_checkpoint_that_was_changed_in_place_is_not_loaded(self, resolved):
        folder, record = resolved
        path = folder / "model.safetensors"
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\x00\x00\x00\x01")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(HeadroomError, match="digest is .* but the checkpoint in .* has"):
            load(record, device="cpu")

    def test_code_that_was_changed_does_not_run(self, checkpoints, tmp_path, monkeypatch):
        folder = changed(checkpoints("opt"), tmp_path / "own")
        (folder / "sub").mkdir()
        (folder / "sub" / "helper.py").write_text("A = 1")
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "mine.Fast"]}}))
        (folder / "mine.py").write_text(
            "from transformers import PreTrainedTokenizerFast\n"
            f"exec(open({str(folder / 'sub' / 'helper.py')!r}).read())\n"
            "class Fast(PreTrainedTokenizerFast):\n    pass\n"
        )
        record = tmp_path / "tiny" / "model.json"
        resolve("tiny", str(folder), None, record, ["trust_remote_code"])
        assert load(record, device="cpu").record["trust_remote_code"]
        flag = tmp_path / "ran"
        (folder / "sub" / "helper.py").write_text(f"A = open({str(flag)!r}, 'w')")
        with pytest.raises(HeadroomError, match="digest is .* but the checkpoint in"):
            load(record, device="cpu")
        assert not flag.exists()

    def test_jobs_do_not_read_all_files_again(self, resolved, monkeypatch):
        """285 jobs of a model of 132 GB."""
        import hashlib

        _, record = resolved
        monkeypatch.setattr("lm_headroom.artifacts.content.SMALL", 0)
        monkeypatch.setattr("lm_headroom.artifacts.content.SETTLED", 0)
        read = []
        original = hashlib.file_digest

        def counted(file, name):
            read.append(Path(file.name).name)
            return original(file, name)

        monkeypatch.setattr("lm_headroom.artifacts.content.hashlib.file_digest", counted)
        load(record, device="cpu")
        assert "model.safetensors" in read
        read.clear()
        for _ in range(3):
            load(record, device="cpu")
        assert read == []


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("float16", "use dtype float32 or bfloat16"),
        ("bfloat16", "use dtype float32 or float64"),
        ("float32", "use dtype float64"),
        ("float64", "no number format holds more than float64"),
    ],
)
def test_advice_on_number_formats_fits_the_one_in_use(tokenizer, dtype, advice):
    assert set(settings.DTYPES) == {"float16", "bfloat16", "float32", "float64"}
    assert settings.other_dtype(dtype).startswith(advice)
    assert settings.other_dtype(f"torch.{dtype}") == settings.other_dtype(dtype)
    assert f"dtype {dtype}" not in settings.other_dtype(dtype)
    model = tiny_model("opt").to(getattr(torch, dtype))
    model.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(HeadroomError, match=f"NaN or infinity in {dtype}: the checkpoint is damaged, .*: {advice}"):
        prepare(model, tokenizer)
    loaded = prepare(tiny_model("opt"), tokenizer)
    loaded.model.to(getattr(torch, dtype))
    with pytest.raises(HeadroomError, match=f"layer 0 head 0 is not finite; {advice}"):
        check_finite_scores(np.array([[np.nan]]), "copying", loaded)


@pytest.mark.parametrize("case", ["opt", "llama", "gpt2", "mpt"])
def test_the_shortest_window_that_is_taken_works(tokenizer, case):
    from transformers import AutoConfig, AutoModelForCausalLM

    chosen = cases.CASES[case]
    config = AutoConfig.for_model(chosen.family, **cases.SPECIAL | chosen.settings)
    name = {"gpt2": "n_positions", "mpt": "max_seq_len"}.get(case, "max_position_embeddings")
    setattr(config, name, PROBE_TOKENS)
    loaded = prepare(AutoModelForCausalLM.from_config(config, attn_implementation="eager").double(), tokenizer)
    assert loaded.max_positions == PROBE_TOKENS
    documents = encode(PAIRS, loaded.tokenizer, loaded.max_positions)
    assert np.isfinite(log_likelihoods(loaded, Batches(documents, 512, "cpu"))).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_model_that_overflows_at_once_is_refused_with_fitting_advice(tokenizer, dtype):
    model = tiny_model("opt").to(getattr(torch, dtype))
    model.model.decoder.layers[0].fc2.weight.data.fill_(torch.finfo(model.dtype).max)
    with pytest.raises(HeadroomError, match=f"logits are not finite in {dtype}") as caught:
        prepare(model, tokenizer)
    assert str(caught.value).endswith(settings.other_dtype(dtype))
