rule extract_frames:
    input:
        movie=lambda wildcards: present(SHEET.path("movie", segment=wildcards.segment)),
    output:
        "results/{dataset}/stimuli/{segment}.npy",
    log:
        "logs/{dataset}/stimuli/{segment}.log",
    benchmark:
        "logs/{dataset}/stimuli/{segment}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        cfg=section("stimuli"),
        volumes=lambda wildcards: SHEET.volumes(wildcards.segment),
        tr_s=CONFIG.data.tr_s,
        code=fingerprint("stimuli"),
    message:
        "Extracting the frames of {wildcards.segment}"
    shell:
        "python -m mindreel stimuli extract"
        " --movie {input.movie:q}"
        " --volumes {params.volumes:q}"
        " --tr-s {params.tr_s:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
