"""Helper functions of the rules; what an artifact is and needs is said by reaction.plan."""

from snakemake.exceptions import WorkflowError

from reaction import artifacts, committed, files, marks, params, plan, specs


def read_params(values):
    try:
        return params.parse(values)
    except params.ParamsError as error:
        raise WorkflowError(str(error)) from None


PARAMS = read_params(config)
PLAN = plan.Plan(PARAMS)
# A mark of a killed run makes Snakemake 9.27 leave out what hangs below a file by `ancient`: reaction.marks has it all.
marks.forget(set(artifacts.KINDS.values()))
# Tables that came with git may be of other parameters, which Snakemake cannot see.
committed.set_back(PLAN)


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


# Nets of a reduced scale are too small to share among threads or to be worth a GPU: they run side by side instead. A
# command is told its GPUs, since PyTorch takes any that it sees, also one that another job was given.
def by_scale(kind, paper, reduced):
    def choose(wildcards):
        made = artifact(kind, wildcards)
        run = made.inputs.get("run", made)
        return paper if run.config["scale"] == "paper" else reduced

    return choose


def frozen(wildcards):
    return files.canonical_json(artifact(wildcards.kind, wildcards).frozen)


def files_of(kind):
    """The files of this kind of artifact that the tables under `reproduce:` and their figures need."""
    made = [one for one in PLAN.reproduced() if artifacts.KINDS[one.rule] == kind]
    return [file for one in made for file in one.files]


def reproduced():
    """What a bare `snakemake` makes: the tables under `reproduce:`, and the figures of these tables."""
    tables = [f"results/tables/{name}.csv" for name in PARAMS.reproduce]
    curves = [f"results/figures/{name}_curves.svg" for name in PARAMS.reproduce]
    thesis = [f"results/figures/{name}_overlay.svg" for name in PLAN.figures]
    return tables + curves + thesis


def with_maps():
    """What names of tables with `maps:` look like; nothing does where there are none."""
    return "|".join(name for name, one in PARAMS.tables.items() if one.maps) or "(?!)"


def of_detections():
    """The same of tables of detections."""
    return "|".join(PARAMS.detection_tables) or "(?!)"


def of_networks():
    """What names of tables of networks look like; nothing does where there are none."""
    return "|".join(PARAMS.network_tables) or "(?!)"


def of_costs():
    """The same of figures of accuracy against computation."""
    return "|".join(PARAMS.cost_figures) or "(?!)"


def checked(wildcards):
    """The name of the table, of networks or results, or of the set of figures, if params.yaml has it."""
    kinds = {
        "figures": PARAMS.figures,
        "table": PARAMS.tables | PARAMS.detection_tables,
        "networks": PARAMS.network_tables,
        "costs": PARAMS.cost_figures,
    }
    kind, known = next((k, kinds[k]) for k in kinds if hasattr(wildcards, k))
    name = getattr(wildcards, kind)
    if name not in known:
        raise WorkflowError(
            f"params.yaml has no {kind} {name}, only {', '.join(known)}"
        )
    return name


def told(write):
    """What a command is told that makes a table or figures: `write` is a function of reaction.specs."""

    def spec(wildcards):
        return files.canonical_json(write(PLAN, checked(wildcards)))

    return spec


def reads(find):
    """The files that such a command reads: `find` is a function of reaction.specs."""

    def paths(wildcards):
        return find(PLAN, checked(wildcards))

    return paths


def claims(wildcards):
    """The papers of a table, whose times count only where `reaction.committed` found the table stale."""
    table = checked(wildcards)
    stale = committed.is_set_back(committed.record_of(table))
    return [file if stale else ancient(file) for file in specs.papers(PLAN, table)]


def stale_table(wildcards):
    """The table before its figures, where both are stale: they are drawn again after it."""
    table = checked(wildcards)
    stale = committed.is_set_back(f"results/figures/{table}_curves.svg")
    return [f"results/tables/{table}.csv"] if stale else []


def record(wildcards):
    """What a table is made from, to be kept beside it."""
    return files.canonical_json(committed.made_from(PLAN, checked(wildcards)))
