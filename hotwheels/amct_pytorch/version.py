"""The version of the package; `setup.py` and `amct.__version__` both read it here."""

# The first version of torch that was tested, and the first that was not: what setup.py asks for.
TESTED_TORCH = ("2.13", "2.15")
__version__ = "1.0.0"
