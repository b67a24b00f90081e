"""Pictures: shape, the mark of right and wrong, and nothing left behind in matplotlib."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bigtrain.tracking.figures import confusion_matrix, decision_map, image_grid, value_scatter

GREEN, RED = np.array([0x1A, 0x7F, 0x37]), np.array([0xCF, 0x22, 0x2E])


def _count(picture: np.ndarray, color: np.ndarray) -> int:
    return int((picture == color).all(axis=2).sum())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_a_grid_is_a_picture(channels, count):
    images = np.zeros((count, channels, 8, 6), dtype=np.uint8)
    picture = image_grid(images, [0] * count, [0] * count, ["shirt"])
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert picture.min() == 0 and picture.max() == 255


def test_right_is_green_and_wrong_is_red():
    images = np.full((4, 1, 8, 8), 128, dtype=np.uint8)
    right = image_grid(images, [0, 1, 2, 3], [0, 1, 2, 3])
    wrong = image_grid(images, [0, 1, 2, 3], [1, 2, 3, 0])
    mixed = image_grid(images, [0, 1, 2, 3], [0, 1, 2, 0])
    assert _count(right, GREEN) > 1000 and _count(right, RED) == 0
    assert _count(wrong, RED) > 1000 and _count(wrong, GREEN) == 0
    assert _count(mixed, GREEN) > 2 * _count(mixed, RED) > 0


def test_pixels_keep_their_values():
    images = np.zeros((1, 3, 2, 2), dtype=np.uint8)
    images[0, :, 0, 0] = (10, 200, 30)
    assert _count(image_grid(images, [0], [0]), np.array([10, 200, 30])) > 500
    gray = np.full((1, 1, 2, 2), 77, dtype=np.uint8)  # not stretched to the image's own range
    assert _count(image_grid(gray, [0], [0]), np.array([77, 77, 77])) > 2000


def test_tensors_are_taken_too():
    import torch

    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    assert image_grid(images, labels, labels).shape[2] == 3
    assert confusion_matrix(torch.eye(2, dtype=torch.float64)).shape[2] == 3


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        image_grid(np.zeros((0, 1, 8, 8), dtype=np.uint8), [], [])


@pytest.mark.parametrize("classes", [2, 10, 30, 120])
def test_a_confusion_matrix_darkens_its_diagonal_and_bears_an_empty_class(classes):
    matrix = np.eye(classes, dtype=np.int64) * 50
    matrix[-1] = 0  # a class that never occurs
    picture = confusion_matrix(matrix, [f"a rather long name $ {index} $" for index in range(classes)])
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and max(picture.shape) < 1500
    assert _count(picture, np.array([8, 48, 107])) > 500  # matplotlib's darkest blue


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_a_map_is_coloured_by_class_and_white_where_the_answer_is_by_chance(classes):
    """Left sure of the first class, right of the last, and between them a strip by chance; one sample on each side."""
    answers = np.full((60, 60, classes), 1 / classes)
    answers[:, :20] = np.eye(classes)[0]
    answers[:, 40:] = np.eye(classes)[-1]
    points, labels = np.array([[-0.8, 0.0]] * 9 + [[0.8, 0.0]]), np.array([0] * 9 + [classes - 1])
    picture = decision_map(answers, (-1, 1, -1, 1), points, labels)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    if classes == 10:  # the first sample is a dot in matplotlib's blue
        assert _count(picture[:, : picture.shape[1] // 2], np.array([0x1F, 0x77, 0xB4])) > 3
    row = picture[picture.shape[0] - 120]  # near the bottom, below the legend, away from the points
    left, middle, right = (row[int(len(row) * share)] for share in (0.2, 0.52, 0.85))
    assert (middle == 255).all() and (left < 255).any() and (right < 255).any() and (left != right).any()


@pytest.mark.parametrize("values", [1, 12])
def test_values_are_drawn_around_the_line_where_they_are_right(values):
    true = np.random.default_rng(0).normal(5, 2, size=(200, values))
    right, constant = value_scatter(true, true, ["$y$"]), value_scatter(true, np.zeros_like(true))
    assert right.dtype == np.uint8 and right.ndim == 3 and right.shape[2] == 3
    assert _count(right, GREEN) > 50 and _count(constant, GREEN) > 50
    spread, flat = ((picture[..., 2] > picture[..., 0] + 60.0).any(axis=1).sum() for picture in (right, constant))
    assert spread > 5 * flat > 0  # rows with dots


def test_no_window_no_global_state_and_no_matplotlib_before_it_is_needed():
    program = (
        "import sys, numpy as np\n"
        "from bigtrain.tracking.figures import image_grid, confusion_matrix\n"
        "assert 'matplotlib' not in sys.modules\n"
        "image_grid(np.zeros((2, 1, 4, 4), np.uint8), [0, 1], [0, 0])\n"
        "confusion_matrix(np.eye(3))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
