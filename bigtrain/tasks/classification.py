"""Classification of images, vectors and sentences: loss, accuracy, top-5 accuracy, macro F1, predictions to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.run import GenerateConfig, RunConfig
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.loader import keyed_samples, to_device
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.nn.features import context_of
from bigtrain.nn.heads import PooledHead
from bigtrain.randomness import sample_keys
from bigtrain.tasks.base import Answer, Baselines, Batch, LossOutput, LossTerm, Shown, Task, evaluation_mode
from bigtrain.tasks.baselines import class_baselines
from bigtrain.tasks.config import ClassificationConfig
from bigtrain.tasks.inputs import Inputs, first_samples, prompt_tokens

TOP = 5
GRID_IMAGES = 32
SHOWN_SENTENCES = 12
SHOWN_CHARACTERS = 200  # of each sentence
SHOWN_CLASSES = 5  # of an answer, the most probable ones
MAP_POINTS = 1000  # samples drawn on the map of decisions
MAP_SIDE = 160  # grid points along each of its sides


class Classification(Task):
    """Head `classification`; term `loss`, nats per sample. A label of UNSCORED counts for nothing.

    In evaluation the statistics are `confusion` (C, C), rows true and columns predicted, and, where C > 5,
    `top5`: samples whose label is among the five most probable classes.
    """

    def __init__(self, config: ClassificationConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        if data_spec.num_classes is None:
            raise ConfigError.of(
                "TASK-DATA",
                f"task=classification needs labelled samples, but this data gives {data_spec.kind}",
                fix="choose data with labels, for instance data=fashion_mnist, or task=language_modeling",
            )
        self.data_spec, self.tokenizer = data_spec, tokenizer
        self.num_classes = data_spec.num_classes
        self._label_smoothing = config.label_smoothing
        self._inputs = Inputs(data_spec)

    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
        """One linear layer on the pooled vector."""
        return {"classification": PooledHead(hidden_size, self.num_classes)}

    def collate(self, samples: Batch, training: bool) -> Batch:
        """`inputs` as `tasks/inputs.py` has them; `labels` (B,) unchanged, and so are `partner_labels` and
        `label_weight` of mixed samples.
        """
        batch = self._inputs(samples) | {"labels": samples["labels"]}
        if "label_weight" in samples:
            batch |= {name: samples[name] for name in ("partner_labels", "label_weight")}
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Labelled samples."""
        return {"loss": torch.count_nonzero(batch["labels"] != UNSCORED).double()}

    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Sum of the cross entropy over samples, with smoothed targets in training mode; statistics in eval mode."""
        labels_B = batch["labels"]
        logits_BC = _logits(network, batch)
        smoothing = self._label_smoothing if network.training else 0.0
        loss = _cross_entropy(logits_BC, batch, smoothing)
        term = LossTerm(loss, torch.count_nonzero(labels_B != UNSCORED))
        statistics = {} if network.training else self._statistics(logits_BC.detach(), labels_B)
        return LossOutput({"loss": term}, statistics)

    def metrics(self, totals: dict[str, Tensor], split: str) -> dict[str, float]:
        """`loss` (nats per sample), `accuracy`, `macro_f1`, `top5_accuracy` where C > 5, and where known `excess`
        of the loss over the best possible.
        """
        confusion_CC, count = totals["confusion"], totals["loss.count"]
        metrics = {
            "loss": float(totals["loss.sum"] / count),
            "accuracy": float(confusion_CC.trace() / count),
            "macro_f1": macro_f1(confusion_CC),
        }
        if "top5" in totals:
            metrics["top5_accuracy"] = float(totals["top5"] / count)
        if self.data_spec.optimal_loss is not None:
            metrics["excess"] = metrics["loss"] - self.data_spec.optimal_loss
        return metrics

    @torch.inference_mode()
    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        """Class probabilities (B, C) of a collated batch, on the host."""
        with evaluation_mode(network) as device:
            return _logits(network, to_device(batch, device)).softmax(dim=-1).cpu()

    def show_inputs(self, data: DataModule) -> Iterator[Shown]:
        """The first training images as augmentation changes them in a first epoch, where there is any."""
        augment = data.augment
        if data.spec.kind == "images" and augment is not None:
            from bigtrain.tracking.figures import image_grid  # matplotlib: 0.4 s at first use

            dataset = data.dataset("train")
            ids = np.arange(min(GRID_IMAGES, len(dataset)))
            samples = augment(keyed_samples(dataset, ids, sample_keys(0, 0, ids), augment.needs_partners))
            labels = samples["labels"].tolist()
            yield "train/augmented", image_grid(samples["images"].numpy(), labels, labels, data.spec.labels)

    def show(
        self, network: nn.Module, data: DataModule, config: RunConfig, seed: int, totals: dict[str, Tensor]
    ) -> Iterator[Shown]:
        """The first validation images or sentences with their predictions, or a map of the decisions over a plane; and
        the confusion matrix.
        """
        from bigtrain.tracking.figures import confusion_matrix

        if data.spec.kind == "images":
            yield "val/predictions", self._predicted_images(network, data)
        elif data.spec.kind == "sentences":
            yield "val/predictions", self._predicted_sentences(network, data)
        elif data.spec.input_shape == (2,):
            yield "val/decisions", self._map_of_decisions(network, data)
        yield "val/confusion", confusion_matrix(totals["confusion"].numpy(), list(data.spec.labels))

    def answers(self, network: nn.Module, config: RunConfig, asked: GenerateConfig) -> Answer | None:
        """Of sentences, a line with the most probable classes: "positive 0.982, negative 0.018"."""
        if self.data_spec.kind != "sentences":
            return None

        def answer(prompt: str, number: int) -> Iterator[str]:
            assert self.tokenizer is not None
            tokens_BT, lengths_B = prompt_tokens(prompt, self.tokenizer, self.data_spec.sequence_length)
            samples = {"tokens": tokens_BT, "lengths": lengths_B, "labels": torch.zeros(1, dtype=torch.int64)}
            probabilities = self.predict(network, self.collate(samples, training=False))[0].tolist()
            best = sorted(zip(probabilities, self.data_spec.labels, strict=True), key=lambda pair: -pair[0])
            yield ", ".join(f"{name} {probability:.3f}" for probability, name in best[:SHOWN_CLASSES]) + "\n"

        return answer

    def baselines(self, data: DataModule, splits: Sequence[str]) -> Baselines:
        """`majority_accuracy` and `centroid_accuracy`."""
        return class_baselines(data, splits)

    def _predicted_images(self, network: nn.Module, data: DataModule) -> np.ndarray:
        from bigtrain.tracking.figures import image_grid

        samples = first_samples(data, "val", GRID_IMAGES)
        predictions = self.predict(network, self.collate(samples, training=False)).numpy().argmax(axis=1)
        labels = samples["labels"].tolist()
        return image_grid(samples["images"].numpy(), labels, predictions.tolist(), data.spec.labels)

    def _predicted_sentences(self, network: nn.Module, data: DataModule) -> str:
        """A line each: the prediction, its probability, right or wrong, the beginning of the text."""
        assert self.tokenizer is not None
        names, samples = data.spec.labels, first_samples(data, "val", SHOWN_SENTENCES)
        probabilities_BC = self.predict(network, self.collate(samples, training=False)).numpy()
        lines = []
        for row, (probabilities_C, label) in enumerate(zip(probabilities_BC, samples["labels"].tolist(), strict=True)):
            inside = samples["tokens"][row, 1 : int(samples["lengths"][row]) - 1]  # without the marks of its two ends
            text = " ".join(self.tokenizer.decode(inside.numpy()).split())[:SHOWN_CHARACTERS]
            guess = int(probabilities_C.argmax())
            verdict = "right" if guess == label else f"wrong, is {names[label]}"
            lines.append(f"{names[guess]} {probabilities_C[guess]:.2f} ({verdict}): {text}")
        return "\n".join(lines)

    def _map_of_decisions(self, network: nn.Module, data: DataModule) -> np.ndarray:
        """The predictions over the rectangle that the first validation vectors lie in."""
        from bigtrain.tracking.figures import decision_map

        samples = first_samples(data, "val", MAP_POINTS)
        points, labels = samples["vectors"].numpy(), samples["labels"].numpy()
        (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
        x, y = np.meshgrid(np.linspace(left, right, MAP_SIDE), np.linspace(bottom, top, MAP_SIDE))
        vectors = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32))
        grid = {"vectors": vectors, "labels": torch.zeros(len(vectors), dtype=torch.int64)}
        probabilities = self.predict(network, self.collate(grid, training=False)).numpy()
        bounds = (float(left), float(right), float(bottom), float(top))
        return decision_map(probabilities.reshape(MAP_SIDE, MAP_SIDE, -1), bounds, points, labels, data.spec.labels)

    def _statistics(self, logits_BC: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        classes_C = torch.arange(self.num_classes, device=labels_B.device)
        true_BC = (labels_B[:, None] == classes_C).double()
        predicted_BC = (logits_BC.argmax(dim=-1)[:, None] == classes_C).double()
        statistics = {"confusion": true_BC.t() @ predicted_BC}
        if self.num_classes > TOP:
            top_BK = logits_BC.topk(TOP, dim=-1).indices
            statistics["top5"] = torch.count_nonzero(top_BK == labels_B[:, None])
        return statistics


def macro_f1(confusion_CC: Tensor) -> float:
    """Mean over classes of F1 = 2 TP / (true + predicted), from a confusion matrix (rows true, columns
    predicted).

    A class that is neither a label nor a prediction of any sample is left out; one that occurs but is never
    hit counts 0. This is scikit-learn's `f1_score(average="macro", zero_division=0)`.
    """
    occurrences_C = confusion_CC.sum(dim=0) + confusion_CC.sum(dim=1)
    present = occurrences_C > 0
    return float((2 * confusion_CC.diagonal()[present] / occurrences_C[present]).mean())


def _cross_entropy(logits_BC: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Sum over labelled samples; for one that is mixed with its partner, each label by its share."""

    def against(labels_B: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(
            logits_BC, labels_B, ignore_index=UNSCORED, reduction=reduction, label_smoothing=smoothing
        )

    labels_B = batch["labels"]
    if "label_weight" not in batch:
        return against(labels_B, "sum")
    weight_B = batch["label_weight"]
    loss_B = weight_B * against(labels_B, "none") + (1 - weight_B) * against(batch["partner_labels"], "none")
    return torch.where(labels_B == UNSCORED, 0.0, loss_B).sum()


def _logits(network: nn.Module, batch: Batch) -> Tensor:
    logits_BC: Tensor = network(batch["inputs"], **context_of(batch)).predictions["classification"]
    return logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))
