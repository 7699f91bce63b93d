rule hypothesis:
    """Make the components of one hypothesis; the LM runs only where the hypothesis is about another training of it."""
    input:
        behind_manifest(hypothesis_arrays),
        tokens=collect("<corpus>/tokens/{split}.npy", split=EVALUATED),
        continuation="<corpus>/tokens/continuation.npy",
        base="<base>.json",
        states=needed("states", "<states>/manifest.json"),
        chunks=needed("datastore", "<datastore>/chunk-{chunk}/manifest.json"),
        neighbours=needed("neighbours", "<neighbours>/{h}-{metric}-{search}/manifest.json"),
        components=needed_components("json"),
        trained=behind_manifest(needed("index", "<index>/{h}-{metric}/trained.faiss")),
        filled=behind_manifest(needed("index", "<index>/{h}-{metric}/chunk-{chunk}.faiss")),
        of_trained=needed("index", "<index>/{h}-{metric}/trained.json"),
        of_filled=needed("index", "<index>/{h}-{metric}/chunk-{chunk}.json"),
        training_neighbours=needed(
            "training_neighbours", "<hypotheses>/{{hypothesis}}.neighbours/chunk-{chunk}/manifest.json"
        ),
        training_neighbour_arrays=needed(
            "training_neighbours",
            "<hypotheses>/{{hypothesis}}.neighbours/chunk-{chunk}/{array}.npy",
            array=["values", "similarities"],
        ),
        model=behind_manifest(needed("model", "<lm>/model.pt")),
        of_model=needed("model", "<lm>/manifest.json"),
        dictionary=needed("training", "<corpus>/dictionary.txt"),
        corpus=needed("training", "<corpus>/tokens/manifest.json"),
        code=hypothesis_sources,
    output:
        descriptions="<hypotheses>/{hypothesis}.json",
        valid="<hypotheses>/{hypothesis}.valid.npy",
        test="<hypotheses>/{hypothesis}.test.npy",
        facts="<hypotheses>/{hypothesis}.facts.csv",
        speeds="<hypotheses>/{hypothesis}.speeds.csv",
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
        chunks=collect("<datastore>/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(of_main("<datastore>/chunk-{{chunk}}/{h}.npy")),
        targets=behind_manifest(collect("<datastore>/chunk-{chunk}/values.npy", chunk=CHUNKS)),
        positions=behind_manifest("<datastore>/chunk-{chunk}/positions.npy"),
        base="<base>.json",
        trained=behind_manifest(of_main("<index>/{h}-{metric}/trained.faiss")),
        of_trained=of_main("<index>/{h}-{metric}/trained.json"),
        filled=behind_manifest(of_main("<index>/{h}-{metric}/chunk-{chunk}.faiss", chunk=CHUNKS)),
        of_filled=of_main("<index>/{h}-{metric}/chunk-{chunk}.json", chunk=CHUNKS),
        code=sources("training_neighbours"),
    output:
        manifest=temp("<hypotheses>/{hypothesis}.neighbours/chunk-{chunk}/manifest.json"),
        targets=temp("<hypotheses>/{hypothesis}.neighbours/chunk-{chunk}/values.npy"),
        similarities=temp("<hypotheses>/{hypothesis}.neighbours/chunk-{chunk}/similarities.npy"),
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
