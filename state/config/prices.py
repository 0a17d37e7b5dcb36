"""What tokens of a teacher or judge cost: as the config says, or a table of models that its user keeps.

["gpt-5-mini"]     # USD per million tokens; quotes, for names hold dots
in = 0.25          # of prompts
out = 2.0          # of answers
batch_in = 0.125   # the same in a batch, where it costs another price
batch_out = 1.0
"""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from reflectune.state.config import EngineConfig, read_toml
from reflectune.state.errors import ConfigError
from reflectune.state.records import Answer

__all__ = ["Prices", "find_cost", "find_prices"]

_Price = Annotated[float, Field(strict=True, ge=0.0, allow_inf_nan=False)]
_TABLES = TypeAdapter(dict[str, dict[Literal["in", "out", "batch_in", "batch_out"], _Price]])


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens, and where that is written."""

    prompt: float
    completion: float
    source: str

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for so many tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


def find_prices(config: EngineConfig) -> Prices | None:
    """What the tokens of a model that is asked cost; None where nobody says so.

    `price_in` and `price_out` go before the table in `prices`.

    Raises:
        ConfigError: a file that is no table of prices, or has none for the model.
    """
    own = {"in": config.price_in, "out": config.price_out}
    prices = {name: price for name, price in own.items() if price is not None}
    sources = [f"{config.section}.price_{name}" for name in prices]
    if len(prices) < len(own):
        if config.prices is None:
            return None
        sources.append(config.prices)
        table = _read_table(Path(config.prices), config)
        if config.engine == "batch":
            table |= {name: table[f"batch_{name}"] for name in own if f"batch_{name}" in table}
        prices = table | prices
    if lacking := own.keys() - prices:
        raise ConfigError(
            f'{config.section}.prices: {config.prices}: ["{config.model}"] lacks {min(lacking)}'
        )
    return Prices(prices["in"], prices["out"], " and ".join(sources))


def find_cost(prices: Prices | None, answer: Answer) -> float | None:
    """Price of an answer in USD; None where a price or a count is unknown, 0 for one from the cache."""
    if answer.cached:
        return 0.0
    tokens_in, tokens_out = answer.prompt_tokens, answer.completion_tokens
    if prices is None or tokens_in is None or tokens_out is None:
        return None
    return prices.cost(tokens_in, tokens_out)


def _read_table(path: Path, config: EngineConfig) -> dict[str, float]:
    """What a file says of one model."""
    key, model = f"{config.section}.prices", config.model
    try:
        tables = _TABLES.validate_python(read_toml(path))
    except FileNotFoundError:
        raise ConfigError(f"{key}: {path}: no such file") from None
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where, got = ".".join(map(str, first["loc"])), reprlib.repr(first["input"])
        raise ConfigError(
            f'{key}: {path}: {where} = {got}; want tables such as ["gpt-5-mini"], in quotes, with '
            "in, out, batch_in, batch_out: USD per million tokens, 0 or more"
        ) from None
    if model not in tables:
        raise ConfigError(
            f'{key}: {path}: no table ["{model}"], which is {config.section}.model; it has '
            f"{', '.join(tables) or 'none'}"
        )
    return {str(name): price for name, price in tables[model].items()}
