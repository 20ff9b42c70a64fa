rule score_clips:
    input:
        clips=conditions,
        frames=segments("stimuli", "test", ".npy"),
        features="results/{dataset}/features/{owner}/sub-{sub}",
        true_features="results/{dataset}/features/true",
    output:
        report(
            directory("results/{dataset}/metrics/{owner}/sub-{sub}"),
            patterns=["{table}.tsv"],
            caption="../report/scores.rst",
            category="Scores of every clip",
            labels={"subject": "{sub}", "experiment": "{owner}", "table": "{table}"},
        ),
    log:
        "logs/{dataset}/metrics/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/metrics/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime="1h",
    params:
        order=conditions,  # that of the tables: a change of order alone is none of the inputs
        cfg=section("metrics"),
        code=fingerprint("metrics"),
    message:
        "Scoring the clips of sub-{wildcards.sub}"
    shell:
        "python -m mindreel metrics score"
        " --clips {input.clips:q}"
        " --frames {input.frames:q}"
        " --features {input.features:q}"
        " --true-features {input.true_features:q}"
        " --out {output:q}"
        " --workers {threads}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule compare_experiments:
    input:
        everywhere("metrics"),
    output:
        report(
            "results/{dataset}/metrics/comparison.tsv",
            caption="../report/comparison.rst",
            category="Tables",
            labels={"table": "comparison, all metrics"},
        ),
    log:
        "logs/{dataset}/metrics/comparison.log",
    benchmark:
        "logs/{dataset}/metrics/comparison.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        cfg=section("metrics"),
        code=fingerprint("metrics"),
    message:
        "Testing the experiments against the first one"
    shell:
        "python -m mindreel metrics compare"
        " --metrics {input:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
