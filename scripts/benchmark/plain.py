"""The models of the rows as one writes them in plain PyTorch: what every peer trains. forward(batch) → mean loss.

Parameters are declared in the order of bigtrain's models, so that one side's weights can be copied to the other.
Vocabularies are padded to a multiple of 64, as nanoGPT does, and the padded logits are cut off before the loss: the
mathematics is the same, and the products are as fast as they can be. There is no dropout: masks would differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = 0.5, 0.29  # of pixels from 0 to 1


def padded(vocab: int) -> int:
    """The next multiple of 64."""
    return -(-vocab // 64) * 64


def token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, vocab: int, bias: Tensor | None = None) -> Tensor:
    """Mean cross entropy of the targets (-100: none) under an output layer with a padded vocabulary."""
    logits = F.linear(hidden, weight, bias)[..., :vocab].float()
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def attend(module: nn.Module, x: Tensor, heads: int, causal: bool, rotation: Tensor | None = None) -> Tensor:
    """Multi-head attention by `module.qkv` and `module.projection`; with a rotation also QK-norm and RoPE."""
    batch, length, width = x.shape
    q, k, v = module.qkv(x).split(width, dim=2)
    q, k, v = (y.view(batch, length, heads, width // heads).transpose(1, 2) for y in (q, k, v))
    if rotation is not None:
        q, k = (rotate(F.rms_norm(y, y.shape[-1:], eps=1e-5), rotation).to(v.dtype) for y in (q, k))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return module.projection(y.transpose(1, 2).contiguous().view(batch, length, width))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """RoPE: (B, H, T, K) by cosines and sines (2, T, K / 2)."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class GPTBlock(nn.Module):
    """Pre-norm attention and feed-forward, without biases."""

    def __init__(self, width: int, heads: int, modern: bool):
        super().__init__()
        self.heads, self.modern = heads, modern
        self.attention_norm = norm(width, modern)
        self.qkv, self.projection = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.feedforward_norm = norm(width, modern)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        x = x + attend(self, self.attention_norm(x), self.heads, True, rotation)
        wide = self.up(self.feedforward_norm(x))
        return x + self.down(F.relu(wide).square() if self.modern else F.gelu(wide, approximate="tanh"))


def norm(width: int, modern: bool) -> nn.Module:
    """RMSNorm, or layer norm without bias."""
    return nn.RMSNorm(width, eps=1e-5) if modern else nn.LayerNorm(width, bias=False)


class GPT(nn.Module):
    """GPT-2, its output layer tied to the token embedding; `modern`: RMSNorm, RoPE, QK-norm and ReLU², not tied."""

    def __init__(self, vocab: int, length: int, width: int, layers: int, heads: int, modern: bool = False):
        super().__init__()
        self.vocab = vocab
        self.tokens = nn.Embedding(padded(vocab), width)
        self.positions = None if modern else nn.Embedding(length, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads, modern) for _ in range(layers))
        self.norm = norm(width, modern)
        self.head = nn.Linear(width, padded(vocab), bias=False) if modern else None
        half = width // heads // 2
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(half) / half))
        rotation = torch.stack((angles.cos(), angles.sin())) if modern else None
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs)
        if self.positions is not None:
            x = x + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x, self.rotation)
        weight = self.tokens.weight if self.head is None else self.head.weight
        return token_loss(self.norm(x), weight, targets, self.vocab)


class BertBlock(nn.Module):
    """Attention and feed-forward, each with a norm after its residual sum."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.feedforward_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + attend(self, x, self.heads, False))
        return self.feedforward_norm(x + self.down(F.gelu(self.up(x))))


class MaskedHead(nn.Module):
    """Dense, GELU, norm; then the token embedding's weight with a bias of its own, at the masked positions alone."""

    def __init__(self, vocab: int, width: int):
        super().__init__()
        self.vocab = vocab
        self.bias = nn.Parameter(torch.zeros(padded(vocab)))
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        hidden = self.norm(F.gelu(self.transform(hidden)))
        return token_loss(hidden, weight, targets, self.vocab, self.bias)


