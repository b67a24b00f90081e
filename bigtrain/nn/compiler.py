"""Settings of torch.compile for all that is compiled here."""

from __future__ import annotations

VARIANTS = 64  # of one function: shapes, dtypes, training and evaluation, settings of the runs of a sweep


def prepare_compiler() -> None:
    """Call before `torch.compile`. Imports the compiler, 0.6 s.

    By default torch runs the ninth variant of a function eagerly, with no more than a line in its log. Dropout masks
    are those of eager mode: the compiler's own were wrong (pytorch#198333).
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    dynamo.recompile_limit = VARIANTS
    inductor.fallback_random = True
