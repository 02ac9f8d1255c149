"""The prompts artifact: a row per choice of a document."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column
from lm_headroom.artifacts.turns import FIELDS

IMPORTANCE, EVALUATION = "importance", "evaluation"
CHOICE, GREEDY = "choice", "greedy"

PROMPTS = ArtifactSchema(
    "prompts",
    (
        Column("doc_id", pa.int64(), "row number of the document in its split, as the task filters it"),
        Column(
            "question",
            pa.int64(),
            "doc_id of the first document of its question: accuracy counts questions, right if all their documents are",
        ),
        Column("purpose", pa.string(), "importance (scoring documents) or evaluation"),
        Column("split", pa.string(), "split the document comes from"),
        Column("choice", pa.int32(), "number of the choice, from 0"),
        Column("context", pa.string(), "what the model reads: description, shots, question"),
        Column("continuation", pa.string(), "what it is scored on, with the delimiter before it"),
        Column(
            "turns",
            pa.list_(pa.struct([pa.field(name, pa.string(), nullable=False) for name in FIELDS])),
            "the context as turns of a conversation, for models with a chat template; a turn's delimiter follows it in "
            "the context, that of the system turn follows a model's system prompt",
            nullable=True,
        ),
        Column(
            "reply", pa.string(), "what is scored after a chat template, which ends as a delimiter does", nullable=True
        ),
        Column("gold", pa.bool_(), "whether this choice is a right one"),
        Column(
            "metric", pa.string(), "choice: right if the likeliest choice is; greedy: right if greedy decoding gives it"
        ),
        Column("choice_length", pa.int32(), "characters of the choice, where the task defines acc_norm", nullable=True),
    ),
)
