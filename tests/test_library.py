"""The parts of a round as a library, and the example of the README."""

import re
from pathlib import Path

import datasets
import pytest

from reflectune.loop.library import Pair, open_run, open_student, reflect, score, select
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import ConfigError, StoreError
from tests.teacher_server import serve_teacher
from tests.test_cli import as_json
from tests.tiny_models import save_tiny_llama
from tests.worlds import ROOT, reflectune, write_world

PAIRS = [Pair("Name three things.", "", "A, b and c."), Pair("Add.", "1 2", "3")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("student"))


def test_reflect_gives_each_pair_its_proposal_or_says_why_there_is_none() -> None:
    with serve_teacher() as server:
        teacher = TeacherConfig(engine="openai", model="fake", base_url=server.url)
        found = {proposal.pair: proposal for proposal in reflect(PAIRS, teacher)}
    assert found.keys() == set(PAIRS)
    for pair, proposal in found.items():
        assert proposal.status == "ok"
        assert proposal.proposed is not None
        assert (proposal.proposed.instruction, proposal.proposed.input) == (pair.instruction, pair.input)
        assert proposal.proposed.response != pair.response
    with pytest.raises(ConfigError, match=r"teacher\.model = self: without a run there is no student"):
        next(reflect(PAIRS, TeacherConfig(engine="transformers", model="self")))


def test_select_keeps_what_the_policy_says_of_the_scores(model: Path) -> None:
    longer = Pair("Add.", "1 2", "The sum of 1 and 2 is 3.")
    with open_student(model, template="plain", max_length=256) as student:
        (scored, other) = score([PAIRS[1], longer], student)
        (longest,) = select([(PAIRS[1], [longer])], student, policy="longest")
        (chosen,) = select([(PAIRS[1], [longer])], student)
        (kept,) = select([(PAIRS[1], [])], student)
    assert longest.winner == longer
    assert (longest.reason, longest.incumbent_value) == (
        "accepted",
        scored.scores["response_alone"].num_tokens,
    )
    assert scored.r_ifd is not None
    assert other.r_ifd is not None
    assert (chosen.incumbent_value, chosen.challenger_value) == (scored.r_ifd, other.r_ifd)
    assert chosen.winner == (longer if other.r_ifd < scored.r_ifd else PAIRS[1])
    assert (kept.winner, kept.reason) == (PAIRS[1], "no-candidate")


@pytest.mark.slow
def test_open_run_gives_tables(finished_world: Path) -> None:
    shown = as_json(finished_world, "show", "tiny")
    with open_run("tiny", finished_world / "runs") as run:
        pool, decisions, versions = run.pool(), run.decisions(1), run.versions()
        assert run.rounds == 2
        assert run.pool(0).num_rows == pool.num_rows == 34
    assert decisions.num_rows == 2 * 34
    accepted = decisions.to_pandas().query("reason == 'accepted' and phase == 'response'")
    assert len(accepted) == shown["rounds"][1]["response"]["accepted"]
    assert {"instruction", "response", "ifd", "r_ifd", "outcome"} <= set(
        datasets.Dataset(versions).column_names
    )
    with (
        pytest.raises(StoreError, match="no run called nothing"),
        open_run("nothing", finished_world / "runs"),
    ):
        pass


@pytest.mark.slow
def test_the_examples_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "loop" / "README.md").read_text()
    examples = re.findall(r"```python\n(from .*?)```", text, re.DOTALL)
    assert len(examples) == 2
    write_world(tmp_path, samples=20)
    monkeypatch.chdir(tmp_path)
    with serve_teacher() as server:
        for example in examples:
            code = example.replace("http://localhost:8000/v1", server.url).replace(
                "path/to/student", "student"
            )
            exec(compile(code, "README", "exec"), {"__name__": "example"})
    assert "accepted" in capsys.readouterr().out
    assert reflectune("verify", "tiny", cwd=tmp_path).returncode == 0
