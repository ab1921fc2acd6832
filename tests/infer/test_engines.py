"""The engine cache with real files, locks and processes; the builder in its child."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgefer.bundle import open_bundle
from edgefer.cli import main
from edgefer.config import Infer
from edgefer.errors import EX_OK, EX_UNAVAILABLE, EX_USAGE, ServiceError, Stopped
from edgefer.infer.builder import Job, Options, build_apart
from edgefer.infer.cuda import Gpu
from edgefer.infer.engines import KEPT, EngineCache, Key, default_folder
from edgefer.infer.tensorrt import bundle_graphs, open_engine

OPTIONS = Options(shapes=(("x", (1, 2)),))


def key(tmp_path: Path, **changes: str) -> Key:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"a graph")
    return replace(Key.of(file, "tensorrt 10.3.0", Gpu("Orin", (8, 7)), OPTIONS), **changes)


def silent(_: str) -> None: ...


def never() -> bytes:
    raise AssertionError("built although it was there")


def test_everything_that_makes_an_engine_is_in_its_key(tmp_path: Path) -> None:
    first = key(tmp_path)
    others = [
        replace(first, library="tensorrt 10.13.3"), replace(first, gpu="Orin NX"), replace(first, capability="8.6"),
        Key.of(tmp_path / "net.onnx", "tensorrt 10.3.0", Gpu("Orin", (8, 7)), replace(OPTIONS, level=5)),
        Key.of(tmp_path / "net.onnx", "tensorrt 10.3.0", Gpu("Orin", (8, 7)), replace(OPTIONS, shapes=())),
    ]  # fmt: skip
    (tmp_path / "net.onnx").write_bytes(b"another graph")
    others.append(Key.of(tmp_path / "net.onnx", "tensorrt 10.3.0", Gpu("Orin", (8, 7)), OPTIONS))
    assert len({k.file for k in (first, *others)}) == 7


def test_built_once_then_read(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    assert cache.plan(key(tmp_path), lambda: b"plan", silent) == b"plan"
    assert cache.plan(key(tmp_path), never, silent) == b"plan"
    assert [(e.key, e.fault) for e in cache.entries()] == [(key(tmp_path), "")]


def truncated(data: bytes) -> bytes:
    return data[:-1]


def changed(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": truncated,
    "changed": changed,
    "empty": lambda _: b"",
    "no header": lambda _: b"\xff" * 100_000,
    "header only": lambda data: data.split(b"\n")[0],
    "another key's": lambda data: data.replace(b'"Orin"', b'"Xavier"', 1),
    "a bare number": lambda _: b"7\nplan",
    "a header that lacks the key": lambda data: b'{"magic": "edgefer engine 1", "bytes": 0, "sha256": "'
    + hashlib.sha256().hexdigest().encode() + b'"}\n',
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_stale_truncated_or_foreign_plan_is_built_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, k = EngineCache(tmp_path), key(tmp_path)
    cache.plan(k, lambda: b"plan", silent)
    path = tmp_path / k.file
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert cache.entries()[0].fault
    assert cache.plan(k, lambda: b"new plan", silent) == b"new plan"
    assert f"{path}: " in caplog.text
    assert "built again" in caplog.text
    assert cache.plan(k, never, silent) == b"new plan"


def test_a_build_that_fails_leaves_nothing_and_the_lock_free(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")

    def fails() -> bytes:
        raise ServiceError("no")

    for _ in range(2):
        with pytest.raises(ServiceError):
            cache.plan(key(tmp_path), fails, silent)
    assert [f.name for f in cache.folder.iterdir()] == ["lock"]


def test_an_engine_that_cannot_be_stored_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    cache = EngineCache(tmp_path / "engines")
    assert cache.plan(key(tmp_path), lambda: b"plan", silent) == b"plan"
    assert "No space left" in caplog.text
    assert [f.name for f in cache.folder.iterdir()] == ["lock"], "nothing half-written"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"file/engines: .*infer\.engines"):
        EngineCache(tmp_path / "file" / "engines").plan(key(tmp_path), lambda: b"", silent)


def test_the_longest_unused_go_and_clean_takes_all(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    for n in range(KEPT + 3):
        k = key(tmp_path, gpu=f"gpu {n}")
        cache.plan(k, lambda: b"plan", silent)
        os.utime(cache.folder / k.file, (n + 1, n + 1))
        if n == KEPT - 1:
            cache.plan(key(tmp_path, gpu="gpu 0"), never, silent)
    left = {e.key.gpu for e in cache.entries() if e.key}
    assert left == {"gpu 0", *(f"gpu {n}" for n in range(4, KEPT + 3))}
    (cache.folder / "killed.part").write_bytes(b"half")
    assert len(cache.clean(silent)) == KEPT + 1
    assert [f.name for f in cache.folder.iterdir()] == ["lock"]
    assert EngineCache(tmp_path / "none").clean(silent) == []


def test_an_engine_that_cannot_be_touched_or_is_just_cleaned_away_serves(tmp_path: Path, monkeypatch: Any) -> None:
    """Built by root, used by the service's user: the file may be read, its time may not be set."""
    cache, k = EngineCache(tmp_path), key(tmp_path)
    cache.plan(k, lambda: b"plan", silent)
    for trouble in (PermissionError(1, "Operation not permitted"), FileNotFoundError(2, "gone")):

        def refuses(*_: object, trouble: OSError = trouble) -> None:
            raise trouble

        monkeypatch.setattr("os.utime", refuses)
        assert cache.plan(k, never, silent) == b"plan"


