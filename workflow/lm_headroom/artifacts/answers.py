"""Columns that keep what a model said of every choice, from which any outcome can be computed."""

import pyarrow as pa

from lm_headroom.artifacts.store import Column


def answer_columns(has_dense: bool = False, nullable: bool = False) -> tuple[Column, ...]:
    """Columns of a row's log-likelihoods, by document and choice, and of what outcomes need beside them.

    Args:
        has_dense: whether a row holds the whole model's, too.
        nullable: whether a row may have none.
    """
    by_choice = "per document and choice"
    dense = Column(
        "log_likelihoods_dense",
        pa.list_(pa.list_(pa.float32())),
        f"{by_choice}: log p of the continuation by the whole model, nats",
        nullable,
    )
    return (
        *([dense] if has_dense else []),
        Column(
            "log_likelihoods",
            pa.list_(pa.list_(pa.float32())),
            f"{by_choice}: log p of the continuation, nats",
            nullable,
        ),
        Column(
            "document_question", pa.list_(pa.int64()), "per document of these: its question, one of doc_id", nullable
        ),
        Column("gold", pa.list_(pa.list_(pa.bool_())), f"{by_choice}: whether it is a right one", nullable),
        Column("n_bytes", pa.list_(pa.list_(pa.int32())), f"{by_choice}: bytes of the continuation in UTF-8", nullable),
        Column("n_tokens", pa.list_(pa.list_(pa.int32())), f"{by_choice}: tokens of the continuation", nullable),
    )
