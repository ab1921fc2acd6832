"""Known vulnerabilities in what a device installs: pip-audit over `edgefer[cpu]` and all it needs, as installed here.

Says NOT done where it could not look (no network, a package index without advisories): silence would read as clean.
Fails only for a vulnerability that is known. `python .ci/audit.py`, part of `make lint`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def direct() -> list[str]:
    """What pyproject.toml asks for on a device: the dependencies and the extra [cpu]."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["cpu"]]


def installed(waiting: list[str]) -> dict[str, str]:
    """name -> version of all that the requirements in ``waiting`` need in turn and have here."""
    found: dict[str, str] = {}
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop(), maxsplit=1)[0]
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # needed on another system only
        if name not in found:
            found[name] = package.version
            waiting += [need for need in package.requires or () if "extra ==" not in need]
    return dict(sorted(found.items()))


def judge(report: dict[str, Any], asked: int) -> tuple[list[str], bool]:
    """Lines to print, and whether a vulnerability is known."""
    packages = report.get("dependencies", [])
    bad = [(p, v) for p in packages for v in p.get("vulns", ())]
    lines = [f"audit: {p['name']} {p['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'no version'}"
             for p, v in bad]  # fmt: skip
    looked = [p for p in packages if "skip_reason" not in p]
    if len(looked) < asked:
        lines.append(
            f"audit: NOT done for {asked - len(looked)} of {asked} packages: the index here gives no advisories"
        )
    elif not bad:
        lines.append(f"audit: no known vulnerability in the {asked} packages that a device installs")
    return lines, bool(bad)


def run(packages: dict[str, str]) -> dict[str, Any] | None:
    """pip-audit's report; None when there is none."""
    program = shutil.which("pip-audit", path=str(Path(sys.executable).parent)) or shutil.which("pip-audit")
    if program is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.writelines(f"{name}=={version}\n" for name, version in packages.items())
        listed.flush()
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "5", "-f", "json"]
        try:
            done = subprocess.run([program, "-r", listed.name, *options], capture_output=True, text=True, timeout=120,
                                  check=False)  # fmt: skip
            report: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return None
    return report


def main() -> int:
    packages = installed(direct())
    report = run(packages)
    if report is None or not packages:
        print("audit: NOT done: pip-audit is not installed or its service cannot be reached")
        return 0
    lines, bad = judge(report, len(packages))
    print("\n".join(lines))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
