# Induction scores of each model's heads.


rule score_induction:
    input:
        model="results/{model}/model.json",
    output:
        "results/{model}/induction/prefix_matching.parquet",
    log:
        "logs/{model}/score_induction.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        gpu=1,
        # Resources, not params: these change speed and memory, and must not rerun anything.
        device=config["device"],
    params:
        code=code_digest("steps.score_induction"),
        options=options("induction.sequences", "induction.bos", "dtype"),
    message:
        "Score prefix matching of {wildcards.model}."
    shell:
        "python -m headroom induction --model {input.model} {params.options} "
        "--device {resources.device} --threads {threads} --out {output} 2>&1 | tee {log}"
