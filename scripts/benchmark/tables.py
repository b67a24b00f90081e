"""From figures to tables: for the terminal, and docs/benchmarks.md, which is rendered whole from docs/benchmarks.json.

Two tables, never mixed: like for like (both sides in one number format), and everyone's defaults (the peers in fp32,
bigtrain as `trainer.precision=auto` chooses).
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmark.protocol import AGAIN, AUTO, OURS

Result = dict[str, Any]
TITLES = {"compiled": "compiled loop", "bare": "bare loop", "lightning": "Lightning", "hf": "HF Trainer"}
MARKS = (
    "Cells of peers: their time divided by bigtrain's (above 1, bigtrain is faster) and their milliseconds a step. "
    "tie: within the noise of that row, which is how far two runs of one peer (A/A) lie apart, or the blocks do not "
    "agree on who is faster. Spread: of bigtrain's blocks, (slowest - fastest) / median. Loss gap: the largest "
    "relative difference of the compared losses."
)


def milliseconds(figures: Result) -> float:
    """The median of the blocks."""
    return 1e3 * statistics.median(figures["seconds"])


def floor(result: Result) -> float:
    """The noise of a row: how far the ratios of one peer's blocks, timed twice in each round, lie from 1."""
    again = result.get("again")
    if again is None:
        return 0.0
    pairs = zip(result["sides"][again]["seconds"], result["sides"][again + AGAIN]["seconds"], strict=True)
    ratios = [first / second for first, second in pairs]
    return max(abs(statistics.median(ratios) - 1), statistics.median(abs(ratio - 1) for ratio in ratios))


def versus(result: Result, peer: str, ours: str) -> str:
    """A peer's cell beside one of bigtrain's sides."""
    figures = result["sides"].get(peer)
    if figures is None:
        return ""
    if "error" in figures:
        return figures["error"].partition(":")[0] if figures["error"].startswith("not installed") else "failed"
    if "seconds" not in figures:
        return f"failed: losses differ by {figures['loss_gap']:.0e}"
    ratio = milliseconds(figures) / milliseconds(result["sides"][ours])
    pairs = zip(figures["seconds"], result["sides"][ours]["seconds"], strict=True)
    verdicts = {theirs > mine for theirs, mine in pairs}
    tie = abs(ratio - 1) <= floor(result) or len(verdicts) == 2
    return f"{f'tie ({ratio:.2f})' if tie else f'**{ratio:.2f}**'} · {milliseconds(figures):.3g}"


def measured(results: list[Result]) -> list[Result]:
    """Those in which bigtrain was timed."""
    return [result for result in results if "seconds" in result.get("sides", {}).get(OURS, {})]


def peers_of(results: list[Result]) -> dict[str, str]:
    """The columns: peers that any row has, with their titles."""
    return {peer: title for peer, title in TITLES.items() if any(peer in result["sides"] for result in results)}


def like_for_like(part: Result) -> list[str]:
    """The lines of the first table."""
    results = [result for result in measured(part["rows"]) if "adamw" not in result["sides"]]
    peers = peers_of(results)
    on_gpu = any("kernels" in result["sides"][OURS] for result in results)
    header = ["row", "precision", "bigtrain ms", *peers.values(), "noise", "spread"]
    header += ["a second", "of ceiling", "loss gap"]
    header += ["kernels", "launches", "GiB", "first steps s"] if on_gpu else ["first steps s"]
    return table(header, [like_for_like_row(part, result, list(peers), on_gpu) for result in results])


def like_for_like_row(part: Result, result: Result, peers: list[str], on_gpu: bool) -> list[str]:
    """The cells of a row."""
    sides, ours = result["sides"], result["sides"][OURS]
    ms = milliseconds(ours)
    gaps = [figures["loss_gap"] for name, figures in sides.items() if "loss_gap" in figures and name != AUTO]
    share = result["flops"] / (ms / 1e3) / part["ceiling_flops"][result["precision"]]
    cells = [result["row"] + ("" if result["interleaved"] else " (not interleaved)"), result["precision"], f"{ms:.3g}"]
    cells += [versus(result, peer, OURS) for peer in peers]
    spread = (max(ours["seconds"]) - min(ours["seconds"])) / statistics.median(ours["seconds"])
    cells += [f"{floor(result):.0%}", f"{spread:.0%}"]
    cells += [f"{result['units'] / (ms / 1e3):,.0f} {result['unit']}", f"{share:.0%}"]
    cells.append(f"{max(gaps):.0e} of {ours['gate_steps']}" if gaps else "")
    if on_gpu:
        cells += [str(ours["kernels"]), str(ours["launches"]), f"{ours['peak_bytes'] / 2**30:.1f}"]
    return [*cells, f"{ours['first_steps_seconds']:.1f}"]


def defaults(part: Result) -> list[str]:
    """The lines of the second table."""
    results = [result for result in measured(part["rows"]) if result["precision"] == "fp32"]
    results = [result for result in results if AUTO not in result["sides"] or "seconds" in result["sides"][AUTO]]
    peers = peers_of(results)
    rows = []
    for result in results:
        ours = AUTO if AUTO in result["sides"] else OURS
        share = result["flops"] / (milliseconds(result["sides"][ours]) / 1e3)
        precision = result.get("auto", "fp32")
        cells = [result["row"], precision, f"{milliseconds(result['sides'][ours]):.3g}"]
        cells += [versus(result, peer, ours) for peer in peers]
        rows.append([*cells, f"{floor(result):.0%}", f"{share / part['ceiling_flops'][precision]:.0%}"])
    return table(["row", "auto is", "bigtrain ms", *peers.values(), "noise", "of ceiling"], rows)


