"""The form of a result: one small JSON file per trained recipe, ``export/results/systems/KEY.json``.

Shares (accuracy, precision, ...) are 0..1; published figures stay as their paper prints them. Unknown keys are an
error, so that a file never says something the report leaves out.
"""

from __future__ import annotations

import statistics
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Status = Literal["same protocol", "other protocol", "not reproducible here", "claim"]
"""how a published figure stands to ours: measured alike; same data but another or an unstated split; its data is not
available; or the figure contradicts its own paper or the data"""
Family = Literal["visible", "infrared", "msx", "early", "late", "pixel", "temporal"]
"""what is fused where; the light benchmark puts families side by side. ``msx`` is the derived third lens alone"""
Variant = Literal["full", "reduced"]
Row = tuple[str, Variant, str]
"""(recipe, variant, set where it is not the recipe's own)"""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(Part):
    """A share and its 95 % interval (bootstrap over the test rows)."""

    value: Share
    interval_95: tuple[Share, Share]


class Reliability(Part):
    """Bins of the top probability: B + 1 ``edges`` and B means and counts; a mean is None where the bin is empty."""

    edges: tuple[Share, ...]
    confidence: tuple[Share | None, ...]
    accuracy: tuple[Share | None, ...]
    count: tuple[int, ...]

    @model_validator(mode="after")
    def _bins_fit(self) -> Reliability:
        lengths = {len(self.edges) - 1, len(self.confidence), len(self.accuracy), len(self.count)}
        if len(lengths) != 1:
            raise ValueError("edges must be one longer than confidence, accuracy and count")
        return self


class Mode(Part):
    """Figures of one state of the camera on all test rows."""

    images: int = Field(gt=0)
    accuracy: Estimate
    macro_precision: Estimate
    macro_recall: Estimate
    macro_f1: Estimate
    ece: Share
    """expected calibration error"""
    confusion: tuple[tuple[int, ...], ...]
    """[K][K]: row the true class, column the answer; K = number of the system's ``labels``"""
    reliability: Reliability | None = None


class CleanMode(Part):
    """The same on the test rows without a twin in the training set."""

    images: int = Field(gt=0)
    accuracy: Estimate


class Light(Part):
    """Accuracy with ``gain`` times the light on the visible lens; 1 is the picture as taken."""

    gain: float = Field(gt=0)
    accuracy: Share
    interval_95: tuple[Share, Share] | None = None


class CurvePoint(Part):
    epoch: int
    """counted through all steps, from 1"""
    step: str
    loss: float
    watch: Share | None = None
    """accuracy on the rows watched during training (never the test rows); None when not measured that epoch"""
    lr: float


class Published(Part):
    """A figure of the paper beside this system's."""

    figure: float
    """as printed there (accuracy in percent)"""
    what: str
    """such as "accuracy, FER2013" """
    where: str
    """such as "Table 1" """
    status: Status
    reason: str


class Fold(Part):
    """One held-out part: a fold of people, or a group of the thermal set."""

    name: str
    images: int = Field(gt=0)
    accuracy: Share
    majority: Share | None = None
    """accuracy of always answering the training rows' most frequent class"""


class Training(Part):
    cpu_minutes: float = Field(ge=0)
    """processor time of this recipe alone, without what ``starts_from`` cost"""
    wall_minutes: float = Field(ge=0)
    epochs: int = Field(ge=0)
    images_seen: int = Field(ge=0)
    width: str
    """such as "full size" or "half the channels" """
    precision: str
    """such as "bfloat16" """
    budget_minutes: float | None = None
    """the CPU budget it was held to; None: none"""
    starts_from: tuple[str, ...] = ()
    """recipes whose weights it begins with"""
    parts: dict[str, float | None] = {}
    """CPU minutes of each of these and of what they begin with in turn, as their checkpoints say; None: that cannot be
    told (weights of others, a checkpoint that is gone); {}: it begins with nothing, or is measured before this was
    noted"""


class Trained(Part):
    """The recipe that the checkpoint holds: what was really trained, whatever the recipe of that name says today."""

    model: dict[str, Any]
    augment: dict[str, float]
    """ranges of the random training views"""
    training: dict[str, Any]
    planned: dict[str, tuple[tuple[int, int], ...]] = {}
    """step -> ((crop side in pixels, epochs), ...) as the budget paid for; {}: nothing was trained, or the plan is
    lost"""
    start: dict[str, str] = {}
    soup: tuple[str, ...] = ()
    distil: dict[str, Any] | None = None
    crop: int = 48


class Machine(Part):
    processor: str
    cores: int = Field(gt=0)
    accelerator: str = ""


