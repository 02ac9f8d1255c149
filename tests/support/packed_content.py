"""What tests of GGUF files and of quantised checkpoints ask of the record of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.models.location import has_kept_content, needs_resolving
from lm_headroom.models.resolve import resolve


class PackedContent:
    """A packed model in the working folder, resolved once.

    Attributes:
        SOURCE: its name there.
        WRITE: writes it, with a tokenizer.
    """

    CODE = code_digest("models.resolve")
    SOURCE: ClassVar[str]
    WRITE: ClassVar[Callable[[Path, Any], Any]]

    @pytest.fixture(autouse=True)
    def files(self, tmp_path, monkeypatch, tokenizer):
        monkeypatch.chdir(tmp_path)
        self.tokenizer, self.record = tokenizer, tmp_path / "results" / "m" / "model.json"
        type(self).WRITE(tmp_path / self.SOURCE, tokenizer)
        self.first = self.resolve()

    def resolve(self, source=None):
        return resolve("m", source or self.SOURCE, None, self.record)

    def needs(self, source=None):
        return needs_resolving(self.record, source or self.SOURCE, None, self.CODE)

    def kept(self):
        return has_kept_content(self.record, self.SOURCE, None, self.CODE)
