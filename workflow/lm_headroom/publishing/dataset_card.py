"""The README.md of results on the hub: front matter by which `datasets` loads them, and a page for readers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lm_headroom.artifacts.catalogue import ARTIFACTS, TAG
from lm_headroom.audit.verify import File, summary


def build_dataset_card(repository: str, files: Sequence[File]) -> str:
    """Build the page.

    Args:
        repository: its name on the hub, ``owner/name``.
        files: the judged files of the results folder.
    """
    numbers: dict[str, int] = {}
    for file in files:
        kind = file.provenance.get("kind")
        if kind in ARTIFACTS and file.path.endswith(".parquet"):
            numbers[kind] = numbers.get(kind, 0) + 1
    configs = [
        {"config_name": kind, "data_files": re.sub(r"\{\w+\}", "*", artifact.template)}
        for kind, artifact in ARTIFACTS.items()
        if kind in numbers
    ]
    matter = yaml.safe_dump({"tags": [TAG], "configs": configs}, sort_keys=False, width=120)
    return f"---\n{matter}---\n\n" + "\n".join(_page(repository, files, numbers)) + "\n"


def _page(repository: str, files: Sequence[File], numbers: Mapping[str, int]) -> Iterator[str]:
    yield from (f"# {repository.partition('/')[2]}", "")
    yield "How many attention heads and FFNs of a language model in-context learning needs: results of lm-headroom."
    yield from ("", "## Models", "", "| model | checkpoint | family | digest |", "|---|---|---|---|")
    for record in sorted((file.record for file in files if file.record), key=lambda record: str(record["name"])):
        yield f"| {record['name']} | {_checkpoint(record)} | {record['family']} | `{record['digest'][:16]}` |"
    yield from ("", "## Artifacts", "", "| configuration | files | holds |", "|---|---|---|")
    for kind, number in numbers.items():
        yield f"| `{kind}` | {number} | {ARTIFACTS[kind].title} |"
    yield from ("", f"`lm-headroom verify` judged the files when they were uploaded: {summary(files)}.")
    yield from (
        "",
        "## Read",
        "",
        "```python",
        "import lm_headroom",
        "from huggingface_hub import snapshot_download",
        "",
    )
    yield f'folder = snapshot_download("{repository}", repo_type="dataset")'
    yield "frames = lm_headroom.load_results(folder)  # a frame per kind; model, task, shots and seed are columns"
    yield from ("```", "", "`lm-headroom show FILE` prints what made a file: code, inputs with their digests, options.")


def _checkpoint(record: Mapping[str, Any]) -> str:
    """Where a model's checkpoint comes from; a link only to what the hub gave."""
    source, revision = record.get("source"), record.get("revision")
    if source:
        place = f"https://huggingface.co/{source}"
        return f"[{source}]({place})" + (f" at [{revision[:12]}]({place}/tree/{revision})" if revision else "")
    package = (record.get("origin") or {}).get("package")
    return f"from the Python package {package}" if package else "local"
