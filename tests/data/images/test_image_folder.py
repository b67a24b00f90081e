"""A folder per class: pixels as Pillow has them, splits that stay, and a sentence for everything that is wrong."""

import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import bigtrain.data.images.image_folder as image_folder
from bigtrain.config.settings import find_problems
from bigtrain.data.images.config import ImageFolderConfig
from bigtrain.data.images.image_file import read_image
from bigtrain.data.images.image_folder import Found, ImageFolder, split_images
from bigtrain.errors import DataError

CLASSES = ("cat", "dog", "owl")


def fill(folder, classes=CLASSES, count=20, size=(6, 5), seed=0, suffix=".png"):
    """Random images, `count` of each class."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}{suffix}")
    return folder


@pytest.fixture
def build(tmp_path):
    def make(path=None, **settings):
        config = ImageFolderConfig(path=str(path or tmp_path / "images"), cache_dir=str(tmp_path / "cache"), **settings)
        assert find_problems(config) == []
        return ImageFolder(config)

    return make


@pytest.fixture
def images(tmp_path):
    return fill(tmp_path / "images")


def everything(data, split):
    samples = data.dataset(split).gather(np.arange(data.spec.sizes[split]))
    return samples["images"].numpy(), samples["labels"].numpy()


def contents(data):
    """Split → the images in it, as bytes, with their labels."""
    return {
        split: {(image.tobytes(), int(label)) for image, label in zip(*everything(data, split), strict=True)}
        for split in data.spec.sizes
    }


def test_every_image_is_in_one_split_with_its_class(images, build):
    data = build()
    assert data.spec.labels == CLASSES and data.spec.num_classes == 3
    assert data.spec.input_shape == (3, 5, 6) and sum(data.spec.sizes.values()) == 60
    assert set(data.spec.sizes) == {"train", "val", "test"} and data.spec.sizes["train"] > 35
    expected = {
        (np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes(), CLASSES.index(path.parent.name))
        for path in images.rglob("*.png")
    }
    parts = contents(data)
    assert set.union(*parts.values()) == expected and sum(map(len, parts.values())) == 60
    mean = everything(data, "train")[0].mean(axis=(0, 2, 3)) / 255
    assert data.spec.normalization["mean"] == pytest.approx(mean)


def test_hardly_an_image_changes_its_split_when_others_come_or_go(images, build):
    before = contents(build())
    fill(images, classes=("cat",), count=3, seed=5)  # in place of three others
    (images / "dog" / "004.png").unlink()
    (images / "owl" / "005.png").rename(images / "owl" / "renamed.png")
    after = contents(build())
    moved = {item for split in before for item in before[split] if any(item in after[s] for s in after if s != split)}
    assert len(moved) <= 3
    assert len(set.union(*before.values()) - set.union(*after.values())) == 4


def labels_of(data):
    return {split: everything(data, split)[1] for split in data.spec.sizes}


def test_each_class_has_the_same_part_in_each_split(tmp_path, build):
    fill(tmp_path / "images", classes=("cat",), count=70)
    fill(tmp_path / "images", classes=("dog",), count=14, seed=1)
    labels = labels_of(build())
    counts = {split: np.bincount(of_split).tolist() for split, of_split in labels.items()}
    assert counts == {"train": [50, 10], "val": [10, 2], "test": [10, 2]}


def test_without_stratify_images_are_drawn_by_their_hash_alone():
    """The splits of runs from before there was stratify."""
    files = [Found(Path(str(number)), "cat", "train") for number in range(20_000)]
    hashes = np.random.default_rng(0).integers(2**64, size=20_000, dtype=np.uint64)
    config = ImageFolderConfig(test_fraction=0.2, val_fraction=0.25, stratify=False)
    ids = split_images(config, files, np.zeros(20_000, dtype=int), hashes)
    assert [len(ids[split]) / 20_000 for split in ("train", "val", "test")] == pytest.approx([0.6, 0.2, 0.2], abs=0.01)
    assert sorted(np.concatenate(list(ids.values()))) == list(range(20_000))
    assert (hashes[ids["test"]] % 2**32 < 0.2 * 2**32).all() and (hashes[ids["val"]] >> 32 < 0.25 * 2**32).all()


def test_six_images_are_in_three_splits(tmp_path, build):
    labels = labels_of(build(fill(tmp_path / "images", classes=("cat", "dog"), count=3)))
    assert {split: sorted(of_split) for split, of_split in labels.items()} == dict.fromkeys(
        ("train", "val", "test"), [0, 1]
    )


def test_a_split_without_a_class_is_said_and_how_to_mend_it(tmp_path, build):
    fill(tmp_path / "images", classes=("cat", "dog"), count=9)
    fill(tmp_path / "images", classes=("owl",), count=1, seed=1)
    with pytest.warns(UserWarning) as said:
        data = build()
    assert [str(one.message).split(";")[0] for one in said] == [
        "val has no sample of 1 of the 3 classes (owl)",
        "test has no sample of 1 of the 3 classes (owl)",
    ]
    assert "add images, or go without: data.test_fraction=0" in str(said[1].message)
    assert 2 in labels_of(data)["train"]
    with pytest.warns(UserWarning, match=r"val has no samples; add images, or go without"):
        data = build(fill(tmp_path / "two", count=1))
    assert data.spec.sizes == {"train": 3}
    with pytest.raises(DataError, match="raise data.test_fraction, or add images"):
        data.dataset("test")


def test_copies_of_an_image_are_never_in_two_splits(images, build):
    for path in list(images.rglob("*.png")):
        (path.parent / f"copy_{path.name}").write_bytes(path.read_bytes())
    parts = list(contents(build()).values())
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_folders_of_splits_are_taken_as_they_are(tmp_path, build):
    for split, count in (("train", 8), ("val", 3), ("test", 4)):
        fill(tmp_path / "images" / split, count=count, seed=count)
    assert build().spec.sizes == {"train": 24, "val": 9, "test": 12}
    (tmp_path / "images" / "val").rename(tmp_path / "elsewhere")
    sizes = build(val_fraction=0.5).spec.sizes
    assert sizes["test"] == 12 and 4 < sizes["val"] < 20 and sizes["train"] + sizes["val"] == 24
    assert "val" not in build(val_fraction=0).spec.sizes
    assert "test" not in build(path=fill(tmp_path / "flat"), test_fraction=0).spec.sizes


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Train", "validation", "Test"), ("training", "dev", "testing")]
)
def test_other_names_of_the_splits(tmp_path, build, names):
    for name, count in zip(names, (8, 3, 4), strict=True):
        fill(tmp_path / "images" / name, count=count, seed=count)
    assert build().spec.sizes == {"train": 24, "val": 9, "test": 12}
    fill(tmp_path / "images" / "val")
    with pytest.raises(DataError, match="is the folder of val already"):
        build()


def test_classes_that_are_called_like_splits(tmp_path, build):
    assert build(fill(tmp_path / "a", classes=("valid", "invalid"))).spec.labels == ("invalid", "valid")
    assert build(fill(tmp_path / "b", classes=("training", "resting"))).spec.labels == ("resting", "training")


def test_a_test_folder_without_classes_is_left_out(tmp_path, build):
    fill(tmp_path / "images" / "train")
    fill(tmp_path / "images", classes=("test",))
    with pytest.warns(UserWarning, match="images/test is left out: its images have no classes"):
        assert sum(build().spec.sizes.values()) == 60


def test_linked_folders_and_files_are_read_once_and_circles_end(tmp_path, build):
    fill(tmp_path / "images", classes=("cat", "dog"))
    fill(tmp_path, classes=("elsewhere",), seed=1)
    fill(tmp_path, classes=("owl",), seed=2)
    (tmp_path / "images" / "cat" / "linked").symlink_to("../../elsewhere")
    (tmp_path / "images" / "owl").symlink_to(tmp_path / "owl")
    data = build()
    counts = sum(np.bincount(labels, minlength=3) for labels in labels_of(data).values())
    assert counts.tolist() == [40, 20, 20] and data.spec.labels == ("cat", "dog", "owl")
    (tmp_path / "images" / "cat" / "again").symlink_to("../cat")
    (tmp_path / "images" / "dog" / "up").symlink_to("..")
    (tmp_path / "images" / "dog" / "copy.png").symlink_to("000.png")
    with pytest.warns(UserWarning, match="3 names lead to what is read under another name already"):
        assert build().spec == data.spec


FORMATS = {
    "webp": {"lossless": True},
    "bmp": {},
    "gif": {},
    "tif": {},
    "TIFF": {"compression": "tiff_lzw"},
    "ppm": {},
    "pgm": {},
    "pnm": {},
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(images, build, suffix):
    grey = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6) * 8)
    path = images / "cat" / f"000.{suffix}"
    (images / "cat" / "000.png").unlink()
    grey.save(path, **FORMATS[suffix])
    assert (read_image(path, None, 3)[0] == np.asarray(grey)).all()
    assert sum(build().spec.sizes.values()) == 60


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff", "png"])
def test_of_several_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = saved(tmp_path, frames[0], f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert read_image(path, None, 3)[0][:, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("image", [Image.new("F", (4, 4), 0.5), Image.new("I", (4, 4), 70_000)], ids=["F", "I"])
def test_measurements_are_not_taken_for_grey_levels(tmp_path, image):
    with pytest.raises(DataError, match="32 bits"):
        read_image(saved(tmp_path, image, "a.tiff"), None, 1)


def test_broken_files_are_left_out_on_request_and_counted(images, build, recwarn):
    expected = contents(build())
    (images / "cat" / "zero.png").write_bytes(b"")
    (images / "dog" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (images / "dog" / "notes.txt").write_text("x")
    (images / "owl" / "link.png").symlink_to("nowhere")
    with pytest.raises(DataError, match="data.skip_broken=true"):
        build()
    for _ in range(2):  # decoded, then from the cache
        with pytest.warns(UserWarning, match=r"4 of 64 files are left out \(data.skip_broken=true\), for instance:"):
            assert contents(build(skip_broken=True)) == expected
    for path in (images / "cat").glob("*.png"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(DataError, match="none is left to train on"):
        build(skip_broken=True)


def test_a_link_to_nothing_is_named(images, build):
    (images / "owl" / "link.png").symlink_to("/mnt/gone.png")
    with pytest.raises(DataError, match=r"(?s)owl/link.png.*link to /mnt/gone.png, which leads nowhere"):
        build()
    (images / "owl" / "link.png").unlink()
    (images / "emu").symlink_to("/mnt/emu")
    with pytest.raises(DataError, match=r"(?s)images/emu.*link to /mnt/emu, which leads nowhere"):
        build()
    with pytest.raises(DataError, match=r"(?s)images/emu.*leads nowhere"):
        build(images / "emu")
    fill(images.parent / "split" / "train")
    (images.parent / "split" / "val").symlink_to("/mnt/val")
    with pytest.raises(DataError, match=r"(?s)split/val.*leads nowhere"):
        build(images.parent / "split")


@pytest.mark.parametrize("at", ["dog/003.png", "owl/019.png"])
def test_a_file_that_changes_while_it_or_another_is_read_is_named(images, build, monkeypatch, at):
    def read(path, *settings):
        result = read_image(path, *settings)
        if path == images / at:
            os.utime(images / "dog" / "003.png", ns=(0, 0))
        return result

    monkeypatch.setattr(image_folder, "read_image", read)
    with pytest.raises(DataError, match=r"dog/003.png changed while it was being read"):
        build(skip_broken=True)
    monkeypatch.undo()
    assert sum(build().spec.sizes.values()) == 60


def test_a_cached_start_decodes_nothing_until_a_file_changes(images, build, monkeypatch):
    first = build()
    monkeypatch.setattr(image_folder, "read_image", lambda *_: pytest.fail("decoded again"))
    assert build().spec == first.spec
    assert build(val_fraction=0.4).spec.sizes["val"] > first.spec.sizes["val"]
    monkeypatch.undo()
    fill(images, classes=("cat",), count=1, seed=9)
    assert build().spec.fingerprint != first.spec.fingerprint


def test_jpeg_nested_folders_and_what_a_file_manager_leaves(tmp_path, build):
    fill(tmp_path / "images", suffix=".JPG")
    fill(tmp_path / "images" / "cat", classes=("more",), count=2, seed=1)
    for name in ("README.md", ".DS_Store", "cat/.DS_Store", "cat/Thumbs.db"):
        (tmp_path / "images" / name).write_text("x")
    data = build(channels=1)
    assert sum(data.spec.sizes.values()) == 62 and data.spec.input_shape == (1, 5, 6)


def test_a_folder_of_a_split_without_a_class_is_said(tmp_path, build):
    fill(tmp_path / "images" / "train")
    fill(tmp_path / "images" / "test", classes=CLASSES[1:])
    with pytest.warns(UserWarning, match=r"test has no sample of 1 of the 3 classes \(cat\); add images to its folder"):
        build()


def test_other_sizes_are_named_or_scaled_and_cut(images, build):
    Image.fromarray(np.full((12, 30, 3), 9, dtype=np.uint8)).save(images / "dog" / "005.png")
    with pytest.raises(DataError) as caught:
        build()
    assert "005.png has 30 x 12 pixels" in str(caught.value) and "000.png has 6 x 5" in str(caught.value)
    assert "data.size=5" in str(caught.value)
    assert build(size=4).spec.input_shape == (3, 4, 4)


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_scaled_image_is_cut_from_the_middle(tmp_path):
    pixels = np.zeros((4, 12, 3), dtype=np.uint8)
    pixels[:, 4:8] = 200
    path = saved(tmp_path, Image.fromarray(pixels))
    assert (read_image(path, 4, 3)[0] == 200).all()


RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_modes_of_images(tmp_path, channels):
    grey = Image.fromarray(RAMP)
    clear = Image.fromarray(np.stack([RAMP] * 3 + [np.full_like(RAMP, 0)], axis=2))
    half = Image.fromarray(np.stack([np.zeros_like(RAMP)] * 3 + [np.full_like(RAMP, 51)], axis=2))
    cases = {
        "grey": (grey, RAMP),
        "palette": (grey.convert("RGB").quantize(256), RAMP),
        "16 bits": (Image.fromarray(RAMP.astype(np.uint16) * 257), RAMP),
        "transparent": (clear, np.full_like(RAMP, 255)),
        "one fifth black": (half, np.full_like(RAMP, 204)),
        "grey with alpha": (grey.convert("LA"), RAMP),
        "two colours": (Image.fromarray(RAMP > 100), np.where(RAMP > 100, 255, 0)),
    }
    for name, (image, expected) in cases.items():
        pixels, _ = read_image(saved(tmp_path, image), None, channels)
        assert pixels.shape == (channels, 8, 8) and pixels.dtype == np.uint8
        assert (np.abs(pixels.astype(int) - expected) <= 1).all(), name
    cmyk = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "image.jpg")
    assert read_image(cmyk, None, channels)[0].max() < 5


def test_an_image_lies_as_its_camera_was_held(tmp_path):
    pixels = np.zeros((8, 16), dtype=np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise is to be made
    turned, _ = read_image(saved(tmp_path, Image.fromarray(pixels), "a.jpg", exif=exif), None, 1)
    assert turned.shape == (1, 16, 8)
    assert turned[0, :7].min() > 240 and turned[0, 9:].max() < 15


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


HUGE = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 100_000, 100_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
)
LARGE = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 9_000, 9_000, 8, 0, 0, 0, 0)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.png", b"not an image", "in none of the formats PNG, JPEG"),
        ("empty.jpg", b"", "in none of the formats PNG, JPEG"),
        ("huge.png", HUGE, "DecompressionBombError"),
        ("large.png", LARGE, "9,000 x 9,000 pixels; 67,108,864 are allowed"),
        ("picture.png", b"GIF89a" + bytes(50), "in none of the formats"),
    ],
    ids=lambda part: part if str(part).isprintable() else "",
)
def test_a_file_that_is_no_image_is_named(images, build, name, content, said):
    (images / "cat" / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        build()
    assert f"can't read {images / 'cat' / name}" in str(caught.value) and said in str(caught.value)


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (8 << 20), zip=True)
    with pytest.raises(DataError, match="ValueError"):
        read_image(saved(tmp_path, Image.new("L", (4, 4)), pnginfo=info), None, 1)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".tiff", ".bmp"])
def test_a_damaged_file_is_an_image_or_a_data_error(tmp_path, suffix):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    good = saved(tmp_path, image, f"good{suffix}").read_bytes()
    path, draw = tmp_path / f"bad{suffix}", random.Random(0)
    refused = 0
    for _ in range(200):
        content = bytearray(good)
        for _ in range(draw.choice([1, 3, 30])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content[: draw.randrange(len(content))] if draw.random() < 0.3 else content)
        try:
            read_image(path, None, 3)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50
    for length in range(0, len(good) * 3 // 4, 7):
        path.write_bytes(good[:length])
        with pytest.raises(DataError):
            read_image(path, None, 3)


def wrong_text(images):
    (images / "dog" / "notes.txt").write_text("x")
    return "notes.txt does not belong there"


def wrong_empty(images):
    (images / "empty").mkdir()
    return "holds no image"


def wrong_one_class(images):
    for name in ("dog", "owl"):
        (images / name).rename(images.parent / name)
    return "has one class, cat; there must be two"


def wrong_one_class_in_train(images):
    fill(images / "train", ("cat",))
    for name in CLASSES:
        (images / name).rename(images.parent / name)
    return "has one class, cat; there must be two"


def wrong_folder_in_folder(images):
    images.rename(images.parent / "inner")
    images.mkdir()
    (images.parent / "inner").rename(images / "inner")
    return f"if cat, dog, owl are the classes: data.path={images / 'inner'}"


def wrong_nothing(images):
    for name in CLASSES:
        (images / name).rename(images.parent / name)
    return "has no class"


def wrong_loose(images):
    (images / "cat" / "000.png").rename(images / "loose.png")
    return "it is in no class"


def wrong_splits(images):
    (images / "cat").rename(images / "test")
    return "beside it is test"


def wrong_without_train(images):
    for name, split in (("cat", "val"), ("dog", "test")):
        (images / name).rename(images / split)
    (images / "owl").rename(images.parent / "owl")
    return "there is no train beside it"


def wrong_unknown_class(images):
    for split, classes in (("train", CLASSES[:2]), ("test", ("owl", "dog"))):
        fill(images / split, classes, count=2)
    for name in CLASSES:
        (images / name).rename(images.parent / name)
    return "it is a class that"


def wrong_few(images):
    fill(images, ("rare",), count=1)
    return "has so few images that none is left"


@pytest.mark.parametrize("spoil", [spoil for name, spoil in list(globals().items()) if name.startswith("wrong_")])
def test_what_does_not_belong_is_named(images, build, spoil):
    said = spoil(images)
    with pytest.raises(DataError) as caught:
        build(**({"test_fraction": 0.999} if spoil is wrong_few else {}))
    assert said in str(caught.value) and caught.value.exit_code == 3


def test_a_path_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"data.path is not given"):
        ImageFolder(ImageFolderConfig())
    with pytest.raises(DataError, match=r"nowhere is not a directory"):
        ImageFolder(ImageFolderConfig(path=str(tmp_path / "nowhere")))
    assert "channels is 2; it must be 1 or 3" in str(find_problems(ImageFolderConfig(channels=2)))
