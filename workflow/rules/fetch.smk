rule fetch_model:
    output:
        directory("resources/models/{name}"),
    log:
        "logs/fetch/{name}.log",
    benchmark:
        "logs/fetch/{name}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="2h",
    params:
        hub=lambda wildcards: wildcards.name.replace("--", "/"),
        code=fingerprint("fetch"),
    message:
        "Downloading {params.hub}"
    shell:
        "python -m mindreel fetch model"
        " --name {params.hub:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"
