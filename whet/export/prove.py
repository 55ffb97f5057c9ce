"""Any exported form against the model that it was made from."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from whet.errors import ExportError, ModelError
from whet.export.adapter import Origin, find_origin
from whet.export.gguf import write_gguf
from whet.export.gguf_header import read_header
from whet.export.heldout import HeldOut, held_out_rows
from whet.export.probes import Messages
from whet.export.reference import Reference, load_reference
from whet.export.verdict import Verdict
from whet.export.verify import POSITIONS, require_llamacpp, verify_gguf
from whet.export.verify_folder import verify_folder
from whet.text.chat import chat_template_of

EXACT_BASE_BYTES = 8 * 2**30  # up to this size in float32 the base of an adapter is written in it, else in float16
FLOAT32 = 4


class Proof:
    """One trained model, ready to be compared with any number of exported files.

    Args:
        path: the trained model, as a user names it.
        base: the base model to use instead of the one named in the adapter.
        data: rows to compare on; None takes the run's.

    Raises:
        ModelError: no model there.
        DataError: ``data`` cannot be read.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        origin: Origin | None = None,
        base: Path | str | None = None,
        data: Path | str | None = None,
        probes: Sequence[Messages] | None = None,
        positions: int = POSITIONS,
        threads: int | None = None,
    ) -> None:
        self.origin = origin or find_origin(path, base)
        self.probes, self.positions, self.threads = probes, positions, threads
        self.reference: Reference = load_reference(self.origin, str(path))
        self.held_out: HeldOut | None = held_out_rows(path, self.reference.tokenizer, data)

    def of(self, file: Path | str) -> Verdict:
        """Compare one file or folder; the verdict is written beside it.

        Raises:
            ModelError: nothing there that can be compared.
            ExportError: an adapter as GGUF of a model that has no adapter.
            Unproved: a GGUF, and llama.cpp is not installed.
        """
        place = Path(file)
        if place.is_dir():
            return verify_folder(place, self.reference, self.probes, self.positions, held_out=self.held_out)
        if not place.is_file():
            raise ModelError(f"no file or folder {place}", "a .gguf file, a merged folder or an adapter folder")
        if read_header(place).get("general.type") == "adapter":
            return self._of_adapter(place)
        return self._of_gguf(place, None)

    def _of_gguf(self, place: Path, base_gguf: Path | None) -> Verdict:
        return verify_gguf(
            place,
            self.reference,
            self.reference.tokenizer,
            self.probes,
            self.positions,
            threads=self.threads,
            held_out=self.held_out,
            base_gguf=base_gguf,
        )

    def _of_adapter(self, place: Path) -> Verdict:
        """The base is written for the time of the proof, and llama.cpp puts the adapter on it."""
        if self.origin.adapter is None:
            raise ExportError(f"{place} is an adapter, and the model that it is compared with has none")
        require_llamacpp(place)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".base-") as scratch:
            file = Path(scratch) / "base.gguf"
            self._write_base(file)
            return self._of_gguf(place, file)

    def _write_base(self, file: Path) -> None:
        base = self.origin.base
        size = FLOAT32 * sum(math.prod(base.shape(name)) for name in base.names())
        quant = "f32" if size <= EXACT_BASE_BYTES else "f16"
        template = chat_template_of(self.reference.tokenizer)
        write_gguf(
            base,
            self.origin.tokenizer_dir,
            file,
            quant,
            name="base",
            chat_template=template.jinja if template is not None else "",
            eot_token=template.stops[0] if template is not None and template.stops else None,
        )
