import codecs
import re
import tomllib
from pathlib import Path

import pytest

from reflectune.state.config import (
    change_config,
    flatten,
    load_begun_config,
    load_config,
    parse_config,
    upgrade_config,
)
from reflectune.state.config.reference import commented_config, list_keys
from reflectune.state.errors import ConfigError

ROOT = Path(__file__).parent.parent
MINIMAL = """
name = "r"
[data]
path = "data.json"
[teacher]
engine = "recorded"
path = "teacher.jsonl"
[student]
model = "org/model"
"""
OPENAI = "teacher.engine=openai teacher.model=m"
ITSELF = "teacher.engine=transformers teacher.model=self"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(MINIMAL)
    return path


def test_config_paths_are_relative_to_its_file_and_overrides_to_the_working_directory(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config_file.write_text(MINIMAL.replace("[teacher]", '[teacher]\nprompts = "mine.toml"'))
    config = load_config(config_file)
    found = (config.data.path, config.teacher.path, config.teacher.prompts)
    assert found == tuple(str(tmp_path / name) for name in ("data.json", "teacher.jsonl", "mine.toml"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config(config_file, ["data.path=x.json"]).data.path == str(tmp_path / "elsewhere/x.json")


def test_config_takes_a_hub_name_for_a_folder_where_there_is_one(config_file: Path) -> None:
    config_file.write_text(MINIMAL.replace('path = "data.json"', 'hf = "org/data"'))
    config = load_config(config_file)
    assert (config.student.model, config.data.hf) == ("org/model", "org/data")
    for name in ("org/model", "org/data"):
        (config_file.parent / name).mkdir(parents=True)
    config = load_config(config_file)
    folder = config_file.parent / "org"
    assert (config.student.model, config.data.hf) == (f"{folder}/model", f"{folder}/data")


@pytest.mark.parametrize("engine", ["openai", "batch", "vllm"])
def test_config_leaves_a_servers_name_for_its_model_whatever_folder_is_called_so(
    config_file: Path, engine: str
) -> None:
    folder = config_file.parent / "org/teacher"
    folder.mkdir(parents=True)
    named = f'engine = "{engine}"\nmodel = "org/teacher"'
    config_file.write_text(f"{MINIMAL}[judge]\n{named}\n")
    expected = str(folder) if engine == "vllm" else "org/teacher"
    config = load_config(config_file, [f"teacher.engine={engine}", f"teacher.model={expected}"])
    assert config.judge is not None
    assert (config.teacher.model, config.judge.model) == (expected, expected)
    # Whoever asks in the end says what the name is, also of the file's own model.
    server, local = 'engine = "openai"\nbase_url = "http://a"', 'engine = "vllm"'
    for before, after in ((server, ("vllm", "teacher.base_url=unset")), (local, ("openai",))):
        asked = f'{before}\nmodel = "org/teacher"'
        config_file.write_text(MINIMAL.replace('engine = "recorded"\npath = "teacher.jsonl"', asked))
        found = load_config(config_file, [f"teacher.engine={after[0]}", *after[1:]]).teacher
        assert (found.model, found.base_url) == ("org/teacher" if after[0] == "openai" else str(folder), None)


def test_config_round_trips_as_toml_and_as_json(config_file: Path) -> None:
    config = load_config(config_file, ["refinetune.lr=1e-3", "stop.patience=2", "refinetune.tokens=5000"])
    for values in (tomllib.loads(config.to_toml()), config.model_dump(mode="json")):
        again = parse_config(values, "resolved")
        assert again == config
        assert again.content_hash() == config.content_hash()


def test_config_override_reads_toml_values_and_plain_strings(config_file: Path) -> None:
    config = load_config(config_file, ["rounds=7", "name=other", 'student.template="plain"'])
    assert (config.rounds, config.name, config.student.template) == (7, "other", "plain")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selection.margn=1", "selection.margn: unknown key; did you mean margin?"),
        ("selection.max_ifd=1", "selection.max_ifd is now selection.train_max_ifd"),
        ("teacher.patience=1", "teacher.patience is now teacher.freeze_after"),
        ("data.skip_invalid=true", 'data.skip_invalid is now data.odd.invalid = "skip"'),
        ("data.odd.tools=keep", "data.odd.tools: input should be 'refuse' or 'skip', got 'keep'"),
        ("teacher.modle=unset", "teacher.modle: unknown key; did you mean model?"),
        ("margin=1", "margin: unknown key; did you mean selection.margin?"),
        ("rounds=0", "rounds: input should be greater than or equal to 1, got 0"),
        ("refinetune.lr=-1", "refinetune.lr: input should be greater than 0, got -1"),
        ("selection.train_max_ifd=nan", "selection.train_max_ifd: input should be a finite number"),
        ("teacher.engine=llama", "teacher.engine: input should be"),
        ("teacher.engine=openai", 'teacher: engine = "openai" needs model'),
        ("teacher.budget_tokens=9", "teacher: a recording costs nothing that could be counted"),
        ("teacher.quantization=fp8", "teacher: quantization is for engine vllm only; unset it"),
        ("teacher.dtype=float32", "teacher: dtype is for engine vllm or transformers only; unset it"),
        ("teacher.base_url=http://a", "teacher: base_url is for engine openai or batch only; unset it"),
        ("teacher.cache=only", "teacher: a recording is asked without a cache; unset cache"),
        ("data.hf=org/data", "data: set exactly one of path and hf"),
        ("data.subset=small", "data: subset is for hf only; unset it"),
        ("data.holdout=1.5", "data: a holdout share must be below 1"),
        ("scale.gpus_per_student=1.5", "scale.gpus_per_student: Ray gives a share of one GPU, or whole ones"),
        ("name=../up", "name: string should match pattern"),
        ("rounds", "--set rounds: want section.key=value"),
        ("name.x=1", "name.x: name is not a section"),
        ("data.holdout=0 stop.patience=1", "need held-out pairs"),
        ("refinetune.tokens=5000 refinetune.epochs=3", "refinetune: set epochs or tokens, not both"),
        (f"{OPENAI} teacher.candidates=2 teacher.temperature=0", "candidates > 1 needs temperature > 0"),
        (
            f"{OPENAI} teacher.budget_usd=5 teacher.price_in=1",
            "budget_usd needs price_in and price_out, or prices",
        ),
        (f"{OPENAI} teacher.engine=batch teacher.cache=off", "keeps notes of its batches in the cache"),
        (
            f'{OPENAI} teacher.extra_headers={{X-Api-Key="sk-1"}}',
            "teacher: extra_headers may not hold X-Api-Key; a key's variable goes into api_key_env",
        ),
        (f'{OPENAI} teacher.extra_headers={{a="1\\n2"}}', "teacher: extra_headers: 'a' is no header"),
        (f"{OPENAI} teacher.model=self", 'model = "self" needs engine = "vllm" or "transformers"'),
        (f"{ITSELF} teacher.revision=r", "teacher: revision is the student's own"),
    ],
)
def test_config_refuses_what_it_cannot_use(config_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config_file, override.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_config_of_a_student_that_teaches_itself(config_file: Path) -> None:
    for engine, capacity in (("vllm", 256), ("transformers", 16)):
        teacher = load_config(config_file, [*ITSELF.split(), f"teacher.engine={engine}"]).teacher
        assert (teacher.model, teacher.capacity) == ("self", capacity)


def test_config_budget_in_dollars_takes_both_prices(config_file: Path) -> None:
    overrides = [*OPENAI.split(), "teacher.budget_usd=5", "teacher.price_in=1", "teacher.price_out=2"]
    assert load_config(config_file, overrides).teacher.budget_usd == 5


def test_config_of_a_begun_run_changes_only_what_leaves_its_history_alone(config_file: Path) -> None:
    config = load_config(config_file, [*OPENAI.split(), "teacher.budget_tokens=9"])
    changed = change_config(config, ["rounds=7", "teacher.concurrency=2", "teacher.budget_tokens=20"])
    teacher = config.teacher.model_copy(update={"concurrency": 2, "budget_tokens": 20})
    assert changed == config.model_copy(update={"rounds": 7, "teacher": teacher})
    assert change_config(config, ["teacher.budget_tokens=unset"]).teacher.budget_tokens is None
    assert change_config(changed, ["teacher.concurrency=unset"]).teacher.capacity == 16
    assert change_config(changed, ["teacher.cache=off"]).teacher.cache == "off"
    for only in ("teacher.cache=only", 'teacher.cache = "only"'):
        with pytest.raises(ConfigError, match="a run that has begun goes on asking"):
            change_config(changed, [only])
    on_vllm = load_config(config_file, ["teacher.engine=vllm", "teacher.model=m"])
    changed = change_config(on_vllm, ["teacher.gpu_memory_utilization=0.5", "teacher.max_model_len=4096"])
    assert (changed.teacher.gpu_memory_utilization, changed.teacher.max_model_len) == (0.5, 4096)
    assert change_config(changed, ["teacher.max_model_len=unset"]).teacher.max_model_len is None
    asked = load_config(config_file, [*OPENAI.split(), 'teacher.extra_body={effort = "low", top_k = 5}'])
    for override, extra in (
        ("teacher.extra_body={top_k = 7}", {"effort": "low", "top_k": 7}),
        ("teacher.extra_body.top_k=7", {"effort": "low", "top_k": 7}),
        ("teacher.extra_body.top_k=unset", {"effort": "low"}),
        ("teacher.extra_body=unset", {}),
    ):
        assert change_config(asked, [override]).teacher.extra_body == extra, override
    for override in ("teacher.model=n", "seed=1", "teacher=1", "selection.margin=0", "nonsense"):
        with pytest.raises(ConfigError, match="a run that has begun keeps it; what may change: rounds, "):
            change_config(config, [override])


def test_config_keys_may_be_tables(config_file: Path) -> None:
    config_file.write_text(MINIMAL.replace("[teacher]", '[data.columns]\nresponse = "reply"\n[teacher]'))
    config = load_config(config_file, ["data.odd.tools=skip", 'data.roles={user = ["Customer"]}'])
    found = config.data.columns, config.data.odd, config.data.roles
    assert found == ({"response": "reply"}, {"tools": "skip"}, {"user": ["Customer"]})
    assert parse_config(tomllib.loads(config.to_toml()), "resolved") == config
    assert flatten(config.model_dump(mode="json"))["data.columns"] == {"response": "reply"}


def test_config_override_unsets_keys_and_keys_of_tables(config_file: Path) -> None:
    table = "[teacher.extra_body]\nseed = 1\ntop_k = 2\n"
    asked = 'engine = "openai"\nmodel = "m"\nrevision = "r"'
    text = MINIMAL.replace('engine = "recorded"\npath = "teacher.jsonl"', asked)
    config_file.write_text(text.replace("[student]", f"{table}[student]"))
    unset = [f"teacher.{name} = unset" for name in ("extra_body.seed", "revision", "concurrency")]
    teacher = load_config(config_file, unset).teacher
    assert (teacher.extra_body, teacher.revision, teacher.concurrency) == ({"top_k": 2}, None, None)
    config_file.write_text('teacher = "x"\n' + MINIMAL.replace("[teacher]", "[old]"))
    with pytest.raises(ConfigError, match="teacher: input should be"):
        load_config(config_file, [])


def test_config_override_adds_to_a_table(config_file: Path) -> None:
    config_file.write_text(MINIMAL.replace("[teacher]", '[data.odd]\ntools = "skip"\n[teacher]'))
    config = load_config(config_file, ["data.odd.invalid=skip", 'data.columns={input = "a"}'])
    assert (config.data.odd, config.data.columns) == ({"tools": "skip", "invalid": "skip"}, {"input": "a"})
    assert load_config(config_file, ["data.odd.tools=refuse"]).data.odd == {"tools": "refuse"}


def test_config_trains_for_epochs_or_for_tokens(config_file: Path) -> None:
    by_default = load_config(config_file).refinetune
    assert (by_default.epochs, by_default.tokens) == (3, None)
    by_tokens = load_config(config_file, ["refinetune.tokens=5000"]).refinetune
    assert (by_tokens.epochs, by_tokens.tokens) == (None, 5000)


def test_config_file_problems_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(broken)
    broken.write_text('name = "x"')
    with pytest.raises(ConfigError, match="data: missing; teacher: missing; student: missing"):
        load_config(broken)


def test_config_file_may_begin_with_a_byte_order_mark(config_file: Path) -> None:
    expected = load_config(config_file)
    config_file.write_bytes(codecs.BOM_UTF8 + config_file.read_bytes())
    assert load_config(config_file) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("x = " + "[" * 100_000, "cannot be read: nested too deeply"),
        ("name" + ".a" * 5000 + " = 1", "name: input should be a valid string, got {'a'"),
    ],
)
def test_config_file_nested_absurdly_is_refused_in_a_line(config_file: Path, key: str, message: str) -> None:
    config_file.write_text(key + MINIMAL.replace('name = "r"', ""))
    with pytest.raises(ConfigError) as caught:
        load_config(config_file)
    assert str(caught.value).startswith(f"{config_file}: {message}")
    assert "\n" not in str(caught.value)


