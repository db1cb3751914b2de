"""Settings of all tests."""

import hypothesis

# A deadline would measure how busy the machine is.
hypothesis.settings.register_profile("amct", deadline=None)
hypothesis.settings.load_profile("amct")
