"""The version of the package; `setup.py` and `amct.__version__` both read it here."""

# The first version of torch that was tested, and the first later version that was not: setup.py requires this range.
TESTED_TORCH = ("2.13", "2.15")
__version__ = "1.0.0"
