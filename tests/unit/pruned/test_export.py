"""Pruned checkpoints: the masked model's logits with fewer parameters, saved, loaded, generating, and refused."""

import copy
import json
import pickle
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM, OPTForCausalLM

import lm_headroom
from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.ranking import as_columns, count_at, ffn_columns, random_ranking, rank_heads
from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE, PROMPTS
from lm_headroom.artifacts.ranking import FFN_RANKING, RANKING
from lm_headroom.artifacts.store import file_digest, read_artifact, write
from lm_headroom.audit.show import describe_file as shown
from lm_headroom.audit.verify import verify
from lm_headroom.engine.ablation import ZERO
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.resolve import resolve
from lm_headroom.options import EvaluationSettings
from lm_headroom.pruned import export as writing
from lm_headroom.pruned.forms import choose_form
from lm_headroom.pruned.model import HeadlessAttention, Remainder, load_pruned, prune_for_good
from lm_headroom.publishing.push import collect
from lm_headroom.steps.prepare_evaluation import prepare as prepare_evaluation
from tests.errors.places import disk
from tests.families import cases as families
from tests.support.documents import plain
from tests.support.exports import ARCHITECTURES, TOKENS, Place, tiny
from tests.support.model_types import tiny_of_type
from tests.support.tiny_models import tiny_model

EXPECTING = (
    "bloom",
    "falcon",
    "gemma2",
    "gemma3",
    "gemma4_text",
    "gpt_neo",
    "gptj",
    "mpt",
    "olmo2",
    "phi3",
    "stablelm",
)
"""Families whose code expects as many heads in each layer, whose heads or layers share something, or which have several
parts."""
REFUSED = [name for name, case in families.CASES.items() if case.family in EXPECTING]
OTHERS = [name for name in families.CASES if name not in {*REFUSED, *ARCHITECTURES}]
EVERY = [(layer, head) for layer in range(3) for head in range(4)]
CASES = {
    # LLaMA's heads 0 and 1 share keys and values, as do 2 and 3.
    "uneven layers and groups": ([(0, 0), (1, 0), (1, 1), (2, 3)], []),
    "first layer without heads": ([(0, 0), (0, 1), (0, 2), (0, 3), (2, 1)], [1]),
    "90% of heads": (random_ranking(3, 4, 1)[: count_at(90, 12)], []),
    "every head": (EVERY, []),
    "every FFN": ([], [0, 1, 2]),
    "nothing left": (EVERY, [0, 1, 2]),
    "nothing pruned": ([], []),
}


def removed(model, heads, ffns):
    return architectures.removed_parameters(model, heads) + sum(
        architectures.ffn_parameters(model, layer) for layer in ffns
    )


@cache
def masked(family, case):
    """Logits of the model with closed gates and left-out FFNs."""
    heads, ffns = CASES[case]
    loaded = prepare(tiny(family), None)
    gates = gates_without(loaded.shape, heads)
    with torch.no_grad(), loaded.interventions.gates(gates), loaded.interventions.without_ffns(ffns):
        return loaded.model(input_ids=TOKENS, use_cache=False).logits


def logits(model, **options):
    with torch.no_grad():
        return model(input_ids=TOKENS, **options).logits


PARAMS = [(f, c) for f in ARCHITECTURES for c in CASES] + [(f, c) for f in OTHERS for c in list(CASES)[:2]]
PARAMS += [("gemma4_text", "every FFN"), ("gemma4_text-dense", "every FFN")]


@pytest.fixture(scope="module", params=PARAMS, ids=lambda p: ": ".join(p))
def exported(request, tmp_path_factory):
    """A tiny model, the folder of it and of the same model without what the case prunes, and the latter loaded.

    The loaded one is shared by the tests of a case, which leave it as it is.
    """
    family, case = request.param
    folder = tmp_path_factory.mktemp("exported")
    model = tiny(family)
    model.save_pretrained(folder / "whole")
    left = Remainder.without(architectures.head_layout(model), *CASES[case])
    prune_for_good(copy.deepcopy(model), left).save_pretrained(folder / "pruned")
    return family, case, model, folder, load_pruned(folder / "pruned")


def test_logits_are_the_masked_models(exported):
    family, case, _, _, loaded = exported
    torch.testing.assert_close(logits(loaded), masked(family, case), atol=1e-5, rtol=0)
    if case != "nothing pruned":
        assert (masked(family, case) - masked(family, "nothing pruned")).abs().max() > 1e-3, "the mask matters"


