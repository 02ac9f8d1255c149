# Configuration, lists of artifacts, and helpers for the rules. The only rule file with functions.
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger

WORKFLOW = Path(f"{workflow.basedir}/workflow")
sys.path.insert(0, str(WORKFLOW))

from lm_headroom.checkout import (
    check_places,
    check_writable_for_snakemake,
    job_environment,
)
from lm_headroom.models.location import (
    PERMISSIONS,
    digests_file,
    has_kept_content,
    has_other_source,
    needs_resolving,
    read_location,
)
from lm_headroom.artifacts.catalogue import CELL
from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.errors import HeadroomError
from lm_headroom.audit.invocation import is_alone, makes_results
from lm_headroom.audit.outdated import Outdated
from lm_headroom.study.ranking_names import CRITERIA
from lm_headroom.audit.run_summary import Job, resume_command, summary
from lm_headroom.analysis.sequences import check_window
from lm_headroom.study.config import EMBEDDED
from lm_headroom.study.reading import read_merged
from lm_headroom.tasks.data import (
    digest_of_records,
    mirror_records,
    own_records,
    recorded_digest,
)
from lm_headroom.tasks.digest import task_digest
from lm_headroom.planning.workload import (
    default_request,
    hardware_of,
    request_from_files,
)

# Rules call `python -m lm_headroom`: the same command line that users call, from this checkout, in each rule's own
# environment. Every Snakemake process parses this file, those inside cluster jobs too.
os.environ.update(job_environment(WORKFLOW))

try:
    check_places(WORKFLOW, Path.cwd())
    # From the files themselves: Snakemake has merged them, but takes the last of two equal keys, and reads values of
    # --config as text.
    STUDY = read_merged(
        map(Path, workflow.configfiles), workflow.config_settings.config_args or []
    )
    STUDY.check_folders()
    hardware_of(STUDY)
except HeadroomError as error:
    raise WorkflowError(str(error)) from None

config.clear()
config.update(STUDY.model_dump())

STARTED = time.monotonic()
MODELS = list(STUDY.models)
# As the comparing commands take them; none where there is nothing to compare.
COMPARED = list(map(str, STUDY.compared_models))
TASKS = STUDY.tasks
# Evaluated under their own and the aggregate ranking, but no part of the aggregate.
UNSEEN = STUDY.unseen
ALL_TASKS = STUDY.all_tasks
# Their heads are removed one at a time.
ORACLE_TASKS = STUDY.oracle_tasks
# Evaluated under the rankings of other tasks, too.
TRANSFER = STUDY.transfer_tasks
# Evaluated without induction heads, too.
ABLATED = STUDY.ablated_tasks
SHOTS = STUDY.shots
SEEDS = STUDY.seeds
CONTROLS = sorted(STUDY.pruning.controls)
FFN_CONTROLS = STUDY.pruning.ffn_controls
# Curves under the iterative ranking, besides.
IS_ITERATIVE = STUDY.pruning.is_iterative
OWN_RANKINGS = ["own", *CONTROLS]
TRANSFER_RANKINGS = ["highest_srcc", "lowest_srcc"]
# A job that runs the model takes GPUs; on the CPU, as many run beside each other as there are cores.
GPUS = 0 if STUDY.device == "cpu" else STUDY.gpus
# Time limit, in minutes, of a cluster job that only reads and writes artifacts, which takes seconds.
CPU_MINUTES = 20
JOINT = STUDY.joint.has_grid
# Whether FFNs are also ranked by the other documents.
SELECTION_BIAS = STUDY.ffn.selection_bias
JOINT_RANKING = {"aggregate": "aggregate", "task": "{task}"}[STUDY.joint.ranking]
EMBEDDED_MODEL = "resources/models/SmolLM2-135M-Instruct"
EMBEDDED_DATA = "resources/data"
MODEL_FILES = [
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "lm_headroom.json",
]
DATA_FILES = ["train.parquet", "validation.parquet"]
TASK_FOLDER = WORKFLOW / "tasks" / STUDY.prompts
try:
    TASK_DIGESTS = {task: task_digest(task, TASK_FOLDER) for task in ALL_TASKS}
except HeadroomError as error:
    raise WorkflowError(str(error)) from None
