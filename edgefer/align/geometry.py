"""Crop geometry. Pure."""

from __future__ import annotations

import numpy as np

from edgefer.types import F32, F64


def similarity(source: F32 | F64, target: F64) -> F64:
    """Least-squares rotation, uniform scale and shift: float64 [2, 3] that maps source [P, 2] onto target [P, 2].

    A similarity is multiplication by one complex number and a shift, so the fit is linear (Umeyama 1991 without the
    reflection case, which a face cannot show). Coinciding source points give scale 0.
    """
    s = source[:, 0].astype(np.float64) + 1j * source[:, 1]
    t = target[:, 0] + 1j * target[:, 1]
    centred = s - s.mean()
    spread = float((centred * centred.conj()).real.sum())
    a = complex((centred.conj() * (t - t.mean())).sum() / spread) if spread > 1e-12 else 0j
    b = complex(t.mean() - a * s.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
