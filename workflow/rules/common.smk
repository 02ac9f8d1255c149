# The study, its lists and targets, and helpers for the rules. The only rule file with functions.
import os
import re
import shlex
import sys
import tempfile
import time
from functools import cache, partial
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger

# From this file: where another Snakefile imports the workflow as a module, `workflow.basedir` is that one's folder.
WORKFLOW = Path(str(workflow.current_basedir.get_path_or_uri(secret_free=True))).parent
# The folder of the package: this one in a checkout, and the environment's where a wheel has brought these files.
IMPORT_FOLDER = WORKFLOW if (WORKFLOW / "lm_headroom").is_dir() else WORKFLOW.parents[2]
sys.path.insert(0, str(IMPORT_FOLDER))

from lm_headroom.artifacts import catalogue
from lm_headroom.artifacts.catalogue import ARTIFACTS, CELL
from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.content import Digests
from lm_headroom.audit.invocation import check_profile, is_alone, makes_results
from lm_headroom.audit.outdated import Outdated
from lm_headroom.audit.run_summary import summary_of
from lm_headroom.checkout import check_places, check_writable_for_snakemake
from lm_headroom.checkout import job_environment, model_step, step
from lm_headroom.errors import HeadroomError
from lm_headroom.models.renewal import Renewal, check_fit, source_of
from lm_headroom.options import options_of_study
from lm_headroom.planning.requests import get_cpu_memory, resources_of
from lm_headroom.planning.workload import hardware_of
from lm_headroom.report import products
from lm_headroom.study.config import EMBEDDED
from lm_headroom.study.lists import LISTED, keep_list
from lm_headroom.study.ranking_names import AGGREGATE, HIGHEST, ITERATIVE, LOWEST
from lm_headroom.study.ranking_names import LEARNED, OTHER_DOCUMENTS, OWN
from lm_headroom.study.reading import merge, parse_study
from lm_headroom.tasks.data import EMBEDDED_FOLDER, Records
from lm_headroom.tasks.groups import with_subtasks
from lm_headroom.tasks.sources import TaskSources

STARTED = time.monotonic()
EMBEDDED_MODEL = "resources/models/SmolLM2-135M-Instruct"
# Time limit, in minutes, of a cluster job that only reads and writes artifacts, which takes seconds.
CPU_MINUTES = 20
# Of records, kept between runs.
DIGESTS = Digests(Path("results/.digests.json"))
# The Snakemake processes of jobs find what their run has written.
IS_RUN = workflow.is_main_process and makes_results(sys.argv)
# What a dry run would have to write, outside the results; it goes with the process.
SCRATCH_FOLDER = tempfile.TemporaryDirectory(prefix="lm-headroom-")
SCRATCH = Path(SCRATCH_FOLDER.name)
# Rules call `python -m lm_headroom`: the same command line that users call, from this checkout, in each rule's own
# environment. Every Snakemake process parses this file, those inside cluster jobs too.
os.environ.update(job_environment(IMPORT_FOLDER, WORKFLOW, SCRATCH))


try:
    check_places(IMPORT_FOLDER, Path.cwd())
    check_profile(sys.argv, workflow.workdir_init, workflow.main_snakefile)
    # From the files themselves: Snakemake has merged them, but takes the last of two equal keys, and reads values of
    # --config as text.
    # Those are another workflow's where one imports this as a module: it hands over the study.
    changes = workflow.config_settings.config_args or []
    files = map(Path, workflow.configfiles)
    is_module = not workflow.modifier.is_main_snakefile()
    STUDY = parse_study(with_subtasks(config if is_module else merge(files, changes)))
    STUDY.check_folders()
    hardware_of(STUDY)
    SOURCES = TaskSources(STUDY)
    SOURCES.check_choices()
    TASK_DIGESTS = {task: SOURCES.digest(task) for task in STUDY.all_tasks}
    if IS_RUN:
        check_writable_for_snakemake(Path.cwd())
    RECORDS = Records(STUDY, SOURCES, DIGESTS)
    RECORDS.check()
except HeadroomError as error:
    raise WorkflowError(str(error)) from None

config.clear()
config.update(STUDY.model_dump())

# Another run's study may be another: what it works with is left alone.
WRITES = IS_RUN and is_alone(Path(".snakemake"))
TASKS, SHOTS, SEEDS = STUDY.tasks, STUDY.shots, STUDY.seeds
# As the comparing commands take them; none where there is nothing to compare.
COMPARED = list(map(str, STUDY.compared_models))


onstart:
    DIGESTS.keep()


options = partial(options_of_study, STUDY)


def alternatives(values):
    """A wildcard pattern that matches exactly these values; nothing where there are none."""
    return "|".join(re.escape(str(value)) for value in values) or "(?!)"


wildcard_constraints:
    model=alternatives(STUDY.models),
    task=alternatives(STUDY.all_tasks),
    shot=alternatives(SHOTS),
    seed=alternatives(SEEDS),
    package="model|data",
    ranked=alternatives([*STUDY.all_tasks, AGGREGATE]),
    pruned=catalogue.PRUNED_PARTS,
    component="heads|ffns",
    ranking=alternatives(STUDY.rankings),


def results_of(paths):
    """Paths below the results folder, from the working folder."""
    return [f"results/{path}" for path in paths]


