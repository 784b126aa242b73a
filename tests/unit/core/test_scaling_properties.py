"""What must hold of every plan, whatever the policy thinks best."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.scaling import PoolView, TaskView, plan


@st.composite
def pools(draw: st.DrawFn) -> PoolView:
    tasks: list[TaskView] = []
    for number in range(draw(st.integers(0, 12))):
        starting = draw(st.booleans())
        held = 0 if starting else draw(st.integers(0, 3))
        idle_s = 0.0 if starting or held else draw(st.floats(0, 200))
        tasks.append(TaskView(f"ta-{number}", starting, held, idle_s))
    return PoolView(
        queued=draw(st.integers(0, 50)),
        inputs_per_container=draw(st.integers(1, 5)),
        tasks=tuple(tasks),
        min_containers=draw(st.integers(0, 5)),
        max_containers=draw(st.integers(0, 15)),
        buffer_containers=draw(st.integers(0, 3)),
        scaledown_window_s=draw(st.floats(1, 100)),
    )


@given(pools())
def test_limits_hold(pool: PoolView) -> None:
    made = plan(pool)
    after = len(pool.tasks) + made.start - len(made.drain)
    if made.start:
        assert after <= max(pool.max_containers, pool.min_containers)
    if made.drain:
        assert after >= min(pool.min_containers, len(pool.tasks))
    assert not (made.start and made.drain)
    assert made.start >= 0


@given(pools())
def test_only_idle_containers_are_drained_and_not_before_their_time(pool: PoolView) -> None:
    by_id = {task.task_id: task for task in pool.tasks}
    made = plan(pool)
    assert len(set(made.drain)) == len(made.drain)
    for task in (by_id[task_id] for task_id in made.drain):
        assert not task.starting and not task.held_inputs
        over_limit = len(pool.tasks) > max(pool.max_containers, pool.min_containers)
        assert task.idle_s >= pool.scaledown_window_s or over_limit


@given(pools())
def test_what_waits_gets_a_container(pool: PoolView) -> None:
    if pool.queued and not pool.tasks and pool.max_containers:
        assert plan(pool).start >= 1


@given(pools())
def test_a_plan_that_is_carried_out_asks_for_nothing_more(pool: PoolView) -> None:
    made = plan(pool)
    fresh = tuple(TaskView(f"new-{number}", True, 0, 0.0) for number in range(made.start))
    kept = tuple(task for task in pool.tasks if task.task_id not in made.drain)
    again = plan(replace(pool, tasks=kept + fresh))
    assert not again.start and not again.drain


@given(pools())
def test_an_idle_pool_is_looked_at_again_before_its_window_is_over(pool: PoolView) -> None:
    idle = replace(pool, queued=0, tasks=tuple(replace(task, starting=False, held_inputs=0) for task in pool.tasks))
    made = plan(idle)
    if len(idle.tasks) - len(made.drain) > idle.min_containers:
        assert made.look_again_s is not None and made.look_again_s <= idle.scaledown_window_s
