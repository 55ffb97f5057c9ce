"""The run's settings: one YAML with Axolotl's key names.

``keys.py`` and ``dataset_keys.py`` hold every key with its type, default and unit; ``known.py`` the Axolotl keys that
whet reads as others or accepts without effect, ``refused.py`` those it refuses with a reason, ``foreign.py`` applies
both. ``yaml_lines.py`` reads YAML and remembers lines, ``overrides.py`` is ``--set``, ``checks.py`` finds settings that
contradict each other, ``advice.py`` unusual ones, ``problems.py`` puts it into words, ``load.py`` joins them.
"""

from whet.config.dataset_keys import DatasetConfig, DatasetType
from whet.config.keys import Remark, RunConfig, SpecialTokens
from whet.config.load import load_config, parse_config

__all__ = ["DatasetConfig", "DatasetType", "Remark", "RunConfig", "SpecialTokens", "load_config", "parse_config"]
