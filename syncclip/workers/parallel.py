"""A map over shards with small results, in this process or on Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from syncclip.core.session import Session, current
from syncclip.runtime.ray_session import ray_session
from syncclip.workers.job import check_capacity
from syncclip.workers.settings import Pool

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Mapper(Generic[Item, Result]):
    """Ray actor that applies a function to items, and returns exceptions unchanged, which Ray would wrap."""

    def __init__(self, function: Callable[[Item], Result], session: Session) -> None:
        session.enter()
        self.function = function

    def apply(self, item: Item) -> Result | Exception:
        try:
            return self.function(item)
        except Exception as error:
            return error


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], actors: int = 1, session: Session | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each item in order, computed by several Ray actors or in this process.

    A call is repeated if its actor's process dies.

    Args:
        actors: number of actors with one CPU each; 1: this process, without Ray.
        session: session of the actors; default: the current session.

    Raises:
        UserError: there are too few CPUs; exceptions of the function are also raised here.
    """
    if actors == 1:
        yield from map(function, items)
        return
    import ray
    from ray.util import ActorPool

    check_capacity(Pool(actors), 1, "--actors")
    with ray_session():
        remote: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Mapper)
        pool = ActorPool([remote.remote(function, session or current()) for _ in range(actors)])
        results: Any = pool.map(lambda actor, item: actor.apply.remote(item), items)
        for result in results:
            if isinstance(result, Exception):
                raise result
            yield result
