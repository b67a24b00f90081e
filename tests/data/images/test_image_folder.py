"""A folder per class: pixels as Pillow has them, splits that stay, and a sentence for everything that is wrong."""

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


def test_an_image_stays_in_its_split_when_others_come_or_go(images, build):
    before = contents(build())
    fill(images, classes=("cat",), count=3, seed=5)  # in place of three others
    (images / "dog" / "004.png").unlink()
    (images / "owl" / "005.png").rename(images / "owl" / "renamed.png")
    after = contents(build())
    moved = {item for split in before for item in before[split] if any(item in after[s] for s in after if s != split)}
    assert not moved
    assert len(set.union(*before.values()) - set.union(*after.values())) == 4


def test_the_fractions_are_kept():
    files = [Found(Path(str(number)), "cat", "train") for number in range(20_000)]
    hashes = np.random.default_rng(0).integers(2**64, size=20_000, dtype=np.uint64)
    ids = split_images(ImageFolderConfig(test_fraction=0.2, val_fraction=0.25), files, hashes)
    assert [len(ids[split]) / 20_000 for split in ("train", "val", "test")] == pytest.approx([0.6, 0.2, 0.2], abs=0.01)
    assert sorted(np.concatenate(list(ids.values()))) == list(range(20_000))


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
        ("text.png", b"not an image", "neither PNG nor JPEG"),
        ("empty.jpg", b"", "neither PNG nor JPEG"),
        ("huge.png", HUGE, "DecompressionBombError"),
        ("large.png", LARGE, "9,000 x 9,000 pixels; 67,108,864 are allowed"),
        ("picture.png", b"GIF89a" + bytes(50), "neither PNG nor JPEG"),
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


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_damaged_file_is_an_image_or_a_data_error(tmp_path, suffix):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    good = saved(tmp_path, image, f"good{suffix}").read_bytes()
    path, draw = tmp_path / f"bad{suffix}", random.Random(0)
    refused = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(draw.choice([1, 3, 30])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content[: draw.randrange(len(content))] if draw.random() < 0.3 else content)
        try:
            read_image(path, None, 3)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100
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
