"""Hidden states and log p on a GPU: those of the CPU, up to the rounding of float16, whatever the batches."""

import numpy as np
import pytest
import torch

from knnlm.corpus.windows import fixed_windows
from knnlm.language_model.states import extract_states
from knnlm.performance.language_model import random_model, random_tokens
from knnlm.running.transfers import fetched

pytestmark = pytest.mark.gpu


def test_tensors_arrive_as_they_were_computed_while_the_next_are():
    torch.manual_seed(1)
    computed = [torch.randn(5000, 64, device="cuda") for _ in range(20)]
    batches = ((number, [tensor @ tensor.T, tensor.half()]) for number, tensor in enumerate(computed))
    for number, (product, half) in fetched(batches):
        assert np.allclose(product, (computed[number] @ computed[number].T).cpu().numpy(), atol=1e-3)
        assert np.array_equal(half, computed[number].half().cpu().numpy())


def test_states_are_those_of_the_cpu(tmp_path):
    pytest.importorskip("fairseq")
    sizes = {"layers": 2, "width": 64, "feed_forward_width": 128, "heads": 4}
    on = {device: random_model(tmp_path / device, sizes, 256, 500, device) for device in ("cpu", "cuda")}
    on["cuda"].decoder.load_state_dict(on["cpu"].decoder.state_dict())
    tokens = random_tokens(30_000, 500, 2)
    found = {
        device: extract_states(lm, tokens, fixed_windows(30_000, 128, 128), with_log_p=True)
        for device, lm in on.items()
    }
    for ours, reference in zip(found["cuda"], found["cpu"], strict=True):
        assert np.allclose(ours.astype(np.float32), reference.astype(np.float32), rtol=2e-3, atol=4e-3)
