"""Reads yaml of bounded size: aliases and merge keys are counted before they are written out."""

from __future__ import annotations

import itertools
from typing import Any

import yaml

from ...errors import ConfigError
from ...files.limits import SIMPLE_CONFIG_EXPANDED, WARNINGS, YAML_DEPTH, YAML_NUMBER
from ...log import get_logger
from ..arguments.coercion import shown

_log = get_logger(__name__)


def load_yaml(text: str, source: str) -> Any:
    """Returns the document in ``text``; ``source`` is the file's name in messages. Keys that occur twice are named.

    Raises:
      ConfigError: The text is not yaml, has Python objects, or is too large with its aliases expanded.
    """
    try:
        loader = _Loader(text, source)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
        _report_repeated(loader)
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        problem = str(error.problem or error.context)
        is_half = problem.startswith("but ")  # of a sentence that the context begins
        raise ConfigError(f"{where}: {f'{error.context} ' if is_half else ''}{problem}.") from error
    except ConfigError:
        raise
    except Exception as error:  # PyYAML raises errors of many classes for odd scalars and tags
        raise ConfigError(f"{source} is not a yaml document: {' '.join(str(error).split())}.") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """A safe loader (no tags of Python objects) that notes keys that occur twice, which yaml itself ignores.

    Attributes:
      repeated: Line and name of each such key.
    """

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = source  # the name of the text in error messages
        self.repeated: list[tuple[int, str]] = []
        self._depth = 0

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        # The scanner's time grows with the square of the depth of brackets, and it reads far ahead of the composer.
        YAML_DEPTH.check(self.flow_level, self.name)
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        YAML_DEPTH.check(self._depth, self.name)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        SIMPLE_CONFIG_EXPANDED.check(_expanded_size(node, {}), self.name)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                self.repeated.append((key.start_mark.line + 1, key.value))
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep=deep))


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Returns the length of the text of ``node`` with every alias and merge key expanded.

    Ten lines of aliases can expand to a thousand million values, and a merge key copies them. ``known`` has the sizes
    of the visited nodes, and 0 for nodes whose size is being computed.

    Raises:
      ConfigError: An alias is inside the node that it refers to, or a number is longer than its limit.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise ConfigError(f"{_place(node)}: an alias is inside the node that it refers to.")
        return known[id(node)]
    known[id(node)] = 0
    if isinstance(node, yaml.ScalarNode):
        size = len(node.value)
        if node.tag in _NUMBERS:
            YAML_NUMBER.check(size, _place(node))
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else itertools.chain.from_iterable(node.value)
        size = sum(_expanded_size(child, known) for child in children)
    known[id(node)] = size + 1
    return size + 1


def _place(node: yaml.Node) -> str:
    mark = node.start_mark
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def _report_repeated(loader: _Loader) -> None:
    for line, key in loader.repeated[:WARNINGS]:
        _log.warning("%s, line %s: key %s occurs twice; the last value is used.", loader.name, line, shown(key))
    if len(loader.repeated) > WARNINGS:
        _log.warning("%s: %d more keys occur twice.", loader.name, len(loader.repeated) - WARNINGS)
