"""The command line ``amct``: one module per command, which calls ``api`` and ``workflows``.

Loaded by the console script and ``python -m hotwheels.amct_pytorch`` only, never by ``import hotwheels.amct_pytorch``.
"""

from .main import main

__all__ = ["main"]
