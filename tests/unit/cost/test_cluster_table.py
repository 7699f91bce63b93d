"""The table of docs/cluster.md: for every rule, what it asks of a cluster at the paper's size.

After a change on purpose, write it again: PYTHONPATH=workflow:tests/unit python tests/unit/cost/test_cluster_table.py.
The last column has words; those stay as they are.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from configs import config_of

from knnlm.cost.requests import ON_CORES, ON_DISK, ON_GPU, ON_ONE_CORE, STARTING_SECONDS, asked, devices_of, threads_of
from knnlm.cost.rules import RULES, Job, jobs
from knnlm.cost.sizes import Run, run_of, tokens_of

DOCUMENT = Path(__file__).parents[3] / "docs/cluster.md"
HEAD = "| rule | jobs | GPUs | threads | memory (GB) | disk (GB) | time | of that time"
OF_ONE_SECOND = ("check_size", "plot")  # on the machine that runs Snakemake
NOWHERE = "there/is/no/manifest.json"


def cells() -> Iterator[list[str]]:
    """Yield the cells of numbers of every row: of a rule's jobs the largest; a hypothesis is a row of its own."""
    config = config_of("wikitext103")
    run, of_rule = run_of(config, *tokens_of(config, NOWHERE)), defaultdict(list)
    for job in jobs(run):
        name = job.wildcards["hypothesis"] if job.rule == "hypothesis" else f"`{job.rule}`"
        if job.rule not in OF_ONE_SECOND:
            of_rule[name].append(job)
    for name, found in of_rule.items():
        request, job = max(((asked(config, NOWHERE, job.rule, job.wildcards, 1), job) for job in found), key=longest)
        numbers = (request.gpu, request.threads, amount(request.mem_mb / 1000), amount(request.disk_mb / 1000))
        yield [name, *map(str, (len(found), *numbers)), time(request.runtime), shares(run, job)]


def longest(found: tuple) -> int:
    return found[0].runtime


def shares(run: Run, job: Job) -> str:
    """Return for what a job asks for its time: what takes a twentieth of it or more."""
    (gpus, _), threads = devices_of(run.config, job.rule, job.wildcards), threads_of(run, job.rule, job.wildcards)
    amounts, on_gpus = RULES[job.rule](run, job.wildcards).asked_for, ON_GPU if gpus else {}
    on_cores = {kind: rate for kind, rate in ON_CORES.items() if kind not in on_gpus}
    rates = {"GPU": (on_gpus, max(1, gpus)), "cores": (on_cores, threads), "one core": (ON_ONE_CORE, 1)}
    rates["disk"] = (ON_DISK, 1)
    seconds = {
        place: sum(amounts[kind] / rate for kind, rate in of.items()) / count for place, (of, count) in rates.items()
    }
    seconds["start"] = STARTING_SECONDS
    parts = {place: part / sum(seconds.values()) for place, part in seconds.items()}
    return ", ".join(f"{place} {part:.0%}" for place, part in parts.items() if part >= 0.05)


def time(minutes: int) -> str:
    """Return minutes as one says them."""
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes / 60:.0f} h" if minutes < 3 * 1440 else f"{minutes / 1440:.1f} days"


def amount(number: float) -> str:
    """Return gigabytes with one digit behind the point if they are few, and none if they are not."""
    if number < 0.1:
        return "< 0.1"
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def read(text: str) -> list[list[str]]:
    """Return the cells of every row of the table in a document."""
    rows = text[text.index(HEAD) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_table_has_what_the_code_asks_for():
    numbers = list(cells())
    assert [row[: len(numbers[0])] for row in read(DOCUMENT.read_text(encoding="utf-8"))] == numbers


def test_every_row_says_how_its_numbers_are_known():
    assert all(len(row) == 9 and all(row) for row in read(DOCUMENT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    before = DOCUMENT.read_text(encoding="utf-8")
    words = {row[0]: row[8:] for row in read(before)}
    rows = ["| " + " | ".join([*row, *words.get(row[0], [""])]) + " |" for row in cells()]
    start = before.index("\n", before.index("\n", before.index(HEAD)) + 1) + 1
    end = before.index("\n\n", start - 1)
    DOCUMENT.write_text(before[:start] + "\n".join(rows) + before[end:], encoding="utf-8")
