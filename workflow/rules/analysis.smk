# What the tables are told of the config, beside the questions.
OF_TABLES = ["seed", "corpus.tokeniser", "lm.training.patience", "significance", "main", "fractions", "verdict"]


rule tables:
    """Interpolate every component with the base LM: perplexities, intervals and curves."""
    input:
        base="<base>.json",
        base_log_p=behind_manifest(collect("<base>.{split}.npy", split=EVALUATED)),
        descriptions=every_retrieval("<components>/knn-{h}-{metric}-{search}.json"),
        valid=behind_manifest(every_retrieval("<components>/knn-{h}-{metric}-{search}.valid.npy")),
        test=behind_manifest(every_retrieval("<components>/knn-{h}-{metric}-{search}.test.npy")),
        temperatures=every_retrieval("<components>/knn-{h}-{metric}-{search}.temperature.csv"),
        tokens=collect("<corpus>/tokens/{split}.npy", split=EVALUATED),
        documents=collect("<corpus>/tokens/{split}.documents.npy", split=EVALUATED),
        continuation="<corpus>/tokens/continuation.npy",
        chunks=collect("<datastore>/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        loss="<lm>/loss.csv",
        hypotheses=of_hypotheses("<hypotheses>/{hypothesis}.json"),
        hypotheses_valid=behind_manifest(of_hypotheses("<hypotheses>/{hypothesis}.valid.npy")),
        hypotheses_test=behind_manifest(of_hypotheses("<hypotheses>/{hypothesis}.test.npy")),
        facts=of_hypotheses("<hypotheses>/{hypothesis}.facts.csv"),
        speeds=of_hypotheses("<hypotheses>/{hypothesis}.speeds.csv"),
        code=sources("tables"),
    output:
        components=table("components"),
        temperature=table("temperature"),
        datastore_size=table("datastore_size"),
        interpolation=table("lambda", "interpolation weight"),
        loss=table("loss", "training loss"),
        convergence=table("convergence", "has the base LM converged?"),
        convergence_rst="results/<run>/tables/convergence.rst",
        intervals_rst="results/<run>/tables/intervals.rst",
        verdicts=table("verdicts"),
        shares=table("shares", "reaches and removes, every component"),
        remaining=table("remaining", "what is left of the gain"),
        block_lengths=table("block_lengths", "how long a block must be"),
        input_representation=table("input_representation"),
        facts=table("facts", "what else was measured"),
        indexes=table("indexes", "kinds of index"),
        verdicts_text="results/<run>/tables/verdicts.txt",
        verdicts_rst="results/<run>/tables/verdicts.rst",
        summary=report(
            "results/<run>/tables/summary.txt",
            caption="../report/summary.rst",
            category="Tables",
            labels={"table": "summary"},
        ),
    log:
        "<logs>/tables.log",
    group:
        "tables"
    conda:
        "../../envs/cpu.yaml"
    threads: asked("tables", "threads")
    resources:
        **asks("tables"),
    params:
        settings=settings(*OF_TABLES, hypotheses=questions),
        only=[],
    shell:
        "logged {log} python -m knnlm.steps tables --settings {params.settings:q}"
        " --descriptions {input.base} {input.descriptions} {input.hypotheses} --tokens {input.tokens}"
        " --documents {input.documents} --continuation {input.continuation} --temperatures {input.temperatures}"
        " --chunks {input.chunks} --loss {input.loss} --facts {input.facts} --speeds {input.speeds}"
        ' --folder "$(dirname {output.summary})" --only {params.only:q}'


use rule tables as main_tables with:
    """The main result alone, before there are hypotheses: the base LM, and the kNN of the main pair's exact search."""
    input:
        base="<base>.json",
        base_log_p=behind_manifest(collect("<base>.{split}.npy", split=EVALUATED)),
        descriptions=of_main("<components>/knn-{h}-{metric}-exact.json"),
        log_p=behind_manifest(of_main("<components>/knn-{h}-{metric}-exact.{split}.npy", split=EVALUATED)),
        temperatures=of_main("<components>/knn-{h}-{metric}-exact.temperature.csv"),
        tokens=collect("<corpus>/tokens/{split}.npy", split=EVALUATED),
        documents=collect("<corpus>/tokens/{split}.documents.npy", split=EVALUATED),
        continuation="<corpus>/tokens/continuation.npy",
        chunks=collect("<datastore>/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        loss="<lm>/loss.csv",
        hypotheses=[],
        facts=[],
        speeds=[],
        code=sources("tables"),
    output:
        summary="results/<run>/main_result/summary.txt",
        components="results/<run>/main_result/components.csv",
        temperature="results/<run>/main_result/temperature.csv",
    log:
        "<logs>/main_result/tables.log",
    priority: BEFORE_ALL
    threads: asked("tables", "threads")
    resources:
        **asks("tables"),
    params:
        settings=settings(*OF_TABLES, hypotheses={}),
        only=["summary.txt", "components.csv", "temperature.csv"],


rule main_picture:
    """Draw perplexity against temperature of the main result alone."""
    input:
        components=rules.main_tables.output.components,
        table=rules.main_tables.output.temperature,
        code=sources("plot"),
    output:
        png="results/<run>/main_result/temperature.png",
        pdf="results/<run>/main_result/temperature.pdf",
    log:
        "<logs>/main_result/plot.log",
    priority: BEFORE_ALL
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=settings("figures", "main"),
    shell:
        "logged {log} python -m knnlm.steps plot --figure temperature --settings {params.settings:q}"
        " --table {input.table} --components {input.components} --pdf {output.pdf} --png {output.png}"


rule helped_tokens:
    """Ask which tokens the main kNN component helps: by frequency, place in word and document, and what may follow."""
    input:
        corpus="<corpus>/tokens/manifest.json",
        tokens=collect("<corpus>/tokens/{split}.npy", split=EVALUATED),
        documents=collect("<corpus>/tokens/{split}.documents.npy", split=EVALUATED),
        train=behind_manifest("<corpus>/tokens/train.npy"),
        continuation="<corpus>/tokens/continuation.npy",
        dictionary="<corpus>/dictionary.txt",
        base="<base>.json",
        base_log_p=behind_manifest(collect("<base>.{split}.npy", split=EVALUATED)),
        components=of_main("<components>/knn-{h}-{metric}-exact.json"),
        component_log_p=behind_manifest(of_main("<components>/knn-{h}-{metric}-exact.{split}.npy", split=EVALUATED)),
        code=sources("helped_tokens"),
    output:
        tokens=table("helped_tokens", "which tokens are helped"),
        types=table("helped_types", "word types helped and hurt most"),
    log:
        "<logs>/helped_tokens.log",
    group:
        "tables"
    conda:
        "../../envs/cpu.yaml"
    threads: asked("helped_tokens", "threads")
    resources:
        **asks("helped_tokens"),
    params:
        settings=settings("main"),
    shell:
        "logged {log} python -m knnlm.steps helped_tokens --settings {params.settings:q} --corpus {input.corpus}"
        " --tokens {input.tokens} --documents {input.documents} --train {input.train}"
        " --continuation {input.continuation} --dictionary {input.dictionary} --base {input.base}"
        " --components {input.components} --table {output.tokens} --types-table {output.types}"


rule main_result:
    """The first answer, minutes after training: perplexity with and without neighbours, and against the temperature."""
    input:
        rules.main_tables.output,
        rules.main_picture.output,
    localrule: True


for picture, drawn_from in FIGURES.items():

    rule:
        """Draw one figure from its table alone."""
        name:
            f"plot_{picture}"
        input:
            table=f"results/<run>/tables/{drawn_from}.csv",
            components="results/<run>/tables/components.csv",
            code=sources("plot"),
        output:
            png=figure(picture),
            pdf=f"results/<run>/figures/{picture}.pdf",
        log:
            f"<logs>/plot/{picture}.log",
        localrule: True
        conda:
            "../../envs/cpu.yaml"
        params:
            figure=picture,
            settings=settings("figures", "main", "verdict"),
        shell:
            "logged {log} python -m knnlm.steps plot --figure {params.figure} --settings {params.settings:q}"
            " --table {input.table} --components {input.components} --pdf {output.pdf} --png {output.png}"


rule plot_hypothesis:
    """Draw the figure of one hypothesis from the table of components alone."""
    input:
        table="results/<run>/tables/components.csv",
        code=sources("plot"),
    output:
        png=report(
            "results/<run>/figures/hypothesis-{hypothesis}.png",
            caption="../report/hypothesis.rst",
            category="Hypotheses",
            labels={"hypothesis": "{hypothesis}"},
        ),
        pdf="results/<run>/figures/hypothesis-{hypothesis}.pdf",
    log:
        "<logs>/plot/hypothesis-{hypothesis}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=settings("figures", "main", hypothesis=shown),
    shell:
        "logged {log} python -m knnlm.steps plot --figure hypothesis-{wildcards.hypothesis}"
        " --settings {params.settings:q} --table {input.table} --components {input.table}"
        " --pdf {output.pdf} --png {output.png}"


rule front_picture:
    """Turn a picture into text that the first page of the report includes."""
    input:
        "results/<run>/figures/{picture}.png",
    output:
        "results/<run>/report/{picture}_picture.rst",
    log:
        "<logs>/front_picture/{picture}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    shell:
        "{{ echo '.. image:: data:image/png;base64,'; base64 {input} | sed 's/^/   /';"
        " echo '   :alt: The figure {wildcards.picture}; its table has the numbers.'; }}"
        " > {output} 2> {log}"


rule figures:
    """Every figure; nothing is computed again that is up to date."""
    input:
        collect("results/<run>/figures/{figure}.{kind}", figure=FIGURES, kind=["pdf", "png"]),
        hypothesis_figures,
        collect("results/<run>/report/{picture}_picture.rst", picture=FRONT_PICTURES),
    localrule: True


rule hypotheses:
    """Everything, and the hypotheses that need another training of the LM; or those of every variant."""
    input:
        over_variants() or rules.figures.input,
        store_files(),
    localrule: True


rule redraw:
    """Every figure again from the tables as they are, whatever else is there, newer or missing: no table is made."""
    log:
        "<logs>/redraw.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=settings("figures", "main", "verdict", tables=FIGURES, hypotheses=all_shown),
        folders=run_folders(),
        over_variants=of_runs([config["name"]], "") if VARIANTS else [],
    shell:
        "logged {log} python -m knnlm.steps redraw --settings {params.settings:q} --folders {params.folders:q}"
        " --over-variants {params.over_variants:q}"


rule findings:
    """The page of findings, docs/findings.md, from the tables of the reference runs as they are in results."""
    log:
        "<logs>/findings.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        folder=placed("results"),
        page=placed("docs/findings.md"),
    shell:
        "logged {log} python -m knnlm.steps findings --folder {params.folder:q} --page {params.page:q}"


rule plan:
    """Print rows, bytes, peak memory, FLOPs and, with measured rates, hours of every stage before anything runs."""
    input:
        known_tokens,
        code=sources("plan"),
    log:
        "<logs>/plan.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=settings(*(key for key in config if key != "name"), chosen=CHOSEN),
        table=placed(f"results/{config['name']}/tables/plan.csv"),
        counted=TOKENS,
        rates=measured_rates,
        logs=placed(f"results/{config['name']}/logs"),
    shell:
        "logged {log} python -m knnlm.steps plan --settings {params.settings:q} --table {params.table}"
        " --manifest {params.counted:q} --rates {params.rates:q} --logs {params.logs:q}"
