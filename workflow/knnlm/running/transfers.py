"""What a device has computed, brought to the host's memory while the device goes on computing."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

Label = TypeVar("Label")


def fetched(batches: Iterable[tuple[Label, Sequence[torch.Tensor]]]) -> Iterator[tuple[Label, list[np.ndarray]]]:
    """Yield the label of each batch and its tensors, of one device, as arrays; one batch behind what is computed.

    A GPU copies a batch to pinned memory and computes the next one, while the caller works on the arrays of the one
    before. Two batches are held. The CPU's arrays are the tensors' own memory.
    """
    behind = None
    for label, tensors in batches:
        copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        copied = torch.cuda.Event() if tensors[0].is_cuda else None
        if copied:
            copied.record(torch.cuda.current_stream(tensors[0].device))
        if behind:
            yield _arrived(*behind)
        behind = label, copies, copied
    if behind:
        yield _arrived(*behind)


def _arrived(label: Label, copies: list[torch.Tensor], copied: "torch.cuda.Event | None") -> tuple[Label, list]:
    if copied:
        copied.synchronize()
    return label, [copy.numpy() for copy in copies]
