# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""docs/interfaces.md against a running node: names, types and quality of service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from tests.interface_page import PAGE

if TYPE_CHECKING:
    from rclpy.topic_endpoint_info import TopicEndpointInfo

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

TOPICS_OF_EVERY_NODE = {'/parameter_events', '/rosout', '/cwm/transition_event'}
SERVICES_OF_EVERY_NODE = (
    'parameter',
    'describe',
    'transition',
    'state',
    'type_description',
    'logger',
)


def table(title: str) -> list[list[str]]:
    """Return the rows of the tables below a heading."""
    text = PAGE.read_text(encoding='utf-8').partition(f'\n## {title}\n')[2].partition('\n## ')[0]
    rows = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| `')]
    assert rows, title
    return rows


def names(cell: str) -> list[str]:
    return [name.replace('~', '/cwm') for name in re.findall(r'`([^`]+)`', cell)]


def quality(info: TopicEndpointInfo) -> str:
    """Say a topic's quality as the page does; depth does not travel."""
    qos: QoSProfile = info.qos_profile
    is_reliable = qos.reliability == ReliabilityPolicy.RELIABLE
    is_latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    said = ('reliable' if is_reliable else 'best effort') + (
        ', transient_local' if is_latched else ', volatile'
    )
    if qos.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC:
        lease, deadline = qos.liveliness_lease_duration, qos.deadline
        assert (lease, deadline) == (Duration(seconds=3), Duration(seconds=2))
        return f'{said}, depth 1; deadline 2 s; liveliness manual by topic, lease 3 s'
    return said


def test_topics_are_those_of_the_page(start_node: StartNode, client: Client) -> None:
    start_node()
    client.meet()
    for title, ask in (
        ('Topics out', client.node.get_publisher_names_and_types_by_node),
        ('Topics in', client.node.get_subscriber_names_and_types_by_node),
    ):
        told = {names(row[0])[0]: (row[1], row[2]) for row in table(title)}
        found = {
            name: kinds[0]
            for name, kinds in ask('cwm', '/')
            if name not in TOPICS_OF_EVERY_NODE and '/_action/' not in name
        }
        assert found == {name: kind for name, (kind, _) in told.items()}
        for name, (_, qos) in told.items():
            infos = (
                client.node.get_publishers_info_by_topic(name)
                if title == 'Topics out'
                else client.node.get_subscriptions_info_by_topic(name)
            )
            (info,) = [info for info in infos if info.node_name == 'cwm']
            assert qos.startswith(quality(info)), name


def test_actions_and_services_are_those_of_the_page(start_node: StartNode, client: Client) -> None:
    start_node()
    client.meet()
    told = {name for row in table('Actions and services') for name in names(row[0])}
    offered = [n for n, _ in client.node.get_service_names_and_types_by_node('cwm', '/')]
    actions = {n.partition('/_action')[0] for n in offered if '/_action/' in n}
    services = {
        name
        for name in offered
        if '/_action/' not in name and not any(word in name for word in SERVICES_OF_EVERY_NODE)
    }

    assert actions | services == told