def test_an_engine_that_cannot_be_removed_is_one_line(tmp_path: Path) -> None:
    cache, k = EngineCache(tmp_path), key(tmp_path)
    (tmp_path / k.file).mkdir()  # unlink refuses a folder, for root as well
    for remove in (lambda: cache.discard(k), lambda: cache.clean(silent)):
        with pytest.raises(ServiceError, match=rf"{k.file}: cannot be removed .*as the user that made it"):
            remove()


def test_the_engine_just_built_stays_where_the_clock_is_in_1970(tmp_path: Path) -> None:
    """A Jetson without a battery for its clock: what it builds first looks older than everything else."""
    cache = EngineCache(tmp_path / "engines")
    for n in range(KEPT):
        cache.plan(key(tmp_path, gpu=f"gpu {n}"), lambda: b"plan", silent)
        os.utime(cache.folder / key(tmp_path, gpu=f"gpu {n}").file, (4e9, 4e9))
    cache.plan(key(tmp_path), lambda: b"plan", silent)
    assert cache.plan(key(tmp_path), never, silent) == b"plan"
    assert len(cache.entries()) == KEPT


def test_before_the_builders_first_step_something_is_told(tmp_path: Path) -> None:
    """The service manager's first three minutes must not run out in it."""
    said: list[str] = []

    def builds() -> bytes:
        assert said == ["building net"]
        return b"plan"

    EngineCache(tmp_path).plan(key(tmp_path), builds, said.append)


def test_who_waits_for_the_lock_says_so_now_and_then_and_can_be_ended(tmp_path: Path) -> None:
    cache, said = EngineCache(tmp_path), list[str]()

    def tell(step: str) -> None:
        said.append(step)
        if len(said) == 4:
            raise Stopped

    def builds() -> bytes:
        with pytest.raises(Stopped):
            EngineCache(tmp_path).clean(tell)
        return b"plan"

    cache.plan(key(tmp_path), builds, silent)
    assert said == ["waiting for another process that builds an engine", "", "", ""]


SECOND = """
import sys
from pathlib import Path
from edgefer.infer.cuda import Gpu
from edgefer.infer.engines import EngineCache, Key
sys.path.insert(0, {tests!r})
from test_engines import OPTIONS, never
said = []
def told(step):
    if not said:
        said.append(step)
        print(step, flush=True)
folder = Path({folder!r})
k = Key.of(folder / "net.onnx", "tensorrt 10.3.0", Gpu("Orin", (8, 7)), OPTIONS)
print(EngineCache(folder / "engines").plan(k, never, told).decode())
"""


def test_a_second_process_waits_and_then_reads(tmp_path: Path) -> None:
    """The second one starts while the first builds, is told to wait, and builds nothing itself."""
    code = SECOND.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    cache, k = EngineCache(tmp_path / "engines"), key(tmp_path)
    others: list[subprocess.Popen[str]] = []

    def slow() -> bytes:
        others.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        out = others[0].stdout
        assert out is not None
        assert "waiting for another process" in out.readline()
        return b"the first one's plan"

    cache.plan(k, slow, silent)
    out, _ = others[0].communicate(timeout=60)
    assert out == "the first one's plan\n"
    assert others[0].returncode == 0


def test_a_builder_process_that_is_killed_frees_the_lock(tmp_path: Path) -> None:
    code = SECOND.format(tests=str(Path(__file__).parent), folder=str(tmp_path)).replace(
        "plan(k, never, told)", "plan(k, lambda: (print('building', flush=True), sys.stdin.read()), told)"
    )
    k = key(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"building net\n"
        assert other.stdout.readline() == b"building\n"
        other.kill()
    assert EngineCache(tmp_path / "engines").plan(k, lambda: b"mine", silent) == b"mine"


def test_the_services_cache_folder_is_systemds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}:/elsewhere")
    assert default_folder() == tmp_path / "engines"
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "edgefer" / "engines"


