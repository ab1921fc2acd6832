"""TensorRT's Python module as far as edgefer uses it, on the processor: ONNX Runtime stands for the GPU.

A plan is a line of JSON and the ONNX file. It proves our own code (order, buffers, threads, errors), not TensorRT.
``EMULATED_TENSORRT`` sets the version, ``EMULATED_FAULT`` a fault: builder-crash, builder-hangs, other-answers,
refuses-address.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import time
from functools import cache
from typing import Any

import numpy as np
import onnxruntime

__version__ = os.environ.get("EMULATED_TENSORRT", "10.3.0")
MAGIC = "emulated plan"


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, UINT8, INT64 = "float", "float16", "uint8", "int64"


class TensorIOMode(enum.Enum):
    INPUT, OUTPUT = 1, 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: DataType) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer:
    def __init__(self, source: Tensor, output: Tensor) -> None:
        self._source, self._output, self.num_inputs, self.first_transpose = source, output, 1, None

    def get_input(self, index: int) -> Tensor:
        return self._source

    def set_input(self, index: int, tensor: Tensor) -> None:
        self._source = tensor

    def get_output(self, index: int) -> Tensor:
        return self._output


class Network:
    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.layers: list[Layer] = []
        self.data = b""

    num_inputs = property(lambda self: len(self.inputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, k: int) -> Tensor:
        return self.inputs[k]

    def get_layer(self, k: int) -> Layer:
        return self.layers[k]

    def add_input(self, name: str, dtype: DataType, shape: tuple[int, ...]) -> Tensor:
        assert name not in {t.name for t in self.inputs}
        self.inputs.append(Tensor(name, shape, dtype))
        return self.inputs[-1]

    def _add(self, source: Tensor) -> Layer:
        self.layers.append(Layer(source, Tensor("", source.shape, source.dtype)))
        return self.layers[-1]

    def add_cast(self, source: Tensor, dtype: DataType) -> Layer:
        return self._add(source)

    def add_shuffle(self, source: Tensor) -> Layer:
        return self._add(source)

    def remove_tensor(self, tensor: Tensor) -> None:
        assert all(layer.get_input(0) is not tensor for layer in self.layers)
        self.inputs.remove(tensor)


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return 0

    def node_name(self) -> str:
        return ""

    def node_operator(self) -> str:
        return ""


@cache
def _session(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    # ONNX Runtime's own integer kernels round otherwise than the graph says, TensorRT's do not.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network, self._logger, self._errors = network, logger, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, k: int) -> ParserError:
        return self._errors[k]

    def parse(self, data: bytes) -> bool:
        try:
            session = _session(data)
        except Exception as e:
            self._logger.log(Severity.ERROR, str(e))
            self._errors.append(ParserError(str(e)))
            return False
        for i in session.get_inputs():
            shape = tuple(d if isinstance(d, int) else -1 for d in i.shape)
            self._network.inputs.append(Tensor(i.name, shape, DataType(i.type[7:-1])))
            self._network.layers.append(Layer(self._network.inputs[-1], self._network.inputs[-1]))
        self._network.data = data
        return True


class Config:
    builder_optimization_level, progress_monitor = 3, None

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert size > 0


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        fault = os.environ.get("EMULATED_FAULT", "")
        if fault == "builder-crash":
            os.kill(os.getpid(), 9)
        if fault == "builder-hangs":
            time.sleep(60)
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 1)
        monitor.step_complete("Building engine", 0)
        monitor.phase_finish("Building engine")
        if any(min(t.shape) < 1 for t in network.inputs):
            self.logger.log(Severity.ERROR, "dynamic input without a profile")
            return None
        inputs = {t.name: [list(t.shape), t.dtype.value] for t in network.inputs}
        head = {"magic": MAGIC, "version": __version__, "inputs": inputs}
        return json.dumps(head).encode() + b"\n" + network.data


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        head, _, data = plan.partition(b"\n")
        try:
            said = json.loads(head)
            assert said["magic"] == MAGIC
        except (ValueError, AssertionError):
            self._logger.log(Severity.ERROR, "Serialization assertion magicTag == kMAGIC failed")
            return None
        return Engine(_session(data), said["inputs"], self._logger)


class Engine:
    def __init__(self, session: Any, inputs: dict[str, Any], logger: ILogger) -> None:
        self.session, self.logger = session, logger
        self.tensors = {name: (tuple(shape), DataType(kind), TensorIOMode.INPUT)
                        for name, (shape, kind) in inputs.items()}  # fmt: skip
        for o in session.get_outputs():
            shape = tuple(d if isinstance(d, int) else 1 for d in o.shape)
            self.tensors[o.name] = (shape, DataType(o.type[7:-1]), TensorIOMode.OUTPUT)

    num_io_tensors = property(lambda self: len(self.tensors))

    def get_tensor_name(self, k: int) -> str:
        return list(self.tensors)[k]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][1]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][2]

    def create_execution_context(self) -> ExecutionContext:
        return ExecutionContext(self)


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._addresses = engine, {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        if os.environ.get("EMULATED_FAULT") == "refuses-address":
            self._engine.logger.log(Severity.ERROR, f"{name} is not aligned")
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        from pycuda import driver

        try:
            driver.run_on(handle, self._run)
        except Exception as e:
            self._engine.logger.log(Severity.ERROR, str(e))
            return False
        return True

    def _run(self) -> None:
        feed, tensors = {}, self._engine.tensors
        wanted = {i.name: i for i in self._engine.session.get_inputs()}
        for name, (shape, dtype, mode) in tensors.items():
            if mode is TensorIOMode.INPUT:
                given = self._at(name, shape, dtype)
                if dtype is DataType.UINT8 and wanted[name].type == "tensor(float)":
                    given = given.transpose(0, 3, 1, 2).astype(np.float32)
                feed[name] = given
        names = [name for name, t in tensors.items() if t[2] is TensorIOMode.OUTPUT]
        for name, value in zip(names, self._engine.session.run(names, feed), strict=True):
            wrong = 3 * np.arange(value.size, dtype=value.dtype).reshape(value.shape)
            self._at(name, *tensors[name][:2])[...] = value + (
                wrong if os.environ.get("EMULATED_FAULT") == "other-answers" else 0
            )

    def _at(self, name: str, shape: tuple[int, ...], dtype: DataType) -> np.ndarray[Any, Any]:
        kind = np.dtype({"float": "f4", "float16": "f2", "uint8": "u1", "int64": "i8"}[dtype.value])
        size = int(np.prod(shape)) * kind.itemsize
        buffer = (ctypes.c_char * size).from_address(self._addresses[name])
        return np.frombuffer(buffer, kind).reshape(shape)
