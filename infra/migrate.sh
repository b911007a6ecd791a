#!/bin/sh
# Brings the databases of Prefect and MLflow to the installed versions; does nothing if they are there. Before an upgrade
# of either: a backup.
set -eu
prefect server database upgrade --yes
# An empty database gets its tables at first use; one of an older version refuses to be used, and is upgraded.
python -c 'import mlflow, os; mlflow.MlflowClient(os.environ["MLFLOW_BACKEND_STORE_URI"]).search_experiments(max_results=1)' \
  || echo "MLflow's database is of another version; upgrading"
mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
