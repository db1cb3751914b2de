"""TracedModule: a GraphModule whose modules may have any name, such as the key ``in`` of a ModuleDict."""

from __future__ import annotations

from typing import Any

from torch import fx

from ...torch_private import keywords_in_paths


class TracedModule(fx.GraphModule):
    """A GraphModule; torch.fx writes ``self.in`` in the generated code, here it is ``getattr(self, "in")``."""

    def recompile(self) -> Any:
        """Generates the code of the graph anew."""
        with keywords_in_paths():
            return super().recompile()
