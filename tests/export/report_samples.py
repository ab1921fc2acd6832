"""Made-up results for the tests of the report."""

from __future__ import annotations

from typing import Any

from export.report.results import System

LABELS = ("anger", "happiness", "neutral")


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "interval_95": (value - 0.02, value + 0.02)}


def mode(accuracy: float = 0.664) -> dict[str, Any]:
    return {
        "images": 300, "accuracy": estimate(accuracy), "macro_precision": estimate(0.61),
        "macro_recall": estimate(0.59), "macro_f1": estimate(0.6), "ece": 0.031,
        "confusion": ((60, 20, 20), (10, 80, 10), (25, 15, 60)),
        "reliability": {
            "edges": (0.0, 0.5, 1.0), "confidence": (None, 0.7), "accuracy": (None, 0.66), "count": (0, 300),
        },
    }  # fmt: skip


def system(recipe: str = "zou2021-pyconv", **changes: Any) -> System:
    """A complete result; ``changes`` replace fields."""
    base: dict[str, Any] = {
        "recipe": recipe, "paper": "zou2021", "title": "PyConv-SE18", "family": "visible", "lenses": ("visible",),
        "fusion": "none", "dataset": "FER2013", "protocol": "official split, leak-free rows", "seed": 1,
        "data_fingerprint": "ab" * 32, "machine": {"processor": "a processor", "cores": 2},
        "training": {
            "cpu_minutes": 39.5, "wall_minutes": 21.0, "epochs": 2, "images_seen": 56012,
            "width": "half the channels", "precision": "bfloat16", "budget_minutes": 40.0,
        },
        "parameters": 1234567, "macs": 45678901, "latency_ms": {"median": 3.25, "p95": 4.5}, "labels": LABELS,
        "modes": {"visible": mode()}, "clean": {"visible": {"images": 250, "accuracy": estimate(0.652)}},
        "darkness": [{"gain": 1.0, "accuracy": 0.664}, {"gain": 0.1, "accuracy": 0.41}],
        "curve": [
            {"epoch": 1, "step": "joined", "loss": 1.8, "watch": 0.3, "lr": 0.1},
            {"epoch": 2, "step": "joined", "loss": 1.4, "watch": 0.5, "lr": 0.05},
        ],
    }  # fmt: skip
    return System.model_validate({**base, **changes})
