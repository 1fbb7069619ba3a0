"""Helper functions of the rules; what an artifact is and needs is said by reaction.plan."""

from snakemake.exceptions import WorkflowError

from reaction import files, params, plan, specs


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
        reason = "params.yaml asks for no such artifact (was it edited since?)"
        raise WorkflowError(f"{folder}: {reason}")
    return PLAN.artifacts[folder]


# A folder's hash says what it was made from, so modification times say nothing: hence `ancient`.
def needs(kind):
    def paths(wildcards):
        made, shard = artifact(kind, wildcards), getattr(wildcards, "shard", None)
        sources = made.inputs.values()
        return [ancient(file) for one in sources for file in one.files_for(made, shard)]

    return paths


# Nets of a reduced scale are too small to share among threads or to be worth a GPU: they run side by side instead.
def by_scale(kind, paper, reduced):
    def choose(wildcards):
        made = artifact(kind, wildcards)
        run = made.inputs.get("run", made)
        return paper if run.config["scale"] == "paper" else reduced

    return choose


def frozen(wildcards):
    return files.canonical_json(artifact(wildcards.kind, wildcards).frozen)


def files_of(kind):
    """The files of this kind of artifact that the tables under `reproduce:` need."""
    needed = {}
    for table in PARAMS.reproduce:
        needed |= PLAN.needed(table)
    made = [one for one in needed.values() if plan.KINDS[one.rule] == kind]
    return [file for one in made for file in one.files]


def reproduced():
    """What a bare `snakemake` makes: the tables under `reproduce:`, and the figures of these tables."""
    tables = [f"results/tables/{name}.csv" for name in PARAMS.reproduce]
    curves = [f"results/figures/{name}_curves.svg" for name in PARAMS.reproduce]
    drawn_from = {name: one.table for name, one in PARAMS.figures.items()}
    thesis = [name for name, table in drawn_from.items() if table in PARAMS.reproduce]
    return tables + curves + [f"results/figures/{name}_overlay.svg" for name in thesis]


def checked(wildcards):
    """The name of the table or set of figures, if params.yaml has it."""
    kind, known = ("table", PLAN.tables)
    if hasattr(wildcards, "figures"):
        kind, known = ("figures", PARAMS.figures)
    name = getattr(wildcards, kind)
    if name not in known:
        raise WorkflowError(
            f"params.yaml has no {kind} {name}, only {', '.join(known)}"
        )
    return name


def spec(write):
    """What a command is told that makes a table or figures: `write` is a function of reaction.specs."""

    def written(wildcards):
        return files.canonical_json(write(PLAN, checked(wildcards)))

    return written


def results_of(wildcards):
    """The scores and metrics that a table is made from."""
    return [file for one in PLAN.asked(checked(wildcards)) for file in one.files]


def papers_of(wildcards):
    return specs.papers(PARAMS.tables[checked(wildcards)])


def drawn(part, name):
    def paths(wildcards):
        entries = specs.figure_spec(PLAN, checked(wildcards))[part]
        return [f"{folder}/{name}" for one in entries for folder in one["folders"]]

    return paths


def thesis_inputs(wildcards):
    return [file for one in PLAN.drawn(checked(wildcards)) for file in one.files]
