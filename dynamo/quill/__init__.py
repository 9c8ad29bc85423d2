"""Tensors, tokens and typed RPC.

>>> from dynamo import quill
>>> quill.Tensor([1.0, 2.0, 3.0], name="w")
Tensor(name='w', shape=[3], dtype=float32)

Every name is imported when it is first used.
"""

from dynamo import _lazy

# name -> the module that has it; one line each, kept in the order of the modules
_TABLE: dict[str, str] = {
    "DType": "dynamo._dtype",
    "Tensor": "dynamo._tensor",
    "TensorMeta": "dynamo._tensor",
    "TensorReader": "dynamo._tensor",
    "GpuStatus": "dynamo.quill.device",
    "TensorBuffer": "dynamo.quill.device",
    "TensorFile": "dynamo.quill.safetensors",
    "load_tensors": "dynamo.quill.safetensors",
    "save_tensors": "dynamo.quill.safetensors",
    "decode_tensor_chunk": "dynamo.quill.tensor_frames",
    "encode_tensor_chunk": "dynamo.quill.tensor_frames",
    "encode_tensor_frame": "dynamo.quill.tensor_frames",
    "convert": "dynamo._plugin",
    "Token": "dynamo._token",
    "TokenBatch": "dynamo._token_batch",
    "ByteCredits": "dynamo._frames",
    "FrameReader": "dynamo._frames",
    "MessageCredits": "dynamo._frames",
    "decode_frame": "dynamo._frames",
    "decode_varint": "dynamo._frames",
    "encode_frame": "dynamo._frames",
    "encode_varint": "dynamo._frames",
    "RequestStream": "dynamo._quill_stream",
    "TlsContext": "dynamo._tls",
    "QuillClient": "dynamo.quill.client",
    "DeadlineExceeded": "dynamo.quill.problem",
    "RpcError": "dynamo.quill.problem",
    "QuillServer": "dynamo.quill.server",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
