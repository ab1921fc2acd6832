"""From trained weights to a measured bundle: what ``quantize``, ``bundle``, ``evaluate`` and ``template`` do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgefer.bundle import Bundle, file_sha256, open_bundle
from export import data, evaluate, pack, quantize, template
from export.data import fer2013
from export.errors import UsageError
from export.progress import Progress

RESULTS = Path(__file__).parent / "results"
BUNDLE = "bundle"
"""folder in --out that gets the bundle"""


def _weights(args: argparse.Namespace) -> Path:
    return args.checkpoint or args.out / "network.pt"


def _quantise(args: argparse.Namespace, say: Progress) -> None:
    if args.plan.data.name != "fer2013":
        raise UsageError(f"{args.recipe}: bundles are calibrated and measured on FER2013, not on {args.plan.data.name}")
    faces, public = fer2013.load("train"), fer2013.load("public")
    quantize.quantize(args.plan, _weights(args), args.out, faces, public, say, args.threads)


def _float_graph(args: argparse.Namespace, bundle: Bundle, say: Progress) -> Path | None:
    """What ``bundle`` was quantised from: ``quantize`` left both in --out. None: that is not there, or another's."""
    own, ours = args.out / quantize.INT8, bundle.graph("onnxruntime")
    if (args.out / quantize.FLOAT).is_file() and own.is_file() and file_sha256(own) == file_sha256(ours):
        return Path(args.out / quantize.FLOAT)
    say(f"{args.out}: this bundle was not quantised there; its INT8 graph is compared with no float one")
    return None


def _measure(args: argparse.Namespace, bundle: Bundle, where: Path, say: Progress) -> dict[str, Any]:
    faces, clean = fer2013.load("private"), fer2013.twin_free()
    source = _float_graph(args, bundle, say)
    results = evaluate.evaluate_device(bundle, faces, clean, args.plan.seed, say, source, args.threads)
    results |= evaluate.beyond(bundle, faces, args.plan.seed, say, args.threads)
    reduced = " --reduced" if args.reduced else ""
    return {**results, "command": f"python -m export evaluate {args.recipe}{reduced} --bundle {where}"}


def _report(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """The table on standard output, the figures in --out and, if wanted, the small copy in the repository."""
    print(evaluate.table(results))
    name = args.plan.name + ("-reduced" if args.reduced else "")
    targets = [args.out / "results.json"] + ([RESULTS / f"{name}.json"] if args.commit_results else [])
    for path in targets:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _bundle(args: argparse.Namespace, say: Progress) -> None:
    args.to = args.to or args.out / BUNDLE
    report = pack.read_report(args.out)
    answer = pack.answering(args.out, report, args.threads)
    calibration = pack.calibrate(answer, report["lenses_needed"], fer2013.load("public"), args.plan.seed)
    say(f"temperature {calibration.temperature}, least confidence {calibration.min_conf}")
    measure = lambda bundle: _measure(args, bundle, args.to, say)  # noqa: E731
    plan = args.plan if args.plan.template else args.plan.model_copy(update={"template": _measured(args, say)})
    _report(args, pack.pack(plan, args.out, args.to, calibration, measure))
    say(f"bundle: {args.to}")


def _evaluate(args: argparse.Namespace, say: Progress) -> None:
    where = args.bundle or args.out / BUNDLE
    _report(args, _measure(args, open_bundle(where), where, say))


def _measured(args: argparse.Namespace, say: Progress) -> list[tuple[float, float]]:
    """The crop template of the recipe's training pictures, pixels of its crop."""
    points, seen = template.measure(data.load(args.plan.data.name, args.plan.data.train, side=args.plan.crop))
    say(f"template: median of {seen} training faces, made symmetric")
    return [(round(float(x), 2), round(float(y), 2)) for x, y in points]


def _template(args: argparse.Namespace, say: Progress) -> None:
    print(
        f"template = {[list(p) for p in _measured(args, say)]}  # right and left eye, nose, right and left mouth corner"
    )


COMMANDS = {"quantize": _quantise, "bundle": _bundle, "evaluate": _evaluate, "template": _template}
