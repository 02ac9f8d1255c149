"""The typed study: every key with its bounds, default and description, and the properties that follow from them.

The JSON schema for editors, the page of options, the check of a study and its defaults come from this model.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from lm_headroom.errors import HeadroomError, nearest
from lm_headroom.settings import MARGIN
from lm_headroom.study.choices import (
    ACCURACY,
    DEFAULT_MARGINS,
    DEFAULT_PROMPTS,
    LEVELS,
    AblationKind,
    AddBos,
    Aggregation,
    CapacityScale,
    CommonComponent,
    Device,
    Dtype,
    FigureTitle,
    FigureWidth,
    HeadOutput,
    ImportanceScale,
    KnockoutOutcome,
    LastLayerTokens,
    Metric,
    Outcome,
    PromptStyle,
    Reduction,
    Sample,
    Selection,
    Statistic,
    with_zero,
)
from lm_headroom.study.compared import ComparedModel
from lm_headroom.study.criteria import CHOOSING, FFNS, HEADS, criterion_columns
from lm_headroom.study.judged import JudgedOutcome
from lm_headroom.study.ranking_names import (
    ABLATED_OWN,
    AGGREGATE,
    CRITERIA,
    HIGHEST,
    ITERATIVE,
    LEARNED,
    LOWEST,
    ORACLES,
    OTHER_DOCUMENTS,
    OWN,
    drawn_with,
    ffn_controls,
    head_controls,
    variant_of,
)
from lm_headroom.study.section import Section
from lm_headroom.study.task_entry import Data, TaskEntries, TaskEntry, expanded
from lm_headroom.study.values import (
    FUNCTION,
    AsWritten,
    Controls,
    Count,
    ExpertControls,
    ExpertCriterion,
    GgufFile,
    Group,
    HeadCriterion,
    Margin,
    ModelNames,
    Name,
    Outcomes,
    Percent,
    Percents,
    Prose,
    RankingNames,
    RankingSource,
    Seeds,
    Shots,
    Tasks,
    Text,
    Texts,
)

EMBEDDED = "embedded"
"""The source of the model, and of the records, that come in Python packages."""
PAPER_TRANSFER = ("copa", "winogrande", "record")
"""Tasks of Figures 9, 16 and 17."""
# Revisions such as step1000, step1000-tokens4B, stage1-step-40000.
_STEP = re.compile(r"(?:^|[-_/])step[-_]?(\d{1,12})(?=$|[-_])")


class Model(Section):
    """One model."""

    source: Text = Field(
        description="The checkpoint: `embedded`, a hub name, a local folder, or a local GGUF file (docs/quantised.md)."
    )
    gguf_file: GgufFile | None = Field(
        default=None,
        description="The GGUF file of the hub's repository, or of the local folder, that is the checkpoint; null means "
        "that its plain weights are.",
    )
    revision: Text | None = Field(
        default=None,
        description="A branch, tag or commit on the hub, such as a training checkpoint's; null means the default "
        "branch.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Runs code from the checkpoint (`auto_map` in its config.json). Such code can do anything; read it "
        "first.",
    )
    allow_pickle: bool = Field(
        default=False, description="Reads weights from pickles (*.bin) if the checkpoint has no safetensors."
    )
    chat_template: bool = Field(
        default=False,
        description="Renders prompts by the tokenizer's chat template, as lm-eval's `--apply_chat_template` does: the "
        "task's description is the system turn, a question the user's, an answer the assistant's. "
        "docs/models.md has an example.",
    )
    system_prompt: Prose | None = Field(
        default=None, description="With `chat_template`: the text of the system turn, before the task's description."
    )
    fewshot_as_multiturn: bool = Field(
        default=True,
        description="With `chat_template`: few-shot examples are turns of their own, lm-eval's default; `false` puts "
        "them into the user's one turn.",
    )
    group: Group | None = Field(
        default=None,
        description="The model family, training run or product that this model belongs to. Figures that compare models "
        "join the models of a group by a line. Null means that models with the same source form a group.",
    )
    step: Annotated[int, Field(ge=0, le=10**12)] | None = Field(
        default=None,
        description="The training step of the checkpoint; null takes it from a revision such as `step1000`.",
    )

    @property
    def checkpoint(self) -> str:
        """The checkpoint as the resolving command is given it: a GGUF file below its repository or folder."""
        return self.source if self.gguf_file is None else f"{self.source.rstrip('/')}/{self.gguf_file}"

    @model_validator(mode="after")
    def _check_gguf(self) -> Model:
        if self.gguf_file is not None and (self.source == EMBEDDED or self.source.endswith(".gguf")):
            raise ValueError(f"gguf_file names a file of a folder or repository, and source is {self.source!r}")
        return self

    @model_validator(mode="after")
    def _check_chat(self) -> Model:
        needless = {
            "system_prompt": self.system_prompt is not None,
            "fewshot_as_multiturn: false": not self.fewshot_as_multiturn,
        }
        for key, is_set in needless.items():
            if is_set and not self.chat_template:
                raise ValueError(f"{key} needs chat_template: true, by which prompts have turns")
        return self


class Limits(Section):
    """The largest number of documents per task; null means all."""

    importance: Annotated[Count, Field(ge=2)] | None = Field(
        default=2500, description="Documents that score heads (2500 in the released code)."
    )
    evaluation: Annotated[Count, Field(ge=2)] | None = Field(
        default=None, description="Documents that measure accuracy."
    )


class Importance(Section):
    """The score by which a task's own ranking orders heads: the gradient score of eq. 8 and 9, or another criterion."""

    reduction: Reduction = Field(
        default="token",
        description="`token` takes the mean of |A_t . dL/dA_t| over tokens (released code); `example` takes the "
        "absolute value of the sum over a document's tokens, and the mean over documents (eq. 8 read literally).",
    )
    last_layer_tokens: LastLayerTokens = Field(
        default="all",
        description="The tokens by whose number `token` divides the last layer: `all`, as in every layer, or only the "
        "`target` tokens, which inflates that layer (released code).",
    )

    criterion: HeadCriterion | None = Field(
        default=None,
        description="The criterion of docs/criteria.md that scores heads for the task's own ranking, and with it the "
        "aggregate, transfer and iterative re-scoring; null means the variant of eq. 8 that `reduction` and "
        "`last_layer_tokens` name. The gradient score of FFNs takes it too where it ranks FFNs, and otherwise `token`.",
    )

    @model_validator(mode="after")
    def _check_unread(self) -> Importance:
        for key in ("reduction", "last_layer_tokens"):
            value = getattr(self, key)
            if self.criterion is not None and value != type(self).model_fields[key].default:
                raise ValueError(f"criterion: {self.criterion} does not read {key}: {value}; leave one of them out")
        if self.reduction == "example" and self.last_layer_tokens == "target":
            raise ValueError("reduction: example does not read last_layer_tokens: target; leave one of them out")
        return self

    @property
    def ranked_by(self) -> str:
        """The criterion of the own ranking."""
        return self.criterion or variant_of(self.reduction, self.last_layer_tokens)


