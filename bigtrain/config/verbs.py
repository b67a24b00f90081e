"""The registry of verbs: all that is known of a verb stands in its entry here; no other module lists them. No torch.

A new verb is an entry and a module `commands/<verb>.py` with a function `run(composed)` that returns the exit code; one
with a settings class of its own needs a root YAML, `configs/<verb>.yaml`, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from bigtrain.config.run import CompareConfig, EvalConfig, ExportConfig, GenerateConfig, RunConfig
from bigtrain.planning.config import PlannedRunConfig

DEFAULT = "train"


@dataclass(frozen=True)
class Verb:
    """A verb: its name, what --help says of it, the root class of its settings, whether paths may stand after it."""

    name: str
    help: str
    settings: type
    examples: tuple[str, ...]
    takes_paths: bool = False

    @property
    def root(self) -> str:
        """Name of its root YAML: that of the first verb with the same settings."""
        return next(verb.name for verb in VERBS.values() if verb.settings is self.settings)

    @property
    def schema(self) -> str:
        """The path by which a root YAML names the settings class."""
        return f"schema/{'run' if self.settings is RunConfig else self.root}"

    @property
    def describes_training(self) -> bool:
        """Whether its overrides are those of a training: it trains, or looks at what would be trained."""
        return issubclass(self.settings, RunConfig)

    @property
    def command(self) -> str:
        """Name of the module in commands/ that does it."""
        return self.name.replace("-", "_")

    @property
    def usage(self) -> str:
        """How it is called."""
        name = "" if self.name == DEFAULT else f"{self.name} "
        return f"bigtrain {name}{'PATH PATH… ' if self.takes_paths else ''}[KEY=VALUE…] [FLAGS…]"


_ALL = (
    Verb(
        "train",
        "train a model (the default verb)",
        RunConfig,
        (
            "bigtrain",
            "bigtrain model=cnn optimizer=sgd optimizer.learning_rate=0.05 trainer.max_duration=2epoch",
            "bigtrain data=text_corpus data.path=my_texts/ data.tokenizer=char",
            "bigtrain resume=latest",
            "bigtrain -m optimizer.learning_rate=1e-3,3e-3 model=transformer,cnn",
            "bigtrain -m sweep=optuna 'optimizer.learning_rate=interval(1e-4,1e-2)' sweep.trials=20",
            "bigtrain -m sweep=scaling model.hidden_size=64,128,256 trainer.max_duration=1Mtok,3Mtok,10Mtok",
            "bigtrain pipeline=quickstart",
            "bigtrain plugins=[my_package] model=my_model",
        ),
    ),
    Verb(
        "eval",
        "evaluate a checkpoint on a split",
        EvalConfig,
        ("bigtrain eval checkpoint=outputs/<name>/<run>", "bigtrain eval checkpoint=… split=val"),
    ),
    Verb(
        "generate",
        "generate text from a checkpoint",
        GenerateConfig,
        ('bigtrain generate checkpoint=outputs/<name>/<run> prompt="The "',),
    ),
    Verb(
        "export",
        "write a checkpoint in another library's format",
        ExportConfig,
        ("bigtrain export checkpoint=outputs/<name>/<run> path=my_model/",),
    ),
    Verb(
        "plan",
        "before any training: parameters, memory, time, and what would make it fit",
        PlannedRunConfig,
        (
            "bigtrain plan model=gpt2 data.sequence_length=1024 trainer.batch_size=64",
            "bigtrain plan model=llama model.hidden_size=4096 model.num_layers=32 plan.gpu=h100 plan.gpus=64",
        ),
    ),
    Verb(
        "check-data",
        "look for leaked, repeated and wrongly labelled samples",
        RunConfig,
        ("bigtrain check-data", "bigtrain check-data model=cnn data=image_folder data.path=my_images/"),
    ),
    Verb(
        "compare",
        "runs side by side: settings, metrics, cost, curves",
        CompareConfig,
        (
            "bigtrain compare outputs/<name>/<run> outputs/<name>/<other run>",
            "bigtrain compare 'outputs/*/*' metric=val/bits_per_byte",
        ),
        takes_paths=True,
    ),
)

VERBS = {verb.name: verb for verb in _ALL}
"""Name → verb, in the order of --help."""
