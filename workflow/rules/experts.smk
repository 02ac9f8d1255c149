# Importance of the experts of mixture-of-experts models, and evaluation with the least important of them pruned.


rule score_experts:
    input:
        model=RECORD,
        prompts=place("prompts"),
    output:
        scores=place("expert_importance"),
        ranking=place("expert_ranking"),
        curves=curves("experts", *(STUDY.experts.rankings or [OWN])),
    log:
        f"logs/{{model}}/score_experts/{{task}}/{CELL}.log",
    wildcard_constraints:
        task=alternatives(STUDY.expert_tasks),
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_experts"),
    params:
        cache=CACHE,
        code=code_digest("steps.score_experts"),
        options=options("score_experts"),
        controls=STUDY.experts.rankings[1:],
    message:
        "Score and prune the experts of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "score-experts --prompts {input.prompts:q} --controls {params.controls:q} "
            "--out {output.scores:q} --ranking {output.ranking:q} --curve {output.curves[0]:q}"
        )
