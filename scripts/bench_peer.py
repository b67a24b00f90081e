"""What scripts/bench measures bigtrain against: GPT-2's architecture and step as one writes them in plain PyTorch.

Parameters are declared in the order of bigtrain's `transformer`, so that one side's weights can be copied to the other.
The vocabulary is padded to a multiple of 64, as nanoGPT does, and the padded logits are cut off before the loss: the
mathematics is the same, and the products are as fast as they can be.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Pre-norm attention and feed-forward, GELU, no biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv, self.projection = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.LayerNorm(width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).split(width, dim=2)
        q, k, v = (y.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for y in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).contiguous().view(batch, length, width))
        return x + self.down(F.gelu(self.up(self.feedforward_norm(x)), approximate="tanh"))


class GPT(nn.Module):
    """Tokens and targets (B, T) → mean cross entropy. The output layer shares the token embedding's weight."""

    def __init__(self, vocab: int, length: int, width: int, layers: int, heads: int):
        super().__init__()
        self.vocab = vocab
        self.tokens, self.positions = nn.Embedding(-(-vocab // 64) * 64, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)[..., : self.vocab].float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Loop:
    """One call is a step: batch to the device, forward, backward, clip, fused AdamW. Compiled as a whole on a GPU."""

    def __init__(self, model: GPT, weights: list[Tensor], precision: torch.dtype, device: torch.device):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), weights, strict=True):
                parameter[: len(value)].copy_(value)
        self.model = model.to(device)
        self.device, self.precision = device, precision
        decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
        self.forward = torch.compile(model) if device.type == "cuda" else model

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, after which the weights are updated."""
        if self.device.type == "cuda":
            batch = {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            loss = self.forward(batch["inputs"], batch["targets"])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()
