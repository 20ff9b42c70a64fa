rule describe_frames:
    input:
        frames="results/{dataset}/stimuli/{segment}.npy",
        model=model("captioner"),
    output:
        "results/{dataset}/captions/{segment}.tsv",
    log:
        "logs/{dataset}/captions/{segment}.log",
    benchmark:
        "logs/{dataset}/captions/{segment}.tsv"
    conda:
        "../../envs/lavis.yaml"
        if CONFIG.captions.backend == "lavis"
        else "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=6000,
        runtime="2h",
        gpu=1,
    params:
        cfg=section("captions"),
        code=fingerprint("captions"),
    message:
        "Describing the frames of {wildcards.segment}"
    shell:
        "python -m mindreel captions describe"
        " --frames {input.frames:q}"
        " --model {input.model:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
