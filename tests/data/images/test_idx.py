"""IDX files are read exactly or refused with a sentence; the module finds, splits and describes them."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bigtrain.data.images.idx_file as idx_file
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.images.config import IDXConfig
from bigtrain.data.images.idx import IDXImages
from bigtrain.data.images.idx_file import read_idx
from bigtrain.data.permutation import permute
from bigtrain.errors import DataError
from tests.config.composing import composed

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("packed", [False, True])
def test_images_labels_and_splits(tmp_path, packed, write_idx_set):
    arrays = write_idx_set(tmp_path, packed=packed)
    data = IDXImages(IDXConfig(path=str(tmp_path)))
    assert data.spec.sizes == {"train": 50, "val": 10, "test": 20}
    assert data.spec.input_shape == (1, 5, 4) and data.spec.num_classes == 10
    assert data.spec.labels == tuple("0123456789") and data.tokenizer is None
    test = data.dataset("test").gather(np.array([3, 0, 3]))
    assert test["images"].shape == (3, 1, 5, 4) and test["images"].dtype is torch.uint8
    np.testing.assert_array_equal(test["images"][:, 0], arrays[NAMES[2]][[3, 0, 3]])
    assert test["labels"].tolist() == [3, 0, 3]
    parts = [data.dataset(split).gather(np.arange(data.spec.sizes[split])) for split in ("train", "val")]
    images = np.concatenate([part["images"].flatten(1) for part in parts])
    labels = np.concatenate([part["labels"] for part in parts])
    expected = arrays[NAMES[0]].reshape(60, -1)
    order, expected_order = np.lexsort(images.T), np.lexsort(expected.T)
    np.testing.assert_array_equal(images[order], expected[expected_order])
    np.testing.assert_array_equal(labels[order], arrays[NAMES[1]][expected_order])


def test_normalization_is_that_of_the_training_images_alone(tmp_path, write_idx_set):
    write_idx_set(tmp_path)
    data = IDXImages(IDXConfig(path=str(tmp_path)))
    images = data.dataset("train").gather(np.arange(50))["images"].numpy() / 255
    assert data.spec.normalization["mean"] == pytest.approx([images.mean()])
    assert data.spec.normalization["std"] == pytest.approx([images.std()])


def test_constant_images_can_be_normalised(tmp_path, write_idx_set, idx_bytes):
    write_idx_set(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(idx_bytes(np.full((60, 5, 4), 51)))
    assert IDXImages(IDXConfig(path=str(tmp_path))).spec.normalization == {
        "mean": [pytest.approx(0.2)],
        "std": [1.0],
    }


def test_colour_images(tmp_path, write_idx_set):
    arrays = write_idx_set(tmp_path, shape=(3, 5, 4))
    data = IDXImages(IDXConfig(path=str(tmp_path), val_fraction=0))
    assert data.spec.input_shape == (3, 5, 4) and len(data.spec.normalization["mean"]) == 3
    np.testing.assert_array_equal(data.dataset("train").gather(np.arange(60))["images"], arrays[NAMES[0]])
    with pytest.raises(DataError, match="data.val_fraction"):
        data.dataset("val")


def test_the_same_images_are_held_out_in_every_run(tmp_path, write_idx_set):
    write_idx_set(tmp_path)
    first, second = (IDXImages(IDXConfig(path=str(tmp_path))) for _ in range(2))
    assert first.spec == second.spec
    assert first.dataset("val").chosen.tolist() == second.dataset("val").chosen.tolist()
    write_idx_set(tmp_path, seed=1)
    assert IDXImages(IDXConfig(path=str(tmp_path))).spec.fingerprint != first.spec.fingerprint


@pytest.mark.parametrize("prefix", ["emnist-letters-", "kmnist-"])
def test_files_with_a_prefix_are_found_if_there_is_one_set(tmp_path, prefix, write_idx_set):
    write_idx_set(tmp_path, prefix=prefix, packed=True)
    config = IDXConfig(path=str(tmp_path))
    assert IDXImages(config).spec.sizes["test"] == 20
    write_idx_set(tmp_path, prefix="another-", train=30)
    with pytest.raises(DataError, match=r"(?s)more than one data set.*data\.prefix=another-"):
        IDXImages(config)
    assert IDXImages(IDXConfig(path=str(tmp_path), prefix=prefix)).spec.sizes["train"] == 50
    assert IDXImages(IDXConfig(path=str(tmp_path), prefix="another-")).spec.sizes["test"] == 20
    write_idx_set(tmp_path, train=66)  # without a prefix: no doubt
    assert IDXImages(config).spec.sizes["train"] == 55


def move(folder, place_of):
    for name in NAMES:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        place = folder / place_of(name)
        place.mkdir(parents=True)
        (place / name).write_bytes(content)


@pytest.mark.parametrize("below", [".", "archive"])
def test_files_in_folders_of_their_own_names_as_archives_unpack(tmp_path, below, write_idx_set):
    write_idx_set(tmp_path)
    expected = IDXImages(IDXConfig(path=str(tmp_path))).spec
    move(tmp_path, lambda name: f"{below}/{name}")
    assert IDXImages(IDXConfig(path=str(tmp_path))).spec == expected


def test_folders_as_torchvision_keeps_them(tmp_path, write_idx_set):
    for name, seed in (("MNIST", 0), ("FashionMNIST", 1)):
        (tmp_path / name / "raw").mkdir(parents=True)
        write_idx_set(tmp_path / name / "raw", seed=seed)
        write_idx_set(tmp_path / name / "raw", seed=seed, packed=True)  # both lie there
    expected = IDXImages(IDXConfig(path=str(tmp_path / "MNIST" / "raw"))).spec
    assert IDXImages(IDXConfig(path=str(tmp_path / "MNIST"))).spec == expected
    with pytest.raises(DataError, match=r"(?s)FashionMNIST/raw, .*/MNIST/raw.*data.path=.*FashionMNIST/raw"):
        IDXImages(IDXConfig(path=str(tmp_path)))
    (tmp_path / "FashionMNIST").rename(tmp_path / ".elsewhere")
    assert IDXImages(IDXConfig(path=str(tmp_path))).spec == expected


def test_what_is_found_at_the_top_wins(tmp_path, write_idx_set):
    write_idx_set(tmp_path, train=66)
    (tmp_path / "other").mkdir()
    write_idx_set(tmp_path / "other")
    assert IDXImages(IDXConfig(path=str(tmp_path))).spec.sizes["train"] == 55


def test_validation_has_each_class_that_has_two_images(tmp_path, write_idx_set, idx_bytes):
    write_idx_set(tmp_path, train=12)
    (tmp_path / NAMES[1]).write_bytes(idx_bytes(np.array([0] * 6 + [1] * 3 + [2] * 2 + [3])))
    (tmp_path / NAMES[3]).write_bytes(idx_bytes(np.arange(20) % 4))
    with pytest.warns(UserWarning) as said:
        data = IDXImages(IDXConfig(path=str(tmp_path)))
    labels = {split: data.dataset(split).labels.tolist() for split in ("train", "val")}
    assert sorted(labels["train"] + labels["val"]) == [0] * 6 + [1] * 3 + [2] * 2 + [3]
    assert {0, 1, 2} <= set(labels["train"]) and {0, 1, 2} <= set(labels["val"])
    lacking = "train" if 3 in labels["val"] else "val"
    assert f"{lacking} has no sample of 1 of the 4 classes (3)" in str(said[0].message)


@pytest.mark.parametrize("train", [240, 60])
def test_only_where_a_class_was_missing_the_draw_and_the_fingerprint_are_others(tmp_path, train, write_idx_set):
    arrays = write_idx_set(tmp_path, train=train)
    data = IDXImages(IDXConfig(path=str(tmp_path)))
    drawn = np.sort(permute(20240229, 0, np.arange(train), train)[: train // 6])
    stays = train == 240
    assert np.array_equal(data.dataset("val").chosen, drawn) is stays
    parts = [part if part.ndim == 1 else part[:, None] for part in (arrays[name].astype(np.uint8) for name in NAMES)]
    before = fingerprint_of(*parts, len(drawn), list("0123456789"))
    assert (data.spec.fingerprint == before) is stays


def test_a_link_to_nothing_and_a_file_that_changes_are_named(tmp_path, write_idx_set, monkeypatch):
    write_idx_set(tmp_path)
    path = tmp_path / NAMES[0]
    read = idx_file._read

    def disturbed(*arguments):
        values = read(*arguments)
        os.utime(path, ns=(0, 0))
        return values

    monkeypatch.setattr(idx_file, "_read", disturbed)
    with pytest.raises(DataError, match=rf"DATA-CHANGED.*{NAMES[0]} changed while it was being read"):
        IDXImages(IDXConfig(path=str(tmp_path)))
    monkeypatch.undo()
    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(DataError, match=rf"(?s){NAMES[0]}.*link to gone, which leads nowhere"):
        IDXImages(IDXConfig(path=str(tmp_path)))


@pytest.fixture
def emnist(tmp_path, write_idx_set):
    """A folder as EMNIST is unpacked: several sets, those of letters counted from 1; with their arrays."""
    sets = {"balanced": range(47), "letters": range(1, 27), "digits": range(10)}
    how = {"folder": tmp_path, "packed": True, "train": 188}
    return tmp_path, {
        name: write_idx_set(prefix=f"emnist-{name}-", labels=labels, seed=len(labels), **how)
        for name, labels in sets.items()
    }


def data_of(choice, *words):
    return IDXImages(composed("model=cnn", f"data={choice}", *words).config.data)


def test_emnist_balanced_is_chosen_upright_and_named(emnist):
    folder, arrays = emnist
    data = data_of("emnist", f"data.path={folder}", "data.val_fraction=0")
    assert data.spec.num_classes == 47 and data.spec.input_shape == (1, 4, 5)
    assert "".join(data.spec.labels) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
    train = data.dataset("train").gather(np.arange(188))
    np.testing.assert_array_equal(train["images"][:, 0], arrays["balanced"][NAMES[0]].transpose(0, 2, 1))
    assert train["labels"].tolist() == arrays["balanced"][NAMES[1]].tolist()
    lying = data_of("emnist", f"data.path={folder}", "data.val_fraction=0", "data.transpose=false")
    assert lying.spec.input_shape == (1, 5, 4) and lying.spec.fingerprint != data.spec.fingerprint


def test_emnist_letters_count_from_one(emnist):
    folder, arrays = emnist
    data = data_of("emnist_letters", f"data.path={folder}")
    assert "".join(data.spec.labels) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ" and data.spec.num_classes == 26
    test = data.dataset("test").gather(np.arange(20))
    assert test["labels"].tolist() == (arrays["letters"][NAMES[3]] - 1).tolist()
    assert [data.spec.labels[label] for label in test["labels"][:3]] == ["A", "B", "C"]
    numbered = data_of("emnist_letters", f"data.path={folder}", "data.labels=[]").spec.labels
    assert numbered == tuple(map(str, range(1, 27)))
    with pytest.raises(DataError, match=r"it has label 1; data\.first_label is 2"):
        data_of("emnist_letters", f"data.path={folder}", "data.first_label=2")


def test_another_set_needs_names_of_its_own(emnist):
    folder, _ = emnist
    with pytest.raises(DataError, match=r"its labels end at 9; data\.labels names 47 classes, 0 to 46"):
        data_of("emnist", f"data.path={folder}", "data.prefix=emnist-digits-")
    digits = data_of("emnist", f"data.path={folder}", "data.prefix=emnist-digits-", "data.labels=[]")
    assert digits.spec.labels == tuple("0123456789")


def test_a_set_that_is_not_there_is_named_with_those_that_are(emnist):
    folder, _ = emnist
    with pytest.raises(DataError) as caught:
        data_of("emnist", f"data.path={folder}", "data.prefix=emnist-mnist-")
    assert "lacks emnist-mnist-train-images-idx3-ubyte" in str(caught.value)
    assert "begins with emnist-balanced-, emnist-digits-, emnist-letters-" in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_kmnist(tmp_path, packed, write_idx_set):
    write_idx_set(tmp_path, packed=packed)
    data = data_of("kmnist", f"data.path={tmp_path}")
    assert data.spec.labels == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    assert data.spec.input_shape == (1, 5, 4)


def test_other_spellings_and_the_plain_file_wins(tmp_path, write_idx_set):
    write_idx_set(tmp_path)
    (tmp_path / NAMES[2]).rename(tmp_path / "test-images.idx3-ubyte")
    (tmp_path / (NAMES[0] + ".gz")).write_bytes(b"old and broken")
    assert IDXImages(IDXConfig(path=str(tmp_path))).spec.sizes == {"train": 50, "val": 10, "test": 20}


def test_missing_files_are_named_with_how_to_get_them(tmp_path, write_idx_set):
    with pytest.raises(DataError) as caught:
        IDXImages(IDXConfig(usual_places=[str(tmp_path / "nowhere")], hint="ask at the desk"))
    assert all(
        name in str(caught.value) for name in (*NAMES, "nowhere is not a directory", "ask at the desk", "data.path")
    )
    write_idx_set(tmp_path)
    (tmp_path / NAMES[3]).unlink()
    with pytest.raises(DataError, match=f"lacks {NAMES[3]}"):
        IDXImages(IDXConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        (NAMES[1], np.zeros(59), "59 labels for 60 images"),
        (NAMES[2], np.zeros((20, 5, 5)), "those of train"),
        (NAMES[3], np.full(20, 12), "label 12"),
        (NAMES[1], np.full(60, 255), "label 255"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, name, array, why, write_idx_set, idx_bytes):
    write_idx_set(tmp_path)
    (tmp_path / name).write_bytes(idx_bytes(array))
    with pytest.raises(DataError, match=why):
        IDXImages(IDXConfig(path=str(tmp_path), labels=list("abcdefghij")))


def test_label_255_alone_gives_256_classes(tmp_path, write_idx_set, idx_bytes):
    write_idx_set(tmp_path)
    (tmp_path / NAMES[1]).write_bytes(idx_bytes(np.full(60, 255)))
    assert IDXImages(IDXConfig(path=str(tmp_path))).spec.num_classes == 256


@pytest.fixture(scope="module")
def good(idx_bytes):
    return idx_bytes(np.random.default_rng(0).integers(0, 256, (7, 3, 2)))


def refused(tmp_path, content, packed):
    path = tmp_path / ("f.gz" if packed else "f")
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, (3, 4))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_truncation_anywhere_and_trailing_bytes_are_refused(tmp_path, good, packed):
    content = gzip.compress(good) if packed else good
    for length in range(len(content)):
        refused(tmp_path, content[:length], packed)
    refused(tmp_path, content + b"x", packed)
    refused(tmp_path, gzip.compress(good + b"x") if packed else good + b"xx", packed)


def test_every_bit_flip_in_the_header_is_refused(tmp_path, good):
    for bit in range(16 * 8):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        refused(tmp_path, bytes(content), packed=False)
        refused(tmp_path, gzip.compress(bytes(content)), packed=True)


def test_a_header_that_claims_the_moon_allocates_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("allocated"))
    for claim in (
        struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3),
        struct.pack(">4B3I", 0, 0, 8, 3, 60000, 28, 28),
    ):
        refused(tmp_path, claim + b"\0" * 100, packed=False)
        refused(tmp_path, gzip.compress(claim + b"\0" * 100), packed=True)


def test_an_empty_dimension_is_refused(tmp_path, idx_bytes):
    refused(tmp_path, idx_bytes(np.zeros((0, 28, 28))), packed=False)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DataError, match="not an ordinary file"):
            read_idx(path, (3,))


@given(st.binary(max_size=100), st.integers(0, 40), st.booleans())
@settings(deadline=None, max_examples=200)
def test_any_bytes_give_images_or_a_data_error(tmp_path_factory, good, idx_bytes, noise, at, packed):
    content = good[:at] + noise + good[at + len(noise) :]
    for name, data in (("f", content), ("f.gz", gzip.compress(content) if packed else content)):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        try:
            images = read_idx(path, (3, 4))
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert idx_bytes(images) == content


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_debian_ships_it():
    data = IDXImages(IDXConfig(usual_places=[str(DEBIAN)]))
    assert data.spec.sizes == {"train": 50_000, "val": 10_000, "test": 10_000}
    assert data.spec.normalization["mean"] == pytest.approx([0.286], abs=0.002)
    assert data.spec.normalization["std"] == pytest.approx([0.353], abs=0.002)
