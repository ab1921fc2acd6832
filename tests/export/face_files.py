"""Image files of known grey for the tests of the readers, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def picture(path: Path, grey: int = 90, size: tuple[int, int] = (48, 48)) -> Path:
    """An image file with texture round ``grey``; ``size``: width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(grey)
    image = np.clip(grey + rng.integers(-30, 31, (size[1], size[0])), 0, 255).astype(np.uint8)
    assert cv2.imwrite(str(path), image)
    return path


def text(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def cut_short(path: Path) -> Path:
    picture(path, 90, (300, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def grey(images: np.ndarray) -> list[int]:
    """Mean grey of each picture to the nearest ten, which tells the synthetic ones apart."""
    return [int(round(float(image.mean()), -1)) for image in images]
