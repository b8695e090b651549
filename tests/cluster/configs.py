"""The cluster files, and the machines that Ray's autoscaler would launch for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"

Config = dict[str, Any]


def read(name: str) -> Config:
    return dict(yaml.safe_load((CLUSTER / f"{name}.yaml").read_text()))


def launches(
    types: dict[str, Config],
    demand: dict[str, float],
    count: int,
    broken: str = "",
    selector: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Node type -> number of machines that Ray's autoscaler v2 starts for `count` equal demands on an empty cluster.

    Args:
        types: `available_node_types`, with resources.
        broken: a node type that is unavailable in the cloud.
        selector: label -> "value" or "!value" of every demand.
    """
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    configs = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=node.get("min_workers", 0),
            max_worker_nodes=node.get("max_workers", 0),
            priority=node.get("priority", 0),
            resources=node["resources"],
            labels=node.get("labels", {}),
        )
        for name, node in types.items()
    }
    available = {name: 0.0 if name == broken else 1.0 for name in types}
    operators = {True: LabelSelectorOperator.LABEL_OPERATOR_NOT_IN, False: LabelSelectorOperator.LABEL_OPERATOR_IN}
    terms = [(key, operators[text[0] == "!"], [text.removeprefix("!")]) for key, text in (selector or {}).items()]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=configs,
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(demand, label_selectors=[terms] if terms else None)] * count
        ),
        cloud_resource_availabilities=available,
        recoverable_resource_availabilities=available,
    )

    class Events:
        def log_cluster_scheduling_update(self, *_: object, **__: object) -> None: ...

    reply = ResourceDemandScheduler(Events()).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}