def test_a_builder_without_a_step_is_ended(
    emulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMULATED_FAULT", "builder-hangs")
    file, options = bundle_graphs(open_bundle())[0]
    with pytest.raises(ServiceError, match=r"no step for 0.5 s"):
        build_apart(Job(file, options, "tensorrt"), silent, stall_s=0.5)


def test_a_build_can_be_ended_and_leaves_no_process(
    emulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and memory that runs out are not the child's to judge: it ignores the one and goes first at the other."""
    monkeypatch.setenv("EMULATED_FAULT", "builder-hangs")
    file, options = bundle_graphs(open_bundle())[0]
    seen: list[Path] = []

    def tell(step: str) -> None:
        assert step == "", "asked while the builder is silent"
        children = Path("/proc/self/task", str(threading.get_native_id()), "children").read_text().split()
        child = Path("/proc", children[-1])
        if (child / "oom_score_adj").read_text() != "500\n":
            return  # not yet in our code
        mask = int(re.search(r"SigIgn:\s*(\w+)", (child / "status").read_text())[1], 16)  # type: ignore[index]
        assert mask & 1 << (signal.SIGINT - 1)
        seen.append(child)
        raise Stopped

    with pytest.raises(Stopped):
        build_apart(Job(file, options, "tensorrt"), tell)
    assert seen
    assert not seen[0].exists()


def test_a_long_start_is_told_to_the_service_manager(
    emulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgefer import app

    heard: list[str] = []
    monkeypatch.setattr("edgefer.sdnotify.notify", heard.append)
    file, options = bundle_graphs(open_bundle())[0]
    open_engine(file, options, Infer(engines=str(tmp_path)), app.tell_start).close()
    assert heard
    assert all(said.startswith("EXTEND_TIMEOUT_USEC=660000000\nSTATUS=") for said in heard)
    heard.clear()
    open_engine(file, options, Infer(engines=str(tmp_path)), app.tell_start).close()
    assert heard == [], "from the cache there is nothing to wait for"


def test_another_number_of_multiprocessors_is_another_gpu(
    emulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orin Nano and AGX Orin share name and compute capability; a cloned disk must not bring the wrong engine."""
    file, options = bundle_graphs(open_bundle())[0]
    for count in (8, 16):
        monkeypatch.setitem(emulated.ATTRIBUTES, "MULTIPROCESSOR_COUNT", count)
        monkeypatch.setattr("edgefer.infer.cuda._opened", [])
        open_engine(file, options, Infer(engines=str(tmp_path)), silent).close()
    assert len(EngineCache(tmp_path).entries()) == 2


def test_engine_build_list_clean(emulated: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edgefer.toml"
    file.write_text(f'[infer]\nengines = "{tmp_path / "engines"}"\n')
    assert main(["engine", "build", "--config", str(file)]) == EX_OK
    assert capsys.readouterr().out.count("ok    ") == 2
    assert main(["engine", "list", "--config", str(file)]) == EX_OK
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert all("tensorrt 10.3.0, Emulated GPU (8 SM), 8.7" in line for line in shown)
    next((tmp_path / "engines").glob("classifier*")).write_bytes(b"spoilt")
    assert main(["engine", "list", "--config", str(file)]) == EX_OK
    assert "not an engine of ours" in capsys.readouterr().out
    assert main(["engine", "clean", "--config", str(file)]) == EX_OK
    assert capsys.readouterr().out.startswith("2 files removed")


@pytest.mark.parametrize("command", [["doctor"], ["bundle", "verify"]])
def test_commands_that_build_on_the_way_say_so(
    command: list[str], emulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Minutes of silence look like a hang."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(command) == EX_OK
    assert f"building {open_bundle().graph('tensorrt').stem} ...\n" in capsys.readouterr().err


def test_engine_build_without_a_gpu_is_one_line(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("edgefer.infer.cuda._opened", [])
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setattr("edgefer.infer.cuda.has_driver", lambda: False)
    assert main(["engine", "build"]) == EX_UNAVAILABLE
    out, err = capsys.readouterr()
    assert (out, err) == ("", "edgefer: no NVIDIA GPU: there is no driver\n")
    assert main(["engine", "build", "--target", "Orin"]) == EX_USAGE


def test_a_header_is_one_readable_line(tmp_path: Path) -> None:
    cache, k = EngineCache(tmp_path), key(tmp_path)
    cache.plan(k, lambda: b"plan", silent)
    header = json.loads((tmp_path / k.file).read_bytes().split(b"\n")[0])
    assert (header["gpu"], header["library"], header["bytes"]) == ("Orin", "tensorrt 10.3.0", 4)
