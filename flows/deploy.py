"""One Prefect deployment per pipeline in pipelines.yaml, served by this process: `python -m flows.deploy`."""

from flows.environment import apply_defaults

apply_defaults()

from prefect import serve  # noqa: E402  (environment first)
from prefect.deployments.runner import RunnerDeployment  # noqa: E402

from flows.pipeline import vit_pipeline  # noqa: E402
from flows.stages.config import load, names  # noqa: E402


def deployment(pipeline: str) -> RunnerDeployment:
    """The deployment of a pipeline, with its parameters filled in and its description from pipelines.yaml."""
    found = vit_pipeline.to_deployment(
        name=pipeline,
        parameters={"pipeline": pipeline, "overrides": []},
        description=load(pipeline).deploy.description,
        tags=["vitflow"],
        concurrency_limit=1,  # two runs of one pipeline would write the same outputs
    )
    assert isinstance(found, RunnerDeployment)  # a coroutine only inside an event loop
    return found


if __name__ == "__main__":
    serve(*(deployment(name) for name in names()), pause_on_shutdown=False)
