# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Graphs to plans, and plans to inference, in TensorRT from 8.6; the only place that imports it.

What differs between versions is in `Dialect` alone. 8.6 wants networks with an explicit batch and
chooses precisions itself, so those that the graph has are asked for layer by layer; from 10 on
networks are strongly typed. From 11 on scratch memory is given in another way.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib
from typing import cast, Protocol, TYPE_CHECKING

from cwm_ros.errors import ConfigError, EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

STRONGLY_TYPED_SINCE = 10
STRATEGIES_SINCE = 11
OLDEST = (8, 6)
KEPT_MESSAGES = 8
INSTALL_HINT = 'JetPack brings it; elsewhere install the package tensorrt of your CUDA version'


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """
    The sizes that one way of running a graph must take.

    Parameters
    ----------
    ranges
        Least, likeliest and most for each dimension that varies, by its name.

    """

    ranges: Mapping[str, tuple[int, int, int]]

    def shapes(self, dims: Sequence[int | str]) -> tuple[tuple[int, ...], ...]:
        """Return least, likeliest and most of a shape whose varying dimensions are names."""
        return tuple(
            tuple(self.ranges[d][index] if isinstance(d, str) else d for d in dims)
            for index in range(3)
        )


class Context(Protocol):
    """The part of IExecutionContext that all versions have and that is used."""

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        """Choose a profile."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Say how large an input is."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Say where a tensor lies."""

    def execute_async_v3(self, stream: int) -> bool:
        """Ask for one inference."""


class Log(Protocol):
    """What went wrong, newest last."""

    problems: list[str]


def import_tensorrt(name: str = 'tensorrt') -> ModuleType:
    """
    Return TensorRT's module.

    Raises
    ------
    EngineError
        It is not installed, a library of it is missing, or it is older than 8.6.

    """
    try:
        module = importlib.import_module(name)
    except ImportError as exc:
        raise EngineError(
            f'TensorRT cannot be imported: {exc}',
            hint=f'{INSTALL_HINT}; or set engine.kind to onnxruntime',
        ) from exc
    if version_of(module) < OLDEST:
        raise EngineError(f'TensorRT {module.__version__} is too old', hint='use 8.6 or later')
    return module


def version_of(module: ModuleType) -> tuple[int, int]:
    """Return (major, minor)."""
    major, minor = str(module.__version__).split('.')[:2]
    return int(major), int(minor)


