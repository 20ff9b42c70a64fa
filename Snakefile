from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/stimuli.smk"
include: "workflow/rules/captions.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/bold.smk"
include: "workflow/rules/roi.smk"
include: "workflow/rules/hcp.smk"
include: "workflow/rules/mbm.smk"
include: "workflow/rules/contrastive.smk"
include: "workflow/rules/generator.smk"
include: "workflow/rules/cotrain.smk"
include: "workflow/rules/sampling.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/attention.smk"
include: "workflow/rules/pictures.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"results/{DATASET}/report/index.html",
        further_samples(),


rule lag:
    input:
        everywhere("roi", "lag.tsv"),
