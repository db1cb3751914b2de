"""QuantAnalyzer, and the remarks of its report."""