def test_parameters_and_bytes_fall_as_computed(exported):
    _, case, model, folder, loaded = exported
    gone = removed(model, *CASES[case])
    assert loaded.num_parameters() == model.num_parameters() - gone
    sizes = [weight_bytes(folder / name / "model.safetensors") for name in ("whole", "pruned")]
    assert sizes[0] - sizes[1] == 4 * gone


def weight_bytes(path):
    """Of the numbers, without the file's header."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def test_generation_with_and_without_cache_agree(exported):
    """Greedy, rows of unequal length padded on the left."""
    *_, model = exported
    mask = torch.ones_like(TOKENS)
    mask[0, :7] = mask[1, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    actual = [model.generate(TOKENS * mask, use_cache=use, **options) for use in (True, False)]
    assert actual[0].shape == (3, 32)
    assert torch.equal(*actual)
    # By itself, without its padding, a row goes on the same way.
    alone = model.generate(TOKENS[:1, 7:], max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert torch.equal(alone[0, 13:], actual[0][0, 20:])


def test_saved_and_loaded_again_it_is_the_same(exported):
    _, _, whole, folder, model = exported
    model.save_pretrained(folder / "again", max_shard_size="20KB")
    assert len(list((folder / "again").glob("model-*.safetensors"))) > 1
    again = load_pruned(folder / "again")
    assert torch.equal(logits(again), logits(model))
    configs = [json.loads((folder / name / "config.json").read_text()) for name in ("pruned", "again")]
    assert configs[0] == configs[1]
    assert type(pickle.loads(pickle.dumps(again))) is type(model)
    assert isinstance(model, type(whole))


def test_a_familys_own_class_refuses_it(exported):
    """By a setting that is a sentence."""
    _, _, model, folder, _ = exported
    for family in {OPTForCausalLM, LlamaForCausalLM, type(model)}:
        with pytest.raises(Exception, match="pruned by lm-headroom: load it with lm_headroom.load_pruned"):
            family.from_pretrained(folder / "pruned")


def test_tied_embeddings_stay_tied(tmp_path):
    """As in OPT, whose output embedding is its input embedding and is stored once."""
    prune_for_good(tiny_model("opt").float(), Remainder.without(HeadLayout(3, 4, 4, 6), [(0, 1)])).save_pretrained(
        tmp_path
    )
    model = load_pruned(tmp_path)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith("lm_head")]  # noqa: SIM118


def test_a_model_that_lacks_heads_is_not_masked_again():
    left = Remainder.without(HeadLayout(3, 4, 4, 6), [(0, 1)])
    with pytest.raises(HeadroomError, match="the model lacks heads that an export has removed for good"):
        lm_headroom.attach(prune_for_good(tiny_model("opt"), left))


def test_number_formats_are_the_checkpoints_or_as_asked(tmp_path):
    left = Remainder.without(HeadLayout(3, 4, 2, 6), [(0, 1)], [2])
    prune_for_good(tiny_model("llama").bfloat16(), left).save_pretrained(tmp_path)
    assert load_pruned(tmp_path).dtype == torch.bfloat16
    assert load_pruned(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_beams_and_static_caches_work_without_heads_in_the_first_layer(tmp_path):
    heads, ffns = CASES["first layer without heads"]
    model = prune_for_good(tiny_model("llama").float(), Remainder.without(HeadLayout(3, 4, 2, 6), heads, ffns))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    greedy = model.generate(TOKENS, **options)
    assert torch.equal(model.generate(TOKENS, cache_implementation="static", **options), greedy)
    beams = [model.generate(TOKENS, num_beams=3, use_cache=use, **options) for use in (True, False)]
    assert torch.equal(*beams)


# Through the command line.


@pytest.fixture
def place(tmp_path, tokenizer, family):
    return Place(tmp_path, family, tokenizer)


@pytest.fixture
def opt(tmp_path, tokenizer):
    return Place(tmp_path, "opt", tokenizer)


def test_card_and_manifest_say_what_made_it(opt):
    assert opt.export() == 0
    front, page = (opt.out / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    matter = yaml.safe_load(front)
    record = json.loads(opt.record.read_text())
    assert "base_model" not in matter, "the hub would link it, and knows no such model"
    actual = matter["lm-headroom"]
    assert actual["base"]["digest"] == record["digest"]
    before = opt.model.num_parameters()
    assert actual["parameters"] == {"before": before, "after": before - removed(opt.model, *opt.pruned)}
    place = "tiny/ranking/heads/aggregate/0shot-seed7.parquet"
    digest = file_digest(opt.ranking("heads"))
    part = {"percent": 50, "count": 6, "of": 12, "ranking": place, "ranking_digest": digest}
    assert actual["pruned"]["heads"] == part
    assert actual["pruned"]["ffns"]["count"] == 1
    assert actual["provenance"][place]["digest"] == digest
    # What is not there any more is known by its digest alone.
    assert actual["provenance"]["prompts/copa/0shot-seed7.parquet"] == {"digest": "0" * 64}
    assert actual["made_by"]["commit"], "this checkout is under version control"
    assert "load_pruned" in page
    assert str(opt.folder) not in front + page
    manifest = json.loads((opt.out / "lm_headroom.json").read_text())
    assert manifest["plain"] is False
    assert set(manifest["files"]) | {"lm_headroom.json"} == {path.name for path in opt.out.iterdir()}
    assert "steps.export_pruned" in shown(opt.out / "lm_headroom.json", 5)


def test_verify_judges_exports(opt):
    assert opt.export() == 0
    # The rankings are made up, from prompts that never were.
    name = "tiny/pruned/aggregate/heads50-ffns34/0shot-seed7"

    def states():
        by_path = {file.path: file for file in verify(opt.results)}
        return {path.removeprefix(f"{name}/"): file for path, file in by_path.items() if path.startswith(name)}

    whole = states()
    assert set(whole) == {path.name for path in opt.out.iterdir()}
    assert {file.state for file in whole.values()} == {"stale"}
    assert {reason for file in whole.values() for reason in file.reasons} == {
        "made from tiny/ranking/ffns/aggregate/0shot-seed7.parquet, which is missing inputs, "
        "and 1 more that are not sound"
    }
    (opt.out / "config.json").write_text("{}")
    (opt.out / "notes.txt").write_text("mine")
    changed = states()
    assert changed["config.json"].state == "damaged"
    assert changed["notes.txt"].state == "unrecognised"
    assert changed["model.safetensors"].state == "stale"


def test_the_same_export_gives_the_same_bytes_and_replaces_an_older_one(opt):
    assert opt.export() == 0
    first = {path.name: path.read_bytes() for path in opt.out.iterdir()}
    (opt.out / ".snakemake_timestamp").touch()
    assert opt.export() == 0
    assert {path.name: path.read_bytes() for path in opt.out.iterdir()} == first
    assert opt.export("--ranking", opt.ranking("heads"), "--percent", 90) == 0
    assert len(load_pruned(opt.out).config.lm_headroom_pruned["ffns_left"]) == 3


def test_a_link_to_a_folder_is_written_through(opt):
    real = opt.folder / "disk"
    real.mkdir()
    opt.out.parent.mkdir(parents=True)
    opt.out.symlink_to(real)
    for _ in range(2):
        assert opt.export() == 0
        assert opt.out.is_symlink()
        assert (real / "model.safetensors").is_file()


def test_files_that_are_not_written_need_no_room(opt, monkeypatch):
    weights = (opt.folder / "checkpoint" / "model.safetensors").read_bytes()
    for name in ("consolidated.safetensors", "pytorch_model.bin", "training_args.bin"):
        (opt.folder / "checkpoint" / name).write_bytes(weights)
    free = int(1.1 * len(weights))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, free))
    assert opt.export() == 0


def test_an_older_export_stays_where_the_new_one_fails(opt, monkeypatch, capsys):
    assert opt.export() == 0
    before = {path.name: path.read_bytes() for path in opt.out.iterdir()}

    def full(*_):
        raise OSError(28, "No space left")

    monkeypatch.setattr(writing, "write_weights", full)
    assert opt.export() == 1
    assert "could not be written (No space left); what was there is as it was" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in opt.out.iterdir()} == before
    assert [path.name for path in opt.out.parent.iterdir()] == ["0shot-seed7"]


def test_a_disk_that_fills_up_leaves_nothing(opt, monkeypatch, capsys):
    """64 KiB of room, of which the check before the work is not told."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**9))
    with disk(opt.folder / "disk", "") as mounted:
        if not mounted:
            pytest.skip("no file system of its own can be mounted here")
        assert opt.export(out=opt.folder / "disk" / "export") == 1
        message = capsys.readouterr().err
        assert "disk/export could not be written (" in message
        assert "No space left on device" in message
        assert not list((opt.folder / "disk").iterdir())


