# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The process around the node: signals, threads, watchdog, exit status."""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import logging
import os
import signal
import sys
from threading import Event, Thread
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn, TextIO

    from rclpy.executors import Executor

    from cwm_ros.node.failures import Failures
    from cwm_ros.node.node import CwmNode

EXIT_HUNG = 70
EXIT_FAILED = 1
SIGNALS = {signal.SIGTERM, signal.SIGINT}
NUM_THREADS = 16
"""Each goal waits in one; others are left for transitions, services, topics and the timer."""
LOOK_S = 0.25
LEAVE_S = 2.0
TELL_HUNG_S = 0.5
NO_ROS = """\
cwm_ros: {error}
The node needs ROS 2 and the package cwm_interfaces. Source the workspace that both were built in:
  colcon build --base-paths . cwm_interfaces && source install/setup.bash
"""
ROS_PACKAGES = ('', 'builtin_interfaces', 'cwm_interfaces', 'rcl_interfaces', 'rclpy')
NO_LIBRARY = """\
cwm_ros: {error}
Install it for {python}, or name its folder in PYTHONPATH.
README.md lists what rosdep does not know.
"""


def main(args: Sequence[str] | None = None) -> int:
    """
    Run the node until a signal or a shutdown transition ends it.

    Parameters
    ----------
    args
        Options of this program and of ROS; None takes them from the command line.

    Returns
    -------
    int
        Exit status: 0 after a signal, 1 when it could not start, 70 when the engine hung (1 when
        it also held the interpreter).

    """
    # Every thread inherits this, those of NumPy too, which are there once it is imported: only the
    # main thread takes signals, by asking for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        import rclpy
        from rclpy.executors import MultiThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        from cwm_ros.node.node import CwmNode
    except ImportError as exc:
        sys.stderr.write(explain(exc))
        return EXIT_FAILED
    from cwm_ros.errors import CwmError

    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    options = _read_options(rclpy.utilities.remove_ros_args(args or sys.argv)[1:])
    try:
        node = CwmNode(why_no_engine=options.store_only)
    except CwmError as exc:
        sys.stderr.write(f'cwm_ros: {exc}\n')
        rclpy.shutdown()
        return EXIT_FAILED
    if options.autostart:
        node.start()
    executor = MultiThreadedExecutor(num_threads=NUM_THREADS)
    executor.add_node(node)
    ended = Event()
    spinning = Thread(target=_spin, args=(executor, node, ended), name='cwm-ros', daemon=True)
    spinning.start()
    Thread(target=Watchdog(node).run, name='cwm-watchdog', daemon=True).start()
    _wait_for_signal(ended)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing interrupts the save
    node.save_and_close()
    node.board.close()
    status = EXIT_FAILED if ended.is_set() else 0
    executor.shutdown(timeout_sec=LEAVE_S)
    spinning.join(LEAVE_S)
    if spinning.is_alive():
        _leave(status)
    node.destroy_node()
    rclpy.shutdown()
    return status


def explain(error: ImportError) -> str:
    """Say what is missing, ROS 2 or a library, and what to do about it."""
    package = (error.name or '').partition('.')[0]
    is_ros = package in ('', 'rclpy', 'rcl_interfaces', 'cwm_interfaces') or package.endswith(
        '_msgs'
    )
    text = NO_ROS if is_ros else NO_LIBRARY
    return text.format(error=error, python=sys.executable)


def _read_options(args: Sequence[str]) -> argparse.Namespace:
    """Return what the launch file asks for, or a person."""
    parser = argparse.ArgumentParser('cwm_node', description="An assistant's memory on the bus.")
    parser.add_argument(
        '--autostart', action='store_true', help='configure and activate before anybody asks'
    )
    parser.add_argument(
        '--store-only', metavar='WHY', default='', help='load no model: windows can be listed'
    )
    return parser.parse_args(args)


def _spin(executor: Executor, node: CwmNode, ended: Event) -> None:
    try:
        executor.spin()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the process must end in order
        node.get_logger().fatal(f'the executor ended: {type(exc).__name__}: {exc}')
        ended.set()


def _leave(status: int) -> NoReturn:
    """
    End the process as it is, for a thread is still in the middleware.

    At the interpreter's end such a thread would be unwound through C++, which aborts.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - what is registered there must not be lost
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _wait_for_signal(ended: Event) -> None:
    while not ended.is_set():
        if signal.sigtimedwait(SIGNALS, LOOK_S) is not None:
            return


class Watchdog:
    """
    Ends the process when a step of the engine is overdue.

    Turns are durable before they are answered, so nothing that was said is lost. Should the step
    hold the interpreter's lock, this thread does not run either: then a timer of the interpreter,
    which is set anew as long as it does, ends the process and leaves a trace in the store's
    folder.

    Parameters
    ----------
    node
        Whose engine to watch.

    """

    def __init__(self, node: CwmNode) -> None:
        self._node = node
        self._trace: TextIO | None = None
        self._traced: Failures | None = None

    def run(self) -> None:
        """Watch for ever."""
        while True:
            time.sleep(LOOK_S)
            core, failures = self._node.assistant.desk.core, self._node.assistant.failures
            limit_s = self._node.assistant.settings.engine.watchdog if core else 0.0
            if core is None or failures is None or not limit_s:
                faulthandler.cancel_dump_traceback_later()
                continue
            self._set_timer(failures, 2 * limit_s + TELL_HUNG_S)
            if core.step_age_s() > limit_s:
                self._node.get_logger().fatal(f'the engine does not answer for {limit_s} s')
                self._node.assistant.give_up(TELL_HUNG_S)
                time.sleep(TELL_HUNG_S)
                os._exit(EXIT_HUNG)

    def _set_timer(self, failures: Failures, after_s: float) -> None:
        if failures is not self._traced:
            self._trace, self._traced = failures.open_trace(), failures
        file = self._trace or sys.stderr
        faulthandler.dump_traceback_later(after_s, exit=True, file=file)


if __name__ == '__main__':
    sys.exit(main())
