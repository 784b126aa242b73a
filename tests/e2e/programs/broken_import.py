"""A program whose module can't be imported in its container."""

import modal

app = modal.App("broken-import")

if not modal.is_local():
    import module_that_is_not_there  # noqa: F401


@app.function()
def never() -> None: ...


def check_the_import_error_arrives() -> None:
    for call in (never.remote, lambda: never.spawn().get(), lambda: list(never.starmap([()]))):
        try:
            call()
        except ModuleNotFoundError as error:
            assert "module_that_is_not_there" in str(error)
        else:
            raise AssertionError("it ran")
