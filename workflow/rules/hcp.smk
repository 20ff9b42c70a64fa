rule segment_hcp_subject:
    input:
        runs=lambda wildcards: HCP_RUNS[wildcards.hcp_subject],
    output:
        directory("results/{dataset}/hcp/sub-{hcp_subject}"),
    log:
        "logs/{dataset}/hcp/sub-{hcp_subject}.log",
    benchmark:
        "logs/{dataset}/hcp/sub-{hcp_subject}.tsv"
    wildcard_constraints:
        hcp_subject=pattern(HCP_RUNS),
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=1500,
        runtime="1h",
    params:
        cfg=section("hcp"),
        code=fingerprint("hcp"),
    message:
        "Cutting the runs of HCP subject {wildcards.hcp_subject} into segments"
    shell:
        "python -m mindreel hcp segments"
        " --subject {wildcards.hcp_subject:q}"
        " --runs {input.runs:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule gather_hcp_segments:
    input:
        subjects=hcp_folders,
    output:
        index="results/{dataset}/hcp/runs.tsv",
        skipped="results/{dataset}/hcp/skipped.tsv",
        summary="results/{dataset}/hcp/summary.json",
    log:
        "logs/{dataset}/hcp/runs.log",
    benchmark:
        "logs/{dataset}/hcp/runs.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=1500,
        runtime="30m",
    params:
        cfg=section("hcp"),
        code=fingerprint("hcp"),
    message:
        "Listing the segments of all HCP subjects"
    shell:
        "python -m mindreel hcp gather"
        " --subjects {input.subjects:q}"
        " --index {output.index:q}"
        " --skipped {output.skipped:q}"
        " --summary {output.summary:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
