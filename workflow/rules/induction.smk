# Induction scores of each model's heads, how much of them is left after pruning, and accuracy without the strongest
# induction heads, and without random heads of the same layers.


rule score_induction:
    input:
        model=RECORD,
    output:
        prefix_matching=place("prefix_matching"),
        copying=place("copying"),
    log:
        "logs/{model}/score_induction.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_induction"),
    params:
        cache="results/{model}/.cache/induction",
        code=code_digest("steps.score_induction"),
        options=options("score_induction"),
    message:
        "Score prefix matching and copying of {wildcards.model}."
    shell:
        model_step(
            'score-induction --out "$(dirname {output.copying:q})"',
            "--cache {params.cache:q}",
        )


rule retain_capacity:
    input:
        place("prefix_matching"),
        place("copying"),
        gather("ranking", task=[*TASKS, AGGREGATE], shot="{shot}"),
        tasks=LISTS["tasks"],
    output:
        place("capacity"),
    log:
        f"logs/{{model}}/retain_capacity/{CELL}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.retain_capacity"),
        options=options("retain_capacity"),
    message:
        "Count the induction capacity that is left after pruning, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        step(
            "retain-capacity --results results/{wildcards.model:q} {params.options} --shots {wildcards.shot:q} "
            "--seed {wildcards.seed:q} --out {output:q}"
        )


rule ablate_induction:
    input:
        model=RECORD,
        prompts=place("prompts"),
        prefix_matching=place("prefix_matching"),
        copying=place("copying"),
    output:
        place("induction_ablation"),
    log:
        f"logs/{{model}}/ablate_induction/{{task}}/{CELL}.log",
    wildcard_constraints:
        task=alternatives(STUDY.ablated_tasks),
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("ablate_induction"),
    params:
        cache=CACHE,
        code=code_digest("steps.ablate_induction"),
        options=options("ablate_induction"),
    message:
        "Ablate induction heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "ablate-induction --prompts {input.prompts:q} "
            "--prefix-matching {input.prefix_matching:q} --copying {input.copying:q} --out {output:q}"
        )
