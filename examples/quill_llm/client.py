"""Asks the server beside it: an embedding in one call, then a text as a stream."""

import argparse
import json

import numpy as np

from dynamo import quill

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url", nargs="?", default="http://localhost:8080")
parser.add_argument("--prompt", default="Tell me about otters.")
args = parser.parse_args()

client = quill.QuillClient(args.url, timeout_ms=60000, enable_compression=True)
client.set_bearer_token("my-token")

x = quill.Tensor.from_numpy(np.random.randn(1, 768).astype(np.float32), name="embedding")
request = {"embedding": x.to_numpy().flatten().tolist(), "max_tokens": 50}
r = client.call_json("inference.v1.LLMService", "Generate", request)
for t in r.get("tokens", []):
    print(t.get("text", ""), end="")
print()

client.set_header("Content-Type", "application/json")
message = json.dumps({"prompt": args.prompt, "max_tokens": 20}).encode()
for item in client.call_stream("inference.v1.LLMService", "Batches", message):
    print(quill.TokenBatch.decode(item).text(), end="", flush=True)
print()
