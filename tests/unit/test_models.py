"""The catalogue: what models.toml may say, and that whatever is wrong in it is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ktqueue.errors import ConfigurationError, UnknownModel, UnsupportedTask
from ktqueue.models import TASKS_OF, ModelSpec, Place, Weights, load_catalogue
from ktqueue.settings import Settings

CAUSAL = 'engine = "causal"\nsource = "hub:owner/name"\n'
ENCODER = 'engine = "encoder"\nsource = "hub:owner/name"\n'
ECHO = 'engine = "echo"\n'


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "models.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


Written = Callable[[str | bytes], Path]


def spec(written: Written, table: str) -> ModelSpec:
    return load_catalogue(written(f"[models.m]\n{table}"))["m"]


def test_the_catalogue_that_ships_is_good_and_has_what_the_readme_names() -> None:
    catalogue = load_catalogue(Settings().models)

    assert list(catalogue) == ["smollm2-135m", "minilm-l6", "echo"]
    assert [one.offers[0] for one in catalogue.values()] == ["generate", "embed", "echo"]


def test_a_plain_entry_has_sensible_defaults(written: Written) -> None:
    model = spec(written, CAUSAL)

    assert (model.alias, model.offers, model.dtype, model.device) == ("m", ("generate",), "float32", "auto")
    assert (model.slots, model.faults, model.trust_remote_code) == (1, False, False)


@pytest.mark.parametrize(
    ("table", "places"),
    [
        (CAUSAL, (("auto",),)),
        (CAUSAL + 'device = "cuda:1"\nslots = 2', (("cuda:1",), ("cuda:1",))),
        (ECHO + 'devices = ["cpu", "cpu"]', (("cpu",), ("cpu",))),
        (ENCODER + 'devices = ["cuda:0", ["cuda:1"]]', (("cuda:0",), ("cuda:1",))),
        (CAUSAL + 'devices = [["cuda:0", "cuda:1"]]', (("cuda:0", "cuda:1"),)),
        (CAUSAL + 'devices = [["cpu", "cpu"], "cuda:3", "cuda:3"]', (("cpu", "cpu"), ("cuda:3",), ("cuda:3",))),
    ],
)
def test_each_slot_has_its_place(written: Written, table: str, places: tuple[Place, ...]) -> None:
    assert spec(written, table).places == places


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[models.m\n", "is not TOML: "),
        (b"\xff\xfe", "is not TOML: "),
        (b"", "no model is declared; write a [models.ALIAS] table"),
        (b"models = 3", "no model is declared"),
        (b"[models]", "no model is declared"),
        (b'[model.m]\nengine = "echo"', "unknown entry 'model'; only [models.ALIAS] is known"),
        (b'version = 1\n[models.m]\nengine = "echo"', "unknown entry 'version'"),
    ],
)
def test_a_file_that_is_no_catalogue_is_named(written: Written, text: bytes, said: str) -> None:
    path = written(text)
    with pytest.raises(ConfigurationError) as error:
        load_catalogue(path)

    assert str(error.value).startswith(f"{path}: {said}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"

    with pytest.raises(ConfigurationError) as error:
        load_catalogue(path)
    assert str(error.value) == f"{path}: can't be read: No such file or directory"


@pytest.mark.parametrize(
    ("table", "entry", "said"),
    [
        ("", "engine", "Field required"),
        ('engine = "vllm"', "engine", "Input should be 'echo', 'encoder', 'causal' or 'openai'"),
        (ECHO + "max_bach = 3", "max_bach", "Extra inputs are not permitted"),
        (ECHO + 'alias = "other"', "alias", "is the table's own name"),
        (ECHO + 'max_batch = "3"', "max_batch", "valid integer"),
        (ECHO + "max_batch = 3.0", "max_batch", "valid integer"),
        (ECHO + "max_batch = true", "max_batch", "valid integer"),
        (ECHO + "max_batch = 0", "max_batch", "greater than or equal to 1"),
        (ECHO + "slots = 65", "slots", "less than or equal to 64"),
        (ECHO + "threads = -1", "threads", "greater than or equal to 0"),
        (ECHO + "faults = 1", "faults", "valid boolean"),
        (ECHO + 'faults = "yes"', "faults", "valid boolean"),
        (CAUSAL + 'dtype = "int4"', "dtype", "'float32', 'bfloat16' or 'float16'"),
        (CAUSAL + 'device = "gpu"', "device", "should match pattern"),
        (CAUSAL + 'device = "cuda:x"', "device", "should match pattern"),
        (ECHO + "devices = []", "devices", "at least 1 item"),
        (CAUSAL + "devices = [[]]", "devices.0", "at least 1 item"),
        (CAUSAL + 'devices = "cuda:0"', "devices", "valid tuple"),
        (CAUSAL + "devices = [0]", "devices.0", "valid tuple"),
        (CAUSAL + 'devices = ["auto"]', "devices.0.0", "should match pattern"),
        (CAUSAL + 'devices = ["cuda:0", ["cuda:x"]]', "devices.1.0", "should match pattern"),
        (CAUSAL + 'devices = [["cpu", "cpu"]]\ndraft_tokens = 4', "draft_tokens", "the stages of a model work ahead"),
        (CAUSAL + "draft_tokens = 65", "draft_tokens", "less than or equal to 64"),
        (ENCODER + "draft_tokens = 4", "draft_tokens", "only engine 'causal' has it"),
        (CAUSAL + 'devices = ["cpu"]\nslots = 1', "devices", "leave out 'device' and 'slots'"),
        (CAUSAL + 'devices = ["cpu"]\ndevice = "auto"', "devices", "leave out 'device' and 'slots'"),
        (ENCODER + 'devices = [["cuda:0", "cuda:1"]]', "devices", "only engine 'causal' spreads a model"),
        (CAUSAL + 'devices = [["cuda", "cuda:1", "cuda:0"]]', "devices", "each on a GPU of their own"),
        (CAUSAL + "context = 7", "context", "greater than or equal to 8"),
        (CAUSAL + "tokens_per_step = 15", "tokens_per_step", "greater than or equal to 16"),
        (CAUSAL + 'trust_remote_code = "false"', "trust_remote_code", "valid boolean"),
        (ENCODER + 'tasks = "embed"', "tasks", "valid tuple"),
        (ENCODER + "tasks = [1]", "tasks.0", "Input should be"),
        (ENCODER + 'tasks = ["sing"]', "tasks.0", "Input should be"),
        (ENCODER + 'tasks = ["embed", "generate"]', "tasks", "engine 'encoder' can't do generate; it can do: embed, "),
        (CAUSAL + 'tasks = ["echo"]', "tasks", "engine 'causal' can't do echo; it can do: generate"),
        ('engine = "causal"', "source", "needed by every engine but 'echo' and 'openai', which have none"),
        (ECHO + 'source = "hub:a/b"', "source", "needed by every engine but 'echo' and 'openai', which have none"),
        ('engine = "causal"\nsource = ""', "source", "must be package:"),
        ('engine = "causal"\nsource = "gpt2"', "source", "must be package:"),
        ('engine = "causal"\nsource = "hub:gpt2"', "source", "must be package:"),
        ('engine = "causal"\nsource = "https://example.org/m"', "source", "must be package:"),
        ('engine = "causal"\nsource = 3', "source", "valid string"),
        (CAUSAL + "faults = true", "faults", "only engine 'echo' has them"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file_and_alias(written: Written, table: str, entry: str, said: str) -> None:
    path = written(f"[models.m]\n{table}")
    with pytest.raises(ConfigurationError) as error:
        load_catalogue(path)

    message = str(error.value)
    assert message.startswith(f"{path}: [models.m]: {entry}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("alias", ["", "M", "-m", "a b", "a/b", "ä", "m" * 64])
def test_a_bad_alias_is_named(written: Written, alias: str) -> None:
    path = written(f'[models."{alias}"]\n{ECHO}')

    with pytest.raises(ConfigurationError) as error:
        load_catalogue(path)
    assert str(error.value).startswith(f"{path}: [models.{alias}]: an alias is 1-63 of a-z")


def test_an_alias_that_is_no_table_is_named(written: Written) -> None:
    path = written("[models]\nm = 3")

    with pytest.raises(ConfigurationError) as error:
        load_catalogue(path)
    assert str(error.value) == f"{path}: [models.m]: must be a table"


@pytest.mark.parametrize("alias", ["m", "0", "llama-3.1_8b", "m" * 63])
def test_a_good_alias_is_taken(written: Written, alias: str) -> None:
    assert list(load_catalogue(written(f'[models."{alias}"]\n{ECHO}'))) == [alias]


# --- tasks -----------------------------------------------------------------------------------------------------


def test_every_engine_offers_its_first_task_unless_told_otherwise(written: Written) -> None:
    assert [spec(written, table).offers for table in (ECHO, CAUSAL, ENCODER)] == [
        ("echo",),
        ("generate",),
        ("embed",),
    ]
    assert spec(written, ENCODER + 'tasks = ["rerank", "embed"]').offers == ("rerank", "embed")
    assert set(TASKS_OF) == {"echo", "encoder", "causal", "openai"}


def test_the_first_task_is_the_default_and_others_are_asked_for_by_name(written: Written) -> None:
    model = spec(written, ENCODER + 'tasks = ["rerank", "embed"]')

    assert (model.task(None), model.task("embed")) == ("rerank", "embed")
    with pytest.raises(UnsupportedTask, match="'m' can't do 'generate'; it can do: rerank, embed") as refusal:
        model.task("generate")
    assert refusal.value.field == "task"


def test_an_unknown_model_is_named_with_those_there_are(written: Written) -> None:
    catalogue = load_catalogue(written(f"[models.b]\n{ECHO}[models.a]\n{ECHO}"))

    with pytest.raises(UnknownModel, match="no model named 'c'; there are: a, b") as refusal:
        catalogue["c"]
    assert refusal.value.known == ["a", "b"]
    assert "c" not in catalogue
    assert (len(catalogue), list(catalogue)) == (2, ["b", "a"])


# --- weights ---------------------------------------------------------------------------------------------------


def weights(written: Written, source: str) -> Weights:
    return spec(written, f'engine = "causal"\nsource = "{source}"').weights()


def test_a_hub_id_is_taken_as_it_is(written: Written) -> None:
    assert weights(written, "hub:owner/na.me-1") == Weights("owner/na.me-1")
    assert weights(written, "hub:owner/name@v1.0") == Weights("owner/name", revision="v1.0")


def test_a_path_is_a_folder_or_a_gguf_file(written: Written, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.gguf").touch()

    assert weights(written, f"path:{folder}") == Weights(str(folder))
    assert weights(written, f"path:{folder}/m.gguf") == Weights(str(folder), gguf="m.gguf")


def test_a_path_may_start_at_home(written: Written) -> None:
    assert weights(written, "path:~") == Weights(str(Path.home()))


def test_a_package_is_found_without_being_imported(written: Written) -> None:
    import ktqueue

    home = Path(ktqueue.__file__).parent
    assert weights(written, "package:ktqueue") == Weights(str(home))
    assert weights(written, "package:ktqueue/store") == Weights(str(home / "store"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package:no_such_package/x", "model 'm': the package 'no_such_package' is not installed"),
        ("package:this", "model 'm': the package 'this' is not installed"),
        ("package:ktqueue/no/such/file", "no/such/file does not exist"),
        ("package:ktqueue/job.py", "job.py is neither a folder nor a .gguf file"),
        ("path:/no/such/folder", "model 'm': /no/such/folder does not exist"),
    ],
)
def test_weights_that_are_not_there_are_named(written: Written, source: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        weights(written, source)

    assert str(error.value).startswith("model 'm': ")
    assert said in str(error.value)


def test_a_model_without_weights_has_none_to_find(written: Written) -> None:
    with pytest.raises(ConfigurationError, match="model 'm' has no weights"):
        spec(written, ECHO).weights()
