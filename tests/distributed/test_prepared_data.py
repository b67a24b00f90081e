"""Ranks of one machine share what is prepared: one of them makes it, and all map the same files."""

import json
import sys
from pathlib import Path

import pytest

from .ranks import run_ranks


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_one_rank_tokenises_and_all_map_the_same_files(tmp_path):
    (tmp_path / "text.txt").write_text("It was a dark and stormy night. " * 20_000)
    run_ranks(Path(__file__).with_name("prepare_worker.py"), 2, tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["tokenised"] and not second["tokenised"]
    assert first["mapped"].keys() == {"train.npy", "val.npy", "test.npy"}
    assert second == first | {"tokenised": []}  # the same inodes: one copy in the page cache
