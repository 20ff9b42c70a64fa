rule embed_segment:
    input:
        frames="results/{dataset}/stimuli/{segment}.npy",
        captions="results/{dataset}/captions/{segment}.tsv",
        clip=model("clip"),
        diffusion=model("stable_diffusion"),
        synonyms=ours("resources/synonyms.tsv"),
    output:
        directory("results/{dataset}/targets/{segment}"),
    log:
        "logs/{dataset}/targets/{segment}.log",
    benchmark:
        "logs/{dataset}/targets/{segment}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime="2h",
        gpu=1,
    params:
        cfg=section("targets"),
        code=fingerprint("targets"),
    message:
        "Embedding the frames and captions of {wildcards.segment}"
    shell:
        "python -m mindreel targets embed"
        " --frames {input.frames:q}"
        " --captions {input.captions:q}"
        " --clip {input.clip:q}"
        " --diffusion {input.diffusion:q}"
        " --synonyms {input.synonyms:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
