from dynamo.replay.simulate import Comparison as Comparison
from dynamo.replay.simulate import Result as Result
from dynamo.replay.simulate import compare as compare
from dynamo.replay.simulate import run as run
from dynamo.replay.trace import Trace as Trace
from dynamo.replay.trace import load_trace as load_trace
from dynamo.replay.trace import synthetic_trace as synthetic_trace
