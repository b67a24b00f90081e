"""Shared by all tests: one thread of torch, as two workers share two cores; the number of examples of a property."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("usual", max_examples=100, deadline=None)
settings.register_profile("full", max_examples=300, deadline=None)  # scripts/test --all
settings.load_profile("usual")
