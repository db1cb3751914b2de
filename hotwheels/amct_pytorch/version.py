"""The version of the package; `setup.py` and `amct.__version__` both read it here."""

__version__ = "1.0.0"
