"""What a run is told about beside its own numbers: baselines to hold them against."""
