"""What a hypothesis takes: by the stored things that its step loads, and by what it says itself of its work.

A step says which of its settings count what in a literal `WORK` beside its `NEEDS`; settings.schema.yaml lists the
words. A step without `WORK` is estimated by its needs alone. All estimates are rounded up.
"""

import math
from collections import Counter
from dataclasses import replace

from knnlm.cost import stages
from knnlm.cost.sizes import HALF, SINGLE, Run
from knnlm.cost.stages import BESIDE_A_GPU, TRAINING, Work
from knnlm.datastore.factory import ID_BYTES, PQ_CENTROIDS, IndexFactory
from knnlm.errors import KnnlmError
from knnlm.hypotheses import registry

MOST_TRIED = 40  # temperatures beside the grid, the most that a search may try
MORE_COMPONENTS = 10  # the most that a step makes beside those of its settings
SECONDS = 1.0  # of what has no kind: files read, λ, linear programs
TRAINING_SECONDS = 5.0  # to start fairseq and to keep its checkpoints
TEACHER = 4 / 3  # of a training's operations, where a teacher reads along

LOADED = {
    "states": lambda run: 2 * SINGLE * run.evaluated * run.width,
    "datastore": lambda run: 2 * SINGLE * run.train,  # values
    "model": lambda run: 2 * SINGLE * run.vocabulary * run.width,
    "neighbours": lambda run: 2 * run.evaluated * run.k * (2 * SINGLE + 1),
    "index": lambda run: stages.index_memory(run, run.config["main"]["metric"]),
    "training": lambda run: stages.training_job(run).memory_bytes,
}


def said_by(run: Run, name: str) -> dict[str, list]:
    """Return the values of the settings that WORK names, by its words; KnnlmError if a setting does not exist."""
    entry, nprobe = run.config["hypotheses"][name], run.config["index"]["nprobe"]
    said = {"hidden_states": [None], "heads": [1], "passes": [1], "queries": [run.evaluated], "lists": [nprobe]}
    said |= {"trainings": [1], "neighbours": [run.k], "updates": [run.config["lm"]["training"]["updates"]]}
    said = {word: said.get(word, []) for word in registry.described("work")}
    for word, paths in registry.work(run.config, name).items():
        try:
            found = [value for path in paths.split(", ") for value in _values(entry["settings"], path)]
        except (KeyError, TypeError, AttributeError):
            step = f"knnlm/hypotheses/{entry['family']}.py"
            raise KnnlmError(f"{step}: WORK names {paths}, which is no setting of {name}; correct WORK.") from None
        said[word] = found or said[word]
    return said


def _values(settings: dict, path: str) -> list:
    """Return a setting's values: `a.*.b` of every section in `a`; `a for each b` as often as `b` has entries.

    Where both have a star, `a.*.b for each a.*.c`, each section in `a` counts its own. A number stands for itself.
    """
    if path.isdigit():
        return [int(path)]
    path, _, each = path.partition(" for each ")
    if "*" in path and "*" in each:
        (place, of_one), (_, each_of_one) = path.split(".*.", 1), each.split(".*.", 1)
        sections = (section for found in _values(settings, place) for section in found.values())
        return [value for section in sections for value in _values(section, f"{of_one} for each {each_of_one}")]
    found = [settings]
    for key in path.split("."):
        found = [value for section in found for value in (section.values() if key == "*" else [section[key]])]
    found = [entry for value in found for entry in (value if isinstance(value, list) else [value])]
    return found * len(_values(settings, each)) if each else found


def hypothesis(run: Run, wildcards: dict) -> Work:
    """Return the work of one hypothesis."""
    name = wildcards["hypothesis"]
    said, needs = said_by(run, name), registry.needs(run.config, name)
    work = Work(likely=Counter(seconds=SECONDS)) + _heads(run, said, needs) + _temperatures(run, said, needs)
    if "training" in needs:
        work += _trainings(run, said, needs)
    if "index" in needs:
        work += _searches(run, said)
    if said["k_means"]:
        work += _clusters(run, said)
    times = max(said["passes"]) * len(said["hidden_states"]) if "datastore" in needs else 0
    keys = HALF * run.width * run.train * times
    loaded = sum(LOADED[need](run) for need in needs if need in LOADED) + 10 * 8 * run.evaluated + work.memory_bytes
    return work + Work(loaded, SINGLE * run.evaluated * 100, spare=Counter(disk_bytes=keys))


def training_neighbours(run: Run, wildcards: dict) -> Work:
    """Find the neighbours of one chunk's own positions in the main index."""
    said = said_by(run, wildcards["hypothesis"])
    nprobe, k = max(said["lists"]), max(said["neighbours"])
    choosing = 2.0 * run.chunk_rows * run.width * (run.factory.lists + nprobe * PQ_CENTROIDS)  # as if with PQ
    found = 2 * SINGLE * run.chunk_rows * (k + 1)
    values, lists = SINGLE * run.train, run.list_bytes
    lookups = stages.looked_up(run.factory, run.chunk_rows, nprobe, run.train)
    done = Counter(choosing_flops=choosing, lookups=lookups, disk_bytes=found)
    read = Counter(disk_bytes=HALF * run.width * run.chunk_rows + values + 2 * lists)
    memory = stages.index_memory(run, run.config["main"]["metric"]) + values + 3 * found
    return Work(memory, found, done, read, passing_bytes=lists)


