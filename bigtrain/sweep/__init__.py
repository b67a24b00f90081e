"""Several runs from one command line: how its jobs are started, and how they did. Nothing here imports torch."""
