"""All rows, by number."""

from tests.faults import (
    rows_checkpoints,
    rows_data,
    rows_dvc,
    rows_hostile,
    rows_processes,
    rows_registry,
    rows_servers,
    rows_shards,
    rows_storage,
)

MODULES = (
    *(rows_processes, rows_checkpoints, rows_data, rows_storage, rows_dvc, rows_registry, rows_hostile),
    *(rows_servers, rows_shards),
)
ROWS = sorted((row for module in MODULES for row in module.ROWS), key=lambda row: row.number)