class Dialect:
    """
    How a version of TensorRT wants to be spoken to.

    Parameters
    ----------
    module
        ``tensorrt``, or a module of the same interface.
    version
        (major, minor) of the interface it has.

    """

    def __init__(self, module: ModuleType, version: tuple[int, int] | None = None) -> None:
        self.trt = module
        self.version = version or version_of(module)
        self.log = _make_log(module)

    @property
    def is_strongly_typed(self) -> bool:
        """Whether a network has exactly the types of its graph."""
        return self.version[0] >= STRONGLY_TYPED_SINCE

    def network_flags(self) -> int:
        """Return the flags of a new network."""
        flags = self.trt.NetworkDefinitionCreationFlag
        flag = flags.STRONGLY_TYPED if self.is_strongly_typed else flags.EXPLICIT_BATCH
        return 1 << int(flag)

    def keep_types(self, network: object, config: object, precision: str) -> None:
        """Have layers run in the types of the graph where the version leaves a choice."""
        flags = self.trt.BuilderFlag
        config.clear_flag(flags.TF32)  # type: ignore[attr-defined]
        if self.is_strongly_typed:
            return
        # Contexts of one plan may use the same profile at the same time; the rule from 10 on.
        config.set_preview_feature(self.trt.PreviewFeature.PROFILE_SHARING_0806, True)  # type: ignore[attr-defined]
        if precision == 'fp32':
            return
        if precision == 'int8':
            raise ConfigError(
                f'engine.precision is int8, TensorRT {self.trt.__version__} cannot build it',
                hint='use fp16, or TensorRT 10 or later',
            )
        config.set_flag(flags.FP16)  # type: ignore[attr-defined]
        config.set_flag(flags.PREFER_PRECISION_CONSTRAINTS)  # type: ignore[attr-defined]
        kinds, wide = self.trt.LayerType, self.trt.DataType.FLOAT
        for index in range(network.num_layers):  # type: ignore[attr-defined]
            layer = network.get_layer(index)  # type: ignore[attr-defined]
            if layer.type not in (kinds.CONSTANT, kinds.SHAPE, kinds.CAST, kinds.IDENTITY) and all(
                layer.get_output(i).dtype == wide for i in range(layer.num_outputs)
            ):
                layer.precision = wide

    def context(self, engine: object) -> Context | None:
        """Return an execution context without scratch memory."""
        if self.version[0] >= STRATEGIES_SINCE:
            strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            made = engine.create_execution_context(strategy)  # type: ignore[attr-defined]
        else:
            made = engine.create_execution_context_without_device_memory()  # type: ignore[attr-defined]
        return cast('Context | None', made)

    def scratch_bytes(self, engine: object) -> int:
        """Return how much scratch memory a context of any profile needs [bytes]."""
        if self.version[0] >= STRATEGIES_SINCE:
            return int(engine.device_memory_size_v2)  # type: ignore[attr-defined]
        return int(engine.device_memory_size)  # type: ignore[attr-defined]

    def give_scratch(self, context: Context, address: int, num_bytes: int) -> None:
        """Give a context its scratch memory."""
        if self.version[0] >= STRATEGIES_SINCE:
            context.set_device_memory(address, num_bytes)  # type: ignore[attr-defined]
        else:
            context.device_memory = address  # type: ignore[attr-defined]

    def fail(self, problem: str, *, hint: str = '') -> EngineError:
        """Return an error with what TensorRT said last."""
        said = '; '.join(self.log.problems) or 'it gives no reason'
        self.log.problems.clear()
        if 'OutOfMemory' in said or 'out of memory' in said.lower():
            return OutOfMemoryError(f'{problem}: {said}', hint='free memory of the GPU')
        return EngineError(f'{problem}: {said}', hint=hint)


def _make_log(module: ModuleType) -> Log:
    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        """Keeps the last errors."""

        def __init__(self) -> None:
            super().__init__()
            self.problems: list[str] = []

        def log(self, severity: object, message: str) -> None:
            """Take a message; called from TensorRT's threads."""
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self.problems.append(str(message).strip())
                del self.problems[:-KEPT_MESSAGES]

    return cast('Log', Logger())


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """
    How a graph is compiled.

    Parameters
    ----------
    precision
        'fp32', 'fp16' or 'int8', as the graph was written.
    profiles
        Ways of running it, in order.
    level
        0 compiles fastest, 5 looks longest for fast code.
    workspace_bytes
        Most scratch memory that a layer may use [bytes].
    targets
        Names of compute capabilities, such as 'SM86', where TensorRT compiles ahead of time.

    """

    precision: str
    profiles: Sequence[Profile]
    level: int = 2
    workspace_bytes: int = 4 << 30
    targets: Sequence[str] = ()


def build_plan(
    dialect: Dialect, graph: Path, options: BuildOptions, timings: bytes
) -> tuple[bytes, bytes]:
    """
    Compile a graph for this machine's GPU.

    Parameters
    ----------
    dialect
        TensorRT.
    graph
        ONNX file, its weights beside it.
    options
        How.
    timings
        What earlier builds found out; empty at first.

    Returns
    -------
    bytes, bytes
        The plan, and the timings with what was found out now.

    Raises
    ------
    EngineError
        TensorRT cannot build it; with its reason.

    """
    trt = dialect.trt
    try:
        builder = trt.Builder(dialect.log)
    except TypeError as exc:  # what 8.6 raises without a driver
        raise dialect.fail('TensorRT has no GPU to build for') from exc
    network = builder.create_network(dialect.network_flags())
    parser = trt.OnnxParser(network, dialect.log)
    if not parser.parse_from_file(str(graph)):
        said = '; '.join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f'{graph}: TensorRT {trt.__version__} cannot parse it: {said}')
    config = builder.create_builder_config()
    config.builder_optimization_level = options.level
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    dialect.keep_types(network, config, options.precision)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    _check_inputs(graph, inputs, options.profiles)
    for wanted in options.profiles:
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            profile.set_shape(tensor.name, *wanted.shapes(_dims(tensor)))
        config.add_optimization_profile(profile)
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b''), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise dialect.fail(f'{graph}: TensorRT {trt.__version__} cannot build it')
    found = config.get_timing_cache()
    return bytes(plan), bytes(found.serialize()) if found is not None else timings


