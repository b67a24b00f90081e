"""The tracker: a sink that fails never ends a run, costs one warning, and leaves the other sinks alone."""

from __future__ import annotations

import pytest

from bigtrain.tracking.tracker import Sink, Tracker


class Broken(Sink):
    """Raises in one method."""

    def __init__(self, method: str, closing_fails: bool = False):
        self.calls = 0
        self.closed = 0
        self._closing_fails = closing_fails
        setattr(self, method, self._fail)

    def _fail(self, *_: object) -> None:
        self.calls += 1
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.closed += 1
        if self._closing_fails:
            raise OSError("still full")


def _whole_run(tracker: Tracker, facts, train_row) -> None:
    tracker.start(facts)
    for step in range(1, 6):
        tracker.step(step)
        tracker.scalars(train_row(step))
    tracker.text("val/sample", "text", 5)
    tracker.note("a checkpoint was written")
    tracker.hyperparameters({"seed": 0}, {"val/loss": 1.0})
    tracker.close()


@pytest.mark.parametrize("method", ["start", "step", "scalars", "text", "hyperparameters", "note"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("closing_fails", [False, True])
def test_a_failing_sink_gives_one_warning_and_the_others_go_on(
    method, place, closing_fails, facts, train_row, recorder
):
    broken = Broken(method, closing_fails)
    sinks = [recorder]
    sinks.insert(place, broken)
    _whole_run(Tracker(sinks), facts, train_row)
    assert broken.calls == 1
    assert broken.closed == 1  # its terminal or file is given back
    assert len(recorder.warnings()) == 1
    assert "Broken is switched off" in recorder.warnings()[0]
    assert "No space left on device" in recorder.warnings()[0]
    assert [row["step"] for (row,) in recorder.told("scalars")] == [1, 2, 3, 4, 5]
    assert recorder.told("step") == [(1,), (2,), (3,), (4,), (5,)]
    assert len(recorder.told("close")) == 1


def test_two_sinks_that_fail_at_once_give_two_warnings(facts, train_row, recorder):
    first, second = Broken("scalars"), Broken("scalars")
    _whole_run(Tracker([first, recorder, second]), facts, train_row)
    assert first.calls == second.calls == 1
    assert len(recorder.warnings()) == 2


def test_a_sink_that_fails_only_when_warned_ends_neither_the_run_nor_the_others(facts, train_row, recorder):
    scalars, note = Broken("scalars"), Broken("note")
    _whole_run(Tracker([note, scalars, recorder]), facts, train_row)
    assert scalars.calls == note.calls == 1
    assert len(recorder.warnings()) == 2


def test_a_failure_to_close_is_heard_by_the_console_and_closing_again_does_nothing(facts, train_row, recorder):
    tracker = Tracker([recorder, Broken("close")])
    _whole_run(tracker, facts, train_row)
    tracker.close()
    assert len(recorder.warnings()) == 1
    assert len(recorder.told("close")) == 1


def test_an_interrupt_is_not_swallowed(recorder):
    class Interrupting(Sink):
        def step(self, step: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tracker([Interrupting()]).step(1)
