"""From trained weights to a measured bundle, and back: what ``quantize``, ``bundle``, ``evaluate``, ``template`` and
``restore`` do."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgefer.bundle import DEFAULT, Bundle, file_sha256, open_bundle
from export import checkpoint, data, evaluate, framing, pack, quantize, restore, rows, template, train, trainer
from export.data.faces import Faces
from export.errors import InputError, UsageError
from export.progress import Progress
from export.recipe import Recipe
from export.rows import Rows
from export.train import Job

RESULTS = Path(__file__).parent / "results"
BUNDLE = "bundle"
"""folder in --out that gets the bundle"""
NAME = 32
"""letters of a bundle's name at most (`edgefer.bundle.Manifest`)"""


def _weights(args: argparse.Namespace) -> Path:
    """Raises InputError where --out holds a training with another seed, or a network read back from a bundle: its
    bundle would pass for the recipe's own."""
    if args.checkpoint:
        return Path(args.checkpoint)
    path = Path(args.out / "network.pt")
    if path.is_file():
        checkpoint.check_seed(path, args.plan.seed)
        checkpoint.check_trained(path)
    return path


def _job(args: argparse.Namespace) -> Job:
    """As ``train`` was told: the same recipe on the same set."""
    return Job(args.recipe, args.out, getattr(args, "reduced", False), data=args.data)


def _quantise(args: argparse.Namespace, say: Progress) -> None:
    own = rows.of(_job(args))
    faces = (own.part.train, own.watch)
    quantize.quantize(own.plan, _weights(args), args.out, *faces, say, args.threads, about=own.about)


def _float_graph(args: argparse.Namespace, bundle: Bundle, say: Progress) -> Path | None:
    """What ``bundle`` was quantised from: ``quantize`` left both in --out. None: that is not there, or another's."""
    own, ours = args.out / quantize.INT8, bundle.graph("onnxruntime")
    if (args.out / quantize.FLOAT).is_file() and own.is_file() and file_sha256(own) == file_sha256(ours):
        return Path(args.out / quantize.FLOAT)
    say(f"{args.out}: this bundle was not quantised there; its INT8 graph is compared with no float one")
    return None


def _measure(args: argparse.Namespace, own: Rows, bundle: Bundle, where: Path, say: Progress) -> dict[str, Any]:
    faces, seed, source = own.part.test, own.plan.seed, _float_graph(args, bundle, say)
    results = evaluate.evaluate_device(bundle, faces, own.splits, seed, say, source, args.threads)
    if own.about is None:  # other sets and the demo's drive, all with simulated infrared, stand beside FER2013 alone
        results |= evaluate.beyond(bundle, faces, seed, say, args.threads)
    else:
        results["set"] = own.about
    typed = (" --reduced" if args.reduced else "") + (f" --data {args.data}" if args.data else "")
    return {**results, "command": f"python -m export evaluate {args.recipe}{typed} --bundle {where}"}


