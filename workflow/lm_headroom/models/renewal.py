"""Making a model's record again before jobs are planned, where it may no longer be true.

As a job it would drag all jobs of the model along, whatever it finds. Made before, it differs only where the model
does, and Snakemake looks at its content. The first record is a rule's, since it may need a download. Standard library
only: the Snakefile imports this module at every parse.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.errors import HeadroomError
from lm_headroom.models.chat import ChatSettings
from lm_headroom.models.location import (
    allowed_by,
    digests_file,
    has_kept_content,
    has_other_source,
    needs_resolving,
    read_location,
)
from lm_headroom.models.sequences import check_window


@dataclass(frozen=True)
class ModelSource:
    """A model of a study, as it is resolved.

    Attributes:
        name: in the study.
        source, revision: as the resolving command is given them.
        allowed: what the checkpoint may do.
        chat: how its chat template is applied; None where it is not.
        options: of the resolving command, all but where the record is written.
    """

    name: str
    source: str
    revision: str | None
    allowed: Sequence[str]
    chat: Mapping[str, Any] | None
    options: Sequence[str]


def source_of(name: str, model: Any, embedded: str, more: str) -> ModelSource:
    """A model as it is resolved.

    Args:
        name: in the study.
        model: what the typed study says of it.
        embedded: folder where the embedded model is unpacked.
        more: further options of the resolving command, quoted.
    """
    source = embedded if model.source == "embedded" else model.checkpoint
    allowed = allowed_by(model)
    revision = ["--revision", model.revision] if model.revision else []
    permissions = [f"--{permission.replace('_', '-')}" for permission in allowed]
    options = ["--name", name, "--source", source, *revision, *permissions]
    if model.chat_template:
        prompt = [] if model.system_prompt is None else [f"--system-prompt={model.system_prompt}"]
        options += ["--chat-template", *prompt, *([] if model.fewshot_as_multiturn else ["--no-fewshot-as-multiturn"])]
    chat = ChatSettings(model.system_prompt, model.fewshot_as_multiturn).record() if model.chat_template else None
    return ModelSource(name, source, model.revision, allowed, chat, [*options, *shlex.split(more)])


def check_fit(model: str, record: Path, induction: Any) -> None:
    """Refuse induction sequences that a model whose record is there cannot hold, whatever made the record.

    Raises:
        HeadroomError: they do not fit.
    """
    window = (read_location(record).get("sizes") or {}).get("max_positions")
    if window is not None:
        check_window(model, window, induction.sequences, induction.bos)


@dataclass(frozen=True)
class Renewal:
    """How records are made again.

    Attributes:
        scratch: folder for what must not be written among the results.
        writes: whether results may be written.
        is_run: whether jobs will run.
        say, warn: take what the user should know.
    """

    scratch: Path
    writes: bool
    is_run: bool
    say: Callable[[str], object]
    warn: Callable[[str], object]

    def changes(self, record: Path, model: ModelSource) -> bool:
        """Look at a checkpoint anew where its record may no longer be true.

        Args:
            record: the model's record.
            model: what the record should be of.

        Returns:
            Whether a run would make another record than the one that is there, which is kept.

        Raises:
            HeadroomError: another run is in the way, or the results are of a source that is not there any more.
        """
        asked = (record, model.source, model.revision, code_digest("models.resolve"), model.allowed, model.chat)
        if not needs_resolving(*asked) or (not self.writes and has_kept_content(*asked)):
            return False
        if self.is_run and not self.writes:
            raise HeadroomError(
                f"The checkpoint of {model.name} has to be looked at anew, but another run works in this folder. "
                "Wait until it has ended."
            )
        self.say(f"Looking at the checkpoint of {model.name} anew.")
        target = record if self.writes else self.scratch / record
        if not self.writes:
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copy2(digests_file(record), digests_file(target))
        command = ["python", "-m", "lm_headroom", "resolve-model", *model.options, "--out", str(target)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            self._report((done.stderr.strip().splitlines() or ["no message"])[-1], record, model)
        elif not record.is_file():
            self.warn(
                f"A run makes the record of {model.name}, which is lost, before it plans, and may then have less to do "
                "than is listed here."
            )
        else:
            return target.read_bytes() != record.read_bytes()
        return False

    def _report(self, message: str, record: Path, model: ModelSource) -> None:
        """Say what it means that a model could not be resolved."""
        if has_other_source(record, model.source, model.revision, model.allowed):
            raise HeadroomError(
                f"{message}\nThe results of {model.name} are of another source, or of one that was allowed other "
                "things."
            )
        self.warn(
            f"{message}\nResults of {model.name} stay as they are, but no job can run it."
            if record.is_file()
            else f"{message}\nThe record of {model.name} is lost: a job makes it, and all that uses it follows."
        )
