"""MODEL_CARD.md: what is in the bundle, how it was measured, and what it must not be used for."""

from __future__ import annotations

from typing import Any

from export import steadiness
from export.evaluate import first, share
from export.lenses import SIMULATED
from export.recipe import Recipe

_DATA = """## Data

FER2013 (Goodfellow et al. 2013, "Challenges in Representation Learning"): 48x48 grey faces found by web search, seven
classes, official split. Training used the rows of Training without the 703 whose picture also occurs in a test split
and without the blank ones. Labels are noisy; the paper puts human accuracy near 65 +/- 5 %. sha256 of the images and
labels trained on: `{data}`.
"""

_OWN_DATA = """## Data

`{name}` ({is}), as it lay in the folder. Split: {protocol}.
{people}
{counts}

Files of the set that were not used: {unused}.{begun} sha256 of the images and labels trained on:
`{data}`. Seen as the infrared lens: {infrared}.
"""

_PEOPLE = {
    True: "The set does not say whose face is whose: the same people may be trained and tested on, and strangers are "
    "then read worse than the figures say.",
    False: "Nobody is both trained and tested on.",
}

_SIMULATED = """\
**Simulated:** {simulated} (device geometry, illumination and noise are modelled, skin and materials only roughly).
Fused and infrared figures below therefore describe the simulation; a real camera has to be measured anew.
"""

_CLEAN = (
    "`private-clean` leaves out the PrivateTest pictures that have an exact twin in the official Training (they were",
    "dropped from ours). Every interval is that of its own figure: rows a point or less apart are not told apart by",
    "this many images.",
)

_INTERVALS = (
    "Every interval is that of its own figure: rows whose intervals overlap are not told apart by so many images.",
)

_FAIRNESS = """## Fairness

FER2013 carries no age, sex, skin tone or other attributes: performance across groups is **unknown** and was not
measured. Web photographs over-represent posed and strong expressions. Measure on your own drivers before relying on it.
"""

_OWN_FAIRNESS = """## Fairness

Age, sex, skin tone and other attributes of the people in `{name}` were not looked at: performance across groups is
**unknown** and was not measured. Measure on your own drivers before relying on it.
"""

_TERMS = """\
trained by this project, under the repository's licence; FER2013's own terms of use apply to what is derived
from it."""

_OWN_TERMS = "of whoever trained them; the terms of use of {sets} apply to what is derived from it."

_LIMITS = """## Limits of use

- It estimates the *visible expression*, not the inner state. It does not identify anybody.
- It is not a DDAW or ADDW system (Regulations (EU) 2021/1341 and 2023/2590) and no substitute for one. Quality managed
  (QM) only: no safety goal may rest on it.
- Regulation (EU) 2024/1689 (AI Act), Art. 5(1)(f), prohibits inferring emotions at the workplace, professional drivers
  included, except for medical or safety reasons. Elsewhere emotion recognition is high-risk (Annex III 1(c)) and people
  must be told (Art. 50(3)). Read the texts; this is no legal advice.
- No frame is stored or sent by the device and there is a privacy switch. The data protection impact assessment and
  consent are the integrator's.
- Not {seen}: profile views, children, masks and sunglasses beyond random patches{optics}.

## Licences

Weights: {terms} Golden vectors: portraits of Eileen Collins (NASA) and Grace Hopper (US Navy), both in the public \
domain. The
face detector YuNet (MIT) is not part of the bundle.
"""


def model_card(recipe: Recipe, calibration: dict[str, Any], report: dict[str, Any], results: dict[str, Any]) -> str:
    """The whole card; without ``results`` the figures say that they were not measured."""
    head = f"""# {recipe.name}@{recipe.version}

Driver's facial expression ({", ".join(report["labels"])}) from an aligned visible and infrared crop of
{recipe.crop}x{recipe.crop} pixels. Network `{recipe.model.name}`
({", ".join(f"{k} {v}" for k, v in recipe.model.options.items())}), fusion: {report["fusion"]}.
"""
    watched, tested = (
        ("the validation pictures", "the test pictures") if "set" in report else ("PublicTest", "PrivateTest")
    )
    protocol = f"""## Protocol

Trained by `python -m export train` ({_steps(recipe, report)}).
{_quantised(report)}. Temperature {calibration["temperature"]} and the least confidence
{calibration["min_conf"]} (the surest 80 % of the views reach it) come from {watched}, framed by their landmarks as the
device does, in every state of the lenses that it has an answer in. The commands named here select nothing on
{tested}, on which the figures rest.
{recipe.caveat}
"""
    return "\n".join([head, _data(report), protocol, _figures(results), *_limits(report)])


