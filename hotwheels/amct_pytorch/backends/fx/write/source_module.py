"""Writes a static graph as a module in a Python file, so that errors show lines of that file and a debugger can step.

Files in the folder, as ``torch.fx.GraphModule.to_folder`` lays them out:

    module.py    the generated forward, with the user's line above each operation, and the class
    state.pt     modules, parameters and buffers, with sharing preserved; for a quantized model also the graph
    __init__.py  makes the class importable from the folder

``to_folder`` itself would lose the training flag, non-persistent buffers, the sharing of a module between two places,
and functions wrapped by ``torch.fx.wrap``.
"""

from __future__ import annotations

import builtins
import itertools
import keyword
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import fx, nn

from ....errors import ConfigError, UnsupportedModelError
from ....files import FileSet
from ....nn.importable import look_up
from ....torch_private import builtin_imports, keywords_in_paths
from ..quant_graph_module import QuantGraphModule, adopt_state
from .source_state import dump_state, read_state, restore

_SOURCE, _STATE = "module.py", "state.pt"
_loads = itertools.count()


class SourceModule(nn.Module):
    """Base of the classes in files written for float graphs; ``folder`` is the folder of the file and the state."""

    folder: ClassVar[Path]

    def __init__(self) -> None:
        """Loads the state from ``folder``."""
        super().__init__()
        restore(self, read_state(self.folder / _STATE))


class SourceQuantModule(QuantGraphModule):
    """Base of the classes in files written for quantized graphs: a quantized model like any other.

    Float, calibration and fake_quant run the ``forward`` of the file. real_quant, dumps and exported files use the
    graph in the state, so changes of the ``forward`` have no effect on them.
    """

    folder: ClassVar[Path]

    def __init__(self) -> None:
        """Loads state and graph from ``folder``."""
        state = read_state(self.folder / _STATE)
        root = nn.Module()
        restore(root, state)
        super().__init__(root, state["graph"], type(self).__name__)
        adopt_state(self, root)
        vars(self).update(state["attributes"])

    def _forward_to_run(self, generated: Callable[..., Any]) -> Callable[..., Any]:
        # torch.fx gives every GraphModule a class of its own, whose base is the class in the file.
        written: Callable[..., Any] = type(self).__base__.forward  # type: ignore[union-attr]
        return written


def write_source(graph_module: fx.GraphModule, folder: Path, class_name: str) -> Path:
    """Writes the files of the table above and returns the path of ``module.py``; existing ones are replaced.

    Raises:
      ConfigError: ``class_name`` cannot be the name of a class in that file.
      UnsupportedModelError: The graph calls a function or class that cannot be imported or saved.
    """
    base = SourceQuantModule if isinstance(graph_module, QuantGraphModule) else SourceModule
    with keywords_in_paths():
        code = graph_module.graph.python_code("self", verbose=True)
    _check_class_name(class_name, {*code.globals, base.__name__, "Path", "forward"})
    imports = [_import_of(name, value) for name, value in sorted(code.globals.items()) if _names(code.src, name)]
    source = _TEMPLATE.format(
        name=class_name,
        base=base.__name__,
        home=base.__module__,
        imports="\n".join(imports),
        forward=code.src.strip(),
    )
    with FileSet() as files:
        files.write_bytes(folder / _STATE, dump_state(graph_module))
        files.write_text(folder / "__init__.py", f"from .module import {class_name} as {class_name}\n")
        files.write_text(folder / _SOURCE, source)
    return folder / _SOURCE


def load_source(file: Path, class_name: str) -> nn.Module:
    """Returns a new module of the class in ``file``, which is executed anew each time."""
    module = types.ModuleType(f"amct_source_{next(_loads)}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # inspect and pickle look up the class there
    # Not an import: its bytecode cache does not notice a file that is written twice in a second.
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), vars(module))
    loaded: nn.Module = getattr(module, class_name)()
    return loaded


_TEMPLATE = '''\
"""A static graph as source, to find errors in (amct.graph_to_dynamic_module); comments name where it comes from."""

from pathlib import Path

{imports}
from {home} import {base}


{forward}


class {name}({base}):
    """The graph above with the state in state.pt."""

    folder = Path(__file__).resolve().parent
    forward = forward
'''


def _check_class_name(name: str, taken: set[str]) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(f"module_name must be a name that a Python class can have, got {name!r}.")
    if name in taken or name in vars(builtins):
        raise ConfigError(f"module_name {name!r} has another meaning in the file to be written; choose another one.")


def _names(source: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", source) is not None


def _import_of(name: str, value: Any) -> str:
    """Returns the statement that defines ``name`` as ``value``."""
    builtins = builtin_imports()
    if name in builtins:
        return builtins[name]
    if isinstance(value, str):  # an annotation that is a text (from __future__ import annotations)
        return f"{name} = {value!r}"
    home, path = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if home is None or look_up(home, path) is not value:
        msg = (
            f"The graph calls {value!r}, which cannot be imported from '{home}'. Define it at module level: as a"
            " function of a file, not inside another function and not as a lambda."
        )
        raise UnsupportedModelError(msg)
    return f"from {home} import {path} as {name}"
