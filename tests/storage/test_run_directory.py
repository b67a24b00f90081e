"""Which run a word such as `resume=auto` means."""

from bigtrain.storage.run_directory import RUN_DIR_VARIABLE, find_run_of_name


def begun(run):
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    return run


def test_the_newest_run_of_a_name_with_or_without_a_checkpoint(tmp_path):
    assert find_run_of_name(tmp_path / "a") is None
    begun(tmp_path / "a/2026-01-01_00-00-00-ffff")
    newest = begun(tmp_path / "a/2026-01-02_00-00-00-0000")
    (tmp_path / "a/2026-01-03_00-00-00-0000").mkdir()
    begun(tmp_path / "a2/2026-01-04_00-00-00-0000")
    begun(tmp_path / "a/sweeps/2026-01-05_00-00-00-0000/001")
    assert find_run_of_name(tmp_path / "a") == newest


def test_a_directory_that_is_named_for_the_run_comes_before_its_name(tmp_path, monkeypatch):
    begun(tmp_path / "a/2026-01-01_00-00-00-ffff")
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "job"))
    assert find_run_of_name(tmp_path / "a") is None
    begun(tmp_path / "job")
    assert find_run_of_name(tmp_path / "a") == tmp_path / "job"
