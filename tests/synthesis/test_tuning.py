from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.synthesis import tuning
from syncclip.synthesis.generators import GeneratorSettings, locate
from syncclip.synthesis.plan import Plan, agreed_plan, read_plan, write_plan
from syncclip.synthesis.settings import Pool
from syncclip.synthesis.tuning import tuned

MakePlan = Callable[..., Plan]


@pytest.fixture
def open_plan(make_plan: MakePlan, pipeline: Path) -> Plan:
    return make_plan(4, generator={"pipeline": str(pipeline), "steps": 1, "batch_size": "auto"})


def test_nothing_is_started_where_nothing_is_open(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tuning, "ray_session")
    plan = make_plan(4)
    assert tuned(plan, locate(plan.generator), Pool()) is plan


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_batch_size_is_measured_in_a_ray_task_and_kept_by_the_set(open_plan: Plan, tmp_path: Path) -> None:
    plan = write_plan(tuned(open_plan, locate(open_plan.generator), Pool()), str(tmp_path))
    assert plan.generator.batch_size in (1, 2, 3, 6, 12)
    assert agreed_plan(open_plan, read_plan(str(tmp_path)), str(tmp_path)) == plan


def test_a_mistake_that_shows_in_the_trial_comes_back_as_a_sentence(open_plan: Plan) -> None:
    grounded = GeneratorSettings(pipeline=open_plan.generator.pipeline, scheduler="Eule", batch_size="auto")
    found, mistake = tuning._answers(open_plan.model_dump_json(), grounded, "cpu")
    assert found is None and "no scheduler 'Eule'" in mistake


def test_an_open_plan_is_not_written(open_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="measured before"):
        write_plan(open_plan, str(tmp_path))


def test_a_set_that_exists_answers_what_is_open(make_plan: MakePlan, open_plan: Plan, tmp_path: Path) -> None:
    def with_(**changes: Any) -> Plan:
        return open_plan.model_copy(update={"generator": open_plan.generator.model_copy(update=changes)})

    stored = write_plan(with_(batch_size=3, attention="xformers"), str(tmp_path))
    assert agreed_plan(open_plan, read_plan(str(tmp_path)), str(tmp_path)) == stored
    with pytest.raises(UserError, match="generator.batch_size is 3 there and 5 here"):
        agreed_plan(with_(batch_size=5), stored, str(tmp_path))
    with pytest.raises(UserError, match="generator.attention is 'xformers' there and 'sdpa' here"):
        agreed_plan(with_(attention="sdpa", batch_size=3), stored, str(tmp_path))