def _heads(run: Run, said: dict, needs: tuple[str, ...]) -> Work:
    """Train output embeddings: 6 · d · V operations for each row, pass, head and hidden state."""
    matrix, rows = run.width * run.vocabulary, sum(count or run.train for count in said["rows"])
    flops = 6.0 * matrix * rows * max(said["passes"])
    if {"states", "model"} <= set(needs):  # logits of valid and test, of the base LM if no head is trained
        flops += 2.0 * matrix * run.evaluated
    flops *= sum(said["heads"]) * len(said["hidden_states"])
    return Work(5 * SINGLE * matrix * max(said["heads"]) if rows else 0, likely=Counter(head_flops=flops))


def _temperatures(run: Run, said: dict, needs: tuple[str, ...]) -> Work:
    """Tune temperatures of kNN distributions on valid; a job asks time for one of every component, valid and test."""
    tried = stages.temperatures_tried(run) * run.tokens["valid"] + run.evaluated
    likely = len(said["temperatures"]) * tried * run.k if "temperature" in needs else 0
    components = len(said["components"]) + MORE_COMPONENTS
    most = components * (len(run.config["temperature"]["grid"]) + MOST_TRIED) * run.evaluated * run.k
    memory = 3 * SINGLE * run.largest_split * run.k
    return Work(memory, likely=Counter(neighbour_terms=likely), spare=Counter(neighbour_terms=max(0, most - likely)))


def _trainings(run: Run, said: dict, needs: tuple[str, ...]) -> Work:
    """Train LMs like the base LM, with training neighbours each with a teacher, and read them on valid and test."""
    base, of_base = stages.training_job(run), run.config["lm"]["training"]["updates"]
    with_neighbours = "training_neighbours" in needs
    count, updates = max(said["trainings"]), sum(said["updates"])
    trained, neighbours = (count * TEACHER, 2 * SINGLE * sum(said["neighbours"])) if with_neighbours else (count, 0)
    models = count * (updates // sum(said["updates_a_model"]) if said["updates_a_model"] else 1)
    done = base.share(trained * updates / of_base, trained * updates / of_base).likely
    done += Counter({TRAINING[0]: models * stages.states(run).flops, "seconds": count * TRAINING_SECONDS})
    return Work(3 * neighbours * run.chunk_rows, models * base.disk_bytes + neighbours * run.train, done)


def _searches(run: Run, said: dict) -> Work:
    """Search the main index, joined on disk; fill and search indexes with other codes, in memory with their sample."""
    nprobe, factory, queries = run.config["index"]["nprobe"], run.factory, sum(said["queries"])
    codes = [code for code in said["codes"] if run.width % code == 0 and code != factory.code_bytes]
    largest = max(nprobe, *said["lists"])
    # On a CPU the search of the most lists has visited all others; on a GPU each number of lists is a search.
    visited = said["lists"] if _on_gpus(run, factory, largest) else [largest]
    lookups = sum(stages.looked_up(factory, queries, lists, run.train) for lists in visited)
    done = _placed(run, Counter(lookups=lookups), factory, largest)
    sample = SINGLE * min(run.config["index"]["training_rows"], run.train) * run.width
    rows = [code + ID_BYTES for code in codes]
    for code in codes:
        other = replace(factory, code_bytes=code, sub_quantisers=code, codes=f"PQ{code}")
        filled = Counter(exact_flops=stages.index_filling(run).flops)
        filled["lookups"] = stages.looked_up(other, queries, nprobe, run.train)
        done += _placed(run, filled, other, nprobe)
    for other in (run.with_config("index", factory=kind) for kind in said["factories"]):
        filled = stages.index_filling(other).likely
        filled["lookups"] = stages.looked_up(other.factory, queries, nprobe, run.train)
        done += stages.index_training(other).likely + _placed(run, filled, other.factory, nprobe)
        rows.append((other.factory.code_bytes + ID_BYTES) * (2 if other.factory.packed else 1))
    memory = run.train * max(rows) + sample if rows else 0
    return Work(memory, 0, done, Counter(disk_bytes=2 * run.list_bytes), passing_bytes=run.list_bytes)


def _on_gpus(run: Run, factory: IndexFactory, nprobe: int) -> bool:
    """Whether an index is filled, and searched in `nprobe` lists, on GPUs: if the job has some and FAISS can do it."""
    return run.config["resources"]["gpus"] > 0 and factory.not_on_gpu(run.k, nprobe) is None


def _placed(run: Run, amounts: Counter, factory: IndexFactory, nprobe: int) -> Counter:
    """Return the amounts of filling and searching an index, BESIDE_A_GPU where a job with GPUs does it on its cores."""
    if not run.config["resources"]["gpus"] or _on_gpus(run, factory, nprobe):
        return amounts
    return Counter({BESIDE_A_GPU[kind]: amount for kind, amount in amounts.items()})


def _clusters(run: Run, said: dict) -> Work:
    """Cluster a sample of the store and assign all of its rows, three times for each hidden state."""
    (k_means,), centroids = said["k_means"], sum(said["centroids_a_word"]) * run.vocabulary
    sample = min(k_means["rows_per_centroid"] * centroids, run.train)
    lists = math.sqrt(centroids) * 4  # a row is compared with these and the centroids in some, or all of a flat index
    compared = centroids if k_means["factory"] == "Flat" else lists + centroids * min(1, k_means["nprobe"] / lists)
    rows = (sample * k_means["iterations"] + run.train) * 3 * len(said["hidden_states"])
    most = max((min(count or run.train, run.train) for count in said["held_rows"]), default=0)
    held = max(sample, 2 * most)  # in float32; rows of the words and a copy
    return Work(SINGLE * run.width * held, likely=Counter(exact_flops=2.0 * run.width * compared * rows))
