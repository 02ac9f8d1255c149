# lm-headroom: how much of a language model does in-context learning need?
# Targets: all (default), prompts, importance, curves, correlations, induction, figures, tables, one per figure (fig05),
# and, of several models, comparison and one per comparison (comparison_rankings).
from snakemake.utils import min_version

min_version("9.27")


# A study given with --configfile stands alone: merged over the embedded one, its tasks would be joined by the default
# study's model.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


report: "workflow/report/workflow.rst"


# Of jobs that a profile submits together, one runs the model at a time.
resource_scopes:
    model_jobs="local",


if not workflow.is_main_process:
    workflow.register_resource("model_jobs", 1)


include: "workflow/rules/common.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/importance.smk"
include: "workflow/rules/experts.smk"
include: "workflow/rules/pruning.smk"
include: "workflow/rules/correlation.smk"
include: "workflow/rules/induction.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/products.smk"


# A profile for clusters has resources by default; under it, each job that runs a model says what it asks for.
if workflow.resource_settings.default_resources is not None:
    for model_rule in workflow.rules:
        if "gpus_per_job" in model_rule.resources:
            model_rule.message += (
                " It asks for {resources.mem_mb} MB, {resources.runtime} minutes, {threads} cores and"
                " {resources.gpus_per_job} GPUs."
            )


onsuccess:
    print_summary()


onerror:
    print_summary()


rule all:
    default_target: True
    input:
        MODEL_RECORDS,
        TARGETS.values(),


for name, paths in TARGETS.items():

    rule:
        name:
            name
        input:
            paths,
