"""Which jobs start first, where more could than there are cores: those with the longest way to the end of the run.

The way from a job leads through the jobs that wait for it. Its length is what they take one after the other, on one
thread each or on their GPUs. The way to the main result, which is that of the main pair's exact search, goes before all
others, so that it is there early.
"""

import math
from pathlib import Path

from knnlm.cost.requests import devices_of, seconds_of
from knnlm.cost.rules import RULES, TEXT_RULES
from knnlm.cost.sizes import Run, run_of, tokens_of
from knnlm.hypotheses import registry

# The rule whose jobs wait for those of another, and take longest.
THEN = dict(zip((*TEXT_RULES, "train_lm"), (*TEXT_RULES[1:], "train_lm", "datastore_chunk"), strict=True))
THEN |= {"datastore_chunk": "train_index", "train_index": "fill_index", "fill_index": "retrieve_approximate"}
THEN |= {"retrieve_approximate": "knn_components", "evaluation_states": "retrieve_exact"}
THEN |= {"retrieve_exact": "knn_components", "training_neighbours": "hypothesis"}
# What hypotheses need of the main pair's jobs, by the word of their NEEDS.
NEEDED = {"fill_index": "index", "retrieve_exact": "neighbours", "retrieve_approximate": "neighbours"}
MAIN_RESULT = ("datastore_chunk", "evaluation_states", "retrieve_exact", "knn_components")
START = 3.0  # seconds of any job
FIRST = 10_000  # more than the logarithm of any way


def priority(config: dict, manifest: str | Path, rule: str, wildcards: dict) -> int:
    """Return the priority of a job, by its way's logarithm; `manifest` is that of the corpus's tokens, there or not."""
    main, run = config["main"] | {"search": "exact"}, run_of(config, *tokens_of(config, manifest))
    of_main = rule in MAIN_RESULT and main | wildcards == wildcards | main
    return round(100 * math.log2(1 + _way(run, rule, wildcards))) + FIRST * of_main


def _way(run: Run, rule: str, wildcards: dict) -> float:
    """Return the seconds from the beginning of a job to the end of the run."""
    told = {"chunk": "0", "block": "0", "search": "exact", **run.config["main"], **wildcards}
    if rule.startswith("retrieve_"):
        told["search"] = rule.removeprefix("retrieve_")
    after = [_way(run, THEN[rule], told)] if rule in THEN else []
    if rule in NEEDED and told | run.config["main"] == told:
        names = [name for name in registry.with_step(run.config) if not registry.trains_lm(run.config, name)]
        waiting = [name for name in names if NEEDED[rule] in registry.needs(run.config, name)]
        after += [_way(run, "hypothesis", {"hypothesis": name}) for name in waiting]
    gpus = devices_of(run.config, rule, told)[0]
    return START + seconds_of(RULES[rule](run, told).likely, gpus, 1) + max(after, default=0.0)
