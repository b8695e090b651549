"""The provider of `rehearsal.yaml`: what Ray's autoscaler calls to get nodes of this machine."""

from __future__ import annotations

from typing import Any

from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Machines(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's own nodes on one machine, but each with a folder of its own for what jobs upload.

    By default all would share one, and each new node removes and unpacks its contents while others use them: a driver
    whose working folder disappears fails.
    """

    def _create_node_with_resources_and_labels(self, *given: Any) -> None:
        with self.lock:
            ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"uploads_{self._next_node_id}"
            super()._create_node_with_resources_and_labels(*given)
