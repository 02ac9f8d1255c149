"""Prefix-matching scores from TransformerLens's attention patterns: python -m tests.families.lens OUT FOLDER...

A process of its own: what TransformerLens needs is installed apart from what a study needs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = [17, 301, 44, 260, 99, 150, 12]
START = 1


def scores(folder: Path) -> np.ndarray[Any, Any]:
    """Algorithm 1 over the patterns that TransformerLens's hooks see, [layer, head]."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers import helpers
    from transformers import AutoTokenizer

    from tests.families.cases import reference

    # It would install torchvision on the fly, and with it another torch over the pinned one.
    helpers._ensure_torchvision = lambda: False
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=reference(folder), tokenizer=AutoTokenizer.from_pretrained(folder), dtype=torch.float64
    )
    _, cache = bridge.run_with_cache(torch.tensor([[START] + TOKENS * 4]))
    length, actual = len(TOKENS), []
    for layer in range(bridge.cfg.n_layers):
        pattern = cache["pattern", layer][0]
        total = torch.zeros(len(pattern), dtype=torch.float64)
        for t in range(length, 4 * length):
            for copy in range(t // length):
                total += pattern[:, t + 1, copy * length + t % length + 2].double()
        actual.append(total / (3 * length))
    return torch.stack(actual).numpy()


def main(out: str, *folders: str) -> None:
    """Write the scores of each checkpoint folder, or what went wrong with it, by the folder's name."""
    result: dict[str, Any] = {}
    for folder in folders:
        name = Path(folder).parent.name
        try:
            result[name] = scores(Path(folder))
        # Whatever TransformerLens raises; the test says which models it must load.
        except Exception as error:
            result[name] = np.array(f"{type(error).__name__}: {error}")
    np.savez(out, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
