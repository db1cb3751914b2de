"""RecordFile: the record of one model of the dynamic path while its factors become known (spec 3, 11.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ....files import FileSet
from ....record import LayerRecord, Record
from ....record.text_proto import write_record
from ...layers.layer_container import LayerContainer, layers_by_name


class RecordFile:
    """Writes the known factors of the layers in ``container``.

    Attributes:
      path: The file.
      partners: Digests of the record's other files.
      is_of_copy: Whether the model is a copy, by ``copy.deepcopy`` or pickle; it does not write the original's record.
    """

    def __init__(
        self,
        path: Path,
        container: LayerContainer,
        unfused: Collection[str] = (),
        partners: Mapping[str, str] | None = None,
    ) -> None:
        """``unfused``: layers whose record has ``skip_fusion``."""
        self.path = path.absolute()  # the script may change the working directory before the calibration ends
        self._container = container
        self._unfused = frozenset(unfused)
        self.partners = partners
        self.is_of_copy = False

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of a copy."""
        return {**vars(self), "is_of_copy": True}

    def write_weights(self, files: FileSet | None = None) -> Record:
        """Calibrates the weights, adds a record with only their factors to ``files``, and returns the record.

        Without ``files`` the record is written at once.
        """
        layers = layers_by_name(self._container)
        for layer in layers.values():
            layer.observe_weight()
        return self._write({name: LayerRecord(weight=one.weight_record()) for name, one in layers.items()}, files)

    def write(self, files: FileSet | None = None) -> Record:
        """Writes all factors of the layers that are quantized, to ``files`` or at once, and returns the record."""
        return self._write(self.known_factors(), files)

    def known_factors(self) -> dict[str, LayerRecord]:
        """Returns the present factors of the layers that are quantized."""
        return {name: layer.record() for name, layer in layers_by_name(self._container).items() if layer.is_quantized}

    def _write(self, records: Mapping[str, LayerRecord], files: FileSet | None) -> Record:
        record = Record(
            {name: dataclasses.replace(one, skip_fusion=name in self._unfused) for name, one in records.items()}
        )
        write_record(record, self.path, files, self.partners)
        return record
