"""From an ONNX file to a plan: strongly typed, static shapes, the precision is the graph's. Needs no GPU for RTX.

A build runs in a process of its own: a builder that crashes or takes all memory then ends neither the daemon nor its
fallback, and what it used is given back. The child tells every step, and is ended when none comes for ``STALL_S``.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgefer.errors import BundleError, EdgeferError, ServiceError
from edgefer.infer import vendor as vendors
from edgefer.infer.network import Progress
from edgefer.infer.vendor import Vendor, one_line

log = logging.getLogger("edgefer.tensorrt")
STALL_S = 600.0
"""longest time without a step before a build is given up, seconds; the longest step of a small network is far below"""
POLL_S = 0.25
"""how often the caller may end a build that says nothing"""
CHILD = "import sys; from edgefer.infer.builder import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Options:
    """What of a build is ours to choose, and part of an engine's key."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """input -> shape; an image input of the file may be given as uint8 [1, H, W, C] by ``image``"""
    image: str = ""
    """float [1, C, H, W] input that is fed as uint8 [1, H, W, C] instead: a quarter of the copy"""
    workspace_mib: int = 256
    level: int = 3
    """builder_optimization_level, TensorRT's default"""


@dataclass(frozen=True)
class Job:
    """One build. ``target``: compute capability of a GPU that is not here (TensorRT for RTX only), else None."""

    file: Path
    options: Options
    library: str
    target: tuple[int, int] | None = None


def build_apart(job: Job, progress: Progress, stall_s: float = STALL_S) -> bytes:
    """The plan, built in a child process. Raises BundleError (the graph) or ServiceError (anything else)."""
    with tempfile.TemporaryFile() as out:
        command = [sys.executable, "-c", CHILD, _dump(job), str(out.fileno())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[out.fileno()], env=_environment()) as child:
            try:
                failure = _follow(child, progress, stall_s)
            finally:
                child.kill()
        if failure is not None:
            raise failure
        if child.returncode != 0:
            raise ServiceError(f"{job.file}: the builder ended with {_ending(child.returncode)}; see the log above")
        out.seek(0)
        return out.read()


