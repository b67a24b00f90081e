"""Shared by all tests: one thread of torch (two cores are shared by two workers), and a cache folder of the tests' own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