class Ffn(Section):
    """The oracle score of FFNs, eq. 7: what is lost without each."""

    metric: KnockoutOutcome = Field(
        default=ACCURACY,
        description="The metric of eq. 7: the outcome whose loss without an FFN is its score. `accuracy` is "
        "the paper's; `gold_probability` and `loss` (mean negative log-likelihood per token of the right answer) come "
        "from the same passes and rank with less noise. Every task of `tasks` must define it.",
    )
    selection: Selection = Field(
        default="scoring",
        description="The documents that rank the FFNs. `scoring` uses documents that judge nothing. `evaluation`, as "
        "in the paper, uses those that also measure the curve, so it has selection bias and no test applies to it.",
    )
    selection_bias: bool = Field(
        default=False,
        description="Also ranks FFNs by the documents that `selection` does not name, and measures that ranking's "
        "curve. The difference of the curves is the selection bias. This doubles the work of the oracle.",
    )

    @property
    def other_selection(self) -> str:
        """The documents that `selection_bias` scores on."""
        return "scoring" if self.selection == "evaluation" else "evaluation"


class HeadOracle(Section):
    """The leave-one-out oracle of heads, with which the gradient scores are compared: the rise of the gold
    continuation's loss, and the accuracy and gold probability lost. It removes heads one at a time and costs about
    half a pass per head and batch."""

    tasks: Tasks = Field(default=[], description="The tasks for the oracle, from `tasks` and `unseen`.")
    heads: Literal["all"] | Annotated[Count, Field(ge=3)] = Field(
        default="all",
        description="The heads that are removed on these tasks: `all`, or the size of a random sample with equally "
        "many heads of each layer, the same for all tasks and shots.",
    )
    others: Literal["all"] | Annotated[Count, Field(ge=3)] | None = Field(
        default=None,
        description="The heads that are removed on each other task of `tasks`, in the same way; null means none.",
    )


