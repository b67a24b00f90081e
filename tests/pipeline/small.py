"""A pipeline of two trainings and an evaluation that takes a second."""

from __future__ import annotations

from pathlib import Path

SMALL = """overrides:
  - model=mlp
  - model.widths=[8,8]
  - data=synthetic/gaussian_mixture
  - data.train_samples=2000
  - data.eval_samples=500
  - trainer.batch_size=64
  - trainer.max_duration=20step
  - trainer.eval_every=10step
  - trainer.save_every=5step
  - trainer.gpus=0
  - seed=1
stages:
  pretrain:
    overrides: [data.draw_seed=1]
  finetune:
    init_from: pretrain
    overrides: [optimizer.learning_rate=1e-2]
  measure:
    evaluate: finetune
    split: test
"""


def write_pipeline(folder: Path, name: str, text: str) -> None:
    """The YAML in a folder for -cd."""
    path = folder / "pipeline" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
