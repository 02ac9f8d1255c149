"""The files that decide what a checkpoint computes are those that loading reads, as the kernel sees it read."""

import ctypes
import json
import os
import shutil
import struct
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_headroom.engine.loading import load
from lm_headroom.errors import HeadroomError
from lm_headroom.models.checkpoint_files import Weights, deciding_files, digest, find_weights
from lm_headroom.models.resolve import resolve
from tests.support.tiny_models import tiny_model

IN_OPEN, IN_NONBLOCK = 0x20, 0o4000
"""Of Linux's inotify: it sees what the readers written in other languages open, too."""


@contextmanager
def opened_files(folder):
    """Names of the files below a folder that this process opens, links followed."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(IN_NONBLOCK)
    assert watch >= 0
    places = {}
    for place, _, names in os.walk(folder):
        for path in [place, *(os.path.join(place, name) for name in names)]:
            number = libc.inotify_add_watch(watch, os.fsencode(path), IN_OPEN)
            assert number >= 0
            places[number] = path
    paths = set()
    try:
        yield paths
        while True:
            try:
                events = os.read(watch, 65536)
            except BlockingIOError:
                break
            while events:
                number, _, _, length = struct.unpack_from("iIII", events)
                events = events[16 + length :]
                if os.path.isfile(places[number]):
                    paths.add(os.path.relpath(places[number], folder))
    finally:
        os.close(watch)


@pytest.fixture(scope="module")
def original(tmp_path_factory, tokenizer):
    """A tiny OPT in float32 with its tokenizer, and files that loading has no business with."""
    folder = tmp_path_factory.mktemp("made") / "checkpoint"
    tiny_model("opt").float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, original):
    actual = shutil.copytree(original, tmp_path / "checkpoint")
    for name in ("original", "sub"):
        (actual / name).mkdir()
        shutil.copy(original / "model.safetensors", actual / name)
        shutil.copy(original / "config.json", actual / name / "params.json")
    for name in (
        "training_args.bin",
        "optimizer.bin",
        "consolidated.safetensors",
        "README.md",
        "model.fp16.safetensors",
    ):
        (actual / name).write_bytes(b"not read")
    return actual


def configure(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def as_is(folder):
    return {"model.safetensors"}


def split(folder, name="model"):
    """Two files and their index."""
    weights = load_file(folder / "model.safetensors")
    names = [f"{name}-{n}.safetensors" for n in (1, 2)]
    places = {key: names[place % 2] for place, key in enumerate(weights)}
    for file in names:
        part = {key: value for key, value in weights.items() if places[key] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return {"model.safetensors.index.json", *names}


def sharded(folder):
    files = split(folder)
    (folder / "model.safetensors").unlink()
    return files


def index_beside_a_single_file(folder):
    split(folder)
    return {"model.safetensors"}


def pickles_beside(folder):
    torch.save({}, folder / "pytorch_model.bin")
    return {"model.safetensors"}


def named_by_the_configuration(folder):
    shutil.copy(folder / "model.safetensors", folder / "real.safetensors")
    configure(folder, transformers_weights="real.safetensors")
    return {"real.safetensors"}


def index_named_by_the_configuration(folder):
    files = split(folder, "part") - {"model.safetensors.index.json"}
    (folder / "model.safetensors.index.json").rename(folder / "other.safetensors.index.json")
    configure(folder, transformers_weights="other.safetensors.index.json")
    return {"other.safetensors.index.json", *files}


def links(folder):
    """As the hub's cache has them."""
    blobs = folder.with_name("blobs")
    blobs.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(blobs / path.name)
            path.symlink_to(f"../blobs/{path.name}")
    return {"model.safetensors"}


