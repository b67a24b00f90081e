"""Hydra config groups; installed as `bigtrain.configs`."""
