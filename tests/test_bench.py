"""scripts/bench compares like with like: its peers compute the same losses, and what does not is not timed."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import json
import multiprocessing
import pickle
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
sys.path.append(str(SCRIPTS))

from benchmark import frameworks, plain, protocol, rows, sides, tables  # noqa: E402

from bigtrain.models.vision.config import ResNetConfig  # noqa: E402

TINY_TEXT: dict[str, Any] = {"batch": 4, "width": 32, "layers": 2, "heads": 2, "length": 16, "vocab": 67}
TINY: dict[str, rows.Row] = {
    "gpt": rows.GPT(**TINY_TEXT),
    "modern": rows.GPT(**TINY_TEXT, modern=True),
    "accumulating": rows.GPT(**TINY_TEXT, micro=2),
    "bert": rows.Bert(**TINY_TEXT),
    "lstm": rows.LSTM(**TINY_TEXT),
    "cnn": dataclasses.replace(rows.CPU_ROWS["cnn"], batch=8),
    "mlp": dataclasses.replace(rows.CPU_ROWS["mlp"], batch=8),
    "resnet": rows.Images(
        batch=8,
        shape=(3, 16, 16),
        optimizer="sgd",
        model=partial(ResNetConfig, depth=8),
        peer=partial(plain.resnet, 8, 3, 10),
    ),
    "bottleneck": rows.Images(
        batch=16,
        shape=(3, 64, 64),
        optimizer="sgd",
        gate=1,  # under so many norms of so small a batch rounding alone takes the next losses apart
        model=partial(ResNetConfig, depth=50, width=8),
        peer=partial(plain.resnet, 50, 3, 10, 8),
    ),
}
SHORT = protocol.Protocol(torch.device("cpu"), blocks=3, seconds=0.01, gate=3)
FASTEST = dataclasses.replace(SHORT, blocks=1, gate=2)


class Fake(frameworks.Framework):
    """A framework whose loop is the bare loop's."""

    def fit(self) -> None:
        optimizer = sides.make_optimizer(self.row, self.model)
        for batch in self.loader():
            loss = self.model(**batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), sides.CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            self.note(loss)
            self.step_done()


