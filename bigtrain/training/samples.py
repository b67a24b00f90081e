"""What a model does, shown at each evaluation: generated text, translations, images or sentences with predictions, a
confusion matrix, for vectors of two features a map of the decisions, and predicted against true values.

Read-only observers: they draw from generators of their own and never touch training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bigtrain.config.run import TrackingConfig
from bigtrain.data.base import Augmentation, DataModule
from bigtrain.data.loader import keyed_samples, to_device
from bigtrain.models.network import Network
from bigtrain.randomness import mix, sample_keys
from bigtrain.tasks.base import Batch, Task
from bigtrain.tasks.generation import Sampling, generate
from bigtrain.tasks.seq2seq import Seq2Seq
from bigtrain.tracking.tracker import Tracker
from bigtrain.training.evaluator import Evaluation

PROMPT_TOKENS = 24
GRID_IMAGES = 32
SHOWN_SENTENCES = 12
SHOWN_PAIRS = 8
SHOWN_CHARACTERS = 200  # of each sentence
MAP_POINTS = 1000  # samples drawn on the map
MAP_SIDE = 160  # grid points along each of its sides
SCATTER_POINTS = 1000  # samples whose values are predicted

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


def target_observer(
    network: Network, data: DataModule, task: Seq2Seq, tracker: Tracker, device: torch.device
) -> ShowSamples:
    """Records what the network makes of the first validation sources."""

    def show(evaluation: Evaluation, step: int) -> None:
        tracker.text("val/samples", written_targets(network, data, task, device, "val", SHOWN_PAIRS), step)

    return show


def written_targets(
    network: Network, data: DataModule, task: Seq2Seq, device: torch.device, split: str, count: int
) -> str:
    """Source, reference and the network's own target for the first pairs of a split, a line each."""
    dataset = data.dataset(split)
    samples = dataset.gather(np.arange(min(count, len(dataset))))
    best = task.answer(network, to_device(task.collate(samples, training=False), device))
    rows = []
    for row, hypotheses in enumerate(best):
        source, reference = (_inside(samples, side, row) for side in ("source", "target"))
        lines = {"source": source, "reference": reference, "written": hypotheses[0].ids}
        rows.append("\n".join(f"{name:9} {' '.join(task.text(ids).split())}" for name, ids in lines.items()))
    return "\n\n".join(rows)


def _inside(samples: Batch, side: str, row: int) -> list[int]:
    """The tokens of a text without the marks of its beginning and end."""
    ids: list[int] = samples[side][row, 1 : int(samples[f"{side}_lengths"][row]) - 1].tolist()
    return ids


def class_observer(
    network: Network, data: DataModule, task: Task, tracker: Tracker, device: torch.device
) -> ShowSamples:
    """Records the confusion matrix, and the first validation images or sentences with predictions, or a map of the
    decisions. Once, also training images as augmentation changes them, where it does.
    """
    augment = data.augment if data.spec.kind == "images" else None

    def show(evaluation: Evaluation, step: int) -> None:
        nonlocal augment
        from bigtrain.tracking.figures import confusion_matrix  # matplotlib: 0.4 s at first use

        if augment is not None:
            tracker.image("train/augmented", augmented_images(data, augment), step)
            augment = None
        if data.spec.kind == "images":
            tracker.image("val/predictions", predicted_images(network, data, task, device), step)
        elif data.spec.kind == "sentences":
            tracker.text("val/predictions", predicted_sentences(network, data, task, device), step)
        elif data.spec.input_shape == (2,):
            tracker.image("val/decisions", map_of_decisions(network, data, task, device), step)
        names = list(data.spec.labels)
        tracker.image("val/confusion", confusion_matrix(evaluation.totals["confusion"].numpy(), names), step)

    return show


def value_observer(
    network: Network, data: DataModule, task: Task, tracker: Tracker, device: torch.device
) -> ShowSamples:
    """Records the values predicted for the first validation samples against the true ones."""

    def show(evaluation: Evaluation, step: int) -> None:
        from bigtrain.tracking.figures import value_scatter  # matplotlib: 0.4 s at first use

        dataset = data.dataset("val")
        samples = dataset.gather(np.arange(min(SCATTER_POINTS, len(dataset))))
        predictions = predictions_for(network, task, samples, device)
        tracker.image("val/predictions", value_scatter(samples["values"].numpy(), predictions, data.spec.values), step)

    return show


def augmented_images(data: DataModule, augment: Augmentation) -> np.ndarray:
    """The first training images, changed as in a first epoch; (height, width, 3) uint8."""
    from bigtrain.tracking.figures import image_grid

    dataset = data.dataset("train")
    ids = np.arange(min(GRID_IMAGES, len(dataset)))
    samples = augment(keyed_samples(dataset, ids, sample_keys(0, 0, ids), augment.needs_partners))
    labels = samples["labels"].tolist()
    return image_grid(samples["images"].numpy(), labels, labels, data.spec.labels)


def predicted_images(network: Network, data: DataModule, task: Task, device: torch.device) -> np.ndarray:
    """The first validation images with their predictions; (height, width, 3) uint8."""
    from bigtrain.tracking.figures import image_grid

    dataset = data.dataset("val")
    samples = dataset.gather(np.arange(min(GRID_IMAGES, len(dataset))))
    predictions = predictions_for(network, task, samples, device).argmax(axis=1)
    labels = samples["labels"].tolist()
    return image_grid(samples["images"].numpy(), labels, predictions.tolist(), data.spec.labels)


def predicted_sentences(network: Network, data: DataModule, task: Task, device: torch.device) -> str:
    """The first validation sentences, a line each: right or wrong, the prediction, its probability, the beginning."""
    assert data.tokenizer is not None
    dataset, names = data.dataset("val"), data.spec.labels
    samples = dataset.gather(np.arange(min(SHOWN_SENTENCES, len(dataset))))
    answers = predictions_for(network, task, samples, device)
    lines = []
    for row, (answer, label) in enumerate(zip(answers, samples["labels"].tolist(), strict=True)):
        inside = samples["tokens"][row, 1 : int(samples["lengths"][row]) - 1]  # without what marks begin and end
        text = " ".join(data.tokenizer.decode(inside.numpy()).split())[:SHOWN_CHARACTERS]
        guess = int(answer.argmax())
        verdict = "right" if guess == label else f"wrong, is {names[label]}"
        lines.append(f"{names[guess]} {answer[guess]:.2f} ({verdict}): {text}")
    return "\n".join(lines)


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
    answers = predictions_for(network, task, grid, device)
    bounds = (float(left), float(right), float(bottom), float(top))
    return decision_map(answers.reshape(MAP_SIDE, MAP_SIDE, -1), bounds, points, labels, data.spec.labels)


def predictions_for(network: Network, task: Task, samples: Batch, device: torch.device) -> np.ndarray:
    """Class probabilities (B, C), or values (B, K), of samples as gathered, in evaluation mode."""
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
    if isinstance(task, Seq2Seq) and data.tokenizer is not None:
        return harmless(target_observer(network, data, task, tracker, device), tracker)
    if hasattr(task, "predict"):
        observer = value_observer if data.spec.values else class_observer
        return harmless(observer(network, data, task, tracker, device), tracker)
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
