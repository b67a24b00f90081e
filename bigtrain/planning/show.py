"""A plan for people: tables of parameters, memory, time and scaling, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bigtrain.planning.changes import PARTS
from bigtrain.planning.cost import StepCost
from bigtrain.planning.plan import Plan
from bigtrain.tracking.formatting import clock, memory, percent, scaled

_BAR = 6  # characters


def print_plan(console: Console, plan: Plan) -> None:
    """Prints all of it."""
    for item in plan_blocks(plan):
        console.print(item)


def plan_blocks(plan: Plan) -> Iterator[RenderableType]:
    """What is printed, from the top."""
    yield _parameters(plan)
    yield _memory(plan)
    yield _verdict(plan)
    if plan.changes:
        yield _changes(plan)
    yield _time(plan)
    if len(plan.scaling) > 1:
        yield _scaling(plan)
    for note in plan.notes:
        yield Text(f"note: {note}")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if any(columns) else box.SIMPLE, padding=(0, 1), show_header=any(columns))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _titled(title: str, table: Table, said: str = "") -> RenderableType:
    return Group(Text(title, style="bold"), table, *([Text(said, style="dim"), Text()] if said else []))


def _parameters(plan: Plan) -> RenderableType:
    counts, table = plan.parameters, _table("", "", "")
    parts = [("embedding", counts.embedding), (_blocks(plan), counts.blocks), ("head", counts.head)]
    for name, count in parts:
        table.add_row(name, f"{count:,}", percent(count / max(counts.total, 1)) if count else "")
    table.add_row("all", f"{counts.total:,}", scaled(counts.total))
    return _titled("Parameters", table)


def _blocks(plan: Plan) -> str:
    return f"{plan.step.num_blocks} blocks and norms" if plan.step.num_blocks else "layers"


def _memory(plan: Plan) -> RenderableType:
    setup = plan.setup
    samples = f"{setup.micro_batch} sample{'s' if setup.micro_batch > 1 else ''}"
    spread = f", {setup.strategy} over {setup.ranks} ranks" if setup.ranks > 1 else ""
    table = _table("", "")
    for part in PARTS:
        if plan.peak.get(part):
            table.add_row(part, memory(plan.peak[part]))
    table.add_row("all", memory(plan.needed), style="bold")
    table.add_row(f"there is ({plan.device.name})", memory(plan.available))
    table.add_row("a checkpoint, copied to the host", memory(plan.step.snapshot / setup.shards))
    return _titled(f"Memory of a rank at its peak: {samples} at a time, {setup.precision}{spread}", table)


def _verdict(plan: Plan) -> Text:
    setup, largest = plan.setup, plan.largest_micro_batch
    if plan.fits:
        share = plan.needed / plan.available
        said = f"It fits: {percent(share)} of what there is."
    else:
        said = f"It does not fit: {memory(plan.needed - plan.available)} too much."
    if largest is None:
        said += " No micro-batch does."
    elif largest == setup.share:
        said += f" So does a rank's whole share of the batch, {largest}, at a time."
    else:
        said += f" The largest micro-batch that does: trainer.micro_batch_size={largest}."
    return Text(said, style="green" if plan.fits else "yellow")


def _changes(plan: Plan) -> RenderableType:
    table = _table("overrides", "takes", "saves", "time of a step")
    for found in plan.changes:
        time = found.seconds / found.seconds_before - 1 if found.seconds_before else 0.0
        said = f"{time:+.0%}" if abs(time) >= 0.005 else "about the same"
        if found.change.learning:
            said += "; learns otherwise"
        table.add_row(" ".join(found.change.overrides), memory(found.needed), memory(plan.needed - found.needed), said)
    return _titled("What makes it fit, cheapest first", table)


def _time(plan: Plan) -> RenderableType:
    cost, setup, work = plan.cost, plan.setup, plan.work
    table = _table("", "a sample", "a step", "the run")
    steps, batch = plan.steps, setup.batch
    table.add_row("steps", "", "1", "?" if steps is None else f"{steps:,}")
    table.add_row("samples", "1", f"{batch:,}", "?" if steps is None else f"{steps * batch:,}")
    if (tokens := plan.tokens_per_sample) is not None:
        in_step = tokens * batch
        table.add_row("tokens", scaled(tokens), scaled(in_step), "?" if steps is None else scaled(steps * in_step))
    flops = work.flops_per_sample
    whole = "?" if steps is None else scaled(steps * batch * flops, "FLOP")
    table.add_row("arithmetic", scaled(flops, "FLOP"), scaled(flops * batch, "FLOP"), whole)
    sent = cost.sent * setup.ranks
    if sent:
        in_all = "" if steps is None else f"{memory(sent * steps)} in all"
        table.add_row("sent", "", f"{memory(cost.sent)} a rank", in_all)
    run = "?" if steps is None else clock(steps * cost.seconds)
    table.add_row("time", "", _seconds(cost.seconds), run)
    if steps is not None:
        hours = steps * cost.seconds / 3600 * setup.ranks
        if plan.work.sheet is not None:
            table.add_row("energy", "", "", f"{hours * plan.work.sheet.watts / 1000:,.1f} kWh")
        if plan.settings.price_per_gpu_hour is not None:
            table.add_row("price", "", "", f"{hours * plan.settings.price_per_gpu_hour:,.2f}")
    whose = "measured" if plan.device.is_here else "by its data sheet"
    stated = "as given" if plan.settings.share_of_peak else "usual for such a model, not measured: plan.measure=true"
    if plan.settings.measure:
        stated = "measured: steps of this training, on one rank"
    said = (
        f"time at {percent(work.share_of_peak)} ({stated}) of {scaled(work.peak_flops, 'FLOP/s')} ({whose}, "
        f"{setup.precision}) on each rank; bound by {cost.bound}; eager: compiled blocks move less memory"
    )
    return _titled("Work and time", table, said)


def _scaling(plan: Plan) -> RenderableType:
    table = _table("GPUs", "micro", "fits", "step", "bound", "sent", "the run", "eff.", "speed")
    for column in table.columns:
        column.no_wrap = True
    table.columns[4].justify = table.columns[8].justify = "left"
    first = plan.scaling[0][0]
    fastest = min(cost.seconds for cost, _ in plan.scaling)
    for cost, fits in plan.scaling:
        ranks = cost.setup.ranks
        efficiency = first.seconds * first.setup.ranks / (cost.seconds * ranks)
        table.add_row(
            str(ranks),
            str(cost.setup.micro_batch),
            "yes" if fits else "no",
            _seconds(cost.seconds),
            cost.bound,
            memory(cost.sent) if cost.sent else "",
            "?" if plan.steps is None else clock(plan.steps * cost.seconds),
            percent(efficiency),
            _bar(cost, fastest),
            style=None if fits else "dim",
        )
    return _titled(f"The same training, {plan.setup.batch:,} samples a step, on other numbers of GPUs", table)


def _bar(cost: StepCost, fastest: float) -> str:
    """In proportion to the speed, on a scale of doublings where one GPU is hundreds of times slower."""
    return "━" * max(1, round(_BAR * fastest / cost.seconds))


def _seconds(seconds: float) -> str:
    return clock(seconds) if seconds >= 100 else f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
