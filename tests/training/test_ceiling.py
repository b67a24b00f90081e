"""The ceiling only rises; whatever lies in its file, training goes on."""

import json

import pytest

from bigtrain.training.ceiling import largest_seen


def test_a_measurement_in_a_busy_moment_does_not_lower_the_ceiling(tmp_path):
    file = tmp_path / "cache" / "machine.json"
    assert [largest_seen(file, "a", flops) for flops in (2e11, 1e11, 3e11, 2.5e11)] == [2e11, 2e11, 3e11, 3e11]
    assert largest_seen(file, "b", 1e9) == 1e9
    assert json.loads(file.read_text()) == {"a": 3e11, "b": 1e9}


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{", '{"a": "fast"}', '{"a": 1e999}', '{"a": NaN}', '{"a": -5.0}', "[" * 60_000, "x" * 70_000],
)
def test_a_damaged_file_counts_as_empty(tmp_path, content):
    file = tmp_path / "machine.json"
    file.write_text(content)
    assert largest_seen(file, "a", 1e11) == 1e11
    assert largest_seen(file, "a", 1e10) == 1e11


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert largest_seen(tmp_path / "cache" / "machine.json", "a", 1e11) == 1e11
