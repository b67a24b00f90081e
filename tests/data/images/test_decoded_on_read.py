"""Images that are decoded when they are read: the same as those decoded ahead, and what is wrong is said then."""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import bigtrain.data.images.decoded_on_read as decoded_on_read
from bigtrain.config.schema import register_parts
from bigtrain.data.audit.arrays import digest_samples
from bigtrain.data.images.config import ImageFolderConfig
from bigtrain.data.images.image_file import read_header, read_image
from bigtrain.errors import DataError, ExitCode
from bigtrain.models.vision.config import CNNConfig
from bigtrain.tasks.config import ClassificationConfig

from ...training.conftest import make_trainer, tiny_config  # noqa: F401 a fixture
from .test_image_folder import build, everything, fill, images, saved  # noqa: F401 fixtures

register_parts()


@pytest.mark.parametrize("settings", [{}, {"size": 4}, {"size": 9, "channels": 1}, {"skip_broken": True}])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_samples_splits_and_facts_are_those_of_images_decoded_ahead(tmp_path, build, settings, suffix):  # noqa: F811
    fill(tmp_path / "images", suffix=suffix, size=(12, 10))
    if "skip_broken" in settings:
        path = tmp_path / "images" / "dog" / f"007{suffix}"
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.warns(UserWarning, match="1 of 60 files are left out"):
            ahead, on_read = build(decode="ahead", **settings), build(decode="on_read", **settings)
    else:
        ahead, on_read = build(decode="ahead", **settings), build(decode="on_read", **settings)
    assert replace(ahead.spec, fingerprint="") == replace(on_read.spec, fingerprint="")
    assert ahead.spec.fingerprint != on_read.spec.fingerprint
    for split in ahead.spec.sizes:
        for one, other in zip(everything(ahead, split), everything(on_read, split), strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)
        assert np.array_equal(ahead.dataset(split).labels, on_read.dataset(split).labels)
    few = np.array([5, 0, 5, 11])
    assert np.array_equal(on_read.dataset("train").gather(few)["images"], ahead.dataset("train").gather(few)["images"])


def test_a_training_is_the_same(images, make_trainer):  # noqa: F811
    rows = []
    for decode in ("ahead", "on_read"):
        cache = str(images.parent / "cache")
        data = ImageFolderConfig(path=str(images), cache_dir=cache, size=8, decode=decode)
        model = CNNConfig(widths=[4, 8])
        trainer = make_trainer(tiny_config(model=model, data=data, task=ClassificationConfig()), decode)
        trainer.fit()
        rows.append(
            [{tag: row[tag] for tag in row if tag.startswith(("train", "val"))} for row in trainer.recorder.rows]
        )
    assert rows[0] == rows[1] and any("val/loss" in row for row in rows[0])


def test_auto_goes_by_the_bytes_of_all_images(images, build, monkeypatch):  # noqa: F811
    on_read = lambda **settings: isinstance(build(**settings).dataset("train"), decoded_on_read.FileSamples)  # noqa: E731
    assert not on_read() and not on_read(size=4)
    for settings, total in (({}, 60 * 3 * 6 * 5), ({"size": 4}, 60 * 3 * 16), ({"channels": 1}, 60 * 30)):
        monkeypatch.setattr(decoded_on_read, "MOST_BYTES", total)
        assert not on_read(**settings)
        monkeypatch.setattr(decoded_on_read, "MOST_BYTES", total - 1)
        assert on_read(**settings) and not on_read(decode="ahead", **settings)


def test_a_cached_start_reads_no_file_until_one_changes(images, build, monkeypatch):  # noqa: F811
    before, real, read = build(decode="on_read").spec, decoded_on_read.read_header, []
    monkeypatch.setattr(decoded_on_read, "read_header", lambda path, *rest: (read.append(path), real(path, *rest))[1])
    assert build(decode="on_read").spec == before and not read
    Image.new("RGB", (6, 5)).save(images / "cat" / "002.png")
    assert build(decode="on_read").spec.fingerprint != before.fingerprint
    assert len(read) == 60


