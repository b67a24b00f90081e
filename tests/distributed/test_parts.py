"""Tensors that are split over ranks: drawn, exchanged, averaged, in low precision, and seen by others' optimizers."""

from pathlib import Path

import pytest

from .ranks import run_ranks


@pytest.mark.slow
def test_two_ranks_agree_with_whole_tensors(tmp_path):
    run_ranks(Path(__file__).with_name("parts_worker.py"), 2, tmp_path, timeout=600)
