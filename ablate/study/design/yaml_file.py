"""A study.yaml as plain data, with bounds on its size, its depth and its aliases before it is unfolded."""

from pathlib import Path
from typing import Any

from ablate.record import read_regular

MOST_YAML_BYTES = 1 << 20
MOST_DEEP = 50  # lists and mappings within each other
MOST_VALUES = 100_000  # once every alias stands for what it repeats


def read_yaml(file: Path) -> Any:
    """The content of a YAML file. No tag is obeyed, nothing is resolved; a key given twice is a mistake.

    Raises FileNotFoundError, and ValueError for what is no YAML or beyond the bounds.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        text = read_regular(file, MOST_YAML_BYTES).decode()
        _bounded(text)
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.strip() else {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from None


def _bounded(text: str) -> None:
    """Raise ValueError for a text that would take too long to unfold, or never end."""
    import yaml

    deep = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        deep += isinstance(event, yaml.CollectionStartEvent)
        deep -= isinstance(event, yaml.CollectionEndEvent)
        if deep > MOST_DEEP:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ValueError(f"line {line}: lists too deep within each other; {MOST_DEEP} is the most")
    sizes: dict[int, int] = {}
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ValueError("a study is a mapping of keys such as question, axis and arms")
    if root is not None and _size(root, sizes, ()) > MOST_VALUES:  # an alias is the node that it names
        raise ValueError(f"aliases repeat each other to more than {MOST_VALUES} values; write them out")


def _line(marked: Any) -> int:
    """The line of an event or a node, counted from 1."""
    return int(marked.start_mark.line) + 1


def _size(node: Any, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """The values below a node, aliases unfolded. Raises ValueError for a node within itself."""
    if id(node) in above:
        raise ValueError(f"line {_line(node)}: an alias stands inside of what it repeats; write it out")
    if id(node) not in sizes:
        below = node.value if isinstance(node.value, list) else []
        children = [child for each in below for child in (each if isinstance(each, tuple) else (each,))]
        sizes[id(node)] = 1 + sum(_size(child, sizes, (*above, id(node))) for child in children)
    return sizes[id(node)]
