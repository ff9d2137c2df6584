import re
from pathlib import Path

import pytest
from msgspec import structs

from gemma3build.errors import ErrorCode
from gemma3build.pins import config
from gemma3build.pins.config import (
    MODELS_LOCK,
    PINS_DIR,
    find_model,
    find_schemes,
    load_images,
    load_models,
    load_scheme,
    load_schemes,
)
from gemma3build.pins.lockfile import (
    IMAGES_LOCK,
    Drift,
    ImagesLock,
    LockedModel,
    ModelsLock,
    current_images,
    image_names,
    images_drift,
    model_drift,
    read_images_lock,
    read_models_lock,
    refuse_drift,
    write_lock,
    write_models_lock,
)
from gemma3build.util.files import FileDigest
from tests.support.errors import raises

UPSTREAM_SUFFIXES = {
    "none": "f32",
    "dynamic_int8": "q8",
    "weight_only_int8": "q8_wo",
    "fp16": "fp16",
    "dynamic_int4_block32": "q4_block32",
    "dynamic_int4_block128": "q4_block128",
}


def test_the_six_schemes_have_upstreams_names_and_suffixes() -> None:
    found = {name: scheme.suffix for name, scheme in load_schemes().items()}
    assert UPSTREAM_SUFFIXES.items() <= found.items()
    assert set(found) - set(UPSTREAM_SUFFIXES) == {
        "upstream_int8",
        "upstream_int4_block32",
        "upstream_int4_block128",
    }


@pytest.mark.parametrize("name", ["dynamic_int4_block32", "dynamic_int4_block128"])
def test_int4_schemes_keep_the_embedding_in_int8(name: str) -> None:
    scheme = load_schemes()[name]
    assert scheme.embedding is not None
    assert scheme.attention is not None
    assert (scheme.embedding.bits, scheme.embedding.block_size) == (8, 0)
    assert scheme.attention.block_size == int(name.rpartition("block")[2])


