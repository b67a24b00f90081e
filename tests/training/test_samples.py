"""What is shown at an evaluation suits the data, and leaves the network as it was."""

import numpy as np
import pytest
import torch
from tiny_networks import tiny_config

from bigtrain.config.run import TrackingConfig
from bigtrain.data.synthetic.config import GaussianMixtureConfig, RandomLabelsConfig
from bigtrain.data.synthetic.gaussian_mixture import GaussianMixture
from bigtrain.data.synthetic.random_labels import RandomLabels
from bigtrain.models.config import MLPConfig
from bigtrain.models.mlp import MLP
from bigtrain.models.network import Network
from bigtrain.tasks.classification import Classification
from bigtrain.tasks.config import ClassificationConfig
from bigtrain.tracking.tracker import Sink, Tracker
from bigtrain.training.evaluator import Evaluation
from bigtrain.training.samples import observer_for


class Album(Sink):
    """Keeps what it is shown."""

    def __init__(self):
        self.images, self.notes = {}, []

    def image(self, tag, image, step):
        self.images[tag] = image

    def note(self, sentence, warning=False):
        self.notes.append(sentence)


def shown(data, **tracking):
    """(pictures by tag, network) of one evaluation of an untrained MLP in training mode."""
    task = Classification(ClassificationConfig(), data.spec)
    backbone = MLP(tiny_config(MLPConfig, dropout=0.5), data.spec)
    network = Network(backbone, task.build_heads(backbone.hidden_size, None))
    album = Album()
    classes = data.spec.num_classes
    evaluation = Evaluation({}, {"confusion": torch.eye(classes, dtype=torch.float64)})
    arguments = (TrackingConfig(**tracking), 0, Tracker([album]), torch.device("cpu"), False)
    observer_for(task, network, data, *arguments)(evaluation, 5)
    assert album.notes == []
    return album.images, network


@pytest.mark.parametrize(("features", "tags"), [(2, {"val/decisions", "val/confusion"}), (3, {"val/confusion"})])
def test_vectors_get_a_map_where_they_lie_in_a_plane(features, tags):
    data = GaussianMixture(GaussianMixtureConfig(features=features, train_samples=50, eval_samples=50))
    images, network = shown(data)
    assert set(images) == tags and network.training
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images.values())


def test_images_get_a_grid():
    data = RandomLabels(RandomLabelsConfig(train_samples=20, eval_samples=20))
    assert set(shown(data)[0]) == {"val/predictions", "val/confusion"}
    assert shown(data, samples=False)[0] == {}
