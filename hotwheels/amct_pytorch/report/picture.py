"""Pictures of traced graphs through graphviz' ``dot`` (spec 11.9): float.svg and quant.svg."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import fx
from torch.fx.passes.graph_drawer import FxGraphDrawer

from ..files import FileSet
from ..log import get_logger

_log = get_logger(__name__)


def draw(graph_module: fx.GraphModule, path: Path) -> None:
    """Writes ``path`` (svg). If ``dot`` is not installed, or fails: a WARNING and no file."""
    if shutil.which("dot") is None:
        _log.warning("'%s' is not drawn: [Errno 2] No such file or directory: 'dot'. Install graphviz to get it.", path)
        return
    dot: Any = FxGraphDrawer(graph_module, path.stem, ignore_getattr=True).get_dot_graph()
    try:
        picture = dot.create(format="svg")
    except AssertionError as error:  # pydot raises it if dot fails
        _log.warning("'%s' is not drawn: dot failed (%s).", path, error)
        return
    with FileSet() as files:
        files.write_bytes(path, picture)