def test_a_user_adds_a_scheme_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nsuffix = "m"\nsummary = ""\n[attention]\nbits = 8\n')
    first, second = find_schemes((str(path), "dynamic_int8"))
    assert (first.name, second.name) == ("mine", "dynamic_int8")
    assert first.feed_forward is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "m"\nsuffix = "m"\nsummary = ""\nbits = 8\n', "mine.toml.bits: unknown key"),
        (
            'name = "m"\nsuffix = "m"\nsummary = ""\n[attention]\nbits = 3\n',
            "expected one of 4, 8, 16",
        ),
        ('name = "m"\nsuffix = "m"\nsummary = ""\n[attention]\nbits = 16\n', "float_casting"),
        ("name = ", "Invalid value"),
        ('name = "m"\n', "missing key 'suffix'"),
    ],
)
def test_a_wrong_scheme_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with raises(ErrorCode.CONFIG, match=message):
        load_scheme(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[limits]\nkl = inf\n", "inf is not a finite number"),
        ("[limits]\nkl = nan\n", "nan is not a finite number"),
        ("[limits]\nkl = -0.1\n", "limits.kl: expected float >= 0.0"),
        ("[limits]\ntop1 = 1.1\n", "limits.top1: expected float <= 1.0"),
        ("[limits]\ntop1 = nan\n", "nan is not a finite number"),
        ("[limits]\ndeviation = -1\n", "limits.deviation: expected float >= 0.0"),
        ("[limits]\ndeviation = inf\n", "inf is not a finite number"),
        ("[limits]\nnll_increase = nan\n", "nan is not a finite number"),
        (
            '[embedding]\nbits = 4\ngranularity = "blockwise_32"\nalgorithm = "importance"\n',
            "embedding.algorithm: importance is for the matrices of layers",
        ),
        ("[qkv]\nbits = 8\nlayers = 0\n", "qkv.layers: expected int >= 1"),
        ("[qkv]\nbits = 8\nlayers = -1\n", "qkv.layers: expected int >= 1"),
    ],
)
def test_a_scheme_whose_figures_mean_nothing_is_refused(
    tmp_path: Path, table: str, message: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "m"\nsuffix = "m"\nsummary = ""\n{table}')
    with raises(ErrorCode.CONFIG, match=message):
        load_scheme(path)


def test_two_schemes_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nsuffix = "q8"\nsummary = ""\n')
    with raises(ErrorCode.CONFIG, match="would write one file"):
        find_schemes(("dynamic_int8", str(path)))


def test_no_scheme_takes_the_name_of_another(tmp_path: Path) -> None:
    def write(file: str, name: str, bits: int) -> str:
        text = f'name = "{name}"\nsuffix = "m"\nsummary = ""\n[attention]\nbits = {bits}\n'
        (tmp_path / file).write_text(text)
        return str(tmp_path / file)

    mine = write("mine.toml", "mine", 8)
    assert len(find_schemes((mine, write("again.toml", "mine", 8)))) == 1
    shipped = PINS_DIR / "schemes" / "dynamic_int8.toml"
    assert find_schemes((str(shipped),)) == (load_schemes()["dynamic_int8"],)
    for names in ((write("int8.toml", "dynamic_int8", 4),), (mine, write("other.toml", "mine", 4))):
        with raises(ErrorCode.CONFIG, match="another one has its name"):
            find_schemes(names)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with raises(ErrorCode.UNKNOWN_NAME, match="known are gemma3-270m, gemma3-270m-pt"):
        find_model("gemma4")
    with raises(ErrorCode.UNKNOWN_NAME, match="known are none, dynamic_int4_block128"):
        find_schemes(("int2",))


def test_models_carry_the_published_pins() -> None:
    models = load_models()
    assert set(models) == {
        "gemma3-270m",
        "gemma3-270m-pt",
        "gemma3-270m-it",
        "gemma3-1b-pt",
        "gemma3-1b-it",
    }
    assert models["gemma3-1b-it"].shape.parameters == 999_885_952
    for model in models.values():
        assert all(scheme in load_schemes() for scheme in model.schemes)
        assert model.kv_cache_max_len > max(model.prefill_seq_lens)


def test_the_default_model_and_all_images_are_locked() -> None:
    assert not model_drift(
        "gemma3-270m", find_model("gemma3-270m"), read_models_lock().models["gemma3-270m"]
    )
    assert not images_drift(current_images(), read_images_lock())
    assert image_names()[0] == "base"


def test_locks_and_requirements_name_no_host_and_no_clock() -> None:
    requirements = sorted(PINS_DIR.parents[1].glob("containers/*/requirements.txt"))
    assert len(requirements) == 6
    for path in (IMAGES_LOCK, MODELS_LOCK, *requirements):
        text = path.read_text()
        assert not re.search(r"https?:|file:|20\d\d-\d\d-\d\d", text), path
    for path in requirements:
        assert text.count("==") == len(re.findall(r"==\S+ \\\n +--hash=sha256:", text)), path


def test_drift_is_told_field_by_field_with_the_command_that_fixes_it() -> None:
    model = find_model("gemma3-270m")
    locked = read_models_lock().models["gemma3-270m"]
    assert model.packages is not None
    changed = structs.replace(model, packages=structs.replace(model.packages, gguf_sha256="0" * 64))
    (drift,) = model_drift("gemma3-270m", changed, locked)
    assert drift.field == "gemma3-270m.revision"
    with raises(ErrorCode.DRIFT, match=f"revision is {'0' * 64}, the lock says a5fd3b.*`fix`"):
        refuse_drift((drift,), "fix")


def test_a_model_without_a_lock_has_drifted_and_so_has_a_digest_that_differs() -> None:
    model = find_model("gemma3-1b-it")
    assert [drift.field for drift in model_drift("gemma3-1b-it", model, None)] == ["gemma3-1b-it"]
    assert model.hub is not None
    files = tuple(
        FileDigest(path=path, size=1, sha256="0" * 64) for path in sorted(model.hub.sha256)
    )
    locked = structs.replace(
        read_models_lock().models["gemma3-270m"],
        source=model.hub.repo,
        revision=model.hub.revision,
        files=files,
    )
    fields = [drift.field for drift in model_drift("gemma3-1b-it", model, locked)]
    assert fields == ["gemma3-1b-it.files.model.safetensors", "gemma3-1b-it.files.tokenizer.model"]


def test_a_changed_recipe_of_an_image_has_drifted() -> None:
    now = ImagesLock(images={"a": {"Dockerfile": "1", "new": "2"}})
    then = ImagesLock(images={"a": {"Dockerfile": "0"}, "gone": {"Dockerfile": "3"}})
    assert [str(drift) for drift in images_drift(now, then)] == [
        "image a: Dockerfile is 1, the lock says 0",
        "image a: new is 2, the lock says nothing",
        "image gone: Dockerfile is nothing, the lock says 3",
    ]


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(ErrorCode.OUTPUT, match="The lockfile cannot be written"):
        write_lock(read_models_lock(), tmp_path / "file" / "models.lock.json")


def test_a_lock_is_written_whole_and_read_back(tmp_path: Path) -> None:
    lock, path = read_models_lock(), tmp_path / "models.lock.json"
    write_lock(lock, path)
    assert read_models_lock(path) == lock
    assert path.read_bytes() == MODELS_LOCK.read_bytes()
    assert read_models_lock(tmp_path / "none.json") == ModelsLock(models={})
    path.write_text('{"models": {}, "more": 1}')
    with raises(ErrorCode.CONFIG, match="unknown key"):
        read_models_lock(path)


def test_images_are_for_a_parent_with_a_digest() -> None:
    registry = load_images().parent.registry
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", registry)


def test_an_error_names_a_few_of_many_drifts() -> None:
    drifts = tuple(Drift(field=f"f{i}", config="a", locked="b") for i in range(7))
    with raises(ErrorCode.DRIFT, match="f4 is a, the lock says b; and 2 more") as caught:
        refuse_drift(drifts, "fix")
    assert "f5" not in caught.value.why
    with raises(ErrorCode.DRIFT, match="f4 is a, the lock says b. Run `fix`"):
        refuse_drift(drifts[:5], "fix")


MINE = """
[mine]
summary = "my own"
base_model = "me/mine"
prefill_seq_lens = [8]
kv_cache_max_len = 64
context = 256
schemes = ["dynamic_int8"]
shape = { vocab_size = 8, hidden_size = 8, intermediate_size = 8, layers = 1, heads = 1, kv_heads = 1, head_dim = 8 }
hub = { repo = "me/mine", revision = "main" }
"""
LOCKED = LockedModel(source="me/mine", revision="1" * 40, files=())


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, in an empty working directory; returns the user's own directory."""
    monkeypatch.setattr(config, "INSTALLED", True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "config" / "gemma3build"


def test_a_users_models_and_their_lock_are_read_over_those_of_an_installed_package(
    installed: Path,
) -> None:
    shipped, shipped_lock = load_models(), read_models_lock().models
    assert "gemma3-270m" in shipped
    installed.mkdir(parents=True)
    (installed / "models.toml").write_text(MINE)
    path = write_models_lock({**shipped_lock, "mine": LOCKED})
    assert path == installed / "models.lock.json"
    assert list(read_models_lock(path).models) == ["mine"]
    assert load_models().keys() == shipped.keys() | {"mine"}
    assert read_models_lock().models == {**shipped_lock, "mine": LOCKED}
    assert not model_drift("mine", find_model("mine"), LOCKED)

    (installed / "models.toml").write_text(MINE.replace("[mine]", "[gemma3-270m]"))
    assert find_model("gemma3-270m").base_model == "me/mine"
    locked = read_models_lock().models["gemma3-270m"]
    assert [str(drift) for drift in model_drift("gemma3-270m", find_model("gemma3-270m"), locked)]


def test_models_in_the_working_directory_take_the_place_of_the_users_others(
    installed: Path,
) -> None:
    installed.mkdir(parents=True)
    (installed / "models.toml").write_text(MINE)
    Path("models.toml").write_text(MINE.replace("[mine]", "[here]"))
    assert {"mine", "here"} & load_models().keys() == {"here"}
    assert write_models_lock({"here": LOCKED}) == Path.cwd() / "models.lock.json"
    Path("models.toml").unlink()
    assert read_models_lock().models["here"] == LOCKED


def test_a_checkout_has_its_own_models_alone(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("models.toml").write_text(MINE)
    monkeypatch.setattr(config, "INSTALLED", False)
    assert config.model_dirs() == (PINS_DIR,)
    assert "mine" not in load_models()


def test_a_lock_of_a_user_that_cannot_be_read_is_an_error(installed: Path) -> None:
    (installed / "models.lock.json").mkdir(parents=True)
    with raises(ErrorCode.CONFIG, match="A lockfile cannot be read"):
        read_models_lock()
