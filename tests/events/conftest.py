"""Makes `wire`, what the tests of this folder share, importable under --import-mode=importlib."""

import importlib.util
import pathlib
import sys

if "wire" not in sys.modules:
    spec = importlib.util.spec_from_file_location("wire", pathlib.Path(__file__).with_name("wire.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["wire"] = module
    spec.loader.exec_module(module)
