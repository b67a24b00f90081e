"""Settings of every data module; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.kinds import DataConfig
from bigtrain.config.settings import setting
from bigtrain.registry import DATA


class Tokenizer(Enum):
    """How text becomes tokens."""

    byte = "byte"
    char = "char"
    bpe = "bpe"
    file = "file"


BPE_VOCAB_SIZE = 4096  # where vocab_size is not given


@dataclass
class TextConfig(DataConfig):
    """Settings that every text data module shares."""

    provides: ClassVar[str] = "text"

    tokenizer: Tokenizer = setting(
        Tokenizer.byte,
        "byte: UTF-8 bytes; char: the characters of the training split; bpe: pieces of words, learnt from the "
        "training split; file: the tokenizer.json at tokenizer_path.",
    )
    vocab_size: int | None = setting(
        None,
        f"Ids that tokenizer=bpe learns, all 256 bytes and end of text among them; default: {BPE_VOCAB_SIZE}.",
        at_least=257,
        at_most=1 << 18,
    )
    tokenizer_path: str | None = setting(
        None, "For tokenizer=file: a tokenizer.json of Hugging Face's, or of a checkpoint of ours.", path=True
    )
    sequence_length: int = setting(128, "Tokens T that the model sees at once.", at_least=1)
    split: str = setting(
        "0.9,0.05,0.05",
        "Fractions train,val,test, cut between documents (inside, if there is one only); "
        "or nanogpt: the last 10 % of the stream is validation, and there is no test split.",
    )
    cache_dir: str | None = setting(None, "Where prepared data is cached; default: the user's cache folder.", path=True)

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = []
        if self.vocab_size is not None and self.tokenizer is not Tokenizer.bpe:
            found.append(
                f"vocab_size is {self.vocab_size}, but tokenizer={self.tokenizer.value} has no use for it; "
                "leave it out, or set tokenizer=bpe"
            )
        if self.tokenizer is Tokenizer.file and not self.tokenizer_path:
            found.append("tokenizer_path is missing; with tokenizer=file, give the path of a tokenizer.json")
        if self.tokenizer_path is not None and self.tokenizer is not Tokenizer.file:
            found.append(
                f"tokenizer_path is {self.tokenizer_path!r}, but tokenizer={self.tokenizer.value} reads no file; "
                "leave it out, or set tokenizer=file"
            )
        return found + self._split_problems()

    def _split_problems(self) -> list[str]:
        if self.split == "nanogpt":
            return []
        try:
            fractions = [float(part) for part in self.split.split(",")]
        except ValueError:
            fractions = []
        train_and_val = len(fractions) == 3 and all(part > 0 for part in fractions[:2])
        if not train_and_val or not fractions[2] >= 0 or not abs(sum(fractions) - 1) <= 1e-6:
            return [
                f"split is {self.split!r}; allowed: three fractions train,val,test that add up to 1, train "
                "and val above 0, for instance 0.9,0.05,0.05; or nanogpt"
            ]
        return []


@dataclass
class PythonDocsConfig(TextConfig):
    """English from the running Python: `pydoc_data.topics` and the standard library's docstrings."""


@dataclass
class TextCorpusConfig(TextConfig):
    """Any local text: a file, a glob or a directory of .txt, .txt.gz, .jsonl, .jsonl.gz."""

    path: str | None = setting(None, "File, glob or directory to split into train, val and test.", path=True)
    train_path: str | None = setting(None, "Own training files, instead of path.", path=True)
    val_path: str | None = setting(None, "Own validation files.", path=True)
    test_path: str | None = setting(None, "Own test files; default: no test split.", path=True)
    text_key: str = setting("text", "Key of the text in each line of a .jsonl file.")
    document_separator: str = setting(
        "", "Line that ends a document inside a .txt file; empty: a file is one document."
    )

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = super().problems()
        if bool(self.path) == bool(self.train_path):
            found.append(f"path is {self.path!r} and train_path is {self.train_path!r}; give exactly one of the two")
        if self.train_path and not self.val_path:
            found.append("val_path is missing; with train_path, give val_path too")
        if self.path and (self.val_path or self.test_path):
            found.append("path is split by itself; give train_path instead to use val_path or test_path")
        return found


@dataclass
class MarkovConfig(DataConfig):
    """Text from a random Markov chain whose entropy rate, hence the best possible loss, is known."""

    provides: ClassVar[str] = "text"

    vocab_size: int = setting(8, "Symbols V.", at_least=2, at_most=4096)
    order: int = setting(2, "Symbols of context k that decide the next one.", at_least=1, at_most=8)
    concentration: float = setting(
        0.5, "Dirichlet concentration of each row; small: nearly certain.", at_least=1e-3, at_most=1e6
    )
    sequence_length: int = setting(64, "Tokens T that the model sees at once.", at_least=2)
    train_tokens: int = setting(4_000_000, "Length of the training stream, in tokens.", at_least=1)
    eval_tokens: int = setting(
        400_000, "Length of the validation stream and of the test stream, in tokens.", at_least=1
    )
    chain_seed: int = setting(
        0, "Seed of the chain and of its streams (the run's seed leaves the data alone).", at_least=0
    )

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = []
        if self.vocab_size ** (self.order + 1) > 1 << 24:
            found.append(
                f"order is {self.order}: vocab_size ** (order + 1) = {self.vocab_size ** (self.order + 1):,} "
                f"probabilities; at most {1 << 24:,} fit"
            )
        if self.sequence_length < self.order:
            found.append(f"sequence_length is {self.sequence_length}; it must be at least order={self.order}")
        if min(self.train_tokens, self.eval_tokens) <= self.sequence_length:
            found.append("train_tokens and eval_tokens must be longer than sequence_length")
        return found


