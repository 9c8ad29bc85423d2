from dynamo.frontend.errors import ApiError as ApiError
from dynamo.frontend.run import run_frontend as run_frontend
from dynamo.frontend.service import Frontend as Frontend
from dynamo.frontend.settings import Settings as Settings
