from dynamo._dtype import DType as DType
from dynamo._tensor import Tensor as Tensor
from dynamo._tensor import TensorMeta as TensorMeta
from dynamo._tensor import TensorReader as TensorReader
