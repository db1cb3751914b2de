"""The name under which scripts also import ``hotwheels.amct_pytorch.nn`` (spec 1.1)."""
