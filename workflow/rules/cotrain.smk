rule cotrain:
    input:
        encoder=made("contrastive", "sub-{sub}"),
        generator=made("generator", ""),
        model=model("stable_diffusion"),
        bold=made("roi", "sub-{sub}/train.npy"),
        targets=paired,
    output:
        directory("results/{dataset}/cotrain/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/cotrain/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/cotrain/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=32000,
        runtime="3d",
        gpu=1,
    params:
        encoder=section("encoder"),
        cfg=section("cotrain"),
        code=fingerprint("cotrain"),
    message:
        "Tuning encoder and generator of sub-{wildcards.sub} together"
    shell:
        f"{LAUNCH} -m mindreel cotrain train"
        " --encoder {input.encoder:q}"
        " --generator {input.generator:q}"
        " --model {input.model:q}"
        " --bold {input.bold:q}"
        " --targets {input.targets:q}"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/cotrain/{wildcards.owner:q}/sub-{wildcards.sub:q}"
        " --encoder-settings {params.encoder:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
