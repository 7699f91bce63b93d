"""What a device computes arrives whole, in its order, and no more than one batch behind."""

import numpy as np
import torch

from knnlm.running.transfers import fetched


def test_every_batch_arrives_in_its_order_with_its_label():
    batches = [(f"batch {size}", [torch.arange(size), torch.ones(size, 2) * size]) for size in (3, 1, 0, 4)]
    found = list(fetched(iter(batches)))
    assert [label for label, _ in found] == [label for label, _ in batches]
    for (_, arrays), (_, tensors) in zip(found, batches, strict=True):
        assert all(np.array_equal(array, tensor.numpy()) for array, tensor in zip(arrays, tensors, strict=True))
    assert list(fetched([])) == []


def test_a_batch_is_yielded_when_the_next_one_has_been_computed():
    computed = []

    def computing():
        for number in range(4):
            computed.append(number)
            yield number, [torch.tensor([number])]

    for number, (array,) in fetched(computing()):
        assert array.tolist() == [number]
        assert len(computed) == min(number + 2, 4)
