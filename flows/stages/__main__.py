"""The door that dvc.yaml knocks on: `python -m flows.stages STAGE PIPELINE`.

Reads and writes the directories that dvc.yaml tracks (runs/PIPELINE/STAGE) and ends with the process that
started it: killing `dvc` would otherwise leave a trainer behind, writing beside the next one.
"""

import argparse
import logging
import os
import sys
import threading
import time
from typing import Any

import psutil

from flows.environment import apply_defaults

SHELLS = {"sh", "bash", "dash", "zsh"}
logger = logging.getLogger("vitflow")


def main() -> int:
    end_with_parent()  # before the imports: they take seconds, in which the parent may die
    apply_defaults()
    from flows.adapters import ray_cluster
    from flows.stages import config as pipelines
    from flows.stages.execute import Run, execute

    parser = argparse.ArgumentParser(prog="python -m flows.stages", description=__doc__)
    parser.add_argument("stage", choices=pipelines.STAGES)
    parser.add_argument("pipeline")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        run = Run.of(arguments.pipeline)
        with run.only_one(arguments.stage):
            execute(run, arguments.stage, listeners=(show,))
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
        print(f"{arguments.stage}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:  # SIGTERM, once the state is saved, or Ctrl-C
        print(f"{arguments.stage}: ended before it was done. {error}", file=sys.stderr)
        return 143
    finally:
        ray_cluster.stop()
    return 0


def show(progress: Any) -> None:
    """One line for each report."""
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
    print(f"{progress.stage} {progress.step}/{progress.total}  {numbers}", flush=True)


def end_with_parent() -> None:
    """Stop this process within two seconds of the end of the one that started it (behind any shells)."""
    starter = psutil.Process().parent()
    while starter is not None and starter.name() in SHELLS:
        starter = starter.parent()
    if starter is None:
        return
    parent = os.getppid()

    def watch() -> None:
        while starter.is_running() and starter.status() != psutil.STATUS_ZOMBIE and os.getppid() == parent:
            time.sleep(1)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(143)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


if __name__ == "__main__":
    sys.exit(main())
