import os

from snakemake.utils import min_version

min_version("9.19")


configfile: "params.yaml"


include: "workflow/rules/common.smk"


# The image of ./Dockerfile, used with --software-deployment-method apptainer only; a cluster has it as a file.
container: os.environ.get("REACTION_CONTAINER", "docker-daemon://reaction:0.1.0")


report: "workflow/report/workflow.rst"


wildcard_constraints:
    dataset="[a-z0-9_]+",
    name="[^/]+",
    shard=r"\d{3}",
    table="(?!.*_(comparisons|maps))[a-z0-9_]+",


rule all:
    default_target: True
    input:
        reproduced(),
    localrule: True


include: "workflow/rules/targets.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/attention.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/detect.smk"
