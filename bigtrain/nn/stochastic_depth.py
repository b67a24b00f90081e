"""Stochastic depth (arXiv:1603.09382): in training, a residual branch is skipped for random samples."""

from __future__ import annotations

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Sets a residual branch's output (B, …) to zero for each sample with `probability`, in training only.

    Other samples are divided by 1 - probability, as in dropout, so that the expectation is that of evaluation. At 0
    no random numbers are drawn.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        if not self.training or self.probability == 0:
            return x
        kept = 1 - self.probability
        scale_B = x.new_empty(x.shape[0]).bernoulli_(kept).div_(kept)
        return x * scale_B.view(-1, *[1] * (x.ndim - 1))


def skip_probabilities(last: float, num_blocks: int) -> list[float]:
    """One probability per block, rising linearly from `last` / num_blocks to `last` (section 3 of the paper)."""
    return [last * (index + 1) / num_blocks for index in range(num_blocks)]
