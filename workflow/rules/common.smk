# Configuration, lists of artifacts, and helpers for the rules. The only rule file with functions.
import os
import re
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

WORKFLOW = Path(f"{workflow.basedir}/workflow")
sys.path.insert(0, str(WORKFLOW))

from headroom.digest import code_digest
from headroom.errors import HeadroomError
from headroom.study_config import check_keys, check_study
from headroom.task_digest import task_digest

# Rules call `python -m headroom`: the same command line that users call, from this checkout, in each rule's own
# environment. Every Snakemake process parses this file, those inside cluster jobs too.
os.environ.update(PYTHONPATH=str(WORKFLOW))

try:
    check_keys(
        config,
        yaml.safe_load((WORKFLOW / "schemas" / "config.schema.yaml").read_text()),
    )
    validate(config, str(WORKFLOW / "schemas" / "config.schema.yaml"))
    check_study(config)
except HeadroomError as error:
    raise WorkflowError(str(error)) from None

MODELS = list(config["models"])
TASKS = config["tasks"]
SHOTS = config["shots"]
SEEDS = config["seeds"]
RANKINGS = config["pruning"]["rankings"]
# A study of the aggregate ranking alone still needs a rule with outputs; nothing asks for them.
OWN_RANKINGS = [name for name in RANKINGS if name != "aggregate"] or ["own"]
EMBEDDED_MODEL = "resources/models/SmolLM2-135M-Instruct"
EMBEDDED_DATA = "resources/data"
MODEL_FILES = [
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "headroom.json",
]
DATA_FILES = ["train.parquet", "validation.parquet"]
TASK_FOLDER = WORKFLOW / "tasks"


def alternatives(values):
    """A wildcard pattern that matches exactly these values."""
    return "|".join(re.escape(str(value)) for value in values)


wildcard_constraints:
    model=alternatives(MODELS),
    task=alternatives(TASKS),
    shot=alternatives(SHOTS),
    seed=alternatives(SEEDS),
    package="model|data",
    number=r"\d+",


MATRIX = ["results/matrix/tasks.txt", "results/matrix/shots.txt"]


def write_matrix(path, values):
    """Keep a list of the study as a file that gathering rules take as input.

    Missing intermediates are no reason to run, so without it a new task would leave aggregates and figures as they
    are. Written beside and renamed, and only when it differs, since several Snakemake processes may parse at once.
    """
    path, text = Path(path), "".join(f"{value}\n" for value in values)
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(text)
        partial.replace(path)


write_matrix(MATRIX[0], TASKS)
write_matrix(MATRIX[1], SHOTS)


CELL = "{shot}shot-seed{seed}"
MODEL_RECORDS = expand("results/{model}/model.json", model=MODELS)
PROMPTS = expand(
    f"results/prompts/{{task}}/{CELL}.parquet", task=TASKS, shot=SHOTS, seed=SEEDS
)
IMPORTANCE = expand(
    f"results/{{model}}/{{step}}/{{task}}/{CELL}.parquet",
    model=MODELS,
    step=["head_importance", "ranking/heads"],
    task=[*TASKS, "aggregate"],
    shot=SHOTS,
    seed=SEEDS,
)
CURVES = expand(
    f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}/{{ranking}}.parquet",
    model=MODELS,
    task=TASKS,
    shot=SHOTS,
    seed=SEEDS,
    ranking=RANKINGS,
)
CORRELATIONS = expand(
    f"results/{{model}}/correlation/cross_task/{CELL}.parquet",
    model=MODELS,
    shot=SHOTS,
    seed=SEEDS,
)
TABLE_STEM = "results/{model}/tables/table1-seed{seed}"
TABLES = []
# One number of shots has nothing to be correlated with.
if len(SHOTS) > 1:
    CORRELATIONS += expand(
        "results/{model}/correlation/cross_shot/seed{seed}.parquet",
        model=MODELS,
        seed=SEEDS,
    )
    TABLES += expand(
        f"{TABLE_STEM}.{{suffix}}", model=MODELS, seed=SEEDS, suffix=["csv", "md"]
    )
