"""The report that a run leaves: what it says of a run that memorises, and that curves and levers are real."""

import csv
import random

from PIL import Image

from .conftest import MODEL

WORDS = [
    *MODEL,
    "task=classification",
    "data=text_classification",
    "data.path=coins.csv",
    "data.tokenizer=char",
    "data.cache_dir=cache",
    "data.sequence_length=16",
    "trainer.gpus=0",
    "trainer.batch_size=16",
    "trainer.max_duration=120step",
    "trainer.eval_every=20step",
    "optimizer.learning_rate=2e-2",
]


def coins(path, count=120):
    """Texts whose labels can only be memorised."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows(["".join(draw.choices("abcdefgh", k=12)), draw.choice(["head", "tail"])] for _ in range(count))


def test_a_run_that_learns_by_heart_is_told_so_with_levers_that_work(shell):
    coins(shell.folder / "coins.csv")
    done = shell.run(*WORDS)
    (run,) = shell.runs()
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("overfitting after step")]
    text, page = (run / "report.md").read_text(), (run / "report.html").read_text()
    sentence, _, levers = said.partition("; not tried yet: ")
    for document in (text, page):
        assert sentence[1:] in document and "Early stopping with a patience of 3 evaluations" in document
    assert len(levers.split(", ")) > 2 and all(f"`{lever}`" in text for lever in levers.split(", "))
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 400
    patience = "trainer.early_stopping.patience=3"
    assert patience in levers.split(", ")
    shell.run(*WORDS, patience)
    stopped = [path for path in shell.runs() if path != run]
    stop = text.partition("would have ended the run at step ")[2].partition(", with the weights of step ")
    assert shell.status(stopped[0])["step"] == int(stop[0])
    assert shell.status(stopped[0])["best"]["step"] == int(stop[2].partition(".")[0])


def test_a_run_that_learns_what_holds_is_not_warned(shell):
    done = shell.run(
        "model=mlp",
        "data=glyphs",
        "data.train_images=4000",
        "data.test_images=100",
        "trainer.gpus=0",
        "trainer.max_duration=60step",
        "trainer.eval_every=20step",
    )
    (run,) = shell.runs()
    assert "overfitting after" not in done.stdout
    assert "## Overfitting" in (run / "report.md").read_text()
