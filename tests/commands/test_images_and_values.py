"""Images from a folder and values to predict, through the command: trained, evaluated, and refused with a sentence."""

import json

import numpy as np
from PIL import Image

SHORT = ("trainer.gpus=0", "trainer.max_duration=30step", "trainer.batch_size=32")
SMALL = ("model.widths=[4,8]", "model.hidden_size=16")


def shaded(folder, count=60):
    """Two classes of images, dark and bright, of different sizes."""
    generator = np.random.default_rng(0)
    for name, level in (("dark", 60), ("bright", 180)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            size = generator.integers(8, 14, size=2)
            pixels = generator.normal(level, 20, size).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_of_images_is_learnt_and_damage_in_it_is_named(shell):
    folder = shaded(shell.folder / "shades")
    words = ("model=cnn", "data=image_folder", f"data.path={folder}", "data.cache_dir=cache", "data.channels=1")
    assert "data.size=" in shell.run(*words, *SMALL, *SHORT, code=3).stderr
    shell.run(*words, *SMALL, *SHORT, "data.size=8", "name=shades")
    run = next(run for run in shell.runs() if run.parent.name == "shades" and (run / "checkpoints" / "best").exists())
    report = shell.run("eval", f"checkpoint={run}")
    assert json.loads((run / "eval.json").read_text())["metrics"]["accuracy"] > 0.9
    assert "accuracy" in report.stdout
    (folder / "dark" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    said = shell.run("eval", f"checkpoint={run}", code=3).stderr
    assert "error[DATA-IMAGE]" in said and "dark/3.png" in said


def test_values_are_predicted_and_shown(shell):
    words = ("model=cnn", "data=synthetic/disks", "task=regression", "data.train_samples=500", "data.eval_samples=100")
    out = shell.run(*words, *SMALL, *SHORT, "name=disks").stdout
    assert "above optimum" in out and "r2" in out
    (run,) = shell.runs()
    shell.run("eval", f"checkpoint={run}")
    metrics = json.loads((run / "eval.json").read_text())["metrics"]
    assert set(metrics) == {"loss", "mse", "mae", "r2", "excess"} and metrics["loss"] < 2
    assert "samples are switched off" not in out


def test_a_pickled_cifar_is_refused(shell):
    (shell.folder / "cifar").mkdir()
    (shell.folder / "cifar" / "data_batch_1").write_bytes(b"\x80\x02}q")
    said = shell.run("model=cnn", "data=cifar10", "data.path=cifar", *SHORT, code=3).stderr
    assert "error[DATA-CIFAR]" in said and "binary version" in said


def test_six_images_are_measured_and_what_is_not_is_said(shell):
    words = ("model=cnn", "data=image_folder", "data.cache_dir=cache", "data.size=8", *SMALL, "trainer.gpus=0")
    words += ("trainer.max_duration=2step", "trainer.batch_size=2")
    out = shell.run(*words, f"data.path={shaded(shell.folder / 'few', count=3)}").stdout
    assert "train 2, val 2, test 2 images" in out and "test, best" in out
    done = shell.run(*words, f"data.path={shaded(shell.folder / 'single', count=1)}")
    assert "val has no samples; add images" in done.stderr
    assert "only the loss of training is measured; data.val_fraction gives one" in done.stdout
    assert "no metrics: there is neither a val nor a test split" in done.stdout
