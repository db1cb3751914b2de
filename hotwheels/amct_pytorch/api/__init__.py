"""The public functions, one short module per family. The only place that knows models, mathematics and files at once."""