class Latency(Part):
    """Milliseconds per pair."""

    median: float = Field(gt=0)
    p95: float = Field(gt=0)
    runtime: str = "ONNX Runtime 1 thread batch 1"


class System(Part):
    """One trained recipe and what it is worth."""

    recipe: str
    variant: Variant = "full"
    """trained as the paper has it, or at reduced width within the CPU budget"""
    paper: str
    """key in published.toml, or "ours" """
    title: str
    family: Family
    role: Literal["system", "ablation", "comparison"] = "system"
    """of the paper itself; a variant with a module or a step less; another backbone for comparison"""
    compares_with: str = ""
    """recipe that an ablation or comparison stands beside; the one of the same variant where there are two"""
    change: str = ""
    """what differs from that recipe, such as "without attention" """
    lenses: tuple[str, ...]
    fusion: str
    dataset: str
    on: str = ""
    """what ``--data`` named: another set than its recipe's own, or other folds of it"""
    protocol: str
    """split, what was trained on, what tested on, test-time augmentation: one line"""
    simulated: str = ""
    """what is not real; "" when all is"""
    seed: int
    repeat: bool = False
    """trained with another seed than its recipe's own, beside whose result this one stands"""
    seeds: dict[str, Share] = {}
    """accuracy of every seed run, this one included; {} when there is only this one, and in files: whoever reads them
    finds those of other seeds beside it (`export.report.seeds`)"""
    data_fingerprint: str
    """sha256 of the training rows' pixels and labels"""
    machine: Machine
    training: Training
    trained: Trained | None = None
    """None: measured before this was noted"""
    parameters: int = Field(gt=0)
    macs: int = Field(gt=0)
    """multiply-accumulates for one pair"""
    latency_ms: Latency | None = None
    labels: tuple[str, ...]
    modes: dict[str, Mode] = Field(min_length=1)
    """camera state ("visible+infrared", "visible", "infrared") -> figures; the first is the headline"""
    clean: dict[str, CleanMode] = {}
    darkness: tuple[Light, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    published: tuple[Published, ...] = ()
    """empty: what published.toml lists for this recipe"""
    folds: tuple[Fold, ...] = ()
    extra: dict[str, float] = {}
    """further named figures: GAR, FAR, specificity, weights of late fusion, p of the Friedman test"""

    @model_validator(mode="after")
    def _confusion_is_square(self) -> System:
        k = len(self.labels)
        for name, mode in self.modes.items():
            if len(mode.confusion) != k or any(len(row) != k for row in mode.confusion):
                raise ValueError(f"modes.{name}.confusion must be {k} x {k}, one row and column per label")
        return self

    @property
    def key(self) -> str:
        """Names result and figures."""
        return key(self.recipe, self.variant == "reduced", self.seed if self.repeat else None, self.on)

    @property
    def row(self) -> Row:
        """What results of several seeds have in common."""
        return self.recipe, self.variant, self.on

    @property
    def headline(self) -> Mode:
        return next(iter(self.modes.values()))

    @property
    def accuracy(self) -> float:
        """Of the headline; the mean over the seeds where there are several."""
        return statistics.fmean(self.seeds.values()) if self.seeds else self.headline.accuracy.value


def key(recipe: str, reduced: bool, seed: int | None, on: str = "") -> str:
    """The recipe, with ``-on-viri`` where that is not the recipe's own set, ``-reduced`` where it is that variant and
    ``-seed2`` where that is not the recipe's own."""
    where = f"-on-{on.replace(':', '-')}" if on else ""
    return recipe + where + "-reduced" * reduced + ("" if seed is None else f"-seed{seed}")


class AboutFusion(BaseModel):
    """Where the fusion table comes from; further keys are shown as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    pairs: int = Field(gt=0)
    dataset: str = ""
    command: str
    """what makes the file anew"""
    recipes: tuple[str, ...] = ()
    """recipes of the trained methods in it"""
    seed: int | None = None
    """None, as for all that follow: measured before this was noted"""
    data_fingerprint: str = ""
    """sha256 of the training pairs' pixels"""
    machine: Machine | None = None
    training: Training | None = None
    model: dict[str, Any] = {}
    """the trained method's options, as its checkpoint says"""


class PixelFusion(Part):
    """``export/results/pixel-fusion.json``: fusion methods by metric, means over the pairs."""

    about: AboutFusion

    methods: dict[str, dict[str, float]] = Field(min_length=1)
    """method -> metric (EN, SD, SF, MI, SSIM, Qabf, VIF; larger is better) -> mean"""

    @model_validator(mode="after")
    def _same_metrics(self) -> PixelFusion:
        if len({frozenset(row) for row in self.methods.values()}) != 1:
            raise ValueError("every method must have the same metrics")
        return self
