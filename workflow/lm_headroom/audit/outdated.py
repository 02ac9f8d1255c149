"""Results that say of themselves that they were made with other options or by other code than the study's.

Snakemake compares options and code with its own records, ``.snakemake/metadata``. Where these were lost, or results
were copied here from elsewhere, the results' own provenance decides. Standard library only, until there is such a
file: the Snakefile asks at every parse.
"""

from __future__ import annotations

import hashlib
import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from lm_headroom.artifacts.catalogue import MANIFEST
from lm_headroom.artifacts.code_digest import package_digest
from lm_headroom.artifacts.content import state_of
from lm_headroom.artifacts.entries import entries
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.study.config import Study
from lm_headroom.tasks.data import Records

_SUFFIXES = (".parquet", ".png", ".pdf", ".svg", ".html", ".md", ".csv")


class Outdated:
    """Results of a folder that Snakemake's own records do not speak for, judged by their provenance.

    Attributes:
        reasons: path from the working folder to why it is outdated.
    """

    def __init__(self, results: Path, study: Study, snakemake: Path, records: Records) -> None:
        """Judge them.

        Args:
            results: the results folder.
            study: the study.
            snakemake: Snakemake's folder, ``.snakemake``; files that were judged before are remembered there.
            records: of the study's tasks.
        """
        self._store = snakemake / "lm_headroom.judged.json"
        self.reasons: dict[str, list[str]] = {}
        unknown = [path for path in _visible(results) if not _is_recorded(path, snakemake / "metadata")]
        # What is known of a file is the name of its folder, too: the same file elsewhere is another result.
        self._states = {f"{path.parent} {state_of(path)}": path for path in unknown}
        if not unknown:
            return
        # Whatever may change what is found of a file: files are judged by the code of all steps.
        text = json.dumps([study.model_dump(), records.contents()], sort_keys=True, default=str)
        self._judge = hashlib.sha256(f"{text} {package_digest()}".encode()).hexdigest()
        self._sound = self._read()
        left = [path for state, path in self._states.items() if state not in self._sound]
        if left:
            from lm_headroom.audit.verify import made_otherwise

            self.reasons = dict(made_otherwise(results, left, study, records.digests))
        # No digest here knows the files of own scores: what was made from them is judged each time.
        self._sound = {
            state
            for state, path in self._states.items()
            if str(path) not in self.reasons and not {*path.parts, path.stem} & {*study.rankings}
        }

    def report(self, say: Callable[[str], object]) -> None:
        """Say which results are outdated, and why: the first three, and how many more."""
        for path, reasons in islice(self.reasons.items(), 3):
            # A pruned checkpoint, which no other target needs.
            when = " where it is asked for" if os.path.isdir(path) else ""
            say(f"{path} is made again{when}: {reasons[0]}.")
        if len(self.reasons) > 3:
            say(f"So are {len(self.reasons) - 3} more; lm-headroom verify names them.")

    def keep(self) -> None:
        """Remember which are not outdated, so that they need not be read again; not where nothing can be written."""
        if not self._states:
            return
        partial = self._store.with_name(f".{self._store.name}.{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps({"judge": self._judge, "sound": sorted(self._sound)}), encoding="utf-8")
            partial.replace(self._store)
        except OSError:
            partial.unlink(missing_ok=True)

    def _read(self) -> set[str]:
        try:
            judged = read_object(self._store)
        except (OSError, ValueError):
            return set()
        same = judged.get("judge") == self._judge and isinstance(judged.get("sound"), list)
        return {state for state in judged["sound"] if isinstance(state, str)} if same else set()


def _visible(results: Path) -> Iterator[Path]:
    """Files that may hold provenance, and folders of pruned checkpoints, whose manifests do."""
    for entry in entries(results):
        path = results / entry.path
        if not entry.problem and path.name == MANIFEST:
            yield path.parent
        elif not entry.problem and path.suffix in _SUFFIXES:
            yield path


def _is_recorded(path: Path, metadata: Path) -> bool:
    """Whether Snakemake has a record of a file, and the file did not arrive after it."""
    name = urlsafe_b64encode(str(path).encode()).decode()
    try:
        length = os.pathconf(metadata, "PC_NAME_MAX") - 1
        *folders, last = [name[start : start + length] for start in range(0, len(name), length)]
        record = metadata.joinpath(*(f"@{part}" for part in folders), last)
        return path.stat().st_ctime_ns <= record.stat().st_ctime_ns
    except OSError:
        return False
