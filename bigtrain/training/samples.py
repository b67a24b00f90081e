"""What a model does, shown at each evaluation: generated text, images with predictions, a confusion matrix.

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
from bigtrain.tasks.base import Task
from bigtrain.tasks.generation import Sampling, generate
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.evaluator import Evaluation

PROMPT_TOKENS = 24
GRID_IMAGES = 32

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


def image_observer(
    network: Network, data: DataModule, task: Task, tracker: Tracker, device: torch.device
) -> ShowSamples:
    """Records a grid of validation images with predictions, and the confusion matrix."""

    def show(evaluation: Evaluation, step: int) -> None:
        from bigtrain.tracking.figures import confusion_matrix, image_grid  # matplotlib: 0.4 s at first use

        dataset = data.dataset("val")
        samples = dataset.gather(np.arange(min(GRID_IMAGES, len(dataset))))
        batch = to_device(task.collate(samples, training=False), device)
        was_training = network.training
        network.eval()
        predictions = task.predict(network, batch).argmax(dim=-1).cpu()  # type: ignore[attr-defined]
        network.train(was_training)
        labels, names = samples["labels"], list(data.spec.labels)
        tracker.image(
            "val/predictions", image_grid(samples["images"].numpy(), labels.tolist(), predictions.tolist(), names), step
        )
        tracker.image("val/confusion", confusion_matrix(evaluation.totals["confusion"].numpy(), names), step)

    return show


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
) -> ShowSamples:
    """The observer that suits the data and task, or none when `tracking.samples` is off."""
    if not config.samples:
        return no_observer
    if data.tokenizer is not None and "language_model" in network.heads:
        return harmless(text_observer(network, data, config, seed, tracker, device), tracker)
    if data.spec.kind == "images" and hasattr(task, "predict"):
        return harmless(image_observer(network, data, task, tracker, device), tracker)
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
