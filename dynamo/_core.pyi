from dynamo.llm import *
from dynamo.runtime import *
