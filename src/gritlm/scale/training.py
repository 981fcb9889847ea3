"""Training on the machines of a cluster: Ray Train starts the processes that torchrun would."""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from gritlm.errors import GritLMError, InputError, TrainingError, one_line
from gritlm.scale.cluster import connected
from gritlm.train.config import TrainConfig
from gritlm.train.run.signals import StopSignal, listening

if TYPE_CHECKING:
    from gritlm.train.trainer import TrainResult

log = logging.getLogger(__name__)

_POLL_S = 0.3
_MAX_LINES = 10_000  # lines of a run that wait for the driver


@dataclass(frozen=True)
class Workers:
    """Processes of a run.

    Attributes:
        count: number of processes.
        gpu: whether each one has a GPU; None for a GPU on a cluster that has one for each.
        cpus: cores of each one, and its number of threads.

    Raises:
        InputError: for a value out of range.
    """

    count: int = 1
    gpu: bool | None = None
    cpus: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "cpus"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; expected 1 or more")


class RunChannel:
    """Actor between the driver and the processes of a run: log lines, stop signal, result."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._stopped = False
        self._result: TrainResult | None = None
        self._errors: list[GritLMError] = []

    def note(self, line: str) -> None:
        """Keep a log line for the driver."""
        if len(self._lines) < _MAX_LINES:
            self._lines.append(line)

    def take_lines(self) -> list[str]:
        """Return the log lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def stop(self) -> None:
        """Ask the processes to end after the current step."""
        self._stopped = True

    def is_stopped(self) -> bool:
        """Return whether the processes should end."""
        return self._stopped

    def finish(self, result: TrainResult) -> None:
        """Keep the result of the run."""
        self._result = result

    def fail(self, error: GritLMError) -> None:
        """Keep the error of a process."""
        self._errors.append(error)

    def outcome(self) -> tuple[TrainResult | None, list[GritLMError]]:
        """Return the result, and the errors of the processes in their order."""
        return self._result, self._errors


def train(
    run: TrainConfig,
    workers: Workers = Workers(),
    *,
    address: str | None = None,
    report: Callable[[str], None] = log.info,
) -> TrainResult:
    """Train a model in processes on a cluster, with the losses that torchrun gives.

    SIGINT or SIGTERM ends the run after the current step, with a checkpoint.

    Args:
        run: settings of the run. Its files have the same paths on every machine.
        workers: number and devices of the processes.
        address: address of the cluster; None for this machine alone.
        report: callback for log lines.

    Returns:
        The result of the first process.

    Raises:
        ClusterError: for a cluster that cannot be reached, or that has too few devices.
        InputError: for invalid data or settings.
        TrainingError: for a process that has ended.
    """
    with connected(address):
        import ray

        workers = _with_devices(workers, run)
        channel: Any = ray.remote(num_cpus=0)(RunChannel).remote()
        fitting = _Fit(run, workers, channel)
        with listening() as stop:
            told = False
            while fitting.is_alive():
                if stop.asked and not told:
                    told = True
                    ray.get(channel.stop.remote())
                _report(channel, report)
                fitting.join(_POLL_S)
        _report(channel, report)
        result, errors = ray.get(channel.outcome.remote())
    if errors:
        raise _first_cause(errors)
    if fitting.error is not None or result is None:
        reason = one_line(fitting.error or "no process reported a result", limit=300)
        raise TrainingError(f"a process of the run has ended: {reason}; look at the logs of Ray")
    return result


class _Fit(threading.Thread):
    """Thread that runs Ray Train, so that the main thread can take signals.

    Attributes:
        error: the error of Ray Train; None for none.
    """

    def __init__(self, run: TrainConfig, workers: Workers, channel: Any) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._run_settings = run
        self._workers = workers
        self._channel = channel
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        run = self._run_settings
        output = Path(run.training.output_dir).resolve()
        storage = output.parent / f".{output.name}-{uuid4().hex[:8]}"  # files of Ray Train itself
        workers = self._workers
        resources = {"CPU": workers.cpus, **({"GPU": 1} if workers.gpu else {})}
        try:
            TorchTrainer(
                run_process,
                train_loop_config={"run": run, "channel": self._channel, "folder": str(Path.cwd())},
                torch_config=TorchConfig(timeout_s=math.ceil(run.training.timeout_s)),
                scaling_config=ScalingConfig(
                    num_workers=workers.count,
                    use_gpu=bool(workers.gpu),
                    resources_per_worker=resources,
                ),
                run_config=RunConfig(
                    name="run",
                    storage_path=str(storage),
                    failure_config=FailureConfig(max_failures=0),
                ),
            ).fit()
        except Exception as error:
            self.error = error
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def run_process(settings: dict[str, Any]) -> None:
    """Train in one process, which Ray Train has joined to the others.

    Args:
        settings: ``run``, the run; ``channel``, its channel; ``folder``, where the driver runs.
    """
    import ray
    from ray.train import get_context

    from gritlm.train.trainer import train as train_here

    if Path(settings["folder"]).is_dir():
        os.chdir(settings["folder"])  # paths of the run may be relative
    channel = settings["channel"]
    is_first = get_context().get_world_rank() == 0
    stop = StopSignal()
    if is_first:
        threading.Thread(target=_watch, args=(channel, stop), daemon=True).start()
    try:
        result = train_here(
            settings["run"],
            report=lambda line: channel.note.remote(line),
            progress=False,
            stop=stop,
        )
    except GritLMError as error:
        ray.get(channel.fail.remote(error))
        raise
    if is_first:
        ray.get(channel.finish.remote(result))


def _watch(channel: Any, stop: StopSignal) -> None:
    """Set the stop signal of this process once the driver asks for it."""
    import ray

    while not stop.asked:
        time.sleep(_POLL_S)
        stop.asked = ray.get(channel.is_stopped.remote())


def _report(channel: Any, report: Callable[[str], None]) -> None:
    import ray

    for line in ray.get(channel.take_lines.remote()):
        report(line)


def _first_cause(errors: list[GritLMError]) -> GritLMError:
    """Return the error that ended the run, not one of a process that waited for another."""
    return next((each for each in errors if not isinstance(each, TrainingError)), errors[0])


def _with_devices(workers: Workers, run: TrainConfig) -> Workers:
    """Return the processes with their devices; Ray Train would wait for missing ones forever.

    Raises:
        InputError: for a cluster with fewer devices, with both numbers.
    """
    import ray

    have = ray.cluster_resources()
    if workers.gpu is None:
        has_gpus = have.get("GPU", 0) >= workers.count
        workers = replace(workers, gpu=has_gpus and run.training.device != "cpu")
    needed = {"CPU": workers.count * workers.cpus, "GPU": workers.count * bool(workers.gpu)}
    for name, number in needed.items():
        if number > have.get(name, 0):
            raise InputError(
                f"{workers.count} workers need {number} {name}s, the cluster has "
                f"{have.get(name, 0):g}; start fewer workers, or add machines"
            )
    return workers
