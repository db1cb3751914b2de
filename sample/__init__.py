"""The sample programs; run them as scripts, or import their networks and digits from tests and benchmarks."""
