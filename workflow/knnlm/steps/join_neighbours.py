"""Put the neighbours of all blocks of queries together, as one search of all queries would have written them."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.storage.files import load_array, new_array, read_manifest, write_manifest

DTYPES = {"ids": "int32", "similarities": "float32", "real": "float32"}
OF_ONE_MANIFEST = ("format", "software", "files", "sha256")  # what every manifest says of itself


def read_blocks(manifests: list[Path]) -> dict:
    """Return what the blocks' manifests agree on, without their numbers; refuses, by name, blocks that do not belong together."""
    whole = None
    for number, path in enumerate(manifests):
        facts = {
            key: value for key, value in read_manifest(path, kind="neighbours").items() if key not in OF_ONE_MANIFEST
        }
        settings = facts["settings"]
        if settings.pop("block", None) != [number, len(manifests)] or (whole is not None and facts != whole):
            raise KnnlmError(
                f"{path}: does not belong to the same search as {manifests[0]}; delete the folder of the blocks and rerun."
            )
        whole = facts
    return whole


def main(blocks: Sequence[Path], neighbours: Path) -> None:
    """Write every array a slab and a block at a time, and the manifest."""
    facts = read_blocks(blocks)
    names = {"ids": facts["fractions"], "similarities": facts["fractions"], "real": facts["real_score_fractions"]}
    files = [(split, name) for split in EVALUATED for name, slabs in names.items() if slabs]
    for split, name in files:
        parts = [
            load_array(path.parent / f"{split}.{name}.npy", DTYPES[name], (len(names[name]), None, facts["k"]))
            for path in blocks
        ]
        shape = (len(names[name]), sum(part.shape[1] for part in parts), facts["k"])
        with new_array(neighbours / f"{split}.{name}.npy", DTYPES[name], shape) as write:
            for slab in range(len(names[name])):
                first = 0
                for part in parts:
                    write(slab, first, part[slab])
                    first += part.shape[1]
    write_manifest(
        neighbours / "manifest.json", files=[neighbours / f"{split}.{name}.npy" for split, name in files], **facts
    )
