rule hypothesis:
    """Make the components of one hypothesis; the LM runs only where the hypothesis is about another training of it."""
    input:
        behind_manifest(hypothesis_arrays),
        tokens=collect("results/<run>/corpus/tokens/{split}.npy", split=EVALUATED),
        continuation=rules.binarise.output.continuation,
        base=rules.evaluation_states.output.base,
        states=needed("states", "results/<run>/states/manifest.json"),
        chunks=needed("datastore", "results/<run>/datastore/chunk-{chunk}/manifest.json"),
        neighbours=needed("neighbours", "results/<run>/neighbours/{h}-{metric}-{search}/manifest.json"),
        components=needed_components("json"),
        trained=behind_manifest(needed("index", "results/<run>/index/{h}-{metric}/trained.faiss")),
        filled=behind_manifest(needed("index", "results/<run>/index/{h}-{metric}/chunk-{chunk}.faiss")),
        of_trained=needed("index", "results/<run>/index/{h}-{metric}/trained.json"),
        of_filled=needed("index", "results/<run>/index/{h}-{metric}/chunk-{chunk}.json"),
        training_neighbours=needed(
            "training_neighbours", "results/<run>/hypotheses/{{hypothesis}}.neighbours/chunk-{chunk}/manifest.json"
        ),
        training_neighbour_arrays=needed(
            "training_neighbours",
            "results/<run>/hypotheses/{{hypothesis}}.neighbours/chunk-{chunk}/{array}.npy",
            array=["values", "similarities"],
        ),
        model=behind_manifest(needed("model", "results/<run>/lm/model.pt")),
        of_model=needed("model", "results/<run>/lm/manifest.json"),
        dictionary=needed("training", "results/<run>/corpus/dictionary.txt"),
        corpus=needed("training", "results/<run>/corpus/tokens/manifest.json"),
        code=hypothesis_sources,
    output:
        descriptions="results/<run>/hypotheses/{hypothesis}.json",
        valid="results/<run>/hypotheses/{hypothesis}.valid.npy",
        test="results/<run>/hypotheses/{hypothesis}.test.npy",
        facts="results/<run>/hypotheses/{hypothesis}.facts.csv",
        speeds="results/<run>/hypotheses/{hypothesis}.speeds.csv",
    log:
        "<logs>/hypothesis/{hypothesis}.log",
    cache: SHARED
    priority: first("hypothesis")
    conda:
        "../../envs/cpu.yaml"
    threads: asked("hypothesis", "threads")
    resources:
        **asks("hypothesis", *DEVICE),
    params:
        family=family,
        settings=hypothesis_settings,
    shell:
        "logged {log} python -m knnlm.steps hypothesis --family {params.family} --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --nodes {resources.nodes} --threads {threads}"
        " --tokens {input.tokens} --continuation {input.continuation} --base {input.base} --states {input.states}"
        " --chunks {input.chunks} --neighbours {input.neighbours} --components {input.components}"
        " --trained {input.trained} --filled {input.filled} --training-neighbours {input.training_neighbours}"
        ' --model {input.model} --dictionary {input.dictionary} --corpus "$(dirname {input.continuation})/.."'
        ' --checkpoints "$(dirname {output.facts})/{wildcards.hypothesis}.checkpoints" --code {input.code:q}'
        " --descriptions {output.descriptions} --facts {output.facts} --speeds {output.speeds}"


rule training_neighbours:
    """Find the neighbours of one chunk's own training positions, for a hypothesis that trains on them."""
    input:
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(of_main("results/<run>/datastore/chunk-{{chunk}}/{h}.npy")),
        targets=behind_manifest(collect("results/<run>/datastore/chunk-{chunk}/values.npy", chunk=CHUNKS)),
        positions=behind_manifest("results/<run>/datastore/chunk-{chunk}/positions.npy"),
        base=rules.evaluation_states.output.base,
        trained=behind_manifest(of_main("results/<run>/index/{h}-{metric}/trained.faiss")),
        of_trained=of_main("results/<run>/index/{h}-{metric}/trained.json"),
        filled=behind_manifest(of_main("results/<run>/index/{h}-{metric}/chunk-{chunk}.faiss", chunk=CHUNKS)),
        of_filled=of_main("results/<run>/index/{h}-{metric}/chunk-{chunk}.json", chunk=CHUNKS),
        code=sources("training_neighbours"),
    output:
        manifest=temp("results/<run>/hypotheses/{hypothesis}.neighbours/chunk-{chunk}/manifest.json"),
        targets=temp("results/<run>/hypotheses/{hypothesis}.neighbours/chunk-{chunk}/values.npy"),
        similarities=temp("results/<run>/hypotheses/{hypothesis}.neighbours/chunk-{chunk}/similarities.npy"),
    log:
        "<logs>/training_neighbours/{hypothesis}-{chunk}.log",
    priority: first("training_neighbours")
    conda:
        "../../envs/cpu.yaml"
    threads: asked("training_neighbours", "threads")
    resources:
        **asks("training_neighbours", *DEVICE),
    params:
        settings=training_neighbour_settings,
    shell:
        "logged {log} python -m knnlm.steps training_neighbours --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --base {input.base} --chunks {input.chunks}"
        " --trained {input.trained} --filled {input.filled}"
        ' --neighbours "$(dirname {output.manifest})"'


rule helped_tokens:
    """Ask which tokens the main kNN component helps: by frequency, place in word and document, and what may follow."""
    input:
        corpus=rules.binarise.output.manifest,
        tokens=collect("results/<run>/corpus/tokens/{split}.npy", split=EVALUATED),
        documents=collect("results/<run>/corpus/tokens/{split}.documents.npy", split=EVALUATED),
        train=behind_manifest("results/<run>/corpus/tokens/train.npy"),
        continuation=rules.binarise.output.continuation,
        dictionary=rules.bpe.output.dictionary,
        base=rules.evaluation_states.output.base,
        base_log_p=behind_manifest(collect("results/<run>/components/base.{split}.npy", split=EVALUATED)),
        components=of_main("results/<run>/components/knn-{h}-{metric}-exact.json"),
        component_log_p=behind_manifest(
            of_main("results/<run>/components/knn-{h}-{metric}-exact.{split}.npy", split=EVALUATED)
        ),
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
