"""What is shown at an evaluation suits the data, and leaves the network as it was."""

import numpy as np
import pytest
import torch
from tiny_networks import drawn, tiny_config

from bigtrain.config.run import RunConfig, TrackingConfig
from bigtrain.data.images.augment import augmentation_for
from bigtrain.data.images.config import ImageAugmentConfig
from bigtrain.data.synthetic.config import DisksConfig, GaussianMixtureConfig, RandomLabelsConfig, StringPairsConfig
from bigtrain.data.synthetic.disks import Disks
from bigtrain.data.synthetic.gaussian_mixture import GaussianMixture
from bigtrain.data.synthetic.random_labels import RandomLabels
from bigtrain.data.synthetic.string_pairs import StringPairs
from bigtrain.models.config import Seq2SeqConfig
from bigtrain.models.mlp import MLP
from bigtrain.models.network import Network
from bigtrain.models.seq2seq import EncoderDecoder
from bigtrain.models.vision.config import MLPConfig
from bigtrain.randomness import mix
from bigtrain.tasks.classification import Classification
from bigtrain.tasks.config import ClassificationConfig, RegressionConfig, Seq2SeqTaskConfig
from bigtrain.tasks.regression import Regression
from bigtrain.tasks.seq2seq import Seq2Seq
from bigtrain.tracking.tracker import Sink, Tracker
from bigtrain.training.evaluator import Evaluation
from bigtrain.training.observer import Observer


class Album(Sink):
    """Keeps what it is shown."""

    def __init__(self):
        self.images, self.texts, self.notes = {}, {}, []

    def image(self, tag, image, step):
        self.images[tag] = image

    def text(self, tag, text, step):
        self.texts[tag] = text

    def note(self, sentence, warning=False):
        self.notes.append(sentence)


def observer(task, network, data, album, samples=True):
    nothing = dict.fromkeys(("model", "data", "optimizer", "scheduler", "task"))
    config = RunConfig(tracking=TrackingConfig(), **nothing)
    return Observer(task, network, data, config, Tracker([album]), samples)


def shown(data, **tracking):
    """(pictures by tag, network) of one evaluation of an untrained MLP in training mode."""
    task = (
        Regression(RegressionConfig(), data.spec)
        if data.spec.values
        else Classification(ClassificationConfig(), data.spec)
    )
    backbone = MLP(tiny_config(MLPConfig, dropout=0.5), data.spec)
    network = drawn(Network(backbone, task.build_heads(backbone.hidden_size, None)))
    album = Album()
    evaluation = Evaluation({}, {"confusion": torch.eye(data.spec.num_classes or 0, dtype=torch.float64)})
    observer(task, network, data, album, **tracking)(evaluation, 5)
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
    data.augment = augmentation_for(ImageAugmentConfig(crop=2, mixup=1.0), data.spec)
    images = shown(data)[0]
    assert set(images) == {"train/augmented", "val/predictions", "val/confusion"}
    assert images["train/augmented"].dtype == np.uint8


def test_values_get_a_scatter():
    images, network = shown(Disks(DisksConfig(train_samples=20, eval_samples=20)))
    assert set(images) == {"val/predictions"} and network.training
    assert images["val/predictions"].dtype == np.uint8


def test_pairs_are_shown_beside_what_the_network_writes():
    data = StringPairs(StringPairsConfig(train_samples=10, eval_samples=10, longest=6))
    task = Seq2Seq(Seq2SeqTaskConfig(num_beams=2), data.spec, data.tokenizer)
    backbone = EncoderDecoder(tiny_config(Seq2SeqConfig), data.spec)
    network = drawn(Network(backbone, task.build_heads(backbone.hidden_size, None))).train()
    album = Album()
    observer(task, network, data, album)(Evaluation({}, {}), 1)
    first = album.texts["val/samples"].split("\n\n")[0].splitlines()
    source, reference, written = (line.split(maxsplit=1) for line in first)
    assert (source[0], reference[0], written[0]) == ("source", "reference", "written")
    assert source[1][::-1] == reference[1] and len(album.texts["val/samples"].split("\n\n")) == 8
    assert network.training and not album.notes


def test_inputs_are_shown_once_and_a_failure_ends_the_showing_with_one_warning():
    class Fragile(Classification):
        def show_inputs(self, data):
            yield "train/inputs", "samples"

        def show(self, network, data, config, seed, totals):
            yield "val/sample", f"{seed}"
            if totals:
                raise OSError("no font")

    data = GaussianMixture(GaussianMixtureConfig(features=3, train_samples=9, eval_samples=9))
    album = Album()
    show = observer(Fragile(ClassificationConfig(), data.spec), None, data, album)
    show(Evaluation({}, {}), 1)
    assert album.texts == {"train/inputs": "samples", "val/sample": str(mix(0, 1))} and not album.notes
    album.texts.clear()
    for _ in range(2):
        show(Evaluation({}, {"confusion": torch.eye(2)}), 2)
    assert album.texts == {"val/sample": str(mix(0, 2))}
    assert album.notes == ["samples are switched off, training goes on: OSError: no font"]
