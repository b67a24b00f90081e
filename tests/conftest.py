"""Shared by all tests: one thread of torch, as two workers share two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
