# simulated runs are named by the workflow, real ones found on disk
HCP_RUNS = SIMULATED_HCP or sorted(map(str, Path().glob(CONFIG.hcp.pattern)))


rule segment_hcp_runs:
    input:
        HCP_RUNS,
    output:
        directory("results/{dataset}/hcp"),
    log:
        "logs/{dataset}/hcp.log",
    benchmark:
        "logs/{dataset}/hcp.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime="12h",
    params:
        cfg=section("hcp"),
        code=fingerprint("hcp"),
    message:
        "Cutting HCP runs into segments"
    shell:
        "python -m mindreel hcp segments --runs {input} --out {output} --cfg {params.cfg:q} "
        "> {log} 2>&1"
