from typing import Any, final

@final
class Pieces:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
