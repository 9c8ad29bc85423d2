"""Every C status code has one exception, and the compatibility trees stand on dynamo.errors."""

import inspect

from dynamo import _errors, errors


def test_every_code_has_a_name_a_text_and_an_exception():
    rows = _errors.table()
    assert len(rows) >= 22
    for code, name, text, exception in rows:
        assert code < 0 and name.startswith("E") and text
        assert issubclass(exception, Exception)


def test_every_dynamo_error_that_has_a_builtin_twin_is_caught_by_it():
    twins = {
        "InvalidArgument": ValueError,
        "NotFound": LookupError,
        "ConnectionFailed": ConnectionError,
        "StreamBroken": ConnectionError,
        "RequestTimeout": TimeoutError,
        "RemoteError": RuntimeError,
        "OutOfSpace": OSError,
    }
    for name, builtin in twins.items():
        assert issubclass(getattr(errors, name), builtin)


def test_all_public_errors_are_dynamo_errors():
    for name in errors.__all__:
        value = getattr(errors, name)
        assert inspect.isclass(value) and issubclass(value, errors.DynamoError)