def plain_vocabulary(folder):
    """No tokenizer but vocab.json and merges.txt."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    return {"model.safetensors", "vocab.json", "merges.txt"}


def old_tokens_and_templates(folder):
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": 520}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>"}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    return {"model.safetensors", "chat_template.jinja", "additional_chat_templates/tool.jinja"}


SCHEMAS = [
    as_is,
    sharded,
    index_beside_a_single_file,
    pickles_beside,
    named_by_the_configuration,
    index_named_by_the_configuration,
    links,
    plain_vocabulary,
    old_tokens_and_templates,
]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_what_is_digested_is_what_loading_reads(folder, tmp_path, kind):
    expected = kind(folder)
    counted = {path.relative_to(folder).as_posix() for path in deciding_files(folder)}
    resolve("tiny", str(folder), None, tmp_path / "results" / "model.json")
    loaded = load(tmp_path / "results" / "model.json", device="cpu")
    # The digest, which reads all that counts, is not what is watched.
    for path in deciding_files(folder):
        assert path.is_file()
    with opened_files(folder) as opened:
        model, tokenizer = read_by_transformers(folder)
    assert expected <= opened
    assert opened <= counted, "nothing is read that no digest covers"
    unread = counted - opened
    assert not any(name.endswith((".safetensors", ".bin")) for name in unread), "no weights count that are not read"
    assert torch.equal(model.lm_head.weight, loaded.model.lm_head.weight)
    assert tokenizer("The lamp")["input_ids"] == loaded.tokenizer("The lamp")["input_ids"]


def read_by_transformers(folder):
    """What any user of transformers does, so that nothing of lm-headroom's chooses files."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_each_file_that_loading_reads_changes_the_digest(folder, kind):
    kind(folder)
    before = digest(folder)
    with opened_files(folder) as opened:
        read_by_transformers(folder)
    for name in opened:
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content + b" " if name.endswith((".json", ".txt", ".jinja")) else content[:-1] + b"\x01")
        assert digest(folder) != before, name
        path.write_bytes(content)
    assert digest(folder) == before


def test_pickles_that_are_allowed_count(folder, tmp_path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    record = tmp_path / "model.json"
    with pytest.raises(HeadroomError, match="are pickles .pytorch_model.bin."):
        resolve("tiny", str(folder), None, record)
    resolve("tiny", str(folder), None, record, ["allow_pickle"])
    with opened_files(folder) as opened:
        assert load(record, device="cpu").model is not None
    assert "pytorch_model.bin" in opened
    assert folder / "pytorch_model.bin" in deciding_files(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transformers_weights": "sub/model.safetensors"}, "expected the name of a file in the same folder"),
        ({"transformers_weights": "../model.safetensors"}, "expected the name of a file in the same folder"),
        ({"transformers_weights": "sub\\model.safetensors"}, "expected the name of a file in the same folder"),
        ({"transformers_weights": "/model.safetensors"}, "expected the name of a file in the same folder"),
        ({"transformers_weights": "pytorch_model.bin"}, "ends with .safetensors or .safetensors.index.json"),
        ({"transformers_weights": "adapter_model.bin"}, "ends with .safetensors or .safetensors.index.json"),
        ({"transformers_weights": ["model.safetensors"]}, "expected the name of a file in the same folder"),
        ({"transformers_weights": 5}, "transformers_weights in config.json is 5; expected the name"),
        ({"transformers_weights": "none.safetensors"}, "lacks none.safetensors, which transformers_weights"),
        ({"text_config": {"transformers_weights": "model.safetensors"}}, "stands in text_config of config.json"),
        ({"configuration_files": ["config.4.0.0.json"]}, "config.json has configuration_files"),
        ({"attribute_map": {"transformers_weights": "x"}, "x": "sub/model.safetensors"}, "has attribute_map"),
    ],
)
def test_weights_that_a_configuration_leads_elsewhere_are_refused(folder, tmp_path, settings, message):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    configure(folder, **settings)
    for allowed in ((), ("allow_pickle",)):
        with pytest.raises(HeadroomError, match=message) as caught:
            resolve("tiny", str(folder), None, tmp_path / "model.json", allowed)
        assert str(caught.value).startswith("model 'tiny': ")
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../model.safetensors"}}, "'a' is in '../model.safetensors'; expected the name of a"),
        ({"weight_map": {"a": "sub/model.safetensors"}}, "expected the name of a [*].safetensors file in the same"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "expected the name of a [*].safetensors file in the same"),
        ({"weight_map": {"a": 5}}, "'a' is in 5; expected the name"),
        ({"weight_map": {"a": ["model.safetensors"]}}, "expected the name"),
        ({"weight_map": {"a": {"b": {}}}}, "expected the name"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["model.safetensors"]}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([], "is not a JSON object of settings .expected an object"),
        ({"weight_map": {"a": "part.safetensors"}}, 'has no "metadata", which transformers needs'),
        ({"weight_map": {"a": "part.safetensors"}, "metadata": 5}, 'has no "metadata", which transformers needs'),
    ],
)
def test_an_index_that_leads_elsewhere_or_is_none_is_refused(folder, tmp_path, index, message):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HeadroomError, match=message) as caught:
        resolve("tiny", str(folder), None, tmp_path / "model.json", ["allow_pickle"])
    assert str(caught.value).startswith("model 'tiny': ")


