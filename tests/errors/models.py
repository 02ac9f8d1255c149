"""Checkpoints, and what models compute."""

import json

import numpy as np
import torch

from lm_headroom.engine import loading
from lm_headroom.models import architectures, quantised
from lm_headroom.scoring import gradient
from tests.errors.page import Cases
from tests.support.gguf_models import tiny_packed
from tests.support.hub import Fault
from tests.support.quantised_models import write_fp8
from tests.support.tiny_models import SENTENCES

CASES = Cases()


# Models, at the command that looks at them first.


@CASES.case("a model folder that is not there")
def _(bench):
    return bench.resolve("/no/such/folder")


@CASES.case("a model, and the hub cannot be reached")
def _(bench):
    bench.unreachable_hub()
    return bench.resolve("facebook/opt-125m")


@CASES.case("a folder without configuration")
def _(bench):
    folder = bench.checkpoint()
    (folder / "config.json").unlink()
    return bench.resolve(folder)


@CASES.case("a configuration that is no JSON")
def _(bench):
    folder = bench.checkpoint()
    (folder / "config.json").write_text("{'model_type': 'opt'}")
    return bench.resolve(folder)


@CASES.case("a configuration that contradicts itself")
def _(bench):
    return bench.resolve(bench.checkpoint(hidden_size=25))


@CASES.case("a folder without weights")
def _(bench):
    folder = bench.checkpoint()
    (folder / "model.safetensors").unlink()
    return bench.resolve(folder)


@CASES.case("a folder without a tokenizer")
def _(bench):
    folder = bench.checkpoint()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return bench.resolve(folder)


