"""The configuration: verl's key tree as dataclasses, composed from presets, YAML files and overrides."""

from gspo.config.checks import notices, supervised_notices
from gspo.config.compose import load_config
from gspo.config.external import load_external
from gspo.config.printing import render
from gspo.config.requirements import require_honoured, require_keys, require_supported
from gspo.config.schema import Config, ConfigError

__all__ = [
    "Config",
    "ConfigError",
    "load_config",
    "load_external",
    "notices",
    "render",
    "require_honoured",
    "require_keys",
    "require_supported",
    "supervised_notices",
]