def _check_inputs(graph: Path, inputs: Sequence[object], profiles: Sequence[Profile]) -> None:
    """Raise EngineError if a dimension of an input varies, and no profile says how."""
    known = set[str]().union(*(profile.ranges for profile in profiles))
    for tensor in inputs:
        foreign = {dim for dim in _dims(tensor) if isinstance(dim, str)} - known
        if foreign and profiles:
            raise EngineError(
                f'{graph}: input {tensor.name} varies in {", ".join(sorted(foreign))}, which is '  # type: ignore[attr-defined]
                f'none of {", ".join(sorted(known))}',
                hint='the graph is not one of a decoder part',
            )


def _dims(tensor: object) -> list[int | str]:
    """Return a network input's shape, with the names of dimensions that vary."""
    shape = tuple(tensor.shape)  # type: ignore[attr-defined]
    names = [tensor.get_dimension_name(i) for i in range(len(shape))]  # type: ignore[attr-defined]
    return [names[i] if size < 0 else int(size) for i, size in enumerate(shape)]


class Plan:
    """
    A compiled graph on the GPU, with a context for each of its profiles.

    Parameters
    ----------
    dialect
        TensorRT.
    source
        File named in errors.
    data
        The plan.

    Raises
    ------
    EngineError
        The plan is damaged, or of another version or GPU.

    """

    def __init__(self, dialect: Dialect, source: Path, data: bytes) -> None:
        self._dialect = dialect
        runtime = dialect.trt.Runtime(dialect.log)
        engine = runtime.deserialize_cuda_engine(data) if runtime is not None else None
        if engine is None:
            raise dialect.fail(
                f'{source}: TensorRT {dialect.trt.__version__} cannot load it',
                hint='build it again: cwm engine build',
            )
        self._runtime, self._engine, self._source = runtime, engine, source
        self.names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.num_profiles = int(engine.num_optimization_profiles)
        self.scratch_bytes = dialect.scratch_bytes(engine)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an input or output, -1 where it varies."""
        return tuple(self._engine.get_tensor_shape(name))

    def is_input(self, name: str) -> bool:
        """Say whether a tensor goes in."""
        return bool(self._engine.get_tensor_mode(name) == self._dialect.trt.TensorIOMode.INPUT)

    def runner(self, profile: int, stream: int) -> Runner:
        """Return a way to run the plan in one of its profiles."""
        context = self._dialect.context(self._engine)
        if context is None:
            raise self._dialect.fail(f'{self._source}: no context can be made')
        if not context.set_optimization_profile_async(profile, stream):
            raise self._dialect.fail(f'{self._source}: profile {profile} cannot be used')
        return Runner(self._dialect, context, self._source, self.scratch_bytes)

    def close(self) -> None:
        """Let go of the GPU's memory, once all runners are gone."""
        self._engine = self._runtime = None


class Runner:
    """Runs a plan; addresses and shapes are kept from call to call."""

    def __init__(
        self, dialect: Dialect, context: Context, source: Path, scratch_bytes: int
    ) -> None:
        self._dialect = dialect
        self._context = context
        self._source = source
        self._scratch_bytes = scratch_bytes

    def give_scratch(self, address: int) -> None:
        """Give it memory to work in, shared with runners that never run at the same time."""
        self._dialect.give_scratch(self._context, address, self._scratch_bytes)

    def bind(self, name: str, address: int, shape: tuple[int, ...] | None = None) -> None:
        """Say where a tensor lies, and of an input how large it is."""
        context = self._context
        if shape is not None and not context.set_input_shape(name, shape):
            raise self._dialect.fail(f'{self._source}: input {name} cannot have shape {shape}')
        if not context.set_tensor_address(name, address):
            raise self._dialect.fail(f'{self._source}: {name} cannot be bound')

    def run(self, stream: int) -> None:
        """Ask for one inference, in the stream's order."""
        if not self._context.execute_async_v3(stream):
            raise self._dialect.fail(f'{self._source}: the inference failed')
