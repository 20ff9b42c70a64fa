rule draw_selection:
    input:
        maps="results/{dataset}/roi/{owner}/sub-{sub}/reproducibility.dscalar.nii",
        summary="results/{dataset}/roi/{owner}/sub-{sub}/summary.json",
    output:
        report(
            directory("results/{dataset}/pictures/roi/{owner}/sub-{sub}"),
            patterns=["{picture}.png"],
            caption="../report/selection.rst",
            category="Brain maps",
            subcategory="Voxel selection",
            labels={
                "subject": "{sub}",
                "experiment": "{owner}",
                "picture": "{picture}",
            },
        ),
    log:
        "logs/{dataset}/pictures/roi/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/pictures/roi/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="10m",
    params:
        code=fingerprint("pictures"),
    message:
        "Drawing the voxel selection of sub-{wildcards.sub}"
    shell:
        "python -m mindreel pictures selection"
        " --maps {input.maps:q}"
        " --summary {input.summary:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


rule draw_quality:
    input:
        tsnr=lambda wildcards: bold_of(wildcards.sub, "tsnr.npy", "raw", "mni", "cifti"),
        motion=lambda wildcards: bold_of(wildcards.sub, "motion.tsv", "raw"),
    output:
        report(
            directory("results/{dataset}/pictures/bold/sub-{sub}"),
            patterns=["{picture}.png"],
            caption="../report/quality.rst",
            category="Scan quality",
            labels={"subject": "{sub}", "picture": "{picture}"},
        ),
    log:
        "logs/{dataset}/pictures/bold/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/pictures/bold/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="10m",
    params:
        motion=flag("motion"),
        code=fingerprint("pictures"),
    message:
        "Drawing head motion and temporal SNR of sub-{wildcards.sub}"
    shell:
        "python -m mindreel pictures quality"
        " --tsnr {input.tsnr:q}"
        " {params.motion} {input.motion:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


rule draw_attention:
    input:
        "results/{dataset}/attention/{owner}/sub-{sub}",
    output:
        report(
            directory("results/{dataset}/pictures/attention/{owner}/sub-{sub}"),
            patterns=["{picture}.png"],
            caption="../report/attention.rst",
            category="Brain maps",
            subcategory="Attention",
            labels={
                "subject": "{sub}",
                "experiment": "{owner}",
                "picture": "{picture}",
            },
        ),
    log:
        "logs/{dataset}/pictures/attention/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/pictures/attention/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="10m",
    params:
        code=fingerprint("pictures"),
    message:
        "Drawing the attention of the encoders of sub-{wildcards.sub}"
    shell:
        "python -m mindreel pictures attention"
        " --attention {input:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"
