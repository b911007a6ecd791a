from typing import Any

class Expression:
    def __eq__(self, other: object) -> Expression: ...  # type: ignore[override]

def field(*name_or_index: str | int) -> Expression: ...
def __getattr__(name: str) -> Any: ...