def test_what_is_not_the_masked_model_is_not_kept(opt, monkeypatch, capsys):
    """An export whose weights, sizes or cache are wrong is found before it gets its name."""
    kept = writing.prune_for_good

    def wrong(model, left):
        pruned = kept(model, left)
        with torch.no_grad():
            pruned.model.decoder.layers[2].self_attn.out_proj.bias[0] += 0.1
        return pruned

    monkeypatch.setattr(writing, "prune_for_good", wrong)
    assert opt.export() == 1
    assert "the export's logits differ from the masked model's by up to" in capsys.readouterr().err
    monkeypatch.setattr(writing, "prune_for_good", lambda model, left: kept(model, Remainder(left.heads, (0, 1, 2))))
    assert opt.export() == 1
    assert "parameters, expected" in capsys.readouterr().err
    assert not opt.out.parent.exists() or not list(opt.out.parent.iterdir())


def test_a_cache_that_forgets_the_first_layer_is_found(opt, monkeypatch, capsys):
    kept = HeadlessAttention.forward
    monkeypatch.setattr(HeadlessAttention, "forward", lambda self, hidden_states, **kwargs: kept(self, hidden_states))
    # A ranking that begins with the first layer.
    scores = np.arange(12.0).reshape(3, 4)
    provenance = {"model": json.loads(opt.record.read_text())}
    write(opt.folder / "first.parquet", RANKING, as_columns(rank_heads(scores), scores), provenance)
    options = ("--ranking", opt.folder / "first.parquet", "--percent", 40)
    assert opt.export(*options) == 1
    assert "the export's logits with a cache differ" in capsys.readouterr().err
    monkeypatch.undo()
    assert opt.export(*options) == 0


