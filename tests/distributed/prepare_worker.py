"""One rank of test_prepared_data.py: `prepare_worker.py FOLDER` says what it has tokenised, and which files it maps."""

import json
import os
import sys
from pathlib import Path

from bigtrain.config.run import TrainerConfig
from bigtrain.data.text import shards
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.data.text.text_corpus import TextCorpus
from bigtrain.distributed.world import join_world


def main(folder):
    """Prepares the corpus in the folder as a training does."""
    tokenised = []
    encode = shards._encode
    shards._encode = lambda shard, *rest: tokenised.append(len(shard)) or encode(shard, *rest)
    with join_world(TrainerConfig(gpus="0")) as world:
        with world.main_first("data"):
            data = TextCorpus(TextCorpusConfig(path=str(folder / "text.txt"), cache_dir=str(folder / "cache")))
        streams = sorted((folder / "cache/text").rglob("*.npy"))
        mapped = Path("/proc/self/maps").read_text()
        found = {path.name: path.stat().st_ino for path in streams if f"{path.stat().st_ino} " in mapped}
        facts = {"tokenised": tokenised, "mapped": found, "fingerprint": data.spec.fingerprint}
        (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
