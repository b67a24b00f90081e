"""CIFAR's binary files are read exactly, from a directory or the archive, or refused with file and byte."""

import gzip
import io
import random
import tarfile

import numpy as np
import pytest

import bigtrain.data.images.cifar as cifar
import bigtrain.data.images.cifar_files as cifar_files
from bigtrain.data.images.config import CIFAR10Config, CIFAR100Config
from bigtrain.errors import DataError
from tests.data import small_cifar
from tests.data.small_cifar import LAYOUTS, shrink

CONFIGS = {"cifar10": CIFAR10Config, "cifar100": CIFAR100Config}


@pytest.fixture(autouse=True)
def few_records(monkeypatch):
    shrink(monkeypatch)


def records(version):
    """File name → records (N, bytes)."""
    return small_cifar.records(LAYOUTS[version.upper()])


@pytest.fixture(params=CONFIGS)
def version(request):
    return request.param


@pytest.fixture
def folder(tmp_path, version):
    folder = small_cifar.write(tmp_path, LAYOUTS[version.upper()])
    (folder / "readme.html").write_text("<html>")
    return folder


def build(version, path, **settings):
    return cifar.CIFAR(CONFIGS[version](path=str(path), **settings))


def packed(folder, extra=()):
    """The folder as an archive beside it, with more (name, content or member)."""
    path = folder.parent / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
        for name, content in extra:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def refusal(version, path):
    with pytest.raises(DataError) as caught:
        build(version, path)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_link_to_nothing_is_named(folder, version):
    path = folder / next(iter(LAYOUTS[version.upper()].test))
    path.unlink()
    path.symlink_to("gone.bin")
    assert (
        f"can't read {path}" in (said := refusal(version, folder)) and "link to gone.bin, which leads nowhere" in said
    )


def test_images_labels_and_splits(folder, version):
    data = build(version, folder, val_fraction=0)
    files = records(version)
    expected = np.concatenate([files[name] for name in LAYOUTS[version.upper()].train])
    train = data.dataset("train").gather(np.arange(100))
    np.testing.assert_array_equal(train["images"].flatten(1), expected[:, -3072:])
    np.testing.assert_array_equal(train["labels"], expected[:, -3073])
    assert data.spec.sizes == {"train": 100, "test": 20} and data.spec.input_shape == (3, 32, 32)
    assert train["images"].shape == (100, 3, 32, 32)
    test = data.dataset("test").gather(np.array([7]))
    np.testing.assert_array_equal(test["images"].flatten(), [*files.values()][-1][7, -3072:])
    assert data.spec.num_classes == len(data.spec.labels) == {"cifar10": 10, "cifar100": 100}[version]
    assert build(version, folder).spec.sizes == {"train": 83, "val": 17, "test": 20}


def test_the_archive_and_the_folder_above_are_the_same_data(folder, version):
    spec = build(version, folder).spec
    assert build(version, folder.parent).spec == spec
    assert build(version, packed(folder, [("../../escape.bin", b"x"), ("/etc/passwd", b"x")])).spec == spec
    assert not (folder.parent.parent / "escape.bin").exists()


def test_class_names_are_known_or_read(folder, version):
    coarse = {} if version == "cifar10" else {"coarse": True}
    known = cifar.CIFAR10.labels[0].names if version == "cifar10" else tuple(map(str, range(20)))
    assert build(version, folder, **coarse).spec.labels == known
    name = "batches.meta.txt" if version == "cifar10" else "coarse_label_names.txt"
    names = [f"class_{index}" for index in range(len(known))]
    (folder / name).write_text("\n".join(names) + "\n\n")
    assert build(version, folder, **coarse).spec.labels == tuple(names)
    (folder / name).write_text("\n".join(names[1:]))
    with pytest.raises(DataError, match=rf"{name} names {len(names) - 1} classes, where there are {len(names)}"):
        build(version, folder, **coarse)
    (folder / name).write_bytes(b"caf\xe9 " * len(names))
    with pytest.raises(DataError, match="not UTF-8 at byte 3"):
        build(version, folder, **coarse)


@pytest.mark.parametrize("archived", [False, True])
def test_a_file_of_another_size_is_named_with_its_bytes(folder, version, archived):
    name, content = next(iter(records(version).items()))
    size = content.size
    for changed, said in (
        (content.tobytes()[:-1], f"ends after {size - 1:,} of {size:,} bytes"),
        (content.tobytes() + b"x", f"goes on after the {size:,} bytes"),
    ):
        (folder / name).write_bytes(changed)
        assert f"{name} {said}" in refusal(version, packed(folder) if archived else folder)
    (folder / name).unlink()
    assert f"lacks {name}" in refusal(version, packed(folder) if archived else folder)


def test_a_label_that_is_none_is_named_with_its_byte(folder, version):
    name, content = next(iter(records(version).items()))
    content[3, 0] = 200
    (folder / name).write_bytes(content.tobytes())
    at = 3 * content.shape[1]
    assert f"{name} has label 200 at byte {at:,}; they go to" in refusal(version, folder)


def test_the_version_with_pickles_is_refused(tmp_path, version):
    folder = tmp_path / "python"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch") if version == "cifar10" else ("train", "test", "meta"):
        (folder / name).write_bytes(b"\x80\x02}q")
    for path in (folder, packed(folder)):
        said = refusal(version, path)
        assert "pickles, which can run code" in said and "download the binary version" in said


def test_what_is_not_there(tmp_path, version):
    assert "nowhere does not exist" in refusal(version, tmp_path / "nowhere")
    with pytest.raises(DataError, match="no path was given"):
        cifar.CIFAR(CONFIGS[version]())


def test_a_link_in_the_archive_is_not_followed(folder, version):
    name = next(iter(records(version)))
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert f"lacks {name}" in refusal(version, packed(folder))


def test_a_damaged_archive_is_refused(folder, version):
    good = packed(folder).read_bytes()
    path, draw = folder.parent / "bad.tar.gz", random.Random(0)
    for _ in range(40):
        content = bytearray(good)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content if draw.random() < 0.5 else content[: draw.randrange(len(content))])
        try:
            spec = build(version, path).spec
        except DataError as error:
            assert str(path) in str(error)
        else:  # a bit of a gzip header that means nothing
            assert spec == build(version, folder).spec
    path.write_bytes(b"not an archive")
    assert "can't read" in refusal(version, path)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, version, monkeypatch):
    monkeypatch.setattr(cifar_files, "_ARCHIVE_LIMIT_BYTES", 1 << 20)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40  # tarfile would read it whole
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20))
    assert "it unpacks to more than" in refusal(version, tmp_path / "bomb.tar.gz")
