if CONFIG.simulate:

    rule simulate_movie:
        output:
            movie=SHEET.path("movie", segment="{segment}"),
            scenes=f"{RESULTS}/simulate/truth/{{segment}}.tsv",
        log:
            f"logs/{DATASET}/simulate/{{segment}}.log",
        benchmark:
            f"logs/{DATASET}/simulate/{{segment}}.tsv"
        conda:
            "../../envs/mindreel.yaml"
        resources:
            mem_mb=1000,
            runtime="10m",
        params:
            cfg=section("simulate"),
            volumes=lambda wildcards: SHEET.volumes(wildcards.segment),
            tr_s=CONFIG.data.tr_s,
            code=fingerprint("simulate"),
        message:
            "Drawing the movie {wildcards.segment}"
        shell:
            "python -m mindreel simulate movie"
            " --segment {wildcards.segment:q}"
            " --volumes {params.volumes:q}"
            " --tr-s {params.tr_s:q}"
            " --movie {output.movie:q}"
            " --scenes {output.scenes:q}"
            " --cfg {params.cfg:q}"
            " > {log:q} 2>&1"

    # one rule per subject, since a subject's runs are a list that wildcards cannot spell
    for subject in SHEET.subjects:

        rule:
            name:
                f"simulate_subject_{subject}"
            input:
                scenes=expand(
                    f"{RESULTS}/simulate/truth/{{segment}}.tsv",
                    segment=SHEET.segments(),
                ),
                sheet=CONFIG.data.sheet,
            output:
                runs=[SHEET.file(run) for _, run in SHEET.runs(subject).iterrows()],
                t1w=(
                    [SHEET.path("t1w", subject=subject)]
                    if "raw" in set(SHEET.runs(subject).source)
                    else []
                ),
                truth=directory(f"{RESULTS}/simulate/truth/sub-{subject}"),
            log:
                f"logs/{DATASET}/simulate/sub-{subject}.log",
            benchmark:
                f"logs/{DATASET}/simulate/sub-{subject}.tsv"
            conda:
                "../../envs/mindreel.yaml"
            resources:
                mem_mb=3000,
                runtime="30m",
            params:
                subject=subject,
                cfg=section("simulate"),
                data=section("data"),
                bold=section("bold"),
                root=data_root,
                code=fingerprint("simulate"),
            message:
                "Scanning subject {params.subject} of the small world"
            shell:
                "python -m mindreel simulate subject"
                " --subject {params.subject:q}"
                " --sheet {input.sheet:q}"
                " --scenes {input.scenes:q}"
                " --root {params.root:q}"
                " --truth {output.truth:q}"
                " --cfg {params.cfg:q}"
                " --data {params.data:q}"
                " --bold {params.bold:q}"
                " > {log:q} 2>&1"

    rule simulate_hcp:
        output:
            f"{RESULTS}/simulate/hcp/{{hcp_subject}}.dtseries.nii",
        log:
            f"logs/{DATASET}/simulate/hcp/{{hcp_subject}}.log",
        benchmark:
            f"logs/{DATASET}/simulate/hcp/{{hcp_subject}}.tsv"
        conda:
            "../../envs/mindreel.yaml"
        resources:
            mem_mb=2000,
            runtime="30m",
        params:
            cfg=section("simulate"),
            code=fingerprint("simulate"),
        message:
            "Scanning HCP-like subject {wildcards.hcp_subject}"
        shell:
            "python -m mindreel simulate hcp"
            " --subject {wildcards.hcp_subject:q}"
            " --run {output:q}"
            " --cfg {params.cfg:q}"
            " > {log:q} 2>&1"
