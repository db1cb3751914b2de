"""Seal: the files of a save hold each other's digests, so that a reader detects a file of another save among them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RecordError
from . import limits
from .file_set import FileSet
from .limits import check_holes, read_limited
from .marks import digest, mark_of, read_mark
from .paths import PathLike, output_path

MANIFEST = "manifest.json"
DEPLOY_MODEL, FAKE_QUANT_MODEL, FLOAT_MODEL = "deploy_model.onnx", "fake_quant_model.onnx", "float_model.onnx"
PARAMETERS_TEXT, PARAMETERS_BINARY = "quant_param_record.txt", "quant_param_record.bin"
RECORD, GOLDEN = "scale_offset_record.txt", "golden.npz"
_MODIFIED_MODEL = "modified_model.onnx"  # name, in a record, of the ONNX file of the same quantize_model call
# The files of a save, without the prefix of their names (spec 11.1).
NAMES = (DEPLOY_MODEL, FAKE_QUANT_MODEL, FLOAT_MODEL, PARAMETERS_TEXT, PARAMETERS_BINARY, RECORD, GOLDEN)


@contextlib.contextmanager
def sealed_set(prefix: PathLike, reads: Iterable[PathLike] = ()) -> Iterator[FileSet]:
    """Returns a context with a `FileSet`; at exit its files that begin with ``prefix`` get marks and a manifest.

    The save ``reads`` files which it must not replace.
    """
    with FileSet(reads) as files:
        yield files
        _seal(files, prefix)


def check_prefix(prefix: PathLike) -> bool:
    """Checks that the existing files of ``prefix`` are of one save.

    Returns:
      Whether the files say which files are of their save; then each of them is as it was saved.

    Raises:
      RecordError: A file is of another save or was changed; the text names the file.
    """
    members = _members(prefix, (*NAMES, MANIFEST))
    claimed = {name for one in members.values() for name in one.claims or () if os.sep not in name}
    return _check(members | _members(prefix, sorted(claimed - members.keys())))


def check_whole(prefix: PathLike) -> None:
    """Checks that every file which the manifest of ``prefix`` lists exists; passes without a manifest.

    Raises:
      RecordError: A file is missing; the text names it.
    """
    manifest = output_path(prefix, MANIFEST)
    listed = _read_manifest(manifest) if manifest.is_file() else {}
    paths = (output_path(prefix, name) for name in listed if os.sep not in name)
    missing = [f"'{path}'" for path in paths if not path.is_file()]
    if missing:
        raise RecordError(
            f"{', '.join(missing)}: missing, but listed in '{manifest}'. Copy all files of the save, or save the model"
            " again; without the manifest the files that exist are checked."
        )


def check_together(files: Mapping[str, PathLike]) -> None:
    """Checks that ``files``, by their names without a prefix, are of one save; see `check_prefix`."""
    _check({name: _member(name, Path(path)) for name, path in files.items()})


def record_partners(files: FileSet, model: Path) -> dict[str, str]:
    """Returns the digests of ``model`` and the file of its tensors, for the mark of a record that belongs to them."""
    names = {path: str(path).removeprefix(str(model)) for path in files.paths if str(path).startswith(str(model))}
    return {f"{_MODIFIED_MODEL}{ending}": files.digest(path) for path, ending in names.items()}


def check_record_partners(record: Path, model: Path) -> None:
    """Checks that ``model`` was written together with ``record``, if the record has a mark.

    Raises:
      RecordError: ``model`` is of another call, or was changed.
    """
    for name, expected in (read_mark(record)[1] or {}).items():
        if not name.startswith(_MODIFIED_MODEL) or os.sep in name:
            continue
        partner = Path(f"{model}{name.removeprefix(_MODIFIED_MODEL)}")
        if not partner.is_file() or digest(partner) != expected:
            raise RecordError(
                f"'{record}' does not belong to '{partner}', which is of another quantize_model call or has been"
                " changed. Take the two files of one call."
            )


def _seal(files: FileSet, prefix: PathLike) -> None:
    start = str(output_path(prefix, "x"))[:-1]
    names = {str(path).removeprefix(start): path for path in files.paths if str(path).startswith(start)}
    digests = {name: files.digest(path) for name, path in names.items()}
    for name, path in names.items():
        files.append(path, mark_of(name, digests))
    files.write_text(output_path(prefix, MANIFEST), json.dumps({"version": 1, "files": digests}, indent=4) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Member:
    """One existing file.

    Attributes:
      path: Path of the file.
      digest: Digest of the content; None for the manifest, which no other file mentions.
      claims: The digests of the files of its save, as its mark states them; None without a mark.
    """

    path: Path
    digest: str | None
    claims: Mapping[str, str] | None

    def fits(self, name: str, save: Mapping[str, str]) -> bool:
        """Whether the file ``name`` belongs to the save with the digests ``save``."""
        return self.claims in (None, save) and (self.digest is None or self.digest == save.get(name))


def _members(prefix: PathLike, names: Iterable[str]) -> dict[str, _Member]:
    paths = {name: output_path(prefix, name) for name in names}
    return {name: _member(name, path) for name, path in paths.items() if path.is_file()}


def _member(name: str, path: Path) -> _Member:
    if name == MANIFEST:
        return _Member(path=path, digest=None, claims=_read_manifest(path))
    check_holes(path, RecordError)
    length, claims = read_mark(path)
    return _Member(path=path, digest=digest(path, length), claims=claims)


def _check(members: Mapping[str, _Member]) -> bool:
    saves = [one.claims for one in members.values() if one.claims is not None]
    if not saves:
        return False  # no file has a mark, so other programs or older versions wrote them
    save = max(saves, key=lambda one: sum(member.digest == one.get(name) for name, member in members.items()))
    for name, odd in members.items():
        if not odd.fits(name, save):
            others = [f"'{one.path}'" for other, one in members.items() if one.fits(other, save)]
            raise RecordError(
                f"'{odd.path}' {_reason(name, odd, save)}{_listed(others)}. A save was cut short, or files of two saves"
                " were copied together. Save the model again, or copy all files of one save."
            )
    return True


def _reason(name: str, odd: _Member, save: Mapping[str, str]) -> str:
    own = (odd.claims or {}).get(name)
    is_changed = odd.claims == save or (own is not None and own != odd.digest)
    return "has been changed since it was saved" if is_changed else "is of another save"


def _listed(others: Sequence[str]) -> str:
    more = f" and {len(others) - 2} more" if len(others) > 2 else ""
    return f", unlike {', '.join(others[:2])}{more}" if others else ""


def _read_manifest(path: Path) -> Mapping[str, str]:
    try:
        files: Any = json.loads(read_limited(path, limits.MANIFEST, RecordError))["files"]
        return {str(name): str(one) for name, one in files.items()}
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"'{path}' is not a manifest of saved files: {error}") from error
