"""``python -m export restore``: a trained network read back from the bundle that was made of it.

Whoever has the bundle and not its training goes on from there, on faces of their own: recipes start from what this
leaves (`network.pt`), and are taught by it. The weights are the graph's, rounded to INT8, with each batch norm folded
into the convolution before it. It is taken out again with the statistics of some faces, so that the network says what
it said, and can be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgefer.bundle import Bundle
from export import checkpoint, metrics, models, onnx_graph, trainer
from export.data.faces import Faces
from export.errors import InputError
from export.models.network import Network, Temporal
from export.recipe import Recipe

MODEL = "model."
"""what the exporter puts before the names of the network's tensors"""
FACES = 512
"""so many faces' statistics the batch norms get; those of a few portraits were too far off"""
ALIKE = 0.03
"""largest mean difference of a probability between graph and network; INT8 makes 0.003"""
Array = npt.NDArray[Any]


def restore(bundle: Bundle, recipe: Recipe, faces: Faces, path: Path) -> None:
    """Writes the bundle's network as a checkpoint of ``recipe``, which it was made of, at ``path``.

    faces: those that the batch norms get their statistics from, of any set. Raises InputError where the bundle is of
    another network, or of one over several frames.
    """
    m = bundle.manifest
    network = models.build(recipe.model, len(m.labels)).eval()
    if m.temporal or isinstance(network, Temporal):
        raise InputError(f"{bundle.path}: a network over several frames cannot be read back; train {recipe.name}")
    rows = np.random.default_rng(recipe.seed).permutation(len(faces))[:FACES]
    batch = next(trainer.batches(faces.take(np.sort(rows)), recipe.crop, network.uses, recipe.seed, FACES))[:3]
    try:
        folded = weights(bundle.graph("onnxruntime"))
        _fill(network, folded, recipe.quantisation.drop)
        _unfold(network, folded, batch)
    except (KeyError, ValueError, AttributeError) as e:
        why = " ".join(str(e).split())
        raise InputError(f"{bundle.path}: no network of recipe {recipe.name} ({why}); {_remedy(bundle)}") from None
    _check(network, bundle, batch)
    spent = {"epochs": 0, "restored": bundle.title}  # what it cost is not known
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = next(iter(m.training.data.values()))  # the training rows stand first
    checkpoint.write(path, checkpoint.finished(network, recipe, tuple(m.labels), seen, spent))


def _remedy(bundle: Bundle) -> str:
    return f"give the recipe as it was when the bundle was made of it, {bundle.manifest.training.recipe}"


def weights(graph: Path) -> dict[str, Array]:
    """Tensors of every convolution and linear layer by their names in the network, float32."""
    model = onnx.load(str(graph)).graph
    known = {i.name: numpy_helper.to_array(i) for i in model.initializer}
    for node in model.node:
        if node.op_type == "DequantizeLinear" and all(name in known for name in node.input):
            known[node.output[0]] = _float(node, [known[name] for name in node.input])
    used = [name for node in model.node if node.op_type in ("Conv", "Gemm") for name in node.input[1:] if name in known]
    return {_name(name): np.asarray(known[name], np.float32) for name in used}


def _name(tensor: str) -> str:
    """``model.trunk.gate.fc.weight_DequantizeLinear_Output`` -> ``trunk.gate.fc.weight``."""
    place, _, last = tensor.removeprefix(MODEL).rpartition(".")
    return f"{place}.{'weight' if last.startswith('weight') else 'bias'}"


def _float(node: onnx.NodeProto, given: list[Array]) -> Array:
    """(q - zero point) x scale, along the node's axis where there is a scale per channel."""
    q, scale, zero = given
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [-1 if k == axis else 1 for k in range(q.ndim)] if scale.ndim and scale.size > 1 else []
    return (q.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)


def _fill(network: Network, folded: dict[str, Array], dropped: list[str]) -> None:
    """The weights of convolutions and linear layers. What the graph lacks only trains (a head of one lens alone), or
    was dropped: such a block adds nothing to its shortcut."""
    layers = {name: m for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    for name in {tensor.rpartition(".")[0] for tensor in folded}:
        layer = layers[name]
        _set(layer.weight, folded[f"{name}.weight"])
        if layer.bias is not None:
            _set(layer.bias, folded[f"{name}.bias"])
    for block in dropped:
        last = network.get_submodule(f"{block}.bn2")
        _set(last.weight, np.zeros(last.weight.shape, np.float32))


def _set(parameter: Tensor, value: Array) -> None:
    if tuple(parameter.shape) != value.shape:
        raise ValueError(f"{tuple(parameter.shape)} there, {value.shape} in the graph")
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(value))


def _norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch norm behind each convolution that has one: the next layer that the network names."""
    found, last = dict[str, nn.BatchNorm2d](), ""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and last:
            found[last] = layer
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            last = name if isinstance(layer, nn.Conv2d) else ""
    return found


@torch.no_grad()  # type: ignore[untyped-decorator]
def _unfold(network: Network, folded: dict[str, Array], batch: Sequence[Tensor]) -> None:
    """Every batch norm gets what it sees now as its statistics, and undoes them, but for the folded bias.

    In evaluation the network is the graph; in training its batches are normed by statistics near these.
    """

    def take(norm: nn.BatchNorm2d, bias: Tensor, x: Tensor) -> None:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.copy_(bias + mean)

    hooks, norms = [], _norms(network)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None and f"{name}.bias" in folded:
            bias = torch.from_numpy(folded[f"{name}.bias"])  # KeyError below: no norm that it could come from
            hooks.append(norms[name].register_forward_pre_hook(lambda n, given, b=bias: take(n, b, given[0])))
    network(*batch)
    for hook in hooks:
        hook.remove()


def _check(network: Network, bundle: Bundle, batch: Sequence[Tensor]) -> None:
    """Raises InputError unless both read the same faces alike."""
    visible, infrared, present = (x.numpy() for x in batch)
    inputs = (visible.transpose(0, 2, 3, 1), infrared.transpose(0, 2, 3, 1), present)
    theirs = metrics.probabilities(onnx_graph.run(bundle.graph("onnxruntime"), inputs), bundle.manifest.temperature)
    with torch.inference_mode():
        ours = metrics.probabilities(network(*batch).numpy(), bundle.manifest.temperature)
    off = float(np.abs(ours - theirs).mean())
    if off > ALIKE:
        said = f"read back, its network answers otherwise ({off:.2f} of probability)"
        raise InputError(f"{bundle.path}: {said}; {_remedy(bundle)}")