# Of records, kept between runs.
DIGESTS = Digests(Path("results/.digests.json"))


onstart:
    DIGESTS.keep()


def alternatives(values):
    """A wildcard pattern that matches exactly these values; nothing where there are none."""
    return "|".join(re.escape(str(value)) for value in values) or "(?!)"


wildcard_constraints:
    model=alternatives(MODELS),
    task=alternatives(ALL_TASKS),
    shot=alternatives(SHOTS),
    seed=alternatives(SEEDS),
    package="model|data",
    number=r"\d+",
    ranked=alternatives([*ALL_TASKS, "aggregate"]),
    heads="100|[1-9]?[0-9]",
    ffns="100|[1-9]?[0-9]",


# The Snakemake processes of jobs find what their run has written.
IS_RUN = workflow.is_main_process and makes_results(sys.argv)
if IS_RUN:
    try:
        check_writable_for_snakemake(Path.cwd())
    except HeadroomError as error:
        raise WorkflowError(str(error)) from None
# Another run's study may be another: what it works with is left alone.
WRITES = IS_RUN and is_alone(Path(".snakemake"))
# What a dry run would have to write, outside the results; it goes with the process.
SCRATCH = tempfile.TemporaryDirectory(prefix="lm-headroom-")


def list_of_study(name, values):
    """Path of a list of the study as a file that gathering rules take as input.

    Missing intermediates are no reason to run, so without it a new task would leave aggregates and figures as they
    are. Written beside and renamed, and only when it differs, since several Snakemake processes may parse at once. A
    dry run, which writes no results, plans with a list elsewhere that is as new as the one that a run would write.
    """
    path, text = Path(f"results/matrix/{name}.txt"), "".join(
        f"{value}\n" for value in values
    )
    if path.is_file() and path.read_text() == text:
        return str(path)
    if not WRITES and (IS_RUN or not workflow.is_main_process):
        return str(path)
    place = path if WRITES else Path(SCRATCH.name, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(place)
    return str(place)


MATRIX = [list_of_study("tasks", TASKS), list_of_study("shots", SHOTS)]
MATRIX_UNSEEN = list_of_study("unseen", UNSEEN)
MATRIX_MODELS = list_of_study("models", MODELS) if COMPARED else []
MATRIX_SEEDS = list_of_study("seeds", SEEDS)
# Snakemake makes jobs of these again, and of all that is made from them; a model's record, only in a dry run.
OUTDATED = {}


@cache
def force_outdated():
    """Hand Snakemake the outdated results as forced, once it plans jobs: it has no records of its own to compare."""
    if workflow.is_main_process and RerunTrigger.PARAMS in workflow.rerun_triggers:
        judged = Outdated(Path("results"), STUDY, Path(".snakemake"))
        OUTDATED.update(judged.found)
        for path, reasons in islice(judged.found.items(), 3):
            logger.info(f"{path} is made again: {reasons[0]}.")
        if len(judged.found) > 3:
            logger.info(
                f"So are {len(judged.found) - 3} more; lm-headroom verify names them."
            )
        if WRITES:
            judged.keep()
    workflow.dag.forcefiles.update(OUTDATED)


def check_record_window(model, record):
    """Refuse induction sequences that a model whose record is there cannot hold, whatever made the record."""
    window = (read_location(record).get("sizes") or {}).get("max_positions")
    induction = STUDY.induction
    if window is not None:
        try:
            check_window(model, window, induction.sequences, induction.bos)
        except HeadroomError as error:
            raise WorkflowError(str(error)) from None


def resolve_again(model):
    """Make a model's record again before jobs are planned, where it may no longer be true.

    As a job it would drag all jobs of the model along, whatever it finds. Made now, it differs only where the model
    does, and Snakemake looks at its content. The first record is a rule's, since it may need a download.
    """
    place = model_source(model)
    record = Path(f"results/{model}/model.json")
    check_record_window(model, record)
    asked = (
        record,
        place.source,
        place.revision,
        code_digest("models.resolve"),
        place.allowed,
    )
    if not needs_resolving(*asked) or (not WRITES and has_kept_content(*asked)):
        return
    if IS_RUN and not WRITES:
        raise WorkflowError(
            f"The checkpoint of {model} has to be looked at anew, but another run works in this folder. "
            "Wait until it has ended."
        )
    logger.info(f"Looking at the checkpoint of {model} anew.")
    command = ["python", "-m", "lm_headroom", "model", "--model-name", model]
    made = record if WRITES else Path(SCRATCH.name, record)
    if not WRITES:
        made.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.copy2(digests_file(record), digests_file(made))
    command += [*source_options(model), "--out", str(made)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        if not record.is_file():
            logger.warning(
                f"A run makes the record of {model}, which is lost, before it plans, and may then have less to do "
                "than is listed here."
            )
        elif made.read_bytes() != record.read_bytes():
            OUTDATED[str(record)] = ["the checkpoint is another"]
        return
    said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if has_other_source(record, place.source, place.revision, place.allowed):
        raise WorkflowError(
            f"{said}\nThe results of {model} are of another source, or of one that was allowed other things."
        )
    logger.warning(
        f"{said}\nResults of {model} stay as they are, but no job can run it."
        if record.is_file()
        else f"{said}\nThe record of {model} is lost: a job makes it, and all that uses it follows."
    )


MODEL_RECORDS = expand("results/{model}/model.json", model=MODELS)
PROMPTS = expand(
    f"results/prompts/{{task}}/{CELL}.parquet", task=ALL_TASKS, shot=SHOTS, seed=SEEDS
)
IMPORTANCE = (
    expand(
        f"results/{{model}}/{{step}}/{{task}}/{CELL}.parquet",
        model=MODELS,
        step=["head_importance", "ranking/heads"],
        task=[*ALL_TASKS, "aggregate"],
        shot=SHOTS,
        seed=SEEDS,
    )
    + expand(
        f"results/{{model}}/{{step}}/{{task}}/{CELL}.parquet",
        model=MODELS,
        step=["ffn_importance", "ranking/ffns"],
        task=[*TASKS, "aggregate"],
        shot=SHOTS,
        seed=SEEDS,
    )
    + expand(
        f"results/{{model}}/ffn_gradient/{{task}}/{CELL}.parquet",
        model=MODELS,
        task=ALL_TASKS,
        shot=SHOTS,
        seed=SEEDS,
    )
)
IMPORTANCE += expand(
    f"results/{{model}}/head_oracle/{{task}}/{CELL}.parquet",
    model=MODELS,
    task=ORACLE_TASKS,
    shot=SHOTS,
    seed=SEEDS,
)
HEAD_CURVE = f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}/{{ranking}}.parquet"
# What the own curves take beside the task's ranking: its scores, where a control ranks by one of their columns.
CONTROL_SCORES = (
    [f"results/{{model}}/head_importance/{{task}}/{CELL}.parquet"]
    if set(CRITERIA) & set(CONTROLS)
    else []
)
FFN_CURVE = f"results/{{model}}/pruned_eval/ffns/{{task}}/{CELL}/{{ranking}}.parquet"
FFN_SELECTION = f"results/{{model}}/ffn_selection/{{task}}/{CELL}.parquet"
OTHER_CURVE = expand(FFN_CURVE, ranking="other_documents", allow_missing=True)
JOINT_CELLS = f"results/{{model}}/pruned_eval/joint/{{task}}/{CELL}.parquet"
CURVES = [
    *expand(
        HEAD_CURVE,
        model=MODELS,
        task=ALL_TASKS,
        shot=SHOTS,
        seed=SEEDS,
        ranking=[*OWN_RANKINGS, "aggregate"],
    ),
    *expand(
        HEAD_CURVE,
        model=MODELS,
        task=TRANSFER,
        shot=SHOTS,
        seed=SEEDS,
        ranking=TRANSFER_RANKINGS,
    ),
    *expand(
        FFN_CURVE,
        model=MODELS,
        task=TASKS,
        shot=SHOTS,
        seed=SEEDS,
        ranking=["own", *FFN_CONTROLS],
    ),
    *expand(
        [FFN_SELECTION, *OTHER_CURVE],
        model=MODELS,
        task=TASKS if SELECTION_BIAS else [],
        shot=SHOTS,
        seed=SEEDS,
    ),
    *expand(
        JOINT_CELLS, model=MODELS, task=TASKS if JOINT else [], shot=SHOTS, seed=SEEDS
    ),
]
ITERATIVE = "iterative"
ITERATIVE_RANKING = f"results/{{model}}/ranking/heads_iterative/{{task}}/{CELL}.parquet"
CURVES += expand(
    [ITERATIVE_RANKING, HEAD_CURVE],
    model=MODELS,
    task=TASKS if IS_ITERATIVE else [],
    shot=SHOTS,
    seed=SEEDS,
    ranking=ITERATIVE,
)
# Made when it is asked for by its path; no part of a study.
PRUNED = f"results/{{model}}/pruned/{{ranked}}/heads{{heads}}-ffns{{ffns}}/{CELL}"
CORRELATIONS = expand(
    f"results/{{model}}/correlation/cross_task/{CELL}.parquet",
    model=MODELS,
    shot=SHOTS,
    seed=SEEDS,
)
ORACLE_AGREEMENT = "results/{model}/correlation/oracle/seed{seed}.parquet"
CORRELATIONS += expand(ORACLE_AGREEMENT, model=MODELS, seed=SEEDS)
# Finished units of the jobs of one task, shot and seed; some they share, such as the whole model's evaluation.
CACHE = f"results/{{model}}/.cache/{{task}}/{CELL}"
# Pages and tables without suffix; the HTML is for the report.
TABLE1_STEM = "results/{model}/tables/table1-seed{seed}"
REFERENCE_STEM = "results/{model}/tables/reference-seed{seed}"
# Of all seeds: the number that a study is run for has one place.
HEADROOM_STEM = "results/{model}/tables/headroom"
LOSSES_STEM = "results/{model}/tables/losses-seed{seed}"
ORACLE_STEM = "results/{model}/tables/oracle-seed{seed}"
FINDINGS_STEM = "results/{model}/findings/seed{seed}"
SELECTION_BIAS_STEM = "results/{model}/tables/selection_bias-seed{seed}"
ABLATION_STEM = "results/{model}/tables/induction_ablation-seed{seed}"
TABLE_STEMS = [HEADROOM_STEM, LOSSES_STEM, ORACLE_STEM, REFERENCE_STEM]
# One number of shots has nothing to be correlated with.
if len(SHOTS) > 1:
    CORRELATIONS += expand(
        "results/{model}/correlation/cross_shot/seed{seed}.parquet",
        model=MODELS,
        seed=SEEDS,
    )
    TABLE_STEMS.append(TABLE1_STEM)
GAINS_STEM = "results/{model}/tables/gains-seed{seed}"
# Rankings are held against random order.
if any(name.startswith("random_") for name in CONTROLS):
    TABLE_STEMS.append(GAINS_STEM)
if SELECTION_BIAS:
    TABLE_STEMS.append(SELECTION_BIAS_STEM)
if ABLATED:
    TABLE_STEMS.append(ABLATION_STEM)
TABLES = sorted(
    set(
        expand(
            [f"{stem}.{{suffix}}" for stem in TABLE_STEMS],
            model=MODELS,
            seed=SEEDS,
            suffix=["csv", "md", "html"],
        )
    )
)
FINDINGS = expand(
    f"{FINDINGS_STEM}.{{suffix}}", model=MODELS, seed=SEEDS, suffix=["md", "html"]
)
SEED_SCORES = "results/{model}/seeds/head_importance.parquet"
SEEDS_STEM = "results/{model}/tables/seeds"
# One seed has no variance.
SEED_RESULTS = expand(
    [SEED_SCORES, *(f"{SEEDS_STEM}.{suffix}" for suffix in ("csv", "md", "html"))],
    model=MODELS if len(SEEDS) > 1 else [],
)
# The scores of a model's heads, and what pruning leaves of them; none where the study has no sequences.
INDUCED = STUDY.induction.sequences > 0
INDUCTION_FILES = expand(
    "results/{model}/induction/{score}.parquet",
    score=["prefix_matching", "copying"] if INDUCED else [],
    allow_missing=True,
)
CAPACITY_FILES = expand(
    f"results/{{model}}/capacity/{CELL}.parquet",
    shot=SHOTS if INDUCED else [],
    allow_missing=True,
)
INDUCTION = [
    *expand(INDUCTION_FILES, model=MODELS),
    *expand(CAPACITY_FILES, model=MODELS, seed=SEEDS),
]
WITHOUT_INDUCTION = "" if INDUCED else "--without-induction"
ABLATION = f"results/{{model}}/induction_ablation/{{task}}/{CELL}.parquet"
ABLATION_FILES = expand(ABLATION, task=ABLATED, shot=SHOTS, allow_missing=True)
INDUCTION += expand(ABLATION_FILES, model=MODELS, seed=SEEDS)
# Figures that show some numbers of shots only; a study without these lacks the figure.
FIGURE_SHOTS = {
    number: [shots for shots in wanted if shots in SHOTS]
    for number, wanted in {
        "08": [shots for shots in SHOTS if shots != 5],
        "15": [5],
        "09": [0],
        "16": [1],
        "17": [5],
        "12": [0],
        "13": [1],
        "14": [5],
    }.items()
}
FIGURE_NAMES = {
    "03": "head_importance",
    "04": "ffn_importance",
    "05": "heads_pruned",
    "06": "ffns_pruned",
    "07": "joint",
    "08": "task_correlation",
    "09": "transfer",
    "10": "induction",
    "11": "capacity",
    "12": "task_importance",
    "13": "task_importance",
    "14": "task_importance",
    "15": "task_correlation",
    "16": "transfer",
    "17": "transfer",
    "18": "prefix_matching_capacity",
    "19": "copying_capacity",
}
# A drawing rule's outputs without suffix; Figure 10 does not depend on the few-shot seed.
FIGURE_STEMS = {
    f"fig{number}": f"results/{{model}}/figures/fig{number}_{name}"
    + ("" if number == "10" else "-seed{seed}")
    for number, name in FIGURE_NAMES.items()
}
FIGURE_STEMS["induction_ablation"] = (
    "results/{model}/figures/induction_ablation-seed{seed}"
)
FIGURE_STEMS["oracle"] = "results/{model}/figures/oracle-seed{seed}"
LACKING = {
    *(f"fig{number}" for number, shots in FIGURE_SHOTS.items() if not shots),
    *([] if JOINT else ["fig07"]),
    *([] if TRANSFER or UNSEEN else ["fig09", "fig16", "fig17"]),
    *([] if ABLATED else ["induction_ablation"]),
    *([] if INDUCED else ["fig10", "fig11", "fig18", "fig19"]),
}
FIGURES_OF = {
    name: sorted(
        set(
            expand(
                f"{stem}.{{suffix}}",
                model=MODELS,
                seed=SEEDS,
                suffix=["pdf", "png"],
            )
        )
    )
    for name, stem in FIGURE_STEMS.items()
    if name not in LACKING
}
FIGURES = [path for paths in FIGURES_OF.values() for path in paths]


# What several models are compared by: artifacts and figures, without suffix. Induction scores depend on no few-shot
# seed.
COMPARISONS = {
    "prunable": "prunable/seed{seed}",
    "rankings": "rankings/seed{seed}",
    "induction": "induction",
    "profiles": "profiles/seed{seed}",
}
COMPARED_FIGURES = {
    "prunable": "prunable-seed{seed}",
    "rankings": "rankings-seed{seed}",
    "induction": "induction",
    "profiles": "profiles-seed{seed}",
}
COMPARED_MODELS = "results/comparison/models.parquet"
MATRIX_OPTIONS = shlex.join(["--tasks", *TASKS, "--shots", *map(str, SHOTS)])
COMPARISONS_OF = {
    name: sorted(
        set(
            expand(
                [
                    COMPARED_MODELS,
                    f"results/comparison/{artifact}.parquet",
                    f"results/comparison/figures/{COMPARED_FIGURES[name]}.{{suffix}}",
                ],
                seed=SEEDS,
                suffix=["pdf", "png"],
            )
        )
    )
    for name, artifact in COMPARISONS.items()
    if COMPARED and (INDUCED or name != "induction")
}
COMPARISON = sorted(set(chain.from_iterable(COMPARISONS_OF.values())))


# Config keys as options of the command line, where the names are not the same.
OPTIONS = {
    "limits.importance": "--limit-importance",
    "limits.evaluation": "--limit-evaluation",
    "importance.reduction": "--reduction",
    "importance.last_layer_tokens": "--last-layer-tokens",
    "pruning.levels": "--levels",
    "transfer.levels": "--levels",
    "ffn.selection": "--selection",
    "induction.sequences": "--sequences",
    "induction.bos": "--bos",
    "induction.ablate.percents": "--percents",
    "induction.ablate.random": "--random",
    "copying.head_output": "--head-output",
    "copying.output_bias": "--output-bias",
}


def options(*keys):
    """Config keys as command line options, in one string, quoted already.

    One string, because Snakemake compares params as a set of values without their names: two limits that change
    places would be no change.
    """
    words = []
    for key in keys:
        value = config
        for part in key.split("."):
            value = value[part]
        option = OPTIONS.get(key, f"--{key.replace('_', '-').replace('.', '-')}")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [option, *map(str, sorted(value))]
        else:
            words += [option, "all" if value is None else str(value)]
    return shlex.join(words)


def cells(step, tasks, **fixed):
    """Artifacts of a step for the given tasks, one model, and the wildcards that are not fixed."""
    return expand(
        f"results/{{model}}/{step}/{{task}}/{CELL}.parquet",
        task=tasks,
        allow_missing=True,
        **fixed,
    )


# What figures and pages of one model and seed gather over tasks and shots. Chances do not depend on shots, so that
# the shortest prompts serve.
PROMPT_FILES, TASK_PROMPT_FILES = (
    expand(
        f"results/prompts/{{task}}/{CELL}.parquet",
        task=tasks,
        shot=min(SHOTS),
        allow_missing=True,
    )
    for tasks in (ALL_TASKS, TASKS)
)
CURVE_FILES = expand(
    HEAD_CURVE, task=TASKS, shot=SHOTS, ranking=OWN_RANKINGS, allow_missing=True
)
ITERATIVE_CURVE_FILES = expand(
    HEAD_CURVE,
    task=TASKS if IS_ITERATIVE else [],
    shot=SHOTS,
    ranking=ITERATIVE,
    allow_missing=True,
)
AGGREGATE_CURVE_FILES = expand(
    HEAD_CURVE, task=TASKS, shot=SHOTS, ranking="aggregate", allow_missing=True
)
FFN_CURVE_FILES = expand(
    FFN_CURVE, task=TASKS, shot=SHOTS, ranking="own", allow_missing=True
)
FFN_CONTROL_FILES = expand(
    FFN_CURVE, task=TASKS, shot=SHOTS, ranking=FFN_CONTROLS, allow_missing=True
)
# Both rankings, where there are two.
SELECTION_FILES = expand(
    [FFN_SELECTION, *OTHER_CURVE],
    task=TASKS if SELECTION_BIAS else [],
    shot=SHOTS,
    allow_missing=True,
)
JOINT_FILES = expand(
    JOINT_CELLS, task=TASKS if JOINT else [], shot=SHOTS, allow_missing=True
)
# Of one number of shots.
TRANSFER_FILES = [
    *expand(
        HEAD_CURVE,
        task=[*TRANSFER, *UNSEEN],
        ranking=["own", "aggregate"],
        allow_missing=True,
    ),
    *expand(HEAD_CURVE, task=TRANSFER, ranking=TRANSFER_RANKINGS, allow_missing=True),
]
FFN_FILES = cells("ffn_importance", TASKS, shot=SHOTS)
HEAD_ORACLE_FILES = cells("head_oracle", ORACLE_TASKS, shot=SHOTS)
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
# What is compared over all models, of one seed.
COMPARED_CURVES = expand(
    [
        *expand(HEAD_CURVE, task=TASKS, shot=SHOTS, ranking="own", allow_missing=True),
        *FFN_CURVE_FILES,
        # Which documents ranked.
        *FFN_FILES,
    ],
    model=MODELS,
    allow_missing=True,
)
COMPARED_SCORES = expand(
    cells("head_importance", [*TASKS, "aggregate"], shot=SHOTS),
    model=MODELS,
    allow_missing=True,
)
COMPARED_PROFILES = expand(
    [*cells("head_importance", ["aggregate"], shot=SHOTS), *FFN_FILES],
    model=MODELS,
    allow_missing=True,
)
COMPARED_INDUCTION = expand(INDUCTION_FILES, model=MODELS)


def model_source(model):
    """A model's source as the resolving command is given it, its revision on the hub, and what it may do."""
    settings = STUDY.models[model]
    return SimpleNamespace(
        source=(EMBEDDED_MODEL if settings.source == EMBEDDED else settings.source),
        revision=settings.revision,
        allowed=[
            permission for permission in PERMISSIONS if getattr(settings, permission)
        ],
    )


def source_options(model):
    """The same as options of the resolving command."""
    place = model_source(model)
    revision = ["--revision", place.revision] if place.revision else []
    allowed = [f"--{permission.replace('_', '-')}" for permission in place.allowed]
    # A window too short for the study's induction sequences is known from the configuration.
    sequences = shlex.split(options("induction.sequences", "induction.bos"))
    return ["--source", place.source, *revision, *allowed, *sequences]


def get_model_options(wildcards):
    """Where the resolving command finds a model, and what it may do, as its options."""
    return shlex.join(source_options(wildcards.model))


def get_model_files(wildcards):
    """Files that must be there before a model can be resolved: those of the embedded one."""
    force_outdated()
    is_embedded = STUDY.models[wildcards.model].source == EMBEDDED
    return (
        [f"{EMBEDDED_MODEL}/{name}" for name in ["config.json", *MODEL_FILES]]
        if is_embedded
        else []
    )


def get_data():
    """What the rendering command is given as data."""
    return {
        "embedded": EMBEDDED_DATA,
        "hub": "hub",
        "mirror": str(STUDY.data.mirror_folder),
    }[STUDY.data.source]


def get_data_files(wildcards):
    """The records that prompts are rendered from, where a rule makes them.

    A mirror's are no inputs: they are known by content, wherever the mirror lies.
    """
    force_outdated()
    return [
        f"{EMBEDDED_DATA}/{wildcards.task}/{name}"
        for name in ["source.json", *DATA_FILES]
        if STUDY.data.source == "embedded"
    ]


@cache
def find_records(task):
    """Digest of the content of a task's records, as far as they are files; empty where there are none."""
    if STUDY.data.source == "hub":
        return digest_of_records(own_records(task, [TASK_FOLDER], DIGESTS))
    return digest_of_records(mirror_records(Path(get_data(), task), DIGESTS))


def get_records(wildcards):
    """What a task's prompts depend on beside code and options: the content of its records.

    Where the embedded ones were removed after they had served, or are not unpacked yet, that of the prompts' own.
    """
    if all(map(os.path.exists, get_data_files(wildcards))):
        return f"records {find_records(wildcards.task)}"
    (prompts,) = expand(f"results/prompts/{{task}}/{CELL}.parquet", **wildcards)
    return f"records {recorded_digest(Path(prompts))}"


# Before any job starts; the embedded ones may not be unpacked yet.
try:
    for task in ALL_TASKS if STUDY.data.source != "embedded" else ():
        find_records(task)
except HeadroomError as error:
    raise WorkflowError(str(error)) from None


def pruned_parts(wildcards):
    """Kinds of rankings that a pruned checkpoint is made by, with their percents; nothing pruned needs no FFN scores."""
    percents = {"heads": int(wildcards.heads), "ffns": int(wildcards.ffns)}
    return {kind: percent for kind, percent in percents.items() if percent} or {
        "heads": 0
    }


def get_pruned_rankings(wildcards):
    """The rankings that a pruned checkpoint is made by."""
    return [
        f"results/{{model}}/ranking/{kind}/{{ranked}}/{CELL}.parquet".format(
            **wildcards
        )
        for kind in pruned_parts(wildcards)
    ]


def get_pruned_percents(wildcards):
    """How much of each goes, in the rankings' order."""
    return list(pruned_parts(wildcards).values())


def get_knockout_options(wildcards):
    """How many heads the oracle removes on the task, and how the model runs."""
    heads = STUDY.oracle_heads(wildcards.task)
    return f"--heads {heads} {options('dtype', 'add_bos')}"


def get_task_digest(wildcards):
    """Digest of the task's definition."""
    return TASK_DIGESTS[wildcards.task]


def get_figure_shots(wildcards):
    """The numbers of shots that a figure shows."""
    return FIGURE_SHOTS[wildcards.number]


def get_figure_curves(wildcards):
    """Accuracy curves of heads (Figure 5) or FFNs (Figure 6)."""
    heads = [*CURVE_FILES, *ITERATIVE_CURVE_FILES]
    ffns = [*FFN_CURVE_FILES, *FFN_CONTROL_FILES]
    return expand({"heads": heads, "ffns": ffns}[wildcards.component], **wildcards)


def get_figure_controls(wildcards):
    """Control rankings that are drawn; most are orders of heads alone."""
    return {"heads": CONTROLS, "ffns": FFN_CONTROLS}[wildcards.component]


def get_figure_iterative(wildcards):
    """Whether curves under the iterative ranking are drawn; it is an order of heads."""
    return "--iterative" if IS_ITERATIVE and wildcards.component == "heads" else ""


def get_figure_transfer(wildcards):
    """Accuracy curves under several rankings, at the figure's number of shots."""
    return expand(TRANSFER_FILES, shot=get_figure_shots(wildcards), **wildcards)


def get_figure_correlations(wildcards):
    """Correlations between tasks at the figure's numbers of shots."""
    return expand(
        f"results/{{model}}/correlation/cross_task/{CELL}.parquet",
        shot=get_figure_shots(wildcards),
        **wildcards,
    )


def get_figure_scores(wildcards):
    """The head scores of each task at the figure's number of shots."""
    files = cells("head_importance", TASKS, shot=get_figure_shots(wildcards))
    return expand(files, **wildcards)


def job_state(job, failed, running):
    """What became of a job of this run."""
    if not workflow.dag.needrun(job):
        return "there"
    if job in failed:
        return "failed"
    if workflow.dag.finished(job):
        return "ran"
    return "interrupted" if job in running else "waiting"


def wall_time(job):
    """Seconds from a job's start to its end, as Snakemake has recorded them, if it has."""
    record = workflow.persistence.metadata(job.output[0])
    if record is None or record.starttime is None or record.endtime is None:
        return None
    return record.endtime - record.starttime


def print_summary():
    """Say at the end of a run what became of its jobs, and how to go on."""
    if workflow.touch:
        return
    failed, running = (
        {job for found in jobs for job in (found if found.is_group() else [found])}
        for jobs in (workflow.scheduler.failed, workflow.scheduler.running)
    )
    jobs = []
    for job in chain.from_iterable(map(sorted, workflow.dag.toposorted())):
        # Rules that only name targets run nothing.
        if job.output:
            state = job_state(job, failed, running)
            seconds = wall_time(job) if state == "ran" else None
            log = job.log[0] if job.log else None
            results = list(job.output)
            jobs.append(Job(job.rule.name, state, results, log, seconds, job.attempt))
    text = summary(jobs, time.monotonic() - STARTED, resume_command(sys.argv[1:]))
    logger.info(f"\n{text}\n")


@cache
def warn(text):
    """Say something once."""
    logger.warning(text)


def get_cpu_memory(wildcards, attempt):
    """MB of memory of a job that only reads and writes artifacts, several times what it needs."""
    return int(2000 * 1.5 ** (attempt - 1))


def get_request(name, job_input, attempt):
    """What a job that runs a model asks a cluster for.

    Files that do not say how large they are must not keep a run from starting, which may make them anew: the job gets
    a guess, and says itself what is wrong with them.
    """
    try:
        return request_from_files(
            name, STUDY, job_input.model, job_input.get("prompts"), attempt
        )
    except HeadroomError as error:
        warn(f"{error}. Until then, cluster jobs ask for a guess of memory and time")
        return default_request(STUDY, attempt)


def model_job(name):
    """Resources of a rule that runs the model; memory and time grow with the model, the prompts and each attempt.

    Resources, not params: they change speed and memory, and must not rerun anything.
    """

    def memory(wildcards, input, attempt):
        return get_request(name, input, attempt).mem_mb

    def minutes(wildcards, input, attempt):
        return get_request(name, input, attempt).minutes

    return {
        "gpu": GPUS,
        # The same once more, because a limit of GPUs in all, such as the default profile's, lowers `gpu` to itself.
        "gpus_per_job": GPUS,
        "device": STUDY.device,
        "token_budget": STUDY.token_budget,
        "mem_mb": memory,
        "runtime": minutes,
    }


# Not in the Snakemake processes of cluster jobs: their submitter has done it.
if workflow.is_main_process:
    for model in MODELS:
        resolve_again(model)
