"""``edgefer engine build|list|clean``: the TensorRT engines of this machine, outside a start of the daemon."""

from __future__ import annotations

import sys

from edgefer import serving
from edgefer.config import Config
from edgefer.errors import EX_OK, EdgeferError, UsageError
from edgefer.infer import tensorrt
from edgefer.infer.cuda import open_cuda
from edgefer.locate.yunet import canvas, model_path


def build(config: Config, target: str | None) -> int:
    """Every engine the configuration needs; what fails does not keep the others. The first failure's exit code."""
    capability = capability_of(target) if target else None
    if capability is None:
        open_cuda()  # one line, not one a graph
    size = canvas(config.locate, config.capture.width, config.capture.height)
    graphs = [
        *tensorrt.bundle_graphs(serving.bundle_to_serve(config)),
        (model_path(config.locate.model), tensorrt.detector_options(size)),
    ]
    worst = EX_OK
    for file, options in graphs:
        try:
            key = tensorrt.prepare(file, options, config.infer, tell, capability)
            print(f"ok    {file.name}: {tensorrt.cache_of(config.infer).folder / key.file}")
        except EdgeferError as e:
            print(f"FAIL  {e}")
            worst = worst or e.exit_code
    return worst


def show(config: Config) -> None:
    cache = tensorrt.cache_of(config.infer)
    entries = cache.entries()
    for entry in entries:
        about = entry.fault or (entry.key and f"{entry.key.library}, {entry.key.gpu}, {entry.key.capability}")
        print(f"{entry.path.name}  {entry.bytes / 1e6:.1f} MB  {about}")
    print(f"{len(entries)} engines in {cache.folder}", file=sys.stderr)


def clean(config: Config) -> None:
    cache = tensorrt.cache_of(config.infer)
    print(f"{len(cache.clean(tell))} files removed from {cache.folder}")


def capability_of(text: str) -> tuple[int, int]:
    """'8.6' -> (8, 6). Raises UsageError."""
    major, dot, minor = text.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise UsageError(f"--target {text}: write the compute capability as 8.6")
    return int(major), int(minor)


def tell(step: str) -> None:
    """To the service manager, where there is one, and to the user."""
    serving.tell_start(step)
    if step:
        print(f"{step} ...", file=sys.stderr, flush=True)
