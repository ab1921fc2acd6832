"""Our side of TensorRT on the emulated GPU: choice and fallback, buffers, CUDA graph, threads, what is freed, errors.

What NVIDIA's own code does is asked where it can run: test_builder_rtx.py (the builder), test_gpu.py (the GPU).
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from bundle_workshop import copy_of_default, edit_manifest, seal

from edgefer import app
from edgefer.bench_engine import within
from edgefer.bundle import GOLDEN, open_bundle
from edgefer.capture.rig import Rig
from edgefer.config import Config, Infer
from edgefer.config_file import build
from edgefer.errors import BundleError, ServiceError
from edgefer.infer import open_network
from edgefer.infer.cuda import CudaGraph, open_cuda
from edgefer.infer.engine import GpuError
from edgefer.infer.tensorrt import DetectorEngine, bundle_graphs, cache_of, open_engine
from edgefer.infer.vendor import load
from edgefer.life import Life
from edgefer.locate import Locator
from edgefer.locate.yunet import model_path
from edgefer.pipeline import Pipeline
from edgefer.reload import AGAIN, Requests
from edgefer.serving import Serving
from edgefer.types import AlignedPair


def pair(k: int = 0) -> AlignedPair:
    g = open_bundle().golden
    return AlignedPair(g.visible[k : k + 1], g.infrared[k : k + 1], g.present[k : k + 1])


def feed(k: int = 0) -> dict[str, Any]:
    p = pair(k)
    return {"visible": p.visible, "infrared": p.infrared, "present": p.present}


def engine(**config: Any) -> Any:
    file, options = bundle_graphs(open_bundle())[0]
    return open_engine(file, options, Infer(**config), lambda _: None)


def test_auto_is_tensorrt_where_it_works(emulated: ModuleType) -> None:
    said: list[str] = []
    network = open_network(open_bundle(), Infer(), on_fallback=said.append)
    assert network.backend == "tensorrt"
    network.close()
    assert said == []


def test_auto_without_an_nvidia_driver_is_onnx_runtime_and_no_news(emulated: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgefer.infer.has_driver", lambda: False)
    said: list[str] = []
    network = open_network(open_bundle(), Infer(), on_fallback=said.append)
    assert (network.backend, said) == ("onnxruntime", [])
    network.close()


def test_of_a_bundle_with_one_graph_tensorrt_tries_that(emulated: ModuleType, tmp_path: Path) -> None:
    old = copy_of_default(tmp_path)
    edit_manifest(old, lambda m: m.update(graphs=m["graphs"][:1]))
    with np.load(old / GOLDEN) as z:
        arrays = {k: z[k] for k in z.files if k != "logits_tensorrt"}
    np.savez_compressed(old / GOLDEN, **arrays)
    seal(old)
    network = open_network(open_bundle(old), Infer(backend="tensorrt", engines=str(tmp_path / "engines")))
    network.close()
    assert [f.name.split("-")[0] for f in (tmp_path / "engines").glob("*.engine")] == ["classifier"]


FAULTS = {
    "too old": ({"EMULATED_TENSORRT": "10.2.1"}, "10.2.1 is too old, 10.3"),
    "builder crashes": ({"EMULATED_FAULT": "builder-crash"}, "signal 9"),
    "golden vectors fail": ({"EMULATED_FAULT": "other-answers"}, "off by"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_on_tensorrt_falls_back_with_a_log_line_and_the_reason(
    fault: str, emulated: ModuleType, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    variables, reason = FAULTS[fault]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    network = open_network(open_bundle(), Infer(engines=str(tmp_path)), on_fallback=said.append)
    assert network.backend == "onnxruntime"
    network.close()
    assert len(said) == 1
    assert reason in said[0]
    assert "\n" not in said[0]
    assert any(reason in r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    with pytest.raises((ServiceError, BundleError), match=reason):
        open_network(open_bundle(), Infer(backend="tensorrt", engines=str(tmp_path)))


def test_the_fallback_is_an_event_of_the_daemon(
    emulated: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMULATED_FAULT", "other-answers")
    settings = build({"infer": {"engines": str(tmp_path)}, "publish": {"kind": "stdout"}}, "test")
    with app.started(settings, rig=Rig([], settings.capture)) as pipeline:
        assert pipeline.network.backend == "onnxruntime"
    events = [line for line in capsys.readouterr().out.splitlines() if "backend_fallback" in line]
    assert len(events) == 1
    assert "off by" in events[0]


def test_a_stop_ends_a_start_that_is_building(emulated: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """No fallback, no error, no crash counted, and no engine: the builder, which takes a minute here, is ended."""
    monkeypatch.setenv("EMULATED_FAULT", "builder-hangs")
    heard: list[str] = []
    monkeypatch.setattr("edgefer.sdnotify.notify", heard.append)
    settings = daemon(tmp_path, infer={"engines": str(tmp_path / "engines")})
    asked = iter([False] * 4)
    app.run(settings, lambda: next(asked, True))
    assert [f.name for f in (tmp_path / "engines").iterdir()] == ["lock"]
    assert heard[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert heard[-1] == "STOPPING=1"
    assert "READY=1" not in heard
    assert Life(tmp_path).record.served == ""
    assert not Life(tmp_path).record.running


@pytest.mark.parametrize(("error", "counts"), [(GpuError, True), (ServiceError, False)])
def test_a_gpu_that_fails_in_the_middle_counts_as_a_crash(
    error: type[ServiceError], counts: bool, emulated: ModuleType, tmp_path: Path, monkeypatch: Any
) -> None:
    """Its golden vectors passed, so only the count brings the step that does without it."""

    def fails(*_: object) -> None:
        raise error("the GPU failed")

    monkeypatch.setattr(Pipeline, "step", fails)
    with pytest.raises(error):
        app.run(daemon(tmp_path), lambda: False)
    assert Life(tmp_path).record.running is counts


def daemon(folder: Path, **sections: dict[str, Any]) -> Config:
    """A still picture, readings on standard output, ``folder`` as the state folder."""
    from locate_portraits import astronaut

    cv2.imwrite(str(folder / "face.png"), astronaut())
    capture = {"kind": "picture", "source": str(folder / "face.png"), "width": 640, "height": 640}
    fixed = {"capture": capture, "publish": {"kind": "stdout"}, "state": {"folder": str(folder)}}
    return build({**fixed, "locate": {"width": 640}, **sections}, "test")


def test_after_ready_a_build_asks_for_no_more_time(emulated: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """EXTEND_TIMEOUT_USEC holds the watchdog off as well (systemd's service_extend_timeout)."""
    heard: list[str] = []
    monkeypatch.setattr("edgefer.sdnotify.notify", heard.append)
    serving = Serving(build({"infer": {"engines": str(tmp_path)}}, "test"))
    serving.open()[1].close()
    assert heard
    assert all(said.startswith("EXTEND_TIMEOUT_USEC=") for said in heard)
    heard.clear()
    serving.ready()
    assert heard == ["STATUS="], "systemctl status must not say building for ever"
    cache_of(serving.infer).clean(lambda _: None)
    heard.clear()
    serving.open()[1].close()
    assert heard == []


def test_a_reload_gives_back_the_engines_it_replaces(emulated: ModuleType, tmp_path: Path) -> None:
    """The fixture holds that nothing is left on the GPU at the end either."""
    config = daemon(tmp_path)
    changed = daemon(tmp_path, locate={"width": 640, "min_score": 0.6}, infer={"cuda_graph": False})
    serving = Serving(config)
    with app.started(config, serving=serving) as pipeline:
        used, old = set(emulated.live), (pipeline.network, pipeline.locator)
        app._reloader(pipeline, config, serving, Requests(), lambda: changed)._serve(AGAIN)
        pipeline.changes.get()(pipeline)
        assert pipeline.network is not old[0]
        assert pipeline.locator is not old[1]
        assert not set(emulated.live) & used, "the old buffers are freed"


def test_without_the_library_or_pycuda_it_says_what_to_install(emulated: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ServiceError, match=r"JetPack .*--system-site-packages"):
        load()
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setattr("edgefer.infer.cuda.has_driver", lambda: True)
    with pytest.raises(ServiceError, match="pip install pycuda"):
        open_cuda()


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "11.4.0.106"])
def test_every_version_from_10_3_on_is_taken(version: str, emulated: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setenv("EMULATED_TENSORRT", version)
    assert load("tensorrt").title == f"tensorrt {version}"


@pytest.mark.parametrize("memory", ["copy", "mapped"])
@pytest.mark.parametrize("graph", [True, False])
def test_every_manner_gives_the_same_answers(memory: str, graph: bool, emulated: ModuleType) -> None:
    plain = load("tensorrt").trt._session(bundle_graphs(open_bundle())[0][0].read_bytes())
    one = engine(memory=memory, cuda_graph=graph)
    assert one.graph_used == graph
    emulated.copies.clear()
    for k in range(4):
        assert np.array_equal(one.infer(feed(k))["logits"], plain.run(["logits"], feed(k))[0])
    sizes = [sum(feed()[n].nbytes for n in one.inputs), 4 * len(open_bundle().manifest.labels)]
    assert sum(emulated.copies) == (4 * sum(sizes) if memory == "copy" else 0), "uint8 pictures up, logits down"
    one.close()


def test_auto_memory_is_shared_where_the_gpu_is_part_of_the_processor(emulated: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setitem(emulated.ATTRIBUTES, "INTEGRATED", 1)
    one = engine()
    emulated.copies.clear()
    one.infer(feed())
    assert emulated.copies == []
    one.close()
    monkeypatch.setitem(emulated.ATTRIBUTES, "CAN_MAP_HOST_MEMORY", 0)
    open_cuda().can_map = False
    with pytest.raises(ServiceError, match=r"infer\.memory"):
        engine()


def test_a_graph_that_cannot_be_captured_or_answers_otherwise_is_not_used(
    emulated: ModuleType, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(name: str, *args: Any) -> None:
        raise ServiceError(f"{name} failed with CUDA error 900")

    monkeypatch.setattr("edgefer.infer.cuda._call", refuses)
    one = engine()
    assert not one.graph_used
    assert "CUDA error 900; the stream" in caplog.text.replace("(", "").replace(")", "")
    expected = one.infer(feed())["logits"]
    one.close()

    def skips_work(name: str, *args: Any) -> None:
        if name == "cuGraphLaunch":
            emulated._graphs[args[0].value][-2:] = []
        emulated.driver_call(name, *args)

    monkeypatch.setattr("edgefer.infer.cuda._call", skips_work)
    two = engine()
    assert not two.graph_used
    assert "answers otherwise" in caplog.text
    assert np.array_equal(two.infer(feed())["logits"], expected)
    two.close()


def test_two_threads_share_an_engine_and_the_context_is_back_after_every_call(emulated: ModuleType) -> None:
    one = engine()
    expected = [one.infer(feed(k))["logits"] for k in range(8)]

    def look(k: int) -> tuple[Any, int]:
        return one.infer(feed(k % 8))["logits"], emulated.depth()

    with ThreadPoolExecutor(2) as pool:
        for k, (logits, depth) in enumerate(pool.map(look, range(40))):
            assert np.array_equal(logits, expected[k % 8])
            assert depth == 0
        pool.submit(one.close).result()  # from a thread that did not open it
    assert not emulated.live
    with pytest.raises(ValueError, match="closed"):
        one.infer(feed())


def test_answers_are_the_callers_own(emulated: ModuleType) -> None:
    one = engine(memory="mapped")
    first = one.infer(feed(0))["logits"]
    copy = first.copy()
    one.infer(feed(1))
    one.close()
    assert np.array_equal(first, copy)


def test_an_opening_that_fails_half_way_leaves_nothing_on_the_gpu(emulated: ModuleType, monkeypatch: Any) -> None:
    count = iter(range(100))

    def short(size: int) -> Any:
        if next(count) == 2:
            raise emulated.Error("cuMemAlloc failed: out of memory")
        return emulated.DeviceAllocation(size)

    monkeypatch.setattr(emulated, "mem_alloc", short)
    with pytest.raises(ServiceError, match=r"classifier.*\.onnx: the GPU refuses .*out of memory"):
        engine()
    # the fixture holds that no memory is left


def test_a_gpu_that_fails_in_the_middle_is_one_line(emulated: ModuleType, monkeypatch: Any) -> None:
    one = engine(cuda_graph=False)

    def lost(*_: Any) -> None:
        raise emulated.Error("cuMemcpyHtoDAsync failed: unspecified launch failure")

    with monkeypatch.context() as m:
        m.setattr(emulated, "memcpy_htod_async", lost)
        with pytest.raises(ServiceError, match="launch failure"):
            one.infer(feed())
    assert emulated.depth() == 0
    one.close()


def test_closing_on_a_gpu_that_failed_goes_on_to_the_end(emulated: ModuleType, monkeypatch: Any) -> None:
    """After a failed launch every driver call answers with that failure; memory is given back all the same."""
    one = engine()
    assert one.graph_used

    def lost(name: str, *args: Any) -> None:
        emulated.driver_call(name, *args)
        raise ServiceError(f"{name} failed with CUDA error 719")

    monkeypatch.setattr("edgefer.infer.cuda._call", lost)
    with pytest.raises(GpuError, match="CUDA error 719"):
        one.infer(feed())
    one.close()
    assert not emulated.live


def test_a_capture_that_fails_gives_its_graph_back_and_the_stream_works_on(emulated: ModuleType) -> None:
    cuda = open_cuda()
    with cuda.current():
        stream = cuda.drv.Stream(1)

        def refuses() -> None:
            raise ServiceError("did not run")

        with pytest.raises(ServiceError, match="did not run"):
            CudaGraph(stream.handle, refuses)
        assert emulated.graphs_alive() == 0
        assert stream.captured is None


def test_a_mapped_buffer_without_an_address_is_freed(emulated: ModuleType, monkeypatch: Any) -> None:
    def refuses(_: Any) -> int:
        raise emulated.LogicError("cuMemHostGetDevicePointer failed")

    monkeypatch.setattr(emulated.PagelockedHostAllocation, "get_device_pointer", refuses)
    with pytest.raises(ServiceError, match="the GPU refuses"):
        engine(memory="mapped")
    assert not emulated.live


def test_an_address_that_is_not_taken_is_an_error(emulated: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setenv("EMULATED_FAULT", "refuses-address")
    with pytest.raises(ServiceError, match=r"does not take \w+: \w+ is not aligned"):
        engine()


def test_opened_and_closed_many_times_the_gpu_is_as_empty_as_before(emulated: ModuleType) -> None:
    free = open_cuda().free_bytes()
    for _ in range(8):
        engine().close()
        assert open_cuda().free_bytes() == free


def test_the_detector_takes_bytes_and_finds_the_faces(emulated: ModuleType) -> None:
    from locate_portraits import astronaut

    settings = build({"locate": {"width": 640}, "capture": {"width": 640, "height": 640}}, "test")
    detector = app.detector_engine(settings, lambda _: None)
    locator, theirs = Locator(settings.locate, 1, detector), Locator(settings.locate, 1)
    emulated.copies.clear()
    faces = [x._detector.detect(astronaut())[0] for x in (locator, theirs)]
    assert np.abs(faces[0].landmarks - faces[1].landmarks).max() < 1
    assert emulated.copies[0] == 640 * 640 * 3, "bytes go up, not floats"
    locator.close()


def test_a_detector_that_cannot_run_there_is_opencvs_with_an_event(emulated: ModuleType, tmp_path: Path) -> None:
    """The emulation runs the file at 640 x 640 only, so a smaller one fails."""
    settings = build({"infer": {"engines": str(tmp_path)}, "publish": {"kind": "stdout"}}, "test")
    said: list[str] = []
    locator = app.open_locator(settings, "tensorrt", said.append)
    assert len(said) == 1
    locator.close()
    forced = build({"infer": {"engines": str(tmp_path)}, "locate": {"backend": "tensorrt"}}, "test")
    with pytest.raises(ServiceError):
        app.open_locator(forced, "onnxruntime", said.append)


def test_a_plan_the_library_rejects_is_built_again_once(
    emulated: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"engines": str(tmp_path)}
    engine(**config).close()
    cache = cache_of(Infer(**config))  # type: ignore[arg-type]
    key = cache.entries()[0].key
    assert key is not None
    cache._store(key, b"another machine's plan")
    engine(**config).close()
    assert "does not take the engine" in caplog.text
    assert cache.entries()[0].bytes > 1000


def test_a_graph_with_other_outputs_than_the_manifests_is_refused_and_freed(emulated: ModuleType) -> None:
    from edgefer.infer.network import crop_inputs
    from edgefer.infer.tensorrt import TensorRtGraph

    bundle = open_bundle()
    with pytest.raises(BundleError, match="do not fit the manifest"):
        TensorRtGraph(bundle.graph("onnxruntime"), Infer(), crop_inputs(bundle), ("logits", 99), lambda _: None)


def test_detector_engine_is_the_file_that_is_pinned(emulated: ModuleType) -> None:
    detector = DetectorEngine(model_path(), (640, 640), Infer(), lambda _: None)
    with pytest.raises(ValueError, match="input: uint8"):
        detector(np.zeros((320, 640, 3), np.uint8))
    detector.close()


def test_bench_prints_every_manner_and_what_the_runner_adds(
    emulated: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures mean nothing on the emulation; that every one is measured and printed does."""
    import json

    from edgefer.cli import main

    monkeypatch.setattr("edgefer.bench_engine.WARM", 1)
    monkeypatch.setattr("edgefer.bench_engine.ROUNDS", 1)
    file = tmp_path / "edgefer.toml"
    file.write_text("[locate]\nwidth = 640\n[capture]\nwidth = 640\nheight = 640\n")
    command = ["bench", "--backend", "tensorrt", "--seconds", "0.01", "--json", str(tmp_path / "f.json")]
    assert main([*command, "--config", str(file)]) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    manners = {"copy, graph", "copy, stream", "mapped, graph", "mapped, stream"}
    for name in ("network", "detector"):
        assert set(report[name]) == manners
        for t in report[name].values():
            assert t["runner_us"] == pytest.approx(t["p50_us"] - t["gpu_us"])
    out = capsys.readouterr().out
    assert out.count("  network ") == 4
    assert out.count("  within") + out.count("  OVER") == 8
    assert "detector, decoding and network together" in out


def test_the_gpus_own_time_is_that_of_runs_in_a_row(emulated: ModuleType) -> None:
    """A single run would hold the wait for its launch, and so hide what our runner adds."""
    one = engine(memory="copy", cuda_graph=False)
    emulated.events.clear()
    assert one.gpu_seconds(feed(), runs=5) > 0
    before, after = emulated.events
    assert after - before == 5 * (len(one.inputs) + len(one.outputs))
    one.close()


@pytest.mark.parametrize(("runner", "gpu", "good"), [(29, 100, True), (31, 100, False), (99, 1000, True)])
def test_what_the_runner_may_add(runner: float, gpu: float, good: bool) -> None:
    assert within({"runner_us": runner, "gpu_us": gpu}) is good


def test_bench_without_a_gpu_says_so(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from edgefer.cli import main

    monkeypatch.setattr("edgefer.infer.cuda._opened", [])
    monkeypatch.setattr("edgefer.infer.cuda.has_driver", lambda: False)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert main(["bench", "--backend", "tensorrt"]) == 69
    assert capsys.readouterr().err == "edgefer: no NVIDIA GPU: there is no driver\n"


def test_a_detector_engine_that_answers_otherwise_is_refused_and_freed(emulated: ModuleType, monkeypatch: Any) -> None:
    settings = build({"locate": {"width": 640}, "capture": {"width": 640, "height": 640}}, "test")
    monkeypatch.setenv("EMULATED_FAULT", "other-answers")
    with pytest.raises(ServiceError, match="off by"):
        app.detector_engine(settings, lambda _: None)


def test_the_context_is_given_back_at_the_end_and_no_thread_keeps_it(emulated: ModuleType) -> None:
    cuda = open_cuda()
    cuda.release()
    assert emulated.depth() == 0
