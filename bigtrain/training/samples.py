"""What a model does, shown at each evaluation: generated text, images with predictions, a confusion matrix, and for
vectors of two features a map of the decisions.

Read-only observers: they draw from generators of their own and never touch training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bigtrain.config.run import TrackingConfig
from bigtrain.data.base import DataModule
from bigtrain.data.loader import to_device
from bigtrain.data.randomness import mix
from bigtrain.models.network import Network
from bigtrain.tasks.base import Batch, Task
from bigtrain.tasks.generation import Sampling, generate
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.evaluator import Evaluation

PROMPT_TOKENS = 24
GRID_IMAGES = 32
MAP_POINTS = 1000  # samples drawn on the map
MAP_SIDE = 160  # grid points along each of its sides

ShowSamples = Callable[[Evaluation, int], None]


def sample_text(network: Network, data: DataModule, config: TrackingConfig, seed: int, device: torch.device) -> str:
    """Prompt and continuation, at temperature 0.8. Without a prompt, the beginning of the validation text."""
    assert data.tokenizer is not None
    if config.sample_prompt:
        prompt = data.tokenizer.encode(config.sample_prompt)
    else:
        prompt = data.dataset("val").gather(np.array([0]))["tokens"][0, :PROMPT_TOKENS].numpy()
    generator = torch.Generator(device).manual_seed(seed)
    new = generate(
        network,
        [prompt.tolist()],
        config.sample_tokens,
        Sampling(temperature=0.8),
        generator=generator,
        stop_id=data.tokenizer.end_of_text,
    )
    return data.tokenizer.decode(np.concatenate([prompt, new[0].cpu().numpy()]))


def text_observer(
    network: Network,
    data: DataModule,
    config: TrackingConfig,
    seed: int,
    tracker: Tracker,
    device: torch.device,
) -> ShowSamples:
    """Records a sample of generated text."""

    def show(evaluation: Evaluation, step: int) -> None:
        tracker.text("val/sample", sample_text(network, data, config, mix(seed, step), device), step)

    return show


def class_observer(
    network: Network, data: DataModule, task: Task, tracker: Tracker, device: torch.device
) -> ShowSamples:
    """Records the confusion matrix, and a grid of validation images with predictions or a map of the decisions."""

    def show(evaluation: Evaluation, step: int) -> None:
        from bigtrain.tracking.figures import confusion_matrix  # matplotlib: 0.4 s at first use

        if data.spec.kind == "images":
            tracker.image("val/predictions", predicted_images(network, data, task, device), step)
        elif data.spec.input_shape == (2,):
            tracker.image("val/decisions", map_of_decisions(network, data, task, device), step)
        names = list(data.spec.labels)
        tracker.image("val/confusion", confusion_matrix(evaluation.totals["confusion"].numpy(), names), step)

    return show


def predicted_images(network: Network, data: DataModule, task: Task, device: torch.device) -> np.ndarray:
    """The first validation images with their predictions; (height, width, 3) uint8."""
    from bigtrain.tracking.figures import image_grid

    dataset = data.dataset("val")
    samples = dataset.gather(np.arange(min(GRID_IMAGES, len(dataset))))
    predictions = probabilities(network, task, samples, device).argmax(axis=1)
    labels = samples["labels"].tolist()
    return image_grid(samples["images"].numpy(), labels, predictions.tolist(), data.spec.labels)


def map_of_decisions(network: Network, data: DataModule, task: Task, device: torch.device) -> np.ndarray:
    """The answers over the plane that the first validation vectors lie in; (height, width, 3) uint8."""
    from bigtrain.tracking.figures import decision_map

    dataset = data.dataset("val")
    samples = dataset.gather(np.arange(min(MAP_POINTS, len(dataset))))
    points, labels = samples["vectors"].numpy(), samples["labels"].numpy()
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    x, y = np.meshgrid(np.linspace(left, right, MAP_SIDE), np.linspace(bottom, top, MAP_SIDE))
    vectors = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32))
    grid = {"vectors": vectors, "labels": torch.zeros(len(vectors), dtype=torch.int64)}
    answers = probabilities(network, task, grid, device)
    bounds = (float(left), float(right), float(bottom), float(top))
    return decision_map(answers.reshape(MAP_SIDE, MAP_SIDE, -1), bounds, points, labels, data.spec.labels)


def probabilities(network: Network, task: Task, samples: Batch, device: torch.device) -> np.ndarray:
    """Class probabilities (B, C) of samples as gathered, in evaluation mode."""
    batch = to_device(task.collate(samples, training=False), device)
    was_training = network.training
    network.eval()
    try:
        answers: torch.Tensor = task.predict(network, batch)  # type: ignore[attr-defined]
    finally:
        network.train(was_training)
    return answers.cpu().numpy()


def no_observer(evaluation: Evaluation, step: int) -> None:
    """Shows nothing."""


def observer_for(
    task: Task,
    network: Network,
    data: DataModule,
    config: TrackingConfig,
    seed: int,
    tracker: Tracker,
    device: torch.device,
    writes_text: bool,
) -> ShowSamples:
    """The observer that suits the data and task, or none when `tracking.samples` is off."""
    if not config.samples:
        return no_observer
    if writes_text:
        return harmless(text_observer(network, data, config, seed, tracker, device), tracker)
    if hasattr(task, "predict"):
        return harmless(class_observer(network, data, task, tracker, device), tracker)
    return no_observer


def harmless(show: ShowSamples, tracker: Tracker) -> ShowSamples:
    """The same observer; when it fails, training goes on with one warning and without it."""
    failed = False

    def show_or_warn(evaluation: Evaluation, step: int) -> None:
        nonlocal failed
        if failed:
            return
        try:
            show(evaluation, step)
        except Exception as error:  # a picture must never end a training run
            failed = True
            tracker.note(f"samples are switched off, training goes on: {type(error).__name__}: {error}", True)

    return show_or_warn