class Pruning(Section):
    """The evaluation with heads or FFNs pruned, under the task's own and the aggregate ranking."""

    levels: Percents = Field(
        default=list(LEVELS),
        min_length=1,
        description="The percents of all heads (or FFNs) to prune; level 0, the whole model, is always evaluated.",
    )
    controls: Controls = Field(
        default=["random_1"],
        description="The control rankings that are evaluated beside the task's own: `reversed` (most important first), "
        "`random_N` (drawn with seed N; figures show several as a band), `own_zero`, `own_mean` and `own_resample` "
        "(the own ranking under another `ablation`), `own_even` (the own ranking of heads in rounds that prune as many "
        "in each layer, as `export-pruned --even` does), and the criteria of docs/criteria.md, of heads, "
        "FFNs or both. Oracles rank FFNs, and heads too if `head_oracle` names tasks; then it must remove all heads "
        "of each task, and the questions that rank heads also judge them. "
        "Each costs a curve of evaluations, except the criterion that `importance` ranks by.",
    )
    ffn_controls: Controls | None = Field(
        default=None,
        description="The control rankings of FFNs, where they are others than those of heads; `controls` are those of "
        "heads then. `null` takes those of `controls` that FFNs have.",
    )
    schedule: Literal["one_shot", "iterative"] = Field(
        default="one_shot",
        description="`one_shot` scores heads once, in the whole model. `iterative` also evaluates a ranking that is "
        "scored again, by the same criterion, each time `step` percent of all heads "
        "have been pruned, which costs each task one scoring pass per step and one more curve.",
    )
    step: Annotated[Percent, Field(ge=1)] = Field(
        default=10, description="The percent of all heads that are pruned before heads are scored again."
    )

    @property
    def is_iterative(self) -> bool:
        """Whether there are curves under the iterative ranking."""
        return self.schedule == "iterative"

    @property
    def ranks_ffns_by_gradients(self) -> bool:
        """Whether a control ranks FFNs by a column of their gradient scores."""
        return bool(set(criterion_columns(FFNS)) & set(self.of_ffns))

    @property
    def ranks_by_scores(self) -> bool:
        """Whether a control ranks heads by a column of their scores."""
        return bool(set(CRITERIA) & set(self.controls))

    @property
    def oracles(self) -> list[str]:
        """The controls that rank by the oracles."""
        return [name for name in self.controls if name in ORACLES]

    @property
    def levels_with_zero(self) -> list[int]:
        """What is evaluated, ascending."""
        return with_zero(self.levels)

    @property
    def of_ffns(self) -> list[str]:
        """The control rankings of FFNs."""
        return ffn_controls(sorted(self.controls if self.ffn_controls is None else self.ffn_controls))

    @property
    def named(self) -> list[tuple[str, str]]:
        """The controls, each with the key that names it."""
        return [(f"pruning.{key}", name) for key in ("controls", "ffn_controls") for name in getattr(self, key) or ()]


class Experts(Section):
    """The experts of models that have a mixture of them: their importance, and the evaluation with some pruned."""

    levels: Percents = Field(
        default=[],
        description="The percents of all experts to prune; an empty list leaves experts out. A pruned expert does not "
        "exist for its router. A layer keeps at least as many experts as it sends a token to.",
    )
    criterion: ExpertCriterion = Field(
        default="token",
        description="What ranks experts, least important first: a criterion of docs/criteria.md.",
    )
    controls: ExpertControls = Field(
        default=["random_1"],
        description="The rankings that are evaluated beside the task's own: `reversed`, `random_N`, and criteria of "
        "experts. Oracles remove each expert alone on the scoring documents.",
    )

    @property
    def levels_with_zero(self) -> list[int]:
        """What is evaluated, ascending."""
        return with_zero(self.levels)

    @property
    def rankings(self) -> list[str]:
        """The rankings that are evaluated, the own one first; none where experts are left out."""
        others = [name for name in sorted(self.controls) if name != self.criterion]
        return [OWN, *others] if self.levels else []


class LearnedMask(Section):
    """A mask of gates, trained on the scoring documents of each task along a path of sparsities, as the upper reference
    of cheap criteria. Its ranking, `learned`, is evaluated beside the others."""

    components: list[CommonComponent] = Field(
        default=[],
        description="What is masked: `heads`, `ffns` or both, each by a training of its own; an empty list for none.",
    )
    passes: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=40,
        description="How often training uses each scoring document, while the open share falls from 1 to 0. This is "
        "the cost of a ranking: as many gradient scores, each a forward and a backward pass.",
    )
    batch: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=4, description="The documents of a training step, which share one draw of the gates."
    )
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False), AsWritten] = Field(
        default=0.1, description="The learning rate of Adam on the gates' log_alphas."
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        default=1, description="The seed of the gates' noise and of the order of documents."
    )


class Margins(Section):
    """The margins of the non-inferiority test for outcomes other than accuracy, whose margin is `margin`."""

    gold_probability: Margin = Field(
        default=DEFAULT_MARGINS["gold_probability"],
        description="Tolerated loss of the gold probability, in percentage points.",
    )
    gold_probability_norm: Margin = Field(
        default=DEFAULT_MARGINS["gold_probability_norm"],
        description="Tolerated loss of the normalised gold probability, in points.",
    )
    gold_bits_per_byte: Margin = Field(
        default=DEFAULT_MARGINS["gold_bits_per_byte"],
        description="Tolerated rise of the gold continuation's bits per byte, in percent of the whole model's.",
    )
    loss: Margin = Field(
        default=DEFAULT_MARGINS["loss"],
        description="Tolerated rise of the gold continuation's loss, in percent of the whole model's.",
    )
    margin: Margin = Field(
        default=DEFAULT_MARGINS["margin"],
        description="Tolerated loss of the margin between the best right choice and the best other, in nats per byte.",
    )


class Joint(Section):
    """The grid in which heads and FFNs are pruned together (Figure 7). It needs levels of both."""

    heads: Percents = Field(default=list(LEVELS), description="The percents of heads; 0 is always included.")
    ffns: Percents = Field(default=list(LEVELS), description="The percents of FFNs; 0 is always included.")
    ranking: Literal["aggregate", "task"] = Field(
        default="aggregate",
        description="The rankings of the grid: `aggregate` (the caption of Figure 7) or `task`, each task's own "
        "(released code).",
    )

    @property
    def has_grid(self) -> bool:
        """Whether anything is pruned together."""
        return bool(self.heads and self.ffns)

    @property
    def heads_with_zero(self) -> list[int]:
        """The grid's percents of heads, ascending."""
        return with_zero(self.heads)

    @property
    def ffns_with_zero(self) -> list[int]:
        """The grid's percents of FFNs, ascending."""
        return with_zero(self.ffns)