def _report(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """The table on standard output, the figures in --out and, if wanted, the small copy in the repository."""
    print(evaluate.table(results))
    name = "-".join(part for part in (args.plan.name, "reduced" * args.reduced, _other_set(args)) if part)
    targets = [args.out / "results.json"] + ([RESULTS / f"{name}.json"] if args.commit_results else [])
    for path in targets:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _bundle(args: argparse.Namespace, say: Progress) -> None:
    started = time.monotonic()
    args.to = args.to or args.out / BUNDLE
    own = rows.of(_job(args))
    if not args.train:
        _check_graphs(args, own)
    plan = own.plan if own.plan.template else own.plan.model_copy(update={"template": _measured(own.part.train, say)})
    if args.train:
        _make_missing(args, own, say)
    report = pack.read_report(args.out)
    watch, _ = framing.faces(own.watch, np.array(plan.template, np.float64), plan.crop)
    answer = pack.answering(args.out, report, args.threads)
    calibration = pack.calibrate(answer, report["lenses_needed"], watch, plan.seed)
    say(f"temperature {calibration.temperature}, least confidence {calibration.min_conf}")
    measure = lambda bundle: _measure(args, own, bundle, args.to, say)  # noqa: E731
    _report(args, pack.pack(_named(plan, _other_set(args)), args.out, args.to, calibration, measure))
    say(f"bundle: {args.to}, {(time.monotonic() - started) / 60:.1f} min in this run")


def _make_missing(args: argparse.Namespace, own: Rows, say: Progress) -> None:
    """Trains and quantises, each where that was not done yet. What cannot be packed is refused before."""
    if args.checkpoint:
        raise UsageError("--train makes the weights itself; take --checkpoint out")
    counts = f"{len(own.part.train)} pictures to train on, {len(own.watch)} watched, {len(own.part.test)} to test on"
    say(f"{own.plan.name}: {counts}")
    pack.check(_named(own.plan, _other_set(args)))
    args.to.parent.mkdir(parents=True, exist_ok=True)
    _weights(args)
    if train.up_to_date(job := _job(args)):
        train.tell_cost(job, say)
    else:
        train.train(job, say)
    try:
        _check_graphs(args, own)
        say(f"{own.plan.name}: trained and quantised already ({args.out})")
    except InputError:
        _quantise(args, say)


def _check_graphs(args: argparse.Namespace, own: Rows) -> None:
    """Whether ``quantize`` has made its graphs of what is there now. Raises InputError."""
    report, file = pack.read_report(args.out), args.out / quantize.REPORT
    chosen_on = report.get("validation_data_sha256", own.watch.fingerprint)  # an older report does not say
    then = (report.get("training_data_sha256"), chosen_on, report.get("set"))
    if then != (own.part.train.fingerprint, own.watch.fingerprint, own.about):
        raise InputError(f"{file}: made of other pictures than are there now; quantize again")
    weights = _weights(args)
    if not args.checkpoint and not weights.is_file():
        return  # graphs alone were kept
    if (made_of := report.get("made_of")) is None:
        raise InputError(f"{file}: does not say of which weights, it is of an older edgefer; quantize again")
    if made_of != quantize.made_of(own.plan, weights):
        raise InputError(
            f"{file}: made of other weights or settings than those of {weights} and its recipe; quantize again, or "
            "give the --checkpoint that `quantize` had"
        )
    other = trainer.changed(checkpoint.finished_state(weights)["recipe"], own.plan)
    if told := [part for part in other if part != "augment"]:  # calibration may be tried on other views
        raise InputError(f"{weights}: trained with another {', '.join(told)} than the recipe's; train again")
    for name in pack.files(report):
        if not (args.out / name).is_file():
            raise InputError(f"{args.out / name}: not found; run `python -m export quantize` first")


def _other_set(args: argparse.Namespace) -> str:
    """The set where ``--data`` names another than the recipe's own, else ""."""
    return "" if args.data == args.plan.data.name else str(args.data)


def _named(plan: Recipe, on: str) -> Recipe:
    """A recipe trained on another set makes another bundle: that bears the set's name, too."""
    return plan.model_copy(update={"name": f"{on}-{plan.name}"[:NAME].rstrip("-")}) if on else plan


def _evaluate(args: argparse.Namespace, say: Progress) -> None:
    where = args.bundle or args.out / BUNDLE
    bundle, own = open_bundle(where), rows.of(_job(args))
    rows.check_bundle(own, bundle.manifest, where)
    _report(args, _measure(args, own, bundle, where, say))


def _measured(faces: Faces, say: Progress) -> list[tuple[float, float]]:
    """The crop template of the training pictures, pixels of the crop."""
    points, seen = template.measure(faces)
    say(f"template: median of {seen} training faces, made symmetric")
    return [(round(float(x), 2), round(float(y), 2)) for x, y in points]


def _template(args: argparse.Namespace, say: Progress) -> None:
    plan = _job(args).recipe
    whole = plan.data.folds in ("person", "group")
    faces = data.load(plan.data.name, plan.data.train, side=plan.crop) if whole else rows.of(_job(args)).part.train
    points = [list(p) for p in _measured(faces, say)]
    print(f"template = {points}  # right and left eye, nose, right and left mouth corner")


def _restore(args: argparse.Namespace, say: Progress) -> None:
    path = args.out / train.NETWORK
    if path.exists():
        raise UsageError(f"{path}: there is a trained network already; choose another --out")
    plan, job = _job(args).recipe, replace(_job(args), data=args.faces or args.data)
    restore.restore(open_bundle(args.bundle or DEFAULT), plan, rows.of(job).part.train, path)
    say(f"{path}: recipes may start from {plan.name} now, and be taught by it")


COMMANDS = {
    "quantize": _quantise, "bundle": _bundle, "evaluate": _evaluate, "template": _template, "restore": _restore,
}  # fmt: skip