@dataclass
class CopyConfig(DataConfig):
    """Random symbols, a separator, and a noisy copy to predict: needs attention; the best possible loss is known."""

    provides: ClassVar[str] = "text"

    vocab_size: int = setting(17, "Symbols V, the separator among them.", at_least=3, at_most=27)
    sequence_length: int = setting(
        32,
        "Tokens T that the model sees at once: T/2 symbols, the separator, all but the last of the copy.",
        at_least=2,
    )
    noise: float = setting(
        0.1,
        "Probability that a copied symbol is replaced by one drawn uniformly, itself included.",
        at_least=0,
        at_most=1,
    )
    train_samples: int = setting(100_000, "Training windows.", at_least=1)
    eval_samples: int = setting(10_000, "Windows for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)

    def problems(self) -> list[str]:
        """Rules across fields."""
        if self.sequence_length % 2:
            return [f"sequence_length is {self.sequence_length}; string and copy are equally long, so it must be even"]
        return []


@dataclass
class GaussianMixtureConfig(DataConfig):
    """Vectors from Gaussian classes, all equally likely: the accuracy and the loss of Bayes' rule are known."""

    provides: ClassVar[str] = "vectors"

    features: int = setting(2, "Length F of each vector; of two features a map of the decisions is drawn.", at_least=1)
    classes: int = setting(4, "Gaussian classes C.", at_least=2)
    separation: float = setting(
        4.0, "Mean distance between the means of two classes, in standard deviations.", at_least=0, at_most=1e3
    )
    shared_covariance: bool = setting(
        False, "One covariance for all classes: borders are straight. Otherwise each class has its own."
    )
    train_samples: int = setting(20_000, "Training vectors.", at_least=1)
    eval_samples: int = setting(10_000, "Vectors for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = []
        if self.classes * self.features**2 > 1 << 18:
            found.append(
                f"features is {self.features}: classes * features ** 2 = {self.classes * self.features**2:,} "
                f"covariances; at most {1 << 18:,} are sampled in seconds"
            )
        return found


@dataclass
class RandomLabelsConfig(DataConfig):
    """Images of noise with labels that have nothing to do with them: all learning is by heart (arXiv:1611.03530)."""

    provides: ClassVar[str] = "images"

    classes: int = setting(
        10, "Classes C, all equally likely; no model can do better than ln C.", at_least=2, at_most=256
    )
    size: int = setting(16, "Height and width of each image, in pixels.", at_least=1, at_most=1024)
    train_samples: int = setting(1_000, "Training images: few enough to learn by heart.", at_least=1)
    eval_samples: int = setting(5_000, "Images for validation, and as many to test on.", at_least=1)
    draw_seed: int = setting(0, "Seed of all that is drawn here (the run's seed leaves the data alone).", at_least=0)


@dataclass
class HoldOutConfig(DataConfig):
    """Settings that every image data module shares whose validation images are held out of its training images."""

    provides: ClassVar[str] = "images"

    val_fraction: float = setting(
        1 / 6,
        "Part of the training images held out for validation, drawn by a fixed seed.",
        at_least=0,
        below=1,
    )


@dataclass
class IDXConfig(HoldOutConfig):
    """Images in MNIST's IDX format: four files, plain or .gz, under `path` or where Debian puts them."""

    path: str | None = setting(None, "Directory with the four IDX files; default: the usual places.", path=True)
    prefix: str = setting(
        "",
        "What the names of the four files begin with, for instance emnist-letters-; empty: nothing, or the only set.",
    )
    transpose: bool = setting(False, "Swap rows and columns of each image: EMNIST stores them lying on their side.")
    first_label: int = setting(0, "Number of the first class in the files.", at_least=0, at_most=255)
    labels: list[str] = setting([], "Names of the classes, in order; empty: the numbers.")
    usual_places: list[str] = setting([], "Directories to look in when path is not given.")
    hint: str = setting("", "How to get the files; said when they are missing.")


@dataclass
class GlyphsConfig(HoldOutConfig):
    """MNIST-shaped digits drawn from the fonts that matplotlib ships; cached.

    60,000 and 10,000 of 28 x 28 pixels, with random affine and elastic distortion, stroke, ink, gaps and noise.
    """

    train_images: int = setting(60_000, "Images to train on and to hold validation out of.", at_least=1)
    test_images: int = setting(10_000, "Test images.", at_least=1)
    cache_dir: str | None = setting(None, "Where the images are cached; default: the user's cache folder.", path=True)


DATA.register("python_docs", PythonDocsConfig, factory="bigtrain.data.python_docs:PythonDocs")
DATA.register("text_corpus", TextCorpusConfig, factory="bigtrain.data.text_corpus:TextCorpus")
DATA.register("markov", MarkovConfig, factory="bigtrain.data.markov:Markov")
DATA.register("copy", CopyConfig, factory="bigtrain.data.copy:NoisyCopy")
DATA.register("gaussian_mixture", GaussianMixtureConfig, factory="bigtrain.data.gaussian_mixture:GaussianMixture")
DATA.register("random_labels", RandomLabelsConfig, factory="bigtrain.data.random_labels:RandomLabels")
DATA.register("idx", IDXConfig, factory="bigtrain.data.idx:IDXImages")
DATA.register("glyphs", GlyphsConfig, factory="bigtrain.data.glyphs:Glyphs")
