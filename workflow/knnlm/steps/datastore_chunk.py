"""Build one chunk of the datastore: run the LM over its share of the training text and store shuffled (key, value) pairs."""

import argparse
from pathlib import Path

from knnlm.corpus.windows import fixed_windows, share_of_windows
from knnlm.datastore.store import save_chunk, shuffled_order
from knnlm.errors import KnnlmError
from knnlm.language_model.states import extract_states
from knnlm.language_model.transformer import LanguageModel
from knnlm.running.devices import device_for, gpu_options
from knnlm.running.step import run
from knnlm.storage.files import load_array, write_manifest
from knnlm.storage.seals import verified


def main(arguments: argparse.Namespace) -> None:
    """Extract, shuffle and store; the rows are exactly the tokens of this chunk's windows."""
    settings, chunk = arguments.settings, arguments.settings["chunk"]
    windows, chunks = settings["windows"]["train"], settings["datastore"]["chunks"]
    model = LanguageModel(arguments.model, arguments.dictionary, device_for(arguments.gpus))
    tokens = load_array(arguments.tokens, dtype="int32")
    cut = fixed_windows(len(tokens), windows["context"], windows["new"])
    if len(cut) < chunks:
        raise KnnlmError(
            f"config key datastore.chunks: {chunks} is more than the {len(cut)} windows of the training text; lower it."
        )
    share = share_of_windows(cut, chunk, chunks)
    first, end = int(share[0, 1]), int(share[-1, 2])
    att, ffn, _ = extract_states(model, tokens, share)
    files = save_chunk(arguments.chunk, att, ffn, tokens, first, shuffled_order(end - first, settings["seed"], chunk))
    write_manifest(
        arguments.chunk / "manifest.json",
        files=files,
        kind="datastore chunk",
        rows=end - first,
        width=model.width,
        first_position=first,
        corpus_tokens=len(tokens),
        chunk=chunk,
        chunks=chunks,
        checkpoint=verified(arguments.model),
        settings=settings,
    )


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON with seed, windows, datastore and chunk")
    gpu_options(options)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--dictionary", type=Path, required=True)
    options.add_argument("--tokens", type=Path, required=True, help="token ids of the training text")
    options.add_argument("--chunk", type=Path, required=True, help="folder of the chunk")
    return options


if __name__ == "__main__":
    run(main, parser())
