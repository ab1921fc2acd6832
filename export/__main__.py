"""The workstation's commands: ``python -m export train|score|quantize|bundle|evaluate|restore|template RECIPE``,
``engine``, ``report``, and ``keygen`` and ``sign`` for releases.

Every failure that has a remedy is one line on standard error and an exit code of sysexits.h.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from edgefer.errors import EX_UNAVAILABLE, EX_USAGE, EdgeferError
from export.errors import ExportError, UsageError
from export.progress import Progress

INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it"""
SEEDS = 2**32
"""how many there are: those that every generator of random numbers takes"""
RESULTS = Path(__file__).parent / "results"
RECIPES = Path(__file__).parent / "recipes"
RUNS = Path("runs")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"edgefer export: {message}; see python -m export --help", file=sys.stderr)
        raise SystemExit(EX_USAGE)


def parser() -> Parser:
    root = Parser(prog="python -m export", description="Train, quantise, pack and measure the fusion network.")
    commands = root.add_subparsers(dest="command", required=True, parser_class=Parser)
    helps = {
        "train": "train a recipe; goes on where it stopped",
        "score": "measure a trained network on its test rows",
        "quantize": "the float graph and the best INT8 graph of the trained network",
        "bundle": "pack, check, measure and put a bundle in place",
        "evaluate": "measure a bundle through the device's own path",
        "restore": "the network of a bundle as trained weights, to go on from with faces of your own",
        "template": "where eyes, nose and mouth stand in the training crops",
    }
    added = {name: commands.add_parser(name, help=text, description=text) for name, text in helps.items()}
    for sub in added.values():
        sub.add_argument("recipe", type=Path, help="TOML file, such as export/recipes/default.toml")
        sub.add_argument("--out", type=Path, help="working folder (default runs/NAME of the recipe)")
        sub.add_argument("--threads", type=_count, default=os.cpu_count() or 1, help="processor threads (default: all)")
        sub.add_argument("--data", default="", help="another set: viri, nvie, nvie:person (folds), paired, ...")
    for name in ("train", "score", "quantize", "bundle", "evaluate", "restore"):
        added[name].add_argument("--reduced", action="store_true", help="reduced width, one schedule for all systems")
    _report_arguments(commands)
    _engine_arguments(commands)
    _signing_arguments(commands)
    for sub in (added["train"], added["score"], commands.choices["report"]):
        text = "another seed than the recipe's, also of what it starts from (trained if absent); in runs/.../seed-N/"
        sub.add_argument("--seed", type=_seed, metavar="N", help=text)
    for sub in (added["train"], commands.choices["report"]):
        text = "fit the epochs to so much processor time; half of it where a recipe starts from others"
        sub.add_argument("--cpu-minutes", type=_minutes, help=text)
    for name in ("quantize", "bundle"):
        added[name].add_argument("--checkpoint", type=Path, help="trained weights (default network.pt in --out)")
    text = "first train and quantise what is not there yet: from pictures to a bundle in one command"
    added["bundle"].add_argument("--train", action="store_true", help=text)
    added["bundle"].add_argument("--to", type=Path, help="bundle folder to write (default bundle/ in --out)")
    added["evaluate"].add_argument("--bundle", type=Path, help="bundle folder to measure (default bundle/ in --out)")
    text = "bundle that was made of this recipe (default: the one that ships)"
    added["restore"].add_argument("--bundle", type=Path, help=text)
    text = "set whose faces the batch norms are set by (default: the recipe's own), such as paired"
    added["restore"].add_argument("--faces", default="", metavar="SET", help=text)
    for name in ("bundle", "evaluate"):
        added[name].add_argument("--commit-results", action="store_true", help="also write export/results/RECIPE.json")
    added["score"].add_argument("--commit-results", action="store_true", help="also write export/results/systems/")
    return root


def _report_arguments(commands: Any) -> None:
    text = "one page that compares every system, from results files; with --train those that are missing are made"
    sub = commands.add_parser("report", help=text, description=text)
    sub.add_argument("--out", type=Path, default=Path("runs/report"), help="folder of the page (default runs/report)")
    sub.add_argument("--train", action="store_true", help="first train and score every recipe that has no result yet")
    sub.add_argument("--latency", action="store_true", help="time all systems anew, in turns, in one run")
    sub.add_argument("--reduced", action="store_true", help="with --train: reduced width, one schedule for all")
    sub.add_argument("--threads", type=_count, default=os.cpu_count() or 1, help="processor threads (default: all)")


def _engine_arguments(commands: Any) -> None:
    text = "build the TensorRT graph with NVIDIA's builder and show what became of every layer; no GPU needed"
    sub = commands.add_parser("engine", help=text, description=text)
    sub.add_argument("source", type=Path, help="recipe (TOML), bundle folder or ONNX file")
    sub.add_argument("--out", type=Path, help="folder of plan and report (default runs/NAME of the recipe, else .)")
    sub.add_argument("--target", default="SM86", help="GPU to build for: SM75, 80, 86, 89, 120 or 121 (default SM86)")
    sub.add_argument("--precision", choices=("int8", "fp16", "fp32"), default="int8", help="which graph of a recipe")


