"""Which hypotheses there are, which files each needs, and what a rule about hypotheses must know of the config."""

from knnlm.hypotheses import registry

HYPOTHESES = registry.with_step(config)
TRAINED = [name for name in HYPOTHESES if registry.trains_lm(config, name)]
# What the rule is called, also where another workflow puts something before the names of this one's rules.
EVERY_HYPOTHESIS = workflow.modifier.modify_rulename("hypotheses")
# What a hypothesis sees of the config beside its own settings, by what it needs.
KNOWN = {
    "components": ["main"],
    "neighbours": ["main", "retrieval.k"],
    "index": ["main", "retrieval.k", "index.nprobe", "index.training_rows"],
    "temperature": ["temperature"],
    "training": ["lm", "windows.evaluation"],
    "training_neighbours": ["main"],
}


def entry_of(wildcards):
    """Return the config's entry of a job's hypothesis."""
    return config["hypotheses"][wildcards.hypothesis]


def needs(wildcards):
    """List what the family of a job's hypothesis reads."""
    return registry.needs(config, wildcards.hypothesis)


def family(wildcards):
    """Return the module that makes the components of a hypothesis."""
    return entry_of(wildcards)["family"]


def hypothesis_sources(wildcards):
    """List the code that makes the components of a hypothesis."""
    return sources("hypothesis", f"hypotheses/{family(wildcards)}")


def hypothesis_settings(wildcards):
    """Return the settings of a hypothesis: how its components are made, not what is asked of them."""
    known = [key for need in needs(wildcards) for key in KNOWN.get(need, [])]
    return settings("seed", *known, settings=entry_of(wildcards)["settings"])(wildcards)


def training_neighbour_settings(wildcards):
    """Return the settings of the neighbours of one chunk's training positions."""
    own = entry_of(wildcards)["settings"]
    return settings("seed", "main", settings={"k": own["k"]}, index={"nprobe": own["nprobe"]})(wildcards)


def filled(pattern, **fields):
    """Fill a path with these fields, the main h and metric, and every split, search and chunk, where it has them."""
    every = {"split": EVALUATED, "search": SEARCHES, "chunk": CHUNKS, **config["main"]}
    return collect(pattern, **{**every, **fields})


def needed(what, pattern, **fields):
    """Return the function that fills a path (`filled`) where a hypothesis needs `what`, and gives none elsewhere."""
    return lambda wildcards: filled(pattern, **fields) if what in needs(wildcards) else []


def hypothesis_arrays(wildcards):
    """List the arrays that a hypothesis reads; the manifests of all of them are inputs of their own."""
    arrays = {
        "states": filled("<states>/{split}.{h}.npy", h=["att", "ffn"]),
        "datastore": filled("<datastore>/chunk-{chunk}/{array}.npy", array=CHUNK_ARRAYS),
        "neighbours": filled("<neighbours>/{h}-{metric}-{search}/{split}.{array}.npy", array=NEIGHBOUR_ARRAYS),
        "components": needed_components("valid.npy", "test.npy")(wildcards),
        "training": [
            *filled("<corpus>/binary/{split}.{kind}", split=SPLITS, kind=["bin", "idx"]),
            *filled("<corpus>/tokens/{split}.lines.npy", split=SPLITS),
            *filled("<corpus>/tokens/train.npy"),
        ],
    }
    of_needs = [path for need in needs(wildcards) for path in arrays.get(need, [])]
    return filled("<base>.{split}.npy") + of_needs


def needed_components(*kinds):
    """Return the function that lists files of the kNN components and of earlier hypotheses, where they are needed."""

    def files(wildcards):
        if "components" not in needs(wildcards):
            return []
        knn = every_retrieval([f"<components>/knn-{{h}}-{{metric}}-{{search}}.{kind}" for kind in kinds])
        earlier = [f"<hypotheses>/{{earlier}}.{kind}" for kind in kinds]
        return knn + collect(earlier, earlier=entry_of(wildcards)["after"])

    return files


def shown_hypotheses():
    """List the hypotheses of tables and figures; one that trains an LM only if that is asked for or was done before."""
    targets = [target for target in workflow.dag_settings.targets if target.endswith("hypotheses")]
    wanted = any(EVERY_HYPOTHESIS.startswith(target.removesuffix("hypotheses")) for target in targets)
    made = placed(f"results/{MAKERS['hypotheses']}/hypotheses")
    done = {name for name in TRAINED if Path(made, f"{name}.json").exists()}
    return [name for name in HYPOTHESES if name not in TRAINED or wanted or name in done]


def of_hypotheses(*patterns):
    """Return the function that fills the name of every shown hypothesis into paths."""
    return lambda wildcards: collect(patterns, hypothesis=shown_hypotheses())


def hypothesis_figures(wildcards):
    """List the figures of all shown hypotheses, of this run also where another one's rule asks."""
    folder = f"results/{config['name']}/figures"
    return collect("{folder}/hypothesis-{name}.{kind}", folder=folder, name=shown_hypotheses(), kind=["png", "pdf"])


def questions(wildcards):
    """Return of every hypothesis what is asked and compared, not how its components are made."""
    wanted = ("question", "asks", "paper", "paper_reaches", "paper_perplexity", "against", "candidates", "facts")
    return {name: {key: entry[key] for key in wanted} for name, entry in registry.active(config).items()}


def shown_of(name):
    """Return what the figure of a hypothesis says of it."""
    entry = config["hypotheses"][name]
    return {"name": name} | {key: entry[key] for key in ("question", "x_label", "against", "candidates")}


def shown(wildcards):
    """Return what the figure of a job's hypothesis says of it."""
    return shown_of(wildcards.hypothesis)


def all_shown(wildcards):
    """Return what the figures of all hypotheses say of them; the tables say which of them there are."""
    return {name: shown_of(name) for name in config["hypotheses"]}
