rule audit_leaks:
    input:
        train_frames=segments("stimuli", "train", ".npy"),
        test_frames=segments("stimuli", "test", ".npy"),
        train_targets=segments("targets", "train"),
        test_features="results/{dataset}/features/true",
    output:
        report(
            directory("results/{dataset}/audit"),
            patterns=["{table}.tsv"],
            caption="../report/audit.rst",
            category="Leak audit",
            labels={"table": "{table}"},
        ),
    log:
        "logs/{dataset}/audit/leaks.log",
    benchmark:
        "logs/{dataset}/audit/leaks.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime="1h",
    params:
        cfg=section("audit"),
        code=fingerprint("audit"),
    message:
        "Looking for test frames in the training movies"
    shell:
        "python -m mindreel audit leaks"
        " --train-frames {input.train_frames:q}"
        " --test-frames {input.test_frames:q}"
        " --train-targets {input.train_targets:q}"
        " --test-features {input.test_features:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