def _signing_arguments(commands: Any) -> None:
    """Signing is the workstation's: what runs on a device can verify a release and never make one."""
    text = "a pair of keys for signing releases: update.key stays here, update.pub goes to the devices"
    sub = commands.add_parser("keygen", help=text, description=text)
    sub.add_argument("folder", type=Path, help="folder that gets update.key and update.pub")
    text = "sign a bundle under its release number, which rises with every release"
    sign = commands.add_parser("sign", help=text, description=text)
    sign.add_argument("bundle", type=Path, help="bundle folder; gets release.json and release.sig")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="update.key")
    sign.add_argument("--number", type=_count, required=True, help="above that of every release before")
    for each in (sub, sign):
        each.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line locks the private key")


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < SEEDS):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {SEEDS - 1}")
    return int(text)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    say = Progress()
    try:
        _run(args, say)
    except (ExportError, EdgeferError) as e:
        say.close()
        return _failed(str(e), e.exit_code)
    except KeyboardInterrupt:
        say.close()
        return _failed("interrupted; `train` goes on after its last whole epoch", INTERRUPTED)
    except ImportError as e:
        say.close()
        return _failed(f"{e.name or e} is not installed: pip install 'edgefer[export,cpu]'", EX_UNAVAILABLE)
    except OSError as e:
        say.close()
        return _failed(f"{e.filename or 'file system'}: {e.strerror or e}", 74)  # EX_IOERR
    say.close()
    return 0


def _failed(line: str, code: int) -> int:
    print(f"edgefer export: {' '.join(line.split())}", file=sys.stderr)
    return code


def _run(args: argparse.Namespace, say: Progress) -> None:
    if args.command == "engine":
        _engine(args, say)
        return
    if args.command in ("keygen", "sign"):
        _sign(args)
        return
    from export import protocol, recipe

    _limit_threads(args.threads)
    if args.command == "report":
        _report_page(args, say)
        return

    reduced, data = getattr(args, "reduced", False), getattr(args, "data", "")
    args.plan = recipe.read(args.recipe, reduced, data)
    for name in filter(None, (data, getattr(args, "faces", ""))):
        protocol.other(name)  # a misspelt set must not first be missed as a folder
    if data and protocol.other(data) == recipe.read(args.recipe, reduced).data:
        args.data = data = ""  # the recipe's own set: its runs and results are the recipe's own
    args.seed = recipe.other_seed(args.plan, getattr(args, "seed", None))
    args.out = args.out or RUNS / recipe.place(args.plan.name, reduced, data, args.seed)
    args.out = args.out if args.out.name else args.out.absolute()  # what a recipe starts from is trained beside "."
    COMMANDS[args.command](args, say)


def _sign(args: argparse.Namespace) -> None:
    from export import sign

    if args.command == "keygen":
        sign.keygen(args.folder, args.passphrase_file)
        print(f"{args.folder / sign.PRIVATE}: keep it here and safe; {args.folder / sign.PUBLIC}: for the devices")
        return
    release = sign.sign(args.bundle, args.number, args.key, args.passphrase_file)
    print(f"{args.bundle}: signed as {release.title}, release {release.number}")


def _limit_threads(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _train(args: argparse.Namespace, say: Progress) -> None:
    from export import train

    job = train.Job(args.recipe, args.out, args.reduced, args.cpu_minutes, args.data, args.seed)
    for path in train.train(job, say):
        say(f"trained: {path}")


def _score(args: argparse.Namespace, say: Progress) -> None:
    from export import compare, score, train
    from export.report import files

    job = train.Job(args.recipe, args.out, args.reduced, data=args.data, seed=args.seed)
    if args.plan.model.name == train.GENERATOR:
        if args.plan.data.name != train.SCENES:
            raise UsageError(
                f"{args.recipe}: a generator of faces has no figures of its own; score zou2021-wgan-scenes"
            )
        if args.commit_results and args.seed is not None:
            raise UsageError("--seed: the fusion table holds one generator, that of its recipe's own seed")
        say(f"results: {compare.fusion(job, RESULTS if args.commit_results else args.out, say)}")
        return
    found = score.score(job, say)
    print(score.table(found))
    say(f"results: {files.write(found, args.out)}")
    if args.commit_results:
        say(f"results: {files.write(found, RESULTS / 'systems')}")


def _report_page(args: argparse.Namespace, say: Progress) -> None:
    from edgefer.bundle import DEFAULT, open_bundle
    from export import compare
    from export.report import page

    if not args.train and (args.reduced or args.cpu_minutes or args.seed is not None):
        raise UsageError("--reduced, --cpu-minutes and --seed say how to train: give --train with them")
    if args.train:
        compare.missing(RECIPES, RESULTS / "systems", args.reduced, args.cpu_minutes, say, args.seed)
    if args.latency:
        compare.time_all(RECIPES, RESULTS / "systems", say)
    faces, networks = compare.for_maps(RECIPES, say)
    print(page.write_report(RESULTS, RECIPES, args.out, say, faces, networks, open_bundle(DEFAULT)))


def _pack(args: argparse.Namespace, say: Progress) -> None:
    from export import packing

    packing.COMMANDS[args.command](args, say)


def _engine(args: argparse.Namespace, say: Progress) -> None:
    from export import engine, recipe

    if args.target not in engine.TARGETS:
        raise UsageError(f"--target {args.target}: TensorRT for RTX builds for {', '.join(engine.TARGETS)}")
    if args.source.suffix == ".toml":
        args.out = args.out or RUNS / recipe.place(recipe.read(args.source).name)
    args.out = args.out or Path()
    graph = engine.source(args.source, args.out, args.precision)
    engine.build_and_check(graph, args.out, args.target, print)
    say(f"plan and layer report: {args.out / graph.stem}.plan, .layers.json")


COMMANDS = {
    "train": _train, "score": _score, "quantize": _pack, "bundle": _pack, "evaluate": _pack, "restore": _pack,
    "template": _pack,
}  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main())
