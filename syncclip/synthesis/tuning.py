"""A plan's open questions, which batch size and which attention, answered where the set will be drawn."""

from __future__ import annotations

from typing import Any

from syncclip.cluster import ray_session
from syncclip.settings import UserError
from syncclip.synthesis.generators.locating import Located
from syncclip.synthesis.generators.probing import answered, open_questions
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.plan import Plan


def tuned(plan: Plan, located: Located, num_gpus: float = 0.0) -> Plan:
    """The plan of a new set with numbers where it said `auto`; the same plan where nothing is open.

    They are measured once, in a Ray task that gets what an actor will get; the plan that is then laid into the set's
    folder keeps them, so that every later run draws the same batches.

    Raises:
        UserError: the generator can't be loaded or run.
    """
    device = "cuda" if num_gpus > 0 else "cpu"
    if not open_questions(plan.generator, device):
        return plan
    import ray

    with ray_session():
        remote: Any = ray.remote(num_cpus=plan.threads, num_gpus=num_gpus, max_calls=1)(_answers)
        grounded = located.placed(plan.generator).model_copy(update={"pipeline": located.source})
        found, mistake = ray.get(remote.remote(plan.model_dump_json(), grounded, device))
    if found is None:
        raise UserError(mistake)
    return plan.model_copy(update={"generator": plan.generator.model_copy(update=found)})


def _answers(plan_text: str, grounded: GeneratorSettings, device: str) -> tuple[dict[str, Any] | None, str]:
    """(what was found, "") or (None, the user's mistake): an error's class would not survive the way back."""
    import torch

    plan = Plan.model_validate_json(plan_text)
    torch.set_num_threads(plan.threads)
    prompts = [plan.entry(index).prompt for index in range(min(plan.total, plan.shard_size))]
    try:
        found = answered(grounded, device, plan.weights, prompts, min(plan.total, plan.shard_size))
    except UserError as error:
        return None, str(error)
    return {"batch_size": found.batch_size, "attention": found.attention}, ""
