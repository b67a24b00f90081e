"""Initial weights as data: modules declare how their parameters are distributed, and `draw_weights` draws them all.

Constructors of such modules draw nothing. A parameter is cut into blocks, and each is drawn by a generator of its own,
seeded by (seed, name of the parameter, number of the block): on the CPU, in threads, and the same whatever else there
is to draw. A parameter of which nothing is declared stays as its constructor left it: the ones of a norm, or what a
plug-in's constructor draws from torch's global generator, which the caller seeds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bigtrain.distributed.shards import Part, is_sharded, parts_of
from bigtrain.randomness import SeedDomain, mix

ModuleT = TypeVar("ModuleT", bound=nn.Module)

BLOCK = 1 << 20  # numbers; part of what makes a run reproducible: never change it
_WORTH_A_THREAD = 1 << 18  # numbers: a core draws them in about 1 ms
_DECLARED = "initial_distributions"  # a module's attribute: name of its parameter → Distribution


class Distribution:
    """What the numbers of a parameter are drawn from."""

    single_threaded: ClassVar[bool] = True  # whether torch draws a block on one core

    @property
    def block_size(self) -> int:
        """Numbers of a block; the last block of a parameter may have fewer."""
        return BLOCK

    def draw(self, block_N: Tensor, generator: torch.Generator) -> None:
        """Fills a block in place."""
        raise NotImplementedError


@dataclass(frozen=True)
class Normal(Distribution):
    """N(0, std²)."""

    std: float

    def draw(self, block_N: Tensor, generator: torch.Generator) -> None:
        """See the base class."""
        block_N.normal_(std=self.std, generator=generator)


@dataclass(frozen=True)
class Uniform(Distribution):
    """U(-bound, bound)."""

    bound: float

    def draw(self, block_N: Tensor, generator: torch.Generator) -> None:
        """See the base class."""
        block_N.uniform_(-self.bound, self.bound, generator=generator)


@dataclass(frozen=True)
class Constant(Distribution):
    """Always `value`."""

    value: float
    single_threaded: ClassVar[bool] = False

    def draw(self, block_N: Tensor, generator: torch.Generator) -> None:
        """See the base class."""
        block_N.fill_(self.value)


@dataclass(frozen=True)
class Orthogonal(Distribution):
    """Orthogonal matrices (size, size), one below the other (arXiv:1312.6120). Each is a block."""

    size: int
    single_threaded: ClassVar[bool] = False

    @property
    def block_size(self) -> int:
        """A whole matrix."""
        return self.size**2

    def draw(self, block_N: Tensor, generator: torch.Generator) -> None:
        """See the base class."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # MKL's QR decomposition rounds differently with another number
        try:
            nn.init.orthogonal_(block_N.view(self.size, self.size), generator=generator)
        finally:
            torch.set_num_threads(threads)


def declare(module: nn.Module, **distributions: Distribution) -> None:
    """Says what the module's own parameters, by name, are drawn from. What is declared last counts."""
    setattr(module, _DECLARED, {**declared(module), **distributions})


def declare_uniform(module: nn.Module, fan_in: int) -> None:
    """Declares all the module's own parameters to be from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    distribution = Uniform(1 / math.sqrt(fan_in))
    declare(module, **{name: distribution for name, _ in module.named_parameters(recurse=False)})


def declared(module: nn.Module) -> Mapping[str, Distribution]:
    """What the module's own parameters are drawn from, as far as it is declared."""
    return getattr(module, _DECLARED, {})


def draw_weights(network: nn.Module, seed: int) -> None:
    """Draws every declared parameter of a network on the CPU; a tied one once, under the first of its names.

    In as many threads as torch has; the numbers don't depend on that. Of a parameter that is split over ranks this
    rank's part is drawn, with the numbers that it has in the whole.
    """
    copies, pending = [], []
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for name, parameter, distribution in _declared_parameters(network):
            if is_sharded(parameter):
                for part in parts_of(parameter, 0):
                    _draw_part(part, distribution, seed, name, threads)
                continue
            values = parameter.detach().contiguous()
            if not parameter.is_contiguous():
                copies.append((parameter.detach(), values))
            for index, block_N in enumerate(values.view(-1).split(distribution.block_size)):
                arguments = (block_N, distribution, seed, name, index)
                if distribution.single_threaded and len(block_N) >= _WORTH_A_THREAD:
                    pending.append(threads.submit(draw_block, *arguments))
                else:
                    draw_block(*arguments)
        for block in pending:
            block.result()
    for target, values in copies:
        target.copy_(values)


def forget_declared(network: nn.Module) -> None:
    """Moves every declared parameter to the meta device: its shape stays, its memory goes. Ties stay."""
    metas = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for _, parameter, _ in _declared_parameters(network)
    }
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in metas:
                setattr(module, name, metas[id(parameter)])


