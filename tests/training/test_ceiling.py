"""The ceiling only rises, and is measured where that may raise it; whatever lies in its file, training goes on."""

import json
import time

import pytest

from bigtrain.tracking.throughput import Peak
from bigtrain.training.ceiling import largest_seen


class Machine:
    """Measures what it is told to; counts how often."""

    def __init__(self, flops, undisturbed=True):
        self.peak, self.measurements = Peak(flops, undisturbed), 0

    def __call__(self):
        self.measurements += 1
        return self.peak


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "machine.json"


def test_a_measurement_in_a_busy_moment_does_not_lower_the_ceiling(file):
    busy = [largest_seen(file, "a", Machine(flops, undisturbed=False)) for flops in (2e11, 1e11, 3e11, 2.5e11)]
    assert busy == [2e11, 2e11, 3e11, 3e11]
    assert largest_seen(file, "b", Machine(1e9)) == 1e9
    kept = json.loads(file.read_text())
    assert {key: (entry["flops"], entry["undisturbed"]) for key, entry in kept.items()} == {
        "a": (3e11, False),
        "b": (1e9, True),
    }


def test_what_was_measured_undisturbed_is_good_for_a_day(file, monkeypatch):
    now = [1.8e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    largest_seen(file, "a", Machine(2e11))
    again = Machine(3e11)
    for now[0] in (1.8e9 + 1, 1.8e9 + 86_000):
        assert (largest_seen(file, "a", again), again.measurements) == (2e11, 0)
    for now[0] in (1.8e9 + 87_000, 1.8e9 - 100):  # a clock that was set back
        assert (largest_seen(file, "a", again), again.measurements) == (3e11, 1)
        again.measurements = 0


def test_with_another_torch_it_is_measured_again(file, monkeypatch):
    largest_seen(file, "a", Machine(2e11))
    monkeypatch.setattr("torch.__version__", "0.0")
    assert largest_seen(file, "a", Machine(3e11)) == 3e11


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", "{", '{"a": "fast"}', '{"a": 1e999}', '{"a": NaN}', '{"a": -5.0}', "[" * 60_000, "x" * 70_000),
        *('{"a": {}}', '{"a": {"flops": "fast"}}', '{"a": {"flops": -1.0}}', '{"a": null}'),
    ],
)
def test_a_damaged_file_counts_as_empty(tmp_path, content):
    file = tmp_path / "machine.json"
    file.write_text(content)
    assert largest_seen(file, "a", Machine(1e11)) == 1e11
    assert largest_seen(file, "a", Machine(1e10)) == 1e11


def test_the_number_of_an_earlier_version_is_kept_and_measured_beside(tmp_path):
    file = tmp_path / "machine.json"
    file.write_text('{"a": 2e11, "b": 5e10}')
    again = Machine(1e11)
    assert [largest_seen(file, "a", again) for _ in range(2)] == [2e11, 2e11]
    assert again.measurements == 1
    assert json.loads(file.read_text())["b"] == 5e10


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert largest_seen(tmp_path / "cache" / "machine.json", "a", Machine(1e11)) == 1e11
