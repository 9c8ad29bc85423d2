from setuptools import Extension, setup

import dynamo

# Nothing is linked: the functions come from the table in dynamo._core._C_API.
setup(name="sticky", ext_modules=[Extension("sticky", ["sticky.c"], include_dirs=[dynamo.get_include()])])