class Transfer(Section):
    """The evaluation of tasks under the rankings of the tasks whose head scores correlate most and least with theirs
    (Figures 9, 16, 17)."""

    tasks: Tasks | None = Field(
        default=None,
        description="The tasks to evaluate; null means those of copa, winogrande and record that the study has.",
    )
    levels: Percents = Field(
        default=[10, 30, 50, 70, 90], min_length=1, description="The percents of heads; 0 is always included."
    )

    @property
    def levels_with_zero(self) -> list[int]:
        """What is evaluated, ascending."""
        return with_zero(self.levels)


class Ablate(Section):
    """The ablation of the strongest induction heads, compared with random heads from the same layers, by each of
    `outcomes`. It needs percents."""

    percents: Annotated[list[Annotated[Percent, Field(ge=1)]], *Percents.__metadata__] = Field(
        default=[],
        description="The percents of all heads to ablate: the strongest by prefix matching, by copying and by both.",
    )
    random: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="The number of random controls per set of ablated heads, each with as many heads from the same "
        "layers. By chance, an effect exceeds those of all n controls with probability 1 / (n + 1).",
    )
    tasks: Annotated[Tasks, Field(min_length=1)] | None = Field(
        default=None, description="The tasks for the ablation, from `tasks` and `unseen`; null means all of `tasks`."
    )


class Induction(Section):
    """The random sequences that measure induction scores, Algorithms 1 and 2."""

    sequences: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=100,
        description="The number of random sequences; sequence s repeats 2 s + 23 tokens four times. 0 leaves induction "
        "out, which suits a model whose context window is too short for them.",
    )
    bos: bool = Field(default=True, description="Puts BOS before a sequence, as the released code does.")
    ablate: Ablate = Ablate()


class Copying(Section):
    """The copying score of heads, Algorithm 2."""

    head_output: HeadOutput = Field(
        default="attention",
        description="The output of a head: `attention` weights the values by attention, `value` takes the value of the "
        "token alone (released code).",
    )
    output_bias: bool = Field(
        default=False, description="Adds the bias of the attention output to every head (released code)."
    )


class Figures(Section):
    """How figures are drawn: each as PDF, SVG and PNG, in 8 point type at the size of print."""

    width: FigureWidth = Field(
        default="double",
        description="The width: `single` for one column of a paper (77 mm, as in the ACL's templates), `double` for "
        "both (160 mm).",
    )
    title: FigureTitle = Field(
        default="above", description="A title `above` the panels, or `none`, where a paper's caption says it."
    )
    importance_scale: ImportanceScale = Field(
        default="linear",
        description="The colours of head importance (Figures 3, 12 to 14): `linear`, as in the paper, `log`, or "
        "`rank`, the percent of heads with a lower score. With the last two, no layer takes up the whole scale.",
    )
    capacity_scale: CapacityScale = Field(
        default="retained",
        description="Induction capacity (Figures 11, 18, 19) as the share `retained`, as in the paper, or as its "
        "`difference` to what random pruning retains.",
    )


