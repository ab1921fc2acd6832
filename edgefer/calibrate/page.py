"""A board as a PNG that knows its size: printed at 100 %, its millimetres are right."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edgefer.calibrate import boards
from edgefer.calibrate.boards import Board
from edgefer.errors import InputError
from edgefer.types import U8

PX_PER_MM: Final = 12
"""305 dots an inch"""
FOOT_MM: Final = 12
ADVICE: Final = """\
Print at 100 % ("actual size", no fitting to the page), then measure the 100 mm line; if it is off, correct the
millimetres in --board. Glue the sheet flat onto a stiff, matt plate.
Near infrared (illuminator of 850 or 940 nm): laser print shows, its toner is carbon; many inkjet inks are dyes that
vanish: look at the board in the infrared picture first. No gloss and no lamination: the illuminator mirrors in it.
Thermal lenses see no ink: use a grid of circles cut as holes into a sheet before a warm plate (--board circles or
acircles), or a chessboard of bare aluminium foil on matt black card under a warm lamp."""


def write_board(board: Board, path: Path) -> tuple[float, float]:
    """Writes the PNG; returns its width and height in millimetres. Raises InputError."""
    sheet = boards.draw(board, PX_PER_MM)
    page = np.vstack((sheet, _foot(board, max(sheet.shape[1], 1))))
    coded = cv2.imencode(".png", page)[1].tobytes()
    try:
        path.write_bytes(_with_resolution(coded))
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror}") from None
    return page.shape[1] / PX_PER_MM, page.shape[0] / PX_PER_MM


def _foot(board: Board, width: int) -> U8:
    foot = np.full((FOOT_MM * PX_PER_MM, width), 255, np.uint8)
    left, length = 5 * PX_PER_MM, min(100, width // PX_PER_MM // 10 * 10 - 10)
    for x in (left, left + length * PX_PER_MM):
        cv2.line(foot, (x, PX_PER_MM), (x, 5 * PX_PER_MM), 0, 3)
    cv2.line(foot, (left, 3 * PX_PER_MM), (left + length * PX_PER_MM, 3 * PX_PER_MM), 0, 3)
    words = f"edgefer --board {board}   this line: {length} mm   print at 100 %"
    size = min(3.0, 3.0 * (width - 2 * left) / cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 3.0, 6)[0][0])
    cv2.putText(foot, words, (left, 10 * PX_PER_MM), cv2.FONT_HERSHEY_SIMPLEX, size, 0, max(1, round(2 * size)))
    return foot


def _with_resolution(png: bytes) -> bytes:
    """With a pHYs chunk (pixels for each metre) after the header chunk, which OpenCV cannot write."""
    body = b"pHYs" + struct.pack(">IIB", PX_PER_MM * 1000, PX_PER_MM * 1000, 1)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end_of_header = 8 + 25
    return png[:end_of_header] + chunk + png[end_of_header:]
