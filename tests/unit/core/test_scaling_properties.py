"""What must hold of every plan, whatever the policy thinks best."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pilotlight.core.scaling import Plan, PoolView, TaskView, plan


@st.composite
def pools(draw: st.DrawFn) -> PoolView:
    tasks: list[TaskView] = []
    for number in range(draw(st.integers(0, 12))):
        starting = draw(st.booleans())
        held = 0 if starting else draw(st.integers(0, 3))
        idle_s = 0.0 if starting or held else draw(st.floats(0, 200))
        tasks.append(TaskView(f"ta-{number}", starting, held, idle_s, draw(st.booleans()), draw(st.integers(0, 9))))
    return PoolView(
        queued=draw(st.integers(0, 50)),
        inputs_per_container=draw(st.integers(1, 5)),
        tasks=tuple(tasks),
        min_containers=draw(st.integers(0, 5)),
        max_containers=draw(st.integers(0, 15)),
        buffer_containers=draw(st.integers(0, 3)),
        scaledown_window_s=draw(st.floats(1, 100)),
        service_s=draw(st.none() | st.floats(0.0001, 100)),
        startup_s=draw(st.floats(0.01, 60)),
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


def carried_out(pool: PoolView, made: Plan) -> PoolView:
    """What is there once the plan is reality: new containers are ready, and all have what they can take of the load."""
    names = [task.task_id for task in pool.tasks if task.task_id not in made.drain] + [f"new-{n}" for n in range(made.start)]
    left = pool.queued + sum(task.held_inputs for task in pool.tasks)
    tasks: list[TaskView] = []
    for number, name in enumerate(names):
        held = min(pool.inputs_per_container, math.ceil(left / (len(names) - number)))
        left -= held
        tasks.append(TaskView(f"{name}'", starting=False, held_inputs=held, idle_s=0.0))
    return replace(pool, queued=left, tasks=tuple(tasks))


@given(pools())
def test_a_constant_load_is_settled_within_two_passes(pool: PoolView) -> None:
    once = carried_out(pool, plan(pool))
    twice = carried_out(once, plan(once))
    settled = plan(twice)
    assert not settled.start and not settled.drain


@given(pools())
def test_what_waits_behind_inputs_that_take_longer_and_longer_is_not_left_to_wait(pool: PoolView) -> None:
    stuck = replace(
        pool,
        queued=max(1, pool.queued),
        tasks=tuple(replace(task, starting=False, idle_s=0.0, held_inputs=pool.inputs_per_container) for task in pool.tasks),
        service_s=10_000.0,  # what runs has taken so long already, whatever it took before
    )
    made = plan(stuck)
    assert made.start or len(stuck.tasks) >= max(stuck.max_containers, stuck.min_containers)


def test_the_least_useful_are_drained_first() -> None:
    idle = {"starting": False, "held_inputs": 0}
    tasks = (
        TaskView("new", idle_s=99.0, taken=1, **idle),
        TaskView("learned", idle_s=50.0, taken=9, **idle),
        TaskView("young", idle_s=50.0, taken=2, **idle),
        TaskView("old version", idle_s=10.0, is_outdated=True, taken=99, **idle),
        TaskView("busy", starting=False, held_inputs=1, idle_s=0.0, is_outdated=True),
    )
    pool = PoolView(queued=0, inputs_per_container=1, tasks=tasks, scaledown_window_s=5.0)
    assert plan(pool).drain == ("old version", "new", "young", "learned")


def test_a_burst_of_short_inputs_is_sized_by_what_a_start_is_worth() -> None:
    pool = PoolView(queued=1_000, inputs_per_container=1, tasks=(), service_s=0.01, startup_s=1.0)
    assert plan(pool).start == 10
    assert plan(replace(pool, startup_s=5.0)).start == 2
    assert plan(replace(pool, service_s=5.0)).start == pool.max_containers
    assert plan(replace(pool, service_s=None)).start == pool.max_containers


def test_a_scaleup_window_delays_all_but_the_first_and_those_that_are_kept_warm() -> None:
    one = TaskView("one", starting=False, held_inputs=1, idle_s=0.0)
    pool = PoolView(queued=3, inputs_per_container=1, tasks=(one,), scaleup_window_s=10.0, min_containers=2)
    assert plan(replace(pool, tasks=())).start == 3
    assert plan(pool) == Plan(1, (), 10.0, is_short=True)
    assert plan(replace(pool, short_s=7.0, min_containers=0)) == Plan(0, (), 3.0, is_short=True)
    assert plan(replace(pool, short_s=10.0)).start == 3
    assert not plan(replace(pool, queued=0, min_containers=0)).is_short
