rule hypothesis:
    """Make the components of one hypothesis; the LM runs only where the hypothesis is about another training of it."""
    input:
        tokens=collect("results/<run>/corpus/tokens/{split}.npy", split=EVALUATION_SPLITS),
        continuation=rules.binarise.output.continuation,
        base=rules.evaluation_states.output.base,
        base_arrays=behind_manifest(collect("results/<run>/components/base.{split}.npy", split=EVALUATION_SPLITS)),
        states=needed("states", "results/<run>/states/manifest.json"),
        state_arrays=behind_manifest(
            needed("states", "results/<run>/states/{split}.{h}.npy", split=EVALUATION_SPLITS, h=["att", "ffn"])
        ),
        chunks=needed("datastore", "results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        chunk_arrays=behind_manifest(
            needed("datastore", "results/<run>/datastore/chunk-{chunk}/{array}.npy", chunk=CHUNKS, array=CHUNK_ARRAYS)
        ),
        neighbours=needed("neighbours", "results/<run>/neighbours/{h}-{metric}-{search}/manifest.json", search=SEARCHES),
        neighbour_arrays=behind_manifest(
            needed(
                "neighbours",
                "results/<run>/neighbours/{h}-{metric}-{search}/{split}.{array}.npy",
                search=SEARCHES,
                split=EVALUATION_SPLITS,
                array=NEIGHBOUR_ARRAYS,
            )
        ),
        trained=behind_manifest(needed("index", "results/<run>/index/{h}-{metric}/trained.faiss")),
        filled=behind_manifest(needed("index", "results/<run>/index/{h}-{metric}/chunk-{chunk}.faiss", chunk=CHUNKS)),
        trained_manifest=needed("index", "results/<run>/index/{h}-{metric}/trained.json"),
        filled_manifests=needed("index", "results/<run>/index/{h}-{metric}/chunk-{chunk}.json", chunk=CHUNKS),
        training_neighbours=needed(
            "training_neighbours",
            "results/<run>/hypotheses/{{hypothesis}}.neighbours/chunk-{chunk}/manifest.json",
            chunk=CHUNKS,
        ),
        training_neighbour_arrays=needed(
            "training_neighbours",
            "results/<run>/hypotheses/{{hypothesis}}.neighbours/chunk-{chunk}/{array}.npy",
            chunk=CHUNKS,
            array=["values", "similarities"],
        ),
        components=needed_components("json"),
        component_arrays=behind_manifest(needed_components("valid.npy", "test.npy")),
        model=behind_manifest(needed("model", "results/<run>/lm/model.pt")),
        of_model=needed("model", "results/<run>/lm/manifest.json"),
        dictionary=needed("training", "results/<run>/corpus/dictionary.txt"),
        corpus=needed("training", "results/<run>/corpus/tokens/manifest.json"),
        binary=behind_manifest(
            needed("training", "results/<run>/corpus/binary/{split}.{kind}", split=SPLITS, kind=["bin", "idx"])
        ),
        lines=behind_manifest(needed("training", "results/<run>/corpus/tokens/{split}.lines.npy", split=SPLITS)),
        train_tokens=behind_manifest(needed("training", "results/<run>/corpus/tokens/train.npy")),
        code=hypothesis_sources,
    output:
        descriptions="results/<run>/hypotheses/{hypothesis}.json",
        valid="results/<run>/hypotheses/{hypothesis}.valid.npy",
        test="results/<run>/hypotheses/{hypothesis}.test.npy",
        facts="results/<run>/hypotheses/{hypothesis}.facts.csv",
    log:
        "<logs>/hypothesis/{hypothesis}.log",
    cache: SHARED
    conda:
        "../../envs/cpu.yaml"
    threads: asks("hypothesis", "threads")
    resources:
        gpu=asks("hypothesis", "gpu"),
        gres=asks("hypothesis", "gres"),
        nodes=asks("hypothesis", "nodes"),
        mpi=asks("hypothesis", "mpi"),
        tasks=asks("hypothesis", "tasks"),
        tasks_per_gpu=asks("hypothesis", "tasks_per_gpu"),
        mem_mb=asks("hypothesis", "mem_mb"),
        disk_mb=asks("hypothesis", "disk_mb"),
        runtime=asks("hypothesis", "runtime"),
    params:
        family=family,
        settings=hypothesis_settings,
    shell:
        "logged {log} python -m knnlm.steps hypothesis --settings {params.settings:q} --family {params.family} --gpus {resources.gpu} --gres={resources.gres:q}"
        " --nodes {resources.nodes} --threads {threads}"
        " --tokens {input.tokens} --continuation {input.continuation} --base {input.base} --states {input.states} --chunks {input.chunks}"
        " --model {input.model} --dictionary {input.dictionary} --neighbours {input.neighbours} --components {input.components}"
        " --training-neighbours {input.training_neighbours}"
        ' --trained {input.trained} --filled {input.filled} --corpus "$(dirname {input.continuation})/.."'
        ' --checkpoints "$(dirname {output.facts})/{wildcards.hypothesis}.checkpoints"'
        " --code {input.code:q} --descriptions {output.descriptions} --facts {output.facts}"


