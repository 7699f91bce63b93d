"""What a job takes, and how much that is for a hypothesis: by the stored things that its step loads, and by what its settings make it train or search.

A step of which nothing else is known is estimated by its needs and by settings that are named as those of the shipped steps are. All is rounded up.
"""

import math
from dataclasses import dataclass, replace

from knnlm.components.catalogue import GRID_STEP
from knnlm.cost import plan
from knnlm.cost.plan import SINGLE, Run
from knnlm.hypotheses import registry

MOST_TRIED = 40  # temperatures beside the grid, the most that a search may try
COUNTS = ("n", "K")  # settings that list how many output embeddings a head has


@dataclass(frozen=True)
class Work:
    """What a job takes: bytes in memory and written; operations of matrix products, those of them that a GPU makes in float16, and all others; bytes
    read and written; seconds of one core alone; bytes of files that are gone when it ends.
    """

    memory_bytes: float
    disk_bytes: float = 0.0
    flops: float = 0.0
    half_flops: float = 0.0
    operations: float = 0.0
    moved_bytes: float = 0.0
    serial_seconds: float = 0.0
    passing_bytes: float = 0.0


def training(run: Run) -> Work:
    """Work of training the base LM; on GPUs each process holds a checkpoint and the weights on the host when it begins and when it saves."""
    stage, settings, resources = plan.training(run), run.config["lm"]["training"], run.config["resources"]
    processes, weights = resources["training_gpus"] // resources["training_nodes"], SINGLE * run.parameters
    memory = processes * ((stage.disk_bytes - weights) / 3 + weights) if processes else stage.memory_bytes
    validated = settings["updates"] / settings["validate_every"] * run.tokens["valid"]
    flops = stage.flops + validated * plan.forward_flops(
        run.config["lm"]["architecture"], settings["tokens_per_sample"], run.vocabulary
    )
    single, half = (0.0, flops) if settings["fp16"] else (flops, 0.0)
    return Work(memory, stage.disk_bytes, single, half)


def hypothesis(run: Run, wildcards: dict) -> Work:
    """Work of one hypothesis."""
    name = wildcards["hypothesis"]
    needs, settings = registry.needs(run.config, name), run.config["hypotheses"][name]["settings"]
    memory = sum(LOADED[need](run) for need in needs if need in LOADED) + 10 * 8 * run.evaluated
    parts = hypothesis_parts(run, name) | {"temperatures": _most_temperatures(run, settings)}
    work = list(parts.values())
    read = (plan.HALF * run.width * run.tokens["train"] if "datastore" in needs else 0) * max(
        1, len(settings.get("h", ()))
    )
    return Work(
        memory + max(part.memory_bytes for part in work),
        sum(part.disk_bytes for part in work) + SINGLE * run.evaluated * 100,
        sum(part.flops for part in work),
        sum(part.half_flops for part in work),
        sum(part.operations for part in work),
        read * _passes(settings) + sum(part.moved_bytes for part in work),
        passing_bytes=max(part.passing_bytes for part in work),
    )


def hypothesis_parts(run: Run, name: str) -> dict[str, Work]:
    """Work of one hypothesis by what it does: `heads`, `temperatures`, `trainings`, `searches`, `clusters`; as much as is likely."""
    needs, settings = registry.needs(run.config, name), run.config["hypotheses"][name]["settings"]
    found = {"heads": _heads(run, settings, needs), "temperatures": _temperatures(run, settings, needs)}
    if "training" in needs:
        found["trainings"] = _trainings(run, settings, needs)
    if "index" in needs:
        found["searches"] = _searches(run, settings)
    if run.config["hypotheses"][name]["family"] == "clustering":
        found["clusters"] = _clusters(run, settings)
    return found


LOADED = {
    "states": lambda run: 2 * SINGLE * run.evaluated * run.width,
    "datastore": lambda run: 2 * SINGLE * run.tokens["train"],  # values
    "model": lambda run: 2 * SINGLE * run.vocabulary * run.width,
    "neighbours": lambda run: 2 * run.evaluated * run.k * (2 * SINGLE + 1),
    "index": lambda run: plan.index_memory(run, run.config["main"]["metric"]),
    "training": lambda run: training(run).memory_bytes,
}


def training_neighbours(run: Run, wildcards: dict) -> Work:
    """Work of finding the neighbours of one chunk's own positions in the main index."""
    settings = run.config["hypotheses"][wildcards["hypothesis"]]["settings"]
    index = run.config["index"] | {"nprobe": settings["nprobe"]}
    chunk = replace(
        run, tokens=run.tokens | {"valid": run.chunk_rows, "test": 0}, config={**run.config, "index": index}
    )
    choosing = 2.0 * run.chunk_rows * run.width * (run.factory.lists + settings["nprobe"] * plan.PQ_CENTROIDS)
    found = 2 * SINGLE * run.chunk_rows * (settings["k"] + 1)
    values, lists = SINGLE * run.tokens["train"], plan.list_bytes(run, run.factory.code_bytes)
    memory = plan.index_memory(run, run.config["main"]["metric"]) + values + 3 * found
    moved = found + plan.HALF * run.width * run.chunk_rows + values + 2 * lists
    return Work(memory, found, choosing, operations=plan.scanned(chunk), moved_bytes=moved, passing_bytes=lists)


def _rows(run: Run, settings: dict) -> int:
    """Return the rows of the store that all sections of the settings train on together; null stands for the whole store."""
    inner = sum(_rows(run, part) for part in settings.values() if isinstance(part, dict))
    return inner + ((settings["rows"] or run.tokens["train"]) if "rows" in settings else 0)


