"""The audit in short, before a training: what is found in about a second, once; kept beside the prepared data.

Left out where nothing can leak by mistake, because the best possible result is known (synthetic data), and where the
data is so large that it would be waited for.
"""

from __future__ import annotations

import math
import warnings

from bigtrain.config.kinds import Audit, DataConfig
from bigtrain.data.audit.audit import audit
from bigtrain.data.audit.findings import Report
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build

_VERSION = 1  # of the audit; part of the cache key
_MOST_SAMPLES = 150_000
_MOST_BYTES = 256 << 20


def short_audit(data: DataModule, config: DataConfig) -> Report | None:
    """Every check but that for near-duplicates; None where there is nothing to audit, or it is switched off."""
    spec = data.spec
    if config.audit is Audit.off or spec.optimal_loss is not None or spec.optimal_accuracy is not None:
        return None
    if is_larger(spec, _MOST_SAMPLES, _MOST_BYTES):
        size = sum(spec.sizes.values())
        skipped = f"{size:,} samples are too many to be audited before a training: bigtrain check-data does it"
        return Report(spec.kind, dict(spec.sizes), config.audit_limit, (), skipped=(skipped,))
    root = cache_root(config.cache_dir)
    originals = data.originals
    key = fingerprint_of(_VERSION, originals.key if originals else "", spec.fingerprint, config.audit_limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cache that can't be written the data module has warned
        kept = load_or_build(root, "audit", key, lambda: Prepared(audit(data, config, near=False).to_json(), {}))
    return Report.from_json(kept.meta)


def is_larger(spec: DataSpec, samples: int, size_bytes: int) -> bool:
    """Whether data has more samples than that, or more bytes, a token being one: looking at each would take long."""
    size = sum(spec.sizes.values())
    return size > samples or size * _sample_bytes(spec) > size_bytes


def _sample_bytes(spec: DataSpec) -> int:
    return math.prod(spec.input_shape) if spec.input_shape else spec.sequence_length or 1