class CustomRanking(Section):
    """A ranking of heads or FFNs that is the user's own; a text alone is its source, and ranks heads."""

    model_config = ConfigDict(json_schema_extra={"type": ["string", "object"]})

    source: RankingSource = Field(
        description="A Parquet or CSV file with the columns layer, head and score (of FFNs layer and score; counted "
        "from 0; the lowest score is pruned first), or `module:function`, which computes the scores. A path may name "
        "`{model}`, `{task}`, `{shot}` and `{seed}`. Relative paths and modules are searched in the working folder."
    )
    component: CommonComponent = Field(default="heads", description="What it ranks: `heads` or `ffns`.")

    @model_validator(mode="before")
    @classmethod
    def _read_source(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    def file(self, **cell: object) -> str:
        """The file that decides it: of a cell of the matrix that with its scores, or the module of its function."""
        function = FUNCTION.fullmatch(self.source)
        return f"{function[1].replace('.', '/')}.py" if function else os.path.expanduser(self.source.format(**cell))

    def located(self, **cell: object) -> str:
        """Its source for a cell of the matrix."""
        return self.source if FUNCTION.fullmatch(self.source) else self.file(**cell)


class Study(Section):
    """A study of lm-headroom. Every key has a default; keys that begin with `x-` hold anchors and are ignored."""

    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}}, serialize_by_alias=True)

    models: Annotated[dict[Name, Model], ModelNames] = Field(
        default={"SmolLM2-135M-Instruct": Model(source=EMBEDDED)},
        min_length=1,
        json_schema_extra={"additionalProperties": False},
        description="The models of the study. Each key is a model's name in results/; its `source` is `embedded` "
        "(SmolLM2-135M-Instruct from a Python package), a hub name such as facebook/opt-125m, or a local folder. "
        "results/comparison/ compares two or more models.",
    )
    dtype: Dtype = Field(default="float32", description="The number format of weights and activations.")
    device: Device = Field(
        default="auto", description="The device of the model; `auto` uses GPUs if any are visible, otherwise the CPU."
    )
    threads: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=2, description="The number of CPU threads of a job that runs the model."
    )
    gpus: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1,
        description="The number of GPUs of a job that runs the model. Concurrent jobs use different GPUs. A model "
        "larger than one GPU needs more; otherwise some layers stay in the host's memory, which is many times slower.",
    )
    hardware: Text | None = Field(
        default=None,
        description="The GPU from which cluster jobs estimate their time limits, a line of workflow/hardware.yaml; "
        "null means the slowest there. Jobs on CPUs use its line `cpu`.",
    )
    max_hours: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False), AsWritten] | None = Field(
        default=None,
        description="The most hours that a cluster job requests, such as the limit of the partition; null means no "
        "bound. A job that requests more than the partition allows waits forever.",
    )
    token_budget: Literal["auto"] | Annotated[Count, Field(ge=16)] = Field(
        default="auto",
        description="The most tokens per batch; `auto` means as many as the free memory holds. A batch that runs out "
        "of memory is halved. This key changes memory and speed, not results.",
    )
    task_entries: TaskEntries = Field(
        default=[TaskEntry(name=name) for name in ("arc_easy", "piqa", "copa")],
        alias="tasks",
        min_length=1,
        description="The tasks in the order of the figures: names of lm-eval tasks of output type multiple_choice or "
        "loglikelihood, and keys with a `name` and records of your own.",
    )
    unseen_entries: TaskEntries = Field(
        default=[],
        alias="unseen",
        description="The tasks that the aggregate ranking leaves out. They are evaluated under their own ranking and "
        "under the aggregate's (in the paper, mathqa and lambada_openai).",
    )
    task_folders: Texts = Field(
        default=[],
        description="Folders with lm-eval YAMLs of your own, which come before all others. A task that they define "
        "reads the data set that its YAML names, unless its entry in `tasks` has `data`.",
    )
    prompts: PromptStyle = Field(
        default=DEFAULT_PROMPTS,
        description="`paper` renders the prompts of the harness that the paper used; `harness` renders those of the "
        "pinned lm-eval, corrected only where it cannot load a task or inverts its labels.",
    )
    metric: Metric = Field(
        default="question",
        description="The unit of accuracy in MultiRC: a `question`, which is correct only if all its answers are "
        "judged correctly (released code), or an `answer`. Limits on evaluation documents count the same unit.",
    )
    shots: Shots = Field(default=[0, 1], min_length=1, description="The numbers of few-shot examples.")
    seeds: Seeds = Field(
        default=[1234],
        min_length=1,
        description="The seeds of lm-eval's few-shot sampler. All results that depend on prompts are made once per "
        "seed.",
    )
    limits: Limits = Limits()
    sample: Sample = Field(
        default="first", description="The choice of scoring documents if there are more than the limit."
    )
    add_bos: AddBos = Field(
        default="auto",
        description="The start tokens before each prompt: `auto` puts those that the tokenizer itself puts before a "
        "text, as lm-eval does, `true` the BOS token, `false` none. The paper had none, although OPT's tokenizer adds "
        "one. Where a chat template has begun with BOS, no second one is put there.",
    )
    data: Data = Data()
    importance: Importance = Importance()
    aggregate: Aggregation = Field(
        default="mean",
        description="The aggregate over tasks, eq. 10: the `mean` of raw scores, `mean_normalised` (each task divided "
        "by its sum) or `mean_rank`. Of FFNs, whose scores have either sign, `mean_normalised` divides by the sum of "
        "their sizes where `ffn.metric` has units of its own, and is the mean of accuracies and probabilities.",
    )
    ffn: Ffn = Ffn()
    head_oracle: HeadOracle = HeadOracle()
    pruning: Pruning = Pruning()
    experts: Experts = Experts()
    rankings: Annotated[dict[Name, CustomRanking], RankingNames] = Field(
        default={},
        json_schema_extra={"additionalProperties": False},
        description="Rankings of your own, evaluated beside the others. Each key is a ranking's name; its value is a "
        "file with scores, a `module:function` that computes them, or keys. docs/own_ranking.md has an example.",
    )
    learned_mask: LearnedMask = LearnedMask()
    ablation: AblationKind = Field(
        default="zero",
        description="What a removed head or FFN gives, wherever heads or FFNs are removed to evaluate: `zero` (the "
        "paper's), its `mean` over all positions of the scoring documents, or `resample`, the activation at the same "
        "position of another scoring document. Scores from gradients do not depend on it. `pruning.controls` compares "
        "kinds.",
    )
    margin: Margin = Field(
        default=MARGIN,
        description="The margin of the non-inferiority test, in percentage points: heads and FFNs count as prunable if "
        "the loss of accuracy (or normalised accuracy) is shown to be smaller.",
    )
    outcomes: Outcomes = Field(
        default=[ACCURACY, "gold_probability"],
        min_length=1,
        description="The outcomes by which evaluations are judged, each in figures and tables of its own; accuracy, "
        "the paper's, is always among them. docs/statistics.md gives their formulas. All come from the same passes.",
    )
    margins: Margins = Margins()
    joint: Joint = Joint()
    transfer: Transfer = Transfer()
    correlation: Statistic = Field(
        default="spearman",
        description="The statistic that figures show and that chooses the rankings of transfer; artifacts hold both. "
        "`spearman` is the Spearman rank correlation (SRCC); `argsort` is the released code's statistic, which is not.",
    )
    induction: Induction = Induction()
    copying: Copying = Copying()
    figures: Figures = Figures()

    @model_validator(mode="after")
    def _check_combinations(self) -> Study:
        """Refuse what is right by itself and cannot be together.

        Raises:
            HeadroomError: names the key and what was expected.
        """
        twice = sorted(set(self.tasks) & set(self.unseen))
        if twice:
            raise HeadroomError(f"config key 'unseen': {twice[0]!r} is in 'tasks' too; a task is one or the other")
        transfer = self.transfer.tasks or []
        _check_known(
            "transfer.tasks",
            transfer,
            self.tasks,
            "is not in 'tasks'",
            "; transfer needs its scores and those of other tasks",
        )
        if transfer and len(self.tasks) < 2:
            raise HeadroomError(
                "config key 'transfer.tasks': a single task has no other whose ranking it could be given"
            )
        everything = self.all_tasks
        ablated = self.induction.ablate.tasks or []
        _check_known("induction.ablate.tasks", ablated, everything, "is in neither 'tasks' nor 'unseen'")
        _check_known("head_oracle.tasks", self.head_oracle.tasks, everything, "is not in 'tasks' or 'unseen'")
        lacking = [task for task in everything if task not in self.oracle_tasks or self.oracle_heads(task) != "all"]
        # Without tasks of the head oracle, oracles rank FFNs alone.
        if self.pruning.oracles and lacking and (self.oracle_tasks or self.pruning.ffn_controls is not None):
            raise HeadroomError(
                f"config key 'pruning.controls': {self.pruning.oracles[0]!r} also ranks heads, which needs each "
                f"removed alone on task {lacking[0]!r}; set head_oracle.heads to all, and name all tasks in "
                f"head_oracle.tasks: [{', '.join(everything)}]"
            )
        for name in self.pruning.ffn_controls or ():
            if name not in self.pruning.of_ffns:
                raise HeadroomError(
                    f"config key 'pruning.ffn_controls': {name!r} ranks heads alone; name it in pruning.controls"
                )
        for key, name in self.pruning.named:
            if ABLATED_OWN.get(name) == self.ablation:
                raise HeadroomError(
                    f"config key {key!r}: {name!r} is the own ranking once more, since ablation is "
                    f"{self.ablation}; leave it out"
                )
        for name in self.rankings:
            if name in everything:
                raise HeadroomError(
                    f"config key 'rankings': {name!r} is a task of the study, too; give the ranking another name"
                )
        if self.induction.ablate.percents and not self.induction.sequences:
            raise HeadroomError(
                "config key 'induction.ablate.percents': without induction sequences no heads are known to ablate; set "
                "induction.sequences to 1 or more, or leave the percents out"
            )
        return self

    def check_folders(self, base: Path = Path(".")) -> None:
        """Refuse folders that are not there or do not hold what they should, where the study is to be run.

        Args:
            base: what relative paths are relative to.

        Raises:
            HeadroomError: names the key and the folder.
        """
        for name, model in self.models.items():
            _check_source(name, model.source, base)
        self._check_rankings(base)
        if not self.task_folders:
            self.check_mirrors(self.all_tasks, base)
        for number, path in enumerate(self.task_folders):
            key = f"task_folders[{number}]"
            if not os.path.isdir(base / expanded(key, path)):
                raise HeadroomError(f"config key {key!r}: there is no folder {path}; it should hold task YAMLs")
        for entry in self.all_entries.values():
            for split, path in entry.files.items():
                key = "train_file" if split == "train" else "file"
                if not os.path.isfile(base / expanded(key, path)):
                    raise HeadroomError(f"task {entry.name!r}: its {key}, {path}, is not there; correct the path")

    def check_mirrors(self, tasks: Iterable[str], base: Path = Path(".")) -> None:
        """Refuse mirrors without files for their tasks.

        Args:
            tasks: those that define no data set of their own.
            base: what relative paths are relative to.

        Raises:
            HeadroomError: names the key, the folder and the task.
        """
        for task in tasks:
            entry = self.all_entries[task]
            mirror = None if entry.file else (entry.data or self.data).mirror_folder
            if mirror and not any((base / mirror / task).glob("*.parquet")):
                key = f"{self._places[task]}.data.mirror" if entry.data else "data.mirror"
                raise HeadroomError(
                    f"config key {key!r}: {base / mirror / task} holds no Parquet files for task {task!r}"
                )

    @property
    def _places(self) -> dict[str, str]:
        """Name of each task to the key of its entry."""
        lists = {"tasks": self.task_entries, "unseen": self.unseen_entries}
        return {entry.name: f"{key}[{n}]" for key, entries in lists.items() for n, entry in enumerate(entries)}

    def _check_rankings(self, base: Path) -> None:
        for name, ranking in self.rankings.items():
            tasks = self.all_tasks if ranking.component == HEADS else self.tasks
            for model, task, shot, seed in product(self.models, tasks, self.shots, self.seeds):
                file = ranking.file(model=model, task=task, shot=shot, seed=seed)
                if not os.path.isfile(base / file):
                    raise HeadroomError(
                        f"config key 'rankings.{name}': {file} is not there, which {ranking.source!r} names for model "
                        f"{model!r}, task {task!r}; write the file, or correct the path"
                    )

    def custom_rankings(self, component: str) -> list[str]:
        """Names of the rankings that `rankings` or `learned_mask` adds, of heads or of FFNs."""
        learned = [LEARNED] if component in self.learned_mask.components else []
        return [*sorted(name for name, ranking in self.rankings.items() if ranking.component == component), *learned]

    def custom_rankings_of(self, task: str) -> list[str]:
        """Names of the user's own rankings under which a task is evaluated."""
        return [*self.custom_heads, *(self.custom_ffns if task in self.tasks else ())]

    @property
    def custom_heads(self) -> list[str]:
        """Names of the user's own rankings of heads."""
        return self.custom_rankings(HEADS)

    @property
    def custom_ffns(self) -> list[str]:
        """Names of the user's own rankings of FFNs."""
        return self.custom_rankings(FFNS)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the aggregate is made of, in the order of the figures."""
        return [entry.name for entry in self.task_entries]

    @property
    def unseen(self) -> list[str]:
        """Names of the tasks that the aggregate leaves out."""
        return [entry.name for entry in self.unseen_entries]

    @property
    def all_entries(self) -> dict[str, TaskEntry]:
        """Name of each task to what the study says of it."""
        return {entry.name: entry for entry in (*self.task_entries, *self.unseen_entries)}

    @property
    def all_tasks(self) -> list[str]:
        """Tasks of the aggregate, then the unseen ones."""
        return [*self.tasks, *self.unseen]

    def kinds_beside_zero(self, rule: str) -> set[AblationKind]:
        """The kinds of ablation for which a job of a rule that evaluates needs activations of scoring documents."""
        controls = {"evaluate_own": self.head_controls, "score_ffns": self.pruning.of_ffns}.get(rule, [])
        return {self.ablation, *(ABLATED_OWN[name] for name in controls if name in ABLATED_OWN)} - {"zero"}

    def tasks_with_means(self, ranked: str) -> list[str]:
        """Tasks whose scoring documents have the means in an export by a task's, or the aggregate, ranking."""
        tasks = self.tasks if ranked == AGGREGATE else [ranked]
        return list(tasks) if self.ablation == "mean" else []

    @property
    def oracle_tasks(self) -> list[str]:
        """Tasks on which heads are removed one at a time: those named, then, with ``others``, the rest of ``tasks``."""
        named = self.head_oracle.tasks
        if self.head_oracle.others is None:
            return list(named)
        return [*named, *(task for task in self.tasks if task not in named)]

    def oracle_heads(self, task: str) -> str | int:
        """How many heads are removed on a task, one at a time: ``all`` or the size of a sample."""
        oracle = self.head_oracle
        return oracle.heads if oracle.others is None or task in oracle.tasks else oracle.others

    @property
    def transfer_tasks(self) -> list[str]:
        """Tasks to be evaluated under other tasks' rankings: those named, else those of the paper that are here."""
        if self.transfer.tasks is not None:
            return list(self.transfer.tasks)
        return [task for task in PAPER_TRANSFER if task in self.tasks] if len(self.tasks) > 1 else []

    @property
    def ablated_tasks(self) -> list[str]:
        """Tasks to be evaluated without induction heads: those named, else all of ``tasks``; none without percents."""
        ablate = self.induction.ablate
        if not ablate.percents:
            return []
        return list(self.tasks if ablate.tasks is None else ablate.tasks)

    @property
    def joint_tasks(self) -> list[str]:
        """Tasks on which heads and FFNs are pruned together."""
        return list(self.tasks) if self.joint.has_grid else []

    @property
    def aggregate_tasks(self) -> list[str]:
        """Tasks with a job of their own for the aggregate ranking: the joint grid's edge is the same evaluations."""
        return list(self.unseen if self.joint.has_grid else self.all_tasks)

    @property
    def iterative_tasks(self) -> list[str]:
        """Tasks with a ranking that is scored again as heads are pruned."""
        return list(self.tasks) if self.pruning.is_iterative else []

    @property
    def selection_tasks(self) -> list[str]:
        """Tasks whose FFNs are also ranked by the other documents."""
        return list(self.tasks) if self.ffn.selection_bias else []

    @property
    def judged(self) -> list[Outcome]:
        """The outcomes, accuracy first."""
        return list(dict.fromkeys([ACCURACY, *self.outcomes]))

    def margin_of(self, outcome: Outcome) -> float:
        """The margin of an outcome: points, or of bits per byte and the loss percent of the whole model's."""
        margin: float = getattr(self.margins, outcome, self.margin)
        return margin

    @property
    def judged_outcomes(self) -> list[JudgedOutcome]:
        """The same with their margins."""
        return [JudgedOutcome(outcome, self.margin_of(outcome)) for outcome in self.judged]

    @property
    def has_induction(self) -> bool:
        """Whether heads have induction scores."""
        return self.induction.sequences > 0

    @property
    def has_random_order(self) -> bool:
        """Whether rankings can be compared with random order."""
        return any(drawn_with(name) is not None for _, name in self.pruning.named)

    @property
    def compares_rankings(self) -> bool:
        """Whether rankings in another order than the own one, which is not random, are evaluated beside it."""
        controls = [name for _, name in self.pruning.named if drawn_with(name) is None and name not in ABLATED_OWN]
        return bool(controls or self.rankings or self.learned_mask.components or self.pruning.is_iterative)

    @property
    def choosing_criteria(self) -> list[tuple[str, str]]:
        """Keys that name a criterion by the loss of choosing, each with its name."""
        named = [("importance.criterion", self.importance.ranked_by), *self.pruning.named]
        return [(key, name) for key, name in named if name in CHOOSING]

    @property
    def scores_choosing(self) -> bool:
        """Whether scoring takes another pass, over all choices."""
        return bool(self.choosing_criteria)

    @property
    def head_controls(self) -> list[str]:
        """The control rankings of heads: oracles only where heads are removed alone."""
        oracles = [] if self.oracle_tasks else self.pruning.oracles
        return head_controls(sorted(set(self.pruning.controls) - set(oracles)))

    @property
    def common_controls(self) -> list[str]:
        """The control rankings that stand for each component that can have them."""
        heads, ffns = self.head_controls, self.pruning.of_ffns
        return [
            name
            for name in sorted({*heads, *ffns})
            if (name in heads or not head_controls([name])) and (name in ffns or not ffn_controls([name]))
        ]

    @property
    def ranks_heads_by_oracles(self) -> bool:
        """Whether an oracle in ``pruning.controls`` ranks heads."""
        return bool(set(self.pruning.oracles) & set(self.head_controls))

    @property
    def own_rankings(self) -> list[str]:
        """Rankings of heads that need no other task's scores: the own one and the controls."""
        return [OWN, *self.head_controls]

    @property
    def head_rankings(self) -> dict[str, list[str]]:
        """Task to the rankings under which its heads are pruned."""
        return {
            task: [
                *self.own_rankings,
                *self.custom_heads,
                AGGREGATE,
                *((HIGHEST, LOWEST) if task in self.transfer_tasks else ()),
                *((ITERATIVE,) if task in self.iterative_tasks else ()),
            ]
            for task in self.all_tasks
        }

    @property
    def ffn_rankings(self) -> dict[str, list[str]]:
        """Task to the rankings under which its FFNs are pruned."""
        others = [OTHER_DOCUMENTS] if self.ffn.selection_bias else []
        return {task: [OWN, *self.pruning.of_ffns, *self.custom_ffns, *others] for task in self.tasks}

    @property
    def expert_tasks(self) -> list[str]:
        """Tasks on which experts are scored and pruned."""
        return self.tasks if self.experts.levels else []

    @property
    def compared_models(self) -> list[ComparedModel]:
        """The models for the figures that compare them; none where there is one model alone.

        Without a group of its own, a model is grouped with those of the same source; without a step, its revision may
        name one (``step1000``).
        """
        if len(self.models) < 2:
            return []
        sources = {
            name: name if model.source == EMBEDDED else model.source.rstrip("/") for name, model in self.models.items()
        }
        lasts = Counter(source.split("/")[-1] for source in set(sources.values()))
        compared = []
        for name, model in self.models.items():
            named = _STEP.search(model.revision or "")
            step = int(named[1]) if model.step is None and named else model.step
            last = sources[name].split("/")[-1]
            # Folders such as a/final and b/final are two sources.
            group = last if lasts[last] == 1 else sources[name]
            compared.append(ComparedModel(name, model.group or re.sub(r"[^A-Za-z0-9._-]", "_", group), step))
        return compared


def _check_source(model: str, source: str, base: Path) -> None:
    """Refuse what is neither a folder or file nor can be a name on the hub."""
    key = f"models.{model}.source"
    is_there = os.path.exists(base / expanded(key, source))
    if not is_there and re.fullmatch(r"[^/~.][^/]*(/[^/]+)?", source) and re.search(r"--|\.\.", source):
        raise HeadroomError(
            f"config key {key!r}: {source!r} is no folder here, and no name on the hub has '--' or '..' in it"
        )


def _check_known(key: str, tasks: Iterable[str], known: list[str], wrong: str, why: str = "") -> None:
    for task in tasks:
        if task not in known:
            raise HeadroomError(f"config key {key!r}: {task!r} {wrong}{nearest(task, known)}{why}")
