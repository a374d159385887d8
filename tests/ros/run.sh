#!/usr/bin/env bash
# Runs the tests marked `ros` where a ROS 2 is found; says so clearly where there is none.
set -eo pipefail
cd "$(dirname "$0")/../.."

if ! python3 -c 'import rclpy' 2>/dev/null; then
    setups=(/opt/ros/*/setup.bash)
    if [ ! -e "${setups[0]}" ]; then
        echo 'ROS tests skipped: rclpy cannot be imported and there is no /opt/ros/*/setup.bash'
        exit 0
    fi
    # shellcheck disable=SC1090
    source "${setups[0]}"
fi
make venv
# The interpreter of the virtual environment sees ROS through PYTHONPATH, which setup.bash sets.
exec .venv/bin/python -m pytest -m ros tests/ros
