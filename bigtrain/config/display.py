"""What `--help`, `--cfg`, `--info` and `--hydra-help` print, and the scripts of `-sc`.

The config of a run is printed from our own tree, for that is what would run; the rest is Hydra's own display.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from bigtrain.config.compose import Composition, offer_hydra_facts
from bigtrain.config.help import render_help
from bigtrain.config.library import Request, search_path
from bigtrain.config.saved import to_config
from bigtrain.config.words import for_hydra
from bigtrain.errors import ConfigError, nearest


def display(composition: Composition, flags: argparse.Namespace) -> str:
    """The text that the flags ask for."""
    if flags.help:
        return render_help(composition)
    if flags.cfg == "job":
        return _config_text(composition, flags.package, flags.resolve)
    request = composition.request
    words = for_hydra(composition.overrides, composition.groups)
    with _hydra(request) as hydra, contextlib.redirect_stdout(io.StringIO()) as output:
        if flags.hydra_help:
            flags.overrides = words
            hydra.hydra_help(request.root, get_args_parser(), flags)
        elif flags.cfg:
            hydra.show_cfg(request.root, words, flags.cfg, flags.package, flags.resolve)
        else:
            hydra.show_info(flags.info, request.root, words)
    return output.getvalue()


def completion_script(action: str, shell: str) -> str:
    """The shell code of `-sc install=…` and `-sc uninstall=…`."""
    with _hydra(Request("train")) as hydra, contextlib.redirect_stdout(io.StringIO()) as output:
        hydra.shell_completion("train", [f"{action}={shell}"])
    return output.getvalue()


def _config_text(composition: Composition, package: str | None, resolve: bool) -> str:
    if resolve:
        offer_hydra_facts(composition)
        to_config(composition.tree)  # says what can't be resolved
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


@contextlib.contextmanager
def _hydra(request: Request) -> Any:
    """Hydra itself, for its displays only; it composes, but never runs anything."""
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2("bigtrain", search_path(request))
    finally:
        GlobalHydra.instance().clear()
