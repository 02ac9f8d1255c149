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


include: "workflow/rules/common.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/importance.smk"
include: "workflow/rules/oracle.smk"
include: "workflow/rules/pruning.smk"
include: "workflow/rules/iterative.smk"
include: "workflow/rules/correlation.smk"
include: "workflow/rules/induction.smk"
include: "workflow/rules/ablation.smk"
include: "workflow/rules/selection_bias.smk"
include: "workflow/rules/seeds.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/gains.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/compare.smk"


# With jobs on a cluster, these run where Snakemake does: what may need a network, and what takes seconds.
localrules:
    fetch_package,
    prepare_embedded_model,
    prepare_embedded_data,
    resolve_model,
    render_prompts,
    draw_oracle,
    draw_fig03,
    draw_fig04,
    draw_pruning,
    draw_fig07,
    draw_correlation,
    draw_transfer,
    draw_fig10,
    draw_fig11,
    draw_task_importance,
    draw_task_capacity,
    draw_compared_prunable,
    draw_compared_rankings,
    draw_compared_profiles,
    draw_compared_induction,
    write_table1,
    write_oracle,
    write_findings,
    write_headroom,
    write_losses,
    write_reference,
    write_gains,
    write_ablation,
    draw_ablation,
    write_selection_bias,
    write_seeds,


onsuccess:
    print_summary()


onerror:
    print_summary()


rule all:
    default_target: True
    input:
        MODEL_RECORDS,
        PROMPTS,
        IMPORTANCE,
        CURVES,
        CORRELATIONS,
        INDUCTION,
        FIGURES,
        TABLES,
        FINDINGS,
        SEED_RESULTS,
        COMPARISON,


rule prompts:
    input:
        PROMPTS,


rule importance:
    input:
        IMPORTANCE,


rule curves:
    input:
        CURVES,


rule correlations:
    input:
        CORRELATIONS,


rule induction:
    input:
        INDUCTION,


rule figures:
    input:
        FIGURES,
        FINDINGS,


rule tables:
    input:
        TABLES,
        SEED_RESULTS,


rule comparison:
    input:
        COMPARISON,
