"""Files: checked paths, sets of files that are replaced together, and digests that identify the files of one save."""

from .file_set import FileSet, part_of, write_text_atomic
from .paths import (
    PathLike,
    check_distinct,
    check_folder,
    check_input_file,
    check_path,
    check_possible,
    check_target,
    check_writable,
    output_path,
)

__all__ = [
    "FileSet",
    "PathLike",
    "check_distinct",
    "check_folder",
    "check_input_file",
    "check_path",
    "check_possible",
    "check_target",
    "check_writable",
    "output_path",
    "part_of",
    "write_text_atomic",
]
