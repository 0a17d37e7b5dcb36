"""Opens the engine that a section of the config names, through the cache, and checks beforehand that it may.

Nothing here knows what the model is asked.
"""

from collections.abc import Callable

from reflectune.agents.model_files import find_fault
from reflectune.agents.teacher.engines import Engine, OpenEngine, TeacherModel, open_engine
from reflectune.agents.teacher.engines.addresses import read_addresses
from reflectune.agents.teacher.engines.cached import Cache, CachedEngine
from reflectune.state.config import SELF, EngineConfig, StudentConfig
from reflectune.state.config.prices import find_prices
from reflectune.state.errors import ConfigError

__all__ = ["check_engine", "find_model", "open_through_cache"]


def open_through_cache(
    config: EngineConfig,
    model: TeacherModel,
    cache: Cache | None,
    stopping: Callable[[], bool] = lambda: False,
    open_engine: OpenEngine = open_engine,
) -> Engine:
    """An engine that is opened when the first answer is not in the cache; None asks for every answer."""
    if cache is None or not config.is_cached:
        assert config.cache != "only", "who may not ask has a cache"
        return open_engine(config, model, None, stopping)
    return CachedEngine(config, model, cache, stopping, open_engine)


def find_model(config: EngineConfig, student: StudentConfig | None) -> TeacherModel:
    """The model of a section that names one; one switch and one date for whatever model a run opens."""
    name = config.model or config.engine
    source = StudentConfig(model=name, revision=config.revision, dtype=config.dtype)
    if student is not None:
        source = source.model_copy(update={"thinking": student.thinking, "date": student.date})
    return TeacherModel(name, source)


def check_engine(config: EngineConfig) -> None:
    """Raise a ConfigError for an engine that surely cannot work, by files and environment alone.

    One that answers from the cache alone needs nothing.
    """
    find_prices(config)
    if config.cache == "only":
        return
    match config.engine:
        case "openai" | "batch":
            read_addresses(config)
        case "vllm":
            from reflectune.agents.teacher.engines.vllm_engine import check_vllm

            check_vllm(config.section)
    is_on_disk = config.is_local and config.model != SELF
    if is_on_disk and (fault := find_fault(config.model or "")):
        raise ConfigError(f"{config.section}.model: {fault}")