class TestMeans:
    """With mean ablation, biases hold what is pruned gives on average over scoring documents."""

    TEXTS = ("The fox jumps over", "Water boils at one hundred", "She opened", "A person is sitting on a roof")

    def prompts(self, place):
        rows = [
            {
                "doc_id": number, "question": number, "purpose": purpose, "split": "x", "choice": choice,
                "context": text if purpose == IMPORTANCE else text[::-1], "continuation": answer, "gold": choice == 1,
                "metric": "choice", "choice_length": 6, "turns": None, "reply": None,
            }
            for purpose in (IMPORTANCE, EVALUATION)
            for number, text in enumerate(self.TEXTS)
            for choice, answer in enumerate((" again", " never"))
        ]  # fmt: skip
        path = place.results / "prompts" / "copa" / "0shot-seed7.parquet"
        write(path, PROMPTS, by_column(rows), {"task": "copa", "shots": 0, "seed": 7})
        return path

    def export(self, place, kind="mean", *more):
        rankings = ("--ranking", place.ranking("heads"), place.ranking("ffns"), "--percent", 50, 34)
        return place.export(*rankings, "--ablation", kind, *more)

    def evaluation(self, place, prompts, **settings):
        """The evaluation by which accuracy curves are measured."""
        settings = EvaluationSettings(model=place.record, device="cpu", ablation="mean", **settings)
        return prepare_evaluation("test", place.record, prompts, settings).evaluation

    @pytest.mark.parametrize("family", ["opt", "opt-350m", "gpt2", "gpt_neox", "gpt_neox-sequential"])
    def test_an_export_gives_the_evaluations_log_likelihoods(self, tmp_path, tokenizer, family):
        place = Place(tmp_path, family, tokenizer)
        prompts = self.prompts(place)
        assert self.export(place, "mean", "--prompts", prompts) == 0
        evaluation = self.evaluation(place, prompts)
        expected = evaluation.outcomes(*place.pruned)["log_likelihoods"]
        model = load_pruned(place.out)
        actual = [[plain(model, row) for row in document.sequences] for document in evaluation.documents]
        np.testing.assert_allclose(actual, expected, rtol=1e-4)
        whole, zeroed = evaluation.outcomes()["log_likelihoods"], evaluation.ablating(ZERO).outcomes(*place.pruned)
        for other in (whole, zeroed["log_likelihoods"]):
            assert not np.allclose(actual, other, atol=1e-2)
        manifest = json.loads((place.out / "lm_headroom.json").read_text())
        assert manifest["options"]["ablation"] == "mean"
        assert manifest["inputs"]["prompts_0"]["path"] == "prompts/copa/0shot-seed7.parquet"
        # The last bias of the FFN that is gone stays.
        before, (heads, ffns) = place.model.num_parameters(), place.pruned
        assert model.num_parameters() == before - removed(place.model, heads, ffns) + place.model.config.hidden_size
        assert "on average over the scoring documents" in (place.out / "README.md").read_text()
        model.save_pretrained(place.folder / "again")
        torch.testing.assert_close(logits(load_pruned(place.folder / "again")), logits(model))

    def test_a_checkpoint_of_16_bits_keeps_the_means_in_more(self, opt, tmp_path):
        opt.model.bfloat16().save_pretrained(opt.folder / "checkpoint")
        resolve("tiny", str(opt.folder / "checkpoint"), None, opt.record)
        for name, kind in (("heads", RANKING), ("ffns", FFN_RANKING)):
            artifact = read_artifact(opt.ranking(name), kind)
            write(
                opt.ranking(name),
                kind,
                {column: artifact.table.column(column).to_pylist() for column in artifact.table.column_names},
                artifact.provenance | {"model": json.loads(opt.record.read_text())},
            )
        assert self.export(opt, "mean", "--prompts", self.prompts(opt)) == 0
        with safe_open(opt.out / "model.safetensors", "pt") as weights:
            kinds = {name: weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
        (layer,) = opt.pruned[1]
        assert kinds[f"model.decoder.layers.{layer}.fc2.bias"] == torch.float32
        assert kinds["model.decoder.embed_tokens.weight"] == torch.bfloat16

    def test_a_family_without_biases_is_refused_by_name(self, tmp_path, tokenizer, capsys):
        llama = Place(tmp_path, "llama", tokenizer)
        assert self.export(llama, "mean", "--prompts", self.prompts(llama)) == 1
        error = capsys.readouterr().err
        assert "model family 'llama': the output of attention in layer" in error
        assert "export with --ablation zero" in error
        assert not llama.out.exists()

    def test_documents_of_another_cell_than_the_rankings_are_refused(self, opt, capsys):
        for origin, message in (({"seed": 8}, "seed 8, expected 7"), ({"shots": 5}, "shots 5, expected 0")):
            prompts = self.prompts(opt)
            path = opt.folder / "other.parquet"
            artifact = read_artifact(prompts, PROMPTS)
            write(path, PROMPTS, artifact.table.to_pydict(), {"task": "copa", "shots": 0, "seed": 7, **origin})
            assert self.export(opt, "mean", "--prompts", path) == 1
            assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("resample", "ablation resample gives other values for each document, which no checkpoint can hold"),
            ("mean", "name their artifacts with --prompts"),
            ("median", 'Invalid value "median" for --ablation. Choose from: "zero", "mean", "resample"'),
        ],
    )
    def test_what_no_checkpoint_can_hold_is_refused(self, opt, capsys, kind, message):
        assert self.export(opt, kind) != 0
        assert message in capsys.readouterr().err


