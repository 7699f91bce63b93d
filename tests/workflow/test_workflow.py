"""What the workflow says without running: the config's errors, the plan, and how rules name their files."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(new_project):
    return new_project("dry")


@pytest.mark.parametrize(
    "overlay",
    [
        "config/config.yaml",
        "config/tiny.yaml",
        "config/sotu.yaml",
        "config/wiki.yaml",
        "config/ladder.yaml",
        "config/wikitext103.yaml",
    ],
)
def test_every_config_makes_a_plan_of_jobs(project, overlay):
    output = project("-n", config=overlay).stdout
    assert "train_lm" in output
    assert "total" in output
    assert "caching" not in output  # nobody has asked for it


def test_the_paper_s_plan_is_printed_without_running_anything(project):
    output = project("plan", config="config/wikitext103.yaml").stdout
    assert "112,735,284" in output
    assert "exact retrieval" in output
    assert not (project.folder / "results/wikitext103/corpus").exists()


def test_what_the_cluster_s_profile_has_in_comments_reaches_the_jobs(project):
    """All of it at once; of a rule that is there twice the last counts."""
    profile = project.folder / "site/profile.yaml"
    profile.parent.mkdir()
    text = (ROOT / "workflow/profiles/slurm/profile.yaml").read_text().replace('"..."', '"ours"')
    profile.write_text(re.sub(r"^# (?=(?:default|set)-resources:$|  +\w+:)", "", text, flags=re.MULTILINE))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "--workflow-profile",
        "site",
        "--configfile",
        "config/tiny.yaml",
    ]
    output = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=True).stdout
    asked = {
        rule: set(resources.split(", "))
        for rule, resources in re.findall(r"^ *rule (\w+):\n(?:.+\n)*? +resources: (.*)", output, flags=re.MULTILINE)
    }
    assert all(
        {"slurm_account=ours", "qos=ours", "constraint=ours"} <= asked[rule]
        for rule in ("corpus_text", "train_lm", "tables")
    )
    assert {"slurm_partition=gpu"} <= asked["datastore_chunk"]
    assert {"gpu=0", "gres=gpu:8"} <= asked["train_lm"]
    assert {"runtime=2880", "mem_mb=64000"} <= asked["hypothesis"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("retrieval: {k: 100000000}", "retrieval.k"),
        ("index: {factory: 'IVF16,PQ7', training_rows: 4000, nprobe: 4}", "index.factory"),
        ("lm: {architecture: {heads: 3}}", "lm.architecture.heads"),
        ("retrival: {k: 10}", "retrival"),
        ("seed: one", "seed"),
    ],
)
def test_an_impossible_config_stops_with_one_sentence(project, line, key):
    (project.folder / "config/wrong.yaml").write_text(f"name: wrong\n{line}\n")
    done = project("-n", config="config/wrong.yaml", check=False)
    assert done.returncode != 0
    assert f"config key {key}" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_user_s_own_folder_of_text_becomes_a_corpus(project):
    folder = project.folder / "my texts"
    folder.mkdir()
    shutil.copy(ROOT / "README.md", folder / "a.txt")
    shutil.copy(ROOT / "config/README.md", folder / "b.txt")
    shutil.copy(ROOT / "LICENSE", folder / "c.txt")
    (project.folder / "config/mine.yaml").write_text(
        "name: mine\n"
        "corpus: {source: text, text: {folder: my texts, valid_fraction: 0.3, test_fraction: 0.3}, bpe_merges: 100}\n"
        "lm: {training: {tokens_per_sample: 32}}\n"
        "windows: {train: {context: 16, new: 16}, evaluation: {context: 24, new: 8}}\n"
        "retrieval: {k: 2}\nindex: {factory: 'IVF2,PQ8', training_rows: 300, nprobe: 1}\n"
    )
    project("binarise", config="config/mine.yaml")
    assert (project.folder / "results/mine/corpus/tokens/manifest.json").exists()
    (folder / "a.txt").write_bytes(b"good\nbad \xff\n")
    done = project("binarise", config="config/mine.yaml", check=False)
    assert "a.txt" in done.stdout
    assert "UTF-8" in done.stdout
    assert "Traceback" not in done.stdout
    assert re.search(r"\n\nError: my texts/a\.txt: not UTF-8 .*\.\n\nComplete log", done.stdout)  # the last word, alone


@pytest.fixture(scope="module")
def announced(project):
    """Return what dry runs of all targets say of one job of each rule: text by what it is about, by rule."""
    said = project("-n", "--forceall", "hypotheses", "main_result", "performance", "plan").stdout
    said += project("-n", "--forceall", "redraw", config="config/tiny.yaml").stdout
    overlay = (project.folder / "config/tiny.yaml").read_text(encoding="utf-8") + "\nresources: {query_blocks: 2}\n"
    (project.folder / "config/blocks.yaml").write_text(overlay, encoding="utf-8")
    said += project("-n", "--forceall", config="config/blocks.yaml").stdout
    jobs, job = {}, {}
    for line in said.splitlines():  # jobs of a group are indented
        if rule := re.match(r" *(?:local)?rule (\w+):$", line):
            jobs[rule[1]] = job = {}
        elif fact := re.match(r" +(\w+): (.*)", line):
            job[fact[1]] = fact[2]
    return jobs


def test_rules_write_below_the_run_s_folder(announced):
    """A path without the run's name would be shared by all runs, which Snakemake's lint does not see."""
    assert len(announced) > 35
    for rule, job in announced.items():
        written = [path for what in ("output", "log") for path in job.get(what, "").split(", ") if path]
        assert all(path.startswith("results/tiny/") for path in written), rule
        assert all(path.startswith("results/tiny/logs/") for path in job.get("log", "").split(", ") if path), rule


def test_every_rule_asks_for_what_it_needs_by_the_size_of_its_data(announced):
    """Every rule that is not local asks for GPUs, memory, minutes, disk and threads; none of them is a number."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = [
        rule
        for rule in re.split(r"^ *(?:use )?rule\b.*:\n", text, flags=re.MULTILINE)[1:]
        if "localrule: True" not in rule
    ]
    asked = [dict(part.split("=", 1) for part in job["resources"].split(", ")) for job in announced.values()]
    asked = [resources for resources in asked if not resources.keys() <= {"tmpdir", "given"}]  # of local rules
    assert len(asked) > len(rules) > 15  # `join` is one rule for each search
    assert all(resources.keys() >= {"gpu", "mem_mb", "runtime", "disk_mb"} for resources in asked)
    for rule in rules:
        (threads,) = re.findall(r"^ +threads: (.+)$", rule, flags=re.MULTILINE)
        assert not is_constant(threads)
        assert re.search(r'^ +resources:\n +\*\*asks\("\w+"(, .+)?\),\n', rule, flags=re.MULTILINE), rule


