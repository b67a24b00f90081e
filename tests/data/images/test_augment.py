"""Augmentation is what its settings say, a function of the sample alone, and nothing that an evaluation sees."""

import math

import numpy as np
import pytest
import torch

from bigtrain.build import build_data, build_parts, build_trainer
from bigtrain.config.run import RunConfig, TrackingConfig, TrainerConfig
from bigtrain.config.settings import find_problems
from bigtrain.data.base import DataSpec
from bigtrain.data.images import augment
from bigtrain.data.images.augment import augmentation_for
from bigtrain.data.images.config import IDXConfig, ImageAugmentConfig
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError
from bigtrain.models.vision.config import MLPConfig
from bigtrain.optim.config import ConstantConfig, SGDConfig
from bigtrain.randomness import sample_keys
from bigtrain.signals import StopRequest
from bigtrain.tasks.config import ClassificationConfig
from bigtrain.tracking.tracker import Tracker

SHAPE = (3, 12, 9)
SPEC = DataSpec(
    kind="images",
    fingerprint="",
    sizes={},
    input_shape=SHAPE,
    normalization={"mean": [0.2, 0.4, 0.6], "std": [1.0] * 3},
)
EVERYTHING = {"crop": 2, "flip": True, "rotate": 20, "brightness": 0.3, "contrast": 0.4, "erase": 0.5}


def drawn_samples(count, epoch=0):
    rng = np.random.default_rng(7)
    pixels = torch.from_numpy(rng.integers(256, size=(2, count, *SHAPE), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(10, size=(2, count)))
    return {
        "images": pixels[0],
        "labels": labels[0],
        "partner_images": pixels[1],
        "partner_labels": labels[1],
        "keys": torch.from_numpy(sample_keys(0, epoch, np.arange(count)).view(np.int64)),
    }


def augmented(samples, **settings):
    return augmentation_for(ImageAugmentConfig(**settings), SPEC)(samples)


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}, {"cutmix": 1.0}], ids=str)
def test_a_sample_looks_the_same_in_any_batch(mixing):
    samples = drawn_samples(40)
    before = {name: value.clone() for name, value in samples.items()}
    whole = augmented(samples, **EVERYTHING, **mixing)
    for size in (1, 8, 13):
        for start in range(0, 40, size):
            part = augmented(
                {name: value[start : start + size] for name, value in samples.items()}, **EVERYTHING, **mixing
            )
            assert all(torch.equal(value, whole[name][start : start + size]) for name, value in part.items())
    assert all(torch.equal(value, before[name]) for name, value in samples.items())
    assert whole["images"].dtype == torch.uint8 and whole["images"].shape == (40, *SHAPE)
    again = augmented(drawn_samples(40, epoch=1), **EVERYTHING, **mixing)
    assert all(not torch.equal(*pair) for pair in zip(whole["images"], again["images"], strict=True))


def test_a_change_more_leaves_the_others_as_they_were():
    samples = drawn_samples(30)
    shifted = augmented(samples, crop=3)["images"]
    both = augmented(samples, crop=3, flip=True)["images"]
    for one, other in zip(shifted, both, strict=True):
        assert torch.equal(one, other) or torch.equal(one.flip(2), other)


def test_crop_shows_every_shift_and_black_around_it():
    samples = drawn_samples(500)
    seen = set()
    for image, cropped in zip(samples["images"], augmented(samples, crop=1)["images"], strict=True):
        framed = torch.zeros(3, 14, 11, dtype=torch.uint8)
        framed[:, 1:-1, 1:-1] = image
        shifts = [(y, x) for y in range(3) for x in range(3) if torch.equal(framed[:, y : y + 12, x : x + 9], cropped)]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) == 9


def test_flip_mirrors_half_of_the_images():
    samples = drawn_samples(1000)
    pairs = list(zip(samples["images"], augmented(samples, flip=True)["images"], strict=True))
    mirrored = sum(torch.equal(image.flip(2), other) for image, other in pairs)
    assert mirrored + sum(torch.equal(image, other) for image, other in pairs) == 1000
    assert 430 < mirrored < 570


def test_rotation_by_right_angles_is_exact():
    images = drawn_samples(4)["images"][:, :, :9, :9]
    turned = augment.rotated(images, torch.tensor([0.0, 90.0, 180.0, -90.0], dtype=torch.float64))
    expected = [torch.rot90(image, turns, (1, 2)) for image, turns in zip(images, (0, 1, 2, 3), strict=True)]
    assert torch.equal(turned, torch.stack(expected))


def test_rotation_of_a_wide_image_keeps_its_shape():
    """A bar on a wide image, turned by 90 degrees about the middle, is as long as before: pixels are square."""
    image = torch.zeros(1, 1, 9, 31, dtype=torch.uint8)
    image[..., 4, 13:18] = 200
    turned = augment.rotated(image, torch.tensor([90.0], dtype=torch.float64))
    expected = torch.zeros_like(image)
    expected[..., 2:7, 15] = 200
    assert torch.equal(turned, expected)


def test_brightness_and_contrast_by_hand():
    images = drawn_samples(5)["images"]
    brightness, contrast = (torch.rand(5, dtype=torch.float64) + 0.5 for _ in range(2))
    result = augment.relit(images, brightness, contrast)
    for image, light, factor, changed in zip(images.double(), brightness, contrast, result, strict=True):
        mean = image.mean()
        exact = (light * (mean + factor * (image - mean))).clamp(0, 255)
        assert (changed.double() - exact).abs().max() <= 0.501
    ones = torch.ones(5, dtype=torch.float64)
    assert torch.equal(augment.relit(images, ones, ones), images)


