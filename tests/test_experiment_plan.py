"""Plans of experiments: what arms come to, and what is refused before anything runs."""

import re
from pathlib import Path

import pytest

from reflectune.loop.experiments.plan import Experiment, load_experiment, note_arms
from reflectune.state.config import RunConfig
from reflectune.state.errors import ConfigError

ROOT = Path(__file__).parent.parent
BASE = """
[data]
path = "data-{seed}.json"
[teacher]
engine = "vllm"
model = "org/teacher"
max_model_len = 512
[student]
model = "org/student"
[refinetune]
epochs = 2
"""
HEAD = 'base = "base.toml"\nseeds = [3, 5]\n'


def load(folder: Path, plan: str, head: str = HEAD) -> Experiment:
    (folder / "base.toml").write_text(BASE)
    (folder / "abl.toml").write_text(head + plan)
    return load_experiment(folder / "abl.toml")


def config_of(experiment: Experiment, name: str) -> RunConfig:
    (config,) = (run.config for run in experiment.runs if run.name == name)
    return config


def test_every_arm_runs_with_every_seed_under_its_own_name_and_seed(tmp_path: Path) -> None:
    found = load(tmp_path, "[arms.a]\n[arms.b]\nrounds = 1")
    assert (found.name, found.baseline, found.tokens) == ("abl", "a", None)
    assert [(run.name, run.config.seed) for run in found.runs] == [
        ("a-3", 3), ("b-3", 3), ("a-5", 5), ("b-5", 5),
    ]  # fmt: skip
    assert config_of(found, "a-3").data.path == str(tmp_path / "data-3.json")
    assert [config_of(found, f"{arm}-5").rounds for arm in "ab"] == [3, 1]


def test_an_arm_changes_what_all_arms_change(tmp_path: Path) -> None:
    plan = """
        [all]
        selection.margin = 0.25
        student.template = "plain"
        [arms.method]
        [arms.v1]
        selection.policy = "accept-all"
        teacher = {engine = "recorded", path = "answers-{seed}.jsonl", max_model_len = "unset"}
        student.template = "mine.toml"
    """
    found = load(tmp_path, plan)
    method, v1 = config_of(found, "method-3"), config_of(found, "v1-3")
    assert (method.selection.policy, method.selection.margin) == ("ifd+r-ifd", 0.25)
    assert (v1.selection.policy, v1.selection.margin) == ("accept-all", 0.25)
    assert (method.teacher.engine, method.teacher.max_model_len) == ("vllm", 512)
    assert (v1.teacher.engine, v1.teacher.max_model_len) == ("recorded", None)
    assert v1.teacher.path == str(tmp_path / "answers-3.jsonl")
    assert (method.student.template, v1.student.template) == ("plain", str(tmp_path / "mine.toml"))


def test_whoever_asks_in_an_arm_says_what_a_models_name_is(tmp_path: Path) -> None:
    (tmp_path / "org/teacher").mkdir(parents=True)
    found = load(
        tmp_path, '[arms.local]\n[arms.served.teacher]\nengine = "openai"\nmax_model_len = "unset"\n'
    )
    models = [config_of(found, f"{arm}-3").teacher.model for arm in ("served", "local")]
    assert models == ["org/teacher", str(tmp_path / "org/teacher")]


def test_equal_tokens_take_the_place_of_the_bases_epochs(tmp_path: Path) -> None:
    found = load(tmp_path, "[arms.a]\n[arms.b]\nrefinetune.lr = 1e-3", HEAD + "tokens = 999\n")
    assert {(run.config.refinetune.tokens, run.config.refinetune.epochs) for run in found.runs} == {
        (999, None)
    }


def test_a_raw_arm_asks_no_teacher_and_filters_nothing(tmp_path: Path) -> None:
    plan = """
        [all]
        selection = {keep = "improved", top_fraction = 0.5, cross_fit = true}
        rounds = 4
        [arms.raw]
        raw = true
        [arms.half]
        raw = true
        selection.top_fraction = 0.25
        teacher.retries = 3
        [arms.other]
        raw = true
    """
    made = load(tmp_path, plan)
    half, other = config_of(made, "half-3"), config_of(made, "other-3")
    assert (half.selection.top_fraction, half.teacher.retries) == (0.25, 3)
    assert other == config_of(made, "raw-3").model_copy(update={"name": "other-3"})
    config = config_of(made, "raw-3")
    assert (config.rounds, config.selection.policy, config.selection.keep) == (1, "reject-all", "all")
    assert (config.selection.train_max_ifd, config.selection.train_max_r_ifd) == (1e9, 1e9)
    assert (config.selection.top_fraction, config.selection.cross_fit) == (1.0, False)
    assert config.teacher.engine == "recorded"
    assert Path(config.teacher.path or "").is_file()


