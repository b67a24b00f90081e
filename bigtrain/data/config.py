"""Settings about splits that several kinds of data share; torch-free."""

from __future__ import annotations

from typing import Any

from bigtrain.config.settings import Invalid, setting

VAL_FRACTION = 0.1  # where val_fraction is not given


def val_fraction_setting() -> Any:
    """For data of which train may come without val."""
    return setting(
        None,
        "Part of train held out for validation where val has no file of its own, drawn by a hash of the texts; "
        f"default: {VAL_FRACTION}.",
        above=0,
        below=1,
        before=None,
    )


def fraction_problems(split: str) -> list[Invalid]:
    """What is wrong with the fractions of a `split`."""
    try:
        fractions = [float(part) for part in split.split(",")]
    except ValueError:
        fractions = []
    train_and_val = len(fractions) == 3 and all(part > 0 for part in fractions[:2])
    if not train_and_val or not fractions[2] >= 0 or not abs(sum(fractions) - 1) <= 1e-6:
        return [
            Invalid(
                "split",
                f"is {split!r}; allowed: three fractions train,val,test that add up to 1, train "
                "and val above 0, for instance 0.9,0.05,0.05",
            )
        ]
    return []


def one_path(path: str | None) -> Invalid:
    """What is wrong where path and train_path are both given, or neither of them."""
    if path:
        return Invalid("path", "and train_path are both given; give path, which is split, or train_path and val_path")
    return Invalid("path", "is missing; give data.path=<your file or folder>, or data.train_path=… and data.val_path=…")


def path_problems(config: Any, path_holds: str) -> list[Invalid]:
    """What is wrong with path, train_path, val_path, test_path and val_fraction together."""
    found = [one_path(config.path)] if bool(config.path) == bool(config.train_path) else []
    if config.val_path and config.val_fraction is not None:
        sentence = f"is {config.val_fraction}, but nothing is held out where val_path is given"
        found.append(Invalid("val_fraction", sentence))
    if config.path and (config.val_path or config.test_path):
        found.append(Invalid("path", f"{path_holds}; give train_path instead to use val_path or test_path"))
    return found
