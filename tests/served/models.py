"""Which of transformers' causal language models are served; ``python -m tests.served.models`` writes them.

A tiny random model of each type is given to the code that a study meets. Takes minutes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lm_headroom.errors import HeadroomError
from lm_headroom.models.architectures import ARCHITECTURES
from tests.support.model_types import NotTinyError, model_types, tiny_of_type

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- made by tests/served/models.py -->\n", "<!-- end -->\n"
REASONS = {
    r"does not go through transformers' attention interface": "its attention does not go through transformers' "
    "attention interface",
    r"calls the attention interface \d+ times": "a layer attends more than once",
    r"has no attention, and what mixes": "a layer without attention has not one FFN and one module that mixes tokens",
    r"norms in other places": "its layers without attention have norms in other places than those with it",
    r"layers differ in": "its layers differ in the number of query heads",
    r"packed rows differ": "it takes positions from the order of tokens, so that rows cannot be packed",
    r"more than the output embedding": "its logits are more than its output embedding",
    r"closing heads is not the same": "a norm follows its heads, so that removing one changes the others",
    r"which of a layer's modules": "what a layer adds beside attention is not one FFN",
    r"a pass without weights": "the pass without weights that shows its parts fails",
    r"no single linear map takes": "no linear map takes the outputs of its heads",
    r"attn_temperature_tuning": "it scales queries by their place in a row of tokens, so that rows cannot be packed",
    r"add_cross_attention": "its layers attend to an encoder",
}
"""Pattern of a refusal to what the page says."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a type: how it is served (by row, or by inference), or why it is refused or was not tried."""

    served: str = ""
    refused: str = ""
    untried: str = ""


def verdict(name: str) -> Verdict:
    """Try one type."""
    from lm_headroom.engine.attachment import attach

    try:
        model = tiny_of_type(name)
    except NotTinyError as error:
        return Verdict(untried=str(error))
    try:
        attach(model)
    except HeadroomError as error:
        return Verdict(refused=next(reason for pattern, reason in REASONS.items() if re.search(pattern, str(error))))
    # Code of the family that does not fit a pass of ours.
    except Exception as error:
        return Verdict(refused=f"a pass of ours fails in its code ({type(error).__name__})")
    return Verdict(served="row" if name in ARCHITECTURES else "inference")


def table(verdicts: dict[str, Verdict]) -> str:
    """The part of the page."""

    def listed(names: list[str]) -> str:
        return ", ".join(f"`{name}`" for name in names)

    rows = [name for name, one in verdicts.items() if one.served == "row"]
    inferred = [name for name, one in verdicts.items() if one.served == "inference"]
    untried = [name for name, one in verdicts.items() if one.untried]
    reasons: dict[str, list[str]] = {}
    for name, one in verdicts.items():
        if one.refused:
            reasons.setdefault(one.refused, []).append(name)
    lines = [
        f"Of the {len(verdicts)} causal language model types in transformers {version('transformers')}, "
        f"{len(rows) + len(inferred)} are served: {len(inferred)} by what a pass shows of them, {len(rows)} by a row "
        f"of our own. {sum(map(len, reasons.values()))} are refused. {len(untried)} could not be tried, since no tiny "
        "model of theirs was made; they are served if they pass the proofs.",
        "",
        "| | model types |",
        "|---|---|",
        f"| served, by what a pass shows | {listed(inferred)} |",
        f"| served, by a row | {listed(rows)} |",
        *(
            f"| refused: {reason} | {listed(names)} |"
            for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1]))
        ),
        f"| not tried | {listed(untried)} |",
        "",
    ]
    return "\n".join(lines)


def write_part(begin: str, text: str) -> None:
    """Put a text in the place of what the page has from a line that begins a part to the next end."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{begin}{text}{END}{after}", encoding="utf-8")


def main() -> None:
    """Try all types and write the page."""
    write_part(BEGIN, table({name: verdict(name) for name in model_types()}))


if __name__ == "__main__":
    main()
