"""Config-driven training: pretrain, finetune, evaluate, iterate."""

__version__ = "0.2.0"
