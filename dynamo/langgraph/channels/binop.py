"""A channel that folds what is written into its value."""

from dynamo._channels import BinaryOperatorAggregate
from dynamo._channels import get_overwrite as _get_overwrite
from dynamo._channels import operators_equal as _operators_equal
from dynamo._channels import strip_extras as _strip_extras
from dynamo.langgraph.channels.base import MISSING, Value

__all__ = ("MISSING", "BinaryOperatorAggregate", "Value", "_get_overwrite", "_operators_equal", "_strip_extras")
