"""The settings `sweep.*` of each kind of `-m sweep=…`, read strictly off the overrides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from bigtrain.config.hydra_adapter import Override
from bigtrain.config.saved import checked
from bigtrain.config.settings import setting
from bigtrain.config.strict import StrictTree
from bigtrain.errors import ConfigError, Problem


@dataclasses.dataclass
class OptunaSettings:
    """TPE (arXiv:2304.11127), and a pruner that stops what falls behind."""

    trials: int = setting(20, "Runs in all.", at_least=1)
    n_jobs: int = setting(1, "Trials that run at the same time.", at_least=1)
    metric: str | None = setting(
        None, "Metric of the validation split to make best; it chooses the best weights too. Default: the task's own."
    )
    pruner: str = setting(
        "median",
        "What stops a trial early: median (worse than half of the finished ones at the same evaluation), halving "
        "(successive halving, arXiv:1810.05934: of every four the best one goes on) or none.",
        choices=("median", "halving", "none"),
    )
    startup_trials: int = setting(
        10, "Trials drawn at random before the sampler learns; the median pruner waits for as many.", at_least=0
    )
    seed: int = setting(0, "Seed of what is drawn.", at_least=0)


@dataclasses.dataclass
class ScalingSettings:
    """A grid over sizes and lengths of training, to which L(N, D) = E + A / N^alpha + B / D^beta is fitted."""

    budget_flops: float | None = setting(
        None, "Training FLOPs to recommend a size and tokens for. Default: ten times those of the largest run.", above=0
    )
    parameters: str = setting(
        "all",
        "What N counts: all parameters (arXiv:2203.15556), or non_embedding, without token and position tables "
        "(arXiv:2001.08361).",
        choices=("all", "non_embedding"),
    )
    irreducible_loss: float | None = setting(
        None, "E, where it is known: it is then not fitted, and a smaller grid is enough. In nat.", at_least=0
    )
    sizes: dict[str, Any] = setting(
        {}, "Settings that change together, a list each: {model.hidden_size:[64,128],model.num_layers:[2,4]}."
    )


KINDS = {"optuna": OptunaSettings, "scaling": ScalingSettings}
"""`sweep=` → its settings."""


def sweep_kind(overrides: Iterable[Override]) -> str | None:
    """optuna or scaling; optuna where there are sweep.* but no known sweep=; None without any."""
    values = {override.key_or_group: override.value() for override in overrides}
    if not any(key == "sweep" or key.startswith("sweep.") for key in values):
        return None
    chosen = values.get("sweep")
    return chosen if isinstance(chosen, str) and chosen in KINDS else "optuna"


def read_settings(overrides: Iterable[Override]) -> tuple[Any, list[Problem]]:
    """The settings that overrides of `sweep` and `sweep.*` give, and everything that is wrong with them."""
    overrides = list(overrides)
    kind = sweep_kind(overrides) or "optuna"
    tree = StrictTree.of("sweep", KINDS[kind], "a search" if kind == "optuna" else f"sweep={kind}")
    chosen = False
    for override in overrides:
        key, cause = override.key_or_group, f'command line, "{override.input_line}"'
        if override.is_sweep_override() or override.is_delete():
            tree.problems.append(Problem("CONFIG-SWEEP", f"{key} takes one value", cause, key=key))
        elif key != "sweep":
            tree.apply(override)
        elif not (chosen := override.value() == kind):
            fix = f"choices: {', '.join(KINDS)}; without sweep= every combination is a run"
            tree.problems.append(Problem("CONFIG-SWEEP", f"sweep={override.value()} is not a choice", cause, fix))
    if not chosen and not tree.problems:
        fix = "add " + " or ".join(f"sweep={name}" for name in KINDS)
        tree.problems.append(
            Problem("CONFIG-SWEEP", f"sweep.* goes with {' or '.join(f'sweep={n}' for n in KINDS)}", fix=fix)
        )
    try:
        return checked(tree).sweep, []
    except ConfigError as error:
        return KINDS[kind](), list(error.problems)
