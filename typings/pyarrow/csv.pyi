from pathlib import Path
from typing import Any

from pyarrow import Table

def write_csv(data: Table, output_file: Path) -> None: ...
def __getattr__(name: str) -> Any: ...
