# Configuration, lists of artifacts, and helpers for the rules. The only rule file with functions.
import os
import re
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

WORKFLOW = Path(workflow.basedir) / "workflow"
sys.path.insert(0, str(WORKFLOW))

from headroom.digest import code_digest
from headroom.errors import HeadroomError
from headroom.study_config import check_keys, check_study
from headroom.task_digest import task_digest

# Rules call `python -m headroom`: the same command line that users call, from this checkout, in each rule's own
# environment. Every Snakemake process parses this file, those inside cluster jobs too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(WORKFLOW), os.environ.get("PYTHONPATH")])
)

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
LEVELS = sorted(config["pruning"]["levels"])
RANKINGS = config["pruning"]["rankings"]
# A study of the aggregate ranking alone still needs a rule with outputs; nothing asks for them.
OWN_RANKINGS = [name for name in RANKINGS if name != "aggregate"] or ["own"]
ADD_BOS = "--add-bos" if config["add_bos"] else ""
EMBEDDED_MODEL = "resources/models/SmolLM2-135M-Instruct"
EMBEDDED_DATA = "resources/data"
MODEL_FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "headroom.json",
]
DATA_FILES = ["train.parquet", "validation.parquet", "source.json"]
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
INDUCTION = expand("results/{model}/induction/prefix_matching.parquet", model=MODELS)
# Figure 5 and the findings show the own ranking; a study without it has no such curve.
HAS_OWN = "own" in RANKINGS
FINDINGS = (
    expand("results/{model}/findings/seed{seed}.md", model=MODELS, seed=SEEDS)
    if HAS_OWN
    else []
)
# A drawing rule's outputs without suffix; Figure 10a does not depend on the few-shot seed.
FIGURE_STEMS = {
    "fig03": "results/{model}/figures/fig03_head_importance-seed{seed}",
    "fig05": "results/{model}/figures/fig05_heads_pruned-seed{seed}",
    "fig08": "results/{model}/figures/fig08_task_correlation-seed{seed}",
    "fig10a": "results/{model}/figures/fig10a_prefix_matching",
}
DRAWN = [name for name in FIGURE_STEMS if name != "fig05" or HAS_OWN]
FIGURES_OF = {
    name: sorted(
        set(
            expand(
                FIGURE_STEMS[name] + ".{suffix}",
                model=MODELS,
                seed=SEEDS,
                suffix=["pdf", "png"],
            )
        )
    )
    for name in DRAWN
}
FIGURES = [path for name in DRAWN for path in FIGURES_OF[name]]


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
    ranking=[name for name in RANKINGS if name != "aggregate"],
    allow_missing=True,
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


def get_model_identity(wildcards):
    """Source and revision: model jobs take model.json as ancient, so a changed source must reach them this way."""
    model = config["models"][wildcards.model]
    return [model["source"], model.get("revision")]


def get_model_files(wildcards):
    """Files that must be there before a model can be resolved: those of the embedded one."""
    is_embedded = config["models"][wildcards.model]["source"] == "embedded"
    return (
        [f"{EMBEDDED_MODEL}/{name}" for name in ("config.json", "model.safetensors")]
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
        return [f"{EMBEDDED_DATA}/{wildcards.task}/{name}" for name in DATA_FILES]
    return (
        []
        if source == "hub"
        else sorted(map(str, Path(get_data(), wildcards.task).glob("*.parquet")))
    )


def get_task_digest(wildcards):
    """Digest of the task's definition."""
    return task_digest(wildcards.task, TASK_FOLDER)


def limit(purpose):
    """A document limit as the command line takes it."""
    value = config["limits"][purpose]
    return "all" if value is None else value