class Failing(Fake):
    """A framework that fails after its first turn."""

    def step_done(self) -> None:
        super().step_done()
        raise ValueError("no second turn")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program."""
    loader = importlib.machinery.SourceFileLoader("bench", str(SCRIPTS / "bench"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    monkeypatch.setattr(module, "importable", lambda folder: None)  # it is installed here
    return module


@pytest.mark.parametrize("name", TINY)
def test_the_bare_loop_is_the_same_training(name: str) -> None:
    result = protocol.measure(name, TINY[name], "fp32", ["bare"], FASTEST)
    bare = result["sides"]["bare"]
    assert bare["loss_gap"] < 1e-5
    assert len(bare["seconds"]) == len(result["sides"]["bigtrain"]["seconds"]) == 1


def test_every_peer_that_is_installed_takes_turns() -> None:
    names = ["bare", "lightning", "hf"]
    result = protocol.measure("gpt", TINY["gpt"], "fp32", names, SHORT)
    assert result["again"] == "bare" and result["auto"] == "fp32"
    for name in names:
        figures = result["sides"][name]
        if frameworks.missing(name):
            assert figures == {"error": f"not installed: {frameworks.missing(name)}"}
        else:
            assert figures["loss_gap"] < 2e-6 and len(figures["seconds"]) == 3


def test_a_framework_takes_turns_in_a_process_of_its_own(tmp_path: Path) -> None:
    row = TINY["mlp"]
    weights = [
        torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) / 30 for value in row.plain().parameters()
    ]
    batches = [row.data().dataset("train").gather(np.arange(start, start + 8)) for start in (0, 8)]
    built = (row, weights, batches, "fp32", torch.device("cpu"))
    side, bare = frameworks.Remote(Fake, built, tmp_path), sides.Loop(*built)
    for steps, kept in ((2, 2), (3, 4)):
        for one in (side, bare):
            one.keep = 4
            one.advance(steps)
        assert side.losses == pytest.approx([loss.item() for loss in bare.losses], rel=1e-6)
        assert len(side.losses) == kept and side.process.is_alive()
    side.close()
    assert side.process.exitcode == 0


def test_a_framework_that_fails_is_a_sentence_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "FRAMEWORKS", {"failing": (Failing, ())})
    result = protocol.measure("mlp", TINY["mlp"], "fp32", ["failing", "bare"], FASTEST)
    assert result["sides"]["failing"] == {"error": "ChildProcessError: ValueError: no second turn"}
    assert len(result["sides"]["bare"]["seconds"]) == 1
    assert multiprocessing.active_children() == []


def test_bf16_agrees_within_its_tolerance() -> None:
    result = protocol.measure("gpt", TINY["gpt"], "bf16", ["bare"], FASTEST)
    assert 0 < result["sides"]["bare"]["loss_gap"] < protocol.TOLERANCES["bf16"][1]


def test_sides_that_memory_has_no_room_for_are_measured_one_after_the_other(tmp_path: Path) -> None:
    session = protocol.Session("gpt", TINY["gpt"], "bf16", SHORT, tmp_path)
    session.run(["bare"], alone=True)
    assert session.sides == {} and session.result["again"] == "bare" and not session.result["interleaved"]
    assert {len(figures["seconds"]) for figures in session.result["sides"].values()} == {3}


def test_other_weights_or_a_failure_are_not_timed_and_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(peer: str, built: tuple[Any, ...], folder: Path) -> sides.Peer:
        if peer == "compiled":
            raise RuntimeError("no compiler")
        side = sides.Loop(*built)
        with torch.no_grad():
            side.model.tokens.weight[0, 0] += 1
        return side

    monkeypatch.setattr(protocol, "make_peer", disturbed)
    result = protocol.measure("gpt", TINY["gpt"], "fp32", ["compiled", "bare"], FASTEST)
    bare = result["sides"]["bare"]
    assert not bare["agrees"] and bare["first_gap"] > 1e-5 and "seconds" not in bare
    assert result["sides"]["compiled"] == {"error": "RuntimeError: no compiler"}
    assert len(result["sides"]["bigtrain"]["seconds"]) == 1
    assert tables.versus(result, "bare", "bigtrain").startswith("failed: losses differ by ")
    assert len(tables.failures({"rows": [result]})) == 2


def test_muon_is_timed_against_adamw() -> None:
    row = dataclasses.replace(TINY["gpt"], optimizer="muon", peers=("adamw",), gate=1)
    names = protocol.chosen_peers(row, SHORT, None)
    result = protocol.measure("muon", row, "bf16", names, FASTEST)
    assert result["sides"]["adamw"]["loss_gap"] == 0
    part = {"rows": [result], "ceiling_flops": {"bf16": 1e12}}
    assert "ms a step with Muon" in tables.optimizers(part)[0] and tables.like_for_like(part) == [
        "No row was measured."
    ]


def test_a_missing_or_infinite_loss_never_agrees() -> None:
    assert protocol.loss_gap([1.0, 2.0], [1.0, 2.02]) == pytest.approx(0.02 / 2.02)
    for losses in ([], [1.0], [1.0, float("nan")], [1.0, float("inf")]):
        assert protocol.loss_gap(losses, [1.0, 2.0]) == float("inf")


def test_kernels_and_launches_are_told_apart() -> None:
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    names = [("gemm", cuda), ("Memcpy HtoD", cuda), ("cudaLaunchKernel", cpu), ("cudaGraphLaunch", cpu), ("mm", cpu)]
    events = [SimpleNamespace(name=name, device_type=kind) for name, kind in names]
    assert protocol.count_kernels(events) == {"kernels": 2, "launches": 2}


def test_quick_leaves_the_frameworks_out_of_all_rows_but_one_unless_asked() -> None:
    quick, row = dataclasses.replace(SHORT, quick=True), TINY["gpt"]
    assert protocol.chosen_peers(row, SHORT, None) == ["bare", "lightning", "hf"]
    assert protocol.chosen_peers(row, quick, None) == ["bare"]
    assert protocol.chosen_peers(row, quick, ["hf"]) == ["hf"]
    complete = {name: protocol.chosen_peers(row, quick, None) for name, row in rows.CPU_ROWS.items() if row.quick}
    assert complete == {"gpt_4x128": ["bare", "lightning", "hf"]}


def test_quick_repeats_slow_steps_less_often() -> None:
    quick = dataclasses.replace(SHORT, quick=True)
    for how, expected, blocks in ((quick, 0.1, 3), (quick, 6.0, 2), (quick, 60.0, 1), (SHORT, 60.0, 3)):
        times = protocol.interleaved({"one": bool, "two": bool}, {"one": expected, "two": expected}, how)
        assert {len(seconds) for seconds in times.values()} == {blocks}


@pytest.mark.parametrize("name", [*rows.CPU_ROWS, *rows.GPU_ROWS])
def test_a_row_can_be_sent_to_another_process(name: str) -> None:
    row = (rows.CPU_ROWS | rows.GPU_ROWS)[name]
    sent = pickle.loads(pickle.dumps(row))
    assert type(sent) is type(row) and sent.units == row.units and sent.settings() == row.settings()


def result_of(row: str, precision: str, ours: float, bare: float, again: float, auto: float | None = None) -> Any:
    """A row's figures, in milliseconds."""
    times = {"bigtrain": ours, "bare": bare, "bare again": again} | ({} if auto is None else {"bigtrain auto": auto})
    figures: dict[str, Any] = {name: {"seconds": [ms / 1e3] * 5} for name, ms in times.items()}
    for name in figures:
        figures[name] |= {"gate_steps": 20, "first_steps_seconds": 1.0, "loss_gap": 1e-6, "agrees": True}
    figures["lightning"] = {"error": "not installed: lightning"}
    facts = {"row": row, "precision": precision, "units": 1000, "unit": "tokens", "flops": 1e9, "interleaved": True}
    return facts | {"auto": "bf16" if auto else "fp32", "again": "bare", "sides": figures}


