# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.codec import main, make_kv, measure_speed
from cwm_ros.bench.codec_quality import block_ratios, measure_quality
from cwm_ros.codec import CodecId
from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from cwm_ros.codec.kernels import Kernels

SPEC = KVSpec(num_layers=2, num_kv_heads=2, head_dim=16, max_tokens=1024)


def test_every_path_is_measured_against_memcpy(compiled: Kernels) -> None:
    rows = measure_speed('tiny', make_kv(SPEC, 512), lambda: compiled, (1, 2))
    assert {row.threads for row in rows} == {1, 2}
    assert {row.kernels for row in rows} == {'', 'numba', 'numpy'}
    assert len(rows) == 2 + 3 * 4 * len(CodecId)
    assert all(row.median_s >= row.min_s > 0 for row in rows)
    copies = [row.memcpy_ratio for row in rows if row.path.startswith('memcpy')]
    assert copies == [1, 1]


def test_quality_of_integers_is_what_the_design_says() -> None:
    rows = {(row.codec, row.compression): row for row in measure_quality(make_kv(SPEC, 1000))}
    assert rows['raw', 'lz4'].max_error == 0
    assert rows['int8', 'none'].ratio_to_fp16 == pytest.approx(1.97, abs=0.05)
    assert rows['int8', 'lz4'].bytes_per_token < rows['int8', 'none'].bytes_per_token
    assert 0.3 < rows['int8', 'none'].key_error_percent < 0.8
    assert rows['int8', 'none'].value_error_percent < 0.8
    assert rows['int4', 'none'].ratio_to_fp16 == pytest.approx(3.56, abs=0.05)
    assert rows['int4', 'lz4'].bytes_per_token < rows['int4', 'none'].bytes_per_token
    # 64 normal values span 4.7 deviations: 15 steps of 0.31, each with an error of 1 / sqrt(12).
    assert rows['int4', 'none'].key_error_percent == pytest.approx(9.05, abs=0.3)


def test_lz4_gains_on_values_of_layer_0_alone() -> None:
    (first, second) = block_ratios(make_kv(SPEC, 512))
    assert first[0] == second[0] == second[1] == 1
    assert first[1] > 1.2


def test_the_command_explains_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('sys.argv', ['codec', '--help'])
    with pytest.raises(SystemExit):
        main()
    assert '--kv' in capsys.readouterr().out
