"""The version of LangGraph whose interface this is."""

__all__ = ("__version__",)

__version__ = "1.2.22"