def test_erase_fills_one_rectangle_with_the_mean_as_often_as_asked():
    samples = drawn_samples(2000)
    samples["images"] = samples["images"].clamp(max=40)  # below every mean
    erased = augmented(samples, erase=0.3)["images"] != samples["images"]
    assert torch.equal(erased.any(1), erased.all(1))
    touched = erased[:, 0].flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.3, abs=0.04)  # four standard errors
    shares = []
    for mask in erased[touched, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        for line in (rows, columns):
            assert (line.int().diff().abs().sum() + line[0].int() + line[-1].int()) == 2  # in one piece
        shares.append(mask.float().mean().item())
    assert 0.01 <= min(shares) < 0.05 and 0.3 < max(shares) <= 0.45
    filled = augmented(samples, erase=1.0)["images"].amax((0, 2, 3))
    assert filled.tolist() == [51, 102, 153]


@pytest.mark.parametrize(
    ("alpha", "distribution"),
    [
        (0.5, lambda x: 2 / math.pi * np.arcsin(np.sqrt(x))),
        (1.0, lambda x: x),
        (2.0, lambda x: 3 * x**2 - 2 * x**3),
    ],
)
def test_shares_follow_the_beta_distribution(alpha, distribution):
    """Kolmogorov-Smirnov, at a level of 1e-6."""
    count = 100_000
    uniform = augment.draws(sample_keys(3, 0, np.arange(count)), 2, 0)
    x = np.sort(augment.symmetric_beta(alpha, *uniform).numpy())
    difference = np.abs(distribution(x) - np.arange(1, count + 1) / count).max()
    assert difference < math.sqrt(math.log(2e6) / 2 / count)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 1e3])
def test_shares_are_shares_at_the_ends_too(alpha):
    ends = torch.tensor([0.0, 1e-300, 0.25, 0.5, 1 - 2**-53], dtype=torch.float64)
    shares = augment.symmetric_beta(alpha, ends[:, None], ends)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_mixup_blends_images_by_the_weight_of_the_labels():
    samples = drawn_samples(50)
    mixed = augmented(samples, mixup=0.5)
    own, rest = mixed["label_weight"].double(), 1 - mixed["label_weight"].double()
    exact = own[:, None, None, None] * samples["images"] + rest[:, None, None, None] * samples["partner_images"]
    assert (mixed["images"].double() - exact).abs().max() <= 0.501
    assert torch.equal(mixed["labels"], samples["labels"])
    assert torch.equal(mixed["partner_labels"], samples["partner_labels"])
    assert mixed["label_weight"].dtype == torch.float32 and mixed["label_weight"].std() > 0.2


def test_cutmix_pastes_a_rectangle_and_weighs_the_label_by_its_area():
    samples = drawn_samples(200)
    samples["images"], samples["partner_images"] = samples["images"] // 2, 128 + samples["partner_images"] // 2
    mixed = augmented(samples, cutmix=1.0)
    pasted = mixed["images"] >= 128
    assert torch.equal(mixed["images"], torch.where(pasted, samples["partner_images"], samples["images"]))
    for mask in pasted:
        assert torch.equal(mask, mask[:1].any(1, keepdim=True) & mask[:1].any(2, keepdim=True).expand_as(mask))
    torch.testing.assert_close(mixed["label_weight"], 1 - pasted.float().mean((1, 2, 3)))
    assert 0.4 < mixed["label_weight"].mean() < 0.75  # at 1.0 half, and more where the border cuts


def test_partners_are_changed_by_numbers_of_their_own():
    samples = drawn_samples(40)
    samples["partner_images"] = samples["images"]
    mixed = augmented(samples, crop=2, mixup=1000.0)  # half and half
    alone = augmented(samples, crop=2)["images"]
    assert (mixed["images"] != alone).flatten(1).any(1).float().mean() > 0.9


def test_all_off_is_nothing():
    assert augmentation_for(ImageAugmentConfig(), SPEC) is None


def test_what_cannot_be_is_refused():
    (problem,) = find_problems(IDXConfig(augment=ImageAugmentConfig(mixup=0.2, cutmix=1.0)), "data")
    assert problem.message == "data.augment.mixup is 0.2 and cutmix is 1.0; only one of them can be on"
    (problem,) = find_problems(IDXConfig(augment=ImageAugmentConfig(erase=1.5)), "data")
    assert "data.augment.erase is 1.5" in problem.message
    with pytest.raises(ConfigError, match="crop is 9, but the images have only 9 pixels"):
        augmentation_for(ImageAugmentConfig(crop=9), SPEC)


@pytest.mark.parametrize("limit", [None, 20])
def test_training_sees_it_and_evaluation_never_does(limit, tmp_path, write_idx_set):
    write_idx_set(tmp_path)

    def trainer(**settings):
        config = RunConfig(
            model=MLPConfig(widths=[8]),
            data=IDXConfig(path=str(tmp_path), augment=ImageAugmentConfig(**settings)),
            task=ClassificationConfig(),
            optimizer=SGDConfig(),
            scheduler=ConstantConfig(),
            trainer=TrainerConfig(batch_size=10, max_duration="2epoch", gpus="0", limit_samples=limit),
            tracking=TrackingConfig(samples=False),
        )
        parts = build_parts(config, build_data(config), World(0, 1, torch.device("cpu")))
        return build_trainer(parts, tmp_path, Tracker([]), StopRequest(), {}, None)

    plain, changed = trainer(), trainer(crop=1, flip=True, cutmix=1.0)
    (batch,), (other) = plain.loader.micro_batches(0), changed.loader.micro_batches(0)[0]
    assert torch.equal(batch["labels"], other["labels"]) and not torch.equal(batch["inputs"], other["inputs"])
    for split in ("val", "test"):
        assert plain.evaluator.evaluate(split).metrics == changed.evaluator.evaluate(split).metrics
