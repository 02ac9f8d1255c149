"""The pruned-evaluation artifact: a row per pruning level."""

import pyarrow as pa

from headroom.artifacts.store import Column, Kind

PRUNED_EVAL = Kind(
    "pruned_eval",
    "{model}/pruned_eval/heads/{task}/{k}shot-seed{s}/{ranking}.parquet",
    (
        Column("percent", pa.int32(), "share of heads pruned, in percent of all"),
        Column("n_pruned", pa.int32(), "number of heads pruned: floor(percent * heads / 100)"),
        Column("parameters_removed", pa.int64(), "parameters that go with these heads"),
        Column("accuracy", pa.float64(), "share of documents answered right"),
        Column("stderr", pa.float64(), "its standard error over documents"),
        Column("accuracy_norm", pa.float64(), "acc_norm, where the task defines it", nullable=True),
        Column("stderr_norm", pa.float64(), "its standard error", nullable=True),
        Column("n_documents", pa.int32(), "documents evaluated"),
        Column("n_truncated", pa.int32(), "of these, how many lost context on the left to fit the window"),
        Column("doc_id", pa.list_(pa.int64()), "the documents, in the order of the lists below"),
        Column("correct", pa.list_(pa.bool_()), "per document: answered right"),
        Column("correct_norm", pa.list_(pa.bool_()), "per document: right by acc_norm", nullable=True),
    ),
)
