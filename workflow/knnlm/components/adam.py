"""Adam by torch's own kernel, without `torch.optim.Adam`, which imports torch's compiler: seconds in every job."""

import torch
from torch.optim.adam import adam


class Adam:
    """Updates parameters in place from their `.grad`."""

    def __init__(self, parameters: list[torch.Tensor], betas: tuple[float, float] = (0.9, 0.999)):
        """Take the parameters and the decay of the means of gradients and of their squares."""
        self.parameters, self.betas = parameters, betas
        self.means, self.squares = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
        self.steps = [torch.zeros((), device=parameter.device) for parameter in parameters]

    def step(self, learning_rate: float) -> None:
        """Make one update."""
        gradients, constants = [parameter.grad for parameter in self.parameters], {"weight_decay": 0.0, "eps": 1e-8}
        constants |= {"beta1": self.betas[0], "beta2": self.betas[1], "amsgrad": False, "maximize": False}
        moments = self.means, self.squares, []
        adam(self.parameters, gradients, *moments, self.steps, fused=True, lr=learning_rate, **constants)
