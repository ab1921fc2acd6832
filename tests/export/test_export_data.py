"""No picture of a test split is trained on; a broken archive is one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.data import fer2013
from export.errors import InputError


def test_training_has_neither_twins_of_the_test_splits_nor_blank_images(data_root: Path) -> None:
    train, private = fer2013.load("train"), fer2013.load("private")
    assert len(train) == 22  # 24 less the blank one and the twin
    seen = {image.tobytes() for image in train.images}
    assert not seen & {image.tobytes() for image in private.images}


def test_private_clean_leaves_out_the_twin(data_root: Path) -> None:
    private, clean, rows = fer2013.load("private"), fer2013.load("private-clean"), fer2013.twin_free()
    assert (len(private), len(clean), int(rows.sum())) == (12, 11, 11)
    assert np.array_equal(private.images[rows], clean.images)


def test_the_fingerprint_follows_the_labels(data_root: Path) -> None:
    before = fer2013.load("train").fingerprint
    with np.load(data_root / "fer2013.npz") as z:
        arrays = {k: z[k] for k in z}
    arrays["labels"][5] ^= 1
    np.savez(data_root / "fer2013.npz", **arrays)
    assert fer2013.load("train").fingerprint != before


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.9])
def test_a_truncated_archive_is_one_line(data_root: Path, keep: float) -> None:
    file = data_root / "fer2013.npz"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(keep * len(raw)) if keep < 1 else int(keep)])
    with pytest.raises(InputError, match=r"fer2013\.npz: unreadable .*fetch it again"):
        fer2013.load("train")


def test_an_archive_without_an_array_is_one_line(data_root: Path) -> None:
    np.savez(data_root / "fer2013.npz", images=np.zeros((1, 16, 16), np.uint8))
    with pytest.raises(InputError, match="labels"):
        fer2013.load("train")


@pytest.mark.data
def test_the_official_archive(real_data: Path) -> None:
    assert len(fer2013.load("private", real_data)) == 3589
    assert int(fer2013.twin_free(real_data).sum()) == 3301