def test_an_index_that_was_interrupted_goes_on_with_its_next_block(images, build, monkeypatch):  # noqa: F811
    monkeypatch.setattr(decoded_on_read, "_INDEXED", 16)
    real, read, fails = decoded_on_read.read_header, [], True

    def header(path, *rest):
        if fails and path.parent.name == "owl":
            raise KeyboardInterrupt
        read.append(path)
        return real(path, *rest)

    monkeypatch.setattr(decoded_on_read, "read_header", header)
    with pytest.raises(KeyboardInterrupt):
        build(decode="on_read")
    first, fails = len(read), False
    read.clear()
    whole = build(decode="on_read")
    assert first >= 32 and len(read) == 60 - 32
    monkeypatch.setattr(decoded_on_read, "_INDEXED", 1000)
    assert build(decode="on_read").spec == whole.spec


def test_mean_and_deviation_are_those_of_a_fixed_sample(images, build, monkeypatch):  # noqa: F811
    monkeypatch.setattr(decoded_on_read, "NORMALIZED", 10)
    real, read = decoded_on_read.read_image, []
    monkeypatch.setattr(decoded_on_read, "read_image", lambda path, *rest: (read.append(path), real(path, *rest))[1])
    first = build(decode="on_read").spec.normalization
    assert len(set(read)) == len(read) == 10
    assert build(decode="on_read").spec.normalization == first and len(read) == 10
    pixels = np.stack([np.asarray(Image.open(path)) for path in read]) / 255
    assert first["mean"] == pytest.approx(pixels.mean(axis=(0, 1, 2)))
    assert first["std"] == pytest.approx(pixels.std(axis=(0, 1, 2)))


def test_a_file_that_is_another_by_now_is_named_with_its_sample(images, build):  # noqa: F811
    data = build(decode="on_read")
    samples = data.dataset("val")
    third = everything(data, "val")[0][3]
    name = next(path for path in images.rglob("*.png") if np.array_equal(read_image(path, None, 3)[0], third))
    status, content = name.stat(), name.read_bytes()
    Image.new("RGB", (6, 5)).save(name)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError) as caught:
        samples.gather(np.arange(len(samples)))
    (problem,) = caught.value.problems
    assert problem.code == "DATA-CHANGED" and caught.value.exit_code == ExitCode.DATA
    assert str(name) in problem.message and "(sample 3 of val)" in problem.message
    samples.gather(np.array([0, 1, 2]))
    name.unlink()
    with pytest.raises(DataError, match="No such file"):
        samples.gather(np.array([3]))
    name.write_bytes(content)
    samples.gather(np.array([3]))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damage_behind_the_header_is_found_when_it_is_read(tmp_path, build, suffix):  # noqa: F811
    fill(tmp_path / "images", size=(40, 30), suffix=suffix)
    path = tmp_path / "images" / "dog" / f"007{suffix}"
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DataError, match="dog/007"):
        build(decode="ahead", size=20)
    with pytest.raises(DataError) as caught:  # of the mean, or of a step
        data = build(decode="on_read", size=20)
        for split in data.spec.sizes:
            everything(data, split)
    (problem,) = caught.value.problems
    assert problem.code == "DATA-IMAGE" and f"dog/007{suffix} (sample " in problem.message
    assert "data.skip_broken=true decodes every image before it begins" in problem.fix


def test_other_sizes_are_named_over_blocks_too(images, build, monkeypatch):  # noqa: F811
    Image.new("RGB", (30, 12)).save(images / "owl" / "005.png")
    for block in (1000, 7, 1):
        monkeypatch.setattr(decoded_on_read, "_INDEXED", block)
        with pytest.raises(DataError) as caught:
            build(decode="on_read")
        assert "owl/005.png has 30 x 12 pixels" in str(caught.value) and ".png has 6 x 5" in str(caught.value)
    assert build(decode="on_read", size=4).spec.input_shape == (3, 4, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [None, 5])
def test_a_header_has_the_shape_and_hash_of_the_image(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.new("RGB", (16, 8)), "a.jpg", exif=exif)
    pixels, content = read_image(path, size, 3)
    assert read_header(path, size, 3) == (pixels.shape, content)


def test_the_audit_reads_a_few_photographs_at_once(images, build, monkeypatch):  # noqa: F811
    data = build(decode="on_read")
    table = digest_samples(data)
    monkeypatch.setattr("bigtrain.data.audit.arrays._READ_BYTES", 7 * 98)
    again = digest_samples(data)
    assert all(np.array_equal(table[split].exact, again[split].exact) for split in table)
