# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The library's log on ROS' own: the console and /rosout."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.impl.rcutils_logger import RcutilsLogger

LIBRARY = 'cwm_ros'


class RosHandler(logging.Handler):
    """
    Hands records to a logger of ROS; `start` and `stop` bound its life.

    Parameters
    ----------
    logger
        Of a node.

    """

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def start(self) -> None:
        """Take what the library logs."""
        library = logging.getLogger(LIBRARY)
        library.setLevel(logging.INFO)
        library.addHandler(self)
        library.propagate = False

    def stop(self) -> None:
        """Take no more; called before the node goes."""
        library = logging.getLogger(LIBRARY)
        library.removeHandler(self)
        library.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with its severity; ROS wants one line of code for each."""
        try:
            text = self.format(record)
            if record.levelno >= logging.CRITICAL:
                self._logger.fatal(text)
            elif record.levelno >= logging.ERROR:
                self._logger.error(text)
            elif record.levelno >= logging.WARNING:
                self._logger.warning(text)
            else:
                self._logger.info(text)
        except Exception:  # noqa: BLE001 - as logging asks of handlers
            self.handleError(record)
