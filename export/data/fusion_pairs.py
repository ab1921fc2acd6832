"""Aligned infrared/visible scenes without labels (RoadScene, TNO): NAME_vi.* with NAME_ir.*, for pixel fusion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from export.data.faces import U8
from export.data.folders import decode, files_below, is_image
from export.errors import InputError

ENDS = ("_vi", "_ir")
FOLDER = "ir_visible_pairs"


class FusionPairs:
    """Iterates (name, visible, infrared), both uint8 [H, W] grey of one size that differs from pair to pair.

    ``rejected`` names files without their other half at once, damaged and unequal ones when they have been read: it is
    complete after the first pass. Raises InputError when there is no pair.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / FOLDER if (root / FOLDER).is_dir() else root
        self._rejected: dict[str, str] = {}
        halves: dict[str, dict[str, Path]] = {}
        for path in files_below(self.root):
            if not is_image(path) or path.stem[-3:].lower() not in ENDS:
                self._reject(path, "not named NAME_vi.* or NAME_ir.*" if is_image(path) else "not an image file")
            else:
                self._place(path, halves)
        self.pairs = {name: (held["_vi"], held["_ir"]) for name, held in halves.items() if len(held) == 2}
        for name, held in halves.items():
            for end, path in held.items() if name not in self.pairs else ():
                self._reject(path, f"unpaired, lacks {path.stem[:-3]}{ENDS[1 - ENDS.index(end)]}.*")
        if not self.pairs:
            raise InputError(f"{root}: no pair NAME_vi.* with NAME_ir.* here or in {FOLDER}/")

    def _place(self, path: Path, halves: dict[str, dict[str, Path]]) -> None:
        held = halves.setdefault(path.relative_to(self.root).with_name(path.stem[:-3]).as_posix(), {})
        if (end := path.stem[-3:].lower()) in held:
            self._reject(path, f"same half as {held[end].name}, which is used")
        else:
            held[end] = path

    def _reject(self, path: Path, why: str) -> None:
        self._rejected[path.relative_to(self.root).as_posix()] = why

    @property
    def rejected(self) -> tuple[str, ...]:
        """One line per file that is not used."""
        return tuple(f"{name}: {why}" for name, why in sorted(self._rejected.items()))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[str, U8, U8]]:
        for name, files in self.pairs.items():
            visible, infrared = (decode(path) for path in files)
            if isinstance(visible, str) or isinstance(infrared, str):
                self._unusable(files, visible, infrared)
            elif visible.shape != infrared.shape:
                sizes = f"{visible.shape[1]}x{visible.shape[0]} and {infrared.shape[1]}x{infrared.shape[0]} pixels"
                self._reject(files[0], f"{sizes}, not aligned with {files[1].name}")
                self._reject(files[1], f"{sizes}, not aligned with {files[0].name}")
            else:
                yield name, visible, infrared

    def _unusable(self, files: tuple[Path, Path], *halves: U8 | str) -> None:
        for path, other, half in zip(files, reversed(files), halves, strict=True):
            self._reject(path, half if isinstance(half, str) else f"unpaired, {other.name} is not usable")
