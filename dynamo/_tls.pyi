import os
from typing import final

from typing_extensions import Self

@final
class TlsContext:
    def __new__(
        cls,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        password: str | bytes | None = None,
        server: bool = False,
        need_client_certificate: bool = False,
        trust_anyone: bool = False,
        tls_1_3_only: bool = False,
    ) -> Self: ...
