"""`bigtrain plan`: what a training with the same overrides takes, before it runs. It makes no run directory."""

from __future__ import annotations

import warnings

from bigtrain.config.compose import Composed
from bigtrain.errors import ExitCode
from bigtrain.planning.config import PlannedRunConfig
from bigtrain.planning.plan import make_plan
from bigtrain.planning.show import print_plan
from bigtrain.tracking.console import SteadyConsole
from bigtrain.tracking.status_line import status_line


def run(composed: Composed) -> int:
    """Prints the plan; 0 whether it fits or not."""
    config: PlannedRunConfig = composed.config
    with status_line("Planning", ""), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        plan = make_plan(config, config.plan)
    print_plan(SteadyConsole(highlight=False), plan)
    return ExitCode.OK
