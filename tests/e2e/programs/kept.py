"""An app that a backup keeps: `python kept.py begin` uses it, `python kept.py again CALL` finds all of it."""

import sys

import modal

app = modal.App("kept")
volume = modal.Volume.from_name("kept", create_if_missing=True)
LARGE = b"large" * (1 << 20)


@app.function(secrets=[modal.Secret.from_name("kept-secret")], volumes={"/kept": volume})
def look(text: str) -> tuple[str, str]:
    """The secret, and what the volume had; then it has the text."""
    import os
    from pathlib import Path

    file = Path("/kept/file")
    before = file.read_text() if file.exists() else ""
    file.write_text(text)
    volume.commit()
    return os.environ["PASSWORD"], before


@app.function()
def large() -> bytes:
    return b"large" * (1 << 20)


def begin() -> None:
    password, _ = modal.Function.from_name("kept", "look").remote("first")
    assert password == "hunter2"
    call = modal.Function.from_name("kept", "large").spawn()
    assert call.get() == LARGE
    print(f"call {call.object_id}")


def again(call_id: str) -> None:
    assert modal.FunctionCall.from_id(call_id).get(timeout=60) == LARGE
    assert modal.Function.from_name("kept", "look").remote("second") == ("hunter2", "first")
    print("all is there")


if __name__ == "__main__":
    begin() if sys.argv[1] == "begin" else again(sys.argv[2])
