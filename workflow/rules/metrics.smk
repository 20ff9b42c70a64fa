rule score_clips:
    input:
        clips=expand(
            "results/{{dataset}}/sampling/{{owner}}/sub-{{sub}}/{control}.npy",
            control=CONTROLS,
        ),
        frames=segments("stimuli", "test", ".npy"),
        image_classifier=model("image_classifier"),
        video_classifier=model("video_classifier"),
    output:
        directory("results/{dataset}/metrics/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/metrics/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/metrics/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime="4h",
        gpu=1,
    params:
        cfg=section("metrics"),
        code=fingerprint("metrics"),
    message:
        "Scoring the clips of sub-{wildcards.sub}"
    shell:
        "python -m mindreel metrics score --clips {input.clips} --frames {input.frames} --out {output} "
        "--image-classifier {input.image_classifier} --video-classifier {input.video_classifier} --cfg {params.cfg:q} "
        "> {log} 2>&1"
