"""Helper functions of the rules; what an artifact is and needs is said by reaction.plan."""

from snakemake.exceptions import WorkflowError

from reaction import files, params, plan


def read_params(values):
    try:
        return params.parse(values)
    except params.ParamsError as error:
        raise WorkflowError(str(error)) from None


PARAMS = read_params(config)
PLAN = plan.Plan(PARAMS)


def artifact(kind, wildcards):
    folder = f"results/{kind}/{wildcards.dataset}/{wildcards.name}"
    if folder not in PLAN.artifacts:
        raise WorkflowError(
            f"{folder}: params.yaml asks for no such artifact (was it edited since?)"
        )
    return PLAN.artifacts[folder]


# A folder's hash says what it was made from, so modification times say nothing: hence `ancient`.
def needs(kind):
    def paths(wildcards):
        sources = artifact(kind, wildcards).inputs.values()
        shard = getattr(wildcards, "shard", None)
        return [ancient(file) for source in sources for file in source.files_for(shard)]

    return paths


def full_scale(kind, wildcards):
    made = artifact(kind, wildcards)
    run = made.inputs.get("run", made)
    return run.config["scale"] == "paper"


# Nets of a reduced scale are too small to share among threads or to be worth a GPU: they run side by side instead.
def threads_of(kind):
    def threads(wildcards):
        return 8 if full_scale(kind, wildcards) else 1

    return threads


def gpus_of(kind):
    def gpus(wildcards):
        return 1 if full_scale(kind, wildcards) else 0

    return gpus


def frozen(wildcards):
    return files.canonical_json(artifact(wildcards.kind, wildcards).frozen)


def files_of(kind):
    """The files of this kind of artifact that the tables under `reproduce:` need."""
    needed = {
        folder: one
        for table in PARAMS.reproduce
        for folder, one in PLAN.needed(table).items()
    }
    return [
        file
        for one in needed.values()
        if plan.KINDS[one.rule] == kind
        for file in one.files
    ]


def tables_of(names):
    return [f"results/tables/{name}.csv" for name in names]


def results_of(wildcards):
    """Every file a table is made from: scores, metrics, and the papers' claims."""
    if wildcards.table not in PLAN.tables:
        known = ", ".join(PLAN.tables)
        raise WorkflowError(
            f"results/tables/{wildcards.table}.csv: params.yaml has no such table, only {known}"
        )
    return [
        file
        for result in PLAN.tables[wildcards.table]
        for file in result.artifact.files
    ]


def papers_of(wildcards):
    return plan.papers(PARAMS.tables[wildcards.table])


def spec_of(wildcards):
    return files.canonical_json(PLAN.table_spec(wildcards.table))
