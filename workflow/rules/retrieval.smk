rule retrieve_exact:
    """Find every evaluation token's true k nearest rows of the store."""
    input:
        states="<states>/manifest.json",
        queries=behind_manifest(collect("<states>/{split}.{{h}}.npy", split=EVALUATED)),
        chunks=collect("<datastore>/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(collect("<datastore>/chunk-{chunk}/{{h}}.npy", chunk=CHUNKS)),
        trained=[],
        filled=[],
        checked="results/<run>/corpus/large_enough_for_retrieval",
        code=sources("retrieve"),
    output:
        manifest=of_block("<neighbours>/{h}-{metric}-exact/<query_block>manifest.json"),
        valid_ids=of_block("<neighbours>/{h}-{metric}-exact/<query_block>valid.ids.npy"),
        valid_similarities=of_block("<neighbours>/{h}-{metric}-exact/<query_block>valid.similarities.npy"),
        test_ids=of_block("<neighbours>/{h}-{metric}-exact/<query_block>test.ids.npy"),
        test_similarities=of_block("<neighbours>/{h}-{metric}-exact/<query_block>test.similarities.npy"),
    log:
        "<logs>/retrieve/<query_block>{h}-{metric}-exact.log",
    cache: SHARED
    priority: first("retrieve_exact")
    conda:
        "../../envs/cpu.yaml"
    threads: asked("retrieve_exact", "threads")
    resources:
        **asks("retrieve_exact", *DEVICE),
    params:
        settings=settings("retrieval.k", "main", "fractions", search="exact", **BLOCK),
    shell:
        "logged {log} python -m knnlm.steps retrieve --settings {params.settings:q}"
        ' --gpus {resources.gpu} --gres={resources.gres:q} --states "$(dirname {input.states})" --chunks {input.chunks}'
        ' --trained {input.trained} --filled {input.filled} --neighbours "$(dirname {output.manifest})"'


use rule retrieve_exact as retrieve_approximate with:
    """Find every evaluation token's k nearest rows with FAISS, and score them again with the stored keys."""
    input:
        states="<states>/manifest.json",
        queries=behind_manifest(collect("<states>/{split}.{{h}}.npy", split=EVALUATED)),
        chunks=collect("<datastore>/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(collect("<datastore>/chunk-{chunk}/{{h}}.npy", chunk=CHUNKS)),
        trained=behind_manifest("<index>/{h}-{metric}/trained.faiss"),
        trained_manifest="<index>/{h}-{metric}/trained.json",
        filled=behind_manifest(collect("<index>/{{h}}-{{metric}}/chunk-{chunk}.faiss", chunk=CHUNKS)),
        filled_manifests=collect("<index>/{{h}}-{{metric}}/chunk-{chunk}.json", chunk=CHUNKS),
        checked="results/<run>/corpus/large_enough_for_retrieval",
        code=sources("retrieve"),
    output:
        manifest=of_block("<neighbours>/{h}-{metric}-approximate/<query_block>manifest.json"),
        valid_ids=of_block("<neighbours>/{h}-{metric}-approximate/<query_block>valid.ids.npy"),
        valid_scores=of_block("<neighbours>/{h}-{metric}-approximate/<query_block>valid.similarities.npy"),
        valid_real=of_block("<neighbours>/{h}-{metric}-approximate/<query_block>valid.real.npy"),
        test_ids=of_block("<neighbours>/{h}-{metric}-approximate/<query_block>test.ids.npy"),
        test_scores=of_block("<neighbours>/{h}-{metric}-approximate/<query_block>test.similarities.npy"),
        test_real=of_block("<neighbours>/{h}-{metric}-approximate/<query_block>test.real.npy"),
    log:
        "<logs>/retrieve/<query_block>{h}-{metric}-approximate.log",
    cache: SHARED  # not inherited
    priority: first("retrieve_approximate")
    threads: asked("retrieve_approximate", "threads")
    resources:
        **asks("retrieve_approximate", *DEVICE),
    params:
        settings=settings("retrieval.k", "main", "fractions", "index.nprobe", search="approximate", **BLOCK),


for search, arrays in JOINED.items():
    neighbours = f"<neighbours>/{{h}}-{{metric}}-{search}"

    rule:
        """Put the neighbours of all blocks of queries together, as one search of all queries writes them."""
        name:
            f"join_{search}"
        input:
            blocks=collect(f"{neighbours}/block-{{block}}/manifest.json", block=QUERY_BLOCKS, allow_missing=True),
            arrays=collect(
                f"{neighbours}/block-{{block}}/{{split}}.{{array}}.npy",
                block=QUERY_BLOCKS,
                split=EVALUATED,
                array=arrays,
                allow_missing=True,
            ),
            code=sources("join_neighbours"),
        output:
            manifest=f"{neighbours}/manifest.json",
            arrays=collect(f"{neighbours}/{{split}}.{{array}}.npy", split=EVALUATED, array=arrays, allow_missing=True),
        log:
            f"<logs>/join_neighbours/{{h}}-{{metric}}-{search}.log",
        conda:
            "../../envs/cpu.yaml"
        threads: asked("join_neighbours", "threads")
        resources:
            **asks("join_neighbours"),
        shell:
            "logged {log} python -m knnlm.steps join_neighbours --blocks {input.blocks}"
            ' --neighbours "$(dirname {output.manifest})"'


rule knn_components:
    """Tune the temperature on valid and turn stored neighbours into log-probabilities of the gold tokens."""
    input:
        neighbours="<neighbours>/{h}-{metric}-{search}/manifest.json",
        ids=behind_manifest(collect("<neighbours>/{{h}}-{{metric}}-{{search}}/{split}.ids.npy", split=EVALUATED)),
        chunks=collect("<datastore>/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        targets=behind_manifest(collect("<datastore>/chunk-{chunk}/values.npy", chunk=CHUNKS)),
        tokens=collect("<corpus>/tokens/{split}.npy", split=EVALUATED),
        continuation="<corpus>/tokens/continuation.npy",
        base="<base>.json",
        code=sources("knn_components"),
    output:
        descriptions="<components>/knn-{h}-{metric}-{search}.json",
        log_p=collect("<components>/knn-{{h}}-{{metric}}-{{search}}.{split}.npy", split=EVALUATED),
        curves="<components>/knn-{h}-{metric}-{search}.temperature.csv",
    log:
        "<logs>/knn_components/{h}-{metric}-{search}.log",
    priority: first("knn_components")
    group:
        "components"
    conda:
        "../../envs/cpu.yaml"
    threads: asked("knn_components", "threads")
    resources:
        **asks("knn_components"),
    params:
        settings=settings("retrieval.k", "main", "fractions", "temperature"),
    shell:
        "logged {log} python -m knnlm.steps knn_components --settings {params.settings:q}"
        ' --neighbours "$(dirname {input.neighbours})" --chunks {input.chunks} --tokens {input.tokens}'
        " --continuation {input.continuation} --base {input.base} --descriptions {output.descriptions}"
        " --curves {output.curves}"