def test_the_two_tables_are_never_mixed_and_noise_is_a_tie() -> None:
    results = [
        result_of("fast", "fp32", ours=10, bare=20, again=20.5, auto=5),
        result_of("fast", "bf16", ours=5, bare=10, again=10),
        result_of("even", "fp32", ours=10, bare=10.4, again=10.0),
        {"row": "broken", "precision": "fp32", "error": "RuntimeError: out of luck"},
    ]
    part = {"rows": results, "ceiling_flops": {"fp32": 1e12, "bf16": 2e12}}
    torn = result_of("torn", "fp32", ours=10, bare=15, again=15)
    torn["sides"]["bigtrain"]["seconds"][0] = 0.016  # the blocks do not agree on who is faster
    assert tables.versus(torn, "bare", "bigtrain").startswith("tie (1.50)")
    first = tables.like_for_like(part)
    assert len(first) == 5 and "auto" not in first[0]
    assert "| fast | fp32 | 10 | **2.00** · 20 | not installed | 2% | 0% | 100,000 tokens | 10% |" in first[2]
    assert "**2.00** · 10" in first[3] and "tie (1.04) · 10.4" in first[4]
    second = tables.defaults(part)
    assert len(second) == 4
    assert "| fast | bf16 | 5 | **4.00** · 20 |" in second[2] and "| even | fp32 | 10 | tie (1.04)" in second[3]
    assert tables.failures(part) == ["broken fp32: RuntimeError: out of luck"]


def test_a_gpu_has_columns_of_its_own() -> None:
    result = result_of("small", "bf16", ours=10, bare=20, again=20)
    result["sides"]["bigtrain"] |= {"kernels": 300, "launches": 4, "peak_bytes": 3 << 30}
    lines = tables.like_for_like({"rows": [result], "ceiling_flops": {"bf16": 1e12}})
    assert lines[0].endswith("| kernels | launches | GiB | first steps s |")
    assert lines[2].endswith("| 300 | 4 | 3.0 | 1.0 |")


def test_rows_that_the_time_is_too_short_for_are_left_out(bench: ModuleType) -> None:
    results = bench.row("gpt", TINY["gpt"], None, SHORT, deadline=0.0)
    assert [result["error"] for result in results] == ["left out: no time was left"] * 2


def test_a_run_writes_its_half_of_the_page(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "CPU_ROWS", {"gpt": TINY["gpt"], "mlp": TINY["mlp"]})
    monkeypatch.setattr(protocol, "Protocol", lambda device, **_: FASTEST)
    monkeypatch.setattr(protocol, "ceiling", lambda *_: 1e11)
    monkeypatch.setattr(bench, "HERE", tmp_path / "scripts")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/benchmarks.json").write_text('{"gpu": {"stays": true}}')
    monkeypatch.setattr(tables, "document", lambda parts: f"{sorted(parts)}")
    words = ["bench", "--rows", "gpt", "--peers", "bare", "--json", str(tmp_path / "figures.json"), "--write"]
    monkeypatch.setattr(sys, "argv", words)
    assert bench.main() == 0
    printed = capsys.readouterr()
    assert "### Like for like" in printed.out and "gpt fp32: timing bigtrain, bare, bare again" in printed.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [result["row"] for result in figures["rows"]] == ["gpt"] and figures["ceiling_flops"]["bf16"] > 0
    assert json.loads((tmp_path / "docs/benchmarks.json").read_text()) == {"gpu": {"stays": True}, "cpu": figures}
    assert (tmp_path / "docs/benchmarks.md").read_text() == "['cpu', 'gpu']"


def test_no_gpu_and_no_such_row_are_sentences(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, code, sentence in ((["--gpu"], 5, "none is visible"), (["--rows", "vgg"], 2, "there is no vgg")):
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        assert bench.main() == code
        assert sentence in capsys.readouterr().err


def test_the_page_is_what_its_figures_say() -> None:
    parts = json.loads((ROOT / "docs/benchmarks.json").read_text())
    assert (ROOT / "docs/benchmarks.md").read_text() == tables.document(parts)