def _declared_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, Distribution]]:
    modules = dict(network.named_modules())
    for name, parameter in network.named_parameters():
        owner, _, own_name = name.rpartition(".")
        if (distribution := declared(modules[owner]).get(own_name)) is not None:
            yield name, parameter, distribution


def _draw_part(part: Part, distribution: Distribution, seed: int, name: str, threads: ThreadPoolExecutor) -> None:
    """Draws a part of a parameter from the blocks that its rows touch; of its columns, where it has not all."""
    whole_rows = part.values.shape[1:] == part.shape[1:]
    rows = part.values if whole_rows else part.values.new_empty(len(part.values), *part.shape[1:])
    first = part.offsets[0] * math.prod(part.shape[1:])
    last, size = first + rows.numel(), distribution.block_size

    def draw(index: int) -> None:
        begin = index * size
        end = min(begin + size, math.prod(part.shape))
        block_N = torch.empty(end - begin, dtype=rows.dtype, device="cpu")
        draw_block(block_N, distribution, seed, name, index)
        lower, upper = max(begin, first), min(end, last)
        rows.view(-1)[lower - first : upper - first].copy_(block_N[lower - begin : upper - begin])

    blocks = range(first // size, -(-last // size)) if last > first else range(0)
    for _ in threads.map(draw, blocks) if distribution.single_threaded else map(draw, blocks):
        pass
    if not whole_rows:
        part.values.copy_(rows[:, part.offsets[1] : part.offsets[1] + part.values.shape[1]])


def draw_block(block_N: Tensor, distribution: Distribution, seed: int, name: str, index: int) -> None:
    """Draws one block of the parameter of this name; `index` counts blocks from 0 along the flattened parameter."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    # torch's CPU generator uses the lower 32 bits of a seed: of 1,500 blocks (1.5e9 numbers), two are the same with
    # probability 0.0003.
    generator = torch.Generator().manual_seed(mix(seed, SeedDomain.INITIALISATION, key, index))
    distribution.draw(block_N, generator)


class _WithoutDrawing(TorchFunctionMode):
    """The random initialisers that constructors of torch.nn call do nothing."""

    _SKIPPED = (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._SKIPPED:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def undrawn(module_class: Callable[..., ModuleT], *args: Any, **kwargs: Any) -> ModuleT:
    """A module of torch.nn whose weights are uninitialised memory until what its caller declares is drawn."""
    with _WithoutDrawing():
        return module_class(*args, **kwargs)


def normal_linear(in_features: int, out_features: int, *, bias: bool, std: float) -> nn.Linear:
    """A linear layer with weights from N(0, std²) (zero where std is 0) and bias zero."""
    linear = undrawn(nn.Linear, in_features, out_features, bias=bias)
    declare(linear, weight=Normal(std) if std else Constant(0.0))
    if bias:
        declare(linear, bias=Constant(0.0))
    return linear


def uniform_linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer with weights and biases from U(-1/sqrt(in), 1/sqrt(in)): PyTorch's own (arXiv:1502.01852)."""
    linear = undrawn(nn.Linear, in_features, out_features, bias=bias)
    declare_uniform(linear, in_features)
    return linear


def uniform_convolution(in_channels: int, out_channels: int, kernel_size: int, **settings: Any) -> nn.Conv2d:
    """`nn.Conv2d` with weights and biases from U(-1/sqrt(in), 1/sqrt(in)), `in` the numbers that an output is the sum
    of: PyTorch's own (arXiv:1502.01852).
    """
    convolution = undrawn(nn.Conv2d, in_channels, out_channels, kernel_size, **settings)
    declare_uniform(convolution, convolution.weight[0].numel())
    return convolution


def normal_embedding(num_embeddings: int, width: int, *, std: float) -> nn.Embedding:
    """An embedding table with entries from N(0, std²)."""
    embedding = undrawn(nn.Embedding, num_embeddings, width)
    declare(embedding, weight=Normal(std))
    return embedding


def kaiming_convolutions(module: nn.Module) -> None:
    """Weights of all convolutions in a module from N(0, 2 / fan_out), biases zero (arXiv:1502.01852): for ReLUs."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            declare(part, weight=Normal(math.sqrt(2 / part.weight[:, 0].numel())))
            if part.bias is not None:
                declare(part, bias=Constant(0.0))


def xavier_std(in_features: int, out_features: int) -> float:
    """sqrt(2 / (in + out)), which keeps the variance of activations and gradients (Glorot & Bengio 2010)."""
    return math.sqrt(2 / (in_features + out_features))


def residual_std(init: str, std: float, num_layers: int) -> float:
    """Standard deviation for projections that write to the residual stream.

    `scaled`: std / sqrt(2 L), so that the variance of the sum of 2 L terms does not grow with L (GPT-2, section 2.3).
    `zero`: 0, every block starts as the identity (Fixup, arXiv:1901.09321; muP recommends it too).
    """
    return {"scaled": std / math.sqrt(2 * num_layers), "zero": 0.0}[init]
