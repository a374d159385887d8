#!/usr/bin/env bash
# Runs the tests marked `ros` where a ROS 2 is found; says so clearly where there is none.
# Messages stay on this machine: discovery is confined to the loopback interface.
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
python=$PWD/.venv/bin/python
if ! problem=$("$python" -c 'import rclpy' 2>&1); then
    echo "ROS tests skipped: $python cannot import rclpy: ${problem##*$'\n'}"
    echo 'Make .venv with the Python that this ROS 2 was built for: PYTHON=python3.x make venv'
    exit 0
fi

# A ROS 2 from packages brings colcon and what it needs for the system's Python; where there is
# none, both go into the virtual environment.
if command -v colcon >/dev/null; then
    builder=$(command -v python3)
else
    "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plot,ros]'
    export PATH=$PWD/.venv/bin:$PATH
    builder=$python
fi

# The messages are built once, into a folder that stays until one of them changes. (The folder of
# that name in this checkout is importable, too, but holds no message: ask for one.)
if ! "$python" -c 'from cwm_interfaces.msg import Usability' 2>/dev/null; then
    digest=$(find cwm_interfaces -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
    base=${XDG_CACHE_HOME:-$HOME/.cache}/cwm_ros/interfaces-${ROS_DISTRO:-ros}-${digest:0:16}
    if [ ! -e "$base/is-built" ]; then
        rm -rf "$base"
        if ! colcon --log-base "$base/log" build --base-paths cwm_interfaces \
            --build-base "$base/build" --install-base "$base/install" \
            --cmake-args -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$builder"; then
            echo 'cwm_interfaces could not be built, see above'
            exit 1
        fi
        touch "$base/is-built"
    fi
    # shellcheck disable=SC1091
    source "$base/install/setup.bash"
fi

export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-77} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_LOCALHOST_ONLY=${ROS_LOCALHOST_ONLY:-1}
if [ "${RMW_IMPLEMENTATION:-}" = rmw_cyclonedds_cpp ] && [ -z "${CYCLONEDDS_URI:-}" ]; then
    # One that does not rely on multicast, which lo does not offer everywhere.
    unset ROS_LOCALHOST_ONLY
    export CYCLONEDDS_URI='<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"
        multicast="false"/></Interfaces><AllowMulticast>false</AllowMulticast></General>
        <Discovery><ParticipantIndex>auto</ParticipantIndex>
        <MaxAutoParticipantIndex>120</MaxAutoParticipantIndex>
        <Peers><Peer address="localhost"/></Peers></Discovery></Domain></CycloneDDS>'
fi
# ROS brings plugins for pytest that are not needed and that do not load everywhere.
# Some tests are long: a drive of twenty ignition cycles, a soak.
exec "$python" -m pytest -p no:launch_testing -p no:launch_ros -o faulthandler_timeout=600 \
    -m ros tests/ros "$@"
