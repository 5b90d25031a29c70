"""Instances in models.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec, load_catalogue

ONE = '[[models.m.instances]]\nurl = "http://a:1/v1/"\n'


def loaded(path: Path, text: str) -> ModelSpec:
    file = path / "models.toml"
    file.write_text(f'[models.m]\nengine = "openai"\n{text}')
    return load_catalogue(file)["m"]


def test_an_instance_takes_one_at_a_time_unless_more_is_said(tmp_path: Path) -> None:
    kt = 'url = "https://b/v1"\nkind = "ktransformers"\nmax_batch_size = 4\ncache_lens = 32768\n'
    many = '[[models.m.instances]]\nurl = "http://c/v1"\nconcurrency = 9\nkey_env = "KEY"\nmodel = "big"\n'
    spec = loaded(tmp_path, f"first_token_seconds = 3.0\n{ONE}[[models.m.instances]]\n{kt}{many}")
    assert [each.url for each in spec.instances] == ["http://a:1/v1", "https://b/v1", "http://c/v1"]
    assert [each.jobs for each in spec.instances] == [1, 4, 9]
    assert (spec.most_jobs, spec.offers, spec.first_token_seconds) == (14, ("generate",), 3.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "instances: engine 'openai' needs at least one"),
        (ONE + ONE, "http://a:1/v1 is there twice"),
        ('source = "hub:a/b"\n' + ONE, "source: needed by every engine but"),
        ("max_batch = 4\n" + ONE, "max_batch: engine 'openai' computes nothing here"),
        ('devices = ["cpu"]\n' + ONE, "devices: engine 'openai' computes nothing here"),
        ('tasks = ["rerank"]\n' + ONE, "can't do rerank"),
        (ONE + "concurrency = 0\n", "instances.0.concurrency"),
        (ONE + "cache_lens = 5\n", "belong together"),
        (ONE + "cache_lens = 5\nmax_batch_size = 1\nconcurrency = 2\n", "leave it out"),
        (ONE + 'key_env = "A B"\n', "instances.0.key_env"),
        (ONE + 'kind = "ollama"\n', "instances.0.kind"),
        ('[[models.m.instances]]\nurl = "ftp://a/v1"\n', "instances.0.url: must be http"),
        ('[[models.m.instances]]\nurl = "http://me:pw@a/v1"\n', "no user name"),
        ('[[models.m.instances]]\nurl = "http://a:99999/v1"\n', "is no URL"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        loaded(tmp_path, text)
    assert said in str(error.value)


def test_other_engines_have_no_instances(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[models.m]\nengine = "echo"\ntotal_seconds = 5.0\n')
    with pytest.raises(ConfigurationError, match="total_seconds: only engine 'openai' has it"):
        load_catalogue(file)


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    [instance] = loaded(tmp_path, ONE + 'key_env = "MY_KEY"\n').instances
    assert instance.key({"MY_KEY": "s"}) == "s"
    with pytest.raises(ConfigurationError, match="MY_KEY"):
        instance.key({"MY_KEY": ""})