def pickled(bench):
    """A checkpoint whose weights are a pickle."""
    from safetensors.torch import load_file

    folder = bench.checkpoint("pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@CASES.case("weights cut short")
def _(bench):
    folder = bench.checkpoint()
    cut_short(folder)
    return bench.resolve(folder)


@CASES.case("a weight file that is not there")
def _(bench):
    folder = bench.checkpoint()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    (folder / "model.safetensors").rename(folder / names[0])
    places = {f"w{n}": name for n, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return bench.resolve(folder)


@CASES.case("a family that is not supported")
def _(bench):
    return bench.resolve(bench.checkpoint(model_type="xglm"))


@CASES.case("a supported family with a setting that is not")
def _(bench):
    return bench.resolve(bench.checkpoint(model_type="mpt", attn_config={"alibi": False}))


@CASES.case("a model that needs code of its own")
def _(bench):
    auto_map = {"AutoModelForCausalLM": "modeling.Phi3SmallForCausalLM"}
    return bench.resolve(bench.checkpoint(model_type="phi3_small", auto_map=auto_map))


@CASES.case("code of its own without a class for its configuration")
def _(bench):
    auto_map = {"AutoModelForCausalLM": "modeling.Phi3SmallForCausalLM"}
    return bench.resolve(bench.checkpoint(model_type="phi3_small", auto_map=auto_map), None, "--trust-remote-code")


@CASES.case("code of another repository")
def _(bench):
    auto_map = {"AutoModelForCausalLM": "somebody/code--modeling.OPTForCausalLM"}
    return bench.resolve(bench.checkpoint(auto_map=auto_map), None, "--trust-remote-code")


@CASES.case("a tokenizer that needs code of its own")
def _(bench):
    folder = bench.checkpoint()
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    (folder / "mine.py").write_text("raise AssertionError('run')\n")
    (folder / "tokenizer.json").unlink()
    return bench.resolve(folder)


@CASES.case("a model that is gated on the hub")
def _(bench):
    return bench.resolve_at_hub("meta-llama/Llama-3.2-1B", gated=True)


@CASES.case("a gated model and the token of another account")
def _(bench):
    return bench.resolve_at_hub("meta-llama/Llama-3.2-1B", gated=True, token="other")


@CASES.case("a token that the hub does not know")
def _(bench):
    return bench.resolve_at_hub("facebook/opt-125m", token="wrong")


@CASES.case("a download of a model that breaks off")
def _(bench):
    fault = Fault("GET .*/config.json", after=9, reset=True)
    return bench.resolve_at_hub("facebook/opt-125m", fault)


@CASES.case("a hub that is out of order")
def _(bench):
    return bench.resolve_at_hub("facebook/opt-125m", Fault("/api/models", 503))


@CASES.case("quantised weights")
def _(bench):
    return bench.resolve(bench.checkpoint(quantization_config={"quant_method": "gptq", "bits": 4}))


def by_torchao(kind):
    """The settings of a checkpoint that torchao quantised."""
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_version": 2, "_data": {}}}}


@CASES.case("quantised weights of torchao, which is not installed")
def _(bench):
    bench.patch.setattr(quantised, "find_spec", lambda name: None)
    return bench.resolve(bench.checkpoint(quantization_config=by_torchao("Int8WeightOnlyConfig")))


@CASES.case("quantised weights and activations")
def _(bench):
    settings = by_torchao("Int8DynamicActivationInt8WeightConfig")
    return bench.resolve(bench.checkpoint(quantization_config=settings))


@CASES.case("quantised weights whose blocks are not whole")
def _(bench):
    write_fp8(bench.folder / "packed", bench.tokenizer, block=(16, 32))
    return bench.resolve(bench.folder / "packed")


@CASES.case("quantised weights, of which a scale is missing")
def _(bench):
    def change(weights):
        del weights["model.layers.1.mlp.up_proj.weight_scale_inv"]

    write_fp8(bench.folder / "packed", bench.tokenizer, change=change)
    return bench.resolve(bench.folder / "packed")


@CASES.case("quantised weights with numbers that transformers does not use")
def _(bench):
    def change(weights):
        weights["model.layers.1.mlp.up_proj.weight_zero_point"] = torch.ones(1)

    write_fp8(bench.folder / "packed", bench.tokenizer, change=change)
    return bench.resolve(bench.folder / "packed")


@CASES.case("quantised weights and code of its own")
def _(bench):
    settings = {"quantization_config": {"quant_method": "fp8"}, "auto_map": {"AutoModelForCausalLM": "mine.MyOPT"}}
    return bench.resolve(bench.checkpoint(**settings), None, "--trust-remote-code")


@CASES.case("quantised weights that a package turns back")
def _(bench):
    return bench.resolve(bench.checkpoint(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}))


@CASES.case("quantised weights without a word of it in the configuration")
def _(bench):
    from safetensors.torch import load_file, save_file

    folder = bench.checkpoint()
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.layers.1.fc1.weight"] = weights["model.decoder.layers.1.fc1.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return bench.resolve(folder)


@CASES.case("a GGUF file that is not there")
def _(bench):
    (bench.folder / "other.gguf").write_bytes(b"GGUF")
    return bench.resolve(bench.folder / "mine.gguf")


@CASES.case("GGUF files without a name")
def _(bench):
    folder = bench.checkpoint()
    (folder / "model.safetensors").rename(folder / "q8.gguf")
    return bench.resolve(folder)


@CASES.case("a GGUF file that its repository does not have")
def _(bench):
    return bench.resolve_at_hub("acme/tiny", file="q8.gguf")


@CASES.case("a part of a GGUF file")
def _(bench):
    return bench.resolve(bench.folder / "mine-00001-of-00003.gguf")


@CASES.case("a GGUF file cut short")
def _(bench):
    (bench.folder / "mine.gguf").write_bytes(b"GGUF")
    return bench.resolve(bench.folder / "mine.gguf")


def packed(bench, change):
    """A GGUF file of a tiny model that ``change`` alters before it is written."""
    path = bench.folder / "mine.gguf"
    tiny_packed(path, bench.tokenizer, change=change)
    return path


@CASES.case("numbers in a GGUF file that transformers cannot read")
def _(bench):
    def as_integers(writer, tensors):
        tensors["output_norm.weight"] = (np.ones(32, np.int32), None)

    return bench.resolve(packed(bench, as_integers))


@CASES.case("a GGUF file of a family that transformers does not read")
def _(bench):
    def rename(writer, tensors):
        writer.kv_data[0]["general.architecture"].value = "plamo"

    return bench.resolve(packed(bench, rename))


@CASES.case("weights in pickles")
def _(bench):
    return bench.resolve(pickled(bench))


# Models, when they are loaded.


@CASES.case("a model record that is none")
def _(bench):
    record = bench.record()
    record.write_text(record.read_text()[:50])
    return bench.score(record=record)


@CASES.case("a checkpoint that was moved away")
def _(bench):
    record = bench.record()
    (bench.folder / "checkpoint").rename(bench.folder / "elsewhere")
    return bench.score(record=record)


@CASES.case("weights cut short after the model was resolved")
def _(bench):
    record = bench.record()
    cut_short(bench.folder / "checkpoint")
    return bench.score(record=record)


@CASES.case("a layer's weights are not there")
def _(bench):
    def change(weights):
        for name in ("bias", "weight"):
            del weights[f"model.decoder.layers.1.fc2.{name}"]

    return bench.score(record=bench.spoil(change))


def set_one(value):
    """Change one number of one weight."""

    def change(weights):
        weights["model.decoder.layers.1.fc1.weight"][3, 4] = value

    return change


@CASES.case("weights that are not numbers")
def _(bench):
    return bench.score(record=bench.spoil(set_one(float("nan"))))


@CASES.case("weights beyond the number format")
def _(bench):
    return bench.score("--dtype", "float16", record=bench.spoil(set_one(1e6)))


@CASES.case("a tokenizer that cannot be loaded")
def _(bench):
    folder = bench.checkpoint()
    (folder / "tokenizer.json").write_text("{}")
    return bench.score(record=bench.record(folder))


@CASES.case("a GPU is asked for and there is none")
def _(bench):
    bench.patch.setattr(torch.cuda, "is_available", lambda: False)
    return bench.score("--device", "cuda")


@CASES.case("a number format that the device cannot compute")
def _(bench):
    def refuse(model, kept):
        raise RuntimeError("\"addmm\" not implemented for 'Half'")

    bench.patch.setattr(loading, "attach", refuse)
    return bench.score("--dtype", "float16")


@CASES.case("a model that does not fit the memory")
def _(bench):
    def refuse(*arguments, **options):
        raise torch.OutOfMemoryError("tried to allocate 132 GiB")

    bench.patch.setattr(loading.AutoModelForCausalLM, "from_pretrained", refuse)
    return bench.score()


def memory_for(most, function):
    """``function`` of a model and a batch, out of memory where the batch has more than so many tokens."""

    def limited(loaded, batch, *arguments, **options):
        if batch.columns > most:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return function(loaded, batch, *arguments, **options)

    return limited


@CASES.case("a document that does not fit the memory")
def _(bench):
    bench.patch.setattr(gradient, "products", memory_for(0, gradient.products))
    return bench.score()


@CASES.case("memory runs out elsewhere")
def _(bench):
    def refuse(*arguments):
        raise MemoryError("tried to allocate too much")

    bench.patch.setattr("lm_headroom.steps.score_heads.rank_heads", refuse)
    bench.patch.setattr("lm_headroom.steps.score_heads.write", refuse)
    return bench.score()


@CASES.case("a continuation longer than the window")
def _(bench):
    contexts = [*SENTENCES[:2], "Say:"]
    return bench.score(prompts=bench.prompts(contexts, [" " + " lamp" * 300, " a"]))


@CASES.case("an empty context and no start token")
def _(bench):
    folder = bench.checkpoint()
    path = folder / "tokenizer_config.json"
    settings = {k: v for k, v in json.loads(path.read_text()).items() if not k.endswith("_token")}
    path.write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    return bench.score(record=bench.record(folder), prompts=bench.prompts(["The lamp", "", "Light", "Rain"]))


def overflow_after_loading(bench, layer):
    """A model whose weights of one layer's FFN become NaN once it has been proved."""
    attach = loading.attach

    def spoiled(model, kept):
        interventions = attach(model, kept)
        architectures.ffn_modules(model)[layer][0].weight[:] = float("nan")
        return interventions

    bench.patch.setattr(loading, "attach", spoiled)


@CASES.case("log-likelihoods that are not finite")
def _(bench):
    overflow_after_loading(bench, 1)
    return bench.prune()


@CASES.case("losses that are not finite")
def _(bench):
    overflow_after_loading(bench, 1)
    return bench.score()


@CASES.case("gradients that are not finite")
def _(bench):
    plain = gradient.products

    def overflow(*arguments, **options):
        result = plain(*arguments, **options)
        result[1].heads[0, 2] = float("inf")
        return result

    bench.patch.setattr(gradient, "products", overflow)
    return bench.score()


@CASES.case("weights that the configuration takes from elsewhere")
def _(bench):
    return bench.resolve(bench.checkpoint(transformers_weights="sub/real.safetensors"))


@CASES.case("an index that takes weights from elsewhere")
def _(bench):
    folder = bench.checkpoint()
    (folder / "model.safetensors").rename(bench.folder / "x.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return bench.resolve(folder)


@CASES.case("an adapter beside the weights")
def _(bench):
    folder = bench.checkpoint()
    (folder / "adapter_config.json").write_text("{}")
    return bench.resolve(folder)


@CASES.case("a model without a chat template")
def _(bench):
    return bench.resolve(bench.checkpoint(), None, "--chat-template")


@CASES.case("a window too short for the induction sequences")
def _(bench):
    return bench.resolve(bench.checkpoint(), None, "--sequences", "100")


@CASES.case("a checkpoint that was changed after the model was resolved")
def _(bench):
    record = bench.record()
    path = bench.folder / "checkpoint" / "tokenizer_config.json"
    path.write_text(path.read_text() + " ")
    return bench.score(record=record)