def _passes(settings: dict) -> int:
    """Return the most passes that any section of the settings asks for."""
    inner = [_passes(part) for part in settings.values() if isinstance(part, dict)]
    return max([settings.get("passes", 1), *inner])


def _listed(settings: dict) -> int:
    """Return how many entries the lists of the settings and of their sections have together."""
    inner = sum(_listed(part) for part in settings.values() if isinstance(part, dict))
    return inner + sum(len(value) for value in settings.values() if isinstance(value, list))


def _heads(run: Run, settings: dict, needs: tuple[str, ...]) -> Work:
    """Train output embeddings: for each row and pass 6 · d · R operations, R rows of the matrix, for every head that the settings list.

    Steps that read states and the base LM evaluate logits of valid and test, 2 · d · V for each token, for each head, or else for the base LM alone.
    """
    heads = sum(sum(count for count in settings.get(name, ()) if isinstance(count, int)) for name in COUNTS)
    heads += settings.get("total_ratio", 1) * len(settings.get("extra", ()))
    heads, largest = (
        max(heads, 1),
        max(
            [
                1,
                settings.get("total_ratio", 1),
                *(max(settings[name], default=1) for name in COUNTS if settings.get(name)),
            ]
        ),
    )
    rows = _rows(run, settings) * _passes(settings)
    flops = 6.0 * run.width * run.vocabulary * rows * heads * max(1, len(settings.get("h", ())))
    if {"states", "model"} <= set(needs):
        flops += 2.0 * run.width * run.vocabulary * run.evaluated * heads * max(1, len(settings.get("h", ())))
    return Work(5 * SINGLE * largest * run.vocabulary * run.width if rows else 0, flops=flops)


def _temperatures(run: Run, settings: dict, needs: tuple[str, ...]) -> Work:
    """Tune temperatures of kNN distributions on valid, one for each entry of the lists in the settings, where the step tunes any."""
    tried = math.ceil(len(run.config["temperature"]["grid"]) / GRID_STEP) + plan.TEMPERATURES_SEARCHED
    terms = _listed(settings) * (tried * run.tokens["valid"] + run.evaluated) * run.k if "temperature" in needs else 0
    return Work(3 * SINGLE * run.largest_split * run.k, operations=float(plan.OPERATIONS_PER_NEIGHBOUR * terms))


def _most_temperatures(run: Run, settings: dict) -> Work:
    """Tune ten temperatures more than the lists in the settings have entries: what a job asks time and threads for, whatever its step does besides."""
    components = sum(len(value) for value in settings.values() if isinstance(value, list)) + 10
    tried = len(run.config["temperature"]["grid"]) + MOST_TRIED
    return Work(
        3 * SINGLE * run.largest_split * run.k,
        operations=float(components * tried * plan.OPERATIONS_PER_NEIGHBOUR * run.evaluated * run.k),
    )


def _trainings(run: Run, settings: dict, needs: tuple[str, ...]) -> Work:
    """Train one LM like the base LM, as many updates as the settings say; or on labels with neighbours and without, each with a teacher that reads along."""
    base, updates, trained = (
        training(run),
        run.config["lm"]["training"]["updates"],
        2 * 4 / 3 if "training_neighbours" in needs else 1,
    )
    models = settings["updates"] // settings["every"] if {"updates", "every"} <= settings.keys() else math.ceil(trained)
    share = trained * settings.get("updates", updates) / updates
    neighbours = 2 * SINGLE * settings["k"] if "training_neighbours" in needs else 0
    disk = models * base.disk_bytes + neighbours * run.tokens["train"]
    return Work(
        3 * neighbours * run.chunk_rows,
        disk,
        share * base.flops + models * plan.states(run).flops,
        share * base.half_flops,
    )


def _searches(run: Run, settings: dict) -> Work:
    """Search the main index with training rows or with the evaluation's queries, with the most lists that are asked for; fill others with other codes.

    The main index's lists are joined on disk, those of the others are in memory, and so is the sample that they are trained on.
    """
    width, nprobe = run.width, run.config["index"]["nprobe"]
    codes = [code for code in settings.get("codes", ()) if width % code == 0 and code != run.factory.code_bytes]
    looked_up = max([nprobe, *settings.get("nprobe", ())]) * (run.factory.sub_quantisers or 2 * width) + nprobe * sum(
        codes
    )
    scanned = settings.get("sample_rows", run.evaluated) * run.tokens["train"] / run.factory.lists * looked_up
    filling = len(codes) * plan.index_filling(run).flops
    sample = SINGLE * min(run.config["index"]["training_rows"], run.tokens["train"]) * width
    memory = plan.list_bytes(run, max(codes)) + sample if codes else 0
    lists = plan.list_bytes(run, run.factory.code_bytes)
    return Work(memory, flops=filling, operations=scanned, moved_bytes=2 * lists, passing_bytes=lists)


def _clusters(run: Run, settings: dict) -> Work:
    """Cluster a sample of the store and assign all of its rows, three times for each hidden state; hold rows of the words, and a copy.

    The sample is in memory in float32. A row is compared with the lists of the quantiser's index and the centroids in those that it visits.
    """
    k_means, words = settings["k_means"], settings["words"]
    centroids = settings["ratio"] * run.vocabulary
    sample = min(k_means["rows_per_centroid"] * centroids, run.tokens["train"])
    lists = math.sqrt(centroids) * 4  # of an inverted index; a flat one compares with all
    compared = centroids if k_means["factory"] == "Flat" else lists + centroids * min(1, k_means["nprobe"] / lists)
    rows = (sample * k_means["iterations"] + run.tokens["train"]) * 3 * len(settings["h"])
    held = max(sample, 2 * min(words["rows"], run.tokens["train"]))
    return Work(SINGLE * run.width * held, flops=2.0 * run.width * compared * rows)
