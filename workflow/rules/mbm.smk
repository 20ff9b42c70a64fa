rule pretrain_encoder:
    input:
        segments="results/{dataset}/hcp/runs.tsv",
    output:
        directory("results/{dataset}/mbm/{owner}/hcp"),
    log:
        "logs/{dataset}/mbm/{owner}/hcp.log",
    benchmark:
        "logs/{dataset}/mbm/{owner}/hcp.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 8
    resources:
        mem_mb=32000,
        runtime="7d",
        gpu=1,
    params:
        cfg=section("pretrain"),
        code=fingerprint("mbm"),
    message:
        "Pretraining the encoder on HCP"
    shell:
        f"{LAUNCH} -m mindreel mbm pretrain"
        " --segments results/{wildcards.dataset:q}/hcp"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/mbm/{wildcards.owner:q}/hcp"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule tune_encoder:
    input:
        bold=made("roi", "sub-{sub}/train.npy"),
        pretrained=pretrained,
    output:
        directory("results/{dataset}/mbm/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/mbm/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/mbm/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="12h",
        gpu=1,
    params:
        sizes=section("pretrain"),
        cfg=section("mbm"),
        pretrained=flag("pretrained"),
        code=fingerprint("mbm"),
    message:
        "Tuning the encoder on sub-{wildcards.sub}"
    shell:
        f"{LAUNCH} -m mindreel mbm tune"
        " --bold {input.bold:q}"
        " {params.pretrained} {input.pretrained:q}"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/mbm/{wildcards.owner:q}/sub-{wildcards.sub:q}"
        " --sizes {params.sizes:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
