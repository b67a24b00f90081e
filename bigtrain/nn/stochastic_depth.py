"""Stochastic depth (arXiv:1603.09382): in training, a residual block is skipped for some of the samples."""

from __future__ import annotations

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """What a block adds to its shortcut, (B, …), is zero for each sample with `probability`, in training only.

    What is left is scaled up, as in dropout, so that evaluation needs no scale. At 0 nothing is drawn.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        if not self.training or self.probability == 0:
            return x
        kept = 1 - self.probability
        scale_B = x.new_empty(len(x)).bernoulli_(kept).div_(kept)
        return x * scale_B.view(-1, *[1] * (x.ndim - 1))


def skip_probabilities(last: float, num_blocks: int) -> list[float]:
    """Of each block, in a straight line up to `last` for the last one: the first blocks are needed most."""
    return [last * (index + 1) / num_blocks for index in range(num_blocks)]
