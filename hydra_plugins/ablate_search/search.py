"""Where `ablate train`, `ablate sweep` and the clone's scripts look for choices such as `model/ffn=NAME`.

First in the package's conf/, then in `conf/` of the working folder, last among the registered parts: a part
of one's own needs no YAML. Hydra imports this file at every start of any program: it imports nothing heavy,
and other programs than ablate are left alone.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from ablate.paths import CONF, GROUPS

KINDS = {group: kind for kind, group in GROUPS.items()}


class AblateSearchPath(SearchPathPlugin):
    """Appends the user's `conf/` and the registry to the search path of ablate's own commands."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        places = [element.path for element in search_path.get_path()]
        if f"file://{CONF}" not in places and str(CONF) not in places:
            return
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != CONF.resolve():
            search_path.append("own", f"file://{own}")
        search_path.append("registry", "ablate://registry")


class RegistrySource(ConfigSource):
    """Answers `model/ffn=NAME` for a registered part without a YAML: its name and all its defaults."""

    @staticmethod
    def scheme() -> str:
        return "ablate"

    def available(self) -> bool:
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        from ablate.registry import defaults

        kind, name = self._part(config_path)
        if kind is None:
            raise ConfigLoadError(f"no registered part is called {config_path}")
        options: dict[str, Any] = defaults(kind, name)
        if kind == "source":
            options = {"source": options, "documents": "joined", "prefix": False}
            options = {"defaults": [{"tokenizer": "bpe"}, "_self_"], **options}
        config = OmegaConf.create(options)
        header: dict[str, str | None] = {"package": None}
        return ConfigResult(config=config, path="ablate://registry", provider=self.provider, header=header)

    def is_group(self, config_path: str) -> bool:
        return config_path.removesuffix("/") in KINDS

    def is_config(self, config_path: str) -> bool:
        return self._part(config_path)[0] is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Only the parts that are loaded already: help must not import torch."""
        from ablate.registry import registries

        kind = KINDS.get(config_path.removesuffix("/"))
        if kind is None or results_filter == ObjectType.GROUP:
            return []
        return registries[kind].loaded()

    def _part(self, config_path: str) -> tuple[str | None, str]:
        path = PurePosixPath(config_path)
        kind, name = KINDS.get(str(path.parent)), path.name.removesuffix(".yaml")
        if kind is None:
            return None, name
        from ablate.registry import registries

        return (kind if name in registries[kind] else None), name