def test_the_exports_own_number_format_is_the_checkpoints(opt):
    """Run in bfloat16, the masked model's weights are rounded; the written ones are not."""
    assert opt.export("--ranking", opt.ranking("ffns"), "--percent", 34, "--dtype", "bfloat16") == 0
    whole, pruned = opt.model, load_pruned(opt.out)
    assert pruned.dtype == torch.float32
    assert torch.equal(pruned.model.decoder.layers[0].self_attn.q_proj.weight, layer_weight(whole))


def layer_weight(model):
    return model.model.decoder.layers[0].self_attn.q_proj.weight


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: shutil.rmtree(folder),
            "no config.json there; expected a folder that 'lm-headroom export-pruned' made",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
        (
            lambda folder: change(folder, model_type="llama"),
            "this is no pruned checkpoint \\(model type 'llama'\\); load it with transformers' own",
        ),
        (lambda folder: change(folder, format=4), "format 4 of pruned checkpoints is not known here"),
        (lambda folder: change(folder, heads_left=None), "does not say what is left of the model"),
        (lambda folder: change(folder, ffns_left=[0, 1, 2]), "has no weights for model.decoder.layers"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: cut(folder / "model.safetensors"), "cut short or damaged|cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_whole_export_is_refused(tmp_path, spoil, message):
    left = Remainder.without(HeadLayout(3, 4, 4, 6), [(0, 1)], [2])
    prune_for_good(tiny_model("opt").float(), left).save_pretrained(tmp_path / "pruned")
    spoil(tmp_path / "pruned")
    with pytest.raises(HeadroomError, match=message):
        load_pruned(tmp_path / "pruned")


def change(folder, **settings):
    path = Path(folder / "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def test_what_cannot_be_chosen_is_refused_and_other_options_are_taken(tmp_path):
    for options in {"attn_implementation": "eager"}, {"config": None}:
        with pytest.raises(HeadroomError, match=f"{next(iter(options))} cannot be chosen"):
            load_pruned(tmp_path, **options)
    left = Remainder.without(HeadLayout(3, 4, 4, 6), [(0, 1)])
    prune_for_good(tiny_model("opt").float(), left).save_pretrained(tmp_path)
    model, info = load_pruned(tmp_path, local_files_only=False, output_loading_info=True)
    assert model.config.left == left
    assert not info["missing_keys"]


def test_numbers_that_json_has_none_for_come_back(tmp_path):
    """Bamba's steps of time have no upper limit."""
    model = tiny_of_type("bamba").float()
    left = Remainder.without(architectures.head_layout(model), [(1, 0)])
    prune_for_good(model, left).save_pretrained(tmp_path)
    assert tuple(load_pruned(tmp_path).config.time_step_limit) == (0.0, float("inf"))


@pytest.mark.parametrize("family", ["gemma4_text-dense"])
def test_layers_that_differ_in_groups_lose_ffns_and_keep_their_heads(place, capsys):
    """Of what cannot be even, nothing is said where --even is not asked for."""
    assert place.export("--ranking", place.ranking("heads"), place.ranking("ffns"), "--percent", 0, 34) == 0
    heads = ("--ranking", place.ranking("heads"), "--percent", 50)
    place.export(*heads)
    assert "no even number" not in capsys.readouterr().err
    assert place.export(*heads, "--even") == 1
    assert "no even number of heads can be removed from each of them" in capsys.readouterr().err


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_have_fewer_heads_in_a_layer_is_refused(name):
    model = families.model_of(families.CASES[name])
    left = Remainder.without(architectures.head_layout(model), [(0, 0)])
    with pytest.raises(HeadroomError, match=f"model family '{model.config.model_type}' cannot be exported without"):
        choose_form(model, left)


def export_anew(place):
    """Resolve a checkpoint that was changed, and export it without an FFN."""
    resolve("tiny", str(place.folder / "checkpoint"), None, place.record)
    record = json.loads(place.record.read_text())
    write(place.folder / "ffns.parquet", FFN_RANKING, ffn_columns([0, 1, 2], np.arange(3.0)), {"model": record})
    return place.export("--ranking", place.folder / "ffns.parquet", "--percent", 34)


def test_chat_templates_in_a_folder_of_their_own_are_part_of_the_export(opt, capsys):
    tokenizer = AutoTokenizer.from_pretrained(opt.folder / "checkpoint")
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(opt.folder / "checkpoint")
    name = "additional_chat_templates/tool_use.jinja"
    for _ in range(2):
        assert export_anew(opt) == 0
    assert AutoTokenizer.from_pretrained(opt.out).chat_template == tokenizer.chat_template
    manifest = json.loads((opt.out / "lm_headroom.json").read_text())
    assert manifest["files"][name] == file_digest(opt.out / name)
    assert collect(opt.out, "acme/smaller").files[name] == opt.out / name
    place = opt.out.relative_to(opt.results).as_posix()
    assert {file.path: file.state for file in verify(opt.results)}[f"{place}/{name}"] == "missing inputs"
    (opt.out / name).write_text("{{ other }}")
    assert {file.path: file.state for file in verify(opt.results)}[f"{place}/{name}"] == "damaged"
    (opt.out / name).with_name("mine.txt").write_text("1")
    assert export_anew(opt) == 1
    assert "holds additional_chat_templates/mine.txt, which is no part of the export" in capsys.readouterr().err


def test_a_tokenizer_in_the_hubs_files_survives(opt, tokenizer):
    """OPT's: GPT-2's files with an automatic BOS, and no tokenizer.json."""
    from tests.support.checkpoints import write_hub_tokenizer

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (opt.folder / "checkpoint" / name).unlink()
    write_hub_tokenizer(tokenizer, opt.folder / "checkpoint")
    assert export_anew(opt) == 0
    ids = [AutoTokenizer.from_pretrained(p)("The fox")["input_ids"] for p in (opt.folder / "checkpoint", opt.out)]
    assert ids[0] == ids[1]
    assert ids[0][0] == 2, "BOS"
