rule train_contrastive:
    input:
        mbm=made("mbm", "sub-{sub}"),
        bold=made("roi", "sub-{sub}/train.npy"),
        targets=paired,
        frames=paired_frames,
    output:
        directory("results/{dataset}/contrastive/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/contrastive/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/contrastive/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="1d",
        gpu=1,
    params:
        encoder=section("encoder"),
        cfg=section("contrastive"),
        code=fingerprint("contrastive"),
    message:
        "Bringing the encoder of sub-{wildcards.sub} into CLIP space"
    shell:
        f"{LAUNCH} -m mindreel contrastive train"
        " --mbm {input.mbm:q}"
        " --bold {input.bold:q}"
        " --targets {input.targets:q}"
        " --frames {input.frames:q}"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/contrastive/{wildcards.owner:q}/sub-{wildcards.sub:q}"
        " --encoder {params.encoder:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