def test_a_raw_arm_has_teacher_keys_of_its_own_alone_and_unset_sections_may_be_filled(tmp_path: Path) -> None:
    plan = """
    [all]
    selection = "unset"
    teacher.extra_headers = {X-Title = "base"}
    [arms.b.teacher]
    engine = "openai"
    max_model_len = "unset"
    [arms.r]
    raw = true
    teacher = {engine = "openai", path = "unset", model = "k", extra_headers = {Y = "mine"}}
    """
    config = config_of(load(tmp_path, plan), "r-3")
    assert (config.teacher.extra_headers, config.selection.policy) == ({"Y": "mine"}, "reject-all")
    for own, message in {
        'teacher = "x"': "teacher: input should be",
        'subteacher.prompts = "x"': "subteacher: unknown key; did you mean teacher?",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            load(tmp_path, f"[arms.r]\nraw = true\n{own}\n")


def test_an_arm_by_lot_waits_for_the_run_of_the_same_seed(tmp_path: Path) -> None:
    found = load(tmp_path, '[arms.lots]\nequal_acceptance_to = "a"\nrounds = 2\n[arms.a]')
    waits = {run.name: run.acceptance_of for run in found.runs}
    assert waits == {"lots-3": "a-3", "lots-5": "a-5", "a-3": None, "a-5": None}
    assert config_of(found, "lots-3").selection.policy == "random"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("", "arms: missing"),
        ("[arms]", "arms: dictionary should have at least 1 item"),
        ("jops = 2\n[arms.a]", "jops: unknown key"),
        ('bases = "x"\n[arms.a]', "bases: unknown key; did you mean base"),
        ('baseline = "b"\n[arms.a]', "baseline: there is no arm b; the arms are a"),
        ('figures = "count"\n[arms.a]', "figures: string should match pattern"),
        ('[arms."a b"]', "arms.a b"),
        ("[arms.a]\nround = 1", "arm a: round: unknown key; did you mean rounds"),
        ('[arms.a]\nselection.policy = "ifdd"', "arm a: selection.policy: 'ifdd' is no policy"),
        ('[arms.a]\nname = "x"', "arm a: name comes from the plan"),
        ("[all]\nseed = 1\n[arms.a]", "arm a: seed comes from the plan"),
        ('[arms.a]\nequal_acceptance_to = "b"', "arm a: there is no arm b"),
        ('[arms.a]\nequal_acceptance_to = "b"\n[arms.b]\nraw = true', "arm a: equal_acceptance_to needs"),
        (
            '[arms.a]\nequal_acceptance_to = "b"\nselection.policy = "ifd"\n[arms.b]',
            "arm a: equal_acceptance_to sets selection.policy",
        ),
        (
            '[arms.a]\nequal_acceptance_to = "b"\nselection.random_rate = 0.1\n[arms.b]',
            "arm a: equal_acceptance_to sets selection.random_rate",
        ),
    ],
)
def test_a_bad_plan_is_refused_in_a_line(tmp_path: Path, plan: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"abl\.toml") as refused:
        load(tmp_path, plan)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bad_seeds_tokens_and_files_are_refused(tmp_path: Path) -> None:
    for head, message in {
        'base = "base.toml"\nseeds = []\n': "seeds: list should have at least 1 item",
        'base = "base.toml"\nseeds = [1, 1]\n': "seeds: one is named twice",
        'base = "gone.toml"\nseeds = [1]\n': "gone.toml: no such config file",
        HEAD + "tokens = 5\n[all]\nrefinetune.epochs = 1\n": "tokens says how long all arms train",
    }.items():
        with pytest.raises(ConfigError) as refused:
            load(tmp_path, "[arms.a]", head)
        assert message in str(refused.value)
    with pytest.raises(ConfigError, match="no such plan"):
        load_experiment(tmp_path / "gone.toml")


def test_the_plan_of_the_readme_is_one(tmp_path: Path) -> None:
    readme = (ROOT / "loop/README.md").read_text()
    (plan,) = (text.partition("```")[0] for text in readme.split("```toml\n") if text.startswith("base ="))
    (tmp_path / "config.toml").write_text(BASE)
    (tmp_path / "abl.toml").write_text(plan)
    found = load_experiment(tmp_path / "abl.toml")
    assert [*found.arms] == ["method", "accept-all", "lots", "raw"]
    assert len(found.runs) == 20


def test_a_raw_arm_is_the_same_from_wherever_the_package_is(tmp_path: Path) -> None:
    plan = tmp_path / "runs/plan.toml"
    (plan.parent / "a-3").mkdir(parents=True)
    note_arms(load(tmp_path, "[arms.a]\nraw = true"), plan)
    moved = re.sub(r'path = ".*?/loop/experiments/', 'path = "/gone/loop/experiments/', plan.read_text())
    assert moved != plan.read_text()
    plan.write_text(moved)
    note_arms(load(tmp_path, "[arms.a]\nraw = true"), plan)


def test_arms_may_be_added_and_left_out_but_not_changed_once_they_have_runs(tmp_path: Path) -> None:
    kept = tmp_path / "runs/plan.toml"
    kept.parent.mkdir()
    note_arms(load(tmp_path, "[arms.a]\nrounds = 4\n[arms.b]"), kept)
    for run in ("a-3", "b-3", "c-3"):
        (kept.parent / run).mkdir()
    with pytest.raises(ConfigError, match="a was changed since its runs began: rounds"):
        note_arms(load(tmp_path, "[arms.a]"), kept)
    (kept.parent / "a-3").rename(kept.parent / "a-b-3")  # of another arm
    (kept.parent / "b-3").rmdir()
    note_arms(load(tmp_path, "[arms.a]\n[arms.b]\nrounds = 1"), kept)
    note_arms(load(tmp_path, "[arms.a]\n[arms.c]", HEAD.replace("5", "5, 7")), kept)
    (kept.parent / "a-3").mkdir()
    (kept.parent / "b-5").mkdir()
    note_arms(load(tmp_path, "[arms.a]\nstudent.batch_tokens = 64"), kept)  # alters no row
    for changed, key in {
        "[arms.b]\nrounds = 2": "b was changed since its runs began: rounds",
        "[arms.a]\nstop.rollback = true": "a was changed since its runs began: stop.rollback",
        "[arms.c]\nselection.margin = 1.0": "c was changed since its runs began: selection.margin",
        '[arms.b]\nrounds = 1\n[arms.a]\nequal_acceptance_to = "b"': "a was changed since its runs began",
    }.items():
        with pytest.raises(ConfigError, match=key):
            note_arms(load(tmp_path, changed), kept)
