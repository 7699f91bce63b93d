"""Run the LM once over valid and test: their hidden states, and the base LM as a component."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.components.catalogue import BASE
from knnlm.components.columns import save_components
from knnlm.corpus.windows import whole_line_windows
from knnlm.language_model.states import extract_states
from knnlm.language_model.transformer import LanguageModel
from knnlm.running.devices import Job
from knnlm.storage.arrays import load_array, save_array
from knnlm.storage.manifests import verified, write_manifest


def main(
    settings: dict, job: Job, model: Path, dictionary: Path,
    tokens: Sequence[Path], lines: Sequence[Path], states: Path, base: Path,
) -> None:  # fmt: skip
    """Extract the states of each split with the evaluation windows."""
    windows = settings["windows"]["evaluation"]
    lm, log_p = LanguageModel(model, dictionary, job.device), {}
    for text, borders in zip(tokens, lines, strict=True):
        split = text.stem
        cut = whole_line_windows(load_array(borders, dtype="int64"), windows["context"], windows["new"])
        att, ffn, of_gold = extract_states(lm, load_array(text, dtype="int32"), cut, with_log_p=True)
        save_array(states / f"{split}.att.npy", att)
        save_array(states / f"{split}.ffn.npy", ffn)
        log_p[split] = [of_gold]
    files = [states / f"{split}.{h}.npy" for split in log_p for h in ("att", "ffn")]
    facts = {"kind": "evaluation states", "width": lm.width, "checkpoint": verified(model), "settings": settings}
    write_manifest(states / "manifest.json", files, **facts)
    save_components(base, [BASE], log_p, facts["checkpoint"])