def test_commented_config_loads_and_documents_every_key(tmp_path: Path) -> None:
    path = tmp_path / "reflectune.toml"
    path.write_text(commented_config())
    assert load_config(path).name == "my-run"
    keys = {item.key: item for item in list_keys()}
    for item in keys.values():
        assert f"\n# {item.doc}" in path.read_text(), f"{item.key} has no documentation"
    assert load_config(path).judge is None, "a section that need not be there is commented out"
    path.write_text(re.sub(r"(?m)^# (?=\[judge|[a-z_]+ = [^(]|    |\])", "", path.read_text()))
    flat = flatten(load_config(path).model_dump())
    assert list(keys) == list(flat)
    unlike = {key for key, item in keys.items() if item.default != flat[key]}
    required = {"name", "teacher.engine", "student.model", "judge.engine"}
    assert unlike == required | {"data.path", "teacher.model", "teacher.base_url", "judge.model"}
    assert keys["data.holdout"].type == "integer or float"
    assert keys["refinetune.target_modules"].type == "string or array of strings"
    assert (keys["teacher.cache"].type, keys["teacher.cache"].choices) == ("string", ("on", "off", "only"))
    assert {key for key, item in keys.items() if item.is_required} == required


def test_config_of_an_earlier_version_is_read_with_the_names_of_today(config_file: Path) -> None:
    today = {
        "selection": {"margin": 0.5, "train_max_ifd": 2.0, "train_max_r_ifd": 3.0},
        "teacher": {"freeze_after": 4, "send_seed": True},
        "stop": {"patience": 5},
        "evaluate": {"base_samples": 6, "checker": "reflectune.loop.demo.world:check", "answers": 2**31 - 1},
    }
    earlier = {
        "selection": {"margin": 0.5, "max_ifd": 2.0, "max_r_ifd": 3.0},
        "teacher": {"patience": 4},
        "stop": {"patience": 5},
        "evaluate": {"frozen": 6, "checker": "loop.demo.world:check"},
    }
    assert upgrade_config(earlier) == upgrade_config(today) == today
    for skips, odd in ((True, {"odd": {"invalid": "skip"}}), (False, {})):
        assert upgrade_config({"data": {"skip_invalid": skips}}).get("data", {}) == odd
    moved = {
        "teacher": {"model": "/gone/reflectune/loop/demo/models/teacher", "base_url": "http://unread"},
        "student": {"model": "/gone/m"},
    }
    upgraded = upgrade_config(moved)
    assert upgraded["student"] == {"model": "/gone/m"}
    assert upgraded["teacher"].keys() == {"model", "send_seed"}
    assert Path(upgraded["teacher"]["model"]).samefile(ROOT / "loop/demo/models/teacher")
    config_file.write_text(f"{MINIMAL}[selection]\nmax_ifd = 2.0\n")
    begun = load_begun_config(config_file)
    config_file.write_text(MINIMAL)
    answers = f"evaluate.answers={2**31 - 1}"  # as many as there are: they knew no limit
    changed = ["selection.train_max_ifd=2.0", "teacher.send_seed=true", answers]
    assert begun == load_config(config_file, changed)


def test_run_begun_with_training_alone_in_four_bits_goes_on_with_its_version(config_file):
    for value in ("false", "true"):
        config_file.write_text(f"{MINIMAL}[refinetune]\nload_in_4bit = {value}\n")
        if value == "false":
            assert load_begun_config(config_file).student.load_in_4bit is False
            continue
        with pytest.raises(ConfigError, match="go on with that version, or start another run"):
            load_begun_config(config_file)


def test_four_bit_student_is_no_teacher_in_vllm(config_file):
    config_file.write_text(MINIMAL)
    teacher = ["teacher.model=self", "teacher.path=unset"]
    itself = ["student.load_in_4bit=true", *teacher]
    with pytest.raises(ConfigError, match="vLLM would teach with other weights"):
        load_config(config_file, [*itself, "teacher.engine=vllm"])
    assert load_config(config_file, [*itself, "teacher.engine=transformers"]).student.load_in_4bit
