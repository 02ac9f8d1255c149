"""A model's chat template: how the turns of a prompt become one text, as lm-eval's `--apply_chat_template` does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lm_headroom.artifacts.turns import ASSISTANT, SYSTEM, USER, Turn
from lm_headroom.errors import HeadroomError

KEY = "chat"
"""Key of a model's record with the settings; it is there where the model has a chat template applied."""


@dataclass(frozen=True)
class ChatSettings:
    """How prompts become conversations.

    Attributes:
        system_prompt: the text of the system turn, before the task's own description.
        fewshot_as_multiturn: few-shot examples are turns of their own; otherwise the user says all in one.
    """

    system_prompt: str | None = None
    fewshot_as_multiturn: bool = True

    def record(self) -> dict[str, Any]:
        """What a model's record keeps of it."""
        return asdict(self)


class Chat:
    """A chat template with its settings."""

    def __init__(self, tokenizer: Any, settings: ChatSettings) -> None:
        """Take the template of a tokenizer.

        Raises:
            HeadroomError: the tokenizer has none, or refuses a system prompt.
        """
        self._tokenizer, self._settings = tokenizer, settings
        if not tokenizer.chat_template:
            raise HeadroomError(
                "its tokenizer has no chat template; leave chat_template out, or take the instruction-tuned model"
            )
        if settings.system_prompt and not self._takes_system():
            raise HeadroomError("its chat template takes no system prompt; leave system_prompt out")

    def render(self, turns: Iterable[Turn]) -> str:
        """Render the turns of a prompt; where the last is the assistant's, the model goes on with it.

        As in lm-eval, the system turn is left out if the template refuses it.
        """
        from jinja2 import TemplateError

        messages = self._messages(list(turns))
        try:
            return self._apply(messages)
        except TemplateError:
            return self._apply([message for message in messages if message["role"] != SYSTEM])

    def _takes_system(self) -> bool:
        from jinja2 import TemplateError

        try:
            self._apply([{"role": role, "content": "text"} for role in (SYSTEM, USER)])
        except TemplateError:
            return False
        return True

    def _apply(self, messages: list[dict[str, str]]) -> str:
        is_open = messages[-1]["role"] != ASSISTANT
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=is_open, continue_final_message=not is_open
        )
        return text

    def _messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        system = turns.pop(0) if turns[0]["role"] == SYSTEM else None
        instruction = _joined(self._settings.system_prompt, system)
        first = [{"role": SYSTEM, "content": instruction}] if instruction else []
        if self._settings.fewshot_as_multiturn:
            return [*first, *({"role": turn["role"], "content": turn["text"]} for turn in turns)]
        # What the assistant has begun to say stays its own.
        begun = turns.pop() if turns[-1]["role"] == ASSISTANT else None
        asked = "".join(turn["text"] + turn["delimiter"] for turn in turns[:-1]) + turns[-1]["text"]
        last = [{"role": ASSISTANT, "content": begun["text"]}] if begun else []
        return [*first, {"role": USER, "content": asked}, *last]


def _joined(prompt: str | None, system: Turn | None) -> str:
    """A system prompt before a task's description, with the task's delimiter unless white space stands there."""
    text = system["text"] if system else ""
    if not prompt or not text:
        return prompt or text
    bare = not (prompt[-1].isspace() or text[0].isspace())
    return prompt + (system["delimiter"] if system and bare else "") + text
