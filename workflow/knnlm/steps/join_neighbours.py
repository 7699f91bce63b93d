"""Put the neighbours of all blocks of queries together, as one search of all queries would have written them."""

from collections.abc import Sequence
from pathlib import Path

from knnlm.errors import KnnlmError
from knnlm.storage.arrays import Rows, new_array
from knnlm.storage.manifests import read_manifest, write_manifest

OF_ONE_MANIFEST = ("format", "software", "files", "sha256")  # what every manifest says of itself


def read_blocks(manifests: list[Path]) -> tuple[dict, list[str]]:
    """Return what the manifests of the blocks agree on, and the names of the arrays that each has.

    Raises KnnlmError, naming a manifest that does not belong there.
    """
    whole = None
    for number, path in enumerate(manifests):
        facts = read_manifest(path, kind="neighbours")
        arrays = list(facts["files"])
        facts = {key: value for key, value in facts.items() if key not in OF_ONE_MANIFEST}
        is_next = facts["settings"].pop("block", None) == [number, len(manifests)]
        if not is_next or (whole is not None and facts != whole):
            remedy = "delete the folder of the blocks and rerun"
            raise KnnlmError(f"{path}: does not belong to the same search as {manifests[0]}; {remedy}.")
        whole = facts
    return whole, arrays


def main(blocks: Sequence[Path], neighbours: Path) -> None:
    """Write every array a slab and a block at a time, and the manifest."""
    facts, arrays = read_blocks(blocks)
    for name in arrays:
        parts = [Rows(path.parent / name) for path in blocks]  # (slabs, queries of the block, k) each
        slabs, _, k = parts[0].array.shape
        queries = sum(part.array.shape[1] for part in parts)
        with new_array(neighbours / name, parts[0].array.dtype.name, (slabs, queries, k)) as write:
            for slab in range(slabs):
                first = 0
                for part in parts:
                    write(slab, first, part[slab : slab + 1][0])
                    first += part.array.shape[1]
            for part in parts:
                part.check.compare()  # a note would outlive the block, which is temporary
    write_manifest(neighbours / "manifest.json", [neighbours / name for name in arrays], **facts)