rule training_neighbours:
    """Find the neighbours of one chunk's own training positions, for a hypothesis that trains on them."""
    input:
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(of_main("results/<run>/datastore/chunk-{{chunk}}/{h}.npy")),
        targets=behind_manifest(collect("results/<run>/datastore/chunk-{chunk}/values.npy", chunk=CHUNKS)),
        positions=behind_manifest("results/<run>/datastore/chunk-{chunk}/positions.npy"),
        base=rules.evaluation_states.output.base,
        trained=behind_manifest(of_main("results/<run>/index/{h}-{metric}/trained.faiss")),
        trained_manifest=of_main("results/<run>/index/{h}-{metric}/trained.json"),
        filled=behind_manifest(of_main("results/<run>/index/{h}-{metric}/chunk-{chunk}.faiss", chunk=CHUNKS)),
        filled_manifests=of_main("results/<run>/index/{h}-{metric}/chunk-{chunk}.json", chunk=CHUNKS),
        code=sources("training_neighbours"),
    output:
        manifest=temp("results/<run>/hypotheses/{hypothesis}.neighbours/chunk-{chunk}/manifest.json"),
        targets=temp("results/<run>/hypotheses/{hypothesis}.neighbours/chunk-{chunk}/values.npy"),
        similarities=temp("results/<run>/hypotheses/{hypothesis}.neighbours/chunk-{chunk}/similarities.npy"),
    log:
        "<logs>/training_neighbours/{hypothesis}-{chunk}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: asks("training_neighbours", "threads")
    resources:
        gpu=asks("training_neighbours", "gpu"),
        mem_mb=asks("training_neighbours", "mem_mb"),
        disk_mb=asks("training_neighbours", "disk_mb"),
        runtime=asks("training_neighbours", "runtime"),
    params:
        settings=training_neighbour_settings,
    shell:
        "logged {log} python -m knnlm.steps training_neighbours --settings {params.settings:q} --base {input.base} --chunks {input.chunks}"
        ' --trained {input.trained} --filled {input.filled} --neighbours "$(dirname {output.manifest})"'


rule helped_tokens:
    """Ask which tokens the main kNN component helps: by frequency, place in the word, place in the document, and what may follow."""
    input:
        corpus=rules.binarise.output.manifest,
        tokens=collect("results/<run>/corpus/tokens/{split}.npy", split=EVALUATION_SPLITS),
        documents=collect("results/<run>/corpus/tokens/{split}.documents.npy", split=EVALUATION_SPLITS),
        train=behind_manifest("results/<run>/corpus/tokens/train.npy"),
        continuation=rules.binarise.output.continuation,
        dictionary=rules.bpe.output.dictionary,
        base=rules.evaluation_states.output.base,
        base_arrays=behind_manifest(collect("results/<run>/components/base.{split}.npy", split=EVALUATION_SPLITS)),
        components=of_main("results/<run>/components/knn-{h}-{metric}-exact.json"),
        component_arrays=behind_manifest(
            of_main("results/<run>/components/knn-{h}-{metric}-exact.{split}.npy", split=EVALUATION_SPLITS)
        ),
        code=sources("helped_tokens"),
    output:
        tokens=report(
            "results/<run>/tables/helped_tokens.csv",
            caption="../report/helped_tokens_table.rst",
            category="Tables",
            labels={"table": "which tokens are helped"},
        ),
        types=report(
            "results/<run>/tables/helped_types.csv",
            caption="../report/helped_types_table.rst",
            category="Tables",
            labels={"table": "word types helped and hurt most"},
        ),
    log:
        "<logs>/helped_tokens.log",
    group:
        "tables"
    conda:
        "../../envs/cpu.yaml"
    threads: asks("helped_tokens", "threads")
    resources:
        gpu=asks("helped_tokens", "gpu"),
        mem_mb=asks("helped_tokens", "mem_mb"),
        disk_mb=asks("helped_tokens", "disk_mb"),
        runtime=asks("helped_tokens", "runtime"),
    params:
        settings=settings("main"),
    shell:
        "logged {log} python -m knnlm.steps helped_tokens --settings {params.settings:q} --corpus {input.corpus} --tokens {input.tokens}"
        " --documents {input.documents} --train {input.train} --continuation {input.continuation} --dictionary {input.dictionary} --base {input.base}"
        " --components {input.components} --table {output.tokens} --types-table {output.types}"
