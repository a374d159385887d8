# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From an engine's folder to an engine; what does not fit this machine is refused by name."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from cwm_ros.engine.cuda import Device
from cwm_ros.engine.gpu import GpuEngine
from cwm_ros.engine.plans import (
    BUILD_HINT,
    engine_folder,
    find_problems,
    KERNELS_FILE,
    Machine,
    part_file,
    read_sidecar,
)
from cwm_ros.engine.sliced import capacity_of
from cwm_ros.engine.trt import Dialect, import_tensorrt, Plan
from cwm_ros.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine.plans import Sidecar
    from cwm_ros.kv import KVSpec, ModelIdentity


def this_machine(device: Device, dialect: Dialect) -> Machine:
    """Return what engine files built here are bound to."""
    return Machine(
        tensorrt=str(dialect.trt.__version__),
        gpu=device.info.name,
        capability='.'.join(map(str, device.info.capability)),
    )


def check_engine(
    spec: KVSpec,
    identity: ModelIdentity,
    settings: EngineSettings,
    machine: Machine,
    folder: Path,
) -> tuple[Sidecar, list[str]]:
    """
    Return an engine's sidecar, and why it cannot be used here; nothing when it can.

    Raises
    ------
    NotFoundError
        There is no engine.
    FormatError
        Its sidecar is damaged.

    """
    sidecar = read_sidecar(folder)
    problems = find_problems(
        folder,
        sidecar,
        machine,
        identity=identity,
        context_tokens=capacity_of(spec, identity, settings),
        slice_tokens=settings.prefill_slice,
    )
    return sidecar, problems


def open_gpu_engine(spec: KVSpec, identity: ModelIdentity, settings: EngineSettings) -> GpuEngine:
    """
    Open the engine that was built for a model; it is never built here.

    Raises
    ------
    ConfigError
        The settings ask for more tokens than the model was trained for.
    NotFoundError
        There is no engine.
    EngineError
        There is no GPU, driver or TensorRT, or the engine does not fit them.

    """
    device = Device()
    dialect = Dialect(import_tensorrt())
    folder = engine_folder(settings.cache_path, identity, settings.gpu_precision)
    sidecar, problems = check_engine(
        spec, identity, settings, this_machine(device, dialect), folder
    )
    if problems:
        raise EngineError(
            f'{folder}: the engine cannot be used: ' + '; '.join(problems), hint=BUILD_HINT
        )
    device.activate()
    is_mapped = settings.host_memory == 'mapped' or (
        settings.host_memory == 'auto' and device.info.is_integrated
    )
    group = sidecar.recipe.group_layers
    with ExitStack() as opening:
        plans, layers = [], []
        for index, first in enumerate(range(0, spec.num_layers, group)):
            path = folder / part_file(index)
            plan = Plan(dialect, path, path.read_bytes())
            opening.callback(plan.close)
            plans.append(plan)
            part = range(first, min(first + group, spec.num_layers))
            layers.append({layer: layer for layer in part})
        engine = GpuEngine(
            device,
            device.kernels((folder / KERNELS_FILE).read_bytes()),
            plans,
            layers,
            spec=spec,
            identity=identity,
            capacity=capacity_of(spec, identity, settings),
            slice_tokens=settings.prefill_slice,
            is_half=settings.gpu_precision != 'fp32',
            is_mapped=is_mapped,
            priority=settings.stream_priority,
        )
        opening.pop_all()
    return engine
