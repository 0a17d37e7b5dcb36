"""The addresses of a teacher's servers and the key they are asked with, as far as nobody has to be asked.

The key comes from the environment, goes into a request's header and nowhere else.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from reflectune.state.config import EngineConfig
from reflectune.state.errors import ConfigError

__all__ = ["OPENAI_URL", "Address", "list_addresses", "read_addresses"]

# A config without base_url must not be redirected by OPENAI_BASE_URL, which the client would read.
OPENAI_URL = "https://api.openai.com/v1"
_AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server is, and what it is asked with."""

    url: str  # as it is configured
    base: str  # that paths are put behind
    query: Mapping[str, str]  # behind these
    key: str  # empty: none

    @property
    def name(self) -> str:
        """The address as calls are recorded under it: without query and key."""
        return self.scrub(self.base)

    @property
    def is_azure(self) -> bool:
        """Whether the server reads the key where Azure does."""
        return "api-version" in self.query or (urlsplit(self.base).hostname or "").endswith(_AZURE_HOSTS)

    def scrub(self, text: str) -> str:
        """A text without the key, which servers and libraries may quote; some escape its slashes."""
        return re.sub(re.escape(self.key).replace("/", r"\\*/"), "[key]", text) if self.key else text


def read_addresses(config: EngineConfig) -> list[Address]:
    """The servers' addresses, with the key from the environment; ConfigError where that cannot be used."""
    if config.api_key_env is None:
        return list_addresses(config)
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"{config.section}.api_key_env: the variable {config.api_key_env} is not set; export it"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{config.section}.api_key_env: {config.api_key_env} holds characters no key can have"
        )
    return list_addresses(config, key)


def list_addresses(config: EngineConfig, key: str = "") -> list[Address]:
    """The servers' addresses as they are written, with a key."""
    urls = config.base_url or OPENAI_URL
    return [_split_address(url, config, key) for url in ([urls] if isinstance(urls, str) else urls)]


def _split_address(url: str, config: EngineConfig, key: str) -> Address:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if config.api_version is not None:
        query["api-version"] = config.api_version
    return Address(url, urlunsplit(parts._replace(query="")), query, key)
