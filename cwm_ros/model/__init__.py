# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoint to an ONNX decoder graph, and turns to tokens."""

from cwm_ros.model.chat import ChatRenderer
from cwm_ros.model.checkpoint import Checkpoint, find_model
from cwm_ros.model.families import read_spec
from cwm_ros.model.first_layer import FirstLayer
from cwm_ros.model.graph import build_graph
from cwm_ros.model.sizing import size_model, Sizing
from cwm_ros.model.tokenizer import IncrementalDecoder, Tokenizer

__all__ = [
    'ChatRenderer',
    'Checkpoint',
    'FirstLayer',
    'IncrementalDecoder',
    'Sizing',
    'Tokenizer',
    'build_graph',
    'find_model',
    'read_spec',
    'size_model',
]
