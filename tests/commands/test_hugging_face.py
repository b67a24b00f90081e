"""`bigtrain export`, and `init_from=` a Hugging Face folder, through the installed command."""

import json
import shutil
import signal

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from bigtrain.commands.loading import load
from bigtrain.distributed.world import lone_world

from .conftest import Shell
from .test_resume_command import final_bytes, kill_after_rows

RUN = [
    "model=llama",
    "data=text_corpus",
    "data.path=story.txt",
    "data.sequence_length=16",
    "data.cache_dir=cache",
    "trainer.gpus=0",
    "trainer.batch_size=8",
    "tracking.tensorboard=false",
    "tracking.samples=false",
]
SHAPE = ["model.hidden_size=16", "model.num_layers=1"]
TOKENS = ["data.tokenizer=bpe", "data.vocab_size=280"]
FINETUNE = [*RUN, "init_from=hub", "model.dropout=0.1", "trainer.max_duration=20step", "trainer.log_every=1"]
ONE_STEP = "trainer.max_duration=1step"
WORDS = ["the cat", "sat on", "a mat;", "Ünïcode 日本", "it isn't"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A shell with a Llama that has learnt its tokens, the folder `hub/` of it, and a finetuned one; left as it is."""
    shell = Shell(tmp_path_factory.mktemp("original"))
    text = " ".join(WORDS[number * number % 23 % 5] for number in range(4000))
    (shell.folder / "story.txt").write_text(text, encoding="utf-8")
    shell.run(*RUN, *SHAPE, *TOKENS, "trainer.max_duration=4step", "trainer.ema_decay=0.5", "name=first")
    (run,) = shell.runs()
    done = shell.run("export", f"checkpoint={run}", "path=hub/")
    assert "left out" not in done.stdout
    shell.console = shell.run(*FINETUNE, "name=second").stdout
    return shell


@pytest.fixture
def hub(original, shell):
    """A copy of it, to work in."""
    shutil.copytree(original.folder, shell.folder, dirs_exist_ok=True)
    return shell


def run_named(shell, name):
    return next(run for run in shell.runs() if run.parent.name == name)


def config_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def test_what_is_exported_is_what_transformers_computes(original):
    transformers = pytest.importorskip("transformers")
    folder, text = original.folder / "hub", "the cat sat on 日本; it isn't"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    loaded = load(str(run_named(original, "first")), lone_world("0"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert np.array_equal(ids[0].numpy(), loaded.tokenizer.encode(text))
    with torch.inference_mode():
        ours = loaded.network.eval()(ids).predictions["language_model"].logits()
        torch.testing.assert_close(theirs(ids).logits, ours, rtol=1e-4, atol=1e-4)


def test_a_folder_brings_settings_weights_and_tokenizer(original):
    folder, run = original.folder / "hub", run_named(original, "second")
    assert f"init_from: text becomes tokens as {folder}/tokenizer.json has it" in original.console
    assert f"init_from: 9 of 9 tensors loaded from {folder}" in original.console
    config = config_of(run)
    assert (config["init_from"], config["model"]["hidden_size"], config["model"]["dropout"]) == (str(folder), 16, 0.1)
    assert (config["data"]["tokenizer"], config["data"]["tokenizer_path"]) == ("file", f"{folder}/tokenizer.json")
    first = original.rows(run_named(original, "first"))
    assert original.rows(run)[0]["train/loss"] < first[0]["train/loss"]


def test_weights_that_come_in_go_out_as_they_were(hub):
    hub.run(*FINETUNE, ONE_STEP, "optimizer.learning_rate=1e-30", "model.dropout=0.0", "name=still")
    hub.run("export", f"checkpoint={run_named(hub, 'still')}", "path=again")
    first, again = (safetensors.torch.load_file(hub.folder / name / "model.safetensors") for name in ("hub", "again"))
    assert first.keys() == again.keys()
    assert all(first[name].equal(again[name]) for name in first)
    for name in ("tokenizer.json", "config.json"):
        before, after = (json.loads((hub.folder / folder / name).read_text()) for folder in ("hub", "again"))
        assert before == after


def test_a_killed_finetune_goes_on_without_the_folder(hub):
    process = hub.start(*FINETUNE, "trainer.max_duration=300step", "name=killed")
    kill_after_rows(hub, process, 5, signal.SIGTERM)
    shutil.rmtree(hub.folder / "hub")
    hub.run("resume=latest")
    assert hub.status(run_named(hub, "killed"))["state"] == "finished"


def test_a_finetune_killed_before_its_first_checkpoint_reads_the_folder_again(hub):
    process = hub.start(*FINETUNE, "trainer.save_every=null", "trainer.eval_every=null", "name=killed")
    assert kill_after_rows(hub, process, 2, signal.SIGKILL) in (-signal.SIGKILL, 0)
    hub.run(f"resume={run_named(hub, 'killed')}")  # latest means the newest run that has a checkpoint
    assert final_bytes(run_named(hub, "killed"), 20) == final_bytes(run_named(hub, "second"), 20)


def test_two_ranks_start_from_the_folder_too(hub):
    hub.run(*FINETUNE, "model.dropout=0.0", "trainer.processes=2", ONE_STEP, "name=ranks")
    hub.run(*FINETUNE, "model.dropout=0.0", ONE_STEP, "name=alone")
    ranks, alone = (hub.rows(run_named(hub, name))[0]["train/loss"] for name in ("ranks", "alone"))
    assert ranks == pytest.approx(alone, rel=1e-6)


def test_a_tokenizer_that_is_typed_is_held_against_the_folders(hub):
    done = hub.run(*FINETUNE, "data.tokenizer=byte", code=3)
    assert "was trained with another tokenizer than this data has" in done.stderr
    hub.run(*FINETUNE, "data.tokenizer=file", "data.tokenizer_path=hub/tokenizer.json", ONE_STEP)


def test_tokens_added_to_the_folders_own_get_rows_where_they_are_asked_for(hub):
    document = json.loads((hub.folder / "hub/tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document["added_tokens"].append({"id": 280, "content": "<answer>", **flags})
    (hub.folder / "more.json").write_text(json.dumps(document))
    words = [*FINETUNE, "data.tokenizer=file", "data.tokenizer_path=more.json", ONE_STEP, "name=more"]
    refused = hub.run(*words, code=2).stderr
    assert "the data has 281 tokens, but the model has embeddings for 280 only" in refused
    assert "fix:   model.num_embeddings=281 adds rows" in refused
    console = hub.run(*words, "model.num_embeddings=288").stdout
    assert "hub/tokenizer.json: 1" in console
    assert "init_from: 7 embeddings are of no token: kept, and never generated" in console
    assert "init_from: embeddings 280 to 287 are new" in console
    run = run_named(hub, "more")
    assert config_of(run)["model"]["num_embeddings"] == 288
    hub.run("export", f"checkpoint={run}", "path=more")
    assert json.loads((hub.folder / "more/config.json").read_text())["vocab_size"] == 288
    assert "init_from: 7 embeddings are of no token" in hub.run(*FINETUNE, "init_from=more", ONE_STEP).stdout
    refused = hub.run(*RUN, *SHAPE, f"init_from={run}", ONE_STEP, code=4).stderr
    assert "fix:   model.num_embeddings=288, as the checkpoint has" in refused


def test_a_folder_without_a_tokenizer_needs_as_many_tokens(hub):
    (hub.folder / "hub/tokenizer.json").unlink()
    assert "has vectors for 280 tokens, but this data has 256 tokens" in hub.run(*FINETUNE, code=4).stderr
    assert "brings no tokenizer" in hub.run(*FINETUNE, *TOKENS, ONE_STEP).stdout


def test_a_tokenizer_that_can_not_be_used_is_a_sentence_and_another_file_may_have_its_tokens(hub):
    (hub.folder / "hub/tokenizer.json").rename(hub.folder / "good.json")
    (hub.folder / "hub/tokenizer.json").write_text('{"model": 1}')
    for words in ([], ["data.tokenizer=bpe", "data.vocab_size=280"]):  # what is learnt anew is of no use
        done = hub.run(*FINETUNE, *words, code=3)
        assert "hub/tokenizer.json is no tokenizer that bigtrain can use" in done.stderr
        assert "data.tokenizer=bpe" not in done.stderr and "data.tokenizer=file data.tokenizer_path=" in done.stderr
    done = hub.run(*FINETUNE, "data.tokenizer=file", "data.tokenizer_path=good.json", ONE_STEP)
    assert "its tokens are taken to be those of good.json" in done.stdout


def test_a_checkpoint_of_ours_brings_its_tokenizer_too(hub):
    words = [*RUN, *SHAPE, f"init_from={run_named(hub, 'first')}", ONE_STEP, "name=third"]
    assert "init_from: text becomes tokens as" in hub.run(*words).stdout
    config = config_of(run_named(hub, "third"))
    assert config["data"]["tokenizer_path"] == f"{config['init_from']}/tokenizer.json"
    assert "was trained with another tokenizer" in hub.run(*words, "data.tokenizer=char", code=3).stderr


def test_an_export_overwrites_nothing_and_leaves_nothing_half(hub):
    first = f"checkpoint={run_named(hub, 'first')}"
    assert "is there already, and not empty" in hub.run("export", first, "path=hub", code=5).stderr
    refused = hub.run("export", first, "format=onnx", code=2).stderr
    assert "needs a folder to write" in refused and "format is 'onnx'; allowed: hugging_face" in refused
    assert "can't write" in hub.run("export", first, "path=story.txt/out", code=5).stderr
    assert not list(hub.folder.glob("**/.tmp*"))


def test_a_model_without_a_counterpart_is_refused(trained):
    (run,) = trained.runs()
    done = trained.run("export", f"checkpoint={run}", "path=never", code=4)
    assert "model.qk_norm is true, where Llama has false" in done.stderr
    assert "model.activation is relu2, where Llama has swiglu" in done.stderr
    assert not (trained.folder / "never").exists()
