"""The findings of a study in words, computed from its artifacts.

Each finding begins with its verdict in bold. A sentence says no more than its numbers: losses come with their interval
or the standard error of the paired difference, correlations with what they would be without noise, and the chance level
stands beside the accuracy that is compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.findings.agreement import agreement_findings
from lm_headroom.report.findings.ffns import ffn_findings
from lm_headroom.report.findings.heads import head_findings
from lm_headroom.report.findings.induction import induction_findings
from lm_headroom.report.findings.rankings import ranking_findings
from lm_headroom.report.pages import listed, write_page
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.method import describe_method

IN_SHORT = "In short"
"""The first section, which `make demo` prints."""
LONGEST = 6
"""Findings in short, at most."""
INTRO = (
    "Values after ± are standard errors over questions; ranges of losses are 95% intervals over the same questions. A "
    "share can be pruned if a non-inferiority test at each level up to it shows, with 95% confidence, a loss within "
    "the margin (see the headroom table). Of several outcomes, the sharpest gives the verdict: the one with the most "
    "power at the lowest pruning level, whatever it shows. More documents would settle a verdict in the sense that "
    "this level would then pass with a probability of 80% if it lost nothing. A rise of a cost, such as bits per byte, "
    "is a loss. A few-shot gain is the outcome at these shots minus that at 0 shots."
)


def findings(matrix: ResultsMatrix) -> str:
    """The findings of one model and seed, as Markdown without a title."""
    chance = read_chance_levels(matrix)
    sections: dict[str, Sequence[str]] = {
        "1. How many attention heads can be pruned": head_findings(matrix, chance),
        "2. How many FFNs can be pruned, alone and together with heads": ffn_findings(matrix, chance),
        "3. Whether tasks need the same heads": agreement_findings(matrix),
        "4. Whether other rankings work as well": [*ranking_findings(matrix, chance)],
        "5. Where the induction heads are, and whether pruning keeps them": induction_findings(matrix, chance),
    }
    sections = {IN_SHORT: in_short(sections.values()), **sections}
    intro = f"The study's tasks are {listed(matrix.tasks)}. {describe_method(matrix)}{INTRO}"
    return "\n".join([intro, *(line for name, lines in sections.items() for line in ("", f"## {name}", *lines)), ""])


def in_short(sections: Iterable[Sequence[str]]) -> list[str]:
    """The first finding of each section, and while there is room the second of each, as verdict and first sentence.

    Args:
        sections: lines of each, of which findings begin with a dash and a verdict in bold.

    Example:
        >>> in_short([["- **Yes.** By 2 points. More."], ["- **No.** By 0.5 points (0 to 1). Less."]])
        ['- **Yes.** By 2 points.', '- **No.** By 0.5 points (0 to 1).']
    """
    listed_findings = [[line for line in lines if line.startswith("- ")] for lines in sections]
    firsts = [(n, rank, line) for n, lines in enumerate(listed_findings) for rank, line in enumerate(lines)]
    chosen = sorted(sorted(firsts, key=lambda place: (place[1], place[0]))[:LONGEST])
    return [re.sub(r"(- \*\*.*?\*\* .*?\.)( [A-Z].*)?$", r"\1", line) for _, _, line in chosen]


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the findings to ``out``.md and ``out``.html."""
    with reads() as sources:
        text = findings(matrix)
    record = describe_drawn("findings", "report.findings.page", sources, matrix.options, out)
    write_page(out, f"Findings: {matrix.model}, few-shot seed {matrix.seed}", text, record)
