# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes on disk: windows, their turns and their chunks."""

from cwm_ros.store.chunkfile import chunk_ids, ChunkHeader
from cwm_ros.store.doctor import DoctorReport
from cwm_ros.store.eviction import Eviction
from cwm_ros.store.inventory import WindowInfo
from cwm_ros.store.layout import Section
from cwm_ros.store.manifest import ChunkEntry, Manifest, Origin, OriginKind
from cwm_ros.store.quota import chunk_room_bytes, StorageReport
from cwm_ros.store.reader import Window
from cwm_ros.store.store import Store
from cwm_ros.store.verify import PayloadChecker, VerifyReport

__all__ = [
    'ChunkEntry',
    'ChunkHeader',
    'DoctorReport',
    'Eviction',
    'Manifest',
    'Origin',
    'OriginKind',
    'PayloadChecker',
    'Section',
    'StorageReport',
    'Store',
    'VerifyReport',
    'Window',
    'WindowInfo',
    'chunk_ids',
    'chunk_room_bytes',
]
