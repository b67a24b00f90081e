"""A saved config comes back exactly; it holds no secret, names no code, and is read strictly."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.config.redact import HIDDEN, is_secret_key, redact, redact_overrides, redact_text
from bigtrain.config.saved import VERSION, config_from_document, document_text, load_config, with_later_settings
from bigtrain.config.schema import field_types, without_none
from bigtrain.errors import ConfigError
from bigtrain.registry import REGISTRIES
from tests.config.composing import composed

CHOICES = {
    "model": st.sampled_from(["transformer", "gpt2", "cnn"]),
    "optimizer": st.sampled_from(["adamw", "sgd"]),
    "scheduler": st.sampled_from(["cosine", "linear", "constant"]),
}
TEXT = st.text(max_size=20).filter(lambda text: "\x00" not in text and text.isprintable())
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


def words_of(draw) -> list[str]:
    return [f"{group}={draw(choice)}" for group, choice in CHOICES.items()]


@settings(max_examples=settings().max_examples // 12)
@given(st.data())
def test_a_config_survives_json_and_yaml(tmp_path_factory, data):
    words = words_of(data.draw)
    rate = data.draw(st.floats(1e-9, 10))
    run = composed(*words, f"optimizer.learning_rate={rate}", f"seed={data.draw(st.integers(0, 2**40))}")
    assert config_from_document(json.loads(json.dumps(run.document))) == run.config
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    path.write_text(document_text(run.document))
    assert load_config(path) == run.config


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
)
def test_every_registered_part_survives(kind, name):
    document = composed().document
    part = REGISTRIES[kind][name].config_class()
    plain = {key: getattr(value, "name", value) for key, value in dataclasses.asdict(part).items()}
    document[kind] = plain
    document["_bigtrain_"]["kinds"][kind] = name
    assert getattr(config_from_document(json.loads(json.dumps(document))), kind) == part


@settings(max_examples=settings().max_examples // 5)  # each composes a whole config
@given(st.dictionaries(st.sampled_from(["note", "other", "third"]), PLAIN, max_size=3))
def test_extra_and_text_survive_whatever_they_hold(extra):
    document = composed().document
    document["extra"] = extra
    try:
        config = config_from_document(document)
    except ConfigError as error:  # only what looks like a reference may be refused
        assert "${" in json.dumps(extra, ensure_ascii=False), error
    else:
        if "${" not in json.dumps(extra, ensure_ascii=False):
            assert config.extra == extra


def test_prompt_with_braces_survives():
    run = composed("tracking.sample_prompt=${seed} \\${x} {y}")
    assert run.config.tracking.sample_prompt == "${seed} \\${x} {y}"
    assert config_from_document(json.loads(json.dumps(run.document))) == run.config


def test_document_names_parts_and_choices():
    mark = composed("model=gpt2", "data=synthetic/markov").document["_bigtrain_"]
    assert mark["version"] == VERSION
    assert mark["kinds"] == {
        "model": "transformer",
        "data": "markov",
        "task": "language_modeling",
        "optimizer": "adamw",
        "scheduler": "cosine",
    }
    assert (mark["choices"]["model"], mark["choices"]["data"]) == ("gpt2", "synthetic/markov")


def test_references_are_resolved_and_the_environment_is_kept(monkeypatch):
    monkeypatch.setenv("PLACE", "/secret/place")
    run = composed("output_dir=${oc.env:PLACE}", "+extra.a=${seed}", "+extra.b=${output_dir}/x", "+extra.c=${.b}")
    assert run.config.output_dir == "/secret/place"
    assert run.config.extra == {"a": 0, "b": "/secret/place/x", "c": "/secret/place/x"}
    assert run.document["output_dir"] == "${oc.env:PLACE}"
    assert run.document["extra"]["a"] == 0
    assert "/secret/place" not in json.dumps(run.document)
    assert config_from_document(run.document) == run.config
    monkeypatch.delenv("PLACE")
    with pytest.raises(ConfigError, match="PLACE"):
        config_from_document(run.document)


def test_a_whole_group_that_reads_the_environment_is_kept_as_a_reference(monkeypatch):
    monkeypatch.setenv("PLACE", "/secret/place")
    run = composed("data=text_corpus", "data.path=${oc.env:PLACE}", "+extra.copy=${data}")
    assert run.config.extra["copy"]["path"] == "/secret/place"
    assert "/secret/place" not in json.dumps(run.document)


def test_secrets_are_nowhere(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "s3cr3t")
    run = composed(
        "+extra.hf_token=s3cr3t",
        "+extra.apiKey=s3cr3t",
        "+extra.inner={password:s3cr3t,note:fine}",
        "+extra.token=${oc.env:HF_TOKEN}",
        "+extra.db='https://me:s3cr3t@host/x?api_key=s3cr3t&a=1'",
    )
    assert run.config.extra["hf_token"] == "s3cr3t"
    assert "s3cr3t" not in json.dumps(run.document) + "".join(run.overrides)
    assert run.document["extra"]["token"] == "${oc.env:HF_TOKEN}"
    assert run.document["extra"]["inner"] == {"password": HIDDEN, "note": "fine"}
    assert run.document["extra"]["db"] == f"https://{HIDDEN}@host/x?api_key={HIDDEN}&a=1"


@pytest.mark.parametrize(
    "key", ["token", "hf_token", "HF_TOKEN", "authToken", "a.secret", "passwd", "api_key", "credentials"]
)
def test_secret_keys(key):
    assert is_secret_key(key)
    assert redact_overrides([f"+extra.{key}=x", f"+extra.y={{{key}:x}}"]) == (
        f"+extra.{key}={HIDDEN}",
        f"+extra.y={HIDDEN}",
    )


@pytest.mark.parametrize("key", ["tokenizer", "max_tokens", "sample_tokens", "data.tokenizer", "pass", "bypass_x"])
def test_ordinary_keys(key):
    assert not is_secret_key(key)


def test_no_setting_of_ours_is_taken_for_a_secret():
    document = composed("model=cnn").document
    assert redact(document) == document
    assert redact_text("s3://bucket/x:y@z") == "s3://bucket/x:y@z"


def test_a_config_that_was_saved_before_a_table_had_settings_is_read():
    run = composed("data=text_classification", "data.path=a.csv", "task=classification", "data.text_column=[a,b]")
    document = copy.deepcopy(run.document)
    for name in ("separator", "quotes", "encoding", "val_fraction"):
        del document["data"][name]
    document["data"]["text_column"] = "body"  # as it was when there could be one only
    config = config_from_document(document)
    assert (config.data.encoding, config.data.text_column) == (None, ["body"])
    assert config_from_document(run.document) == run.config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(sed=1), "sed is not a setting"),
        (lambda d: d.pop("seed"), "seed is missing"),
        (lambda d: d["model"].pop("num_layers"), "model.num_layers is missing"),
        (lambda d: d["model"].update(num_layers="many"), "it must be a whole number"),
        (lambda d: d["model"].update(_target_="os.system"), "model._target_ is not a setting"),
        (lambda d: d["model"].update(norm="os.system"), "one of layernorm, rmsnorm"),
        (lambda d: d["_bigtrain_"]["kinds"].update(model="os:system"), "which is not registered"),
        (lambda d: d["_bigtrain_"]["kinds"].update(model=["cnn"]), "which is not registered"),
        (lambda d: d["_bigtrain_"].update(version=0), "saved config of version"),
        (lambda d: d.pop("_bigtrain_"), "saved config of version"),
        (lambda d: d.update(_bigtrain_=3), "saved config of version"),
        (lambda d: d.update(model=None), "it must be a group of settings"),
        (lambda d: d.update(name="${oc.decode:x}"), "is not allowed"),
        (lambda d: d.update(hydra={"callbacks": 1}), "hydra is not a setting"),
    ],
)
def test_a_changed_document_is_refused_naming_the_file(change, expected):
    document = copy.deepcopy(composed().document)
    change(document)
    with pytest.raises(ConfigError, match="here.json") as caught:
        config_from_document(document, "here.json")
    assert expected in str(caught.value)


def test_every_setting_has_a_meaning_and_a_type_in_words():
    from bigtrain.config.schema import describe_type, leaves
    from bigtrain.config.verbs import VERBS

    classes = [
        *(verb.settings for verb in VERBS.values()),
        *(entry.config_class for registry in REGISTRIES.values() for entry in registry),
    ]
    for config_class in classes:
        for key, field, hint in leaves(config_class):
            assert field.metadata.get("help"), key
            assert describe_type(hint), key
            assert without_none(field_types(config_class).get(key, hint)) is not None


def test_a_setting_that_came_later_has_the_value_from_before():
    document = composed("model=cnn", "data=image_folder", "data.stratify=true").document
    old = copy.deepcopy(document)
    del old["data"]["stratify"], old["data"]["skip_broken"]
    assert config_from_document(document).data.stratify is True
    assert config_from_document(old).data.stratify is False
    assert with_later_settings(old)["data"] == document["data"] | {"stratify": False}
    assert "stratify" not in old["data"]