def is_constant(expression: str) -> bool:
    """Return whether no name stands in an expression, so that it is the same for every run."""
    return not any(isinstance(node, ast.Name) for node in ast.walk(ast.parse(expression)))


def test_every_step_runs_with_a_log_beside_which_it_leaves_its_times():
    commands = [
        command
        for path in sorted((ROOT / "workflow/rules").glob("*.smk"))
        for command in re.findall(r"shell:\n +[\"'](.*)", path.read_text())
    ]
    assert len(commands) > 20
    others = [command for command in commands if not command.startswith("logged {log} python -m knnlm.steps ")]
    assert not any("python" in command for command in others)
    assert len(others) <= 1


def test_a_job_s_code_is_all_that_its_step_imports(project):
    """The rules look for imports with a pattern; a parser is the judge."""
    said = project("-n", "--printshellcmds", "hypotheses", config="config/tiny.yaml").stdout
    jobs = re.findall(
        r"^ +input: (.*)$(?:.|\n)*?python -m knnlm.steps (\w+)(?: --family (\w+))?", said, flags=re.MULTILINE
    )
    assert {step for _, step, _ in jobs} > {"corpus_text", "train_lm", "hypothesis", "tables", "plot"}
    for files, step, family in jobs:
        wanted = {f"steps/{step}", "steps/__main__"} | ({f"hypotheses/{family}"} if family else set())
        pending, code = [ROOT / f"workflow/knnlm/{name}.py" for name in wanted], set()
        while pending:
            if (path := pending.pop()).is_file() and path not in code:
                code.add(path)
                pending += imported(path)
        listed = {file for file in files.split(", ") if file.endswith(".py")}
        assert listed == {str(path.relative_to(ROOT)) for path in code}, step


@cache
def imported(path: Path) -> list[Path]:
    """Return files that may be those of what a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    places = [ROOT.joinpath("workflow", *name.split(".")) for name in names]
    return [place for base in places for place in (base.with_suffix(".py"), base / "__init__.py")]


@pytest.mark.parametrize(("more", "together"), [([], True), (["--resources", "gpu=1"], False)])
def test_the_local_profile_lets_two_jobs_have_the_gpu_at_a_time_or_one_where_that_is_asked(more, together, tmp_path):
    """Each of two jobs waits a while until the other is there too; with one place on the GPU it never is."""
    (tmp_path / "Snakefile").write_text(
        """
rule all:
    input: "first", "second"

rule on_gpu:
    output: "{name}"
    resources: gpu=1
    shell:
        "touch here-{wildcards.name}; "
        "for i in $(seq 50); do [ $(ls here-* | wc -l) = 2 ] && touch both; sleep 0.1; done; "
        "rm here-{wildcards.name}; touch {output}"
"""
    )
    profile = ["--workflow-profile", str(ROOT / "workflow/profiles/local"), "--cores", "2"]
    subprocess.run([sys.executable, "-m", "snakemake", *profile, *more], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "both").exists() == together


def test_snakemake_looks_for_jobs_when_one_ends_and_not_every_second(project):
    """Its limit of jobs a second would have it look again a second after every look, for each job that has ended."""
    asking = "import sys; from snakemake.scheduling import job_scheduler as module; from snakemake.cli import main\n"
    asking += "of, kept = module.JobScheduler, module.JobScheduler.schedule\n"
    asking += "of.schedule = lambda self: (print('limit:', self.job_rate_limiter), kept(self))[1]\nmain(sys.argv[1:])"
    call = project.call(("results/tiny/corpus/text/manifest.json",), "config/tiny.yaml")
    words = [sys.executable, "-c", asking, *call.pop("args")[3:]]
    said = subprocess.run(words, **call, stdout=subprocess.PIPE, check=True).stdout
    assert "limit: None\n" in said
