"""Run the LM once over valid and test: their hidden states, and the base LM as a component."""

import argparse
from pathlib import Path

from knnlm.components.catalogue import BASE
from knnlm.components.columns import save_components
from knnlm.corpus.windows import whole_line_windows
from knnlm.language_model.states import extract_states
from knnlm.language_model.transformer import LanguageModel
from knnlm.running.devices import device_for, gpu_options
from knnlm.running.step import run
from knnlm.storage.files import load_array, save_array, write_manifest
from knnlm.storage.seals import verified


def main(arguments: argparse.Namespace) -> None:
    """Extract the states of each split with the evaluation windows (spec §1.5)."""
    windows = arguments.settings["windows"]["evaluation"]
    model = LanguageModel(arguments.model, arguments.dictionary, device_for(arguments.gpus))
    base = {}
    for tokens_file, lines_file in zip(arguments.tokens, arguments.lines, strict=True):
        tokens, lines = load_array(tokens_file, dtype="int32"), load_array(lines_file, dtype="int64")
        cut = whole_line_windows(lines, windows["context"], windows["new"])
        att, ffn, log_p = extract_states(model, tokens, cut, with_log_p=True)
        split = tokens_file.stem
        save_array(arguments.states / f"{split}.att.npy", att)
        save_array(arguments.states / f"{split}.ffn.npy", ffn)
        base[split] = [log_p]
    checkpoint = verified(arguments.model)
    write_manifest(
        arguments.states / "manifest.json",
        files=[arguments.states / f"{split}.{h}.npy" for split in base for h in ("att", "ffn")],
        kind="evaluation states",
        width=model.width,
        checkpoint=checkpoint,
        settings=arguments.settings,
    )
    save_components(arguments.base, [BASE], base, checkpoint)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--settings", required=True, help="JSON with windows")
    gpu_options(options)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--dictionary", type=Path, required=True)
    options.add_argument("--tokens", type=Path, nargs="+", required=True, help="token ids, one file a split")
    options.add_argument("--lines", type=Path, nargs="+", required=True, help="line offsets, in the same order")
    options.add_argument("--states", type=Path, required=True, help="folder of the states")
    options.add_argument("--base", type=Path, required=True, help="description file of the base LM as a component")
    return options


if __name__ == "__main__":
    run(main, parser())
