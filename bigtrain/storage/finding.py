"""Which checkpoint `checkpoint=` and `init_from=` mean."""

from __future__ import annotations

from pathlib import Path

from bigtrain.errors import CheckpointError
from bigtrain.storage.checkpoint import MANIFEST, STEP_NAME, Checkpoint, CheckpointStore, follow_hint, verify
from bigtrain.storage.together import ALONE, Ranks


def find_checkpoint(where: str, newest_run: Path | None = None, ranks: Ranks = ALONE) -> Checkpoint:
    """The verified checkpoint that `checkpoint=` or `init_from=` means.

    A run directory means its best checkpoint (the newest, if none was marked best); `<run>/checkpoints/best|latest` and
    step directories mean themselves and never fall back; the bare words best and latest mean those of `newest_run`.
    `ranks` that call it together verify a share of the files each.
    """
    path = Path(where).expanduser()
    if where in ("best", "latest") and not path.exists():
        if newest_run is None:
            raise _nothing_at(where, "no run under the output directory has a checkpoint yet")
        path = newest_run / "checkpoints" / where
    if (path / MANIFEST).is_file() or STEP_NAME.fullmatch(path.name):
        if not path.is_dir():
            raise _nothing_at(where, _choices(path.parent))
        return verify(path, ranks)
    if path.name in ("best", "latest") and path.parent.is_dir():
        target = follow_hint(path)
        if target is None:
            raise _nothing_at(where, _choices(path.parent))
        return verify(target, ranks)
    root = path if path.name == "checkpoints" else path / "checkpoints"
    if not root.is_dir():
        raise _nothing_at(where, "it is neither a run directory nor a checkpoint")
    store = CheckpointStore(root)
    target = store.best()
    if target is not None:
        return verify(target, ranks)
    newest = store.newest(ranks=ranks)
    if newest is None:
        raise _nothing_at(where, "the run has not saved a checkpoint yet")
    return newest


def _choices(root: Path) -> str:
    names = [path.name for path in sorted(root.glob("step-*"))]
    return f"{root} holds {', '.join(names)}" if names else f"{root} holds no checkpoint"


def _nothing_at(where: str, cause: str) -> CheckpointError:
    return CheckpointError.of(
        "CHECKPOINT-MISSING",
        f"no checkpoint at {where}",
        cause=cause,
        fix="give a run directory (outputs/<name>/<run>), one of its checkpoints/step-…, or latest",
    )
