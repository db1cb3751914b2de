"""Files: checked paths, files that reach their places together, and the digests that tell one save from another."""

from .file_set import FileSet, part_of, write_text_atomic
from .paths import PathLike, check_input_file, check_path, output_path

__all__ = ["FileSet", "PathLike", "check_input_file", "check_path", "output_path", "part_of", "write_text_atomic"]
