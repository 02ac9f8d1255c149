# What differs between the models of a study, where there are two or more: an artifact and a target for each comparison.


for comparison in filter(lambda row: row.is_of(STUDY), products.COMPARISONS):

    rule:
        name:
            comparison.rule
        input:
            MODEL_RECORDS,
            results_of(comparison.reads(STUDY)),
            lists=[LISTS[name] for name in comparison.lists],
        output:
            f"results/{comparison.stem}.parquet",
        log:
            f"logs/{comparison.stem}.log",
        conda:
            "../../envs/analysis.yaml"
        resources:
            mem_mb=get_cpu_memory,
            runtime=CPU_MINUTES,
        params:
            code=code_digest(comparison.module),
            options=comparison.command(STUDY),
            place=comparison.place_options,
        message:
            f"Compare {comparison.label}."
        shell:
            step("{params.options} {params.place:q} --out {output:q}")


# One target per comparison, each with no more than it needs of the models.
for name, paths in products.comparison_targets(STUDY).items():

    rule:
        name:
            name
        input:
            results_of(paths),
