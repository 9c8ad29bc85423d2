"""Warnings for what is going to be removed."""

from dynamo.langgraph._internal._names import own

__all__ = (
    "LangGraphDeprecatedSinceV05",
    "LangGraphDeprecatedSinceV10",
    "LangGraphDeprecatedSinceV11",
    "LangGraphDeprecationWarning",
)


class LangGraphDeprecationWarning(DeprecationWarning):
    """Says since which version something is discouraged, and in which it goes.

    Without `expected_removal` that is the next but one major version.
    """

    message: str
    since: tuple[int, int]
    expected_removal: tuple[int, int]

    def __init__(
        self, message: str, *args: object, since: tuple[int, int], expected_removal: tuple[int, int] | None = None
    ) -> None:
        DeprecationWarning.__init__(self, message, *args)
        gone = expected_removal or (since[0] + 1, 0)
        self.message, self.since, self.expected_removal = message.rstrip("."), since, gone

    def __str__(self) -> str:
        (major, minor), (gone, gone_minor) = self.since, self.expected_removal
        return f"{self.message}. Deprecated in LangGraph V{major}.{minor} to be removed in V{gone}.{gone_minor}."


class LangGraphDeprecatedSinceV05(LangGraphDeprecationWarning):
    """Discouraged since version 0.5."""

    def __init__(self, message: str, *args: object) -> None:
        super().__init__(message, *args, expected_removal=(2, 0), since=(0, 5))


class LangGraphDeprecatedSinceV10(LangGraphDeprecationWarning):
    """Discouraged since version 1.0."""

    def __init__(self, message: str, *args: object) -> None:
        super().__init__(message, *args, expected_removal=(2, 0), since=(1, 0))


class LangGraphDeprecatedSinceV11(LangGraphDeprecationWarning):
    """Discouraged since version 1.1."""

    def __init__(self, message: str, *args: object) -> None:
        super().__init__(message, *args, expected_removal=(3, 0), since=(1, 1))


own(globals())