class Bert(nn.Module):
    """BERT, trained on masked tokens."""

    def __init__(self, vocab: int, length: int, width: int, layers: int, heads: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(padded(vocab), width), nn.Embedding(length, width)
        self.segments, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BertBlock(width, heads) for _ in range(layers))
        self.head = MaskedHead(vocab, width)

    def forward(self, inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]] + self.segments.weight[0]
        x = self.norm(x)
        for block in self.blocks:
            x = block(x)
        masked = x.gather(1, positions[..., None].expand(-1, -1, x.shape[2]))
        return self.head(masked, self.tokens.weight, targets)


class LSTM(nn.Module):
    """A language model of torch's LSTM layers; each window starts from zeros."""

    def __init__(self, vocab: int, width: int, layers: int):
        super().__init__()
        self.vocab = vocab
        self.tokens = nn.Embedding(padded(vocab), width)
        self.layers = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, padded(vocab), bias=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        hidden, _ = self.layers(self.tokens(inputs))
        return token_loss(hidden, self.head.weight, targets, self.vocab)


class Classifier(nn.Module):
    """Pixels (B, C, H, W) uint8, normalised → a body → a linear layer."""

    def __init__(self, body: nn.Module, width: int, classes: int):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, classes)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        inputs = (images.float() - 255 * MEAN) / (255 * STD)
        return F.cross_entropy(self.head(self.body(inputs)).float(), labels)


def mlp(features: int, widths: tuple[int, ...], classes: int) -> Classifier:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip((features, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return Classifier(nn.Sequential(*layers), widths[-1], classes)


def cnn(shape: tuple[int, int, int], classes: int) -> Classifier:
    """Two convolutions of 32 and 64 channels, each with a max-pool, and a hidden layer of 128."""
    channels, height, width = shape
    convolutions = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    hidden = nn.Linear(64 * (height // 4) * (width // 4), 128)
    return Classifier(nn.Sequential(*convolutions, hidden, nn.ReLU()), 128, classes)


class ResidualBlock(nn.Module):
    """relu(shortcut + branch). The shortcut is a 1x1 convolution, or every other pixel and zeros for new channels."""

    def __init__(self, before: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        self.after, self.stride, self.new = width * (4 if bottleneck else 1), stride, 0
        if bottleneck:
            layers = [*conv(before, width, 1), nn.ReLU(), *conv(width, width, 3, stride), nn.ReLU()]
            self.branch = nn.Sequential(*layers, *conv(width, self.after, 1))
        else:
            self.branch = nn.Sequential(*conv(before, width, 3, stride), nn.ReLU(), *conv(width, width, 3))
        self.shortcut: nn.Module | None = None
        if before != self.after and bottleneck:
            self.shortcut = nn.Sequential(*conv(before, self.after, 1, stride))
        elif before != self.after:
            self.new = self.after - before

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return F.relu(x + y)


def conv(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution and its norm."""
    return [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after)]


def resnet(depth: int, channels: int, classes: int, first_width: int | None = None) -> Classifier:
    """ResNet-50 (version 1.5) for large images, or the CIFAR form with 6n + 2 layers."""
    large = depth == 50
    width = before = first_width or (64 if large else 16)
    stem = [*conv(channels, width, 7 if large else 3, 2 if large else 1), nn.ReLU()]
    layers = [*stem, nn.MaxPool2d(3, 2, 1)] if large else stem
    for stage, blocks in enumerate((3, 4, 6, 3) if large else ((depth - 2) // 6,) * 3):
        for index in range(blocks):
            block = ResidualBlock(before, width << stage, 2 if stage and not index else 1, bottleneck=large)
            layers.append(block)
            before = block.after
    return Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), before, classes)
