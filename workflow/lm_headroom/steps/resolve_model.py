"""Step: find a model's checkpoint and write its record."""

from __future__ import annotations

from typing import Annotated

from lm_headroom.options import Count, OutFile, StudyKey


def resolve_model(
    *,
    name: str,
    source: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
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
        trust_remote_code: run the checkpoint's own code.
        allow_pickle: read weights from pickles where it has no safetensors.
        chat_template: apply the tokenizer's chat template to prompts.
        system_prompt: text of the system turn before each prompt.
        fewshot_as_multiturn: few-shot examples are turns of their own.
        sequences: induction sequences of the study, which its context window must hold; 0 for none.
        bos: put BOS before each sequence.
        out: the record, model.json.

    Example:
        lm-headroom resolve-model --name opt --source facebook/opt-125m --out results/opt/model.json
    """
    from lm_headroom.models.chat import ChatSettings
    from lm_headroom.models.location import PERMISSIONS
    from lm_headroom.models.resolve import resolve

    permissions = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    allowed = [permission for permission in PERMISSIONS if permissions[permission]]
    chat = ChatSettings(system_prompt, fewshot_as_multiturn) if chat_template else None
    resolve(name, source, revision, out, allowed, sequences, bos, chat)
