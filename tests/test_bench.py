"""scripts/bench compares like with like: its peer computes the same losses, step after step."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_the_peer_is_the_same_training(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    loader = importlib.machinery.SourceFileLoader("bench", str(SCRIPTS / "bench"))
    bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench", loader))
    monkeypatch.setitem(sys.modules, "bench", bench)  # dataclasses look their module up
    loader.exec_module(bench)
    row = bench.Row(layers=2, width=32, heads=2, length=16, batch=4, vocab=67, steps=1)
    result = bench.measure("tiny", row, "fp32", torch.device("cpu"), quick=True)
    assert result["loss_gap"] < 1e-6
    assert {len(seconds) for seconds in result["seconds"].values()} == {3}
