# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What can be said about TensorRT without a GPU.

TensorRT for RTX parses and compiles our graphs ahead of time: ``pip install
tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs``, both 1.7. Bindings of other versions are
checked for the names we use wherever they can be imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from cwm_ros.engine.trt import build_plan, BuildOptions, Dialect, Profile
from cwm_ros.engine_build import profiles
from cwm_ros.errors import EngineError
from cwm_ros.model.graph_parts import part_layers, write_part
from cwm_ros.model.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from cwm_ros.model import Checkpoint

USED = {
    'Builder': 'create_network build_serialized_network create_builder_config '
    'create_optimization_profile',
    'IBuilderConfig': 'builder_optimization_level set_memory_pool_limit create_timing_cache '
    'set_timing_cache get_timing_cache clear_flag add_optimization_profile',
    'INetworkDefinition': 'num_inputs get_input',
    'ITensor': 'name shape get_dimension_name',
    'OnnxParser': 'parse_from_file num_errors get_error',
    'Runtime': 'deserialize_cuda_engine',
    'ICudaEngine': 'num_io_tensors get_tensor_name get_tensor_shape get_tensor_mode '
    'num_optimization_profiles create_execution_context',
    'IExecutionContext': 'set_optimization_profile_async set_input_shape set_tensor_address '
    'execute_async_v3',
}
BY_VERSION = {
    8: 'create_execution_context_without_device_memory device_memory_size',
    10: 'create_execution_context_without_device_memory device_memory_size',
    11: 'device_memory_size_v2',
}


def bindings(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        pytest.skip(f'{name} cannot be imported here: {exc}')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['tensorrt', 'tensorrt_bindings'])
def test_the_names_we_use_are_there(name: str) -> None:
    module = bindings(name)
    dialect = Dialect(module)
    missing = [
        f'{owner}.{member}'
        for owner, members in USED.items()
        for member in members.split()
        if not hasattr(getattr(module, owner), member)
    ]
    extra = BY_VERSION[dialect.version[0]].split()
    missing += [member for member in extra if not hasattr(module.ICudaEngine, member)]
    setter = 'set_device_memory' if dialect.version[0] >= 11 else 'device_memory'
    missing += [] if hasattr(module.IExecutionContext, setter) else [setter]

    assert missing == []
    assert dialect.network_flags() > 0
    assert hasattr(module.BuilderFlag, 'TF32')


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # RTX's, of timing caches
@pytest.mark.parametrize('precision', ['fp16', 'int8'])
def test_parts_compile_for_gpus_that_are_not_here(
    tiny: Checkpoint, tmp_path: Path, precision: str
) -> None:
    module = bindings('tensorrt_rtx_bindings')
    dialect = Dialect(module, version=(10, 15))  # the interface that it has
    options = BuildOptions(
        precision=precision,
        profiles=[Profile(ranges=ranges) for ranges in profiles(1024, 64)],
        targets=('SM86', 'SM120'),
    )
    for layers in part_layers(tiny.spec.num_layers, 1):
        folder = tmp_path / str(layers.start)
        folder.mkdir()
        with Weights(tiny.folder, tiny.spec.tensor_shapes()) as weights:
            graph = write_part(folder, tiny.spec, weights, layers, precision)
        plan, timings = build_plan(dialect, graph, options, b'')
        assert len(plan) > 100_000
        assert timings


@pytest.mark.slow
def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    dialect = Dialect(bindings('tensorrt_rtx_bindings'), version=(10, 15))
    (tmp_path / 'part.onnx').write_bytes(b'no graph')
    options = BuildOptions(precision='fp16', profiles=[], targets=('SM86',))
    with pytest.raises(EngineError, match='cannot parse'):
        build_plan(dialect, tmp_path / 'part.onnx', options, b'')
