"""Step: find a model's checkpoint and write its record."""

from __future__ import annotations

from typing import Annotated

from lm_headroom.options import NO_PERMISSIONS, Count, OutFile, Permissions, StudyKey


def resolve_model(
    *,
    name: str,
    source: str,
    revision: str | None = None,
    permissions: Permissions = NO_PERMISSIONS,
    chat_template: bool = False,
    system_prompt: str | None = None,
    fewshot_as_multiturn: bool = True,
    sequences: Annotated[Count, StudyKey("induction.sequences")] = 0,
    bos: Annotated[bool, StudyKey("induction.bos")] = True,
    out: OutFile,
) -> None:
    """Resolve a model to a local checkpoint and write its record.

    Args:
        name: the model's name in the study.
        source: a checkpoint folder, a hub name such as facebook/opt-125m, or a GGUF file: its path, or the hub name of
            its repository, a slash, and its name there.
        revision: branch, tag or commit on the hub.
        permissions: what the checkpoint may do.
        chat_template: apply the tokenizer's chat template to prompts.
        system_prompt: text of the system turn before each prompt.
        fewshot_as_multiturn: few-shot examples are turns of their own.
        sequences: induction sequences of the study, which its context window must hold; 0 for none.
        bos: put BOS before each sequence.
        out: the record, model.json.

    Example:
        lm-headroom resolve-model --name opt --source facebook/opt-125m --allow-pickle --out results/opt/model.json
    """
    from lm_headroom.models.chat import ChatSettings
    from lm_headroom.models.location import allowed_by
    from lm_headroom.models.resolve import resolve

    chat = ChatSettings(system_prompt, fewshot_as_multiturn) if chat_template else None
    resolve(name, source, revision, out, allowed_by(permissions), sequences, bos, chat)
