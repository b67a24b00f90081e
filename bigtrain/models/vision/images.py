"""The check of the data that backbones for images share."""

from __future__ import annotations

from bigtrain.data.base import DataSpec
from bigtrain.errors import ConfigError


def image_shape(model: str, data_spec: DataSpec) -> tuple[int, int, int]:
    """Channels, height and width. Raises ConfigError, naming the `model`, where the data has no images."""
    if data_spec.kind != "images" or data_spec.input_shape is None:
        raise ConfigError.of(
            "MODEL-DATA",
            f"model={model} reads images, but this data gives {data_spec.kind}",
            fix="choose data that gives images, for instance data=fashion_mnist, or another model",
        )
    channels, height, width = data_spec.input_shape
    return channels, height, width
