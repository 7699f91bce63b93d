import subprocess
import sys

import pytest
import torch

from knnlm.components.adam import Adam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_moves_parameters_as_torchs_class_does(dtype):
    generator, rates = torch.Generator().manual_seed(1), [1e-2, 3e-3, 1e-1, 0.0, 1e-4]
    ours = [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((7, 5), (3,))]
    theirs = [parameter.clone() for parameter in ours]
    one, other = Adam(ours, (0.9, 0.99)), torch.optim.Adam(theirs, betas=(0.9, 0.99), fused=True)
    for rate in rates:
        for parameter, twin in zip(ours, theirs, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            twin.grad = parameter.grad.clone()
        one.step(rate)
        other.param_groups[0]["lr"] = rate
        other.step()
    for parameter, twin in zip(ours, theirs, strict=True):
        assert torch.equal(parameter, twin)


def test_it_leaves_torchs_compiler_alone():
    used = """if True:
        import sys, torch
        from knnlm.components.adam import Adam
        parameter = torch.ones(3)
        parameter.grad = torch.ones(3)
        Adam([parameter]).step(0.5)
        assert torch.allclose(parameter, torch.full((3,), 0.5)), parameter
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", used], check=True, env={"PYTHONPATH": ":".join(sys.path)})
