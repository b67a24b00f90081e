"""What a run leaves on disk: durable writing, the run directory with its lock and status, checkpoints. No torch."""