def _environment() -> dict[str, str]:
    """Ours, with the folder this package lies in: the child must find the same edgefer."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))}


def _ending(code: int) -> str:
    return f"signal {-code} (out of memory?)" if code < 0 else f"exit code {code}"


def _follow(child: subprocess.Popen[bytes], progress: Progress, stall_s: float) -> EdgeferError | None:
    """Relay what the child says until it ends; the error it names, if any."""
    failure: EdgeferError | None = None
    for said in _lines(child, stall_s):
        progress(str(said.get("step", "")))
        if "log" in said:
            log.log(int(said["log"]), "%s", said["text"])
        elif "error" in said:
            failure = (BundleError if said["graph"] else ServiceError)(said["error"])
    child.wait()
    return failure


def _lines(child: subprocess.Popen[bytes], stall_s: float) -> Iterator[dict[str, Any]]:
    """What the child says; nothing, every ``POLL_S``, while it is silent."""
    assert child.stdout is not None
    rest, end = b"", time.monotonic() + stall_s
    while True:
        if not select.select([child.stdout], [], [], min(POLL_S, stall_s))[0]:
            if time.monotonic() >= end:
                raise ServiceError(f"the TensorRT builder made no step for {stall_s:g} s and was ended")
            yield {}
            continue
        chunk, end = os.read(child.stdout.fileno(), 65536), time.monotonic() + stall_s
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            try:
                said = json.loads(line)
            except ValueError:
                said = None  # a library that prints
            if isinstance(said, dict):
                yield said


def _dump(job: Job) -> str:
    return json.dumps({**asdict(job), "file": str(job.file)})


def _job(text: str) -> Job:
    raw = json.loads(text)
    shapes = tuple((name, tuple(shape)) for name, shape in raw["options"].pop("shapes"))
    target = tuple(raw["target"]) if raw["target"] else None
    return Job(Path(raw["file"]), Options(shapes=shapes, **raw["options"]), raw["library"], target)


def main(argv: list[str]) -> int:
    """The child: the job as JSON, the number of the open file that takes the plan."""
    job, out = _job(argv[0]), int(argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    with suppress(OSError):  # where memory runs out this process is to go, not the daemon
        Path("/proc/self/oom_score_adj").write_text("500")
    handler = logging.Handler()
    handler.emit = lambda record: _tell(log=record.levelno, text=record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    try:
        plan = build(vendors.load(job.library), job, lambda step: _tell(step=step))
    except EdgeferError as e:
        _tell(error=str(e), graph=isinstance(e, BundleError))
        return e.exit_code
    with os.fdopen(out, "wb") as f:
        f.write(plan)
    return 0


def _tell(**said: Any) -> None:
    os.write(1, (json.dumps(said) + "\n").encode())


def build(vendor: Vendor, job: Job, progress: Progress) -> bytes:
    """The plan, in this process. Raises BundleError for a graph TensorRT refuses, ServiceError for the rest."""
    trt = vendor.trt
    vendor.errors()
    builder = trt.Builder(vendor.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(vendor, network, job.file)
    _fix_inputs(vendor, network, job)
    config = _config(vendor, builder, job, _monitor(trt, job.file.name, progress))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ServiceError(f"{job.file}: {vendor.title} builds no engine from it: {vendor.cause()}")
    return bytes(plan)


def _parse(vendor: Vendor, network: Any, file: Path) -> None:
    parser = vendor.trt.OnnxParser(network, vendor.logger)
    try:
        data = file.read_bytes()
    except OSError as e:
        raise BundleError(f"{file}: unreadable ({e.strerror}); install the bundle again") from None
    if not parser.parse(data):
        first = parser.get_error(0) if parser.num_errors else None
        cause = first.desc() if first else vendor.cause()
        where = f"node {first.node_name() or first.node()} ({first.node_operator()}): " if first else ""
        remedy = "install a bundle whose graph is made for TensorRT"
        raise BundleError(f"{file}: {vendor.title} cannot read it: {where}{one_line(cause)}; {remedy}")


def _fix_inputs(vendor: Vendor, network: Any, job: Job) -> None:
    """Static shapes: no profile, no reshaping at run time."""
    inputs = {network.get_input(k).name: network.get_input(k) for k in range(network.num_inputs)}
    shapes = dict(job.options.shapes)
    if set(inputs) != set(shapes):
        raise BundleError(f"{job.file}: its inputs are {', '.join(sorted(inputs))}, expected {', '.join(shapes)}")
    for name, shape in shapes.items():
        if name == job.options.image:
            n, h, w, c = shape
            inputs[name].shape = (n, c, h, w)
            _feed_bytes(vendor.trt, network, inputs[name], shape)
        else:
            inputs[name].shape = shape


def _feed_bytes(trt: Any, network: Any, was: Any, shape: tuple[int, ...]) -> None:
    """In place of the float input ``was`` a uint8 one of the same name, channels last."""
    name = was.name
    was.name = f"{name}.float"
    image = network.add_input(name, trt.DataType.UINT8, shape)
    real = network.add_cast(image, was.dtype).get_output(0)
    turned = network.add_shuffle(real)
    turned.first_transpose = (0, 3, 1, 2)
    for k in range(network.num_layers):
        layer = network.get_layer(k)
        for i in range(layer.num_inputs):
            source = layer.get_input(i)
            if source is not None and source.name == was.name:
                layer.set_input(i, turned.get_output(0))
    network.remove_tensor(was)


def _config(vendor: Vendor, builder: Any, job: Job, monitor: Any) -> Any:
    trt, config = vendor.trt, builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.options.workspace_mib << 20)
    config.builder_optimization_level = job.options.level
    config.progress_monitor = monitor
    if job.target is not None:
        name = "SM" + "".join(map(str, job.target))
        capability = getattr(getattr(trt, "ComputeCapability", None), name, None)
        if capability is None:
            raise ServiceError(f"{vendor.title} cannot build for {name} without that GPU; build on the machine itself")
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    return config


def _monitor(trt: Any, title: str, progress: Callable[[str], object]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Called from the builder's threads; a step at most twice a second is told."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.next = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            pass

        def step_complete(self, name: str, step: int) -> bool:
            now = time.monotonic()
            if now >= self.next:
                self.next = now + 0.5
                progress(f"building {title}: {name}, step {step + 1}")
            return True

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()
