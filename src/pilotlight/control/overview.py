"""What the platform is doing, in one document and in numbers."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from modal_proto import api_pb2
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pilotlight.control.apps import Apps
from pilotlight.control.calls import Calls
from pilotlight.control.crash_loops import is_crash_loop
from pilotlight.control.garbage import Garbage
from pilotlight.control.gpus import GpuState
from pilotlight.control.images import Images
from pilotlight.control.live import LiveTask, Pool
from pilotlight.control.nodes import Nodes
from pilotlight.control.pools import Pools
from pilotlight.control.refusals import Refusals
from pilotlight.control.schedules import Schedules
from pilotlight.control.tasks import Tasks
from pilotlight.control.unplaced import UnplacedPools
from pilotlight.control.webhook_deliveries import OUTCOMES, WebhookDeliveries
from pilotlight.core.tasks import TaskState


class Overview(Collector):
    """Reads the live state; changes nothing."""

    def __init__(
        self,
        *,
        apps: Apps,
        calls: Calls,
        pools: Pools,
        tasks: Tasks,
        nodes: Nodes,
        images: Images,
        schedules: Schedules,
        garbage: Garbage,
        webhooks: WebhookDeliveries,
        unplaced: UnplacedPools,
        refusals: Refusals,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._apps = apps
        self._calls = calls
        self._pools = pools
        self._tasks = tasks
        self._nodes = nodes
        self._images = images
        self._schedules = schedules
        self._garbage = garbage
        self._webhooks = webhooks
        self._unplaced = unplaced
        self._refusals = refusals
        self._now = now
        self._started_at = now()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def document(self) -> dict[str, Any]:
        """The body of `pilotlight status --json`, less what only the supervisor knows."""
        tasks = self._tasks.all()
        names = {node.node_id: node.name for node in self._nodes.all()}
        return {
            "version": version("pilotlight"),
            "uptime_s": round(self._now() - self._started_at, 1),
            "nodes": self._node_list(tasks),
            "gpus": [self._gpu(gpu, names) for gpu in self._nodes.gpus.all()],
            "apps": self._app_list(tasks),
            "containers": [self._container(task, names) for task in tasks],
            "waiting": [
                {**self._function(pool), "inputs": pool.waiting, "why": self._why(pool)} for pool in self._pools if pool.waiting
            ],
            "crashing": [
                {**self._function(pool), "crashes": pool.crashes, "why": pool.last_failure}
                for pool in self._pools
                if is_crash_loop(pool)
            ],
            "templates": self._template_list(),
            "refused": [
                {
                    "container": refusal.container_id,
                    "node_name": refusal.node_name,
                    "refused_at": refusal.at,
                    "why": "; ".join(refusal.faults),
                }
                for refusal in self._refusals.recent()
            ],
            "schedules": self._schedule_list(),
            "builds": [{"image_id": build.image_id, "state": "building", "step": build.step} for build in self._images.builds],
        }

    def _node_list(self, tasks: Sequence[LiveTask]) -> list[dict[str, Any]]:
        return [
            {
                "node_id": node.node_id,
                "name": node.name,
                "state": "drained" if node.node_id in self._nodes.cordoned else "ready",
                "labels": ", ".join(f"{name}={value}" for name, value in sorted(node.labels.items())),
                "milli_cpu": node.milli_cpu,
                "memory_mib": node.memory_mib,
                "containers": sum(task.node_id == node.node_id for task in tasks),
                "gpus": ", ".join(f"{count}×{kind}" for kind, count in self._nodes.gpus.totals(node.node_id).items()),
            }
            for node in self._nodes.all()
        ]

    def _template_list(self) -> list[dict[str, Any]]:
        return [
            {
                "image_id": template.image_id,
                "node_name": node.name,
                "memory_mib": template.memory_bytes >> 20,
                "modules": template.modules,
                "ready_at": template.ready_at,
            }
            for node in self._nodes.all()
            for template in node.templates
        ]

    def _app_list(self, tasks: Sequence[LiveTask]) -> list[dict[str, Any]]:
        containers = Counter(task.pool.function.app_id for task in tasks)
        return [
            {
                "app_id": app.app_id,
                "name": app.title,
                "environment": app.environment_name,
                "state": _state_name(app.state),
                "created_at": app.created_at,
                "functions": self._apps.function_count(app.app_id),
                "containers": containers[app.app_id],
            }
            for app in self._apps.all()
        ]

    def _container(self, task: LiveTask, names: Mapping[str, str]) -> dict[str, Any]:
        return {
            "task_id": task.task_id,
            **self._function(task.pool),
            "state": task.state.value,
            "node": task.node_id,
            "node_name": names.get(task.node_id, task.node_id),
            "started_at": task.started_at,
            "inputs": task.load,
        }

    def _function(self, pool: Pool) -> dict[str, Any]:
        function = pool.function
        return {"app": function.app_id, "app_name": self._apps.title(function.app_id), "function": function.tag}

    def _schedule_list(self) -> list[dict[str, Any]]:
        return [
            {
                "function": scheduled.tag,
                "app": scheduled.app_id,
                "app_name": self._apps.title(scheduled.app_id),
                "schedule": str(scheduled.schedule),
                "next_at": scheduled.next_due if math.isfinite(scheduled.next_due) else None,
                "last_at": scheduled.last_due,
                "last_call_id": scheduled.last_call_id,
                "missed": scheduled.missed,
            }
            for scheduled in self._schedules.all()
        ]

    def _gpu(self, gpu: GpuState, names: Mapping[str, str]) -> dict[str, Any]:
        used_by: list[str] = []
        for holder in gpu.holders:
            task = self._tasks.get(holder)
            what = f"{self._apps.title(task.pool.function.app_id)}.{task.pool.function.tag}" if task is not None else "image build"
            used_by.append(f"{what} ({holder})")
        used = f"used {len(gpu.holders)}/{gpu.device.shares}" if gpu.device.shares > 1 else "used"
        return {
            "uuid": gpu.device.uuid,
            "kind": gpu.device.kind,
            "memory_mib": gpu.device.memory_mib,
            "node": gpu.node_id,
            "node_name": names.get(gpu.node_id, gpu.node_id),
            "state": f"failed: {gpu.problem}" if gpu.problem else used if gpu.holders else "free",
            "used": len(gpu.holders),
            "shares": gpu.device.shares,
            "used_by": ", ".join(used_by),
        }

    def _why(self, pool: Pool) -> str:
        if pool.why_waiting:
            return pool.why_waiting
        if pool.startup_failures:
            return f"its container failed to start {pool.startup_failures} times: {pool.last_failure}"
        if any(task.state is TaskState.STARTING for task in pool.tasks.values()):
            return "a container is starting"
        return "all of its containers are busy" if pool.tasks else "a container is about to be started"

    def metrics(self) -> str:
        """All numbers in Prometheus' exposition format."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at each scrape."""
        calls, inputs = self._calls.live_counts()
        yield CounterMetricFamily("pilotlight_inputs_accepted", "Inputs accepted since the start", value=self._calls.accepted_total)
        yield CounterMetricFamily(
            "pilotlight_inputs_finished", "Inputs with an output since the start", value=self._calls.finished_total
        )
        yield GaugeMetricFamily("pilotlight_calls_live", "Function calls held in memory", value=calls)
        yield GaugeMetricFamily("pilotlight_inputs_unfinished", "Inputs without an output", value=inputs)
        yield GaugeMetricFamily("pilotlight_nodes", "Connected nodes", value=len(self._nodes.all()))
        yield from self._gpu_metrics()
        yield GaugeMetricFamily("pilotlight_apps", "Apps that have not stopped", value=len(self._apps.all()))
        yield GaugeMetricFamily("pilotlight_image_builds", "Images being built", value=len(self._images.builds))
        containers = GaugeMetricFamily("pilotlight_containers", "Containers by state", labels=["state"])
        tasks = self._tasks.all()
        for state in TaskState:
            containers.add_metric([state.value], sum(task.state is state for task in tasks))
        yield containers
        yield CounterMetricFamily(
            "pilotlight_containers_refused",
            "Containers killed before they began, not being isolated as they should be",
            value=self._refusals.total,
        )
        starts = CounterMetricFamily("pilotlight_container_starts", "Containers started, by the way of their start", labels=["way"])
        for way, count in self._tasks.starts.items():
            starts.add_metric([way], count)
        yield starts
        yield GaugeMetricFamily(
            "pilotlight_templates",
            "Templates to fork containers from",
            value=sum(len(node.templates) for node in self._nodes.all()),
        )
        waiting = GaugeMetricFamily("pilotlight_inputs_waiting", "Inputs in the queue of a function", labels=["app", "function"])
        for pool in self._pools:
            waiting.add_metric([pool.function.app_id, pool.function.tag], pool.waiting)
        yield waiting
        crashing = sum(map(is_crash_loop, self._pools))
        yield GaugeMetricFamily(
            "pilotlight_functions_crashing", "Functions whose containers die one after the other", value=crashing
        )
        unplaced = GaugeMetricFamily("pilotlight_inputs_unplaced", "Inputs for which there is no room", labels=["app", "function"])
        for pool in self._pools:
            unplaced.add_metric([pool.function.app_id, pool.function.tag], pool.waiting if pool in self._pools.short else 0)
        yield unplaced
        failed = self._unplaced.failed_total
        yield CounterMetricFamily("pilotlight_inputs_unplaceable", "Inputs that failed since no node could run them", value=failed)
        yield CounterMetricFamily(
            "pilotlight_schedules_fired", "Calls that schedules made since the start", value=self._schedules.fired_total
        )
        yield CounterMetricFamily(
            "pilotlight_schedules_missed", "Due times that passed while the platform was down", value=self._schedules.missed_total
        )
        removed = CounterMetricFamily("pilotlight_garbage_removed", "What the sweeper removed since the start", labels=["kind"])
        freed = CounterMetricFamily("pilotlight_garbage_freed_bytes", "Bytes that this gave back", labels=["kind"])
        for kind, (count, size_bytes) in self._garbage.removed.items():
            removed.add_metric([kind], count)
            freed.add_metric([kind], size_bytes)
        yield from (removed, freed)
        yield CounterMetricFamily(
            "pilotlight_task_seconds", "Seconds of containers that have ended", value=self._tasks.ends.seconds_total
        )
        attempts = CounterMetricFamily("pilotlight_webhook_attempts", "Attempts at completion webhooks", labels=["outcome"])
        for outcome in OUTCOMES:
            attempts.add_metric([outcome], self._webhooks.outcomes[outcome])
        yield attempts
        yield GaugeMetricFamily(
            "pilotlight_webhook_deliveries_pending",
            "Webhook deliveries still to be made",
            value=self._webhooks.pending,
        )

    def _gpu_metrics(self) -> Iterable[Metric]:
        there = GaugeMetricFamily("pilotlight_gpus", "GPUs of the connected nodes", labels=["kind"])
        used = GaugeMetricFamily("pilotlight_gpus_used", "GPUs that somebody has", labels=["kind"])
        failed = GaugeMetricFamily("pilotlight_gpus_failed", "GPUs that nobody gets any more", labels=["kind"])
        gpus = self._nodes.gpus.all()
        for kind in sorted({gpu.device.kind for gpu in gpus}):
            mine = [gpu for gpu in gpus if gpu.device.kind == kind]
            there.add_metric([kind], len(mine))
            used.add_metric([kind], sum(bool(gpu.holders) for gpu in mine))
            failed.add_metric([kind], sum(bool(gpu.problem) for gpu in mine))
        yield from (there, used, failed)
        yield CounterMetricFamily(
            "pilotlight_gpu_failures", "GPUs that have failed since the start", value=self._nodes.gpus.failures_total
        )


def _state_name(state: int) -> str:
    """ "deployed", "ephemeral" …: upstream's names of app states, less their prefix."""
    return api_pb2.AppState.Name(state).removeprefix("APP_STATE_").lower()  # pyright: ignore[reportArgumentType]
