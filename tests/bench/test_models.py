# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cwm_ros.bench.board import Board, find_board, Given
from cwm_ros.bench.models import report_models, show_reports
from cwm_ros.config import Settings
from cwm_ros.errors import ModelError
from tests.families import family_folder

BOARD = Board(memory_gib=32, drive_mib_s=1024, decode_mib_s=4096, gflops=1000)
SETTINGS = Settings()
RECOMMENDED = (
    *('tinyllama-1.1b', 'llama-3.2-3b', 'llama-3.1-8b', 'mistral-7b-v0.3', 'gemma-2b', 'gemma-7b'),
    *('phi-3-mini-4k', 'phi-3-small-8k', 'stablelm-3b'),
    *('qwen2.5-0.5b', 'qwen2.5-1.5b', 'qwen3-4b'),
)
"""For vehicles and robots."""


def test_a_model_on_a_board() -> None:
    (report,) = report_models(['llama-3.1-8b'], BOARD, SETTINGS, 16384)

    assert report.window_bytes['fp16'] == 2 << 30
    assert report.window_bytes['int8'] == (1 << 30) * 130 // 128
    assert report.thaw_s == pytest.approx(1.015625)
    assert report.usable_s == pytest.approx(1.015625 * 768 / 16384)
    assert report.recompute_s == pytest.approx(2 * 6.98e9 * 16384 / 1e12 + 70.4, rel=0.01)
    fits = {'fp32': 8539, 'fp16': 131072, 'int8': 96330, 'int4': 109594}
    assert report.tokens_that_fit == fits
    assert report.quota_bytes == report.window_bytes['int8'] + (1 << 20)


def test_the_slower_of_drive_and_decoder_decides() -> None:
    slow = replace(BOARD, decode_mib_s=1024)
    (report,) = report_models(['llama-3.1-8b'], slow, SETTINGS, 16384)

    assert report.thaw_s == 4.0


def test_the_whole_table_with_what_cannot_run() -> None:
    reports = report_models(['all', 'reference'], BOARD, SETTINGS, 4096)
    refused = [report for report in reports if report.refusal]
    text = show_reports(reports, SETTINGS)

    assert [report.name for report in refused] == ['phi-3-small-8k']
    assert 'refused: its block-sparse attention' in text
    assert all(report.window_tokens in (2048, 4096) for report in reports if not report.refusal)
    assert 'does not fit storage.quota_mib=500' in text
    assert reports[-1].name == 'reference'
    assert reports[-1].parameters > 0


def test_a_folder_is_sized_without_reading_its_weights(tmp_path: Path) -> None:
    folder = family_folder('gemma-2', tmp_path)
    (folder / 'model.safetensors').unlink()
    (report,) = report_models([str(folder)], BOARD, SETTINGS, 16384)

    assert report.window_tokens == 4096
    with pytest.raises(ModelError, match='neither a folder nor in the table'):
        report_models([str(tmp_path / 'absent')], BOARD, SETTINGS, 16384)
    with pytest.raises(ModelError, match='Phi3Small'):
        report_models(['phi-3-small-8k'], BOARD, SETTINGS, 16384)


def test_the_page_shows_what_the_command_says() -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'models.md').read_text(encoding='utf-8')
    board = Board(memory_gib=32, drive_mib_s=2000, decode_mib_s=4000, gflops=2000)
    text = show_reports(report_models(RECOMMENDED, board, SETTINGS, 16384), SETTINGS)
    needs, windows, _ = text.split('\n\n')

    assert needs in page
    assert windows in page


@pytest.mark.slow
def test_what_is_not_given_is_measured(tmp_path: Path) -> None:
    settings = replace(SETTINGS, storage=replace(SETTINGS.storage, root=tmp_path / 'store'))
    board, source = find_board(settings, Given(memory_gib=8), is_drive_measured=True)
    given, words = find_board(
        settings,
        Given(memory_gib=8, drive_mib_s=1, decode_mib_s=2, gflops=3),
        is_drive_measured=False,
    )

    assert board.memory_bytes == 8 << 30
    assert min(board.drive_mib_s, board.decode_mib_s, board.gflops) > 1
    assert 'memory_gib 8 (given)' in source
    assert source.count('measured') == 3
    assert (given.drive_mib_s, given.decode_mib_s, given.gflops) == (1, 2, 3)
    assert words.count('given') == 4
    assert list((tmp_path / 'store').iterdir()) == []
