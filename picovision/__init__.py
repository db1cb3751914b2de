"""The name under which scripts also import ``hotwheels.amct_pytorch.nn`` (SPEC 1.1)."""