def _data(report: dict[str, Any]) -> str:
    data, simulated = report["training_data_sha256"], report.get("simulated", SIMULATED)
    said = _own_data(report["set"], data) if "set" in report else _DATA.format(data=data)
    return "\n".join([said, _SIMULATED.format(simulated=simulated)]) if simulated else said


def _own_data(about: dict[str, Any], data: str) -> str:
    """Of any set but FER2013's official split."""
    both = about["people_trained_and_tested"]
    people = f"{both} people are both trained and tested on: strangers are read worse than the figures say."
    counts = [_row(["expression", "trained on", "validated on", "tested on"]), "|---" * 4 + "|"]
    for label, n in about["trained_on"].items():
        counts.append(_row([label, str(n), str(about["validated_on"][label]), str(about["tested_on"][label])]))
    begun = f" The weights it starts from, or its teachers', are of {', '.join(about['begun_on'])}."
    return _OWN_DATA.format(
        **{key: about[key] for key in ("name", "is", "protocol", "infrared")}, data=data, counts="\n".join(counts),
        people=f"{people if both else _PEOPLE[both is None]}\n", unused=about["files_not_used"],
        begun=begun if about["begun_on"] else "",
    )  # fmt: skip


def _limits(report: dict[str, Any]) -> list[str]:
    about, optics = report.get("set"), ", real infrared optics" if report.get("simulated", SIMULATED) else ""
    if about is None:
        return [_FAIRNESS, _LIMITS.format(seen="seen in training", optics=optics, terms=_TERMS)]
    sets = ", ".join(f"`{name}`" for name in (about["name"], *about["begun_on"]))
    terms = _OWN_TERMS.format(sets=sets)
    return [_OWN_FAIRNESS.format(**about), _LIMITS.format(seen="looked at", optics=optics, terms=terms)]


def _quantised(report: dict[str, Any]) -> str:
    if "chosen" not in report:
        return f"Graphs in {report['precision']}, not quantised"
    how = f"calibration `{report['chosen']['method']}` on {report['calibration']}"
    said = f"Quantised to {report['precision']}, {how}, chosen on {report['compared_on']}"
    return f"{said}. {_tensorrt(report['tensorrt'])}" if "tensorrt" in report else said


def _tensorrt(own: dict[str, Any]) -> str:
    """The second graph; the card's figures are those of the first."""
    c, loud = own["final"], own["chosen"]["keep_float"]
    kept = f"; in FP16: {', '.join(loud)}" if loud else ""
    points = 100 * (c["accuracy"] - c["float_accuracy"])
    return (
        f"The graph for TensorRT ({own['precision']}{kept}; calibration `{own['chosen']['method']}`) was chosen on the "
        f"same views, its Q/DQ computed on a processor: {points:+.2f} points against FP32, agreement "
        f"{c['agreement']:.2%}. No NVIDIA device has run it; the figures below are ONNX Runtime's"
    )


def _steps(recipe: Recipe, report: dict[str, Any]) -> str:
    said = [f"{s.epochs} epochs of step {s.name}" for s in recipe.training.steps]
    if said and report.get("budget_minutes"):
        said = [
            f"{report['checkpoint_epoch']} epochs, as many as {report['budget_minutes']:g} processor minutes paid for"
        ]
    more = ["averaged weights"] if recipe.training.ema and said else []
    if recipe.soup:
        said.insert(0, f"mean of the trained weights of {', '.join(f'`{name}`' for name in recipe.soup)}")
    more += [f"begun with the trained `{name}`" for name in sorted(set(recipe.start.values()))]
    more += [f"taught by `{name}`" for name in (recipe.distil.teachers if recipe.distil else [])]
    more += [f"block `{name}` left out of the graphs" for name in recipe.quantisation.drop]
    return "; ".join([", then ".join(said) or "nothing but what it starts from", *more])


def _figures(results: dict[str, Any]) -> str:
    if not results:
        return "## Figures\n\nNot measured.\n"
    lines = [
        "## Figures",
        "",
        f"`{results['command']}`: {results['protocol']}. ECE is taken after the temperature.",
        "",
    ]
    lines += [
        "| split | lenses | images | accuracy | 95 % interval | ECE | accuracy at 80 % coverage |",
        "|---" * 7 + "|",
    ]
    for split, modes in results["splits"].items():
        for mode, f in modes.items():
            low, high = f["interval_95"]
            lines.append(
                f"| {split} | {_real(mode, results)} | {f['images']} | {f['accuracy']:.2%} | {low:.2%} to {high:.2%} "
                f"| {f['ece']:.3f} | {f['selective_accuracy_80']:.2%} |"
            )
    lines += ["", *(_CLEAN if "private-clean" in results["splits"] else _INTERVALS), *_framed(results), ""]
    more = [*_recalls(results), *_precision(results), *_darkness(results), *_faults(results)]
    return "\n".join([*lines, *more, *_other_data(results), *_time(results)])


