"""Settings of the model; torch-free, because `bigtrain --help` and a refused typo read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.settings import setting
from bigtrain.registry import MODELS


@dataclass
class BagOfContextConfig(ModelConfig):
    """A language model that remembers the tokens before as fading averages."""

    consumes: ClassVar[tuple[str, ...]] = ("text",)
    generates: ClassVar[bool] = True

    hidden_size: int = setting(64, "Width D of embeddings and memory.", at_least=1)
    num_layers: int = setting(2, "Blocks, each with a memory of its own.", at_least=1)
    longest_memory: float = setting(32.0, "Tokens after which the slowest feature has lost half.", above=0)
    dropout: float = setting(0.0, "Probability of dropping what a block adds.", at_least=0, below=1)


MODELS.register("bag_of_context", BagOfContextConfig, factory="bag_of_context.model:BagOfContext")