def optimizers(part: Result) -> list[str]:
    """What Muon costs a step."""
    lines = []
    for result in measured(part["rows"]):
        if "seconds" in result["sides"].get("adamw", {}):
            muon, adamw = milliseconds(result["sides"][OURS]), milliseconds(result["sides"]["adamw"])
            lines.append(
                f"{result['row']}: {muon:.3g} ms a step with Muon, {adamw:.3g} ms with AdamW: {muon / adamw:.2f}."
            )
    return lines


def failures(part: Result) -> list[str]:
    """A line for every row or side that failed, and for rows left out."""
    lines = []
    for result in part["rows"]:
        where = f"{result['row']} {result['precision']}"
        if "error" in result:
            lines.append(f"{where}: {result['error']}")
        for name, figures in result.get("sides", {}).items():
            if "error" in figures and not figures["error"].startswith("not installed"):
                lines.append(f"{where}, {name}: {figures['error']}")
            elif figures.get("agrees") is False:
                lines.append(f"{where}, {name}: the losses differ by {figures['loss_gap']:.1e}, so it was not timed")
    return lines


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    if not rows:
        return ["No row was measured."]
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]


def section(part: Result) -> list[str]:
    """A machine's two tables."""
    ceilings = ", ".join(f"{name} {flops / 1e12:.3g}" for name, flops in part["ceiling_flops"].items())
    versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
    lines = [
        f"{part['date']}, {part['machine']}; {versions}. Ceiling, TFLOP/s: {ceilings}.",
        "",
        "### Like for like",
        "",
        *like_for_like(part),
        "",
        "### Everyone's defaults",
        "",
        "Another number format is another recipe: these ratios are no property of the code alone.",
        "",
        *defaults(part),
    ]
    for title, found in (("Muon", optimizers(part)), ("Failed or left out", failures(part))):
        if found:
            lines += ["", f"### {title}", "", *(f"- {line}" for line in found)]
    return lines


NOT_MEASURED = {
    "cpu": ["Not measured yet: `scripts/bench --write`."],
    "gpu": [
        "Not measured yet with this version: `scripts/bench --gpu --write`. The last figures are of 2026-11-28, commit "
        "a521013, on an H100 80GB (torch 2.11, bf16 ceiling 789 TFLOP/s), and no claim about today's code: GPT-2 124M "
        "at T 1024, B 16 ran at 172k tokens/s (19 % of the ceiling) where nanoGPT's own benchmark ran at 430k (47 %); "
        "1.5B at B 8 at 43 %; two layers of width 128 at 641k tokens/s.",
    ],
}
METHOD = """\
# Benchmarks

Written by `scripts/bench --write`; figures: [benchmarks.json](benchmarks.json). How to run it: `scripts/bench --help`.

- A figure is a ratio of two sides in one sitting: blocks of steps in turns, A B C A B C…, medians.
- Every peer trains the same plain PyTorch model from bigtrain's initial weights, on the same batches in the same order,
  with the same fused AdamW (with batch norm: SGD) and clipping, without dropout.
- A side is timed only if its first losses agree with bigtrain's: the very first, before any update, within 1e-5 in fp32
  (TF32: 1e-3, bf16: 5e-3), and all of the first 20 within 1e-3 (TF32: 5e-3, bf16: 2e-2), relative. Rows of
  slow steps, and `--quick`, may compare fewer.
- Peers: a loop of one page (bare; on a GPU also compiled as a whole), Lightning's and Hugging Face's Trainer, timed
  inside their own loops, with logging, checkpoints and progress bars off, each in a process of its own that sleeps
  between its turns. Their batches lie ready in memory (of images: the pixels, normalised in the step); bigtrain's come
  from its own loader. `--quick` measures the two frameworks for one row only (gpt_4x128; on a GPU: transformer).
- Of ceiling: FLOPs of a step (GPT: 6 N + 12 L D T a token; otherwise as counted) over its time, as a share of what the
  fastest product of random numbers reached in the same run. On a GPU, fp32 products are TF32 on all sides."""


def document(parts: Result) -> str:
    """docs/benchmarks.md."""
    lines = [METHOD, "", MARKS]
    for name, title in (("cpu", "On a CPU"), ("gpu", "On a GPU")):
        lines += ["", f"## {title}", "", *(section(parts[name]) if name in parts else NOT_MEASURED[name])]
    return "\n".join(lines) + "\n"


def write(docs: Path, name: str, part: Result) -> None:
    """Replaces the figures of "cpu" or "gpu" in docs/benchmarks.json, and renders docs/benchmarks.md."""
    file = docs / "benchmarks.json"
    parts = json.loads(file.read_text()) if file.exists() else {}
    parts[name] = part
    file.write_text(json.dumps(parts, indent=1) + "\n")
    (docs / "benchmarks.md").write_text(document(parts))