def place(artifact, **values):
    """Path of an artifact with wildcards for its dimensions, as far as they are not given."""
    return f"results/{catalogue.path_of(artifact, **values)}"


def gather(artifact, **chosen):
    """Paths of an artifact that the study has, with the model and the seed as wildcards, if they are not given."""
    wildcards = {"model": "{model}", "seed": "{seed}"}
    return results_of(ARTIFACTS[artifact].paths(STUDY, **{**wildcards, **chosen}))


def curves(component, *rankings):
    """Paths of a task's accuracy curves, with wildcards."""
    return [
        place("pruned_eval", component=component, ranking=name) for name in rankings
    ]


RECORD = f"results/{catalogue.RECORD}"
MODEL_RECORDS = [RECORD.format(model=model) for model in STUDY.models]
# Finished units of the jobs of one task, shot and seed; some they share, such as the whole model's evaluation.
CACHE = f"results/{{model}}/.cache/{{task}}/{CELL}"
# What the own curves take beside the task's ranking: its scores, where a control ranks by one of their columns.
FFN_CONTROL_SCORES = (
    [place("ffn_gradient")] if STUDY.pruning.ranks_ffns_by_gradients else []
)
CONTROL_SCORES = [place("head_importance")] if STUDY.pruning.ranks_by_scores else []
CONTROL_ORACLES = [place("head_oracle")] if STUDY.ranks_heads_by_oracles else []
HEAD_CURVES = os.path.dirname(place("pruned_eval", component="heads"))
RANKINGS = os.path.dirname(os.path.dirname(place("ranking")))
JOINT_RANKING = {"task": AGGREGATE} if STUDY.joint.ranking == "aggregate" else {}
WHEEL = "resources/packages/{package}.whl"
TARGETS = {
    name: results_of(paths + products.targets(STUDY).get(name, []))
    for name, paths in {"figures": [], **catalogue.targets(STUDY)}.items()
}


# A dry run, which writes no results, plans with lists elsewhere that are as new as those that a run would write.
LIST_FOLDER = (
    Path() if WRITES else None if IS_RUN or not workflow.is_main_process else SCRATCH
)
# Lists of the study as files, which gathering rules take as inputs.
LISTS = {
    name: keep_list(Path("results", path), getattr(STUDY, name), LIST_FOLDER)
    for name, path in LISTED.items()
    if COMPARED or name != "models"
}
MATRIX = [LISTS["tasks"], LISTS["shots"]]
# Snakemake makes jobs of these again, and of all that is made from them; a model's record, only in a dry run.
OUTDATED = {}


@cache
def force_outdated():
    """Hand Snakemake the outdated results as forced, once it plans jobs: it has no records of its own to compare."""
    if workflow.is_main_process and RerunTrigger.PARAMS in workflow.rerun_triggers:
        judged = Outdated(Path("results"), STUDY, Path(".snakemake"), RECORDS)
        OUTDATED.update(judged.reasons)
        judged.report(logger.info)
        if WRITES:
            judged.keep()
    workflow.dag.forcefiles.update(OUTDATED)


model_job = partial(resources_of, study=STUDY, warn=cache(logger.warning))


def print_summary():
    """Say at the end of a run what became of its jobs, and how to go on."""
    if not workflow.touch:
        elapsed = time.monotonic() - STARTED
        logger.info(f"\n{summary_of(workflow, elapsed, sys.argv[1:])}\n")


def model_source(name):
    """A model as the resolving command is given it."""
    # A window too short for the study's induction sequences is known from the configuration.
    sequences = options("resolve_model")
    return source_of(name, STUDY.models[name], EMBEDDED_MODEL, sequences)


def get_model_options(wildcards):
    """Where the resolving command finds a model, and what it may do, as its options."""
    return shlex.join(model_source(wildcards.model).options)


def get_model_files(wildcards):
    """Files that must be there before a model can be resolved: those of the embedded one."""
    force_outdated()
    is_embedded = STUDY.models[wildcards.model].source == EMBEDDED
    return rules.prepare_embedded_model.output if is_embedded else []


def get_data_files(wildcards):
    """The records that prompts are rendered from, where a rule makes them.

    A mirror's are no inputs: they are known by content, wherever the mirror lies.
    """
    force_outdated()
    return RECORDS.files(wildcards.task)


def get_records(wildcards):
    """What a task's prompts depend on beside code and options: the content of its records."""
    return (
        f"records {RECORDS.digest(wildcards.task, Path(place('prompts', **wildcards)))}"
    )


def get_pruned_rankings(wildcards):
    """The rankings that a pruned checkpoint is made by."""
    return [
        place(name, task=wildcards.ranked, **wildcards)
        for name in catalogue.pruned_by(**wildcards)
    ]


# Not in the Snakemake processes of cluster jobs: their submitter has done it.
if workflow.is_main_process:
    renewal = Renewal(SCRATCH, WRITES, IS_RUN, logger.info, logger.warning)
    try:
        for model, record in zip(STUDY.models, map(Path, MODEL_RECORDS)):
            check_fit(model, record, STUDY.induction)
            if renewal.changes(record, model_source(model)):
                OUTDATED[str(record)] = ["the checkpoint is another"]
    except HeadroomError as error:
        raise WorkflowError(str(error)) from None
