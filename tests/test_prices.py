"""What a teacher's tokens cost: the config's own prices, and a file's."""

from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.teacher.teacher import check_teacher
from reflectune.state.config import change_config, load_config
from reflectune.state.config.prices import Prices, find_prices
from reflectune.state.errors import ConfigError
from tests.teacher_server import serve_teacher
from tests.teachers import ask_one, asked, config
from tests.worlds import write_world

TABLES = """
["gpt-4.1"]
in = 2
out = 8.0
batch_out = 4.0
[fake]
in = 0.25
"""


def priced(folder: Path, text: str = TABLES, **changes: Any) -> Prices | None:
    (folder / "prices.toml").write_text(text)
    return find_prices(config(prices=str(folder / "prices.toml"), **changes))


def test_prices_come_from_the_models_table_where_the_config_has_none(tmp_path: Path) -> None:
    file = str(tmp_path / "prices.toml")
    assert priced(tmp_path, model="gpt-4.1") == Prices(2.0, 8.0, file)
    assert priced(tmp_path, model="gpt-4.1", engine="batch") == Prices(2.0, 4.0, file)
    partly = priced(tmp_path, price_out=1.5)
    assert partly == Prices(0.25, 1.5, f"teacher.price_out and {file}")
    assert partly.cost(1_000_000, 2_000_000) == 3.25
    both = find_prices(config(prices="/gone.toml", price_in=1.0, price_out=2.0))
    assert both == Prices(1.0, 2.0, "teacher.price_in and teacher.price_out")
    assert find_prices(config()) is find_prices(config(price_in=1.0)) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "prices.toml: no such file"),
        ("[fake", "prices.toml: not valid TOML"),
        ("", 'no table ["fake"], which is teacher.model; it has none'),
        ("[other]\nin = 1", 'no table ["fake"], which is teacher.model; it has other'),
        ("[fake]\nin = 1", '["fake"] lacks out'),
        ("[fake]\nin = -1", "fake.in = -1; want tables such as"),
        ("[fake]\nin = nan", "fake.in = nan; want tables such as"),
        ('[fake]\nin = "1"', "fake.in = '1'; want tables such as"),
        ("[fake]\nprompt = 1", "fake.prompt.[key] = 'prompt'; want tables such as"),
        ("[gpt-4.1]\nin = 1", "want tables such as"),
    ],
)
def test_prices_that_cannot_be_read_are_refused_in_a_line(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    file = tmp_path / "prices.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        check_teacher(config(prices=str(file)))
    assert str(refused.value).startswith(f"teacher.prices: {file}: ")
    assert complaint in str(refused.value)


def test_prices_are_what_a_call_costs(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(TABLES + "out = 1.0")
    with serve_teacher() as server:
        call = ask_one(config(server.url, prices=str(tmp_path / "prices.toml")), asked(3))
    assert call.prompt_tokens
    assert call.completion_tokens
    assert call.cost_usd == pytest.approx((0.25 * call.prompt_tokens + call.completion_tokens) / 1e6)


def test_prices_are_relative_to_who_names_them_and_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = {"engine": "openai", "model": "fake", "path": None, "budget_usd": 1.0, "prices": "p.toml"}
    loaded = load_config(write_world(tmp_path / "world", teacher=teacher))
    assert loaded.teacher.prices == str(tmp_path / "world/p.toml")
    monkeypatch.chdir(tmp_path)
    changed = change_config(loaded, ["teacher.prices=other.toml"])
    assert changed.teacher.prices == str(tmp_path / "other.toml")
    unpriced = change_config(changed, ["teacher.budget_usd=unset", "teacher.prices=unset"])
    assert unpriced.teacher.prices is None
