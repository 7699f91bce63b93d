"""Put the neighbours of all blocks of queries together, as one search of all queries would have written them."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.storage.arrays import Rows, new_array
from knnlm.storage.manifests import read_manifest, write_manifest

DTYPES = {"ids": "int32", "similarities": "float32", "real": "float32"}
OF_ONE_MANIFEST = ("format", "software", "files", "sha256")  # what every manifest says of itself


def read_blocks(manifests: list[Path]) -> dict:
    """Return what the manifests of the blocks agree on; raises KnnlmError, naming one that does not belong there."""
    whole = None
    for number, path in enumerate(manifests):
        facts = read_manifest(path, kind="neighbours")
        facts = {key: value for key, value in facts.items() if key not in OF_ONE_MANIFEST}
        is_next = facts["settings"].pop("block", None) == [number, len(manifests)]
        if not is_next or (whole is not None and facts != whole):
            remedy = "delete the folder of the blocks and rerun"
            raise KnnlmError(f"{path}: does not belong to the same search as {manifests[0]}; {remedy}.")
        whole = facts
    return whole


def main(blocks: Sequence[Path], neighbours: Path) -> None:
    """Write every array a slab and a block at a time, and the manifest."""
    facts = read_blocks(blocks)
    names = {"ids": facts["fractions"], "similarities": facts["fractions"], "real": facts["real_score_fractions"]}
    files = [(split, name) for split in EVALUATED for name, slabs in names.items() if slabs]
    for split, name in files:
        slabs, file = len(names[name]), f"{split}.{name}.npy"
        parts = [Rows(path.parent / file, DTYPES[name], (slabs, None, facts["k"])) for path in blocks]
        shape = (slabs, sum(part.array.shape[1] for part in parts), facts["k"])
        with new_array(neighbours / file, DTYPES[name], shape) as write:
            for slab in range(slabs):
                first = 0
                for part in parts:
                    write(slab, first, part[slab : slab + 1][0])
                    first += part.array.shape[1]
            for part in parts:
                part.check.compare()  # a note would outlive the block, which is temporary
    written = [neighbours / f"{split}.{name}.npy" for split, name in files]
    write_manifest(neighbours / "manifest.json", written, **facts)
