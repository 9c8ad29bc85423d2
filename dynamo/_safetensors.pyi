from typing import Any

from typing_extensions import Buffer

from dynamo._dtype import DType

def read_head(file: Buffer) -> tuple[list[tuple[str, DType, list[int], int, int]], dict[str, str]]: ...
def type_name(dtype: Any) -> str: ...