@pytest.mark.parametrize("name", ["sub/tokenizer.4.0.0.json", "../tokenizer.4.0.0.json", 5, ["x"]])
def test_a_tokenizer_that_leads_elsewhere_is_refused(folder, tmp_path, name):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fast_tokenizer_files": [name]}))
    with pytest.raises(HeadroomError, match="among its fast_tokenizer_files; expected names of files in the same"):
        resolve("tiny", str(folder), None, tmp_path / "model.json")


def test_adapters_and_distributed_checkpoints_are_refused(folder, tmp_path):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(HeadroomError, match="an adapter, which transformers adds .* merge it"):
        resolve("tiny", str(folder), None, tmp_path / "model.json")
    (folder / "adapter_config.json").unlink()
    shutil.copy(folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(HeadroomError, match="of a distributed checkpoint, which transformers takes before all other"):
        resolve("tiny", str(folder), None, tmp_path / "model.json")


def test_checks_of_weights_apply_to_those_that_the_configuration_names(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.layers.1.fc1.weight"] = weights["model.decoder.layers.1.fc1.weight"].to(torch.int8)
    save_file(weights, folder / "real.safetensors", metadata={"format": "pt"})
    configure(folder, transformers_weights="real.safetensors")
    with pytest.raises(HeadroomError, match=r"real.safetensors is quantised \(I8\)"):
        resolve("tiny", str(folder), None, tmp_path / "model.json")
    (folder / "real.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(HeadroomError, match="real.safetensors is not a whole safetensors file"):
        resolve("tiny", str(folder), None, tmp_path / "model.json")


def test_weights_of_names_that_transformers_does_not_look_for_are_none(tmp_path):
    assert find_weights(["b.safetensors", "model.fp16.safetensors", "x.bin", "training_args.bin"], {}, tmp_path) is None
    both = ["pytorch_model.bin", "model.safetensors", "a.safetensors"]
    assert find_weights(both, {}, tmp_path) == Weights("model.safetensors", ("model.safetensors",))


def test_folders_pipes_and_broken_links_are_no_files(folder, tmp_path):
    before = digest(folder)
    (folder / "dir.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "broken.json").symlink_to("nowhere")
    assert digest(folder) == before
    resolve("tiny", str(folder), None, tmp_path / "model.json")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(HeadroomError, match="holds no weights"):
        resolve("tiny", str(folder), None, tmp_path / "model.json")


def test_helpers_in_sub_folders_count_where_code_may_run(folder):
    helper = folder / "sub" / "deep" / "helper.py"
    helper.parent.mkdir()
    helper.write_text("A = 1")
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "linked.py").write_text("A = 1")
    (folder / "link").symlink_to(elsewhere)
    (folder / "circle").symlink_to(".")
    without, with_code = digest(folder), digest(folder, code=True)
    for path in (helper, elsewhere / "linked.py"):
        path.write_text("A = 2")
        assert digest(folder) == without
        assert digest(folder, code=True) != with_code
        path.write_text("A = 1")
    assert digest(folder, code=True) == with_code


def test_tokenizers_of_all_classes_are_small_files(tmp_path):
    """Every name that a tokenizer class of transformers looks for."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    names = set()
    for name in {name for name in TOKENIZER_MAPPING_NAMES.values() if name}:
        try:
            names |= set(tokenizer_class_from_name(name).vocab_files_names.values())
        except (ImportError, AttributeError):
            continue
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= names
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}")
    assert {path.name for path in deciding_files(tmp_path)} >= names