INDUCTION = expand("results/{model}/induction/prefix_matching.parquet", model=MODELS)
# Figure 5 and the findings show the own ranking; a study without it has no such curve.
HAS_OWN = "own" in RANKINGS
FINDINGS = (
    expand("results/{model}/findings/seed{seed}.md", model=MODELS, seed=SEEDS)
    if HAS_OWN
    else []
)
# Per-task heatmaps have a figure per number of shots.
TASK_FIGURES = {
    f"fig{number}": shots
    for number, shots in (("12", 0), ("13", 1), ("14", 5))
    if shots in SHOTS
}
# A drawing rule's outputs without suffix; Figure 10a does not depend on the few-shot seed.
FIGURE_STEMS = {
    "fig03": "results/{model}/figures/fig03_head_importance-seed{seed}",
    "fig05": "results/{model}/figures/fig05_heads_pruned-seed{seed}",
    "fig08": "results/{model}/figures/fig08_task_correlation-seed{seed}",
    "fig10a": "results/{model}/figures/fig10a_prefix_matching",
    **{
        name: f"results/{{model}}/figures/{name}_task_importance-seed{{seed}}"
        for name in TASK_FIGURES
    },
}
DRAWN = [name for name in FIGURE_STEMS if name != "fig05" or HAS_OWN]
FIGURES_OF = {
    name: sorted(
        set(
            expand(
                f"{FIGURE_STEMS[name]}.{{suffix}}",
                model=MODELS,
                seed=SEEDS,
                suffix=["pdf", "png"],
            )
        )
    )
    for name in DRAWN
}
FIGURES = [path for name in DRAWN for path in FIGURES_OF[name]]


# Config keys as options of the command line, where the names are not the same.
OPTIONS = {
    "limits.importance": "--limit-importance",
    "limits.evaluation": "--limit-evaluation",
    "importance.reduction": "--reduction",
    "importance.last_layer_tokens": "--last-layer-tokens",
    "pruning.levels": "--levels",
    "pruning.rankings": "--rankings",
    "induction.sequences": "--sequences",
    "induction.bos": "--bos",
}


def options(*keys):
    """Config keys as command line options, in one string.

    One string, because Snakemake compares params as a set of values without their names: two limits that change
    places would be no change.
    """
    words = []
    for key in keys:
        value = config
        for part in key.split("."):
            value = value[part]
        option = OPTIONS.get(key, f"--{key.replace('_', '-')}")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [option, *map(str, sorted(value))]
        else:
            words += [option, "all" if value is None else str(value)]
    return " ".join(words)


def cells(step, tasks, **fixed):
    """Artifacts of a step for the given tasks, one model, and the wildcards that are not fixed."""
    return expand(
        f"results/{{model}}/{step}/{{task}}/{CELL}.parquet",
        task=tasks,
        allow_missing=True,
        **fixed,
    )


# What a figure of one model and seed gathers over tasks and shots.
PROMPT_FILES = expand(
    f"results/prompts/{{task}}/{CELL}.parquet",
    task=TASKS,
    shot=SHOTS,
    allow_missing=True,
)
CURVE_FILES = expand(
    f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}/{{ranking}}.parquet",
    task=TASKS,
    shot=SHOTS,
    ranking=OWN_RANKINGS,
    allow_missing=True,
)
SHOT_CORRELATION_FILES = (
    ["results/{model}/correlation/cross_shot/seed{seed}.parquet"]
    if len(SHOTS) > 1
    else []
)
CORRELATION_FILES = expand(
    f"results/{{model}}/correlation/cross_task/{CELL}.parquet",
    shot=SHOTS,
    allow_missing=True,
)


def get_model_source(wildcards):
    """What the resolving command is given as source."""
    source = config["models"][wildcards.model]["source"]
    return EMBEDDED_MODEL if source == "embedded" else source


def get_model_files(wildcards):
    """Files that must be there before a model can be resolved: those of the embedded one."""
    is_embedded = config["models"][wildcards.model]["source"] == "embedded"
    return (
        [f"{EMBEDDED_MODEL}/{name}" for name in ["config.json", *MODEL_FILES]]
        if is_embedded
        else []
    )


def get_revision_option(wildcards):
    """The option that names a hub revision, if there is one."""
    revision = config["models"][wildcards.model].get("revision")
    return f"--revision {revision}" if revision else ""


def get_data():
    """What the rendering command is given as data."""
    return {
        "embedded": EMBEDDED_DATA,
        "hub": "hub",
        "mirror": config["data"]["mirror"],
    }[config["data"]["source"]]


def get_data_files(wildcards):
    """The records that prompts are rendered from, where they are files."""
    source = config["data"]["source"]
    if source == "embedded":
        return [
            f"{EMBEDDED_DATA}/{wildcards.task}/{name}"
            for name in ["source.json", *DATA_FILES]
        ]
    return (
        []
        if source == "hub"
        else sorted(map(str, Path(get_data(), wildcards.task).glob("*.parquet")))
    )


def get_task_digest(wildcards):
    """Digest of the task's definition."""
    return task_digest(wildcards.task, TASK_FOLDER)


def get_figure_shots(wildcards):
    """The number of shots that a per-task figure shows."""
    return TASK_FIGURES[f"fig{wildcards.number}"]


def get_figure_scores(wildcards):
    """The head scores of each task at that number of shots."""
    return expand(
        "results/{model}/head_importance/{task}/{shot}shot-seed{seed}.parquet",
        model=wildcards.model,
        task=TASKS,
        shot=get_figure_shots(wildcards),
        seed=wildcards.seed,
    )
