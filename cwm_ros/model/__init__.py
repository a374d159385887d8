# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoint to an ONNX decoder graph, and text to tokens."""
