"""The artifacts that compare the models of a study."""

import pyarrow as pa

from lm_headroom.artifacts.ceilings import CEILINGS
from lm_headroom.artifacts.store import ArtifactSchema, Column

COMPARED_MODELS = ArtifactSchema(
    "compared_models",
    (
        Column("model", pa.string(), "the model's name in the study, in the order of the study"),
        Column("group", pa.string(), "what it is a size, a checkpoint or a version of"),
        Column("step", pa.int64(), "training step of the checkpoint", nullable=True),
        Column("family", pa.string(), "its architecture", nullable=True),
        Column("revision", pa.string(), "commit on the hub; missing for a folder", nullable=True),
        Column("layers", pa.int32(), "number of layers", nullable=True),
        Column("heads", pa.int32(), "query heads per layer", nullable=True),
        Column("parameters", pa.int64(), "parameters of the whole model; missing where not known", nullable=True),
    ),
)

COMPARED_PRUNABLE = ArtifactSchema(
    "compared_prunable",
    (
        Column("model", pa.string(), "the model's name"),
        Column("component", pa.string(), "heads or ffns, each task under its own ranking"),
        Column("shots", pa.int32(), "number of few-shot examples"),
        Column("outcome", pa.string(), "what evaluations are judged by; docs/statistics.md has the formulas"),
        Column(
            "margin", pa.float64(), "loss of it that counts as none: points, percent of the whole model's, or its unit"
        ),
        Column(
            "verdict",
            pa.string(),
            "up to: enough questions do not show more; at least: more questions or levels could; estimate only: no "
            "test can confirm it; inconclusive: underpowered, or at chance level",
        ),
        Column(
            "percent", pa.int32(), "largest level shown to lose no more than the margin, as all before", nullable=True
        ),
        Column("estimate", pa.int32(), "largest level up to which no observed loss exceeds the margin", nullable=True),
        Column("below", pa.int32(), "upper bound: from here on losses are shown to exceed the margin", nullable=True),
        Column("parameters_removed", pa.float64(), "parameters pruned at that level, mean over tasks", nullable=True),
        Column("loss", pa.float64(), "average loss of the outcome at that level, in units of the score", nullable=True),
        Column("loss_low", pa.float64(), "lower 95% limit of that loss, questions paired", nullable=True),
        Column("loss_high", pa.float64(), "upper limit", nullable=True),
        Column(
            "power",
            pa.float64(),
            "probability to pass at the next level if nothing is lost",
            nullable=True,
        ),
        Column(
            "score",
            pa.float64(),
            "outcome of the whole model, higher is better, mean over these tasks; missing where none defines it",
            nullable=True,
        ),
        Column(
            "score_stderr",
            pa.float64(),
            "its standard error over questions; NaN for one question",
            nullable=True,
            undefined=True,
        ),
        Column("accuracy", pa.float64(), "accuracy of the whole model, mean over the tasks above chance"),
        Column("stderr", pa.float64(), "its standard error over questions; NaN for one question", undefined=True),
        Column("random_choice", pa.float64(), "average accuracy of a uniform random choice"),
        Column("majority", pa.float64(), "average accuracy of always giving the same choice, the best of them"),
        Column("chance_level", pa.float64(), "average of the higher of both"),
        Column("n_tasks", pa.int32(), "tasks above chance that define the outcome; all that define it where none is"),
        Column("n_questions", pa.int32(), "questions over these tasks"),
        Column("reason", pa.string(), "why no test shows a share", nullable=True),
    ),
)

COMPARED_RANKINGS = ArtifactSchema(
    "compared_rankings",
    (
        Column("model_a", pa.string(), "a model"),
        Column("model_b", pa.string(), "a later model of the study with as many layers and heads"),
        Column("task", pa.string(), "a task, or 'aggregate'"),
        Column("shots", pa.int32(), "number of few-shot examples"),
        Column("srcc", pa.float64(), "Spearman's rank correlation of the two models' head scores", undefined=True),
        Column("p_value", pa.float64(), "its two-sided p-value (assumes independent heads)", undefined=True),
        Column("argsort_statistic", pa.float64(), "the released code's statistic: Pearson of the argsort permutations"),
        Column("overlap_top30", pa.float64(), "share of the top 30% heads that the two have in common"),
        Column("srcc_within_layer", pa.float64(), "mean SRCC inside layers, or their key-value groups", nullable=True),
        *CEILINGS,
    ),
)

COMPARED_INDUCTION = ArtifactSchema(
    "compared_induction",
    (
        Column("model", pa.string(), "the model's name"),
        Column("score", pa.string(), "prefix_matching or copying"),
        Column("maximum", pa.float64(), "the highest score of a head"),
        Column("layer", pa.int32(), "that head's layer, from 0"),
        Column("head", pa.int32(), "that head, from 0"),
        Column("stderr", pa.float64(), "standard error over sequences of that head's score", nullable=True),
        Column("top_mean", pa.float64(), "mean over the highest tenth of heads, at least one"),
        Column("n_top", pa.int32(), "how many heads these are"),
        Column("median", pa.float64(), "median over heads"),
        Column("n_sequences", pa.int32(), "number of sequences"),
    ),
)

COMPARED_PROFILES = ArtifactSchema(
    "compared_profiles",
    (
        Column("model", pa.string(), "the model's name"),
        Column("component", pa.string(), "heads or ffns"),
        Column("shots", pa.int32(), "number of few-shot examples"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("depth", pa.float64(), "its middle as a share of all layers, between 0 and 1"),
        Column(
            "importance",
            pa.float64(),
            "heads: mean of the layer's aggregate scores; ffns: accuracy lost, mean over tasks",
        ),
        Column(
            "relative",
            pa.float64(),
            "heads: importance over the mean over layers of its absolute values; missing for ffns",
            nullable=True,
        ),
    ),
)
