"""Node provider of `rehearsal.yaml`, through which Ray's autoscaler starts nodes on this machine."""

from __future__ import annotations

from typing import Any

from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Machines(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's local nodes, each with its own folder for job uploads.

    By default, all nodes share a folder, and each new node empties it while others are using it, so drivers fail.
    """

    def _create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        with self.lock:
            ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"uploads_{self._next_node_id}"
            super()._create_node_with_resources_and_labels(*arguments)
