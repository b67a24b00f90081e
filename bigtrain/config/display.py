"""What `--help`, `--cfg`, `--info` and `--hydra-help` print.

`--cfg job` prints our own tree, which is what would run; the others but --help are Hydra's displays.
"""

from __future__ import annotations

import argparse
from typing import Any

from omegaconf import OmegaConf

from bigtrain.config.compose import Composition
from bigtrain.config.help import render_help
from bigtrain.config.hydra_adapter import hydra_display, offer_facts
from bigtrain.config.library import folders_of
from bigtrain.config.overrides import for_hydra
from bigtrain.config.saved import to_config
from bigtrain.config.schema import settings_classes
from bigtrain.errors import ConfigError, nearest


def display(composition: Composition, flags: argparse.Namespace) -> str:
    """The text that the flags ask for."""
    if flags.help:
        return render_help(composition)
    if flags.cfg == "job":
        return _config_text(composition, flags.package, flags.resolve)
    request = composition.request
    words = for_hydra(composition.overrides, composition.groups)
    return hydra_display(flags, request.root, words, folders_of(request), settings_classes())


def _config_text(composition: Composition, package: str | None, resolve: bool) -> str:
    if resolve:
        offer_facts(composition.choices)
        to_config(composition.tree)  # raises ConfigError for a reference that can't be resolved
    config: Any = composition.tree.config
    if package not in (None, "_global_"):
        config = OmegaConf.select(config, str(package))
        if config is None:
            near = nearest(str(package), map(str, composition.tree.config))
            fix = f"did you mean {near[0]} ?" if near else "bigtrain --cfg job shows all"
            raise ConfigError.of("CONFIG-KEY", f"-p {package}: there is no such node", fix=fix)
        if not OmegaConf.is_config(config):
            return f"{config}\n"
    return OmegaConf.to_yaml(config, resolve=resolve)
