"""Classification of images, vectors and sentences: loss, accuracy, top-5 accuracy, macro F1, predictions to show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.data.base import DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError
from bigtrain.nn.cross_entropy import UNSCORED
from bigtrain.nn.features import context_of
from bigtrain.nn.heads import PooledHead
from bigtrain.tasks.base import Batch, LossOutput, LossTerm
from bigtrain.tasks.config import ClassificationConfig
from bigtrain.tasks.inputs import Inputs

TOP = 5


class Classification:
    """Head `classification`; term `loss`, nats per sample. A label of UNSCORED counts for nothing.

    In evaluation the statistics are `confusion` (C, C), rows true and columns predicted, and, where C > 5,
    `top5`: samples whose label is among the five most probable classes.
    """

    needs_partners = False

    def __init__(self, config: ClassificationConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        if data_spec.num_classes is None:
            raise ConfigError.of(
                "TASK-DATA",
                f"task=classification needs labelled samples, but this data gives {data_spec.kind}",
                fix="choose data with labels, for instance data=fashion_mnist, or task=language_modeling",
            )
        self.data_spec = data_spec
        self.num_classes = data_spec.num_classes
        self._label_smoothing = config.label_smoothing
        self._inputs = Inputs(data_spec)

    def build_heads(self, hidden_size: int, model_config: object) -> dict[str, nn.Module]:
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
        """Class probabilities (B, C) of a collated batch. The caller puts the network into eval mode."""
        return _logits(network, batch).softmax(dim=-1)

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
