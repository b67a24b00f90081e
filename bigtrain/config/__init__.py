"""Settings: the RunConfig tree, durations, composition and strictness. Nothing here imports torch."""
