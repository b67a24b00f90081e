"""Speed from one logged row to the next."""

from bigtrain.training.speed_meter import SpeedMeter, Throughput


def test_a_reading_covers_what_came_since_the_last():
    meter = SpeedMeter(Throughput(8, 128, flops_per_sample=10.0, peak_flops=400.0), step=0, train_seconds=0.0)
    assert meter.read(0, 0.0) == {}
    meter.read(4, 1.0)
    assert meter.read(10, 3.0) == {
        "perf/samples_per_second": 24.0,
        "perf/step_seconds": 2 / 6,
        "perf/data_wait": 0.0,
        "perf/tokens_per_second": 384.0,
        "perf/share_of_peak": 0.6,
    }


def test_a_step_that_is_faster_than_the_measured_peak_is_all_of_it():
    meter = SpeedMeter(Throughput(8, None, flops_per_sample=10.0, peak_flops=400.0), step=2, train_seconds=1.0)
    row = meter.read(12, 2.0)
    assert row["perf/share_of_peak"] == 1.0 and "perf/tokens_per_second" not in row
    assert [Throughput(8, None, 10.0, peak).share_of_peak(20.0) for peak in (800.0, 100.0, None)] == [0.25, 1.0, None]


def test_work_is_counted_in_samples_and_tokens():
    assert Throughput(2.5, 40.0, 1.0, None).work(3) == {"samples": 8, "tokens": 120}
    assert Throughput(2.5, None, 1.0, None).work(3) == {"samples": 8}
