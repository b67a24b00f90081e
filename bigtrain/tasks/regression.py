"""Regression of images, vectors and sentences: K values per sample; mean square error, mean absolute error, R²."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.run import RunConfig
from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.loader import to_device
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import ConfigError
from bigtrain.nn.features import context_of
from bigtrain.nn.heads import PooledHead
from bigtrain.tasks.base import Batch, LossOutput, LossTerm, Shown, Task, evaluation_mode
from bigtrain.tasks.config import RegressionConfig
from bigtrain.tasks.inputs import Inputs, first_samples

SCATTER_POINTS = 1000  # samples whose predicted values are drawn


class Regression(Task):
    """Head `regression`; term `loss`, the square error of standardised values, averaged over the K of a sample.

    Values are standardised by the training split's mean and standard deviation, so all weigh the same in any unit.
    The other metrics are in the data's units. In evaluation the statistics are sums over samples, (K,) each, of
    standardised values: `square_error`, `absolute_error`, `value` and `value_square`.
    """

    def __init__(self, config: RegressionConfig, data_spec: DataSpec, tokenizer: Tokenizer | None = None):
        if not data_spec.values:
            raise ConfigError.of(
                "TASK-DATA",
                "task=regression needs samples with values, which this data does not give",
                fix="choose data with values, for instance data=synthetic/linear, or task=classification",
            )
        self.data_spec, self.tokenizer = data_spec, tokenizer
        self._inputs = Inputs(data_spec)
        statistics = data_spec.value_normalization
        self._mean_K = torch.tensor(statistics["mean"], dtype=torch.float64, device="cpu")
        self._std_K = torch.tensor(statistics["std"], dtype=torch.float64, device="cpu")

    def build_heads(self, hidden_size: int, model_config: ModelConfig) -> dict[str, nn.Module]:
        """One linear layer on the pooled vector."""
        return {"regression": PooledHead(hidden_size, len(self.data_spec.values))}

    def collate(self, samples: Batch, training: bool) -> Batch:
        """`inputs` as `tasks/inputs.py` has them; `values` (B, K) fp32, standardised."""
        values_BK = (samples["values"].double() - self._mean_K) / self._std_K
        return self._inputs(samples) | {"values": values_BK.float()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Samples."""
        return {"loss": torch.tensor(len(batch["values"]), dtype=torch.float64)}

    def compute_loss(self, network: nn.Module, batch: Batch) -> LossOutput:
        """Sum over samples of the mean square error; statistics in eval mode."""
        values_BK = batch["values"]
        errors_BK = _predictions(network, batch) - values_BK
        term = LossTerm(errors_BK.square().mean(dim=1).sum(), torch.tensor(len(values_BK)))
        statistics = {} if network.training else _statistics(errors_BK.detach().double(), values_BK.double())
        return LossOutput({"loss": term}, statistics)

    def metrics(self, totals: dict[str, Tensor], split: str) -> dict[str, float]:
        """`loss` (standardised), `mse`, `mae` and `r2`, each averaged over the values; and where known `excess` of the
        loss over the best possible. R² is 1 - residual / total sum of squares; of a value that never varies it
        is 0.
        """
        count = totals["loss.count"]
        squares_K, variation_K = totals["square_error"], totals["value_square"] - totals["value"].square() / count
        shares_K = torch.where(variation_K > 0, squares_K / variation_K, 1.0)
        metrics = {
            "loss": float(totals["loss.sum"] / count),
            "mse": float((squares_K * self._std_K.square() / count).mean()),
            "mae": float((totals["absolute_error"] * self._std_K / count).mean()),
            "r2": float(1 - shares_K.mean()),
        }
        if self.data_spec.optimal_loss is not None:
            metrics["excess"] = metrics["loss"] - self.data_spec.optimal_loss
        return metrics

    @torch.inference_mode()
    def predict(self, network: nn.Module, batch: Batch) -> Tensor:
        """Values (B, K) float64 of a collated batch, in the data's units, on the host."""
        with evaluation_mode(network) as device:
            predictions_BK = _predictions(network, to_device(batch, device)).double().cpu()
        return predictions_BK * self._std_K + self._mean_K

    def show(
        self, network: nn.Module, data: DataModule, config: RunConfig, seed: int, totals: dict[str, Tensor]
    ) -> Iterator[Shown]:
        """The predicted values of the first validation samples against the true ones."""
        from bigtrain.tracking.figures import value_scatter  # matplotlib: 0.4 s at first use

        samples = first_samples(data, "val", SCATTER_POINTS)
        predictions_BK = self.predict(network, self.collate(samples, training=False)).numpy()
        yield "val/predictions", value_scatter(samples["values"].numpy(), predictions_BK, data.spec.values)


def _predictions(network: nn.Module, batch: Batch) -> Tensor:
    """Standardised (B, K), at least fp32."""
    predictions_BK: Tensor = network(batch["inputs"], **context_of(batch)).predictions["regression"]
    return predictions_BK.to(torch.promote_types(predictions_BK.dtype, torch.float32))


def _statistics(errors_BK: Tensor, values_BK: Tensor) -> dict[str, Tensor]:
    return {
        "square_error": errors_BK.square().sum(dim=0),
        "absolute_error": errors_BK.abs().sum(dim=0),
        "value": values_BK.sum(dim=0),
        "value_square": values_BK.square().sum(dim=0),
    }