def _framed(results: dict[str, Any]) -> list[str]:
    """What the last of the splits is."""
    whole, name = first(results)[0], list(results["splits"])[-1]
    missed = next(iter(results["splits"][name].values())).get("faces_not_found")
    if missed is None:  # results of an older version
        return []
    none = f"; in {missed} no face was found, they stay as they are" if missed else ""
    return [f"`{name}` shows the pictures of `{whole}` framed by their landmarks, as the device does{none}."]


def _real(mode: str, results: dict[str, Any]) -> str:
    return mode.replace("infrared", "infrared (simulated)") if results["simulated"] else mode


def _recalls(results: dict[str, Any]) -> list[str]:
    split, modes = first(results)
    names = list(next(iter(modes.values()))["recall"])
    lines = [
        f"Recall by class, {split}:",
        "",
        "| lenses | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for mode, f in modes.items():
        lines.append(f"| {_real(mode, results)} | " + " | ".join(share(f["recall"][n]) for n in names) + " |")
    return [*lines, ""]


def _precision(results: dict[str, Any]) -> list[str]:
    if "skipped" in results["float"]:
        return [f"INT8 against FP32: not measured ({results['float']['skipped']}).", ""]
    lines = [
        f"INT8 against FP32, {first(results)[0]}:",
        "",
        "| lenses | FP32 | INT8 minus FP32, points | same answer |",
        "|---" * 4 + "|",
    ]
    for mode, f in results["float"].items():
        points, same = f["int8_minus_float_points"], f["agreement"]
        lines.append(f"| {_real(mode, results)} | {f['accuracy']:.2%} | {points:+.2f} | {same:.2%} |")
    return [*lines, ""]


DARK = {
    "fused": "fused", "visible": "visible alone", "infrared": "infrared alone",
    "better_single": "better single lens",
}  # fmt: skip


def _darkness(results: dict[str, Any]) -> list[str]:
    keys = [k for k in results["darkness"][0] if k != "gain"]
    own = "" if keys == ["visible"] else "; infrared brings its own light"
    lines = [f"Less light on the visible lens (simulated noise), {first(results)[0]}{own}:", ""]
    lines += ["| light | " + " | ".join(_real(DARK[k], results) for k in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for r in results["darkness"]:
        lines.append(f"| {r['gain']:g} | " + " | ".join(f"{r[k]:.2%}" for k in keys) + " |")
    return [*lines, ""]


def _faults(results: dict[str, Any]) -> list[str]:
    if not results["faults"]:
        return []
    keys = ("fused", "visible", "infrared", "better_single")
    heads = ["fault", *(_real(k.replace("_", " "), results) for k in keys), "points"]
    lines = [
        f"Faults, {first(results)[0]} (patches and shifts are drawn; -: that lens alone is worth nothing then):",
        "",
    ]
    lines += [_row(heads), "|---" * 6 + "|"]
    for r in results["faults"]:
        shares = (f"{r[k]:.2%}" if k in r else "-" for k in keys)
        lines.append(_row([r["fault"], *shares, f"{r['points']:+.2f}"]))
    return [*lines, ""]


def _other_data(results: dict[str, Any]) -> list[str]:
    if "other_data" not in results:
        return []
    heads = ["set", "lenses", "images", "accuracy", "answers limited to its classes", "its majority class"]
    lines = ["Sets of which nothing was trained on, faces aligned by the device's detector:", ""]
    lines += [_row(heads), "|---" * 6 + "|"]
    for name, f in results["other_data"].items():
        for mode in (m for m in f if isinstance(f[m], dict)):
            shares = (f"{x:.2%}" for x in (f[mode]["accuracy"], f[mode]["among_shared_classes"], f["majority"]))
            lines.append(_row([name, mode if name == "thermal" else _real(mode, results), str(f["images"]), *shares]))
    left_out = [f"{name} was not at hand." for name, f in results["other_data"].items() if "skipped" in f]
    return [*lines, "", *left_out, ""]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _time(results: dict[str, Any]) -> list[str]:
    if "time" not in results:
        return []
    return ["In time: " + "; ".join(steadiness.table(results["time"])) + ".", ""]
