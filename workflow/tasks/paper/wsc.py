"""WSC: whether a pronoun refers to a noun."""

from typing import Any


def process_docs(dataset: Any) -> Any:
    """Of the training split only the records with label 1 (it does); other splits as they are."""
    return dataset.filter(lambda doc: doc["label"] == 1) if dataset.split == "train" else dataset
